"""The arguments of cmpc: one parser for each command, made of groups that several have.

Kinds of arguments say in ArgumentTypeError what was wanted, which is wrong usage (exit code 2).
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cmpd import __version__
from cmpd.asn1.signing import SIGNING
from cmpd.cli.output import serial_octets
from cmpd.client import keys, messages
from cmpd.client.credentials import INNER_MACS
from cmpd.client.servers import DEFAULT_PORT
from cmpd.records import CRL_REASONS

_EPILOG: Final = """\
examples:
  cmpc ir  --server ca.example:829 --ref X --secret-file secret.txt --subject CN=device1 --out-dir device1
  cmpc cr  --server ca.example:829 --cert device1/cert.pem --key device1/key.pem --trusted ca.pem --subject CN=device1
  cmpc kur --server ca.example:829 --cert device1/cert.pem --key device1/key.pem --trusted ca.pem --out-dir device1-new
  cmpc kur --server ca.example:829 --cert dh.pem --key dh.key --dh agreement.pem --trusted ca.pem --out-dir device2
  cmpc p10cr --server ca.example:829 --ref X --secret-file secret.txt --csr request.pem --out cert.pem
  cmpc rr  --server ca.example:829 --cert device1/cert.pem --key device1/key.pem --trusted ca.pem --reason keyCompromise
  cmpc suspend --server ca.example:829 --cert ra.pem --key ra.key --trusted ca.pem --oldcert device1/cert.pem
  cmpc revpassphrase --server ca.example:829 --ref X --secret-file secret.txt --passphrase-file p.txt --key-id device1
  cmpc rr  --server ca.example:829 --ref device1 --secret-file p.txt --oldcert device1/cert.pem
  cmpc status --cert device1/cert.pem --issuer-cert ca.pem

servers (--server):
  ca.example                          raw TCP (tcp-messages), port 829; also tcp://ca.example:829, [2001:db8::1]:829
  tls://ca.example:830                the same over TLS
  http://ca.example                   HTTP (RFC 9811), port 80, path /.well-known/cmp
  https://ca.example:8443/cmp         HTTP over TLS; with --tls-cert and --tls-key if the server wants a certificate
  file:/var/spool/cmp                 a directory that the server looks into (NAME.pki, NAME.reply.pki)
  unix:/run/cmpd/cmpd.sock            the server's socket for programs on this machine

