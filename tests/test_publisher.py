"""When CRLs are issued, what is in them, and what is left of them after whatever has gone wrong."""

import asyncio
import errno
import itertools
import logging
import os
import shutil
import stat
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cmpd import publisher as publisher_module
from cmpd.ca import CertificateAuthority
from cmpd.changes import (
    AddCertificate,
    AddCrl,
    AddIntent,
    Change,
    MoveCertificate,
    OpenTransaction,
    OrderCrl,
    PublishCrl,
)
from cmpd.config_status import CrlConfig
from cmpd.crl import CrlEntries
from cmpd.crl_files import CrlFiles, FilesError
from cmpd.env import Env
from cmpd.errors import StoreError
from cmpd.publisher import Publisher, PublishError
from cmpd.records import (
    CertificateState,
    CrlRecord,
    RevokedCertificate,
)
from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from cmpd.store.sqlite import SqliteStore
from tests.crls import FRESHEST, SeenCrl, combined, read_crl
from tests.profiles.support import DAY, authority
from tests.store import samples
from tests.world import Clock

T = TypeVar("T")
URL = "http://pki.example.com"
ISSUED, CONFIRMED, SUSPENDED, REVOKED = (
    CertificateState.ISSUED,
    CertificateState.CONFIRMED,
    CertificateState.SUSPENDED,
    CertificateState.REVOKED,
)


async def on_a_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


async def at_once(work: Callable[[], T]) -> T:
    return work()


class World:
    """A store with certificates, a clock, a directory, and publishers over them: `restart` makes a new one."""

    def __init__(self, directory: Path | None, store: Store | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.clock.now = float(samples.NOW)
        self.store = store or MemoryStore()
        self.ca: CertificateAuthority = authority("p256")
        self.directory = directory
        self.options = options
        self.offload: Callable[[Callable[[], Any]], Awaitable[Any]] = at_once
        self.base_url: str | None = URL
        self.states: dict[bytes, CertificateState] = {}
        self.orders = 0
        self.publisher = self.restart()

    @property
    def has_scope(self) -> bool:
        return bool(self.options.get("issuing_distribution_point", True))

    def restart(self, **options: Any) -> Publisher:
        self.options |= options
        config = CrlConfig(
            **{"directory": self.directory, "interval": DAY, "overlap": DAY, "gather": 1, "backdate": 0} | self.options
        )
        env = Env(now=self.clock, random=os.urandom)
        self.publisher = Publisher(
            self.store, self.ca, env, config, base_url=self.base_url, offload=lambda work: self.offload(work)
        )
        return self.publisher

    async def certificates(self, count: int, *, not_after: int | None = None) -> list[bytes]:
        """Serial numbers of new, confirmed certificates."""
        owner = await self.store.find_entity("device-1") or await self.store.add_entity(samples.entity())
        end = samples.NOW + 100 * DAY if not_after is None else not_after
        serials = []
        for number in range(len(self.states) + 1, len(self.states) + 1 + count):
            intent = samples.intent(number, owner, not_after=end, serial=b"\x40" + samples.octets(number, 13))
            await self.store.write(
                [
                    OpenTransaction(samples.transaction(number, owner)),
                    AddIntent(intent),
                    AddCertificate(intent.serial, b"certificate", CONFIRMED, samples.NOW),
                ]
            )
            serials.append(intent.serial)
        self.states |= dict.fromkeys(serials, CONFIRMED)
        return serials

    async def move(self, serial: bytes, state: CertificateState, reason: str | None = None, **fields: Any) -> None:
        expected, self.states[serial] = self.states[serial], state
        change = MoveCertificate(serial, expected, state, int(self.clock.now), reason, "test", **fields)
        await self.store.write([change])

    async def revoke(self, *serials: bytes, reason: str | None = "keyCompromise") -> None:
        for serial in serials:
            await self.move(serial, REVOKED, reason)

    async def suspend(self, serial: bytes) -> None:
        await self.move(serial, SUSPENDED, "certificateHold")

    async def resume(self, serial: bytes) -> None:
        await self.move(serial, CONFIRMED)

    async def order(self) -> None:
        self.orders += 1
        await self.store.write([OrderCrl(int(self.clock.now), "operator")])

    async def tick(self, seconds: float = 0) -> int:
        """Let time pass, then look once; the number of the newest CRL."""
        self.clock.now += seconds
        await self.publisher.tick()
        assert self.publisher.record is not None
        return self.publisher.record.number

    @property
    def full(self) -> SeenCrl:
        assert self.publisher.full is not None
        return self._seen(self.publisher.full)

    @property
    def delta(self) -> SeenCrl:
        assert self.publisher.delta is not None
        return self._seen(self.publisher.delta)

    def _seen(self, octets: bytes) -> SeenCrl:
        seen, record = read_crl(octets, self.ca, has_scope=self.has_scope), self.publisher.record
        assert record is not None
        assert (seen.number, seen.this_update, seen.next_update) == (
            record.number,
            record.this_update,
            record.next_update,
        )
        return seen

    def file(self, name: str = "ca.crl") -> SeenCrl:
        assert self.directory is not None
        return read_crl((self.directory / name).read_bytes(), self.ca, has_scope=self.has_scope)

    def check_files(self) -> None:
        """The files are what the publisher shows, and there is nothing else."""
        assert self.directory is not None
        wanted = {"ca.crl": self.publisher.full, "delta.crl": self.publisher.delta}
        found = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        assert found == {name: octets for name, octets in wanted.items() if octets is not None}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "crl")


