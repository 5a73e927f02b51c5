"""Signatures that are verified (RFC 9481 section 3, RFC 8692, RFC 9688, RFC 9881): SCHEMES, one row for each OID.

They are the same for protection, for proof of possession and in certificates. Parameters must be what the RFC of the
algorithm says: absent for ECDSA, EdDSA and ML-DSA, NULL for RSA with PKCS #1 v1.5 (or absent with SHA-2: RFC 4055
section 5), complete for RSASSA-PSS; they are read once for each AlgorithmIdentifier met. SHA-1, older hashes and those
of less than 256 bits never count in a signature, whatever the policy. The library has no SHAKE for RSA and no SLH-DSA,
so these are unknown here.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import DIGEST_OCTETS, LIBRARY_HASHES, AlgorithmError, read_pss, read_whole_algorithm
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.public_keys import CURVES, MAX_RSA_BITS, MIN_RSA_BITS, key_family

MAX_SIGNATURE_ALGORITHM: Final = 256
"""Longest AlgorithmIdentifier that is looked at, in octets; bounds what the caches hold. RSASSA-PSS has about 70."""


class Signature(Protocol):
    """A signature algorithm with its parameters."""

    @property
    def name(self) -> str:
        """As its RFC spells it."""

    def check(self, key: PublicKeyTypes) -> None:
        """BadAlg if the algorithm does not fit this key, or the key is too weak."""

    def verify(self, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good; False too for a key of another kind."""


