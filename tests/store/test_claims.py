"""What certificates want for themselves: one subject, one key, one serial number; in every store."""

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from cmpd.changes import AddServiceCertificate, Change, Claim, ClaimUnique, MoveCertificate
from cmpd.errors import StoreConflict
from cmpd.records import CertificateState, Entity, ServiceCertificate
from cmpd.store.base import Store
from cmpd.store.bulk import _TAKEN
from cmpd.store.sqlite import SqliteStore
from tests.store.samples import NOW, answer, entity, octets, opening

SUBJECT = Claim("subject", b"s" * 32)
KEY = Claim("key", b"k" * 32)
SHARED = replace(KEY, alone=False)
KEPT = replace(SHARED, binding=False)


def serial(number: int) -> bytes:
    return octets(number, 14)


def unit(number: int, owner: Entity, *claims: Claim, replaces: int | None = None, at: int = NOW) -> list[Change]:
    """What is written before the signature."""
    old = None if replaces is None else serial(replaces)
    return [*opening(number, owner), ClaimUnique(serial(number), claims, at, old)]


async def issue(store: Store, number: int, owner: Entity, *claims: Claim, replaces: int | None = None) -> None:
    await store.write(unit(number, owner, *claims, replaces=replaces))
    await store.write(answer(number))


async def move(store: Store, number: int, state: CertificateState, reason: str = "superseded") -> None:
    await store.write([MoveCertificate(serial(number), CertificateState.CONFIRMED, state, NOW + 2, reason)])


@pytest.mark.parametrize(("claim", "reason"), [(SUBJECT, "subject taken"), (KEY, "key taken"), (SHARED, "key taken")])
async def test_what_another_certificate_has_is_taken(store: Store, claim: Claim, reason: str) -> None:
    one, other = await store.add_entity(entity("a")), await store.add_entity(entity("b"))
    await store.write(unit(1, one, claim))
    with pytest.raises(StoreConflict, match=rf"^{reason}$"):
        await store.write(unit(2, other, claim))
    await store.write(answer(1))
    with pytest.raises(StoreConflict, match=rf"^{reason}$"):
        await store.write(unit(2, other, claim))
    assert await store.find_transaction(octets(2)) is None
    assert await store.find_certificate(serial(2)) is None
    await store.write(unit(3, other, replace(claim, digest=b"x" * 32)))


async def test_an_entity_may_share_its_keys_unless_one_of_the_certificates_wants_it_alone(store: Store) -> None:
    owner = await store.add_entity(entity())
    await issue(store, 1, owner, SHARED)
    await issue(store, 2, owner, SHARED)
    with pytest.raises(StoreConflict, match="key taken"):
        await issue(store, 3, owner, KEY)
    await issue(store, 4, owner, replace(KEY, digest=b"4" * 32))
    with pytest.raises(StoreConflict, match="key taken"):
        await issue(store, 5, owner, replace(SHARED, digest=b"4" * 32))


@pytest.mark.parametrize("first", [KEY, SHARED, KEPT])
async def test_a_claim_that_does_not_bind_is_in_nobodys_way_and_nobody_in_its(store: Store, first: Claim) -> None:
    one, other = await store.add_entity(entity("a")), await store.add_entity(entity("b"))
    await issue(store, 1, one, first)
    await issue(store, 2, other, KEPT)
    await move(store, 1, CertificateState.REVOKED, "keyCompromise")
    await issue(store, 3, other, KEPT)
    assert await store.sharing_key(serial(3), KEPT.digest, 10) == [(serial(1), "a")]  # 2 is of the same entity
    assert await store.sharing_key(serial(1), KEPT.digest, 10) == [(serial(2), "b"), (serial(3), "b")]
    assert await store.sharing_key(serial(1), KEPT.digest, 1) == [(serial(2), "b")]
    with pytest.raises(StoreConflict, match="key taken"):
        await issue(store, 4, other, KEY)


async def test_what_keeps_nothing_away_lets_another_have_it_alone(store: Store) -> None:
    one, other = await store.add_entity(entity("a")), await store.add_entity(entity("b"))
    await issue(store, 1, one, KEPT)
    await issue(store, 2, other, KEY)
    with pytest.raises(StoreConflict, match="key taken"):
        await issue(store, 3, one, SHARED)


