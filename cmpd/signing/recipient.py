"""The RSA key behind the protocol encryption certificate (RFC 9810 section 5.3.19.1), in an encrypted PKCS#8 file.

It never says that a key could not be decrypted: random octets come instead. Even so, whoever sends another's message
with changed contents learns by the final answer whether their padding is right, and could so decrypt them octet by
octet (Vaudenay's attack). A sender makes a new key for each message (RFC 9810 section 5.2.2), so the same encrypted
key is decrypted only a few times, for repeated requests, and gives random octets from then on.
"""

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cmpd.asn1.algorithms import AlgorithmError
from cmpd.asn1.der import DerError
from cmpd.cms.algorithms import read_rsa_padding
from cmpd.env import Env
from cmpd.errors import BadAlg, BadDataFormat, ConfigError
from cmpd.signing.file import Offload, check_certificate, read_private_key

MAX_USES: Final = 16
"""How often the same encrypted key is decrypted."""

_REMEMBERED: Final = 4096
_MIN_BITS: Final = 2048


class RsaRecipient:
    """A Recipient (handlers/base.py) whose key is held in memory."""

    __slots__ = ("_env", "_key", "_offload", "_uses", "certificate")

    def __init__(self, key: rsa.RSAPrivateKey, certificate: bytes, env: Env, *, offload: Offload | None = None) -> None:
        """`certificate`: DER. Without `offload` the milliseconds of a decryption are spent where it is called."""
        self.certificate = certificate
        self._key, self._env, self._offload = key, env, offload
        self._uses: OrderedDict[bytes, int] = OrderedDict()

    async def decrypt_key(self, algorithm: bytes, encrypted_key: bytes) -> bytes:
        """The key that was encrypted with rsaEncryption or id-RSAES-OAEP; 32 random octets if it cannot be decrypted.

        `algorithm`: DER of the AlgorithmIdentifier; BadAlg or BadDataFormat if it is not understood.
        """
        try:
            scheme = read_rsa_padding(algorithm)
        except DerError as fault:
            raise BadDataFormat(f"keyEncryptionAlgorithm: {fault}") from None
        except AlgorithmError as fault:
            raise BadAlg(str(fault)) from None
        if len(encrypted_key) != self._key.key_size // 8:  # junk is not worth remembering
            return self._env.random(32)
        used_up = self._count(encrypted_key) > MAX_USES

        def work() -> bytes:
            found = _decrypt(self._key, scheme, encrypted_key)
            return self._env.random(32) if found is None or used_up else found

        return work() if self._offload is None else await self._offload(work)

    def _count(self, encrypted_key: bytes) -> int:
        digest = hashlib.sha256(encrypted_key).digest()
        uses = self._uses.pop(digest, 0) + 1
        self._uses[digest] = uses
        if len(self._uses) > _REMEMBERED:
            self._uses.popitem(last=False)
        return uses


def _decrypt(key: rsa.RSAPrivateKey, scheme: padding.PKCS1v15 | padding.OAEP, encrypted_key: bytes) -> bytes | None:
    try:
        return key.decrypt(encrypted_key, scheme)
    except ValueError:
        return None


def load_recipient(
    path: Path, passphrase: bytes, certificate: bytes, env: Env, *, offload: Offload | None = None
) -> RsaRecipient:
    """The key in `path`, which must be the one of `certificate` (DER) and fit to encrypt to; ConfigError otherwise."""
    key = read_private_key(path, passphrase)
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _MIN_BITS:
        raise ConfigError(f"key {path}: want an RSA key of at least {_MIN_BITS} bits to encrypt to")
    check_certificate(path, key, certificate, "keyEncipherment")
    return RsaRecipient(key, certificate, env, offload=offload)
