"""What the SQLite store does for requests that wait beyond the contract: migration, indices, processes, restarts."""

import asyncio
import contextlib
import sqlite3
import sys
from pathlib import Path

import pytest

from cmpd.changes import DecideWaiting, MoveTransaction
from cmpd.errors import StoreConflict, StoreError
from cmpd.records import Decision, TransactionState
from cmpd.store import queries, waiting
from cmpd.store.migrations import APPLICATION_ID, STEPS
from cmpd.store.sqlite import SqliteStore
from tests.store.samples import NOW, answer, claim, entity, holding, octets, opening

ROOT = Path(__file__).parents[2]
WAITING = TransactionState.WAITING

TRANSACTIONS = (
    "SELECT row, hex(id), state, credential, entity_id, body, started_at, hex(server_nonce), confirm_by,"
    " hex(sender_certificate), ended_at, uses_taken, purged, keeps_id FROM cmp_transaction ORDER BY row"
)
OTHERS = ("entity", "certificate", "response", "status_change", "revocation_passphrase")


def approval(number: int, at: int = NOW + 5) -> DecideWaiting:
    return DecideWaiting(octets(number), Decision.APPROVED, at, "operator", "fine")


# --- migration --------------------------------------------------------------------------------------------------------


def database_of_step_2(path: Path) -> None:
    """With a transaction in each state and one that is purged, their responses and certificates; row 9 was deleted."""
    rows = [
        (1, "ended", None, None, 5, 1, 1, 0),
        (2, "confirming", 70, b"chain", None, 1, 0, 0),
        (3, "processing", None, None, None, 2, 0, 0),
        (4, "ended", None, None, 6, 0, 0, 1),
        (9, "ended", None, None, 6, 0, 0, 0),
    ]
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in STEPS[0] + STEPS[1]:
            database.execute(statement)
        database.execute("PRAGMA user_version = 2")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(
            "INSERT INTO entity (id, reference, kind, profiles, uses_left, is_ra, disabled, created_at)"
            " VALUES (1, 'device-1', 'secret', '[]', 5, 0, 0, 1)"
        )
        for row, state, confirm_by, chain, ended_at, uses_taken, purged, keeps_id in rows:
            database.execute(
                "INSERT INTO cmp_transaction VALUES (?, ?, ?, 'secret:device-1', 1, 'ir', 4, ?, ?, ?, ?, ?, ?, ?)",
                (row, octets(row), state, b"n" * 16, confirm_by, chain, ended_at, uses_taken, purged, keeps_id),
            )
            database.execute("INSERT INTO response VALUES (?, ?, ?)", (row, octets(row, 32), b"response %d" % row))
        for row, state, der in ((1, "confirmed", b"der"), (2, "issued", b"der"), (3, "intended", None)):
            database.execute(
                "INSERT INTO certificate (serial, transaction_row, transaction_id, cert_req_id, entity_id, profile,"
                " state, subject, subject_text, key_id, not_before, not_after, created_at, der)"
                " VALUES (?, ?, ?, 0, 1, 'tls', ?, x'3000', 'CN=x', x'00', 1, 99, 1, ?)",
                (octets(row, 14), row, octets(row), state, der),
            )
        database.execute("DELETE FROM cmp_transaction WHERE row = 9")
        database.execute("DELETE FROM response WHERE transaction_row = 9")
        database.commit()


