"""The commands of `cmpd` that have files of their own, and their arguments: entity, cert, request, crl, message. What
they do is in the files of these names.
"""

import argparse
from typing import TYPE_CHECKING, Final

from cmpd.cli import arguments as kinds
from cmpd.cli import cert, crl, entity, message, request
from cmpd.cli.arguments import Command, add_command, add_config, add_group
from cmpd.records import CertificateState

if TYPE_CHECKING:
    from cmpd.cli.arguments import Commands

_REF: Final = "reference of the request (8 hex digits, as list shows it), or its whole transactionID in hex"


def add_entity(commands: "Commands") -> None:
    """`cmpd entity ...`."""
    group = add_group(commands, "entity", "end entities and RAs: who may ask for certificates")
    _add_entity_add(group)
    every = add_command(group, "list", entity.show_all, "list all", ["cmpd entity list --config ca/cmpd.toml --json"])
    add_config(every, json=True)
    one: list[tuple[str, Command, str]] = [
        ("show", entity.show, "show one"),
        ("disable", entity.disable, "take an entity's rights away, from its next message on"),
    ]
    for name, function, text in one:
        command = add_command(group, name, function, text, [f"cmpd entity {name} pump-7 --config ca/cmpd.toml"])
        command.add_argument("reference", metavar="REFERENCE", help="reference value")
        add_config(command, json=True)


def _add_entity_add(group: "Commands") -> None:
    add = add_command(
        group,
        "add",
        entity.add,
        "register an end entity or RA; prints the shared secret if it makes one",
        [
            "cmpd entity add pump-7 --config ca/cmpd.toml",
            'cmpd entity add pump-8 --config ca/cmpd.toml --subject "/O=Example/CN=pump-8" --expires 30d',
            "cmpd entity add fleet --config ca/cmpd.toml --cert manufacturer-ca.pem --profile device",
            "pwgen -s 32 1 | cmpd entity add ra1 --config ca/cmpd.toml --ra --uses unlimited --secret-file -",
            "cmpd entity add valve --config ca/cmpd.toml --may-revoke",
            "cmpd entity add lamp --config ca/cmpd.toml --cert lamp.pem --reg-token-file lamp.token",
        ],
    )
    add.add_argument("reference", metavar="REFERENCE", help="reference value (senderKID of its messages)")
    add_config(add, json=True)
    credential = add.add_mutually_exclusive_group()
    credential.add_argument(
        "--secret-file",
        type=kinds.path,
        metavar="FILE",
        help="shared secret, - for standard input (default: one is made)",
    )
    credential.add_argument(
        "--cert", type=kinds.path, metavar="FILE", help="a certificate (PEM) as credential; a CA's: everything under it"
    )
    for option, what in (
        ("--reg-token-file", "one-time regToken"),
        ("--authenticator-file", "long-term authenticator"),
    ):
        add.add_argument(
            option, type=kinds.path, metavar="FILE", help=f"{what} that its ir or cr must have, - as above"
        )
    add.add_argument("--subject", metavar="DN", help="the subject that its requests must have (default: any)")
    add.add_argument(
        "--profile", action="append", metavar="NAME", help="a profile it may use, the first is its default; repeatable"
    )
    add.add_argument(
        "--uses",
        type=kinds.uses,
        metavar="N",
        help='how often it may enrol, or "unlimited" (default: once with a secret or regToken)',
    )
    add.add_argument(
        "--expires", type=kinds.duration, metavar="DURATION", help="ends after this time, such as 24h or 30d"
    )
    add.add_argument("--ra", action="store_true", help="it is an RA: may ask for others and vouch for their keys")
    add.add_argument(
        "--may-revoke",
        action="store_true",
        help="its shared secret may also revoke, suspend and resume its certificates (rr), as certificates and RAs may",
    )
    add.set_defaults(command=lambda args, env: entity.add(_with_secret(add, args), env))


