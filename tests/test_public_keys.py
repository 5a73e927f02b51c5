"""Keys with which anybody can sign, and moduli that anybody can factor: shown to be so, and refused."""

import hashlib
import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.client.keys import public_key_info
from cmpd.private_keys import KEY_TYPES, same_kind
from cmpd.public_keys import (
    _SMALL_ORDER,
    CURVES,
    ENCRYPTION_IDENTIFIERS,
    IDENTIFIERS,
    encryption_fault,
    key_fault,
    key_identity,
    key_kind,
    modulus_fault,
)

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The sum of two points on edwards25519 (RFC 8032 section 5.1.4)."""
    product = D * one[0] * other[0] * one[1] * other[1]
    x = (one[0] * other[1] + other[0] * one[1]) * pow(1 + product, -1, P)
    y = (one[1] * other[1] + one[0] * other[0]) * pow(1 - product, -1, P)
    return x % P, y % P


def point(y: int) -> tuple[int, int]:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    x = root if (root * root - square) % P == 0 else root * pow(2, (P - 1) // 4, P) % P
    assert (x * x - square) % P == 0
    return x, y


def test_the_points_that_are_refused_are_all_of_small_order() -> None:
    values = {int.from_bytes(octets, "little") % P for octets in _SMALL_ORDER["ed25519"]}
    assert len(values) == 5  # eight points: two of them share each y but 1 and -1
    for y in values:
        eightfold = point(y)
        for _ in range(3):
            eightfold = add(eightfold, eightfold)
        assert eightfold == (0, 1)


def test_somebody_without_a_key_can_sign_for_the_neutral_point() -> None:
    """R and A are the neutral element, S is 0: the equation holds for any message, so the library says yes."""
    neutral = b"\x01" + bytes(31)
    key = ed25519.Ed25519PublicKey.from_public_bytes(neutral)
    key.verify(neutral + bytes(32), b"anything")
    for sign in (0, 0x80):
        info = der.seq(IDENTIFIERS["ed25519"], der.encode_bits(neutral[:-1] + bytes((sign,))))
        assert "large order" in key_fault(key, info)


@pytest.mark.parametrize("y", [0, 1, -1])
def test_small_points_of_ed448_are_refused(y: int) -> None:
    encoded = (y % (2**448 - 2**224 - 1)).to_bytes(57, "little")
    key = ed448.Ed448PublicKey.from_public_bytes(encoded)
    assert "large order" in key_fault(key, der.seq(IDENTIFIERS["ed448"], der.encode_bits(encoded)))


EDWARDS = {
    "ed25519": (P, -1, D, 32, ed25519.Ed25519PublicKey, ed25519.Ed25519PrivateKey),
    "ed448": (2**448 - 2**224 - 1, 1, -39081, 57, ed448.Ed448PublicKey, ed448.Ed448PrivateKey),
}


@settings(max_examples=100)
@given(kind=st.sampled_from(list(EDWARDS)), y=st.integers(2, P - 2))
def test_points_off_the_curve_are_refused_and_all_others_are_not(kind: str, y: int) -> None:
    """The library takes any octets for a point until it is to verify something with it."""
    prime, a, d, length, public_type, _ = EDWARDS[kind]
    encoded = y.to_bytes(length, "little")
    square = (1 - y * y) * pow(a - d * y * y, -1, prime) % prime
    on_curve = pow(square, (prime - 1) // 2, prime) == 1
    fault = key_fault(public_type.from_public_bytes(encoded), der.seq(IDENTIFIERS[kind], der.encode_bits(encoded)))
    assert fault == ("" if on_curve else f"want a point on the curve (RFC 8032 section 5), have another ({kind})")


@pytest.mark.parametrize("kind", EDWARDS)
def test_keys_of_eddsa_are_on_their_curves(kind: str) -> None:
    for _ in range(50):
        key = EDWARDS[kind][5].generate()
        assert key_fault(key.public_key(), public_key_info(key)) == ""


@pytest.mark.parametrize("kind", EDWARDS)
def test_a_point_with_a_number_that_is_not_reduced_is_refused(kind: str) -> None:
    """RFC 8032 section 5.1.3: decoding fails if y is p or more."""
    prime, a, d, length, public_type, _ = EDWARDS[kind]
    y = next(y for y in range(2, 19) if pow((1 - y * y) * pow(a - d * y * y, -1, prime), (prime - 1) // 2, prime) == 1)
    for number, good in ((y, True), (y + prime, False)):
        encoded = number.to_bytes(length, "little")
        info = der.seq(IDENTIFIERS[kind], der.encode_bits(encoded))
        assert (key_fault(public_type.from_public_bytes(encoded), info) == "") is good


# --- ML-DSA and ML-KEM ------------------------------------------------------------------------------------------------

ML_DSA = {  # k, octets of c, bits of a coefficient of z and gamma1, l, octets of the hint, bits of a coefficient of w1
    "mldsa44": (4, 32, 18, 1 << 17, 4, 80 + 4, 6),
    "mldsa65": (6, 48, 20, 1 << 19, 5, 55 + 6, 4),
    "mldsa87": (8, 64, 20, 1 << 19, 7, 75 + 8, 4),
}
"""FIPS 204 section 4."""
ML_DSA_KEYS = {
    "mldsa44": mldsa.MLDSA44PublicKey,
    "mldsa65": mldsa.MLDSA65PublicKey,
    "mldsa87": mldsa.MLDSA87PublicKey,
}


@pytest.mark.parametrize("kind", ML_DSA)
def test_somebody_without_a_key_can_sign_for_an_ml_dsa_key_of_zeros(kind: str) -> None:
    """With t1 = 0 and z = 0 the w that a verifier gets is 0, whatever c is: so c is the hash of it and the message."""
    k, octets_c, bits, gamma1, columns, hint, bits_w1 = ML_DSA[kind]
    encoded = bytes(32 + 320 * k)
    tr = hashlib.shake_256(encoded).digest(64)
    mu = hashlib.shake_256(tr + b"\x00\x00" + b"anything").digest(64)
    c = hashlib.shake_256(mu + bytes(32 * k * bits_w1)).digest(octets_c)
    z = sum(gamma1 << bits * n for n in range(256)).to_bytes(32 * bits, "little") * columns  # each is gamma1 - 0
    key = ML_DSA_KEYS[kind].from_public_bytes(encoded)
    key.verify(c + z + bytes(hint), b"anything")
    assert "anybody can sign" in key_fault(key, der.seq(IDENTIFIERS[kind], der.encode_bits(encoded)))


@settings(max_examples=20)
@given(kind=st.sampled_from(list(ML_DSA)), random=st.randoms(use_true_random=False), good=st.booleans())
def test_ml_dsa_keys_are_refused_whose_coefficients_are_all_0_or_minus_1(kind: str, random, good: bool) -> None:
    q = 8380417
    assert 1023 * 2**13 % q == q - 1
    k = ML_DSA[kind][0]
    coefficients = [random.choice((0, 1023)) for _ in range(256 * k)]
    if good:
        coefficients[random.randrange(256 * k)] = random.randint(1, 1022)
    packed = sum(value << 10 * n for n, value in enumerate(coefficients)).to_bytes(320 * k, "little")
    encoded = random.randbytes(32) + packed
    fault = key_fault(
        ML_DSA_KEYS[kind].from_public_bytes(encoded), der.seq(IDENTIFIERS[kind], der.encode_bits(encoded))
    )
    assert (fault == "") is good


@pytest.mark.parametrize(("kind", "k"), [("mlkem768", 3), ("mlkem1024", 4)])
def test_an_ml_kem_key_of_zeros_is_refused(kind: str, k: int) -> None:
    """FIPS 203 section 5: with t = 0 what is added to the shared secret's bits is noise alone."""
    types = {"mlkem768": mlkem.MLKEM768PublicKey, "mlkem1024": mlkem.MLKEM1024PublicKey}
    for first, good in ((0, False), (1, True)):
        encoded = bytes((first,)) + bytes(384 * k - 1) + bytes(range(32))
        info = der.seq(ENCRYPTION_IDENTIFIERS[kind], der.encode_bits(encoded))
        fault = encryption_fault(types[kind].from_public_bytes(encoded), info)
        assert (fault == "") is good
        assert good or "anybody can decrypt" in fault


