"""Every door of one server, each as a client that knows nothing of cmpd: sockets, http.client, files, processes.

A door carries octets: `ask` sends a PKIMessage and gives the octets of the answer, None where the server says that
there is none. What CMP says in them is read in `seen`, which leaves out what differs from one answer to the next.
"""

import base64
import email.message
import email.parser
import email.policy
import http.client
import itertools
import resource
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from cmpd.asn1 import der
from cmpd.cli.cmpd import main
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate
from cmpd.client.messages import Request
from cmpd.client.responses import Answer, read_cert_rep, read_status
from cmpd.message import Envelope, Header, decode
from tests import chains
from tests.end_to_end.forked import Server, Site, forking, make

SECONDS = 60
"""How long an answer is waited for: much longer than it takes, so that a busy machine fails no test."""

PKIXCMP = "application/pkixcmp"
POLL = "application/pkixcmp-poll"
X_POLL = "application/x-pkixcmp-poll"

# Types of tcp-messages
PKI_REQ, POLL_REP, POLL_REQ, FIN_REP, PKI_REP, ERROR_REP = 0, 1, 2, 3, 5, 6


class Door(Protocol):
    """One way to a server."""

    def ask(self, octets: bytes) -> bytes | None:
        """The answer to a PKIMessage, None if there is none."""

    def hang_up(self) -> None:
        """What comes next comes over a new connection."""


# --- tcp-messages -----------------------------------------------------------------------------------------------------


def frame(kind: int, value: bytes, *, old: bool = False) -> bytes:
    """A tcp-message of version 10, or with `old` one of RFC 2510."""
    if old:
        return struct.pack("!IB", len(value) + 1, kind) + value
    return struct.pack("!IBBB", len(value) + 3, 10, 0, kind) + value


def read_frame(octets: bytes, *, old: bool = False) -> tuple[int, bytes]:
    """(type, value) of the one tcp-message that these octets are."""
    (length,) = struct.unpack_from("!I", octets)
    assert len(octets) == 4 + length
    if old:
        return octets[4], octets[5:]
    version, flags, kind = octets[4:7]
    assert (version, flags) == (10, 0)
    return kind, octets[7:]


def answer_in(kind: int, value: bytes) -> bytes | None:
    """The PKIMessage in a pkiRep; None for finRep."""
    if kind == FIN_REP:
        assert value == b"\0"
        return None
    assert kind == PKI_REP, (kind, value)
    return value


class FrameDoor:
    """tcp-messages over whatever `connect` gives."""

    def __init__(self, connect: Callable[[], socket.socket], *, old: bool = False) -> None:
        self.old = old
        self._connect = connect
        self._socket: socket.socket | None = None

    def exchange(self, kind: int, value: bytes) -> tuple[int, bytes]:
        """Send a tcp-message; (type, value) of the one that answers it."""
        if self._socket is None:
            self._socket = self._connect()
        self._socket.sendall(frame(kind, value, old=self.old))
        head = self._receive(4)
        return read_frame(head + self._receive(struct.unpack("!I", head)[0]), old=self.old)

    def ask(self, octets: bytes) -> bytes | None:
        return answer_in(*self.exchange(PKI_REQ, octets))

    def hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _receive(self, count: int) -> bytes:
        assert self._socket is not None
        received = b""
        while len(received) < count:
            octets = self._socket.recv(count - len(received))
            assert octets, f"the connection ended after {received!r}"
            received += octets
        return received


# --- HTTP -------------------------------------------------------------------------------------------------------------


class HttpDoor:
    """POST of bare DER to `path`. The status is 400 where the content is no PKIMessage at all, else 200."""

    def __init__(self, connect: Callable[[], http.client.HTTPConnection], path: str, media_type: str = PKIXCMP) -> None:
        self._connect = connect
        self._path = path
        self._type = media_type
        self._connection: http.client.HTTPConnection | None = None

    def post(self, content: bytes) -> tuple[int, bytes]:
        """Status and content of the answer, which must be of the type of the request."""
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("POST", self._path, content, {"Content-Type": self._type})
        answer = self._connection.getresponse()
        received = answer.read()
        if received:
            assert answer.getheader("Content-Type") == self._type, received
        return answer.status, received

    def ask(self, octets: bytes) -> bytes | None:
        status, content = self.post(octets)
        assert status in (200, 202, 400), content
        return content or None

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class HttpFrameDoor(HttpDoor):
    """tcp-messages in HTTP, as they are or in Base64, with lines or without."""

    def __init__(
        self,
        connect: Callable[[], http.client.HTTPConnection],
        path: str,
        media_type: str,
        *,
        old: bool = False,
        encode: Callable[[bytes], bytes] = bytes,
        decode: Callable[[bytes], bytes] = bytes,
    ) -> None:
        super().__init__(connect, path, media_type)
        self.old = old
        self._encode, self._decode = encode, decode

    def exchange(self, kind: int, value: bytes) -> tuple[int, bytes]:
        """Send a tcp-message; (type, value) of the one that answers it."""
        status, content = self.post(self._encode(frame(kind, value, old=self.old)))
        assert status == 200, content
        return read_frame(self._decode(content), old=self.old)

    def ask(self, octets: bytes) -> bytes | None:
        return answer_in(*self.exchange(PKI_REQ, octets))


def from_base64(octets: bytes) -> bytes:
    """Nothing but the alphabet and ends of lines may be there."""
    return base64.b64decode(octets.replace(b"\r\n", b""), validate=True)


# --- files and processes ----------------------------------------------------------------------------------------------


