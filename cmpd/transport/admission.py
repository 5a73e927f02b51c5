"""Who is let in: how many connections there are, all in all and from each address, for every server that listens.

A connection over a limit is closed by its server at once. That is logged once in a while only, with how many there
were: whoever opens connections in a loop must not fill the log. A connection whose TLS handshake goes on has a place
but is no connection of the server yet.
"""

import logging
from collections.abc import Callable, Hashable, KeysView
from math import inf
from typing import Final, Generic, TypeVar

_SELDOM_SECONDS: Final = 10.0

_Connection = TypeVar("_Connection", bound=Hashable)


class Seldom:
    """A line of the log that comes once in ten seconds at most and says how often there was cause for it."""

    def __init__(self, log: logging.Logger, level: int, event: str, clock: Callable[[], float]) -> None:
        self._log = log
        self._level = level
        self._event = event
        self._clock = clock
        self._count = 0
        self._logged = -inf

    def __call__(self, address: str, why: str) -> None:
        """It has happened to this address."""
        self._count += 1
        now = self._clock()
        if now - self._logged >= _SELDOM_SECONDS:
            text = "%s: %s: %s; %d since the last such line"
            self._log.log(self._level, text, address, self._event, why, self._count)
            self._count = 0
            self._logged = now


class Admission(Generic[_Connection]):
    """Counts the connections of one server. `clock` gives monotonic seconds; `log` gets a line about the refused."""

    def __init__(
        self,
        max_connections: int,
        max_connections_per_address: int,
        *,
        clock: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        self._max = max_connections
        self._max_per_address = max_connections_per_address
        self._hosts: dict[_Connection, str] = {}
        self._per_address: dict[str, int] = {}
        self._places = 0  # taken by what is no connection yet
        self._log_refused = Seldom(log, logging.WARNING, "connection refused", clock)
        self.handshake_failed: Final = Seldom(log, logging.INFO, "TLS handshake failed", clock)
        """Says so in the log: handshake_failed(address, why)."""

    @property
    def connections(self) -> KeysView[_Connection]:
        """Those that are counted now; a view, so copy it before anything that may end one."""
        return self._hosts.keys()

    @property
    def count(self) -> int:
        """How many connections there are, with the places of those that are being made."""
        return len(self._hosts) + self._places

    def acquire(self, connection: _Connection, host: str, address: str) -> bool:
        """Count a new connection, or say that it must be closed. `host`: to count by; `address`: for the log."""
        if not self._take(host, address):
            return False
        self._hosts[connection] = host
        return True

    def release(self, connection: _Connection) -> None:
        """Forget a connection, if `acquire` counted it."""
        host = self._hosts.pop(connection, None)
        if host is not None:
            self._give_back(host)

    def acquire_place(self, host: str, address: str) -> bool:
        """Count what is going to be a connection, or say that it must be closed. To be released once if it was."""
        taken = self._take(host, address)
        self._places += taken
        return taken

    def release_place(self, host: str) -> None:
        """What `acquire_place` counted is gone, or is about to be acquired as a connection."""
        self._places -= 1
        self._give_back(host)

    def _take(self, host: str, address: str) -> bool:
        here = self._per_address.get(host, 0)
        if self.count >= self._max:
            self._log_refused(address, f"there are {self._max} (max_connections)")
            return False
        if here >= self._max_per_address:
            self._log_refused(address, f"its address has {here} (max_connections_per_address)")
            return False
        self._per_address[host] = here + 1
        return True

    def _give_back(self, host: str) -> None:
        here = self._per_address[host] - 1
        if here:
            self._per_address[host] = here
        else:
            del self._per_address[host]
