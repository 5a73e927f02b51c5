"""The border for bodies that are not read by position: hostile octets in, a whole asn1crypto value out.

asn1crypto is lazy: what is wrong deep inside raises when somebody looks there, and as one of many exceptions. It also
drops silently what follows the value inside an explicit tag, or the last field of a SEQUENCE. So the octets are checked
to be DER of bounded depth, then loaded, then walked: every value is made, and the children of each value must fill it
exactly, in DER's order and without DEFAULT values. Whatever fails ends in one exception whose text has nothing of the
input in it.

Encoding the value again and comparing would be shorter and wrong: asn1crypto normalises what it encodes (a URI's case
and percent signs, the mask of an address, an emailAddress that came as UTF8String) and so refuses what is good DER.
For the same reason URI, DNSName, EmailAddress and IPAddress are checked as octets here, and a reader takes `.contents`:
their `.native` is the only one that may still raise. `Any`, and octets that no class explains, are left alone: an
unknown extension or control is not malformed.
"""

from collections.abc import Callable
from typing import Any, Final

from asn1crypto import core, x509

from cmpd.asn1 import der
from cmpd.asn1.algs import NonEmptySequenceOf
from cmpd.errors import BadDataFormat

MAX_VALUES: Final = 20_000
"""How many values one body may hold: about half a second of work. A CRL of several thousand entries still fits."""

MAX_NAMED_BITS: Final = 32
"""Octets of a BIT STRING with named bits."""


def load_strict(cls: type[Any], data: bytes, *, noun: str, max_values: int = MAX_VALUES) -> Any:
    """The value of class `cls` (of asn1crypto, cmp or crmf) whose DER is `data`, with nothing lazy left in it.

    `noun` names it in the error's text, as in "PKIBody.rr". Raises BadDataFormat and nothing else.
    """
    try:
        der.check(data, 0, len(data), limit=max_values)
        value = cls.load(data, strict=True)
        _Walk(max_values).enter(value, 0)
        if value.dump() != data:
            raise der.DerError("octets that belong to no value")
    except der.DerError as error:
        raise BadDataFormat(f"{noun}: want DER: {error}") from error
    except Exception as error:  # asn1crypto raises ValueError, TypeError, KeyError, IndexError, UnicodeDecodeError ...
        raise BadDataFormat(f"{noun}: not a {cls.__name__}", detail=f"{type(error).__name__}: {error}"[:500]) from error
    return value


class _Walk:
    """Makes every value below one value, counting them."""

    def __init__(self, left: int) -> None:
        self.left = left

    def enter(self, value: Any, depth: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise der.DerError("too many values")
        if depth > 2 * der.MAX_DEPTH:  # der.check has bounded the message, and each value inside octets
            raise der.DerError("values nest too deep")
        if isinstance(value, core.Choice):
            self.enter(value.chosen, depth + 1)
        elif isinstance(value, core.Sequence | core.SequenceOf):
            for index in range(len(value)):
                self.enter(value[index], depth + 1)
            _filled(value)
        elif isinstance(value, core.ParsableOctetString):
            self.octets(value, depth)
        elif not isinstance(value, core.Any | core.Void):
            _primitive(value)

    def octets(self, value: Any, depth: int) -> None:
        # Extension values and public keys: `_parsed` is set at loading where a class explains the octets. `.parsed`
        # would guess at a class for those that none does.
        if value._parsed is not None:
            octets = bytes(value)  # raises where a BIT STRING has unused bits
            der.check(octets, 0, len(octets), limit=self.left)
            self.enter(value.parsed, depth + 1)
            if value.parsed.dump() != octets:
                raise der.DerError("octets that belong to no value")


def _filled(value: Any) -> None:
    """Refuse a SEQUENCE, SET, SEQUENCE OF or SET OF whose contents are not its children in DER's order."""
    children = [value[index] for index in range(len(value))]
    if isinstance(value, NonEmptySequenceOf) and not children:
        raise der.DerError("SEQUENCE SIZE (1..MAX) is empty")
    octets = [child.dump() for child in children]
    if isinstance(value, core.Sequence):
        if len(children) > len(value._fields) > 0:
            raise der.DerError("SEQUENCE has more values than fields")
        for index, (_, spec, params) in enumerate(value._fields):
            if "default" in params and octets[index] == spec(**params).dump():
                octets[index] = b""
    if isinstance(value, core.Set):
        octets.sort(key=lambda child: child[0] & 0xDF if child else 0)  # by tag, primitive or not
    elif isinstance(value, core.SetOf):
        octets.sort()
    if b"".join(octets) != value.contents:
        raise der.DerError("values out of order, spelt-out DEFAULT, or octets that belong to no value")


def _primitive(value: Any) -> None:
    for cls, examine in _PRIMITIVES:
        if isinstance(value, cls):
            examine(value)
            return
    _native(value)


def _native(value: Any) -> None:
    _ = value.native


def _integer(value: Any) -> None:
    der.integer(value.contents, 0, len(value.contents), "INTEGER", octets=1 << 20)
    _native(value)  # an ENUMERATED without a name raises


def _boolean(value: Any) -> None:
    der.boolean(value.contents, 0, len(value.contents), "BOOLEAN")


def _object_identifier(value: Any) -> None:
    # Bounded before it is read: asn1crypto's time grows with the square of an arc's length.
    der.check_oid(value.contents, 0, len(value.contents), "OBJECT IDENTIFIER")
    _native(value)


def _null(value: Any) -> None:
    if value.contents:
        raise der.DerError("NULL is not empty")


def _named_bits(value: Any) -> None:
    contents = value.contents
    if not 1 <= len(contents) <= 1 + MAX_NAMED_BITS:
        raise der.DerError(f"BIT STRING: want named bits, at most {MAX_NAMED_BITS} octets")
    unused = contents[0]
    last = contents[-1] & ((2 << unused) - 1) == 1 << unused if len(contents) > 1 else unused == 0
    if unused > 7 or (value._map and not last):
        raise der.DerError("BIT STRING: named bits must end with a one")
    _native(value)


def _whole_octets(value: Any) -> None:
    der.octet_aligned(value.contents, 0, len(value.contents), "BIT STRING")


def _generalized_time(value: Any) -> None:
    der.generalized_time(value.contents, 0, len(value.contents), "GeneralizedTime")


def _utc_time(value: Any) -> None:
    der.utc_time(value.contents, 0, len(value.contents), "UTCTime")


def _ia5(value: Any) -> None:
    # An emailAddress may be a UTF8String against the rule; der.check has read it then.
    if not value.contents.isascii() and value.dump()[0] != der.UTF8_STRING:
        raise der.DerError("IA5String is not ASCII")


def _address(value: Any) -> None:
    if len(value.contents) not in (4, 8, 16, 32):
        raise der.DerError("iPAddress: want 4 or 16 octets, twice as many with a mask")


_PRIMITIVES: Final[tuple[tuple[type[Any] | tuple[type[Any], ...], Callable[[Any], None]], ...]] = (
    (core.Integer, _integer),
    (core.Boolean, _boolean),
    (core.ObjectIdentifier, _object_identifier),
    (core.Null, _null),
    (core.BitString, _named_bits),
    (core.OctetBitString, _whole_octets),
    (core.GeneralizedTime, _generalized_time),
    (core.UTCTime, _utc_time),
    ((x509.URI, x509.DNSName, x509.EmailAddress), _ia5),
    (x509.IPAddress, _address),
)
"""The first row that fits decides; any other type must give its `.native`."""
