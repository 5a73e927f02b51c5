"""Records for the tests of the store: everything that does not matter to a test has a default."""

from cmpd.changes import (
    AddCertificate,
    AddIntent,
    AddResponse,
    AddWaiting,
    Change,
    MoveTransaction,
    OpenTransaction,
    TakeUse,
)
from cmpd.records import (
    CertificateState,
    Entity,
    EntityKind,
    Intent,
    TransactionRecord,
    TransactionState,
    WaitingRequest,
)

NOW = 1_800_000_000


def octets(number: int, length: int = 16) -> bytes:
    """Octets that tell numbers apart."""
    return number.to_bytes(length)


def entity(reference: str = "device-1", *, uses_left: int | None = None, **fields: object) -> Entity:
    return Entity(0, reference, EntityKind.SECRET, uses_left=uses_left, created_at=NOW, **fields)


def transaction(number: int, owner: Entity, **fields: object) -> TransactionRecord:
    plain: dict[str, object] = {
        "state": TransactionState.PROCESSING,
        "credential": f"secret:{owner.reference}",
        "entity_id": owner.id,
        "body": "ir",
        "started_at": NOW,
    }
    return TransactionRecord(octets(number), **plain | fields)


def intent(number: int, owner: Entity, *, transaction_number: int | None = None, **fields: object) -> Intent:
    plain: dict[str, object] = {
        "serial": octets(number, 14),
        "transaction_id": octets(number if transaction_number is None else transaction_number),
        "cert_req_id": 0,
        "entity_id": owner.id,
        "profile": "tls",
        "subject": b"0\x00",
        "subject_text": f"CN=device {number}",
        "key_id": octets(number, 32),
        "not_before": NOW,
        "not_after": NOW + 86400,
        "tbs": b"tbs" * 100,
        "created_at": NOW,
    }
    return Intent(**plain | fields)


def waiting(number: int, owner: Entity, **fields: object) -> WaitingRequest:
    plain: dict[str, object] = {
        "transaction_id": octets(number),
        "reference": number,
        "digest": octets(number, 32),
        "request": b"\x30request %d" % number,  # as DER begins: not sealed
        "body": "ir",
        "entity_id": owner.id,
        "profile": "tls",
        "subjects": f"CN=device {number}",
        "received_at": NOW,
        "expires_at": NOW + 100,
    }
    return WaitingRequest(**plain | fields)


def holding(number: int, owner: Entity, *, limit: int = 100, **fields: object) -> list[Change]:
    """The unit of a request that has to wait for an operator."""
    held = transaction(number, owner, state=TransactionState.WAITING)
    return [OpenTransaction(held), AddWaiting(waiting(number, owner, **fields), limit)]


def claim(number: int, owner: Entity) -> list[Change]:
    """The unit before the signature of a request that was approved."""
    moved = MoveTransaction(octets(number), TransactionState.WAITING, TransactionState.PROCESSING, b"c" * 16)
    return [moved, TakeUse(owner.id, octets(number)), AddIntent(intent(number, owner))]


def opening(number: int, owner: Entity) -> list[Change]:
    """The unit before the signature."""
    return [
        OpenTransaction(transaction(number, owner)),
        TakeUse(owner.id, octets(number)),
        AddIntent(intent(number, owner)),
    ]


def answer(number: int, *, confirm_by: int | None = None) -> list[Change]:
    """The unit after the signature: implicitly confirmed and ended, or waiting for certConf."""
    ended = confirm_by is None
    return [
        AddCertificate(
            octets(number, 14),
            b"certificate %d" % number,
            CertificateState.CONFIRMED if ended else CertificateState.ISSUED,
            NOW + 1,
        ),
        MoveTransaction(
            octets(number),
            TransactionState.PROCESSING,
            TransactionState.ENDED if ended else TransactionState.CONFIRMING,
            b"n" * 16,
            confirm_by=confirm_by,
            ended_at=NOW + 1 if ended else None,
        ),
        AddResponse(octets(number), octets(number, 32), b"response %d" % number),
    ]
