"""Asking again for a certificate request that waits for an operator: by pollReq (RFC 9810 section 5.3.22, RFC 9483
section 4.4), by the request itself, or by the reference of tcp-messages.

Undecided: the answer says so again. Decided, or too late: the request is handled anew from its octets, as on its first
day, but that it may be granted now, or may not. Whatever comes of that ends the wait, and is the answer to the request
and, if one asked for it, to the pollReq.

A pollRep is not kept (see waiting.poll_nonce); the transaction has its senderNonce, which the next pollReq must name.
"""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Final

from cmpd import audit
from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.changes import Change, MoveTransaction
from cmpd.errors import BadCertId, BadDataFormat, CmpError, NotAuthorized, SystemFailure, SystemUnavail
from cmpd.handlers import cert_req
from cmpd.handlers.base import Context, Reply
from cmpd.handlers.waiting import TEXT, not_ready, poll_nonce
from cmpd.keeping import open_request
from cmpd.message import BODY_TYPES, decode
from cmpd.records import Decision, Requester, TransactionRecord, TransactionState, WaitingRequest
from cmpd.replies import error_body, poll_rep_body
from cmpd.requests import P10CR_ID
from cmpd.strictness import RULES
from cmpd.transaction import NEXT, Event, check_continues

_WHOLE: Final = -1
"""certReqId of a pollReq that is about the whole answer."""

_MAX_CERT_REQ_ID: Final = 8  # octets


def is_decided(waiting: WaitingRequest, now: float) -> bool:
    """Whether there is an answer to be had: a decision, or none in time."""
    return waiting.decision is not Decision.UNDECIDED or now >= waiting.expires_at


def has_waited(record: TransactionRecord | None, digest: bytes) -> bool:
    """Whether a transaction is one of a request with this SHA-256 that had to wait for an operator."""
    return record is not None and record.waiting is not None and record.waiting.digest == digest


async def handle(context: Context) -> Reply:
    """The answer to a pollReq: pollRep, or what answers the request."""
    envelope, kept = context.request.envelope, _kept(context.record)
    nonce = None if kept is None else poll_nonce(kept, envelope.der)
    credential = context.request.requester.credential
    record = check_continues(context.record, Event.POLL, envelope.header, credential, answered_by=nonce)
    if kept is None or nonce is None:  # in WAITING there is one
        raise SystemFailure("request: want the one that waits, have none on record")
    request = decode(open_request(context.service.sealer, kept))
    original = replace(context, request=replace(context.request, envelope=request))
    ids = _read(envelope.body, cert_req.cert_req_ids(original), context.strict)
    if is_decided(kept, context.service.env.now()):
        reply = await _finish(original, kept)
        return replace(reply, kept_as=(sha256(envelope.der).digest(), kept.digest))
    body = poll_rep_body(ids, context.service.enrolment.check_after, TEXT)
    changes = () if record.server_nonce == nonce else (_stay(record, nonce),)
    return Reply(BODY_TYPES["pollRep"], body, changes, kept_as=(), nonce=nonce)


async def handle_again(context: Context) -> Reply:
    """The answer to a request that waits already (context.record is its transaction) and is asked for again."""
    record, kept = context.record, _kept(context.record)
    if record is None or kept is None:
        raise SystemFailure("request: want the one that waits, have none on record")
    if is_decided(kept, context.service.env.now()):
        return replace(await _finish(context, kept), kept_as=(kept.digest,))
    changes = () if context.origin.polls else (_stay(record, context.nonce),)
    return not_ready(context, kept, cert_req.cert_req_ids(context), changes)


def goes_on_from(record: TransactionRecord, answer: bytes) -> tuple[Change, ...]:
    """What lets the next pollReq name the senderNonce of this answer (DER), which is given once more."""
    nonce = decode(answer).header.sender_nonce
    return () if nonce is None or nonce == record.server_nonce else (_stay(record, nonce),)


