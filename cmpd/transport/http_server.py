"""HTTP with limits: aiohttp's server, in the same loop, for answers that fit into memory.

aiohttp reads requests and keeps connections alive, but has no time limit for a head, for a body or for a peer that
does not read. So each connection has a `deadline`, and one sweep of the server ends those whose deadline has passed:
a request must have arrived `request_seconds` after its first octet, and of an answer each piece must have been taken
`request_seconds` after it was due. The time that an answer needs to be made is not the peer's. Between requests
aiohttp's own timer (`idle_seconds`) closes the connection.

Large answers are written in pieces of one buffer that all connections share, each when the one before it has left.
What goes wrong is logged; a peer gets the name of its status and a text made here, never that of an exception.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import HttpVersion11, web

from cmpd.env import Env
from cmpd.transport.admission import Admission
from cmpd.transport.http_connection import Connection, HttpAnswer, HttpLimits, connection_of, plain
from cmpd.transport.listener import Listener
from cmpd.transport.tls import TlsContext

__all__ = [
    "HttpAnswer",
    "HttpDoor",
    "HttpLimits",
    "HttpServer",
    "connection_of",
    "media_type",
    "plain",
    "read_content",
    "too_large",
]

log = logging.getLogger("cmpd.transport.http")

_PIECE: Final = 131_072
"""Octets that are written at a time: more than aiohttp (and uvloop, asyncio) takes without waiting for the peer."""
_CUT_SECONDS: Final = 1.0


Answer = Callable[[web.BaseRequest], Awaitable[HttpAnswer]]
"""What a request is answered with; an exception is logged and becomes a 500."""


class HttpServer:
    """Listens, and has `answer` say what each request gets. Start it once at most, drain it once."""

    def __init__(
        self,
        answer: Answer,
        limits: HttpLimits,
        env: Env,
        *,
        tls: TlsContext | None = None,
        handshake_seconds: float = 10,
    ) -> None:
        self.limits = limits
        self.draining = False
        self.loop: asyncio.AbstractEventLoop
        self._answer = answer
        self._env = env
        self._tls = tls
        self._admission: Admission[Connection] = Admission(
            limits.max_connections, limits.max_connections_per_address, clock=lambda: self.loop.time(), log=log
        )
        self._listener = Listener(self._connect, self._admission, tls=tls, handshake_seconds=handshake_seconds)
        self._manager: web.Server
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_seconds = min(max(limits.request_seconds / 8, 0.01), 1.0)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: (host, port), the port as the system gave it. Empty before start and after drain."""
        return self._listener.addresses

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._admission.connections)

    async def start(self, listen: Sequence[tuple[str, int] | socket.socket]) -> None:
        """Listen on each (host, port) or ready-made listening socket; OSError and no listener at all if one fails."""
        self.loop = asyncio.get_running_loop()
        self._manager = web.Server(self._handle, loop=self.loop)
        await self._listener.start(listen)
        self._sweep()

    async def drain(self, seconds: float) -> None:
        """Stop accepting, close idle connections, wait `seconds` at most for the others' answers, then cut them."""
        self.draining = True
        self._listener.close()
        for connection in list(self._admission.connections):
            connection.drain()
        if not await self._wait_until_gone(seconds):
            log.warning("drain: %d connections are cut after %g seconds", len(self._admission.connections), seconds)
            for connection in list(self._admission.connections):
                connection.cut("the server stops")
            for task in list(self._tasks):
                task.cancel()
            if not await self._wait_until_gone(_CUT_SECONDS):
                log.warning("drain: %d requests do not end", len(self._tasks))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _wait_until_gone(self, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._admission.connections or self._tasks:
            if loop.time() >= end:
                return False
            await asyncio.sleep(0.01)
        return True

    # --- connections

    def _connect(self) -> Connection:
        return Connection(self, self._manager)

    def acquire(self, connection: Connection) -> bool:
        """Count a new connection, or say that it must be closed."""
        return not self.draining and self._admission.acquire(connection, connection.host, connection.address)

    def release(self, connection: Connection) -> None:
        """Forget a connection, if `acquire` counted it."""
        self._admission.release(connection)

    def certificates(self, transport: asyncio.BaseTransport) -> tuple[bytes, ...]:
        """DER of the TLS client certificate and of what is known of its chain; () without."""
        return self._tls.certificates(transport) if self._tls is not None else ()

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [one for one in self._admission.connections if one.deadline <= now]:
            connection.check()
        if self.draining:
            for connection in list(self._admission.connections):
                connection.drain()
        self._sweeper = self.loop.call_later(self._sweep_seconds, self._sweep)

    # --- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; returns when all octets of the answer are with the transport."""
        connection = connection_of(request)
        task = cast(asyncio.Task[Any], asyncio.current_task())
        self._tasks.add(task)
        try:
            connection.begin(request.content)
            try:
                answer = _without_host(request) or await self._answer(request)
            except ConnectionError:  # the peer went away
                raise
            except Exception:
                log.exception("%s: a request could not be answered", connection.address)
                answer = plain(500, "something is wrong here; try again later")
            address, path = connection.address, ascii(request.raw_path[:200])
            log.debug("%s: %s %s: %d, %d octets", address, request.method[:16], path, answer.status, len(answer.body))
            response = await self._send(request, answer, connection)
            connection.sending()
            return response
        finally:
            self._tasks.discard(task)
            connection.done()

    async def _send(self, request: web.BaseRequest, answer: HttpAnswer, connection: Connection) -> web.StreamResponse:
        headers = self.fields(answer)
        whole = len(answer.body) <= _PIECE or request.method == "HEAD"
        response: web.StreamResponse
        if whole:
            body = answer.body if request.method != "HEAD" and answer.status != HTTPStatus.NOT_MODIFIED else None
            response = web.Response(status=answer.status, headers=headers, body=body)
        else:
            response = web.StreamResponse(status=answer.status, headers=headers)
        if self.draining or answer.headers.get("Connection") == "close":
            response.force_close()
        connection.sending()
        await response.prepare(request)
        if not whole:
            octets = memoryview(answer.body)
            for pos in range(0, len(octets), _PIECE):
                connection.sending()
                await response.write(octets[pos : pos + _PIECE])
        await response.write_eof()
        return response

    def fields(self, answer: HttpAnswer) -> dict[str, str]:
        """All fields of an answer."""
        added = {"Server": "cmpd", "Date": formatdate(self._env.now(), usegmt=True)}
        if answer.status != HTTPStatus.NOT_MODIFIED:
            added["Content-Length"] = str(len(answer.body))
        return {**answer.headers, **added}


class HttpDoor:
    """What answers by an HttpServer of its own, `_http`. Start it once at most, drain it once."""

    _http: HttpServer

    async def start(self, listen: Sequence[tuple[str, int] | socket.socket]) -> None:
        """Listen on each (host, port) or ready-made listening socket; OSError and no listener at all if one fails."""
        await self._http.start(listen)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: (host, port), the port as the system gave it. Empty before start and after drain."""
        return self._http.addresses

    @property
    def connections(self) -> int:
        """How many connections there are (with those that are gone but whose request is still worked on)."""
        return self._http.connections

    async def drain(self, seconds: float) -> None:
        """Stop accepting, close idle connections, wait `seconds` at most for the others' answers, then cut them."""
        await self._http.drain(seconds)


def _without_host(request: web.BaseRequest) -> HttpAnswer | None:
    """What a request gets that does not name one host (RFC 9112 section 3.2)."""
    if request.version < HttpVersion11 or len(request.headers.getall("Host", ())) == 1:
        return None
    return plain(400, "want one Host", Connection="close")


async def read_content(request: web.BaseRequest, kinds: Sequence[str], max_octets: int) -> bytes | HttpAnswer:
    """The content of a POST whose Content-Type is one of `kinds` (lower case), or what its sender is told."""
    length, coding = request.content_length, request.headers.get("Transfer-Encoding")
    if media_type(request) not in kinds:
        return plain(415, f"Content-Type: want {' or '.join(kinds)}", Accept=", ".join(kinds))
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return plain(415, "want no Content-Encoding", Accept_Encoding="identity")
    if coding is not None and coding.strip().lower() != "chunked":
        return plain(501, "Transfer-Encoding: want chunked or none", Connection="close")
    if length is None and coding is None:
        return plain(411, "want Content-Length")
    if length is not None and length > max_octets:
        return too_large(max_octets)
    # HTTP/1.0 knows no 100: an Expect in it is ignored (RFC 9110 section 10.1.1)
    expectation = request.headers.get("Expect", "").lower() if request.version >= HttpVersion11 else ""
    if expectation == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun
    elif expectation:
        return plain(417, "want 100-continue or no Expect")
    parts: list[bytes] = []
    size = 0
    try:
        while part := await request.content.readany():
            parts.append(part)
            size += len(part)
            if size > max_octets:
                return too_large(max_octets)
    except web.RequestPayloadError:
        return plain(400, "the content cannot be read", Connection="close")
    connection_of(request).arrived()
    return b"".join(parts)


def too_large(max_octets: int) -> HttpAnswer:
    """What the sender of more gets."""
    return plain(413, f"want at most {max_octets} octets", Connection="close")


def media_type(request: web.BaseRequest) -> str:
    """Content-Type in lower case, without its parameters; "" if there is none, or more than one."""
    values = request.headers.getall("Content-Type", ())
    return values[0].partition(";")[0].strip().lower() if len(values) == 1 else ""
