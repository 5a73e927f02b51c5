"""OCSP (RFC 6960, in the manner of RFC 5019): octets of a request -> octets of a signed answer about certificates here.

Requests are read by position and answers put together from fragments, as certificates are. A CertID is ours if what
stands before its serial number is one of a few strings made once: the hashes of this CA's name and key under each hash
function. What it says of itself goes back as it came. The statuses are read from the store for every request, and
nothing is kept: the next answer after a change tells it. Requests that come while a read is under way share the next.

What is asked is judged so: not DER, no or too many certificates, a nonce of a length that RFC 9654 forbids, a critical
extension that is not known here: malformedRequest. None of the certificates is of this CA: unauthorized. Some are: the
others are unknown. The store or the signer is not there for now: tryLater. These answers are not signed.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import field
from typing import Final, Protocol

from cmpd.asn1 import der
from cmpd.asn1.algorithms import HASHES, read_algorithm
from cmpd.asn1.der import DerError
from cmpd.asn1.oids import contents
from cmpd.config_status import OcspConfig
from cmpd.env import Env
from cmpd.errors import StoreError, SystemUnavail
from cmpd.frozen import frozen
from cmpd.ocsp_reads import Event, StatusReads
from cmpd.outline import outline
from cmpd.profiles.prepared import encode_extension
from cmpd.records import CRL_REASONS, CertificateState, CertificateStatus
from cmpd.requests import Extension, read_extensions
from cmpd.signing.base import SigningKey
from cmpd.store.base import Store

_log = logging.getLogger("cmpd.ocsp")

MAX_REQUEST_OCTETS: Final = 65_536
MAX_CERTIFICATES: Final = 32
"""How many certificates one request may ask about."""

_MAX_SIGNATURE_OCTETS: Final = 32_768  # with the certificates of the requester
_MAX_SERIAL_OCTETS: Final = 20  # RFC 5280 section 4.1.2.2
_MAX_NONCE_OCTETS: Final = 128  # RFC 9654 section 2.1
_MAX_HASH_OCTETS: Final = 64
_LOG_SECONDS: Final = 10.0  # one line about tryLater each

_BASIC: Final = der.encode_oid("1.3.6.1.5.5.7.48.1.1")
_NONCE: Final = contents("1.3.6.1.5.5.7.48.1.2")
_ACCEPTABLE_RESPONSES: Final = contents("1.3.6.1.5.5.7.48.1.4")
_SUCCESSFUL: Final = der.tlv(der.ENUMERATED, b"\x00")
_GOOD: Final = b"\x80\x00"
_UNKNOWN: Final = b"\x82\x00"
_HASH_FUNCTIONS: Final = ("sha1", "sha256", "sha384", "sha512")
_UNSUCCESSFUL: Final = {"malformedRequest": 1, "internalError": 2, "tryLater": 3, "unauthorized": 6}
"""OCSPResponseStatus; sigRequired (5) is never said: whoever asks is answered."""


class Issuer(Protocol):
    """What OCSP needs of the CA: its Name and SubjectPublicKeyInfo (DER)."""

    @property
    def name(self) -> bytes:
        """DER of the subject of its certificate."""

    @property
    def public_key(self) -> bytes:
        """DER of its SubjectPublicKeyInfo."""


class OcspSigner:
    """The responder's certificate (DER) with its key; `key_hash`: what names it in answers (RFC 6960 section 4.2.1)."""

    __slots__ = ("_key", "algorithm", "certificate", "certs", "key_hash", "not_after", "not_before", "responder_id")

    def __init__(self, certificate: bytes, key: SigningKey) -> None:
        """`key` is the one of `certificate`. Raises DerError."""
        own = outline(certificate)
        self.certificate = certificate
        self.not_before = own.not_before
        self.not_after = own.not_after
        self.algorithm = key.algorithm
        self.key_hash = hashlib.sha1(subject_public_key(own.public_key), usedforsecurity=False).digest()
        self.responder_id = der.explicit_octets(2, self.key_hash)
        self.certs = der.explicit(0, der.seq(certificate))
        self._key = key

    async def sign(self, octets: bytes) -> bytes:
        """The signature over `octets`."""
        return await self._key.sign(octets)


