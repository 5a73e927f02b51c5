"""cmpd cert: what was issued is found by serial number and subject, and comes out as it was signed."""

import json
import subprocess
from pathlib import Path

import pytest

from cmpd.cli.cmpd import main
from cmpd.cli.output import serial_octets, serial_text
from cmpd.env import Env
from cmpd.signing.file import read_certificates
from tests.cli.conftest import Run


def test_list_shows_all_or_what_is_selected(run: Run, issued: Path):
    heads = ["SERIAL", "STATE", "NOT_AFTER", "ENTITY", "PROFILE", "SUBJECT"]
    assert run("cert", "list").out.splitlines()[0].split() == heads
    rows = [line.split() for line in run("cert", "list").out.splitlines()[1:]]
    assert sorted(row[5] for row in rows) == ["CN=pump-0", "CN=pump-1", "CN=pump-2"]
    assert ["4100", "confirmed", "2030-03-17T17:46:40Z", "pump", "default", "CN=pump-0"] in rows
    assert len(json.loads(run("cert", "list", "--json", "--subject", "PUMP").out)) == 3
    assert [row["serial"] for row in json.loads(run("cert", "list", "--json", "--subject", "pump-1").out)] == ["F1"]
    assert [row["serial"] for row in json.loads(run("cert", "list", "--json", "--state", "intended").out)] == ["42AB"]
    assert len(json.loads(run("cert", "list", "--json", "--limit", "2").out)) == 2
    assert run("cert", "list", "--json", "--subject", "none").out == "[]\n"


def test_what_is_over_shows_as_expired(issued: Path, capsys: pytest.CaptureFixture[str]):
    late = Env(now=lambda: 1_900_000_001)

    def at_the_end(*words: str) -> list[dict[str, object]]:
        assert main([*words, "--json", "--config", str(issued / "cmpd.toml")], late) == 0
        return json.loads(capsys.readouterr().out)

    assert [row["state"] for row in at_the_end("cert", "list")] == ["expired", "expired", "intended"]
    assert [row["serial"] for row in at_the_end("cert", "list", "--state", "expired")] == ["F1", "4100"]
    assert at_the_end("cert", "list", "--state", "confirmed") == []
    assert at_the_end("cert", "show", "F1")[0]["state"] == "expired"


def test_at_its_last_second_a_certificate_is_not_expired(issued: Path, capsys: pytest.CaptureFixture[str]):
    last = Env(now=lambda: 1_900_000_000.9)
    assert main(["cert", "list", "--state", "expired", "--json", "--config", str(issued / "cmpd.toml")], last) == 0
    assert capsys.readouterr().out == "[]\n"


def test_long_lists_are_read_in_pages(run: Run, issued: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cmpd.cli.cert._PAGE", 1)
    assert len(json.loads(run("cert", "list", "--json").out)) == 3
    assert len(json.loads(run("cert", "list", "--json", "--limit", "2").out)) == 2


@pytest.mark.parametrize("serial", ["F1", "f1", "0xF1", "00:F1", "00f1"])
def test_show_finds_a_serial_number_however_it_is_written(run: Run, issued: Path, serial: str):
    (found,) = json.loads(run("cert", "show", serial, "--json").out)
    assert found["serial"] == "F1"
    assert found["subject"] == "CN=pump-1"
    assert found["entity"] == "pump"
    assert found["state"] == "confirmed"
    assert found["not_before"] == "2027-01-15T08:00:00Z"
    assert "serial:          F1" in run("cert", "show", serial).out


def test_show_by_subject_shows_all(run: Run, issued: Path):
    assert run("cert", "show", "--subject", "pump").out.count("serial:") == 3
    done = run("cert", "show", "--subject", "lamp")
    assert done.code == 1
    assert done.err == "cmpd: there is no certificate with 'lamp' in its subject\n"


def test_an_unknown_serial_number_is_named(run: Run, issued: Path):
    done = run("cert", "show", "aa")
    assert done.code == 1
    assert done.err == "cmpd: there is no certificate with serial number AA\n"


def test_export_writes_what_was_signed(run: Run, issued: Path, tmp_path: Path):
    der = read_certificates(issued / "cmp.pem")[0]
    assert run("cert", "export", "4100", "--out", tmp_path / "one.pem").out == ""
    assert read_certificates(tmp_path / "one.pem") == (der,)
    assert run("cert", "export", "4100", "--der", "--out", tmp_path / "one.der").code == 0
    assert (tmp_path / "one.der").read_bytes() == der
    assert subprocess.run(["openssl", "x509", "-inform", "DER", "-in", tmp_path / "one.der", "-noout"]).returncode == 0
    shown = run("cert", "export", "--subject", "pump")
    (tmp_path / "all.pem").write_text(shown.out)
    assert read_certificates(tmp_path / "all.pem") == (der, der)


def test_export_of_what_is_not_there_is_refused(run: Run, issued: Path, tmp_path: Path):
    assert "was intended, and never signed" in run("cert", "export", "42AB").err
    assert "--der writes one certificate, 2 were found" in run("cert", "export", "--subject", "pump", "--der").err
    done = run("cert", "export", "4100", "--out", tmp_path / "none/one.pem")
    assert done.code == 1
    assert "cannot be written: No such file" in done.err


def test_serial_numbers_as_text_are_those_of_openssl():
    for octets in (b"\x00", b"\x01", b"\x7f", b"\x00\x80", b"\x41\x00", b"\x00" + b"\xff" * 19):
        assert serial_octets(serial_text(octets)) == octets
    assert serial_text(b"\x00\x80") == "80"


@pytest.mark.parametrize("text", ["", "0x", "xyz", "-1", "4 1", "f" * 43, "١"])
def test_what_is_no_serial_number_is_refused(text: str):
    with pytest.raises(ValueError, match="want a serial number in hex"):
        serial_octets(text)
