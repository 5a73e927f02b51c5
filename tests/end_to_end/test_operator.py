"""Operators' commands beside a serving process: what they change holds from the next message on."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.cli.cmpd import main
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.errors import CmpClientError
from cmpd.client.responses import Trust, read_cert_rep, verify
from tests import chains
from tests.end_to_end.asking import ENV, ask, certificates_in, confirmation, enrol, ir, trust_in
from tests.end_to_end.forked import Server, Site, made
from tests.support import Installation, Result, run

Operator = Callable[..., Result]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with made(tmp_path_factory.mktemp("operator") / "ca") as site:
        yield site


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Server]:
    with site.serving() as server:
        yield server


@pytest.fixture(scope="module")
def trust(site: Site) -> Trust:
    return trust_in(site.anchor)


@pytest.fixture
def operator(site: Site, capsys: pytest.CaptureFixture[str]) -> Operator:
    """Run `cmpd WORDS --config ...`."""

    def run(*words: str | Path, config: Path = site.config) -> Result:
        capsys.readouterr()
        code = main([*map(str, words), "--config", str(config)])
        return Result(code, *capsys.readouterr())

    return run


def add(operator: Operator, reference: str, *words: str) -> SharedSecret:
    """Register somebody with a secret that the command makes."""
    done = operator("entity", "add", reference, "--json", *words)
    assert done.code == 0, done.err
    return SharedSecret(reference, done.json["secret"].encode(), iterations=500)


def fault_of(port: int, credential: Credential, trust: Trust, subject: str = "/CN=device") -> tuple[str, ...]:
    """The failInfo that a request for a certificate meets, () if it is granted."""
    request, _ = ir(credential, subject)
    try:
        [one] = read_cert_rep(verify(ask(port, request.der), request, credential, trust, ENV)).responses
    except CmpClientError as refused:
        return refused.fail_info
    return one.status.fail_info


# --- entities ---------------------------------------------------------------------------------------------------------


def test_who_is_added_may_enrol_at_once_and_who_is_disabled_may_not(
    operator: Operator, server: Server, trust: Trust
) -> None:
    unknown = SharedSecret("device", b"guessed", iterations=500)
    assert fault_of(server.port, unknown, trust) == ("badMessageCheck",)  # the server remembers that there is none
    secret = add(operator, "device", "--uses", "unlimited")
    assert fault_of(server.port, secret, trust) == ()
    holder = enrol(server.port, secret, trust)
    assert fault_of(server.port, holder, trust) == ()
    waiting, _ = ir(secret, implicit=False)
    answer = ask(server.port, waiting.der)

    assert operator("entity", "disable", "device").code == 0
    assert fault_of(server.port, secret, trust) == ("badMessageCheck",)
    assert fault_of(server.port, holder, trust) == (
        "signerNotTrusted",
    )  # nor with the certificate that was issued to it
    confirm = confirmation(waiting, answer, certificates_in(answer, waiting, secret, trust))
    with pytest.raises(CmpClientError) as refused:
        verify(ask(server.port, confirm.der), confirm, secret, trust, ENV)
    assert refused.value.fail_info == ("badMessageCheck",)
    shown = operator("entity", "show", "device", "--json").json
    assert (shown["state"], shown["uses_left"]) == ("disabled", None)


def test_a_certconf_of_somebody_who_was_disabled_meanwhile_confirms_nothing(
    operator: Operator, server: Server, trust: Trust
) -> None:
    secret = add(operator, "disabled-meanwhile")
    request, _ = ir(secret, implicit=False)
    answer = ask(server.port, request.der)
    issued = certificates_in(answer, request, secret, trust)
    confirm = confirmation(request, answer, issued)
    assert operator("entity", "disable", "disabled-meanwhile").code == 0
    with pytest.raises(CmpClientError) as refused:
        verify(ask(server.port, confirm.der), confirm, secret, trust, ENV)
    assert refused.value.fail_info == ("badMessageCheck",)
    [shown] = operator("cert", "show", f"{issued[0].serial:x}", "--json").json
    assert shown["state"] == "issued"


def test_uses_are_counted_and_shown(operator: Operator, server: Server, trust: Trust) -> None:
    secret = add(operator, "twice", "--uses", "2")
    left = []
    for _ in range(3):
        left.append(operator("entity", "show", "twice", "--json").json["uses_left"])
        fault = fault_of(server.port, secret, trust)
    assert left == [2, 1, 0]
    assert fault == ("notAuthorized",)
    assert operator("entity", "show", "twice", "--json").json["state"] == "used up"


def test_a_subject_that_is_registered_binds_the_next_request(operator: Operator, server: Server, trust: Trust) -> None:
    secret = add(operator, "bound", "--subject", "/O=Test/CN=bound", "--uses", "unlimited")
    assert fault_of(server.port, secret, trust, "/O=Test/CN=other") == ("notAuthorized",)
    assert fault_of(server.port, secret, trust, "/O=Test/CN=bound") == ()


def test_a_registered_certificate_is_seen_at_once(
    operator: Operator, server: Server, trust: Trust, tmp_path: Path
) -> None:
    """Of another CA's certificate it is the registration alone that counts."""
    now = int(ENV.now())
    node = chains.leaf(None, "foreign", not_before=now - 60, not_after=now + 3600)
    (tmp_path / "foreign.pem").write_bytes(node.certificate.public_bytes(Encoding.PEM))
    foreign = KeyAndCertificate(node.key, Certificate.load(node.der))
    assert fault_of(server.port, foreign, trust) == ("signerNotTrusted",)
    assert operator("entity", "add", "foreign", "--cert", tmp_path / "foreign.pem").code == 0
    assert fault_of(server.port, foreign, trust) == ()
    assert operator("entity", "disable", "foreign").code == 0
    assert fault_of(server.port, foreign, trust) == ("signerNotTrusted",)


