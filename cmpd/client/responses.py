"""Answers of a server, read and held against the request: nothing is returned that was not verified.

First what binds the answer to the request (transactionID, recipNonce), then its protection in the kind of the request
(RFC 9483 section 3.2), then the body. `Trust` says what a signature may come from; with a shared secret the secret
itself is the trust, and the MAC's parameters are the answer's own, within bounds that are checked before deriving.
"""

import hmac
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, get_args

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1 import der
from cmpd.client.certificates import Certificate, build_path
from cmpd.client.credentials import Credential, SharedSecret, StaticAgreement, Unprotected
from cmpd.client.errors import CmpClientError, KemCiphertextWanted, VerificationError
from cmpd.client.messages import Request
from cmpd.env import Env
from cmpd.errors import CmpError, FailInfo
from cmpd.message import Envelope, decode
from cmpd.protection import key_mac_scheme, mac_scheme, signature_scheme
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.dhbm import DhBasedMac
from cmpd.protection.kembm import KemBasedMac

CMC_CA: Final = "1.3.6.1.5.5.7.3.27"
CMC_RA: Final = "1.3.6.1.5.5.7.3.28"

ANSWERS: Final = {
    "ir": "ip",
    "cr": "cp",
    "p10cr": "cp",
    "kur": "kup",
    "rr": "rp",
    "genm": "genp",
    "certConf": "pkiconf",
    "error": "pkiconf",
}
"""The body that answers each request."""

_CERT_REPS: Final = ("ip", "cp", "kup")

STATUS: Final = (
    "accepted",
    "grantedWithMods",
    "rejection",
    "waiting",
    "revocationWarning",
    "revocationNotification",
    "keyUpdateWarning",
)
FAIL_INFO: Final[tuple[str, ...]] = get_args(FailInfo)
"""PKIFailureInfo: the name of each bit."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What answers are believed. `anchors`: certificates that signatures and issued certificates must lead to."""

    anchors: tuple[Certificate, ...] = ()
    policy: ProtectionPolicy = field(default_factory=ProtectionPolicy)


