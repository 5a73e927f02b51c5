"""The door for CRLs, OCSP and the CA's certificate against real sockets: what is where, and what caches are told."""

import asyncio
import base64
import contextlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.env import Env
from cmpd.errors import StoreError
from cmpd.transport.publish import MAX_OCSP_REQUEST, PublishLimits, PublishServer, Sources
from tests.transport.raw_http import Got, HttpSite, running, written

NOW = 1_790_000_000
TEXT = "text/plain; charset=utf-8"
OCSP_REQUEST = {"Content-Type": "application/ocsp-request"}


@dataclass
class Crls:
    number: int = 26
    this_update: int = NOW - 3600
    next_update: int = NOW + 86400
    full: bytes | None = b"the full CRL"
    delta: bytes | None = b"the delta CRL"


@dataclass
class Responder:
    """Answers every request with its own octets; b"raise", b"store", b"off", b"nonce", b"bad", b"wait" are orders."""

    next_update: int = NOW + 3600
    asked: list[bytes] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: bytes) -> Any:
        self.asked.append(request)
        if request == b"raise":
            raise LookupError("a secret detail")
        if request == b"store":
            raise StoreError("a secret place")
        if request == b"off":
            return None
        if request == b"wait":
            await self.gate.wait()
        return SimpleNamespace(
            der=b"answer to " + request,
            this_update=NOW - 10,
            next_update=self.next_update,
            cacheable=request != b"nonce",
            successful=request != b"bad",
        )


@dataclass(kw_only=True)
class Site(HttpSite):
    crls: Crls
    responder: Responder

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.server.addresses[0])

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Got:
        """One request on a connection of its own."""
        return await self.exchange(written(method, path, headers or {}, body), method)


def serving(
    limits: PublishLimits | None = None, *, ocsp: bool = True, crls: Crls | None = None
) -> contextlib.AbstractAsyncContextManager[Site]:
    responder, crls = Responder(), crls or Crls()
    there = crls if crls.number else None
    sources = Sources(b"the certificate", b"the chain", lambda: there, responder if ocsp else None)
    server = PublishServer(sources, limits, env=Env(now=lambda: NOW + 0.5))
    return running(Site(server=server, crls=crls, responder=responder), responder.gate)


# --- what is where ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/ca.crl", "application/pkix-crl", b"the full CRL"),
        ("/delta.crl", "application/pkix-crl", b"the delta CRL"),
        ("/ca.cer", "application/pkix-cert", b"the certificate"),
        ("/ca-chain.pem", "application/pem-certificate-chain", b"the chain"),
    ],
)
async def test_each_thing_is_at_its_path_with_its_type(path: str, kind: str, body: bytes):
    async with serving() as site:
        got = await site.ask("GET", path)
        assert (got.status, got.headers["Content-Type"], got.body) == (200, kind, body)
        head = await site.ask("HEAD", path)
        assert head.headers == got.headers
        assert head.headers["Content-Length"] == str(len(body))
        assert (await site.ask("GET", f"http://pki.example{path}?x=1")).body == body


async def test_the_root_lists_what_is_there_and_nothing_else():
    async with serving() as site:
        got = await site.ask("GET", "/")
        assert got.headers["Content-Type"] == TEXT
        assert [line.split()[0] for line in got.body.decode().splitlines()] == [
            "/ca.crl",
            "/delta.crl",
            "/ca.cer",
            "/ca-chain.pem",
            "/ocsp",
        ]
    async with serving(ocsp=False, crls=Crls(delta=None)) as site:
        got = await site.ask("GET", "/")
        assert [line.split()[0] for line in got.body.decode().splitlines()] == ["/ca.crl", "/ca.cer", "/ca-chain.pem"]


