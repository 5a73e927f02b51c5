"""cmpd.client.connection against a server that misbehaves on purpose."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cmpd.client.connection import Connection, ConnectionLimits
from cmpd.client.errors import AnswerTimeout, ConnectError, ConnectionLost, ProtocolError, TransportError
from tests.client.wire import Peer, echo, frame, serving

QUICK = ConnectionLimits(connect_timeout=5, answer_timeout=5)


@pytest.fixture(autouse=True)
async def nothing_escapes_into_the_loop() -> AsyncIterator[None]:
    """What a protocol raises is only told to the loop's handler."""
    escaped: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
    yield
    assert not escaped


async def test_many_requests_share_one_connection_and_get_their_own_answers() -> None:
    async with serving(echo) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        requests = [b"request %d" % i for i in range(200)]
        assert await asyncio.gather(*map(connection.request, requests)) == requests
        assert server.connections == 1


async def test_requests_are_sent_before_earlier_ones_are_answered() -> None:
    async def behave(peer: Peer) -> None:
        messages = [await peer.read() for _ in range(3)]
        for message in messages:
            assert message is not None
            await peer.answer(message[2])
        await peer.read()

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        answers = await asyncio.gather(*(connection.request(value) for value in (b"a", b"b", b"c")))
    assert answers == [b"a", b"b", b"c"]


async def test_answers_arrive_in_any_split() -> None:
    async def behave(peer: Peer) -> None:
        for _ in range(2):
            await peer.read()
        for octet in frame(b"first") + frame(b"second"):
            await peer.raw(bytes((octet,)))
            await asyncio.sleep(0)
        await peer.read()

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        assert await asyncio.gather(connection.request(b"1"), connection.request(b"2")) == [b"first", b"second"]


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_request_without_an_octet_of_answer_is_sent_again_on_a_new_connection(how: str) -> None:
    seen = []

    async def behave(peer: Peer) -> None:
        message = await peer.read()
        assert message is not None
        seen.append(message[2])
        if peer.number < 2:
            if how == "resets":
                peer.reset()
            return
        await peer.answer(b"answer")
        await peer.read()

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        assert await connection.request(b"request") == b"answer"
        assert server.connections == 3
    assert seen == [b"request"] * 3


async def test_repetition_is_bounded() -> None:
    async def behave(peer: Peer) -> None:
        await peer.read()

    limits = ConnectionLimits(retries=1)
    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=limits) as connection:
        with pytest.raises(ConnectionLost, match="2 times without an answer"):
            await connection.request(b"request")
        assert server.connections == 2


@pytest.mark.parametrize("octets", [1, 4, 6, 7, 9])
async def test_a_request_is_not_repeated_once_an_octet_of_its_answer_came(octets: int) -> None:
    async def behave(peer: Peer) -> None:
        await peer.read()
        await peer.raw(frame(b"answer")[:octets])

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        with pytest.raises(ConnectionLost, match="inside an answer"):
            await connection.request(b"request")
        assert server.connections == 1


async def test_only_the_request_whose_answer_was_cut_off_is_lost() -> None:
    async def behave(peer: Peer) -> None:
        if peer.number:
            await echo(peer)
            return
        for _ in range(3):
            await peer.read()
        await peer.raw(frame(b"a") + frame(b"bb")[:8])
        peer.writer.close()

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        results = await asyncio.gather(
            *(connection.request(value) for value in (b"a", b"bb", b"c")), return_exceptions=True
        )
    assert results[0] == b"a"
    assert isinstance(results[1], ConnectionLost)
    assert results[2] == b"c"


async def test_no_request_follows_on_a_connection_whose_answer_had_the_close_bit() -> None:
    async def behave(peer: Peer) -> None:
        message = await peer.read()
        assert message is not None
        await peer.answer(message[2], flags=1)
        assert await peer.read() is None

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        for i in range(3):
            assert await connection.request(b"%d" % i) == b"%d" % i
        assert server.connections == 3


async def test_requests_behind_an_answer_with_the_close_bit_are_sent_again_however_many_there_are() -> None:
    async def behave(peer: Peer) -> None:
        message = await peer.read()
        assert message is not None
        await peer.answer(message[2], flags=1)

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        requests = [b"%d" % i for i in range(20)]
        assert await asyncio.gather(*map(connection.request, requests)) == requests


