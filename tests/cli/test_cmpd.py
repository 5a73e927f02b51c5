"""The command as a whole: usage, exit codes, init, check, serve."""

import re
import sqlite3
import subprocess
import sys
import types
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

import cmpd
from cmpd.cli.check import examine
from cmpd.cli.cmpd import main, parser
from cmpd.config import Config, load
from cmpd.env import Env
from cmpd.install import KEYS, Plan, make_root
from cmpd.public_keys import key_kind
from tests.cli.conftest import Run


def edit(ca: Path, pattern: str, text: str) -> None:
    path = ca / "cmpd.toml"
    changed, count = re.subn(pattern, text, path.read_text(), count=1, flags=re.M)
    assert count == 1
    path.write_text(changed)


# --- usage -----------------------------------------------------------------------------------------------------------


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"cmpd {cmpd.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["init"],
        ["serve"],
        ["check"],
        *(["entity", name] for name in ("add", "list", "show", "disable")),
        *(["cert", name] for name in ("list", "show", "export", "revoke", "suspend", "resume")),
        *(["request", name] for name in ("list", "show", "approve", "reject")),
        *(["crl", name] for name in ("issue", "show")),
        ["key", "add"],
    ],
)
def test_every_command_has_help_with_an_example_that_is_valid(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    examples = re.findall(r"^  (?:.* \| )?cmpd (.*)$", capsys.readouterr().out.partition("examples:\n")[2], re.M)
    assert examples
    for example in examples:
        assert example.split()[: len(words)] == words
        parser().parse_args(re.sub(r'"[^"]*"', "X", example).partition("   ")[0].partition(" >")[0].split())


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], "COMMAND"),
        (["sreve"], "invalid choice"),
        (["serve"], "--config"),
        (["init"], "--dir"),
        (["init", "--dir", "x", "--tcp", "829"], "HOST:PORT"),
        (["init", "--dir", "x", "--key", "p224"], "invalid choice"),
        (["init", "--dir", "x", "--chain", "y"], "--chain goes with --install-certificate"),
        (["init", "--dir", "x", "--install-certificate", "y", "--subordinate"], "not allowed with"),
        (["init", "--dir", "x", "--install-certificate", "y", "--key", "p256"], "--key was decided"),
        (["init", "--dir", "a\nb"], "want a path"),
        (["entity", "add", "x", "--config", "y", "--uses", "0"], "want a whole number"),
        (["entity", "add", "x", "--config", "y", "--expires", "soon"], "want a duration"),
        (["entity", "add", "x", "--config", "y", "--secret", "z"], "unrecognized"),
        (["entity", "add", "x", "--config", "y", "--cert", "c", "--secret-file", "s"], "not allowed with"),
        (["init", "--dir", "x", "--publish", "systemd"], "want"),
        (["key", "add", "--config", "y"], "arguments are required: purpose"),
        (["key", "add", "ca", "--config", "y"], "invalid choice: 'ca'"),
        (
            ["key", "add", "kem", "--config", "y", "--type", "p256"],
            "want one of mlkem768, mlkem1024 for kem, have p256",
        ),
        (["init", "--dir", "x", "--base-url", "pki.example.com"], 'want a URL such as "http://pki.example.com"'),
        (["init", "--dir", "x", "--install-certificate", "y", "--publish", "80"], "--publish was decided"),
        (["init", "--dir", "x", "--install-certificate", "y", "--base-url", "http://x"], "--base-url was decided"),
        (
            ["entity", "add", "x", "--config", "y", "--cert", "c", "--may-revoke"],
            "--may-revoke is about shared secrets",
        ),
        (["cert", "show", "--config", "y"], "SERIAL"),
        (["cert", "revoke", "--config", "y"], "SERIAL"),
        (["cert", "revoke", "xyz", "--config", "y"], "want a serial number in hex"),
        (["cert", "suspend", "1", "--config", "y", "--reason", "certificateHold"], "unrecognized"),
        (["cert", "resume", "1", "--config", "y", "--invalidity-date", "2026-01-31"], "unrecognized"),
        (["crl", "show", "--config", "y", "--der", "--pem"], "not allowed with"),
        (["crl", "show", "--config", "y", "--json", "--out", "z"], "--json and --entries show the CRL"),
        (["crl", "issue"], "--config"),
        (["init", "--dir", "x", "--http", "80"], "HOST:PORT"),
        (["init", "--dir", "x", "--http", "127.0.0.1:829"], "--tcp and --http name the same place, 127.0.0.1:829"),
        (["init", "--dir", "x", "--tcp", "h:80", "--publish", "h:80"], "--tcp and --publish name the same place"),
        (["init", "--dir", "x", "--http", "127.0.0.1:80", "--publish", "80"], "--http and --publish name the same"),
        (["init", "--dir", "x", "--install-certificate", "y", "--http", "h:80"], "--http was decided"),
        (["request", "show", "--config", "y"], "REF"),
        (["request", "approve", "--config", "y"], "REF"),
        (["request", "approve", "pump", "--config", "y"], "want the reference of a request (8 hex digits)"),
        (["request", "approve", "123456789", "--config", "y"], "want the reference of a request"),
        (["request", "approve", "1a", "--reason", "x", "--config", "y"], "unrecognized"),
        (["request", "reject", "1a", "--config", "y"], "--reason"),
        (["request", "reject", "1a", "--reason", " ", "--config", "y"], "want 1 to 500 printable characters"),
        (["request", "reject", "1a", "--reason", "a\nb", "--config", "y"], "want 1 to 500 printable characters"),
        (["request", "reject", "1a", "--reason", "x" * 501, "--config", "y"], "want 1 to 500 printable characters"),
        (["cert", "show", "xyz", "--config", "y"], "want a serial number in hex"),
    ],
)
def test_wrong_usage_ends_with_2(words: list[str], wanted: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        (["message"], {"message"}),
        (["check"], {"check", "entity"}),
        (["key", "add"], {"key", "entity"}),
        (["entity", "list"], {"entity"}),
        (["init"], set()),
        (["serve"], set()),
    ],
)
def test_only_the_files_of_the_command_that_was_given_are_loaded(words: list[str], loaded: set[str]):
    """The others take longer to load than `cmpd message` needs for its work."""
    text = (
        "import sys, cmpd.cli.cmpd\n"
        "try: cmpd.cli.cmpd.main(sys.argv[1:])\n"
        "except SystemExit: print('modules', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", text, *words, "--help"], capture_output=True, text=True)
    modules = done.stdout.splitlines()[-1].split()
    assert modules[0] == "modules", done.stderr
    files = {"cert", "check", "crl", "entity", "key", "message", "request"}
    assert {name for name in files if f"cmpd.cli.{name}" in modules} == loaded
    assert "cmpd.daemon" not in modules