a request that has to wait for the CA's operator:
  cmpc asks again until the answer is there or --poll-timeout is over, and keeps the request meanwhile beside the
  certificate's file (suffix .pending). The same command goes on with it later. (Not with an ML-KEM key on either side:
  its secrets are for one run.)
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    made = argparse.ArgumentParser(
        prog="cmpc",
        description="cmpc: get, renew and revoke certificates by CMP, and ask for their status by OCSP.",
        epilog=_EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"cmpc {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add) in _COMMANDS.items():
        add(commands.add_parser(name, help=text, description=text), name)
    return made


# --- the commands ----------------------------------------------------------------------------------------------------


def _enrolment(command: argparse.ArgumentParser, name: str) -> None:
    _session(command)
    what = command.add_argument_group("what is asked for")
    if name == "p10cr":
        what.add_argument("--csr", type=Path, metavar="FILE", help="PKCS #10 request; without it one is made")
    if name != "kur":
        what.add_argument("--subject", metavar="DN", help="e.g. CN=device1,O=Example")
        what.add_argument("--san", nargs="+", action="extend", default=[], metavar="NAME", help="dns:x ip:y email:z")
    what.add_argument("--new-key", type=Path, metavar="FILE", help="key for the certificate; made if it is not there")
    types = (*keys.KEY_TYPES, *(() if name == "p10cr" else keys.ENCRYPTION_KEY_TYPES))
    what.add_argument("--key-type", choices=types, default="p256", help="of a key that is made")
    if name != "p10cr":
        what.add_argument(
            "--popo",
            choices=("signature", *messages.PROOFS, "agreeMAC"),
            help="how possession of the key is proven; a key that is to encrypt: encrCert, challengeResp or agreeMAC",
        )
        what.add_argument(
            "--popo-dh",
            type=Path,
            metavar="FILE",
            help="the server's agreement certificate, for --popo agreeMAC (default: that of --dh)",
        )
    what.add_argument(
        "--popo-algorithm",
        type=_signing,
        metavar="NAME",
        help="what the key for the certificate signs the request with (default: the usual one for it)",
    )
    what.add_argument("--profile", metavar="NAME", help="certificate profile (certProfile)")
    if name in ("ir", "cr"):
        what.add_argument("--reg-token-file", metavar="FILE", help="the one-time regToken, - for standard input")
        what.add_argument("--authenticator-file", metavar="FILE", help="the authenticator, - for standard input")
    if name != "p10cr":
        what.add_argument("--days", type=_days, metavar="N", help="validity from now on")
    what.add_argument("--explicit-confirm", action="store_true", help="confirm by certConf instead of implicitly")
    out = command.add_argument_group("what is written")
    out.add_argument("--out-dir", type=Path, metavar="DIR", help="key.pem, cert.pem, chain.pem there (default .)")
    out.add_argument("--out", type=Path, metavar="FILE", help="the certificate; a new key goes beside it (suffix .key)")
    out.add_argument("--chain-out", type=Path, metavar="FILE", help="the CA certificates above it, without the root")
    out.add_argument("--cacerts-out", type=Path, metavar="FILE", help="trust anchors offered by the server (caPubs)")
    _shown(out)


def _revocation(command: argparse.ArgumentParser, name: str) -> None:
    _session(command)
    what = command.add_argument_group("which certificates (default: that of --cert)")
    named = what.add_mutually_exclusive_group()
    named.add_argument(
        "--oldcert",
        type=Path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="the certificates themselves; of each file the first",
    )
    named.add_argument("--serial", type=_serial, nargs="+", action="extend", metavar="HEX", help="their serial numbers")
    issuer = what.add_mutually_exclusive_group()
    issuer.add_argument("--issuer", metavar="DN", help="the issuer of --serial")
    issuer.add_argument("--issuer-cert", type=Path, metavar="FILE", help="the issuer of --serial: its certificate")
    if name == "rr":
        reasons = ", ".join(CRL_REASONS)
        what.add_argument("--reason", type=_reason, default="unspecified", metavar="NAME", help=f"one of {reasons}")
    if name != "resume":
        what.add_argument(
            "--invalidity-date", type=_moment, metavar="TIME", help="since when its key is not to be trusted, in UTC"
        )
    _shown(command.add_argument_group("what is written"))


def _passphrase(command: argparse.ArgumentParser, name: str) -> None:
    del name
    _session(command)
    what = command.add_argument_group("revocation passphrase")
    what.add_argument(
        "--passphrase-file", required=True, metavar="FILE", help="file with the passphrase, - for standard input"
    )
    what.add_argument(
        "--key-id", metavar="TEXT", help="what cmpc rr --ref names it by; needed with --cert (default that of --ref)"
    )
    what.add_argument(
        "--encryption-cert", type=Path, metavar="FILE", help="whom it is encrypted to; default: the server is asked"
    )
    _shown(command.add_argument_group("what is written"))


def _status(command: argparse.ArgumentParser, name: str) -> None:
    del name
    what = command.add_argument_group("which certificate")
    named = what.add_mutually_exclusive_group(required=True)
    named.add_argument("--cert", type=Path, metavar="FILE", help="the certificate itself; of the file the first")
    named.add_argument("--serial", type=_serial, metavar="HEX", help="its serial number; needs --url")
    what.add_argument("--issuer-cert", type=Path, required=True, metavar="FILE", help="the CA certificate above it")
    how = command.add_argument_group("OCSP")
    how.add_argument("--url", metavar="URL", help="the OCSP responder; default: as the certificate says (AIA)")
    how.add_argument("--trusted", type=Path, metavar="FILE", help="trust anchors (PEM) that --issuer-cert must lead to")
    how.add_argument("--get", action="store_true", help="ask by GET instead of POST")
    how.add_argument("--no-nonce", action="store_true", help="let the answer be one that was made before")
    how.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="seconds to wait for the answer")
    _shown(command.add_argument_group("what is written"))


_Add = Callable[[argparse.ArgumentParser, str], None]

_COMMANDS: Final[dict[str, tuple[str, _Add]]] = {
    "ir": ("first certificate of an end entity", _enrolment),
    "cr": ("a further certificate", _enrolment),
    "kur": ("a new certificate and key in place of the one given with --cert", _enrolment),
    "p10cr": ("a certificate for a PKCS #10 request", _enrolment),
    "rr": ("revoke certificates", _revocation),
    "suspend": ("put certificates on hold (certificateHold)", _revocation),
    "resume": ("make certificates that are on hold valid again (removeFromCRL)", _revocation),
    "revpassphrase": ("leave a passphrase for a later rr of whoever has lost the key", _passphrase),
    "status": (
        "ask by OCSP whether a certificate is good (exit code 0), revoked or on hold (3), or unknown (4)",
        _status,
    ),
}


# --- groups ----------------------------------------------------------------------------------------------------------