class RefusingStore(MemoryStore):
    """Refuses to write changes of one type, before or after it has written them."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: type[Change] | None = None
        self.is_written = False

    async def write(self, changes: Sequence[Change], **options: Any) -> None:
        is_refused = any(type(change) is self.refused for change in changes)
        if not is_refused or self.is_written:
            await super().write(changes, **options)
        if is_refused:
            raise StoreError("the disk is gone")


# --- what is issued when ---------------------------------------------------------------------------------------------


async def test_the_first_crl_is_scheduled_and_its_delta_starts_from_itself_and_is_empty(world: World) -> None:
    [serial] = await world.certificates(1)
    await world.revoke(serial)
    await world.publisher.start()
    assert (world.full.number, list(world.full.entries)) == (1, [serial])
    assert (world.delta.number, world.delta.base, world.delta.has_list) == (1, 1, False)
    assert FRESHEST in world.full.extensions
    assert (world.full.this_update, world.full.next_update) == (samples.NOW, samples.NOW + 2 * DAY)
    assert world.publisher.record == (await world.store.publication()).scheduled
    world.check_files()


async def test_files_are_for_everybody_whatever_the_umask(world: World) -> None:
    await world.publisher.start()
    before = os.umask(0o077)
    try:
        await world.publisher.issue(scheduled=False)
    finally:
        os.umask(before)
    assert world.directory is not None
    for path in world.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(world.directory.stat().st_mode) == 0o755


async def test_nothing_is_issued_while_nothing_has_changed(world: World) -> None:
    await world.publisher.start()
    assert [await world.tick(seconds) for seconds in (0, 1, 100, DAY - 102)] == [1] * 4


async def test_a_change_is_on_a_crl_at_once_and_on_a_delta_crl(world: World) -> None:
    one, two, three = await world.certificates(3)
    await world.publisher.start()
    first = world.full
    await world.revoke(one)
    await world.suspend(two)
    assert await world.tick(5) == 2
    assert world.full.reasons == world.delta.reasons == {one: 1, two: 6}
    assert (world.delta.base, world.delta.number) == (1, 2)
    assert world.full.extensions[FRESHEST][0] is False
    await world.resume(two)
    await world.revoke(three, reason=None)
    assert await world.tick(5) == 3
    assert world.full.reasons == {one: 1, three: None}
    assert world.delta.reasons == {one: 1, two: 8, three: None}
    assert combined(first, world.delta) == world.full.reasons
    world.check_files()


async def test_the_invalidity_date_of_a_change_is_published(world: World) -> None:
    [serial] = await world.certificates(1)
    await world.publisher.start()
    await world.move(serial, REVOKED, "keyCompromise", invalidity_date=samples.NOW - 1000)
    await world.tick(5)
    assert world.full.entries[serial].invalidity_date == samples.NOW - 1000
    world.restart()
    await world.publisher.issue(scheduled=False)  # from the rows
    assert world.full.entries[serial].invalidity_date == samples.NOW - 1000


async def test_changes_within_the_time_of_gathering_make_one_crl(world: World) -> None:
    serials = await world.certificates(5)
    world.restart(gather=10)
    await world.publisher.start()
    for serial in serials:
        await world.revoke(serial)
        assert await world.tick(1) == 1
    assert await world.tick(4.9) == 1
    assert await world.tick(0.2) == 2
    assert set(world.full.entries) == set(serials)
    assert await world.tick(20) == 2


async def test_without_gathering_each_change_makes_a_crl(world: World) -> None:
    serials = await world.certificates(3)
    world.restart(gather=0)
    await world.publisher.start()
    for number, serial in enumerate(serials):
        await world.revoke(serial)
        assert await world.tick() == 2 + number


async def test_an_order_is_fulfilled_once(world: World) -> None:
    await world.publisher.start()
    await world.order()
    await world.order()
    assert [await world.tick(5), await world.tick(5)] == [2, 2]
    latest = (await world.store.publication()).latest
    assert latest is not None
    assert (latest.number, latest.last_order, latest.scheduled) == (2, 2, False)
    assert (await world.publisher.issue(scheduled=False, order=7)).last_order == 7


async def test_the_schedule_is_kept_whatever_else_is_issued(world: World) -> None:
    [serial] = await world.certificates(1)
    await world.publisher.start()
    await world.revoke(serial)
    assert await world.tick(DAY / 2) == 2
    assert (world.delta.base, world.delta.reasons) == (1, {serial: 1})
    assert await world.tick(DAY / 2) == 3
    assert (world.delta.base, world.delta.reasons) == (1, {serial: 1})  # from the scheduled one before
    assert await world.tick(DAY) == 4
    assert (world.delta.base, world.delta.reasons) == (3, {})
    assert world.full.reasons == {serial: 1}
    assert await world.tick(5) == 4


async def test_an_entry_stays_until_one_scheduled_crl_after_the_certificates_end(world: World) -> None:
    end = samples.NOW + DAY // 2
    [dying] = await world.certificates(1, not_after=end)
    [living] = await world.certificates(1)
    await world.publisher.start()
    await world.revoke(dying, living)
    seen = []
    for _ in range(6):
        await world.tick(DAY / 4 - 2)
        await world.order()
        await world.tick(2)
        seen.append((world.full.this_update - samples.NOW, dying in world.full.entries))
        assert living in world.full.entries
    # The scheduled one after four quarters has it although it has expired, the next ones need not.
    assert seen == [(quarter * DAY // 4, quarter <= 4) for quarter in range(1, 7)]
    scheduled = (await world.store.publication()).scheduled
    assert scheduled is not None
    assert scheduled.this_update == samples.NOW + DAY


async def test_the_last_scheduled_crl_before_it_goes_has_an_expired_entry(world: World) -> None:
    [dying] = await world.certificates(1, not_after=samples.NOW + 10)
    await world.publisher.start()
    await world.revoke(dying)
    await world.tick(5)
    for restarted in (False, True):
        if restarted:
            world.restart()
        record = await world.publisher.issue(scheduled=False)
        assert dying in world.full.entries
        world.clock.now = float(record.this_update + 60)  # expired, on no scheduled CRL yet
    await world.publisher.issue(scheduled=True)
    assert dying in world.full.entries
    await world.publisher.issue(scheduled=False)
    assert dying not in world.full.entries


async def test_a_clock_set_back_gives_new_crls_and_loses_no_entry(world: World) -> None:
    [serial] = await world.certificates(1, not_after=samples.NOW + 10 * DAY)
    await world.revoke(serial)
    await world.publisher.start()
    for _ in range(3):
        await world.tick(20 * DAY)
    assert serial not in world.full.entries
    assert await world.tick(-60 * DAY) == 5
    assert world.full.reasons == {serial: 1}
    assert world.full.this_update == samples.NOW
    # the base must not be one from the future, which may lack entries
    assert (world.delta.number, world.delta.base, world.delta.has_list) == (5, 5, False)
    await world.order()
    assert await world.tick(5) == 6
    assert world.delta.base == 5


@pytest.mark.parametrize("is_scheduled", [False, True])
async def test_a_crl_of_a_clock_in_the_future_goes_when_the_clock_is_right(world: World, is_scheduled: bool) -> None:
    [serial] = await world.certificates(1)
    await world.publisher.start()
    await world.revoke(serial)
    assert await world.tick(DAY if is_scheduled else DAY / 2) == 2
    assert world.publisher.record is not None
    assert world.publisher.record.scheduled is is_scheduled
    assert await world.tick(-DAY / 4) == 3
    assert (world.full.this_update, world.full.reasons) == (int(world.clock.now), {serial: 1})
    assert world.delta.base == (3 if is_scheduled else 1)
    assert await world.tick(60) == 3


async def test_this_update_is_a_while_ago_and_the_schedule_counts_from_it(world: World) -> None:
    world.restart(backdate=300)
    [dying, living] = [*await world.certificates(1, not_after=samples.NOW + DAY - 400), *await world.certificates(1)]
    await world.publisher.start()
    assert (world.full.this_update, world.full.next_update) == (samples.NOW - 300, samples.NOW - 300 + 2 * DAY)
    await world.revoke(dying, living)
    assert await world.tick(5) == 2
    assert world.full.this_update == samples.NOW + 5 - 300
    assert [await world.tick(seconds) for seconds in (0, DAY - 300 - 5 - 1, 1)] == [2, 2, 3]
    assert world.publisher.record is not None
    assert world.publisher.record.scheduled
    # It has expired by now, but not at thisUpdate: it is on the next one too.
    assert await world.tick(DAY) == 4
    assert set(world.full.entries) == {dying, living}
    await held_against_rebuilt(world)
    assert await world.tick(DAY) == 5
    assert set(world.full.entries) == {living}


async def test_this_update_never_goes_back_unless_it_is_in_the_future(world: World) -> None:
    await world.publisher.start()
    world.restart(backdate=300)
    world.clock.now += 100
    await world.publisher.issue(scheduled=False)
    assert world.full.this_update == samples.NOW
    world.clock.now += 301
    await world.publisher.issue(scheduled=False)
    assert world.full.this_update == samples.NOW + 101
    world.clock.now -= 300  # set back by less than that: it is still in the past
    await world.publisher.issue(scheduled=False)
    assert world.full.this_update == samples.NOW + 101
    world.clock.now -= 1
    await world.publisher.issue(scheduled=False)
    assert world.full.this_update == samples.NOW + 100 - 300


async def test_a_short_interval_is_not_eaten_up_by_the_backdating(world: World) -> None:
    world.restart(backdate=3600, interval=60, overlap=0)
    await world.publisher.start()
    assert (world.full.this_update, world.full.next_update) == (samples.NOW - 30, samples.NOW + 30)
    assert [await world.tick(seconds) for seconds in (1, 28, 1)] == [1, 1, 2]


async def test_what_is_over_is_forgotten_with_a_scheduled_crl(world: World) -> None:
    await world.publisher.start()
    for _ in range(3):
        await world.order()
        await world.tick(5)
    assert isinstance(world.store, MemoryStore)
    tables = world.store._tables
    assert (list(tables.crls), list(tables.crl_orders)) == ([1, 2, 3, 4], [1, 2, 3])
    assert [await world.tick(DAY), await world.tick(DAY), await world.tick(DAY)] == [5, 6, 7]
    tables = world.store._tables
    assert (list(tables.crls), list(tables.crl_orders)) == ([5, 6, 7], [3])
    await world.order()
    assert await world.tick(5) == 8


async def test_records_that_cannot_be_forgotten_keep_no_crl_back(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(self: MemoryStore, ended_before: int) -> int:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(MemoryStore, "forget_crls", refuse)
    await world.publisher.start()
    assert world.full.number == 1
    assert "crl: what was recorded of old ones stays: the disk is gone" in caplog.messages


async def test_without_delta_crls_there_is_none_and_nobody_is_sent_there(world: World) -> None:
    [serial] = await world.certificates(1)
    await world.publisher.start()
    await world.revoke(serial)
    await world.tick(5)
    assert world.publisher.delta is not None
    world.restart(delta=False)
    await world.publisher.start()
    assert (world.full.number, world.publisher.delta) == (3, None)
    assert FRESHEST not in world.full.extensions
    world.check_files()


async def test_without_a_base_url_no_place_of_delta_crls_is_named(world: World) -> None:
    world.base_url = None
    world.restart()
    await world.publisher.issue(scheduled=True)
    await world.publisher.issue(scheduled=False)
    assert world.delta.base == 1
    assert FRESHEST not in world.full.extensions


async def test_without_a_directory_crls_are_in_memory_alone() -> None:
    world = World(None)
    [serial] = await world.certificates(1)
    await world.revoke(serial)
    await world.publisher.start()
    assert world.full.reasons == {serial: 1}
    world.restart()
    assert world.publisher.full is None
    await world.publisher.start()
    assert (world.full.number, world.delta.base, world.full.reasons) == (2, 1, {serial: 1})


async def test_a_large_crl_is_put_together_on_a_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "_LARGE", 2)
    threads: list[int] = []

    async def offload(work: Callable[[], T]) -> T:
        def noted() -> T:
            threads.append(threading.get_ident())
            return work()

        return await asyncio.to_thread(noted)

    world.offload = offload
    serials = await world.certificates(3)
    await world.publisher.start()
    await world.revoke(*serials[:2])
    await world.tick(5)
    few = len(threads)
    await world.revoke(serials[2])
    await world.tick(5)
    assert len(threads) == few + 3  # full, delta, files
    assert threading.get_ident() not in threads
    assert set(world.full.entries) == set(world.delta.entries) == set(serials)


# --- over restarts ---------------------------------------------------------------------------------------------------


async def test_a_restart_takes_up_the_crls_that_are_out(world: World) -> None:
    serials = await world.certificates(2)
    await world.publisher.start()
    await world.revoke(serials[0])
    await world.tick(5)
    before = world.publisher.full, world.publisher.delta, world.publisher.record
    world.restart()
    await world.publisher.start()
    assert (world.publisher.full, world.publisher.delta, world.publisher.record) == before
    assert await world.tick(5) == 2
    await world.revoke(serials[1])
    assert await world.tick(5) == 3
    assert set(world.full.entries) == set(world.delta.entries) == set(serials)


def _truncate(directory: Path, name: str) -> None:
    path = directory / name
    path.write_bytes(path.read_bytes()[:-1])


def _flip(directory: Path, name: str) -> None:
    path = directory / name
    octets = path.read_bytes()
    path.write_bytes(octets[:-1] + bytes((octets[-1] ^ 1,)))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "full missing": lambda directory: (directory / "ca.crl").unlink(),
    "delta missing": lambda directory: (directory / "delta.crl").unlink(),
    "full cut off": lambda directory: _truncate(directory, "ca.crl"),
    "delta cut off": lambda directory: _truncate(directory, "delta.crl"),
    "signature of full": lambda directory: _flip(directory, "ca.crl"),
    "signature of delta": lambda directory: _flip(directory, "delta.crl"),
    "delta as full": lambda directory: (directory / "ca.crl").write_bytes((directory / "delta.crl").read_bytes()),
    "full as delta": lambda directory: (directory / "delta.crl").write_bytes((directory / "ca.crl").read_bytes()),
    "empty": lambda directory: (directory / "ca.crl").write_bytes(b""),
    "a directory": lambda directory: ((directory / "ca.crl").unlink(), (directory / "ca.crl").mkdir())[0],
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_files_that_are_not_the_newest_crls_are_made_anew(world: World, kind: str) -> None:
    await world.publisher.start()
    await world.publisher.issue(scheduled=False)
    assert world.directory is not None
    DAMAGE[kind](world.directory)
    if kind == "a directory":
        (world.directory / "ca.crl").rmdir()
    world.restart()
    await world.publisher.start()
    assert world.full.number == 3
    world.check_files()


async def test_older_files_of_the_same_ca_are_made_anew(world: World) -> None:
    await world.publisher.start()
    assert world.directory is not None
    old = (world.directory / "ca.crl").read_bytes()
    await world.publisher.issue(scheduled=False)
    (world.directory / "ca.crl").write_bytes(old)
    world.restart()
    await world.publisher.start()
    assert world.full.number == 3


async def test_files_of_another_ca_are_made_anew(world: World) -> None:
    await world.publisher.start()
    world.ca = authority("ed25519")
    world.restart()
    await world.publisher.start()
    assert world.full.number == 2
    world.check_files()


@pytest.mark.parametrize("what", ["change", "order", "due", "clock set back"])
async def test_a_restart_issues_anew_what_is_due(world: World, what: str) -> None:
    [serial] = await world.certificates(1)
    await world.publisher.start()
    if what == "change":
        await world.revoke(serial)
    elif what == "order":
        await world.order()
    else:
        world.clock.now += {"due": DAY, "clock set back": -5}[what]
    world.restart()
    await world.publisher.start()
    assert world.publisher.record is not None
    assert world.publisher.record.number == 2
    assert world.publisher.record.scheduled == (what not in ("change", "order"))
    assert world.full.reasons == ({serial: 1} if what == "change" else {})


async def test_no_delta_crl_starts_from_before_a_backup(tmp_path: Path) -> None:
    path, backup = tmp_path / "cmpd.db", tmp_path / "backup"
    world = World(tmp_path / "crl", await SqliteStore.open(path, serving=True))
    serials = await world.certificates(5)
    before = dict(world.states)
    await world.publisher.start()
    await world.store.close()
    shutil.copy(path, backup)
    world.store = await SqliteStore.open(path, serving=True)
    await world.restart().start()
    for serial in serials[:4]:
        await world.suspend(serial)
        await world.tick(5)
    held = world.full
    assert (held.number, len(held.entries)) == (5, 4)
    await world.store.close()
    for name in ("cmpd.db-wal", "cmpd.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(backup, path)
    world.states = before
    world.clock.now += 100
    world.store = await SqliteStore.open(path, serving=True)
    await world.restart().start()
    record = world.publisher.record
    assert record is not None
    assert (record.number, record.scheduled, world.delta.base) == (6, True, 6)
    await world.revoke(serials[4])
    assert await world.tick(5) == 7
    assert (world.delta.base, world.full.reasons) == (6, {serials[4]: 1})
    await world.restart().start()  # now that the records have what is in the file
    await world.publisher.issue(scheduled=False)
    assert (world.delta.number, world.delta.base) == (8, 6)
    await world.store.close()


@pytest.mark.parametrize("is_file_new", [False, True])
async def test_an_end_within_the_first_issue_after_a_backup_changes_nothing_of_it(
    tmp_path: Path, is_file_new: bool
) -> None:
    store = RefusingStore()
    world = World(tmp_path / "crl", store)
    await world.publisher.start()
    tables = store._tables.copy()
    for _ in range(3):
        await world.publisher.issue(scheduled=False)
    store._tables = tables
    if is_file_new:
        store.refused = PublishCrl
        await world.restart().start()
        store.refused = None
    else:
        await store.write([AddCrl(CrlRecord(5, samples.NOW, samples.NOW, 0))])
    assert (world.file().number, (await store.publication()).last_number) == (5 if is_file_new else 4, 5)
    await world.restart().start()
    await world.publisher.issue(scheduled=False)
    assert (world.delta.number, world.delta.base) == (7, 6)


async def test_who_issues_without_start_goes_on_from_the_number_in_the_file(world: World) -> None:
    await world.publisher.start()
    for _ in range(3):
        await world.publisher.issue(scheduled=False)
    world.store = MemoryStore()
    record = await world.restart().issue(scheduled=False)
    assert (record.number, record.base, record.scheduled) == (5, 5, True)
    world.check_files()


CONFIGURED: dict[str, dict[str, Any]] = {
    "delta": {"delta": False},
    "interval": {"interval": DAY - 60},
    "overlap": {"overlap": 0},
    "scope": {"issuing_distribution_point": False},
    "nothing": {"gather": 7, "backdate": 100},
}
DEFAULTS = {"delta": True, "interval": DAY, "overlap": DAY, "issuing_distribution_point": True, "gather": 1}


@pytest.mark.parametrize("what", [*CONFIGURED, "base_url"])
async def test_a_restart_with_another_configuration_issues_anew(world: World, what: str) -> None:
    await world.publisher.start()
    await world.publisher.issue(scheduled=False)
    for back, number in ((False, 3), (True, 4)):
        options = CONFIGURED.get(what, {})
        if what == "base_url":
            world.base_url = URL if back else "http://other.example.com"
        world.restart(**{name: DEFAULTS.get(name, 0) for name in options} if back else options)
        await world.publisher.start()
        assert world.full.number == (2 if what == "nothing" else number)
        world.check_files()
        if what == "base_url":
            assert world.base_url is not None
            assert world.base_url.encode() in world.full.extensions[FRESHEST][1]
        if what == "scope":  # what has another scope must not be combined
            assert world.delta.base == number


async def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(world: World) -> None:
    await world.publisher.start()
    assert world.directory is not None
    kept = world.directory / ".ca.crl.bak"
    for name in (".ca.crl.3", ".delta.crl.17", kept.name):
        (world.directory / name).write_bytes(b"half")
    world.restart()
    await world.publisher.start()
    assert {path.name for path in world.directory.iterdir()} == {"ca.crl", "delta.crl", kept.name}


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("step", [AddCrl, PublishCrl])
async def test_an_end_at_any_write_leaves_the_old_crl_or_the_new_one(
    tmp_path: Path, step: type[Change], is_written: bool
) -> None:
    store = RefusingStore()
    world = World(tmp_path / "crl", store)
    [serial] = await world.certificates(1)
    await world.publisher.start()
    await world.revoke(serial)
    store.refused, store.is_written = step, is_written
    with pytest.raises(StoreError):
        await world.publisher.issue(scheduled=False)
    assert world.full.number == 1  # what is shown is what is recorded
    assert world.file().number == (2 if step is PublishCrl else 1)
    taken = (await store.publication()).last_number
    store.refused = None
    for restarted in (False, True):
        repaired = world.restart() if restarted else world.publisher
        await repaired.start()
        published = (await store.publication()).latest
        assert published is not None
        assert repaired.record == published
        assert world.full.reasons == {serial: 1}
        assert world.full.number >= taken
        world.check_files()
    assert await world.tick(5) == world.full.number
    await world.order()
    assert await world.tick(5) > taken
    # What is in a file and not in the records might be another CRL: then no delta CRL starts from one before it.
    assert world.delta.base == (3 if step is PublishCrl and not is_written else 1)
    assert world.delta.reasons == ({serial: 1} if world.delta.base == 1 else {})


STEPS = {"open": (Path, "open"), "fsync": (os, "fsync"), "rename": (Path, "replace")}


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("step", STEPS)
async def test_a_disk_that_fails_at_any_step_leaves_whole_files_that_fit(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, after: int, scheduled: bool
) -> None:
    one, two = await world.certificates(2)
    await world.publisher.start()
    await world.revoke(one)
    await world.publisher.issue(scheduled=False)
    await world.suspend(two)
    owner, name = STEPS[step]
    real, calls = getattr(owner, name), []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing)
        if step != "fsync" and after == 2:  # there are two files
            assert (await world.publisher.issue(scheduled=scheduled)).number == 3
        else:
            with pytest.raises(FilesError, match="No space left on device; make room"):
                await world.publisher.issue(scheduled=scheduled)
    full, delta = world.file(), world.file("delta.crl")
    assert full.number <= delta.number
    state = full.reasons if full.number == delta.number else combined(full, delta)
    assert state == ({one: 1} if delta.number == 2 else {one: 1, two: 6})
    world.restart()
    await world.publisher.start()
    assert world.full.reasons == {one: 1, two: 6}
    world.check_files()


async def test_a_reader_finds_whole_crls_that_fit_at_any_time(world: World) -> None:
    world.offload = on_a_thread
    serials = await world.certificates(40)
    world.restart(gather=0)
    await world.publisher.start()
    await world.publisher.issue(scheduled=False)
    seen: list[tuple[bytes, bytes]] = []
    stop = threading.Event()
    assert world.directory is not None
    full, delta = world.directory / "ca.crl", world.directory / "delta.crl"

    def read() -> None:
        while not stop.is_set():
            pair = full.read_bytes(), delta.read_bytes()
            if not seen or seen[-1] != pair:
                seen.append(pair)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number, serial in enumerate(serials):
            await world.revoke(serial)
            await world.publisher.issue(scheduled=number % 10 == 9)
    finally:
        stop.set()
        reader.join()
    assert len(seen) > 10
    numbers = []
    for one, other in seen:
        whole, change = read_crl(one, world.ca), read_crl(other, world.ca)
        numbers.append((whole.number, change.number))
        if (change.base or 0) <= whole.number < change.number:
            assert len(combined(whole, change)) == change.number - 2
        assert len(whole.entries) == whole.number - 2
        assert change.number >= whole.number  # the full one is read first
    assert numbers == sorted(numbers)


# --- what goes wrong -------------------------------------------------------------------------------------------------


async def test_a_disk_that_cannot_be_written_is_logged_once_and_tried_again(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert world.directory is not None
    world.directory = tmp_path / "missing" / "crl"
    world.restart()
    tries: list[float] = []
    write = CrlFiles.write

    def noted(*arguments: Any) -> None:
        tries.append(world.clock.now - samples.NOW)
        write(*arguments)

    monkeypatch.setattr(CrlFiles, "write", noted)
    await world.publisher.start()
    before = world.publisher.full, world.publisher.delta
    for _ in range(400):
        assert await world.tick(0.5) == 1
    assert [round(b - a) for a, b in itertools.pairwise(tries)] == [1, 2, 4, 8, 16, 32, 60, 60]
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith("the CRL is out by HTTP and CMP alone: ")
    assert f"cannot write to {world.directory}: No such file or directory; make room" in line
    (tmp_path / "missing").mkdir()
    assert await world.tick(60) == (await world.store.publication()).last_number == 1
    assert (world.publisher.full, world.publisher.delta) == before
    world.check_files()
    assert (await world.store.publication()).latest == world.publisher.record
    world.restart()
    await world.publisher.start()
    assert world.full.number == 1


async def test_a_disk_that_cannot_be_written_keeps_no_change_from_http(world: World) -> None:
    serials = await world.certificates(3)
    await world.publisher.start()
    assert world.directory is not None
    aside = world.directory.with_name("aside")
    world.directory.rename(aside)
    world.directory.touch()  # something is in the way
    for number, serial in enumerate(serials):
        await world.revoke(serial)
        assert await world.tick(2) == 2 + number
        assert world.delta.base == 1
        assert (await world.store.publication()).latest == world.publisher.record
    assert set(world.full.entries) == set(world.delta.entries) == set(serials)
    with pytest.raises(FilesError, match="cannot write to"):
        await world.publisher.issue(scheduled=True)
    assert await world.tick(60) == 5
    world.directory.unlink()
    aside.rename(world.directory)
    assert await world.tick(60) == 5
    world.check_files()


async def test_files_that_turn_out_to_be_newer_are_not_overwritten_by_older_ones(world: World) -> None:
    await world.publisher.start()
    for _ in range(3):
        await world.publisher.issue(scheduled=False)
    assert world.directory is not None
    aside = world.directory.with_name("aside")
    world.directory.rename(aside)
    world.directory.touch()
    world.store = MemoryStore()  # without records, and without the files
    world.restart()
    await world.publisher.start()
    assert world.full.number == 1
    world.directory.unlink()
    aside.rename(world.directory)
    assert await world.tick(5) == 5
    assert (world.delta.base, world.delta.has_list) == (5, False)
    world.check_files()


async def test_each_cause_is_logged_and_again_after_a_success(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RefusingStore()
    world = World(tmp_path / "crl", store)
    await world.publisher.start()
    for step in (AddCrl, PublishCrl, AddCrl, None, AddCrl):
        await world.order()
        store.refused = step
        world.clock.now += 100
        await world.publisher.tick()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2  # the same text before and after the one that went well
    assert all("the disk is gone; it is tried again" in text for text in errors)


async def test_a_fault_of_ours_ends_neither_start_nor_run(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def offload(work: Callable[[], Any]) -> Any:
        raise RuntimeError("fault")

    world.offload = offload
    await world.publisher.start()
    world.clock.now += 10
    await world.publisher.tick()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "RuntimeError: fault" in record.getMessage()


async def test_a_key_that_does_not_sign_costs_a_number_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.publisher.start()

    async def refuse(octets: bytes) -> bytes:
        raise OSError("token removed")

    with monkeypatch.context() as patched:
        patched.setattr("cmpd.signing.file.FileKey.sign", lambda self, octets: refuse(octets))
        with pytest.raises(PublishError, match=r"the CA's key does not sign .*token removed"):
            await world.publisher.issue(scheduled=False)
    assert world.full.number == world.file().number == 1
    assert (await world.publisher.issue(scheduled=False)).number == 3


async def test_a_number_that_a_command_takes_meanwhile_is_left_to_it(world: World) -> None:
    await world.publisher.start()
    write, others = world.store.write, iter(range(2, 4))

    async def late(changes: Sequence[Change], **options: Any) -> None:
        if isinstance(changes[0], AddCrl) and (number := next(others, None)):
            await write([AddCrl(CrlRecord(number, samples.NOW, samples.NOW, 0))])
        await write(changes, **options)

    world.store.write = late
    assert (await world.publisher.issue(scheduled=False)).number == 4


async def test_a_newer_crl_of_a_command_is_followed_by_one_of_the_server(world: World) -> None:
    await world.publisher.start()
    server = world.publisher
    [serial] = await world.certificates(1)
    await world.revoke(serial)
    await world.restart().issue(scheduled=True)
    world.publisher = server
    assert await world.tick(5) == 3
    assert (world.full.reasons, world.delta.base, world.delta.reasons) == ({serial: 1}, 2, {})
    world.check_files()
    await world.restart().issue(scheduled=False)  # without any change
    world.publisher = server
    assert await world.tick(5) == 5
    assert await world.tick(5) == 5


# --- the task --------------------------------------------------------------------------------------------------------


async def wait_for(world: World, number: int) -> float:
    """Wait until the CRL with this number is there; returns the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while world.publisher.record is None or world.publisher.record.number < number:
        assert loop.time() < began + 10
        await asyncio.sleep(0.002)
    return loop.time() - began