@frozen
class OcspAnswer:
    """An OCSPResponse (DER). Times are Unix seconds; `next_update` is None unless it is `successful`.

    `cacheable`: the same octets answer everybody who asks the same until then (there is no nonce).
    """

    der: bytes = field(repr=False)
    this_update: int
    next_update: int | None = None
    cacheable: bool = False
    successful: bool = False


# --- reading ----------------------------------------------------------------------------------------------------------


@frozen
class CertId:
    """One CertID as received (DER). `serial`: contents octets, None if the certificate is not of this CA."""

    der: bytes
    serial: bytes | None


@frozen
class OcspRequest:
    """What is asked. `nonce`: DER of the Extension that goes back, empty if there is none."""

    cert_ids: tuple[CertId, ...]
    nonce: bytes


def subject_public_key(public_key: bytes) -> bytes:
    """The octets of the BIT STRING in a SubjectPublicKeyInfo (DER): what key hashes are made of."""
    start, stop = der.expect(public_key, 0, len(public_key), der.SEQUENCE, "SubjectPublicKeyInfo")
    _, after = der.expect(public_key, start, stop, der.SEQUENCE, "algorithm")
    inner, end = der.expect(public_key, after, stop, der.BIT_STRING, "subjectPublicKey")
    return public_key[inner + 1 : end]


def issuer_hashes(name: bytes, public_key: bytes) -> frozenset[bytes]:
    """hashAlgorithm, issuerNameHash and issuerKeyHash as they stand in a CertID of this issuer, in every way to say it.

    The hash functions are SHA-1, -256, -384 and -512, their parameters absent or NULL.
    """
    key = subject_public_key(public_key)
    found = set()
    for oid, function in HASHES.items():
        if function in _HASH_FUNCTIONS:
            digests = [hashlib.new(function, octets, usedforsecurity=False).digest() for octets in (name, key)]
            values = b"".join(map(der.encode_octets, digests))
            found |= {der.seq(der.tlv(der.OID, oid), params) + values for params in (b"", der.NULL_TLV)}
    return frozenset(found)


def read_request(data: bytes, ours: frozenset[bytes]) -> OcspRequest:
    """Read an OCSPRequest (RFC 6960 section 4.1.1); `ours`: `issuer_hashes`. Raises DerError: malformedRequest.

    requestorName and optionalSignature are not looked into: statuses are told to everybody.
    """
    if len(data) > MAX_REQUEST_OCTETS:
        raise DerError(f"OCSPRequest: want at most {MAX_REQUEST_OCTETS} octets, have {len(data)}")
    pos, end = _only(data, 0, len(data), der.SEQUENCE, "OCSPRequest")
    pos, stop = der.expect(data, pos, end, der.SEQUENCE, "tbsRequest")
    if stop != end:
        _pass_signature(data, stop, end)
    if pos < stop and data[pos] == 0xA0:
        inner, pos = der.expect(data, pos, stop, 0xA0, "version")
        start, after = _only(data, inner, pos, der.INTEGER, "version")
        if der.integer(data, start, after, "version"):
            raise DerError("version: want v1")
    if pos < stop and data[pos] == 0xA1:
        inner, pos = der.expect(data, pos, stop, 0xA1, "requestorName")
        _pass_value(data, inner, pos, "requestorName")
    start, pos = der.expect(data, pos, stop, der.SEQUENCE, "requestList")
    requests = der.children(data, start, pos, MAX_CERTIFICATES)
    if not requests:
        raise DerError("requestList: want at least one Request")
    cert_ids = tuple(_read_single(data, pos, after, ours) for _, pos, _, after in requests)
    nonce = b""
    if pos != stop:
        start, after = _only(data, pos, stop, 0xA2, "requestExtensions")
        nonce = _judge_extensions(_read_extensions(data, start, after))
    return OcspRequest(cert_ids, nonce)


def _only(data: bytes, pos: int, end: int, tag: int, noun: str) -> tuple[int, int]:
    """Contents of a value that fills [pos, end)."""
    start, stop = der.expect(data, pos, end, tag, noun)
    if stop != end:
        raise DerError(f"{noun}: octets after it")
    return start, stop


def _pass_value(data: bytes, pos: int, end: int, noun: str) -> None:
    """One value, whatever it is."""
    if pos == end or der.header(data, pos, end)[2] != end:
        raise DerError(f"{noun}: want one value")
    der.check(data, pos, end)


