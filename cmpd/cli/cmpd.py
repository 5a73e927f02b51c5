"""The command `cmpd`: arguments in, one of the functions beside it called, an exit code out.

Exit codes: 0 done, 1 refused or failed (standard error says why and what to do), 2 wrong usage. Secrets are never
arguments: they come from files or standard input.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Final

from cmpd import __version__
from cmpd.cli import arguments as kinds
from cmpd.cli import groups
from cmpd.cli.arguments import Command, add_command, add_config
from cmpd.cli.output import note
from cmpd.env import Env
from cmpd.errors import CmpdError

if TYPE_CHECKING:
    from cmpd.cli.arguments import Commands


def main(argv: Sequence[str] | None = None, env: Env | None = None) -> int:
    """Run the command; `argv` without the program's name. SystemExit(2) on wrong usage, SystemExit(0) after --help."""
    words = sys.argv[1:] if argv is None else argv
    args = parser(words[0] if words else None).parse_args(words)
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
    from cmpd.install import DEFAULT_LISTEN, Plan, install_certificate, make_root, make_subordinate

    config = args.dir / "cmpd.toml"
    if args.install_certificate:
        install_certificate(args.dir, args.install_certificate, args.chain, env)
        note(f"the certificate is installed; trust anchor for clients: {args.dir / 'ca.pem'}")
        note(f"next: cmpd serve --config {config}")
        return 0
    plan = Plan(
        args.dir,
        args.tcp or DEFAULT_LISTEN,
        args.subject,
        args.key or "p256",
        args.passphrase_file,
        publish=args.publish,
        base_url=args.base_url,
        http=args.http,
    )
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
    from cmpd.config import load
    from cmpd.daemon import run

    return run(load(args.config))


# --- arguments -------------------------------------------------------------------------------------------------------


def parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The arguments of the command `chosen`; of all commands if there is none of this name."""
    top = argparse.ArgumentParser(
        prog="cmpd",
        description="A certificate authority that speaks CMP, and publishes the status of its certificates.",
        epilog="exit codes: 0 done, 1 refused or failed, 2 wrong usage",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"cmpd {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, add in COMMANDS.items():
        if name == chosen or chosen not in COMMANDS:
            add(commands)
    return top


def _add_serve(commands: "Commands") -> None:
    serve = add_command(commands, "serve", _serve, "run the server until SIGTERM", ["cmpd serve --config ca/cmpd.toml"])
    add_config(serve)


def _add_init(commands: "Commands") -> None:
    from cmpd.install import DEFAULT_LISTEN, KEYS

    init = add_command(
        commands,
        "init",
        _init,
        "make a new CA in a directory; nothing that is there is ever changed",
        [
            "cmpd init --dir ca",
            'cmpd init --dir ca --tcp 0.0.0.0:829 --subject "/C=DE/O=Example/CN=Example CA" --key p384',
            "cmpd init --dir ca --http 0.0.0.0:8081",
            "cmpd init --dir ca --publish 0.0.0.0:8080 --base-url http://pki.example.com:8080",
            "cmpd init --dir ca --subordinate          (have ca/ca.csr signed by the CA above, then)",
            "cmpd init --dir ca --install-certificate ca.crt --chain above.pem",
        ],
    )
    init.add_argument("--dir", type=kinds.path, required=True, metavar="DIR", help="where all files go")
    init.add_argument(
        "--tcp",
        type=kinds.listen,
        metavar="HOST:PORT",
        help=f'where to listen, or "systemd" (default {DEFAULT_LISTEN})',
    )
    init.add_argument(
        "--http",
        type=kinds.listen,
        metavar="HOST:PORT",
        help='listen for CMP over HTTP here too, on /.well-known/cmp and /cmp; or "systemd:NAME" (default: nowhere)',
    )
    init.add_argument(
        "--subject", metavar="DN", help="name of the CA, as /C=DE/CN=x or CN=x,C=DE (default: one made up)"
    )
    init.add_argument("--key", choices=list(KEYS), help="type of the CA's key (default p256)")
    init.add_argument(
        "--passphrase-file",
        type=kinds.path,
        metavar="FILE",
        help="passphrase of the keys (default: one is made, mode 0600)",
    )
    init.add_argument(
        "--publish",
        type=kinds.publish,
        metavar="HOST:PORT",
        help="publish CRLs, OCSP and the CA certificate here by HTTP; a PORT alone is on 127.0.0.1 (default: nowhere)",
    )
    init.add_argument(
        "--base-url",
        type=kinds.base_url,
        metavar="URL",
        help="where the outside reaches what is published; certificates name it (default: they do not)",
    )
    _add_subordinate(init)
    init.set_defaults(command=lambda args, env: _init(_consistent(init, args), env))


def _add_subordinate(init: argparse.ArgumentParser) -> None:
    way = init.add_mutually_exclusive_group()
    way.add_argument("--subordinate", action="store_true", help="make a key and a request (ca.csr) instead of a root")
    way.add_argument(
        "--install-certificate", type=kinds.path, metavar="FILE", help="take in the subordinate CA's certificate (PEM)"
    )
    init.add_argument(
        "--chain", type=kinds.path, metavar="FILE", help="certificates of the CAs above, up to the root (PEM)"
    )


def _consistent(init: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    from cmpd.install import DEFAULT_LISTEN

    decided = ("tcp", "http", "subject", "key", "passphrase_file", "publish", "base_url")
    given = [name for name in decided if getattr(args, name) is not None]
    if args.install_certificate and given:
        init.error(
            f"--{given[0].replace('_', '-')} was decided when the request was made, not with --install-certificate"
        )
    if args.chain and not args.install_certificate:
        init.error("--chain goes with --install-certificate")
    places = {"--tcp": args.tcp or DEFAULT_LISTEN, "--http": args.http, "--publish": args.publish}
    for one, other in combinations(places, 2):
        if places[one] == places[other] is not None and not places[one].endswith(":0"):
            init.error(f"{one} and {other} name the same place, {places[one]}: each needs one of its own")
    return args


COMMANDS: Final[dict[str, Callable[["Commands"], None]]] = {
    "init": _add_init,
    "serve": _add_serve,
    "check": groups.add_check,
    "entity": groups.add_entity,
    "cert": groups.add_cert,
    "key": groups.add_key,
    "request": groups.add_request,
    "crl": groups.add_crl,
    "message": groups.add_message,
}
"""What adds the arguments of each command; the files behind a command are loaded by this and not before."""
