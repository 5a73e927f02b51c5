"""What a client protects its messages with: a shared secret, or a key with its certificate; or nothing.

`protector(env)` is asked once per transaction: the parameters of a MAC (salt, iterations) stay the same in all its
messages (RFC 9810 section 5.1.3.1), so its key is derived once. sender and senderKID are those of RFC 9483 section 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from cmpd.asn1 import der
from cmpd.asn1.names import COMMON_NAME
from cmpd.client.certificates import Certificate
from cmpd.client.errors import ClientError
from cmpd.client.keys import PrivateKey, public_key_info, signature_algorithm
from cmpd.env import Env
from cmpd.message import NULL_DN
from cmpd.protection import pbm, pbmac1
from cmpd.protection.base import Mac

SALT_OCTETS: Final = 16

_BUILDERS: Final[dict[str, Callable[[bytes, int], Mac]]] = {"pbm": pbm.build, "pbmac1": pbmac1.build}
_COMMON_NAME: Final = der.tlv(der.OID, COMMON_NAME)


@dataclass(frozen=True, slots=True)
class Protector:
    """Protects the messages of one transaction. `sender` is the DER of a GeneralName, `extra_certs` DER each.

    `compute` gives the octets of PKIProtection over the DER of ProtectedPart. b"" from it, and as `algorithm`: none.
    """

    algorithm: bytes
    sender: bytes
    sender_kid: bytes | None
    extra_certs: tuple[bytes, ...] = field(repr=False)
    compute: Callable[[bytes], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A reference value and the secret that goes with it. `iterations` of PBM's hash, or of PBKDF2 with pbmac1."""

    reference: str
    secret: bytes = field(repr=False)
    mac: Literal["pbm", "pbmac1"] = "pbm"
    iterations: int = 10_000

    @property
    def sender(self) -> bytes:
        """GeneralName: directoryName with the reference value as its commonName."""
        attribute = der.seq(_COMMON_NAME, der.encode_utf8(self.reference))
        return der.explicit(4, der.seq(der.tlv(der.SET, attribute)))

    def protector(self, env: Env) -> Protector:
        """A MAC with a fresh salt; its key is derived here, which takes about 0.6 us an iteration."""
        mac = _BUILDERS[self.mac](env.random(SALT_OCTETS), self.iterations)
        key = mac.derive(self.secret)
        return Protector(
            mac.algorithm, self.sender, self.reference.encode(), (), lambda octets: mac.compute(key, octets)
        )


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
        if public_key_info(self.key) != self.certificate.public_key_info:
            raise ClientError(f"the private key does not belong to the certificate of {self.certificate.subject_text}")

    @property
    def sender(self) -> bytes:
        """GeneralName: directoryName with the subject of the certificate."""
        return der.explicit(4, self.certificate.subject)

    def protector(self, env: Env) -> Protector:
        """A signature. extraCerts: own certificate, then its chain without self-signed ones (RFC 9483 section 3.3)."""
        del env  # signatures here need no randomness of ours
        above = tuple(one.der for one in self.chain if one.issuer != one.subject and one != self.certificate)
        key, algorithm = self.key, signature_algorithm(self.key, self.signature)
        return Protector(
            algorithm.identifier,
            self.sender,
            self.certificate.key_identifier,
            (self.certificate.der, *above),
            lambda octets: algorithm.sign(key, octets),
        )


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


Credential = SharedSecret | KeyAndCertificate | Unprotected
