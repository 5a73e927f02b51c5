"""DER in, DER out: the spine, and the only place where an error becomes an answer.

decode -> verify -> header checks -> handler -> protect -> make durable -> answer. Until a request's protection is
verified nothing that it says changes anything, and its answer is signed with the CMP key; afterwards the answer is
protected in the kind of the request. A MAC is never computed for somebody who has not shown the secret.

One transaction is worked on by one request at a time (`Gate`); the claim of a new transactionID is an insert that
fails if it is taken, so a new request costs no look-up. An answer that could not be made durable is kept and written
later (`retry_unfinished`), and is not sent before.
"""

import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cmpd import audit, protection
from cmpd.changes import AddResponse, Change, MoveTransaction, OpenTransaction
from cmpd.errors import (
    BadRequest,
    CmpError,
    StaleRead,
    StoreConflict,
    StoreError,
    SystemFailure,
    SystemUnavail,
    TransactionIdInUse,
)
from cmpd.frozen import frozen
from cmpd.handlers import ANNOUNCEMENTS, HANDLERS, handler_of
from cmpd.handlers.base import Context, Handler, Reply, Service
from cmpd.handlers.gate import Event, Gate
from cmpd.handlers.kem import KemProtection, ciphertext_missing
from cmpd.handlers.passphrase import PASSPHRASE_CONFLICTS, receive_in_header, tell_received
from cmpd.handlers.polling import goes_on_from, handle_again, has_waited, is_decided
from cmpd.handlers.revoke import changes_status, check_may_be_mac
from cmpd.handlers.waiting import WAITING_CONFLICTS, waiting_digest
from cmpd.keeping import open_request
from cmpd.message import Envelope, Header, ReplyHeader, Undecodable, decode
from cmpd.origin import Answer, NotAMessage, Origin, UnknownReference, Waiting, check_door
from cmpd.protection.answers import error_message, protect
from cmpd.protection.base import Credentials, Protector, VerifiedRequest
from cmpd.records import TransactionRecord, TransactionState, WaitingRequest
from cmpd.transaction import (
    CONTINUES,
    ID_IN_USE,
    NEXT,
    check_header,
    check_same_sender,
    time_fault,
    version_fault,
    with_transaction_id,
)
from cmpd.transaction import Event as TransactionEvent

_log = logging.getLogger("cmpd.responder")

_TRIES: Final = 3
"""How often a request is decided anew because the records it rests on were changed meanwhile."""

_DECIDE_ANEW: Final = frozenset({"certificate moved", "reference taken"})
"""Conflicts with what somebody else did meanwhile: a change of status, a request that waits under the same number."""

_MAX_UNFINISHED: Final = 10_000
"""How many claims may wait to be taken back before no new one is made."""

_RETRIES: Final = 100
"""How many of them are tried in one go."""


@frozen
class Settings:
    """The responder's own switches. `message_time_window`: seconds, None = messageTime is not looked at. `event` makes
    an Event of the event loop's owner.
    """

    message_time_window: int | None
    event: Callable[[], Event]


