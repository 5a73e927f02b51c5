"""HTTP with limits: aiohttp's server, in the same loop, for answers that fit into memory.

aiohttp reads requests and keeps connections alive, but has no time limit for a head, for a body or for a peer that
does not read. So each connection has a `deadline`, and one sweep of the server ends those whose deadline has passed:
a request must have arrived `request_seconds` after its first octet, and of an answer each piece must have been taken
`request_seconds` after it was due. Between requests aiohttp's own timer (`idle_seconds`) closes the connection.

Large answers are written in pieces of one buffer that all connections share, each when the one before it has left.
What goes wrong is logged; a peer gets the name of its status and a text made here, never that of an exception.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from math import inf
from typing import Any, Final, cast

from aiohttp import web

from cmpd.env import Env
from cmpd.transport.admission import Admission

log = logging.getLogger("cmpd.transport.http")

MAX_HEAD_LINE: Final = 8190
"""Octets of the request line, and of each field."""

_BACKLOG: Final = 1024
_PIECE: Final = 131_072
"""Octets that are written at a time: more than aiohttp (and uvloop, asyncio) takes without waiting for the peer."""
_READ_OCTETS: Final = 65_536
_LINGER_SECONDS: Final = 2.0
_CUT_SECONDS: Final = 1.0


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


Answer = Callable[[web.BaseRequest], Awaitable[HttpAnswer]]
"""What a request is answered with; an exception is logged and becomes a 500."""


class HttpServer:
    """Listens, and has `answer` say what each request gets. Start it once at most, drain it once."""

    def __init__(self, answer: Answer, limits: HttpLimits, env: Env) -> None:
        self.limits = limits
        self.draining = False
        self.loop: asyncio.AbstractEventLoop
        self._answer = answer
        self._env = env
        self._servers: list[asyncio.Server] = []
        self._admission: Admission[Connection] = Admission(
            limits.max_connections, limits.max_connections_per_address, clock=lambda: self.loop.time(), log=log
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_seconds = min(max(limits.request_seconds / 8, 0.01), 1.0)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: (host, port), the port as the system gave it. Empty before start and after drain."""
        names = [listener.getsockname() for server in self._servers for listener in server.sockets]
        return tuple((name[0], name[1]) for name in names)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._admission.connections)

    async def start(self, host: str, port: int) -> None:
        """Listen; OSError if that fails."""
        self.loop = asyncio.get_running_loop()
        manager = web.Server(self._handle, loop=self.loop)

        def connect() -> Connection:
            return Connection(self, manager)

        self._servers.append(await self.loop.create_server(connect, host, port, backlog=_BACKLOG))
        self._sweep()

    async def drain(self, seconds: float) -> None:
        """Stop accepting, close idle connections, wait `seconds` at most for the others' answers, then cut them."""
        self.draining = True
        for server in self._servers:
            server.close()
        self._servers.clear()
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

    def acquire(self, connection: "Connection") -> bool:
        """Count a new connection, or say that it must be closed."""
        return not self.draining and self._admission.acquire(connection, connection.host, connection.address)

    def release(self, connection: "Connection") -> None:
        """Forget a connection, if `acquire` counted it."""
        self._admission.release(connection)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [one for one in self._admission.connections if one.deadline <= now]:
            connection.check()
        self._sweeper = self.loop.call_later(self._sweep_seconds, self._sweep)

    # --- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; returns when all octets of the answer are with the transport."""
        connection = cast(Connection, request.protocol)
        task = cast(asyncio.Task[Any], asyncio.current_task())
        self._tasks.add(task)
        try:
            connection.begin()
            try:
                answer = await self._answer(request)
            except ConnectionError:  # the peer went away
                raise
            except Exception:
                log.exception("%s: a request could not be answered", connection.address)
                answer = plain(500, "something is wrong here; try again later")
            address, path = connection.address, ascii(request.raw_path[:200])
            log.debug("%s: %s %s: %d, %d octets", address, request.method[:16], path, answer.status, len(answer.body))
            response = await self._send(request, answer, connection)
            connection.answered()
            return response
        finally:
            self._tasks.discard(task)

    async def _send(self, request: web.BaseRequest, answer: HttpAnswer, connection: "Connection") -> web.StreamResponse:
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
        connection.progress()
        await response.prepare(request)
        if not whole:
            octets = memoryview(answer.body)
            for pos in range(0, len(octets), _PIECE):
                connection.progress()
                await response.write(octets[pos : pos + _PIECE])
        await response.write_eof()
        return response

    def fields(self, answer: HttpAnswer) -> dict[str, str]:
        """All fields of an answer."""
        added = {"Server": "cmpd", "Date": formatdate(self._env.now(), usegmt=True)}
        if answer.status != HTTPStatus.NOT_MODIFIED:
            added["Content-Length"] = str(len(answer.body))
        return {**answer.headers, **added}


