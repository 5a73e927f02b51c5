"""DER in, DER out: the spine, and the only place where an error becomes an answer.

decode -> verify -> header checks -> handler -> protect -> make durable -> answer. Until a request's protection is
verified nothing that it says changes anything, and its answer is signed with the CMP key; afterwards the answer is
protected in the kind of the request. A MAC is never computed for somebody who has not shown the secret.

One transaction is worked on by one request at a time (`_Gate`); the claim of a new transactionID is an insert that
fails if it is taken, so a new request costs no look-up. An answer that could not be made durable is kept and written
later (`retry_unfinished`), and is not sent before.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cmpd import audit, protection
from cmpd.asn1.der import SEQUENCE, tlv
from cmpd.changes import AddResponse, Change, OpenTransaction, SetRevocationPassphrase
from cmpd.errors import (
    BadRequest,
    BadTime,
    CmpError,
    StaleRead,
    StoreConflict,
    StoreError,
    SystemFailure,
    SystemUnavail,
    TransactionIdInUse,
    UnsupportedVersion,
)
from cmpd.frozen import frozen
from cmpd.handlers import ANNOUNCEMENTS, HANDLERS
from cmpd.handlers.base import Context, Reply, Service
from cmpd.handlers.passphrase import PASSPHRASE_CONFLICTS, receive_in_header
from cmpd.message import (
    HIGHEST_PVNO,
    ID_IT_REV_PASSPHRASE,
    LOWEST_PVNO,
    NULL_DN,
    Envelope,
    Header,
    ReplyHeader,
    Undecodable,
    decode,
    encode_message,
    encode_protected_part,
)
from cmpd.protection.base import Credentials, Protector, VerifiedRequest
from cmpd.records import TransactionRecord
from cmpd.replies import error_body, pkiconf_body
from cmpd.transaction import CONTINUES, check_header

_log = logging.getLogger("cmpd.responder")

_TRIES: Final = 3
"""How often a request is decided anew because the records it rests on were changed meanwhile."""

_MOVED: Final = "certificate moved"

_MAX_UNFINISHED: Final = 10_000
"""How many claims may wait to be taken back before no new one is made."""

_RETRIES: Final = 100
"""How many of them are tried in one go."""


class Event(Protocol):
    """What the responder needs of an event loop's event."""

    def set(self) -> None:
        """Wake those who wait."""

    async def wait(self) -> object:
        """Return when it is set."""


@frozen
class Settings:
    """The responder's own switches. `message_time_window`: seconds, None = messageTime is not looked at. `event` makes
    an Event of the event loop's owner.
    """

    message_time_window: int | None
    event: Callable[[], Event]


class _Gate:
    """Lets one request of a transaction through at a time; the next one waits until the first is answered."""

    def __init__(self, make_event: Callable[[], Event]) -> None:
        self._make_event = make_event
        self._working: dict[bytes, Event | None] = {}

    async def enter(self, transaction_id: bytes) -> None:
        """Wait until nobody holds the transaction, and hold it. `leave` must follow."""
        while transaction_id in self._working:
            event = self._working[transaction_id]
            if event is None:  # made only when somebody has to wait
                event = self._working[transaction_id] = self._make_event()
            await event.wait()
        self._working[transaction_id] = None

    def leave(self, transaction_id: bytes) -> None:
        """Let the next one through."""
        event = self._working.pop(transaction_id)
        if event is not None:
            event.set()


