import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cmpd.certificates import Certificate, verify_signature
from cmpd.changes import (
    AddCertificate,
    AddIntent,
    Change,
    MoveCertificate,
    OpenTransaction,
    SetRevocationPassphrase,
)
from cmpd.credentials import CredentialDirectory, CredentialLimits
from cmpd.env import Env
from cmpd.errors import BadDataFormat, SignerNotTrusted, StoreError
from cmpd.protection.base import Credentials
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    Entity,
    EntityKind,
    Intent,
    RevocationPassphrase,
    TransactionRecord,
    TransactionState,
)
from cmpd.store.memory import MemoryStore
from tests.chains import DAY, NOW, Node, chain, issue, leaf, usage

CA = issue(None, "our ca", key_usage=usage("key_cert_sign", "crl_sign"))
COUNTER = itertools.count(1)


class WatchedStore(MemoryStore):
    """Counts reads; `after_read` is called once, after the next read of a record and before its result is used."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.after_read: Callable[[], Awaitable[object]] | None = None

    async def _read(self, result: Any) -> Any:
        self.reads += 1
        await asyncio.sleep(0)
        if self.after_read is not None:
            hook, self.after_read = self.after_read, None
            await hook()
        return result

    async def find_entity(self, reference: str) -> Entity | None:
        return await self._read(await super().find_entity(reference))

    async def find_entity_by_id(self, entity_id: int) -> Entity | None:
        return await self._read(await super().find_entity_by_id(entity_id))

    async def find_certificate(self, serial: bytes) -> CertificateRecord | None:
        return await self._read(await super().find_certificate(serial))


class Opener:
    """Opens what `seal` has sealed, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def open(self, sealed: bytes, reference: str, /) -> bytes:
        self.count += 1
        if not sealed.startswith(reference.encode() + b"|"):
            raise StoreError("damaged")
        return sealed.partition(b"|")[2][::-1]


def seal(secret: bytes, reference: str) -> bytes:
    return reference.encode() + b"|" + secret[::-1]


class World:
    """A store with a directory over it, a clock that is set by hand, and counters."""

    def __init__(self, cas: Sequence[Node] = (CA,), **limits: Any) -> None:
        self.now: float = NOW
        self.verifications = 0
        self.store = WatchedStore()
        self.opener = Opener()
        self.directory = CredentialDirectory(
            self.store,
            self.opener,
            [node.der for node in cas],
            Env(now=lambda: self.now),
            limits=CredentialLimits(**limits),
            verify=self._verify,
        )

    def _verify(self, child: Certificate, issuer: Certificate) -> bool:
        self.verifications += 1
        return verify_signature(child, issuer)

    async def add_secret(self, reference: str, secret: bytes = b"s3cret", **options: Any) -> Entity:
        sealed = seal(secret, reference)
        return await self.store.add_entity(Entity(0, reference, EntityKind.SECRET, sealed_secret=sealed, **options))

    async def register(self, node: Node, reference: str, **options: Any) -> Entity:
        return await self.store.add_entity(
            Entity(0, reference, EntityKind.CERTIFICATE, certificate=node.der, **options)
        )

    async def record(
        self, node: Node, entity: Entity, state: CertificateState = CertificateState.CONFIRMED, der: bytes | None = None
    ) -> bytes:
        """Record a certificate of our CA as issued to an entity; returns its serial number's octets."""
        serial = serial_of(node)
        transaction_id = next(COUNTER).to_bytes(16, "big")
        transaction = TransactionRecord(
            transaction_id, TransactionState.ENDED, "secret:x", entity.id, "ir", NOW, ended_at=NOW
        )
        times = {"not_before": NOW, "not_after": NOW}
        intent = Intent(serial, transaction_id, 0, entity.id, "default", b"", "", b"", **times, tbs=b"")
        changes: list[Change] = [OpenTransaction(transaction), AddIntent(intent)]
        if state is not CertificateState.INTENDED:
            changes.append(AddCertificate(serial, der or node.der, CertificateState.ISSUED, NOW))
            if state is not CertificateState.ISSUED:
                changes.append(MoveCertificate(serial, CertificateState.ISSUED, state, NOW))
        await self.store.write(changes)
        return serial

    async def move(self, serial: bytes, expected: CertificateState, state: CertificateState) -> None:
        await self.store.write([MoveCertificate(serial, expected, state, NOW)])

    async def sender(self, node: Node, *others: Node) -> Entity:
        found = await self.directory.sender(node.der, tuple(other.der for other in others))
        assert found.certificate == node.der
        return found.entity

    async def refusal(self, node: Node, *others: Node) -> str:
        with pytest.raises(SignerNotTrusted) as caught:
            await self.sender(node, *others)
        return caught.value.text


