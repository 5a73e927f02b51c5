"""The life of a certificate as a table: what may follow what, through which event. Pure; a missing key is refused."""

from enum import StrEnum
from typing import Final

from cmpd.records import CertificateState as State


class Event(StrEnum):
    """What happens to a certificate."""

    SIGN = "sign"  # signed; certConf is awaited
    SIGN_CONFIRMED = "sign confirmed"  # signed, with implicit confirmation granted
    CONFIRM = "confirm"  # accepted by certConf
    REJECT = "reject"  # rejected by certConf, or an error message from the client
    LAPSE = "lapse"  # no certConf in time
    ABANDON = "abandon"  # the process ended between intent and record


NEXT: Final[dict[tuple[State, Event], State]] = {
    (State.INTENDED, Event.SIGN): State.ISSUED,
    (State.INTENDED, Event.SIGN_CONFIRMED): State.CONFIRMED,
    (State.INTENDED, Event.ABANDON): State.ABANDONED,
    (State.ISSUED, Event.CONFIRM): State.CONFIRMED,
    (State.ISSUED, Event.REJECT): State.REVOKED,
    (State.ISSUED, Event.LAPSE): State.REVOKED,
}
