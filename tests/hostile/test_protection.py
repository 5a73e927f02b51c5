"""Who is not who they say: changed messages, borrowed names, keys and algorithms, costly parameters, replays.

Whatever could not be verified is answered by a signed error: a MAC over the answer would let anybody who knows a
reference value guess its secret offline.
"""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.messages import Template, cert_request, cert_status
from cmpd.protection.base import ProtectionPolicy
from cmpd.records import CertificateState
from tests import chains
from tests.hostile import craft
from tests.hostile.craft import Draft, children
from tests.world import World

SHA256 = der.seq(der.encode_oid("2.16.840.1.101.3.4.2.1"))
SHA1 = der.seq(der.encode_oid("1.3.14.3.2.26"))
HMAC256 = der.seq(der.encode_oid("1.2.840.113549.2.9"))
HMAC1 = der.seq(der.encode_oid("1.3.6.1.5.5.8.1.2"))
ECDSA256 = der.seq(der.encode_oid("1.2.840.10045.4.3.2"))


def pbm(salt: bytes = bytes(16), count: int = 500, owf: bytes = SHA256, mac: bytes = HMAC256) -> bytes:
    return der.seq(craft.PBM, der.seq(der.encode_octets(salt), owf, der.encode_integer(count), mac))


def gmac(nonce: bytes = bytes(12), size: int = 16) -> bytes:
    return der.seq(
        der.encode_oid("2.16.840.1.101.3.4.1.9"), der.seq(der.encode_octets(nonce), der.encode_integer(size))
    )


def pbmac1(salt: bytes = bytes(16), count: int = 500, size: int | None = 32, prf: bytes = HMAC256) -> bytes:
    length = b"" if size is None else der.encode_integer(size)
    parameters = der.seq(der.encode_octets(salt), der.encode_integer(count), length, prf)
    derivation = der.seq(der.encode_oid("1.2.840.113549.1.5.12"), parameters)
    return der.seq(der.encode_oid("1.2.840.113549.1.5.14"), der.seq(derivation, HMAC256))


# --- one bit ---------------------------------------------------------------------------------------------------------


def regions(octets: bytes) -> dict[str, range]:
    """Where the parts of a message are."""
    header, body, protection, *_ = children(octets)
    at = octets.index(header)
    middle = at + len(header)
    end = middle + len(body)
    return {
        "header": range(at, middle),
        "body": range(middle, end),
        "protection": range(end, end + len(protection)),
    }


@pytest.mark.parametrize("kind", craft.KINDS)
@pytest.mark.parametrize("part", ["header", "body", "protection"])
async def test_one_bit_changed_anywhere_in_a_request_issues_and_changes_nothing(kind: str, part: str) -> None:
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    octets = draft.seal(protector)
    before = craft.held(world)
    for i, position in enumerate(regions(octets)[part]):
        changed = bytearray(octets)
        changed[position] ^= 1 << (i % 8)
        seen = await craft.answer(world, bytes(changed))
        assert seen.body == "error", f"octet {position}"
        assert craft.protected_by(world, seen) == "signature"
    assert craft.held(world) == before
    good = await craft.answer(world, octets)
    assert good.status()[0] == 0
    assert len(craft.held(world).moved(before)) == 1
    craft.check_store(world)


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize("part", ["header", "body", "protection"])
async def test_one_bit_changed_anywhere_in_a_certconf_confirms_nothing(kind: str, part: str) -> None:
    world = World()
    credential = await craft.client(world, kind)
    asked, granted, _ = await world.ir(credential, body=craft.BODIES[kind], implicit=False)
    confirm = world.follow(asked, granted, "certConf", der.seq(cert_status(granted.certificate(), 0)))
    for i, position in enumerate(regions(confirm.der)[part]):
        changed = bytearray(confirm.der)
        changed[position] ^= 0x80 >> (i % 8)
        seen = await craft.answer(world, bytes(changed))
        assert seen.body == "error", f"octet {position}"
        assert craft.protected_by(world, seen) == "signature"
    issued = await world.store.list_certificates(state=CertificateState.ISSUED)
    assert len(issued) == 1
    assert (await craft.answer(world, confirm.der)).body == "pkiconf"


