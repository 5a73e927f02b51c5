"""Plain values that travel between modules and into the database.

Nothing here does anything. Times are Unix seconds (int, UTC). Names are the DER of a Name. Serial numbers are the
contents octets of the INTEGER (positive, at most 20 octets), so that they sort by time (see ca.py).
"""

from dataclasses import field
from enum import StrEnum

from cmpd.frozen import frozen


class CertificateState(StrEnum):
    """Where a certificate is in its life; lifecycle.py has the table of what may follow what."""

    INTENDED = "intended"  # recorded, perhaps signed, not known to have been sent
    ISSUED = "issued"  # signed and recorded; the end entity has not confirmed it yet
    CONFIRMED = "confirmed"  # valid: confirmed by certConf, or implicitly
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    ABANDONED = "abandoned"  # intended by a process that ended before it could record the certificate; never sent


class TransactionState(StrEnum):
    """Where a transaction is; transaction.py has the table."""

    PROCESSING = "processing"  # the first request was admitted; no answer is durable yet
    CONFIRMING = "confirming"  # answered, certConf awaited until confirm_by
    ENDED = "ended"


class EntityKind(StrEnum):
    """How a registered end entity or RA proves who it is."""

    SECRET = "secret"  # noqa: S105 -- a kind, not one; reference value and shared secret
    CERTIFICATE = "certificate"  # this certificate, or with a CA certificate all under it


@frozen
class RegisteredControls:
    """What the controls of an entity's requests must say, in UTF-8; None = not registered (RFC 4211 section 6).

    `reg_token` is for one time (section 6.1); how often that is, the entity's uses say. `authenticator` is for long
    (section 6.2).
    """

    reg_token: bytes | None = field(default=None, repr=False)
    authenticator: bytes | None = field(default=None, repr=False)


@frozen
class Entity:
    """A registered end entity or RA.

    `subject`: Name that its requests must carry, None = no constraint. `profiles`: names it may use, the first one is
    its default; empty = the configuration's default profile only. `uses_left`: None = unlimited. `sealed_secret` is
    the shared secret encrypted under a key that is not in the database (store/sealing.py); `sealed_reg_token` and
    `sealed_authenticator` likewise. `controls` is what comes of opening these two: credentials.py puts it into the
    entity of whoever uses the registered credential; no store keeps it.
    """

    id: int
    reference: str
    kind: EntityKind
    subject: bytes | None = None
    profiles: tuple[str, ...] = ()
    uses_left: int | None = 1
    expires_at: int | None = None
    is_ra: bool = False
    disabled: bool = False
    created_at: int = 0
    sealed_secret: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    sealed_reg_token: bytes | None = field(default=None, repr=False)
    sealed_authenticator: bytes | None = field(default=None, repr=False)
    controls: RegisteredControls | None = None


@frozen
class Intent:
    """A certificate that is about to be signed; made by ca.prepare alone, recorded before the signature."""

    serial: bytes
    transaction_id: bytes
    cert_req_id: int
    entity_id: int
    profile: str
    subject: bytes
    subject_text: str
    key_id: bytes  # SHA-256 of the SubjectPublicKeyInfo, 32 octets
    not_before: int
    not_after: int
    tbs: bytes = field(repr=False)  # the octets that will be signed
    created_at: int = 0
    replaces: bytes | None = None  # serial of the certificate that a kur updates


@frozen
class CertificateRecord:
    """What the database knows of one certificate. `der` is None while it is only intended (or was abandoned)."""

    serial: bytes
    transaction_id: bytes
    cert_req_id: int
    entity_id: int
    profile: str
    state: CertificateState
    subject: bytes
    subject_text: str
    key_id: bytes
    not_before: int
    not_after: int
    created_at: int
    der: bytes | None = field(default=None, repr=False)
    changed_at: int | None = None  # of the last change of state
    reason: str | None = None  # CRLReason as spelt in RFC 5280, of the last revocation or suspension
    changed_by: str | None = None  # what caused the last change: "certConf", "confirmWaitTime has passed" ...
    replaces: bytes | None = None


@frozen
class TransactionRecord:
    """One transaction of CMP. `credential` names what protected its first request: all later ones must use the same.

    `sender_certificate`: DER of the protection certificate (None with a MAC), kept because certConf may omit it
    (RFC 9483 section 3.3). `server_nonce`: senderNonce of our last answer. `confirm_by`: end of the wait for certConf.
    """

    id: bytes
    state: TransactionState
    credential: str
    entity_id: int
    body: str  # name of the first request's body: "ir", "cr", "kur", "p10cr" ...
    started_at: int
    server_nonce: bytes = b""
    confirm_by: int | None = None
    sender_certificate: bytes | None = field(default=None, repr=False)
    ended_at: int | None = None
    certificates: tuple[CertificateRecord, ...] = ()  # filled by Store.find_transaction, ordered by cert_req_id


# --- changes: what a unit of Store.write consists of ---------------------------------------------------------------


@frozen
class OpenTransaction:
    """Insert a transaction; StoreConflict("transaction exists") if its ID is there."""

    transaction: TransactionRecord


@frozen
class MoveTransaction:
    """Change a transaction's state; StoreConflict("transaction moved") unless it is in `expected` now.

    CONFIRMING needs `confirm_by` and ENDED needs `ended_at` (StoreError), or nothing would ever clear it away.
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
class AddCertificate:
    """Record the signed certificate of an intent; the row's tbs is dropped. StoreConflict("not intended") otherwise."""

    serial: bytes
    der: bytes = field(repr=False)
    state: CertificateState  # ISSUED or CONFIRMED
    at: int


@frozen
class MoveCertificate:
    """Change a certificate's state; StoreConflict("certificate moved") unless it is in `expected` now."""

    serial: bytes
    expected: CertificateState
    state: CertificateState
    at: int
    reason: str | None = None
    by: str = ""


Change = (
    OpenTransaction | MoveTransaction | AddResponse | TakeUse | ReturnUse | AddIntent | AddCertificate | MoveCertificate
)


# --- who asks ------------------------------------------------------------------------------------------------------


@frozen
class Requester:
    """Who protected a request; made by protection.verify alone.

    `credential`: "secret:REFERENCE" or "certificate:SHA-256 in hex", the same for all messages of a transaction.
    The rest is about the protection certificate and None with a MAC: its DER, its subject, and, if this CA issued it,
    its serial number and the profile it was issued under.
    """

    credential: str
    entity: Entity
    certificate: bytes | None = field(default=None, repr=False)
    subject: bytes | None = None
    serial: bytes | None = None
    profile: str | None = None

    @property
    def is_registered(self) -> bool:
        """Whether the credential is what the operator registered: the secret, or this very certificate."""
        return self.certificate is None or self.certificate == self.entity.certificate
