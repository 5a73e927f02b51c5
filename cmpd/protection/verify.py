"""Verifying PKIProtection (RFC 9810 section 5.1.3, RFC 9483 section 3.5), and what protects the answer.

A MAC is answered with a MAC of the same parameters, so that the key is derived once for a pair of messages; a signature
is answered with the CA's signature, and so is an unprotected message whose sender has shown who it is by TLS, where
that is enough. When `verify` raises, the answer must be signed: a MAC over it for somebody who did not show the secret
would let him guess the secret offline, at his leisure, from one answer (RFC 9810 section 5.3.21 has errors signed
too). That is why only `verify` makes a Protector with a MAC, and only after the MAC was right.

MACs by the key of a certificate (agreed.py: DHBasedMac, KemBasedMac) stand for its holder as a signature does.

Everything that the AlgorithmIdentifier says is checked before a secret or certificate is looked up. The text does not
tell an unknown reference value from a wrong MAC. The time does: deriving keys for nobody would let anybody who knows no
reference value keep the server busy, which is worse than letting him learn one; it is the secret that protects.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from cmpd.asn1 import der, names, oids
from cmpd.errors import BadDataFormat, BadMessageCheck
from cmpd.message import NULL_DN, Envelope, Header
from cmpd.protection.agreed import mac_protector, requester_of, tell_of_sha1, verify_key_mac
from cmpd.protection.base import (
    NO_KEYS,
    Credentials,
    KeyMaterial,
    Mac,
    Offload,
    ProtectionPolicy,
    Protector,
    SecretCredential,
    VerifiedRequest,
)
from cmpd.protection.candidates import find_sender, is_sender
from cmpd.protection.schemes import key_mac_scheme, mac_scheme
from cmpd.records import Requester
from cmpd.signatures import signature_scheme
from cmpd.strictness import RULES

_LookUp = Callable[[bytes], Awaitable[SecretCredential | None]]

_WRONG_MAC: Final = (
    "protection: the MAC does not verify with a secret registered for senderKID or sender (RFC 9483 section 3.5)"
)
"""All of it is here, section too: who asks is not told by a text that differs what is registered."""


async def verify(
    envelope: Envelope,
    credentials: Credentials,
    policy: ProtectionPolicy,
    signer: Protector,
    *,
    known_sender: bytes | None = None,
    offload: Offload | None = None,
    channel: tuple[bytes, ...] = (),
    keys: KeyMaterial = NO_KEYS,
    mac_parameters: bytes | None = None,
    strict: bool = True,
) -> VerifiedRequest:
    """Verify the protection of a request and say who made it.

    `signer` protects answers to signed requests. `known_sender` is the protection certificate (DER) of the first
    request of the transaction, for a message that omits it. `offload` runs derivations of more than
    `policy.inline_iterations`; None = inline. `channel`: the TLS client certificate (DER) and what is known of its
    chain, where it may stand for the protection of a message that has none; else empty. `mac_parameters`: the
    protectionAlg (DER) of the first request of the transaction, for a PasswordBasedMac without parameters. `strict`:
    what RULES say of this, of senderKID, and of a protection certificate that is not in extraCerts.

    BadDataFormat: malformed algorithm or sender. BadAlg: algorithm unknown or refused, or unfit for the key.
    BadMessageCheck: no protection, or it does not verify, or sender or senderKID do not fit. SignerNotTrusted: no
    protection certificate with a valid path.
    """
    algorithm, protection = envelope.header.protection_alg, envelope.protection
    if algorithm is None or protection is None:
        if algorithm is not None or protection is not None:
            raise BadDataFormat("PKIMessage: want protectionAlg and protection, have only one of them")
        if channel:
            return await _take_channel(envelope, credentials, signer, channel)
        raise BadMessageCheck("unprotected message: want protection by MAC or signature, have none")
    scheme = mac_scheme(algorithm)
    if scheme is None:
        return await _verify_by_certificate(
            envelope, algorithm, protection, credentials, policy, signer, keys, known_sender, strict
        )
    if algorithm in _PBM_AS_BEFORE:
        algorithm = _as_before(algorithm, mac_parameters, strict)
    mac = scheme.parse(algorithm, policy)
    in_rr = envelope.body_name == "rr"
    why = "no secret is registered for it"
    reference = None
    for find, reference in _look_ups(envelope.header, credentials, in_rr, strict):
        found = await find(reference)
        if found is None:
            continue
        key = await _derive(mac, found.secret, policy, offload)
        if hmac.compare_digest(mac.compute(key, envelope.protected), protection):
            if mac.uses_sha1:
                tell_of_sha1(found.entity.reference)
            return _with_mac(envelope, found, mac, key, signer, keys)
        why = "the MAC is wrong"
        if not in_rr:
            break
    raise BadMessageCheck(_WRONG_MAC, detail=f"reference {_shown(reference)}: {why}")


# --- MACs -------------------------------------------------------------------------------------------------------------


def _look_ups(header: Header, credentials: Credentials, in_rr: bool, strict: bool) -> Iterator[tuple[_LookUp, bytes]]:
    """How to find the secret: by senderKID, else by the only commonName of sender; strictly, only without senderKID.

    Clients differ: RFC 9483 section 3.1 has the reference value in both, OpenSSL has the wished subject in sender, and
    others have no senderKID. In an rr senderKID may name a revocation passphrase too (RFC 9810 appendix B), and all
    that are found are tried, three at most; elsewhere the first one counts.
    """
    if header.sender_kid is not None:
        yield credentials.secret, header.sender_kid
        if in_rr:
            yield credentials.passphrase, header.sender_kid
    try:
        name = names.directory_name(header.sender)
        common = [] if name is None else names.attribute_texts(names.read_name(name), names.COMMON_NAME)
    except der.DerError:  # no error of its own: that would tell whether senderKID is registered
        return
    if len(common) == 1 and (by_name := common[0].encode()) != header.sender_kid:
        RULES["senderKID of a MAC is the reference value, if it is there"].hold(
            strict, header.sender_kid is None, _WRONG_MAC.partition(" (")[0]
        )
        yield credentials.secret, by_name


async def _derive(mac: Mac, secret: bytes, policy: ProtectionPolicy, offload: Offload | None) -> bytes:
    if offload is None or mac.iterations <= policy.inline_iterations:
        return mac.derive(secret)
    return await offload(lambda: mac.derive(secret), mac.iterations)


_PBM: Final = der.tlv(der.OID, oids.PASSWORD_BASED_MAC)
_PBM_AS_BEFORE: Final = frozenset((der.seq(_PBM), der.seq(_PBM, der.NULL_TLV)))
"""PasswordBasedMac without parameters: cryptlib means those of the transaction's first message."""


