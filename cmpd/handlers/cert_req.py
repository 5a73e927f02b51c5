"""ir, cr, kur and p10cr (RFC 9810 sections 5.3.1 to 5.3.6, RFC 9483 section 5.1.1): this file only arranges.

For each request in the message: key -> proof-of-possession -> policy -> profile, which gives a Grant or a rejection of
that one request. All grants of a message become intents, durable in one unit together with the transaction; then they
are signed; the certificates become durable together with the answer, which the responder writes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cmpd import audit, pop
from cmpd.changes import (
    AddCertificate,
    AddIntent,
    Change,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    ReturnUse,
    TakeUse,
)
from cmpd.controls import check_controls
from cmpd.errors import CmpError, NotAuthorized, StoreConflict
from cmpd.frozen import frozen
from cmpd.handlers.base import Context, Reply
from cmpd.lifecycle import NEXT as CERTIFICATE_NEXT
from cmpd.lifecycle import Event as CertificateEvent
from cmpd.message import BODY_TYPES, Envelope
from cmpd.outline import outline
from cmpd.policy import (
    allow,
    check_expiry,
    check_issuer,
    check_profiles,
    check_reserved,
    check_update,
    choose_profile,
    counts_as_use,
)
from cmpd.profiles import Grant, load_public_key
from cmpd.records import (
    CertificateState,
    Intent,
    TransactionState,
)
from cmpd.replies import CertResponse, cert_rep_body
from cmpd.requests import CertRequest, read_cert_req_messages, read_p10cr
from cmpd.transaction import NEXT as TRANSACTION_NEXT
from cmpd.transaction import Event as TransactionEvent

ANSWERS: Final = {"ir": "ip", "cr": "cp", "p10cr": "cp", "kur": "kup"}


@frozen
class _Decision:
    """One request and what became of it: a grant, or the fault that its rejection carries."""

    request: CertRequest
    grant: Grant | None = None
    fault: CmpError | None = None


async def handle(context: Context) -> Reply:
    """The answer to a certificate request; StoreConflict and StaleRead are the responder's to handle."""
    envelope, requester = context.request.envelope, context.request.requester
    implicit = envelope.header.implicit_confirm and context.service.enrolment.implicit_confirm
    if envelope.body_name == "kur":
        check_update(requester)
    decisions = _decide_all(context, envelope)
    intents = [_prepare(context, d.request.cert_req_id, d.grant) for d in decisions if d.grant is not None]
    if not intents:
        return _reject(context, decisions)
    try:
        await context.service.store.write(_claim(context, intents), as_of=context.as_of, rests_on=context.rests_on)
    except StoreConflict as conflict:
        if conflict.reason not in _USE_CONFLICTS:
            raise
        fault = NotAuthorized(_USE_CONFLICTS[conflict.reason])
        return _reject(context, [_Decision(d.request, fault=d.fault or fault) for d in decisions])
    context.claim.undo = lambda: _undo(context, intents)
    signed = {intent.cert_req_id: await context.service.ca.sign(intent) for intent in intents}
    return _grant(context, decisions, intents, signed, implicit=implicit)


_USE_CONFLICTS: Final = {
    "entity used up": "the requester's registration has not enough enrolments left; ask the operator for a new one",
    "entity disabled": "the requester's registration was disabled",
}


# --- deciding ------------------------------------------------------------------------------------------------------


def _decide_all(context: Context, envelope: Envelope) -> list[_Decision]:
    """A body that cannot be read is rejected in the answer of its kind (RFC 9483 section 3.6.2), under certReqId 0."""
    try:
        requests = _read(envelope, context.service.enrolment.max_requests_per_message)
    except CmpError as fault:
        cert_req_id = -1 if envelope.body_name == "p10cr" else 0
        return [_Decision(CertRequest.unreadable(cert_req_id), fault=fault)]
    profiles = check_profiles(envelope.header, len(requests))
    unnamed = [""] * (len(requests) - len(profiles))
    return [_decide(context, *pair) for pair in zip(requests, (*profiles, *unnamed), strict=True)]


def _read(envelope: Envelope, limit: int) -> tuple[CertRequest, ...]:
    if envelope.body_name == "p10cr":
        return (read_p10cr(envelope.body),)
    return read_cert_req_messages(envelope.body, limit)


def _decide(context: Context, request: CertRequest, wanted_profile: str) -> _Decision:
    service, verified = context.service, context.request
    requester, body = verified.requester, verified.envelope.body_name
    now = service.env.now()
    try:
        check_expiry(requester, now)
        check_controls(request, body, requester)
        name = choose_profile(
            requester, wanted_profile, body, service.profiles.keys(), service.enrolment.default_profile
        )
        check_issuer(request, service.ca.name, requester)
        names = allow(request, body, requester, service.enrolment.certificate_holder_may_ask_for)
        key = load_public_key(request.template.public_key)
        pop.verify(request, key, verified)
        held_key = outline(requester.certificate).public_key if body == "kur" and requester.certificate else None
        profile = service.profiles[name]
        grant = profile.grant(request.template, key, names.subject, names.extensions, int(now), held_key=held_key)
        check_reserved(grant.subject_text, service.reserved_names)
        if names.changes:
            grant = replace(grant, changes=(*names.changes, *grant.changes))
        grant = service.ca.bound(grant)
    except CmpError as fault:
        return _Decision(request, fault=fault)
    return _Decision(request, grant=grant)


