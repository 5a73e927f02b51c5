"""The promise of a store: durable records, written in atomic units.

`write` takes one unit of changes and returns when it is durable: all of it, or none and StoreConflict. Units that
arrive while another commit runs share the next one (group commit). A caller that is cancelled before its unit's commit
began leaves nothing behind; once it began, the unit is written all the same.

`generation` grows whenever entities or the states of certificates may have changed, by this process or by another one
(an operator's command on the same database); caches compare it. A unit written with `as_of` lower than the generation
that holds when it is written is refused with StaleRead, so no decision rests on records that are older than the commit
that makes it durable. Read `generation` first and the records after it, never the other way round. Confirmation does
not let it grow (certConf is ordinary issuance): a cache may keep that one is confirmed, not that it is unconfirmed.
"""

from collections.abc import Sequence
from typing import Protocol

from cmpd.records import CertificateRecord, CertificateState, Change, Entity, MoveCertificate, TransactionRecord

_TRUSTED = frozenset({CertificateState.CONFIRMED, CertificateState.SUSPENDED})
"""States in which a certificate may vouch for something; before confirmation it vouches for nothing."""


def ends_trust(change: Change) -> bool:
    """Whether decisions made before this change may be wrong after it: then it lets the generation grow."""
    if not isinstance(change, MoveCertificate):
        return False
    return change.expected in _TRUSTED


class Store(Protocol):
    """Durable records of entities, transactions and certificates. Every method may raise StoreError."""

    @property
    def generation(self) -> int:
        """Grows when entities or certificate states may have changed (never by ordinary issuance)."""

    def statistics(self) -> dict[str, int]:
        """Figures since it was opened: "commits" and "units" written, for the log."""

    async def refresh(self) -> int:
        """Notice what other processes changed since the last write, cheaply; returns the generation."""

    async def write(self, changes: Sequence[Change], *, as_of: int | None = None) -> None:
        """Make one unit durable, or raise StoreConflict or StaleRead and change nothing."""

    async def find_transaction(self, transaction_id: bytes) -> TransactionRecord | None:
        """The transaction with its certificates, the abandoned ones left out; purged: without sender_certificate."""

    async def find_response(self, transaction_id: bytes, request_digest: bytes) -> tuple[bool, bytes | None]:
        """(True, octets or None for finRep) if this request of the transaction was answered, else (False, None)."""

    async def find_entity(self, reference: str) -> Entity | None:
        """The entity with this reference value, disabled and expired ones included."""

    async def find_entity_by_id(self, entity_id: int) -> Entity | None:
        """The entity with this id."""

    async def list_entities(self, *, with_certificate: bool = False) -> list[Entity]:
        """All entities by reference value, or those whose credential is a certificate."""

    async def add_entity(self, entity: Entity) -> Entity:
        """Insert (id is ignored); StoreConflict("reference exists"). Returns it with its id."""

    async def disable_entity(self, reference: str) -> bool:
        """Disable; False if there is none. Lets the generation grow, as add_entity does."""

    async def find_certificate(self, serial: bytes) -> CertificateRecord | None:
        """The record of a serial number."""

    async def list_certificates(
        self,
        *,
        subject: str | None = None,
        state: CertificateState | None = None,
        limit: int = 1000,
        after: bytes = b"",
    ) -> list[CertificateRecord]:
        """By serial number; `subject`: part of subject_text, whatever its case; `after`: serial to go on from."""

    async def unconfirmed(self, before: int, limit: int) -> list[TransactionRecord]:
        """Transactions in CONFIRMING whose confirm_by is before `before`, with their certificates."""

    async def recover(self, at: int) -> int:
        """After an unclean end: intents without certificate become ABANDONED, the uses that their transactions took are
        given back, and all transactions in PROCESSING are deleted, so that the repeated request is processed anew.
        For the serving process alone, before it serves. Returns how many intents were abandoned.

        A certificate that was recorded stays what it is (and keeps its use): AddCertificate belongs in one unit with
        the MoveTransaction or OpenTransaction that takes its transaction out of PROCESSING.
        """

    async def purge(self, ended_before: int, limit: int) -> int:
        """Forget at most `limit` transactions that ended before, in small units between which others are written:
        their responses and sender_certificate are deleted, certificates never. Returns how many.

        A transaction of which there are certificates, in whatever state, stays otherwise: its transactionID is never
        free again, and purge does not come back to it. One without any is deleted whole.
        """

    async def close(self) -> None:
        """Write what is queued and let go of the database."""