async def test_a_crl_that_is_not_made_yet_is_a_503_with_retry_after():
    async with serving(crls=Crls(number=0)) as site:
        for path in ("/ca.crl", "/delta.crl"):
            got = await site.ask("GET", path)
            assert (got.status, got.headers["Retry-After"]) == (503, "5")
            assert got.headers["Cache-Control"] == "no-store"
    async with serving(crls=Crls(delta=None)) as site:
        assert (await site.ask("GET", "/delta.crl")).status == 404
        assert (await site.ask("GET", "/ca.crl")).status == 200


async def test_no_answer_says_which_software_it_is_from():
    async with serving() as site:
        client = await site.connect()
        client.send(b"nonsense\r\n\r\n")
        answers = [await client.answer(), await site.ask("GET", "/"), await site.ask("GET", "/x")]
        assert [got.status for got in answers] == [400, 200, 404]
        for got in answers:
            assert got.headers["Server"] == "cmpd"
            assert got.headers["Date"] == formatdate(NOW, usegmt=True)
            assert b"aiohttp" not in got.body


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/ca.crl", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
        ("OPTIONS", "/delta.crl", "GET, HEAD"),
        ("GET", "/ocsp", "POST"),
        ("HEAD", "/ocsp/", "POST"),
        ("POST", "/ocsp/MAA=", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_for_this_path_is_405_with_allow(method: str, path: str, allow: str):
    async with serving() as site:
        got = await site.ask(method, path)
        assert (got.status, got.headers["Allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/x", "/ca.crl/", "//ca.crl", "/ocspx", "/../ca.crl", "/CA.CRL"])
async def test_other_paths_are_404_with_a_short_text(path: str):
    async with serving() as site:
        got = await site.ask("GET", path)
        assert (got.status, got.headers["Content-Type"]) == (404, TEXT)
        assert len(got.body) < 80


# --- OCSP -------------------------------------------------------------------------------------------------------------


async def test_ocsp_by_post_is_kept_by_no_cache():
    async with serving() as site:
        for path in ("/ocsp", "/ocsp/"):
            got = await site.ask("POST", path, b"req", OCSP_REQUEST)
            assert (got.status, got.body) == (200, b"answer to req")
            assert got.headers["Content-Type"] == "application/ocsp-response"
            assert got.headers["Cache-Control"] == "no-store"
            assert "ETag" not in got.headers


SLASHES = b"\xff\xff\xff" + b"\xfb\xef\xbe" + b"x"
"""Its base64 has "////", "++++" and "==": what paths are spoilt by."""


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text,
        lambda text: quote(text),
        lambda text: quote(text, safe=""),
        lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
        lambda text: text.rstrip("="),
    ],
    ids=["as it is", "some percents", "all percents", "lower-case hex", "no padding"],
)
async def test_the_base64_of_a_get_may_have_slashes_and_percents(encode: Callable[[str], str]):
    text = base64.b64encode(SLASHES).decode()
    assert "////" in text
    assert "++++" in text
    async with serving() as site:
        got = await site.ask("GET", f"/ocsp/{encode(text)}")
        assert got.body == b"answer to " + SLASHES


@given(st.binary(min_size=1, max_size=200), st.sampled_from(["", "/", "/+", "/+="]))
def test_every_request_arrives_as_it_was_however_it_is_quoted(octets: bytes, safe: str):
    async def check() -> None:
        async with serving() as site:
            await site.ask("GET", f"/ocsp/{quote(base64.b64encode(octets).decode(), safe=safe)}")
            assert site.responder.asked == [octets]

    asyncio.run(check())


@pytest.mark.parametrize("path", ["/ocsp/%", "/ocsp/M", "/ocsp/a b", "/ocsp/-_-_", "/ocsp/%00"])
async def test_what_is_no_base64_is_400(path: str):
    async with serving() as site:
        client = await site.connect()
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await client.answer()).status == 400
        assert site.responder.asked == []


