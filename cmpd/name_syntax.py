"""What names in a certificate must look like: the attributes of a Name, and the values of a GeneralName.

A certificate vouches for its names, so what RFC 5280 forbids is refused and never corrected: the octets that the
requester asked for are the ones that are certified. Attributes are those of ATTRIBUTE_TYPES, with the string types and
lengths of RFC 5280 appendix A, and with no character that cannot be seen: RFC 4518 has comparers overlook some of them
(section 2.2) and prohibits others (section 2.4), so that two names could look alike or match, and be told apart here.
Host names are LDH labels; single labels and wildcards are allowed.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.names import ATTRIBUTE_TYPES, Name
from cmpd.errors import BadCertTemplate

_STRINGS: Final = {
    der.UTF8_STRING: (frozenset({der.UTF8_STRING, der.PRINTABLE_STRING}), "UTF8String or PrintableString"),
    der.PRINTABLE_STRING: (frozenset({der.PRINTABLE_STRING}), "PrintableString"),
    der.IA5_STRING: (frozenset({der.IA5_STRING}), "IA5String"),
}
"""What an attribute may be encoded as, by the type that it is usually written in (RFC 5280 section 4.1.2.4)."""

_RULES: Final = {row.oid: (name, row.limit, *_STRINGS[row.tag]) for name, row in ATTRIBUTE_TYPES.items()}

_PRINTABLE: Final = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*\Z").match
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control, format, private use, surrogates, separators of lines and paragraphs. What is not
assigned is as the table of Python's version says, so that it cannot be judged.
"""
_OVERLOOKED: Final = re.compile(
    "[\u034f\u115f\u1160\u1806\u180b-\u180f\u3164\ufdd0-\ufdef\ufe00-\ufe0f\uffa0\ufffc-\uffff]"
).search
"""Of other categories: joiners, fillers, selectors of variants, what stands for something else, no characters."""
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)\Z").match
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*\Z").match
_URI: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:"
    r"(?P<authority>//(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?#:@]*)(?::[0-9]*)?(?=[/?#]|\Z))?"
    r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*\Z"
).match


def check_name(rdns: Name, noun: str) -> None:
    """Refuse (BadCertTemplate) a Name that is not fit for a certificate. `noun` is what the text for the peer names."""
    for rdn in rdns:
        if len(rdn) > 1 and len({oid for oid, _, _ in rdn}) != len(rdn):
            raise BadCertTemplate(f"{noun}: want each type of attribute once in an RDN, have one twice (X.501)")
        for oid, tag, text in rdn:
            row = _RULES.get(oid)
            if row is None:
                raise BadCertTemplate(f"{noun}: want attributes that are known to this CA, have {der.dotted(oid)}")
            name, limit, tags, wanted = row
            if tag not in tags:
                raise BadCertTemplate(f"{noun}.{name}: want {wanted}, have a value with tag {tag:02X}")
            if not 0 < len(text) <= limit:
                raise BadCertTemplate(f"{noun}.{name}: want 1 to {limit} characters, have {len(text)}")
            if tag == der.PRINTABLE_STRING and not _PRINTABLE(text):
                raise BadCertTemplate(f"{noun}.{name}: want PrintableString, have a character that it cannot hold")
            if not text.isascii() and (unseen := _unseen(text)):
                raise BadCertTemplate(
                    f"{noun}.{name}: want characters that can be seen (RFC 4518 section 2), have U+{ord(unseen):04X}"
                )
            if _CONTROL(text):
                raise BadCertTemplate(f"{noun}.{name}: want text, have a control character in it")
            if text.isspace():
                raise BadCertTemplate(f"{noun}.{name}: want a value, have nothing but spaces")
            if name in _CONTENTS and not _CONTENTS[name][1](text):
                raise BadCertTemplate(f"{noun}.{name}: want {_CONTENTS[name][0]}, have something else")


def _unseen(text: str) -> str:
    """The first character that nobody sees, but for those of _CONTROL; "" if there is none."""
    found = _OVERLOOKED(text)
    if found is not None:
        return found[0]
    return next((char for char in text if _is_unseen(char) and not _CONTROL(char)), "")


def _is_unseen(char: str) -> bool:
    return unicodedata.category(char) in _UNSEEN or ord(char) & 0xFFFE == 0xFFFE


def _is_country(text: str) -> bool:
    return len(text) == 2 and text.isalpha()


def is_host(text: str) -> bool:
    """A host name of LDH labels (RFC 1123 section 2.1); the last label is no number, or it would be an address."""
    labels = text.split(".")
    if not (len(text) <= 253 and all(map(_LABEL, labels)) and not labels[-1].isdigit()):
        return False
    return "xn--" not in text.lower() or all(map(_is_a_label, labels))


def _is_a_label(label: str) -> bool:
    """Whether a label that begins with "xn--" stands for one of other than ASCII letters (RFC 5890 section 2.3.2.1)."""
    label = label.lower()
    if not label.startswith("xn--"):
        return True
    try:
        text = label[4:].encode().decode("punycode")
        return not text.isascii() and text.isprintable() and text.encode("punycode").decode() == label[4:]
    except (UnicodeError, OverflowError, ValueError):
        return False


def is_dns(text: str) -> bool:
    """A dNSName: a host name, of which the first label may be the wildcard "*"."""
    return len(text) <= 253 and is_host(text.removeprefix("*."))


def is_email(text: str) -> bool:
    """An rfc822Name: local part without quotes, "@" and host name (RFC 5280 section 4.2.1.6)."""
    local, _, host = text.rpartition("@")
    return len(local) <= 64 and bool(_LOCAL_PART(local)) and is_host(host)


def is_uri(text: str) -> bool:
    """An absolute URI (RFC 3986); with an authority, its host is a host name or an address (RFC 5280 4.2.1.6).

    One of http or https has no userinfo (RFC 9110 section 4.2.4): "https://good.example@evil.example" misleads.
    """
    found = _URI(text)
    if found is None or text.endswith(":"):
        return False
    if "@" in (found["authority"] or "") and text.lower().startswith(("http:", "https:")):
        return False
    host = found["host"]
    if found["authority"] is None:
        return not text.partition(":")[2].startswith("//")
    return is_host(host) or (host.startswith("[") and _is_address(host[1:-1], 6)) or _is_address(host, 4)


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


_CONTENTS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "C": ("the two letters of a country", _is_country),
    "DC": ("one label of a domain name", _LABEL),
    "emailAddress": ("an e-mail address", is_email),
}
"""Attributes whose text means something: what is wanted, and what checks it."""
