"""Keys with which anybody can sign, and moduli that anybody can factor: shown to be so, and refused."""

import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, rsa
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.client.keys import public_key_info
from cmpd.private_keys import KEY_TYPES, same_kind
from cmpd.public_keys import _SMALL_ORDER, IDENTIFIERS, key_fault, key_kind, modulus_fault

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
