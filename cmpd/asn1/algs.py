# mypy: disallow-subclassing-any=False
# ruff: noqa: RUF012
# (asn1crypto has no types, and completes the lists and maps of a class in place when it is first used.)
"""Algorithm identifiers and keys: what asn1crypto lacks for CMP.

asn1crypto has one AlgorithmIdentifier for every purpose, each with a closed set of names. CMP uses the same field for
MACs, hashes, signatures, key types and symmetric ciphers, so here is one class for all of them. An unknown OID is no
error: its name is the dotted form and its parameters stay `Any`. The same holds for public keys, where asn1crypto
raises KeyError for each algorithm it does not know (ML-DSA, for one); certificates and requests are therefore
defined again with our SubjectPublicKeyInfo. Nothing of asn1crypto is changed.
"""

from typing import Any as AnyType

from asn1crypto import algos, core, csr, keys, x509

__all__ = [
    "AlgorithmId",
    "AlgorithmIdentifier",
    "Certificate",
    "CertificationRequest",
    "DHBMParameter",
    "KemBMParameter",
    "NonEmptySequenceOf",
    "PBMAC1Params",
    "PBMParameter",
    "SubjectPublicKeyInfo",
]


class NonEmptySequenceOf(core.SequenceOf):
    """SEQUENCE SIZE (1..MAX) OF; `strict.load_strict` refuses an empty one."""


class AlgorithmId(core.ObjectIdentifier):
    """Names of algorithms: asn1crypto's where it has one, else the RFC's without `id-`."""

    _map = {
        # MACs: RFC 9810 section 5.1.3, RFC 8018 appendix A.5, RFC 4231, RFC 9481 section 6
        "1.2.840.113533.7.66.13": "PasswordBasedMac",
        "1.2.840.113533.7.66.30": "DHBasedMac",
        "1.2.840.113533.7.66.16": "KemBasedMac",
        "1.2.840.113549.1.5.14": "PBMAC1",
        "1.3.6.1.5.5.8.1.2": "HMAC-SHA1",
        "1.2.840.113549.2.7": "hmacWithSHA1",
        "1.2.840.113549.2.8": "hmacWithSHA224",
        "1.2.840.113549.2.9": "hmacWithSHA256",
        "1.2.840.113549.2.10": "hmacWithSHA384",
        "1.2.840.113549.2.11": "hmacWithSHA512",
        # hashes
        "1.3.14.3.2.26": "sha1",
        "2.16.840.1.101.3.4.2.4": "sha224",
        "2.16.840.1.101.3.4.2.1": "sha256",
        "2.16.840.1.101.3.4.2.2": "sha384",
        "2.16.840.1.101.3.4.2.3": "sha512",
        "2.16.840.1.101.3.4.2.11": "shake128",
        "2.16.840.1.101.3.4.2.12": "shake256",
        # signatures
        "1.2.840.113549.1.1.5": "sha1_rsa",
        "1.2.840.113549.1.1.14": "sha224_rsa",
        "1.2.840.113549.1.1.11": "sha256_rsa",
        "1.2.840.113549.1.1.12": "sha384_rsa",
        "1.2.840.113549.1.1.13": "sha512_rsa",
        "1.2.840.113549.1.1.10": "rsassa_pss",
        "1.2.840.10045.4.1": "sha1_ecdsa",
        "1.2.840.10045.4.3.1": "sha224_ecdsa",
        "1.2.840.10045.4.3.2": "sha256_ecdsa",
        "1.2.840.10045.4.3.3": "sha384_ecdsa",
        "1.2.840.10045.4.3.4": "sha512_ecdsa",
        "1.3.101.112": "ed25519",
        "1.3.101.113": "ed448",
        "2.16.840.1.101.3.4.3.17": "ml_dsa_44",
        "2.16.840.1.101.3.4.3.18": "ml_dsa_65",
        "2.16.840.1.101.3.4.3.19": "ml_dsa_87",
        # keys
        "1.2.840.113549.1.1.1": "rsa",
        "1.2.840.10045.2.1": "ec",
        "1.3.101.110": "x25519",
        "1.3.101.111": "x448",
        # ciphers and key derivation
        "1.2.840.113549.3.7": "tripledes_3key",
        "2.16.840.1.101.3.4.1.2": "aes128_cbc",
        "2.16.840.1.101.3.4.1.22": "aes192_cbc",
        "2.16.840.1.101.3.4.1.42": "aes256_cbc",
        "1.2.840.113549.1.5.12": "pbkdf2",
    }


