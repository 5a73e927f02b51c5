"""Two thousand spoilt messages about keys that do not sign: encrCert, popdecc and popdecr, agreeMAC.

Nobody gets a certificate for a key that was challenged without the integer of its challenge in the message, none that
was sent encrypted is confirmed without its hash, and a MAC by key agreement is right or there is nothing.
The seed is fixed, as in test_mutations.py, and so is how messages are spoilt.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, KeyAndCertificate
from cmpd.client.messages import Template, cert_hash, cert_request, cert_status
from cmpd.config import EnrolmentConfig
from cmpd.records import CertificateState
from tests.hostile import craft
from tests.hostile.corpus import Corpus
from tests.hostile.craft import Draft
from tests.hostile.mutate import VALUES, mutate
from tests.hostile.test_mutations import read, spoil, watching
from tests.pops import KEYS, encrypting_usage, spki
from tests.test_pop_challenge import popdecr, rands
from tests.test_pop_encrcert import decrypted
from tests.world import World

ROUNDS = 5
MESSAGES = 400  # a round
REQUESTS = (0xA0, 0xA2)  # ir, cr
FRESH = 40  # after so many all transactions are new ones
NAME = encode_name("/O=Test/CN=device")


@dataclass
class Source:
    """`integers`: DER of the integer by DER of the key that it was encrypted to. `hashes`: certHash by certificate."""

    corpus: Corpus = field(default_factory=lambda: Corpus([], set(), []))
    integers: dict[bytes, bytes] = field(default_factory=dict)
    hashes: dict[bytes, bytes] = field(default_factory=dict)
    agreed: set[bytes] = field(default_factory=set)

    def add(self, request: Any) -> None:
        self.corpus.messages.append((request.der, request.protector))


def template(key: Any, kind: str, proof: str | None, **fields: Any) -> Template:
    return Template(key, NAME, (encrypting_usage(kind),), proof=proof, **fields)


async def make(world: World, credentials: list[Credential], source: Source) -> None:
    """Fresh messages of each kind; the keys that were asked for before stay known."""
    source.corpus.messages.clear()
    assert world.agreement is not None
    for credential in credentials:
        body = "cr" if isinstance(credential, KeyAndCertificate) else "ir"
        for kind, pvno in (("x25519", 3), ("mlkem768", 3), ("p256", 3), ("rsa", 3), ("rsa", 2)):
            key = KEYS[kind]()
            request = cert_request(body, [template(key, kind, "encrCert")], credential, world.env, pvno=pvno)
            seen = await world.ask(request, credential)
            certificate = decrypted(seen, key)
            source.hashes[certificate.der] = cert_hash(certificate)
            status = der.seq(cert_status(certificate, 0))
            source.add(request)
            source.add(world.follow(request, seen, "certConf", status, pvno=pvno))
            if kind == "rsa":
                continue  # one key for all of them: it is no evidence
            key = KEYS[kind]()
            request = cert_request(body, [template(key, kind, "challengeResp")], credential, world.env)
            seen = await world.ask(request, credential)
            [(integer, _)] = rands(seen, {0: key})
            source.integers[spki(key)] = der.encode_integer(integer)
            source.add(request)
            source.add(popdecr(world, request, seen, integer))
            source.add(popdecr(world, request, seen, integer ^ 1))
            source.add(world.follow(request, seen, "popdecc", seen.envelope.body, pvno=3))
        key = KEYS["x448"]()
        one = template(key, "x448", None, agreement=Certificate.load(world.agreement.certificate))
        request = cert_request(body, [one], credential, world.env)
        source.agreed.add(spki(key))
        source.add(request)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_spoilt_message_gets_a_certificate_for_a_key_that_was_not_shown(seed: int) -> None:
    with watching() as watch:
        told, new = asyncio.run(_round(seed))
    assert not watch.found
    assert new > 20  # some get through, or this shows nothing
    assert {"ip", "popdecc", "pkiconf", "error"} <= told


async def _round(seed: int) -> tuple[set[str], int]:
    rng = random.Random(4211 + seed)
    world = World(
        enrolment=EnrolmentConfig(certificate_holder_may_ask_for="any"), window=None, agreement_key=KEYS["x448"]()
    )
    secret = await world.add_secret(subject="/O=Test/CN=device")
    credentials = [secret, await world.holder(secret, "/O=Test/CN=device")]
    source, told, new = Source(), set(), 0
    for i in range(MESSAGES):
        if i % FRESH == 0:
            await make(world, credentials, source)
        octets = _spoil(rng, source.corpus)
        before = craft.held(world)
        answer = await world.respond(octets)
        if answer is None:
            assert 0xAF <= craft.children(octets)[1][0] <= 0xB3
            continue
        envelope = read(answer)
        told.add(envelope.body_name)
        after = craft.held(world)
        if after != before:
            assert craft.is_protected(octets, [secret.secret], [credentials[1].certificate.der]), octets.hex()
        for serial in after.moved(before):
            _check(octets, after.certificates[serial], before.certificates.get(serial), source)
            new += 1
        assert await world.respond(octets) is not None
        assert craft.held(world) == after  # nothing happens twice
    craft.check_store(world)
    return told, new


def _spoil(rng: random.Random, corpus: Corpus) -> bytes:
    """As everything is spoilt, or in the body alone and in its transaction; a request in a new one. Some stay right."""
    if rng.random() < 0.3:
        return spoil(rng, corpus, protected=0.3)
    (octets, protector), (other, _) = rng.choice(corpus.messages), rng.choice(corpus.messages)
    header, body, *_ = craft.children(octets)
    if body[0] in REQUESTS:
        header, *_ = craft.children(
            Draft.of(octets).set("transactionID", der.encode_octets(rng.randbytes(16))).seal(protector)
        )
    if rng.random() < 0.85:
        body = mutate(rng, body, other, VALUES)
    return craft.assemble(header + body, protector.compute(der.seq(header, body)), protector.extra_certs)


def _check(octets: bytes, record: Any, earlier: Any, source: Source) -> None:
    """What a message has done to a certificate is what it has shown."""
    if earlier is None:
        challenged = [integer for key, integer in source.integers.items() if key in record.der]
        assert all(integer in octets for integer in challenged), octets.hex()
        if record.state is CertificateState.CONFIRMED and not challenged:
            assert any(key[1:] in octets and key in record.der for key in source.agreed), octets.hex()
    elif record.state is CertificateState.CONFIRMED:
        assert source.hashes[record.der] in octets, octets.hex()
    else:
        assert record.state is CertificateState.REVOKED
