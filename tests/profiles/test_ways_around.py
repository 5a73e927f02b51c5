"""Ways around a rule: the same thing written otherwise, two at the same time, what ends and what comes back."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.messages import Template, cert_request, cert_status
from cmpd.config import ProfileConfig
from cmpd.errors import BadCertTemplate
from cmpd.name_constraints import Subtrees, constraint_fault
from cmpd.outline import outline
from cmpd.profiles.extensions import encode_locations
from cmpd.requests import Extension
from cmpd.signing.file import FileKey
from cmpd.store.sqlite import SqliteStore
from tests.profiles.support import (
    DAY,
    NOW,
    authority,
    basic_constraints,
    counting_env,
    issue,
    private_key,
    public_key,
    san,
    wish,
)
from tests.profiles.test_rules import CA as CA_RULES
from tests.profiles.test_wiring import UNIQUE, constrained, under
from tests.world import World, rev_details

# --- one name, written otherwise --------------------------------------------------------------------------------------


def holder_of(*names: tuple[str, bytes | str]) -> bytes:
    return wish(ProfileConfig(unique_subject=True), "", extensions=(san(*names),)).claims[0].digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("dns", "a.example")], [("dns", "A.Example")]),
        ([("dns", "a.example")], [("dns", "a.example"), ("dns", "a.example")]),
        ([("dns", "a.example"), ("ip", b"abcd")], [("ip", b"abcd"), ("dns", "A.example")]),
        ([("email", "a@b.example")], [("email", "a@B.example")]),
        ([("uri", "https://a.example/X")], [("uri", "HTTPS://A.example/X")]),
    ],
)
def test_a_holder_with_another_spelling_is_the_same_holder(
    one: list[tuple[str, bytes | str]], other: list[tuple[str, bytes | str]]
) -> None:
    assert holder_of(*one) == holder_of(*other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("dns", "a.example")], [("dns", "b.example")]),
        ([("dns", "a.example")], [("dns", "a.example"), ("dns", "b.example")]),
        ([("email", "a@b.example")], [("email", "A@b.example")]),
        ([("uri", "https://a.example/x")], [("uri", "https://a.example/X")]),
        ([("dns", "a.example")], [("uri", "a.example:1")]),
    ],
)
def test_another_holder_is_another(one: list[tuple[str, bytes | str]], other: list[tuple[str, bytes | str]]) -> None:
    assert holder_of(*one) != holder_of(*other)


def otherwise(kind: str) -> bytes:
    """The SubjectPublicKeyInfo of the one key of this kind, or of one whose private key is known with it."""
    info, key = public_key(kind), private_key(kind).public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        algorithm = der.children(info, *der.expect(info, 0, len(info), der.SEQUENCE, "key"))[0]
        point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        return der.seq(info[algorithm[1] : algorithm[3]], der.encode_bits(point))
    if isinstance(key, rsa.RSAPublicKey):
        other = rsa.RSAPublicNumbers(65539, key.public_numbers().n).public_key()
        return other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return info[:-1] + bytes((info[-1] | 0x80,))


@pytest.mark.parametrize("kind", ["p256", "p521", "brainpoolP384r1", "rsa2048", "x25519"])
def test_a_key_that_is_written_otherwise_is_the_same_key(kind: str) -> None:
    rules = ProfileConfig(key_sharing="none", key_usage=("digitalSignature", "keyAgreement"))
    mine = wish(rules, key=kind).claims
    assert otherwise(kind) != public_key(kind)
    assert wish(rules, key=otherwise(kind)).claims == mine
    assert wish(rules, key="p384").claims != mine


@pytest.mark.parametrize(
    "name", ["/O=Test/CN=Test CA", r"/O=TEST/CN=\ test  ca", r"/O=Test/CN=Test CA\ ", "/O=Test/CN=Test\u3000CA"]
)
async def test_the_name_of_the_ca_is_nobody_elses_however_it_is_written(name: str) -> None:
    world = World()
    _, seen, _ = await world.ir(await world.add_secret(), name)
    status, text, _ = seen.status()
    assert (status, text.partition(" (")[0]) == (2, "CertTemplate.subject: this is a name of the CA itself")


@pytest.mark.parametrize(
    ("name", "base", "excluded", "permitted"),
    [
        ("*.example.com", "secret.example.com", True, False),
        ("*.example.com", "SECRET.example.com", True, False),
        ("*.example.com", "a.secret.example.com", False, False),
        ("*.example.com", "example.com", True, True),
        ("*.example.com", "com", True, True),
        ("*.example.com", "example.org", False, False),
        ("*.a.example.com", "a.example.com", True, True),
        ("a.example.com", "example.com", True, True),
    ],
)
def test_a_wildcard_is_excluded_with_each_name_that_it_stands_for(
    name: str, base: str, excluded: bool, permitted: bool
) -> None:
    names = [("dNSName", name)]
    assert bool(constraint_fault(Subtrees((), (("dNSName", base),)), names)) is excluded
    assert (constraint_fault(Subtrees((("dNSName", base),), ()), names) is None) is permitted


# --- what the CA adds, and what it allows -----------------------------------------------------------------------------


def test_a_kur_that_copies_the_extensions_of_its_certificate_gets_exactly_these() -> None:
    made = authority("p256")
    places = encode_locations("http://pki.example.com", crl=True, delta=True, ocsp=True)
    ca = type(made)(made.certificate, (), FileKey(private_key("p256", 1)), counting_env(), locations=places)
    rules = ProfileConfig(policies={"1.2.3": ""}, extended_key_usage=("clientAuth",))
    first = issue(ca, wish(rules, extensions=(san(("dns", "a.example")),), issuer=ca.issuer))
    copied = tuple(Extension(one.oid, one.critical, one.value) for one in outline(first).extensions)
    assert len(copied) == 9
    granted = wish(rules, extensions=copied, issuer=ca.issuer)
    assert granted.changes == ()
    other = tuple(replace(one, value=der.seq(b"")) for one in copied if one.oid not in (b"\x55\x1d\x11",))
    changes = wish(rules, extensions=other[-3:], issuer=ca.issuer).changes
    assert changes == tuple(
        f"{name} is the CA's own" for name in ("CRLDistributionPoints", "FreshestCRL", "authorityInfoAccess")
    )
    own = ProfileConfig(ocsp_urls=("http://o.example",))
    changes = wish(own, extensions=other[-3:], issuer=ca.issuer).changes
    assert changes == (
        "without extension 2.5.29.31",
        "without extension 2.5.29.46",
        "authorityInfoAccess is the CA's own",
    )


@pytest.mark.parametrize(
    ("ca_length", "asked", "wanted", "changes"),
    [
        (None, (), 1, ()),
        (5, (), 1, ()),
        (2, (), 1, ()),
        (1, (), 0, ()),
        (1, (basic_constraints(1),), 0, ("basicConstraints with a path length of 0",)),
        (1, (basic_constraints(1 << 200),), 0, ("basicConstraints with a path length of 0",)),
        (1, (basic_constraints(0),), 0, ()),
    ],
)
def test_the_path_length_of_a_ca_is_within_that_of_the_ca_above(
    ca_length: int | None, asked: tuple[Extension, ...], wanted: int, changes: tuple[str, ...]
) -> None:
    ca = under(constrained(path_length=ca_length))
    granted = wish(ProfileConfig(**CA_RULES), extensions=asked, issuer=ca.issuer)
    assert granted.changes == changes
    found = x509.load_der_x509_certificate(issue(ca, granted)).extensions
    assert found.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, wanted)


def test_what_the_ca_leaves_of_a_validity_is_enough_or_refused() -> None:
    ca = under(constrained())  # ends in 900 days
    rules = ProfileConfig(max_validity=2000 * DAY, min_validity=100 * DAY)
    assert ca.bound(wish(rules, not_before=NOW + 700 * DAY, not_after=NOW + 1500 * DAY)).min_validity
    with pytest.raises(BadCertTemplate, match="validity: want what the profile wants at least, the CA's certificate"):
        ca.bound(wish(rules, not_before=NOW + 850 * DAY, not_after=NOW + 1500 * DAY))


# --- one at a time ----------------------------------------------------------------------------------------------------


async def again(world: World, credential: SharedSecret | KeyAndCertificate) -> tuple[int, frozenset[str]]:
    _, seen, _ = await world.ir(credential, "/CN=DEVICE")
    status, _, failures = seen.status()
    return status, failures


TAKEN = (2, frozenset({"duplicateCertReq"}))
FREE = (0, frozenset[str]())


@pytest.mark.parametrize(("reason", "outcomes"), [(None, (FREE,)), (6, (TAKEN,)), (1, (FREE,)), (4, (FREE,))])
async def test_a_subject_is_free_again_once_its_certificate_is_revoked_and_not_while_it_is_suspended(
    reason: int | None, outcomes: tuple[tuple[int, frozenset[str]]]
) -> None:
    world = World(profiles=UNIQUE)
    secret = await world.add_secret()
    holder = await world.holder(secret)
    assert (await world.rr(holder, rev_details(holder.certificate, reason))).outcomes() == ["accepted"]
    assert await again(world, secret) == outcomes[0]


async def test_a_subject_is_free_again_a_second_after_its_certificate_has_expired() -> None:
    world = World(profiles={"default": ProfileConfig(unique_subject=True, validity=60)})
    secret = await world.add_secret()
    holder = await world.holder(secret)
    world.clock.now = (await world.record(holder)).not_after
    assert await again(world, secret) == TAKEN
    world.clock.now += 1
    assert await again(world, secret) == FREE


async def test_an_update_keeps_its_subject_until_all_of_its_line_are_revoked() -> None:
    world = World(profiles=UNIQUE)
    secret = await world.add_secret()
    first = await world.holder(secret)
    _, seen, key = await world.ir(first, body="kur")
    second = KeyAndCertificate(key, seen.certificate(), first.chain)
    assert (await world.rr(second, rev_details(first.certificate, 4))).outcomes() == ["accepted"]
    assert await again(world, secret) == TAKEN
    assert (await world.rr(second, rev_details(second.certificate, 4))).outcomes() == ["accepted"]
    assert await again(world, secret) == FREE


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_certificate_that_its_requester_rejects_holds_no_subject(accepted: bool) -> None:
    world = World(profiles=UNIQUE)
    secret = await world.add_secret()
    request, seen, _ = await world.ir(secret, implicit=False)
    assert seen.status()[0] == 0
    assert await again(world, secret) == TAKEN
    status = cert_status(seen.certificate(), 0, None if accepted else "not what was asked for")
    confirm = world.follow(request, seen, "certConf", der.seq(status))
    assert (await world.ask(confirm, secret)).body == "pkiconf"
    assert await again(world, secret) == (TAKEN if accepted else FREE)


@pytest.mark.parametrize("sharing", ["none", "entity"])
async def test_of_two_entities_with_one_key_at_the_same_time_one_wins(tmp_path: Path, sharing: str) -> None:
    store = await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    try:
        world = World(profiles={"default": ProfileConfig(key_sharing=sharing)}, store=store)
        secrets = [await world.add_secret(f"device {number}") for number in range(5)]
        key = ec.generate_private_key(ec.SECP256R1())

        async def ask(number: int) -> int:
            template = Template(key, encode_name(f"/CN=device {number}"))
            request = cert_request("ir", [template], secrets[number], world.env, implicit_confirm=True)
            return (await world.ask(request, secrets[number])).status()[0]

        assert sorted(await asyncio.gather(*map(ask, range(5)))) == [0, 2, 2, 2, 2]
        assert len(await store.list_certificates()) == 1
    finally:
        await store.close()


async def test_two_of_one_message_are_in_each_others_way_and_nothing_is_left_of_them() -> None:
    world = World(profiles=UNIQUE)
    secret = await world.add_secret()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    templates = [Template(key, encode_name(name)) for key, name in zip(keys, ("/CN=x", "/CN= X"), strict=True)]
    request = cert_request("ir", templates, secret, world.env, implicit_confirm=True)
    seen = await world.ask(request, replace(secret))
    assert {seen.status(index)[0] for index in range(len(seen.content["response"]))} == {2}
    assert await world.store.list_certificates() == []
