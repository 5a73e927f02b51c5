"""Group commit on one SQLite connection: what arrives while a COMMIT runs goes into the next one.

Callers queue units and sleep; one task takes what has gathered (at most `max_batch`) and has it written by ONE function
on the connection's thread: BEGIN IMMEDIATE, all units in bulk (bulk.py), COMMIT. If that meets a conflict it is undone
and each unit is applied in a SAVEPOINT of its own, so that a unit that conflicts is undone alone. If
the transaction as a whole fails (disk full, another process holds the lock for too long), all its units get StoreError
and the next batch is tried as if nothing had happened, on a new connection if the old one is beyond repair.

The generation is counted here, because only here "nobody changed anything before this commit" can be told: BEGIN
IMMEDIATE keeps other processes from writing, and PRAGMA data_version says whether one has written since the last look.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiosqlite

from cmpd.changes import Change
from cmpd.errors import StaleRead, StoreError
from cmpd.store.base import Staleness
from cmpd.store.bulk import apply_batch

_log = logging.getLogger("cmpd.store")

P = ParamSpec("P")
T = TypeVar("T")


class Connection(aiosqlite.Connection):
    """aiosqlite's connection with one more call: run a whole function on its thread.

    aiosqlite offers a call (and a hop to its thread and back) for each statement only; all of them are made of the
    protected `_execute`, which queues a function. A batch through the public calls costs two more hops and leaves the
    event loop between BEGIN and COMMIT.
    """

    async def run(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `function(connection, ...)` on the thread; what it raises is raised here."""
        execute: Callable[..., Awaitable[T]] = self._execute
        return await execute(function, self._conn, *args, **kwargs)


@dataclass(frozen=True, slots=True)
class Unit:
    """One waiting unit: `apply` does it on a cursor and returns what its caller gets.

    `changes`: what `apply` would do, if that is all it does and returns nothing; they may be applied in bulk instead.
    `ended`: the certificates that are trusted no more after it; `ends_all`: any decision may be wrong after it.
    """

    apply: Callable[[sqlite3.Cursor], Any]
    changes: Sequence[Change] | None
    as_of: int | None
    rests_on: Collection[bytes] | None
    ended: Collection[bytes]
    ends_all: bool
    done: asyncio.Future[Any]


Outcome = tuple[Any, Exception | None]  # what a unit returned, or why it was undone
_NOTHING: Outcome = (None, None)

_MOST_TURNS = 16
_MOST_FOREIGN = 1_000
_CHANGES = "SELECT (SELECT count FROM entity_changes), (SELECT coalesce(max(id), 0) FROM status_change)"  # O(1) both


def as_store_error(error: Exception) -> Exception:
    """SQLite's errors as StoreError; what is raised on purpose, or is a mistake of ours, as it is."""
    if not isinstance(error, sqlite3.Error):
        return error
    wrapped = StoreError(f"SQLite: {error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})")
    wrapped.__cause__ = error
    return wrapped


