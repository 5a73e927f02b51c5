"""ir, cr, kur and p10cr (RFC 9810 sections 5.3.1 to 5.3.6, RFC 9483 section 5.1.1): this file only arranges.

For each request in the message: key -> proof-of-possession -> policy -> profile, which gives a Grant or a rejection of
that one request. All grants of a message become intents, durable in one unit together with the transaction; then they
are signed; the certificates become durable together with the answer, which the responder writes.

If possession of a key is proven by what follows (proving.py), its certificate is sent encrypted, or all waits for the
answer to a challenge and comes here once more with it (challenge.py).

If an operator has to approve one of them, the whole message waits instead (waiting.py), and comes here a second time
when somebody asks for it and it was approved (polling.py): then with the record of its transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from cmpd import audit, pop
from cmpd.changes import (
    AddCertificate,
    AddChallenge,
    AddIntent,
    Change,
    Claim,
    ClaimUnique,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    ReturnUse,
    TakeUse,
)
from cmpd.controls import check_controls, unused_wishes, with_modifications
from cmpd.errors import BadCertTemplate, CmpError, DuplicateCertReq, NotAuthorized, StoreConflict
from cmpd.frozen import frozen
from cmpd.handlers.base import Context, Reply
from cmpd.handlers.proving import check_answer, encrypt_certificate, make_challenges
from cmpd.handlers.shape import check_number, check_shape, unreadable
from cmpd.handlers.sharing import find_shared_key, warn_of_shared_keys
from cmpd.handlers.waiting import ANSWERS, add_waiting, approved_profiles, needs_approval, not_ready
from cmpd.lifecycle import NEXT as CERTIFICATE_NEXT
from cmpd.lifecycle import Event as CertificateEvent
from cmpd.message import BODY_TYPES, ID_IT_REV_PASSPHRASE, Envelope
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
from cmpd.pop import Proof
from cmpd.profiles import Grant, load_public_key
from cmpd.records import CertificateState, Intent, TransactionState
from cmpd.replies import CertResponse, cert_rep_body
from cmpd.requests import CertRequest, read_cert_req_messages, read_extensions, read_p10cr
from cmpd.transaction import NEXT as TRANSACTION_NEXT
from cmpd.transaction import Event as TransactionEvent


@frozen
class _Decision:
    """One request and what became of it: a grant, or the fault that its rejection carries."""

    request: CertRequest
    grant: Grant | None = None
    fault: CmpError | None = None
    proof: Proof = Proof.DONE


async def handle(context: Context) -> Reply:
    """The answer to a certificate request; StoreConflict and StaleRead are the responder's to handle."""
    envelope, requester = context.request.envelope, context.request.requester
    implicit = envelope.header.implicit_confirm
    if envelope.body_name == "kur":
        check_update(requester, envelope.protection)
    decisions = await _decide_all(context, envelope)
    if needs_approval(context, [d.grant for d in decisions]):
        return await _wait(context, decisions)
    if context.proven is None and (wanted := _challenged(decisions)):
        return _challenge(context, wanted)
    intents = [_prepare(context, d.request.cert_req_id, d.grant) for d in decisions if d.grant is not None]
    if not intents:
        return _reject(context, decisions)
    grants = {d.request.cert_req_id: d.grant for d in decisions if d.grant is not None}
    claim = _claim(context, intents, grants)
    try:
        await context.service.store.write(claim, as_of=context.as_of, rests_on=context.rests_on)
    except StoreConflict as conflict:
        if conflict.reason not in _CONFLICTS:
            raise
        return _reject_granted(context, decisions, conflict.reason)
    context.claim.undo = lambda: _undo(context, intents)
    shared = [(i, found) for i in intents if (found := await find_shared_key(context, i, grants[i.cert_req_id].claims))]
    signed = {intent.cert_req_id: await context.service.ca.sign(intent) for intent in intents}
    reply = _grant(context, decisions, intents, signed, implicit_asked=implicit)
    return warn_of_shared_keys(context, reply, shared) if shared else reply


