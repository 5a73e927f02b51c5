"""rr (RFC 9810 sections 5.3.9 and 5.3.10, RFC 9483 sections 4.2 and 5.1.3): this file only arranges.

Each RevDetails is judged by itself: is it about a certificate of ours, may this requester change its status
(authority.py), is it the certificate that is meant, and what does the wish do to it (status.py)? That somebody may not
is said before anything about the certificate is, but for its not being there. All that is granted becomes durable in
one unit with the transaction, which ends at once, and with the answer.

A repeated rr is decided anew, and then its transactionID is taken, so that it gets the answer from before
(responder.py); the certificate that it revoked may have signed it.
"""

from collections.abc import Sequence
from typing import Final

from cmpd import audit
from cmpd.asn1 import der
from cmpd.asn1.names import name_text, same_name
from cmpd.authority import Circumstances, acts_as_ra, check_fits, check_may_change, needs_owner
from cmpd.changes import MoveCertificate, OpenTransaction
from cmpd.errors import BadCertId, BadCertTemplate, BadDataFormat, BadRequest, CmpError, WrongAuthority
from cmpd.frozen import frozen
from cmpd.handlers.base import Context, Reply
from cmpd.lifecycle import Event
from cmpd.message import BODY_TYPES, ID_IT_REV_PASSPHRASE, Envelope
from cmpd.policy import check_expiry
from cmpd.protection.base import VerifiedRequest
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    Requester,
)
from cmpd.replies import RevResult, rev_rep_body
from cmpd.rev_requests import MAX_SERIAL, RevDetails, read_rev_req_content
from cmpd.status import Wish, decide, is_held_by_operator
from cmpd.strictness import RULES

_NEVER_ISSUED: Final = frozenset({CertificateState.INTENDED, CertificateState.ABANDONED})
_CREDENTIAL: Final = 28  # characters of a credential in a record


@frozen
class _Decision:
    """One RevDetails and what became of it: a change with its event, or the fault that its rejection carries."""

    details: RevDetails
    change: MoveCertificate | None = None
    event: Event | None = None
    fault: CmpError | None = None

    @property
    def result(self) -> RevResult:
        """What the answer says of it."""
        unused = self.details.unused
        text = f"accepted; crlEntryDetails: not used: {', '.join(unused)}" if unused else ""
        serial = self.details.serial
        if serial is not None and len(serial) > MAX_SERIAL:  # no certificate's: not worth to be said again, and kept
            serial = None
        return RevResult(self.details.issuer, serial, text, self.fault)


def check_may_be_mac(verified: VerifiedRequest, strict: bool) -> None:
    """WrongIntegrity for an rr under a MAC, but by whoever was given the right to revoke so (RFC 9810 appendix B)."""
    requester = verified.requester
    entitled = requester.passphrase is not None or requester.entity.may_revoke or requester.entity.is_ra
    kept = verified.envelope.body_name != "rr" or requester.certificate is not None or entitled
    RULES["an rr is signed, or its secret was given the right to revoke"].hold(
        strict, kept, "rr: want a signature by the certificate to be revoked, have a MAC"
    )


def changes_status(request: Envelope) -> bool:
    """Whether a request would change the status of certificates, or who may change it."""
    if request.body_name == "genm" and ID_IT_REV_PASSPHRASE in request.body:
        return True
    return request.body_name == "rr" or request.header.info(ID_IT_REV_PASSPHRASE) is not None


async def handle(context: Context) -> Reply:
    """The answer to an rr: rp. StoreConflict and StaleRead are the responder's to handle."""
    decisions = await _decide_all(context)
    changes = [decision.change for decision in decisions if decision.change is not None]
    return Reply(
        BODY_TYPES["rp"],
        rev_rep_body([decision.result for decision in decisions], named=not context.strict),
        # Also what was refused may not come again later, when it would be granted.
        (OpenTransaction(context.transaction(keeps_id=context.may_be_granted)), *changes),
        after_write=lambda: _tell(context, decisions),
    )


def _tell(context: Context, decisions: Sequence[_Decision]) -> None:
    """The audit log, and who publishes the status of certificates."""
    if any(decision.change is not None for decision in decisions):
        context.service.status_changed()
    reference = context.request.requester.entity.reference
    for decision in decisions:
        change = decision.change
        if decision.fault is not None:
            audit.request_rejected("rr", context.transaction_id, reference, decision.fault)
        elif change is not None and decision.event is Event.SUSPEND:
            audit.certificate_suspended(change.serial, change.by)
        elif change is not None and decision.event is Event.RESUME:
            audit.certificate_resumed(change.serial, change.by)
        elif change is not None:
            audit.certificate_revoked(change.serial, change.reason or "", change.by)


