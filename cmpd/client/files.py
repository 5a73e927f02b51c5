"""CMP through a directory (RFC 9483 section 6.4.1): a request is NAME.pki, its answer NAME.reply.pki beside it.

A request appears whole (written under another name, synchronised, renamed), and so does the answer. The server renames
the request to NAME.pki.done. What belongs to a request is removed when its answer was read; a request that is given up
is taken back if the server has left it where it was.
"""

import asyncio
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from cmpd.client.base import ConnectionLimits
from cmpd.client.errors import AnswerTimeout, ConnectError, ProtocolError, TransportError
from cmpd.env import Env

_SHORTEST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 0.5
_DONE_SECONDS: Final = 2.0
"""How long the server may take to rename a request that it has answered."""


class FileExchange:
    """The CMP server that looks into `directory`. Nothing is done before the first request."""

    def __init__(self, directory: Path, *, limits: ConnectionLimits | None = None, env: Env | None = None) -> None:
        self.directory = directory
        self.limits = limits or ConnectionLimits()
        self._env = env or Env()
        self._slots = asyncio.Semaphore(self.limits.in_flight)
        self._closed = False

    async def __aenter__(self) -> "FileExchange":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def request(self, der: bytes, *, last: bool = False) -> bytes | None:
        """Leave a PKIMessage in the directory; return its answer's DER, None if it is empty. See base.Exchange."""
        del last
        if self._closed:
            raise TransportError(f"the directory {self.directory} was closed by its user")
        async with self._slots:
            path = self.directory / f"{self._env.random(12).hex()}.pki"
            try:
                await self._send(path, der)
                async with asyncio.timeout(self.limits.answer_timeout):
                    octets = await self._wait(path)
            except TimeoutError:
                raise AnswerTimeout(await asyncio.to_thread(self._given_up, path)) from None
            except (asyncio.CancelledError, ProtocolError):
                with suppress(OSError):
                    path.unlink()
                raise
            except OSError as error:
                raise TransportError(f"{_reply(path)}: {error.strerror or error}: the answer cannot be read") from None
            await self._tidy(path)
        return octets or None

    async def close(self) -> None:
        """Further requests are refused with TransportError."""
        self._closed = True

    async def _send(self, path: Path, der: bytes) -> None:
        writing = asyncio.ensure_future(asyncio.to_thread(_write, path, der))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            with suppress(OSError):
                await writing  # what is given up must be there before it can be taken back
            raise
        except OSError as error:
            raise ConnectError(f"{self.directory}: {error.strerror or error}: the request was not sent") from None

    async def _wait(self, path: Path) -> bytes:
        pause = _SHORTEST_LOOK
        reply = _reply(path)
        while (octets := await asyncio.to_thread(_read, reply, self.limits.max_length)) is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)
        return octets

    def _given_up(self, path: Path) -> str:
        text = f"no answer in {self.directory} within {self.limits.answer_timeout:g} s"
        try:
            path.unlink()
        except OSError:
            return f"{text}; whether the server acted on the request is not known"
        return f"{text}; the request was taken back (does a server look into that directory?)"

    async def _tidy(self, path: Path) -> None:
        """Remove the answer, and the request when the server has renamed it; what may not be removed stays."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + _DONE_SECONDS, _SHORTEST_LOOK
        while await asyncio.to_thread(path.exists) and loop.time() < until:
            await asyncio.sleep(pause)
            pause *= 2
        for left in (_reply(path), path.with_name(f"{path.name}.done")):
            with suppress(OSError):
                await asyncio.to_thread(left.unlink)


def _reply(path: Path) -> Path:
    return path.with_suffix(".reply.pki")


def _write(path: Path, octets: bytes) -> None:
    """A new file that is there whole and durable, or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path, most: int) -> bytes | None:
    """The octets of a file, None if it is not there. ProtocolError if it is no plain file, or too long."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ProtocolError(f"{path}: want a file, have something else")
    with os.fdopen(descriptor, "rb") as file:
        octets = file.read(most + 1)
    if len(octets) > most:
        raise ProtocolError(f"{path}: the answer is longer than {most} octets")
    return octets
