"""The promise of a store in plain Python: for tests, and as its readable model. Nothing is durable here.

A unit is applied to a copy of the tables, and the copy takes their place if all went well: that is all there is to
atomicity. Errors are those of the database: StoreConflict for preconditions, StoreError where its constraints refuse.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cmpd.errors import StaleRead, StoreConflict, StoreError
from cmpd.records import (
    AddCertificate,
    AddIntent,
    AddResponse,
    CertificateRecord,
    CertificateState,
    Change,
    Entity,
    EntityKind,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    ReturnUse,
    TakeUse,
    TransactionRecord,
    TransactionState,
)
from cmpd.store.base import ends_trust


@dataclass(slots=True)
class Tables:
    """The records. `row` numbers transactions: an ID may come again after a deletion, its row number never does."""

    entities: dict[int, Entity] = field(default_factory=dict)
    transactions: dict[bytes, TransactionRecord] = field(default_factory=dict)  # without certificates
    rows: dict[bytes, int] = field(default_factory=dict)  # transaction ID -> row
    uses_taken: dict[int, int] = field(default_factory=dict)  # row -> uses
    purged: set[int] = field(default_factory=set)  # rows that are kept for their ID
    responses: dict[tuple[int, bytes], bytes | None] = field(default_factory=dict)  # (row, digest) -> octets
    certificates: dict[bytes, CertificateRecord] = field(default_factory=dict)
    certificate_rows: dict[bytes, int] = field(default_factory=dict)  # serial -> row
    last_row: int = 0
    last_entity: int = 0

    def copy(self) -> "Tables":
        """Tables of their own with the same records, which are never changed in place."""
        return Tables(
            dict(self.entities),
            dict(self.transactions),
            dict(self.rows),
            dict(self.uses_taken),
            set(self.purged),
            dict(self.responses),
            dict(self.certificates),
            dict(self.certificate_rows),
            self.last_row,
            self.last_entity,
        )

    def row(self, transaction_id: bytes) -> int:
        """The row of a transaction that must be there."""
        if transaction_id not in self.rows:
            raise StoreError("no such transaction")
        return self.rows[transaction_id]

    def delete(self, transaction_id: bytes) -> None:
        """Delete a transaction with its responses; its certificates stay."""
        row = self.rows.pop(transaction_id)
        del self.transactions[transaction_id]
        self.uses_taken.pop(row, None)
        self.purged.discard(row)
        self.delete_responses(row)

    def delete_responses(self, row: int) -> None:
        """Forget what was answered in a transaction."""
        for key in [key for key in self.responses if key[0] == row]:
            del self.responses[key]

    def purge(self, transaction_id: bytes) -> None:
        """Delete a transaction, or all but what keeps its ID in use if there are certificates of it."""
        row = self.rows[transaction_id]
        if row not in self.certificate_rows.values():
            self.delete(transaction_id)
            return
        self.delete_responses(row)
        self.transactions[transaction_id] = replace(self.transactions[transaction_id], sender_certificate=None)
        self.purged.add(row)

    def add_uses(self, entity_id: int, uses: int) -> None:
        """Change how many uses are left, unless they are unlimited."""
        entity = self.entities[entity_id]
        if entity.uses_left is not None:
            self.entities[entity_id] = replace(entity, uses_left=entity.uses_left + uses)


class MemoryStore:
    """A Store (base.py) that forgets everything when it is gone."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._generation = 1
        self._closed = False

    @property
    def generation(self) -> int:
        """Grows when entities or certificate states may have changed."""
        return self._generation

    def statistics(self) -> dict[str, int]:
        """There are no commits here."""
        return {}

    async def refresh(self) -> int:
        """There is no other process; returns the generation."""
        self._check_open()
        return self._generation

    async def write(self, changes: Sequence[Change], *, as_of: int | None = None) -> None:
        """Apply one unit, or raise StoreConflict or StaleRead and change nothing."""
        self._check_open()
        if as_of is not None and as_of < self._generation:
            raise StaleRead("entities or certificates have changed meanwhile")
        tables = self._tables.copy()
        for change in changes:
            APPLY[type(change)](tables, change)
        self._tables = tables
        self._generation += any(map(ends_trust, changes))

    async def find_transaction(self, transaction_id: bytes) -> TransactionRecord | None:
        """The transaction with its certificates."""
        self._check_open()
        found = self._tables.transactions.get(transaction_id)
        return None if found is None else self._with_certificates(found)

    async def find_response(self, transaction_id: bytes, request_digest: bytes) -> tuple[bool, bytes | None]:
        """Whether this request was answered, and with which octets."""
        self._check_open()
        key = (self._tables.rows.get(transaction_id, 0), request_digest)
        return key in self._tables.responses, self._tables.responses.get(key)

    async def find_entity(self, reference: str) -> Entity | None:
        """The entity with this reference value."""
        return next((entity for entity in await self.list_entities() if entity.reference == reference), None)

    async def find_entity_by_id(self, entity_id: int) -> Entity | None:
        """The entity with this id."""
        self._check_open()
        return self._tables.entities.get(entity_id)

    async def list_entities(self, *, with_certificate: bool = False) -> list[Entity]:
        """All entities by reference value, or those whose credential is a certificate."""
        self._check_open()
        wanted = [e for e in self._tables.entities.values() if not with_certificate or e.kind is EntityKind.CERTIFICATE]
        return sorted(wanted, key=lambda entity: entity.reference.encode())

    async def add_entity(self, entity: Entity) -> Entity:
        """Insert; StoreConflict("reference exists")."""
        if await self.find_entity(entity.reference) is not None:
            raise StoreConflict("reference exists")
        self._tables.last_entity += 1
        added = replace(entity, id=self._tables.last_entity)
        self._tables.entities[added.id] = added
        self._generation += 1
        return added

    async def disable_entity(self, reference: str) -> bool:
        """Disable; False if there is none."""
        entity = await self.find_entity(reference)
        self._generation += 1
        if entity is None:
            return False
        self._tables.entities[entity.id] = replace(entity, disabled=True)
        return True

    async def find_certificate(self, serial: bytes) -> CertificateRecord | None:
        """The record of a serial number."""
        self._check_open()
        return self._tables.certificates.get(serial)

    async def list_certificates(
        self,
        *,
        subject: str | None = None,
        state: CertificateState | None = None,
        limit: int = 1000,
        after: bytes = b"",
    ) -> list[CertificateRecord]:
        """By serial number."""
        part = "" if subject is None else subject.casefold()
        found = [
            record
            for record in self._sorted_certificates()
            if record.serial > after and state in (None, record.state) and part in record.subject_text.casefold()
        ]
        return found[:limit]

    async def unconfirmed(self, before: int, limit: int) -> list[TransactionRecord]:
        """Transactions whose time for certConf is over, the longest overdue first."""
        self._check_open()
        overdue = [
            (transaction.confirm_by, self._tables.rows[transaction.id], transaction)
            for transaction in self._tables.transactions.values()
            if transaction.state is TransactionState.CONFIRMING
            and transaction.confirm_by is not None
            and transaction.confirm_by < before
        ]
        return [self._with_certificates(transaction) for _, _, transaction in sorted(overdue)[:limit]]

    async def recover(self, at: int) -> int:
        """Clear away what an unclean end left half done."""
        self._check_open()
        tables = self._tables.copy()
        processing = TransactionState.PROCESSING
        intents: list[CertificateRecord] = []
        for transaction in [found for found in tables.transactions.values() if found.state is processing]:
            row = tables.rows[transaction.id]
            mine = [tables.certificates[serial] for serial, r in tables.certificate_rows.items() if r == row]
            recorded = [record for record in mine if record.der]
            tables.add_uses(transaction.entity_id, max(0, tables.uses_taken.get(row, 0) - len(recorded)))
            tables.delete(transaction.id)
            intents += [record for record in mine if record.state is CertificateState.INTENDED]
        for record in intents:
            tables.certificates[record.serial] = replace(
                record, state=CertificateState.ABANDONED, changed_at=at, changed_by="recovery"
            )
        self._tables = tables
        return len(intents)

    async def purge(self, ended_before: int, limit: int) -> int:
        """Forget at most `limit` transactions that ended before, but for their certificates and the IDs of these."""
        self._check_open()
        tables = self._tables
        ended = [
            (transaction.ended_at, tables.rows[transaction.id], transaction.id)
            for transaction in tables.transactions.values()
            if transaction.state is TransactionState.ENDED
            and transaction.ended_at is not None
            and transaction.ended_at < ended_before
            and tables.rows[transaction.id] not in tables.purged
        ]
        for _, _, transaction_id in sorted(ended)[:limit]:
            tables.purge(transaction_id)
        return min(len(ended), limit)

    async def close(self) -> None:
        """Let go; a closed store refuses everything."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def _sorted_certificates(self) -> list[CertificateRecord]:
        self._check_open()
        return [record for _, record in sorted(self._tables.certificates.items())]

    def _with_certificates(self, transaction: TransactionRecord) -> TransactionRecord:
        row = self._tables.rows[transaction.id]
        mine = (r for r in self._sorted_certificates() if self._tables.certificate_rows[r.serial] == row)
        return replace(transaction, certificates=tuple(sorted(_living(mine), key=lambda record: record.cert_req_id)))


def _living(records: Iterable[CertificateRecord]) -> list[CertificateRecord]:
    return [record for record in records if record.state is not CertificateState.ABANDONED]


# --- changes ----------------------------------------------------------------------------------------------------------


def _put_transaction(tables: Tables, transaction: TransactionRecord) -> None:
    if transaction.state is TransactionState.CONFIRMING and transaction.confirm_by is None:
        raise StoreError("confirming without confirm_by")
    if transaction.state is TransactionState.ENDED and transaction.ended_at is None:
        raise StoreError("ended without ended_at")
    if transaction.entity_id not in tables.entities:
        raise StoreError("no such entity")
    tables.transactions[transaction.id] = transaction


def _open_transaction(tables: Tables, change: OpenTransaction) -> None:
    if change.transaction.id in tables.transactions:
        raise StoreConflict("transaction exists")
    _put_transaction(tables, replace(change.transaction, certificates=()))
    tables.last_row += 1
    tables.rows[change.transaction.id] = tables.last_row


def _move_transaction(tables: Tables, change: MoveTransaction) -> None:
    found = tables.transactions.get(change.id)
    if found is None or found.state is not change.expected:
        raise StoreConflict("transaction moved")
    kept = found.sender_certificate
    moved = replace(
        found,
        state=change.state,
        server_nonce=change.server_nonce,
        confirm_by=change.confirm_by,
        ended_at=change.ended_at,
        sender_certificate=kept if change.sender_certificate is None else change.sender_certificate,
    )
    _put_transaction(tables, moved)


def _add_response(tables: Tables, change: AddResponse) -> None:
    key = (tables.row(change.transaction_id), change.request_digest)
    if key in tables.responses:
        raise StoreConflict("response exists")
    tables.responses[key] = change.response


def _take_use(tables: Tables, change: TakeUse) -> None:
    entity = tables.entities.get(change.entity_id)
    if entity is None or entity.disabled:
        raise StoreConflict("entity disabled")
    if entity.uses_left is None:
        return
    if entity.uses_left < 1:
        raise StoreConflict("entity used up")
    row = tables.row(change.transaction_id)
    if tables.transactions[change.transaction_id].entity_id != change.entity_id:
        raise StoreError("the transaction belongs to another entity")
    tables.add_uses(change.entity_id, -1)
    tables.uses_taken[row] = tables.uses_taken.get(row, 0) + 1


def _return_use(tables: Tables, change: ReturnUse) -> None:
    found = tables.transactions.get(change.transaction_id)
    if found is None or found.entity_id != change.entity_id:
        return
    row = tables.rows[change.transaction_id]
    if tables.uses_taken.get(row, 0) > 0:
        tables.uses_taken[row] -= 1
        tables.add_uses(change.entity_id, 1)


def _add_intent(tables: Tables, change: AddIntent) -> None:
    intent = change.intent
    row = tables.row(intent.transaction_id)
    if intent.serial in tables.certificates:
        raise StoreError("serial number exists")
    if intent.entity_id not in tables.entities:
        raise StoreError("no such entity")
    tables.certificate_rows[intent.serial] = row
    tables.certificates[intent.serial] = CertificateRecord(
        serial=intent.serial,
        transaction_id=intent.transaction_id,
        cert_req_id=intent.cert_req_id,
        entity_id=intent.entity_id,
        profile=intent.profile,
        state=CertificateState.INTENDED,
        subject=intent.subject,
        subject_text=intent.subject_text,
        key_id=intent.key_id,
        not_before=intent.not_before,
        not_after=intent.not_after,
        created_at=intent.created_at,
        replaces=intent.replaces,
    )


def _add_certificate(tables: Tables, change: AddCertificate) -> None:
    found = tables.certificates.get(change.serial)
    if found is None or found.state is not CertificateState.INTENDED:
        raise StoreConflict("not intended")
    tables.certificates[change.serial] = replace(found, state=change.state, der=change.der, changed_at=change.at)


def _move_certificate(tables: Tables, change: MoveCertificate) -> None:
    found = tables.certificates.get(change.serial)
    if found is None or found.state is not change.expected:
        raise StoreConflict("certificate moved")
    tables.certificates[change.serial] = replace(
        found, state=change.state, changed_at=change.at, reason=change.reason, changed_by=change.by
    )


APPLY: dict[type[Change], Callable[[Tables, Any], None]] = {
    OpenTransaction: _open_transaction,
    MoveTransaction: _move_transaction,
    AddResponse: _add_response,
    TakeUse: _take_use,
    ReturnUse: _return_use,
    AddIntent: _add_intent,
    AddCertificate: _add_certificate,
    MoveCertificate: _move_certificate,
}
