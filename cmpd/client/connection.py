"""A long-lived connection to a CMP server over tcp-messages, on which many transactions are interwoven.

Requests are pipelined; the frame carries no number, so answers come in the order of the requests, one future each. What
stays is the Connection; the TCP connections below it (_Link) come and go: the server closes idle ones, sets the close
bit, restarts. A request of which no octet of the answer came when its link ended is sent again on a new one
(draft -06 section 3.3.1); the server answers it as it did the first time. Once an octet came, it is never repeated.

Nothing at this level is authenticated: what is told here ends a request, and never changes a transaction.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from cmpd.client.base import ConnectionLimits, OnWait, Patience
from cmpd.client.errors import AnswerTimeout, ConnectError, ConnectionLost, ProtocolError, TransportError
from cmpd.client.tls import ASK_FOR_CERTIFICATE, explain, why
from cmpd.env import Env
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import Decoder, ErrorMsgRep, ErrorType, FinRep, Frame, Framing, PkiRep, PollRep

log = logging.getLogger(__name__)

Reply = PkiRep | FinRep | PollRep | ErrorMsgRep
"""What may answer a request in version 10; of RFC 2510's framing only its errorMsgRep is taken."""

_ERROR_NAMES: Final[dict[int, str]] = {int(row): row.name for row in ErrorType}

_MOST_ORDERLY_CLOSES: Final = 100
"""How often one request may be sent again because the server closed in order (close bit set) before its turn."""

_TLS_CLOSE_SECONDS: Final = 1.0
"""How long the server may take to say goodbye."""


class _Unanswered(Exception):
    """The link ended and no octet of the answer was read. `orderly`: the server had announced it by the close bit."""

    def __init__(self, orderly: bool) -> None:
        super().__init__()
        self.orderly = orderly


