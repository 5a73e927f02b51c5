"""What our own keys sign with: one row of SIGNING for each signature algorithm that can be produced.

Every kind of key has a usual algorithm; a configuration or a caller may name another one that fits the key. SHA-1 and
hashes of less than 256 bits are not there. What is verified is cmpd/signatures.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import identifier

SigningPrivateKey = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """A signature algorithm for producing. `sign(key, octets)` gives the octets of the BIT STRING.

    `identifier`: DER of the AlgorithmIdentifier. `family`: the kind of private key that it is for.
    """

    name: str
    identifier: bytes
    family: type
    sign: Callable[[Any, bytes], bytes]


def _ecdsa(name: str, oid: bytes, algorithm: hashes.HashAlgorithm) -> SignatureAlgorithm:
    scheme = ec.ECDSA(algorithm)  # made once: 1 us of each signature
    return SignatureAlgorithm(
        name, identifier(oid), ec.EllipticCurvePrivateKey, lambda key, octets: key.sign(octets, scheme)
    )


def _rsa(
    name: str, algorithm: bytes, scheme: padding.AsymmetricPadding, digest: hashes.HashAlgorithm
) -> SignatureAlgorithm:
    return SignatureAlgorithm(name, algorithm, rsa.RSAPrivateKey, lambda key, octets: key.sign(octets, scheme, digest))


def _pkcs1(name: str, oid: bytes, digest: hashes.HashAlgorithm) -> SignatureAlgorithm:
    return _rsa(name, identifier(oid, der.NULL_TLV), padding.PKCS1v15(), digest)


def _pss(name: str, oid: bytes, digest: hashes.HashAlgorithm) -> SignatureAlgorithm:
    """RSASSA-PSS with MGF1 of the same hash and a salt of its length (RFC 4055 section 3.1)."""
    hashed = identifier(oid)
    parameters = der.seq(
        der.explicit(0, hashed),
        der.explicit(1, identifier(oids.MGF1, hashed)),
        der.explicit(2, der.encode_integer(digest.digest_size)),
    )
    scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return _rsa(name, identifier(oids.RSASSA_PSS, parameters), scheme, digest)


def _plain(name: str, oid: bytes, family: type) -> SignatureAlgorithm:
    return SignatureAlgorithm(name, identifier(oid), family, lambda key, octets: key.sign(octets))


SIGNING: Final[dict[str, SignatureAlgorithm]] = {
    made.name: made
    for made in (
        _ecdsa("ecdsa-with-SHA256", oids.ECDSA_WITH_SHA256, hashes.SHA256()),
        _ecdsa("ecdsa-with-SHA384", oids.ECDSA_WITH_SHA384, hashes.SHA384()),
        _ecdsa("ecdsa-with-SHA512", oids.ECDSA_WITH_SHA512, hashes.SHA512()),
        _ecdsa("ecdsa-with-sha3-256", oids.ECDSA_WITH_SHA3_256, hashes.SHA3_256()),
        _ecdsa("ecdsa-with-sha3-384", oids.ECDSA_WITH_SHA3_384, hashes.SHA3_384()),
        _ecdsa("ecdsa-with-sha3-512", oids.ECDSA_WITH_SHA3_512, hashes.SHA3_512()),
        _ecdsa("ecdsa-with-shake128", oids.ECDSA_WITH_SHAKE128, hashes.SHAKE128(32)),
        _ecdsa("ecdsa-with-shake256", oids.ECDSA_WITH_SHAKE256, hashes.SHAKE256(64)),
        _pkcs1("sha256WithRSAEncryption", oids.SHA256_WITH_RSA, hashes.SHA256()),
        _pkcs1("sha384WithRSAEncryption", oids.SHA384_WITH_RSA, hashes.SHA384()),
        _pkcs1("sha512WithRSAEncryption", oids.SHA512_WITH_RSA, hashes.SHA512()),
        _pkcs1("rsassa-pkcs1-v1-5-with-sha3-256", oids.SHA3_256_WITH_RSA, hashes.SHA3_256()),
        _pkcs1("rsassa-pkcs1-v1-5-with-sha3-384", oids.SHA3_384_WITH_RSA, hashes.SHA3_384()),
        _pkcs1("rsassa-pkcs1-v1-5-with-sha3-512", oids.SHA3_512_WITH_RSA, hashes.SHA3_512()),
        _pss("rsassa-pss-sha256", oids.SHA256, hashes.SHA256()),
        _pss("rsassa-pss-sha384", oids.SHA384, hashes.SHA384()),
        _pss("rsassa-pss-sha512", oids.SHA512, hashes.SHA512()),
        _pss("rsassa-pss-sha3-256", oids.SHA3_256, hashes.SHA3_256()),
        _pss("rsassa-pss-sha3-384", oids.SHA3_384, hashes.SHA3_384()),
        _pss("rsassa-pss-sha3-512", oids.SHA3_512, hashes.SHA3_512()),
        _plain("Ed25519", oids.ED25519, ed25519.Ed25519PrivateKey),
        _plain("Ed448", oids.ED448, ed448.Ed448PrivateKey),
        _plain("ML-DSA-44", oids.ML_DSA_44, mldsa.MLDSA44PrivateKey),
        _plain("ML-DSA-65", oids.ML_DSA_65, mldsa.MLDSA65PrivateKey),
        _plain("ML-DSA-87", oids.ML_DSA_87, mldsa.MLDSA87PrivateKey),
    )
}
"""What a private key can sign with, by the name that the algorithm's RFC gives it without `id-`."""

