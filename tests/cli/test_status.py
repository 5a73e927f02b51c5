"""cmpd cert revoke, suspend, resume: each certificate is judged alone, and what was done is recorded and said."""

import asyncio
import fcntl
import json
import os
import pwd
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cmpd.changes import (
    AddServiceCertificate,
    Change,
    MoveCertificate,
    SignServiceCertificate,
)
from cmpd.cli.cmpd import main
from cmpd.env import Env
from cmpd.errors import StoreConflict
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    ServiceCertificate,
)
from cmpd.store import is_served, open_store
from cmpd.store.base import Store
from cmpd.store.sqlite import SqliteStore
from tests.cli.conftest import Run

NOW = 1_850_000_000
NOW_TEXT = "2028-08-16T00:53:20Z"
AT_NOW = Env(now=lambda: NOW + 0.9)
BY = f"operator {pwd.getpwuid(os.getuid()).pw_name}"

At = Callable[..., tuple[int, str, str]]


@pytest.fixture
def at(issued: Path, capsys: pytest.CaptureFixture[str]) -> At:
    """Run a command at a time: exit code, standard output, standard error."""

    def run(env: Env, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*words, "--config", str(issued / "cmpd.toml")], env)
        return (code, *capsys.readouterr())

    return run


def shown(run: Run, serial: str) -> dict[str, Any]:
    (found,) = json.loads(run("cert", "show", serial, "--json").out)
    return found


def with_store(ca: Path, work: Callable[[Store], Any]) -> None:
    async def use() -> None:
        store = await open_store(ca / "cmpd.db", serving=False)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(use())


# --- what is done ----------------------------------------------------------------------------------------------------


