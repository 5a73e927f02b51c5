"""Private keys of an end entity: made, kept in files of mode 0600, read again, and signed with.

One table row per kind of key that `cmpc` makes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from cmpd.asn1 import algorithms
from cmpd.asn1.algorithms import SignatureAlgorithm
from cmpd.client.errors import ClientError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

KEY_TYPES: Final[dict[str, Callable[[], PrivateKey]]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
}


def signature_algorithm(key: PrivateKey) -> SignatureAlgorithm:
    """The algorithm that a private key signs with; ClientError for a curve that CMP has none for."""
    try:
        return algorithms.signature_algorithm(key)
    except ValueError as error:
        raise ClientError(f"private key: {error}") from None


def sign(key: PrivateKey, octets: bytes) -> bytes:
    """The signature over `octets`, as it goes into a BIT STRING."""
    return signature_algorithm(key).sign(key, octets)


def public_key_info(key: PrivateKey) -> bytes:
    """DER of the SubjectPublicKeyInfo of a private key."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_key(path: Path, passphrase: bytes | None = None, *, option: str = "--key-passphrase-file") -> PrivateKey:
    """Read a private key from a PEM or DER file (PKCS #8 or the older forms). ClientError says what is wrong.

    `option`: what gives the passphrase, for that text.
    """
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
    if not isinstance(key, PrivateKey):
        raise ClientError(f"private key {path}: want RSA, EC, Ed25519 or Ed448, have {type(key).__name__}")
    return key


def save_key(path: Path, key: PrivateKey) -> None:
    """Write a private key (PEM, PKCS #8, not encrypted) into a new file of mode 0600, durable before this returns.

    FileExistsError if the file is there: a private key is never overwritten.
    """
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
