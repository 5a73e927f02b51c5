"""Changes: what a unit of Store.write consists of.

Each names the state that it expects, so that a unit rests on nothing that somebody else has changed meanwhile: it is
written whole, or StoreConflict says what was found. Values like those of records.py, of which they are made.
"""

from dataclasses import field
from typing import Literal

from cmpd.frozen import frozen
from cmpd.records import (
    CertificateState,
    CrlRecord,
    Decision,
    Intent,
    OpenChallenge,
    RevocationPassphrase,
    ServiceCertificate,
    TransactionRecord,
    TransactionState,
    WaitingRequest,
)


@frozen
class OpenTransaction:
    """Insert a transaction; StoreConflict("transaction exists") if its ID is there."""

    transaction: TransactionRecord


@frozen
class MoveTransaction:
    """Change a transaction's state; StoreConflict("transaction moved") unless it is in `expected` now.

    CHALLENGED, CONFIRMING and PROVING need `confirm_by` and ENDED needs `ended_at` (StoreError), or nothing would ever
    clear it away.
    """

    id: bytes
    expected: TransactionState
    state: TransactionState
    server_nonce: bytes
    confirm_by: int | None = None
    ended_at: int | None = None
    sender_certificate: bytes | None = field(default=None, repr=False)  # None leaves what is there


@frozen
class AddResponse:
    """Keep the answer to a request: the same request gets the same octets. `response` None = answered by finRep.

    StoreConflict("response exists") if the request was answered already.
    """

    transaction_id: bytes
    request_digest: bytes  # SHA-256 of the request's DER, 32 octets
    response: bytes | None = field(repr=False)


@frozen
class TakeUse:
    """Count one enrolment of a transaction (opened before, for the same entity) against the entity.

    StoreConflict("entity used up") if none is left, ("entity disabled") if it was disabled or is gone. The transaction
    keeps count of what it took, so that Store.recover can give it back.
    """

    entity_id: int
    transaction_id: bytes


@frozen
class ReturnUse:
    """Give an entity one use back: the certificate was never accepted.

    Nothing happens if the transaction took none or has given all back, or if the entity's uses are unlimited.
    """

    entity_id: int
    transaction_id: bytes


@frozen
class AddIntent:
    """Record what is about to be signed (state INTENDED)."""

    intent: Intent


@frozen
class Claim:
    """What a certificate wants for itself: a subject or a key by a digest of it (32 octets), or its serial number.

    `alone`: no other certificate may have it; else those of the same entity may. Whatever of two certificates says so.
    A claim that is not `binding` keeps nothing away and nothing keeps it away: it is there to be found.
    """

    what: Literal["subject", "key", "serial"]
    digest: bytes = b""
    alone: bool = True
    binding: bool = True


@frozen
class ClaimUnique:
    """Record what an intent of the same unit, added before, wants for itself.

    StoreConflict("subject taken") or ("key taken") if another certificate has it: one that is intended or valid at
    `at`, or whose key is compromised (in whatever lineage). Those of one lineage do not exclude each other: a
    certificate, what `replaces` it (kur), what replaces that ... A claim on the serial number comes before its intent:
    StoreConflict("serial number taken") if any certificate has it, one of the CA's own included.
    """

    serial: bytes
    claims: tuple[Claim, ...]
    at: int
    replaces: bytes | None = None


@frozen
class AddCertificate:
    """Record the signed certificate of an intent; the row's tbs is dropped. StoreConflict("not intended") otherwise."""

    serial: bytes
    der: bytes = field(repr=False)
    state: CertificateState  # ISSUED or CONFIRMED
    at: int


@frozen
class MoveCertificate:
    """Change a certificate's state; StoreConflict("certificate moved") unless it is in `expected` now.

    To REVOKED or SUSPENDED: `revoked_at` (None: `at`) and `invalidity_date` are kept, and a StatusChange is appended.
    From SUSPENDED to CONFIRMED: revoked_at, reason and invalidity_date are cleared, and a StatusChange is appended.
    """

    serial: bytes
    expected: CertificateState
    state: CertificateState
    at: int
    reason: str | None = None
    by: str = ""
    invalidity_date: int | None = None
    revoked_at: int | None = None


@frozen
class OrderCrl:
    """Ask the process that serves the database for a new CRL (an operator's command does)."""

    at: int
    by: str


@frozen
class AddCrl:
    """Take a CRL number before anything is signed under it; StoreConflict("crl number taken") unless it is
    higher than every other one. The record's published_at is None.
    """

    crl: CrlRecord


@frozen
class PublishCrl:
    """The CRL with this number is where everybody gets it; StoreConflict("no such crl") if the number is unknown."""

    number: int
    at: int


@frozen
class AddServiceCertificate:
    """Record a certificate that the CA is about to make for itself (an intent: `der` None), before it is signed."""

    certificate: ServiceCertificate


@frozen
class SignServiceCertificate:
    """Record the signed certificate of an AddServiceCertificate; StoreConflict("not intended") if there is none."""

    serial: bytes
    der: bytes = field(repr=False)


@frozen
class SetRevocationPassphrase:
    """Keep a revocation passphrase, in place of the one with the same key identifier of the same holder.

    StoreConflict("passphrase identifier in use") if another holder has the key identifier,
    ("too many passphrases") if the holder has `limit` others already. The ID of the transaction that brought it, opened
    before, is never free again: the message must not bring an old passphrase back one day.
    """

    passphrase: RevocationPassphrase
    limit: int
    transaction_id: bytes = b""


@frozen
class AddWaiting:
    """Keep a request that waits for an operator, in one unit with the OpenTransaction (WAITING) that opens its
    transaction. StoreConflict("reference taken") if another request has its reference, ("too many waiting") if `limit`
    requests wait already, ("too many waiting of one") if those of its entity are as many as there are places left: one
    entity gets no more than half of them, and leaves some to all others.
    """

    waiting: WaitingRequest
    limit: int


@frozen
class DecideWaiting:
    """Record what an operator has decided; StoreConflict("not waiting") unless the request is undecided and has not
    expired at `at`.
    """

    transaction_id: bytes
    decision: Decision
    at: int
    by: str
    text: str = ""


@frozen
class AddChallenge:
    """Keep what popdecr is held against, in one unit with what brings its transaction into CHALLENGED; once each.

    It is there until the transaction is in another state than CHALLENGED and PROCESSING: it holds a whole request.
    StoreConflict("too many challenges") and ("too many challenges of one") as AddWaiting has them.
    """

    challenge: OpenChallenge
    limit: int


Change = (
    OpenTransaction
    | MoveTransaction
    | AddResponse
    | TakeUse
    | ReturnUse
    | AddIntent
    | ClaimUnique
    | AddCertificate
    | MoveCertificate
    | OrderCrl
    | AddCrl
    | PublishCrl
    | AddServiceCertificate
    | SignServiceCertificate
    | SetRevocationPassphrase
    | AddWaiting
    | DecideWaiting
    | AddChallenge
)
