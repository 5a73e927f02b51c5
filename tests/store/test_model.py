"""SqliteStore against its model: any sequence of units has the same outcomes and leaves the same records in both."""

import random
from pathlib import Path

import pytest

from cmpd.changes import (
    AddCertificate,
    AddCrl,
    AddIntent,
    AddResponse,
    AddServiceCertificate,
    AddWaiting,
    Change,
    DecideWaiting,
    MoveCertificate,
    MoveTransaction,
    OpenTransaction,
    OrderCrl,
    PublishCrl,
    ReturnUse,
    SetRevocationPassphrase,
    SignServiceCertificate,
    TakeUse,
)
from cmpd.errors import StoreConflict, StoreError
from cmpd.records import (
    CertificateState,
    CrlRecord,
    Decision,
    Entity,
    RevocationPassphrase,
    ServiceCertificate,
    TransactionState,
)
from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from cmpd.store.sqlite import SqliteStore
from tests.store.samples import NOW, entity, holding, intent, octets, transaction, waiting

UNITS = 450
NUMBERS = 8  # of transactions, certificates and requests: few, so that they meet


class Dice:
    """Random changes, all from one seed."""

    def __init__(self, seed: int, owners: list[Entity]) -> None:
        self.random = random.Random(seed)
        self.owners = owners
        self.crls = 0  # how many there are
        self.states: dict[bytes, CertificateState] = {}  # of the certificates that there are

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
        number, other, coin = self.number(), self.number(), self.random.random() < 0.5
        serial = self.random.choice([*self.states, octets(other, 14)])
        known, following = self.states.get(serial, CertificateState.ISSUED), self.certificate_state()
        times = {"confirm_by": self.time(), "ended_at": self.time()}
        after = self.random.choice([CertificateState.ISSUED, CertificateState.CONFIRMED])
        kinds: list[Change] = [
            OpenTransaction(transaction(number, owner, state=self.state(), body="rr" if coin else "ir", **times)),
            OpenTransaction(transaction(number, owner)),
            MoveTransaction(octets(number), self.state(), self.state(), b"n", **times),
            AddResponse(octets(number), octets(other, 32), self.random.choice([None, b"", b"response"])),
            TakeUse(owner.id, octets(number)),
            ReturnUse(owner.id, octets(number)),
            AddIntent(
                intent(number, owner, transaction_number=other, cert_req_id=number, key_id=octets(other % 3, 32))
            ),
            AddCertificate(octets(number, 14), b"der", after, self.time()),
            MoveCertificate(serial, self.certificate_state(), self.certificate_state(), self.time(), "r", "b", 5),
            *[MoveCertificate(serial, known, following, self.time(), "r", "b", 5)] * 3,
        ]
        passphrase = RevocationPassphrase(octets(number), owner.id, b"0" if coin else None, b"s", self.time())
        service = ServiceCertificate(octets(number + 20, 14), "ocsp", "CN=OCSP", NOW, NOW + 9, self.time())
        rare: list[Change] = [
            OrderCrl(self.time(), "operator"),
            AddCrl(CrlRecord(self.crls + 1, self.time(), self.time(), number, other, 1 if coin else None, coin)),
            AddCrl(CrlRecord(number, self.time(), self.time(), number)),
            PublishCrl(self.random.randrange(self.crls + 2), self.time()),
            AddServiceCertificate(service),
            SignServiceCertificate(octets(number + 20, 14), b"der"),
            SetRevocationPassphrase(passphrase, 1),
        ]
        return self.random.choice(rare if self.random.random() < 0.3 else kinds)

    def unit(self) -> list[Change]:
        """Some changes; of requests that wait often the unit that they belong into, or what becomes of one."""
        number, owner, kind = self.number(), self.random.choice(self.owners), self.random.random()
        until = {"expires_at": self.time(), "reference": self.number()}
        if kind < 0.08:
            return holding(number, owner, limit=self.random.choice([2, 100]), **until)
        if kind < 0.12:
            held = waiting(number, owner, text="not kept", decision=Decision.APPROVED, **until)
            return [AddWaiting(held, self.random.choice([2, 100])), self.change()]
        if kind < 0.2:
            decision = self.random.choice(list(Decision))
            return [DecideWaiting(octets(number), decision, self.time(), "operator", "why")]
        if kind < 0.28:
            following = self.random.choice([TransactionState.PROCESSING, self.state()])
            times = {"confirm_by": self.time(), "ended_at": self.time()}
            return [MoveTransaction(octets(number), TransactionState.WAITING, following, b"w", **times)]
        return [self.change() for _ in range(self.random.choice([1, 1, 2, 3]))]


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
    found += [await store.find_waiting(number) for number in numbers]
    found += [await store.list_waiting(), await store.list_waiting(undecided_only=False, after=2, limit=3)]
    found += [await store.find_response(octets(one), octets(two, 32)) for one in numbers for two in numbers]
    found += [await store.unconfirmed(NOW + 10, 100), await store.list_certificates(state=CertificateState.REVOKED)]
    found += [await store.certificate_status([octets(number, 14) for number in range(1, 30)])]
    found += [await store.history(octets(number, 14)) for number in numbers]
    found += [await store.find_passphrase(octets(number)) for number in numbers]
    found += [await store.status_changes(after=3, limit=1000), await store.publication()]
    found += [await store.revoked(expiring_from=NOW, limit=1000), await store.service_certificates("ocsp")]
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
            unit = dice.unit()
            before = model.generation, store.generation
            expected = await outcome(model, unit)
            assert await outcome(store, unit) == expected, unit
            outcomes.add(expected)
            dice.crls = (await model.publication()).last_number
            dice.states = {record.serial: record.state for record in await model.list_certificates()}
            assert store.generation - before[1] == model.generation - before[0]
            assert await store.list_waiting(undecided_only=False) == await model.list_waiting(undecided_only=False)
            if dice.random.random() < 0.05:
                assert await store.recover(NOW + 30) == await model.recover(NOW + 30)
            if dice.random.random() < 0.05:
                limit = dice.random.choice([1, 2, 100])
                assert await store.purge(NOW + 10, limit) == await model.purge(NOW + 10, limit)
        assert await everything(store) == await everything(model)
        assert {"written", "refused", "transaction exists", "transaction moved", "not intended"} <= outcomes
        assert {"crl number taken", "no such crl", "passphrase identifier in use", "too many passphrases"} <= outcomes
        assert {"reference taken", "too many waiting", "not waiting"} <= outcomes
        assert {change.state for change in await store.status_changes(after=0, limit=100)} >= {
            CertificateState.REVOKED,
            CertificateState.SUSPENDED,
        }
    finally:
        await store.close()
