"""Certificate requests that wait for an operator: what is kept of them, and the answers "not ready yet".

The request is kept as it came, with what its requester would get by now: the profile of each certificate and the names
in it, for the operator. Nothing is signed before the requester comes again (polling.py).
"""

from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import Final

from cmpd.changes import AddWaiting, Change
from cmpd.handlers.base import Context, Reply
from cmpd.keeping import seal_request
from cmpd.message import BODY_TYPES
from cmpd.origin import Waiting
from cmpd.profiles import Grant
from cmpd.profiles.alt_names import read_general_names
from cmpd.profiles.extensions import OID_SAN
from cmpd.records import Decision, WaitingRequest
from cmpd.replies import CertResponse, cert_rep_body
from cmpd.requests import read_extensions

TEXT: Final = "the request waits for an operator of the CA"

WAITING_CONFLICTS: Final = {
    "too many waiting": "request: too many wait for an operator of the CA; try again later in a new transaction",
    "too many waiting of one": "request: too many of this requester wait for an operator of the CA; try again later",
    "too many challenges": "popdecc: too many challenges wait for their popdecr; try again later in a new transaction",
    "too many challenges of one": "popdecc: too many challenges of this requester wait for their popdecr; answer them",
}
"""What the requester is told of a StoreConflict."""

ANSWERS: Final = {"ir": "ip", "cr": "cp", "p10cr": "cp", "kur": "kup"}
"""The body that answers each certificate request."""

_MAX_NAMES: Final = 4096  # characters
_SEPARATOR: Final = ","  # no profile's name has it
_SAN_NAMES: Final = {0x81: "email", 0x82: "dns", 0x86: "uri"}
_IP_ADDRESS: Final = 0x87


def needs_approval(context: Context, grants: Sequence[Grant | None]) -> bool:
    """Whether an operator has to approve one of these certificates, and none did yet."""
    waiting = None if context.record is None else context.record.waiting
    if waiting is not None and waiting.decision is Decision.APPROVED:
        return False
    profiles = context.service.profiles
    return any(profiles[grant.profile].rules.approval for grant in grants if grant is not None)


def add_waiting(context: Context, grants: Sequence[Grant | None]) -> AddWaiting:
    """What keeps a request. `grants`: one for each certificate that is asked for, None = it would be rejected."""
    env, enrolment, envelope = context.service.env, context.service.enrolment, context.request.envelope
    now = int(env.now())
    waiting = WaitingRequest(
        transaction_id=context.transaction_id,
        reference=int.from_bytes(env.random(4), "big") or 1,
        digest=sha256(envelope.der).digest(),
        request=seal_request(context.service.sealer, context.transaction_id, envelope.der),
        body=envelope.body_name,
        entity_id=context.request.requester.entity.id,
        profile=_profiles(grants),
        subjects=_shortened("; ".join(_names(grant) for grant in grants if grant is not None)),
        received_at=now,
        expires_at=now + enrolment.approval_wait,
    )
    return AddWaiting(waiting, enrolment.max_waiting)


def _profiles(grants: Sequence[Grant | None]) -> str:
    names = ["" if grant is None else grant.profile for grant in grants]
    return names[0] if len(set(names)) == 1 else _SEPARATOR.join(names)


def approved_profiles(waiting: WaitingRequest, requests: int) -> tuple[str, ...]:
    """The profile that was approved for each request of the message, "" = it was not to be granted."""
    names = tuple(waiting.profile.split(_SEPARATOR))
    return names * requests if len(names) == 1 else names


def _names(grant: Grant) -> str:
    """The subject and the alternative names."""
    extensions = read_extensions(grant.extensions, 0, len(grant.extensions))
    san = next((extension.value for extension in extensions if extension.oid == OID_SAN), None)
    names = [] if san is None else [_name(*name) for name in read_general_names(san)]
    return ", ".join(part for part in (grant.subject_text, *names) if part)


def _name(tag: int, contents: bytes) -> str:
    kind = _SAN_NAMES.get(tag)
    if tag == _IP_ADDRESS and len(contents) in (4, 16):
        return f"ip:{ip_address(contents)}"
    return f"{kind}:{contents.decode('ascii', 'backslashreplace')}" if kind else f"[{tag & 0x1F}]:{contents.hex()}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_NAMES else f"{text[: _MAX_NAMES - 4]} ..."


# --- the answers ------------------------------------------------------------------------------------------------------


def waiting_digest(digest: bytes) -> bytes:
    """What the CMP answer with status waiting is kept under: `digest` itself (the request's) is for the final one."""
    return sha256(b"waiting" + digest).digest()


def not_ready(
    context: Context, waiting: WaitingRequest, cert_req_ids: Sequence[int], changes: tuple[Change, ...] = ()
) -> Reply:
    """The answer to the request itself: by the transport where it can (pollRep of tcp-messages), else by CMP.

    That is an ip, cp or kup with status waiting for every certReqId (RFC 9483 section 4.4).
    """
    if context.origin.polls:
        later = Waiting(waiting.reference, context.service.enrolment.check_after)
        return Reply(None, changes=changes, kept_as=(), waiting=later)
    body = cert_rep_body([CertResponse(number, text=TEXT, waits=True) for number in cert_req_ids], ())
    kept_as = (waiting_digest(waiting.digest),)
    return Reply(BODY_TYPES[ANSWERS[waiting.body]], body, changes, kept_as=kept_as)


def poll_nonce(waiting: WaitingRequest, poll: bytes) -> bytes:
    """The senderNonce of the pollRep to this pollReq (DER): fresh as the pollReq is, and unknown to others.

    So a pollReq whose answer was lost is known when it comes again, though pollReps are not kept: there is no end of
    them.
    """
    return sha256(b"pollRep" + waiting.reference.to_bytes(4, "big") + waiting.transaction_id + poll).digest()[:16]
