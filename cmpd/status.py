"""What a wish for revocation, suspension or resumption does to a certificate: the same for rr and for an operator.

CRLReason says which of the three is meant (RFC 5280 section 5.3.1): certificateHold suspends, removeFromCRL resumes,
every other reason revokes for good. No RFC on CMP says how a certificate is suspended or resumed; this is what others
do. lifecycle.py says what may follow what; a wish that it has no row for gets the answer of FAULTS. Who may wish for
what is not decided here (authority.py), but for a reason that is an operator's alone. Pure.

A wish without a reason is one for "unspecified"; that is recorded, and left out of CRLs (RFC 5280 section 5.3.1).
"""

from typing import Final

from cmpd.changes import MoveCertificate
from cmpd.errors import BadCertId, BadRequest, CertRevoked, CmpError, NotAuthorized
from cmpd.frozen import frozen
from cmpd.lifecycle import NEXT, Event, state_at
from cmpd.records import CRL_REASONS, CertificateRecord
from cmpd.records import CertificateState as State

OPERATOR: Final = "operator"
"""`by` of an operator's changes begins with it, and no other."""

_EVENTS: Final = {"certificateHold": Event.SUSPEND, "removeFromCRL": Event.RESUME}

_OPERATORS_REASONS: Final = frozenset({"cACompromise"})

_UNKNOWN: Final = (BadCertId, "this CA has issued no certificate with this serial number")
_REVOKED: Final = (CertRevoked, "the certificate is revoked already")
_EXPIRED: Final = (CertRevoked, "the certificate is expired")
_NOT_SUSPENDED: Final = (BadRequest, "removeFromCRL: the certificate is not suspended")
_UNCONFIRMED: Final = (BadRequest, "certificateHold: the certificate is not confirmed yet, it can only be revoked")
_SUSPENDED: Final = (CertRevoked, "certificateHold: the certificate is suspended already")

FAULTS: Final[dict[tuple[State, Event], tuple[type[CmpError], str]]] = {
    **{(state, event): _UNKNOWN for state in (State.INTENDED, State.ABANDONED) for event in Event},
    **{(State.REVOKED, event): _REVOKED for event in Event},
    **{(State.EXPIRED, event): _EXPIRED for event in Event},
    (State.SUSPENDED, Event.SUSPEND): _SUSPENDED,
    (State.CONFIRMED, Event.RESUME): _NOT_SUSPENDED,
    (State.ISSUED, Event.RESUME): _NOT_SUSPENDED,
    (State.ISSUED, Event.SUSPEND): _UNCONFIRMED,
}
"""Why a certificate in this state (at the time) does not do what is wished."""


@frozen
class Wish:
    """What is asked of a certificate. `reason`: a key of CRL_REASONS. `invalidity_date`: Unix seconds, any time."""

    reason: str = "unspecified"
    invalidity_date: int | None = None

    @property
    def event(self) -> Event:
        """REVOKE, SUSPEND or RESUME."""
        return _EVENTS.get(self.reason, Event.REVOKE)


def decide(record: CertificateRecord, wish: Wish, now: float, by: str) -> MoveCertificate:
    """The change that grants a wish. `by`: who wishes, for the record.

    BadRequest: the wish makes no sense (resume what is not suspended, suspend what is not confirmed). CertRevoked: the
    certificate is revoked, suspended already, or expired (RFC 9483 section 5.1.3). BadCertId: it was never issued.
    NotAuthorized: the reason is for operators alone.
    """
    _check_wish(wish, by)
    event = wish.event
    state = state_at(record.state, record.not_after, now)
    following = NEXT.get((state, event))
    if following is None or (state, event) in FAULTS:
        kind, text = FAULTS[state, event]
        raise kind(f"certDetails: {text}")
    since, invalidity_date = None, wish.invalidity_date
    if (state, event) == (State.SUSPENDED, Event.REVOKE):  # what was signed during the hold stays invalid
        since, invalidity_date = record.revoked_at, wish.invalidity_date or record.invalidity_date
    return MoveCertificate(
        record.serial, record.state, following, int(now), wish.reason, by, invalidity_date, revoked_at=since
    )


def is_held_by_operator(record: CertificateRecord) -> bool:
    """Whether a certificate is suspended, and an operator did it."""
    return record.state is State.SUSPENDED and (record.changed_by or "").startswith(OPERATOR)


def _check_wish(wish: Wish, by: str) -> None:
    if wish.reason not in CRL_REASONS:
        raise BadRequest(f"reasonCode: want one of {', '.join(CRL_REASONS)}")
    if wish.reason in _OPERATORS_REASONS and not by.startswith(OPERATOR):
        raise NotAuthorized(f"reasonCode: {wish.reason} is for the operator of the CA alone")
    if wish.invalidity_date is None:
        return
    if wish.event is Event.RESUME:
        raise BadRequest("invalidityDate: not with removeFromCRL, a resumed certificate is valid")
    if wish.invalidity_date < 0:
        raise BadRequest("invalidityDate: want 1970 or later, have an earlier one")
