"""Spoils messages at random, the same way for the same seed: octets, and values with or without their lengths mended.

Mutations of the tree of values keep the lengths around them right, so they get past the reader of the outer levels;
mutations of octets do not.
"""

import random
from collections.abc import Callable

from cmpd.asn1 import der

Mutation = Callable[[random.Random, bytes, bytes], bytes]
"""(source of randomness, a message, another message) -> octets."""


def positions(data: bytes) -> list[tuple[int, int, tuple[int, ...]]]:
    """(start, stop, starts of the values around it) of every value, outside in; opaque strings are not opened."""
    found = []
    todo = [(0, len(data), ())]
    while todo:
        pos, end, around = todo.pop()
        while pos < end:
            try:
                tag, start, stop = der.header(data, pos, end)
            except der.DerError:
                break
            found.append((pos, stop, around))
            if tag & 0x20:
                todo.append((start, stop, (*around, pos)))
            pos = stop
    return found


def splice(data: bytes, start: int, stop: int, around: tuple[int, ...], new: bytes) -> bytes:
    """`new` in the place of [start, stop), all lengths around it mended."""
    for pos in reversed(around):
        _, inner, after = der.header(data, pos, len(data))
        mended = der.tlv(data[pos], data[inner:start] + new + data[stop:after])
        start, stop, new = pos, after, mended
    return data[:start] + new + data[stop:]


def _pick(rng: random.Random, data: bytes) -> tuple[int, int, tuple[int, ...]]:
    return rng.choice(positions(data) or [(0, len(data), ())])


def flip_bit(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_octet(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] = rng.choice(
        (0, 1, 0x7F, 0x80, 0x81, 0x84, 0xFF, 0x30, 0x31, 0xA0, 0x1F, 0x3F)
    )
    return bytes(changed)


def insert_octets(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 100))) + data[at:]


def delete_octets(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 2, 16)) :]


def truncate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def concatenate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data + rng.choice((other, data, bytes(rng.randrange(1, 9)), b"\xff"))


def cross(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A value of another message in the place of one of this."""
    start, stop, around = _pick(rng, data)
    begin, end, _ = _pick(rng, other)
    return splice(data, start, stop, around, other[begin:end])


def delete_value(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return splice(data, *_pick(rng, data), b"")


def double_value(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop, around = _pick(rng, data)
    return splice(data, start, stop, around, data[start:stop] * rng.choice((2, 2, 3, 40)))


def swap_values(rng: random.Random, data: bytes, other: bytes) -> bytes:
    (a, b, _), (c, d, around) = sorted((_pick(rng, data), _pick(rng, data)))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:] if b <= c else splice(data, c, d, around, b"")


def empty_value(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop, around = _pick(rng, data)
    return splice(data, start, stop, around, bytes((data[start], 0)))


def retag(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop, around = _pick(rng, data)
    tag = rng.choice((data[start] ^ 0x20, data[start] + 1 & 0xFF, rng.randrange(256), 0xA0 | rng.randrange(27)))
    return splice(data, start, stop, around, bytes((tag,)) + data[start + 1 : stop])


def length(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A wrong, huge, padded or indefinite length."""
    start, stop, around = _pick(rng, data)
    inner = start + 2 + (data[start + 1] & 0x7F if stop - start > 1 and data[start + 1] >= 0x80 else 0)
    octets = rng.choice(
        (
            b"\x80",
            b"\x81\x01",
            b"\x82\0\x05",
            b"\x84\xff\xff\xff\xff",
            b"\x84\x7f\xff\xff\xff",
            b"\x85\0\0\0\0\1",
            b"\xff",
            b"\0",
        )
    )
    return splice(data, start, stop, around, data[start : start + 1] + octets + data[inner:stop])


def replace_contents(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop, around = _pick(rng, data)
    size = rng.choice((1, 2, 15, 17, 33, 200, 5000))
    junk = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), b"\n" * size, b"%s\0'\"" * (size // 5 + 1)))
    return splice(data, start, stop, around, der.tlv(data[start], junk))


def nest(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop, around = _pick(rng, data)
    value = data[start:stop]
    tag = rng.choice((0x30, 0x31, 0xA0))
    for _ in range(rng.choice((1, 2, 20, 60, 1500))):
        value = der.tlv(tag, value)
    return splice(data, start, stop, around, value)


def widen(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop, around = _pick(rng, data)
    filler = rng.choice((b"\x05\0", b"\x30\0", b"\x02\x01\0", b"\x06\x03\x2a\x03\x04"))
    return splice(data, start, stop, around, der.tlv(data[start] | 0x20, filler * rng.choice((10, 100, 2000))))


OCTETS: tuple[Mutation, ...] = (flip_bit, flip_bit, set_octet, insert_octets, delete_octets, truncate, concatenate)
VALUES: tuple[Mutation, ...] = (
    *(cross, delete_value, double_value, swap_values, empty_value, retag, length, replace_contents, nest, widen),
    *(cross, delete_value, retag, replace_contents),
)


def mutate(rng: random.Random, data: bytes, other: bytes, kinds: tuple[Mutation, ...] = OCTETS + VALUES) -> bytes:
    """One mutation, sometimes several on top of each other."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if data:
            data = rng.choice(kinds)(rng, data, other)
    return data[:200_000]
