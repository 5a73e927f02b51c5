"""Keys that certificates of different entities or subjects have in common: a line in the log, whatever is allowed."""

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.asn1.signing import signature_algorithm
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.messages import Template, cert_request, protect
from cmpd.config_profiles import ProfileConfig
from cmpd.store.memory import MemoryStore
from cmpd.store.queries import _SHARING_KEY
from cmpd.store.sqlite import SqliteStore
from tests.test_algorithm_matrix import private_key
from tests.world import Certificate, Seen, World


async def ask(world: World, who: Any, key: Any, subject: str = "/CN=device", body: str = "ir", **wish: Any) -> Seen:
    template = Template(key, encode_name(subject), **wish)
    return await world.ask(cert_request(body, [template], who, world.env, implicit_confirm=True), who)


def world_with(sharing: str = "any") -> World:
    return World(profiles={"default": ProfileConfig(key_sharing=sharing)})


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the log about shared keys, which are warnings of the audit; and none of them from now on."""
    found = [record for record in caplog.records if record.getMessage().startswith("key shared")]
    assert {(record.name, record.levelno) for record in found} <= {("cmpd.audit", logging.WARNING)}
    caplog.clear()
    return [record.getMessage() for record in found]


def serial(seen: Seen) -> str:
    number = seen.certificate().serial
    return number.to_bytes(number.bit_length() // 8 + 1, "big").hex()


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
@pytest.mark.parametrize("sharing", ["any", "logged"])
async def test_a_key_of_two_entities_is_told_with_both_certificates(
    sharing: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = world_with(sharing)
    one, two = await world.add_secret("one"), await world.add_secret("two")
    first = await ask(world, one, private_key(kind), "/CN=first")
    assert told(caplog) == []
    second = await ask(world, two, private_key(kind), "/CN=second")
    assert second.status()[0] == 0
    lines = told(caplog)
    assert len(lines) == (1 if "rsa" in kind or sharing == "logged" else 0)
    for line in lines:
        assert f"serial={serial(second)} subject='CN=second' entity='two' with=serial={serial(first)}" in line
        assert "entity='one'" in line


async def test_the_same_entity_may_renew_its_certificate_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    world = World(profiles={"default": ProfileConfig(key_sharing="logged", allow_key_reuse=True)})
    secret, key = await world.add_secret(), private_key("p256")
    first = await ask(world, secret, key)
    await ask(world, secret, key)
    own = KeyAndCertificate(key, first.certificate(), (Certificate.load(world.root),))
    assert (await ask(world, own, key, body="kur", replaces=first.certificate())).status()[0] == 0
    assert told(caplog) == []
    await ask(world, secret, key, "/CN=another")
    assert len(told(caplog)) == 1


async def test_an_ra_that_asks_for_two_with_one_key_is_told(caplog: pytest.LogCaptureFixture) -> None:
    world = world_with()
    registrar = await world.add_secret("ra", is_ra=True)
    await ask(world, registrar, private_key("rsa2048"), "/CN=one")
    await ask(world, registrar, private_key("rsa2048"), "/CN=two")
    (line,) = told(caplog)
    assert "subject='CN=two' entity='ra' with=serial=" in line


async def test_one_modulus_with_two_exponents_is_one_key(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever knows one private exponent can factor the modulus."""
    world = world_with()
    one, two = await world.add_secret("one"), await world.add_secret("two")
    numbers = private_key("rsa2048").private_numbers()
    phi = (numbers.p - 1) * (numbers.q - 1)
    exponent = next(e for e in (65539, 65543, 65551) if phi % e)
    d = pow(exponent, -1, phi)
    public = rsa.RSAPublicNumbers(exponent, numbers.public_numbers.n)
    other = rsa.RSAPrivateNumbers(
        numbers.p, numbers.q, d, d % (numbers.p - 1), d % (numbers.q - 1), numbers.iqmp, public
    ).private_key()
    await ask(world, one, private_key("rsa2048"), "/CN=one")
    await ask(world, two, other, "/CN=two")
    assert len(told(caplog)) == 1


async def compressed(world: World, secret: SharedSecret, subject: str) -> Seen:
    """An ir for the P-256 key of the matrix, with its point compressed."""
    key = private_key("p256")
    numbers = key.public_key().public_numbers()
    info = der.seq(
        der.seq(der.encode_oid("1.2.840.10045.2.1"), der.encode_oid("1.2.840.10045.3.1.7")),
        der.encode_bits(bytes((2 + (numbers.y & 1),)) + numbers.x.to_bytes(32, "big")),
    )
    fields = der.explicit(5, encode_name(subject)) + der.tlv(0xA6, info[der.header(info, 0, len(info))[1] :])
    asked = der.seq(der.encode_integer(0), der.seq(fields))
    algorithm = signature_algorithm(key)
    proof = der.tlv(0xA1, algorithm.identifier + der.encode_bits(algorithm.sign(key, asked)))
    return await world.ask(
        protect("ir", der.seq(der.seq(asked, proof)), secret.protector(world.env), world.env), secret
    )


async def test_a_compressed_point_does_not_get_round_the_rule() -> None:
    world = world_with("none")
    one, two = await world.add_secret("one"), await world.add_secret("two")
    assert (await ask(world, one, private_key("p256"), "/CN=one")).status()[0] == 0
    seen = await compressed(world, two, "/CN=two")
    assert (seen.status()[0], seen.status()[2]) == (2, {"badCertTemplate"})
    assert "have that of another certificate" in seen.status()[1]


async def test_a_modulus_that_is_only_remembered_is_in_nobodys_way(caplog: pytest.LogCaptureFixture) -> None:
    world = World(profiles={"default": ProfileConfig(), "alone": ProfileConfig(key_sharing="none")})
    one = await world.add_secret("one")
    two = await world.add_secret("two", profiles=("alone",))
    assert (await ask(world, one, private_key("rsa2048"), "/CN=one")).status()[0] == 0
    assert (await ask(world, two, private_key("rsa2048"), "/CN=two")).status()[0] == 0
    assert len(told(caplog)) == 1
    assert (await ask(world, one, private_key("rsa2048"), "/CN=three")).status()[0] == 0
    (line,) = told(caplog)
    assert line.count("serial=") == 3
    three = await world.add_secret("three", profiles=("alone",))
    refused = await ask(world, three, private_key("rsa2048"), "/CN=four")
    assert refused.status()[2] == {"badCertTemplate"}
    assert told(caplog) == []


async def test_ten_others_are_named_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    world = world_with("logged")
    registrar = await world.add_secret("ra", is_ra=True)
    for number in range(12):
        await ask(world, registrar, private_key("p256"), f"/CN={number}")
    assert [line.count("serial=") for line in told(caplog)] == [*range(2, 12), 11]


async def test_both_stores_find_the_same_and_by_an_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sqlite = await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    try:
        for store in (MemoryStore(), sqlite):
            world = World(store=store)
            one, two = await world.add_secret("one"), await world.add_secret("two")
            first = await ask(world, one, private_key("rsa2048"), "/CN=one")
            await ask(world, two, private_key("rsa2048"), "/CN=two")
            (line,) = told(caplog)
            assert f"with=serial={serial(first)} entity='one'" in line
    finally:
        await sqlite.close()
    with sqlite3.connect(tmp_path / "cmpd.db") as database:
        plan = [row[3] for row in database.execute("EXPLAIN QUERY PLAN " + _SHARING_KEY, (b"", b"", 1))]
    database.close()
    assert [step for step in plan if step.startswith("SCAN") and "CONSTANT" not in step] == []