async def test_ocsp_by_get_tells_caches_how_long():
    async with serving(PublishLimits(ocsp_max_age=60)) as site:
        path = "/ocsp/" + base64.b64encode(b"req!").decode()
        got = await site.ask("GET", path)
        assert got.headers["Cache-Control"] == "max-age=60, public, no-transform, must-revalidate"
        assert got.headers["Last-Modified"] == formatdate(NOW - 10, usegmt=True)
        assert got.headers["Expires"] == formatdate(NOW + 3600, usegmt=True)
        tag = got.headers["ETag"]
        for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = await site.ask("GET", path, headers={"If-None-Match": known})
            assert (again.status, again.body) == (304, b"")
            assert {name: again.headers[name] for name in ("ETag", "Cache-Control", "Expires", "Date")} == {
                name: got.headers[name] for name in ("ETag", "Cache-Control", "Expires", "Date")
            }
        assert (await site.ask("GET", path, headers={"If-None-Match": '"other"'})).status == 200
        site.responder.next_update = NOW + 7
        assert "max-age=7," in (await site.ask("GET", path)).headers["Cache-Control"]
        site.responder.next_update = NOW - 7
        assert "max-age=0," in (await site.ask("GET", path)).headers["Cache-Control"]


@pytest.mark.parametrize("order", [b"nonce", b"bad"])
async def test_an_answer_with_a_nonce_or_an_error_is_kept_by_no_cache(order: bytes):
    async with serving() as site:
        got = await site.ask("GET", "/ocsp/" + base64.b64encode(order).decode())
        assert (got.status, got.headers["Cache-Control"]) == (200, "no-store")
        assert not {"ETag", "Expires", "Last-Modified"} & got.headers.keys()


async def test_without_ocsp_its_paths_are_404():
    async with serving(ocsp=False) as site:
        assert (await site.ask("GET", "/ocsp/MAA=")).status == 404
        assert (await site.ask("POST", "/ocsp", b"req", OCSP_REQUEST)).status == 404
    async with serving() as site:
        assert (await site.ask("POST", "/ocsp", b"off", OCSP_REQUEST)).status == 404


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (OCSP_REQUEST, b"x" * MAX_OCSP_REQUEST, 200),
        (OCSP_REQUEST, b"x" * (MAX_OCSP_REQUEST + 1), 413),
        ({"Content-Type": "text/plain"}, b"x", 415),
        ({}, b"x", 415),
        (OCSP_REQUEST | {"Content-Encoding": "gzip"}, b"x", 415),
        (OCSP_REQUEST | {"Content-Type": "Application/OCSP-Request; x=y"}, b"x", 200),
        (OCSP_REQUEST, None, 411),
        (OCSP_REQUEST | {"Expect": "tea"}, b"x", 417),
        (OCSP_REQUEST | {"Content-Length": "many"}, None, 400),
        (OCSP_REQUEST | {"Content-Length": "-1"}, None, 400),
    ],
)
async def test_a_post_is_bounded_and_typed(headers: dict[str, str], body: bytes | None, status: int):
    async with serving() as site:
        got = await site.ask("POST", "/ocsp", body, headers)
        assert got.status == status
        if status != 200:
            assert got.headers["Content-Type"] == TEXT
            assert got.headers["Cache-Control"] == "no-store"


CHUNKED = (
    b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nTransfer-Encoding: chunked\r\n\r\n"
)


async def test_a_post_in_chunks_is_bounded_too():
    async with serving(PublishLimits(request_seconds=0.5)) as site:  # so long the rest of what is refused is read
        client = await site.connect()
        client.send(CHUNKED + b"3\r\nreq\r\n2\r\n!!\r\n0\r\n\r\n")
        assert (await client.answer()).body == b"answer to req!!"
        client.send(CHUNKED + b"8000\r\n" + bytes(0x8000) + b"\r\n8001\r\n" + bytes(0x8001) + b"\r\n")
        got = await client.answer()
        assert (got.status, got.headers["Connection"]) == (413, "close")
        assert await client.ended()
        broken = await site.connect()
        broken.send(CHUNKED + b"zz\r\n")
        assert (await broken.answer()).status == 400


