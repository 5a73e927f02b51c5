"""Keys in files: they sign what verifies, and a wrong file says what is wrong with it."""

import asyncio
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.x509.oid import NameOID

from cmpd.asn1 import der
from cmpd.asn1.signing import SIGNING
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.signatures import is_signed
from cmpd.signing import file as signing_file
from cmpd.signing.base import SigningKey
from cmpd.signing.file import LARGE, FileKey, encrypted_pem, load_key, pem, read_certificates, read_private_key
from tests.support import needs_openssl

KEYS = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ed448": ed448.Ed448PrivateKey.generate(),
    "brainpool": ec.generate_private_key(ec.BrainpoolP384R1()),
    "mldsa44": mldsa.MLDSA44PrivateKey.generate(),
    "mldsa87": mldsa.MLDSA87PrivateKey.generate(),
}
SLOW = {"rsa", "brainpool", "mldsa44", "mldsa87"}
ALGORITHMS = {
    "p256": der.seq(der.encode_oid("1.2.840.10045.4.3.2")),
    "p384": der.seq(der.encode_oid("1.2.840.10045.4.3.3")),
    "p521": der.seq(der.encode_oid("1.2.840.10045.4.3.4")),
    "rsa": der.seq(der.encode_oid("1.2.840.113549.1.1.11"), der.NULL_TLV),
    "ed25519": der.seq(der.encode_oid("1.3.101.112")),
    "ed448": der.seq(der.encode_oid("1.3.101.113")),
    "brainpool": der.seq(der.encode_oid("1.2.840.10045.4.3.3")),
    "mldsa44": der.seq(der.encode_oid("2.16.840.1.101.3.4.3.17")),
    "mldsa87": der.seq(der.encode_oid("2.16.840.1.101.3.4.3.19")),
}
VERIFY: dict[str, Callable[[bytes, bytes], None]] = {
    "p256": lambda tag, data: KEYS["p256"].public_key().verify(tag, data, ec.ECDSA(hashes.SHA256())),
    "p384": lambda tag, data: KEYS["p384"].public_key().verify(tag, data, ec.ECDSA(hashes.SHA384())),
    "p521": lambda tag, data: KEYS["p521"].public_key().verify(tag, data, ec.ECDSA(hashes.SHA512())),
    "rsa": lambda tag, data: KEYS["rsa"].public_key().verify(tag, data, padding.PKCS1v15(), hashes.SHA256()),
    "ed25519": lambda tag, data: KEYS["ed25519"].public_key().verify(tag, data),
    "ed448": lambda tag, data: KEYS["ed448"].public_key().verify(tag, data),
    "brainpool": lambda tag, data: KEYS["brainpool"].public_key().verify(tag, data, ec.ECDSA(hashes.SHA384())),
    "mldsa44": lambda tag, data: KEYS["mldsa44"].public_key().verify(tag, data),
    "mldsa87": lambda tag, data: KEYS["mldsa87"].public_key().verify(tag, data),
}


@pytest.fixture(autouse=True)
def fewer_iterations(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signing_file, "_ITERATIONS", 1000)


def certificate(key) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(key.public_key())
    )
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    algorithm = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("kind", KEYS)
async def test_signatures_verify_and_do_not_with_one_bit_flipped(kind: str):
    key: SigningKey = FileKey(KEYS[kind])
    tag = await key.sign(b"octets")
    VERIFY[kind](tag, b"octets")
    with pytest.raises(InvalidSignature):
        VERIFY[kind](tag, b"octetr")
    with pytest.raises(InvalidSignature):
        VERIFY[kind](tag[:-1] + bytes((tag[-1] ^ 1,)), b"octets")


@pytest.mark.parametrize("kind", KEYS)
def test_algorithm_identifiers_are_those_of_the_rfcs(kind: str):
    assert FileKey(KEYS[kind]).algorithm == ALGORITHMS[kind]


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("octets", [b"octets", bytes(LARGE - 1), bytes(LARGE)], ids=["few", "not large", "large"])
def test_only_slow_keys_and_large_octets_go_through_the_offload_and_only_then_suspend(kind: str, octets: bytes):
    calls: list[str] = []

    async def offload(action: Callable[[], bytes]) -> bytes:
        calls.append(kind)
        await asyncio.sleep(0)
        return action()

    signing = FileKey(KEYS[kind], offload=offload).sign(octets)
    goes_off = kind in SLOW or len(octets) == LARGE
    if goes_off:
        tag = asyncio.run(signing)
    else:
        with pytest.raises(StopIteration) as done:
            signing.send(None)  # ends at once: nothing was awaited
        tag = done.value.value
    VERIFY[kind](tag, octets)
    assert calls == ([kind] if goes_off else [])


@pytest.mark.parametrize("kind", KEYS)
async def test_without_an_offload_large_octets_are_signed_too(kind: str):
    VERIFY[kind](await FileKey(KEYS[kind]).sign(bytes(LARGE)), bytes(LARGE))


