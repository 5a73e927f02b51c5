"""What a client protects its messages with: a shared secret, or a key of some kind with its certificate; or nothing.

`protector(env)` is asked once per transaction: the parameters of a MAC (salt, iterations) stay the same in all its
messages (RFC 9810 section 5.1.3.1), so its key is derived once. Only AES-GMAC has a nonce besides, which is new in each
message. sender and senderKID are those of RFC 9483 section 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mlkem

from cmpd.asn1 import der
from cmpd.asn1.names import COMMON_NAME
from cmpd.client.certificates import Certificate
from cmpd.client.errors import ClientError
from cmpd.client.keys import AnyPrivateKey, PrivateKey, public_key_info, signature_algorithm
from cmpd.cms.agreement import AgreementPrivateKey, agree
from cmpd.env import Env
from cmpd.message import NULL_DN
from cmpd.protection import dhbm, kembm, pbm, pbmac1
from cmpd.protection.agreed import AnyMac
from cmpd.protection.base import Mac
from cmpd.protection.macs import MAC_NAMES

KemPrivateKey = mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey

SALT_OCTETS: Final = 16

INNER_MACS: Final[dict[str, str]] = {
    name if "gmac" in name else "hmac-" + name.replace("_", "-"): name for name in MAC_NAMES
}
"""What users call the MACs inside PBM and PBMAC1 -> protection.macs.MAC_NAMES."""


class _Build(Protocol):
    def __call__(self, salt: bytes, iterations: int, *, mac: str, random: Callable[[int], bytes]) -> Mac: ...


_BUILDERS: Final[dict[str, _Build]] = {"pbm": pbm.build, "pbmac1": pbmac1.build}
_COMMON_NAME: Final = der.tlv(der.OID, COMMON_NAME)


@dataclass(frozen=True, slots=True)
class Protector:
    """Protects the messages of one transaction. `sender` is the DER of a GeneralName, `extra_certs` DER each.

    `compute` gives the octets of PKIProtection over the DER of ProtectedPart. b"" from it, and as `algorithm`: none.
    `renewed` gives `algorithm` and `compute` for the next message, if they are good for one alone; None: they are for
    all. `transaction_id` and `info` (items of generalInfo, DER) are those of the first message, and `server` is what
    answers are verified with, if a KEM is in use (client/kem.py).
    """

    algorithm: bytes
    sender: bytes
    sender_kid: bytes | None
    extra_certs: tuple[bytes, ...] = field(repr=False)
    compute: Callable[[bytes], bytes] = field(repr=False)
    renewed: Callable[[], "Protector"] | None = field(default=None, repr=False, compare=False)
    transaction_id: bytes | None = None
    info: tuple[bytes, ...] = field(default=(), repr=False)
    server: "ServerSecret | None" = None


@dataclass(frozen=True, slots=True)
class ServerSecret:
    """What was encapsulated for the KEM certificate of a server: its answers are protected with it, by KemBasedMac."""

    secret: bytes = field(repr=False)
    certificate: Certificate


def mac_protector(
    mac: AnyMac, key: bytes, sender: bytes, sender_kid: bytes | None, env: Env, extra_certs: tuple[bytes, ...] = ()
) -> Protector:
    """Protects with a MAC whose key was derived."""
    fresh = mac.answering(env.random)

    def renewed() -> Protector:
        return mac_protector(mac, key, sender, sender_kid, env, extra_certs)

    return Protector(
        fresh.algorithm,
        sender,
        sender_kid,
        extra_certs,
        lambda octets: fresh.compute(key, octets),
        None if fresh is mac else renewed,
    )


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A reference value and the secret that goes with it. `iterations` of PBM's hash, or of PBKDF2 with pbmac1.

    `inner`: the MAC inside, one of protection.macs.MAC_NAMES.
    """

    reference: str
    secret: bytes = field(repr=False)
    mac: Literal["pbm", "pbmac1"] = "pbm"
    iterations: int = 10_000
    inner: str = "sha256"

    @property
    def sender(self) -> bytes:
        """GeneralName: directoryName with the reference value as its commonName."""
        attribute = der.seq(_COMMON_NAME, der.encode_utf8(self.reference))
        return der.explicit(4, der.seq(der.tlv(der.SET, attribute)))

    def protector(self, env: Env) -> Protector:
        """A MAC with a fresh salt; its key is derived here, which takes about 0.6 us an iteration."""
        mac = _BUILDERS[self.mac](env.random(SALT_OCTETS), self.iterations, mac=self.inner, random=env.random)
        return mac_protector(mac, mac.derive(self.secret), self.sender, self.reference.encode(), env)


@dataclass(frozen=True, slots=True)
class KeyAndCertificate:
    """A private key, its certificate, and those above it in order. ClientError if key and certificate differ.

    `signature`: the algorithm, one of asn1.signing.SIGNING; None: the usual one for the kind of key.
    """

    key: PrivateKey = field(repr=False)
    certificate: Certificate
    chain: tuple[Certificate, ...] = field(default=(), repr=False)
    signature: str | None = None

    def __post_init__(self) -> None:
        _check_key(self.key, self.certificate)

    @property
    def sender(self) -> bytes:
        """GeneralName: directoryName with the subject of the certificate."""
        return der.explicit(4, self.certificate.subject)

    def protector(self, env: Env) -> Protector:
        """A signature. extraCerts: own certificate, then its chain without self-signed ones (RFC 9483 section 3.3)."""
        del env  # signatures here need no randomness of ours
        key, algorithm = self.key, signature_algorithm(self.key, self.signature)
        return Protector(
            algorithm.identifier,
            self.sender,
            self.certificate.key_identifier,
            _own_certificates(self.certificate, self.chain),
            lambda octets: algorithm.sign(key, octets),
        )


