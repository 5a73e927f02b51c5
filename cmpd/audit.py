"""One function for each event that an auditor would ask about; structured, without secrets, without message contents.

They write to the logger "cmpd.audit". The database has the same facts for as long as it is kept.
"""

import logging
from collections.abc import Sequence

from cmpd.certificates import time_text
from cmpd.errors import CmpError
from cmpd.records import CertificateState, Intent, OpenChallenge, StatusChange, WaitingRequest

_log = logging.getLogger("cmpd.audit")


def certificate_issued(intent: Intent, state: CertificateState, reference: str, body: str) -> None:
    """A certificate was signed and recorded, its answer is about to be sent."""
    _log.info(
        "certificate issued serial=%s subject=%r entity=%r body=%s profile=%s state=%s transaction=%s",
        intent.serial.hex(),
        intent.subject_text,
        reference,
        body,
        intent.profile,
        state,
        intent.transaction_id.hex(),
    )


def key_shared(intent: Intent, reference: str, others: Sequence[tuple[bytes, str]]) -> None:
    """A certificate was issued for a key that others have too. `others`: (serial number, reference of the entity)."""
    _log.warning(
        "key shared serial=%s subject=%r entity=%r with=%s: who has this key can use, or find, that of the others",
        intent.serial.hex(),
        intent.subject_text,
        reference,
        ", ".join(f"serial={serial.hex()} entity={other!r}" for serial, other in others),
    )


def request_rejected(body: str, transaction_id: bytes, reference: str, fault: CmpError) -> None:
    """A request inside a verified message was refused."""
    _log.warning(
        "request rejected body=%s transaction=%s entity=%r failInfo=%s text=%r detail=%r",
        body,
        transaction_id.hex(),
        reference,
        fault.failure,
        fault.text,
        fault.detail,
    )


def message_refused(body: str, transaction_id: bytes, peer: str, fault: CmpError) -> None:
    """A message was answered with an error."""
    _log.warning(
        "message refused body=%s transaction=%s peer=%s failInfo=%s text=%r detail=%r",
        body,
        transaction_id.hex(),
        peer,
        fault.failure,
        fault.text,
        fault.detail,
    )


def kem_ciphertext_given(transaction_id: bytes, reference: str, peer: str) -> None:
    """The holder of a KEM certificate was given what to protect a request with; nobody has shown its key yet."""
    _log.info("KEM ciphertext given transaction=%s entity=%r peer=%s", transaction_id.hex(), reference, peer)


def certificate_confirmed(serial: bytes) -> None:
    """The end entity accepted a certificate."""
    _log.info("certificate confirmed serial=%s", serial.hex())


def certificate_revoked(serial: bytes, reason: str, cause: str) -> None:
    """A certificate was revoked."""
    _log.warning("certificate revoked serial=%s reason=%s cause=%r", serial.hex(), reason, cause)


def certificate_suspended(serial: bytes, cause: str) -> None:
    """A certificate was put on hold."""
    _log.warning("certificate suspended serial=%s cause=%r", serial.hex(), cause)


def certificate_resumed(serial: bytes, cause: str) -> None:
    """A suspended certificate is valid again."""
    _log.warning("certificate resumed serial=%s cause=%r", serial.hex(), cause)


def status_changed(change: StatusChange) -> None:
    """A certificate was revoked, suspended or resumed by an operator's command."""
    cause = f"{change.by} at {time_text(change.at)}"  # the log may hear of it later than of what came after it
    match change.state:
        case CertificateState.SUSPENDED:
            certificate_suspended(change.serial, cause)
        case CertificateState.CONFIRMED:
            certificate_resumed(change.serial, cause)
        case _:
            certificate_revoked(change.serial, change.reason or "unspecified", cause)


def announcement_received(body: str, reference: str) -> None:
    """An announcement came; cmpd does nothing about it."""
    _log.info("announcement received body=%s entity=%r", body, reference)


def claim_taken_back(transaction_id: bytes) -> None:
    """Certificates were about to be signed, or signed and never sent; they are abandoned."""
    _log.error("claim taken back transaction=%s", transaction_id.hex())


def passphrase_received(key_id: bytes, reference: str, transaction_id: bytes) -> None:
    """A revocation passphrase came and is kept."""
    _log.info(
        "revocation passphrase received keyId=%s entity=%r transaction=%s",
        key_id.hex(),
        reference,
        transaction_id.hex(),
    )


def challenge_sent(challenge: OpenChallenge, reference: str) -> None:
    """The requester has to decrypt something before it gets its certificate."""
    _log.info(
        "challenge sent certificates=%d entity=%r transaction=%s",
        len(challenge.expected),
        reference,
        challenge.transaction_id.hex(),
    )


def request_waits(waiting: WaitingRequest, reference: str) -> None:
    """A request was good, and waits for an operator; `reference`: of the entity."""
    _log.info(
        "request waits for an operator reference=%08X body=%s profile=%s subjects=%r entity=%r transaction=%s",
        waiting.reference,
        waiting.body,
        waiting.profile,
        waiting.subjects,
        reference,
        waiting.transaction_id.hex(),
    )


def waiting_request_answered(waiting: WaitingRequest, expired: bool, address: str) -> None:
    """Somebody at `address` came for the answer to a request that waited; lines before or after this say what was
    issued. By the polling reference of tcp-messages anybody may come who knows it.
    """
    _log.info(
        "waiting request answered reference=%08X decision=%s by=%r transaction=%s peer=%s",
        waiting.reference,
        "expired" if expired else waiting.decision,
        waiting.decided_by,
        waiting.transaction_id.hex(),
        address,
    )