def serial_of(node: Node) -> bytes:
    number = node.certificate.serial_number
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


async def enrolled(world: World, state: CertificateState = CertificateState.CONFIRMED) -> tuple[Node, Entity, bytes]:
    """A device with a certificate of our CA."""
    entity = await world.add_secret(f"dev{next(COUNTER)}")
    node = leaf(CA, "dev", key_usage=usage("digital_signature"))
    return node, entity, await world.record(node, entity, state)


# --- any status, for rr ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [CertificateState.SUSPENDED, CertificateState.REVOKED])
async def test_any_status_finds_what_is_suspended_or_revoked_with_its_state_and_forgets_it(
    state: CertificateState,
) -> None:
    world = World()
    node, entity, serial = await enrolled(world)
    await world.sender(node)
    await world.move(serial, CertificateState.CONFIRMED, state)
    for _ in range(2):
        found = await world.directory.sender(node.der, (), any_status=True)
        assert (found.entity, found.serial, found.state) == (entity, serial, state)
        assert state.value in await world.refusal(node)


@pytest.mark.parametrize("state", [CertificateState.INTENDED, CertificateState.ISSUED])
async def test_any_status_does_not_find_what_is_not_confirmed_yet(state: CertificateState) -> None:
    world = World()
    node, _, _ = await enrolled(world, state)
    with pytest.raises(SignerNotTrusted):
        await world.directory.sender(node.der, (), any_status=True)


async def test_any_status_is_about_the_protection_certificate_and_none_above_it() -> None:
    world = World()
    entity = await world.add_secret("sub")
    sub = issue(CA, "sub")
    serial = await world.record(sub, entity)
    device = leaf(sub, "device")
    await world.register(sub, "sub ca")
    found = await world.directory.sender(device.der, (sub.der,), any_status=True)
    assert (found.serial, found.state) == (None, None)
    await world.move(serial, CertificateState.CONFIRMED, CertificateState.REVOKED)
    with pytest.raises(SignerNotTrusted, match="revoked"):
        await world.directory.sender(device.der, (sub.der,), any_status=True)


async def test_a_resumed_certificate_is_found_again_without_any_status() -> None:
    world = World()
    node, entity, serial = await enrolled(world, CertificateState.CONFIRMED)
    await world.move(serial, CertificateState.CONFIRMED, CertificateState.SUSPENDED)
    await world.directory.sender(node.der, (), any_status=True)
    await world.move(serial, CertificateState.SUSPENDED, CertificateState.CONFIRMED)
    assert await world.sender(node) == entity
    assert (await world.directory.sender(node.der, (), any_status=True)).state is CertificateState.CONFIRMED


# --- revocation passphrases ------------------------------------------------------------------------------------------


async def keep_passphrase(world: World, key_id: bytes, entity: Entity, secret: bytes = b"remember") -> None:
    sealed = seal(secret, f"{key_id.hex()}\0passphrase")
    await world.store.write([SetRevocationPassphrase(RevocationPassphrase(key_id, entity.id, None, sealed, NOW), 5)])


async def test_a_passphrase_is_found_by_its_key_identifier_with_its_entity() -> None:
    world = World()
    entity = await world.add_secret("one")
    await keep_passphrase(world, b"\xffid", entity)
    found = await world.directory.passphrase(b"\xffid")
    assert found is not None
    assert (found.entity, found.secret) == (entity, b"remember")
    assert found.passphrase is not None
    assert (found.passphrase.key_id, found.passphrase.entity_id) == (b"\xffid", entity.id)
    assert "remember" not in repr(found)


