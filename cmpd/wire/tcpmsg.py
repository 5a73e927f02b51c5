"""tcp-messages: CMP over raw TCP, version 10 (draft-ietf-pkix-cmp-transport-protocols-06 section 3) and RFC 2510.

    v10:       Length (32) | Version = 10 (8) | Flags (8) | Message-Type (8) | Value      Length = len(Value) + 3
    RFC 2510:  Length (32) | flag (8) | Value                                             Length = len(Value) + 1

Octet 4 tells them apart: 10 is v10, below 10 is RFC 2510, above 10 is a version that has the v10 header but that we do
not speak. The Decoder is pulled: `feed` octets as they come, then `next` until it gives None. A frame that is whole in
what was fed is cut out with one copy; only a frame that is split goes through a buffer, and that grows no further than
this frame's Length, which has been held against the limit when five octets were there. The numbers of the message
types mean the same in both framings, so a frame is (framing, type, close, value) and every encoder takes a framing.
"""

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, NamedTuple

VERSION: Final = 10
"""The one version of tcp-messages that has ever been defined; RFC 2510's framing has no version."""

MAX_LIMIT: Final = 0x1000_0000
"""No limit may be above this: longer "lengths" are what HTTP, TLS and bare DER look like."""

ABSOLUTE_ABOVE: Final = 0x1000_0000
"""A time-to-check-back above this is Unix time (it is in the year 1978), else it is seconds from now."""


class Framing(Enum):
    """How a message is framed; an answer has the framing of its request (-06 section 3.2)."""

    V10 = "v10"
    RFC2510 = "rfc2510"


class MessageType(IntEnum):
    """Message-Type (-06 section 3.4); in RFC 2510 section 5.2 these are pkiMsg, negPollRep, finalMsgRep and so on."""

    pkiReq = 0x00
    pollRep = 0x01
    pollReq = 0x02
    finRep = 0x03
    partialMsgRep = 0x04  # RFC 2510 only
    pkiRep = 0x05
    errorMsgRep = 0x06


class ErrorType(IntEnum):
    """Error-Type of errorMsgRep (-06 section 3.4.6): major category, minor number."""

    VersionNotSupported = 0x0101
    GeneralClientError = 0x0200
    InvalidMessageType = 0x0201
    InvalidPollID = 0x0202
    GeneralServerError = 0x0300


class Frame(NamedTuple):
    """One whole message. `type` may be any octet; `close` is the connection close bit (False in RFC 2510)."""

    framing: Framing
    type: int
    close: bool
    value: bytes


class Fault(NamedTuple):
    """A frame that gets an errorMsgRep. `close`: the connection ends with that answer.

    Where the decoder itself gives one with `lost` set, the start of the next frame is unknown: it gives nothing more.
    """

    framing: Framing
    error: ErrorType
    data: bytes
    text: str
    close: bool
    lost: bool = False

    def encode(self) -> bytes:
        """The errorMsgRep that says this."""
        return error_msg_rep(self.framing, self.error, self.data, self.text, close=self.close)


class Foreign(NamedTuple):
    """The peer speaks something else: `protocol` is "HTTP", "TLS" or "DER". The decoder gives nothing more."""

    protocol: str


Event = Frame | Fault | Foreign

_V10: Final = Framing.V10
_RFC2510: Final = Framing.RFC2510
_V10_HEADER: Final = struct.Struct("!IBBB")
_RFC2510_HEADER: Final = struct.Struct("!IB")
_ERROR_HEADER: Final = struct.Struct("!HH")
_POLL: Final = struct.Struct("!II")
_HEAD: Final = 5  # octets that tell framing and length

# --- reading ---------------------------------------------------------------------------------------------------------


