"""EncryptedKey taken apart by position (RFC 4211 section 2.1, RFC 5652 section 6.1, RFC 9483 section 4.1.6).

Versions: RFC 5652 gives EnvelopedData with a PasswordRecipientInfo version 3 and RFC 9483 version 0, and likewise they
differ about KeyTransRecipientInfo with issuerAndSerialNumber; senders follow either, and nothing hangs on it, so both
are taken. What is not DER or not of this form is BadDataFormat, an unknown algorithm or kind of recipient BadAlg.
"""

from dataclasses import field
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.algorithms import AlgorithmError, Pbkdf2, read_algorithm
from cmpd.asn1.der import DerError
from cmpd.asn1.oids import contents
from cmpd.cms.agreement import KeyAgreement, read_agreement
from cmpd.cms.algorithms import (
    BLOCK,
    PKCS1_IDENTIFIER,
    AesCbc,
    KeyWrap,
    read_aes_cbc,
    read_key_wrap,
    read_pbkdf2,
    read_rsa_padding,
)
from cmpd.cms.kem import KemTransport, read_kem
from cmpd.cms.recipient_id import RecipientId, read_recipient_id
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.frozen import frozen

ID_DATA: Final = contents("1.2.840.113549.1.7.1")
LOCAL_KEY_ID: Final = contents("1.2.840.113549.1.9.21")

ENVELOPED_DATA: Final = 0xA0
_MAX_VALUES: Final = 500
_MAX_ATTRIBUTES: Final = 16
_MAX_ENCRYPTED_KEY: Final = 2048  # octets: RSA of 16,384 bits
_VERSIONS: Final = frozenset({0, 2, 3})
_RECIPIENTS: Final = {
    0xA1: "KeyAgreeRecipientInfo",
    0xA2: "KEKRecipientInfo",
    0xA4: "OtherRecipientInfo",
}


@frozen
class KeyTransport:
    """The key is encrypted to a certificate. `recipient` None: EncryptedValue does not say to which."""

    recipient: RecipientId | None
    algorithm: bytes  # DER of an AlgorithmIdentifier that read_rsa_padding understands
    encrypted_key: bytes = field(repr=False)


@frozen
class Password:
    """The key is wrapped under a password."""

    derivation: Pbkdf2
    wrap: KeyWrap
    encrypted_key: bytes = field(repr=False)


@frozen
class EncryptedKey:
    """An EncryptedKey. `enveloped`: as EnvelopedData. `key_id`: localKeyId or valueHint, None if absent.

    `encrypted`: whole blocks of AES, at least one.
    """

    enveloped: bool
    transport: KeyTransport | Password | KeyAgreement | KemTransport
    cipher: AesCbc
    encrypted: bytes = field(repr=False)
    key_id: bytes | None


def read_encrypted_key(data: bytes, limit: int, *, end_entity: bool = False) -> EncryptedKey:
    """Read the DER of an EncryptedKey whose encrypted octets are at most `limit`. Raises BadDataFormat and BadAlg.

    `end_entity`: the recipient's key may be one for key agreement or ML-KEM too; otherwise these are BadAlg.
    """
    try:
        der.check(data, 0, len(data), limit=_MAX_VALUES)
        tag, start, stop = der.header(data, 0, len(data))
        if stop != len(data):
            raise DerError("want one value")
        if tag == ENVELOPED_DATA:
            found = _read_enveloped(data, start, stop, end_entity)
        else:
            found = _read_encrypted_value(data, tag, start, stop)
        if not found.encrypted or len(found.encrypted) % BLOCK or len(found.encrypted) > limit:
            raise DerError(
                f"encrypted octets: want whole blocks of {BLOCK} octets, at most {limit}, have {len(found.encrypted)}"
            )
    except DerError as fault:
        raise BadDataFormat(f"EncryptedKey: {fault}") from None
    except AlgorithmError as fault:
        raise BadAlg(f"EncryptedKey: {fault}") from None
    return found


