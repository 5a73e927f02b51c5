"""The HTTP door for CMP against real sockets: paths, statuses, the forms a message comes in, connections."""

import asyncio
import contextlib
import datetime
import logging
import socket
import ssl
import time
from base64 import b64decode, b64encode, encodebytes
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd.asn1.der import tlv
from cmpd.config_doors import HttpConfig
from cmpd.env import Env
from cmpd.origin import OPERATIONS, Answer, Door, NotAMessage, Origin, UnknownReference, Waiting
from cmpd.transport.http import PKIXCMP, POLL_TYPES, CmpHttpLimits, CmpHttpServer
from cmpd.transport.tls import TlsContext, TlsSettings
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import ErrorType, Framing, MessageType
from tests.transport.raw_http import Client, Got, HttpSite, running, written

NOW = 1_790_000_000
TEXT = "text/plain; charset=utf-8"
CMP = {"Content-Type": PKIXCMP}
DOOR = Door("http")
KNOWN_REFERENCE = 0xBEEF


def pki_message(body: int = 0xB5, content: bytes = b"\x30\x00", filler: bytes = b"") -> bytes:
    """The outside of a PKIMessage; the inside of the header is of no interest to a door."""
    return tlv(0x30, tlv(0x30, b"\x02\x01\x02" + tlv(0x04, filler)) + tlv(body, content))


REQUEST = pki_message()
WAITS = pki_message(filler=b"wait for an operator")
RAISES = pki_message(filler=b"raise")
HANGS = pki_message(filler=b"hang")
SLOW = pki_message(filler=b"slow")
NONSENSE = pki_message(filler=b"nonsense")
REFUSED = pki_message(0xB0, filler=b"an announcement that is refused")
CLIENT_PKICONF = pki_message(0xB3, b"\x05\x00")


def answer_to(octets: bytes) -> bytes:
    return pki_message(0xB6, tlv(0x30, octets))


@dataclass
class Fake:
    """Answers each message with one that has it inside, and remembers what came from where."""

    asked: list[bytes] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    slow: float = 0.0
    reads_nothing: bool = False

    async def respond(self, octets: bytes, origin: Origin) -> Answer:
        self.asked.append(octets)
        self.origins.append(origin)
        if octets == RAISES:
            raise LookupError("a secret detail")
        if self.reads_nothing:
            return NotAMessage(answer_to(octets))
        if octets == HANGS:
            await self.gate.wait()
        if octets == SLOW:
            await asyncio.sleep(self.slow)
        if octets == WAITS and origin.polls:
            return Waiting(KNOWN_REFERENCE, 60)
        if octets == NONSENSE:
            return NotAMessage(answer_to(octets))
        if octets == REFUSED:
            return answer_to(octets)
        body = octets[len(octets) - 4 :][:1]  # all bodies here are four octets
        return None if body in {b"\xaf", b"\xb0", b"\xb1", b"\xb2", b"\xb3"} else answer_to(octets)

    async def poll(self, reference: int, origin: Origin) -> Answer:
        self.origins.append(origin)
        if reference != KNOWN_REFERENCE:
            raise UnknownReference
        return answer_to(WAITS)


@dataclass(kw_only=True)
class Site(HttpSite):
    fake: Fake

    async def ask(
        self,
        body: bytes | None = None,
        headers: dict[str, str] = CMP,
        path: str = "/.well-known/cmp",
        method: str = "POST",
    ) -> Got:
        """One request on a connection of its own."""
        return await self.exchange(post(body, headers, path, method), method)


def post(
    body: bytes | None = None,
    headers: dict[str, str] = CMP,
    path: str = "/.well-known/cmp",
    method: str = "POST",
    version: str = "1.1",
) -> bytes:
    """The octets of a request."""
    return written(method, path, headers, body, version)


def serving(
    limits: CmpHttpLimits | None = None,
    *,
    path: str = "/cmp",
    profiles: Collection[str] = ("tls", "p", "größe"),
    tls: TlsContext | None = None,
    client: ssl.SSLContext | None = None,
    **options: Any,
) -> contextlib.AbstractAsyncContextManager[Site]:
    fake = Fake()
    env = Env(now=lambda: NOW + 0.5)
    server = CmpHttpServer(fake, limits, door=DOOR, path=path, profiles=profiles, tls=tls, env=env, **options)
    return running(Site(server=server, fake=fake, client_tls=client), fake.gate)


def assert_is_answer(got: Got, request: bytes = REQUEST) -> None:
    assert (got.status, got.body) == (200, answer_to(request))
    assert got.headers == {
        "Content-Type": PKIXCMP,
        "Cache-Control": "no-store",
        "Server": "cmpd",
        "Date": formatdate(NOW, usegmt=True),
        "Content-Length": str(len(got.body)),
    }


