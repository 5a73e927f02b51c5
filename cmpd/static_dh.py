"""Static (EC)DH proof-of-possession (RFC 6955 sections 4 and 6): a MAC by what two static keys agree on.

The key of the MAC is a hash over the names in the recipient's certificate and the shared value, the MAC is HMAC with
the same hash. Its value is a DhSigStatic, which may name that certificate, or in a PKMACValue and a dhMAC of CRMF
(RFC 4211 section 4.2) the MAC alone. There are identifiers for EC keys with SHA-224 to SHA-512; dhMAC has none, and is
SHA-1's (RFC 2875).
"""

import hashlib
import hmac
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.algorithms import DIGEST_OCTETS
from cmpd.asn1.names import read_name
from cmpd.asn1.oids import contents

ECDH_POP: Final = {
    contents("1.3.6.1.5.5.7.6.25"): "sha224",
    contents("1.3.6.1.5.5.7.6.26"): "sha256",
    contents("1.3.6.1.5.5.7.6.27"): "sha384",
    contents("1.3.6.1.5.5.7.6.28"): "sha512",
}
"""Id-alg-ecdhPop-static-X-hmac-X: hashlib's name of the hash by contents octets of the OID; there are no parameters."""


def temporary_key(name: str, shared_value: bytes, subject: bytes, issuer: bytes) -> bytes:
    """K of section 4 step 3 (c). `subject` and `issuer`: DER of the Names in the recipient's certificate."""
    return hashlib.new(name, subject + shared_value + issuer).digest()


def compute(name: str, key: bytes, text: bytes) -> bytes:
    """The MAC over `text`, of step 3 (d)."""
    return hmac.digest(key, text, name)


def encode_value(mac: bytes, issuer: bytes, serial: bytes) -> bytes:
    """DER of a DhSigStatic that names the recipient's certificate. `serial`: contents octets."""
    return der.seq(der.seq(issuer, der.tlv(der.INTEGER, serial)), der.encode_octets(mac))


def read_value(value: bytes, name: str) -> tuple[bytes, tuple[bytes, bytes] | None]:
    """(MAC, (DER of issuer, contents octets of serialNumber) of the certificate, None if it is not named). DerError."""
    size = DIGEST_OCTETS[name]
    if len(value) == size:
        return value, None
    start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "DhSigStatic")
    if stop != len(value):
        raise der.DerError("DhSigStatic: octets after it")
    named = None
    if value[start:stop][:1] == b"\x30":
        first, last = der.expect(value, start, stop, der.SEQUENCE, "DhSigStatic issuerAndSerial")
        after = der.expect(value, first, last, der.SEQUENCE, "issuer")[1]
        read_name(value[first:after])
        number, end = der.expect(value, after, last, der.INTEGER, "serialNumber")
        if end != last:
            raise der.DerError("issuerAndSerial: octets after serialNumber")
        named, start = (value[first:after], value[number:end]), last
    first, last = der.expect(value, start, stop, der.OCTET_STRING, "DhSigStatic hashValue")
    if last != stop or last - first != size:
        raise der.DerError(f"DhSigStatic hashValue: want {size} octets at the end, have others")
    return value[first:last], named
