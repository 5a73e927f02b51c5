"""The promises of PKIProtection (RFC 9810 section 5.1.3): algorithms, credentials, and what protects an answer.

An algorithm is one row of SCHEMES (protection/schemes.py), by the contents octets of its OID: a MacScheme or a
SignatureScheme (cmpd/signatures.py). Both parse the whole AlgorithmIdentifier first and refuse what is out of bounds
before anything is derived or computed. Credentials say which secret or key belongs to whom; they are looked up by
credentials.py.
"""

from collections.abc import Awaitable, Callable
from dataclasses import field
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.env import Env
from cmpd.errors import CmpError
from cmpd.frozen import frozen
from cmpd.message import Envelope
from cmpd.records import CertificateState, Entity, Requester, RevocationPassphrase

Offload = Callable[[Callable[[], bytes], int], Awaitable[bytes]]
"""Runs a key derivation of so many iterations off the loop; bounds how many wait for that, SystemUnavail beyond it."""


@frozen
class ProtectionPolicy:
    """What is accepted. `min_iterations` (RFC 9045: 100) holds for PBM and PBKDF2, `max_iterations` for PBM alone.

    PBKDF2 counts once for each block of key that it makes. Salts may be empty; `max_salt` is in octets.
    """

    allow_sha1_mac: bool = True
    min_iterations: int = 100
    max_iterations: int = 100_000
    max_pbkdf2_iterations: int = 1_000_000
    max_salt: int = 128
    inline_iterations: int = 2_000  # more than these are derived on a thread, so that the loop goes on


class Mac(Protocol):
    """A MAC algorithm with the parameters of one message."""

    @property
    def algorithm(self) -> bytes:
        """DER of the AlgorithmIdentifier."""

    @property
    def iterations(self) -> int:
        """What deriving the key costs, in hash or PRF iterations; 0 when the secret is the key."""

    @property
    def uses_sha1(self) -> bool:
        """Whether SHA-1 is used anywhere in it."""

    def derive(self, secret: bytes) -> bytes:
        """The MAC key for this secret."""

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """The MAC over `octets`."""

    def answering(self, random: Callable[[int], bytes]) -> "Mac":
        """What an answer is protected with: this, unless its parameters are good for one message (AES-GMAC's nonce).

        The key stays the same. `random`: as Env.random.
        """


class MacScheme(Protocol):
    """A family of MAC algorithms, one OID."""

    def parse(self, algorithm: bytes, policy: ProtectionPolicy) -> Mac:
        """Read an AlgorithmIdentifier; BadAlg or BadDataFormat if it cannot or may not be used."""


@frozen
class SecretCredential:
    """A registered shared secret, or a revocation passphrase of the entity, which is good for rr alone."""

    entity: Entity
    secret: bytes = field(repr=False)
    passphrase: RevocationPassphrase | None = None


@frozen
class SenderCredential:
    """A protection certificate with a valid path to a trust anchor at the time it was asked for, and its entity.

    `subject`: DER of the Name. `key_identifier`: value of SubjectKeyIdentifier, None if the extension is absent.
    `may_sign`: keyUsage is absent or has digitalSignature, `may_agree`: keyAgreement, `may_encipher`: keyEncipherment.
    `serial`: contents octets if this CA issued it, else None; `profile`: the one it was issued under then.
    """

    certificate: bytes = field(repr=False)
    fingerprint: str  # SHA-256 in hex
    key: PublicKeyTypes
    subject: bytes
    key_identifier: bytes | None
    may_sign: bool
    entity: Entity
    serial: bytes | None
    profile: str | None = None
    state: CertificateState | None = None  # of what this CA issued: CONFIRMED, or what `any_status` let through
    may_agree: bool = False
    may_encipher: bool = False


