"""cmpd entity: what is registered is what was asked for, and no secret is left anywhere in the clear."""

import asyncio
import io
import itertools
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cmpd.asn1 import names
from cmpd.cli.cmpd import main
from cmpd.config import load
from cmpd.credentials import CredentialDirectory
from cmpd.env import Env
from cmpd.errors import StoreError
from cmpd.records import Entity, EntityKind, RegisteredControls
from cmpd.signing.file import read_certificates
from cmpd.store import open_store
from cmpd.store.sealing import Sealer
from tests.cli.conftest import Run


def stored(ca: Path, reference: str) -> Entity:
    async def find() -> Entity | None:
        store = await open_store(ca / "cmpd.db", serving=False)
        try:
            return await store.find_entity(reference)
        finally:
            await store.close()

    found = asyncio.run(find())
    assert found is not None
    return found


def secret_of(ca: Path, reference: str) -> bytes:
    config = load(ca / "cmpd.toml")
    sealed = stored(ca, reference).sealed_secret
    assert sealed is not None
    return Sealer.load(config.store.secrets_key, config.ca.passphrase()).open(sealed, reference)


def test_add_makes_a_secret_and_prints_it_alone(run: Run, ca: Path):
    done = run("entity", "add", "pump")
    assert done.code == 0
    secret = done.out.removesuffix("\n")
    assert secret_of(ca, "pump") == secret.encode()
    letters = secret.replace("-", "")
    assert len(letters) * 5 >= 128
    assert set(letters) <= set("abcdefghijkmnpqrstuvwxyz23456789")
    assert run("entity", "add", "pump2").out != done.out
    for path in ca.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()


def test_a_secret_enrols_once_without_limits_of_any_other_kind(run: Run, ca: Path):
    run("entity", "add", "pump")
    entity = stored(ca, "pump")
    assert entity.kind is EntityKind.SECRET
    assert entity.uses_left == 1
    assert entity.expires_at is None
    assert entity.subject is None
    assert entity.profiles == ()
    assert not entity.is_ra
    assert not entity.disabled
    assert entity.certificate is None


def test_all_options_are_kept(run: Run, ca: Path, capsys: pytest.CaptureFixture[str]):
    (ca / "cmpd.toml").write_text((ca / "cmpd.toml").read_text() + "[profile.other]\n")
    options = ["--subject", "CN=x,O=y", "--profile", "other", "--profile", "default", "--uses", "5", "--expires", "2h"]
    env = Env(now=lambda: 1_800_000_000.9)
    assert main(["entity", "add", "ra", "--config", str(ca / "cmpd.toml"), "--ra", *options], env) == 0
    entity = stored(ca, "ra")
    assert entity.subject == names.encode_name("/O=y/CN=x")
    assert entity.profiles == ("other", "default")
    assert entity.uses_left == 5
    assert entity.expires_at == 1_800_007_200
    assert entity.created_at == 1_800_000_000
    assert entity.is_ra


def test_uses_may_be_unlimited(run: Run, ca: Path):
    run("entity", "add", "pump", "--uses", "unlimited")
    assert stored(ca, "pump").uses_left is None


@pytest.mark.parametrize(
    ("octets", "wanted"), [(b"sixteen octets!!\n", b"sixteen octets!!"), (b"sixteen octets!!\r\n", b"sixteen octets!!")]
)
def test_a_given_secret_is_used_and_not_shown(run: Run, ca: Path, tmp_path: Path, octets: bytes, wanted: bytes):
    (tmp_path / "secret").write_bytes(octets)
    done = run("entity", "add", "pump", "--secret-file", tmp_path / "secret")
    assert (done.code, done.out) == (0, "")
    assert wanted.decode() not in done.err
    assert secret_of(ca, "pump") == wanted


def test_a_secret_may_come_from_standard_input(run: Run, ca: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"short\n")))
    done = run("entity", "add", "pump", "--secret-file", "-")
    assert done.code == 0
    assert "a secret of 5 octets can be guessed" in done.err
    assert secret_of(ca, "pump") == b"short"


