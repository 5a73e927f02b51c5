"""What every store promises of requests that wait for an operator (store/base.py)."""

import asyncio
from dataclasses import replace

import pytest

from cmpd.changes import (
    AddCertificate,
    AddIntent,
    AddResponse,
    AddWaiting,
    Change,
    DecideWaiting,
    MoveTransaction,
    OpenTransaction,
    SetRevocationPassphrase,
    TakeUse,
)
from cmpd.errors import StaleRead, StoreConflict, StoreError
from cmpd.records import CertificateState, Decision, Entity, RevocationPassphrase, TransactionState, WaitingRequest
from cmpd.store.base import Store
from tests.store.samples import NOW, answer, claim, entity, holding, intent, octets, opening, transaction, waiting

PROCESSING, WAITING = TransactionState.PROCESSING, TransactionState.WAITING
CONFIRMING, ENDED = TransactionState.CONFIRMING, TransactionState.ENDED
APPROVED, REJECTED, UNDECIDED = Decision.APPROVED, Decision.REJECTED, Decision.UNDECIDED


def decide(number: int, decision: Decision = APPROVED, at: int = NOW + 5, text: str = "") -> DecideWaiting:
    return DecideWaiting(octets(number), decision, at, "operator", text)


def ending(number: int, expected: TransactionState = WAITING, at: int = NOW + 6) -> MoveTransaction:
    return MoveTransaction(octets(number), expected, ENDED, b"e" * 16, ended_at=at)


async def waits(store: Store, number: int) -> WaitingRequest:
    found = await store.find_waiting(number)
    assert found is not None
    return found


async def state_of(store: Store, number: int) -> TransactionState | None:
    found = await store.find_transaction(octets(number))
    return None if found is None else found.state


async def listed(store: Store, **which: int | bool) -> list[int]:
    return [request.reference for request in await store.list_waiting(**which)]


# --- a request is kept, decided and fetched ---------------------------------------------------------------------------


async def test_a_request_waits_is_approved_and_is_fetched(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=3))
    await store.write(holding(1, owner))
    kept = waiting(1, owner)
    assert await store.find_waiting(1) == kept
    assert await store.find_transaction(octets(1)) == transaction(1, owner, state=WAITING, waiting=kept)
    assert await store.list_waiting() == [replace(kept, request=b"")]

    await store.write([decide(1, text="who is this?")])
    approved = replace(kept, decision=APPROVED, decided_at=NOW + 5, decided_by="operator", text="who is this?")
    assert await store.find_waiting(1) == approved
    assert await store.find_transaction(octets(1)) == transaction(1, owner, state=WAITING, waiting=approved)
    assert await store.list_waiting() == []
    assert await store.list_waiting(undecided_only=False) == [replace(approved, request=b"")]

    await store.write(claim(1, owner))
    assert await store.find_waiting(1) == replace(approved, answered=True)
    await store.write(answer(1, confirm_by=NOW + 60))
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert (found.state, found.waiting) == (CONFIRMING, replace(approved, answered=True))
    assert [record.serial for record in found.certificates] == [octets(1, 14)]
    assert await store.unconfirmed(NOW + 61, 9) == [found]
    assert await listed(store, undecided_only=False) == [1]


async def test_a_rejection_is_kept_with_its_reason(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner))
    await store.write([decide(1, REJECTED, text="unknown device")])
    await store.write([ending(1), AddResponse(octets(1), octets(1, 32), b"rejection")])
    found = await waits(store, 1)
    assert (found.decision, found.text, found.answered) == (REJECTED, "unknown device", True)
    assert await state_of(store, 1) is ENDED


async def test_a_request_is_kept_undecided_whatever_its_record_says(store: Store) -> None:
    owner = await store.add_entity(entity())
    decided: dict[str, object] = {"decision": APPROVED, "decided_at": 1, "decided_by": "x", "text": "y"}
    await store.write(holding(1, owner, answered=True, **decided))
    assert await store.find_waiting(1) == waiting(1, owner)


