"""The extensions of an issued certificate, each made by one function: BUILDERS, read top to bottom.

A builder looks at the wish (what was asked for, what the profile says) and gives the DER of one Extension, or None.
What it leaves out or changes it notes for the peer (grantedWithMods); what it must not grant it refuses. What is
constant is encoded once and kept. What the CA adds to every certificate (ca.py) may be asked for as well. Other
extensions that have no builder are left out, or refused when they are critical.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.general_names import RFC822_NAME
from cmpd.asn1.oids import contents
from cmpd.config_status import CERTIFICATE_PATH, CRL_PATH, DELTA_PATH, OCSP_PATH
from cmpd.config_values import EXTENDED_KEY_USAGES
from cmpd.errors import BadCertTemplate, UnacceptedPolicy
from cmpd.profiles.alt_names import check_rules, check_san, malformed
from cmpd.profiles.base import KEY_USAGE_BITS, Wish
from cmpd.profiles.prepared import (
    OID_AUTHORITY_INFO_ACCESS,
    OID_CRL_DISTRIBUTION_POINTS,
    OID_FRESHEST_CRL,
    OID_NAME_CONSTRAINTS,
    OID_POLICIES,
    encode_extension,
    encode_urls,
)
from cmpd.public_keys import KEY_CAN
from cmpd.requests import Extension, read_extensions

OID_SKI: Final = contents("2.5.29.14")
OID_KEY_USAGE: Final = contents("2.5.29.15")
OID_SAN: Final = contents("2.5.29.17")
OID_BASIC_CONSTRAINTS: Final = contents("2.5.29.19")
OID_AKI: Final = contents("2.5.29.35")
OID_EKU: Final = contents("2.5.29.37")

_TIME_STAMPING: Final = EXTENDED_KEY_USAGES["timeStamping"]


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
    return encode_urls(
        (base_url + CRL_PATH,) if crl else (),
        (base_url + DELTA_PATH,) if crl and delta else (),
        (base_url + OCSP_PATH,) if ocsp else (),
        (base_url + CERTIFICATE_PATH,),
    )


def _subject_key_identifier(wish: Wish) -> bytes:
    identifier = der.encode_octets(key_identifier(wish.public_key))
    asked = wish.extensions.pop(OID_SKI, None)
    if asked is not None and (asked.critical or asked.value != identifier):
        wish.changes.append("subjectKeyIdentifier is the CA's own")
    return encode_extension(OID_SKI, identifier)


def _key_usage(wish: Wish) -> bytes:
    rules = wish.rules
    forced = (*rules.key_usage_forced, "keyCertSign") if rules.ca else rules.key_usage_forced
    asked = wish.extensions.pop(OID_KEY_USAGE, None)
    if asked is None:
        return _grant_key_usage(None, wish.key_kind, rules.key_usage + forced, forced)[0]
    if rules.key_usage_forbidden:
        _refuse_forbidden("keyUsage", _usage_names(asked.value), rules.key_usage_forbidden)
    granted, left_out, added = _grant_key_usage(asked.value, wish.key_kind, rules.key_usage_allowed, forced)
    if left_out:
        wish.changes.append(f"keyUsage without {left_out}")
    if added:
        wish.changes.append(f"keyUsage with {added}")
    if not asked.critical:
        wish.changes.append("keyUsage is critical")
    return granted


@lru_cache(maxsize=256)
def _grant_key_usage(
    asked: bytes | None, kind: str, allowed: tuple[str, ...], forced: tuple[str, ...]
) -> tuple[bytes, str, str]:
    """The extension for what is asked (DER of KeyUsage; None: all that is allowed), the names that it lacks and those
    that it has although they were not asked for.
    """
    names = set(allowed) if asked is None else _usage_names(asked)
    granted = _sensible((names | set(forced)) & KEY_CAN[kind] & set(allowed))
    if missing := [name for name in forced if name not in granted]:
        raise BadCertTemplate(
            f"CertTemplate.publicKey: want a key that can do {missing[0]}, which the profile gives every certificate, "
            f"have {kind}"
        )
    if not granted:  # never without the extension: that would allow the key everything
        raise BadCertTemplate(
            f"keyUsage: want some of {', '.join(allowed)} that a key of type {kind} can do, "
            f"have {', '.join(sorted(names)) or 'nothing'}"
        )
    left_out, added = sorted(names.difference(granted)), sorted(set(granted).difference(names))
    return encode_key_usage(granted), ", ".join(left_out), ", ".join(added)


def _usage_names(asked: bytes) -> set[str]:
    bits = _read_named_bits(asked)
    return {name for name, bit in KEY_USAGE_BITS.items() if bit in bits}


def _refuse_forbidden(noun: str, asked: Iterable[str], forbidden: tuple[str, ...]) -> None:
    if wrong := sorted(set(asked).intersection(forbidden)):
        raise BadCertTemplate(f"{noun}: want none of {', '.join(forbidden)}, have {wrong[0]}")


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
        raise malformed("keyUsage", fault) from None
    octets = value[start + 1 : stop]
    if octets[1:] and octets[1] & 0x7F:
        raise BadCertTemplate("keyUsage: want the bits 0 to 8, have others")
    return {8 * i + j for i, octet in enumerate(octets) for j in range(8) if octet & 0x80 >> j}


def _extended_key_usage(wish: Wish) -> bytes | None:
    rules = wish.rules
    asked = wish.extensions.pop(OID_EKU, None)
    if asked is None:
        return encode_eku(rules.extended_key_usage + rules.extended_key_usage_forced)
    purposes = _read_eku(asked.value)
    if rules.extended_key_usage_forbidden:
        named = [_PURPOSE_NAMES.get(purpose, purpose) for purpose in purposes]
        _refuse_forbidden("extKeyUsage", named, rules.extended_key_usage_forbidden)
    allowed = {EXTENDED_KEY_USAGES.get(name, name) for name in rules.extended_key_usage_allowed}
    granted = tuple(purpose for purpose in purposes if purpose in allowed)
    left_out = [purpose for purpose in purposes if purpose not in allowed]
    if not granted or (left_out and asked.critical):
        raise BadCertTemplate(
            f"extKeyUsage: want some of {', '.join(rules.extended_key_usage_allowed) or 'nothing'}, "
            f"have {', '.join(purposes)}"
        )
    if left_out:
        wish.changes.append(f"extKeyUsage without {', '.join(left_out)}")
    added = [name for name in rules.extended_key_usage_forced if EXTENDED_KEY_USAGES.get(name, name) not in granted]
    if added:
        wish.changes.append(f"extKeyUsage with {', '.join(added)}")
        granted += tuple(EXTENDED_KEY_USAGES.get(name, name) for name in added)
    if _TIME_STAMPING in granted and not asked.critical:
        wish.changes.append("extKeyUsage is critical")
    return encode_eku(granted, critical=asked.critical)


_PURPOSE_NAMES: Final = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}


def _read_eku(value: bytes) -> list[str]:
    try:
        der.check(value, 0, len(value))
        start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "extKeyUsage")
        items = der.children(value, start, stop, 32)
        if stop != len(value) or not items or any(tag != der.OID for tag, *_ in items):
            raise DerError("extKeyUsage: want a SEQUENCE of at least one OBJECT IDENTIFIER")
    except DerError as fault:
        raise malformed("extKeyUsage", fault) from None
    return list(dict.fromkeys(der.dotted(value[inner:after]) for _, _, inner, after in items))


@lru_cache(maxsize=256)
def encode_eku(purposes: tuple[str, ...], *, critical: bool = False) -> bytes | None:
    """ExtKeyUsage with these purposes (names or dotted OIDs); None without any.

    timeStamping stands alone and is critical (RFC 3161 section 2.3): BadCertTemplate if there are others beside it.
    """
    if not purposes:
        return None
    oids = list(dict.fromkeys(EXTENDED_KEY_USAGES.get(purpose, purpose) for purpose in purposes))
    if _TIME_STAMPING in oids:
        if len(oids) > 1:
            raise BadCertTemplate("extKeyUsage: want timeStamping alone (RFC 3161 section 2.3), have others beside it")
        critical = True
    return encode_extension(OID_EKU, der.seq(*map(der.encode_oid, oids)), critical=critical)


def _basic_constraints(wish: Wish) -> bytes | None:
    asked = wish.extensions.pop(OID_BASIC_CONSTRAINTS, None)
    if wish.rules.ca:
        return _ca_constraints(wish, asked)
    if asked is None:
        return None
    if asked.value != b"\x30\x00":
        raise BadCertTemplate("basicConstraints: want cA FALSE or none; this profile is for end entities")
    return encode_extension(OID_BASIC_CONSTRAINTS, asked.value, critical=asked.critical)


def _ca_constraints(wish: Wish, asked: Extension | None) -> bytes:
    length, below = wish.rules.path_length, wish.issuer.path_length
    if below is not None:
        length = min(length, below)
    if asked is not None:
        wanted = _read_ca_constraints(asked.value)
        if wanted is None or wanted > length:
            wish.changes.append(f"basicConstraints with a path length of {length}")
        length = length if wanted is None else min(wanted, length)
        if not asked.critical:
            wish.changes.append("basicConstraints is critical")
    value = der.seq(der.encode_boolean(True), der.encode_integer(length))
    return encode_extension(OID_BASIC_CONSTRAINTS, value, critical=True)


def _read_ca_constraints(value: bytes) -> int | None:
    """The pathLenConstraint of BasicConstraints with cA TRUE, None without one; BadCertTemplate if it is no CA's."""
    try:
        der.check(value, 0, len(value))
        start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "basicConstraints")
        items = der.children(value, start, stop, 2)
        if stop != len(value) or [tag for tag, *_ in items] not in ([der.BOOLEAN], [der.BOOLEAN, der.INTEGER]):
            raise DerError("basicConstraints: want cA TRUE; this profile is for CAs")
        length = der.integer(value, *items[1][2:], "pathLenConstraint") if len(items) == 2 else None
    except DerError as fault:
        raise malformed("basicConstraints", fault) from None
    if length is not None and length < 0:
        raise BadCertTemplate("basicConstraints.pathLenConstraint: want 0 or more, have less")
    return length


