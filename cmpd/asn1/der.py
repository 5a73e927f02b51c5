"""DER, read strictly and written from fragments.

asn1crypto costs 10 to 20 us a value, and a request has some two hundred of them. The messages that arrive all day are
therefore read here by position: every function takes a buffer and offsets, and answers with offsets. Nothing is copied
until somebody wants the octets, and protection is verified over slices of what was received.

Strict means X.690 section 10: definite lengths in the fewest octets, low-tag-number form. Primitive types that cmpd
reads by value are checked by value (INTEGER in the fewest octets, BOOLEAN 00 or FF, times without fractions).
`check` walks a value that nobody reads by position, so that nothing malformed is passed on, stored or signed.
"""

import calendar
import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
ENUMERATED: Final = 0x0A
UTF8_STRING: Final = 0x0C
NUMERIC_STRING: Final = 0x12
PRINTABLE_STRING: Final = 0x13
TELETEX_STRING: Final = 0x14
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
VISIBLE_STRING: Final = 0x1A
GENERAL_STRING: Final = 0x1B  # in otherName of Kerberos
UNIVERSAL_STRING: Final = 0x1C
BMP_STRING: Final = 0x1E
SEQUENCE: Final = 0x30
SET: Final = 0x31

MAX_DEPTH: Final = 32
"""How deep values may nest. A certificate inside a CertRepMessage inside a nested message needs about 20."""

MAX_VALUES: Final = 20_000
"""How many values `check` walks before it gives up: some 10 ms. A hundred certificates have about 10,000."""

NULL_TLV: Final = b"\x05\x00"


class DerError(ValueError):
    """The octets are not DER; str() says what was wanted and what was found, without octets of the input."""


# --- reading ---------------------------------------------------------------------------------------------------------


def header(data: bytes, pos: int, end: int) -> tuple[int, int, int]:
    """Read one identifier and length at `pos`; return (tag, first octet of the contents, octet after the contents).

    `tag` is the identifier octet. The contents are guaranteed to end at or before `end`.
    """
    start = pos + 2
    if start > end:
        raise DerError("value is cut off in its header")
    tag = data[pos]
    if tag & 0x1F == 0x1F:
        raise DerError("tag numbers above 30 do not occur in CMP")
    length = data[pos + 1]
    if length < 0x80:
        stop = start + length
    elif length == 0x82 and pos + 4 <= end and data[start]:  # what certificates and messages have
        stop = pos + 4 + (data[start] << 8 | data[pos + 3])
        start = pos + 4
    else:
        start, length = _long_length(data, start, end, length & 0x7F)
        stop = start + length
    if stop > end:
        raise DerError("value is longer than what contains it")
    return tag, start, stop


def _long_length(data: bytes, pos: int, end: int, count: int) -> tuple[int, int]:
    """(first octet of the contents, length) of a value whose length is in `count` octets at `pos`."""
    if count == 0:
        raise DerError("indefinite length is not DER")
    if count > 4:
        raise DerError("length of more than 4 octets")
    start = pos + count
    if start > end:
        raise DerError("value is cut off in its length")
    length = int.from_bytes(data[pos:start], "big")
    if length < 0x80 or length >> (8 * (count - 1)) == 0:
        raise DerError("length is not in the fewest octets")
    return start, length


def expect(data: bytes, pos: int, end: int, tag: int, noun: str) -> tuple[int, int]:
    """Read the header of a value that must have `tag`; return (start, stop) of its contents."""
    if pos >= end:
        raise DerError(f"{noun}: want it, have none")
    start = pos + 2
    if start <= end and data[pos] == tag and data[pos + 1] < 0x80:  # header() for the short form, in place
        stop = start + data[pos + 1]
        if stop <= end:
            return start, stop
    found, start, stop = header(data, pos, end)
    if found != tag:
        raise DerError(f"{noun}: want tag {tag:02X}, have {found:02X}")
    return start, stop


def children(data: bytes, start: int, stop: int, limit: int = 1000) -> list[tuple[int, int, int, int]]:
    """The values side by side in [start, stop): a list of (tag, position, contents start, contents stop).

    More than `limit` values are refused.
    """
    found = []
    while start < stop:
        tag, inner, after = header(data, start, stop)
        found.append((tag, start, inner, after))
        if len(found) > limit:
            raise DerError(f"want fewer, have more than {limit} values in one SEQUENCE")
        start = after
    return found


def integer(data: bytes, start: int, stop: int, noun: str, *, octets: int = 32) -> int:
    """The INTEGER or ENUMERATED whose contents are [start, stop), at most `octets` long."""
    size = stop - start
    if size == 0:
        raise DerError(f"{noun}: empty INTEGER")
    if size > octets:
        raise DerError(f"{noun}: INTEGER of more than {octets} octets")
    if size > 1 and (
        (data[start] == 0 and data[start + 1] < 0x80) or (data[start] == 0xFF and data[start + 1] >= 0x80)
    ):
        raise DerError(f"{noun}: INTEGER is not in the fewest octets")
    return int.from_bytes(data[start:stop], "big", signed=True)


