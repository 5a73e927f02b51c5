"""Requests taken apart, spoilt in one place and protected again; answers held against the rules for every answer.

A Draft keeps the octets of each field of PKIHeader and of the body, so a test can put any octets in the place of one of
them. `seal` computes a correct protection over the result: what is refused then is refused for the fault alone. The
answers' protection is verified here by code of its own, not by the code under test.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.messages import Template, cert_request, general_info, protect
from cmpd.store.memory import MemoryStore
from tests.world import Seen, World, rev_details

TAGS = {
    0xA0: "messageTime",
    0xA1: "protectionAlg",
    0xA2: "senderKID",
    0xA3: "recipKID",
    0xA4: "transactionID",
    0xA5: "senderNonce",
    0xA6: "recipNonce",
    0xA7: "freeText",
    0xA8: "generalInfo",
}
NUMBERS = {name: tag & 0x1F for tag, name in TAGS.items()}
ORDER = ("pvno", "sender", "recipient", *TAGS.values())

NULL_DN = bytes.fromhex("a4023000")
PBM = der.encode_oid("1.2.840.113533.7.66.13")
IMPLICIT_CONFIRM = der.encode_oid("1.3.6.1.5.5.7.4.13")
CONFIRM_WAIT_TIME = der.encode_oid("1.3.6.1.5.5.7.4.14")
CERT_PROFILE = der.encode_oid("1.3.6.1.5.5.7.4.21")


def children(data: bytes) -> list[bytes]:
    """The values inside one value, each with its header."""
    start, stop = der.header(data, 0, len(data))[1:]
    return [data[pos:after] for _, pos, _, after in der.children(data, start, stop, 100_000)]


def contents(data: bytes) -> bytes:
    start, stop = der.header(data, 0, len(data))[1:]
    return data[start:stop]


def long_form(value: bytes) -> bytes:
    """The same value with its length in one octet more than needed."""
    size = len(contents(value))
    octets = size.to_bytes(max(1, (size.bit_length() + 7) // 8), "big")
    if size >= 0x80:
        octets = b"\0" + octets
    return value[:1] + bytes((0x80 | len(octets),)) + octets + contents(value)


def indefinite(value: bytes) -> bytes:
    """The same value with BER's indefinite length."""
    return value[:1] + b"\x80" + contents(value) + b"\0\0"


@dataclass(frozen=True)
class Draft:
    """A PKIMessage before it is protected. `fields`: (name, octets) in the order in which they are sent."""

    fields: tuple[tuple[str, bytes], ...]
    body: bytes

    @classmethod
    def of(cls, octets: bytes) -> "Draft":
        header, body, *_ = children(octets)
        parts = children(header)
        names = [*ORDER[:3], *(TAGS[part[0]] for part in parts[3:])]
        return cls(tuple(zip(names, parts, strict=True)), body)

    def __getitem__(self, name: str) -> bytes:
        return dict(self.fields)[name]

    def put(self, name: str, octets: bytes) -> "Draft":
        """These octets in the place of a field, or where it belongs if it was not there."""
        kept = [(other, value) for other, value in self.fields if other != name]
        return replace(self, fields=tuple(sorted([*kept, (name, octets)], key=lambda field: ORDER.index(field[0]))))

    def set(self, name: str, value: bytes) -> "Draft":
        """This value inside the field's explicit tag."""
        return self.put(name, der.explicit(NUMBERS[name], value))

    def drop(self, name: str) -> "Draft":
        return replace(self, fields=tuple(field for field in self.fields if field[0] != name))

    def double(self, name: str) -> "Draft":
        i = [field[0] for field in self.fields].index(name)
        return replace(self, fields=(*self.fields[: i + 1], *self.fields[i:]))

    def last(self, name: str) -> "Draft":
        """The field moved to the end of the header."""
        return replace(self, fields=(*self.drop(name).fields, (name, self[name])))

    def info(self, *items: bytes) -> "Draft":
        return self.set("generalInfo", der.seq(*items))

    def content(self, content: bytes) -> "Draft":
        """Another value inside the body's tag."""
        return replace(self, body=der.tlv(self.body[0], content))

    @property
    def part(self) -> bytes:
        return der.seq(*(octets for _, octets in self.fields)) + self.body

    def seal(self, protector: Any) -> bytes:
        """The message with a correct protection over whatever it says."""
        return assemble(self.part, protector.compute(der.seq(self.part)), protector.extra_certs)


