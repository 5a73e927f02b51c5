"""The promise of a store: durable records, written in atomic units.

`write` takes one unit of changes and returns when it is durable: all of it, or none and StoreConflict. Units that
arrive while another commit runs share the next one (group commit). A caller that is cancelled before its unit's commit
began leaves nothing behind; once it began, the unit is written all the same.

`generation` grows whenever entities or the states of certificates may have changed, by this process or by another one
(an operator's command on the same database); caches compare it. A unit written with `as_of` lower than the generation
that holds when it is written is refused with StaleRead, so no decision rests on records that are older than the commit
that makes it durable. Read `generation` first and the records after it, never the other way round. Confirmation does
not let it grow (certConf is ordinary issuance): a cache may keep that one is confirmed, not that it is unconfirmed.

A unit with `rests_on` says which certificates' trust its decision rests on. Then the end of trust in others does not
make it stale, by whichever process: else many revocations at once would refuse each other, and all enrolments.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol

from cmpd.changes import Change, MoveCertificate
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    CertificateStatus,
    Entity,
    Publication,
    RevocationPassphrase,
    RevokedCertificate,
    ServiceCertificate,
    StatusChange,
    TransactionRecord,
    WaitingRequest,
)

_TRUSTED = frozenset({CertificateState.CONFIRMED, CertificateState.SUSPENDED})
"""States in which a certificate may vouch for something; before confirmation it vouches for nothing."""


def ends_trust(changes: Iterable[Change]) -> tuple[bytes, ...]:
    """The certificates about which decisions made before may be wrong after these changes: the generation grows."""
    return tuple(c.serial for c in changes if isinstance(c, MoveCertificate) and c.expected in _TRUSTED)


_MOST_ENDED: Final = 10_000


class Staleness:
    """Which decisions are out of date: what has changed since which generation."""

    def __init__(self) -> None:
        self._everything = 0  # the generation that came of the last change of anything
        self._ended: dict[bytes, int] = {}  # serial -> the generation that came of the end of trust in it

    def everything(self, generation: int) -> None:
        """Whatever was read before this generation may be wrong."""
        self._everything = generation
        self._ended.clear()

    def ended(self, serials: Iterable[bytes], generation: int) -> None:
        """Trust in these certificates ended with this generation."""
        self._ended.update(dict.fromkeys(serials, generation))
        if len(self._ended) > _MOST_ENDED:
            self.everything(generation)

    def add(self, later: "Staleness") -> None:
        """Take over what came later."""
        if later._everything:
            self.everything(later._everything)
        for serial, generation in later._ended.items():
            self.ended((serial,), generation)

    def is_stale(self, as_of: int, generation: int, rests_on: Collection[bytes] | None) -> bool:
        """Whether a decision of generation `as_of` may be wrong at `generation`."""
        if rests_on is None:
            return as_of < generation
        return as_of < self._everything or any(as_of < self._ended.get(serial, 0) for serial in rests_on)


class Store(Protocol):
    """Durable records of entities, transactions and certificates. Every method may raise StoreError."""

    @property
    def generation(self) -> int:
        """Grows when entities or certificate states may have changed (never by ordinary issuance)."""

    def statistics(self) -> dict[str, int]:
        """Figures since it was opened: "commits" and "units" written, for the log."""

    async def refresh(self) -> int:
        """Notice what other processes changed since the last write, cheaply; returns the generation."""

    async def write(
        self, changes: Sequence[Change], *, as_of: int | None = None, rests_on: Collection[bytes] | None = None
    ) -> None:
        """Make one unit durable, or raise StoreConflict or StaleRead and change nothing.

        `rests_on`: serial numbers of the certificates whose trust the decision rests on, may be empty; None: any.
        """

    async def find_transaction(self, transaction_id: bytes) -> TransactionRecord | None:
        """The transaction with its certificates, the abandoned ones left out; purged: without sender_certificate,
        kem_secrets and mac_parameters.
        """

    async def find_response(self, transaction_id: bytes, request_digest: bytes) -> tuple[bool, bytes | None]:
        """(True, octets or None for finRep) if this request of the transaction was answered, else (False, None)."""

    async def find_entity(self, reference: str) -> Entity | None:
        """The entity with this reference value, disabled and expired ones included."""

    async def find_entity_by_id(self, entity_id: int) -> Entity | None:
        """The entity with this id."""

    async def list_entities(self, *, with_certificate: bool = False) -> list[Entity]:
        """All entities by reference value, or those whose credential is a certificate."""

    async def add_entity(self, entity: Entity) -> Entity:
        """Insert (id is ignored); StoreConflict("reference exists"). Returns it with its id."""

    async def disable_entity(self, reference: str) -> bool:
        """Disable; False if there is none. Lets the generation grow, as add_entity does."""

    async def find_certificate(self, serial: bytes) -> CertificateRecord | None:
        """The record of a serial number."""

    async def list_certificates(
        self,
        *,
        subject: str | None = None,
        state: CertificateState | None = None,
        at: int | None = None,
        limit: int = 1000,
        after: bytes = b"",
    ) -> list[CertificateRecord]:
        """By serial number; `subject`: part of subject_text, whatever its case; `after`: serial to go on from.

        `state` is the recorded one, or with `at` (Unix seconds) the one at that time, so that EXPIRED can be asked for.
        """

    async def sharing_key(self, serial: bytes, digest: bytes, limit: int) -> list[tuple[bytes, str]]:
        """Other certificates that claim the key with this digest, as the one with this serial number does, but are of
        another entity or for another subject: (serial number, reference value of the entity), by serial number.
        """

    async def certificate_status(self, serials: Sequence[bytes]) -> dict[bytes, CertificateStatus]:
        """The states of these certificates (at most 100), those of service certificates too. What was never issued
        (unknown, INTENDED, ABANDONED) is left out. Always what is committed now, also by other processes.
        """

    async def history(self, serial: bytes) -> list[StatusChange]:
        """The status changes of one certificate, the oldest first."""

    async def status_changes(self, *, after: int, limit: int) -> list[StatusChange]:
        """Those of all certificates with an id greater than `after`, by id."""

    async def revoked(self, *, expiring_from: int, limit: int, after: bytes = b"") -> list[RevokedCertificate]:
        """What is revoked or on hold and has a notAfter of at least `expiring_from`, by serial from `after` on."""

    async def publication(self) -> Publication:
        """Where publishing stands; one cheap read."""

    async def service_certificates(self, purpose: str) -> list[ServiceCertificate]:
        """Those for a purpose, by created_at."""

    async def find_passphrase(self, key_id: bytes) -> RevocationPassphrase | None:
        """The revocation passphrase with this key identifier."""

    async def find_waiting(self, reference: int) -> WaitingRequest | None:
        """The request with this polling reference, answered ones included until they are purged. Always what is
        committed now, also by other processes.
        """

    async def list_waiting(
        self, *, undecided_only: bool = True, limit: int = 1000, after: int = 0
    ) -> list[WaitingRequest]:
        """Requests that wait for an operator (`undecided_only`), or all that are kept, with `request` left empty; by
        reference, from the one `after` on.
        """

    async def unconfirmed(self, before: int, limit: int) -> list[TransactionRecord]:
        """Transactions whose confirm_by is before `before` (in CONFIRMING, PROVING, CHALLENGED), with certificates."""

    async def recover(self, at: int) -> int:
        """After an unclean end: intents without certificate become ABANDONED, the uses that their transactions took are
        given back, and all transactions in PROCESSING are deleted, so that the repeated request is processed anew; or
        are WAITING again, with the operator's decision, or CHALLENGED, if they were that before.
        For the serving process alone, before it serves. Returns how many intents were abandoned.

        A certificate that was recorded stays what it is (and keeps its use): AddCertificate belongs in one unit with
        the MoveTransaction or OpenTransaction that takes its transaction out of PROCESSING.
        """

    async def purge(self, ended_before: int, limit: int) -> int:
        """Forget at most `limit` transactions that ended before, in small units between which others are written:
        their responses, sender_certificate, kem_secrets, mac_parameters, WaitingRequest and OpenChallenge are deleted,
        certificates never. Returns how many. A transaction in WAITING ended when its WaitingRequest expired.

        A transaction of which there are certificates, in whatever state, stays otherwise, and so does one with
        keeps_id, and one that brought a revocation passphrase: its transactionID is never free again (a replayed rr
        must not suspend or resume anything), and purge does not come back to it. Others are deleted whole.
        """

    async def forget_crls(self, ended_before: int) -> int:
        """Forget the CRLs whose nextUpdate is before, and that are older than the last scheduled one that is out, and
        the orders that were fulfilled. The highest number and the last order stay. Returns how many were forgotten.
        """

    async def close(self) -> None:
        """Write what is queued and let go of the database."""
