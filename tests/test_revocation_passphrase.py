"""A revocation passphrase (RFC 9810 section 5.3.19.9 and appendix B): brought, kept, used, replaced."""

import logging
import os
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.changes import SetRevocationPassphrase
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.messages import Request, Template, cert_request, cert_status, error_content, protect
from cmpd.cms import encrypted_value_for_certificate, envelope_for_certificate, envelope_for_password
from cmpd.env import Env
from cmpd.errors import StoreConflict
from cmpd.handlers.attempts import MAX_FAILURES, SECONDS
from cmpd.message import ID_IT_REV_PASSPHRASE, InfoTypeAndValue, decode
from cmpd.protection.base import ProtectionPolicy
from cmpd.records import CertificateState, RevocationPassphrase
from cmpd.signing.recipient import RsaRecipient
from cmpd.store.memory import MemoryStore
from cmpd.store.sealing import Sealer
from tests.test_cms import CERTIFICATE, KEY, PLAIN, make_certificate
from tests.test_general_messages import (
    CURRENT_CRL,
    REV_PASSPHRASE,
    answers,
    equip,
    failure,
    genm,
    item,
    new_world,
    request,
    transactions,
)
from tests.world import Seen, World, rev_details

ENV = Env()
RSA = der.seq(der.encode_oid("1.2.840.113549.1.1.1"), der.NULL_TLV)
KEY_ID = b"my phone"
ECHO = InfoTypeAndValue(ID_IT_REV_PASSPHRASE, None)


def to_certificate(passphrase: bytes = PLAIN, key_id: bytes | None = KEY_ID) -> bytes:
    return item(REV_PASSPHRASE, envelope_for_certificate(passphrase, CERTIFICATE, key_id, ENV))


def by_secret(credential: SharedSecret, passphrase: bytes = PLAIN, key_id: bytes | None = KEY_ID) -> bytes:
    return item(REV_PASSPHRASE, envelope_for_password(passphrase, credential.secret, key_id, ENV, iterations=500))


async def bring(world: World, credential: Credential, *items: bytes, pvno: int = 3) -> Seen:
    return await genm(world, credential, *(items or (to_certificate(),)), pvno=pvno)


def kept(world: World) -> dict[bytes, bytes]:
    """Passphrase by key identifier."""
    return {key_id: one.sealed for key_id, one in world.store._tables.passphrases.items()}


def user(passphrase: bytes = PLAIN, key_id: bytes = KEY_ID) -> SharedSecret:
    """Who protects by the passphrase."""
    return SharedSecret(key_id.decode(), passphrase, iterations=500)


def first_request(world: World, credential: Credential, *info: bytes, body: str = "ir", **fields: Any) -> Request:
    made = cert_request(body, [Template(world.ca_key, encode_name("/CN=device"))], credential, world.env)
    return protect(body, decode(made.der).body, credential.protector(world.env), world.env, info=info, pvno=3, **fields)


# --- brought ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["to certificate", "by secret", "encryptedValue"])
async def test_a_passphrase_in_genm_is_kept_and_acknowledged_by_the_oid_alone(how: str) -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    items = {
        "to certificate": (to_certificate(), 3),
        "by secret": (by_secret(device), 3),
        "encryptedValue": (
            item(REV_PASSPHRASE, encrypted_value_for_certificate(PLAIN, CERTIFICATE, KEY_ID, ENV)),
            2,
        ),
    }
    value, pvno = items[how]
    assert answers(await bring(world, device, value, pvno=pvno)) == [(REV_PASSPHRASE, None)]
    assert kept(world) == {KEY_ID: PLAIN}


async def test_a_passphrase_by_secret_needs_no_encryption_certificate() -> None:
    world = World()
    device = await world.add_secret(may_revoke=True)
    assert answers(await bring(world, device, by_secret(device))) == [(REV_PASSPHRASE, None)]
    seen = await bring(world, device)
    assert failure(seen) == "badRequest"
    assert "no encryption certificate" in seen.status()[1]