async def test_run_issues_at_once_when_woken_and_within_a_second_when_not(world: World) -> None:
    world.offload = on_a_thread
    serials = await world.certificates(2)
    world.restart(gather=0)
    await world.publisher.start()
    task = asyncio.create_task(world.publisher.run())
    await asyncio.sleep(0.05)
    await world.revoke(serials[0])
    world.publisher.wake()
    assert await wait_for(world, 2) < 0.5
    await world.revoke(serials[1])  # by another process: nobody wakes it
    assert await wait_for(world, 3) < 2
    assert set(world.full.entries) == set(serials)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_run_gathers_what_wakes_it(world: World) -> None:
    serials = await world.certificates(20)
    await world.publisher.start()
    looks = 0
    publication = world.store.publication

    async def counted() -> Any:
        nonlocal looks
        looks += 1
        return await publication()

    world.store.publication = counted
    task = asyncio.create_task(world.publisher.run())
    for serial in serials:
        await world.revoke(serial)
        world.publisher.wake()
        await asyncio.sleep(0.01)
    assert world.full.number == 1
    assert looks < 5
    world.clock.now += 1
    await wait_for(world, 2)
    assert set(world.full.entries) == set(serials)
    task.cancel()


async def test_run_goes_on_after_failures(tmp_path: Path) -> None:
    store = RefusingStore()
    world = World(tmp_path / "crl", store, gather=0)
    store.refused = AddCrl
    await world.publisher.start()
    task = asyncio.create_task(world.publisher.run())
    await asyncio.sleep(0.05)
    store.refused = None
    world.clock.now += 10
    await wait_for(world, 1)
    assert not task.done()
    task.cancel()


