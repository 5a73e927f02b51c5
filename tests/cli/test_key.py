"""cmpd key add: a key and its certificate for a CA that exists, never over what is there, and good for the daemon."""

import asyncio
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519

from cmpd import install
from cmpd.asn1.names import name_text
from cmpd.cli.check import SOON, examine
from cmpd.cli.cmpd import main
from cmpd.config import load
from cmpd.daemon import assemble, reserved_names
from cmpd.env import Env
from cmpd.install import ADDABLE, Plan, make_root, make_subordinate
from cmpd.outline import outline
from cmpd.public_keys import ENCRYPTION_IDENTIFIERS
from cmpd.records import CertificateState
from cmpd.signing.file import read_certificates
from tests.cli.conftest import Run
from tests.support import Installation, needs_openssl
from tests.test_install import lint

WRITTEN = {
    purpose: [f'{purpose}_certificate = "{purpose}.pem"', f'{purpose}_key = "private/{purpose}.key.pem"']
    for purpose in ("agreement", "kem")
}
FACTS = {  # role, keyUsage
    "agreement": ("agreement", "key_agreement"),
    "kem": ("KEM", "key_encipherment"),
}


def configure(ca: Path, *purposes: str) -> None:
    """Do what the command said: two lines for each."""
    text = (ca / "cmpd.toml").read_text()
    for purpose in purposes:
        for line in WRITTEN[purpose]:
            text, count = re.subn(rf"^# Example: {line.partition(' ')[0]} = .*$", line, text, flags=re.M)
            assert count == 1
    (ca / "cmpd.toml").write_text(text)


def files(ca: Path) -> dict[str, bytes]:
    return {str(path.relative_to(ca)): path.read_bytes() for path in ca.rglob("*") if path.is_file()}


def service_certificates(ca: Path, purpose: str) -> dict[bytes, CertificateState]:
    """What the daemon's store has of this purpose after a start, and what OCSP would say of it."""

    async def ask() -> dict[bytes, CertificateState]:
        daemon = await assemble(load(ca / "cmpd.toml"), Env())
        found = [one.serial for one in await daemon.store.service_certificates(purpose)]
        statuses = await daemon.store.certificate_status(found)
        await daemon.stop()
        return {serial: statuses[serial].state for serial in found}

    return asyncio.run(ask())


# --- what is made ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", WRITTEN)
def test_a_pair_is_made_beside_the_others_and_the_lines_for_it_are_printed(run: Run, ca: Path, purpose: str):
    before = files(ca)
    done = run("key", "add", purpose)
    assert (done.code, done.out.splitlines()) == (0, WRITTEN[purpose])
    assert "next: add to [cmp]" in done.err
    assert "restart the server" in done.err
    made = files(ca)
    new = {f"{purpose}.pem", f"private/{purpose}.key.pem"}
    assert made.keys() - {"cmpd.db.lock"} == before.keys() | new
    assert all(made[name] == octets for name, octets in before.items() if not name.startswith("cmpd.db"))
    assert stat.S_IMODE((ca / f"private/{purpose}.key.pem").stat().st_mode) == 0o600
    assert made[f"private/{purpose}.key.pem"].startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


@pytest.mark.parametrize("purpose", WRITTEN)
def test_its_certificate_is_for_that_and_for_speaking_for_the_ca(run: Run, ca: Path, purpose: str):
    assert run("key", "add", purpose).code == 0
    octets = read_certificates(ca / f"{purpose}.pem")[0]
    role, usage = FACTS[purpose]
    made = x509.load_der_x509_certificate(octets)
    root = x509.load_der_x509_certificate(read_certificates(ca / "ca.pem")[0])
    made.verify_directly_issued_by(root)
    assert name_text(made.subject.public_bytes()) == f"CN=Test CA {role},O=Test"
    found = made.extensions.get_extension_for_class(x509.KeyUsage)
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign")  # fmt: skip
    assert found.critical
    assert [name for name in names if getattr(found.value, name)] == [usage]
    purposes = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in purposes] == ["1.3.6.1.5.5.7.3.27"]
    assert lint(octets) == []


