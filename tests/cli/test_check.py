"""cmpd check on doors: what it says of each, and what would keep one from being opened."""

import asyncio
import logging
import re
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.cli import check
from cmpd.cli.check import Findings, examine
from cmpd.cli.cmpd import main
from cmpd.config import load
from cmpd.env import Env
from cmpd.signing.file import encrypted_pem
from cmpd.transport.admission import Admission
from cmpd.transport.listener import Listener

NOW = 1_800_000_000
TLS = 'tls_certificate = "tls.pem"\ntls_key = "tls.key"\n'


def configure(ca: Path, text: str, *, tcp: str = "127.0.0.1:0") -> None:
    """Put `text` in place of all doors but one [[tcp]]."""
    path = ca / "cmpd.toml"
    doors = f'[[tcp]]\nlisten = "{tcp}"\n\n{text}\n'
    whole, count = re.subn(r"^\[\[tcp\]\]$.*?(?=^\[protection\])", lambda _: doors, path.read_text(), flags=re.M | re.S)
    assert count == 1
    path.write_text(whole)


def found(ca: Path, at: int | None = None) -> Findings:
    return examine(load(ca / "cmpd.toml"), Env() if at is None else Env(now=lambda: at))


def make_tls(ca: Path, name: str = "tls", *, passphrase: bytes | None = None) -> None:
    """NAME.pem and NAME.key, valid for 60 days round NOW."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.fromtimestamp(NOW, UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=60))
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (ca / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (ca / f"{name}.key").write_bytes(plain if passphrase is None else encrypted_pem(key, passphrase, Env()))
    (ca / f"{name}.key").chmod(0o600 if passphrase is None else 0o644)


# --- what it says ----------------------------------------------------------------------------------------------------


def test_every_door_is_named_with_what_it_opens(ca: Path, capsys: pytest.CaptureFixture[str]):
    make_tls(ca)
    (ca / "spool").mkdir()
    configure(
        ca,
        f'[[tcp]]\nlisten = "systemd"\n[[tcp]]\nlisten = "systemd:cmp-tls"\n{TLS}'
        f'[[http]]\nlisten = "[::1]:0"\n[[http]]\nlisten = "127.0.0.1:0"\n{TLS}tls_client = "required"\n'
        f'tls_authenticates = true\n[[http]]\nlisten = "10.0.0.1:80"\nenabled = false\n'
        f'[[spool]]\ndirectory = "spool"\n[[spool]]\ndirectory = "gone"\nenabled = false\n'
        f"[local]\nenabled = false\n",
    )
    text = (ca / "cmpd.toml").read_text().replace("\n[publish]\n", '\n[publish]\nlisten = "127.0.0.1:0"\n')
    (ca / "cmpd.toml").write_text(text)
    assert main(["check", "--config", str(ca / "cmpd.toml")], Env(now=lambda: NOW)) == 0
    until = "certificate until 2027-03-16T08:00:00Z"
    assert capsys.readouterr().out.splitlines() == [
        "tcp[0]: raw TCP on 127.0.0.1:0",
        "tcp[1]: raw TCP on the sockets of systemd (cmpd.socket) that no other door names",
        f"tcp[2]: TLS on the socket of systemd with FileDescriptorName=cmp-tls, {until}",
        "http[0]: HTTP on [::1]:0",
        f"http[1]: HTTPS on 127.0.0.1:0, {until}, client certificates required, who need no other protection",
        "http[2]: closed (enabled = false)",
        f"spool[0]: files in {ca}/spool",
        "spool[1]: closed (enabled = false)",
        "local: closed (enabled = false)",
        "publish: HTTP on 127.0.0.1:0, for CRLs, OCSP and CA certificates",
        "ok",
    ]


def test_doors_are_shown_although_one_is_wrong(ca: Path, capsys: pytest.CaptureFixture[str]):
    configure(ca, '[[spool]]\ndirectory = "none"')
    assert main(["check", "--config", str(ca / "cmpd.toml")]) == 1
    captured = capsys.readouterr()
    assert "tcp[0]: raw TCP on 127.0.0.1:0\n" in captured.out
    assert "ok" not in captured.out.splitlines()
    assert captured.err == f"cmpd: spool[0].directory: there is no directory {ca}/none\n"


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1:8829", "0.0.0.0:8829", True),
        ("0.0.0.0:8829", "127.0.0.1:8829", True),
        ("[::]:8829", "[::1]:8829", True),
        ("[::1]:8829", "[0:0::0001]:8829", True),
        ("localhost:8829", "127.0.0.1:8829", True),
        ("0.0.0.0:8829", "[::]:8829", False),
        ("127.0.0.1:8829", "[::1]:8829", False),
        ("127.0.0.1:8829", "127.0.0.2:8829", False),
        ("127.0.0.1:8829", "0.0.0.0:8830", False),
        ("0.0.0.0:0", "127.0.0.1:0", False),
        ("systemd", "systemd:http", False),
    ],
)
def test_addresses_of_which_one_takes_the_other_clash(ca: Path, one: str, other: str, clash: bool):
    configure(ca, f'[[http]]\nlisten = "{other}"', tcp=one)
    wanted = ["http[0].listen: is the same place as tcp[0].listen: one of them can be opened alone"]
    assert found(ca).mistakes == (wanted if clash else [])


@pytest.mark.parametrize(("one", "other"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "::"), ("::1", "::"), ("::", "::1")])
def test_the_system_agrees_about_clashes(one: str, other: str):
    """As asyncio opens them: what is on :: takes no IPv4."""

    def listening(host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, dualstack_ipv6=False)

    with listening(one, 0) as first:
        port = first.getsockname()[1]
        places = [check._Place(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port) for host in (one, other)]
        if places[0].clashes(places[1]):
            with pytest.raises(OSError, match="in use"):
                listening(other, port)
        else:
            listening(other, port).close()


def test_what_is_published_needs_a_place_of_its_own(ca: Path):
    configure(ca, "", tcp="127.0.0.1:8829")
    path = ca / "cmpd.toml"
    path.write_text(path.read_text().replace("\n[publish]\n", '\n[publish]\nlisten = "127.0.0.1:8829"\n'))
    assert found(ca).mistakes == ["publish.listen: is the same place as tcp[0].listen: one of them can be opened alone"]


def test_a_closed_door_takes_no_place_and_its_files_do_not_matter(ca: Path):
    closed = "enabled = false\n"
    text = f'[[http]]\nlisten = "127.0.0.1:8829"\n{closed}{TLS}[[spool]]\ndirectory = "none"\n{closed}'
    configure(ca, f'{text}[local]\nsocket = "/nowhere/x"\n{closed}', tcp="127.0.0.1:8829")
    assert found(ca).mistakes == []


def test_a_host_that_does_not_exist_is_a_mistake(ca: Path, monkeypatch: pytest.MonkeyPatch):
    def no_such_host(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(check.socket, "getaddrinfo", no_such_host)
    configure(ca, "", tcp="cmp.example.com:829")
    assert found(ca).mistakes == [
        "tcp[0].listen: cmp.example.com is no address of this machine: Name or service not known"
    ]


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["tcp", "http"])
def test_a_door_with_tls_is_good_when_its_files_fit(ca: Path, table: str):
    make_tls(ca, passphrase=(ca / "private/passphrase").read_bytes().strip())
    make_tls(ca, "clients")
    more = 'tls_client = "optional"\ntls_client_ca = "clients.pem"\n'
    configure(ca, f'[[{table}]]\nlisten = "127.0.0.1:0"\n{TLS}{more}')
    seen = found(ca, NOW)
    assert (seen.mistakes, seen.notes) == ([], [])
    assert any(line.endswith("until 2027-03-16T08:00:00Z, client certificates optional") for line in seen.doors)


@pytest.mark.parametrize(
    ("file", "source", "wanted"),
    [
        ("tls.key", "other.key", "http[0]: key {ca}/tls.key: is not the key of the first certificate in {ca}/tls.pem"),
        ("tls.key", "tls.pem", "http[0]: key {ca}/tls.key: cannot be opened, wrong passphrase or no private key"),
        ("tls.key", "locked.key", "http[0]: key {ca}/tls.key: cannot be opened, wrong passphrase or no private key"),
        ("tls.key", None, "http[0]: key {ca}/tls.key: cannot be read: No such file or directory"),
        ("tls.pem", "tls.key", "http[0]: certificate {ca}/tls.pem: "),
        ("tls.pem", None, "http[0]: certificate {ca}/tls.pem: cannot be read: No such file or directory"),
        ("other.pem", None, "http[0]: certificate {ca}/other.pem: cannot be read: No such file or directory"),
        ("other.pem", "tls.key", "http[0]: certificate {ca}/other.pem: "),
    ],
)
def test_tls_files_that_do_not_fit_are_one_mistake(ca: Path, file: str, source: str | None, wanted: str):
    make_tls(ca)
    make_tls(ca, "other")
    make_tls(ca, "locked", passphrase=b"another")
    if source is None:
        (ca / file).unlink()
    else:
        (ca / file).write_bytes((ca / source).read_bytes())
    more = 'tls_client = "required"\ntls_client_ca = "other.pem"\n'
    configure(ca, f'[[http]]\nlisten = "127.0.0.1:0"\n{TLS}{more}')
    (line,) = found(ca, NOW).mistakes
    assert line.startswith(wanted.format(ca=ca))


@pytest.mark.parametrize(
    ("days", "mistakes", "notes"),
    [(-31, 2, 0), (-29, 0, 0), (29, 0, 0), (31, 0, 2), (59, 0, 2), (61, 2, 0)],
)
def test_check_looks_at_the_validity_of_tls_certificates(ca: Path, days: int, mistakes: int, notes: int):
    make_tls(ca)
    make_tls(ca, "clients")
    more = 'tls_client = "required"\ntls_client_ca = "clients.pem"\n'
    configure(ca, f'[[http]]\nlisten = "127.0.0.1:0"\n{TLS}{more}')
    seen = found(ca, NOW + days * 86400)
    lines = [line for line in (*seen.mistakes, *seen.notes) if line.startswith("http")]
    assert len([line for line in seen.mistakes if line in lines]) == mistakes
    assert len([line for line in seen.notes if line in lines]) == notes
    if lines:
        first, second = lines
        assert first.startswith(f"http[0].tls_certificate: {ca}/tls.pem: CN=tls ")
        assert second.startswith(f"http[0].tls_client_ca: {ca}/clients.pem: CN=clients ")
        assert all("2027-03-16T08:00:00Z" in line for line in lines)


# --- directories -----------------------------------------------------------------------------------------------------


def test_a_spool_directory_must_be_writable(ca: Path, monkeypatch: pytest.MonkeyPatch):
    (ca / "spool").mkdir()
    configure(ca, '[[spool]]\ndirectory = "spool"')
    assert found(ca).mistakes == []
    monkeypatch.setattr(check.os, "access", lambda path, mode: path != ca / "spool")  # for root everything is writable
    assert found(ca).mistakes == [f"spool[0].directory: {ca}/spool cannot be written by this user"]


def test_two_spools_have_two_directories(ca: Path):
    (ca / "spool").mkdir()
    (ca / "same").symlink_to("spool")
    configure(ca, '[[spool]]\ndirectory = "spool"\n[[spool]]\ndirectory = "same"')
    assert found(ca).mistakes == ["spool[1].directory: is that of spool[0] too: one of them has to have another one"]


@pytest.mark.parametrize("directory", [".", "private"])
def test_a_spool_directory_has_nothing_of_the_servers_own(ca: Path, directory: str):
    configure(ca, f'[[spool]]\ndirectory = "{directory}"\n')
    [mistake] = found(ca).mistakes
    assert re.fullmatch(r"spool\[0\]\.directory: .* has files of the server itself: want a directory .*", mistake)


@pytest.mark.parametrize(("mode", "notes"), [(0o700, 0), (0o2770, 0), (0o775, 0), (0o777, 1), (0o1777, 0)])
def test_a_spool_directory_that_is_open_to_all_is_noted(ca: Path, mode: int, notes: int):
    (ca / "spool").mkdir()
    (ca / "spool").chmod(mode)
    configure(ca, '[[spool]]\ndirectory = "spool"\n')
    seen = found(ca)
    assert (seen.mistakes, len(seen.notes)) == ([], notes)
    assert all("can replace the requests and replies" in note for note in seen.notes)


@pytest.mark.parametrize(("mode", "sealed", "notes"), [(0o640, False, 0), (0o644, False, 1), (0o644, True, 0)])
def test_a_tls_key_that_others_can_read_is_noted(ca: Path, mode: int, sealed: bool, notes: int):
    make_tls(ca, passphrase=(ca / "private" / "passphrase").read_bytes().strip() if sealed else None)
    (ca / "tls.key").chmod(mode)
    configure(ca, f'[[http]]\nlisten = "127.0.0.1:0"\n{TLS}')
    seen = found(ca, NOW)
    assert (seen.mistakes, len(seen.notes)) == ([], notes)
    assert all("chmod 600" in note for note in seen.notes)


def test_the_directory_of_the_local_socket_must_be_there(ca: Path):
    configure(ca, '[local]\nsocket = "none/cmpd.sock"')
    assert found(ca).mistakes == [f"local.socket: there is no directory {ca}/none"]
    (ca / "none").mkdir()
    assert found(ca).mistakes == []


def test_a_directory_that_the_unit_makes_may_be_missing(ca: Path):
    configure(ca, '[local]\nsocket = "/run/cmpd-that-is-not-there/cmpd.sock"')
    seen = found(ca)
    assert seen.mistakes == []
    assert seen.notes == [
        "local.socket: there is no directory /run/cmpd-that-is-not-there now; a unit makes it when it starts"
    ]


def test_where_the_local_socket_goes_is_nothing_but_a_socket(ca: Path):
    configure(ca, "")
    (ca / "cmpd.db.sock").touch()
    assert found(ca).mistakes == [f"local.socket: {ca}/cmpd.db.sock is there already and no socket"]
    (ca / "cmpd.db.sock").unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(ca / "cmpd.db.sock"))
        assert found(ca).mistakes == []


@pytest.mark.parametrize(("octets", "good"), [(80, True), (81, False)])
async def test_the_name_of_the_local_socket_has_its_length(tmp_path: Path, pristine: Path, octets: int, good: bool):
    ca = Path(shutil.copytree(pristine, tmp_path / ("d" * 200) / "ca"))
    configure(ca, f'[local]\nsocket = "{"s" * octets}"')
    if good:
        assert found(ca).mistakes == []
        admission = Admission(1, 1, clock=lambda: 0.0, log=logging.getLogger())
        listener = Listener(asyncio.Protocol, admission)
        await listener.start([ca / ("s" * octets)])
        assert (ca / ("s" * octets)).is_socket()
        listener.close()
    else:
        assert found(ca).mistakes == [
            f"local.socket: {ca}/{'s' * octets}: want a name of at most 80 octets; set another one"
        ]