def dump(path: Path) -> list[list[tuple[object, ...]]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        tables = [TRANSACTIONS, *(f"SELECT * FROM {table} ORDER BY 1, 2" for table in OTHERS)]
        return [database.execute(statement).fetchall() for statement in tables]


async def test_no_record_is_lost_when_transactions_may_wait(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    database_of_step_2(path)
    before = dump(path)
    assert [len(table) for table in before] == [4, 1, 3, 4, 0, 0]
    for _ in range(2):  # the second time there is nothing to do
        store = await SqliteStore.open(path, serving=True)
        await store.close()
        assert dump(path) == before
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA foreign_key_check").fetchone() is None


async def test_a_migrated_database_is_like_a_new_one(tmp_path: Path) -> None:
    database_of_step_2(tmp_path / "old.db")
    schemas = []
    for name in ("old.db", "new.db"):
        store = await SqliteStore.open(tmp_path / name, serving=True)
        await store.close()
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as database:
            schemas.append(set(database.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()))
    assert schemas[0] == schemas[1]


async def test_work_goes_on_in_a_migrated_database(tmp_path: Path) -> None:
    database_of_step_2(tmp_path / "cmpd.db")
    store = await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    try:
        owner = await store.find_entity("device-1")
        assert owner is not None
        assert await store.recover(NOW) == 1
        assert [found.id for found in await store.unconfirmed(71, 9)] == [octets(2)]
        await store.write(holding(9, owner))
        rows = await store._reader.run(lambda db: db.execute("SELECT max(row) FROM cmp_transaction").fetchone())
        assert rows == (10,)  # no row number comes twice, also not that of a deleted transaction
        assert await store.find_response(octets(2), octets(2, 32)) == (True, b"response 2")
        assert await store.find_response(octets(3), octets(3, 32)) == (False, None)  # went with its transaction
        with pytest.raises(StoreConflict, match="transaction exists"):
            await store.write(opening(1, owner))
        with pytest.raises(StoreError, match="FOREIGN KEY"):  # they hold again
            await store._writer.write(lambda cursor: cursor.execute("INSERT INTO response VALUES (77, x'00', x'00')"))
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("CREATE TABLE waiting_request (x)", "waiting_request"),  # in the way, and the last statement but one
        ("INSERT INTO response VALUES (77, x'00', x'00')", r"cmpd\.db: a record refers to one that is not there"),
    ],
    ids=["a table in the way", "a record without its transaction"],
)
async def test_a_migration_that_fails_leaves_the_transactions_alone(tmp_path: Path, broken: str, text: str) -> None:
    path = tmp_path / "cmpd.db"
    database_of_step_2(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(broken)
        database.commit()
    before = dump(path)
    with pytest.raises(StoreError, match=text):
        await SqliteStore.open(path, serving=True)
    assert dump(path) == before
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)


# --- processes and restarts -------------------------------------------------------------------------------------------