async def test_a_passphrase_that_was_replaced_or_whose_entity_is_disabled_is_gone_at_once() -> None:
    world = World()
    entity = await world.add_secret("one")
    await keep_passphrase(world, b"id", entity)
    await world.directory.passphrase(b"id")
    await keep_passphrase(world, b"id", entity, b"another")
    found = await world.directory.passphrase(b"id")
    assert found is not None
    assert found.secret == b"another"
    await world.store.disable_entity("one")
    assert await world.directory.passphrase(b"id") is None


@pytest.mark.parametrize("key_id", [b"", b"one", b"i" * 513], ids=["empty", "a reference", "too long"])
async def test_key_identifiers_that_name_no_passphrase_give_nothing(key_id: bytes) -> None:
    world = World()
    await world.add_secret("one")
    assert await world.directory.passphrase(key_id) is None


async def test_a_secret_s_sealed_value_does_not_open_as_a_passphrase() -> None:
    world = World()
    entity = await world.add_secret("one")
    stolen = RevocationPassphrase(b"id", entity.id, None, entity.sealed_secret or b"", NOW)
    await world.store.write([SetRevocationPassphrase(stolen, 5)])
    with pytest.raises(StoreError):
        await world.directory.passphrase(b"id")


# --- secrets --------------------------------------------------------------------------------------------------------


async def test_a_secret_is_found_by_its_reference_value_and_opened_once() -> None:
    world = World()
    entity = await world.add_secret("dév-1", b"topsecret")
    world.store.reads = 0
    for _ in range(3):
        found = await world.directory.secret("dév-1".encode())
        assert found is not None
        assert (found.entity, found.secret) == (entity, b"topsecret")
    assert (world.opener.count, world.store.reads) == (1, 1)
    assert "topsecret" not in repr(found)


async def test_a_secret_is_not_opened_again_when_something_else_changed() -> None:
    world = World()
    await world.add_secret("one")
    await world.directory.secret(b"one")
    await world.add_secret("two")
    world.store.reads = 0
    assert await world.directory.secret(b"one") is not None
    assert (world.opener.count, world.store.reads) == (1, 1)


async def test_a_disabled_entity_s_secret_is_gone_at_once() -> None:
    world = World()
    await world.add_secret("one")
    assert await world.directory.secret(b"one") is not None
    await world.store.disable_entity("one")
    assert await world.directory.secret(b"one") is None


async def test_an_expired_secret_still_verifies_certconf_and_repeats() -> None:
    world = World()
    await world.add_secret("one", expires_at=NOW - 10)
    assert await world.directory.secret(b"one") is not None


async def test_a_secret_without_uses_left_still_verifies_certconf_and_repeats() -> None:
    world = World()
    await world.add_secret("one", uses_left=0)
    assert await world.directory.secret(b"one") is not None


@pytest.mark.parametrize("reference", [b"", b"unknown", b"\xff\xfe", b"a\0b", b"x" * 513, b"by-certificate"])
async def test_references_that_name_no_secret_give_nothing(reference: bytes) -> None:
    world = World()
    node = leaf(None)
    sealed = seal(b"not meant for use", "by-certificate")
    await world.store.add_entity(
        Entity(0, "by-certificate", EntityKind.CERTIFICATE, certificate=node.der, sealed_secret=sealed)
    )
    assert await world.directory.secret(reference) is None


async def test_references_that_no_entity_can_have_never_reach_the_store() -> None:
    world = World()
    for reference in (b"", b"\xff\xfe", b"a\0b", b"x" * 513):
        assert await world.directory.secret(reference) is None
    assert world.store.reads == 0


async def test_unknown_references_push_no_secret_out() -> None:
    world = World(secrets=2)
    await world.add_secret("one")
    await world.add_secret("two")
    for reference in (b"one", b"two", *(b"junk%d" % i for i in range(50)), b"one", b"two"):
        await world.directory.secret(reference)
    assert world.opener.count == 2


async def test_remembered_secrets_are_bounded_and_the_oldest_goes() -> None:
    world = World(secrets=2)
    for reference in ("one", "two", "three"):
        await world.add_secret(reference)
    for reference in (b"one", b"two", b"one", b"three", b"one"):
        assert await world.directory.secret(reference) is not None
    assert world.opener.count == 3
    await world.directory.secret(b"two")
    assert world.opener.count == 4


async def test_a_secret_that_cannot_be_opened_is_a_store_error_and_not_an_unknown_one() -> None:
    world = World()
    await world.store.add_entity(Entity(0, "one", EntityKind.SECRET, sealed_secret=b"damaged"))
    with pytest.raises(StoreError):
        await world.directory.secret(b"one")