# --- EnvelopedData ----------------------------------------------------------------------------------------------------


def _read_enveloped(data: bytes, pos: int, end: int, end_entity: bool) -> EncryptedKey:
    pos = _read_version(data, pos, end, "EnvelopedData")
    if pos < end and data[pos] == 0xA0:
        raise DerError("EnvelopedData: want no originatorInfo")
    start, pos = der.expect(data, pos, end, der.SET, "recipientInfos")
    recipients = der.children(data, start, pos, 100)
    if len(recipients) != 1:
        raise DerError(f"recipientInfos: want one RecipientInfo, have {len(recipients)} (RFC 9810 section 5.2.2)")
    transport = _read_recipient(data, *recipients[0], end_entity)
    start, pos = der.expect(data, pos, end, der.SEQUENCE, "encryptedContentInfo")
    cipher, encrypted = _read_content(data, start, pos)
    key_id = None
    if pos < end:
        start, pos = der.expect(data, pos, end, 0xA1, "unprotectedAttrs")
        key_id = _read_attributes(data, start, pos)
    if pos != end:
        raise DerError("EnvelopedData: octets after its last field")
    return EncryptedKey(True, transport, cipher, encrypted, key_id)


def _read_version(data: bytes, pos: int, end: int, noun: str) -> int:
    start, stop = der.expect(data, pos, end, der.INTEGER, f"{noun} version")
    version = der.integer(data, start, stop, f"{noun} version")
    if version not in _VERSIONS:
        raise DerError(f"{noun} version: want 0, 2 or 3, have another")
    return stop


def _read_recipient(
    data: bytes, tag: int, _pos: int, start: int, stop: int, end_entity: bool
) -> KeyTransport | Password | KeyAgreement | KemTransport:
    if end_entity and tag in (0xA1, 0xA4):
        found = read_agreement(data, start, stop) if tag == 0xA1 else read_kem(data, start, stop)
        _bound_key(len(found.encrypted_key))
        return found
    if tag == der.SEQUENCE:
        return _read_key_transport(data, start, stop)
    if tag == 0xA3:
        return _read_password(data, start, stop)
    if tag in _RECIPIENTS:
        raise AlgorithmError(
            f"RecipientInfo: want KeyTransRecipientInfo or PasswordRecipientInfo, have {_RECIPIENTS[tag]}"
        )
    raise DerError(f"RecipientInfo: unexpected tag {tag:02X}")


def _read_key_transport(data: bytes, pos: int, end: int) -> KeyTransport:
    pos = _read_version(data, pos, end, "KeyTransRecipientInfo")
    recipient, after = read_recipient_id(data, pos, end)
    algorithm, encrypted_key = _read_key(data, after, end, "KeyTransRecipientInfo")
    read_rsa_padding(algorithm)
    return KeyTransport(recipient, algorithm, encrypted_key)


def _read_password(data: bytes, pos: int, end: int) -> Password:
    pos = _read_version(data, pos, end, "PasswordRecipientInfo")
    start, after = der.expect(data, pos, end, 0xA0, "keyDerivationAlgorithm")
    derivation = read_pbkdf2(der.tlv(der.SEQUENCE, data[start:after]))
    algorithm, encrypted_key = _read_key(data, after, end, "PasswordRecipientInfo")
    wrap = read_key_wrap(algorithm)
    if derivation.key_octets not in (None, wrap.key_octets):
        raise AlgorithmError(f"PBKDF2 keyLength: want {wrap.key_octets}, as the key wrap needs, have another")
    return Password(derivation, wrap, encrypted_key)


def _read_key(data: bytes, pos: int, end: int, noun: str) -> tuple[bytes, bytes]:
    """(DER of keyEncryptionAlgorithm, encryptedKey), which end a RecipientInfo."""
    after = read_algorithm(data, pos, end, "keyEncryptionAlgorithm")[2]
    start, stop = der.expect(data, after, end, der.OCTET_STRING, "encryptedKey")
    if stop != end:
        raise DerError(f"{noun}: octets after encryptedKey")
    _bound_key(stop - start)
    return data[pos:after], data[start:stop]


