"""What every store promises (store/base.py)."""

import asyncio
from dataclasses import replace

import pytest

from cmpd.changes import (
    AddCertificate,
    AddIntent,
    AddResponse,
    Change,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    ReturnUse,
    TakeUse,
)
from cmpd.errors import StaleRead, StoreConflict, StoreError
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    EntityKind,
    TransactionState,
)
from cmpd.store.base import Store
from tests.store.samples import NOW, answer, entity, intent, octets, opening, transaction

PROCESSING, CONFIRMING, ENDED = TransactionState.PROCESSING, TransactionState.CONFIRMING, TransactionState.ENDED
ISSUED, CONFIRMED, REVOKED = CertificateState.ISSUED, CertificateState.CONFIRMED, CertificateState.REVOKED


async def uses_left(store: Store, reference: str = "device-1") -> int | None:
    found = await store.find_entity(reference)
    assert found is not None
    return found.uses_left


async def state_of(store: Store, number: int) -> CertificateState:
    found = await store.find_certificate(octets(number, 14))
    assert found is not None
    return found.state


# --- entities ---------------------------------------------------------------------------------------------------------


async def test_an_entity_comes_back_with_every_field(store: Store) -> None:
    full = replace(
        entity("ra/ü", uses_left=7),
        kind=EntityKind.CERTIFICATE,
        subject=b"0\x00",
        profiles=("tls", "ra é"),
        expires_at=NOW + 5,
        is_ra=True,
        disabled=True,
        sealed_secret=b"\x01sealed",
        certificate=b"0\x82",
        sealed_reg_token=b"\x01token",
        sealed_authenticator=b"\x01authenticator",
        may_revoke=True,
    )
    added = await store.add_entity(full)
    assert added == replace(full, id=added.id)
    assert await store.find_entity("ra/ü") == added
    assert await store.find_entity_by_id(added.id) == added


async def test_entities_that_are_not_there_are_none(store: Store) -> None:
    assert await store.find_entity("nobody") is None
    assert await store.find_entity_by_id(99) is None
    assert await store.list_entities() == []
    assert await store.disable_entity("nobody") is False


async def test_a_reference_value_is_given_once(store: Store) -> None:
    first = await store.add_entity(entity())
    with pytest.raises(StoreConflict, match=r"^reference exists$"):
        await store.add_entity(entity(uses_left=5))
    assert await store.list_entities() == [first]


async def test_entities_are_listed_by_reference_value(store: Store) -> None:
    for reference in ("b", "c", "a"):
        kind = EntityKind.CERTIFICATE if reference == "c" else EntityKind.SECRET
        await store.add_entity(replace(entity(reference), kind=kind))
    assert [found.reference for found in await store.list_entities()] == ["a", "b", "c"]
    assert [found.reference for found in await store.list_entities(with_certificate=True)] == ["c"]


# --- units ------------------------------------------------------------------------------------------------------------


async def test_an_enrolment_is_recorded_step_by_step(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=2))
    await store.write(opening(1, owner))
    expected = CertificateRecord(
        serial=octets(1, 14),
        transaction_id=octets(1),
        cert_req_id=0,
        entity_id=owner.id,
        profile="tls",
        state=CertificateState.INTENDED,
        subject=b"0\x00",
        subject_text="CN=device 1",
        key_id=octets(1, 32),
        not_before=NOW,
        not_after=NOW + 86400,
        created_at=NOW,
    )
    assert await store.find_certificate(octets(1, 14)) == expected
    assert await store.find_transaction(octets(1)) == transaction(1, owner, certificates=(expected,))
    assert await uses_left(store) == 1

    await store.write(answer(1, confirm_by=NOW + 60))
    issued = replace(expected, state=ISSUED, der=b"certificate 1", changed_at=NOW + 1)
    assert await store.find_transaction(octets(1)) == transaction(
        1, owner, state=CONFIRMING, server_nonce=b"n" * 16, confirm_by=NOW + 60, certificates=(issued,)
    )
    assert await store.find_response(octets(1), octets(1, 32)) == (True, b"response 1")

    await store.write(
        [
            MoveCertificate(octets(1, 14), ISSUED, CONFIRMED, NOW + 2, by="client"),
            MoveTransaction(octets(1), CONFIRMING, ENDED, b"m" * 16, ended_at=NOW + 2),
            AddResponse(octets(1), octets(2, 32), None),
        ]
    )
    confirmed = replace(issued, state=CONFIRMED, changed_at=NOW + 2, changed_by="client")
    assert await store.find_transaction(octets(1)) == transaction(
        1, owner, state=ENDED, server_nonce=b"m" * 16, ended_at=NOW + 2, certificates=(confirmed,)
    )
    assert await store.find_response(octets(1), octets(2, 32)) == (True, None)
    assert await store.find_response(octets(1), octets(3, 32)) == (False, None)
    assert await store.find_response(octets(9), octets(1, 32)) == (False, None)


