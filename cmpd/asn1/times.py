"""Times in the forms of X.680 sections 46 and 47 that are not DER: what old clients put into messageTime.

RFC 9810 section 5.2.9 wants a GeneralizedTime YYYYMMDDHHMMSSZ, which `der.generalized_time` reads. UTCTime, fractions,
offsets, and times without minutes, seconds or zone are read here, for doors that take them; nothing is ever written so.
"""

import calendar
import re
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError

_DAY = rb"(?P<month>\d\d)(?P<day>\d\d)(?P<hour>\d\d)"
_ZONE = rb"(?P<zone>Z|[+-]\d\d(?:\d\d)?)"
_FORMS: Final = {
    der.UTC_TIME: re.compile(rb"(?P<year>\d\d)" + _DAY + rb"(?P<minute>\d\d)(?P<second>\d\d)?" + _ZONE),
    der.GENERALIZED_TIME: re.compile(
        rb"(?P<year>\d{4})"
        + _DAY
        + rb"(?:(?P<minute>\d\d)(?P<second>\d\d)?)?(?:[.,](?P<fraction>\d{1,18}))?"
        + _ZONE
        + b"?"
    ),
}


def any_time(data: bytes, tag: int, start: int, stop: int, noun: str) -> int:
    """Unix time, rounded down, of a UTCTime or GeneralizedTime (by `tag`) with contents [start, stop).

    A year of two digits is 1950 to 2049, and what names no zone is UTC. DerError if it is no time at all.
    """
    form = _FORMS.get(tag)
    found = form.fullmatch(data, start, stop) if form is not None else None
    if found is None:
        raise DerError(f"{noun}: want a GeneralizedTime YYYYMMDDHHMMSSZ, have another value")
    said = found.groupdict()
    year, month, day, hour, minute, second = (
        int(said[part] or 0) for part in ("year", "month", "day", "hour", "minute", "second")
    )
    if tag == der.UTC_TIME:
        year += 1900 if year >= 50 else 2000
    if year == 0 or not 1 <= month <= 12 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise DerError(f"{noun}: want a day of the calendar, have another")
    if hour > 23 or minute > 59 or second > 59:
        raise DerError(f"{noun}: want a time of day, have another")
    whole = calendar.timegm((year, month, day, hour, minute, second))
    return whole + _fraction(said) - _offset(said["zone"], noun)


def _fraction(said: dict[str, bytes | None]) -> int:
    """Whole seconds in a fraction of the smallest unit that is there."""
    digits = said.get("fraction")
    if not digits:
        return 0
    unit = 1 if said["second"] else 60 if said["minute"] else 3600
    return int(unit * int(digits) // 10 ** len(digits))


def _offset(zone: bytes | None, noun: str) -> int:
    """Seconds that local time is ahead of UTC."""
    if zone is None or zone == b"Z":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:] or b"0")
    if hours > 23 or minutes > 59:
        raise DerError(f"{noun}: want an offset below 24 hours, have another")
    return (3600 * hours + 60 * minutes) * (-1 if zone[:1] == b"-" else 1)
