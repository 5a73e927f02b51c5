"""cmpd.client.files against somebody who answers in the directory."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cmpd.client.base import ConnectionLimits
from cmpd.client.errors import AnswerTimeout, ConnectError, ProtocolError, TransportError
from cmpd.client.files import FileExchange
from cmpd.env import Env

QUICK = ConnectionLimits(answer_timeout=5)
Answers = Callable[[Path], None]


def answers(path: Path, change: Callable[[bytes], bytes] = bytes.upper, done: bool = True) -> None:
    """As a server does: the answer appears whole, then the request gets another name."""
    temporary = path.with_name("answer.part")
    temporary.write_bytes(change(path.read_bytes()))
    temporary.rename(path.with_suffix(".reply.pki"))
    if done:
        path.rename(path.with_name(path.name + ".done"))


@asynccontextmanager
async def looking_into(directory: Path, answer: Answers = answers) -> AsyncIterator[list[str]]:
    """Answers each request once; the names of the requests, in their order."""
    seen: list[str] = []

    async def look() -> None:
        while True:
            for path in requests_in(directory):
                if path.name not in seen:
                    seen.append(path.name)
                    answer(path)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(look())
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def requests_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.pki") if not path.name.endswith(".reply.pki"))


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_a_request_is_answered_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with looking_into(tmp_path) as seen, FileExchange(tmp_path, limits=QUICK) as exchange:
        assert await exchange.request(b"request") == b"REQUEST"
        assert await exchange.request(b"another", last=True) == b"ANOTHER"
    assert len(seen) == 2
    assert left(tmp_path) == []


async def test_requests_at_the_same_time_get_their_own_answers(tmp_path: Path) -> None:
    async with looking_into(tmp_path) as seen, FileExchange(tmp_path, limits=QUICK) as exchange:
        requests = [b"request %d" % i for i in range(20)]
        assert await asyncio.gather(*map(exchange.request, requests)) == [one.upper() for one in requests]
    assert len(set(seen)) == 20
    assert left(tmp_path) == []


async def test_a_request_is_never_seen_in_part(tmp_path: Path) -> None:
    octets = bytes(range(256)) * 2000
    wrong = []

    def check(path: Path) -> None:
        if path.read_bytes() != octets:
            wrong.append(path)
        answers(path)

    async with looking_into(tmp_path, check), FileExchange(tmp_path, limits=QUICK) as exchange:
        for _ in range(10):
            assert await exchange.request(octets) is not None
    assert not wrong


async def test_a_request_gets_its_name_when_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synchronise, there = os.fsync, []

    def fsync(descriptor: int) -> None:
        there.append((os.fstat(descriptor).st_size, left(tmp_path)))
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    async with looking_into(tmp_path), FileExchange(tmp_path, limits=QUICK) as exchange:
        assert await exchange.request(b"request") == b"REQUEST"
    [(size, [name])] = there
    assert size == len(b"request")
    assert not name.endswith(".pki")


async def test_an_empty_answer_means_no_cmp_answer(tmp_path: Path) -> None:
    async with (
        looking_into(tmp_path, lambda path: answers(path, lambda _: b"")),
        FileExchange(tmp_path, limits=QUICK) as exchange,
    ):
        assert await exchange.request(b"request") is None


async def test_a_request_that_nobody_answers_is_taken_back(tmp_path: Path) -> None:
    async with FileExchange(tmp_path, limits=ConnectionLimits(answer_timeout=0.1)) as exchange:
        with pytest.raises(AnswerTimeout, match=r"within 0.1 s; the request was taken back"):
            await exchange.request(b"request")
    assert left(tmp_path) == []


async def test_a_request_that_was_taken_but_not_answered_may_have_been_acted_on(tmp_path: Path) -> None:
    async with (
        looking_into(tmp_path, lambda path: path.unlink()),
        FileExchange(tmp_path, limits=ConnectionLimits(answer_timeout=0.2)) as exchange,
    ):
        with pytest.raises(AnswerTimeout, match="whether the server acted on the request is not known"):
            await exchange.request(b"request")


async def test_a_request_that_is_cancelled_is_taken_back(tmp_path: Path) -> None:
    async with FileExchange(tmp_path, limits=QUICK) as exchange:
        task = asyncio.create_task(exchange.request(b"request"))
        while not requests_in(tmp_path):  # noqa: ASYNC110 -- a file has no event
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert left(tmp_path) == []


async def test_a_server_that_renames_late_has_its_request_removed_too(tmp_path: Path) -> None:
    def late(path: Path) -> None:
        answers(path, done=False)
        done = path.with_name(path.name + ".done")
        asyncio.get_running_loop().call_later(0.1, lambda: path.rename(done))

    async with looking_into(tmp_path, late), FileExchange(tmp_path, limits=QUICK) as exchange:
        assert await exchange.request(b"request") == b"REQUEST"
    assert left(tmp_path) == []


async def test_an_answer_is_bounded_and_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"elsewhere")

    def reply(path: Path) -> Path:
        return path.with_suffix(".reply.pki")

    def fifo(path: Path) -> None:
        os.mkfifo(reply(path))

    cases: list[tuple[type[TransportError], str, Answers]] = [
        (ProtocolError, "longer than 10 octets", lambda path: answers(path, lambda _: bytes(11))),
        (ProtocolError, "want a file", fifo),
        (ProtocolError, "want a file", lambda path: reply(path).mkdir()),
        (TransportError, "cannot be read", lambda path: reply(path).symlink_to(tmp_path / "elsewhere")),
    ]
    limits = ConnectionLimits(answer_timeout=5, max_length=10)
    for error, text, answer in cases:
        async with looking_into(tmp_path, answer), FileExchange(tmp_path, limits=limits) as exchange:
            with pytest.raises(error, match=text):
                await exchange.request(b"request")


async def test_a_directory_that_is_not_there_or_not_writable_is_named(tmp_path: Path) -> None:
    for directory in (tmp_path / "gone", tmp_path / "file"):
        (tmp_path / "file").write_bytes(b"")
        async with FileExchange(directory, limits=QUICK) as exchange:
            with pytest.raises(ConnectError, match=f"{directory}: (No such file|Not a directory).*not sent"):
                await exchange.request(b"request")


async def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    numbers = itertools.count()
    env = Env(random=lambda count: bytes(count) if next(numbers) < 2 else b"\1" * count)
    (tmp_path / f".{bytes(12).hex()}.pki.new").write_bytes(b"somebody else's")
    async with FileExchange(tmp_path, limits=QUICK, env=env) as exchange:
        with pytest.raises(ConnectError, match="File exists"):
            await exchange.request(b"request")
    assert (tmp_path / f".{bytes(12).hex()}.pki.new").read_bytes() == b"somebody else's"


async def test_after_close_nothing_is_sent(tmp_path: Path) -> None:
    exchange = FileExchange(tmp_path, limits=QUICK)
    await exchange.close()
    with pytest.raises(TransportError, match="closed by its user"):
        await exchange.request(b"request")
    assert left(tmp_path) == []
