"""The subject that a profile allows: which attributes, in which order, with which values.

What names somebody is refused when it is wrong, and never corrected; what the profile says of every subject alike
(subject_fixed) is put in where it is missing, in front. A profile without such rules has no SubjectRules.
"""

from dataclasses import dataclass
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.names import ATTRIBUTE_NAMES, ATTRIBUTE_TYPES, NULL_DN, Name, fold, read_name
from cmpd.config_profiles import ProfileConfig
from cmpd.errors import BadCertTemplate
from cmpd.name_syntax import check_name
from cmpd.patterns import Pattern

_MOST_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class Fixed:
    """An attribute that every subject has with one value; `rdn`: DER of the RelativeDistinguishedName."""

    name: str
    text: str
    rdn: bytes


@dataclass(frozen=True, slots=True)
class SubjectRules:
    """What there is beside ProfileConfig.allow_empty_subject; `order`: place of an attribute, by its name."""

    allowed: tuple[str, ...] | None
    required: tuple[str, ...]
    fixed: tuple[Fixed, ...]
    patterns: dict[str, Pattern]
    order: tuple[str, ...]


def subject_rules(rules: ProfileConfig) -> SubjectRules | None:
    """The rules of a profile, ready to use; None if it has none."""
    if not (
        rules.subject_required
        or rules.subject_allowed is not None
        or rules.subject_fixed
        or rules.subject_patterns
        or rules.subject_order
    ):
        return None
    return SubjectRules(
        rules.subject_allowed,
        rules.subject_required,
        tuple(Fixed(name, text, _rdn(name, text)) for name, text in rules.subject_fixed.items()),
        {name: Pattern(text) for name, text in rules.subject_patterns.items()},
        rules.subject_order or (),
    )


def _rdn(name: str, text: str) -> bytes:
    row = ATTRIBUTE_TYPES[name]
    return der.tlv(der.SET, der.seq(der.tlv(der.OID, row.oid), der.tlv(row.tag, text.encode())))


def read_subject(subject: bytes, rules: ProfileConfig, more: SubjectRules | None) -> Name:
    """The subject of a request (DER), read and fit for a certificate; BadCertTemplate. () for the NULL-DN."""
    if subject == NULL_DN:
        if rules.ca:
            raise BadCertTemplate("subject: want the name of a CA, have the NULL-DN (RFC 5280 section 4.1.2.6)")
        if not rules.allow_empty_subject or rules.subject_required:
            raise BadCertTemplate("subject: empty, which this profile does not allow")
        return ()
    try:
        name = read_name(subject)
    except der.DerError as fault:
        raise BadCertTemplate(f"subject: {fault}") from None
    check_name(name, "subject")
    if more is not None:
        _check(name, more)
    return name


def _check(name: Name, rules: SubjectRules) -> None:
    held = [(ATTRIBUTE_NAMES[oid], text) for rdn in name for oid, _, text in rdn]
    types = {attribute for attribute, _ in held}
    if rules.allowed is not None and (others := sorted(types.difference(rules.allowed))):
        raise BadCertTemplate(f"subject: want only {', '.join(rules.allowed) or 'the NULL-DN'}; have {others[0]}")
    given = {one.name for one in rules.fixed}
    if missing := [attribute for attribute in rules.required if attribute not in types | given]:
        raise BadCertTemplate(f"subject: want {', '.join(rules.required)}; have no {', '.join(missing)}")
    fixed = {one.name: one.text for one in rules.fixed}
    for attribute, text in held:
        if attribute in fixed and fold(text) != fold(fixed[attribute]):
            raise BadCertTemplate(f"subject.{attribute}: want {fixed[attribute]}, have {_clip(text)}")
        pattern = rules.patterns.get(attribute)
        if pattern is not None and not pattern.matches(text):
            raise BadCertTemplate(f"subject.{attribute}: want one that matches {pattern.text}, have {_clip(text)}")
    places = [rules.order.index(attribute) for attribute, _ in held if attribute in rules.order]
    if places != sorted(places):
        raise BadCertTemplate(f"subject: want the attributes in the order {', '.join(rules.order)}, have another")


def complete_subject(subject: bytes, name: Name, rules: SubjectRules, changes: list[str]) -> tuple[bytes, Name]:
    """The subject with the fixed attributes that it lacks in front, or where subject_order has their place."""
    types = {ATTRIBUTE_NAMES[oid] for rdn in name for oid, _, _ in rdn}
    missing = [one for one in rules.fixed if one.name not in types]
    if not missing:
        return subject, name
    start, stop = der.expect(subject, 0, len(subject), der.SEQUENCE, "Name")
    rdns = [subject[pos:after] for _, pos, _, after in der.children(subject, start, stop)]
    places = [min((rules.order.index(a) for a in _types(rdn) if a in rules.order), default=-1) for rdn in name]
    front = 0
    for one in missing:
        at = front
        if one.name in rules.order:
            place = rules.order.index(one.name)
            at = max((i + 1 for i, held in enumerate(places) if 0 <= held <= place), default=front)
        rdns.insert(at, one.rdn)
        places.insert(at, rules.order.index(one.name) if one.name in rules.order else -1)
        front += at <= front
    changes.append(f"subject with {', '.join(f'{one.name}={one.text}' for one in missing)}")
    made = der.seq(*rdns)
    return made, read_name(made)


def _types(rdn: tuple[tuple[bytes, int, str], ...]) -> list[str]:
    return [ATTRIBUTE_NAMES[oid] for oid, _, _ in rdn]


def _clip(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
