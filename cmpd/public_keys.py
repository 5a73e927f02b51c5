"""Public keys: the kinds there are, how the SubjectPublicKeyInfo of each looks, and what is too weak to be trusted.

The library reads more than a certificate may hold: curves by their parameters, RSA keys for PSS alone, hybrid points,
curves of 160 bits. So each kind has the one AlgorithmIdentifier that its RFC says, and everything else is a fault. RSA
exponents are odd, at least 65537 (FIPS 186-5 section 5.1; 3 makes other people's mistakes with padding fatal) and at
most 64 bits, because a long one makes verifying as slow as its sender likes. That a point of an EC key is on its curve,
and that an ML-DSA key has the length of its kind, the library has checked when it loads a key; EdDSA's points and keys
that are nothing but zeros are checked here.
"""

import math
from functools import lru_cache
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1 import der

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 16_384
MIN_EXPONENT: Final = 65_537
MAX_EXPONENT_BITS: Final = 64
"""What a key must have, and may cost to be used once."""

CURVES: Final = {
    "secp256r1": "p256",
    "secp384r1": "p384",
    "secp521r1": "p521",
    "brainpoolP256r1": "brainpoolP256r1",
    "brainpoolP384r1": "brainpoolP384r1",
    "brainpoolP512r1": "brainpoolP512r1",
}
"""The curves by the library's names: the configuration's words for them (RFC 5480 section 2.1.1.1, RFC 5639)."""

_EC: Final = der.encode_oid("1.2.840.10045.2.1")

IDENTIFIERS: Final = {
    "rsa": der.seq(der.encode_oid("1.2.840.113549.1.1.1"), der.NULL_TLV),
    "p256": der.seq(_EC, der.encode_oid("1.2.840.10045.3.1.7")),
    "p384": der.seq(_EC, der.encode_oid("1.3.132.0.34")),
    "p521": der.seq(_EC, der.encode_oid("1.3.132.0.35")),
    "brainpoolP256r1": der.seq(_EC, der.encode_oid("1.3.36.3.3.2.8.1.1.7")),
    "brainpoolP384r1": der.seq(_EC, der.encode_oid("1.3.36.3.3.2.8.1.1.11")),
    "brainpoolP512r1": der.seq(_EC, der.encode_oid("1.3.36.3.3.2.8.1.1.13")),
    "ed25519": der.seq(der.encode_oid("1.3.101.112")),
    "ed448": der.seq(der.encode_oid("1.3.101.113")),
    "mldsa44": der.seq(der.encode_oid("2.16.840.1.101.3.4.3.17")),
    "mldsa65": der.seq(der.encode_oid("2.16.840.1.101.3.4.3.18")),
    "mldsa87": der.seq(der.encode_oid("2.16.840.1.101.3.4.3.19")),
}
"""The AlgorithmIdentifier of a SubjectPublicKeyInfo (RFC 3279 section 2.3.1, 5480 section 2.1.1, 8410, 9881 section 2)
of each kind of key that can sign.
"""

_FAMILIES: Final[tuple[tuple[type, str], ...]] = (
    (ec.EllipticCurvePublicKey, "ec"),
    (rsa.RSAPublicKey, "rsa"),
    (ed25519.Ed25519PublicKey, "ed25519"),
    (ed448.Ed448PublicKey, "ed448"),
    (mldsa.MLDSA44PublicKey, "mldsa44"),
    (mldsa.MLDSA65PublicKey, "mldsa65"),
    (mldsa.MLDSA87PublicKey, "mldsa87"),
)


@lru_cache(maxsize=64)  # by the library's own classes: asking an abstract class takes longer
def key_family(kind: type) -> str:
    """The configuration's word for a kind of key, or "ec" for all EC keys; "" if it cannot sign."""
    return next((name for abstract, name in _FAMILIES if issubclass(kind, abstract)), "")


def key_kind(key: PublicKeyTypes) -> str:
    """The configuration's word for a key's kind; "" if it cannot sign, or is on a curve that is not supported."""
    family = key_family(type(key))
    return CURVES.get(cast(ec.EllipticCurvePublicKey, key).curve.name, "") if family == "ec" else family