KINDS: dict[tuple[str, str | None], Callable[[object], bool]] = {
    ("agreement", None): lambda key: isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1",
    ("agreement", "p521"): lambda key: isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp521r1",
    ("agreement", "x25519"): lambda key: isinstance(key, x25519.X25519PublicKey),
    ("kem", None): lambda key: isinstance(key, mlkem.MLKEM768PublicKey),
    ("kem", "mlkem1024"): lambda key: isinstance(key, mlkem.MLKEM1024PublicKey),
}


@pytest.mark.parametrize(("purpose", "kind"), KINDS, ids=lambda value: str(value))
def test_the_type_is_the_one_that_was_asked_for(run: Run, ca: Path, purpose: str, kind: str | None):
    assert run("key", "add", purpose, *(("--type", kind) if kind else ())).code == 0
    made = x509.load_der_x509_certificate(read_certificates(ca / f"{purpose}.pem")[0])
    assert KINDS[purpose, kind](made.public_key())
    configure(ca, purpose)
    assert run("check").code == 0


@needs_openssl
def test_openssl_verifies_the_certificate_of_an_agreement_key(run: Run, ca: Path):
    assert run("key", "add", "agreement").code == 0
    command = ["openssl", "verify", "-x509_strict", "-CAfile", ca / "ca.pem", ca / "agreement.pem"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{ca}/agreement.pem: OK\n"


def test_a_ca_that_has_no_encryption_certificate_gets_one(run: Run, ca: Path):
    text = (ca / "cmpd.toml").read_text()
    lines = re.findall(r"^encryption_(?:certificate|key) = .*$", text, re.M)
    (ca / "cmpd.toml").write_text(re.sub(r"^encryption_(certificate|key) = .*$", "", text, flags=re.M))
    for name in ("encryption.pem", "private/encryption.key.pem"):
        (ca / name).unlink()
    done = run("key", "add", "encryption")
    assert (done.code, done.out.splitlines()) == (0, lines)
    (ca / "cmpd.toml").write_text(text)
    assert run("check").code == 0
    key = x509.load_der_x509_certificate(read_certificates(ca / "encryption.pem")[0]).public_key()
    assert isinstance(key, rsa.RSAPublicKey)


def test_where_the_configuration_names_the_files_they_are_made_there(run: Run, ca: Path):
    (ca / "keys").mkdir()
    text = (ca / "cmpd.toml").read_text()
    lines = f'[cmp]\nkem_certificate = "keys/one.pem"\nkem_key = "{ca}/keys/two.pem"\n'
    (ca / "cmpd.toml").write_text(text.replace("[cmp]\n", lines, 1))
    done = run("check")
    assert done.err == f"cmpd: cmp.kem_certificate: {ca}/keys/one.pem is not there: make it with cmpd key add kem\n"
    done = run("key", "add", "kem")
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-1] == "next: cmpd check, and restart the server"
    assert sorted(path.name for path in (ca / "keys").iterdir()) == ["one.pem", "two.pem"]
    assert run("check").code == 0


def test_files_elsewhere_are_named_whole(run: Run, ca: Path, tmp_path: Path):
    other = tmp_path / "other"
    (ca / "private").rename(other)
    text = (ca / "cmpd.toml").read_text().replace('"private/', f'"{other}/')
    (ca / "cmpd.toml").write_text(text)
    done = run("key", "add", "kem")
    assert done.out.splitlines() == ['kem_certificate = "kem.pem"', f'kem_key = "{other}/kem.key.pem"']


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_makes_what_the_server_can_read(run: Run, ca: Path):
    os.chown(ca / "private", 4711, 4712)
    assert run("key", "add", "kem").code == 0
    made = (ca / "private/kem.key.pem").stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (4711, 4712, 0o600)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kem.pem", "private/kem.key.pem"])
@pytest.mark.parametrize("dangling", [False, True])
def test_what_is_there_stays_as_it_is(run: Run, ca: Path, name: str, dangling: bool):
    if dangling:
        (ca / name).symlink_to(ca / "nowhere")
    else:
        (ca / name).write_text("mine")
    before = files(ca)
    done = run("key", "add", "kem")
    assert done.code == 1
    assert done.err == (
        f"cmpd: {ca}/{name} is there already; nothing was changed. Move it away to have another one made\n"
    )
    assert files(ca) == before