@pytest.mark.parametrize("kind", ["mldsa44", "mldsa87"])
def test_a_written_ml_dsa_key_is_read_again(tmp_path: Path, kind: str):
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted_pem(KEYS[kind], b"pass word", Env()))
    own = certificate(KEYS[kind])
    assert load_key(path, b"pass word", own).public_key_info == signing_file.spki_of(own)


@pytest.mark.parametrize("name", ["rsassa-pss-sha256", "rsassa-pkcs1-v1-5-with-sha3-512"])
async def test_a_key_signs_with_the_algorithm_that_is_named(tmp_path: Path, name: str):
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted_pem(KEYS["rsa"], b"x", Env()))
    key = load_key(path, b"x", certificate(KEYS["rsa"]), signature=name)
    assert key.algorithm == SIGNING[name].identifier
    assert is_signed(key.algorithm, KEYS["rsa"].public_key(), await key.sign(b"octets"), b"octets")
    with pytest.raises(ConfigError, match=r"signature algorithm: want one of .* with this key, have Ed25519"):
        load_key(path, b"x", certificate(KEYS["rsa"]), signature="Ed25519")


@needs_openssl
@pytest.mark.parametrize("kind", [kind for kind in KEYS if not kind.startswith("mldsa")])
def test_a_written_key_is_read_again_also_by_openssl(tmp_path: Path, kind: str):
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted_pem(KEYS[kind], b"pass word", Env()))
    own = certificate(KEYS[kind])
    assert load_key(path, b"pass word", own).public_key_info == signing_file.spki_of(own)
    command = ["openssl", "pkey", "-in", str(path), "-passin", "pass:pass word", "-pubout", "-outform", "DER"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == signing_file.spki_of(own)


@needs_openssl
def test_what_is_written_costs_a_guess_600_000_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted_pem(KEYS["p256"], b"x", Env()))
    shown = subprocess.run(
        ["openssl", "asn1parse", "-in", str(path)], capture_output=True, check=True, text=True
    ).stdout
    assert f":{600_000:06X}" in shown
    assert all(name in shown for name in ("PBES2", "PBKDF2", "hmacWithSHA256", "aes-256-cbc"))
    assert read_private_key(path, b"x").private_numbers() == KEYS["p256"].private_numbers()


@pytest.mark.parametrize(
    ("exponent", "bits", "text"),
    [
        (65537, 1024, "want an RSA key of 2048 to 16384 bits, have 1024"),
        (3, 2048, "want an odd RSA exponent of at least 65537"),
    ],
)
def test_a_weak_key_of_our_own_is_refused_too(tmp_path: Path, exponent: int, bits: int, text: str):
    path, key = tmp_path / "key.pem", rsa.generate_private_key(exponent, bits)
    path.write_bytes(encrypted_pem(key, b"x", Env()))
    with pytest.raises(ConfigError, match=text):
        load_key(path, b"x", certificate(key))


def test_key_of_another_certificate_is_refused(tmp_path: Path):
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted_pem(KEYS["p256"], b"x", Env()))
    with pytest.raises(ConfigError, match="is not the key of the certificate"):
        load_key(path, b"x", certificate(KEYS["p384"]))


def test_wrong_passphrase_is_refused(tmp_path: Path):
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted_pem(KEYS["p256"], b"x", Env()))
    with pytest.raises(ConfigError, match="wrong passphrase"):
        read_private_key(path, b"y")


def test_a_key_in_the_clear_is_refused(tmp_path: Path):
    path = tmp_path / "key.pem"
    clear = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(KEYS["p256"].private_bytes(*clear))
    with pytest.raises(ConfigError, match="is not encrypted PKCS#8"):
        read_private_key(path, b"x")


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256K1()), dsa.generate_private_key(1024)])
def test_a_key_that_signs_nothing_of_ours_is_refused(tmp_path: Path, key):
    path = tmp_path / "key.pem"
    path.write_bytes(encrypted_pem(key, b"x", Env()))
    with pytest.raises(ConfigError, match="want "):
        read_private_key(path, b"x")


def test_missing_and_endless_files_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_private_key(tmp_path / "none", b"x")
    (tmp_path / "long").write_bytes(b"x" * 1_000_001)
    with pytest.raises(ConfigError, match="longer than"):
        read_certificates(tmp_path / "long")


def test_all_certificates_of_a_file_are_read_in_order(tmp_path: Path):
    wanted = tuple(certificate(KEYS[kind]) for kind in ("p256", "ed448", "rsa"))
    path = tmp_path / "certs.pem"
    path.write_bytes(b"a comment\n" + b"".join(pem("CERTIFICATE", one) for one in wanted))
    assert read_certificates(path) == wanted


@pytest.mark.parametrize("octets", [b"", b"text", pem("CERTIFICATE", b"\x30\x00"), pem("CRL", b"\x30\x00")])
def test_what_is_no_certificate_is_refused(tmp_path: Path, octets: bytes):
    path = tmp_path / "certs.pem"
    path.write_bytes(octets)
    with pytest.raises(ConfigError, match="want certificates in PEM"):
        read_certificates(path)
