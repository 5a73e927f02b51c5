"""What an rr may cost and keep, and what becomes of dates: edges that the tables of the other files do not have."""

import pytest

from cmpd.asn1 import der, names
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import KeyAndCertificate
from cmpd.records import CertificateState
from tests.world import NOW, World, raw_details, rev_details, serial_octets

HOLD, KEY_COMPROMISE = 6, 1


@pytest.fixture
def world() -> World:
    return World()


async def enrolled(world: World) -> KeyAndCertificate:
    return await world.holder(await world.add_secret())


def invalidity_date(at: int) -> bytes:
    return der.seq(der.encode_oid("2.5.29.24"), der.encode_octets(der.encode_generalized_time(at)))


async def test_a_hold_that_becomes_a_revocation_keeps_its_dates(world: World) -> None:
    holder = await enrolled(world)
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    await world.rr(agent, rev_details(holder.certificate, HOLD, invalidity_date(NOW - 1000)))
    world.clock.now += 100
    await world.rr(agent, rev_details(holder.certificate, KEY_COMPROMISE))
    record = await world.record(holder)
    assert (record.state, record.reason) == (CertificateState.REVOKED, "keyCompromise")
    assert (record.revoked_at, record.changed_at, record.invalidity_date) == (NOW, NOW + 100, NOW - 1000)
    history = await world.store.history(record.serial)
    assert [(change.at, change.revoked_at, change.reason) for change in history] == [
        (NOW, NOW, "certificateHold"),
        (NOW + 100, NOW, "keyCompromise"),
    ]


async def test_a_certificate_that_was_named_in_vain_may_be_named_again(world: World) -> None:
    holder = await enrolled(world)
    misfit = rev_details(holder.certificate, 1, template=der.explicit(5, encode_name("/CN=somebody else")))
    seen = await world.rr(holder, misfit, rev_details(holder.certificate, 1), rev_details(holder.certificate, 1))
    assert seen.outcomes() == ["badCertId", "accepted", "badRequest"]


@pytest.mark.parametrize("field", [3, 5], ids=["issuer", "subject"])
async def test_a_name_of_more_than_1024_octets_is_not_compared(
    world: World, field: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = await enrolled(world)
    folded: list[str] = []
    fold = names.fold
    monkeypatch.setattr(names, "fold", lambda text: folded.append(text) or fold(text))
    common_name = der.seq(der.tlv(der.OID, names.COMMON_NAME), der.encode_utf8(chr(0xFDFA) * 400))
    long = der.explicit(field, der.seq(der.tlv(der.SET, common_name)))
    serial = der.tlv(0x81, serial_octets(holder.certificate.serial))
    issuer = b"" if field == 3 else der.explicit(3, holder.certificate.issuer)
    seen = await world.rr(holder, raw_details(serial + issuer + long))
    assert seen.outcomes() == ["badDataFormat"]
    assert max(map(len, folded), default=0) < 400


async def test_an_rr_of_a_revoked_certificate_leaves_nothing_for_ever(world: World) -> None:
    holder = await enrolled(world)
    await world.rr(holder, rev_details(holder.certificate))
    for _ in range(3):
        assert (await world.rr(holder, rev_details(holder.certificate))).outcomes() == ["certRevoked"]
    before = len(world.store._tables.transactions)
    world.clock.now += 100_000
    assert await world.store.purge(int(world.clock.now), 100) == before
    assert len(world.store._tables.transactions) == before - 3
