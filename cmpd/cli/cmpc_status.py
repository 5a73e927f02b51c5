"""cmpc status: is a certificate good? Asked of an OCSP responder.

Exit code: 0 an answer was believed and the certificate is good, 1 there is no answer that can be believed, 2 the
arguments cannot be used, 3 revoked or on hold, 4 unknown to the responder.
"""

import argparse
import json
from typing import Final

from cmpd.cli.cmpc_revoke import first_certificate
from cmpd.cli.cmpc_session import UsageError
from cmpd.cli.output import time_text
from cmpd.client import ocsp
from cmpd.client.certificates import Certificate, build_path, load_certificates
from cmpd.client.errors import VerificationError
from cmpd.client.ocsp import Status
from cmpd.env import Env

_EXIT_CODES: Final = {"good": 0, "revoked": 3, "on hold": 3, "unknown": 4}


def status(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpc status`."""
    issuer = first_certificate(args.issuer_cert)
    serial, url = _subject(args, issuer)
    if args.trusted is not None:
        above, anchors = load_certificates(args.issuer_cert)[1:], load_certificates(args.trusted)
        build_path(issuer, above, anchors, env.now())
    asked = ocsp.question(issuer, serial, env, nonce=not args.no_nonce)
    octets = ocsp.fetch(url, asked.der, get=args.get, timeout=args.timeout)
    found = ocsp.read_answer(octets, asked, env)
    _report(serial, url, found, args.json)
    return _EXIT_CODES[found.state]


def _subject(args: argparse.Namespace, issuer: Certificate) -> tuple[int, str]:
    """The serial number asked for, and the URL of who is asked."""
    if args.cert is None:
        if args.url is None:
            raise UsageError("--serial needs --url URL: only a certificate says where its status is")
        return args.serial, args.url
    certificate = first_certificate(args.cert)
    try:
        ocsp.check_issuer(certificate, issuer)
    except VerificationError as error:
        raise UsageError(f"--issuer-cert {args.issuer_cert}: {error}") from None
    url = args.url or ocsp.responder_url(certificate)
    if url is None:
        raise UsageError(f"{args.cert} names no OCSP responder (authorityInfoAccess); give --url URL")
    return certificate.serial, url


def _report(serial: int, url: str, found: Status, as_json: bool) -> None:
    lines = {
        "status": found.state,
        "since": time_text(found.since),
        "reason": found.reason,
        "serial": f"{serial:x}",
        "this_update": time_text(found.this_update),
        "next_update": time_text(found.next_update),
        "responder": found.responder,
        "url": url,
    }
    if as_json:
        print(json.dumps(lines | {"nonce_echoed": found.nonce_echoed}))
        return
    for name, value in lines.items():
        if value is not None:
            print(f"{name.replace('_', ' '):16} {value}")
    if found.nonce_echoed is False:
        print("note             the responder did not repeat the nonce: the answer may have been made before")
