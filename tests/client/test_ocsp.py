"""OCSP of the client: answers made by cryptography's builder, right ones and ones with one thing wrong."""

import asyncio
import base64
import datetime
import io
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as their
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.cli.cmpc import main
from cmpd.client import ocsp
from cmpd.client.errors import AnswerTimeout, ClientError, ConnectError, TransportError, VerificationError
from cmpd.env import Env
from tests.client.ca import TLS_SERVER, Issued, issue
from tests.support import needs_openssl, run

OCSP_SIGNING = ExtendedKeyUsageOID.OCSP_SIGNING
ROOT = issue("root", ca=True)
SUB = issue("sub", ROOT, ca=True, path_length=0)
OTHER_SUB = issue("sub", ROOT, ca=True, path_length=0)  # the same name, another key
RESPONDER = issue("responder", SUB, usage=(OCSP_SIGNING,))
DEVICE = issue("device", SUB)
STRANGER = issue("stranger", ca=True)
SHA1, SHA256 = hashes.SHA1(), hashes.SHA256()
ECDSA_OID = {"sha1": "1.2.840.10045.4.1", "sha256": "1.2.840.10045.4.3.2"}
OCSP_BASIC = der.encode_oid("1.3.6.1.5.5.7.48.1.1")
HOUR = datetime.timedelta(hours=1)
REVOKED_AT = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
GOOD, REVOKED, UNKNOWN = their.OCSPCertStatus.GOOD, their.OCSPCertStatus.REVOKED, their.OCSPCertStatus.UNKNOWN