async def test_a_client_that_waits_for_continue_is_told_to_go_on():
    async with serving(PublishLimits(request_seconds=0.5)) as site:  # so long the rest of what is refused is read
        client = await site.connect()
        head = b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nExpect: 100-continue\r\n"
        client.send(head + b"Content-Length: 3\r\n\r\n")
        assert (await client.answer()).status == 100
        client.send(b"req")
        assert (await client.answer()).body == b"answer to req"
        client.send(head + b"Content-Length: 70000\r\n\r\n")
        got = await client.answer()
        assert (got.status, got.headers["Connection"]) == (413, "close")
        assert await client.ended()


@pytest.mark.parametrize("expectation", ["100-continue", "tea"])
async def test_a_client_of_http_1_0_is_not_told_to_go_on(expectation: str):
    async with serving() as site:
        client = await site.connect()
        client.send(b"POST /ocsp HTTP/1.0\r\nContent-Type: application/ocsp-request\r\nContent-Length: 3\r\n")
        client.send(f"Expect: {expectation}\r\n\r\n".encode())
        await asyncio.sleep(0.05)
        client.send(b"req")
        got = await client.answer()
        assert (got.status, got.body) == (200, b"answer to req")
        assert await client.ended()


@pytest.mark.parametrize("target", ["http://host", "HTTP://host:80", "http://host?x=y", "http://host/"])
async def test_an_absolute_target_without_a_path_is_the_root(target: str):
    async with serving() as site:
        got = await site.ask("GET", target)
        assert got.status == 200
        assert got.body == (await site.ask("GET", "/")).body


async def test_an_exception_does_not_reach_the_peer(caplog: pytest.LogCaptureFixture):
    async with serving() as site:
        client = await site.connect()
        for order, status in ((b"raise", 500), (b"store", 503)):
            client.send(
                b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\n"
                b"Content-Length: 5\r\n\r\n" + order
            )
            got = await client.answer()
            assert got.status == status
            assert b"secret" not in got.body
        assert "a secret detail" in caplog.text
        assert "a secret place" in caplog.text


# --- CRLs and caches --------------------------------------------------------------------------------------------------


async def test_a_crl_has_validators_and_a_short_age():
    async with serving() as site:
        got = await site.ask("GET", "/ca.crl")
        assert got.headers["Cache-Control"] == "max-age=60, public, no-transform, must-revalidate"
        assert got.headers["Last-Modified"] == formatdate(NOW - 3600, usegmt=True)
        assert got.headers["Expires"] == formatdate(NOW + 86400, usegmt=True)
        tag = got.headers["ETag"]
        assert tag.startswith('"1a-')
        assert tag != (await site.ask("GET", "/delta.crl")).headers["ETag"]
        assert (await site.ask("GET", "/ca.crl", headers={"If-None-Match": tag})).status == 304
        site.crls.full = b"the full CRL, with another signature"
        assert (await site.ask("GET", "/ca.crl", headers={"If-None-Match": tag})).status == 200
        site.crls.next_update = NOW + 20
        assert "max-age=20," in (await site.ask("GET", "/ca.crl")).headers["Cache-Control"]


@pytest.mark.parametrize(
    ("since", "status"),
    [
        (formatdate(NOW - 3600, usegmt=True), 304),
        (formatdate(NOW, usegmt=True), 304),
        (formatdate(NOW - 3599, usegmt=True), 304),
        (formatdate(NOW - 3601, usegmt=True), 200),
        (formatdate(NOW + 1, usegmt=True), 200),
        ("Fri, 31 Dec 2100 00:00:00 GMT", 200),
        ("yesterday", 200),
        ("Mon, 99 Foo 0000 99:99:99 GMT", 200),
    ],
)
async def test_if_modified_since_is_heeded_unless_there_is_if_none_match(since: str, status: int):
    async with serving() as site:
        assert (await site.ask("GET", "/ca.crl", headers={"If-Modified-Since": since})).status == status
        both = {"If-Modified-Since": since, "If-None-Match": '"other"'}
        assert (await site.ask("GET", "/ca.crl", headers=both)).status == 200


