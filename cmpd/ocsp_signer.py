"""The OCSP responder's own certificate and key: made by the CA, kept in one file, renewed after two thirds of its life.

The steps of making one are those of every certificate here: what will be signed is recorded, then it is signed, then
the certificate is recorded, then it is used and written to the file. If the file alone fails it is used from memory,
and the writing alone is tried again: another certificate would not help. A file that is cut off, or not of this CA (any
more), is made anew; a failure is logged and tried again at the next occasion, and the old certificate is used as long
as it is valid. It carries id-pkix-ocsp-nocheck: its life is short instead of its status being asked for.
"""

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cmpd.asn1 import der
from cmpd.asn1.names import name_text
from cmpd.asn1.oids import contents
from cmpd.asn1.signing import algorithm_name
from cmpd.bootstrap import BACKDATE, issued, role_subject
from cmpd.ca import CertificateAuthority
from cmpd.changes import (
    AddServiceCertificate,
    Change,
    SignServiceCertificate,
)
from cmpd.config_status import OcspConfig
from cmpd.config_values import EXTENDED_KEY_USAGES
from cmpd.env import Env
from cmpd.errors import CmpdError, ConfigError, StoreError, SystemUnavail
from cmpd.ocsp import OcspSigner
from cmpd.outline import outline
from cmpd.private_keys import same_kind
from cmpd.profiles.extensions import OID_EKU, OID_SKI, encode_eku, encode_key_usage, key_identifier
from cmpd.profiles.prepared import encode_extension
from cmpd.records import ServiceCertificate
from cmpd.signing.file import FileKey, encrypted_pem, load_key, pem, public_key_info, read_certificates
from cmpd.store.base import Store

_log = logging.getLogger("cmpd.ocsp")
_T = TypeVar("_T")

PURPOSE: Final = "ocsp"
MARK: Final = b"# OCSP signer of cmpd: certificate and key, replaced by the server\n"
"""Begins the file, which has PEM after it: what does not begin so is never replaced."""

_EXPECTED: Final = (CmpdError, OSError)
_RETRY: Final = 300.0
"""Seconds until what failed is tried again: every attempt may leave a certificate in the database."""

_OID_NOCHECK: Final = contents("1.3.6.1.5.5.7.48.1.5")
_PURPOSES: Final = der.seq(der.encode_oid(EXTENDED_KEY_USAGES["OCSPSigning"]))


class Offload(Protocol):
    """Runs a function that takes longer off the loop and gives its result."""

    def __call__(self, work: Callable[[], _T], /) -> Awaitable[_T]:
        """The result of `work`."""


