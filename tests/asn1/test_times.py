"""Times in forms that are not DER: read by what X.680 says of them, held against datetime."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.asn1.times import any_time

UTC = datetime.UTC
MOMENTS = st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2049, 12, 31))
OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59)


def read(tag: int, text: str) -> int:
    return any_time(text.encode(), tag, 0, len(text), "messageTime")


def zone(minutes: int, short: bool) -> str:
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02}" + ("" if short and not rest else f"{rest:02}")


@given(MOMENTS, OFFSETS, st.booleans(), st.booleans())
def test_an_offset_is_taken_off(when: datetime.datetime, minutes: int, short: bool, two_digits: bool) -> None:
    wanted = int(when.replace(microsecond=0, tzinfo=UTC).timestamp()) - 60 * minutes
    tag, form = (der.UTC_TIME, "%y%m%d%H%M%S") if two_digits else (der.GENERALIZED_TIME, "%Y%m%d%H%M%S")
    assert read(tag, when.strftime(form) + zone(minutes, short)) == wanted


@given(st.datetimes(), st.sampled_from((".", ",")), st.sampled_from(("", "Z")))
def test_a_fraction_of_a_second_is_dropped(when: datetime.datetime, point: str, end: str) -> None:
    text = f"{when:%Y}".zfill(4) + f"{when:%m%d%H%M%S}{point}{when:%f}{end}"
    assert read(der.GENERALIZED_TIME, text) == int(when.replace(microsecond=0, tzinfo=UTC).timestamp())


@given(st.datetimes(), st.integers(0, 9))
def test_a_fraction_counts_for_the_last_unit_that_is_there(when: datetime.datetime, tenths: int) -> None:
    year = f"{when:%Y}".zfill(4)
    hour = when.replace(minute=0, second=0, microsecond=0, tzinfo=UTC).timestamp()
    minute = when.replace(second=0, microsecond=0, tzinfo=UTC).timestamp()
    assert read(der.GENERALIZED_TIME, f"{year}{when:%m%d%H}.{tenths}Z") == hour + 360 * tenths
    assert read(der.GENERALIZED_TIME, f"{year}{when:%m%d%H%M}.{tenths}Z") == minute + 6 * tenths


@given(MOMENTS)
def test_what_is_der_is_read_alike(when: datetime.datetime) -> None:
    text = when.strftime("%Y%m%d%H%M%SZ").encode()
    assert read(der.GENERALIZED_TIME, text.decode()) == der.generalized_time(text, 0, len(text), "messageTime")
    text = when.strftime("%y%m%d%H%M%SZ").encode()
    assert read(der.UTC_TIME, text.decode()) == der.utc_time(text, 0, len(text), "messageTime")


DIGITS = st.text("0123456789Z+-., ", max_size=45).map(str.encode)


@given(st.sampled_from((der.UTC_TIME, der.GENERALIZED_TIME, der.INTEGER)), st.binary(max_size=45) | DIGITS)
def test_any_octets_are_a_time_or_raise_a_der_error(tag: int, octets: bytes) -> None:
    try:
        when = any_time(octets, tag, 0, len(octets), "messageTime")
    except der.DerError as fault:
        assert str(fault).startswith("messageTime: want ")  # noqa: PT017
    else:
        assert abs(when) < 1 << 40


@pytest.mark.parametrize("text", ["20250615150640Z", "250615150640Z"])
def test_only_what_is_inside_is_read(text: str) -> None:
    octets = b"9" + text.encode() + b"9"
    tag = der.UTC_TIME if len(text) == 13 else der.GENERALIZED_TIME
    assert any_time(octets, tag, 1, len(octets) - 1, "messageTime") == 1_749_999_999 + 1
