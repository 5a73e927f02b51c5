"""Each change of a unit on its own: APPLY, by the type of the change.

Most are the statements of bulk.py with one row; here a change whose precondition is gone gets its reason. A function
gets a cursor inside the unit's savepoint and raises StoreConflict; the caller undoes the whole unit then. What can only
be a mistake of ours (an intent of an unknown transaction, a serial number twice) is left to the constraints of the
schema.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from cmpd.changes import (
    AddCertificate,
    AddChallenge,
    AddCrl,
    AddIntent,
    AddResponse,
    AddServiceCertificate,
    AddWaiting,
    Change,
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
from cmpd.errors import StoreConflict
from cmpd.store.bulk import BULK, taken
from cmpd.store.challenges import add_challenge
from cmpd.store.waiting import add_waiting, decide_waiting


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


def claim_unique(cursor: sqlite3.Cursor, change: ClaimUnique) -> None:
    """Write the claims; what is in their way is the reason of the conflict."""
    if not BULK[ClaimUnique](cursor, [change]):
        raise StoreConflict(f"{taken(cursor, [change]) or 'claim'} taken")


# --- what is published -----------------------------------------------------------------------------------------------


def order_crl(cursor: sqlite3.Cursor, change: OrderCrl) -> None:
    """Append an order."""
    cursor.execute("INSERT INTO crl_order (at, changed_by) VALUES (?, ?)", (change.at, change.by))


def add_crl(cursor: sqlite3.Cursor, change: AddCrl) -> None:
    """Insert the CRL if its number is higher than all others."""
    crl = change.crl
    cursor.execute(
        "INSERT INTO crl (number, this_update, next_update, last_change, last_order, base, scheduled)"
        " SELECT new.* FROM (VALUES (?, ?, ?, ?, ?, ?, ?)) AS new"
        " WHERE new.column1 > (SELECT coalesce(max(number), 0) FROM crl)",
        (crl.number, crl.this_update, crl.next_update, crl.last_change, crl.last_order, crl.base, crl.scheduled),
    )
    if cursor.rowcount != 1:
        raise StoreConflict("crl number taken")


def publish_crl(cursor: sqlite3.Cursor, change: PublishCrl) -> None:
    """Record when the CRL was published."""
    cursor.execute("UPDATE crl SET published_at = ? WHERE number = ?", (change.at, change.number))
    if cursor.rowcount != 1:
        raise StoreConflict("no such crl")


def add_service_certificate(cursor: sqlite3.Cursor, change: AddServiceCertificate) -> None:
    """Insert the certificate without its octets: it is not signed yet."""
    new = change.certificate
    cursor.execute(
        "INSERT INTO service_certificate (serial, purpose, subject_text, not_before, not_after, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (new.serial, new.purpose, new.subject_text, new.not_before, new.not_after, new.created_at),
    )


def sign_service_certificate(cursor: sqlite3.Cursor, change: SignServiceCertificate) -> None:
    """Add the octets, once."""
    cursor.execute(
        "UPDATE service_certificate SET der = ? WHERE serial = ? AND der IS NULL", (change.der, change.serial)
    )
    if cursor.rowcount != 1:
        raise StoreConflict("not intended")


def set_revocation_passphrase(cursor: sqlite3.Cursor, change: SetRevocationPassphrase) -> None:
    """Insert or replace. A holder without subject is another one than each with a subject (IS: NULL equals NULL)."""
    new = change.passphrase
    holder = (new.entity_id, new.subject)
    cursor.execute("SELECT entity_id, subject FROM revocation_passphrase WHERE key_id = ?", (new.key_id,))
    if cursor.fetchall() not in ([], [holder]):
        raise StoreConflict("passphrase identifier in use")
    cursor.execute(
        "SELECT count(*) FROM revocation_passphrase WHERE entity_id = ? AND subject IS ? AND key_id <> ?",
        (*holder, new.key_id),
    )
    if cursor.fetchone()[0] >= change.limit:
        raise StoreConflict("too many passphrases")
    cursor.execute(
        "INSERT INTO revocation_passphrase (key_id, entity_id, subject, sealed, created_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (key_id) DO UPDATE SET sealed = excluded.sealed, created_at = excluded.created_at",
        (new.key_id, *holder, new.sealed, new.created_at),
    )
    cursor.execute("UPDATE cmp_transaction SET keeps_id = 1 WHERE id = ?", (change.transaction_id,))


APPLY: dict[type[Change], Callable[[sqlite3.Cursor, Any], None]] = {
    OpenTransaction: one(OpenTransaction, "transaction exists"),
    MoveTransaction: one(MoveTransaction, "transaction moved"),
    AddResponse: one(AddResponse, "response exists"),
    TakeUse: take_use,
    ReturnUse: return_use,
    AddIntent: one(AddIntent, "intent not added"),
    ClaimUnique: claim_unique,
    AddCertificate: one(AddCertificate, "not intended"),
    MoveCertificate: one(MoveCertificate, "certificate moved"),
    OrderCrl: order_crl,
    AddCrl: add_crl,
    PublishCrl: publish_crl,
    AddServiceCertificate: add_service_certificate,
    SignServiceCertificate: sign_service_certificate,
    SetRevocationPassphrase: set_revocation_passphrase,
    AddWaiting: add_waiting,
    DecideWaiting: decide_waiting,
    AddChallenge: add_challenge,
}
