"""The parts that the arguments of `cmpd` are made of: commands with help and examples, and kinds of arguments.

A kind reads a text for argparse and says in ArgumentTypeError what was wanted, which is wrong usage (exit code 2).
"""

import argparse
import calendar
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from cmpd.cli.output import serial_octets
from cmpd.config_values import BaseUrl, listen_address, nearest, publish_address, seconds, shown
from cmpd.env import Env
from cmpd.mime import is_address
from cmpd.records import CRL_REASONS

Command = Callable[[argparse.Namespace, Env], int]
T = TypeVar("T")
if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_OWN_COMMANDS: Final = {"certificateHold": "suspend", "removeFromCRL": "resume"}
"""Reasons that do not revoke, and the command that each of them is."""

REASONS: Final = tuple(reason for reason in CRL_REASONS if reason not in _OWN_COMMANDS)


# --- commands --------------------------------------------------------------------------------------------------------


def add_command(
    commands: "Commands", name: str, function: Command, help_text: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """A command that runs `function`; `help_text` starts with a verb, in lower case."""
    made = commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.set_defaults(command=function)
    return made


def add_group(commands: "Commands", name: str, help_text: str) -> "Commands":
    """A command that has commands."""
    made = commands.add_parser(name, help=help_text, description=help_text + ".", allow_abbrev=False)
    return made.add_subparsers(title="commands", metavar="COMMAND", required=True)


def check_together(
    parser: argparse.ArgumentParser, command: Command, fault: Callable[[argparse.Namespace], str]
) -> None:
    """Run `command` only if `fault` finds nothing wrong with its arguments together; what it says is a usage error."""

    def run(args: argparse.Namespace, env: Env) -> int:
        if text := fault(args):
            parser.error(text)
        return command(args, env)

    parser.set_defaults(command=run)


def add_config(command: argparse.ArgumentParser, *, json: bool = False) -> None:
    """--config, which all but init have, and --json for what shows something."""
    command.add_argument("--config", type=path, required=True, metavar="FILE", help="the configuration (cmpd.toml)")
    if json:
        command.add_argument("--json", action="store_true", help="write JSON for scripts")


# --- kinds of arguments ----------------------------------------------------------------------------------------------


def _argument(read: Callable[[str], T]) -> Callable[[str], T]:
    """`read` for argparse, which shows the text of ArgumentTypeError alone."""

    def checked(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def _read_path(text: str) -> Path:
    if not text or not text.isprintable():  # a name that is not UTF-8 has no place in a TOML file
        raise ValueError("want a path of printable UTF-8 text")
    return Path(text)


def _read_listen(text: str) -> str:
    listen_address(text)
    return text


def _read_base_url(text: str) -> str:
    try:
        return TypeAdapter[str](BaseUrl).validate_python(text)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["ctx"]["error"]) from error


def _read_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000_000:
        raise ValueError(f"want a whole number of 1 or more, have {text!r}")
    return int(text)


def _read_reason(text: str) -> str:
    """A reason for revocation as RFC 5280 spells it, from its name in whatever case, with or without dashes."""
    folded = {name.lower(): name for name in CRL_REASONS}
    name = folded.get(text.lower().replace("-", "").replace("_", ""))
    if name is None:
        raise ValueError(f"want a reason for revocation, have {text!r}{nearest(text, REASONS)}")
    if name in _OWN_COMMANDS:
        raise ValueError(f"{name} does not revoke: use cmpd cert {_OWN_COMMANDS[name]}")
    return name


def _read_address(text: str) -> str:
    if not is_address(text):
        raise ValueError(f"want an address such as ca@example.com, have {shown(text)}")
    return text


def _read_request(text: str) -> str:
    """Hex digits in lower case: of a polling reference, or of a transactionID."""
    digits = text.lower().removeprefix("0x").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{1,1024}", digits) or (len(digits) > 8 and len(digits) % 2):
        raise ValueError(f"want the reference of a request (8 hex digits) or its transactionID in hex, have {text!r}")
    return digits


def _read_refusal(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > _MAX_REFUSAL:
        raise ValueError(f"want 1 to {_MAX_REFUSAL} printable characters, have {shown(text)}")
    return text.strip()


_MAX_REFUSAL: Final = 500

_TIME: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d))?Z)?", re.ASCII | re.IGNORECASE)


def _read_time(text: str) -> int:
    """Unix time of a date (its first second) or time in UTC as RFC 3339 writes it."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"want a date or a time in UTC such as 2026-01-31 or 2026-01-31T12:00:00Z, have {text!r}")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
    if not (
        year >= 1970
        and 1 <= month <= 12
        and 1 <= day <= calendar.monthrange(year, month)[1]
        and max(hour - 23, minute - 59, second - 59) <= 0
    ):
        raise ValueError(f"want a time that exists, from 1970 on, have {text!r}")
    return calendar.timegm((year, month, day, hour, minute, second))


path = _argument(_read_path)
listen = _argument(_read_listen)
publish = _argument(publish_address)
base_url = _argument(_read_base_url)
count = _argument(_read_count)
duration = _argument(seconds)
serial = _argument(serial_octets)
uses = _argument(lambda text: 0 if text == "unlimited" else _read_count(text))
reason = _argument(_read_reason)
moment = _argument(_read_time)
address = _argument(_read_address)
request = _argument(_read_request)
refusal = _argument(_read_refusal)