# --- the wrong secret, key or certificate -----------------------------------------------------------------------------


async def test_a_wrong_secret_and_an_unknown_reference_are_told_the_same() -> None:
    """Else anybody could find out which references are registered (verify.py derives a key for nobody too)."""
    world = World()
    await world.add_secret("device", b"secret")
    await world.add_secret("disabled", b"secret")
    await world.store.disable_entity("disabled")
    await world.add_secret("expired", b"secret", expires_at=1)
    texts = set()
    for reference in ("device", "nobody", "disabled", "expired", "x" * 512, "\n", "\N{PILE OF POO}"):
        draft, protector = craft.request(world, SharedSecret(reference, b"guess", iterations=200))
        seen = await craft.refused(world, draft.seal(protector), "badMessageCheck", by="signature")
        header = seen.envelope.header
        texts.add((seen.status(), header.sender, header.sender_kid, seen.envelope.extra_certs))
    assert len(texts) == 1


async def holder(world: World, name: str) -> KeyAndCertificate:
    return await world.holder(await world.add_secret(name, name.encode()), f"/CN={name}")


async def test_a_certificate_without_its_key_is_refused() -> None:
    world = World()
    one, other = await holder(world, "one"), await holder(world, "other")
    draft, _ = craft.request(world, one)
    forged = replace(one.protector(world.env), compute=other.protector(world.env).compute)
    await craft.refused(world, draft.seal(forged), "badMessageCheck", by="signature")
    own = other.protector(world.env)
    # the right signature of the other one, under the name and key identifier of the first
    await craft.refused(world, draft.seal(own), "badMessageCheck", by="signature")
    both = replace(own, extra_certs=(one.certificate.der, other.certificate.der))
    await craft.refused(world, draft.seal(both), "badMessageCheck", by="signature")
    none = replace(one.protector(world.env), extra_certs=())
    await craft.refused(world, draft.seal(none), "signerNotTrusted", by="signature")


@pytest.mark.parametrize("field", ["sender", "senderKID"])
async def test_a_borrowed_sender_or_senderkid_is_refused(field: str) -> None:
    world = World()
    one, other = await holder(world, "one"), await holder(world, "other")
    draft, protector = craft.request(world, one)
    theirs, _ = craft.request(world, other)
    await craft.refused(world, draft.put(field, theirs[field]).seal(protector), "badMessageCheck", by="signature")


async def test_a_secret_does_not_serve_another_reference() -> None:
    world = World()
    one, other = await world.add_secret("one", b"1"), await world.add_secret("other", b"2")
    draft, protector = craft.request(world, one)
    theirs, _ = craft.request(world, other)
    for name in ("senderKID", "sender"):
        draft = draft.put(name, theirs[name])
        if name == "sender":
            await craft.refused(world, draft.seal(protector), "badMessageCheck", by="signature")
    empty = SharedSecret("one", b"", iterations=200)
    draft, protector = craft.request(world, empty)
    await craft.refused(world, draft.seal(protector), "badMessageCheck", by="signature")
    # the secret that nobody has (what a key is derived from for an unknown reference)
    for guess in (bytes(16), b"\0"):
        draft, protector = craft.request(world, SharedSecret("nobody", guess, iterations=200))
        await craft.refused(world, draft.seal(protector), "badMessageCheck", by="signature")


async def test_a_certificate_that_this_ca_did_not_issue_is_not_trusted() -> None:
    world = World()
    secret = await world.add_secret()
    real = await world.holder(secret)
    name = "device"
    fake_root = chains.issue(None, "Test CA")
    for node in (chains.issue(None, name, ca=False), chains.leaf(fake_root, name), fake_root):
        forged = KeyAndCertificate(node.key, Certificate.load(node.der))
        draft, protector = craft.request(world, forged)
        chain = replace(protector, extra_certs=(node.der, fake_root.der, world.root))
        await craft.refused(world, draft.seal(chain), "signerNotTrusted", by="signature")
    same_key = chains.issue(None, name, key=real.key, ca=False)
    draft, protector = craft.request(world, KeyAndCertificate(real.key, Certificate.load(same_key.der)))
    await craft.refused(world, draft.seal(protector), "signerNotTrusted", by="signature")


