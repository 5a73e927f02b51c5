"""What the SQLite store does for the status of certificates beyond the contract: migration, indices, processes."""

import asyncio
import contextlib
import fcntl
import sqlite3
import threading
from pathlib import Path

import pytest

from cmpd.changes import MoveCertificate
from cmpd.errors import StoreError
from cmpd.records import (
    CertificateState,
    Publication,
    RevokedCertificate,
    StatusChange,
)
from cmpd.store import status
from cmpd.store.migrations import APPLICATION_ID, STEPS
from cmpd.store.sqlite import SqliteStore
from tests.store.samples import NOW, answer, entity, octets, opening

CONFIRMED, REVOKED = CertificateState.CONFIRMED, CertificateState.REVOKED


def revocation(number: int, at: int = NOW + 9) -> MoveCertificate:
    return MoveCertificate(octets(number, 14), CONFIRMED, REVOKED, at, "superseded", "operator")


def database_of_step_1(path: Path) -> None:
    """With an entity, its transaction, and certificates: confirmed, two revoked ones, and one that was abandoned."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in STEPS[0]:
            database.execute(statement)
        database.execute("PRAGMA user_version = 1")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(
            "INSERT INTO entity (id, reference, kind, profiles, is_ra, disabled, created_at)"
            " VALUES (1, 'device-1', 'secret', '[]', 0, 0, 1)"
        )
        database.execute(
            "INSERT INTO cmp_transaction (row, id, state, credential, entity_id, body, started_at, server_nonce,"
            " ended_at) VALUES (1, ?, 'ended', 'secret:device-1', 1, 'ir', 1, x'', 2)",
            (octets(1),),
        )
        rows = [(1, "confirmed", None, b"der"), (2, "revoked", 30, b"der"), (3, "revoked", 20, b"der")]
        for number, state, changed_at, der in [*rows, (4, "abandoned", 5, None)]:
            database.execute(
                "INSERT INTO certificate (serial, transaction_row, transaction_id, cert_req_id, entity_id, profile,"
                " state, subject, subject_text, key_id, not_before, not_after, created_at, changed_at, reason,"
                " changed_by, der) VALUES (?, 1, ?, ?, 1, 'tls', ?, x'3000', 'CN=x', x'00', 1, 99, 1, ?, ?, ?, ?)",
                (
                    *(octets(number, 14), octets(1), number, state, changed_at),
                    *(("superseded", "certConf") if state == "revoked" else (None, None)),
                    der,
                ),
            )
        database.commit()


async def test_what_the_first_schema_recorded_as_revoked_is_on_the_crl(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    database_of_step_1(path)
    store = await SqliteStore.open(path, serving=True)
    try:
        assert await store.revoked(expiring_from=0, limit=9) == [
            RevokedCertificate(octets(2, 14), 30, "superseded", None, 99),
            RevokedCertificate(octets(3, 14), 20, "superseded", None, 99),
        ]
        wanted = [
            StatusChange(1, octets(3, 14), 20, REVOKED, "superseded", "certConf", None, 20, 99),
            StatusChange(2, octets(2, 14), 30, REVOKED, "superseded", "certConf", None, 30, 99),
        ]
        assert await store.status_changes(after=0, limit=9) == wanted
        assert await store.publication() == Publication(last_change=2)
        owner = await store.find_entity("device-1")
        assert owner is not None
        assert owner.may_revoke is False
        found = await store.find_transaction(octets(1))
        assert found is not None
        assert [(each.state, each.revoked_at) for each in found.certificates] == [
            (CONFIRMED, None),
            (REVOKED, 30),
            (REVOKED, 20),
        ]
        await store.write([*opening(7, owner), *answer(7)])
        await store.write([revocation(7)])
        assert (await store.history(octets(7, 14)))[0].id == 3
    finally:
        await store.close()
    again = await SqliteStore.open(path, serving=True)  # nothing is done twice
    assert (await again.publication()).last_change == 3
    await again.close()


async def test_a_command_does_not_migrate_a_database_under_its_server(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    server = await SqliteStore.open(path, serving=True)
    await server.close()
    path.unlink()
    database_of_step_1(path)
    with (tmp_path / "cmpd.db.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process serves this database"):
            await SqliteStore.open(path, serving=False)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    database_of_step_1(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE crl (x)")  # in the way
        before = database.execute("SELECT * FROM sqlite_schema").fetchall()
    with pytest.raises(StoreError, match="crl"):
        await SqliteStore.open(path, serving=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT * FROM sqlite_schema").fetchall() == before
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


@pytest.mark.parametrize(
    ("statement", "parameters", "plan"),
    [
        (status.REVOKED, (b"", 0, 9), ["SEARCH certificate USING COVERING INDEX certificate_revoked (serial>?)"]),
        (
            status.STATUS_CHANGES,
            (0, 9),
            [
                "SEARCH s USING INTEGER PRIMARY KEY (rowid>?)",
                "SEARCH c USING INDEX sqlite_autoindex_certificate_1 (serial=?)",
            ],
        ),
        (
            status.HISTORY,
            (b"",),
            [
                "SEARCH s USING INDEX status_change_serial (serial=?)",
                "SEARCH c USING INDEX sqlite_autoindex_certificate_1 (serial=?)",
            ],
        ),
        (
            status.certificates_statement(1),
            (b"", b""),
            [
                "SEARCH certificate USING INDEX sqlite_autoindex_certificate_1 (serial=?)",
                "SEARCH service_certificate USING INDEX sqlite_autoindex_service_certificate_1 (serial=?)",
            ],
        ),
    ],
    ids=["revoked", "status_changes", "history", "certificate_status"],
)
async def test_each_read_goes_by_an_index_and_sorts_nothing(
    sqlite: SqliteStore, statement: str, parameters: tuple[object, ...], plan: list[str]
) -> None:
    found = await sqlite._reader.run(lambda db: db.execute("EXPLAIN QUERY PLAN " + statement, parameters).fetchall())
    assert [row[3] for row in found if row[3].startswith(("SEARCH", "SCAN", "USE TEMP"))][: len(plan)] == plan
    assert not [row for row in found if "TEMP B-TREE" in row[3]]


async def test_publication_reads_the_same_few_pages_however_much_was_published(sqlite: SqliteStore) -> None:
    def fill(cursor: sqlite3.Cursor) -> None:
        many = range(1, 20_001)
        cursor.executemany("INSERT INTO crl VALUES (?, 1, 2, 3, 4, NULL, ?, ?)", [(n, n == 1, 5) for n in many])
        cursor.executemany("INSERT INTO crl VALUES (?, 1, 2, 3, 4, NULL, 1, NULL)", [(n + 20_000,) for n in many])
        cursor.executemany("INSERT INTO crl_order (at, changed_by) VALUES (?, '')", [(n,) for n in many])

    empty = await sqlite._reader.run(count_steps)
    await sqlite._writer.write(fill)
    found = await sqlite.publication()
    assert found.latest is not None
    assert found.scheduled is not None
    assert (found.last_order, found.last_number) == (20_000, 40_000)
    assert (found.latest.number, found.scheduled.number) == (20_000, 1)
    assert await sqlite._reader.run(count_steps) < empty + 100


def count_steps(database: sqlite3.Connection) -> int:
    """How many instructions of SQLite's virtual machine `publication` takes."""
    steps: list[None] = []
    database.set_progress_handler(lambda: steps.append(None), 1)
    status.publication(database.cursor())
    database.set_progress_handler(None, 0)
    return len(steps)


