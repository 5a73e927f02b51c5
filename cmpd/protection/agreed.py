"""MACs whose key comes of a certificate's key pair: DHBasedMac, KemBasedMac (RFC 9810 sections 5.1.3.2, 5.1.3.4).

The certificate is found and judged as for a signature, and its holder is the requester; keyUsage has to allow for
keyAgreement or keyEncipherment in place of digitalSignature. An answer to a DHBasedMac is one too, under the same key.
A KemBasedMac authenticates its sender alone: who encapsulated the secret is no party to that key, so the answer is
protected like that to a signature, unless the sender has encapsulated something himself (handlers/kem.py).
"""

import hmac
import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final, Protocol

from cmpd.asn1 import der
from cmpd.errors import BadAlg, BadMessageCheck
from cmpd.message import Envelope
from cmpd.protection.base import (
    Credentials,
    KemSecrets,
    KeyMaterial,
    Protector,
    SenderCredential,
    VerifiedRequest,
)
from cmpd.protection.candidates import find_sender, misfit, read_identity
from cmpd.protection.dhbm import DhBasedMac
from cmpd.protection.kembm import KemBasedMac
from cmpd.records import Requester

_log = logging.getLogger("cmpd.protection")


def requester_of(credential: str, found: SenderCredential) -> Requester:
    """The holder of a certificate, by the name of his credential."""
    return Requester(
        credential, found.entity, found.certificate, found.subject, found.serial, found.profile, found.state
    )


class AnyMac(Protocol):
    """What a Mac and a KemBasedMac share: all but how the key is derived."""

    @property
    def algorithm(self) -> bytes:
        """DER of the AlgorithmIdentifier."""

    def compute(self, key: bytes, octets: bytes) -> bytes:
        """The MAC over `octets`."""

    def answering(self, random: Callable[[int], bytes]) -> "AnyMac":
        """As Mac.answering."""


def mac_protector(
    mac: AnyMac,
    key: bytes,
    sender: bytes,
    sender_kid: bytes | None,
    extra_certs: tuple[bytes, ...],
    random: Callable[[int], bytes],
) -> Protector:
    """Protects answers under a key with the parameters of the message that they answer.

    Parameters that are good for one message are made anew for each: an answer that cannot be kept is followed by
    another one.
    """
    answer = mac.answering(random)

    async def compute(octets: bytes) -> bytes:
        return answer.compute(key, octets)

    renewed = None
    if answer is not mac:
        renewed = partial(mac_protector, mac, key, sender, sender_kid, extra_certs, random)
    return Protector(answer.algorithm, sender, sender_kid, extra_certs, compute, renewed)


def certificate_protector(mac: AnyMac, key: bytes, certificate: bytes, keys: KeyMaterial) -> Protector:
    """The same for a key that this server has by the key pair of its certificate (DER), whose subject is the sender."""
    subject, key_identifier = read_identity(certificate)
    sender = der.explicit(4, subject)
    return mac_protector(mac, key, sender, key_identifier, (certificate, *keys.chain), keys.random)


@lru_cache(maxsize=4096)
def tell_of_sha1(reference: str) -> None:
    """Log it; the cache keeps it to once for each reference (while it stays among the last 4096)."""
    _log.warning("entity %r protects its messages with a MAC made of SHA-1; the policy can refuse that", reference)


# --- verifying --------------------------------------------------------------------------------------------------------


async def verify_key_mac(
    envelope: Envelope,
    mac: DhBasedMac | KemBasedMac,
    credentials: Credentials,
    signer: Protector,
    keys: KeyMaterial,
    *,
    known_sender: bytes | None,
    strict: bool,
) -> VerifiedRequest:
    """As protection.verify, for a message with one of these MACs, which was parsed."""
    if isinstance(mac, KemBasedMac):
        return await _verify_encapsulated(envelope, mac, credentials, signer, keys)
    if keys.agreement is None:
        raise BadAlg(
            "protectionAlg: want a signature or a MAC by a shared secret, have DHBasedMac, for which this "
            "server has no key (RFC 9810 section 5.1.3.2)"
        )
    found = await find_sender(envelope, credentials, known_sender, strict=strict)
    if not found.may_agree:
        raise BadMessageCheck("protection certificate: want keyAgreement in keyUsage for DHBasedMac, have others")
    key = mac.derive(await keys.agreement.agree(found.key))
    _check(envelope, mac, key, found, "the server's agreement certificate")
    protector = certificate_protector(mac, key, keys.agreement.certificate, keys)
    return VerifiedRequest(envelope, requester_of(f"agreement:{found.fingerprint}", found), protector)


async def _verify_encapsulated(
    envelope: Envelope, mac: KemBasedMac, credentials: Credentials, signer: Protector, keys: KeyMaterial
) -> VerifiedRequest:
    """The certificate is the one that the secret was encapsulated for, whatever is in extraCerts: its keyUsage fits."""
    transaction_id = envelope.header.transaction_id or b""
    held = await keys.encapsulated(transaction_id)
    if held is None:
        raise BadMessageCheck(_ASK_AGAIN)
    any_status = envelope.body_name == "rr"
    found = await credentials.sender(held.certificate, envelope.extra_certs, any_status=any_status)
    if (fault := misfit(envelope, found)) is not None:
        raise fault
    _check(envelope, mac, mac.derive(held.secret, transaction_id), found, "the KEM ciphertext of this transaction")
    requester = requester_of(f"kem:{found.fingerprint}", found)
    return VerifiedRequest(envelope, requester, signer, kem=KemSecrets(sender=held.secret))


def _check(envelope: Envelope, mac: DhBasedMac | KemBasedMac, key: bytes, found: SenderCredential, other: str) -> None:
    if not hmac.compare_digest(mac.compute(key, envelope.protected), envelope.protection or b""):
        raise BadMessageCheck(f"protection: the MAC does not verify with the protection certificate and {other}")
    if mac.uses_sha1:
        tell_of_sha1(found.entity.reference)


_ASK_AGAIN: Final = (
    "protection: want a KEM ciphertext that this server gave in this transaction, have none that it still holds; ask "
    "for another one by genm KemCiphertextInfo, in a new transaction (RFC 9810 section 5.1.3.4)"
)
