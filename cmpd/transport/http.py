"""CMP over HTTP and HTTPS (RFC 9811): the path says which operation and profile, the content says in which form.

A PKIMessage comes as bare DER, or within a whole tcp-message, and either of them in Base64 too; it is answered in the
form that it came in. The content decides, not the path and not the media type: what clients send with
application/pkixcmp and application/pkixcmp-poll has been all of these.

    octet 0 is 30                     DER             200 and the CMP answer, a negative one too
    octet 0 is less than 09           tcp-message     200 and a tcp-message, an errorMsgRep too
    characters of Base64, white space                 as what it holds
    other                                             400

400 is for what is no CMP message; where it begins like one, the CMP answer that says so is its content. What has no CMP
answer gets an empty content: 202 for announcements, of which cmpd takes note only, 200 for the rest. An announcement
that is refused is a 400 too (RFC 9811 section 3.5), with the CMP error inside. A query names something that is not
here, so it is a 404 and not the resource without it. One slash at the end of a path is ignored.
"""

import binascii
import logging
from base64 import b64decode, b64encode
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from re import IGNORECASE
from re import compile as pattern
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.env import Env
from cmpd.origin import OPERATIONS, Door, NotAMessage, Operation, Origin, Responds, Waiting
from cmpd.transport.frames import FrameRules, answer_frame
from cmpd.transport.http_server import (
    HttpAnswer,
    HttpDoor,
    HttpLimits,
    HttpServer,
    connection_of,
    media_type,
    plain,
    read_content,
)
from cmpd.transport.tls import TlsContext
from cmpd.wire.tcpmsg import Decoder, ErrorType, Fault, Frame, Framing

log = logging.getLogger("cmpd.transport.http")

WELL_KNOWN: Final = ("", ".well-known", "cmp")
"""Segments of the path of RFC 9811 section 3.4."""

PKIXCMP: Final = "application/pkixcmp"
POLL_TYPES: Final = ("application/pkixcmp-poll", "application/x-pkixcmp-poll")
"""What early clients send tcp-messages with, or bare DER (RFC 9811 section 4)."""

_DER: Final = 0x30
_FRAME_BELOW: Final = 0x09  # octet 0 of a tcp-message: no Length is as long as that
_ANNOUNCEMENTS: Final = range(0xA0 + 15, 0xA0 + 19)
_FIELDS: Final = {"Cache-Control": "no-store"}
_AUTHORITY: Final = pattern(r"^https?://[^/?#]*", IGNORECASE)  # absolute-form: for a proxy
_LINE: Final = 64
_WHITE: Final = b" \t\n\r\v\f"
_ROOM: Final = 1024  # white space round Base64, header of a tcp-message


@dataclass(frozen=True, slots=True)
class CmpHttpLimits(HttpLimits):
    """What peers may use (HttpLimits). `max_message_octets`: longest PKIMessage or tcp-message, before Base64."""

    max_connections: int = 10_000
    max_connections_per_address: int = 1024
    request_seconds: float = 30
    idle_seconds: float = 3600
    max_message_octets: int = 262_144

    def __post_init__(self) -> None:
        HttpLimits.__post_init__(self)
        Decoder(self.max_message_octets)  # has the rule for this one


@dataclass(frozen=True, slots=True)
class _Place:
    """What a path names."""

    operation: Operation | None = None
    profile: str = ""