@pytest.mark.parametrize("claim", [SUBJECT, KEY])
async def test_a_chain_of_updates_is_in_nobodys_way_but_anothers(store: Store, claim: Claim) -> None:
    owner = await store.add_entity(entity())
    await issue(store, 1, owner, claim)
    await issue(store, 2, owner, claim, replaces=1)
    await issue(store, 3, owner, claim, replaces=2)
    await issue(store, 4, owner, claim, replaces=1)
    with pytest.raises(StoreConflict, match="taken"):
        await issue(store, 5, owner, claim)
    await issue(store, 6, owner, Claim("subject", b"y" * 32))
    with pytest.raises(StoreConflict, match="taken"):
        await issue(store, 7, owner, claim, replaces=6)


async def test_what_was_issued_before_there_were_claims_may_be_updated(store: Store) -> None:
    owner = await store.add_entity(entity())
    await store.write(opening(1, owner))
    await store.write(answer(1))
    await issue(store, 2, owner, SUBJECT, replaces=1)
    await issue(store, 3, owner, SUBJECT, replaces=1)
    with pytest.raises(StoreConflict, match="subject taken"):
        await issue(store, 4, owner, SUBJECT)


async def test_what_is_revoked_expired_or_abandoned_has_nothing_any_more(store: Store) -> None:
    owner = await store.add_entity(entity())
    await issue(store, 1, owner, SUBJECT, KEY)
    await move(store, 1, CertificateState.SUSPENDED, "certificateHold")
    with pytest.raises(StoreConflict, match="taken"):
        await issue(store, 2, owner, SUBJECT)
    suspended, confirmed = CertificateState.SUSPENDED, CertificateState.CONFIRMED
    await store.write([MoveCertificate(serial(1), suspended, confirmed, NOW + 3)])
    await move(store, 1, CertificateState.REVOKED)
    await issue(store, 2, owner, SUBJECT, KEY)
    with pytest.raises(StoreConflict, match="taken"):
        await store.write(unit(3, owner, KEY, at=NOW + 86400))
    await store.write(unit(3, owner, SUBJECT, KEY, at=NOW + 86401))
    await store.recover(NOW + 86402)
    await store.write(unit(4, owner, SUBJECT, KEY, at=NOW + 86401))


async def test_a_compromised_key_is_taken_for_ever(store: Store) -> None:
    owner = await store.add_entity(entity())
    await issue(store, 1, owner, SHARED)
    await issue(store, 2, owner, SHARED, replaces=1)
    await move(store, 1, CertificateState.REVOKED, "keyCompromise")
    for number, replaces in ((3, None), (4, 2)):
        with pytest.raises(StoreConflict, match="key taken"):
            await store.write(unit(number, owner, SHARED, replaces=replaces, at=NOW + 10**8))


async def test_a_serial_number_is_given_once(store: Store) -> None:
    owner = await store.add_entity(entity())
    await issue(store, 1, owner)
    mine = ServiceCertificate(serial(2), "ocsp", "CN=OCSP", NOW, NOW + 9, NOW)
    await store.write([AddServiceCertificate(mine)])
    for number in (1, 2):
        given = ClaimUnique(serial(number), (Claim("serial"),), NOW)
        with pytest.raises(StoreConflict, match=r"^serial number taken$"):
            await store.write([given, *opening(number + 10, owner)])
    await store.write([ClaimUnique(serial(3), (Claim("serial"),), NOW), *opening(3, owner)])


async def test_of_many_at_the_same_time_one_wins(store: Store) -> None:
    """Units that share a commit too: all other units of it are written."""
    owner = await store.add_entity(entity())
    rivals = [store.write(unit(number, owner, SUBJECT)) for number in range(1, 21)]
    others = [store.write(unit(number, owner, Claim("subject", octets(number, 32)))) for number in range(21, 41)]
    outcomes = await asyncio.gather(*rivals, *others, return_exceptions=True)
    assert outcomes[:20].count(None) == 1
    assert {str(lost) for lost in outcomes[:20] if lost is not None} == {"subject taken"}
    assert outcomes[20:] == [None] * 20


async def test_claims_are_looked_up_by_their_indices(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    await store.close()

    with sqlite3.connect(tmp_path / "cmpd.db") as database:
        plan = [row[3] for row in database.execute("EXPLAIN QUERY PLAN " + _TAKEN, (b"", b"", 0))]
    database.close()
    assert [step for step in plan if step.startswith("SCAN") and "CONSTANT" not in step] == []
