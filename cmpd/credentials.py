"""Who a message may come from: shared secrets and protection certificates, looked up and remembered.

What is costly and cannot change is remembered beyond any change in the store: opened secrets, certificates that were
read, signatures that were verified. What can change (states of certificates, entities and registrations) is remembered
with the generation of the store that was current BEFORE it was read; when the generation has moved on it is read again.
Times are compared on every use. Only what was found good is remembered, so that junk pushes nothing out.

Rules that are decided here:
* A certificate of this CA must be on record with the same octets and be CONFIRMED: one that its owner has not accepted
  yet (certConf, RFC 9810 section 5.3.18) proves nothing. It stands for the entity that it was issued to.
  Whoever asks for `any_status` (rr) gets one that is suspended or revoked too, with its state; it is not remembered.
* A certificate that an RA asked for is somebody else's: its holder has none of the RA's rights and constraints, and
  stays when the RA is disabled. An RA that protects with a certificate has that certificate registered.
* expires_at of an entity ends the use of what was registered: its certificate and all under its CA certificate; with
  a secret nothing new may be asked for (handlers/cert_req.py). A certificate that this CA issued to it lives as long
  as it is valid and the entity is not disabled.
* A registration of the very certificate goes before everything else, also for a certificate of this CA (which must
  still be confirmed); then the nearest registered CA certificate decides, also when it says no because it is disabled.
* What an entity's regToken and authenticator must be is asked of whoever uses what was registered (controls.py).
"""

import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Generic, Literal, Protocol, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1.names import read_name
from cmpd.certificates import Certificate, read_certificate, time_text, verify_signature
from cmpd.env import Env
from cmpd.errors import BadDataFormat, SignerNotTrusted
from cmpd.name_constraints import match_form
from cmpd.paths import (
    LEAF_NOUN,
    CertificationPath,
    PathLimits,
    TrustAnchor,
    TrustAnchors,
    Verify,
    find_path,
    read_certificates,
)
from cmpd.protection.base import SecretCredential, SenderCredential
from cmpd.records import CertificateRecord, CertificateState, Entity, EntityKind, RegisteredControls
from cmpd.store.base import Store

MAX_REFERENCE: Final = 512
"""Longest reference value that the store is asked for, in octets."""

log = logging.getLogger(__name__)


def control_reference(reference: str, control: Literal["regToken", "authenticator"]) -> str:
    """What the registered value of a control is sealed for, so that no sealed value can stand for one of another kind.

    No reference value has a NUL in it.
    """
    return f"{reference}\0{control}"


def passphrase_reference(key_id: bytes) -> str:
    """What a revocation passphrase is sealed for; no reference value and no control has the like."""
    return f"{key_id.hex()}\0passphrase"


class SecretOpener(Protocol):
    """Opens what the store keeps sealed."""

    def open(self, sealed: bytes, reference: str, /) -> bytes:
        """The secret; StoreError if it cannot be opened."""


@dataclass(frozen=True, slots=True)
class CredentialLimits:
    """How many of each are remembered, and what looking for a path may cost."""

    secrets: int = 4096
    senders: int = 4096
    issuers: int = 256
    path: PathLimits = field(default_factory=PathLimits)


