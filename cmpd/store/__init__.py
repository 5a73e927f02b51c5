"""Durable records: base.py is the promise, STORES the table of what keeps it, one file per database.

memory.py keeps it too, for tests, and says it in plain Python.
"""

import fcntl
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from cmpd.errors import ConfigError, StoreError
from cmpd.store.base import Store
from cmpd.store.sqlite import SqliteStore


class _Open(Protocol):
    def __call__(self, path: Path, *, serving: bool) -> Awaitable[Store]: ...


STORES: dict[str, _Open] = {
    "sqlite": SqliteStore.open,
}


async def open_store(path: Path, *, serving: bool, kind: str = "sqlite") -> Store:
    """Open (or create) the database at `path`. `serving`: as the one process that serves it, which holds its lock.

    StoreError if it cannot be used; the text names the file.
    """
    if kind not in STORES:
        raise ConfigError(f"store: want one of {', '.join(STORES)}, found {kind}")
    return await STORES[kind](path, serving=serving)


def is_served(path: Path) -> bool:
    """Whether a process serves the database at `path` now (it holds the lock beside it). StoreError if not readable."""
    name = Path(f"{path}.lock")
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{name}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who only ask do not see each other
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
