"""KemBasedMac (RFC 9810 section 5.1.3.4): a MAC by a key that comes of a KEM, and the ciphertext that brings it.

One side encapsulates a secret for the other's KEM key (`encapsulate`) and sends the ciphertext in a KemCiphertextInfo;
the other opens it and protects with a KemBasedMac. Both derive the key of the MAC from the secret by HKDF, with the
transactionID of the message that had the ciphertext, so that a key never serves two transactions.

The sender of the MAC chooses the length of its key; a short one could be guessed, so it is bounded, and AES-GMAC takes
only its own. RFC 9481 has PBKDF2 alone as KDF, which has no place for KemOtherInfo: HKDF it is, as in RFC 9629.
"""

from collections.abc import Callable
from dataclasses import field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import LIBRARY_HASHES, AlgorithmError, identifier, read_algorithm, read_whole_algorithm
from cmpd.cms.kem import kem_algorithm
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.frozen import frozen
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.limits import refuse_sha1
from cmpd.protection.macs import InnerMac, build_mac, read_mac

ID_IT_KEM_CIPHERTEXT_INFO: Final = oids.KEM_CIPHERTEXT_INFO

MIN_KEY_OCTETS: Final = 16  # of HMAC's key
MAX_KEY_OCTETS: Final = 128
MAX_CONTEXT: Final = 256  # octets of kemContext
MAX_CIPHERTEXT: Final = 4096  # octets; ML-KEM-1024 has 1568

_STATIC_STRING: Final = der.seq(der.encode_utf8("CMP-KEM"))


@frozen
class KemBasedMac:
    """KemBMParameter of one message. `kdf`: name of HKDF's hash; `context`: kemContext; `size`: len, in octets."""

    algorithm: bytes = field(repr=False)
    kdf: str
    context: bytes | None
    size: int
    mac: InnerMac

    @property
    def uses_sha1(self) -> bool:
        """Whether the HMAC is made of SHA-1."""
        return self.mac.name == "sha1"

    def derive(self, shared_secret: bytes, transaction_id: bytes) -> bytes:
        """The shared secret key `ssk` for what was encapsulated.

        `transaction_id`: that of the message that had the ciphertext.
        """
        context = b"" if self.context is None else der.explicit_octets(0, self.context)
        info = der.seq(_STATIC_STRING, der.encode_octets(transaction_id), context)
        return HKDF(LIBRARY_HASHES[self.kdf], self.size, None, info).derive(shared_secret)

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """The MAC over `octets`."""
        return self.mac.compute(key, octets)

    def answering(self, random: Callable[[int], bytes]) -> "KemBasedMac":
        """What it is already, or with another nonce of AES-GMAC; the key stays the same."""
        mac = self.mac.answering(random)
        if mac is self.mac:
            return self
        return replace(self, algorithm=_encode(self.kdf, self.context, self.size, mac), mac=mac)


def parse(algorithm: bytes, policy: ProtectionPolicy) -> KemBasedMac:
    """Read the AlgorithmIdentifier of a KemBasedMac.

    BadDataFormat if KemBMParameter is missing or malformed; BadAlg if an algorithm is unknown or refused, or `len` does
    not fit the MAC.
    """
    try:
        found = _read(algorithm)
    except der.DerError as error:
        raise BadDataFormat(f"KemBasedMac: {error}") from None
    except AlgorithmError as error:
        raise BadAlg(str(error)) from None
    refuse_sha1("KemBasedMac", {"mac": found.mac.name}, policy)
    return found


def build(
    random: Callable[[int], bytes], mac: str = "sha256", *, kdf: str = "sha256", context: bytes | None = None
) -> KemBasedMac:
    """A KemBasedMac to protect a message with. `mac`: one of macs.MAC_NAMES; `random` is for AES-GMAC's nonce."""
    inner = build_mac(mac, random)
    size = inner.usual_key_octets
    return KemBasedMac(_encode(kdf, context, size, inner), kdf, context, size, inner)


def _encode(kdf: str, context: bytes | None, size: int, mac: InnerMac) -> bytes:
    parameter = der.seq(
        identifier(next(oid for oid, name in KDFS.items() if name == kdf)),
        b"" if context is None else der.explicit_octets(0, context),
        der.encode_integer(size),
        mac.identifier,
    )
    return identifier(oids.KEM_BASED_MAC, parameter)