def test_a_second_one_is_not_made(run: Run, ca: Path):
    assert run("key", "add", "kem").code == 0
    before = files(ca)
    assert run("key", "add", "kem").code == 1
    assert files(ca) == before


def test_a_certificate_that_comes_in_the_meantime_is_not_overwritten(
    run: Run, ca: Path, monkeypatch: pytest.MonkeyPatch
):
    real = os.link

    def link(source: Path, target: Path) -> None:
        if target.name == "kem.pem":
            target.write_text("mine")
        real(source, target)

    monkeypatch.setattr(install.os, "link", link)
    done = run("key", "add", "kem")
    assert done.code == 1
    assert "File exists" in done.err
    assert (ca / "kem.pem").read_text() == "mine"
    assert not (ca / "private/kem.key.pem").exists()
    assert not [name for name in files(ca) if name.endswith(".new")]


def test_without_the_passphrase_nothing_is_made(run: Run, ca: Path):
    (ca / "private/passphrase").write_text("another")
    before = files(ca)
    done = run("key", "add", "agreement")
    assert done.code == 1
    assert "wrong passphrase" in done.err
    assert files(ca) == before


def test_a_subordinate_ca_without_its_certificate_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_subordinate(Plan(tmp_path / "sub"), Env())
    assert main(["key", "add", "kem", "--config", str(tmp_path / "sub/cmpd.toml")]) == 1
    assert f"certificate {tmp_path}/sub/ca.issuing.pem: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "sub/kem.pem").exists()


# --- what the server makes of it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", WRITTEN)
def test_the_certificate_is_on_record_before_the_server_has_it(run: Run, ca: Path, purpose: str):
    assert run("key", "add", purpose).code == 0
    own = outline(read_certificates(ca / f"{purpose}.pem")[0])
    assert service_certificates(ca, purpose) == {own.serial: CertificateState.CONFIRMED}  # not configured yet
    configure(ca, purpose)
    assert service_certificates(ca, purpose) == {own.serial: CertificateState.CONFIRMED}


def test_the_daemon_has_both_keys_and_gives_their_names_to_nobody(run: Run, ca: Path):
    async def look() -> None:
        daemon = await assemble(load(ca / "cmpd.toml"), Env())
        try:
            service = daemon.service
            assert service.agreement is not None
            assert service.kem is not None
            assert service.kem_only is False
            assert service.agreement.certificate == read_certificates(ca / "agreement.pem")[0]
            assert service.kem.certificate == read_certificates(ca / "kem.pem")[0]
            own_names = reserved_names((service.agreement.certificate, service.kem.certificate))
            assert len(own_names) == 2
            assert own_names <= service.reserved_names
            peer = x25519.X25519PrivateKey.generate()
            own = x509.load_der_x509_certificate(service.agreement.certificate).public_key()
            assert isinstance(own, x25519.X25519PublicKey)
            assert await service.agreement.agree(peer.public_key()) == peer.exchange(own)
            encapsulated = x509.load_der_x509_certificate(service.kem.certificate).public_key()
            assert isinstance(encapsulated, mlkem.MLKEM768PublicKey)
            secret, ciphertext = encapsulated.encapsulate()
            assert await service.kem.decapsulate(ENCRYPTION_IDENTIFIERS["mlkem768"], ciphertext) == secret
        finally:
            await daemon.stop()

    assert run("key", "add", "agreement", "--type", "x25519").code == 0
    assert run("key", "add", "kem").code == 0
    configure(ca, "agreement", "kem")
    asyncio.run(look())


def test_a_daemon_without_them_has_none(ca: Path):
    async def look() -> None:
        daemon = await assemble(load(ca / "cmpd.toml"), Env())
        assert daemon.service.agreement is daemon.service.kem is None
        await daemon.stop()

    asyncio.run(look())


def test_what_protects_answers_is_what_the_configuration_says(run: Run, ca: Path):
    async def look() -> None:
        daemon = await assemble(load(ca / "cmpd.toml"), Env())
        assert daemon.service.kem_only is True
        await daemon.stop()

    assert run("key", "add", "kem").code == 0
    configure(ca, "kem")
    text = (ca / "cmpd.toml").read_text()
    (ca / "cmpd.toml").write_text(re.sub(r'^#protection = "signature"$', 'protection = "kem"', text, flags=re.M))
    asyncio.run(look())