async def test_a_server_without_a_place_for_it_takes_none() -> None:
    world = equip(new_world(), sealer=None)
    seen = await bring(world, await world.add_secret(may_revoke=True))
    assert (failure(seen), seen.status()[1]) == (
        "badRequest",
        "revPassphrase: want none, as this server takes none, have one (RFC 9810 appendix B)",
    )


async def test_a_repeated_genm_gets_the_same_octets_and_keeps_nothing_again() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    asked = request(world, device, to_certificate(), item(CURRENT_CRL), pvno=3)
    first, second = [await world.ask(asked, device) for _ in range(2)]
    assert first.envelope.der == second.envelope.der
    assert [oid for oid, _ in answers(first)] == [REV_PASSPHRASE, CURRENT_CRL]
    assert transactions(world) == 1


async def test_without_local_key_id_it_is_found_by_the_senders_key_identifier() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    holder = await world.holder(device)
    await bring(world, device, to_certificate(key_id=None))
    await bring(world, holder, to_certificate(key_id=None))
    assert set(kept(world)) == {b"device", holder.certificate.key_identifier}


@pytest.mark.parametrize("body", ["ir", "rr", "genm", "certConf"])
async def test_a_passphrase_in_any_header_is_kept_and_acknowledged_there(body: str) -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    seen = await in_header(world, device, body, to_certificate())
    assert seen.body == {"ir": "ip", "rr": "rp", "genm": "genp", "certConf": "pkiconf"}[body]
    assert ECHO in seen.envelope.header.general_info
    assert kept(world) == {KEY_ID: PLAIN}


async def in_header(world: World, device: Credential, body: str, *info: bytes) -> Seen:
    """A request of this kind with these items of generalInfo."""
    if body == "ir":
        return await world.ask(first_request(world, device, *info), device)
    if body == "genm":
        return await genm(world, device, item(CURRENT_CRL), info=info, pvno=3)
    if body == "rr":
        holder = await world.holder(device)
        content = der.seq(rev_details(holder.certificate))
        return await world.ask(
            protect("rr", content, device.protector(world.env), world.env, info=info, pvno=3), device
        )
    asked, answer, _ = await world.ir(device, implicit=False)
    content = {
        "certConf": der.seq(cert_status(answer.certificate(), 0)),
        "error": error_content("no"),
        "pkiconf": der.NULL_TLV,
    }
    return await world.ask(world.follow(asked, answer, body, content[body], info=info, pvno=3), device)


async def test_an_error_that_ends_a_wait_may_bring_one() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    seen = await in_header(world, device, "error", to_certificate())
    assert (seen.body, kept(world)) == ("pkiconf", {KEY_ID: PLAIN})


async def test_it_is_refused_where_its_keeping_cannot_be_acknowledged() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    assert failure(await in_header(world, device, "pkiconf", to_certificate())) == "badRequest"
    lone = protect(
        "error", error_content("no"), device.protector(world.env), world.env, info=[to_certificate()], pvno=3
    )
    assert failure(await world.ask(lone, device)) == "badRequest"
    assert kept(world) == {}


@pytest.mark.parametrize("body", ["ir", "rr", "genm", "certConf"])
async def test_two_in_one_header_are_bad_data_format_and_the_request_is_not_carried_out(body: str) -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    two = to_certificate(), to_certificate(key_id=b"another")
    assert failure(await in_header(world, device, body, *two)) == "badDataFormat"
    assert kept(world) == {}
    states = {one.state for one in await world.store.list_certificates()}
    assert states <= {CertificateState.CONFIRMED, CertificateState.ISSUED}


async def test_a_refused_request_keeps_the_passphrase_that_came_with_it() -> None:
    world = new_world()
    device = await world.add_secret(subject="/CN=somebody else", may_revoke=True)
    seen = await world.ask(first_request(world, device, to_certificate()), device)
    assert seen.status()[0] == 2
    assert ECHO in seen.envelope.header.general_info
    assert kept(world) == {KEY_ID: PLAIN}


