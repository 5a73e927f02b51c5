"""A repeated rr, a restart, and several who change the same certificate at once: memory and SQLite alike."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from cmpd.asn1 import der
from cmpd.changes import Change, MoveCertificate
from cmpd.client.credentials import KeyAndCertificate
from cmpd.client.messages import Request, cert_status, protect
from cmpd.records import CertificateState
from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from cmpd.store.sqlite import SqliteStore
from tests.world import NOW, Seen, World, rev_details, serial_octets

CONFIRMED, SUSPENDED, REVOKED = CertificateState.CONFIRMED, CertificateState.SUSPENDED, CertificateState.REVOKED


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    store: Store = (
        MemoryStore() if request.param == "memory" else await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    )
    yield World(store=store)
    await store.close()


async def octets(world: World, request: Request) -> bytes:
    seen = await world.send(request.der)
    assert seen is not None
    return seen.envelope.der


async def outcome(world: World, request: Request) -> str:
    seen = await world.send(request.der)
    assert seen is not None
    assert seen.body == "rp", seen.status()
    return seen.outcomes()[0]


# --- repeated --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_repeated_rr_gets_the_same_octets_though_its_signer_is_revoked_by_it(
    world: World, restarted: bool
) -> None:
    holder = await world.holder(await world.add_secret())
    request = world.rev_request(holder, rev_details(holder.certificate, 1))
    answer = await octets(world, request)
    if restarted:
        world.restart()
    world.clock.now += 10
    assert await octets(world, request) == answer
    record = await world.record(holder)
    assert (record.state, record.revoked_at) == (REVOKED, NOW)
    assert len(await world.store.history(record.serial)) == 1
    assert world.published == 1
    assert (await world.rr(holder, rev_details(holder.certificate, 1))).outcomes() == ["certRevoked"]


@pytest.mark.parametrize("number", [7, 8])
async def test_a_repeated_rr_that_changed_nothing_gets_the_same_octets(world: World, number: int) -> None:
    holder = await world.holder(await world.add_secret())
    request = world.rev_request(holder, rev_details(holder.certificate, number))
    assert await octets(world, request) == await octets(world, request)


async def test_a_replayed_suspension_does_not_suspend_again(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    holder = await world.holder(await world.add_secret())
    suspend = world.rev_request(agent, rev_details(holder.certificate, 6))
    answer = await octets(world, suspend)
    await world.rr(agent, rev_details(holder.certificate, 8))
    assert await octets(world, suspend) == answer
    assert (await world.record(holder)).state is CONFIRMED


async def test_a_transactionid_in_use_is_refused(world: World) -> None:
    secret = await world.add_secret(may_revoke=True)
    request, _, _ = await world.ir(secret)
    holder = await world.holder(secret)
    body = der.seq(rev_details(holder.certificate, 1))
    taken = protect("rr", body, secret.protector(world.env), world.env, transaction_id=request.transaction_id)
    seen = await world.send(taken.der)
    assert seen is not None
    assert (seen.body, seen.status()[2]) == ("error", {"transactionIdInUse"})
    assert (await world.record(holder)).state is CONFIRMED
    assert world.published == 0


# --- at once ---------------------------------------------------------------------------------------------------------


async def test_of_two_rr_for_the_same_certificate_at_once_exactly_one_is_accepted(world: World) -> None:
    secret = await world.add_secret()
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    for numbers in ((1, 1), (6, 6), (1, 6)):
        holder = await world.holder(secret)
        requests = [
            world.rev_request(credential, rev_details(holder.certificate, number))
            for credential, number in zip((agent, holder), numbers, strict=True)
        ]
        outcomes = sorted(await asyncio.gather(*(outcome(world, request) for request in requests)))
        # by a certificate that is suspended meanwhile nothing may be asked for
        assert outcomes in (["accepted", "certRevoked"], ["accepted", "notAuthorized"])
        record = await world.record(holder)
        assert len(await world.store.history(record.serial)) == 1


async def test_the_same_rr_twice_at_once_gets_the_same_octets(world: World) -> None:
    holder = await world.holder(await world.add_secret())
    request = world.rev_request(holder, rev_details(holder.certificate, 1))
    one, other = await asyncio.gather(octets(world, request), octets(world, request))
    assert one == other
    assert len(await world.store.history(serial_octets(holder.certificate.serial))) == 1


async def test_certificates_that_revoke_each_other_at_once_leave_one(world: World) -> None:
    secret = await world.add_secret()
    pair = [await world.holder(secret) for _ in range(2)]
    requests = [
        world.rev_request(one, rev_details(other.certificate, 1)) for one, other in (pair, list(reversed(pair)))
    ]
    outcomes = sorted(await asyncio.gather(*(outcome(world, request) for request in requests)))
    assert outcomes == ["accepted", "notAuthorized"]
    assert sorted([(await world.record(holder)).state for holder in pair]) == [CONFIRMED, REVOKED]


class Between:
    """A store that lets something else be written just before the next unit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.before: list[Change] = []
        self.stale = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def write(self, changes: list[Change], **options: Any) -> None:
        first, self.before = self.before, []
        if first:
            self.stale += 1
            await self._store.write(first)
        await self._store.write(changes, **options)