class SignerKeeper:
    """Keeps `signer` valid. Its methods must not run at the same time."""

    def __init__(
        self,
        path: Path,
        passphrase: bytes,
        ca: CertificateAuthority,
        store: Store,
        config: OcspConfig,
        env: Env,
        offload: Offload,
        *,
        signing: Offload | None = None,
    ) -> None:
        """`path`: the file. `offload` gets what takes long: opening and writing keys, making them.

        `signing` gets RSA signatures of answers, None: `offload` gets them too.
        """
        self.signer: OcspSigner | None = None
        self._path = path
        self._passphrase = passphrase
        self._ca = ca
        self._ca_end = outline(ca.certificate).not_after
        self._store = store
        self._validity = config.signer_validity
        self._env = env
        self._offload = offload
        self._signing = signing or offload
        self._retry_at = 0.0
        self._unsaved: bytes | None = None  # what the file should hold

    async def load_or_make(self) -> OcspSigner | None:
        """The signer in the file, or a new one; None if neither can be had now (logged). For the start."""
        try:
            self.signer = await self._offload(self._load)
        except Exception as error:  # whatever is in that file must not stop the server
            _log.warning("OCSP signer: %s; it is made anew", error, exc_info=not isinstance(error, _EXPECTED))
        if self.signer is not None:
            try:  # the database may be older than the file
                await record_service_certificate(self._store, self.signer.certificate, PURPOSE)
            except StoreError as error:
                _log.error("OCSP signer: cannot be recorded: %s", error)
        return await self.renew_if_due()

    async def renew_if_due(self) -> OcspSigner | None:
        """The signer to use from now on: the one there is, or, if less than a third of its life is left, a new one.

        Cheap unless it is due; to be called every minute or so. What goes wrong is logged, and tried again later.
        """
        if self._is_waiting:
            return self.signer
        if self.is_due:
            try:
                self.signer, self._unsaved = await self._make()
            except Exception as error:
                self._failed("cannot be made", error)
                return self.signer
            _log.info("OCSP signer made serial=%s", outline(self.signer.certificate).serial.hex())
        if self._unsaved is not None:
            try:
                await self._offload(partial(_write_whole, self._path, self._unsaved))
            except Exception as error:
                self._failed("cannot be saved, is used from memory", error)
            else:
                self._unsaved = None
        return self.signer

    @property
    def _is_waiting(self) -> bool:
        """Whether something failed a short time ago; also right if the clock was wrong then."""
        return 0 < self._retry_at - self._env.now() <= _RETRY

    def _failed(self, what: str, error: Exception) -> None:
        text = f"{error} {getattr(error, 'detail', '')}".rstrip()
        unexpected = not isinstance(error, _EXPECTED)
        _log.error("OCSP signer: %s, will be tried again: %s", what, text, exc_info=unexpected)
        self._retry_at = self._env.now() + _RETRY

    @property
    def is_due(self) -> bool:
        """Whether a new one should be made now; never if it could not be valid any longer than the one there is."""
        if self.signer is None:
            return True
        now, end = self._env.now(), self.signer.not_after
        return now < self.signer.not_before or (end - now <= self._validity // 3 and end < self._ca_end)

    def _load(self) -> OcspSigner | None:
        """What is in the file; None if there is no file or it is out of date, ConfigError if it cannot be used."""
        if not os.path.lexists(self._path):
            return None
        (certificate, *_) = read_certificates(self._path)
        found = outline(certificate)
        if not found.not_before <= self._env.now() <= found.not_after:
            return None
        if found.issuer != self._ca.name or not _is_issued(certificate, self._ca.certificate):
            raise ConfigError(f"certificate {self._path}: is not of this CA")
        if found.value(_OID_NOCHECK) is None or found.value(OID_EKU) != _PURPOSES:
            raise ConfigError(f"certificate {self._path}: is not for signing OCSP answers")
        key = load_key(self._path, self._passphrase, certificate, offload=self._signing, signature=self._signature)
        return OcspSigner(certificate, key)

    async def _make(self) -> tuple[OcspSigner, bytes]:
        """A new signer, and what the file should hold. What can fail without a certificate comes before it."""
        key = await self._offload(lambda: same_kind(load_der_public_key(self._ca.public_key)))
        key_pem = await self._offload(lambda: encrypted_pem(key, self._passphrase, self._env))
        certificate = await self._issue(public_key_info(key))
        octets = MARK + pem("CERTIFICATE", certificate) + key_pem
        return OcspSigner(certificate, FileKey(key, offload=self._signing, signature=self._signature)), octets

    @property
    def _signature(self) -> str | None:
        """What the CA signs with: who verifies its certificates verifies the answers too."""
        return algorithm_name(self._ca.algorithm)

    async def _issue(self, public_key: bytes) -> bytes:
        """DER of a certificate for the key, recorded."""
        now = self._env.now()
        own = outline(self._ca.certificate)
        not_before = max(int(now) - BACKDATE, own.not_before)
        not_after = min(int(now) + self._validity, own.not_after)
        if not own.not_before <= now <= own.not_after:
            raise SystemUnavail("the CA's own certificate is not valid at this time")
        subject = role_subject(self._ca.name, "OCSP")
        serial = self._ca.next_serial(now)
        tbs = der.seq(
            der.explicit(0, der.encode_integer(2)),
            der.tlv(der.INTEGER, serial),
            self._ca.algorithm,
            self._ca.name,
            der.seq(der.encode_time(not_before), der.encode_time(not_after)),
            subject,
            public_key,
            der.explicit(3, der.seq(*_extensions(public_key, self._ca.aki))),
        )
        intent = ServiceCertificate(serial, PURPOSE, name_text(subject), not_before, not_after, int(now))
        await self._store.write([AddServiceCertificate(intent)])
        certificate = await self._ca.sign_tbs(tbs)
        await self._store.write([SignServiceCertificate(serial, certificate)])
        return certificate


def _extensions(public_key: bytes, aki: bytes) -> tuple[bytes, ...]:
    return (
        encode_key_usage(("digitalSignature",)),
        encode_eku(("OCSPSigning",)) or b"",
        encode_extension(_OID_NOCHECK, der.NULL_TLV),
        encode_extension(OID_SKI, der.encode_octets(key_identifier(public_key))),
        aki,
    )


def _is_issued(certificate: bytes, issuer: bytes) -> bool:
    return issued(x509.load_der_x509_certificate(certificate), x509.load_der_x509_certificate(issuer))


def _may_be_replaced(path: Path) -> bool:
    """Whether a file is one of ours, damaged perhaps; a key that somebody named by mistake must not be lost."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MARK)) in (b"", MARK)


def _write_whole(path: Path, octets: bytes) -> None:
    """Write a file of mode 0600 that is replaced whole or not at all, and survives a power cut. Raises OSError."""
    if os.path.lexists(path) and not _may_be_replaced(path):
        raise ConfigError(f"ocsp.signer: {path} is there and is no OCSP signer; move it away or name another file")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")  # one process serves: nobody else writes it
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


async def record_service_certificate(store: Store, certificate: bytes, purpose: str) -> None:
    """Make a certificate (DER) that this CA has issued for itself known to the store, so that OCSP says it is good.

    Nothing happens if it is known. Raises DerError and StoreError.
    """
    own = outline(certificate)
    known = {one.serial: one for one in await store.service_certificates(purpose)}.get(own.serial)
    if known is not None and known.der is not None:
        return
    changes: list[Change] = [SignServiceCertificate(own.serial, certificate)]
    if known is None:
        record = ServiceCertificate(
            serial=own.serial,
            purpose=purpose,
            subject_text=name_text(own.subject),
            not_before=own.not_before,
            not_after=own.not_after,
            created_at=own.not_before,
        )
        changes.insert(0, AddServiceCertificate(record))
    await store.write(changes)