def _with_secret(add: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    if args.may_revoke and args.cert:
        add.error("--may-revoke is about shared secrets; with --cert it is not needed, it may revoke anyway")
    return args


def add_cert(commands: "Commands") -> None:
    """`cmpd cert ...`."""
    group = add_group(commands, "cert", "certificates that were issued")
    every = add_command(
        group,
        "list",
        cert.show_all,
        "list certificates",
        [
            "cmpd cert list --config ca/cmpd.toml --subject pump",
            "cmpd cert list --config ca/cmpd.toml --state suspended --json",
        ],
    )
    every.add_argument("--subject", metavar="TEXT", help="only those with this in the subject, whatever its case")
    every.add_argument(
        "--state", choices=[state.value for state in CertificateState], help="only those in this state now"
    )
    every.add_argument(
        "--limit", type=kinds.count, metavar="N", help="at most so many, by serial number (default: all)"
    )
    every.set_defaults(one=False)
    add_config(every, json=True)
    show = add_command(
        group,
        "show",
        cert.show,
        "show certificates and what became of them",
        ["cmpd cert show 41E1A77F --config ca/cmpd.toml"],
    )
    export = add_command(
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
        which.add_argument("serial", nargs="?", type=kinds.serial, metavar="SERIAL", help="serial number in hex")
        which.add_argument("--subject", metavar="TEXT", help="all with this in the subject, whatever its case")
        command.set_defaults(one=True)
    add_config(show, json=True)
    add_config(export)
    export.add_argument("--der", action="store_true", help="write DER, one certificate")
    export.add_argument("--out", type=kinds.path, metavar="FILE", help="write to this file (default: standard output)")
    _add_status(group)


def _add_status(group: "Commands") -> None:
    """The commands that change the status of certificates."""
    revoke = add_command(
        group,
        "revoke",
        cert.revoke,
        "revoke certificates for good; also while the server runs",
        [
            "cmpd cert revoke 41E1A77F --config ca/cmpd.toml",
            "cmpd cert revoke 41E1A77F 42:AB --config ca/cmpd.toml --reason keyCompromise --invalidity-date 2026-01-31",
        ],
    )
    suspend = add_command(
        group,
        "suspend",
        cert.suspend,
        "suspend certificates (certificateHold) until they are resumed or revoked; also while the server runs",
        ["cmpd cert suspend 41E1A77F --config ca/cmpd.toml"],
    )
    resume = add_command(
        group,
        "resume",
        cert.resume,
        "resume suspended certificates (removeFromCRL); also while the server runs",
        ["cmpd cert resume 41E1A77F --config ca/cmpd.toml --json"],
    )
    for command in (revoke, suspend, resume):
        command.add_argument(
            "serials", nargs="+", type=kinds.serial, metavar="SERIAL", help="serial number in hex; each is judged alone"
        )
        add_config(command, json=True)
    revoke.add_argument(
        "--reason",
        type=kinds.reason,
        default="unspecified",
        metavar="NAME",
        help=f"why: {', '.join(kinds.REASONS)} (default: unspecified)",
    )
    for command in (revoke, suspend):
        command.add_argument(
            "--invalidity-date",
            type=kinds.moment,
            metavar="TIME",
            help="since when the key cannot be trusted: UTC, as 2026-01-31 or 2026-01-31T12:00:00Z",
        )


def add_request(commands: "Commands") -> None:
    """`cmpd request ...`."""
    group = add_group(commands, "request", "certificate requests that wait for an operator (approval = true)")
    every = add_command(
        group,
        "list",
        request.show_all,
        "list the requests that can be decided now",
        ["cmpd request list --config ca/cmpd.toml", "cmpd request list --all --config ca/cmpd.toml --json"],
    )
    every.add_argument("--all", action="store_true", help="decided, answered and expired ones too, while they are kept")
    show = add_command(
        group,
        "show",
        request.show,
        "show one",
        [
            "cmpd request show 9A1F03C2 --config ca/cmpd.toml",
            "cmpd request show 9A1F03C2 --config ca/cmpd.toml --out request.der",
        ],
    )
    show.add_argument("request", type=kinds.request, metavar="REF", help=_REF)
    show.add_argument("--out", type=kinds.path, metavar="FILE", help="write the request (PKIMessage, DER) to this file")
    approve = add_command(
        group,
        "approve",
        request.approve,
        "approve requests; the server signs when the requester asks again; also while the server runs",
        ["cmpd request approve 9A1F03C2 --config ca/cmpd.toml"],
    )
    reject = add_command(
        group,
        "reject",
        request.reject,
        "reject requests; also while the server runs",
        ['cmpd request reject 9A1F03C2 41E1A77F --reason "unknown device" --config ca/cmpd.toml'],
    )
    for command in (approve, reject):
        command.add_argument(
            "requests", nargs="+", type=kinds.request, metavar="REF", help=f"{_REF}; each is judged alone"
        )
    reject.add_argument(
        "--reason", type=kinds.refusal, required=True, metavar="TEXT", help="why; the requester is told this text"
    )
    for command in (every, show, approve, reject):
        add_config(command, json=True)


def add_crl(commands: "Commands") -> None:
    """`cmpd crl ...`."""
    group = add_group(commands, "crl", "the certificate revocation list")
    issue = add_command(
        group,
        "issue",
        crl.issue,
        "issue a new CRL now, by the server if it runs",
        ["cmpd crl issue --config ca/cmpd.toml"],
    )
    add_config(issue, json=True)
    show = add_command(
        group,
        "show",
        crl.show,
        "show or write the CRL that is published in crl.directory",
        [
            "cmpd crl show --config ca/cmpd.toml",
            "cmpd crl show --delta --entries --config ca/cmpd.toml --json",
            "cmpd crl show --config ca/cmpd.toml --out ca-crl.pem",
        ],
    )
    add_config(show, json=True)
    show.add_argument("--delta", action="store_true", help="the delta CRL (default: the full one)")
    show.add_argument("--entries", action="store_true", help="list every certificate on it too (there may be many)")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--der", action="store_true", help="write it as DER")
    form.add_argument("--pem", action="store_true", help="write it as PEM (default with --out)")
    show.add_argument("--out", type=kinds.path, metavar="FILE", help="write it to this file, not to standard output")
    show.set_defaults(command=lambda args, env: crl.show(_shown_or_written(show, args), env))


def _shown_or_written(show: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    args.write = bool(args.der or args.pem or args.out)
    if args.write and (args.json or args.entries):
        show.error("--json and --entries show the CRL; --der, --pem and --out write it: do one after the other")
    return args


def add_message(commands: "Commands") -> None:
    """`cmpd message`."""
    answer = add_command(
        commands,
        "message",
        message.run,
        "answer one CMP message from standard input, by the server if it runs",
        [
            "cmpd message --config ca/cmpd.toml < request.der > response.der",
            "cmpd message --config ca/cmpd.toml --mime < request.eml > reply.eml",
        ],
    )
    answer.epilog = f"{answer.epilog}\n\n{message.EXIT_CODES}"
    add_config(answer)
    answer.add_argument("--mime", action="store_true", help="a mail with application/pkixcmp in, the reply mail out")
    answer.add_argument(
        "--from",
        dest="answer_from",
        type=kinds.address,
        metavar="ADDRESS",
        help="where the reply mail comes from (default: what the mail was sent to)",
    )
    answer.add_argument(
        "--timeout",
        type=kinds.duration,
        default=message.DEFAULT_TIMEOUT,
        metavar="DURATION",
        help=f"how long an answer is waited for, such as 30s or 5m (default: {message.DEFAULT_TIMEOUT}s)",
    )
    answer.set_defaults(command=lambda args, env: message.run(_of_mail(answer, args), env))


def _of_mail(answer: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    if args.answer_from and not args.mime:
        answer.error("--from goes with --mime")
    return args
