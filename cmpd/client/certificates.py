"""Certificates as a client sees them: their fields as octets, files of them, and the path to a trust anchor.

The path is the one that the server's side searches for too (cmpd.paths); here its texts become the user's.
"""

import base64
import binascii
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cryptography import x509

from cmpd import certificates
from cmpd.asn1 import der
from cmpd.certificates import read_certificate
from cmpd.client.errors import ClientError, VerificationError
from cmpd.errors import CmpError
from cmpd.paths import PathLimits, TrustAnchors, find_path
from cmpd.public_keys import encryption_kind, key_fault

MAX_OTHERS: Final = 32
"""How many certificates of an answer are looked at for a path."""

_PEM: Final = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END ")


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
            with warnings.catch_warnings():  # cryptography warns of names and serial numbers that others chose
                warnings.simplefilter("ignore")
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
    leaf: Certificate, others: Iterable[Certificate], anchors: Sequence[Certificate], now: float, *, signs: bool = True
) -> list[Certificate]:
    """The path from `leaf` up to a trust anchor, both included; [leaf] if it is an anchor itself.

    `signs`: its key has to be one that can. VerificationError says why there is none. `others` may hold anything in any
    order; nothing in it is trusted.
    """
    pool = [one for one in dict.fromkeys(others) if one != leaf][:MAX_OTHERS]
    known = {one.der: one for one in (leaf, *pool, *anchors)}
    try:
        trusted = TrustAnchors.read(one.der for one in anchors)
        read = read_certificate(leaf.der, "certificate")
        if signs and read.key is not None and encryption_kind(read.key):
            read = replace(read, fault=key_fault(read.key, leaf.public_key_info))
        found = find_path(read, list(_readable(pool)), trusted, now, PathLimits())
    except CmpError as error:
        raise VerificationError(f"no path from {leaf.subject_text} to a trust anchor: {error.text}") from None
    return [known[one.der] for one in found.certificates]


def _readable(pool: Iterable[Certificate]) -> Iterator[certificates.Certificate]:
    """Those that can be read strictly; one that cannot must not spoil the path over the others."""
    for one in pool:
        with suppress(CmpError):
            yield read_certificate(one.der, "certificate")
