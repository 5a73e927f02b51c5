"""The transaction of RFC 9810 section 5.1.1 and RFC 9483 section 3 as a table: which body is allowed in which state.

A first message (ir, cr, kur, p10cr) needs no look-up: its transactionID is claimed by an insert that fails if it is
taken. What continues a transaction is checked here against its record. Pure.
"""

import hashlib
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cmpd.asn1 import der, oids
from cmpd.asn1.der import DerError
from cmpd.errors import (
    BadDataFormat,
    BadRecipientNonce,
    BadRequest,
    BadTime,
    CertConfirmed,
    CertRevoked,
    NotAuthorized,
    TransactionIdInUse,
    UnsupportedVersion,
    WrongIntegrity,
)
from cmpd.message import (
    HIGHEST_PVNO,
    ID_IT_CERT_PROFILE,
    ID_IT_CONFIRM_WAIT_TIME,
    ID_IT_IMPLICIT_CONFIRM,
    LOWEST_PVNO,
    Envelope,
    Header,
    InfoTypeAndValue,
    OddTime,
)
from cmpd.outline import outline
from cmpd.records import CertificateState, TransactionRecord
from cmpd.records import TransactionState as State
from cmpd.strictness import RULES

MIN_NONCE: Final = 16
"""Fewest octets of a senderNonce (RFC 9483 section 3.5: 128 bits)."""

ID_SIZE: Final = 16
"""Octets of the transactionID of a first message (RFC 9483 section 3.1: 128 bits)."""


ID_IT_CERT_REQ_TEMPLATE: Final = oids.contents("1.3.6.1.5.5.7.4.19")

_CACHED_CERTIFICATE: Final = 4096  # octets; longer ones are read anew each time: bounds the memory of the cache

ID_IN_USE: Final = "transactionID: want a fresh one, have one that another transaction uses"


class Event(StrEnum):
    """What moves a transaction."""

    ANSWER_FINAL = "answered, nothing more is awaited"
    ANSWER_CONFIRMING = "answered, certConf is awaited"
    ANSWER_PROVING = "answered, certConf is awaited as proof-of-possession"
    ANSWER_CHALLENGE = "answered, popdecr is awaited"
    POPDECR = "popdecr"
    UNPROVEN = "nothing is granted after popdecc"
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
    (State.PROCESSING, Event.ANSWER_PROVING): State.PROVING,
    (State.PROVING, Event.CERT_CONF): State.ENDED,  # no pkiconf: it proves nothing
    (State.PROVING, Event.ERROR): State.ENDED,
    (State.PROVING, Event.LAPSE): State.ENDED,
    (State.CHALLENGED, Event.POPDECR): State.PROCESSING,
    (State.CHALLENGED, Event.UNPROVEN): State.ENDED,
    (State.CHALLENGED, Event.ERROR): State.ENDED,
    (State.CHALLENGED, Event.LAPSE): State.ENDED,
    (State.WAITING, Event.ANSWER_CHALLENGE): State.CHALLENGED,
    (State.WAITING, Event.POLL): State.WAITING,
    (State.WAITING, Event.APPROVED): State.PROCESSING,
    (State.WAITING, Event.REJECTED): State.ENDED,
    (State.WAITING, Event.ERROR): State.ENDED,
}

CONTINUES: Final = frozenset({"certConf", "pkiconf", "error", "pollReq", "popdecr"})
"""Bodies that continue a transaction; all others that cmpd handles begin one."""

REQUESTS: Final = frozenset({"ir", "cr", "p10cr", "kur"})
"""Bodies that ask for certificates."""

_KINDS: Final = {
    "secret": "a MAC by a shared secret",
    "passphrase": "a MAC by a shared secret",
    "certificate": "a signature",
    "agreement": "DHBasedMac",
    "kem": "KemBasedMac",
    "tls": "TLS alone",
}
"""What protects the messages of a credential, by the beginning of its name."""


def version_fault(header: Header) -> UnsupportedVersion | None:
    """What is wrong with pvno (RFC 9483 section 3.5, RFC 9810 section 7)."""
    if LOWEST_PVNO <= header.pvno <= HIGHEST_PVNO:
        return None
    return UnsupportedVersion(f"pvno: want {LOWEST_PVNO} or {HIGHEST_PVNO}, have {header.pvno} (RFC 9810 section 7)")