class SpoolDoor:
    """A directory where requests are dropped."""

    _numbers = itertools.count()

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def ask(self, octets: bytes) -> bytes | None:
        name = f"{next(self._numbers)}.pki"
        draft = self._directory / f"{name}.part"
        draft.write_bytes(octets)
        draft.rename(self._directory / name)
        wait_until((self._directory / f"{name}.done").exists)
        reply = (self._directory / name).with_suffix(".reply.pki")
        return reply.read_bytes() if reply.exists() else None

    def hang_up(self) -> None:
        pass


def message(config: Path, octets: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run `cmpd message` with this on its standard input."""
    command = [sys.executable, "-m", "cmpd", "message", "--config", str(config), *options]
    return subprocess.run(command, input=octets, capture_output=True, timeout=SECONDS, check=False)


class CommandDoor:
    """`cmpd message`: a process for each message."""

    def __init__(self, config: Path) -> None:
        self._config = config

    def ask(self, octets: bytes) -> bytes | None:
        done = message(self._config, octets)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout or None

    def hang_up(self) -> None:
        pass


class MailDoor(CommandDoor):
    """`cmpd message --mime`: a mail in, the reply out."""

    def ask(self, octets: bytes) -> bytes | None:
        done = message(self._config, mail_with(octets), "--mime")
        assert done.returncode == 0, done.stderr.decode()
        return content_of(done.stdout) if done.stdout else None


def mail_with(octets: bytes, **fields: str) -> bytes:
    """A mail whose content is one PKIMessage. `fields`: with _ for -, beside those that every mail has."""
    mail = email.message.EmailMessage()
    every = {
        "From": "device@example.com",
        "To": "cmp@ca.example",
        "Subject": "request",
        "Message-ID": "<1@example.com>",
    }
    for name, value in (every | {name.replace("_", "-"): value for name, value in fields.items()}).items():
        mail[name] = value
    mail.set_content(octets, maintype="application", subtype="pkixcmp", cte="base64")
    return mail.as_bytes()


def read_mail(octets: bytes) -> email.message.EmailMessage:
    """A mail without defects."""
    mail = email.parser.BytesParser(policy=email.policy.default).parsebytes(octets)
    assert isinstance(mail, email.message.EmailMessage)
    assert not any(part.defects for part in mail.walk())
    return mail


def content_of(octets: bytes) -> bytes:
    """The PKIMessage that is the content of a mail."""
    mail = read_mail(octets)
    [part] = [part for part in mail.walk() if not part.is_multipart()]
    assert (part.get_content_type(), part["Content-Transfer-Encoding"].lower()) == (PKIXCMP, "base64")
    content = part.get_content()
    assert isinstance(content, bytes)
    return content


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


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def many_files() -> Iterator[int]:
    """As many open files as the system permits, here and in processes that are started inside; gives their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- what an answer says ----------------------------------------------------------------------------------------------


def seen(octets: bytes | None, request: Request | None) -> dict[str, Any]:
    """All that an answer says but times, nonces, transactionID, salts, keys and serial numbers.

    What must be the request's is said by whether it is.
    """
    if octets is None:
        return {"body": None}
    envelope = decode(octets)
    header = envelope.header
    return {
        **_header(header, request),
        "protected": envelope.protection is not None,
        "extraCerts": [_certificate(Certificate.load(one)) for one in envelope.extra_certs],
        "body": envelope.body_name,
        "content": _content(envelope),
    }


def _header(header: Header, request: Request | None) -> dict[str, Any]:
    algorithm = header.protection_alg
    return {
        "pvno": header.pvno,
        "sender": header.sender.hex(),
        "recipient": header.recipient.hex(),
        "messageTime": header.message_time is not None,
        "protectionAlg": None if algorithm is None else _oid(algorithm),
        "senderKID": header.sender_kid,
        "recipKID": header.recip_kid,
        "transactionID": header.transaction_id == (request.transaction_id if request else None),
        "recipNonce": header.recip_nonce == (request.sender_nonce if request else None),
        "senderNonce": None if header.sender_nonce is None else len(header.sender_nonce),
        "generalInfo": [(der.dotted(item.type), item.value is None) for item in header.general_info],
    }


def _oid(algorithm: bytes) -> str:
    start, stop = der.expect(algorithm, 0, len(algorithm), der.SEQUENCE, "AlgorithmIdentifier")
    first, last = der.expect(algorithm, start, stop, der.OID, "algorithm")
    return der.dotted(algorithm[first:last])


def _content(envelope: Envelope) -> Any:
    body = envelope.body
    match envelope.body_name:
        case "ip" | "cp" | "kup":
            return _cert_rep(Answer(envelope, "", ()))
        case "rp":
            return _rev_rep(body)
        case "error":
            start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "ErrorMsgContent")
            return read_status(body, start, stop)
    return body.hex()


def _cert_rep(answer: Answer) -> list[Any]:
    content = read_cert_rep(answer)
    responses = [
        (one.cert_req_id, one.status, None if one.certificate is None else _certificate(one.certificate))
        for one in content.responses
    ]
    return [[_certificate(one) for one in content.ca_pubs], responses]


def _rev_rep(body: bytes) -> list[Any]:
    start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "RevRepContent")
    status, *rest = der.children(body, start, stop, 3)
    items = der.children(body, status[2], status[3], 10)
    return [[read_status(body, pos, end) for _, pos, _, end in items], [tag for tag, *_ in rest]]


def _certificate(certificate: Certificate) -> dict[str, Any]:
    parsed = certificate.parsed
    own = x509.SubjectKeyIdentifier.oid
    return {
        "subject": parsed.subject.rfc4514_string(),
        "issuer": parsed.issuer.rfc4514_string(),
        "seconds": (parsed.not_valid_after_utc - parsed.not_valid_before_utc).total_seconds(),
        "extensions": [
            (one.oid.dotted_string, one.critical, None if one.oid == own else one.value.public_bytes().hex())
            for one in parsed.extensions
        ],
    }
