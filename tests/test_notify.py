"""The three protocols between systemd and the daemon, each against real sockets and real processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cmpd import notify
from cmpd.errors import ConfigError


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"{directory}/notify")
        sock.settimeout(5)
        yield sock


def test_the_manager_is_told_each_state_on_a_line(manager: socket.socket) -> None:
    assert notify.notify(notify.READY, "STATUS=ready", environ={"NOTIFY_SOCKET": manager.getsockname()})
    assert manager.recv(100) == b"READY=1\nSTATUS=ready"


def test_an_abstract_socket_is_told_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("")  # the kernel chooses an abstract name
        sock.settimeout(5)
        address = "@" + sock.getsockname()[1:].decode()
        assert notify.notify(notify.WATCHDOG, environ={"NOTIFY_SOCKET": address})
        assert sock.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}])
def test_without_a_manager_nothing_is_sent(environ: dict[str, str]) -> None:
    assert not notify.notify(notify.READY, environ=environ)


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    assert not notify.notify(notify.READY, environ={"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert not notify.notify(notify.READY, environ={"NOTIFY_SOCKET": "/" + 200 * "x"})


def test_a_manager_that_does_not_read_stops_nobody(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname()}
    taken = [notify.notify(notify.WATCHDOG, environ=environ) for _ in range(2000)]
    assert taken[0]
    assert not taken[-1]


def test_the_watchdog_interval_is_in_seconds_and_for_its_process_only() -> None:
    assert notify.watchdog_interval({}) is None
    assert notify.watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 30.0
    assert notify.watchdog_interval({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}) == 0.5
    assert notify.watchdog_interval({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getppid())}) is None


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "ten", "１", 20 * "9"])
def test_a_number_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="WATCHDOG_USEC: want a positive number"):
        notify.watchdog_interval({"WATCHDOG_USEC": text})


CHILD = """
import json, os, sys
from cmpd import notify
fds, names, pid = json.loads(sys.argv[1])
copies = [os.dup(fd) for fd in fds]
for place, copy in enumerate(copies):
    os.dup2(copy, 3 + place)
os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(pid or os.getpid()))
if names is not None:
    os.environ["LISTEN_FDNAMES"] = names
taken = notify.take_sockets()
print(json.dumps({
    "sockets": [[name, sock.getsockname(), sock.getblocking(), sock.get_inheritable()] for name, sock in taken],
    "left": [key for key in os.environ if key.startswith("LISTEN_")],
    "again": len(notify.take_sockets()),
}))
sys.stdout.flush()
os._exit(0)
"""


def take(sockets: list[socket.socket], names: str | None, pid: int | None = None) -> subprocess.CompletedProcess[str]:
    """take_sockets() in a process that was handed `sockets`, as systemd hands them: from descriptor 3 on."""
    fds = [sock.fileno() for sock in sockets]
    arguments = [sys.executable, "-c", CHILD, json.dumps([fds, names, pid])]
    return subprocess.run(arguments, pass_fds=fds, capture_output=True, text=True, timeout=30)


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        yield [first, second]


def test_sockets_arrive_in_order_with_their_names(listeners: list[socket.socket]) -> None:
    found = json.loads(take(listeners, "tcp:other").stdout)
    addresses = [list(sock.getsockname()) for sock in listeners]
    assert found["sockets"] == [["tcp", addresses[0], False, False], ["other", addresses[1], False, False]]
    assert found["left"] == []
    assert found["again"] == 0


def test_sockets_without_names_are_unknown(listeners: list[socket.socket]) -> None:
    found = json.loads(take(listeners, None).stdout)
    assert [name for name, *_ in found["sockets"]] == ["unknown", "unknown"]


def test_sockets_of_another_process_are_left_alone(listeners: list[socket.socket]) -> None:
    found = json.loads(take(listeners, "tcp:other", pid=1).stdout)
    assert found["sockets"] == []


def test_names_that_are_not_as_many_as_the_sockets_are_refused(listeners: list[socket.socket]) -> None:
    done = take(listeners, "tcp")
    assert done.returncode == 1
    assert "ConfigError: LISTEN_FDNAMES: want 2 names, have 1" in done.stderr