async def test_last_modified_is_never_later_than_date():
    async with serving(crls=Crls(this_update=NOW + 100)) as site:
        got = await site.ask("GET", "/ca.crl")
        assert got.headers["Last-Modified"] == got.headers["Date"]
        assert (await site.ask("GET", "/ca.crl", headers={"If-Modified-Since": got.headers["Date"]})).status == 304


async def test_a_large_crl_comes_whole_and_does_not_stall_the_loop():
    big = bytes(range(256)) * 20_000
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            longest = max(longest, loop.time() - before)

    async with serving(crls=Crls(full=big)) as site, aiohttp.ClientSession() as session:
        watcher = asyncio.create_task(watch())

        async def fetch() -> None:
            async with session.get(f"{site.url}/ca.crl") as response:
                assert response.headers["Content-Length"] == str(len(big))
                assert await response.read() == big

        async with asyncio.timeout(20):
            await asyncio.gather(*(fetch() for _ in range(8)))
        head = await site.ask("HEAD", "/ca.crl")
        assert head.headers["Content-Length"] == str(len(big))
        watcher.cancel()
    assert longest < 1.0


# --- connections ------------------------------------------------------------------------------------------------------

GET = b"GET /ca.cer HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_connection_serves_one_request_after_the_other_also_when_they_come_together():
    async with serving() as site:
        client = await site.connect()
        client.send(GET)
        assert (await client.answer()).status == 200
        client.send(GET * 40)
        for _ in range(40):
            assert (await client.answer()).body == b"the certificate"
        assert site.server.connections == 1


async def test_http_1_0_closes_unless_it_says_keep_alive():
    async with serving() as site:
        client = await site.connect()
        client.send(b"GET /ca.cer HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        got = await client.answer()
        assert got.headers["Connection"] == "keep-alive"
        client.send(b"GET /ca.cer HTTP/1.0\r\n\r\n")
        assert (await client.answer()).body == b"the certificate"
        assert await client.ended()


async def test_connection_close_is_heeded():
    async with serving() as site:
        client = await site.connect()
        client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await client.answer()).headers["Connection"] == "close"
        assert await client.ended()


async def test_each_request_is_one_line_of_the_debug_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "cmpd")
    async with serving() as site:
        await site.ask("GET", "/ca.crl\x7f")
        await site.ask("GET", "/ca.crl")
    lines = [record.getMessage() for record in caplog.records if "GET" in record.getMessage()]
    assert len(lines) == 2
    assert lines[1].endswith("GET '/ca.crl': 200, 12 octets")
    assert all(line.isprintable() for line in lines)


async def test_drain_closes_what_is_idle_and_waits_for_the_rest():
    async with serving() as site:
        idle, busy = await site.connect(), await site.connect()
        idle.send(GET)
        await idle.answer()
        busy.send(
            b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nContent-Length: 4\r\n\r\nwait"
        )
        await site.until(lambda: site.responder.asked == [b"wait"])
        address = site.server.addresses[0]
        draining = asyncio.create_task(site.server.drain(5))
        assert await idle.ended()
        assert not draining.done()
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection(*address)
        site.responder.gate.set()
        got = await busy.answer()
        assert (got.body, got.headers["Connection"]) == (b"answer to wait", "close")
        assert await busy.ended()
        async with asyncio.timeout(3):
            await draining


async def test_drain_cuts_what_lasts_too_long():
    async with serving() as site:
        client = await site.connect()
        client.send(
            b"POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nContent-Length: 4\r\n\r\nwait"
        )
        await site.until(lambda: site.responder.asked == [b"wait"])
        async with asyncio.timeout(3):
            await site.server.drain(0.1)
        assert await client.ended()


@pytest.mark.parametrize(
    "limits", [{"max_connections": 0}, {"max_connections_per_address": 0}, {"request_seconds": 0}, {"idle_seconds": -1}]
)
def test_limits_are_more_than_nothing(limits: dict[str, int]):
    with pytest.raises(ValueError, match="want"):
        PublishLimits(**limits)