def test_revoke_is_recorded_and_said(run: Run, at: At):
    code, out, err = at(
        AT_NOW, "cert", "revoke", "4100", "--reason", "keyCompromise", "--invalidity-date", "2026-01-31"
    )
    assert (code, out) == (0, f"4100 is revoked since {NOW_TEXT}, reason keyCompromise\n")
    assert "no server runs" in err
    assert "cmpd crl issue --config" in err
    found = shown(run, "4100")
    wanted = {
        "state": "revoked",
        "revoked_at": NOW_TEXT,
        "changed_at": NOW_TEXT,
        "reason": "keyCompromise",
        "invalidity_date": "2026-01-31T00:00:00Z",
        "changed_by": BY,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["history"] == [
        {
            "at": NOW_TEXT,
            "state": "revoked",
            "reason": "keyCompromise",
            "invalidity_date": "2026-01-31T00:00:00Z",
            "by": BY,
        }
    ]
    assert shown(run, "F1")["state"] == "confirmed"


def test_suspended_resumed_and_revoked_is_all_in_the_history(run: Run, at: At):
    said = {"suspend": "suspended since", "resume": "confirmed again since", "revoke": "revoked since"}
    for second, name in enumerate(["suspend", "resume", "suspend", "revoke"]):
        code, out, _ = at(Env(now=lambda second=second: NOW + second), "cert", name, "f1")
        assert code == 0
        since = 2 if name == "revoke" else second  # a hold that becomes a revocation was invalid all the time
        assert out.startswith(f"F1 is {said[name]} 2028-08-16T00:53:2{since}Z")
    found = shown(run, "F1")
    assert [(step["state"], step["reason"]) for step in found["history"]] == [
        ("suspended", "certificateHold"),
        ("confirmed", "removeFromCRL"),
        ("suspended", "certificateHold"),
        ("revoked", "unspecified"),
    ]
    assert (found["revoked_at"], found["changed_at"]) == ("2028-08-16T00:53:22Z", "2028-08-16T00:53:23Z")
    lines = run("cert", "show", "F1").out.splitlines()
    assert lines[-5].split() == ["AT", "STATE", "REASON", "INVALIDITY_DATE", "BY"]
    assert lines[-1].split(maxsplit=4) == ["2028-08-16T00:53:23Z", "revoked", "unspecified", "-", BY]
    assert [row["serial"] for row in json.loads(run("cert", "list", "--state", "revoked", "--json").out)] == ["F1"]


def test_resume_leaves_nothing_of_the_suspension_but_history(run: Run, at: At):
    at(AT_NOW, "cert", "suspend", "F1", "--invalidity-date", "2026-01-31T10:00:00Z")
    assert shown(run, "F1")["invalidity_date"] == "2026-01-31T10:00:00Z"
    code, out, _ = at(AT_NOW, "cert", "resume", "F1")
    assert (code, out) == (0, f"F1 is confirmed again since {NOW_TEXT}\n")
    found = shown(run, "F1")
    assert [found[name] for name in ("state", "revoked_at", "reason", "invalidity_date")] == [
        "confirmed", None, None, None,
    ]  # fmt: skip
    assert len(found["history"]) == 2


def test_json_is_the_record(run: Run, at: At):
    code, out, err = at(AT_NOW, "cert", "suspend", "0x41:00", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(run("cert", "show", "4100", "--json").out)


def test_each_of_several_is_judged_alone(run: Run, at: At):
    code, out, err = at(AT_NOW, "cert", "revoke", "AA", "4100", "42AB", "00:f1", "F1")
    assert code == 1
    assert [line.partition(" ")[0] for line in out.splitlines()] == ["4100", "F1"]
    assert err.splitlines()[:2] == [
        "cmpd: AA: there is no certificate with serial number AA",
        "cmpd: 42AB: this CA has issued no certificate with this serial number",
    ]
    assert [shown(run, serial)["state"] for serial in ("4100", "F1", "42AB")] == ["revoked", "revoked", "intended"]
    code, out, _ = at(AT_NOW, "cert", "revoke", "4100", "AA", "--json")
    assert code == 1
    first, second = json.loads(out)
    assert (first["serial"], second["serial"]) == ("4100", "AA")
    assert first["error"].startswith("the certificate is revoked already, since ")
    assert second == {"serial": "AA", "error": "there is no certificate with serial number AA"}


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "words", "wanted"),
    [
        (["revoke"], ["revoke"], f"the certificate is revoked already, since {NOW_TEXT} (by {BY}, reason unspecified)"),
        (["revoke"], ["suspend"], "the certificate is revoked already, since "),
        (["revoke"], ["resume"], "the certificate is revoked already, since "),
        (["suspend"], ["suspend"], f"the certificate is suspended already, since {NOW_TEXT} "),
        ([], ["resume"], "the certificate is not suspended"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(run: Run, at: At, before: list[str], words: list[str], wanted: str):
    for name in before:
        assert at(AT_NOW, "cert", name, "4100")[0] == 0
    steps = shown(run, "4100")["history"]
    code, out, err = at(AT_NOW, "cert", *words, "4100")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith(f"cmpd: 4100: {wanted}")
    assert shown(run, "4100")["history"] == steps


@pytest.mark.parametrize("name", ["revoke", "suspend"])
def test_what_is_expired_cannot_change(at: At, name: str):
    code, _, err = at(Env(now=lambda: 1_900_000_001), "cert", name, "4100")
    assert (code, err) == (1, "cmpd: 4100: the certificate is expired, since 2030-03-17T17:46:40Z\n")


def test_a_date_in_the_future_is_noted(run: Run, at: At):
    code, _, err = at(AT_NOW, "cert", "revoke", "4100", "--invalidity-date", "2029-01-01")
    assert code == 0
    assert err.startswith("note: --invalidity-date 2029-01-01T00:00:00Z is in the future\n")
    assert shown(run, "4100")["invalidity_date"] == "2029-01-01T00:00:00Z"


# --- reasons and times -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("keyCompromise", "keyCompromise"),
        ("KEY_COMPROMISE", "keyCompromise"),
        ("key-compromise", "keyCompromise"),
        ("cacompromise", "cACompromise"),
        ("aa-compromise", "aACompromise"),
        ("cessation-of-operation", "cessationOfOperation"),
        ("unspecified", "unspecified"),
    ],
)
def test_reasons_are_understood_however_they_are_written(at: At, word: str, reason: str):
    code, out, _ = at(AT_NOW, "cert", "revoke", "4100", "--reason", word, "--json")
    assert code == 0
    assert json.loads(out)[0]["reason"] == reason


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("keyCompromised", "want a reason for revocation, have 'keyCompromised'; the nearest is \"keyCompromise\""),
        ("key-comprimise", 'the nearest is "keyCompromise"'),
        ("zzz", "known are unspecified, keyCompromise"),
        ("certificateHold", "certificateHold does not revoke: use cmpd cert suspend"),
        ("certificate-hold", "certificateHold does not revoke: use cmpd cert suspend"),
        ("removeFromCRL", "removeFromCRL does not revoke: use cmpd cert resume"),
        ("7", "want a reason for revocation"),
    ],
)
def test_what_is_no_reason_to_revoke_is_wrong_usage(run: Run, word: str, wanted: str):
    done = run("cert", "revoke", "4100", "--reason", word)
    assert done.code == 2
    assert wanted in done.err


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01", "1970-01-01T00:00:00Z"),
        ("2024-02-29", "2024-02-29T00:00:00Z"),
        ("2026-01-31T12:34Z", "2026-01-31T12:34:00Z"),
        ("2026-01-31 12:34:56z", "2026-01-31T12:34:56Z"),
    ],
)
def test_times_are_those_of_utc(at: At, text: str, moment: str):
    _, out, _ = at(AT_NOW, "cert", "revoke", "4100", "--invalidity-date", text, "--json")
    assert json.loads(out)[0]["invalidity_date"] == moment


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-02-29", "2026-13-01", "1969-12-31", "2026-01-31T24:00:00Z", "2026-01-31T12:00:00",
     "2026-01-31T12:00:00+01:00", "20260131", "٢٠٢٦-01-31"],
)  # fmt: skip
def test_what_is_no_time_in_utc_is_wrong_usage(run: Run, text: str):
    done = run("cert", "revoke", "4100", "--invalidity-date", text)
    assert done.code == 2
    assert "--invalidity-date: want a " in done.err


