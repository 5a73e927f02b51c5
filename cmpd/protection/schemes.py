"""The table of protection algorithms, by the contents octets of their OIDs. A new algorithm is one more row."""

from functools import lru_cache
from typing import Final

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import read_whole_algorithm
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.protection import pbm, pbmac1, signature
from cmpd.protection.base import MacScheme, SignatureScheme
from cmpd.protection.signature import MAX_SIGNATURE_ALGORITHM

MAC_SCHEMES: Final[dict[bytes, MacScheme]] = {
    oids.PASSWORD_BASED_MAC: pbm,
    oids.PBMAC1: pbmac1,
}

SIGNATURE_SCHEMES: Final[dict[bytes, SignatureScheme]] = {
    oids.ECDSA_WITH_SHA256: signature.ecdsa("sha256"),
    oids.ECDSA_WITH_SHA384: signature.ecdsa("sha384"),
    oids.ECDSA_WITH_SHA512: signature.ecdsa("sha512"),
    oids.SHA256_WITH_RSA: signature.rsa_pkcs1("sha256"),
    oids.SHA384_WITH_RSA: signature.rsa_pkcs1("sha384"),
    oids.SHA512_WITH_RSA: signature.rsa_pkcs1("sha512"),
    oids.RSASSA_PSS: signature.PssScheme(),
    oids.ED25519: signature.ED25519,
    oids.ED448: signature.ED448,
}

SCHEMES: Final[dict[bytes, MacScheme | SignatureScheme]] = {**MAC_SCHEMES, **SIGNATURE_SCHEMES}

REFUSED: Final[dict[bytes, str]] = {
    oids.MD2_WITH_RSA: "MD2",
    oids.MD5_WITH_RSA: "MD5",
    oids.SHA1_WITH_RSA: "SHA-1",
    oids.SHA1_WITH_RSA_OIW: "SHA-1",
    oids.DSA_WITH_SHA1: "SHA-1",
    oids.ECDSA_WITH_SHA1: "SHA-1",
    oids.SHA224_WITH_RSA: "SHA-224",
    oids.ECDSA_WITH_SHA224: "SHA-224",
}
"""Signatures that are known and never accepted, with the hash that is the reason."""


def mac_scheme(algorithm: bytes) -> MacScheme | None:
    """The scheme of an AlgorithmIdentifier (DER) if it is a MAC; BadDataFormat if it is no AlgorithmIdentifier."""
    return MAC_SCHEMES.get(_oid(algorithm))


@lru_cache(maxsize=64)
def signature_scheme(algorithm: bytes, noun: str) -> SignatureScheme:
    """The scheme of an AlgorithmIdentifier (DER) that must be a signature; `noun` says in errors where it stands.

    BadAlg if it is unknown, refused or no signature; BadDataFormat if it is no AlgorithmIdentifier.
    """
    if len(algorithm) > MAX_SIGNATURE_ALGORITHM:
        raise BadAlg(f"{noun}: want at most {MAX_SIGNATURE_ALGORITHM} octets, have {len(algorithm)}")
    oid = _oid(algorithm)
    scheme = SIGNATURE_SCHEMES.get(oid)
    if oid in REFUSED:
        raise BadAlg(f"{noun}: a signature with {REFUSED[oid]} is not accepted, use SHA-256, SHA-384 or SHA-512")
    if scheme is None:
        raise BadAlg(f"{noun}: algorithm {der.dotted(oid)} is not supported here")
    return scheme


def _oid(algorithm: bytes) -> bytes:
    try:
        return read_whole_algorithm(algorithm, "AlgorithmIdentifier")[0]
    except der.DerError as error:
        raise BadDataFormat(str(error)) from None
