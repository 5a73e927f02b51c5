"""A real installation in a temporary directory, its server in a real process, and openssl as a client."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="needs Debian's package openssl")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs Debian's package curl")


def run(command: Sequence[str | Path], *, ok: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command; with `ok` its exit code must be 0."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, check=False)
    if ok and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def cmpd(*arguments: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command `cmpd` in a process of its own."""
    return run([sys.executable, "-m", "cmpd", *arguments], ok=ok)


def wait_for_line(
    log: Path, pattern: str, seconds: float, has_ended: Callable[[], bool] = lambda: False
) -> re.Match[str]:
    """The first match in a log, which must come in time and before its writer ends."""
    deadline = time.monotonic() + seconds
    while True:
        is_last = has_ended() or time.monotonic() > deadline  # asked first: what was written before the end counts
        text = log.read_text() if log.exists() else ""
        if found := re.search(pattern, text):
            return found
        assert not is_last, f"no line matches {pattern!r} in the log:\n{text}"
        time.sleep(0.005)


def read_ready(log: str) -> dict[str, list[str]]:
    """Where a server listens, "HOST:PORT" by the words of its line about readiness: listen, tls, http, https."""
    found = re.findall(r" ready version=.*", log)
    parts = [part.partition("=") for part in found[-1].split()[2:]]
    return {name: value.split(",") for name, _, value in parts if name != "publish"}


@dataclass
class Result:
    """What a command that was called in this process did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Server:
    """A serving process. The file `log` grows while it runs."""

    process: subprocess.Popen[bytes]
    log: Path
    host: str = ""
    port: int = 0
    publish: str = ""
    places: dict[str, list[str]] = field(default_factory=dict)

    def log_text(self) -> str:
        return self.log.read_text()

    def wait_for_log(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        return wait_for_line(self.log, pattern, seconds, lambda: self.process.poll() is not None)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@dataclass
class Place:
    """Where a CA is."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "cmpd.toml"

    @property
    def anchor(self) -> Path:
        return self.directory / "ca.pem"

    def configure(self, old: str, new: str) -> None:
        """Replace a line of the configuration; it must be there."""
        text = self.config.read_text()
        assert old in text, f"{old!r} is not in {self.config}"
        self.config.write_text(text.replace(old, new, 1))


@dataclass
class Installation(Place):
    """What `cmpd init` made."""

    runs: int = 0

    @classmethod
    def make(cls, directory: Path, *options: str) -> "Installation":
        cmpd("init", "--dir", directory, "--tcp", "127.0.0.1:0", *options)
        return cls(directory)

    def add_secret(self, reference: str, secret: str, *options: str) -> Path:
        """Register a shared secret; returns the file that holds it."""
        file = self.directory / f"{reference}.secret"
        file.write_text(secret)
        cmpd("entity", "add", reference, "--config", self.config, "--secret-file", file, *options)
        return file

    @contextmanager
    def serving(self, program: Sequence[str] = ("-m", "cmpd", "serve"), **environment: str) -> Iterator[Server]:
        """Serve in a process of its own until the block ends."""
        self.runs += 1
        log = self.directory / f"log.{self.runs}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *program, "--config", str(self.config)],
                stderr=file,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )
        server = Server(process, log)
        try:
            found = server.wait_for_log(r"ready .*listen=(\S+?):(\d+).*\n")
            server.host, server.port = found[1], int(found[2])
            server.places = read_ready(found.string)
            published = re.search(r"publish=(http://\S+)", found.string)
            server.publish = published[1] if published else ""
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(40)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(20)


def new_key(file: Path, kind: str) -> Path:
    """Make a private key with openssl: "rsa2048", "p256", "p384", "p521", "ed25519" or "ed448"."""
    options = {
        "rsa2048": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "p256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "p384": ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        "p521": ["EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
        "ed25519": ["ED25519"],
        "ed448": ["ED448"],
    }[kind]
    run(["openssl", "genpkey", "-algorithm", *options, "-out", file])
    return file


def verify(anchor: Path, certificate: Path) -> None:
    """`openssl verify` must be satisfied."""
    run(["openssl", "verify", "-x509_strict", "-CAfile", anchor, certificate])


def text_of(certificate: Path) -> str:
    return run(["openssl", "x509", "-in", certificate, "-noout", "-text", "-nameopt", "RFC2253"]).stdout
