"""CMP over HTTP (RFC 9811): one session of aiohttp that keeps its connections alive, and answers of bounded size.

A PKIMessage with the right media type is an answer whatever the status says (2xx, 4xx, 5xx; section 3.1): CMP vouches
for it, HTTP does not. Redirections are not followed, and no proxy is used. A request is sent again while nothing of an
HTTP response came, as with tcp-messages; once an octet came, it is never repeated.
"""

import asyncio
import logging
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from cmpd.client.base import ConnectionLimits
from cmpd.client.errors import AnswerTimeout, ConnectError, ConnectionLost, ProtocolError, TransportError
from cmpd.client.tls import ASK_FOR_CERTIFICATE, explain, why

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/pkixcmp"

_NO_CONTENT: Final = frozenset({200, 201, 202, 204})
"""What says, without content, that there is no CMP answer (announcements: RFC 9811 section 3.5)."""

_ASK: Final = "is that its port for HTTP, without TLS? (https:// and raw TCP have ports of their own)"
"""What a user may look at who gets no answer."""

_MAX_TEXT: Final = 4096
_PIECE: Final = 65_536


class _Unanswered(Exception):
    """The connection ended before an octet of a response."""


class HttpConnection:
    """One CMP server at `url`. Nothing is opened before the first request.

    `tls` is used with https; the server's certificate must be for `tls_host`, default the host of the URL. `async with`
    closes it; it must be used on one event loop.
    """

    def __init__(
        self,
        url: URL,
        *,
        limits: ConnectionLimits | None = None,
        tls: ssl.SSLContext | None = None,
        tls_host: str | None = None,
    ) -> None:
        self.url = url
        self.limits = limits or ConnectionLimits()
        self._tls = tls
        self._tls_host = tls_host
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def __aenter__(self) -> "HttpConnection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def request(self, der: bytes, *, last: bool = False) -> bytes | None:
        """POST a PKIMessage; return the answer's DER, None if the server has none. See base.Exchange."""
        lost = 0
        while True:
            session = self._opened()
            try:
                async with asyncio.timeout(self.limits.answer_timeout):
                    return await self._exchange(session, der, last=last)
            except _Unanswered:
                lost += 1
            except TimeoutError:
                raise AnswerTimeout(
                    f"no answer from {self.url} within {self.limits.answer_timeout:g} s;"
                    " whether the server acted on the request is not known"
                ) from None
            if lost > self.limits.retries:
                text = f"the server at {self.url} closed the connection {lost} times without an answer"
                raise ConnectionLost(f"{text}; {_ASK if self._tls is None else ASK_FOR_CERTIFICATE}")
            log.debug("no octet of an answer from %s: sending the request again", self.url)

    async def close(self) -> None:
        """Close the connections. Further requests are refused with TransportError."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise TransportError(f"the connection to {self.url} was closed by its user")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self.limits.in_flight, ssl=self._tls or True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept": MEDIA_TYPE, "Accept-Encoding": "identity", "Content-Type": MEDIA_TYPE},
            )
        return self._session

    async def _exchange(self, session: aiohttp.ClientSession, der: bytes, *, last: bool) -> bytes | None:
        """One POST and its response, with what aiohttp raises told in our own words."""
        headers = {"Connection": "close"} if last else {}
        host = self._tls_host if self.url.scheme == "https" else None
        try:
            async with session.post(
                self.url, data=der, headers=headers, allow_redirects=False, server_hostname=host
            ) as response:
                return await self._answer(response)
        except aiohttp.ConnectionTimeoutError:
            seconds = f"{self.limits.connect_timeout:g} s"
            raise ConnectError(f"cannot connect to {self.url} within {seconds}: is the address right?") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise ConnectError(f"cannot connect to {self.url}: {explain(error.certificate_error)}") from None
        except aiohttp.ClientConnectorSSLError as error:
            raise ConnectError(f"cannot connect to {self.url}: {explain(error.os_error)}") from None
        except aiohttp.ClientConnectorError as error:
            reason = why(error.os_error, tls=self._tls is not None)
            raise ConnectError(f"cannot connect to {self.url}: {reason}") from None
        except aiohttp.ServerDisconnectedError as error:
            if isinstance(error.message, str):  # else it is what came of the response's head
                raise _Unanswered from None
            raise ConnectionLost(f"the connection to {self.url} ended inside an answer") from None
        except aiohttp.ClientOSError as error:
            cause = error if isinstance(error, ssl.SSLError) else error.__cause__
            if isinstance(cause, ssl.SSLError):
                raise ConnectError(f"{self.url} ended the connection: {explain(cause)}") from None
            raise _Unanswered from None
        except aiohttp.ClientPayloadError:
            raise ConnectionLost(f"the connection to {self.url} ended inside an answer") from None
        except (aiohttp.ClientError, ValueError) as error:  # a response that is no HTTP
            text = printable(str(error).partition("\n")[0])
            raise ProtocolError(f"the server at {self.url} does not speak HTTP: {text}") from None

    async def _answer(self, response: aiohttp.ClientResponse) -> bytes | None:
        status = response.status
        empty = status in _NO_CONTENT
        if response.content_type == MEDIA_TYPE and status // 100 in (2, 4, 5):
            octets = await _read(response, self.limits.max_length + 1)
            if len(octets) > self.limits.max_length:
                raise ProtocolError(f"the answer of {self.url} is longer than {self.limits.max_length} octets")
            if octets:
                return octets
        elif empty:
            empty = not await _read(response, 1)
        if empty:
            return None
        raise TransportError(
            f"the server at {self.url} answers without a CMP message (unauthenticated): {await _said(response)}"
        )


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The content, up to `most` octets of it."""
    found = bytearray()
    while len(found) < most and (piece := await response.content.read(min(_PIECE, most - len(found)))):
        found += piece
    return bytes(found)


async def _said(response: aiohttp.ClientResponse) -> str:
    """Status and, of a text, the first line: what a user can do something with."""
    status = response.status
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    text = f"HTTP status {status} {phrase}".rstrip()
    if status // 100 == 3:
        return f"{text}, a redirection to {printable(response.headers.get('Location', 'nowhere'))}; it is not followed"
    if response.content_type == "text/plain":
        line = (await _read(response, _MAX_TEXT)).decode("utf-8", "replace").strip().partition("\n")[0]
        line = printable(line).removeprefix(text.removeprefix("HTTP status ")).lstrip(": ")
        return f"{text}: {line}" if line else text
    if status // 100 == 2:
        return f"{text} of type {printable(response.content_type)}, want {MEDIA_TYPE}"
    return text


def printable(text: str) -> str:
    """A peer's text for a terminal: no control characters, at most 200 characters."""
    return "".join(character if character.isprintable() else " " for character in text[:200]).strip()
