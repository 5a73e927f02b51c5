"""The names in subjectAltName: read, of allowed kinds, with values that are of their kind and as the profile wants.

Values are never corrected: what the requester asked for is certified, or refused.
"""

import ipaddress
from collections.abc import Callable
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.general_names import DNS_NAME, IP_ADDRESS, RFC822_NAME, URI
from cmpd.asn1.names import DIRECTORY_NAME, name_text, read_name
from cmpd.errors import BadCertTemplate
from cmpd.name_syntax import check_name, is_dns, is_email, is_uri
from cmpd.profiles.prepared import SanRules

MAX_SAN_NAMES: Final = 100
_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"
_MOST_SHOWN: Final = 80


def read_general_names(value: bytes) -> list[tuple[int, bytes]]:
    """(tag, contents) of each name in the DER of GeneralNames. Raises DerError."""
    der.check(value, 0, len(value))
    start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "subjectAltName")
    items = der.children(value, start, stop, MAX_SAN_NAMES)
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
                shown = ascii(contents[:_MOST_SHOWN].decode("latin-1"))
                raise DerError(f"subjectAltName: not a valid {kind} name: {shown}")
    except DerError as fault:
        raise malformed("subjectAltName", fault) from None
    return names


def malformed(noun: str, fault: DerError) -> BadCertTemplate:
    """What is wrong in the value of an extension; the text names it, and once."""
    text = str(fault)
    return BadCertTemplate(text if text.startswith(noun) else f"{noun}: {text}")


def _is_text(contents: bytes, is_good: Callable[[str], bool]) -> bool:
    return contents.isascii() and is_good(contents.decode("ascii"))


def _is_ip(contents: bytes) -> bool:
    """An address without a mask. One of IPv4 has 4 octets: in 16 (::ffff:0:0/96) no rule for IPv4 would find it."""
    return len(contents) in (4, 16) and not contents.startswith(_IPV4_MAPPED)


def _is_directory_name(contents: bytes) -> bool:
    name = read_name(contents)
    check_name(name, "subjectAltName.directoryName")
    return bool(name)


_SAN_KINDS: Final[dict[int, tuple[str, Callable[[bytes], bool]]]] = {
    RFC822_NAME: ("email", lambda contents: _is_text(contents, is_email)),
    DNS_NAME: ("dns", lambda contents: _is_text(contents, is_dns)),
    URI: ("uri", lambda contents: _is_text(contents, is_uri)),
    IP_ADDRESS: ("ip", _is_ip),
    DIRECTORY_NAME: ("dn", _is_directory_name),
}


def check_rules(names: list[tuple[int, bytes]], rules: SanRules | None, one_of: tuple[str, ...]) -> None:
    """Refuse (BadCertTemplate) names that are not as the profile's patterns and networks say, or if there is none of
    the kinds `one_of` (empty: any kind will do). The names are as `check_san` gives them.
    """
    if one_of and not any(_SAN_KINDS[tag][0] in one_of for tag, _ in names):
        raise BadCertTemplate(
            f"subjectAltName: want {' or '.join(one_of)} where the subject is empty, have no such name"
        )
    if rules is None:
        return
    for tag, contents in names:
        kind = _SAN_KINDS[tag][0]
        pattern = rules.patterns.get(kind)
        if kind == "ip" and rules.networks is not None:
            address = ipaddress.ip_address(contents)
            if not any(address in network for network in rules.networks):
                wanted = ", ".join(map(str, rules.networks))
                raise BadCertTemplate(f"subjectAltName.ip: want one in {wanted}; have {address}")
        elif pattern is not None:
            text = name_text(contents) if kind == "dn" else contents.decode("ascii")
            if not pattern.matches(text.lower() if kind == "dns" else text):
                raise BadCertTemplate(
                    f"subjectAltName.{kind}: want one that matches {pattern.text}, have {text[:_MOST_SHOWN]}"
                )
