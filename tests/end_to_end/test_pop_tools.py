"""Keys that do not sign, through the commands: `openssl cmp` with popo KEYENC, and `cmpc`, against a live process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from cmpd.cli import cmpc as command
from cmpd.client.keys import public_key_info
from tests.bridge import ThreadBridge
from tests.support import Installation, Server, needs_openssl, new_key, run, verify

EXTENSIONS = "[ours]\nkeyUsage = critical,keyEncipherment\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Server, Path]]:
    installation = Installation.make(tmp_path_factory.mktemp("ca") / "var")
    secret = installation.add_secret("device", "a secret of the tests", "--uses", "unlimited")
    with installation.serving() as server:
        yield installation, server, secret
    assert "Traceback" not in server.log_text()


@needs_openssl
@pytest.mark.parametrize("implicit", [True, False])
def test_openssl_decrypts_its_certificate_and_confirms_it(
    served: tuple[Installation, Server, Path], tmp_path: Path, implicit: bool
) -> None:
    """Its messages have pvno 2, so this is EncryptedValue as another implementation reads it."""
    installation, server, secret = served
    key, certificate = new_key(tmp_path / "key.pem", "rsa2048"), tmp_path / "cert.pem"
    (tmp_path / "openssl.cnf").write_text(EXTENSIONS)
    with ThreadBridge(server.host, server.port) as bridge:
        options: list[str | Path] = [
            "-server",
            f"127.0.0.1:{bridge.port}",
            "-path",
            "pkix/",
            "-cmd",
            "ir",
            "-popo",
            "2",
        ]
        options += ["-newkey", key, "-subject", "/CN=decrypts", "-reqexts", "ours", "-certout", certificate]
        options += ["-ref", "device", "-secret", f"file:{secret}", *(["-implicit_confirm"] if implicit else [])]
        done = run(["openssl", "cmp", "-config", tmp_path / "openssl.cnf", *options], ok=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{server.log_text()[-3000:]}"
    assert "received PKICONF" in done.stdout + done.stderr  # also where it asked for implicitConfirm
    verify(installation.anchor, certificate)
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert loaded.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment
    assert f"{loaded.serial_number:032x}" in server.log_text()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("x25519", []),
        ("x448", ["--popo", "challengeResp"]),
        ("mlkem768", ["--popo", "encrCert"]),
        ("mlkem1024", ["--popo", "challengeResp"]),
        ("rsa2048", ["--popo", "encrCert"]),
        ("rsa3072", ["--popo", "challengeResp"]),
        ("p256", ["--popo", "challengeResp"]),
    ],
)
def test_cmpc_gets_a_certificate_for_a_key_that_encrypts(
    served: tuple[Installation, Server, Path], tmp_path: Path, kind: str, options: list[str]
) -> None:
    _, server, secret = served
    words = ["ir", "--server", f"{server.host}:{server.port}", "--ref", "device", "--secret-file", str(secret)]
    words += ["--subject", "CN=encrypts", "--key-type", kind, "--out-dir", str(tmp_path), *options]
    assert command.main(words) == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_encipherment or usage.key_agreement
    assert not usage.digital_signature
    key = load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    made = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert made == public_key_info(key)


@pytest.mark.parametrize(
    ("kind", "popo", "text"),
    [("x25519", "signature", "cannot sign"), ("ed25519", "encrCert", "nothing but sign")],
)
def test_cmpc_asks_for_no_proof_that_the_key_cannot_give(
    tmp_path: Path, kind: str, popo: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("x")
    words = ["ir", "--server", "127.0.0.1:1", "--ref", "a", "--secret-file", str(tmp_path / "secret"), "--subject"]
    words += ["CN=x", "--key-type", kind, "--popo", popo, "--out-dir", str(tmp_path)]
    assert command.main(words) != 0
    assert text in capsys.readouterr().err
