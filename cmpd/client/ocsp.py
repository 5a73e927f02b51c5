"""The status of a certificate by OCSP: question, transport by HTTP, and the answer, believed or refused (RFC 6960).

An answer is believed if it is signed by the certificate's issuer, or by a responder whose certificate that issuer
signed for this purpose, if it is about this very certificate, and if it is fresh. The issuer's certificate is the
trust anchor here; whether the responder's own certificate was revoked is not asked (id-pkix-ocsp-nocheck).
"""

import base64
import hmac
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from cmpd.asn1 import der
from cmpd.client.certificates import Certificate, build_path
from cmpd.client.errors import AnswerTimeout, ClientError, ConnectError, TransportError, VerificationError
from cmpd.env import Env
from cmpd.errors import CmpError
from cmpd.signatures import is_signed, signature_scheme

TOLERANCE: Final = 300
"""Seconds that clocks may differ."""

MAX_ANSWER: Final = 1 << 20
"""Octets of an answer."""

NONCE_OCTETS: Final = 32  # RFC 9654 section 2.1

_CERT_ID_HASH: Final = hashes.SHA1()  # noqa: S303 -- it names, and proves nothing; every responder knows it
_MAX_CERTIFICATES: Final = 16
_MAX_RESPONSES: Final = 1000
_OCSP_SIGNING: Final = ExtendedKeyUsageOID.OCSP_SIGNING.dotted_string
_ON_HOLD: Final = "certificateHold"
_REVOKED: Final = {True: "on hold", False: "revoked"}


@dataclass(frozen=True, slots=True)
class Question:
    """An OCSPRequest about one certificate. `nonce` is what the answer should repeat, None if it was not sent."""

    issuer: Certificate
    serial: int
    nonce: bytes | None
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Status:
    """What a responder says. `state`: "good", "revoked", "on hold" or "unknown". Times are Unix seconds.

    `reason`: CRLReason as spelt in RFC 5280, None if it is not said. `nonce_echoed`: None if none was sent.
    """

    state: str
    since: int | None
    reason: str | None
    this_update: int
    next_update: int | None
    responder: str
    nonce_echoed: bool | None


def question(issuer: Certificate, serial: int, env: Env, *, nonce: bool = True) -> Question:
    """Ask for the certificate that `issuer` issued under this serial number."""
    octets = env.random(NONCE_OCTETS) if nonce else None
    name_hash, key_hash = _cert_id(issuer, _CERT_ID_HASH)
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name_hash, key_hash, serial, _CERT_ID_HASH)
    if octets is not None:
        builder = builder.add_extension(x509.OCSPNonce(octets), critical=False)
    return Question(issuer, serial, octets, builder.build().public_bytes(Encoding.DER))


def responder_url(certificate: Certificate) -> str | None:
    """The first URL for OCSP in authorityInfoAccess, None if there is none."""
    try:
        access = certificate.parsed.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return None
    for one in access:
        place = one.access_location
        if one.access_method == AuthorityInformationAccessOID.OCSP and isinstance(
            place, x509.UniformResourceIdentifier
        ):
            return place.value
    return None


def check_issuer(certificate: Certificate, issuer: Certificate) -> None:
    """VerificationError unless the certificate was issued by the other."""
    try:
        key, signed = issuer.parsed.public_key(), certificate.parsed
        good = certificate.issuer == issuer.subject and is_signed(
            certificate.signature_algorithm, key, signed.signature, signed.tbs_certificate_bytes
        )
    except Exception:  # ValueError, UnsupportedAlgorithm: no reason to tell apart
        good = False
    if not good:
        raise VerificationError(f"{certificate.subject_text} was not issued by {issuer.subject_text}")


# --- the answer ------------------------------------------------------------------------------------------------------


def read_answer(octets: bytes, asked: Question, env: Env) -> Status:
    """What an OCSPResponse says about the certificate asked for; VerificationError if it must not be believed."""
    with _believing():
        response = ocsp.load_der_ocsp_response(octets)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            name = response.response_status.name.lower()
            raise VerificationError(f"OCSP: the responder answers {name} (not authenticated: anybody may have sent it)")
        responder = _verify_signature(octets, response, asked.issuer, env.now())
        single = _single(response, asked)
        echoed = _check_nonce(response, asked)
        _check_time(response, single, bool(echoed), env.now())
        return _status(single, responder, echoed)


