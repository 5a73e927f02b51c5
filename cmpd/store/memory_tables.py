"""The tables of MemoryStore and what each change does to them: what changes.py and bulk.py do, said in plain Python."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cmpd.changes import (
    AddCertificate,
    AddChallenge,
    AddCrl,
    AddIntent,
    AddResponse,
    AddServiceCertificate,
    AddWaiting,
    Change,
    Claim,
    ClaimUnique,
    DecideWaiting,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    OrderCrl,
    PublishCrl,
    ReturnUse,
    SetRevocationPassphrase,
    SignServiceCertificate,
    TakeUse,
)
from cmpd.errors import StoreConflict, StoreError
from cmpd.records import (
    CertificateRecord,
    CrlRecord,
    Decision,
    Entity,
    OpenChallenge,
    RevocationPassphrase,
    ServiceCertificate,
    StatusChange,
    TransactionRecord,
    TransactionState,
    WaitingRequest,
)
from cmpd.records import CertificateState as State


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
    status_changes: list[StatusChange] = field(default_factory=list)
    crl_orders: dict[int, OrderCrl] = field(default_factory=dict)  # by id
    crls: dict[int, CrlRecord] = field(default_factory=dict)  # by number
    service_certificates: dict[bytes, ServiceCertificate] = field(default_factory=dict)
    passphrases: dict[bytes, RevocationPassphrase] = field(default_factory=dict)
    keeps_id: set[int] = field(default_factory=set)  # rows that stay whatever else there is of them
    waiting: dict[int, WaitingRequest] = field(default_factory=dict)  # row -> its request, `answered` left False
    claims: dict[tuple[bytes, bytes], tuple[Claim, bytes]] = field(default_factory=dict)  # (digest, serial) -> lineage
    challenges: dict[int, OpenChallenge] = field(default_factory=dict)  # row -> its challenge
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
            list(self.status_changes),
            dict(self.crl_orders),
            dict(self.crls),
            dict(self.service_certificates),
            dict(self.passphrases),
            set(self.keeps_id),
            dict(self.waiting),
            dict(self.claims),
            dict(self.challenges),
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
        self.waiting.pop(row, None)
        self.challenges.pop(row, None)
        self.delete_responses(row)

    def delete_responses(self, row: int) -> None:
        """Forget what was answered in a transaction."""
        for key in [key for key in self.responses if key[0] == row]:
            del self.responses[key]

    def purge(self, transaction_id: bytes) -> None:
        """Delete a transaction, or all but what keeps its ID in use: keeps_id, or certificates."""
        row, kept = self.rows[transaction_id], self.transactions[transaction_id]
        if kept.state is TransactionState.WAITING:
            kept = replace(kept, state=TransactionState.ENDED, ended_at=self.waiting[row].expires_at)
        if row not in self.keeps_id and row not in self.certificate_rows.values():
            self.delete(transaction_id)
            return
        self.delete_responses(row)
        self.waiting.pop(row, None)
        self.challenges.pop(row, None)
        forgotten = replace(kept, sender_certificate=None, kem_secrets=None, mac_parameters=None)
        self.transactions[transaction_id] = forgotten
        self.purged.add(row)

    def ended_at(self, transaction: TransactionRecord) -> int | None:
        """When it ended, of a transaction that can be purged: that waits, its request's end; None: it cannot."""
        row = self.rows[transaction.id]
        if transaction.state is TransactionState.WAITING:
            return self.waiting[row].expires_at if row in self.waiting else None
        ended = transaction.state is TransactionState.ENDED and row not in self.purged
        return transaction.ended_at if ended else None

    def request(self, row: int) -> WaitingRequest | None:
        """The request of a transaction that waited, or waits."""
        found = self.waiting.get(row)
        if found is None:
            return None
        return replace(found, answered=self.transactions[found.transaction_id].state is not TransactionState.WAITING)

    def requests(self) -> list[WaitingRequest]:
        """All of them, by reference."""
        found = [request for row in self.waiting if (request := self.request(row)) is not None]
        return sorted(found, key=lambda request: request.reference)

    def add_uses(self, entity_id: int, uses: int) -> None:
        """Change how many uses are left, unless they are unlimited."""
        entity = self.entities[entity_id]
        if entity.uses_left is not None:
            self.entities[entity_id] = replace(entity, uses_left=entity.uses_left + uses)


AWAITS: Final = (TransactionState.CONFIRMING, TransactionState.PROVING, TransactionState.CHALLENGED)
"""States that end by themselves at confirm_by."""