# --- entries at hand and entries read anew ---------------------------------------------------------------------------


async def held_against_rebuilt(world: World) -> None:
    """What the publisher has gathered change by change is what a new one reads."""
    mine = world.publisher._entries
    fresh = Publisher(
        world.store, world.ca, world.publisher._env, world.publisher._config, base_url=None, offload=at_once
    )
    read = await fresh._current_entries(await world.store.publication())
    assert mine is not None
    assert (mine.full, mine.delta, mine.last_change) == (read.full, read.delta, read.last_change)
    assert ends_by_day(mine) == ends_by_day(read)


def ends_by_day(entries: CrlEntries) -> dict[int, dict[bytes, int]]:
    """The notAfter of all that is on the full CRL. A day on which nothing is left ending says nothing: skip it."""
    days = {day: ends for day, ends in entries._ends.items() if ends}
    assert sorted(serial for ends in days.values() for serial in ends) == sorted(entries.full)
    return days


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["revoke", "suspend", "resume", "pass", "hours", "issue", "schedule", "restart", "crash"]),
        st.integers(0, 5),
    ),
    max_size=30,
)
HOUR = 3600


@settings(max_examples=80)
@given(ACTIONS)
@example([("suspend", 0), ("resume", 0), ("issue", 0)])
def test_crls_say_what_is_so_and_changes_give_what_rows_give(actions: list[tuple[str, int]]) -> None:
    asyncio.run(_act(actions))