def key_fault(key: PublicKeyTypes, info: bytes, *, max_rsa_bits: int = MAX_RSA_BITS) -> str:
    """Why a key that was loaded from `info` (DER of SubjectPublicKeyInfo) must not be used to verify; "" if it may.

    A text for the peer: wanted, found.
    """
    kind = key_kind(key)
    if not kind:
        if key_family(type(key)) == "ec":
            have = cast(ec.EllipticCurvePublicKey, key).curve.name
            return f"want an EC key on one of {', '.join(CURVES)}; have {have}"
        return f"want a key for RSA, ECDSA, EdDSA or ML-DSA, have {type(key).__name__.removesuffix('PublicKey')}"
    algorithm = der.header(info, 0, len(info))[1]
    if not info.startswith(IDENTIFIERS[kind], algorithm):
        return f"want the AlgorithmIdentifier that RFC 3279, 5480, 8410 and 9881 have for {kind}, have another"
    value = der.header(info, algorithm + len(IDENTIFIERS[kind]), len(info))[1] + 1
    if kind == "rsa":
        return _rsa_fault(cast(rsa.RSAPublicKey, key), max_rsa_bits)
    if key_family(type(key)) == "ec":
        return "" if info[value] in (2, 3, 4) else "want a point that is not hybrid (RFC 5480 section 2.2)"
    return _edwards_fault(kind, info[value:]) if kind in _EDWARDS else _ml_dsa_fault(kind, info[value:])


