"""Listening sockets of a server: TCP, Unix domain, ready-made ones, with TLS or without, for asyncio and uvloop.

Without TLS the loop makes the server's protocol itself, nothing is in between. With TLS a small protocol of our own
takes the connection, has it counted, and does the handshake, so that those who begin one and do not end it stay within
the limits; then the server's protocol gets the TLS transport, and what has come meanwhile.

A Unix domain socket is reached through its directory's descriptor: a path in a socket address has 107 octets at most.
"""

import asyncio
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from cmpd.transport.admission import Admission
from cmpd.transport.tls import TlsContext, handshake_fault

Place = tuple[str, int] | socket.socket | Path
"""Where to listen: (host, port), a socket that is bound, the path of a Unix domain socket to be made."""

SHUTDOWN_SECONDS: Final = 2.0
"""How long the end of a TLS connection may take after our close_notify; what comes meanwhile is thrown away."""

_BACKLOG: Final = 1024
_SOCKET_MODE: Final = 0o660


def peer_name(transport: asyncio.BaseTransport) -> tuple[str, str]:
    """(host to count by, address for the log) of the other end; "local" on a Unix domain socket."""
    peername = transport.get_extra_info("peername")
    if isinstance(peername, tuple):
        host, port = str(peername[0]).removeprefix("::ffff:"), peername[1]
        return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        return "local", "local"
    return "", "unknown"  # gone already