async def test_no_read_waits_for_the_pages_of_a_crl(sqlite: SqliteStore) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write([*opening(1, owner), *answer(1)])
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: sqlite3.Connection) -> None:
        begun.set()
        assert go_on.wait(20)

    pages = asyncio.create_task(sqlite._pages.run(slow))
    page = None
    try:
        assert await asyncio.to_thread(begun.wait, 20)
        page = asyncio.create_task(sqlite.revoked(expiring_from=0, limit=9))
        assert (await sqlite.certificate_status([octets(1, 14)]))[octets(1, 14)].state is CONFIRMED
        assert await sqlite.publication() == Publication()
        await sqlite.write([revocation(1)])
        assert not page.done()
    finally:
        go_on.set()
        await pages
    assert page is not None
    assert [found.serial for found in await page] == [octets(1, 14)]


async def test_what_a_command_revokes_and_orders_is_seen_at_once(sqlite: SqliteStore, tmp_path: Path) -> None:
    owner = await sqlite.add_entity(entity())
    await sqlite.write([*opening(1, owner), *answer(1)])
    assert (await sqlite.certificate_status([octets(1, 14)]))[octets(1, 14)].state is CONFIRMED
    command = await SqliteStore.open(tmp_path / "cmpd.db", serving=False)
    try:
        await command.write([revocation(1)])
        assert (await sqlite.certificate_status([octets(1, 14)]))[octets(1, 14)].state is REVOKED
        assert (await sqlite.publication()).last_change == 1
        assert len(await command.revoked(expiring_from=0, limit=9)) == 1
    finally:
        await command.close()