class CredentialDirectory:
    """The Credentials of a store (protection/base.py)."""

    def __init__(
        self,
        store: Store,
        sealer: SecretOpener,
        issuers: Iterable[bytes],
        env: Env,
        *,
        limits: CredentialLimits | None = None,
        verify: Verify = verify_signature,
    ) -> None:
        """`issuers`: this CA's own certificates, DER each; BadDataFormat if one cannot be read."""
        self._store, self._sealer, self._env, self._verify = store, sealer, env, verify
        self._limits = limits or CredentialLimits()
        self._own = TrustAnchors.read(issuers)
        self._secrets: _Lru[bytes, _Secret] = _Lru(self._limits.secrets)
        self._senders: _Lru[bytes, _Sender] = _Lru(self._limits.senders)
        self._issuers: _Lru[bytes, _Verified] = _Lru(self._limits.issuers)
        self._registered = _Registered(-1, TrustAnchors(), {}, {})

    async def secret(self, reference: bytes) -> SecretCredential | None:
        """The shared secret registered under this reference value; None if there is none, or it is disabled.

        Neither the uses that are left nor the expiry are looked at: a repeated request and a certConf must verify after
        them too. They limit what may be asked for anew.
        """
        generation = self._store.generation
        known = self._secrets.get(reference)
        if known is None or known.generation != generation:
            known = await self._read_secret(reference, generation, known)
        return None if known is None else known.credential

    async def _read_secret(self, reference: bytes, generation: int, stale: "_Secret | None") -> "_Secret | None":
        entity = await self._store.find_entity(text) if (text := _reference_text(reference)) else None
        if entity is None or entity.disabled or entity.kind != EntityKind.SECRET or entity.sealed_secret is None:
            self._secrets.drop(reference)
            return None
        if stale is not None and stale.credential.entity.sealed_secret == entity.sealed_secret:
            secret = stale.credential.secret
        else:
            secret = self._sealer.open(entity.sealed_secret, entity.reference)
        found = _Secret(SecretCredential(self._with_controls(entity), secret), generation)
        self._secrets.put(reference, found)
        return found

    async def passphrase(self, key_id: bytes) -> SecretCredential | None:
        """The revocation passphrase with this key identifier; None if there is none, or its entity is disabled.

        Read anew each time: it is used once in a certificate's life. It does not end with the entity's registration,
        as certificates that were issued under it do not.
        """
        found = await self._store.find_passphrase(key_id) if len(key_id) <= MAX_REFERENCE else None
        if found is None:
            return None
        entity = await self._store.find_entity_by_id(found.entity_id)
        if entity is not None and entity.is_ra and found.subject is not None:  # as with their certificates
            entity = replace(entity, is_ra=False, subject=None, profiles=(), disabled=False)
        if entity is None or entity.disabled:
            return None
        return SecretCredential(entity, self._sealer.open(found.sealed, passphrase_reference(key_id)), found)

    async def sender(
        self, certificate: bytes, others: tuple[bytes, ...], *, any_status: bool = False
    ) -> SenderCredential:
        """The entity behind a protection certificate (DER). `others`: further certificates to build the path from.

        SignerNotTrusted if there is no valid path, if a certificate of this CA in it is unknown, not confirmed,
        suspended or revoked, or if nobody is registered with it; BadDataFormat if a certificate cannot be read.
        `any_status`: the certificate itself, if this CA issued it, may be suspended or revoked.
        """
        generation = self._store.generation
        try:
            return await self._sender(certificate, others, any_status)
        except SignerNotTrusted:
            # A registration of this moment is noticed by the tick; whoever would be refused for that is not to wait.
            if await self._store.refresh() == generation:
                raise
        return await self._sender(certificate, others, any_status)

    async def _sender(self, certificate: bytes, others: tuple[bytes, ...], any_status: bool) -> SenderCredential:
        fingerprint = hashlib.sha256(certificate).digest()
        known = self._senders.get(fingerprint)
        if known is None or known.generation != self._store.generation or not known.holds_at(self._env.now()):
            try:
                known = await self._find_sender(certificate, others, known, any_status)
            except SignerNotTrusted:
                self._senders.drop(fingerprint)
                raise
        return known.credential

    async def registered(self, sender: bytes, key_identifier: bytes | None) -> tuple[bytes, ...]:
        """The registered certificates with this subject (DER of a Name) and, unless None, SubjectKeyIdentifier."""
        found = await self._read_registered(self._store.generation)
        named = [anchor.certificate for anchor in found.anchors.named(match_form(read_name(sender)))]
        return tuple(one.der for one in named if key_identifier in (None, one.key_identifier))

    async def _find_sender(
        self, octets: bytes, others: tuple[bytes, ...], stale: "_Sender | None", any_status: bool
    ) -> "_Sender":
        generation = self._store.generation
        evidence = _Evidence(self._issuers, self._verify, stale.path.certificates if stale else ())
        leaf, rest = read_certificates(octets, others, self._limits.path, evidence.certificate)
        registered = await self._read_registered(generation)
        now = self._env.now()
        issuer = self._own_issuer(leaf, evidence)
        if issuer is not None:
            rest, anchors = [], TrustAnchors([issuer.certificate])
        else:  # a certConf may come without the chain that the request had
            rest, anchors = [*evidence.remembered, *rest], registered.anchors
        path = find_path(leaf, rest, anchors, now, self._limits.path, evidence.verify)
        record = await self._check_records(path, evidence, _IN_RR if any_status else _TRUSTED)
        entity, expires_at = await self._entity(path, record, registered, now)
        found = _Sender(_credential(leaf, entity, record), path, expires_at, generation)
        for child, above in pairwise(path.certificates[1:]):
            self._issuers.put(child.fingerprint, _Verified(child, above.public_key_info))
        if record is None or record.state in _TRUSTED:
            self._senders.put(leaf.fingerprint, found)
        else:  # nothing but this one request may come from it
            self._senders.drop(leaf.fingerprint)
        return found

    def _own_issuer(self, certificate: Certificate, evidence: "_Evidence") -> TrustAnchor | None:
        """The certificate of ours that issued this one; None if it is not of this CA or is a CA certificate of ours."""
        if certificate.signature_fault or self._own.find(certificate.fingerprint) is not None:
            return None
        for anchor in self._own.named(certificate.issuer_form):
            if evidence.verify(certificate, anchor.certificate):
                return anchor
        return None

    async def _check_records(
        self, path: CertificationPath, evidence: "_Evidence", leaf_states: frozenset[CertificateState]
    ) -> CertificateRecord | None:
        """Hold what this CA issued against its records; return the leaf's record, None if another CA issued it.

        `leaf_states`: those that the leaf may be in; all above it must be in one of _TRUSTED.
        """
        leaf_record = None
        for i, certificate in enumerate(path.certificates):
            if self._own_issuer(certificate, evidence) is None:
                continue
            record = await self._store.find_certificate(certificate.serial)
            noun = "issuer certificate" if i else LEAF_NOUN
            if record is None or record.der != certificate.der:
                raise SignerNotTrusted(f"{noun} {certificate.title}: this CA has no record of it")
            if record.state not in (_TRUSTED if i else leaf_states):
                raise SignerNotTrusted(f"{noun} {certificate.title}: {_STATE_FAULTS[record.state]}")
            leaf_record = leaf_record if i else record
        return leaf_record

    async def _entity(
        self, path: CertificationPath, record: CertificateRecord | None, registered: "_Registered", now: float
    ) -> tuple[Entity, int | None]:
        """The entity that a path stands for, and when that ends by its registration."""
        leaf = path.certificates[0]
        entities = registered.entities.get(leaf.fingerprint)
        if entities is None and record is not None:
            issued_to = await self._store.find_entity_by_id(record.entity_id)
            if issued_to is not None and issued_to.is_ra:
                return replace(issued_to, is_ra=False, subject=None, profiles=(record.profile,), disabled=False), None
            if issued_to is None or issued_to.disabled:
                raise SignerNotTrusted(f"{LEAF_NOUN} {leaf.title}: the entity that it was issued to is disabled")
            return issued_to, None
        entities = entities or registered.entities[path.anchor.certificate.fingerprint]
        for entity in entities:
            if not entity.disabled and not _is_expired(entity.expires_at, now):
                return self._with_controls(entity), entity.expires_at
        first = entities[0]
        why = "disabled" if first.disabled else f"expired since {time_text(first.expires_at or 0)}"
        raise SignerNotTrusted(f"{LEAF_NOUN} {leaf.title}: its registration is {why}")

    def _with_controls(self, entity: Entity) -> Entity:
        """The entity of a registered credential with what its controls must say; StoreError if that cannot be opened.

        The holder of a certificate that this CA issued is not asked for it: it was when that was enrolled for.
        """
        token, authenticator = entity.sealed_reg_token, entity.sealed_authenticator
        if token is None and authenticator is None:
            return entity
        opened = RegisteredControls(
            reg_token=token and self._sealer.open(token, control_reference(entity.reference, "regToken")),
            authenticator=authenticator
            and self._sealer.open(authenticator, control_reference(entity.reference, "authenticator")),
        )
        return replace(entity, controls=opened)

    async def _read_registered(self, generation: int) -> "_Registered":
        if self._registered.generation == generation:
            return self._registered
        found = _index(await self._store.list_entities(with_certificate=True), generation, self._registered)
        if found.generation >= self._registered.generation:
            self._registered = found
        return found


