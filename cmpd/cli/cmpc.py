"""cmpc: get and renew certificates by CMP over raw TCP, for devices and people.

    cmpc ir --server 127.0.0.1:829 --ref X --secret-file secret.txt --subject CN=device1 --out-dir device1

A new private key is on disk before the request is sent; nothing is ever overwritten that could be a key. Exit code: 0
done, 1 the server or the network said no, 2 the arguments or the files cannot be used.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import __version__
from cmpd.asn1 import names
from cmpd.client import keys, messages
from cmpd.client.certificates import load_certificates
from cmpd.client.connection import Connection, ConnectionLimits
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.errors import ClientError, CmpClientError, TransportError, VerificationError
from cmpd.client.flows import Client, Enrolment, Options
from cmpd.client.responses import Trust
from cmpd.env import Env

DEFAULT_PORT: Final = 829
DAY: Final = 86400

_EPILOG: Final = """\
examples:
  cmpc ir  --server ca.example:829 --ref X --secret-file secret.txt --subject CN=device1 --out-dir device1
  cmpc cr  --server ca.example:829 --cert device1/cert.pem --key device1/key.pem --trusted ca.pem --subject CN=device1
  cmpc kur --server ca.example:829 --cert device1/cert.pem --key device1/key.pem --trusted ca.pem --out-dir device1-new
  cmpc p10cr --server ca.example:829 --ref X --secret-file secret.txt --csr request.pem --out cert.pem
"""

_HINTS: Final[dict[str, str]] = {
    "signerNotTrusted": "is the certificate given with --cert registered at this CA, and still valid?",
    "badMessageCheck": "check the reference value and the secret",
    "transactionIdInUse": "try again",
    "badTime": "check this machine's clock",
    "systemUnavail": "try again later",
}
"""What a user can do about a failInfo."""


class UsageError(Exception):
    """Arguments or files that cannot be used; str() is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where what goes; None is not written."""

    key: Path | None
    certificate: Path | None
    chain: Path | None
    ca_certs: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run cmpc; returns the exit code."""
    args = _parser().parse_args(argv)
    level = logging.DEBUG if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="cmpc: %(message)s", stream=sys.stderr)
    try:
        return _run(args)
    except UsageError as error:
        print(f"cmpc: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cmpc: {error.filename or args.server}: {error.strerror or error}", file=sys.stderr)
        return 2
    except (CmpClientError, TransportError, VerificationError) as error:
        hint = _hint(error)
        print(f"cmpc: {error}{hint}", file=sys.stderr)
        return 1
    except (ClientError, ValueError) as error:
        print(f"cmpc: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cmpc: stopped by the user; run the same command with the key that was written", file=sys.stderr)
        return 1


def _hint(error: ClientError) -> str:
    if not isinstance(error, CmpClientError):
        return ""
    hints = [_HINTS[name] for name in error.fail_info if name in _HINTS]
    return f" -- {hints[0]}" if hints else ""


