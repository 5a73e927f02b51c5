"""Keys that two certificates have in common, of different entities or for different subjects: a line in the log.

Each of the two can sign for the other; of two RSA keys with one modulus each gives away the other. It happens to
devices that make their keys without random numbers, and when certificates are asked for with keys that were copied.
Whether it is allowed says `profile.NAME.key_sharing`; what is looked at are its claims, in the database, by one read of
an index, and for certificates without such a claim by none.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cmpd import audit
from cmpd.changes import Claim
from cmpd.handlers.base import Context, Reply
from cmpd.records import Intent

_MOST: Final = 10
"""How many others a line names."""

Shared = tuple[Intent, list[tuple[bytes, str]]]


async def find_shared_key(context: Context, intent: Intent, claims: Sequence[Claim]) -> list[tuple[bytes, str]]:
    """The certificates (serial number, reference value of the entity) that share the key of an intent on record."""
    digest = next((claim.digest for claim in claims if claim.what == "key"), None)
    return [] if digest is None else await context.service.store.sharing_key(intent.serial, digest, _MOST)


def warn_of_shared_keys(context: Context, reply: Reply, shared: Sequence[Shared]) -> Reply:
    """The reply, that also tells the log of shared keys after it was written."""
    reference, before = context.request.requester.entity.reference, reply.after_write

    def after_write() -> None:
        if before is not None:
            before()
        for intent, others in shared:
            audit.key_shared(intent, reference, others)

    return replace(reply, after_write=after_write)