# --- changes ----------------------------------------------------------------------------------------------------------


def _put_transaction(tables: Tables, transaction: TransactionRecord) -> None:
    if transaction.state in AWAITS and transaction.confirm_by is None:
        raise StoreError(f"{transaction.state} without confirm_by")
    if transaction.state is TransactionState.ENDED and transaction.ended_at is None:
        raise StoreError("ended without ended_at")
    if transaction.entity_id not in tables.entities:
        raise StoreError("no such entity")
    tables.transactions[transaction.id] = transaction


def _open_transaction(tables: Tables, change: OpenTransaction) -> None:
    if change.transaction.id in tables.transactions:
        raise StoreConflict("transaction exists")
    _put_transaction(tables, replace(change.transaction, certificates=(), waiting=None, challenge=None))
    tables.last_row += 1
    tables.rows[change.transaction.id] = tables.last_row
    if change.transaction.keeps_id:
        tables.keeps_id.add(tables.last_row)


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
    if moved.state not in (TransactionState.CHALLENGED, TransactionState.PROCESSING):
        tables.challenges.pop(tables.rows[change.id], None)


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
        state=State.INTENDED,
        subject=intent.subject,
        subject_text=intent.subject_text,
        key_id=intent.key_id,
        not_before=intent.not_before,
        not_after=intent.not_after,
        created_at=intent.created_at,
        replaces=intent.replaces,
    )


def _claim_unique(tables: Tables, change: ClaimUnique) -> None:
    certificate = tables.certificates.get(change.serial)
    for claim in change.claims:
        if claim.what == "serial":
            if certificate is not None or change.serial in tables.service_certificates:
                raise StoreConflict("serial number taken")
            continue
        if certificate is None:
            raise StoreError("no such certificate")
        if (claim.digest, change.serial) in tables.claims:
            raise StoreError("the claim is there")
        lineage = change.replaces or change.serial
        if change.replaces is not None:
            lineage = tables.claims.get((claim.digest, change.replaces), (claim, lineage))[1]
        for (digest, serial), (other, others) in tables.claims.items():
            held = tables.certificates[serial]
            lost = claim.what == "key" and (held.state, held.reason) == (State.REVOKED, "keyCompromise")
            live = held.state in _LIVE and held.not_after >= change.at and others != lineage
            exclusive = other.binding and (claim.alone or other.alone or held.entity_id != certificate.entity_id)
            if claim.binding and digest == claim.digest and (lost or (live and exclusive)):
                raise StoreConflict(f"{claim.what} taken")
        tables.claims[claim.digest, change.serial] = claim, lineage


_LIVE = frozenset({State.INTENDED, State.ISSUED, State.CONFIRMED, State.SUSPENDED})


def _add_certificate(tables: Tables, change: AddCertificate) -> None:
    found = tables.certificates.get(change.serial)
    if found is None or found.state is not State.INTENDED:
        raise StoreConflict("not intended")
    tables.certificates[change.serial] = replace(found, state=change.state, der=change.der, changed_at=change.at)


def _move_certificate(tables: Tables, change: MoveCertificate) -> None:
    found = tables.certificates.get(change.serial)
    if found is None or found.state is not change.expected:
        raise StoreConflict("certificate moved")
    if change.state is State.EXPIRED:
        raise StoreError("no record is in this state")
    revoked = change.state in (State.REVOKED, State.SUSPENDED)
    resumed = (change.expected, change.state) == (State.SUSPENDED, State.CONFIRMED)
    tables.certificates[change.serial] = replace(
        found,
        state=change.state,
        changed_at=change.at,
        changed_by=change.by,
        reason=change.reason if revoked else None,
        revoked_at=(change.at if change.revoked_at is None else change.revoked_at) if revoked else None,
        invalidity_date=change.invalidity_date if revoked else None,
    )
    if not revoked and not resumed:
        return
    tables.status_changes.append(
        StatusChange(
            id=len(tables.status_changes) + 1,
            serial=change.serial,
            at=change.at,
            state=change.state,
            reason=change.reason,
            by=change.by,
            invalidity_date=change.invalidity_date,
            revoked_at=change.at if change.revoked_at is None else change.revoked_at,
            not_after=found.not_after,
        )
    )


def _order_crl(tables: Tables, change: OrderCrl) -> None:
    tables.crl_orders[max(tables.crl_orders, default=0) + 1] = change


def _add_crl(tables: Tables, change: AddCrl) -> None:
    if change.crl.number <= max(tables.crls, default=0):
        raise StoreConflict("crl number taken")
    tables.crls[change.crl.number] = replace(change.crl, published_at=None)