async def test_a_transaction_is_recorded_in_whatever_state_it_starts(store: Store) -> None:
    owner = await store.add_entity(entity())
    refused = transaction(
        1, owner, state=ENDED, server_nonce=b"n" * 16, sender_certificate=b"cert", ended_at=NOW, body="kur"
    )
    await store.write([OpenTransaction(refused)])
    assert await store.find_transaction(octets(1)) == refused


async def test_moving_a_transaction_keeps_the_sender_certificate_unless_given(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write([OpenTransaction(transaction(1, owner, sender_certificate=b"first"))])
    await store.write([MoveTransaction(octets(1), PROCESSING, CONFIRMING, b"n", confirm_by=NOW)])
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert found.sender_certificate == b"first"
    await store.write([MoveTransaction(octets(1), CONFIRMING, ENDED, b"n", ended_at=NOW, sender_certificate=b"2nd")])
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert found.sender_certificate == b"2nd"


async def test_certificates_of_a_transaction_are_ordered_by_cert_req_id(store: Store) -> None:
    owner = await store.add_entity(entity())
    intents = [AddIntent(intent(n, owner, transaction_number=1, cert_req_id=9 - n)) for n in (1, 2, 3)]
    await store.write([OpenTransaction(transaction(1, owner)), *intents])
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert [record.cert_req_id for record in found.certificates] == [6, 7, 8]


async def conflicting(kind: str, store: Store) -> list[Change]:
    """A unit whose last change conflicts, after others that do not."""
    owner = await store.add_entity(entity())
    used_up = await store.add_entity(entity("used up", uses_left=0))
    disabled = await store.add_entity(entity("disabled", uses_left=5))
    await store.disable_entity("disabled")
    await store.write(opening(1, owner))
    await store.write(answer(1))
    good = opening(2, owner)
    last: dict[str, list[Change]] = {
        "transaction exists": [OpenTransaction(transaction(1, owner))],
        "transaction moved": [MoveTransaction(octets(1), CONFIRMING, ENDED, b"", ended_at=NOW)],
        "response exists": [AddResponse(octets(1), octets(1, 32), b"another")],
        "entity used up": [OpenTransaction(transaction(3, used_up)), TakeUse(used_up.id, octets(3))],
        "entity disabled": [OpenTransaction(transaction(3, disabled)), TakeUse(disabled.id, octets(3))],
        "not intended": [AddCertificate(octets(1, 14), b"another", CONFIRMED, NOW)],
        "certificate moved": [MoveCertificate(octets(1, 14), ISSUED, REVOKED, NOW)],
    }
    return good + last[kind]


CONFLICTS = [
    "transaction exists",
    "transaction moved",
    "response exists",
    "entity used up",
    "entity disabled",
    "not intended",
    "certificate moved",
]


@pytest.mark.parametrize("kind", CONFLICTS)
async def test_a_conflict_undoes_its_unit_whole(store: Store, kind: str) -> None:
    unit = await conflicting(kind, store)
    before = [await store.find_certificate(octets(1, 14)), await store.find_transaction(octets(1))]
    generation = store.generation
    with pytest.raises(StoreConflict) as caught:
        await store.write(unit)
    assert caught.value.reason == kind
    assert [await store.find_certificate(octets(1, 14)), await store.find_transaction(octets(1))] == before
    assert await store.find_response(octets(1), octets(1, 32)) == (True, b"response 1")
    assert await store.find_transaction(octets(2)) is None
    assert await store.find_transaction(octets(3)) is None
    assert await store.find_certificate(octets(2, 14)) is None
    assert store.generation == generation


@pytest.mark.parametrize("kind", CONFLICTS)
async def test_a_conflict_leaves_its_batch_mates_alone(store: Store, kind: str) -> None:
    unit = await conflicting(kind, store)
    owner = await store.find_entity("device-1")
    assert owner is not None
    units = [opening(10, owner), unit, opening(11, owner), unit, opening(12, owner)]
    results = await asyncio.gather(*(store.write(each) for each in units), return_exceptions=True)
    assert [str(result) for result in results] == ["None", kind, "None", kind, "None"]
    assert [await state_of(store, number) for number in (10, 11, 12)] == [CertificateState.INTENDED] * 3
    assert await store.find_transaction(octets(2)) is None


async def test_an_entity_that_is_gone_counts_as_disabled(store: Store) -> None:
    owner = await store.add_entity(entity())
    with pytest.raises(StoreConflict, match=r"^entity disabled$"):
        await store.write([OpenTransaction(transaction(1, owner)), TakeUse(owner.id + 1, octets(1))])


async def mistakes(kind: str, store: Store) -> list[Change]:
    owner = await store.add_entity(entity(uses_left=5))
    other = await store.add_entity(entity("other", uses_left=5))
    await store.write(opening(1, owner))
    unit: dict[str, list[Change]] = {
        "serial twice": [AddIntent(intent(1, owner))],
        "intent without transaction": [AddIntent(intent(7, owner))],
        "intent without entity": [AddIntent(intent(7, replace(owner, id=99), transaction_number=1))],
        "response without transaction": [AddResponse(octets(7), octets(7, 32), b"")],
        "use without transaction": [TakeUse(owner.id, octets(7))],
        "use of another entity": [TakeUse(other.id, octets(1))],
        "transaction without entity": [OpenTransaction(transaction(7, replace(owner, id=99)))],
        "confirming for ever": [MoveTransaction(octets(1), PROCESSING, CONFIRMING, b"")],
        "ended without time": [MoveTransaction(octets(1), PROCESSING, ENDED, b"")],
        "opened confirming for ever": [OpenTransaction(transaction(7, owner, state=CONFIRMING))],
    }
    return [OpenTransaction(transaction(2, owner)), *unit[kind]]


@pytest.mark.parametrize(
    "kind",
    [
        "serial twice",
        "intent without transaction",
        "intent without entity",
        "response without transaction",
        "use without transaction",
        "use of another entity",
        "transaction without entity",
        "confirming for ever",
        "ended without time",
        "opened confirming for ever",
    ],
)
async def test_records_that_make_no_sense_are_refused_and_undone(store: Store, kind: str) -> None:
    unit = await mistakes(kind, store)
    with pytest.raises(StoreError) as caught:
        await store.write(unit)
    assert type(caught.value) is StoreError
    assert await store.find_transaction(octets(2)) is None
    assert await uses_left(store) == 4
    assert await uses_left(store, "other") == 5


# --- uses -------------------------------------------------------------------------------------------------------------


async def test_a_secret_enrols_as_often_as_it_may_even_when_all_come_at_once(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=5))
    results = await asyncio.gather(*(store.write(opening(n, owner)) for n in range(1, 21)), return_exceptions=True)
    assert sum(result is None for result in results) == 5
    assert {str(result) for result in results if result is not None} == {"entity used up"}
    assert await uses_left(store) == 0
    assert len(await store.list_certificates()) == 5


