"""The MACs inside PasswordBasedMac, PBMAC1, DHBasedMac and KemBasedMac (RFC 9481 section 6.2), and the key expansion.

HMAC takes keys of any length, AES-GMAC of one, which the four schemes make by their own rules. A nonce of AES-GMAC must
never be used twice with one key: the second message would give away what the tags are made with. So who protects
another message with the same key, an answer or the next request, asks for `answering` first. Nonces are random: with 96
bits that is good for 2^32 messages under one key (SP 800-38D section 8.3), also where two certificates agree on it.

KMAC (RFC 9481 section 6.2.3) is read only to say that it is not there: no library at hand computes it.
"""

import hashlib
import hmac
import importlib
from collections.abc import Callable
from dataclasses import field, replace
from itertools import count, repeat
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import (
    DIGEST_OCTETS,
    HMACS,
    AlgorithmError,
    hmac_identifier,
    identifier,
    read_algorithm,
    read_named,
)
from cmpd.frozen import frozen

Random = Callable[[int], bytes]
"""Random octets, as Env.random."""

NONCE_OCTETS: Final = 12  # RFC 9044 section 2 recommends it, and GCM has other lengths for nobody's benefit
TAG_OCTETS: Final = range(12, 17)  # MACLength
_DEFAULT_TAG_OCTETS: Final = 12


class InnerMac(Protocol):
    """A MAC with its parameters, for keys that are made for it."""

    @property
    def name(self) -> str:
        """The name that hashlib has for HMAC's hash, or a name in GMACS."""

    @property
    def identifier(self) -> bytes:
        """DER of its AlgorithmIdentifier."""

    @property
    def key_octets(self) -> int | None:
        """How many octets the key must have; None: any number."""

    @property
    def usual_key_octets(self) -> int:
        """How many octets the key has if nobody says otherwise."""

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """The MAC over `octets`."""

    def answering(self, random: Random) -> "InnerMac":
        """The same for another message under the same key: with another nonce, if it has one."""


@frozen
class Hmac:
    """HMAC (RFC 2104) with a hash, by hashlib's name of it."""

    name: str

    @property
    def identifier(self) -> bytes:
        """See InnerMac."""
        return hmac_identifier(self.name)

    @property
    def key_octets(self) -> None:
        """See InnerMac."""
        return

    @property
    def usual_key_octets(self) -> int:
        """The length of the hash (RFC 2104 section 3)."""
        return DIGEST_OCTETS[self.name]

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """See InnerMac."""
        return hmac.digest(key, octets, self.name)

    def answering(self, random: Random) -> "Hmac":
        """Itself: HMAC has no parameters."""
        del random
        return self


@frozen
class Gmac:
    """AES-GMAC (RFC 9044): GCM that encrypts nothing. `nonce`: 12 octets, for one message; `tag_octets`: 12 to 16."""

    name: str
    nonce: bytes
    tag_octets: int = field(default=16)

    @property
    def identifier(self) -> bytes:
        """See InnerMac."""
        length = b"" if self.tag_octets == _DEFAULT_TAG_OCTETS else der.encode_integer(self.tag_octets)
        oid = next(oid for oid, name in GMACS.items() if name == self.name)
        return identifier(oid, der.seq(der.encode_octets(self.nonce), length))

    @property
    def key_octets(self) -> int:
        """See InnerMac."""
        return _GMAC_KEY_OCTETS[self.name]

    @property
    def usual_key_octets(self) -> int:
        """The only one."""
        return self.key_octets

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """See InnerMac. ValueError if the key has another length."""
        if len(key) != self.key_octets:
            raise ValueError(f"{self.name}: want a key of {self.key_octets} octets, have {len(key)}")
        return AESGCM(key).encrypt(self.nonce, b"", octets)[: self.tag_octets]

    def answering(self, random: Random) -> "Gmac":
        """The same with a fresh nonce."""
        return replace(self, nonce=random(NONCE_OCTETS))


GMACS: Final[dict[bytes, str]] = {
    oids.AES128_GMAC: "aes128-gmac",
    oids.AES192_GMAC: "aes192-gmac",
    oids.AES256_GMAC: "aes256-gmac",
}
_GMAC_KEY_OCTETS: Final = {"aes128-gmac": 16, "aes192-gmac": 24, "aes256-gmac": 32}
_KMACS: Final = (oids.KMAC_WITH_SHAKE128, oids.KMAC_WITH_SHAKE256)
_HMACS: Final[dict[bytes, Hmac]] = {oid: Hmac(name) for oid, name in HMACS.items()}

MAC_NAMES: Final = (*dict.fromkeys(HMACS.values()), *GMACS.values())
"""What `build_mac` makes."""


