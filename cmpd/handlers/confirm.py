"""What ends the wait for confirmation: certConf, pkiconf, an error message, or the time (RFC 9810 sections 5.3.17,
5.3.18, 5.3.21; RFC 9483 section 4.1.1).

A certificate that is not accepted is revoked. Its enrolment stays counted: it was in the requester's hands. Where the
profile awaits no confirmation it is confirmed already when certConf comes: acceptance and the end of the time change
nothing then, and rejection revokes it as well.
"""

import hmac
from collections.abc import Callable, Sequence

from cmpd import audit
from cmpd.asn1 import der
from cmpd.asn1.cmp import ErrorMsgContent
from cmpd.asn1.strict import load_strict
from cmpd.changes import (
    Change,
    MoveCertificate,
    MoveTransaction,
)
from cmpd.errors import BadAlg, BadCertId, BadDataFormat, CmpError, StoreConflict
from cmpd.handlers.base import Context, Reply, Service
from cmpd.lifecycle import NEXT as CERTIFICATE_NEXT
from cmpd.lifecycle import Event as CertificateEvent
from cmpd.message import HIGHEST_PVNO
from cmpd.protection import certificate_hash, hash_by_algorithm
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    TransactionRecord,
)
from cmpd.replies import ACCEPTED, REJECTION, error_body, pkiconf_body
from cmpd.requests import P10CR_ID, CertStatus, read_cert_conf
from cmpd.strictness import RULES
from cmpd.transaction import NEXT as TRANSACTION_NEXT
from cmpd.transaction import Event as TransactionEvent
from cmpd.transaction import check_continues

_REASON = "cessationOfOperation"
"""CRLReason of a certificate that its end entity never took into use."""

_WAITS = (CertificateState.ISSUED, CertificateState.CONFIRMED)
"""States of certificates whose transaction takes certConf."""

_SLICE = 64  # transactions that lapse in one commit

_End = tuple[tuple[Change, ...], Callable[[], None]]
"""What ends a wait: the changes, and what to tell the audit log once they are durable."""


def _continue(context: Context, event: TransactionEvent) -> TransactionRecord:
    """The transaction that this message may continue; what check_continues raises otherwise."""
    verified = context.request
    return check_continues(context.record, event, verified.envelope.header, verified.requester.credential)


async def handle_cert_conf(context: Context) -> Reply:
    """The answer to certConf: pkiconf.

    What cannot be read, or has a wrong hash or certReqId, confirms nothing and ends the transaction: after a negative
    answer it has failed (RFC 9483 section 3.6.4).
    """
    record = _continue(context, TransactionEvent.CERT_CONF)
    accepted: set[bytes] = set()
    body_type, body = pkiconf_body()
    try:
        accepted = _read_accepted(context, record)
    except CmpError as fault:
        audit.request_rejected("certConf", record.id, context.request.requester.entity.reference, fault)
        body_type, body = error_body(fault)
    changes, after_write = _decide(context.service, record, accepted, context.nonce, TransactionEvent.CERT_CONF)
    return Reply(body_type, body, changes, after_write=after_write)


def _read_accepted(context: Context, record: TransactionRecord) -> set[bytes]:
    """The serial numbers of the certificates that a certConf accepts."""
    envelope = context.request.envelope
    statuses = read_cert_conf(envelope.body, max(len(record.certificates), 1))
    RULES["certConf has one CertStatus"].hold(
        context.strict, len(statuses) == 1, f"CertConfirmContent: want one CertStatus, have {len(statuses)}"
    )
    accepted: set[bytes] = set()
    seen: set[bytes] = set()
    for status in statuses:
        certificate = _find(record, status)
        if certificate.serial in seen:
            raise BadDataFormat("CertConfirmContent: want one CertStatus for each certificate, have two")
        seen.add(certificate.serial)
        RULES["the status in a CertStatus is accepted or rejection"].hold(
            context.strict,
            status.status in (None, ACCEPTED, REJECTION),
            f"CertStatus.statusInfo: want status accepted(0) or rejection(2), have {status.status}",
        )
        RULES["a CertStatus that accepts has no failInfo"].hold(
            context.strict,
            not (status.accepted and status.has_fail_info),
            "CertStatus.statusInfo: want no failInfo with status accepted, have one",
        )
        if status.hash_alg is not None and envelope.header.pvno != HIGHEST_PVNO:
            raise BadDataFormat("CertStatus.hashAlg: want pvno 3 with it, have 2 (RFC 9810 section 5.3.18)")
        if status.accepted:
            _check_hash(certificate, status)
            accepted.add(certificate.serial)
    return accepted


async def handle_pkiconf(context: Context) -> Reply:
    """A pkiconf from a client: all certificates are accepted; there is no CMP answer to it."""
    RULES["no pkiconf comes from a client"].hold(
        context.strict, False, "body: want certConf to confirm a certificate, have pkiconf"
    )
    record = _continue(context, TransactionEvent.PKICONF)
    if context.request.envelope.body != der.NULL_TLV:
        raise BadDataFormat("PKIConfirmContent: want NULL, have another value")
    accepted = {certificate.serial for certificate in record.certificates}
    changes, after_write = _decide(context.service, record, accepted, context.nonce, TransactionEvent.PKICONF)
    return Reply(None, changes=changes, after_write=after_write)