def test_no_option_takes_a_secret():
    """Arguments can be read by every user of the machine."""
    options = set()
    pending = [parser()]
    while pending:
        for action in pending.pop()._actions:
            options.update(action.option_strings)
            if isinstance(action.choices, dict):
                pending += [choice for choice in action.choices.values() if hasattr(choice, "_actions")]
    assert {option for option in options if re.search("secret|pass|pin|token|authenticator", option)} == {
        "--secret-file",
        "--passphrase-file",
        "--reg-token-file",
        "--authenticator-file",
    }


def test_a_reader_that_leaves_is_no_traceback(ca: Path):
    command = [sys.executable, "-c", "import sys; from cmpd.cli.cmpd import main; sys.exit(main())"]
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | true', "-", *command, "entity", "list", "--config", ca / "cmpd.toml"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "")


# --- init ------------------------------------------------------------------------------------------------------------


def test_init_without_options_asks_nothing_and_says_what_is_next(run: Run, tmp_path: Path):
    done = run("init", "--dir", tmp_path / "new")
    assert done.code == 0
    assert done.out == ""
    assert f"cmpd serve --config {tmp_path}/new/cmpd.toml" in done.err
    assert main(["check", "--config", str(tmp_path / "new/cmpd.toml")]) == 0


def test_init_options_arrive_in_the_configuration(run: Run, tmp_path: Path):
    passphrase = tmp_path / "given"
    passphrase.touch(mode=0o600)
    passphrase.write_text("given")
    directory = tmp_path / "new"
    options = ("--tcp", "[::1]:8829", "--subject", "CN=Mine,C=DE", "--key", "ed25519", "--passphrase-file", passphrase)
    assert run("init", "--dir", directory, *options).code == 0
    config = load(directory / "cmpd.toml")
    assert config.tcp[0].listen == "[::1]:8829"
    assert config.ca.passphrase_file == passphrase
    shown = subprocess.run(
        ["openssl", "x509", "-in", directory / "ca.pem", "-noout", "-subject", "-text"], capture_output=True, text=True
    ).stdout
    assert "subject=C = DE, CN = Mine" in shown
    assert "ED25519" in shown