async def test_an_entity_disabled_while_it_is_read_is_refused_the_next_time() -> None:
    world = World()
    await world.add_secret("one")
    world.store.after_read = lambda: world.store.disable_entity("one")
    await world.directory.secret(b"one")  # was read before the change: either answer is right
    assert await world.directory.secret(b"one") is None


# --- certificates of this CA ----------------------------------------------------------------------------------------


async def test_a_confirmed_certificate_stands_for_the_entity_it_was_issued_to() -> None:
    world = World()
    credentials: Credentials = world.directory
    node, entity, serial = await enrolled(world)
    found = await credentials.sender(node.der, ())
    assert (found.entity, found.serial) == (entity, serial)
    assert found.subject == node.certificate.subject.public_bytes()
    assert found.fingerprint == hashlib.sha256(node.der).hexdigest()
    assert found.key_identifier == x509.SubjectKeyIdentifier.from_public_key(node.key.public_key()).digest
    assert found.may_sign
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    der = serialization.Encoding.DER
    assert found.key.public_bytes(der, spki) == node.key.public_key().public_bytes(der, spki)


async def test_the_second_look_costs_no_signature_and_no_read() -> None:
    world = World()
    node, _, _ = await enrolled(world)
    await world.sender(node)
    assert world.verifications == 1
    reads = world.store.reads
    for _ in range(5):
        await world.sender(node)
    assert (world.verifications, world.store.reads) == (1, reads)


async def test_after_a_change_in_the_store_the_state_is_read_again_but_no_signature_verified() -> None:
    world = World()
    node, entity, _ = await enrolled(world)
    await world.sender(node)
    await world.add_secret("somebody else")
    world.store.reads = 0
    assert await world.sender(node) == entity
    assert (world.verifications, world.store.reads) == (1, 2)


@pytest.mark.parametrize("state", [CertificateState.REVOKED, CertificateState.SUSPENDED])
async def test_revocation_and_suspension_are_seen_at_once(state: CertificateState) -> None:
    world = World()
    node, entity, serial = await enrolled(world)
    assert await world.sender(node) == entity
    await world.move(serial, CertificateState.CONFIRMED, state)
    assert await world.refusal(node) == f"protection certificate CN=dev: {state}"
    await world.move(serial, state, CertificateState.CONFIRMED)
    assert await world.sender(node) == entity


async def test_a_certificate_is_no_credential_before_it_is_confirmed_and_is_at_once_afterwards() -> None:
    world = World()
    node, entity, serial = await enrolled(world, CertificateState.ISSUED)
    assert await world.refusal(node) == "protection certificate CN=dev: not confirmed yet, want certConf first"
    generation = world.store.generation
    await world.move(serial, CertificateState.ISSUED, CertificateState.CONFIRMED)
    assert world.store.generation == generation
    assert await world.sender(node) == entity


@pytest.mark.parametrize("state", [CertificateState.INTENDED, CertificateState.ABANDONED])
async def test_a_certificate_that_was_never_sent_is_unknown(state: CertificateState) -> None:
    world = World()
    node, _, _ = await enrolled(world, CertificateState.INTENDED)
    if state is CertificateState.ABANDONED:
        await world.store.recover(NOW)
    assert await world.refusal(node) == "protection certificate CN=dev: this CA has no record of it"


async def test_a_certificate_signed_by_our_key_but_not_on_record_is_refused() -> None:
    world = World()
    assert "this CA has no record of it" in await world.refusal(leaf(CA, "dev"))
    node, entity, _ = await enrolled(world)
    twin = leaf(CA, "dev", serial=node.certificate.serial_number)
    assert "this CA has no record of it" in await world.refusal(twin)
    assert await world.sender(node) == entity


async def test_every_state_of_a_certificate_is_decided() -> None:
    for state in CertificateState:
        world = World()
        if state in (CertificateState.ABANDONED, CertificateState.EXPIRED):  # none can be moved there; see lifecycle.py
            continue
        node, _, _ = await enrolled(world, state)
        if state is CertificateState.CONFIRMED:
            await world.sender(node)
        else:
            await world.refusal(node)