@pytest.mark.parametrize("octets", [b"", b"\n", b"x" * 1025, b"x" * 5000])
def test_a_secret_without_sense_is_refused(run: Run, tmp_path: Path, octets: bytes):
    (tmp_path / "secret").write_bytes(octets)
    done = run("entity", "add", "pump", "--secret-file", tmp_path / "secret")
    assert done.code == 1
    assert "want 1 to 1024 octets" in done.err


def test_a_certificate_is_a_credential_without_limit(run: Run, ca: Path):
    done = run("entity", "add", "fleet", "--cert", ca / "ca.pem", "--json")
    shown = json.loads(done.out)
    assert shown["kind"] == "certificate"
    assert shown["uses_left"] is None
    assert shown["certificate_subject"] == "CN=Test CA,O=Test"
    assert "secret" not in shown
    entity = stored(ca, "fleet")
    assert entity.certificate == read_certificates(ca / "ca.pem")[0]
    assert entity.sealed_secret is None
    again = run("entity", "add", "fleet2", "--cert", ca / "ca.pem")
    assert again.code == 1
    assert "is registered already, for fleet" in again.err
    assert run("entity", "disable", "fleet").code == 0
    assert run("entity", "add", "fleet2", "--cert", ca / "ca.pem", "--uses", "3").code == 0
    assert stored(ca, "fleet2").uses_left == 3


# --- regToken and authenticator ---------------------------------------------------------------------------------------


def opened_controls(ca: Path, reference: str) -> RegisteredControls | None:
    """What the server finds when somebody uses the secret of this entity."""
    config = load(ca / "cmpd.toml")
    sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase())

    async def find() -> RegisteredControls | None:
        store = await open_store(ca / "cmpd.db", serving=False)
        try:
            found = await CredentialDirectory(store, sealer, (), Env()).secret(reference.encode())
        finally:
            await store.close()
        assert found is not None
        return found.entity.controls

    return asyncio.run(find())


def test_a_regtoken_and_an_authenticator_are_sealed_and_never_shown(run: Run, ca: Path, tmp_path: Path):
    token, authenticator = "tokén of the pump", "mother's maiden name"
    (tmp_path / "token").write_text(f"{token}\n")
    (tmp_path / "authenticator").write_text(f"{authenticator}\r\n")
    options = ["--reg-token-file", tmp_path / "token", "--authenticator-file", tmp_path / "authenticator"]
    shown = [run("entity", "add", "pump", *options), run("entity", "add", "fan", *options, "--json")]
    for words in (("list",), ("list", "--json"), ("show", "pump"), ("show", "pump", "--json"), ("disable", "fan")):
        shown.append(run("entity", *words))
    for done in shown:
        assert done.code == 0
        assert token not in done.out + done.err
        assert authenticator not in done.out + done.err
    assert opened_controls(ca, "pump") == RegisteredControls(token.encode(), authenticator.encode())
    assert stored(ca, "pump").uses_left == 1
    for text in (token, authenticator):
        for path in ca.rglob("*"):
            assert path.is_dir() or text.encode() not in path.read_bytes()
        assert text not in repr((stored(ca, "pump"), opened_controls(ca, "pump")))


def test_show_says_that_they_are_registered(run: Run, ca: Path, tmp_path: Path):
    (tmp_path / "token").write_text("token")
    run("entity", "add", "both", "--reg-token-file", tmp_path / "token", "--authenticator-file", tmp_path / "token")
    run("entity", "add", "one", "--authenticator-file", tmp_path / "token")
    run("entity", "add", "none")
    registered = {}
    for reference in ("both", "one", "none"):
        fields = json.loads(run("entity", "show", reference, "--json").out)
        registered[reference] = (fields["reg_token"], fields["authenticator"])
    assert registered == {"both": (True, True), "one": (False, True), "none": (False, False)}
    assert "authenticator:       yes" in run("entity", "show", "one").out
    assert opened_controls(ca, "none") is None
    assert opened_controls(ca, "one") == RegisteredControls(authenticator=b"token")


