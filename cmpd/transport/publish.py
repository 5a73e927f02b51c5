"""The door for what everybody may read: CRLs, OCSP (RFC 6960 appendix A) and the CA's certificate, over HTTP.

What is published comes from `Sources`; this file knows paths, methods and caches. Caches may keep a CRL for a minute
and an answer of OCSP to a GET for `ocsp_max_age`, never past nextUpdate (RFC 5019 section 6, RFC 9111), and ask then
with the ETag whether it is still the same. What has a nonce, came by POST or is an error is kept by nobody.

The base64 of a GET for OCSP is taken from the request line as it came: it may have slashes, also two in a row, which
whoever normalises a path would lose.
"""

import binascii
import hashlib
import logging
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final, Protocol
from urllib.parse import unquote, unquote_to_bytes

from aiohttp import web

from cmpd.config_status import CERTIFICATE_PATH, CHAIN_PATH, CRL_PATH, DELTA_PATH, OCSP_PATH
from cmpd.env import Env
from cmpd.errors import StoreError
from cmpd.transport.http_server import HttpAnswer, HttpDoor, HttpLimits, HttpServer, plain, read_content

log = logging.getLogger("cmpd.transport.publish")

MAX_OCSP_REQUEST: Final = 65_536
"""Octets of an OCSPRequest that is sent by POST."""

_CRL_MAX_AGE: Final = 60
_CERTIFICATE_MAX_AGE: Final = 3600
_RETRY_SECONDS: Final = "5"
_READ: Final = ("GET", "HEAD")
_OCSP_REQUEST: Final = "application/ocsp-request"
_OCSP_RESPONSE: Final = "application/ocsp-response"


class CrlSnapshot(Protocol):
    """The CRLs that are published now; times in Unix seconds. `number` is that of both."""

    @property
    def number(self) -> int:
        """CRLNumber."""

    @property
    def this_update(self) -> int:
        """When they were made."""

    @property
    def next_update(self) -> int:
        """Until when they can be used."""

    @property
    def full(self) -> bytes | None:
        """DER of the CertificateList, None if there is none yet."""

    @property
    def delta(self) -> bytes | None:
        """DER of the delta CRL, None if there is none."""


class OcspAnswer(Protocol):
    """An OCSPResponse; times in Unix seconds."""

    @property
    def der(self) -> bytes:
        """DER of the OCSPResponse."""

    @property
    def this_update(self) -> int:
        """When what it says was known to be right."""

    @property
    def next_update(self) -> int | None:
        """Until when it can be used; None unless it is `successful`."""

    @property
    def cacheable(self) -> bool:
        """Whether others who ask the same may get it: it has no nonce."""

    @property
    def successful(self) -> bool:
        """Whether responseStatus is successful."""


Ask = Callable[[bytes], Awaitable[OcspAnswer | None]]
"""What answers the DER of an OCSPRequest, whatever octets it is; None: there is no OCSP. StoreError: not now."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where what is published comes from. `certificate`: DER of the CA's; `chain`: PEM of it and those above it.

    `crls` gives None while there are none, and `ocsp` is None where there is no OCSP.
    """

    certificate: bytes
    chain: bytes
    crls: Callable[[], CrlSnapshot | None]
    ocsp: Ask | None = None


@dataclass(frozen=True, slots=True)
class PublishLimits(HttpLimits):
    """What peers may use (HttpLimits), and for how many seconds caches may keep an answer of OCSP."""

    ocsp_max_age: int = 60


