"""Certificates put together from fragments are, octet for octet, what cryptography's CertificateBuilder makes."""

import hashlib
import ipaddress
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc5280

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name, name_text
from cmpd.bootstrap import root_certificate
from cmpd.ca import CertificateAuthority
from cmpd.config import ProfileConfig
from cmpd.config_values import KEY_USAGES
from cmpd.env import Env
from cmpd.name_syntax import _UNSEEN, _unseen, is_host
from cmpd.profiles import Grant
from cmpd.requests import Extension
from cmpd.signing.file import FileKey
from tests.profiles.support import (
    CA_NAME,
    DAY,
    NOW,
    authority,
    counting_env,
    finish,
    issue,
    key_usage,
    private_key,
    public_key,
    purposes,
    san,
    wish,
)
from tests.support import needs_openssl

CA_KEY: ed25519.Ed25519PrivateKey = private_key("ed25519", 1)
USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
USAGES += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
RULES = ProfileConfig(
    max_validity=36_500 * DAY,
    san_allowed=("dns", "ip", "email", "uri", "dn"),
    key_usage_allowed=KEY_USAGES,
    extended_key_usage_allowed=("clientAuth", "serverAuth", "emailProtection", "1.2.3.4"),
)

# --- what may be asked for --------------------------------------------------------------------------------------------

SEEN = st.characters(codec="utf-8", exclude_categories=_UNSEEN).filter(lambda char: not _unseen(char))
TEXTS = st.text(SEEN, min_size=1, max_size=20).filter(lambda text: not text.isspace())
LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(is_host)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
EMAILS = st.builds("{}@{}".format, LABELS, HOSTS)
ATTRIBUTES = st.one_of(
    *(
        st.builds(x509.NameAttribute, st.just(oid), TEXTS)
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.SURNAME)
    ),
    st.builds(x509.NameAttribute, st.just(NameOID.COUNTRY_NAME), st.from_regex(r"[A-Z]{2}", fullmatch=True)),
    st.builds(x509.NameAttribute, st.just(NameOID.SERIAL_NUMBER), LABELS),
    st.builds(x509.NameAttribute, st.just(NameOID.DOMAIN_COMPONENT), LABELS),
    st.builds(x509.NameAttribute, st.just(NameOID.USER_ID), TEXTS),
)
RDNS = st.lists(ATTRIBUTES, min_size=1, max_size=3, unique_by=lambda attribute: attribute.oid).map(
    x509.RelativeDistinguishedName
)
NAMES = st.lists(RDNS, min_size=1, max_size=6).map(x509.Name)
SUBJECTS = st.one_of(NAMES, st.just(x509.Name([])))
GENERAL_NAMES = st.one_of(
    HOSTS.map(x509.DNSName),
    EMAILS.map(x509.RFC822Name),
    HOSTS.map(lambda host: x509.UniformResourceIdentifier(f"https://{host}/")),
    st.ip_addresses().filter(lambda address: getattr(address, "ipv4_mapped", None) is None).map(x509.IPAddress),
    NAMES.map(x509.DirectoryName),
)
SANS = st.lists(GENERAL_NAMES, min_size=1, max_size=4).map(x509.SubjectAlternativeName)
EKUS = st.lists(
    st.sampled_from(
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH, x509.ObjectIdentifier("1.2.3.4")]
    ),
    min_size=1,
    unique=True,
).map(x509.ExtendedKeyUsage)
TIMES = st.tuples(st.integers(0, 30 * 365 * DAY), st.integers(1, 60 * 365 * DAY)).map(
    lambda pair: (NOW + pair[0], NOW + sum(pair))
)
KINDS = st.sampled_from(["p256", "p521", "ed25519", "ed448", "rsa2048"])


def usage(bits: set[int]) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: number in bits for number, name in enumerate(USAGES)})