class Decoder:
    """Octets in any split -> events. `limit`: largest Length that is accepted, 3 to MAX_LIMIT octets.

    Holds at most one frame that is not whole (4 + `limit` octets) and what is left of the octets fed last.
    """

    __slots__ = ("_buffer", "_data", "_ended", "_limit", "_missing", "_pos", "_virgin")

    def __init__(self, limit: int) -> None:
        if not 3 <= limit <= MAX_LIMIT:
            raise ValueError(f"limit of a tcp-message: want 3..{MAX_LIMIT} octets, have {limit}")
        self._limit = limit
        self._data = b""  # fed, not taken yet from _pos on
        self._pos = 0
        self._buffer = bytearray()  # the first octets of a frame that is not whole
        self._missing = 0  # octets that the buffer lacks before it says more
        self._virgin = True  # no frame has been seen: only then another protocol is looked for
        self._ended = False

    @property
    def partial(self) -> bool:
        """Has a frame begun that is not whole? Meaningful after `next` has given None."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """Octets that are kept here now."""
        return len(self._buffer) + len(self._data) - self._pos

    def feed(self, data: bytes) -> None:
        """Take octets as they came. Call `next` until None before the next `feed`, or what is left is copied."""
        if self._ended:
            return
        self._data = data if self._pos >= len(self._data) else self._data[self._pos :] + data
        self._pos = 0

    def next(self) -> Event | None:
        """The next event, or None: more octets are needed (or nothing will ever come, after a lost frame)."""
        if self._buffer:
            return self._next_split()
        data, pos = self._data, self._pos
        if len(data) - pos >= 7:
            length, version, flags, kind = _V10_HEADER.unpack_from(data, pos)
            end = pos + 4 + length
            if version == VERSION and 3 <= length <= self._limit and end <= len(data):
                self._pos = end
                self._virgin = False
                return Frame(_V10, kind, flags & 1 == 1, data[pos + 7 : end])
        return self._next_odd()

    def _next_odd(self) -> Event | None:
        """What is no whole v10 frame: RFC 2510, a fault, or a frame whose rest is still to come."""
        data, pos = self._data, self._pos
        if pos >= len(data):
            self._data, self._pos = b"", 0
            return None
        event, size = self._parse(data, pos)
        if event is not None:
            self._pos = 0 if self._ended else pos + size
            return event
        self._missing = pos + size - len(data)
        self._buffer += memoryview(data)[pos:]
        self._data, self._pos = b"", 0
        return None

    def _next_split(self) -> Event | None:
        """Fill the buffer as far as the frame in it goes, first to its head, then to its end."""
        while True:
            data, pos = self._data, self._pos
            end = min(pos + self._missing, len(data))
            self._buffer += memoryview(data)[pos:end]
            self._missing -= end - pos
            self._pos = end
            if self._missing:
                self._data, self._pos = b"", 0
                return None
            event, size = self._parse(self._buffer, 0)
            if event is not None:
                self._buffer = bytearray()
                return event
            self._missing = size - len(self._buffer)

    def _parse(self, source: bytes | bytearray, pos: int) -> tuple[Event | None, int]:
        """(event, octets of its frame), or (None, octets that must be there before more can be said)."""
        if len(source) - pos < _HEAD:
            return None, _HEAD
        length, version = _RFC2510_HEADER.unpack_from(source, pos)
        framing, least = (_RFC2510, 1) if version < VERSION else (_V10, 3)
        if not least <= length <= self._limit:
            self._ended = True
            self._data, self._pos = b"", 0
            protocol = foreign(bytes(source[pos : pos + _HEAD])) if self._virgin else None
            return (Foreign(protocol) if protocol else _bad_length(framing, version, length, least, self._limit)), 0
        size = 4 + length
        if len(source) - pos < size:
            return None, size
        self._virgin = False
        if framing is _RFC2510:
            return Frame(_RFC2510, version, False, _cut(source, pos + 5, pos + size)), size
        close = source[pos + 5] & 1 == 1
        if version > VERSION:
            return _bad_version(version, close=close, lost=False), size
        return Frame(_V10, source[pos + 6], close, _cut(source, pos + 7, pos + size)), size


def _cut(source: bytes | bytearray, start: int, stop: int) -> bytes:
    # a slice of a bytearray would be a second copy
    return source[start:stop] if isinstance(source, bytes) else bytes(memoryview(source)[start:stop])


def _bad_version(version: int, *, close: bool, lost: bool) -> Fault:
    text = f"tcp-message version: want {VERSION}, have {version}"
    return Fault(_V10, ErrorType.VersionNotSupported, bytes((VERSION,)), text, close, lost)


def _bad_length(framing: Framing, version: int, length: int, least: int, limit: int) -> Fault:
    if version > VERSION:
        return _bad_version(version, close=True, lost=True)
    text = f"tcp-message length: want {least}..{limit}, have {length}"
    return Fault(framing, ErrorType.GeneralClientError, b"", text, close=True, lost=True)


_HTTP_STARTS: Final = (
    b"GET ",
    b"POST",
    b"PUT ",
    b"HEAD",
    b"OPTI",
    b"DELE",
    b"PATC",
    b"TRAC",
    b"CONN",
    b"PRI ",
    b"HTTP",
)


def foreign(head: bytes) -> str | None:
    """What other protocol begins with these five octets: "HTTP", "TLS" (a ClientHello), "DER" (a PKIMessage) or None.

    Only for octets that are no length: each of these protocols looks like a message of more than MAX_LIMIT octets.
    """
    if head[:4] in _HTTP_STARTS:
        return "HTTP"
    if head[0] == 0x16 and head[1] == 0x03 and head[2] <= 0x04:
        return "TLS"
    if head[0] != 0x30:
        return None
    # PKIMessage ::= SEQUENCE { header SEQUENCE ...: the second 30 follows the length, as far as five octets reach
    size = head[1]
    if size < 0x80:
        return "DER" if head[2] == 0x30 else None
    inner = 2 + (size & 0x7F)
    if not 0x81 <= size <= 0x84 or head[2] == 0:
        return None
    return "DER" if inner >= len(head) or head[inner] == 0x30 else None


def refusal(frame: Frame, *, rfc2510: bool = True) -> Fault | None:
    """What a server has against this frame; None: a pkiReq with a value, or a pollReq with a polling reference.

    `rfc2510=False`: that framing is not spoken, and all of it is answered by its errorMsgRep (-06 section 3.2.2).
    """
    framing, kind, close, value = frame
    if kind == 0x00 and value and (rfc2510 or framing is _V10):  # the way of nearly all frames
        return None
    if framing is _RFC2510 and not rfc2510:
        text = f"RFC 2510 framing: not spoken here, want tcp-messages of version {VERSION}"
        return Fault(framing, ErrorType.GeneralClientError, b"", text, close)
    if kind == MessageType.pkiReq:
        return Fault(framing, ErrorType.GeneralClientError, b"", "pkiReq: want a PKIMessage, have no octets", close)
    if kind == MessageType.pollReq:
        if len(value) == 4:
            return None
        text = f"pollReq: want 4 octets, have {len(value)}"
        return Fault(framing, ErrorType.GeneralClientError, b"", text, close)
    text = f"message type: want 00 or 02, have {kind:02x}"
    return Fault(framing, ErrorType.InvalidMessageType, bytes((kind,)), text, close)


def unknown_reference(frame: Frame) -> Fault:
    """The answer to a pollReq under whose reference nothing waits."""
    framing, _, close, value = frame
    return Fault(framing, ErrorType.InvalidPollID, value, f"polling reference: {value.hex()} is unknown", close)


# --- writing ---------------------------------------------------------------------------------------------------------


def message(framing: Framing, kind: int, value: bytes, *, close: bool = False) -> bytes:
    """One message of any type; `close` has no place in RFC 2510 framing and is dropped there."""
    if framing is _V10:
        return _V10_HEADER.pack(len(value) + 3, VERSION, close, kind) + value
    return _RFC2510_HEADER.pack(len(value) + 1, kind) + value


def pki_req(der: bytes, framing: Framing = Framing.V10, *, close: bool = False) -> bytes:
    """A pkiReq (RFC 2510: pkiMsg) with one DER PKIMessage."""
    return message(framing, 0x00, der, close=close)


def poll_req(reference: int, framing: Framing = Framing.V10, *, close: bool = False) -> bytes:
    """A pollReq for a polling reference (32 bits)."""
    return message(framing, 0x02, reference.to_bytes(4, "big"), close=close)


def pki_rep(framing: Framing, der: bytes, *, close: bool = False) -> bytes:
    """A pkiRep (RFC 2510: finalMsgRep) with one DER PKIMessage."""
    return message(framing, 0x05, der, close=close)


def poll_rep(framing: Framing, reference: int, time: int, *, close: bool = False) -> bytes:
    """A pollRep. `reference`: 1..2^32-1 (clients take 0 as none).

    `time`: v10: seconds that the client is to wait at least; RFC 2510: Unix time at which it may ask.
    """
    if not reference:
        raise ValueError("polling reference: want 1..4294967295, have 0")
    return message(framing, 0x01, _POLL.pack(reference, time), close=close)


def fin_rep(framing: Framing, *, close: bool = False) -> bytes:
    """A finRep (RFC 2510: negPollRep): the request has no CMP answer, now or later."""
    return message(framing, 0x03, b"\x00", close=close)


def error_msg_rep(framing: Framing, error: int, data: bytes, text: str, *, close: bool = False) -> bytes:
    """An errorMsgRep; in RFC 2510 framing it has nothing but the text. For faults of frames, never of PKIMessages."""
    if framing is _RFC2510:
        return message(framing, 0x06, text.encode())
    return message(framing, 0x06, _ERROR_HEADER.pack(error, len(data)) + data + text.encode(), close=close)


def with_close(octets: bytes) -> bytes:
    """The same encoded v10 message with the close bit set; one in RFC 2510 framing as it is."""
    if octets[4] != VERSION or octets[5] & 1:
        return octets
    return octets[:5] + b"\x01" + octets[6:]


# --- replies, as a client reads them ---------------------------------------------------------------------------------


class ReplyError(ValueError):
    """The server's message is no reply: the client ends the transaction and the connection (-06 section 3.4)."""