def test_entities_are_listed(operator: Operator, server: Server) -> None:
    add(operator, "listed", "--ra", "--uses", "7", "--expires", "30d")
    [found] = [one for one in operator("entity", "list", "--json").json if one["reference"] == "listed"]
    assert (found["ra"], found["uses_left"], found["state"], found["kind"]) == (True, 7, "active", "secret")
    assert operator("entity", "add", "listed").code == 1
    done = operator("entity", "show", "lusted")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "lusted is not registered" in done.err
    assert "listed" in done.err.partition("registered")[2]


# --- certificates -----------------------------------------------------------------------------------------------------


def test_what_was_issued_is_listed_shown_and_exported(
    operator: Operator, server: Server, trust: Trust, tmp_path: Path
) -> None:
    secret = add(operator, "issued-to", "--uses", "unlimited")
    holder = enrol(server.port, secret, trust, "/O=Test/CN=Shown here")
    waiting, _ = ir(secret, "/O=Test/CN=Shown as well", implicit=False)
    answer = ask(server.port, waiting.der)
    [unconfirmed] = certificates_in(answer, waiting, secret, trust).values()

    listed = operator("cert", "list", "--subject", "shown", "--json").json
    assert [(one["serial"], one["state"], one["subject"], one["entity"]) for one in listed] == [
        (f"{holder.certificate.serial:X}", "confirmed", "CN=Shown here,O=Test", "issued-to"),
        (f"{unconfirmed.serial:X}", "issued", "CN=Shown as well,O=Test", "issued-to"),
    ]
    confirm = confirmation(waiting, answer, {0: unconfirmed}, "not wanted")
    ask(server.port, confirm.der)
    [shown] = operator("cert", "show", f"{unconfirmed.serial:x}", "--json").json
    assert (shown["state"], shown["reason"], shown["changed_by"]) == ("revoked", "cessationOfOperation", "certConf")
    assert shown["transaction"] == waiting.transaction_id.hex()
    assert shown["not_after"] == holder.certificate.parsed.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [one["state"] for one in operator("cert", "list", "--state", "revoked", "--json").json] == ["revoked"]

    out = tmp_path / "out"
    assert operator("cert", "export", f"{holder.certificate.serial:x}", "--der", "--out", out).code == 0
    assert out.read_bytes() == holder.certificate.der
    assert operator("cert", "export", "--subject", "shown", "--out", out).code == 0
    exported = [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(out.read_bytes())]
    assert exported == [holder.certificate.der, unconfirmed.der]


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_is_content_beside_a_server(operator: Operator, server: Server) -> None:
    done = operator("check")
    assert (done.code, done.out.splitlines()[-1], done.err) == (0, "ok", "")


