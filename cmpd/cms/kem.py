"""KEMRecipientInfo: the content-encryption key for an ML-KEM key (RFC 9629 section 3, RFC 9936).

The sender encapsulates a shared secret, both derive a key-encryption key from it by HKDF with SHA-256, and AES-256 key
wrap does the rest.
"""

from dataclasses import field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from cmpd.asn1 import der
from cmpd.asn1.algorithms import AlgorithmError, identifier, read_algorithm, read_whole_algorithm
from cmpd.asn1.der import DerError
from cmpd.asn1.oids import HKDF_WITH_SHA256, contents
from cmpd.cms.algorithms import KEK_OCTETS, WRAP_IDENTIFIER, KeyWrap, read_key_wrap, read_ukm
from cmpd.cms.recipient_id import RecipientId, read_recipient_id
from cmpd.frozen import frozen

KemPublicKey = mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey
KemPrivateKey = mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey

ID_ORI_KEM: Final = contents("1.2.840.113549.1.9.16.13.3")
ML_KEM_768: Final = contents("2.16.840.1.101.3.4.4.2")
ML_KEM_1024: Final = contents("2.16.840.1.101.3.4.4.3")
_HKDF_SHA256: Final = identifier(HKDF_WITH_SHA256)
_CIPHERTEXT: Final = {ML_KEM_768: 1088, ML_KEM_1024: 1568}
"""Octets of kemct by algorithm."""


@frozen
class KemTransport:
    """The key is wrapped under a secret that `kemct` encapsulates. `kem`: contents octets of ML_KEM_768 or _1024."""

    recipient: RecipientId
    kem: bytes
    kemct: bytes = field(repr=False)
    wrap: KeyWrap
    wrap_algorithm: bytes
    ukm: bytes | None
    encrypted_key: bytes = field(repr=False)

    def unwrap(self, key: KemPrivateKey) -> bytes | None:
        """The content-encryption key; None if it is not for this key."""
        if self.kem != kem_algorithm(key.public_key()):
            return None
        return self.unwrap_with(key.decapsulate(self.kemct))

    def unwrap_with(self, shared_secret: bytes) -> bytes | None:
        """The same, for the shared secret that was encapsulated."""
        wrapping_key = _derive(shared_secret, self.wrap_algorithm, self.wrap.key_octets, self.ukm)
        return self.wrap.unwrap(wrapping_key, self.encrypted_key)


def kem_algorithm(key: KemPublicKey) -> bytes:
    """The contents octets of a key's algorithm."""
    return ML_KEM_768 if isinstance(key, mlkem.MLKEM768PublicKey) else ML_KEM_1024


def kem_info(key: KemPublicKey, content_key: bytes, recipient: RecipientId) -> bytes:
    """DER of the RecipientInfo ori that has `content_key` for the holder of `key`."""
    secret, kemct = key.encapsulate()
    wrapping_key = _derive(secret, WRAP_IDENTIFIER, KEK_OCTETS, None)
    info = der.seq(
        der.encode_integer(0),
        recipient.encode(),
        identifier(kem_algorithm(key)),
        der.encode_octets(kemct),
        _HKDF_SHA256,
        der.encode_integer(KEK_OCTETS),
        WRAP_IDENTIFIER,
        der.encode_octets(aes_key_wrap(wrapping_key, content_key)),
    )
    return der.tlv(0xA4, der.tlv(der.OID, ID_ORI_KEM) + info)


def _derive(secret: bytes, wrap: bytes, octets: int, ukm: bytes | None) -> bytes:
    """HKDF without salt over CMSORIforKEMOtherInfo (RFC 9629 section 5, RFC 9936 section 2.2.1)."""
    more = b"" if ukm is None else der.explicit(0, der.encode_octets(ukm))
    info = der.seq(wrap, der.encode_integer(octets), more)
    return HKDF(hashes.SHA256(), octets, None, info).derive(secret)


def read_kem(data: bytes, pos: int, end: int) -> KemTransport:
    """Read the contents of an OtherRecipientInfo that is a KEMRecipientInfo. DerError or AlgorithmError."""
    first, pos = der.expect(data, pos, end, der.OID, "oriType")
    if data[first:pos] != ID_ORI_KEM:
        raise AlgorithmError(f"oriType: want id-ori-kem, have {der.dotted(data[first:pos])}")
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "KEMRecipientInfo")
    if stop != end:
        raise DerError("OtherRecipientInfo: octets after KEMRecipientInfo")
    first, pos = der.expect(data, start, stop, der.INTEGER, "KEMRecipientInfo version")
    if der.integer(data, first, pos, "KEMRecipientInfo version") != 0:
        raise DerError("KEMRecipientInfo version: want 0, have another")
    recipient, pos = read_recipient_id(data, pos, stop)
    kem, kemct, pos = _read_encapsulation(data, pos, stop)
    after = read_algorithm(data, pos, stop, "KEMRecipientInfo kdf")[2]
    if data[pos:after] != _HKDF_SHA256:
        raise AlgorithmError("KEMRecipientInfo kdf: want id-alg-hkdf-with-sha256 without parameters, have another")
    first, pos = der.expect(data, after, stop, der.INTEGER, "kekLength")
    length = der.integer(data, first, pos, "kekLength")
    ukm, pos = read_ukm(data, pos, stop, 0xA0)
    after = read_algorithm(data, pos, stop, "KEMRecipientInfo wrap")[2]
    wrap_algorithm = data[pos:after]
    wrap = read_key_wrap(wrap_algorithm)
    if wrap.iv is not None or length != wrap.key_octets:
        raise AlgorithmError("KEMRecipientInfo: want AES key wrap and its kekLength (RFC 9936 section 2.2.1)")
    first, last = der.expect(data, after, stop, der.OCTET_STRING, "encryptedKey")
    if last != stop:
        raise DerError("KEMRecipientInfo: octets after encryptedKey")
    return KemTransport(recipient, kem, kemct, wrap, wrap_algorithm, ukm, data[first:last])


def _read_encapsulation(data: bytes, pos: int, end: int) -> tuple[bytes, bytes, int]:
    after = read_algorithm(data, pos, end, "KEMRecipientInfo kem")[2]
    kem, at, _ = read_whole_algorithm(data[pos:after], "KEMRecipientInfo kem")
    if kem not in _CIPHERTEXT or at != after - pos:
        raise AlgorithmError("KEMRecipientInfo kem: want ML-KEM-768 or ML-KEM-1024 without parameters, have another")
    first, last = der.expect(data, after, end, der.OCTET_STRING, "kemct")
    if last - first != _CIPHERTEXT[kem]:
        raise DerError(f"kemct: want {_CIPHERTEXT[kem]} octets, have {last - first}")
    return kem, data[first:last], last
