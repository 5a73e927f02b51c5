"""Raw TCP: listens for peers that send tcp-messages, for asyncio and uvloop.

The server counts its connections, sweeps over those whose time may have come (one timer for all), and drains. What
happens on a connection is in tcp_connection.py, what its octets mean in wire/tcpmsg.py.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from cmpd.transport.admission import Admission
from cmpd.transport.base import Respond
from cmpd.transport.tcp_connection import LINGER_SECONDS, Connection, TcpLimits

__all__ = ["TcpLimits", "TcpServer"]

log = logging.getLogger("cmpd.transport.tcp")

_BACKLOG: Final = 1024
_CUT_SECONDS: Final = 1.0


class TcpServer:
    """Listens, and hands each pkiReq to `respond` (see base.py). One for all addresses; start and drain it once.

    `clock` gives monotonic seconds (default: the loop's clock).
    """

    def __init__(
        self, respond: Respond, limits: TcpLimits | None = None, *, clock: Callable[[], float] | None = None
    ) -> None:
        self.respond = respond
        self.limits = limits or TcpLimits()
        self.draining = False
        self.loop: asyncio.AbstractEventLoop
        self.clock: Callable[[], float]
        self._given_clock = clock
        self._servers: list[asyncio.Server] = []
        self._admission: Admission[Connection] = Admission(
            self.limits.max_connections,
            self.limits.max_connections_per_address,
            clock=lambda: self.clock(),
            log=log,
        )
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        shortest = min(self.limits.partial_frame_seconds, self.limits.idle_seconds, self.limits.send_seconds)
        self._sweep_seconds = min(max(shortest / 8, 0.01), LINGER_SECONDS / 4)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: (host, port), the port as the system gave it. Empty before start and after drain."""
        names = [listener.getsockname() for server in self._servers for listener in server.sockets]
        return tuple((name[0], name[1]) for name in names)

    @property
    def connections(self) -> int:
        """How many connections there are (with those that are gone but whose requests are still worked on)."""
        return len(self._admission.connections)

    async def start(self, listen: Sequence[tuple[str, int] | socket.socket]) -> None:
        """Listen on each (host, port) or ready-made listening socket; OSError and no listener at all if one fails."""
        self.loop = asyncio.get_running_loop()
        self.clock = self._given_clock or self.loop.time
        try:
            for place in listen:
                if isinstance(place, socket.socket):
                    server = await self.loop.create_server(self._connect, sock=place, backlog=_BACKLOG)
                else:
                    server = await self.loop.create_server(self._connect, *place, backlog=_BACKLOG)
                self._servers.append(server)
        except BaseException:
            self._stop_listening()
            raise
        self._sweep()

    async def drain(self, seconds: float) -> None:
        """Stop accepting, close idle connections, wait `seconds` at most for the others' answers, then cut them.

        All answers from now on have the close bit. Requests that are still being worked on at the end are cancelled.
        """
        self.draining = True
        self._stop_listening()
        for connection in list(self._admission.connections):
            connection.drain()
        if not await self._wait_until_gone(seconds):
            left = list(self._admission.connections)
            log.warning("drain: %d connections are cut after %g seconds", len(left), seconds)
            for connection in left:
                connection.cut("the server stops")
            await asyncio.sleep(0)  # a task that has not begun would be cancelled without its connection's knowing
            for connection in left:
                connection.cancel()
            if not await self._wait_until_gone(_CUT_SECONDS):
                log.warning("drain: %d requests do not end", len(self._admission.connections))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _wait_until_gone(self, seconds: float) -> bool:
        while self._admission.connections:
            self._gone.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._gone.wait()
            except TimeoutError:
                return False
        return True

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _connect(self) -> Connection:
        return Connection(self)

    def acquire(self, connection: Connection) -> bool:
        """Count a new connection, or say that it must be closed."""
        return not self.draining and self._admission.acquire(connection, connection.host, connection.peer.address)

    def release(self, connection: Connection) -> None:
        """Forget a connection that `acquire` counted."""
        self._admission.release(connection)
        if not self._admission.connections:
            self._gone.set()

    def _sweep(self) -> None:
        now = self.clock()
        for connection in [c for c in self._admission.connections if c.deadline <= now]:
            connection.check(now)
        self._sweeper = self.loop.call_later(self._sweep_seconds, self._sweep)
