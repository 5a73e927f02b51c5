"""The units under a systemd that runs for real: socket activation, credential, watchdog, restart, drain."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.systemd.booted import PYTHON, boot, may_mount, version_of

pytestmark = [
    pytest.mark.skipif(
        shutil.which("systemd-nspawn") is None, reason="wants systemd-nspawn (Debian package systemd-container)"
    ),
    pytest.mark.skipif(not may_mount(), reason="wants root with CAP_SYS_ADMIN, to boot a container"),
    pytest.mark.skipif(
        version_of(PYTHON) != sys.version_info[:2],
        reason="wants the tests to run on the version of /usr/bin/python3 (Debian package python3)",
    ),
]


@pytest.fixture(scope="module")
def findings() -> Iterator[dict[str, Any]]:
    with TemporaryDirectory() as directory:
        yield boot(Path(directory), "driver_units.py", {"cmpd": "tests.systemd.standin"})


def test_the_first_connection_to_port_829_starts_the_service(findings: dict[str, Any]) -> None:
    assert findings["before"]["ActiveState"] == "inactive"
    assert findings["after"]["ActiveState"] == "active"
    assert findings["after"]["MainPID"] == findings["pid"]
    assert findings["after"]["StatusText"] == "ready"


def test_the_service_is_an_ordinary_user_without_any_capability(findings: dict[str, Any]) -> None:
    assert findings["owner"] == "cmpd"
    assert {int(value, 16) for name, value in findings["status"].items() if name.startswith("Cap")} == {0}
    assert findings["status"]["NoNewPrivs"] == "1"


def test_python_signs_and_stores_under_the_hardening(findings: dict[str, Any]) -> None:
    assert bytes.fromhex(findings["sign"])
    assert findings["store"] == "1"


def test_the_passphrase_arrives_as_a_credential(findings: dict[str, Any]) -> None:
    assert findings["credential"] == findings["passphrase"]


def test_a_daemon_that_is_silent_is_replaced(findings: dict[str, Any]) -> None:
    hung = findings["hung"]
    assert hung["restarts"] == "1"
    assert hung["pid"].isdigit()
    assert hung["pid"] != hung["before"]


def test_no_connection_is_refused_while_the_service_restarts(findings: dict[str, Any]) -> None:
    assert findings["restarts"]["servers"] >= 2
    assert findings["restarts"]["refused"] == []


def test_sigterm_lets_the_running_request_end(findings: dict[str, Any]) -> None:
    [answer] = findings["drained"]["answer"]
    assert bytes.fromhex(answer)
    assert findings["drained"]["service"]["ActiveState"] == "inactive"
    assert findings["drained"]["service"]["Result"] == "success"
    assert findings["drained"]["service"]["ExecMainStatus"] == "0"


def test_cmpd_gives_certificates_over_two_restarts(tmp_path: Path) -> None:
    found = boot(tmp_path, "driver_cmpd.py", {"cmpd": "cmpd.cli.cmpd", "cmpc": "cmpd.cli.cmpc"})
    assert found["before"]["ActiveState"] == "inactive"
    assert found["after"]["ActiveState"] == "active"
    assert [status for status, _ in found["enrolled"]] == [0] * len(found["enrolled"]), found["enrolled"]
    assert found["certificates"] == len(found["enrolled"])
    assert found["http"] == [405, 405]
    shut = dict.fromkeys(("database", "keys", "passphrase"), "PermissionError")
    assert found["member"] == {"configuration": "yes", "local socket": "yes"} | shut
    assert set(found["stranger"].values()) == {"PermissionError"}
    assert found["published"]["same"]
    assert "ca.crl" in found["published"]["crl"]
    assert found["published"]["signer"] == ["cmpd", "0o600"]
    assert found["stopped"]["Result"] == "success"
    assert found["stopped"]["ExecMainStatus"] == "0"
    assert found["secrets in the journal"] == []
