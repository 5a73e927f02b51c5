"""Servers forked by crashing.py as the tests see them: started, signalled, waited for.

What guessing the passphrase costs an attacker (scrypt, PBKDF2) is made cheap in the CAs here: it would cost each start.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cmpd.env import Env
from cmpd.install import Plan, make_root
from cmpd.signing import file as signing_file
from cmpd.store import sealing
from tests.end_to_end.crashing import ITERATIONS, SCRYPT_N
from tests.support import Place, read_ready, wait_for_line

ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    """A forked server. Its process is another's child, so its end is learnt from the program that forked it."""

    program: subprocess.Popen[str]
    log: Path
    pid: int
    port: int = 0
    publish: str = ""
    places: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_for_log(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        return wait_for_line(self.log, pattern, seconds)

    def signal(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code, negative if a signal ended it."""
        if self.exit_code is None:
            self.exit_code = _read(self.program)["exit"]
        return self.exit_code

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def terminate(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()


@dataclass
class Site(Place):
    """A CA in a directory, and the program that forks its servers, one at a time, or runs commands."""

    program: subprocess.Popen[str]
    servers: list[Server] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return self.directory / "cmpd.db"

    @property
    def journal(self) -> Path:
        """Every signature of a CA key that may die, in hex."""
        return self.directory / "journal"

    @property
    def crls(self) -> Path:
        """Every CRL, full or delta, that such a key has signed, in hex."""
        return self.directory / "journal.crl"

    def start(
        self,
        point: str | None = None,
        occurrence: int = 1,
        broken: bool = False,
        command: Sequence[str] | None = None,
    ) -> Server:
        """A server that dies when `point` is reached for the n-th time; without one, a server as it is.

        `broken`: the CA key of the one that dies signs nothing. `command`: no server, but these arguments of cmpd.
        """
        log = self.directory / f"log.{self.program.pid}.{len(self.servers)}"
        order = {"point": point, "occurrence": occurrence, "broken": broken, "command": command}
        files = {"config": self.config, "log": log, "journal": self.journal, "crls": self.crls}
        assert self.program.stdin is not None
        self.program.stdin.write(json.dumps(order | {key: str(path) for key, path in files.items()}) + "\n")
        self.program.stdin.flush()
        server = Server(self.program, log, _read(self.program)["pid"])
        self.servers.append(server)
        return server

    @contextmanager
    def serving(self) -> Iterator[Server]:
        """A server as it is until the end of the block; then it must end in good order, unless it was killed in it."""
        server = self.start()
        try:
            _wait_until_ready(server)
            yield server
        finally:
            server.terminate()
            assert server.exit_code in (0, -signal.SIGKILL), server.log_text()
        assert "Traceback" not in server.log_text()

    @contextmanager
    def dying(self, point: str, occurrence: int = 1, broken: bool = False) -> Iterator[Server]:
        """A server that must have killed itself at the end of the block."""
        server = self.start(point, occurrence, broken)
        try:
            _wait_until_ready(server)
            yield server
        except BaseException:
            server.signal(signal.SIGKILL)
            server.wait()
            raise
        assert server.wait() == -signal.SIGKILL
        assert "Traceback" not in server.log_text()


def _wait_until_ready(server: Server) -> None:
    found = server.wait_for_log(r" ready .*listen=[^\s,]+:(\d+)\S*(?:.* publish=(\S+))?.*\n")
    server.port, server.publish = int(found[1]), found[2] or ""
    server.places = read_ready(found.string)


def _read(program: subprocess.Popen[str]) -> dict[str, int]:
    assert program.stdout is not None
    return json.loads(program.stdout.readline())


@contextmanager
def forking() -> Iterator[subprocess.Popen[str]]:
    """The program that forks servers, until the end of the block; passphrases cost as little here as there."""
    command = [sys.executable, "-m", "tests.end_to_end.crashing"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing_file, "_ITERATIONS", ITERATIONS)
        patch.setitem(sealing.SCRYPT, "n", SCRYPT_N)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
            yield program


def make(directory: Path, program: subprocess.Popen[str], publish: str | None = None) -> Site:
    """A new CA in `directory`. It has no encryption key: to load one of RSA takes longer than all the rest."""
    make_root(Plan(directory, "127.0.0.1:0", "/O=Test/CN=Test CA", publish=publish), Env())
    site = Site(directory, program)
    site.configure("encryption_certificate = ", "#encryption_certificate = ")
    site.configure("encryption_key = ", "#encryption_key = ")
    return site


@contextmanager
def made(directory: Path) -> Iterator[Site]:
    """A new CA in `directory`, and the program beside it until the end of the block."""
    with forking() as program:
        yield make(directory, program)