@dataclass(frozen=True, slots=True)
class PkiRep:
    """One DER PKIMessage."""

    der: bytes


@dataclass(frozen=True, slots=True)
class PollRep:
    """No answer yet; `time` as received, see `wait`."""

    reference: int
    time: int

    def wait(self, now: float) -> int:
        """Seconds from Unix time `now` until the client may ask: >= 0, whichever way the server wrote them."""
        return max(0, self.time - int(now)) if self.time > ABSOLUTE_ABOVE else self.time


@dataclass(frozen=True, slots=True)
class PartialMsgRep:
    """RFC 2510 only: one answer, and a polling reference for the next."""

    reference: int
    time: int
    der: bytes


@dataclass(frozen=True, slots=True)
class FinRep:
    """There is no CMP answer."""


@dataclass(frozen=True, slots=True)
class ErrorMsgRep:
    """The frame was refused. `error` is None in RFC 2510 framing; may be a number that ErrorType does not have.

    `text` has printable characters only. All of this is unauthenticated.
    """

    error: int | None
    data: bytes
    text: str


Reply = PkiRep | PollRep | PartialMsgRep | FinRep | ErrorMsgRep

_DATA_OCTETS: Final = {
    ErrorType.VersionNotSupported: 1,
    ErrorType.GeneralClientError: 0,
    ErrorType.InvalidMessageType: 1,
    ErrorType.InvalidPollID: 4,
    ErrorType.GeneralServerError: 0,
}


