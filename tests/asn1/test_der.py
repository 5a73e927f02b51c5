"""The reader and writer of DER: each against the other, against asn1crypto and pyasn1, and against hostile octets."""

import calendar
import datetime
import time
from collections.abc import Callable

import pytest
from asn1crypto import core, x509
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der.encoder import encode
from pyasn1.type import univ

from cmpd.asn1 import der

INTEGERS = st.integers(-(2**200), 2**200) | st.sampled_from((-129, -128, -1, 0, 127, 128, 255, 256, 2**63, -(2**63)))
ARCS = st.tuples(st.integers(0, 1), st.integers(0, 39)) | st.tuples(st.just(2), st.integers(0, 2**40))
OIDS = st.builds(
    lambda first, rest: ".".join(map(str, (*first, *rest))), ARCS, st.lists(st.integers(0, 2**40), max_size=6)
)
YEAR_1000 = calendar.timegm((1000, 1, 1, 0, 0, 0))
YEAR_1950 = calendar.timegm((1950, 1, 1, 0, 0, 0))
YEAR_2050 = calendar.timegm((2050, 1, 1, 0, 0, 0))
YEAR_10000 = calendar.timegm((9999, 12, 31, 23, 59, 59)) + 1


def contents(octets: bytes, tag: int) -> tuple[bytes, int, int]:
    """The arguments that read the one value in `octets`, wherever it lies in a larger buffer."""
    start, stop = der.expect(b"??" + octets + b"!", 2, 2 + len(octets), tag, "noun")
    assert stop == 2 + len(octets)
    return b"??" + octets + b"!", start, stop


def reads(octets: bytes) -> bytes:
    der.check(octets, 0, len(octets))
    return octets


# --- round trips -----------------------------------------------------------------------------------------------------


@given(INTEGERS)
def test_an_integer_comes_back(value: int) -> None:
    octets = reads(der.encode_integer(value))
    assert octets == core.Integer(value).dump()
    assert der.integer(*contents(octets, der.INTEGER), "noun") == value


@given(st.binary(max_size=300))
def test_octets_come_back(value: bytes) -> None:
    octets = reads(der.encode_octets(value))
    data, start, stop = contents(octets, der.OCTET_STRING)
    assert data[start:stop] == value
    assert octets == core.OctetString(value).dump()


@given(st.binary(max_size=300))
def test_whole_octets_of_a_bit_string_come_back(value: bytes) -> None:
    octets = reads(der.encode_bits(value))
    assert der.octet_aligned(*contents(octets, der.BIT_STRING), "noun") == value


@given(st.sets(st.integers(0, 40)))
def test_named_bits_are_those_of_another_codec(bits: set[int]) -> None:
    octets = reads(der.encode_named_bits(*bits))
    theirs = univ.BitString(tuple(int(bit in bits) for bit in range(max(bits, default=-1) + 1)))
    assert octets == bytes(encode(theirs))


@given(st.booleans())
def test_a_boolean_comes_back(value: bool) -> None:
    assert der.boolean(*contents(reads(der.encode_boolean(value)), der.BOOLEAN), "noun") is value


@given(st.text())
def test_a_text_comes_back(value: str) -> None:
    data, start, stop = contents(reads(der.encode_utf8(value)), der.UTF8_STRING)
    assert data[start:stop].decode() == value


@given(OIDS)
def test_an_object_identifier_comes_back(value: str) -> None:
    octets = der.encode_oid(value)
    assert octets == bytes(encode(univ.ObjectIdentifier(value)))
    data, start, stop = contents(reads(octets), der.OID)
    der.check_oid(data, start, stop, "noun")
    assert der.dotted(data[start:stop]) == value


@given(st.integers(YEAR_1000, YEAR_10000 - 1), st.floats(0, 0.999))
def test_a_generalized_time_comes_back_in_whole_seconds(when: int, fraction: float) -> None:
    assert der.generalized_time(*contents(reads(der.encode_generalized_time(when)), 0x18), "noun") == when
    if abs(when) < 2**40:
        assert der.encode_generalized_time(when + fraction) == der.encode_generalized_time(when)


