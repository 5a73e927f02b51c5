"""Run by a test and killed by it: writes units for ever and prints the number of each one that was acknowledged.

Each unit has a transaction with two certificates, so that half a unit would show.
"""

import asyncio
import itertools
import sys
from pathlib import Path

from cmpd.changes import (
    AddIntent,
    OpenTransaction,
    TakeUse,
)
from cmpd.store import open_store
from tests.store.samples import entity, intent, octets, transaction

WRITERS = 16


async def main(path: Path) -> None:
    store = await open_store(path, serving=True)
    owner = await store.add_entity(entity(uses_left=1_000_000))
    numbers = itertools.count(1)

    async def write_for_ever() -> None:
        for number in numbers:
            two = [
                AddIntent(intent(2 * number + n, owner, transaction_number=number, cert_req_id=n, tbs=b"x" * 2000))
                for n in (0, 1)
            ]
            await store.write([OpenTransaction(transaction(number, owner)), TakeUse(owner.id, octets(number)), *two])
            print(number, flush=True)

    await asyncio.gather(*(write_for_ever() for _ in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