WISHES = st.fixed_dictionaries(
    {
        "subject": SUBJECTS,
        "names": st.none() | SANS,
        "usage": st.none() | st.sets(st.sampled_from([0, 1])).map(lambda bits: usage(bits | {0})),
        "purposes": st.none() | EKUS,
        "critical": st.booleans(),
        "no_ca": st.booleans(),
        "kind": KINDS,
        "validity": TIMES,
    }
).filter(lambda asked: asked["subject"].rdns or asked["names"])


def as_extension(value: x509.ExtensionType, critical: bool) -> Extension:
    return Extension(der.encode_oid(value.oid.dotted_string)[2:], critical, value.public_bytes())


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def long_lived() -> CertificateAuthority:
    """A CA whose certificate is valid for a hundred years, so that it bounds nothing here."""
    name = x509.Name.from_rfc4514_string("CN=Assembly,O=x")
    builder = (
        x509.CertificateBuilder(name, name, CA_KEY.public_key(), 1)
        .not_valid_before(moment(NOW - DAY))
        .not_valid_after(moment(NOW + 36_500 * DAY))
        .add_extension(x509.SubjectKeyIdentifier(b"any octets" * 20), False)
    )
    octets = builder.sign(CA_KEY, None).public_bytes(Encoding.DER)
    return CertificateAuthority(octets, (), FileKey(CA_KEY), counting_env())


CA = long_lived()


def asked_extensions(asked: dict[str, Any]) -> list[tuple[x509.ExtensionType, bool]]:
    """What is asked for, in the order in which it is issued, as it should be issued."""
    found: list[tuple[x509.ExtensionType, bool]] = [(asked["usage"] or usage({0}), True)]
    if asked["purposes"]:
        found.append((asked["purposes"], asked["critical"]))
    if asked["no_ca"]:
        found.append((x509.BasicConstraints(False, None), asked["critical"]))
    if asked["names"]:
        found.append((asked["names"], not asked["subject"].rdns))
    return found


def ours(asked: dict[str, Any], ca: CertificateAuthority = CA) -> tuple[Grant, bytes]:
    """What the profile and the CA make of the wish."""
    extensions = [as_extension(value, critical) for value, critical in asked_extensions(asked)]
    if asked["usage"] is None:
        del extensions[0]
    granted = wish(
        RULES,
        asked["subject"].public_bytes(),
        asked["kind"],
        tuple(extensions),
        not_before=asked["validity"][0],
        not_after=asked["validity"][1],
    )
    return granted, issue(ca, granted)


def theirs(asked: dict[str, Any], serial: int, ca: x509.Certificate) -> bytes:
    """What CertificateBuilder makes of the same values."""
    key = private_key(asked["kind"]).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bits = decode_der(spki, asn1Spec=rfc5280.SubjectPublicKeyInfo())[0]["subjectPublicKey"].asOctets()
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder(ca.subject, asked["subject"], key, serial)
        .not_valid_before(moment(asked["validity"][0]))
        .not_valid_after(moment(asked["validity"][1]))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)
        .add_extension(x509.SubjectKeyIdentifier(hashlib.sha256(bits).digest()[:20]), False)
    )
    for value, critical in asked_extensions(asked):
        builder = builder.add_extension(value, critical)
    return builder.sign(CA_KEY, None).public_bytes(Encoding.DER)


# --- the same octets --------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(WISHES)
def test_a_certificate_is_what_the_builder_of_cryptography_makes(asked: dict[str, Any]) -> None:
    granted, certificate = ours(asked)
    assert granted.changes == ()
    read = x509.load_der_x509_certificate(certificate)
    ca = x509.load_der_x509_certificate(CA.certificate)
    expected = theirs(asked, read.serial_number, ca)
    assert read.tbs_certificate_bytes == x509.load_der_x509_certificate(expected).tbs_certificate_bytes
    assert certificate == expected
    read.verify_directly_issued_by(ca)


