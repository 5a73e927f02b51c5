"""CMP over HTTP in front, tcp-messages behind: lets `openssl cmp` talk to a server that speaks raw TCP alone.

One tcp connection per HTTP connection, made when the first request comes and made anew when the server has closed it.
The HTTP is what `openssl cmp` sends: POST with Content-Length, HTTP/1.0 (perhaps "Connection: keep-alive") or 1.1.

    async with Bridge(host, port) as bridge: ... bridge.url
    with ThreadBridge(host, port) as bridge: subprocess.run(["openssl", "cmp", "-server", bridge.url, ...])
"""

import asyncio
import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import Decoder, ErrorMsgRep, FinRep, Frame, PkiRep

_LIMIT = 4_000_000
_SECONDS = 60


class BridgeError(Exception):
    """The server behind did not answer with a CMP message; str() says what it did."""


class Upstream:
    """The tcp connection behind one HTTP connection."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, der: bytes) -> bytes:
        """The DER of the answer; empty for finRep. Asks again once if an old connection gave not one octet."""
        fresh = self.writer is None
        try:
            frame = await self._ask(der)
        except (ConnectionError, EOFError):
            await self.close()
            if fresh:
                raise BridgeError("the server closed the connection without an answer") from None
            frame = await self._ask(der)
        if frame.close:
            await self.close()
        match tcpmsg.reply(frame):
            case PkiRep(answer):
                return answer
            case FinRep():
                return b""
            case ErrorMsgRep(error, _, text):
                raise BridgeError(f"errorMsgRep {error or 0:04x}: {text}")
            case other:
                raise BridgeError(f"answer of type {type(other).__name__}")

    async def _ask(self, der: bytes) -> Frame:
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(*self.address)
        self.writer.write(tcpmsg.pki_req(der))
        decoder = Decoder(_LIMIT)
        while (event := decoder.next()) is None:
            data = await self.reader.read(65536)
            if not data:
                raise EOFError
            decoder.feed(data)
        if not isinstance(event, Frame):
            raise BridgeError(f"no tcp-message: {event}")
        return event

    async def close(self) -> None:
        """Close; the next request makes a new connection."""
        writer, self.reader, self.writer = self.writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Bridge:
    """The HTTP server, on 127.0.0.1 and a free port. `requests` counts what it has forwarded."""

    def __init__(self, host: str, port: int) -> None:
        self.behind = (host, port)
        self.port = 0
        self.requests = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For -server; the path is ignored."""
        return f"http://127.0.0.1:{self.port}/pkix/"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a task of our own: the one that asyncio would make logs its cancellation as an error
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also if it is cancelled before it begins

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        upstream = Upstream(*self.behind)
        try:
            while await self._one(reader, writer, upstream):
                pass
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client has gone
        finally:
            writer.close()
            await upstream.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: Upstream) -> bool:
        """Serve one request; False if the connection is to be closed after it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, _, version = head[0].split(" ", 2)
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        size = int(fields.get("content-length", "0"))
        asked = fields.get("connection", "").lower()
        keep = asked == "keep-alive" or (version == "HTTP/1.1" and asked != "close")
        status, kind, body = "200 OK", "application/pkixcmp", b""
        if method != "POST" or not 0 < size <= _LIMIT:
            status, kind, body, keep = "400 Bad Request", "text/plain", b"want POST with Content-Length", False
        else:
            request = await reader.readexactly(size)
            self.requests += 1
            try:
                async with asyncio.timeout(_SECONDS):
                    body = await upstream.ask(request)
            except (BridgeError, tcpmsg.ReplyError, OSError, EOFError, TimeoutError) as error:
                status, kind, body = "502 Bad Gateway", "text/plain", (str(error) or type(error).__name__).encode()
                await upstream.close()
        connection = "keep-alive" if keep else "close"
        answer = (
            f"{version} {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {connection}\r\nCache-Control: no-cache\r\n\r\n"
        )
        writer.write(answer.encode() + body)
        await writer.drain()
        return keep


class ThreadBridge:
    """A Bridge with a loop and a thread of its own, for tests that block."""

    def __init__(self, host: str, port: int) -> None:
        self.bridge = Bridge(host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bridge", daemon=True)

    @property
    def port(self) -> int:
        """Of HTTP."""
        return self.bridge.port

    @property
    def url(self) -> str:
        """For -server."""
        return self.bridge.url

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.bridge.__aenter__(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self.bridge.__aexit__(kind, exc, trace), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
