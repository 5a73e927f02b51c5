"""Threads for what would hold up the event loop: signing with costly keys, deriving MAC keys, making large CRLs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from cmpd.errors import SystemUnavail

_T = TypeVar("_T")

_MAX_SHORT_DERIVATIONS: Final = 256
_MAX_LONG_DERIVATIONS: Final = 8
_SHORT_DERIVATION: Final = 20_000  # iterations: some 12 ms


class Offloader:
    """Runs costly computations on threads of its own; at most `waiting` are in hand, then it is SystemUnavail.

    Signing has one and deriving MAC keys another, so that derivations, which anybody can ask for, delay no signature.
    """

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        """`name`: of the threads."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"cmpd-{name}")
        self._room = waiting

    async def __call__(self, work: Callable[[], _T]) -> _T:
        """The result of `work`, run on a thread."""
        if self._room <= 0:
            raise SystemUnavail("server: it is busy with costly computations; try again later")
        self._room -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._room += 1

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Derivations:
    """Derives MAC keys off the loop, on two lanes: what takes long does not stand in front of what does not."""

    def __init__(self) -> None:
        self._short = Offloader("derive", threads=1, waiting=_MAX_SHORT_DERIVATIONS)
        self._long = Offloader("derive-long", threads=1, waiting=_MAX_LONG_DERIVATIONS)

    async def __call__(self, work: Callable[[], bytes], iterations: int) -> bytes:
        """The key that `work` derives in so many iterations."""
        lane = self._short if iterations <= _SHORT_DERIVATION else self._long
        return await lane(work)

    def close(self) -> None:
        """Let the threads end."""
        self._short.close()
        self._long.close()
