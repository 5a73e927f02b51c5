"""AlgorithmIdentifiers: read strictly by position and looked up in tables.

A table says for each OID what hash it means; what is not in a table is not supported. Errors of form are DerError,
errors of content AlgorithmError, and both are ValueErrors that the caller turns into an answer. SHA-1 is in the tables
of hashes and MACs because PasswordBasedMac still meets it, but in none for signatures.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes

from cmpd.asn1 import der, oids
from cmpd.frozen import frozen


class AlgorithmError(ValueError):
    """An algorithm or a parameter that is not supported; str() says which, fit for the peer."""


_WELL_FORMED: Final = frozenset(value for value in vars(oids).values() if isinstance(value, bytes))
"""OIDs that need no check, which would take half of the time of reading an AlgorithmIdentifier."""

# --- reading ----------------------------------------------------------------------------------------------------------


def read_algorithm(data: bytes, pos: int, end: int, noun: str) -> tuple[bytes, int, int]:
    """Read the AlgorithmIdentifier at `pos`: (contents of its OID, position of the parameters, position after it).

    The two positions are equal if the parameters are absent. DerError if the value is not an AlgorithmIdentifier.
    """
    start, after = der.expect(data, pos, end, der.SEQUENCE, noun)
    first, last = der.expect(data, start, after, der.OID, noun)
    oid = data[first:last]
    if oid not in _WELL_FORMED:
        der.check_oid(data, first, last, noun)
    if last != after and der.header(data, last, after)[2] != after:
        raise der.DerError(f"{noun}: more than one value as parameters")
    return oid, last, after


def read_whole_algorithm(data: bytes, noun: str) -> tuple[bytes, int, int]:
    """Like `read_algorithm` for an AlgorithmIdentifier that must fill `data`."""
    found = read_algorithm(data, 0, len(data), noun)
    if found[2] != len(data):
        raise der.DerError(f"{noun}: octets after the AlgorithmIdentifier")
    return found


def absent_or_null(data: bytes, pos: int, end: int) -> bool:
    """Whether the parameters in [pos, end) are absent or NULL."""
    return pos == end or data[pos:end] == der.NULL_TLV


def read_named(data: bytes, pos: int, end: int, table: dict[bytes, str], noun: str) -> tuple[str, int]:
    """Read an AlgorithmIdentifier that is in `table` and has no parameters: (its value, position after).

    NULL is as good as none for SHA-1, SHA-2 and HMAC with them (RFC 5754 section 2), but not for SHA-3 and SHAKE (RFC
    9688 section 2, RFC 8702 section 3). AlgorithmError if it is not in the table or has parameters.
    """
    oid, params, after = read_algorithm(data, pos, end, noun)
    name = table.get(oid)
    if name is None:
        raise AlgorithmError(f"{noun}: algorithm {der.dotted(oid)} is not supported")
    if params != after and (oid in _NEVER_NULL or data[params:after] != der.NULL_TLV):
        wanted = "no parameters" if oid in _NEVER_NULL else "no parameters or NULL"
        raise AlgorithmError(f"{noun}: want {wanted} with {name}, have others")
    return name, after


_NEVER_NULL: Final = frozenset(
    {
        oids.SHA3_224,
        oids.SHA3_256,
        oids.SHA3_384,
        oids.SHA3_512,
        oids.SHAKE128,
        oids.SHAKE256,
        oids.HMAC_SHA3_224,
        oids.HMAC_SHA3_256,
        oids.HMAC_SHA3_384,
        oids.HMAC_SHA3_512,
    }
)
"""Hashes and MACs whose parameters are absent, "not NULL but absent"."""

# --- hashes and MACs: the values are hashlib's names ------------------------------------------------------------------

HASHES: Final[dict[bytes, str]] = {
    oids.SHA1: "sha1",
    oids.SHA224: "sha224",
    oids.SHA256: "sha256",
    oids.SHA384: "sha384",
    oids.SHA512: "sha512",
}

OWFS: Final[dict[bytes, str]] = {
    **HASHES,
    oids.SHA3_224: "sha3_224",
    oids.SHA3_256: "sha3_256",
    oids.SHA3_384: "sha3_384",
    oids.SHA3_512: "sha3_512",
    oids.SHAKE128: "shake128",
    oids.SHAKE256: "shake256",
}
"""One-way functions that a MAC's key is made by (RFC 9810 sections 5.1.3.1 and 5.1.3.2, RFC 9481 section 2)."""

