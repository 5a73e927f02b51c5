"""CRLs read by others: pyasn1-alt-modules, cryptography and openssl, and what must be so in every CRL of this CA."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import useful
from pyasn1_alt_modules import rfc5280

from cmpd.ca import CertificateAuthority
from tests.support import OPENSSL, run

CRL_NUMBER, REASON, INVALIDITY, DELTA, SCOPE, FRESHEST, AKI = (f"2.5.29.{n}" for n in (20, 21, 24, 27, 28, 46, 35))


def seconds(value: Any) -> int:
    """Unix seconds of a decoded Time or GeneralizedTime."""
    return int(value.asDateTime.replace(tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class Entry:
    """An element of revokedCertificates. `reason`: number, None = there is no reasonCode."""

    at: int
    reason: int | None
    invalidity_date: int | None


@dataclass(frozen=True)
class SeenCrl:
    """A CRL as others read it. `extensions`: OID -> (critical, value)."""

    number: int
    base: int | None
    this_update: int
    next_update: int
    entries: dict[bytes, Entry]
    has_list: bool
    extensions: dict[str, tuple[bool, bytes]]
    value: Any

    @property
    def reasons(self) -> dict[bytes, int | None]:
        return {serial: entry.reason for serial, entry in self.entries.items()}


def _extensions(value: Any) -> dict[str, tuple[bool, bytes]]:
    found = {str(one["extnID"]): (bool(one["critical"]), bytes(one["extnValue"])) for one in value}
    assert len(found) == len(value)
    return found


def _time(choice: Any) -> int:
    assert choice.getName() == ("utcTime" if seconds(choice.getComponent()) < 2_524_608_000 else "generalTime")
    return seconds(choice.getComponent())


def _entry(value: Any) -> Entry:
    extensions = {}
    if value["crlEntryExtensions"].isValue:
        assert len(value["crlEntryExtensions"]) > 0
        extensions = _extensions(value["crlEntryExtensions"])
    assert not any(critical for critical, _ in extensions.values())
    assert set(extensions) <= {REASON, INVALIDITY}
    reason = invalidity = None
    if REASON in extensions:
        reason = int(decode(extensions[REASON][1], asn1Spec=rfc5280.CRLReason())[0])
        assert reason != 0
    if INVALIDITY in extensions:
        invalidity = seconds(decode(extensions[INVALIDITY][1], asn1Spec=useful.GeneralizedTime())[0])
    return Entry(_time(value["revocationDate"]), reason, invalidity)


def read_crl(octets: bytes, ca: CertificateAuthority, *, has_scope: bool = True) -> SeenCrl:
    """Decode a CRL by two other codecs, check its signature and what every CRL of this CA has."""
    value, rest = decode(octets, asn1Spec=rfc5280.CertificateList())
    assert not rest
    assert encode(value) == octets
    tbs = value["tbsCertList"]
    assert int(tbs["version"]) == 1
    assert encode(tbs["issuer"]) == ca.name
    assert encode(tbs["signature"]) == encode(value["signatureAlgorithm"]) == ca.algorithm
    extensions = _extensions(tbs["crlExtensions"])
    assert extensions.get(SCOPE) == ((True, bytes.fromhex("30038101ff")) if has_scope else None)
    assert not extensions[AKI][0]
    assert not extensions[CRL_NUMBER][0]
    entries = {}
    for one in tbs["revokedCertificates"] if tbs["revokedCertificates"].isValue else ():
        serial = int(one["userCertificate"])
        entries[serial.to_bytes(serial.bit_length() // 8 + 1, "big")] = _entry(one)
    seen = SeenCrl(
        number=int(decode(extensions[CRL_NUMBER][1])[0]),
        base=int(decode(extensions[DELTA][1])[0]) if DELTA in extensions else None,
        this_update=_time(tbs["thisUpdate"]),
        next_update=_time(tbs["nextUpdate"]),
        entries=entries,
        has_list=tbs["revokedCertificates"].isValue,
        extensions=extensions,
        value=value,
    )
    assert seen.has_list == bool(entries)
    if seen.base is None:
        assert 8 not in seen.reasons.values()
    else:
        assert extensions[DELTA][0]
        assert FRESHEST not in extensions
        assert seen.base < seen.number or (seen.base == seen.number and not seen.has_list)
    _agree(seen, octets, ca)
    return seen


def _agree(seen: SeenCrl, octets: bytes, ca: CertificateAuthority) -> None:
    other = x509.load_der_x509_crl(octets)
    key: Any = load_der_public_key(ca.public_key)
    assert other.is_signature_valid(key)
    assert len(other) == len(seen.entries)
    assert other.next_update_utc == datetime.fromtimestamp(seen.next_update, UTC)
    identifier = x509.load_der_x509_certificate(ca.certificate).extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    )
    aki = other.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert aki.key_identifier == identifier.value.digest
    assert other.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == seen.number
    for one in other:
        list(one.extensions)  # all can be parsed


def combined(full: SeenCrl, delta: SeenCrl) -> dict[bytes, int | None]:
    """The reasons of a full CRL with a delta CRL over it (RFC 5280 section 5.2.4)."""
    assert delta.base is not None
    assert delta.base <= full.number < delta.number
    assert full.extensions.get(SCOPE) == delta.extensions.get(SCOPE)
    reasons = {**full.reasons, **delta.reasons}
    return {serial: reason for serial, reason in reasons.items() if reason != 8}


def openssl_verifies(octets: bytes, ca: CertificateAuthority, directory: Path) -> bool:
    """What `openssl crl -verify` says of the signature."""
    assert OPENSSL is not None
    anchor, file = directory / "anchor.pem", directory / "checked.crl"
    anchor.write_bytes(x509.load_der_x509_certificate(ca.certificate).public_bytes(Encoding.PEM))
    file.write_bytes(octets)
    done = run([OPENSSL, "crl", "-inform", "DER", "-in", file, "-CAfile", anchor, "-noout", "-verify"], ok=False)
    return done.returncode == 0 and "verify OK" in done.stderr + done.stdout
