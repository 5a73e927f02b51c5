"""cmpd message: one CMP message in, its answer out, for files, pipes and mail (RFC 9483 sections 6.4.1 and 6.4.2).

One process serves a database. If a server does, the message goes to it through its local door, and the command needs
neither the passphrase nor the database. If none does, the command takes the server's place (its lock) for this message.
If the lock is held and nobody opens the door, somebody else is about to begin or end: that is waited for. Sending the
same octets again is always safe, because the server answers them as it did the first time.

Exit codes: 0 there is an answer, or none is due; 1 not answered; 2 wrong usage. For mail, whose sender is told by what
delivers it: 65 the mail is wrong, which it hears now; 75 not answered, and the mail is to be tried again later.
"""

import argparse
import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Final

from cmpd.cli.output import note, write_octets
from cmpd.client import local
from cmpd.client.errors import ConnectError, ConnectionLost, TransportError
from cmpd.config import Config, load
from cmpd.env import Env
from cmpd.errors import CmpdError, ConfigError, StoreError
from cmpd.mime import Automatic, MailError, mail_limit, read, reply
from cmpd.store import is_served

DATA_ERROR: Final = 65
TRY_AGAIN: Final = 75
"""EX_DATAERR and EX_TEMPFAIL of sysexits(3)."""

EXIT_CODES: Final = f"""exit codes: 0 there is an answer, or none is due; 1 not answered; 2 wrong usage
with --mime: {DATA_ERROR} the mail is wrong; {TRY_AGAIN} not answered, the mail can be tried again later"""

DEFAULT_TIMEOUT: Final = 60

_PAUSE: Final = 0.1
_SAY_AFTER: Final = 5.0
_WAIT_WITHOUT_DOOR: Final = 5.0
"""Seconds that whoever holds the lock is waited for when there is no door to come."""
_HANG_UPS: Final = 3
_FAILURES: Final = 3

_NO_ANSWER: Final = "no answer is due"
_TEXTS: Final = {
    b"-----BEGIN": "PEM",
    b"MI": "Base64 (openssl base64 -d)",
    b"From ": "a mail (--mime)",
    b"From:": "a mail (--mime)",
    b"Return-Path:": "a mail (--mime)",
    b"Received:": "a mail (--mime)",
}


def run(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd message`."""
    return _answer_mail(args, env) if args.mime else _answer_message(args, env)


def _answer_message(args: argparse.Namespace, env: Env) -> int:
    config = load(args.config)
    limit = config.local.max_message_octets
    octets = sys.stdin.buffer.read(limit + 1)
    other = next((name for start, name in _TEXTS.items() if octets.startswith(start)), None)
    if not octets or other is not None:
        note(f"cmpd: standard input: want the DER of a PKIMessage, have {other or 'nothing'}")
        return 2
    if len(octets) > limit:
        raise ConfigError(f"standard input: want at most {limit} octets (local.max_message_octets), have more")
    answer = _answered(config, env, octets, args.timeout)
    if answer is None:
        note(_NO_ANSWER)
    else:
        write_octets(answer, None, "")
    return 0


def _answer_mail(args: argparse.Namespace, env: Env) -> int:
    try:
        config = load(args.config)
        longest = config.local.max_message_octets
        limit = mail_limit(longest)
        octets = sys.stdin.buffer.read(limit + 1)
        if len(octets) > limit:
            raise MailError(f"mail: want at most {limit} octets, have more")
        mail = read(octets, max_message_octets=longest, answer_from=args.answer_from or "")
        if isinstance(mail, Automatic):
            note(f"no reply: a program sent this mail ({mail.reason})")
            return 0
        answer = _answered(config, env, mail.request, args.timeout)
        if answer is None:
            note(_NO_ANSWER)
        else:
            write_octets(reply(mail, answer, env), None, "")
    except MailError as error:
        note(f"cmpd: {error}")
        return DATA_ERROR
    except (CmpdError, OSError) as error:
        note(f"cmpd: {error}")
        refused = isinstance(error, TransportError) and error.type is not None and error.type >> 8 == 0x02
        return DATA_ERROR if refused else TRY_AGAIN
    return 0


# --- who answers -----------------------------------------------------------------------------------------------------


def _answered(config: Config, env: Env, octets: bytes, seconds: float) -> bytes | None:
    """The answer to a message, from the server that runs or from here, None if none is due."""
    began = time.monotonic()
    patience = seconds if config.local.enabled else min(seconds, _WAIT_WITHOUT_DOOR)
    hang_ups = failures = 0
    said = False
    while True:
        waited = time.monotonic() - began
        if config.local.enabled:
            try:
                return local.ask(config.local_socket, octets, max(seconds - waited, 1.0))
            except ConnectError:
                pass
            except ConnectionLost:
                hang_ups += 1
                if hang_ups >= _HANG_UPS:
                    raise
        if not _is_served(config):
            try:
                return _answered_here(config, env, octets)
            except StoreError:
                failures += 1  # it may have been held a moment ago
                if failures >= _FAILURES and not is_served(config.store.path):
                    raise
        if waited > patience:
            raise ConfigError(_nobody_opens(config))
        if waited > _SAY_AFTER and not said:
            said = True
            note(f"waiting for the process that holds {config.store.path}.lock")
        time.sleep(_PAUSE)


def _is_served(config: Config) -> bool:
    """Whether a server holds the database; ConfigError if that is not for this user to know."""
    try:
        return is_served(config.store.path)
    except StoreError as error:
        door = f"no server answers at {config.local_socket}" if config.local.enabled else "local.enabled = false"
        raise ConfigError(f"{error}; {door}, and in its place nobody but its own user can answer") from error


def _nobody_opens(config: Config) -> str:
    held = f"{config.store.path}.lock: another process serves this database"
    if not config.local.enabled:
        return f"{held}, and local.enabled = false: set it to true and start the server anew"
    return f"{held}, but nobody answers at {config.local_socket}: if it is the server, start it anew; its log says more"


# --- answering here --------------------------------------------------------------------------------------------------


def _answered_here(config: Config, env: Env, octets: bytes) -> bytes | None:
    """In place of the server."""
    with _logging():
        return asyncio.run(_respond(config, env, octets))


async def _respond(config: Config, env: Env, octets: bytes) -> bytes | None:
    from cmpd.daemon import assemble  # all that a server has: not for those who only ask one
    from cmpd.origin import Door, Origin

    bodies = None if config.local.bodies is None else frozenset[str](config.local.bodies)
    door = Door("file", bodies, config.local.default_profile or "")
    daemon = await assemble(config, env)
    try:
        if _may_ask_for_crls(octets):
            await daemon.publishing.publisher.start()
        answer = await daemon.responder.respond(octets, Origin("local", door))
    finally:
        await daemon.stop()
    if not isinstance(answer, bytes | None):
        raise TypeError("want a PKIMessage, have Waiting at a door that does not poll")
    return answer


def _may_ask_for_crls(octets: bytes) -> bool:
    from cmpd.message import Undecodable, decode

    try:
        return decode(octets).body_name == "genm"
    except Undecodable:
        return False


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Warnings and worse to standard error, each on a line of its own."""
    from cmpd.logs import TextFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
