"""KEM-based protection: the three flows of RFC 9810 appendix E, their secrets, and what must not come of them."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as every
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.client.credentials import Protector, SharedSecret
from cmpd.client.errors import VerificationError
from cmpd.client.messages import cert_request, cert_status, error_content, extension, protect
from cmpd.client.responses import verify
from cmpd.cms import envelope_for_certificate
from cmpd.config import ProfileConfig
from cmpd.config_doors import HttpConfig, LocalConfig, SpoolConfig, TcpConfig
from cmpd.doors import _door
from cmpd.errors import StoreError
from cmpd.handlers import kem_secrets
from cmpd.message import NULL_DN, decode, encode_message
from cmpd.origin import Door, Origin, Waiting
from cmpd.records import CertificateState, TransactionRecord, TransactionState
from cmpd.signing.recipient import RsaRecipient
from cmpd.store.base import Store
from cmpd.store.sealing import Sealer
from cmpd.store.sqlite import SqliteStore
from tests.kems import (
    ASKS,
    KEM_TYPE,
    Holder,
    agreed,
    ask_for_ciphertext,
    by_kem,
    confirmation,
    given,
    holder,
    info_item,
    kem_info,
    kem_protector,
    request_by,
    signed,
    template,
)
from tests.pops import KEYS, encrypting_usage, flipped
from tests.test_cms import CERTIFICATE, KEY
from tests.test_general_messages import equip
from tests.test_pop_encrcert import decrypted
from tests.world import Seen, World, rev_details

STRICT = Origin("strict", Door("tcp", strict=True))
LENIENT = Origin("lenient", Door("tcp"))


async def test_a_holder_of_a_kem_key_enrols_and_confirms() -> None:
    world = World()
    who = await holder(world)
    protector = await agreed(world, who)
    request = request_by(world, protector, implicit_confirm=False)
    seen = signed(world, await world.send(request.der), request)
    assert seen.body == "ip", seen.status()
    assert seen.status()[0] == 0
    conf = confirmation(world, request, seen)
    assert signed(world, await world.send(conf.der), conf).body == "pkiconf"


# --- figure 3: the client has a KEM key -------------------------------------------------------------------------------


def refused(seen: Seen | None, failure: str, text: str = "") -> Seen:
    assert seen is not None
    assert seen.body == "error"
    assert seen.status()[2] == {failure}, seen.status()
    assert text in seen.status()[1]
    return seen


@pytest.mark.parametrize("kind", ["mlkem768", "mlkem1024"])
@pytest.mark.parametrize("options", [{}, {"name": "sha512", "size": 64}, {"kdf": "sha512", "context": b"context"}])
async def test_the_transaction_goes_on_after_a_restart(kind: str, options: dict, store: Store) -> None:
    world = World(store=store)
    who = await holder(world, kind)
    request = request_by(world, await agreed(world, who, **options), implicit_confirm=False)
    seen = signed(world, await world.send(request.der), request)
    world.restart()
    assert (await world.send(request.der)).envelope.der == seen.envelope.der
    conf = confirmation(world, request, seen)
    pkiconf = signed(world, await world.send(conf.der), conf)
    assert pkiconf.body == "pkiconf"
    world.restart()
    assert (await world.send(conf.der)).envelope.der == pkiconf.envelope.der
    assert await world.states() == [CertificateState.CONFIRMED] * 2


async def test_after_a_restart_before_the_request_the_client_is_told_to_ask_again() -> None:
    world = World()
    who = await holder(world)
    protector = await agreed(world, who)
    world.restart()
    request = request_by(world, protector)
    seen = refused(await world.send(request.der), "badMessageCheck", "ask for another one by genm KemCiphertextInfo")
    signed_error(world, seen)
    assert await world.store.find_transaction(request.transaction_id) is None


def signed_error(world: World, seen: Seen) -> None:
    assert seen.envelope.header.sender == world.signer.sender
    assert seen.envelope.header.protection_alg == world.signer.algorithm


async def test_the_requester_is_the_holder_of_the_certificate() -> None:
    world = World()
    who = await holder(world)
    for subject, failure in [("/CN=holder", ""), ("/CN=somebody else", "notAuthorized")]:
        request = request_by(world, await agreed(world, who), "cr", template(subject))
        seen = signed(world, await world.send(request.der), request)
        assert seen.status()[2] == ({failure} if failure else set())
    record = await world.store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.credential.startswith("kem:")


async def test_a_kur_is_proven_by_the_kem_certificate_that_it_updates() -> None:
    world = World()
    who = await holder(world)
    update = template(replaces=who.certificate)
    request = request_by(world, await agreed(world, who), "kur", update)
    seen = signed(world, await world.send(request.der, STRICT), request)
    assert (seen.body, seen.status()[0]) == ("kup", 0), seen.status()


async def test_an_rr_revokes_the_kem_certificate_and_a_repeat_gets_the_same_octets() -> None:
    world = World()
    who = await holder(world)
    protector = await agreed(world, who)
    request = protect("rr", der.seq(rev_details(who.certificate, 1)), protector, world.env)
    seen = signed(world, await world.send(request.der, STRICT), request)
    assert seen.outcomes() == ["accepted"]
    for _ in range(2):
        assert (await world.send(request.der)).envelope.der == seen.envelope.der
        world.restart()
    assert await world.states() == [CertificateState.REVOKED]
    refused(await world.send(ask_for_ciphertext(world, who).der), "signerNotTrusted", "revoked")


async def test_a_genm_is_answered_and_its_secret_is_for_it_alone() -> None:
    world = World()
    who = await holder(world)
    protector = await agreed(world, who)
    crl = der.seq(der.seq(der.encode_oid("1.3.6.1.5.5.7.4.6")))
    request = protect("genm", crl, protector, world.env)
    for _ in range(2):
        assert signed(world, await world.send(request.der), request).body == "genp"
    refused(await world.send(request_by(world, protector).der), "badMessageCheck", "RFC 9810 section 8.8")
    assert len(await world.store.list_certificates()) == 1


async def test_the_same_genm_gets_the_same_ciphertext_and_another_one_none() -> None:
    world = World()
    who = await holder(world)
    request = ask_for_ciphertext(world, who)
    first, second = await asyncio.gather(world.respond(request.der), world.respond(request.der))
    assert first == second == await world.respond(request.der)
    another = ask_for_ciphertext(world, who, transaction_id=request.transaction_id)
    refused(await world.send(another.der), "transactionIdInUse")
    secret = given(world.read(first), who)
    made = request_by(world, kem_protector(who, secret, request.transaction_id))
    assert signed(world, await world.send(made.der), made).status()[0] == 0


async def test_the_transactionid_of_another_transaction_gets_no_ciphertext() -> None:
    world = World()
    who = await holder(world)
    secret = await world.add_secret()
    request, _, _ = await world.ir(secret)
    asked = ask_for_ciphertext(world, who, transaction_id=request.transaction_id)
    refused(await world.send(asked.der), "transactionIdInUse")
    protector = await agreed(world, who)
    made = request_by(world, protector)
    await world.send(made.der)
    world.clock.now += kem_secrets.LIFETIME
    asked = ask_for_ciphertext(world, who, transaction_id=made.transaction_id)
    refused(await world.send(asked.der), "transactionIdInUse")
    refused(await world.send(request_by(world, protector).der), "transactionIdInUse")


async def test_each_ciphertext_is_fresh() -> None:
    world = World()
    who = await holder(world)
    found = {given(await world.send(ask_for_ciphertext(world, who).der), who) for _ in range(3)}
    assert len(found) == 3


async def test_nothing_is_written_for_a_ciphertext(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "ca.db", serving=True)
    world = World(store=store)
    who = await holder(world)
    before = store.units
    await agreed(world, who)
    assert store.units == before > 0
    await store.close()


@pytest.mark.parametrize("spoil", ["secret", "transactionID", "octets", "holder", "context", "len"])
async def test_a_wrong_key_is_told_so_by_a_signature_and_changes_nothing(spoil: str) -> None:
    world = World()
    who = await holder(world)
    asked = ask_for_ciphertext(world, who)
    secret = given(await world.send(asked.der), who)
    tid = asked.transaction_id
    protector = kem_protector(who, bytes(32) if spoil == "secret" else secret, tid)
    if spoil == "transactionID":
        protector = kem_protector(who, secret, tid, derived_for=bytes(16))
    if spoil == "holder":
        protector = kem_protector(await holder(world, subject="/CN=other"), secret, tid)
    if spoil == "context":
        protector = replace(protector, algorithm=kem_protector(who, secret, tid, context=b"").algorithm)
    if spoil == "len":
        protector = replace(protector, algorithm=kem_protector(who, secret, tid, size=33).algorithm)
    if spoil == "octets":
        compute = protector.compute
        protector = replace(protector, compute=lambda octets: compute(octets + b"x"))
    request = request_by(world, protector)
    signed_error(world, refused(await world.send(request.der), "badMessageCheck"))
    assert await world.store.find_transaction(tid) is None
    good = request_by(world, kem_protector(who, secret, tid))
    assert signed(world, await world.send(good.der), good).status()[0] == 0


async def test_a_secret_is_good_for_its_own_transaction_alone() -> None:
    world = World()
    who = await holder(world)
    asked = ask_for_ciphertext(world, who)
    secret = given(await world.send(asked.der), who)
    moved = request_by(world, kem_protector(who, secret, bytes(range(16)), derived_for=asked.transaction_id))
    refused(await world.send(moved.der), "badMessageCheck", "want a KEM ciphertext")


async def test_what_goes_on_with_a_kem_transaction_is_protected_by_it() -> None:
    world = World()
    who = await holder(world)
    request = request_by(world, await agreed(world, who), implicit_confirm=False)
    seen = signed(world, await world.send(request.der), request)
    stranger = await world.add_secret("stranger")
    other = replace(confirmation(world, request, seen))
    content = decode(other.der).body
    forged = protect(
        "certConf",
        content,
        stranger.protector(world.env),
        world.env,
        transaction_id=request.transaction_id,
        recip_nonce=seen.envelope.header.sender_nonce,
    )
    refused(await world.send(forged.der), "wrongIntegrity")
    assert await world.states() == [CertificateState.CONFIRMED, CertificateState.ISSUED]


@pytest.mark.parametrize(
    ("who", "failure", "text"),
    [
        ("nobody", "badMessageCheck", "have none"),
        ("stranger", "signerNotTrusted", ""),
        ("signer", "badMessageCheck", "want keyEncipherment"),
        ("disabled", "signerNotTrusted", "disabled"),
        ("agreer", "badMessageCheck", "want keyEncipherment"),
        ("misnamed", "badMessageCheck", "sender"),
        ("garbage", "badDataFormat", ""),
    ],
)
async def test_who_gets_no_ciphertext(who: str, failure: str, text: str) -> None:
    world = World()
    one = await holder(world, "x25519" if who == "agreer" else "mlkem768")
    bare = one.bare()
    if who == "nobody":
        bare = replace(bare, extra_certs=())
    if who == "stranger":
        bare = (await holder(World())).bare()
    if who == "signer":
        signer = await world.holder(await world.add_secret(), extensions=(_signs(),))
        bare = Holder(None, "", signer.certificate).bare()
    if who == "disabled":
        await world.store.disable_entity("for /CN=holder")
    if who == "misnamed":
        bare = replace(bare, sender=world.signer.sender)
    if who == "garbage":
        bare = replace(bare, extra_certs=(b"\x30\x03\x02\x01\x05",))
    request = protect("genm", ASKS, bare, world.env)
    signed_error(world, refused(await world.send(request.der), failure, text))


def _signs() -> bytes:
    return extension("2.5.29.15", der.encode_named_bits(0), critical=True)


async def test_a_certificate_that_is_not_confirmed_gets_no_ciphertext() -> None:
    world, key = World(), KEYS["mlkem768"]()
    secret = await world.add_secret()
    wish = template("/CN=holder", extensions=(encrypting_usage("mlkem768"),), proof="encrCert")
    request = cert_request("ir", [replace(wish, key=key)], secret, world.env)
    who = Holder(key, "mlkem768", decrypted(await world.ask(request, secret), key))
    refused(await world.send(ask_for_ciphertext(world, who).der), "signerNotTrusted", "not confirmed yet")


@pytest.mark.parametrize(
    "content",
    [
        der.seq(der.seq(KEM_TYPE, der.NULL_TLV)),
        der.seq(der.seq(KEM_TYPE), der.seq(KEM_TYPE)),
        der.seq(der.seq(KEM_TYPE), der.seq(der.encode_oid("1.3.6.1.5.5.7.4.6"))),
        der.seq(der.seq(der.encode_oid("1.3.6.1.5.5.7.4.6"))),
        der.seq(),
    ],
)
async def test_no_other_genm_goes_without_protection(content: bytes) -> None:
    world = World()
    who = await holder(world)
    request = protect("genm", content, who.bare(), world.env)
    signed_error(world, refused(await world.send(request.der), "badMessageCheck", "unprotected message"))


async def test_a_genm_is_held_to_the_rules_of_every_header() -> None:
    world = World()
    who = await holder(world)
    for origin, bodies in [(STRICT, "badDataFormat"), (LENIENT, "")]:
        seen = await world.send(ask_for_ciphertext(world, who, transaction_id=b"8 octets").der, origin)
        assert seen is not None
        assert seen.body == ("error" if bodies else "genp")
        world.restart()
    request = ask_for_ciphertext(world, who)
    world.clock.now += 3600
    refused(await world.send(request.der), "badTime")


async def test_whatever_else_an_unprotected_genm_says_changes_nothing(store: Store) -> None:
    """implicitConfirm, an origPKIMessage and a revocation passphrase that anybody may have made."""
    world = World(store=store)
    equip(world, recipient=RsaRecipient(KEY, CERTIFICATE, world.env))
    who = await holder(world)
    passphrase = envelope_for_certificate(b"not his own", CERTIFICATE, b"key identifier", world.env)
    info = (
        der.seq(der.encode_oid("1.3.6.1.5.5.7.4.12"), passphrase),
        der.seq(der.encode_oid("1.3.6.1.5.5.7.4.15"), der.seq(ask_for_ciphertext(world, who).der)),
        kem_info(kem_of(serving()))[0],
    )
    before = store.generation
    request = protect("genm", ASKS, who.bare(), world.env, info=info)
    seen = await world.send(request.der)
    given(seen, who)
    assert seen is not None
    assert not seen.envelope.header.general_info
    assert store.generation == before
    assert await store.find_passphrase(b"key identifier") is None
    assert await store.find_transaction(request.transaction_id) is None


# --- unprotected errors -----------------------------------------------------------------------------------------------


async def test_an_unprotected_error_gets_a_pkiconf_that_cannot_be_passed_off_as_another_one() -> None:
    """With a signature it would be the answer to a certConf that somebody on the way keeps back."""
    world = World()
    signer = await world.holder(await world.add_secret(), "/CN=holder")
    request = request_by(world, signer.protector(world.env), implicit_confirm=False)
    seen = await world.send(request.der)
    assert seen is not None
    conf = confirmation(world, request, seen)
    nobody = Protector(b"", NULL_DN, None, (), lambda octets: b"")
    spoilt = protect("error", error_content("no"), nobody, world.env, transaction_id=request.transaction_id)
    spoilt = replace(spoilt, der=spoilt.der.replace(spoilt.sender_nonce, conf.sender_nonce))
    answer = await world.send(spoilt.der, STRICT)
    assert answer is not None
    assert answer.body == "pkiconf"
    assert answer.envelope.header.recip_nonce == conf.sender_nonce
    assert answer.envelope.protection is answer.envelope.header.protection_alg is None
    with pytest.raises(VerificationError):
        verify(answer.envelope.der, conf, signer, world.trust, world.env)
    assert await world.states() == [CertificateState.CONFIRMED, CertificateState.ISSUED]


@pytest.mark.parametrize("state", [TransactionState.CONFIRMING, TransactionState.ENDED])
async def test_nobody_else_gets_a_pkiconf_for_a_transaction(state: TransactionState) -> None:
    world = World()
    secret = await world.add_secret()
    signer, other = [await world.holder(secret, name) for name in ("/CN=holder", "/CN=other")]
    implicit = state is TransactionState.ENDED
    request = request_by(world, signer.protector(world.env), implicit_confirm=implicit)
    seen = signed(world, await world.send(request.der), request)
    for stranger, failure in [(other, "notAuthorized"), (secret, "wrongIntegrity")]:
        foreign = replace(request, protector=stranger.protector(world.env))
        refused(await world.send(world.follow(foreign, seen, "error", error_content("no")).der), failure)
    record = await world.store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.state is state


@pytest.mark.parametrize(
    "spoil", ["no senderNonce", "short senderNonce", "no transactionID", "late", "body", "nothing"]
)
async def test_an_unprotected_error_has_to_be_valid(spoil: str) -> None:
    """RFC 9810 section 5.3.21: another error message if any part of the header is not."""
    world = World()
    nobody = Protector(b"", NULL_DN, None, (), lambda octets: b"")
    content = der.seq(der.encode_integer(1)) if spoil == "body" else error_content("no")
    made = protect("error", content, nobody, world.env, transaction_id=b"?" * 16)
    nonce, tid = (
        der.explicit(number, der.encode_octets(value)) for number, value in ((5, made.sender_nonce), (4, b"?" * 16))
    )
    shorter = {
        "no senderNonce": (nonce, b""),
        "short senderNonce": (nonce, der.explicit(5, der.encode_octets(made.sender_nonce[1:]))),
        "no transactionID": (tid, b""),
    }
    octets = _with_header(made.der, *shorter[spoil]) if spoil in shorter else made.der
    if spoil == "late":
        world.clock.now += 3600
    seen = await world.send(octets, STRICT)
    if spoil == "nothing":
        assert seen is not None
        assert seen.body == "pkiconf"
        return
    failures = {"late": "badTime", "body": "badDataFormat", "no transactionID": "badDataFormat"}
    signed_error(world, refused(seen, failures.get(spoil, "badSenderNonce")))


def _with_header(octets: bytes, old: bytes, new: bytes) -> bytes:
    """A message without protection with another field in its header."""
    part = decode(octets).protected
    start, stop = der.expect(part, 0, len(part), der.SEQUENCE, "ProtectedPart")
    _, inner, end = der.header(part, start, stop)
    assert part.count(old, inner, end) == 1
    return der.seq(der.seq(part[inner:end].replace(old, new)), part[end:stop])


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_a_secret_waits_for_a_minute() -> None:
    world = World()
    who = await holder(world)
    first, second = await agreed(world, who), await agreed(world, who)
    world.clock.now += kem_secrets.LIFETIME - 1
    request = request_by(world, first)
    assert signed(world, await world.send(request.der), request).status()[0] == 0
    world.clock.now += 1
    refused(await world.send(request_by(world, second).der), "badMessageCheck", "ask for another one")


async def test_where_messages_are_carried_it_waits_for_a_day_and_no_flood_elsewhere_drives_it_out() -> None:
    world = World(window=None)
    who = await holder(world)
    slow = replace(LENIENT, door=replace(LENIENT.door, slow=True))
    made = [await agreed(world, who, origin=slow) for _ in range(2)]
    for _ in range(kem_secrets.MAX_OF_ONE + 1):
        await agreed(world, who)
    for protector, seconds, status in [(made[0], kem_secrets.SLOW_LIFETIME - 1, 0), (made[1], 1, 2)]:
        world.clock.now += seconds
        seen = await world.send(request_by(world, protector).der, slow)
        assert seen is not None
        assert seen.status()[0] == status


def test_messages_are_carried_where_nobody_listens() -> None:
    listens = {"listen": "127.0.0.1:0"}
    quick = [TcpConfig.model_validate(listens), HttpConfig.model_validate(listens)]
    slow = [SpoolConfig.model_validate({"directory": "x"}), LocalConfig()]
    assert [_door("a door", table).slow for table in (*quick, *slow)] == [False, False, True, True]


async def test_the_oldest_ciphertext_of_a_certificate_makes_room_and_those_of_others_stay() -> None:
    world = World()
    who, other = await holder(world), await holder(world, subject="/CN=other")
    foreign = await agreed(world, other)
    made = [await agreed(world, who) for _ in range(kem_secrets.MAX_OF_ONE + 1)]
    refused(await world.send(request_by(world, made[0]).der), "badMessageCheck", "ask for another one")
    for protector, name in [(made[1], "holder"), (made[-1], "holder"), (foreign, "other")]:
        request = request_by(world, protector, "ir", template(f"/CN={name}"))
        assert signed(world, await world.send(request.der), request).status()[0] == 0


def test_no_more_are_kept_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kem_secrets, "MAX_KEPT", 50)
    now = 0.0
    kept = kem_secrets.Ciphertexts(lambda: now)
    for number in range(200):
        certificate = bytes((number % 100,))
        kept.add(bytes((number,)), b"", b"", kem_secrets.EncapsulatedSecret(b"", certificate))
        assert len(kept) <= 50
        assert len(kept._of) <= 50
    assert [kept.find(bytes((number,))) is None for number in (0, 149, 150, 199)] == [True, True, False, False]
    now = kem_secrets.LIFETIME
    assert kept.find(bytes((199,))) is None
    kept.add(b"new", b"", b"", kem_secrets.EncapsulatedSecret(b"", b""))
    assert (len(kept), len(kept._of)) == (1, 1)


def test_what_waits_long_and_what_does_not_have_places_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kem_secrets, "MAX_KEPT", 20)
    now = 0.0
    kept = kem_secrets.Ciphertexts(lambda: now)
    for number in range(100):
        lifetime = kem_secrets.SLOW_LIFETIME if number % 2 else kem_secrets.LIFETIME
        secret = kem_secrets.EncapsulatedSecret(b"", bytes((number % 50,)))
        kept.add(bytes((number,)), b"", b"", secret, lifetime)
    assert (len(kept), len(kept._of)) == (40, 40)
    assert [kept.find(bytes((number,))) is None for number in (58, 59, 60, 61)] == [True, True, False, False]
    now = kem_secrets.LIFETIME
    assert [kept.find(bytes((number,))) is None for number in (98, 99)] == [True, False]
    kept.add(bytes((99,)), b"anew", b"", kem_secrets.EncapsulatedSecret(b"", b""))
    assert (len(kept), len(kept._of)) == (20, 20)
    found = kept.find(bytes((99,)))
    assert found is not None
    assert found.digest == b"anew"


async def test_no_secret_is_in_the_record_in_clear() -> None:
    sealer = Sealer(bytes(range(32)), World().env)
    secrets = kem_secrets.KemSecrets(b"s" * 32, b"t" * 32)
    sealed = kem_secrets.seal_secrets(sealer, b"id", secrets)
    assert sealed is not None
    assert b"ssss" not in sealed
    world = World(kem_key=KEYS["mlkem768"]())
    who = await holder(world)
    request = request_by(world, await agreed(world, who))
    await world.send(request.der)
    record = await world.store.find_transaction(request.transaction_id)
    assert record is not None
    record = replace(record, id=b"id", kem_secrets=sealed)
    assert kem_secrets.open_secrets(sealer, record) == secrets
    with pytest.raises(StoreError):
        kem_secrets.open_secrets(sealer, replace(record, id=b"other"))
    assert kem_secrets.open_secrets(sealer, replace(record, kem_secrets=None)) == kem_secrets.KemSecrets()
    assert "ssss" not in repr(secrets)


# --- figure 4: the server has a KEM key, and the client knows it ------------------------------------------------------


def serving(kind: str = "mlkem768", **fields: Any) -> World:
    return World(kem_key=KEYS[kind](), **fields)


def kem_of(world: World) -> bytes:
    """The KEM certificate (DER) of the server."""
    assert world.kem is not None
    return world.kem.certificate


async def protectors(world: World) -> dict[str, Protector]:
    """One of each kind of protection a request may have."""
    secret = await world.add_secret(subject="/CN=holder")
    signer = await world.holder(secret, "/CN=holder")
    who = await holder(world, subject="/CN=holder")
    return {
        "MAC": secret.protector(world.env),
        "signature": signer.protector(world.env),
        "KEM": await agreed(world, who),
    }


@pytest.mark.parametrize("kind", ["mlkem768", "mlkem1024"])
@pytest.mark.parametrize("by", ["MAC", "signature", "KEM"])
async def test_all_answers_of_the_transaction_are_protected_by_the_kem_key(kind: str, by: str, store: Store) -> None:
    world = serving(kind, store=store)
    info, secret = kem_info(kem_of(world), kind)
    protector = replace((await protectors(world))[by], info=(info,))
    request = request_by(world, protector, implicit_confirm=False)
    seen = await world.send(request.der, STRICT)
    by_kem(seen, kem_of(world), secret)
    assert seen.status()[0] == 0, seen.status()
    assert (await world.send(request.der, STRICT)).envelope.der == seen.envelope.der
    world.restart()
    assert (await world.send(request.der, STRICT)).envelope.der == seen.envelope.der
    conf = confirmation(world, request, seen)
    pkiconf = await world.send(conf.der, STRICT)
    by_kem(pkiconf, kem_of(world), secret)
    assert pkiconf.body == "pkiconf"


async def test_the_holder_of_a_tls_certificate_gets_answers_by_kem() -> None:
    world = serving()
    signer = await world.holder(await world.add_secret(), "/CN=holder")
    info, secret = kem_info(kem_of(world))
    bare = Protector(b"", der.explicit(4, signer.certificate.subject), None, (), lambda octets: b"", info=(info,))
    request = request_by(world, bare)
    door = Door("https", tls_authenticates=True)
    seen = await world.send(request.der, Origin("test", door, certificates=(signer.certificate.der,)))
    by_kem(seen, kem_of(world), secret)
    assert seen.status()[0] == 0


@pytest.mark.parametrize("body", ["rr", "genm", "error", "nested"])
async def test_other_bodies_are_answered_by_kem_too(body: str) -> None:
    world = serving()
    signer = await world.holder(await world.add_secret(), "/CN=holder")
    info, secret = kem_info(kem_of(world))
    content = {
        "rr": der.seq(rev_details(signer.certificate, 1)),
        "genm": der.seq(der.seq(der.encode_oid("1.3.6.1.5.5.7.4.6"))),
        "error": error_content("no"),
        "nested": der.seq(),
    }[body]
    seen = await world.send(protect(body, content, signer.protector(world.env), world.env, info=(info,)).der)
    by_kem(seen, kem_of(world), secret)
    assert seen.body == {"rr": "rp", "genm": "genp", "error": "pkiconf", "nested": "error"}[body]


async def test_a_ciphertext_of_a_later_message_is_for_its_answer() -> None:
    world = serving()
    secret = await world.add_secret()
    request, seen, _ = await world.ir(secret, implicit=False)
    info, shared = kem_info(kem_of(world))
    by_kem(await world.send(confirmation(world, request, seen, info=(info,)).der), kem_of(world), shared)


async def test_nobody_gets_a_mac_by_kem_before_he_has_shown_who_he_is() -> None:
    world = serving()
    info, _ = kem_info(kem_of(world))
    await world.add_secret()
    wrong = SharedSecret("device", b"wrong", iterations=500).protector(world.env)
    request = request_by(world, replace(wrong, info=(info,)))
    signed_error(world, refused(await world.send(request.der), "badMessageCheck"))


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        ("short", "badMessageCheck"),
        ("long", "badMessageCheck"),
        ("other KEM", "badMessageCheck"),
        ("parameters", "badMessageCheck"),
        ("empty", "badDataFormat"),
        ("huge", "badDataFormat"),
        ("no KemCiphertextInfo", "badDataFormat"),
        ("two", "badDataFormat"),
    ],
)
async def test_a_ciphertext_that_is_none_ends_the_operation(spoil: str, failure: str) -> None:
    world = serving()
    secret = await world.add_secret()
    good, _ = kem_info(kem_of(world))
    spoilt = {
        "short": (info_item(bytes(1087)),),
        "long": (info_item(bytes(1089)),),
        "other KEM": (info_item(bytes(1568), "mlkem1024"),),
        "parameters": (info_item(bytes(1088), parameters=der.NULL_TLV),),
        "empty": (info_item(b""),),
        "huge": (info_item(bytes(4097)),),
        "no KemCiphertextInfo": (der.seq(KEM_TYPE, der.NULL_TLV),),
        "two": (good, good),
    }[spoil]
    request = request_by(world, replace(secret.protector(world.env), info=spoilt))
    seen = refused(await world.send(request.der), failure)
    assert seen.envelope.header.sender_kid == b"device"  # the MAC of the request
    assert await world.store.find_transaction(request.transaction_id) is None


SPOILT = info_item(bytes(1087))


@pytest.mark.parametrize(
    ("body", "by"),
    [
        ("certConf", "MAC"),
        ("certConf", "KEM"),
        ("error", "MAC"),
        ("pkiconf", "MAC"),
        ("pollReq", "KEM"),
        ("popdecr", "KEM"),
    ],
)
async def test_in_what_goes_on_it_ends_the_transaction(body: str, by: str, store: Store) -> None:
    """RFC 9810 section 5.1.3.4: badMessageCheck, and the PKI management operation SHALL be terminated."""
    world = serving(store=store, profiles={"default": ProfileConfig()})
    who, secret = await holder(world), await world.add_secret(subject="/CN=holder")
    world.profiles = {"default": ProfileConfig(approval=body == "pollReq")}
    world.restart()
    protector = await agreed(world, who) if by == "KEM" else secret.protector(world.env)
    info, shared = kem_info(kem_of(world))
    request = request_by(world, replace(protector, info=(info,)), implicit_confirm=False)
    seen = await world.send(request.der)
    assert seen is not None
    content = {
        "certConf": lambda: der.seq(cert_status(seen.certificate(), 0)),
        "error": lambda: error_content("no"),
        "pkiconf": lambda: der.NULL_TLV,
        "pollReq": lambda: der.seq(der.seq(der.encode_integer(0))),
        "popdecr": lambda: der.seq(),
    }[body]()
    before = len(await world.states())
    spoilt = world.follow(request, seen, body, content, info=(SPOILT,))
    answer = refused(await world.send(spoilt.der), "badMessageCheck", "KemCiphertextInfo.ct")
    by_kem(answer, kem_of(world), shared)
    record = await store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.state is TransactionState.ENDED
    assert len(await world.states()) == before
    assert CertificateState.ISSUED not in await world.states()
    assert (CertificateState.REVOKED in await world.states()) is (body != "pollReq")
    world.restart()
    assert (await world.send(spoilt.der)).envelope.der == answer.envelope.der
    late = await world.send(world.follow(request, seen, "certConf", der.seq()).der)
    refused(late, "badRequest" if body == "pollReq" else "certRevoked")


@pytest.mark.parametrize("spoil", ["nobody", "nonce", "other", "transactionID"])
async def test_nobody_else_ends_a_transaction_by_a_ciphertext_that_is_none(spoil: str) -> None:
    world = serving()
    made = await protectors(world)
    request = request_by(world, made["signature"], implicit_confirm=False)
    seen = await world.send(request.der)
    assert seen is not None
    fields: dict[str, Any] = {"recip_nonce": b"another" * 3} if spoil == "nonce" else {}
    sender = {"other": made["MAC"], "nobody": replace(made["signature"], compute=lambda octets: bytes(70))}
    foreign = replace(request, protector=sender.get(spoil, request.protector))
    if spoil == "transactionID":
        foreign = replace(foreign, transaction_id=b"?" * 16)
    failure = {"nonce": "badRecipientNonce", "other": "wrongIntegrity"}.get(spoil, "badMessageCheck")
    for info in (SPOILT, der.seq(KEM_TYPE, der.NULL_TLV)):
        if info != SPOILT and spoil == "transactionID":
            failure = "badDataFormat"
        conf = confirmation(world, foreign, seen, info=(info,), **fields)
        refused(await world.send(conf.der), failure)
    conf = confirmation(world, request, seen)
    assert signed(world, await world.send(conf.der), conf).body == "pkiconf"


@pytest.mark.parametrize("body", ["certConf", "error", "pollReq"])
async def test_nobody_else_gets_an_answer_under_the_secret_of_a_transaction(body: str) -> None:
    """It could be passed off as the answer to its client, whose nonce anybody can see."""
    world = serving()
    made = await protectors(world)
    info, shared = kem_info(kem_of(world))
    request = request_by(world, replace(made["signature"], info=(info,)), implicit_confirm=False)
    seen = await world.send(request.der)
    by_kem(seen, kem_of(world), shared)
    foreign = replace(request, protector=made["KEM"])
    content = error_content("no") if body == "error" else der.seq(der.seq(der.encode_integer(0)))
    for protector, failure in [(made["MAC"], "wrongIntegrity"), (made["KEM"], "")]:
        foreign = replace(request, protector=protector)
        answer = await world.send(world.follow(foreign, seen, body, content).der)
        assert answer is not None
        assert answer.body == "error"
        assert failure in ("", *answer.status()[2])
        assert str(answer.independent["header"]["protectionAlg"]["algorithm"]) != "1.2.840.113533.7.66.16"
    conf = confirmation(world, request, seen)
    by_kem(await world.send(conf.der), kem_of(world), shared)


async def test_a_ciphertext_of_somebody_else_gives_an_answer_that_nobody_believes() -> None:
    world, other = serving(), serving()
    secret = await world.add_secret()
    info, shared = kem_info(kem_of(other))
    seen = await world.send(request_by(world, replace(secret.protector(world.env), info=(info,))).der)
    with pytest.raises(AssertionError):
        by_kem(seen, kem_of(world), shared)


async def test_an_infotype_without_value_asks_for_nothing_here() -> None:
    world = serving()
    secret = await world.add_secret()
    request = request_by(world, replace(secret.protector(world.env), info=(der.seq(KEM_TYPE),)))
    seen = await world.ask(request, secret)
    assert seen.status()[0] == 0


async def test_a_server_without_kem_key_ignores_a_ciphertext() -> None:
    world = World()
    secret = await world.add_secret()
    info, _ = kem_info(kem_of(serving()))
    request = request_by(world, replace(secret.protector(world.env), info=(info,)))
    assert (await world.ask(request, secret)).status()[0] == 0


@pytest.mark.parametrize("origin", [STRICT, LENIENT], ids=["strict", "lenient"])
async def test_a_ciphertext_wants_a_transactionid_at_every_door(origin: Origin) -> None:
    world = serving()
    secret = await world.add_secret()
    info, _ = kem_info(kem_of(world))
    request = protect("ir", der.seq(), secret.protector(world.env), world.env, info=(info,), transaction_id=b"?" * 16)
    bare = without_transaction_id(request.der, secret.protector(world.env))
    refused(await world.send(bare, origin), "badDataFormat", "transactionID: want one with KemCiphertextInfo")


def without_transaction_id(octets: bytes, protector: Protector) -> bytes:
    field = der.explicit(4, der.encode_octets(b"?" * 16))
    envelope = decode(octets)
    start, stop = der.expect(envelope.protected, 0, len(envelope.protected), der.SEQUENCE, "ProtectedPart")
    _, header, end = der.header(envelope.protected, start, stop)
    fields = envelope.protected[header:end].replace(field, b"")
    fields = fields.replace(
        der.explicit(1, envelope.header.protection_alg or b""), der.explicit(1, protector.algorithm)
    )
    part = der.seq(fields) + envelope.protected[end:stop]
    return encode_message(part, protector.compute(der.seq(part)), ())


# --- figure 5: the client does not know it ----------------------------------------------------------------------------


async def test_who_knows_no_kem_certificate_is_given_it_and_nothing_is_recorded() -> None:
    world = serving(kem_only=True)
    for by, protector in (await protectors(world)).items():
        request = request_by(world, protector)
        seen = await world.send(request.der, STRICT)
        if by == "MAC":
            assert seen.body == "ip"
            continue
        refused(seen, "wrongIntegrity", "KemCiphertextInfo")
        assert seen.status()[0] == 2
        assert seen.envelope.protection is None
        assert seen.envelope.header.protection_alg is None
        assert seen.envelope.extra_certs[0] == kem_of(world)
        assert seen.envelope.header.transaction_id == request.transaction_id
        assert seen.envelope.header.recip_nonce == request.sender_nonce
        assert await world.store.find_transaction(request.transaction_id) is None


async def test_who_then_brings_a_ciphertext_needs_none_in_certconf() -> None:
    world = serving(kem_only=True)
    protector = (await protectors(world))["signature"]
    info, secret = kem_info(kem_of(world))
    request = request_by(world, replace(protector, info=(info,)), implicit_confirm=False)
    seen = await world.send(request.der)
    by_kem(seen, kem_of(world), secret)
    world.restart()
    by_kem(await world.send(confirmation(world, request, seen).der), kem_of(world), secret)


async def test_a_stranger_is_told_so_by_a_signature_all_the_same() -> None:
    world = serving(kem_only=True)
    stranger = await other_signer()
    signed_error(world, refused(await world.send(request_by(world, stranger).der), "signerNotTrusted"))
    announcement = protect("crlann", der.seq(), stranger, world.env)
    refused(await world.send(announcement.der), "signerNotTrusted")


async def other_signer() -> Protector:
    other = World()
    return (await other.holder(await other.add_secret())).protector(other.env)


# --- requests that wait for an operator -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["request", "pollReq", "reference"])
async def test_a_request_that_waited_is_verified_anew_with_its_own_secrets(way: str, store: Store) -> None:
    world = serving(store=store, profiles={"default": ProfileConfig()})
    who = await holder(world)
    world.profiles = {"default": ProfileConfig(approval=True)}
    world.restart()
    info, secret = kem_info(kem_of(world))
    request = request_by(world, replace(await agreed(world, who), info=(info,)), implicit_confirm=False)
    origin = replace(STRICT, polls=way == "reference")
    first = await world.respond(request.der, origin)
    world.restart()
    world.clock.now += 3600
    [waiting] = await world.waiting()
    if way == "reference":
        assert isinstance(first, Waiting)
        await world.approve(waiting.reference)
        answer = await world.poll(waiting.reference, origin)
        assert isinstance(answer, bytes)
        seen = world.read(answer)
    elif way == "request":
        assert isinstance(first, bytes)
        by_kem(world.read(first), kem_of(world), secret)
        await world.approve(waiting.reference)
        seen = await world.send(request.der, origin)
    else:
        assert isinstance(first, bytes)
        poll = world.follow(request, world.read(first), "pollReq", der.seq(der.seq(der.encode_integer(0))))
        rep = await world.send(poll.der, origin)
        by_kem(rep, kem_of(world), secret)
        assert rep.body == "pollRep"
        await world.approve(waiting.reference)
        poll = world.follow(request, rep, "pollReq", der.seq(der.seq(der.encode_integer(0))))
        seen = await world.send(poll.der, origin)
    by_kem(seen, kem_of(world), secret)
    assert (seen.body, seen.status()[0]) == ("ip", 0)
    conf = confirmation(world, request, seen)
    pkiconf = await world.send(conf.der, origin)
    by_kem(pkiconf, kem_of(world), secret)
    assert await world.states() == [CertificateState.CONFIRMED] * 2


async def test_what_waits_is_refused_when_its_certificate_is_revoked_meanwhile() -> None:
    world = serving()
    who = await holder(world)
    world.profiles = {"default": ProfileConfig(approval=True)}
    world.restart()
    request = request_by(world, await agreed(world, who))
    assert isinstance(await world.respond(request.der, replace(STRICT, polls=True)), Waiting)
    await world.store.disable_entity("for /CN=holder")
    [waiting] = await world.waiting()
    await world.approve(waiting.reference)
    answer = await world.poll(waiting.reference, replace(STRICT, polls=True))
    assert isinstance(answer, bytes)
    refused(world.read(answer), "signerNotTrusted", "disabled")


# --- forgetting -------------------------------------------------------------------------------------------------------


async def test_the_secrets_are_forgotten_with_the_answers(store: Store) -> None:
    world = serving(store=store)
    who = await holder(world)
    info, _ = kem_info(kem_of(world))
    request = request_by(world, replace(await agreed(world, who), info=(info,)))
    await world.send(request.der)
    record = await store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.kem_secrets is not None
    assert record.sender_certificate == who.certificate.der
    assert record.state is TransactionState.ENDED
    assert await store.purge(int(world.clock.now) + 1, 10) == 2
    record = await store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.kem_secrets is record.sender_certificate is None
    world.restart()
    refused(await world.send(request.der), "badMessageCheck", "ask for another one")


# --- hostile ----------------------------------------------------------------------------------------------------------


async def test_no_changed_bit_gets_anything() -> None:
    world = serving()
    who = await holder(world)
    info, _ = kem_info(kem_of(world))
    asked = ask_for_ciphertext(world, who)
    request = request_by(world, replace(await agreed(world, who), info=(info,)))
    for message in (asked, request):
        for spoilt in flipped(message.der, range(0, len(message.der), 41)):
            answer = await world.respond(spoilt)
            assert isinstance(answer, bytes)
            seen = world.read(answer)
            if message is asked and seen.body == "genp":  # in what means nothing to it: messageTime, nonces, recipient
                world.restart()
                continue
            assert seen.body == "error", decode(spoilt)
    assert len(await world.store.list_certificates()) == 1


@every(octets=st.binary(max_size=200))
def test_any_octets_as_kept_secrets_are_secrets_or_a_store_error(octets: bytes) -> None:
    class Plain:
        def seal(self, secret: bytes, reference: str) -> bytes:
            return secret

        def open(self, sealed: bytes, reference: str) -> bytes:
            return octets

    record = TransactionRecord(b"id", TransactionState.ENDED, "certificate:", 1, "ir", 0, kem_secrets=b"sealed")
    with suppress(StoreError):
        found = kem_secrets.open_secrets(Plain(), record)
        assert all(value is None or isinstance(value, bytes) for value in (found.sender, found.server))