async def handle_error(context: Context) -> Reply:
    """The answer to an error from a client: pkiconf. If certConf was awaited, the certificates are rejected; a request
    that waits for an operator waits no more.

    Nobody else gets a pkiconf with this transactionID: it could be passed off as the answer to certConf.
    """
    load_strict(ErrorMsgContent, context.request.envelope.body, noun="ErrorMsgContent")
    body_type, body = pkiconf_body()
    is_own = context.record is None or context.record.credential == context.request.requester.credential
    if is_own and not _ends_by_error(context.record):
        return Reply(body_type, body)  # nothing hangs on it any more
    record = _continue(context, TransactionEvent.ERROR)
    changes, after_write = _decide(context.service, record, set(), context.nonce, TransactionEvent.ERROR)
    return Reply(body_type, body, changes, after_write=after_write)


async def handle_kem_fault(context: Context) -> Reply:
    """The answer to a message with a KEM ciphertext that is none: what is wrong, and nothing goes on after it (RFC 9810
    section 5.1.3.4), as if the client had given up.
    """
    fault, verified = context.request.kem_fault, context.request
    assert fault is not None  # noqa: S101 -- for the type checker: handler_of has looked
    if not _ends_by_error(context.record):
        raise fault
    record = _continue(context, TransactionEvent.ERROR)
    audit.request_rejected(verified.envelope.body_name, record.id, verified.requester.entity.reference, fault)
    changes, after_write = _decide(context.service, record, set(), context.nonce, TransactionEvent.ERROR)
    return Reply(*error_body(fault), changes, after_write=after_write)


def _ends_by_error(record: TransactionRecord | None) -> bool:
    return record is not None and (record.state, TransactionEvent.ERROR) in TRANSACTION_NEXT


async def lapse(service: Service, limit: int = 512) -> int:
    """Revoke what was not confirmed in time, at most `limit` transactions; returns how many there were."""
    records = await service.store.unconfirmed(int(service.env.now()), limit)
    ends = [_decide(service, record, set(), record.server_nonce, TransactionEvent.LAPSE) for record in records]
    return sum([await _end_together(service, ends[at : at + _SLICE]) for at in range(0, len(ends), _SLICE)])


async def _end_together(service: Service, ends: Sequence[_End]) -> int:
    """End these transactions in one unit, or one by one if a certConf came for one of them; how many lapsed."""
    try:
        changes = [change for changes, _ in ends for change in changes]
        await service.store.write(sorted(changes, key=lambda change: isinstance(change, MoveTransaction)))
    except StoreConflict:
        if len(ends) == 1:  # its certConf came at the last moment
            return 0
        return sum([await _end_together(service, [end]) for end in ends])
    for _, after_write in ends:
        after_write()
    return len(ends)


def _find(record: TransactionRecord, status: CertStatus) -> CertificateRecord:
    """The certificate that a CertStatus is about; a p10cr's may be called -1 or 0 (both are seen in the field)."""
    wanted = {status.cert_req_id}
    if record.body == "p10cr" and status.cert_req_id in (0, P10CR_ID):
        wanted = {0, P10CR_ID}
    for certificate in record.certificates:
        if certificate.cert_req_id in wanted and certificate.state in _WAITS:
            return certificate
    raise BadCertId(
        f"CertStatus.certReqId: want that of a certificate that waits in this transaction, have {status.cert_req_id}"
    )


def _check_hash(certificate: CertificateRecord, status: CertStatus) -> None:
    octets = certificate.der or b""
    if status.hash_alg is not None:
        wanted = hash_by_algorithm(status.hash_alg, octets)
        if wanted is None:
            raise BadAlg(
                "CertStatus.hashAlg: want SHA-2, or SHA-3 or SHAKE without parameters, of 256 bits or more, have other"
            )
    else:
        wanted = certificate_hash(octets)
        if wanted is None:
            raise BadDataFormat("CertStatus.hashAlg: want it, as the certificate's signature names no hash, have none")
    if not hmac.compare_digest(wanted, status.cert_hash):
        raise BadCertId("CertStatus.certHash: want the hash of the certificate that was issued, have another")


def _decide(
    service: Service,
    record: TransactionRecord,
    accepted: set[bytes],
    nonce: bytes,
    event: TransactionEvent,
) -> _End:
    now = int(service.env.now())
    lapses = event is TransactionEvent.LAPSE
    changes: list[Change] = []
    moved: list[CertificateRecord] = []
    for certificate in record.certificates:
        outcome = _outcome(certificate, certificate.serial in accepted, lapses)
        if outcome is None:
            continue
        following = CERTIFICATE_NEXT[certificate.state, outcome]
        reason = None if outcome is CertificateEvent.CONFIRM else _REASON
        changes.append(MoveCertificate(certificate.serial, certificate.state, following, now, reason, str(event)))
        moved.append(certificate)
    changes.append(MoveTransaction(record.id, record.state, TRANSACTION_NEXT[record.state, event], nonce, ended_at=now))
    return tuple(changes), lambda: _tell(service, moved, accepted, str(event))


def _outcome(certificate: CertificateRecord, accepted: bool, lapses: bool) -> CertificateEvent | None:
    """What the end of the wait means for a certificate, None = nothing."""
    if certificate.state is CertificateState.ISSUED:
        refused = CertificateEvent.LAPSE if lapses else CertificateEvent.REJECT
        return CertificateEvent.CONFIRM if accepted else refused
    refused_late = certificate.state is CertificateState.CONFIRMED and not accepted and not lapses
    return CertificateEvent.REVOKE if refused_late else None


def _tell(service: Service, certificates: Sequence[CertificateRecord], accepted: set[bytes], cause: str) -> None:
    """The audit log, and who publishes what is revoked now."""
    if any(certificate.serial not in accepted for certificate in certificates):
        service.status_changed()
    for certificate in certificates:
        if certificate.serial in accepted:
            audit.certificate_confirmed(certificate.serial)
        else:
            audit.certificate_revoked(certificate.serial, _REASON, cause)