async def _act(actions: list[tuple[str, int]]) -> None:
    store = RefusingStore()
    world = World(None, store, interval=365 * DAY)
    ends = [samples.NOW + hours * HOUR for hours in (1, 5, 30, 10_000, 10_000, 10_000)]
    serials = [(await world.certificates(1, not_after=end))[0] for end in ends]
    history: list[SeenCrl] = []
    await world.publisher.start()
    for action, which in actions:
        serial = serials[which]
        state = world.states[serial]
        is_alive = world.clock.now <= ends[which]
        if action == "revoke" and state is not REVOKED and is_alive:
            await world.revoke(serial)
        elif action == "suspend" and state is CONFIRMED and is_alive:
            await world.suspend(serial)
        elif action == "resume" and state is SUSPENDED and is_alive:
            await world.resume(serial)
        elif action in ("pass", "hours"):
            world.clock.now += which * (HOUR if action == "hours" else 1)
        elif action == "restart":
            world.restart()
        elif action == "crash":
            store.refused = (AddCrl, PublishCrl)[which % 2]
            store.is_written = which > 2
            with pytest.raises(StoreError):
                await world.publisher.issue(scheduled=which % 3 == 0)
            store.refused = None
        elif action in ("issue", "schedule"):
            await world.publisher.issue(scheduled=action == "schedule")
            await held_against_rebuilt(world)
            check_truth(world, dict(zip(serials, ends, strict=True)), history)