class Listener:
    """Listens, and has `make` make the protocol of each connection. Start and close it once."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        admission: Admission[Any],
        *,
        tls: TlsContext | None = None,
        handshake_seconds: float = 10.0,
    ) -> None:
        self.make = make
        self.admission = admission
        self.tls = tls
        self.handshake_seconds = handshake_seconds
        self.handshakes: set[_Handshake] = set()
        self.closed = False
        self._servers: list[asyncio.AbstractServer] = []
        self._files: list[_SocketFile] = []

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: (host, port), the port as the system gave it; Unix domain sockets are left out.

        Empty before start and after close.
        """
        servers = cast(list[asyncio.Server], self._servers)
        names = [one.getsockname() for server in servers for one in server.sockets if one.family != socket.AF_UNIX]
        return tuple((name[0], name[1]) for name in names)

    async def start(self, listen: Sequence[Place]) -> None:
        """Listen on all of these; OSError and no listener at all if one fails.

        A Unix domain socket may be used by the user and the group of this process. The file of one on which nobody
        listens is replaced; any other file is left alone, and OSError.
        """
        try:
            for place in listen:
                self._servers.append(await self._listen(place))
        except BaseException:
            self._stop()
            raise

    async def _listen(self, place: Place) -> asyncio.AbstractServer:
        loop = asyncio.get_running_loop()
        make = self.make if self.tls is None else self._handshake
        if isinstance(place, tuple):
            return await loop.create_server(make, *place, backlog=_BACKLOG)
        if isinstance(place, Path):
            file = _SocketFile(place)
            self._files.append(file)
            place = file.socket
        if place.family == socket.AF_UNIX:
            return await loop.create_unix_server(make, sock=place, backlog=_BACKLOG)
        return await loop.create_server(make, sock=place, backlog=_BACKLOG)

    def close(self) -> None:
        """Stop listening, remove the files of Unix domain sockets, cut handshakes in progress."""
        self.closed = True
        self._stop()
        for handshake in list(self.handshakes):
            handshake.cut()

    def _stop(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for file in self._files:
            file.remove()
        self._files.clear()

    def _handshake(self) -> "_Handshake":
        return _Handshake(self)


class _SocketFile:
    """A Unix domain socket that is bound, and its file."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self.socket.fileno(), _SOCKET_MODE)  # nobody else has it while umask has not been undone
            self._bind(path)
            os.chmod(self._name, _SOCKET_MODE, dir_fd=self._directory)
            self._identity = self._identify()
        except BaseException:
            self.socket.close()
            os.close(self._directory)
            raise

    @property
    def _address(self) -> str:
        return f"/proc/self/fd/{self._directory}/{self._name}"

    def _bind(self, path: Path) -> None:
        try:
            return self.socket.bind(self._address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        if not self._is_stale():
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))
        os.unlink(self._name, dir_fd=self._directory)
        return self.socket.bind(self._address)

    def _is_stale(self) -> bool:
        """Whether the file is a socket on which nobody listens."""
        mode = os.lstat(self._address).st_mode
        if not stat.S_ISSOCK(mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a queue that is full is no reason to wait
            try:
                probe.connect(self._address)
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
        return False

    def _identify(self) -> tuple[int, int]:
        found = os.lstat(self._address)
        return found.st_dev, found.st_ino

    def remove(self) -> None:
        """Remove the file unless another process has put its own in the place."""
        with suppress(OSError):
            if self._identify() == self._identity:
                os.unlink(self._name, dir_fd=self._directory)
        os.close(self._directory)
        self.socket.close()


class TlsTransport(asyncio.Transport):
    """What a server's protocol gets: the loop's TLS transport, with the octets that wait below it counted in.

    `close` may be called again, and `abort` after it, which is not so on all loops. It cannot write_eof.
    """

    __slots__ = ("_closing", "_raw", "_tls")

    def __init__(self, raw: asyncio.Transport, tls: asyncio.Transport) -> None:
        self._raw = raw
        self._tls = tls
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """That of TLS (ssl_object ...) and of the socket."""
        return self._raw.get_extra_info(name, default) if self._closing else self._tls.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is called from now on."""
        self._tls.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is called."""
        return self._tls.get_protocol()

    def is_closing(self) -> bool:
        """Closed, or about to be."""
        return self._closing or self._tls.is_closing()

    def close(self) -> None:
        """Send what is written and close_notify, and wait a moment for the peer's."""
        if not self.is_closing():
            self._closing = True
            self._tls.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._raw.abort()

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """Send this."""
        self._tls.write(data)

    def can_write_eof(self) -> bool:
        """TLS has no half-closed connections here."""
        return False

    def write_eof(self) -> None:
        """NotImplementedError."""
        raise NotImplementedError

    def is_reading(self) -> bool:
        """Whether octets are taken from the peer."""
        return not self._closing and self._tls.is_reading()

    def pause_reading(self) -> None:
        """Take no more, but for some that are decrypted (256 KiB)."""
        if not self.is_closing():
            self._tls.pause_reading()

    def resume_reading(self) -> None:
        """Take octets again."""
        if not self.is_closing():
            self._tls.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """From how many octets on the protocol is paused; the socket's transport takes 64 KiB more before that."""
        self._tls.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high)."""
        return self._tls.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """Octets that are not with the system yet, encrypted or not."""
        return (0 if self._closing else self._tls.get_write_buffer_size()) + self._raw.get_write_buffer_size()


class _Handshake(asyncio.Protocol):
    """A connection until TLS is there: the raw transport's protocol first, then that above TLS for a moment."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._host = ""
        self._address = ""
        self._raw: asyncio.Transport
        self._task: asyncio.Task[None] | None = None
        self._early: list[bytes] = []  # what came before TLS began, later what came before its end was noticed
        self._eof = False
        self._paused = False
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be counted, and begin; or be closed at once."""
        listener = self._listener
        self._raw = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._host, self._address = peer_name(transport)
        if listener.closed or not listener.admission.acquire_place(self._host, self._address):
            self._lost = True
            self._raw.abort()
            return
        self._raw.pause_reading()  # the octets are for TLS; uvloop reads all the same until start_tls
        listener.handshakes.add(self)
        self._task = asyncio.get_running_loop().create_task(self._shake())

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has gone."""
        self._lost = True
        self._end()

    def data_received(self, data: bytes) -> None:
        """Keep it for who comes next."""
        self._early.append(data)

    def eof_received(self) -> None:
        """The peer has closed right after the handshake, perhaps with a request before that."""
        self._eof = True

    def pause_writing(self) -> None:
        """Keep this for the protocol that comes."""
        self._paused = True

    def resume_writing(self) -> None:
        """Keep this for the protocol that comes."""
        self._paused = False

    def cut(self) -> None:
        """The server stops."""
        if self._task is not None:
            self._task.cancel()
        self._lost = True
        self._raw.abort()
        self._end()

    def _end(self) -> None:
        """Give the place back, once."""
        listener = self._listener
        if self in listener.handshakes:
            listener.handshakes.discard(self)
            listener.admission.release_place(self._host)

    async def _shake(self) -> None:
        listener = self._listener
        tls = cast(TlsContext, listener.tls)
        if self._lost:
            return
        loop = asyncio.get_running_loop()
        first, self._early = self._early, []
        if first:
            loop.call_soon(self._feed, b"".join(first))  # before start_tls lets the transport read on
        try:
            transport = await loop.start_tls(
                self._raw,
                self,
                tls.context,
                server_side=True,
                ssl_handshake_timeout=listener.handshake_seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except (OSError, ssl.SSLError) as error:
            listener.admission.handshake_failed(self._address, handshake_fault(error, listener.handshake_seconds))
            self._raw.abort()
            return
        finally:
            self._end()  # whoever is next counts itself, or nobody is
        if transport is None or self._lost:
            return
        self._hand_over(TlsTransport(self._raw, transport))

    def _feed(self, octets: bytes) -> None:
        """Give octets to the TLS protocol, which start_tls has put under the raw transport."""
        below = cast(asyncio.BufferedProtocol, self._raw.get_protocol())  # uvloop's is no subclass
        while octets and not self._lost:
            buffer = memoryview(below.get_buffer(len(octets)))
            count = min(len(buffer), len(octets))
            buffer[:count] = octets[:count]
            below.buffer_updated(count)
            octets = octets[count:]

    def _hand_over(self, transport: TlsTransport) -> None:
        try:
            protocol = self._listener.make()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            if self._paused:
                protocol.pause_writing()
            for data in self._early:
                protocol.data_received(data)
            if self._eof and not transport.is_closing():
                protocol.eof_received()
        except BaseException:
            transport.abort()
            raise