# --- arguments -------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cmpc", description=__doc__.split("\n")[0], epilog=_EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"cmpc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("ir", "first certificate of an end entity"),
        ("cr", "a further certificate"),
        ("kur", "a new certificate and key in place of the one given with --cert"),
        ("p10cr", "a certificate for a PKCS #10 request"),
    ):
        _add_arguments(commands.add_parser(name, help=text, description=text), name)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    server = parser.add_argument_group("server")
    server.add_argument("--server", required=True, metavar="HOST[:PORT]", help=f"the CA; default port {DEFAULT_PORT}")
    server.add_argument("--trusted", type=Path, metavar="FILE", help="trust anchors (PEM); needed with --cert")
    server.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="seconds to wait for each answer")
    who = parser.add_argument_group("credential: --ref and --secret-file, or --cert and --key")
    who.add_argument("--ref", metavar="REFERENCE", help="reference value of the shared secret")
    who.add_argument("--secret-file", metavar="FILE", help="file with the shared secret, - for standard input")
    who.add_argument("--mac", choices=("pbm", "pbmac1"), default="pbm", help="MAC algorithm (default pbm)")
    who.add_argument("--iterations", type=int, default=10_000, metavar="N", help="of the MAC's key (default 10000)")
    who.add_argument("--cert", type=Path, metavar="FILE", help="own certificate, its chain may follow it in the file")
    who.add_argument("--key", type=Path, metavar="FILE", help="private key of --cert")
    who.add_argument("--chain", type=Path, metavar="FILE", help="CA certificates above --cert")
    who.add_argument("--key-passphrase-file", type=Path, metavar="FILE", help="passphrase of --key")
    what = parser.add_argument_group("what is asked for")
    if command == "p10cr":
        what.add_argument("--csr", type=Path, metavar="FILE", help="PKCS #10 request; without it one is made")
    if command != "kur":
        what.add_argument("--subject", metavar="DN", help="e.g. CN=device1,O=Example")
        what.add_argument("--san", nargs="+", action="extend", default=[], metavar="NAME", help="dns:x ip:y email:z")
    what.add_argument("--new-key", type=Path, metavar="FILE", help="key for the certificate; made if it is not there")
    what.add_argument("--key-type", choices=tuple(keys.KEY_TYPES), default="p256", help="of a key that is made")
    what.add_argument("--profile", metavar="NAME", help="certificate profile (certProfile)")
    if command in ("ir", "cr"):
        what.add_argument("--reg-token-file", metavar="FILE", help="the one-time regToken, - for standard input")
        what.add_argument("--authenticator-file", metavar="FILE", help="the authenticator, - for standard input")
    if command != "p10cr":
        what.add_argument("--days", type=_days, metavar="N", help="validity from now on")
    what.add_argument("--explicit-confirm", action="store_true", help="confirm by certConf instead of implicitly")
    out = parser.add_argument_group("what is written")
    out.add_argument("--out-dir", type=Path, metavar="DIR", help="key.pem, cert.pem, chain.pem there (default .)")
    out.add_argument("--out", type=Path, metavar="FILE", help="the certificate; a new key goes beside it (suffix .key)")
    out.add_argument("--chain-out", type=Path, metavar="FILE", help="the CA certificates above it, without the root")
    out.add_argument("--cacerts-out", type=Path, metavar="FILE", help="trust anchors offered by the server (caPubs)")
    out.add_argument("--json", action="store_true", help="print the result as JSON")
    out.add_argument("-v", "--verbose", action="store_true", help="say more")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError("want more than 0 and at most 86400 seconds")
    return value


