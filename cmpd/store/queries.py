"""What is read from the database, and the few writes that are not changes of a unit, as functions on a cursor.

The order of columns is the order of the dataclass' fields, so that a row becomes a record in one call.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cmpd.errors import StoreConflict
from cmpd.records import CertificateRecord, CertificateState, Entity, EntityKind, TransactionRecord, TransactionState
from cmpd.store.challenges import find_challenge
from cmpd.store.waiting import find_waiting

Row = tuple[Any, ...]

_ENTITIES = (
    "SELECT id, reference, kind, subject, profiles, uses_left, expires_at, is_ra, disabled, created_at,"
    " sealed_secret, certificate, sealed_reg_token, sealed_authenticator, may_revoke FROM entity "
)
_TRANSACTIONS = (  # before the fields the row number, for the certificates, and the reference if there is a request
    "SELECT row, (SELECT reference FROM waiting_request WHERE transaction_row = row), id, state, credential, entity_id,"
    " body, started_at, server_nonce, confirm_by, sender_certificate, ended_at, kem_secrets, mac_parameters"
    " FROM cmp_transaction "
)
_CERTIFICATES = (
    "SELECT serial, transaction_id, cert_req_id, entity_id, profile, state, subject, subject_text, key_id,"
    " not_before, not_after, created_at, der, changed_at, reason, changed_by, replaces, revoked_at, invalidity_date"
    " FROM certificate "
)


def contains(text: str, folded_part: str) -> bool:
    """Whether `text` has the part, whatever its case. SQL calls it too, because SQLite's LIKE folds ASCII only."""
    return folded_part in text.casefold()


# --- entities --------------------------------------------------------------------------------------------------------


def find_entity(cursor: sqlite3.Cursor, reference: str) -> Entity | None:
    """The entity with this reference value."""
    cursor.execute(
        _ENTITIES + "WHERE reference = ?",
        (reference,),
    )
    return _entity_or_none(cursor.fetchone())


def find_entity_by_id(cursor: sqlite3.Cursor, entity_id: int) -> Entity | None:
    """The entity with this id."""
    cursor.execute(
        _ENTITIES + "WHERE id = ?",
        (entity_id,),
    )
    return _entity_or_none(cursor.fetchone())


def list_entities(cursor: sqlite3.Cursor, with_certificate: bool) -> list[Entity]:
    """All entities by reference value, or those whose credential is a certificate."""
    cursor.execute(
        _ENTITIES + "WHERE NOT ? OR kind = 'certificate' ORDER BY reference",
        (with_certificate,),
    )
    return [_entity(row) for row in cursor.fetchall()]


def add_entity(cursor: sqlite3.Cursor, entity: Entity) -> Entity:
    """Insert; StoreConflict("reference exists")."""
    cursor.execute(
        "INSERT INTO entity (reference, kind, subject, profiles, uses_left, expires_at, is_ra, disabled, created_at,"
        " sealed_secret, certificate, sealed_reg_token, sealed_authenticator, may_revoke)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (reference) DO NOTHING",
        (
            entity.reference,
            entity.kind.value,
            entity.subject,
            json.dumps(entity.profiles),
            entity.uses_left,
            entity.expires_at,
            entity.is_ra,
            entity.disabled,
            entity.created_at,
            entity.sealed_secret,
            entity.certificate,
            entity.sealed_reg_token,
            entity.sealed_authenticator,
            entity.may_revoke,
        ),
    )
    if cursor.rowcount == 0 or cursor.lastrowid is None:
        raise StoreConflict("reference exists")
    return replace(entity, id=cursor.lastrowid)


def disable_entity(cursor: sqlite3.Cursor, reference: str) -> bool:
    """Disable; False if there is none."""
    cursor.execute("UPDATE entity SET disabled = 1 WHERE reference = ?", (reference,))
    return cursor.rowcount == 1


def _entity(row: Row) -> Entity:
    id_, reference, kind, subject, profiles, uses_left, expires_at, is_ra, disabled, *rest = row
    names = tuple(json.loads(profiles))
    rest[-1] = bool(rest[-1])  # may_revoke
    return Entity(
        id_, reference, EntityKind(kind), subject, names, uses_left, expires_at, bool(is_ra), bool(disabled), *rest
    )


def _entity_or_none(row: Row | None) -> Entity | None:
    return None if row is None else _entity(row)


# --- transactions ----------------------------------------------------------------------------------------------------


def find_transaction(cursor: sqlite3.Cursor, transaction_id: bytes) -> TransactionRecord | None:
    """The transaction with its certificates and its waiting request."""
    cursor.execute(
        _TRANSACTIONS + "WHERE id = ?",
        (transaction_id,),
    )
    row = cursor.fetchone()
    return None if row is None else _transaction(cursor, row)


def unconfirmed(cursor: sqlite3.Cursor, before: int, limit: int) -> list[TransactionRecord]:
    """Transactions whose time for certConf or popdecr is over, the longest overdue first."""
    cursor.execute(
        _TRANSACTIONS + "WHERE state IN ('confirming', 'proving', 'challenged') AND confirm_by < ?"
        " ORDER BY confirm_by, row LIMIT ?",
        (before, limit),
    )
    return [_transaction(cursor, row) for row in cursor.fetchall()]


