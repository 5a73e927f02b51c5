"""challengeResp: popdecc asks for an integer that only the holder of the key can decrypt, popdecr has it."""

import sqlite3
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc9810

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import KeyAndCertificate
from cmpd.client.errors import VerificationError
from cmpd.client.flows import Client
from cmpd.client.messages import Request, Template, cert_request, cert_status, error_content
from cmpd.client.proofs import Proofs
from cmpd.client.responses import Answer
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.errors import StoreError
from cmpd.handlers.confirm import lapse
from cmpd.handlers.proving import _common_name, _encrypt_rand
from cmpd.records import CertificateState, TransactionState
from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from cmpd.store.sqlite import SqliteStore
from tests.pops import KEYS, decrypt_independently, encrypting_usage, flipped, spki
from tests.test_pop_encrcert import Direct, ask, decrypted, only, transaction_state
from tests.world import Seen, World


@pytest.fixture
def world() -> World:
    return World()


def challenge(world: World, credential: Any, key: Any, kind: str, **fields: Any) -> Request:
    return ask(world, credential, key, kind, "challengeResp", **fields)


def rands(seen: Seen, keys: dict[int, Any]) -> list[tuple[int, bytes]]:
    """(int, DER of sender) of each Challenge, decrypted by the other codec; all else in them must be as RFC 9810 says.

    `keys`: by certReqId, in their order.
    """
    assert seen.body == "popdecc"
    assert len(seen.content) == len(keys)
    found = []
    for index, (one, (number, key)) in enumerate(zip(seen.content, keys.items(), strict=True)):
        assert one["owf"].isValue == (index == 0)
        if index == 0:
            assert str(one["owf"]["algorithm"]) == "2.16.840.1.101.3.4.2.1"
        if one["encryptedRand"].isValue:
            assert bytes(one["challenge"]) == b""
            tagged = encode_der(one["encryptedRand"])  # explicit
            octets, info = decrypt_independently(tagged[der.header(tagged, 0, len(tagged))[1] :], key)
            _check_rid(info, number)
        else:
            octets = key.decrypt(bytes(one["challenge"]), padding.PKCS1v15())
        rand, rest = decode_der(octets, asn1Spec=rfc9810.Rand())
        assert not rest
        assert sha256(encode_der(rand["int"])).digest() == bytes(one["witness"])
        found.append((int(rand["int"]), encode_der(rand["sender"])))
    return found


def _check_rid(info: Any, cert_req_id: int) -> None:
    """issuerAndSerialNumber with the NULL-DN and the certReqId."""
    if info.getName() == "ori":
        assert der.seq(der.seq(), der.encode_integer(cert_req_id)) in bytes(info["ori"]["oriValue"])
        return
    where = info["kari"]["recipientEncryptedKeys"][0] if info.getName() == "kari" else info["ktri"]
    named = where["rid"]["issuerAndSerialNumber"]
    assert int(named["serialNumber"]) == cert_req_id
    assert encode_der(named["issuer"]["rdnSequence"]) == b"\x30\0"


def popdecr(world: World, request: Request, seen: Seen, *integers: int, **fields: Any) -> Request:
    fields.setdefault("pvno", seen.envelope.header.pvno)
    return world.follow(request, seen, "popdecr", der.seq(*map(der.encode_integer, integers)), **fields)


async def challenged(world: World, kind: str = "x25519", **fields: Any) -> tuple[Any, Any, Request, Seen, int]:
    """(credential, key, request, popdecc, the integer)."""
    secret, key = fields.pop("secret", None) or await world.add_secret(), KEYS[kind]()
    request = challenge(world, secret, key, kind, **fields)
    seen = await world.send(request.der)
    assert seen is not None
    return secret, key, request, seen, rands(seen, {0: key})[0][0]