def _kept(record: TransactionRecord | None) -> WaitingRequest | None:
    return None if record is None else record.waiting


def _stay(record: TransactionRecord, nonce: bytes) -> Change:
    following = NEXT[TransactionState.WAITING, Event.POLL]
    return MoveTransaction(record.id, TransactionState.WAITING, following, nonce)


# --- a decision is there ---------------------------------------------------------------------------------------------


async def _finish(context: Context, waiting: WaitingRequest) -> Reply:
    """The final answer; `context` is of the request that waited."""
    now = context.service.env.now()
    refusal = _refusal(waiting, context.request.requester, now)
    if refusal is not None:
        reply = cert_req.reject_all(context, refusal)
    else:
        try:
            reply = await cert_req.handle(context)
        except CmpError as fault:
            if context.claim.undo is not None or isinstance(fault, SystemUnavail | SystemFailure):
                raise
            reply = Reply(*error_body(fault), (cert_req.begin(context, TransactionState.ENDED),))
    return replace(
        reply, after_write=_told(waiting, now >= waiting.expires_at, context.origin.address, reply.after_write)
    )


def _refusal(waiting: WaitingRequest, requester: Requester, now: float) -> CmpError | None:
    """Why nothing is granted; None for what was approved alone, and for whom it was."""
    if waiting.decision is Decision.REJECTED:
        reason = f": {waiting.text}" if waiting.text else ""
        return NotAuthorized(f"request: the operator of the CA has rejected it{reason}")
    if now >= waiting.expires_at:
        missing = "approved it" if waiting.decision is Decision.UNDECIDED else "been asked for the answer"
        return NotAuthorized(f"request: it has expired, nobody has {missing} in time")
    if requester.entity.id != waiting.entity_id:
        return NotAuthorized("request: its credential is registered for another entity by now; ask the operator")
    if waiting.decision is not Decision.APPROVED:  # the clock was set back a moment ago
        return NotAuthorized("request: it has expired, nobody has approved it in time")
    return None


def _told(waiting: WaitingRequest, expired: bool, address: str, then: Callable[[], None] | None) -> Callable[[], None]:
    def tell() -> None:
        audit.waiting_request_answered(waiting, expired, address)
        if then is not None:
            then()

    return tell


# --- PollReqContent ---------------------------------------------------------------------------------------------------


def _read(body: bytes, known: tuple[int, ...], strict: bool) -> tuple[int, ...]:
    """The certReqIds of a pollReq, all of them of the request that waits; BadDataFormat, BadCertId, BadRequest."""
    allowed = {_WHOLE, *known, *((0,) if P10CR_ID in known else ())}
    try:
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "PollReqContent")
        items = der.children(body, start, stop)
        RULES["pollReq has one certReqId"].hold(
            strict, len(items) < 2, f"PollReqContent: want one certReqId, have {len(items)}"
        )
        if len(items) > len(allowed):
            raise DerError(f"want at most {len(allowed)} certReqIds, have {len(items)}")
        found = tuple(_read_one(body, *item) for item in items)
    except DerError as fault:
        raise BadDataFormat(f"PollReqContent: {fault}") from None
    if not found or len(set(found)) != len(found):
        raise BadDataFormat(
            f"PollReqContent: want certReqIds, each once, have {len(found)} of which {len(set(found))} differ"
        )
    for number in found:
        if number not in allowed:
            raise BadCertId(f"pollReq.certReqId: want that of a request that waits in this transaction, have {number}")
    return found


def _read_one(data: bytes, tag: int, _pos: int, start: int, stop: int) -> int:
    if tag != der.SEQUENCE:
        raise DerError(f"want a SEQUENCE, have tag {tag:02X}")
    first, last = der.expect(data, start, stop, der.INTEGER, "certReqId")
    if last != stop:
        raise DerError("want certReqId alone")
    return der.integer(data, first, last, "certReqId", octets=_MAX_CERT_REQ_ID)