_CONFLICTS: Final[dict[str, CmpError]] = {
    "entity used up": NotAuthorized("registration: it has not enough enrolments left; ask the operator for a new one"),
    "entity disabled": NotAuthorized("registration: it was disabled"),
    "subject taken": DuplicateCertReq(
        "CertTemplate.subject: want one without a valid certificate of this profile; revoke it or send a kur"
    ),
    "key taken": BadCertTemplate("CertTemplate.publicKey: want a new key, have that of another certificate"),
    "serial number taken": BadCertTemplate("CertTemplate.serialNumber: want a new one, have another certificate's"),
}
"""What is found when the claim is written: nothing of it was, and all that the message asks for is rejected."""


async def _wait(context: Context, decisions: list[_Decision]) -> Reply:
    """Keep the request for an operator, unless it could not be granted afterwards either."""
    requester = context.request.requester
    if counts_as_use(requester):
        entity = await context.service.store.find_entity_by_id(requester.entity.id)
        left = 0 if entity is None else entity.uses_left
        if left is not None and left < sum(d.grant is not None for d in decisions):
            return _reject_granted(context, decisions, "entity used up")
    kept = add_waiting(context, [decision.grant for decision in decisions])
    opened = replace(context.transaction(TransactionState.WAITING), sender_certificate=requester.certificate)
    ids = [decision.request.cert_req_id for decision in decisions]
    reply = not_ready(context, kept.waiting, ids, (OpenTransaction(opened), kept))
    return replace(
        reply, after_write=lambda: audit.request_waits(kept.waiting, context.request.requester.entity.reference)
    )


def _challenged(decisions: list[_Decision]) -> dict[int, bytes]:
    """The keys (DER of SubjectPublicKeyInfo) by certReqId whose possession is to be proven by popdecr."""
    return {
        decision.request.cert_req_id: decision.grant.public_key
        for decision in decisions
        if decision.grant is not None and decision.proof is Proof.CHALLENGE
    }


def _challenge(context: Context, wanted: dict[int, bytes]) -> Reply:
    """Nothing is decided before popdecr; the request is kept until then."""
    body, kept = make_challenges(context, wanted)
    most = context.service.enrolment.max_waiting
    return Reply(
        BODY_TYPES["popdecc"],
        body,
        (begin(context, TransactionState.CHALLENGED, kept.expires_at), AddChallenge(kept, most)),
        rev_passphrase=_took_passphrase(context),
        after_write=lambda: audit.challenge_sent(kept, context.request.requester.entity.reference),
    )


def cert_req_ids(context: Context) -> tuple[int, ...]:
    """The certReqIds of a certificate request."""
    return tuple(request.cert_req_id for request in _read(context.request.envelope, _limit(context)))


def reject_all(context: Context, fault: CmpError) -> Reply:
    """The answer that rejects everything that a message asks for."""
    try:
        requests = _read(context.request.envelope, _limit(context))
    except CmpError:
        requests = unreadable(context.request.envelope, context.strict, _limit(context))
    return _reject(context, [_Decision(request, fault=fault) for request in requests])


_LEAVES: Final = {
    (TransactionState.WAITING, TransactionState.PROCESSING): TransactionEvent.APPROVED,
    (TransactionState.WAITING, TransactionState.CHALLENGED): TransactionEvent.ANSWER_CHALLENGE,
    (TransactionState.WAITING, TransactionState.ENDED): TransactionEvent.REJECTED,
    (TransactionState.CHALLENGED, TransactionState.PROCESSING): TransactionEvent.POPDECR,
    (TransactionState.CHALLENGED, TransactionState.ENDED): TransactionEvent.UNPROVEN,
}
"""What takes the transaction of a request that came before from its state into another one."""