# --- right -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEYS)
async def test_who_decrypts_the_challenge_gets_the_certificate(kind: str, store: Store) -> None:
    world = World(store=store)
    secret, key, request, seen, integer = await challenged(world, kind)
    assert rands(seen, {0: key})[0][1] == seen.envelope.header.sender
    assert await world.store.list_certificates() == []
    assert await transaction_state(world, request) is TransactionState.CHALLENGED
    answer = await world.ask(popdecr(world, request, seen, integer), secret)
    assert answer.body == "ip"
    assert answer.certificate().public_key_info == spki(key)
    assert (await only(world)).state is CertificateState.CONFIRMED  # implicitly, as asked: possession is proven
    assert await transaction_state(world, request) is TransactionState.ENDED


@pytest.mark.parametrize("kind", KEYS)
async def test_the_client_answers_the_challenge(kind: str, world: World) -> None:
    exchange, key = Direct(world), KEYS[kind]()
    client = Client(exchange, await world.add_secret(), world.trust, world.env)
    result = await client.enrol(
        "ir", key, encode_name("/CN=device"), extensions=[encrypting_usage(kind)], proof="challengeResp"
    )
    assert [seen.body for seen in exchange.seen] == ["popdecc", "ip"]
    assert result.certificate.public_key_info == spki(key)
    assert result.implicitly_confirmed
    assert {seen.envelope.header.pvno for seen in exchange.seen} == {3}


async def test_certconf_follows_where_it_is_wanted(world: World) -> None:
    secret, _, request, seen, integer = await challenged(world, implicit_confirm=False)
    answer = await world.ask(popdecr(world, request, seen, integer), secret)
    assert (await only(world)).state is CertificateState.ISSUED
    conf = world.follow(request, answer, "certConf", der.seq(cert_status(answer.certificate(), 0)), pvno=3)
    assert (await world.ask(conf, secret)).body == "pkiconf"
    assert (await only(world)).state is CertificateState.CONFIRMED


async def test_with_pvno_2_rand_is_encrypted_by_the_rsa_key_itself(world: World) -> None:
    secret, key, request, seen, integer = await challenged(world, "rsa", pvno=2)
    assert not seen.content[0]["encryptedRand"].isValue
    answer = await world.ask(popdecr(world, request, seen, integer), secret)
    assert answer.certificate().public_key_info == spki(key)
    assert answer.envelope.header.pvno == 2


async def test_a_long_name_of_the_sender_is_cut_to_what_fits() -> None:
    key = KEYS["rsa"]()
    sender = der.explicit(
        4, encode_name("/O=" + "x" * 60 + "/OU=" + "y" * 60 + "/OU=" + "z" * 60 + "/CN=Server of CMP")
    )
    octets = key.decrypt(_encrypt_rand(key.public_key(), der.encode_integer(7), sender), padding.PKCS1v15())
    assert octets == der.seq(der.encode_integer(7), der.explicit(4, encode_name("/CN=Server of CMP")))
    assert _common_name(b"\x82\x01a") == b"\x82\x01a"


@pytest.mark.parametrize("body", ["cr", "kur"])
async def test_signed_requests_whose_certificate_is_left_out_of_popdecr(body: str, world: World) -> None:
    holder = await world.holder(await world.add_secret())
    replaces = holder.certificate if body == "kur" else None
    secret, key, request, seen, integer = await challenged(world, secret=holder, body=body, replaces=replaces)
    bare = replace(request, protector=replace(request.protector, extra_certs=()))
    answer = await world.ask(popdecr(world, bare, seen, integer), secret)
    assert answer.body == {"cr": "cp", "kur": "kup"}[body]
    assert answer.certificate().public_key_info == spki(key)


async def test_several_keys_have_one_challenge_each_in_their_order(store: Store) -> None:
    world = World(store=store)
    secret = await world.add_secret()
    kinds = {3: ("x25519", "challengeResp"), 5: ("mlkem768", "challengeResp"), 7: ("p256", "encrCert")}
    keys = {number: KEYS[kind]() for number, (kind, _) in kinds.items()}
    templates = [
        Template(keys[i], encode_name("/CN=d"), (encrypting_usage(kind),), cert_req_id=i, proof=proof)
        for i, (kind, proof) in kinds.items()
    ]
    request = cert_request("ir", templates, secret, world.env)
    seen = await world.send(request.der)
    assert seen is not None
    first, second = (integer for integer, _ in rands(seen, {3: keys[3], 5: keys[5]}))
    assert first != second
    answer = await world.ask(popdecr(world, request, seen, first, second + 1), secret)
    assert answer.certificate(0).public_key_info == spki(keys[3])
    assert answer.status(1)[2] == {"badPOP"}
    assert decrypted(answer, keys[7], 2).public_key_info == spki(keys[7])
    assert not answer.envelope.header.implicit_confirm
    assert await transaction_state(world, request) is TransactionState.PROVING