def _session(command: argparse.ArgumentParser) -> None:
    server = command.add_argument_group("server")
    wanted = (
        f"the CA: HOST[:PORT] (TCP, port {DEFAULT_PORT}), or tcp:// tls:// http:// https:// file: unix: (cmpc --help)"
    )
    server.add_argument("--server", required=True, metavar="URL", help=wanted)
    server.add_argument("--trusted", type=Path, metavar="FILE", help="trust anchors (PEM); needed with --cert")
    server.add_argument(
        "--server-kem-cert",
        type=Path,
        metavar="FILE",
        help="the server's KEM certificate: its answers have to be protected with it (else where it says that it does)",
    )
    server.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="seconds to wait for each answer")
    server.add_argument(
        "--poll-timeout",
        type=_long,
        default=600.0,
        metavar="S",
        help="seconds in all to wait for the CA's operator (default 600)",
    )
    who = command.add_argument_group("credential: --ref and --secret-file, or --cert and --key, or --unprotected")
    who.add_argument("--ref", metavar="REFERENCE", help="reference value of the shared secret")
    who.add_argument("--secret-file", metavar="FILE", help="file with the shared secret, - for standard input")
    who.add_argument("--mac", choices=("pbm", "pbmac1"), default="pbm", help="MAC algorithm (default pbm)")
    who.add_argument(
        "--mac-algorithm",
        choices=INNER_MACS,
        default="hmac-sha256",
        metavar="NAME",
        help=f"the MAC inside it: {', '.join(INNER_MACS)} (default hmac-sha256)",
    )
    who.add_argument("--iterations", type=int, default=10_000, metavar="N", help="of the MAC's key (default 10000)")
    who.add_argument("--cert", type=Path, metavar="FILE", help="own certificate, its chain may follow it in the file")
    who.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="private key of --cert; it signs, or with ML-KEM makes a MAC (KemBasedMac), or with --dh another one",
    )
    who.add_argument(
        "--dh",
        type=Path,
        metavar="FILE",
        help="the server's agreement certificate: --key (EC, X25519, X448) makes a MAC with it (DHBasedMac)",
    )
    who.add_argument(
        "--signature-algorithm",
        type=_signing,
        metavar="NAME",
        help="what --key signs with, e.g. rsassa-pss-sha256, ecdsa-with-sha3-256 (default: the usual one for it)",
    )
    who.add_argument("--chain", type=Path, metavar="FILE", help="CA certificates above --cert")
    who.add_argument("--key-passphrase-file", type=Path, metavar="FILE", help="passphrase of --key")
    who.add_argument(
        "--unprotected",
        action="store_true",
        help="no protection: the server takes --tls-cert for it; the answers are verified all the same (--trusted)",
    )
    _tls(command)


def _tls(command: argparse.ArgumentParser) -> None:
    tls = command.add_argument_group("TLS (tls:// and https://)")
    tls.add_argument(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        help="CA certificates for the server's TLS certificate; default: the system's and those of --trusted",
    )
    tls.add_argument(
        "--tls-host", metavar="NAME", help="name in the server's TLS certificate; default: that of the URL"
    )
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="TLS client certificate (PEM), its chain after it")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="private key of --tls-cert (PEM)")
    tls.add_argument("--tls-key-passphrase-file", type=Path, metavar="FILE", help="passphrase of --tls-key")


def _shown(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--json", action="store_true", help="print the result as JSON")
    group.add_argument("-v", "--verbose", action="store_true", help="say more")


# --- kinds of arguments ----------------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError("want more than 0 and at most 86400 seconds")
    return value


def _long(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 366 * 86400:
        raise argparse.ArgumentTypeError("want 0 to 31622400 seconds (366 days)")
    return value


def _days(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 36500:
        raise argparse.ArgumentTypeError("want 1 to 36500 days")
    return value


def _signing(text: str) -> str:
    """The name of a signature algorithm as SIGNING has it, however its letters are written."""
    found = {name.lower(): name for name in SIGNING}.get(text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"want one of {', '.join(SIGNING)}; have {text!r}")
    return found


def _serial(text: str) -> int:
    try:
        return int.from_bytes(serial_octets(text), "big")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _reason(text: str) -> str:
    """A CRLReason from its name in whatever case, with or without dashes."""
    folded = {name.lower(): name for name in CRL_REASONS}
    name = folded.get(text.lower().replace("-", "").replace("_", ""))
    if name is None:
        raise argparse.ArgumentTypeError(f"want one of {', '.join(CRL_REASONS)}, have {text!r}")
    return name


def _moment(text: str) -> int:
    """Unix time of a date, or of a time in UTC, as RFC 3339 writes it."""
    try:
        moment = datetime.fromisoformat(text.upper().removesuffix("Z"))
        if moment.tzinfo is not None or not 1970 <= moment.year < 9999:
            raise ValueError
    except ValueError:
        wanted = "want a date or a time in UTC such as 2026-01-31 or 2026-01-31T12:00:00Z"
        raise argparse.ArgumentTypeError(f"{wanted}, have {text!r}") from None
    return int(moment.replace(tzinfo=UTC).timestamp())