async def test_the_ca_and_the_cmp_certificate_are_no_credentials() -> None:
    """They are on the wire for everybody; only who has their keys could sign, and even then nobody is registered."""
    world = World()
    secret = await world.add_secret()
    real = await world.holder(secret)
    for octets in (world.root, world.cmp):
        certificate = Certificate.load(octets)
        draft, protector = craft.request(world, real)
        draft = draft.put("sender", der.explicit(4, certificate.subject))
        draft = draft.set("senderKID", der.encode_octets(certificate.key_identifier or b""))
        forged = replace(protector, extra_certs=(octets, real.certificate.der))
        await craft.refused(world, draft.seal(forged), "signerNotTrusted", by="signature")


# --- algorithms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "failure"),
    [
        (pbm(salt=bytes(17)), "badMessageCheck"),
        (pbm(count=501), "badMessageCheck"),
        (pbm(owf=der.seq(der.encode_oid("2.16.840.1.101.3.4.2.2"))), "badMessageCheck"),
        (pbm(mac=HMAC1), "badMessageCheck"),
        (pbmac1(), "badMessageCheck"),
        (pbm(count=0), "badAlg"),
        (pbm(count=-1), "badAlg"),
        (pbm(count=99), "badAlg"),
        (pbm(count=100_001), "badAlg"),
        (pbm(count=2**31), "badAlg"),
        (pbm(count=2**40), "badAlg"),
        (pbm(count=2**250), "badAlg"),
        (pbm(count=2**300), "badDataFormat"),
        (pbm(salt=bytes(129)), "badAlg"),
        (pbm(salt=bytes(20_000)), "badAlg"),
        (pbm(owf=der.seq(der.encode_oid("1.2.840.113549.2.5"))), "badAlg"),
        (pbm(mac=der.seq(der.encode_oid("1.2.3"))), "badAlg"),
        (pbm(owf=der.seq()), "badDataFormat"),
        (pbm(owf=der.seq(SHA256[2:], der.NULL_TLV, der.NULL_TLV)), "badDataFormat"),
        (pbmac1(count=0), "badAlg"),
        (pbmac1(count=-1), "badAlg"),
        (pbmac1(count=1_000_001), "badAlg"),
        (pbmac1(count=2**40), "badAlg"),
        (pbmac1(size=0), "badAlg"),
        (pbmac1(size=1), "badAlg"),
        (pbmac1(size=-1), "badAlg"),
        (pbmac1(size=19), "badAlg"),
        (pbmac1(size=129), "badAlg"),
        (pbmac1(size=2**31), "badAlg"),
        (pbmac1(size=128, count=1_000_000), "badAlg"),
        (pbmac1(prf=der.seq(der.encode_oid("1.2.3"))), "badAlg"),
        (ECDSA256, "signerNotTrusted"),
        (der.seq(craft.PBM), "badDataFormat"),
        (der.seq(craft.PBM, der.NULL_TLV), "badDataFormat"),
        (der.seq(der.encode_oid("1.2.840.113549.1.5.14")), "badDataFormat"),
        (der.seq(der.encode_oid("1.2.840.113533.7.66.30"), der.seq(SHA256, HMAC256)), "badAlg"),  # DHBasedMac
        (der.seq(der.encode_oid("1.2.840.113533.7.66.16"), der.seq()), "badDataFormat"),  # KemBasedMac
        (pbm(mac=gmac()), "badMessageCheck"),
        (pbm(mac=gmac(nonce=bytes(16))), "badAlg"),
        (pbm(mac=gmac(nonce=bytes(20_000))), "badAlg"),
        (pbm(mac=gmac(size=4)), "badAlg"),
        (pbm(mac=gmac(size=2**300)), "badDataFormat"),
        (pbm(mac=der.seq(gmac()[2:13])), "badAlg"),
        (pbmac1(prf=gmac()), "badAlg"),
        (pbm(mac=der.seq(der.encode_oid("2.16.840.1.101.3.4.2.19"))), "badAlg"),  # KMAC
        (HMAC256, "badAlg"),
    ],
)
@pytest.mark.parametrize("kind", ["mac", "rr by mac"])
async def test_another_algorithm_than_the_mac_was_made_with_is_refused(
    kind: str, algorithm: bytes, failure: str
) -> None:
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    draft = draft.set("protectionAlg", algorithm)
    await craft.refused(world, draft.seal(protector), failure, by="signature")


