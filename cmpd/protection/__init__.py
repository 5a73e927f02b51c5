"""PKIProtection: verifying requests and protecting answers. The table of algorithms is in schemes.py."""

from cmpd.protection.certhash import certificate_hash, hash_by_algorithm
from cmpd.protection.schemes import MAC_SCHEMES, SCHEMES, SIGNATURE_SCHEMES, mac_scheme, signature_scheme
from cmpd.protection.verify import channel_credential, verify

__all__ = [
    "MAC_SCHEMES",
    "SCHEMES",
    "SIGNATURE_SCHEMES",
    "certificate_hash",
    "channel_credential",
    "hash_by_algorithm",
    "mac_scheme",
    "signature_scheme",
    "verify",
]
