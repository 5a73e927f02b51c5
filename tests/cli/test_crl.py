"""cmpd crl: a CRL is issued by the server if one runs and here if not, and shown as others get it."""

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cmpd.ca import CertificateAuthority
from cmpd.cli import crl
from cmpd.cli.cmpd import main
from cmpd.config import load
from cmpd.env import Env
from cmpd.publisher import Publisher
from cmpd.signing.file import load_key, read_certificates
from cmpd.store import open_store
from tests.cli.conftest import Result, Run


def edit(ca: Path, pattern: str, text: str) -> None:
    path = ca / "cmpd.toml"
    changed, count = re.subn(pattern, text, path.read_text(), count=1, flags=re.M)
    assert count == 1
    path.write_text(changed)


def without_directory(ca: Path) -> None:
    edit(ca, r'^directory = "crl"$', "")


def with_door(ca: Path) -> None:
    edit(ca, r"^\[publish\]$", '[publish]\nlisten = "127.0.0.1:8080"')


@contextlib.asynccontextmanager
async def served(ca: Path, *, publishing: bool = True) -> AsyncIterator[Publisher]:
    """What the server is to these commands: it has the lock, and issues CRLs if `publishing`."""
    config = load(ca / "cmpd.toml")
    env = Env()

    async def offload(work: Callable[[], Any]) -> Any:
        return work()

    store = await open_store(config.store.path, serving=True)
    certificate = read_certificates(config.ca.certificate)[0]
    key = load_key(config.ca.key, config.ca.passphrase(), certificate)
    authority = CertificateAuthority(certificate, (), key, env)
    publisher = Publisher(store, authority, env, config.crl, base_url=None, offload=offload)
    task = None
    try:
        if publishing:
            await publisher.start()
            task = asyncio.create_task(publisher.run())
        yield publisher
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await store.close()


def beside(run: Run, ca: Path, *words: str, publishing: bool = True) -> Result:
    """Run a command while a server runs."""

    async def serve() -> Result:
        async with served(ca, publishing=publishing):
            work: Awaitable[Result] = asyncio.to_thread(run, *words)
            return await work

    return asyncio.run(serve())