class SignatureScheme(Protocol):
    """A signature algorithm, one OID."""

    def parse(self, algorithm: bytes) -> Signature:
        """The algorithm with its parameters; BadAlg or BadDataFormat if these are not understood or not accepted."""

    def check(self, algorithm: bytes, key: PublicKeyTypes) -> None:
        """BadAlg or BadDataFormat if the parameters are not understood or the algorithm does not fit this key."""

    def verify(self, algorithm: bytes, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good; `check` has passed."""


@dataclass(frozen=True, slots=True)
class RsaSignature:
    """RSA with PKCS #1 v1.5 (`salt` None) or RSASSA-PSS (`salt` in octets)."""

    name: str
    hash_name: str
    salt: int | None
    scheme: padding.AsymmetricPadding

    def check(self, key: PublicKeyTypes) -> None:
        """BadAlg unless the key is RSA of 2048 to 16384 bits, with room for the salt."""
        if key_family(type(key)) != "rsa":
            raise _misfit(self.name, "an RSA key", key)
        bits = cast(rsa.RSAPublicKey, key).key_size
        if bits < MIN_RSA_BITS:
            raise BadAlg(f"{self.name}: want an RSA key of {MIN_RSA_BITS} bits or more, have {bits}")
        if bits > MAX_RSA_BITS:
            raise BadAlg(f"{self.name}: want an RSA key of at most {MAX_RSA_BITS} bits, have {bits}")
        room = (bits + 6) // 8 - DIGEST_OCTETS[self.hash_name] - 2  # RFC 8017 section 9.1.1 step 3
        if self.salt is not None and self.salt > room:
            raise BadAlg(f"RSASSA-PSS saltLength: want at most {room} with this key, have {self.salt}")

    def verify(self, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        if key_family(type(key)) != "rsa":
            return False
        try:
            cast(rsa.RSAPublicKey, key).verify(signature, octets, self.scheme, LIBRARY_HASHES[self.hash_name])
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class EcdsaSignature:
    """ECDSA with one hash, on any of CURVES."""

    name: str
    scheme: ec.ECDSA

    def check(self, key: PublicKeyTypes) -> None:
        """BadAlg unless the key is on one of CURVES."""
        if key_family(type(key)) != "ec":
            raise _misfit(self.name, "an EC key", key)
        curve = cast(ec.EllipticCurvePublicKey, key).curve.name
        if curve not in CURVES:
            raise BadAlg(f"{self.name}: want a key on {', '.join(CURVES)}, have {curve}")

    def verify(self, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        if key_family(type(key)) != "ec":
            return False
        try:
            cast(ec.EllipticCurvePublicKey, key).verify(signature, octets, self.scheme)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PlainSignature:
    """EdDSA (RFC 8410) or pure ML-DSA with an empty context (RFC 9881 section 3): nothing goes with the name."""

    name: str
    kind: type

    def check(self, key: PublicKeyTypes) -> None:
        """BadAlg unless the key is of this kind."""
        if not isinstance(key, self.kind):
            raise _misfit(self.name, f"an {self.name} key", key)

    def verify(self, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        if not isinstance(key, self.kind):
            return False
        try:
            cast(Any, key).verify(signature, octets)
        except InvalidSignature:
            return False
        return True


def _misfit(name: str, wanted: str, key: object) -> BadAlg:
    return BadAlg(f"{name}: want {wanted}, have one of another kind", detail=f"the key is a {type(key).__name__}")


# --- the rows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FixedScheme:
    """An algorithm that its OID says all of. `parameters`: "absent", "NULL" or "absent or NULL"."""

    signature: Signature
    parameters: str = "absent"

    def parse(self, algorithm: bytes) -> Signature:
        """The algorithm; BadAlg if there are other parameters."""
        if _parameters(algorithm) not in _PARAMETERS[self.parameters]:
            raise BadAlg(f"{self.signature.name} parameters: want them {self.parameters}, have others")
        return self.signature

    def check(self, algorithm: bytes, key: PublicKeyTypes) -> None:
        """BadAlg if there are other parameters, or the key is unfit."""
        self.parse(algorithm).check(key)

    def verify(self, algorithm: bytes, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        return self.signature.verify(key, signature, octets)


_PARAMETERS: Final = {"absent": (b"",), "NULL": (der.NULL_TLV,), "absent or NULL": (b"", der.NULL_TLV)}


@dataclass(frozen=True, slots=True)
class PssScheme:
    """RSASSA-PSS, whose hash, mask and salt are in the parameters."""

    def parse(self, algorithm: bytes) -> Signature:
        """The algorithm; BadAlg or BadDataFormat if RSASSA-PSS-params are not understood or not accepted."""
        return _pss(_parameters(algorithm))

    def check(self, algorithm: bytes, key: PublicKeyTypes) -> None:
        """The same, and BadAlg if the key is unfit."""
        self.parse(algorithm).check(key)

    def verify(self, algorithm: bytes, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
        """Whether the signature is good."""
        return self.parse(algorithm).verify(key, signature, octets)


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
    digest = LIBRARY_HASHES[hash_name]
    return RsaSignature("RSASSA-PSS", hash_name, salt, padding.PSS(padding.MGF1(digest), salt))


def _pkcs1(hash_name: str, name: str) -> FixedScheme:
    parameters = "NULL" if hash_name.startswith("sha3_") else "absent or NULL"
    return FixedScheme(RsaSignature(name, hash_name, None, padding.PKCS1v15()), parameters)


def _ecdsa(hash_name: str, name: str) -> FixedScheme:
    return FixedScheme(EcdsaSignature(name, ec.ECDSA(LIBRARY_HASHES[hash_name])))


SIGNATURE_SCHEMES: Final[dict[bytes, SignatureScheme]] = {
    oids.ECDSA_WITH_SHA256: _ecdsa("sha256", "ecdsa-with-SHA256"),
    oids.ECDSA_WITH_SHA384: _ecdsa("sha384", "ecdsa-with-SHA384"),
    oids.ECDSA_WITH_SHA512: _ecdsa("sha512", "ecdsa-with-SHA512"),
    oids.ECDSA_WITH_SHA3_256: _ecdsa("sha3_256", "ecdsa-with-sha3-256"),
    oids.ECDSA_WITH_SHA3_384: _ecdsa("sha3_384", "ecdsa-with-sha3-384"),
    oids.ECDSA_WITH_SHA3_512: _ecdsa("sha3_512", "ecdsa-with-sha3-512"),
    oids.ECDSA_WITH_SHAKE128: _ecdsa("shake128", "ecdsa-with-shake128"),
    oids.ECDSA_WITH_SHAKE256: _ecdsa("shake256", "ecdsa-with-shake256"),
    oids.SHA256_WITH_RSA: _pkcs1("sha256", "sha256WithRSAEncryption"),
    oids.SHA384_WITH_RSA: _pkcs1("sha384", "sha384WithRSAEncryption"),
    oids.SHA512_WITH_RSA: _pkcs1("sha512", "sha512WithRSAEncryption"),
    oids.SHA3_256_WITH_RSA: _pkcs1("sha3_256", "rsassa-pkcs1-v1-5-with-sha3-256"),
    oids.SHA3_384_WITH_RSA: _pkcs1("sha3_384", "rsassa-pkcs1-v1-5-with-sha3-384"),
    oids.SHA3_512_WITH_RSA: _pkcs1("sha3_512", "rsassa-pkcs1-v1-5-with-sha3-512"),
    oids.RSASSA_PSS: PssScheme(),
    oids.ED25519: FixedScheme(PlainSignature("Ed25519", ed25519.Ed25519PublicKey)),
    oids.ED448: FixedScheme(PlainSignature("Ed448", ed448.Ed448PublicKey)),
    oids.ML_DSA_44: FixedScheme(PlainSignature("ML-DSA-44", mldsa.MLDSA44PublicKey)),
    oids.ML_DSA_65: FixedScheme(PlainSignature("ML-DSA-65", mldsa.MLDSA65PublicKey)),
    oids.ML_DSA_87: FixedScheme(PlainSignature("ML-DSA-87", mldsa.MLDSA87PublicKey)),
}

REFUSED: Final[dict[bytes, str]] = {
    oids.MD2_WITH_RSA: "MD2",
    oids.MD4_WITH_RSA: "MD4",
    oids.MD5_WITH_RSA: "MD5",
    oids.SHA1_WITH_RSA: "SHA-1",
    oids.SHA1_WITH_RSA_OIW: "SHA-1",
    oids.DSA_WITH_SHA1: "SHA-1",
    oids.DSA_WITH_SHA1_OIW: "SHA-1",
    oids.ECDSA_WITH_SHA1: "SHA-1",
    oids.SHA224_WITH_RSA: "SHA-224",
    oids.ECDSA_WITH_SHA224: "SHA-224",
    oids.SHA3_224_WITH_RSA: "SHA3-224",
    oids.ECDSA_WITH_SHA3_224: "SHA3-224",
}
"""Signatures that are known and never accepted, with the hash that is the reason."""


@lru_cache(maxsize=64)
def signature_scheme(algorithm: bytes, noun: str) -> SignatureScheme:
    """The scheme of an AlgorithmIdentifier (DER) that must be a signature; `noun` says in errors where it stands.

    BadAlg if it is unknown, refused or no signature; BadDataFormat if it is no AlgorithmIdentifier.
    """
    if len(algorithm) > MAX_SIGNATURE_ALGORITHM:
        raise BadAlg(f"{noun}: want at most {MAX_SIGNATURE_ALGORITHM} octets, have {len(algorithm)}")
    try:
        oid = read_whole_algorithm(algorithm, "AlgorithmIdentifier")[0]
    except der.DerError as error:
        raise BadDataFormat(str(error)) from None
    scheme = SIGNATURE_SCHEMES.get(oid)
    if oid in REFUSED:
        raise BadAlg(f"{noun}: a signature with {REFUSED[oid]} is not accepted, use SHA-256, SHA-384 or SHA-512")
    if scheme is None:
        raise BadAlg(f"{noun}: algorithm {der.dotted(oid)} is not supported here")
    return scheme


def is_signed(algorithm: bytes, key: PublicKeyTypes, signature: bytes, octets: bytes) -> bool:
    """Whether a signature by whatever algorithm is good; False too if that is not supported or does not fit the key."""
    try:
        scheme = signature_scheme(algorithm, "signatureAlgorithm")
        scheme.check(algorithm, key)
    except (BadAlg, BadDataFormat):
        return False
    return scheme.verify(algorithm, key, signature, octets)