async def test_unknown_flags_are_ignored() -> None:
    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            await peer.answer(message[2], flags=0xFE)

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        assert await connection.request(b"1") == b"1"
        assert await connection.request(b"2") == b"2"
        assert server.connections == 1


async def test_the_last_request_asks_for_close_and_the_next_one_has_a_new_connection() -> None:
    flags = []

    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            flags.append((peer.number, message[0]))
            await peer.answer(message[2])  # a server that forgets the bit

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        assert await connection.request(b"1") == b"1"
        assert await connection.request(b"2", last=True) == b"2"
        assert await connection.request(b"3") == b"3"
    assert flags == [(0, 0), (0, 1), (1, 0)]


async def test_close_waits_for_the_answers_and_ends_the_connection() -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def behave(peer: Peer) -> None:
        message = await peer.read()
        assert message is not None
        asked.set()
        await asyncio.sleep(0.05)
        await peer.answer(message[2])
        assert await peer.read() is None
        ended.set()

    async with serving(behave) as server:
        connection = Connection("127.0.0.1", server.port, limits=QUICK)
        request = asyncio.create_task(connection.request(b"1"))
        await asked.wait()
        await connection.close()
        assert await request == b"1"
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises(TransportError, match="closed by its user"):
            await connection.request(b"2")


async def test_a_server_that_closes_an_idle_connection_is_not_noticed() -> None:
    async def behave(peer: Peer) -> None:
        message = await peer.read()
        assert message is not None
        await peer.answer(message[2])

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        for i in range(3):
            assert await connection.request(b"%d" % i) == b"%d" % i
            await asyncio.sleep(0.01)


async def test_fin_rep_means_no_cmp_answer() -> None:
    async def behave(peer: Peer) -> None:
        for value in (b"\0", b""):
            await peer.read()
            await peer.answer(value, kind=3)
        await peer.read()

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        assert await connection.request(b"1") is None
        assert await connection.request(b"2") is None


async def test_an_answer_of_type_00_is_taken_like_one_of_type_05() -> None:
    async def behave(peer: Peer) -> None:
        await peer.read()
        await peer.answer(b"answer", kind=0)
        await peer.read()

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        assert await connection.request(b"1") == b"answer"


@pytest.mark.parametrize(
    ("value", "kind", "data", "text"),
    [
        (b"\x02\x01\x00\x01\x09bad type", 0x0201, b"\x09", "bad type"),
        (b"\x02\x01\x00\x08bad type", 0x0201, b"", "bad type"),
        (b"\x03\x00\x00\x00", 0x0300, b"", ""),
        (b"\x01\x01\x00\x01\x0a\x1b[31mred", 0x0101, b"\x0a", "\N{REPLACEMENT CHARACTER}[31mred"),
    ],
)
async def test_error_msg_rep_becomes_an_error_and_the_connection_stays(
    value: bytes, kind: int, data: bytes, text: str
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.read()
        await peer.answer(value, kind=6)
        await echo(peer)

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        with pytest.raises(TransportError, match="unauthenticated") as caught:
            await connection.request(b"1")
        assert (caught.value.type, caught.value.data, caught.value.text) == (kind, data, text)
        assert await connection.request(b"2") == b"2"
        assert server.connections == 1


async def test_a_server_of_rfc_2510_gives_a_clear_error() -> None:
    async def behave(peer: Peer) -> None:
        await peer.read()
        text = b"bad flag 10"
        await peer.raw(struct.pack("!IB", len(text) + 1, 6) + text)

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        with pytest.raises(TransportError, match=r"RFC 2510.*bad flag 10"):
            await connection.request(b"1")


@pytest.mark.parametrize(
    "octets",
    [
        frame(b"x", kind=4),
        frame(b"x", kind=0x90),
        frame(b"\0\0\0\1", kind=2),
        frame(b"x", version=11),
        frame(b"", kind=5),
        frame(b"\2\0\0\5x", kind=6),
        frame(b"\0\0\0\1", kind=1),
        struct.pack("!IB", 2, 5) + b"x",  # finalMsgRep in RFC 2510 framing
        struct.pack("!IB", 0x0F00_0000, 10),
        b"\0\0\0\2\x0a\0",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(b"answer") + frame(b"nobody asked"),
    ],
)
async def test_what_is_no_reply_ends_the_connection(octets: bytes) -> None:
    async def behave(peer: Peer) -> None:
        if peer.number:
            await echo(peer)
            return
        await peer.read()
        await peer.raw(octets)
        assert await peer.read() is None  # the client ended it

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        if octets.startswith(frame(b"answer")):
            assert await connection.request(b"1") == b"answer"
        else:
            with pytest.raises(ProtocolError, match="does not speak tcp-messages"):
                await connection.request(b"1")
        assert await connection.request(b"2") == b"2"
        assert server.connections == 2


async def test_poll_rep_is_followed_by_poll_req_with_its_reference() -> None:
    polls = []

    async def behave(peer: Peer) -> None:
        await peer.read()
        await peer.answer(struct.pack("!II", 0xBEEF, 0), kind=1)
        message = await peer.read()
        assert message is not None
        polls.append(message)
        await peer.answer(b"late answer")
        await peer.read()

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        assert await connection.request(b"1") == b"late answer"
    assert polls == [(0, 2, b"\0\0\xbe\xef")]


async def test_a_server_that_wants_to_be_asked_too_late_is_given_up() -> None:
    async def behave(peer: Peer) -> None:
        await peer.read()
        await peer.answer(struct.pack("!II", 1, 3600), kind=1)
        await peer.read()

    limits = ConnectionLimits(poll_timeout=60)
    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=limits) as connection:
        with pytest.raises(AnswerTimeout, match="asked again in 3600 s"):
            await connection.request(b"1")


