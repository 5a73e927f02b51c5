"""What a handler is handed and what it gives back. A handler decides and arranges; the responder protects and sends."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field
from typing import Protocol

from cmpd.asn1 import oids
from cmpd.ca import CertificateAuthority
from cmpd.changes import Change
from cmpd.config import EnrolmentConfig
from cmpd.config_status import RevocationConfig
from cmpd.env import Env
from cmpd.frozen import frozen
from cmpd.handlers.attempts import Attempts
from cmpd.handlers.kem_secrets import seal_secrets
from cmpd.keeping import SecretSealer
from cmpd.name_constraints import MatchForm
from cmpd.origin import Origin, Waiting
from cmpd.profiles import Profile
from cmpd.protection.base import AgreementKey, KemKey, Offload, ProtectionPolicy, VerifiedRequest
from cmpd.records import CertificateState, TransactionRecord, TransactionState
from cmpd.store.base import Store
from cmpd.transaction import CONTINUES


class CrlSource(Protocol):
    """Where the newest published CRLs are."""

    @property
    def full(self) -> bytes | None:
        """DER of the CertificateList, None if there is none yet."""

    @property
    def delta(self) -> bytes | None:
        """DER of the delta CRL, None if there is none."""


class Recipient(Protocol):
    """The key that others encrypt to for this server (the protocol encryption certificate of RFC 9810)."""

    @property
    def certificate(self) -> bytes:
        """DER of the certificate (caProtEncCert)."""

    async def decrypt_key(self, algorithm: bytes, encrypted_key: bytes) -> bytes:
        """The symmetric key that was encrypted to the certificate's key; `algorithm`: DER of the AlgorithmIdentifier.

        BadAlg if the algorithm is not supported. Octets that are not for this key give a random key, so that nobody
        learns from the answer what was wrong.
        """


def _nobody() -> None:
    """Nobody wants to know."""


@frozen
class Service:
    """What handlers work with; made once by the daemon. `reserved_names`: Names that nobody gets.

    `status_changed` is called when a revocation, suspension or resumption is durable: CRLs are due. `crls`, `sealer`,
    `recipient`, `agreement` and `kem` are None where the configuration has no place for them. `kem_only`: answers that
    would be signed are protected by `kem` instead. `offload` runs derivations of more than
    `protection.inline_iterations`; None = inline.
    """

    env: Env
    store: Store
    ca: CertificateAuthority
    profiles: Mapping[str, Profile]
    enrolment: EnrolmentConfig
    reserved_names: frozenset[MatchForm] = frozenset()
    revocation: RevocationConfig = RevocationConfig()
    status_changed: Callable[[], None] = _nobody
    crls: CrlSource | None = None
    sealer: SecretSealer | None = field(default=None, repr=False)
    recipient: Recipient | None = field(default=None, repr=False)
    protection: ProtectionPolicy = ProtectionPolicy()
    offload: Offload | None = None
    attempts: Attempts = field(default_factory=Attempts, repr=False)
    agreement: AgreementKey | None = field(default=None, repr=False)
    kem: KemKey | None = field(default=None, repr=False)
    kem_only: bool = False


class Claim:
    """What a handler has made durable already. `undo` gives the changes that end the transaction if no answer comes."""

    __slots__ = ("undo",)

    def __init__(self) -> None:
        self.undo: Callable[[], Sequence[Change]] | None = None


@frozen
class Context:
    """One request's surroundings. `record`: the transaction it continues, None for a first message. A certificate
    request that waited for an operator is handled anew with the record of its own transaction.

    `proven`: of a request that popdecr came for, whether its integer was right, by certReqId; None before that.

    `origin`: where it came in. `as_of`: the store's generation that its verification rests on. `nonce`: the senderNonce
    its answer will have. `claim`: a handler that makes something durable before it returns says there how to take that
    back.
    """

    service: Service
    request: VerifiedRequest
    transaction_id: bytes
    nonce: bytes = field(repr=False)
    as_of: int
    origin: Origin
    record: TransactionRecord | None = None
    claim: Claim = field(default_factory=Claim)
    proven: Mapping[int, bool] | None = None

    def transaction(
        self, state: TransactionState = TransactionState.ENDED, *, keeps_id: bool = False
    ) -> TransactionRecord:
        """The record of the transaction that this request begins."""
        requester, kem = self.request.requester, self.request.kem
        now = int(self.service.env.now())
        return TransactionRecord(
            id=self.transaction_id,
            state=state,
            credential=requester.credential,
            entity_id=requester.entity.id,
            body=self.request.envelope.body_name,
            started_at=now,
            server_nonce=self.nonce,
            sender_certificate=requester.certificate if kem is not None else None,  # a repeat is verified with it
            ended_at=now if state is TransactionState.ENDED else None,
            kem_secrets=None if kem is None else seal_secrets(self.service.sealer, self.transaction_id, kem),
            mac_parameters=None if self.strict else self._mac_parameters,
            keeps_id=keeps_id,
        )

    @property
    def _mac_parameters(self) -> bytes | None:
        """The protectionAlg of a PasswordBasedMac, if another message may have the same."""
        algorithm = self.request.envelope.header.protection_alg
        fit = algorithm is not None and oids.PASSWORD_BASED_MAC in algorithm and self.request.protector.renewed is None
        return algorithm if fit else None

    @property
    def strict(self) -> bool:
        """Whether the message is held to RFC 9483 alone; what waited was so when it came, at a door of its own."""
        body = self.request.envelope.body_name
        return self.origin.door.strict and (self.record is None or body in CONTINUES)

    @property
    def may_be_granted(self) -> bool:
        """Whether anything ever will be: to the holder of a revoked certificate nothing is, whenever he asks, so a
        replay of his does no harm. He must not fill the database.
        """
        return self.request.requester.state is not CertificateState.REVOKED

    @property
    def rests_on(self) -> tuple[bytes, ...]:
        """The certificates of this CA whose trust its verification rests on (Store.write)."""
        serial = self.request.requester.serial
        return () if serial is None else (serial,)


@frozen
class Reply:
    """An answer's body with what must be durable before it is sent. `body_type` None: no CMP answer (finRep).

    `changes` are written in one unit together with the answer's octets. `after_write` is called when they are durable
    (for the audit log). `kept_as`: SHA-256 of the requests that get these octets when they come again, None: this one
    alone. `nonce`: senderNonce, None: the context's. `rev_passphrase`: one was taken from the request's header before.
    `waiting`: not ready, to be said by the transport instead of a body.
    """

    body_type: int | None
    body: bytes = field(default=b"", repr=False)
    changes: tuple[Change, ...] = ()
    implicit_confirm: bool = False
    confirm_wait: int | None = None
    extra_certs: tuple[bytes, ...] = field(default=(), repr=False)
    after_write: Callable[[], None] | None = None
    kept_as: tuple[bytes, ...] | None = None
    nonce: bytes | None = field(default=None, repr=False)
    rev_passphrase: bool = False
    waiting: Waiting | None = None


Handler = Callable[[Context], Awaitable[Reply]]
