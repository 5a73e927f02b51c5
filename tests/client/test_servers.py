"""Where a server is: texts that are understood, texts that are not, and what is opened for each."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.client.base import ConnectionLimits, Exchange
from cmpd.client.connection import Connection, UnixConnection
from cmpd.client.errors import ClientError
from cmpd.client.files import FileExchange
from cmpd.client.http import HttpConnection
from cmpd.client.servers import Server, open_server, read_server
from cmpd.client.tls import TlsOptions
from tests.client.web import Visitor, echo_http, serving_http
from tests.client.wire import Peer, echo

CMP = "/.well-known/cmp"


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("ca.example", Server("tcp", "ca.example", 829)),
        ("ca.example:8829", Server("tcp", "ca.example", 8829)),
        ("127.0.0.1:1", Server("tcp", "127.0.0.1", 1)),
        ("[::1]", Server("tcp", "::1", 829)),
        ("[::1]:8829", Server("tcp", "::1", 8829)),
        ("2001:db8::1", Server("tcp", "2001:db8::1", 829)),
        ("[fe80::1%eth0]:830", Server("tcp", "fe80::1%eth0", 830)),
        ("tcp://ca.example", Server("tcp", "ca.example", 829)),
        ("tcp://[::1]:8829/", Server("tcp", "::1", 8829)),
        ("TLS://ca.example:830", Server("tls", "ca.example", 830)),
        ("http://ca.example", Server("http", "ca.example", 80, CMP)),
        ("http://ca.example/", Server("http", "ca.example", 80, CMP)),
        ("http://ca.example:8080/cmp", Server("http", "ca.example", 8080, "/cmp")),
        ("https://[::1]", Server("https", "::1", 443, CMP)),
        ("https://ca.example/.well-known/cmp/p/tls", Server("https", "ca.example", 443, "/.well-known/cmp/p/tls")),
        (
            "http://ca.example/ejbca/publicweb/cmp?alias=x",
            Server("http", "ca.example", 80, "/ejbca/publicweb/cmp?alias=x"),
        ),
        ("file:/var/spool/cmp", Server("file", path="/var/spool/cmp")),
        ("file:spool", Server("file", path="spool")),
        ("file:///var/spool/cmp", Server("file", path="/var/spool/cmp")),
        ("file://localhost/var/spool/a b", Server("file", path="/var/spool/a b")),
        ("unix:/run/cmpd/cmpd.sock", Server("unix", path="/run/cmpd/cmpd.sock")),
    ],
)
def test_a_server_is_named_by_host_and_port_or_by_a_url(text: str, server: Server) -> None:
    assert read_server(text) == server


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "HOST[:PORT]"),
        ("ca.example:", "HOST[:PORT]"),
        ("ca.example:0", "HOST[:PORT]"),
        ("ca.example:65536", "HOST[:PORT]"),
        ("ca.example:cmp", "HOST[:PORT]"),
        ("ca.example:²", "HOST[:PORT]"),
        ("ca.example/cmp", "HOST[:PORT]"),
        ("[::1", "HOST[:PORT]"),
        ("[::1]829", "HOST[:PORT]"),
        ("[ca.example]:829", "HOST[:PORT]"),
        ("ca example", "HOST[:PORT]"),
        ("tcp://ca.example/cmp", "tcp://HOST[:PORT]"),
        ("tls://ca.example", "tls://HOST:PORT"),
        ("http://", "http://HOST[:PORT][/PATH]"),
        ("http://user:secret@ca.example/", "http://HOST[:PORT][/PATH]"),
        ("http://ca.example/a b", "http://HOST[:PORT][/PATH]"),
        ("http://ca.example/a#b", "http://HOST[:PORT][/PATH]"),
        ("http://ca.example/\x1b", "http://HOST[:PORT][/PATH]"),
        ("https://ca.example:port/", "https://HOST[:PORT][/PATH]"),
        ("ftp://ca.example", "tls://HOST:PORT"),
        ("ftp://ca.example", "file:DIRECTORY or unix:SOCKET"),
        ("file:", "file:DIRECTORY"),
        ("file://", "file:DIRECTORY"),
        ("file://other.example/var/spool", "file:DIRECTORY"),
        ("unix:", "unix:SOCKET"),
    ],
)
def test_what_is_no_server_is_told_with_what_is_wanted(text: str, wanted: str) -> None:
    with pytest.raises(ClientError) as caught:
        read_server(text)
    assert wanted in str(caught.value)
    assert str(caught.value).isprintable()


@given(
    st.one_of(
        st.text(max_size=40),
        st.text("[]:/.%@a1?# ", max_size=20).map(lambda rest: f"http://{rest}"),
        st.text("[]:/.%@a1", max_size=20),
    )
)
def test_any_text_is_a_server_or_an_error_of_one_line(text: str) -> None:
    try:
        server = read_server(text)
    except ClientError as error:
        said = str(error)
    else:
        said = server.host + server.path
        assert bool(server.host) == (server.scheme not in ("file", "unix"))
        assert 0 <= server.port < 65536
    assert said.isprintable()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ca.example", Connection),
        ("tls://ca.example:830", Connection),
        ("http://ca.example", HttpConnection),
        ("https://ca.example", HttpConnection),
        ("file:spool", FileExchange),
        ("unix:socket", UnixConnection),
    ],
)
async def test_each_scheme_opens_what_speaks_it(text: str, kind: type[Exchange]) -> None:
    limits = ConnectionLimits(answer_timeout=7)
    exchange = open_server(read_server(text), TlsOptions(), limits)
    assert type(exchange) is kind
    assert exchange.limits is limits
    await exchange.close()


@pytest.mark.parametrize("host", ["a..example", "x" * 70 + ".example", "[::1%25]"])
async def test_a_host_that_no_url_can_have_is_a_clients_error_or_cannot_be_reached(host: str) -> None:
    try:
        server = read_server(f"http://{host}/")
        exchange = open_server(server, TlsOptions())
    except ClientError:
        return
    try:
        with pytest.raises(ClientError):
            await exchange.request(b"request")
    finally:
        await exchange.close()


async def test_a_path_with_escapes_and_a_query_arrives_as_it_was_given() -> None:
    lines = []

    async def behave(visitor: Visitor) -> None:
        while (asked := await visitor.read()) is not None:
            lines.append(asked.line)
            await visitor.answer(b"answer")

    async with serving_http(behave) as web:
        server = read_server(f"http://127.0.0.1:{web.port}/a%2Fb/%C3%A9?alias=x%26y&z")
        exchange = open_server(server, TlsOptions())
        assert await exchange.request(b"request") == b"answer"
        await exchange.close()
    assert lines == ["POST /a%2Fb/%C3%A9?alias=x%26y&z HTTP/1.1"]


async def test_a_server_behind_a_unix_domain_socket_is_spoken_to_in_tcp_messages(tmp_path: Path) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo(Peer(0, reader, writer))
        writer.close()

    path = tmp_path / "s"
    listening = await asyncio.start_unix_server(connected, path)
    exchange = open_server(read_server(f"unix:{path}"), TlsOptions())
    assert await exchange.request(b"request") == b"request"
    await exchange.close()
    listening.close()
    exchange = open_server(read_server(f"unix:{tmp_path / 'gone'}"), TlsOptions())
    with pytest.raises(ClientError, match=f"cannot connect to {tmp_path / 'gone'}"):
        await exchange.request(b"request")


async def test_ipv6_works_over_http() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo_http(Visitor(0, reader, writer))
        writer.close()

    listening = await asyncio.start_server(connected, "::1", 0)
    port = listening.sockets[0].getsockname()[1]
    exchange = open_server(read_server(f"http://[::1]:{port}"), TlsOptions())
    assert await exchange.request(b"request") == b"request"
    await exchange.close()
    listening.close()
