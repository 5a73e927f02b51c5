"""DHBasedMac (RFC 9810 section 5.1.3.2): requests and answers under a key that two certificates agree on."""

from dataclasses import replace

import pytest

from cmpd.asn1 import der
from cmpd.client.messages import extension, protect
from cmpd.config import ProfileConfig
from cmpd.errors import BadRequest
from cmpd.message import NULL_DN, decode
from cmpd.origin import Door, Origin, Waiting
from cmpd.protection import dhbm
from cmpd.protection.agreed import mac_protector
from cmpd.protection.answers import error_message
from cmpd.protection.base import ProtectionPolicy
from cmpd.records import CertificateState
from cmpd.store.base import Store
from tests.kems import (
    Holder,
    by_dh,
    by_kem,
    confirmation,
    dh_protector,
    holder,
    kem_info,
    request_by,
    shared_value,
    template,
)
from tests.pops import KEYS
from tests.world import Seen, World, rev_details

STRICT = Origin("strict", Door("tcp", strict=True))
AGREES = ("p256", "p384", "p521", "x25519", "x448")


def serving(kind: str = "p256", **fields) -> World:
    return World(agreement_key=KEYS[kind](), **fields)


def server(world: World) -> bytes:
    """The agreement certificate (DER)."""
    assert world.agreement is not None
    return world.agreement.certificate


def refused(world: World, seen: Seen | None, failure: str, text: str = "") -> None:
    """By a signature: nobody has shown a key."""
    assert seen is not None
    assert (seen.body, seen.status()[2]) == ("error", {failure}), seen.status()
    assert text in seen.status()[1]
    assert seen.envelope.header.protection_alg == world.signer.algorithm


@pytest.mark.parametrize("kind", AGREES)
async def test_request_and_answer_are_protected_by_what_both_keys_agree_on(kind: str, store: Store) -> None:
    world = serving(kind, store=store)
    who = await holder(world, kind)
    request = request_by(world, dh_protector(who, server(world)), implicit_confirm=False)
    seen = await world.send(request.der, STRICT)
    by_dh(seen, who, server(world))
    assert seen.status()[0] == 0, seen.status()
    world.restart()
    assert (await world.send(request.der, STRICT)).envelope.der == seen.envelope.der
    conf = confirmation(world, request, seen)
    pkiconf = await world.send(conf.der, STRICT)
    by_dh(pkiconf, who, server(world))
    assert pkiconf.body == "pkiconf"
    assert await world.states() == [CertificateState.CONFIRMED] * 2


@pytest.mark.parametrize(("owf", "name"), [("sha512", "sha256"), ("sha256", "sha512"), ("sha256", "sha1")])
async def test_the_answer_has_the_algorithms_of_the_request(owf: str, name: str) -> None:
    world = serving()
    who = await holder(world, "p256")
    protector = dh_protector(who, server(world), owf=owf, name=name)
    seen = await world.send(request_by(world, protector).der)
    by_dh(seen, who, server(world))
    assert seen.envelope.header.protection_alg == protector.algorithm


async def test_aes_gmac_has_a_new_nonce_in_each_answer() -> None:
    world = serving("x25519")
    who = await holder(world, "x25519")
    mac = dhbm.build(mac="aes128-gmac", random=world.env.random)
    key = mac.derive(shared_value(who.key, server(world)))
    protector = who.protector(mac.algorithm, lambda octets: mac.compute(key, octets))
    request = request_by(world, protector, implicit_confirm=False)
    seen = await world.send(request.der)
    assert seen is not None
    assert seen.status()[0] == 0, seen.status()
    repeated = await world.send(request.der)
    assert repeated is not None
    other = await world.send(request_by(world, protector, "cr").der)
    assert other is not None
    algorithms = [one.envelope.header.protection_alg for one in (seen, other)]
    assert len({mac.algorithm, *algorithms}) == 3
    assert repeated.envelope.der == seen.envelope.der
    for one in (seen, other):
        answering = dhbm.parse(one.envelope.header.protection_alg or b"", ProtectionPolicy())
        assert answering.compute(key, one.envelope.protected) == one.envelope.protection


async def test_a_second_answer_to_the_same_request_has_another_nonce() -> None:
    """An answer that could not be kept is followed by an error, and the first one may have been seen."""
    world = World()
    mac = dhbm.build(mac="aes256-gmac", random=world.env.random)
    protector = mac_protector(mac, bytes(32), NULL_DN, None, (), world.env.random)
    made = [decode(await error_message(BadRequest("x: y"), None, protector, world.env)).header for _ in range(3)]
    assert len({mac.algorithm, *(header.protection_alg for header in made)}) == 4


async def test_a_kur_is_proven_by_the_certificate_that_it_updates() -> None:
    world = serving("x25519")
    who = await holder(world, "x25519")
    request = request_by(world, dh_protector(who, server(world)), "kur", template(replaces=who.certificate))
    seen = await world.send(request.der, STRICT)
    by_dh(seen, who, server(world))
    assert (seen.body, seen.status()[0]) == ("kup", 0), seen.status()


