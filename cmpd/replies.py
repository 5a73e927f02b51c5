"""The bodies that cmpd sends, built from fragments: those of ip, cp and kup, pollRep, rp, error and pkiconf."""

from collections.abc import Sequence
from dataclasses import field
from typing import Final, get_args

from cmpd.asn1 import der
from cmpd.errors import CmpError, FailInfo
from cmpd.frozen import frozen
from cmpd.message import BODY_TYPES

FAIL_INFO_BITS: Final = {name: bit for bit, name in enumerate(get_args(FailInfo))}
"""PKIFailureInfo's bits by name (RFC 9810 appendix F); FailInfo lists them in their order."""

_MAX_TEXT = 1024  # characters of a statusString

ACCEPTED: Final = 0
GRANTED_WITH_MODS: Final = 1
REJECTION: Final = 2
WAITING: Final = 3


@frozen
class CertResponse:
    """One CertResponse: a certificate (accepted, or grantedWithMods when `text` says what was changed), or a fault.

    `waits`: neither, the requester has to wait (`text` says for what).
    """

    cert_req_id: int
    certificate: bytes | None = field(default=None, repr=False)
    text: str = ""
    fault: CmpError | None = None
    waits: bool = False


def status_info(status: int, text: str = "", failure: FailInfo | None = None) -> bytes:
    """PKIStatusInfo (RFC 9810 section 5.2.3)."""
    parts = [der.encode_integer(status)]
    if text:
        parts.append(der.seq(der.encode_utf8(text[:_MAX_TEXT])))
    if failure is not None:
        parts.append(der.encode_named_bits(FAIL_INFO_BITS[failure]))
    return der.seq(*parts)


_ACCEPTED_INFO = status_info(ACCEPTED)


def error_body(fault: CmpError) -> tuple[int, bytes]:
    """An error body that rejects (RFC 9810 section 5.3.21): (body type, DER)."""
    return BODY_TYPES["error"], der.seq(status_info(REJECTION, fault.text, fault.failure))


def pkiconf_body() -> tuple[int, bytes]:
    """PKIConfirmContent (RFC 9810 section 5.3.17): (body type, DER)."""
    return BODY_TYPES["pkiconf"], der.NULL_TLV


def cert_rep_body(responses: Sequence[CertResponse], ca_pubs: Sequence[bytes]) -> bytes:
    """CertRepMessage (RFC 9810 section 5.3.4); `ca_pubs`: DER certificates, may be empty."""
    parts = [der.explicit(1, der.seq(*ca_pubs))] if ca_pubs else []
    parts.append(der.seq(*map(_cert_response, responses)))
    return der.seq(*parts)


def _cert_response(response: CertResponse) -> bytes:
    number = der.encode_integer(response.cert_req_id)
    if response.fault is not None:
        return der.seq(number, status_info(REJECTION, response.fault.text, response.fault.failure))
    if response.waits:
        return der.seq(number, status_info(WAITING, response.text))
    info = status_info(GRANTED_WITH_MODS, response.text) if response.text else _ACCEPTED_INFO
    return der.seq(number, info, der.seq(der.explicit(0, response.certificate or b"")))


def poll_rep_body(cert_req_ids: Sequence[int], check_after: int, reason: str) -> bytes:
    """PollRepContent (RFC 9810 section 5.3.22): for each certReqId the seconds to wait, and what for."""
    rest = der.encode_integer(check_after) + der.seq(der.encode_utf8(reason))
    return der.seq(*(der.seq(der.encode_integer(cert_req_id), rest) for cert_req_id in cert_req_ids))


@frozen
class RevResult:
    """What became of one RevDetails: accepted (`text` says what was not used of it), or a fault.

    `issuer` (DER of a Name) and `serial` (contents octets) are those of the RevDetails, None = it has none.
    """

    issuer: bytes | None
    serial: bytes | None
    text: str = ""
    fault: CmpError | None = None


def rev_rep_body(results: Sequence[RevResult]) -> bytes:
    """RevRepContent (RFC 9810 section 5.3.10); revCerts is there if every RevDetails named a certificate."""
    body = der.seq(*map(_rev_status, results))
    cert_ids = [
        der.seq(der.explicit(4, result.issuer), der.tlv(der.INTEGER, result.serial))
        for result in results
        if result.issuer is not None and result.serial is not None
    ]
    if cert_ids and len(cert_ids) == len(results):
        body += der.explicit(0, der.seq(*cert_ids))
    return der.seq(body)


def _rev_status(result: RevResult) -> bytes:
    if result.fault is not None:
        return status_info(REJECTION, result.fault.text, result.fault.failure)
    return status_info(ACCEPTED, result.text) if result.text else _ACCEPTED_INFO
