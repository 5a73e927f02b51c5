"""The server's KEM key: it opens what was made for it, says so by the length alone if not, and stays in a file."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa, x25519

from cmpd.asn1 import der
from cmpd.errors import BadMessageCheck, ConfigError
from cmpd.protection.base import KemKey
from cmpd.signing import file as signing_file
from cmpd.signing.file import read_private_key
from cmpd.signing.kem import KEM_KEYS, MlKemKey, load_kem_key
from tests.signing.pairs import PASSPHRASE, certificate, key_file

KEYS: dict[str, Any] = {name: make() for name, make in KEM_KEYS.items()}
ALGORITHMS = {
    "mlkem768": bytes.fromhex("300b0609608648016503040402"),
    "mlkem1024": bytes.fromhex("300b0609608648016503040403"),
}


@pytest.fixture(autouse=True)
def fewer_iterations(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signing_file, "_ITERATIONS", 1000)


@pytest.mark.parametrize("kind", KEYS)
async def test_what_was_encapsulated_is_opened(kind: str):
    own = certificate(KEYS[kind])
    key: KemKey = MlKemKey(KEYS[kind], own)
    secret, ciphertext = KEYS[kind].public_key().encapsulate()
    assert await key.decapsulate(ALGORITHMS[kind], ciphertext) == secret
    assert key.certificate == own


@pytest.mark.parametrize("kind", KEYS)
async def test_a_ciphertext_for_another_key_gives_a_secret_that_nobody_else_has(kind: str):
    """FIPS 203 algorithm 18, line 9: J(z || c), from the second half of the seed."""
    key = MlKemKey(KEYS[kind], b"")
    secret, ciphertext = KEM_KEYS[kind]().public_key().encapsulate()
    found = await key.decapsulate(ALGORITHMS[kind], ciphertext)
    assert found != secret
    assert found == hashlib.shake_256(KEYS[kind].private_bytes_raw()[32:] + ciphertext).digest(32)


@pytest.mark.parametrize("kind", KEYS)
async def test_a_ciphertext_that_cannot_be_for_this_key_fails_the_message_check(kind: str):
    key = MlKemKey(KEYS[kind], b"")
    _, ciphertext = KEYS[kind].public_key().encapsulate()
    for octets in (b"", ciphertext[:-1], ciphertext + b"\0"):
        with pytest.raises(BadMessageCheck, match=f"ct: want .*{kind}.*have {len(octets)} octets") as fault:
            await key.decapsulate(ALGORITHMS[kind], octets)
        assert fault.value.cited == "RFC 9810 section 5.1.3.4"
    (other,) = KEYS.keys() - {kind}
    null = der.seq(ALGORITHMS[kind][2:], der.NULL_TLV)
    for algorithm in (ALGORITHMS[other], null, ALGORITHMS[kind][:-1] + b"\1", b""):
        with pytest.raises(BadMessageCheck, match=f"kem: want the algorithm of the server's key, {kind}"):
            await key.decapsulate(algorithm, ciphertext)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("usages", [(), ("key_encipherment",)])
async def test_a_written_key_is_read_again(tmp_path: Path, kind: str, usages: tuple[str, ...]):
    key = load_kem_key(key_file(tmp_path, KEYS[kind]), PASSPHRASE, certificate(KEYS[kind], *usages))
    secret, ciphertext = KEYS[kind].public_key().encapsulate()
    assert await key.decapsulate(ALGORITHMS[kind], ciphertext) == secret


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_does_not_fit_its_certificate_is_a_mistake(tmp_path: Path, kind: str):
    path = key_file(tmp_path, KEYS[kind])
    with pytest.raises(ConfigError, match="not the key of the certificate"):
        load_kem_key(path, PASSPHRASE, certificate(KEM_KEYS[kind]()))
    with pytest.raises(ConfigError, match="its certificate's keyUsage has no keyEncipherment"):
        load_kem_key(path, PASSPHRASE, certificate(KEYS[kind], "key_agreement"))
    with pytest.raises(ConfigError, match="wrong passphrase"):
        load_kem_key(path, b"another", certificate(KEYS[kind]))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        x25519.X25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
    ],
)
def test_a_key_that_is_not_for_a_kem_is_a_mistake(tmp_path: Path, key: Any):
    with pytest.raises(ConfigError, match="want an ML-KEM-768 or ML-KEM-1024 key"):
        load_kem_key(key_file(tmp_path, key), PASSPHRASE, certificate(key))


@pytest.mark.parametrize("key", [mlkem.MLKEM1024PrivateKey.generate(), x25519.X25519PrivateKey.generate()])
def test_no_signature_is_asked_of_a_key_that_cannot_sign(tmp_path: Path, key: Any):
    with pytest.raises(ConfigError, match="want a key that can sign, have"):
        read_private_key(key_file(tmp_path, key), PASSPHRASE)
