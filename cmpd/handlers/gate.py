"""One request of a transaction at a time."""

from collections.abc import Callable
from typing import Protocol


class Event(Protocol):
    """What the gate needs of an event loop's event."""

    def set(self) -> None:
        """Wake those who wait."""

    async def wait(self) -> object:
        """Return when it is set."""


class Gate:
    """Lets one request of a transaction through at a time; the next one waits until the first is answered."""

    def __init__(self, make_event: Callable[[], Event]) -> None:
        self._make_event = make_event
        self._working: dict[bytes, Event | None] = {}

    async def enter(self, transaction_id: bytes) -> None:
        """Wait until nobody holds the transaction, and hold it. `leave` must follow."""
        while transaction_id in self._working:
            event = self._working[transaction_id]
            if event is None:  # made only when somebody has to wait
                event = self._working[transaction_id] = self._make_event()
            await event.wait()
        self._working[transaction_id] = None

    def leave(self, transaction_id: bytes) -> None:
        """Let the next one through."""
        event = self._working.pop(transaction_id)
        if event is not None:
            event.set()
