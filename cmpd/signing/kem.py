"""The KEM key of the server and its certificate (RFC 9810 section 5.1.3.4), in an encrypted file.

Whoever has the certificate encapsulates a secret for it and sends the ciphertext; answers are then protected by a MAC
under that secret. ML-KEM never says that a ciphertext was made for another key: it gives a secret that nobody else
has (FIPS 203 section 6.3). It takes 50 microseconds, less than a way to another thread and back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import mlkem

from cmpd.errors import BadMessageCheck, ConfigError
from cmpd.public_keys import ENCRYPTION_IDENTIFIERS, encryption_kind
from cmpd.signing.file import check_certificate, read_any_private_key

KemPrivateKey = mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey

KEM_KEYS: Final[dict[str, Callable[[], KemPrivateKey]]] = {
    "mlkem768": mlkem.MLKEM768PrivateKey.generate,
    "mlkem1024": mlkem.MLKEM1024PrivateKey.generate,
}
"""Kinds of keys for this, by the configuration's words for them."""


class MlKemKey:
    """A KemKey (protection/base.py) that is held in memory."""

    __slots__ = ("_key", "_kind", "certificate")

    def __init__(self, key: KemPrivateKey, certificate: bytes) -> None:
        """`certificate`: DER."""
        self.certificate = certificate
        self._key = key
        self._kind = encryption_kind(key.public_key())

    async def decapsulate(self, algorithm: bytes, ciphertext: bytes) -> bytes:
        """The shared secret, 32 octets; `algorithm`: DER of the AlgorithmIdentifier of the KEM.

        BadMessageCheck if the algorithm or the length of the ciphertext is not that of this key.
        """
        if algorithm != ENCRYPTION_IDENTIFIERS[self._kind]:
            raise BadMessageCheck(
                f"KemCiphertextInfo.kem: want the algorithm of the server's key, {self._kind}, without parameters, "
                "have another"
            )
        try:
            return self._key.decapsulate(ciphertext)
        except ValueError:
            raise BadMessageCheck(
                f"KemCiphertextInfo.ct: want a ciphertext for the server's key ({self._kind}), have {len(ciphertext)} "
                "octets that are none"
            ) from None


def load_kem_key(path: Path, passphrase: bytes, certificate: bytes) -> MlKemKey:
    """The key in `path`, which must be the one of `certificate` (DER) and fit to encapsulate for; else ConfigError."""
    key = read_any_private_key(path, passphrase)
    if not isinstance(key, KemPrivateKey):
        raise ConfigError(f"key {path}: want an ML-KEM-768 or ML-KEM-1024 key to encapsulate for")
    check_certificate(path, key, certificate, "keyEncipherment")
    return MlKemKey(key, certificate)
