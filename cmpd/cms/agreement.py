"""KeyAgreeRecipientInfo: the content-encryption key for an (EC)DH key (RFC 5753 section 3.1, RFC 8418).

Ephemeral-static: the sender makes a key of the recipient's kind, both derive a key-encryption key from what the two
keys agree on, and AES key wrap does the rest. The KDF is that of ANSI X9.63 for P-curves, which everybody has, and HKDF
for X25519 and X448 (RFC 8551 section 2.3), each with a hash as strong as the key; both are read for all.
"""

from collections.abc import Callable
from dataclasses import field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from cmpd.asn1 import der
from cmpd.asn1.algorithms import AlgorithmError, absent_or_null, identifier, read_algorithm, read_whole_algorithm
from cmpd.asn1.der import DerError
from cmpd.asn1.oids import contents
from cmpd.cms.algorithms import KEK_OCTETS, WRAP_IDENTIFIER, KeyWrap, read_key_wrap, read_ukm
from cmpd.cms.recipient_id import RecipientId, read_agreement_recipient_id
from cmpd.frozen import frozen

AgreementPublicKey = ec.EllipticCurvePublicKey | x25519.X25519PublicKey | x448.X448PublicKey
AgreementPrivateKey = ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | x448.X448PrivateKey

_SHA256_KDF: Final = contents("1.3.132.1.11.1")
_SHA384_KDF: Final = contents("1.3.132.1.11.2")
_SHA512_KDF: Final = contents("1.3.132.1.11.3")

_Derive = Callable[[bytes, bytes, int], bytes]
"""(agreed secret, ECC-CMS-SharedInfo, octets) -> key-encryption key."""


def _x963(algorithm: hashes.HashAlgorithm) -> _Derive:
    return lambda secret, info, octets: X963KDF(algorithm, octets, info).derive(secret)


def _hkdf(algorithm: hashes.HashAlgorithm) -> _Derive:
    return lambda secret, info, octets: HKDF(algorithm, octets, None, info).derive(secret)


_SHA256_HKDF: Final = contents("1.2.840.113549.1.9.16.3.19")
_SHA512_HKDF: Final = contents("1.2.840.113549.1.9.16.3.21")
_HKDF_SCHEMES: Final[dict[bytes, _Derive]] = {
    _SHA256_HKDF: _hkdf(hashes.SHA256()),
    contents("1.2.840.113549.1.9.16.3.20"): _hkdf(hashes.SHA384()),
    _SHA512_HKDF: _hkdf(hashes.SHA512()),
}

SCHEMES: Final[dict[bytes, _Derive]] = {
    _SHA256_KDF: _x963(hashes.SHA256()),
    _SHA384_KDF: _x963(hashes.SHA384()),
    _SHA512_KDF: _x963(hashes.SHA512()),
    **_HKDF_SCHEMES,
}
"""dhSinglePass-stdDH schemes: standard Diffie-Hellman without cofactor multiplication, and their KDF."""

_VERSION: Final = 3


@frozen
class KeyAgreement:
    """The key is wrapped under what the recipient's key and `originator` (DER of a SubjectPublicKeyInfo) agree on.

    `scheme`: contents octets of a key of SCHEMES. `wrap_algorithm`: DER of the AlgorithmIdentifier.
    """

    recipient: RecipientId
    originator: bytes
    scheme: bytes
    wrap: KeyWrap
    wrap_algorithm: bytes
    ukm: bytes | None
    encrypted_key: bytes = field(repr=False)

    def unwrap(self, key: AgreementPrivateKey) -> bytes | None:
        """The content-encryption key; None if it is not for this key."""
        own = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            secret = agree(key, load_der_public_key(_with_algorithm_of(own, self.originator)))
        except (ValueError, TypeError):  # another kind of key, a point that is not on the curve, of small order
            return None
        octets = self.wrap.key_octets
        info = _shared_info(self.wrap_algorithm, self.ukm, octets)
        return self.wrap.unwrap(SCHEMES[self.scheme](secret, info, octets), self.encrypted_key)


def agreement_info(key: AgreementPublicKey, content_key: bytes, recipient: RecipientId) -> bytes:
    """DER of the RecipientInfo kari that has `content_key` for the holder of `key`. ValueError if the key is weak."""
    ephemeral, scheme = _ephemeral(key)
    spki = ephemeral.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = agree(ephemeral, key)
    wrapping_key = SCHEMES[scheme](secret, _shared_info(WRAP_IDENTIFIER, None, KEK_OCTETS), KEK_OCTETS)
    inner = der.header(spki, 0, len(spki))[1]
    encrypted = der.seq(recipient.encode(agreement=True), der.encode_octets(aes_key_wrap(wrapping_key, content_key)))
    return der.tlv(
        0xA1,
        der.encode_integer(_VERSION)
        + der.explicit(0, der.tlv(0xA1, spki[inner:]))  # OriginatorPublicKey is like a SubjectPublicKeyInfo
        + identifier(scheme, WRAP_IDENTIFIER)
        + der.seq(encrypted),
    )