@pytest.mark.parametrize(
    ("algorithm", "failure"),
    [
        (der.seq(der.encode_oid("1.2.840.10045.4.3.3")), "badMessageCheck"),
        (der.seq(der.encode_oid("1.2.840.10045.4.3.2"), der.NULL_TLV), "badAlg"),
        (der.seq(der.encode_oid("1.2.840.113549.1.1.11"), der.NULL_TLV), "badAlg"),
        (der.seq(der.encode_oid("1.3.101.112")), "badAlg"),
        (der.seq(der.encode_oid("1.2.840.10045.4.1")), "badAlg"),  # ecdsa-with-SHA1
        (der.seq(der.encode_oid("1.2.840.10040.4.3")), "badAlg"),
        (der.seq(der.encode_oid("1.2.840.113549.1.1.10")), "badAlg|badDataFormat"),
        (der.seq(der.encode_oid("1.2.840.113549.1.1.10"), der.seq()), "badAlg"),
        (der.seq(der.encode_oid("1.2.840.10045.4.3.2"), der.encode_octets(bytes(10_000))), "badAlg"),
        (pbm(), "badMessageCheck"),
        (pbmac1(), "badMessageCheck"),
    ],
)
@pytest.mark.parametrize("kind", ["signature", "rr by signature"])
async def test_another_algorithm_than_the_signature_was_made_with_is_refused(
    kind: str, algorithm: bytes, failure: str
) -> None:
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    before = craft.held(world)
    octets = draft.set("protectionAlg", algorithm).seal(protector)
    seen = await craft.answer(world, octets)
    assert (seen.body, len(seen.status()[2])) == ("error", 1)
    assert seen.status()[2] <= set(failure.split("|")), seen.status()
    assert craft.protected_by(world, seen) == "signature"
    assert craft.held(world) == before
    craft.check_store(world)


@pytest.mark.parametrize("protection", [b"", bytes(1), bytes(31), bytes(32), bytes(33), bytes(4096)])
@pytest.mark.parametrize("kind", craft.KINDS)
async def test_a_protection_of_any_length_is_no_protection(kind: str, protection: bytes) -> None:
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    octets = craft.assemble(draft.part, protection, protector.extra_certs)
    await craft.refused(world, octets, "badMessageCheck", by="signature")


@pytest.mark.parametrize("algorithm", [pbm(owf=SHA1, mac=HMAC1), pbm(mac=HMAC1), pbm(owf=SHA1)])
@pytest.mark.parametrize("kind", ["mac", "rr by mac"])
async def test_sha1_in_a_mac_is_refused_where_the_policy_says_so(kind: str, algorithm: bytes) -> None:
    world = World(policy=ProtectionPolicy(allow_sha1_mac=False))
    _, draft, protector = await craft.asking(world, kind)
    seen = await craft.refused(world, draft.set("protectionAlg", algorithm).seal(protector), "badAlg", by="signature")
    assert "SHA-1" in seen.status()[1]


# --- replays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize("implicit", [False, True])
async def test_a_replayed_request_gets_the_same_octets_and_no_second_certificate(kind: str, implicit: bool) -> None:
    world = World()
    credential = await craft.client(world, kind)
    draft, protector = craft.request(world, credential, implicit_confirm=implicit)
    octets = draft.seal(protector)
    first = await world.respond(octets)
    issued = await craft.issued(world)
    world.restart()
    world.clock.now += 200
    assert await world.respond(octets) == first
    assert await craft.issued(world) == issued
    craft.check_store(world)


