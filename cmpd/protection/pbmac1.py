"""PBMAC1 (RFC 8018 section 7.1 and appendix A.5) with PBKDF2 and HMAC.

The sender chooses the length of the derived key, which two attacks would use: a key of one octet is guessed without the
secret, and a key of a megabyte costs as many iterations again for each block of it. So the length is bounded both ways,
and what counts against the policy is iterationCount times the number of blocks.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import (
    DIGEST_OCTETS,
    HMACS,
    AlgorithmError,
    hmac_identifier,
    read_algorithm,
    read_named,
    read_pbkdf2_params,
    read_whole_algorithm,
)
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.limits import bound_iterations, bound_salt, refuse_sha1

MIN_KEY_OCTETS: Final = 20  # RFC 9579 section 9
MAX_KEY_OCTETS: Final = 128  # one block of SHA-512; HMAC hashes longer keys down anyway


@dataclass(frozen=True, slots=True)
class Pbmac1:
    """PBMAC1-params of one message; see base.Mac. `prf` and `mac` are hashlib's names of HMAC's hashes."""

    algorithm: bytes = field(repr=False)
    salt: bytes
    count: int
    key_octets: int
    prf: str
    mac: str

    @property
    def blocks(self) -> int:
        """How many outputs of the PRF the key consists of, the last one perhaps in part."""
        return -(-self.key_octets // DIGEST_OCTETS[self.prf])

    @property
    def iterations(self) -> int:
        """What deriving costs: iterationCount for each block of the key."""
        return self.count * self.blocks

    @property
    def uses_sha1(self) -> bool:
        """Whether PBKDF2 or the MAC is made of HMAC-SHA1."""
        return "sha1" in (self.prf, self.mac)

    def derive(self, secret: bytes) -> bytes:
        """The derived key DK for this secret."""
        return hashlib.pbkdf2_hmac(self.prf, secret, self.salt, self.count, self.key_octets)

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """HMAC over `octets` with DK."""
        return hmac.digest(key, octets, self.mac)


def parse(algorithm: bytes, policy: ProtectionPolicy) -> Pbmac1:
    """Read the AlgorithmIdentifier of a PBMAC1.

    BadDataFormat if PBMAC1-params are missing or malformed; BadAlg if an algorithm is unknown or refused, the salt is
    not `specified`, or a bound is broken.
    """
    try:
        found = _read(algorithm)
    except der.DerError as error:
        raise BadDataFormat(f"PBMAC1: {error}") from None
    except AlgorithmError as error:
        raise BadAlg(str(error)) from None
    if not MIN_KEY_OCTETS <= found.key_octets <= MAX_KEY_OCTETS:
        raise BadAlg(f"PBKDF2 keyLength: want {MIN_KEY_OCTETS} to {MAX_KEY_OCTETS} octets, have {found.key_octets}")
    bound_iterations("PBKDF2", found.count, policy.min_iterations, policy.max_pbkdf2_iterations // found.blocks)
    bound_salt("PBKDF2", len(found.salt), policy)
    refuse_sha1("PBMAC1", {"prf": found.prf, "messageAuthScheme": found.mac}, policy)
    return found


def build(salt: bytes, iterations: int, *, prf: str = "sha256", mac: str = "sha256") -> Pbmac1:
    """A PBMAC1 to protect a message with; the key has the length of the MAC. The salt is random, at least 8 octets."""
    size = DIGEST_OCTETS[mac]
    parameters = der.seq(
        der.encode_octets(salt),
        der.encode_integer(iterations),
        der.encode_integer(size),
        b"" if prf == "sha1" else hmac_identifier(prf),  # the DEFAULT is left out in DER
    )
    derivation = der.seq(der.tlv(der.OID, oids.PBKDF2), parameters)
    algorithm = der.seq(der.tlv(der.OID, oids.PBMAC1), der.seq(derivation, hmac_identifier(mac)))
    return Pbmac1(algorithm, salt, iterations, size, prf, mac)


def _read(data: bytes) -> Pbmac1:
    oid, params, end = read_whole_algorithm(data, "protectionAlg")
    if oid != oids.PBMAC1:
        raise AlgorithmError(f"PBMAC1: have the algorithm {der.dotted(oid)}")
    pos, stop = der.expect(data, params, end, der.SEQUENCE, "PBMAC1-params")
    kdf, kdf_params, pos = read_algorithm(data, pos, stop, "keyDerivationFunc")
    if kdf != oids.PBKDF2:
        raise AlgorithmError(f"PBMAC1 keyDerivationFunc: want PBKDF2, have {der.dotted(kdf)}")
    found = read_pbkdf2_params(data, kdf_params, pos)
    mac, pos = read_named(data, pos, stop, HMACS, "PBMAC1 messageAuthScheme")
    if pos != stop:
        raise der.DerError("PBMAC1-params: octets after messageAuthScheme")
    # Without keyLength the key has the length that suits the MAC, which for HMAC is its output (RFC 2104 section 3).
    size = DIGEST_OCTETS[mac] if found.key_octets is None else found.key_octets
    return Pbmac1(data, found.salt, found.count, size, found.prf, mac)
