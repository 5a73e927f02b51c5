"""OCSP answers per second and CPU time per answer, without HTTP: python -m tests.bench.ocsp [--rounds N]

The responder reads from an SQLite database of 10,000 certificates, a tenth of them revoked. The floor is one signature
with the same key; it is measured before and after every load, and a ratio is of one round. CPU time is that of all
threads of the process, the asking side included (it is one await).
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.asn1.signing import SigningPrivateKey, signature_algorithm
from cmpd.bootstrap import root_certificate
from cmpd.ca import CertificateAuthority
from cmpd.changes import (
    AddCertificate,
    AddIntent,
    Change,
    MoveCertificate,
    OpenTransaction,
)
from cmpd.config_status import OcspConfig
from cmpd.env import Env
from cmpd.install import KEYS
from cmpd.ocsp import OcspResponder, issuer_hashes
from cmpd.ocsp_signer import SignerKeeper
from cmpd.records import (
    CertificateState,
    Entity,
    EntityKind,
)
from cmpd.signing.file import FileKey, read_private_key
from cmpd.store.base import Store
from cmpd.store.sqlite import SqliteStore
from cmpd.threads import Offloader
from tests.bench.floor import measure
from tests.store.samples import NOW, intent, octets, transaction

CERTIFICATES = 10_000
KINDS = {"P-256": "p256", "RSA-3072": "rsa3072"}
REQUESTS = {("P-256", 1): 1000, ("P-256", 32): 4000, ("RSA-3072", 1): 100, ("RSA-3072", 32): 400}
Figures = dict[str, dict[str, dict[str, float]]]


def serial_of(number: int) -> bytes:
    """Contents octets of a serial number as the CA makes them: positive, 16 octets."""
    return b"\x40" + octets(number, 15)


async def fill(store: Store) -> None:
    """10,000 certificates, every tenth revoked."""
    owner = await store.add_entity(Entity(0, "bench", EntityKind.SECRET, uses_left=None))
    for first in range(1, CERTIFICATES + 1, 500):
        numbers = range(first, first + 500)
        await asyncio.gather(*(store.write(issuance(number, owner)) for number in numbers))
        await asyncio.gather(*(store.write([revocation(number)]) for number in numbers if number % 10 == 0))


def issuance(number: int, owner: Entity) -> list[Change]:
    return [
        OpenTransaction(transaction(number, owner)),
        AddIntent(intent(number, owner, serial=serial_of(number))),
        AddCertificate(serial_of(number), bytes(600), CertificateState.CONFIRMED, NOW),
    ]


def revocation(number: int) -> Change:
    return MoveCertificate(serial_of(number), CertificateState.CONFIRMED, CertificateState.REVOKED, NOW, "superseded")


def floor_of(key: SigningPrivateKey) -> Callable[[], None]:
    """One signature over as much as is signed in an answer."""
    sign, signed = signature_algorithm(key).sign, bytes(200)
    return lambda: sign(key, signed) and None


async def load(responder: OcspResponder, requests: list[bytes], concurrency: int) -> tuple[float, float]:
    """(CPU seconds, seconds) of an answer to each request, `concurrency` of them asked for at the same time."""
    waiting = iter(requests)

    async def client() -> None:
        for request in waiting:
            found = await responder.respond(request)
            assert found.successful

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return time.process_time() - cpu, time.perf_counter() - started


async def bench_kind(kind: str, store: Store, directory: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """The figures of each round by concurrency."""
    env, offload = Env(), Offloader("sign", threads=2, waiting=4096)
    ca_key = KEYS[KINDS[kind]]()
    certificate = root_certificate(ca_key, encode_name("/CN=bench"), env)
    ca = CertificateAuthority(certificate, (), FileKey(ca_key), env)
    file = directory / f"{kind}.pem"
    keeper = SignerKeeper(file, b"passphrase of the benchmark", ca, store, OcspConfig(), env, offload)
    responder = OcspResponder(store, ca, env, OcspConfig(), event=asyncio.Event, signer=await keeper.load_or_make())
    floor = floor_of(read_private_key(file, b"passphrase of the benchmark"))
    prefix = min(issuer_hashes(ca.name, ca.public_key))
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for concurrency in (1, 32):
            count = REQUESTS[kind, concurrency]
            requests = [_request(prefix, serial_of(n)) for n in random.sample(range(1, CERTIFICATES + 1), count)]
            before = measure(floor, 0.2)
            cpu, seconds = await load(responder, requests, concurrency)
            floor_us = 1e6 * (before + measure(floor, 0.2)) / 2
            cpu_us = 1e6 * cpu / count
            figures = {
                "ratio": cpu_us / floor_us,
                "cpu_us": cpu_us,
                "floor_us": floor_us,
                "per_second": count / seconds,
            }
            rows.setdefault(str(concurrency), []).append(figures)
    offload.close()
    return rows


def _request(prefix: bytes, serial: bytes) -> bytes:
    return der.seq(der.seq(der.seq(der.seq(der.seq(prefix, der.tlv(der.INTEGER, serial))))))


async def _bench(directory: Path, rounds: int) -> Figures:
    store = await SqliteStore.open(directory / "cmpd.db", serving=True)
    try:
        await fill(store)
        rows = {kind: await bench_kind(kind, store, directory, rounds) for kind in KINDS}
    finally:
        await store.close()
    return {
        kind: {
            concurrency: {name: round(statistics.median(one[name] for one in measured), 4) for name in measured[0]}
            for concurrency, measured in found.items()
        }
        for kind, found in rows.items()
    }


def bench(directory: Path, rounds: int) -> Figures:
    """Medians over the rounds: {kind of key: {concurrency: figures}}; a table is printed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(_bench(directory, rounds))
    print("\n{:10} {:>5} {:>6} {:>8} {:>8} {:>7}".format("OCSP", "conc.", "ratio", "CPU us", "floor us", "per s"))
    for kind, found in results.items():
        for concurrency, one in found.items():
            print(
                f"{kind:10} {concurrency:>5} {one['ratio']:6.2f} {one['cpu_us']:8.0f} {one['floor_us']:8.0f} "
                f"{one['per_second']:7.0f}"
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(bench(Path(name), parser.parse_args().rounds), indent=2))


if __name__ == "__main__":
    main()