def _read(data: bytes) -> KemBasedMac:
    oid, params, end = read_whole_algorithm(data, "protectionAlg")
    if oid != oids.KEM_BASED_MAC:
        raise AlgorithmError(f"KemBasedMac: have the algorithm {der.dotted(oid)}")
    pos, stop = der.expect(data, params, end, der.SEQUENCE, "KemBMParameter")
    kdf, kdf_params, pos = read_algorithm(data, pos, stop, "KemBMParameter kdf")
    if kdf not in KDFS:
        raise AlgorithmError(f"KemBMParameter kdf: want HKDF (RFC 8619, RFC 9688), have {der.dotted(kdf)}")
    if kdf_params != pos:
        raise AlgorithmError("KemBMParameter kdf: want no parameters with HKDF, have some (RFC 8619 section 2)")
    context = None
    if pos < stop and data[pos] == 0xA0:
        inner, after = der.expect(data, pos, stop, 0xA0, "kemContext")
        start, pos = der.expect(data, inner, after, der.OCTET_STRING, "kemContext")
        if pos != after:
            raise der.DerError("kemContext: octets after the OCTET STRING")
        context = data[start:pos]
    start, pos = der.expect(data, pos, stop, der.INTEGER, "KemBMParameter len")
    size = der.integer(data, start, pos, "KemBMParameter len")
    mac, pos = read_mac(data, pos, stop, "KemBMParameter mac")
    if pos != stop:
        raise der.DerError("KemBMParameter: octets after mac")
    if context is not None and len(context) > MAX_CONTEXT:
        raise AlgorithmError(f"kemContext: want at most {MAX_CONTEXT} octets, have {len(context)}")
    least, most = (mac.key_octets,) * 2 if mac.key_octets else (MIN_KEY_OCTETS, MAX_KEY_OCTETS)
    if not least <= size <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise AlgorithmError(f"KemBMParameter len: want {wanted} octets with {mac.name}, have {size}")
    return KemBasedMac(data, KDFS[kdf], context, size, mac)


KDFS: Final[dict[bytes, str]] = {
    oids.HKDF_WITH_SHA256: "sha256",
    oids.HKDF_WITH_SHA384: "sha384",
    oids.HKDF_WITH_SHA512: "sha512",
    oids.HKDF_WITH_SHA3_256: "sha3_256",
    oids.HKDF_WITH_SHA3_384: "sha3_384",
    oids.HKDF_WITH_SHA3_512: "sha3_512",
}
"""HKDF by its OID -> the name of its hash."""


# --- KemCiphertextInfo (RFC 9810 sections 5.1.1.5 and 5.3.19.18) ------------------------------------------------------


def read_kem_ciphertext(value: bytes) -> tuple[bytes, bytes]:
    """Read a KemCiphertextInfo (DER): (DER of the AlgorithmIdentifier of the KEM, ct). BadDataFormat.

    Whether the KEM is one that is known, and ct has its length, is for the key to say.
    """
    try:
        pos, stop = der.expect(value, 0, len(value), der.SEQUENCE, "KemCiphertextInfo")
        after = read_algorithm(value, pos, stop, "KemCiphertextInfo kem")[2]
        first, last = der.expect(value, after, stop, der.OCTET_STRING, "KemCiphertextInfo ct")
        if last != stop or stop != len(value):
            raise der.DerError("KemCiphertextInfo: octets after ct")
        if not 0 < last - first <= MAX_CIPHERTEXT:
            raise der.DerError(f"KemCiphertextInfo ct: want 1 to {MAX_CIPHERTEXT} octets, have {last - first}")
    except der.DerError as error:
        raise BadDataFormat(f"KemCiphertextInfo: {error} (RFC 9810 section 5.3.19.18)") from None
    return value[pos:after], value[first:last]


def encode_kem_ciphertext(algorithm: bytes, ciphertext: bytes) -> bytes:
    """DER of a KemCiphertextInfo; `algorithm`: DER of the AlgorithmIdentifier."""
    return der.seq(algorithm, der.encode_octets(ciphertext))


def encapsulate(key: PublicKeyTypes) -> tuple[bytes, bytes, bytes]:
    """A fresh secret for the holder of a KEM key: (DER of the AlgorithmIdentifier of the KEM, ct, shared secret).

    BadAlg if the key is not of ML-KEM-768 or ML-KEM-1024. RFC 9810 section 8.8: once for each transaction.
    """
    if not isinstance(key, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey):
        raise BadAlg("KEM certificate: want a key of ML-KEM-768 or ML-KEM-1024, have another")
    shared_secret, ciphertext = key.encapsulate()
    return identifier(kem_algorithm(key)), ciphertext, shared_secret
