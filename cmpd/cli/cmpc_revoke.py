"""cmpc rr, suspend, resume: certificates are revoked, put on hold or made valid again; revpassphrase prepares for it.

Each certificate has an answer of its own: what was done goes to standard output, what was refused to standard error.
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import Final

from cmpd.asn1 import names
from cmpd.cli.cmpc_session import Session, UsageError, complain, read_secret
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.credentials import Credential, SharedSecret, own_certificate
from cmpd.client.flows import Client
from cmpd.client.revocation import RevDetails, RevocationResult
from cmpd.env import Env

_REASONS: Final = {"suspend": "certificateHold", "resume": "removeFromCRL"}
_DONE: Final = {"certificateHold": "on hold", "removeFromCRL": "valid again"}


def revoke(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpc rr`, `cmpc suspend` or `cmpc resume`."""
    del env
    session = Session.of(args)
    details = _details(args, session.credential)
    results: list[RevocationResult] = []

    async def each(client: Client) -> None:
        for one in details:  # RFC 9483 section 4.2 has one certificate in an rr
            results.extend(await client.revoke([one]))

    try:
        session.run(each)
    finally:  # what was done is told whatever came afterwards
        if results:
            _report(results, args.json)
    for result in results:
        if result.error is not None:
            complain(result.error, f"certificate {result.details.serial:x}: ")
    return 0 if all(result.accepted for result in results) else 1


def passphrase(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpc revpassphrase`."""
    del env
    if {args.passphrase_file, args.secret_file} == {"-"}:
        raise UsageError("only one of --secret-file and --passphrase-file can be standard input")
    session = Session.of(args)
    secret = read_secret("--passphrase-file", args.passphrase_file)
    if args.key_id is None and not isinstance(session.credential, SharedSecret):
        raise UsageError("want --key-id TEXT: what cmpc rr --ref will name the passphrase by")
    key_id = None if args.key_id is None else args.key_id.encode()
    recipient = None if args.encryption_cert is None else first_certificate(args.encryption_cert)
    protected_by = session.run(lambda client: client.set_passphrase(secret, key_id=key_id, recipient=recipient))
    name = args.key_id or args.ref
    if args.json:
        print(json.dumps({"key_id": name, "protected_by": protected_by}))
    else:
        print(f"the server keeps the passphrase; use it by cmpc rr --ref {shlex.quote(name)} --secret-file FILE")
    return 0


def _details(args: argparse.Namespace, credential: Credential) -> list[RevDetails]:
    reason = _REASONS.get(args.command) or args.reason
    when = getattr(args, "invalidity_date", None)
    if args.serial is not None:
        issuer = _issuer(args)
        return [RevDetails(issuer, serial, reason, when) for serial in args.serial]
    if args.issuer is not None or args.issuer_cert is not None:
        raise UsageError("--issuer and --issuer-cert go with --serial HEX")
    if args.oldcert is not None:
        return [RevDetails.of(first_certificate(path), reason, when) for path in args.oldcert]
    if (own := own_certificate(credential)) is None:
        raise UsageError("which certificate? without --cert give --oldcert FILE, or --serial HEX with its issuer")
    return [RevDetails.of(own, reason, when)]


def _issuer(args: argparse.Namespace) -> bytes:
    """DER of the issuer's Name."""
    if args.issuer_cert is not None:
        return first_certificate(args.issuer_cert).subject
    if args.issuer is None:
        raise UsageError("--serial needs --issuer DN or --issuer-cert FILE")
    try:
        return names.encode_name(args.issuer)
    except ValueError as error:
        raise UsageError(f"--issuer: {error}") from None


def first_certificate(path: Path) -> Certificate:
    """The first certificate of a file; ClientError if there is none."""
    return load_certificates(path)[0]


def _report(results: list[RevocationResult], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_fields(result) for result in results]))
        return
    for result in results:
        if result.accepted:
            said = result.status
            state = _DONE.get(result.details.reason, f"revoked ({result.details.reason})")
            text = f": {said.text}" if said.text else ""
            status = "" if said.status == "accepted" else f" [{said.status}]"
            print(f"certificate {result.details.serial:x} is {state}{status}{text}")


def _fields(result: RevocationResult) -> dict[str, object]:
    return {
        "serial": f"{result.details.serial:x}",
        "issuer": names.name_text(result.details.issuer),
        "reason": result.details.reason,
        "accepted": result.accepted,
        "status": result.status.status,
        "status_string": result.status.text or None,
        "fail_info": list(result.status.fail_info),
        "protected_by": result.protected_by,
    }
