"""One question to the server on this machine, through its Unix domain socket, which speaks tcp-messages.

For commands that live as long as one message: a blocking socket and a deadline are all it takes. Nothing on this way is
hostile, but it may be gone, busy or older than this client, and each of these is told apart.
"""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cmpd.client.errors import AnswerTimeout, ConnectError, ConnectionLost, ProtocolError, TransportError
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import Decoder, ErrorMsgRep, FinRep, Frame, PkiRep

_LONGEST_ANSWER: Final = 0x0800_0000  # octets
_LONGEST_PATH: Final = 107  # octets of the address of a Unix domain socket, without its NUL (unix(7))
_CHUNK: Final = 262_144
_PAUSE: Final = 0.05

_NOBODY: Final = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR})
"""There is no socket, or it was left by a server that was killed."""


def ask(path: Path, der: bytes, seconds: float) -> bytes | None:
    """Send a PKIMessage to the server at `path`; return the DER of its answer, None if there is none (finRep).

    ConnectError if no server is there; ConnectionLost if it hung up; AnswerTimeout after `seconds`; ProtocolError for
    what is no answer; TransportError with a type for an errorMsgRep, without one if the socket cannot be used.
    """
    deadline = time.monotonic() + seconds
    try:
        with _connected(path, deadline) as sock:
            _set_time(sock, deadline)
            sock.sendall(tcpmsg.pki_req(der, close=True))
            return _read_answer(_receive(sock, deadline))
    except TimeoutError:
        raise AnswerTimeout(f"no answer from the server at {path} within {seconds:g} s") from None
    except (BrokenPipeError, ConnectionResetError):
        raise ConnectionLost(f"the server at {path} hung up before it answered") from None


@contextlib.contextmanager
def _connected(path: Path, deadline: float) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, _address(path) as address:
        while True:
            _set_time(sock, deadline)
            try:
                sock.connect(address)
                break
            except BlockingIOError:  # more wait at the door than it has room for
                time.sleep(_PAUSE)
            except OSError as error:
                if error.errno in _NOBODY:
                    raise ConnectError(f"no server at {path}: {error.strerror}") from error
                if isinstance(error, TimeoutError):
                    raise
                hint = "; only the user and the group of the server may use it" if error.errno == errno.EACCES else ""
                raise TransportError(f"{path}: cannot be used: {error.strerror or error}{hint}") from error
        yield sock


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name of the socket that is short enough for its address."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConnectError(f"no server at {path}: {error.strerror}") from error
    except OSError as error:
        raise TransportError(f"{path}: cannot be used: {error.strerror}") from error
    try:
        short = f"/proc/self/fd/{directory}/{path.name}"
        if len(os.fsencode(short)) > _LONGEST_PATH:
            raise TransportError(f"{path}: want a shorter file name for a socket")
        yield short
    finally:
        os.close(directory)


def _set_time(sock: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


def _receive(sock: socket.socket, deadline: float) -> tcpmsg.Event:
    decoder = Decoder(_LONGEST_ANSWER)
    while (event := decoder.next()) is None:
        _set_time(sock, deadline)
        octets = sock.recv(_CHUNK)
        if not octets:
            raise ConnectionResetError
        decoder.feed(octets)
    return event


def _read_answer(event: tcpmsg.Event) -> bytes | None:
    if not isinstance(event, Frame):
        raise ProtocolError("the socket speaks something else than tcp-messages: is it that of the server?")
    try:
        answer = tcpmsg.reply(event)
    except tcpmsg.ReplyError as error:
        raise ProtocolError(f"the server sent no answer: {error}") from error
    if isinstance(answer, PkiRep):
        return answer.der
    if isinstance(answer, FinRep):
        return None
    if isinstance(answer, ErrorMsgRep):
        text = f"the server did not take the message: {answer.text or 'it does not say why'}"
        raise TransportError(text, type=answer.error, data=answer.data, text=answer.text)
    raise ProtocolError(f"the server sent a {type(answer).__name__}: at this door waiting is told by CMP itself")