async def test_a_poll_changes_the_nonce_and_nothing_else(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner))
    polled = MoveTransaction(octets(1), WAITING, WAITING, b"p" * 16)
    await store.write([polled, AddResponse(octets(1), octets(9, 32), b"pollRep")])
    await store.write([polled])
    assert await store.find_transaction(octets(1)) == transaction(
        1, owner, state=WAITING, server_nonce=b"p" * 16, waiting=waiting(1, owner)
    )
    assert await listed(store) == [1]


async def test_a_transaction_that_never_waited_has_no_request(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner))
    await store.write(opening(2, owner))
    found = await store.find_transaction(octets(2))
    assert found is not None
    assert found.waiting is None


@pytest.mark.parametrize("reference", [0, 2, -1, 2**32, 2**63, 2**64])
async def test_an_unknown_reference_finds_nothing(store: Store, reference: int) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner))
    assert await store.find_waiting(reference) is None


@pytest.mark.parametrize("reference", [1, 2**31, 2**32 - 1])
async def test_a_reference_has_32_bits(store: Store, reference: int) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner, reference=reference))
    assert (await waits(store, reference)).reference == reference


async def test_requests_are_listed_by_reference_in_pages(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number, reference in enumerate([30, 10, 2**32 - 1, 20], start=1):
        await store.write(holding(number, owner, reference=reference))
    await store.write([decide(1)])
    await store.write([ending(2)])
    assert await listed(store) == [20, 2**32 - 1]  # 10 was answered though nobody had decided
    assert await listed(store, undecided_only=False) == [10, 20, 30, 2**32 - 1]
    assert await listed(store, undecided_only=False, limit=2) == [10, 20]
    assert await listed(store, undecided_only=False, limit=2, after=20) == [30, 2**32 - 1]
    assert await listed(store, after=20) == [2**32 - 1]
    assert {request.request for request in await store.list_waiting(undecided_only=False)} == {b""}


# --- conflicts --------------------------------------------------------------------------------------------------------


async def test_a_reference_is_of_one_request_alone_until_it_is_purged(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner, reference=7))
    for _ in ("waiting", "answered"):
        with pytest.raises(StoreConflict, match=r"^reference taken$"):
            await store.write(holding(2, owner, reference=7))
        assert await store.find_transaction(octets(2)) is None
        if await state_of(store, 1) is WAITING:
            await store.write([ending(1)])
    assert await store.purge(NOW + 7, 9) == 1
    await store.write(holding(2, owner, reference=7))
    assert (await waits(store, 7)).transaction_id == octets(2)


async def test_those_that_wait_are_counted_until_they_are_fetched(store: Store) -> None:
    owner, others = await store.add_entity(entity()), await store.add_entity(entity("others"))
    await store.write(holding(1, owner, limit=2))
    await store.write(holding(2, others, limit=2))

    async def refused() -> None:
        with pytest.raises(StoreConflict, match=r"^too many waiting$"):
            await store.write(holding(3, owner, limit=2))
        assert await store.find_transaction(octets(3)) is None
        assert await store.find_waiting(3) is None

    await refused()
    await store.write([decide(1)])
    await refused()  # decided, not fetched
    await store.write(claim(1, owner))
    await store.write(holding(3, owner, limit=2))
    with pytest.raises(StoreConflict, match=r"^too many waiting$"):
        await store.write(holding(4, owner, limit=2))
    await store.write(holding(4, owner, limit=4))


async def test_the_limit_holds_for_those_that_come_together(store: Store) -> None:
    owners = [await store.add_entity(entity(f"owner {number}")) for number in range(1, 21)]
    units = [store.write(holding(number, owner, limit=5)) for number, owner in enumerate(owners, 1)]
    results = await asyncio.gather(*units, return_exceptions=True)
    assert [str(result) for result in results if result is not None] == ["too many waiting"] * 15
    assert len(await store.list_waiting()) == 5


@pytest.mark.parametrize(("limit", "share"), [(1, 1), (2, 1), (3, 2), (10, 5), (11, 6)])
async def test_one_entity_leaves_places_to_the_others(store: Store, limit: int, share: int) -> None:
    greedy, second, third = [await store.add_entity(entity(name)) for name in ("greedy", "second", "third")]
    for number in range(1, share + 1):
        await store.write(holding(number, greedy, limit=limit))
    left = limit - share
    if left:
        with pytest.raises(StoreConflict, match=r"^too many waiting of one$"):
            await store.write(holding(90, greedy, limit=limit))
        await store.write(holding(91, second, limit=limit))
    if left > 1:
        await store.write(holding(92, third, limit=limit))
        await store.write([ending(1)])  # a place of its own that is free again may be taken again, or not
        with pytest.raises(StoreConflict, match=r"^too many waiting of one$"):
            await store.write(holding(90, greedy, limit=limit))
        await store.write(holding(90, greedy, limit=2 * limit))