async def test_a_disabled_entity_s_certificate_is_refused_at_once() -> None:
    world = World()
    node, entity, _ = await enrolled(world)
    await world.sender(node)
    await world.store.disable_entity(entity.reference)
    assert await world.refusal(node) == "protection certificate CN=dev: the entity that it was issued to is disabled"


async def test_the_end_of_a_registration_does_not_end_a_certificate_issued_under_it() -> None:
    world = World()
    entity = await world.add_secret("dev", expires_at=NOW - 1)
    node = leaf(CA, "dev")
    await world.record(node, entity)
    assert await world.sender(node) == entity


async def test_expiry_is_checked_on_every_use() -> None:
    world = World()
    entity = await world.add_secret("dev")
    node = leaf(CA, "dev", not_after=NOW + 10)
    await world.record(node, entity)
    await world.sender(node)
    world.now = NOW + 10.5
    await world.sender(node)
    world.now = NOW + 11
    assert "CN=dev: expired since 2025-06-15T15:06:50Z" in await world.refusal(node)
    world.now = NOW - DAY - 1
    assert "not valid before" in await world.refusal(node)


async def test_our_own_ca_certificate_must_be_valid_too() -> None:
    old = issue(None, "our ca", key=CA.key, not_after=NOW + 5)
    world = World([old])
    node, entity, _ = await enrolled(world)
    assert await world.sender(node) == entity
    world.now = NOW + 6
    assert (await world.refusal(node)).startswith("issuer certificate CN=our ca: expired since")


async def test_all_our_ca_certificates_are_issuers() -> None:
    second = issue(None, "our ca")
    world = World([second, CA])
    node, entity, _ = await enrolled(world)
    assert await world.sender(node) == entity


async def test_an_impostor_with_our_ca_s_name_is_refused() -> None:
    world = World()
    impostor = issue(None, "our ca")
    assert "self-signed and not a trust anchor" in await world.refusal(leaf(impostor, "dev"), impostor)


async def test_what_our_ca_certificate_itself_signs_comes_from_nobody() -> None:
    world = World()
    assert "self-signed and not a trust anchor" in await world.refusal(CA)


async def test_key_usage_decides_whether_a_sender_may_sign() -> None:
    world = World()
    for bits, may_sign in ((("digital_signature",), True), (("key_encipherment",), False), ((), None)):
        node = leaf(None, "x", key_usage=usage(*bits) if bits else None)
        await world.register(node, f"x{bits}")
        found = await world.directory.sender(node.der, ())
        assert found.may_sign is (may_sign is not False)


# --- foreign certificates -------------------------------------------------------------------------------------------


async def test_a_registered_leaf_is_trusted_directly() -> None:
    world = World()
    node = leaf(issue(None, "vendor"), "device")
    assert "no certificate of its issuer CN=vendor found" in await world.refusal(node)
    entity = await world.register(node, "dev")
    found = await world.directory.sender(node.der, ())
    assert (found.entity, found.serial) == (entity, None)
    assert world.verifications == 0
    twin = leaf(issue(None, "vendor"), "device", key=node.key)
    await world.refusal(twin)


async def test_all_under_a_registered_ca_stand_for_its_entity() -> None:
    world = World()
    root, ca, device = chain(3)
    entity = await world.register(root, "vendor")
    assert await world.sender(device, ca) == entity
    assert world.verifications == 2


async def test_a_new_device_under_a_known_intermediate_costs_one_verification() -> None:
    world = World()
    root, ca, device = chain(3)
    await world.register(root, "vendor")
    await world.sender(device, ca)
    world.verifications = 0
    for _ in range(3):
        await world.sender(leaf(ca), ca)
    assert world.verifications == 3


async def test_a_known_sender_needs_no_chain_any_more_even_after_a_change() -> None:
    world = World()
    root, ca, sub, device = chain(4)
    entity = await world.register(root, "vendor")
    await world.sender(device, ca, sub)
    world.verifications = 0
    assert await world.sender(device) == entity
    await world.add_secret("somebody else")
    assert await world.sender(device) == entity
    assert world.verifications == 0


async def test_a_registered_certificate_that_is_no_ca_has_nothing_under_it() -> None:
    world = World()
    plain = leaf(None, "plain")
    await world.register(plain, "plain")
    assert "not a CA" in await world.refusal(leaf(plain, "under it"))


