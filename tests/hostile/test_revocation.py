"""A hostile client and rr: replays, races, floods, wrong octets, and whoever may not, against a CA in memory.

What is wrong in a RevDetails is rejected in the rp, at its place, and everything else by an error message (RFC 9483
section 3.6.2). Whatever is refused leaves certificates, their history, passphrases and entities as they were. Who may
not change a certificate gets one and the same answer whatever its state is.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.changes import MoveCertificate
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.keys import public_key_info
from cmpd.client.messages import extension, protect
from cmpd.cms import envelope_for_password
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.config_status import RevocationConfig
from cmpd.records import CertificateState
from cmpd.store.base import Store
from tests import chains
from tests.hostile import craft
from tests.hostile.corpus import REV_PASSPHRASE
from tests.hostile.craft import Draft, long_form
from tests.world import NOW, Seen, World, raw_details, reason_code, rev_details, serial_octets

CONFIRMED, SUSPENDED, REVOKED = CertificateState.CONFIRMED, CertificateState.SUSPENDED, CertificateState.REVOKED
HOLD, RESUME = 6, 8
REASONS = [1, HOLD, RESUME]
TODAY = "20250615130640Z"


def open_world(**options: object) -> World:
    return World(
        enrolment=EnrolmentConfig(certificate_holder_may_ask_for="any"),
        profiles={"default": ProfileConfig(), "server": ProfileConfig()},
        **options,
    )


async def agent_of(world: World) -> SharedSecret:
    """An RA that may do everything."""
    return await world.add_secret("ra1", b"secret of the RA", is_ra=True)


async def refused(world: World, credential: Credential, *details: bytes) -> list[str]:
    """What an rp says of each RevDetails, none of which may be accepted; nothing may be changed or published."""
    before, published = craft.held(world), world.published
    seen = await world.rr(credential, *details)
    assert seen.body == "rp", seen.status()
    outcomes = seen.outcomes()
    assert "accepted" not in outcomes
    assert all(seen.status(i)[1] for i in range(len(outcomes)))  # each says why
    assert craft.protected_by(world, seen, credential) == (
        "mac" if isinstance(credential, SharedSecret) else "signature"
    )
    assert craft.held(world) == before
    assert world.published == published
    craft.check_store(world)
    return outcomes


# --- replays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timed", [True, False], ids=["with messageTime", "without"])
@pytest.mark.parametrize("number", REASONS)
@pytest.mark.parametrize(
    ("later", "restarted", "purged"),
    [(0, False, False), (0, True, False), (400, False, False), (90_000, False, True), (90_000, True, True)],
    ids=["at once", "after a restart", "after the window", "after purge", "after purge and restart"],
)
async def test_a_replayed_rr_changes_nothing_whenever_it_comes(
    number: int, later: int, restarted: bool, purged: bool, timed: bool
) -> None:
    """The certificate was brought back meanwhile where that is possible: a replay would be seen."""
    world = World()
    agent = await agent_of(world)
    holder = await world.holder(await world.add_secret())
    if number == RESUME:
        await world.rr(agent, rev_details(holder.certificate, HOLD))
    made = world.rev_request(agent, rev_details(holder.certificate, number))
    draft = Draft.of(made.der) if timed else Draft.of(made.der).drop("messageTime")
    octets = draft.seal(made.protector)
    first = await world.respond(octets)
    assert len(await world.store.history(serial_octets(holder.certificate.serial))) == (2 if number == RESUME else 1)
    if number != 1:
        back = rev_details(holder.certificate, HOLD if number == RESUME else RESUME)
        assert (await world.rr(agent, back)).outcomes() == ["accepted"]
    world.clock.now += later
    if purged:
        assert await world.store.purge(int(world.clock.now) - 86_400, 100) > 0
    if restarted:
        world.restart()
    before = craft.held(world)
    for _ in range(2):
        if purged:
            await craft.refused(world, octets, "badTime" if timed else "transactionIdInUse", credential=agent)
        else:
            assert await world.respond(octets) == first
    assert craft.held(world) == before
    craft.check_store(world)


async def test_a_hundred_copies_of_an_rr_at_once_are_one() -> None:
    world = World()
    holder = await world.holder(await world.add_secret())
    octets = world.rev_request(holder, rev_details(holder.certificate, 1)).der
    answers = await asyncio.gather(*(world.respond(octets) for i in range(100)))
    assert len(set(answers)) == 1
    assert len(await world.store.history(serial_octets(holder.certificate.serial))) == 1
    assert world.published == 1


@pytest.mark.parametrize("number", REASONS)
async def test_an_rr_under_a_transactionid_of_another_or_with_another_nonce_is_not_a_repeat(number: int) -> None:
    """Only the very same octets are a repeat; everything else under a transactionID that is taken is refused."""
    world = World()
    agent = await agent_of(world)
    holder, other = [await world.holder(await world.add_secret(name)) for name in ("one", "other")]
    made = world.rev_request(agent, rev_details(holder.certificate, HOLD))
    await craft.answer(world, made.der)
    nonce = der.encode_octets(bytes(16))
    for draft, protector in (
        (Draft.of(made.der).set("senderNonce", nonce), made.protector),
        (Draft.of(made.der).content(der.seq(rev_details(other.certificate, number))), made.protector),
        (Draft.of(made.der).content(der.seq(rev_details(holder.certificate, number, date(TODAY)))), made.protector),
    ):
        octets = draft.seal(protector)
        await craft.refused(world, octets, "transactionIdInUse", by="mac", credential=agent)
    by_other = world.rev_request(other, rev_details(other.certificate, number))
    stolen = Draft.of(by_other.der).set("transactionID", der.encode_octets(made.transaction_id))
    await craft.refused(world, stolen.seal(by_other.protector), "transactionIdInUse", by="signature")


@pytest.mark.parametrize("timed", [True, False], ids=["with messageTime", "without"])
@pytest.mark.parametrize("where", ["genm", "header of a rejected cr"])
async def test_a_replayed_passphrase_does_not_come_back(where: str, timed: bool) -> None:
    """Whoever has found out an old one, which was replaced for that, must not be able to put it in its place again."""
    world = World()
    device = await world.add_secret(may_revoke=True)

    def bring(passphrase: bytes) -> tuple[Draft, object]:
        kept = envelope_for_password(passphrase, device.secret, b"key id", world.env, iterations=200)
        item = der.seq(REV_PASSPHRASE, kept)
        protector = device.protector(world.env)
        body, content = ("genm", der.seq(item)) if where == "genm" else ("cr", der.seq())
        made = protect(body, content, protector, world.env, info=() if body == "genm" else [item], pvno=3)
        return (Draft.of(made.der) if timed else Draft.of(made.der).drop("messageTime")), protector

    draft, protector = bring(b"found out")
    old = draft.seal(protector)
    await craft.answer(world, old)
    assert [kept.sealed for kept in craft.held(world).passphrases.values()] == [b"found out"]
    draft, protector = bring(b"replaced it")
    await craft.answer(world, draft.seal(protector))
    for later in (0, 90_000):
        world.clock.now += later
        await world.store.purge(int(world.clock.now) - 86_400, 100)
        await craft.answer(world, old)
        assert [kept.sealed for kept in craft.held(world).passphrases.values()] == [b"replaced it"]


# --- many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revoke", [False, True], ids=["to and fro", "and a revocation between"])
async def test_several_who_suspend_and_resume_at_the_same_moment_leave_a_true_history(
    store: Store, revoke: bool
) -> None:
    world = World(store=store)
    agent, second_agent = await agent_of(world), await world.add_secret("ra2", b"another RA", is_ra=True)
    secret = await world.add_secret(may_revoke=True)
    holder, twin = await world.holder(secret), await world.holder(secret)
    named = await world.store.find_entity("device")
    assert named is not None
    passphrase = await world.add_passphrase(named.id)
    requesters = [agent, second_agent, secret, twin, passphrase]
    numbers = [HOLD, RESUME] * 4 + ([1] if revoke else [])
    wishes = [(who, number) for number in numbers for who in requesters]
    requests = [world.rev_request(who, rev_details(holder.certificate, number)) for who, number in wishes]
    answers = await asyncio.gather(*(craft.answer(world, made.der) for made in requests))
    accepted = []
    for (who, number), seen in zip(wishes, answers, strict=True):
        if seen.body == "error":  # decided anew too often: nothing was done, and it says so
            assert seen.status()[2] == {"systemUnavail"}
            continue
        (outcome,) = seen.outcomes()
        assert who is not passphrase or number != RESUME or outcome in ("notAuthorized", "certRevoked")
        accepted += [number] if outcome == "accepted" else []
    record = await world.record(holder)
    history = await world.store.history(record.serial)
    states = {HOLD: SUSPENDED, RESUME: CONFIRMED, 1: REVOKED}
    assert sorted(change.state for change in history) == sorted(states[number] for number in accepted)
    assert all(one.state is not other.state for one, other in pairwise(history))
    assert history[0].state is not CONFIRMED
    assert REVOKED not in [change.state for change in history[:-1]]
    assert record.state is history[-1].state
    assert (record.state is REVOKED) is revoke
    assert world.published == len(accepted)


# --- many in one message ---------------------------------------------------------------------------------------------


async def test_a_thousand_revdetails_are_more_than_are_looked_at() -> None:
    world = World()
    holder = await world.holder(await world.add_secret())
    details = [rev_details(holder.certificate, 1)] * 1000
    assert await refused(world, holder, *details) == ["badRequest"]
    more = world.rev_request(holder, *details * 21)
    await craft.refused(world, more.der, "badDataFormat", by="signature")  # as a message, before it is verified


async def test_a_thousand_revdetails_where_they_are_allowed_are_judged_one_by_one() -> None:
    world = World(revocation=RevocationConfig(max_per_message=1000))
    secret = await world.add_secret()
    holder = await world.holder(secret)
    stranger = await world.holder(await world.add_secret("other"))
    begin = time.monotonic()
    unknown = [raw_details(named(world, serial_octets(10**6 + i))) for i in range(998)]
    foreign = [rev_details(stranger.certificate, 1)]
    assert await refused(world, holder, *unknown, *foreign, *foreign) == [
        *["badCertId"] * 998,
        "notAuthorized",
        "notAuthorized",
    ]
    same = await world.rr(holder, *[rev_details(holder.certificate, 1)] * 1000)
    assert same.outcomes() == ["accepted", *["badRequest"] * 999]
    assert len(same.rev_certs()) == 1000
    assert time.monotonic() - begin < 15  # most of it is the independent decoder
    assert len(await world.store.history(serial_octets(holder.certificate.serial))) == 1


def named(world: World, serial: bytes) -> bytes:
    """serialNumber and issuer of a template; `serial`: contents octets."""
    return der.tlv(0x81, serial) + der.explicit(3, world.ca.name)


async def test_a_wrong_revdetails_does_not_hinder_those_around_it() -> None:
    world = World()
    secret = await world.add_secret()
    agent = await agent_of(world)
    first, last = await world.holder(secret), await world.holder(secret)
    wrong = [der.NULL_TLV, der.seq(), raw_details(b"\x0a\x01\x01"), raw_details(b""), der.seq(der.seq(), der.NULL_TLV)]
    seen = await world.rr(agent, rev_details(first.certificate, 1), *wrong, rev_details(last.certificate, HOLD))
    assert seen.outcomes() == [
        *("accepted", "badDataFormat", "badDataFormat", "badDataFormat", "badCertTemplate", "badDataFormat"),
        "accepted",
    ]
    assert seen.rev_certs() == []
    assert [(await world.record(holder)).state for holder in (first, last)] == [REVOKED, SUSPENDED]
    craft.check_store(world)


# --- certDetails -----------------------------------------------------------------------------------------------------


def serials():
    """(what, serial number as issued -> contents octets, failInfo)."""
    yield "leading zero", lambda n: b"\0" + serial_octets(n), "badDataFormat"
    yield "twelve leading zeros", lambda n: bytes(12) + serial_octets(n), "badDataFormat"
    yield "leading ones", lambda n: b"\xff" + serial_octets(-n), "badDataFormat"
    yield "negative", lambda n: serial_octets(-n), "badCertId"
    yield "ones' complement", lambda n: serial_octets(~n), "badCertId"
    yield "top bit set", lambda n: bytes((serial_octets(n)[0] | 0x80,)) + serial_octets(n)[1:], "badCertId"
    yield "21 octets with the same end", lambda n: serial_octets(n + (1 << 160)), "badCertId"
    yield "21 octets with the same begin", lambda n: (serial_octets(n) + bytes(21))[:21], "badCertId"
    yield "an octet after it", lambda n: serial_octets(n) + b"\0", "badCertId"
    yield "cut off", lambda n: serial_octets(n)[:-1], "badCertId"
    yield "the next one", lambda n: serial_octets(n + 1), "badCertId"
    yield "zero", lambda n: b"\0", "badCertId"
    yield "minus one", lambda n: b"\xff", "badCertId"
    yield "33 octets", lambda n: serial_octets(n + (1 << 256)), "badCertId"
    yield "50,000 octets", lambda n: b"\x01" + bytes(50_000), "badCertId"
    yield "empty", lambda n: b"", "badDataFormat"


@pytest.mark.parametrize(("make", "failure"), [row[1:] for row in serials()], ids=[row[0] for row in serials()])
async def test_a_serial_number_in_another_encoding_is_another_one_or_none(make, failure: str) -> None:
    world = World()
    holder = await world.holder(await world.add_secret())
    serial = make(holder.certificate.serial)
    assert await refused(world, holder, raw_details(named(world, serial), reason_code(1))) == [failure]
    both = raw_details(named(world, serial), reason_code(1)), rev_details(holder.certificate, 1)
    assert (await world.rr(holder, *both)).outcomes() == [failure, "accepted"]


def templates():
    """(what, certificate -> fields of certDetails, failInfo). Most begin or end with what names the certificate."""

    def fields(octets: Callable[[KeyAndCertificate], bytes] | bytes):
        """With this field in its place among those that name the certificate."""

        def make(holder: KeyAndCertificate) -> bytes:
            value = octets if isinstance(octets, bytes) else octets(holder)
            parts = [
                der.tlv(0x81, serial_octets(holder.certificate.serial)),
                der.explicit(3, holder.certificate.issuer),
                value,
            ]
            return b"".join(sorted(parts, key=lambda part: part[0] & 0x1F))

        return make

    def whole(make: Callable[[bytes, bytes], bytes]):
        return lambda holder: make(
            der.tlv(0x81, serial_octets(holder.certificate.serial)), der.explicit(3, holder.certificate.issuer)
        )

    other = encode_name("/CN=other")
    utc, algorithm = b"\x17\x0d250615130640Z", der.seq(der.encode_oid("1.2.840.10045.4.3.2"))
    # version
    for what, octets, failure in (
        ("1", b"\x80\x01\0", "badCertId"),
        ("2", b"\x80\x01\x01", "badCertId"),
        ("4", b"\x80\x01\x03", "badCertId"),
        ("-1", b"\x80\x01\xff", "badCertId"),
        ("padded", b"\x80\x02\0\x02", "badDataFormat"),
        ("empty", b"\x80\0", "badDataFormat"),
        ("of 33 octets", b"\x80" + der.encode_integer(2**260)[1:], "badDataFormat"),
        ("constructed", b"\xa0\x03\x02\x01\x02", "badDataFormat"),
    ):
        yield f"version {what}", fields(octets), failure
    # the shape around the fields
    yield "issuer before serialNumber", whole(lambda serial, issuer: issuer + serial), "badDataFormat"
    yield "serialNumber twice", whole(lambda serial, issuer: serial * 2 + issuer), "badDataFormat"
    yield "issuer twice", whole(lambda serial, issuer: serial + issuer * 2), "badDataFormat"
    yield "serialNumber constructed", whole(lambda s, issuer: der.tlv(0xA1, b"\x02" + s[1:]) + issuer), "badDataFormat"
    yield "serialNumber alone", whole(lambda serial, issuer: serial), "badCertTemplate"
    yield "issuer alone", whole(lambda serial, issuer: issuer), "badCertTemplate"
    yield "tag 10", whole(lambda serial, issuer: serial + issuer + b"\x8a\0"), "badDataFormat"
    yield "a universal field", whole(lambda serial, issuer: serial + issuer + der.NULL_TLV), "badDataFormat"
    yield "an application field", whole(lambda serial, issuer: serial + issuer + b"\x65\0"), "badDataFormat"
    yield "1000 fields", whole(lambda serial, issuer: serial * 1000 + issuer), "badDataFormat"
    # issuer and subject
    yield "issuer of another CA", whole(lambda serial, issuer: serial + der.explicit(3, other)), "wrongAuthority"
    yield "issuer NULL-DN", whole(lambda serial, issuer: serial + b"\xa3\x02\x30\0"), "badCertTemplate"
    yield (
        "issuer and one more Name",
        whole(lambda s, i: s + der.explicit(3, craft.contents(i) + other)),
        "badDataFormat",
    )
    for number, name in ((3, "issuer"), (5, "subject")):
        for what, value in (
            ("empty tag", b""),
            ("a bare RDN", der.tlv(0x31, b"")),
            ("tagged implicitly", craft.contents(other)),
            ("an RDN that is a SEQUENCE", der.seq(der.seq())),
            ("8-bit PrintableString", der.seq(der.tlv(0x31, der.seq(der.encode_oid("2.5.4.3"), b"\x13\x01\xe9")))),
        ):
            octets = der.explicit(number, value)
            make = fields(octets) if number == 5 else whole(lambda serial, issuer, octets=octets: serial + octets)
            yield f"{name} {what}", make, "badDataFormat"
    yield "subject of another", fields(der.explicit(5, other)), "badCertId"
    yield (
        "subject with one more RDN",
        fields(lambda h: der.explicit(5, encode_name("/CN=device/CN=device"))),
        "badCertId",
    )
    long_name = der.tlv(0x31, der.seq(der.encode_oid("2.5.4.3"), der.encode_utf8("x" * 60_000)))
    yield "subject of 60,000 octets", fields(der.explicit(5, der.seq(long_name))), "badCertId|badDataFormat"
    many = der.seq(*[craft.contents(encode_name(f"/CN={i}")) for i in range(3000)])
    yield "subject of 3,000 RDNs", fields(der.explicit(5, many)), "badCertId|badDataFormat"
    # validity
    for what, value, failure in (
        ("of now", der.explicit(0, der.encode_time(NOW + 1)), "badCertId"),
        ("before 1950", der.explicit(0, der.encode_generalized_time(-2_000_000_000)), "badCertId"),
        ("in year 1", der.explicit(0, b"\x18\x0f00010101000000Z"), "badCertId"),
        ("of the last second", der.explicit(1, b"\x18\x0f99991231235959Z"), "badCertId"),
        ("in year 0", der.explicit(1, b"\x18\x0f00000101000000Z"), "badDataFormat"),
        ("in year 10000", der.explicit(1, b"\x18\x10100000101000000Z"), "badDataFormat"),
        ("bare Times", utc * 2, "badDataFormat"),
        ("notAfter first", der.explicit(1, utc) + der.explicit(0, utc), "badDataFormat"),
        ("notBefore twice", der.explicit(0, utc) * 2, "badDataFormat"),
        ("two values in a Time", der.explicit(1, utc * 2), "badDataFormat"),
        ("empty Time", der.explicit(1, b""), "badDataFormat"),
        ("an INTEGER", der.explicit(1, b"\x02\x01\x05"), "badDataFormat"),
        ("with an offset", der.explicit(0, b"\x17\x11250615130640+0000"), "badDataFormat"),
        ("February 30", der.explicit(1, b"\x18\x0f20250230130640Z"), "badDataFormat"),
    ):
        yield f"validity {what}", fields(der.tlv(0xA4, value)), failure
    # publicKey, signingAlg, UIDs
    info = public_key_info(chains.issue(None, "x").key)
    spki, bits = craft.children(info)
    for what, value, failure in (
        ("of another", spki + bits, "badCertId"),
        ("of 100,000 octets", spki + der.encode_bits(bytes(100_000)), "badCertId"),
        ("of three values", spki + bits * 2, "badDataFormat"),
        ("an OCTET STRING", b"\x04\x01x", "badDataFormat"),
        ("without key", spki, "badDataFormat"),
    ):
        yield f"publicKey {what}", fields(der.tlv(0xA6, value)), failure
    yield "publicKey under another algorithm", fields(_own_key_as_ed25519), "badCertId"
    ed25519 = der.seq(der.encode_oid("1.3.101.112"))
    yield "signingAlg of another", fields(b"\xa2" + ed25519[1:]), "badCertId"
    yield "signingAlg with parameters", fields(b"\xa2" + der.seq(algorithm[2:], der.NULL_TLV)[1:]), "badCertId"
    yield "signingAlg huge", fields(der.tlv(0xA2, algorithm[2:] + der.encode_octets(bytes(100_000)))), "badCertId"
    for number in (7, 8):
        yield f"UID {number}", fields(bytes((0x80 | number, 2, 0, 1))), "badCertId"
        yield f"UID {number} huge", fields(der.tlv(0x80 | number, bytes(100_000))), "badCertId"
    # extensions
    san = extension("2.5.29.17", bytes.fromhex("300382016a"))
    for what, value, failure in (
        ("that it has not", san, "badCertId"),
        ("with another value", extension("2.5.29.14", der.encode_octets(bytes(20))), "badCertId"),
        ("huge", extension("1.2.3", der.encode_octets(bytes(100_000))), "badCertId"),
        ("twice", san * 2, "badDataFormat"),
        ("65 of them", b"".join(extension(f"1.2.3.{i}", b"\x05\0") for i in range(65)), "badDataFormat"),
        ("a NULL", der.NULL_TLV, "badDataFormat"),
        ("without value", der.seq(der.encode_oid("2.5.29.17")), "badDataFormat"),
        ("critical as an INTEGER", der.seq(der.encode_oid("1.2.3"), b"\x02\x01\x01", b"\x04\0"), "badDataFormat"),
    ):
        yield f"extensions {what}", fields(der.tlv(0xA9, value)), failure


def _own_key_as_ed25519(holder: KeyAndCertificate) -> bytes:
    bits = craft.children(holder.certificate.public_key_info)[1]
    return der.tlv(0xA6, der.seq(der.encode_oid("1.3.101.112")) + bits)


TEMPLATES = list(templates())


@pytest.mark.parametrize(("make", "failure"), [row[1:] for row in TEMPLATES], ids=[row[0] for row in TEMPLATES])
async def test_certdetails_that_are_wrong_or_do_not_fit_change_nothing(make, failure: str) -> None:
    world = World()
    holder = await world.holder(await world.add_secret())
    for number in REASONS:
        (outcome,) = await refused(world, holder, raw_details(make(holder), reason_code(number)))
        assert outcome in failure.split("|")


# --- crlEntryDetails -------------------------------------------------------------------------------------------------


def date(text: str, tag: int = der.GENERALIZED_TIME) -> bytes:
    return extension("2.5.29.24", der.tlv(tag, text.encode()))


def entries():
    """(what, octets of crlEntryDetails, failInfo)."""

    def seq(*extensions: bytes) -> bytes:
        return der.seq(*extensions)

    for what, octets in (
        ("a NULL", der.NULL_TLV),
        ("a SET", der.tlv(0x31, reason_code(1))),
        ("an OCTET STRING", der.encode_octets(seq(reason_code(1)))),
        ("of NULLs", seq(der.NULL_TLV)),
        ("of an empty Extension", seq(der.seq())),
        ("twice", seq(reason_code(1)) * 2),
        ("and a value after them", seq(reason_code(1)) + der.NULL_TLV),
        ("in one more SEQUENCE", seq(seq(reason_code(1)))),
        ("reasonCode twice", seq(reason_code(1), reason_code(4))),
        ("reasonCode twice the same", seq(reason_code(1) * 2)),
        ("invalidityDate twice", seq(date("20250101000000Z") * 2)),
        ("an unknown one twice", seq(extension("1.2.3", b"\x05\0") * 2)),
        ("65 unknown ones", seq(*(extension(f"1.2.3.{i}", b"\x05\0") for i in range(65)))),
        ("reasonCode without value", seq(der.seq(der.encode_oid("2.5.29.21")))),
        ("reasonCode bare", seq(der.seq(der.encode_oid("2.5.29.21"), b"\x0a\x01\x01"))),
        ("reasonCode of a padded length", seq(extension("2.5.29.21", long_form(b"\x0a\x01\x01")))),
        ("reasonCode of indefinite length", seq(extension("2.5.29.21", b"\x2a\x80\x0a\x01\x01\0\0"))),
        ("reasonCode of 33 octets", seq(extension("2.5.29.21", b"\x0a" + der.encode_integer(2**260)[1:]))),
        ("reasonCode 256 + 1", seq(extension("2.5.29.21", b"\x0a\x02\x01\x01"))),
        ("an extnID of no octets", seq(der.seq(b"\x06\0", b"\x04\0"))),
        ("an extnID that is padded", seq(der.seq(b"\x06\x03\x2a\x80\x01", b"\x04\0"))),
        ("critical in BER", seq(der.seq(der.encode_oid("1.2.3"), b"\x01\x01\x01", b"\x04\0"))),
    ):
        yield what, octets, "badDataFormat"
    for number in (7, 11, 127, 128, 255):
        yield f"reasonCode {number}", seq(reason_code(number)), "badDataFormat"
    for text in ("19491231235959Z", "19691231235959Z", "00010101000000Z"):
        yield f"invalidityDate {text}", seq(date(text)), "badRequest"
    for text in (
        *("00000101000000Z", "100000101000000Z", "20250230000000Z", "20250101240000Z", "20250101000060Z"),
        *("20250101000000", "20250101000000+0000", "20250101000000.0Z", "2025010100Z", "", "-0250101000000Z"),
    ):
        yield f"invalidityDate {text!r}", seq(date(text)), "badDataFormat"
    yield "invalidityDate a UTCTime", seq(date("491231235959Z", der.UTC_TIME)), "badDataFormat"
    yield "an unknown critical one", seq(reason_code(1), extension("1.2.3", b"\x05\0", critical=True)), "badRequest"
    names = der.seq(*[der.explicit(4, encode_name("/O=Test/CN=Test CA"))] * 2)
    yield "certificateIssuer of two names", seq(extension("2.5.29.29", names)), "wrongAuthority"
    yield "certificateIssuer of 17 names", seq(extension("2.5.29.29", der.seq(*[b"\x82\x01a"] * 17))), "badDataFormat"
    bad = der.seq(der.explicit(4, encode_name("/O=Test/CN=Test CA") * 2))
    yield "certificateIssuer of two Names in one", seq(extension("2.5.29.29", bad)), "badDataFormat|wrongAuthority"
    yield "cACompromise", seq(reason_code(2)), "notAuthorized"


ENTRIES = list(entries())


@pytest.mark.parametrize(("octets", "failure"), [row[1:] for row in ENTRIES], ids=[row[0] for row in ENTRIES])
@pytest.mark.parametrize("kind", ["mac", "signature"])
async def test_wrong_crlentrydetails_change_nothing(kind: str, octets: bytes, failure: str) -> None:
    """If they can be read as DER; what cannot is no message at all."""
    world = World()
    secret = await world.add_secret(may_revoke=True)
    holder = await world.holder(secret)
    credential = secret if kind == "mac" else holder
    details = der.seq(der.seq(named(world, serial_octets(holder.certificate.serial))), octets)
    before = craft.held(world)
    seen = await world.rr(credential, details)
    assert craft.held(world) == before
    if seen.body == "error":
        assert seen.status()[2] == {"badDataFormat"}
        assert craft.protected_by(world, seen) == "signature"
    else:
        (outcome,) = await refused(world, credential, details)
        assert outcome in failure.split("|")


@pytest.mark.parametrize("text", ["19700101000000Z", "20491231235959Z", "20500101000000Z", "99991231235959Z"])
async def test_the_first_and_the_last_invalidity_dates_are_kept(text: str) -> None:
    world = World()
    holder = await world.holder(await world.add_secret())
    assert (await world.rr(holder, rev_details(holder.certificate, 1, date(text)))).outcomes() == ["accepted"]
    when = (await world.record(holder)).invalidity_date
    assert when is not None
    assert der.encode_generalized_time(when)[2:].decode() == text


@pytest.mark.parametrize("place", ["RevReqContent", "RevDetails", "certDetails", "crlEntryDetails"])
@pytest.mark.parametrize(
    "spoil",
    [
        long_form,
        craft.indefinite,
        lambda value: value[:1] + b"\x84\x7f\xff\xff\xff" + value[2:],
        lambda value: b"\xbf\x87\x65" + value[1:],
        lambda value: der.seq(craft.contents(value), b"\x01\x01\x01"),
        lambda value: der.seq(craft.contents(value), b"\0\0"),
    ],
    ids=["padded length", "indefinite length", "too long", "high tag", "BER boolean inside", "end-of-contents inside"],
)
@pytest.mark.parametrize("kind", ["rr by mac", "rr by signature"])
async def test_an_rr_that_is_no_der_is_refused_by_a_signed_error(kind: str, place: str, spoil) -> None:
    """It is refused before its protection is looked at."""
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    (content,) = craft.children(draft.body)
    (details,) = craft.children(content)
    template, entry = craft.children(details)
    spoilt = {
        "RevReqContent": lambda: spoil(content),
        "RevDetails": lambda: der.seq(spoil(details)),
        "certDetails": lambda: der.seq(der.seq(spoil(template), entry)),
        "crlEntryDetails": lambda: der.seq(der.seq(template, spoil(entry))),
    }[place]()
    await craft.refused(world, draft.content(spoilt).seal(protector), "badDataFormat", by="signature")


@pytest.mark.parametrize("content", [b"\x30\0", b"\x31\0", b"\x05\0", b"\x30\x02\x05\0", b"\x04\x02\x30\0"])
@pytest.mark.parametrize("kind", ["rr by mac", "rr by signature"])
async def test_a_revreqcontent_that_is_none_is_one_rejection_in_an_rp(kind: str, content: bytes) -> None:
    world = World()
    credential, draft, protector = await craft.asking(world, kind)
    how = craft.protection_of(kind)
    octets = draft.content(content).seal(protector)
    await craft.refused(world, octets, "badDataFormat", body="rp", by=how, credential=credential)


# --- who may not -----------------------------------------------------------------------------------------------------

Who = Callable[[World], Awaitable[tuple[Credential, str]]]
WHO: dict[str, Who] = {}
"""Who may not change what belongs to the entity "device": makes one, and says what it is told."""


def who(make: Who) -> Who:
    WHO[make.__name__.replace("_", " ")] = make
    return make


DEVICE = SharedSecret("device", b"secret", iterations=500)  # may_revoke


async def move(world: World, holder: KeyAndCertificate, state: CertificateState, by: str = "operator") -> None:
    record = await world.record(holder)
    reason = {SUSPENDED: "certificateHold", REVOKED: "keyCompromise"}[state]
    await world.store.write([MoveCertificate(record.serial, record.state, state, NOW, reason, by)])


@who
async def a_secret_of_another_entity(world: World) -> tuple[Credential, str]:
    return await world.add_secret("other", b"another", may_revoke=True), "rp notAuthorized"


@who
async def a_wrong_secret(world: World) -> tuple[Credential, str]:
    return SharedSecret("device", b"guess", iterations=500), "badMessageCheck"


@who
async def the_reference_of_the_victim_with_ones_own_secret(world: World) -> tuple[Credential, str]:
    await world.add_secret("other", b"another", may_revoke=True)
    return SharedSecret("device", b"another", iterations=500), "badMessageCheck"


@who
async def a_certificate_of_another_entity(world: World) -> tuple[Credential, str]:
    return await world.holder(await world.add_secret("other", b"another")), "rp notAuthorized"


@who
async def a_certificate_of_a_disabled_entity(world: World) -> tuple[Credential, str]:
    holder = await world.holder(await world.add_secret("other", b"another"))
    await world.store.disable_entity("other")
    return holder, "signerNotTrusted"


@who
async def a_secret_of_a_disabled_entity(world: World) -> tuple[Credential, str]:
    secret = await world.add_secret("other", b"another", may_revoke=True)
    await world.store.disable_entity("other")
    return secret, "badMessageCheck"


@who
async def a_suspended_certificate_of_the_entity(world: World) -> tuple[Credential, str]:
    holder = await world.holder(DEVICE)
    await move(world, holder, SUSPENDED)
    return holder, "rp notAuthorized"


@who
async def a_revoked_certificate_of_the_entity(world: World) -> tuple[Credential, str]:
    holder = await world.holder(DEVICE)
    await move(world, holder, REVOKED)
    return holder, "rp notAuthorized"


@who
async def an_unconfirmed_certificate_of_the_entity(world: World) -> tuple[Credential, str]:
    _, seen, key = await world.ir(DEVICE, implicit=False)
    return KeyAndCertificate(key, seen.certificate()), "signerNotTrusted"


@who
async def a_certificate_of_ones_own_making(world: World) -> tuple[Credential, str]:
    node = chains.leaf(chains.issue(None, "Test CA"), "device")
    return KeyAndCertificate(node.key, Certificate.load(node.der)), "signerNotTrusted"


@who
async def a_passphrase_that_was_replaced(world: World) -> tuple[Credential, str]:
    old = await world.add_passphrase(await id_of(world, "device"))
    await world.add_passphrase(await id_of(world, "device"), passphrase=b"another one")
    return old, "badMessageCheck"


@who
async def a_passphrase_of_another_entity(world: World) -> tuple[Credential, str]:
    await world.add_secret("other", b"another")
    return await world.add_passphrase(await id_of(world, "other")), "rp notAuthorized"


@who
async def a_passphrase_of_another_subject(world: World) -> tuple[Credential, str]:
    return await world.add_passphrase(await id_of(world, "device"), subject="/CN=another"), "rp notAuthorized"


@who
async def a_passphrase_of_a_disabled_entity(world: World) -> tuple[Credential, str]:
    await world.add_secret("other", b"another")
    passphrase = await world.add_passphrase(await id_of(world, "other"))
    await world.store.disable_entity("other")
    return passphrase, "badMessageCheck"


@who
async def an_ra_outside_its_constraint(world: World) -> tuple[Credential, str]:
    return await world.add_secret("ra", b"ra", is_ra=True, subject="/O=Plant"), "rp notAuthorized"


@who
async def an_ra_outside_its_profiles(world: World) -> tuple[Credential, str]:
    return await world.add_secret("ra", b"ra", is_ra=True, profiles=("server",)), "rp notAuthorized"


@who
async def an_ra_whose_registration_has_expired(world: World) -> tuple[Credential, str]:
    return await world.add_secret("ra", b"ra", is_ra=True, expires_at=NOW), "rp notAuthorized"


@who
async def a_certificate_enrolled_through_an_ra(world: World) -> tuple[Credential, str]:
    agent = await world.add_secret("ra", b"ra", is_ra=True)
    return await world.holder(agent, "/CN=behind it"), "rp notAuthorized"


@who
async def a_maker_s_certificate_whose_registration_has_expired(world: World) -> tuple[Credential, str]:
    maker = chains.issue(None, "maker", key_usage=chains.usage("key_cert_sign"))
    await world.add_certificate("maker", maker.der, expires_at=NOW)
    node = chains.leaf(maker, "device", key_usage=chains.usage("digital_signature"))
    return KeyAndCertificate(node.key, Certificate.load(node.der), (Certificate.load(maker.der),)), "signerNotTrusted"


@who
async def a_maker_s_certificate_with_another_entity(world: World) -> tuple[Credential, str]:
    maker = chains.issue(None, "maker", key_usage=chains.usage("key_cert_sign"))
    await world.add_certificate("maker", maker.der)
    node = chains.leaf(maker, "device", key_usage=chains.usage("digital_signature"))
    return KeyAndCertificate(node.key, Certificate.load(node.der), (Certificate.load(maker.der),)), "rp notAuthorized"


async def id_of(world: World, reference: str) -> int:
    entity = await world.store.find_entity(reference)
    assert entity is not None
    return entity.id


async def victims(world: World) -> dict[str, Certificate]:
    """Certificates of the entity "device" in every state."""
    await world.add_secret(may_revoke=True)
    found = {}
    for what in ("confirmed", "suspended by an operator", "suspended", "revoked", "revoked by an operator"):
        holder = await world.holder(DEVICE)
        by = "operator root" if what.endswith("operator") else "entity 'device'"
        if what != "confirmed":
            await move(world, holder, REVOKED if what.startswith("revoked") else SUSPENDED, by)
        found[what] = holder.certificate
    found["unconfirmed"] = (await world.ir(DEVICE, implicit=False))[1].certificate()
    return found


def verdict(seen: Seen) -> str:
    return " ".join((["rp"] if seen.body == "rp" else []) + sorted(seen.status()[2]))


@pytest.mark.parametrize("name", list(WHO))
async def test_who_may_not_changes_nothing_and_learns_nothing(name: str) -> None:
    """Each state of the certificate, each wish, each thing that could be tried of its template: one answer."""
    world = open_world()
    targets = await victims(world)
    credential, told = await WHO[name](world)
    misfit = der.explicit(5, encode_name("/CN=not its subject"))
    answers = {}
    for state, certificate in targets.items():
        for number in (None, *REASONS, 2):
            for template in (b"", misfit):
                before, published = craft.held(world), world.published
                seen = await world.rr(credential, rev_details(certificate, number, template=template))
                answers[state, number, template != b""] = (verdict(seen), seen.status())
                assert craft.held(world) == before
                assert world.published == published
    assert {verdict for verdict, _ in answers.values()} == {told}
    assert len({status for _, status in answers.values()}) == 1, answers
    craft.check_store(world)


async def test_whoever_may_is_told_so_under_the_same_circumstances() -> None:
    """The test above would show nothing if nobody could."""
    world = open_world()
    targets = await victims(world)
    agent = await agent_of(world)
    seen = await world.rr(agent, *(rev_details(certificate, 1) for certificate in targets.values()))
    assert seen.outcomes() == ["accepted", "accepted", "accepted", "certRevoked", "certRevoked", "accepted"]


async def test_an_expired_certificate_is_no_credential() -> None:
    world = World()
    holder = await world.holder(await world.add_secret())
    world.clock.now = (await world.record(holder)).not_after + 1
    made = world.rev_request(holder, rev_details(holder.certificate, 1))
    await craft.refused(world, made.der, "signerNotTrusted", by="signature")


@pytest.mark.parametrize("number", REASONS)
async def test_a_suspended_certificate_that_may_resume_itself_may_nothing_else(number: int) -> None:
    world = World(revocation=RevocationConfig(suspended_may_resume_itself=True))
    secret = await world.add_secret()
    one, other = await world.holder(secret), await world.holder(secret)
    for holder in (one, other):
        await move(world, holder, SUSPENDED, "entity 'device'")
    assert await refused(world, one, rev_details(other.certificate, number)) == ["notAuthorized"]
    if number != RESUME:
        assert await refused(world, one, rev_details(one.certificate, number)) == ["notAuthorized"]
        both = rev_details(one.certificate, RESUME), rev_details(other.certificate, number)
        assert (await world.rr(one, *both)).outcomes() == ["accepted", "notAuthorized"]  # not by its own answer


async def test_one_rr_does_not_lend_the_rights_of_one_certificate_to_another() -> None:
    """Many in one message: each is judged as if it were alone."""
    world = open_world()
    targets = await victims(world)
    stranger = await world.holder(await world.add_secret("other", b"another"))
    details = [rev_details(certificate, 1) for certificate in targets.values()]
    seen = await world.rr(stranger, *details, rev_details(stranger.certificate, 1), *details)
    assert seen.outcomes() == ["notAuthorized"] * 6 + ["accepted"] + ["notAuthorized"] * 6
    assert (await world.record(stranger)).state is REVOKED
    craft.check_store(world)


async def test_a_signature_by_another_key_than_that_of_the_certificate_is_refused_whatever_its_state() -> None:
    """Also for a certificate that is suspended or revoked, which an rr may come from."""
    world = World()
    secret = await world.add_secret()
    thief = await world.holder(secret)
    for state in (CONFIRMED, SUSPENDED, REVOKED):
        holder = await world.holder(secret)
        if state is not CONFIRMED:
            await move(world, holder, state)
        made = world.rev_request(holder, rev_details(holder.certificate, RESUME))
        forged = replace(made.protector, compute=thief.protector(world.env).compute)
        await craft.refused(world, Draft.of(made.der).seal(forged), "badMessageCheck", by="signature")
