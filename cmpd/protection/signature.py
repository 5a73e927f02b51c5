"""Signatures (RFC 9481 section 3): one scheme for each OID, its parameters read once for each AlgorithmIdentifier met.

Parameters must be what the RFC of the algorithm says: absent for ECDSA and EdDSA, NULL or absent for RSA with PKCS #1
v1.5, complete for RSASSA-PSS. SHA-1 and older hashes never count in a signature, whatever the policy.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1 import der
from cmpd.asn1.algorithms import DIGEST_OCTETS, AlgorithmError, read_pss, read_whole_algorithm
from cmpd.errors import BadAlg, BadDataFormat

MIN_RSA_BITS: Final = 2048
MAX_SIGNATURE_ALGORITHM: Final = 256
"""Longest AlgorithmIdentifier that is looked at, in octets; bounds what the caches hold. RSASSA-PSS has about 70."""
CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class Signature(Protocol):
    """A signature algorithm with its parameters."""

    @property
    def name(self) -> str:
        """As its RFC spells it."""

    def check(self, key: PublicKeyTypes) -> None:
        """BadAlg if the algorithm does not fit this key, or the key is too weak."""

    def verify(self, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good; False too for a key of another kind."""


@dataclass(frozen=True, slots=True)
class RsaSignature:
    """RSA with PKCS #1 v1.5 (`salt` None) or RSASSA-PSS (`salt` in octets)."""

    name: str
    hash_name: str
    salt: int | None
    scheme: padding.AsymmetricPadding

    def check(self, key: PublicKeyTypes) -> None:
        """BadAlg unless the key is RSA of at least 2048 bits, with room for the salt."""
        if not isinstance(key, rsa.RSAPublicKey):
            raise _misfit(self.name, "an RSA key", key)
        bits = key.key_size
        if bits < MIN_RSA_BITS:
            raise BadAlg(f"{self.name}: want an RSA key of {MIN_RSA_BITS} bits or more, have {bits}")
        room = (bits + 6) // 8 - DIGEST_OCTETS[self.hash_name] - 2  # RFC 8017 section 9.1.1 step 3
        if self.salt is not None and self.salt > room:
            raise BadAlg(f"RSASSA-PSS saltLength: want at most {room} with this key, have {self.salt}")

    def verify(self, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        if not isinstance(key, rsa.RSAPublicKey):
            return False
        try:
            key.verify(signature, octets, self.scheme, _HASHES[self.hash_name])
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class EcdsaSignature:
    """ECDSA with one hash, on any of CURVES."""

    name: str
    scheme: ec.ECDSA

    def check(self, key: PublicKeyTypes) -> None:
        """BadAlg unless the key is on P-256, P-384 or P-521."""
        if not _is_ec(type(key)):
            raise _misfit(self.name, "an EC key", key)
        curve = cast(ec.EllipticCurvePublicKey, key).curve.name
        if curve not in CURVES:
            raise BadAlg(f"{self.name}: want a key on {', '.join(CURVES.values())}, have {curve}")

    def verify(self, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        if not _is_ec(type(key)):
            return False
        try:
            cast(ec.EllipticCurvePublicKey, key).verify(signature, octets, self.scheme)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class EdwardsSignature:
    """Ed25519 or Ed448 (RFC 8410)."""

    name: str
    kind: type[ed25519.Ed25519PublicKey] | type[ed448.Ed448PublicKey]

    def check(self, key: PublicKeyTypes) -> None:
        """BadAlg unless the key is of this kind."""
        if not isinstance(key, self.kind):
            raise _misfit(self.name, f"an {self.name} key", key)

    def verify(self, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        if not isinstance(key, self.kind):
            return False
        try:
            key.verify(signature, octets)
        except InvalidSignature:
            return False
        return True


@lru_cache(maxsize=64)  # by the library's own classes: asking the abstract class takes longer
def _is_ec(kind: type[PublicKeyTypes]) -> bool:
    return issubclass(kind, ec.EllipticCurvePublicKey)


def _misfit(name: str, wanted: str, key: object) -> BadAlg:
    return BadAlg(f"{name}: want {wanted}, have one of another kind", detail=f"the key is a {type(key).__name__}")


# --- the rows of SCHEMES ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FixedScheme:
    """An algorithm that its OID says all of: parameters absent, or (`allow_null`) NULL."""

    signature: Signature
    allow_null: bool = False

    def check(self, algorithm: bytes, key: PublicKeyTypes) -> None:
        """BadAlg if there are parameters, or the key is unfit."""
        parameters = _parameters(algorithm)
        if parameters and not (self.allow_null and parameters == der.NULL_TLV):
            wanted = "absent or NULL" if self.allow_null else "absent"
            raise BadAlg(f"{self.signature.name} parameters: want them {wanted}, have others")
        self.signature.check(key)

    def verify(self, algorithm: bytes, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        return self.signature.verify(key, signature, octets)


@dataclass(frozen=True, slots=True)
class PssScheme:
    """RSASSA-PSS, whose hash, mask and salt are in the parameters."""

    def check(self, algorithm: bytes, key: PublicKeyTypes) -> None:
        """BadAlg or BadDataFormat if RSASSA-PSS-params are not understood or not accepted, or the key is unfit."""
        _pss(_parameters(algorithm)).check(key)

    def verify(self, algorithm: bytes, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        return _pss(_parameters(algorithm)).verify(key, signature, octets)


def rsa_pkcs1(hash_name: str) -> FixedScheme:
    """RSA with PKCS #1 v1.5 and this hash."""
    name = f"{hash_name}WithRSAEncryption"
    return FixedScheme(RsaSignature(name, hash_name, None, padding.PKCS1v15()), allow_null=True)


def ecdsa(hash_name: str) -> FixedScheme:
    """ECDSA with this hash."""
    return FixedScheme(EcdsaSignature(f"ecdsa-with-{hash_name.upper()}", ec.ECDSA(_HASHES[hash_name])))


ED25519: Final = FixedScheme(EdwardsSignature("Ed25519", ed25519.Ed25519PublicKey))
ED448: Final = FixedScheme(EdwardsSignature("Ed448", ed448.Ed448PublicKey))


@lru_cache(maxsize=64)
def _parameters(algorithm: bytes) -> bytes:
    if len(algorithm) > MAX_SIGNATURE_ALGORITHM:
        raise BadAlg(f"signature algorithm: want at most {MAX_SIGNATURE_ALGORITHM} octets, have {len(algorithm)}")
    try:
        _, pos, end = read_whole_algorithm(algorithm, "signature algorithm")
    except der.DerError as error:
        raise BadDataFormat(str(error)) from None
    return algorithm[pos:end]


@lru_cache(maxsize=64)
def _pss(parameters: bytes) -> RsaSignature:
    try:
        hash_name, salt = read_pss(parameters, 0, len(parameters))
    except AlgorithmError as error:
        raise BadAlg(str(error)) from None
    except der.DerError as error:
        raise BadDataFormat(str(error)) from None
    digest = _HASHES[hash_name]
    return RsaSignature("RSASSA-PSS", hash_name, salt, padding.PSS(padding.MGF1(digest), salt))