def with_transaction_id(envelope: Envelope) -> Envelope:
    """A first message that has no transactionID gets one (RFC 9810 section 5.1.1), the same when it comes again.

    One that brings a KEM ciphertext has to have its own (section 5.1.3.4).
    """
    if envelope.header.transaction_id is not None or envelope.body_name in CONTINUES:
        return envelope
    if (item := envelope.header.info(oids.KEM_CIPHERTEXT_INFO)) is not None and item.value is not None:
        return envelope
    made = hashlib.sha256(b"transactionID" + envelope.der).digest()[:ID_SIZE]
    return replace(envelope, header=replace(envelope.header, transaction_id=made))


def check_header(envelope: Envelope, strict: bool) -> bytes:
    """The checks of every request (RFC 9483 sections 3.1 and 3.5) that need no record; returns the transactionID.

    `strict`: what RULES say besides.
    """
    header, first = envelope.header, envelope.body_name not in CONTINUES
    if not header.transaction_id:
        raise BadDataFormat(f"transactionID: want {ID_SIZE} octets, have none (RFC 9483 section 3.5)")
    size = len(header.transaction_id)
    RULES["the transactionID of a first message has 16 octets"].hold(
        strict, not first or size == ID_SIZE, f"transactionID: want {ID_SIZE} octets, have {size}"
    )
    have = 0 if header.sender_nonce is None else len(header.sender_nonce)
    RULES["senderNonce is there and has 16 octets or more"].hold(
        strict, have >= MIN_NONCE, f"senderNonce: want at least {MIN_NONCE} octets, have {have}"
    )
    RULES["a first message has no recipNonce"].hold(
        strict,
        not first or header.recip_nonce is None,
        f"recipNonce: want none in a first message, have one in {envelope.body_name}",
    )
    RULES["messageTime is a GeneralizedTime YYYYMMDDHHMMSSZ"].hold(
        strict,
        not isinstance(header.message_time, OddTime),
        "messageTime: want a GeneralizedTime YYYYMMDDHHMMSSZ, have a time in another form",
    )
    RULES["all extraCerts are certificates"].hold(
        strict,
        not strict or all(map(_is_certificate, envelope.extra_certs)),
        "extraCerts: want certificates, have something else among them",
    )
    if header.general_info:
        _check_general_info(envelope, strict)
    return header.transaction_id


def _is_certificate(octets: bytes) -> bool:
    """Whether these octets (DER) are a Certificate, as far as its outermost fields and those of tbsCertificate go."""
    return (_has_the_form if len(octets) <= _CACHED_CERTIFICATE else _has_the_form.__wrapped__)(octets)


@lru_cache(maxsize=1024)  # clients bring the same ones with each message
def _has_the_form(octets: bytes) -> bool:
    try:
        outline.__wrapped__(octets)
        start, stop = der.expect(octets, 0, len(octets), der.SEQUENCE, "Certificate")
        fields = der.children(octets, start, stop, 3)
    except DerError:
        return False
    return [tag for tag, *_ in fields] == [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]


def _check_general_info(envelope: Envelope, strict: bool) -> None:
    """The types of generalInfo that RFC 9483 section 3.1 has; well-formed they must be at every door."""
    header, body = envelope.header, envelope.body_name
    if header.general_info == _ORDINARY and body in REQUESTS:
        return
    has_implicit = header.implicit_confirm
    names = header.cert_profiles
    header.check_confirm_wait_time()
    for oid, name in _ONCE.items():
        count = sum(item.type == oid for item in header.general_info)
        RULES["implicitConfirm, confirmWaitTime and certProfile are there once"].hold(
            strict, count < 2, f"generalInfo {name}: want one, have {count}"
        )
    RULES["implicitConfirm is in ir, cr, p10cr and kur alone"].hold(
        strict,
        not has_implicit or body in REQUESTS,
        f"generalInfo implicitConfirm: want it in ir, cr, p10cr or kur, have it in {body}",
    )
    implicit = header.info(ID_IT_IMPLICIT_CONFIRM)
    RULES["the value of implicitConfirm is there"].hold(
        strict, implicit is None or implicit.value is not None, "generalInfo implicitConfirm: want NULL, have no value"
    )
    RULES["confirmWaitTime is in no request"].hold(
        strict,
        header.info(ID_IT_CONFIRM_WAIT_TIME) is None,
        f"generalInfo confirmWaitTime: want none in a request, have one in {body}",
    )
    RULES["certProfile is in ir, cr, p10cr, kur and a genm of certReqTemplate alone"].hold(
        strict,
        not names or body in REQUESTS or _asks_for_template(envelope),
        f"generalInfo certProfile: want it in ir, cr, p10cr, kur or a genm of certReqTemplate, have it in {body}",
    )
    RULES["certProfile has one name, which is not empty"].hold(
        strict,
        not names or (len(names) == 1 and names[0] != ""),
        f"generalInfo certProfile: want one name that is not empty, have {len(names)}",
    )


