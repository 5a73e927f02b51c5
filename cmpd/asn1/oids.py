"""OBJECT IDENTIFIERs as contents octets, under the names that the RFCs give them.

Octets are what a reader by position finds in a message, so tables keyed by them need no conversion. `der.dotted` gives
the form for texts. The names of attributes in a Name are in names.py.
"""

from typing import Final

from cmpd.asn1 import der


def contents(dotted_form: str) -> bytes:
    """The contents octets of an OBJECT IDENTIFIER (at most 127 octets) from its dotted form."""
    return der.encode_oid(dotted_form)[2:]


# Password-based MACs (RFC 9481 section 6.1)
PASSWORD_BASED_MAC: Final = contents("1.2.840.113533.7.66.13")
PBMAC1: Final = contents("1.2.840.113549.1.5.14")
PBKDF2: Final = contents("1.2.840.113549.1.5.12")

# MACs by an agreed key (RFC 9810 sections 5.1.3.2 and 5.1.3.4), and what brings a KEM's ciphertext (section 5.1.1.5)
DH_BASED_MAC: Final = contents("1.2.840.113533.7.66.30")
KEM_BASED_MAC: Final = contents("1.2.840.113533.7.66.16")
KEM_CIPHERTEXT_INFO: Final = contents("1.3.6.1.5.5.7.4.24")

# Hash functions (RFC 9481 section 2, RFC 9688 section 2)
SHA1: Final = contents("1.3.14.3.2.26")
SHA224: Final = contents("2.16.840.1.101.3.4.2.4")
SHA256: Final = contents("2.16.840.1.101.3.4.2.1")
SHA384: Final = contents("2.16.840.1.101.3.4.2.2")
SHA512: Final = contents("2.16.840.1.101.3.4.2.3")
SHA3_224: Final = contents("2.16.840.1.101.3.4.2.7")
SHA3_256: Final = contents("2.16.840.1.101.3.4.2.8")
SHA3_384: Final = contents("2.16.840.1.101.3.4.2.9")
SHA3_512: Final = contents("2.16.840.1.101.3.4.2.10")
SHAKE128: Final = contents("2.16.840.1.101.3.4.2.11")
SHAKE256: Final = contents("2.16.840.1.101.3.4.2.12")

# HMAC (RFC 9481 section 6.2.1). HMAC-SHA1 has two: PKCS #5's, and the one of RFC 2510 and 4210.
HMAC_SHA1: Final = contents("1.2.840.113549.2.7")
HMAC_SHA1_IPSEC: Final = contents("1.3.6.1.5.5.8.1.2")
HMAC_SHA224: Final = contents("1.2.840.113549.2.8")
HMAC_SHA256: Final = contents("1.2.840.113549.2.9")
HMAC_SHA384: Final = contents("1.2.840.113549.2.10")
HMAC_SHA512: Final = contents("1.2.840.113549.2.11")
HMAC_SHA3_224: Final = contents("2.16.840.1.101.3.4.2.13")  # RFC 9688 section 4
HMAC_SHA3_256: Final = contents("2.16.840.1.101.3.4.2.14")
HMAC_SHA3_384: Final = contents("2.16.840.1.101.3.4.2.15")
HMAC_SHA3_512: Final = contents("2.16.840.1.101.3.4.2.16")

# Other MACs (RFC 9481 sections 6.2.2 and 6.2.3)
AES128_GMAC: Final = contents("2.16.840.1.101.3.4.1.9")
AES192_GMAC: Final = contents("2.16.840.1.101.3.4.1.29")
AES256_GMAC: Final = contents("2.16.840.1.101.3.4.1.49")
KMAC_WITH_SHAKE128: Final = contents("2.16.840.1.101.3.4.2.19")
KMAC_WITH_SHAKE256: Final = contents("2.16.840.1.101.3.4.2.20")

