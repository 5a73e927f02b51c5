"""SqliteStore against its model: any sequence of units has the same outcomes and leaves the same records in both."""

import random
from pathlib import Path

import pytest

from cmpd.errors import StoreConflict, StoreError
from cmpd.records import (
    AddCertificate,
    AddIntent,
    AddResponse,
    CertificateState,
    Change,
    Entity,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    ReturnUse,
    TakeUse,
    TransactionState,
)
from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from cmpd.store.sqlite import SqliteStore
from tests.store.samples import NOW, entity, intent, octets, transaction

UNITS = 250
NUMBERS = 8  # of transactions, certificates and requests: few, so that they meet


class Dice:
    """Random changes, all from one seed."""

    def __init__(self, seed: int, owners: list[Entity]) -> None:
        self.random = random.Random(seed)
        self.owners = owners

    def number(self) -> int:
        return self.random.randrange(1, NUMBERS + 1)

    def time(self) -> int:
        return NOW + self.random.randrange(20)

    def state(self) -> TransactionState:
        return self.random.choice(list(TransactionState))

    def certificate_state(self) -> CertificateState:
        return self.random.choice(list(CertificateState))

    def change(self) -> Change:
        owner = self.random.choice(self.owners)
        number, other = self.number(), self.number()
        times = {"confirm_by": self.time(), "ended_at": self.time()}
        after = self.random.choice([CertificateState.ISSUED, CertificateState.CONFIRMED])
        kinds: list[Change] = [
            OpenTransaction(transaction(number, owner, state=self.state(), **times)),
            OpenTransaction(transaction(number, owner)),
            MoveTransaction(octets(number), self.state(), self.state(), b"n", **times),
            AddResponse(octets(number), octets(other, 32), self.random.choice([None, b"", b"response"])),
            TakeUse(owner.id, octets(number)),
            ReturnUse(owner.id, octets(number)),
            AddIntent(
                intent(number, owner, transaction_number=other, cert_req_id=number, key_id=octets(other % 3, 32))
            ),
            AddCertificate(octets(number, 14), b"der", after, self.time()),
            MoveCertificate(
                octets(number, 14), self.certificate_state(), self.certificate_state(), self.time(), "r", "b"
            ),
        ]
        return self.random.choice(kinds)


async def outcome(store: Store, unit: list[Change]) -> str:
    try:
        await store.write(unit)
    except StoreConflict as conflict:
        return conflict.reason
    except StoreError:
        return "refused"
    return "written"


async def everything(store: Store) -> list[object]:
    numbers = range(1, NUMBERS + 1)
    found: list[object] = [await store.list_entities(), await store.list_certificates()]
    found += [await store.find_transaction(octets(number)) for number in numbers]
    found += [await store.find_response(octets(one), octets(two, 32)) for one in numbers for two in numbers]
    found += [await store.unconfirmed(NOW + 10, 100), await store.list_certificates(state=CertificateState.REVOKED)]
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_any_sequence_of_units_ends_as_in_the_model(tmp_path: Path, seed: int) -> None:
    model, store = MemoryStore(), await SqliteStore.open(tmp_path / "db", serving=True)
    try:
        owners = [entity("a", uses_left=3), entity("b"), entity("c", uses_left=100)]
        added = [await model.add_entity(owner) for owner in owners]
        assert [await store.add_entity(owner) for owner in owners] == added
        dice = Dice(seed, added)
        outcomes: set[str] = set()
        for _ in range(UNITS):
            unit = [dice.change() for _ in range(dice.random.randrange(1, 4))]
            before = model.generation, store.generation
            expected = await outcome(model, unit)
            assert await outcome(store, unit) == expected, unit
            outcomes.add(expected)
            assert store.generation - before[1] == model.generation - before[0]
            if dice.random.random() < 0.05:
                assert await store.recover(NOW + 30) == await model.recover(NOW + 30)
            if dice.random.random() < 0.05:
                limit = dice.random.choice([1, 2, 100])
                assert await store.purge(NOW + 10, limit) == await model.purge(NOW + 10, limit)
        assert await everything(store) == await everything(model)
        assert {"written", "refused", "transaction exists", "transaction moved", "not intended"} <= outcomes
    finally:
        await store.close()
