"""The command `cmpd`: arguments in, one of the functions beside it called, an exit code out.

Exit codes: 0 done, 1 refused or failed (standard error says why and what to do), 2 wrong usage. Secrets are never
arguments: they come from files or standard input.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cmpd import __version__
from cmpd.cli import cert, check, entity
from cmpd.cli.output import note, serial_octets
from cmpd.config import load
from cmpd.config_values import listen_address, seconds
from cmpd.env import Env
from cmpd.errors import CmpdError
from cmpd.install import DEFAULT_LISTEN, KEYS, Plan, install_certificate, make_root, make_subordinate
from cmpd.records import CertificateState

Command = Callable[[argparse.Namespace, Env], int]
T = TypeVar("T")
if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None, env: Env | None = None) -> int:
    """Run the command; `argv` without the program's name. SystemExit(2) on wrong usage, SystemExit(0) after --help."""
    args = parser().parse_args(argv)
    command: Command = args.command
    try:
        code = command(args, env or Env())
        sys.stdout.flush()
        return code
    except CmpdError as error:
        for line in str(error).split("\n"):
            note(f"cmpd: {line}")
    except BrokenPipeError:  # whoever read our output has left; what is buffered still must not be written to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        note(f"cmpd: {error.filename or ''}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    return 1


# --- commands that need no file of their own -------------------------------------------------------------------------


def _init(args: argparse.Namespace, env: Env) -> int:
    config = args.dir / "cmpd.toml"
    if args.install_certificate:
        install_certificate(args.dir, args.install_certificate, args.chain, env)
        note(f"the certificate is installed; trust anchor for clients: {args.dir / 'ca.pem'}")
        note(f"next: cmpd serve --config {config}")
        return 0
    plan = Plan(args.dir, args.tcp or DEFAULT_LISTEN, args.subject, args.key or "p256", args.passphrase_file)
    if args.subordinate:
        make_subordinate(plan, env)
        note(f"request for the CA above: {args.dir / 'ca.csr'}")
        note(f"next: cmpd init --dir {args.dir} --install-certificate FILE --chain FILE")
        return 0
    make_root(plan, env)
    note(f"configuration: {config}")
    note(f"trust anchor for clients: {args.dir / 'ca.pem'}")
    note(f"next: cmpd entity add REFERENCE --config {config}; cmpd serve --config {config}")
    return 0


def _serve(args: argparse.Namespace, env: Env) -> int:
    config = load(args.config)
    from cmpd.daemon import run  # the server and its loop are of no use to the other commands

    return run(config)


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


def _read_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000_000:
        raise ValueError(f"want a whole number of 1 or more, have {text!r}")
    return int(text)


_path = _argument(_read_path)
_listen = _argument(_read_listen)
_count = _argument(_read_count)
_duration = _argument(seconds)
_serial = _argument(serial_octets)
_uses = _argument(lambda text: 0 if text == "unlimited" else _read_count(text))


# --- arguments -------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = argparse.ArgumentParser(
        prog="cmpd",
        description="A certificate authority that speaks CMP over raw TCP.",
        epilog="exit codes: 0 done, 1 refused or failed, 2 wrong usage",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"cmpd {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_init(commands)
    serve = _command(commands, "serve", _serve, "run the server until SIGTERM", ["cmpd serve --config ca/cmpd.toml"])
    _add_config(serve)
    checked = _command(
        commands,
        "check",
        check.run,
        "find mistakes in the configuration and the files it names",
        ["cmpd check --config ca/cmpd.toml"],
    )
    _add_config(checked)
    _add_entity(commands)
    _add_cert(commands)
    return top