# --- where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "operation", "profile"),
    [
        ("/.well-known/cmp", None, ""),
        ("/.well-known/cmp/", None, ""),
        ("/cmp", None, ""),
        ("/cmp/", None, ""),
        *((f"/.well-known/cmp/{label}", label, "") for label in OPERATIONS),
        ("/.well-known/cmp/initialization/", "initialization", ""),
        ("/.well-known/cmp/p/tls", None, "tls"),
        ("/.well-known/cmp/p/tls/", None, "tls"),
        ("/.well-known/cmp/p/p", None, "p"),
        ("/.well-known/cmp/p/p/pkcs10", "pkcs10", "p"),
        ("/.well-known/cmp/p/tls/keyupdate", "keyupdate", "tls"),
        ("/.well-known/cmp/p/gr%C3%B6%c3%9fe/getcrls", "getcrls", "größe"),
        ("/%2ewell-known/%63mp/%70/t%6cs/initializatio%6E", "initialization", "tls"),
        ("http://ca.example/.well-known/cmp/revocation", "revocation", ""),
        ("HTTPS://ca.example:8443/cmp", None, ""),
        ("/cmp?", None, ""),
    ],
)
async def test_a_path_says_which_operation_and_profile_is_meant(path: str, operation: str | None, profile: str):
    async with serving() as site:
        assert_is_answer(await site.ask(REQUEST, path=path))
        (origin,) = site.fake.origins
        assert origin.operation is (None if operation is None else OPERATIONS[operation])
        assert (origin.profile, origin.door, origin.polls, origin.certificates) == (profile, DOOR, False, ())
        assert origin.address.startswith("127.0.0.1:")


LABELS = b" or ".join(label.encode() for label in OPERATIONS)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/", b"want /.well-known/cmp or /cmp"),
        ("/CMP", b"want /.well-known/cmp or /cmp"),
        ("/cmp//", b"want /.well-known/cmp or /cmp"),
        ("//cmp", b"want /.well-known/cmp or /cmp"),
        ("/cmp/initialization", b"want /.well-known/cmp or /cmp"),
        ("/x/../cmp", b"want /.well-known/cmp or /cmp"),
        ("/%2Fcmp", b"want /.well-known/cmp or /cmp"),
        ("/.well-known%2Fcmp", b"want /.well-known/cmp or /cmp"),
        ("/%252ewell-known/cmp", b"want /.well-known/cmp or /cmp"),
        ("/.well-known", b"want /.well-known/cmp or /cmp"),
        ("/.well-known/cmp//", b"operation: want " + LABELS),
        ("/.well-known/cmp/ir", b"operation: want " + LABELS),
        ("/.well-known/cmp/Initialization", b"operation: want " + LABELS),
        ("/.well-known/cmp/initialization%00", b"operation: want " + LABELS),
        ("/.well-known/cmp/initialization/p/tls", b"operation: want " + LABELS),
        ("/.well-known/cmp/p/tls/x", b"operation: want " + LABELS),
        ("/.well-known/cmp/p/tls//", b"operation: want " + LABELS),
        ("/.well-known/cmp/p", "profile: want größe or p or tls behind /p/".encode()),
        ("/.well-known/cmp/p/", "profile: want größe or p or tls behind /p/".encode()),
        ("/.well-known/cmp/p/TLS", "profile: want größe or p or tls behind /p/".encode()),
        ("/.well-known/cmp/p/gr%F6%DFe", "profile: want größe or p or tls behind /p/".encode()),
        ("/.well-known/cmp/p/tls%2Fpkcs10", "profile: want größe or p or tls behind /p/".encode()),
        ("/cmp?profile=tls", b"nothing here has a query"),
        ("/x?y", b"nothing here has a query"),
    ],
)
async def test_another_path_is_404_and_says_what_is_there(path: str, says: bytes):
    async with serving() as site:
        for method in ("POST", "GET"):
            got = await site.ask(REQUEST, path=path, method=method)
            assert (got.status, got.headers["Content-Type"]) == (404, TEXT)
            assert got.body == b"404 Not Found: " + says + b"\n"
        assert site.fake.asked == []


async def test_without_profiles_and_a_path_of_its_own_a_404_names_none():
    async with serving(path="", profiles=()) as site:
        assert (await site.ask(REQUEST, path="/cmp")).body == b"404 Not Found: want /.well-known/cmp\n"
        assert b"profile: want none" in (await site.ask(REQUEST, path="/.well-known/cmp/p/x")).body


# --- statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_another_method_is_405_with_allow(method: str):
    async with serving() as site:
        got = await site.ask(REQUEST, path="/cmp", method=method)
        assert (got.status, got.headers["Allow"]) == (405, "POST")
        assert (await site.ask(None, {}, "/.well-known/cmp/p/tls", method)).status == 405
        assert site.fake.asked == []


