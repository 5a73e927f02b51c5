"""The table of protection algorithms, by the contents octets of their OIDs. A new MAC is one more row.

Signatures have a table of their own, cmpd/signatures.py, because certificates are verified by it too.
"""

from typing import Final

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import read_whole_algorithm
from cmpd.errors import BadDataFormat
from cmpd.protection import pbm, pbmac1
from cmpd.protection.base import MacScheme
from cmpd.signatures import SIGNATURE_SCHEMES, SignatureScheme

MAC_SCHEMES: Final[dict[bytes, MacScheme]] = {
    oids.PASSWORD_BASED_MAC: pbm,
    oids.PBMAC1: pbmac1,
}

SCHEMES: Final[dict[bytes, MacScheme | SignatureScheme]] = {**MAC_SCHEMES, **SIGNATURE_SCHEMES}


def mac_scheme(algorithm: bytes) -> MacScheme | None:
    """The scheme of an AlgorithmIdentifier (DER) if it is a MAC; BadDataFormat if it is no AlgorithmIdentifier."""
    return MAC_SCHEMES.get(_oid(algorithm))


def _oid(algorithm: bytes) -> bytes:
    try:
        return read_whole_algorithm(algorithm, "AlgorithmIdentifier")[0]
    except der.DerError as error:
        raise BadDataFormat(str(error)) from None