class CmpHttpServer(HttpDoor):
    """Listens for clients of CMP over HTTP, or HTTPS with `tls`. One for all addresses."""

    def __init__(
        self,
        responds: Responds,
        limits: CmpHttpLimits | None = None,
        *,
        door: Door,
        path: str = "",
        profiles: Collection[str] = (),
        tls: TlsContext | None = None,
        handshake_seconds: float = 10,
        tcp_messages: bool = True,
        transport_polling: bool = True,
        env: Env | None = None,
    ) -> None:
        """`path`: one more beside /.well-known/cmp, "" for none. `profiles`: names that a path may have.

        `tcp_messages`: take them, and Base64, too. `transport_polling`: say pollRep to who has to wait and sent one.
        `handshake_seconds`: of TLS. `env`: the clock of Date.
        """
        self._responds = responds
        self._limits = limits or CmpHttpLimits()
        self._door = door
        self._path = tuple(path.split("/")) if path else None
        self._profiles = tuple(sorted(profiles))
        self._tcp_messages = tcp_messages
        self._rules = FrameRules(rfc2510=True, transport_polling=transport_polling)
        self._kinds = (PKIXCMP, *POLL_TYPES) if tcp_messages else (PKIXCMP,)
        size = self._limits.max_message_octets
        # Base64 takes 4/3 of it, and line breaks of two octets each 64
        self._max_content = (size + _ROOM) * 4 // 3 * 66 // 64 + _ROOM if tcp_messages else size
        self._find = lru_cache(maxsize=256)(self._find_place)
        self._env = env or Env()
        self._http = HttpServer(self._answer, self._limits, self._env, tls=tls, handshake_seconds=handshake_seconds)

    # --- where

    async def _answer(self, request: web.BaseRequest) -> HttpAnswer:
        place = self._find(request.raw_path)
        if isinstance(place, HttpAnswer):
            return place
        if request.method != "POST":
            return plain(405, "want POST", Allow="POST")
        octets = await read_content(request, self._kinds, self._max_content)
        if isinstance(octets, HttpAnswer):
            return octets
        connection = connection_of(request)
        origin = Origin(
            connection.address, self._door, place.operation, place.profile, certificates=connection.certificates
        )
        status, content = await self._respond(octets, origin)
        if isinstance(content, str):
            return plain(status, content)
        return HttpAnswer(status, content, {"Content-Type": media_type(request), **_FIELDS} if content else _FIELDS)

    def _find_place(self, target: str) -> _Place | HttpAnswer:
        path, _, query = _AUTHORITY.sub("", target).partition("?")
        if query:
            return plain(404, "nothing here has a query")
        segments = tuple(map(unquote, path.split("/")))  # split first: %2F is no slash
        if len(segments) > 2 and not segments[-1]:
            segments = segments[:-1]
        if segments == self._path:
            return _Place()
        if segments[: len(WELL_KNOWN)] != WELL_KNOWN:
            other = f" or {'/'.join(self._path)}" if self._path else ""
            return plain(404, f"want {'/'.join(WELL_KNOWN)}{other}")
        return self._find_below(segments[len(WELL_KNOWN) :])

    def _find_below(self, segments: tuple[str, ...]) -> _Place | HttpAnswer:
        """What stands behind /.well-known/cmp: [p/PROFILE][/OPERATION] (RFC 9483 section 6.1)."""
        profile, rest = "", segments
        if segments[:1] == ("p",):
            profile, rest = "".join(segments[1:2]), segments[2:]
            if profile not in self._profiles:
                return plain(404, f"profile: want {' or '.join(self._profiles) or 'none'} behind /p/")
        if not rest:
            return _Place(None, profile)
        if len(rest) > 1 or rest[0] not in OPERATIONS:
            return plain(404, f"operation: want {' or '.join(OPERATIONS)}")
        return _Place(OPERATIONS[rest[0]], profile)

    # --- what

    async def _respond(self, octets: bytes, origin: Origin) -> tuple[int, bytes | str]:
        """(status, content in the form of the request, or what is wrong with it)."""
        head = octets[:1]
        if not octets:
            return 400, "want a PKIMessage, have no octets"
        if head[0] == _DER:
            return await self._respond_to_der(octets, origin)
        if not self._tcp_messages:
            return 400, "want the DER of a PKIMessage"
        if head[0] < _FRAME_BELOW:
            return 200, await self._respond_to_frame(octets, origin)
        return await self._respond_to_base64(octets, origin)

    async def _respond_to_base64(self, octets: bytes, origin: Origin) -> tuple[int, bytes | str]:
        want = "want a PKIMessage in DER, a tcp-message, or the Base64 of one of them"
        try:
            value = b64decode(octets.translate(None, _WHITE), validate=True)
        except binascii.Error:
            return 400, want
        if not value or not (value[0] == _DER or value[0] < _FRAME_BELOW):
            return 400, want
        status, content = await self._respond(value, origin)
        if isinstance(content, str):
            return status, content
        encoded = b64encode(content)
        if b"\n" in octets.strip():  # lines for who sent lines
            encoded = b"".join(encoded[at : at + _LINE] + b"\r\n" for at in range(0, len(encoded), _LINE))
        return status, encoded

    async def _respond_to_der(self, octets: bytes, origin: Origin) -> tuple[int, bytes | str]:
        limit = self._limits.max_message_octets
        if len(octets) > limit:
            return 413, f"PKIMessage: want at most {limit} octets, have {len(octets)}"
        announces = _body_tag(octets) in _ANNOUNCEMENTS
        answer = await self._responds.respond(octets, origin)
        if isinstance(answer, Waiting):
            raise TypeError("a PKIMessage in bare DER cannot be answered by Waiting")
        if answer is None:
            return 202 if announces else 200, b""
        return 400 if announces or isinstance(answer, NotAMessage) else 200, answer

    async def _respond_to_frame(self, octets: bytes, origin: Origin) -> bytes:
        frame = self._frame(octets)
        if isinstance(frame, Frame):
            return await answer_frame(frame, self._responds, origin, self._rules, env=self._env, log=log)
        log.info("%s: answered with errorMsgRep %s: %s", origin.address, frame.error.name, frame.text)
        return frame.encode()

    def _frame(self, octets: bytes) -> Frame | Fault:
        """The one whole tcp-message that a content has to be."""
        decoder = Decoder(self._limits.max_message_octets)
        decoder.feed(octets)
        event = decoder.next()
        if isinstance(event, Fault):
            return event
        if isinstance(event, Frame):
            if not decoder.held:
                return event
            framing, close, text = event.framing, event.close, f"{decoder.held} octets after its end"
        else:
            framing = Framing.RFC2510 if len(octets) > 4 and octets[4] < 10 else Framing.V10
            close, text = False, f"want all of it, have {len(octets)} octets"
        return Fault(framing, ErrorType.GeneralClientError, b"", f"tcp-message: {text}", close)


def _body_tag(octets: bytes) -> int | None:
    """Identifier octet of PKIBody; None: this is no SEQUENCE of a header, a body and nothing behind it."""
    try:
        start, stop = der.expect(octets, 0, len(octets), der.SEQUENCE, "PKIMessage")
        _, end = der.expect(octets, start, stop, der.SEQUENCE, "header")
        tag, _, _ = der.header(octets, end, stop)
    except DerError:
        return None
    return tag if stop == len(octets) and 0xA0 <= tag <= 0xBA else None
