"""Requests that are kept to be handled anew: those that wait for an operator, or for popdecr.

Controls in them are secrets (regToken and authenticator, RFC 4211 sections 6.1 and 6.2), so the store has them sealed,
each for its own transaction. Earlier builds kept them in clear: DER begins with another octet than what is sealed.
"""

from typing import Final, Protocol

from cmpd.errors import StoreError
from cmpd.records import OpenChallenge, WaitingRequest

_SEQUENCE: Final = b"\x30"
"""How each PKIMessage begins, and nothing that is sealed."""


class SecretSealer(Protocol):
    """Seals what the store keeps, and opens it (store/sealing.py)."""

    def seal(self, secret: bytes, reference: str, /) -> bytes:
        """The sealed secret."""

    def open(self, sealed: bytes, reference: str, /) -> bytes:
        """The secret; StoreError if it cannot be opened."""


def seal_request(sealer: SecretSealer | None, transaction_id: bytes, request: bytes) -> bytes:
    """What the store keeps of a PKIMessage (DER): sealed, or as it is if there is nothing to seal it by."""
    return request if sealer is None else sealer.seal(request, _reference(transaction_id))


def open_request(sealer: SecretSealer | None, kept: WaitingRequest | OpenChallenge) -> bytes:
    """DER of the PKIMessage that is kept; StoreError if it cannot be opened."""
    if not is_sealed(kept):
        return kept.request
    if sealer is None:
        raise StoreError(f"request of transaction {kept.transaction_id.hex()}: it is sealed, and there is no key here")
    return sealer.open(kept.request, _reference(kept.transaction_id))


def is_sealed(kept: WaitingRequest | OpenChallenge) -> bool:
    """Whether it takes a sealer to open it."""
    return not kept.request.startswith(_SEQUENCE)


def _reference(transaction_id: bytes) -> str:
    """What it is sealed for; no reference value has a NUL in it."""
    return f"{transaction_id.hex()}\0request"
