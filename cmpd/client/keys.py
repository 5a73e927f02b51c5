"""Private keys of an end entity: kept in files of mode 0600, read again, and signed with.

What kinds of keys `cmpc` makes is in cmpd/private_keys.py.
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from cmpd.asn1 import signing
from cmpd.asn1.signing import SignatureAlgorithm, SigningPrivateKey
from cmpd.client.errors import ClientError
from cmpd.private_keys import ENCRYPTION_KEY_TYPES, KEY_TYPES, EncryptionPrivateKey

__all__ = [
    "ENCRYPTION_KEY_TYPES",
    "KEY_TYPES",
    "AnyPrivateKey",
    "EncryptionPrivateKey",
    "PrivateKey",
    "load_any_key",
    "load_key",
    "public_key_info",
    "save_key",
    "sign",
    "signature_algorithm",
]

PrivateKey = SigningPrivateKey
AnyPrivateKey = SigningPrivateKey | EncryptionPrivateKey


def signature_algorithm(key: PrivateKey, name: str | None = None) -> SignatureAlgorithm:
    """The algorithm that a private key signs with, `name` (one of asn1.signing.SIGNING) or the usual one.

    ClientError for a curve that CMP has none for, and for an algorithm that does not fit the key.
    """
    try:
        return signing.signature_algorithm(key, name)
    except ValueError as error:
        raise ClientError(f"private key: {error}") from None


def sign(key: PrivateKey, octets: bytes, name: str | None = None) -> bytes:
    """The signature over `octets`, as it goes into a BIT STRING; `name`: as of `signature_algorithm`."""
    return signature_algorithm(key, name).sign(key, octets)


def public_key_info(key: AnyPrivateKey) -> bytes:
    """DER of the SubjectPublicKeyInfo of a private key."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_key(path: Path, passphrase: bytes | None = None, *, option: str = "--key-passphrase-file") -> PrivateKey:
    """Read a private key from a PEM or DER file (PKCS #8 or the older forms). ClientError says what is wrong.

    `option`: what gives the passphrase, for that text.
    """
    key = load_any_key(path, passphrase, option=option)
    if not isinstance(key, PrivateKey):
        raise ClientError(f"private key {path}: want RSA, EC, Ed25519, Ed448 or ML-DSA, have {type(key).__name__}")
    return key


def load_any_key(
    path: Path, passphrase: bytes | None = None, *, option: str = "--key-passphrase-file"
) -> AnyPrivateKey:
    """As `load_key`, for a key that is to be certified, which need not sign."""
    octets = path.read_bytes()
    load = serialization.load_pem_private_key if b"-----BEGIN" in octets else serialization.load_der_private_key
    try:
        key = load(octets, passphrase)
    except TypeError:
        wanted = f"is encrypted: give {option}" if passphrase is None else "is not encrypted"
        raise ClientError(f"private key {path} {wanted}") from None
    except ValueError:
        reason = "wrong passphrase, or not a private key" if passphrase is not None else "not a private key"
        raise ClientError(f"private key {path}: {reason}") from None
    if not isinstance(key, PrivateKey | EncryptionPrivateKey):
        raise ClientError(f"private key {path}: want one that can be certified, have {type(key).__name__}")
    return key


def save_key(path: Path, key: AnyPrivateKey) -> None:
    """Write a private key (PEM, PKCS #8, not encrypted) into a new file of mode 0600, durable before this returns.

    FileExistsError if the file is there: a private key is never overwritten.
    """
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