def openssl(path: Path) -> str:
    command = ["openssl", "crl", "-in", path, "-noout", "-text", "-inform", "PEM" if path.suffix == ".pem" else "DER"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# --- issue -----------------------------------------------------------------------------------------------------------


def test_without_a_server_a_crl_is_issued_here(run: Run, issued: Path):
    run("cert", "revoke", "4100", "--reason", "superseded")
    done = run("crl", "issue", "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert made["number"] == 1
    assert made["entries"] == 1
    assert made["files"] == [str(issued / "crl/ca.crl"), str(issued / "crl/delta.crl")]
    assert made["this_update"] < made["next_update"]
    text = openssl(issued / "crl/ca.crl")
    assert "Serial Number: 4100" in text
    assert "Superseded" in text
    verified = [
        "openssl",
        "crl",
        "-inform",
        "DER",
        "-in",
        issued / "crl/ca.crl",
        "-CAfile",
        issued / "ca.pem",
        "-noout",
    ]
    assert "verify OK" in subprocess.run(verified, capture_output=True, text=True, check=True).stderr


def test_each_issue_has_the_next_number_and_its_delta(run: Run, issued: Path):
    run("crl", "issue")
    run("cert", "suspend", "4100")
    done = run("crl", "issue")
    assert done.code == 0
    fields = dict(line.split(":", 1) for line in done.out.splitlines())
    assert fields["number"].strip() == "2"
    assert fields["files"].strip() == f"{issued}/crl/ca.crl,{issued}/crl/delta.crl"
    delta = json.loads(run("crl", "show", "--delta", "--entries", "--json").out)
    assert (delta["number"], delta["base"], delta["entries"]) == (2, 1, 1)
    assert [entry["serial"] for entry in delta["revoked"]] == ["4100"]


def test_a_server_that_runs_issues_it(run: Run, issued: Path):
    run("cert", "revoke", "4100")
    done = beside(run, issued, "crl", "issue", "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert made["number"] == 2  # the first one came with its start
    assert made["entries"] == 1
    assert json.loads(run("crl", "show", "--json").out)["number"] == 2


def test_a_server_that_has_no_directory_issues_it_all_the_same(run: Run, issued: Path):
    without_directory(issued)
    with_door(issued)
    done = beside(run, issued, "crl", "issue", "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert (made["entries"], made["files"]) == (None, [])


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    run: Run, issued: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(crl, "_WAIT", 0.5)
    monkeypatch.setattr(crl, "_SAY_EVERY", 0.2)
    done = beside(run, issued, "crl", "issue", publishing=False)
    assert (done.code, done.out) == (1, "")
    *said, last = done.err.splitlines()
    assert said
    assert all(line.startswith("waiting for the server to issue a CRL, ") for line in said)
    assert last.startswith("cmpd: the server has issued no CRL within ")


def test_a_server_that_ends_meanwhile_is_not_waited_for(run: Run, issued: Path):
    async def serve() -> Result:
        async with served(issued, publishing=False):
            work = asyncio.create_task(asyncio.to_thread(run, "crl", "issue"))
            await asyncio.sleep(0.3)
        return await work

    done = asyncio.run(serve())
    assert done.code == 1
    assert done.err == "cmpd: the server has ended before it issued the CRL; it will with its next start\n"
    assert json.loads(beside(run, issued, "crl", "issue", "--json").out)["number"] == 2


def test_where_a_crl_would_go_nowhere_none_is_issued(run: Run, issued: Path):
    without_directory(issued)
    done = run("crl", "issue")
    assert done.code == 1
    assert "no CRL is published: set crl.directory or publish.listen" in done.err
    with_door(issued)
    done = run("crl", "issue")
    assert done.code == 1
    assert done.err.startswith("cmpd: crl.directory: not set, a CRL made now would go nowhere: start the server")


def test_a_directory_that_cannot_be_written_is_named(run: Run, issued: Path):
    (issued / "crl").rmdir()
    (issued / "crl").touch()
    done = run("crl", "issue")
    assert done.code == 1
    assert f"crl: cannot write to {issued}/crl" in done.err
    (issued / "crl").unlink()
    assert json.loads(run("crl", "issue", "--json").out)["number"] == 2


def test_a_crl_that_the_server_could_not_write_is_noted(run: Run, issued: Path):
    (issued / "crl").rmdir()
    (issued / "crl").touch()
    done = beside(run, issued, "crl", "issue", "--json")
    assert done.code == 0
    assert json.loads(done.out)["number"] == 2
    assert done.err.endswith(f"note: CRL 2 is not in {issued}/crl yet: the server's log says why\n")


def test_after_a_backup_the_number_in_the_file_is_not_used_again(run: Run, issued: Path):
    backup = (issued / "cmpd.db").read_bytes()
    for number in (1, 2, 3):
        assert json.loads(run("crl", "issue", "--json").out)["number"] == number
    for file in issued.glob("cmpd.db-*"):
        file.unlink()
    (issued / "cmpd.db").write_bytes(backup)
    assert json.loads(run("crl", "issue", "--json").out)["number"] == 4
    assert json.loads(run("crl", "show", "--delta", "--json").out)["base"] == 4


# --- show ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(run: Run, issued: Path) -> Path:
    """A full CRL (2) with two entries, a delta CRL with one."""
    assert run("cert", "revoke", "4100", "--reason", "keyCompromise", "--invalidity-date", "2026-01-31").code == 0
    assert run("crl", "issue").code == 0
    assert run("cert", "suspend", "F1").code == 0
    assert run("crl", "issue").code == 0
    return issued


def test_show_says_what_is_published(run: Run, published: Path):
    done = run("crl", "show", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert list(found) == ["number", "base", "issuer", "this_update", "next_update", "entries", "file"]
    assert (found["number"], found["base"], found["entries"]) == (2, None, 2)
    assert found["issuer"] == "CN=Test CA,O=Test"
    assert found["file"] == str(published / "crl/ca.crl")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["this_update"])
    lines = run("crl", "show", "--delta").out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["number:", "2"], ["base:", "1"]]
    assert len(lines) == 7


def test_entries_are_listed_when_asked_for(run: Run, published: Path):
    found = json.loads(run("crl", "show", "--entries", "--json").out)["revoked"]
    assert [list(entry) for entry in found] == [["serial", "revoked_at", "reason", "invalidity_date"]] * 2
    by_serial = {entry["serial"]: entry for entry in found}
    assert by_serial["4100"]["reason"] == "keyCompromise"
    assert by_serial["4100"]["invalidity_date"] == "2026-01-31T00:00:00Z"
    assert by_serial["4100"]["revoked_at"] == json.loads(run("cert", "show", "4100", "--json").out)[0]["revoked_at"]
    assert by_serial["F1"]["reason"] == "certificateHold"
    assert by_serial["F1"]["invalidity_date"] is None
    table = run("crl", "show", "--entries").out.partition("\n\n")[2].splitlines()
    assert table[0].split() == ["SERIAL", "REVOKED_AT", "REASON", "INVALIDITY_DATE"]
    assert {line.split()[0] for line in table[1:]} == {"4100", "F1"}


def test_an_empty_crl_has_no_entries(run: Run, issued: Path):
    run("crl", "issue")
    assert json.loads(run("crl", "show", "--entries", "--json").out)["revoked"] == []


def test_it_is_written_as_pem_or_der(run: Run, published: Path, tmp_path: Path):
    der = (published / "crl/ca.crl").read_bytes()
    done = run("crl", "show", "--out", tmp_path / "one.pem")
    assert (done.code, done.out, done.err) == (0, "", f"{tmp_path}/one.pem: CRL 2\n")
    assert "Serial Number: 4100" in openssl(tmp_path / "one.pem")
    assert run("crl", "show", "--pem").out == (tmp_path / "one.pem").read_text()
    assert run("crl", "show", "--der", "--out", tmp_path / "one.crl").code == 0
    assert (tmp_path / "one.crl").read_bytes() == der
    run("crl", "show", "--delta", "--der", "--out", tmp_path / "delta.crl")
    assert (tmp_path / "delta.crl").read_bytes() == (published / "crl/delta.crl").read_bytes()


def test_a_crl_whose_time_is_over_is_noted(published: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["crl", "show", "--config", str(published / "cmpd.toml")], Env(now=lambda: 4e9)) == 0
    assert capsys.readouterr().err.startswith("note: its nextUpdate has passed")


def test_where_there_is_none_it_says_what_to_do(run: Run, issued: Path):
    done = run("crl", "show")
    assert done.code == 1
    assert done.err == (
        f"cmpd: {issued}/crl/ca.crl is not there yet: start the server, "
        f"or run cmpd crl issue --config {issued}/cmpd.toml\n"
    )
    done = run("crl", "show", "--delta")
    assert (done.code, "delta.crl is not there yet" in done.err) == (1, True)
    edit(issued, r"^#delta = true$", "delta = false")
    assert run("crl", "show", "--delta").err == "cmpd: crl.delta = false: there are no delta CRLs\n"


def test_without_a_directory_it_says_where_the_crl_is(run: Run, issued: Path):
    without_directory(issued)
    assert run("crl", "show").err == "cmpd: crl.directory: not set, there is no file to look at: set it\n"
    with_door(issued)
    done = run("crl", "show", "--delta")
    assert done.code == 1
    assert "; it is at http://127.0.0.1:8080/delta.crl while the server runs" in done.err


def test_what_is_no_crl_is_named(run: Run, published: Path):
    (published / "crl/ca.crl").write_bytes(b"0\x00")
    done = run("crl", "show")
    assert done.code == 1
    assert done.err.startswith(f"cmpd: {published}/crl/ca.crl: want a CRL in DER: ")
