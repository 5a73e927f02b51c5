"""GeneralName (RFC 5280 section 4.2.1.6): its tags, and sender and recipient of every message checked by position.

Each alternative's contents must be what its tag says. What x400Address and ediPartyName hold is checked no further than
their outermost values: they are taken where nothing hangs on them, and not where they would be sent back.
"""

from functools import lru_cache
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.names import DIRECTORY_NAME, read_name

MAX_GENERAL_NAME: Final = 8192
"""Most octets of a GeneralName."""

RFC822_NAME: Final = 0x81
DNS_NAME: Final = 0x82
URI: Final = 0x86
IP_ADDRESS: Final = 0x87
"""Tags of alternatives; that of directoryName is in names.py."""

_OTHER_NAME, _X400_ADDRESS, _EDI_PARTY_NAME, _REGISTERED_ID = 0xA0, 0xA3, 0xA5, 0x88

_CACHED: Final = 256  # octets; longer ones are read anew each time: bounds the memory of the cache
_CHECKED: Final = frozenset({_OTHER_NAME, RFC822_NAME, DNS_NAME, DIRECTORY_NAME, URI, IP_ADDRESS, _REGISTERED_ID})
_TAGS: Final = {False: _CHECKED, True: _CHECKED | {_X400_ADDRESS, _EDI_PARTY_NAME}}


def read_general_name(data: bytes, pos: int, end: int, noun: str, *, of_any_kind: bool) -> bytes:
    """The octets of the GeneralName at `pos`; DerError. `of_any_kind`: x400Address and ediPartyName are taken too."""
    if pos >= end:
        raise DerError(f"{noun}: want a GeneralName, have none")
    tag, _, stop = der.header(data, pos, end)
    if tag not in _TAGS[of_any_kind]:
        raise DerError(f"{noun}: want a GeneralName, have tag {tag:02X}")
    if stop - pos > MAX_GENERAL_NAME:
        raise DerError(f"{noun}: want at most {MAX_GENERAL_NAME} octets, have {stop - pos}")
    return (_check if stop - pos <= _CACHED else _check.__wrapped__)(data[pos:stop], noun)


@lru_cache(maxsize=4096)  # a long-lived client has one name, and so has the CA
def _check(octets: bytes, noun: str) -> bytes:
    der.check(octets, 0, len(octets))
    tag, start, stop = der.header(octets, 0, len(octets))
    if tag == DIRECTORY_NAME:
        read_name(octets[start:stop])
    elif tag == _OTHER_NAME:
        after = der.expect(octets, start, stop, der.OID, noun)[1]
        inner, end = der.expect(octets, after, stop, 0xA0, noun)
        if end != stop or der.header(octets, inner, end)[2] != end:
            raise DerError(f"{noun}: want an otherName of a type-id and one value, have another")
    elif tag in (RFC822_NAME, DNS_NAME, URI):
        if start == stop or not octets[start:stop].isascii():
            raise DerError(f"{noun}: want an IA5String of at least one character, have another value")
    elif tag == IP_ADDRESS:
        if stop - start not in (4, 16):
            raise DerError(f"{noun}: want an iPAddress of 4 or 16 octets, have {stop - start}")
    elif tag == _REGISTERED_ID:
        der.check_oid(octets, start, stop, noun)
    elif tag == _X400_ADDRESS:
        der.expect(octets, start, stop, der.SEQUENCE, f"{noun} x400Address")
    elif [child[0] for child in der.children(octets, start, stop, 2)] not in ([0xA1], [0xA0, 0xA1]):
        raise DerError(f"{noun}: want an ediPartyName with a partyName, have another value")
    return octets