async def test_a_use_is_returned_once_and_only_if_it_was_taken(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=5))
    await store.write(opening(1, owner))
    await store.write([OpenTransaction(transaction(2, owner))])
    for number, left in ((2, 4), (1, 5), (1, 5), (9, 5)):
        await store.write([ReturnUse(owner.id, octets(number))])
        assert await uses_left(store) == left


async def test_unlimited_uses_stay_unlimited(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(opening(1, owner))
    await store.write([ReturnUse(owner.id, octets(1))])
    assert await uses_left(store) is None


# --- generation -------------------------------------------------------------------------------------------------------


async def test_ordinary_issuance_never_makes_a_decision_stale(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=3))
    generation = store.generation
    await store.write(opening(1, owner), as_of=generation)
    await store.write(answer(1, confirm_by=NOW), as_of=generation)
    await store.write([MoveCertificate(octets(1, 14), ISSUED, CONFIRMED, NOW)], as_of=generation)
    await store.write([MoveTransaction(octets(1), CONFIRMING, ENDED, b"", ended_at=NOW)], as_of=generation)
    await store.write(opening(2, owner), as_of=generation)
    await store.write([MoveCertificate(octets(2, 14), CertificateState.INTENDED, CertificateState.ABANDONED, NOW)])
    assert await store.purge(NOW + 1, 10) == 1
    assert await store.refresh() == generation == store.generation