def _as_before(algorithm: bytes, parameters: bytes | None, strict: bool) -> bytes:
    rule = RULES["the parameters of PasswordBasedMac are there"]
    rule.hold(strict, parameters is None, "PasswordBasedMac: want PBMParameter, have none")
    return parameters or algorithm


def _with_mac(
    envelope: Envelope, found: SecretCredential, mac: Mac, key: bytes, signer: Protector, keys: KeyMaterial
) -> VerifiedRequest:
    reference = found.entity.reference
    kid, credential = reference.encode(), f"secret:{reference}"
    if found.passphrase is not None:
        kid, credential = found.passphrase.key_id, f"passphrase:{found.passphrase.key_id.hex()}"
    # RFC 9483 section 4.1.5: no certificates for the protection; sender is the CA (RFC 9810 appendix C.4).
    protector = mac_protector(mac, key, signer.sender, kid, (), keys.random)
    requester = Requester(credential, found.entity, passphrase=found.passphrase)
    return VerifiedRequest(envelope, requester, protector, found.secret)


def _shown(reference: bytes | None) -> str:
    return "absent" if reference is None else ascii(reference[:64].decode(errors="backslashreplace"))


# --- by the key of a certificate --------------------------------------------------------------------------------------


async def _verify_by_certificate(
    envelope: Envelope,
    algorithm: bytes,
    protection: bytes,
    credentials: Credentials,
    policy: ProtectionPolicy,
    signer: Protector,
    keys: KeyMaterial,
    known_sender: bytes | None,
    strict: bool,
) -> VerifiedRequest:
    by_key = key_mac_scheme(algorithm)
    if by_key is not None:
        mac = by_key.parse(algorithm, policy)
        return await verify_key_mac(envelope, mac, credentials, signer, keys, known_sender=known_sender, strict=strict)
    scheme = signature_scheme(algorithm, "protectionAlg")
    found = await find_sender(envelope, credentials, known_sender, strict=strict)
    # RFC 9483 section 3.5 gives badAlg, badMessageCheck and signerNotTrusted for the protection certificate as a whole.
    # The certificate here has a good path and an entity, so it is trusted; it is the check that it may not be used for.
    if not found.may_sign:
        raise BadMessageCheck("protection certificate: want digitalSignature in keyUsage, have others")
    scheme.check(algorithm, found.key)
    if not scheme.verify(algorithm, found.key, protection, envelope.protected):
        raise BadMessageCheck("protection: the signature does not verify with the protection certificate")
    return VerifiedRequest(envelope, requester_of(f"certificate:{found.fingerprint}", found), signer)


# --- TLS instead of protection ----------------------------------------------------------------------------------------


async def _take_channel(
    envelope: Envelope, credentials: Credentials, signer: Protector, channel: tuple[bytes, ...]
) -> VerifiedRequest:
    """The holder of a TLS client certificate, whose key the handshake has proven, sent the message.

    The certificate counts as it would as protection certificate, but that TLS needs no digitalSignature in keyUsage.
    sender and senderKID are claims that nothing vouches for: they say nothing, or what is known.
    """
    found = await credentials.sender(channel[0], channel[1:], any_status=envelope.body_name == "rr")
    header = envelope.header
    if header.sender_kid not in (None, found.key_identifier, found.entity.reference.encode()):
        raise BadMessageCheck("senderKID: want none or that of the TLS client certificate, have another")
    try:
        fits = found.entity.is_ra or header.sender == NULL_DN or is_sender(header.sender, found.subject)
    except der.DerError as error:
        raise BadDataFormat(f"sender: {error}") from None
    if not fits:
        raise BadMessageCheck("sender: want the NULL-DN or the subject of the TLS client certificate, have another")
    return VerifiedRequest(envelope, requester_of(channel_credential(found.certificate), found), signer)


def channel_credential(certificate: bytes) -> str:
    """The name of a TLS client certificate (DER) as a credential; never that of a signature."""
    return f"tls:{hashlib.sha256(certificate).hexdigest()}"
