"""One frame in, one out, without any transport: what all doors share that take tcp-messages."""

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.env import Env
from cmpd.transport.base import Answer, Door, Origin, UnknownReference, Waiting
from cmpd.transport.frames import FrameRules, answer_frame
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import Decoder, ErrorMsgRep, ErrorType, FinRep, Frame, Framing, PkiRep, PollRep

V10, OLD = Framing.V10, Framing.RFC2510
NOW = 1_767_225_600
log = logging.getLogger("cmpd.test")


class Fixed:
    """Gives one answer to everything, or raises it."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[object, Origin]] = []

    async def respond(self, octets: bytes, origin: Origin) -> Answer:
        self.asked.append((octets, origin))
        return self.give()

    async def poll(self, reference: int, origin: Origin) -> Answer:
        self.asked.append((reference, origin))
        return self.give()

    def give(self) -> Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ask(frame: Frame, responds: Fixed, rules: FrameRules | None = None) -> Frame:
    origin = Origin("192.0.2.1:4", Door("test"))
    env = Env(now=lambda: NOW + 0.9)
    octets = asyncio.run(answer_frame(frame, responds, origin, rules or FrameRules(), env=env, log=log))
    decoder = Decoder(100_000)
    decoder.feed(octets)
    event = decoder.next()
    assert isinstance(event, Frame)
    assert decoder.next() is None
    assert not decoder.partial
    return event


ANSWERS = st.one_of(
    st.binary(min_size=1, max_size=50),
    st.none(),
    st.builds(Waiting, st.integers(1, 0xFFFFFFFF), st.integers(0, 100_000)),
    st.builds(LookupError),
    st.builds(UnknownReference),
)


@given(
    framing=st.sampled_from(Framing),
    kind=st.sampled_from([0, 2]),
    close=st.booleans(),
    value=st.binary(min_size=4, max_size=4),
    answer=ANSWERS,
)
def test_any_request_gets_what_the_responder_says_in_its_framing(
    framing: Framing, kind: int, close: bool, value: bytes, answer: Answer | Exception
) -> None:
    close = close and framing is V10
    frame = ask(Frame(framing, kind, close, value), Fixed(answer))
    assert (frame.framing, frame.close) == (framing, close)
    reply = tcpmsg.reply(frame)
    match answer:
        case bytes():
            assert reply == PkiRep(answer)
        case None:
            assert reply == FinRep()
        case Waiting(reference, seconds):
            assert reply == PollRep(reference, seconds if framing is V10 else NOW + seconds)
        case error:
            assert isinstance(reply, ErrorMsgRep)
            unknown = isinstance(error, UnknownReference)
            if framing is V10:
                assert reply.error == (ErrorType.InvalidPollID if unknown else ErrorType.GeneralServerError)
                assert reply.data == (value if unknown else b"")
            assert ("is unknown" in reply.text) == unknown


def test_time_that_does_not_fit_is_cut_to_what_does() -> None:
    for framing in Framing:
        frame = ask(Frame(framing, 0, False, b"x"), Fixed(Waiting(1, 1 << 40)))
        assert tcpmsg.reply(frame) == PollRep(1, 0xFFFFFFFF)


def test_reference_0_of_a_responder_is_a_fault_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    error = tcpmsg.reply(ask(Frame(V10, 0, False, b"x"), Fixed(Waiting(0, 60))))
    assert isinstance(error, ErrorMsgRep)
    assert error.error == ErrorType.GeneralServerError
    assert "could not be answered" in caplog.text


def test_what_is_no_request_is_refused_without_asking(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    responds = Fixed(b"x")
    frames = [Frame(V10, 5, False, b"x"), Frame(V10, 0, False, b""), Frame(OLD, 2, False, b"abc")]
    for frame in frames:
        assert isinstance(tcpmsg.reply(ask(frame, responds)), ErrorMsgRep)
    assert isinstance(tcpmsg.reply(ask(Frame(OLD, 0, False, b"x"), responds, FrameRules(rfc2510=False))), ErrorMsgRep)
    assert responds.asked == []
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["192.0.2.1"] * 4


@pytest.mark.parametrize("on", [True, False])
def test_origin_says_whether_the_framing_and_the_door_allow_polling(on: bool) -> None:
    for framing in Framing:
        for kind, asked in ((0, b"abcd"), (2, 0x61626364)):
            responds = Fixed(b"x")
            ask(Frame(framing, kind, False, b"abcd"), responds, FrameRules(transport_polling=on))
            ((value, origin),) = responds.asked
            assert value == asked
            assert origin == Origin("192.0.2.1:4", Door("test"), polls=on or framing is OLD)
