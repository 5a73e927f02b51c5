"""The unit files, read by systemd's own tools."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cmpd.config_values import socket_name
from cmpd.daemon import DRAIN_SECONDS
from tests.systemd.booted import UNITS

WORST_EXPOSURE = 1.5

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="wants systemd-analyze (Debian package systemd)"
)
needs_sysusers = pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="wants systemd-sysusers (Debian package systemd)"
)


def verify(directory: Path, change: tuple[str, str] = ("", "")) -> str:
    """What `systemd-analyze verify` says about the units (its exit status says nothing about unknown keys)."""
    paths = [directory / name for name in ("cmpd.service", "cmpd.socket", "cmpd-http.socket")]
    for path in paths:
        text = (UNITS / path.name).read_text().replace("/usr/bin/cmpd", "/bin/true").replace(*change)
        path.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@needs_analyze
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    assert verify(tmp_path) == ""


@needs_analyze
@pytest.mark.parametrize("key", ["NoNewPrivileges", "FileDescriptorName", "WatchdogSec", "RuntimeDirectory"])
def test_a_misspelt_key_would_be_seen(tmp_path: Path, key: str) -> None:
    assert f"{key}X" in verify(tmp_path, (f"\n{key}=", f"\n{key}X="))


def exposure(unit: Path) -> float:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for cmpd\.service: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@needs_analyze
def test_the_service_is_exposed_little(tmp_path: Path) -> None:
    assert exposure(UNITS / "cmpd.service") <= WORST_EXPOSURE
    bare = tmp_path / "cmpd.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare) > WORST_EXPOSURE


@needs_sysusers
def test_sysusers_makes_the_user_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = UNITS / "cmpd.sysusers"
    done = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", "--replace=/usr/lib/sysusers.d/cmpd.conf", path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    user = next(line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("cmpd:"))
    assert user.split(":")[5:] == ["/var/lib/cmpd", "/usr/sbin/nologin"]
    assert "\nUser=cmpd\n" in (UNITS / "cmpd.service").read_text()


def test_systemd_waits_longer_than_a_drain_may_last() -> None:
    found = re.search(r"^TimeoutStopSec=(\d+)$", (UNITS / "cmpd.service").read_text(), re.MULTILINE)
    assert found
    assert int(found[1]) > DRAIN_SECONDS


def test_the_sockets_have_the_names_that_the_configuration_can_ask_for() -> None:
    names = set()
    for path in UNITS.glob("*.socket"):
        (name,) = re.findall(r"^FileDescriptorName=(.+)$", path.read_text(), re.MULTILINE)
        assert socket_name(f"systemd:{name}") == name
        assert path.name == "cmpd.socket" or "\nService=cmpd.service\n" in path.read_text()
        names.add(name)
    assert names == {"tcp", "http"}
