"""Runs in the container: cmpd itself as an administrator sets it up, with end entities that enrol over restarts.

Prints its findings as JSON: the service before the first request, after it and after the stop; status and complaint of
each enrolment; what HTTP answers on its socket; what users in and outside of the group cmpd may touch; the CRLs and the
OCSP signer; the number of certificates in the database; the secrets that the journal should not have.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

PUBLISHED = "127.0.0.1:8080"
STATE, CONFIG = Path("/var/lib/cmpd"), Path("/etc/cmpd/cmpd.toml")
SHOWN = "ActiveState,Result,NRestarts,MainPID,ExecMainStatus"
LOG = Path("/cmpd.log")
findings: dict[str, object] = {}


def run(*arguments: str | Path) -> str:
    # An operator's command finds the passphrase where the service's credential comes from.
    environ = {**os.environ, "CREDENTIALS_DIRECTORY": "/etc/cmpd"}
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=environ)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def show() -> dict[str, str]:
    return dict(line.split("=", 1) for line in run("systemctl", "show", "-p", SHOWN, "cmpd.service").splitlines())


def set_up() -> list[str]:
    """Passphrase, CA, configuration with the credential in place of a file, one entity; gives the secrets."""
    passphrase, secret = secrets.token_hex(), secrets.token_hex()
    for path, text in ((Path("/etc/cmpd/passphrase"), passphrase), (Path("/secret"), secret)):
        path.touch(0o600)
        path.write_text(text)
    options = [
        "--tcp",
        "systemd",
        "--http",
        "systemd:http",
        "--publish",
        PUBLISHED,
        "--passphrase-file",
        "/etc/cmpd/passphrase",
    ]
    run("cmpd", "init", "--dir", STATE, *options)
    made = STATE / "cmpd.toml"
    made.write_text("".join(line for line in made.open() if not line.startswith("passphrase_file =")))
    CONFIG.symlink_to(made)
    run("cmpd", "entity", "add", "device", "--config", CONFIG, "--secret-file", "/secret", "--uses", "unlimited")
    run("chown", "-R", "cmpd:cmpd", STATE)
    dropin = Path("/etc/systemd/system/cmpd.service.d/test.conf")
    dropin.parent.mkdir()
    dropin.write_text(f"[Service]\nStandardOutput=append:{LOG}\nStandardError=append:{LOG}\n")
    run("systemctl", "daemon-reload")
    return [passphrase, secret]


def enrol(number: int) -> tuple[int, str]:
    name = f"device{number}"
    command = ["cmpc", "ir", "--server", "127.0.0.1:829", "--ref", "device", "--secret-file", "/secret"]
    command += ["--trusted", f"{STATE}/ca.pem", "--subject", f"CN={name}", "--out-dir", f"/{name}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def published() -> dict[str, object]:
    """What the service has written for everybody and for itself, and whether the door gives the same."""
    with urllib.request.urlopen(f"http://{PUBLISHED}/ca.crl", timeout=20) as answer:
        served = answer.read()
    signer = STATE / "private/ocsp.pem"
    return {
        "crl": sorted(path.name for path in (STATE / "crl").iterdir()),
        "same": served == (STATE / "crl/ca.crl").read_bytes(),
        "signer": [signer.owner(), oct(signer.stat().st_mode & 0o777)],
    }


def http_status() -> int:
    """What a GET gets where requests are posted."""
    try:
        with urllib.request.urlopen("http://127.0.0.1/.well-known/cmp", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


TOUCH = """
import socket, sys
from pathlib import Path
kind, path = sys.argv[1:]
try:
    socket.socket(socket.AF_UNIX).connect(path) if kind == "connect" else open(path, "rb").read()
except OSError as error:
    print(type(error).__name__)
else:
    print("yes")
"""


def touched(groups: list[str]) -> dict[str, str]:
    """Whether a user in these groups may touch things: "yes", or the name of the error."""
    things = {
        "configuration": ("read", CONFIG),
        "local socket": ("connect", STATE / "cmpd.db.sock"),
        "database": ("read", STATE / "cmpd.db"),
        "keys": ("read", STATE / "private/ca.key.pem"),
        "passphrase": ("read", Path("/etc/cmpd/passphrase")),
    }
    found = {}
    for name, (kind, path) in things.items():
        command = ["/usr/bin/python3", "-c", TOUCH, kind, str(path)]
        done = subprocess.run(
            command, user="nobody", group="nogroup", extra_groups=groups, capture_output=True, text=True, timeout=20
        )
        found[name] = done.stdout.strip() or done.stderr
    return found


def main() -> None:
    hidden = set_up()
    run("systemctl", "start", "cmpd.socket", "cmpd-http.socket")
    findings["before"] = show()
    enrolled = [enrol(0)]
    findings["after"] = show()
    findings["published"] = published()
    findings["http"] = [http_status()]
    findings["member"], findings["stranger"] = touched(["cmpd"]), touched([])
    thread = threading.Thread(target=lambda: enrolled.extend(enrol(number) for number in range(1, 9)))
    thread.start()
    for _ in range(2):
        run("systemctl", "restart", "cmpd.service")
    thread.join()
    findings["http"] += [http_status()]
    run("systemctl", "stop", "cmpd.socket", "cmpd-http.socket", "cmpd.service")
    findings["enrolled"], findings["stopped"] = enrolled, show()
    listed = json.loads(run("cmpd", "cert", "list", "--config", CONFIG, "--json"))
    subjects = {f"device{number}" for number in range(len(enrolled))}
    findings["certificates"] = sum(any(name in json.dumps(entry) for name in subjects) for entry in listed)
    findings["secrets in the journal"] = [secret for secret in hidden if secret in LOG.read_text()]


if __name__ == "__main__":
    try:
        main()
    finally:
        json.dump(findings, sys.stdout)
