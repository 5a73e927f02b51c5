"""What a profile works on and what it gives: Wish in, Grant out, and the names of things in both."""

from dataclasses import dataclass, field
from typing import Final, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cmpd.changes import Claim
from cmpd.config_profiles import ProfileConfig
from cmpd.errors import BadAlg, BadCertTemplate
from cmpd.frozen import frozen
from cmpd.profiles.prepared import Prepared
from cmpd.public_keys import encryption_fault, encryption_kind, key_fault, key_kind, modulus_fault
from cmpd.requests import Extension

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


@frozen
class Issuer:
    """What the CA brings to a certificate. `extensions`: those that ca.py adds, AuthorityKeyIdentifier first;
    `path_length`: how many CAs may be below the one that is certified, None: any.
    """

    extensions: tuple[Extension, ...] = ()
    path_length: int | None = None


@dataclass(slots=True)
class Wish:
    """What is asked for, while the extensions are made. `extensions` by OID contents; builders note `changes`.

    `issuer`: what the CA says of the certificate. `emails`: the values of emailAddress in the subject. `san`: the
    subjectAltName that was made (DER of GeneralNames).
    `subject_is_empty`: in the certificate; `names_nobody`: in the request, so that subjectAltName has to.
    """

    rules: ProfileConfig
    prepared: Prepared
    issuer: Issuer
    key_kind: str
    public_key: bytes
    subject_is_empty: bool
    names_nobody: bool
    emails: tuple[bytes, ...]
    extensions: dict[bytes, Extension]
    changes: list[str] = field(default_factory=list)
    san: bytes | None = None


@frozen
class Grant:
    """What will be in the certificate. `extensions`: the Extension values one after the other, AuthorityKeyIdentifier
    aside. `changes`: what differs from the request, in words for the peer; empty = exactly as asked.
    `validity_asked`: whether the validity is what the request asked for, or what is left of that. `san`: DER of its
    GeneralNames, None without any. `locations`: in the place of the CA's own (ca.py), None: those. `serial`: contents
    octets, None: the CA chooses. `claims`: what no other certificate may have. `min_validity`: what
    must be left of the validity, in seconds.
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
    san: bytes | None = None
    is_ca: bool = False
    locations: bytes | None = None
    serial: bytes | None = None
    claims: tuple[Claim, ...] = ()
    min_validity: int = 0


def load_public_key(info: bytes | None) -> PublicKeyTypes:
    """The key of a template's SubjectPublicKeyInfo; BadCertTemplate or BadAlg if there is none that can be used."""
    if info is None or info.endswith(b"\x03\x01\x00"):
        raise BadCertTemplate("CertTemplate.publicKey: missing; central key generation is not offered")
    try:
        key = load_der_public_key(info)
    except UnsupportedAlgorithm as error:
        raise BadAlg("CertTemplate.publicKey: the algorithm or curve is not supported", detail=str(error)) from None
    except ValueError as error:
        raise BadAlg("CertTemplate.publicKey: want a valid public key, have another", detail=str(error)) from None
    cannot_sign = bool(encryption_kind(key))
    if fault := encryption_fault(key, info) if cannot_sign else key_fault(key, info) or modulus_fault(key):
        raise BadAlg(f"CertTemplate.publicKey: {fault}")
    return key


def check_key(key: PublicKeyTypes, rules: ProfileConfig) -> str:
    """The kind of a key of `load_public_key` that the profile allows; BadCertTemplate if it does not."""
    kind = key_kind(key) or encryption_kind(key)
    if kind not in rules.keys:
        raise BadCertTemplate(f"CertTemplate.publicKey: want one of {', '.join(rules.keys)}; have {kind}")
    if kind == "rsa":
        bits = cast(rsa.RSAPublicKey, key).key_size
        if not rules.rsa_min_bits <= bits <= rules.rsa_max_bits:
            raise BadCertTemplate(
                f"CertTemplate.publicKey: want RSA of {rules.rsa_min_bits} to {rules.rsa_max_bits} bits, have {bits}"
            )
    return kind