def _publish_crl(tables: Tables, change: PublishCrl) -> None:
    if change.number not in tables.crls:
        raise StoreConflict("no such crl")
    tables.crls[change.number] = replace(tables.crls[change.number], published_at=change.at)


def _add_service_certificate(tables: Tables, change: AddServiceCertificate) -> None:
    new = change.certificate
    if new.serial in tables.service_certificates:
        raise StoreError("serial number exists")
    tables.service_certificates[new.serial] = replace(new, der=None)


def _sign_service_certificate(tables: Tables, change: SignServiceCertificate) -> None:
    found = tables.service_certificates.get(change.serial)
    if found is None or found.der is not None:
        raise StoreConflict("not intended")
    tables.service_certificates[change.serial] = replace(found, der=change.der)


def _set_revocation_passphrase(tables: Tables, change: SetRevocationPassphrase) -> None:
    new = change.passphrase
    holder = (new.entity_id, new.subject)
    holders = {found.key_id: (found.entity_id, found.subject) for found in tables.passphrases.values()}
    if holders.pop(new.key_id, holder) != holder:
        raise StoreConflict("passphrase identifier in use")
    if list(holders.values()).count(holder) >= change.limit:
        raise StoreConflict("too many passphrases")
    if new.entity_id not in tables.entities:
        raise StoreError("no such entity")
    tables.passphrases[new.key_id] = new
    if change.transaction_id in tables.rows:
        tables.keeps_id.add(tables.rows[change.transaction_id])


def _add_waiting(tables: Tables, change: AddWaiting) -> None:
    new = change.waiting
    waiting = [
        found.entity_id
        for found in tables.transactions.values()
        if found.state is TransactionState.WAITING and found.id != new.transaction_id
    ]
    if new.reference in {request.reference for request in tables.requests()}:
        raise StoreConflict("reference taken")
    left = change.limit - len(waiting)
    if left <= 0:
        raise StoreConflict("too many waiting")
    if waiting.count(new.entity_id) >= left:
        raise StoreConflict("too many waiting of one")
    row = tables.row(new.transaction_id)
    if row in tables.waiting:
        raise StoreError("the transaction has a request")
    if not 1 <= new.reference < 1 << 32:
        raise StoreError("no reference")
    if new.entity_id not in tables.entities:
        raise StoreError("no such entity")
    tables.waiting[row] = replace(
        new, decision=Decision.UNDECIDED, decided_at=None, decided_by="", text="", answered=False
    )


def _add_challenge(tables: Tables, change: AddChallenge) -> None:
    row = tables.row(change.challenge.transaction_id)
    if row in tables.challenges:
        raise StoreError("the transaction has a challenge already")
    entities = [tables.transactions[one.transaction_id].entity_id for one in tables.challenges.values()]
    left = change.limit - len(entities)
    if left <= 0:
        raise StoreConflict("too many challenges")
    if entities.count(tables.transactions[change.challenge.transaction_id].entity_id) >= left:
        raise StoreConflict("too many challenges of one")
    tables.challenges[row] = change.challenge


def _decide_waiting(tables: Tables, change: DecideWaiting) -> None:
    found = tables.request(tables.rows.get(change.transaction_id, 0))
    if found is None or found.answered or found.decision is not Decision.UNDECIDED or found.expires_at < change.at:
        raise StoreConflict("not waiting")
    if change.decision is Decision.UNDECIDED:
        raise StoreError("no decision")
    tables.waiting[tables.rows[change.transaction_id]] = replace(
        found, decision=change.decision, decided_at=change.at, decided_by=change.by, text=change.text
    )


APPLY: dict[type[Change], Callable[[Tables, Any], None]] = {
    OpenTransaction: _open_transaction,
    MoveTransaction: _move_transaction,
    AddResponse: _add_response,
    TakeUse: _take_use,
    ReturnUse: _return_use,
    AddIntent: _add_intent,
    ClaimUnique: _claim_unique,
    AddCertificate: _add_certificate,
    MoveCertificate: _move_certificate,
    OrderCrl: _order_crl,
    AddCrl: _add_crl,
    PublishCrl: _publish_crl,
    AddServiceCertificate: _add_service_certificate,
    SignServiceCertificate: _sign_service_certificate,
    SetRevocationPassphrase: _set_revocation_passphrase,
    AddWaiting: _add_waiting,
    DecideWaiting: _decide_waiting,
    AddChallenge: _add_challenge,
}