def _days(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 36500:
        raise argparse.ArgumentTypeError("want 1 to 36500 days")
    return value


def _address(text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, [IPv6] or [IPv6]:PORT."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if bracket and rest else str(DEFAULT_PORT)
    elif text.count(":") > 1:
        host, port = text, str(DEFAULT_PORT)
    else:
        host, _, port = text.partition(":")
        port = port or str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--server: want HOST:PORT, e.g. 127.0.0.1:{DEFAULT_PORT}, have {text!r}")
    return host, int(port)


# --- credential, key, paths ------------------------------------------------------------------------------------------


def _credential(args: argparse.Namespace) -> Credential:
    if args.ref is not None and args.cert is None:
        if args.secret_file is None:
            raise UsageError("--ref needs --secret-file FILE (or - for standard input)")
        secret = _read("--secret-file", args.secret_file)
        return SharedSecret(args.ref, secret, args.mac, _iterations(args.iterations))
    if args.cert is None or args.ref is not None:
        raise UsageError("want either --ref with --secret-file, or --cert with --key")
    if args.key is None:
        raise UsageError("--cert needs --key FILE")
    if args.trusted is None:
        raise UsageError("--cert needs --trusted FILE: the CA certificate that answers are verified with")
    passphrase = args.key_passphrase_file.read_bytes().rstrip(b"\r\n") if args.key_passphrase_file else None
    own, *above = load_certificates(args.cert)
    if args.chain is not None:
        above += load_certificates(args.chain)
    return KeyAndCertificate(keys.load_key(args.key, passphrase), own, tuple(above))


def _read(option: str, name: str) -> bytes:
    """The secret in a file, without the end of its line; an empty one is refused."""
    octets = sys.stdin.buffer.read(65536) if name == "-" else Path(name).read_bytes()
    secret = octets.rstrip(b"\r\n")
    if not secret:
        raise UsageError(f"{option} {name}: the secret is empty")
    return secret


def _control(args: argparse.Namespace, name: str) -> str | None:
    """The value of a control (UTF8String), None if the option for its file is not given."""
    file: str | None = getattr(args, f"{name}_file", None)
    if file is None:
        return None
    option = f"--{name.replace('_', '-')}-file"
    try:
        return _read(option, file).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{option} {file}: want text in UTF-8") from None


def _check_standard_input(args: argparse.Namespace) -> None:
    options = ("secret_file", "reg_token_file", "authenticator_file")
    if sum(getattr(args, option, None) == "-" for option in options) > 1:
        raise UsageError("only one of --secret-file, --reg-token-file and --authenticator-file can be standard input")


def _iterations(count: int) -> int:
    if not 100 <= count <= 10_000_000:
        raise UsageError(f"--iterations: want 100 to 10000000, have {count}")
    return count


def _paths(args: argparse.Namespace) -> Paths:
    """Names for what will be written. With --out alone the key goes beside the certificate, with the suffix .key."""
    out: Path | None = args.out
    directory: Path | None = args.out_dir
    if directory is None and out is None:
        directory = Path()
    key: Path | None = args.new_key
    if key is None and getattr(args, "csr", None) is None:
        key = directory / "key.pem" if directory is not None else None if out is None else out.with_suffix(".key")
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    return Paths(
        key,
        out or (directory / "cert.pem" if directory is not None else None),
        args.chain_out or (directory / "chain.pem" if directory is not None else None),
        args.cacerts_out,
    )


def _new_key(args: argparse.Namespace, paths: Paths) -> keys.PrivateKey:
    """The key to be certified, written to its file if it is made now. Only --new-key takes one that is there."""
    path = paths.key
    if path is None:
        raise UsageError("want --new-key FILE or --out-dir DIR for the private key")
    if args.new_key is not None and path.exists():
        return keys.load_key(path)
    key = keys.KEY_TYPES[args.key_type]()
    try:
        keys.save_key(path, key)
    except FileExistsError:
        raise UsageError(
            f"{path} exists and is not overwritten; give --new-key {path} to use this key, or another --out-dir"
        ) from None
    print(f"cmpc: wrote a new private key to {path}", file=sys.stderr)
    return key


def _subject(args: argparse.Namespace, credential: Credential) -> bytes:
    if args.subject is not None:
        try:
            return names.encode_name(args.subject)
        except ValueError as error:
            raise UsageError(f"--subject: {error}") from None
    if isinstance(credential, KeyAndCertificate):
        return credential.certificate.subject
    if args.san:
        return messages.EMPTY_NAME
    raise UsageError("want --subject DN, e.g. --subject CN=device1")


def _csr(path: Path) -> bytes:
    octets = path.read_bytes()
    load = x509.load_pem_x509_csr if b"-----BEGIN" in octets else x509.load_der_x509_csr
    try:
        request = load(octets)
    except ValueError:
        raise UsageError(f"--csr {path}: want a PKCS #10 request in PEM or DER") from None
    return request.public_bytes(Encoding.DER)


# --- the run ---------------------------------------------------------------------------------------------------------

Job = Callable[[Client], Awaitable[Enrolment]]


def _run(args: argparse.Namespace) -> int:
    host, port = _address(args.server)
    _check_standard_input(args)
    credential = _credential(args)
    if args.command == "kur" and not isinstance(credential, KeyAndCertificate):
        raise UsageError("kur needs --cert and --key: the certificate that is to be updated")
    anchors = tuple(load_certificates(args.trusted)) if args.trusted else ()
    paths = _paths(args)
    _check_writable(paths)
    job = _job(args, credential, paths)
    limits = ConnectionLimits(answer_timeout=args.timeout)

    async def transact() -> Enrolment:
        async with Connection(host, port, limits=limits) as connection:
            return await job(Client(connection, credential, Trust(anchors)))

    result = asyncio.run(transact())
    _write(result, paths)
    _report(args, result, paths, bool(anchors))
    return 0


def _job(args: argparse.Namespace, credential: Credential, paths: Paths) -> Job:
    """What to run on the client. A new key is on disk when this returns."""
    options = Options(implicit_confirm=not args.explicit_confirm, profile=args.profile)
    if args.command == "p10cr" and args.csr is not None:
        request = _csr(args.csr)
        return lambda client: client.p10cr(request, options=options)
    days = getattr(args, "days", None)
    not_after = None if days is None else int(Env().now()) + days * DAY
    subject, extensions = b"", []
    if args.command != "kur":
        subject = _subject(args, credential)
        if args.san:
            extensions = [messages.subject_alt_name(args.san, critical=subject == messages.EMPTY_NAME)]
    reg_token, authenticator = _control(args, "reg_token"), _control(args, "authenticator")
    key = _new_key(args, paths)  # last: whatever is wrong with the arguments is known by now
    if args.command == "kur":
        return lambda client: client.update(key, not_after=not_after, options=options)
    if args.command == "p10cr":
        request = messages.certification_request(messages.Template(key, subject, tuple(extensions)))
        return lambda client: client.p10cr(request, options=options)
    template = messages.Template(
        key,
        subject,
        tuple(extensions),
        not_after=not_after,
        reg_token=reg_token,
        authenticator=authenticator,
    )
    return lambda client: _enrol(client, args.command, template, options)


async def _enrol(client: Client, body: str, template: messages.Template, options: Options) -> Enrolment:
    [result] = await client.enrol_all(body, [template], options)
    if isinstance(result, ClientError):
        raise result
    return result


def _check_writable(paths: Paths) -> None:
    """Say before anything is asked for that a result could not be written, or would replace a private key."""
    for path in (paths.certificate, paths.chain, paths.ca_certs):
        if path is None:
            continue
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"{path}: the directory is not there or not writable")
        if path == paths.key or (path.is_file() and b"PRIVATE KEY-----" in path.read_bytes()):
            raise UsageError(f"{path} is a private key and is not overwritten; choose another name")


def _write(result: Enrolment, paths: Paths) -> None:
    above = [one for one in result.chain if one.subject != one.issuer]
    for path, certificates in (
        (paths.certificate, [result.certificate]),
        (paths.chain, above),
        (paths.ca_certs, result.ca_pubs),
    ):
        if path is not None:
            temporary = path.with_name(path.name + ".new")
            temporary.write_bytes(b"".join(one.pem for one in certificates))
            temporary.replace(path)


def _report(args: argparse.Namespace, result: Enrolment, paths: Paths, anchored: bool) -> None:
    """Say what was issued, where it is, and what it was verified with."""
    leaf = result.certificate.parsed
    lines: dict[str, str | None] = {
        "status": result.status.status,
        "status_string": result.status.text or None,
        "subject": result.certificate.subject_text,
        "issuer": leaf.issuer.rfc4514_string(),
        "serial": f"{result.certificate.serial:x}",
        "not_before": leaf.not_valid_before_utc.isoformat(),
        "not_after": leaf.not_valid_after_utc.isoformat(),
        "confirmed": "implicitly" if result.implicitly_confirmed else "by certConf",
        "protected_by": result.protected_by,
        "key_file": str(paths.key) if paths.key else None,
        "certificate_file": str(paths.certificate) if paths.certificate else None,
        "chain_file": str(paths.chain) if paths.chain else None,
        "cacerts_file": str(paths.ca_certs) if paths.ca_certs else None,
    }
    if args.json:
        print(json.dumps(lines | {"path_verified": anchored}))
        return
    for name, value in lines.items():
        if value is not None:
            print(f"{name.replace('_', ' '):16} {value}")
    if not anchored:
        print(
            "note             without --trusted the shared secret alone vouches for the certificate;"
            " --cacerts-out FILE keeps the server's trust anchors (trust them only if you trust the secret)"
        )


if __name__ == "__main__":
    sys.exit(main())
