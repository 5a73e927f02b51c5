"""What systemd and the daemon tell each other: readiness, the watchdog, and sockets that are already bound.

The three protocols (sd_notify, sd_watchdog_enabled, sd_listen_fds) are a datagram, two numbers and a row of file
descriptors, so they need no library. Each function does nothing where systemd is not there, so that the daemon calls
them without asking. The environment is handed in; sockets are taken out of it, so that no child thinks they are its.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping

from cmpd.errors import ConfigError

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"

FIRST_FD = 3
"""The descriptor of the first socket that is handed over (SD_LISTEN_FDS_START)."""


def notify(*states: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell the manager `states`: READY, STOPPING, WATCHDOG or "STATUS=one line of text".

    Gives True when the manager's socket took the message. Never blocks and never raises: a manager that does not listen
    must not stop the daemon, and a watchdog beat that was lost is followed by the next.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(states).encode(), socket.MSG_DONTWAIT, address)
    except OSError:
        return False
    return True


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """The seconds within which the manager wants one WATCHDOG each; None where it wants none from this process.

    Beat at half of it: the manager ends a daemon that was silent for the whole. ConfigError if WATCHDOG_USEC is no
    positive number.
    """
    text = environ.get("WATCHDOG_USEC")
    if text is None or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return _number("WATCHDOG_USEC", text) / 1e6


def take_sockets(environ: MutableMapping[str, str] = os.environ) -> list[tuple[str, socket.socket]]:
    """The bound sockets that the manager handed to this process, in its order, each with its FileDescriptorName.

    They are non-blocking and not inherited by children; a second call gives none. A socket without a name is called
    "unknown", as systemd does. ConfigError if LISTEN_FDS is no positive number or the names are not as many; OSError if
    a descriptor is not a socket.
    """
    pid, count, names = (environ.pop(key, None) for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if count is None or pid != str(os.getpid()):
        return []
    fds = range(FIRST_FD, FIRST_FD + _number("LISTEN_FDS", count))
    labels = names.split(":") if names else ["unknown"] * len(fds)
    if len(labels) != len(fds):
        raise ConfigError(f"LISTEN_FDNAMES: want {len(fds)} names, have {len(labels)}")
    sockets = []
    for label, fd in zip(labels, fds, strict=True):
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        sock.setblocking(False)
        sockets.append((label, sock))
    return sockets


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise ConfigError(f"{name}: want a positive number, have {text[:40]!r}")
    return int(text)
