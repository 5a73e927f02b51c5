"""Encrypting to a key that is not certified yet, and decrypting with the private key of it (RFC 9810 section 5.2.2).

The kind of key decides: RSA takes the content-encryption key itself, (EC)DH keys agree on one that wraps it, ML-KEM
keys get one encapsulated. EncryptedValue, the form of messages with pvno 2, has no way but RSA.
"""

from cryptography.hazmat.primitives.asymmetric import mlkem, padding, rsa
from cryptography.hazmat.primitives.padding import PKCS7

from cmpd.cms.agreement import AgreementPrivateKey, AgreementPublicKey, KeyAgreement, agreement_info
from cmpd.cms.algorithms import BLOCK, read_rsa_padding
from cmpd.cms.building import CONTENT_KEY, encrypted_value, enveloped, transport_info
from cmpd.cms.kem import KemPrivateKey, KemPublicKey, KemTransport, kem_info
from cmpd.cms.opening import CannotDecrypt
from cmpd.cms.reading import EncryptedKey, KeyTransport
from cmpd.cms.recipient_id import RecipientId
from cmpd.env import Env

EncryptionPublicKey = rsa.RSAPublicKey | AgreementPublicKey | KemPublicKey
DecryptionPrivateKey = rsa.RSAPrivateKey | AgreementPrivateKey | KemPrivateKey


def envelope_for_key(plaintext: bytes, key: EncryptionPublicKey, recipient: RecipientId, env: Env) -> bytes:
    """DER of EncryptedKey [0] EnvelopedData for the holder of `key`. ValueError if nothing can be encrypted to it."""
    content_key = env.random(CONTENT_KEY)
    if isinstance(key, rsa.RSAPublicKey):
        version, info = transport_info(key, content_key, recipient)
        return enveloped(version, info, plaintext, content_key, None, env)
    if isinstance(key, mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey):
        return enveloped(3, kem_info(key, content_key, recipient), plaintext, content_key, None, env)
    return enveloped(2, agreement_info(key, content_key, recipient), plaintext, content_key, None, env)


def encrypted_value_for_key(plaintext: bytes, key: rsa.RSAPublicKey, env: Env) -> bytes:
    """DER of EncryptedKey encryptedValue for the holder of an RSA key."""
    return encrypted_value(plaintext, key, env.random(CONTENT_KEY), None, env)


def open_with_private_key(found: EncryptedKey, key: DecryptionPrivateKey) -> bytes:
    """The octets that were encrypted to the holder of `key`. CannotDecrypt.

    For who made the request: nobody else learns from what follows how the decryption went.
    """
    content_key = _content_key(found, key)
    if content_key is None or len(content_key) != found.cipher.key_octets:
        raise CannotDecrypt("not encrypted to this key")
    unpadder = PKCS7(8 * BLOCK).unpadder()
    try:
        return unpadder.update(found.cipher.decrypt(content_key, found.encrypted)) + unpadder.finalize()
    except ValueError:
        raise CannotDecrypt("wrong padding") from None


def decrypt_rsa(key: DecryptionPrivateKey, octets: bytes) -> bytes:
    """What was encrypted directly under PKCS #1 v1.5, as the challenge of messages with pvno 2. CannotDecrypt."""
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CannotDecrypt("not encrypted to this kind of key")
    try:
        return key.decrypt(octets, padding.PKCS1v15())
    except ValueError:
        raise CannotDecrypt("wrong padding") from None


def _content_key(found: EncryptedKey, key: DecryptionPrivateKey) -> bytes | None:
    transport = found.transport
    if isinstance(transport, KeyTransport) and isinstance(key, rsa.RSAPrivateKey):
        try:
            return key.decrypt(transport.encrypted_key, read_rsa_padding(transport.algorithm))
        except ValueError:
            return None
    if isinstance(transport, KeyAgreement) and isinstance(key, AgreementPrivateKey):
        return transport.unwrap(key)
    if isinstance(transport, KemTransport) and isinstance(key, KemPrivateKey):
        return transport.unwrap(key)
    return None
