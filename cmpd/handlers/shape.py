"""The shape that RFC 9483 section 4.1 gives a certificate request, where other texts allow more (strictness.py)."""

from cmpd.asn1.names import NULL_DN
from cmpd.message import Envelope
from cmpd.popo import SignaturePop
from cmpd.profiles.extensions import OID_SAN
from cmpd.requests import P10CR_ID, CertRequest, count_cert_req_messages, read_cert_req_ids
from cmpd.strictness import RULES


def check_number(envelope: Envelope, strict: bool) -> None:
    """BadRequest for more than one CertReqMsg, before any of them is read."""
    if not strict or envelope.body_name == "p10cr":
        return
    number = count_cert_req_messages(envelope.body)
    RULES["CertReqMessages has one CertReqMsg"].hold(
        strict, number < 2, f"CertReqMessages: want one CertReqMsg, have {number}"
    )


def unreadable(envelope: Envelope, strict: bool, limit: int) -> tuple[CertRequest, ...]:
    """What stands for the requests of a message that cannot be read whole, so that each has its rejection.

    That is one with certReqId 0 if not all certReqIds can be read either, or are too many or the same.
    """
    if envelope.body_name == "p10cr":
        return (CertRequest.unreadable(P10CR_ID),)
    found = read_cert_req_ids(envelope.body)
    numbers = {number for number in found if number is not None}
    if not 0 < len(numbers) == len(found) <= (1 if strict else limit):
        return (CertRequest.unreadable(0),)
    return tuple(CertRequest.unreadable(number) for number in found if number is not None)


def check_shape(request: CertRequest, body: str, strict: bool) -> None:
    """BadCertTemplate or BadPop for what one request of an ir, cr, p10cr or kur may not have, or lacks."""
    template, pop = request.template, request.pop
    number = request.cert_req_id
    RULES["certReqId is 0"].hold(strict, body == "p10cr" or number == 0, f"certReqId: want 0, have {number}")
    RULES["there is no poposkInput"].hold(
        strict, not isinstance(pop, SignaturePop) or pop.input_key is None, "poposkInput: want none, have one"
    )
    RULES["extensions are at least one, if they are there"].hold(
        strict, not template.empty_extensions, "CertTemplate.extensions: want at least one, or no list; have none in it"
    )
    RULES["subject is there"].hold(
        strict, template.subject is not None, "CertTemplate.subject: want it, or the NULL-DN, have none"
    )
    RULES["a subject that is the NULL-DN comes with subjectAltName"].hold(
        strict,
        template.subject != NULL_DN or any(extension.oid == OID_SAN for extension in template.extensions),
        "subject: want a name in it or in subjectAltName, have none in both",
    )