def assemble(part: bytes, protection: bytes | None, extra_certs: Sequence[bytes] = ()) -> bytes:
    tail = b"" if protection is None else der.explicit(0, der.encode_bits(protection))
    if extra_certs:
        tail += der.explicit(1, der.seq(*extra_certs))
    return der.seq(part, tail)


Spoil = Callable[[Draft], Draft]

BODIES = {"mac": "ir", "signature": "cr"}
ANSWERS = {"ir": "ip", "cr": "cp", "p10cr": "cp", "kur": "kup", "rr": "rp", "genm": "genp"}

KINDS = ("mac", "signature", "rr by mac", "rr by signature")
"""Requests that are right until they are spoilt: for a certificate, and for the revocation of one."""


async def client(world: World, kind: str) -> Credential:
    """Somebody who may ask: with a shared secret ("mac") or a certificate of this CA ("signature")."""
    secret = await world.add_secret()
    return secret if kind == "mac" else await world.holder(secret)


def request(world: World, credential: Credential, body: str = "", **options: Any) -> tuple[Draft, Any]:
    """A correct request and what protects it."""
    body = body or BODIES["mac" if isinstance(credential, SharedSecret) else "signature"]
    template = Template(ec.generate_private_key(ec.SECP256R1()), encode_name("/CN=device"))
    made = cert_request(body, [template], credential, world.env, **options)
    return Draft.of(made.der), made.protector


async def asking(world: World, kind: str, **options: Any) -> tuple[Credential, Draft, Any]:
    """Somebody who may ask, a correct request of one of KINDS, and what protects it."""
    if kind in BODIES:
        credential = await client(world, kind)
        return credential, *request(world, credential, **options)
    secret = await world.add_secret(may_revoke=True)
    holder = await world.holder(secret)
    credential = secret if kind == "rr by mac" else holder
    content = der.seq(rev_details(holder.certificate, 1))
    made = protect("rr", content, credential.protector(world.env), world.env, info=general_info(implicit_confirm=True))
    return credential, Draft.of(made.der), made.protector


def body_of(kind: str) -> str:
    """The body of a request of this kind."""
    return BODIES.get(kind, "rr")


def protection_of(kind: str) -> str:
    """ "mac" or "signature": how a request of this kind is protected."""
    return kind.removeprefix("rr by ")


async def answer(world: World, octets: bytes) -> Seen:
    seen = await world.send(octets)
    assert seen is not None
    return seen


# --- what holds for every answer -------------------------------------------------------------------------------------


def pbm(algorithm: bytes, secret: bytes, octets: bytes) -> bytes:
    """RFC 9810 section 5.1.3.1 for SHA-256 and HMAC-SHA256, straight from the text."""
    oid, parameter = children(algorithm)
    assert oid == PBM
    salt, _, count, _ = children(parameter)
    key = secret + contents(salt)
    for _ in range(int.from_bytes(contents(count), "big")):
        key = hashlib.sha256(key).digest()
    return hmac.digest(key, octets, "sha256")


def protected_by(world: World, seen: Seen, credential: Credential | None = None) -> str:
    """ "mac" or "signature": how an answer is protected; the protection must be right."""
    header, message = seen.envelope.header, seen.envelope
    assert header.protection_alg is not None
    assert message.protection is not None
    if header.protection_alg == world.signer.algorithm:
        assert message.extra_certs[0] == world.cmp
        key = x509.load_der_x509_certificate(world.cmp).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(message.protection, message.protected, ec.ECDSA(hashes.SHA256()))
        return "signature"
    assert isinstance(credential, SharedSecret)
    assert message.protection == pbm(header.protection_alg, credential.secret, message.protected)
    assert world.cmp not in message.extra_certs
    return "mac"


