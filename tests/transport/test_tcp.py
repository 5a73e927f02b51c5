"""The raw TCP transport against real sockets, on both loops, with a responder that does as the request says."""

import asyncio
import contextlib
import logging
import random
import socket
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from cmpd.env import Env
from cmpd.transport import TRANSPORTS
from cmpd.transport.base import Answer, Door, Origin, UnknownReference, Waiting
from cmpd.transport.tcp import TcpLimits, TcpServer
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import Decoder, ErrorMsgRep, ErrorType, FinRep, Frame, Framing, PkiRep, PollRep

V10, OLD = Framing.V10, Framing.RFC2510
LOCAL = ("127.0.0.1", 0)


class Responder:
    """Answers b"x" with b"answer to x"; b"none", b"raise", b"big", b"later" and b"wait NAME" are orders.

    Under the polling references in `waiting` there is what is to be answered.
    """

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.done: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.origins: set[Origin] = set()
        self.waiting: dict[int, Answer] = {}
        self.running = 0
        self.most = 0
        self.gates: defaultdict[bytes, asyncio.Event] = defaultdict(asyncio.Event)

    async def poll(self, reference: int, origin: Origin) -> Answer:
        self.origins.add(origin)
        if reference not in self.waiting:
            raise UnknownReference
        return self.waiting[reference]

    async def respond(self, der: bytes, origin: Origin) -> Answer:
        assert type(der) is bytes
        self.seen.append(der)
        self.origins.add(origin)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.obey(der)
        except asyncio.CancelledError:
            self.cancelled.append(der)
            raise
        finally:
            self.running -= 1
            self.done.append(der)

    async def obey(self, der: bytes) -> Answer:
        if der.startswith(b"wait"):
            await self.gates[der].wait()
        if der == b"none":
            return None
        if der == b"raise":
            raise LookupError("a secret detail")
        if der == b"later":
            return Waiting(0xBEEF, 60)
        if der.startswith(b"big"):
            return bytes(60_000) + der
        return b"answer to " + der


