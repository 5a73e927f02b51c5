"""Proof-of-possession (RFC 4211 section 4, RFC 9810 section 5.2.8): the requester has the private key.

By signature over the received octets of certReq, of poposkInput or of a PKCS #10; or raVerified, from an RA alone. Who
has a key that does not sign shows it afterwards, by what only its holder can decrypt: the certificate itself (encrCert)
or a challenge (challengeResp); handlers/proving.py does that. Which of the two kinds of proof it has to be, the key
decides, or where it can do both (RSA, EC) the keyUsage of the certificate.

Where the server has a static Diffie-Hellman key, a key of its kind is shown at once by a MAC over certReq, under what
the two agree on: as agreeMAC, as dhMAC, which is deprecated and SHA-1's, or in the place of a signature (RFC 9810
section 5.2.8.2, and a PKCS #10 of RFC 6955).

A private key is not taken in as proof, because there is no archive for it (RFC 9810 section 5.2.8.3.1).
"""

import hmac
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd import static_dh
from cmpd.asn1 import der
from cmpd.asn1.algorithms import read_whole_algorithm
from cmpd.asn1.names import NULL_DN
from cmpd.asn1.oids import DH_BASED_MAC
from cmpd.errors import BadAlg, BadDataFormat, BadPop, NotAuthorized
from cmpd.message import HIGHEST_PVNO
from cmpd.outline import Outline, outline
from cmpd.popo import PrivKeyPop, SignaturePop
from cmpd.profiles.base import KEY_USAGE_BITS
from cmpd.profiles.extensions import OID_KEY_USAGE, OID_SAN
from cmpd.protection import dhbm, mac_scheme, signature_scheme
from cmpd.protection.base import AgreementKey, ProtectionPolicy, VerifiedRequest
from cmpd.public_keys import SIGNING_USAGES, encryption_kind
from cmpd.requests import P10CR_ID, CertRequest, Extension
from cmpd.static_dh import ECDH_POP

_KEY_MAC_ITERATIONS: Final = 20_000
"""At most, of a MAC that is a part of the proof and is derived on the spot: some 10 ms, for somebody who is known."""


class Proof(StrEnum):
    """What of the proof is still to come."""

    DONE = "done"
    AGREED = "agreeMAC"  # nothing to come from the requester, but `verify_agreed` is still to be asked
    ENCRYPTED = "encrCert"  # the certificate is sent encrypted, the certHash of certConf proves possession
    CHALLENGE = "challengeResp"  # popdecr does


def verify(request: CertRequest, key: PublicKeyTypes, message: VerifiedRequest, policy: ProtectionPolicy) -> Proof:
    """Raise BadPop, BadAlg or NotAuthorized unless possession of the private key of `key` is proven, or may be later.

    `key` is the loaded public key of the request's template; `message` the one that the request came in; `policy` what
    holds for its protection. After all but Proof.DONE `check_usage` has to be asked too, and after Proof.AGREED
    `verify_agreed` before anything else.
    """
    pop = request.pop
    if isinstance(pop, PrivKeyPop):
        return _by_other_means(request, pop, key, message.envelope.header.pvno)
    if isinstance(pop, SignaturePop):
        agreed = _oid(pop.algorithm) in _SIGNATURE_MACS
        if agreed and _choice(key) != "keyAgreement":
            raise BadPop("popo: want a signature for this kind of key, have a MAC by key agreement")
        if not agreed:
            _check_signs(request, key)
        if pop.input_key is not None:
            _check_input(request, pop, pop.input_key, message, policy)
        if agreed:
            return Proof.AGREED
        _verify_signature(pop, key)
    elif pop is None:
        raise BadPop(f"popo: want {_wanted(key)}, have none")
    elif not message.requester.entity.is_ra:
        raise NotAuthorized("popo: raVerified is for a registered RA only, have another (RFC 9483 section 5.1.1)")
    return Proof.DONE


# --- keys that do not sign --------------------------------------------------------------------------------------------

_CHOICES: Final = {
    "x25519": "keyAgreement",
    "x448": "keyAgreement",
    "mlkem768": "keyEncipherment",
    "mlkem1024": "keyEncipherment",
}
"""The choice of ProofOfPossession by the kind of a key that cannot sign (RFC 9810 section 5.2.8.4: KEM keys too)."""

_LATER: Final = "subsequentMessage encrCert or challengeResp"


def _choice(key: PublicKeyTypes) -> str:
    """The choice of ProofOfPossession for keys that do not sign; "" for those that do nothing else."""
    if isinstance(key, rsa.RSAPublicKey):
        return "keyEncipherment"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "keyAgreement"
    return _CHOICES.get(encryption_kind(key), "")


def _wanted(key: PublicKeyTypes) -> str:
    if encryption_kind(key):
        return f"{_choice(key)} with {_LATER}"
    return "a signature by the key that is to be certified"


