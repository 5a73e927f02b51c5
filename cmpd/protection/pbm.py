"""PasswordBasedMac (RFC 4211 section 4.4, RFC 9045, RFC 9810 section 5.1.3.1).

BASEKEY is the hash applied exactly iterationCount times, first to secret and salt. (RFC 4211's pseudo-code would hash
once more; RFC 9810 and all implementations met do not.) All of BASEKEY is the key of the HMAC, which takes keys of any
length: RFC 9810 would cut or expand it to the K bits that a MAC wants, and nobody does so with HMAC. For AES-GMAC it is
done.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import OWFS, AlgorithmError, hash_identifier, identifier, read_named, read_whole_algorithm
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.limits import bound_iterations, bound_salt, refuse_sha1
from cmpd.protection.macs import InnerMac, build_mac, fit_key, iterate, read_mac


@dataclass(frozen=True, slots=True)
class PasswordBasedMac:
    """PBMParameter of one message; see base.Mac. `owf`: hashlib's name of the hash."""

    algorithm: bytes = field(repr=False)
    salt: bytes
    owf: str
    iterations: int
    mac: InnerMac

    @property
    def uses_sha1(self) -> bool:
        """Whether the OWF or the HMAC is made of SHA-1."""
        return "sha1" in (self.owf, self.mac.name)

    def derive(self, secret: bytes) -> bytes:
        """BASEKEY for this secret, in the length that the MAC wants."""
        return fit_key(iterate(self.owf, secret + self.salt, self.iterations), self.owf, self.mac.key_octets)

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """The MAC over `octets` with the key that was derived."""
        return self.mac.compute(key, octets)

    def answering(self, random: Callable[[int], bytes]) -> "PasswordBasedMac":
        """What it is already, or with another nonce of AES-GMAC; salt and key stay the same."""
        mac = self.mac.answering(random)
        if mac is self.mac:
            return self
        return replace(self, algorithm=_encode(self.salt, self.owf, self.iterations, mac), mac=mac)


def parse(algorithm: bytes, policy: ProtectionPolicy) -> PasswordBasedMac:
    """Read the AlgorithmIdentifier of a PasswordBasedMac.

    BadDataFormat if PBMParameter is missing or malformed; BadAlg if a hash is unknown or refused, or a bound is broken.
    """
    try:
        found = _read(algorithm)
    except der.DerError as error:
        raise BadDataFormat(f"PasswordBasedMac: {error}") from None
    except AlgorithmError as error:
        raise BadAlg(str(error)) from None
    bound_iterations("PBMParameter", found.iterations, policy.min_iterations, policy.max_iterations)
    bound_salt("PBMParameter", len(found.salt), policy)
    refuse_sha1("PasswordBasedMac", {"owf": found.owf, "mac": found.mac.name}, policy)
    return found


def build(
    salt: bytes,
    iterations: int,
    *,
    owf: str = "sha256",
    mac: str = "sha256",
    random: Callable[[int], bytes] | None = None,
) -> PasswordBasedMac:
    """A PasswordBasedMac to protect a message with. The salt is random, at least 8 octets.

    `owf`: a name in OWFS; `mac`: one of macs.MAC_NAMES; `random` is for AES-GMAC alone.
    """
    inner = build_mac(mac, random)
    return PasswordBasedMac(_encode(salt, owf, iterations, inner), salt, owf, iterations, inner)


def _encode(salt: bytes, owf: str, iterations: int, mac: InnerMac) -> bytes:
    parameter = der.seq(der.encode_octets(salt), hash_identifier(owf), der.encode_integer(iterations), mac.identifier)
    return identifier(oids.PASSWORD_BASED_MAC, parameter)


def _read(data: bytes) -> PasswordBasedMac:
    oid, params, end = read_whole_algorithm(data, "protectionAlg")
    if oid != oids.PASSWORD_BASED_MAC:
        raise AlgorithmError(f"PasswordBasedMac: have the algorithm {der.dotted(oid)}")
    pos, stop = der.expect(data, params, end, der.SEQUENCE, "PBMParameter")
    start, pos = der.expect(data, pos, stop, der.OCTET_STRING, "salt")
    salt = data[start:pos]
    owf, pos = read_named(data, pos, stop, OWFS, "PBMParameter owf")
    start, pos = der.expect(data, pos, stop, der.INTEGER, "iterationCount")
    iterations = der.integer(data, start, pos, "iterationCount")
    mac, pos = read_mac(data, pos, stop, "PBMParameter mac")
    if pos != stop:
        raise der.DerError("PBMParameter: octets after mac")
    return PasswordBasedMac(data, salt, owf, iterations, mac)
