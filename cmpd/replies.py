"""The bodies that cmpd sends, built from fragments: ip, cp and kup, popdecc, pollRep, rp, error and pkiconf."""

from collections.abc import Sequence
from dataclasses import field
from typing import Final, get_args

from cmpd.asn1 import der
from cmpd.asn1.algorithms import hash_identifier
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

    `waits`: neither, the requester has to wait (`text` says for what). `encrypted`: DER of the EncryptedKey that is
    sent in place of the certificate.
    """

    cert_req_id: int
    certificate: bytes | None = field(default=None, repr=False)
    text: str = ""
    fault: CmpError | None = None
    waits: bool = False
    encrypted: bytes | None = field(default=None, repr=False)


@frozen
class Challenge:
    """One Challenge of a popdecc. `witness`: SHA-256 of the DER of the INTEGER that `encrypted` has.

    `encrypted`: DER of an EnvelopedData, or what goes into the challenge of messages with pvno 2 if `raw`.
    """

    witness: bytes
    encrypted: bytes = field(repr=False)
    raw: bool = False


def status_info(status: int, text: str = "", failure: FailInfo | None = None) -> bytes:
    """PKIStatusInfo (RFC 9810 section 5.2.3)."""
    parts = [der.encode_integer(status)]
    if text:
        parts.append(der.seq(der.encode_utf8(text[:_MAX_TEXT])))
    if failure is not None:
        parts.append(der.encode_named_bits(FAIL_INFO_BITS[failure]))
    return der.seq(*parts)


_ACCEPTED_INFO = status_info(ACCEPTED)


def rejection(fault: CmpError) -> bytes:
    """PKIStatusInfo that rejects: statusString is the text and, if that names none, a section of the RFCs."""
    end = f" ({fault.cited})" if fault.cited else ""
    return status_info(REJECTION, fault.text[: _MAX_TEXT - len(end)] + end, fault.failure)


def error_body(fault: CmpError) -> tuple[int, bytes]:
    """An error body that rejects (RFC 9810 section 5.3.21): (body type, DER)."""
    return BODY_TYPES["error"], der.seq(rejection(fault))


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
        return der.seq(number, rejection(response.fault))
    if response.waits:
        return der.seq(number, status_info(WAITING, response.text))
    info = status_info(GRANTED_WITH_MODS, response.text) if response.text else _ACCEPTED_INFO
    if response.encrypted is not None:
        return der.seq(number, info, der.seq(der.explicit(1, response.encrypted)))
    return der.seq(number, info, der.seq(der.explicit(0, response.certificate or b"")))


def challenge_body(challenges: Sequence[Challenge]) -> bytes:
    """POPODecKeyChallContent (RFC 9810 section 5.2.8.3.3); owf is in the first Challenge and holds for all."""
    return der.seq(*(_challenge(one, hash_identifier("sha256") if i == 0 else b"") for i, one in enumerate(challenges)))


def _challenge(challenge: Challenge, owf: bytes) -> bytes:
    if challenge.raw:
        return der.seq(owf, der.encode_octets(challenge.witness), der.encode_octets(challenge.encrypted))
    rand = der.explicit(0, challenge.encrypted)
    return der.seq(owf, der.encode_octets(challenge.witness), der.encode_octets(b""), rand)


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


def rev_rep_body(results: Sequence[RevResult], *, named: bool = True) -> bytes:
    """RevRepContent (RFC 9810 section 5.3.10).

    revCerts is there if every RevDetails named a certificate, and `named`: RFC 9483 section 4.2 has no such field.
    """
    body = der.seq(*map(_rev_status, results))
    cert_ids = [
        der.seq(der.explicit(4, result.issuer), der.tlv(der.INTEGER, result.serial))
        for result in results
        if result.issuer is not None and result.serial is not None
    ]
    if named and cert_ids and len(cert_ids) == len(results):
        body += der.explicit(0, der.seq(*cert_ids))
    return der.seq(body)


def _rev_status(result: RevResult) -> bytes:
    if result.fault is not None:
        return rejection(result.fault)
    return status_info(ACCEPTED, result.text) if result.text else _ACCEPTED_INFO