@pytest.mark.parametrize("why", ["unknown", "never waited", "decided", "fetched", "answered", "expired", "purged"])
async def test_what_does_not_wait_is_not_decided(store: Store, why: str) -> None:
    owner = await store.add_entity(entity())
    at = NOW + 100 if why != "expired" else NOW + 101
    before: dict[str, list[list[Change]]] = {
        "never waited": [opening(1, owner)],
        "decided": [holding(1, owner), [decide(1, REJECTED)]],
        "fetched": [holding(1, owner), claim(1, owner)],
        "answered": [holding(1, owner), [ending(1)]],
        "expired": [holding(1, owner)],
        "purged": [holding(1, owner), [ending(1)]],
    }
    for unit in before.get(why, []):
        await store.write(unit)
    if why == "purged":
        assert await store.purge(NOW + 100, 9) == 1
    record = await store.find_transaction(octets(1))
    with pytest.raises(StoreConflict, match=r"^not waiting$"):
        await store.write([decide(1, at=at)])
    assert await store.find_transaction(octets(1)) == record


async def test_a_request_is_decided_in_its_last_second(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner))
    await store.write([decide(1, at=NOW + 100)])
    assert (await waits(store, 1)).decision is APPROVED


async def test_of_two_decisions_at_once_the_first_counts(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner))
    both = [store.write([decide(1, decision)]) for decision in (REJECTED, APPROVED)]
    results = await asyncio.gather(*both, return_exceptions=True)
    assert [str(result) for result in results] == ["None", "not waiting"]
    assert (await waits(store, 1)).decision is REJECTED


async def test_a_transaction_that_waits_is_claimed_once(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner))
    await store.write([decide(1)])
    results = await asyncio.gather(*(store.write(claim(1, owner)) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["None", "transaction moved", "transaction moved"]


def _mistakes(owner: Entity) -> dict[str, list[Change]]:
    opened, held = holding(1, owner)
    return {
        "order": [held, opened],
        "no transaction": [held],
        "reference 0": holding(1, owner, reference=0),
        "reference of 33 bits": holding(1, owner, reference=2**32),
        "two for one transaction": [opened, held, AddWaiting(waiting(1, owner, reference=2), 9)],
        "unknown entity": holding(1, owner, entity_id=99),
        "no decision": [opened, held, decide(1, UNDECIDED)],
    }


@pytest.mark.parametrize("mistake", _mistakes(entity()))
async def test_a_mistake_is_refused_and_leaves_nothing(store: Store, mistake: str) -> None:
    owner = await store.add_entity(entity())
    with pytest.raises(StoreError) as refused:
        await store.write(_mistakes(owner)[mistake])
    assert not isinstance(refused.value, StoreConflict)
    assert await store.find_transaction(octets(1)) is None
    assert await store.list_waiting(undecided_only=False) == []


async def test_changes_of_one_unit_build_on_each_other(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=1))
    await store.write([*holding(1, owner), decide(1), *claim(1, owner), *answer(1)])
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert found.waiting is not None
    assert (found.state, found.waiting.decision, found.waiting.answered) == (ENDED, APPROVED, True)
    with pytest.raises(StoreConflict, match=r"^not waiting$"):
        await store.write([*holding(2, owner), ending(2), decide(2)])
    assert await store.find_waiting(2) is None


async def test_others_in_the_same_batch_are_written_all_the_same(store: Store) -> None:
    owner = await store.add_entity(entity())
    units = [opening(1, owner), holding(2, owner), holding(3, owner, reference=2), opening(4, owner), [decide(2)]]
    results = await asyncio.gather(*(store.write(unit) for unit in units), return_exceptions=True)
    assert [str(result) for result in results] == ["None", "None", "reference taken", "None", "None"]
    assert [await state_of(store, number) for number in (1, 2, 3, 4)] == [PROCESSING, WAITING, None, PROCESSING]


async def test_no_decision_becomes_stale_by_what_waits(store: Store) -> None:
    owner = await store.add_entity(entity())
    before = store.generation
    await store.write(holding(1, owner), as_of=before)
    await store.write([decide(1)], as_of=before)
    await store.write([MoveTransaction(octets(1), WAITING, PROCESSING, b"c")], as_of=before)
    assert await store.refresh() == store.generation == before
    await store.disable_entity("device-1")
    with pytest.raises(StaleRead):
        await store.write(holding(2, owner), as_of=before)


# --- clearing away ----------------------------------------------------------------------------------------------------


async def test_recover_lets_a_claimed_request_wait_again_with_its_decision(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=5))
    await store.write(holding(1, owner))
    await store.write(opening(2, owner))
    await store.write(holding(3, owner))
    await store.write([decide(1, text="fine")])
    before = await waits(store, 1)
    await store.write([*claim(1, owner), AddResponse(octets(1), octets(8, 32), b"pollRep")])

    assert await store.recover(NOW + 9) == 2

    assert await store.find_waiting(1) == before
    assert await store.find_transaction(octets(1)) == transaction(
        1, owner, state=WAITING, server_nonce=b"c" * 16, waiting=before
    )
    assert await store.find_response(octets(1), octets(8, 32)) == (True, b"pollRep")
    assert [await state_of(store, number) for number in (2, 3)] == [None, WAITING]
    found = await store.find_entity("device-1")
    assert found is not None
    assert found.uses_left == 5
    abandoned = await store.find_certificate(octets(1, 14))
    assert abandoned is not None
    assert (abandoned.state, abandoned.changed_at) == (CertificateState.ABANDONED, NOW + 9)
    assert await store.recover(NOW + 10) == 0


