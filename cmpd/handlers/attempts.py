"""How often each entity may send what cannot be decrypted: whoever guesses by the answers needs thousands of them."""

from typing import Final

MAX_FAILURES: Final = 32
"""In the time of SECONDS."""
SECONDS: Final = 3600

_MAX_ENTITIES: Final = 10_000


class Attempts:
    """Failures of each entity within SECONDS of its first one."""

    def __init__(self) -> None:
        self._failures: dict[int, tuple[float, int]] = {}  # entity id -> (since, how many), the oldest first

    def are_left(self, entity_id: int, now: float) -> bool:
        """Whether this entity may try."""
        since, count = self._failures.get(entity_id, (now, 0))
        return count < MAX_FAILURES or not since <= now < since + SECONDS

    def failed(self, entity_id: int, now: float) -> None:
        """Count a failure."""
        since, count = self._failures.pop(entity_id, (now, 0))
        if not since <= now < since + SECONDS:
            since, count = now, 0
        self._failures[entity_id] = since, count + 1
        if len(self._failures) > _MAX_ENTITIES:
            del self._failures[next(iter(self._failures))]