# HKDF (RFC 8619, RFC 9688 section 5.1)
HKDF_WITH_SHA256: Final = contents("1.2.840.113549.1.9.16.3.28")
HKDF_WITH_SHA384: Final = contents("1.2.840.113549.1.9.16.3.29")
HKDF_WITH_SHA512: Final = contents("1.2.840.113549.1.9.16.3.30")
HKDF_WITH_SHA3_256: Final = contents("1.2.840.113549.1.9.16.3.33")
HKDF_WITH_SHA3_384: Final = contents("1.2.840.113549.1.9.16.3.34")
HKDF_WITH_SHA3_512: Final = contents("1.2.840.113549.1.9.16.3.35")

# Signatures (RFC 9481 section 3, RFC 4055, RFC 5758, RFC 8410, RFC 8692, RFC 9688 section 3, RFC 9881)
SHA224_WITH_RSA: Final = contents("1.2.840.113549.1.1.14")
SHA256_WITH_RSA: Final = contents("1.2.840.113549.1.1.11")
SHA384_WITH_RSA: Final = contents("1.2.840.113549.1.1.12")
SHA512_WITH_RSA: Final = contents("1.2.840.113549.1.1.13")
RSASSA_PSS: Final = contents("1.2.840.113549.1.1.10")
MGF1: Final = contents("1.2.840.113549.1.1.8")
RSASSA_PSS_SHAKE128: Final = contents("1.3.6.1.5.5.7.6.30")
RSASSA_PSS_SHAKE256: Final = contents("1.3.6.1.5.5.7.6.31")
ECDSA_WITH_SHA224: Final = contents("1.2.840.10045.4.3.1")
ECDSA_WITH_SHA256: Final = contents("1.2.840.10045.4.3.2")
ECDSA_WITH_SHA384: Final = contents("1.2.840.10045.4.3.3")
ECDSA_WITH_SHA512: Final = contents("1.2.840.10045.4.3.4")
ECDSA_WITH_SHAKE128: Final = contents("1.3.6.1.5.5.7.6.32")
ECDSA_WITH_SHAKE256: Final = contents("1.3.6.1.5.5.7.6.33")
ED25519: Final = contents("1.3.101.112")
ED448: Final = contents("1.3.101.113")
ECDSA_WITH_SHA3_256: Final = contents("2.16.840.1.101.3.4.3.10")
ECDSA_WITH_SHA3_384: Final = contents("2.16.840.1.101.3.4.3.11")
ECDSA_WITH_SHA3_512: Final = contents("2.16.840.1.101.3.4.3.12")
SHA3_256_WITH_RSA: Final = contents("2.16.840.1.101.3.4.3.14")
SHA3_384_WITH_RSA: Final = contents("2.16.840.1.101.3.4.3.15")
SHA3_512_WITH_RSA: Final = contents("2.16.840.1.101.3.4.3.16")
ML_DSA_44: Final = contents("2.16.840.1.101.3.4.3.17")
ML_DSA_65: Final = contents("2.16.840.1.101.3.4.3.18")
ML_DSA_87: Final = contents("2.16.840.1.101.3.4.3.19")

# Signatures that are recognised only to say why they are refused
MD2_WITH_RSA: Final = contents("1.2.840.113549.1.1.2")
MD5_WITH_RSA: Final = contents("1.2.840.113549.1.1.4")
SHA1_WITH_RSA: Final = contents("1.2.840.113549.1.1.5")
SHA1_WITH_RSA_OIW: Final = contents("1.3.14.3.2.29")
DSA_WITH_SHA1: Final = contents("1.2.840.10040.4.3")
ECDSA_WITH_SHA1: Final = contents("1.2.840.10045.4.1")
MD4_WITH_RSA: Final = contents("1.2.840.113549.1.1.3")
DSA_WITH_SHA1_OIW: Final = contents("1.3.14.3.2.27")
ECDSA_WITH_SHA3_224: Final = contents("2.16.840.1.101.3.4.3.9")
SHA3_224_WITH_RSA: Final = contents("2.16.840.1.101.3.4.3.13")

# Certificate extensions
SUBJECT_KEY_IDENTIFIER: Final = contents("2.5.29.14")