class GroupCommit:
    """The only writer of this process. `connect` opens its connection.

    At most `max_waiting` units wait or are being written; who comes then waits before it queues.
    `commits` and `units` count what was written since the start.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], *, max_waiting: int = 1024, max_batch: int = 128
    ) -> None:
        self.generation = 0
        self.commits = 0
        self.units = 0
        self._connect = connect
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._in_hand = 0
        self._room = asyncio.Event()
        self._waiting: deque[Unit] = deque()
        self._arrived = asyncio.Event()
        self._callers = 0
        self._closing = False
        self._drained = asyncio.Event()
        self._staleness = Staleness()
        self._seen = (0, 0)  # what _CHANGES was
        self._data_version: int | None = None  # None: not looked yet, so anything may have changed
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the connection and start to write. sqlite3.Error or StoreError if it cannot be opened."""
        self._connection = await self._connect()
        await self._connection.run(self._look)
        self._task = asyncio.create_task(self._work(), name="cmpd store writer")

    async def write(
        self,
        apply: Callable[[sqlite3.Cursor], T],
        *,
        changes: Sequence[Change] | None = None,
        as_of: int | None = None,
        rests_on: Collection[bytes] | None = None,
        ended: Collection[bytes] = (),
        ends_all: bool = False,
    ) -> T:
        """Have `apply` done in a unit of its own; returns its result when that is durable."""
        if self._closing:
            raise StoreError("the store is closed")
        self._callers += 1
        try:
            while self._in_hand >= self._max_waiting:
                self._room.clear()
                await self._room.wait()
            done = asyncio.get_running_loop().create_future()
            unit = Unit(apply, changes, as_of, rests_on, ended, ends_all, done)
            self._in_hand += 1
            self._waiting.append(unit)
            self._arrived.set()
            try:
                result: T = await unit.done
            finally:
                self._in_hand -= 1
                self._room.set()
            return result
        finally:
            self._callers -= 1
            if self._closing and not self._callers:
                self._drained.set()

    async def refresh(self) -> int:
        """Look whether another process has written; returns the generation."""
        if self._closing or self._connection is None:
            raise StoreError("the store is closed")
        try:
            await self._connection.run(self._look)
        except (sqlite3.Error, ValueError) as error:  # ValueError: aiosqlite, closed
            raise StoreError(f"SQLite: {error}") from error
        return self.generation

    async def close(self) -> None:
        """Write what is queued, then close the connection."""
        self._closing = True
        if self._task is not None:
            if self._callers:
                await self._drained.wait()
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    # --- on the event loop -------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            await self._gather()
            batch = self._take()
            if batch:
                await self._write_batch(batch)

    async def _gather(self) -> None:
        """As long as each turn of the loop brings more units, wait for the next: a commit costs as much as several."""
        for _ in range(_MOST_TURNS):
            have = len(self._waiting)
            if have >= self._max_batch:
                return
            await asyncio.sleep(0)
            if len(self._waiting) == have:
                return

    def _take(self) -> list[Unit]:
        batch: list[Unit] = []
        while self._waiting and len(batch) < self._max_batch:
            unit = self._waiting.popleft()
            if not unit.done.cancelled():  # its caller has given up, and nothing of it is written yet
                batch.append(unit)
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _write_batch(self, batch: list[Unit]) -> None:
        try:
            if self._connection is None:
                self._connection = await self._connect()
            outcomes = await self._connection.run(self._commit, batch)
        except Exception as error:
            for unit in batch:
                if not unit.done.done():
                    failure = StoreError(str(as_store_error(error)))  # one for each: their tracebacks would mix
                    failure.__cause__ = error
                    unit.done.set_exception(failure)
            await self._repair()
            return
        self.commits += 1
        for unit, (result, failed) in zip(batch, outcomes, strict=True):
            if unit.done.done():  # cancelled meanwhile
                continue
            if failed is None:
                self.units += 1
                unit.done.set_result(result)
            else:
                unit.done.set_exception(failed)

    async def _repair(self) -> None:
        """After a failed batch: make sure that the next one finds a connection that works."""
        try:
            if self._connection is not None:
                await self._connection.run(_check)
        except Exception:
            connection, self._connection = self._connection, None
            self._data_version = None  # of that connection alone
            if connection is not None:
                with contextlib.suppress(Exception):
                    await connection.close()

    # --- on the connection's thread ----------------------------------------------------------------------------------

    def _look(self, database: sqlite3.Connection) -> None:
        """Notice what other processes have written: whose trust ended, or that entities have changed."""
        (version,) = database.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return
        (entities, last), generation = database.execute(_CHANGES).fetchone(), self.generation + 1
        rows = database.execute("SELECT serial FROM status_change WHERE id > ?", (self._seen[1],))
        serials = [serial for (serial,) in rows.fetchmany(_MOST_FOREIGN + 1)]
        if self._data_version is None or entities != self._seen[0] or len(serials) > _MOST_FOREIGN:
            self._staleness.everything(generation)
        else:
            self._staleness.ended(serials, generation)
        self._seen, self._data_version = (entities, last), version
        # Last: what was read under this number saw all that is told by it, though others go on writing meanwhile.
        self.generation = generation

    def _commit(self, database: sqlite3.Connection, batch: list[Unit]) -> list[Outcome]:
        cursor, seen = database.cursor(), self._seen
        try:
            cursor.execute("BEGIN IMMEDIATE")
            self._look(database)
            seen = self._seen
            # What this batch changes must not count before it can be read: else a caller could see the new number, read
            # the old records, and be believed.
            generation = self.generation
            ended = Staleness()
            if self._apply_in_bulk(database, cursor, batch):
                outcomes = [_NOTHING] * len(batch)
            else:
                outcomes, generation = self._apply_one_by_one(database, cursor, batch, ended)
            cursor.execute("COMMIT")
        except BaseException:
            self._seen = seen  # our own changes are undone
            raise
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")
        self.generation = generation
        self._staleness.add(ended)
        return outcomes

    def _apply_in_bulk(self, database: sqlite3.Connection, cursor: sqlite3.Cursor, batch: list[Unit]) -> bool:
        """Apply the batch by types of change if it allows that and nothing conflicts; otherwise leave no trace."""
        for unit in batch:
            if unit.changes is None or unit.ended or unit.ends_all or _is_stale(unit, self.generation, self._staleness):
                return False
        cursor.execute("SAVEPOINT batch")
        try:
            if apply_batch(cursor, (unit.changes for unit in batch if unit.changes is not None)):
                return True
        except Exception:  # whichever unit it was, it meets its fault again when they are applied one by one
            _log.debug("a batch is applied one by one", exc_info=True)
        if database.in_transaction:
            cursor.execute("ROLLBACK TO batch")
            return False
        raise sqlite3.OperationalError("SQLite gave up the transaction")

    def _apply_one_by_one(
        self, database: sqlite3.Connection, cursor: sqlite3.Cursor, batch: list[Unit], ended: Staleness
    ) -> tuple[list[Outcome], int]:
        """Each unit in a SAVEPOINT of its own: (what became of each, the generation after them).

        `ended` takes what they made stale: it holds for those that follow, and for all once they are committed.
        """
        outcomes: list[Outcome] = []
        generation = self.generation
        for unit in batch:
            if _is_stale(unit, generation, self._staleness) or _is_stale(unit, generation, ended):
                outcomes.append((None, StaleRead("entities or certificates have changed meanwhile")))
                continue
            outcome = _apply(database, cursor, unit)
            outcomes.append(outcome)
            if outcome[1] is not None:
                continue
            if unit.ended or unit.ends_all:
                generation += 1
            if unit.ended:
                ended.ended(unit.ended, generation)
            if unit.ends_all:
                ended.everything(generation)
        self._seen = database.execute(_CHANGES).fetchone()  # ours are told by `ended`
        return outcomes, generation


def _is_stale(unit: Unit, generation: int, staleness: Staleness) -> bool:
    return unit.as_of is not None and staleness.is_stale(unit.as_of, generation, unit.rests_on)


def _apply(database: sqlite3.Connection, cursor: sqlite3.Cursor, unit: Unit) -> Outcome:
    cursor.execute("SAVEPOINT unit")
    try:
        result = unit.apply(cursor)
    except Exception as error:
        if not database.in_transaction:
            raise  # SQLite gave up the whole transaction (disk full, I/O error), not this statement alone
        cursor.execute("ROLLBACK TO unit")
        cursor.execute("RELEASE unit")
        return None, as_store_error(error)
    cursor.execute("RELEASE unit")
    return result, None


def _check(database: sqlite3.Connection) -> None:
    if database.in_transaction:
        database.execute("ROLLBACK")
    database.execute("SELECT 1 FROM sqlite_schema").fetchone()