def boolean(data: bytes, start: int, stop: int, noun: str) -> bool:
    """The BOOLEAN whose contents are [start, stop)."""
    if stop - start != 1 or data[start] not in (0x00, 0xFF):
        raise DerError(f"{noun}: BOOLEAN is neither 00 nor FF")
    return data[start] == 0xFF


def octet_aligned(data: bytes, start: int, stop: int, noun: str) -> bytes:
    """The octets of a BIT STRING with contents [start, stop) that has no unused bits (signatures, keys, MACs)."""
    if start == stop or data[start] != 0:
        raise DerError(f"{noun}: BIT STRING must be whole octets")
    return data[start + 1 : stop]


def generalized_time(data: bytes, start: int, stop: int, noun: str) -> int:
    """Unix time of a GeneralizedTime YYYYMMDDHHMMSSZ (RFC 5280 section 4.1.2.5.2)."""
    return _time(data[start:stop], 4, noun)


def utc_time(data: bytes, start: int, stop: int, noun: str) -> int:
    """Unix time of a UTCTime YYMMDDHHMMSSZ (RFC 5280 section 4.1.2.5.1: 50 to 99 are 19xx)."""
    return _time(data[start:stop], 2, noun)


@lru_cache(maxsize=1024)  # messageTime is now, for many messages a second
def _time(text: bytes, year_digits: int, noun: str) -> int:
    digits = text[:-1]
    if len(digits) != year_digits + 10 or text[-1:] != b"Z" or not digits.isdigit():
        raise DerError(f"{noun}: want {'YY' * (year_digits // 2)}MMDDHHMMSSZ")
    year = int(digits[:year_digits])
    if year_digits == 2:
        year += 1900 if year >= 50 else 2000
    rest = [int(digits[i : i + 2]) for i in range(year_digits, len(digits), 2)]
    month, day, hour, minute, second = rest
    if not 1 <= month <= 12 or not 1 <= day <= calendar.monthrange(max(year, 1), month)[1] or year == 0:
        raise DerError(f"{noun}: no such day")
    if hour > 23 or minute > 59 or second > 59:
        raise DerError(f"{noun}: no such time of day")
    return calendar.timegm((year, month, day, hour, minute, second))


def check(data: bytes, pos: int, end: int, *, depth: int = MAX_DEPTH, limit: int = MAX_VALUES) -> None:
    """Refuse what is not DER in the values that fill [pos, end), down to `depth` levels and at most `limit` values.

    What a universal type says of its contents is checked; what an implicitly tagged one holds cannot be known here.
    """
    enclosing: list[int] = []
    while True:
        while pos < end:
            tag = data[pos]
            start = pos + 2
            if start <= end and data[pos + 1] < 0x80 and tag & 0x1F != 0x1F:  # header() for the short form, in place
                stop = start + data[pos + 1]
                if stop > end:
                    raise DerError("value is longer than what contains it")
            else:
                tag, start, stop = header(data, pos, end)
            limit -= 1
            if limit < 0:
                raise DerError("too many values")
            if tag & 0x20:
                if tag < 0x40 and tag != SEQUENCE and tag != SET:
                    raise DerError(f"universal type {tag & 0x1F:02X} must be primitive")
                if len(enclosing) + 1 >= depth:
                    raise DerError(f"values nest deeper than {depth}")
                enclosing.append(end)
                pos, end = start, stop
                continue
            if tag < 0x40:
                if tag not in _PRIMITIVES:
                    raise DerError(f"universal type {tag:02X} does not occur in CMP")
                check_contents = _PRIMITIVES[tag]
                if check_contents is not None:
                    check_contents(data, start, stop)
            pos = stop
        if not enclosing:
            return
        end = enclosing.pop()


def _check_integer(data: bytes, start: int, stop: int) -> None:
    if stop - start != 1:
        integer(data, start, stop, "INTEGER", octets=1 << 20)


def _check_boolean(data: bytes, start: int, stop: int) -> None:
    boolean(data, start, stop, "BOOLEAN")


def _check_null(data: bytes, start: int, stop: int) -> None:
    if start != stop:
        raise DerError("NULL is not empty")


def _check_bit_string(data: bytes, start: int, stop: int) -> None:
    if start == stop or data[start] > 7 or (data[start] and stop - start == 1):
        raise DerError("BIT STRING with a wrong number of unused bits")
    if data[start] and data[stop - 1] & ((1 << data[start]) - 1):
        raise DerError("BIT STRING with unused bits that are not zero")


def _check_utf8(data: bytes, start: int, stop: int) -> None:
    try:
        data[start:stop].decode()
    except UnicodeDecodeError:
        raise DerError("UTF8String is not UTF-8") from None


def _check_oid(data: bytes, start: int, stop: int) -> None:
    check_oid(data, start, stop, "OBJECT IDENTIFIER")


