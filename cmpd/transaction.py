"""The transaction of RFC 9810 section 5.1.1 and RFC 9483 section 3 as a table: which body is allowed in which state.

A first message (ir, cr, kur, p10cr) needs no look-up: its transactionID is claimed by an insert that fails if it is
taken. What continues a transaction is checked here against its record. Pure.
"""

from enum import StrEnum
from typing import Final

from cmpd.errors import (
    BadDataFormat,
    BadRecipientNonce,
    BadRequest,
    BadSenderNonce,
    BadTime,
    CertConfirmed,
    CertRevoked,
    NotAuthorized,
    TransactionIdInUse,
)
from cmpd.message import Header
from cmpd.records import CertificateState, TransactionRecord
from cmpd.records import TransactionState as State

MIN_NONCE: Final = 16
"""Fewest octets of a senderNonce (RFC 9483 section 3.5: 128 bits)."""


ID_IN_USE: Final = "transactionID: in use by another transaction; send the request with a fresh one"


class Event(StrEnum):
    """What moves a transaction."""

    ANSWER_FINAL = "answered, nothing more is awaited"
    ANSWER_CONFIRMING = "answered, certConf is awaited"
    CERT_CONF = "certConf"
    PKICONF = "pkiconf"  # taken as certConf that accepts all (RFC 9810 section 5.3.17)
    ERROR = "error"  # the client gives up (RFC 9810 section 5.3.21)
    LAPSE = "confirmWaitTime has passed"
    POLL = "pollReq"
    APPROVED = "approved by an operator"
    REJECTED = "rejected by an operator"


NEXT: Final[dict[tuple[State, Event], State]] = {
    (State.PROCESSING, Event.ANSWER_FINAL): State.ENDED,
    (State.PROCESSING, Event.ANSWER_CONFIRMING): State.CONFIRMING,
    (State.CONFIRMING, Event.CERT_CONF): State.ENDED,
    (State.CONFIRMING, Event.PKICONF): State.ENDED,
    (State.CONFIRMING, Event.ERROR): State.ENDED,
    (State.CONFIRMING, Event.LAPSE): State.ENDED,
    (State.WAITING, Event.POLL): State.WAITING,
    (State.WAITING, Event.APPROVED): State.PROCESSING,
    (State.WAITING, Event.REJECTED): State.ENDED,
    (State.WAITING, Event.ERROR): State.ENDED,
}

CONTINUES: Final = frozenset({"certConf", "pkiconf", "error", "pollReq"})
"""Bodies that continue a transaction; all others that cmpd handles begin one."""


def check_header(header: Header) -> bytes:
    """The checks of every request (RFC 9483 section 3.5) that need no record; returns the transactionID."""
    if not header.transaction_id:
        raise BadDataFormat("transactionID: want 16 octets, have none (RFC 9483 section 3.5)")
    if header.sender_nonce is None or len(header.sender_nonce) < MIN_NONCE:
        have = 0 if header.sender_nonce is None else len(header.sender_nonce)
        raise BadSenderNonce(f"senderNonce: want at least {MIN_NONCE} octets, have {have} (RFC 9483 section 3.5)")
    return header.transaction_id


def time_fault(header: Header, now: float, window: int | None) -> BadTime | None:
    """What is wrong with messageTime: at most `window` seconds off are good; None = it is not looked at."""
    if window is None or header.message_time is None:
        return None
    off = header.message_time - now
    if abs(off) <= window:
        return None
    side = "ahead of" if off > 0 else "behind"
    return BadTime(f"messageTime: {abs(off):.0f} s {side} this server's clock, want at most {window} s")


def check_same_sender(record: TransactionRecord | None, credential: str) -> None:
    """For a request that came before, or so it seems: TransactionIdInUse unless the first one had this credential."""
    if record is None or record.credential != credential:
        raise TransactionIdInUse(ID_IN_USE)


def check_continues(
    record: TransactionRecord | None, event: Event, header: Header, credential: str, *, answered_by: bytes | None = None
) -> TransactionRecord:
    """May this message continue the transaction? Returns the record of it.

    `answered_by`: the senderNonce that the answer to this very message has, if that can be told beforehand: the message
    may come once more while this is our last one.

    Raises BadRequest (no such transaction, or not in this state), CertConfirmed or CertRevoked (the wait is over),
    NotAuthorized (other credentials than the first request's, RFC 9483 section 4.1.1) or BadRecipientNonce.
    """
    if record is None:
        raise BadRequest(f"{event}: no transaction has this transactionID")
    if record.credential != credential:
        raise NotAuthorized(f"{event}: want the credentials of the transaction's first request (RFC 9483 4.1.1)")
    if (record.state, event) not in NEXT:
        if event is not Event.POLL:
            _check_confirmation(record, event)
        raise BadRequest(f"{event}: not allowed while the transaction is {record.state}")
    if record.server_nonce not in (header.recip_nonce, answered_by):
        raise BadRecipientNonce("recipNonce: want the senderNonce of our last message (RFC 9483 section 3.5)")
    return record


def _check_confirmation(record: TransactionRecord, event: Event) -> None:
    """CertConfirmed or CertRevoked if that is what became of a certificate."""
    if any(certificate.state is CertificateState.CONFIRMED for certificate in record.certificates):
        raise CertConfirmed(f"{event}: the certificate is confirmed already")
    if any(certificate.state is CertificateState.REVOKED for certificate in record.certificates):
        raise CertRevoked(f"{event}: the certificate was revoked, because it was rejected or not confirmed in time")