def _name_constraints(wish: Wish) -> bytes | None:
    """The profile's, if it has some; a request may repeat them."""
    constraints = wish.prepared.name_constraints
    if constraints is not None:
        asked = wish.extensions.pop(OID_NAME_CONSTRAINTS, None)
        if asked is not None and constraints != encode_extension(asked.oid, asked.value, critical=asked.critical):
            wish.changes.append("nameConstraints are the profile's")
    return constraints


def _certificate_policies(wish: Wish) -> bytes | None:
    """Always the profile's; what a request says of policies is a wish for some of them."""
    asked = wish.extensions.pop(OID_POLICIES, None)
    policies = wish.prepared.policies
    if asked is None:
        return policies
    wanted = _read_policies(asked.value)
    if asked.critical and not wish.prepared.policy_oids.issuperset(wanted):
        raise UnacceptedPolicy(
            f"certificatePolicies: want {', '.join(wish.rules.policies) or 'none'}; have "
            f"{', '.join(map(der.dotted, sorted(wanted - wish.prepared.policy_oids)))}, critical"
        )
    if policies is None:
        wish.changes.append(f"without extension {der.dotted(OID_POLICIES)}")
    elif wanted != wish.prepared.policy_oids or asked.critical:
        wish.changes.append("certificatePolicies are the profile's")
    return policies