HMACS: Final[dict[bytes, str]] = {
    oids.HMAC_SHA1: "sha1",
    oids.HMAC_SHA1_IPSEC: "sha1",
    oids.HMAC_SHA224: "sha224",
    oids.HMAC_SHA256: "sha256",
    oids.HMAC_SHA384: "sha384",
    oids.HMAC_SHA512: "sha512",
    oids.HMAC_SHA3_224: "sha3_224",
    oids.HMAC_SHA3_256: "sha3_256",
    oids.HMAC_SHA3_384: "sha3_384",
    oids.HMAC_SHA3_512: "sha3_512",
}

DIGEST_OCTETS: Final = {
    "sha1": 20,
    "sha224": 28,
    "sha256": 32,
    "sha384": 48,
    "sha512": 64,
    "sha3_224": 28,
    "sha3_256": 32,
    "sha3_384": 48,
    "sha3_512": 64,
}

LIBRARY_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 -- for RSAES-OAEP, whose default it is
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha3_256": hashes.SHA3_256(),
    "sha3_384": hashes.SHA3_384(),
    "sha3_512": hashes.SHA3_512(),
    "shake128": hashes.SHAKE128(32),  # RFC 8692 section 4.1.2: 256 and 512 bits
    "shake256": hashes.SHAKE256(64),
}
"""What the library takes for a hash, by hashlib's name of it. Which of them may be used where, other tables say."""


def hash_identifier(name: str) -> bytes:
    """DER of the AlgorithmIdentifier of a hash in OWFS, without parameters (RFC 5754 section 2, RFC 9688 section 2)."""
    return identifier(next(oid for oid, value in OWFS.items() if value == name))


def hmac_identifier(name: str) -> bytes:
    """DER of the AlgorithmIdentifier of HMAC with a hash in HMACS.

    With NULL for SHA-1 and SHA-2 (RFC 8018 appendix B.1.2), without parameters for SHA-3 (RFC 9688 section 4).
    """
    oid = next(oid for oid, value in HMACS.items() if value == name)
    return identifier(oid, b"" if name.startswith("sha3_") else der.NULL_TLV)


def identifier(oid: bytes, parameters: bytes = b"") -> bytes:
    """DER of an AlgorithmIdentifier; `oid`: contents octets, `parameters`: DER, empty: none."""
    return der.seq(der.tlv(der.OID, oid), parameters)


# --- RSASSA-PSS-params (RFC 4055 section 3.1) -------------------------------------------------------------------------

_PSS_HASHES: Final = {oid: name for oid, name in OWFS.items() if not name.startswith("shake")}