class AlgorithmIdentifier(core.Sequence):
    """AlgorithmIdentifier (RFC 5280 section 4.1.1.2).

    NULL parameters are neither added nor demanded: RFC 4055 wants them for RSA and RFC 5754 wants none for SHA-2, and
    each asks the reader to take both.
    """

    _fields = [("algorithm", AlgorithmId), ("parameters", core.Any, {"optional": True})]
    _oid_pair = ("algorithm", "parameters")
    _oid_specs = {
        "sha1": core.Null,
        "sha224": core.Null,
        "sha256": core.Null,
        "sha384": core.Null,
        "sha512": core.Null,
        "rsa": core.Null,
        "sha1_rsa": core.Null,
        "sha224_rsa": core.Null,
        "sha256_rsa": core.Null,
        "sha384_rsa": core.Null,
        "sha512_rsa": core.Null,
        "rsassa_pss": algos.RSASSAPSSParams,
        "ec": keys.ECDomainParameters,
        "pbkdf2": algos.Pbkdf2Params,
    }


class PBMParameter(core.Sequence):
    """PBMParameter (RFC 9810 section 5.1.3.1, RFC 4211 section 4.4)."""

    _fields = [
        ("salt", core.OctetString),
        ("owf", AlgorithmIdentifier),
        ("iteration_count", core.Integer),
        ("mac", AlgorithmIdentifier),
    ]


class DHBMParameter(core.Sequence):
    """DHBMParameter (RFC 9810 section 5.1.3.2)."""

    _fields = [("owf", AlgorithmIdentifier), ("mac", AlgorithmIdentifier)]


class KemBMParameter(core.Sequence):
    """KemBMParameter (RFC 9810 section 5.1.3.4). `len` is in octets."""

    _fields = [
        ("kdf", AlgorithmIdentifier),
        ("kem_context", core.OctetString, {"explicit": 0, "optional": True}),
        ("len", core.Integer),
        ("mac", AlgorithmIdentifier),
    ]


class PBMAC1Params(core.Sequence):
    """PBMAC1-params (RFC 8018 appendix A.5)."""

    _fields = [("key_derivation_func", AlgorithmIdentifier), ("message_auth_scheme", AlgorithmIdentifier)]


AlgorithmIdentifier._oid_specs |= {
    "PasswordBasedMac": PBMParameter,
    "DHBasedMac": DHBMParameter,
    "KemBasedMac": KemBMParameter,
    "PBMAC1": PBMAC1Params,
}


class SubjectPublicKeyInfo(keys.PublicKeyInfo):
    """SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7); a key of an unknown algorithm is an opaque BIT STRING."""

    def _public_key_spec(self) -> AnyType:
        if self["algorithm"]["algorithm"].native in keys.PublicKeyAlgorithmId._map.values():
            return super()._public_key_spec()
        return core.OctetBitString, None

    _spec_callbacks = {"public_key": _public_key_spec}


def _with_our_key(fields: list[AnyType]) -> list[AnyType]:
    return [(name, SubjectPublicKeyInfo if spec is keys.PublicKeyInfo else spec, *rest) for name, spec, *rest in fields]


class TBSCertificate(x509.TbsCertificate):
    """TBSCertificate (RFC 5280 section 4.1)."""

    _fields = _with_our_key(x509.TbsCertificate._fields)


class Certificate(x509.Certificate):
    """Certificate (RFC 5280 section 4.1), with all properties of asn1crypto's."""

    _fields = [("tbs_certificate", TBSCertificate), *x509.Certificate._fields[1:]]


class CertificationRequestInfo(csr.CertificationRequestInfo):
    """CertificationRequestInfo (RFC 2986 section 4.1)."""

    _fields = _with_our_key(csr.CertificationRequestInfo._fields)


class CertificationRequest(csr.CertificationRequest):
    """CertificationRequest (RFC 2986 section 4.2)."""

    _fields = [("certification_request_info", CertificationRequestInfo), *csr.CertificationRequest._fields[1:]]
