"""One tcp-message in, one out: what every door does that takes tcp-messages, whatever carries them.

A pkiReq goes to the responder, a pollReq to its polling, everything else is refused with an errorMsgRep; the answer is
in the framing of the request and has its close bit. How long a client has to wait is told in seconds by version 10, and
as a point in time by RFC 2510 (section 5.2).
"""

import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import Final

from cmpd.env import Env
from cmpd.frozen import frozen
from cmpd.origin import Answer, Origin, Responds, UnknownReference, Waiting
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import ErrorType, Frame, Framing

_V10: Final = Framing.V10
_POLL_REQ: Final = int(tcpmsg.MessageType.pollReq)
_MAX_TIME: Final = 0xFFFF_FFFF


@frozen
class FrameRules:
    """What a door takes. `rfc2510`: that framing too. `transport_polling`: who has to wait may be told so by pollRep;
    clients in RFC 2510 framing, which know nothing else, always are.
    """

    rfc2510: bool = True
    transport_polling: bool = True

    def polls(self, framing: Framing) -> bool:
        """Origin.polls of a request in this framing."""
        return self.transport_polling or framing is Framing.RFC2510


async def answer_frame(
    frame: Frame, responds: Responds, origin: Origin, rules: FrameRules, *, env: Env, log: logging.Logger
) -> bytes:
    """The encoded tcp-message that answers this one. `origin.polls` is set here, by the rules.

    An exception that is not foreseen is logged and answered with GeneralServerError.
    """
    fault = tcpmsg.refusal(frame, rfc2510=rules.rfc2510)
    if fault is not None:
        log.info("%s: answered with errorMsgRep %s: %s", origin.address, fault.error.name, fault.text)
        return fault.encode()
    polls = rules.polls(frame.framing)
    if origin.polls != polls:
        origin = replace(origin, polls=polls)
    try:
        return encode(frame, await ask(frame, responds, origin), env)
    except Exception as error:
        return failure(frame, error, origin, log)


# --- the parts, for a transport that answers in a task of its own: without a coroutine in between ---------------------


def ask(frame: Frame, responds: Responds, origin: Origin) -> Awaitable[Answer]:
    """What the responder does about a frame that tcpmsg.refusal lets through."""
    if frame.type == _POLL_REQ:
        return responds.poll(int.from_bytes(frame.value, "big"), origin)
    return responds.respond(frame.value, origin)


def encode(frame: Frame, answer: Answer, env: Env) -> bytes:
    """The tcp-message with the answer to this frame."""
    framing, close = frame.framing, frame.close
    if answer is None:
        return tcpmsg.fin_rep(framing, close=close)
    if isinstance(answer, Waiting):
        time = answer.seconds if framing is _V10 else int(env.now()) + answer.seconds
        return tcpmsg.poll_rep(framing, answer.reference, min(time, _MAX_TIME), close=close)
    return tcpmsg.pki_rep(framing, answer, close=close)


def failure(frame: Frame, error: Exception, origin: Origin, log: logging.Logger) -> bytes:
    """The tcp-message for what the responder has raised; logged as a fault unless it is UnknownReference."""
    if isinstance(error, UnknownReference):
        fault = tcpmsg.unknown_reference(frame)
        log.info("%s: answered with errorMsgRep %s: %s", origin.address, fault.error.name, fault.text)
        return fault.encode()
    log.error("%s: a request could not be answered", origin.address, exc_info=error)
    return server_error(frame)


def server_error(frame: Frame) -> bytes:
    """What is said when the fault is ours."""
    text = "internal error of the server"
    return tcpmsg.error_msg_rep(frame.framing, ErrorType.GeneralServerError, b"", text, close=frame.close)