class Responder:
    """Answers PKIMessages; a transport hands them in (transport/base.py: Respond)."""

    def __init__(self, service: Service, credentials: Credentials, signer: Protector, settings: Settings) -> None:
        """`signer` protects answers to signatures, and to whatever could not be verified."""
        self._service = service
        self._credentials = credentials
        self._signer = signer
        self._settings = settings
        self._gate = _Gate(settings.event)
        self._unfinished: dict[bytes, tuple[Change, ...]] = {}

    async def respond(self, octets: bytes, peer: str) -> bytes | None:
        """The answer to one PKIMessage: DER, or None if CMP has no answer to it. Never raises for what a peer sent."""
        try:
            envelope = decode(octets)
        except Undecodable as fault:
            refusal: CmpError = fault
            if fault.header is not None:
                refusal = _version_fault(fault.header) or fault
            audit.message_refused("?", _id_of(fault.header), peer, refusal)
            return await self._error(refusal, fault.header, self._signer)
        exchange = _Exchange(envelope, hashlib.sha256(octets).digest(), peer, self._signer)
        for _ in range(_TRIES):
            try:
                return await self._process(exchange)
            except StaleRead as error:
                stale: Exception = error
            except Exception as error:
                return await self._refuse(_fault_of(error), exchange)
        return await self._refuse(_fault_of(stale), exchange)

    async def retry_unfinished(self) -> int:
        """Take back the claims that the database did not take back at the time; returns how many are left."""
        for transaction_id in list(self._unfinished)[:_RETRIES]:
            try:
                await self._finish_late(transaction_id)
            except StoreError:
                break
        return len(self._unfinished)

    # --- one request ------------------------------------------------------------------------------------------------

    async def _process(self, exchange: "_Exchange") -> bytes | None:
        store, envelope = self._service.store, exchange.envelope
        as_of = store.generation
        header = envelope.header
        if fault := _version_fault(header):
            raise fault
        if envelope.body_name == "error" and envelope.protection is None:
            return await self._acknowledge_unprotected_error(envelope)
        record: TransactionRecord | None = None
        if envelope.body_name in CONTINUES and header.transaction_id:
            record = await store.find_transaction(header.transaction_id)
        verified = await protection.verify(
            envelope,
            self._credentials,
            self._service.protection,
            self._signer,
            known_sender=record.sender_certificate if record is not None else None,
            offload=self._service.offload,
        )
        exchange.protector = verified.protector
        transaction_id = check_header(header)
        if envelope.body_name in ANNOUNCEMENTS:
            audit.announcement_received(envelope.body_name, verified.requester.entity.reference)
            return None
        if envelope.body_name not in HANDLERS:
            raise BadRequest(f"body: {envelope.body_name} is not supported")
        if len(self._unfinished) >= _MAX_UNFINISHED:
            raise StoreError("too many claims wait to be taken back")
        await self._gate.enter(transaction_id)
        try:
            return await self._handle(exchange, verified, transaction_id, as_of)
        finally:
            self._gate.leave(transaction_id)

    async def _handle(
        self, exchange: "_Exchange", verified: VerifiedRequest, transaction_id: bytes, as_of: int
    ) -> bytes | None:
        """Inside the gate: an answer from before, or the handler's, durable before it is returned."""
        store, body_name = self._service.store, exchange.envelope.body_name
        if transaction_id in self._unfinished:
            await self._finish_late(transaction_id)
        time_fault = self._time_fault(exchange.envelope.header)
        record = None
        if body_name in CONTINUES or time_fault is not None:  # a repeat may be late; of others the claim says it
            found, answer = await store.find_response(transaction_id, exchange.digest)
            if found:
                return answer
            if time_fault is not None:
                raise time_fault
            record = await store.find_transaction(transaction_id)
        nonce = self._service.env.random(16)
        context = Context(self._service, verified, transaction_id, nonce, as_of, record)
        try:
            passphrase = await receive_in_header(context)
            reply = await HANDLERS[body_name](context)
            answer = await self._encode(reply, verified, nonce, bool(passphrase))
            if reply.changes:
                unit = (*reply.changes, *passphrase, AddResponse(transaction_id, exchange.digest, answer))
                if context.claim.undo is None:
                    await store.write(unit, as_of=as_of, rests_on=context.rests_on)
                else:  # the claim was decided as of then
                    await store.write(unit)
        except StoreConflict as conflict:
            if conflict.reason == _MOVED and context.claim.undo is None:  # somebody else changed its status meanwhile
                raise StaleRead(conflict.reason) from conflict
            if conflict.reason in PASSPHRASE_CONFLICTS:
                fault = BadRequest(PASSPHRASE_CONFLICTS[conflict.reason])
                if context.claim.undo is None:
                    return await self._refuse_for_good(fault, exchange, context)
                return await self._give_up(fault, exchange, transaction_id, context.claim.undo())
            return await self._conflict(conflict, transaction_id, exchange.digest)
        except Exception as error:
            if context.claim.undo is not None:
                return await self._give_up(_fault_of(error), exchange, transaction_id, context.claim.undo())
            if isinstance(error, CmpError) and _changes_status(context):
                return await self._refuse_for_good(error, exchange, context)
            raise
        if reply.after_write is not None:
            reply.after_write()
        _tell_of_passphrases(context, (*reply.changes, *passphrase))
        return answer

    async def _refuse_for_good(self, fault: CmpError, exchange: "_Exchange", context: Context) -> bytes | None:
        """What is refused now must not be granted when the same octets come again, recorded by whomever."""
        answer = await self._refuse(fault, exchange)
        if context.record is not None:
            return answer
        opened = OpenTransaction(context.transaction(keeps_id=context.may_be_granted))
        kept = AddResponse(context.transaction_id, exchange.digest, answer)
        try:
            await self._service.store.write([opened, kept])
        except StoreConflict as conflict:
            return await self._conflict(conflict, context.transaction_id, exchange.digest)
        return answer

    async def _give_up(
        self, fault: CmpError, exchange: "_Exchange", transaction_id: bytes, undo: Sequence[Change]
    ) -> bytes:
        """Nothing came of a claim: it is taken back, and a repeated request will be told the same."""
        self._unfinished[transaction_id] = tuple(undo)  # before anything that may fail
        answer = await self._refuse(fault, exchange)
        audit.claim_taken_back(transaction_id)
        self._unfinished[transaction_id] = (*undo, AddResponse(transaction_id, exchange.digest, answer))
        with contextlib.suppress(StoreError):  # the next tick tries again
            await self._finish_late(transaction_id)
        return answer

    async def _finish_late(self, transaction_id: bytes) -> None:
        changes = self._unfinished.get(transaction_id)
        if changes is None:
            return
        try:
            await self._service.store.write(changes)
        except StoreConflict as conflict:
            _log.info("transaction=%s was finished already: %s", transaction_id.hex(), conflict)
        self._unfinished.pop(transaction_id, None)

    async def _conflict(self, conflict: StoreConflict, transaction_id: bytes, digest: bytes) -> bytes | None:
        """The transactionID is taken: by this very request (then its answer is given again), or by another one."""
        if conflict.reason == "transaction exists":
            found, answer = await self._service.store.find_response(transaction_id, digest)
            if found:
                return answer
            raise TransactionIdInUse("transactionID: in use by another transaction; send the request with a fresh one")
        _log.warning("transaction=%s conflict=%s", transaction_id.hex(), conflict.reason)
        raise BadRequest("the transaction was ended by another message or by its time limit")

    def _time_fault(self, header: Header) -> BadTime | None:
        window = self._settings.message_time_window
        if window is None or header.message_time is None:
            return None
        off = header.message_time - self._service.env.now()
        if abs(off) <= window:
            return None
        side = "ahead of" if off > 0 else "behind"
        return BadTime(f"messageTime: {abs(off):.0f} s {side} this server's clock, want at most {window} s")

    # --- answers ----------------------------------------------------------------------------------------------------

    async def _encode(
        self, reply: Reply, verified: VerifiedRequest, nonce: bytes, rev_passphrase: bool
    ) -> bytes | None:
        if reply.body_type is None:
            return None
        request = verified.envelope.header
        header = ReplyHeader(
            pvno=request.pvno,
            recipient=request.sender,
            message_time=self._service.env.now(),
            transaction_id=request.transaction_id,
            sender_nonce=nonce,
            recip_nonce=request.sender_nonce,
            implicit_confirm=reply.implicit_confirm,
            confirm_wait=reply.confirm_wait,
            rev_passphrase=rev_passphrase,
        )
        return await _protect(header, reply.body_type, reply.body, verified.protector, reply.extra_certs)

    async def _refuse(self, fault: CmpError, exchange: "_Exchange") -> bytes:
        header = exchange.envelope.header
        audit.message_refused(exchange.envelope.body_name, _id_of(header), exchange.peer, fault)
        return await self._error(fault, header, exchange.protector)

    async def _error(self, fault: CmpError, request: Header | None, protector: Protector) -> bytes:
        """An error message (RFC 9483 section 3.6.4) that carries whatever could be read of the request's header.

        Unprotected if the key that should protect it does not work; that is better than silence.
        """
        body_type, body = error_body(fault)
        header = self._reply_header(request)
        try:
            return await _protect(header, body_type, body, protector, ())
        except Exception:
            _log.exception("an error message goes unprotected")
            part = encode_protected_part(
                header, body_type, body, sender=protector.sender, algorithm=None, sender_kid=None
            )
            return encode_message(part, None, ())

    async def _acknowledge_unprotected_error(self, envelope: Envelope) -> bytes:
        """RFC 9483 section 3.5 does not reject an unprotected error; it changes nothing (RFC 9810 section 5.3.21)."""
        _log.warning("unprotected error message transaction=%s: not acted on", _id_of(envelope.header).hex())
        body_type, body = pkiconf_body()
        return await _protect(self._reply_header(envelope.header), body_type, body, self._signer, ())

    def _reply_header(self, request: Header | None) -> ReplyHeader:
        pvno = LOWEST_PVNO if request is None else min(max(request.pvno, LOWEST_PVNO), HIGHEST_PVNO)
        return ReplyHeader(
            pvno=pvno,
            recipient=NULL_DN if request is None else request.sender,
            message_time=self._service.env.now(),
            transaction_id=None if request is None else request.transaction_id,
            sender_nonce=self._service.env.random(16),
            recip_nonce=None if request is None else request.sender_nonce,
        )