def _read_policies(value: bytes) -> set[bytes]:
    """The OIDs (contents octets) in the DER of CertificatePolicies."""
    try:
        der.check(value, 0, len(value))
        start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "value")
        found = set()
        for tag, _, inner, after in der.children(value, start, stop, 32):
            if tag != der.SEQUENCE:
                raise DerError("want a SEQUENCE of PolicyInformation")
            first, last = der.expect(value, inner, after, der.OID, "policyIdentifier")
            found.add(value[first:last])
        if stop != len(value) or not found:
            raise DerError("want a SEQUENCE of at least one PolicyInformation")
    except DerError as fault:
        raise BadCertTemplate(f"certificatePolicies: {fault}") from None
    return found


def _subject_alt_name(wish: Wish) -> bytes | None:
    asked = wish.extensions.pop(OID_SAN, None)
    names: list[tuple[int, bytes]] = []
    if asked is not None:
        names = check_san(asked.value, wish.rules.san_allowed)
        if asked.critical != wish.subject_is_empty:
            wish.changes.append(f"subjectAltName is {'' if wish.subject_is_empty else 'not '}critical")
    elif wish.rules.san_required:
        raise BadCertTemplate("subjectAltName: the profile requires it, the request has none")
    elif wish.names_nobody:
        raise BadCertTemplate("subject: empty, and no subjectAltName names the end entity (RFC 9483 section 4.1.1)")
    wish.san = None if asked is None else asked.value
    if absent := [(RFC822_NAME, address) for address in wish.emails if (RFC822_NAME, address) not in names]:
        names = names + absent
        wish.san = _with_emails(wish, names)
    if wish.san is None:
        return None
    if wish.prepared.san is not None or wish.names_nobody:
        check_rules(names, wish.prepared.san, wish.rules.san_for_empty_subject if wish.names_nobody else ())
    return encode_extension(OID_SAN, wish.san, critical=wish.subject_is_empty)


