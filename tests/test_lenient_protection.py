"""What a lenient door takes of old clients' protection: PasswordBasedMac "as before", and a certificate left out."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate, Protector, SharedSecret
from cmpd.client.messages import Request, cert_status, protect
from cmpd.config import ProfileConfig
from cmpd.origin import Door, Origin
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.pbm import parse
from cmpd.records import CertificateState
from cmpd.store.base import Store
from cmpd.strictness import RULES
from tests import chains
from tests.kems import request_by, template
from tests.world import Seen, World

STRICT = Origin("strict", Door("tcp", strict=True))
LENIENT = Origin("lenient", Door("tcp"))
PBM = der.encode_oid("1.2.840.113533.7.66.13")
AS_BEFORE = [der.seq(PBM), der.seq(PBM, der.NULL_TLV)]
WITHOUT = "the parameters of PasswordBasedMac are there"
MISSING = "the protection certificate is in extraCerts"


def refused(seen: Seen | None, rule: str) -> None:
    assert seen is not None
    assert seen.body == "error"
    assert seen.status()[2] == {RULES[rule].fault.failure}
    assert f"(RFC 9483 section {RULES[rule].section})" in seen.status()[1]


# --- PasswordBasedMac -------------------------------------------------------------------------------------------------


async def begun(world: World, secret: SharedSecret, origin: Origin) -> tuple[Request, Seen]:
    request = request_by(world, secret.protector(world.env), implicit_confirm=False)
    seen = await world.send(request.der, origin)
    assert seen is not None
    return request, seen


def confirmed(world: World, request: Request, seen: Seen, algorithm: bytes) -> Request:
    """The certConf under the same key, with this protectionAlg."""
    short = replace(request, protector=replace(request.protector, algorithm=algorithm, renewed=None))
    return world.follow(short, seen, "certConf", der.seq(cert_status(seen.certificate(), 0)))


@pytest.mark.parametrize("algorithm", AS_BEFORE, ids=["absent", "NULL"])
async def test_a_mac_without_parameters_has_those_of_the_first_message(algorithm: bytes, store: Store) -> None:
    world = World(store=store)
    secret = await world.add_secret()
    request, seen = await begun(world, secret, LENIENT)
    world.restart()
    conf = confirmed(world, request, seen, algorithm)
    answer = await world.send(conf.der, LENIENT)
    assert answer is not None
    assert answer.body == "pkiconf"
    said = answer.envelope.header.protection_alg
    assert said == request.protector.algorithm  # whole: the client need not remember them
    mac = parse(said, ProtectionPolicy())
    assert mac.compute(mac.derive(b"secret"), answer.envelope.protected) == answer.envelope.protection
    assert await world.states() == [CertificateState.CONFIRMED]
    assert (await world.send(conf.der, LENIENT)).envelope.der == answer.envelope.der


@pytest.mark.parametrize("algorithm", AS_BEFORE, ids=["absent", "NULL"])
@pytest.mark.parametrize("first", [STRICT, LENIENT], ids=["strict", "lenient"])
async def test_a_strict_door_wants_the_parameters(algorithm: bytes, first: Origin) -> None:
    world = World()
    request, seen = await begun(world, await world.add_secret(), first)
    answer = await world.send(confirmed(world, request, seen, algorithm).der, STRICT)
    assert answer is not None
    assert (answer.body, answer.status()[2]) == ("error", {"badDataFormat"})
    if first is LENIENT:
        refused(answer, WITHOUT)
    assert await world.states() == [CertificateState.ISSUED]


@pytest.mark.parametrize("algorithm", AS_BEFORE, ids=["absent", "NULL"])
async def test_a_first_message_has_no_before(algorithm: bytes) -> None:
    world = World()
    secret = await world.add_secret()
    request = request_by(world, replace(secret.protector(world.env), algorithm=algorithm))
    answer = await world.send(request.der, LENIENT)
    assert answer is not None
    assert (answer.body, answer.status()[2]) == ("error", {"badDataFormat"})


async def test_the_mac_has_to_be_right_all_the_same() -> None:
    world = World()
    request, seen = await begun(world, await world.add_secret(), LENIENT)
    compute = request.protector.compute
    wrong = replace(request, protector=replace(request.protector, compute=lambda octets: compute(octets + b"x")))
    answer = await world.send(confirmed(world, wrong, seen, AS_BEFORE[1]).der, LENIENT)
    assert answer is not None
    assert answer.status()[2] == {"badMessageCheck"}
    assert await world.states() == [CertificateState.ISSUED]


async def test_a_pollreq_may_do_so_too() -> None:
    world = World(profiles={"default": ProfileConfig(approval=True)})
    request, seen = await begun(world, await world.add_secret(), LENIENT)
    short = replace(request, protector=replace(request.protector, algorithm=AS_BEFORE[1]))
    answer = await world.send(world.follow(short, seen, "pollReq", der.seq(der.seq(der.encode_integer(0)))).der)
    assert answer is not None
    assert answer.body == "pollRep"


@pytest.mark.parametrize(("mac", "inner"), [("pbmac1", "sha256"), ("pbm", "aes128-gmac")])
async def test_nothing_is_kept_of_other_macs_or_of_a_nonce(mac: str, inner: str) -> None:
    world = World()
    secret = replace(await world.add_secret(), mac=mac, inner=inner)
    request, seen = await begun(world, secret, LENIENT)
    record = await world.store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.mac_parameters is None
    answer = await world.send(confirmed(world, request, seen, AS_BEFORE[1]).der, LENIENT)
    assert answer is not None
    assert answer.status()[2] == {"badDataFormat"}


async def test_the_parameters_are_forgotten_with_the_answers(store: Store) -> None:
    world = World(store=store)
    request, seen = await begun(world, await world.add_secret(), LENIENT)
    await world.send(confirmed(world, request, seen, AS_BEFORE[0]).der, LENIENT)
    record = await store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.mac_parameters == request.protector.algorithm
    assert await store.purge(int(world.clock.now) + 1, 10) == 1
    record = await store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.mac_parameters is None


# --- a protection certificate that is left out ------------------------------------------------------------------------


def registered(name: str = "pump") -> KeyAndCertificate:
    node = chains.leaf(None, name)
    return KeyAndCertificate(node.key, Certificate.load(node.der))


def bare(world: World, who: KeyAndCertificate, **change) -> Protector:
    return replace(who.protector(world.env), extra_certs=(), **change)


@pytest.mark.parametrize("kid", [True, False])
@pytest.mark.parametrize("others", [True, False])
async def test_a_registered_certificate_need_not_come_along(kid: bool, others: bool) -> None:
    """As OpenSSL does with a self-signed one."""
    world, who = World(), registered()
    await world.add_certificate("pump", who.certificate.der)
    await world.add_certificate("other", registered("pump" if kid else "other").certificate.der)
    protector = bare(world, who)
    if not kid:
        protector = replace(protector, sender_kid=None)
    if others:
        protector = replace(protector, extra_certs=(chains.issue(None, "some CA").der,))
    request = request_by(world, protector, "ir", template("/CN=pump"))
    seen = await world.send(request.der, LENIENT)
    assert seen is not None
    assert seen.body == "ip", seen.status()
    refused_at_strict = await world.send(request.der, STRICT)
    assert refused_at_strict is not None
    assert refused_at_strict.status()[2] == {"signerNotTrusted"}


async def test_a_strict_door_wants_the_certificate() -> None:
    world, who = World(), registered()
    await world.add_certificate("pump", who.certificate.der)
    refused(await world.send(request_by(world, bare(world, who)).der, STRICT), MISSING)


@pytest.mark.parametrize("who", ["nobody", "disabled", "another key", "another senderKID", "issued here"])
async def test_who_is_not_found_is_not_trusted(who: str) -> None:
    world, one = World(), registered()
    if who != "nobody":
        await world.add_certificate("pump", one.certificate.der)
    protector = bare(world, one)
    failure = "signerNotTrusted"
    if who == "disabled":
        await world.store.disable_entity("pump")
    if who == "another senderKID":
        protector = replace(protector, sender_kid=b"another")
    if who == "another key":
        stranger = ec.generate_private_key(ec.SECP256R1())
        protector = replace(protector, compute=lambda octets: stranger.sign(octets, ec.ECDSA(chains.hashes.SHA256())))
        failure = "badMessageCheck"
    if who == "issued here":
        protector = bare(world, await world.holder(await world.add_secret()))
    answer = await world.send(protect("ir", b"\x30\x00", protector, world.env).der, LENIENT)
    assert answer is not None
    assert (answer.body, answer.status()[2]) == ("error", {failure})
