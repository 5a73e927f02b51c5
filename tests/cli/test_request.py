"""cmpd request: an operator looks at the requests that wait, and decides them."""

import asyncio
import getpass
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmpd.changes import Change, DecideWaiting, MoveTransaction
from cmpd.cli import request
from cmpd.cli.cmpd import main
from cmpd.config import load
from cmpd.env import Env
from cmpd.keeping import seal_request
from cmpd.records import Decision, TransactionState, WaitingRequest
from cmpd.store import open_store
from cmpd.store.base import Store
from cmpd.store.sealing import Sealer
from cmpd.store.sqlite import SqliteStore
from tests.cli.conftest import Result
from tests.store.samples import NOW, entity, holding, octets

Ask = Callable[..., Result]
ME = f"operator {getpass.getuser()}"
NUMBERS = (0x0000001A, 0x0A0B0C0D, 0xFFFFFFFF)


def write(ca: Path, *units: Sequence[Change]) -> None:
    async def all_of_them() -> None:
        store = await open_store(ca / "cmpd.db", serving=False)
        for unit in units:
            await store.write(unit)
        await store.close()

    asyncio.run(all_of_them())


def kept(ca: Path, reference: int) -> WaitingRequest:
    async def find() -> WaitingRequest | None:
        store = await open_store(ca / "cmpd.db", serving=False)
        found = await store.find_waiting(reference)
        await store.close()
        return found

    found = asyncio.run(find())
    assert found is not None
    return found


@pytest.fixture
def waits(ca: Path) -> Path:
    """Three requests that wait, the one with the highest reference for longest; they expire after 100 seconds."""

    async def fill() -> None:
        store = await open_store(ca / "cmpd.db", serving=False)
        owner = await store.add_entity(entity("pump"))
        for place, number in enumerate(NUMBERS):
            await store.write(holding(number, owner, received_at=NOW - place))
        await store.close()

    asyncio.run(fill())
    return ca