@dataclass(frozen=True, slots=True)
class StatusInfo:
    """PKIStatusInfo (RFC 9810 section 5.2.3). `text`: the statusStrings joined by "; "."""

    status: str
    text: str = ""
    fail_info: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CertResponse:
    """One CertResponse. `certificate` is None if the status is not accepted or grantedWithMods.

    `encrypted`: DER of the EncryptedKey that came in place of a certificate.
    """

    cert_req_id: int
    status: StatusInfo
    certificate: Certificate | None
    encrypted: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class CertRep:
    """A CertRepMessage: caPubs, and the responses in the order received."""

    ca_pubs: tuple[Certificate, ...]
    responses: tuple[CertResponse, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose protection was verified. `protected_by`: "the shared secret", or the signer's subject."""

    envelope: Envelope
    protected_by: str
    extra_certs: tuple[Certificate, ...]


def verify(
    octets: bytes,
    request: Request,
    credential: Credential,
    trust: Trust,
    env: Env,
    *,
    original: Request | None = None,
) -> Answer:
    """Verify that this is the answer to `request`, made by who may answer it.

    `original`: what a pollReq asks about, or a popdecr is a part of; a pollRep, or the answer to that one is taken
    then. A popdecc may come in place of the answer to a request for certificates. VerificationError if it
    must not be believed; CmpClientError if it is an `error`, protected or not, but for a protected one with the status
    waiting, which is returned: it asks for a pollReq (RFC 9483 section 4.4).
    """
    with believing():
        envelope = decode(octets)
        _check_binding(envelope, request)
        if envelope.protection is None or envelope.header.protection_alg is None:
            _refuse_unprotected(envelope)
        extra = readable(envelope.extra_certs)
        protected_by = _verify_protection(envelope, extra, request, credential, trust, env)
        body, wanted = envelope.body_name, ANSWERS.get((original or request).body, "error")
        polls = request.body == "pollReq"
        _check_nonce(envelope, request, original if polls and body != "pollRep" else None)
        if body == "error":
            refusal = _error(envelope.body, protected_by)
            if refusal.status != "waiting":
                raise refusal
        elif body not in (wanted, "popdecc" if wanted in _CERT_REPS else wanted) and not (body == "pollRep" and polls):
            raise VerificationError(f"answer: want {wanted} to {request.body}, have {body}")
        return Answer(envelope, protected_by, extra)


@contextmanager
def believing() -> Iterator[None]:
    """What cannot be read, or is protected by what we do not accept, is not believed."""
    try:
        yield
    except der.DerError as error:
        raise VerificationError(f"answer: {error}") from None
    except CmpError as error:
        raise VerificationError(f"answer: {error.text}") from None


# --- the message -----------------------------------------------------------------------------------------------------


def _check_binding(envelope: Envelope, request: Request) -> None:
    """transactionID; it may be absent from an error of a server that could not read ours."""
    have = envelope.header.transaction_id
    unread = have is None and envelope.body_name == "error" and envelope.protection is None
    if have != request.transaction_id and not unread:
        raise VerificationError("answer: its transactionID is not the request's")


def _check_nonce(envelope: Envelope, request: Request, original: Request | None) -> None:
    """recipNonce; after polling that of the request that is answered at last will do (RFC 9483 section 4.4)."""
    sent = {one.sender_nonce for one in (request, original) if one is not None}
    if envelope.header.recip_nonce not in sent:
        raise VerificationError("answer: its recipNonce is not the request's senderNonce")
    nonce = envelope.header.sender_nonce
    if nonce is None or len(nonce) < 16:
        raise VerificationError("answer: want a senderNonce of at least 128 bits")


def _refuse_unprotected(envelope: Envelope) -> None:
    if envelope.body_name == "error":
        refusal = _error(envelope.body, None)
        if "wrongIntegrity" in refusal.fail_info and envelope.extra_certs:
            raise KemCiphertextWanted(refusal, envelope.extra_certs)
        raise refusal
    raise VerificationError("answer: it is not protected")


def read_unprotected(octets: bytes, request: Request) -> Envelope:
    """The answer to an unprotected `request` that cannot be protected either; nobody vouches for it.

    VerificationError if it is none; CmpClientError if it is an `error`.
    """
    with believing():
        envelope = decode(octets)
        _check_binding(envelope, request)
        if envelope.body_name == "error":
            raise _error(envelope.body, None)
        _check_nonce(envelope, request, None)
        if envelope.body_name != ANSWERS.get(request.body):
            raise VerificationError(f"answer: want {ANSWERS.get(request.body)}, have {envelope.body_name}")
        return envelope


def _error(body: bytes, protected_by: str | None) -> CmpClientError:
    """The error that an ErrorMsgContent says."""
    start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "ErrorMsgContent")
    info = read_status(body, start, stop)
    return CmpClientError(info.status, info.fail_info, info.text, protected_by)


