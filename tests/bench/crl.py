"""What CRLs cost: CPU and wall time of an issue, and the longest stall of the event loop during it.

For each number of entries: all entries read anew and a scheduled CRL of them (`rebuild`), and a CRL after one change
(`change`), both with their delta CRL, from SQLite to files, in a process with the settings of the server. A stall is
by how much a task that sleeps a millisecond sleeps longer; `idle` is the longest while nothing is done, for as long.

python -m tests.bench.crl [--entries 1000,10000,100000] [--rounds N]
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1.names import encode_name
from cmpd.bootstrap import root_certificate
from cmpd.ca import CertificateAuthority
from cmpd.changes import (
    AddCertificate,
    AddIntent,
    Change,
    MoveCertificate,
    OpenTransaction,
)
from cmpd.config_status import CrlConfig
from cmpd.env import Env
from cmpd.publisher import Publisher
from cmpd.records import (
    CertificateState,
    Entity,
    EntityKind,
    Intent,
    TransactionRecord,
    TransactionState,
)
from cmpd.signing.file import FileKey
from cmpd.store.base import Store
from cmpd.store.sqlite import SqliteStore
from cmpd.threads import Offloader

ENTRIES = (1_000, 10_000, 100_000)
_UNIT = 500
_REASONS = ("keyCompromise", "superseded", "cessationOfOperation", None)


async def fill(store: Store, ca: CertificateAuthority, now: int, count: int, spare: int) -> list[bytes]:
    """So many revoked certificates, and `spare` ones that are not, whose serial numbers are returned."""
    owner = await store.add_entity(Entity(0, "bench", EntityKind.SECRET, uses_left=None, created_at=now))
    left: list[bytes] = []
    for first in range(0, count + spare, _UNIT):
        transaction_id = first.to_bytes(16)
        record = TransactionRecord(
            transaction_id, TransactionState.PROCESSING, "secret:bench", owner.id, "ir", started_at=now
        )
        unit: list[Change] = [OpenTransaction(record)]
        for number in range(first, min(first + _UNIT, count + spare)):
            serial = ca.next_serial(now - count + number)
            unit += _certificate(serial, transaction_id, number - first, owner.id, now)
            if number < count:
                at = now - (count - number)
                reason = _REASONS[number % 4]
                unit.append(
                    MoveCertificate(serial, CertificateState.CONFIRMED, CertificateState.REVOKED, at, reason, "x")
                )
            else:
                left.append(serial)
        await store.write(unit)
    return left


def _certificate(serial: bytes, transaction_id: bytes, number: int, owner: int, now: int) -> list[Change]:
    intent = Intent(
        serial=serial,
        transaction_id=transaction_id,
        cert_req_id=number,
        entity_id=owner,
        profile="default",
        subject=b"0\x00",
        subject_text=f"CN=device {number}",
        key_id=serial * 2,
        not_before=now,
        not_after=now + 31_556_952,
        tbs=b"",
        created_at=now,
    )
    return [AddIntent(intent), AddCertificate(serial, os.urandom(700), CertificateState.CONFIRMED, now)]


class Stalls:
    """Notes by how much a sleep of a millisecond is exceeded."""

    async def measure(self, work: Callable[[], Awaitable[Any]]) -> dict[str, float]:
        """CPU, wall time and longest stall of `work`, in ms."""
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                longest = max(longest, time.perf_counter() - before - 0.001)

        task = asyncio.create_task(tick())
        await asyncio.sleep(0.02)
        longest = 0.0
        cpu, wall = time.process_time(), time.perf_counter()
        await work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        await asyncio.sleep(0.005)  # the sleep that the end of the work has held up
        task.cancel()
        return {"cpu_ms": 1000 * cpu, "wall_ms": 1000 * wall, "stall_ms": 1000 * longest}


async def one_size(directory: Path, count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds: {"rebuild": figures, "change": figures}; the stalls also as the longest of all."""
    env = Env()
    key = ec.generate_private_key(ec.SECP256R1())
    root = root_certificate(key, encode_name("/O=Bench/CN=Bench CA"), env)
    signing = Offloader("sign", threads=2, waiting=100)
    ca = CertificateAuthority(root, (), FileKey(key, offload=signing), env)
    store = await SqliteStore.open(directory / f"{count}.db", serving=True)
    left = await fill(store, ca, int(env.now()), count, rounds)
    config = CrlConfig(directory=directory / f"crl-{count}")
    publisher = Publisher(store, ca, env, config, base_url="http://pki.example.com", offload=signing)
    await publisher.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # as the server does
    stalls = Stalls()
    measured: dict[str, list[dict[str, float]]] = {"rebuild": [], "change": []}
    for serial in left:
        for kind in measured:
            if kind == "change":
                now = int(env.now())
                move = MoveCertificate(serial, CertificateState.CONFIRMED, CertificateState.REVOKED, now, None, "x")
                await store.write([move])
            figures = await stalls.measure(lambda kind=kind: publisher.issue(scheduled=kind == "rebuild"))
            wall = figures["wall_ms"] / 1000
            figures["idle_ms"] = (await stalls.measure(lambda wall=wall: asyncio.sleep(wall)))["stall_ms"]
            measured[kind].append(figures)
    await store.close()
    signing.close()
    result = {kind: _median(rows) for kind, rows in measured.items()}
    for figures in result.values():
        figures["octets"] = float(len(publisher.full or b""))
    return result


def _median(rows: list[dict[str, float]]) -> dict[str, float]:
    figures = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
    return figures | {"longest_stall_ms": round(max(row["stall_ms"] for row in rows), 3)}


def bench(directory: Path, entries: tuple[int, ...] = ENTRIES, rounds: int = 7) -> dict[str, dict[str, Any]]:
    """All sizes, as a table on standard output; {"rebuild" or "change": {entries: figures}}."""
    titles = ("entries", "octets", "CPU ms", "wall ms", "stall ms", "longest", "idle")
    print("{:10} {:>7} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}".format("crl", *titles))
    results: dict[str, dict[str, Any]] = {}
    for count in entries:
        for kind, figures in uvloop.run(one_size(directory, count, rounds)).items():
            results.setdefault(kind, {})[str(count)] = figures
            print(
                f"{kind:10} {count:7} {figures['octets']:9.0f} {figures['cpu_ms']:8.2f} {figures['wall_ms']:8.2f} "
                f"{figures['stall_ms']:8.2f} {figures['longest_stall_ms']:8.2f} {figures['idle_ms']:8.2f}"
            )
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.crl", description=__doc__)
    parser.add_argument("--entries", default=",".join(map(str, ENTRIES)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too")
    options = parser.parse_args()
    build = Path("build")
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as name:
        results = bench(Path(name), tuple(int(text) for text in options.entries.split(",")), options.rounds)
    if options.json:
        print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
