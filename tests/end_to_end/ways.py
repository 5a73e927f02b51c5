"""A server with every door, and the ways to it: addresses, TLS, connections.

What a client says through a door is in doors.py; here is where each door of one server is found.
"""

import base64
import http.client
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from cmpd.cli.cmpd import main
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from tests import chains
from tests.end_to_end.doors import (
    PKIXCMP,
    POLL,
    SECONDS,
    X_POLL,
    CommandDoor,
    Door,
    FrameDoor,
    HttpDoor,
    HttpFrameDoor,
    MailDoor,
    SpoolDoor,
    from_base64,
)
from tests.end_to_end.forked import Server, Site, forking, make

# --- TLS --------------------------------------------------------------------------------------------------------------


def make_tls(directory: Path) -> None:
    """Write tls.pem, tls.key and tls-ca.pem: a server's certificate for 127.0.0.1 and localhost, its key, its root."""
    now = int(time.time())
    times = {"not_before": now - 3600, "not_after": now + 86_400}
    root = chains.issue(None, "TLS root", key_usage=chains.usage("key_cert_sign"), **times)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    server = chains.leaf(root, "localhost", extensions=[(names, False), (purpose, False)], **times)
    (directory / "tls.pem").write_bytes(server.certificate.public_bytes(Encoding.PEM))
    (directory / "tls.key").write_bytes(server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / "tls-ca.pem").write_bytes(root.certificate.public_bytes(Encoding.PEM))


def write_holder(directory: Path, name: str, holder: KeyAndCertificate) -> tuple[Path, Path]:
    """The files NAME.pem and NAME.key of a certificate and its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    certificate.write_bytes(holder.certificate.parsed.public_bytes(Encoding.PEM))
    key.write_bytes(holder.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


def client_context(directory: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """What a TLS client trusts and shows; `directory` is where make_tls has written."""
    context = ssl.create_default_context(cafile=directory / "tls-ca.pem")
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


# --- a server with every door -----------------------------------------------------------------------------------------

TLS_KEYS = 'tls_certificate = "tls.pem"\ntls_key = "tls.key"\n'

EVERY_DOOR = f"""
[[tcp]]
listen = "127.0.0.1:0"
{TLS_KEYS}
[[http]]
listen = "127.0.0.1:0"

[[http]]
listen = "127.0.0.1:0"
{TLS_KEYS}tls_client = "optional"

