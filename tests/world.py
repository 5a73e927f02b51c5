"""A CA, its store and its responder in memory, with a clock that the test moves; answers are read by another codec.

Requests are made with cmpd.client (itself held against an independent codec in tests/client). `World.ask` sends octets
and gives back the answer decoded by pyasn1-alt-modules, with its protection verified.
"""

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc9810

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.bootstrap import agreement_certificate, cmp_certificate, kem_certificate, root_certificate
from cmpd.ca import CertificateAuthority
from cmpd.changes import DecideWaiting, SetRevocationPassphrase
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.errors import CmpClientError
from cmpd.client.messages import Request, Template, cert_request, extension, protect
from cmpd.client.responses import Answer, Trust, verify
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.config_status import RevocationConfig
from cmpd.credentials import CredentialDirectory
from cmpd.daemon import make_signer, reserved_names
from cmpd.env import Env
from cmpd.handlers.base import Service
from cmpd.message import Envelope, decode
from cmpd.origin import Answer as Reply
from cmpd.origin import Door, Origin
from cmpd.profiles import Profile
from cmpd.protection.base import ProtectionPolicy
from cmpd.records import (
    CertificateRecord,
    CertificateState,
    Decision,
    Entity,
    EntityKind,
    RevocationPassphrase,
    WaitingRequest,
)
from cmpd.replies import FAIL_INFO_BITS
from cmpd.responder import Responder, Settings
from cmpd.signing.agreement import StaticAgreementKey
from cmpd.signing.file import FileKey
from cmpd.signing.kem import MlKemKey
from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from tests.chains import NOW

HERE = Origin("test", Door("tcp"))
"""A door that allows everything and has no polling of its own."""


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now: float = NOW

    def __call__(self) -> float:
        return self.now


class OpenSealer:
    """Keeps secrets as they are: sealing has tests of its own."""

    def open(self, sealed: bytes, reference: str) -> bytes:
        return sealed

    def seal(self, secret: bytes, reference: str) -> bytes:
        return secret


@dataclass
class Seen:
    """An answer: our decoding and the independent one."""

    envelope: Envelope
    independent: Any

    @property
    def body(self) -> str:
        return str(self.independent["body"].getName())

    @property
    def content(self) -> Any:
        return self.independent["body"].getComponent()

    def status(self, index: int = 0) -> tuple[int, str, frozenset[str]]:
        """(status, text, names of failInfo) of an error, or of what is at `index` in an ip, cp, kup or rp."""
        if self.body == "error":
            info = self.content["pKIStatusInfo"]
        else:
            info = self.content["status"][index] if self.body == "rp" else self.content["response"][index]["status"]
        text = str(info["statusString"][0]) if info["statusString"].isValue else ""
        bits = tuple(info["failInfo"]) if info["failInfo"].isValue else []
        pairs = [(name, bit) for name, bit in FAIL_INFO_BITS.items() if bit < len(bits) and bits[bit]]
        return int(info["status"]), text, frozenset(name for name, _ in pairs)

    def outcomes(self) -> list[str]:
        """What an rp says of each RevDetails: "accepted", or the name of its failInfo."""
        found = [self.status(index) for index in range(len(self.content["status"]))]
        assert all((status == 2) == bool(failures) for status, _, failures in found)
        return ["+".join(failures) or "accepted" for _, _, failures in found]

    def rev_certs(self) -> list[tuple[bytes, int]]:
        """(issuer as DER of a Name, serialNumber) of each CertId of an rp, [] without revCerts."""
        if not self.content["revCerts"].isValue:
            return []
        items = self.content["revCerts"]
        return [
            (encode_der(item["issuer"]["directoryName"]["rdnSequence"]), int(item["serialNumber"])) for item in items
        ]

    def certificate(self, index: int = 0) -> Certificate:
        pair = self.content["response"][index]["certifiedKeyPair"]
        octets = encode_der(pair["certOrEncCert"]["certificate"])  # with its explicit tag [0]
        return Certificate.load(octets[der.header(octets, 0, len(octets))[1] :])


