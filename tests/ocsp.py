"""What tests of OCSP share: a responder without a server, requests from fragments, and other eyes on the answers."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from pkilint import loader, pkix, validation
from pkilint.pkix import extension, name
from pkilint.pkix import ocsp as ocsp_linter
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc6960

from cmpd.asn1 import der
from cmpd.ca import CertificateAuthority
from cmpd.config_status import OcspConfig
from cmpd.env import Env
from cmpd.ocsp import OcspAnswer, OcspResponder, OcspSigner, subject_public_key
from cmpd.ocsp_signer import SignerKeeper
from cmpd.records import CertificateState, CertificateStatus
from cmpd.store.base import Store
from cmpd.store.memory import MemoryStore
from tests.profiles.support import NOW, authority, counting_env

T = TypeVar("T")
HASH_OIDS = {
    "sha1": "1.3.14.3.2.26",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
NONCE = "1.3.6.1.5.5.7.48.1.2"
PASSPHRASE = b"a passphrase of the tests"


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise AssertionError("it suspended")


async def at_once(work: Callable[[], T]) -> T:
    """Offloads nothing."""
    return work()


class Statuses:
    """A store that knows the status of some certificates, and what it was asked."""

    def __init__(self, *known: CertificateStatus) -> None:
        self.known = {one.serial: one for one in known}
        self.reads: list[tuple[bytes, ...]] = []
        self.error: Exception | None = None

    async def certificate_status(self, serials: Sequence[bytes]) -> dict[bytes, CertificateStatus]:
        self.reads.append(tuple(serials))
        if self.error is not None:
            raise self.error
        return {serial: self.known[serial] for serial in serials if serial in self.known}


def status(serial: bytes, state: CertificateState, at: int | None = None, reason: str | None = None) -> Any:
    return CertificateStatus(serial, state, at, reason)


def keeper(
    path: Path,
    ca: CertificateAuthority,
    *,
    store: Store | None = None,
    config: OcspConfig | None = None,
    env: Env | None = None,
    offload: Callable[[Callable[[], Any]], Awaitable[Any]] = at_once,
) -> SignerKeeper:
    return SignerKeeper(
        path, PASSPHRASE, ca, store or MemoryStore(), config or OcspConfig(), env or counting_env(), offload
    )


def signer(kind: str, now: float = NOW) -> OcspSigner:
    """The signer of `authority(kind, now)`, one for all tests."""
    return _signer(authority(kind) if now == NOW else authority(kind, now), now)


@cache
def _signer(ca: CertificateAuthority, now: float) -> OcspSigner:
    return new_signer(ca, now)


def new_signer(ca: CertificateAuthority, now: float = NOW) -> OcspSigner:
    with TemporaryDirectory() as directory:
        made = keeper(Path(directory) / "ocsp.pem", ca, env=counting_env(now))
        found = drive(made.load_or_make())
    assert found is not None
    return found


def responder(*known: CertificateStatus, kind: str = "p256", now: float = NOW, **config: Any) -> OcspResponder:
    """A responder of `authority(kind)` that knows these statuses, at the time `now`."""
    store = cast(Store, Statuses(*known))
    return OcspResponder(
        store, authority(kind), counting_env(now), OcspConfig(**config), event=asyncio.Event, signer=signer(kind)
    )


def store_of(found: OcspResponder) -> Statuses:
    return cast(Statuses, found._reads._store)


# --- requests ---------------------------------------------------------------------------------------------------------


def hashes_of(ca: CertificateAuthority, function: str = "sha1", *, params: bytes = der.NULL_TLV) -> bytes:
    """hashAlgorithm, issuerNameHash and issuerKeyHash of a CertID."""
    digests = [hashlib.new(function, octets).digest() for octets in (ca.name, subject_public_key(ca.public_key))]
    return der.seq(der.encode_oid(HASH_OIDS[function]), params) + b"".join(map(der.encode_octets, digests))


def cert_id(ca: CertificateAuthority, serial: bytes, function: str = "sha1", *, params: bytes = der.NULL_TLV) -> bytes:
    return der.seq(hashes_of(ca, function, params=params), der.tlv(der.INTEGER, serial))


def an_extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return der.seq(der.encode_oid(oid), der.encode_boolean(True) if critical else b"", der.encode_octets(value))


def nonce_extension(nonce: bytes, *, critical: bool = False) -> bytes:
    return an_extension(NONCE, der.encode_octets(nonce), critical=critical)


def request(*cert_ids: bytes, extensions: Sequence[bytes] = (), before: bytes = b"", behind: bytes = b"") -> bytes:
    """An OCSPRequest. `before`: version and requestorName; `behind`: optionalSignature."""
    wanted = der.explicit(2, der.seq(*extensions)) if extensions else b""
    return der.seq(der.seq(before, der.seq(*map(der.seq, cert_ids)), wanted), behind)


# --- answers ----------------------------------------------------------------------------------------------------------


def statuses(answer: OcspAnswer) -> list[str]:
    """good, unknown, or revoked with its reason, of each certificate; read by pyasn1."""
    basic = decode(answer.der)
    found = []
    for single in basic["tbsResponseData"]["responses"]:
        choice = single["certStatus"]
        reason = choice.getComponent()["revocationReason"] if choice.getName() == "revoked" else None
        found.append(choice.getName() + (f" {reason.prettyPrint()}" if reason is not None and reason.isValue else ""))
    return found


def decode(answer: bytes) -> Any:
    """The BasicOCSPResponse by pyasn1; both levels must be DER."""
    outer, rest = decode_der(answer, asn1Spec=rfc6960.OCSPResponse())
    assert not rest
    assert encode_der(outer) == answer
    octets = outer["responseBytes"]["response"].asOctets()
    basic, rest = decode_der(octets, asn1Spec=rfc6960.BasicOCSPResponse())
    assert not rest
    assert encode_der(basic) == octets
    return basic


def check_signature(answer: bytes, signer_certificate: bytes) -> ocsp.OCSPResponse:
    """cryptography must find the signature good, and no certificate in it but the signer's."""
    seen = ocsp.load_der_ocsp_response(answer)
    certificate = x509.load_der_x509_certificate(signer_certificate)
    assert list(seen.certificates) == [certificate]
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        assert seen.signature_hash_algorithm is not None
        key.verify(seen.signature, seen.tbs_response_bytes, ec.ECDSA(seen.signature_hash_algorithm))
    elif isinstance(key, rsa.RSAPublicKey):
        assert seen.signature_hash_algorithm is not None
        key.verify(seen.signature, seen.tbs_response_bytes, padding.PKCS1v15(), seen.signature_hash_algorithm)
    else:
        assert isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
        key.verify(seen.signature, seen.tbs_response_bytes)
    return seen


_LOADER = loader.RFC6960OCSPResponseDocumentLoader()


@cache
def _linter() -> Any:
    decoders = [
        ocsp_linter.create_response_decoder(),
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ]
    return ocsp_linter.create_pkix_ocsp_response_validator_container(decoders, [])


def lint(answer: bytes) -> set[str]:
    """The codes of what pkilint's lint_ocsp_response finds at NOTICE or above."""
    return {
        found.finding.code
        for result in _linter().validate(_LOADER.load_der_document(answer, "answer", None).root)
        for found in result.finding_descriptions
        if found.finding.severity <= validation.ValidationFindingSeverity.NOTICE
    }
