"""The extensions of an issued certificate, each made by one function: BUILDERS, read top to bottom.

A builder looks at the wish (what was asked for, what the profile says) and gives the DER of one Extension, or None.
What it leaves out or changes it notes for the peer (grantedWithMods); what it must not grant it refuses. What is
constant is encoded once and kept. Extensions that are asked for and have no builder are left out, or refused when
they are critical.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.names import read_name
from cmpd.config_status import CERTIFICATE_PATH, CRL_PATH, DELTA_PATH, OCSP_PATH
from cmpd.config_values import EXTENDED_KEY_USAGES
from cmpd.errors import BadCertTemplate
from cmpd.profiles.base import KEY_CAN, KEY_USAGE_BITS, Wish
from cmpd.profiles.syntax import check_name, is_dns, is_email, is_uri

OID_SKI: Final = der.encode_oid("2.5.29.14")[2:]
OID_KEY_USAGE: Final = der.encode_oid("2.5.29.15")[2:]
OID_SAN: Final = der.encode_oid("2.5.29.17")[2:]
OID_BASIC_CONSTRAINTS: Final = der.encode_oid("2.5.29.19")[2:]
OID_AKI: Final = der.encode_oid("2.5.29.35")[2:]
OID_EKU: Final = der.encode_oid("2.5.29.37")[2:]
OID_CRL_DISTRIBUTION_POINTS: Final = der.encode_oid("2.5.29.31")[2:]
OID_FRESHEST_CRL: Final = der.encode_oid("2.5.29.46")[2:]
OID_AUTHORITY_INFO_ACCESS: Final = der.encode_oid("1.3.6.1.5.5.7.1.1")[2:]

_MAX_SAN_NAMES = 100
_TIME_STAMPING = EXTENDED_KEY_USAGES["timeStamping"]
_EMAIL, _DIRECTORY_NAME, _URI = 0x81, 0xA4, 0x86  # tags of GeneralName
_AD_OCSP = der.encode_oid("1.3.6.1.5.5.7.48.1")
_AD_CA_ISSUERS = der.encode_oid("1.3.6.1.5.5.7.48.2")


def encode_extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    """The DER of one Extension; `oid` is contents octets, `value` what goes into extnValue."""
    flag = der.encode_boolean(True) if critical else b""
    return der.seq(der.tlv(der.OID, oid), flag, der.encode_octets(value))


def key_identifier(public_key: bytes) -> bytes:
    """SubjectKeyIdentifier of a SubjectPublicKeyInfo: 160 bits of SHA-256 of the key (RFC 7093 section 2 method 1)."""
    start, stop = der.expect(public_key, 0, len(public_key), der.SEQUENCE, "SubjectPublicKeyInfo")
    _, after = der.expect(public_key, start, stop, der.SEQUENCE, "algorithm")
    inner, end = der.expect(public_key, after, stop, der.BIT_STRING, "subjectPublicKey")
    return hashlib.sha256(public_key[inner + 1 : end]).digest()[:20]


def encode_locations(base_url: str, *, crl: bool, delta: bool, ocsp: bool) -> bytes:
    """The Extensions that say where the status of a certificate and the CA's certificate are published, one after the
    other, none critical (RFC 5280 sections 4.2.1.13, 4.2.1.15 and 4.2.2.1).

    `base_url` has no slash at its end. FreshestCRL needs `crl` and `delta`. The same for every certificate: made once.
    """
    access = [_access(_AD_OCSP, base_url + OCSP_PATH)] if ocsp else []
    access.append(_access(_AD_CA_ISSUERS, base_url + CERTIFICATE_PATH))
    made = [encode_extension(OID_AUTHORITY_INFO_ACCESS, der.seq(*access))]
    if crl and delta:
        made.insert(0, encode_extension(OID_FRESHEST_CRL, _distribution_points(base_url + DELTA_PATH)))
    if crl:
        made.insert(0, encode_extension(OID_CRL_DISTRIBUTION_POINTS, _distribution_points(base_url + CRL_PATH)))
    return b"".join(made)


def _access(method: bytes, url: str) -> bytes:
    return der.seq(method, der.tlv(_URI, url.encode("ascii")))


def _distribution_points(url: str) -> bytes:
    """One DistributionPoint with one fullName; the choices inside are tagged explicitly, GeneralNames implicitly."""
    names = der.tlv(0xA0, der.tlv(_URI, url.encode("ascii")))
    return der.seq(der.seq(der.explicit(0, names)))


def _authority_key_identifier(wish: Wish) -> None:
    """Ours comes from ca.py; what is asked for says nothing about the certificate's subject."""
    wish.extensions.pop(OID_AKI, None)


def _subject_key_identifier(wish: Wish) -> bytes:
    identifier = der.encode_octets(key_identifier(wish.public_key))
    asked = wish.extensions.pop(OID_SKI, None)
    if asked is not None and asked.value != identifier:
        wish.changes.append("subjectKeyIdentifier is the CA's own")
    return encode_extension(OID_SKI, identifier)


