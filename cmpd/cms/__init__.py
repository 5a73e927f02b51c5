"""EncryptedKey (RFC 4211 section 2.1, RFC 9810 section 5.2.2) in both directions, for octets that one recipient reads.

reading.py takes one apart by position, strictly and bounded, and decides nothing; opening.py gives the octets that were
encrypted; building.py makes them; algorithms.py has what the algorithm identifiers mean. Of CMS (RFC 5652) there is
EnvelopedData with exactly one RecipientInfo: key transport by RSA, or a password; to end entities also key agreement
(agreement.py) and ML-KEM (kem.py). public_keys.py is for keys that have no certificate yet.
"""

from cmpd.cms.building import encrypted_value_for_certificate, envelope_for_certificate, envelope_for_password
from cmpd.cms.opening import CannotDecrypt, DerivationLimits, open_encrypted_key
from cmpd.cms.public_keys import (
    DecryptionPrivateKey,
    EncryptionPublicKey,
    decrypt_rsa,
    encrypted_value_for_key,
    envelope_for_key,
    open_with_private_key,
)
from cmpd.cms.reading import EncryptedKey, KeyTransport, Password, read_encrypted_key
from cmpd.cms.recipient_id import RecipientId

__all__ = [
    "CannotDecrypt",
    "DecryptionPrivateKey",
    "DerivationLimits",
    "EncryptedKey",
    "EncryptionPublicKey",
    "KeyTransport",
    "Password",
    "RecipientId",
    "decrypt_rsa",
    "encrypted_value_for_certificate",
    "encrypted_value_for_key",
    "envelope_for_certificate",
    "envelope_for_key",
    "envelope_for_password",
    "open_encrypted_key",
    "open_with_private_key",
    "read_encrypted_key",
]