def test_init_opens_the_door_for_what_is_published(run: Run, tmp_path: Path):
    options = ("--publish", "8080", "--base-url", "http://pki.example.com/")
    assert run("init", "--dir", tmp_path / "new", *options).code == 0
    config = load(tmp_path / "new/cmpd.toml")
    assert config.publish.listen == "127.0.0.1:8080"
    assert config.publish.base_url == "http://pki.example.com"
    assert main(["check", "--config", str(tmp_path / "new/cmpd.toml")]) == 0


@pytest.mark.parametrize(("place", "tcp"), [("[::1]:8081", "127.0.0.1:829"), ("systemd:http", "systemd")])
def test_init_opens_the_door_for_http(run: Run, tmp_path: Path, place: str, tcp: str):
    done = run("init", "--dir", tmp_path / "new", "--http", place, *(["--tcp", tcp] if tcp == "systemd" else []))
    assert done.code == 0
    config = load(tmp_path / "new/cmpd.toml")
    assert [(door.listen, door.path) for door in config.http] == [(place, "/cmp")]
    assert [door.listen for door in config.tcp] == [tcp]
    assert "\n[[http]]\n" in (tmp_path / "new/cmpd.toml").read_text()
    assert main(["check", "--config", str(tmp_path / "new/cmpd.toml")]) == 0


def test_without_being_asked_init_opens_no_door_but_one(run: Run, ca: Path):
    config = load(ca / "cmpd.toml")
    assert (config.publish.listen, config.http, config.spool) == (None, (), ())
    assert "\n#[[http]]\n" in (ca / "cmpd.toml").read_text()


def test_a_second_init_is_one_line_and_exit_code_1(run: Run, ca: Path):
    before = (ca / "private/ca.key.pem").read_bytes()
    done = run("init", "--dir", ca)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert f"{ca}/cmpd.toml is there already; nothing was changed" in done.err
    assert (ca / "private/ca.key.pem").read_bytes() == before


def test_init_of_a_subordinate_says_how_to_go_on(run: Run, tmp_path: Path):
    done = run("init", "--dir", tmp_path / "sub", "--subordinate")
    assert done.code == 0
    assert "ca.csr" in done.err
    assert "--install-certificate" in done.err
    checked = main(["check", "--config", str(tmp_path / "sub/cmpd.toml")])
    assert checked == 1


def test_where_nobody_may_write_init_says_so(run: Run, tmp_path: Path):
    (tmp_path / "file").touch()
    done = run("init", "--dir", tmp_path / "file/ca")
    assert done.code == 1
    assert done.err == f"cmpd: {tmp_path}/file/ca: Not a directory\n"