async def test_an_rr_revokes_the_certificate_and_a_repeat_gets_the_same_octets() -> None:
    world = serving()
    who = await holder(world, "p256")
    protector = dh_protector(who, server(world))
    request = protect("rr", der.seq(rev_details(who.certificate, 1)), protector, world.env)
    seen = await world.send(request.der, STRICT)
    by_dh(seen, who, server(world))
    assert seen.outcomes() == ["accepted"]
    assert (await world.send(request.der, STRICT)).envelope.der == seen.envelope.der
    refused(world, await world.send(request_by(world, protector).der), "signerNotTrusted", "revoked")


async def test_a_genm_is_answered() -> None:
    world = serving("x448")
    who = await holder(world, "x448")
    crl = der.seq(der.seq(der.encode_oid("1.3.6.1.5.5.7.4.6")))
    seen = await world.send(protect("genm", crl, dh_protector(who, server(world)), world.env).der)
    by_dh(seen, who, server(world))
    assert seen.body == "genp"


async def test_the_requester_is_the_holder_of_the_certificate_and_faults_are_told_under_the_mac() -> None:
    world = serving()
    who = await holder(world, "p256")
    request = request_by(world, dh_protector(who, server(world)), "cr", template("/CN=somebody else"))
    seen = await world.send(request.der)
    by_dh(seen, who, server(world))
    assert seen.status()[2] == {"notAuthorized"}
    seen = await world.send(request_by(world, dh_protector(who, server(world)), recipient=b"\x82\x01x").der)
    by_dh(seen, who, server(world))
    nested = protect("nested", der.seq(), dh_protector(who, server(world)), world.env)
    seen = await world.send(nested.der)
    by_dh(seen, who, server(world))
    assert seen.status()[2] == {"badRequest"}


async def test_certconf_may_leave_the_certificate_out_but_has_to_be_of_the_same_holder() -> None:
    world = serving()
    who, other = await holder(world, "p256"), await holder(world, "p256", subject="/CN=other")
    request = request_by(world, dh_protector(who, server(world)), implicit_confirm=False)
    seen = await world.send(request.der)
    conf = confirmation(world, request, seen)
    foreign = replace(request, protector=dh_protector(other, server(world)))
    answer = await world.send(confirmation(world, foreign, seen).der)
    by_dh(answer, other, server(world))
    assert answer.status()[2] == {"notAuthorized"}
    bare = replace(request, protector=replace(request.protector, extra_certs=()))
    conf = confirmation(world, bare, seen)
    by_dh(await world.send(conf.der, STRICT), who, server(world))
    assert await world.states() == [CertificateState.CONFIRMED] * 3


@pytest.mark.parametrize("first", ["signature", "DHBasedMac"])
async def test_a_key_that_may_sign_and_agree_does_one_of_it_in_a_transaction(first: str) -> None:
    """RFC 9483 section 3.2: the same kind of protection for all messages."""
    world = serving()
    usage = extension("2.5.29.15", der.encode_named_bits(0, 4), critical=True)
    signer = await world.holder(await world.add_secret(), "/CN=holder", extensions=(usage,))
    who = Holder(signer.key, "p256", signer.certificate)
    ways = {"signature": signer.protector(world.env), "DHBasedMac": dh_protector(who, server(world))}
    request = request_by(world, ways.pop(first), implicit_confirm=False)
    [(second, other)] = ways.items()
    seen = await world.send(request.der)
    assert seen is not None
    assert seen.status()[0] == 0, seen.status()
    answer = await world.send(confirmation(world, replace(request, protector=other), seen).der)
    assert answer is not None
    assert (answer.body, answer.status()[2]) == ("error", {"wrongIntegrity"})
    assert f"want {_WORDS[first]} as for the first request, have {_WORDS[second]}" in answer.status()[1]
    answer = await world.send(confirmation(world, request, seen).der)
    assert answer is not None
    assert answer.body == "pkiconf"


_WORDS = {"signature": "a signature", "DHBasedMac": "DHBasedMac"}


async def test_answers_go_by_kem_if_the_request_brings_a_ciphertext() -> None:
    world = serving(kem_key=KEYS["mlkem768"]())
    assert world.kem is not None
    who = await holder(world, "p256")
    info, secret = kem_info(world.kem.certificate)
    protector = replace(dh_protector(who, server(world)), info=(info,))
    request = request_by(world, protector, implicit_confirm=False)
    seen = await world.send(request.der)
    by_kem(seen, world.kem.certificate, secret)
    bare = replace(request, protector=dh_protector(who, server(world)))
    by_kem(await world.send(confirmation(world, bare, seen).der), world.kem.certificate, secret)