def _pass_signature(data: bytes, pos: int, end: int) -> None:
    start, stop = _only(data, pos, end, 0xA0, "optionalSignature")
    if stop - start > _MAX_SIGNATURE_OCTETS:
        raise DerError(f"optionalSignature: want at most {_MAX_SIGNATURE_OCTETS} octets, have {stop - start}")
    start, stop = _only(data, start, stop, der.SEQUENCE, "optionalSignature")
    tags = [tag for tag, *_ in der.children(data, start, stop, 3)]
    if tags not in ([der.SEQUENCE, der.BIT_STRING], [der.SEQUENCE, der.BIT_STRING, 0xA0]):
        raise DerError("optionalSignature: want signatureAlgorithm, signature and perhaps certs")
    der.check(data, start, stop)


def _read_single(data: bytes, pos: int, end: int, ours: frozenset[bytes]) -> CertId:
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "Request")
    inner, after = der.expect(data, start, stop, der.SEQUENCE, "reqCert")
    if after != stop:
        first, last = _only(data, after, stop, 0xA0, "singleRequestExtensions")
        for extension in _read_extensions(data, first, last):
            _refuse_critical(extension)
    values = der.children(data, inner, after, 4)
    if len(values) != 4:
        raise DerError(f"reqCert: want 4 values, have {len(values)}")
    tag, at, first, last = values[3]
    if tag != der.INTEGER:
        raise DerError("serialNumber: want INTEGER")
    if der.integer(data, first, last, "serialNumber", octets=_MAX_SERIAL_OCTETS) <= 0:
        raise DerError("serialNumber: want a positive INTEGER")
    if data[inner:at] in ours:
        return CertId(data[start:after], data[first:last])
    _, _, behind = read_algorithm(data, inner, at, "hashAlgorithm")
    der.check(data, inner, behind)
    for tag, _, first, last in values[1:3]:
        if tag != der.OCTET_STRING or not 0 < last - first <= _MAX_HASH_OCTETS:
            raise DerError(f"reqCert: want hashes of 1 to {_MAX_HASH_OCTETS} octets")
    return CertId(data[start:after], None)


def _read_extensions(data: bytes, pos: int, end: int) -> tuple[Extension, ...]:
    start, stop = _only(data, pos, end, der.SEQUENCE, "extensions")
    if start == stop:
        raise DerError("extensions: want at least one")
    found = read_extensions(data, start, stop)
    for extension in found:
        der.check_oid(extension.oid, 0, len(extension.oid), "extnID")
    return found


def _judge_extensions(extensions: tuple[Extension, ...]) -> bytes:
    """DER of the nonce's Extension in the answer, empty if there is none."""
    nonce = b""
    for extension in extensions:
        if extension.oid == _NONCE:
            nonce = encode_extension(_NONCE, _check_nonce(extension.value))
        elif extension.oid == _ACCEPTABLE_RESPONSES:
            _check_acceptable(extension.value)
        else:
            _refuse_critical(extension)
    return nonce


def _refuse_critical(extension: Extension) -> None:
    """What is not known is ignored, unless it must not be (RFC 6960 section 4.4)."""
    if extension.critical:
        raise DerError(f"extension {der.dotted(extension.oid)}: critical, and not known here")


def _check_nonce(value: bytes) -> bytes:
    """The nonce as it came: an OCTET STRING inside of extnValue (RFC 9654), or, by old clients, the bare octets."""
    size = len(value)
    try:
        start, stop = der.expect(value, 0, size, der.OCTET_STRING, "nonce")
        if stop == size:
            size = stop - start
    except DerError:
        pass
    if not 0 < size <= _MAX_NONCE_OCTETS:
        raise DerError(f"nonce: want 1 to {_MAX_NONCE_OCTETS} octets, have {size}")
    return value


def _check_acceptable(value: bytes) -> None:
    """id-pkix-ocsp-basic is what every client understands (RFC 6960 section 4.4.3), and the only one there is here."""
    start, stop = _only(value, 0, len(value), der.SEQUENCE, "AcceptableResponses")
    der.check(value, start, stop)
    if not any(value[pos:after] == _BASIC for _, pos, _, after in der.children(value, start, stop)):
        raise DerError("AcceptableResponses: want id-pkix-ocsp-basic among them")


# --- answering --------------------------------------------------------------------------------------------------------


