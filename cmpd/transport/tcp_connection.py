"""One peer of the raw TCP transport: a Protocol object for asyncio and uvloop.

One task per request; no timer per message. Each connection has a `deadline` that is only ever set too early, and the
server's sweep asks those whose deadline has come.

Answers leave in the order of the requests: each request takes a slot in a queue, and what is finished at the head of
the queue is written. A connection is read only while it may take more. Memory per connection is at most
    one frame that is not whole     4 + max_message_octets
    the last octets read            256 KiB (what asyncio and uvloop read at once)
    requests in flight              2 * max_message_octets, and max_in_flight of them with their answers
    octets to be sent               write_high_water + one answer
and over TLS twice 256 KiB more for what is read, 64 KiB for what is sent.

A connection ends by sending FIN and reading on for a moment (discarding): closing a socket with unread octets would
send RST, which can take the last answer away from the peer. TLS has no FIN of its own that leaves the other direction
open: there all is sent, then the connection is closed, and the TLS transport reads on for that moment.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Final, Protocol, cast

from cmpd.env import Env
from cmpd.transport.base import Door, Origin, Responds
from cmpd.transport.frames import FrameRules, ask, encode, failure, server_error
from cmpd.transport.listener import peer_name
from cmpd.transport.tcp_limits import TcpLimits
from cmpd.transport.tls import TlsContext
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import Decoder, Fault, Foreign, Frame, Framing

log = logging.getLogger("cmpd.transport.tcp")

LINGER_SECONDS: Final = 2.0
"""How long a connection that we have ended is still read (and what comes thrown away) before it is closed."""

_V10: Final = Framing.V10

_ADVICE: Final = {
    "HTTP": "CMP over HTTP has a port of its own (80 by default), this one takes tcp-messages",
    "TLS": "CMP over HTTPS has a port of its own (443 by default), this one takes tcp-messages without TLS",
    "DER": "a PKIMessage on this port needs the header of a tcp-message, without it try CMP over HTTP (port 80)",
}


class Owner(Protocol):
    """What a connection needs of its server."""

    limits: TcpLimits
    rules: FrameRules
    responds: Responds
    door: Door
    tls: TlsContext | None
    env: Env
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    draining: bool

    def acquire(self, connection: "Connection") -> bool:
        """Count a new connection, or say that it must be closed."""

    def release(self, connection: "Connection") -> None:
        """Forget a connection that `acquire` counted."""


class _Slot:
    """The place of one request in the order of the answers; `answer` is the encoded message once there is one."""

    __slots__ = ("answer", "close", "octets", "task")

    def __init__(self, octets: int, close: bool) -> None:
        self.octets = octets
        self.close = close
        self.answer: bytes | None = None
        self.task: asyncio.Task[None] | None = None


class Connection(asyncio.Protocol):
    """One peer. The server keeps it until the connection is gone and its last request has been worked on."""

    __slots__ = (
        "_acquired",
        "_decoder",
        "_ended",
        "_eof",
        "_faulty",
        "_gone",
        "_held",
        "_limits",
        "_linger_until",
        "_loop",
        "_lost",
        "_mark",
        "_mark_time",
        "_octets",
        "_old_origin",
        "_partial_since",
        "_server",
        "_slots",
        "_touched",
        "_transport",
        "_unread",
        "_working",
        "_write_paused",
        "_written",
        "deadline",
        "host",
        "origin",
    )

    def __init__(self, server: Owner) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = server.loop
        self._decoder = Decoder(server.limits.max_message_octets)
        self._slots: list[_Slot] = []
        self._octets = 0  # of the requests in _slots
        self._working = 0  # tasks that run
        self._acquired = False  # counted by the server
        self._held = False  # reading is paused
        self._unread = False  # the decoder may have more events
        self._write_paused = False
        self._ended = False  # what still comes from the peer is thrown away
        self._eof = False  # nothing will come from the peer
        self._lost = False  # closed, or about to be: the transport is not to be touched
        self._gone = False  # closed
        self._faulty = False  # a fault of this peer has been logged
        self._partial_since: float | None = None
        self._linger_until: float | None = None
        self._written = 0  # octets handed to the transport
        self._mark: int | None = None  # value of _written that must have been sent ...
        self._mark_time = 0.0  # ... send_seconds after this
        self._touched = 0.0
        self.deadline = inf  # no later than the first moment at which `check` has something to do
        self.host = ""
        self.origin = self._old_origin = Origin("", server.door)  # the latter of requests in RFC 2510 framing

    # --- what the event loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be counted, or be closed at once."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._know(transport)
        self._touched = self._server.clock()
        self.deadline = self._touched + self._limits.idle_seconds
        self._transport.set_write_buffer_limits(high=self._limits.write_high_water)
        self._acquired = self._server.acquire(self)
        if not self._acquired:
            self._close()

    def _know(self, transport: asyncio.BaseTransport) -> None:
        """Say where the requests of this connection come from."""
        server = self._server
        self.host, address = peer_name(transport)
        certificates = server.tls.certificates(transport) if server.tls is not None else ()
        polls = server.rules.polls(Framing.V10), server.rules.polls(Framing.RFC2510)
        self.origin = Origin(address, server.door, polls=polls[0], certificates=certificates)
        same = polls[0] == polls[1]
        self._old_origin = self.origin if same else replace(self.origin, polls=polls[1])

    def connection_lost(self, exc: Exception | None) -> None:
        """Requests that are worked on go on; their answers are in the database for the peer's next try."""
        self._gone = self._lost = self._ended = True
        self.deadline = inf
        if exc is not None:
            log.debug("%s: connection lost: %s", self.origin.address, exc)
        self._release()

    def data_received(self, data: bytes) -> None:
        """Octets, in whatever split."""
        if self._ended:
            return
        self._decoder.feed(data)
        self._read()

    def eof_received(self) -> bool:
        """True keeps the connection open: there are answers to send. Not so over TLS."""
        self._eof = True
        if self._server.tls is not None:
            self._close()  # the peer's close_notify ends both directions
            return False
        if self._decoder.partial:
            log.debug("%s: the peer has closed within a frame", self.origin.address)
        self._ended = self._ended or not self._unread
        return bool(self._slots) or self._unread

    def pause_writing(self) -> None:
        """More than write_high_water octets wait for the peer: no answer is written and nothing is read."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The peer has taken most of them."""
        self._write_paused = False
        if self._lost:
            return
        self._flush()
        self._read_on()

    # --- requests

    def _read(self) -> None:
        """Take frames as long as there is room for them; a share of them at a time, other peers have a turn between."""
        self._unread = True
        for _ in range(self._limits.max_in_flight):
            if self._ended:
                break
            if self._full():
                return self._hold()
            event = self._decoder.next()
            if event is None:
                self._unread = False
                break
            self._take(event)
        if self._ended:
            self._unread = False
        elif self._unread:
            self._hold()
            self._loop.call_soon(self._read_on)
            return None
        self._go_on()
        return None

    def _full(self) -> bool:
        limits = self._limits
        return (
            self._write_paused or len(self._slots) >= limits.max_in_flight or self._octets >= limits.max_message_octets
        )

    def _hold(self) -> None:
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._partial_since = None  # it is not the peer who is slow now
            self._transport.pause_reading()

    def _unhold(self) -> None:
        if self._held and not self._transport.is_closing():
            self._held = False
            if not self._eof:
                self._transport.resume_reading()

    def _read_on(self) -> None:
        """Go on where `_read` stopped, if it did and if there is room again."""
        if self._held and not self._lost and not self._full():
            self._read()

    def _go_on(self) -> None:
        """All that came is taken: read more, and watch the frame that has begun."""
        if self._held:
            self._unhold()
        if self._ended or not self._decoder.partial:
            self._partial_since = None
        elif self._partial_since is None:
            self._partial_since = self._server.clock()
            self._wake(self._partial_since + self._limits.partial_frame_seconds)
        if self._eof or self._server.draining:
            self._finish_if_done()

    def _take(self, event: tcpmsg.Event) -> None:
        self._partial_since = None
        if isinstance(event, Frame):
            fault = tcpmsg.refusal(event, rfc2510=self._limits.rfc2510)
            if fault is None:
                slot = _Slot(len(event.value), event.close)
                self._slots.append(slot)
                self._octets += slot.octets
                self._ended = event.close
                self._working += 1
                slot.task = self._loop.create_task(self._work(slot, event))
                return
            event = fault
        if isinstance(event, Foreign):
            log.info("%s: the peer speaks %s: %s", self.origin.address, event.protocol, _ADVICE[event.protocol])
            self._ended = True
            if not self._slots:
                self._finish()
            return
        self._refuse(event)

    def _refuse(self, fault: Fault) -> None:
        level = logging.DEBUG if self._faulty else logging.INFO
        log.log(level, "%s: answered with errorMsgRep %s: %s", self.origin.address, fault.error.name, fault.text)
        self._faulty = True
        slot = _Slot(0, fault.close)
        slot.answer = fault.encode()
        self._slots.append(slot)
        self._ended = fault.close
        self._flush()

    # --- answers

    async def _work(self, slot: _Slot, frame: Frame) -> None:
        server = self._server
        origin = self.origin if frame.framing is _V10 else self._old_origin
        try:
            slot.answer = encode(frame, await ask(frame, server.responds, origin), server.env)
        except Exception as error:
            slot.answer = failure(frame, error, origin, log)
        finally:  # also when cancelled: no request is left without an answer
            if slot.answer is None:
                slot.answer = server_error(frame)
            slot.task = None
            self._working -= 1
            if self._lost:
                self._release()
            else:
                self._flush()
                if self._held:
                    self._read_on()

    def _flush(self) -> None:
        """Write what is finished at the head of the queue, as long as the peer takes it."""
        slots, server = self._slots, self._server
        while slots and not self._write_paused and not self._lost:
            octets = slots[0].answer
            if octets is None:
                return None
            slot = slots.pop(0)
            self._octets -= slot.octets
            if server.draining:
                octets = tcpmsg.with_close(octets)
            self._transport.write(octets)
            self._written += len(octets)
            self._touched = server.clock()
            if self._mark is None:
                self._mark, self._mark_time = self._written, self._touched
                self._wake(self._touched + min(self._limits.send_seconds, self._limits.idle_seconds))
            if slot.close:
                return self._finish()
        if not slots:
            self._finish_if_done()
        return None

    # --- ends

    def _finish_if_done(self) -> None:
        """End the connection if nothing is left to be done on it and there will be nothing."""
        ending = self._ended or self._eof or self._server.draining
        if ending and not self._slots and not self._unread and (self._eof or not self._decoder.partial):
            self._finish()

    def _finish(self) -> None:
        """All answers are written: send FIN after them; over TLS close, as soon as they have left."""
        if self._lost or self._linger_until is not None:
            return
        self._ended = True
        if self._eof:
            self._close()
            return
        self._linger_until = inf  # until all is sent
        self._wake(self._server.clock())
        if self._server.tls is not None:
            self._unhold()
            self._check_linger(self._server.clock(), self._transport.get_write_buffer_size())
            return
        try:
            self._transport.write_eof()
        except (OSError, RuntimeError):  # the peer has reset the connection (asyncio, uvloop)
            self._close()
            return
        self._unhold()

    def _close(self) -> None:
        """Let the transport send what it has, then close."""
        self._lost = self._ended = True
        self._transport.close()

    def cut(self, why: str) -> None:
        """Close at once; what is not sent is lost."""
        log.info("%s: connection cut: %s", self.origin.address, why)
        self._lost = self._ended = True
        self._transport.abort()

    def drain(self) -> None:
        """Close if idle; otherwise the connection ends with the answers to come, which have the close bit."""
        if not self._slots and not self._unread and not self._decoder.partial and self._linger_until is None:
            self._close()

    def cancel(self) -> None:
        """Stop working on its requests."""
        for slot in self._slots:
            if slot.task is not None:
                slot.task.cancel()

    def _release(self) -> None:
        # requests of a connection that is gone count as long as they are worked on: nobody gets more of them by
        # connecting again
        if self._acquired and self._gone and not self._working:
            self._acquired = False
            self._slots.clear()
            self._server.release(self)

    # --- time

    def _wake(self, when: float) -> None:
        if when < self.deadline:
            self.deadline = when

    def check(self, now: float) -> None:
        """Enforce the limits of time, and set the next deadline."""
        limits = self._limits
        unsent = 0 if self._gone else self._transport.get_write_buffer_size()
        self.deadline = inf
        if self._mark is not None:
            if not unsent:
                self._mark = None
            elif self._written - unsent >= self._mark:
                self._mark, self._mark_time = self._written, now
            elif now - self._mark_time >= limits.send_seconds:
                return self.cut(f"it has left {unsent} octets unread for {limits.send_seconds:g} seconds")
            if self._mark is not None:
                self._wake(self._mark_time + limits.send_seconds)
        if self._lost:  # only the last octets are still to leave
            return None
        if self._linger_until is not None:
            return self._check_linger(now, unsent)
        if self._partial_since is not None:
            end = self._partial_since + limits.partial_frame_seconds
            if end <= now:
                return self.cut(f"a frame was not whole after {limits.partial_frame_seconds:g} seconds")
            self._wake(end)
        elif not self._slots:
            end = self._touched + limits.idle_seconds
            if end <= now and not unsent:
                log.info("%s: connection closed: idle for %g seconds", self.origin.address, limits.idle_seconds)
                return self._close()
            self._wake(end)
        return None

    def _check_linger(self, now: float, unsent: int) -> None:
        if unsent:
            self._wake(now)
            return
        if self._server.tls is not None:
            self._close()
            return
        if self._linger_until == inf:
            self._linger_until = now + LINGER_SECONDS
        if self._linger_until is not None and self._linger_until <= now:
            self._close()
        else:
            self._wake(now)
