"""Transactions that wait for popdecr: kept with what it is held against, ended by time, open again after a crash."""

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from cmpd.changes import AddChallenge, AddResponse, Change, MoveTransaction, OpenTransaction
from cmpd.errors import StoreConflict, StoreError
from cmpd.records import Entity, OpenChallenge, TransactionState
from cmpd.store.base import Store
from cmpd.store.migrations import APPLICATION_ID, STEPS
from cmpd.store.sqlite import SqliteStore
from tests.store.samples import NOW, entity, octets, transaction

CHALLENGED, PROCESSING = TransactionState.CHALLENGED, TransactionState.PROCESSING


def opened(number: int, owner: Entity, expires_at: int = NOW + 60, limit: int = 100) -> list[Change]:
    record = transaction(number, owner, state=CHALLENGED, confirm_by=expires_at)
    kept = OpenChallenge(record.id, ((0, octets(1, 32)), (-5, octets(2, 32))), expires_at, b"the request" * 100)
    return [OpenTransaction(record), AddChallenge(kept, limit)]


async def test_a_challenge_is_found_with_its_transaction_while_it_is_open(store: Store) -> None:
    owner = await store.add_entity(entity())
    changes = opened(1, owner)
    await store.write(changes)
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert isinstance(changes[1], AddChallenge)
    assert (found.state, found.confirm_by, found.challenge) == (CHALLENGED, NOW + 60, changes[1].challenge)
    await store.write([MoveTransaction(found.id, CHALLENGED, TransactionState.ENDED, b"n", ended_at=NOW)])
    with pytest.raises(StoreConflict, match="transaction moved"):
        await store.write([MoveTransaction(found.id, CHALLENGED, PROCESSING, b"n")])


@pytest.mark.parametrize("state", [CHALLENGED, TransactionState.PROVING])
async def test_what_awaits_something_has_an_end(store: Store, state: TransactionState) -> None:
    owner = await store.add_entity(entity())
    with pytest.raises(StoreError):
        await store.write([OpenTransaction(transaction(1, owner, state=state))])
    record = transaction(2, owner, state=state, confirm_by=NOW + 60)
    await store.write([OpenTransaction(record)])
    assert await store.unconfirmed(NOW + 60, 10) == []
    assert [found.id for found in await store.unconfirmed(NOW + 61, 10)] == [octets(2)]


async def test_one_transaction_has_one_challenge(store: Store) -> None:
    owner = await store.add_entity(entity())
    changes = opened(1, owner)
    await store.write(changes)
    with pytest.raises(StoreError):
        await store.write([changes[1]])