def now() -> datetime.datetime:
    """Of the moment: a run of all tests lasts longer than answers may be late."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Make:
    """How an answer is made; as it stands it is a right one: good, by a delegated responder, with the nonce."""

    status: their.OCSPCertStatus = GOOD
    reason: x509.ReasonFlags | None = None
    this_update: datetime.timedelta = -HOUR
    next_update: datetime.timedelta | None = HOUR
    issuer: Issued = SUB
    certificate: Issued = DEVICE
    others: tuple[Issued, ...] = ()  # more SingleResponses after that of the certificate
    signer: Issued = RESPONDER
    named: Issued | None = None  # responderID, default the signer's
    by: their.OCSPResponderEncoding = their.OCSPResponderEncoding.HASH
    certificates: tuple[Issued, ...] | None = None  # default the signer's
    nonce: bytes | None = b"echo"  # None: left out
    digest: Any = field(default_factory=lambda: SHA256)
    cert_id: Any = field(default_factory=lambda: SHA1)  # what the question has
    flip: bool = False

    def __call__(self, request: bytes) -> bytes:
        asked = their.load_der_ocsp_request(request)
        revoked = self.status is REVOKED
        name, key = _hashes(self.issuer, self.cert_id)
        builder = their.OCSPResponseBuilder().add_response_by_hash(
            issuer_name_hash=name,
            issuer_key_hash=key,
            serial_number=self.certificate.certificate.serial,
            algorithm=self.cert_id,
            cert_status=self.status,
            this_update=now() + self.this_update,
            next_update=None if self.next_update is None else now() + self.next_update,
            revocation_time=REVOKED_AT if revoked else None,
            revocation_reason=self.reason,
        )
        builder = builder.responder_id(self.by, (self.named or self.signer).certificate.parsed)
        shown = (self.signer,) if self.certificates is None else self.certificates
        if shown:
            builder = builder.certificates([one.certificate.parsed for one in shown])
        nonce = self.nonce
        if nonce == b"echo":
            sent = [one.value for one in asked.extensions if isinstance(one.value, x509.OCSPNonce)]
            nonce = sent[0].nonce if sent else None
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        named = self.named or self.signer
        response = builder.sign(named.key, hashes.SHA256())
        signature = response.signature
        if named != self.signer or self.digest is not SHA256:
            signature = self.signer.key.sign(response.tbs_response_bytes, ec.ECDSA(self.digest))
        if self.flip:
            signature = signature[:-1] + bytes((signature[-1] ^ 1,))
        certificates = der.explicit(0, der.seq(*(one.certificate.der for one in shown))) if shown else b""
        algorithm = der.seq(der.encode_oid(ECDSA_OID[self.digest.name]))
        basic = der.seq(response.tbs_response_bytes, algorithm, der.encode_bits(signature), certificates)
        octets = der.seq(OCSP_BASIC, der.encode_octets(basic))
        return der.seq(der.tlv(der.ENUMERATED, b"\0"), der.explicit(0, octets))


def _hashes(issuer: Issued, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """issuerNameHash and issuerKeyHash as cryptography computes them."""
    below = issue("below", issuer).certificate.parsed
    request = their.OCSPRequestBuilder().add_certificate(below, issuer.certificate.parsed, algorithm).build()
    return request.issuer_name_hash, request.issuer_key_hash


def ask(make: Callable[[bytes], bytes], env: Env | None = None, *, nonce: bool = True) -> ocsp.Status:
    env = env or Env()
    asked = ocsp.question(SUB.certificate, DEVICE.certificate.serial, env, nonce=nonce)
    return ocsp.read_answer(make(asked.der), asked, env)


# --- the question ---------------------------------------------------------------


def test_the_question_is_the_one_that_cryptography_makes() -> None:
    asked = ocsp.question(SUB.certificate, DEVICE.certificate.serial, Env(), nonce=False)

    builder = their.OCSPRequestBuilder().add_certificate(DEVICE.certificate.parsed, SUB.certificate.parsed, SHA1)
    assert asked.der == builder.build().public_bytes(serialization.Encoding.DER)
    assert asked.nonce is None


def test_each_question_has_a_nonce_of_32_octets_of_its_own() -> None:
    asked = [ocsp.question(SUB.certificate, 1, Env()) for _ in range(2)]
    nonces = [their.load_der_ocsp_request(one.der).extensions[0].value for one in asked]
    assert [one.nonce for one in asked] == [nonce.nonce for nonce in nonces if isinstance(nonce, x509.OCSPNonce)]
    assert asked[0].nonce != asked[1].nonce
    assert {len(one.nonce or b"") for one in asked} == {32}


# --- right answers ---------------------------------------------------------------


@pytest.mark.parametrize("by", list(their.OCSPResponderEncoding))
@pytest.mark.parametrize("signer", [RESPONDER, SUB], ids=["responder", "issuer"])
def test_an_answer_by_a_delegated_responder_or_the_issuer_is_believed(signer: Issued, by: Any) -> None:
    began = now()
    found = ask(Make(signer=signer, by=by))
    assert 0 <= found.this_update - (began - HOUR).timestamp() < 60
    assert found == ocsp.Status(
        "good",
        None,
        None,
        found.this_update,
        found.this_update + 2 * int(HOUR.total_seconds()),
        signer.certificate.subject_text,
        True,
    )


@pytest.mark.parametrize(
    ("status", "reason", "state", "text"),
    [
        (REVOKED, None, "revoked", None),
        (REVOKED, x509.ReasonFlags.key_compromise, "revoked", "keyCompromise"),
        (REVOKED, x509.ReasonFlags.aa_compromise, "revoked", "aACompromise"),
        (REVOKED, x509.ReasonFlags.certificate_hold, "on hold", "certificateHold"),
        (UNKNOWN, None, "unknown", None),
    ],
)
def test_each_status_is_told(status: Any, reason: Any, state: str, text: str | None) -> None:
    found = ask(Make(status, reason))
    assert (found.state, found.reason) == (state, text)
    assert found.since == (int(REVOKED_AT.timestamp()) if status is REVOKED else None)


def test_an_answer_without_the_nonce_is_believed_and_says_so() -> None:
    assert ask(Make(nonce=None)).nonce_echoed is False
    assert ask(Make(nonce=None), nonce=False).nonce_echoed is None
    assert ask(Make(nonce=bytes(16)), nonce=False).nonce_echoed is None


def test_the_issuer_needs_not_be_among_the_certificates_of_its_answer() -> None:
    assert ask(Make(signer=SUB, certificates=())).state == "good"


@pytest.mark.parametrize("algorithm", [SHA256, hashes.SHA384()])
def test_a_cert_id_by_another_hash_means_the_same_certificate(algorithm: Any) -> None:
    assert ask(Make(cert_id=algorithm)).state == "good"


@pytest.mark.parametrize("minutes", [4, -4])
def test_clocks_may_differ_by_five_minutes(minutes: int) -> None:
    shift = datetime.timedelta(minutes=minutes)
    make = Make(this_update=shift, next_update=HOUR) if minutes > 0 else Make(next_update=shift)
    assert ask(make).state == "good"


@needs_openssl
@pytest.mark.parametrize(
    ("row", "state", "reason"),
    [
        ("V\t{end}\t", "good", None),
        ("R\t{end}\t260102030405Z,keyCompromise", "revoked", "keyCompromise"),
        ("R\t{end}\t260102030405Z,certificateHold", "on hold", "certificateHold"),
        (None, "unknown", None),
    ],
)
def test_openssl_reads_the_question_and_its_answer_is_believed(
    tmp_path: Path, row: str | None, state: str, reason: str | None
) -> None:
    serial = f"{DEVICE.certificate.serial:X}"
    index = f"{row}\t{serial:0>{len(serial) + len(serial) % 2}}\tunknown\t/CN=device\n" if row else ""
    key = RESPONDER.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    asked = ocsp.question(SUB.certificate, DEVICE.certificate.serial, Env())
    for name, octets in (
        ("index", index.format(end="301231235959Z").encode()),
        ("key", key),
        ("responder", RESPONDER.certificate.pem),
        ("sub", SUB.certificate.pem),
        ("request", asked.der),
    ):
        (tmp_path / name).write_bytes(octets)
    files = {name: tmp_path / name for name in ("index", "sub", "responder", "key", "request", "response")}
    site = ("-index", files["index"], "-CA", files["sub"], "-rsigner", files["responder"], "-rkey", files["key"])
    run(["openssl", "ocsp", *site, "-reqin", files["request"], "-respout", files["response"], "-nmin", "5"])
    found = ocsp.read_answer(files["response"].read_bytes(), asked, Env())
    assert (found.state, found.reason, found.nonce_echoed, found.responder) == (state, reason, True, "CN=responder")
    assert found.since == (int(REVOKED_AT.timestamp()) if reason else None)


# --- answers that are not believed ---------------------------------------------------------------

BELOW = issue("below", RESPONDER, usage=(OCSP_SIGNING,))


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("no certificate at hand is the responder's", Make(named=STRANGER)),
        ("no certificate at hand is the responder's", Make(certificates=())),
        (
            "no certificate at hand is the responder's",
            Make(signer=STRANGER, named=RESPONDER, by=their.OCSPResponderEncoding.NAME),
        ),
        ("the signature is not by CN=responder", Make(signer=STRANGER, named=RESPONDER, certificates=(RESPONDER,))),
        ("the signature is not by CN=responder", Make(flip=True)),
        ("the signature is not by CN=sub", Make(signer=SUB, flip=True)),
        ("want extendedKeyUsage OCSPSigning", Make(signer=issue("device 2", SUB))),
        ("want extendedKeyUsage OCSPSigning", Make(signer=issue("tls", SUB, usage=(TLS_SERVER,)))),
        ("want extendedKeyUsage OCSPSigning", Make(signer=ROOT)),
        (
            "want keyUsage digitalSignature",
            Make(signer=issue("mute", SUB, usage=(OCSP_SIGNING,), key_usage={"digital_signature": False})),
        ),
        ("expired", Make(signer=issue("retired", SUB, usage=(OCSP_SIGNING,), days=(-9, -1)))),
        ("not valid before", Make(signer=issue("early", SUB, usage=(OCSP_SIGNING,), days=(1, 9)))),
        ("no path", Make(signer=issue("theirs", STRANGER, usage=(OCSP_SIGNING,)))),
        ("no path", Make(signer=issue("uncle", ROOT, usage=(OCSP_SIGNING,)))),
        ("does not verify", Make(signer=issue("twin's", OTHER_SUB, usage=(OCSP_SIGNING,)))),
        ("no path", Make(signer=BELOW, certificates=(BELOW, RESPONDER))),
        ("SHA-1 is not accepted", Make(digest=SHA1)),
        ("says nothing of certificate", Make(certificate=STRANGER)),
        ("says nothing of certificate", Make(issuer=ROOT)),
        ("says nothing of certificate", Make(issuer=OTHER_SUB)),
        ("another nonce", Make(nonce=bytes(32))),
        ("another nonce", Make(nonce=b"x")),
        ("out of date", Make(this_update=-2 * HOUR, next_update=-HOUR)),
        ("of the future", Make(this_update=HOUR / 2)),
    ],
)
def test_a_wrong_answer_is_not_believed(text: str, make: Make) -> None:
    with pytest.raises(VerificationError, match=text):
        ask(make)


def test_an_answer_without_next_update_must_be_made_for_the_question() -> None:
    assert ask(Make(next_update=None)).next_update is None
    assert ask(Make(next_update=None, nonce=None)).next_update is None
    later = Env(now=lambda: (now() + HOUR).timestamp())
    assert ask(Make(next_update=None), later).state == "good", "the nonce was echoed"
    with pytest.raises(VerificationError, match="was not made now"):
        ask(Make(next_update=None, nonce=None), later)


def test_an_issuer_that_has_expired_vouches_for_nothing() -> None:
    much_later = Env(now=lambda: (now() + 31 * 24 * HOUR).timestamp())
    with pytest.raises(VerificationError, match="expired"):
        ask(Make(signer=SUB, next_update=40 * 24 * HOUR), much_later)


@pytest.mark.parametrize("status", [one for one in their.OCSPResponseStatus if one.name != "SUCCESSFUL"])
def test_a_responder_that_does_not_answer_says_why(status: their.OCSPResponseStatus) -> None:
    refusal = their.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(serialization.Encoding.DER)
    with pytest.raises(VerificationError, match=rf"{status.name.lower()} \(not authenticated"):
        ask(lambda _: refusal)


RIGHT = Make(nonce=None)(ocsp.question(SUB.certificate, 1, Env()).der)


@given(st.binary(max_size=200) | st.integers(0, len(RIGHT)).map(lambda end: RIGHT[:end]) | st.just(RIGHT + b"\0"))
def test_octets_that_are_no_answer_are_refused(octets: bytes) -> None:
    if octets != RIGHT:
        with pytest.raises(VerificationError):
            ask(lambda _: octets)


@given(st.integers(0, len(RIGHT) - 1), st.integers(1, 255))
def test_no_changed_octet_changes_what_is_believed(place: int, change: int) -> None:
    changed = bytearray(RIGHT)
    changed[place] ^= change
    try:
        found = ask(lambda _: bytes(changed))
    except VerificationError:
        return
    assert found == ask(lambda _: RIGHT), "only what is not signed may differ"


# --- HTTP ---------------------------------------------------------------


@dataclass
class Web:
    """A small HTTP server; `answer` makes the whole reply of the request's head and body."""

    answer: Callable[[bytes, bytes], bytes] = lambda head, body: _http(Make()(_question(head, body)))
    port: int = 0
    hold: float = 0.0  # seconds between octets
    heads: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ocsp"