async def test_a_silent_server_times_out_and_is_not_asked_again() -> None:
    seen = []

    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            seen.append(message[2])

    limits = ConnectionLimits(answer_timeout=0.1)
    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=limits) as connection:
        with pytest.raises(AnswerTimeout, match=r"no answer .* within 0.1 s"):
            await connection.request(b"1")
        assert server.connections == 1
    assert seen == [b"1"]


async def test_a_request_that_nobody_waits_for_does_not_shift_the_answers() -> None:
    go_on = asyncio.Event()

    async def behave(peer: Peer) -> None:
        for i in range(2):
            message = await peer.read()
            assert message is not None
            if i == 0:
                await go_on.wait()
            await peer.answer(message[2])
        await peer.read()

    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=QUICK) as connection:
        first = asyncio.create_task(connection.request(b"1"))
        second = asyncio.create_task(connection.request(b"2"))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await second == b"2"
        assert server.connections == 1


async def test_closing_does_not_wait_for_an_answer_that_nobody_waits_for() -> None:
    async def behave(peer: Peer) -> None:
        while await peer.reader.read(100):
            pass

    async with serving(behave) as server:
        connection = Connection("127.0.0.1", server.port, limits=QUICK)
        asked = asyncio.create_task(connection.request(b"1"))
        await asyncio.sleep(0.05)
        asked.cancel()
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await connection.close()
        assert server.connections == 1


async def test_no_more_requests_are_in_flight_than_allowed() -> None:
    most = 0

    async def behave(peer: Peer) -> None:
        nonlocal most
        waiting: list[bytes] = []
        while True:
            try:
                message = await asyncio.wait_for(peer.read(), 0.05)
            except TimeoutError:
                most = max(most, len(waiting))
                for value in waiting:
                    await peer.answer(value)
                waiting = []
                continue
            if message is None:
                return
            waiting.append(message[2])

    limits = ConnectionLimits(in_flight=3)
    async with serving(behave) as server, Connection("127.0.0.1", server.port, limits=limits) as connection:
        requests = [b"%d" % i for i in range(7)]
        assert await asyncio.gather(*map(connection.request, requests)) == requests
    assert most == 3


async def test_a_server_that_is_not_there_is_named() -> None:
    async with serving(echo) as server:
        port = server.port
    connection = Connection("127.0.0.1", port)
    with pytest.raises(ConnectError, match=f"127.0.0.1:{port}"):
        await connection.request(b"1")
