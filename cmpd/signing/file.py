"""Signing keys in encrypted PKCS#8 files (PEM), and the certificates beside them.

ECDSA on NIST's curves and EdDSA sign where they are called: 30 to 300 microseconds are cheaper than a way to another
thread and back. RSA, ML-DSA and brainpool's curves take up to 5 milliseconds and go through `offload`, which the
composition root hands in; so do octets that take as long to be hashed, which large CRLs do. A key is written under
PBKDF2 with 600,000 iterations, because the passphrase may be one that a person chose; `cryptography` itself would use
2,048.
"""

import base64
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from cmpd.asn1 import der
from cmpd.asn1.algorithms import hmac_identifier
from cmpd.asn1.signing import SigningPrivateKey, signature_algorithm
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.private_keys import EncryptionPrivateKey
from cmpd.public_keys import key_fault, modulus_fault

Offload = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Runs a function that takes milliseconds off the loop and gives its result."""

LARGE: Final = 1 << 16
"""From so many octets on, hashing them costs more than a way to another thread and back."""

_USAGES: Final[dict[str, Callable[[x509.KeyUsage], bool]]] = {
    "keyEncipherment": lambda usage: usage.key_encipherment,
    "keyAgreement": lambda usage: usage.key_agreement,
}
_ITERATIONS: Final = 600_000
_MARK: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_MAX_OCTETS: Final = 1_000_000
_PBES2: Final = "1.2.840.113549.1.5.13"
_PBKDF2: Final = "1.2.840.113549.1.5.12"
_AES256_CBC: Final = "2.16.840.1.101.3.4.1.42"


class FileKey:
    """A SigningKey (see base.py) that is held in memory."""

    __slots__ = ("_inline", "_key", "_offload", "_sign", "algorithm", "public_key_info")

    def __init__(self, key: SigningPrivateKey, *, offload: Offload | None = None, signature: str | None = None) -> None:
        """`offload` is used by slow keys, and for LARGE octets; None: all sign where they are called.

        `signature`: the algorithm, one of asn1.signing.SIGNING; None: the usual one for the kind of key. ValueError:
        unfit key or algorithm.
        """
        chosen = signature_algorithm(key, signature)
        self.algorithm: bytes = chosen.identifier
        self.public_key_info: bytes = public_key_info(key)
        self._key = key
        self._sign = chosen.sign
        self._offload = offload
        self._inline = LARGE if _is_fast(key) else 0  # fewer octets are signed where it is called

    async def sign(self, octets: bytes) -> bytes:
        """The signature over `octets`; suspends only with `offload`, if the key is slow or they are LARGE."""
        if self._offload is None or len(octets) < self._inline:
            return self._sign(self._key, octets)
        return await self._offload(lambda: self._sign(self._key, octets))


def _is_fast(key: SigningPrivateKey) -> bool:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.curve.name.startswith("secp")
    return isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)


def load_key(
    path: Path,
    passphrase: bytes,
    certificate: bytes,
    *,
    offload: Offload | None = None,
    signature: str | None = None,
) -> FileKey:
    """The key in `path`, which must be the one of `certificate` (DER), to sign with `signature`; else ConfigError."""
    key = read_private_key(path, passphrase)
    try:
        loaded = FileKey(key, offload=offload, signature=signature)
    except ValueError as error:
        raise ConfigError(f"key {path}: {error}") from error
    if loaded.public_key_info != spki_of(certificate):
        raise ConfigError(f"key {path}: is not the key of the certificate it is used with")
    return loaded


def read_private_key(path: Path, passphrase: bytes) -> SigningPrivateKey:
    """The private key in an encrypted PKCS#8 file, one that can sign; ConfigError says what is wrong."""
    key = read_any_private_key(path, passphrase)
    if isinstance(key, EncryptionPrivateKey):
        raise ConfigError(f"key {path}: want a key that can sign, have {type(key).__name__.removesuffix('PrivateKey')}")
    public = key.public_key()
    if fault := key_fault(public, public_key_info(key)) or modulus_fault(public):
        raise ConfigError(f"key {path}: {fault}")
    return key