def _check_key(key: AnyPrivateKey, certificate: Certificate) -> None:
    if public_key_info(key) != certificate.public_key_info:
        raise ClientError(f"the private key does not belong to the certificate of {certificate.subject_text}")


def _own_certificates(certificate: Certificate, chain: tuple[Certificate, ...]) -> tuple[bytes, ...]:
    above = tuple(one.der for one in chain if one.issuer != one.subject and one != certificate)
    return certificate.der, *above


@dataclass(frozen=True, slots=True)
class StaticAgreement:
    """A key that agrees on a secret, and the agreement certificate of the server: DHBasedMac in both directions.

    ClientError if key and certificate differ, or the keys are of different kinds. `server` is trusted as it is.
    """

    key: AgreementPrivateKey = field(repr=False)
    certificate: Certificate
    server: Certificate
    chain: tuple[Certificate, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _check_key(self.key, self.certificate)
        self.agree()

    @property
    def sender(self) -> bytes:
        """GeneralName: directoryName with the subject of the certificate."""
        return der.explicit(4, self.certificate.subject)

    def agree(self) -> bytes:
        """The shared value; ClientError if there is none."""
        try:
            return agree(self.key, self.server.parsed.public_key())
        except (TypeError, ValueError, UnsupportedAlgorithm):
            raise ClientError(
                f"the key of {self.server.subject_text} is of another kind than that of {self.certificate.subject_text}"
            ) from None

    def protector(self, env: Env) -> Protector:
        """DHBasedMac with SHA-256 and HMAC-SHA256 (RFC 9810 section 5.1.3.2)."""
        mac = dhbm.build()
        own = _own_certificates(self.certificate, self.chain)
        return mac_protector(mac, mac.derive(self.agree()), self.sender, self.certificate.key_identifier, env, own)


@dataclass(frozen=True, slots=True)
class KemKey:
    """A KEM key and its certificate: KemBasedMac with a ciphertext of the server for each transaction (client/kem.py).

    ClientError if key and certificate differ. The answers are signed.
    """

    key: KemPrivateKey = field(repr=False)
    certificate: Certificate
    chain: tuple[Certificate, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _check_key(self.key, self.certificate)

    @property
    def sender(self) -> bytes:
        """GeneralName: directoryName with the subject of the certificate."""
        return der.explicit(4, self.certificate.subject)

    def protector(self, env: Env) -> Protector:
        """ClientError: there is none before the server has given a ciphertext."""
        del env
        raise ClientError("KemBasedMac: want a new transaction, with a ciphertext of the server; have another request")

    def asking(self) -> Protector:
        """One that does not protect, and has the certificate in extraCerts: for the genm that asks for a ciphertext."""
        own = _own_certificates(self.certificate, self.chain)
        return Protector(b"", self.sender, self.certificate.key_identifier, own, lambda octets: b"")

    def protector_for(self, ciphertext: bytes, transaction_id: bytes, env: Env) -> Protector:
        """KemBasedMac with HKDF-SHA256 and HMAC-SHA256 (RFC 9810 section 5.1.3.4), for this one transaction.

        ClientError if the ciphertext has not the length of the key's.
        """
        try:
            secret = self.key.decapsulate(ciphertext)
        except ValueError:
            raise ClientError(f"KemCiphertextInfo: have {len(ciphertext)} octets that are no ciphertext") from None
        mac = kembm.build(env.random)
        own = _own_certificates(self.certificate, self.chain)
        key = mac.derive(secret, transaction_id)
        made = mac_protector(mac, key, self.sender, self.certificate.key_identifier, env, own)
        return replace(made, transaction_id=transaction_id)


@dataclass(frozen=True, slots=True)
class Unprotected:
    """Messages without protection, for a door where the TLS client certificate stands for it.

    `certificate`: that one; its subject is the sender. The answers are signed all the same.
    """

    certificate: Certificate | None = None

    @property
    def sender(self) -> bytes:
        """GeneralName: directoryName with the subject of the certificate, else the NULL-DN."""
        return NULL_DN if self.certificate is None else der.explicit(4, self.certificate.subject)

    def protector(self, env: Env) -> Protector:
        """One that does not protect."""
        del env
        return Protector(b"", self.sender, None, (), lambda octets: b"")


Credential = SharedSecret | KeyAndCertificate | StaticAgreement | KemKey | Unprotected


class Protects(Protocol):
    """Whatever the messages of a transaction are protected with: a Credential, or what was prepared for one of it."""

    def protector(self, env: Env) -> Protector:
        """For all messages of one transaction."""


def own_certificate(credential: Credential) -> Certificate | None:
    """The certificate whose holder protects by a signature or a MAC, None if that is somebody else's."""
    held = KeyAndCertificate | StaticAgreement | KemKey
    return credential.certificate if isinstance(credential, held) else None