# --- arranging -----------------------------------------------------------------------------------------------------


def _prepare(context: Context, cert_req_id: int, grant: Grant) -> Intent:
    requester = context.request.requester
    return context.service.ca.prepare(
        grant,
        transaction_id=context.transaction_id,
        cert_req_id=cert_req_id,
        entity_id=requester.entity.id,
        replaces=requester.serial if context.request.envelope.body_name == "kur" else None,
    )


def _claim(context: Context, intents: list[Intent]) -> list[Change]:
    """The first unit: the transaction is ours, the use is taken, the intents are known. Only then may be signed."""
    requester = context.request.requester
    uses = len(intents) if counts_as_use(requester) else 0
    return [
        OpenTransaction(context.transaction(TransactionState.PROCESSING)),
        *[TakeUse(requester.entity.id, context.transaction_id)] * uses,
        *map(AddIntent, intents),
    ]


def _undo(context: Context, intents: list[Intent]) -> list[Change]:
    """What takes a claim back: the intents are abandoned, the uses returned, the transaction ended."""
    now = int(context.service.env.now())
    entity_id = context.request.requester.entity.id
    uses = len(intents) if counts_as_use(context.request.requester) else 0
    abandoned = CERTIFICATE_NEXT[CertificateState.INTENDED, CertificateEvent.ABANDON]
    ended = TRANSACTION_NEXT[TransactionState.PROCESSING, TransactionEvent.ANSWER_FINAL]
    return [
        *[MoveCertificate(i.serial, CertificateState.INTENDED, abandoned, now, by="no answer") for i in intents],
        *[ReturnUse(entity_id, context.transaction_id)] * uses,
        MoveTransaction(context.transaction_id, TransactionState.PROCESSING, ended, context.nonce, ended_at=now),
    ]


def _grant(
    context: Context, decisions: list[_Decision], intents: list[Intent], signed: dict[int, bytes], *, implicit: bool
) -> Reply:
    """The second unit: certificates, transaction and answer become durable together."""
    service, requester = context.service, context.request.requester
    now = int(service.env.now())
    event = CertificateEvent.SIGN_CONFIRMED if implicit else CertificateEvent.SIGN
    state = CERTIFICATE_NEXT[CertificateState.INTENDED, event]
    confirm_by = None if implicit else now + service.enrolment.confirm_wait
    answered = TransactionEvent.ANSWER_FINAL if implicit else TransactionEvent.ANSWER_CONFIRMING
    changes: list[Change] = [AddCertificate(i.serial, signed[i.cert_req_id], state, now) for i in intents]
    changes.append(
        MoveTransaction(
            context.transaction_id,
            TransactionState.PROCESSING,
            TRANSACTION_NEXT[TransactionState.PROCESSING, answered],
            context.nonce,
            confirm_by=confirm_by,
            ended_at=now if implicit else None,
            sender_certificate=None if implicit else requester.certificate,
        )
    )
    return Reply(
        _answer_type(context),
        cert_rep_body([_response(decision, signed) for decision in decisions], _ca_pubs(context)),
        tuple(changes),
        implicit_confirm=implicit,
        confirm_wait=confirm_by,
        extra_certs=service.ca.issuing_chain,
        after_write=lambda: _audit(context, decisions, intents, state),
    )


def _response(decision: _Decision, signed: dict[int, bytes]) -> CertResponse:
    number = decision.request.cert_req_id
    if decision.grant is None:
        return CertResponse(number, fault=decision.fault)
    return CertResponse(number, signed[number], "; ".join(decision.grant.changes))


def _ca_pubs(context: Context) -> tuple[bytes, ...]:
    """The trust anchor, in an ip to a MAC-protected ir alone: there the MAC vouches for it (RFC 9810 section 5.3.2)."""
    by_mac = context.request.requester.certificate is None
    wanted = by_mac and context.service.enrolment.ca_pubs and context.request.envelope.body_name == "ir"
    anchor = context.service.ca.trust_anchor
    return (anchor,) if wanted and anchor is not None else ()


def _answer_type(context: Context) -> int:
    return BODY_TYPES[ANSWERS[context.request.envelope.body_name]]


def _reject(context: Context, decisions: list[_Decision]) -> Reply:
    """Nothing was granted: the transaction is opened and ended in the one unit that keeps its answer."""
    return Reply(
        _answer_type(context),
        cert_rep_body([_response(decision, {}) for decision in decisions], ()),
        (OpenTransaction(context.transaction()),),
        after_write=lambda: _audit(context, decisions),
    )


def _audit(
    context: Context,
    decisions: Sequence[_Decision],
    intents: Sequence[Intent] = (),
    state: CertificateState = CertificateState.ISSUED,
) -> None:
    """Tell what was issued, all in one state, and what was rejected."""
    requester = context.request.requester
    body = context.request.envelope.body_name
    for intent in intents:
        audit.certificate_issued(intent, state, requester.entity.reference, body)
    for decision in decisions:
        if decision.fault is not None:
            audit.request_rejected(body, context.transaction_id, requester.entity.reference, decision.fault)