@given(st.integers(YEAR_1000, YEAR_10000 - 1))
def test_a_time_is_utc_time_exactly_from_1950_through_2049(when: int) -> None:
    octets = reads(der.encode_time(when))
    if YEAR_1950 <= when < YEAR_2050:
        assert der.utc_time(*contents(octets, der.UTC_TIME), "noun") == when
    else:
        assert der.generalized_time(*contents(octets, der.GENERALIZED_TIME), "noun") == when
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=when)
    assert x509.Time.load(octets).native == moment


@pytest.mark.parametrize(
    ("when", "tag"),
    [(YEAR_1950 - 1, 0x18), (YEAR_1950, 0x17), (0, 0x17), (YEAR_2050 - 1, 0x17), (YEAR_2050, 0x18)],
)
def test_the_type_of_a_time_changes_at_the_borders(when: int, tag: int) -> None:
    assert der.encode_time(when)[0] == tag


@given(st.lists(st.binary(max_size=200).map(der.encode_octets), max_size=8))
def test_the_children_of_a_sequence_come_back(parts: list[bytes]) -> None:
    data, start, stop = contents(reads(der.seq(*parts)), der.SEQUENCE)
    found = der.children(data, start, stop)
    assert [data[pos:after] for _, pos, _, after in found] == parts
    assert all(tag == der.OCTET_STRING and data[inner:after] in data[pos:after] for tag, pos, inner, after in found)


@given(st.integers(0, 30), st.binary(max_size=50))
def test_an_explicit_tag_comes_back(number: int, value: bytes) -> None:
    inside = der.encode_octets(value)
    octets = reads(der.explicit(number, inside))
    tag, start, stop = der.header(octets, 0, len(octets))
    assert (tag, octets[start:stop]) == (0xA0 | number, inside)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536, 2**24 - 1, 2**24])
def test_a_length_is_written_in_the_fewest_octets(size: int) -> None:
    value = bytes(size)
    octets = der.tlv(der.OCTET_STRING, value)
    assert octets == core.OctetString(value).dump()
    assert der.header(octets, 0, len(octets)) == (der.OCTET_STRING, len(octets) - size, len(octets))


# --- strictness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"", "cut off in its header"),
        (b"\x30", "cut off in its header"),
        (b"\x1f\x01\x00", "tag numbers above 30"),
        (b"\x30\x80", "indefinite"),
        (b"\x30\x81", "cut off in its length"),
        (b"\x30\x82\x01", "cut off in its length"),
        (b"\x30\x81\x7f" + bytes(127), "fewest octets"),
        (b"\x30\x82\x00\x80" + bytes(128), "fewest octets"),
        (b"\x30\x85\x00\x00\x00\x00\x01\x00", "more than 4 octets"),
        (b"\x30\xff", "more than 4 octets"),
        (b"\x30\x01", "longer than what contains it"),
        (b"\x30\x84\xff\xff\xff\xff", "longer than what contains it"),
    ],
)
def test_a_header_that_is_not_der_is_refused(octets: bytes, text: str) -> None:
    with pytest.raises(der.DerError, match=text):
        der.header(octets, 0, len(octets))


def test_a_header_does_not_look_beyond_its_end() -> None:
    octets = b"\x04\x81\x80" + bytes(128)
    for end in range(len(octets)):
        with pytest.raises(der.DerError):
            der.header(octets, 0, end)
    assert der.header(octets, 0, len(octets)) == (4, 3, 131)


def test_expect_names_what_is_missing_and_what_was_found() -> None:
    with pytest.raises(der.DerError, match=r"^salt: want it, have none$"):
        der.expect(b"\x04\x00", 2, 2, der.OCTET_STRING, "salt")
    with pytest.raises(der.DerError, match=r"^salt: want tag 04, have 05$"):
        der.expect(b"\x05\x00", 0, 2, der.OCTET_STRING, "salt")


@pytest.mark.parametrize("octets", [b"", b"\x00\x00", b"\x00\x7f", b"\xff\xff", b"\xff\x80"])
def test_an_integer_that_is_not_der_is_refused(octets: bytes) -> None:
    with pytest.raises(der.DerError):
        der.integer(octets, 0, len(octets), "noun")
    with pytest.raises(der.DerError):
        reads(der.tlv(der.INTEGER, octets))


