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
    CertConfirmed,
    CertRevoked,
    NotAuthorized,
)
from cmpd.message import Header
from cmpd.records import CertificateState, TransactionRecord
from cmpd.records import TransactionState as State

MIN_NONCE: Final = 16
"""Fewest octets of a senderNonce (RFC 9483 section 3.5: 128 bits)."""


class Event(StrEnum):
    """What moves a transaction."""

    ANSWER_FINAL = "answered, nothing more is awaited"
    ANSWER_CONFIRMING = "answered, certConf is awaited"
    CERT_CONF = "certConf"
    PKICONF = "pkiconf"  # taken as certConf that accepts all (RFC 9810 section 5.3.17)
    ERROR = "error"  # the client gives up (RFC 9810 section 5.3.21)
    LAPSE = "confirmWaitTime has passed"


NEXT: Final[dict[tuple[State, Event], State]] = {
    (State.PROCESSING, Event.ANSWER_FINAL): State.ENDED,
    (State.PROCESSING, Event.ANSWER_CONFIRMING): State.CONFIRMING,
    (State.CONFIRMING, Event.CERT_CONF): State.ENDED,
    (State.CONFIRMING, Event.PKICONF): State.ENDED,
    (State.CONFIRMING, Event.ERROR): State.ENDED,
    (State.CONFIRMING, Event.LAPSE): State.ENDED,
}

CONTINUES: Final = frozenset({"certConf", "pkiconf", "error"})
"""Bodies that continue a transaction; all others that cmpd handles begin one."""


def check_header(header: Header) -> bytes:
    """The checks of every request (RFC 9483 section 3.5) that need no record; returns the transactionID."""
    if not header.transaction_id:
        raise BadDataFormat("transactionID: want 16 octets, have none (RFC 9483 section 3.5)")
    if header.sender_nonce is None or len(header.sender_nonce) < MIN_NONCE:
        have = 0 if header.sender_nonce is None else len(header.sender_nonce)
        raise BadSenderNonce(f"senderNonce: want at least {MIN_NONCE} octets, have {have} (RFC 9483 section 3.5)")
    return header.transaction_id


def check_continues(
    record: TransactionRecord | None, event: Event, header: Header, credential: str
) -> TransactionRecord:
    """May this message continue the transaction? Returns the record of it.

    Raises BadRequest (no such transaction, or not in this state), CertConfirmed or CertRevoked (the wait is over),
    NotAuthorized (other credentials than the first request's, RFC 9483 section 4.1.1) or BadRecipientNonce.
    """
    if record is None:
        raise BadRequest(f"{event}: no transaction has this transactionID")
    if record.credential != credential:
        raise NotAuthorized(f"{event}: want the credentials of the transaction's first request (RFC 9483 4.1.1)")
    if (record.state, event) not in NEXT:
        if any(certificate.state is CertificateState.CONFIRMED for certificate in record.certificates):
            raise CertConfirmed(f"{event}: the certificate is confirmed already")
        if any(certificate.state is CertificateState.REVOKED for certificate in record.certificates):
            raise CertRevoked(f"{event}: the certificate was revoked, because it was rejected or not confirmed in time")
        raise BadRequest(f"{event}: not allowed while the transaction is {record.state}")
    if header.recip_nonce != record.server_nonce:
        raise BadRecipientNonce("recipNonce: want the senderNonce of our last message (RFC 9483 section 3.5)")
    return record
