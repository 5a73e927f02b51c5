"""A thousand connections that are held open at each door of a serving process, while others enrol."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cmpd.client.credentials import SharedSecret
from cmpd.client.responses import Trust
from tests.end_to_end.asking import certificates_in, ir, trust_in
from tests.end_to_end.doors import wait_until
from tests.end_to_end.test_slow_clients import DOORS, quick_client, whole
from tests.end_to_end.ways import TLS_KEYS, Way, many_files, serving_with

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)
COUNT = 1000
OTHERS = 20

LISTEN = 'listen = "127.0.0.1:0"\nmax_connections_per_address = 5000\n'
CONFIGURATION = f"""
[[tcp]]
{LISTEN}
[[tcp]]
{LISTEN}{TLS_KEYS}
[[http]]
{LISTEN}
[[http]]
{LISTEN}{TLS_KEYS}
"""


@pytest.fixture(scope="module")
def count() -> Iterator[int]:
    """How many connections: a thousand, unless the system permits too few open files for that."""
    with many_files() as limit:
        yield COUNT if limit >= 4096 else (limit - 200) // 2


@pytest.fixture(scope="module")
def way(count: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    directory = tmp_path_factory.mktemp("many") / "ca"
    with serving_with(directory, CONFIGURATION, SECRET, "--uses", "unlimited") as way:
        yield way


@pytest.fixture(scope="module")
def trust(way: Way) -> Trust:
    return trust_in(way.site.anchor)


def connections(way: Way) -> int:
    """How many the server has, by its own count."""
    lines = way.server.log_text().count("statistics connections=")
    way.server.signal(signal.SIGUSR1)
    way.server.wait_for_log(rf"(?s)(statistics connections=.*){{{lines + 1}}}")
    return int(way.server.log_text().rpartition("statistics connections=")[2].split()[0])


def ask_on(sock: socket.socket, scheme: str, request: bytes, answer: bytes) -> bool:
    """Send a request on a connection and read an answer that is known; whether that came."""
    sock.sendall(whole(scheme, request))
    received = b""
    while answer not in received:
        octets = sock.recv(65536)
        if not octets:
            return False
        received += octets
    return True


@pytest.mark.parametrize("scheme", DOORS)
def test_others_enrol_while_a_thousand_connections_are_held(way: Way, trust: Trust, count: int, scheme: str) -> None:
    request, _ = ir(SECRET)
    door = quick_client(way, scheme)
    answer = door.ask(request.der)
    door.hang_up()
    assert answer is not None
    with Way(way.site, way.server) as holding, ThreadPoolExecutor(16) as pool:
        held = list(pool.map(lambda _: holding.connect(scheme, DOORS[scheme]), range(count)))
        if scheme in ("http", "https"):  # a connection that has served one request is held as well
            assert all(pool.map(lambda sock: ask_on(sock, scheme, request.der, answer), held[::20]))
        wait_until(lambda: connections(way) >= count)
        for _ in range(OTHERS):
            other, _ = ir(SECRET)
            octets = door.ask(other.der)
            door.hang_up()
            assert octets is not None
            assert certificates_in(octets, other, SECRET, trust)
        assert connections(way) >= count
        assert all(pool.map(lambda sock: ask_on(sock, scheme, request.der, answer), held))