class OcspResponder:
    """Answers about the certificates of one CA. `signer` may be replaced at any time; None: it answers tryLater."""

    def __init__(
        self,
        store: Store,
        ca: Issuer,
        env: Env,
        config: OcspConfig,
        *,
        event: Callable[[], Event],
        signer: OcspSigner | None = None,
    ) -> None:
        """`event` is asyncio.Event. Raises DerError if the CA's public key is none."""
        self.signer = signer
        self._reads = StatusReads(store, event)
        self._env = env
        self._validity = config.validity
        self._ours = issuer_hashes(ca.name, ca.public_key)
        self._later = 0  # answers of tryLater since the last line about them
        self._later_logged: float | None = None

    async def respond(self, request: bytes) -> OcspAnswer:
        """The answer to an OCSPRequest (DER); whatever the octets are, there is one."""
        try:
            asked = read_request(request, self._ours)
            serials = list(dict.fromkeys(one.serial for one in asked.cert_ids if one.serial is not None))
            if not serials:
                return self._unsuccessful("unauthorized")
            return await self._answer(asked, serials)
        except DerError as fault:
            _log.debug("request refused: malformedRequest: %s", fault)  # anybody can send such ones
            return self._unsuccessful("malformedRequest")
        except (StoreError, SystemUnavail) as error:
            self._log_later(error)
            return self._unsuccessful("tryLater")
        except Exception:
            _log.exception("no answer: internalError")
            return self._unsuccessful("internalError")

    async def _answer(self, asked: OcspRequest, serials: list[bytes]) -> OcspAnswer:
        signer, now = self.signer, int(self._env.now())  # taken before the read: what was so then is what is said
        if signer is None or not signer.not_before <= now <= signer.not_after:
            raise SystemUnavail("there is no certificate to sign OCSP answers with that is valid now")
        next_update = min(now + self._validity, signer.not_after)
        statuses = await self._reads.certificate_status(serials)
        at = der.encode_generalized_time(now)
        times = at + der.explicit(0, der.encode_generalized_time(next_update))
        singles = [
            der.seq(one.der, _cert_status(statuses.get(one.serial) if one.serial else None, now), times)
            for one in asked.cert_ids
        ]
        nonce = der.explicit(1, der.seq(asked.nonce)) if asked.nonce else b""
        data = der.seq(signer.responder_id, at, der.seq(*singles), nonce)
        signature = der.encode_bits(await signer.sign(data))
        basic = der.encode_octets(der.seq(data, signer.algorithm, signature, signer.certs))
        return OcspAnswer(
            der=der.seq(_SUCCESSFUL, der.explicit(0, der.seq(_BASIC, basic))),
            this_update=now,
            next_update=next_update,
            cacheable=not nonce,
            successful=True,
        )

    def _unsuccessful(self, status: str) -> OcspAnswer:
        return OcspAnswer(_UNSIGNED[status], int(self._env.now()))

    def _log_later(self, error: Exception) -> None:
        """One line each 10 seconds, however many ask; after a clock that was put back the next one is due."""
        self._later += 1
        now = self._env.now()
        if self._later_logged is None or not 0 <= now - self._later_logged < _LOG_SECONDS:
            _log.error("no answer: tryLater: %s; %d since the last such line", error, self._later)
            self._later = 0
            self._later_logged = now


_UNSIGNED: Final = {name: der.seq(der.tlv(der.ENUMERATED, bytes((number,)))) for name, number in _UNSUCCESSFUL.items()}


def _cert_status(found: CertificateStatus | None, now: int) -> bytes:
    """CertStatus (RFC 6960 section 4.2.1). What was never issued is unknown; what waits for certConf or has expired is
    good: it exists and is not revoked.
    """
    if found is None:
        return _UNKNOWN
    if found.state is CertificateState.SUSPENDED:
        number = CRL_REASONS["certificateHold"]
    elif found.state is CertificateState.REVOKED:
        number = CRL_REASONS.get(found.reason or "unspecified", 0)
    else:
        return _GOOD
    reason = der.explicit(0, der.tlv(der.ENUMERATED, bytes((number,)))) if number else b""
    revoked_at = now if found.revoked_at is None else found.revoked_at
    return der.tlv(0xA1, der.encode_generalized_time(revoked_at) + reason)
