"""The shared secrets of KEM-based protection (RFC 9810 section 5.1.3.4): in memory until their request comes, then
sealed in the record of its transaction, so that what continues it can be verified after a restart too.

Anybody who knows a certificate can ask for a ciphertext, so few are kept for each, and none for long. A secret is for
one operation (section 8.8): it belongs to the first request that is verified with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cmpd.asn1 import der
from cmpd.errors import BadMessageCheck, StoreError
from cmpd.keeping import SecretSealer
from cmpd.protection.base import EncapsulatedSecret, KemSecrets
from cmpd.records import TransactionRecord

LIFETIME: Final = 60
SLOW_LIFETIME: Final = 86_400
"""Seconds in which the request must follow the ciphertext, and where messages are carried (Door.slow)."""

MAX_KEPT: Final = 4096
MAX_OF_ONE: Final = 16
"""How many wait for either time, altogether and of one certificate; the oldest one makes room for another."""


def seal_secrets(sealer: SecretSealer | None, transaction_id: bytes, secrets: KemSecrets | None) -> bytes | None:
    """What the record of a transaction keeps; None if there is nothing to keep, or to keep it by."""
    if sealer is None or secrets is None:
        return None
    values = ((0, secrets.sender), (1, secrets.server))
    encoded = der.seq(*(der.explicit_octets(number, value) for number, value in values if value is not None))
    return sealer.seal(encoded, _reference(transaction_id))


def open_secrets(sealer: SecretSealer | None, record: TransactionRecord | None) -> KemSecrets:
    """What the record of a transaction has kept; StoreError if that cannot be opened."""
    if sealer is None or record is None or record.kem_secrets is None:
        return KemSecrets()
    data = sealer.open(record.kem_secrets, _reference(record.id))
    try:
        start, stop = der.expect(data, 0, len(data), der.SEQUENCE, "KEM secrets")
        found = {
            tag: data[slice(*der.expect(data, inner, end, der.OCTET_STRING, "KEM secret"))]
            for tag, _, inner, end in der.children(data, start, stop, 2)
        }
    except der.DerError as error:
        raise StoreError(f"KEM secrets of transaction {record.id.hex()}: {error}") from None
    return KemSecrets(found.get(0xA0), found.get(0xA1))


def _reference(transaction_id: bytes) -> str:
    """What they are sealed for; no reference value has a NUL in it."""
    return f"{transaction_id.hex()}\0KEM"


@dataclass(slots=True)
class Ciphertext:
    """One that was given: SHA-256 of the genm, the genp (DER), and the secret. `used_by`: SHA-256 of its request.

    `place`: how many seconds it may wait, and the certificate (DER) that it is for.
    """

    digest: bytes
    answer: bytes = field(repr=False)
    secret: EncapsulatedSecret
    place: tuple[int, bytes] = field(repr=False)
    expires_at: float
    used_by: bytes | None = None


class Ciphertexts:
    """Those whose request has not come, or came within their lifetime, by transactionID.

    What waits long has places of its own: no flood at a door that is quick drives it out.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._all: dict[int, dict[bytes, Ciphertext]] = {LIFETIME: {}, SLOW_LIFETIME: {}}  # the oldest first
        self._of: dict[tuple[int, bytes], dict[bytes, None]] = {}  # place -> transactionIDs, the oldest first

    def __len__(self) -> int:
        return sum(map(len, self._all.values()))

    def find(self, transaction_id: bytes) -> Ciphertext | None:
        """The one of this transaction."""
        found = next((kept[transaction_id] for kept in self._all.values() if transaction_id in kept), None)
        return None if found is None or self._now() >= found.expires_at else found

    def add(
        self,
        transaction_id: bytes,
        digest: bytes,
        answer: bytes,
        secret: EncapsulatedSecret,
        lifetime: int = LIFETIME,
    ) -> None:
        """Keep one, in the place of the oldest one if there are too many. `lifetime`: LIFETIME or SLOW_LIFETIME."""
        now, place = self._now(), (lifetime, secret.certificate)
        self._drop(transaction_id)
        for seconds, kept in self._all.items():
            while kept:
                oldest = next(iter(kept))
                if now < kept[oldest].expires_at and (seconds != lifetime or len(kept) < MAX_KEPT):
                    break
                self._drop(oldest)
        own = self._of.get(place, {})
        if len(own) >= MAX_OF_ONE:
            self._drop(next(iter(own)))
        self._all[lifetime][transaction_id] = Ciphertext(digest, answer, secret, place, now + lifetime)
        self._of.setdefault(place, {})[transaction_id] = None

    def use(self, transaction_id: bytes, digest: bytes) -> None:
        """A first request with this SHA-256 was verified with the secret; BadMessageCheck if another one was before."""
        found = self.find(transaction_id)
        if found is None:
            return  # it came from the record: the transactionID is taken
        if found.used_by not in (None, digest):
            raise BadMessageCheck(
                "protection: want a KEM ciphertext for each operation, have that of another request; ask for a new one "
                "by genm KemCiphertextInfo (RFC 9810 section 8.8)"
            )
        found.used_by = digest

    def _drop(self, transaction_id: bytes) -> None:
        for kept in self._all.values():
            found = kept.pop(transaction_id, None)
            if found is None:
                continue
            own = self._of[found.place]
            del own[transaction_id]
            if not own:
                del self._of[found.place]
