"""Plain values that travel between modules and into the database.

Nothing here does anything. Times are Unix seconds (int, UTC). Names are the DER of a Name. Serial numbers are the
contents octets of the INTEGER (positive, at most 20 octets), so that they sort by time (see ca.py).
"""

from dataclasses import field
from enum import StrEnum
from typing import Final

from cmpd.frozen import frozen


class CertificateState(StrEnum):
    """Where a certificate is in its life; lifecycle.py has the table of what may follow what."""

    INTENDED = "intended"  # recorded, perhaps signed, not known to have been sent
    ISSUED = "issued"  # signed and recorded; the end entity has not confirmed it yet
    CONFIRMED = "confirmed"  # valid: confirmed by certConf, or implicitly
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    ABANDONED = "abandoned"  # intended by a process that ended before it could record the certificate; never sent
    EXPIRED = "expired"  # no record is in it: what any certificate but a revoked one is after its notAfter (lifecycle)


CRL_REASONS: Final = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "certificateHold": 6,
    "removeFromCRL": 8,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
"""CRLReason (RFC 5280 section 5.3.1): name and number; 7 is not used."""


class TransactionState(StrEnum):
    """Where a transaction is; transaction.py has the table."""

    PROCESSING = "processing"  # the first request was admitted; no answer is durable yet
    WAITING = "waiting"  # an operator has to decide; decided or not, the requester has not come for the answer
    CHALLENGED = "challenged"  # popdecc was sent, popdecr awaited until confirm_by
    CONFIRMING = "confirming"  # answered, certConf awaited until confirm_by
    PROVING = "proving"  # the same, but a certificate was sent encrypted: certHash is its proof-of-possession
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
    entity of whoever uses the registered credential; no store keeps it. `may_revoke`: its shared secret may ask for
    the revocation of its certificates (rr); certificates and RAs may without it.
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
    may_revoke: bool = False
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
    changed_by: str | None = None  # what caused the last change: "certConf", "operator", a requester's credential ...
    replaces: bytes | None = None
    revoked_at: int | None = None  # since when it is revoked or on hold (the CRL's revocationDate); else None
    invalidity_date: int | None = None  # as asked for with the revocation or suspension


class Decision(StrEnum):
    """What an operator has said of a request that waits for it."""

    UNDECIDED = "undecided"
    APPROVED = "approved"
    REJECTED = "rejected"


@frozen
class WaitingRequest:
    """A certificate request that waits for an operator's decision; kept until its transaction is purged.

    `reference`: 1 to 2^32 - 1, the same as long as it is kept and of one request alone; what polling by tcp-messages
    is about. `request`: the PKIMessage as it came, sealed (keeping.py), `digest` the SHA-256 of its DER: it is worked
    on anew when it is approved and its requester asks for the answer. `expires_at`: afterwards it counts as rejected.
    `subjects`: texts of the names asked for, for the operator; `text`: the operator's reason, which the requester is
    told.
    """

    transaction_id: bytes
    reference: int
    digest: bytes
    request: bytes = field(repr=False)
    body: str
    entity_id: int
    profile: str
    subjects: str
    received_at: int
    expires_at: int
    decision: Decision = Decision.UNDECIDED
    decided_at: int | None = None
    decided_by: str = ""
    text: str = ""
    answered: bool = False  # its transaction has left WAITING; filled by the store's reads


@frozen
class OpenChallenge:
    """What a transaction in CHALLENGED goes on with (RFC 9810 section 5.2.8.3.3).

    `expected`: for each Challenge, in their order, the certReqId and the SHA-256 of the DER of its INTEGER, which is
    too long to be guessed. `request`: the PKIMessage, sealed (keeping.py); it is worked on anew with popdecr.
    """

    transaction_id: bytes
    expected: tuple[tuple[int, bytes], ...]
    expires_at: int
    request: bytes = field(repr=False)