@dataclass
class World:
    """Everything a request meets, made anew for each test."""

    enrolment: EnrolmentConfig = field(default_factory=EnrolmentConfig)
    profiles: dict[str, ProfileConfig] = field(default_factory=lambda: {"default": ProfileConfig()})
    policy: ProtectionPolicy = field(default_factory=ProtectionPolicy)
    store: Store = field(default_factory=MemoryStore)
    clock: Clock = field(default_factory=Clock)
    window: int | None = 300
    revocation: RevocationConfig = field(default_factory=RevocationConfig)
    origin: Origin = HERE
    polled_for: dict[bytes, Request] = field(default_factory=dict)  # pollReq, popdecr -> what they are about
    ca_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    cmp_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    agreement_key: Any = None  # the server's static Diffie-Hellman key: EC, X25519 or X448; its certificate is made
    kem_key: Any = None  # the server's KEM key: ML-KEM; its certificate is made
    kem_only: bool = False  # whether answers that would be signed are protected by the KEM key instead
    signature: str | None = None  # what both sign with, one of asn1.signing.SIGNING; None: the usual one
    sealer: Any = field(default_factory=OpenSealer)  # None: the server keeps nothing that has to be sealed
    published: int = 0  # how often those who publish were told of a change

    def __post_init__(self) -> None:
        self.env = Env(now=self.clock, random=os.urandom)
        self.root = root_certificate(self.ca_key, encode_name("/O=Test/CN=Test CA"), self.env)
        self.ca = CertificateAuthority(self.root, (), FileKey(self.ca_key, signature=self.signature), self.env)
        self.cmp = cmp_certificate(self.cmp_key, self.ca_key, self.root, self.env)
        self.signer = make_signer(FileKey(self.cmp_key, signature=self.signature), self.cmp, self.ca)
        self.agreement: StaticAgreementKey | None = None
        if self.agreement_key is not None:
            made = agreement_certificate(self.agreement_key, self.ca_key, self.root, self.env)
            self.agreement = StaticAgreementKey(self.agreement_key, made)
        self.kem: MlKemKey | None = None
        if self.kem_key is not None:
            self.kem = MlKemKey(self.kem_key, kem_certificate(self.kem_key, self.ca_key, self.root, self.env))
        self.trust = Trust((Certificate.load(self.root),))
        self.restart()

    def restart(self) -> None:
        """New objects over the same store: what a restarted server knows."""
        profiles = {name: Profile(name, rules) for name, rules in self.profiles.items()}
        more = [key.certificate for key in (self.agreement, self.kem) if key is not None]
        names = reserved_names((self.root, self.cmp, *more))
        self.service = Service(
            self.env,
            self.store,
            self.ca,
            profiles,
            self.enrolment,
            names,
            self.revocation,
            self._publish,
            sealer=self.sealer,
            protection=self.policy,
            agreement=self.agreement,
            kem=self.kem,
            kem_only=self.kem_only,
        )
        self.credentials = CredentialDirectory(self.store, self.sealer or OpenSealer(), (self.root,), self.env)
        settings = Settings(self.window, asyncio.Event)
        self.responder = Responder(self.service, self.credentials, self.signer, settings)

    def _publish(self) -> None:
        self.published += 1

    async def add_secret(self, reference: str = "device", secret: bytes = b"secret", **fields: Any) -> SharedSecret:
        if isinstance(fields.get("subject"), str):
            fields["subject"] = encode_name(fields["subject"])
        fields.setdefault("uses_left", None)
        await self.store.add_entity(Entity(0, reference, EntityKind.SECRET, sealed_secret=secret, **fields))
        return SharedSecret(reference, secret, iterations=500)

    async def add_certificate(self, reference: str, certificate: bytes, **fields: Any) -> None:
        if isinstance(fields.get("subject"), str):
            fields["subject"] = encode_name(fields["subject"])
        fields.setdefault("uses_left", None)
        await self.store.add_entity(Entity(0, reference, EntityKind.CERTIFICATE, certificate=certificate, **fields))

    async def add_passphrase(
        self, entity_id: int, key_id: str = "key id", passphrase: bytes = b"remember me", subject: str | None = None
    ) -> SharedSecret:
        name = None if subject is None else encode_name(subject)
        kept = RevocationPassphrase(key_id.encode(), entity_id, name, passphrase, NOW)
        await self.store.write([SetRevocationPassphrase(kept, 10)])
        return SharedSecret(key_id, passphrase, iterations=500)

    async def respond(self, octets: bytes, origin: Origin | None = None) -> Reply:
        """What the responder says to these octets, by default through the world's own door."""
        return await self.responder.respond(octets, origin or self.origin)

    async def poll(self, reference: int, origin: Origin | None = None) -> Reply:
        """What the responder says to a polling reference."""
        return await self.responder.poll(reference, origin or self.origin)

    async def send(self, octets: bytes, origin: Origin | None = None) -> Seen | None:
        """The answer to these octets; it must be a PKIMessage for both decoders."""
        answer = await self.respond(octets, origin)
        assert answer is None or isinstance(answer, bytes)
        return None if answer is None else self.read(answer)

    def read(self, answer: bytes) -> Seen:
        """A PKIMessage as both decoders see it."""
        independent, rest = decode_der(answer, asn1Spec=rfc9810.PKIMessage())
        assert not rest
        return Seen(decode(answer), independent)

    async def ask(self, request: Request, credential: Credential, origin: Origin | None = None) -> Seen:
        """Send a request; its answer's protection must verify for whoever holds the credential, errors included."""
        seen = await self.send(request.der, origin)
        assert seen is not None
        try:
            verify(
                seen.envelope.der,
                request,
                credential,
                self.trust,
                self.env,
                original=self.polled_for.get(request.der),
            )
        except CmpClientError:
            assert seen.body == "error"
            assert seen.envelope.protection is not None
        return seen

    async def ir(
        self,
        credential: Credential,
        subject: str = "/CN=device",
        *,
        body: str = "ir",
        implicit: bool = True,
        **wish: Any,
    ) -> tuple[Request, Seen, ec.EllipticCurvePrivateKey]:
        """Ask for a certificate for a new P-256 key."""
        key = ec.generate_private_key(ec.SECP256R1())
        profile = wish.pop("profile", None)
        template = Template(key, encode_name(subject), **wish)
        request = cert_request(body, [template], credential, self.env, implicit_confirm=implicit, profile=profile)
        return request, await self.ask(request, credential), key

    async def holder(self, credential: Credential, subject: str = "/CN=device", **wish: Any) -> KeyAndCertificate:
        """Somebody with a certificate of this CA."""
        _, seen, key = await self.ir(credential, subject, **wish)
        return KeyAndCertificate(key, seen.certificate(), (Certificate.load(self.root),))

    async def waiting(self) -> list[WaitingRequest]:
        """The requests that wait for an operator."""
        return await self.store.list_waiting()

    async def approve(self, reference: int) -> None:
        """What the operator's command does, in a process of its own."""
        await self._decide(reference, Decision.APPROVED, "")

    async def reject(self, reference: int, text: str = "") -> None:
        """The same."""
        await self._decide(reference, Decision.REJECTED, text)

    async def _decide(self, reference: int, decision: Decision, text: str) -> None:
        found = await self.store.find_waiting(reference)
        assert found is not None
        change = DecideWaiting(found.transaction_id, decision, int(self.clock.now), "operator", text)
        await self.store.write([change])

    async def rr(self, credential: Credential, *details: bytes) -> Seen:
        """Ask for revocation; `details`: what rev_details gives."""
        return await self.ask(self.rev_request(credential, *details), credential)

    def rev_request(self, credential: Credential, *details: bytes) -> Request:
        return protect("rr", der.seq(*details), credential.protector(self.env), self.env)

    async def record(self, holder: KeyAndCertificate) -> CertificateRecord:
        found = await self.store.find_certificate(serial_octets(holder.certificate.serial))
        assert found is not None
        return found

    async def states(self) -> list[CertificateState]:
        """Those of all certificates, sorted."""
        return sorted(record.state for record in await self.store.list_certificates())

    def follow(self, request: Request, answer: Seen, body: str, content: bytes, **fields: Any) -> Request:
        """The next message of a transaction."""
        fields.setdefault("recip_nonce", answer.envelope.header.sender_nonce)
        made = protect(body, content, request.protector, self.env, transaction_id=request.transaction_id, **fields)
        if body in ("pollReq", "popdecr"):
            self.polled_for[made.der] = request
        return made


def serial_octets(serial: int) -> bytes:
    """Contents octets of the INTEGER."""
    return der.encode_integer(serial)[2:]


def reason_code(number: int) -> bytes:
    """The Extension reasonCode."""
    return extension("2.5.29.21", der.tlv(der.ENUMERATED, bytes((number,))))


def rev_details(certificate: Certificate, reason: int | None = None, *entry: bytes, template: bytes = b"") -> bytes:
    """A RevDetails that names a certificate. `entry`: more Extensions; `template`: more fields, those after issuer."""
    named = der.tlv(0x81, serial_octets(certificate.serial)) + der.explicit(3, certificate.issuer)
    return raw_details(named + template, *([] if reason is None else [reason_code(reason)]), *entry)


def raw_details(template: bytes, *entry: bytes) -> bytes:
    """A RevDetails with these fields of certDetails and these Extensions of crlEntryDetails."""
    return der.seq(der.seq(template), der.seq(*entry) if entry else b"")


__all__ = ["NOW", "Answer", "Clock", "Seen", "World"]
