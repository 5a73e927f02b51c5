"""An HTTP server for tests that is told per connection what to do, written by hand; and certificates for TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from tests.client.ca import Issued

PKIXCMP = "application/pkixcmp"


@dataclass
class Asked:
    """One request: its first line, its fields by lower-case name, and its content."""

    line: str
    fields: dict[str, str]
    body: bytes


@dataclass
class Visitor:
    """One connection as the server sees it; `number` counts them from 0."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self) -> Asked | None:
        """The next request, None at the end of the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head[:-4].split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
            return Asked(line, fields, await self.reader.readexactly(int(fields["content-length"])))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def raw(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    async def answer(self, body: bytes, status: int = 200, kind: str = PKIXCMP, **fields: str) -> None:
        await self.raw(response(body, status, kind, **fields))


def response(body: bytes, status: int = 200, kind: str = PKIXCMP, **fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


Behaviour = Callable[[Visitor], Awaitable[None]]


@dataclass
class WebServer:
    port: int = 0
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    errors: list[BaseException] = field(default_factory=list)


@asynccontextmanager
async def serving_http(behave: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[WebServer]:
    """Serve on a free port of 127.0.0.1; each connection is closed when `behave` returns for it."""
    state = WebServer()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, state.connections = state.connections, state.connections + 1
        task = asyncio.current_task()
        assert task is not None
        state.tasks.add(task)
        try:
            await behave(Visitor(number, reader, writer))
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


async def echo_http(visitor: Visitor) -> None:
    """Answers each request with its own content."""
    while (asked := await visitor.read()) is not None:
        await visitor.answer(asked.body)


def write_pair(
    directory: Path, name: str, issued: Issued, *chain: Issued, passphrase: bytes = b""
) -> tuple[Path, Path]:
    """PEM files of a certificate with its chain, and of its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    certificate.write_bytes(b"".join(one.certificate.pem for one in (issued, *chain)))
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    key.write_bytes(issued.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    return certificate, key


def server_context(pair: tuple[Path, Path], clients: Path | None = None) -> ssl.SSLContext:
    """TLS of a server; with `clients` (a file of CA certificates) it wants a certificate of its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context
