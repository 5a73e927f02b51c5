"""A request that somebody recorded gets no second certificate, however long ago it was answered: for each store."""

import os

import pytest

from cmpd.client.credentials import Credential
from cmpd.store.base import Store
from tests.hostile import craft
from tests.world import World

DAY = 86_400


async def recorded(world: World, credential: Credential, body: str) -> bytes:
    """The octets of a request without messageTime: nothing in them says how old they are."""
    draft, protector = craft.request(world, credential, body)
    assert draft["messageTime"]
    return draft.drop("messageTime").seal(protector)


async def purged(world: World) -> int:
    """A day later the transactions that have ended are purged, and all that a restart forgets is forgotten."""
    world.clock.now += DAY + 100
    count = await world.store.purge(int(world.clock.now) - DAY, 100)
    world.restart()
    return count


@pytest.mark.parametrize("body", ["ir", "cr", "kur"])
async def test_a_replay_after_the_purge_is_told_transactionidinuse(store: Store, body: str) -> None:
    world = World(store=store)
    secret = await world.add_secret()
    credential: Credential = secret
    if body == "kur":
        credential = await world.holder(secret)
    octets = await recorded(world, credential, body)
    first = await world.send(octets)
    assert first is not None
    assert first.status()[0] == 0
    again = await world.send(octets)
    assert again is not None
    assert again.envelope.der == first.envelope.der
    issued = await store.list_certificates()
    assert await purged(world) == 1 + (body == "kur")
    for _ in range(2):
        late = await world.send(octets)
        assert late is not None
        assert (late.body, late.status()[2]) == ("error", {"transactionIdInUse"})
        assert await purged(world) == 0
    assert await store.list_certificates() == issued


async def test_a_replay_of_a_rejected_request_is_judged_anew(store: Store) -> None:
    world = World(store=store)
    secret = await world.add_secret(subject="/CN=another")
    octets = await recorded(world, secret, "ir")
    for _ in range(2):
        seen = await world.send(octets)
        assert seen is not None
        assert (seen.body, seen.status()[2]) == ("ip", {"notAuthorized"})
        assert await purged(world) == 1
    assert await store.list_certificates() == []


async def test_a_transactionid_of_long_ago_is_refused_to_everybody(store: Store) -> None:
    world = World(store=store)
    one, other = await world.add_secret("one", b"1"), await world.add_secret("other", b"2")
    transaction_id = os.urandom(16)
    for credential, failures in ((one, frozenset()), (other, {"transactionIdInUse"}), (one, {"transactionIdInUse"})):
        draft, protector = craft.request(world, credential)
        seen = await world.send(draft.set("transactionID", b"\x04\x10" + transaction_id).seal(protector))
        assert seen is not None
        assert seen.status()[2] == failures
        await purged(world)
    assert len(await store.list_certificates()) == 1