def _with_emails(wish: Wish, names: list[tuple[int, bytes]]) -> bytes:
    """An emailAddress in the subject must be in subjectAltName too (RFC 5280 section 4.1.2.6)."""
    if "email" not in wish.rules.san_allowed:
        raise BadCertTemplate("subject.emailAddress: want none, its address must not be in subjectAltName either")
    wish.changes.append("subjectAltName with the emailAddress of the subject")
    return der.seq(*(der.tlv(tag, contents) for tag, contents in names))


BUILDERS: Final[dict[str, Callable[[Wish], bytes | None]]] = {
    "subjectKeyIdentifier": _subject_key_identifier,
    "keyUsage": _key_usage,
    "extKeyUsage": _extended_key_usage,
    "basicConstraints": _basic_constraints,
    "nameConstraints": _name_constraints,
    "certificatePolicies": _certificate_policies,
    "subjectAltName": _subject_alt_name,
}


def build_extensions(wish: Wish) -> bytes:
    """All extensions of the certificate, one after the other; raises BadCertTemplate."""
    made = b"".join(extension for build in BUILDERS.values() if (extension := build(wish)))
    if wish.extensions:
        _judge_others(wish)
    return made


_OF_THE_CA: Final = {
    OID_AKI: "authorityKeyIdentifier",
    OID_CRL_DISTRIBUTION_POINTS: "CRLDistributionPoints",
    OID_FRESHEST_CRL: "FreshestCRL",
    OID_AUTHORITY_INFO_ACCESS: "authorityInfoAccess",
}


def _judge_others(wish: Wish) -> None:
    """What no builder took: the CA's own may be repeated, as in a kur that copies the certificate that it updates."""
    added, places = wish.issuer.extensions, wish.prepared.locations
    if places is not None:
        added = (*(one for one in added if one.oid == OID_AKI), *read_extensions(places, 0, len(places)))
    own = {one.oid: one for one in added}
    for oid, asked in wish.extensions.items():
        if oid in own:
            if asked != own[oid]:
                wish.changes.append(f"{_OF_THE_CA[oid]} is the CA's own")
            continue
        if asked.critical:
            raise BadCertTemplate(f"extension {der.dotted(oid)}: critical, and not known to this CA")
        wish.changes.append(f"without extension {der.dotted(oid)}")
