"""Every asynchronous test runs on asyncio's loop and on uvloop; in CI (CI=true) a skipped test is a failed test.

A test that takes `store` runs with the records in memory, and with those in SQLite.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
import uvloop

from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from cmpd.store.sqlite import SqliteStore

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

IN_CI = os.environ.get("CI") == "true"

# A shared or busy machine must not fail a property by the clock; pytest's time limit stays. CI draws the same examples
# each time, everybody else new ones.
hypothesis.settings.register_profile(
    "cmpd", deadline=None, derandomize=IN_CI, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("cmpd")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore()
    if request.param == "sqlite":
        made = await SqliteStore.open(tmp_path / "ca.db", serving=True)
    yield made
    await made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _no_skip_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _no_skip_in_ci((yield))


def _no_skip_in_ci(report: Report) -> Report:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped, and in CI nothing may be: {reason}"
    return report