def _http(body: bytes, status: str = "200 OK", more: str = "Content-Type: application/ocsp-response\r\n") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def _question(head: bytes, body: bytes) -> bytes:
    """The OCSPRequest in a POST or a GET."""
    method, path, _ = head.split(b"\r\n")[0].split(b" ")
    if method == b"POST":
        assert b"\r\nContent-Type: application/ocsp-request\r\n" in head
        return body
    assert path.startswith(b"/ocsp/")
    assert path.count(b"/") == 2
    return base64.b64decode(unquote(path.decode().rpartition("/")[2]), validate=True)


@asynccontextmanager
async def serving(**what: Any) -> AsyncIterator[Web]:
    web = Web(**what)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
            web.heads.append(head)
            octets = web.answer(head, body)
            for part in [octets] if not web.hold else [octets[i : i + 1] for i in range(len(octets))]:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(web.hold)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()


async def fetch(web: Web, request: bytes = b"question", **options: Any) -> bytes:
    return await asyncio.to_thread(ocsp.fetch, web.url, request, **options)


@pytest.mark.parametrize("get", [False, True])
async def test_a_question_goes_by_post_or_get_and_no_proxy(get: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    asked = ocsp.question(SUB.certificate, DEVICE.certificate.serial, Env())
    async with serving() as web:
        octets = await fetch(web, asked.der, get=get)
    assert ocsp.read_answer(octets, asked, Env()).state == "good"
    [head] = web.heads
    assert head.startswith(b"GET /ocsp/" if get else b"POST /ocsp HTTP/1.1\r\n")
    assert f"\r\nHost: 127.0.0.1:{web.port}\r\n".encode() in head


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (_http(b"", "404 Not Found"), r"HTTP status 404 'Not Found'"),
        (_http(b"", "302 Found", "Location: http://127.0.0.1:1/\r\n"), "HTTP status 302"),
        (b"SSH-2.0-OpenSSH\r\n", "SSH"),
        (b"", "closed|disconnected"),
        (_http(bytes(ocsp.MAX_ANSWER + 1)), f"more than {ocsp.MAX_ANSWER} octets"),
        (_http(b"cut off")[:-3], "cut off"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "100 headers"),
    ],
)
async def test_what_is_no_answer_by_http_is_told(reply: bytes, text: str) -> None:
    async with serving(answer=lambda head, body: reply) as web:
        with pytest.raises(TransportError, match=text):
            await fetch(web)


