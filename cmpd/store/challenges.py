"""Challenges that wait for popdecr: a row of its own beside the transaction's, as functions on a cursor."""

import json
import sqlite3

from cmpd.changes import AddChallenge
from cmpd.records import OpenChallenge


def add_challenge(cursor: sqlite3.Cursor, change: AddChallenge) -> None:
    """Insert it; its transaction was opened before, perhaps in the same unit."""
    new = change.challenge
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