def readable(ders: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Those of extraCerts that can be read; what cannot is of no use, and is not protected either."""
    found = []
    for one in ders:
        try:
            found.append(Certificate.load(one))
        except VerificationError:
            continue
    return tuple(found)


def _verify_protection(
    envelope: Envelope,
    extra: Sequence[Certificate],
    request: Request,
    credential: Credential,
    trust: Trust,
    env: Env,
) -> str:
    """Who vouches for the answer, in the kind of the request; by a signature if the request had no protection.

    An `error` to a request with a MAC may be signed: a server does not MAC what it says to somebody who did not show
    the secret. Without a trust anchor that error is as good as unprotected.
    """
    algorithm = envelope.header.protection_alg or b""
    by_key = key_mac_scheme(algorithm)
    mac = None if by_key is None else by_key.parse(algorithm, trust.policy)
    wanted = request.protector.server is not None and envelope.body_name != "error"
    if wanted and not isinstance(mac, KemBasedMac):
        raise VerificationError("answer: want it protected by KemBasedMac with the ciphertext that was sent")
    if mac is not None:
        return _verify_key_mac(envelope, mac, request, credential)
    is_mac = mac_scheme(algorithm) is not None
    if isinstance(credential, StaticAgreement) and envelope.body_name != "error":
        raise VerificationError("answer: want it protected by DHBasedMac as the request was")
    if isinstance(credential, SharedSecret) and is_mac:
        return _verify_mac(envelope, algorithm, request, credential, trust.policy)
    if isinstance(credential, SharedSecret) and envelope.body_name != "error":
        raise VerificationError("answer: want it protected by a MAC as the request was, have a signature")
    if is_mac:
        why = "" if isinstance(credential, Unprotected) else " as the request was"
        raise VerificationError(f"answer: want it protected by a signature{why}, have a MAC")
    if not trust.anchors:
        raise _error(envelope.body, None)
    return _verify_signature(envelope, algorithm, extra, trust, env.now())


def _verify_mac(
    envelope: Envelope, algorithm: bytes, request: Request, credential: SharedSecret, policy: ProtectionPolicy
) -> str:
    if algorithm == request.protector.algorithm:  # the key is derived already
        if request.protector.renewed is not None:
            raise VerificationError("answer: want another nonce of AES-GMAC than that of the request, have the same")
        value = request.protector.compute(envelope.protected)
    else:
        scheme = mac_scheme(algorithm)
        assert scheme is not None  # noqa: S101 -- for the type checker; the caller has looked
        mac = scheme.parse(algorithm, policy)
        value = mac.compute(mac.derive(credential.secret), envelope.protected)
    if not hmac.compare_digest(value, envelope.protection or b""):
        raise VerificationError("answer: its MAC is wrong (another secret, or it was changed on the way)")
    return "the shared secret"


def _verify_key_mac(envelope: Envelope, mac: DhBasedMac | KemBasedMac, request: Request, credential: Credential) -> str:
    """DHBasedMac as the request was protected with; KemBasedMac with the ciphertext that the request has brought."""
    if isinstance(mac, KemBasedMac):
        if request.protector.server is None:
            raise VerificationError("answer: it is protected by KemBasedMac, and no ciphertext was sent")
        server = request.protector.server.certificate
        key = mac.derive(request.protector.server.secret, request.transaction_id)
    elif isinstance(credential, StaticAgreement):
        server, key = credential.server, mac.derive(credential.agree())
    else:
        raise VerificationError("answer: it is protected by DHBasedMac, and the request was not")
    if envelope.header.sender != der.explicit(4, server.subject):
        raise VerificationError(f"answer: its sender is not {server.subject_text}")
    if not hmac.compare_digest(mac.compute(key, envelope.protected), envelope.protection or b""):
        raise VerificationError("answer: its MAC is wrong (by another key, or it was changed on the way)")
    return server.subject_text


def _verify_signature(
    envelope: Envelope, algorithm: bytes, extra: Sequence[Certificate], trust: Trust, now: float
) -> str:
    scheme = signature_scheme(algorithm, "protectionAlg")
    reasons = []
    for signer in dict.fromkeys((*extra, *trust.anchors)):
        if der.explicit(4, signer.subject) != envelope.header.sender:
            continue
        try:
            key: PublicKeyTypes = signer.parsed.public_key()
            scheme.check(algorithm, key)
            if not scheme.verify(algorithm, key, envelope.protection or b"", envelope.protected):
                raise VerificationError(f"the signature is not by {signer.subject_text}")
            _check_signer(signer, envelope, extra, trust, now)
        except (CmpError, VerificationError, ValueError, UnsupportedAlgorithm) as error:
            reasons.append(str(error))
            continue
        return signer.subject_text
    why = reasons[0] if reasons else "no certificate at hand has its sender as subject"
    raise VerificationError(f"answer: its protection is not to be trusted: {why}")


def _check_signer(
    signer: Certificate, envelope: Envelope, extra: Sequence[Certificate], trust: Trust, now: float
) -> None:
    """The signer speaks for the CA: it is the CA, or has id-kp-cmcCA or id-kp-cmcRA (RFC 9810 section 4.5)."""
    if not signer.is_ca and not signer.extended_key_usage & {CMC_CA, CMC_RA}:
        raise VerificationError(
            f"{signer.subject_text} may not speak for a CA: want a CA certificate or extendedKeyUsage cmcCA or cmcRA"
        )
    if not signer.may("digital_signature"):
        raise VerificationError(f"{signer.subject_text} may not sign messages: want keyUsage digitalSignature")
    kid = envelope.header.sender_kid
    if kid is not None and signer.key_identifier is not None and kid != signer.key_identifier:
        raise VerificationError(f"senderKID is not the key identifier of {signer.subject_text}")
    build_path(signer, extra, trust.anchors, now)


# --- CertRepMessage --------------------------------------------------------------------------------------------------


def read_cert_rep(answer: Answer) -> CertRep:
    """The CertRepMessage of an ip, cp or kup; VerificationError if it is none."""
    body = answer.envelope.body
    with believing():
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "CertRepMessage")
        fields = der.children(body, start, stop, 2)
        ca_pubs: tuple[Certificate, ...] = ()
        if fields and fields[0][0] == 0xA1:
            _, _, inner, end = fields.pop(0)
            first, last = der.expect(body, inner, end, der.SEQUENCE, "CertRepMessage.caPubs")
            items = der.children(body, first, last, 100)
            ca_pubs = tuple(Certificate.load(body[pos:after]) for _, pos, _, after in items)
        if len(fields) != 1 or fields[0][0] != der.SEQUENCE:
            raise der.DerError("CertRepMessage.response: missing")
        items = der.children(body, fields[0][2], fields[0][3], 100)
        return CertRep(ca_pubs, tuple(_cert_response(body, item) for item in items))


def _cert_response(body: bytes, item: tuple[int, int, int, int]) -> CertResponse:
    if item[0] != der.SEQUENCE:
        raise der.DerError(f"CertResponse: want tag 30, have {item[0]:02X}")
    fields = der.children(body, item[2], item[3], 4)
    if len(fields) < 2 or fields[0][0] != der.INTEGER or fields[1][0] != der.SEQUENCE:
        raise der.DerError("CertResponse: want certReqId and status")
    cert_req_id = der.integer(body, fields[0][2], fields[0][3], "CertResponse.certReqId")
    status = read_status(body, fields[1][1], fields[1][3])
    if status.status not in ("accepted", "grantedWithMods"):
        return CertResponse(cert_req_id, status, None)
    if len(fields) < 3 or fields[2][0] != der.SEQUENCE:
        raise der.DerError(f"CertResponse: {status.status}, but certifiedKeyPair is missing")
    tag, start, stop = der.header(body, fields[2][2], fields[2][3])
    if tag == 0xA1:
        return CertResponse(cert_req_id, status, None, body[start:stop])
    if tag != 0xA0:
        raise der.DerError(f"CertOrEncCert: want tag A0 or A1, have {tag:02X}")
    return CertResponse(cert_req_id, status, Certificate.load(body[start:stop]))


def check_certificate(
    certificate: Certificate,
    public_key_info: bytes,
    answer: Answer,
    ca_pubs: Sequence[Certificate],
    credential: Credential,
    trust: Trust,
    env: Env,
) -> tuple[Certificate, ...]:
    """The path above an issued certificate, nearest first; VerificationError if the certificate is not what was asked.

    The path leads to a trust anchor. With a shared secret and no anchor, caPubs is believed (RFC 9810 section 5.3.2:
    the MAC vouches for it); if there is none either, what was sent with the certificate is returned as it came.
    """
    if certificate.public_key_info != public_key_info:
        raise VerificationError("answer: the certificate is for another public key than the one asked for")
    anchors = trust.anchors or (tuple(ca_pubs) if isinstance(credential, SharedSecret) else ())
    pool = (*answer.extra_certs, *ca_pubs)
    if not anchors and isinstance(credential, SharedSecret):
        return tuple(one for one in pool if one != certificate and one.is_ca)
    return tuple(build_path(certificate, pool, anchors, env.now(), signs=False)[1:])


def read_status(data: bytes, pos: int, end: int) -> StatusInfo:
    """Read the PKIStatusInfo at `pos`. Unknown bits of failInfo are named "bit N"."""
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "PKIStatusInfo")
    fields = der.children(data, start, stop, 3)
    if not fields or fields[0][0] != der.INTEGER:
        raise der.DerError("PKIStatusInfo.status: missing")
    number = der.integer(data, fields[0][2], fields[0][3], "PKIStatusInfo.status")
    status = STATUS[number] if 0 <= number < len(STATUS) else f"status {number}"
    text = ""
    fail_info: tuple[str, ...] = ()
    for tag, _, inner, after in fields[1:]:
        if tag == der.SEQUENCE:
            strings = der.children(data, inner, after, 100)
            text = "; ".join(printable(data[first:last]) for _, _, first, last in strings)
        elif tag == der.BIT_STRING:
            fail_info = _fail_info(data[inner + 1 : after])
    return StatusInfo(status, text, fail_info)


def printable(octets: bytes) -> str:
    """A peer's text for a terminal: no control characters, at most 1,000 characters."""
    text = octets.decode("utf-8", "replace")[:1000]
    return "".join(character if character.isprintable() else " " for character in text)


def _fail_info(octets: bytes) -> tuple[str, ...]:
    bits = [i for i in range(min(8 * len(octets), 64)) if octets[i // 8] & 0x80 >> i % 8]
    return tuple(FAIL_INFO[bit] if bit < len(FAIL_INFO) else f"bit {bit}" for bit in bits)
