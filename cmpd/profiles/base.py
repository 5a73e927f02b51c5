"""What a profile works on and what it gives: Wish in, Grant out, and the names of things in both."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cmpd.asn1 import der
from cmpd.config import ProfileConfig
from cmpd.errors import BadAlg, BadCertTemplate
from cmpd.frozen import frozen
from cmpd.requests import Extension

CURVES: Final = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}

MAX_RSA_BITS: Final = 16_384
MAX_EXPONENT_BITS: Final = 64
"""Bounds of what a key may cost to be used once, before anything is known of the profile."""

KEY_USAGE_BITS: Final = {
    "digitalSignature": 0,
    "nonRepudiation": 1,
    "keyEncipherment": 2,
    "dataEncipherment": 3,
    "keyAgreement": 4,
    "keyCertSign": 5,
    "cRLSign": 6,
    "encipherOnly": 7,
    "decipherOnly": 8,
}
"""KeyUsage's bits by name (RFC 5280 section 4.2.1.3)."""

_SIGNS = frozenset({"digitalSignature", "nonRepudiation", "keyCertSign", "cRLSign"})
_AGREES = frozenset({"keyAgreement", "encipherOnly", "decipherOnly"})
_ENCIPHERS = frozenset({"keyEncipherment", "dataEncipherment"})

KEY_CAN: Final = {
    "rsa": _SIGNS | _ENCIPHERS,
    "p256": _SIGNS | _AGREES,
    "p384": _SIGNS | _AGREES,
    "p521": _SIGNS | _AGREES,
    "ed25519": _SIGNS,
    "ed448": _SIGNS,
}
"""The key usages that make sense for a kind of key (RFC 3279 section 2.3, RFC 5480 section 3, RFC 8410 section 5)."""


@dataclass(slots=True)
class Wish:
    """What is asked for, while the extensions are made. `extensions` by OID contents; builders note `changes`.

    `emails`: the values of emailAddress in the subject.
    """

    rules: ProfileConfig
    key_kind: str
    public_key: bytes
    subject_is_empty: bool
    emails: tuple[bytes, ...]
    extensions: dict[bytes, Extension]
    changes: list[str] = field(default_factory=list)


@frozen
class Grant:
    """What will be in the certificate. `extensions`: the Extension values one after the other, AuthorityKeyIdentifier
    aside. `changes`: what differs from the request, in words for the peer; empty = exactly as asked.
    `validity_asked`: whether the validity is what the request asked for, or what is left of that.
    """

    profile: str
    subject: bytes
    subject_text: str
    public_key: bytes
    not_before: int
    not_after: int
    extensions: bytes
    changes: tuple[str, ...]
    validity_asked: bool = False


def load_public_key(info: bytes | None) -> PublicKeyTypes:
    """The key of a template's SubjectPublicKeyInfo; BadCertTemplate or BadAlg if there is none that can be used."""
    if info is None or info.endswith(b"\x03\x01\x00"):
        raise BadCertTemplate("CertTemplate.publicKey: missing; central key generation is not offered")
    try:
        key = load_der_public_key(info)
    except UnsupportedAlgorithm as error:
        raise BadAlg("CertTemplate.publicKey: the algorithm or curve is not supported", detail=str(error)) from None
    except ValueError as error:
        raise BadCertTemplate("CertTemplate.publicKey: not a valid public key", detail=str(error)) from None
    if _family(type(key)) == "rsa":
        _bound_rsa(cast(rsa.RSAPublicKey, key))
    return key


def _bound_rsa(key: rsa.RSAPublicKey) -> None:
    if key.key_size > MAX_RSA_BITS or key.public_numbers().e.bit_length() > MAX_EXPONENT_BITS:
        raise BadCertTemplate(
            f"CertTemplate.publicKey: want RSA of at most {MAX_RSA_BITS} bits and an exponent of at most "
            f"{MAX_EXPONENT_BITS}"
        )


@lru_cache(maxsize=64)  # by the library's own classes: asking an abstract class takes longer
def _family(kind: type[PublicKeyTypes]) -> str:
    families: tuple[tuple[type, str], ...] = (
        (ec.EllipticCurvePublicKey, "ec"),
        (rsa.RSAPublicKey, "rsa"),
        (ed25519.Ed25519PublicKey, "ed25519"),
        (ed448.Ed448PublicKey, "ed448"),
    )
    return next((name for abstract, name in families if issubclass(kind, abstract)), "")


def key_kind(key: PublicKeyTypes) -> str:
    """The configuration's word for a key's kind, "" if it has none."""
    family = _family(type(key))
    return CURVES.get(cast(ec.EllipticCurvePublicKey, key).curve.name, "") if family == "ec" else family


_EC: Final = der.encode_oid("1.2.840.10045.2.1")
_IDENTIFIERS: Final = {
    "rsa": der.seq(der.encode_oid("1.2.840.113549.1.1.1"), der.NULL_TLV),
    "p256": der.seq(_EC, der.encode_oid("1.2.840.10045.3.1.7")),
    "p384": der.seq(_EC, der.encode_oid("1.3.132.0.34")),
    "p521": der.seq(_EC, der.encode_oid("1.3.132.0.35")),
    "ed25519": der.seq(der.encode_oid("1.3.101.112")),
    "ed448": der.seq(der.encode_oid("1.3.101.113")),
}
"""The AlgorithmIdentifier of a SubjectPublicKeyInfo (RFC 3279 section 2.3.1, RFC 5480 section 2.1.1, RFC 8410)."""


def check_key(key: PublicKeyTypes, info: bytes, rules: ProfileConfig) -> str:
    """The kind of a key that the profile allows; BadCertTemplate if it does not. `info`: its SubjectPublicKeyInfo."""
    kind = key_kind(key)
    if kind not in rules.keys:
        have = kind or type(key).__name__
        raise BadCertTemplate(f"CertTemplate.publicKey: want one of {', '.join(rules.keys)}; have {have}")
    # The library reads more forms than a certificate may hold: curves by their parameters, RSA keys for PSS alone ...
    algorithm = der.header(info, 0, len(info))[1]
    if not info.startswith(_IDENTIFIERS[kind], algorithm):
        raise BadCertTemplate(
            f"CertTemplate.publicKey: want the AlgorithmIdentifier that RFC 3279, 5480 and 8410 have for {kind}, "
            f"have another"
        )
    if kind == "rsa":
        _check_rsa(cast(rsa.RSAPublicKey, key), rules)
    elif kind in CURVES.values():
        point = der.header(info, algorithm + len(_IDENTIFIERS[kind]), len(info))[1] + 1
        if info[point] not in (2, 3, 4):
            raise BadCertTemplate("CertTemplate.publicKey: want a point that is not hybrid (RFC 5480 section 2.2)")
    return kind


def _check_rsa(key: rsa.RSAPublicKey, rules: ProfileConfig) -> None:
    if not rules.rsa_min_bits <= key.key_size <= rules.rsa_max_bits:
        raise BadCertTemplate(
            f"CertTemplate.publicKey: want RSA of {rules.rsa_min_bits} to {rules.rsa_max_bits} bits, "
            f"have {key.key_size}"
        )
    numbers = key.public_numbers()
    if numbers.e < 65537:
        raise BadCertTemplate("CertTemplate.publicKey: want an RSA exponent of at least 65537")
    if numbers.n % 2 == 0:
        raise BadCertTemplate("CertTemplate.publicKey: want an RSA modulus, have an even number")
