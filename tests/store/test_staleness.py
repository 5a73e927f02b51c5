"""Which decisions are out of date when they are written (store/base.py): what `rests_on` says, for every store."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from cmpd.changes import MoveCertificate, OpenTransaction
from cmpd.errors import StaleRead, StoreError
from cmpd.records import CertificateState
from cmpd.store import commits
from cmpd.store.base import Staleness, Store
from cmpd.store.sqlite import SqliteStore
from tests.store.samples import NOW, answer, entity, octets, opening, transaction

CONFIRMED, REVOKED = CertificateState.CONFIRMED, CertificateState.REVOKED


def revoke(number: int) -> MoveCertificate:
    return MoveCertificate(octets(number, 14), CONFIRMED, REVOKED, NOW, "keyCompromise", "operator")


async def test_the_end_of_trust_in_one_certificate_leaves_decisions_that_rest_on_others(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number in (1, 2):
        await store.write([*opening(number, owner), *answer(number)])
    before = store.generation
    await store.write([revoke(1)])
    new = [OpenTransaction(transaction(9, owner))]
    for rests_on in (None, [octets(1, 14)], [octets(2, 14), octets(1, 14)]):
        with pytest.raises(StaleRead):
            await store.write(new, as_of=before, rests_on=rests_on)
    await store.write(new, as_of=before, rests_on=[octets(2, 14)])
    await store.write([OpenTransaction(transaction(10, owner))], as_of=before, rests_on=())
    await store.write([OpenTransaction(transaction(11, owner))], as_of=store.generation, rests_on=[octets(1, 14)])


@pytest.mark.parametrize("rests_on", [(), (octets(1, 14),)], ids=["no certificate", "a certificate"])
async def test_a_change_of_entities_makes_every_earlier_decision_stale(store: Store, rests_on: list[bytes]) -> None:
    owner = await store.add_entity(entity())
    before = store.generation
    await store.add_entity(entity("another"))
    with pytest.raises(StaleRead):
        await store.write([OpenTransaction(transaction(1, owner))], as_of=before, rests_on=rests_on)


async def test_of_many_at_once_only_those_that_rest_on_the_revoked_certificate_are_stale(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number in range(1, 9):
        await store.write([*opening(number, owner), *answer(number)])
    before = store.generation
    revoking = [store.write([revoke(n)], as_of=before, rests_on=[octets(n, 14)]) for n in range(1, 9)]
    late = store.write([OpenTransaction(transaction(20, owner))], as_of=before, rests_on=[octets(4, 14)])
    outcomes = await asyncio.gather(*revoking, late, return_exceptions=True)
    assert outcomes[:8] == [None] * 8
    assert isinstance(outcomes[8], StaleRead)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    """A serving process' store and a command's."""
    mine = await SqliteStore.open(tmp_path / "db", serving=True)
    other = await SqliteStore.open(tmp_path / "db", serving=False)
    yield mine, other
    await other.close()
    await mine.close()


async def test_what_a_command_revokes_leaves_decisions_that_rest_on_others(
    two: tuple[SqliteStore, SqliteStore],
) -> None:
    mine, other = two
    owner = await mine.add_entity(entity())
    for number in (1, 2):
        await mine.write([*opening(number, owner), *answer(number)])
    before = await mine.refresh()
    await other.write([revoke(1)])
    with pytest.raises(StaleRead):
        await mine.write([OpenTransaction(transaction(9, owner))], as_of=before, rests_on=[octets(1, 14)])
    await mine.write([OpenTransaction(transaction(9, owner))], as_of=before, rests_on=[octets(2, 14)])
    await mine.write([OpenTransaction(transaction(10, owner))], as_of=before, rests_on=())
    assert mine.generation > before


@pytest.mark.parametrize("what", ["add", "disable"])
async def test_a_command_that_changes_entities_makes_every_earlier_decision_stale(
    two: tuple[SqliteStore, SqliteStore], what: str
) -> None:
    mine, other = two
    owner = await mine.add_entity(entity())
    before = await mine.refresh()
    if what == "add":
        await other.add_entity(entity("another"))
    else:
        await other.disable_entity(owner.reference)
    for _ in range(2):
        with pytest.raises(StaleRead):
            await mine.write([OpenTransaction(transaction(1, owner))], as_of=before, rests_on=())
    await mine.write([OpenTransaction(transaction(1, owner))], as_of=mine.generation, rests_on=())


async def test_more_revocations_than_are_looked_at_make_every_earlier_decision_stale(
    two: tuple[SqliteStore, SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "_MOST_FOREIGN", 2)
    mine, other = two
    owner = await mine.add_entity(entity())
    for number in range(1, 5):
        await mine.write([*opening(number, owner), *answer(number)])
    before = await mine.refresh()
    await other.write([revoke(1), revoke(2)])
    await mine.write([OpenTransaction(transaction(9, owner))], as_of=before, rests_on=[octets(4, 14)])
    before = mine.generation
    await other.write([revoke(3), MoveCertificate(octets(3, 14), REVOKED, REVOKED, NOW), revoke(4)])
    with pytest.raises(StaleRead):
        await mine.write([OpenTransaction(transaction(10, owner))], as_of=before, rests_on=[octets(1, 14)])


def test_more_than_can_be_remembered_makes_everything_stale() -> None:
    staleness = Staleness()
    for generation in range(1, 10_001):
        staleness.ended([octets(generation, 14)], generation)
    assert not staleness.is_stale(5, 10_000, [octets(5, 14)])
    staleness.ended([octets(10_001, 14)], 10_001)
    assert staleness.is_stale(10_000, 10_001, [octets(5, 14)])
    assert not staleness.is_stale(10_001, 10_001, [octets(5, 14)])


async def test_a_commit_that_fails_hides_nothing_that_another_process_writes(
    two: tuple[SqliteStore, SqliteStore],
) -> None:
    mine, other = two
    owner = await mine.add_entity(entity())
    for number in (1, 2):
        await mine.write([*opening(number, owner), *answer(number)])
    connection = mine._writer._connection
    assert connection is not None

    def deny_commit(action: int, what: str | None, *_: str | None) -> int:
        return sqlite3.SQLITE_DENY if (action, what) == (sqlite3.SQLITE_TRANSACTION, "COMMIT") else sqlite3.SQLITE_OK

    await connection.run(lambda database: database.set_authorizer(deny_commit))
    for undone in (mine.add_entity(entity("undone")), mine.write([revoke(2)])):
        with pytest.raises(StoreError, match="not authorized"):
            await undone
    await connection.run(lambda database: database.set_authorizer(None))
    before = await mine.refresh()
    await other.write([revoke(1)])
    with pytest.raises(StaleRead):
        await mine.write([OpenTransaction(transaction(9, owner))], as_of=before, rests_on=[octets(1, 14)])
    before = mine.generation
    await other.disable_entity(owner.reference)
    with pytest.raises(StaleRead):
        await mine.write([OpenTransaction(transaction(9, owner))], as_of=before, rests_on=())


async def test_what_another_process_writes_while_its_changes_are_looked_at_is_noticed(
    two: tuple[SqliteStore, SqliteStore],
) -> None:
    mine, _ = two
    first, second = await mine.add_entity(entity()), await mine.add_entity(entity("second"))
    connection, began = mine._writer._connection, []
    assert connection is not None

    def disable(reference: str) -> None:
        with closing(sqlite3.connect(mine._path)) as database, database:
            database.execute("UPDATE entity SET disabled = 1 WHERE reference = ?", (reference,))

    def meanwhile(statement: str) -> None:
        if "entity_changes" in statement and not began:
            began.append(mine.generation)  # a request reads the generation, and then the entity
            disable(first.reference)

    await connection.run(lambda database: database.set_trace_callback(meanwhile))
    disable(second.reference)
    await mine.refresh()
    assert began
    with pytest.raises(StaleRead):
        await mine.write([OpenTransaction(transaction(9, first))], as_of=began[0], rests_on=())