class Client:
    """A raw connection that reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.decoder = Decoder(1_000_000)

    def send(self, *messages: bytes) -> None:
        self.writer.write(b"".join(messages))

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        async with asyncio.timeout(5):
            while (event := self.decoder.next()) is None:
                data = await self.reader.read(65536)
                if not data:
                    assert not self.decoder.partial
                    return None
                self.decoder.feed(data)
        assert isinstance(event, Frame)
        return event

    async def answer(self) -> tuple[tcpmsg.Reply, bool]:
        frame = await self.frame()
        assert frame is not None, "closed instead of answered"
        return tcpmsg.reply(frame), frame.close

    async def error(self) -> ErrorMsgRep:
        reply, _ = await self.answer()
        assert isinstance(reply, ErrorMsgRep)
        return reply

    async def ended(self) -> bool:
        return await self.frame() is None


class Site:
    """A server and its clients, all gone at the end of the test."""

    def __init__(self, limits: dict[str, Any], **options: Any) -> None:
        self.responder = Responder()
        self.server = TcpServer(self.responder, TcpLimits(**limits), **options)
        self.clients: list[Client] = []

    async def connect(self, **options: Any) -> Client:
        client = Client(*await asyncio.open_connection(*self.server.addresses[0], **options))
        self.clients.append(client)
        return client

    def connection(self) -> Any:
        (connection,) = self.server._admission.connections
        return connection


AnySite = TypeVar("AnySite", bound=Site)


def serving(**limits: Any) -> contextlib.AbstractAsyncContextManager[Site]:
    return running(Site(limits))


@contextlib.asynccontextmanager
async def running(site: AnySite) -> AsyncIterator[AnySite]:
    await site.server.start([LOCAL])
    try:
        yield site
    finally:
        for client in site.clients:
            client.writer.transport.abort()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()
        await site.server.drain(0.5)
        assert site.server.connections == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 -- what is waited for is state of the server, which has no event
            await asyncio.sleep(0.005)


# --- messages ---------------------------------------------------------------------------------------------------------


def test_table_has_the_transport() -> None:
    assert TRANSPORTS["tcp"] is TcpServer


@pytest.mark.parametrize("framing", Framing)
async def test_request_is_answered_in_its_framing_and_the_connection_stays_open(framing: Framing) -> None:
    async with serving() as site:
        client = await site.connect()
        for number in range(5):
            client.send(tcpmsg.pki_req(b"%d" % number, framing))
            assert await client.frame() == Frame(framing, 5, False, b"answer to %d" % number)
        host, port = client.writer.get_extra_info("sockname")
        assert site.responder.origins == {Origin(f"{host}:{port}", Door("tcp"), polls=True)}


@pytest.mark.parametrize("framing", Framing)
async def test_request_without_cmp_answer_gets_finrep(framing: Framing) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"none", framing))
        assert await client.frame() == Frame(framing, 3, False, b"\0")


@pytest.mark.parametrize("framing", Framing)
async def test_failing_responder_is_answered_with_a_fixed_text_and_logged(
    framing: Framing, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"raise", framing), tcpmsg.pki_req(b"next", framing))
        error = await client.error()
        assert error.error == (ErrorType.GeneralServerError if framing is V10 else None)
        assert error.text == "internal error of the server"
        assert await client.answer() == (PkiRep(b"answer to next"), False)
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.name == "cmpd.transport.tcp"
    assert "127.0.0.1" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


# --- polling ----------------------------------------------------------------------------------------------------------


async def test_who_has_to_wait_is_told_in_seconds_or_as_a_point_in_time() -> None:
    async with serving() as site:
        site.server.env = Env(now=lambda: 1_767_225_600.9)
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"later"), tcpmsg.pki_req(b"later", OLD), tcpmsg.pki_req(b"later", close=True))
        assert await client.frame() == Frame(V10, 1, False, bytes.fromhex("0000beef 0000003c"))
        assert await client.frame() == Frame(OLD, 1, False, bytes.fromhex("0000beef 6955b93c"))
        assert await client.answer() == (PollRep(0xBEEF, 60), True)
        assert await client.ended()


@pytest.mark.parametrize("framing", Framing)
async def test_polling_brings_what_there_is(framing: Framing) -> None:
    async with serving() as site:
        site.server.env = Env(now=lambda: 1_767_225_600)
        client = await site.connect()
        site.responder.waiting = {1: b"an answer", 0xFFFFFFFF: None, 3: Waiting(3, 5)}
        client.send(*[tcpmsg.poll_req(reference, framing) for reference in (1, 0xFFFFFFFF, 3, 4, 0, 1)])
        time = 5 if framing is V10 else 1_767_225_605
        assert [(await client.answer())[0] for _ in range(3)] == [PkiRep(b"an answer"), FinRep(), PollRep(3, time)]
        for reference in ("00000004", "00000000"):
            error = await client.error()
            assert error.error == (ErrorType.InvalidPollID if framing is V10 else None)
            assert error.data == (bytes.fromhex(reference) if framing is V10 else b"")
            assert error.text == f"polling reference: {reference} is unknown"
        assert await client.answer() == (PkiRep(b"an answer"), False)
        assert site.responder.seen == []


@pytest.mark.parametrize("on", [True, False])
async def test_clients_in_rfc2510_framing_may_be_polled_whatever_the_door_says(on: bool) -> None:
    async with serving(transport_polling=on) as site:
        client = await site.connect()
        for framing, polls in ((V10, on), (OLD, True)):
            site.responder.origins.clear()
            client.send(tcpmsg.pki_req(b"x", framing), tcpmsg.poll_req(1, framing))
            await client.answer()
            await client.error()
            assert {origin.polls for origin in site.responder.origins} == {polls}


async def test_framings_may_be_mixed_on_one_connection() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(*[tcpmsg.pki_req(b"%d" % i, (V10, OLD)[i % 2]) for i in range(10)])
        for i in range(10):
            assert await client.frame() == Frame((V10, OLD)[i % 2], 5, False, b"answer to %d" % i)


async def test_octet_by_octet_is_read() -> None:
    async with serving() as site:
        client = await site.connect()
        for octet in tcpmsg.pki_req(b"slow") + tcpmsg.pki_req(b"old", OLD):
            client.send(bytes([octet]))
            await asyncio.sleep(0)
        assert await client.answer() == (PkiRep(b"answer to slow"), False)
        assert await client.answer() == (PkiRep(b"answer to old"), False)


FAULTS = [
    ("empty pkiReq", "00000003 0a0000", ErrorType.GeneralClientError, b""),
    ("pollReq", "00000007 0a0002 0000beef", ErrorType.InvalidPollID, b"\0\0\xbe\xef"),
    ("short pollReq", "00000006 0a0002 0000be", ErrorType.GeneralClientError, b""),
    ("pollRep", "0000000b 0a0001 0000beef0000003c", ErrorType.InvalidMessageType, b"\x01"),
    ("finRep", "00000004 0a0003 00", ErrorType.InvalidMessageType, b"\x03"),
    ("type 4", "00000004 0a0004 00", ErrorType.InvalidMessageType, b"\x04"),
    ("pkiRep", "00000004 0a0005 00", ErrorType.InvalidMessageType, b"\x05"),
    ("errorMsgRep", "00000007 0a0006 02000000", ErrorType.InvalidMessageType, b"\x06"),
    ("type 7", "00000004 0a0007 00", ErrorType.InvalidMessageType, b"\x07"),
    ("type 255", "00000003 0a00ff", ErrorType.InvalidMessageType, b"\xff"),
    ("version 11", "00000004 0b0000 00", ErrorType.VersionNotSupported, b"\x0a"),
    ("version 255", "00000003 ff0000", ErrorType.VersionNotSupported, b"\x0a"),
    ("RFC 2510 pollReq", "00000005 02 0000beef", None, b""),
    ("RFC 2510 finalMsgRep", "00000002 05 00", None, b""),
    ("empty pkiMsg", "00000001 00", None, b""),
    ("version 7", "00000002 07 00", None, b""),
    ("version 9", "00000002 09 00", None, b""),
]


@pytest.mark.parametrize(("wire", "error", "data"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
async def test_fault_is_answered_and_the_connection_goes_on(wire: str, error: ErrorType | None, data: bytes) -> None:
    async with serving() as site:
        client = await site.connect()
        octets = bytes.fromhex(wire)
        client.send(octets, tcpmsg.pki_req(b"x"))
        frame = await client.frame()
        assert frame is not None
        assert (frame.framing, frame.close) == (OLD if error is None else V10, False)
        reply = tcpmsg.reply(frame)
        assert isinstance(reply, ErrorMsgRep)
        assert (reply.error, reply.data) == (error, data)
        assert reply.text
        assert await client.answer() == (PkiRep(b"answer to x"), False)
        if error is not None:  # the close bit of a faulty request counts too
            client.send(octets[:5] + b"\x01" + octets[6:])
            assert (await client.answer())[1] is True
            assert await client.ended()
        assert site.responder.seen == [b"x"]


@pytest.mark.parametrize(
    ("head", "error"),
    [
        ("00000002 0a0000", ErrorType.GeneralClientError),
        ("00000000 0a", ErrorType.GeneralClientError),
        ("00001001 0a0000", ErrorType.GeneralClientError),
        ("00001001 0c0000", ErrorType.VersionNotSupported),
        ("00001001 00", None),
        ("00000000 00", None),
    ],
)
async def test_length_that_cannot_be_trusted_ends_the_connection(head: str, error: ErrorType | None) -> None:
    async with serving(max_message_octets=4096) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"wait first"), bytes.fromhex(head), tcpmsg.pki_req(b"never read"), bytes(300_000))
        await until(lambda: site.responder.running == 1)
        site.responder.gates[b"wait first"].set()
        assert await client.answer() == (PkiRep(b"answer to wait first"), False)
        reply, close = await client.answer()
        assert isinstance(reply, ErrorMsgRep)
        assert (reply.error, close) == (error, error is not None)
        assert await client.ended()
        assert site.responder.seen == [b"wait first"]


async def test_rfc2510_that_is_switched_off_gets_its_errormsgrep_and_may_go_on_in_v10() -> None:
    async with serving(rfc2510=False) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x", OLD))
        frame = await client.frame()
        assert frame is not None
        assert (frame.framing, frame.type) == (OLD, 6)
        client.send(tcpmsg.pki_req(b"x"))
        assert await client.answer() == (PkiRep(b"answer to x"), False)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"POST /pkix/ HTTP/1.0\r\nContent-Length: 4\r\n\r\nabcd", ("HTTP", "port of its own (80")),
        (b"GET / HTTP/1.1\r\n\r\n", ("HTTP", "port of its own (80")),
        (bytes.fromhex("160301020001 0001fc0303") + bytes(500), ("TLS", "443")),
        (bytes.fromhex("30820612 3082012f 020102") + bytes(1500), ("DER", "header of a tcp-message")),
    ],
)
async def test_other_protocol_gets_a_clean_close_and_a_log_line(
    start: bytes, words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with serving() as site:
        client = await site.connect()
        client.send(start)
        assert await client.reader.read() == b""  # a reset would raise
        assert site.responder.seen == []
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert all(word in record.getMessage() for word in words)


async def test_no_message_content_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cmpd")
    async with serving() as site:
        client = await site.connect()
        client.send(*[tcpmsg.message(V10, kind, b"hush hush") for kind in (5, 0, 2)], tcpmsg.pki_req(b"raise"))
        for _ in range(4):
            await client.frame()
        text = "".join(r.getMessage() for r in caplog.records)
        assert "InvalidMessageType" in text
        assert "hush" not in text
        assert b"hush".hex() not in text


# --- order, close bit, half close -------------------------------------------------------------------------------------


async def test_pipelined_requests_are_worked_on_together_and_answered_in_order() -> None:
    async with serving() as site:
        client = await site.connect()
        names = [b"wait %d" % i for i in range(20)]
        client.send(*[tcpmsg.pki_req(name, (V10, OLD)[i % 2]) for i, name in enumerate(names)])
        await until(lambda: site.responder.running == 20)
        order = names[1:]
        random.Random(1).shuffle(order)
        for name in order:
            site.responder.gates[name].set()
        await until(lambda: site.responder.running == 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.reader.read(1)
        site.responder.gates[names[0]].set()
        for i, name in enumerate(names):
            assert await client.frame() == Frame((V10, OLD)[i % 2], 5, False, b"answer to " + name)


async def test_fault_between_requests_keeps_its_place() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"wait a"), tcpmsg.poll_req(7), tcpmsg.pki_req(b"none"), tcpmsg.pki_req(b"b"))
        await until(lambda: len(site.responder.done) == 2)
        site.responder.gates[b"wait a"].set()
        assert await client.answer() == (PkiRep(b"answer to wait a"), False)
        assert (await client.error()).data == (7).to_bytes(4, "big")
        assert await client.answer() == (FinRep(), False)
        assert await client.answer() == (PkiRep(b"answer to b"), False)


async def test_no_more_requests_than_max_in_flight_are_worked_on() -> None:
    async with serving(max_in_flight=3) as site:
        client = await site.connect()
        names = [b"wait %d" % i for i in range(50)]
        client.send(*[tcpmsg.pki_req(name) for name in names])
        for i, name in enumerate(names):
            await until(lambda i=i: len(site.responder.seen) == min(i + 3, 50))
            assert site.responder.running <= 3
            assert not site.connection()._transport.is_reading() or i >= 47
            site.responder.gates[name].set()
            assert await client.answer() == (PkiRep(b"answer to " + name), False)
        assert site.responder.most == 3


async def test_octets_in_flight_are_bounded_too() -> None:
    async with serving(max_message_octets=10_000) as site:
        client = await site.connect()
        names = [b"wait %d" % i + bytes(4000) for i in range(12)]
        client.send(*[tcpmsg.pki_req(name) for name in names])
        await asyncio.sleep(0.05)
        assert site.responder.running == 3
        for name in names:
            site.responder.gates[name].set()
        for name in names:
            assert await client.answer() == (PkiRep(b"answer to " + name), False)


async def test_one_peer_with_many_frames_leaves_turns_to_the_others() -> None:
    async with serving(max_in_flight=4) as site:
        greedy, modest = await site.connect(), await site.connect()
        greedy.send(tcpmsg.poll_req(1) * 3000)
        modest.send(tcpmsg.pki_req(b"x"))
        assert await modest.answer() == (PkiRep(b"answer to x"), False)
        for _ in range(3000):
            assert (await greedy.error()).error == ErrorType.InvalidPollID


async def test_close_bit_in_a_request_is_in_its_answer_and_nothing_after_it_is_read() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"a"), tcpmsg.pki_req(b"b", close=True), tcpmsg.pki_req(b"c"), bytes(400_000))
        assert await client.answer() == (PkiRep(b"answer to a"), False)
        assert await client.answer() == (PkiRep(b"answer to b"), True)
        assert await client.ended()
        assert site.responder.seen == [b"a", b"b"]


@pytest.mark.parametrize(("request_", "reply"), [(b"none", FinRep()), (b"raise", None)])
async def test_close_bit_is_in_finrep_and_errormsgrep_too(request_: bytes, reply: FinRep | None) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(request_, close=True))
        found, close = await client.answer()
        assert close is True
        assert found == reply if reply else isinstance(found, ErrorMsgRep)
        assert await client.ended()


async def test_server_closes_when_the_client_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmpd.transport.tcp_connection.LINGER_SECONDS", 0.1)
    async with serving(send_seconds=0.2) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x", close=True))
        await client.answer()
        assert await client.ended()
        await until(lambda: site.server.connections == 0)  # although the client never closes


async def test_half_close_leaves_the_way_open_for_the_answers() -> None:
    async with serving(max_in_flight=2) as site:
        client = await site.connect()
        names = [b"wait %d" % i for i in range(6)]
        client.send(*[tcpmsg.pki_req(name) for name in names], b"\0\0\0\x20\x0a")
        client.writer.write_eof()
        await until(lambda: site.responder.running == 2)
        for name in names:
            site.responder.gates[name].set()
        for name in names:
            assert await client.answer() == (PkiRep(b"answer to " + name), False)
        assert await client.ended()
        await until(lambda: site.server.connections == 0)


async def test_half_close_while_the_only_request_is_worked_on_loses_nothing() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"wait"))
        client.writer.write_eof()
        await until(lambda: site.server.connections == 1 and site.connection()._eof)
        site.responder.gates[b"wait"].set()
        assert await client.answer() == (PkiRep(b"answer to wait"), False)
        assert await client.ended()


async def test_half_close_without_a_request_closes() -> None:
    async with serving() as site:
        for start in (b"", b"\0\0"):
            client = await site.connect()
            client.send(start)
            client.writer.write_eof()
            assert await client.ended()
        await until(lambda: site.server.connections == 0)


async def test_requests_of_a_peer_that_is_gone_are_finished_and_count_until_then() -> None:
    async with serving(max_connections=1) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"wait x"), tcpmsg.pki_req(b"wait y"))
        await until(lambda: site.responder.running == 2)
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        await until(lambda: site.connection()._lost)
        site.responder.gates[b"wait y"].set()
        await until(lambda: site.responder.running == 1)
        refused = await site.connect()
        assert await refused.ended()
        site.responder.gates[b"wait x"].set()
        await until(lambda: site.server.connections == 0)
        assert site.responder.cancelled == []
        again = await site.connect()
        again.send(tcpmsg.pki_req(b"z"))
        assert await again.answer() == (PkiRep(b"answer to z"), False)


# --- limits -----------------------------------------------------------------------------------------------------------


async def slow_reader(site: Site) -> Client:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, site.server.addresses[0])
    client = Client(*await asyncio.open_connection(sock=sock, limit=4096))
    site.clients.append(client)
    return client


async def test_slow_reader_is_paused_and_nothing_is_buffered_without_bound() -> None:
    async with serving(write_high_water=100_000, max_in_flight=8) as site:
        client = await slow_reader(site)
        names = [b"big %d" % i for i in range(400)]
        for name in names:
            client.send(tcpmsg.pki_req(name + bytes(2000)))
        await until(lambda: site.server.connections == 1 and site.connection()._write_paused)
        await asyncio.sleep(0.1)
        connection = site.connection()
        worked_on = len(site.responder.seen)
        assert connection._held
        assert not connection._transport.is_reading()
        assert connection._transport.get_write_buffer_size() <= 100_000 + 70_000
        assert len(connection._slots) <= 8
        assert connection._decoder.held <= 262_144
        assert worked_on < 200
        await asyncio.sleep(0.1)
        assert len(site.responder.seen) == worked_on
        for name in names:
            reply, _ = await client.answer()
            assert isinstance(reply, PkiRep)
            assert reply.der[60_000:].startswith(name + b"\0")
        assert connection._transport.is_reading()


async def test_no_request_is_taken_while_answers_wait_for_the_peer() -> None:
    async with serving(write_high_water=1000) as site:
        client = await slow_reader(site)
        sent = 0
        while sent == 0 or not site.connection()._write_paused:
            client.send(tcpmsg.pki_req(b"big"))
            sent += 1
            await until(lambda: len(site.responder.done) == sent)  # noqa: B023 -- awaited here
            await asyncio.sleep(0.005)
        client.send(tcpmsg.pki_req(b"x"))
        await asyncio.sleep(0.1)
        assert b"x" not in site.responder.seen
        for _ in range(sent):
            await client.answer()
        assert await client.answer() == (PkiRep(b"answer to x"), False)


@pytest.mark.parametrize("high", [1000, 10_000_000])
async def test_peer_that_does_not_read_is_cut(high: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with serving(write_high_water=high, send_seconds=0.2) as site:
        client = await slow_reader(site)
        client.send(*[tcpmsg.pki_req(b"big")] * 120)
        await until(lambda: site.server.connections == 1)
        await until(lambda: site.server.connections == 0)
    assert "octets unread for 0.2 seconds" in caplog.text


async def test_peer_that_half_closes_and_does_not_read_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with serving(write_high_water=10_000_000, send_seconds=0.2) as site:
        client = await slow_reader(site)
        client.send(*[tcpmsg.pki_req(b"big")] * 120)
        client.writer.write_eof()
        await until(lambda: len(site.responder.done) == 120)
        await until(lambda: site.server.connections == 0)
    assert "octets unread for 0.2 seconds" in caplog.text


async def test_peer_that_reads_slowly_but_steadily_is_not_cut() -> None:
    async with serving(write_high_water=50_000, send_seconds=0.3) as site:
        client = await slow_reader(site)
        client.send(*[tcpmsg.pki_req(b"big")] * 120)
        for _ in range(120):
            await client.answer()
            await asyncio.sleep(0.008)
        assert site.server.connections == 1


@pytest.mark.parametrize("start", [b"\0", b"\0\0\x10\0\x0a\0", b"\0\0\x10\0\x0a\0\0abc", b"\0\0\x10\0\0abc"])
async def test_frame_that_is_not_whole_in_time_cuts_the_connection(
    start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with serving(partial_frame_seconds=0.15) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        assert await client.answer() == (PkiRep(b"answer to x"), False)
        client.send(start)
        try:
            async with asyncio.timeout(3):
                for _ in range(1000):  # a trickle does not help
                    client.send(b"\1")
                    await client.writer.drain()
                    await asyncio.sleep(0.01)
        except (ConnectionError, RuntimeError):  # RuntimeError: uvloop, writing to what is closed
            pass
        await until(lambda: site.server.connections == 0)
    assert "a frame was not whole after 0.15 seconds" in caplog.text


async def test_many_frames_in_time_are_no_partial_frame() -> None:
    async with serving(partial_frame_seconds=0.4) as site:
        client = await site.connect()
        frame = tcpmsg.pki_req(b"0123456789")
        client.send(frame[:5])
        for _ in range(60):  # there is always one that is not whole, never for long
            client.send(frame[5:] + frame[:5])
            assert await client.answer() == (PkiRep(b"answer to 0123456789"), False)
            await asyncio.sleep(0.01)


async def test_idle_connection_is_closed_and_a_working_one_is_not() -> None:
    async with serving(idle_seconds=0.15) as site:
        idle, used, waiting = await site.connect(), await site.connect(), await site.connect()
        waiting.send(tcpmsg.pki_req(b"wait"))
        loop = asyncio.get_running_loop()
        start = loop.time()
        idle_end = asyncio.create_task(idle.ended())
        while not idle_end.done() or loop.time() - start < 0.4:
            used.send(tcpmsg.pki_req(b"x"))
            assert await used.answer() == (PkiRep(b"answer to x"), False)
            await asyncio.sleep(0.02)
        assert await idle_end
        site.responder.gates[b"wait"].set()
        assert await waiting.answer() == (PkiRep(b"answer to wait"), False)
        assert await used.ended()
        assert await waiting.ended()


async def test_clock_can_be_given() -> None:
    now = 1000.0
    server = TcpServer(Responder(), TcpLimits(idle_seconds=3600, partial_frame_seconds=0.1), clock=lambda: now)
    await server.start([LOCAL])
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    await until(lambda: server.connections == 1)
    now += 3599
    await asyncio.sleep(0.05)
    assert server.connections == 1
    now += 1
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await writer.wait_closed()
    await server.drain(1)


@pytest.mark.parametrize("name", ["max_connections", "max_connections_per_address"])
async def test_connection_over_the_limit_is_closed_at_once_with_one_log_line(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(**{name: 3}) as site:
        clients = [await site.connect() for _ in range(3)]
        for client in clients:
            client.send(tcpmsg.pki_req(b"x"))
            assert await client.answer() == (PkiRep(b"answer to x"), False)
        for _ in range(5):
            assert await (await site.connect()).ended()
        assert site.server.connections == 3
        clients[0].writer.close()
        await until(lambda: site.server.connections == 2)
        late = await site.connect()
        late.send(tcpmsg.pki_req(b"y"))
        assert await late.answer() == (PkiRep(b"answer to y"), False)
    (record,) = caplog.records
    assert name in record.getMessage()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_message_octets": 2},
        {"max_message_octets": 1 << 30},
        {"max_in_flight": 0},
        {"max_connections": 0},
        {"write_high_water": 0},
        {"idle_seconds": 0},
        {"partial_frame_seconds": -1},
        {"send_seconds": 0},
    ],
)
def test_limits_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="want"):
        TcpLimits(**wrong)


# --- start and drain --------------------------------------------------------------------------------------------------


async def test_ready_made_sockets_and_several_addresses_are_listened_on() -> None:
    responder = Responder()
    server = TcpServer(responder)
    ready = socket.create_server(LOCAL)
    await server.start([ready, LOCAL])
    assert len(server.addresses) == 2
    assert server.addresses[0] == ready.getsockname()
    for host, port in server.addresses:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(tcpmsg.pki_req(b"x", close=True))
        assert await reader.read() == tcpmsg.pki_rep(V10, b"answer to x", close=True)
        writer.close()
        await writer.wait_closed()
    await server.drain(1)
    assert server.addresses == ()


async def test_start_that_fails_leaves_no_listener() -> None:
    server = TcpServer(Responder())
    with socket.create_server(LOCAL) as taken, socket.create_server(LOCAL) as free:
        address = free.getsockname()
        free.close()
        with pytest.raises(OSError, match=r"(?i)in use"):
            await server.start([address, taken.getsockname()])
    assert server.addresses == ()
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_drain_closes_idle_connections_at_once_and_lets_the_others_finish_with_the_close_bit() -> None:
    async with serving() as site:
        idle, busy, late, begun, old = [await site.connect() for _ in range(5)]
        address = site.server.addresses[0]
        busy.send(tcpmsg.pki_req(b"wait a"), tcpmsg.pki_req(b"b"), tcpmsg.pki_req(b"wait c"))
        late.send(tcpmsg.pki_req(b"wait d"))
        old.send(tcpmsg.pki_req(b"wait e", OLD))
        request = tcpmsg.pki_req(b"fffff")
        begun.send(request[:9])
        await until(lambda: site.responder.running == 4 and len(site.responder.done) == 1)
        await until(lambda: sum(c._decoder.partial for c in site.server._admission.connections) == 1)
        drain = asyncio.create_task(site.server.drain(5))
        assert await idle.ended()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        begun.send(request[9:])
        assert await begun.answer() == (PkiRep(b"answer to fffff"), True)
        for name in (b"wait a", b"wait c", b"wait d", b"wait e"):
            site.responder.gates[name].set()
        for name in (b"wait a", b"b", b"wait c"):
            assert await busy.answer() == (PkiRep(b"answer to " + name), True)
        assert await late.answer() == (PkiRep(b"answer to wait d"), True)
        assert await old.answer() == (PkiRep(b"answer to wait e"), False)
        assert not drain.done()
        for client in (busy, late, begun, old):
            assert await client.ended()
            client.writer.close()
        await asyncio.wait_for(drain, 2)
        assert site.responder.cancelled == []


async def test_drain_cuts_what_takes_too_long(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"wait for ever"))
        await until(lambda: site.responder.running == 1)
        await asyncio.wait_for(site.server.drain(0.1), 2)
        assert site.server.connections == 0
        assert site.responder.cancelled == [b"wait for ever"]
        with contextlib.suppress(ConnectionError):
            assert await client.reader.read() == b""
    assert "1 connections are cut after 0.1 seconds" in caplog.text


# --- hostile octets ---------------------------------------------------------------------------------------------------


async def test_random_octets_never_raise_and_never_keep_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    source = random.Random(829)
    async with serving(max_message_octets=500) as site:
        for _ in range(150):
            client = await site.connect()
            heads = (b"", b"\0\0\0", b"\0\0\0\x10\x0a", b"\0\0\0\x09\x00")
            client.send(*[source.choice(heads) + source.randbytes(source.randrange(40)) for _ in range(20)])
            client.writer.write_eof()
            while (frame := await client.frame()) is not None:
                tcpmsg.reply(frame)
            client.writer.close()
        await until(lambda: site.server.connections == 0)
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        assert await client.answer() == (PkiRep(b"answer to x"), False)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