def _check_signs(request: CertRequest, key: PublicKeyTypes) -> None:
    if not encryption_kind(key):
        return
    if request.cert_req_id == P10CR_ID:
        raise BadPop(f"CertificationRequest: want a key that can sign, or ir, cr or kur with popo {_wanted(key)}")
    raise BadPop(f"popo: want {_wanted(key)} for a key that cannot sign, have signature")


def _by_other_means(request: CertRequest, pop: PrivKeyPop, key: PublicKeyTypes, pvno: int) -> Proof:
    choice = _choice(key)
    if not choice:
        raise BadPop(f"popo: want signature for a key that does nothing else, have {pop.choice}")
    if pop.choice != choice:
        raise BadPop(f"popo: want {choice} for this kind of key, have {pop.choice}")
    if pop.method in ("thisMessage", "encryptedKey"):
        raise BadPop(f"popo: want {_LATER}, have {pop.method}: there is no archive of private keys here")
    if pop.mac is not None:
        _check_mac(request, pop, pvno)
        return Proof.AGREED
    if pvno < HIGHEST_PVNO and not isinstance(key, rsa.RSAPublicKey):
        raise BadPop(
            f"popo: want pvno {HIGHEST_PVNO} for {pop.method} with this kind of key, have {pvno}: only EnvelopedData "
            f"can be encrypted to it (RFC 9810 section 5.2.2)"
        )
    return Proof(pop.method)


def _check_mac(request: CertRequest, pop: PrivKeyPop, pvno: int) -> None:
    if pop.choice != "keyAgreement":
        raise BadPop(f"popo: want {_LATER} for a key that agrees on nothing, have {pop.method}")
    if request.template.subject is None:
        raise BadPop(f"CertTemplate.subject: want it with {pop.method}, have none (RFC 4211 section 4.2)")
    if pop.method == "agreeMAC" and pvno < HIGHEST_PVNO:
        raise BadPop(f"popo: want pvno {HIGHEST_PVNO} for agreeMAC, have {pvno} (RFC 9810 section 5.2.8.3)")


def check_usage(key: PublicKeyTypes, extensions: tuple[Extension, ...]) -> None:
    """BadPop if the key will sign under the certificate: then a signature is the only proof (RFC 9810 5.2.8.4).

    `extensions`: those of the certificate.
    """
    usage = next(extension.value for extension in extensions if extension.oid == OID_KEY_USAGE)
    bits = usage[3]  # the first octet of the BIT STRING, which has all of them
    signing = [name for name in SIGNING_USAGES if bits & 0x80 >> KEY_USAGE_BITS[name]]
    if signing:
        raise BadPop(
            f"popo: want signature for a certificate with keyUsage {', '.join(signing)}, have {_choice(key)}; "
            f"or ask for another keyUsage"
        )


# --- MACs by key agreement --------------------------------------------------------------------------------------------

_SIGNATURE_MACS: Final = frozenset((DH_BASED_MAC, *ECDH_POP))
_WANTED_MAC: Final = "want id-alg-ecdhPop-static with an EC key, DHBasedMac or PasswordBasedMac"


async def verify_agreed(
    request: CertRequest, key: PublicKeyTypes, agreement: AgreementKey | None, policy: ProtectionPolicy
) -> None:
    """Verify the MAC of a request for which `verify` has given Proof.AGREED; `key` is what is to be certified.

    BadPop if there is no `agreement` or the MAC is wrong; BadAlg for its algorithm, or another kind of key than the
    server's; BadDataFormat.
    """
    pop = request.pop
    if isinstance(pop, SignaturePop):
        method, algorithm, value, signed = "a MAC", pop.algorithm, pop.signature, pop.signed
    elif isinstance(pop, PrivKeyPop) and pop.mac is not None:
        method, (algorithm, value), signed = pop.method, pop.mac, pop.signed
    else:
        raise BadPop("popo: want a MAC by key agreement, have something else")
    if agreement is None:
        later = f"{_LATER}, or a signature if the key can" if isinstance(key, ec.EllipticCurvePublicKey) else _LATER
        raise BadPop(
            f"popo: want {later}; have {method}, for which this server lacks a key-agreement key and its certificate "
            f"(RFC 4211 section 4.3)"
        )
    compute, found = _agreed_mac(algorithm, value, key, outline(agreement.certificate), policy)
    if not hmac.compare_digest(compute(await agreement.agree(key), signed), found):
        raise BadPop(f"popo: {method} does not verify with the server's key-agreement certificate")


