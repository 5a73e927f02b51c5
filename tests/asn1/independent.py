"""Our values against pyasn1's, field for field, in both directions.

`compare` walks two decoded values side by side. `rebuild` makes pyasn1's value of ours component by component, so that
pyasn1 alone decides on tags, order and lengths when it encodes. What asn1crypto defines (certificates, names, CMS) is
compared as octets, and so is `Any`.
"""

import re
from typing import Any

from asn1crypto import core
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import char, univ

SPECIAL_NAMES = {
    "pKIStatusInfo": "pki_status_info",
    "cAKeyUpdAnnV2": "ca_key_upd_ann_v2",
    "cAKeyUpdAnnV3": "ca_key_upd_ann_v3",
}

# pyasn1 compares the constraints of a value and of its place by identity, and refuses its own clones.
LOOSE = {"matchConstraints": False}


def snake(name: str) -> str:
    return SPECIAL_NAMES.get(name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def their_decode(octets: bytes, spec: Any) -> Any:
    value, rest = decode(octets, asn1Spec=spec)
    assert rest == b""
    return value


def their_encode(value: Any) -> bytes:
    return bytes(encode(value))


def _is_container_of_ours(value: Any) -> bool:
    return type(value).__module__.startswith("cmpd.asn1") and isinstance(
        value, core.Sequence | core.SequenceOf | core.Choice
    )


def _opaque(value: Any) -> bool:
    """A container that asn1crypto defines, or that we derive from one of its."""
    if type(value).__name__ in ("Certificate", "CertificationRequest", "SubjectPublicKeyInfo", "EncKeyIdentifier"):
        return True
    return not _is_container_of_ours(value) and isinstance(value, core.Sequence | core.SequenceOf | core.Choice)


def _plain(value: Any) -> Any:
    """What a primitive value of ours stands for: octets, a number, a text, a set of bits."""
    if isinstance(value, core.BitString):
        return {bit for bit, name in value._map.items() if name in value.native}
    if isinstance(value, core.ObjectIdentifier):
        return value.dotted
    if isinstance(value, core.AbstractTime):
        return value.contents.decode()
    if isinstance(value, core.Null):
        return b""
    if isinstance(value, core.Integer):
        return int(value)
    return value.native


def _their_plain(value: Any, like: Any) -> Any:
    if isinstance(value, univ.BitString):
        bits = [int(bit) for bit in value]
        if isinstance(like, set):
            return {index for index, bit in enumerate(bits) if bit}
        return value.asOctets()
    if isinstance(value, univ.Boolean):
        return bool(value)
    if isinstance(value, univ.Integer):
        return int(value)
    if isinstance(value, univ.ObjectIdentifier | char.AbstractCharacterString):
        return str(value)
    return bytes(value)


def compare(ours: Any, theirs: Any, path: str = "") -> int:
    """Assert that both values are the same; return how many leaves were compared."""
    if isinstance(ours, core.Any) or _opaque(ours) or isinstance(theirs, univ.Any):
        octets = bytes(theirs) if isinstance(theirs, univ.Any) else their_encode(theirs)
        assert ours.dump() == octets, path
        return 1
    if isinstance(ours, core.Choice):
        assert ours.name == snake(theirs.getName()), path
        return compare(ours.chosen, theirs.getComponent(), f"{path}.{ours.name}")
    if isinstance(ours, core.SequenceOf):
        assert len(ours) == len(theirs), path
        return sum(compare(ours[i], theirs[i], f"{path}[{i}]") for i in range(len(ours)))
    if isinstance(ours, core.Sequence):
        names = [named.name for named in theirs.componentType.namedTypes]
        assert [snake(name) for name in names] == list(ours), path
        leaves = 0
        for name in names:
            child, their_child = ours[snake(name)], theirs.getComponentByName(name, instantiate=False)
            assert isinstance(child, core.Void) == (their_child is univ.noValue), f"{path}.{name}"
            if not isinstance(child, core.Void):
                leaves += compare(child, their_child, f"{path}.{name}")
        return leaves
    plain = _plain(ours)
    assert plain == _their_plain(theirs, plain), path
    return 1


def rebuild(ours: Any, spec: Any) -> Any:
    """Pyasn1's value of type `spec` with the contents of ours."""
    if isinstance(spec, univ.Any) and not isinstance(ours, core.Void):
        return spec.clone(ours.dump())
    if _opaque(ours):
        return their_decode(ours.dump(), spec)
    value = spec.clone()
    if isinstance(ours, core.Choice):
        named = next(n for n in spec.componentType.namedTypes if snake(n.name) == ours.name)
        value.setComponentByName(named.name, rebuild(ours.chosen, named.asn1Object), **LOOSE)
        return value
    if isinstance(ours, core.SequenceOf):
        value.clear()  # an empty one is a value as well
        for index, child in enumerate(ours):
            value.setComponentByPosition(index, rebuild(child, spec.componentType), **LOOSE)
        return value
    if isinstance(ours, core.Sequence):
        for named in spec.componentType.namedTypes:
            child = ours[snake(named.name)]
            if not isinstance(child, core.Void):
                value.setComponentByName(named.name, rebuild(child, named.asn1Object), **LOOSE)
        return value
    plain = _plain(ours)
    if isinstance(spec, univ.BitString):
        if isinstance(plain, set):
            return spec.clone(tuple(int(i in plain) for i in range(max(plain, default=-1) + 1)))
        return spec.clone(hexValue=plain.hex())
    return spec.clone(plain)