@pytest.mark.parametrize("key", KEYS)
def test_a_ca_with_a_key_of_each_type_is_made_and_found_good(run: Run, tmp_path: Path, key: str):
    assert run("init", "--dir", tmp_path / "new", "--key", key).code == 0
    found = x509.load_pem_x509_certificate((tmp_path / "new/ca.pem").read_bytes()).public_key()
    assert key_kind(found) == ("rsa" if key.startswith("rsa") else key)
    assert not key.startswith("rsa") or found.key_size == int(key.removeprefix("rsa"))
    done = run("check", "--config", tmp_path / "new/cmpd.toml")
    assert (done.code, done.err) == (0, "")


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_says_what_is_opened_and_ok(run: Run, ca: Path):
    done = run("check")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "tcp[0]: raw TCP on 127.0.0.1:829",
        f"local: cmpd message through {ca}/cmpd.db.sock",
        "ok",
    ]


def test_check_names_all_mistakes_of_the_text(run: Run, ca: Path):
    edit(ca, r"^#max_in_flight = .*$", "max_in_fligth = 3")
    edit(ca, r"^#level = .*$", 'level = "inf"')
    done = run("check")
    assert done.code == 1
    assert done.out == ""
    assert done.err.splitlines() == [
        f'cmpd: {ca}/cmpd.toml: tcp[0].max_in_fligth: unknown key; the nearest is "max_in_flight"',
        f'cmpd: {ca}/cmpd.toml: log.level: "inf" is not possible; the nearest is "info"',
    ]


def test_check_names_all_files_that_are_missing(run: Run, ca: Path):
    for name in ("ca.pem", "cmp.pem", "private/store.key"):
        (ca / name).unlink()
    lines = run("check").err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["ca.certificate", "cmp.certificate", "store.secrets_key"]
    (ca / "private/passphrase").unlink()
    assert "cmpd: ca.passphrase_file: " in run("check").err


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("private/ca.key.pem", "private/cmp.key.pem", "ca.key: "),
        ("ca.pem", "cmp.pem", "ca.certificate: "),
        ("cmp.pem", "ca.pem", "cmp.certificate: has no extendedKeyUsage id-kp-cmcCA"),
        ("private/store.key", "ca.pem", "store.secrets_key: "),
        ("cmpd.db", "ca.pem", "store.path: "),
    ],
)
def test_check_notices_files_that_do_not_fit(run: Run, ca: Path, one: str, other: str, wanted: str):
    (ca / one).write_bytes((ca / other).read_bytes())
    done = run("check")
    assert done.code == 1
    assert f"cmpd: {wanted}" in done.err


def test_check_says_what_is_in_the_place_of_a_certificate(run: Run, ca: Path):
    for octets, have in (((ca / "private/cmp.key.pem").read_bytes(), "a private key"), (b"", "none")):
        (ca / "cmp.pem").write_bytes(octets)
        wanted = f"cmpd: cmp.certificate: certificate {ca / 'cmp.pem'}: want certificates in PEM, have {have}"
        assert wanted in run("check").err.splitlines()


@pytest.mark.parametrize("table", ["ca", "cmp"])
def test_check_notices_a_signature_algorithm_that_the_key_cannot_have(run: Run, ca: Path, table: str):
    path = ca / "cmpd.toml"
    path.write_text(path.read_text().replace(f"[{table}]\n", f'[{table}]\nsignature = "rsassa-pss-sha256"\n'))
    done = run("check")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert done.err.startswith(f"cmpd: {table}.key: key ")
    assert "signature algorithm: want one of ecdsa-with-SHA256" in done.err


