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
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509

from cmpd.asn1 import der
from cmpd.client.certificates import Certificate
from cmpd.client.messages import Request
from cmpd.client.responses import Answer, read_cert_rep, read_status
from cmpd.message import Envelope, Header, decode

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


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


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