async def test_where_nothing_is_signed_an_answer_by_dhbasedmac_is_as_good() -> None:
    world = serving(kem_key=KEYS["mlkem768"](), kem_only=True)
    who = await holder(world, "p256")
    by_dh(await world.send(request_by(world, dh_protector(who, server(world))).der), who, server(world))


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_a_server_without_key_says_so() -> None:
    world = World()
    who = await holder(world, "p256")
    request = request_by(world, dh_protector(who, server(serving())))
    refused(world, await world.send(request.der), "badAlg", "this server has no key")


@pytest.mark.parametrize("kind", ["p384", "x25519"])
async def test_a_key_of_another_kind_agrees_on_nothing(kind: str) -> None:
    world, fits = serving(), serving(kind)
    who = await holder(world, kind)
    request = request_by(world, dh_protector(who, server(fits)))
    refused(world, await world.send(request.der), "badAlg", "want a key of the server's kind, p256")


@pytest.mark.parametrize("spoil", ["octets", "server", "owf", "mac", "sender", "senderKID", "truncated"])
async def test_a_wrong_mac_or_name_is_told_so_by_a_signature_and_changes_nothing(spoil: str) -> None:
    world = serving()
    who = await holder(world, "p256")
    right = dh_protector(who, server(world))
    compute = right.compute
    request = request_by(
        world,
        {
            "octets": replace(right, compute=lambda octets: compute(octets + b"x")),
            "server": dh_protector(who, server(serving())),
            "owf": replace(right, algorithm=dh_protector(who, server(world), owf="sha512").algorithm),
            "mac": replace(right, algorithm=dh_protector(who, server(world), name="sha512").algorithm),
            "sender": replace(right, sender=world.signer.sender),
            "senderKID": replace(right, sender_kid=b"another"),
            "truncated": replace(right, compute=lambda octets: compute(octets)[:16]),
        }[spoil],
    )
    refused(world, await world.send(request.der), "badMessageCheck")
    assert await world.store.find_transaction(request.transaction_id) is None
    assert len(await world.store.list_certificates()) == 1


async def test_a_reflected_answer_is_no_request() -> None:
    """The key is the same in both directions; the sender is not."""
    world = serving()
    who = await holder(world, "p256")
    seen = await world.send(request_by(world, dh_protector(who, server(world))).der)
    assert seen is not None
    again = await world.send(seen.envelope.der)
    assert again is not None
    assert again.body == "error"
    assert again.status()[2] == {"signerNotTrusted"}


async def test_the_certificate_has_to_be_one_to_agree_with() -> None:
    world = serving()
    secret = await world.add_secret()
    usage = extension("2.5.29.15", der.encode_named_bits(0), critical=True)
    signer = await world.holder(secret, extensions=(usage,))
    who = Holder(signer.key, "p256", signer.certificate)
    request = request_by(world, dh_protector(who, server(world)))
    refused(world, await world.send(request.der), "badMessageCheck", "want keyAgreement in keyUsage")


async def test_a_certificate_to_agree_with_does_not_sign() -> None:
    world = serving()
    who = await holder(world, "x25519")
    right = dh_protector(Holder(KEYS["p256"](), "p256", who.certificate), server(world))
    signature = replace(right, algorithm=world.signer.algorithm)
    refused(world, await world.send(request_by(world, signature).der), "badMessageCheck", "want digitalSignature")


async def test_a_stranger_is_not_trusted() -> None:
    world, other = serving(), serving()
    who = await holder(other, "p256")
    refused(world, await world.send(request_by(world, dh_protector(who, server(world))).der), "signerNotTrusted")


async def test_an_rsa_key_agrees_on_nothing() -> None:
    world = serving()
    who = await holder(world, "rsa")
    own = replace(who, key=KEYS["p256"]())
    request = request_by(world, dh_protector(own, server(world)))
    refused(world, await world.send(request.der), "badMessageCheck", "want keyAgreement in keyUsage")


async def test_sha1_is_a_matter_of_policy() -> None:
    world = serving(policy=ProtectionPolicy(allow_sha1_mac=False))
    who = await holder(world, "p256")
    request = request_by(world, dh_protector(who, server(world), name="sha1"))
    refused(world, await world.send(request.der), "badAlg", "SHA-1 is not accepted here")


# --- requests that wait for an operator -------------------------------------------------------------------------------


async def test_a_request_that_waited_is_verified_anew() -> None:
    world = serving()
    who = await holder(world, "p256")
    world.profiles = {"default": ProfileConfig(approval=True)}
    world.restart()
    request = request_by(world, dh_protector(who, server(world)))
    origin = replace(STRICT, polls=True)
    assert isinstance(await world.respond(request.der, origin), Waiting)
    [waiting] = await world.waiting()
    world.restart()
    await world.approve(waiting.reference)
    answer = await world.poll(waiting.reference, origin)
    assert isinstance(answer, bytes)
    seen = world.read(answer)
    by_dh(seen, who, server(world))
    assert (seen.body, seen.status()[0]) == ("ip", 0)