def _ephemeral(key: AgreementPublicKey) -> tuple[AgreementPrivateKey, bytes]:
    if isinstance(key, x25519.X25519PublicKey):
        return x25519.X25519PrivateKey.generate(), _SHA256_HKDF
    if isinstance(key, x448.X448PublicKey):
        return x448.X448PrivateKey.generate(), _SHA512_HKDF
    bits = key.curve.key_size
    return ec.generate_private_key(key.curve), (
        _SHA256_KDF if bits <= 256 else _SHA384_KDF if bits <= 384 else _SHA512_KDF
    )


def agree(key: AgreementPrivateKey, public: PublicKeyTypes) -> bytes:
    """What a private and a public key agree on. TypeError: of different kinds; ValueError: curves, or small order."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(public, ec.EllipticCurvePublicKey):
        return key.exchange(ec.ECDH(), public)
    if isinstance(key, x25519.X25519PrivateKey) and isinstance(public, x25519.X25519PublicKey):
        return key.exchange(public)
    if isinstance(key, x448.X448PrivateKey) and isinstance(public, x448.X448PublicKey):
        return key.exchange(public)
    raise TypeError("the two keys are of different kinds")


def _with_algorithm_of(own: bytes, other: bytes) -> bytes:
    """`other` with the AlgorithmIdentifier of `own`: a sender may leave the curve out (RFC 5753 section 3.1.1)."""
    start = der.header(own, 0, len(own))[1]
    after = der.header(own, start, len(own))[2]
    first = der.header(other, 0, len(other))[1]
    oid = read_algorithm(own, start, len(own), "")[0]
    found, parameters, stop = read_algorithm(other, first, len(other), "")
    same = own[start:after] == other[first:stop]
    if not same and (found != oid or not absent_or_null(other, parameters, stop)):
        raise ValueError("the two keys are of different kinds")
    return der.seq(own[start:after], other[stop:])


def _shared_info(wrap: bytes, ukm: bytes | None, octets: int) -> bytes:
    """ECC-CMS-SharedInfo (RFC 5753 section 7.2)."""
    entity = b"" if ukm is None else der.explicit(0, der.encode_octets(ukm))
    return der.seq(wrap, entity, der.explicit(2, der.encode_octets((8 * octets).to_bytes(4, "big"))))


def read_agreement(data: bytes, pos: int, end: int) -> KeyAgreement:
    """Read the contents of a KeyAgreeRecipientInfo with one recipient. DerError or AlgorithmError."""
    start, pos = der.expect(data, pos, end, der.INTEGER, "KeyAgreeRecipientInfo version")
    if der.integer(data, start, pos, "KeyAgreeRecipientInfo version") != _VERSION:
        raise DerError(f"KeyAgreeRecipientInfo version: want {_VERSION}, have another")
    start, pos = der.expect(data, pos, end, 0xA0, "originator")
    first, last = der.expect(data, start, pos, 0xA1, "originatorKey")
    read_algorithm(data, first, last, "originatorKey algorithm")
    if last != pos:
        raise DerError("originator: octets after originatorKey")
    originator = der.tlv(der.SEQUENCE, data[first:last])
    ukm, pos = read_ukm(data, pos, end, 0xA1)
    after = read_algorithm(data, pos, end, "keyEncryptionAlgorithm")[2]
    scheme, at, _ = read_whole_algorithm(data[pos:after], "keyEncryptionAlgorithm")
    wrap_algorithm = data[pos:after][at:]
    if scheme not in SCHEMES:
        raise AlgorithmError(f"keyEncryptionAlgorithm: want dhSinglePass-stdDH, have {der.dotted(scheme)}")
    if ukm is not None and scheme in _HKDF_SCHEMES:
        raise AlgorithmError("ukm: want none with HKDF, have one")
    wrap = read_key_wrap(wrap_algorithm)
    if wrap.iv is not None:
        raise AlgorithmError("keyEncryptionAlgorithm: want AES key wrap (RFC 5753 section 7.1.5), have another")
    start, stop = der.expect(data, after, end, der.SEQUENCE, "recipientEncryptedKeys")
    first, last = der.expect(data, start, stop, der.SEQUENCE, "RecipientEncryptedKey")
    if stop != end or last != stop:
        raise DerError("KeyAgreeRecipientInfo: want one RecipientEncryptedKey, and nothing after it")
    recipient, after = read_agreement_recipient_id(data, first, last)
    start, stop = der.expect(data, after, last, der.OCTET_STRING, "encryptedKey")
    if stop != last:
        raise DerError("RecipientEncryptedKey: octets after encryptedKey")
    return KeyAgreement(recipient, originator, scheme, wrap, wrap_algorithm, ukm, data[start:stop])
