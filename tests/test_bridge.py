"""The bridge of the tests: `openssl cmp` gets through it to a server that speaks tcp-messages."""

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cmpd.asn1 import der
from cmpd.transport.base import Answer, Origin, UnknownReference
from cmpd.transport.tcp import TcpServer
from tests.bridge import Bridge, ThreadBridge
from tests.support import needs_openssl


def rejection(request: bytes) -> bytes:
    """An unprotected error message with the transactionID and, as recipNonce, the senderNonce of the request."""
    _, start, stop = der.header(request, 0, len(request))
    _, start, stop = der.header(request, start, stop)
    fields = {tag: request[inner:after] for tag, _, inner, after in der.children(request, start, stop)}
    null_name = der.explicit(4, der.seq())
    head = der.seq(
        der.encode_integer(2),
        null_name,
        null_name,
        der.tlv(0xA4, fields[0xA4]),
        der.tlv(0xA5, der.encode_octets(bytes(16))),
        der.tlv(0xA6, fields[0xA5]),
    )
    status = der.seq(der.encode_integer(2), der.seq(der.encode_utf8("canned")), der.encode_named_bits(2))
    return der.seq(head, der.explicit(23, der.seq(status)))


Respond = Callable[[bytes, Origin], Awaitable[bytes | None]]


class Responder:
    """A function that answers, and no polling."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    async def respond(self, octets: bytes, origin: Origin) -> Answer:
        return await self._respond(octets, origin)

    async def poll(self, reference: int, origin: Origin) -> Answer:
        raise UnknownReference


@contextlib.asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[TcpServer]:
    server = TcpServer(Responder(respond))
    await server.start([("127.0.0.1", 0)])
    try:
        yield server
    finally:
        await server.drain(0.2)


async def openssl(url: str, directory: Path, *more: str) -> tuple[int, str]:
    command = ["openssl", "cmp", "-server", url, "-cmd", "genm", "-ref", "x", "-secret", "pass:y"]
    command += ["-recipient", "/CN=CA", "-unprotected_errors", "-reqout", str(directory / "req"), *more]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def post(port: int, *bodies: bytes) -> list[tuple[int, str | None, bytes]]:
    """Send the bodies over one HTTP/1.1 connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    answers = []
    for body in bodies:
        connection.request("POST", "/pkix/", body, {"Content-Type": "application/pkixcmp"})
        response = connection.getresponse()
        answers.append((response.status, response.getheader("Content-Type"), response.read()))
    connection.close()
    return answers


@needs_openssl
@pytest.mark.parametrize("keep_alive", ["0", "1", "2"])
async def test_openssl_gets_the_answer_of_the_server_behind(tmp_path: Path, keep_alive: str) -> None:
    seen: list[bytes] = []

    async def respond(request: bytes, origin: Origin) -> bytes:
        seen.append(request)
        return rejection(request)

    async with serving(respond) as server, Bridge(*server.addresses[0]) as bridge:
        more = ["-keep_alive", keep_alive, "-rspout", str(tmp_path / "rsp")]
        code, output = await openssl(bridge.url, tmp_path, *more)
        assert code != 0
        assert "canned" in output, output
        assert [(tmp_path / "req").read_bytes()] == seen
        assert (tmp_path / "rsp").read_bytes() == rejection(seen[0])


async def test_requests_of_one_http_connection_share_one_tcp_connection() -> None:
    addresses: list[str] = []

    async def respond(request: bytes, origin: Origin) -> bytes | None:
        addresses.append(origin.address)
        return None if request == b"none" else b"answer to " + request

    async with serving(respond) as server, Bridge(*server.addresses[0]) as bridge:
        answers = await asyncio.to_thread(post, bridge.port, b"a", b"none", b"b" * 100_000)
        assert answers == [
            (200, "application/pkixcmp", b"answer to a"),
            (200, "application/pkixcmp", b""),
            (200, "application/pkixcmp", b"answer to " + b"b" * 100_000),
        ]
        assert len(set(addresses)) == 1
        assert (bridge.connections, bridge.requests) == (1, 3)


async def test_tcp_connection_that_the_server_has_closed_is_made_again() -> None:
    async def respond(request: bytes, origin: Origin) -> bytes:
        return origin.address.encode()

    async with serving(respond) as server, Bridge(*server.addresses[0]) as bridge:
        client = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=10)

        def ask() -> bytes:
            client.request("POST", "/", b"x")
            return client.getresponse().read()

        first = await asyncio.to_thread(ask)
        for connection in list(server._admission.connections):
            connection.cut("test")
        assert await asyncio.to_thread(ask) != first
        client.close()


async def test_fault_of_the_server_is_a_502_with_its_text() -> None:
    async def respond(request: bytes, origin: Origin) -> bytes:
        raise LookupError

    async with serving(respond) as server, Bridge(*server.addresses[0]) as bridge:
        ((status, _, body),) = await asyncio.to_thread(post, bridge.port, b"x")
    assert status == 502
    assert body == b"errorMsgRep 0300: internal error of the server"


async def test_thread_bridge_serves_tests_that_block() -> None:
    async def respond(request: bytes, origin: Origin) -> bytes:
        return b"answer to " + request

    async with serving(respond) as server:
        host, port = server.addresses[0]

        def block() -> list[tuple[int, str | None, bytes]]:
            with ThreadBridge(host, port) as bridge:
                assert bridge.url == f"http://127.0.0.1:{bridge.port}/pkix/"
                return post(bridge.port, b"a", b"b")

        answers = await asyncio.to_thread(block)
    assert [body for _, _, body in answers] == [b"answer to a", b"answer to b"]
