"""Peers of the HTTP door that are slow, silent, greedy or talk nonsense: each ends in time, and others are served."""

import asyncio
import contextlib
import logging
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd.transport.publish import PublishLimits
from tests.transport.raw_http import Client
from tests.transport.test_publish import CHUNKED, GET, Crls, Site, serving

QUICK = PublishLimits(request_seconds=0.4, idle_seconds=0.8)
PATIENCE = 6.0
"""Seconds in which a connection must have ended, however busy the machine; without a limit it would never."""

POST = b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nContent-Length: 100\r\n\r\n"


async def lasts(client: Client, drip: bytes = b"") -> float:
    """Seconds until the server ends the connection, while an octet of `drip` is sent every 20 ms."""
    begin = time.monotonic()
    ended = asyncio.create_task(client.reader.read())
    async with asyncio.timeout(PATIENCE):
        for number in range(10_000):
            if ended.done():
                break
            if drip:
                client.writer.write(drip[number % len(drip) :][:1])
            await asyncio.sleep(0.02)
        with contextlib.suppress(ConnectionError):
            assert await ended == b""
    return time.monotonic() - begin


async def honest(site: Site) -> None:
    assert (await site.ask("GET", "/ca.cer")).status == 200


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"G", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b""),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (b"GET /", b"a"),
        (b"", b"\r\n"),
        (POST, b""),
        (POST + b"x" * 50, b"x" * 7),
        (CHUNKED + b"8\r\n", b""),
        (CHUNKED, b"1\r\nx\r\n"),
    ],
    ids=[
        "one octet",
        "half a head",
        "a slow head",
        "a slow path",
        "line ends",
        "no body",
        "a slow body",
        "a chunk",
        "chunks",
    ],
)
async def test_a_request_that_does_not_come_to_its_end_is_cut(first: bytes, drip: bytes):
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(first)
        assert await lasts(client, drip) >= 0.3
        assert site.responder.asked == []
        await honest(site)


async def test_a_slow_request_after_a_good_one_is_cut_too():
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(GET)
        await client.answer()
        client.send(b"GET /")
        assert await lasts(client, b"x") >= 0.3


async def test_a_connection_on_which_nothing_is_asked_is_closed():
    async with serving(QUICK) as site:
        silent, used = await site.connect(), await site.connect()
        used.send(GET)
        await used.answer()
        begin = time.monotonic()
        assert await silent.ended()
        assert await used.ended()
        assert time.monotonic() - begin >= 0.5


