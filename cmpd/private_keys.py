"""Private keys that are made here: for a new CA, its server and its OCSP responder, and by cmpc for end entities.

One row of KEY_TYPES for each kind; the names are those that profiles use for public keys, RSA with its size.
"""

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1.signing import SigningPrivateKey

KEY_TYPES: Final[dict[str, Callable[[], SigningPrivateKey]]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "brainpoolP256r1": lambda: ec.generate_private_key(ec.BrainpoolP256R1()),
    "brainpoolP384r1": lambda: ec.generate_private_key(ec.BrainpoolP384R1()),
    "brainpoolP512r1": lambda: ec.generate_private_key(ec.BrainpoolP512R1()),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "mldsa44": mldsa.MLDSA44PrivateKey.generate,
    "mldsa65": mldsa.MLDSA65PrivateKey.generate,
    "mldsa87": mldsa.MLDSA87PrivateKey.generate,
}

EncryptionPrivateKey = (
    x25519.X25519PrivateKey | x448.X448PrivateKey | mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey
)
"""Keys that cannot sign."""

ENCRYPTION_KEY_TYPES: Final[dict[str, Callable[[], EncryptionPrivateKey]]] = {
    "x25519": x25519.X25519PrivateKey.generate,
    "x448": x448.X448PrivateKey.generate,
    "mlkem768": mlkem.MLKEM768PrivateKey.generate,
    "mlkem1024": mlkem.MLKEM1024PrivateKey.generate,
}
"""How they are made, for end entities; what the server has of them, cmpd/signing/ says."""

_SAME: Final[tuple[tuple[tuple[type, type], str], ...]] = (
    ((ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey), "ed25519"),
    ((ed448.Ed448PrivateKey, ed448.Ed448PublicKey), "ed448"),
    ((mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey), "mldsa44"),
    ((mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey), "mldsa65"),
    ((mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey), "mldsa87"),
)


def same_kind(key: SigningPrivateKey | PublicKeyTypes) -> SigningPrivateKey:
    """A new key of the same type as a private or a public one; RSA of at least 3072 bits. ValueError: cannot sign."""
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return ec.generate_private_key(key.curve)
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return rsa.generate_private_key(65537, max(3072, key.key_size))
    for families, name in _SAME:
        if isinstance(key, families):
            return KEY_TYPES[name]()
    raise ValueError(f"key: want one that can sign, have {type(key).__name__}")