async def test_the_nearest_registration_decides() -> None:
    world = World()
    root, ca, device = chain(3)
    vendor = await world.register(root, "vendor")
    assert await world.sender(device, ca) == vendor
    line = await world.register(ca, "line")
    assert await world.sender(device, ca) == line
    own = await world.register(device, "own")
    assert await world.sender(device, ca) == own


async def test_a_disabled_registration_near_by_is_not_undone_by_one_further_up() -> None:
    world = World()
    root, ca, device = chain(3)
    await world.register(root, "vendor")
    await world.register(ca, "line")
    await world.register(device, "own")
    for reference, text in (("own", "is disabled"), ("line", "is disabled")):
        await world.store.disable_entity(reference)
        assert await world.refusal(device, ca) == f"protection certificate CN=device: its registration {text}"
    cross = issue(root, "ca 1", key=ca.key)
    assert "registration is disabled" in await world.refusal(leaf(ca), cross)


async def test_a_registration_that_was_made_anew_counts_instead_of_the_disabled_one() -> None:
    world = World()
    root, ca, device = chain(3)
    await world.register(root, "a")
    await world.sender(device, ca)
    await world.store.disable_entity("a")
    await world.refusal(device, ca)
    new = await world.register(root, "b")
    assert await world.sender(device, ca) == new


async def test_a_renewed_ca_certificate_counts_when_the_old_registration_is_disabled() -> None:
    world = World()
    root, ca, device = chain(3)
    renewed = issue(None, "root", key=root.key)
    await world.register(root, "a")
    entity = await world.register(renewed, "b")
    await world.store.disable_entity("a")
    assert await world.sender(device, ca) == entity


async def test_a_registration_ends_at_its_second() -> None:
    world = World()
    root, ca, device = chain(3)
    await world.register(root, "vendor", expires_at=NOW + 10)
    await world.sender(device, ca)
    world.now = NOW + 10
    assert await world.refusal(device, ca) == (
        "protection certificate CN=device: its registration is expired since 2025-06-15T15:06:50Z"
    )


async def test_the_expiry_of_an_intermediate_is_seen_though_the_sender_is_remembered() -> None:
    world = World()
    root = issue(None, "root")
    ca = issue(root, "ca", not_after=NOW + 10)
    device = leaf(ca)
    await world.register(root, "vendor")
    await world.sender(device, ca)
    world.now = NOW + 11
    assert (await world.refusal(device)).startswith("issuer certificate CN=ca: expired since")
    renewed = issue(root, "ca", key=ca.key)
    await world.sender(device, renewed)


async def test_a_certificate_of_ours_that_is_registered_stands_for_that_entity_but_not_when_revoked() -> None:
    world = World()
    node, _, serial = await enrolled(world)
    ra = await world.register(node, "ra", is_ra=True)
    found = await world.directory.sender(node.der, ())
    assert (found.entity, found.serial) == (ra, serial)
    await world.move(serial, CertificateState.CONFIRMED, CertificateState.REVOKED)
    assert "revoked" in await world.refusal(node)


async def test_registering_our_own_ca_does_not_take_certificates_from_their_entities() -> None:
    world = World()
    node, entity, _ = await enrolled(world)
    await world.register(CA, "all of ours")
    assert await world.sender(node) == entity
    assert "no record" in await world.refusal(leaf(CA, "dev"))


async def test_a_ca_certificate_that_we_issued_and_revoked_ends_what_is_under_it() -> None:
    world = World()
    entity = await world.add_secret("sub ca")
    sub = issue(CA, "sub")
    serial = await world.record(sub, entity)
    registered = await world.register(sub, "under sub")
    device = leaf(sub)
    assert await world.sender(device) == registered
    await world.move(serial, CertificateState.CONFIRMED, CertificateState.REVOKED)
    assert await world.refusal(device) == "issuer certificate CN=sub: revoked"


async def test_a_registered_certificate_that_cannot_be_read_is_left_out_with_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    await world.store.add_entity(Entity(0, "broken", EntityKind.CERTIFICATE, certificate=b"junk"))
    root, ca, device = chain(3)
    entity = await world.register(root, "vendor")
    assert await world.sender(device, ca) == entity
    assert "'broken'" in caplog.text