async def test_the_client_answers_several_of_which_one_is_refused(world: World) -> None:
    exchange, secret = Direct(world), await world.add_secret()
    keys = {0: KEYS["x25519"](), 1: KEYS["rsa"](), 2: KEYS["rsa"]()}
    usages = {0: "x25519", 1: "p256", 2: "rsa"}  # an RSA key does not agree
    templates = [
        Template(key, encode_name("/CN=d"), (encrypting_usage(usages[i]),), cert_req_id=i, proof="challengeResp")
        for i, key in keys.items()
    ]
    results = await Client(exchange, secret, world.trust, world.env).enrol_all("ir", templates)
    assert [seen.body for seen in exchange.seen] == ["popdecc", "ip"]
    assert [isinstance(result, Exception) for result in results] == [False, True, False]


# --- wrong -----------------------------------------------------------------------------------------------------------


async def test_a_wrong_integer_gets_badpop_and_ends_it(store: Store) -> None:
    world = World(store=store)
    secret, _, request, seen, integer = await challenged(world)
    answer = await world.ask(popdecr(world, request, seen, integer ^ 1), secret)
    assert (answer.body, answer.status()[2]) == ("ip", {"badPOP"})
    assert await transaction_state(world, request) is TransactionState.ENDED
    again = await world.ask(popdecr(world, request, answer, integer), secret)
    assert (again.body, again.status()[2]) == ("error", {"badRequest"})
    assert await world.store.list_certificates() == []


@pytest.mark.parametrize(
    ("content", "failure"),
    [
        (der.seq(), "badPOP"),
        (der.seq(b"\x02\x01\x07", b"\x02\x01\x07"), "badPOP"),
        (der.seq(b"\x04\x01\x07"), "badDataFormat"),
        (der.seq(b"\x02\x41\x01" + bytes(64)), "badDataFormat"),
        (der.NULL_TLV, "badDataFormat"),
    ],
)
async def test_what_is_no_answer_to_the_challenges_ends_it(content: bytes, failure: str, world: World) -> None:
    secret, _, request, seen, _ = await challenged(world)
    answer = await world.ask(world.follow(request, seen, "popdecr", content, pvno=3), secret)
    assert (answer.body, answer.status()[2]) == ("ip", {failure})
    assert await transaction_state(world, request) is TransactionState.ENDED


async def test_every_changed_bit_of_the_integer_is_wrong(world: World) -> None:
    secret = await world.add_secret()
    for bit in (0, 7, 100, 191, 200):
        _, _, request, seen, integer = await challenged(world, secret=secret)
        answer = await world.ask(popdecr(world, request, seen, integer ^ 1 << bit), secret)
        assert answer.status()[2] == {"badPOP"}
    assert await world.store.list_certificates() == []


async def test_the_answer_to_another_challenge_is_wrong(world: World) -> None:
    secret = await world.add_secret()
    _, _, _, _, other = await challenged(world, secret=secret)
    _, _, request, seen, _ = await challenged(world, secret=secret)
    assert (await world.ask(popdecr(world, request, seen, other), secret)).status()[2] == {"badPOP"}


async def test_one_changed_bit_of_popdecr_is_a_wrong_mac(world: World) -> None:
    _, _, request, seen, integer = await challenged(world)
    octets = popdecr(world, request, seen, integer).der
    place = octets.index(integer.to_bytes(24, "big")[8:])  # its first octets decide whether the INTEGER is DER
    for changed in flipped(octets, [place, place + 8, place + 15]):
        answer = await world.send(changed)
        assert answer is not None
        assert answer.status()[2] == {"badMessageCheck"}
    assert await transaction_state(world, request) is TransactionState.CHALLENGED


