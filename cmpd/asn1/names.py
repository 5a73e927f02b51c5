"""Names: read strictly and bounded, compared as RFC 5280 section 7.1 says, written as text and made from text.

A message and a certificate nearly always hold the same octets, so `same_name` takes names apart only when they differ.
Reading gives plain tuples: a Name is a tuple of RDNs, an RDN a tuple of (contents of the OID, tag of the value, text).
A value that is not a string has the text of RFC 4514 section 2.4: "#" and its DER in hex; its tag tells it apart.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.oids import contents

Rdn = tuple[tuple[bytes, int, str], ...]
Name = tuple[Rdn, ...]

MAX_OCTETS: Final = 8192
MAX_ATTRIBUTES: Final = 64
NULL_DN: Final = b"\x30\x00"
DIRECTORY_NAME: Final = 0xA4
"""Tag of directoryName in GeneralName: explicit, because Name is a CHOICE."""


@dataclass(frozen=True, slots=True)
class AttributeType:
    """An attribute that texts may name: its OID's contents, the string type it is written as, the most characters."""

    oid: bytes
    tag: int
    limit: int


def _row(dotted_form: str, tag: int = der.UTF8_STRING, limit: int = 64) -> AttributeType:
    return AttributeType(contents(dotted_form), tag, limit)


# Upper bounds and string types: RFC 5280 appendix A; the names are those of RFC 4514, then OpenSSL's.
ATTRIBUTE_TYPES: Final[dict[str, AttributeType]] = {
    "CN": _row("2.5.4.3"),
    "O": _row("2.5.4.10"),
    "OU": _row("2.5.4.11"),
    "C": _row("2.5.4.6", der.PRINTABLE_STRING, 2),
    "ST": _row("2.5.4.8", limit=128),
    "L": _row("2.5.4.7", limit=128),
    "STREET": _row("2.5.4.9", limit=128),
    "DC": _row("0.9.2342.19200300.100.1.25", der.IA5_STRING, 63),
    "UID": _row("0.9.2342.19200300.100.1.1", limit=256),
    "serialNumber": _row("2.5.4.5", der.PRINTABLE_STRING),
    "emailAddress": _row("1.2.840.113549.1.9.1", der.IA5_STRING, 255),
    "SN": _row("2.5.4.4", limit=32768),
    "GN": _row("2.5.4.42", limit=32768),
    "initials": _row("2.5.4.43", limit=32768),
    "generationQualifier": _row("2.5.4.44", limit=32768),
    "title": _row("2.5.4.12"),
    "pseudonym": _row("2.5.4.65", limit=128),
    "dnQualifier": _row("2.5.4.46", der.PRINTABLE_STRING),
    "postalCode": _row("2.5.4.17", limit=40),
    "organizationIdentifier": _row("2.5.4.97", limit=256),
}
_OTHER_NAMES: Final = {"S": "ST", "E": "emailAddress", "surname": "SN", "givenName": "GN", "commonName": "CN"}
_BY_TEXT: Final = {name.lower(): row for name, row in ATTRIBUTE_TYPES.items()} | {
    alias.lower(): ATTRIBUTE_TYPES[name] for alias, name in _OTHER_NAMES.items()
}
ATTRIBUTE_NAMES: Final[dict[bytes, str]] = {row.oid: name for name, row in ATTRIBUTE_TYPES.items()}
"""The names of ATTRIBUTE_TYPES by the contents of their OIDs."""
COMMON_NAME: Final = ATTRIBUTE_TYPES["CN"].oid

_CODECS: Final[dict[int, str]] = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    der.NUMERIC_STRING: "ascii",
    der.VISIBLE_STRING: "ascii",
    der.TELETEX_STRING: "latin-1",
    der.BMP_STRING: "utf-16-be",
    der.UNIVERSAL_STRING: "utf-32-be",
}
_FOLDED: Final = frozenset(_CODECS) - {der.TELETEX_STRING}  # nobody agrees on what a TeletexString's octets mean

# --- reading and comparing --------------------------------------------------------------------------------------------


def read_name(data: bytes) -> Name:
    """Take the DER of a Name apart. DerError if it is not one, or is over MAX_OCTETS or MAX_ATTRIBUTES."""
    end = len(data)
    if end > MAX_OCTETS:
        raise der.DerError(f"Name: want at most {MAX_OCTETS} octets, have {end}")
    pos, stop = der.expect(data, 0, end, der.SEQUENCE, "Name")
    if stop != end:
        raise der.DerError("Name: octets after it")
    rdns = []
    count = 0
    while pos < stop:
        start, pos_after = der.expect(data, pos, stop, der.SET, "RelativeDistinguishedName")
        rdn = _read_rdn(data, start, pos_after)
        count += len(rdn)
        if count > MAX_ATTRIBUTES:
            raise der.DerError(f"Name: more than {MAX_ATTRIBUTES} attributes")
        rdns.append(rdn)
        pos = pos_after
    return tuple(rdns)