@pytest.mark.parametrize("value", [PKIXCMP, "Application/PKIXCMP", "application/pkixcmp ; charset=x; a=b", *POLL_TYPES])
async def test_the_media_types_are_taken_in_any_case_and_with_parameters(value: str):
    async with serving() as site:
        got = await site.ask(REQUEST, {"Content-Type": value})
        assert (got.status, got.body) == (200, answer_to(REQUEST))
        assert got.headers["Content-Type"] == value.partition(";")[0].strip().lower()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/pkixcmpx"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/pkixcmp, text/plain"},
    ],
    ids=lambda headers: ",".join(headers.values()) or "none",
)
async def test_another_content_type_is_415_that_says_which_are_taken(headers: dict[str, str]):
    async with serving() as site:
        got = await site.ask(REQUEST, headers)
        assert got.status == 415
        assert got.headers["Accept"] == ", ".join([PKIXCMP, *POLL_TYPES])
        assert b"application/pkixcmp or application/pkixcmp-poll" in got.body
        assert site.fake.asked == []


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Encoding": "gzip"}, REQUEST, 415),
        ({"Content-Encoding": "identity"}, REQUEST, 200),
        ({"Expect": "tea"}, REQUEST, 417),
        ({"Content-Length": "many"}, None, 400),
        ({"Content-Length": "-1"}, None, 400),
        ({"Content-Length": "+5"}, None, 400),
        ({"Content-Length": "999999999999999999999"}, None, 400),
        ({"Content-Length": "400000"}, None, 413),
        ({"Content-Length": "0"}, None, 400),
        ({}, None, 411),
        ({"Host": "a", "host": "b"}, REQUEST, 400),
        ({"content-type": "text/plain"}, REQUEST, 400),
    ],
)
async def test_what_is_wrong_with_a_head_has_its_status(headers: dict[str, str], body: bytes | None, status: int):
    async with serving() as site:
        got = await site.ask(body, CMP | headers)
        assert got.status == status
        assert len(site.fake.asked) == (status == 200)
        if status == 415:
            assert got.headers["Accept-Encoding"] == "identity"


async def test_http_1_1_wants_a_host_and_http_1_0_does_not():
    async with serving() as site:
        for version, status in (("1.1", 400), ("1.0", 200)):
            client = await site.connect()
            client.send(post(REQUEST, version=version).replace(b"Host: x\r\n", b""))
            assert (await client.answer()).status == status


CHUNKED = b"POST /cmp HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkixcmp\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(octets: bytes) -> bytes:
    return f"{len(octets):x}\r\n".encode() + octets + b"\r\n"


async def test_a_message_may_come_in_chunks():
    async with serving() as site:
        client = await site.connect()
        client.send(CHUNKED + chunk(REQUEST[:5]) + b"1;x=y\r\n" + REQUEST[5:6] + b"\r\n" + chunk(REQUEST[6:]))
        client.send(b"0\r\nTrailer: x\r\n\r\n")
        assert_is_answer(await client.answer())
        client.send(CHUNKED + b"0\r\n\r\n")
        assert (await client.answer()).status == 400
        client.send(CHUNKED.replace(b"chunked", b"gzip, chunked") + chunk(REQUEST) + b"0\r\n\r\n")
        assert (await client.answer()).status == 501
        assert site.fake.asked == [REQUEST]


SMALL = CmpHttpLimits(max_message_octets=20_000, request_seconds=0.5)


def of_size(octets: int) -> bytes:
    """A request of so many octets, which is more than 300."""
    spare = octets - len(pki_message(filler=bytes(octets)))
    found = pki_message(filler=bytes(octets + spare))
    assert len(found) == octets
    return found


async def test_a_message_may_have_as_many_octets_as_the_limit_says_in_every_form():
    async with serving(SMALL) as site:
        for size, status in ((20_000, 200), (20_001, 413)):
            message = of_size(size)
            for body in (message, b64encode(message), encodebytes(message)):
                assert (await site.ask(body)).status == status
        largest = tcpmsg.pki_req(of_size(20_000 - 3))
        for body in (largest, b64encode(largest), encodebytes(largest)):
            assert (await site.ask(body)).status == 200
        assert len(site.fake.asked) == 6
        got = await site.ask(tcpmsg.pki_req(of_size(20_000 - 2)))
        assert tcpmsg_of(got.body).type == MessageType.errorMsgRep
    async with serving(SMALL, tcp_messages=False) as site:
        assert (await site.ask(of_size(20_000))).status == 200
        assert (await site.ask(None, CMP | {"Content-Length": "20001"})).status == 413


@pytest.mark.parametrize("head", [post(None, CMP | {"Content-Length": "8000000"}), CHUNKED + b"7a1200\r\n"])
async def test_who_sends_too_much_can_read_the_413_while_he_goes_on_sending(head: bytes):
    async with serving(SMALL) as site:
        client = await site.connect()
        client.send(head + bytes(50_000))
        got = await client.answer()
        assert (got.status, got.headers["Connection"]) == (413, "close")
        assert b"want at most" in got.body
        client.send(bytes(4_000_000))
        async with asyncio.timeout(5):  # it is read, not reset
            await client.writer.drain()
        assert await client.ended()
        assert site.fake.asked == []


