"""Enrolment through the responder, in memory: what RFC 9483 sections 3 and 4.1 say, message by message."""

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.messages import (
    Template,
    cert_request,
    cert_status,
    certification_request,
    error_content,
    extension,
    p10_request,
    protect,
    subject_alt_name,
)
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.handlers.confirm import lapse
from cmpd.message import ID_IT_CONFIRM_WAIT_TIME
from cmpd.records import CertificateState, EntityKind
from tests import chains
from tests.world import World


@pytest.fixture
def world() -> World:
    return World()


async def records(world: World) -> list[tuple[str, CertificateState]]:
    return [(record.subject_text, record.state) for record in await world.store.list_certificates()]


# --- the ordinary way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "answer"), [("ir", "ip"), ("cr", "cp")])
async def test_a_shared_secret_gets_a_certificate(world: World, body: str, answer: str) -> None:
    request, seen, key = await world.ir(await world.add_secret(), body=body)
    assert seen.body == answer
    assert seen.status() == (0, "", frozenset())
    certificate = x509.load_der_x509_certificate(seen.certificate().der)
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(world.root))
    assert await records(world) == [("CN=device", CertificateState.CONFIRMED)]
    header = seen.envelope.header
    assert header.transaction_id == request.transaction_id
    assert header.recip_nonce == request.sender_nonce
    assert len(header.sender_nonce or b"") == 16
    assert header.recipient == request.protector.sender
    assert header.sender_kid == b"device"
    assert header.implicit_confirm


async def test_an_ip_to_a_mac_brings_the_trust_anchor_and_a_cp_does_not(world: World) -> None:
    secret = await world.add_secret()
    _, ip, _ = await world.ir(secret, body="ir")
    _, cp, _ = await world.ir(secret, body="cr")
    assert len(ip.content["caPubs"]) == 1
    assert not cp.content["caPubs"].isValue
    assert ip.envelope.extra_certs == cp.envelope.extra_certs == (world.root,)


@pytest.mark.parametrize("body", ["ir", "cr", "kur"])
async def test_the_holder_of_a_certificate_gets_another(world: World, body: str) -> None:
    holder = await world.holder(await world.add_secret())
    _, seen, _ = await world.ir(holder, body=body)
    assert seen.body == {"ir": "ip", "cr": "cp", "kur": "kup"}[body]
    assert seen.status()[0] == 0
    assert not seen.content["caPubs"].isValue
    assert seen.envelope.extra_certs[0] == world.cmp
    assert seen.envelope.header.sender == world.signer.sender


async def test_a_pkcs10_is_answered_by_cp_with_certreqid_minus_one(world: World) -> None:
    secret = await world.add_secret()
    key = ec.generate_private_key(ec.SECP256R1())
    csr = certification_request(Template(key, encode_name("/CN=device")))
    request = p10_request(csr, secret, world.env)
    seen = await world.ask(request, secret)
    assert seen.body == "cp"
    assert int(seen.content["response"][0]["certReqId"]) == -1


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p384", "p521", "ed25519", "ed448", "rsa2048"],
)
async def test_keys_of_every_kind_prove_possession_and_protect(world: World, key: ed25519.Ed25519PrivateKey) -> None:
    secret = await world.add_secret()
    seen = await world.ask(cert_request("ir", [Template(key, encode_name("/CN=x"))], secret, world.env), secret)
    holder = KeyAndCertificate(key, seen.certificate())
    _, again, _ = await world.ir(holder, "/CN=x", body="cr")
    assert again.status()[0] == 0


@pytest.mark.parametrize("mac", ["pbm", "pbmac1"])
async def test_the_answer_has_the_same_mac_parameters_as_the_request(world: World, mac: str) -> None:
    secret = await world.add_secret()
    request, seen, _ = await world.ir(SharedSecret(secret.reference, secret.secret, mac, 2000))
    assert seen.envelope.header.protection_alg == request.protector.algorithm


@pytest.mark.parametrize("pvno", [2, 3])
async def test_the_answer_has_the_pvno_of_the_request(world: World, pvno: int) -> None:
    secret = await world.add_secret()
    key = ec.generate_private_key(ec.SECP256R1())
    protector = secret.protector(world.env)
    body = cert_request("ir", [Template(key, encode_name("/CN=x"))], secret, world.env)
    from cmpd.message import decode

    request = protect("ir", decode(body.der).body, protector, world.env, pvno=pvno)
    seen = await world.ask(request, secret)
    assert seen.body == "ip"
    assert seen.envelope.header.pvno == pvno