async def test_a_hundred_copies_at_once_get_one_certificate() -> None:
    world = World()
    credential = await world.add_secret(uses_left=1)
    draft, protector = craft.request(world, credential)
    octets = draft.seal(protector)
    answers = await asyncio.gather(*(world.respond(octets) for i in range(100)))
    assert len(set(answers)) == 1
    assert await craft.issued(world) == 1
    craft.check_store(world)


async def test_a_secret_for_one_use_gives_one_certificate_however_many_ask_at_once() -> None:
    world = World()
    credential = await world.add_secret(uses_left=1)
    messages = [craft.request(world, credential) for _ in range(20)]
    answers = await asyncio.gather(*(craft.answer(world, draft.seal(by)) for draft, by in messages))
    assert sorted(seen.status()[0] for seen in answers) == [0] + [2] * 19
    assert await craft.issued(world) == 1
    craft.check_store(world)


@pytest.mark.parametrize("kind", ["mac", "signature"])
async def test_a_replayed_certconf_gets_the_same_pkiconf_and_a_new_one_certconfirmed(kind: str) -> None:
    world = World()
    credential = await craft.client(world, kind)
    asked, granted, _ = await world.ir(credential, body=craft.BODIES[kind], implicit=False)
    status = der.seq(cert_status(granted.certificate(), 0))
    confirm = world.follow(asked, granted, "certConf", status)
    first = await world.respond(confirm.der)
    assert await world.respond(confirm.der) == first
    again = world.follow(asked, granted, "certConf", status)
    await craft.refused(world, again.der, "certConfirmed", by=kind, credential=credential)
    reject = world.follow(asked, granted, "certConf", der.seq(cert_status(granted.certificate(), 0, reject="late")))
    await craft.refused(world, reject.der, "certConfirmed", by=kind, credential=credential)
    assert not await world.store.list_certificates(state=CertificateState.REVOKED)


async def test_a_replay_after_the_window_of_messagetime_and_the_retention_issues_nothing() -> None:
    """When the transaction is forgotten, the time of the message still tells that it is old."""
    world = World()
    credential = await craft.client(world, "mac")
    draft, protector = craft.request(world, credential)
    octets = draft.seal(protector)
    await craft.answer(world, octets)
    world.clock.now += 86_500
    assert await world.store.purge(int(world.clock.now) - 86_400, 100) == 1
    await craft.refused(world, octets, "badTime", by="mac", credential=credential)


async def test_a_replay_without_messagetime_after_the_retention_is_refused() -> None:
    """RFC 9483 section 3.1 leaves messageTime optional: then it is the transactionID that holds a replay off."""
    world = World()
    credential = await world.add_secret(uses_left=1)
    draft, protector = craft.request(world, credential)
    octets = draft.drop("messageTime").seal(protector)
    await craft.answer(world, octets)
    world.clock.now += 86_500
    assert await world.store.purge(int(world.clock.now) - 86_400, 100) == 1
    seen = await craft.answer(world, octets)
    assert seen.status()[2] == {"transactionIdInUse"}
    assert await craft.issued(world) == 1


# --- somebody else's transaction --------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [False, True], ids=["another entity", "the same entity"])
async def test_a_transactionid_in_use_is_told_so_and_the_transaction_goes_on(same: bool) -> None:
    world = World()
    one, other = await world.add_secret("one", b"1"), await world.add_secret("other", b"2")
    asked, granted, _ = await world.ir(one, implicit=False)
    draft, protector = craft.request(world, one if same else other)
    draft = draft.set("transactionID", der.encode_octets(asked.transaction_id))
    by = one if same else other
    await craft.refused(world, draft.seal(protector), "transactionIdInUse", by="mac", credential=by)
    confirm = world.follow(asked, granted, "certConf", der.seq(cert_status(granted.certificate(), 0)))
    assert (await craft.answer(world, confirm.der)).body == "pkiconf"


