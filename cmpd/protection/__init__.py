"""PKIProtection: verifying requests and protecting answers. The table of algorithms is in schemes.py."""

from cmpd.protection.certhash import certificate_hash, hash_by_algorithm
from cmpd.protection.schemes import KEY_MAC_SCHEMES, MAC_SCHEMES, SCHEMES, key_mac_scheme, mac_scheme
from cmpd.protection.verify import channel_credential, verify
from cmpd.signatures import SIGNATURE_SCHEMES, signature_scheme

__all__ = [
    "KEY_MAC_SCHEMES",
    "MAC_SCHEMES",
    "SCHEMES",
    "SIGNATURE_SCHEMES",
    "certificate_hash",
    "channel_credential",
    "hash_by_algorithm",
    "key_mac_scheme",
    "mac_scheme",
    "signature_scheme",
    "verify",
]
