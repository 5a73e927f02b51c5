"""Servers that kill themselves at a chosen step; test_crash.py runs this as a program of its own.

The program imports cmpd once and then forks a server for each line that it reads, so that a start costs some 30 ms. A
server runs what `cmpd serve` runs; one that is to die gets its store, its CA key and its transports wrapped here: when
the point is reached for the n-th time, the process sends itself SIGKILL. Nothing in cmpd knows of it.

A line is JSON: {"config": PATH, "log": PATH, "point": POINT or null, "occurrence": N, "broken": whether the CA key
signs nothing, "journal": PATH}. The answers are {"pid": N} when the server was forked and {"exit": N} when it ended
(negative: killed by that signal). Every signature that the CA key makes is in the journal, in hex, before anybody else
has it.
"""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import cmpd.store.queries
import cmpd.store.sealing
import cmpd.store.sqlite
from cmpd import daemon
from cmpd.config import load
from cmpd.protection.base import Offload
from cmpd.records import AddIntent, AddResponse, Change
from cmpd.signing.base import SigningKey
from cmpd.store.base import Store
from cmpd.transport.tcp import TcpServer
from cmpd.transport.tcp_connection import Connection

SCRYPT_N = 16
"""What guessing the passphrase costs; here it would only cost time."""

UNTOUCHED = ("before claim", "inside claim")
CLAIMED = ("after claim", "before sign", "after sign", "before finish", "inside finish")
RECORDED = ("after finish", "before answer", "within answer", "after answer")
"""Points by what the database holds then. "inside": all is written but the COMMIT; "within": half of the
answer's octets have left."""

RECOVERY = "inside recovery"


class Bomb:
    """Kills this process when `point` is reached for the n-th time."""

    def __init__(self, point: str, occurrence: int) -> None:
        self.point = point
        self.left = occurrence

    def due(self, point: str) -> bool:
        self.left -= point == self.point
        return point == self.point and self.left == 0

    def reach(self, point: str) -> None:
        if self.due(point):
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def unit(changes: Sequence[Change]) -> str:
    """The name of the unit that these changes are: the claim of a transaction, or its finish with the answer."""
    kinds = {type(change) for change in changes}
    return "claim" if AddIntent in kinds else "finish" if AddResponse in kinds else "other"


# --- what is wrapped --------------------------------------------------------------------------------------------------


class DyingStore:
    """A store that may die around a write."""

    def __init__(self, inner: Store, bomb: Bomb) -> None:
        self._inner = inner
        self._bomb = bomb

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, changes: Sequence[Change], *, as_of: int | None = None) -> None:
        self._bomb.reach(f"before {unit(changes)}")
        await self._inner.write(changes, as_of=as_of)
        self._bomb.reach(f"after {unit(changes)}")


class DyingTransaction:
    """Told of each statement before SQLite runs it; may die when all is done but the COMMIT."""

    INSERTS: Final = {"INSERT INTO certificate": "claim", "INSERT INTO response": "finish"}

    def __init__(self, bomb: Bomb) -> None:
        self._bomb = bomb
        self._units: set[str] = set()

    def __call__(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self._units.clear()
        self._units.update(unit for start, unit in self.INSERTS.items() if statement.startswith(start))
        if statement.startswith("COMMIT"):
            for name in sorted(self._units):
                self._bomb.reach(f"inside {name}")


class DyingKey:
    """A CA key that may die around a signature, and that keeps a journal of its signatures."""

    def __init__(self, inner: SigningKey, bomb: Bomb, journal: Path, broken: bool) -> None:
        self.algorithm = inner.algorithm
        self.public_key_info = inner.public_key_info
        self._inner = inner
        self._bomb = bomb
        self._journal = journal
        self._broken = broken

    async def sign(self, octets: bytes) -> bytes:
        self._bomb.reach("before sign")
        if self._broken:
            raise OSError("the home of the key does not answer")
        signature = await self._inner.sign(octets)
        with self._journal.open("a") as file:
            file.write(signature.hex() + "\n")
        self._bomb.reach("after sign")
        return signature


class DyingTransport:
    """A transport that may die around an answer."""

    def __init__(self, inner: asyncio.Transport, bomb: Bomb) -> None:
        self._inner = inner
        self._bomb = bomb

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, octets: bytes) -> None:
        self._bomb.reach("before answer")
        within = self._bomb.due("within answer")
        self._inner.write(octets[: len(octets) // 2] if within else octets)
        if within or self._bomb.due("after answer"):
            self._die_when_sent()

    def _die_when_sent(self) -> None:
        if not self._inner.get_write_buffer_size():
            die()
        asyncio.get_running_loop().call_soon(self._die_when_sent)


def wrap(bomb: Bomb, ca_key: Path, journal: Path, broken: bool) -> None:
    """Put the wrapped parts where the daemon takes its parts from."""
    open_store, load_key = daemon.open_store, daemon.load_key
    open_file, recover = cmpd.store.sqlite._open_file, cmpd.store.queries.recover

    async def open_dying(path: Path, *, serving: bool) -> Any:
        return DyingStore(await open_store(path, serving=serving), bomb)

    def load_dying(path: Path, passphrase: bytes, certificate: bytes, *, offload: Offload | None = None) -> Any:
        key = load_key(path, passphrase, certificate, offload=offload)
        return DyingKey(key, bomb, journal, broken) if path == ca_key else key

    def open_dying_file(*arguments: Any, **options: Any) -> sqlite3.Connection:
        database = open_file(*arguments, **options)
        database.set_trace_callback(DyingTransaction(bomb))
        return database

    def recover_and_die(cursor: sqlite3.Cursor, at: int) -> int:
        abandoned = recover(cursor, at)
        bomb.reach(RECOVERY)
        return abandoned

    class DyingConnection(Connection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(DyingTransport(transport, bomb))

    class DyingServer(TcpServer):
        def _connect(self) -> Connection:
            return DyingConnection(self)

    daemon.open_store = open_dying
    daemon.load_key = load_dying
    daemon.TcpServer = DyingServer
    cmpd.store.sqlite._open_file = open_dying_file
    cmpd.store.queries.recover = recover_and_die


# --- the program ------------------------------------------------------------------------------------------------------


def serve(order: dict[str, Any]) -> NoReturn:
    """Be a server until the end of the process."""
    code = 70
    try:
        with Path(order["log"]).open("w") as log, Path(os.devnull).open() as null:
            os.dup2(null.fileno(), 0)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        config = load(Path(order["config"]))
        if order["point"] is not None:
            bomb = Bomb(order["point"], order["occurrence"])
            wrap(bomb, config.ca.key, Path(order["journal"]), order["broken"])
        code = daemon.run(config)
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    cmpd.store.sealing.SCRYPT["n"] = SCRYPT_N
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            serve(order)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
