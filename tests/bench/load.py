"""The load generator, a process of its own: pre-generated requests over loopback, each connection one at a time.

    python -m tests.bench.load REQUESTS HOST PORT CONNECTIONS

REQUESTS is a file of tcp-messages one after the other. It says "ready" when all connections stand, begins when a line
comes on standard input, and prints one line of JSON at the end.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop

_ACCEPTED = b"\x02\x01\x00\x30\x03\x02\x01\x00"  # certReqId 0, PKIStatusInfo accepted


class Client(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last one is whole."""

    def __init__(self, queue: list[bytes], latencies: list[float], done: asyncio.Future[None]) -> None:
        self._queue, self._latencies, self._done = queue, latencies, done
        self._buffer = b""
        self._began = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def begin(self) -> None:
        if not self._queue:
            if not self._done.done():
                self._done.set_result(None)
            return
        self._began = time.perf_counter()
        assert self._transport is not None
        self._transport.write(self._queue.pop())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < 7 or len(self._buffer) < 4 + int.from_bytes(self._buffer[:4], "big"):
            return
        self._latencies.append(time.perf_counter() - self._began)
        if self._buffer[6] != 5 or _ACCEPTED not in self._buffer:
            self._done.set_exception(RuntimeError(f"not a certificate: {self._buffer[:2000].hex()}"))
            return
        self._buffer = b""
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError("the server closed the connection"))


def read_frames(data: bytes) -> list[bytes]:
    frames, pos = [], 0
    while pos < len(data):
        end = pos + 4 + int.from_bytes(data[pos : pos + 4], "big")
        frames.append(data[pos:end])
        pos = end
    return frames


async def generate(queue: list[bytes], host: str, port: int, connections: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    total = len(queue)
    dones = [loop.create_future() for _ in range(connections)]
    clients = []
    for done in dones:
        _, client = await loop.create_connection(lambda done=done: Client(queue, latencies, done), host, port)
        clients.append(client)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    began = time.perf_counter()
    for client in clients:
        client.begin()
    await asyncio.gather(*dones)
    elapsed = time.perf_counter() - began
    latencies.sort()
    return {
        "count": total,
        "per_second": total / elapsed,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
    }


if __name__ == "__main__":
    file, host, port, connections = sys.argv[1:]
    frames = read_frames(Path(file).read_bytes())
    print(json.dumps(uvloop.run(generate(frames, host, int(port), int(connections)))), flush=True)
