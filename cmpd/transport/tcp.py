"""Raw TCP: listens for peers that send tcp-messages, for asyncio and uvloop.

The server counts its connections, sweeps over those whose time may have come (one timer for all), and drains. What
happens on a connection is in tcp_connection.py, what its octets mean in wire/tcpmsg.py.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from cmpd.env import Env
from cmpd.transport.admission import Admission
from cmpd.transport.base import Door, Responds
from cmpd.transport.frames import FrameRules
from cmpd.transport.listener import Listener, Place
from cmpd.transport.tcp_connection import LINGER_SECONDS, Connection
from cmpd.transport.tcp_limits import TcpLimits
from cmpd.transport.tls import TlsContext

__all__ = ["TcpLimits", "TcpServer"]

log = logging.getLogger("cmpd.transport.tcp")

_CUT_SECONDS: Final = 1.0


class TcpServer:
    """Listens, and hands each pkiReq and pollReq to `responds`. One for all addresses; start and drain it once.

    `door`: where requests are said to come from. `tls`: everything is TLS, a handshake ends after `handshake_seconds`.
    `clock` gives monotonic seconds (default: the loop's clock).
    """

    def __init__(
        self,
        responds: Responds,
        limits: TcpLimits | None = None,
        *,
        door: Door | None = None,
        tls: TlsContext | None = None,
        handshake_seconds: float = 10.0,
        clock: Callable[[], float] | None = None,
        env: Env | None = None,
    ) -> None:
        self.responds = responds
        self.limits = limits or TcpLimits()
        self.rules = FrameRules(self.limits.rfc2510, self.limits.transport_polling)
        self.door = door or Door("tcp" if tls is None else "tls")
        self.tls = tls
        self.env = env or Env()
        self.draining = False
        self.loop: asyncio.AbstractEventLoop
        self.clock: Callable[[], float]
        self._given_clock = clock
        self._admission: Admission[Connection] = Admission(
            self.limits.max_connections,
            self.limits.max_connections_per_address,
            clock=lambda: self.clock(),
            log=log,
        )
        self._listener = Listener(self._connect, self._admission, tls=tls, handshake_seconds=handshake_seconds)
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        shortest = min(self.limits.partial_frame_seconds, self.limits.idle_seconds, self.limits.send_seconds)
        self._sweep_seconds = min(max(shortest / 8, 0.01), LINGER_SECONDS / 4)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: (host, port), the port as the system gave it; Unix domain sockets are left out.

        Empty before start and after drain.
        """
        return self._listener.addresses

    @property
    def connections(self) -> int:
        """How many connections there are (with those that are gone but whose requests are still worked on)."""
        return self._admission.count

    async def start(self, listen: Sequence[Place]) -> None:
        """Listen on each of these (see Listener.start); OSError and no listener at all if one fails."""
        self.loop = asyncio.get_running_loop()
        self.clock = self._given_clock or self.loop.time
        await self._listener.start(listen)
        self._sweep()

    async def drain(self, seconds: float) -> None:
        """Stop accepting, cut handshakes, close idle connections, wait `seconds` at most for the rest, then cut that.

        All answers from now on have the close bit. Requests that are still being worked on at the end are cancelled.
        """
        self.draining = True
        self._listener.close()
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

    def _connect(self) -> Connection:
        return Connection(self)

    def acquire(self, connection: Connection) -> bool:
        """Count a new connection, or say that it must be closed."""
        return not self.draining and self._admission.acquire(connection, connection.host, connection.origin.address)

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
