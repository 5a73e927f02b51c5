"""The store on SQLite: WAL, synchronous=FULL, an answer after the commit.

Three connections, each on a thread of its own: the writer (commits.py), one that only reads, so that a read never waits
behind an fsync, and one that reads the pages of a CRL, so that no other read waits behind them. In WAL mode a read sees
every commit that completed before it began. One process serves a
database (it holds a lock on a file beside it); commands of operators write in between, in transactions of their own,
and the serving process notices them by the generation.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from cmpd.changes import Change
from cmpd.errors import StoreError
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    CertificateStatus,
    Entity,
    Publication,
    RevocationPassphrase,
    RevokedCertificate,
    ServiceCertificate,
    StatusChange,
    TransactionRecord,
    WaitingRequest,
)
from cmpd.store import queries, status, waiting
from cmpd.store.base import ends_trust
from cmpd.store.bulk import PREPARED
from cmpd.store.changes import apply_changes
from cmpd.store.commits import Connection, GroupCommit, as_store_error
from cmpd.store.migrations import STEPS, migrate, schema_version

P = ParamSpec("P")
T = TypeVar("T")

OLDEST_SQLITE = (3, 38, 0)  # STRICT tables, JSON functions in every build
PURGE_UNIT = 100  # transactions deleted by one unit, so that no other unit waits long

_LOCK_TRIES = 3  # a command that only asks whether there is a server holds the lock for a moment
_LOCK_PAUSE = 0.02

PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cache_size = -16384",  # KiB
    "PRAGMA journal_size_limit = 67108864",  # octets the WAL keeps after a burst
)


class SqliteStore:
    """A Store (base.py) in one SQLite file; made by `open`."""

    def __init__(
        self, path: Path, writer: GroupCommit, reader: Connection, pages: Connection, lock: int | None
    ) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._pages = pages
        self._lock = lock
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path, *, serving: bool, busy_seconds: float = 5.0, max_waiting: int = 1024, max_batch: int = 128
    ) -> "SqliteStore":
        """Open or create the database. StoreError names the file and what is wrong with it.

        `serving`: take the lock of the serving process. `busy_seconds`: how long another process' commit is waited for.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            wanted = ".".join(map(str, OLDEST_SQLITE))
            raise StoreError(f"SQLite: want {wanted} or newer, have {sqlite3.sqlite_version}")
        async with contextlib.AsyncExitStack() as undo:
            try:
                lock = await asyncio.to_thread(_prepare, path, serving, busy_seconds)
                if lock is not None:
                    undo.callback(os.close, lock)
                connect = partial(_connect, path, busy_seconds)
                writer = GroupCommit(connect, max_waiting=max_waiting, max_batch=max_batch)
                undo.push_async_callback(writer.close)
                await writer.start()
                reader = await connect(reading=True)
                undo.push_async_callback(reader.close)
                pages = await connect(reading=True) if serving else reader
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"{path}: {error}") from error
            undo.pop_all()
        return cls(path, writer, reader, pages, lock)

    @property
    def generation(self) -> int:
        """Grows when entities or certificate states may have changed."""
        return self._writer.generation

    @property
    def commits(self) -> int:
        """How many times it was committed since it was opened; units share commits."""
        return self._writer.commits

    @property
    def units(self) -> int:
        """How many units were written since it was opened."""
        return self._writer.units

    def statistics(self) -> dict[str, int]:
        """Commits and units since the store was opened."""
        return {"commits": self.commits, "units": self.units}

    async def refresh(self) -> int:
        """Notice what other processes changed; returns the generation."""
        return await self._writer.refresh()

    def write(
        self, changes: Sequence[Change], *, as_of: int | None = None, rests_on: Collection[bytes] | None = None
    ) -> Coroutine[Any, Any, None]:
        """Make one unit durable, or raise StoreConflict or StaleRead and change nothing."""
        unit = tuple(changes)
        return self._writer.write(
            lambda cursor: apply_changes(cursor, unit),
            changes=unit,
            as_of=as_of,
            rests_on=rests_on,
            ended=ends_trust(unit),
        )

    async def find_transaction(self, transaction_id: bytes) -> TransactionRecord | None:
        """The transaction with its certificates and its waiting request."""
        return await self._read(queries.find_transaction, transaction_id)

    async def find_response(self, transaction_id: bytes, request_digest: bytes) -> tuple[bool, bytes | None]:
        """Whether this request was answered, and with which octets."""
        return await self._read(queries.find_response, transaction_id, request_digest)

    async def find_entity(self, reference: str) -> Entity | None:
        """The entity with this reference value."""
        return await self._read(queries.find_entity, reference)

    async def find_entity_by_id(self, entity_id: int) -> Entity | None:
        """The entity with this id."""
        return await self._read(queries.find_entity_by_id, entity_id)

    async def list_entities(self, *, with_certificate: bool = False) -> list[Entity]:
        """All entities by reference value, or those whose credential is a certificate."""
        return await self._read(queries.list_entities, with_certificate)

    async def add_entity(self, entity: Entity) -> Entity:
        """Insert; StoreConflict("reference exists")."""
        return await self._writer.write(lambda cursor: queries.add_entity(cursor, entity), ends_all=True)

    async def disable_entity(self, reference: str) -> bool:
        """Disable; False if there is none."""
        return await self._writer.write(lambda cursor: queries.disable_entity(cursor, reference), ends_all=True)

    async def find_certificate(self, serial: bytes) -> CertificateRecord | None:
        """The record of a serial number."""
        return await self._read(queries.find_certificate, serial)

    async def list_certificates(
        self,
        *,
        subject: str | None = None,
        state: CertificateState | None = None,
        at: int | None = None,
        limit: int = 1000,
        after: bytes = b"",
    ) -> list[CertificateRecord]:
        """By serial number; a search for a subject reads all rows from `after` on."""
        return await self._read(queries.list_certificates, subject, state, at, limit, after)

    async def certificate_status(self, serials: Sequence[bytes]) -> dict[bytes, CertificateStatus]:
        """The states of these certificates, if they were issued."""
        return await self._ask(self._reader, status.certificate_status, serials)

    async def sharing_key(self, serial: bytes, digest: bytes, limit: int) -> list[tuple[bytes, str]]:
        """Other certificates for the same key, of another entity or subject."""
        return await self._ask(self._reader, queries.sharing_key, serial, digest, limit)

    async def history(self, serial: bytes) -> list[StatusChange]:
        """The status changes of one certificate, the oldest first."""
        return await self._ask(self._reader, status.history, serial)

    async def status_changes(self, *, after: int, limit: int) -> list[StatusChange]:
        """Those of all certificates with an id greater than `after`, by id."""
        return await self._ask(self._pages, status.status_changes, after, limit)

    async def revoked(self, *, expiring_from: int, limit: int, after: bytes = b"") -> list[RevokedCertificate]:
        """What is revoked or on hold and expires then or later, by serial number."""
        return await self._ask(self._pages, status.revoked, expiring_from, limit, after)

    async def publication(self) -> Publication:
        """Where publishing stands."""
        return await self._ask(self._reader, status.publication)

    async def service_certificates(self, purpose: str) -> list[ServiceCertificate]:
        """Those for a purpose, by created_at."""
        return await self._ask(self._reader, status.service_certificates, purpose)

    async def find_passphrase(self, key_id: bytes) -> RevocationPassphrase | None:
        """The revocation passphrase with this key identifier."""
        return await self._ask(self._reader, status.find_passphrase, key_id)

    async def find_waiting(self, reference: int) -> WaitingRequest | None:
        """The request with this polling reference."""
        return await self._ask(self._reader, waiting.find_waiting, reference)

    async def list_waiting(
        self, *, undecided_only: bool = True, limit: int = 1000, after: int = 0
    ) -> list[WaitingRequest]:
        """Requests that wait for an operator, or all, without their octets, by reference."""
        return await self._ask(self._reader, waiting.list_waiting, undecided_only, limit, after)

    async def unconfirmed(self, before: int, limit: int) -> list[TransactionRecord]:
        """Transactions whose time for certConf is over, the longest overdue first."""
        return await self._read(queries.unconfirmed, before, limit)

    async def recover(self, at: int) -> int:
        """Clear away what an unclean end left; StoreError unless this is the serving process."""
        if self._lock is None:
            raise StoreError(f"{self._path}: only the process that serves this database may recover it")
        return await self._writer.write(lambda cursor: queries.recover(cursor, at))

    async def purge(self, ended_before: int, limit: int) -> int:
        """Delete at most `limit` transactions that ended before, with their responses."""
        purged = 0
        while purged < limit:
            share = min(PURGE_UNIT, limit - purged)
            deleted = await self._writer.write(partial(queries.purge, ended_before=ended_before, limit=share))
            purged += deleted
            if deleted < share:
                break
        return purged

    async def forget_crls(self, ended_before: int) -> int:
        """Delete old CRLs and fulfilled orders, in units between which others are written."""
        forgotten = 0
        while count := await self._writer.write(
            partial(queries.forget_crls, ended_before=ended_before, limit=PURGE_UNIT)
        ):
            forgotten += count
        return forgotten

    async def close(self) -> None:
        """Write what is queued and let go of the database."""
        if not self._closed:
            self._closed = True
            await self._reader.close()
            if self._pages is not self._reader:
                await self._pages.close()
        await self._writer.close()  # last, so that its close moves the WAL into the database
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _read(
        self, function: Callable[Concatenate[sqlite3.Cursor, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run the statements of `function` on one state of the database."""
        return await self._ask(self._reader, _snapshot, lambda cursor: function(cursor, *args, **kwargs))

    async def _ask(
        self,
        connection: Connection,
        function: Callable[Concatenate[sqlite3.Cursor, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `function` as it is: its one statement is a snapshot by itself."""
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return await connection.run(lambda database: function(database.cursor(), *args, **kwargs))
        except sqlite3.Error as error:
            raise as_store_error(error) from error


def _snapshot(cursor: sqlite3.Cursor, function: Callable[[sqlite3.Cursor], T]) -> T:
    try:
        cursor.execute("BEGIN")
        result = function(cursor)
        cursor.execute("COMMIT")
        return result
    finally:
        if cursor.connection.in_transaction:
            cursor.connection.execute("ROLLBACK")


async def _connect(path: Path, busy_seconds: float, *, reading: bool = False) -> Connection:
    connection = Connection(partial(_open_file, path, busy_seconds, reading), iter_chunk_size=64)
    await connection
    return connection


def _open_file(path: Path, busy_seconds: float, reading: bool) -> sqlite3.Connection:
    # isolation_level None: BEGIN and COMMIT are where we write them. mode=rw: a vanished database is not made anew.
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        cached_statements=PREPARED,
    )
    try:
        for pragma in PRAGMAS:
            database.execute(pragma)
        (mode,) = database.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            raise StoreError(f"{path}: want journal mode wal, have {mode}: is it on a network file system?")
        if reading:
            database.execute("PRAGMA query_only = ON")
            database.create_function("contains", 2, queries.contains, deterministic=True)
    except BaseException:
        database.close()
        raise
    return database


# --- files -----------------------------------------------------------------------------------------------------------


def _prepare(path: Path, serving: bool, busy_seconds: float) -> int | None:
    """Make what is missing, take the lock if we serve, bring the schema up to date. Returns the lock's descriptor."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as undo:
        lock = _take_lock(path) if serving else None
        if lock is not None:
            undo.callback(os.close, lock)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # -wal and -shm get the same mode
        with contextlib.closing(_open_file(path, busy_seconds, reading=False)) as database:
            version = schema_version(database, path)
            if version < len(STEPS):
                # A command must not change the schema under a server of an older version; an empty one has no server.
                guard = _take_lock(path) if version and not serving else None
                try:
                    migrate(database, path)
                finally:
                    if guard is not None:
                        os.close(guard)
        undo.pop_all()
    return lock


def _take_lock(path: Path) -> int:
    """Lock the file beside the database; the system lets go of it when the process ends, however it ends."""
    name = Path(f"{path}.lock")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0 and path.exists():  # a command of root must not keep out the server, which runs as another
        owner = path.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_LOCK_PAUSE)
        else:
            return descriptor
    os.close(descriptor)
    raise StoreError(f"{name}: another process serves this database")