def _bound_key(octets: int) -> None:
    if not 0 < octets <= _MAX_ENCRYPTED_KEY:
        raise DerError(f"encrypted key: want 1 to {_MAX_ENCRYPTED_KEY} octets, have {octets}")


def _read_content(data: bytes, pos: int, end: int) -> tuple[AesCbc, bytes]:
    start, pos = der.expect(data, pos, end, der.OID, "contentType")
    if data[start:pos] != ID_DATA:
        raise DerError(f"contentType: want id-data, have {der.dotted(data[start:pos])}")
    after = read_algorithm(data, pos, end, "contentEncryptionAlgorithm")[2]
    cipher = read_aes_cbc(data[pos:after], "contentEncryptionAlgorithm")
    start, stop = der.expect(data, after, end, 0x80, "encryptedContent")
    if stop != end:
        raise DerError("encryptedContentInfo: octets after encryptedContent")
    return cipher, data[start:stop]


def _read_attributes(data: bytes, pos: int, end: int) -> bytes | None:
    """The localKeyId among unprotectedAttrs (RFC 2985 section 5.5.2); other attributes are passed over."""
    key_id = None
    attributes = der.children(data, pos, end, _MAX_ATTRIBUTES)
    if not attributes:
        raise DerError("unprotectedAttrs: want at least one Attribute")
    for tag, _, start, stop in attributes:
        if tag != der.SEQUENCE:
            raise DerError(f"unprotectedAttrs: want Attribute, have tag {tag:02X}")
        first, after = der.expect(data, start, stop, der.OID, "Attribute")
        inner, last = der.expect(data, after, stop, der.SET, "Attribute values")
        if last != stop:
            raise DerError("Attribute: octets after its values")
        if data[first:after] != LOCAL_KEY_ID:
            continue
        if key_id is not None:
            raise DerError("localKeyId: want one, have two")
        begin, done = der.expect(data, inner, last, der.OCTET_STRING, "localKeyId")
        if done != last:
            raise DerError("localKeyId: want one value")
        key_id = data[begin:done]
    return key_id


# --- EncryptedValue ---------------------------------------------------------------------------------------------------


def _read_encrypted_value(data: bytes, tag: int, pos: int, end: int) -> EncryptedKey:
    if tag != der.SEQUENCE:
        raise DerError(f"want encryptedValue or envelopedData, have tag {tag:02X}")
    *optional, value = der.children(data, pos, end, 6) or [(0, 0, 0, 0)]
    if value[0] != der.BIT_STRING:
        raise DerError("EncryptedValue: want encValue as its last field")
    found: dict[int, bytes] = {}
    last = 0
    for mark, _, start, stop in optional:
        number = mark & 0x1F
        if mark not in (0xA0, 0xA1, 0x82, 0xA3, 0x84) or number < last:
            raise DerError(f"EncryptedValue: tag {mark:02X} is unknown or out of order")
        last = number + 1
        found[number] = der.tlv(der.SEQUENCE, data[start:stop]) if mark & 0x20 else data[start:stop]
    if 1 not in found or 2 not in found:
        raise DerError("EncryptedValue: want symmAlg and encSymmKey")
    encrypted_key = der.octet_aligned(found[2], 0, len(found[2]), "encSymmKey")
    _bound_key(len(encrypted_key))
    algorithm = found.get(3, PKCS1_IDENTIFIER)
    read_rsa_padding(algorithm)
    transport = KeyTransport(None, algorithm, encrypted_key)
    encrypted = der.octet_aligned(data, value[2], value[3], "encValue")
    return EncryptedKey(False, transport, read_aes_cbc(found[1], "symmAlg"), encrypted, found.get(4))
