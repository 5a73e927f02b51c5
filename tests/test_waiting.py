"""Requests that wait for an operator: kept, asked for again in three ways, answered when there is a decision."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.changes import MoveCertificate
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.messages import (
    Request,
    Template,
    cert_request,
    cert_status,
    certification_request,
    error_content,
    p10_request,
    protect,
    subject_alt_name,
)
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.errors import StoreConflict, SystemUnavail
from cmpd.handlers.confirm import lapse
from cmpd.origin import Door, Origin, UnknownReference, Waiting
from cmpd.protection.base import ProtectionPolicy
from cmpd.records import CertificateState, TransactionState
from cmpd.responder import Responder, Settings
from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from tests.world import Seen, World

POLLS = Origin("poller", Door("tcp"), polls=True)
APPROVAL = ProfileConfig(approval=True)


@pytest.fixture
def world() -> World:
    return World(profiles={"default": APPROVAL})


def ir(world: World, secret: Credential, body: str = "ir", **wish: Any) -> Request:
    implicit, profile = wish.pop("implicit_confirm", True), wish.pop("profile", None)
    template = Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=device"), **wish)
    return cert_request(body, [template], secret, world.env, implicit_confirm=implicit, profile=profile)


def poll_req(world: World, request: Request, last: Seen, *ids: int, **fields: Any) -> Request:
    content = der.seq(*(der.seq(der.encode_integer(number)) for number in ids or (0,)))
    return world.follow(request, last, "pollReq", content, **fields)


async def states(world: World) -> list[CertificateState]:
    return [record.state for record in await world.store.list_certificates()]


async def state(world: World, request: Request) -> TransactionState:
    found = await world.store.find_transaction(request.transaction_id)
    assert found is not None
    return found.state


async def waits(world: World, secret: Credential | None = None, **wish: Any) -> tuple[Request, Waiting]:
    """A request that waits, and what its requester was told through a door that polls."""
    request = ir(world, secret or await world.add_secret(), **wish)
    answer = await world.respond(request.der, POLLS)
    assert isinstance(answer, Waiting)
    return request, answer


async def final(world: World, reference: int) -> Seen:
    answer = await world.poll(reference, POLLS)
    assert isinstance(answer, bytes)
    return world.read(answer)


# --- waiting ---------------------------------------------------------------------------------------------------------


async def test_a_door_that_polls_is_told_the_reference_and_nothing_is_signed(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    request, told = await waits(world, extensions=(subject_alt_name(["dns:a.example", "ip:192.0.2.1"]),))
    assert told.seconds == world.enrolment.check_after
    assert 1 <= told.reference < 2**32
    [waiting] = await world.waiting()
    assert waiting.reference == told.reference
    assert (waiting.body, waiting.profile) == ("ir", "default")
    assert waiting.subjects == "CN=device, dns:a.example, ip:192.0.2.1"
    assert waiting.expires_at == world.clock.now + world.enrolment.approval_wait
    assert await world.store.list_certificates() == []
    assert await state(world, request) is TransactionState.WAITING


async def test_the_same_octets_and_the_reference_are_answered_by_the_same_waiting(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    request, told = await waits(world)
    assert await world.respond(request.der, POLLS) == told
    assert await world.poll(told.reference, POLLS) == told
    world.restart()
    assert await world.respond(request.der, POLLS) == told
    assert await world.poll(told.reference, POLLS) == told


@pytest.mark.parametrize(("body", "answer"), [("ir", "ip"), ("cr", "cp")])
async def test_other_doors_are_told_status_waiting_for_every_request(store: Store, body: str, answer: str) -> None:
    """RFC 9483 section 4.4; failInfo is prohibited."""
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    templates = [
        Template(keys[0], encode_name("/CN=a"), cert_req_id=7),
        Template(keys[1], encode_name("/CN=b"), issuer=encode_name("/CN=y"), cert_req_id=3),
    ]
    request = cert_request(body, templates, secret, world.env)
    seen = world.read(await world.respond(request.der))
    assert seen.body == answer
    assert [int(item["certReqId"]) for item in seen.content["response"]] == [7, 3]
    for n in range(2):
        status, text, failures = seen.status(n)
        assert (status, failures) == (3, frozenset())
        assert "operator" in text
    assert not seen.envelope.header.implicit_confirm
    assert await world.respond(request.der) == seen.envelope.der
    [waiting] = await world.waiting()
    assert waiting.profile == "default,"


async def test_a_p10cr_waits_as_minus_one_and_may_be_polled_for_as_zero_and_minus_one(world: World) -> None:
    secret = await world.add_secret()
    csr = certification_request(Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x")))
    request = p10_request(csr, secret, world.env)
    seen = world.read(await world.respond(request.der))
    assert (seen.body, int(seen.content["response"][0]["certReqId"]), seen.status()[0]) == ("cp", -1, 3)
    for number in (0, -1):
        seen = world.read(await world.respond(poll_req(world, request, seen, number).der))
        assert seen.body == "pollRep"
        assert int(seen.content[0]["certReqId"]) == number
    await world.approve((await world.waiting())[0].reference)
    done = world.read(await world.respond(poll_req(world, request, seen, -1).der))
    assert (done.body, int(done.content["response"][0]["certReqId"]), done.status()[0]) == ("cp", -1, 0)


async def test_what_is_rejected_as_a_whole_does_not_wait(world: World) -> None:
    secret = await world.add_secret(subject="/CN=somebody else")
    seen = world.read(await world.respond(ir(world, secret).der, POLLS))
    assert seen.status()[2] == {"notAuthorized"}
    assert await world.waiting() == []


async def test_who_has_no_use_left_does_not_wait(world: World) -> None:
    secret = await world.add_secret(uses_left=0)
    seen = world.read(await world.respond(ir(world, secret).der, POLLS))
    assert seen.status()[2] == {"notAuthorized"}
    assert await world.waiting() == []


async def test_only_profiles_with_approval_wait_and_the_message_waits_as_a_whole() -> None:
    world = World(profiles={"default": ProfileConfig(), "vip": APPROVAL})
    secret = await world.add_secret(profiles=("default", "vip"))
    assert isinstance(await world.respond(ir(world, secret).der, POLLS), bytes)
    assert isinstance(await world.respond(ir(world, secret, profile="vip").der, POLLS), Waiting)


async def test_too_many_waiting_requests_are_told_systemunavail_and_may_come_again(store: Store) -> None:
    world = World(EnrolmentConfig(max_waiting=1), {"default": APPROVAL}, store=store)
    secret = await world.add_secret()
    _, told = await waits(world, secret)
    second = ir(world, secret)
    seen = world.read(await world.respond(second.der, POLLS))
    assert (seen.body, seen.status()[2]) == ("error", {"systemUnavail"})
    assert "wait for an operator" in seen.status()[1]
    await world.approve(told.reference)
    await final(world, told.reference)
    assert isinstance(await world.respond(second.der, POLLS), Waiting)


async def test_a_reference_that_is_taken_is_replaced_by_another(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    numbers = iter([5, 5, 6])
    real = world.env.random
    world.env = replace(world.env, random=lambda n: next(numbers).to_bytes(4, "big") if n == 4 else real(n))
    world.restart()
    secret = await world.add_secret()
    assert [(await waits(world, secret))[1].reference for _ in range(2)] == [5, 6]


async def test_a_reference_is_never_zero(world: World) -> None:
    real = world.env.random
    world.env = replace(world.env, random=lambda n: bytes(4) if n == 4 else real(n))
    world.restart()
    assert (await waits(world))[1].reference == 1


# --- decided ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["reference", "same octets"])
async def test_an_approved_request_is_answered_once_and_then_by_the_same_octets(store: Store, way: str) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret(uses_left=1)
    request, told = await waits(world, secret)
    await world.approve(told.reference)
    assert await world.store.list_certificates() == []
    answer = await world.poll(told.reference, POLLS) if way == "reference" else await world.respond(request.der, POLLS)
    seen = world.read(answer)
    assert (seen.body, seen.status()[0]) == ("ip", 0)
    assert seen.certificate().subject_text == "CN=device"
    assert seen.envelope.header.recip_nonce == request.sender_nonce
    assert seen.envelope.header.implicit_confirm
    assert await states(world) == [CertificateState.CONFIRMED]
    assert await world.poll(told.reference, POLLS) == answer
    assert await world.respond(request.der, POLLS) == answer
    assert await world.respond(request.der) == answer
    entity = await world.store.find_entity("device")
    assert entity is not None
    assert entity.uses_left == 0


async def test_a_request_that_waited_at_a_door_without_polling_is_answered_when_it_comes_again(world: World) -> None:
    secret = await world.add_secret()
    request = ir(world, secret)
    seen = await world.ask(request, secret)
    assert seen.status()[0] == 3
    [waiting] = await world.waiting()
    assert await world.respond(request.der, POLLS) == Waiting(waiting.reference, world.enrolment.check_after)
    await world.approve(waiting.reference)
    done = await world.ask(request, secret)
    assert done.status()[0] == 0
    assert await world.respond(request.der) == done.envelope.der


async def test_a_request_that_waited_at_a_polling_door_may_go_on_elsewhere(world: World) -> None:
    secret = await world.add_secret()
    request, told = await waits(world, secret)
    seen = await world.ask(request, secret)
    assert seen.status()[0] == 3
    assert await world.respond(request.der) == seen.envelope.der
    polled = world.read(await world.respond(poll_req(world, request, seen).der))
    assert polled.body == "pollRep"
    await world.approve(told.reference)
    done = world.read(await world.respond(poll_req(world, request, polled).der))
    assert done.status()[0] == 0
    assert (await final(world, told.reference)).envelope.der == done.envelope.der


async def test_a_rejected_request_is_told_the_operators_words(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    request, told = await waits(world)
    await world.reject(told.reference, "no such device")
    seen = await final(world, told.reference)
    assert seen.body == "ip"
    assert seen.status() == (
        2,
        "request: the operator of the CA has rejected it: no such device (RFC 9483 section 3.5)",
        {"notAuthorized"},
    )
    assert await state(world, request) is TransactionState.ENDED
    assert await world.respond(request.der, POLLS) == seen.envelope.der
    assert await world.store.list_certificates() == []


async def test_a_decision_is_made_once_and_not_after_the_end(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    _, told = await waits(world)
    await world.approve(told.reference)
    with pytest.raises(StoreConflict):
        await world.reject(told.reference)


@pytest.mark.parametrize("approved", [True, False])
async def test_what_nobody_approves_or_asks_for_in_time_is_rejected(world: World, approved: bool) -> None:
    secret = await world.add_secret()
    request, told = await waits(world, secret)
    if approved:
        await world.approve(told.reference)
    world.clock.now += world.enrolment.approval_wait - 1
    if not approved:
        assert await world.poll(told.reference, POLLS) == told
    world.clock.now += 1
    seen = await final(world, told.reference)
    assert seen.status()[2] == {"notAuthorized"}
    assert "expired" in seen.status()[1]
    assert await state(world, request) is TransactionState.ENDED
    assert await world.store.list_certificates() == []


async def test_messagetime_is_not_looked_at_when_a_request_has_waited(world: World) -> None:
    secret = await world.add_secret()
    request, told = await waits(world, secret)
    world.clock.now += 100_000
    assert await world.respond(request.der, POLLS) == told
    await world.approve(told.reference)
    assert (await world.ask(request, secret)).status()[0] == 0
    late = ir(world, secret)
    world.clock.now += 100_000
    assert (await world.ask(late, secret)).status()[2] == {"badTime"}


async def test_who_was_disabled_meanwhile_is_refused_and_the_wait_is_over(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    request, told = await waits(world)
    await world.store.disable_entity("device")
    assert await world.poll(told.reference, POLLS) == told  # looked at only when there is a decision
    await world.approve(told.reference)
    seen = await final(world, told.reference)
    assert (seen.body, seen.status()[2]) == ("error", {"badMessageCheck"})
    assert seen.envelope.extra_certs[0] == world.cmp  # no MAC for whom nobody vouches
    assert await state(world, request) is TransactionState.ENDED
    assert await world.poll(told.reference, POLLS) == seen.envelope.der
    assert await world.store.list_certificates() == []


async def test_who_has_no_use_left_by_then_is_rejected(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret(uses_left=1)
    both = [await waits(world, secret) for _ in range(2)]
    for _, told in both:
        await world.approve(told.reference)
    outcomes = [(await final(world, told.reference)).status()[2] for _, told in both]
    assert outcomes == [frozenset(), {"notAuthorized"}]
    assert await state(world, both[1][0]) is TransactionState.ENDED


async def test_nothing_is_granted_that_the_operator_has_not_seen() -> None:
    """A request that was refused when it came stays refused, though it would be granted by now."""
    world = World(profiles={"default": ProfileConfig(approval=True, keys=("p256",))})
    secret = await world.add_secret()
    templates = [
        Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=a"), cert_req_id=0),
        Template(ec.generate_private_key(ec.SECP384R1()), encode_name("/CN=b"), cert_req_id=1),
    ]
    request = cert_request("ir", templates, secret, world.env)
    told = await world.respond(request.der, POLLS)
    assert isinstance(told, Waiting)
    assert (await world.waiting())[0].subjects == "CN=a"
    await world.approve(told.reference)
    world.profiles["default"] = APPROVAL
    world.restart()
    seen = await final(world, told.reference)
    assert [seen.status(n)[0] for n in range(2)] == [0, 2]
    assert seen.status(1)[2] == {"notAuthorized"}


async def test_what_was_approved_keeps_its_profile_through_another_door() -> None:
    world = World(profiles={"default": ProfileConfig(), "vip": APPROVAL})
    secret = await world.add_secret(profiles=("default", "vip"))
    request = ir(world, secret)
    told = await world.respond(request.der, replace(POLLS, profile="vip"))
    assert isinstance(told, Waiting)
    await world.approve(told.reference)
    assert (await final(world, told.reference)).status()[0] == 0
    assert [record.profile for record in await world.store.list_certificates()] == ["vip"]


async def test_a_kur_waits_and_keeps_the_old_profile() -> None:
    world = World(profiles={"default": ProfileConfig(), "vip": ProfileConfig()})
    secret = await world.add_secret(profiles=("vip",))
    holder = await world.holder(secret)
    world.profiles["vip"] = APPROVAL
    world.restart()
    _, told = await waits(world, holder, body="kur")
    await world.approve(told.reference)
    assert (await final(world, told.reference)).body == "kup"
    assert [record.profile for record in await world.store.list_certificates()] == ["vip", "vip"]


async def test_confirmation_is_awaited_after_the_wait_as_usual(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret()
    request, told = await waits(world, secret, implicit_confirm=False)
    await world.approve(told.reference)
    seen = await final(world, told.reference)
    assert await states(world) == [CertificateState.ISSUED]
    content = der.seq(cert_status(seen.certificate(), 0))
    assert (await world.ask(world.follow(request, seen, "certConf", content), secret)).body == "pkiconf"
    assert await states(world) == [CertificateState.CONFIRMED]


# --- polling by reference --------------------------------------------------------------------------------------------


async def test_unknown_references_are_unknown(world: World) -> None:
    for reference in (1, 2**32 - 1):
        with pytest.raises(UnknownReference):
            await world.poll(reference, POLLS)


async def test_polling_changes_nothing_while_there_is_no_decision(world: World) -> None:
    _, told = await waits(world)
    written = 0

    class Counting(MemoryStore):
        async def write(self, *args: Any, **fields: Any) -> None:
            nonlocal written
            written += 1

    counting = Counting()
    counting._tables = world.store._tables
    world.store = counting
    world.restart()
    for _ in range(10):
        assert await world.poll(told.reference, POLLS) == told
    assert written == 0


async def test_an_answer_that_is_forgotten_is_unknown(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    _, told = await waits(world)
    await world.approve(told.reference)
    await final(world, told.reference)
    await world.store.purge(int(world.clock.now) + 1, 10)
    with pytest.raises(UnknownReference):
        await world.poll(told.reference, POLLS)


async def test_polls_at_the_same_time_get_the_same_octets(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    request, told = await waits(world)
    await world.approve(told.reference)
    answers = await asyncio.gather(
        *(world.poll(told.reference, POLLS) for _ in range(10)), *(world.respond(request.der, POLLS) for _ in range(10))
    )
    assert len(set(answers)) == 1
    assert len(await world.store.list_certificates()) == 1


async def test_after_a_crash_between_claim_and_answer_it_waits_again_as_approved(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret(uses_left=1)
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    [kept] = await world.waiting()
    await world.approve(kept.reference)

    class Killed(BaseException):
        pass

    async def sign(intent: object) -> bytes:
        raise Killed

    real, world.ca.sign = world.ca.sign, sign
    with pytest.raises(Killed):
        await world.poll(kept.reference, POLLS)
    world.ca.sign = real
    assert await state(world, request) is TransactionState.PROCESSING
    assert await world.store.recover(int(world.clock.now)) == 1
    world.restart()
    assert await state(world, request) is TransactionState.WAITING
    done = await world.ask(poll_req(world, request, waiting), secret)  # its nonces are still good
    assert done.status()[0] == 0
    assert sorted(await states(world)) == [CertificateState.ABANDONED, CertificateState.CONFIRMED]


async def test_a_key_that_fails_ends_the_wait_for_every_way_of_asking(world: World) -> None:
    secret = await world.add_secret(uses_left=1)
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    [kept] = await world.waiting()
    await world.approve(kept.reference)

    async def sign(octets: bytes) -> bytes:
        raise OSError("gone")

    real, world.ca._key = world.ca._key, type("Broken", (), {"sign": staticmethod(sign)})()
    poll = poll_req(world, request, waiting)
    seen = await world.ask(poll, secret)
    assert (seen.body, seen.status()[2]) == ("error", {"systemFailure"})
    world.ca._key = real
    for answer in (
        await world.respond(poll.der),
        await world.respond(request.der),
        await world.poll(kept.reference, POLLS),
    ):
        assert answer == seen.envelope.der
    entity = await world.store.find_entity("device")
    assert entity is not None
    assert entity.uses_left == 1


async def test_a_server_that_is_too_busy_to_verify_the_request_does_not_end_the_wait(world: World) -> None:
    request, told = await waits(world)
    await world.approve(told.reference)

    async def full(derive: object, iterations: int) -> bytes:
        raise SystemUnavail("too much to derive")

    world.policy = ProtectionPolicy(inline_iterations=0)
    world.restart()
    world.service = replace(world.service, offload=full)
    world.responder = Responder(world.service, world.credentials, world.signer, Settings(None, asyncio.Event))
    assert (await final(world, told.reference)).status()[2] == {"systemUnavail"}
    assert await state(world, request) is TransactionState.WAITING
    world.policy = ProtectionPolicy()
    world.restart()
    assert (await final(world, told.reference)).status()[0] == 0


# --- CMP's own polling -----------------------------------------------------------------------------------------------


async def test_pollreq_is_answered_by_pollrep_and_then_by_the_final_answer(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret()
    request = ir(world, secret)
    last = await world.ask(request, secret)
    for _ in range(3):
        poll = poll_req(world, request, last)
        answer = await world.ask(poll, secret)
        assert answer.body == "pollRep"
        assert int(answer.content[0]["certReqId"]) == 0
        assert int(answer.content[0]["checkAfter"]) == world.enrolment.check_after
        assert "operator" in str(answer.content[0]["reason"][0])
        header = answer.envelope.header
        assert header.recip_nonce == poll.sender_nonce
        assert len(header.sender_nonce or b"") == 16
        assert header.sender_nonce != last.envelope.header.sender_nonce
        last = answer
    await world.approve((await world.waiting())[0].reference)
    poll = poll_req(world, request, last)
    done = await world.ask(poll, secret)
    assert (done.body, done.status()[0]) == ("ip", 0)
    assert done.envelope.header.recip_nonce == poll.sender_nonce
    assert done.envelope.header.transaction_id == request.transaction_id
    assert done.envelope.header.implicit_confirm
    assert len(done.content["caPubs"]) == 1
    assert await world.respond(poll.der) == done.envelope.der
    assert await world.respond(request.der) == done.envelope.der


async def test_a_pollreq_whose_answer_was_lost_may_come_again(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret()
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    poll = poll_req(world, request, waiting)
    first, second = await world.ask(poll, secret), await world.ask(poll, secret)
    assert first.envelope.header.sender_nonce == second.envelope.header.sender_nonce
    world.restart()
    await world.approve((await world.waiting())[0].reference)
    assert (await world.ask(poll, secret)).status()[0] == 0


async def test_an_older_pollreq_may_not_come_again(world: World) -> None:
    secret = await world.add_secret()
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    old = poll_req(world, request, waiting)
    await world.ask(poll_req(world, request, await world.ask(old, secret)), secret)
    await world.approve((await world.waiting())[0].reference)
    assert (await world.ask(old, secret)).status()[2] == {"badRecipientNonce"}
    assert await world.store.list_certificates() == []


@pytest.mark.parametrize("fields", [{"recip_nonce": None}, {"recip_nonce": bytes(16)}], ids=["none", "wrong"])
async def test_pollreq_needs_the_nonce_of_the_last_answer(world: World, fields: dict[str, Any]) -> None:
    secret = await world.add_secret()
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    await world.approve((await world.waiting())[0].reference)
    refused = await world.ask(poll_req(world, request, waiting, **fields), secret)
    assert (refused.body, refused.status()[2]) == ("error", {"badRecipientNonce"})
    assert (await world.ask(poll_req(world, request, waiting), secret)).status()[0] == 0


async def test_pollreq_needs_the_credentials_of_the_first_request(world: World) -> None:
    secret, stranger = await world.add_secret(), await world.add_secret("stranger", b"another secret")
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    await world.approve((await world.waiting())[0].reference)
    theirs = replace(request, protector=stranger.protector(world.env))
    refused = await world.ask(poll_req(world, theirs, waiting), stranger)
    assert (refused.body, refused.status()[2]) == ("error", {"notAuthorized"})
    assert await world.store.list_certificates() == []


async def test_pollreq_may_omit_the_protection_certificate() -> None:
    """RFC 9483 section 3.3: it is remembered from the first request."""
    world = World()
    holder = await world.holder(await world.add_secret())
    world.profiles["default"] = APPROVAL
    world.restart()
    request = ir(world, holder, "cr")
    waiting = await world.ask(request, holder)
    bare = replace(request, protector=replace(request.protector, extra_certs=()))
    assert (await world.ask(poll_req(world, bare, waiting), holder)).body == "pollRep"


@pytest.mark.parametrize(
    ("content", "failure"),
    [
        (der.seq(der.seq(der.encode_integer(5))), "badCertId"),
        (der.seq(), "badDataFormat"),
        (der.seq(*[der.seq(der.encode_integer(0))] * 2), "badDataFormat"),
        (der.seq(*[der.seq(der.encode_integer(n)) for n in (0, -1, 1)]), "badDataFormat"),
        (der.seq(der.encode_integer(0)), "badDataFormat"),
        (der.seq(der.seq(der.encode_integer(0), der.encode_integer(0))), "badDataFormat"),
        (der.seq(der.seq(der.encode_integer(2**70))), "badDataFormat"),
        (der.NULL_TLV, "badDataFormat"),
    ],
    ids=["unknown", "empty", "twice", "too many", "flat", "two values", "huge", "null"],
)
async def test_a_pollreq_that_asks_for_something_else_is_refused_and_the_wait_goes_on(
    world: World, content: bytes, failure: str
) -> None:
    secret = await world.add_secret()
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    refused = await world.ask(world.follow(request, waiting, "pollReq", content), secret)
    assert (refused.body, refused.status()[2]) == ("error", {failure})
    assert (await world.ask(poll_req(world, request, waiting, 0, -1), secret)).body == "pollRep"


async def test_pollreq_where_nothing_waits_is_told_badrequest() -> None:
    """RFC 9483 section 4.4."""
    world = World()
    secret = await world.add_secret()
    for implicit in (True, False):
        request, seen, _ = await world.ir(secret, implicit=implicit)
        assert (await world.ask(poll_req(world, request, seen), secret)).status()[2] == {"badRequest"}
    unknown = protect("pollReq", der.seq(der.seq(der.encode_integer(0))), secret.protector(world.env), world.env)
    world.polled_for[unknown.der] = request
    assert (await world.ask(unknown, secret)).status()[2] == {"badRequest"}


async def test_certconf_while_the_request_waits_is_told_badrequest(world: World) -> None:
    secret = await world.add_secret()
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    assert (await world.ask(world.follow(request, waiting, "certConf", b"\x30\x00"), secret)).status()[2] == {
        "badRequest"
    }


async def test_an_error_from_the_client_ends_the_wait(store: Store) -> None:
    world = World(profiles={"default": APPROVAL}, store=store)
    secret = await world.add_secret()
    request = ir(world, secret)
    waiting = await world.ask(request, secret)
    [kept] = await world.waiting()
    assert (await world.ask(world.follow(request, waiting, "error", error_content("enough")), secret)).body == "pkiconf"
    assert await state(world, request) is TransactionState.ENDED
    assert await world.waiting() == []
    with pytest.raises(UnknownReference):
        await world.poll(kept.reference, POLLS)
    assert (await world.ask(request, secret)).status()[2] == {"badRequest"}
    assert (await world.ask(poll_req(world, request, waiting), secret)).status()[2] == {"badRequest"}


async def test_another_request_with_the_transactionid_of_one_that_waits_is_refused(world: World) -> None:
    secret = await world.add_secret()
    request, told = await waits(world, secret)
    other = protect(
        "ir", ir(world, secret).der and b"\x30\x00", request.protector, world.env, transaction_id=request.transaction_id
    )
    assert (await world.ask(other, secret)).status()[2] == {"transactionIdInUse"}
    assert await world.poll(told.reference, POLLS) == told


async def test_what_waits_and_what_becomes_of_it_is_in_the_audit_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cmpd.audit")
    _, told = await waits(world)
    assert f"request waits for an operator reference={told.reference:08X} body=ir profile=default" in caplog.text
    assert "subjects='CN=device'" in caplog.text
    await world.approve(told.reference)
    await final(world, told.reference)
    assert f"waiting request answered reference={told.reference:08X} decision=approved by='operator'" in caplog.text
    assert "peer=poller" in caplog.text


# --- profiles that await no confirmation -----------------------------------------------------------------------------

AT_ONCE = ProfileConfig(await_confirmation=False)


async def issue(world: World, **wish: Any) -> tuple[SharedSecret, Request, Seen]:
    secret = await world.add_secret()
    request, seen, _ = await world.ir(secret, **wish)
    return secret, request, seen


@pytest.fixture
def at_once() -> World:
    return World(profiles={"default": AT_ONCE})


async def test_without_awaited_confirmation_a_certificate_is_valid_at_once(store: Store) -> None:
    world = World(profiles={"default": AT_ONCE}, store=store)
    _, request, seen = await issue(world, implicit=False)
    assert await states(world) == [CertificateState.CONFIRMED]
    assert seen.envelope.header.general_info == ()
    assert await state(world, request) is TransactionState.CONFIRMING


@pytest.mark.parametrize("granted", [True, False])
async def test_implicitconfirm_is_said_if_it_was_asked_for(granted: bool) -> None:
    world = World(EnrolmentConfig(implicit_confirm=granted), {"default": AT_ONCE})
    _, request, seen = await issue(world)
    assert seen.envelope.header.implicit_confirm
    assert await state(world, request) is TransactionState.ENDED


async def test_a_certconf_that_comes_all_the_same_is_answered(store: Store) -> None:
    world = World(profiles={"default": AT_ONCE}, store=store)
    secret, request, seen = await issue(world, implicit=False)
    content = der.seq(cert_status(seen.certificate(), 0))
    assert (await world.ask(world.follow(request, seen, "certConf", content), secret)).body == "pkiconf"
    assert await states(world) == [CertificateState.CONFIRMED]
    assert await state(world, request) is TransactionState.ENDED


@pytest.mark.parametrize("what", ["certConf", "wrong hash", "error"])
async def test_a_rejection_that_comes_revokes(at_once: World, what: str) -> None:
    secret, request, seen = await issue(at_once, implicit=False)
    other = await at_once.holder(await at_once.add_secret("other"), "/CN=other")
    body, content, answer = {
        "certConf": ("certConf", der.seq(cert_status(seen.certificate(), 0, reject="no")), "pkiconf"),
        "wrong hash": ("certConf", der.seq(cert_status(other.certificate, 0)), "error"),
        "error": ("error", error_content("no"), "pkiconf"),
    }[what]
    assert (await at_once.ask(at_once.follow(request, seen, body, content), secret)).body == answer
    assert set(await states(at_once)) == {CertificateState.CONFIRMED, CertificateState.REVOKED}
    assert at_once.published == 1


async def test_when_the_time_is_over_nothing_happens_to_the_certificate(store: Store) -> None:
    world = World(profiles={"default": AT_ONCE}, store=store)
    secret, request, seen = await issue(world, implicit=False)
    world.clock.now += world.enrolment.confirm_wait + 1
    assert await lapse(world.service) == 1
    assert await lapse(world.service) == 0
    assert await states(world) == [CertificateState.CONFIRMED]
    assert await state(world, request) is TransactionState.ENDED
    assert world.published == 0
    late = world.follow(request, seen, "certConf", der.seq(cert_status(seen.certificate(), 0)))
    assert (await world.ask(late, secret)).status()[2] == {"certConfirmed"}


async def test_what_was_revoked_meanwhile_stays_so_when_the_time_is_over(at_once: World) -> None:
    await issue(at_once, implicit=False)
    [record] = await at_once.store.list_certificates()
    revoke = MoveCertificate(
        record.serial, CertificateState.CONFIRMED, CertificateState.REVOKED, int(at_once.clock.now), "keyCompromise"
    )
    await at_once.store.write([revoke])
    at_once.clock.now += at_once.enrolment.confirm_wait + 1
    assert await lapse(at_once.service) == 1
    assert (await at_once.store.list_certificates())[0].reason == "keyCompromise"


@pytest.mark.parametrize("profiles", [("soon", "default"), ("soon", "soon")])
async def test_confirmation_is_awaited_unless_all_profiles_of_the_message_say_no(profiles: tuple[str, str]) -> None:
    world = World(profiles={"default": ProfileConfig(), "soon": AT_ONCE})
    secret = await world.add_secret(profiles=("default", "soon"))
    templates = [
        Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=x"), cert_req_id=n) for n in range(2)
    ]
    protector = secret.protector(world.env)
    plain = world.read(cert_request("ir", templates, secret, world.env).der).envelope
    names = der.seq(*map(der.encode_utf8, profiles))
    info = [der.seq(der.encode_oid("1.3.6.1.5.5.7.4.21"), names)]
    await world.ask(protect("ir", plain.body, protector, world.env, info=info), secret)
    awaited = "default" in profiles
    assert set(await states(world)) == {CertificateState.ISSUED if awaited else CertificateState.CONFIRMED}


async def test_a_certificate_that_awaits_no_confirmation_may_be_used_at_once(at_once: World) -> None:
    secret = await at_once.add_secret()
    _, seen, key = await at_once.ir(secret, implicit=False)
    _, again, _ = await at_once.ir(KeyAndCertificate(key, seen.certificate()), body="cr")
    assert again.status()[0] == 0