class Connection(web.RequestHandler):
    """aiohttp's protocol for one peer, with a deadline and a place in the server's count."""

    __slots__ = ("_accepted", "_sending", "_server", "_socket", "address", "deadline", "host")

    def __init__(self, server: HttpServer, manager: web.Server) -> None:
        super().__init__(
            manager,
            loop=server.loop,
            keepalive_timeout=server.limits.idle_seconds,
            logger=log,
            access_log=cast(logging.Logger, None),  # the types know only a logger, the code takes None for "off"
            max_line_size=MAX_HEAD_LINE,
            max_field_size=MAX_HEAD_LINE,
            max_headers=64,
            lingering_time=min(_LINGER_SECONDS, server.limits.request_seconds),
            read_bufsize=_READ_OCTETS,
            auto_decompress=False,
        )
        self._server = server
        self._socket: asyncio.Transport
        self._accepted = False
        self._sending = False  # an answer has been handed over; deadline is about its leaving
        self.address = self.host = ""
        self.deadline = inf

    # --- what the event loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be counted, or be closed at once."""
        self._socket = cast(asyncio.Transport, transport)  # uvloop's is no subclass; aiohttp forgets it before its end
        name = transport.get_extra_info("peername")
        self.address, self.host = (f"{name[0]}:{name[1]}", name[0]) if name else ("?", "?")
        self._accepted = self._server.acquire(self)
        if self._accepted:
            super().connection_made(transport)
        else:
            self._socket.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Be forgotten."""
        self._server.release(self)
        self.deadline = inf
        if self._accepted:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Octets of a request; the first ones set the deadline of the whole."""
        if not self._accepted:
            return
        if data and (self.deadline == inf or (self._sending and not self._unsent)):
            self._sending = False
            self.progress()
        super().data_received(data)

    # --- what happens to a request

    def begin(self) -> None:
        """The head of a request is there; its deadline runs already, unless it came together with the one before."""
        if self._sending or self.deadline == inf:
            self._sending = False
            self.progress()

    def progress(self) -> None:
        """Something was taken: what is next has the whole time again."""
        self.deadline = self._server.loop.time() + self._server.limits.request_seconds

    def answered(self) -> None:
        """The answer is with the transport, and must leave in time."""
        self._sending = True
        self.progress()

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
    def _unsent(self) -> bool:
        return self._socket.get_write_buffer_size() > 0

    def check(self) -> None:
        """The deadline has passed: nothing is due if the answer has left, else this is the end."""
        if self._sending and not self._unsent:
            self._sending = False
            self.deadline = inf
        else:
            self.cut("its answer is not read" if self._sending else "it is too slow")

    def drain(self) -> None:
        """Close, unless a request or an answer is on the way."""
        if self.deadline == inf or (self._sending and not self._unsent):
            self.force_close()

    def cut(self, why: str) -> None:
        """End it at once."""
        log.debug("%s: connection cut: %s", self.address, why)
        self.deadline = inf
        self._socket.abort()
