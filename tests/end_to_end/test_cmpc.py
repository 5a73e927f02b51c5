"""The command cmpc, and the client below it, against a serving process."""

import asyncio
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cmpd.asn1.names import encode_name
from cmpd.cli import cmpc as command
from cmpd.cli.cmpd import main as cmpd
from cmpd.client.certificates import load_certificates
from cmpd.client.connection import Connection, ConnectionLimits
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.errors import CmpClientError
from cmpd.client.flows import Client, Enrolment
from cmpd.client.keys import load_key, public_key_info
from cmpd.client.messages import Template, certification_request
from cmpd.client.responses import verify
from tests import chains
from tests.end_to_end.asking import ENV, certificates_in, confirmation, enrol, ir, new_key, trust_in
from tests.end_to_end.forked import Server, Site, made
from tests.support import Result, needs_openssl, run
from tests.support import verify as openssl_verify

KINDS = ["p256", "p384", "p521", "rsa2048", "ed25519", "ed448"]

PROFILE = """
[profile.tls]
extended_key_usage = ["serverAuth"]
validity = "30d"
max_validity = "90d"
"""


Cmpc = Callable[..., Result]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Credentials: foreign certificates with their keys, and secrets."""
    directory = tmp_path_factory.mktemp("files")
    now = int(ENV.now())
    times = {"not_before": now - 3600, "not_after": now + 86400}
    maker = chains.issue(None, "maker", **times)
    series = chains.issue(maker, "maker's series 7", path_length=0, **times)
    nodes = {
        "maker": maker,
        "series": series,
        "unit": chains.leaf(series, "unit 4711", **times),
        "idevid": chains.leaf(None, "pump 12", **times),
        "ra": chains.leaf(None, "registration office", key="ed25519", **times),
        "stranger": chains.leaf(None, "nobody", **times),
    }
    for name, node in nodes.items():
        (directory / f"{name}.pem").write_bytes(node.certificate.public_bytes(Encoding.PEM))
        (directory / f"{name}.key").write_bytes(
            node.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
    for name in ("device", "once", "tls"):
        (directory / name).write_text(f"the secret of {name}")
    return directory


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Site]:
    with made(tmp_path_factory.mktemp("cmpc") / "ca") as site:
        site.config.write_text(site.config.read_text() + PROFILE)
        for words in (
            ["device", "--secret-file", files / "device", "--uses", "unlimited"],
            ["once", "--secret-file", files / "once"],
            ["tls", "--secret-file", files / "tls", "--uses", "unlimited", "--profile", "tls", "--profile", "default"],
            ["pump", "--cert", files / "idevid.pem"],
            ["all of that maker", "--cert", files / "maker.pem"],
            ["office", "--cert", files / "ra.pem", "--ra"],
        ):
            assert cmpd(["entity", "add", *map(str, words), "--config", str(site.config)]) == 0
        yield site


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[Server]:
    with site.serving() as server:
        yield server


@pytest.fixture
def cmpc(
    site: Site, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cmpc:
    """Run `cmpc WORDS --server ...` in tmp_path, where ca.pem is the trust anchor."""
    (tmp_path / "ca.pem").write_bytes(site.anchor.read_bytes())
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path, port: int = server.port) -> Result:
        capsys.readouterr()
        code = command.main([*map(str, words), "--server", f"127.0.0.1:{port}"])
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines(True) if "wrote a new private key" not in line]
        return Result(code, out, "".join(lines))

    return run


def by_secret(files: Path, reference: str = "device") -> list[str | Path]:
    return ["--ref", reference, "--secret-file", files / reference, "--iterations", "500"]


def by_certificate(certificate: Path, key: Path) -> list[str | Path]:
    return ["--cert", certificate, "--key", key, "--trusted", "ca.pem"]


def issued(done: Result, directory: Path) -> x509.Certificate:
    """The certificate in a directory that cmpc has written into; everything about it must be right."""
    assert (done.code, done.err) == (0, "")
    certificate = x509.load_pem_x509_certificate((directory / "cert.pem").read_bytes())
    key = directory / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert load_key(key).public_key() == certificate.public_key()
    assert (directory / "chain.pem").read_bytes() == b""  # the issuer is the root, which is no part of a chain
    openssl_verify(Path("ca.pem"), directory / "cert.pem")
    return certificate


# --- the ordinary way -------------------------------------------------------------------------------------------------


MACS = {
    "pbm": [],
    "pbmac1": ["--mac", "pbmac1"],
    "pbm with SHA-3": ["--mac-algorithm", "hmac-sha3-512"],
    "pbmac1 with SHA-3": ["--mac", "pbmac1", "--mac-algorithm", "hmac-sha3-256"],
    "pbm with GMAC": ["--mac-algorithm", "aes128-gmac"],
    "pbmac1 with GMAC": ["--mac", "pbmac1", "--mac-algorithm", "aes256-gmac"],
}


@needs_openssl
@pytest.mark.parametrize(("kind", "mac"), list(zip(KINDS, MACS, strict=True)))
@pytest.mark.parametrize("explicit", [[], ["--explicit-confirm"]], ids=["implicit", "explicit"])
def test_a_key_of_each_kind_is_enrolled_used_and_renewed(
    cmpc: Cmpc, files: Path, tmp_path: Path, kind: str, mac: str, explicit: list[str]
) -> None:
    options = ["--key-type", kind, *explicit, "--json"]
    subject = ["--subject", "CN=device,O=Test"]
    first, second, third, fourth = (tmp_path / name for name in ("first", "second", "third", "fourth"))
    done = cmpc("ir", *by_secret(files), *MACS[mac], *subject, *options, "--out-dir", first, "--trusted", "ca.pem")
    assert issued(done, first).subject.rfc4514_string() == "CN=device,O=Test"
    assert done.json["confirmed"] == ("by certConf" if explicit else "implicitly")
    assert done.json["protected_by"] == "the shared secret"
    done = cmpc("cr", *by_certificate(first / "cert.pem", first / "key.pem"), *options, "--out-dir", second)
    assert issued(done, second).subject.rfc4514_string() == "CN=device,O=Test"
    done = cmpc("kur", *by_certificate(second / "cert.pem", second / "key.pem"), *options, "--out-dir", third)
    assert issued(done, third).subject.rfc4514_string() == "CN=device,O=Test"
    done = cmpc("p10cr", *by_certificate(third / "cert.pem", third / "key.pem"), *options, "--out-dir", fourth)
    assert issued(done, fourth).subject.rfc4514_string() == "CN=device,O=Test"
    assert done.json["confirmed"] == ("by certConf" if explicit else "implicitly")
    assert len({(directory / "cert.pem").read_bytes() for directory in (first, second, third, fourth)}) == 4


@needs_openssl
@pytest.mark.parametrize("body", ["cr", "p10cr"])
def test_names_profile_and_validity_are_as_asked(cmpc: Cmpc, files: Path, tmp_path: Path, body: str) -> None:
    names = ["--san", "dns:a.example", "ip:192.0.2.1", "ip:2001:db8::1", "email:a@b.example", "uri:https://c.example/"]
    days = ["--days", "60"] if body == "cr" else []
    done = cmpc(
        *(body, *by_secret(files, "tls"), "--subject", "CN=a", *names, *days),
        *("--profile", "tls", "--out-dir", "d", "--trusted", "ca.pem", "--json"),
    )
    certificate = issued(done, tmp_path / "d")
    assert done.json["status"] == "accepted"
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert {str(name.value) for name in san.value} == {name.partition(":")[2] for name in names[1:]}
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [purpose.dotted_string for purpose in usage] == ["1.3.6.1.5.5.7.3.1"]
    lasts = certificate.not_valid_after_utc.timestamp() - ENV.now()
    assert lasts == pytest.approx((60 if days else 30) * 86400, abs=60)
    done = cmpc("kur", *by_certificate(Path("d/cert.pem"), Path("d/key.pem")), "--out-dir", "e")
    renewed = issued(done, tmp_path / "e").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert renewed == san


@needs_openssl
def test_a_name_may_be_in_the_alternative_names_alone(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    done = cmpc("ir", *by_secret(files), "--san", "dns:a.example", "--out-dir", "d", "--trusted", "ca.pem")
    certificate = issued(done, tmp_path / "d")
    assert not list(certificate.subject)
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_a_validity_that_is_not_granted_is_told(cmpc: Cmpc, files: Path) -> None:
    done = cmpc("ir", *by_secret(files), "--subject", "CN=a", "--days", "9999", "--out-dir", "d", "--json")
    assert (done.code, done.json["status"]) == (0, "grantedWithMods")
    assert "validity" in done.json["status_string"]
    assert done.json["path_verified"] is False


def test_the_trust_anchor_comes_with_an_ip(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    done = cmpc("ir", *by_secret(files), "--subject", "CN=a", "--out", "a.pem", "--cacerts-out", "anchor.pem")
    assert done.code == 0, done.err
    assert trust_in(tmp_path / "anchor.pem") == trust_in(tmp_path / "ca.pem")
    assert "without --trusted the shared secret alone vouches" in done.out


def test_a_request_made_elsewhere_is_certified(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    key = new_key()
    csr = x509.load_der_x509_csr(certification_request(Template(key, encode_name("CN=a"))))
    (tmp_path / "csr.pem").write_bytes(csr.public_bytes(Encoding.PEM))
    done = cmpc("p10cr", *by_secret(files), "--csr", "csr.pem", "--out", "a.pem", "--trusted", "ca.pem")
    assert (done.code, done.err) == (0, "")
    assert x509.load_pem_x509_certificate((tmp_path / "a.pem").read_bytes()).public_key() == key.public_key()
    assert not list(tmp_path.glob("*.key"))


def test_cmpc_in_a_process_of_its_own(site: Site, server: Server, files: Path, tmp_path: Path) -> None:
    words = ["ir", *by_secret(files), "--subject", "CN=a", "--trusted", site.anchor, "--out-dir", tmp_path]
    done = run([sys.executable, "-m", "cmpd.cli.cmpc", *words, "--server", f"127.0.0.1:{server.port}"])
    assert (tmp_path / "cert.pem").exists()
    assert "certificate file" in done.stdout


# --- others' certificates, and RAs ------------------------------------------------------------------------------------


@needs_openssl
def test_a_registered_foreign_certificate_enrols(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    credential = by_certificate(files / "idevid.pem", files / "idevid.key")
    done = cmpc("ir", *credential, "--subject", "CN=its operational name", "--out-dir", "d")
    assert issued(done, tmp_path / "d").subject.rfc4514_string() == "CN=its operational name"
    done = cmpc("kur", *credential, "--out-dir", "e")  # only what this CA issued can be updated
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "this CA issued" in done.err


@needs_openssl
def test_everything_under_a_registered_ca_certificate_enrols(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    credential = by_certificate(files / "unit.pem", files / "unit.key")
    done = cmpc("ir", *credential, "--out-dir", "f")  # without the certificate in between
    assert (done.code, "signerNotTrusted" in done.err) == (1, True), done.err
    done = cmpc("ir", *credential, "--chain", files / "series.pem", "--out-dir", "d")
    assert issued(done, tmp_path / "d").subject.rfc4514_string() == "CN=unit 4711"
    done = cmpc("ir", *credential, "--chain", files / "series.pem", "--subject", "CN=unit 4712", "--out-dir", "e")
    assert (done.code, "notAuthorized" in done.err) == (1, True), done.err


@needs_openssl
def test_an_ra_asks_for_others(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    credential = by_certificate(files / "ra.pem", files / "ra.key")
    for number, body in enumerate(("ir", "cr", "p10cr")):
        done = cmpc(body, *credential, "--subject", f"CN=person {number}", "--out-dir", body)
        assert issued(done, tmp_path / body).subject.rfc4514_string() == f"CN=person {number}"


def test_an_ra_vouches_for_a_key_that_it_does_not_have(site: Site, server: Server, files: Path) -> None:
    async def ask(credential: Credential) -> Enrolment | Exception:
        template = Template(None, encode_name("CN=somebody"), public_key=public_key_info(new_key()))
        async with Connection("127.0.0.1", server.port) as connection:
            [result] = await Client(connection, credential, trust_in(site.anchor)).enrol_all("cr", [template])
        return result

    [certificate] = load_certificates(files / "ra.pem")
    granted = asyncio.run(ask(KeyAndCertificate(load_key(files / "ra.key"), certificate)))
    assert isinstance(granted, Enrolment)
    refused = asyncio.run(ask(secret_of("device", files)))
    assert isinstance(refused, CmpClientError)
    assert refused.fail_info == ("notAuthorized",)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(done: Result, directory: Path, *wanted: str) -> None:
    """Exit code 1, one line that says why, and no certificate."""
    assert (done.code, done.out) == (1, ""), done
    [line] = done.err.splitlines()
    assert line.startswith("cmpc: ")
    for text in wanted:
        assert text in line
    assert not list(directory.glob("**/cert.pem"))


@pytest.mark.parametrize("trusted", [[], ["--trusted", "ca.pem"]], ids=["nobody trusted", "server trusted"])
def test_a_wrong_secret_is_told(cmpc: Cmpc, tmp_path: Path, trusted: list[str]) -> None:
    (tmp_path / "wrong").write_text("guessed")
    done = cmpc("ir", "--ref", "device", "--secret-file", "wrong", "--subject", "CN=a", *trusted, "--out-dir", "d")
    vouched = "protected by " if trusted else "not authenticated"
    refused(done, tmp_path, "badMessageCheck", "check the reference value and the secret", vouched)


def test_an_unknown_reference_is_told_the_same_as_a_wrong_secret(cmpc: Cmpc, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("guessed")
    lines = []
    for number, reference in enumerate(("device", "nobody")):
        done = cmpc("ir", "--ref", reference, "--secret-file", "wrong", "--subject", "CN=a", "--out-dir", str(number))
        refused(done, tmp_path, "badMessageCheck")
        lines.append(done.err.replace(reference, "X"))
    assert lines[0] == lines[1]


@pytest.mark.parametrize("by", ["secret", "certificate"])
def test_a_wrong_trust_anchor_is_told(cmpc: Cmpc, files: Path, tmp_path: Path, by: str) -> None:
    (tmp_path / "ca.pem").write_bytes((files / "maker.pem").read_bytes())
    who = by_secret(files) if by == "secret" else by_certificate(files / "idevid.pem", files / "idevid.key")
    done = cmpc("ir", *who, "--subject", "CN=a", "--out-dir", "d", *(["--trusted", "ca.pem"] if by == "secret" else []))
    refused(done, tmp_path, "trust anchor")


def test_a_secret_that_is_used_up_is_told(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    first = cmpc("ir", *by_secret(files, "once"), "--subject", "CN=a", "--out", "first.pem")
    assert first.code == 0, first.err
    done = cmpc("ir", *by_secret(files, "once"), "--subject", "CN=a", "--out-dir", "d")
    refused(done, tmp_path, "notAuthorized", "registration", " left", "protected by the shared secret")


def test_a_certificate_that_nobody_registered_is_told(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    done = cmpc("ir", *by_certificate(files / "stranger.pem", files / "stranger.key"), "--out-dir", "d")
    refused(done, tmp_path, "signerNotTrusted", "registered at this CA")


def test_a_profile_that_is_not_allowed_is_told(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    for profile, reason in (("tls", "notAuthorized"), ("nonsense", "badCertTemplate")):
        done = cmpc("ir", *by_secret(files), "--subject", "CN=a", "--profile", profile, "--out-dir", profile)
        refused(done, tmp_path, reason, "certProfile")


def test_a_server_that_is_not_there_is_told(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = cmpc("ir", *by_secret(files), "--subject", "CN=a", "--out-dir", "d", port=port)
    refused(done, tmp_path, f"cannot connect to 127.0.0.1:{port}")


def test_a_key_that_was_written_serves_the_second_try(cmpc: Cmpc, files: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("guessed")
    words = ["--subject", "CN=a", "--out-dir", "d", "--new-key", "d/key.pem", "--trusted", "ca.pem"]
    refused(cmpc("ir", "--ref", "device", "--secret-file", "wrong", *words), tmp_path, "badMessageCheck")
    key = (tmp_path / "d/key.pem").read_bytes()
    done = cmpc("ir", *by_secret(files), *words)
    assert (done.code, (tmp_path / "d/key.pem").read_bytes()) == (0, key), done.err


# --- one connection ---------------------------------------------------------------------------------------------------


def secret_of(reference: str, files: Path) -> SharedSecret:
    return SharedSecret(reference, (files / reference).read_bytes(), iterations=500)


def test_transactions_are_interwoven_on_one_connection(site: Site, server: Server, files: Path) -> None:
    """All requests first, then the confirmations in another order; some by secret, some by certificate."""
    trust = trust_in(site.anchor)
    secret = secret_of("device", files)
    holder = enrol(server.port, secret, trust)
    asked = [(credential, ir(credential, implicit=False)[0]) for _ in range(8) for credential in (secret, holder)]

    async def talk() -> list[str]:
        async with Connection("127.0.0.1", server.port, limits=ConnectionLimits(retries=0)) as connection:
            answers = await asyncio.gather(*(connection.request(request.der) for _, request in asked))
            confirms = []
            for answer, (credential, request) in zip(answers, asked, strict=True):
                assert answer is not None
                granted = certificates_in(answer, request, credential, trust)
                confirms.append((credential, confirmation(request, answer, granted)))
            confirms.reverse()
            replies = await asyncio.gather(*(connection.request(confirm.der) for _, confirm in confirms))
            server.signal(signal.SIGUSR1)
            await asyncio.to_thread(server.wait_for_log, r"statistics connections=1 ")
        assert None not in replies
        return [
            verify(reply or b"", confirm, credential, trust, ENV).envelope.body_name
            for reply, (credential, confirm) in zip(replies, confirms, strict=True)
        ]

    assert asyncio.run(talk()) == ["pkiconf"] * len(asked)


def test_clients_with_several_credentials_share_one_connection(site: Site, server: Server, files: Path) -> None:
    trust = trust_in(site.anchor)
    secret = secret_of("device", files)
    holder = enrol(server.port, secret, trust)

    async def talk() -> list[Enrolment]:
        async with Connection("127.0.0.1", server.port) as connection:
            one, other = Client(connection, secret, trust), Client(connection, holder, trust)
            csr = certification_request(Template(new_key(), encode_name("CN=device")))
            jobs = []
            for _ in range(5):
                jobs += [
                    one.enrol("ir", new_key(), encode_name("CN=a")),
                    other.enrol("cr", new_key(), encode_name("CN=device")),
                    other.update(new_key()),
                    one.p10cr(csr),
                ]
            return await asyncio.gather(*jobs)

    results = asyncio.run(talk())
    assert len({result.certificate.serial for result in results}) == 20
    for result in results:
        result.certificate.parsed.verify_directly_issued_by(trust.anchors[0].parsed)