def _read_rdn(data: bytes, pos: int, end: int) -> Rdn:
    found: list[tuple[bytes, int, str]] = []
    before = b""
    while pos < end:
        start, after = der.expect(data, pos, end, der.SEQUENCE, "AttributeTypeAndValue")
        first, last = der.expect(data, start, after, der.OID, "AttributeType")
        der.check_oid(data, first, last, "AttributeType")
        tag, inner, stop = der.header(data, last, after)
        if stop != after:
            raise der.DerError("AttributeTypeAndValue: want two values, have more")
        if found or after != end:  # a SET OF with several members is sorted by their octets (X.690 section 11.6)
            if data[pos:after] <= before or len(found) >= MAX_ATTRIBUTES:
                raise der.DerError("RelativeDistinguishedName: attributes are not sorted, or one is there twice")
            before = data[pos:after]
        found.append((data[first:last], tag, _read_text(data, tag, last, inner, stop)))
        pos = after
    if not found:
        raise der.DerError("RelativeDistinguishedName: empty")
    return tuple(found)


def _read_text(data: bytes, tag: int, pos: int, start: int, stop: int) -> str:
    codec = _CODECS.get(tag)
    if codec is None:
        der.check(data, pos, stop, depth=8)
        return "#" + data[pos:stop].hex()
    try:
        return data[start:stop].decode(codec)
    except UnicodeDecodeError:
        raise der.DerError(f"AttributeValue: the octets are not those of a string with tag {tag:02X}") from None


def directory_name(general_name: bytes) -> bytes | None:
    """The DER of the Name in a GeneralName (DER) that is a directoryName; None if it is another kind."""
    tag, start, stop = der.header(general_name, 0, len(general_name))
    if stop != len(general_name):
        raise der.DerError("GeneralName: octets after it")
    return general_name[start:stop] if tag == DIRECTORY_NAME else None


def same_name(a: bytes, b: bytes) -> bool:
    """Whether two Names (DER) match by RFC 5280 section 7.1: letter case, spaces and string type do not count.

    DerError if the octets differ and one of them is no Name.
    """
    if a == b:
        return True
    one, other = read_name(a), read_name(b)
    return len(one) == len(other) and all(map(_same_rdn, one, other))


def has_attributes(name: bytes, wanted: bytes) -> bool:
    """Whether every attribute of the Name `wanted` (DER) is in `name` (DER) too, as often as there, in any RDN.

    Attributes match as in `same_name`. DerError if one of them is no Name.
    """
    missing = Counter(_match_key(attribute) for rdn in read_name(wanted) for attribute in rdn)
    missing.subtract(_match_key(attribute) for rdn in read_name(name) for attribute in rdn)
    return all(count <= 0 for count in missing.values())


def _same_rdn(one: Rdn, other: Rdn) -> bool:
    return len(one) == len(other) and sorted(map(_match_key, one)) == sorted(map(_match_key, other))


def _match_key(attribute: tuple[bytes, int, str]) -> tuple[bytes, int, str]:
    oid, tag, text = attribute
    return (oid, 0, fold(text)) if tag in _FOLDED else attribute