def _agreed_mac(
    algorithm: bytes, value: bytes, key: PublicKeyTypes, own: Outline, policy: ProtectionPolicy
) -> tuple[Callable[[bytes, bytes], bytes], bytes]:
    """((shared value, text) -> the MAC, the MAC that was sent)."""
    oid = _oid(algorithm) if algorithm else b""
    if not algorithm or oid in ECDH_POP:
        return _static_mac(algorithm, value, key, own, policy)
    scheme = mac_scheme(algorithm) or (dhbm if oid == DH_BASED_MAC else None)
    if scheme is None:
        raise BadAlg(f"agreeMAC.algId: {_WANTED_MAC}, have {der.dotted(oid)}")
    mac = scheme.parse(algorithm, _on_the_spot(policy))
    return (lambda shared, text: mac.compute(mac.derive(shared), text)), value


def _static_mac(
    algorithm: bytes, value: bytes, key: PublicKeyTypes, own: Outline, policy: ProtectionPolicy
) -> tuple[Callable[[bytes, bytes], bytes], bytes]:
    """RFC 6955 section 6; without an algorithm dhMAC, which is HMAC-SHA1 (RFC 2875 section 3)."""
    if algorithm:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise BadAlg(f"agreeMAC.algId: {_WANTED_MAC}; have id-alg-ecdhPop-static with another key")
        oid, pos, end = read_whole_algorithm(algorithm, "algId")
        if pos != end:
            raise BadAlg("agreeMAC.algId: want no parameters with id-alg-ecdhPop-static, have some")
        name = ECDH_POP[oid]
    elif not policy.allow_sha1_mac:
        raise BadAlg("popo: want agreeMAC, have dhMAC: it is made of SHA-1, which is refused here")
    else:
        name = "sha1"
    try:
        mac, named = static_dh.read_value(value, name)
    except der.DerError as fault:
        raise BadDataFormat(f"popo: {fault}") from None
    if named not in (None, (own.issuer, own.serial)):
        raise BadPop("DhSigStatic.issuerAndSerial: want that of the server's key-agreement certificate, have another")
    subject = own.subject if own.subject != NULL_DN else own.value(OID_SAN) or NULL_DN  # RFC 4211 section 4.3

    def compute(shared: bytes, text: bytes) -> bytes:
        return static_dh.compute(name, static_dh.temporary_key(name, shared, subject, own.issuer), text)

    return compute, mac


def _oid(algorithm: bytes) -> bytes:
    try:
        return read_whole_algorithm(algorithm, "popo.algorithmIdentifier")[0]
    except der.DerError as fault:
        raise BadDataFormat(str(fault)) from None


# --- signatures -------------------------------------------------------------------------------------------------------


def _check_input(
    request: CertRequest, pop: SignaturePop, input_key: bytes, message: VerifiedRequest, policy: ProtectionPolicy
) -> None:
    """PoposkInput stands in for a template that lacks subject or key (RFC 4211 section 4.1 cases 1 and 2).

    It binds the key to who protects the message: by the name of the sender, or by a MAC over the key.
    """
    if request.template.subject is not None:
        raise BadPop("poposkInput: want none beside subject and publicKey in the CertTemplate, have one")
    if input_key != request.template.public_key:
        raise BadPop("poposkInput: its publicKey is not the one of the CertTemplate")
    if pop.key_mac is None:
        if pop.input_sender != _authenticated_sender(message):
            raise BadPop("poposkInput: its sender is not the one of the header")
        return
    if message.secret is None:
        raise BadPop("poposkInput: publicKeyMAC is for messages that are protected by a shared secret")
    algorithm, value = pop.key_mac
    scheme = mac_scheme(algorithm)
    if scheme is None:
        raise BadAlg("poposkInput.publicKeyMAC: want PasswordBasedMac or PBMAC1, have another algorithm")
    mac = scheme.parse(algorithm, _on_the_spot(policy))
    if not hmac.compare_digest(mac.compute(mac.derive(message.secret), input_key), value):
        raise BadPop("poposkInput: its publicKeyMAC does not verify with the shared secret of the message")


def _on_the_spot(policy: ProtectionPolicy) -> ProtectionPolicy:
    """The policy for a MAC inside of a message: that of its protection, with less to be derived."""
    return replace(
        policy,
        max_iterations=min(policy.max_iterations, _KEY_MAC_ITERATIONS),
        max_pbkdf2_iterations=min(policy.max_pbkdf2_iterations, _KEY_MAC_ITERATIONS),
    )


def _authenticated_sender(message: VerifiedRequest) -> bytes:
    """The GeneralName of who protects the message; the header of an unprotected one may say anything."""
    if message.envelope.protection is None and message.requester.subject is not None:
        return der.explicit(4, message.requester.subject)
    return message.envelope.header.sender


def _verify_signature(pop: SignaturePop, key: PublicKeyTypes) -> None:
    scheme = signature_scheme(pop.algorithm, "popo.algorithmIdentifier")
    scheme.check(pop.algorithm, key)
    if not scheme.verify(pop.algorithm, key, pop.signature, pop.signed):
        raise BadPop("popo: the signature does not verify with the public key of the request")