def test_no_sealed_value_stands_for_one_of_another_kind(run: Run, ca: Path, tmp_path: Path):
    (tmp_path / "value").write_text("the same for all")
    names = ("secret", "reg-token", "authenticator")
    options = [word for name in names for word in (f"--{name}-file", tmp_path / "value")]
    run("entity", "add", "pump", *options)
    columns = ("sealed_secret", "sealed_reg_token", "sealed_authenticator")
    for one, other in itertools.permutations(columns, 2):
        with closing(sqlite3.connect(ca / "cmpd.db")) as database:
            before = database.execute(f"SELECT {one} FROM entity").fetchone()
            database.execute(f"UPDATE entity SET {one} = {other}")
            database.commit()
            with pytest.raises(StoreError, match="sealed for another key or entity"):
                opened_controls(ca, "pump")
            database.execute(f"UPDATE entity SET {one} = ?", before)
            database.commit()
    assert opened_controls(ca, "pump") == RegisteredControls(b"the same for all", b"the same for all")


def test_a_certificate_with_a_regtoken_enrols_once(run: Run, ca: Path, tmp_path: Path):
    (tmp_path / "token").write_text("token")
    assert run("entity", "add", "lamp", "--cert", ca / "ca.pem", "--reg-token-file", tmp_path / "token").code == 0
    lamp = stored(ca, "lamp")
    assert (lamp.uses_left, lamp.sealed_secret, lamp.sealed_authenticator) == (1, None, None)
    assert lamp.sealed_reg_token is not None
    run("entity", "disable", "lamp")
    run("entity", "add", "lamp2", "--cert", ca / "ca.pem", "--authenticator-file", tmp_path / "token")
    assert stored(ca, "lamp2").uses_left is None


def test_one_of_them_may_come_from_standard_input(run: Run, ca: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"token\n")))
    assert run("entity", "add", "pump", "--reg-token-file", "-").code == 0
    assert opened_controls(ca, "pump") == RegisteredControls(b"token")
    done = run("entity", "add", "lamp", "--reg-token-file", "-", "--secret-file", "-")
    assert done.code == 1
    assert "only one of --secret-file, --reg-token-file and --authenticator-file" in done.err


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (b"", "want 1 to 1024 octets, have none"),
        (b"x" * 1025, "want 1 to 1024 octets, have 1025"),
        (b"a\nb\n", "want one line of printable text in UTF-8"),
        (b"a\x00", "want one line of printable text in UTF-8"),
        (b"\xff", "want one line of printable text in UTF-8"),
        (None, "cannot be read"),
    ],
)
@pytest.mark.parametrize("option", ["--reg-token-file", "--authenticator-file"])
def test_values_that_no_control_can_have_are_refused(
    run: Run, tmp_path: Path, option: str, octets: bytes | None, wanted: str
):
    if octets is not None:
        (tmp_path / "token").write_bytes(octets)
    done = run("entity", "add", "pump", option, tmp_path / "token")
    assert done.code == 1
    assert f"{option} {tmp_path}/token: {wanted}" in done.err
    assert run("entity", "list", "--json").out == "[]\n"


def test_who_may_revoke_is_said_at_registration(run: Run, ca: Path):
    run("entity", "add", "pump", "--may-revoke")
    run("entity", "add", "lamp")
    assert stored(ca, "pump").may_revoke
    assert not stored(ca, "lamp").may_revoke
    rows = json.loads(run("entity", "list", "--json").out)
    assert [(row["reference"], row["may_revoke"]) for row in rows] == [("lamp", False), ("pump", True)]
    assert "may_revoke:          yes" in run("entity", "show", "pump").out


# --- what is refused, shown and disabled ------------------------------------------------------------------------------


def test_what_can_be_no_credential_is_refused(run: Run, ca: Path, tmp_path: Path):
    both = tmp_path / "both.pem"
    both.write_bytes((ca / "ca.pem").read_bytes() + (ca / "cmp.pem").read_bytes())
    assert "want one certificate, have 2" in run("entity", "add", "x", "--cert", both).err
    assert "want certificates in PEM" in run("entity", "add", "x", "--cert", ca / "cmpd.toml").err
    assert "cannot be read" in run("entity", "add", "x", "--cert", tmp_path / "none").err
    late = Env(now=lambda: 4e9)
    assert main(["entity", "add", "x", "--config", str(ca / "cmpd.toml"), "--cert", str(ca / "ca.pem")], late) == 1


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--profile", "defualt"], '--profile: there is no [profile.defualt]; the nearest is "default"'),
        (["--subject", "CN"], "--subject: "),
    ],
)
def test_arguments_that_fit_nothing_are_refused(run: Run, options: list[str], wanted: str):
    done = run("entity", "add", "pump", *options)
    assert done.code == 1
    assert wanted in done.err
    assert run("entity", "list", "--json").out == "[]\n"