def key_identity(key: PublicKeyTypes, info: bytes) -> bytes:
    """Octets that two keys have in common if who has the private key of one has, or can factor, that of the other.

    `info`: DER of its SubjectPublicKeyInfo. A modulus, whatever the exponent; the x of a point on a curve, compressed
    or not; else all of `info`.
    """
    family = key_family(type(key))
    if family == "rsa":
        modulus = cast(rsa.RSAPublicKey, key).public_numbers().n
        return b"rsa" + modulus.to_bytes((modulus.bit_length() + 7) // 8)
    if family == "ec":
        curve = cast(ec.EllipticCurvePublicKey, key).curve
        algorithm = der.header(info, 0, len(info))[1]
        point = der.header(info, der.header(info, algorithm, len(info))[2], len(info))[1] + 1
        return curve.name.encode() + info[point + 1 : point + 1 + (curve.key_size + 7) // 8]
    if isinstance(key, x25519.X25519PublicKey):
        return info[:-1] + bytes((info[-1] & 0x7F,))  # the highest bit does not count (RFC 7748 section 5)
    return info


def _rsa_fault(key: rsa.RSAPublicKey, most: int) -> str:
    bits = key.key_size
    if not MIN_RSA_BITS <= bits <= most:
        return f"want an RSA key of {MIN_RSA_BITS} to {most} bits, have {bits}"
    exponent = key.public_numbers().e
    if exponent < MIN_EXPONENT or exponent.bit_length() > MAX_EXPONENT_BITS or exponent % 2 == 0:
        return f"want an odd RSA exponent of at least {MIN_EXPONENT} and at most {MAX_EXPONENT_BITS} bits, have another"
    return ""


# --- keys that cannot sign --------------------------------------------------------------------------------------------

ENCRYPTION_IDENTIFIERS: Final = {
    "x25519": der.seq(der.encode_oid("1.3.101.110")),
    "x448": der.seq(der.encode_oid("1.3.101.111")),
    "mlkem768": der.seq(der.encode_oid("2.16.840.1.101.3.4.4.2")),
    "mlkem1024": der.seq(der.encode_oid("2.16.840.1.101.3.4.4.3")),
}
"""The AlgorithmIdentifier of each kind of key that cannot sign (RFC 8410 section 3, RFC 9935 section 3)."""

_ENCRYPTION_FAMILIES: Final[tuple[tuple[type, str], ...]] = (
    (x25519.X25519PublicKey, "x25519"),
    (x448.X448PublicKey, "x448"),
    (mlkem.MLKEM768PublicKey, "mlkem768"),
    (mlkem.MLKEM1024PublicKey, "mlkem1024"),
)


@lru_cache(maxsize=64)
def _encryption_family(kind: type) -> str:
    return next((name for abstract, name in _ENCRYPTION_FAMILIES if issubclass(kind, abstract)), "")


def encryption_kind(key: PublicKeyTypes) -> str:
    """The configuration's word for the kind of a key that cannot sign; "" if it can, or is of no kind that is known."""
    return _encryption_family(type(key))


def encryption_fault(key: PublicKeyTypes, info: bytes) -> str:
    """As `key_fault`, for a key that cannot sign. Points of small order agree with all others on zero (RFC 7748)."""
    kind = encryption_kind(key)
    algorithm = der.header(info, 0, len(info))[1]
    if not info.startswith(ENCRYPTION_IDENTIFIERS[kind], algorithm):
        return f"want the AlgorithmIdentifier that RFC 8410 and 9935 have for {kind}, have another"
    try:
        if isinstance(key, x25519.X25519PublicKey):
            x25519.X25519PrivateKey.from_private_bytes(bytes(range(32))).exchange(key)
        elif isinstance(key, x448.X448PublicKey):
            x448.X448PrivateKey.from_private_bytes(bytes(range(56))).exchange(key)
    except ValueError:
        return f"want a point of large order, have one whose secrets anybody knows ({kind})"
    if kind.startswith("mlkem") and not any(info[-_ML_KEM_VECTOR[kind] - _SEED : -_SEED]):
        return f"want a public key that is made from a secret, have one with which anybody can decrypt ({kind})"
    return ""


_SEED: Final = 32
_ML_KEM_VECTOR: Final = {"mlkem768": 3 * 384, "mlkem1024": 4 * 384}
"""Octets of rho and of the encoded vector before it (FIPS 203 section 5.1). If that is zero, so is the secret."""


# --- what a key is good for -------------------------------------------------------------------------------------------

SIGNING_USAGES: Final = ("digitalSignature", "nonRepudiation", "keyCertSign", "cRLSign")
_SIGNS: Final = frozenset(SIGNING_USAGES)
_AGREES: Final = frozenset({"keyAgreement", "encipherOnly", "decipherOnly"})
_ENCIPHERS: Final = frozenset({"keyEncipherment", "dataEncipherment"})

KEY_CAN: Final = {
    "rsa": _SIGNS | _ENCIPHERS,
    "p256": _SIGNS | _AGREES,
    "p384": _SIGNS | _AGREES,
    "p521": _SIGNS | _AGREES,
    "brainpoolP256r1": _SIGNS | _AGREES,
    "brainpoolP384r1": _SIGNS | _AGREES,
    "brainpoolP512r1": _SIGNS | _AGREES,
    "ed25519": _SIGNS,
    "ed448": _SIGNS,
    "mldsa44": _SIGNS,
    "mldsa65": _SIGNS,
    "mldsa87": _SIGNS,
    "x25519": _AGREES,
    "x448": _AGREES,
    "mlkem768": frozenset({"keyEncipherment"}),
    "mlkem1024": frozenset({"keyEncipherment"}),
}
"""The keyUsages that make sense for a kind of key (RFC 3279 section 2.3, RFC 5480 section 3, RFC 8410 section 5,
RFC 9881 section 5, RFC 9935 section 5)."""


# --- RSA moduli that anybody can factor -------------------------------------------------------------------------------

_SMALL_PRIMES: Final = math.prod(n for n in range(3, 752, 2) if all(n % d for d in range(3, n, 2)))
_FERMAT_ROUNDS: Final = 100


def modulus_fault(key: PublicKeyTypes) -> str:
    """Why the modulus of an RSA key is none; "" if nothing is wrong with it that is easily seen, or it is no RSA key.

    For keys that are to be certified: no factor below 752 (SP 800-89 section 5.3.3), no two primes so close that
    Fermat's method finds them in 100 rounds, and not of the form that chips with the fault ROCA give all their primes
    (CVE-2017-15361; one good modulus of more than 10^20 looks like that too). Takes about 0.1 ms for 4096 bits.
    """
    if key_family(type(key)) != "rsa":
        return ""
    modulus = cast(rsa.RSAPublicKey, key).public_numbers().n
    if modulus % 2 == 0 or math.gcd(modulus, _SMALL_PRIMES) != 1:
        return "want an RSA modulus without small factors, have one with"
    root = math.isqrt(modulus)
    if root * root == modulus or _fermat(modulus, root + 1):
        return "want an RSA modulus of two primes far apart, have one that Fermat's method factors"
    if all(powers >> modulus % prime & 1 for prime, powers in _POWERS):
        return "want an RSA modulus of primes chosen at random, have one with the fault ROCA (CVE-2017-15361)"
    return ""


def _fermat(modulus: int, middle: int) -> bool:
    rest = middle * middle - modulus
    for _ in range(_FERMAT_ROUNDS):
        if rest & 15 in (0, 1, 4, 9) and math.isqrt(rest) ** 2 == rest:  # no other end is that of a square
            return True
        rest += 2 * middle + 1
        middle += 1
    return False


def _powers(prime: int) -> int:
    """The powers of 65537 modulo a prime, as bits."""
    power, found = 1, 0
    while not found >> power & 1:
        found |= 1 << power
        power = power * 65_537 % prime
    return found


_POWERS: Final = tuple((n, _powers(n)) for n in range(3, 702, 2) if all(n % d for d in range(3, n, 2)))
"""Powers of 65537 modulo each prime up to 701: such a prime is one modulo all of them, in longer keys modulo more."""


# --- EdDSA and ML-DSA keys with which anybody can sign, or nobody -----------------------------------------------------

_P25519: Final = 2**255 - 19
_P448: Final = 2**448 - 2**224 - 1
_OF_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
"""The y of the points of order 8 on edwards25519, the other one being its negative."""


def _encodings(octets: int, *values: int) -> frozenset[bytes]:
    return frozenset(value.to_bytes(octets, "little") for value in values)


_SMALL_ORDER: Final = {
    "ed25519": _encodings(32, 0, 1, _P25519 - 1, _P25519, _P25519 + 1, _OF_ORDER_8, _P25519 - _OF_ORDER_8),
    "ed448": _encodings(57, 0, 1, _P448 - 1, _P448, _P448 + 1),
}
"""The y of all points whose order divides the cofactor, also as numbers that are not reduced (RFC 8032 section 5)."""


_EDWARDS: Final = {
    "ed25519": (_P25519, -1, -121_665 * pow(121_666, -1, _P25519) % _P25519),
    "ed448": (_P448, 1, -39_081),
}
"""p, a and d of the curves a x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032 sections 5.1 and 5.2)."""


def _edwards_fault(kind: str, point: bytes) -> str:
    encoded = point[:-1] + bytes((point[-1] & 0x7F,))  # without the sign of x
    if encoded in _SMALL_ORDER[kind]:
        return f"want a point of large order, have one with which anybody can sign ({kind})"
    prime, a, d = _EDWARDS[kind]
    y = int.from_bytes(encoded, "little")
    if y >= prime or _jacobi((1 - y * y) * (a - d * y * y) % prime, prime) < 0:  # x^2 = (1 - y^2) / (a - d y^2)
        return f"want a point on the curve (RFC 8032 section 5), have another ({kind})"
    return ""


def _jacobi(value: int, modulus: int) -> int:
    """The Jacobi symbol (value / modulus), 0 <= value < modulus, for an odd modulus; a third of the time of Euler's."""
    sign = 1
    while value:
        twos = (value & -value).bit_length() - 1
        value >>= twos
        if twos & 1 and modulus & 7 in (3, 5):
            sign = -sign
        if value & modulus & 3 == 3:
            sign = -sign
        value, modulus = modulus % value, value
    return sign if modulus == 1 else 0


_ONES: Final = {
    kind: sum(1 << 10 * n for n in range(256 * k)) for kind, k in (("mldsa44", 4), ("mldsa65", 6), ("mldsa87", 8))
}
"""1 as each of the coefficients, which have 10 bits."""


def _ml_dsa_fault(kind: str, public_key: bytes) -> str:
    """All coefficients of t1 are 0 or 1023: then those of t are 0 or -1 modulo q, so small that t is a secret by itself
    (FIPS 204 algorithm 6: s1 is zero, s2 is t).
    """
    coefficients = int.from_bytes(public_key[_SEED:], "little")
    if coefficients == (coefficients & _ONES[kind]) * 1023:
        return f"want a public key that is made from a secret, have one with which anybody can sign ({kind})"
    return ""
