"""Spoilt messages of the MACs that keys make: the genm that asks for a KEM ciphertext, KemBasedMac and DHBasedMac.

Each is told something, who has not made a right MAC gets and changes nothing, and nothing happens twice. Whether a MAC
is right is judged by code of the tests. Most are protected again after they were spoilt. A ciphertext is for one
request, so each KemBasedMac has one of its own. The seeds are fixed.
"""

import asyncio
import hashlib
import hmac
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from cmpd.asn1 import der
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Protector, SharedSecret
from cmpd.client.messages import Request, cert_status, protect
from cmpd.config import EnrolmentConfig
from cmpd.store.memory import MemoryStore
from tests.hostile import craft
from tests.hostile.corpus import entry_details, proofs
from tests.hostile.mutate import VALUES, mutate
from tests.hostile.test_mutations import read, watching
from tests.kems import (
    Holder,
    ask_for_ciphertext,
    dh_protector,
    given,
    holder,
    kem_info,
    kem_key,
    kem_protector,
    request_by,
    shared_value,
    template,
)
from tests.pops import KEYS
from tests.world import World, rev_details

ROUNDS = 3
MESSAGES = 200  # a round
VICTIMS = 12
KINDS = ("genm", "KemBasedMac", "KemBasedMac", "DHBasedMac", "KEM on both sides")
KEM_MAC, DH_MAC = der.encode_oid("1.2.840.113533.7.66.16"), der.encode_oid("1.2.840.113533.7.66.30")


@dataclass
class Parties:
    """A server with keys of both kinds, and two with certificates for theirs.

    `secrets`: those of KEM, by transactionID. `victims`: certificates that the two may revoke. `pops`: what proves
    possession of a key in some request.
    """

    world: World
    kem: Holder
    dh: Holder
    secrets: dict[bytes, bytes] = field(default_factory=dict)
    victims: dict[str, list[Certificate]] = field(default_factory=dict)
    pops: list[bytes] = field(default_factory=list)

    @classmethod
    async def meet(cls) -> "Parties":
        enrolment = EnrolmentConfig(certificate_holder_may_ask_for="any")
        world = World(enrolment=enrolment, window=None, agreement_key=KEYS["x25519"](), kem_key=KEYS["mlkem768"]())
        found = cls(world, await holder(world, "mlkem768", "/CN=kem"), await holder(world, "x25519", "/CN=dh"))
        for name in ("/CN=kem", "/CN=dh"):
            secret = SharedSecret(f"for {name}", b"secret", iterations=100)
            found.victims[name] = [(await world.holder(secret, name)).certificate for _ in range(VICTIMS)]
        return found

    async def request(self, rng: random.Random, kind: str) -> Request:
        """A right one; but for genm its body is any that such a client sends."""
        world, name = self.world, "/CN=dh" if kind == "DHBasedMac" else "/CN=kem"
        if kind == "genm":
            return ask_for_ciphertext(world, self.kem)
        made = self.by_dh() if kind == "DHBasedMac" else await self.by_kem()
        body = rng.choice(("cr", "kur", "rr", "genm", "certConf"))
        info = [kem_info(world.kem.certificate)[0]] if kind == "KEM on both sides" and world.kem else []
        if body == "certConf":
            asked = request_by(world, made, "cr", template(name), implicit_confirm=False)
            self.pops += proofs(asked)
            seen = await world.send(asked.der)
            assert seen is not None
            return world.follow(asked, seen, body, der.seq(cert_status(seen.certificate(), 0)), info=info, pvno=3)
        if body in ("cr", "kur"):
            content = craft.contents(craft.children(request_by(world, made, body, template(name)).der)[1])
        elif body == "rr":
            victim = rng.choice(self.victims[name])
            content = der.seq(rev_details(victim, 4, entry_details(victim.issuer)[1]))
        else:
            content = der.seq(der.seq(der.encode_oid("1.3.6.1.5.5.7.4.2")))
        request = protect(body, content, made, world.env, info=info, pvno=3)
        self.pops += proofs(request)
        return request

    async def by_kem(self) -> Protector:
        asked = ask_for_ciphertext(self.world, self.kem)
        secret = given(await self.world.send(asked.der), self.kem)
        self.secrets[asked.transaction_id] = secret
        return kem_protector(self.kem, secret, asked.transaction_id)

    def by_dh(self) -> Protector:
        assert self.world.agreement is not None
        return dh_protector(self.dh, self.world.agreement.certificate)

    def is_protected(self, octets: bytes) -> bool:
        """Whether a message has a right MAC of one of the two."""
        header, body, *more = craft.children(octets)
        fields = {part[0]: part for part in craft.children(header)}
        if 0xA1 not in fields or 0xA4 not in fields or not more or more[0][0] != 0xA0:
            return False
        oid, *_ = craft.children(craft.children(fields[0xA1])[0])
        part, value = der.seq(header, body), craft.contents(craft.children(more[0])[0])[1:]
        tid = craft.contents(craft.children(fields[0xA4])[0])
        assert self.world.agreement is not None
        if oid == KEM_MAC and tid in self.secrets:
            key = kem_key(self.secrets[tid], tid)
        elif oid == DH_MAC:
            key = hashlib.sha256(shared_value(self.dh.key, self.world.agreement.certificate)).digest()
        else:
            return False
        return hmac.digest(key, part, "sha256") == value