def check_truth(world: World, ends: dict[bytes, int], history: list[SeenCrl]) -> None:
    """The full CRL, and the delta CRL with each full one that it may be combined with, say what is so."""
    number = {REVOKED: 1, SUSPENDED: 6}
    truth = {serial: number[state] for serial, state in world.states.items() if state in number}
    alive = {serial for serial, end in ends.items() if end >= world.clock.now}

    def living(reasons: dict[bytes, int | None]) -> dict[bytes, int | None]:
        return {serial: reason for serial, reason in reasons.items() if serial in alive}

    full = world.full
    assert living(full.reasons) == living(dict(truth))
    assert full.reasons.items() <= truth.items()
    if world.publisher.delta is not None:
        delta = world.delta
        for older in history:
            if older.number >= (delta.base or 0):
                assert living(combined(older, delta)) == living(full.reasons)
    assert all(older.number < full.number for older in history)
    history.append(full)


async def test_changes_by_a_command_on_the_same_database_are_published(tmp_path: Path) -> None:
    path = tmp_path / "cmpd.db"
    server, command = await SqliteStore.open(path, serving=True), await SqliteStore.open(path, serving=False)
    world = World(tmp_path / "crl", server)
    world.offload = on_a_thread
    serials = await world.certificates(5)
    await world.revoke(serials[0])
    await world.publisher.start()
    await world.tick(5)
    world.store = command
    await world.suspend(serials[1])
    await world.revoke(serials[2], reason="superseded")
    assert await world.tick(5) == 2
    await world.resume(serials[1])
    await world.suspend(serials[3])
    await world.order()
    assert await world.tick(5) == 3
    assert world.full.reasons == {serials[0]: 1, serials[2]: 4, serials[3]: 6}
    assert world.delta.reasons == {serials[1]: 8, serials[2]: 4, serials[3]: 6}
    await held_against_rebuilt(world)
    world.check_files()
    latest = (await command.publication()).latest
    assert latest == world.publisher.record
    assert latest is not None
    assert (latest.last_change, latest.last_order) == (5, 1)
    await command.close()
    await server.close()