class Connection:
    """One CMP server at `host`:`port`. Nothing is opened before the first request.

    `tls`: speak TLS; the server's certificate must be for `tls_host`, default `host`. `on_wait` is told
    of each pollRep. `async with` closes it; it must be used on one event loop.
    """

    _ASK: ClassVar[str] = "is that its port for raw TCP, without TLS? (tls:// and http:// have ports of their own)"
    """What a user may look at who gets no answer."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        limits: ConnectionLimits | None = None,
        env: Env | None = None,
        tls: ssl.SSLContext | None = None,
        tls_host: str | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.limits = limits or ConnectionLimits()
        self._env = env or Env()
        self._tls = tls
        self._tls_host = tls_host
        self._on_wait = on_wait
        self._link: _Link | None = None
        self._draining: set[_Link] = set()
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(self.limits.in_flight)
        self._closed = False

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def request(self, der: bytes, *, last: bool = False) -> bytes | None:
        """Send a PKIMessage; return the answer's DER, None if the server has no CMP answer to it (finRep).

        `last` asks the server to close the connection after the answer. TransportError and its subclasses say what
        went wrong. A server that says "not yet" (pollRep) is asked again when it said, up to `poll_timeout`.
        """
        patience = Patience(self.limits.poll_timeout, self._on_wait)
        frame = tcpmsg.pki_req(der, close=last)
        while True:
            reply = await self._exchange(frame, last=last)
            if isinstance(reply, PkiRep):
                return reply.der
            if isinstance(reply, FinRep):
                return None
            if isinstance(reply, ErrorMsgRep):
                raise _refusal(reply)
            await patience.wait(f"the server at {self._name}", reply.wait(self._env.now()))
            frame = tcpmsg.poll_req(reply.reference, close=last)

    async def close(self) -> None:
        """Wait for the answers that are outstanding, then close. Further requests are refused with TransportError."""
        self._closed = True
        links = [*self._draining, *([self._link] if self._link else [])]
        for link in links:
            link.retire()
        await asyncio.gather(*(link.ended for link in links))

    @property
    def _name(self) -> str:
        return f"{self.host}:{self.port}"

    def _was_closed(self) -> TransportError:
        return TransportError(f"the connection to {self._name} was closed by its user")

    async def _exchange(self, frame: bytes, *, last: bool) -> Reply:
        """Send one frame, again on a new link as long as that is allowed, and return the reply to it."""
        lost = orderly = 0
        async with self._slots:
            while True:
                link = await self._open()
                try:
                    return await self._ask(link, frame, last=last)
                except _Unanswered as ended:
                    lost, orderly = lost + (not ended.orderly), orderly + ended.orderly
                if lost > self.limits.retries or orderly > _MOST_ORDERLY_CLOSES:
                    text = f"the server at {self._name} closed the connection {lost + orderly} times without an answer"
                    raise ConnectionLost(f"{text}; {ASK_FOR_CERTIFICATE if self._tls is not None else self._ASK}")
                log.debug("no octet of an answer from %s: sending the request again", self._name)

    async def _ask(self, link: "_Link", frame: bytes, *, last: bool) -> Reply:
        answer = link.send(frame)
        if last:
            self._retire(link)
        try:
            async with asyncio.timeout(self.limits.answer_timeout):
                return await answer
        except TimeoutError:
            # Answers come in order: behind one that does not come, none will.
            link.abort()
            raise AnswerTimeout(
                f"no answer from {self._name} within {self.limits.answer_timeout:g} s;"
                " whether the server acted on the request is not known"
            ) from None

    async def _open(self) -> "_Link":
        """The link for the next request: the present one, or a new one if it takes no more."""
        async with self._opening:
            if self._closed:
                raise self._was_closed()
            if self._link is not None and not self._link.takes_requests:
                self._retire(self._link)
            if self._link is None:
                link = await self._connect()
                if self._closed:  # meanwhile
                    link.abort()
                    raise self._was_closed()
                self._link = link
            link = self._link
        await link.writable()
        return link

    def _retire(self, link: "_Link") -> None:
        """Give this link no more requests; it stays until its answers have come."""
        if self._link is link:
            self._link = None
        self._draining.add(link)
        link.ended.add_done_callback(lambda _: self._draining.discard(link))
        link.retire()

    async def _connect(self) -> "_Link":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                return await self._dial(loop, lambda: _Link(loop, self._name, self.limits.max_length))
        except TimeoutError:
            seconds = f"{self.limits.connect_timeout:g} s"
            raise ConnectError(f"cannot connect to {self._name} within {seconds}: is the address right?") from None
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise ConnectError(f"cannot connect to {self._name}: {explain(error)}") from None
        except OSError as error:
            reason = why(error, tls=self._tls is not None)
            raise ConnectError(f"cannot connect to {self._name}: {reason}") from None

    async def _dial(self, loop: asyncio.AbstractEventLoop, make: "Callable[[], _Link]") -> "_Link":
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {
                "ssl": self._tls,
                "server_hostname": self._tls_host or self.host,
                "ssl_shutdown_timeout": _TLS_CLOSE_SECONDS,
            }
        _, link = await loop.create_connection(make, self.host, self.port, **options)
        return link


class UnixConnection(Connection):
    """The CMP server behind the Unix domain socket at `path`: the door for programs on its own machine."""

    _ASK = "is that the socket of cmpd? (local.socket in its configuration)"

    def __init__(
        self,
        path: Path,
        *,
        limits: ConnectionLimits | None = None,
        env: Env | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        super().__init__("", 0, limits=limits, env=env, on_wait=on_wait)
        self.path = path

    @property
    def _name(self) -> str:
        return str(self.path)

    async def _dial(self, loop: asyncio.AbstractEventLoop, make: "Callable[[], _Link]") -> "_Link":
        _, link = await loop.create_unix_connection(make, str(self.path))
        return link


def _refusal(reply: ErrorMsgRep) -> TransportError:
    if reply.error is None:
        text = f"the server speaks only the old framing of RFC 2510, and says (unauthenticated): {reply.text}"
        return TransportError(text, text=reply.text)
    name = _ERROR_NAMES.get(reply.error, f"error type {reply.error:04x}")
    data = f" [{reply.data.hex()}]" if reply.data else ""
    return TransportError(
        f"the server refused the tcp-message (unauthenticated): {name}{data} {reply.text}".rstrip(),
        type=reply.error,
        data=reply.data,
        text=reply.text,
    )


class _Link(asyncio.Protocol):
    """One TCP connection. `ended` is done when it is gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, limit: int) -> None:
        self._loop = loop
        self._name = name
        self._decoder = Decoder(limit)
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._transport: asyncio.Transport | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._retired = False  # takes no more requests; closed when the last answer is there
        self._server_closes = False  # the close bit was set in an answer
        self.ended: asyncio.Future[None] = loop.create_future()

    # --- for Connection ---

    @property
    def takes_requests(self) -> bool:
        """Whether a request may be sent here."""
        return not self._retired and not self.ended.done() and self._transport is not None

    def send(self, frame: bytes) -> "asyncio.Future[Reply]":
        """Send a request. The future gets its reply, _Unanswered, ConnectionLost or ProtocolError."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        if self._transport is None or self._retired:
            answer.set_exception(_Unanswered(self._server_closes))
            return answer
        self._waiting.append(answer)
        self._transport.write(frame)
        return answer

    async def writable(self) -> None:
        """Wait until the server has read enough of what was sent."""
        await self._may_write.wait()

    def retire(self) -> None:
        """Send nothing more, and close when all answers have come that somebody waits for."""
        self._retired = True
        if self._waiting and all(answer.done() for answer in self._waiting):
            self.abort()
        elif not self._waiting and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it now."""
        self._retired = True
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no instance of asyncio.Transport

    def pause_writing(self) -> None:
        """Hold requests back."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Let requests go."""
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        """Give each whole message to the oldest request that waits."""
        self._decoder.feed(data)
        while (event := self._decoder.next()) is not None:
            if not isinstance(event, Frame):
                self._violation(_not_a_reply(event))
                return
            if not self._waiting:
                self._violation("a message that answers no request")
                return
            try:
                reply = tcpmsg.reply(event)
            except tcpmsg.ReplyError as error:
                self._violation(str(error))
                return
            old = event.framing is Framing.RFC2510 and not isinstance(reply, ErrorMsgRep)
            if old or isinstance(reply, tcpmsg.PartialMsgRep):
                self._violation(f"a {type(reply).__name__} in the framing of RFC 2510")
                return
            self._answered(reply, event)

    def _answered(self, reply: Reply, frame: Frame) -> None:
        answer = self._waiting.popleft()
        if not answer.done():  # it is if nobody waits for it any more
            answer.set_result(reply)
        if frame.close or frame.framing is not Framing.V10:
            self._server_closes = self._retired = True
        if self._retired and not self._waiting and self._transport is not None:
            self._transport.close()

    def _violation(self, what: str) -> None:
        """The server left the protocol: nothing that it sends on this link can be assigned any more."""
        log.debug("%s: %s", self._name, what)
        self._fail(ProtocolError(f"the server at {self._name} does not speak tcp-messages of version 10: {what}"))
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The oldest request may have had a part of its answer; the others surely had not."""
        self._transport = None
        self._may_write.set()
        if self._waiting and self._decoder.partial:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(ConnectionLost(f"the connection to {self._name} ended inside an answer"))
        # With TLS 1.3 a server refuses a client certificate only after the client's side of the handshake is done.
        refused = isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
        reason = f"{self._name} ended the connection: {explain(error)}" if error is not None else ""
        self._fail(ConnectError(reason) if refused else None)
        if not self.ended.done():
            self.ended.set_result(None)

    def _fail(self, error: TransportError | None) -> None:
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error or _Unanswered(self._server_closes))


def _not_a_reply(event: "tcpmsg.Fault | tcpmsg.Foreign") -> str:
    return f"it speaks {event.protocol}" if isinstance(event, tcpmsg.Foreign) else event.text