async def test_nobody_else_answers_it(world: World) -> None:
    _, _, request, seen, integer = await challenged(world)
    other = await world.add_secret("other", b"another secret")
    stolen = replace(request, protector=other.protector(world.env))
    answer = await world.ask(popdecr(world, stolen, seen, integer), other)
    assert answer.status()[2] == {"notAuthorized"}
    assert await transaction_state(world, request) is TransactionState.CHALLENGED


async def test_a_wrong_nonce_or_version_changes_nothing(world: World) -> None:
    secret, _, request, seen, integer = await challenged(world)
    answer = await world.ask(popdecr(world, request, seen, integer, recip_nonce=bytes(16)), secret)
    assert answer.status()[2] == {"badRecipientNonce"}
    answer = await world.ask(popdecr(world, request, seen, integer, pvno=2), secret)
    assert answer.status()[2] == {"unsupportedVersion"}
    assert (await world.ask(popdecr(world, request, seen, integer), secret)).body == "ip"


@pytest.mark.parametrize("body", ["certConf", "pkiconf", "pollReq"])
async def test_other_messages_do_not_continue_it(body: str, world: World) -> None:
    secret, _, request, seen, integer = await challenged(world)
    content = der.NULL_TLV if body == "pkiconf" else der.seq()
    answer = await world.ask(world.follow(request, seen, body, content, pvno=3), secret)
    assert (answer.body, answer.status()[2]) == ("error", {"badRequest"})
    assert (await world.ask(popdecr(world, request, seen, integer), secret)).body == "ip"


async def test_a_popdecr_out_of_the_blue_is_refused(world: World) -> None:
    secret = await world.add_secret()
    request, seen, _ = await world.ir(secret)
    answer = await world.ask(popdecr(world, request, seen, 7), secret)
    assert (answer.body, answer.status()[2]) == ("error", {"certConfirmed"})
    lost = replace(request, transaction_id=bytes(16))
    answer = await world.ask(popdecr(world, lost, seen, 7), secret)
    assert answer.status()[2] == {"badRequest"}


async def test_an_error_ends_it(world: World) -> None:
    secret, _, request, seen, integer = await challenged(world)
    ended = await world.ask(world.follow(request, seen, "error", error_content("no"), pvno=3), secret)
    assert ended.body == "pkiconf"
    assert (await world.ask(popdecr(world, request, ended, integer), secret)).status()[2] == {"badRequest"}


async def test_nothing_is_granted_after_the_time_for_it(store: Store) -> None:
    world = World(store=store, enrolment=EnrolmentConfig(confirm_wait="60s"))
    secret, _, request, seen, integer = await challenged(world)
    assert await lapse(world.service) == 0
    world.clock.now += 62
    assert await lapse(world.service) == 1
    assert await transaction_state(world, request) is TransactionState.ENDED
    assert (await world.ask(popdecr(world, request, seen, integer), secret)).status()[2] == {"badRequest"}
    assert await world.store.list_certificates() == []
    assert await lapse(world.service) == 0


# --- again, and after a restart --------------------------------------------------------------------------------------


async def test_both_requests_get_the_same_octets_again(store: Store) -> None:
    world = World(store=store)
    _, _, request, seen, integer = await challenged(world)
    answered = popdecr(world, request, seen, integer)
    world.restart()
    assert await world.respond(request.der) == seen.envelope.der
    first = await world.respond(answered.der)
    world.restart()
    assert await world.respond(answered.der) == first
    assert await world.respond(request.der) == seen.envelope.der
    assert len(await world.store.list_certificates()) == 1


async def test_a_use_is_taken_for_the_certificate_not_for_the_challenge(store: Store) -> None:
    world = World(store=store)
    secret, _, request, seen, integer = await challenged(world, secret=await world.add_secret(uses_left=1))
    _, _, second, other, late = await challenged(world, secret=secret)
    assert (await world.ask(popdecr(world, request, seen, integer), secret)).status()[0] == 0
    assert (await world.ask(popdecr(world, second, other, late), secret)).status()[2] == {"notAuthorized"}


