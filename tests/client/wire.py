"""A TCP server for tests that is told per connection what to do. It has a frame codec of its own, of four lines."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Peer:
    """One connection as the server sees it; `number` counts them from 0."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self) -> tuple[int, int, bytes] | None:
        """(flags, type, value) of the next message, None at the end of the connection."""
        try:
            length, version, flags, kind = struct.unpack("!IBBB", await self.reader.readexactly(7))
            assert version == 10
            return flags, kind, await self.reader.readexactly(length - 3)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def answer(self, value: bytes, kind: int = 5, flags: int = 0) -> None:
        await self.raw(frame(value, kind, flags))

    async def raw(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    def reset(self) -> None:
        self.writer.transport.abort()


def frame(value: bytes, kind: int = 5, flags: int = 0, version: int = 10) -> bytes:
    return struct.pack("!IBBB", len(value) + 3, version, flags, kind) + value


Behaviour = Callable[[Peer], Awaitable[None]]


@dataclass
class Server:
    port: int = 0
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    errors: list[BaseException] = field(default_factory=list)


@asynccontextmanager
async def serving(behave: Behaviour) -> AsyncIterator[Server]:
    """Serve on a free port of 127.0.0.1; each connection is closed when `behave` returns for it."""
    state = Server()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, state.connections = state.connections, state.connections + 1
        task = asyncio.current_task()
        assert task is not None
        state.tasks.add(task)
        try:
            await behave(Peer(number, reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass
        except BaseException as error:
            state.errors.append(error)
        finally:
            state.tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        await asyncio.sleep(0)
    assert not state.errors, state.errors


async def echo(peer: Peer) -> None:
    """Answers each pkiReq with its own value."""
    while (message := await peer.read()) is not None:
        await peer.answer(message[2], flags=message[0] & 1)
        if message[0] & 1:
            return
