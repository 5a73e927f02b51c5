"""A TCP server for tests that does with each connection what it is told. What is spoken on it: wire.py and web.py."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar


@dataclass
class Accepted:
    """One connection as the server sees it; `number` counts them from 0."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def raw(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()


@dataclass
class Server:
    port: int = 0
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    errors: list[BaseException] = field(default_factory=list)


Kind = TypeVar("Kind", bound=Accepted)


@asynccontextmanager
async def accepting(
    kind: type[Kind], behave: Callable[[Kind], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve on a free port of 127.0.0.1; each connection is closed when `behave` returns for it."""
    state = Server()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, state.connections = state.connections, state.connections + 1
        task = asyncio.current_task()
        assert task is not None
        state.tasks.add(task)
        try:
            await behave(kind(number, reader, writer))
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        except BaseException as error:
            state.errors.append(error)
        finally:
            state.tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
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