async def test_who_was_disabled_meanwhile_gets_nothing(world: World) -> None:
    _, _, request, seen, integer = await challenged(world)
    await world.store.disable_entity("device")
    answer = await world.send(popdecr(world, request, seen, integer).der)
    assert answer is not None
    assert answer.body == "error"
    assert await world.store.list_certificates() == []


async def test_an_operator_approves_before_the_challenge(store: Store) -> None:
    world = World(store=store, profiles={"default": ProfileConfig(approval=True)})
    secret, key = await world.add_secret(), KEYS["p384"]()
    request = challenge(world, secret, key, "p384")
    waits = await world.ask(request, secret)
    assert waits.status()[0] == 3
    [waiting] = await world.waiting()
    await world.approve(waiting.reference)
    world.restart()
    poll = world.follow(request, waits, "pollReq", der.seq(der.seq(der.encode_integer(0))), pvno=3)
    seen = await world.ask(poll, secret)
    integer = rands(seen, {0: key})[0][0]
    assert await transaction_state(world, request) is TransactionState.CHALLENGED
    assert await world.respond(poll.der) == await world.respond(request.der) == seen.envelope.der
    answer = await world.ask(popdecr(world, request, seen, integer), secret)
    assert answer.certificate().public_key_info == spki(key)


async def test_the_client_polls_and_answers_the_challenge(world: World) -> None:
    world.profiles = {"default": ProfileConfig(approval=True)}
    world.restart()
    exchange, key = Direct(world), KEYS["x448"]()

    async def approve(*_: Any) -> None:
        for waiting in await world.waiting():
            await world.approve(waiting.reference)

    class Approving(Direct):
        async def request(self, der: bytes, *, last: bool = False) -> bytes | None:
            answer = await super().request(der)
            await approve()
            return answer

    exchange = Approving(world)
    client = Client(exchange, await world.add_secret(), world.trust, world.env)
    result = await client.enrol(
        "ir", key, encode_name("/CN=d"), extensions=[encrypting_usage("x448")], proof="challengeResp"
    )
    assert result.certificate.public_key_info == spki(key)
    assert [seen.body for seen in exchange.seen] == ["ip", "popdecc", "ip"]


class Breaking(MemoryStore):
    """A store that fails when a certificate is to be recorded."""

    broken = False

    async def write(self, changes: Any, **fields: Any) -> None:
        if self.broken and any(type(change).__name__ == "AddCertificate" for change in changes):
            raise StoreError("the disk is full")
        await super().write(changes, **fields)


async def test_a_claim_that_fails_is_taken_back_and_the_uses_are_returned() -> None:
    store = Breaking()
    world = World(store=store)
    secret, _, request, seen, integer = await challenged(world, secret=await world.add_secret(uses_left=1))
    store.broken = True
    answered = popdecr(world, request, seen, integer)
    assert (await world.ask(answered, secret)).status()[2] == {"systemUnavail"}
    store.broken = False
    entity = await world.store.find_entity("device")
    assert entity is not None
    assert entity.uses_left == 1
    assert (await world.ask(answered, secret)).status()[2] == {"systemUnavail"}
    assert await transaction_state(world, request) is TransactionState.ENDED


async def test_after_an_unclean_end_the_challenge_is_open_again(store: Store) -> None:
    """The claim is durable, the certificate is not: as if the process had ended between the two."""
    world = World(store=store)
    secret, key, request, seen, integer = await challenged(world, secret=await world.add_secret(uses_left=1))
    answered = popdecr(world, request, seen, integer)

    class Killed(BaseException):
        """Nobody catches it."""

    async def sign(_: Any) -> bytes:
        raise Killed

    class Dying:
        def __getattr__(self, name: str) -> Any:
            return sign if name == "sign" else getattr(world.ca, name)

    world.responder._service = replace(world.service, ca=Dying())
    with pytest.raises(Killed):
        await world.respond(answered.der)
    assert await transaction_state(world, request) is TransactionState.PROCESSING
    assert await store.recover(int(world.clock.now)) == 1
    world.restart()
    assert await transaction_state(world, request) is TransactionState.CHALLENGED
    answer = await world.ask(answered, secret)
    assert answer.certificate().public_key_info == spki(key)