def check_header(draft: Draft, seen: Seen) -> None:
    """Every answer goes to the sender, in its transaction, with a fresh nonce (RFC 9483 sections 3.1 and 5.1)."""
    header = seen.envelope.header
    assert header.recipient == draft["sender"]
    assert header.sender_nonce is not None
    assert len(header.sender_nonce) == 16
    names = [name for name, _ in draft.fields]
    if "transactionID" in names:
        assert der.encode_octets(header.transaction_id or b"?") == contents(draft["transactionID"])
    if "senderNonce" in names:
        assert der.encode_octets(header.recip_nonce or b"?") == contents(draft["senderNonce"])


def is_protected(octets: bytes, secrets: Sequence[bytes], certificates: Sequence[bytes]) -> bool:
    """Whether the protection of a request is right for one of these secrets (PBM) or certificates (DER, P-256)."""
    header, body, protection, *_ = children(octets)
    (algorithm,) = (children(field)[0] for field in children(header) if field[0] == 0xA1)
    part, value = der.seq(header, body), contents(children(protection)[0])[1:]
    if children(algorithm)[0] == PBM:
        return any(pbm(algorithm, secret, part) == value for secret in secrets)
    for certificate in certificates:
        key = x509.load_der_x509_certificate(certificate).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        with suppress(InvalidSignature):
            key.verify(value, part, ec.ECDSA(hashes.SHA256()))
            return True
    return False


@dataclass(frozen=True)
class Held:
    """All that a request could change but transactions and answers: equal if and only if nothing was changed."""

    certificates: dict[bytes, Any]
    changes: list[Any]
    passphrases: dict[bytes, Any]
    entities: dict[int, Any]

    def moved(self, before: "Held") -> set[bytes]:
        """Serial numbers of the certificates that are not as they were."""
        return {serial for serial, record in self.certificates.items() if before.certificates.get(serial) != record}


def held(world: World) -> Held:
    """What the store has now; it never changes what it has given away."""
    assert isinstance(world.store, MemoryStore)
    tables = world.store._tables
    return Held(tables.certificates, tables.status_changes, tables.passphrases, tables.entities)


async def issued(world: World) -> int:
    return len(await world.store.list_certificates(limit=100_000))  # intended ones too


async def refused(
    world: World,
    octets: bytes,
    failure: str,
    *,
    body: str = "error",
    by: str = "",
    credential: Credential | None = None,
    revokes: int = 0,
) -> Seen:
    """Send; it must be refused with this failInfo alone in this body, and nothing may be issued or changed.

    `revokes`: how many certificates a wrong certConf revokes (RFC 9483 section 3.6.4).
    """
    before = held(world)
    seen = await answer(world, octets)
    status, text, failures = seen.status()
    assert (seen.body, status, failures) == (body, 2, {failure}), text
    assert text
    assert "\n" not in text
    how = protected_by(world, seen, credential)
    if by:
        assert how == by, text
    after = held(world)
    if revokes:
        assert [after.certificates[serial].state for serial in after.moved(before)] == ["revoked"] * revokes
    else:
        assert after == before
    check_store(world)
    return seen


def check_store(world: World) -> None:
    """What holds between any two requests: nothing is half done, and nothing is there that nobody was given."""
    assert isinstance(world.store, MemoryStore)
    tables = world.store._tables
    assert all(transaction.state != "processing" for transaction in tables.transactions.values())
    assert all(record.der and record.state != "intended" for record in tables.certificates.values())
    assert all(entity.uses_left is None or entity.uses_left >= 0 for entity in tables.entities.values())
    last = {change.serial: change for change in tables.status_changes}
    for serial, change in last.items():
        assert tables.certificates[serial].state == change.state
    for serial, record in tables.certificates.items():
        assert record.state not in ("revoked", "suspended") or serial in last
        assert (record.revoked_at is None) is (record.state not in ("revoked", "suspended"))
    waiting = {t.id for t in tables.transactions.values() if t.state in ("confirming", "proving")}
    unconfirmed = {r.transaction_id for r in tables.certificates.values() if r.state == "issued"}
    revoked = {tables.certificates[change.serial].transaction_id for change in last.values() if "(rr, " in change.by}
    assert unconfirmed <= waiting <= unconfirmed | revoked


__all__ = ["KeyAndCertificate", "SharedSecret"]
