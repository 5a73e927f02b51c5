"""PBMAC1 (RFC 8018 section 7.1 and appendix A.5) with PBKDF2, and HMAC or AES-GMAC.

The sender chooses the length of the derived key, which two attacks would use: a key of one octet is guessed without the
secret, and a key of a megabyte costs as many iterations again for each block of it. So the length is bounded both ways,
and what counts against the policy is iterationCount times the number of blocks. AES-GMAC has a key of one length and is
never the PRF of PBKDF2 (RFC 9481 section 6.2.2).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import (
    DIGEST_OCTETS,
    AlgorithmError,
    hmac_identifier,
    identifier,
    read_algorithm,
    read_pbkdf2_params,
    read_whole_algorithm,
)
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.limits import bound_iterations, bound_salt, refuse_sha1
from cmpd.protection.macs import InnerMac, build_mac, read_mac

MIN_KEY_OCTETS: Final = 20  # RFC 9579 section 9
MAX_KEY_OCTETS: Final = 128  # one block of SHA-512; HMAC hashes longer keys down anyway


@dataclass(frozen=True, slots=True)
class Pbmac1:
    """PBMAC1-params of one message; see base.Mac. `prf`: hashlib's name of HMAC's hash."""

    algorithm: bytes = field(repr=False)
    salt: bytes
    count: int
    key_octets: int
    prf: str
    mac: InnerMac

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
        return "sha1" in (self.prf, self.mac.name)

    def derive(self, secret: bytes) -> bytes:
        """The derived key DK for this secret."""
        return hashlib.pbkdf2_hmac(self.prf, secret, self.salt, self.count, self.key_octets)

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """The MAC over `octets` with DK."""
        return self.mac.compute(key, octets)

    def answering(self, random: Callable[[int], bytes]) -> "Pbmac1":
        """What it is already, or with another nonce of AES-GMAC; salt and key stay the same."""
        mac = self.mac.answering(random)
        if mac is self.mac:
            return self
        return replace(self, algorithm=_encode(self.salt, self.count, self.key_octets, self.prf, mac), mac=mac)


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
    wanted = found.mac.key_octets
    if wanted is not None and found.key_octets != wanted:
        raise BadAlg(f"PBKDF2 keyLength: want {wanted} octets with {found.mac.name}, have {found.key_octets}")
    if wanted is None and not MIN_KEY_OCTETS <= found.key_octets <= MAX_KEY_OCTETS:
        raise BadAlg(f"PBKDF2 keyLength: want {MIN_KEY_OCTETS} to {MAX_KEY_OCTETS} octets, have {found.key_octets}")
    bound_iterations("PBKDF2", found.count, policy.min_iterations, policy.max_pbkdf2_iterations // found.blocks)
    bound_salt("PBKDF2", len(found.salt), policy)
    refuse_sha1("PBMAC1", {"prf": found.prf, "messageAuthScheme": found.mac.name}, policy)
    return found


def build(
    salt: bytes,
    iterations: int,
    *,
    prf: str = "sha256",
    mac: str = "sha256",
    random: Callable[[int], bytes] | None = None,
) -> Pbmac1:
    """A PBMAC1 to protect a message with; the key has the length of the MAC. The salt is random, at least 8 octets.

    `prf`: a name in HMACS; `mac`: one of macs.MAC_NAMES; `random` is for AES-GMAC alone.
    """
    inner = build_mac(mac, random)
    size = inner.usual_key_octets
    return Pbmac1(_encode(salt, iterations, size, prf, inner), salt, iterations, size, prf, inner)


def _encode(salt: bytes, iterations: int, size: int, prf: str, mac: InnerMac) -> bytes:
    parameters = der.seq(
        der.encode_octets(salt),
        der.encode_integer(iterations),
        der.encode_integer(size),
        b"" if prf == "sha1" else hmac_identifier(prf),  # the DEFAULT is left out in DER
    )
    return identifier(oids.PBMAC1, der.seq(identifier(oids.PBKDF2, parameters), mac.identifier))


def _read(data: bytes) -> Pbmac1:
    oid, params, end = read_whole_algorithm(data, "protectionAlg")
    if oid != oids.PBMAC1:
        raise AlgorithmError(f"PBMAC1: have the algorithm {der.dotted(oid)}")
    pos, stop = der.expect(data, params, end, der.SEQUENCE, "PBMAC1-params")
    kdf, kdf_params, pos = read_algorithm(data, pos, stop, "keyDerivationFunc")
    if kdf != oids.PBKDF2:
        raise AlgorithmError(f"PBMAC1 keyDerivationFunc: want PBKDF2, have {der.dotted(kdf)}")
    found = read_pbkdf2_params(data, kdf_params, pos)
    mac, pos = read_mac(data, pos, stop, "PBMAC1 messageAuthScheme")
    if pos != stop:
        raise der.DerError("PBMAC1-params: octets after messageAuthScheme")
    # Without keyLength the key has the length that suits the MAC, which for HMAC is its output (RFC 2104 section 3).
    size = mac.usual_key_octets if found.key_octets is None else found.key_octets
    return Pbmac1(data, found.salt, found.count, size, found.prf, mac)
