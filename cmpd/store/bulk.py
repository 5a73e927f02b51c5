"""A batch of units at once: one statement for each type of change, for all units together.

sqlite3 lets go of the GIL for each statement and has to win it back from the event loop; with thirty units of three
changes each that, not SQLite's work, is what a commit costs. So the changes of a batch are sorted by type, and each
type is one statement of many rows (BULK, in the order in which a unit has them).

The outcome is that of one unit after the other if every precondition holds, and the counts of changed rows say whether
it does. If not, or if a batch has what is not done here, `apply_batch` says so; the caller undoes it and has the units
applied one by one (changes.py), which finds out whose precondition is gone.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from cmpd.changes import (
    AddCertificate,
    AddIntent,
    AddResponse,
    Change,
    ClaimUnique,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    TakeUse,
)
from cmpd.records import CertificateState

_MOST_ROWS: Final = 32
"""Of one statement. Each number of rows is a statement of its own, which stays prepared."""

PREPARED: Final = 256
"""How many statements stay prepared: one for each number of rows of each type, and those of changes.py."""

_REVOKED: Final = frozenset({CertificateState.REVOKED, CertificateState.SUSPENDED})
"""The states in which a certificate is on the CRL."""

_RESUMED: Final = (CertificateState.SUSPENDED, CertificateState.CONFIRMED)


def apply_batch(cursor: sqlite3.Cursor, units: Iterable[Sequence[Change]]) -> bool:
    """Apply all units; False (or sqlite3.IntegrityError) if they must be undone and applied one by one."""
    by_type: dict[type[Change], list[Any]] = {kind: [] for kind in BULK}
    touched: dict[bytes, int] = {}
    for number, unit in enumerate(units):
        before = 0
        for change in unit:
            order, key_of = _KINDS.get(type(change), _NOT_IN_BULK)
            if order < before or touched.setdefault(key_of(change), number) != number:
                return False  # another order, or a record that two units touch: what comes first counts
            before = order
            by_type[type(change)].append(change)
    opened = {(change.transaction.id, change.transaction.entity_id) for change in by_type[OpenTransaction]}
    if any((change.transaction_id, change.entity_id) not in opened for change in by_type[TakeUse]):
        return False
    return all(apply(cursor, by_type[kind]) for kind, apply in BULK.items() if by_type[kind])


def _chunks(rows: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(rows), _MOST_ROWS):
        yield rows[start : start + _MOST_ROWS]


@lru_cache(maxsize=PREPARED)
def _statement(head: str, row: str, tail: str, count: int) -> str:
    return f"{head} {', '.join([row] * count)} {tail}"


def _many(cursor: sqlite3.Cursor, head: str, row: str, tail: str, rows: list[tuple[Any, ...]]) -> bool:
    """Run `head row, row ... tail` over all rows; whether each of them changed one row of the table."""
    for chunk in _chunks(rows):
        cursor.execute(_statement(head, row, tail, len(chunk)), list(chain.from_iterable(chunk)))
        if cursor.rowcount != len(chunk):
            return False
    return True


def _open_transactions(cursor: sqlite3.Cursor, changes: list[OpenTransaction]) -> bool:
    head = (
        "INSERT INTO cmp_transaction (id, state, credential, entity_id, body, started_at, server_nonce, confirm_by,"
        " sender_certificate, ended_at, keeps_id, kem_secrets, mac_parameters) VALUES"
    )
    rows = [
        (
            new.id,
            new.state.value,
            new.credential,
            new.entity_id,
            new.body,
            new.started_at,
            new.server_nonce,
            new.confirm_by,
            new.sender_certificate,
            new.ended_at,
            new.keeps_id,
            new.kem_secrets,
            new.mac_parameters,
        )
        for new in (change.transaction for change in changes)
    ]
    return _many(cursor, head, "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", "ON CONFLICT (id) DO NOTHING", rows)


_ENTITIES: Final = "SELECT id, disabled, uses_left FROM entity WHERE id IN ("


def _take_uses(cursor: sqlite3.Cursor, changes: list[TakeUse]) -> bool:
    """Entities with unlimited uses are only looked at; one with limited uses may take one of them in a batch."""
    takers: dict[int, list[bytes]] = {}
    for change in changes:
        takers.setdefault(change.entity_id, []).append(change.transaction_id)
    limited: list[tuple[int]] = []
    for chunk in _chunks(list(takers)):
        cursor.execute(_statement(_ENTITIES, "?", ")", len(chunk)), chunk)
        found = cursor.fetchall()
        if len(found) != len(chunk) or any(disabled for _, disabled, _ in found):
            return False
        limited += [(entity_id,) for entity_id, _, uses_left in found if uses_left is not None]
    if any(len(takers[entity_id]) > 1 for (entity_id,) in limited):
        return False
    taken = [(takers[entity_id][0],) for (entity_id,) in limited]
    return _many(
        cursor, "UPDATE entity SET uses_left = uses_left - 1 WHERE uses_left > 0 AND id IN (", "?", ")", limited
    ) and _many(cursor, "UPDATE cmp_transaction SET uses_taken = uses_taken + 1 WHERE id IN (", "?", ")", taken)


def _add_intents(cursor: sqlite3.Cursor, changes: list[AddIntent]) -> bool:
    head = (
        "INSERT INTO certificate (transaction_row, serial, transaction_id, cert_req_id, entity_id, profile, state,"
        " subject, subject_text, key_id, not_before, not_after, created_at, replaces, tbs) VALUES"
    )
    row = "((SELECT row FROM cmp_transaction WHERE id = ?), ?, ?, ?, ?, ?, 'intended', ?, ?, ?, ?, ?, ?, ?, ?)"
    rows = [
        (
            intent.transaction_id,
            intent.serial,
            intent.transaction_id,
            intent.cert_req_id,
            intent.entity_id,
            intent.profile,
            intent.subject,
            intent.subject_text,
            intent.key_id,
            intent.not_before,
            intent.not_after,
            intent.created_at,
            intent.replaces,
            intent.tbs,
        )
        for intent in (change.intent for change in changes)
    ]
    return _many(cursor, head, row, "", rows)


def _claim_unique(cursor: sqlite3.Cursor, changes: list[ClaimUnique]) -> bool:
    """Write all claims, then look whether one of them is in the way of another."""
    head = "INSERT INTO certificate_claim (digest, serial, what, alone, lineage) VALUES"
    row = "(?, ?, ?, ?, coalesce((SELECT lineage FROM certificate_claim WHERE digest = ? AND serial = ?), ?, ?))"
    rows = [
        (
            claim.digest,
            c.serial,
            claim.what,
            claim.alone if claim.binding else _NOT_BINDING,
            claim.digest,
            c.replaces,
            c.replaces,
            c.serial,
        )
        for c in changes
        for claim in c.claims
        if claim.what != "serial"
    ]
    return _many(cursor, head, row, "ON CONFLICT DO NOTHING", rows) and taken(cursor, changes) is None


_NOT_BINDING: Final = 2
"""In the column `alone`."""

_TAKEN: Final = (
    "SELECT mine.what FROM certificate_claim mine JOIN certificate own ON own.serial = mine.serial"
    " JOIN certificate_claim other ON other.digest = mine.digest AND other.serial <> mine.serial"
    " JOIN certificate held ON held.serial = other.serial"
    " WHERE (mine.digest, mine.serial) IN (VALUES (?, ?)) AND mine.alone < 2 AND ("
    " (other.alone < 2 AND held.state IN ('intended', 'issued', 'confirmed', 'suspended') AND held.not_after >= ?"
    " AND other.lineage <> mine.lineage AND (mine.alone OR other.alone OR held.entity_id <> own.entity_id))"
    " OR (mine.what = 'key' AND held.state = 'revoked' AND held.reason = 'keyCompromise')) LIMIT 1"
)


_SERIAL_TAKEN: Final = (
    "SELECT 'serial number' WHERE EXISTS (SELECT 1 FROM certificate WHERE serial = :serial)"
    " OR EXISTS (SELECT 1 FROM service_certificate WHERE serial = :serial)"
)


def taken(cursor: sqlite3.Cursor, changes: Iterable[ClaimUnique]) -> str | None:
    """Of claims that were written: what is in the way of another ("subject", "key", "serial number"), None if none."""
    for change in changes:
        for claim in change.claims:
            if claim.what == "serial":
                cursor.execute(_SERIAL_TAKEN, {"serial": change.serial})
            else:
                cursor.execute(_TAKEN, (claim.digest, change.serial, change.at))
            found = cursor.fetchone()
            if found is not None:
                return str(found[0])
    return None


def _add_certificates(cursor: sqlite3.Cursor, changes: list[AddCertificate]) -> bool:
    head = (
        "UPDATE certificate SET der = new.column2, state = new.column3, changed_at = new.column4, tbs = NULL"
        " FROM (VALUES"
    )
    tail = ") AS new WHERE certificate.serial = new.column1 AND certificate.state = 'intended'"
    rows = [(change.serial, change.der, change.state.value, change.at) for change in changes]
    return _many(cursor, head, "(?, ?, ?, ?)", tail, rows)


def _move_certificates(cursor: sqlite3.Cursor, changes: list[MoveCertificate]) -> bool:
    head = (
        "UPDATE certificate SET state = new.column2, changed_at = new.column3, changed_by = new.column4,"
        " reason = new.column5, revoked_at = new.column6, invalidity_date = new.column7, tbs = NULL FROM (VALUES"
    )
    tail = ") AS new WHERE certificate.serial = new.column1 AND certificate.state = new.column8"
    rows = [
        (
            change.serial,
            change.state.value,
            change.at,
            change.by,
            *_revocation(change),
            change.expected.value,
        )
        for change in changes
    ]
    return _many(cursor, head, "(?, ?, ?, ?, ?, ?, ?, ?)", tail, rows) and _append_status_changes(cursor, changes)


def _revocation(change: MoveCertificate) -> tuple[str | None, int | None, int | None]:
    """reason, revoked_at and invalidity_date after a change."""
    if change.state not in _REVOKED:
        return None, None, None
    return change.reason, change.at if change.revoked_at is None else change.revoked_at, change.invalidity_date


def _append_status_changes(cursor: sqlite3.Cursor, changes: list[MoveCertificate]) -> bool:
    """For revocations, suspensions and resumptions; that a new certificate is confirmed changes no published status."""
    head = "INSERT INTO status_change (serial, at, state, reason, changed_by, invalidity_date, revoked_at) VALUES"
    rows = [
        (
            change.serial,
            change.at,
            change.state.value,
            change.reason,
            change.by,
            change.invalidity_date,
            change.at if change.revoked_at is None else change.revoked_at,
        )
        for change in changes
        if change.state in _REVOKED or (change.expected, change.state) == _RESUMED
    ]
    return _many(cursor, head, "(?, ?, ?, ?, ?, ?, ?)", "", rows)


def _move_transactions(cursor: sqlite3.Cursor, changes: list[MoveTransaction]) -> bool:
    head = (
        "UPDATE cmp_transaction SET state = new.column2, server_nonce = new.column3, confirm_by = new.column4,"
        " ended_at = new.column5, sender_certificate = coalesce(new.column6, sender_certificate) FROM (VALUES"
    )
    tail = ") AS new WHERE cmp_transaction.id = new.column1 AND cmp_transaction.state = new.column7"
    rows = [
        (
            change.id,
            change.state.value,
            change.server_nonce,
            change.confirm_by,
            change.ended_at,
            change.sender_certificate,
            change.expected.value,
        )
        for change in changes
    ]
    return _many(cursor, head, "(?, ?, ?, ?, ?, ?, ?)", tail, rows)


def _add_responses(cursor: sqlite3.Cursor, changes: list[AddResponse]) -> bool:
    head = "INSERT INTO response (transaction_row, request_digest, response) VALUES"
    row = "((SELECT row FROM cmp_transaction WHERE id = ?), ?, ?)"
    rows = [(change.transaction_id, change.request_digest, change.response) for change in changes]
    return _many(cursor, head, row, "ON CONFLICT (transaction_row, request_digest) DO NOTHING", rows)


BULK: Final[dict[type[Change], Callable[[sqlite3.Cursor, list[Any]], bool]]] = {
    OpenTransaction: _open_transactions,
    TakeUse: _take_uses,
    AddIntent: _add_intents,
    ClaimUnique: _claim_unique,
    AddCertificate: _add_certificates,
    MoveCertificate: _move_certificates,
    MoveTransaction: _move_transactions,
    AddResponse: _add_responses,
}
"""What is rare is not here, and neither is ReturnUse: what it gives back depends on what its transaction took."""

_KEYS: Final = {
    OpenTransaction: "transaction.id",
    TakeUse: "transaction_id",
    AddIntent: "intent.serial",
    ClaimUnique: "serial",
    AddCertificate: "serial",
    MoveCertificate: "serial",
    MoveTransaction: "id",
    AddResponse: "transaction_id",
}
_KINDS: Final[dict[type[Change], tuple[int, Callable[[Any], bytes]]]] = {
    kind: (order, attrgetter(_KEYS[kind])) for order, kind in enumerate(BULK)
}
"""The place of each type in BULK, and the record that a change is about."""

_NOT_IN_BULK: Final[tuple[int, Callable[[Any], bytes]]] = (-1, lambda _: b"")
