"""Who tries to get something out of the wait for an operator that is not his, or more of it than his share."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import NULL_DN as NULL_NAME
from cmpd.asn1.names import encode_name
from cmpd.client.messages import Template, cert_req_msg
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.message import NULL_DN
from cmpd.origin import Origin
from cmpd.records import TransactionState
from cmpd.store.base import Store
from tests.test_doors_core import at, bare, request_for
from tests.test_waiting import APPROVAL, POLLS, final, ir, poll_req, state, waits
from tests.world import World, rev_details

# --- whose approval it is ---------------------------------------------------------------------------------------------


async def two_holders(**fields: Any) -> tuple[World, Origin, Origin]:
    """Two who speak by TLS client certificates alone, and a profile that waits for an operator."""
    world = World(EnrolmentConfig(), {"default": ProfileConfig()}, **fields)
    one = await world.holder(await world.add_secret())
    other = await world.holder(await world.add_secret("other"), "/CN=other")
    world.profiles["default"] = APPROVAL
    world.restart()
    return world, at(one.certificate.der), at(other.certificate.der)


@pytest.mark.parametrize("polls", [True, False])
@pytest.mark.parametrize("approved", [True, False])
async def test_the_same_unprotected_octets_of_another_tls_client_get_nothing_of_what_waits(
    store: Store, polls: bool, approved: bool
) -> None:
    """Octets without protection say nothing of who sends them: the subject would be that of the other one."""
    world, mine, theirs = await two_holders(store=store)
    mine, theirs = replace(mine, polls=polls), replace(theirs, polls=polls)
    message = cert_req_msg(Template(ec.generate_private_key(ec.SECP256R1()), NULL_NAME), NULL_DN)
    request = bare(world, "cr", der.seq(message))
    first = await world.respond(request.der, mine)
    [kept] = await world.waiting()
    assert kept.subjects == "CN=device"
    if approved:
        await world.approve(kept.reference)
    answer = await world.respond(request.der, theirs)
    assert isinstance(answer, bytes)
    seen = world.read(answer)
    assert (seen.body, seen.status()[2]) == ("error", {"transactionIdInUse"})
    assert await state(world, request) is TransactionState.WAITING
    assert {record.subject_text for record in await world.store.list_certificates()} == {"CN=device", "CN=other"}
    if not approved:
        assert await world.respond(request.der, mine) == first
        return
    granted = await world.respond(request.der, mine)
    assert isinstance(granted, bytes)
    assert world.read(granted).certificate().subject == encode_name("/CN=device")


async def test_the_same_unprotected_octets_of_another_tls_client_get_nothing_of_what_was_answered(
    store: Store,
) -> None:
    world = World(store=store)
    one = await world.holder(await world.add_secret())
    other = await world.holder(await world.add_secret("other"), "/CN=other")
    mine, theirs = at(one.certificate.der), at(other.certificate.der)
    for request in (request_for(world), bare(world, "rr", der.seq(rev_details(one.certificate, 1)))):
        answer = await world.respond(request.der, mine)
        refused = await world.respond(request.der, theirs)
        assert isinstance(refused, bytes)
        assert world.read(refused).status()[2] == {"transactionIdInUse"}
        world.clock.now += 1
        assert await world.respond(request.der, mine) == answer


async def test_what_was_approved_for_an_entity_is_not_granted_to_another_one_with_its_credential() -> None:
    """A certificate may be registered twice: when the first registration ends, it stands for the second entity."""
    world = World(profiles={"default": APPROVAL})
    maker = World()
    holder = await maker.holder(await maker.add_secret(), "/CN=foreign")
    await world.add_certificate("first", holder.certificate.der, subject="/CN=device")
    request, told = await waits(world, holder)
    assert (await world.waiting())[0].entity_id == 1
    await world.add_certificate("second", holder.certificate.der, subject=None)
    await world.store.disable_entity("first")
    await world.approve(told.reference)
    assert (await final(world, told.reference)).status()[2] == {"notAuthorized"}
    assert await state(world, request) is TransactionState.ENDED
    assert await world.store.list_certificates() == []


@pytest.mark.parametrize("after", range(8))
async def test_a_clock_that_is_set_back_grants_nothing_that_nobody_approved(after: int) -> None:
    """After so many looks at it."""
    world = World(profiles={"default": APPROVAL})
    _, told = await waits(world)
    end = world.clock.now + world.enrolment.approval_wait
    times = iter([end + 1] * after)
    world.env = replace(world.env, now=lambda: next(times, end - 60))
    world.restart()
    answer = await world.poll(told.reference, POLLS)
    assert answer == told or world.read(answer).status()[0] == 2
    assert await world.store.list_certificates() == []


# --- more than his share ----------------------------------------------------------------------------------------------


async def test_one_entity_leaves_places_to_the_others(store: Store) -> None:
    world = World(EnrolmentConfig(max_waiting=4), {"default": APPROVAL}, store=store)
    greedy, other = await world.add_secret("greedy"), await world.add_secret("other")
    for _ in range(2):
        await waits(world, greedy)
    refused = await world.send(ir(world, greedy).der, POLLS)
    assert refused is not None
    assert (refused.body, refused.status()[2]) == ("error", {"systemUnavail"})
    assert "of this requester" in refused.status()[1]
    await waits(world, other)


# --- asking in several ways -------------------------------------------------------------------------------------------


async def test_who_repeats_the_request_may_go_on_polling_from_its_answer(store: Store) -> None:
    """A requester that was started anew knows its request alone, and gets the first answer again."""
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret()
    request = ir(world, secret)
    first = await world.ask(request, secret)
    polled = await world.ask(poll_req(world, request, first), secret)
    assert polled.body == "pollRep"
    again = await world.ask(request, secret)
    assert again.envelope.der == first.envelope.der
    assert (await world.ask(poll_req(world, request, again), secret)).body == "pollRep"