@settings(max_examples=40)
@given(WISHES)
def test_a_certificate_is_der_for_an_independent_codec(asked: dict[str, Any]) -> None:
    granted, certificate = ours(asked)
    value, rest = decode_der(certificate, asn1Spec=rfc5280.Certificate())
    assert rest == b""
    assert encode_der(value) == certificate
    tbs = value["tbsCertificate"]
    assert int(tbs["version"]) == 2
    assert encode_der(tbs["issuer"]) == CA.name
    assert encode_der(tbs["subject"]) == granted.subject == asked["subject"].public_bytes()
    assert encode_der(tbs["subjectPublicKeyInfo"]) == public_key(asked["kind"])
    assert encode_der(tbs["signature"]) == encode_der(value["signatureAlgorithm"])
    kinds = [str(extension["extnID"]) for extension in tbs["extensions"]]
    assert len(set(kinds)) == len(kinds)
    criticals = {str(extension["extnID"]) for extension in tbs["extensions"] if extension["critical"]}
    assert criticals == {value.oid.dotted_string for value, critical in asked_extensions(asked) if critical}


def test_a_subject_that_is_unlike_ours_is_certified_as_it_was_written() -> None:
    """Another string type than ours would write, and a spelling that matches but differs."""
    subject = der.seq(
        der.tlv(der.SET, der.seq(der.encode_oid("2.5.4.3"), der.tlv(der.PRINTABLE_STRING, b"  Two  spaces ")))
    )
    certificate = x509.load_der_x509_certificate(issue(CA, wish(subject=subject)))
    assert certificate.subject.public_bytes() == subject


# --- clock, counter and serial number ---------------------------------------------------------------------------------


def test_the_same_clock_and_counter_give_the_same_certificates() -> None:
    asked = wish(subject="/CN=x", extensions=(san(("dns", "a.example")),))

    def run() -> list[bytes]:
        ca = CertificateAuthority(CA.certificate, (), FileKey(CA_KEY), counting_env())
        return [issue(ca, asked) for _ in range(5)]

    first = run()
    assert first == run()
    assert len(set(first)) == 5


@given(now=st.floats(0, 60_000_000_000), octets=st.binary(min_size=10, max_size=10))
def test_a_serial_number_is_positive_and_random_and_at_most_20_octets(now: float, octets: bytes) -> None:
    asked_for: list[int] = []

    def random(count: int) -> bytes:
        asked_for.append(count)
        return octets

    ca = CertificateAuthority(CA.certificate, (), FileKey(CA_KEY), Env(now=lambda: now, random=random))
    serial = ca.next_serial(now)
    assert asked_for == [10]  # 80 bits; 64 must be random
    assert serial.endswith(octets)
    assert len(serial) == 16
    assert int.from_bytes(serial, "big", signed=True) > 0
    assert der.encode_integer(int.from_bytes(serial, "big")) == der.tlv(der.INTEGER, serial)  # the fewest octets


@given(
    st.lists(st.integers(0, 60_000_000_000_000), min_size=2, max_size=10, unique=True),
    st.randoms(use_true_random=False),
)
def test_serial_numbers_sort_by_time(milliseconds: list[int], random: Any) -> None:
    ca = CertificateAuthority(CA.certificate, (), FileKey(CA_KEY), Env(now=lambda: NOW, random=random.randbytes))
    serials = {moment: ca.next_serial(moment / 1000 + 0.0001) for moment in milliseconds}
    assert [serials[moment] for moment in sorted(serials)] == sorted(serials.values())


# --- what is recorded -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(WISHES)
def test_an_intent_says_what_the_certificate_will_say(asked: dict[str, Any]) -> None:
    granted, _ = ours(asked)
    intent = CA.prepare(granted, transaction_id=b"t", cert_req_id=3, entity_id=7, replaces=b"old")
    certificate = x509.load_der_x509_certificate(finish(CA.sign(intent)))
    assert certificate.tbs_certificate_bytes == intent.tbs
    assert certificate.serial_number == int.from_bytes(intent.serial, "big")
    assert certificate.not_valid_before_utc == moment(intent.not_before)
    assert certificate.not_valid_after_utc == moment(intent.not_after)
    assert certificate.subject.public_bytes() == intent.subject
    assert intent.subject_text == name_text(intent.subject)
    assert intent.key_id == hashlib.sha256(public_key(asked["kind"])).digest()
    assert (intent.transaction_id, intent.cert_req_id, intent.entity_id, intent.replaces) == (b"t", 3, 7, b"old")


