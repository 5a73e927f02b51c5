"""Run the benchmark and print the ratios: python -m tests.bench [--rounds N] [--seconds S] [--connections 1,32,256]

Rounds are interleaved (floor, then each kind with each number of connections), the figures are medians over the rounds.
A ratio is the server's CPU time per transaction in a round over the floor of the same round.
"""

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tests.bench import crl, floor, ocsp
from tests.bench.requests import Macced, Signed
from tests.support import Installation, Server, run

GOALS = {"signature": 2.5, "pbm": 1.6}


def cpu_seconds(process: int) -> float:
    """CPU time of all threads of a process."""
    tasks = Path(f"/proc/{process}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def commits(server: Server) -> int:
    """How many commits the server has made; it logs its statistics on SIGUSR1."""
    before = len(server.log_text())
    server.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if found := re.search(r"statistics .*commits=(\d+)", server.log_text()[before:]):
            return int(found[1])
        time.sleep(0.005)
    raise RuntimeError("the server does not tell its commits")


def enrol(installation: Installation, server: Server, directory: Path) -> Signed:
    """A certificate for the sender of signed requests, through cmpc."""
    cmpc = [Path(sys.executable).with_name("cmpc"), "ir", "--server", f"{server.host}:{server.port}"]
    who = ["--ref", "bench", "--secret-file", installation.directory / "bench.secret", "--subject", "CN=bench sender"]
    files = ["--new-key", directory / "sender.key", "--key-type", "p256", "--out", directory / "sender.pem"]
    run([*cmpc, *who, *files])
    certificate = x509.load_pem_x509_certificate((directory / "sender.pem").read_bytes())
    key = load_pem_private_key((directory / "sender.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    kid = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return Signed(key, certificate.public_bytes(Encoding.DER), "CN=bench sender", kid)


def one_load(server: Server, file: Path, connections: int) -> dict[str, float]:
    """One run of the load generator, with the server's CPU time and commits per transaction."""
    command = [sys.executable, "-m", "tests.bench.load", str(file), server.host, str(server.port), str(connections)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        commits_before = commits(server)
        before = cpu_seconds(server.process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        result: dict[str, float] = json.loads(process.stdout.readline())
        cpu = cpu_seconds(server.process.pid) - before
        commits_after = commits(server)
    result["cpu_us"] = 1e6 * cpu / result["count"]
    result["commits_per_certificate"] = (commits_after - commits_before) / result["count"]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of the floor in each round")
    parser.add_argument("--requests", type=int, default=2000, help="in each load (300 with one connection)")
    parser.add_argument("--connections", default="1,32,256")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    connections = [int(number) for number in options.connections.split(",")]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent) as name:
        results: dict[str, Any] = {**bench(Path(name), options, connections)}
        results["crl"] = crl.bench(Path(name), rounds=options.rounds)
        results["ocsp"] = ocsp.bench(Path(name), options.rounds)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwritten to {options.out}")
    return 0


def bench(
    directory: Path, options: argparse.Namespace, connections: list[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """All rounds; {kind: {connections: figures}}."""
    installation = Installation.make(directory / "ca")
    installation.add_secret("bench", "a secret of the benchmark", "--uses", "unlimited")
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    with installation.serving() as server:
        makers = {
            "signature": enrol(installation, server, directory),
            "pbm": Macced("bench", b"a secret of the benchmark", floor.ITERATIONS),
        }
        floors = floor.transactions()
        for number in range(options.rounds):
            for kind, maker in makers.items():
                for count in connections:
                    file = directory / "requests"
                    file.write_bytes(maker.make(options.requests if count > 1 else min(options.requests, 300)))
                    before = floor.measure(floors[kind], options.seconds / 2)
                    figures = one_load(server, file, count)
                    after = floor.measure(floors[kind], options.seconds / 2)
                    figures["floor_us"] = 1e6 * (before + after) / 2
                    figures["ratio"] = figures["cpu_us"] / figures["floor_us"]
                    rows.setdefault((kind, count), []).append(figures)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    results: dict[str, dict[str, dict[str, float]]] = {}
    titles = ("conn.", "ratio", "CPU us", "floor us", "per s", "p50 ms", "p99 ms", "commits/cert")
    print("{:10} {:>5} {:>6} {:>8} {:>8} {:>7} {:>7} {:>7} {:>12}".format("", *titles))
    for (kind, count), measured in rows.items():
        figures = {name: statistics.median(one[name] for one in measured) for name in measured[0] if name != "count"}
        results.setdefault(kind, {})[str(count)] = {name: round(value, 4) for name, value in figures.items()}
        print(
            f"{kind:10} {count:5} {figures['ratio']:6.2f} {figures['cpu_us']:8.0f} {figures['floor_us']:8.0f} "
            f"{figures['per_second']:7.0f} {figures['p50_ms']:7.2f} {figures['p99_ms']:7.2f} "
            f"{figures['commits_per_certificate']:12.3f}"
        )
    return results


if __name__ == "__main__":
    sys.exit(main())
