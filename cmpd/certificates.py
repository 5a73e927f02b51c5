"""Certificates (RFC 5280 section 4), read once, strictly and whole, by cryptography.x509 and by position.

What comes out is plain values, and what can be said about a certificate without knowing the time or its place in a
path: whether its critical extensions and its key are understood, whether it may issue, whether its signature algorithm
is accepted. Hostile octets end here, in BadDataFormat.
"""

import hashlib
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtensionOID

from cmpd.asn1 import der
from cmpd.asn1.names import name_text, read_name
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.name_constraints import MatchForm, PlainName, Subtrees, match_form, names_of, read_constraints
from cmpd.public_keys import encryption_fault, encryption_kind, key_fault
from cmpd.signatures import is_signed, signature_scheme


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """A certificate that was read whole. Times are Unix seconds, both inclusive.

    `fingerprint`: SHA-256 of the DER, 32 octets. `public_key_info`: DER of SubjectPublicKeyInfo. `subject`: DER of the
    Name; `subject_form` and `issuer_form` are equal when the Names match. `signature_algorithm`: DER of the
    AlgorithmIdentifier. `serial`: contents octets of the INTEGER. `path_length`: pathLenConstraint. `fault`,
    `ca_fault`, `signature_fault`: why it can be in no path, or have none under it, or nothing above it, as texts for
    the peer; empty if it can. `key` None: its algorithm is not supported.
    """

    der: bytes = field(repr=False)
    fingerprint: bytes
    parsed: x509.Certificate = field(repr=False)
    key: PublicKeyTypes | None = field(repr=False)
    public_key_info: bytes = field(repr=False)
    signature_algorithm: bytes = field(repr=False)
    serial: bytes
    subject: bytes
    subject_form: MatchForm = field(repr=False)
    issuer_form: MatchForm = field(repr=False)
    issuer_text: str
    title: str  # the subject as a text of bounded length, fit for logs and peers
    not_before: int
    not_after: int
    key_identifier: bytes | None
    issuer_key_identifier: bytes | None
    key_usage: x509.KeyUsage | None
    path_length: int | None
    names: tuple[PlainName, ...] = field(repr=False)
    constraints: Subtrees | None = field(repr=False)
    fault: str
    ca_fault: str
    signature_fault: str

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same Name."""
        return self.subject_form == self.issuer_form

    def time_fault(self, now: float) -> str:
        """What is wrong with its validity at `now`; empty if nothing is."""
        if now < self.not_before:
            return f"not valid before {time_text(self.not_before)}"
        return f"expired since {time_text(self.not_after)}" if now >= self.not_after + 1 else ""


def read_certificate(octets: bytes, noun: str) -> Certificate:
    """Read a certificate (DER) strictly and whole; BadDataFormat naming `noun` if that fails."""
    try:
        with warnings.catch_warnings():  # cryptography warns of names and serial numbers that peers choose
            warnings.simplefilter("ignore")
            der.check(octets, 0, len(octets))
            return _read(octets)
    except Exception as error:  # hostile octets raise many things inside cryptography; this is the border for them
        raise BadDataFormat(
            f"{noun}: want the DER of a Certificate (RFC 5280 section 4.1)", detail=f"{type(error).__name__}: {error}"
        ) from None


def _read(octets: bytes) -> Certificate:
    parsed = x509.load_der_x509_certificate(octets)
    serial, algorithm, issuer, subject, key_info, values = _outline(octets)
    subject_name, issuer_name = read_name(subject), read_name(issuer)
    try:
        extensions = list(parsed.extensions)
        fault = _extensions_fault(extensions)
    except (x509.UnsupportedGeneralNameType, UnsupportedAlgorithm):
        extensions, fault = [], "an extension holds a form of GeneralName that is not supported"
    found: dict[str, Any] = {extension.oid.dotted_string: extension.value for extension in extensions}
    constraints = found.get("2.5.29.30")
    subtrees = read_constraints(constraints, values["2.5.29.30"]) if constraints is not None else None
    ca_fault = _ca_fault(found)
    if constraints is not None and subtrees is None:
        ca_fault = "its name constraints have minimum or maximum, which RFC 5280 excludes"
    basic, authority, own = found.get("2.5.29.19"), found.get("2.5.29.35"), found.get("2.5.29.14")
    key = _read_key(parsed)
    return Certificate(
        der=octets,
        fingerprint=hashlib.sha256(octets).digest(),
        parsed=parsed,
        key=key,
        public_key_info=key_info,
        signature_algorithm=algorithm,
        serial=serial,
        subject=subject,
        subject_form=match_form(subject_name),
        issuer_form=match_form(issuer_name),
        issuer_text=_clip(name_text(issuer_name)),
        title=_clip(name_text(subject_name)),
        not_before=int(parsed.not_valid_before_utc.timestamp()),
        not_after=int(parsed.not_valid_after_utc.timestamp()),
        key_identifier=own.digest if own else None,
        issuer_key_identifier=authority.key_identifier if authority else None,
        key_usage=found.get("2.5.29.15"),
        path_length=basic.path_length if basic else None,
        names=names_of(subject_name, found.get("2.5.29.17")),
        constraints=subtrees,
        fault=fault or _key_fault(key, key_info),
        ca_fault=ca_fault,
        signature_fault=_signature_fault(algorithm),
    )


def _outline(data: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes, dict[str, bytes]]:
    """Octets of serialNumber's contents, signatureAlgorithm, issuer, subject, key, and extnValue's contents by OID."""
    (whole,) = der.children(data, 0, len(data), 1)
    tbs, (_, outer, _, outer_stop), signature = der.children(data, whole[2], whole[3], 3)
    der.octet_aligned(data, signature[2], signature[3], "signatureValue")
    fields = der.children(data, tbs[2], tbs[3], 10)
    if fields[0][0] == 0xA0:
        del fields[0]
    (_, _, start, stop), (_, inner, _, inner_stop), issuer, _, subject, key = fields[:6]
    if der.integer(data, start, stop, "serialNumber", octets=21) <= 0:
        raise der.DerError("serialNumber: want a positive INTEGER")
    if data[inner:inner_stop] != data[outer:outer_stop]:
        raise der.DerError("signature and signatureAlgorithm differ (RFC 5280 section 4.1.1.2)")
    values = {}
    if fields[-1][0] == 0xA3:
        (_, _, first, last) = der.children(data, fields[-1][2], fields[-1][3], 1)[0]
        for _, _, begin, end in der.children(data, first, last):
            oid, *_, value = der.children(data, begin, end, 3)
            values[der.dotted(data[oid[2] : oid[3]])] = data[value[2] : value[3]]
    octets = [data[position:after] for _, position, _, after in (issuer, subject, key)]
    return data[start:stop], data[outer:outer_stop], octets[0], octets[1], octets[2], values


def _read_key(parsed: x509.Certificate) -> PublicKeyTypes | None:
    try:
        return parsed.public_key()
    except UnsupportedAlgorithm:
        return None


def _clip(text: str) -> str:
    return text if 0 < len(text) <= 100 else text[:97] + "..." if text else "(empty Name)"


def time_text(when: int) -> str:
    """Unix time for a person to read."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