[[spool]]
directory = "spool"
"""
"""Beside the [[tcp]] that is there."""


def add_to(site: Site, text: str) -> None:
    """Add tables to the configuration."""
    site.config.write_text(site.config.read_text() + text)


def cmpd(site: Site, *words: str | Path) -> None:
    """Run a command of cmpd in this process, which must succeed."""
    assert main([*map(str, words), "--config", str(site.config)]) == 0


def add_secret(site: Site, reference: str, secret: bytes, *options: str) -> Path:
    """Register a shared secret; returns the file that holds it."""
    file = site.directory / f"{reference}.secret"
    file.write_bytes(secret)
    cmpd(site, "entity", "add", reference, "--secret-file", file, *options)
    return file


@contextmanager
def made_with(directory: Path, text: str) -> Iterator[Site]:
    """A new CA with these tables in its configuration, with files for TLS and a directory `spool`."""
    with forking() as program:
        site = make(directory, program)
        make_tls(directory)
        (directory / "spool").mkdir()
        add_to(site, text)
        yield site


@dataclass
class Way:
    """How to get to one server. `context`: of TLS clients. What it has opened is closed at its end."""

    site: Site
    server: Server
    context: ssl.SSLContext = field(init=False)
    opened: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.context = client_context(self.site.directory)

    def __enter__(self) -> "Way":
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def address(self, scheme: str, number: int = 0) -> tuple[str, int]:
        """Where the server listens: "tcp", "tls", "http", "https"; the first door of that kind is 0."""
        place = self.server.places["listen" if scheme == "tcp" else scheme][number]
        host, _, port = place.rpartition(":")
        return host, int(port)

    def port(self, scheme: str, number: int = 0) -> int:
        return self.address(scheme, number)[1]

    def connect(
        self, scheme: str, number: int = 0, context: ssl.SSLContext | None = None, *, window: int | None = None
    ) -> socket.socket:
        """A new connection, with TLS where the door has it. `window`: octets that the system receives unread."""
        sock = socket.socket()
        sock.settimeout(SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if window is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # Linux keeps 20 segments for the peer to send
        sock.connect(self.address(scheme, number))
        if scheme not in ("tcp", "http"):
            sock = (context or self.context).wrap_socket(sock, server_hostname="127.0.0.1")
        return self.opened.enter_context(sock)

    def connect_local(self) -> socket.socket:
        """To the Unix domain socket."""
        sock = socket.socket(socket.AF_UNIX)
        self.opened.enter_context(sock)
        sock.settimeout(SECONDS)
        sock.connect(f"{self.site.database}.sock")
        return sock

    def connect_http(
        self, scheme: str, number: int = 0, context: ssl.SSLContext | None = None
    ) -> http.client.HTTPConnection:
        host, port = self.address(scheme, number)
        made = http.client.HTTPConnection(host, port, timeout=SECONDS)
        if scheme == "https":
            made = http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context or self.context)
        return self.opened.enter_context(closing(made))

    def tcp(self, scheme: str = "tcp", number: int = 0, *, old: bool = False) -> FrameDoor:
        """tcp-messages, over TLS too."""
        return FrameDoor(lambda: self.connect(scheme, number), old=old)

    def http(self, scheme: str = "http", path: str = "/.well-known/cmp", media_type: str = PKIXCMP) -> HttpDoor:
        """DER over HTTP."""
        return HttpDoor(lambda: self.connect_http(scheme), path, media_type)

    def http_frames(self, scheme: str = "http", media_type: str = POLL, *, old: bool = False) -> HttpFrameDoor:
        """Binary tcp-messages in HTTP."""
        return HttpFrameDoor(lambda: self.connect_http(scheme), "/cmp", media_type, old=old)

    def base64(self, scheme: str, *, lines: bool = False, old: bool = False) -> HttpFrameDoor:
        """tcp-messages in Base64."""
        encode = base64.encodebytes if lines else base64.b64encode
        connect = lambda: self.connect_http(scheme)  # noqa: E731
        return HttpFrameDoor(connect, "/cmp", PKIXCMP, old=old, encode=encode, decode=from_base64)


@contextmanager
def serving_with(directory: Path, text: str, secret: SharedSecret, *options: str) -> Iterator[Way]:
    """The way to a server of such a CA, for which the secret is registered; its log may have no error in the end."""
    with made_with(directory, text) as site:
        add_secret(site, secret.reference, secret.secret, *options)
        with site.serving() as server, Way(site, server) as way:
            yield way
        assert " ERROR " not in server.log_text()


DOORS: dict[str, Callable[[Way], Door]] = {
    "tcp": lambda way: way.tcp(),
    "tcp in RFC 2510 framing": lambda way: way.tcp(old=True),
    "tls": lambda way: way.tcp("tls"),
    "tls in RFC 2510 framing": lambda way: way.tcp("tls", old=True),
    "http": lambda way: way.http(),
    "http on another path": lambda way: way.http(path="/cmp"),
    "https": lambda way: way.http("https"),
    "http with tcp-messages": lambda way: way.http_frames(),
    "http with tcp-messages of RFC 2510": lambda way: way.http_frames(old=True),
    "http with tcp-messages, x- type": lambda way: way.http_frames("http", X_POLL),
    "http with Base64": lambda way: way.base64("http"),
    "https with Base64 in lines": lambda way: way.base64("https", lines=True),
    "https with Base64 of RFC 2510": lambda way: way.base64("https", old=True),
    "spool": lambda way: SpoolDoor(way.site.directory / "spool"),
    "local socket": lambda way: FrameDoor(way.connect_local),
    "cmpd message": lambda way: CommandDoor(way.site.config),
    "cmpd message --mime": lambda way: MailDoor(way.site.config),
}
"""The doors of a server with EVERY_DOOR."""


@contextmanager
def many_files() -> Iterator[int]:
    """As many open files as the system permits, here and in processes that are started inside; gives their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
