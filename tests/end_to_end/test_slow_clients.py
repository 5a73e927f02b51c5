"""Clients that are too slow, at each door of a serving process: they end by their time limit, the others go on.

All kinds of slowness are there at the same time, each several times, while certificates are got over the same door.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from cmpd.client.credentials import SharedSecret
from cmpd.client.messages import Request
from cmpd.client.responses import Trust
from tests.end_to_end.asking import certificates_in, ir, trust_in
from tests.end_to_end.doors import PKIXCMP, Door, frame
from tests.end_to_end.ways import SECONDS, TLS_KEYS, Way, serving_with

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)

LIMIT = 2
"""Seconds that a message, a handshake, the taking of an answer may last."""
IDLE = 3
EACH = 3
"""How many slow clients of each kind there are."""

TCP = f"""
partial_frame_timeout = "{LIMIT}s"
send_timeout = "{LIMIT}s"
idle_timeout = "{IDLE}s"
write_high_water = 4096
"""
HTTP = f"""
request_timeout = "{LIMIT}s"
idle_timeout = "{IDLE}s"
"""
TLS = f'{TLS_KEYS}tls_handshake_timeout = "{LIMIT}s"\n'
LISTEN = 'listen = "127.0.0.1:0"\n'
CONFIGURATION = f"""
[[tcp]]
{LISTEN}{TCP}
[[tcp]]
{LISTEN}{TLS}{TCP}
[[http]]
{LISTEN}{HTTP}
[[http]]
{LISTEN}{TLS}{HTTP}
"""

DOORS = {"tcp": 1, "tls": 0, "http": 0, "https": 0}
"""The number of the door with the short limits."""


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    directory = tmp_path_factory.mktemp("slow") / "ca"
    with serving_with(directory, CONFIGURATION, SECRET, "--uses", "unlimited") as way:
        yield way


@pytest.fixture(scope="module")
def trust(way: Way) -> Trust:
    return trust_in(way.site.anchor)


def whole(scheme: str, request: bytes) -> bytes:
    """A request with all that is around it at this door."""
    if scheme in ("tcp", "tls"):
        return frame(0, request)
    head = f"POST /cmp HTTP/1.1\r\nHost: x\r\nContent-Type: {PKIXCMP}\r\nContent-Length: {len(request)}\r\n\r\n"
    return head.encode() + request


def until_the_end(sock: socket.socket) -> None:
    """Read until the server has ended it."""
    with suppress(ConnectionError, ssl.SSLError):
        while sock.recv(65536):
            pass


# --- kinds of slowness: each returns when the server has ended the connection -----------------------------------------


def drips(sock: socket.socket, octets: bytes) -> None:
    """One octet a second."""
    sock.settimeout(1)
    for octet in octets:
        try:
            sock.sendall(bytes([octet]))
            if not sock.recv(65536):
                return
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLError):
            return
    raise AssertionError("nobody has ended it")


def stops_after(count: int, sock: socket.socket, octets: bytes) -> None:
    """Sends so much and no more."""
    sock.sendall(octets[:count])
    until_the_end(sock)


def stops_in_the_middle(sock: socket.socket, octets: bytes) -> None:
    stops_after(len(octets) - 100, sock, octets)


def never_reads(sock: socket.socket, octets: bytes) -> None:
    """Sends requests for ever, and takes none of the answers."""
    sock.settimeout(0.2)
    deadline = time.monotonic() + SECONDS
    left = b""
    while time.monotonic() < deadline:
        left = left or octets
        try:
            left = left[sock.send(left) :]
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLError):
            return
    raise AssertionError("nobody has ended it")


KINDS: dict[str, Callable[[socket.socket, bytes], None]] = {
    "drips": drips,
    "says nothing": partial(stops_after, 0),
    "half a head": partial(stops_after, 3),
    "half a body": stops_in_the_middle,
    "never reads": never_reads,
}
HANDSHAKES: dict[str, Callable[[socket.socket, bytes], None]] = {
    "no handshake": partial(stops_after, 0),
    "half a handshake": partial(stops_after, 50),
    "drips its handshake": drips,
}
"""Without TLS on a port of TLS; the octets are a ClientHello."""


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def lasts(kind: Callable[[socket.socket, bytes], None], sock: socket.socket, octets: bytes) -> float:
    """How long the server bears it, in seconds."""
    begun = time.monotonic()
    kind(sock, octets)
    return time.monotonic() - begun


def slow_clients(way: Way, scheme: str, request: Request, pool: ThreadPoolExecutor) -> dict[str, list[Future[float]]]:
    """All of them, begun."""
    number, octets = DOORS[scheme], whole(scheme, request.der)
    made = {
        name: [pool.submit(lasts, kind, way.connect(scheme, number, window=4096), octets) for _ in range(EACH)]
        for name, kind in KINDS.items()
    }
    if scheme in ("tls", "https"):
        hello = client_hello()
        for name, kind in HANDSHAKES.items():
            plain = [socket.create_connection(way.address(scheme, number), SECONDS) for _ in range(EACH)]
            made[name] = [pool.submit(lasts, kind, way.opened.enter_context(sock), hello) for sock in plain]
    return made


def quick_client(way: Way, scheme: str) -> Door:
    """A client that does as it should, at the same door."""
    if scheme in ("http", "https"):
        return way.http(scheme, "/cmp")
    return way.tcp(scheme, DOORS[scheme])


@pytest.mark.parametrize("scheme", DOORS)
def test_slow_clients_end_by_their_time_limit_and_disturb_nobody(way: Way, trust: Trust, scheme: str) -> None:
    request, _ = ir(SECRET)
    first = quick_client(way, scheme).ask(request.der)
    assert first is not None
    done = 0
    with ThreadPoolExecutor(EACH * (len(KINDS) + len(HANDSHAKES))) as pool:
        slow = slow_clients(way, scheme, request, pool)
        begun = time.monotonic()
        while not all(one.done() for each in slow.values() for one in each):
            door, (other, _) = quick_client(way, scheme), ir(SECRET)
            answer = door.ask(other.der)
            door.hang_up()
            assert answer is not None
            assert certificates_in(answer, other, SECRET, trust)
            done += time.monotonic() < begun + LIMIT  # before any of them can have ended
            assert time.monotonic() < begun + SECONDS
            time.sleep(0.02)
        lasted = {name: [one.result() for one in each] for name, each in slow.items()}
    assert done
    for name, seconds in lasted.items():
        assert min(seconds) > LIMIT * 0.9, (name, lasted)  # the sender's clock begins a moment after the server's
        assert name != "says nothing" or min(seconds) > IDLE * 0.9, lasted
    assert quick_client(way, scheme).ask(request.der) == first