def deaf(site: Site) -> socket.socket:
    """A socket that takes few octets and that nobody reads."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(5)
    peer.connect(site.server.addresses[0])
    return peer


BIG = Crls(full=bytes(20_000_000))


@pytest.mark.parametrize("requests", [1, 30], ids=["one", "in a row"])
async def test_a_peer_that_does_not_read_its_answer_is_cut(requests: int):
    async with serving(QUICK, crls=BIG) as site:
        with deaf(site) as peer:
            peer.sendall(b"GET /ca.crl HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
            await site.until(lambda: site.server.connections == 1)
            await honest(site)
            await site.until(lambda: site.server.connections == 0)


async def test_a_peer_that_asks_often_and_reads_nothing_is_cut():
    async with serving(QUICK) as site:
        with deaf(site) as peer:
            peer.setblocking(False)
            begin = time.monotonic()
            try:
                while time.monotonic() - begin < PATIENCE:
                    try:
                        peer.send(GET * 100)
                    except BlockingIOError:
                        await asyncio.sleep(0.02)
            except ConnectionError:
                return
    raise AssertionError("it is still there")


async def test_a_slow_reader_that_keeps_reading_gets_all():
    async with serving(PublishLimits(request_seconds=0.6, idle_seconds=5), crls=Crls(full=bytes(1_500_000))) as site:
        with deaf(site) as peer:
            peer.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(peer, b"GET /ca.crl HTTP/1.0\r\n\r\n")
            begin, size = time.monotonic(), 0
            while octets := await loop.sock_recv(peer, 8192):
                size += len(octets)
                await asyncio.sleep(0.01)
            assert size > 1_500_000
            assert time.monotonic() - begin > 1.2  # longer than request_seconds


async def test_more_connections_than_allowed_are_closed_at_once(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "cmpd")
    async with serving(PublishLimits(max_connections=3)) as site:
        kept = [await site.connect() for _ in range(3)]
        await site.until(lambda: site.server.connections == 3)
        for _ in range(20):
            assert await (await site.connect()).ended()
        assert site.server.connections == 3
        assert caplog.text.count("connection refused") == 1
        for client in kept:
            client.send(GET)
            assert (await client.answer()).status == 200
        kept[0].writer.close()
        await site.until(lambda: site.server.connections == 2)
        await honest(site)


async def test_one_address_does_not_hold_all_connections(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "cmpd")
    async with serving(PublishLimits(max_connections=100, max_connections_per_address=3)) as site:
        kept = [await site.connect() for _ in range(3)]
        await site.until(lambda: site.server.connections == 3)
        for _ in range(20):
            assert await (await site.connect()).ended()
        assert site.server.connections == 3
        assert caplog.text.count("its address has 3 (max_connections_per_address)") == 1
        for port in range(3):  # another address has its own
            other = await site.connect(local_addr=("127.0.0.2", 0))
            other.send(GET)
            assert (await other.answer()).status == 200, port
        kept[0].writer.close()
        await site.until(lambda: site.server.connections == 5)
        await honest(site)


async def test_a_thousand_idle_connections_cost_little_and_delay_nobody():
    async with serving(PublishLimits(max_connections_per_address=1001)) as site:
        await honest(site)
        await site.until(lambda: site.server.connections == 0)
        before = resident_here()
        crowd = [await site.connect() for _ in range(1000)]
        await site.until(lambda: site.server.connections == 1000)
        assert resident_here() - before < 64_000_000  # those of the clients are among them
        crowd.pop().writer.close()
        await site.until(lambda: site.server.connections == 999)
        begin = time.monotonic()
        await honest(site)
        assert time.monotonic() - begin < 2


def resident_here() -> int:
    """Resident memory of this process, in octets."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.parametrize(
    "octets",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x00\x00\x00\x10\x0a\x00\x00" + bytes(100) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX\x00: y\r\n\r\n",
        b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=[
        "TLS",
        "tcp-message",
        "HTTP/2",
        "9.9",
        "long path",
        "long field",
        "fields",
        "NUL",
        "lengths",
        "smuggled",
        "URL",
    ],
)
async def test_what_is_no_http_gets_a_400_and_the_end(octets: bytes, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "cmpd")
    async with serving(QUICK) as site:
        client = await site.connect()
        client.send(octets)
        got = await client.answer()
        assert got.status == 400
        assert got.headers["Connection"] == "close"
        assert got.body == b"400 Bad Request: want HTTP/1.1, and no line longer than 8190 octets\n"
        await client.ended()
        await honest(site)
    assert caplog.text == ""  # nobody outside fills the log


TARGET = st.one_of(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60),
    st.lists(
        st.sampled_from(["/", "//", "ocsp", "ca.crl", "%", "%2f", "%00", "%ff", "..", "?", "#", "=", "+", "MAA="])
    ).map("".join),
)
FIELD = st.sampled_from(
    ["If-None-Match", "If-Modified-Since", "Host", "Accept", "Range", "Connection", "Upgrade", "Expect"]
)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "BREW"]),
            TARGET,
            FIELD,
            st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30),
        ),
        min_size=5,
        max_size=10,
    )
)
def test_whatever_is_asked_for_the_answer_is_http(requests: list[tuple[str, str, str, str]]):
    async def check() -> None:
        async with serving() as site:
            for method, target, name, value in requests:
                client = await site.connect()
                client.send(f"{method} /{target} HTTP/1.1\r\n{name}: {value}\r\n\r\n".encode())
                got = await client.answer(method)
                assert got.status in {200, 304, 400, 404, 405, 411, 415}
                assert got.headers["Server"] == "cmpd"

    asyncio.run(check())


@pytest.mark.parametrize("target", ["http://", "*", "x:80", "http://h", "HTTP://h/ca.cer", "https://h//ca.cer"])
async def test_odd_forms_of_a_target_get_an_answer(target: str):
    async with serving() as site:
        got = await site.ask("GET", target)
        assert got.status in {200, 400, 404}


async def test_a_peer_that_leaves_in_the_middle_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "cmpd")
    async with serving(crls=BIG) as site:
        for octets in (
            POST,
            POST + b"x" * 10,
            CHUNKED + b"9\r\nx",
            b"GET /ca.crl HTTP/1.1\r\nHost: x\r\n\r\n",
            GET[:9],
        ):
            client = await site.connect()
            client.send(octets)
            await asyncio.sleep(0.05)
            client.writer.transport.abort()
        waiting = await site.connect()
        waiting.send(POST.replace(b"100", b"4") + b"wait")
        await site.until(lambda: site.responder.asked == [b"wait"])
        waiting.writer.transport.abort()
        site.responder.gate.set()
        await site.until(lambda: site.server.connections == 0)
        await honest(site)
    assert caplog.text == ""
