"""cmpd.client.http against an HTTP server that misbehaves on purpose."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from cmpd.client.base import ConnectionLimits
from cmpd.client.errors import AnswerTimeout, ConnectError, ConnectionLost, ProtocolError, TransportError
from cmpd.client.http import HttpConnection
from tests.client.accepting import Server
from tests.client.web import Behaviour, Visitor, echo_http, response, serving_http

QUICK = ConnectionLimits(connect_timeout=5, answer_timeout=5)


@asynccontextmanager
async def talking(
    behave: Behaviour, limits: ConnectionLimits = QUICK, path: str = "/.well-known/cmp"
) -> AsyncIterator[tuple[Server, HttpConnection]]:
    async with (
        serving_http(behave) as server,
        HttpConnection(URL(f"http://127.0.0.1:{server.port}{path}"), limits=limits) as connection,
    ):
        yield server, connection


def always(octets: bytes) -> Behaviour:
    async def behave(visitor: Visitor) -> None:
        while await visitor.read() is not None:
            await visitor.raw(octets)

    return behave


async def test_a_request_is_a_post_of_bare_der_with_the_media_type() -> None:
    seen = []

    async def behave(visitor: Visitor) -> None:
        while (asked := await visitor.read()) is not None:
            seen.append(asked)
            await visitor.answer(b"answer")

    async with talking(behave, path="/pki/p/tls") as (server, connection):
        assert await connection.request(b"request") == b"answer"
    [asked] = seen
    assert asked.line == "POST /pki/p/tls HTTP/1.1"
    assert asked.body == b"request"
    assert asked.fields["content-type"] == "application/pkixcmp"
    assert asked.fields["host"] == f"127.0.0.1:{server.port}"
    assert "expect" not in asked.fields
    assert "transfer-encoding" not in asked.fields


async def test_one_connection_serves_many_requests() -> None:
    async with talking(echo_http) as (server, connection):
        for i in range(20):
            assert await connection.request(b"%d" % i) == b"%d" % i
        assert server.connections == 1


async def test_requests_at_the_same_time_get_their_own_answers_over_a_bounded_number_of_connections() -> None:
    limits = ConnectionLimits(in_flight=3)
    async with talking(echo_http, limits) as (server, connection):
        requests = [b"request %d" % i for i in range(30)]
        assert await asyncio.gather(*map(connection.request, requests)) == requests
        assert 1 < server.connections <= 3


async def test_the_last_request_says_so() -> None:
    seen = []

    async def behave(visitor: Visitor) -> None:
        while (asked := await visitor.read()) is not None:
            seen.append((visitor.number, asked.fields.get("connection", "")))
            await visitor.answer(asked.body)
            if seen[-1][1] == "close":
                return

    async with talking(behave) as (_, connection):
        for last in (False, True, False):
            assert await connection.request(b"x", last=last) == b"x"
    assert [number for number, _ in seen] == [0, 0, 1]
    assert seen[1][1] == "close"


@pytest.mark.parametrize("status", [200, 400, 401, 403, 413, 500, 503])
async def test_a_cmp_message_is_an_answer_whatever_the_status_says(status: int) -> None:
    async with talking(always(response(b"answer", status, "Application/PKIXCMP; charset=x"))) as (_, connection):
        assert await connection.request(b"request") == b"answer"


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (response(b"not there\nsecond", 404, "text/plain"), "HTTP status 404 Not Found: not there"),
        (response(b"\x1b[31mred\x07\n", 400, "text/plain; charset=utf-8"), "HTTP status 400 Bad Request: [31mred"),
        (
            response(b"404 Not Found: want /cmp", 404, "text/plain"),
            "(unauthenticated): HTTP status 404 Not Found: want /cmp",
        ),
        (response(b"<html>", 502, "text/html"), "HTTP status 502 Bad Gateway"),
        (response(b"", 503, "text/plain"), "HTTP status 503 Service Unavailable"),
        (response(b"x" * 5000, 400, "text/plain"), f"400 Bad Request: {'x' * 200}"),
        (response(b"<html>", 200, "text/html"), "HTTP status 200 OK of type text/html, want application/pkixcmp"),
        (response(b"", 400), "HTTP status 400 Bad Request"),
        (response(b"answer", 301, Location="http://other.example/"), "a redirection to http://other.example/"),
        (b"HTTP/1.1 299 Fine\r\nContent-Length: 1\r\nContent-Type: a/b\r\n\r\nx", "HTTP status 299 of type a/b"),
    ],
)
async def test_what_is_no_cmp_message_is_told_with_its_status_and_first_line(octets: bytes, text: str) -> None:
    async with talking(always(octets)) as (_, connection):
        with pytest.raises(TransportError, match=re.escape(text)) as caught:
            await connection.request(b"request")
        assert type(caught.value) is TransportError
        assert str(caught.value).isprintable()
        assert "second" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirection_is_not_followed_even_with_a_cmp_message(status: int) -> None:
    async def behave(visitor: Visitor) -> None:
        while await visitor.read() is not None:
            await visitor.answer(b"answer", status, Location="/elsewhere")

    async with talking(behave) as (server, connection):
        with pytest.raises(TransportError, match="redirection to /elsewhere; it is not followed"):
            await connection.request(b"request")
        assert server.connections == 1


@pytest.mark.parametrize(
    "octets",
    [
        response(b"", 200),
        response(b"", 202, ""),
        response(b"", 201, ""),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        response(b"", 200, "text/plain"),
    ],
)
async def test_success_without_content_means_no_cmp_answer(octets: bytes) -> None:
    async with talking(always(octets)) as (_, connection):
        assert await connection.request(b"request") is None


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_request_without_an_octet_of_answer_is_sent_again(how: str) -> None:
    seen = []

    async def behave(visitor: Visitor) -> None:
        asked = await visitor.read()
        assert asked is not None
        seen.append(asked.body)
        if visitor.number < 2:
            if how == "resets":
                _reset(visitor)
            return
        await visitor.answer(b"answer")

    async with talking(behave) as (server, connection):
        assert await connection.request(b"request") == b"answer"
        assert server.connections == 3
    assert seen == [b"request"] * 3


def _reset(visitor: Visitor) -> None:
    sock = visitor.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    visitor.writer.transport.abort()


async def test_repetition_is_bounded() -> None:
    async def behave(visitor: Visitor) -> None:
        await visitor.read()

    async with talking(behave, ConnectionLimits(retries=1)) as (server, connection):
        with pytest.raises(ConnectionLost, match="2 times without an answer"):
            await connection.request(b"request")
        assert server.connections == 2


WHOLE = response(b"answer")


@pytest.mark.parametrize("octets", [1, 9, 17, 40, len(WHOLE) - 6, len(WHOLE) - 1])
async def test_a_request_is_not_repeated_once_an_octet_of_its_answer_came(octets: int) -> None:
    async def behave(visitor: Visitor) -> None:
        await visitor.read()
        await visitor.raw(WHOLE[:octets])

    async with talking(behave) as (server, connection):
        with pytest.raises((ConnectionLost, ProtocolError)):
            await connection.request(b"request")
        assert server.connections == 1


async def test_a_server_that_closes_idle_connections_is_not_noticed() -> None:
    async def behave(visitor: Visitor) -> None:
        asked = await visitor.read()
        assert asked is not None
        await visitor.answer(asked.body)

    async with talking(behave) as (server, connection):
        for i in range(4):
            assert await connection.request(b"%d" % i) == b"%d" % i
            await asyncio.sleep(0.01)
        assert server.connections == 4


async def test_a_server_that_announces_the_close_gets_a_new_connection_each_time() -> None:
    async def behave(visitor: Visitor) -> None:
        asked = await visitor.read()
        assert asked is not None
        await visitor.answer(asked.body, Connection="close")
        await visitor.read()

    async with talking(behave) as (server, connection):
        for i in range(3):
            assert await connection.request(b"%d" % i) == b"%d" % i
        assert server.connections == 3


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_long_answer_is_not_read_to_its_end(chunked: bool) -> None:
    sent = 0

    async def behave(visitor: Visitor) -> None:
        nonlocal sent
        await visitor.read()
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {1 << 30}"
        await visitor.raw(f"HTTP/1.1 200 OK\r\nContent-Type: application/pkixcmp\r\n{length}\r\n\r\n".encode())
        piece = b"x" * 4096
        while True:
            await visitor.raw(b"1000\r\n" + piece + b"\r\n" if chunked else piece)
            sent += len(piece)

    async with talking(behave, ConnectionLimits(max_length=10_000)) as (_, connection):
        with pytest.raises(ProtocolError, match="longer than 10000 octets"):
            await connection.request(b"request")
    assert sent < 1 << 26


async def test_an_answer_as_long_as_allowed_is_taken() -> None:
    async with talking(echo_http, ConnectionLimits(max_length=100_000)) as (_, connection):
        octets = bytes(100_000)
        assert await connection.request(octets) == octets


async def test_a_compressed_answer_is_not_unpacked() -> None:
    async with talking(always(response(b"\x1f\x8bpacked", Content_Encoding="gzip"))) as (_, connection):
        assert await connection.request(b"request") == b"\x1f\x8bpacked"


@pytest.mark.parametrize(
    "octets", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Type: application/pkixcmp\r\n\r\nx"]
)
async def test_a_server_that_does_not_go_on_times_out_and_is_not_asked_again(octets: bytes) -> None:
    async def behave(visitor: Visitor) -> None:
        await visitor.read()
        await visitor.raw(octets)
        await visitor.read()

    async with talking(behave, ConnectionLimits(answer_timeout=0.2)) as (server, connection):
        with pytest.raises(AnswerTimeout, match=r"within 0.2 s"):
            await connection.request(b"request")
        assert server.connections == 1


@pytest.mark.parametrize(
    "octets", [b"\0\0\0\x0b\x0a\0\x06\2\1\0\1\x09bad", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"]
)
async def test_what_is_no_http_is_told(octets: bytes) -> None:
    async def behave(visitor: Visitor) -> None:
        await visitor.read()
        await visitor.raw(octets)
        await visitor.read()

    async with talking(behave) as (server, connection):
        with pytest.raises(ProtocolError, match="does not speak HTTP") as caught:
            await connection.request(b"request")
        assert str(caught.value).isprintable()
        assert server.connections == 1


async def test_a_head_without_end_is_not_read_without_end() -> None:
    async def behave(visitor: Visitor) -> None:
        await visitor.read()
        await visitor.raw(b"HTTP/1.1 200 OK\r\n")
        while True:
            await visitor.raw(b"X: " + b"y" * 1000 + b"\r\n")

    async with talking(behave) as (_, connection):
        with pytest.raises(TransportError):
            await connection.request(b"request")


async def test_a_server_that_is_not_there_is_named() -> None:
    async with talking(echo_http) as (server, _):
        port = server.port
    async with HttpConnection(URL(f"http://127.0.0.1:{port}/")) as connection:
        with pytest.raises(ConnectError, match=f"127.0.0.1:{port}"):
            await connection.request(b"request")


async def test_after_close_nothing_is_sent() -> None:
    async with talking(echo_http) as (server, connection):
        assert await connection.request(b"1") == b"1"
        await connection.close()
        with pytest.raises(TransportError, match="closed by its user"):
            await connection.request(b"2")
        assert server.connections == 1


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with talking(echo_http) as (_, connection):
        assert await connection.request(b"1") == b"1"