def _transaction(cursor: sqlite3.Cursor, row: Row) -> TransactionRecord:
    cursor.execute(
        _CERTIFICATES + "WHERE transaction_row = ? AND state <> 'abandoned' ORDER BY cert_req_id, serial",
        (row[0],),
    )
    certificates = tuple(_certificates(cursor.fetchall()))
    _, reference, transaction_id, state, *rest = row
    waiting = None if reference is None else find_waiting(cursor, reference)  # most never waited
    record = TransactionRecord(transaction_id, TransactionState(state), *rest)
    challenge = None
    if record.state is TransactionState.CHALLENGED:
        challenge = find_challenge(cursor, row[0], transaction_id)
    return replace(record, certificates=certificates, waiting=waiting, challenge=challenge)


def find_response(cursor: sqlite3.Cursor, transaction_id: bytes, request_digest: bytes) -> tuple[bool, bytes | None]:
    """Whether this request was answered, and with which octets."""
    cursor.execute(
        "SELECT response FROM response WHERE request_digest = ?"
        " AND transaction_row = (SELECT row FROM cmp_transaction WHERE id = ?)",
        (request_digest, transaction_id),
    )
    row = cursor.fetchone()
    return (False, None) if row is None else (True, row[0])


PURGEABLE = (
    "SELECT ended_at, row FROM cmp_transaction WHERE state = 'ended' AND purged = 0 AND ended_at < :before"
    " UNION ALL SELECT w.expires_at, t.row FROM cmp_transaction t INDEXED BY transaction_waiting"
    " CROSS JOIN waiting_request w ON w.transaction_row = t.row WHERE t.state = 'waiting' AND w.expires_at < :before"
    " ORDER BY 1, 2 LIMIT :limit"
)

# The last one says which ones: those stay the same while some of them are deleted.
_END_WHAT_WAITED_TOO_LONG = (
    "UPDATE cmp_transaction INDEXED BY transaction_waiting SET state = 'ended', ended_at = w.expires_at, purged = 0"
    " FROM waiting_request w WHERE w.transaction_row = cmp_transaction.row AND cmp_transaction.state = 'waiting'"
    " AND (w.expires_at, cmp_transaction.row) <= (?, ?)"
)
_DELETE_WAITING = (
    "DELETE FROM waiting_request WHERE transaction_row IN"
    " (SELECT row FROM cmp_transaction WHERE state = 'ended' AND purged = 0 AND (ended_at, row) <= (?, ?))"
)
_DELETE_CHALLENGES = (
    "DELETE FROM challenge WHERE transaction_row IN"
    " (SELECT row FROM cmp_transaction WHERE state = 'ended' AND purged = 0 AND (ended_at, row) <= (?, ?))"
)
_DELETE_RESPONSES = (
    "DELETE FROM response WHERE transaction_row IN"
    " (SELECT row FROM cmp_transaction WHERE state = 'ended' AND purged = 0 AND (ended_at, row) <= (?, ?))"
)
_DELETE_WHAT_MAY_COME_AGAIN = (
    "DELETE FROM cmp_transaction WHERE state = 'ended' AND purged = 0 AND (ended_at, row) <= (?, ?) AND keeps_id = 0"
    " AND NOT EXISTS (SELECT 1 FROM certificate WHERE transaction_row = cmp_transaction.row)"
)
_KEEP_THE_ID = (
    "UPDATE cmp_transaction SET purged = 1, sender_certificate = NULL, kem_secrets = NULL, mac_parameters = NULL"
    " WHERE state = 'ended' AND purged = 0 AND (ended_at, row) <= (?, ?)"
)
_PURGE = (
    _END_WHAT_WAITED_TOO_LONG,
    _DELETE_WAITING,
    _DELETE_CHALLENGES,
    _DELETE_RESPONSES,
    _DELETE_WHAT_MAY_COME_AGAIN,
    _KEEP_THE_ID,
)


def purge(cursor: sqlite3.Cursor, ended_before: int, limit: int) -> int:
    """Forget what transactions that ended before were answered; the rows of an rr and of certificates stay."""
    cursor.execute(PURGEABLE, {"before": ended_before, "limit": limit})
    found = cursor.fetchall()
    if found:
        for statement in _PURGE:
            cursor.execute(statement, found[-1])
    return len(found)


_FORGET_CRLS = (
    "DELETE FROM crl WHERE number IN (SELECT number FROM crl WHERE next_update < ? AND number <"
    " (SELECT max(number) FROM crl INDEXED BY crl_scheduled WHERE published_at IS NOT NULL AND scheduled = 1)"
    " ORDER BY number LIMIT ?)"
)
_FORGET_ORDERS = (
    "DELETE FROM crl_order WHERE id IN (SELECT id FROM crl_order WHERE id < (SELECT max(id) FROM crl_order) AND id <="
    " (SELECT last_order FROM crl INDEXED BY crl_published WHERE published_at IS NOT NULL ORDER BY number DESC LIMIT 1)"
    " ORDER BY id LIMIT ?)"
)


