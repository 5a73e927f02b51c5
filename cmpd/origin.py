"""Where a request came in, and what that door allows: plain values that a transport makes and the core reads.

A transport knows frames; what it knows of a peer besides is here: the address for the log, the door's own rules, the
operation that a path named (RFC 9483 section 6.1), the certificates that a TLS handshake has proven. `check_door` holds
a verified request against it, so that what is refused is told in a protected answer.

Answers that are not ready are told apart here too: `Waiting` is what a transport with polling of its own
(tcp-messages) says by pollRep.
"""

from dataclasses import field
from typing import Final, Protocol

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.oids import contents
from cmpd.errors import BadRequest
from cmpd.frozen import frozen
from cmpd.message import Envelope

CONTINUING: Final = frozenset({"certConf", "pkiconf", "error", "pollReq", "popdecr"})
"""Bodies that every door takes: they go on with what was begun (RFC 9483 section 6.1: to the same endpoint)."""


@frozen
class Operation:
    """A PKI management operation by its label. `info_types`: contents octets of the OIDs that its genm may ask for."""

    label: str
    bodies: frozenset[str]
    info_types: frozenset[bytes] = frozenset()


def _operation(label: str, body: str, *info_types: str) -> Operation:
    return Operation(label, frozenset({body}), frozenset(map(contents, info_types)))


OPERATIONS: Final = {
    row.label: row
    for row in (
        _operation("initialization", "ir"),
        _operation("certification", "cr"),
        _operation("keyupdate", "kur"),
        _operation("pkcs10", "p10cr"),
        _operation("revocation", "rr"),
        _operation("getcacerts", "genm", "1.3.6.1.5.5.7.4.17"),
        _operation("getrootupdate", "genm", "1.3.6.1.5.5.7.4.20"),
        _operation("getcertreqtemplate", "genm", "1.3.6.1.5.5.7.4.19"),
        _operation("getcrls", "genm", "1.3.6.1.5.5.7.4.22", "1.3.6.1.5.5.7.4.6"),
        _operation("nested", "nested"),
    )
}
"""The labels of RFC 9483 section 6.1. getcrls takes the currentCRL of RFC 9810 section 5.3.19.6 too."""


@frozen
class Door:
    """One listener's rules. `name`: for the log ("tcp", "https" ...). `bodies`: what may begin a transaction, None =
    everything. `profile`: for requests that name none and whose requester may use it. `tls_authenticates`: a TLS client
    certificate stands for the protection of an unprotected request. `strict`: what RULES of strictness.py demand too.
    `slow`: messages are carried there, by mail or by hand.
    """

    name: str
    bodies: frozenset[str] | None = None
    profile: str = ""
    tls_authenticates: bool = False
    strict: bool = False
    slow: bool = False


@frozen
class Origin:
    """Where one request came in. `address`: text for the log ("192.0.2.1:40000").

    `operation` and `profile` are what the path named (/.well-known/cmp/p/PROFILE/OPERATION), None and "" without.
    `polls`: a request that has to wait may be answered by Waiting (transport-level polling). `certificates`: DER of the
    TLS client certificate, whose key the handshake has proven, then what is known of its chain.
    """

    address: str
    door: Door
    operation: Operation | None = None
    profile: str = ""
    polls: bool = False
    certificates: tuple[bytes, ...] = field(default=(), repr=False)


@frozen
class Waiting:
    """The answer is not ready: ask again under `reference` (1 to 2^32 - 1) after so many `seconds`."""

    reference: int
    seconds: int


class NotAMessage(bytes):
    """The DER of a CMP error, for octets that are no PKIMessage at all; HTTP has a status for that."""


Answer = bytes | Waiting | None
"""DER of a PKIMessage; or not ready; or None: there is no CMP answer (a transport says finRep)."""


class UnknownReference(Exception):
    """No request waits under this polling reference, or its answer is forgotten."""


class Responds(Protocol):
    """What answers requests (responder.py).

    Called in a task of its own. It may be called again before it has answered, for the same peer too; the transport
    puts the answers in the order of the requests. What it raises is logged and answered as a fault of the server. It
    runs to its end when the peer goes away, and is cancelled only when a drain has lasted too long.
    """

    async def respond(self, octets: bytes, origin: Origin) -> Answer:
        """The answer to the DER of a PKIMessage. Waiting only if `origin.polls`."""

    async def poll(self, reference: int, origin: Origin) -> Answer:
        """The answer to the request that waits under this reference; UnknownReference if there is none."""


def check_door(envelope: Envelope, origin: Origin) -> None:
    """BadRequest unless the door, and the operation that the path named, take this body."""
    body, door, operation = envelope.body_name, origin.door, origin.operation
    if body in CONTINUING:
        return
    if door.bodies is not None and body not in door.bodies:
        raise BadRequest(f"body: want {_listed(door.bodies)} at this endpoint, have {body}")
    if operation is None:
        return
    if body not in operation.bodies:
        raise BadRequest(
            f"body: want {_listed(operation.bodies)} at .../{operation.label}, have {body} (RFC 9483 section 6.1)"
        )
    if operation.info_types and not _asks_only(envelope.body, operation.info_types):
        raise BadRequest(f"genm: want the infoType of .../{operation.label}, have another (RFC 9483 section 6.1)")


def _listed(bodies: frozenset[str]) -> str:
    return " or ".join(sorted(bodies))


def _asks_only(body: bytes, info_types: frozenset[bytes]) -> bool:
    try:
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "genm")
        items = der.children(body, start, stop, 64)
        types = [der.expect(body, inner, after, der.OID, "infoType") for _, _, inner, after in items]
    except DerError:
        return True  # the handler says what is wrong
    return bool(types) and all(body[inner:after] in info_types for inner, after in types)
