"""EncryptedKey (RFC 4211 section 2.1, RFC 9810 section 5.2.2) in both directions, for octets that one recipient reads.

reading.py takes one apart by position, strictly and bounded, and decides nothing; opening.py gives the octets that were
encrypted; building.py makes them; algorithms.py has what the algorithm identifiers mean. Of CMS (RFC 5652) there is
EnvelopedData with exactly one RecipientInfo: key transport by RSA, or a password. No key agreement.
"""

from cmpd.cms.building import encrypted_value_for_certificate, envelope_for_certificate, envelope_for_password
from cmpd.cms.opening import CannotDecrypt, DerivationLimits, open_encrypted_key
from cmpd.cms.reading import EncryptedKey, KeyTransport, Password, RecipientId, read_encrypted_key

__all__ = [
    "CannotDecrypt",
    "DerivationLimits",
    "EncryptedKey",
    "KeyTransport",
    "Password",
    "RecipientId",
    "encrypted_value_for_certificate",
    "envelope_for_certificate",
    "envelope_for_password",
    "open_encrypted_key",
    "read_encrypted_key",
]