async def test_who_waits_for_continue_is_told_to_go_on_or_why_not():
    async with serving(SMALL) as site:
        client = await site.connect()
        expecting = CMP | {"Expect": "100-continue"}
        client.send(post(None, expecting | {"Content-Length": str(len(REQUEST))}))
        assert (await client.answer()).status == 100
        client.send(REQUEST)
        assert_is_answer(await client.answer())
        client.send(post(None, expecting | {"Content-Length": "30000"}))
        got = await client.answer()
        assert (got.status, got.headers["Connection"]) == (413, "close")
        assert await client.ended()
        for headers, path, status in (({"Content-Type": "text/plain"}, "/cmp", 415), ({}, "/x", 404)):
            client = await site.connect()
            client.send(post(None, expecting | {"Content-Length": "5"} | headers, path))
            assert (await client.answer()).status == status


# --- what has a CMP answer, and what has none -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b" ", b"\r\n\r\n", b"hello", b"\xff\xfe", b"{}", b"MII", b"====", b"%4D", b"/w=="]
)
async def test_what_is_in_no_form_is_400_with_a_text(body: bytes):
    async with serving() as site:
        got = await site.ask(body)
        assert (got.status, got.headers["Content-Type"]) == (400, TEXT)
        assert site.fake.asked == []


async def test_what_the_responder_finds_no_message_is_400_with_the_cmp_answer_inside():
    async with serving() as site:
        got = await site.ask(NONSENSE)
        assert (got.status, got.body, got.headers["Content-Type"]) == (400, answer_to(NONSENSE), PKIXCMP)
        got = await site.ask(b64encode(NONSENSE))
        assert (got.status, b64decode(got.body)) == (400, answer_to(NONSENSE))
        for wrap in (bytes, b64encode):  # a tcp-message is answered by one, whatever is in it
            got = await site.ask(wrap(tcpmsg.pki_req(NONSENSE)))
            assert got.status == 200


async def test_an_announcement_that_is_refused_is_400_with_the_cmp_error_inside():
    """RFC 9811 section 3.5: whatever is wrong has a status of 4xx or 5xx."""
    async with serving() as site:
        for wrap in (bytes, b64encode):
            got = await site.ask(wrap(REFUSED))
            assert (got.status, got.body) == (400, wrap(answer_to(REFUSED)))


@pytest.mark.parametrize(
    ("message", "status"),
    [(pki_message(0xA0 + tag), 202) for tag in (15, 16, 17, 18)] + [(CLIENT_PKICONF, 200)],
)
async def test_what_has_no_cmp_answer_gets_an_empty_one(message: bytes, status: int):
    async with serving() as site:
        for body in (message, b64encode(message)):
            got = await site.ask(body)
            assert (got.status, got.body, got.headers["Content-Length"]) == (status, b"", "0")
            assert "Content-Type" not in got.headers
        frame = await site.ask(tcpmsg.pki_req(message))
        assert (frame.status, tcpmsg_of(frame.body).type) == (200, MessageType.finRep)
        assert site.fake.asked == [message] * 3


async def test_an_exception_does_not_reach_the_peer(caplog: pytest.LogCaptureFixture):
    async with serving() as site:
        client = await site.connect()
        client.send(post(RAISES))
        got = await client.answer()
        assert (got.status, got.headers["Content-Type"]) == (500, TEXT)
        assert b"secret" not in got.body
        client.send(post(tcpmsg.pki_req(RAISES)))
        got = await client.answer()
        frame = tcpmsg_of(got.body)
        assert (got.status, frame.type, frame.value[:2]) == (200, MessageType.errorMsgRep, b"\x03\x00")
        assert b"secret" not in got.body
        client.send(post(REQUEST))
        assert_is_answer(await client.answer())
        assert caplog.text.count("LookupError: a secret detail") == 2


# --- tcp-messages, Base64 ---------------------------------------------------------------------------------------------


def tcpmsg_of(octets: bytes) -> tcpmsg.Frame:
    """The one frame that this is."""
    decoder = tcpmsg.Decoder(1_000_000)
    decoder.feed(octets)
    frame = decoder.next()
    assert isinstance(frame, tcpmsg.Frame)
    assert decoder.held == 0
    return frame


def in_lines(octets: bytes, end: bytes = b"\r\n", width: int = 64) -> bytes:
    text = b64encode(octets)
    return b"".join(text[at : at + width] + end for at in range(0, len(text), width))


@dataclass(frozen=True)
class Form:
    """How a message is sent, and how it must be answered."""

    wrap: Callable[[bytes], bytes]
    answer: Callable[[bytes], bytes]

    def __call__(self, message: bytes) -> tuple[bytes, bytes]:
        return self.wrap(message), self.answer(answer_to(message))