def test_an_integer_may_have_so_many_octets_and_no_more() -> None:
    assert der.integer(b"\x7f" * 32, 0, 32, "noun") > 0
    with pytest.raises(der.DerError, match="more than 32"):
        der.integer(b"\x7f" * 33, 0, 33, "noun")
    assert der.integer(b"\x7f" * 2, 0, 2, "noun", octets=2) == 0x7F7F
    with pytest.raises(der.DerError, match="more than 2 "):
        der.integer(b"\x7f" * 3, 0, 3, "noun", octets=2)


@pytest.mark.parametrize("octets", [b"", b"\x01", b"\xfe", b"\xff\xff"])
def test_a_boolean_that_is_not_der_is_refused(octets: bytes) -> None:
    with pytest.raises(der.DerError):
        der.boolean(octets, 0, len(octets), "noun")


@pytest.mark.parametrize("octets", [b"", b"\x01\x80", b"\x08"])
def test_a_bit_string_of_no_whole_octets_is_refused(octets: bytes) -> None:
    with pytest.raises(der.DerError):
        der.octet_aligned(octets, 0, len(octets), "noun")


TIMES: list[tuple[bytes, Callable[..., int]]] = [
    *((text, der.generalized_time) for text in (b"", b"Z", b"20300102030405", b"2030010203Z", b"203001020304Z")),
    *((text, der.generalized_time) for text in (b"20300102030405.5Z", b"20300102030405+0100", b"20300102030405z")),
    *((text, der.generalized_time) for text in (b"20300002030405Z", b"20301302030405Z", b"20300100030405Z")),
    *((text, der.generalized_time) for text in (b"20300230030405Z", b"20290229030405Z", b"00000101000000Z")),
    *((text, der.generalized_time) for text in (b"20300102240000Z", b"20300102236000Z", b"20300102235960Z")),
    *((text, der.generalized_time) for text in (b"2030010203040-Z", b"+0300102030405Z", b"2030 102030405Z")),
    *((text, der.utc_time) for text in (b"", b"3001020304Z", b"300102030405", b"20300102030405Z", b"300231000000Z")),
    *((text, der.utc_time) for text in (b"300102030405+0000", b"300102246060Z", b"\xb2300102030405Z")),
]


@pytest.mark.parametrize(("text", "read"), TIMES)
def test_a_time_that_is_not_der_is_refused(text: bytes, read: Callable[..., int]) -> None:
    with pytest.raises(der.DerError):
        read(text, 0, len(text), "noun")


def test_two_digits_of_a_year_turn_at_1950() -> None:
    assert der.utc_time(b"500101000000Z", 0, 13, "noun") == YEAR_1950
    assert der.utc_time(b"491231235959Z", 0, 13, "noun") == YEAR_2050 - 1
    assert der.generalized_time(b"20280229000000Z", 0, 15, "noun") == calendar.timegm((2028, 2, 29, 0, 0, 0))


@pytest.mark.parametrize("octets", [b"", b"\x80\x01", b"\x2a\x80\x01", b"\x2a\x81", b"\x81", b"\x2a" * 65])
def test_an_object_identifier_that_is_not_der_is_refused(octets: bytes) -> None:
    with pytest.raises(der.DerError):
        der.check_oid(octets, 0, len(octets), "noun")
    with pytest.raises(der.DerError):
        reads(der.tlv(der.OID, octets))


def test_an_object_identifier_may_have_a_zero_octet_inside_an_arc() -> None:
    octets = der.encode_oid("1.2.2097152")  # 81 80 80 00
    assert octets == b"\x06\x05\x2a\x81\x80\x80\x00"
    reads(octets)


def test_more_children_than_the_limit_are_refused() -> None:
    octets = der.NULL_TLV * 5
    assert len(der.children(octets, 0, len(octets), 5)) == 5
    with pytest.raises(der.DerError, match="more than 4 values"):
        der.children(octets, 0, len(octets), 4)