@contextmanager
def _believing() -> Iterator[None]:
    try:
        yield
    except CmpError as error:
        raise VerificationError(f"OCSP: {error.text}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise VerificationError(f"OCSP: the answer cannot be read: {error}") from None


def _verify_signature(octets: bytes, response: ocsp.OCSPResponse, issuer: Certificate, now: float) -> str:
    """The subject of who signed: the issuer, or a responder that it issued a certificate for OCSP to."""
    signed, algorithm, signature = _signed_part(octets)
    scheme = signature_scheme(algorithm, "OCSP signatureAlgorithm")
    reasons = []
    for signer in (issuer, *_certificates(response)):
        if not _is_responder(signer, response):
            continue
        try:
            key = signer.parsed.public_key()
            scheme.check(algorithm, key)
            if not scheme.verify(algorithm, key, signature, signed):
                raise VerificationError(f"the signature is not by {signer.subject_text}")
            if signer != issuer:
                _check_delegate(signer)
            build_path(signer, (), (issuer,), now)
        except (CmpError, VerificationError, ValueError, UnsupportedAlgorithm) as error:
            reasons.append(str(error))
            continue
        return signer.subject_text
    why = reasons[-1] if reasons else "no certificate at hand is the responder's (responderID)"
    raise VerificationError(f"OCSP: the answer is not to be trusted: {why}")


def _signed_part(data: bytes) -> tuple[bytes, bytes, bytes]:
    """(tbsResponseData, signatureAlgorithm, the octets of signature) of the BasicOCSPResponse in an OCSPResponse."""
    start, stop = der.expect(data, 0, len(data), der.SEQUENCE, "OCSPResponse")
    _, _, _, after = der.children(data, start, stop, 2)[0]
    start, stop = der.expect(data, after, stop, 0xA0, "responseBytes")
    start, stop = der.expect(data, start, stop, der.SEQUENCE, "ResponseBytes")
    _, start = der.expect(data, start, stop, der.OID, "responseType")
    start, stop = der.expect(data, start, stop, der.OCTET_STRING, "response")
    start, stop = der.expect(data, start, stop, der.SEQUENCE, "BasicOCSPResponse")
    first, second, third = der.children(data, start, stop, 4)[:3]
    if (first[0], second[0], third[0]) != (der.SEQUENCE, der.SEQUENCE, der.BIT_STRING):
        raise der.DerError("BasicOCSPResponse: want tbsResponseData, signatureAlgorithm and signature")
    signature = der.octet_aligned(data, third[2], third[3], "signature")
    return data[first[1] : first[3]], data[second[1] : second[3]], signature


def _certificates(response: ocsp.OCSPResponse) -> Iterator[Certificate]:
    for one in response.certificates[:_MAX_CERTIFICATES]:
        yield Certificate.load(one.public_bytes(Encoding.DER))


def _is_responder(signer: Certificate, response: ocsp.OCSPResponse) -> bool:
    """Whether responderID means this certificate, by its subject or by the SHA-1 of its key."""
    if response.responder_name is not None:
        return signer.parsed.subject == response.responder_name
    return x509.SubjectKeyIdentifier.from_public_key(signer.parsed.public_key()).digest == response.responder_key_hash


def _check_delegate(signer: Certificate) -> None:
    """A certificate for signing OCSP answers (RFC 6960 section 4.2.2.2)."""
    if _OCSP_SIGNING not in signer.extended_key_usage:
        raise VerificationError(f"{signer.subject_text} may not answer: want extendedKeyUsage OCSPSigning")
    if not signer.may("digital_signature"):
        raise VerificationError(f"{signer.subject_text} may not sign: want keyUsage digitalSignature")


def _single(response: ocsp.OCSPResponse, asked: Question) -> ocsp.OCSPSingleResponse:
    """The SingleResponse whose CertID is the one asked for."""
    for number, one in enumerate(response.responses):
        if number >= _MAX_RESPONSES:
            break
        if one.serial_number == asked.serial and (one.issuer_name_hash, one.issuer_key_hash) == _cert_id(
            asked.issuer, one.hash_algorithm
        ):
            return one
    raise VerificationError(f"OCSP: the answer says nothing of certificate {asked.serial:x} of this issuer (CertID)")


def _cert_id(issuer: Certificate, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """The hashes of the issuer's name and key (RFC 6960 section 4.1.1)."""
    info = issuer.public_key_info
    start, stop = der.expect(info, 0, len(info), der.SEQUENCE, "SubjectPublicKeyInfo")
    _, _, first, last = der.children(info, start, stop, 2)[1]
    return _digest(issuer.subject, algorithm), _digest(info[first + 1 : last], algorithm)


def _digest(octets: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(octets)
    return digest.finalize()


def _check_nonce(response: ocsp.OCSPResponse, asked: Question) -> bool | None:
    """Whether the nonce came back; None if none was sent. An answer without one may be made beforehand (RFC 5019)."""
    if asked.nonce is None:
        return None
    try:
        nonce = response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return False
    if not hmac.compare_digest(nonce, asked.nonce):
        raise VerificationError("OCSP: the answer has another nonce than the request")
    return True


def _check_time(response: ocsp.OCSPResponse, single: ocsp.OCSPSingleResponse, echoed: bool, now: float) -> None:
    """RFC 6960 section 4.2.2.1; without nextUpdate the answer must have been made for this question."""
    start, end = single.this_update_utc.timestamp(), _seconds(single.next_update_utc)
    if start > now + TOLERANCE:
        raise VerificationError("OCSP: the answer is of the future (thisUpdate); check this machine's clock")
    if end is not None and end < now - TOLERANCE:
        raise VerificationError(f"OCSP: the answer is out of date (nextUpdate {single.next_update_utc:%Y-%m-%d %H:%M})")
    if end is None and not echoed and response.produced_at_utc.timestamp() < now - TOLERANCE:
        raise VerificationError("OCSP: the answer has no nextUpdate and was not made now (producedAt)")


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _status(single: ocsp.OCSPSingleResponse, responder: str, echoed: bool | None) -> Status:
    state, reason = single.certificate_status.name.lower(), None
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        reason = single.revocation_reason.value if single.revocation_reason is not None else None
        state = _REVOKED[reason == _ON_HOLD]
    return Status(
        state,
        _seconds(single.revocation_time_utc),
        reason,
        int(single.this_update_utc.timestamp()),
        _seconds(single.next_update_utc),
        responder,
        echoed,
    )


# --- HTTP ------------------------------------------------------------------------------------------------------------

_CONNECTIONS: Final[dict[str, Callable[..., http.client.HTTPConnection]]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}


def fetch(url: str, request: bytes, *, get: bool = False, timeout: float = 60.0) -> bytes:
    """The answer to an OCSPRequest (DER), by POST or by GET (RFC 6960 appendix A). Goes straight there: no proxy.

    TransportError if there is none within `timeout` seconds, or it is longer than MAX_ANSWER octets.
    """
    parts, port = _parts(url)
    path = parts.path or "/"
    headers = {"Accept": "application/ocsp-response"}
    if get:
        path = path.rstrip("/") + "/" + quote(base64.b64encode(request), safe="")
    else:
        headers["Content-Type"] = "application/ocsp-request"
    target = path + (f"?{parts.query}" if parts.query else "")
    connection = _CONNECTIONS[parts.scheme](parts.hostname, port, timeout=timeout)
    try:
        connection.connect()
    except OSError as error:
        raise ConnectError(f"cannot connect to {url}: {error.strerror or error}") from None
    try:
        with _deadline(connection, timeout):
            connection.request("GET" if get else "POST", target, None if get else request, headers)
            return _body(connection, url)
    except TimeoutError:
        raise AnswerTimeout(f"no answer from {url} within {timeout:g} seconds") from None
    except (OSError, http.client.HTTPException) as error:
        raise TransportError(f"no answer from {url}: {error or type(error).__name__}") from None
    finally:
        connection.close()


def _parts(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ClientError(f"URL {url!r}: {error}") from None
    printable = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in _CONNECTIONS or not parts.hostname or not printable:
        raise ClientError(f"URL: want http://HOST/PATH, have {url!r}")
    return parts, port


@contextmanager
def _deadline(connection: http.client.HTTPConnection, timeout: float) -> Iterator[None]:
    """The whole exchange ends by then: a socket's own timeout starts again with every octet."""
    expired = threading.Event()
    sock = connection.sock

    def end() -> None:
        expired.set()
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, whose own is not made for another thread

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not expired.is_set():
            raise
    finally:
        timer.cancel()
        timer.join()
    if expired.is_set():  # what was read may be cut off without anything telling it
        raise TimeoutError


def _body(connection: http.client.HTTPConnection, url: str) -> bytes:
    response = connection.getresponse()
    if response.status != http.client.OK:
        raise TransportError(f"no answer from {url}: HTTP status {response.status} {response.reason[:100]!r}")
    octets = response.read(MAX_ANSWER + 1)
    if len(octets) > MAX_ANSWER:
        raise TransportError(f"no answer from {url}: more than {MAX_ANSWER} octets")
    if response.length:  # octets that Content-Length promised and that did not come
        raise TransportError(f"no answer from {url}: it is cut off")
    return octets