# --- what two keys have in common -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p521", "brainpoolP384r1"])
def test_a_point_is_the_same_key_in_either_form_and_with_either_sign(kind: str) -> None:
    key = KEY_TYPES[kind]()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    x = key.public_key().public_numbers().x
    octets = (key.curve.key_size + 7) // 8
    forms = [public_key_info(key)] + [
        der.seq(IDENTIFIERS[kind], der.encode_bits(bytes((sign,)) + x.to_bytes(octets, "big"))) for sign in (2, 3)
    ]
    known = {key_identity(load_der_public_key(info), info) for info in forms}
    assert known == {list(CURVES)[list(CURVES.values()).index(kind)].encode() + x.to_bytes(octets, "big")}


def test_an_rsa_key_is_the_same_with_another_exponent() -> None:
    modulus = private_modulus()
    first, second = numbers(modulus), numbers(modulus, 65539)
    assert first != second
    infos = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in (first, second)]
    assert key_identity(first, infos[0]) == key_identity(second, infos[1])
    assert key_identity(first, infos[0]) != key_identity(numbers(modulus + 2), infos[0])


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_keys_are_different_keys(kind: str) -> None:
    made = [KEY_TYPES[kind]() if "rsa" not in kind else KEY_TYPES["rsa2048"]() for _ in range(2)]
    assert len({key_identity(key.public_key(), public_key_info(key)) for key in made}) == 2