class PublishServer(HttpDoor):
    """Listens, and publishes."""

    def __init__(self, sources: Sources, limits: PublishLimits | None = None, *, env: Env | None = None) -> None:
        """`env`: the clock of Date and of the ages."""
        self._sources = sources
        self._limits = limits or PublishLimits()
        self._env = env or Env()
        self._http = HttpServer(self._answer, self._limits, self._env)

    # --- what is asked for

    async def _answer(self, request: web.BaseRequest) -> HttpAnswer:
        target = re.sub(r"^https?://[^/?#]*", "", request.raw_path, flags=re.IGNORECASE)  # absolute-form: for a proxy
        path = target.partition("?")[0] or "/"
        if path.startswith(f"{OCSP_PATH}/") and path != f"{OCSP_PATH}/":
            return await self._ocsp_by_get(request, path[len(OCSP_PATH) + 1 :])
        name = unquote(path)
        if name in (OCSP_PATH, f"{OCSP_PATH}/"):
            return await self._ocsp_by_post(request)
        read = _READABLE.get(name)
        if read is None:
            return plain(404, "what is here is listed at /")
        if request.method not in _READ:
            return plain(405, "want GET", Allow="GET, HEAD")
        return read(self, request)

    def _list(self, request: web.BaseRequest) -> HttpAnswer:
        there = {
            CRL_PATH: "the certificate revocation list (CRL)",
            DELTA_PATH: "the delta CRL: what has changed since an earlier CRL",
            CERTIFICATE_PATH: "the certificate of the CA (DER)",
            CHAIN_PATH: "the certificate of the CA and those above it (PEM)",
            OCSP_PATH: "the OCSP responder (RFC 6960), by GET and POST",
        }
        crls = self._sources.crls()
        if crls is None or crls.delta is None:
            del there[DELTA_PATH]
        if self._sources.ocsp is None:
            del there[OCSP_PATH]
        text = "".join(f"{path:<16}{what}\n" for path, what in there.items())
        fields = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
        return HttpAnswer(200, text.encode(), fields)

    def _full(self, request: web.BaseRequest) -> HttpAnswer:
        crls = self._sources.crls()
        if crls is None or crls.full is None:
            return plain(503, "there is no CRL yet; try again later", Retry_After=_RETRY_SECONDS)
        return self._crl(request, crls, crls.full)

    def _delta(self, request: web.BaseRequest) -> HttpAnswer:
        crls = self._sources.crls()
        if crls is None or crls.full is None:
            return plain(503, "there is no CRL yet; try again later", Retry_After=_RETRY_SECONDS)
        if crls.delta is None:
            return plain(404, f"there is no delta CRL; want {CRL_PATH}")
        return self._crl(request, crls, crls.delta)

    def _crl(self, request: web.BaseRequest, crls: CrlSnapshot, octets: bytes) -> HttpAnswer:
        # The last octets are those of the signature, which stands for all others: no need to digest megabytes.
        tag = f"{crls.number:x}-{hashlib.sha256(octets[-1024:]).hexdigest()[:32]}"
        fields = self._ages(_CRL_MAX_AGE, crls.this_update, crls.next_update)
        return self._conditional(request, "application/pkix-crl", octets, tag, fields, crls.this_update)

    def _certificate(self, request: web.BaseRequest) -> HttpAnswer:
        return self._constant(request, "application/pkix-cert", self._sources.certificate)

    def _chain(self, request: web.BaseRequest) -> HttpAnswer:
        return self._constant(request, "application/pem-certificate-chain", self._sources.chain)

    def _constant(self, request: web.BaseRequest, kind: str, octets: bytes) -> HttpAnswer:
        fields = {"Cache-Control": f"max-age={_CERTIFICATE_MAX_AGE}, public, no-transform"}
        return self._conditional(request, kind, octets, _digest(octets), fields, None)

    # --- OCSP

    async def _ocsp_by_get(self, request: web.BaseRequest, text: str) -> HttpAnswer:
        ask = self._sources.ocsp
        if ask is None:
            return _NO_OCSP
        if request.method not in _READ:
            return plain(405, f"want GET here, POST to {OCSP_PATH}", Allow="GET, HEAD")
        try:
            encoded = unquote_to_bytes(text)
            octets = b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            return plain(400, f"want {OCSP_PATH}/ and the base64 of an OCSPRequest, URL-encoded")
        return await self._ocsp(request, ask, octets, may_be_kept=True)

    async def _ocsp_by_post(self, request: web.BaseRequest) -> HttpAnswer:
        ask = self._sources.ocsp
        if ask is None:
            return _NO_OCSP
        if request.method != "POST":
            return plain(405, f"want POST here, GET of {OCSP_PATH}/BASE64", Allow="POST")
        octets = await read_content(request, (_OCSP_REQUEST,), MAX_OCSP_REQUEST)
        if isinstance(octets, HttpAnswer):
            return octets
        return await self._ocsp(request, ask, octets, may_be_kept=False)

    async def _ocsp(self, request: web.BaseRequest, ask: Ask, octets: bytes, *, may_be_kept: bool) -> HttpAnswer:
        try:
            answer = await ask(octets)
        except StoreError as error:
            log.error("store: %s", error)
            return plain(503, "try again later", Retry_After=_RETRY_SECONDS)
        if answer is None:
            return _NO_OCSP
        until = answer.next_update
        if until is None or not (may_be_kept and answer.cacheable and answer.successful):
            return HttpAnswer(200, answer.der, {"Content-Type": _OCSP_RESPONSE, "Cache-Control": "no-store"})
        fields = self._ages(self._limits.ocsp_max_age, answer.this_update, until)
        return self._conditional(request, _OCSP_RESPONSE, answer.der, _digest(answer.der), fields, answer.this_update)

    # --- caches

    def _ages(self, max_age: int, this_update: int, next_update: int) -> dict[str, str]:
        """Cache-Control, Last-Modified and Expires of something signed that is good until `next_update`."""
        now = int(self._env.now())
        age = max(0, min(max_age, next_update - now))
        return {
            "Cache-Control": f"max-age={age}, public, no-transform, must-revalidate",
            "Last-Modified": formatdate(min(this_update, now), usegmt=True),
            "Expires": formatdate(next_update, usegmt=True),
        }

    def _conditional(
        self,
        request: web.BaseRequest,
        kind: str,
        octets: bytes,
        tag: str,
        fields: dict[str, str],
        modified: int | None,
    ) -> HttpAnswer:
        """The octets, or 304 to whoever has them already (RFC 9110 section 13.2.2); dates to come count for nothing."""
        fields = {**fields, "ETag": f'"{tag}"'}
        known = request.if_none_match
        if known is not None:
            has_it = any(one.value in ("*", tag) for one in known)
        else:
            now, since = self._env.now(), request.if_modified_since
            has_it = modified is not None and since is not None and min(modified, int(now)) <= since.timestamp() <= now
        return HttpAnswer(304, b"", fields) if has_it else HttpAnswer(200, octets, {"Content-Type": kind, **fields})


_READABLE: Final[dict[str, Callable[[PublishServer, web.BaseRequest], HttpAnswer]]] = {
    "/": PublishServer._list,
    CRL_PATH: PublishServer._full,
    DELTA_PATH: PublishServer._delta,
    CERTIFICATE_PATH: PublishServer._certificate,
    CHAIN_PATH: PublishServer._chain,
}

_NO_OCSP: Final = plain(404, "there is no OCSP here")


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()[:32]