def build_mac(name: str, random: Random | None = None) -> InnerMac:
    """The MAC of this name, one of MAC_NAMES. `random` is for the nonce that AES-GMAC must have."""
    if name not in _GMAC_KEY_OCTETS:
        return Hmac(name)
    if random is None:
        raise ValueError(f"{name}: want random octets for its nonce, have none")
    return Gmac(name, random(NONCE_OCTETS))


def read_mac(data: bytes, pos: int, end: int, noun: str) -> tuple[InnerMac, int]:
    """Read the AlgorithmIdentifier of a MAC: (it, position after it). DerError, or AlgorithmError if it is no good."""
    oid, params, after = read_algorithm(data, pos, end, noun)
    if oid in GMACS:
        return _read_gmac(data, params, after, GMACS[oid], noun), after
    if oid in _KMACS:
        raise AlgorithmError(f"{noun}: KMAC is not supported, use HMAC with SHA-2 or SHA-3, or AES-GMAC")
    read_named(data, pos, end, HMACS, noun)
    return _HMACS[oid], after


def _read_gmac(data: bytes, pos: int, end: int, name: str, noun: str) -> Gmac:
    if pos == end:
        raise AlgorithmError(f"{noun}: want GCMParameters with {name}, have none (RFC 9044 section 2)")
    pos, stop = der.expect(data, pos, end, der.SEQUENCE, f"{noun} GCMParameters")
    start, pos = der.expect(data, pos, stop, der.OCTET_STRING, f"{noun} nonce")
    nonce, length = data[start:pos], _DEFAULT_TAG_OCTETS
    if pos < stop:
        start, pos = der.expect(data, pos, stop, der.INTEGER, f"{noun} length")
        length = der.integer(data, start, pos, f"{noun} length")
    if pos != stop:
        raise der.DerError(f"{noun}: octets after the length in GCMParameters")
    if len(nonce) != NONCE_OCTETS:
        raise AlgorithmError(f"{noun}: want a nonce of 12 octets with {name}, have {len(nonce)} (RFC 9044 section 2)")
    if length not in TAG_OCTETS:
        raise AlgorithmError(
            f"{noun}: want a length of 12 to 16 octets with {name}, have {length} (RFC 9044 section 2)"
        )
    return Gmac(name, nonce, length)


# --- one-way functions and the key that a MAC wants (RFC 9810 section 5.1.3.1) ----------------------------------------


class _Digest(Protocol):
    def digest(self) -> bytes: ...


def iterate(owf: str, octets: bytes, times: int) -> bytes:
    """BASEKEY: the one-way function of this name applied so many times, first to `octets`. At least once."""
    function = _OWFS[owf]
    for _ in repeat(None, times):
        octets = function(octets).digest()
    return octets


def fit_key(basekey: bytes, owf: str, size: int | None) -> bytes:
    """The key of `size` octets (None: all of BASEKEY) by the rule for a MAC that requires a K-bit key.

    BASEKEY is cut, or continued by OWF("1" || BASEKEY), OWF("2" || BASEKEY) and so on.
    """
    if size is None:
        return basekey
    key = basekey
    for number in count(1):
        if len(key) >= size:
            break
        key += _OWFS[owf](str(number).encode() + basekey).digest()
    return key[:size]


def _builtin(name: str, *modules: str) -> Callable[[bytes], _Digest]:
    """The hash of this name from the first of the modules that is there and has it, else hashlib's.

    The hashes built into CPython take 20 to 30 % less for 32 octets than OpenSSL's behind hashlib.
    """
    for module in modules:
        try:
            found: Callable[[bytes], _Digest] = vars(importlib.import_module(module))[name]
        except (ImportError, KeyError):
            continue
        return found
    return lambda octets: hashlib.new(name, octets)


@frozen
class _Shake128:
    octets: bytes

    def digest(self) -> bytes:
        return hashlib.shake_128(self.octets).digest(32)


@frozen
class _Shake256:
    octets: bytes

    def digest(self) -> bytes:
        return hashlib.shake_256(self.octets).digest(64)


_OWFS: Final[dict[str, Callable[[bytes], _Digest]]] = {  # _sha2 is there from CPython 3.12 on
    "sha1": _builtin("sha1", "_sha1"),
    "sha224": _builtin("sha224", "_sha2", "_sha256"),
    "sha256": _builtin("sha256", "_sha2", "_sha256"),
    "sha384": _builtin("sha384", "_sha2", "_sha512"),
    "sha512": _builtin("sha512", "_sha2", "_sha512"),
    "sha3_224": hashlib.sha3_224,
    "sha3_256": hashlib.sha3_256,
    "sha3_384": hashlib.sha3_384,
    "sha3_512": hashlib.sha3_512,
    "shake128": _Shake128,
    "shake256": _Shake256,
}
