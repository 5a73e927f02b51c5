"""Who may revoke, suspend and resume which certificates by rr: the table of authority.py, row by row."""

import pytest

from cmpd.asn1.names import encode_name
from cmpd.changes import MoveCertificate
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.config_status import RevocationConfig
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    Entity,
)
from cmpd.store.memory import MemoryStore
from tests import chains
from tests.world import NOW, World, raw_details, rev_details, serial_octets

CONFIRMED, SUSPENDED, REVOKED = CertificateState.CONFIRMED, CertificateState.SUSPENDED, CertificateState.REVOKED
HOLD, RESUME = 6, 8


@pytest.fixture
def world() -> World:
    return World(
        enrolment=EnrolmentConfig(certificate_holder_may_ask_for="any"),
        profiles={"default": ProfileConfig(), "server": ProfileConfig()},
    )


async def ask(world: World, credential: Credential, holder: KeyAndCertificate, number: int = 4) -> str:
    """What becomes of a wish for this certificate; the record changes if and only if it is accepted."""
    before = await world.record(holder)
    seen = await world.rr(credential, rev_details(holder.certificate, number))
    assert seen.body == "rp", seen.status()
    [outcome] = seen.outcomes()
    assert (await world.record(holder) != before) is (outcome == "accepted")
    return outcome


def by_maker(maker: chains.Node, subject: str = "device") -> KeyAndCertificate:
    node = chains.leaf(maker, subject, key_usage=chains.usage("digital_signature"))
    return KeyAndCertificate(node.key, Certificate.load(node.der), (Certificate.load(maker.der),))


def maker_ca() -> chains.Node:
    return chains.issue(None, "maker", key_usage=chains.usage("key_cert_sign"))


async def suspend(world: World, holder: KeyAndCertificate, by: str) -> None:
    serial = serial_octets(holder.certificate.serial)
    await world.store.write([MoveCertificate(serial, CONFIRMED, SUSPENDED, NOW, "certificateHold", by)])


# --- the holder ------------------------------------------------------------------------------------------------------


async def test_another_certificate_of_the_same_entity_may(world: World) -> None:
    secret = await world.add_secret()
    one, other = await world.holder(secret, "/CN=one"), await world.holder(secret, "/CN=other")
    assert await ask(world, one, other, HOLD) == "accepted"
    assert await ask(world, one, other, RESUME) == "accepted"
    assert await ask(world, one, other) == "accepted"


async def test_the_certificate_of_another_entity_may_not(world: World) -> None:
    one = await world.holder(await world.add_secret("one"), "/CN=device")
    other = await world.holder(await world.add_secret("other"), "/CN=device")
    for number in (1, HOLD, RESUME):
        assert await ask(world, one, other, number) == "notAuthorized"


async def test_who_may_not_does_not_learn_the_state_of_a_certificate(world: World) -> None:
    one, other = await world.holder(await world.add_secret("one")), await world.holder(await world.add_secret("other"))
    told = [(await world.rr(one, rev_details(other.certificate, number))).status() for number in (1, RESUME)]
    await world.rr(other, rev_details(other.certificate, 1))
    told += [(await world.rr(one, rev_details(other.certificate, number))).status() for number in (1, RESUME)]
    misfit = encode_name("/CN=not its subject")
    named = rev_details(other.certificate, 1, template=b"\xa5" + bytes((len(misfit),)) + misfit)
    told.append((await world.rr(one, named)).status())
    assert len(set(told)) == 1
    assert told[0][2] == {"notAuthorized"}


async def test_a_certificate_that_is_not_confirmed_revokes_nothing(world: World) -> None:
    secret = await world.add_secret()
    _, seen, key = await world.ir(secret, implicit=False)
    holder = KeyAndCertificate(key, seen.certificate())
    answer = await world.rr(holder, rev_details(holder.certificate, 1))
    assert (answer.body, answer.status()[2]) == ("error", {"signerNotTrusted"})


