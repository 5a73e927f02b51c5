"""TLS under tcp-messages and under HTTP: what is trusted, what is shown, and what a user is told when it fails."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cmpd.client.base import ConnectionLimits
from cmpd.client.certificates import load_certificates
from cmpd.client.errors import ClientError, ConnectError, ConnectionLost, TransportError
from cmpd.client.keys import KEY_TYPES, save_key
from cmpd.client.servers import Server, open_server
from cmpd.client.tls import TlsOptions
from tests.client.ca import CMC_RA, TLS_SERVER, Ca, Issued, issue
from tests.client.web import Visitor, echo_http, server_context, write_pair
from tests.client.wire import Peer, echo, serving

QUICK = ConnectionLimits(connect_timeout=5, answer_timeout=5)
PATHS = {"tls": "", "https": "/.well-known/cmp"}
every_scheme = pytest.mark.parametrize("scheme", PATHS)


@dataclass(frozen=True)
class World:
    directory: Path
    ca: Ca
    trusting: TlsOptions  # the CA's root and no other

    def pair(self, name: str, issued: Issued, passphrase: bytes = b"") -> tuple[Path, Path]:
        return write_pair(self.directory, name, issued, self.ca.sub, passphrase=passphrase)


@pytest.fixture
def world(tmp_path: Path) -> World:
    ca = Ca.make()
    (tmp_path / "root.pem").write_bytes(ca.root.certificate.pem)
    return World(tmp_path, ca, TlsOptions((ca.root.certificate,), system=False, host="ca.example"))


@asynccontextmanager
async def speaking(
    scheme: str, world: World, issued: Issued | None = None, *, clients: bool = False, plain: bool = False
) -> AsyncIterator[tuple[Server, list[str]]]:
    """An echo behind TLS (its certificate is for ca.example); whom the clients showed."""
    issued = issued or issue("server", world.ca.sub, usage=(TLS_SERVER,), san="ca.example")
    context = server_context(world.pair("server", issued), world.directory / "root.pem" if clients else None)
    shown: list[str] = []
    writers: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        certificate = writer.get_extra_info("peercert")
        shown.append(str(certificate["subject"]) if certificate else "")
        await (echo(Peer(0, reader, writer)) if scheme == "tls" else echo_http(Visitor(0, reader, writer)))
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=None if plain else context)
    try:
        yield Server(scheme, "127.0.0.1", server.sockets[0].getsockname()[1], PATHS[scheme]), shown
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)


async def asking(server: Server, options: TlsOptions, limits: ConnectionLimits = QUICK) -> bytes | None:
    exchange = open_server(server, options, limits)
    try:
        for _ in range(3):
            answer = await exchange.request(b"request")
        return answer
    finally:
        await exchange.close()


@every_scheme
async def test_requests_go_over_one_tls_connection_to_who_is_trusted(scheme: str, world: World) -> None:
    async with speaking(scheme, world) as (server, shown):
        assert await asking(server, world.trusting) == b"request"
    assert shown == [""]


@every_scheme
async def test_an_anchor_need_not_be_a_root(scheme: str, world: World) -> None:
    async with speaking(scheme, world) as (server, _):
        assert await asking(server, replace(world.trusting, anchors=(world.ca.sub.certificate,))) == b"request"


@every_scheme
async def test_what_the_system_trusts_counts_unless_told_otherwise(
    scheme: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(world.directory / "root.pem"))
    options = TlsOptions(host="ca.example")
    async with speaking(scheme, world) as (server, _):
        assert await asking(server, options) == b"request"
        with pytest.raises(ConnectError, match="not to be trusted"):
            await asking(server, replace(options, system=False))


@every_scheme
async def test_a_server_that_is_not_trusted_gets_no_request(scheme: str, world: World) -> None:
    stranger = issue("stranger", ca=True)
    cases = [
        (
            TlsOptions((stranger.certificate,), system=False, host="ca.example"),
            "not to be trusted: .*certificate .*--tls-ca",
        ),
        (TlsOptions(host="ca.example"), "not to be trusted: .*certificate .*--tls-ca"),
        (replace(world.trusting, host="other.example"), "not to be trusted: .*other.example.*--tls-host"),
        (replace(world.trusting, host=None), "not to be trusted: .*127.0.0.1.*--tls-host"),
    ]
    async with speaking(scheme, world) as (server, shown):
        for options, text in cases:
            with pytest.raises(ConnectError, match=text):
                await asking(server, options)
        assert "" not in shown


@every_scheme
async def test_a_certificate_that_is_out_of_date_or_not_for_servers_is_refused(scheme: str, world: World) -> None:
    old = issue("server", world.ca.sub, usage=(TLS_SERVER,), san="ca.example", days=(-9, -1))
    other = issue("server", world.ca.sub, usage=(CMC_RA,), san="ca.example")
    for issued, text in ((old, "expired"), (other, "purpose")):
        async with speaking(scheme, world, issued) as (server, _):
            with pytest.raises(ConnectError, match=text):
                await asking(server, world.trusting)


@every_scheme
@pytest.mark.parametrize("passphrase", [b"", b"pass phrase"])
async def test_a_client_certificate_is_shown(scheme: str, world: World, passphrase: bytes) -> None:
    certificate, key = world.pair("device", issue("device-7", world.ca.sub), passphrase)
    options = replace(world.trusting, certificate=certificate, key=key, passphrase=passphrase or None)
    async with speaking(scheme, world, clients=True) as (server, shown):
        assert await asking(server, options) == b"request"
    assert len(shown) == 1
    assert "device-7" in shown[0]
    assert options.own == load_certificates(certificate)[0]


@every_scheme
async def test_who_shows_no_client_certificate_is_told_to(scheme: str, world: World) -> None:
    async with speaking(scheme, world, clients=True) as (server, shown):
        with pytest.raises(TransportError, match="--tls-cert"):
            await asking(server, world.trusting)
        assert not shown


@every_scheme
async def test_who_shows_one_that_the_server_does_not_trust_is_told(scheme: str, world: World) -> None:
    certificate, key = write_pair(world.directory, "stranger", issue("stranger", issue("elsewhere", ca=True)))
    options = replace(world.trusting, certificate=certificate, key=key)
    async with speaking(scheme, world, clients=True) as (server, shown):
        with pytest.raises(TransportError, match="--tls-cert"):
            await asking(server, options)
        assert not shown


@every_scheme
async def test_a_server_that_speaks_no_tls_is_told_from_one_that_is_not_there(scheme: str, world: World) -> None:
    async with speaking(scheme, world, plain=True) as (server, _):
        with pytest.raises((ConnectError, ConnectionLost)) as caught:
            await asking(server, world.trusting, replace(QUICK, connect_timeout=0.5))
        assert f"127.0.0.1:{server.port}" in str(caught.value)
        assert re.search("TLS: .*does (not|it) speak TLS there|within 0.5 s", str(caught.value))
    with pytest.raises(ConnectError, match=r": Connection refused \(is a CMP server running there"):
        await asking(server, world.trusting)


@every_scheme
async def test_a_server_that_hangs_up_during_the_handshake_is_asked_whether_it_speaks_tls(
    scheme: str, world: World
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.reader.read(1)

    async with serving(behave) as server:
        with pytest.raises(ConnectError, match="hung up during the handshake: does it speak TLS there"):
            await asking(Server(scheme, "127.0.0.1", server.port, PATHS[scheme]), world.trusting)


@pytest.mark.parametrize("scheme", ["tcp", "http"])
async def test_a_server_that_says_nothing_without_tls_is_asked_whether_it_wants_another_scheme(
    scheme: str, world: World
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.reader.read(1)

    async with serving(behave) as server:
        with pytest.raises(ConnectionLost, match=r"without an answer; is that its port for .*, without TLS"):
            await asking(Server(scheme, "127.0.0.1", server.port, "/cmp" if scheme == "http" else ""), TlsOptions())


def test_files_that_cannot_be_used_are_told_before_anything_is_sent(world: World) -> None:
    certificate, key = world.pair("device", issue("device", world.ca.sub), b"pass phrase")
    other = world.directory / "other.key"
    save_key(other, KEY_TYPES["p256"]())
    options = replace(world.trusting, certificate=certificate, key=key)
    cases = [
        (options, "give --tls-key-passphrase-file"),
        (replace(options, passphrase=b"wrong"), "wrong passphrase"),
        (replace(options, key=other), "its private key"),
        (replace(options, certificate=key, passphrase=b"pass phrase"), "want a certificate in PEM"),
    ]
    for one, text in cases:
        with pytest.raises(ClientError, match=text):
            one.context()
    with pytest.raises(FileNotFoundError):
        replace(options, key=world.directory / "gone").context()
    assert "pass phrase" not in repr(replace(options, passphrase=b"pass phrase"))