def read_pss(data: bytes, pos: int, end: int) -> tuple[str, int]:
    """Read RSASSA-PSS-params that fill [pos, end): (hash name, octets of salt).

    The hash must be SHA-2 or SHA-3 of 256 bits or more and MGF1's the same; absent fields mean SHA-1, which is refused.
    """
    if pos == end:
        raise AlgorithmError("RSASSA-PSS: want RSASSA-PSS-params, have none (the defaults mean SHA-1)")
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "RSASSA-PSS-params")
    hash_name = mask_hash = "sha1"
    salt, trailer = 20, 1
    last = 0x9F
    for tag, _, inner, after in der.children(data, start, stop, 4):
        if tag <= last or tag > 0xA3:
            raise der.DerError(f"RSASSA-PSS-params: unexpected tag {tag:02X}")
        last = tag
        if tag == 0xA0:
            hash_name, done = read_named(data, inner, after, _PSS_HASHES, "RSASSA-PSS hashAlgorithm")
        elif tag == 0xA1:
            mask_hash, done = read_mgf1(data, inner, after, _PSS_HASHES, "RSASSA-PSS maskGenAlgorithm")
        else:
            value, done = _read_small(data, inner, after)
            salt, trailer = (value, trailer) if tag == 0xA2 else (salt, value)
        if done != after:
            raise der.DerError("RSASSA-PSS-params: more than one value in a field")
    if "sha1" in (hash_name, mask_hash):
        raise AlgorithmError("RSASSA-PSS: SHA-1 is not accepted in signatures, use SHA-256, SHA-384 or SHA-512")
    if DIGEST_OCTETS[hash_name] < 32:
        raise AlgorithmError("RSASSA-PSS: SHA-224 is not supported, use SHA-256, SHA-384 or SHA-512")
    if mask_hash != hash_name:
        raise AlgorithmError(f"RSASSA-PSS: want MGF1 with {hash_name}, have {mask_hash}")
    if not 0 <= salt <= 512:
        raise AlgorithmError(f"RSASSA-PSS saltLength: want 0 to 512, have {salt}")
    if trailer != 1:
        raise AlgorithmError(f"RSASSA-PSS trailerField: want 1, have {trailer}")
    return hash_name, salt


def read_mgf1(data: bytes, pos: int, end: int, table: dict[bytes, str], noun: str) -> tuple[str, int]:
    """Read an AlgorithmIdentifier that is MGF1 with a hash in `table` (RFC 4055 section 2.2): (its value, position
    after). DerError or AlgorithmError.
    """
    oid, params, after = read_algorithm(data, pos, end, noun)
    if oid != oids.MGF1:
        raise AlgorithmError(f"{noun}: want MGF1, have {der.dotted(oid)}")
    name, done = read_named(data, params, after, table, noun)
    if done != after:
        raise der.DerError(f"{noun}: octets after the hash")
    return name, after


def _read_small(data: bytes, pos: int, end: int) -> tuple[int, int]:
    start, stop = der.expect(data, pos, end, der.INTEGER, "RSASSA-PSS-params")
    return der.integer(data, start, stop, "RSASSA-PSS-params", octets=8), stop


# --- certHash (RFC 9810 section 5.3.18) -------------------------------------------------------------------------------

_CERTIFICATE_HASHES: Final[dict[bytes, str]] = {
    oids.SHA224_WITH_RSA: "sha224",
    oids.SHA256_WITH_RSA: "sha256",
    oids.SHA384_WITH_RSA: "sha384",
    oids.SHA512_WITH_RSA: "sha512",
    oids.SHA3_256_WITH_RSA: "sha3_256",
    oids.SHA3_384_WITH_RSA: "sha3_384",
    oids.SHA3_512_WITH_RSA: "sha3_512",
    oids.RSASSA_PSS_SHAKE128: "shake128",
    oids.RSASSA_PSS_SHAKE256: "shake256",
    oids.ECDSA_WITH_SHA224: "sha224",
    oids.ECDSA_WITH_SHA256: "sha256",
    oids.ECDSA_WITH_SHA384: "sha384",
    oids.ECDSA_WITH_SHA512: "sha512",
    oids.ECDSA_WITH_SHA3_256: "sha3_256",
    oids.ECDSA_WITH_SHA3_384: "sha3_384",
    oids.ECDSA_WITH_SHA3_512: "sha3_512",
    oids.ECDSA_WITH_SHAKE128: "shake128",
    oids.ECDSA_WITH_SHAKE256: "shake256",
    oids.ED25519: "sha512",
    oids.ED448: "shake256",
}