@pytest.mark.parametrize("body", ["certConf", "pkiconf", "error"])
@pytest.mark.parametrize("thief", ["another secret", "a certificate", "its own new certificate"])
async def test_nobody_else_ends_a_transaction(body: str, thief: str) -> None:
    """RFC 9483 section 4.1.1: with the same credentials as the first request."""
    from cmpd.client.messages import error_content

    world = World()
    one = await world.add_secret("one", b"1")
    other: Any = await world.add_secret("other", b"2")
    if thief == "a certificate":
        other = await world.holder(other, "/CN=other")
    asked, granted, key = await world.ir(one, implicit=False)
    if thief == "its own new certificate":
        other = KeyAndCertificate(key, granted.certificate())
    status = der.seq(cert_status(granted.certificate(), 0))
    content = {"certConf": status, "pkiconf": der.NULL_TLV, "error": error_content("x")}[body]
    stolen = world.follow(replace(asked, protector=other.protector(world.env)), granted, body, content)
    seen = await craft.answer(world, stolen.der)
    assert seen.body == "error"
    by_mac = thief == "another secret"
    assert seen.status()[2] == (
        {"notAuthorized"} if by_mac else {"wrongIntegrity"} if thief == "a certificate" else {"signerNotTrusted"}
    )
    assert len(await world.store.list_certificates(state=CertificateState.ISSUED)) == 1


async def test_interleaved_transactions_do_not_mix() -> None:
    world = World()
    credentials = [await world.add_secret(f"d{i}", bytes((i + 1,))) for i in range(4)]
    flows = [await world.ir(credential, f"/CN=device {i}", implicit=False) for i, credential in enumerate(credentials)]
    for i, (asked, granted, _) in enumerate(flows):  # each with the nonce of the next one
        nonce = flows[(i + 1) % 4][1].envelope.header.sender_nonce
        right = der.seq(cert_status(granted.certificate(), 0))
        wrong = world.follow(asked, granted, "certConf", right, recip_nonce=nonce)
        await craft.refused(world, wrong.der, "badRecipientNonce", by="mac", credential=credentials[i])
    asked, granted, _ = flows.pop()  # with the certificate of another
    foreign = der.seq(cert_status(flows[0][1].certificate(), 0))
    wrong = world.follow(asked, granted, "certConf", foreign)
    await craft.refused(world, wrong.der, "badCertId", by="mac", credential=credentials[3], revokes=1)
    for asked, granted, _ in reversed(flows):
        status = der.seq(cert_status(granted.certificate(), 0))
        assert (await craft.answer(world, world.follow(asked, granted, "certConf", status).der)).body == "pkiconf"
    assert len(await world.store.list_certificates(state=CertificateState.CONFIRMED)) == 3


async def test_an_answer_sent_back_as_a_request_is_refused() -> None:
    world = World()
    for kind in ("mac", "signature"):
        world = World()
        credential = await craft.client(world, kind)
        draft, protector = craft.request(world, credential, implicit_confirm=False)
        seen = await craft.answer(world, draft.seal(protector))
        reflected = await craft.answer(world, seen.envelope.der)
        assert reflected.body == "error"
        again = await craft.answer(world, reflected.envelope.der)
        assert again.body in ("error", "pkiconf")
        craft.check_store(world)


async def test_an_unprotected_error_ends_nothing() -> None:
    from cmpd.client.messages import error_content

    world = World()
    credential = await craft.client(world, "mac")
    asked, granted, _ = await world.ir(credential, implicit=False)
    draft = Draft.of(world.follow(asked, granted, "error", error_content("x")).der).drop("protectionAlg")
    seen = await craft.answer(world, der.seq(draft.part))
    assert (seen.body, seen.envelope.protection) == ("pkiconf", None)
    assert len(await world.store.list_certificates(state=CertificateState.ISSUED)) == 1


async def test_a_request_signed_by_the_key_that_it_is_about_is_not_enough() -> None:
    """POP alone is no credential."""
    world = World()
    key = ec.generate_private_key(ec.SECP256R1())
    node = chains.issue(None, "device", key=key, ca=False)
    credential = KeyAndCertificate(key, Certificate.load(node.der))
    request = cert_request("ir", [Template(key, encode_name("/CN=device"))], credential, world.env)
    await craft.refused(world, request.der, "signerNotTrusted", by="signature")