def _command(
    commands: "_Commands", name: str, function: Command, help_text: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
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


def _add_config(command: argparse.ArgumentParser, *, json: bool = False) -> None:
    command.add_argument("--config", type=_path, required=True, metavar="FILE", help="the configuration (cmpd.toml)")
    if json:
        command.add_argument("--json", action="store_true", help="write JSON for scripts")


def _add_init(commands: "_Commands") -> None:
    init = _command(
        commands,
        "init",
        _init,
        "make a new CA in a directory; nothing that is there is ever changed",
        [
            "cmpd init --dir ca",
            'cmpd init --dir ca --tcp 0.0.0.0:829 --subject "/C=DE/O=Example/CN=Example CA" --key p384',
            "cmpd init --dir ca --subordinate          (have ca/ca.csr signed by the CA above, then)",
            "cmpd init --dir ca --install-certificate ca.crt --chain above.pem",
        ],
    )
    init.add_argument("--dir", type=_path, required=True, metavar="DIR", help="where all files go")
    init.add_argument(
        "--tcp", type=_listen, metavar="HOST:PORT", help=f'where to listen, or "systemd" (default {DEFAULT_LISTEN})'
    )
    init.add_argument(
        "--subject", metavar="DN", help="name of the CA, as /C=DE/CN=x or CN=x,C=DE (default: one made up)"
    )
    init.add_argument("--key", choices=list(KEYS), help="type of the CA's key (default p256)")
    init.add_argument(
        "--passphrase-file", type=_path, metavar="FILE", help="passphrase of the keys (default: one is made, mode 0600)"
    )
    way = init.add_mutually_exclusive_group()
    way.add_argument("--subordinate", action="store_true", help="make a key and a request (ca.csr) instead of a root")
    way.add_argument(
        "--install-certificate", type=_path, metavar="FILE", help="take in the subordinate CA's certificate (PEM)"
    )
    init.add_argument("--chain", type=_path, metavar="FILE", help="certificates of the CAs above, up to the root (PEM)")
    init.set_defaults(command=lambda args, env: _init(_consistent(init, args), env))


def _consistent(init: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    given = [name for name in ("tcp", "subject", "key", "passphrase_file") if getattr(args, name) is not None]
    if args.install_certificate and given:
        init.error(
            f"--{given[0].replace('_', '-')} was decided when the request was made, not with --install-certificate"
        )
    if args.chain and not args.install_certificate:
        init.error("--chain goes with --install-certificate")
    return args


def _group(commands: "_Commands", name: str, help_text: str) -> "_Commands":
    made = commands.add_parser(name, help=help_text, description=help_text + ".", allow_abbrev=False)
    return made.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _add_entity(commands: "_Commands") -> None:
    group = _group(commands, "entity", "end entities and RAs: who may ask for certificates")
    add = _command(
        group,
        "add",
        entity.add,
        "register an end entity or RA; prints the shared secret if it makes one",
        [
            "cmpd entity add pump-7 --config ca/cmpd.toml",
            'cmpd entity add pump-8 --config ca/cmpd.toml --subject "/O=Example/CN=pump-8" --expires 30d',
            "cmpd entity add fleet --config ca/cmpd.toml --cert manufacturer-ca.pem --profile device",
            "pwgen -s 32 1 | cmpd entity add ra1 --config ca/cmpd.toml --ra --uses unlimited --secret-file -",
            "cmpd entity add lamp --config ca/cmpd.toml --cert lamp.pem --reg-token-file lamp.token",
        ],
    )
    add.add_argument("reference", metavar="REFERENCE", help="reference value (senderKID of its messages)")
    _add_config(add, json=True)
    credential = add.add_mutually_exclusive_group()
    credential.add_argument(
        "--secret-file", type=_path, metavar="FILE", help="shared secret, - for standard input (default: one is made)"
    )
    credential.add_argument(
        "--cert", type=_path, metavar="FILE", help="a certificate (PEM) as credential; a CA's: everything under it"
    )
    for option, what in (
        ("--reg-token-file", "one-time regToken"),
        ("--authenticator-file", "long-term authenticator"),
    ):
        add.add_argument(option, type=_path, metavar="FILE", help=f"{what} that its ir or cr must have, - as above")
    add.add_argument("--subject", metavar="DN", help="the subject that its requests must have (default: any)")
    add.add_argument(
        "--profile", action="append", metavar="NAME", help="a profile it may use, the first is its default; repeatable"
    )
    add.add_argument(
        "--uses",
        type=_uses,
        metavar="N",
        help='how often it may enrol, or "unlimited" (default: once with a secret or regToken)',
    )
    add.add_argument("--expires", type=_duration, metavar="DURATION", help="ends after this time, such as 24h or 30d")
    add.add_argument("--ra", action="store_true", help="it is an RA: may ask for others and vouch for their keys")
    every = _command(group, "list", entity.show_all, "list all", ["cmpd entity list --config ca/cmpd.toml --json"])
    _add_config(every, json=True)
    one: list[tuple[str, Command, str]] = [
        ("show", entity.show, "show one"),
        ("disable", entity.disable, "take an entity's rights away, from its next message on"),
    ]
    for name, function, text in one:
        command = _command(group, name, function, text, [f"cmpd entity {name} pump-7 --config ca/cmpd.toml"])
        command.add_argument("reference", metavar="REFERENCE", help="reference value")
        _add_config(command, json=True)


def _add_cert(commands: "_Commands") -> None:
    group = _group(commands, "cert", "certificates that were issued")
    every = _command(
        group, "list", cert.show_all, "list certificates", ["cmpd cert list --config ca/cmpd.toml --subject pump"]
    )
    every.add_argument("--subject", metavar="TEXT", help="only those with this in the subject, whatever its case")
    every.add_argument("--state", choices=[state.value for state in CertificateState], help="only those in this state")
    every.add_argument("--limit", type=_count, metavar="N", help="at most so many, by serial number (default: all)")
    every.set_defaults(one=False)
    _add_config(every, json=True)
    show = _command(group, "show", cert.show, "show certificates", ["cmpd cert show 41E1A77F --config ca/cmpd.toml"])
    export = _command(
        group,
        "export",
        cert.export,
        "write certificates as PEM or DER",
        [
            "cmpd cert export 41E1A77F --config ca/cmpd.toml --out pump-7.pem",
            "cmpd cert export --subject pump --config ca/cmpd.toml > pumps.pem",
        ],
    )
    for command in (show, export):
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument("serial", nargs="?", type=_serial, metavar="SERIAL", help="serial number in hex")
        which.add_argument("--subject", metavar="TEXT", help="all with this in the subject, whatever its case")
        command.set_defaults(one=True)
    _add_config(show, json=True)
    _add_config(export)
    export.add_argument("--der", action="store_true", help="write DER, one certificate")
    export.add_argument("--out", type=_path, metavar="FILE", help="write to this file (default: standard output)")