@frozen
class TransactionRecord:
    """One transaction of CMP. `credential` names what protected its first request: all later ones must use the same.

    `sender_certificate`: DER of the protection certificate (None with a MAC), kept because certConf may omit it
    (RFC 9483 section 3.3). `server_nonce`: senderNonce of our last answer. `confirm_by`: end of the wait for certConf
    or popdecr. `kem_secrets`: the secrets of its KEM ciphertexts, sealed (handlers/kem.py). `mac_parameters`: DER of
    the protectionAlg of a first request with PasswordBasedMac, where later ones may leave its parameters out.
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
    kem_secrets: bytes | None = field(default=None, repr=False)
    mac_parameters: bytes | None = field(default=None, repr=False)
    certificates: tuple[CertificateRecord, ...] = ()  # filled by Store.find_transaction, ordered by cert_req_id
    keeps_id: bool = False  # for OpenTransaction: the ID is never free again, also if there are no certificates
    waiting: WaitingRequest | None = field(default=None, repr=False)  # filled by Store.find_transaction, if it waited
    challenge: OpenChallenge | None = field(default=None, repr=False)  # the same, in CHALLENGED


# --- status of certificates and what is published of it --------------------------------------------------------------


@frozen
class StatusChange:
    """One revocation, suspension or resumption, as it was recorded; never changed or deleted. `id` grows by time."""

    id: int
    serial: bytes
    at: int
    state: CertificateState  # after it: REVOKED, SUSPENDED or CONFIRMED (resumed)
    reason: str | None
    by: str
    invalidity_date: int | None
    revoked_at: int  # since when it is revoked or on hold: before `at` if a hold became a revocation
    not_after: int  # of the certificate


@frozen
class RevokedCertificate:
    """What a CRL says of one certificate. `reason`: CRLReason as spelt in RFC 5280, None = not said."""

    serial: bytes
    revoked_at: int
    reason: str | None
    invalidity_date: int | None
    not_after: int


@frozen
class CertificateStatus:
    """What OCSP needs of one certificate. A certificate that the CA made for itself is CONFIRMED."""

    serial: bytes
    state: CertificateState
    revoked_at: int | None = None
    reason: str | None = None


@frozen
class CrlRecord:
    """One CRL number. The full and the delta CRL that are issued at the same time share it (RFC 5280 section 5.2.3).

    `base`: number of the full CRL that the delta starts from, None = no delta. `last_change`: the last StatusChange.id
    that it contains. `last_order`: the last OrderCrl that it fulfils. `scheduled`: issued by schedule, not for a
    change; deltas start from these, and entries of expired certificates are dropped after one of them.
    """

    number: int
    this_update: int
    next_update: int
    last_change: int
    last_order: int = 0
    base: int | None = None
    scheduled: bool = True
    published_at: int | None = None


@frozen
class Publication:
    """Where publishing stands. `last_change` and `last_order`: highest ids, 0 = none yet.

    `last_number`: highest CRL number that was ever taken, 0 = none. `latest`: the published CRL with the highest
    number. `scheduled`: the published scheduled one with the highest number.
    """

    last_change: int = 0
    last_order: int = 0
    last_number: int = 0
    latest: CrlRecord | None = None
    scheduled: CrlRecord | None = None


@frozen
class ServiceCertificate:
    """A certificate that the CA made for itself: its OCSP responder's, its CMP certificate. `der` None: intended."""

    serial: bytes
    purpose: str  # "ca", "cmp", "encryption", "agreement", "kem", "ocsp"
    subject_text: str
    not_before: int
    not_after: int
    created_at: int
    der: bytes | None = field(default=None, repr=False)


@frozen
class RevocationPassphrase:
    """A passphrase that authenticates later revocation requests of its holder (RFC 9810 appendix B).

    `key_id`: what senderKID of such a request is (localKeyId, valueHint, or the senderKID that it was brought with).
    The holder is `entity_id` and, unless None, the `subject` (DER of a Name) of the certificates it stands for.
    """

    key_id: bytes
    entity_id: int
    subject: bytes | None
    sealed: bytes = field(repr=False)
    created_at: int


# --- who asks ------------------------------------------------------------------------------------------------------


@frozen
class Requester:
    """Who protected a request; made by protection.verify alone.

    `credential`: "secret:REFERENCE"; "certificate:", "agreement:", "kem:" and the SHA-256 in hex of a certificate, for
    a signature, DHBasedMac, KemBasedMac; or "tls:" and that of the certificate of a TLS client whose message has no
    protection. It is the same for all messages of a transaction.
    The rest is about the protection (or TLS) certificate and None with a shared secret: its DER, its subject, and, if
    this CA issued it, its serial number, the profile it was issued under, and its state: CONFIRMED, and in an rr also
    SUSPENDED or REVOKED, which vouch for nothing but what handlers/revoke.py says.
    `passphrase`: the MAC is by this revocation passphrase, which is good for rr alone ("passphrase:KEY_ID in hex").
    """

    credential: str
    entity: Entity
    certificate: bytes | None = field(default=None, repr=False)
    subject: bytes | None = None
    serial: bytes | None = None
    profile: str | None = None
    state: CertificateState | None = None
    passphrase: RevocationPassphrase | None = None

    @property
    def is_registered(self) -> bool:
        """Whether the credential is what the operator registered: the secret, or this very certificate."""
        if self.passphrase is not None:
            return False
        return self.certificate is None or self.certificate == self.entity.certificate