_BY_CURVE: Final = {
    "secp256r1": "ecdsa-with-SHA256",
    "secp384r1": "ecdsa-with-SHA384",
    "secp521r1": "ecdsa-with-SHA512",
    "brainpoolP256r1": "ecdsa-with-SHA256",
    "brainpoolP384r1": "ecdsa-with-SHA384",
    "brainpoolP512r1": "ecdsa-with-SHA512",
}
_BY_FAMILY: Final[tuple[tuple[type, str], ...]] = (
    (rsa.RSAPrivateKey, "sha256WithRSAEncryption"),
    (ed25519.Ed25519PrivateKey, "Ed25519"),
    (ed448.Ed448PrivateKey, "Ed448"),
    (mldsa.MLDSA44PrivateKey, "ML-DSA-44"),
    (mldsa.MLDSA65PrivateKey, "ML-DSA-65"),
    (mldsa.MLDSA87PrivateKey, "ML-DSA-87"),
)


def algorithm_name(identifier: bytes) -> str | None:
    """The name in SIGNING of an AlgorithmIdentifier (DER); None if it is none of ours."""
    return next((name for name, made in SIGNING.items() if made.identifier == identifier), None)


def signature_algorithm(key: object, name: str | None = None) -> SignatureAlgorithm:
    """What a private key of ours (SigningPrivateKey, or a subclass that delegates to a token) signs with.

    `name`: one of SIGNING; without it the hash has the strength of the curve, and RSA is PKCS #1 v1.5 with SHA-256.
    ValueError for any other kind of key, and for an algorithm that is not one for this kind.
    """
    usual = _usual(key)
    if name is None:
        return SIGNING[usual]
    found = SIGNING.get(name)
    if found is None or not isinstance(key, found.family):
        fitting = [one.name for one in SIGNING.values() if isinstance(key, one.family)]
        raise ValueError(f"signature algorithm: want one of {', '.join(fitting)} with this key, have {name}")
    return found


def _usual(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in _BY_CURVE:
            raise ValueError(f"EC key: want P-256, P-384, P-521 or brainpool's of 256 to 512, have {key.curve.name}")
        return _BY_CURVE[key.curve.name]
    for family, name in _BY_FAMILY:
        if isinstance(key, family):
            return name
    raise ValueError(f"key: want EC, RSA, Ed25519, Ed448 or ML-DSA, have {type(key).__name__}")