def _key_usage(wish: Wish) -> bytes:
    asked = wish.extensions.pop(OID_KEY_USAGE, None)
    if asked is None:
        return _grant_key_usage(None, wish.key_kind, wish.rules.key_usage)[0]
    granted, left_out = _grant_key_usage(asked.value, wish.key_kind, wish.rules.key_usage_allowed)
    if left_out:
        wish.changes.append(f"keyUsage without {left_out}")
    if not asked.critical:
        wish.changes.append("keyUsage is critical")
    return granted


@lru_cache(maxsize=256)
def _grant_key_usage(asked: bytes | None, kind: str, allowed: tuple[str, ...]) -> tuple[bytes, str]:
    """The extension for what is asked (DER of KeyUsage; None: all that is allowed), and the names that it lacks."""
    names = set(allowed)
    if asked is not None:
        bits = _read_named_bits(asked)
        names = {name for name, bit in KEY_USAGE_BITS.items() if bit in bits}
    granted = _sensible(names & KEY_CAN[kind] & set(allowed))
    if not granted:  # never without the extension: that would allow the key everything
        raise BadCertTemplate(
            f"keyUsage: want some of {', '.join(allowed)} that a key of type {kind} can do, "
            f"have {', '.join(sorted(names)) or 'nothing'}"
        )
    return encode_key_usage(granted), ", ".join(sorted(names.difference(granted)))


def _sensible(names: set[str]) -> tuple[str, ...]:
    """The usages in the order of their bits; encipherOnly or decipherOnly, one of them, with keyAgreement alone."""
    if names & _KEY_AGREEMENT_ONLY and ("keyAgreement" not in names or names >= _KEY_AGREEMENT_ONLY):
        names = names - _KEY_AGREEMENT_ONLY
    return tuple(name for name in KEY_USAGE_BITS if name in names)


_KEY_AGREEMENT_ONLY: Final = {"encipherOnly", "decipherOnly"}


def encode_key_usage(names: tuple[str, ...]) -> bytes:
    """KeyUsage with these bits, critical."""
    bits = der.encode_named_bits(*(KEY_USAGE_BITS[name] for name in names))
    return encode_extension(OID_KEY_USAGE, bits, critical=True)


def _read_named_bits(value: bytes) -> set[int]:
    try:
        der.check(value, 0, len(value))
        start, stop = der.expect(value, 0, len(value), der.BIT_STRING, "keyUsage")
        if stop != len(value) or stop - start > 3:
            raise DerError("keyUsage: want a BIT STRING of at most 9 bits")
    except DerError as fault:
        raise BadCertTemplate(str(fault)) from None
    octets = value[start + 1 : stop]
    if octets[1:] and octets[1] & 0x7F:
        raise BadCertTemplate("keyUsage: want the bits 0 to 8, have others")
    return {8 * i + j for i, octet in enumerate(octets) for j in range(8) if octet & 0x80 >> j}


def _extended_key_usage(wish: Wish) -> bytes | None:
    asked = wish.extensions.pop(OID_EKU, None)
    if asked is None:
        return encode_eku(wish.rules.extended_key_usage)
    purposes = _read_eku(asked.value)
    allowed = {EXTENDED_KEY_USAGES.get(name, name) for name in wish.rules.extended_key_usage_allowed}
    granted = tuple(purpose for purpose in purposes if purpose in allowed)
    left_out = [purpose for purpose in purposes if purpose not in allowed]
    if not granted or (left_out and asked.critical):
        raise BadCertTemplate(
            f"extKeyUsage: want some of {', '.join(wish.rules.extended_key_usage_allowed) or 'nothing'}, "
            f"have {', '.join(purposes)}"
        )
    if left_out:
        wish.changes.append(f"extKeyUsage without {', '.join(left_out)}")
    if _TIME_STAMPING in granted and not asked.critical:
        wish.changes.append("extKeyUsage is critical")
    return encode_eku(granted, critical=asked.critical)


def _read_eku(value: bytes) -> list[str]:
    try:
        der.check(value, 0, len(value))
        start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "extKeyUsage")
        items = der.children(value, start, stop, 32)
        if stop != len(value) or not items or any(tag != der.OID for tag, *_ in items):
            raise DerError("extKeyUsage: want a SEQUENCE of at least one OBJECT IDENTIFIER")
    except DerError as fault:
        raise BadCertTemplate(str(fault)) from None
    return list(dict.fromkeys(der.dotted(value[inner:after]) for _, _, inner, after in items))


@lru_cache(maxsize=256)
def encode_eku(purposes: tuple[str, ...], *, critical: bool = False) -> bytes | None:
    """ExtKeyUsage with these purposes (names or dotted OIDs); None without any.

    timeStamping stands alone and is critical (RFC 3161 section 2.3): BadCertTemplate if there are others beside it.
    """
    if not purposes:
        return None
    oids = [EXTENDED_KEY_USAGES.get(purpose, purpose) for purpose in purposes]
    if _TIME_STAMPING in oids:
        if len(oids) > 1:
            raise BadCertTemplate("extKeyUsage: want timeStamping alone (RFC 3161 section 2.3), have others beside it")
        critical = True
    return encode_extension(OID_EKU, der.seq(*map(der.encode_oid, oids)), critical=critical)