def forget_crls(cursor: sqlite3.Cursor, ended_before: int, limit: int) -> int:
    """Delete at most `limit` CRLs and as many orders that nothing depends on any more; returns how many."""
    cursor.execute(_FORGET_CRLS, (ended_before, limit))
    forgotten = cursor.rowcount
    cursor.execute(_FORGET_ORDERS, (limit,))
    return forgotten + cursor.rowcount


def recover(cursor: sqlite3.Cursor, at: int) -> int:
    """Clear away what an unclean end left half done. A use stays taken for each certificate that was recorded."""
    cursor.execute(
        "SELECT t.entity_id, max(0, t.uses_taken -"
        " (SELECT count(*) FROM certificate c WHERE c.transaction_row = t.row AND c.der IS NOT NULL))"
        " FROM cmp_transaction t WHERE t.state = 'processing' AND t.uses_taken > 0"
    )
    returned = [(uses, entity_id) for entity_id, uses in cursor.fetchall()]
    cursor.executemany("UPDATE entity SET uses_left = uses_left + ? WHERE id = ?", returned)
    cursor.execute(
        "UPDATE certificate SET state = 'abandoned', changed_at = ?, changed_by = 'recovery', tbs = NULL"
        " WHERE state = 'intended'"
        " AND transaction_row IN (SELECT row FROM cmp_transaction WHERE state = 'processing')",
        (at,),
    )
    abandoned = cursor.rowcount
    cursor.execute(
        "UPDATE cmp_transaction SET state = 'challenged',"
        " confirm_by = (SELECT expires_at FROM challenge h WHERE h.transaction_row = cmp_transaction.row),"
        " uses_taken = min(uses_taken, (SELECT count(*)"
        " FROM certificate c WHERE c.transaction_row = cmp_transaction.row AND c.der IS NOT NULL))"
        " WHERE state = 'processing'"
        " AND EXISTS (SELECT 1 FROM challenge h WHERE h.transaction_row = cmp_transaction.row)"
    )
    cursor.execute(
        "UPDATE cmp_transaction SET state = 'waiting', uses_taken = min(uses_taken, (SELECT count(*)"
        " FROM certificate c WHERE c.transaction_row = cmp_transaction.row AND c.der IS NOT NULL))"
        " WHERE state = 'processing'"
        " AND EXISTS (SELECT 1 FROM waiting_request w WHERE w.transaction_row = cmp_transaction.row)"
    )
    cursor.execute("DELETE FROM cmp_transaction WHERE state = 'processing'")
    return abandoned


# --- certificates ----------------------------------------------------------------------------------------------------


def find_certificate(cursor: sqlite3.Cursor, serial: bytes) -> CertificateRecord | None:
    """The record of a serial number."""
    cursor.execute(
        _CERTIFICATES + "WHERE serial = ?",
        (serial,),
    )
    return next(iter(_certificates(cursor.fetchall())), None)


def sharing_key(cursor: sqlite3.Cursor, serial: bytes, digest: bytes, limit: int) -> list[tuple[bytes, str]]:
    """Other certificates for the same key, of another entity or subject: (serial number, reference value)."""
    cursor.execute(_SHARING_KEY, (digest, serial, limit))
    return cursor.fetchall()


_SHARING_KEY = (
    "SELECT held.serial, entity.reference FROM certificate_claim mine JOIN certificate own ON own.serial = mine.serial"
    " JOIN certificate_claim other ON other.digest = mine.digest JOIN certificate held ON held.serial = other.serial"
    " JOIN entity ON entity.id = held.entity_id WHERE (mine.digest, mine.serial) IN (VALUES (?, ?))"
    " AND (held.entity_id <> own.entity_id OR held.subject <> own.subject) AND held.state <> 'abandoned'"
    " ORDER BY held.serial LIMIT ?"
)


def list_certificates(
    cursor: sqlite3.Cursor,
    subject: str | None,
    state: CertificateState | None,
    at: int | None,
    limit: int,
    after: bytes,
) -> list[CertificateRecord]:
    """By serial number. A part of the subject is looked for row by row: no index serves a substring."""
    cursor.execute(
        _CERTIFICATES + "WHERE serial > :after AND (:state IS NULL OR :state = CASE"
        " WHEN not_after < :at AND state IN ('issued', 'confirmed', 'suspended') THEN 'expired' ELSE state END)"
        " AND (:part IS NULL OR contains(subject_text, :part)) ORDER BY serial LIMIT :limit",
        {
            "after": after,
            "state": None if state is None else state.value,
            "at": at,
            "part": None if subject is None else subject.casefold(),
            "limit": limit,
        },
    )
    return _certificates(cursor.fetchall())


def _certificates(rows: Sequence[Row]) -> list[CertificateRecord]:
    records = []
    for serial, transaction_id, cert_req_id, entity_id, profile, state, *rest in rows:
        head = (serial, transaction_id, cert_req_id, entity_id, profile)
        records.append(CertificateRecord(*head, CertificateState(state), *rest))
    return records
