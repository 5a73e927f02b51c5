"""What is read about the status of certificates and its publication, as functions on a cursor.

Each is one statement, so that it sees one state of the database without BEGIN, and what gives many rows gives them as
one row of JSON. For sqlite3 lets go of the GIL for each statement and for each row; while the event loop is busy it
takes milliseconds to win it back, and a page of 2,000 rows would take seconds.
"""

import json
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from cmpd.records import (
    CertificateState,
    CertificateStatus,
    CrlRecord,
    Publication,
    RevocationPassphrase,
    RevokedCertificate,
    ServiceCertificate,
    StatusChange,
)

_STATES: Final = {state.value: state for state in CertificateState}  # quicker than to call the enumeration

_CHANGES: Final = (
    "SELECT json_group_array(json_array(id, serial, at, state, reason, changed_by, invalidity_date, revoked_at,"
    " not_after)) FROM ("
    "SELECT s.id, hex(s.serial) AS serial, s.at, s.state, s.reason, s.changed_by, s.invalidity_date, s.revoked_at,"
    " c.not_after"
    " FROM status_change s CROSS JOIN certificate c ON c.serial = s.serial "  # CROSS: the certificates are looked up
)
HISTORY: Final = _CHANGES + "WHERE s.serial = ? ORDER BY s.id)"
STATUS_CHANGES: Final = _CHANGES + "WHERE s.id > ? ORDER BY s.id LIMIT ?)"
REVOKED: Final = (
    "SELECT json_group_array(json_array(hex(serial), revoked_at, reason, invalidity_date, not_after)) FROM ("
    "SELECT serial, revoked_at, reason, invalidity_date, not_after FROM certificate INDEXED BY certificate_revoked"
    " WHERE revoked_at IS NOT NULL AND serial > ? AND not_after >= ? ORDER BY serial LIMIT ?)"
)
PUBLICATION: Final = (
    "SELECT (SELECT max(id) FROM status_change), (SELECT max(id) FROM crl_order), (SELECT max(number) FROM crl),"
    " latest.*, scheduled.* FROM (SELECT 1)"
    " LEFT JOIN (SELECT number, this_update, next_update, last_change, last_order, base, scheduled, published_at"
    " FROM crl INDEXED BY crl_published WHERE published_at IS NOT NULL ORDER BY number DESC LIMIT 1) AS latest"
    " LEFT JOIN (SELECT number, this_update, next_update, last_change, last_order, base, scheduled, published_at"
    " FROM crl INDEXED BY crl_scheduled WHERE published_at IS NOT NULL AND scheduled = 1 ORDER BY number DESC LIMIT 1)"
    " AS scheduled"
)


@lru_cache
def certificates_statement(count: int) -> str:
    """The statement of certificate_status for so many serial numbers, which it takes twice."""
    serials = ", ".join("?" * count)
    return (
        "SELECT serial, state, revoked_at, reason FROM certificate"  # noqa: S608 -- all but the number of ? is fixed
        f" WHERE serial IN ({serials}) AND state NOT IN ('intended', 'abandoned')"
        " UNION ALL SELECT serial, 'confirmed', NULL, NULL FROM service_certificate"
        f" WHERE serial IN ({serials}) AND der IS NOT NULL"
    )


def certificate_status(cursor: sqlite3.Cursor, serials: Sequence[bytes]) -> dict[bytes, CertificateStatus]:
    """The states of these certificates, if they were issued."""
    cursor.execute(certificates_statement(len(serials)), (*serials, *serials))
    return {
        serial: CertificateStatus(serial, _STATES[state], revoked_at, reason)
        for serial, state, revoked_at, reason in cursor.fetchall()
    }


def history(cursor: sqlite3.Cursor, serial: bytes) -> list[StatusChange]:
    """The status changes of one certificate, the oldest first."""
    return _status_changes(_page(cursor, HISTORY, (serial,)))


def status_changes(cursor: sqlite3.Cursor, after: int, limit: int) -> list[StatusChange]:
    """Those of all certificates with an id greater than `after`."""
    return _status_changes(_page(cursor, STATUS_CHANGES, (after, limit)))


def _status_changes(rows: list[list[Any]]) -> list[StatusChange]:
    return [
        StatusChange(id_, bytes.fromhex(serial), at, _STATES[state], *rest) for id_, serial, at, state, *rest in rows
    ]


def revoked(cursor: sqlite3.Cursor, expiring_from: int, limit: int, after: bytes) -> list[RevokedCertificate]:
    """What is revoked or on hold, by serial number; those that expired before are passed over in the index."""
    rows = _page(cursor, REVOKED, (after, expiring_from, limit))
    return [RevokedCertificate(bytes.fromhex(serial), *rest) for serial, *rest in rows]


def _page(cursor: sqlite3.Cursor, statement: str, parameters: tuple[Any, ...]) -> list[list[Any]]:
    """The rows in the array that the statement gives; by their first column, as an aggregate promises no order."""
    cursor.execute(statement, parameters)
    ((rows,),) = cursor.fetchall()
    return sorted(json.loads(rows))


def publication(cursor: sqlite3.Cursor) -> Publication:
    """Where publishing stands: the ends of five indices."""
    cursor.execute(PUBLICATION)
    ((last_change, last_order, last_number, *crls),) = cursor.fetchall()
    latest, scheduled = _crl(*crls[:8]), _crl(*crls[8:])
    return Publication(last_change or 0, last_order or 0, last_number or 0, latest, scheduled)


def _crl(
    number: int | None,
    this_update: int,
    next_update: int,
    last_change: int,
    last_order: int,
    base: int | None,
    scheduled: int,
    published_at: int,
) -> CrlRecord | None:
    if number is None:
        return None
    return CrlRecord(number, this_update, next_update, last_change, last_order, base, bool(scheduled), published_at)


def service_certificates(cursor: sqlite3.Cursor, purpose: str) -> list[ServiceCertificate]:
    """Those for a purpose, by created_at."""
    cursor.execute(
        "SELECT serial, purpose, subject_text, not_before, not_after, created_at, der FROM service_certificate"
        " WHERE purpose = ? ORDER BY created_at, rowid",
        (purpose,),
    )
    return [ServiceCertificate(*row) for row in cursor.fetchall()]


def find_passphrase(cursor: sqlite3.Cursor, key_id: bytes) -> RevocationPassphrase | None:
    """The revocation passphrase with this key identifier."""
    cursor.execute(
        "SELECT key_id, entity_id, subject, sealed, created_at FROM revocation_passphrase WHERE key_id = ?", (key_id,)
    )
    return next((RevocationPassphrase(*row) for row in cursor.fetchall()), None)