class Responder:
    """Answers PKIMessages; a transport hands them in (origin.py: Responds)."""

    def __init__(self, service: Service, credentials: Credentials, signer: Protector, settings: Settings) -> None:
        """`signer` protects answers to signatures, and to whatever could not be verified."""
        self._service = service
        self._credentials = credentials
        self._signer = signer
        self._settings = settings
        self._gate = Gate(settings.event)
        self._kem = KemProtection(service, credentials, signer, settings.message_time_window)
        self._unfinished: dict[bytes, tuple[Change, ...]] = {}

    async def respond(self, octets: bytes, origin: Origin) -> Answer:
        """The answer to one PKIMessage: DER, None if CMP has no answer to it, or Waiting if `origin.polls`.

        Never raises for what a peer sent. NotAMessage, an error message, if the octets are no PKIMessage.
        """
        try:
            envelope = decode(octets)
        except Undecodable as fault:
            refusal: CmpError = fault
            if fault.header is not None:
                refusal = version_fault(fault.header) or fault
            audit.message_refused("?", _id_of(fault.header), origin.address, refusal)
            return NotAMessage(await error_message(refusal, fault.header, self._signer, self._service.env))
        if not origin.door.strict:
            envelope = with_transaction_id(envelope)
        exchange = _Exchange(envelope, hashlib.sha256(octets).digest(), origin, self._signer)
        return await self._try(exchange, lambda as_of: self._process(exchange, as_of))

    async def poll(self, reference: int, origin: Origin) -> Answer:
        """The answer to the request that waits under a polling reference, which anybody may send.

        UnknownReference if there is none, or its answer is forgotten; StoreError if it cannot be looked up.
        """
        waiting = await self._service.store.find_waiting(reference)
        if waiting is None:
            raise UnknownReference
        original = with_transaction_id(decode(open_request(self._service.sealer, waiting)))
        if original.protection is None:
            await self._check_channel(waiting, origin)
        if not waiting.answered and not is_decided(waiting, self._service.env.now()):
            return Waiting(reference, self._service.enrolment.check_after)
        exchange = _Exchange(original, waiting.digest, origin, self._signer)
        return await self._try(exchange, lambda as_of: self._process_decided(exchange, waiting, as_of))

    async def retry_unfinished(self) -> int:
        """Take back the claims that the database did not take back at the time; returns how many are left."""
        for transaction_id in list(self._unfinished)[:_RETRIES]:
            try:
                await self._finish_late(transaction_id)
            except StoreError:
                break
        return len(self._unfinished)

    # --- one request ------------------------------------------------------------------------------------------------

    async def _try(self, exchange: "_Exchange", work: Callable[[int], Awaitable[Answer]]) -> Answer:
        """What `work` comes to, as of now, or the error message for what it raises."""
        for _ in range(_TRIES):
            try:
                return await work(self._service.store.generation)
            except UnknownReference:
                raise
            except StaleRead as error:
                stale: Exception = error
            except Exception as error:
                return await self._refuse(_fault_of(error), exchange)
        return await self._refuse(_fault_of(stale), exchange)

    async def _process(self, exchange: "_Exchange", as_of: int) -> Answer:
        store, envelope, header = self._service.store, exchange.envelope, exchange.envelope.header
        if fault := version_fault(header):
            raise fault
        is_bare = envelope.protection is None and header.protection_alg is None
        if is_bare and (answer := await self._kem.answer_unprotected(envelope, exchange.digest, exchange.origin)):
            return answer
        record: TransactionRecord | None = None
        if envelope.body_name in CONTINUES and header.transaction_id:
            record = await store.find_transaction(header.transaction_id)
        verified = await self._verify(exchange, record)
        strict = exchange.origin.door.strict
        transaction_id = check_header(envelope, strict)
        check_may_be_mac(verified, strict)
        if envelope.body_name not in HANDLERS:
            check_door(envelope, exchange.origin)
        if envelope.body_name in ANNOUNCEMENTS:
            audit.announcement_received(envelope.body_name, verified.requester.entity.reference)
            return None
        if envelope.body_name not in HANDLERS:
            raise BadRequest(f"body: want {', '.join(HANDLERS)}, have {envelope.body_name}")
        await self._enter(transaction_id)
        try:
            return await self._handle(exchange, verified, transaction_id, as_of)
        finally:
            self._gate.leave(transaction_id)

    async def _verify(self, exchange: "_Exchange", record: TransactionRecord | None) -> VerifiedRequest:
        """Who sent it; from now on answers are protected in the kind of the request."""
        origin = exchange.origin
        verified = await protection.verify(
            exchange.envelope,
            self._credentials,
            self._service.protection,
            self._signer,
            known_sender=record.sender_certificate if record is not None else None,
            offload=self._service.offload,
            channel=origin.certificates if origin.door.tls_authenticates else (),
            keys=self._kem.keys,
            mac_parameters=record.mac_parameters if record is not None else None,
            strict=origin.door.strict,
        )
        exchange.protector = verified.protector
        if self._kem.concerns(verified, record):
            verified = await self._kem.attend(verified, exchange.digest, record)
            exchange.protector = verified.protector
            if (refusing := self._kem.refusing(verified)) is not None:
                exchange.protector = refusing
                raise ciphertext_missing()
        return verified

    async def _enter(self, transaction_id: bytes) -> None:
        """Wait until nobody else works on the transaction. The gate must be left after it."""
        if len(self._unfinished) >= _MAX_UNFINISHED:
            raise StoreError("too many claims wait to be taken back")
        await self._gate.enter(transaction_id)

    async def _handle(
        self, exchange: "_Exchange", verified: VerifiedRequest, transaction_id: bytes, as_of: int
    ) -> Answer:
        """Inside the gate: an answer from before, or the handler's, durable before it is returned."""
        store, body_name = self._service.store, exchange.envelope.body_name
        if transaction_id in self._unfinished:
            await self._finish_late(transaction_id)
        late = time_fault(exchange.envelope.header, self._service.env.now(), self._settings.message_time_window)
        record = None
        if body_name in CONTINUES or late is not None:  # a repeat may be late; of others the claim says it
            found, answer = await self._find_answer(exchange, verified, transaction_id)
            if found:
                return answer
            record = await store.find_transaction(transaction_id)
            if body_name not in CONTINUES and has_waited(record, exchange.digest):
                return await self._come_back(exchange, verified, record, as_of)
            if late is not None:
                raise late
        return await self._work(exchange, self._context(exchange, verified, as_of, record), handler_of(verified))

    def _context(
        self, exchange: "_Exchange", verified: VerifiedRequest, as_of: int, record: TransactionRecord | None
    ) -> Context:
        transaction_id, nonce = exchange.envelope.header.transaction_id or b"", self._service.env.random(16)
        return Context(self._service, verified, transaction_id, nonce, as_of, exchange.origin, record)

    async def _work(self, exchange: "_Exchange", context: Context, handler: Handler) -> Answer:
        """The handler's answer, durable."""
        store, transaction_id = self._service.store, context.transaction_id
        try:
            if context.record is None:  # what goes on may do so elsewhere
                check_door(context.request.envelope, context.origin)
            passphrase = await receive_in_header(context)
            reply = await handler(context)
            answer = await self._encode(reply, exchange, context, bool(passphrase))
            if reply.changes:
                kept_as = (exchange.digest,) if reply.kept_as is None else reply.kept_as
                kept = [AddResponse(transaction_id, digest, answer) for digest in kept_as]
                unit = (*reply.changes, *passphrase, *kept)
                if context.claim.undo is None:
                    await store.write(unit, as_of=context.as_of, rests_on=context.rests_on)
                else:  # the claim was decided as of then
                    await store.write(unit)
        except StoreConflict as conflict:
            if conflict.reason in _DECIDE_ANEW and context.claim.undo is None:
                raise StaleRead(conflict.reason) from conflict
            if conflict.reason in PASSPHRASE_CONFLICTS:
                fault = BadRequest(PASSPHRASE_CONFLICTS[conflict.reason])
                if context.claim.undo is None:
                    return await self._refuse_for_good(fault, exchange, context)
                return await self._give_up(fault, exchange, context, context.claim.undo())
            return await self._conflict(conflict, exchange, context)
        except Exception as error:
            if context.claim.undo is not None:
                return await self._give_up(_fault_of(error), exchange, context, context.claim.undo())
            if isinstance(error, CmpError) and changes_status(context.request.envelope):
                return await self._refuse_for_good(error, exchange, context)
            raise
        if reply.after_write is not None:
            reply.after_write()
        tell_received(context, (*reply.changes, *passphrase))
        return reply.waiting or answer

    async def _refuse_for_good(self, fault: CmpError, exchange: "_Exchange", context: Context) -> Answer:
        """What is refused now must not be granted when the same octets come again, recorded by whomever."""
        answer = await self._refuse(fault, exchange)
        if context.record is not None:
            return answer
        opened = OpenTransaction(context.transaction(keeps_id=context.may_be_granted))
        kept = AddResponse(context.transaction_id, exchange.digest, answer)
        try:
            await self._service.store.write([opened, kept])
        except StoreConflict as conflict:
            return await self._conflict(conflict, exchange, context)
        return answer

    async def _give_up(self, fault: CmpError, exchange: "_Exchange", context: Context, undo: Sequence[Change]) -> bytes:
        """Nothing came of a claim: it is taken back, and a repeated request will be told the same."""
        transaction_id = context.transaction_id
        self._unfinished[transaction_id] = tuple(undo)  # before anything that may fail
        answer = await self._refuse(fault, exchange)
        audit.claim_taken_back(transaction_id)
        record, digests = context.record, [exchange.digest]
        waited = record is not None and record.state is TransactionState.WAITING
        if waited and record is not None and record.waiting is not None and record.waiting.digest != exchange.digest:
            digests.append(record.waiting.digest)  # a pollReq asked for the answer to the request
        kept = [AddResponse(transaction_id, digest, answer) for digest in digests]
        self._unfinished[transaction_id] = (*undo, *kept)
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

    async def _conflict(self, conflict: StoreConflict, exchange: "_Exchange", context: Context) -> Answer:
        """The transactionID is taken: by this very request (then its answer is given again), or by another one."""
        store, transaction_id = self._service.store, context.transaction_id
        if conflict.reason == "transaction exists":
            found, answer = await self._find_answer(exchange, context.request, transaction_id)
            if found:
                return answer
            record = await store.find_transaction(transaction_id)
            if has_waited(record, exchange.digest):
                return await self._come_back(exchange, context.request, record, context.as_of)
            raise TransactionIdInUse(ID_IN_USE)
        if conflict.reason in WAITING_CONFLICTS:
            raise SystemUnavail(WAITING_CONFLICTS[conflict.reason])
        _log.warning("transaction=%s conflict=%s", transaction_id.hex(), conflict.reason)
        raise BadRequest(
            "transaction: want one that goes on, have one that another message or its time limit has ended"
        )

    async def _find_answer(
        self, exchange: "_Exchange", verified: VerifiedRequest, transaction_id: bytes
    ) -> tuple[bool, bytes | None]:
        """(True, octets or None) if this request was answered before. Octets without protection say nothing of who sent
        them: to anybody else than the sender of the first ones the transactionID is in use.
        """
        store = self._service.store
        found, answer = await store.find_response(transaction_id, exchange.digest)
        if found and exchange.envelope.protection is None:
            check_same_sender(await store.find_transaction(transaction_id), verified.requester.credential)
        return found, answer

    # --- requests that wait for an operator ---------------------------------------------------------------------------

    async def _come_back(
        self, exchange: "_Exchange", verified: VerifiedRequest, record: TransactionRecord | None, as_of: int
    ) -> Answer:
        """The answer to a request that waits, or did, and is asked for again; `exchange` is the request itself."""
        check_same_sender(record, verified.requester.credential)
        if record is None or record.waiting is None or record.state is not TransactionState.WAITING:
            raise BadRequest("transaction: want one that waits, have one that another message has ended")
        if not exchange.origin.polls and not is_decided(record.waiting, self._service.env.now()):
            digest = waiting_digest(exchange.digest)
            found, answer = await self._service.store.find_response(record.id, digest)
            if found:
                if answer is not None and (changes := goes_on_from(record, answer)):
                    await self._service.store.write(changes)
                return answer
        return await self._work(exchange, self._context(exchange, verified, as_of, record), handle_again)

    async def _process_decided(self, exchange: "_Exchange", waiting: WaitingRequest, as_of: int) -> Answer:
        """The answer to a request that was decided, asked for by its reference; it is verified anew."""
        store, transaction_id = self._service.store, waiting.transaction_id
        await self._enter(transaction_id)
        try:
            if transaction_id in self._unfinished:
                await self._finish_late(transaction_id)
            found, answer = await store.find_response(transaction_id, waiting.digest)
            if found:
                return answer
            record = await store.find_transaction(transaction_id)
            if record is None or record.state is not TransactionState.WAITING:
                raise UnknownReference
            try:
                verified = await self._verify(exchange, record)
                check_same_sender(record, verified.requester.credential)
            except (SystemUnavail, SystemFailure):
                raise
            except CmpError as fault:  # the credential is not what it was: nothing will come of it any more
                answer = await self._refuse(fault, exchange)
                now = int(self._service.env.now())
                state = NEXT[record.state, TransactionEvent.REJECTED]
                ended = MoveTransaction(record.id, record.state, state, record.server_nonce, ended_at=now)
                await store.write([ended, AddResponse(record.id, waiting.digest, answer)], as_of=as_of)
                return answer
            return await self._come_back(exchange, verified, record, as_of)
        finally:
            self._gate.leave(transaction_id)

    async def _check_channel(self, waiting: WaitingRequest, origin: Origin) -> None:
        """An unprotected request is asked for through a channel of its sender, or not at all."""
        record = await self._service.store.find_transaction(waiting.transaction_id)
        channel = origin.certificates if origin.door.tls_authenticates else ()
        if record is None or not channel or protection.channel_credential(channel[0]) != record.credential:
            raise UnknownReference

    # --- answers ----------------------------------------------------------------------------------------------------

    async def _encode(
        self, reply: Reply, exchange: "_Exchange", context: Context, rev_passphrase: bool
    ) -> bytes | None:
        if reply.body_type is None:
            return None
        request = exchange.envelope.header
        header = ReplyHeader(
            pvno=request.pvno,
            recipient=request.sender,
            message_time=self._service.env.now(),
            transaction_id=request.transaction_id,
            sender_nonce=reply.nonce or context.nonce,
            recip_nonce=request.sender_nonce,
            implicit_confirm=reply.implicit_confirm,
            confirm_wait=reply.confirm_wait,
            rev_passphrase=rev_passphrase or reply.rev_passphrase,
        )
        return await protect(header, reply.body_type, reply.body, context.request.protector, reply.extra_certs)

    async def _refuse(self, fault: CmpError, exchange: "_Exchange") -> bytes:
        header = exchange.envelope.header
        audit.message_refused(exchange.envelope.body_name, _id_of(header), exchange.origin.address, fault)
        return await error_message(fault, header, exchange.protector, self._service.env)


@dataclass(slots=True)
class _Exchange:
    """A request on its way. `protector`: what an answer to it would be protected with by now."""

    envelope: Envelope
    digest: bytes
    origin: Origin
    protector: Protector


_BUSY = SystemUnavail("server: its records cannot be reached now; try again later in a new transaction")
_BROKEN = SystemFailure("server: an error inside it; its operator's log has the details")


def _fault_of(error: Exception) -> CmpError:
    """What the peer is told: the ladder. The log is told the rest."""
    if isinstance(error, CmpError):
        return error
    if isinstance(error, StoreError):
        _log.error("store: %s", error)
        return _BUSY
    _log.error("unforeseen error", exc_info=error)
    return _BROKEN


def _id_of(header: Header | None) -> bytes:
    return (header.transaction_id if header is not None else None) or b""
