"""Runs in the container: tries cmpd.socket and cmpd.service with the stand-in, prints its findings as JSON."""

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.systemd.standin import credential_digest

ADDRESS = ("127.0.0.1", 829)
SHOWN = "ActiveState,Result,NRestarts,MainPID,ExecMainStatus,StatusText"
findings: dict[str, object] = {}


def systemctl(*arguments: str) -> None:
    subprocess.run(["systemctl", *arguments], check=True, timeout=30)


def show() -> dict[str, str]:
    text = subprocess.run(
        ["systemctl", "show", "-p", SHOWN, "cmpd.service"], check=True, capture_output=True, text=True
    )
    return dict(line.split("=", 1) for line in text.stdout.splitlines())


def ask(command: str, timeout: float = 20) -> str:
    """One command on a connection of its own; "" when the server closes without an answer."""
    with socket.create_connection(ADDRESS, timeout=timeout) as sock, sock.makefile("rw") as file:
        file.write(f"{command}\n")
        file.flush()
        return file.readline().strip()


def first_connection_starts_the_service() -> None:
    systemctl("start", "cmpd.socket")
    findings["before"] = show()
    findings["pid"] = ask("pid")
    findings["after"] = show()
    status = Path(f"/proc/{findings['pid']}/status").read_text()
    findings["status"] = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    findings["owner"] = Path(f"/proc/{findings['pid']}").owner()


def what_the_hardening_leaves() -> None:
    for command in ("sign", "store", "credential"):
        findings[command] = ask(command)


def silent_daemon_is_replaced() -> None:
    before = show()
    with contextlib.suppress(ConnectionResetError):
        ask("hang")
    findings["hung"] = {"before": before["MainPID"], "pid": ask("pid"), "restarts": show()["NRestarts"]}


def restarts_refuse_nobody() -> None:
    answers, refused, done = set(), [], threading.Event()

    def connect() -> None:
        while not done.is_set():
            try:
                answers.add(ask("pid"))
            except OSError as error:
                refused.append(repr(error))

    thread = threading.Thread(target=connect)
    thread.start()
    for _ in range(2):
        systemctl("restart", "cmpd.service")
    time.sleep(0.2)
    done.set()
    thread.join()
    findings["restarts"] = {"servers": len(answers - {""}), "refused": refused}


def stop_waits_for_the_answer() -> None:
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask("slow")))
    thread.start()
    time.sleep(0.2)
    systemctl("stop", "cmpd.socket", "cmpd.service")
    thread.join()
    findings["drained"] = {"answer": answers, "service": show()}


def main() -> None:
    passphrase = secrets.token_hex().encode()
    Path("/etc/cmpd/passphrase").write_bytes(passphrase)
    Path("/etc/cmpd/passphrase").chmod(0o600)
    findings["passphrase"] = credential_digest(passphrase)
    dropin = Path("/etc/systemd/system/cmpd.service.d/test.conf")
    dropin.parent.mkdir()
    dropin.write_text("[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
    systemctl("daemon-reload")
    first_connection_starts_the_service()
    what_the_hardening_leaves()
    silent_daemon_is_replaced()
    restarts_refuse_nobody()
    stop_waits_for_the_answer()


if __name__ == "__main__":
    try:
        main()
    finally:
        json.dump(findings, sys.stdout)
