"""What the commands of cmpc that speak CMP share: server, credential, trust, and how a refusal is told."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cmpd.cli.cmpc_arguments import DEFAULT_PORT
from cmpd.client import keys
from cmpd.client.certificates import load_certificates
from cmpd.client.connection import Connection, ConnectionLimits
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.errors import CmpClientError
from cmpd.client.flows import Client
from cmpd.client.responses import Trust

T = TypeVar("T")

_HINTS: Final[dict[str, str]] = {
    "signerNotTrusted": "is the certificate given with --cert registered at this CA, and still valid?",
    "badMessageCheck": "check the reference value and the secret",
    "transactionIdInUse": "try again",
    "badTime": "check this machine's clock",
    "systemUnavail": "try again later",
    "certRevoked": "cmpc status tells since when, and why",
    "badCertId": "check the serial number and the issuer",
    "wrongAuthority": "ask the CA that issued the certificate",
    "notAuthorized": "ask the operator of the CA, or an RA that stands for this entity",
}
"""What a user can do about a failInfo."""


class UsageError(Exception):
    """Arguments or files that cannot be used; str() is one line that says what to do."""


def complain(what: object, about: str = "") -> None:
    """One line on standard error; what a server refused comes with a hint."""
    print(f"cmpc: {about}{what}{_hint(what)}", file=sys.stderr)


def _hint(error: object) -> str:
    if not isinstance(error, CmpClientError):
        return ""
    hints = [_HINTS[name] for name in error.fail_info if name in _HINTS]
    return f" -- {hints[0]}" if hints else ""


@dataclass(frozen=True, slots=True)
class Session:
    """One connection to a CMP server, for one credential."""

    address: tuple[str, int]
    credential: Credential
    trust: Trust
    limits: ConnectionLimits

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Session":
        """What the arguments say; UsageError, ClientError or OSError if that cannot be used."""
        address = _address(args.server)
        credential = _credential(args)
        anchors = tuple(load_certificates(args.trusted)) if args.trusted else ()
        return cls(address, credential, Trust(anchors), ConnectionLimits(answer_timeout=args.timeout))

    def run(self, job: Callable[[Client], Awaitable[T]]) -> T:
        """Connect, and run transactions on a client."""

        async def transact() -> T:
            async with Connection(*self.address, limits=self.limits) as connection:
                return await job(Client(connection, self.credential, self.trust))

        return asyncio.run(transact())


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
