"""Each change of a unit on its own: APPLY, by the type of the change.

Most are the statements of bulk.py with one row; here a change whose precondition is gone gets its reason. A function
gets a cursor inside the unit's savepoint and raises StoreConflict; the caller undoes the whole unit then. What can only
be a mistake of ours (an intent of an unknown transaction, a serial number twice) is left to the constraints of the
schema.
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
from cmpd.store.bulk import BULK


def apply_changes(cursor: sqlite3.Cursor, changes: Sequence[Change]) -> None:
    """Apply a unit in its order; StoreConflict or sqlite3.Error leave it half done, for the caller to undo."""
    for change in changes:
        APPLY[type(change)](cursor, change)


def one(kind: type[Change], reason: str) -> Callable[[sqlite3.Cursor, Any], None]:
    """The function of bulk.py for changes of this type, with one of them; `reason` if its precondition is gone."""

    def apply(cursor: sqlite3.Cursor, change: Any) -> None:
        if not BULK[kind](cursor, [change]):
            raise StoreConflict(reason)

    return apply


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


APPLY: dict[type[Change], Callable[[sqlite3.Cursor, Any], None]] = {
    OpenTransaction: one(OpenTransaction, "transaction exists"),
    MoveTransaction: one(MoveTransaction, "transaction moved"),
    AddResponse: one(AddResponse, "response exists"),
    TakeUse: take_use,
    ReturnUse: return_use,
    AddIntent: one(AddIntent, "intent not added"),
    AddCertificate: one(AddCertificate, "not intended"),
    MoveCertificate: one(MoveCertificate, "certificate moved"),
}