def read_any_private_key(path: Path, passphrase: bytes) -> SigningPrivateKey | EncryptionPrivateKey:
    """The same, also for a key that cannot sign."""
    octets = _read(path, "key")
    if _MARK not in octets:
        raise ConfigError(
            f"key {path}: is not encrypted PKCS#8 (ENCRYPTED PRIVATE KEY): make it so with openssl pkcs8 -topk8"
        )
    try:
        key = load_pem_private_key(octets, passphrase)
        if isinstance(key, EncryptionPrivateKey):
            return key
        signature_algorithm(key)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"key {path}: cannot be opened, wrong passphrase or no key that can be used ({error})"
        ) from error
    return cast(SigningPrivateKey, key)


def check_certificate(
    path: Path, key: SigningPrivateKey | EncryptionPrivateKey, certificate: bytes, usage: str
) -> None:
    """ConfigError unless `certificate` (DER) is that of the key in `path`, and its keyUsage, if it has one, `usage`."""
    if public_key_info(key) != spki_of(certificate):
        raise ConfigError(f"key {path}: is not the key of the certificate it is used with")
    try:
        found = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not _USAGES[usage](found):
        raise ConfigError(f"key {path}: its certificate's keyUsage has no {usage}")


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """DER of all certificates in a PEM file, in its order, at least one; ConfigError says what is wrong."""
    octets = _read(path, "certificate")
    if b"CERTIFICATE-----" not in octets:
        have = "a private key" if b"PRIVATE KEY-----" in octets else "none"
        raise ConfigError(f"certificate {path}: want certificates in PEM, have {have}")
    try:
        found = x509.load_pem_x509_certificates(octets)
        for certificate in found:
            certificate.extensions, certificate.subject, certificate.issuer  # noqa: B018 -- parsed on access
    except (ValueError, TypeError) as error:
        raise ConfigError(f"certificate {path}: want certificates in PEM, have something else ({error})") from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)


def spki_of(certificate: bytes) -> bytes:
    """DER of the SubjectPublicKeyInfo of a certificate (DER)."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_key_info(key: SigningPrivateKey | EncryptionPrivateKey) -> bytes:
    """DER of the SubjectPublicKeyInfo that goes with a private key."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def encrypted_pem(key: SigningPrivateKey | EncryptionPrivateKey, passphrase: bytes, env: Env) -> bytes:
    """The key as encrypted PKCS#8 in PEM: PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC (RFC 5958, RFC 8018)."""
    salt, iv = env.random(16), env.random(16)
    pad = padding.PKCS7(128).padder()
    clear = pad.update(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())) + pad.finalize()
    secret = PBKDF2HMAC(hashes.SHA256(), 32, salt, _ITERATIONS).derive(passphrase)
    cipher = Cipher(algorithms.AES256(secret), modes.CBC(iv)).encryptor()
    derivation = der.seq(
        der.encode_oid(_PBKDF2),
        der.seq(der.encode_octets(salt), der.encode_integer(_ITERATIONS), hmac_identifier("sha256")),
    )
    encryption = der.seq(der.encode_oid(_AES256_CBC), der.encode_octets(iv))
    return pem(
        "ENCRYPTED PRIVATE KEY",
        der.seq(
            der.seq(der.encode_oid(_PBES2), der.seq(derivation, encryption)),
            der.encode_octets(cipher.update(clear) + cipher.finalize()),
        ),
    )


def pem(label: str, octets: bytes) -> bytes:
    """`octets` as PEM (RFC 7468)."""
    lines = textwrap.wrap(base64.b64encode(octets).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def _read(path: Path, noun: str) -> bytes:
    try:
        with path.open("rb") as file:
            octets = file.read(_MAX_OCTETS + 1)
    except OSError as error:
        raise ConfigError(f"{noun} {path}: cannot be read: {error.strerror}") from error
    if len(octets) > _MAX_OCTETS:
        raise ConfigError(f"{noun} {path}: is longer than {_MAX_OCTETS} octets")
    return octets