# --- what is remembered ----------------------------------------------------------------------------------------------

K = TypeVar("K")
V = TypeVar("V")


class _Lru(Generic[K, V]):
    """A bounded mapping that lets go of what was not used for longest."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._size:
            self._items.popitem(last=False)

    def drop(self, key: K) -> None:
        self._items.pop(key, None)


@dataclass(frozen=True, slots=True)
class _Secret:
    credential: SecretCredential
    generation: int


@dataclass(frozen=True, slots=True)
class _Sender:
    """`expires_at`: of the registration that it rests on, None if it rests on none or that does not expire."""

    credential: SenderCredential
    path: CertificationPath
    expires_at: int | None
    generation: int

    def holds_at(self, now: float) -> bool:
        if _is_expired(self.expires_at, now):
            return False
        return self.path.not_before <= now < self.path.not_after + 1


@dataclass(frozen=True, slots=True)
class _Verified:
    """A certificate of a path that was good, and the key (DER of SubjectPublicKeyInfo) that verified its signature."""

    certificate: Certificate
    signed_by: bytes


class _Evidence:
    """Signatures known to be good while one path is looked for: remembered ones, and those verified for it."""

    def __init__(self, issuers: _Lru[bytes, _Verified], verify: Verify, path: Sequence[Certificate]) -> None:
        """`path`: of the same leaf, found earlier; may be empty."""
        self.remembered = path[1:-1]
        self._issuers, self._verify = issuers, verify
        self._certificates = {certificate.fingerprint: certificate for certificate in path}
        self._signed_by = {child.fingerprint: above.public_key_info for child, above in pairwise(path)}

    def certificate(self, fingerprint: bytes) -> Certificate | None:
        """A certificate that was read before."""
        verified = self._issuers.get(fingerprint)
        return verified.certificate if verified else self._certificates.get(fingerprint)

    def verify(self, child: Certificate, issuer: Certificate) -> bool:
        """Whether the issuer's key verifies the child's signature."""
        if self._signed_by.get(child.fingerprint) == issuer.public_key_info:
            return True
        remembered = self._issuers.get(child.fingerprint)
        good = (remembered is not None and remembered.signed_by == issuer.public_key_info) or self._verify(
            child, issuer
        )
        if good:
            self._signed_by[child.fingerprint] = issuer.public_key_info
        return good


@dataclass(frozen=True, slots=True)
class _Registered:
    """The certificates of entities at one generation; both mappings by the SHA-256 of the certificate.

    `entities` has those that may still be used first; a disabled one stays, because it must be seen to be refused.
    """

    generation: int
    anchors: TrustAnchors
    entities: dict[bytes, list[Entity]]
    certificates: dict[bytes, Certificate]


def _index(entities: Iterable[Entity], generation: int, before: _Registered) -> _Registered:
    certificates: dict[bytes, Certificate] = {}
    by_fingerprint: dict[bytes, list[Entity]] = {}
    for entity in sorted(entities, key=_usable_first):
        if entity.kind != EntityKind.CERTIFICATE or entity.certificate is None:
            continue
        fingerprint = hashlib.sha256(entity.certificate).digest()
        if fingerprint not in certificates:
            try:
                certificate = before.certificates.get(fingerprint) or read_certificate(
                    entity.certificate, "certificate"
                )
            except BadDataFormat as error:
                log.warning("entity %r: its certificate cannot be read (%s)", entity.reference, error.detail)
                continue
            certificates[fingerprint] = certificate
        by_fingerprint.setdefault(fingerprint, []).append(entity)
    return _Registered(generation, TrustAnchors(certificates.values()), by_fingerprint, certificates)


def _usable_first(entity: Entity) -> tuple[bool, float, int]:
    return entity.disabled, -math.inf if entity.expires_at is None else -entity.expires_at, entity.id


# --- rules ----------------------------------------------------------------------------------------------------------

_TRUSTED: Final = frozenset({CertificateState.CONFIRMED})
_IN_RR: Final = frozenset({CertificateState.CONFIRMED, CertificateState.SUSPENDED, CertificateState.REVOKED})

_STATE_FAULTS: Final[dict[CertificateState, str]] = {
    CertificateState.INTENDED: "this CA has no record of it",
    CertificateState.ISSUED: "not confirmed yet, want certConf first",
    CertificateState.SUSPENDED: "suspended",
    CertificateState.REVOKED: "revoked",
    CertificateState.ABANDONED: "this CA has no record of it",
}


def _is_expired(expires_at: int | None, now: float) -> bool:
    return expires_at is not None and now >= expires_at


def _reference_text(reference: bytes) -> str:
    """The reference value as text; empty if none can be registered that has these octets."""
    try:
        text = reference.decode() if len(reference) <= MAX_REFERENCE else ""
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else text


def _credential(leaf: Certificate, entity: Entity, record: CertificateRecord | None) -> SenderCredential:
    usage = leaf.key_usage
    return SenderCredential(
        certificate=leaf.der,
        fingerprint=leaf.fingerprint.hex(),
        key=cast(PublicKeyTypes, leaf.key),  # find_path refuses a leaf whose key is not supported
        subject=leaf.subject,
        key_identifier=leaf.key_identifier,
        may_sign=usage is None or usage.digital_signature,
        may_agree=usage is None or usage.key_agreement,
        may_encipher=usage is None or usage.key_encipherment,
        entity=entity,
        serial=record.serial if record else None,
        profile=record.profile if record else None,
        state=record.state if record else None,
    )
