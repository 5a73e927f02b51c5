"""popdecr: the answer to the challenges of a popdecc (RFC 9810 section 5.2.8.3.3).

The request is handled anew from its octets, as on its first day, but that possession of its keys is proven now, or is
not. Whatever comes of that ends the wait: a challenge is answered once.
"""

import hmac
from dataclasses import replace
from hashlib import sha256

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.errors import BadDataFormat, BadPop, CmpError, SystemFailure, SystemUnavail, UnsupportedVersion
from cmpd.handlers import cert_req
from cmpd.handlers.base import Context, Reply
from cmpd.keeping import open_request
from cmpd.message import decode
from cmpd.records import OpenChallenge, TransactionState
from cmpd.replies import error_body
from cmpd.transaction import Event, check_continues

_MAX_INTEGER = 64  # octets: more than was sent, so that a wrong one is told so


async def handle(context: Context) -> Reply:
    """The answer to popdecr: what answers the request."""
    envelope = context.request.envelope
    record = check_continues(context.record, Event.POPDECR, envelope.header, context.request.requester.credential)
    kept = record.challenge
    if kept is None:
        raise SystemFailure("challenge: want the one of popdecc, have none on record")
    original = decode(open_request(context.service.sealer, kept))
    want, have = original.header.pvno, envelope.header.pvno
    if want != have:  # what is encrypted in the answer depends on it
        raise UnsupportedVersion(f"pvno: want {want} as in the request, have {have} (RFC 9810 section 7)")
    context = replace(context, request=replace(context.request, envelope=original))
    try:
        proven = _read(envelope.body, kept)
    except CmpError as fault:
        return cert_req.reject_all(context, fault)
    try:
        return await cert_req.handle(replace(context, proven=proven))
    except CmpError as fault:
        if context.claim.undo is not None or isinstance(fault, SystemUnavail | SystemFailure):
            raise
        return Reply(*error_body(fault), (cert_req.begin(context, TransactionState.ENDED),))


def _read(body: bytes, kept: OpenChallenge) -> dict[int, bool]:
    """Whether each integer of a POPODecKeyRespContent is the one that was sent, by certReqId. BadDataFormat, BadPop."""
    try:
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "POPODecKeyRespContent")
        items = der.children(body, start, stop, 100)
        for tag, _, first, after in items:
            if tag != der.INTEGER:
                raise DerError(f"want INTEGERs, have tag {tag:02X}")
            der.integer(body, first, after, "integer", octets=_MAX_INTEGER)
    except DerError as fault:
        raise BadDataFormat(f"popdecr: {fault}") from None
    if len(items) != len(kept.expected):
        raise BadPop(f"popdecr: want {len(kept.expected)} integers, one for each Challenge; have {len(items)}")
    pairs = zip(items, kept.expected, strict=True)
    return {
        number: hmac.compare_digest(sha256(body[pos:after]).digest(), digest)
        for (_, pos, _, after), (number, digest) in pairs
    }
