"""What a handler is handed and what it gives back. A handler decides and arranges; the responder protects and sends."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import field

from cmpd.ca import CertificateAuthority
from cmpd.config import EnrolmentConfig
from cmpd.env import Env
from cmpd.frozen import frozen
from cmpd.profiles import Profile
from cmpd.protection.base import VerifiedRequest
from cmpd.records import Change, TransactionRecord
from cmpd.store.base import Store


@frozen
class Service:
    """What handlers work with; made once by the daemon. `reserved_names`: texts of Names that nobody gets, folded."""

    env: Env
    store: Store
    ca: CertificateAuthority
    profiles: Mapping[str, Profile]
    enrolment: EnrolmentConfig
    reserved_names: frozenset[str] = frozenset()


class Claim:
    """What a handler has made durable already. `undo` gives the changes that end the transaction if no answer comes."""

    __slots__ = ("undo",)

    def __init__(self) -> None:
        self.undo: Callable[[], Sequence[Change]] | None = None


@frozen
class Context:
    """One request's surroundings. `record`: the transaction it continues, None for a first message.

    `as_of`: the store's generation that its verification rests on. `nonce`: the senderNonce its answer will have.
    `claim`: a handler that makes something durable before it returns says there how to take that back.
    """

    service: Service
    request: VerifiedRequest
    transaction_id: bytes
    nonce: bytes = field(repr=False)
    as_of: int
    record: TransactionRecord | None = None
    claim: Claim = field(default_factory=Claim)


@frozen
class Reply:
    """An answer's body with what must be durable before it is sent. `body_type` None: no CMP answer (finRep).

    `changes` are written in one unit together with the answer's octets. `after_write` is called when they are durable
    (for the audit log).
    """

    body_type: int | None
    body: bytes = field(default=b"", repr=False)
    changes: tuple[Change, ...] = ()
    implicit_confirm: bool = False
    confirm_wait: int | None = None
    extra_certs: tuple[bytes, ...] = field(default=(), repr=False)
    after_write: Callable[[], None] | None = None


Handler = Callable[[Context], Awaitable[Reply]]
