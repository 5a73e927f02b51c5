"""Proof-of-possession (RFC 4211 section 4, RFC 9810 section 5.2.8): the requester has the private key.

By signature over the received octets of certReq, of poposkInput or of a PKCS #10; or raVerified, from an RA alone. Keys
that cannot sign have other ways, which cmpd does not offer yet and says so.
"""

import hmac
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1 import der
from cmpd.errors import BadAlg, BadPop, NotAuthorized
from cmpd.protection import mac_scheme, signature_scheme
from cmpd.protection.base import ProtectionPolicy, VerifiedRequest
from cmpd.requests import CertRequest, OtherPop, SignaturePop

_KEY_MAC_POLICY: Final = ProtectionPolicy(max_iterations=20_000, max_pbkdf2_iterations=20_000)
"""For a publicKeyMAC, which is derived on the spot: some 10 ms, for somebody who has shown the secret already."""


def verify(request: CertRequest, key: PublicKeyTypes, message: VerifiedRequest) -> None:
    """Raise BadPop, BadAlg or NotAuthorized unless possession of the private key of `key` is proven.

    `key` is the loaded public key of the request's template; `message` the one that the request came in.
    """
    pop = request.pop
    if isinstance(pop, SignaturePop):
        if pop.input_key is not None:
            _check_input(request, pop, pop.input_key, message)
        _verify_signature(pop, key)
    elif pop is None:
        raise BadPop("popo: missing; want a signature by the key that is to be certified")
    elif pop.choice == "raVerified":
        if not message.requester.entity.is_ra:
            raise NotAuthorized("popo: raVerified is for a registered RA only (RFC 9483 section 5.1.1)")
    else:
        _refuse(pop)


def _refuse(pop: OtherPop) -> None:
    raise BadPop(f"popo: want signature, have {pop.choice}, which is not supported")


def _check_input(request: CertRequest, pop: SignaturePop, input_key: bytes, message: VerifiedRequest) -> None:
    """PoposkInput stands in for a template that lacks subject or key (RFC 4211 section 4.1 cases 1 and 2).

    It binds the key to who protects the message: by the name of the sender, or by a MAC over the key.
    """
    if request.template.subject is not None:
        raise BadPop("poposkInput: must be absent when the CertTemplate has subject and publicKey (RFC 4211 4.1)")
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
        raise BadAlg("poposkInput.publicKeyMAC: want PasswordBasedMac or PBMAC1")
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