def reply(frame: Frame) -> Reply:
    """Read a server's message; ReplyError if it is none or malformed."""
    framing, kind, _, value = frame
    if kind in (MessageType.pkiRep, MessageType.pkiReq):  # some servers write 00 for every message
        if not value:
            raise ReplyError("pkiRep: want a PKIMessage, have no octets")
        return PkiRep(value)
    if kind == MessageType.pollRep:
        if len(value) != 8:
            raise ReplyError(f"pollRep: want 8 octets, have {len(value)}")
        return PollRep(*_POLL.unpack(value))
    if kind == MessageType.finRep:
        if value not in (b"", b"\x00"):
            raise ReplyError(f"finRep: want one zero octet, have {len(value)} octets")
        return FinRep()
    if kind == MessageType.errorMsgRep:
        return _error(value) if framing is _V10 else ErrorMsgRep(None, b"", _printable(value))
    if kind == MessageType.partialMsgRep and framing is _RFC2510:
        if len(value) < 9:
            raise ReplyError(f"partialMsgRep: want more than 8 octets, have {len(value)}")
        reference, time = _POLL.unpack_from(value)
        return PartialMsgRep(reference, time, value[8:])
    raise ReplyError(f"message type: want a reply, have {kind:02x}")


def _error(value: bytes) -> ErrorMsgRep:
    """Both layouts: data and text apart (-05), or the text where the data should be (late revisions)."""
    if len(value) < 4:
        raise ReplyError(f"errorMsgRep: want 4 octets or more, have {len(value)}")
    error, size = _ERROR_HEADER.unpack_from(value)
    data, rest = value[4 : 4 + size], value[4 + size :]
    if len(data) < size:
        raise ReplyError(f"errorMsgRep: Data-Length is {size}, but {len(data)} octets are left")
    if not rest and size > _DATA_OCTETS.get(error, 0):
        return ErrorMsgRep(error, b"", _printable(data))
    return ErrorMsgRep(error, data, _printable(rest))


def _printable(text: bytes) -> str:
    """UTF-8 for a log or a terminal: language tags (RFC 2482, U+E0000..E007F) dropped, controls replaced."""
    kept = (c for c in text.decode(errors="replace") if not "\U000e0000" <= c <= "\U000e007f")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in kept)