# --- beside others ---------------------------------------------------------------------------------------------------


def test_it_works_while_the_server_runs_which_sees_it(run: Run, issued: Path):
    async def serve() -> None:
        server = await open_store(issued / "cmpd.db", serving=True)
        try:
            assert is_served(issued / "cmpd.db")
            before = await server.refresh()
            done = await asyncio.to_thread(run, "cert", "revoke", "4100")
            assert done.code == 0, done.err
            assert "the server publishes it" in done.err
            assert await server.refresh() > before
            (change,) = await server.status_changes(after=0, limit=10)
            assert (change.serial, change.state) == (bytes.fromhex("4100"), CertificateState.REVOKED)
            assert (await server.publication()).last_change == change.id
        finally:
            await server.close()
        assert not is_served(issued / "cmpd.db")

    asyncio.run(serve())


def test_a_change_in_between_is_judged_anew(run: Run, at: At, issued: Path, monkeypatch: pytest.MonkeyPatch):
    """Somebody suspends the certificate after the command has read it: it is revoked from there."""
    find = SqliteStore.find_certificate
    others = [CertificateState.SUSPENDED]

    async def overtaken(self: SqliteStore, serial: bytes) -> CertificateRecord | None:
        record = await find(self, serial)
        if record is not None and others:
            await self.write([MoveCertificate(serial, record.state, others.pop(), NOW, "certificateHold", "rr")])
        return record

    monkeypatch.setattr(SqliteStore, "find_certificate", overtaken)
    assert at(AT_NOW, "cert", "revoke", "4100")[0] == 0
    assert [step["state"] for step in shown(run, "4100")["history"]] == ["suspended", "revoked"]


def test_what_changes_all_the_time_is_given_up(at: At, monkeypatch: pytest.MonkeyPatch):
    tried = []

    async def moved(self: SqliteStore, changes: Sequence[Change], **options: object) -> None:
        tried.append(changes)
        raise StoreConflict("certificate moved")

    monkeypatch.setattr(SqliteStore, "write", moved)
    code, _, err = at(AT_NOW, "cert", "revoke", "4100")
    assert (code, len(tried)) == (1, 3)
    assert err == "cmpd: 4100: others change its state all the time; try again\n"


def test_those_who_ask_whether_a_server_runs_do_not_see_each_other(ca: Path):
    database = ca / "cmpd.db"
    assert not is_served(database)
    with Path(f"{database}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert not is_served(database)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_served(database)
    assert not is_served(database)


def test_what_the_ca_made_for_itself_is_no_certificate_to_be_revoked(at: At, issued: Path):
    own = ServiceCertificate(bytes.fromhex("4CAB"), "ocsp", "CN=OCSP", NOW, NOW + 86400, NOW)
    with_store(
        issued,
        lambda store: store.write([AddServiceCertificate(own), SignServiceCertificate(own.serial, b"der")]),
    )
    code, _, err = at(AT_NOW, "cert", "revoke", "4CAB")
    assert (code, err) == (1, "cmpd: 4CAB: 4CAB is the serial number of a certificate that the CA made for itself\n")


def test_a_user_without_a_name_is_an_operator_too(run: Run, at: At, monkeypatch: pytest.MonkeyPatch):
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert at(AT_NOW, "cert", "suspend", "4100")[0] == 0
    assert shown(run, "4100")["changed_by"] == "operator"


def test_where_nothing_is_published_it_says_so(run: Run, issued: Path):
    text = (issued / "cmpd.toml").read_text()
    changed, count = re.subn(r"^directory = .*$", "", text, flags=re.M)
    assert count == 1
    (issued / "cmpd.toml").write_text(changed)
    done = run("cert", "suspend", "4100")
    assert done.code == 0
    assert "note: no CRL is published: set crl.directory or publish.listen" in done.err