def test_check_notices_a_cmp_certificate_of_another_ca(run: Run, ca: Path, tmp_path: Path):
    make_root(Plan(tmp_path / "other", subject="/O=Test/CN=Test CA"), Env())
    for name in ("cmp.pem", "private/cmp.key.pem"):
        (ca / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert "cmp.certificate: was not issued by the CA" in run("check").err


MADE = ["cmp.certificate", "cmp.encryption_certificate"]  # by the CA for itself, valid for five years


@pytest.mark.parametrize(
    ("days", "mistakes", "notes"),
    [
        (-1, ["ca.certificate", *MADE], []),
        (0, [], []),
        (1810, [], MADE),
        (1830, MADE, []),
        (7300, MADE, ["ca.certificate", "profile.default"]),
        (7310, ["ca.certificate", *MADE], ["profile.default"]),
    ],
)
def test_check_looks_at_the_time(ca: Path, days: int, mistakes: list[str], notes: list[str]):
    when = (datetime.now(UTC) + timedelta(days=days)).timestamp()
    found = examine(load(ca / "cmpd.toml"), Env(now=lambda: when))
    assert [line.partition(":")[0] for line in found.mistakes] == mistakes
    assert [line.partition(":")[0] for line in found.notes] == notes


def test_notes_do_not_fail_the_check(ca: Path, capsys: pytest.CaptureFixture[str]):
    when = (datetime.now(UTC) + timedelta(days=1810)).timestamp()
    assert main(["check", "--config", str(ca / "cmpd.toml")], Env(now=lambda: when)) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "ok"
    assert captured.err.startswith("note: cmp.certificate: ")


def test_check_wants_a_chain_that_is_one(run: Run, ca: Path):
    edit(ca, r"^# Example: chain = .*$", 'chain = "cmp.pem"')
    assert "ca.chain: " in run("check").err
    assert "want the issuer of CN=Test CA,O=Test, have CN=Test CA CMP,O=Test" in run("check").err


def test_check_notes_entities_whose_profiles_are_gone(run: Run, ca: Path):
    text = (ca / "cmpd.toml").read_text()
    (ca / "cmpd.toml").write_text(text + "[profile.tls]\n[profile.mail]\n")
    registered = {"pump": ["tls", "default", "mail"], "lamp": ["tls"], "fan": ["default"], "old": ["tls"]}
    for reference, profiles in registered.items():
        options = [word for profile in profiles for word in ("--profile", profile)]
        assert run("entity", "add", reference, *options).code == 0
    run("entity", "disable", "old")
    run("entity", "add", "plain")
    assert run("check").err == ""
    (ca / "cmpd.toml").write_text(text)
    before = (ca / "cmpd.db").read_bytes()
    done = run("check")
    assert (done.code, done.out.splitlines()[-1]) == (0, "ok")
    assert done.err.splitlines() == [
        "note: entity lamp: registered for profiles that are not configured: tls",
        "note: entity pump: registered for profiles that are not configured: tls, mail",
    ]
    assert (ca / "cmpd.db").read_bytes() == before
    (ca / "cmpd.db").unlink()
    done = run("check")
    assert (done.code, done.err) == (0, "")
    assert not (ca / "cmpd.db").exists()


def test_check_says_when_the_database_cannot_be_used(run: Run, ca: Path):
    with closing(sqlite3.connect(ca / "cmpd.db")) as database:
        database.execute("CREATE TABLE theirs (x)")
        database.commit()
    done = run("check")
    assert done.code == 1
    assert done.err == f"cmpd: store.path: {ca}/cmpd.db: this is not a database of cmpd\n"


# --- serve -----------------------------------------------------------------------------------------------------------


def test_serve_hands_the_configuration_to_the_daemon(run: Run, ca: Path, monkeypatch: pytest.MonkeyPatch):
    given: list[Config] = []
    daemon = types.ModuleType("cmpd.daemon")
    daemon.run = lambda config: given.append(config) or 3
    monkeypatch.setitem(sys.modules, "cmpd.daemon", daemon)
    assert run("serve").code == 3
    assert given == [load(ca / "cmpd.toml")]


def test_serve_refuses_a_wrong_configuration(run: Run, ca: Path):
    (ca / "cmpd.toml").write_text("x")
    done = run("serve")
    assert done.code == 1
    assert "is not TOML" in done.err