def fold(text: str) -> str:
    """A text prepared for caseIgnoreMatch (RFC 4518 section 2): case folded, composed, runs of spaces made one.

    Control characters that are no space stay and count: dropped, as in RFC 4518, they would make different texts match.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.lower().split())


def attribute_texts(name: Name, oid: bytes) -> list[str]:
    """The texts of all attributes of one type, first to last."""
    return [text for rdn in name for found, tag, text in rdn if found == oid and tag in _CODECS]


# --- as text ----------------------------------------------------------------------------------------------------------

_PLAIN: Final = re.compile(r"[A-Za-z0-9.:/@_*()'?=-][A-Za-z0-9 .:/@_*()'?=-]*(?<! )").fullmatch


def name_text(name: Name | bytes) -> str:
    """A Name (read, or its DER) as RFC 4514 writes it, the last RDN first: "CN=y,O=x,C=DE"; "" for the NULL-DN.

    Characters that do not print are written as the hex of their UTF-8 octets, so that the text is fit for a log.
    """
    rdns = read_name(name) if isinstance(name, bytes) else name
    return ",".join(["+".join([_attribute_text(*attribute) for attribute in rdn]) for rdn in reversed(rdns)])


def _attribute_text(oid: bytes, tag: int, text: str) -> str:
    label = ATTRIBUTE_NAMES.get(oid)
    if tag not in _CODECS:
        return f"{label or der.dotted(oid)}={text}"
    if label is None:  # RFC 4514 section 2.4: with a dotted OID the value is its DER in hex
        return f"{der.dotted(oid)}=#{der.tlv(tag, text.encode(_CODECS[tag])).hex()}"
    return f"{label}={text if _PLAIN(text) else _escape(text)}"


def _escape(text: str) -> str:
    last = len(text) - 1
    return "".join(_escape_character(i in (0, last), i == 0, text[i]) for i in range(last + 1))


def _escape_character(at_edge: bool, at_start: bool, character: str) -> str:
    if character in '"+,;<>\\' or (character == " " and at_edge) or (character == "#" and at_start):
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\{octet:02x}" for octet in character.encode())


# --- from text --------------------------------------------------------------------------------------------------------

_PRINTABLE: Final = frozenset(string.ascii_letters + string.digits + " '()+,-./:=?")
_ALLOWED: Final[dict[int, Callable[[str], bool]]] = {
    der.UTF8_STRING: lambda text: "\0" not in text,
    der.PRINTABLE_STRING: lambda text: _PRINTABLE.issuperset(text),
    der.IA5_STRING: lambda text: text.isascii() and "\0" not in text,
}
_HEX: Final = frozenset(string.hexdigits)


def encode_name(text: str) -> bytes:
    """DER of the Name that a text means: "/C=DE/O=x/CN=y" (OpenSSL, first RDN first) or "CN=y,O=x,C=DE" (RFC 4514).

    "+" joins attributes of one RDN, a backslash takes away the meaning of a character or begins two hex digits, a value
    of "#" and hex is the value's DER. An attribute type is a name of ATTRIBUTE_TYPES or a dotted OID. "" and "/" are
    the NULL-DN. ValueError says what is wrong with the text.
    """
    openssl = text.startswith("/")
    rdns = [_encode_rdn(part) for part in _split(text[1:] if openssl else text, "/" if openssl else ",;")]
    encoded = der.seq(*(rdns if openssl else reversed(rdns)))
    read_name(encoded)  # the bounds of a Name hold for ours too
    return encoded


def _split(text: str, separators: str) -> list[str]:
    """The parts of `text` between separators that no backslash precedes; [] for an empty text."""
    parts, begin = [], 0
    for i in _unescaped(text, separators):
        parts.append(text[begin:i])
        begin = i + 1
    return [*parts, text[begin:]] if text else []


def _unescaped(text: str, wanted: str) -> Iterator[int]:
    i = 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] in wanted:
            yield i
        i += 1


def _encode_rdn(text: str) -> bytes:
    attributes = sorted({_encode_attribute(part) for part in _split(text, "+")})
    if not attributes:
        raise ValueError("name: want TYPE=value between separators, have nothing")
    return der.tlv(der.SET, b"".join(attributes))


def _encode_attribute(text: str) -> bytes:
    label, equals, value = text.partition("=")
    label = label.strip()
    if not equals:
        raise ValueError(f"name: want TYPE=value, have {text!r}")
    row = _attribute_type(label)
    value = _strip(value)
    if value.startswith("#"):
        return der.seq(der.tlv(der.OID, row.oid), _hex_value(label, value[1:]))
    value = _unescape(label, value)
    if not value or len(value) > row.limit:
        raise ValueError(f"name: {label}: want 1 to {row.limit} characters, have {len(value)}")
    if not _ALLOWED[row.tag](value):
        raise ValueError(f"name: {label}: {value!r} has a character that is not allowed there")
    if row.limit == 2 and len(value) != 2:
        raise ValueError(f"name: {label}: want the two letters of a country, have {value!r}")
    return der.seq(der.tlv(der.OID, row.oid), der.tlv(row.tag, value.encode(_CODECS[row.tag])))


@lru_cache(maxsize=256)
def _attribute_type(label: str) -> AttributeType:
    row = _BY_TEXT.get(label.lower())
    if row is not None:
        return row
    if not re.fullmatch(r"(0|1|2)(\.(0|[1-9][0-9]{0,30})){1,20}", label):
        raise ValueError(f"name: unknown attribute type {label!r}, want one of {', '.join(ATTRIBUTE_TYPES)} or an OID")
    first, second = map(int, label.split(".")[:2])
    if first < 2 and second > 39:
        raise ValueError(f"name: {label} is not an OBJECT IDENTIFIER")
    oid = der.encode_oid(label)
    start, stop = der.expect(oid, 0, len(oid), der.OID, "AttributeType")
    der.check_oid(oid, start, stop, "AttributeType")
    known = ATTRIBUTE_NAMES.get(oid[start:])
    return ATTRIBUTE_TYPES[known] if known else AttributeType(oid[start:], der.UTF8_STRING, 256)


def _strip(value: str) -> str:
    """`value` without the spaces around it; an escaped one at the end stays."""
    stripped = value.strip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and value.rstrip(" ") != value else stripped


def _hex_value(label: str, digits: str) -> bytes:
    try:
        value = bytes.fromhex(digits)
        der.check(value, 0, len(value), depth=8)
        if not value or der.header(value, 0, len(value))[2] != len(value):
            raise der.DerError("want one value")
    except ValueError as error:
        raise ValueError(f"name: {label}: after # want the DER of one value in hex ({error})") from None
    return value


def _unescape(label: str, value: str) -> str:
    octets = bytearray()
    i = 0
    while i < len(value):
        character = value[i]
        if character == "\\":
            pair = value[i + 1 : i + 3]
            if len(pair) == 2 and _HEX.issuperset(pair):
                octets.append(int(pair, 16))
                i += 3
                continue
            if not pair:
                raise ValueError(f"name: {label}: nothing follows the last backslash")
            i += 1
            character = value[i]
        octets += character.encode(errors="surrogatepass")
        i += 1
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise ValueError(f"name: {label}: the value is not UTF-8") from None
