"""HTTP, by hand, on the server that tests tell what to do (accepting.py); and certificates for TLS."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from tests.client.accepting import Accepted, Server, accepting
from tests.client.ca import Issued

PKIXCMP = "application/pkixcmp"


@dataclass
class Asked:
    """One request: its first line, its fields by lower-case name, and its content."""

    line: str
    fields: dict[str, str]
    body: bytes


class Visitor(Accepted):
    async def read(self) -> Asked | None:
        """The next request, None at the end of the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head[:-4].split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
            return Asked(line, fields, await self.reader.readexactly(int(fields["content-length"])))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def answer(self, body: bytes, status: int = 200, kind: str = PKIXCMP, **fields: str) -> None:
        await self.raw(response(body, status, kind, **fields))


def response(body: bytes, status: int = 200, kind: str = PKIXCMP, **fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


Behaviour = Callable[[Visitor], Awaitable[None]]


def serving_http(behave: Behaviour, tls: ssl.SSLContext | None = None) -> AbstractAsyncContextManager[Server]:
    return accepting(Visitor, behave, tls)


async def echo_http(visitor: Visitor) -> None:
    """Answers each request with its own content."""
    while (asked := await visitor.read()) is not None:
        await visitor.answer(asked.body)


def write_pair(
    directory: Path, name: str, issued: Issued, *chain: Issued, passphrase: bytes = b""
) -> tuple[Path, Path]:
    """PEM files of a certificate with its chain, and of its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    certificate.write_bytes(b"".join(one.certificate.pem for one in (issued, *chain)))
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    key.write_bytes(issued.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    return certificate, key


def server_context(pair: tuple[Path, Path], clients: Path | None = None) -> ssl.SSLContext:
    """TLS of a server; with `clients` (a file of CA certificates) it wants a certificate of its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context