_CERT_HASHERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "sha224": lambda octets: hashlib.sha224(octets).digest(),
    "sha256": lambda octets: hashlib.sha256(octets).digest(),
    "sha384": lambda octets: hashlib.sha384(octets).digest(),
    "sha512": lambda octets: hashlib.sha512(octets).digest(),
    "sha3_256": lambda octets: hashlib.sha3_256(octets).digest(),
    "sha3_384": lambda octets: hashlib.sha3_384(octets).digest(),
    "sha3_512": lambda octets: hashlib.sha3_512(octets).digest(),
    "shake128": lambda octets: hashlib.shake_128(octets).digest(32),
    "shake256": lambda octets: hashlib.shake_256(octets).digest(64),
}

HASH_ALGS: Final[dict[bytes, str]] = {
    oids.SHA256: "sha256",
    oids.SHA384: "sha384",
    oids.SHA512: "sha512",
    oids.SHA3_256: "sha3_256",
    oids.SHA3_384: "sha3_384",
    oids.SHA3_512: "sha3_512",
    oids.SHAKE128: "shake128",
    oids.SHAKE256: "shake256",
}
"""What CertStatus.hashAlg may name (RFC 9481 section 2), and the name for `certificate_hash`."""


def certificate_hash_name(algorithm: bytes) -> str | None:
    """The hash that certHash is made with, for the AlgorithmIdentifier (DER) of a certificate's signature.

    A name for `certificate_hash`: "sha256", "shake256" ... None if the algorithm defines no hash (hashAlg must then be
    given, pvno 3) or is not understood. RFC 9481 sections 2.2 and 3.3: SHAKE128 gives 32 octets, SHAKE256 64.
    """
    try:
        oid, params, after = read_whole_algorithm(algorithm, "signatureAlgorithm")
        if oid == oids.RSASSA_PSS:
            return read_pss(algorithm, params, after)[0]
    except (der.DerError, AlgorithmError):
        return None
    return _CERTIFICATE_HASHES.get(oid)


def certificate_hash(name: str, certificate: bytes) -> bytes:
    """The certHash over a certificate's DER, by the name that `certificate_hash_name` gave."""
    return _CERT_HASHERS[name](certificate)


# --- PBKDF2 -----------------------------------------------------------------------------------------------------------

_GMACS: Final = (oids.AES128_GMAC, oids.AES192_GMAC, oids.AES256_GMAC)


@frozen
class Pbkdf2:
    """PBKDF2-params (RFC 8018 appendix A.2). `prf`: hashlib's name of HMAC's hash. `key_octets` None: not said."""

    salt: bytes
    count: int
    key_octets: int | None
    prf: str


def read_pbkdf2_params(data: bytes, pos: int, end: int) -> Pbkdf2:
    """Read PBKDF2-params that fill [pos, end). DerError or AlgorithmError; nothing is bounded here."""
    pos, stop = der.expect(data, pos, end, der.SEQUENCE, "PBKDF2-params")
    if pos < stop and data[pos] == der.SEQUENCE:
        raise AlgorithmError("PBKDF2 salt: want an OCTET STRING (specified), have otherSource")
    start, pos = der.expect(data, pos, stop, der.OCTET_STRING, "PBKDF2 salt")
    salt = data[start:pos]
    start, pos = der.expect(data, pos, stop, der.INTEGER, "PBKDF2 iterationCount")
    count = der.integer(data, start, pos, "PBKDF2 iterationCount")
    key_octets = None
    if pos < stop and data[pos] == der.INTEGER:
        start, pos = der.expect(data, pos, stop, der.INTEGER, "PBKDF2 keyLength")
        key_octets = der.integer(data, start, pos, "PBKDF2 keyLength")
    prf = "sha1"
    if pos < stop:
        if read_algorithm(data, pos, stop, "PBKDF2 prf")[0] in _GMACS:
            raise AlgorithmError(
                "PBKDF2 prf: want HMAC, have AES-GMAC, which must not be used so (RFC 9481 section 6.2.2)"
            )
        prf, pos = read_named(data, pos, stop, HMACS, "PBKDF2 prf")
    if pos != stop:
        raise der.DerError("PBKDF2-params: octets after prf")
    return Pbkdf2(salt, count, key_octets, prf)
