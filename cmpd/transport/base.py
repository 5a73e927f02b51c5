"""The promise between a transport and the responder: a transport knows frames, the responder knows PKIMessages."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a request, for the log: `address` as text ("192.0.2.1:40000"), `door` the transport's name ("tcp")."""

    address: str
    door: str


Respond = Callable[[bytes, Peer], Awaitable[bytes | None]]
"""DER of a PKIMessage in, DER of the answer out; None when the CMP message has no answer (the transport says finRep).

Called in a task of its own. It may be called again before it has answered, for the same peer too; the transport puts
the answers in the order of the requests. What it raises is logged and answered as a fault of the server. It runs to its
end when the peer goes away, and is cancelled only when a drain has lasted too long.
"""


class Transport(Protocol):
    """What all transports have in common once they have started."""

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: (host, port), the port as the system gave it."""

    async def drain(self, seconds: float) -> None:
        """Take no new connections, let requests in flight be answered for `seconds` at most, then cut what is left."""
