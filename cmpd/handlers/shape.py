"""The shape that RFC 9483 section 4.1 gives a certificate request, where other texts allow more (strictness.py)."""

from cmpd.message import NULL_DN
from cmpd.popo import SignaturePop
from cmpd.profiles.extensions import OID_SAN
from cmpd.requests import CertRequest
from cmpd.strictness import RULES

_EMPTY_NAME = NULL_DN[2:]


def check_number(requests: tuple[CertRequest, ...], strict: bool) -> None:
    """BadRequest for more than one CertReqMsg."""
    RULES["CertReqMessages has one CertReqMsg"].hold(
        strict, len(requests) == 1, f"CertReqMessages: want one CertReqMsg, have {len(requests)}"
    )


def check_shape(request: CertRequest, body: str, strict: bool) -> None:
    """BadCertTemplate or BadPop for what one request of an ir, cr, p10cr or kur may not have, or lacks."""
    template, pop = request.template, request.pop
    number = request.cert_req_id
    RULES["certReqId is 0"].hold(strict, body == "p10cr" or number == 0, f"certReqId: want 0, have {number}")
    RULES["there is no poposkInput"].hold(
        strict, not isinstance(pop, SignaturePop) or pop.input_key is None, "poposkInput: want none, have one"
    )
    RULES["subject is there"].hold(
        strict, template.subject is not None, "CertTemplate.subject: want it, or the NULL-DN, have none"
    )
    RULES["a subject that is the NULL-DN comes with subjectAltName"].hold(
        strict,
        template.subject != _EMPTY_NAME or any(extension.oid == OID_SAN for extension in template.extensions),
        "subject: want a name in it or in subjectAltName, have none in both",
    )
