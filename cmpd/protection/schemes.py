"""The table of protection algorithms, by the contents octets of their OIDs. A new MAC is one more row.

MAC_SCHEMES has those that need a shared secret alone, KEY_MAC_SCHEMES those that need a key agreement or a KEM.
Signatures have a table of their own, cmpd/signatures.py, because certificates are verified by it too.
"""

from typing import Final, Protocol

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import read_whole_algorithm
from cmpd.errors import BadDataFormat
from cmpd.protection import dhbm, kembm, pbm, pbmac1
from cmpd.protection.base import MacScheme, ProtectionPolicy
from cmpd.protection.dhbm import DhBasedMac
from cmpd.protection.kembm import KemBasedMac
from cmpd.signatures import SIGNATURE_SCHEMES, SignatureScheme

MAC_SCHEMES: Final[dict[bytes, MacScheme]] = {
    oids.PASSWORD_BASED_MAC: pbm,
    oids.PBMAC1: pbmac1,
}


class KeyMacScheme(Protocol):
    """MACs by a key that both sides agree on with their key pairs, one OID."""

    def parse(self, algorithm: bytes, policy: ProtectionPolicy) -> DhBasedMac | KemBasedMac:
        """Read an AlgorithmIdentifier; BadAlg or BadDataFormat if it cannot or may not be used."""


KEY_MAC_SCHEMES: Final[dict[bytes, KeyMacScheme]] = {
    oids.DH_BASED_MAC: dhbm,
    oids.KEM_BASED_MAC: kembm,
}

SCHEMES: Final[dict[bytes, MacScheme | KeyMacScheme | SignatureScheme]] = {
    **MAC_SCHEMES,
    **KEY_MAC_SCHEMES,
    **SIGNATURE_SCHEMES,
}


def mac_scheme(algorithm: bytes) -> MacScheme | None:
    """The scheme of an AlgorithmIdentifier (DER) if it is a MAC by a shared secret.

    BadDataFormat if it is no AlgorithmIdentifier.
    """
    return MAC_SCHEMES.get(_oid(algorithm))


def key_mac_scheme(algorithm: bytes) -> KeyMacScheme | None:
    """The scheme of an AlgorithmIdentifier (DER) if it is a DHBasedMac or KemBasedMac.

    BadDataFormat if it is no AlgorithmIdentifier.
    """
    return KEY_MAC_SCHEMES.get(_oid(algorithm))


def _oid(algorithm: bytes) -> bytes:
    try:
        return read_whole_algorithm(algorithm, "AlgorithmIdentifier")[0]
    except der.DerError as error:
        raise BadDataFormat(str(error)) from None