async def test_what_waits_is_there_after_a_restart(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db", serving=True)
    owner = await store.add_entity(entity())
    for number in (1, 2, 3):
        await store.write(holding(number, owner))
    await store.write([approval(1)])
    await store.write([*claim(2, owner), *answer(2)])
    references, ids = (1, 2, 3), [octets(number) for number in (1, 2, 3)]
    before = [await store.find_waiting(n) for n in references], [await store.find_transaction(i) for i in ids]
    await store.close()
    again = await SqliteStore.open(tmp_path / "db", serving=True)
    try:
        after = [await again.find_waiting(n) for n in references], [await again.find_transaction(i) for i in ids]
        assert after == before
        assert await again.recover(NOW) == 0
        assert [request.reference for request in await again.list_waiting()] == [3]
    finally:
        await again.close()


async def test_what_a_command_decides_is_seen_at_once_and_makes_nothing_stale(
    sqlite: SqliteStore, tmp_path: Path
) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write(holding(1, owner))
    await sqlite.write(holding(2, owner))
    before = sqlite.generation
    assert len(await sqlite.list_waiting()) == 2
    command = await SqliteStore.open(tmp_path / "cmpd.db", serving=False)
    try:
        assert [request.subjects for request in await command.list_waiting()] == ["CN=device 1", "CN=device 2"]
        await command.write([approval(1)])
        found = await sqlite.find_transaction(octets(1))
        assert found is not None
        assert found.waiting == await sqlite.find_waiting(1) == await command.find_waiting(1)
        assert found.waiting is not None
        assert (found.waiting.decision, found.waiting.text) == (Decision.APPROVED, "fine")
        assert len(await sqlite.list_waiting()) == 1

        await sqlite.write(claim(1, owner), as_of=before, rests_on=())  # no reason to look at everything anew
        claimed = await command.find_waiting(1)
        assert claimed is not None
        assert claimed.answered

        await sqlite.write([MoveTransaction(octets(2), WAITING, TransactionState.ENDED, b"e", ended_at=NOW)])
        with pytest.raises(StoreConflict, match=r"^not waiting$"):  # the requester gave up before
            await command.write([approval(2)])
    finally:
        await command.close()


async def test_another_process_decides_while_this_one_serves(sqlite: SqliteStore, tmp_path: Path) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write(holding(1, owner))
    program = (
        "import asyncio, sys; from pathlib import Path; from cmpd.store import open_store\n"
        "from tests.store.test_sqlite_waiting import approval\n"
        "async def main():\n"
        "    store = await open_store(Path(sys.argv[1]), serving=False)\n"
        "    assert len(await store.list_waiting()) == 1\n"
        "    await store.write([approval(1)])\n"
        "    await store.close()\n"
        "asyncio.run(main())"
    )
    arguments = (sys.executable, "-c", program, str(tmp_path / "cmpd.db"))
    process = await asyncio.create_subprocess_exec(*arguments, cwd=ROOT)
    serving = [sqlite.write(opening(number, owner)) for number in range(2, 50)]
    assert await asyncio.gather(*serving, process.wait()) == [None] * 48 + [0]
    found = await sqlite.find_waiting(1)
    assert found is not None
    assert (found.decision, found.decided_by) == (Decision.APPROVED, "operator")
    await sqlite.write(claim(1, owner))


async def test_of_a_claim_and_a_late_decision_by_two_connections_one_wins(sqlite: SqliteStore, tmp_path: Path) -> None:
    owner = await sqlite.add_entity(entity())
    command = await SqliteStore.open(tmp_path / "cmpd.db", serving=False)
    try:
        outcomes = set()
        for number in range(1, 21):
            await sqlite.write(holding(number, owner))
            expired = MoveTransaction(octets(number), WAITING, TransactionState.ENDED, b"e", ended_at=NOW)
            ended, decided = await asyncio.gather(
                sqlite.write([expired]), command.write([approval(number)]), return_exceptions=True
            )
            assert ended is None
            assert decided is None or str(decided) == "not waiting"
            found = await command.find_waiting(number)
            assert found is not None
            assert found.answered
            assert (found.decision is Decision.APPROVED) is (decided is None)
            outcomes.add(str(decided))
        assert outcomes <= {"None", "not waiting"}
    finally:
        await command.close()


# --- indices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "plan"),
    [
        (
            waiting.FIND,
            ["SEARCH w USING INTEGER PRIMARY KEY (rowid=?)", "SEARCH t USING INTEGER PRIMARY KEY (rowid=?)"],
        ),
        (
            waiting.LIST_ALL,
            ["SEARCH w USING INTEGER PRIMARY KEY (rowid>?)", "SEARCH t USING INTEGER PRIMARY KEY (rowid=?)"],
        ),
        (
            waiting.LIST_UNDECIDED,
            [
                "SEARCH w USING INDEX waiting_request_undecided (reference>?)",
                "SEARCH t USING INTEGER PRIMARY KEY (rowid=?)",
            ],
        ),
        (
            waiting.COUNT,
            [
                "SEARCH cmp_transaction USING COVERING INDEX transaction_waiting (state=?)",
                "SEARCH cmp_transaction USING COVERING INDEX sqlite_autoindex_cmp_transaction_1 (id=?)",
            ],
        ),
        (
            waiting.COUNT_OF_ONE,
            [
                "SEARCH cmp_transaction USING COVERING INDEX transaction_waiting (state=? AND entity_id=?)",
                "SEARCH cmp_transaction USING COVERING INDEX sqlite_autoindex_cmp_transaction_1 (id=?)",
            ],
        ),
        (
            queries.PURGEABLE,  # those that wait are few, and sorted; those that ended are in the order of their index
            [
                "SEARCH cmp_transaction USING INDEX transaction_ended (ended_at<?)",
                "SEARCH t USING COVERING INDEX transaction_waiting (state=?)",
                "SEARCH w USING INDEX sqlite_autoindex_waiting_request_1 (transaction_row=?)",
                "USE TEMP B-TREE FOR ORDER BY",
            ],
        ),
    ],
    ids=["find", "list all", "list undecided", "count", "count of one", "purge"],
)
async def test_each_statement_goes_by_an_index(sqlite: SqliteStore, statement: str, plan: list[str]) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write(holding(1, owner))

    def explain(database: sqlite3.Connection) -> list[str]:
        parameters = {"before": 0, "limit": 9} if ":before" in statement else (0,) * statement.count("?")
        rows = database.execute("EXPLAIN QUERY PLAN " + statement, parameters).fetchall()
        return [row[3] for row in rows if row[3].startswith(("SEARCH", "SCAN", "USE TEMP"))]

    assert await sqlite._reader.run(explain) == plan


async def test_a_transaction_that_never_waited_is_found_without_a_statement_more(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write([*opening(1, owner), *answer(1)])
    await sqlite.write(holding(2, owner))
    assert len(await statements_of(sqlite, 1)) == 4  # BEGIN, the transaction, its certificates, COMMIT
    assert len(await statements_of(sqlite, 2)) == 5


async def statements_of(store: SqliteStore, number: int) -> list[str]:
    """What SQLite is asked by find_transaction."""
    statements: list[str] = []
    await store._reader.run(lambda database: database.set_trace_callback(statements.append))
    await store.find_transaction(octets(number))
    await store._reader.run(lambda database: database.set_trace_callback(None))
    return statements