def begin(context: Context, state: TransactionState, confirm_by: int | None = None) -> Change:
    """What opens the transaction, in PROCESSING, CHALLENGED (`confirm_by`) or ENDED; or takes it there from where a
    request that is worked on anew has left it. StoreConflict if another message was faster.
    """
    record = context.record
    if record is None:
        opened = context.transaction(state)
        if state is TransactionState.CHALLENGED:
            sender = context.request.requester.certificate
            opened = replace(opened, confirm_by=confirm_by, sender_certificate=sender)
        return OpenTransaction(opened)
    event = _LEAVES.get((record.state, state))
    if event is None:
        raise StoreConflict("transaction moved")
    following = TRANSACTION_NEXT[record.state, event]
    if following is TransactionState.PROCESSING:  # nothing was sent: perhaps it is awaited again (Store.recover)
        return MoveTransaction(record.id, record.state, following, record.server_nonce)
    now = int(context.service.env.now()) if following is TransactionState.ENDED else None
    return MoveTransaction(record.id, record.state, following, context.nonce, confirm_by=confirm_by, ended_at=now)


# --- deciding ------------------------------------------------------------------------------------------------------


async def _decide_all(context: Context, envelope: Envelope) -> list[_Decision]:
    """A body that cannot be read is rejected in the answer of its kind (RFC 9483 section 3.6.2)."""
    try:
        check_number(envelope, context.strict)
        requests = _read(envelope, _limit(context))
    except CmpError as fault:
        return [_Decision(one, fault=fault) for one in unreadable(envelope, context.strict, _limit(context))]
    if context.record is not None and context.record.waiting is not None:
        approved = approved_profiles(context.record.waiting, len(requests))
        return [await _decide_approved(context, *pair) for pair in zip(requests, approved, strict=True)]
    profiles = check_profiles(envelope.header, len(requests))
    unnamed = [context.origin.profile] * (len(requests) - len(profiles))
    return [await _decide(context, *pair) for pair in zip(requests, (*profiles, *unnamed), strict=True)]


async def _decide_approved(context: Context, request: CertRequest, profile: str) -> _Decision:
    """As `_decide`, but nothing is granted that the operator has not seen."""
    decision = await _decide(context, request, profile)
    if profile or decision.grant is None:
        return decision
    fault = NotAuthorized("request: it could not be granted when it came, so the operator has not approved it")
    return _Decision(request, fault=fault)


def _limit(context: Context) -> int:
    return context.service.enrolment.max_requests_per_message


def _read(envelope: Envelope, limit: int) -> tuple[CertRequest, ...]:
    if envelope.body_name == "p10cr":
        return (read_p10cr(envelope.body),)
    return read_cert_req_messages(envelope.body, limit)


async def _decide(context: Context, request: CertRequest, wanted_profile: str) -> _Decision:
    service, verified = context.service, context.request
    requester, body = verified.requester, verified.envelope.body_name
    now = service.env.now()
    try:
        asked = with_modifications(request)
        check_shape(asked, body, context.strict)
        check_expiry(requester, now)
        check_controls(request, body, requester)
        name = choose_profile(
            requester,
            wanted_profile,
            body,
            service.profiles.keys(),
            service.enrolment.default_profile,
            of_door=context.origin.door.profile,
        )
        check_issuer(asked, service.ca.name, requester)
        names = allow(asked, body, requester, service.enrolment.certificate_holder_may_ask_for)
        key = load_public_key(request.template.public_key)
        proof = pop.verify(request, key, verified, service.protection)
        if proof is Proof.AGREED:
            await pop.verify_agreed(request, key, service.agreement, service.protection)
        check_answer(context, request, proof)
        held_key = outline(requester.certificate).public_key if body == "kur" and requester.certificate else None
        profile = service.profiles[name]
        grant = profile.grant(
            asked.template,
            key,
            names.subject,
            names.extensions,
            int(now),
            issuer=service.ca.issuer,
            held_key=held_key,
            serial=names.serial,
        )
        if proof is not Proof.DONE:
            pop.check_usage(key, read_extensions(grant.extensions, 0, len(grant.extensions)))
        check_reserved(grant.subject, service.reserved_names)
        if changes := (*names.changes, *unused_wishes(request)):
            grant = replace(grant, changes=(*changes, *grant.changes))
        grant = service.ca.bound(grant)
    except CmpError as fault:
        return _Decision(request, fault=fault)
    return _Decision(request, grant=grant, proof=proof)


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