def v10(message: bytes) -> bytes:
    return tcpmsg.pki_req(message)


def v10_answer(message: bytes, *, close: bool = False) -> bytes:
    return tcpmsg.pki_rep(Framing.V10, message, close=close)


FORMS = {
    "DER": Form(bytes, bytes),
    "version 10": Form(v10, v10_answer),
    "version 10, close": Form(lambda m: tcpmsg.pki_req(m, close=True), lambda a: v10_answer(a, close=True)),
    "RFC 2510": Form(lambda m: tcpmsg.pki_req(m, Framing.RFC2510), lambda a: tcpmsg.pki_rep(Framing.RFC2510, a)),
    "Base64 of DER": Form(b64encode, b64encode),
    "Base64 of version 10": Form(lambda m: b64encode(v10(m)), lambda a: b64encode(v10_answer(a))),
    "Base64 in lines": Form(lambda m: in_lines(v10(m)), lambda a: in_lines(v10_answer(a))),
    "Base64 in lines of 76": Form(lambda m: in_lines(v10(m), b"\n", 76), lambda a: in_lines(v10_answer(a))),
    "Base64 of DER in lines": Form(lambda m: in_lines(m, b"\n"), in_lines),
    "Base64 and a line end": Form(lambda m: b64encode(v10(m)) + b"\r\n", lambda a: b64encode(v10_answer(a))),
    "Base64 in white space": Form(
        lambda m: b" \t\r\n" + b64encode(v10(m)).replace(b"A", b"A ") + b"\n\n", lambda a: b64encode(v10_answer(a))
    ),
    "Base64 of RFC 2510": Form(
        lambda m: b64encode(tcpmsg.pki_req(m, Framing.RFC2510)),
        lambda a: b64encode(tcpmsg.pki_rep(Framing.RFC2510, a)),
    ),
}


@pytest.mark.parametrize("kind", [PKIXCMP, *POLL_TYPES])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_a_message_is_answered_in_the_form_it_came_in(form: Form, kind: str):
    async with serving() as site:
        message = pki_message(filler=bytes(range(100)))
        sent, want = form(message)
        for path in ("/cmp", "/.well-known/cmp/p/tls/pkcs10"):
            got = await site.ask(sent, {"Content-Type": kind}, path)
            assert (got.status, got.headers["Content-Type"], got.body) == (200, kind, want)
        assert site.fake.asked == [message] * 2
        assert [origin.profile for origin in site.fake.origins] == ["", "tls"]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.binary(min_size=50, max_size=3000), st.sampled_from(sorted(FORMS))), min_size=1, max_size=6)
)
def test_every_message_arrives_as_it_was_and_is_answered_in_its_form(messages: list[tuple[bytes, str]]):
    async def check() -> None:
        async with serving() as site:
            client = await site.connect()
            for filler, name in messages:
                message = pki_message(filler=filler)
                sent, want = FORMS[name](message)
                client.send(post(sent))
                assert (await client.answer()).body == want
                assert site.fake.asked.pop() == message

    asyncio.run(check())


async def test_the_example_of_base64_is_read():
    """The worked example of the Base64 body in the documentation of tcp-messages over HTTP."""
    text = b"AAAAPgoAADA5MDMCAQKkAjAApAIwAKQSBBAAESIzRFVmd4iZqrvM3e7/pRIEEBERERERERERERERERERERG1AjAA"
    async with serving() as site:
        await site.ask(text)
        (message,) = site.fake.asked
        assert message.hex().startswith("303930330201 02a4023000".replace(" ", ""))
        assert len(message) == 59