# --- RSA --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_keys_that_are_made_are_of_their_kind_and_without_fault(kind: str) -> None:
    made = KEY_TYPES[kind]()
    for key in (made, same_kind(made) if kind != "rsa4096" else made):
        public = key.public_key()
        assert key_kind(public) == ("rsa" if kind.startswith("rsa") else kind)
        assert key_fault(public, public_key_info(key)) == ""
        assert modulus_fault(public) == ""


def numbers(modulus: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


PRIME = rsa.generate_private_key(65537, 2048).private_numbers().p


@settings(max_examples=60)
@given(gap=st.integers(1, 40).map(lambda n: 2 * n))
def test_factors_that_are_close_are_found(gap: int) -> None:
    """For Fermat's method it does not matter whether the factors are primes."""
    assume(math.gcd(PRIME + gap, math.prod(range(3, 752, 2))) == 1)
    assert "far apart" in modulus_fault(numbers(PRIME * (PRIME + gap)))
    assert "far apart" in modulus_fault(numbers(PRIME * PRIME))


@pytest.mark.parametrize("factor", [2, 3, 5, 251, 743, 751])
def test_small_factors_are_found(factor: int) -> None:
    assert "without small factors" in modulus_fault(numbers(PRIME * (1 << 1024 | 1) * factor))


def test_a_factor_above_the_bound_is_not_looked_for() -> None:
    other = next(n for n in range(1 << 1100 | 1, 1 << 1101, 2) if math.gcd(n, math.prod(range(3, 752, 2))) == 1)
    assert modulus_fault(numbers(757 * other * PRIME)) == ""


PRIMORIAL = math.prod(n for n in range(2, 702) if all(n % d for d in range(2, n)))


@settings(max_examples=40)
@given(
    factors=st.tuples(st.integers(1, 1 << 54), st.integers(1, 1 << 53)),
    powers=st.tuples(st.integers(1), st.integers(1)),
)
def test_what_chips_with_the_fault_roca_make_is_found(factors: tuple[int, int], powers: tuple[int, int]) -> None:
    """Their primes are k M + (65537^a mod M) with M the product of the first primes (CVE-2017-15361)."""
    one, other = (
        factor * PRIMORIAL + pow(65537, power, PRIMORIAL) for factor, power in zip(factors, powers, strict=True)
    )
    assume(one != other and math.gcd(one * other, math.prod(range(703, 752, 2))) == 1)
    assert "ROCA" in modulus_fault(numbers(one * other))
    assert "ROCA" not in modulus_fault(numbers(one * other * PRIME))


@pytest.mark.parametrize(("exponent", "good"), [(3, False), (17, False), (65535, False), (65537, True), (65539, True)])
def test_exponents_are_odd_and_not_tiny_and_not_long(exponent: int, good: bool) -> None:
    modulus = private_modulus()
    info = der.seq(
        IDENTIFIERS["rsa"], der.encode_bits(der.seq(der.encode_integer(modulus), der.encode_integer(exponent)))
    )
    assert (key_fault(numbers(modulus, exponent), info) == "") is good
    assert key_fault(numbers(modulus, 1 << 64 | 1), info) != ""
    assert key_fault(numbers(modulus), info, max_rsa_bits=1024) == "want an RSA key of 2048 to 1024 bits, have 2048"


def private_modulus() -> int:
    return rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
