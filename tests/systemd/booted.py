"""Boots the real systemd as PID 1 in a container whose root is a throw-away overlay of this machine's.

Nothing of the machine is changed: the container writes to a tmpfs above /, has a network of its own with nothing but
the loopback, and ends with the driver, a Python script that runs in it as root and leaves its findings as JSON. The
project and the packages it was tested with are mounted read-only under /opt/cmpd, because the service's own view has no
/root, /home or /tmp; the interpreter is Debian's.
"""

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
PYTHON = "/usr/bin/python3"
TIMEOUT = 90

COMMAND = """#!{python}
import sys
sys.path[:0] = ["/opt/cmpd/site", "/opt/cmpd/source"]
sys.dont_write_bytecode = True
from {module} import main
sys.exit(main())
"""

DRIVER = """[Unit]
DefaultDependencies=no
After=basic.target
[Service]
Type=oneshot
ExecStart={python} -B /opt/cmpd/source/tests/systemd/{driver}
ExecStopPost=/bin/systemctl --no-block exit 0
Environment=PYTHONPATH=/opt/cmpd/site:/opt/cmpd/source
StandardOutput=file:/findings.json
StandardError=file:/errors.txt
TimeoutStartSec=60
"""


@contextmanager
def overlay(directory: Path) -> Iterator[Path]:
    """A writable copy of / below `directory` (tmpfs over overlay); gone at the end."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    try:
        for name in ("upper", "work", "root"):
            (directory / name).mkdir()
        options = f"lowerdir=/,upperdir={directory}/upper,workdir={directory}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, directory / "root"], check=True)
        try:
            yield directory / "root"
        finally:
            subprocess.run(["umount", directory / "root"], check=True)
    finally:
        subprocess.run(["umount", directory], check=True)


def install(root: Path, commands: dict[str, str]) -> None:
    """The units as an administrator installs them, and /usr/bin/NAME for each command: the main() of a module."""
    for name in ("cmpd.service", "cmpd.socket", "cmpd-http.socket"):
        shutil.copy(UNITS / name, root / "etc/systemd/system")
    for kind, tool in (("sysusers", "systemd-sysusers"), ("tmpfiles", "systemd-tmpfiles")):
        target = root / f"usr/lib/{kind}.d/cmpd.conf"
        shutil.copy(UNITS / f"cmpd.{kind}", target)
        create = ["--create"] if kind == "tmpfiles" else []
        subprocess.run([tool, f"--root={root}", *create, "cmpd.conf"], check=True)
    for name, module in commands.items():
        path = root / "usr/bin" / name
        path.unlink(missing_ok=True)
        path.write_text(COMMAND.format(python=PYTHON, module=module))
        path.chmod(0o755)
    for name in ("site", "source"):
        (root / "opt/cmpd" / name).mkdir(parents=True)


def boot(directory: Path, driver: str, commands: dict[str, str]) -> dict[str, Any]:
    """Run tests/systemd/DRIVER in a booted container; gives the findings that it printed."""
    with overlay(directory) as root:
        install(root, commands)
        unit = root / "etc/systemd/system/driver.service"
        unit.write_text(DRIVER.format(python=PYTHON, driver=driver))
        container = [
            *("systemd-nspawn", "-q", "-D", str(root), "--register=no", "--keep-unit", "--private-network"),
            *("--bind-ro", f"{sysconfig.get_path('platlib')}:/opt/cmpd/site", "--bind-ro", f"{ROOT}:/opt/cmpd/source"),
            *("--boot", "--", "systemd.unit=driver.service", "systemd.show_status=no"),
        ]
        done = subprocess.run(
            container, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
        )
        findings = root / "findings.json"
        for log in ("errors.txt", "cmpd.log"):  # pytest shows them when the test fails
            print((root / log).read_text()[-10_000:] if (root / log).exists() else f"no {log}")
        if not findings.exists() or not findings.read_text():
            raise AssertionError(f"the driver found nothing:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        result: dict[str, Any] = json.loads(findings.read_text())
        return result


def version_of(python: str) -> tuple[int, ...]:
    """The (major, minor) of an interpreter; () where there is none."""
    if not Path(python).exists():
        return ()
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    return tuple(map(int, done.stdout.split()))


def may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN, which mounting and booting want."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")]
    return bool(int(line.split()[1], 16) >> 21 & 1)