async def test_after_a_crash_it_is_open_again_until_the_same_time(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write([*opened(1, owner), AddResponse(octets(1), octets(9, 32), b"popdecc")])
    await store.write([MoveTransaction(octets(1), CHALLENGED, PROCESSING, b"nonce")])
    await store.recover(NOW + 1)
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert found.challenge is not None
    assert (found.state, found.confirm_by, found.server_nonce) == (CHALLENGED, NOW + 60, b"nonce")
    assert await store.find_response(octets(1), octets(9, 32)) == (True, b"popdecc")


async def test_a_purged_transaction_leaves_no_challenge_behind(store: Store) -> None:
    owner = await store.add_entity(entity())
    first, challenge = opened(1, owner)
    assert isinstance(first, OpenTransaction)
    await store.write([OpenTransaction(replace(first.transaction, keeps_id=True)), challenge])
    await store.write([MoveTransaction(octets(1), CHALLENGED, TransactionState.ENDED, b"n", ended_at=NOW)])
    assert await store.purge(NOW + 1, 10) == 1
    if isinstance(store, SqliteStore):
        return  # tests/test_pop_challenge.py looks into the table
    assert not store._tables.challenges


@pytest.mark.parametrize("end", [TransactionState.CONFIRMING, TransactionState.PROVING, TransactionState.ENDED])
async def test_the_request_is_not_kept_longer_than_its_challenge(
    store: Store, end: TransactionState, tmp_path: Path
) -> None:
    owner = await store.add_entity(entity())
    await store.write(opened(1, owner, limit=1))
    await store.write([MoveTransaction(octets(1), CHALLENGED, PROCESSING, b"n")])
    with pytest.raises(StoreConflict, match=r"too many challenges$"):
        await store.write(opened(2, owner, limit=1))
    over = end is TransactionState.ENDED
    times = {"ended_at": NOW} if over else {"confirm_by": NOW + 60}
    await store.write([MoveTransaction(octets(1), PROCESSING, end, b"n", **times)])
    await store.write(opened(2, owner, limit=1))
    found = await store.find_transaction(octets(2))
    assert found is not None
    assert found.challenge is not None


async def test_one_entity_gets_half_of_the_places(store: Store) -> None:
    owner, other = await store.add_entity(entity()), await store.add_entity(replace(entity(), reference="other"))
    for number in (1, 2):
        await store.write(opened(number, owner, limit=4))
    with pytest.raises(StoreConflict, match="too many challenges of one"):
        await store.write(opened(3, owner, limit=4))
    assert await store.find_transaction(octets(3)) is None
    await store.write(opened(4, other, limit=4))
    with pytest.raises(StoreConflict, match="too many challenges of one"):
        await store.write(opened(5, other, limit=4))
    await store.write([MoveTransaction(octets(1), CHALLENGED, TransactionState.ENDED, b"n", ended_at=NOW)])
    await store.write(opened(5, other, limit=5))


def database_of_step_3(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in STEPS[0] + STEPS[1] + STEPS[2]:
            database.execute(statement)
        database.execute("PRAGMA user_version = 3")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(
            "INSERT INTO entity (id, reference, kind, profiles, uses_left, is_ra, disabled, created_at)"
            " VALUES (1, 'device-1', 'secret', '[]', 5, 0, 0, 1)"
        )
        for row, state in ((1, "waiting"), (2, "confirming"), (7, "ended")):
            database.execute(
                "INSERT INTO cmp_transaction (row, id, state, credential, entity_id, body, started_at, server_nonce,"
                " confirm_by, ended_at) VALUES (?, ?, ?, 'secret:device-1', 1, 'ir', 4, x'00', 70, 80)",
                (row, octets(row), state),
            )
            database.execute("INSERT INTO response VALUES (?, ?, ?)", (row, octets(row, 32), b"response %d" % row))
        database.execute(
            "INSERT INTO waiting_request (reference, transaction_row, digest, body, entity_id, profile, subjects,"
            " received_at, expires_at, request) VALUES (5, 1, x'11', 'ir', 1, 'tls', 'CN=x', 1, 90, x'22')"
        )
        database.execute("DELETE FROM cmp_transaction WHERE row = 7")
        database.execute("DELETE FROM response WHERE transaction_row = 7")
        database.commit()


async def test_no_record_is_lost_when_transactions_may_be_challenged(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    database_of_step_3(path)
    store = await SqliteStore.open(path, serving=True)
    waiting, confirming = await store.find_transaction(octets(1)), await store.find_transaction(octets(2))
    assert waiting is not None
    assert confirming is not None
    assert waiting.waiting is not None
    assert (waiting.state, waiting.waiting.reference) == (TransactionState.WAITING, 5)
    assert confirming.state is TransactionState.CONFIRMING
    assert await store.find_response(octets(2), octets(2, 32)) == (True, b"response 2")
    owner = await store.find_entity("device-1")
    assert owner is not None
    await store.write(opened(8, owner))
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT row FROM cmp_transaction ORDER BY row").fetchall() == [(1,), (2,), (8,)]
        assert database.execute("PRAGMA foreign_key_check").fetchone() is None
        plan = database.execute(
            "EXPLAIN QUERY PLAN SELECT 1 FROM cmp_transaction WHERE state IN ('confirming', 'proving', 'challenged')"
            " AND confirm_by < 5 ORDER BY confirm_by, row"
        ).fetchall()
        assert "transaction_confirming" in str(plan)
