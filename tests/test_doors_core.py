"""What a door decides, seen through the responder: bodies, profiles, and TLS client certificates for protection."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.changes import MoveCertificate
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate, Unprotected
from cmpd.client.messages import (
    Request,
    Template,
    cert_req_msg,
    cert_request,
    cert_status,
    certification_request,
    error_content,
    general_info,
    protect,
)
from cmpd.client.responses import VerificationError
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.config_status import RevocationConfig
from cmpd.message import BODY_TYPES, NULL_DN, encode_message
from cmpd.origin import OPERATIONS, Door, Origin, UnknownReference, Waiting
from cmpd.records import CertificateState
from tests import chains
from tests.world import Seen, World, rev_details, serial_octets

TLS = Door("https", tls_authenticates=True)


def at(*certificates: bytes, door: Door = TLS, **fields: Any) -> Origin:
    return Origin("192.0.2.1:4000", door, certificates=certificates, **fields)


def general_name(subject: str | bytes) -> bytes:
    return der.explicit(4, encode_name(subject) if isinstance(subject, str) else subject)


def bare(
    world: World,
    body: str,
    content: bytes,
    *,
    sender: bytes = NULL_DN,
    kid: bytes | None = None,
    info: tuple[bytes, ...] = (),
    transaction_id: bytes | None = None,
    recip_nonce: bytes | None = None,
    algorithm: bytes | None = None,
    protection: bytes | None = None,
) -> Request:
    """A message without protection."""
    transaction_id, nonce = transaction_id or world.env.random(16), world.env.random(16)
    fields = [(1, algorithm), (2, kid and der.encode_octets(kid)), (4, der.encode_octets(transaction_id))]
    fields += [(5, der.encode_octets(nonce)), (6, recip_nonce and der.encode_octets(recip_nonce))]
    fields += [(8, der.seq(*info) if info else None)]
    header = der.seq(
        der.encode_integer(2), sender, NULL_DN, *(der.explicit(n, value) for n, value in fields if value is not None)
    )
    octets = encode_message(header + der.explicit(BODY_TYPES[body], content), protection, ())
    return Request(body, octets, transaction_id, nonce, Unprotected().protector(world.env))


def request_for(
    world: World, subject: str | None = "/CN=device", body: str = "cr", *, implicit: bool = True, **fields: Any
) -> Request:
    key = fields.pop("key", None) or ec.generate_private_key(ec.SECP256R1())
    name = None if subject is None else encode_name(subject)
    message = cert_req_msg(Template(key, name), fields.pop("pop_sender", NULL_DN))
    return bare(world, body, der.seq(message), info=tuple(general_info(implicit_confirm=implicit)) or (), **fields)


async def ask(world: World, request: Request, origin: Origin) -> Seen:
    seen = await world.send(request.der, origin)
    assert seen is not None
    return seen


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def holder(world: World) -> KeyAndCertificate:
    return await world.holder(await world.add_secret())


# --- bodies ----------------------------------------------------------------------------------------------------------


async def test_a_door_refuses_other_bodies_than_its_own_in_a_protected_error(world: World) -> None:
    secret = await world.add_secret()
    door = Origin("a", Door("tcp", bodies=frozenset({"cr"})))
    request, _, _ = await world.ir(await world.add_secret("other"))
    assert request.body == "ir"
    template = Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=device"))
    refused = cert_request("ir", [template], secret, world.env)
    seen = await world.ask(refused, secret, door)
    assert (seen.body, seen.status()[2]) == ("error", {"badRequest"})
    assert seen.envelope.header.sender_kid == b"device"  # the MAC of the request
    assert (await world.ask(refused, secret)).body == "ip"  # nothing is known of it
    taken = cert_request("cr", [template], secret, world.env, implicit_confirm=False)
    cp = await world.ask(taken, secret, door)
    content = der.seq(cert_status(cp.certificate(), 0))
    assert (await world.ask(world.follow(taken, cp, "certConf", content), secret, door)).body == "pkiconf"


async def test_the_operation_of_the_path_refuses_other_bodies(world: World) -> None:
    secret = await world.add_secret()
    path = Origin("a", Door("http"), operation=OPERATIONS["certification"])
    template = Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=device"))
    for body, answer in (("ir", "error"), ("cr", "cp")):
        request = cert_request(body, [template], secret, world.env)
        assert (await world.ask(request, secret, path)).body == answer


async def test_who_cannot_show_a_credential_does_not_learn_what_a_door_takes(world: World) -> None:
    seen = await ask(world, request_for(world), at(door=Door("tcp", bodies=frozenset({"rr"}))))
    assert seen.status()[2] == {"badMessageCheck"}


# --- profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "path", "door", "profile"),
    [
        (None, "", "", "a"),
        (None, "", "b", "b"),
        (None, "", "foreign", "a"),
        (None, "b", "", "b"),
        (None, "b", "a", "b"),
        ("b", "a", "a", "b"),
        ("a", "b", "b", "a"),
    ],
)
async def test_the_header_names_the_profile_else_the_path_else_the_door(
    header: str | None, path: str, door: str, profile: str
) -> None:
    world = World(profiles=dict.fromkeys(("default", "a", "b", "foreign"), ProfileConfig()))
    secret = await world.add_secret(profiles=("a", "b"))
    world.origin = Origin("x", Door("tcp", profile=door), profile=path)
    _, seen, _ = await world.ir(secret, profile=header)
    assert seen.status()[0] == 0
    assert [record.profile for record in await world.store.list_certificates()] == [profile]


@pytest.mark.parametrize(("path", "failure"), [("foreign", "notAuthorized"), ("unknown", "badCertTemplate")])
async def test_the_profile_of_the_path_is_held_to_the_same_rules_as_the_headers(path: str, failure: str) -> None:
    world = World(profiles=dict.fromkeys(("default", "foreign"), ProfileConfig()))
    secret = await world.add_secret()
    world.origin = Origin("x", Door("tcp"), profile=path)
    assert (await world.ir(secret))[1].status()[2] == {failure}


async def test_the_profile_of_the_path_is_that_of_every_request_in_the_message() -> None:
    world = World(profiles=dict.fromkeys(("default", "b"), ProfileConfig()))
    secret = await world.add_secret(profiles=("default", "b"))
    templates = [
        Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x"), cert_req_id=n) for n in range(3)
    ]
    world.origin = Origin("x", Door("tcp"), profile="b")
    await world.ask(cert_request("ir", templates, secret, world.env), secret)
    assert [record.profile for record in await world.store.list_certificates()] == ["b"] * 3


async def test_the_profile_of_the_door_is_not_for_kur() -> None:
    world = World(profiles=dict.fromkeys(("default", "b"), ProfileConfig()))
    secret = await world.add_secret(profiles=("default", "b"))
    held = await world.holder(secret)
    world.origin = Origin("x", Door("tcp", profile="b"))
    _, seen, _ = await world.ir(held, body="kur")
    assert seen.body == "kup"
    assert {record.profile for record in await world.store.list_certificates()} == {"default"}


# --- a TLS client certificate instead of protection ------------------------------------------------------------------


@pytest.mark.parametrize("sender", [NULL_DN, general_name("/CN=device")], ids=["NULL-DN", "subject"])
async def test_the_holder_of_a_certificate_enrols_without_protection(
    world: World, holder: KeyAndCertificate, sender: bytes
) -> None:
    seen = await ask(world, request_for(world, sender=sender), at(holder.certificate.der))
    assert (seen.body, seen.status()[0]) == ("cp", 0)
    assert seen.envelope.header.sender == world.signer.sender
    assert seen.envelope.extra_certs[0] == world.cmp
    assert not seen.content["caPubs"].isValue


async def test_the_answer_is_signed_by_the_cmp_certificate(world: World, holder: KeyAndCertificate) -> None:
    request = request_for(world)
    await world.ask(request, holder, at(holder.certificate.der))  # verifies it
    with pytest.raises(VerificationError):
        await world.ask(request, await world.add_secret("other"), at(holder.certificate.der))


async def test_an_ir_brings_no_capubs_which_a_mac_alone_vouches_for(world: World, holder: KeyAndCertificate) -> None:
    seen = await ask(world, request_for(world, body="ir"), at(holder.certificate.der))
    assert (seen.body, seen.status()[0]) == ("ip", 0)
    assert not seen.content["caPubs"].isValue


async def test_a_pkcs10_needs_no_protection_either(world: World, holder: KeyAndCertificate) -> None:
    csr = certification_request(Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=device")))
    assert (await ask(world, bare(world, "p10cr", csr), at(holder.certificate.der))).status()[0] == 0


async def test_a_registered_certificate_of_another_ca_enrols_even_if_it_may_not_sign(world: World) -> None:
    root = chains.issue(None, "root")
    device = chains.leaf(root, "device", key_usage=chains.usage("key_agreement"))
    await world.add_certificate("devices", root.der)
    seen = await ask(world, request_for(world), at(device.der, root.der))
    assert seen.status()[0] == 0


@pytest.mark.parametrize("door", [Door("https"), Door("tcp", tls_authenticates=True)])
async def test_a_door_that_does_not_say_so_or_a_peer_without_certificate_needs_protection(
    world: World, holder: KeyAndCertificate, door: Door
) -> None:
    certificates = () if door.tls_authenticates else (holder.certificate.der,)
    seen = await ask(world, request_for(world), at(*certificates, door=door))
    assert (seen.body, seen.status()[2]) == ("error", {"badMessageCheck"})


async def test_one_of_protectionalg_and_protection_is_no_unprotected_message(
    world: World, holder: KeyAndCertificate
) -> None:
    algorithm = holder.protector(world.env).algorithm
    for half in ({"algorithm": algorithm}, {"protection": bytes(64)}):
        seen = await ask(world, request_for(world, **half), at(holder.certificate.der))
        assert seen.status()[2] == {"badDataFormat"}


async def test_protection_that_is_there_must_verify_whatever_the_channel(
    world: World, holder: KeyAndCertificate
) -> None:
    wrong = request_for(world, algorithm=holder.protector(world.env).algorithm, protection=bytes(64))
    seen = await ask(world, wrong, at(holder.certificate.der))
    assert seen.body == "error"
    secret = await world.add_secret("other")
    world.origin = at(holder.certificate.der)
    _, seen, _ = await world.ir(secret, "/CN=other")
    assert seen.envelope.header.sender_kid == b"other"


async def test_a_certificate_that_nobody_knows_is_not_trusted(world: World) -> None:
    stranger = chains.leaf(chains.issue(None, "root"), "device")
    assert (await ask(world, request_for(world), at(stranger.der))).status()[2] == {"signerNotTrusted"}


@pytest.mark.parametrize("state", [CertificateState.REVOKED, CertificateState.SUSPENDED])
async def test_a_certificate_that_is_not_valid_any_more_enrols_nothing(
    world: World, holder: KeyAndCertificate, state: CertificateState
) -> None:
    serial = serial_octets(holder.certificate.serial)
    moved = MoveCertificate(serial, CertificateState.CONFIRMED, state, int(world.clock.now), "certificateHold")
    await world.store.write([moved])
    assert (await ask(world, request_for(world), at(holder.certificate.der))).status()[2] == {"signerNotTrusted"}


@pytest.mark.parametrize(
    "claims",
    [
        {"sender": general_name("/CN=somebody else")},
        {"sender": b"\x82\x06device"},
        {"kid": bytes(20)},
        {"kid": b"somebody else"},
    ],
)
async def test_what_the_header_claims_must_be_so(
    world: World, holder: KeyAndCertificate, claims: dict[str, bytes]
) -> None:
    seen = await ask(world, request_for(world, **claims), at(holder.certificate.der))
    assert seen.status()[2] == {"badMessageCheck"}


async def test_senderkid_may_be_that_of_the_certificate_or_the_reference_value(
    world: World, holder: KeyAndCertificate
) -> None:
    for kid in (holder.certificate.key_identifier, b"device"):
        assert (await ask(world, request_for(world, kid=kid), at(holder.certificate.der))).status()[0] == 0


async def test_the_holder_gets_its_own_subject_alone(world: World, holder: KeyAndCertificate) -> None:
    seen = await ask(world, request_for(world, "/CN=somebody else"), at(holder.certificate.der))
    assert seen.status()[2] == {"notAuthorized"}


async def test_a_kur_wants_a_signature_by_the_old_certificate(world: World, holder: KeyAndCertificate) -> None:
    """RFC 9483 section 4.1.3."""
    seen = await ask(world, request_for(world, body="kur"), at(holder.certificate.der))
    assert (seen.body, seen.status()[2]) == ("error", {"wrongIntegrity"})


# RAs


async def register_ra(world: World) -> chains.Node:
    node = chains.leaf(chains.issue(None, "root"), "the ra")
    await world.add_certificate("ra", node.der, is_ra=True)
    return node


async def test_an_ra_enrols_others_vouches_for_their_keys_and_may_speak_in_their_name(world: World) -> None:
    ra = await register_ra(world)
    key = ec.generate_private_key(ec.SECP256R1())
    info = Template(key, None).public_key_info
    message = cert_req_msg(Template(None, encode_name("/CN=x"), public_key=info), NULL_DN)  # raVerified
    request = bare(world, "cr", der.seq(message), sender=general_name("/CN=x"))
    assert (await ask(world, request, at(ra.der))).status()[0] == 0


async def test_raverified_is_for_ras_alone(world: World, holder: KeyAndCertificate) -> None:
    info = Template(ec.generate_private_key(ec.SECP256R1()), None).public_key_info
    message = cert_req_msg(Template(None, encode_name("/CN=device"), public_key=info), NULL_DN)
    seen = await ask(world, bare(world, "cr", der.seq(message)), at(holder.certificate.der))
    assert seen.status()[2] == {"notAuthorized"}


async def test_an_ra_revokes_what_was_issued_through_it(world: World) -> None:
    ra = await register_ra(world)
    seen = await ask(world, request_for(world, "/CN=x"), at(ra.der))
    certificate = seen.certificate()
    rp = await ask(world, bare(world, "rr", der.seq(rev_details(certificate, 1))), at(ra.der))
    assert rp.outcomes() == ["accepted"]


# proof of possession


@pytest.mark.parametrize(("pop_sender", "good"), [("/CN=device", True), (None, False), ("/CN=x", False)])
async def test_poposkinput_binds_the_key_to_the_certificates_subject_not_to_the_header(
    world: World, holder: KeyAndCertificate, pop_sender: str | None, good: bool
) -> None:
    """RFC 4211 section 4.1: the sender is there when its identity was authenticated."""
    named = NULL_DN if pop_sender is None else general_name(pop_sender)
    seen = await ask(world, request_for(world, None, pop_sender=named), at(holder.certificate.der))
    assert seen.status()[2] == (frozenset() if good else {"badPOP"})


async def test_publickeymac_needs_a_shared_secret(world: World, holder: KeyAndCertificate) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    template = Template(key, None)
    mac = der.seq(der.seq(der.encode_oid("1.2.840.113533.7.66.13")), der.encode_bits(bytes(32)))
    from cmpd.client.keys import sign, signature_algorithm
    from cmpd.client.messages import cert_template

    signed = der.seq(mac, template.public_key_info)
    _, start, stop = der.header(signed, 0, len(signed))
    pop = der.tlv(
        0xA1,
        der.tlv(0xA0, signed[start:stop]) + signature_algorithm(key).identifier + der.encode_bits(sign(key, signed)),
    )
    message = der.seq(der.seq(der.encode_integer(0), cert_template(template)), pop)
    seen = await ask(world, bare(world, "cr", der.seq(message)), at(holder.certificate.der))
    assert seen.status()[2] == {"badPOP"}
    assert "shared secret" in seen.status()[1]


# revocation


async def test_a_certificate_revokes_itself_and_no_stranger(world: World, holder: KeyAndCertificate) -> None:
    other = await world.holder(await world.add_secret("other"), "/CN=other")
    origin = at(holder.certificate.der)
    rp = await ask(world, bare(world, "rr", der.seq(rev_details(other.certificate, 1))), origin)
    assert rp.outcomes() == ["notAuthorized"]
    rp = await ask(world, bare(world, "rr", der.seq(rev_details(holder.certificate, 1))), origin)
    assert rp.outcomes() == ["accepted"]
    assert (await world.record(holder)).state is CertificateState.REVOKED
    again = await ask(world, bare(world, "rr", der.seq(rev_details(holder.certificate, 1))), origin)
    assert again.outcomes() == ["certRevoked"]


async def test_a_suspended_certificate_resumes_itself_where_it_may() -> None:
    world = World(revocation=RevocationConfig(suspended_may_resume_itself=True))
    held = await world.holder(await world.add_secret())
    origin = at(held.certificate.der)
    for reason, state in ((6, CertificateState.SUSPENDED), (8, CertificateState.CONFIRMED)):
        rp = await ask(world, bare(world, "rr", der.seq(rev_details(held.certificate, reason))), origin)
        assert rp.outcomes() == ["accepted"]
        assert (await world.record(held)).state is state


# the transaction


async def test_certconf_comes_through_a_channel_of_the_same_certificate(
    world: World, holder: KeyAndCertificate
) -> None:
    request = request_for(world, implicit=False)
    cp = await ask(world, request, at(holder.certificate.der))
    assert world.store._tables.transactions[request.transaction_id].credential == (
        f"tls:{sha256(holder.certificate.der).hexdigest()}"
    )
    other = await world.holder(await world.add_secret("other"), "/CN=other")
    follow = {"transaction_id": request.transaction_id, "recip_nonce": cp.envelope.header.sender_nonce}
    content = der.seq(cert_status(cp.certificate(), 0))
    stranger = await ask(world, bare(world, "certConf", content, **follow), at(other.certificate.der))
    assert stranger.status()[2] == {"notAuthorized"}
    nobody = await ask(world, bare(world, "certConf", content, **follow), at())
    assert nobody.status()[2] == {"badMessageCheck"}
    assert (await ask(world, bare(world, "certConf", content, **follow), at(holder.certificate.der))).body == "pkiconf"


@pytest.mark.parametrize("first", ["tls", "signature"])
async def test_a_transaction_does_not_change_its_kind_of_protection(
    world: World, holder: KeyAndCertificate, first: str
) -> None:
    origin = at(holder.certificate.der)
    key = ec.generate_private_key(ec.SECP256R1())
    signed = cert_request("cr", [Template(key, encode_name("/CN=device"))], holder, world.env, implicit_confirm=False)
    request = request_for(world, implicit=False) if first == "tls" else signed
    cp = await ask(world, request, origin)
    content = der.seq(cert_status(cp.certificate(), 0))
    follow = {"transaction_id": request.transaction_id, "recip_nonce": cp.envelope.header.sender_nonce}
    by_tls = bare(world, "certConf", content, **follow)
    by_signature = protect("certConf", content, holder.protector(world.env), world.env, **follow)
    wrong, right = (by_signature, by_tls) if first == "tls" else (by_tls, by_signature)
    assert (await ask(world, wrong, origin)).status()[2] == {"wrongIntegrity"}
    assert (await ask(world, right, origin)).body == "pkiconf"


async def test_an_unprotected_error_is_acknowledged_and_changes_nothing_also_over_tls(
    world: World, holder: KeyAndCertificate
) -> None:
    origin = at(holder.certificate.der)
    request = request_for(world, implicit=False)
    cp = await ask(world, request, origin)
    follow = {"transaction_id": request.transaction_id, "recip_nonce": cp.envelope.header.sender_nonce}
    assert (await ask(world, bare(world, "error", error_content("no"), **follow), origin)).body == "pkiconf"
    assert CertificateState.ISSUED in [record.state for record in await world.store.list_certificates()]


async def test_a_general_message_is_answered_without_protection(world: World, holder: KeyAndCertificate) -> None:
    assert (await ask(world, bare(world, "genm", der.seq()), at(holder.certificate.der))).body == "genp"


async def test_the_same_unprotected_octets_get_the_same_answer(world: World, holder: KeyAndCertificate) -> None:
    request = request_for(world)
    first = await world.respond(request.der, at(holder.certificate.der))
    assert await world.respond(request.der, at(holder.certificate.der)) == first
    seen = await ask(world, request, at())  # and nobody else gets it
    assert seen.status()[2] == {"badMessageCheck"}


async def test_a_request_that_waits_is_asked_for_through_a_channel_of_the_same_certificate() -> None:
    world = World(EnrolmentConfig(), {"default": ProfileConfig()})
    holder = await world.holder(await world.add_secret())
    other = await world.holder(await world.add_secret("other"), "/CN=other")
    world.profiles["default"] = ProfileConfig(approval=True)
    world.restart()
    mine, theirs = (replace(at(one.certificate.der), polls=True) for one in (holder, other))
    closed = replace(mine, door=Door("tcp"))
    told = await world.respond(request_for(world).der, mine)
    assert isinstance(told, Waiting)
    assert await world.poll(told.reference, mine) == told

    async def is_hidden() -> None:
        for origin in (theirs, closed, at(polls=True), Origin("x", Door("tcp"), polls=True)):
            with pytest.raises(UnknownReference):
                await world.poll(told.reference, origin)

    await is_hidden()
    await world.approve(told.reference)
    await is_hidden()
    answer = await world.poll(told.reference, mine)
    assert isinstance(answer, bytes)
    assert world.read(answer).status()[0] == 0
    await is_hidden()
    assert await world.poll(told.reference, mine) == answer


async def test_a_passphrase_is_brought_by_tls_for_the_certificates_subject_but_under_no_foreign_identifier() -> None:
    """senderKID, which names the passphrase if nothing else does, is held against the certificate."""
    from tests.test_general_messages import new_world
    from tests.test_revocation_passphrase import KEY_ID, to_certificate

    world = new_world()
    holder = await world.holder(await world.add_secret())
    origin = at(holder.certificate.der)
    message = bare(world, "genm", der.seq(to_certificate()))
    octets = message.der.replace(der.encode_integer(2), der.encode_integer(3), 1)  # envelopedData is for pvno 3
    assert (await ask(world, replace(message, der=octets), origin)).body == "genp"
    kept = await world.store.find_passphrase(KEY_ID)
    assert kept is not None
    assert kept.subject == encode_name("/CN=device")
    assert Certificate.load(holder.certificate.der).subject == kept.subject


async def test_an_rr_that_a_door_has_refused_is_refused_at_every_other_door(world: World) -> None:
    """Who has recorded it must not get it granted elsewhere: its sender believes that nothing has happened."""
    holder = await world.holder(await world.add_secret())
    request = world.rev_request(holder, rev_details(holder.certificate, 1))
    refused = await world.ask(request, holder, Origin("a", Door("http"), operation=OPERATIONS["certification"]))
    assert refused.status()[2] == {"badRequest"}
    assert (await world.ask(request, holder)).envelope.der == refused.envelope.der
    assert (await world.record(holder)).state is CertificateState.CONFIRMED


async def test_an_rr_that_was_granted_gets_its_answer_again_at_a_door_that_takes_none(world: World) -> None:
    holder = await world.holder(await world.add_secret())
    request = world.rev_request(holder, rev_details(holder.certificate, 1))
    granted = await world.ask(request, holder)
    assert granted.outcomes() == ["accepted"]
    again = await world.ask(request, holder, Origin("a", Door("tcp", bodies=frozenset({"cr"}))))
    assert again.envelope.der == granted.envelope.der
