"""A small server in the place of cmpd, to try the units alone: each line that it is sent is a command.

It uses what cmpd uses and what hardening could break: uvloop, cryptography (cffi), SQLite below the state directory, a
thread, the credential, and cmpd.notify for everything that it says to systemd.
"""

import asyncio
import hashlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd import notify


def sign() -> str:
    return ec.generate_private_key(ec.SECP256R1()).sign(b"", ec.ECDSA(hashes.SHA256())).hex()


def store() -> str:
    with sqlite3.connect(Path(os.environ["STATE_DIRECTORY"]) / "standin.db") as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE IF NOT EXISTS pid (pid INTEGER)")
        db.execute("INSERT INTO pid VALUES (?)", (os.getpid(),))
        return str(db.execute("SELECT count(*) FROM pid").fetchone()[0])


def credential_digest(passphrase: bytes) -> str:
    return hashlib.sha256(passphrase).hexdigest()


def credential() -> str:
    return credential_digest((Path(os.environ["CREDENTIALS_DIRECTORY"]) / "passphrase").read_bytes())


COMMANDS: dict[str, Callable[[], object]] = {
    "pid": lambda: str(os.getpid()),
    "sign": sign,
    "store": store,
    "credential": credential,
    "hang": lambda: time.sleep(60),
}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := (await reader.readline()).decode().strip():
        if line == "slow":
            await asyncio.sleep(0.5)
        result = await asyncio.to_thread(sign) if line == "slow" else COMMANDS[line]()
        writer.write(f"{result}\n".encode())
        await writer.drain()
        if STOP.is_set():
            break
    writer.close()


STOP = asyncio.Event()


async def serve() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, STOP.set)
    [(name, sock)] = notify.take_sockets()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, sock=sock)
    interval = notify.watchdog_interval()
    assert name == "tcp"
    assert interval
    notify.notify(notify.READY, "STATUS=ready")
    while not STOP.is_set():
        notify.notify(notify.WATCHDOG)
        try:
            await asyncio.wait_for(STOP.wait(), interval / 2)
        except TimeoutError:
            continue
    notify.notify(notify.STOPPING)
    server.close()
    if tasks:
        await asyncio.wait(tasks, timeout=5)


def main() -> None:
    uvloop.run(serve())
