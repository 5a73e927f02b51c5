"""HTTP by hand, for the tests of the doors that speak it: a raw client, and a server whose clients all go with it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cmpd.transport.http_server import HttpDoor


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def answer(self, method: str = "GET") -> Got:
        """The next answer, which must be whole."""
        async with asyncio.timeout(8):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii")
            line, *lines = head.rstrip().split("\r\n")
            assert line.startswith(("HTTP/1.0 ", "HTTP/1.1 ")), line
            headers = dict(one.split(": ", 1) for one in lines)
            status = int(line.split()[1])
            length = 0 if method == "HEAD" or status in (100, 304) else int(headers["Content-Length"])
            return Got(status, headers, await self.reader.readexactly(length))

    async def ended(self) -> bool:
        """Whether the server has closed it and sent nothing more."""
        async with asyncio.timeout(8):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


def written(method: str, path: str, headers: dict[str, str], body: bytes | None = None, version: str = "1.1") -> bytes:
    """The octets of a request; with a Content-Length if there is a body."""
    fields = {"Host": "x"} | ({"Content-Length": str(len(body))} if body is not None else {}) | headers
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


@dataclass(kw_only=True)
class HttpSite:
    """A server and its clients, which speak TLS if `client_tls` is there."""

    server: HttpDoor
    client_tls: ssl.SSLContext | None = None
    clients: list[Client] = field(default_factory=list)

    async def connect(self, **options: Any) -> Client:
        name = "localhost" if self.client_tls else None
        place = self.server.addresses[0]
        client = Client(*await asyncio.open_connection(*place, ssl=self.client_tls, server_hostname=name, **options))
        self.clients.append(client)
        return client

    async def exchange(self, request: bytes, method: str) -> Got:
        """One request on a connection of its own."""
        client = await self.connect()
        client.send(request)
        got = await client.answer(method)
        client.writer.close()
        return got

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(8):
            while not is_so():  # noqa: ASYNC110 -- what it waits for has no event
                await asyncio.sleep(0.005)


AnySite = TypeVar("AnySite", bound=HttpSite)


@contextlib.asynccontextmanager
async def running(site: AnySite, gate: asyncio.Event) -> AsyncIterator[AnySite]:
    """The site until the end of the block; then `gate` opens for what waits behind it, and nothing may be left."""
    await site.server.start([("127.0.0.1", 0)])
    try:
        yield site
    finally:
        gate.set()
        for client in site.clients:
            client.writer.close()
        await site.server.drain(1)
        assert site.server.connections == 0
        assert site.server.addresses == ()
