"""Listening sockets: ready-made ones, Unix domain sockets, starts that fail; no TLS here (test_tls.py)."""

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmpd.transport.admission import Admission, Seldom
from cmpd.transport.listener import Listener, Place, peer_name
from cmpd.transport.tcp import TcpLimits, TcpServer
from cmpd.wire import tcpmsg
from tests.transport.test_tcp import LOCAL, Client, Responder, until

log = logging.getLogger("cmpd.test")


class Greeter(asyncio.Protocol):
    """Says what its peer is called, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        transport.write(" ".join(peer_name(transport)).encode())
        transport.close()


def listener() -> Listener:
    return Listener(Greeter, Admission(10, 10, clock=lambda: 0.0, log=log))


async def greeting(place: Place) -> str:
    if isinstance(place, Path):
        reader, writer = await asyncio.open_unix_connection(place)
    else:
        assert isinstance(place, tuple)
        reader, writer = await asyncio.open_connection(*place)
    async with asyncio.timeout(5):
        text = await reader.read()
    writer.close()
    await writer.wait_closed()
    return text.decode()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def tight_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


async def test_all_kinds_of_places_are_listened_on_and_addresses_leave_unix_sockets_out(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    ready, passed = socket.create_server(LOCAL), socket.socket(socket.AF_UNIX)
    passed.bind(str(tmp_path / "passed"))
    one = listener()
    await one.start([LOCAL, path, ready, passed])
    assert len(one.addresses) == 2
    assert one.addresses[1] == ready.getsockname()
    for address in one.addresses:
        host, _, peer = (await greeting(address)).partition(" ")
        assert host == "127.0.0.1"
        assert peer.startswith("127.0.0.1:")
    for socket_path in (path, tmp_path / "passed"):
        assert await greeting(socket_path) == "local local"
    one.close()
    assert one.addresses == ()
    assert not path.exists()
    assert (tmp_path / "passed").exists()  # not ours
    with pytest.raises(FileNotFoundError):
        await greeting(path)


@pytest.mark.usefixtures("loose_umask")
async def test_unix_socket_is_for_user_and_group_whatever_the_umask(tmp_path: Path) -> None:
    one = listener()
    await one.start([tmp_path / "sock"])
    assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o660
    one.close()


@pytest.mark.usefixtures("tight_umask")
async def test_unix_socket_is_for_the_group_under_a_tight_umask_too(tmp_path: Path) -> None:
    one = listener()
    await one.start([tmp_path / "sock"])
    assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o660
    one.close()


@pytest.mark.parametrize("octets", [107, 108, 300, 4000])
async def test_unix_socket_may_have_a_long_path(octets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path
    while len(str(directory)) < octets - 5:
        directory /= "d" * min(octets - 5 - len(str(directory)), 200)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "sock"
    one = listener()
    await one.start([path])
    monkeypatch.chdir(directory)
    assert await greeting(Path("sock")) == "local local"
    one.close()
    assert not path.exists()


async def test_relative_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = listener()
    await one.start([Path("sock")])
    monkeypatch.chdir("/")
    assert await greeting(tmp_path / "sock") == "local local"
    one.close()
    assert not (tmp_path / "sock").exists()


async def test_socket_on_which_nobody_listens_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    one = listener()
    await one.start([path])
    assert await greeting(path) == "local local"
    one.close()


async def test_socket_on_which_somebody_listens_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    first, second = listener(), listener()
    await first.start([path])
    with pytest.raises(OSError, match=r"(?i)in use"):
        await second.start([path])
    assert await greeting(path) == "local local"
    second.close()
    assert await greeting(path) == "local local"
    first.close()


async def test_socket_with_a_full_queue_is_not_stale(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(OSError, match=r"(?i)in use"):
            await listener().start([path])
    assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_what_is_no_socket_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "sock"
    match kind:
        case "file":
            path.write_bytes(b"data")
        case "directory":
            path.mkdir()
        case "link":
            (tmp_path / "data").write_bytes(b"data")
            path.symlink_to(tmp_path / "data")
    with pytest.raises(OSError, match=r"(?i)in use"):
        await listener().start([path])
    assert path.exists()
    assert kind == "directory" or path.read_bytes() == b"data"


async def test_socket_file_that_another_process_has_put_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    one = listener()
    await one.start([path])
    path.unlink()
    path.write_bytes(b"another's")
    one.close()
    assert path.read_bytes() == b"another's"


async def test_start_that_fails_leaves_neither_listener_nor_file_nor_descriptor(tmp_path: Path) -> None:
    one = listener()
    with socket.create_server(LOCAL) as taken:
        before = descriptors()
        with pytest.raises(OSError, match=r"(?i)in use"):
            await one.start([tmp_path / "sock", LOCAL, taken.getsockname()])
    assert one.addresses == ()
    assert not (tmp_path / "sock").exists()
    with pytest.raises(FileNotFoundError):
        await listener().start([tmp_path / "missing" / "sock"])
    await until(lambda: descriptors() <= before)


async def test_tcp_messages_are_answered_on_a_unix_socket(tmp_path: Path) -> None:
    responder = Responder()
    server = TcpServer(responder, TcpLimits(max_connections_per_address=2))
    await server.start([tmp_path / "sock"])
    assert server.addresses == ()
    clients = [Client(*await asyncio.open_unix_connection(tmp_path / "sock")) for _ in range(3)]
    for client in clients[:2]:
        client.send(tcpmsg.pki_req(b"x"))
        assert await client.answer() == (tcpmsg.PkiRep(b"answer to x"), False)
    assert {origin.address for origin in responder.origins} == {"local"}
    assert await clients[2].ended()  # they all have one address
    for client in clients:
        client.writer.close()
        await client.writer.wait_closed()
    await server.drain(1)
    assert not (tmp_path / "sock").exists()


def test_places_count_like_connections_and_are_given_back() -> None:
    admission: Admission[str] = Admission(3, 2, clock=lambda: 0.0, log=log)
    assert admission.acquire_place("a", "a:1")
    assert admission.acquire("one", "a", "a:2")
    assert not admission.acquire_place("a", "a:3")
    assert not admission.acquire("two", "a", "a:3")
    assert admission.acquire_place("b", "b:1")
    assert not admission.acquire("three", "c", "c:1")
    assert admission.count == 3
    assert set(admission.connections) == {"one"}
    admission.release_place("a")
    admission.release("one")
    admission.release("two")  # was never counted
    assert admission.count == 1
    assert admission.acquire_place("a", "a:4")
    assert admission.acquire("four", "a", "a:5")
    assert not admission.acquire_place("c", "c:2")


def test_a_seldom_line_comes_once_in_ten_seconds_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    say = Seldom(log, logging.WARNING, "an event", lambda: now)
    for _ in range(5):
        say("a:1", "why")
    now = 109.9
    say("a:2", "why")
    now = 110.0
    say("a:3", "because")
    assert [record.getMessage() for record in caplog.records] == [
        "a:1: an event: why; 1 since the last such line",
        "a:3: an event: because; 6 since the last such line",
    ]