@pytest.mark.parametrize("what", ["disable", "add", "revoke", "resume"])
async def test_a_change_of_trust_makes_earlier_decisions_stale(store: Store, what: str) -> None:
    owner = await store.add_entity(entity())
    await store.write(opening(1, owner))
    await store.write(answer(1))
    if what == "resume":
        await store.write([MoveCertificate(octets(1, 14), CONFIRMED, CertificateState.SUSPENDED, NOW)])
    before = store.generation
    match what:
        case "disable":
            assert await store.disable_entity("device-1") is True
        case "add":
            await store.add_entity(entity("new"))
        case "revoke":
            await store.write([MoveCertificate(octets(1, 14), CONFIRMED, REVOKED, NOW)])
        case "resume":
            await store.write([MoveCertificate(octets(1, 14), CertificateState.SUSPENDED, CONFIRMED, NOW)])
    assert store.generation > before
    with pytest.raises(StaleRead):
        await store.write([OpenTransaction(transaction(2, owner))], as_of=before)
    assert await store.find_transaction(octets(2)) is None
    await store.write([OpenTransaction(transaction(2, owner))], as_of=store.generation)
    assert await store.find_transaction(octets(2)) is not None


async def test_a_revocation_makes_units_behind_it_in_the_same_batch_stale(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(opening(1, owner))
    await store.write(answer(1))
    now = store.generation
    results = await asyncio.gather(
        store.write(opening(2, owner), as_of=now),
        store.write([MoveCertificate(octets(1, 14), CONFIRMED, REVOKED, NOW)], as_of=now),
        store.write(opening(3, owner), as_of=now),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), type(None), StaleRead]


# --- reading certificates ---------------------------------------------------------------------------------------------