# --- the CA's side ----------------------------------------------------------------------------------------------------


def test_the_authority_key_identifier_is_the_cas_own_however_long() -> None:
    certificate = x509.load_der_x509_certificate(issue(CA, wish()))
    found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert found == x509.AuthorityKeyIdentifier(b"any octets" * 20, None, None)


def test_a_ca_without_a_key_identifier_gets_one_for_its_certificates() -> None:
    name = x509.Name.from_rfc4514_string("CN=x")
    builder = x509.CertificateBuilder(name, name, CA_KEY.public_key(), 1)
    builder = builder.not_valid_before(moment(NOW)).not_valid_after(moment(NOW + DAY))
    octets = builder.sign(CA_KEY, None).public_bytes(Encoding.DER)
    ca = CertificateAuthority(octets, (), FileKey(CA_KEY), counting_env())
    certificate = x509.load_der_x509_certificate(issue(ca, wish()))
    found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    raw = CA_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert found == hashlib.sha256(raw).digest()[:20]


def test_the_issuing_chain_leaves_out_the_root_and_the_anchor_is_the_uppermost() -> None:
    root = root_certificate(private_key("p256", 1), encode_name("/CN=Root"), counting_env())
    assert CA.issuing_chain == (CA.certificate,)
    assert CA.trust_anchor == CA.certificate
    ca = CertificateAuthority(issue(authority("p256"), wish()), (root,), FileKey(CA_KEY), counting_env())
    assert ca.issuing_chain == (ca.certificate,)
    assert ca.trust_anchor == root


# --- openssl ----------------------------------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("ca_kind", ["p256", "p384", "ed25519", "rsa3072"])
def test_openssl_reads_and_verifies_a_certificate(ca_kind: str, tmp_path: Path) -> None:
    ca = authority(ca_kind)
    extensions = (
        key_usage(0, 1),
        purposes("1.3.6.1.5.5.7.3.2"),
        san(("dns", "a.example"), ("ip", ipaddress.ip_address("2001:db8::1").packed), ("email", "a@b.example"),
            ("uri", "urn:a:b"), ("dn", "/O=x/CN=y")),
    )  # fmt: skip
    rules = RULES.model_copy(update={"validity": 7000 * DAY})
    certificate, issuer = tmp_path / "leaf.pem", tmp_path / "ca.pem"
    certificate.write_bytes(_pem(issue(ca, wish(rules, "/C=DE/O=Exämple/CN=device", extensions=extensions))))
    issuer.write_bytes(_pem(ca.certificate))
    shown = _openssl("x509", "-in", certificate, "-noout", "-text", "-nameopt", "RFC2253,-esc_msb,utf8")
    for wanted in (
        "Version: 3 (0x2)",
        f"Issuer: {name_text(encode_name(CA_NAME))}",
        "Subject: CN=device,O=Exämple,C=DE",
        f"Not After : {moment(NOW + 7000 * DAY):%b %e %H:%M:%S %Y} GMT",
        "X509v3 Key Usage: critical\n                Digital Signature, Non Repudiation\n",
        "TLS Web Client Authentication",
        "DNS:a.example, IP Address:2001:DB8:0:0:0:0:0:1, email:a@b.example, URI:urn:a:b, DirName:",
    ):
        assert wanted in shown
    seconds = str(NOW + DAY)
    assert "OK" in _openssl("verify", "-x509_strict", "-attime", seconds, "-CAfile", issuer, certificate)


def _pem(octets: bytes) -> bytes:
    return x509.load_der_x509_certificate(octets).public_bytes(Encoding.PEM)


def _openssl(*arguments: str | Path) -> str:
    command: Sequence[str | Path] = ("openssl", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
