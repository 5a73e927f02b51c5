"""What a handler is handed and what it gives back. A handler decides and arranges; the responder protects and sends."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from cmpd.ca import CertificateAuthority
from cmpd.config import EnrolmentConfig
from cmpd.env import Env
from cmpd.profiles import Profile
from cmpd.protection.base import VerifiedRequest
from cmpd.records import Change, TransactionRecord
from cmpd.store.base import Store


@dataclass(frozen=True, slots=True)
class Service:
    """What handlers work with; made once by the daemon."""

    env: Env
    store: Store
    ca: CertificateAuthority
    profiles: Mapping[str, Profile]
    enrolment: EnrolmentConfig


@dataclass(frozen=True, slots=True)
class Context:
    """One request's surroundings. `record`: the transaction it continues, None for a first message.

    `as_of`: the store's generation that its verification rests on. `nonce`: the senderNonce its answer will have.
    `undo`: what ends the transaction if no answer comes of it; a handler that makes something durable before it returns
    says here how to take that back.
    """

    service: Service
    request: VerifiedRequest
    transaction_id: bytes
    nonce: bytes = field(repr=False)
    as_of: int
    record: TransactionRecord | None = None
    undo: list[Change] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
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
