"""Proof-of-possession (RFC 4211 section 4, RFC 9810 section 5.2.8): the requester has the private key.

By signature over the received octets of certReq, of poposkInput or of a PKCS #10; or raVerified, from an RA alone. Keys
that cannot sign have other ways, which cmpd does not offer yet and says so.
"""

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.errors import BadPop, NotAuthorized
from cmpd.protection import signature_scheme
from cmpd.records import Requester
from cmpd.requests import CertRequest, OtherPop, SignaturePop


def verify(request: CertRequest, key: PublicKeyTypes, requester: Requester, sender: bytes) -> None:
    """Raise BadPop, BadAlg or NotAuthorized unless possession of the private key of `key` is proven.

    `key` is the loaded public key of the request's template; `sender` the GeneralName of the message's header.
    """
    pop = request.pop
    if isinstance(pop, SignaturePop):
        _verify_signature(request, pop, key, sender)
    elif pop is None:
        raise BadPop("popo: missing; want a signature by the key that is to be certified")
    elif pop.choice == "raVerified":
        if not requester.entity.is_ra:
            raise NotAuthorized("popo: raVerified is for a registered RA only (RFC 9483 section 5.1.1)")
    else:
        _refuse(pop)


def _refuse(pop: OtherPop) -> None:
    raise BadPop(f"popo: want signature, have {pop.choice}, which is not supported")


def _verify_signature(request: CertRequest, pop: SignaturePop, key: PublicKeyTypes, sender: bytes) -> None:
    template = request.template
    if pop.input_key is not None:
        # RFC 4211 section 4.1 case 2: the input stands in for a template that lacks subject or key
        if pop.has_key_mac:
            raise BadPop("poposkInput: publicKeyMAC is not supported; want sender")
        if pop.input_key != template.public_key:
            raise BadPop("poposkInput: its publicKey is not the one of the CertTemplate")
        if pop.input_sender != sender:
            raise BadPop("poposkInput: its sender is not the one of the header")
        if template.subject is not None:
            raise BadPop(
                "poposkInput: must be absent when subject and publicKey are in the CertTemplate (RFC 4211 4.1)"
            )
    scheme = signature_scheme(pop.algorithm, "popo.algorithmIdentifier")
    scheme.check(pop.algorithm, key)
    if not scheme.verify(pop.algorithm, key, pop.signature, pop.signed):
        raise BadPop("popo: the signature does not verify with the public key of the request")
