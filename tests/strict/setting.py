"""One right message of each body, at a strict door: every row of the tables spoils it in one place.

A `Case` has all that a row needs to spoil it, and is protected only when it is sent: so the protection is right
whatever the message says, and what is refused is refused for the fault of the row alone.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc9810

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.messages import (
    Request,
    Template,
    cert_request,
    cert_status,
    certification_request,
    error_content,
    protect,
)
from cmpd.config import ProfileConfig
from cmpd.origin import Door, Origin
from tests.hostile.craft import Draft, assemble
from tests.hostile.pieces import Ask
from tests.pops import decrypt_independently, key_usage
from tests.strict.judge import Verdict, judge
from tests.world import World, rev_details

STRICT = Origin("test", Door("tcp", strict=True))
LENIENT = Origin("test", Door("tcp"))

KEY = ec.generate_private_key(ec.SECP256R1())
"""The key that certificates are asked for: one for all rows, which costs less."""

SECRET = b"secret"


@dataclass(frozen=True)
class Case:
    """A message that is right until a row spoils it. `certificate`: the one that it is about, or that signs it.

    `number`: the certReqId that its answer will have. `other`: what else the message was made of.
    """

    world: World
    name: str
    draft: Draft
    protector: Any
    kind: str
    certificate: Certificate | None = None
    protection: bytes | None = None
    extra_certs: tuple[bytes, ...] | None = None
    sealed: bool = True
    number: int = 0
    other: Any = None

    @property
    def body(self) -> str:
        return self.name.partition(" ")[0]

    def put(self, name: str, value: bytes) -> "Case":
        """This value inside the explicit tag of a header field."""
        return replace(self, draft=self.draft.set(name, value))

    def raw(self, name: str, octets: bytes) -> "Case":
        return replace(self, draft=self.draft.put(name, octets))

    def drop(self, name: str) -> "Case":
        return replace(self, draft=self.draft.drop(name))

    def info(self, *items: bytes) -> "Case":
        return replace(self, draft=self.draft.info(*items))

    def content(self, content: bytes) -> "Case":
        return replace(self, draft=self.draft.content(content))

    def tagged(self, number: int, content: bytes) -> "Case":
        """Another body."""
        return replace(self, draft=replace(self.draft, body=der.explicit(number, content)))

    def by(self, protector: Any) -> "Case":
        """Protected by another credential, whose names are in the header."""
        case = replace(self, protector=protector).raw("sender", protector.sender)
        case = case.put("protectionAlg", protector.algorithm)
        kid = protector.sender_kid
        return case.drop("senderKID") if kid is None else case.put("senderKID", der.encode_octets(kid))

    @property
    def octets(self) -> bytes:
        part = self.draft.part
        if not self.sealed:
            return der.seq(part)
        certificates = self.protector.extra_certs if self.extra_certs is None else self.extra_certs
        value = self.protector.compute(der.seq(part)) if self.protection is None else self.protection
        return assemble(part, value, certificates)

    async def send(self, origin: Origin = STRICT) -> Verdict | None:
        answer = await self.world.respond(self.octets, origin)
        assert answer is None or isinstance(answer, bytes)
        return None if answer is None else judge(answer, SECRET, self.world.cmp)


Spoil = Callable[[Case], Case]


async def _credential(world: World, kind: str) -> Any:
    secret = await world.add_secret("device", SECRET, may_revoke=True)
    return secret if kind == "mac" else await world.holder(secret)


Maker = Callable[[World, str], Awaitable[Case]]


def _case(world: World, kind: str, made: Request, certificate: Certificate | None, other: Any) -> Case:
    return Case(world, f"{made.body} {kind}", Draft.of(made.der), made.protector, kind, certificate, other=other)


def _first(body: str) -> Maker:
    """A message that begins a transaction."""

    async def make(world: World, kind: str) -> Case:
        credential = await _credential(world, kind)
        certificate = None if kind == "mac" else credential.certificate
        made = protect(body, _content(body, certificate), credential.protector(world.env), world.env)
        return _case(world, kind, made, certificate, credential)

    return make


def _later(body: str) -> Maker:
    """A message that continues the enrolment of a certificate."""

    async def make(world: World, kind: str) -> Case:
        credential = await _credential(world, kind)
        if body == "pollReq":
            world.profiles["default"] = ProfileConfig(approval=True)
            world.restart()
        first = "ir" if kind == "mac" else "cr"
        made = protect(first, _content(first, None), credential.protector(world.env), world.env)
        seen = await world.send(made.der, STRICT)
        assert seen is not None
        certificate = None if body == "pollReq" else seen.certificate()
        follow = world.follow(made, seen, body, _content(body, certificate))
        return _case(world, kind, follow, certificate, (credential, made, seen))

    return make


async def _popdecr(world: World, kind: str) -> Case:
    """The answer to the challenge of an ir for a certificate that agrees on keys."""
    credential = await _credential(world, kind)
    template = Template(KEY, encode_name("/CN=device"), (key_usage("keyAgreement"),), proof="challengeResp")
    made = cert_request("ir", [template], credential, world.env)
    seen = await world.send(made.der, STRICT)
    assert seen is not None
    tagged = encode_der(seen.content[0]["encryptedRand"])  # explicit
    octets, _ = decrypt_independently(tagged[der.header(tagged, 0, len(tagged))[1] :], KEY)
    integer = int(decode_der(octets, asn1Spec=rfc9810.Rand())[0]["int"])
    follow = world.follow(made, seen, "popdecr", der.seq(der.encode_integer(integer)), pvno=3)
    return _case(world, kind, follow, None, (credential, made, seen))


def _content(body: str, certificate: Certificate | None) -> bytes:
    """What is right in a body; `certificate`: the one that it is about."""
    if body == "p10cr":
        return certification_request(Template(KEY, encode_name("/CN=device")))
    if body in ("ir", "cr", "kur"):
        return der.seq(Ask(KEY).message)
    if body == "genm":
        return der.seq(der.seq(der.encode_oid("1.3.6.1.5.5.7.4.6")))
    if body == "pollReq":
        return der.seq(der.seq(der.encode_integer(0)))
    if body == "error":
        return error_content("no")
    if body == "pkiconf":
        return der.NULL_TLV
    assert certificate is not None
    return der.seq(rev_details(certificate, 1) if body == "rr" else cert_status(certificate, 0))


MAKERS: dict[str, Maker] = {
    **{body: _first(body) for body in ("ir", "cr", "p10cr", "kur", "rr", "genm")},
    **{body: _later(body) for body in ("certConf", "pollReq", "error", "pkiconf")},
    "popdecr": _popdecr,
}

FIRST = (
    *("ir mac", "ir signature", "cr mac", "cr signature", "p10cr mac", "p10cr signature", "kur signature"),
    *("rr signature", "genm mac", "genm signature"),
)
LATER = tuple(f"{body} {kind}" for body in ("certConf", "pollReq", "popdecr", "error") for kind in ("mac", "signature"))
ALL = (*FIRST, *LATER)
"""Bodies that a strict door takes, each with what may protect it."""

ANSWERS = {"ir": "ip", "cr": "cp", "p10cr": "cp", "kur": "kup", "rr": "rp", "genm": "genp"}
ANSWERS |= {"certConf": "pkiconf", "pollReq": "pollRep", "error": "pkiconf", "popdecr": "ip"}


async def make(name: str) -> Case:
    """A right message in a world of its own: "BODY mac" or "BODY signature"."""
    body, _, kind = name.partition(" ")
    return await MAKERS[body](World(), kind)


_SHARED: dict[str, Case] = {}


async def borrow(name: str) -> Case:
    """The same, in a world that all rows with this message share: for what changes nothing. It begins a transaction of
    its own if it begins one.
    """
    if name not in _SHARED:
        _SHARED[name] = await make(name)
    case = _SHARED[name]
    if case.body in ANSWERS and name not in LATER:
        case = case.put("transactionID", der.encode_octets(case.world.env.random(16)))
    return case
