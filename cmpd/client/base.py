"""The promise of what carries CMP messages to a server (tcp-messages, HTTP, files), and what all of them share.

An exchange knows octets, not CMP: a PKIMessage goes in, the octets of its answer come out. What is told below CMP is
not authenticated: it ends a request, and never changes a transaction.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cmpd.client.errors import StillWaiting

SHORTEST_WAIT: Final = 1
"""Seconds between two questions of the same, whatever a server says."""

OnWait = Callable[[int, str], None]
"""Told that there is no answer yet: seconds until the server is asked again, and its reason ("" if it gave none)."""


class Exchange(Protocol):
    """One CMP server. Used on one event loop; requests may be made at the same time."""

    async def request(self, der: bytes, *, last: bool = False) -> bytes | None:
        """Send a PKIMessage; return the answer's DER, None if the server has no CMP answer to it.

        `last`: no further request is to be expected. TransportError and its subclasses say what went wrong. It is sent
        again only as long as no octet of an answer came, which changes nothing: a server answers it as the first time.
        """

    async def close(self) -> None:
        """End it. Further requests are refused with TransportError."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Times are in seconds. A request is sent at most 1 + `retries` times to servers that hang up without a word."""

    connect_timeout: float = 10.0
    answer_timeout: float = 60.0
    max_length: int = 1 << 20  # octets of a tcp-message, or of the answer in HTTP or in a file
    retries: int = 2
    in_flight: int = 64  # requests that wait for their answers at a time; further ones wait to be sent
    poll_timeout: float = 600.0  # how long in all the server may say "not yet"


class Patience:
    """How long "not yet" is taken for an answer, from when this is made; call it on the loop."""

    def __init__(self, seconds: float, on_wait: OnWait | None) -> None:
        self._seconds = seconds
        self._give_up = asyncio.get_running_loop().time() + seconds
        self._on_wait = on_wait

    async def wait(self, who: str, seconds: int, reason: str = "") -> None:
        """Wait as long as `who` says, SHORTEST_WAIT at least; StillWaiting at once if that is too long."""
        seconds = max(SHORTEST_WAIT, seconds)
        if asyncio.get_running_loop().time() + seconds > self._give_up:
            raise StillWaiting(
                f"{who} has no answer yet and wants to be asked again in {seconds} s,"
                f" want one within {self._seconds:g} s"
            )
        if self._on_wait is not None:
            self._on_wait(seconds, reason)
        await asyncio.sleep(seconds)