@pytest.mark.parametrize("encode", [bytes, b64encode], ids=["binary", "Base64"])
@pytest.mark.parametrize(
    ("sent", "error", "data"),
    [
        (tcpmsg.poll_req(0xDEAD), ErrorType.InvalidPollID, b"\x00\x00\xde\xad"),
        (tcpmsg.message(Framing.V10, 0x02, b"\x00"), ErrorType.GeneralClientError, b""),
        (tcpmsg.message(Framing.V10, 0x01, bytes(8)), ErrorType.InvalidMessageType, b"\x01"),
        (tcpmsg.message(Framing.V10, 0x05, REQUEST), ErrorType.InvalidMessageType, b"\x05"),
        (tcpmsg.message(Framing.V10, 0x06, bytes(4)), ErrorType.InvalidMessageType, b"\x06"),
        (tcpmsg.message(Framing.V10, 0xFF, b"x"), ErrorType.InvalidMessageType, b"\xff"),
        (tcpmsg.message(Framing.V10, 0x00, b""), ErrorType.GeneralClientError, b""),
        (b"\x00\x00\x00\x04\x0b\x00\x00x", ErrorType.VersionNotSupported, b"\x0a"),
        (v10(REQUEST) + b"\x00", ErrorType.GeneralClientError, b""),
        (v10(REQUEST) * 2, ErrorType.GeneralClientError, b""),
        (v10(REQUEST)[:-1], ErrorType.GeneralClientError, b""),
        (b"\x00\x00\x00", ErrorType.GeneralClientError, b""),
        (b"\x00", ErrorType.GeneralClientError, b""),
        (b"\x00\x00\x00\x02\x0a\x00\x00", ErrorType.GeneralClientError, b""),
        (b"\x07\x00\x00\x00\x0a\x00\x00", ErrorType.GeneralClientError, b""),
    ],
    ids=lambda value: value.hex()[:24] if isinstance(value, bytes) else None,
)
async def test_a_tcp_message_that_is_no_request_gets_its_error_in_kind(
    encode: Callable[[bytes], bytes], sent: bytes, error: ErrorType, data: bytes
):
    async with serving() as site:
        got = await site.ask(encode(sent))
        assert (got.status, got.headers["Content-Type"]) == (200, PKIXCMP)
        frame = tcpmsg_of(got.body if encode is bytes else b64decode(got.body))
        assert (frame.framing, frame.type) == (Framing.V10, MessageType.errorMsgRep)
        head = error.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data
        assert frame.value.startswith(head)
        assert len(frame.value) > len(head)  # there is a text
        assert site.fake.asked == []


@pytest.mark.parametrize(
    "sent", [tcpmsg.pki_req(REQUEST, Framing.RFC2510)[:-1], tcpmsg.pki_req(REQUEST, Framing.RFC2510) + b"\x00"]
)
async def test_a_broken_message_in_the_framing_of_rfc_2510_is_told_in_it(sent: bytes):
    async with serving() as site:
        frame = tcpmsg_of((await site.ask(sent)).body)
        assert (frame.framing, frame.type) == (Framing.RFC2510, MessageType.errorMsgRep)
        assert frame.value.startswith(b"tcp-message: ")
        assert site.fake.asked == []


@pytest.mark.parametrize("polling", [True, False], ids=["polling", "no polling"])
async def test_who_has_to_wait_is_told_by_pollrep_if_he_sent_a_tcp_message(polling: bool):
    wait = tcpmsg.poll_rep(Framing.V10, KNOWN_REFERENCE, 60)
    ready = v10_answer(answer_to(WAITS))
    async with serving(transport_polling=polling) as site:
        assert_is_answer(await site.ask(WAITS), WAITS)  # bare DER: CMP itself says it
        got = await site.ask(v10(WAITS))
        assert got.body == (wait if polling else ready)
        got = await site.ask(b64encode(v10(WAITS)))
        assert b64decode(got.body) == (wait if polling else ready)
        old = tcpmsg_of((await site.ask(tcpmsg.pki_req(WAITS, Framing.RFC2510))).body)
        assert (old.framing, old.type) == (Framing.RFC2510, MessageType.pollRep)
        assert old.value == KNOWN_REFERENCE.to_bytes(4, "big") + (NOW + 60).to_bytes(4, "big")
        assert [origin.polls for origin in site.fake.origins] == [False, polling, polling, True]
        assert (await site.ask(tcpmsg.poll_req(KNOWN_REFERENCE))).body == ready
        assert b64decode((await site.ask(b64encode(tcpmsg.poll_req(KNOWN_REFERENCE)))).body) == ready


async def test_a_door_without_tcp_messages_takes_bare_der_alone():
    async with serving(tcp_messages=False) as site:
        assert_is_answer(await site.ask(REQUEST))
        for kind in POLL_TYPES:
            got = await site.ask(REQUEST, {"Content-Type": kind})
            assert (got.status, got.headers["Accept"]) == (415, PKIXCMP)
        for name, form in FORMS.items():
            assert (await site.ask(form.wrap(REQUEST))).status == (200 if name == "DER" else 400)
        assert site.fake.asked == [REQUEST] * 2


# --- connections ------------------------------------------------------------------------------------------------------


async def test_a_connection_serves_one_request_after_the_other_also_when_they_come_together():
    async with serving() as site:
        client = await site.connect()
        for number in range(20):
            client.send(post(REQUEST) if number % 2 else post(v10(REQUEST)))
            assert (await client.answer()).status == 200
        messages = [pki_message(filler=bytes([number])) for number in range(40)]
        client.send(b"".join(map(post, messages)))
        for message in messages:
            assert_is_answer(await client.answer(), message)
        assert site.server.connections == 1
        assert len({origin.address for origin in site.fake.origins}) == 1


async def test_refused_requests_leave_the_connection_to_the_next_one():
    async with serving() as site:
        client = await site.connect()
        for octets, status in (
            (post(REQUEST, {}), 415),
            (post(REQUEST, path="/x"), 404),
            (post(REQUEST, method="PUT"), 405),
            (post(None), 411),
            (post(b"hello"), 400),
            (post(REQUEST), 200),
        ):
            client.send(octets)
            assert (await client.answer()).status == status


