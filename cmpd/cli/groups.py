"""The commands of `cmpd` that have files of their own, and their arguments: entity, cert, key, request, crl, message,
check. What they do is in the files of these names, which are loaded with the arguments of the command alone that was
given: the others would cost more time than it takes.
"""

import argparse
from typing import TYPE_CHECKING, Final

from cmpd.cli import arguments as kinds
from cmpd.cli.arguments import Command, add_command, add_config, add_group, check_together
from cmpd.records import CertificateState

if TYPE_CHECKING:
    from cmpd.cli.arguments import Commands

_REF: Final = "reference of the request (8 hex digits, as list shows it), or its whole transactionID in hex"


def add_entity(commands: "Commands") -> None:
    """`cmpd entity ...`."""
    from cmpd.cli import entity

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
    from cmpd.cli import entity

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
    check_together(add, entity.add, _credential_fault)


def _credential_fault(args: argparse.Namespace) -> str:
    if args.may_revoke and args.cert:
        return "--may-revoke is about shared secrets; with --cert it is not needed, it may revoke anyway"
    return ""


def add_cert(commands: "Commands") -> None:
    """`cmpd cert ...`."""
    from cmpd.cli import cert

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
    from cmpd.cli import cert

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


def add_key(commands: "Commands") -> None:
    """`cmpd key ...`."""
    from cmpd.cli import key
    from cmpd.install import ADDABLE

    group = add_group(commands, "key", "keys of the server itself")
    add = add_command(
        group,
        "add",
        key.add,
        "make a key of the server and its certificate, beside the others; nothing that is there is ever changed",
        ["cmpd key add kem --config ca/cmpd.toml", "cmpd key add agreement --type x25519 --config ca/cmpd.toml"],
    )
    add.add_argument(
        "purpose",
        choices=list(ADDABLE),
        help="encryption: clients encrypt to it; agreement: static Diffie-Hellman key, for DHBasedMac and agreeMAC; "
        "kem: clients encapsulate secrets for it, for KEM-based protection of answers",
    )
    types = {name: tuple(addable.types) for name, addable in ADDABLE.items()}
    listed = "; ".join(f"{name}: {', '.join(found)}" for name, found in types.items())
    add.add_argument("--type", metavar="TYPE", help=f"type of the key (default: the first one). {listed}")
    add_config(add)

    def fault(args: argparse.Namespace) -> str:
        if args.type is None or args.type in types[args.purpose]:
            return ""
        return f"--type: want one of {', '.join(types[args.purpose])} for {args.purpose}, have {args.type}"

    check_together(add, key.add, fault)


def add_request(commands: "Commands") -> None:
    """`cmpd request ...`."""
    from cmpd.cli import request

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
    from cmpd.cli import crl

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
    check_together(show, crl.show, _show_fault)


def _show_fault(args: argparse.Namespace) -> str:
    if (args.der or args.pem or args.out) and (args.json or args.entries):
        return "--json and --entries show the CRL; --der, --pem and --out write it: do one after the other"
    return ""


def add_message(commands: "Commands") -> None:
    """`cmpd message`."""
    from cmpd.cli import message

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
    check_together(answer, message.run, _mail_fault)


def _mail_fault(args: argparse.Namespace) -> str:
    return "--from goes with --mime" if args.answer_from and not args.mime else ""


def add_check(commands: "Commands") -> None:
    """`cmpd check`."""
    from cmpd.cli import check

    examples = ["cmpd check --config ca/cmpd.toml"]
    checked = add_command(
        commands, "check", check.run, "find mistakes in the configuration and the files it names", examples
    )
    add_config(checked)