class Credentials(Protocol):
    """Finds who a message may come from. Entities that are disabled are not found."""

    async def secret(self, reference: bytes) -> SecretCredential | None:
        """The shared secret registered under this reference value (octets of senderKID or of the commonName)."""

    async def passphrase(self, key_id: bytes) -> SecretCredential | None:
        """The revocation passphrase that was given this key identifier, with the entity that it stands for."""

    async def sender(
        self, certificate: bytes, others: tuple[bytes, ...], *, any_status: bool = False
    ) -> SenderCredential:
        """The entity behind a protection certificate (DER). `others`: further certificates to build the path from.

        SignerNotTrusted if there is no valid path, or it is expired, revoked or suspended, or nobody is registered
        with it. `any_status`: a certificate that this CA issued and that is suspended or revoked is found all the same,
        with its state.
        """

    async def registered(self, sender: bytes, key_identifier: bytes | None) -> tuple[bytes, ...]:
        """The registered certificates (DER) with this subject (DER of a Name) and, unless None, SubjectKeyIdentifier.

        Whether they are to be trusted `sender` says. DerError if the Name cannot be read.
        """


class AgreementKey(Protocol):
    """The server's static Diffie-Hellman key and its certificate: for DHBasedMac and the agreeMAC of RFC 4211."""

    @property
    def certificate(self) -> bytes:
        """DER of the certificate."""

    async def agree(self, public: PublicKeyTypes) -> bytes:
        """The shared value with this key of a peer. BadAlg: of another kind or curve, or a point of small order."""


class KemKey(Protocol):
    """The server's KEM key and its certificate, for KEM-based protection of its answers (RFC 9810 section 5.1.3.4)."""

    @property
    def certificate(self) -> bytes:
        """DER of the certificate."""

    async def decapsulate(self, algorithm: bytes, ciphertext: bytes) -> bytes:
        """The shared secret in a ciphertext; `algorithm`: DER of the AlgorithmIdentifier of the KEM.

        BadMessageCheck if it is not for this key, as section 5.1.3.4 says.
        """


@frozen
class EncapsulatedSecret:
    """What this server has encapsulated for the holder of a KEM certificate (DER), for one transaction."""

    secret: bytes = field(repr=False)
    certificate: bytes = field(repr=False)


async def _nothing(_transaction_id: bytes) -> EncapsulatedSecret | None:
    return None


@frozen
class KeyMaterial:
    """What MACs are verified and answered with, beside shared secrets.

    `agreement`: None: no DHBasedMac. `chain`: what goes into extraCerts behind a certificate of this server.
    `encapsulated` finds the secret of a transaction (by its ID) that KemBasedMac is made with. `random`: as Env.random.
    """

    agreement: AgreementKey | None = None
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    encapsulated: Callable[[bytes], Awaitable[EncapsulatedSecret | None]] = _nothing
    random: Callable[[int], bytes] = Env().random


NO_KEYS: Final = KeyMaterial()


@frozen
class Protector:
    """What protects an answer. `sender`: DER of the GeneralName for the header. `extra_certs`: DER each.

    `compute` gives the octets of PKIProtection (a MAC or a signature) over the DER of ProtectedPart. `algorithm` None:
    nothing does. `renewed` gives what protects the next message, if `algorithm` is good for one alone; None: for all.
    """

    algorithm: bytes | None
    sender: bytes
    sender_kid: bytes | None
    extra_certs: tuple[bytes, ...] = field(repr=False)
    compute: Callable[[bytes], Awaitable[bytes]] = field(repr=False)
    renewed: Callable[[], "Protector"] | None = field(default=None, repr=False)


@frozen
class KemSecrets:
    """The shared secrets of a transaction's KEM ciphertexts, 32 octets each; None where there is none.

    `sender` was encapsulated for the sender's certificate and protects his messages, `server` for that of this server
    and protects its answers.
    """

    sender: bytes | None = field(default=None, repr=False)
    server: bytes | None = field(default=None, repr=False)


@frozen
class VerifiedRequest:
    """A request whose protection was verified; only protection.verify makes one.

    Its protection is a MAC by a shared secret or by the key of a certificate, a signature, or none: then the TLS client
    certificate of the channel stands for it. `secret`: the shared secret that protected it, else None; a publicKeyMAC
    is verified with it. `kem`: what the transaction has of KEM-based protection, None = nothing. `kem_fault`: why the
    KEM ciphertext of a message is none that continues a transaction, which ends by that (section 5.1.3.4).
    """

    envelope: Envelope
    requester: Requester
    protector: Protector
    secret: bytes | None = field(default=None, repr=False)
    kem: KemSecrets | None = field(default=None, repr=False)
    kem_fault: CmpError | None = None