def _claim(context: Context, intents: list[Intent], grants: Mapping[int, Grant]) -> list[Change]:
    """The first unit: the transaction is ours, the use is taken, the intents are known. Only then may be signed."""
    requester = context.request.requester
    uses = len(intents) if counts_as_use(requester) else 0
    return [
        begin(context, TransactionState.PROCESSING),
        *[TakeUse(requester.entity.id, context.transaction_id)] * uses,
        *[ClaimUnique(i.serial, _SERIAL, i.created_at) for i in intents if grants[i.cert_req_id].serial is not None],
        *map(AddIntent, intents),
        *[
            ClaimUnique(i.serial, claims, i.created_at, i.replaces)
            for i in intents
            if (claims := grants[i.cert_req_id].claims)
        ],
    ]


_SERIAL: Final = (Claim("serial"),)


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
    context: Context,
    decisions: list[_Decision],
    intents: list[Intent],
    signed: dict[int, bytes],
    *,
    implicit_asked: bool,
) -> Reply:
    """The second unit: certificates, transaction and answer become durable together.

    Where confirmation is not awaited, certConf may come all the same, so the transaction waits for it. A certificate
    that is sent encrypted always waits for it: that is the proof-of-possession.
    """
    service, requester = context.service, context.request.requester
    now = int(service.env.now())
    proving = any(decision.grant is not None and decision.proof is Proof.ENCRYPTED for decision in decisions)
    awaited = proving or any(service.profiles[intent.profile].rules.await_confirmation for intent in intents)
    implicit = implicit_asked and not proving and (service.enrolment.implicit_confirm or not awaited)
    event = CertificateEvent.SIGN if awaited and not implicit else CertificateEvent.SIGN_CONFIRMED
    state = CERTIFICATE_NEXT[CertificateState.INTENDED, event]
    confirm_by = None if implicit else now + service.enrolment.confirm_wait
    awaiting = TransactionEvent.ANSWER_PROVING if proving else TransactionEvent.ANSWER_CONFIRMING
    answered = TransactionEvent.ANSWER_FINAL if implicit else awaiting
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
        cert_rep_body([_response(context, decision, signed) for decision in decisions], _ca_pubs(context)),
        tuple(changes),
        implicit_confirm=implicit,
        confirm_wait=confirm_by if awaited else None,
        rev_passphrase=_took_passphrase(context),
        extra_certs=service.ca.issuing_chain,
        after_write=lambda: _audit(context, decisions, intents, state),
    )


def _took_passphrase(context: Context) -> bool:
    """Whether the request had a revocation passphrase with it when it first came: the answer says that it was taken."""
    return context.record is not None and context.request.envelope.header.info(ID_IT_REV_PASSPHRASE) is not None


def _response(context: Context, decision: _Decision, signed: dict[int, bytes]) -> CertResponse:
    number = decision.request.cert_req_id
    if decision.grant is None:
        return CertResponse(number, fault=decision.fault)
    certificate, text = signed[number], "; ".join(decision.grant.changes)
    if decision.proof is Proof.ENCRYPTED:
        encrypted = encrypt_certificate(context, certificate, decision.grant.public_key)
        return CertResponse(number, text=text, encrypted=encrypted)
    return CertResponse(number, certificate, text)


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
        cert_rep_body([_response(context, decision, {}) for decision in decisions], ()),
        (begin(context, TransactionState.ENDED),),
        rev_passphrase=_took_passphrase(context),
        after_write=lambda: _audit(context, decisions),
    )


def _reject_granted(context: Context, decisions: list[_Decision], conflict: str) -> Reply:
    fault = _CONFLICTS[conflict]
    return _reject(context, [_Decision(d.request, fault=d.fault or fault) for d in decisions])


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
