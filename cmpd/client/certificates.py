"""Certificates as a client sees them: their fields as octets, files of them, and the path to a trust anchor.

The path is built from the set of certificates at hand in any order (RFC 9483 section 3.3), by name and signature, and
checked as RFC 5280 section 6.1 says for what can occur below a CA of cmpd: validity, basicConstraints with path length,
keyUsage. A CA certificate with a critical extension that is not checked here (name constraints, policies) is refused.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID

from cmpd.asn1 import der
from cmpd.client.errors import ClientError, VerificationError

MAX_PATH: Final = 10
"""Certificates in a path, the trust anchor included."""

_PEM: Final = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END ")
_CHECKED: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with those fields as octets that CMP compares. All but `serial` (int) are whole DER values."""

    der: bytes
    serial: int
    signature_algorithm: bytes = field(repr=False)
    issuer: bytes = field(repr=False)
    subject: bytes = field(repr=False)
    public_key_info: bytes = field(repr=False)
    parsed: x509.Certificate = field(repr=False, compare=False)

    @classmethod
    def load(cls, octets: bytes) -> "Certificate":
        """Read the DER of one certificate; VerificationError if it is not one."""
        try:
            _, start, stop = der.header(octets, 0, len(octets))
            tbs = der.children(octets, start, stop, 3)[0]
            fields = der.children(octets, tbs[2], tbs[3], 10)
            if fields[0][0] != 0xA0:  # version 1 has no version field
                fields.insert(0, fields[0])
            serial, algorithm, issuer, _, subject, key = (octets[pos:end] for _, pos, _, end in fields[1:7])
            loaded = x509.load_der_x509_certificate(octets)
            _ = loaded.extensions  # parsed now, so that a broken one is found here and not later
        except (ValueError, IndexError, x509.DuplicateExtension) as error:
            raise VerificationError(f"not a certificate: {error}") from None
        return cls(octets, int.from_bytes(serial[2:], "big"), algorithm, issuer, subject, key, loaded)

    @property
    def key_identifier(self) -> bytes | None:
        """The value of subjectKeyIdentifier, None if the extension is absent."""
        try:
            return self.parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except x509.ExtensionNotFound:
            return None

    @property
    def subject_text(self) -> str:
        """The subject as text, for people."""
        return self.parsed.subject.rfc4514_string() or "(empty subject)"

    @property
    def is_ca(self) -> bool:
        """Whether basicConstraints says cA."""
        try:
            return self.parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            return False

    @property
    def extended_key_usage(self) -> frozenset[str]:
        """The dotted OIDs of extendedKeyUsage; empty if the extension is absent."""
        try:
            usage = self.parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return frozenset()
        return frozenset(oid.dotted_string for oid in usage)

    def may(self, usage: str) -> bool:
        """Whether keyUsage allows `usage` (spelt as in cryptography: "digital_signature"), or is absent."""
        try:
            key_usage = self.parsed.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            return True
        return bool(getattr(key_usage, usage))

    def valid_at(self, now: float) -> bool:
        """Whether `now` (Unix seconds) is within its validity."""
        return self.parsed.not_valid_before_utc.timestamp() <= now <= self.parsed.not_valid_after_utc.timestamp()

    @property
    def pem(self) -> bytes:
        """The PEM form."""
        return b"-----BEGIN CERTIFICATE-----\n" + _wrapped(self.der) + b"-----END CERTIFICATE-----\n"


def _wrapped(octets: bytes) -> bytes:
    text = base64.b64encode(octets)
    return b"".join(text[i : i + 64] + b"\n" for i in range(0, len(text), 64))


def load_certificates(path: Path) -> list[Certificate]:
    """All certificates of a PEM file, or the one of a DER file, in their order; ClientError if there is none."""
    octets = path.read_bytes()
    try:
        found = [base64.b64decode(match.group(1)) for match in _PEM.finditer(octets)] or [octets]
        return [Certificate.load(one) for one in found]
    except (binascii.Error, VerificationError):
        raise ClientError(f"{path}: want certificates in PEM, or one in DER") from None


def build_path(
    leaf: Certificate, others: Iterable[Certificate], anchors: Sequence[Certificate], now: float
) -> list[Certificate]:
    """The path from `leaf` up to a trust anchor, both included; [leaf] if it is an anchor itself.

    VerificationError says why there is none. `others` may hold anything in any order; nothing in it is trusted.
    """
    pool = list(dict.fromkeys(others))[:100]
    reasons: list[str] = []
    steps = [1000]  # candidates that may be tried in all: many certificates with one name must not cost without bound

    def climb(path: list[Certificate]) -> list[Certificate] | None:
        last = path[-1]
        if not last.valid_at(now):
            reasons.append(f"{last.subject_text} is not valid now")
            return None
        if last in anchors:
            return path
        if len(path) >= MAX_PATH:
            reasons.append(f"path longer than {MAX_PATH}")
            return None
        for issuer in (*anchors, *pool):
            if issuer.subject == last.issuer and issuer not in path and steps[0] > 0:
                steps[0] -= 1
                fault = _issuer_fault(issuer, last, len(path) - 1)
                found = climb([*path, issuer]) if fault is None else None
                if found is not None:
                    return found
                if fault is not None:
                    reasons.append(fault)
        return None

    path = climb([leaf])
    if path is None:
        why = reasons[0] if reasons else f"issuer {leaf.parsed.issuer.rfc4514_string()} is not known"
        raise VerificationError(f"no path from {leaf.subject_text} to a trust anchor: {why}")
    return path


def _issuer_fault(issuer: Certificate, issued: Certificate, below: int) -> str | None:
    """Why `issuer` cannot have issued `issued` with `below` CA certificates under it, or None if it can."""
    if not issuer.is_ca or not issuer.may("key_cert_sign"):
        return f"{issuer.subject_text} is not a CA"
    limit = issuer.parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if limit is not None and below > limit:
        return f"{issuer.subject_text} allows {limit} CA certificates below it, have {below}"
    unknown = [e.oid.dotted_string for e in issuer.parsed.extensions if e.critical and e.oid not in _CHECKED]
    if unknown:
        return f"{issuer.subject_text} has a critical extension that is not understood: {unknown[0]}"
    try:
        issued.parsed.verify_directly_issued_by(issuer.parsed)
    except (InvalidSignature, ValueError, TypeError):
        return f"the signature of {issued.subject_text} is not by {issuer.subject_text}"
    return None
