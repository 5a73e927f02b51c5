"""EncryptedKey made: for the certificate that a server gives as caProtEncCert, or under a shared secret.

AES-256-CBC with a new key each time (RFC 9810 section 5.2.2). To a certificate the key goes under RSAES-OAEP with
SHA-256; in EncryptedValue, the form of messages with pvno 2, under PKCS #1 v1.5. Under a secret it is wrapped by
AES-256 key wrap with a key from PBKDF2-HMAC-SHA256.
"""

import hashlib
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from cmpd.asn1 import der
from cmpd.asn1.algorithms import hash_identifier, hmac_identifier, identifier
from cmpd.asn1.oids import MGF1, PBKDF2
from cmpd.cms.algorithms import AES256_CBC, BLOCK, KEK_OCTETS, PKCS1_IDENTIFIER, RSAES_OAEP, WRAP_IDENTIFIER
from cmpd.cms.reading import ENVELOPED_DATA, ID_DATA, LOCAL_KEY_ID
from cmpd.cms.recipient_id import RecipientId
from cmpd.env import Env

ITERATIONS: Final = 10_000
"""Of PBKDF2 for a shared secret; more than DerivationLimits.max_iterations a server may refuse."""

CONTENT_KEY: Final = 32  # octets
_SALT: Final = 16
_SHA256: Final = hash_identifier("sha256")
_OAEP_IDENTIFIER: Final = identifier(
    RSAES_OAEP, der.seq(der.explicit(0, _SHA256), der.explicit(1, identifier(MGF1, _SHA256)))
)
_OAEP_PADDING: Final = rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def envelope_for_certificate(plaintext: bytes, certificate: bytes, key_id: bytes | None, env: Env) -> bytes:
    """DER of EncryptedKey [0] EnvelopedData for the RSA key of a certificate (DER); `key_id` goes into localKeyId.

    ValueError if nothing can be encrypted to this certificate.
    """
    loaded, key = _recipient(certificate)
    content_key = env.random(CONTENT_KEY)
    _, info = transport_info(key, content_key, _recipient_id(loaded, certificate))
    return enveloped(2, info, plaintext, content_key, key_id, env)


def envelope_for_password(
    plaintext: bytes, secret: bytes, key_id: bytes | None, env: Env, *, iterations: int = ITERATIONS
) -> bytes:
    """DER of EncryptedKey [0] EnvelopedData under the shared secret that also protects the message by a MAC."""
    salt, content_key = env.random(_SALT), env.random(CONTENT_KEY)
    wrapping_key = hashlib.pbkdf2_hmac("sha256", secret, salt, iterations, KEK_OCTETS)
    parameters = der.seq(der.encode_octets(salt), der.encode_integer(iterations), hmac_identifier("sha256"))
    info = der.tlv(
        0xA3,
        der.encode_integer(0)
        + der.tlv(0xA0, der.tlv(der.OID, PBKDF2) + parameters)
        + WRAP_IDENTIFIER
        + der.encode_octets(aes_key_wrap(wrapping_key, content_key)),
    )
    return enveloped(3, info, plaintext, content_key, key_id, env)


def transport_info(key: rsa.RSAPublicKey, content_key: bytes, recipient: RecipientId) -> tuple[int, bytes]:
    """(version, DER) of the RecipientInfo ktri that has `content_key` for the holder of an RSA key."""
    version = 0 if recipient.key_identifier is None else 2
    encrypted = der.encode_octets(key.encrypt(content_key, _OAEP_PADDING))
    return version, der.seq(der.encode_integer(version), recipient.encode(), _OAEP_IDENTIFIER, encrypted)


def encrypted_value_for_certificate(plaintext: bytes, certificate: bytes, key_id: bytes | None, env: Env) -> bytes:
    """DER of EncryptedKey encryptedValue, which messages with pvno 2 have; `key_id` goes into valueHint."""
    _, key = _recipient(certificate)
    content_key = env.random(CONTENT_KEY)
    return encrypted_value(plaintext, key, content_key, key_id, env)


def encrypted_value(
    plaintext: bytes, key: rsa.RSAPublicKey, content_key: bytes, key_id: bytes | None, env: Env
) -> bytes:
    """DER of EncryptedKey encryptedValue for an RSA key."""
    cipher, encrypted = encrypt_content(plaintext, content_key, env)
    encrypted_key = key.encrypt(content_key, rsa_padding.PKCS1v15())
    return der.seq(
        _retag(0xA1, cipher),
        _retag(0x82, der.encode_bits(encrypted_key)),
        _retag(0xA3, PKCS1_IDENTIFIER),
        b"" if key_id is None else der.tlv(0x84, key_id),
        der.encode_bits(encrypted),
    )


def enveloped(
    version: int, recipient: bytes, plaintext: bytes, content_key: bytes, key_id: bytes | None, env: Env
) -> bytes:
    """DER of EncryptedKey [0] EnvelopedData with this RecipientInfo (DER)."""
    cipher, encrypted = encrypt_content(plaintext, content_key, env)
    attributes = b""
    if key_id is not None:
        values = der.tlv(der.SET, der.encode_octets(key_id))
        attributes = der.tlv(0xA1, der.seq(der.tlv(der.OID, LOCAL_KEY_ID), values))
    return der.tlv(
        ENVELOPED_DATA,
        der.encode_integer(version)
        + der.tlv(der.SET, recipient)
        + der.seq(der.tlv(der.OID, ID_DATA), cipher, der.tlv(0x80, encrypted))
        + attributes,
    )


def encrypt_content(plaintext: bytes, key: bytes, env: Env) -> tuple[bytes, bytes]:
    """(DER of the AlgorithmIdentifier, encrypted octets)."""
    iv = env.random(BLOCK)
    padder = padding.PKCS7(8 * BLOCK).padder()
    clear = padder.update(plaintext) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    return identifier(AES256_CBC, der.encode_octets(iv)), encryptor.update(clear) + encryptor.finalize()


def _recipient(certificate: bytes) -> tuple[x509.Certificate, rsa.RSAPublicKey]:
    loaded = x509.load_der_x509_certificate(certificate)
    key = loaded.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError(f"encryption certificate: want an RSA key, have {type(key).__name__}")
    try:
        usage = loaded.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return loaded, key
    if not usage.key_encipherment:
        raise ValueError("encryption certificate: want keyEncipherment in keyUsage, have others")
    return loaded, key


def _recipient_id(loaded: x509.Certificate, certificate: bytes) -> RecipientId:
    """How a certificate (`certificate` is its DER) is named: by its SubjectKeyIdentifier if it has one."""
    try:
        identifiers = loaded.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        pass
    else:
        return RecipientId(key_identifier=identifiers.value.digest)
    start, stop = der.header(certificate, 0, len(certificate))[1:]
    start, stop = der.header(certificate, start, stop)[1:]
    fields = [place for tag, *place in der.children(certificate, start, stop) if tag != 0xA0]  # without version
    (_, serial, serial_end), _, (issuer, _, issuer_end), *_ = fields
    return RecipientId(issuer=certificate[issuer:issuer_end], serial=certificate[serial:serial_end])


def _retag(tag: int, value: bytes) -> bytes:
    _, start, stop = der.header(value, 0, len(value))
    return der.tlv(tag, value[start:stop])