# --- check -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets",
    [
        b"\x00\x00",
        b"\x24\x00",
        b"\x2c\x02\x0c\x00",
        b"\x10\x00",
        b"\x09\x00",
        b"\x01\x01\x01",
        b"\x05\x01\x00",
        b"\x02\x00",
        b"\x0a\x02\x00\x01",
        b"\x03\x00",
        b"\x03\x01\x01",
        b"\x03\x02\x08\x00",
        b"\x03\x02\x01\x01",
        b"\x0c\x01\xff",
        b"\x0c\x02\xc0\x80",
        b"\x30\x03\x05\x00\x05",
        b"\x30\x02\x04\x01",
        b"\x30\x80\x00\x00",
        b"\xa0\x03\x02\x01",
        b"\x05\x00\x05",
    ],
    ids=bytes.hex,
)
def test_check_refuses(octets: bytes) -> None:
    with pytest.raises(der.DerError):
        reads(octets)


@pytest.mark.parametrize(
    "octets",
    [b"", b"\x05\x00\x05\x00", b"\x80\x00", b"\xa0\x00", b"\x81\x01\x00", b"\x41\x00", b"\x1b\x01x", b"\x31\x00"],
    ids=bytes.hex,
)
def test_check_accepts(octets: bytes) -> None:
    reads(octets)


def test_check_looks_at_its_range_alone() -> None:
    octets = b"\xff\x05\x00\xff"
    der.check(octets, 1, 3)
    with pytest.raises(der.DerError):
        der.check(octets, 0, 3)
    with pytest.raises(der.DerError):
        der.check(octets, 1, 4)


def nest(levels: int, inside: bytes = b"") -> bytes:
    for _ in range(levels):
        inside = der.seq(inside)
    return inside


def test_check_goes_as_deep_as_it_is_told() -> None:
    reads(nest(der.MAX_DEPTH - 1))
    with pytest.raises(der.DerError, match="deeper than 32"):
        reads(nest(der.MAX_DEPTH))
    with pytest.raises(der.DerError, match="deeper than 3"):
        der.check(nest(3), 0, 6, depth=3)
    der.check(nest(2), 0, 4, depth=3)


def test_depth_is_not_the_number_of_values_side_by_side() -> None:
    reads(der.seq(*[nest(10)] * 100))


def test_check_stops_after_as_many_values_as_it_is_told() -> None:
    octets = der.seq(der.NULL_TLV, der.NULL_TLV)
    der.check(octets, 0, len(octets), limit=3)
    with pytest.raises(der.DerError, match="too many values"):
        der.check(octets, 0, len(octets), limit=2)


def test_check_of_a_megabyte_of_hostile_octets_takes_bounded_time() -> None:
    start = time.process_time()
    for octets in (b"\x05\x00" * 1_000_000, b"\x30\x84\x7f\xff\xff\xff" * 300_000, nest(3000)):
        with pytest.raises(der.DerError):
            reads(octets)
    assert time.process_time() - start < 1.5


@given(st.binary(max_size=60))
def test_any_octets_are_der_or_raise_a_der_error(octets: bytes) -> None:
    try:
        reads(octets)
    except der.DerError:
        return
    rebuilt = b"".join(_again(octets, *child) for child in der.children(octets, 0, len(octets)))
    assert rebuilt == octets


def _again(octets: bytes, tag: int, _: int, start: int, stop: int) -> bytes:
    if not tag & 0x20:
        return der.tlv(tag, octets[start:stop])
    return der.tlv(tag, b"".join(_again(octets, *child) for child in der.children(octets, start, stop)))


TREES = st.recursive(
    st.one_of(
        INTEGERS.map(der.encode_integer), st.binary(max_size=20).map(der.encode_octets), OIDS.map(der.encode_oid)
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: der.seq(*parts)),
    max_leaves=20,
)


@given(TREES, st.data())
def test_a_value_that_is_cut_off_anywhere_is_refused(octets: bytes, data: st.DataObject) -> None:
    reads(octets)
    end = data.draw(st.integers(1, len(octets) - 1))
    with pytest.raises(der.DerError):
        der.check(octets, 0, end)
