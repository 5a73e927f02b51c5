"""The static Diffie-Hellman key of the server and its certificate (RFC 9810 section 5.1.3.2), in an encrypted file.

It agrees with the keys of others on what MACs are made from: DHBasedMac, and the agreeMAC of RFC 4211. The library has
checked that a point is on its curve when it loads a key, and refuses points of small order when it agrees, so that no
peer learns anything of the key. P-384 and P-521 take up to half a millisecond and go through `offload`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.cms.agreement import AgreementPrivateKey, agree
from cmpd.errors import BadAlg, ConfigError
from cmpd.public_keys import encryption_kind, key_kind
from cmpd.signing.file import Offload, check_certificate, read_any_private_key

AGREEMENT_KEYS: Final[dict[str, Callable[[], AgreementPrivateKey]]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "x25519": x25519.X25519PrivateKey.generate,
    "x448": x448.X448PrivateKey.generate,
}
"""Kinds of keys for this, by the configuration's words for them."""

_SLOW: Final = frozenset(("p384", "p521"))


class StaticAgreementKey:
    """An AgreementKey (protection/base.py) that is held in memory."""

    __slots__ = ("_key", "_kind", "_offload", "certificate")

    def __init__(self, key: AgreementPrivateKey, certificate: bytes, *, offload: Offload | None = None) -> None:
        """`certificate`: DER. `offload` is used by slow keys; None: all agree where they are called."""
        self.certificate = certificate
        self._key = key
        self._kind = kind_of(key.public_key())
        self._offload = offload if self._kind in _SLOW else None

    async def agree(self, public: PublicKeyTypes) -> bytes:
        """The shared value with this key of a peer: the x coordinate of the point, whole (RFC 7748: u).

        BadAlg if it is of another kind or on another curve, or a point of small order.
        """
        kind = kind_of(public)
        if kind != self._kind:
            raise BadAlg(f"key agreement: want a key of the server's kind, {self._kind}, have {kind}")

        def work() -> bytes:
            return agree(self._key, public)

        try:
            return work() if self._offload is None else await self._offload(work)
        except ValueError:
            raise BadAlg(
                f"key agreement: want a point of large order, have one whose shared values anybody knows ({kind})"
            ) from None


def kind_of(public: PublicKeyTypes) -> str:
    """The word for the kind of a public key, that of its class if there is none."""
    return key_kind(public) or encryption_kind(public) or type(public).__name__.removesuffix("PublicKey")


def load_agreement_key(
    path: Path, passphrase: bytes, certificate: bytes, *, offload: Offload | None = None
) -> StaticAgreementKey:
    """The key in `path`, which must be the one of `certificate` (DER) and fit to agree with; ConfigError otherwise."""
    key = read_any_private_key(path, passphrase)
    if not isinstance(key, AgreementPrivateKey) or kind_of(key.public_key()) not in AGREEMENT_KEYS:
        raise ConfigError(f"key {path}: want a key for P-256, P-384, P-521, X25519 or X448 to agree with")
    check_certificate(path, key, certificate, "keyAgreement")
    return StaticAgreementKey(key, certificate, offload=offload)
