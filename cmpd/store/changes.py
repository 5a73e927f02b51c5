"""Each change of a unit as SQL: APPLY, by the type of the change.

A function gets a cursor inside the unit's savepoint. It raises StoreConflict when the change finds its precondition
gone; the caller undoes the whole unit then. What can only be a mistake of ours (an intent of an unknown transaction, a
serial number twice) is left to the constraints of the schema. Preconditions stand in the WHERE of the statement that
changes; each statement costs a handover of the GIL between this thread and the event loop, so there are few.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from cmpd.errors import StoreConflict
from cmpd.records import (
    AddCertificate,
    AddIntent,
    AddResponse,
    Change,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    ReturnUse,
    TakeUse,
)


def apply_changes(cursor: sqlite3.Cursor, changes: Sequence[Change]) -> None:
    """Apply a unit in its order; StoreConflict or sqlite3.Error leave it half done, for the caller to undo."""
    for change in changes:
        APPLY[type(change)](cursor, change)


def open_transaction(cursor: sqlite3.Cursor, change: OpenTransaction) -> None:
    """Insert a transaction, whatever state it starts in."""
    new = change.transaction
    cursor.execute(
        "INSERT INTO cmp_transaction (id, state, credential, entity_id, body, started_at, server_nonce, confirm_by,"
        " sender_certificate, ended_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
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
        ),
    )
    if cursor.rowcount == 0:
        raise StoreConflict("transaction exists")


def move_transaction(cursor: sqlite3.Cursor, change: MoveTransaction) -> None:
    """Change a transaction's state if it is in the expected one."""
    cursor.execute(
        "UPDATE cmp_transaction SET state = ?, server_nonce = ?, confirm_by = ?, ended_at = ?,"
        " sender_certificate = coalesce(?, sender_certificate) WHERE id = ? AND state = ?",
        (
            change.state.value,
            change.server_nonce,
            change.confirm_by,
            change.ended_at,
            change.sender_certificate,
            change.id,
            change.expected.value,
        ),
    )
    if cursor.rowcount == 0:
        raise StoreConflict("transaction moved")


def add_response(cursor: sqlite3.Cursor, change: AddResponse) -> None:
    """Keep the answer to a request."""
    cursor.execute(
        "INSERT INTO response (transaction_row, request_digest, response)"
        " VALUES ((SELECT row FROM cmp_transaction WHERE id = ?), ?, ?)"
        " ON CONFLICT (transaction_row, request_digest) DO NOTHING",
        (change.transaction_id, change.request_digest, change.response),
    )
    if cursor.rowcount == 0:
        raise StoreConflict("response exists")


def take_use(cursor: sqlite3.Cursor, change: TakeUse) -> None:
    """Count an enrolment. Entities with unlimited uses are only looked at: their row would be written each time."""
    found = cursor.execute("SELECT disabled, uses_left FROM entity WHERE id = ?", (change.entity_id,)).fetchone()
    if found is None or found[0]:
        raise StoreConflict("entity disabled")
    uses_left = found[1]
    if uses_left is None:
        return
    if uses_left < 1:
        raise StoreConflict("entity used up")
    cursor.execute("UPDATE entity SET uses_left = uses_left - 1 WHERE id = ?", (change.entity_id,))
    cursor.execute(
        "UPDATE cmp_transaction SET uses_taken = uses_taken + 1 WHERE id = ? AND entity_id = ?",
        (change.transaction_id, change.entity_id),
    )
    if cursor.rowcount == 0:
        raise sqlite3.IntegrityError("TakeUse: the transaction is unknown or belongs to another entity")


def return_use(cursor: sqlite3.Cursor, change: ReturnUse) -> None:
    """Give a use back if the transaction took one."""
    cursor.execute(
        "UPDATE cmp_transaction SET uses_taken = uses_taken - 1 WHERE id = ? AND entity_id = ? AND uses_taken > 0",
        (change.transaction_id, change.entity_id),
    )
    if cursor.rowcount:  # NULL + 1 is NULL: unlimited stays unlimited
        cursor.execute("UPDATE entity SET uses_left = uses_left + 1 WHERE id = ?", (change.entity_id,))


def add_intent(cursor: sqlite3.Cursor, change: AddIntent) -> None:
    """Record a certificate that is about to be signed."""
    intent = change.intent
    cursor.execute(
        "INSERT INTO certificate (transaction_row, serial, transaction_id, cert_req_id, entity_id, profile, state,"
        " subject, subject_text, key_id, not_before, not_after, created_at, replaces, tbs) VALUES"
        " ((SELECT row FROM cmp_transaction WHERE id = ?), ?, ?, ?, ?, ?, 'intended', ?, ?, ?, ?, ?, ?, ?, ?)",
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
        ),
    )


def add_certificate(cursor: sqlite3.Cursor, change: AddCertificate) -> None:
    """Record the signed certificate of an intent."""
    cursor.execute(
        "UPDATE certificate SET der = ?, state = ?, changed_at = ?, tbs = NULL WHERE serial = ? AND state = 'intended'",
        (change.der, change.state.value, change.at, change.serial),
    )
    if cursor.rowcount == 0:
        raise StoreConflict("not intended")


def move_certificate(cursor: sqlite3.Cursor, change: MoveCertificate) -> None:
    """Change a certificate's state if it is in the expected one."""
    cursor.execute(
        "UPDATE certificate SET state = ?, changed_at = ?, reason = ?, changed_by = ?, tbs = NULL"
        " WHERE serial = ? AND state = ?",
        (change.state.value, change.at, change.reason, change.by, change.serial, change.expected.value),
    )
    if cursor.rowcount == 0:
        raise StoreConflict("certificate moved")


APPLY: dict[type[Change], Callable[[sqlite3.Cursor, Any], None]] = {
    OpenTransaction: open_transaction,
    MoveTransaction: move_transaction,
    AddResponse: add_response,
    TakeUse: take_use,
    ReturnUse: return_use,
    AddIntent: add_intent,
    AddCertificate: add_certificate,
    MoveCertificate: move_certificate,
}