@pytest.mark.parametrize("reference", ["", "a\nb", "x" * 129])
def test_references_are_short_and_printable(run: Run, reference: str):
    done = run("entity", "add", reference)
    assert done.code == 1
    assert "REFERENCE: want 1 to 128 octets" in done.err


def test_a_reference_is_registered_once(run: Run, ca: Path):
    first = run("entity", "add", "pump").out.strip()
    done = run("entity", "add", "pump")
    assert done.code == 1
    assert done.err == "cmpd: pump is registered already: choose another reference value\n"
    assert secret_of(ca, "pump") == first.encode()


def test_a_wrong_passphrase_says_so(run: Run, ca: Path):
    (ca / "private/passphrase").write_text("another\n")
    done = run("entity", "add", "pump")
    assert done.code == 1
    assert "passphrase is wrong" in done.err


def test_list_and_show(run: Run):
    heads = ["REFERENCE", "KIND", "STATE", "USES_LEFT", "EXPIRES_AT", "RA", "PROFILES", "SUBJECT"]
    assert run("entity", "list").out.split() == heads
    secret = json.loads(run("entity", "add", "pump", "--subject", "/CN=x", "--expires", "1d", "--json").out)["secret"]
    run("entity", "add", "lamp", "--uses", "unlimited", "--ra")
    lines = run("entity", "list").out.splitlines()
    assert lines[1].split() == ["lamp", "secret", "active", "unlimited", "-", "yes", "-", "-"]
    assert lines[2].split()[:4] == ["pump", "secret", "active", "1"]
    shown = json.loads(run("entity", "show", "pump", "--json").out)
    assert shown == json.loads(run("entity", "list", "--json").out)[1]
    assert shown["subject"] == "CN=x"
    for words in (("list",), ("list", "--json"), ("show", "pump"), ("show", "pump", "--json")):
        assert secret not in run("entity", *words).out
    assert "uses_left:           unlimited" in run("entity", "show", "lamp").out


def test_disable_holds_and_unknown_ones_are_named(run: Run, ca: Path):
    run("entity", "add", "pump")
    assert run("entity", "disable", "pump").code == 0
    assert stored(ca, "pump").disabled
    assert json.loads(run("entity", "show", "pump", "--json").out)["state"] == "disabled"
    for command in ("show", "disable"):
        done = run("entity", command, "pmup")
        assert done.code == 1
        assert done.err == 'cmpd: pmup is not registered; the nearest is "pump"\n'


def test_states_say_why_nobody_can_enrol(run: Run, ca: Path, capsys: pytest.CaptureFixture[str]):
    run("entity", "add", "pump", "--expires", "1h")
    later = Env(now=lambda: 4e9)
    assert main(["entity", "show", "pump", "--json", "--config", str(ca / "cmpd.toml")], later) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "expired"


def test_it_works_while_the_server_has_the_database(run: Run, ca: Path):
    async def serve() -> None:
        server = await open_store(ca / "cmpd.db", serving=True)
        try:
            done = await asyncio.to_thread(run, "entity", "add", "pump")
            assert done.code == 0, done.err
            assert await server.find_entity("pump") is not None
        finally:
            await server.close()

    asyncio.run(serve())


def test_a_database_directory_that_is_missing_is_named(run: Run, ca: Path):
    text = (ca / "cmpd.toml").read_text().replace('path = "cmpd.db"', 'path = "db/cmpd.db"')
    (ca / "cmpd.toml").write_text(text)
    done = run("entity", "list")
    assert done.code == 1
    assert done.err == f"cmpd: store.path: there is no directory {ca}/db\n"
