"""What is in an EncryptedKey, for whom it is meant for.

Nobody learns why something cannot be decrypted. A key that does not come out of its encryption, or has another length
than its cipher needs, is replaced by a random one and the way goes on with that, so PKCS #1 padding (Bleichenbacher's
attack) shows neither in the answer nor in the time; what fails at the end fails as CannotDecrypt with one text.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from cryptography.hazmat.primitives.padding import PKCS7

from cmpd.asn1.algorithms import DIGEST_OCTETS
from cmpd.cms.algorithms import BLOCK
from cmpd.cms.reading import EncryptedKey, KeyTransport, Password
from cmpd.env import Env
from cmpd.errors import BadAlg, BadRequest
from cmpd.frozen import frozen

Offload = Callable[[Callable[[], bytes], int], Awaitable[bytes]]
"""Runs a key derivation of so many iterations off the loop (as in protection/base.py)."""

DecryptKey = Callable[[bytes, bytes], Awaitable[bytes]]
"""(DER of the AlgorithmIdentifier, encrypted key) -> the key, or any other octets if it cannot be decrypted."""

_TEXT: Final = "EncryptedKey: cannot be decrypted here"


class CannotDecrypt(BadRequest):
    """It was not encrypted for us, or not correctly; the text never says which."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(_TEXT, detail=detail)


@frozen
class DerivationLimits:
    """What PBKDF2 may cost. Salts may be empty; `max_salt` is in octets.

    `max_iterations` is for all blocks of the key together: a key of 32 octets from HMAC-SHA1 has two.
    """

    min_iterations: int = 100
    max_iterations: int = 10_000  # about as many microseconds
    max_salt: int = 128
    inline_iterations: int = 2_000  # more than these are derived off the loop, where there is such a way


async def open_encrypted_key(
    found: EncryptedKey,
    env: Env,
    *,
    decrypt_key: DecryptKey | None,
    secret: bytes | None,
    limits: DerivationLimits,
    offload: Offload | None = None,
) -> bytes:
    """The octets that were encrypted.

    `decrypt_key` does it for a KeyTransport whose recipient has been compared with the certificate; None: nobody can.
    `secret`: what a Password is derived from, None if there is none; `offload` None: it is derived right here. Raises
    CannotDecrypt, and BadAlg for a derivation that is out of bounds.
    """
    transport = found.transport
    if isinstance(transport, KeyTransport):
        if decrypt_key is None:
            raise CannotDecrypt("there is no key for it")
        key: bytes | None = await decrypt_key(transport.algorithm, transport.encrypted_key)
    elif not isinstance(transport, Password):
        raise CannotDecrypt("nothing is encrypted to this server by key agreement or KEM")
    else:
        if secret is None:
            raise CannotDecrypt("a password was used, and there is no shared secret")
        key = await _unwrap(transport, secret, limits, offload)
    if key is None or len(key) != found.cipher.key_octets:
        key = env.random(found.cipher.key_octets)
    unpadder = PKCS7(8 * BLOCK).unpadder()
    padded = unpadder.update(found.cipher.decrypt(key, found.encrypted))
    try:
        return padded + unpadder.finalize()
    except ValueError:
        raise CannotDecrypt("wrong key or padding") from None


async def _unwrap(password: Password, secret: bytes, limits: DerivationLimits, offload: Offload | None) -> bytes | None:
    derivation, size = password.derivation, password.wrap.key_octets
    blocks = -(-size // DIGEST_OCTETS[derivation.prf])
    most = limits.max_iterations // blocks
    if not limits.min_iterations <= derivation.count <= most:
        raise BadAlg(f"PBKDF2 iterationCount: want {limits.min_iterations} to {most}, have {derivation.count}")
    if len(derivation.salt) > limits.max_salt:
        raise BadAlg(f"PBKDF2 salt: want at most {limits.max_salt} octets, have {len(derivation.salt)}")

    def derive() -> bytes:
        return hashlib.pbkdf2_hmac(derivation.prf, secret, derivation.salt, derivation.count, size)

    cost = derivation.count * blocks
    key = derive() if offload is None or cost <= limits.inline_iterations else await offload(derive, cost)
    return password.wrap.unwrap(key, password.encrypted_key)
