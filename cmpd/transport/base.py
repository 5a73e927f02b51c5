"""The promise between a transport and the rest: a transport knows frames; what they say is for the responder.

The values that travel between the two are in origin.py: Origin goes in with a request, Answer comes out.
"""

from typing import Protocol

from cmpd.origin import Answer, Door, Origin, Responds, UnknownReference, Waiting

__all__ = ["Answer", "Door", "Origin", "Responds", "Transport", "UnknownReference", "Waiting"]


class Transport(Protocol):
    """What all transports have in common once they have started."""

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens: (host, port), the port as the system gave it; sockets that have none are left out."""

    @property
    def connections(self) -> int:
        """How many connections there are; 0 for a transport that has none."""

    async def drain(self, seconds: float) -> None:
        """Take no new connections, let requests in flight be answered for `seconds` at most, then cut what is left."""
