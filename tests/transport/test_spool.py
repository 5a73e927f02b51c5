"""The spool directory on real directories: what is dropped is answered, whole, once, and never lost."""

import asyncio
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.env import Env
from cmpd.origin import Answer, Door, Origin
from cmpd.transport import spool as module
from cmpd.transport.spool import Spool, is_incomplete

DOOR = Door("spool")
REQUEST = der.seq(der.encode_octets(b"request"))
NOTHING_DUE = der.seq(der.encode_octets(b"pkiconf"))
BREAKS = der.seq(der.encode_octets(b"breaks"))
SLOW = der.seq(der.encode_octets(b"slow"))


@dataclass
class Responder:
    """Answers every message with "answer to" and its octets; a few of them are orders."""

    asked: list[tuple[bytes, Origin]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0
    before: Callable[[bytes], None] = lambda octets: None

    async def respond(self, octets: bytes, origin: Origin) -> Answer:
        self.asked.append((octets, origin))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.before(octets)
            if octets == BREAKS:
                raise OSError(errno.ENOSPC, "of the responder, not of the spool")
            if octets == SLOW:
                await self.gate.wait()
            return None if octets == NOTHING_DUE else b"answer to " + octets
        finally:
            self.at_once -= 1

    async def poll(self, reference: int, origin: Origin) -> Answer:
        raise NotImplementedError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    return path


@pytest.fixture
def responder() -> Responder:
    return Responder()


def make(responder: Responder, directory: Path, *, env: Env | None = None, limit: int = 4096) -> Spool:
    return Spool(responder, directory, DOOR, interval=0.02, max_message_octets=limit, env=env or Env())


@pytest.fixture
async def spool(responder: Responder, directory: Path) -> AsyncIterator[Spool]:
    made = make(responder, directory)
    await made.start()
    yield made
    await made.drain(5)


def drop(directory: Path, name: str, octets: bytes = REQUEST, *, age: float = 0) -> Path:
    """Write elsewhere on the same disk, and move here; `age`: seconds since it was written."""
    path = directory / name
    outside = directory.parent / f"outside-{os.getpid()}"
    outside.write_bytes(octets)
    if age:
        when = time.time() - age
        os.utime(outside, (when, when))
    outside.replace(path)
    return path


async def until(true: Callable[[], bool], seconds: float = 8) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - files make no event
            await asyncio.sleep(0.005)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def set_mode(directory: Path, mode: int) -> None:
    directory.chmod(mode)


def with_end(directory: Path, end: str) -> list[Path]:
    return sorted(directory.glob(f"*{end}"))


# --- what is answered ------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_beside_it_and_becomes_done(spool: Spool, responder: Responder, directory: Path):
    drop(directory, "pump.pki")
    await until(lambda: names(directory) == ["pump.pki.done", "pump.reply.pki"])
    assert (directory / "pump.reply.pki").read_bytes() == b"answer to " + REQUEST
    assert (directory / "pump.pki.done").read_bytes() == REQUEST
    [(octets, origin)] = responder.asked
    assert octets == REQUEST
    assert origin == Origin("file:pump.pki", DOOR)
    assert not origin.polls
    assert (spool.addresses, spool.connections) == ((), 0)


async def test_what_has_no_answer_is_renamed_alone(spool: Spool, directory: Path):
    drop(directory, "conf.pki", NOTHING_DUE)
    await until(lambda: names(directory) == ["conf.pki.done"])


async def test_what_was_there_before_the_start_is_answered_the_oldest_first(responder: Responder, directory: Path):
    messages = [der.seq(der.encode_integer(number)) for number in range(20)]
    for number, message in enumerate(messages):
        drop(directory, f"{(number * 7) % 20}.pki", message, age=1000 - number)
    made = make(responder, directory)
    await made.start()
    await until(lambda: len(responder.asked) == 20)
    await made.drain(5)
    order = [messages.index(octets) for octets, _ in responder.asked]
    # those that are in work at the same time may overtake each other
    assert all(abs(place - number) < 8 for place, number in enumerate(order))


async def test_names_that_are_not_requests_are_left_alone(spool: Spool, responder: Responder, directory: Path):
    others = [".hidden.pki", ".pki", "a.PKI", "a.reply.pki", "a.pki.tmp", "apki", "b.pki.done"]
    for name in others:
        drop(directory, name)
    drop(directory, "last.pki")
    await until(lambda: (directory / "last.pki.done").exists())
    assert names(directory) == sorted([*others, "last.pki.done", "last.reply.pki"])
    assert len(responder.asked) == 1


async def test_garbage_is_answered_as_the_responder_answers_it(spool: Spool, directory: Path):
    drop(directory, "g.pki", b"hello")
    await until(lambda: (directory / "g.pki.done").exists())
    assert (directory / "g.reply.pki").read_bytes() == b"answer to hello"


async def test_many_files_are_answered_several_at_a_time_and_more_than_one_look_takes(
    responder: Responder, directory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_PER_LOOK", 30)
    for number in range(100):
        drop(directory, f"{number}.pki", SLOW if number < 3 else REQUEST, age=2000 - number)
    made = make(responder, directory)
    await made.start()
    await until(lambda: len(with_end(directory, ".done")) == 97)  # three slow ones hold nobody up
    assert 3 <= responder.most_at_once <= 8
    responder.gate.set()
    await until(lambda: len(with_end(directory, ".done")) == 100)
    await made.drain(5)
    assert len(responder.asked) == 100


async def test_a_reply_can_be_read_by_those_who_may_list_the_directory(responder: Responder, directory: Path):
    old = os.umask(0o077)
    try:
        made = make(responder, directory)
        await made.start()
        for mode, wanted in ((0o755, 0o644), (0o750, 0o640), (0o700, 0o600), (0o2770, 0o640)):
            set_mode(directory, mode)
            drop(directory, f"{mode:o}.pki")
            reply = directory / f"{mode:o}.reply.pki"
            await until(reply.exists)
            assert reply.stat().st_mode & 0o7777 == wanted
        await made.drain(5)
    finally:
        os.umask(old)


# --- names that come again -------------------------------------------------------------------------------------------


async def test_an_earlier_request_of_the_same_name_stays(spool: Spool, directory: Path):
    contents = [der.seq(der.encode_integer(number)) for number in range(4)]
    for number, octets in enumerate(contents):
        drop(directory, "a.pki", octets)
        await until(lambda n=number: len(with_end(directory, ".done*")) == n + 1)
        assert (directory / "a.reply.pki").read_bytes() == b"answer to " + octets
    assert sorted(path.read_bytes() for path in with_end(directory, ".done*")) == contents
    assert (directory / "a.pki.done").read_bytes() == contents[0]


@pytest.mark.parametrize("in_place", [False, True])
async def test_a_request_that_takes_the_place_of_one_in_work_is_answered_too(
    spool: Spool, responder: Responder, directory: Path, in_place: bool
):
    drop(directory, "a.pki", SLOW, age=3)
    await until(lambda: len(responder.asked) == 1)
    if in_place:
        (directory / "a.pki").write_bytes(REQUEST)
    else:
        drop(directory, "a.pki", REQUEST)
    responder.gate.set()
    reply = directory / "a.reply.pki"
    await until(lambda: reply.exists() and reply.read_bytes() == b"answer to " + REQUEST)
    await until(lambda: not (directory / "a.pki").exists())
    assert [octets for octets, _ in responder.asked] == [SLOW, REQUEST]
    assert (directory / "a.pki.done").read_bytes() == REQUEST


async def test_a_request_that_is_taken_away_meanwhile_is_forgotten(
    spool: Spool, responder: Responder, directory: Path, caplog: pytest.LogCaptureFixture
):
    drop(directory, "a.pki", SLOW)
    await until(lambda: len(responder.asked) == 1)
    (directory / "a.pki").unlink()
    responder.gate.set()
    await until((directory / "a.reply.pki").exists)
    drop(directory, "b.pki")
    await until((directory / "b.pki.done").exists)
    assert names(directory) == ["a.reply.pki", "b.pki.done", "b.reply.pki"]
    assert not caplog.records


# --- what is refused or waits ----------------------------------------------------------------------------------------


async def test_a_file_that_is_being_written_waits_until_it_is_whole(
    spool: Spool, responder: Responder, directory: Path
):
    path = directory / "slow.pki"
    path.write_bytes(b"")
    for octet in REQUEST:
        await asyncio.sleep(0.01)
        assert not responder.asked
        with path.open("ab") as file:
            file.write(bytes([octet]))
    await until((directory / "slow.pki.done").exists)
    assert [octets for octets, _ in responder.asked] == [REQUEST]


async def test_an_incomplete_file_that_is_old_is_answered_for_what_it_is(spool: Spool, directory: Path):
    drop(directory, "cut.pki", REQUEST[:-1], age=60)
    drop(directory, "future.pki", REQUEST[:-1], age=-3600)
    drop(directory, "young.pki", REQUEST[:-1])
    await until(lambda: (directory / "cut.pki.done").exists() and (directory / "future.pki.done").exists())
    assert (directory / "cut.reply.pki").read_bytes() == b"answer to " + REQUEST[:-1]
    assert (directory / "young.pki").exists()


async def test_what_can_have_no_answer_is_refused_with_one_line_each(
    spool: Spool, responder: Responder, directory: Path, caplog: pytest.LogCaptureFixture
):
    secret = directory.parent / "secret"
    secret.write_bytes(REQUEST)
    (directory / "link.pki").symlink_to(secret)
    (directory / "dir.pki").mkdir()
    os.mkfifo(directory / "fifo.pki")
    drop(directory, "long.pki", der.seq(bytes(5000)))
    drop(directory, "empty.pki", b"", age=60)
    drop(directory, "n" * 240 + ".pki")
    await until(lambda: sum(".refused" in name for name in names(directory)) == 6)
    await until(lambda: len(caplog.records) == 6)
    assert len(names(directory)) == 6
    assert secret.read_bytes() == REQUEST
    assert (directory / "link.pki.refused").is_symlink()
    assert not responder.asked
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 6
    assert all(": refused: " in line for line in lines)
    assert any("want at most 4096 octets, have 5004" in line for line in lines)


async def test_a_file_that_cannot_be_read_waits_and_is_refused(
    spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch
):
    real = os.open

    def refusing(path: Path, *args: int) -> int:  # modes of files keep nobody out who is root
        if Path(path).name.startswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args)

    monkeypatch.setattr(os, "open", refusing)
    drop(directory, "locked-old.pki", age=60)
    drop(directory, "locked-young.pki")
    await until((directory / "locked-old.pki.refused").exists)
    assert (directory / "locked-young.pki").exists()


async def test_names_are_escaped_in_the_log_and_in_the_origin(
    spool: Spool, responder: Responder, directory: Path, caplog: pytest.LogCaptureFixture
):
    drop(directory, "a\nb\udcff.pki")
    await until(lambda: (directory / "a\nb\udcff.pki.done").exists())
    (directory / "c\nd.pki").mkdir()
    await until(lambda: (directory / "c\nd.pki.refused").exists())
    await until(lambda: len(caplog.records) == 1)
    [(_, origin)] = responder.asked
    assert origin.address.isprintable()
    origin.address.encode()
    assert [record.getMessage().isprintable() for record in caplog.records] == [True]


# --- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["missing", "file"])
async def test_a_directory_that_cannot_be_used_is_an_error_of_the_start(
    responder: Responder, tmp_path: Path, kind: str
):
    path = tmp_path / "spool"
    if kind == "file":
        path.write_bytes(b"")
    made = make(responder, path)
    with pytest.raises(OSError, match="spool"):
        await made.start()
    await made.drain(1)


async def test_a_fault_of_the_server_is_logged_and_the_request_stays(
    spool: Spool, responder: Responder, directory: Path, caplog: pytest.LogCaptureFixture
):
    drop(directory, "bad.pki", BREAKS, age=60)
    drop(directory, "good.pki")
    await until((directory / "good.pki.done").exists)
    await asyncio.sleep(0.2)
    await until(lambda: len(caplog.records) == 1)
    assert (directory / "bad.pki").read_bytes() == BREAKS
    assert [octets for octets, _ in responder.asked].count(BREAKS) == 1
    [record] = caplog.records
    assert record.exc_info


async def test_while_the_disk_is_full_nothing_is_lost_and_one_line_is_logged(
    responder: Responder, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.1)
    real, full = os.fsync, [True]

    def fsync(descriptor: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for number in range(20):
        drop(directory, f"{number}.pki")
    made = make(responder, directory)
    await made.start()
    await asyncio.sleep(0.7)
    assert names(directory) == sorted(f"{number}.pki" for number in range(20))
    assert 8 <= len(responder.asked) <= 80  # no busy loop
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    full[0] = False
    await until(lambda: len(with_end(directory, ".reply.pki")) == 20)
    await until(lambda: len(with_end(directory, ".done")) == 20)
    await made.drain(5)  # ends after the last line of the log
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_a_directory_that_vanishes_and_comes_back_is_used_again(
    spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.05)
    away = directory.with_name("away")
    shutil.move(directory, away)
    await until(lambda: len(caplog.records) == 1)
    drop(away, "a.pki")
    shutil.move(away, directory)
    await until((directory / "a.pki.done").exists)
    await until(lambda: len(caplog.records) == 2)


async def test_a_file_that_cannot_be_renamed_is_answered_once_and_holds_nobody_up(
    spool: Spool, responder: Responder, directory: Path, monkeypatch: pytest.MonkeyPatch
):
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "stuck.pki":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    drop(directory, "stuck.pki", age=60)
    await until((directory / "stuck.reply.pki").exists)
    drop(directory, "next.pki")
    await until((directory / "next.pki.done").exists)
    await asyncio.sleep(0.1)
    assert len(responder.asked) == 2


@pytest.mark.parametrize("why", ["directory", "sticky"])
async def test_what_stands_in_the_place_of_a_reply_holds_nobody_else_up(
    spool: Spool,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    why: str,
):
    """Who may drop requests may put anything there: a directory, or in a sticky one a file that is his."""
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == "blocked.reply.pki":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(self, target)

    if why == "sticky":
        monkeypatch.setattr(Path, "replace", replace)
    else:
        (directory / "blocked.reply.pki").mkdir()
    drop(directory, "blocked.pki", age=60)
    await until(lambda: bool(caplog.records))
    drop(directory, "next.pki")
    await until((directory / "next.pki.done").exists)
    assert len(caplog.records) == 1
    assert "blocked.pki: its reply cannot be put in place" in caplog.text
    assert (directory / "blocked.pki").exists()
    assert not [name for name in names(directory) if name.startswith(".cmpd-")]


async def test_incomplete_files_without_end_make_no_busy_loop(
    responder: Responder, directory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_PER_LOOK", 10)
    for number in range(50):
        drop(directory, f"{number}.pki", REQUEST[:-1])
    made = make(responder, directory)
    looks = 0
    real = made._look

    async def look() -> bool:
        nonlocal looks
        looks += 1
        return await real()

    monkeypatch.setattr(made, "_look", look)
    await made.start()
    drop(directory, "whole.pki")
    await until((directory / "whole.pki.done").exists)
    await asyncio.sleep(0.3)
    await made.drain(5)
    assert looks < 60


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_drain_finishes_what_is_in_hand_and_begins_nothing(responder: Responder, directory: Path):
    for number in range(8):
        drop(directory, f"{number}.pki", SLOW, age=60)
    made = make(responder, directory)
    await made.start()
    await until(lambda: responder.at_once == 8)
    drop(directory, "late.pki")
    await asyncio.sleep(0.1)
    ending = asyncio.create_task(made.drain(5))
    await asyncio.sleep(0.05)
    responder.gate.set()
    await ending
    assert names(directory) == sorted(
        [f"{n}.{end}" for n in range(8) for end in ("pki.done", "reply.pki")] + ["late.pki"]
    )


async def test_drain_cuts_what_takes_too_long_and_the_next_start_answers_it(
    responder: Responder, directory: Path, caplog: pytest.LogCaptureFixture
):
    drop(directory, "a.pki", SLOW)
    made = make(responder, directory)
    await made.start()
    await until(lambda: responder.at_once == 1)
    await made.drain(0.05)
    assert responder.at_once == 0
    assert names(directory) == ["a.pki"]
    assert len(caplog.records) == 1
    responder.gate.set()
    again = make(responder, directory)
    await again.start()
    await until((directory / "a.pki.done").exists)
    await again.drain(5)


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from cmpd.env import Env
from cmpd.origin import Door
from cmpd.transport import spool

class Responder:
    async def respond(self, octets, origin):
        return b"answer to " + octets

step = sys.argv[2]
real = spool._Files.reply
def die(self, *args):
    os.kill(os.getpid(), signal.SIGKILL)
if step == "fsync":
    os.fsync = die
elif step == "reply":
    spool._Files.reply = die
else:
    spool._Files.set_aside = die

async def main():
    it = spool.Spool(Responder(), Path(sys.argv[1]), Door("spool"), interval=0.01, max_message_octets=4096, env=Env())
    await it.start()
    await asyncio.sleep(30)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("step", "left"),
    [("reply", []), ("fsync", [".cmpd-"]), ("set_aside", ["a.reply.pki"])],
    ids=lambda value: str(value),
)
def test_a_process_that_is_killed_at_any_step_loses_nothing(
    responder: Responder, directory: Path, step: str, left: list[str]
):
    drop(directory, "a.pki")
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(directory), step], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    found = names(directory)
    assert "a.pki" in found
    assert [name.startswith(start) for name, start in zip(sorted(set(found) - {"a.pki"}), left, strict=True)] == [
        True for _ in left
    ]

    async def again() -> None:
        made = make(responder, directory)
        await made.start()
        await until((directory / "a.pki.done").exists)
        await made.drain(5)

    asyncio.run(again())
    assert names(directory) == ["a.pki.done", "a.reply.pki"]
    assert (directory / "a.reply.pki").read_bytes() == b"answer to " + REQUEST


# --- DER's length ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=70_000), st.data())
def test_a_message_is_incomplete_exactly_until_its_last_octet(contents: bytes, data: st.DataObject):
    whole = der.seq(contents)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert is_incomplete(whole[:cut])
    assert not is_incomplete(whole)
    assert not is_incomplete(whole + b"more")


@given(st.binary(min_size=1, max_size=20))
def test_other_octets_are_never_waited_for(octets: bytes):
    assert octets[0] == 0x30 or not is_incomplete(octets)
    assert not is_incomplete(b"\x30\x80" + octets)  # an indefinite length is not DER