def test_a_key_is_added_while_the_server_runs_and_used_after_a_restart(tmp_path: Path):
    installation = Installation.make(tmp_path / "ca", "--subject", "/O=Test/CN=Test CA")
    command = ["-m", "cmpd", "key", "add"]
    with installation.serving() as server:
        for purpose in WRITTEN:
            run_here(*command, purpose, "--config", str(installation.config))
        assert server.process.poll() is None
    configure(installation.directory, *WRITTEN)
    assert run_here("-m", "cmpd", "check", "--config", str(installation.config)).endswith("\nok\n")
    with installation.serving() as server:
        assert server.port
        log = server.log.read_text()
    assert " ready " in log
    assert "ERROR" not in log


def run_here(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- check -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(run: Run, ca: Path) -> Path:
    for purpose in WRITTEN:
        assert run("key", "add", purpose).code == 0
    configure(ca, *WRITTEN)
    return ca


def test_check_is_content_with_both(run: Run, both: Path):
    assert (run("check").code, examine(load(both / "cmpd.toml"), Env()).notes) == (0, [])


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("agreement.pem", "ca.pem", "cmp.agreement_key: key"),
        ("agreement.pem", "private/cmp.key.pem", "cmp.agreement_certificate: certificate"),
        ("agreement.pem", "kem.pem", "cmp.agreement_key: key"),
        ("private/agreement.key.pem", "private/kem.key.pem", "cmp.agreement_key: key"),
        ("private/kem.key.pem", "private/cmp.key.pem", "cmp.kem_key: key"),
        ("private/kem.key.pem", "private/agreement.key.pem", "cmp.kem_key: key"),
        ("kem.pem", "encryption.pem", "cmp.kem_certificate: has no extendedKeyUsage id-kp-cmcCA"),
        ("agreement.pem", "encryption.pem", "cmp.agreement_certificate: has no extendedKeyUsage id-kp-cmcCA"),
    ],
)
def test_a_pair_that_does_not_fit_is_a_mistake(run: Run, both: Path, one: str, other: str, wanted: str):
    (both / one).write_bytes((both / other).read_bytes())
    done = run("check")
    assert done.code == 1
    assert f"cmpd: {wanted}" in done.err


def test_a_pair_of_another_ca_is_a_mistake(run: Run, both: Path, tmp_path: Path):
    make_root(Plan(tmp_path / "other", subject="/O=Test/CN=Test CA"), Env())
    for purpose in WRITTEN:
        assert main(["key", "add", purpose, "--config", str(tmp_path / "other/cmpd.toml")]) == 0
    for name in ("kem.pem", "agreement.pem"):
        (both / name).write_bytes((tmp_path / "other" / name).read_bytes())
    for name in ("private/kem.key.pem", "private/agreement.key.pem", "private/passphrase"):
        (both / name).write_bytes((tmp_path / "other" / name).read_bytes())
    err = run("check").err
    for purpose in WRITTEN:
        assert f"cmp.{purpose}_certificate: was not issued by the CA" in err


@pytest.mark.parametrize(("ahead", "kind"), [(-SOON - 86400, ""), (-86400, "notes"), (86400, "mistakes")])
def test_check_tells_when_they_end(both: Path, ahead: int, kind: str):
    end = x509.load_der_x509_certificate(read_certificates(both / "kem.pem")[0]).not_valid_after_utc.timestamp()
    found = examine(load(both / "cmpd.toml"), Env(now=lambda: end + ahead))
    told = {"notes": found.notes, "mistakes": found.mistakes}
    for purpose in WRITTEN:
        key = f"cmp.{purpose}_certificate: "
        found_in = [name for name, lines in told.items() if any(line.startswith(key) for line in lines)]
        assert found_in == ([kind] if kind else [])


def test_every_addable_key_has_its_two_lines_in_the_configuration(ca: Path):
    text = (ca / "cmpd.toml").read_text()
    for purpose in ADDABLE:
        for end in ("certificate", "key"):
            assert re.search(rf"^(# Example: )?{purpose}_{end} = ", text, re.M)