async def test_there_are_only_so_many_open_challenges(store: Store) -> None:
    world = World(store=store, enrolment=EnrolmentConfig(max_waiting=2))
    secret, _, request, seen, integer = await challenged(world)
    second = challenge(world, secret, KEYS["x448"](), "x448")
    refused = await world.ask(second, secret)
    assert (refused.body, refused.status()[2]) == ("error", {"systemUnavail"})
    assert await world.store.find_transaction(second.transaction_id) is None
    assert (await world.ask(popdecr(world, request, seen, integer), secret)).body == "ip"
    assert (await world.ask(second, secret)).body == "popdecc"


async def test_what_is_purged_is_gone_with_its_challenge(store: Store, tmp_path: Path) -> None:
    world = World(store=store)
    secret, _, request, seen, integer = await challenged(world)
    await world.ask(popdecr(world, request, seen, integer), secret)
    _, _, lost, _, _ = await challenged(world, secret=secret)
    world.clock.now += 10 * 86_400
    await lapse(world.service)
    assert await store.purge(int(world.clock.now) + 1, 100) == 2
    assert await store.find_transaction(lost.transaction_id) is None
    if isinstance(store, SqliteStore):
        database = sqlite3.connect(tmp_path / "ca.db")
        assert database.execute("SELECT count(*) FROM challenge").fetchone() == (0,)
        database.close()


# --- the client's side -----------------------------------------------------------------------------------------------


def forge(world: World, seen: Seen, key: Any, number: int, sender: bytes, witness: bytes) -> Answer:
    """A popdecc with one Challenge of our own making."""
    from cmpd.cms import RecipientId, envelope_for_key
    from cmpd.replies import Challenge, challenge_body

    envelope = envelope_for_key(
        der.seq(der.encode_integer(number), sender), key.public_key(), RecipientId(b"x"), world.env
    )
    inner = der.header(envelope, 0, len(envelope))[1]
    body = challenge_body([Challenge(witness, der.tlv(der.SEQUENCE, envelope[inner:]))])
    return Answer(replace(seen.envelope, body=body), "somebody", ())


async def test_the_client_answers_no_challenge_of_others(world: World) -> None:
    _, key, request, seen, _ = await challenged(world)
    proofs, sender = Proofs({0: key}, (0,)), seen.envelope.header.sender
    good = sha256(der.encode_integer(7)).digest()
    assert proofs.answer(request, forge(world, seen, key, 7, sender, good), world.env).body == "popdecr"
    passed_on = forge(world, seen, key, 7, der.explicit(4, encode_name("/CN=Another CA")), good)
    with pytest.raises(VerificationError, match="somebody else than its sender"):
        proofs.answer(request, passed_on, world.env)
    with pytest.raises(VerificationError, match="cannot be decrypted"):
        proofs.answer(request, forge(world, seen, key, 8, sender, good), world.env)
    with pytest.raises(VerificationError, match="cannot be decrypted"):
        Proofs({0: KEYS["x25519"]()}, (0,)).answer(request, forge(world, seen, key, 7, sender, good), world.env)
    with pytest.raises(VerificationError, match="want 0 Challenges"):
        Proofs({0: key}).answer(request, forge(world, seen, key, 7, sender, good), world.env)


async def test_a_signature_key_of_a_requester_is_not_what_is_challenged(world: World) -> None:
    """The holder's own certificate protects the messages, the challenge is for the key asked for."""
    holder = await world.holder(await world.add_secret())
    assert isinstance(holder, KeyAndCertificate)
    _, key, request, seen, _ = await challenged(world, "p256", secret=holder, body="cr")
    answer = Answer(seen.envelope, "the CA", ())
    with pytest.raises(VerificationError, match="cannot be decrypted"):
        Proofs({0: holder.key}, (0,)).answer(request, answer, world.env)
    assert Proofs({0: key}, (0,)).answer(request, answer, world.env).body == "popdecr"