# --- what is wrong with it --------------------------------------------------------------------------------------------


async def test_the_form_is_that_of_the_version() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    old = item(REV_PASSPHRASE, encrypted_value_for_certificate(PLAIN, CERTIFICATE, KEY_ID, ENV))
    assert failure(await bring(world, device, old, pvno=3)) == "badDataFormat"
    assert failure(await bring(world, device, to_certificate(), pvno=2)) == "badDataFormat"


@pytest.mark.parametrize(("size", "taken"), [(0, False), (7, False), (8, True), (1023, True), (1024, False)])
async def test_a_passphrase_has_8_to_1023_octets(size: int, taken: bool) -> None:
    world = new_world()
    seen = await bring(world, await world.add_secret(may_revoke=True), to_certificate(os.urandom(size)))
    assert seen.body == ("genp" if taken else "error")
    assert len(kept(world)) == taken


@pytest.mark.parametrize(("size", "taken"), [(0, False), (1, True), (128, True), (129, False)])
async def test_a_key_identifier_has_1_to_128_octets(size: int, taken: bool) -> None:
    world = new_world()
    seen = await bring(world, await world.add_secret(may_revoke=True), to_certificate(key_id=bytes(size)))
    assert seen.body == ("genp" if taken else "error")
    assert list(kept(world)) == ([bytes(size)] if taken else [])


