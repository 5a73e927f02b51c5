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
    REVOKE = "revoke"  # for good: rr or an operator, any reason but the next two
    SUSPEND = "suspend"  # reason certificateHold
    RESUME = "resume"  # reason removeFromCRL


NEXT: Final[dict[tuple[State, Event], State]] = {
    (State.INTENDED, Event.SIGN): State.ISSUED,
    (State.INTENDED, Event.SIGN_CONFIRMED): State.CONFIRMED,
    (State.INTENDED, Event.ABANDON): State.ABANDONED,
    (State.ISSUED, Event.CONFIRM): State.CONFIRMED,
    (State.ISSUED, Event.REJECT): State.REVOKED,
    (State.ISSUED, Event.LAPSE): State.REVOKED,
    (State.ISSUED, Event.REVOKE): State.REVOKED,
    (State.CONFIRMED, Event.REVOKE): State.REVOKED,
    (State.CONFIRMED, Event.SUSPEND): State.SUSPENDED,
    (State.SUSPENDED, Event.REVOKE): State.REVOKED,
    (State.SUSPENDED, Event.RESUME): State.CONFIRMED,
}

_ENDS_BY_TIME: Final = frozenset({State.ISSUED, State.CONFIRMED, State.SUSPENDED})


def state_at(state: State, not_after: int, now: float) -> State:
    """The state at a time: EXPIRED after notAfter, unless it was revoked before (or was never issued)."""
    return State.EXPIRED if state in _ENDS_BY_TIME and now >= not_after + 1 else state
