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
from cmpd.client.credentials import (
    INNER_MACS,
    Credential,
    KemKey,
    KemPrivateKey,
    KeyAndCertificate,
    SharedSecret,
    StaticAgreement,
    Unprotected,
)
from cmpd.client.errors import ClientError, CmpClientError
from cmpd.client.flows import Client
from cmpd.client.responses import Trust
from cmpd.client.servers import Server, open_server, read_server
from cmpd.client.tls import TlsOptions
from cmpd.cms.agreement import AgreementPrivateKey

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
    server_kem: Certificate | None = None

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
        server_kem = None if args.server_kem_cert is None else load_certificates(args.server_kem_cert)[0]
        return cls(server, tls, credential, Trust(anchors), limits, server_kem)

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
                    exchange,
                    self.credential,
                    self.trust,
                    poll_timeout=self.limits.poll_timeout,
                    on_wait=waiting,
                    server_kem=self.server_kem,
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
    if args.dh is not None and args.cert is None:
        raise UsageError("--dh needs --cert FILE and --key FILE: a certificate for key agreement")
    if args.ref is not None and args.cert is None:
        if args.secret_file is None:
            raise UsageError("--ref needs --secret-file FILE (or - for standard input)")
        secret = read_secret("--secret-file", args.secret_file)
        return SharedSecret(args.ref, secret, args.mac, _iterations(args.iterations), INNER_MACS[args.mac_algorithm])
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
    key = keys.load_any_key(args.key, passphrase)
    if args.dh is not None or not isinstance(key, keys.PrivateKey):
        return _key_that_makes_macs(args, key, own, tuple(above))
    check_signature_algorithm("--signature-algorithm", key, args.signature_algorithm)
    return KeyAndCertificate(key, own, tuple(above), args.signature_algorithm)


def _key_that_makes_macs(
    args: argparse.Namespace, key: keys.AnyPrivateKey, own: Certificate, above: tuple[Certificate, ...]
) -> Credential:
    """DHBasedMac or KemBasedMac, as the key is fit for."""
    if args.signature_algorithm is not None:
        raise UsageError("--signature-algorithm: want it for a --key that signs")
    if isinstance(key, AgreementPrivateKey):
        if args.dh is None:
            raise UsageError(
                f"--key {args.key}: it agrees on a secret; want --dh FILE, the server's agreement certificate"
            )
        return StaticAgreement(key, own, load_certificates(args.dh)[0], above)
    if args.dh is not None or not isinstance(key, KemPrivateKey):
        raise UsageError(f"--dh: want an EC, X25519 or X448 key, have {type(key).__name__} in {args.key}")
    return KemKey(key, own, above)


def check_signature_algorithm(option: str, key: keys.PrivateKey, name: str | None) -> None:
    """UsageError unless the key can sign with the algorithm."""
    try:
        keys.signature_algorithm(key, name)
    except ClientError as error:
        raise UsageError(f"{option}: {error}") from None


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
