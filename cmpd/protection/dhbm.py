"""DHBasedMac (RFC 9810 section 5.1.3.2): a MAC by a key that both sides agree on by Diffie-Hellman.

The shared value is that of two static keys, each with its certificate, so it is the same in every message of the two:
the key comes from nothing but it. With HMAC that does no harm, and AES-GMAC has its nonce.
"""

from collections.abc import Callable
from dataclasses import field, replace

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import OWFS, AlgorithmError, hash_identifier, identifier, read_named, read_whole_algorithm
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.frozen import frozen
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.limits import refuse_sha1
from cmpd.protection.macs import InnerMac, build_mac, fit_key, iterate, read_mac


@frozen
class DhBasedMac:
    """DHBMParameter of one message; see base.Mac. `owf`: hashlib's name of the hash."""

    algorithm: bytes = field(repr=False)
    owf: str
    mac: InnerMac

    @property
    def iterations(self) -> int:
        """None: there is nothing to guess in a shared value."""
        return 0

    @property
    def uses_sha1(self) -> bool:
        """Whether the OWF or the HMAC is made of SHA-1."""
        return "sha1" in (self.owf, self.mac.name)

    def derive(self, secret: bytes) -> bytes:
        """The key of the MAC for the result of the Diffie-Hellman computation."""
        return fit_key(iterate(self.owf, secret, 1), self.owf, self.mac.key_octets)

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """The MAC over `octets`."""
        return self.mac.compute(key, octets)

    def answering(self, random: Callable[[int], bytes]) -> "DhBasedMac":
        """What it is already, or with another nonce of AES-GMAC."""
        mac = self.mac.answering(random)
        return self if mac is self.mac else replace(self, algorithm=_encode(self.owf, mac), mac=mac)


def parse(algorithm: bytes, policy: ProtectionPolicy) -> DhBasedMac:
    """Read the AlgorithmIdentifier of a DHBasedMac.

    BadDataFormat if DHBMParameter is missing or malformed; BadAlg if an algorithm is unknown or refused.
    """
    try:
        found = _read(algorithm)
    except der.DerError as error:
        raise BadDataFormat(f"DHBasedMac: {error}") from None
    except AlgorithmError as error:
        raise BadAlg(str(error)) from None
    refuse_sha1("DHBasedMac", {"owf": found.owf, "mac": found.mac.name}, policy)
    return found


def build(owf: str = "sha256", mac: str = "sha256", random: Callable[[int], bytes] | None = None) -> DhBasedMac:
    """A DHBasedMac to protect a message with. `mac`: one of macs.MAC_NAMES; `random` is for AES-GMAC alone."""
    inner = build_mac(mac, random)
    return DhBasedMac(_encode(owf, inner), owf, inner)


def _encode(owf: str, mac: InnerMac) -> bytes:
    return identifier(oids.DH_BASED_MAC, der.seq(hash_identifier(owf), mac.identifier))


def _read(data: bytes) -> DhBasedMac:
    oid, params, end = read_whole_algorithm(data, "protectionAlg")
    if oid != oids.DH_BASED_MAC:
        raise AlgorithmError(f"DHBasedMac: have the algorithm {der.dotted(oid)}")
    pos, stop = der.expect(data, params, end, der.SEQUENCE, "DHBMParameter")
    owf, pos = read_named(data, pos, stop, OWFS, "DHBMParameter owf")
    mac, pos = read_mac(data, pos, stop, "DHBMParameter mac")
    if pos != stop:
        raise der.DerError("DHBMParameter: octets after mac")
    return DhBasedMac(data, owf, mac)
