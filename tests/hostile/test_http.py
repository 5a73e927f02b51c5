"""Peers of CMP over HTTP that are slow, silent, greedy, many or talk nonsense: each ends in time, others are served.

The parser is aiohttp's one in C (llhttp). What it makes of requests on which two readers could disagree is held here:
whatever is not plain is a 400 and the end of the connection, so that nothing of it can be taken for another request.
"""

import asyncio
import contextlib
import logging
import socket
import time

import aiohttp.http_parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd.transport.http import CmpHttpLimits
from tests.hostile.test_publish import lasts, resident_here
from tests.transport.test_http import (
    CHUNKED,
    CMP,
    FORMS,
    HANGS,
    REQUEST,
    Site,
    assert_is_answer,
    chunk,
    pki_message,
    post,
    serving,
    v10,
)

QUICK = CmpHttpLimits(request_seconds=0.4, idle_seconds=0.8)
GOOD = post(REQUEST)
HEAD = GOOD[: -len(REQUEST)]


async def honest(site: Site) -> None:
    """Somebody who is served, and soon."""
    begin = time.monotonic()
    assert_is_answer(await site.ask(REQUEST))
    assert site.fake.asked.pop() == REQUEST
    assert time.monotonic() - begin < 2


# --- slow and silent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"P", b""),
        (HEAD[: len(HEAD) // 2], b""),
        (b"POST /cmp HTTP/1.1\r\n", b"X: y\r\n"),
        (b"", HEAD),
        (HEAD, b""),
        (HEAD + REQUEST[: len(REQUEST) // 2], b""),
        (post(None, CMP | {"Content-Length": "9000"}), b"0"),
        (CHUNKED + b"8\r\n", b""),
        (CHUNKED, b"1\r\n0\r\n"),
        (CHUNKED + b"5;", b"x"),
        (post(None, CMP | {"Content-Length": "9000", "Expect": "100-continue"}), b"0"),
    ],
    ids=[
        "one octet",
        "half a head",
        "a slow field",
        "a slow head",
        "no content",
        "half a content",
        "a slow content",
        "a chunk",
        "slow chunks",
        "a slow extension",
        "continue",
    ],
)
async def test_a_request_that_does_not_come_to_its_end_is_cut_and_others_are_served(first: bytes, drip: bytes):
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(first)
        if b"Expect" in first:
            assert (await client.answer()).status == 100
        ending = asyncio.create_task(lasts(client, drip))
        await honest(site)
        assert await ending >= 0.3
        assert site.fake.asked == []
        assert site.server.connections <= 1
        await honest(site)


async def test_a_slow_request_behind_good_ones_is_cut_too():
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(GOOD * 3 + post(None, CMP | {"Content-Length": "9000"}))
        for _ in range(3):
            assert (await client.answer()).status == 200
        assert await lasts(client, b"0") >= 0.3
        late = await site.connect()
        late.send(GOOD)
        await late.answer()
        late.send(HEAD)
        assert await lasts(late, b"") >= 0.3


async def test_a_slow_request_that_begins_while_another_is_worked_on_is_cut_after_it():
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(post(HANGS))
        await site.until(lambda: site.fake.asked == [HANGS])
        client.send(HEAD)
        await asyncio.sleep(0.6)  # longer than request_seconds: the answer is not late by the peer's fault
        site.fake.gate.set()
        assert_is_answer(await client.answer(), HANGS)
        assert await lasts(client) < 3


async def test_a_connection_on_which_nothing_is_asked_is_closed_after_its_time():
    async with serving(QUICK) as site:
        silent, used = await site.connect(), await site.connect()
        used.send(GOOD)
        await used.answer()
        begin = time.monotonic()
        assert await silent.ended()
        assert await used.ended()
        assert time.monotonic() - begin >= 0.5


async def test_a_connection_is_held_as_long_as_its_requests_come_in_time():
    async with serving(QUICK) as site:
        client = await site.connect()
        for _ in range(3):  # longer than idle_seconds in all
            client.send(GOOD)
            assert_is_answer(await client.answer())
            await asyncio.sleep(0.5)  # longer than request_seconds, less than idle_seconds
        client.send(GOOD)
        assert_is_answer(await client.answer())


async def test_a_refused_request_whose_content_is_late_costs_no_more_than_its_time():
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(post(None, {"Content-Type": "text/plain", "Content-Length": "100000"}))
        assert (await client.answer()).status == 415
        assert await lasts(client, b"0") < 3
        assert site.fake.asked == []


def deaf(site: Site) -> socket.socket:
    """A socket that takes few octets and that nobody reads."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(5)
    peer.connect(site.server.addresses[0])
    return peer


LARGE = CmpHttpLimits(request_seconds=0.4, idle_seconds=0.8, max_message_octets=8_000_000)


@pytest.mark.parametrize("wrap", [bytes, v10], ids=["DER", "tcp-message"])
async def test_a_peer_that_does_not_read_its_answer_is_cut(wrap: type[bytes]):
    async with serving(LARGE) as site:
        with deaf(site) as peer:
            message = pki_message(filler=bytes(7_000_000))
            await asyncio.get_running_loop().run_in_executor(None, peer.sendall, post(wrap(message)))
            await site.until(lambda: len(site.fake.asked) == 1)
            await site.until(lambda: site.server.connections == 0)
            await honest(site)


async def test_a_peer_that_asks_often_and_reads_nothing_is_cut():
    request = post(pki_message(filler=bytes(50_000)))
    async with serving(QUICK) as site:
        with deaf(site) as peer:
            peer.setblocking(False)
            at = 0
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(30):  # a machine that stands still for a while is no fault of the server
                    while True:
                        try:
                            at = (at + peer.send(memoryview(request)[at:])) % len(request)
                        except BlockingIOError:
                            await asyncio.sleep(0.02)
            await site.until(lambda: site.server.connections == 0)
            await honest(site)


# --- many -------------------------------------------------------------------------------------------------------------


async def test_a_thousand_connections_are_held_while_others_are_served():
    async with serving(CmpHttpLimits(max_connections_per_address=2000)) as site:
        await honest(site)
        before = resident_here()
        crowd = [await site.connect() for _ in range(1000)]
        for client in crowd:
            client.send(GOOD)
        for client in crowd:
            assert_is_answer(await client.answer())
        assert resident_here() - before < 96_000_000  # those of the clients are among them
        begin = time.monotonic()
        for _ in range(20):
            await honest(site)
        assert time.monotonic() - begin < 4
        assert site.server.connections >= 1000
        for client in crowd[::100]:  # they are good for more
            client.send(GOOD)
            assert_is_answer(await client.answer())


async def test_more_connections_than_allowed_are_closed_at_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "cmpd")
    async with serving(CmpHttpLimits(max_connections=3)) as site:
        kept = [await site.connect() for _ in range(3)]
        await site.until(lambda: site.server.connections == 3)
        for _ in range(20):
            assert await (await site.connect()).ended()
        assert caplog.text.count("connection refused") == 1
        for client in kept:
            client.send(GOOD)
            assert_is_answer(await client.answer())


async def test_who_asks_and_leaves_gets_no_more_worked_on_than_connections_allow():
    async with serving(CmpHttpLimits(max_connections_per_address=3)) as site:
        for _ in range(20):
            client = await site.connect()
            client.send(post(HANGS))
            await asyncio.sleep(0.02)
            client.writer.transport.abort()
        assert site.fake.asked == [HANGS] * 3
        site.fake.gate.set()
        await site.until(lambda: site.server.connections == 0)
        await honest(site)


# --- nonsense ---------------------------------------------------------------------------------------------------------


def test_the_parser_is_the_one_in_c():
    """Another one would have other ideas of what is a request; these tests are about this one."""
    assert aiohttp.http_parser.HttpRequestParser.__module__ == "aiohttp._http_parser"


LENGTH = f"Content-Length: {len(REQUEST)}\r\n".encode()
START = b"POST /cmp HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkixcmp\r\n"
ENDED = b"0\r\n\r\n"

AMBIGUOUS = {
    "both lengths": START + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(REQUEST) + ENDED,
    "both lengths, other order": START + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + chunk(REQUEST) + ENDED,
    "two lengths": START + LENGTH + b"Content-Length: 5\r\n\r\n" + REQUEST,
    "the same length twice": START + LENGTH * 2 + b"\r\n" + REQUEST,
    "a list of lengths": START + b"Content-Length: 5, 5\r\n\r\n" + REQUEST,
    "a signed length": START + b"Content-Length: +5\r\n\r\n" + REQUEST,
    "a length in hex": START + b"Content-Length: 0x5\r\n\r\n" + REQUEST,
    "an empty length": START + b"Content-Length: \r\n\r\n" + REQUEST,
    "a space before the colon": START + b"Content-Length : 5\r\n\r\n" + REQUEST,
    "a line end alone": START.replace(b"\r\n", b"\n") + LENGTH.replace(b"\r", b"") + b"\n" + REQUEST,
    "one line end alone": START + LENGTH[:-2] + b"\n\r\n" + REQUEST,
    "a carriage return alone": START + b"X: y\rZ: y\r\n" + LENGTH + b"\r\n" + REQUEST,
    "a folded line": START + b"X: y\r\n z\r\n" + LENGTH + b"\r\n" + REQUEST,
    "a folded length": START + b"Content-Length:\r\n 5\r\n\r\n" + REQUEST,
    "a NUL": START + b"X: \x00\r\n" + LENGTH + b"\r\n" + REQUEST,
    "a NUL in a name": START + b"X\x00: y\r\n" + LENGTH + b"\r\n" + REQUEST,
    "chunked last but one": START + b"Transfer-Encoding: chunked, identity\r\n\r\n" + chunk(REQUEST) + ENDED,
    "chunked twice": START + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + chunk(REQUEST) + ENDED,
    "a coding of its own": START + b"Transfer-Encoding: xchunked\r\n\r\n" + chunk(REQUEST) + ENDED,
    "chunked with a tab": START + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + chunk(REQUEST) + ENDED,
    "a negative chunk": CHUNKED + b"-1\r\nx\r\n" + ENDED,
    "a chunk of 2^64": CHUNKED + b"10000000000000001\r\nx\r\n" + ENDED,
    "a chunk in 0x": CHUNKED + b"0x1\r\nx\r\n" + ENDED,
    "a chunk and a space": CHUNKED + b"1 \r\nx\r\n" + ENDED,
    "a chunk too long": CHUNKED + b"1\r\nxy\r\n" + ENDED,
    "a chunk with a line end alone": CHUNKED + b"1\nx\n0\n\n",
    "an extension with a line end": CHUNKED + b"1;x\ny\r\nx\r\n" + ENDED,
    "no target": b"POST HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": b"POST /c mp HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"POST /cmp\r\n\r\n",
    "version 2": b"POST /cmp HTTP/2.0\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "a tcp-message": v10(pki_message(filler=bytes(300))) + b"\r\n\r\n",
    "a long path": b"POST /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long field": START + b"X: " + b"a" * 9000 + b"\r\n\r\n",
    "many fields": START + b"X: y\r\n" * 1000 + b"\r\n",
    "no host": GOOD.replace(b"Host: x\r\n", b""),
    "two hosts": START + b"Host: y\r\n" + LENGTH + b"\r\n" + REQUEST,
}


@pytest.mark.parametrize("octets", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_what_could_be_read_in_two_ways_is_read_in_none(octets: bytes, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "cmpd")
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(octets + post(pki_message(filler=b"smuggled")))
        got = await client.answer()
        assert got.status in {400, 501}
        assert got.headers["Connection"] == "close"
        assert await client.ended()
        assert site.fake.asked == []
        await honest(site)
    assert caplog.text == ""  # nobody outside fills the log


async def test_http_1_0_has_no_chunks():
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + chunk(REQUEST) + ENDED + GOOD)
        got = await client.answer()
        assert await client.ended()  # whatever it was taken for, nothing behind it is a request
        assert got.status in {200, 400, 411}
        assert len(site.fake.asked) <= 1


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.text("AM0+/= \r\n", max_size=40).map(str.encode),
            st.tuples(st.sampled_from(sorted(FORMS)), st.integers(0, 200), st.binary(max_size=3)).map(
                lambda one: FORMS[one[0]].wrap(REQUEST)[: one[1]] + one[2]
            ),
        ),
        min_size=5,
        max_size=10,
    )
)
def test_whatever_the_content_is_the_answer_is_http_and_the_connection_stays(contents: list[bytes]):
    async def check() -> None:
        async with serving() as site:
            client = await site.connect()
            for content in contents:
                client.send(post(content))
                got = await client.answer()
                assert got.status in {200, 202, 400}
                assert got.headers["Server"] == "cmpd"
            client.send(GOOD)
            assert_is_answer(await client.answer())

    asyncio.run(check())


HEADS = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [b"POST ", b"/cmp", b" HTTP/1.1", b"\r\n", b"\n", b"Host: x\r\n", LENGTH, REQUEST, b": ", b"0"]
        ),
    ),
    max_size=14,
).map(b"".join)


@settings(max_examples=60)
@given(HEADS)
def test_whatever_comes_instead_of_a_request_it_ends_and_others_are_served(octets: bytes):
    async def check() -> None:
        async with serving(CmpHttpLimits(request_seconds=0.1, idle_seconds=0.2)) as site:
            client = await site.connect()
            client.send(octets)
            async with asyncio.timeout(6):
                with contextlib.suppress(ConnectionError):
                    got = await client.reader.read()
                    assert got == b"" or got.startswith(b"HTTP/1.")
            site.fake.asked.clear()
            await honest(site)

    asyncio.run(check())


async def test_a_peer_that_leaves_in_the_middle_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "cmpd")
    async with serving() as site:
        for octets in (HEAD[:9], HEAD, HEAD + REQUEST[:5], CHUNKED + b"9\r\nx", GOOD):
            for ending in ("abort", "close"):
                client = await site.connect()
                client.send(octets)
                await asyncio.sleep(0.03)
                getattr(client.writer.transport, ending)()
        waiting = await site.connect()
        waiting.send(post(HANGS))
        await site.until(lambda: HANGS in site.fake.asked)
        waiting.writer.transport.abort()
        site.fake.gate.set()
        await site.until(lambda: site.server.connections == 0)
        site.fake.asked.clear()
        await honest(site)
    assert caplog.text == ""
