"""What the SQLite store does beyond the contract: group commit, other processes, failures, crashes, files."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cmpd.changes import OpenTransaction
from cmpd.env import Env
from cmpd.errors import ConfigError, StaleRead, StoreError
from cmpd.records import Entity
from cmpd.store import STORES, open_store
from cmpd.store.migrations import STEPS
from cmpd.store.sealing import Sealer
from cmpd.store.sqlite import SqliteStore
from tests.store.samples import NOW, answer, entity, octets, opening, transaction

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def opened(path: Path, *, serving: bool = True, **limits: int | float) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, serving=serving, **limits)
    try:
        yield store
    finally:
        await store.close()


@contextlib.contextmanager
def other_connection(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


# --- group commit -----------------------------------------------------------------------------------------------------


async def test_what_arrives_while_a_commit_runs_goes_into_the_next_one(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    commits, units = sqlite.commits, sqlite.units

    async def client(first: int) -> None:
        for number in range(first, first + 10):
            await sqlite.write(opening(number, owner))

    await asyncio.gather(*(client(1000 * n) for n in range(1, 33)))
    assert sqlite.units - units == 320
    assert sqlite.commits - commits <= 40  # 10 if all 32 go together each time


async def test_a_unit_that_comes_alone_is_committed_at_once(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    commits = sqlite.commits
    for number in (1, 2, 3):
        await sqlite.write(opening(number, owner))
    assert sqlite.commits - commits == 3


async def test_a_batch_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path / "db", max_batch=4) as store:
        owner = await store.add_entity(entity())
        commits = store.commits
        await asyncio.gather(*(store.write(opening(number, owner)) for number in range(10)))
        assert store.commits - commits == 3


async def test_writers_wait_when_the_queue_is_full_and_none_is_lost(tmp_path: Path) -> None:
    async with opened(tmp_path / "db", max_waiting=3) as store:
        owner = await store.add_entity(entity())
        commits = store.commits
        await asyncio.gather(*(store.write(opening(number, owner)) for number in range(20)))
        assert store.commits - commits >= 7  # three at a time at most
        assert len(await store.list_certificates()) == 20


async def test_a_cancelled_caller_leaves_nothing_behind_and_the_others_go_on(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    tasks = [asyncio.create_task(sqlite.write(opening(number, owner))) for number in range(4)]
    await asyncio.sleep(0)  # all are queued, no commit has begun
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None), type(None)]
    found = [await sqlite.find_transaction(octets(number)) is not None for number in range(4)]
    assert found == [True, False, True, True]


async def test_close_writes_what_is_queued(tmp_path: Path) -> None:
    async with opened(tmp_path / "db", max_waiting=2) as store:
        owner = await store.add_entity(entity())
        tasks = [asyncio.create_task(store.write(opening(number, owner))) for number in range(6)]
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*tasks) == [None] * 6
    async with opened(tmp_path / "db") as store:
        assert len(await store.list_certificates()) == 6


async def test_a_mistake_in_a_unit_reaches_its_caller_and_harms_nobody_else(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    bad = [OpenTransaction(transaction(9, owner)), "not a change"]
    results = await asyncio.gather(
        sqlite.write(opening(1, owner)),
        sqlite.write(bad),
        sqlite.write(opening(2, owner)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), KeyError, type(None)]
    assert await sqlite.find_transaction(octets(9)) is None


async def test_a_read_sees_completed_writes_and_does_not_wait_for_a_running_one(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write(opening(1, owner))
    begun, go_on = threading.Event(), threading.Event()

    def slow(cursor: sqlite3.Cursor) -> None:
        cursor.execute("UPDATE entity SET profiles = '[\"half\"]'")
        begun.set()
        assert go_on.wait(20)

    writing = asyncio.create_task(sqlite._writer.write(slow))
    try:
        assert await asyncio.to_thread(begun.wait, 20)
        assert await sqlite.find_transaction(octets(1)) is not None
        found = await sqlite.find_entity("device-1")
        assert found is not None
        assert found.profiles == ()
    finally:
        go_on.set()
        await writing
    found = await sqlite.find_entity("device-1")
    assert found is not None
    assert found.profiles == ("half",)


# --- other processes --------------------------------------------------------------------------------------------------


async def test_a_change_by_another_connection_makes_a_decision_stale_once(sqlite: SqliteStore, tmp_path: Path) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write(opening(1, owner), as_of=sqlite.generation)
    decided = sqlite.generation
    async with opened(tmp_path / "cmpd.db", serving=False) as command:
        assert await command.disable_entity("device-1") is True
    with pytest.raises(StaleRead):
        await sqlite.write([OpenTransaction(transaction(2, owner))], as_of=decided)
    again = sqlite.generation
    assert again > decided
    found = await sqlite.find_entity("device-1")
    assert found is not None
    assert found.disabled
    await sqlite.write([OpenTransaction(transaction(2, owner))], as_of=again)
    await sqlite.write([OpenTransaction(transaction(3, owner))], as_of=again)


async def test_a_change_by_another_process_is_noticed_by_refresh(sqlite: SqliteStore, tmp_path: Path) -> None:
    await sqlite.add_entity(entity())
    before = await sqlite.refresh()
    program = (
        "import asyncio, sys; from pathlib import Path; from cmpd.store import open_store\n"
        "async def main():\n"
        "    store = await open_store(Path(sys.argv[1]), serving=False)\n"
        "    assert await store.disable_entity('device-1')\n"
        "    await store.close()\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path / "cmpd.db"), cwd=ROOT)
    assert await process.wait() == 0
    assert sqlite.generation == before
    assert await sqlite.refresh() > before
    assert await sqlite.refresh() == sqlite.generation
    found = await sqlite.find_entity("device-1")
    assert found is not None
    assert found.disabled


async def test_what_a_command_reads_and_checkpoints_makes_nothing_stale(sqlite: SqliteStore, tmp_path: Path) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write(opening(1, owner))
    decided = sqlite.generation
    async with opened(tmp_path / "cmpd.db", serving=False) as command:
        assert len(await command.list_certificates()) == 1
        assert len(await command.list_entities()) == 1
    await sqlite.write(opening(2, owner), as_of=decided)


async def test_two_stores_write_to_one_database_in_turn(sqlite: SqliteStore, tmp_path: Path) -> None:
    owner = await sqlite.add_entity(entity(uses_left=50))
    async with opened(tmp_path / "cmpd.db", serving=False) as command:
        both = [(sqlite, command)[number % 2].write(opening(number, owner)) for number in range(40)]
        assert await asyncio.gather(*both) == [None] * 40
    found = await sqlite.find_entity("device-1")
    assert found is not None
    assert found.uses_left == 10


async def test_a_lock_held_for_too_long_fails_the_units_and_nothing_more(tmp_path: Path) -> None:
    async with opened(tmp_path / "db", busy_seconds=0.1) as store:
        owner = await store.add_entity(entity())
        with other_connection(tmp_path / "db") as other:
            other.execute("BEGIN IMMEDIATE")
            results = await asyncio.gather(
                *(store.write(opening(number, owner)) for number in (1, 2)), return_exceptions=True
            )
            assert [type(result) for result in results] == [StoreError] * 2
            assert "locked" in str(results[0])
            assert await store.find_entity("device-1") == owner  # reads go on
            other.execute("ROLLBACK")
        await store.write(opening(1, owner))


async def test_a_change_of_trust_counts_only_when_it_can_be_read(sqlite: SqliteStore) -> None:
    """Else a decision could take the new number and the old records, and be believed."""
    await sqlite.add_entity(entity())
    before = sqlite.generation
    seen: list[int] = []
    disable = sqlite.disable_entity("device-1")
    look = sqlite._writer.write(lambda cursor: seen.append(sqlite.generation))
    await asyncio.gather(disable, look)  # one batch
    assert seen == [before]
    assert sqlite.generation == before + 1


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_full_disk_fails_units_whole_and_is_over_when_there_is_room(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write(opening(1, owner))
    connection = sqlite._writer._connection
    assert connection is not None
    (pages,) = await connection.run(lambda database: database.execute("PRAGMA page_count").fetchone())
    await connection.run(lambda database: database.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone())

    results = await asyncio.gather(*(sqlite.write(opening(n, owner)) for n in range(2, 60)), return_exceptions=True)
    failed = [number for number, result in enumerate(results, start=2) if result is not None]
    assert failed
    assert {type(result) for result in results if result is not None} == {StoreError}
    assert "full" in str(results[failed[0] - 2])
    for number in range(2, 60):  # all of a unit or nothing
        gone = number in failed
        assert (await sqlite.find_transaction(octets(number)) is None) is gone
        assert (await sqlite.find_certificate(octets(number, 14)) is None) is gone

    await connection.run(lambda database: database.execute("PRAGMA max_page_count = 1000000").fetchone())
    await sqlite.write(opening(failed[0], owner))
    assert await sqlite.find_transaction(octets(failed[0])) is not None


async def test_a_commit_that_fails_fails_all_its_units_and_the_store_goes_on(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    decided = sqlite.generation

    def orphan(cursor: sqlite3.Cursor) -> None:  # an error that SQLite finds at COMMIT only
        cursor.execute("PRAGMA defer_foreign_keys = ON")
        cursor.execute("INSERT INTO response (transaction_row, request_digest) VALUES (999, x'00')")

    results = await asyncio.gather(
        sqlite.write(opening(1, owner)), sqlite._writer.write(orphan), sqlite.write(opening(2, owner)),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(result) for result in results] == [StoreError] * 3
    assert await sqlite.list_certificates() == []
    await asyncio.gather(*(sqlite.write(opening(number, owner), as_of=decided) for number in (1, 2)))
    assert len(await sqlite.list_certificates()) == 2


async def test_a_broken_connection_is_replaced(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    decided = sqlite.generation
    connection = sqlite._writer._connection
    assert connection is not None
    await connection.run(lambda database: database.close())
    with pytest.raises(StoreError):
        await sqlite.write(opening(1, owner))
    with pytest.raises(StaleRead):  # it cannot be told who wrote while there was no connection
        await sqlite.write(opening(1, owner), as_of=decided)
    await sqlite.write(opening(1, owner), as_of=sqlite.generation)
    assert await sqlite.find_transaction(octets(1)) is not None


async def test_after_a_kill_every_acknowledged_unit_is_there_and_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.store.killed_writer", str(path), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged: list[int] = []
    while len(acknowledged) < 300:
        line = await process.stdout.readline()
        assert line, "the writer ended by itself"
        acknowledged.append(int(line))
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in (await process.stdout.read()).split(b"\n")[:-1]]
    assert await process.wait() == -signal.SIGKILL

    async with opened(path) as store:  # the lock went with the process
        with other_connection(path) as check:
            assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert check.execute("PRAGMA foreign_key_check").fetchone() is None
        written = 0
        for number in range(1, max(acknowledged) + 100):
            found = await store.find_transaction(octets(number))
            assert found is None or len(found.certificates) == 2
            assert found is not None or number not in acknowledged
            written += found is not None
        owner = await store.find_entity("device-1")
        assert owner is not None
        assert owner.uses_left == 1_000_000 - written
        assert len(await store.list_certificates(limit=100_000)) == 2 * written

        assert await store.recover(NOW) == 2 * written
        owner = await store.find_entity("device-1")
        assert owner is not None
        assert owner.uses_left == 1_000_000


# --- files ------------------------------------------------------------------------------------------------------------


async def test_one_process_serves_a_database_and_commands_work_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    async with opened(path):
        with pytest.raises(StoreError, match=r"cmpd\.db\.lock: another process serves this database"):
            await SqliteStore.open(path, serving=True)
        async with opened(path, serving=False) as command:
            await command.add_entity(entity())
            with pytest.raises(StoreError, match="only the process that serves"):
                await command.recover(NOW)
    async with opened(path) as store:
        assert await store.find_entity("device-1") is not None


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(tmp_path / "new" / "cmpd.db") as store:
            await store.add_entity(entity())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "new").iterdir()}
    finally:
        os.umask(before)
    assert modes == {"cmpd.db": 0o600, "cmpd.db-wal": 0o600, "cmpd.db-shm": 0o600, "cmpd.db.lock": 0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as store:
        owner = await store.add_entity(entity(uses_left=9))
        await store.write(opening(1, owner))
        await store.write(answer(1, confirm_by=NOW + 60))
        record = await store.find_transaction(octets(1))
    async with opened(tmp_path / "db") as store:
        assert record is not None
        assert await store.find_transaction(octets(1)) == record
        assert await store.find_response(octets(1), octets(1, 32)) == (True, b"response 1")
    assert sorted(contents(tmp_path)) == ["db", "db.lock"]  # the WAL was written back


async def test_a_database_of_a_newer_cmpd_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    async with opened(path):
        pass
    with other_connection(path) as other:
        other.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"cmpd\.db: schema {len(STEPS) + 1} is newer .* knows up to {len(STEPS)}$"):
        await SqliteStore.open(path, serving=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["garbage", "another program"])
async def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cmpd.db"
    if kind == "garbage":
        path.write_bytes(b"not a database, but long enough to look at" * 100)
    else:
        with other_connection(path) as other:
            other.execute("CREATE TABLE notes (text)")
    with pytest.raises(StoreError, match=r"cmpd\.db: "):
        await SqliteStore.open(path, serving=True)
    if kind == "garbage":
        assert path.read_bytes().startswith(b"not a database")
    else:
        with other_connection(path) as other:
            assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("notes",)]


async def test_a_directory_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file"):
        await SqliteStore.open(tmp_path / "file" / "cmpd.db", serving=True)


async def test_an_sqlite_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(StoreError, match=r"SQLite: want 3\.38\.0 or newer"):
        await SqliteStore.open(tmp_path / "db", serving=True)


async def test_open_store_opens_by_kind(tmp_path: Path) -> None:
    assert list(STORES) == ["sqlite"]
    store = await open_store(tmp_path / "db", serving=True)
    assert isinstance(store, SqliteStore)
    await store.close()
    with pytest.raises(ConfigError, match="want one of sqlite, found oracle"):
        await open_store(tmp_path / "db", serving=True, kind="oracle")


async def test_no_secret_is_in_the_database_in_clear(tmp_path: Path) -> None:
    secret = b"correct horse battery staple"
    sealer = Sealer.create(tmp_path / "sealing.json", b"passphrase", Env())
    async with opened(tmp_path / "cmpd.db") as store:
        fields: Entity = entity(
            sealed_secret=sealer.seal(secret, "device-1"),
            sealed_reg_token=sealer.seal(secret, "device-1\0regToken"),
            sealed_authenticator=sealer.seal(secret, "device-1\0authenticator"),
        )
        added = await store.add_entity(fields)
        found = await store.find_entity("device-1")
        assert found == added
        assert found.sealed_secret is not None
        assert sealer.open(found.sealed_secret, "device-1") == secret
        assert secret not in repr(found).encode()
        files = contents(tmp_path)
        assert any(b"device-1" in octets for octets in files.values())
        assert not any(secret in octets for octets in files.values())
    assert b"device-1" in (tmp_path / "cmpd.db").read_bytes()
    assert secret not in (tmp_path / "cmpd.db").read_bytes()
