"""Reads of the statuses that OCSP tells: requests that come while one is under way share the next."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from cmpd.records import CertificateStatus
from cmpd.store.base import Store

_MAX_READ: Final = 100  # certificates, see Store.certificate_status


class Event(Protocol):
    """What asyncio.Event does; the core knows no event loop."""

    def set(self) -> None:
        """End all waits."""

    async def wait(self) -> object:
        """Wait until it is set."""


class _Read:
    """One read of several requests. `found` is None if it did not come about."""

    __slots__ = ("done", "found", "serials")

    def __init__(self, done: Event) -> None:
        self.done = done
        self.serials: set[bytes] = set()
        self.found: dict[bytes, CertificateStatus] | None = None


class StatusReads:
    """Reads statuses: requests that arrive while one read is under way wait and share the next one.

    A read costs a way to another thread and back, more than the signature of an answer. Nobody is told what was read
    before it asked.
    """

    def __init__(self, store: Store, event: Callable[[], Event]) -> None:
        """`event` makes one that is not set."""
        self._store = store
        self._event = event
        self._open: _Read | None = None  # has not begun: whoever comes may join
        self._running: _Read | None = None

    async def certificate_status(self, serials: Sequence[bytes]) -> dict[bytes, CertificateStatus]:
        """As Store.certificate_status; there may be more in it than was asked for."""
        read = self._open
        if read is not None and len(read.serials) + len(serials) <= _MAX_READ:
            read.serials.update(serials)
            await read.done.wait()
            if read.found is not None:
                return read.found
            return await self._store.certificate_status(serials)  # that failure, or its end, was somebody else's
        read = self._open = _Read(self._event())
        read.serials.update(serials)
        try:
            while self._running is not None:
                await self._running.done.wait()
            self._running = read
            self._close(read)
            read.found = await self._store.certificate_status(list(read.serials))
            return read.found
        finally:
            self._close(read)
            if self._running is read:
                self._running = None
            read.done.set()

    def _close(self, read: _Read) -> None:
        if self._open is read:
            self._open = None