def check_oid(data: bytes, start: int, stop: int, noun: str) -> None:
    """Refuse an OBJECT IDENTIFIER with contents [start, stop) that is empty, cut off, padded or over 64 octets."""
    if not 0 < stop - start <= 64:
        raise DerError(f"{noun}: want 1 to 64 octets")
    if data[stop - 1] & 0x80:
        raise DerError(f"{noun}: last arc is cut off")
    at = data.find(0x80, start, stop)
    while at >= 0:
        if at == start or not data[at - 1] & 0x80:
            raise DerError(f"{noun}: arc is not in the fewest octets")
        at = data.find(0x80, at + 1, stop)


_PRIMITIVES: Final[dict[int, Callable[[bytes, int, int], None] | None]] = {
    BOOLEAN: _check_boolean,
    INTEGER: _check_integer,
    BIT_STRING: _check_bit_string,
    OCTET_STRING: None,
    NULL: _check_null,
    OID: _check_oid,
    ENUMERATED: _check_integer,
    UTF8_STRING: _check_utf8,
    NUMERIC_STRING: None,
    PRINTABLE_STRING: None,
    TELETEX_STRING: None,
    IA5_STRING: None,
    UTC_TIME: None,
    GENERALIZED_TIME: None,
    VISIBLE_STRING: None,
    GENERAL_STRING: None,
    UNIVERSAL_STRING: None,
    BMP_STRING: None,
}
"""The universal primitive types that occur in CMP, with what checks their contents; strings are read by names.py."""


def dotted(contents: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's contents that `check_oid` has passed."""
    arcs: list[int] = []
    arc = 0
    for octet in contents:
        arc = arc << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


# --- writing ---------------------------------------------------------------------------------------------------------


_PREFIXES: Final = tuple(bytes((prefix >> 7, prefix & 0x7F)) for prefix in range(0x8000))
"""Identifier and length octets of short values: looking them up takes half as long as making them."""


def tlv(tag: int, contents: bytes) -> bytes:
    """One value: identifier octet, length in the fewest octets, contents."""
    size = len(contents)
    if size < 0x80:
        return _PREFIXES[tag << 7 | size] + contents
    if size < 0x100:
        return bytes((tag, 0x81, size)) + contents
    if size < 0x10000:
        return bytes((tag, 0x82, size >> 8, size & 0xFF)) + contents
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + contents


def seq(*parts: bytes) -> bytes:
    """A SEQUENCE of encoded parts."""
    return tlv(SEQUENCE, b"".join(parts))


def explicit(number: int, value: bytes) -> bytes:
    """`value` inside an explicit context tag (number 0 to 30)."""
    return tlv(0xA0 | number, value)


def encode_integer(value: int) -> bytes:
    """An INTEGER."""
    return tlv(INTEGER, value.to_bytes((value + (value < 0)).bit_length() // 8 + 1, "big", signed=True))


def encode_octets(value: bytes) -> bytes:
    """An OCTET STRING."""
    return tlv(OCTET_STRING, value)


def explicit_octets(number: int, value: bytes) -> bytes:
    """An OCTET STRING inside an explicit context tag."""
    size = len(value)
    if size < 0x7E:
        return bytes((0xA0 | number, size + 2, OCTET_STRING, size)) + value
    return explicit(number, encode_octets(value))


def encode_bits(octets: bytes, unused: int = 0) -> bytes:
    """A BIT STRING of `octets` whose last octet has `unused` bits that do not count."""
    return tlv(BIT_STRING, bytes((unused,)) + octets)


def encode_named_bits(*bits: int) -> bytes:
    """A named BIT STRING with these bits set: trailing zero bits are dropped (X.690 section 11.2.2)."""
    if not bits:
        return encode_bits(b"")
    size = max(bits) + 1
    value = sum(1 << (size - 1 - bit) for bit in set(bits))
    unused = -size % 8
    return encode_bits((value << unused).to_bytes((size + unused) // 8, "big"), unused)


def encode_oid(dotted_form: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = map(int, dotted_form.split("."))
    contents = b""
    for arc in (40 * first + second, *rest):
        octets = bytes((arc & 0x7F,))
        while arc := arc >> 7:
            octets = bytes((arc & 0x7F | 0x80,)) + octets
        contents += octets
    return tlv(OID, contents)


def encode_utf8(text: str) -> bytes:
    """A UTF8String."""
    return tlv(UTF8_STRING, text.encode())


def encode_boolean(value: bool) -> bytes:
    """A BOOLEAN."""
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def encode_generalized_time(when: float) -> bytes:
    """A GeneralizedTime of Unix time `when`, seconds rounded down."""
    return _generalized_time(math.floor(when))


@lru_cache(maxsize=4096)
def _generalized_time(when: int) -> bytes:
    return tlv(GENERALIZED_TIME, time.strftime("%Y%m%d%H%M%SZ", time.gmtime(when)).encode())


def encode_time(when: float) -> bytes:
    """A Time of a certificate or CRL: UTCTime from 1950 through 2049, else GeneralizedTime (RFC 5280)."""
    return _certificate_time(math.floor(when))


@lru_cache(maxsize=4096)
def _certificate_time(when: int) -> bytes:
    moment = time.gmtime(when)
    if 1950 <= moment.tm_year < 2050:
        return tlv(UTC_TIME, time.strftime("%y%m%d%H%M%SZ", moment).encode())
    return _generalized_time(when)