async def test_after_recover_the_request_is_fetched_and_costs_one_use(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=5))
    await store.write(holding(1, owner))
    for serial in (1, 2):  # it ends uncleanly twice
        await store.write(_claim_anew(serial, owner))
        assert await store.recover(NOW) == 1
    await store.write(_claim_anew(3, owner))
    certificate = AddCertificate(octets(3, 14), b"der", CertificateState.CONFIRMED, NOW)
    await store.write([certificate, ending(1, PROCESSING)])
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert [record.serial for record in found.certificates] == [octets(3, 14)]
    owner_now = await store.find_entity("device-1")
    assert owner_now is not None
    assert owner_now.uses_left == 4
    assert await store.recover(NOW) == 0


def _claim_anew(serial: int, owner: Entity) -> list[Change]:
    return [*claim(1, owner)[:2], AddIntent(intent(serial, owner, transaction_number=1))]


async def test_a_use_of_a_certificate_that_was_recorded_is_given_back_by_no_recover(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=5))
    await store.write(holding(1, owner))
    await store.write([*claim(1, owner), TakeUse(owner.id, octets(1))])
    await store.write([AddCertificate(octets(1, 14), b"der", CertificateState.ISSUED, NOW)])
    for _ in range(2):
        assert await store.recover(NOW) == 0
        found = await store.find_entity("device-1")
        assert found is not None
        assert found.uses_left == 4
        await store.write([MoveTransaction(octets(1), WAITING, PROCESSING, b"c")])