async def test_certificates_are_listed_by_serial_number_in_pages(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number in (3, 1, 2, 5, 4):
        await store.write(opening(number, owner))
    first = await store.list_certificates(limit=2)
    rest = await store.list_certificates(limit=10, after=first[-1].serial)
    assert [record.serial for record in first + rest] == [octets(n, 14) for n in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("part", "found"),
    [("DEVICE", [1, 2]), ("größe", [3]), ("GRÖSSE", [3]), ("%", [4]), ("_", []), ("", [1, 2, 3, 4]), ("' OR 1=1", [])],
)
async def test_a_part_of_the_subject_is_found_whatever_its_case(store: Store, part: str, found: list[int]) -> None:
    owner = await store.add_entity(entity())
    for number, text in enumerate(["CN=device 1", "CN=Device 2", "CN=Größe", "CN=100% O=x"], start=1):
        await store.write(
            [OpenTransaction(transaction(number, owner)), AddIntent(intent(number, owner, subject_text=text))]
        )
    records = await store.list_certificates(subject=part)
    assert [record.serial for record in records] == [octets(number, 14) for number in found]


async def test_certificates_are_found_by_state_and_by_key(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number in (1, 2, 3):
        await store.write(
            [OpenTransaction(transaction(number, owner)), AddIntent(intent(number, owner, key_id=b"k" * 32))]
        )
    await store.write(answer(2))
    await store.write([MoveCertificate(octets(3, 14), CertificateState.INTENDED, CertificateState.ABANDONED, NOW)])
    assert [record.serial for record in await store.list_certificates(state=CONFIRMED)] == [octets(2, 14)]
    assert await store.find_certificate(octets(9, 14)) is None


# --- clearing away ----------------------------------------------------------------------------------------------------


async def test_unconfirmed_gives_the_overdue_transactions_longest_first(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number, confirm_by in ((1, NOW + 30), (2, NOW + 10), (3, NOW + 20), (4, NOW + 40)):
        await store.write(opening(number, owner))
        await store.write(answer(number, confirm_by=confirm_by))
    overdue = await store.unconfirmed(NOW + 40, 10)
    assert [found.id for found in overdue] == [octets(2), octets(3), octets(1)]
    assert [found.certificates[0].serial for found in overdue] == [octets(n, 14) for n in (2, 3, 1)]
    assert [found.id for found in await store.unconfirmed(NOW + 40, 2)] == [octets(2), octets(3)]


async def test_purge_forgets_the_answers_of_ended_transactions_and_never_certificates(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number in (1, 2, 3, 4):
        await store.write(opening(number, owner))
    await store.write(answer(1))
    await store.write(answer(2))
    await store.write(answer(3, confirm_by=NOW))
    assert await store.purge(NOW + 1, 10) == 0  # both ended at NOW + 1
    assert await store.purge(NOW + 2, 1) == 1
    assert await store.purge(NOW + 2, 10) == 1
    assert await store.purge(NOW + 2, 10) == 0
    for number in (1, 2):
        assert await store.find_response(octets(number), octets(number, 32)) == (False, None)
    assert await store.find_response(octets(3), octets(3, 32)) == (True, b"response 3")
    assert len(await store.list_certificates()) == 4


async def test_purge_goes_beyond_one_bounded_delete(store: Store) -> None:
    owner = await store.add_entity(entity())
    ended = [[OpenTransaction(transaction(n, owner, state=ENDED, ended_at=NOW))] for n in range(1, 251)]
    await asyncio.gather(*map(store.write, ended))
    assert await store.purge(NOW + 1, 230) == 230
    assert await store.purge(NOW + 1, 1000) == 20


@pytest.mark.parametrize("state", [CONFIRMED, CertificateState.ABANDONED])
async def test_the_id_of_a_purged_transaction_with_certificates_is_never_free_again(
    store: Store, state: CertificateState
) -> None:
    owner = await store.add_entity(entity())
    await store.write([OpenTransaction(transaction(1, owner, sender_certificate=b"its chain")), *opening(1, owner)[1:]])
    if state is CONFIRMED:
        await store.write(answer(1))
    else:
        given_up = MoveCertificate(octets(1, 14), CertificateState.INTENDED, state, NOW)
        await store.write([given_up, MoveTransaction(octets(1), PROCESSING, ENDED, b"n", ended_at=NOW)])
    before = await store.find_transaction(octets(1))
    assert before is not None
    assert await store.purge(NOW + 2, 10) == 1
    assert await store.find_transaction(octets(1)) == replace(before, sender_certificate=None)
    assert [record.serial for record in before.certificates] == [octets(1, 14)] * (state is CONFIRMED)
    assert await store.find_response(octets(1), octets(1, 32)) == (False, None)
    for again in (OpenTransaction(transaction(1, owner)), OpenTransaction(transaction(1, owner, credential="x"))):
        with pytest.raises(StoreConflict, match="transaction exists"):
            await store.write([again])
    assert await store.recover(NOW + 3) == 0
    assert await store.purge(NOW + 10_000, 10) == 0  # it does not come back to it
    assert await store.find_transaction(octets(1)) is not None


async def test_a_purged_transaction_without_certificates_leaves_nothing(store: Store) -> None:
    owner = await store.add_entity(entity())
    refused = transaction(1, owner, state=ENDED, ended_at=NOW)
    await store.write([OpenTransaction(refused), AddResponse(octets(1), octets(1, 32), b"rejection")])
    assert await store.purge(NOW + 1, 10) == 1
    assert await store.find_transaction(octets(1)) is None
    await store.write([OpenTransaction(transaction(1, owner))])
    assert await store.find_transaction(octets(1)) == transaction(1, owner)
    assert await store.find_response(octets(1), octets(1, 32)) == (False, None)


async def test_purge_takes_the_longest_ended_first_and_no_more_than_it_may(store: Store) -> None:
    owner = await store.add_entity(entity())
    with_certificates = (2, 3, 5)
    for number in range(1, 7):
        ended_at = NOW + 10 - number if number < 5 else NOW + 7  # 4 before 3, 5 and 6 before 2 before 1
        if number in with_certificates:
            await store.write(opening(number, owner))
            moved = MoveTransaction(octets(number), PROCESSING, ENDED, b"n", ended_at=ended_at)
            await store.write([AddCertificate(octets(number, 14), b"der", CONFIRMED, NOW), moved])
        else:
            await store.write([OpenTransaction(transaction(number, owner, state=ENDED, ended_at=ended_at))])
        await store.write([AddResponse(octets(number), octets(number, 32), b"answer")])
    left = []
    for _ in range(3):
        assert await store.purge(NOW + 100, 2) == 2
        left.append([n for n in range(1, 7) if (await store.find_response(octets(n), octets(n, 32)))[0]])
    assert left == [[1, 2, 5, 6], [1, 2], []]
    assert await store.purge(NOW + 100, 2) == 0
    assert tuple([n for n in range(1, 7) if await store.find_transaction(octets(n))]) == with_certificates


async def test_a_transaction_id_that_comes_again_does_not_inherit_certificates(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(opening(1, owner))
    assert await store.recover(NOW) == 1
    await store.write([OpenTransaction(transaction(1, owner))])
    assert await store.find_transaction(octets(1)) == transaction(1, owner)
    assert await store.purge(NOW + 2, 10) == 0
    assert await store.find_certificate(octets(1, 14)) is not None


async def test_recover_clears_away_what_has_no_answer_and_nothing_else(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=10))
    unlimited = await store.add_entity(entity("unlimited"))
    for number in (1, 2, 3):
        await store.write(opening(number, owner))
    await store.write(opening(4, unlimited))
    await store.write([OpenTransaction(transaction(5, owner))])  # no use taken
    await store.write(answer(2))
    await store.write(answer(3, confirm_by=NOW + 9))
    kept = [await store.find_transaction(octets(number)) for number in (2, 3)]

    assert await store.recover(NOW + 5) == 2

    assert [await store.find_transaction(octets(number)) for number in (2, 3)] == kept
    assert [await store.find_transaction(octets(number)) for number in (1, 4, 5)] == [None] * 3
    abandoned = await store.find_certificate(octets(1, 14))
    assert abandoned is not None
    assert (abandoned.state, abandoned.changed_at, abandoned.der) == (CertificateState.ABANDONED, NOW + 5, None)
    assert await uses_left(store) == 8
    assert await uses_left(store, "unlimited") is None
    assert await store.recover(NOW + 6) == 0
    assert await uses_left(store) == 8


async def test_after_recover_the_repeated_request_is_processed_anew(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=1))
    await store.write(opening(1, owner))
    await store.recover(NOW)
    again = intent(2, owner, transaction_number=1)
    await store.write([OpenTransaction(transaction(1, owner)), TakeUse(owner.id, octets(1)), AddIntent(again)])
    found = await store.find_transaction(octets(1))
    assert found is not None
    assert [record.serial for record in found.certificates] == [octets(2, 14)]
    assert await uses_left(store) == 0


async def test_recover_leaves_a_use_taken_for_a_certificate_that_was_recorded(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=5))
    second = [TakeUse(owner.id, octets(1)), AddIntent(intent(2, owner, transaction_number=1, cert_req_id=1))]
    await store.write([*opening(1, owner), *second])
    await store.write([AddCertificate(octets(1, 14), b"der", ISSUED, NOW)])
    assert await store.recover(NOW) == 1
    assert await uses_left(store) == 4
    assert await state_of(store, 1) is ISSUED


async def test_a_use_given_back_before_the_end_is_not_given_back_again_by_recover(store: Store) -> None:
    owner = await store.add_entity(entity(uses_left=5))
    await store.write(opening(1, owner))
    await store.write([ReturnUse(owner.id, octets(1))])
    await store.recover(NOW)
    assert await uses_left(store) == 5


# --- closing ----------------------------------------------------------------------------------------------------------


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.write([])
    with pytest.raises(StoreError, match="closed"):
        await store.find_entity("x")
    with pytest.raises(StoreError, match="closed"):
        await store.refresh()
    await store.close()