def _basic_constraints(wish: Wish) -> bytes | None:
    asked = wish.extensions.pop(OID_BASIC_CONSTRAINTS, None)
    if asked is None:
        return None
    if asked.value != b"\x30\x00":
        raise BadCertTemplate("basicConstraints: want cA FALSE or none; this profile is for end entities")
    return encode_extension(OID_BASIC_CONSTRAINTS, asked.value, critical=asked.critical)


def _subject_alt_name(wish: Wish) -> bytes | None:
    asked = wish.extensions.pop(OID_SAN, None)
    names: list[tuple[int, bytes]] = []
    if asked is not None:
        names = check_san(asked.value, wish.rules.san_allowed)
        if asked.critical and not wish.subject_is_empty:
            wish.changes.append("subjectAltName is not critical")
    elif wish.rules.san_required:
        raise BadCertTemplate("subjectAltName: the profile requires it, the request has none")
    elif wish.subject_is_empty:
        raise BadCertTemplate("subject: empty, and no subjectAltName names the end entity (RFC 9483 section 4.1.1)")
    if absent := [(_EMAIL, address) for address in wish.emails if (_EMAIL, address) not in names]:
        return _with_emails(wish, names + absent)
    if asked is None:
        return None
    return encode_extension(OID_SAN, asked.value, critical=wish.subject_is_empty)


def _with_emails(wish: Wish, names: list[tuple[int, bytes]]) -> bytes:
    """An emailAddress in the subject must be in subjectAltName too (RFC 5280 section 4.1.2.6)."""
    if "email" not in wish.rules.san_allowed:
        raise BadCertTemplate("subject.emailAddress: want none, its address must not be in subjectAltName either")
    wish.changes.append("subjectAltName with the emailAddress of the subject")
    return encode_extension(OID_SAN, der.seq(*(der.tlv(tag, contents) for tag, contents in names)))


def read_general_names(value: bytes) -> list[tuple[int, bytes]]:
    """(tag, contents) of each name in the DER of GeneralNames. Raises DerError."""
    der.check(value, 0, len(value))
    start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "subjectAltName")
    items = der.children(value, start, stop, _MAX_SAN_NAMES)
    if stop != len(value) or not items:
        raise DerError("subjectAltName: want a SEQUENCE of at least one GeneralName")
    return [(tag, value[inner:after]) for tag, _, inner, after in items]


def check_san(value: bytes, allowed: tuple[str, ...]) -> list[tuple[int, bytes]]:
    """The names as `read_general_names` gives them; BadCertTemplate if one is of a kind that is not allowed, or has a
    value that is none of its kind.
    """
    try:
        names = read_general_names(value)
        for tag, contents in names:
            kind, is_good = _SAN_KINDS.get(tag, ("", None))
            if is_good is None or kind not in allowed:
                raise DerError(f"subjectAltName: want {', '.join(allowed) or 'none'}; have {kind or f'tag {tag:02X}'}")
            if not is_good(contents):
                raise DerError(f"subjectAltName: not a valid {kind} name")
    except DerError as fault:
        raise BadCertTemplate(str(fault)) from None
    return names


def _is_text(contents: bytes, is_good: Callable[[str], bool]) -> bool:
    return contents.isascii() and is_good(contents.decode("ascii"))


def _is_ip(contents: bytes) -> bool:
    return len(contents) in (4, 16)


def _is_directory_name(contents: bytes) -> bool:
    name = read_name(contents)
    check_name(name, "subjectAltName.directoryName")
    return bool(name)


_SAN_KINDS: Final[dict[int, tuple[str, Callable[[bytes], bool]]]] = {
    _EMAIL: ("email", lambda contents: _is_text(contents, is_email)),
    0x82: ("dns", lambda contents: _is_text(contents, is_dns)),
    _URI: ("uri", lambda contents: _is_text(contents, is_uri)),
    0x87: ("ip", _is_ip),
    _DIRECTORY_NAME: ("dn", _is_directory_name),
}

BUILDERS: Final[dict[str, Callable[[Wish], bytes | None]]] = {
    "authorityKeyIdentifier": _authority_key_identifier,
    "subjectKeyIdentifier": _subject_key_identifier,
    "keyUsage": _key_usage,
    "extKeyUsage": _extended_key_usage,
    "basicConstraints": _basic_constraints,
    "subjectAltName": _subject_alt_name,
}


def build_extensions(wish: Wish) -> bytes:
    """All extensions of the certificate, one after the other; raises BadCertTemplate."""
    made = b"".join(extension for build in BUILDERS.values() if (extension := build(wish)))
    for oid, asked in wish.extensions.items():
        if asked.critical:
            raise BadCertTemplate(f"extension {der.dotted(oid)}: critical, and not known to this CA")
        wish.changes.append(f"without extension {der.dotted(oid)}")
    return made
