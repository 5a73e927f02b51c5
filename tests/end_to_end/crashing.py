"""Servers that kill themselves at a chosen step; forked.py runs this as a program of its own.

The program imports cmpd once and then forks a server for each line that it reads, so that a start costs some 30 ms. A
server runs what `cmpd serve` runs; one that is to die gets its store, its CA key, its transports and its way to files
wrapped here: when the point is reached for the n-th time, the process sends itself SIGKILL. Nothing in cmpd knows of
it. An operator's command can be run, and die, in the same way.

A line is JSON: {"config": PATH, "log": PATH, "command": arguments of cmpd or null to serve, "point": POINT or null,
"occurrence": N, "broken": whether the CA key signs nothing, "journal": PATH, "crls": PATH}. The answers are {"pid": N}
when the process was forked and {"exit": N} when it ended (negative: killed by that signal). Every signature that the
CA key makes is in the journal, and every CRL in the other one, in hex, before anybody else has it.
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

import cmpd.signing.file
import cmpd.store.queries
import cmpd.store.sealing
import cmpd.store.sqlite
from cmpd import daemon, doors
from cmpd.asn1 import der
from cmpd.changes import (
    AddCrl,
    AddIntent,
    AddResponse,
    AddServiceCertificate,
    AddWaiting,
    Change,
    MoveCertificate,
    PublishCrl,
    SignServiceCertificate,
)
from cmpd.cli import cmpd as command_line
from cmpd.cli import entity
from cmpd.config import load
from cmpd.protection.base import Offload
from cmpd.signing.base import SigningKey
from cmpd.store.base import Store
from cmpd.transport.tcp import TcpServer
from cmpd.transport.tcp_connection import Connection

SCRYPT_N = 16
ITERATIONS = 1000
"""What guessing the passphrase costs; here it would only cost time."""

UNTOUCHED = ("before claim", "inside claim")
CLAIMED = ("after claim", "before sign", "after sign", "before finish", "inside finish")
RECORDED = ("after finish", "before answer", "within answer", "after answer")
"""Points by what the database holds then. "inside": all is written but the COMMIT; "within": half of the
answer's octets have left."""

FINISHING = ("before finish", "inside finish", *RECORDED)
"""The points of a request that needs no claim: nothing is recorded at the first two, all is from the third on."""

WAITING = ("before wait", "inside wait", "after wait", "before answer", "within answer", "after answer")
"""The points of a request that has to wait for an operator: it is on record from the third on."""

RECOVERY = "inside recovery"

CHANGING = ("before change", "inside change", "after change")
"""The points of a change of status that nobody gets an answer to: by an operator, or by the time."""

PUBLISHING = (
    "before number",
    "inside number",
    "after number",
    "before crl",
    "after crl",
    "before delta",
    "after delta",
    "within delta file",
    "within crl file",
    "before delta file",
    "after delta file",
    "before crl file",
    "after crl file",
    "before publication",
    "inside publication",
    "after publication",
)
"""The points of a full and a delta CRL in their order: their number is taken, they are signed, written ("within": half
of the octets are there), renamed into place, and recorded to be out."""

MAKING_SIGNER = (
    "before signer intent",
    "inside signer intent",
    "after signer intent",
    "before signer",
    "after signer",
    "before signer record",
    "inside signer record",
    "after signer record",
    "within signer file",
    "before signer file",
    "after signer file",
)
"""The points of the making of the OCSP responder's certificate in their order."""


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


UNITS: Final[dict[type[Change], str]] = {
    AddWaiting: "wait",
    AddIntent: "claim",
    AddResponse: "finish",
    MoveCertificate: "change",
    AddCrl: "number",
    PublishCrl: "publication",
}
"""The name of the unit that has a change of this type; the first one counts."""


def unit(changes: Sequence[Change]) -> str:
    """The name of the unit that these changes are."""
    kinds = {type(change) for change in changes}
    if kinds == {AddServiceCertificate}:
        return "signer intent"
    if kinds == {SignServiceCertificate}:
        return "signer record"
    return next((name for kind, name in UNITS.items() if kind in kinds), "other")


NO_CHECK: Final = der.encode_oid("1.3.6.1.5.5.7.48.1.5")
DELTA_CRL_INDICATOR: Final = der.encode_oid("2.5.29.27")


def signed(tbs: bytes) -> str:
    """The name of what the CA key signs: a certificate, the OCSP responder's, a full or a delta CRL."""
    start, stop = der.expect(tbs, 0, len(tbs), der.SEQUENCE, "to be signed")
    if der.children(tbs, start, stop, 20)[0][0] == der.INTEGER:  # a TBSCertificate begins with [0]
        return "delta" if DELTA_CRL_INDICATOR in tbs else "crl"
    return "signer" if NO_CHECK in tbs else "sign"


# --- what is wrapped --------------------------------------------------------------------------------------------------