@dataclass(slots=True)
class _Exchange:
    """A request on its way. `protector`: what an answer to it would be protected with by now."""

    envelope: Envelope
    digest: bytes
    peer: str
    protector: Protector


_BUSY = SystemUnavail("the server cannot reach its records now; try again later in a new transaction")
_BROKEN = SystemFailure("an error inside the server; its operator's log has the details")


def _fault_of(error: Exception) -> CmpError:
    """What the peer is told: the ladder. The log is told the rest."""
    if isinstance(error, CmpError):
        return error
    if isinstance(error, StoreError):
        _log.error("store: %s", error)
        return _BUSY
    _log.error("unforeseen error", exc_info=error)
    return _BROKEN


def _changes_status(context: Context) -> bool:
    """Whether a request would have changed the status of certificates, or who may change it."""
    envelope = context.request.envelope
    if envelope.body_name == "genm" and ID_IT_REV_PASSPHRASE in envelope.body:
        return True
    return envelope.body_name == "rr" or envelope.header.info(ID_IT_REV_PASSPHRASE) is not None


def _tell_of_passphrases(context: Context, changes: Sequence[Change]) -> None:
    reference = context.request.requester.entity.reference
    for change in changes:
        if isinstance(change, SetRevocationPassphrase):
            audit.passphrase_received(change.passphrase.key_id, reference, context.transaction_id)


def _version_fault(header: Header) -> UnsupportedVersion | None:
    if LOWEST_PVNO <= header.pvno <= HIGHEST_PVNO:
        return None
    return UnsupportedVersion(f"pvno: want {LOWEST_PVNO} or {HIGHEST_PVNO}, have {header.pvno} (RFC 9810 section 7)")


def _id_of(header: Header | None) -> bytes:
    return (header.transaction_id if header is not None else None) or b""


async def _protect(
    header: ReplyHeader, body_type: int, body: bytes, protector: Protector, extra_certs: tuple[bytes, ...]
) -> bytes:
    part = encode_protected_part(
        header,
        body_type,
        body,
        sender=protector.sender,
        algorithm=protector.algorithm,
        sender_kid=protector.sender_kid,
    )
    certificates = tuple(dict.fromkeys((*protector.extra_certs, *extra_certs)))
    return encode_message(part, await protector.compute(tlv(SEQUENCE, part)), certificates)