@pytest.mark.parametrize("message", [REQUEST, SLOW, CLIENT_PKICONF], ids=["at once", "slow", "empty"])
async def test_who_closes_its_side_after_a_request_gets_the_answer_all_the_same(message: bytes):
    async with serving() as site:
        site.fake.slow = 0.1
        used = await site.connect()
        used.send(post(REQUEST))
        assert_is_answer(await used.answer())
        for client in (used, await site.connect()):
            client.send(post(message))
            client.writer.write_eof()
            want = b"" if message == CLIENT_PKICONF else answer_to(message)
            assert (await client.answer()).body == want
            assert await client.ended()
        await site.until(lambda: site.server.connections == 0)


@pytest.mark.parametrize("cut", [0, 9, len(post(REQUEST)) - 1], ids=["nothing", "head", "content"])
async def test_who_closes_its_side_within_a_request_is_gone_soon(cut: int):
    async with serving(CmpHttpLimits(request_seconds=2)) as site:
        client = await site.connect()
        client.send(post(REQUEST)[:cut])
        client.writer.write_eof()
        begin = time.monotonic()
        assert await client.ended()
        assert time.monotonic() - begin < 1  # it did not wait for the rest
        await site.until(lambda: site.server.connections == 0)
        assert site.fake.asked == []


async def test_http_1_0_closes_unless_it_says_keep_alive():
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):
            client.send(post(REQUEST, CMP | {"Connection": "keep-alive"}, version="1.0"))
            got = await client.answer()
            assert (got.headers["Connection"], got.body) == ("keep-alive", answer_to(REQUEST))
        client.send(post(REQUEST, version="1.0"))
        assert (await client.answer()).body == answer_to(REQUEST)
        assert await client.ended()


async def test_connection_close_is_heeded():
    async with serving() as site:
        client = await site.connect()
        client.send(post(REQUEST, CMP | {"Connection": "close"}))
        assert (await client.answer()).headers["Connection"] == "close"
        assert await client.ended()


async def test_an_upgrade_that_is_offered_is_not_taken():
    async with serving() as site:
        client = await site.connect()
        for protocol in ("h2c", "websocket"):
            client.send(post(REQUEST, CMP | {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol}))
            assert (await client.answer()).body == answer_to(REQUEST)
        client.send(post(REQUEST))
        assert_is_answer(await client.answer())


async def test_it_listens_on_several_addresses_and_on_sockets_that_are_there():
    fake = Fake()
    server = CmpHttpServer(fake, door=DOOR)
    with socket.create_server(("127.0.0.1", 0)) as ready:
        await server.start([("127.0.0.1", 0), ("::1", 0), ready])
        assert len(server.addresses) == 3
        for place in server.addresses:
            client = Client(*await asyncio.open_connection(*place))
            client.send(post(REQUEST))
            assert (await client.answer()).body == answer_to(REQUEST)
            client.writer.close()
        await server.drain(1)
    assert [origin.address.rpartition(":")[0] for origin in fake.origins] == ["127.0.0.1", "[::1]", "127.0.0.1"]


async def test_a_start_that_fails_leaves_no_listener():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = CmpHttpServer(Fake(), door=DOOR)
        with pytest.raises(OSError, match=r"address already in use"):
            await server.start([("127.0.0.1", 0), taken.getsockname()])
        assert server.addresses == ()


async def test_each_request_is_one_line_of_the_debug_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "cmpd")
    async with serving() as site:
        got = await site.ask(REQUEST, path="/cmp")
        await site.ask(REQUEST, path="/x\x7f%0a")
    lines = [record.getMessage() for record in caplog.records if "POST" in record.getMessage()]
    assert lines[0].endswith(f"POST '/cmp': 200, {len(got.body)} octets")
    assert all(line.isprintable() for line in lines)


async def test_the_time_that_an_answer_takes_is_not_held_against_the_peer():
    async with serving(CmpHttpLimits(request_seconds=0.2)) as site:
        site.fake.slow = 0.5
        client = await site.connect()
        client.send(post(SLOW) + post(SLOW)[:40])
        await asyncio.sleep(0.3)
        client.send(post(SLOW)[40:])  # the second one was begun while the first was worked on
        for _ in range(2):
            assert_is_answer(await client.answer(), SLOW)


async def test_a_request_counts_as_a_connection_until_it_is_worked_on_though_the_peer_is_gone():
    async with serving() as site:
        client = await site.connect()
        client.send(post(HANGS))
        await site.until(lambda: site.fake.asked == [HANGS])
        client.writer.transport.abort()
        await asyncio.sleep(0.1)
        assert site.server.connections == 1
        site.fake.gate.set()
        await site.until(lambda: site.server.connections == 0)