def _asks_for_template(envelope: Envelope) -> bool:
    """Whether this is a genm of certReqTemplate; what cannot be read is its handler's to refuse."""
    body = envelope.body
    if envelope.body_name != "genm":
        return False
    try:
        items = der.children(body, *der.expect(body, 0, len(body), der.SEQUENCE, "genm"))
        types = [der.expect(body, inner, after, der.OID, "infoType") for _, _, inner, after in items]
    except DerError:
        return True
    return any(body[start:stop] == ID_IT_CERT_REQ_TEMPLATE for start, stop in types)


_ORDINARY: Final = (InfoTypeAndValue(ID_IT_IMPLICIT_CONFIRM, der.NULL_TLV),)
"""What a certificate request has in generalInfo, if anything: nothing is wrong with that."""

_ONCE: Final = {
    ID_IT_IMPLICIT_CONFIRM: "implicitConfirm",
    ID_IT_CONFIRM_WAIT_TIME: "confirmWaitTime",
    ID_IT_CERT_PROFILE: "certProfile",
}


def time_fault(header: Header, now: float, window: int | None) -> BadTime | None:
    """What is wrong with messageTime: at most `window` seconds off are good; None = it is not looked at."""
    if window is None or header.message_time is None:
        return None
    off = header.message_time - now
    if abs(off) <= window:
        return None
    side = "ahead of" if off > 0 else "behind"
    return BadTime(f"messageTime: want at most {window} s off this server's clock, have {abs(off):.0f} s {side} it")


_STATES: Final[dict[str, str]] = {
    "certConf": "while certConf is awaited",
    "pkiconf": "while certConf is awaited",
    "error": "while an answer is awaited",
    "pollReq": "while a request waits",
    "popdecr": "while a popdecc is to be answered",
}
"""When a body may continue a transaction."""


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
    WrongIntegrity (another kind of protection than the first request's, RFC 9483 section 3.2), NotAuthorized (other
    credentials, section 4.1.1) or BadRecipientNonce.
    """
    if record is None:
        raise BadRequest(
            f"{event}: want the transactionID of a transaction that goes on, have that of none (RFC 9483 section 3.5)"
        )
    want, have = (_KINDS.get(one.partition(":")[0], one) for one in (record.credential, credential))
    if want != have:
        raise WrongIntegrity(f"{event}: want {want} as for the first request, have {have} (RFC 9483 section 3.2)")
    if record.credential != credential:
        raise NotAuthorized(
            f"{event}: want the credentials of the transaction's first request, have others (RFC 9483 section 4.1.1)"
        )
    if (record.state, event) not in NEXT:
        if event is not Event.POLL:
            _check_confirmation(record, event)
        raise BadRequest(
            f"{event}: want it {_STATES[event]}, have a transaction that is {record.state} (RFC 9483 section 3.5)"
        )
    if record.server_nonce not in (header.recip_nonce, answered_by):
        have = "none" if header.recip_nonce is None else "another value"
        raise BadRecipientNonce(f"recipNonce: want the senderNonce of our last message, have {have}")
    return record


def _check_confirmation(record: TransactionRecord, event: Event) -> None:
    """CertConfirmed or CertRevoked if that is what became of a certificate."""
    if any(certificate.state is CertificateState.CONFIRMED for certificate in record.certificates):
        raise CertConfirmed(f"{event}: want a certificate that is not confirmed, have one that is confirmed already")
    if any(certificate.state is CertificateState.REVOKED for certificate in record.certificates):
        raise CertRevoked(
            f"{event}: want a certificate that waits for it, have one that was revoked, as rejected or late"
        )
