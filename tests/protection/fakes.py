"""Messages, keys and credentials for the tests of protection."""

import datetime
import hashlib
from dataclasses import dataclass, field
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import strategies as st

from cmpd.asn1 import der, names
from cmpd.errors import SignerNotTrusted
from cmpd.message import BODY_TYPES, Envelope, Header
from cmpd.private_keys import KEY_TYPES
from cmpd.protection.base import Protector, SecretCredential, SenderCredential
from cmpd.records import CertificateState, Entity, EntityKind, RevocationPassphrase

SECRET = b"interop"
CA_SENDER = der.explicit(4, names.encode_name("CN=test CA CMP"))


@cache
def private_key(kind: str):
    makers = {
        "p192": lambda: ec.generate_private_key(ec.SECP192R1()),
        "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
        "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    }
    return (makers | KEY_TYPES)[kind]()


@cache
def certificate(subject: str = "CN=device,C=DE", kind: str = "p256", *, ski: bool = True, serial: int = 1) -> bytes:
    """A self-signed certificate; what it lacks to be trusted is the business of FakeCredentials."""
    key = private_key(kind)
    name = x509.Name.from_rfc4514_string(subject)
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key(), serial_number=serial)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if ski:
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    digest = None if kind.startswith(("ed", "mldsa")) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def sender_credential(octets: bytes, *, may_sign: bool = True, serial: bytes | None = b"\x01") -> SenderCredential:
    """What a Credentials says of a certificate it trusts, read by an independent decoder."""
    loaded = x509.load_der_x509_certificate(octets)
    try:
        identifier = loaded.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        identifier = None
    return SenderCredential(
        certificate=octets,
        fingerprint=hashlib.sha256(octets).hexdigest(),
        key=loaded.public_key(),
        subject=loaded.subject.public_bytes(),
        key_identifier=identifier,
        may_sign=may_sign,
        entity=Entity(7, "holder", EntityKind.CERTIFICATE),
        serial=serial,
    )


@dataclass
class FakeCredentials:
    """Keeps the contract of Credentials; remembers what it was asked for."""

    secrets: dict[bytes, bytes] = field(default_factory=dict)
    passphrases: dict[bytes, bytes] = field(default_factory=dict)
    senders: dict[bytes, SenderCredential] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)

    @classmethod
    def trusting(cls, *certificates: bytes, **options) -> "FakeCredentials":
        return cls(senders={octets: sender_credential(octets, **options) for octets in certificates})

    async def secret(self, reference: bytes) -> SecretCredential | None:
        self.asked.append(reference)
        if reference not in self.secrets:
            return None
        return SecretCredential(Entity(1, reference.decode(), EntityKind.SECRET), self.secrets[reference])

    async def passphrase(self, key_id: bytes) -> SecretCredential | None:
        self.asked.append(key_id)
        if key_id not in self.passphrases:
            return None
        held = RevocationPassphrase(key_id, 5, None, b"", 0)
        return SecretCredential(Entity(5, "holder", EntityKind.SECRET), self.passphrases[key_id], held)

    async def sender(
        self, certificate: bytes, others: tuple[bytes, ...], *, any_status: bool = False
    ) -> SenderCredential:
        self.asked.append(certificate)
        found = self.senders.get(certificate)
        if found is None or not (any_status or found.state in (None, CertificateState.CONFIRMED)):
            raise SignerNotTrusted("protection certificate: no path to a trust anchor")
        return found

    async def registered(self, sender: bytes, key_identifier: bytes | None) -> tuple[bytes, ...]:
        return tuple(
            octets
            for octets, found in self.senders.items()
            if found.subject == sender and key_identifier in (None, found.key_identifier)
        )


async def _ca_signature(octets: bytes) -> bytes:
    return b"signed by the CA: " + octets


SIGNER = Protector(b"\x30\x00", CA_SENDER, b"kid", (b"chain",), _ca_signature)


def envelope(
    algorithm: bytes | None,
    protection: bytes | None,
    *,
    sender: str | bytes = "CN=device,C=DE",
    sender_kid: bytes | None = None,
    extra_certs: tuple[bytes, ...] = (),
    protected: bytes = b"the protected part",
    body: str = "ir",
) -> Envelope:
    """An Envelope as message.decode would make it, of what verify looks at."""
    general_name = sender if isinstance(sender, bytes) else der.explicit(4, names.encode_name(sender))
    header = Header(2, general_name, CA_SENDER, protection_alg=algorithm, sender_kid=sender_kid)
    return Envelope(b"", header, BODY_TYPES[body], b"", protected, protection, extra_certs)


def spoilt(seed: bytes, data: st.DataObject) -> bytes:
    """The octets with one to four of them changed, added or left out, or with their end cut off."""
    octets = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(octets) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert", "delete"])):
            case "set":
                octets[position] = data.draw(st.integers(0, 255))
            case "cut" if position:
                del octets[position:]
            case "insert":
                octets.insert(position, data.draw(st.integers(0, 255)))
            case "delete" if len(octets) > 1:
                del octets[position]
    return bytes(octets)
