"""Who is let in: how many connections there are, all in all and from each address, for every server that listens.

A connection over a limit is closed by its server at once. That is logged once in a while only, with how many there
were: whoever opens connections in a loop must not fill the log.
"""

import logging
from collections.abc import Callable, Hashable, KeysView
from math import inf
from typing import Final, Generic, TypeVar

_REFUSED_LOG_SECONDS: Final = 10.0

_Connection = TypeVar("_Connection", bound=Hashable)


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
        self._clock = clock
        self._log = log
        self._hosts: dict[_Connection, str] = {}
        self._per_address: dict[str, int] = {}
        self._refused = 0
        self._refused_logged = -inf

    @property
    def connections(self) -> KeysView[_Connection]:
        """Those that are counted now; a view, so copy it before anything that may end one."""
        return self._hosts.keys()

    def acquire(self, connection: _Connection, host: str, address: str) -> bool:
        """Count a new connection, or say that it must be closed. `host`: to count by; `address`: for the log."""
        here = self._per_address.get(host, 0)
        if len(self._hosts) >= self._max:
            self._log_refused(address, f"there are {self._max} (max_connections)")
            return False
        if here >= self._max_per_address:
            self._log_refused(address, f"its address has {here} (max_connections_per_address)")
            return False
        self._hosts[connection] = host
        self._per_address[host] = here + 1
        return True

    def release(self, connection: _Connection) -> None:
        """Forget a connection, if `acquire` counted it."""
        host = self._hosts.pop(connection, None)
        if host is None:
            return
        here = self._per_address[host] - 1
        if here:
            self._per_address[host] = here
        else:
            del self._per_address[host]

    def _log_refused(self, address: str, why: str) -> None:
        self._refused += 1
        now = self._clock()
        if now - self._refused_logged >= _REFUSED_LOG_SECONDS:
            text = "%s: connection refused: %s; %d refused since the last such line"
            self._log.warning(text, address, why, self._refused)
            self._refused = 0
            self._refused_logged = now