@pytest.mark.parametrize(("pvno", "answered"), [(0, 2), (1, 2), (4, 3), (99, 3)])
async def test_other_pvnos_are_refused_with_the_nearest_one(world: World, pvno: int, answered: int) -> None:
    secret = await world.add_secret()
    request = protect("genm", b"\x30\x00", secret.protector(world.env), world.env, pvno=pvno)
    seen = await world.send(request.der)
    assert seen is not None
    assert (seen.body, seen.envelope.header.pvno) == ("error", answered)
    assert seen.status()[2] == {"unsupportedVersion"}


async def test_several_requests_in_one_message_are_judged_one_by_one(world: World) -> None:
    secret = await world.add_secret()
    good = [Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x"), cert_req_id=n) for n in (7, 0)]
    bad = Template(
        ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x"), issuer=encode_name("/CN=y"), cert_req_id=3
    )
    request = cert_request("ir", [good[0], bad, good[1]], secret, world.env)
    seen = await world.ask(request, secret)
    assert [int(item["certReqId"]) for item in seen.content["response"]] == [7, 3, 0]
    assert [seen.status(n)[0] for n in range(3)] == [0, 2, 0]
    assert seen.status(1)[2] == {"wrongAuthority"}
    assert len(await records(world)) == 2


# --- confirmation ----------------------------------------------------------------------------------------------------


async def enrol_explicitly(world: World, body: str = "ir"):
    secret = await world.add_secret(uses_left=1)
    request, seen, _ = await world.ir(secret, implicit=False, body=body)
    return secret, request, seen


async def test_without_implicit_confirm_the_certificate_waits(world: World) -> None:
    _, _, seen = await enrol_explicitly(world)
    assert not seen.envelope.header.implicit_confirm
    item = seen.envelope.header.general_info[0]
    assert item.type == ID_IT_CONFIRM_WAIT_TIME
    assert item.value == der.encode_generalized_time(world.clock.now + world.enrolment.confirm_wait)
    assert seen.envelope.header.message_time == world.clock.now
    assert await records(world) == [("CN=device", CertificateState.ISSUED)]


async def test_certconf_confirms_and_is_answered_by_pkiconf(world: World) -> None:
    secret, request, seen = await enrol_explicitly(world)
    content = der.seq(cert_status(seen.certificate(), 0))
    confirmed = await world.ask(world.follow(request, seen, "certConf", content), secret)
    assert confirmed.body == "pkiconf"
    assert await records(world) == [("CN=device", CertificateState.CONFIRMED)]


async def test_the_wait_for_certconf_survives_a_restart(world: World) -> None:
    secret, request, seen = await enrol_explicitly(world)
    world.restart()
    content = der.seq(cert_status(seen.certificate(), 0))
    assert (await world.ask(world.follow(request, seen, "certConf", content), secret)).body == "pkiconf"


@pytest.mark.parametrize("content", [None, b"\x30\x00"], ids=["statusInfo", "empty"])
async def test_rejection_by_certconf_revokes_and_stays_counted(world: World, content: bytes | None) -> None:
    secret, request, seen = await enrol_explicitly(world)
    if content is None:
        content = der.seq(cert_status(seen.certificate(), 0, reject="not what I wanted"))
    assert (await world.ask(world.follow(request, seen, "certConf", content), secret)).body == "pkiconf"
    assert await records(world) == [("CN=device", CertificateState.REVOKED)]
    _, again, _ = await world.ir(secret)
    assert again.status()[2] == {"notAuthorized"}


async def test_a_wrong_hash_confirms_nothing_and_ends_the_transaction(world: World) -> None:
    secret, request, seen = await enrol_explicitly(world)
    other = await world.holder(await world.add_secret("other"))
    wrong = await world.ask(world.follow(request, seen, "certConf", der.seq(cert_status(other.certificate, 0))), secret)
    assert (wrong.body, wrong.status()[2]) == ("error", {"badCertId"})
    assert ("CN=device", CertificateState.REVOKED) in await records(world)
    right = world.follow(request, seen, "certConf", der.seq(cert_status(seen.certificate(), 0)))
    assert (await world.ask(right, secret)).status()[2] == {"certRevoked"}


async def test_an_unknown_certreqid_confirms_nothing(world: World) -> None:
    secret, request, seen = await enrol_explicitly(world)
    content = der.seq(cert_status(seen.certificate(), 5))
    assert (await world.ask(world.follow(request, seen, "certConf", content), secret)).status()[2] == {"badCertId"}
    assert await records(world) == [("CN=device", CertificateState.REVOKED)]


@pytest.mark.parametrize("number", [0, -1])
async def test_a_p10cr_may_be_confirmed_as_zero_or_minus_one(world: World, number: int) -> None:
    secret = await world.add_secret()
    csr = certification_request(Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x")))
    request = p10_request(csr, secret, world.env, implicit_confirm=False)
    seen = await world.ask(request, secret)
    content = der.seq(cert_status(seen.certificate(), number))
    assert (await world.ask(world.follow(request, seen, "certConf", content), secret)).body == "pkiconf"


async def test_a_second_certconf_is_told_certconfirmed_but_a_repeated_one_gets_the_same_octets(world: World) -> None:
    secret, request, seen = await enrol_explicitly(world)
    content = der.seq(cert_status(seen.certificate(), 0))
    message = world.follow(request, seen, "certConf", content)
    first = await world.respond(message.der)
    assert await world.respond(message.der) == first
    another = await world.ask(world.follow(request, seen, "certConf", content), secret)
    assert another.status()[2] == {"certConfirmed"}


@pytest.mark.parametrize("pvno", [2, 3])
async def test_hashalg_needs_pvno_3(world: World, pvno: int) -> None:
    secret, request, seen = await enrol_explicitly(world)
    import hashlib

    sha384 = der.explicit(0, der.seq(der.encode_oid("2.16.840.1.101.3.4.2.2")))
    digest = hashlib.sha384(seen.certificate().der).digest()
    content = der.seq(der.seq(der.encode_octets(digest), der.encode_integer(0), sha384))
    seen_by = await world.ask(world.follow(request, seen, "certConf", content, pvno=pvno), secret)
    if pvno == 3:
        assert seen_by.body == "pkiconf"
    else:
        assert seen_by.status()[2] == {"badDataFormat"}


async def test_a_wrong_recipnonce_is_refused(world: World) -> None:
    secret, request, seen = await enrol_explicitly(world)
    content = der.seq(cert_status(seen.certificate(), 0))
    for nonce in (None, bytes(16)):
        wrong = await world.ask(world.follow(request, seen, "certConf", content, recip_nonce=nonce), secret)
        assert wrong.status()[2] == {"badRecipientNonce"}


async def test_another_entity_cannot_confirm(world: World) -> None:
    _, request, seen = await enrol_explicitly(world)
    stranger = await world.add_secret("stranger", b"another secret")
    content = der.seq(cert_status(seen.certificate(), 0))
    message = protect(
        "certConf",
        content,
        stranger.protector(world.env),
        world.env,
        transaction_id=request.transaction_id,
        recip_nonce=seen.envelope.header.sender_nonce,
    )
    assert (await world.ask(message, stranger)).status()[2] == {"notAuthorized"}
    assert await records(world) == [("CN=device", CertificateState.ISSUED)]


async def test_certconf_may_omit_the_protection_certificate(world: World) -> None:
    """RFC 9483 section 3.3: extraCerts may be omitted in certConf; the first request's certificate is remembered."""
    holder = await world.holder(await world.add_secret())
    request, seen, _ = await world.ir(holder, body="cr", implicit=False)
    from dataclasses import replace

    bare = replace(request.protector, extra_certs=())
    message = protect(
        "certConf",
        der.seq(cert_status(seen.certificate(), 0)),
        bare,
        world.env,
        transaction_id=request.transaction_id,
        recip_nonce=seen.envelope.header.sender_nonce,
    )
    assert (await world.ask(message, holder)).body == "pkiconf"


async def test_a_pkiconf_from_the_client_accepts_all_and_has_no_answer(world: World) -> None:
    _, request, seen = await enrol_explicitly(world)
    message = world.follow(request, seen, "pkiconf", der.NULL_TLV)
    assert await world.send(message.der) is None
    assert await world.send(message.der) is None
    assert await records(world) == [("CN=device", CertificateState.CONFIRMED)]


async def test_an_error_from_the_client_rejects_and_is_answered_by_pkiconf(world: World) -> None:
    secret, request, seen = await enrol_explicitly(world)
    message = world.follow(request, seen, "error", error_content("no room for it"))
    assert (await world.ask(message, secret)).body == "pkiconf"
    assert await records(world) == [("CN=device", CertificateState.REVOKED)]


async def test_after_confirmwaittime_the_certificate_is_revoked(world: World) -> None:
    secret, request, seen = await enrol_explicitly(world)
    world.clock.now += world.enrolment.confirm_wait - 1
    assert await lapse(world.service) == 0
    world.clock.now += 2
    assert await lapse(world.service) == 1
    assert await records(world) == [("CN=device", CertificateState.REVOKED)]
    late = world.follow(request, seen, "certConf", der.seq(cert_status(seen.certificate(), 0)))
    assert (await world.ask(late, secret)).status()[2] == {"certRevoked"}


async def test_a_certificate_that_waits_for_confirmation_authorises_nothing(world: World) -> None:
    _, seen, key = await world.ir(await world.add_secret(), implicit=False)
    holder = KeyAndCertificate(key, seen.certificate())
    _, refused, _ = await world.ir(holder, body="cr")
    assert refused.status()[2] == {"signerNotTrusted"}


# --- repeats and interwoven transactions -----------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [True, False])
async def test_a_repeated_ir_gets_the_same_octets_and_no_second_certificate(world: World, implicit: bool) -> None:
    secret = await world.add_secret(uses_left=1)
    request, seen, _ = await world.ir(secret, implicit=implicit)
    world.restart()
    world.clock.now += 3
    for _ in range(2):
        assert await world.respond(request.der) == seen.envelope.der
    assert len(await records(world)) == 1


async def test_a_repeated_rejection_gets_the_same_octets(world: World) -> None:
    secret = await world.add_secret(subject="/CN=right")
    request, seen, _ = await world.ir(secret, "/CN=wrong")
    assert seen.status()[2] == {"notAuthorized"}
    assert await world.respond(request.der) == seen.envelope.der


async def test_the_same_request_twice_at_once_is_processed_once(world: World) -> None:
    secret = await world.add_secret(uses_left=1)
    template = Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x"))
    request = cert_request("ir", [template], secret, world.env)
    answers = await asyncio.gather(*(world.respond(request.der) for _ in range(10)))
    assert len(set(answers)) == 1
    assert len(await records(world)) == 1


async def test_a_transactionid_in_use_is_refused(world: World) -> None:
    secret = await world.add_secret()
    request, _, _ = await world.ir(secret)
    from cmpd.message import decode

    body = cert_request(
        "ir", [Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=y"))], secret, world.env
    )
    second = protect(
        "ir", decode(body.der).body, secret.protector(world.env), world.env, transaction_id=request.transaction_id
    )
    refused = await world.ask(second, secret)
    assert (refused.body, refused.status()[2]) == ("error", {"transactionIdInUse"})
    assert len(await records(world)) == 1


async def test_a_secret_enrols_once_unless_more_is_allowed(world: World) -> None:
    secret = await world.add_secret(uses_left=1)
    _, first, _ = await world.ir(secret)
    _, second, _ = await world.ir(secret)
    assert (first.status()[0], second.status()[2]) == (0, {"notAuthorized"})
    assert second.body == "ip"


async def test_ten_requests_at_once_with_a_secret_for_one_get_one_certificate(world: World) -> None:
    secret = await world.add_secret(uses_left=1)
    answers = await asyncio.gather(*(world.ir(secret) for _ in range(10)))
    assert sorted(seen.status()[0] for _, seen, _ in answers) == [0] + [2] * 9


async def test_a_disabled_entity_is_refused_at_once(world: World) -> None:
    secret = await world.add_secret()
    holder = await world.holder(secret)
    await world.store.disable_entity("device")
    request = cert_request(
        "ir", [Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=device"))], secret, world.env
    )
    seen = await world.send(request.der)
    assert seen is not None
    assert seen.status()[2] == {"badMessageCheck"}
    _, refused, _ = await world.ir(holder, body="cr")
    assert refused.status()[2] == {"signerNotTrusted"}


# --- the header ------------------------------------------------------------------------------------------------------


async def test_an_unprotected_request_is_refused_with_a_signed_error(world: World) -> None:
    secret = await world.add_secret()
    request = cert_request(
        "ir", [Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x"))], secret, world.env
    )
    from cmpd.message import decode

    envelope = decode(request.der)
    start, _ = der.expect(envelope.protected, 0, len(envelope.protected), der.SEQUENCE, "x")
    header_stop = der.expect(envelope.protected, start, len(envelope.protected), der.SEQUENCE, "x")[1]
    fields = der.children(envelope.protected, *der.expect(envelope.protected, start, header_stop, der.SEQUENCE, "x"))
    bare = der.seq(*(envelope.protected[pos:after] for tag, pos, _, after in fields if tag != 0xA1))
    seen = await world.send(der.seq(bare, envelope.protected[header_stop:]))
    assert seen is not None
    assert (seen.body, seen.status()[2]) == ("error", {"badMessageCheck"})
    assert seen.envelope.extra_certs[0] == world.cmp


async def test_a_wrong_mac_is_answered_by_a_signature_not_by_a_mac(world: World) -> None:
    """A MAC over the answer would let anybody who knows a reference value guess the secret offline."""
    await world.add_secret()
    wrong = SharedSecret("device", b"guess", iterations=500)
    request = cert_request(
        "ir", [Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x"))], wrong, world.env
    )
    seen = await world.send(request.der)
    assert seen is not None
    assert seen.status()[2] == {"badMessageCheck"}
    assert seen.envelope.header.protection_alg == world.signer.algorithm


@pytest.mark.parametrize("off", [-301, 301])
async def test_a_messagetime_that_is_too_far_off_is_refused(world: World, off: int) -> None:
    secret = await world.add_secret()
    template = Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x"))
    world.clock.now += off
    request = cert_request("ir", [template], secret, world.env)
    world.clock.now -= off
    seen = await world.ask(request, secret)
    assert seen.status()[2] == {"badTime"}


@pytest.mark.parametrize("body", ["krr", "ccr", "popdecr", "nested"])
async def test_bodies_that_are_not_supported_are_told_badrequest(world: World, body: str) -> None:
    secret = await world.add_secret()
    request = protect(body, b"\x30\x00", secret.protector(world.env), world.env)
    seen = await world.ask(request, secret)
    assert (seen.body, seen.status()[2]) == ("error", {"badRequest"})


@pytest.mark.parametrize("body", ["ckuann", "cann", "rann", "crlann"])
async def test_announcements_have_no_answer(world: World, body: str) -> None:
    secret = await world.add_secret()
    assert await world.send(protect(body, b"\x30\x00", secret.protector(world.env), world.env).der) is None


@pytest.mark.parametrize("body", ["certConf", "pkiconf"])
async def test_a_confirmation_without_transaction_is_told_badrequest(world: World, body: str) -> None:
    secret = await world.add_secret()
    content = der.NULL_TLV if body == "pkiconf" else b"\x30\x00"
    seen = await world.ask(protect(body, content, secret.protector(world.env), world.env), secret)
    assert seen.status()[2] == {"badRequest"}


async def test_an_error_without_transaction_is_answered_by_pkiconf(world: World) -> None:
    secret = await world.add_secret()
    request = protect("error", error_content("x"), secret.protector(world.env), world.env)
    assert (await world.ask(request, secret)).body == "pkiconf"


# --- policy ----------------------------------------------------------------------------------------------------------


async def test_a_registered_subject_is_the_only_one(world: World) -> None:
    secret = await world.add_secret(subject="/O=Test/CN=Device 7")
    _, right, _ = await world.ir(secret, "/O=test/CN=device  7")  # RFC 5280 section 7.1: case and spaces do not count
    _, wrong, _ = await world.ir(secret, "/O=Test/CN=Device 8")
    assert right.status()[0] == 0
    assert wrong.status()[2] == {"notAuthorized"}


async def test_a_missing_subject_is_the_registered_one(world: World) -> None:
    secret = await world.add_secret(subject="/O=Test/CN=Device 7")
    template = Template(ec.generate_private_key(ec.SECP256R1()), None)
    seen = await world.ask(cert_request("ir", [template], secret, world.env), secret)
    assert seen.status()[0] == 0
    assert await records(world) == [("CN=Device 7,O=Test", CertificateState.CONFIRMED)]


@pytest.mark.parametrize(
    ("scope", "subject", "granted"),
    [
        ("own", "/O=Test/CN=device", True),
        ("own", "/O=Test/CN=other", False),
        ("constraint", "/O=Test/CN=other", True),
        ("constraint", "/O=Evil/CN=other", False),
        ("any", "/O=Evil/CN=other", True),
    ],
)
async def test_what_the_holder_of_a_certificate_may_ask_for_is_policy(scope: str, subject: str, granted: bool) -> None:
    world = World(enrolment=EnrolmentConfig(certificate_holder_may_ask_for=scope))
    secret = await world.add_secret(subject="/O=Test", is_ra=True)
    holder = await world.holder(secret, "/O=Test/CN=device")
    await world.store.disable_entity("nobody")
    from dataclasses import replace

    entity = await world.store.find_entity("device")
    assert entity is not None
    world.store = await copy_without_ra(world, replace(entity, is_ra=False))
    world.restart()
    _, seen, _ = await world.ir(holder, subject, body="cr")
    assert (seen.status()[0] == 0) is granted
    if not granted:
        assert seen.status()[2] == {"notAuthorized"}


async def copy_without_ra(world: World, entity):
    """The same store in which the entity is no RA."""

    class Other:
        def __getattr__(self, name: str):
            return getattr(original, name)

        async def find_entity_by_id(self, entity_id: int):
            return entity

    original = world.store
    return Other()


async def test_a_kur_must_keep_the_subject_and_alternative_names(world: World) -> None:
    holder = await world.holder(await world.add_secret(), extensions=(subject_alt_name(["dns:a.example"]),))
    _, other_subject, _ = await world.ir(holder, "/CN=other", body="kur")
    assert other_subject.status()[2] == {"notAuthorized"}
    _, other_san, _ = await world.ir(holder, body="kur", extensions=(subject_alt_name(["dns:b.example"]),))
    assert other_san.status()[2] == {"notAuthorized"}
    _, kept, _ = await world.ir(holder, body="kur")
    certificate = x509.load_der_x509_certificate(kept.certificate().der)
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.DNSName) == ["a.example"]


async def test_a_kur_names_the_certificate_that_protects_it(world: World) -> None:
    secret = await world.add_secret()
    holder, other = await world.holder(secret), await world.holder(secret)
    _, right, _ = await world.ir(holder, body="kur", replaces=holder.certificate)
    _, wrong, _ = await world.ir(holder, body="kur", replaces=other.certificate)
    assert right.status()[0] == 0
    assert (wrong.body, wrong.status()[2]) == ("kup", {"badCertId"})


async def test_a_kur_with_a_mac_is_told_wrongintegrity(world: World) -> None:
    _, seen, _ = await world.ir(await world.add_secret(), body="kur")
    assert (seen.body, seen.status()[2]) == ("error", {"wrongIntegrity"})


async def test_raverified_is_for_an_ra_only(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    from cmpd.client.keys import public_key_info

    template = Template(None, encode_name("/CN=somebody"), public_key=public_key_info(key))
    device, ra = await world.add_secret(), await world.add_secret("ra", b"ra secret", is_ra=True)
    refused = await world.ask(cert_request("ir", [template], device, world.env), device)
    granted = await world.ask(cert_request("ir", [template], ra, world.env), ra)
    assert refused.status()[2] == {"notAuthorized"}
    assert granted.status()[0] == 0


async def test_a_foreign_certificate_is_a_credential_once_it_is_registered(world: World) -> None:
    root, device = chains.chain(2)
    idevid = KeyAndCertificate(device.key, Certificate.load(device.der))
    _, unknown, _ = await world.ir(idevid)
    assert unknown.status()[2] == {"signerNotTrusted"}
    await world.add_certificate("this device", device.der)
    _, granted, _ = await world.ir(idevid, "/CN=its operational name")
    assert granted.status()[0] == 0
    del root


async def test_a_device_under_a_registered_ca_asks_for_its_own_name_only(world: World) -> None:
    root, device = chains.chain(2)
    idevid = KeyAndCertificate(device.key, Certificate.load(device.der))
    await world.add_certificate("all of that maker", root.der)
    own = idevid.certificate.subject
    template = Template(ec.generate_private_key(ec.SECP256R1()), own)
    granted = await world.ask(cert_request("ir", [template], idevid, world.env), idevid)
    _, refused, _ = await world.ir(idevid, "/CN=somebody else")
    assert granted.status()[0] == 0
    assert refused.status()[2] == {"notAuthorized"}


async def test_a_profile_must_exist_and_be_allowed() -> None:
    world = World(profiles={"default": ProfileConfig(), "tls": ProfileConfig(extended_key_usage=("serverAuth",))})
    plain, both = await world.add_secret(), await world.add_secret("both", b"x", profiles=("default", "tls"))
    _, unknown, _ = await world.ir(both, profile="nonsense")
    _, refused, _ = await world.ir(plain, profile="tls")
    _, granted, _ = await world.ir(both, profile="tls")
    assert unknown.status()[2] == {"badCertTemplate"}
    assert refused.status()[2] == {"notAuthorized"}
    certificate = x509.load_der_x509_certificate(granted.certificate().der)
    assert certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)


async def test_what_is_changed_is_said_with_grantedwithmods(world: World) -> None:
    secret = await world.add_secret()
    wish = (extension("1.2.3.4", b"\x05\x00"), extension("2.5.29.15", der.encode_named_bits(0, 3, 5), critical=True))
    _, seen, _ = await world.ir(secret, extensions=wish, not_after=int(world.clock.now) + 86400 * 3650)
    status, text, failures = seen.status()
    assert (status, failures) == (1, frozenset())
    for part in ("keyUsage without dataEncipherment, keyCertSign", "without extension 1.2.3.4", "validity"):
        assert part in text


@pytest.mark.parametrize(
    ("wish", "part"),
    [
        ({"extensions": (extension("1.2.3.4", b"\x05\x00", critical=True),)}, "critical"),
        ({"extensions": (extension("2.5.29.19", b"\x30\x03\x01\x01\xff", critical=True),)}, "cA FALSE"),
        ({"extensions": (extension("2.5.29.37", der.seq(der.encode_oid("1.3.6.1.5.5.7.3.28"))),)}, "extKeyUsage"),
        ({"extensions": (extension("2.5.29.17", b"\x30\x04\x82\x02a b"[:6]),)}, "subjectAltName"),
        ({"subject": b"\x30\x00"}, "subject"),
    ],
    ids=["unknown critical", "CA", "cmcRA", "SAN", "no name"],
)
async def test_what_must_not_be_granted_is_refused_with_badcerttemplate(
    world: World, wish: dict[str, object], part: str
) -> None:
    secret = await world.add_secret()
    key = ec.generate_private_key(ec.SECP256R1())
    wish = {"subject": encode_name("/CN=x")} | wish
    template = Template(key, **wish)
    seen = await world.ask(cert_request("ir", [template], secret, world.env), secret)
    assert (seen.body, seen.status()[2]) == ("ip", {"badCertTemplate"})
    assert part in seen.status()[1]


async def test_a_wrong_proof_of_possession_is_told_badpop(world: World) -> None:
    from cryptography.hazmat.primitives import hashes

    secret = await world.add_secret()
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    from cmpd.client.keys import public_key_info

    info = public_key_info(key)
    template = der.seq(der.explicit(5, encode_name("/CN=x")), b"\xa6" + info[1:])
    request = der.seq(der.encode_integer(0), template)
    signature = other.sign(request, ec.ECDSA(hashes.SHA256()))
    from cmpd.asn1.signing import signature_algorithm

    pop = der.tlv(0xA1, signature_algorithm(key).identifier + der.encode_bits(signature))
    for popo in (pop, b"", b"\xa2\x03\x81\x01\x00"):
        message = protect("ir", der.seq(der.seq(request, popo)), secret.protector(world.env), world.env)
        seen = await world.ask(message, secret)
        assert (seen.body, seen.status()[2]) == ("ip", {"badPOP"})


async def test_entity_kinds_have_the_names_that_the_database_keeps() -> None:
    assert [str(kind) for kind in EntityKind] == ["secret", "certificate"]
