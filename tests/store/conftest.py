"""The stores that keep the promise; each test of the contract runs on all of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from cmpd.store.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = (
        MemoryStore() if request.param == "memory" else await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    )
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    yield opened
    await opened.close()