# --- deciding ------------------------------------------------------------------------------------------------------


async def _decide_all(context: Context) -> list[_Decision]:
    """A body that cannot be read is one rejection in an rp (RFC 9483 section 3.6.2)."""
    try:
        limit = context.service.revocation.max_per_message
        items = read_rev_req_content(context.request.envelope.body, limit, strict=context.strict)
    except CmpError as fault:
        return [_Decision(RevDetails(), fault=fault)]
    judge = _Judge(context)
    return [await judge.decide(details) for details in items]


class _Judge:
    """Decides the RevDetails of one message, one after the other; remembers what they have in common."""

    def __init__(self, context: Context) -> None:
        self._service = context.service
        self._requester = context.request.requester
        self._by = _who(self._requester)
        self._named: set[bytes] = set()
        self._other_ras: frozenset[bytes] | None = None

    async def decide(self, details: RevDetails) -> _Decision:
        """What becomes of one RevDetails."""
        wish = Wish(details.reason, details.invalidity_date)
        now = self._service.env.now()
        try:
            record = await self._find(details)
            check_expiry(self._requester, now)
            check_may_change(self._requester, record, wish.event, await self._circumstances(record))
            check_fits(details.template, record.der or b"")
            change = decide(record, wish, now, self._by)
            self._named.add(record.serial)
        except CmpError as fault:
            return _Decision(details, fault=fault)
        return _Decision(details, change, wish.event)

    async def _find(self, details: RevDetails) -> CertificateRecord:
        """The record of the certificate that is named: one of ours, that was issued, and for the first time here."""
        serial = _check_named(details, self._service.ca.name)
        if serial in self._named:
            raise BadRequest("certDetails: want each certificate once in a message, have it named before")
        size = len(serial)
        record = None
        if size <= MAX_SERIAL and der.integer(serial, 0, size, "serialNumber") > 0:
            record = await self._service.store.find_certificate(serial)
        if record is None or record.state in _NEVER_ISSUED:
            raise BadCertId("certDetails.serialNumber: want that of a certificate of this CA, have another")
        return record

    async def _circumstances(self, record: CertificateRecord) -> Circumstances:
        requester, store = self._requester, self._service.store
        return Circumstances(
            owner=await store.find_entity_by_id(record.entity_id) if needs_owner(requester, record) else None,
            other_ra=acts_as_ra(requester) and record.der in await self._certificates_of_other_ras(),
            held_by_operator=is_held_by_operator(record),
            default_profile=self._service.enrolment.default_profile,
            resumes_itself=self._service.revocation.suspended_may_resume_itself,
        )

    async def _certificates_of_other_ras(self) -> frozenset[bytes]:
        """What is registered for RAs but the requester; one that is disabled is an RA no more."""
        if self._other_ras is None:
            entities = await self._service.store.list_entities(with_certificate=True)
            others = [e for e in entities if e.is_ra and not e.disabled and e.id != self._requester.entity.id]
            self._other_ras = frozenset(e.certificate for e in others if e.certificate is not None)
        return self._other_ras


def _check_named(details: RevDetails, ca_name: bytes) -> bytes:
    """The serial number of a RevDetails that can be read, names a certificate, and does so as one of this CA."""
    if details.fault is not None:
        raise details.fault
    missing = [n for n, value in (("issuer", details.issuer), ("serialNumber", details.serial)) if value is None]
    if details.issuer is None or details.serial is None:
        raise BadCertTemplate(f"certDetails: want issuer and serialNumber, have no {' and no '.join(missing)}")
    if not same_name(details.issuer, ca_name):
        raise WrongAuthority(f"certDetails.issuer: want {name_text(ca_name)}, which is this CA, have another")
    if details.certificate_issuer is not None and not _is_directory_name(details.certificate_issuer, ca_name):
        raise WrongAuthority(f"certificateIssuer: want {name_text(ca_name)}, which is this CA, have another")
    return details.serial


def _is_directory_name(names: bytes, wanted: bytes) -> bool:
    """Whether GeneralNames (DER) are one directoryName, this one (DER of a Name)."""
    _, start, stop = der.header(names, 0, len(names))
    values = der.children(names, start, stop)
    if len(values) != 1 or values[0][0] != 0xA4:
        return False
    try:
        return same_name(names[values[0][2] : values[0][3]], wanted)
    except der.DerError as fault:
        raise BadDataFormat(f"certificateIssuer: {fault}") from None


def _who(requester: Requester) -> str:
    """Who asks, for the records: the entity, and the beginning of the credential's name."""
    return f"entity {requester.entity.reference!r} (rr, {requester.credential[:_CREDENTIAL]})"