async def waiting(world: World) -> tuple[KeyAndCertificate, Request]:
    """A certificate that waits for certConf, and the certConf."""
    request, seen, key = await world.ir(await world.add_secret(), implicit=False)
    content = der.seq(cert_status(seen.certificate(), 0))
    return KeyAndCertificate(key, seen.certificate()), world.follow(request, seen, "certConf", content)


async def test_a_revocation_that_comes_between_wins_over_certconf(world: World) -> None:
    holder, cert_conf = await waiting(world)
    between = Between(world.store)
    world.store = cast(Store, between)
    world.restart()
    serial = serial_octets(holder.certificate.serial)
    between.before = [MoveCertificate(serial, CertificateState.ISSUED, REVOKED, NOW, "keyCompromise", "operator")]
    seen = await world.send(cert_conf.der)
    assert seen is not None
    assert (seen.body, seen.status()[2], between.stale) == ("error", {"badCertId"}, 1)
    assert (await world.record(holder)).reason == "keyCompromise"
    assert (await world.send(cert_conf.der) or seen).envelope.der == seen.envelope.der


async def test_a_confirmation_that_comes_between_does_not_hinder_a_revocation(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    holder, _ = await waiting(world)
    between = Between(world.store)
    world.store = cast(Store, between)
    world.restart()
    serial = serial_octets(holder.certificate.serial)
    between.before = [MoveCertificate(serial, CertificateState.ISSUED, CONFIRMED, NOW, by="certConf")]
    assert (await world.rr(agent, rev_details(holder.certificate, 1))).outcomes() == ["accepted"]
    assert between.stale == 1
    assert [change.state for change in await world.store.history(serial)] == [REVOKED]


async def test_certconf_and_rr_at_once_leave_one_state_and_true_answers(world: World) -> None:
    agent = await world.add_secret("ra1", b"secret of the RA", is_ra=True)
    holder, cert_conf = await waiting(world)
    request = world.rev_request(agent, rev_details(holder.certificate, 1))
    confirmed, revoked = await asyncio.gather(world.send(cert_conf.der), world.send(request.der))
    assert confirmed is not None
    assert cast(Seen, revoked).outcomes() == ["accepted"]
    assert confirmed.body in ("pkiconf", "error")
    assert (await world.record(holder)).state is REVOKED


async def test_an_operator_s_suspension_that_comes_between_is_seen(world: World) -> None:
    secret = await world.add_secret()
    one, other = await world.holder(secret), await world.holder(secret)
    between = Between(world.store)
    world.store = cast(Store, between)
    world.restart()
    serial = serial_octets(one.certificate.serial)
    between.before = [MoveCertificate(serial, CONFIRMED, SUSPENDED, NOW, "certificateHold", "operator")]
    assert (await world.rr(one, rev_details(other.certificate, 1))).outcomes() == ["notAuthorized"]
    assert (await world.record(other)).state is CONFIRMED


async def test_many_rr_at_once_are_all_answered(world: World) -> None:
    secret = await world.add_secret()
    holders = [await world.holder(secret) for _ in range(24)]
    requests = [world.rev_request(holder, rev_details(holder.certificate, 1)) for holder in holders]
    outcomes = await asyncio.gather(*(outcome(world, request) for request in requests))
    assert outcomes == ["accepted"] * len(holders)