@pytest.fixture
def ask(ca: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run `cmpd request ...` ten seconds after the requests came in, or `at`."""

    def ask(*words: str, at: int = NOW + 10) -> Result:
        capsys.readouterr()
        code = main(["request", *words, "--config", str(ca / "cmpd.toml")], Env(now=lambda: at))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return ask


def ended(number: int) -> list[Change]:
    """The requester has come for the answer, or has given up."""
    waiting, over = TransactionState.WAITING, TransactionState.ENDED
    return [MoveTransaction(octets(number), waiting, over, b"n" * 16, ended_at=NOW + 20)]


def decided(number: int, decision: Decision, text: str = "", by: str = "operator bob") -> list[Change]:
    return [DecideWaiting(octets(number), decision, NOW + 5, by, text)]


# --- looking ---------------------------------------------------------------------------------------------------------


def test_list_shows_who_waits_the_longest_first(ask: Ask, waits: Path):
    head, *rows = ask("list").out.splitlines()
    assert head.split() == [
        "REFERENCE", "STATE", "RECEIVED_AT", "EXPIRES_AT", "BODY", "REQUESTER", "PROFILE", "SUBJECTS", "TRANSACTION"
    ]  # fmt: skip
    assert [row.split()[0] for row in rows] == ["FFFFFFFF", "0A0B0C0D", "0000001A"]
    assert re.split(r" {2,}", rows[2]) == [
        "0000001A", "undecided", "2027-01-15T08:00:00Z", "2027-01-15T08:01:40Z", "ir", "pump", "tls", "CN=device 26",
        octets(26).hex(),
    ]  # fmt: skip


def test_list_leaves_out_what_cannot_be_decided_and_all_tells_why(ask: Ask, waits: Path):
    write(waits, decided(NUMBERS[0], Decision.APPROVED), ended(NUMBERS[1]))
    assert [row["reference"] for row in json.loads(ask("list", "--json").out)] == ["FFFFFFFF"]
    states = {row["reference"]: row["state"] for row in json.loads(ask("list", "--all", "--json").out)}
    assert states == {"0000001A": "approved", "0A0B0C0D": "given up", "FFFFFFFF": "undecided"}
    assert json.loads(ask("list", "--json", at=NOW + 101).out) == []
    states = {row["reference"]: row["state"] for row in json.loads(ask("list", "--all", "--json", at=NOW + 101).out)}
    assert states == {"0000001A": "expired", "0A0B0C0D": "expired", "FFFFFFFF": "expired"}
    write(waits, ended(NUMBERS[0]))
    states = {row["reference"]: row["state"] for row in json.loads(ask("list", "--all", "--json", at=NOW + 101).out)}
    assert states["0000001A"] == "approved, answered"


def test_a_request_can_be_decided_in_the_last_second(ask: Ask, waits: Path):
    assert len(json.loads(ask("list", "--json", at=NOW + 100).out)) == 3
    assert ask("approve", "1a", at=NOW + 100).code == 0


def test_list_of_nothing_is_a_head_alone_and_an_empty_list(ask: Ask, ca: Path):
    assert ask("list").out.count("\n") == 1
    assert json.loads(ask("list", "--json").out) == []


@pytest.mark.parametrize("page", [1, 2, 3])
def test_list_shows_more_than_one_page(ask: Ask, waits: Path, page: int, monkeypatch: pytest.MonkeyPatch):
    assert page < request._PAGE
    monkeypatch.setattr(request, "_PAGE", page)
    assert len(json.loads(ask("list", "--json").out)) == 3
    assert len(json.loads(ask("list", "--all", "--json").out)) == 3


FIELDS: dict[str, Any] = {
    "reference": "0000001A",
    "transaction": octets(26).hex(),
    "state": "undecided",
    "body": "ir",
    "requester": "pump",
    "profile": "tls",
    "subjects": "CN=device 26",
    "received_at": "2027-01-15T08:00:00Z",
    "expires_at": "2027-01-15T08:01:40Z",
    "decision": "undecided",
    "decided_at": None,
    "decided_by": "",
    "reason": "",
    "answered": False,
}


@pytest.mark.parametrize("word", ["0000001A", "1a", "0x1A", octets(26).hex(), octets(26).hex(":").upper()])
def test_show_finds_by_reference_and_by_transaction_id(ask: Ask, waits: Path, word: str):
    shown = FIELDS | {"request_octets": 11, "request_sha256": octets(26, 32).hex()}
    assert json.loads(ask("show", word, "--json").out) == shown
    lines = dict(line.split(":", 1) for line in ask("show", word).out.splitlines())
    assert {name: value.strip() for name, value in lines.items()} == {
        name: {None: "-", "": "-", False: "no"}.get(value, str(value)) for name, value in shown.items()
    }


def test_a_reference_is_looked_for_before_a_short_transaction_id(ask: Ask, waits: Path):
    async def add() -> None:
        store = await open_store(waits / "cmpd.db", serving=False)
        owner = await store.find_entity("pump")
        assert owner is not None
        for number, transaction_id in ((77, bytes.fromhex("ffffffff")), (78, bytes.fromhex("000000aa"))):
            opened, held = holding(number, owner)
            fields = {"transaction_id": transaction_id}
            await store.write([_with(opened, "transaction", fields), _with(held, "waiting", fields)])
        await store.close()

    asyncio.run(add())
    assert json.loads(ask("show", "ffffffff", "--json").out)["transaction"] == octets(NUMBERS[2]).hex()
    assert json.loads(ask("show", "000000aa", "--json").out)["reference"] == "0000004E"


def _with(change: Any, name: str, fields: dict[str, object]) -> Any:
    inner = replace(getattr(change, name), **({"id": fields["transaction_id"]} if name == "transaction" else fields))
    return replace(change, **{name: inner})


def test_show_writes_the_request(ask: Ask, waits: Path, tmp_path: Path):
    done = ask("show", "1A", "--out", str(tmp_path / "request.der"))
    assert (tmp_path / "request.der").read_bytes() == b"\x30request 26"
    assert "CN=device 26" in done.out
    assert done.err == f"{tmp_path}/request.der: request 0000001A (PKIMessage, DER)\n"
    done = ask("show", "1A", "--out", str(tmp_path / "none/request.der"))
    assert (done.code, done.err.startswith("cmpd: --out ")) == (1, True)


def test_show_opens_a_sealed_request_and_needs_the_passphrase_for_it_alone(ask: Ask, ca: Path, tmp_path: Path):
    config = load(ca / "cmpd.toml")
    sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase())

    async def fill() -> None:
        store = await open_store(ca / "cmpd.db", serving=False)
        owner = await store.add_entity(entity("pump"))
        sealed = seal_request(sealer, octets(7), b"\x30a request with secrets")
        await store.write(holding(7, owner, received_at=NOW, request=sealed))
        await store.close()

    asyncio.run(fill())
    assert b"with secrets" not in kept(ca, 7).request
    done = ask("show", "7", "--out", str(tmp_path / "request.der"), "--json")
    assert (tmp_path / "request.der").read_bytes() == b"\x30a request with secrets"
    shown = json.loads(done.out)
    assert shown["request_octets"] == len(b"\x30a request with secrets")
    config.store.secrets_key.unlink()
    assert json.loads(ask("show", "7", "--json").out) == shown
    done = ask("show", "7", "--out", str(tmp_path / "again.der"))
    assert (done.code, done.out) == (1, "")
    assert str(config.store.secrets_key) in done.err
    assert not (tmp_path / "again.der").exists()


@pytest.mark.parametrize("word", ["1b", "00", "abc", "12345678", "ab" * 16, "ab" * 40])
@pytest.mark.parametrize("command", [["show"], ["approve"], ["reject", "--reason", "x"]])
def test_an_unknown_request_is_named(ask: Ask, waits: Path, command: list[str], word: str):
    done = ask(*command, word)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"cmpd: {word.upper()}: there is no request with this reference or transactionID")


# --- deciding --------------------------------------------------------------------------------------------------------


def test_approve_records_who_and_when_and_tells_how_it_goes_on(ask: Ask, waits: Path):
    done = ask("approve", "1a")
    assert (done.code, done.out) == (0, "0000001A is approved (ir of pump: CN=device 26)\n")
    assert done.err == (
        "the requester gets its certificate when it asks again: it was told to do so every 30s, and can until "
        "2027-01-15T08:01:40Z; no server runs now\n"
    )
    found = kept(waits, 26)
    assert (found.decision, found.decided_at, found.decided_by) == (Decision.APPROVED, NOW + 10, ME)
    assert (found.text, found.answered) == ("", False)
    assert kept(waits, NUMBERS[1]).decision is Decision.UNDECIDED


def test_reject_records_the_reason(ask: Ask, waits: Path):
    done = ask("reject", octets(26).hex(), "--reason", " unknown device ")
    assert (done.code, done.out) == (0, "0000001A is rejected (ir of pump: CN=device 26)\n")
    assert done.err.startswith("the requester is told so when it asks again")
    found = kept(waits, 26)
    assert (found.decision, found.decided_by, found.text) == (Decision.REJECTED, ME, "unknown device")
    assert json.loads(ask("show", "1a", "--json").out)["reason"] == "unknown device"


def test_beside_a_server_that_runs_nothing_is_said_of_none(ask: Ask, waits: Path):
    async def serve() -> tuple[Result, WaitingRequest | None]:
        store: Store = await open_store(waits / "cmpd.db", serving=True)
        done = await asyncio.to_thread(ask, "approve", "1a")
        seen = await store.find_waiting(26)
        await store.close()
        return done, seen

    done, seen = asyncio.run(serve())
    assert done.code == 0
    assert "no server" not in done.err
    assert seen is not None
    assert seen.decision is Decision.APPROVED


def test_decisions_as_json(ask: Ask, waits: Path):
    done = ask("approve", "1a", "2b", "--json")
    found = json.loads(done.out)
    assert found[0] == FIELDS | {
        "state": "approved",
        "decision": "approved",
        "decided_at": "2027-01-15T08:00:10Z",
        "decided_by": ME,
    }
    assert found[1]["request"] == "2b"
    assert found[1]["error"].startswith("2B: there is no request")
    assert done.code == 1
    assert done.err == f"cmpd: {found[1]['error']}\n"


def test_what_cannot_be_decided_does_not_keep_the_others_from_it(ask: Ask, waits: Path):
    write(waits, decided(NUMBERS[1], Decision.REJECTED, "no such pump"))
    done = ask("approve", "a0b0c0d", "ffffffff", "1a", "FFFFFFFF")
    assert done.code == 1
    assert [line.split()[0] for line in done.out.splitlines()] == ["FFFFFFFF", "0000001A"]
    assert done.err.splitlines()[0] == (
        "cmpd: 0A0B0C0D is rejected already, since 2027-01-15T08:00:05Z (by operator bob): no such pump"
    )


def test_one_request_by_both_of_its_names_is_decided_once(ask: Ask, waits: Path):
    done = ask("approve", "1a", octets(26).hex())
    assert done.code == 1
    assert done.err.startswith(f"cmpd: 0000001A is approved already, since 2027-01-15T08:00:10Z (by {ME})\n")


@pytest.mark.parametrize("command", [["approve"], ["reject", "--reason", "x"]])
def test_a_decision_is_final_and_one_that_was_fetched_is_said_to_be(ask: Ask, waits: Path, command: list[str]):
    write(waits, decided(26, Decision.APPROVED))
    wanted = "cmpd: 0000001A is approved already, since 2027-01-15T08:00:05Z (by operator bob)"
    assert ask(*command, "1a").err == f"{wanted}\n"
    write(waits, ended(26))
    done = ask(*command, "1a")
    assert (done.code, done.err) == (1, f"{wanted}, and its requester has got the answer\n")


def test_what_is_over_cannot_be_decided(ask: Ask, waits: Path):
    done = ask("approve", "1a", at=NOW + 101)
    assert (done.code, done.out) == (1, "")
    assert done.err == ("cmpd: 0000001A has expired at 2027-01-15T08:01:40Z: its requester has to make a new request\n")
    write(waits, ended(26))
    done = ask("approve", "1a")
    assert done.err == "cmpd: 0000001A needs no decision any more: its requester has given up\n"
    assert kept(waits, 26).decision is Decision.UNDECIDED


def test_who_comes_second_is_told_who_was_first(ask: Ask, waits: Path, monkeypatch: pytest.MonkeyPatch):
    write_it = SqliteStore.write
    others = [decided(26, Decision.REJECTED, "mine")]

    async def after_another(self: SqliteStore, changes: Sequence[Change], **how: Any) -> None:
        while others:
            await write_it(self, others.pop())
        await write_it(self, changes, **how)

    monkeypatch.setattr(SqliteStore, "write", after_another)
    done = ask("approve", "1a")
    assert (done.code, done.out) == (1, "")
    assert done.err == "cmpd: 0000001A is rejected already, since 2027-01-15T08:00:05Z (by operator bob): mine\n"
    assert kept(waits, 26).decision is Decision.REJECTED