# --- what does not depend on time or place ----------------------------------------------------------------------------

_PROCESSED: Final = frozenset(
    oid.dotted_string
    for oid in (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.INHIBIT_ANY_POLICY,
    )
)
"""Extensions that may be critical."""

_ANY_POLICY: Final = der.encode_oid("2.5.29.32.0")

_MAX_RSA_BITS: Final = 8192


def _extensions_fault(extensions: Iterable[x509.Extension[x509.ExtensionType]]) -> str:
    for extension in extensions:
        if extension.critical and extension.oid.dotted_string not in _PROCESSED:
            return f"critical extension {extension.oid.dotted_string} is not supported"
    return ""


def _ca_fault(found: dict[str, Any]) -> str:
    basic, usage, policy = found.get("2.5.29.19"), found.get("2.5.29.15"), found.get("2.5.29.36")
    if basic is None or not basic.ca:
        return "not a CA: want basicConstraints with cA TRUE"
    if usage is not None and not usage.key_cert_sign:
        return "its keyUsage is without keyCertSign"
    if policy is not None and policy.require_explicit_policy is not None:
        return "its policyConstraints demand an explicit policy, which is not supported"
    mappings = found.get("2.5.29.33")
    if mappings is not None and _ANY_POLICY in mappings.value:
        return "its policyMappings map anyPolicy"
    return ""


def _key_fault(key: PublicKeyTypes | None, info: bytes) -> str:
    if key is None:
        return "want a key of an algorithm and a curve that are supported, have another"
    if encryption_kind(key):  # good for DHBasedMac or KemBasedMac; no signature verifies with it
        return encryption_fault(key, info)
    return key_fault(key, info, max_rsa_bits=_MAX_RSA_BITS)


def _signature_fault(algorithm: bytes) -> str:
    try:
        signature_scheme(algorithm, "its signatureAlgorithm").parse(algorithm)
    except (BadAlg, BadDataFormat) as fault:
        return fault.text
    return ""


def verify_signature(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether `issuer`'s key verifies the signature of `certificate`, with an algorithm that is accepted."""
    parsed = certificate.parsed
    return issuer.key is not None and is_signed(
        certificate.signature_algorithm, issuer.key, parsed.signature, parsed.tbs_certificate_bytes
    )
