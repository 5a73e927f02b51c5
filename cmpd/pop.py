"""Proof-of-possession (RFC 4211 section 4, RFC 9810 section 5.2.8): the requester has the private key.

By signature over the received octets of certReq, of poposkInput or of a PKCS #10; or raVerified, from an RA alone. Who
has a key that does not sign shows it afterwards, by what only its holder can decrypt: the certificate itself (encrCert)
or a challenge (challengeResp); handlers/proving.py does that. Which of the two kinds of proof it has to be, the key
decides, or where it can do both (RSA, EC) the keyUsage of the certificate.

A private key is not taken in as proof, because there is no archive for it (RFC 9810 section 5.2.8.3.1); nor is a MAC
with a key that both agree on (dhMAC, agreeMAC): this CA has no key-agreement certificate to do that with.
"""

import hmac
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1 import der
from cmpd.errors import BadAlg, BadPop, NotAuthorized
from cmpd.message import HIGHEST_PVNO
from cmpd.popo import PrivKeyPop, SignaturePop
from cmpd.profiles.base import KEY_USAGE_BITS
from cmpd.profiles.extensions import OID_KEY_USAGE
from cmpd.protection import mac_scheme, signature_scheme
from cmpd.protection.base import ProtectionPolicy, VerifiedRequest
from cmpd.public_keys import encryption_kind
from cmpd.requests import P10CR_ID, CertRequest, Extension

_KEY_MAC_POLICY: Final = ProtectionPolicy(max_iterations=20_000, max_pbkdf2_iterations=20_000)
"""For a publicKeyMAC, which is derived on the spot: some 10 ms, for somebody who has shown the secret already."""


class Proof(StrEnum):
    """What of the proof is still to come."""

    DONE = "done"
    ENCRYPTED = "encrCert"  # the certificate is sent encrypted, the certHash of certConf proves possession
    CHALLENGE = "challengeResp"  # popdecr does


def verify(request: CertRequest, key: PublicKeyTypes, message: VerifiedRequest) -> Proof:
    """Raise BadPop, BadAlg or NotAuthorized unless possession of the private key of `key` is proven, or may be later.

    `key` is the loaded public key of the request's template; `message` the one that the request came in. If something
    is still to come, `check_usage` has to be asked too.
    """
    pop = request.pop
    if isinstance(pop, PrivKeyPop):
        return _later(pop, key, message.envelope.header.pvno)
    if isinstance(pop, SignaturePop):
        _check_signs(request, key)
        if pop.input_key is not None:
            _check_input(request, pop, pop.input_key, message)
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
_SIGNING: Final = ("digitalSignature", "nonRepudiation", "keyCertSign", "cRLSign")


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


def _later(pop: PrivKeyPop, key: PublicKeyTypes, pvno: int) -> Proof:
    choice = _choice(key)
    if not choice:
        raise BadPop(f"popo: want signature for a key that does nothing else, have {pop.choice}")
    if pop.choice != choice:
        raise BadPop(f"popo: want {choice} for this kind of key, have {pop.choice}")
    if pop.method in ("thisMessage", "encryptedKey"):
        raise BadPop(f"popo: want {_LATER}, have {pop.method}: there is no archive of private keys here")
    if pop.method in ("dhMAC", "agreeMAC"):
        raise BadPop(f"popo: want {_LATER}, have {pop.method}: this CA has no key-agreement certificate")
    if pvno < HIGHEST_PVNO and not isinstance(key, rsa.RSAPublicKey):
        raise BadPop(
            f"popo: want pvno {HIGHEST_PVNO} for {pop.method} with this kind of key, have {pvno}: only EnvelopedData "
            f"can be encrypted to it (RFC 9810 section 5.2.2)"
        )
    return Proof(pop.method)


def check_usage(key: PublicKeyTypes, extensions: tuple[Extension, ...]) -> None:
    """BadPop if the key will sign under the certificate: then a signature is the only proof (RFC 9810 5.2.8.4).

    `extensions`: those of the certificate.
    """
    usage = next(extension.value for extension in extensions if extension.oid == OID_KEY_USAGE)
    signing = [name for name in _SIGNING if usage[3] & 0x80 >> KEY_USAGE_BITS[name]]  # a BIT STRING; all in its first 8
    if signing:
        raise BadPop(
            f"popo: want signature for a certificate with keyUsage {', '.join(signing)}, have {_choice(key)}; "
            f"or ask for another keyUsage"
        )


def _check_input(request: CertRequest, pop: SignaturePop, input_key: bytes, message: VerifiedRequest) -> None:
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
    mac = scheme.parse(algorithm, _KEY_MAC_POLICY)
    if not hmac.compare_digest(mac.compute(mac.derive(message.secret), input_key), value):
        raise BadPop("poposkInput: its publicKeyMAC does not verify with the shared secret of the message")


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
