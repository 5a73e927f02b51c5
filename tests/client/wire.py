"""Tcp-messages on the server that tests tell what to do (accepting.py). The frame codec is its own, of four lines."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from tests.client.accepting import Accepted, Server, accepting


class Peer(Accepted):
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

    def reset(self) -> None:
        self.writer.transport.abort()


def frame(value: bytes, kind: int = 5, flags: int = 0, version: int = 10) -> bytes:
    return struct.pack("!IBBB", len(value) + 3, version, flags, kind) + value


Behaviour = Callable[[Peer], Awaitable[None]]


def serving(behave: Behaviour) -> AbstractAsyncContextManager[Server]:
    return accepting(Peer, behave)


async def echo(peer: Peer) -> None:
    """Answers each pkiReq with its own value."""
    while (message := await peer.read()) is not None:
        await peer.answer(message[2], flags=message[0] & 1)
        if message[0] & 1:
            return
