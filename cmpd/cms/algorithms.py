"""What encrypts keys and contents in CMP (RFC 9481 sections 4.2 to 5): AlgorithmIdentifiers read, and applied.

Contents are AES in CBC mode. A content-encryption key comes by RSA, by AES key wrap (RFC 3394), or by the wrap for
passwords of RFC 3211, which is what openssl cms makes. DES-EDE3-CBC, which RFC 4210 demanded, is not supported.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from cmpd.asn1 import der
from cmpd.asn1.algorithms import (
    HASHES,
    LIBRARY_HASHES,
    AlgorithmError,
    Pbkdf2,
    absent_or_null,
    identifier,
    read_algorithm,
    read_mgf1,
    read_named,
    read_pbkdf2_params,
    read_whole_algorithm,
)
from cmpd.asn1.oids import PBKDF2, contents
from cmpd.frozen import frozen

BLOCK: Final = 16  # octets, of AES

RSAES_OAEP: Final = contents("1.2.840.113549.1.1.7")
AES256_CBC: Final = contents("2.16.840.1.101.3.4.1.42")
_RSA_ENCRYPTION: Final = contents("1.2.840.113549.1.1.1")
_P_SPECIFIED: Final = contents("1.2.840.113549.1.1.9")
_PWRI_KEK: Final = contents("1.2.840.113549.1.9.16.3.9")
_AES256_WRAP: Final = contents("2.16.840.1.101.3.4.1.45")

_AES_CBC: Final = {
    contents("2.16.840.1.101.3.4.1.2"): 16,
    contents("2.16.840.1.101.3.4.1.22"): 24,
    AES256_CBC: 32,
}
"""Octets of the key by algorithm."""

_AES_WRAP: Final = {
    contents("2.16.840.1.101.3.4.1.5"): 16,
    contents("2.16.840.1.101.3.4.1.25"): 24,
    _AES256_WRAP: 32,
}
"""Octets of the key-encryption key by algorithm."""

PKCS1_IDENTIFIER: Final = identifier(_RSA_ENCRYPTION, der.NULL_TLV)
WRAP_IDENTIFIER: Final = identifier(_AES256_WRAP)
KEK_OCTETS: Final = _AES_WRAP[_AES256_WRAP]
"""What keys are wrapped with here, and the length of the key-encryption key for that."""

_MAX_UKM: Final = 256  # octets


# --- contents ---------------------------------------------------------------------------------------------------------


@frozen
class AesCbc:
    """AES-CBC with its parameter (RFC 3565 section 2.3)."""

    key_octets: int
    iv: bytes

    def decrypt(self, key: bytes, octets: bytes) -> bytes:
        """The padded octets; `octets` must be whole blocks."""
        decryptor = Cipher(algorithms.AES(key), modes.CBC(self.iv)).decryptor()
        return decryptor.update(octets) + decryptor.finalize()


def read_aes_cbc(algorithm: bytes, noun: str) -> AesCbc:
    """Read the AlgorithmIdentifier (DER) of AES-CBC. DerError or AlgorithmError."""
    oid, pos, end = read_whole_algorithm(algorithm, noun)
    size = _AES_CBC.get(oid)
    if size is None:
        raise AlgorithmError(f"{noun}: want AES-128, AES-192 or AES-256 in CBC mode, have {der.dotted(oid)}")
    start, stop = der.expect(algorithm, pos, end, der.OCTET_STRING, f"{noun} AES-IV")
    if stop - start != BLOCK:
        raise der.DerError(f"{noun} AES-IV: want {BLOCK} octets, have {stop - start}")
    return AesCbc(size, algorithm[start:stop])


# --- RSA --------------------------------------------------------------------------------------------------------------


def read_rsa_padding(algorithm: bytes) -> padding.PKCS1v15 | padding.OAEP:
    """What rsaEncryption or id-RSAES-OAEP (RFC 4055 section 4.1) means. DerError or AlgorithmError."""
    noun = "keyEncryptionAlgorithm"
    oid, pos, end = read_whole_algorithm(algorithm, noun)
    if oid == _RSA_ENCRYPTION:
        if not absent_or_null(algorithm, pos, end):
            raise AlgorithmError(f"{noun}: want no parameters or NULL with rsaEncryption, have others")
        return padding.PKCS1v15()
    if oid != RSAES_OAEP:
        raise AlgorithmError(f"{noun}: want rsaEncryption or id-RSAES-OAEP, have {der.dotted(oid)}")
    return _read_oaep(algorithm, pos, end)


def _read_oaep(data: bytes, pos: int, end: int) -> padding.OAEP:
    names = {0xA0: "sha1", 0xA1: "sha1"}  # the DEFAULTs
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "RSAES-OAEP-params")
    last = 0x9F
    for tag, _, inner, after in der.children(data, start, stop, 3):
        if not last < tag <= 0xA2:
            raise der.DerError(f"RSAES-OAEP-params: unexpected tag {tag:02X}")
        last = tag
        if tag == 0xA0:
            names[tag], done = read_named(data, inner, after, HASHES, "RSAES-OAEP hashFunc")
        elif tag == 0xA1:
            names[tag], done = read_mgf1(data, inner, after, HASHES, "RSAES-OAEP maskGenFunc")
        else:
            done = _read_empty_label(data, inner, after)
        if done != after:
            raise der.DerError("RSAES-OAEP-params: more than one value in a field")
    own, mask = (LIBRARY_HASHES[names[tag]] for tag in (0xA0, 0xA1))
    return padding.OAEP(padding.MGF1(mask), own, None)


def _read_empty_label(data: bytes, pos: int, end: int) -> int:
    oid, inner, after = read_algorithm(data, pos, end, "RSAES-OAEP pSourceFunc")
    if oid != _P_SPECIFIED or data[inner:after] != b"\x04\x00":
        raise AlgorithmError("RSAES-OAEP pSourceFunc: want pSpecified with an empty label")
    return after


# --- passwords, and keys that were agreed on --------------------------------------------------------------------------


def read_ukm(data: bytes, pos: int, end: int, tag: int) -> tuple[bytes | None, int]:
    """The optional UserKeyingMaterial at `pos`, explicitly tagged, and the position after it. DerError."""
    if pos >= end or data[pos] != tag:
        return None, pos
    start, after = der.expect(data, pos, end, tag, "ukm")
    first, last = der.expect(data, start, after, der.OCTET_STRING, "ukm")
    if last != after or last - first > _MAX_UKM:
        raise der.DerError(f"ukm: want one OCTET STRING of at most {_MAX_UKM} octets")
    return data[first:last], after


def read_pbkdf2(algorithm: bytes) -> Pbkdf2:
    """Read the AlgorithmIdentifier (DER) of PBKDF2. DerError or AlgorithmError; nothing is bounded here."""
    noun = "keyDerivationAlgorithm"
    oid, pos, end = read_whole_algorithm(algorithm, noun)
    if oid != PBKDF2:
        raise AlgorithmError(f"{noun}: want PBKDF2, have {der.dotted(oid)}")
    return read_pbkdf2_params(algorithm, pos, end)


@frozen
class KeyWrap:
    """What wraps the content-encryption key. `iv` None: AES key wrap, else the wrap of RFC 3211 in CBC mode."""

    key_octets: int
    iv: bytes | None = None

    def unwrap(self, key: bytes, octets: bytes) -> bytes | None:
        """The wrapped key; None if the octets are not a key that was wrapped with `key`."""
        if self.iv is not None:
            return _unwrap_pwri(AesCbc(self.key_octets, self.iv), key, octets)
        try:
            return aes_key_unwrap(key, octets)
        except (InvalidUnwrap, ValueError):
            return None


def read_key_wrap(algorithm: bytes) -> KeyWrap:
    """Read the AlgorithmIdentifier (DER) of a key wrap. DerError or AlgorithmError."""
    noun = "keyEncryptionAlgorithm"
    oid, pos, end = read_whole_algorithm(algorithm, noun)
    if oid == _PWRI_KEK:
        inner = read_aes_cbc(algorithm[pos:end], noun)
        return KeyWrap(inner.key_octets, inner.iv)
    size = _AES_WRAP.get(oid)
    if size is None:
        raise AlgorithmError(f"{noun}: want AES key wrap or id-alg-PWRI-KEK, have {der.dotted(oid)}")
    if pos != end:
        raise AlgorithmError(f"{noun}: want no parameters with AES key wrap (RFC 3565 section 2.3.2)")
    return KeyWrap(size)


def _unwrap_pwri(cipher: AesCbc, key: bytes, octets: bytes) -> bytes | None:
    """RFC 3211 section 2.3.2: encrypted twice; inside are the length, three check octets, the key, and padding."""
    if len(octets) < 2 * BLOCK or len(octets) % BLOCK:
        return None
    last = AesCbc(cipher.key_octets, octets[-2 * BLOCK : -BLOCK]).decrypt(key, octets[-BLOCK:])
    once = AesCbc(cipher.key_octets, last).decrypt(key, octets[:-BLOCK]) + last
    clear = cipher.decrypt(key, once)
    size, check, found = clear[0], clear[1:4], clear[4:]
    if size > len(found) or any(a ^ b != 0xFF for a, b in zip(check, found[:3], strict=True)):
        return None
    return found[:size]
