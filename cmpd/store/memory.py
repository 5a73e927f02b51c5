"""The promise of a store in plain Python: for tests, and as its readable model. Nothing is durable here.

A unit is applied to a copy of the tables, and the copy takes their place if all went well: that is all there is to
atomicity. Errors are those of the database: StoreConflict for preconditions, StoreError where its constraints refuse.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from cmpd.changes import Change
from cmpd.errors import StaleRead, StoreConflict, StoreError
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    CertificateStatus,
    Decision,
    Entity,
    EntityKind,
    Publication,
    RevocationPassphrase,
    RevokedCertificate,
    ServiceCertificate,
    StatusChange,
    TransactionRecord,
    TransactionState,
    WaitingRequest,
)
from cmpd.store.base import Staleness, ends_trust
from cmpd.store.memory_tables import APPLY, AWAITS, Tables


class MemoryStore:
    """A Store (base.py) that forgets everything when it is gone."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._generation = 1
        self._staleness = Staleness()
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

    async def write(
        self, changes: Sequence[Change], *, as_of: int | None = None, rests_on: Collection[bytes] | None = None
    ) -> None:
        """Apply one unit, or raise StoreConflict or StaleRead and change nothing."""
        self._check_open()
        if as_of is not None and self._staleness.is_stale(as_of, self._generation, rests_on):
            raise StaleRead("entities or certificates have changed meanwhile")
        tables = self._tables.copy()
        for change in changes:
            APPLY[type(change)](tables, change)
        self._tables = tables
        ended = ends_trust(changes)
        if ended:
            self._generation += 1
            self._staleness.ended(ended, self._generation)

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
        self._entities_changed()
        return added

    async def disable_entity(self, reference: str) -> bool:
        """Disable; False if there is none."""
        entity = await self.find_entity(reference)
        self._entities_changed()
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
        at: int | None = None,
        limit: int = 1000,
        after: bytes = b"",
    ) -> list[CertificateRecord]:
        """By serial number."""
        part = "" if subject is None else subject.casefold()
        found = [
            record
            for record in self._sorted_certificates()
            if record.serial > after and state in (None, _state(record, at)) and part in record.subject_text.casefold()
        ]
        return found[:limit]

    async def certificate_status(self, serials: Sequence[bytes]) -> dict[bytes, CertificateStatus]:
        """The states of these certificates, if they were issued."""
        self._check_open()
        issued = [self._tables.certificates[serial] for serial in serials if serial in self._tables.certificates]
        found = {
            record.serial: CertificateStatus(record.serial, record.state, record.revoked_at, record.reason)
            for record in issued
            if record.state not in (CertificateState.INTENDED, CertificateState.ABANDONED)
        }
        for serial in serials:
            own = self._tables.service_certificates.get(serial)
            if own is not None and own.der is not None:
                found[serial] = CertificateStatus(serial, CertificateState.CONFIRMED)
        return found

    async def sharing_key(self, serial: bytes, digest: bytes, limit: int) -> list[tuple[bytes, str]]:
        """Other certificates for the same key, of another entity or subject."""
        self._check_open()
        tables, found = self._tables, list[tuple[bytes, str]]()
        own = tables.certificates[serial]
        for other in sorted(other for claimed, other in tables.claims if claimed == digest):
            held = tables.certificates[other]
            differs = (held.entity_id, held.subject) != (own.entity_id, own.subject)
            if differs and held.state is not CertificateState.ABANDONED:
                found.append((other, tables.entities[held.entity_id].reference))
        return found[:limit]

    async def history(self, serial: bytes) -> list[StatusChange]:
        """The status changes of one certificate, the oldest first."""
        self._check_open()
        return [change for change in self._tables.status_changes if change.serial == serial]

    async def status_changes(self, *, after: int, limit: int) -> list[StatusChange]:
        """Those of all certificates with an id greater than `after`, by id."""
        self._check_open()
        return [change for change in self._tables.status_changes if change.id > after][:limit]

    async def revoked(self, *, expiring_from: int, limit: int, after: bytes = b"") -> list[RevokedCertificate]:
        """What is revoked or on hold and expires then or later, by serial number."""
        found = [
            RevokedCertificate(
                record.serial, record.revoked_at, record.reason, record.invalidity_date, record.not_after
            )
            for record in self._sorted_certificates()
            if record.serial > after and record.revoked_at is not None and record.not_after >= expiring_from
        ]
        return found[:limit]

    async def publication(self) -> Publication:
        """Where publishing stands."""
        self._check_open()
        tables = self._tables
        published = [crl for _, crl in sorted(tables.crls.items(), reverse=True) if crl.published_at is not None]
        return Publication(
            last_change=len(tables.status_changes),
            last_order=max(tables.crl_orders, default=0),
            last_number=max(tables.crls, default=0),
            latest=next(iter(published), None),
            scheduled=next((crl for crl in published if crl.scheduled), None),
        )

    async def service_certificates(self, purpose: str) -> list[ServiceCertificate]:
        """Those for a purpose, by created_at."""
        self._check_open()
        found = [own for own in self._tables.service_certificates.values() if own.purpose == purpose]
        return sorted(found, key=lambda own: own.created_at)

    async def find_passphrase(self, key_id: bytes) -> RevocationPassphrase | None:
        """The revocation passphrase with this key identifier."""
        self._check_open()
        return self._tables.passphrases.get(key_id)

    async def find_waiting(self, reference: int) -> WaitingRequest | None:
        """The request with this polling reference."""
        self._check_open()
        return next((request for request in self._tables.requests() if request.reference == reference), None)

    async def list_waiting(
        self, *, undecided_only: bool = True, limit: int = 1000, after: int = 0
    ) -> list[WaitingRequest]:
        """Requests that wait for an operator, or all, without their octets, by reference."""
        self._check_open()
        found = [
            replace(request, request=b"")
            for request in self._tables.requests()
            if request.reference > after
            and not (undecided_only and (request.answered or request.decision is not Decision.UNDECIDED))
        ]
        return found[:limit]

    async def unconfirmed(self, before: int, limit: int) -> list[TransactionRecord]:
        """Transactions whose time for certConf or popdecr is over, the longest overdue first."""
        self._check_open()
        overdue = [
            (transaction.confirm_by, self._tables.rows[transaction.id], transaction)
            for transaction in self._tables.transactions.values()
            if transaction.state in AWAITS and transaction.confirm_by is not None and transaction.confirm_by < before
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
            taken, recorded = tables.uses_taken.get(row, 0), sum(record.der is not None for record in mine)
            tables.add_uses(transaction.entity_id, max(0, taken - recorded))
            if row in tables.challenges:
                tables.uses_taken[row] = min(taken, recorded)
                tables.transactions[transaction.id] = replace(
                    transaction, state=TransactionState.CHALLENGED, confirm_by=tables.challenges[row].expires_at
                )
            elif row in tables.waiting:
                tables.uses_taken[row] = min(taken, recorded)
                tables.transactions[transaction.id] = replace(transaction, state=TransactionState.WAITING)
            else:
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
            (ended_at, tables.rows[transaction.id], transaction.id)
            for transaction in tables.transactions.values()
            if (ended_at := tables.ended_at(transaction)) is not None and ended_at < ended_before
        ]
        for _, _, transaction_id in sorted(ended)[:limit]:
            tables.purge(transaction_id)
        return min(len(ended), limit)

    async def forget_crls(self, ended_before: int) -> int:
        """Forget old CRLs and fulfilled orders."""
        publication = await self.publication()
        tables, scheduled, latest = self._tables, publication.scheduled, publication.latest
        crls = [
            crl.number
            for crl in tables.crls.values()
            if scheduled is not None and crl.number < scheduled.number and crl.next_update < ended_before
        ]
        fulfilled = 0 if latest is None else min(latest.last_order, publication.last_order - 1)
        orders = [order for order in tables.crl_orders if order <= fulfilled]
        for number in crls:
            del tables.crls[number]
        for order in orders:
            del tables.crl_orders[order]
        return len(crls) + len(orders)

    async def close(self) -> None:
        """Let go; a closed store refuses everything."""
        self._closed = True

    def _entities_changed(self) -> None:
        self._generation += 1
        self._staleness.everything(self._generation)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def _sorted_certificates(self) -> list[CertificateRecord]:
        self._check_open()
        return [record for _, record in sorted(self._tables.certificates.items())]

    def _with_certificates(self, transaction: TransactionRecord) -> TransactionRecord:
        row = self._tables.rows[transaction.id]
        mine = (r for r in self._sorted_certificates() if self._tables.certificate_rows[r.serial] == row)
        certificates = tuple(sorted(_living(mine), key=lambda record: record.cert_req_id))
        challenge = self._tables.challenges.get(row) if transaction.state is TransactionState.CHALLENGED else None
        return replace(transaction, certificates=certificates, waiting=self._tables.request(row), challenge=challenge)


def _living(records: Iterable[CertificateRecord]) -> list[CertificateRecord]:
    return [record for record in records if record.state is not CertificateState.ABANDONED]


def _state(record: CertificateRecord, at: int | None) -> CertificateState:
    """The recorded state, or the one at a time."""
    ends_by_time = (CertificateState.ISSUED, CertificateState.CONFIRMED, CertificateState.SUSPENDED)
    over = at is not None and at > record.not_after and record.state in ends_by_time
    return CertificateState.EXPIRED if over else record.state