async def test_the_parts_of_a_transaction_may_come_on_different_connections():
    async with serving() as site:
        first, second = await site.connect(), await site.connect()
        for client in (first, second, first):
            client.send(post(REQUEST))
            assert_is_answer(await client.answer())
        assert len({origin.address for origin in site.fake.origins}) == 2


async def test_drain_closes_what_is_idle_and_waits_for_the_rest():
    async with serving() as site:
        idle, busy = await site.connect(), await site.connect()
        idle.send(post(REQUEST))
        await idle.answer()
        busy.send(post(HANGS))
        await site.until(lambda: HANGS in site.fake.asked)
        address = site.server.addresses[0]
        draining = asyncio.create_task(site.server.drain(5))
        assert await idle.ended()
        assert not draining.done()
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection(*address)
        site.fake.gate.set()
        got = await busy.answer()
        assert (got.body, got.headers["Connection"]) == (answer_to(HANGS), "close")
        assert await busy.ended()
        async with asyncio.timeout(3):
            await draining


async def test_drain_cuts_what_lasts_too_long():
    async with serving() as site:
        client = await site.connect()
        client.send(post(HANGS))
        await site.until(lambda: HANGS in site.fake.asked)
        async with asyncio.timeout(3):
            await site.server.drain(0.1)
        assert await client.ended()


@pytest.mark.parametrize(
    "limits", [{"max_connections": 0}, {"request_seconds": 0}, {"idle_seconds": -1}, {"max_message_octets": 0}]
)
def test_limits_are_more_than_nothing(limits: dict[str, int]):
    with pytest.raises(ValueError, match="want"):
        CmpHttpLimits(**limits)


def test_the_limits_are_those_of_the_configuration():
    config = HttpConfig(listen="127.0.0.1:80")
    assert CmpHttpLimits() == CmpHttpLimits(
        config.max_connections,
        config.max_connections_per_address,
        config.request_timeout,
        config.idle_timeout,
        config.max_message_octets,
    )


# --- two segments, TLS ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TlsFiles:
    """A certificate that is both the server's and the client's, and its key."""

    certificate: Path
    key: Path
    der: bytes

    def server(self) -> TlsContext:
        settings = TlsSettings(self.certificate, self.key, client="optional", client_ca=self.certificate)
        return TlsContext(settings, b"")

    def client(self, *, known: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificate))
        if known:
            context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 5, now - datetime.timedelta(1), now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = directory / "tls.pem", directory / "tls.key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return TlsFiles(pem, key_pem, certificate.public_bytes(serialization.Encoding.DER))


@pytest.mark.parametrize("known", [True, False], ids=["with a certificate", "without"])
async def test_the_certificate_of_a_tls_client_goes_with_its_requests(tls_files: TlsFiles, known: bool):
    async with serving(tls=tls_files.server(), client=tls_files.client(known=known)) as site:
        client = await site.connect()
        for body in (REQUEST, v10(REQUEST)):
            client.send(post(body))
            assert (await client.answer()).status == 200
        for origin in site.fake.origins:
            assert origin.certificates == ((tls_files.der,) if known else ())
        client.send(post(REQUEST, CMP | {"Connection": "close"}))
        assert (await client.answer()).status == 200
        assert await client.ended()


@pytest.mark.parametrize("each_connects", [False, True], ids=["one connection", "a new one each time"])
@pytest.mark.parametrize("has_tls", [False, True], ids=["HTTP", "HTTPS"])
async def test_who_sends_head_and_content_in_two_segments_does_not_wait_for_a_delayed_ack(
    tls_files: TlsFiles, has_tls: bool, each_connects: bool
):
    """Linux puts an acknowledgement off by 40 ms, and the client's side keeps the second segment back until then; so
    it does after the last message of a TLS handshake."""
    tls, context = (tls_files.server(), tls_files.client(known=True)) if has_tls else (None, None)
    head, want = post(REQUEST)[: -len(REQUEST)], answer_to(REQUEST)

    def connect(place: tuple[str, int]) -> socket.socket:
        raw = socket.create_connection(place, timeout=8)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        return context.wrap_socket(raw, server_hostname="localhost") if context else raw

    def exchanges(place: tuple[str, int]) -> list[float]:
        seconds = []
        peer = connect(place)
        for _ in range(15):
            begin = time.monotonic()
            if each_connects:
                peer.close()
                peer = connect(place)
            peer.sendall(head)
            peer.sendall(REQUEST)
            got = b""
            while not got.endswith(want):
                part = peer.recv(65536)
                assert part
                got += part
            seconds.append(time.monotonic() - begin)
        peer.close()
        return sorted(seconds)

    async with serving(tls=tls) as site:
        seconds = await asyncio.to_thread(exchanges, site.server.addresses[0])
        assert len(site.fake.asked) == 15
    assert seconds[len(seconds) // 2] < 0.03  # not one of them would be
