"""The framing: the worked examples as vectors, every split, hostile octets."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import (
    Decoder,
    ErrorMsgRep,
    ErrorType,
    Fault,
    FinRep,
    Foreign,
    Frame,
    Framing,
    PartialMsgRep,
    PkiRep,
    PollRep,
    ReplyError,
)

V10, OLD = Framing.V10, Framing.RFC2510
LIMIT = 2000

HEADER = (
    "30 {} 30 {} 02 01 02 a4 02 30 00 a4 02 30 00 a4 12 04 10 00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff {}"
    "a5 12 04 10 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 11 {}"
)
GENM = bytes.fromhex(HEADER.format("39", "33", "", "b5 02 30 00"))
ERROR = bytes.fromhex(
    "30 65 30 47 02 01 02 a4 02 30 00 a4 02 30 00 a4 12 04 10 00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff"
    "a5 12 04 10 22 22 22 22 22 22 22 22 22 22 22 22 22 22 22 22 a6 12 04 10 11 11 11 11 11 11 11 11 11 11 11 11 11 11"
    "11 11 b7 1a 30 18 30 16 02 01 02 30 0d 0c 0b 75 6e 70 72 6f 74 65 63 74 65 64 03 02 06 40"
)
PKICONF = ERROR[:1] + b"\x4d" + ERROR[2:75] + bytes.fromhex("b3 02 05 00")


def octets(text: str) -> bytes:
    return bytes.fromhex(text)


def decode(data: bytes, limit: int = LIMIT) -> list[tcpmsg.Event]:
    return decode_parts([data], limit)


def decode_parts(parts: list[bytes], limit: int = LIMIT) -> list[tcpmsg.Event]:
    decoder = Decoder(limit)
    found = []
    for part in parts:
        decoder.feed(part)
        while (event := decoder.next()) is not None:
            found.append(event)
        assert decoder.held <= limit + 3
    return found


def one(data: bytes) -> tcpmsg.Event:
    (event,) = decode(data)
    return event


def read_reply(data: bytes) -> tcpmsg.Reply:
    frame = one(data)
    assert isinstance(frame, Frame)
    return tcpmsg.reply(frame)


# --- worked examples --------------------------------------------------------------------------------------------------

EXAMPLES = [
    ("pkiReq", octets("0000003e0a0000") + GENM, Frame(V10, 0, False, GENM), tcpmsg.pki_req(GENM)),
    ("pkiReq, close", octets("0000003e0a0100") + GENM, Frame(V10, 0, True, GENM), tcpmsg.pki_req(GENM, close=True)),
    ("pkiRep", octets("0000006a0a0005") + ERROR, Frame(V10, 5, False, ERROR), tcpmsg.pki_rep(V10, ERROR)),
    (
        "pkiRep, close",
        octets("000000520a0105") + PKICONF,
        Frame(V10, 5, True, PKICONF),
        tcpmsg.pki_rep(V10, PKICONF, close=True),
    ),
    (
        "pollRep, relative",
        octets("0000000b0a0001 0000beef 0000003c"),
        Frame(V10, 1, False, octets("0000beef0000003c")),
        tcpmsg.poll_rep(V10, 0xBEEF, 60),
    ),
    (
        "pollRep, absolute",
        octets("0000000b0a0001 0000beef 6955b900"),
        Frame(V10, 1, False, octets("0000beef6955b900")),
        tcpmsg.poll_rep(V10, 0xBEEF, 1767225600),
    ),
    ("pollReq", octets("000000070a0002 0000beef"), Frame(V10, 2, False, b"\0\0\xbe\xef"), tcpmsg.poll_req(0xBEEF)),
    ("finRep, close", octets("000000040a010300"), Frame(V10, 3, True, b"\0"), tcpmsg.fin_rep(V10, close=True)),
    (
        "errorMsgRep, empty",
        octets("000000070a0106 0200 0000"),
        Frame(V10, 6, True, octets("02000000")),
        tcpmsg.error_msg_rep(V10, ErrorType.GeneralClientError, b"", "", close=True),
    ),
    (
        "errorMsgRep, server",
        octets("000000070a0106 0300 0000"),
        Frame(V10, 6, True, octets("03000000")),
        tcpmsg.error_msg_rep(V10, ErrorType.GeneralServerError, b"", "", close=True),
    ),
    (
        "errorMsgRep, early layout",
        octets("0000001a0a0106 0202 0004 0000beef 756e6b6e6f776e20706f6c6c206964"),
        Frame(V10, 6, True, octets("0202 0004 0000beef") + b"unknown poll id"),
        tcpmsg.error_msg_rep(V10, ErrorType.InvalidPollID, b"\0\0\xbe\xef", "unknown poll id", close=True),
    ),
    ("pkiMsg", octets("0000003c00") + GENM, Frame(OLD, 0, False, GENM), tcpmsg.pki_req(GENM, OLD)),
    (
        "RFC 2510 pollRep",
        octets("00000009010000beef6955b900"),
        Frame(OLD, 1, False, octets("0000beef6955b900")),
        tcpmsg.poll_rep(OLD, 0xBEEF, 1767225600),
    ),
    (
        "RFC 2510 pollReq",
        octets("00000005020000beef"),
        Frame(OLD, 2, False, octets("0000beef")),
        tcpmsg.poll_req(0xBEEF, OLD),
    ),
    ("negPollRep", octets("000000020300"), Frame(OLD, 3, False, b"\0"), tcpmsg.fin_rep(OLD)),
    ("finalMsgRep", octets("0000006805") + ERROR, Frame(OLD, 5, False, ERROR), tcpmsg.pki_rep(OLD, ERROR)),
    (
        "RFC 2510 errorMsgRep",
        octets("0000001a06 6e6f207375636820706f6c6c696e67207265666572656e6365"),
        Frame(OLD, 6, False, b"no such polling reference"),
        tcpmsg.error_msg_rep(OLD, ErrorType.InvalidPollID, b"\0\0\xbe\xef", "no such polling reference"),
    ),
]


def test_the_examples_are_of_the_stated_sizes() -> None:
    assert (len(GENM), len(ERROR), len(PKICONF)) == (59, 103, 79)


@pytest.mark.parametrize(("wire", "frame", "encoded"), [e[1:] for e in EXAMPLES], ids=[e[0] for e in EXAMPLES])
def test_worked_example_is_read_and_written(wire: bytes, frame: Frame, encoded: bytes) -> None:
    assert one(wire) == frame
    assert encoded == wire


@pytest.mark.parametrize(
    ("wire", "reply"),
    [
        (
            "0000001f0a0106 0101 0018 76657273696f6e203131206e6f7420737570706f72746564",
            (0x101, b"", "version 11 not supported"),
        ),
        ("000000070a0106 0200 0000", (0x200, b"", "")),
        ("0000000f0a0106 0201 0008 6261642074797065", (0x201, b"", "bad type")),
        ("000000160a0106 0202 000f 756e6b6e6f776e20706f6c6c206964", (0x202, b"", "unknown poll id")),
        (
            "0000001a0a0106 0202 0004 0000beef 756e6b6e6f776e20706f6c6c206964",
            (0x202, b"\0\0\xbe\xef", "unknown poll id"),
        ),
        ("000000070a0106 0300 0000", (0x300, b"", "")),
        ("0000000b0a0006 0202 0004 0000beef", (0x202, b"\0\0\xbe\xef", "")),
        ("000000080a0006 0101 0001 0a", (0x101, b"\x0a", "")),
        ("000000090a0006 8001 0002 6869", (0x8001, b"", "hi")),
        ("0000000506 6e6f7065", (None, b"", "nope")),
    ],
)
def test_client_reads_both_layouts_of_errormsgrep(wire: str, reply: tuple[int | None, bytes, str]) -> None:
    assert read_reply(octets(wire)) == ErrorMsgRep(*reply)


def test_client_reads_partialmsgrep() -> None:
    assert read_reply(octets("0000007004 0000beef 6955b900") + ERROR) == PartialMsgRep(0xBEEF, 0x6955B900, ERROR)


# --- the client's side of the decisions -------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("kind", [0x00, 0x05])
def test_client_takes_00_and_05_as_reply(framing: Framing, kind: int) -> None:
    assert read_reply(tcpmsg.message(framing, kind, ERROR)) == PkiRep(ERROR)


@pytest.mark.parametrize("value", [b"", b"\0"])
def test_client_takes_finrep_with_and_without_its_octet(value: bytes) -> None:
    assert read_reply(tcpmsg.message(V10, 3, value)) == FinRep()


def test_time_to_check_back_is_relative_or_absolute() -> None:
    now = 1767225600.5
    assert PollRep(1, 60).wait(now) == 60
    assert PollRep(1, 0x10000000).wait(now) == 0x10000000
    assert PollRep(1, 1767225660).wait(now) == 60
    assert PollRep(1, 1767225000).wait(now) == 0
    assert read_reply(octets("0000000b0a0001 0000beef 0000003c")) == PollRep(0xBEEF, 60)


def test_flags_other_than_close_are_ignored() -> None:
    assert one(octets("000000040afe0300")) == Frame(V10, 3, False, b"\0")
    assert one(octets("000000040aff0300")) == Frame(V10, 3, True, b"\0")


@pytest.mark.parametrize(
    "frame",
    [
        Frame(V10, 0x04, False, bytes(20)),
        Frame(V10, 0x02, False, bytes(4)),
        Frame(V10, 0x07, False, b"x"),
        Frame(V10, 0xFF, False, b"x"),
        Frame(OLD, 0x07, False, b"x"),
        Frame(V10, 0x05, False, b""),
        Frame(V10, 0x01, False, bytes(7)),
        Frame(V10, 0x01, False, bytes(9)),
        Frame(V10, 0x03, False, b"\x01"),
        Frame(V10, 0x03, False, b"\0\0"),
        Frame(V10, 0x06, False, b"\x02\0\0"),
        Frame(V10, 0x06, False, b"\x02\0\0\x05abcd"),
        Frame(OLD, 0x04, False, bytes(8)),
    ],
)
def test_client_refuses_what_is_no_reply(frame: Frame) -> None:
    with pytest.raises(ReplyError):
        tcpmsg.reply(frame)


def test_error_text_cannot_write_control_characters_and_loses_its_language_tag() -> None:
    text = "\U000e0001\U000e0065\U000e006eÄrger\x1b[2J\nx"
    wire = tcpmsg.error_msg_rep(V10, ErrorType.GeneralServerError, b"", text)
    assert read_reply(wire) == ErrorMsgRep(0x300, b"", "Ärger\ufffd[2J\ufffdx")
    assert read_reply(octets("000000090a0006 0300 0000 ff41")) == ErrorMsgRep(0x300, b"", "\ufffdA")


@pytest.mark.parametrize("error", ErrorType)
@given(text=st.text(st.characters(categories=["L", "N", "P"]), max_size=40))
def test_error_written_in_our_layout_is_read_again(error: ErrorType, text: str) -> None:
    data = bytes(range(tcpmsg._DATA_OCTETS[error]))
    assert read_reply(tcpmsg.error_msg_rep(V10, error, data, text)) == ErrorMsgRep(error, data, text)


# --- the server's side ------------------------------------------------------------------------------------------------


def test_pkireq_with_a_value_and_pollreq_with_a_reference_are_not_refused() -> None:
    for framing in Framing:
        assert tcpmsg.refusal(Frame(framing, 0, False, b"x")) is None
        assert tcpmsg.refusal(Frame(framing, 2, False, b"\0\0\xbe\xef")) is None


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize(
    ("kind", "value", "error", "data"),
    [
        (0, b"", ErrorType.GeneralClientError, b""),
        (2, b"\0\0\xbe", ErrorType.GeneralClientError, b""),
        (2, b"\0\0\xbe\xef\0", ErrorType.GeneralClientError, b""),
        *[(kind, b"x", ErrorType.InvalidMessageType, bytes([kind])) for kind in (1, 3, 4, 5, 6, 7, 9, 127, 128, 255)],
    ],
)
def test_request_frame_is_refused(framing: Framing, kind: int, value: bytes, error: ErrorType, data: bytes) -> None:
    for close in (False, True):
        fault = tcpmsg.refusal(Frame(framing, kind, close, value))
        assert fault is not None
        assert (fault.framing, fault.error, fault.data, fault.close, fault.lost) == (framing, error, data, close, False)


def test_unknown_reference_is_told_in_both_framings() -> None:
    for close in (False, True):
        wire = tcpmsg.unknown_reference(Frame(V10, 2, close, b"\0\0\xbe\xef")).encode()
        assert one(wire) == Frame(
            V10, 6, close, octets("0202 0004 0000beef") + b"polling reference: 0000beef is unknown"
        )
    wire = tcpmsg.unknown_reference(Frame(OLD, 2, False, b"\0\0\xbe\xef")).encode()
    assert one(wire) == Frame(OLD, 6, False, b"polling reference: 0000beef is unknown")


def test_rfc2510_that_is_not_spoken_is_refused_in_its_own_framing() -> None:
    for request in (tcpmsg.pki_req(GENM, OLD), tcpmsg.poll_req(7, OLD)):
        frame = one(request)
        assert isinstance(frame, Frame)
        fault = tcpmsg.refusal(frame, rfc2510=False)
        assert fault is not None
        answer = one(fault.encode())
        assert answer == Frame(OLD, 6, False, b"RFC 2510 framing: not spoken here, want tcp-messages of version 10")
    assert tcpmsg.refusal(Frame(V10, 0, False, b"x"), rfc2510=False) is None


@pytest.mark.parametrize("version", [11, 12, 0x30, 255])
@pytest.mark.parametrize("close", [False, True])
def test_higher_version_is_answered_with_ours_and_the_next_frame_is_read(version: int, close: bool) -> None:
    wire = octets("00000005") + bytes([version, close, 0]) + b"xy"
    fault, frame = decode(wire + tcpmsg.pki_req(GENM))
    assert isinstance(fault, Fault)
    assert fault[:3] == (V10, ErrorType.VersionNotSupported, b"\x0a")
    assert (fault.close, fault.lost) == (close, False)
    assert frame == Frame(V10, 0, False, GENM)


@pytest.mark.parametrize("version", [7, 8, 9])
def test_versions_7_to_9_are_rfc2510_messages_of_no_known_type(version: int) -> None:
    frame, after = decode(octets("00000003") + bytes([version]) + b"xy" + tcpmsg.pki_req(GENM))
    assert frame == Frame(OLD, version, False, b"xy")
    assert after == Frame(V10, 0, False, GENM)
    fault = tcpmsg.refusal(frame)
    assert fault is not None
    assert fault.encode()[4] == 6


@pytest.mark.parametrize(
    ("head", "framing", "error"),
    [
        ("00000000 0a", V10, ErrorType.GeneralClientError),
        ("00000001 0a", V10, ErrorType.GeneralClientError),
        ("00000002 0a00", V10, ErrorType.GeneralClientError),
        ("000007d1 0a", V10, ErrorType.GeneralClientError),
        ("ffffffff 0a", V10, ErrorType.GeneralClientError),
        ("00000002 0b", V10, ErrorType.VersionNotSupported),
        ("000007d1 0b", V10, ErrorType.VersionNotSupported),
        ("00000000 00", OLD, ErrorType.GeneralClientError),
        ("000007d1 05", OLD, ErrorType.GeneralClientError),
        ("00000000 09", OLD, ErrorType.GeneralClientError),
    ],
)
def test_length_that_cannot_be_is_refused_on_the_head_alone(head: str, framing: Framing, error: ErrorType) -> None:
    for before in (b"", tcpmsg.pki_req(b"x")):
        *_, fault = decode(before + octets(head) + tcpmsg.pki_req(GENM))
        assert isinstance(fault, Fault)
        assert (fault.framing, fault.error, fault.close, fault.lost) == (framing, error, True, True)
        assert len(decode(before + octets(head)[:4])) == bool(before)


def test_largest_length_is_taken() -> None:
    assert one(tcpmsg.pki_req(bytes(LIMIT - 3))) == Frame(V10, 0, False, bytes(LIMIT - 3))
    assert one(tcpmsg.pki_req(bytes(LIMIT - 1), OLD)) == Frame(OLD, 0, False, bytes(LIMIT - 1))
    assert one(tcpmsg.message(V10, 0, b"")) == Frame(V10, 0, False, b"")
    assert one(tcpmsg.message(OLD, 0, b"")) == Frame(OLD, 0, False, b"")


@pytest.mark.parametrize("limit", [2, 0x10000001, -1])
def test_limit_outside_its_range_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="want 3"):
        Decoder(limit)


def test_a_frame_too_long_makes_no_buffer_grow() -> None:
    decoder = Decoder(LIMIT)
    decoder.feed(octets("000007d1") + b"\x0a" + bytes(100_000))
    assert isinstance(decoder.next(), Fault)
    decoder.feed(bytes(100_000))
    assert decoder.next() is None
    assert decoder.held == 0


# --- other protocols --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "protocol"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"POST /pkix/ HTTP/1.0\r\n", "HTTP"),
        (b"PUT /x", "HTTP"),
        (b"HEAD /", "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (octets("16030102000100 01fc0303"), "TLS"),
        (octets("1603030200010001fc0303"), "TLS"),
        (GENM, "DER"),
        (octets("3081f0 3047020102"), "DER"),
        (octets("30820612 3082012f 020102"), "DER"),
        (octets("3083010612 3082012f 020102"), "DER"),
    ],
)
def test_other_protocol_is_told_apart(start: bytes, protocol: str) -> None:
    for limit in (LIMIT, tcpmsg.MAX_LIMIT):
        assert decode(start, limit) == [Foreign(protocol)]
    assert decode_parts([start[i : i + 1] for i in range(len(start))]) == [Foreign(protocol)]


@pytest.mark.parametrize("start", ["3080300000", "308206120a", "3085010612", "30000a0000", "1604010200", "1601030100"])
def test_what_only_resembles_another_protocol_is_a_fault(start: str) -> None:
    (fault,) = decode(octets(start))
    assert isinstance(fault, Fault)


def test_other_protocols_are_looked_for_at_the_start_alone() -> None:
    frame, fault = decode(tcpmsg.pki_req(GENM) + b"GET / HTTP/1.1\r\n")
    assert isinstance(frame, Frame)
    assert isinstance(fault, Fault)


# --- splits and hostile octets ----------------------------------------------------------------------------------------

VALUES = st.binary(max_size=60)
GOOD = st.builds(tcpmsg.message, st.sampled_from(Framing), st.integers(0, 6), VALUES, close=st.booleans()) | st.builds(
    lambda v, f: octets("000000") + bytes([len(f) + 3, v, 0, 0]) + f, st.integers(11, 255), VALUES
)
TAIL = (
    st.sampled_from([b"", octets("00000001 0a"), octets("ffffffff0a01"), b"\0\0", octets("000000100a00")]) | st.binary()
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)]


@given(st.lists(GOOD, max_size=12), TAIL, st.lists(st.integers(0, 900), max_size=30))
def test_any_split_of_any_sequence_gives_the_same_events(frames: list[bytes], tail: bytes, places: list[int]) -> None:
    data = b"".join(frames) + tail
    whole = decode(data)
    assert len(whole) >= len(frames)
    assert decode_parts(cut(data, places)) == whole
    assert decode_parts([data[i : i + 1] for i in range(len(data))]) == whole


@given(st.lists(st.tuples(st.sampled_from(Framing), st.integers(0, 6), st.booleans(), VALUES), min_size=1, max_size=12))
def test_what_is_written_is_read_again(messages: list[tuple[Framing, int, bool, bytes]]) -> None:
    data = b"".join(tcpmsg.message(f, k, v, close=c) for f, k, c, v in messages)
    assert decode(data) == [Frame(f, k, c and f is V10, v) for f, k, c, v in messages]


def test_frames_that_were_not_asked_for_yet_survive_the_next_feed() -> None:
    decoder = Decoder(LIMIT)
    data = tcpmsg.pki_req(b"a") + tcpmsg.pki_req(b"b", OLD) + tcpmsg.pki_req(b"c")
    decoder.feed(data[:20])
    assert decoder.next() == Frame(V10, 0, False, b"a")
    decoder.feed(data[20:])
    assert decoder.next() == Frame(OLD, 0, False, b"b")
    assert decoder.next() == Frame(V10, 0, False, b"c")
    assert decoder.next() is None
    assert not decoder.partial
    assert decoder.held == 0


def test_ten_thousand_random_octet_strings_give_events_and_nothing_else() -> None:
    source = random.Random(829)
    kinds = set()
    for _ in range(10_000):
        size = source.choice((0, 1, 2, 3, 7, 20, 60))
        head = (0).to_bytes(3, "big") if source.random() < 0.8 else b""
        data = head + source.randbytes(size) + bytes([source.randrange(16)]) + source.randbytes(20)
        events = decode(data)
        assert decode_parts(cut(data, [source.randrange(60) for _ in range(4)])) == events
        for event in events:
            kinds.add(type(event))
            if isinstance(event, Frame):
                fault = tcpmsg.refusal(event)
                assert fault is None or one(fault.encode())
                try:
                    kinds.add(type(tcpmsg.reply(event)))
                except ReplyError:
                    kinds.add(ReplyError)
            elif isinstance(event, Fault):
                assert isinstance(one(event.encode()), Frame)
    assert {Frame, Fault, ReplyError, PkiRep} <= kinds


def test_with_close_changes_the_close_bit_alone() -> None:
    assert tcpmsg.with_close(tcpmsg.pki_rep(V10, b"x")) == tcpmsg.pki_rep(V10, b"x", close=True)
    assert tcpmsg.with_close(tcpmsg.pki_rep(V10, b"x", close=True)) == tcpmsg.pki_rep(V10, b"x", close=True)
    assert tcpmsg.with_close(tcpmsg.pki_rep(OLD, b"xyz")) == tcpmsg.pki_rep(OLD, b"xyz")


def test_polling_reference_0_is_never_handed_out() -> None:
    with pytest.raises(ValueError, match="polling reference"):
        tcpmsg.poll_rep(V10, 0, 60)
