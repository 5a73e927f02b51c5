"""`make run`: runs `cmpd serve` in the foreground and, once it says it is ready, prints the line for a second terminal.

It plays the service manager: the server's READY=1 arrives on a socket of its own, so nothing has to be guessed from
the port or the log. Ctrl-C and SIGTERM drain the server; its exit status is passed on.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

BIN = Path(sys.executable).parent

ENROL = (
    "cmpc ir --server {listen} --ref demo --secret-file {var}/demo.secret --trusted {var}/ca.pem"
    " --subject CN=demo.example --new-key {var}/demo.key --out {var}/demo.pem"
)


def run(var: Path, listen: str) -> int:
    """Serve DIR `var` until the server ends; gives its exit status."""
    with tempfile.TemporaryDirectory() as runtime, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{runtime}/notify")
        manager.settimeout(0.2)
        server = subprocess.Popen(
            [BIN / "cmpd", "serve", "--config", var / "cmpd.toml"],
            env={**os.environ, "NOTIFY_SOCKET": f"{runtime}/notify"},
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the server as well
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        while server.poll() is None:
            try:
                states = manager.recv(4096).decode().splitlines()
            except TimeoutError:
                continue
            if "READY=1" in states:
                line = ENROL.format(listen=listen, var=var)
                print(
                    f"\nready; paste this into a second terminal to get a certificate (Ctrl-C ends the server):\n\n"
                    f"{BIN.relative_to(Path.cwd())}/{line}\n",
                    flush=True,
                )
        return server.returncode


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2]))
