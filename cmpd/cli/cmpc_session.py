"""What the commands of cmpc that speak CMP share: server, credential, trust, and how a refusal is told."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cmpd.client import keys
from cmpd.client.base import ConnectionLimits
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret, Unprotected
from cmpd.client.errors import ClientError, CmpClientError
from cmpd.client.flows import Client
from cmpd.client.responses import Trust
from cmpd.client.servers import Server, open_server, read_server
from cmpd.client.tls import TlsOptions

T = TypeVar("T")

_HINTS: Final[dict[str, str]] = {
    "signerNotTrusted": "is the certificate given with --cert registered at this CA, and still valid?",
    "badMessageCheck": "check the reference value and the secret, or the certificate and its key",
    "transactionIdInUse": "try again",
    "badTime": "check this machine's clock",
    "systemUnavail": "try again later",
    "certRevoked": "cmpc status tells since when, and why",
    "badCertId": "check the serial number and the issuer",
    "wrongAuthority": "ask the CA that issued the certificate",
    "notAuthorized": "ask the operator of the CA, or an RA that stands for this entity",
}
"""What a user can do about a failInfo."""

_UNPROTECTED_HINTS: Final[dict[str, str]] = _HINTS | {
    "badMessageCheck": "messages without protection are taken where the server's door has tls_authenticates = true",
    "signerNotTrusted": "is the certificate given with --tls-cert registered at this CA, and still valid?",
}


class UsageError(Exception):
    """Arguments or files that cannot be used; str() is one line that says what to do."""


def complain(what: object, about: str = "", *, unprotected: bool = False) -> None:
    """One line on standard error; what a server refused comes with a hint, another one if it was `unprotected`."""
    print(f"cmpc: {about}{what}{_hint(what, _UNPROTECTED_HINTS if unprotected else _HINTS)}", file=sys.stderr)


def _hint(error: object, texts: Mapping[str, str]) -> str:
    if not isinstance(error, CmpClientError):
        return ""
    hints = [texts[name] for name in error.fail_info if name in texts]
    return f" -- {hints[0]}" if hints else ""


@dataclass(frozen=True, slots=True)
class Session:
    """One CMP server, for one credential."""

    server: Server
    tls: TlsOptions
    credential: Credential
    trust: Trust
    limits: ConnectionLimits

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Session":
        """What the arguments say; UsageError, ClientError or OSError if that cannot be used."""
        try:
            server = read_server(args.server)
        except ClientError as error:
            raise UsageError(f"--{error}") from None
        credential = _unprotected(args, server) if args.unprotected else _credential(args)
        anchors = tuple(load_certificates(args.trusted)) if args.trusted else ()
        limits = ConnectionLimits(answer_timeout=args.timeout, poll_timeout=args.poll_timeout)
        tls = _tls(args, server, anchors)
        if server.has_tls:
            tls.context()  # what is wrong with its files is told before a key is made
        return cls(server, tls, credential, Trust(anchors), limits)

    def run(self, job: Callable[[Client], Awaitable[T]], on_wait: Callable[[], str | None] | None = None) -> T:
        """Connect, and run transactions on a client.

        `on_wait` is called each time that the server has no answer yet; what it returns is told too.
        """

        def waiting(seconds: int, reason: str) -> None:
            more = on_wait() if on_wait is not None else None
            said = f" ({reason})" if reason else ""
            note = f"; {more}" if more else ""
            complain(f"waiting for the CA's operator{said}, asking again in {seconds} s{note}")

        async def transact() -> T:
            exchange = open_server(self.server, self.tls, self.limits, waiting)
            try:
                client = Client(
                    exchange, self.credential, self.trust, poll_timeout=self.limits.poll_timeout, on_wait=waiting
                )
                return await job(client)
            finally:
                await exchange.close()

        return asyncio.run(transact())


def _tls(args: argparse.Namespace, server: Server, anchors: tuple[Certificate, ...]) -> TlsOptions:
    """What TLS needs; without --tls-ca a server may have its certificate from the CA that is trusted anyway."""
    given = [name for name in _TLS_OPTIONS if getattr(args, name) is not None]
    if given and not server.has_tls:
        option = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{option} goes with tls:// and https:// alone, have --server {args.server}")
    if (args.tls_cert is None) != (args.tls_key is None):
        raise UsageError("want --tls-cert FILE and --tls-key FILE, or none of them")
    file = args.tls_key_passphrase_file
    return TlsOptions(
        anchors if args.tls_ca is None else tuple(load_certificates(args.tls_ca)),
        args.tls_ca is None,
        args.tls_cert,
        args.tls_key,
        file.read_bytes().rstrip(b"\r\n") if file else None,
        args.tls_host,
    )


_TLS_OPTIONS: Final = ("tls_ca", "tls_host", "tls_cert", "tls_key", "tls_key_passphrase_file")


def _unprotected(args: argparse.Namespace, server: Server) -> Unprotected:
    if args.ref is not None or args.cert is not None:
        raise UsageError("want --unprotected, or --ref with --secret-file, or --cert with --key; have two of them")
    if not server.has_tls or args.tls_cert is None:
        raise UsageError(
            "--unprotected needs tls:// or https:// and --tls-cert: that certificate stands for protection"
        )
    if args.trusted is None:
        raise UsageError("--unprotected needs --trusted FILE: the CA certificate that answers are verified with")
    return Unprotected(load_certificates(args.tls_cert)[0])


def _credential(args: argparse.Namespace) -> Credential:
    if args.ref is not None and args.cert is None:
        if args.secret_file is None:
            raise UsageError("--ref needs --secret-file FILE (or - for standard input)")
        secret = read_secret("--secret-file", args.secret_file)
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


def read_secret(option: str, name: str) -> bytes:
    """Read the secret in a file, without the end of its line; an empty one is refused."""
    octets = sys.stdin.buffer.read(65536) if name == "-" else Path(name).read_bytes()
    secret = octets.rstrip(b"\r\n")
    if not secret:
        raise UsageError(f"{option} {name}: the secret is empty")
    return secret


def _iterations(count: int) -> int:
    if not 100 <= count <= 10_000_000:
        raise UsageError(f"--iterations: want 100 to 10000000, have {count}")
    return count
