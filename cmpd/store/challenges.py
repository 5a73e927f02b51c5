"""Challenges that wait for popdecr: a row of its own beside the transaction's, as functions on a cursor.

There are as many as are open: a trigger deletes each when its transaction leaves the states that need it.
"""

import json
import sqlite3
from typing import Final

from cmpd.changes import AddChallenge
from cmpd.errors import StoreConflict
from cmpd.records import OpenChallenge

_OF_ONE: Final = (
    "SELECT count(*) FROM challenge h CROSS JOIN cmp_transaction t ON t.row = h.transaction_row"
    " WHERE t.entity_id = (SELECT entity_id FROM cmp_transaction WHERE id = ?)"
)


def add_challenge(cursor: sqlite3.Cursor, change: AddChallenge) -> None:
    """Insert it; its transaction was opened before, perhaps in the same unit."""
    new = change.challenge
    left = change.limit - cursor.execute("SELECT count(*) FROM challenge").fetchone()[0]
    if left <= 0:
        raise StoreConflict("too many challenges")
    if cursor.execute(_OF_ONE, (new.transaction_id,)).fetchone()[0] >= left:
        raise StoreConflict("too many challenges of one")
    cursor.execute(
        "INSERT INTO challenge (transaction_row, expected, expires_at, request)"
        " VALUES ((SELECT row FROM cmp_transaction WHERE id = ?), ?, ?, ?)",
        (
            new.transaction_id,
            json.dumps([(number, digest.hex()) for number, digest in new.expected]),
            new.expires_at,
            new.request,
        ),
    )


def find_challenge(cursor: sqlite3.Cursor, transaction_row: int, transaction_id: bytes) -> OpenChallenge | None:
    """The challenge of a transaction."""
    cursor.execute(
        "SELECT expected, expires_at, request FROM challenge WHERE transaction_row = ?",
        (transaction_row,),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    expected = tuple((number, bytes.fromhex(digest)) for number, digest in json.loads(row[0]))
    return OpenChallenge(transaction_id, expected, row[1], row[2])