async def test_junk_is_bad_data_as_protection_certificate_and_nothing_beside_it() -> None:
    world = World()
    with pytest.raises(BadDataFormat, match=r"^protection certificate: "):
        await world.directory.sender(b"junk", ())
    with pytest.raises(SignerNotTrusted):
        await world.directory.sender(leaf(None).der, (b"junk",))


# --- bounds and races -----------------------------------------------------------------------------------------------


async def test_certificates_that_are_refused_push_no_good_one_out() -> None:
    world = World(senders=2, issuers=1)
    root, ca, device = chain(3)
    await world.register(root, "vendor")
    node, _, _ = await enrolled(world)
    await world.sender(node)
    await world.sender(device, ca)
    for _ in range(20):
        hostile_root, hostile_ca, hostile = chain(3)
        await world.refusal(hostile, hostile_ca, hostile_root)
    world.verifications = 0
    await world.sender(node)
    await world.sender(device)
    await world.sender(leaf(ca), ca)
    assert world.verifications == 1


async def test_remembered_senders_are_bounded() -> None:
    world = World(senders=3)
    root = issue(None, "root")
    await world.register(root, "vendor")
    devices = [leaf(root, f"d{i}") for i in range(5)]
    for device in devices:
        await world.sender(device)
    world.verifications = 0
    for device in devices[2:]:
        await world.sender(device)
    assert world.verifications == 0
    await world.sender(devices[0])
    assert world.verifications == 1


async def test_a_hostile_set_costs_a_bounded_number_of_verifications_each_time() -> None:
    world = World()
    await world.register(issue(None, "same", key_ids=False), "vendor")
    crowd = [issue(None, "same", key_ids=False) for _ in range(16)]
    await world.refusal(leaf(issue(None, "same"), key_ids=False), *crowd)
    assert world.verifications <= 32


async def test_many_at_once_get_the_same_answer() -> None:
    world = World()
    node, entity, _ = await enrolled(world)
    root, ca, device = chain(3)
    vendor = await world.register(root, "vendor")
    found = await asyncio.gather(*(world.sender(*pair) for pair in [(node,), (device, ca)] * 20))
    assert found == [entity, vendor] * 20


@pytest.mark.parametrize("change", ["revoke", "disable"])
async def test_a_change_that_happens_while_the_records_are_read_is_seen_the_next_time(change: str) -> None:
    world = World()
    node, entity, serial = await enrolled(world)
    for _ in range(2):  # first unknown, then remembered but stale
        world.store.after_read = {
            "revoke": lambda: world.move(serial, CertificateState.CONFIRMED, CertificateState.REVOKED),
            "disable": lambda: world.store.disable_entity(entity.reference),
        }[change]
        try:
            await world.sender(node)
        except SignerNotTrusted:
            assert change == "disable"  # the entity is read after the certificate's record
        await world.refusal(node)
        if change == "revoke":
            await world.move(serial, CertificateState.REVOKED, CertificateState.CONFIRMED)
        else:
            break


async def test_a_slow_look_does_not_overwrite_what_a_later_one_knows() -> None:
    """The slow one has read the record before the revocation; what it remembers must not outlive it."""
    world = World()
    node, _, serial = await enrolled(world)

    async def revoke_and_look() -> None:
        await world.move(serial, CertificateState.CONFIRMED, CertificateState.REVOKED)
        await world.refusal(node)

    world.store.after_read = revoke_and_look
    await world.sender(node)
    await world.refusal(node)


async def test_a_failing_store_is_no_reason_to_forget_a_sender() -> None:
    world = World()
    node, entity, _ = await enrolled(world)
    await world.sender(node)
    await world.add_secret("somebody else")

    async def fail() -> None:
        raise StoreError("gone")

    world.store.after_read = fail
    with pytest.raises(StoreError):
        await world.sender(node)
    assert await world.sender(node) == entity
    assert world.verifications == 1


async def test_an_entity_is_given_as_it_is_in_the_store_now() -> None:
    world = World()
    node, entity, _ = await enrolled(world)
    assert await world.sender(node) == entity
    changed = replace(entity, profiles=("other",))
    world.store._tables.entities[entity.id] = changed
    await world.add_secret("somebody else")
    assert await world.sender(node) == changed