async def test_whatever_cannot_be_decrypted_has_one_answer() -> None:
    world = new_world()
    device, other = (
        await world.add_secret(may_revoke=True),
        await world.add_secret("other", b"other secret", may_revoke=True),
    )
    elsewhere = envelope_for_certificate(PLAIN, make_certificate(ski=False), KEY_ID, ENV)
    spoilt = bytearray(to_certificate())
    spoilt[len(spoilt) // 2] ^= 1  # in the encrypted key
    seen = [
        await bring(world, device, item(REV_PASSPHRASE, elsewhere)),
        await bring(world, device, by_secret(other)),
        await bring(world, await world.holder(device), by_secret(device)),
    ]
    assert {failure(one) for one in seen} == {"badRequest"}
    assert len({one.status()[1] for one in seen}) == 1
    answer = await bring(world, device, bytes(spoilt))
    if answer.body == "error":  # in 255 cases of 256
        assert answer.status() == seen[0].status()


async def test_iterations_are_bounded_by_the_policy() -> None:
    world = equip(new_world(), protection=ProtectionPolicy(max_pbkdf2_iterations=10_000))
    device = await world.add_secret(may_revoke=True)
    for count in (99, 10_001):
        value = envelope_for_password(PLAIN, device.secret, KEY_ID, ENV, iterations=count)
        assert failure(await bring(world, device, item(REV_PASSPHRASE, value))) == "badAlg"


# --- whose it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["ir", "genm", "rr"])
async def test_a_secret_that_may_not_revoke_is_no_way_to_a_passphrase_that_may(body: str) -> None:
    world = new_world()
    device = await world.add_secret()
    seen = await in_header(world, device, body, to_certificate())
    assert (failure(seen), kept(world)) == ("notAuthorized", {})
    assert failure(await bring(world, device)) == "notAuthorized"
    assert kept(world) == {}


async def test_such_a_secret_brings_one_with_certconf_for_the_certificate_that_is_confirmed() -> None:
    world = new_world()
    device = await world.add_secret()
    another = await world.holder(device, subject="/CN=another")
    asked, answer, _ = await world.ir(device, implicit=False)
    content = der.seq(cert_status(answer.certificate(), 0))
    confirmed = world.follow(asked, answer, "certConf", content, info=[to_certificate()], pvno=3)
    assert ECHO in (await world.ask(confirmed, device)).envelope.header.general_info
    found = await world.store.find_passphrase(KEY_ID)
    assert found is not None
    assert found.subject == answer.certificate().subject
    revoker = SharedSecret(KEY_ID.decode(), PLAIN, iterations=500)
    assert (await world.rr(revoker, rev_details(another.certificate))).outcomes() == ["notAuthorized"]
    assert (await world.rr(revoker, rev_details(answer.certificate()))).outcomes() == ["accepted"]


async def test_nobody_takes_the_key_identifier_of_somebody_else() -> None:
    world = new_world()
    device, other = (
        await world.add_secret(may_revoke=True),
        await world.add_secret("other", b"other secret", may_revoke=True),
    )
    await bring(world, device)
    seen = await bring(world, other, to_certificate(b"a passphrase of mine"))
    assert failure(seen) == "badRequest"
    assert "in use" in seen.status()[1]
    assert kept(world) == {KEY_ID: PLAIN}


async def test_nobody_takes_the_reference_value_of_somebody_else() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    await world.add_secret("other", b"other secret", may_revoke=True)
    assert failure(await bring(world, device, to_certificate(key_id=b"other"))) == "badRequest"
    assert answers(await bring(world, device, to_certificate(key_id=b"device"))) == [(REV_PASSPHRASE, None)]


async def test_two_certificates_with_different_subjects_of_one_entity_are_two_holders() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    one, two = await world.holder(device), await world.holder(device, "/CN=two")
    assert answers(await bring(world, one)) == [(REV_PASSPHRASE, None)]
    assert failure(await bring(world, two)) == "badRequest"
    assert failure(await bring(world, device)) == "badRequest"
    seen = await world.rr(user(), rev_details(two.certificate), rev_details(one.certificate))
    assert seen.outcomes() == ["notAuthorized", "accepted"]


async def test_an_ra_needs_none_but_who_got_a_certificate_through_it_may_bring_one() -> None:
    world = new_world()
    ra = await world.add_secret("ra", b"secret of the ra", is_ra=True)
    assert failure(await bring(world, ra)) == "notAuthorized"
    holder = await world.holder(ra, "/CN=behind the ra")
    assert answers(await bring(world, holder)) == [(REV_PASSPHRASE, None)]


@pytest.mark.parametrize("reason", [1, 6])
async def test_a_suspended_or_revoked_certificate_brings_none_with_its_rr(reason: int) -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    holder = await world.holder(device)
    assert (await world.rr(device, rev_details(holder.certificate, reason))).outcomes() == ["accepted"]
    content = der.seq(rev_details(holder.certificate))
    asked = protect("rr", content, holder.protector(world.env), world.env, info=[to_certificate()], pvno=3)
    assert failure(await world.ask(asked, holder)) == "notAuthorized"
    assert kept(world) == {}


async def test_a_repeated_rr_gets_its_answer_though_its_certificate_could_bring_none_by_now() -> None:
    world = new_world()
    holder = await world.holder(await world.add_secret(may_revoke=True))
    content = der.seq(rev_details(holder.certificate))
    asked = protect("rr", content, holder.protector(world.env), world.env, info=[to_certificate()], pvno=3)
    first, second = [await world.ask(asked, holder) for _ in range(2)]
    assert first.outcomes() == ["accepted"]
    assert first.envelope.der == second.envelope.der
    assert kept(world) == {KEY_ID: PLAIN}


async def test_a_repeated_genm_gets_its_answer_after_the_registration_has_expired() -> None:
    world = World(window=None)
    device = await world.add_secret(expires_at=int(world.clock.now) + 10, may_revoke=True)
    asked = request(world, device, by_secret(device), pvno=3)
    first = await world.ask(asked, device)
    world.clock.now += 20
    second = await world.ask(asked, device)
    assert answers(first) == [(REV_PASSPHRASE, None)]
    assert first.envelope.der == second.envelope.der


async def test_another_request_with_its_transaction_id_keeps_nothing() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    first = request(world, device, to_certificate(), pvno=3)
    await world.ask(first, device)
    for value in (to_certificate(key_id=b"another"), to_certificate(b"short")):
        again = request(world, device, value, pvno=3, transaction_id=first.transaction_id)
        assert failure(await world.ask(again, device)) == "transactionIdInUse"
    assert kept(world) == {KEY_ID: PLAIN}


async def test_an_expired_registration_brings_none() -> None:
    world = new_world()
    device = await world.add_secret(expires_at=int(world.clock.now) + 10, may_revoke=True)
    world.clock.now += 20
    assert failure(await bring(world, device)) == "notAuthorized"


async def test_a_holder_keeps_sixteen_and_may_replace_each() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    for number in range(16):
        assert answers(await bring(world, device, to_certificate(key_id=bytes((number,))))) == [(REV_PASSPHRASE, None)]
    seen = await bring(world, device, to_certificate(key_id=b"one more"))
    assert failure(seen) == "badRequest"
    assert "too many" in seen.status()[1]
    await bring(world, device, to_certificate(b"another passphrase", key_id=b"\x03"))
    assert kept(world)[b"\x03"] == b"another passphrase"
    assert len(kept(world)) == 16


class TakenMeanwhile(MemoryStore):
    """Another process gives the key identifier away after this one has looked."""

    async def write(self, changes: Any, **how: Any) -> None:
        if any(isinstance(change, SetRevocationPassphrase) for change in changes):
            raise StoreConflict("passphrase identifier in use")
        await super().write(changes, **how)


@pytest.mark.parametrize("body", ["ir", "rr", "genm", "certConf"])
async def test_a_key_identifier_that_was_taken_meanwhile_is_refused_with_its_request(body: str) -> None:
    world = new_world()
    world.store = TakenMeanwhile()
    world.restart()
    equip(world, recipient=new_world().service.recipient)
    device = await world.add_secret(may_revoke=True)
    seen = await in_header(world, device, body, to_certificate())
    assert failure(seen) == "badRequest"
    assert "in use" in seen.status()[1]
    assert all(one.state is not CertificateState.REVOKED for one in await world.store.list_certificates())


# --- its use ----------------------------------------------------------------------------------------------------------


async def test_a_passphrase_that_came_with_cert_conf_revokes_later_and_a_new_one_takes_its_place() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    asked, answer, key = await world.ir(device, implicit=False)
    content = der.seq(cert_status(answer.certificate(), 0))
    confirmed = world.follow(asked, answer, "certConf", content, info=[by_secret(device)], pvno=3)
    assert (await world.ask(confirmed, device)).body == "pkiconf"
    first, second = KeyAndCertificate(key, answer.certificate()), await world.holder(device)

    new = item(REV_PASSPHRASE, envelope_for_password(b"the next passphrase", PLAIN, KEY_ID, ENV, iterations=500))
    details = der.seq(rev_details(first.certificate, 1))
    asked = protect("rr", details, user().protector(world.env), world.env, info=[new], pvno=3)
    seen = await world.ask(asked, user())
    assert seen.outcomes() == ["accepted"]
    assert ECHO in seen.envelope.header.general_info
    assert (await world.record(first)).state is CertificateState.REVOKED

    assert failure(await world.rr(user(), rev_details(second.certificate))) == "badMessageCheck"
    seen = await world.rr(user(b"the next passphrase"), rev_details(second.certificate))
    assert seen.outcomes() == ["accepted"]


async def test_a_passphrase_is_good_for_nothing_but_rr() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    await bring(world, device)
    for seen in (await genm(world, user(), item(CURRENT_CRL)), (await world.ir(user()))[1]):
        assert failure(seen) == "badMessageCheck"


async def test_a_passphrase_revokes_nothing_of_another_entity() -> None:
    world = new_world()
    device, other = (
        await world.add_secret(may_revoke=True),
        await world.add_secret("other", b"other secret", may_revoke=True),
    )
    theirs = await world.holder(other, "/CN=other")
    await bring(world, device)
    assert (await world.rr(user(), rev_details(theirs.certificate))).outcomes() == ["notAuthorized"]


async def test_neither_the_database_nor_the_log_has_it_in_clear(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world = equip(new_world(), sealer=Sealer.create(tmp_path / "key", b"installation"))
    device = await world.add_secret(may_revoke=True)
    with caplog.at_level(logging.DEBUG):
        await bring(world, device)
        await bring(world, device, to_certificate(b"x" * 7))
    [sealed] = kept(world).values()
    assert PLAIN not in sealed
    assert PLAIN.decode() not in caplog.text
    assert "revocation passphrase received keyId=6d792070686f6e65 entity='device'" in caplog.text
    one: RevocationPassphrase = await world.store.find_passphrase(KEY_ID)
    assert PLAIN.decode() not in repr(one)
    assert one.created_at == int(world.clock.now)


# --- guessing --------------------------------------------------------------------------------------------------------


async def test_who_sends_too_much_that_cannot_be_decrypted_is_not_decrypted_for_any_more() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    other = await world.add_secret("other", b"other secret", may_revoke=True)
    elsewhere = envelope_for_certificate(PLAIN, make_certificate(ski=False), KEY_ID, ENV)
    for _ in range(MAX_FAILURES):
        assert failure(await bring(world, device, item(REV_PASSPHRASE, elsewhere))) == "badRequest"
    refused = await bring(world, device)
    assert failure(refused) == "badRequest"
    assert "cannot be decrypted" in refused.status()[1]
    assert answers(await bring(world, other, to_certificate(key_id=b"other"))) == [(REV_PASSPHRASE, None)]
    world.clock.now += SECONDS + 1
    assert answers(await bring(world, device)) == [(REV_PASSPHRASE, None)]


async def test_junk_does_not_push_out_what_is_counted_of_an_encrypted_key() -> None:
    recipient = RsaRecipient(KEY, CERTIFICATE, ENV)
    for size in (1, 255, 257, 2048):
        assert len(await recipient.decrypt_key(RSA, os.urandom(size))) == 32
    assert not recipient._uses


async def test_nobody_takes_the_subject_key_identifier_of_another_certificate() -> None:
    world = new_world()
    device, other = await world.add_secret(may_revoke=True), await world.add_secret("other", b"other secret")
    victim, stranger = await world.holder(device), await world.holder(other, "/CN=stranger")
    seen = await bring(world, stranger, to_certificate(key_id=victim.certificate.key_identifier))
    assert failure(seen) == "badRequest"
    assert answers(await bring(world, victim, to_certificate(key_id=None))) == [(REV_PASSPHRASE, None)]
    own = to_certificate(key_id=stranger.certificate.key_identifier)
    assert answers(await bring(world, stranger, own)) == [(REV_PASSPHRASE, None)]


# --- what was refused ------------------------------------------------------------------------------------------------


async def test_an_rr_that_was_refused_for_its_passphrase_is_not_granted_when_it_comes_again() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    holder = await world.holder(device)
    for number in range(16):
        await bring(world, device, to_certificate(key_id=bytes((number,))))
    content = der.seq(rev_details(holder.certificate, 6))
    asked = protect("rr", content, device.protector(world.env), world.env, info=[to_certificate()], pvno=3)
    refused = await world.ask(asked, device)
    assert failure(refused) == "badRequest"
    del world.store._tables.passphrases[b"\x00"]
    for later in (100, 100_000):
        world.clock.now += later
        assert (await world.ask(asked, device)).body == "error"
        await world.store.purge(int(world.clock.now) - 86_400, 100)
    assert (await world.record(holder)).state is CertificateState.CONFIRMED


async def test_a_passphrase_that_was_refused_does_not_take_the_place_of_a_later_one() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    for _ in range(MAX_FAILURES):
        world.service.attempts.failed(1, world.clock.now)
    old = request(world, device, to_certificate(b"an old passphrase"), pvno=3)
    refused = await world.ask(old, device)
    assert failure(refused) == "badRequest"
    world.clock.now += SECONDS
    await bring(world, device, to_certificate(b"a new passphrase"))
    assert (await world.ask(old, device)).envelope.der == refused.envelope.der
    assert kept(world) == {KEY_ID: b"a new passphrase"}
