"""Requests that wait for an operator: their two changes and what is read of them, as functions on a cursor.

A request has a row of its own beside its transaction's. Whether it still waits is the transaction's state alone, so
that nothing has to be kept in step when the transaction goes on; the few that are in WAITING have an index. An
operator's command writes what it decides, and the serving process reads it here: no cache is in between.
"""

import sqlite3
from typing import Any, Final

from cmpd.changes import AddWaiting, DecideWaiting
from cmpd.errors import StoreConflict
from cmpd.records import Decision, WaitingRequest

_COLUMNS: Final = (
    " w.body, w.entity_id, w.profile, w.subjects, w.received_at, w.expires_at, w.decision, w.decided_at, w.decided_by,"
    " w.text, t.state <> 'waiting' FROM waiting_request w CROSS JOIN cmp_transaction t ON t.row = w.transaction_row "
)
_WAITING: Final = "SELECT t.id, w.reference, w.digest, w.request," + _COLUMNS
_WITHOUT_REQUEST: Final = "SELECT t.id, w.reference, w.digest, x''," + _COLUMNS

FIND: Final = _WAITING + "WHERE w.reference = ?"
LIST_ALL: Final = _WITHOUT_REQUEST + "WHERE w.reference > ? ORDER BY w.reference LIMIT ?"
LIST_UNDECIDED: Final = (
    _WITHOUT_REQUEST + "WHERE w.decision = 'undecided' AND t.state = 'waiting' AND w.reference > ?"
    " ORDER BY w.reference LIMIT ?"
)
COUNT: Final = (  # of the index alone: every transaction in WAITING has a request, but for the one that gets it now
    "SELECT count(*) FROM cmp_transaction INDEXED BY transaction_waiting"
    " WHERE state = 'waiting' AND row IS NOT (SELECT row FROM cmp_transaction WHERE id = ?)"
)
COUNT_OF_ONE: Final = COUNT + " AND entity_id = ?"


# --- changes ---------------------------------------------------------------------------------------------------------


def add_waiting(cursor: sqlite3.Cursor, change: AddWaiting) -> None:
    """Insert the request, undecided; its transaction was opened before, in the same unit."""
    new = change.waiting
    if cursor.execute("SELECT 1 FROM waiting_request WHERE reference = ?", (new.reference,)).fetchone():
        raise StoreConflict("reference taken")
    left = change.limit - cursor.execute(COUNT, (new.transaction_id,)).fetchone()[0]
    if left <= 0:
        raise StoreConflict("too many waiting")
    if cursor.execute(COUNT_OF_ONE, (new.transaction_id, new.entity_id)).fetchone()[0] >= left:
        raise StoreConflict("too many waiting of one")
    cursor.execute(
        "INSERT INTO waiting_request (transaction_row, reference, digest, request, body, entity_id, profile, subjects,"
        " received_at, expires_at) VALUES ((SELECT row FROM cmp_transaction WHERE id = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new.transaction_id,
            new.reference,
            new.digest,
            new.request,
            new.body,
            new.entity_id,
            new.profile,
            new.subjects,
            new.received_at,
            new.expires_at,
        ),
    )


def decide_waiting(cursor: sqlite3.Cursor, change: DecideWaiting) -> None:
    """Record the decision, once and in time."""
    cursor.execute(
        "UPDATE waiting_request SET decision = ?, decided_at = ?, decided_by = ?, text = ?"
        " WHERE transaction_row = (SELECT row FROM cmp_transaction WHERE id = ? AND state = 'waiting')"
        " AND decision = 'undecided' AND expires_at >= ?",
        (change.decision.value, change.at, change.by, change.text, change.transaction_id, change.at),
    )
    if cursor.rowcount != 1:
        raise StoreConflict("not waiting")


# --- reads -----------------------------------------------------------------------------------------------------------


def find_waiting(cursor: sqlite3.Cursor, reference: int) -> WaitingRequest | None:
    """The request with this polling reference."""
    if not 0 < reference < 1 << 63:  # what SQLite has no integer for is no reference either
        return None
    return next((_request(row) for row in cursor.execute(FIND, (reference,)).fetchall()), None)


def list_waiting(cursor: sqlite3.Cursor, undecided_only: bool, limit: int, after: int) -> list[WaitingRequest]:
    """By reference and without their octets: those that wait for an operator, or all."""
    cursor.execute(LIST_UNDECIDED if undecided_only else LIST_ALL, (after, limit))
    return [_request(row) for row in cursor.fetchall()]


def _request(row: tuple[Any, ...]) -> WaitingRequest:
    *fields, decision, decided_at, decided_by, text, answered = row
    fields += [Decision(decision), decided_at, decided_by, text, bool(answered)]
    return WaitingRequest(*fields)
