"""`openssl cmp`, a client that nobody here wrote, against a serving process over raw TCP.

openssl speaks CMP over HTTP only; tests/bridge.py puts its messages into tcp-messages and back.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bridge import ThreadBridge
from tests.support import Installation, Server, cmpd, needs_openssl, new_key, run, text_of, verify

pytestmark = needs_openssl

KEYS = ["rsa2048", "p256", "p384", "p521", "ed25519", "ed448"]


@dataclass
class Site:
    installation: Installation
    server: Server
    bridge: ThreadBridge
    secret: Path

    def openssl(self, *arguments: str | Path, ok: bool = True) -> str:
        """Run `openssl cmp` against the server; returns what it printed. Without `ok` it must fail."""
        address = f"127.0.0.1:{self.bridge.port}"
        command = ["openssl", "cmp", "-config", "", "-server", address, "-path", "pkix/", *arguments]
        done = run(command, ok=False)
        printed = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, f"{command}\n{printed}\n{self.server.log_text()[-3000:]}"
        return printed

    def mac(self) -> list[str | Path]:
        return ["-ref", "device", "-secret", f"file:{self.secret}"]

    def signed(self, certificate: Path, key: Path) -> list[str | Path]:
        return ["-cert", certificate, "-key", key, "-trusted", self.installation.anchor]

    def enrol(self, directory: Path, kind: str = "p256", subject: str = "/O=Test/CN=device") -> tuple[Path, Path]:
        key, certificate = new_key(directory / f"{kind}.key", kind), directory / f"{kind}.pem"
        options = ["-cmd", "ir", "-newkey", key, "-subject", subject, "-certout", certificate, "-implicit_confirm"]
        self.openssl(*options, *self.mac())
        return certificate, key


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    installation = Installation.make(tmp_path_factory.mktemp("ca") / "var")
    secret = installation.add_secret("device", "a secret of the tests", "--uses", "unlimited")
    with installation.serving() as server, ThreadBridge(server.host, server.port) as bridge:
        yield Site(installation, server, bridge, secret)
    assert "Traceback" not in server.log_text()


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("command", ["ir", "cr"])
def test_a_key_of_each_kind_is_enrolled_with_a_shared_secret(
    site: Site, tmp_path: Path, command: str, kind: str
) -> None:
    key, certificate, chain = new_key(tmp_path / "key", kind), tmp_path / "cert.pem", tmp_path / "chain.pem"
    options = ["-cmd", command, "-newkey", key, "-subject", "/O=Test/CN=device", "-certout", certificate]
    site.openssl(*options, "-extracertsout", chain, *site.mac())
    verify(site.installation.anchor, certificate)
    text = text_of(certificate)
    assert "Subject: CN=device,O=Test" in text
    public = run(["openssl", "pkey", "-in", key, "-pubout"]).stdout
    assert run(["openssl", "x509", "-in", certificate, "-noout", "-pubkey"]).stdout == public


@pytest.mark.parametrize("confirm", [[], ["-implicit_confirm"]], ids=["explicit", "implicit"])
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("command", ["ir", "cr", "kur"])
def test_the_holder_of_a_certificate_gets_another_with_a_signature(
    site: Site, tmp_path: Path, command: str, kind: str, confirm: list[str]
) -> None:
    # OpenSSL 3.0 cannot protect a message with an EdDSA key ("unsupported key type"); tests of cmpc do that
    old, old_key = site.enrol(tmp_path, "p256" if kind.startswith("ed") else kind)
    key, certificate = new_key(tmp_path / "new.key", kind), tmp_path / "new.pem"
    options = ["-cmd", command, "-newkey", key, "-certout", certificate, *confirm]
    printed = site.openssl(*options, *site.signed(old, old_key))
    verify(site.installation.anchor, certificate)
    assert "Subject: CN=device,O=Test" in text_of(certificate)
    assert ("sending CERTCONF" in printed) is (not confirm)


@pytest.mark.parametrize("confirm", [[], ["-implicit_confirm"]], ids=["explicit", "implicit"])
@pytest.mark.parametrize("kind", KEYS)
def test_a_pkcs10_request_is_certified(site: Site, tmp_path: Path, kind: str, confirm: list[str]) -> None:
    key, csr, certificate = new_key(tmp_path / "key", kind), tmp_path / "csr.pem", tmp_path / "cert.pem"
    ext = ["-addext", "subjectAltName=DNS:device.example"]
    run(
        ["openssl", "req", "-new", "-config", "/dev/null", "-key", key, "-subj", "/O=Test/CN=device", "-out", csr, *ext]
    )
    site.openssl("-cmd", "p10cr", "-csr", csr, "-certout", certificate, *confirm, *site.mac())
    verify(site.installation.anchor, certificate)
    assert "DNS:device.example" in text_of(certificate)


def test_a_trust_anchor_comes_with_a_mac_protected_ip(site: Site, tmp_path: Path) -> None:
    key, certificate, anchors = new_key(tmp_path / "key", "p256"), tmp_path / "cert.pem", tmp_path / "anchors.pem"
    options = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=device", "-certout", certificate]
    site.openssl(*options, "-cacertsout", anchors, *site.mac())
    sent, known = (run(["openssl", "x509", "-in", file]).stdout for file in (anchors, site.installation.anchor))
    assert sent == known


def test_extensions_that_are_asked_for_are_in_the_certificate(site: Site, tmp_path: Path) -> None:
    key, certificate, config = new_key(tmp_path / "key", "rsa2048"), tmp_path / "cert.pem", tmp_path / "req.cnf"
    config.write_text(
        "[req]\n[ext]\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth,serverAuth\n"
    )
    address = f"127.0.0.1:{site.bridge.port}"
    wish = ["-subject", "/CN=device", "-reqexts", "ext", "-sans", "device.example 192.0.2.1", "-certout", certificate]
    server = ["-config", config, "-section", "", "-server", address, *site.mac()]
    run(["openssl", "cmp", "-cmd", "ir", "-newkey", key, *wish, *server])
    text = text_of(certificate)
    for wanted in (
        "Digital Signature, Key Encipherment",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "DNS:device.example, IP Address:192.0.2.1",
    ):
        assert wanted in text


@pytest.mark.parametrize(
    ("digest", "mac"), [("sha256", "hmacWithSHA256"), ("sha512", "hmacWithSHA512"), ("sha256", "hmac-sha1")]
)
def test_password_based_macs_of_several_hashes_are_understood(
    site: Site, tmp_path: Path, digest: str, mac: str
) -> None:
    key, certificate = new_key(tmp_path / "key", "p256"), tmp_path / "cert.pem"
    options = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=device", "-certout", certificate]
    site.openssl(*options, "-digest", digest, "-mac", mac, *site.mac())
    verify(site.installation.anchor, certificate)


def test_a_wrong_secret_is_told_so_with_badmessagecheck(site: Site, tmp_path: Path) -> None:
    key = new_key(tmp_path / "key", "p256")
    options = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=device", "-certout", tmp_path / "cert.pem"]
    printed = site.openssl(*options, "-ref", "device", "-secret", "pass:wrong", "-unprotected_errors", ok=False)
    assert "badMessageCheck" in printed
    assert not (tmp_path / "cert.pem").exists()


def test_a_certificate_holder_may_not_ask_for_another_name(site: Site, tmp_path: Path) -> None:
    old, old_key = site.enrol(tmp_path)
    key = new_key(tmp_path / "new.key", "p256")
    options = ["-cmd", "cr", "-newkey", key, "-subject", "/CN=somebody else", "-certout", tmp_path / "new.pem"]
    printed = site.openssl(*options, *site.signed(old, old_key), ok=False)
    assert "notAuthorized" in printed
    assert "want the subject of the certificate that protects the request" in printed


def test_rejection_by_the_client_revokes_the_certificate(site: Site, tmp_path: Path) -> None:
    """openssl rejects in certConf what -out_trusted does not vouch for."""
    other = tmp_path / "other.pem"
    files = ["-keyout", tmp_path / "other.key", "-out", other]
    run(
        [
            "openssl",
            "req",
            "-x509",
            "-config",
            "/dev/null",
            "-newkey",
            "ed25519",
            "-nodes",
            "-subj",
            "/CN=other",
            *files,
        ]
    )
    key = new_key(tmp_path / "key", "p256")
    options = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=rejected", "-certout", tmp_path / "cert.pem"]
    site.openssl(*options, "-out_trusted", other, *site.mac(), ok=False)
    found = site.server.wait_for_log(r"certificate issued serial=(\S+) subject='CN=rejected'")
    site.server.wait_for_log(rf"certificate revoked serial={found[1]} reason=cessationOfOperation cause='certConf'")


def test_an_update_keeps_the_alternative_names(site: Site, tmp_path: Path) -> None:
    key, certificate = new_key(tmp_path / "key", "p256"), tmp_path / "cert.pem"
    options = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=device", "-sans", "device.example"]
    site.openssl(*options, "-certout", certificate, *site.mac())
    new, renewed = new_key(tmp_path / "new.key", "p256"), tmp_path / "new.pem"
    site.openssl("-cmd", "kur", "-newkey", new, "-certout", renewed, *site.signed(certificate, key))
    assert "DNS:device.example" in text_of(renewed)


def test_one_connection_serves_many_transactions(site: Site, tmp_path: Path) -> None:
    key = new_key(tmp_path / "key", "p256")
    options = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=device", "-certout", tmp_path / "cert.pem"]
    printed = site.openssl(*options, "-repeat", "20", *site.mac())
    assert len(re.findall("received PKICONF", printed)) == 20


def issue(directory: Path, name: str, issuer: str | None, subject: str, extensions: str) -> Path:
    """A certificate made by openssl, self-signed without `issuer`; its key stands beside it."""
    (directory / f"{name}.cnf").write_text(extensions)
    key, request, certificate = (directory / f"{name}.{end}" for end in ("key", "csr", "pem"))
    new_key(key, "rsa2048")
    run(["openssl", "req", "-new", "-config", "/dev/null", "-key", key, "-subj", subject, "-out", request])
    signer = ["-signkey", key]
    if issuer is not None:
        signer = ["-CA", directory / f"{issuer}.pem", "-CAkey", directory / f"{issuer}.key", "-CAcreateserial"]
    files = ["-in", request, "-extfile", directory / f"{name}.cnf", "-out", certificate]
    run(["openssl", "x509", "-req", "-days", "30", *files, *signer])
    return certificate


def test_a_device_with_its_makers_certificate_is_enrolled_and_updates(site: Site, tmp_path: Path) -> None:
    """RFC 9483 section 4.1.1: a device certificate of another PKI, whose root the operator has registered."""
    ca = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n"
    root = issue(tmp_path, "root", None, "/O=Maker/CN=Root", ca)
    middle = issue(tmp_path, "middle", "root", "/O=Maker/CN=Issuing", ca + "authorityKeyIdentifier=keyid\n")
    own = "keyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    device = issue(tmp_path, "device", "middle", "/O=Maker/CN=serial 4711", own)
    cmpd("entity", "add", "maker", "--config", site.installation.config, "--cert", root)
    key, certificate = new_key(tmp_path / "new.key", "p256"), tmp_path / "new.pem"
    wish = ["-newkey", key, "-subject", "/O=Maker/CN=serial 4711", "-certout", certificate]
    site.openssl("-cmd", "ir", *wish, "-untrusted", middle, *site.signed(device, tmp_path / "device.key"))
    updated = tmp_path / "updated.pem"
    newer = new_key(tmp_path / "newer.key", "p384")
    site.openssl("-cmd", "kur", "-newkey", newer, "-certout", updated, *site.signed(certificate, key))
    verify(site.installation.anchor, updated)
