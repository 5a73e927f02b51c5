"""Revocation requests and what answers them: rr and rp (RFC 9810 sections 5.3.9 and 5.3.10, RFC 9483 section 4.2).

Suspending and resuming are revocation requests with the reasons certificateHold and removeFromCRL. Every certificate
has a result of its own. What the answer says of certificates (revCerts) must be what was asked for, in the same order:
a status that may belong to another certificate is not believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cmpd.asn1 import der, names
from cmpd.client import messages, responses
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Protects
from cmpd.client.errors import ClientError, CmpClientError, VerificationError
from cmpd.client.messages import Request
from cmpd.client.responses import Answer, StatusInfo
from cmpd.env import Env
from cmpd.message import NULL_DN
from cmpd.records import CRL_REASONS

MAX_DETAILS: Final = 1000
"""Most certificates in one request."""

_DONE: Final = frozenset({"accepted", "grantedWithMods", "revocationNotification"})


@dataclass(frozen=True, slots=True)
class RevDetails:
    """One certificate and what becomes of it. `issuer`: DER of the Name. `reason`: CRLReason as spelt in RFC 5280.

    `invalidity_date`: Unix seconds since when its key is not to be trusted, or None.
    """

    issuer: bytes
    serial: int
    reason: str = "unspecified"
    invalidity_date: int | None = None

    @classmethod
    def of(
        cls, certificate: Certificate, reason: str = "unspecified", invalidity_date: int | None = None
    ) -> "RevDetails":
        """Those of a certificate that is at hand."""
        return cls(certificate.issuer, certificate.serial, reason, invalidity_date)


@dataclass(frozen=True, slots=True)
class RevocationResult:
    """What the server did about one certificate. `protected_by`: who vouches for that."""

    details: RevDetails
    status: StatusInfo
    protected_by: str

    @property
    def accepted(self) -> bool:
        """Whether the change was made."""
        return self.status.status in _DONE

    @property
    def error(self) -> CmpClientError | None:
        """The refusal, None if it was accepted."""
        if self.accepted:
            return None
        return CmpClientError(self.status.status, self.status.fail_info, self.status.text, self.protected_by)


def rev_request(details: Sequence[RevDetails], credential: Protects, env: Env) -> Request:
    """An rr for these certificates. Its recipient is their issuer, if they have one in common."""
    if not 1 <= len(details) <= MAX_DETAILS:
        raise ClientError(f"rr: want 1 to {MAX_DETAILS} certificates, have {len(details)}")
    content = der.seq(*(rev_details(one) for one in details))
    issuers = {one.issuer for one in details}
    recipient = der.explicit(4, details[0].issuer) if len(issuers) == 1 else NULL_DN
    return messages.protect("rr", content, credential.protector(env), env, recipient=recipient)


def rev_details(one: RevDetails) -> bytes:
    """A RevDetails: issuer and serialNumber, and always a reasonCode, 0 if none is known (RFC 9483 section 4.2)."""
    number = CRL_REASONS.get(one.reason)
    if number is None:
        raise ClientError(f"reason: want one of {', '.join(CRL_REASONS)}, have {one.reason!r}")
    serial = der.tlv(0x81, der.encode_integer(one.serial)[2:])
    extensions = [messages.extension("2.5.29.21", der.tlv(der.ENUMERATED, bytes((number,))))]
    if one.invalidity_date is not None:
        extensions.append(messages.extension("2.5.29.24", der.encode_generalized_time(one.invalidity_date)))
    return der.seq(der.seq(serial, der.explicit(3, one.issuer)), der.seq(*extensions))


def read_rev_rep(answer: Answer, details: Sequence[RevDetails]) -> list[RevocationResult]:
    """The results in the order of `details`; VerificationError unless the RevRepContent fits the request."""
    body = answer.envelope.body
    with responses.believing():
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "RevRepContent")
        status, *rest = der.children(body, start, stop, 3) or [(0, 0, 0, 0)]
        if status[0] != der.SEQUENCE or [one[0] for one in rest] not in ([], [0xA0], [0xA1], [0xA0, 0xA1]):
            raise der.DerError("RevRepContent: want status, revCerts [0] and crls [1]")
        items = der.children(body, status[2], status[3], MAX_DETAILS)
        statuses = [responses.read_status(body, pos, end) for _, pos, _, end in items]
        if len(statuses) != len(details):
            raise VerificationError(
                f"answer: want a status for each of {len(details)} RevDetails, have {len(statuses)}"
            )
        if rest and rest[0][0] == 0xA0:
            _check_rev_certs(body[rest[0][2] : rest[0][3]], details)
    return [RevocationResult(one, status, answer.protected_by) for one, status in zip(details, statuses, strict=True)]


def _check_rev_certs(octets: bytes, details: Sequence[RevDetails]) -> None:
    start, stop = der.expect(octets, 0, len(octets), der.SEQUENCE, "revCerts")
    items = der.children(octets, start, stop, MAX_DETAILS)
    if len(items) != len(details):
        raise VerificationError(f"answer: want {len(details)} revCerts, have {len(items)}")
    for (tag, _, inner, end), one in zip(items, details, strict=True):
        if tag != der.SEQUENCE:
            raise der.DerError(f"revCerts: want CertId, have tag {tag:02X}")
        fields = der.children(octets, inner, end, 2)
        if len(fields) != 2 or fields[1][0] != der.INTEGER:
            raise der.DerError("CertId: want issuer and serialNumber")
        issuer = names.directory_name(octets[fields[0][1] : fields[0][3]])
        serial = der.integer(octets, fields[1][2], fields[1][3], "CertId.serialNumber")
        if serial != one.serial or issuer is None or not names.same_name(issuer, one.issuer):
            raise VerificationError(f"answer: revCerts names another certificate than {one.serial:x}, which was asked")