async def test_an_answer_of_the_greatest_size_is_read() -> None:
    async with serving(answer=lambda head, body: _http(bytes(ocsp.MAX_ANSWER))) as web:
        assert len(await fetch(web)) == ocsp.MAX_ANSWER


@pytest.mark.parametrize("length", ["Content-Length: 1000\r\n", ""])
async def test_a_server_that_drips_is_not_waited_for(length: str) -> None:
    reply = f"HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n".encode() + bytes(1000)
    start = asyncio.get_running_loop().time()
    async with serving(answer=lambda head, body: reply, hold=0.02) as web:
        with pytest.raises(AnswerTimeout, match=r"within 0\.3 seconds"):
            await fetch(web, timeout=0.3)
    assert asyncio.get_running_loop().time() - start < 3


async def test_a_server_that_is_silent_or_gone_is_told_apart() -> None:
    async with serving(answer=lambda head, body: bytes(1), hold=5.0) as web:
        with pytest.raises(AnswerTimeout):
            await fetch(web, timeout=0.2)
    with pytest.raises(ConnectError, match="cannot connect to http://127"):
        await fetch(web)


@pytest.mark.parametrize(
    "url", ["", "ftp://x/", "http:///x", "//x/y", "http://x:y/", "http://x/a b", "http://x/\r\nHost: y", "http://[::1/"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match="URL"):
        ocsp.fetch(url, b"")


# --- the command ---------------------------------------------------------------

Status = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Status:
    """Runs `cmpc status ARGUMENTS` on a thread in tmp_path: (exit code, standard output, standard error)."""
    for name, one in (("root", ROOT), ("sub", SUB), ("device", DEVICE), ("stranger", STRANGER)):
        (tmp_path / f"{name}.pem").write_bytes(one.certificate.pem)
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        code = await asyncio.to_thread(main, ["status", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize(
    ("make", "code", "lines"),
    [
        (Make(), 0, ["status           good"]),
        (
            Make(REVOKED, x509.ReasonFlags.key_compromise),
            3,
            ["status           revoked", "since            2026-01-02T03:04:05Z", "reason           keyCompromise"],
        ),
        (Make(REVOKED, x509.ReasonFlags.certificate_hold), 3, ["status           on hold"]),
        (Make(UNKNOWN), 4, ["status           unknown"]),
        (Make(nonce=None), 0, ["note             the responder did not repeat the nonce"]),
    ],
)
async def test_the_exit_code_says_what_the_status_is(status: Status, make: Make, code: int, lines: list[str]) -> None:
    async with serving(answer=lambda head, body: _http(make(_question(head, body)))) as web:
        for how in ((), ("--get",)):
            found, out, err = await status("--cert", "device.pem", "--issuer-cert", "sub.pem", "--url", web.url, *how)
            assert (found, err) == (code, "")
            for line in lines:
                assert line in out
            assert f"{DEVICE.certificate.serial:x}" in out


async def test_the_certificate_says_whom_to_ask_and_a_serial_number_does_not(status: Status, tmp_path: Path) -> None:
    serial = f"{DEVICE.certificate.serial:x}"
    async with serving() as web:
        own = issue("with a URL", SUB, ocsp=web.url)
        (tmp_path / "own.pem").write_bytes(own.certificate.pem)
        web.answer = lambda head, body: _http(Make(certificate=own)(_question(head, body)))
        code, out, err = await status("--cert", "own.pem", "--issuer-cert", "sub.pem", "--no-nonce", "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert (found["status"], found["url"], found["nonce_echoed"]) == ("good", web.url, None)
        assert (found["since"], found["responder"]) == (None, "CN=responder")
        web.answer = lambda head, body: _http(Make()(_question(head, body)))
        code, out, err = await status("--serial", serial, "--issuer-cert", "sub.pem", "--url", web.url)
        assert code == 0, err
        code, out, err = await status("--serial", serial, "--issuer-cert", "sub.pem")
        assert (code, "--serial needs --url" in err) == (2, True), err
        code, out, err = await status("--cert", "device.pem", "--issuer-cert", "sub.pem")
        assert (code, "names no OCSP responder" in err) == (2, True), err
    assert len(web.heads) == 2


async def test_an_issuer_certificate_is_held_against_the_certificate_and_the_anchors(status: Status) -> None:
    async with serving() as web:
        asked = ("--cert", "device.pem", "--url", web.url)
        code, _, err = await status(*asked, "--issuer-cert", "stranger.pem")
        assert (code, "CN=device was not issued by CN=stranger" in err, web.heads) == (2, True, []), err
        code, _, err = await status(*asked, "--issuer-cert", "sub.pem", "--trusted", "stranger.pem")
        assert (code, "no path from CN=sub" in err, web.heads) == (1, True, []), err
        code, _, err = await status(*asked, "--issuer-cert", "sub.pem", "--trusted", "root.pem")
        assert code == 0, err


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda head, body: _http(Make(nonce=bytes(32))(_question(head, body))), "another nonce"),
        (lambda head, body: _http(b"<html>"), "cannot be read"),
        (lambda head, body: _http(b"", "503 Busy"), "HTTP status 503"),
    ],
)
async def test_without_an_answer_to_believe_the_exit_code_is_1(status: Status, answer: Any, text: str) -> None:
    async with serving(answer=answer) as web:
        code, out, err = await status("--cert", "device.pem", "--issuer-cert", "sub.pem", "--url", web.url)
    assert (code, out, text in err, len(err.splitlines())) == (1, "", True, 1), err
    code, out, err = await status("--cert", "device.pem", "--issuer-cert", "sub.pem", "--url", web.url)
    assert (code, "cannot connect" in err) == (1, True), err


async def test_wrong_arguments_end_with_2(status: Status) -> None:
    code, _, err = await status("--cert", "gone.pem", "--issuer-cert", "sub.pem")
    assert (code, "gone.pem: No such file" in err) == (2, True), err
    code, _, err = await status("--cert", "device.pem", "--issuer-cert", "sub.pem", "--url", "ldap://x")
    assert (code, "want http://HOST/PATH" in err) == (2, True), err