def spoil(rng: random.Random, request: Request, other: bytes) -> bytes:
    """Mostly in body or header with the protection made anew, else anywhere; one in eight is left as it is."""
    if rng.random() < 0.125:
        return request.der
    header, body, *_ = craft.children(request.der)
    chance = rng.random()
    if request.protector.algorithm and chance < 0.7:
        part = header + mutate(rng, body, other, VALUES) if chance < 0.4 else mutate(rng, header + body, other, VALUES)
        return craft.assemble(part, request.protector.compute(der.seq(part)), request.protector.extra_certs)
    return mutate(rng, request.der, other)


def transactions(world: World) -> int:
    assert isinstance(world.store, MemoryStore)
    return len(world.store._tables.transactions)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_spoilt_messages_of_key_macs_have_their_answers_and_get_nothing(seed: int) -> None:
    with watching() as watch:
        changed, told = asyncio.run(_round(seed))
    assert not watch.found
    assert changed > 10  # some get through, or this shows nothing
    assert {"cp", "kup", "rp", "genp", "pkiconf", "error"} <= told


async def _round(seed: int) -> tuple[int, set[str]]:
    rng = random.Random(9045 + seed)
    parties = await Parties.meet()
    world, changed, other, told = parties.world, 0, b"\x30\0", set()
    for number in range(MESSAGES):
        kind = KINDS[number % len(KINDS)]
        request = await parties.request(rng, kind)
        octets, other = spoil(rng, request, other), request.der
        before, known = craft.held(world), transactions(world)
        answer = await world.respond(octets)
        assert answer is None or isinstance(answer, bytes)
        if answer is None:
            assert 0xAF <= craft.children(octets)[1][0] <= 0xB3
            continue
        told.add(read(answer).body_name)
        after = craft.held(world)
        if after != before or transactions(world) != known:
            changed += after != before
            assert parties.is_protected(octets), octets.hex()
        if len(after.certificates) > len(before.certificates):
            assert any(pop in octets for pop in parties.pops), octets.hex()
        assert await world.respond(octets) is not None
        assert craft.held(world) == after  # nothing happens twice
        assert transactions(world) == known or parties.is_protected(octets)
    craft.check_store(world)
    return changed, told


# --- what is asked by nobody in particular ----------------------------------------------------------------------------


def test_no_spoilt_genm_without_protection_is_kept_in_the_database() -> None:
    """Whoever knows a certificate can ask for a ciphertext, as often as he likes."""
    told: set[str] = set()

    async def ask_all() -> Sequence[int]:
        rng = random.Random(1)
        parties = await Parties.meet()
        world, known = parties.world, transactions(parties.world)
        before, other = craft.held(world), b"\x30\0"
        for _ in range(MESSAGES):
            request = ask_for_ciphertext(world, parties.kem)
            answer = await world.respond(spoil(rng, request, other))
            assert isinstance(answer, bytes)
            told.add(read(answer).body_name)
            other = request.der
        assert craft.held(world) == before
        return known, transactions(world)

    with watching() as watch:
        known, now = asyncio.run(ask_all())
    assert known == now
    assert not watch.found
    assert told == {"genp", "error"}