async def test_certificates_issued_through_an_ra_need_the_same_subject(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    old, new = await world.holder(agent, "/CN=device"), await world.holder(agent, "/CN=Device")
    stranger = await world.holder(agent, "/CN=stranger")
    assert await ask(world, stranger, old) == "notAuthorized"
    assert await ask(world, new, old) == "accepted"
    assert await ask(world, stranger, stranger) == "accepted"


async def test_certificates_enrolled_under_a_registered_ca_need_the_same_subject(world: World) -> None:
    maker = maker_ca()
    await world.add_certificate("maker", maker.der)
    first, second = [await world.holder(by_maker(maker, name), f"/CN={name}") for name in ("first", "second")]
    assert await ask(world, first, second) == "notAuthorized"
    twin = await world.holder(by_maker(maker, "first"), "/CN=first")
    assert await ask(world, twin, first) == "accepted"


async def test_certificates_enrolled_with_one_registered_device_certificate_need_not(world: World) -> None:
    device = by_maker(maker_ca())
    await world.add_certificate("device", device.certificate.der, subject=None)
    one, other = await world.holder(device, "/CN=one"), await world.holder(device, "/CN=other")
    assert await ask(world, one, other) == "accepted"


# --- the certificate of another CA -----------------------------------------------------------------------------------


async def test_the_maker_s_certificate_may_for_its_own_subject_alone(world: World) -> None:
    maker = maker_ca()
    await world.add_certificate("maker", maker.der)
    device, stranger = by_maker(maker, "device"), by_maker(maker, "stranger")
    held = await world.holder(device, "/CN=device")
    assert await ask(world, stranger, held) == "notAuthorized"
    assert await ask(world, device, held, HOLD) == "accepted"
    assert await ask(world, device, held, RESUME) == "accepted"
    assert await ask(world, device, held) == "accepted"


async def test_a_registered_certificate_may_for_all_of_its_entity(world: World) -> None:
    device = by_maker(maker_ca())
    await world.add_certificate("device", device.certificate.der)
    held = await world.holder(device, "/CN=another name")
    other = await world.holder(await world.add_secret("other"), "/CN=device")
    assert await ask(world, device, other) == "notAuthorized"
    assert await ask(world, device, held) == "accepted"


# --- RA --------------------------------------------------------------------------------------------------------------


async def ra_by_certificate(world: World, **fields: object) -> KeyAndCertificate:
    agent = by_maker(maker_ca(), "RA")
    await world.add_certificate("ra1", agent.certificate.der, is_ra=True, **fields)
    return agent


@pytest.mark.parametrize("kind", ["secret", "certificate"])
async def test_an_ra_may_for_all_it_is_registered_for(world: World, kind: str) -> None:
    fields = {"subject": "/O=Plant", "profiles": ("default",)}
    if kind == "secret":
        agent: Credential = await world.add_secret("ra1", b"secret of the RA", is_ra=True, **fields)
    else:
        agent = await ra_by_certificate(world, **fields)
    secret = await world.add_secret(profiles=("default", "server"))
    within, outside = await world.holder(secret, "/O=plant/CN=device"), await world.holder(secret, "/CN=device")
    other_profile = await world.holder(secret, "/O=Plant/CN=device", profile="server")
    assert await ask(world, agent, outside) == "notAuthorized"
    assert await ask(world, agent, other_profile) == "notAuthorized"
    assert await ask(world, agent, within, HOLD) == "accepted"
    assert await ask(world, agent, within, RESUME) == "accepted"
    assert await ask(world, agent, within) == "accepted"


async def test_an_ra_may_for_what_was_issued_through_it_whatever_it_may_ask_for_now(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    held, foreign = await world.holder(agent), await world.holder(await world.add_secret())
    world.enrolment = EnrolmentConfig(default_profile="server")
    world.restart()
    assert await ask(world, agent, foreign) == "notAuthorized"
    assert await ask(world, agent, held) == "accepted"


async def test_an_ra_without_registered_profiles_has_the_default_one_alone(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    secret = await world.add_secret(profiles=("default", "server"))
    assert await ask(world, agent, await world.holder(secret, profile="server")) == "notAuthorized"
    assert await ask(world, agent, await world.holder(secret)) == "accepted"


async def test_an_ra_may_not_for_the_certificate_of_another_ra(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    other = await world.holder(await world.add_secret("for ra2"), "/CN=RA 2")
    await world.add_certificate("ra2", other.certificate.der, is_ra=True)
    assert await ask(world, agent, other) == "notAuthorized"
    assert await ask(world, other, other) == "accepted"


async def test_an_ra_may_for_the_certificate_of_an_ra_that_is_disabled(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    other = await world.holder(await world.add_secret("for ra2"), "/CN=RA 2")
    await world.add_certificate("ra2", other.certificate.der, is_ra=True)
    await world.store.disable_entity("ra2")
    assert await ask(world, agent, other) == "accepted"


async def test_what_an_ra_enrolled_is_no_ra(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    holder = await world.holder(agent, "/CN=device")
    other = await world.holder(await world.add_secret("other"), "/CN=other")
    assert await ask(world, holder, other) == "notAuthorized"


# --- shared secrets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("may", [False, True])
async def test_a_shared_secret_may_if_it_was_allowed_to(world: World, may: bool) -> None:
    secret = await world.add_secret(may_revoke=may)
    other = await world.holder(await world.add_secret("other"))
    assert await ask(world, secret, other) == "notAuthorized"
    held = await world.holder(secret)
    for number in (HOLD, RESUME, 1):
        assert await ask(world, secret, held, number) == ("accepted" if may else "notAuthorized")


async def test_a_registration_that_has_expired_gives_no_rights(world: World) -> None:
    secret = await world.add_secret(may_revoke=True, expires_at=NOW + 10)
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True, expires_at=NOW + 10)
    held = await world.holder(secret)
    world.clock.now += 10
    for credential in (secret, agent):
        assert await ask(world, credential, held) == "notAuthorized"
    assert await ask(world, held, held) == "accepted"


async def test_a_disabled_registration_is_nobody(world: World) -> None:
    secret = await world.add_secret(may_revoke=True)
    held = await world.holder(secret)
    await world.store.disable_entity("device")
    for credential, failure in ((secret, "badMessageCheck"), (held, "signerNotTrusted")):
        seen = await world.rr(credential, rev_details(held.certificate, 1))
        assert (seen.body, seen.status()[2]) == ("error", {failure})
    assert (await world.record(held)).state is CONFIRMED


# --- revocation passphrases ------------------------------------------------------------------------------------------


async def test_a_passphrase_revokes_and_suspends_what_it_stands_for_and_resumes_nothing(world: World) -> None:
    secret = await world.add_secret()
    entity = await world.store.find_entity("device")
    assert entity is not None
    one, other = await world.holder(secret), await world.holder(secret, "/CN=other")
    foreign = await world.holder(await world.add_secret("foreign"))
    passphrase = await world.add_passphrase(entity.id, subject="/CN=device")
    assert await ask(world, passphrase, other) == "notAuthorized"
    assert await ask(world, passphrase, foreign) == "notAuthorized"
    assert await ask(world, passphrase, one, HOLD) == "accepted"
    assert await ask(world, passphrase, one, RESUME) == "notAuthorized"
    assert await ask(world, passphrase, one, 1) == "accepted"
    record = await world.record(one)
    assert record.changed_by == "entity 'device' (rr, passphrase:6b6579206964)"
    whole = await world.add_passphrase(entity.id, "another key id")
    assert await ask(world, whole, other) == "accepted"


async def test_the_passphrase_of_an_ra_has_none_of_its_rights(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    entity = await world.store.find_entity("ra1")
    assert entity is not None
    foreign, held = await world.holder(await world.add_secret()), await world.holder(agent)
    passphrase = await world.add_passphrase(entity.id, subject="/CN=device")
    assert await ask(world, passphrase, foreign) == "notAuthorized"
    assert await ask(world, passphrase, held) == "accepted"


async def test_a_passphrase_is_good_for_rr_alone(world: World) -> None:
    await world.add_secret()
    entity = await world.store.find_entity("device")
    assert entity is not None
    passphrase = await world.add_passphrase(entity.id)
    _, seen, _ = await world.ir(passphrase)
    assert (seen.body, seen.status()[2]) == ("error", {"badMessageCheck"})


async def test_the_answer_to_a_passphrase_names_it_in_senderkid(world: World) -> None:
    secret = await world.add_secret()
    entity = await world.store.find_entity("device")
    assert entity is not None
    held = await world.holder(secret)
    seen = await world.rr(await world.add_passphrase(entity.id), rev_details(held.certificate, 1))
    assert (seen.outcomes(), seen.envelope.header.sender_kid) == (["accepted"], b"key id")


async def test_a_passphrase_under_the_reference_value_of_a_secret_is_found_as_well(world: World) -> None:
    secret = await world.add_secret()
    entity = await world.store.find_entity("device")
    assert entity is not None
    one, other = await world.holder(secret), await world.holder(secret)
    passphrase = await world.add_passphrase(entity.id, "device", b"not the secret")
    assert await ask(world, secret, one) == "notAuthorized"
    assert await ask(world, passphrase, one) == "accepted"
    wrong = SharedSecret("device", b"neither", iterations=500)
    seen = await world.rr(wrong, rev_details(other.certificate, 1))
    assert (seen.body, seen.status()[2]) == ("error", {"badMessageCheck"})


# --- suspended and revoked certificates ------------------------------------------------------------------------------


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("by", ["operator", "operator alice", "entity 'ra1' (rr, secret:ra1)"])
async def test_a_suspended_certificate_may_at_most_resume_itself(world: World, by: str, itself: bool) -> None:
    world.revocation = RevocationConfig(suspended_may_resume_itself=itself)
    world.restart()
    secret = await world.add_secret()
    held, other = await world.holder(secret), await world.holder(secret, "/CN=other")
    await suspend(world, held, by)
    for number in (1, HOLD):
        assert await ask(world, held, held, number) == "notAuthorized"
    for number in (1, HOLD, RESUME):
        assert await ask(world, held, other, number) == "notAuthorized"
    allowed = itself and not by.startswith("operator")
    assert await ask(world, held, held, RESUME) == ("accepted" if allowed else "notAuthorized")


async def test_two_suspended_certificates_do_not_resume_each_other() -> None:
    world = World(revocation=RevocationConfig(suspended_may_resume_itself=True))
    secret = await world.add_secret()
    one, other = await world.holder(secret), await world.holder(secret)
    for holder in (one, other):
        await suspend(world, holder, "entity 'ra1' (rr)")
    assert await ask(world, one, other, RESUME) == "notAuthorized"


async def test_what_an_operator_suspended_only_an_operator_or_an_ra_resumes(world: World) -> None:
    secret = await world.add_secret(may_revoke=True)
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    held, other = await world.holder(secret), await world.holder(secret)
    await suspend(world, held, "operator alice")
    for credential in (secret, other):
        seen = await world.rr(credential, rev_details(held.certificate, RESUME))
        assert seen.outcomes() == ["notAuthorized"]
        assert "operator" in seen.status()[1]
    assert await ask(world, agent, held, RESUME) == "accepted"


async def test_after_the_ra_suspended_it_again_the_operator_s_hold_is_history(world: World) -> None:
    secret = await world.add_secret()
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    held, other = await world.holder(secret), await world.holder(secret)
    await suspend(world, held, "operator")
    assert await ask(world, agent, held, RESUME) == "accepted"
    assert await ask(world, agent, held, HOLD) == "accepted"
    assert await ask(world, other, held, RESUME) == "accepted"


async def test_a_revoked_certificate_learns_that_it_is_revoked_and_may_nothing_more(world: World) -> None:
    secret = await world.add_secret()
    held, other = await world.holder(secret), await world.holder(secret)
    assert await ask(world, held, held) == "accepted"
    for number in (1, HOLD, RESUME):
        assert await ask(world, held, held, number) == "certRevoked"
        assert await ask(world, held, other, number) == "notAuthorized"


@pytest.mark.parametrize("state", [SUSPENDED, REVOKED])
async def test_an_ra_s_own_certificate_must_be_valid(world: World, state: CertificateState) -> None:
    agent = await world.holder(await world.add_secret("for ra1"), "/CN=RA")
    await world.add_certificate("ra1", agent.certificate.der, is_ra=True)
    held, late = [await world.holder(await world.add_secret(name)) for name in ("one", "two")]
    assert await ask(world, agent, held) == "accepted"
    serial = serial_octets(agent.certificate.serial)
    await world.store.write([MoveCertificate(serial, CONFIRMED, state, NOW, "certificateHold", "operator")])
    assert await ask(world, agent, late) == "notAuthorized"


async def test_a_certificate_that_is_unknown_is_so_for_everybody(world: World) -> None:
    held = await world.holder(await world.add_secret())
    await world.rr(held, rev_details(held.certificate, 1))
    issuer = b"\xa3" + bytes((len(world.ca.name),)) + world.ca.name
    seen = await world.rr(held, raw_details(b"\x81\x01\x05" + issuer))
    assert seen.outcomes() == ["badCertId"]


class WatchedStore(MemoryStore):
    """Notes which reads of a decision came."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    async def find_certificate(self, serial: bytes) -> CertificateRecord | None:
        self.reads.append("certificate")
        return await super().find_certificate(serial)

    async def find_entity_by_id(self, entity_id: int) -> Entity | None:
        self.reads.append("entity")
        return await super().find_entity_by_id(entity_id)

    async def list_entities(self, *, with_certificate: bool = False) -> list[Entity]:
        self.reads.append("entities")
        return await super().list_entities(with_certificate=with_certificate)


async def test_a_decision_reads_no_more_than_it_needs() -> None:
    store = WatchedStore()
    world = World(store=store)
    secret = await world.add_secret(may_revoke=True)
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    held = [await world.holder(secret) for _ in range(6)]
    details = [rev_details(holder.certificate, 7 if holder is held[5] else 1) for holder in held]
    cases: list[tuple[Credential, list[bytes], list[str]]] = [
        (held[0], details[:1], ["certificate"]),
        (held[2], details[1:2], ["certificate", "entity"]),
        (agent, details[2:4], ["certificate", "entities", "certificate"]),
        (secret, details[4:], ["certificate"]),  # the last one cannot be read
    ]
    for credential, wanted, reads in cases:
        await world.rr(credential, details[5])  # whoever asks is known by now
        store.reads.clear()
        await world.rr(credential, *wanted)
        assert store.reads == reads


# --- at the edges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "outcome"), [("operator", "notAuthorized"), ("entity 'x' (rr)", "accepted")])
async def test_a_suspended_ra_is_no_ra_when_it_resumes_itself(by: str, outcome: str) -> None:
    world = World(revocation=RevocationConfig(suspended_may_resume_itself=True))
    holder = await world.holder(await world.add_secret())
    await world.add_certificate("ra", holder.certificate.der, is_ra=True)
    await suspend(world, holder, by)
    assert await ask(world, holder, holder, RESUME) == outcome


async def test_a_passphrase_left_by_who_enrolled_through_an_ra_outlives_that_ra(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    holder, other = await world.holder(agent, "/CN=one"), await world.holder(agent, "/CN=two")
    entity = await world.store.find_entity("ra1")
    assert entity is not None
    revoker = await world.add_passphrase(entity.id, subject="/CN=one")
    await world.store.disable_entity("ra1")
    assert await ask(world, revoker, other) == "notAuthorized"
    assert await ask(world, revoker, holder) == "accepted"