async def test_purge_forgets_a_request_with_its_transaction_and_not_before(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number in (1, 2):
        await store.write(holding(number, owner))
    await store.write([decide(1, REJECTED)])
    await store.write([ending(1)])
    assert await store.purge(NOW + 6, 9) == 0
    assert (await waits(store, 1)).answered
    assert await store.purge(NOW + 7, 9) == 1
    assert await store.find_waiting(1) is None
    assert await store.find_transaction(octets(1)) is None
    assert await listed(store, undecided_only=False) == [2]


@pytest.mark.parametrize("decided", [True, False])
async def test_what_nobody_fetched_is_purged_when_it_expired_long_ago(store: Store, decided: bool) -> None:
    owner = await store.add_entity(entity())
    await store.write([*holding(1, owner), AddResponse(octets(1), octets(1, 32), b"waiting")])
    if decided:
        await store.write([decide(1)])
    assert await store.purge(NOW + 100, 9) == 0
    assert await state_of(store, 1) is WAITING
    assert await store.purge(NOW + 101, 9) == 1
    assert await store.find_waiting(1) is None
    assert await store.find_transaction(octets(1)) is None
    assert await store.purge(NOW + 101, 9) == 0
    await store.write(holding(1, owner, limit=1))
    assert await store.find_response(octets(1), octets(1, 32)) == (False, None)


async def test_a_request_that_is_being_worked_on_is_not_purged(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(holding(1, owner))
    await store.write(claim(1, owner))
    assert await store.purge(NOW + 10_000, 9) == 0
    assert (await waits(store, 1)).request == b"\x30request 1"


async def test_a_purged_transaction_with_a_certificate_keeps_its_id_and_loses_its_request(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write([*holding(1, owner), *claim(1, owner), *answer(1)])
    before = await store.find_transaction(octets(1))
    assert before is not None
    assert await store.purge(NOW + 50, 9) == 1
    assert await store.find_transaction(octets(1)) == replace(before, waiting=None)
    assert await store.find_waiting(1) is None
    assert await store.list_waiting(undecided_only=False) == []
    assert await store.purge(NOW + 10_000, 9) == 0


@pytest.mark.parametrize("kept_by", ["an abandoned certificate", "keeps_id", "a passphrase"])
async def test_what_waited_too_long_and_keeps_its_id_has_ended(store: Store, kept_by: str) -> None:
    owner = await store.add_entity(entity(uses_left=2))
    held = transaction(1, owner, state=WAITING, keeps_id=kept_by == "keeps_id", sender_certificate=b"its chain")
    await store.write([OpenTransaction(held), *holding(1, owner)[1:]])
    if kept_by == "an abandoned certificate":
        await store.write(claim(1, owner))
        assert await store.recover(NOW) == 1
    elif kept_by == "a passphrase":
        passphrase = RevocationPassphrase(b"k", owner.id, None, b"sealed", NOW)
        await store.write([SetRevocationPassphrase(passphrase, 1, octets(1))])
    assert await store.purge(NOW + 101, 9) == 1
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert (found.state, found.ended_at, found.waiting) == (ENDED, NOW + 100, None)
    assert (found.certificates, found.sender_certificate) == ((), None)
    assert await store.find_waiting(1) is None
    with pytest.raises(StoreConflict, match=r"^transaction exists$"):
        await store.write(holding(1, owner))
    assert await store.purge(NOW + 10_000, 9) == 0
    await store.write(holding(2, owner, reference=1, limit=1))  # it counts no more


async def test_purge_takes_what_ended_and_what_expired_by_time_and_no_more_than_it_may(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number, over_at in enumerate([40, 10, 30, 20, 30, 50], start=1):
        if number % 2:
            await store.write(holding(number, owner, expires_at=NOW + over_at))
        else:
            await store.write([*holding(number, owner), ending(number, at=NOW + over_at)])
    left = []
    for _ in range(3):
        assert await store.purge(NOW + 50, 2) == (2 if len(left) < 2 else 1)
        left.append({number: await state_of(store, number) for number in range(1, 7)})
    assert left[0] == {1: WAITING, 2: None, 3: WAITING, 4: None, 5: WAITING, 6: ENDED}
    assert left[1] == {1: WAITING, 2: None, 3: None, 4: None, 5: None, 6: ENDED}
    assert left[2] == {1: None, 2: None, 3: None, 4: None, 5: None, 6: ENDED}
    assert await listed(store, undecided_only=False) == [6]


async def test_purge_goes_beyond_one_unit_of_what_expired(store: Store) -> None:
    owner = await store.add_entity(entity())
    await asyncio.gather(*(store.write(holding(number, owner, limit=1000)) for number in range(1, 251)))
    assert await store.purge(NOW + 101, 230) == 230
    assert len(await store.list_waiting()) == 20
    assert await store.purge(NOW + 101, 1000) == 20
    assert await store.list_waiting(undecided_only=False) == []


async def test_a_closed_store_reads_no_requests(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.find_waiting(1)
    with pytest.raises(StoreError, match="closed"):
        await store.list_waiting()