async def test_what_changes_while_pages_are_read_is_right(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "_PAGE", 2)
    serials = await world.certificates(9)
    await world.publisher.start()
    await world.suspend(serials[1])
    await world.suspend(serials[6])
    await world.revoke(serials[3], serials[5], serials[7])
    revoked = world.store.revoked
    steps = iter(
        [
            lambda: world.revoke(serials[0]),  # on the first page, with 1
            lambda: world.resume(serials[1]),  # was on the first page
            lambda: world.resume(serials[6]),  # would be on the next page
            lambda: world.revoke(serials[2]),  # would have been on the second page
            lambda: world.revoke(serials[8]),  # on the last page
        ]
    )

    async def changing(**options: Any) -> list[RevokedCertificate]:
        if step := next(steps, None):
            await step()
        return (await revoked(**options))[: 1 if options["after"] else 2]

    world.store.revoked = changing
    await world.publisher.issue(scheduled=True)
    assert next(steps, None) is None
    assert set(world.full.entries) == {serials[number] for number in (0, 2, 3, 5, 7, 8)}
    assert world.delta.reasons == {**world.full.reasons, serials[1]: 8, serials[6]: 8}
    assert world.publisher.record is not None
    assert world.publisher.record.last_change == (await world.store.publication()).last_change == 10


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_the_end_waits_for_the_crl_that_is_being_issued_and_begins_no_other(world: World) -> None:
    go_on, begun = threading.Event(), threading.Event()

    async def slowly(work: Callable[[], T]) -> T:
        def slow() -> T:
            begun.set()
            assert go_on.wait(10)
            return work()

        return await asyncio.to_thread(slow)

    world.restart(gather=0)
    await world.publisher.start()
    world.offload = slowly
    await world.order()
    task = asyncio.create_task(world.publisher.run())
    await asyncio.to_thread(begun.wait, 10)
    await world.publisher.close(0.01)  # it is not done in time
    closing = asyncio.create_task(world.publisher.close(10))
    await asyncio.sleep(0.05)
    assert not closing.done()
    await world.order()
    go_on.set()
    await closing
    latest = (await world.store.publication()).latest
    assert latest is not None
    assert (latest.number, latest.last_order) == (2, 1)
    world.check_files()
    world.publisher.wake()
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await world.store.publication()).last_number == 2