def test_check_finds_every_mistake_and_serve_does_not_start_with_one(operator: Operator, site: Site) -> None:
    broken = site.directory / "broken.toml"
    text = site.config.read_text()
    text = text.replace("#implicit_confirm = true", "implicit_confrim = true").replace(
        "#retention = ", "retention = 1 #"
    )
    broken.write_text(text.replace("#max_in_flight = 32", "max_in_flight = 0"))
    done = operator("check", config=broken)
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (1, "", 3), done.err
    assert any("enrolment.implicit_confrim" in line and "implicit_confirm" in line.partition(":")[2] for line in lines)
    assert any("enrolment.retention" in line for line in lines)
    assert any("tcp" in line and "max_in_flight" in line for line in lines)
    served = run([sys.executable, "-m", "cmpd", "serve", "--config", broken], ok=False)
    assert (served.returncode, served.stderr) == (1, done.err)


def test_check_finds_files_that_do_not_fit_together(operator: Operator, site: Site) -> None:
    other = site.directory / "other.toml"
    other.write_text(site.config.read_text().replace('"private/ca.key.pem"', '"private/cmp.key.pem"'))
    done = operator("check", config=other)
    assert done.code == 1
    assert "is not the key of the certificate" in done.err
    other.unlink()


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_is_nowhere_in_the_clear(tmp_path: Path) -> None:
    """A real server with everything logged: not in the database, the log, the arguments or the environment."""
    secret, wrong = "correct horse battery staple", "incorrect horse battery staple"
    installation = Installation.make(tmp_path / "var")
    installation.configure('#level = "info"', 'level = "debug"')
    words = [sys.executable, "-m", "cmpd", "entity", "add", "--config", str(installation.config)]
    subprocess.run([*words, "device", "--secret-file", "-"], input=secret.encode(), check=True, capture_output=True)
    made = run([*words, "other"]).stdout.strip()
    passphrase = (installation.directory / "private" / "passphrase").read_text().strip()
    trust = trust_in(installation.anchor)
    with installation.serving() as server:
        enrol(server.port, SharedSecret("device", secret.encode(), iterations=500), trust)
        enrol(server.port, SharedSecret("other", made.encode(), "pbmac1", 1000), trust)
        guess = SharedSecret("device", wrong.encode(), iterations=500)
        assert fault_of(server.port, guess, trust) == ("badMessageCheck",)
        process = Path(f"/proc/{server.process.pid}")
        seen = {name: (process / name).read_bytes() for name in ("cmdline", "environ")}
        seen |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    seen["log"] = server.log_text().encode()
    assert "DEBUG" in server.log_text()
    assert "certificate issued" in server.log_text()
    names = " ".join(seen)
    for suffix in ("cmpd.db ", "cmpd.db-wal", "cmpd.toml"):
        assert suffix in names
    database = installation.directory / "cmpd.db"
    assert b"CN=device" in seen[str(database)] + seen[f"{database}-wal"]  # it is the right file, and readable
    for text in (secret, wrong, made):
        for form in forms_of(text):
            assert not [name for name, octets in seen.items() if form in octets]
    passphrase_file = str(installation.directory / "private" / "passphrase")
    assert [name for name, octets in seen.items() if passphrase.encode() in octets] == [passphrase_file]


def forms_of(text: str) -> list[bytes]:
    """The ways in which octets could have got into a log or a file."""
    octets = text.encode()
    return [octets, octets.hex().encode(), octets.hex().upper().encode(), octets[:12]]


def test_the_logs_of_this_file_are_lines_without_control_characters(server: Server) -> None:
    for line in server.log_text().splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) cmpd\S* ", line), line
        assert line.isprintable()
