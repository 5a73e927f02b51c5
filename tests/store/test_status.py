"""What every store promises about the status of certificates and its publication (store/base.py)."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from cmpd.changes import (
    AddCrl,
    AddResponse,
    AddServiceCertificate,
    Change,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    OrderCrl,
    PublishCrl,
    SetRevocationPassphrase,
    SignServiceCertificate,
)
from cmpd.errors import StoreConflict, StoreError
from cmpd.records import (
    CertificateState,
    CertificateStatus,
    CrlRecord,
    Entity,
    Publication,
    RevocationPassphrase,
    RevokedCertificate,
    ServiceCertificate,
    StatusChange,
    TransactionState,
)
from cmpd.store.base import Store
from tests.store.samples import NOW, answer, entity, intent, octets, opening, transaction

INTENDED, ABANDONED = CertificateState.INTENDED, CertificateState.ABANDONED
ISSUED, CONFIRMED = CertificateState.ISSUED, CertificateState.CONFIRMED
SUSPENDED, REVOKED, EXPIRED = CertificateState.SUSPENDED, CertificateState.REVOKED, CertificateState.EXPIRED
NOT_AFTER = NOW + 86400


async def confirmed(store: Store, numbers: Sequence[int]) -> Entity:
    owner = await store.add_entity(entity())
    for number in numbers:
        await store.write([*opening(number, owner), *answer(number)])
    return owner


def suspend(number: int, at: int = NOW + 10) -> MoveCertificate:
    return MoveCertificate(octets(number, 14), CONFIRMED, SUSPENDED, at, "certificateHold", "operator", NOW + 5)


def resume(number: int, at: int = NOW + 20) -> MoveCertificate:
    return MoveCertificate(octets(number, 14), SUSPENDED, CONFIRMED, at, "removeFromCRL", "secret:ra")


def revoke(number: int, at: int = NOW + 30, expected: CertificateState = CONFIRMED) -> MoveCertificate:
    return MoveCertificate(octets(number, 14), expected, REVOKED, at, "keyCompromise", 'secret:"ä"\n', NOW - 5)


def change(id_: int, move: MoveCertificate) -> StatusChange:
    return StatusChange(
        id_, move.serial, move.at, move.state, move.reason, move.by, move.invalidity_date, move.at, not_after=NOT_AFTER
    )


async def status_of(store: Store, number: int) -> CertificateStatus | None:
    return (await store.certificate_status([octets(number, 14)])).get(octets(number, 14))


# --- changes of status ------------------------------------------------------------------------------------------------


async def test_a_certificate_is_suspended_resumed_and_revoked_and_each_change_is_kept(store: Store) -> None:
    await confirmed(store, [1])
    before = await store.find_certificate(octets(1, 14))
    assert before is not None
    serial = octets(1, 14)

    await store.write([suspend(1)])
    fields = {"reason": "certificateHold", "changed_by": "operator", "invalidity_date": NOW + 5}
    held = replace(before, state=SUSPENDED, changed_at=NOW + 10, revoked_at=NOW + 10, **fields)
    assert await store.find_certificate(serial) == held
    assert await status_of(store, 1) == CertificateStatus(serial, SUSPENDED, NOW + 10, "certificateHold")

    await store.write([resume(1)])
    assert await store.find_certificate(serial) == replace(before, changed_at=NOW + 20, changed_by="secret:ra")
    assert await status_of(store, 1) == CertificateStatus(serial, CONFIRMED)
    assert await store.revoked(expiring_from=0, limit=9) == []

    await store.write([suspend(1, NOW + 25)])
    await store.write([revoke(1, expected=SUSPENDED)])
    found = await store.find_certificate(serial)
    assert found is not None
    assert (found.revoked_at, found.reason, found.invalidity_date) == (NOW + 30, "keyCompromise", NOW - 5)
    assert await status_of(store, 1) == CertificateStatus(serial, REVOKED, NOW + 30, "keyCompromise")

    moves = [suspend(1), resume(1), suspend(1, NOW + 25), revoke(1)]
    assert await store.history(serial) == [change(n, move) for n, move in enumerate(moves, start=1)]


@pytest.mark.parametrize("ending", ["rejected", "lapsed"])
async def test_what_was_never_confirmed_is_revoked_and_on_the_crl(store: Store, ending: str) -> None:
    owner = await store.add_entity(entity())
    await store.write([*opening(1, owner), *answer(1, confirm_by=NOW)])
    move = MoveCertificate(octets(1, 14), ISSUED, REVOKED, NOW + 9, "cessationOfOperation", ending)
    await store.write([move])
    assert await store.history(octets(1, 14)) == [change(1, move)]
    assert await store.revoked(expiring_from=0, limit=9) == [
        RevokedCertificate(octets(1, 14), NOW + 9, "cessationOfOperation", None, NOT_AFTER)
    ]


async def test_issuance_changes_no_status(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number in (1, 2):
        await store.write(opening(number, owner))
    await store.write(answer(1, confirm_by=NOW))
    await store.write([MoveCertificate(octets(1, 14), ISSUED, CONFIRMED, NOW, by="certConf")])
    await store.write([MoveCertificate(octets(2, 14), INTENDED, ABANDONED, NOW)])
    assert await store.status_changes(after=0, limit=9) == []
    assert await store.revoked(expiring_from=0, limit=9) == []
    assert (await store.publication()).last_change == 0


async def test_status_changes_are_numbered_as_they_came_whatever_shares_their_commit(store: Store) -> None:
    owner = await confirmed(store, [1, 2, 3])
    for number in (4, 5, 6):
        await store.write([*opening(number, owner), *answer(number, confirm_by=NOW)])
    moves = [revoke(n, NOW + n, ISSUED) for n in (6, 4)]
    mates = [[MoveCertificate(octets(5, 14), ISSUED, CONFIRMED, NOW)], opening(7, owner)]
    await asyncio.gather(*(store.write(unit) for unit in [moves[:1], *mates, moves[1:]]))  # in bulk
    more = [suspend(2), revoke(3), suspend(1)]
    await asyncio.gather(store.write(more[:2]), store.write(opening(8, owner)), store.write(more[2:]))
    wanted = [change(n, move) for n, move in enumerate(moves + more, start=1)]
    assert await store.status_changes(after=0, limit=9) == wanted
    assert await store.status_changes(after=2, limit=2) == wanted[2:4]
    assert await store.status_changes(after=5, limit=2) == []
    assert (await store.publication()).last_change == 5


async def test_a_unit_that_conflicts_leaves_no_status_change(store: Store) -> None:
    await confirmed(store, [1, 2])
    with pytest.raises(StoreConflict, match=r"^certificate moved$"):
        await store.write([revoke(1), resume(2)])
    assert await store.status_changes(after=0, limit=9) == []
    assert await status_of(store, 1) == CertificateStatus(octets(1, 14), CONFIRMED)


async def test_no_record_is_ever_in_the_state_expired(store: Store) -> None:
    await confirmed(store, [1])
    with pytest.raises(StoreError):
        await store.write([MoveCertificate(octets(1, 14), CONFIRMED, EXPIRED, NOW)])
    assert await status_of(store, 1) == CertificateStatus(octets(1, 14), CONFIRMED)


# --- reads ------------------------------------------------------------------------------------------------------------


async def test_revoked_certificates_come_by_serial_in_pages_without_the_expired_ones(store: Store) -> None:
    owner = await store.add_entity(entity())
    for number in range(1, 9):
        await store.write([*opening(number, owner)[:2], lasting(number, owner)])
        await store.write(answer(number))
    for number in (5, 3, 8, 1, 2, 7):
        await store.write([suspend(number) if number == 3 else revoke(number)])

    async def page(expiring_from: int, limit: int, after: bytes = b"") -> list[int]:
        found = await store.revoked(expiring_from=expiring_from, limit=limit, after=after)
        assert all(isinstance(each, RevokedCertificate) for each in found)
        return [int.from_bytes(each.serial) for each in found]

    assert await page(0, 100) == [1, 2, 3, 5, 7, 8]
    assert await page(0, 2) == [1, 2]
    assert await page(0, 2, octets(2, 14)) == [3, 5]
    assert await page(0, 9, octets(7, 14)) == [8]
    assert await page(0, 9, octets(8, 14)) == []
    assert await page(NOW + 300, 2) == [3, 5]
    assert await page(NOW + 301, 9) == [5, 7, 8]
    first = (await store.revoked(expiring_from=0, limit=1))[0]
    assert first == RevokedCertificate(octets(1, 14), NOW + 30, "keyCompromise", NOW - 5, NOW + 100)


def lasting(number: int, owner: Entity) -> Change:
    return replace(opening(number, owner)[2], intent=intent(number, owner, not_after=NOW + 100 * number))


async def test_the_status_of_what_was_never_issued_is_unknown(store: Store) -> None:
    owner = await confirmed(store, [1, 2])
    await store.write([*opening(3, owner), *answer(3, confirm_by=NOW)])
    await store.write(opening(4, owner))
    await store.write(opening(5, owner))
    await store.write([MoveCertificate(octets(5, 14), INTENDED, ABANDONED, NOW), revoke(2)])
    await store.write([AddServiceCertificate(service(6)), AddServiceCertificate(service(7))])
    await store.write([SignServiceCertificate(octets(7, 14), b"der")])
    asked = [octets(number, 14) for number in (9, 8, 7, 6, 5, 4, 3, 2, 1, 1)]
    found = await store.certificate_status(asked)
    assert found == {
        octets(1, 14): CertificateStatus(octets(1, 14), CONFIRMED),
        octets(2, 14): CertificateStatus(octets(2, 14), REVOKED, NOW + 30, "keyCompromise"),
        octets(3, 14): CertificateStatus(octets(3, 14), ISSUED),
        octets(7, 14): CertificateStatus(octets(7, 14), CONFIRMED),
    }
    assert await store.certificate_status([]) == {}
    many = [octets(number, 14) for number in range(100)]
    assert await store.certificate_status(many) == found


async def test_certificates_are_listed_by_the_state_at_a_time(store: Store) -> None:
    owner = await confirmed(store, [1, 2, 3])
    await store.write([*opening(4, owner), *answer(4, confirm_by=NOW)])
    await store.write(opening(5, owner))
    await store.write([suspend(2), revoke(3)])

    async def listed(state: CertificateState, at: int | None) -> list[int]:
        return [int.from_bytes(found.serial) for found in await store.list_certificates(state=state, at=at)]

    for at in (None, NOT_AFTER):  # valid until the end of that second
        assert [await listed(s, at) for s in (CONFIRMED, SUSPENDED, REVOKED, ISSUED)] == [[1], [2], [3], [4]]
        assert await listed(EXPIRED, at) == []
    after = NOT_AFTER + 1
    assert await listed(EXPIRED, after) == [1, 2, 4]
    assert [await listed(s, after) for s in (CONFIRMED, SUSPENDED, ISSUED)] == [[], [], []]
    assert [await listed(s, after) for s in (REVOKED, INTENDED)] == [[3], [5]]
    assert len(await store.list_certificates(at=after)) == 5
    (first, *_) = await store.list_certificates(state=EXPIRED, at=after)
    assert first.state is CONFIRMED  # the record says nothing of time


# --- CRLs -------------------------------------------------------------------------------------------------------------


def crl(number: int, *, scheduled: bool = True, base: int | None = None) -> CrlRecord:
    return CrlRecord(number, NOW + number, NOW + number + 600, 7 * number, 2 * number, base, scheduled)


async def test_crl_numbers_only_go_up_and_are_taken_once(store: Store) -> None:
    with pytest.raises(StoreConflict, match=r"^crl number taken$"):
        await store.write([AddCrl(crl(0))])
    await store.write([AddCrl(crl(1))])
    results = await asyncio.gather(*(store.write([AddCrl(crl(2))]) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["None", "crl number taken", "crl number taken"]
    with pytest.raises(StoreConflict, match=r"^crl number taken$"):
        await store.write([AddCrl(crl(1))])
    assert await store.publication() == Publication(last_number=2)
    await store.write([AddCrl(crl(7))])  # what a file says that is newer than the records
    assert await store.publication() == Publication(last_number=7)
    with pytest.raises(StoreConflict, match=r"^crl number taken$"):
        await store.write([AddCrl(crl(3))])


async def test_publication_tells_the_latest_published_crl_and_the_latest_scheduled_one(store: Store) -> None:
    assert await store.publication() == Publication()
    await store.write([OrderCrl(NOW, "operator"), OrderCrl(NOW, "operator")])
    await store.write([AddCrl(crl(1))])
    assert await store.publication() == Publication(last_order=2, last_number=1)
    await store.write([PublishCrl(1, NOW + 1)])
    first = replace(crl(1), published_at=NOW + 1)
    assert await store.publication() == Publication(last_order=2, last_number=1, latest=first, scheduled=first)
    await store.write([AddCrl(crl(2, scheduled=False, base=1)), AddCrl(crl(3)), PublishCrl(2, NOW + 2)])
    second = replace(crl(2, scheduled=False, base=1), published_at=NOW + 2)
    assert await store.publication() == Publication(0, 2, 3, second, first)
    await store.write([PublishCrl(3, NOW + 3), AddCrl(crl(4))])
    third = replace(crl(3), published_at=NOW + 3)
    assert await store.publication() == Publication(0, 2, 4, third, third)


async def test_a_crl_that_is_not_there_is_not_published(store: Store) -> None:
    await store.write([AddCrl(replace(crl(1), published_at=NOW))])
    assert (await store.publication()).latest is None
    for number in (0, 2):
        with pytest.raises(StoreConflict, match=r"^no such crl$"):
            await store.write([PublishCrl(number, NOW)])


async def test_old_crls_and_fulfilled_orders_are_forgotten_and_no_number_comes_twice(store: Store) -> None:
    assert await store.forget_crls(NOW + 10_000) == 0
    await store.write([OrderCrl(NOW, "operator")] * 7)
    for number in (1, 2, 3, 4, 5, 6):  # each fulfils two orders more; 4 is lost, 6 is not out yet
        await store.write([AddCrl(crl(number, scheduled=number in (1, 3, 6)))])
        if number not in (4, 6):
            await store.write([PublishCrl(number, NOW)])
        if number == 2:
            assert await store.forget_crls(NOW + 10_000) == 4  # orders: no CRL is older than the scheduled one
    before = await store.publication()
    assert (before.last_number, before.last_order) == (6, 7)
    assert await store.forget_crls(NOW + 602) == 1 + 2  # a CRL, and the orders 5 and 6; what has not ended stays
    assert await store.forget_crls(NOW + 10_000) == 1
    assert await store.forget_crls(NOW + 10_000) == 0
    assert await store.publication() == before
    for number in (1, 2, 6):
        with pytest.raises(StoreConflict, match=r"^crl number taken$"):
            await store.write([AddCrl(crl(number))])
    for number, is_there in ((1, False), (2, False), (3, True), (4, True), (5, True)):
        if is_there:
            await store.write([PublishCrl(number, NOW)])
        else:
            with pytest.raises(StoreConflict, match=r"^no such crl$"):
                await store.write([PublishCrl(number, NOW)])
    await store.write([OrderCrl(NOW, "operator")])
    assert (await store.publication()).last_order == 8


async def test_many_crls_are_forgotten_at_once(store: Store) -> None:
    await store.write([step for n in range(1, 252) for step in (AddCrl(crl(n)), PublishCrl(n, NOW))])
    await store.write([OrderCrl(NOW, "operator")] * 251)
    assert await store.forget_crls(NOW + 10_000) == 250 + 250
    publication = await store.publication()
    assert (publication.last_number, publication.last_order) == (251, 251)


# --- the CA's own certificates ----------------------------------------------------------------------------------------


def service(number: int, purpose: str = "ocsp") -> ServiceCertificate:
    return ServiceCertificate(octets(number, 14), purpose, "CN=OCSP", NOW, NOW + 60, created_at=NOW - number)


async def test_service_certificates_are_recorded_before_they_are_signed(store: Store) -> None:
    await store.write([AddServiceCertificate(replace(service(1), der=b"too early"))])
    assert await store.service_certificates("ocsp") == [service(1)]
    await store.write([SignServiceCertificate(octets(1, 14), b"der")])
    await store.write([AddServiceCertificate(service(2)), AddServiceCertificate(service(3, "cmp"))])
    assert await store.service_certificates("ocsp") == [service(2), replace(service(1), der=b"der")]
    assert await store.service_certificates("cmp") == [service(3, "cmp")]
    assert await store.service_certificates("other") == []


async def test_a_service_certificate_is_signed_once_and_only_if_intended(store: Store) -> None:
    await store.write([AddServiceCertificate(service(1)), SignServiceCertificate(octets(1, 14), b"der")])
    for number in (1, 2):
        with pytest.raises(StoreConflict, match=r"^not intended$"):
            await store.write([SignServiceCertificate(octets(number, 14), b"another")])
    with pytest.raises(StoreError):
        await store.write([AddServiceCertificate(service(1))])
    assert await store.service_certificates("ocsp") == [replace(service(1), der=b"der")]


# --- revocation passphrases -------------------------------------------------------------------------------------------


async def test_a_passphrase_is_replaced_by_its_holder_alone(store: Store) -> None:
    one, two = await store.add_entity(entity("one")), await store.add_entity(entity("two"))
    kept = RevocationPassphrase(b"id", one.id, b"0\x00", b"sealed", NOW)
    assert await store.find_passphrase(b"id") is None
    await store.write([SetRevocationPassphrase(kept, 5)])
    for holder in ((two.id, b"0\x00"), (one.id, None), (one.id, b"0\x01")):
        other = RevocationPassphrase(b"id", *holder, b"stolen", NOW)
        with pytest.raises(StoreConflict, match=r"^passphrase identifier in use$"):
            await store.write([SetRevocationPassphrase(other, 5)])
    assert await store.find_passphrase(b"id") == kept
    changed = replace(kept, sealed=b"new", created_at=NOW + 1)
    await store.write([SetRevocationPassphrase(changed, 5)])
    assert await store.find_passphrase(b"id") == changed
    with pytest.raises(StoreError):
        await store.write([SetRevocationPassphrase(RevocationPassphrase(b"x", 99, None, b"", NOW), 5)])


@pytest.mark.parametrize("subject", [None, b"0\x00"])
async def test_a_holder_has_a_limited_number_of_passphrases(store: Store, subject: bytes | None) -> None:
    one, two = await store.add_entity(entity("one")), await store.add_entity(entity("two"))
    mine = [RevocationPassphrase(octets(n), one.id, subject, b"s", NOW) for n in (1, 2, 3)]
    for each in mine[:2]:
        await store.write([SetRevocationPassphrase(each, 2)])
    with pytest.raises(StoreConflict, match=r"^too many passphrases$"):
        await store.write([SetRevocationPassphrase(mine[2], 2)])
    await store.write([SetRevocationPassphrase(replace(mine[1], sealed=b"again"), 2)])
    others = [replace(mine[2], entity_id=two.id), replace(mine[2], key_id=b"4", subject=b"0\x01")]
    await store.write([SetRevocationPassphrase(each, 2) for each in others])
    assert await store.find_passphrase(octets(3)) == others[0]


# --- what a replay must not do ----------------------------------------------------------------------------------------


async def test_the_id_of_a_purged_rr_is_never_free_again(store: Store) -> None:
    owner = await store.add_entity(entity())
    opened = transaction(1, owner, body="rr", sender_certificate=b"its chain", keeps_id=True)
    await store.write([OpenTransaction(opened)])
    ended = MoveTransaction(octets(1), TransactionState.PROCESSING, TransactionState.ENDED, b"n", ended_at=NOW)
    await store.write([ended, AddResponse(octets(1), octets(1, 32), b"rp")])
    before = await store.find_transaction(octets(1))
    assert before is not None
    assert await store.purge(NOW + 2, 10) == 1
    assert await store.find_transaction(octets(1)) == replace(before, sender_certificate=None)
    assert await store.find_response(octets(1), octets(1, 32)) == (False, None)
    with pytest.raises(StoreConflict, match="transaction exists"):
        await store.write([OpenTransaction(opened)])
    assert await store.purge(NOW + 10_000, 10) == 0
    assert await store.find_transaction(octets(1)) is not None


async def test_a_closed_store_tells_no_status(store: Store) -> None:
    await store.close()
    for asked in (
        store.certificate_status([octets(1, 14)]),
        store.history(octets(1, 14)),
        store.status_changes(after=0, limit=1),
        store.revoked(expiring_from=0, limit=1),
        store.publication(),
        store.service_certificates("ocsp"),
        store.find_passphrase(b"id"),
    ):
        with pytest.raises(StoreError, match="closed"):
            await asked
