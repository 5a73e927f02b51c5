"""One peer of an HTTP server: aiohttp's protocol object with a deadline, and a place in the server's count.

A deadline is about what the peer has to do: send a request that it has begun, take an answer. While a request is worked
on there is none. The server's sweep asks those whose deadline has come.

Clients that send head and content in two segments (OpenSSL) keep the second one back until the first is acknowledged,
which Linux puts off by 40 ms. So what comes of a request is acknowledged at once (TCP_QUICKACK, which does not last).
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from math import inf
from typing import Any, Final, Protocol, cast

from aiohttp import StreamReader, web

from cmpd.transport.listener import peer_name

log = logging.getLogger("cmpd.transport.http")

MAX_HEAD_LINE: Final = 8190
"""Octets of the request line, and of each field."""

_MAX_FIELDS: Final = 64
_READ_OCTETS: Final = 65_536
_LINGER_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What peers may use. `request_seconds`: from a request's first octet to its last, and for each piece of an answer
    to be taken. `idle_seconds`: a connection without a request.
    """

    max_connections: int = 1000
    max_connections_per_address: int = 100
    request_seconds: float = 10
    idle_seconds: float = 30

    def __post_init__(self) -> None:
        for name in ("max_connections", "max_connections_per_address"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: want 1 or more, have {getattr(self, name)}")
        for name in ("request_seconds", "idle_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: want more than 0, have {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, fields and content. Date, Server and Content-Length are added. "Connection: close" is the last answer."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


def plain(status: int, text: str, **headers: str) -> HttpAnswer:
    """A short text that no cache keeps. `headers`: with _ for -."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    body = f"{status} {HTTPStatus(status).phrase}: {text}\n".encode()
    return HttpAnswer(status, body, {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"} | fields)


class Owner(Protocol):
    """What a connection needs of its server."""

    limits: HttpLimits
    loop: asyncio.AbstractEventLoop

    def acquire(self, connection: "Connection") -> bool:
        """Count a new connection, or say that it must be closed."""

    def release(self, connection: "Connection") -> None:
        """Forget a connection, if `acquire` counted it."""

    def certificates(self, transport: asyncio.BaseTransport) -> tuple[bytes, ...]:
        """DER of the TLS client certificate and of what is known of its chain; () without."""

    def fields(self, answer: HttpAnswer) -> dict[str, str]:
        """All fields of an answer."""


def connection_of(request: web.BaseRequest) -> "Connection":
    """Where a request came in."""
    return cast(Connection, request.protocol)


class _State(Enum):
    IDLE = 0  # no request, and no answer that has not left
    READING = 1  # a request has begun
    WORKING = 2  # it is whole
    SENDING = 3  # its answer is with the transport


class Connection(web.RequestHandler):
    """aiohttp's protocol for one peer, with a deadline and a place in the server's count."""

    __slots__ = (
        "_accepted",
        "_busy",
        "_content",
        "_lost",
        "_more",
        "_server",
        "_socket",
        "_state",
        "_tcp",
        "_tls",
        "address",
        "certificates",
        "deadline",
        "host",
    )

    def __init__(self, server: Owner, manager: web.Server) -> None:
        super().__init__(
            manager,
            loop=server.loop,
            keepalive_timeout=server.limits.idle_seconds,
            logger=log,
            access_log=cast(logging.Logger, None),  # the types know only a logger, the code takes None for "off"
            max_line_size=MAX_HEAD_LINE,
            max_field_size=MAX_HEAD_LINE,
            max_headers=_MAX_FIELDS,
            lingering_time=min(_LINGER_SECONDS, server.limits.request_seconds),
            read_bufsize=_READ_OCTETS,
            auto_decompress=False,
        )
        self._server = server
        self._socket: asyncio.Transport
        self._tcp: socket.socket | None = None
        self._tls = False
        self._state = _State.IDLE
        self._content: StreamReader | None = None  # of the latest request
        self._accepted = False
        self._busy = False  # a request is worked on
        self._lost = False
        self._more = False  # something came after the request that is worked on
        self.certificates: tuple[bytes, ...] = ()  # DER of the TLS client certificate, and what is known of its chain
        self.address = self.host = ""
        self.deadline = inf

    # --- what the event loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be counted, or be closed at once."""
        self._socket = cast(asyncio.Transport, transport)  # uvloop's is no subclass; aiohttp forgets it before its end
        self._tcp = transport.get_extra_info("socket")
        self._tls = transport.get_extra_info("ssl_object") is not None
        self.host, self.address = peer_name(transport)
        self._accepted = self._server.acquire(self)
        if self._accepted:
            self.certificates = self._server.certificates(transport)
            super().connection_made(transport)
            self._acknowledge()  # the end of a TLS handshake, which has no answer
        else:
            self._socket.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Be forgotten, but not before its request is worked on: nobody gets more of them by connecting again."""
        self._lost = True
        self.deadline = inf
        if not self._busy:
            self._server.release(self)
        if self._accepted:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Octets of a request; the first ones set the deadline of the whole."""
        if not self._accepted:
            return
        if data:  # aiohttp calls this without any, to read on
            self._came()
        super().data_received(data)
        if data and self._state is _State.READING:
            self._acknowledge()

    def _came(self) -> None:
        if self._content is not None and not self._content.is_eof():
            return  # of a request that is being read, or was refused without being read
        if self._state is _State.IDLE or self._has_sent:
            self._state = _State.READING
            self.progress()
        else:
            self._more = True

    def _acknowledge(self) -> None:
        if self._tcp is not None and not self._lost:
            with contextlib.suppress(OSError):  # it is gone, or no TCP
                self._tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def eof_received(self) -> Any:  # aiohttp says None, the loop asks for bool | None
        """The peer sends no more: what it has asked for is answered before the end. True keeps the connection open.

        Not so over TLS, where the loop's transport ends both directions.
        """
        whole = self._content is None or self._content.is_eof()
        if not whole or self._state is _State.IDLE or self._tls or (self._state is _State.SENDING and not self._busy):
            return None
        self.close()  # aiohttp's: after the request that it has
        if not self._busy:
            self.deadline = self._server.loop.time()  # unless the request is whole, and begins now
        return True

    # --- what happens to a request

    def begin(self, content: StreamReader) -> None:
        """The head of a request is there; its deadline runs already, unless it came together with the one before."""
        self._busy = True
        self._more = False
        self._content = content
        if self._state is not _State.READING:
            self._state = _State.READING
            self.progress()
        if content.is_eof():
            self.arrived()

    def arrived(self) -> None:
        """The request is whole: it is not the peer who is slow now."""
        if not self._lost:
            self._state = _State.WORKING
            self.deadline = inf

    def progress(self) -> None:
        """Something was taken: what is next has the whole time again."""
        if not self._lost:
            self.deadline = self._server.loop.time() + self._server.limits.request_seconds

    def sending(self) -> None:
        """An answer, or a piece of it, is for the peer to take in time."""
        self._state = _State.SENDING
        self.progress()

    def done(self) -> None:
        """The request is worked on no longer."""
        self._busy = False
        if self._lost:
            self._server.release(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp cannot read, or could not do: a text of ours, and the end of the connection."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the answer is cut off") from exc
        log.debug("%s: %d: %s", self.address, status, ascii(str(exc))[:200])
        what = "want HTTP/1.1, and no line longer than 8190 octets" if status < 500 else "something is wrong here"
        answer = plain(status, what)
        headers = {**self._server.fields(answer), "Connection": "close"}
        response = web.Response(status=status, headers=headers, body=answer.body)
        response.force_close()
        return response

    # --- what the server says

    @property
    def _has_sent(self) -> bool:
        return self._state is _State.SENDING and not self._busy and not self._unsent

    @property
    def _unsent(self) -> bool:
        return self._socket.get_write_buffer_size() > 0

    def check(self) -> None:
        """The deadline has passed: nothing is due if the answer has left, else this is the end."""
        if self._state is not _State.SENDING:
            self.cut("it is too slow")
        elif self._unsent:
            self.cut("its answer is not read")
        elif self._busy:
            self.progress()
        elif self._more:
            self.cut("it is too slow")
        else:
            self._state = _State.IDLE
            self.deadline = inf

    def drain(self) -> None:
        """Close, unless a request or an answer is on the way."""
        if self._state is _State.IDLE or self._has_sent:
            self.force_close()

    def cut(self, why: str) -> None:
        """End it at once."""
        log.debug("%s: connection cut: %s", self.address, why)
        self.deadline = inf
        self._socket.abort()