class DyingStore:
    """A store that may die around a write."""

    def __init__(self, inner: Store, bomb: Bomb) -> None:
        self._inner = inner
        self._bomb = bomb

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, changes: Sequence[Change], **options: Any) -> None:
        self._bomb.reach(f"before {unit(changes)}")
        await self._inner.write(changes, **options)
        self._bomb.reach(f"after {unit(changes)}")


class DyingTransaction:
    """Told of each statement before SQLite runs it; may die when all is done but the COMMIT."""

    STATEMENTS: Final = {
        "INSERT INTO waiting_request": "wait",
        "INSERT INTO certificate": "claim",
        "INSERT INTO response": "finish",
        "INSERT INTO status_change": "change",
        "INSERT INTO crl ": "number",
        "UPDATE crl ": "publication",
        "INSERT INTO service_certificate": "signer intent",
        "UPDATE service_certificate": "signer record",
    }

    def __init__(self, bomb: Bomb) -> None:
        self._bomb = bomb
        self._units: set[str] = set()

    def __call__(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self._units.clear()
        self._units.update(unit for start, unit in self.STATEMENTS.items() if statement.startswith(start))
        if statement.startswith("COMMIT"):
            for name in sorted(self._units):
                self._bomb.reach(f"inside {name}")


class DyingKey:
    """A CA key that may die around a signature, and that keeps a journal of its signatures and one of its CRLs."""

    def __init__(self, inner: SigningKey, bomb: Bomb, journal: Path, crls: Path, broken: bool) -> None:
        self.algorithm = inner.algorithm
        self.public_key_info = inner.public_key_info
        self._inner = inner
        self._bomb = bomb
        self._journal = journal
        self._crls = crls
        self._broken = broken

    async def sign(self, octets: bytes) -> bytes:
        name = signed(octets)
        self._bomb.reach(f"before {name}")
        if self._broken:
            raise OSError("the home of the key does not answer")
        signature = await self._inner.sign(octets)
        with self._journal.open("a") as file:
            file.write(signature.hex() + "\n")
        if name in ("crl", "delta"):
            with self._crls.open("a") as file:
                file.write(der.seq(octets, self.algorithm, der.encode_bits(signature)).hex() + "\n")
        self._bomb.reach(f"after {name}")
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


FILES: Final = {"ca.crl": "crl file", "delta.crl": "delta file", "ocsp.pem": "signer file"}


def wrap_files(bomb: Bomb) -> None:
    """Let the process die while it writes a file, around which there is one rename."""
    replace, fsync = Path.replace, os.fsync

    def replace_and_die(self: Path, target: Path) -> Path:
        name = FILES.get(target.name, "other file")
        bomb.reach(f"before {name}")
        replaced = replace(self, target)
        bomb.reach(f"after {name}")
        return replaced

    def die_or_fsync(descriptor: int) -> None:
        draft = Path(f"/proc/self/fd/{descriptor}").readlink().name
        for file, name in FILES.items():
            if draft.startswith(f".{file}.") and bomb.due(f"within {name}"):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                die()
        fsync(descriptor)

    Path.replace = replace_and_die
    os.fsync = die_or_fsync


def wrap(bomb: Bomb, ca_key: Path, order: dict[str, Any]) -> None:
    """Put the wrapped parts where the daemon and the commands take their parts from."""
    journal, crls, broken = Path(order["journal"]), Path(order["crls"]), order["broken"]
    open_store, load_key = daemon.open_store, daemon.load_key
    open_file, recover = cmpd.store.sqlite._open_file, cmpd.store.queries.recover

    async def open_dying(path: Path, *, serving: bool) -> Any:
        return DyingStore(await open_store(path, serving=serving), bomb)

    def load_dying(
        path: Path,
        passphrase: bytes,
        certificate: bytes,
        *,
        offload: Offload | None = None,
        signature: str | None = None,
    ) -> Any:
        key = load_key(path, passphrase, certificate, offload=offload, signature=signature)
        return DyingKey(key, bomb, journal, crls, broken) if path == ca_key else key

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

    wrap_files(bomb)
    daemon.open_store = open_dying
    entity.open_store = open_dying
    daemon.load_key = load_dying
    doors.TcpServer = DyingServer
    cmpd.store.sqlite._open_file = open_dying_file
    cmpd.store.queries.recover = recover_and_die


# --- the program ------------------------------------------------------------------------------------------------------


def serve(order: dict[str, Any]) -> NoReturn:
    """Be a server, or run a command, until the end of the process."""
    code = 70
    try:
        with Path(order["log"]).open("w") as log, Path(os.devnull).open() as null:
            os.dup2(null.fileno(), 0)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        config = load(Path(order["config"]))
        if order["point"] is not None:
            bomb = Bomb(order["point"], order["occurrence"])
            wrap(bomb, config.ca.key, order)
        code = daemon.run(config) if order["command"] is None else command_line.main(order["command"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    cmpd.store.sealing.SCRYPT["n"] = SCRYPT_N
    cmpd.signing.file._ITERATIONS = ITERATIONS
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
