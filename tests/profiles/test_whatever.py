"""Whatever a CertTemplate asks for, the certificate is one of its profile; read back by cryptography."""

import ipaddress
import re
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import event, given, settings
from hypothesis import strategies as st

from cmpd.asn1.names import encode_name
from cmpd.config import ProfileConfig
from cmpd.errors import CmpError
from cmpd.requests import Extension
from tests.profiles.support import (
    DAY,
    NOW,
    authority,
    basic_constraints,
    extension,
    issue,
    key_usage,
    policies,
    purposes,
    san,
    wish,
)

DEVICE = ProfileConfig(
    keys=("p256", "ed25519"),
    validity=30 * DAY,
    max_validity=90 * DAY,
    min_validity=DAY,
    subject_fixed={"C": "DE", "O": "Example"},
    subject_allowed=("C", "O", "OU", "CN"),
    subject_required=("CN",),
    subject_patterns={"CN": "pump-[0-9]{1,3}"},
    subject_order=("C", "O", "OU", "CN"),
    san_allowed=("dns", "ip"),
    san_patterns={"dns": r"[a-z]+\.example\.com"},
    san_networks=("192.0.2.0/24",),
    key_usage_allowed=("digitalSignature", "keyAgreement"),
    key_usage_forced=("digitalSignature",),
    extended_key_usage_allowed=("clientAuth", "1.2.3"),
    extended_key_usage_forced=("clientAuth",),
    extended_key_usage_forbidden=("cmcRA",),
    policies={"1.2.3.4": ""},
)
SUB_CA = ProfileConfig(
    ca=True,
    path_length=2,
    key_usage=("keyCertSign", "cRLSign"),
    key_usage_allowed=("keyCertSign", "cRLSign", "digitalSignature"),
    extended_key_usage_allowed=(),
)

VALUES = {
    "C": ["DE", "FR"],
    "O": ["Example", "example", "Other"],
    "CN": ["pump-1", "pump-22", "pump-x"],
    "L": ["x"],
    "OU": ["y"],
}
ATTRIBUTES = st.sampled_from(
    [f"/{name}={text}" for name, texts in (VALUES | {"L": ["x"], "OU": ["y"]}).items() for text in texts]
)
SUBJECTS = st.one_of(st.lists(ATTRIBUTES, max_size=4), st.just(["/O=Example", "/CN=pump-3"])).map("".join)
SAN_NAMES = st.sampled_from(
    [
        *(("dns", text) for text in ("a.example.com", "A.example.COM", "a.example.org", "*.example.com")),
        *(("ip", octets) for octets in (b"\xc0\0\2\5", b"\xc0\0\3\5")),
        ("email", "a@example.com"),
        ("dn", "/CN=pump-1"),
    ]
)
OIDS = st.sampled_from([f"1.3.6.1.5.5.7.3.{number}" for number in (1, 2, 9, 27, 28, 32)] + ["1.2.3", "2.5.29.37.0"])
FLAGS = st.booleans()
WISHES: list[st.SearchStrategy[Extension]] = [
    st.builds(lambda names, flag: san(*names, critical=flag), st.lists(SAN_NAMES, min_size=1, max_size=3), FLAGS),
    st.builds(lambda bits, flag: key_usage(*bits, critical=flag), st.sets(st.integers(0, 8)), FLAGS),
    st.builds(lambda oids, flag: purposes(*oids, critical=flag), st.lists(OIDS, min_size=1, max_size=4), FLAGS),
    st.builds(lambda n, flag: basic_constraints(n, critical=flag), st.one_of(st.none(), st.integers(0, 5)), FLAGS),
    st.builds(lambda flag: policies("1.2.3.4", critical=flag), FLAGS),
    st.builds(lambda flag: policies("1.2.3.5", critical=flag), FLAGS),
    st.builds(lambda oid, flag: extension(oid, b"\x30\0", critical=flag),
              st.sampled_from(["2.5.29.19", "2.5.29.30", "2.5.29.31", "1.3.6.1.5.5.7.1.1", "1.2.3"]), FLAGS),
]  # fmt: skip
TIMES = st.one_of(st.none(), st.sampled_from([0, NOW - DAY, NOW, NOW + DAY, NOW + 89 * DAY, NOW + 400 * DAY]))
TEMPLATES = st.fixed_dictionaries(
    {
        "subject": SUBJECTS,
        "key": st.sampled_from(["p256", "ed25519", "p384", "rsa2048"]),
        "extensions": st.lists(st.one_of(WISHES), max_size=4, unique_by=lambda one: one.oid).map(tuple),
        "not_before": TIMES,
        "not_after": TIMES,
        "version": st.sampled_from([None, 2, 0]),
        "forbidden": st.sampled_from([(), (), (), ("serialNumber",), ("issuerUID",)]),
    }
)


def issued(rules: ProfileConfig, template: dict[str, Any]) -> x509.Certificate | None:
    try:
        granted = wish(rules, **template)
        made = x509.load_der_x509_certificate(issue(authority("p256"), granted))
    except CmpError:
        event("refused")
        return None
    event("granted")
    asked = encode_name(template["subject"])
    if granted.subject != asked:
        assert any(change.startswith("subject with ") for change in granted.changes)
    return made


def value(certificate: x509.Certificate, kind: type[Any]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def usages(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert found.critical
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return {name for name in (*names, "key_cert_sign", "crl_sign") if getattr(found.value, name)}


@settings(max_examples=300)
@given(TEMPLATES)
def test_a_certificate_never_leaves_the_profile_of_a_device(template: dict[str, Any]) -> None:
    made = issued(DEVICE, template)
    if made is None:
        return
    assert template["key"] in DEVICE.keys
    assert template["version"] != 0
    assert not template["forbidden"]
    texts = [(one.oid, str(one.value)) for one in made.subject]
    assert {text for oid, text in texts if oid == NameOID.COUNTRY_NAME} == {"DE"}
    assert {text.casefold() for oid, text in texts if oid == NameOID.ORGANIZATION_NAME} == {"example"}
    names = [text for oid, text in texts if oid == NameOID.COMMON_NAME]
    assert names
    assert all(re.fullmatch("pump-[0-9]{1,3}", text) for text in names)
    order = [NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME]
    places = [order.index(oid) for oid, _ in texts]
    assert places == sorted(places)
    for name in value(made, x509.SubjectAlternativeName) or ():
        if isinstance(name, x509.IPAddress):
            assert name.value in ipaddress.ip_network("192.0.2.0/24")
        else:
            assert isinstance(name, x509.DNSName)
            assert re.fullmatch(r"[a-z]+\.example\.com", name.value.lower())
    assert {"digital_signature"} <= usages(made) <= {"digital_signature", "key_agreement"}
    oids = {oid.dotted_string for oid in value(made, x509.ExtendedKeyUsage)}
    assert {"1.3.6.1.5.5.7.3.2"} <= oids <= {"1.3.6.1.5.5.7.3.2", "1.2.3"}
    constraints = value(made, x509.BasicConstraints)
    assert constraints is None or not constraints.ca
    assert [one.policy_identifier.dotted_string for one in value(made, x509.CertificatePolicies)] == ["1.2.3.4"]
    first, last = made.not_valid_before_utc.timestamp(), made.not_valid_after_utc.timestamp()
    assert NOW - DEVICE.backdate <= first < last <= NOW + 90 * DAY
    assert last - first >= DAY
    _has_nothing_else(made)


@settings(max_examples=200)
@given(TEMPLATES)
def test_a_certificate_never_leaves_the_profile_of_a_ca(template: dict[str, Any]) -> None:
    made = issued(SUB_CA, template)
    if made is None:
        return
    assert template["subject"]
    found = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert found.critical
    assert found.value.ca
    assert 0 <= found.value.path_length <= 2
    assert {"key_cert_sign"} <= usages(made) <= {"key_cert_sign", "crl_sign", "digital_signature"}
    assert value(made, x509.ExtendedKeyUsage) is None
    assert value(made, x509.CertificatePolicies) is None
    _has_nothing_else(made)


def _has_nothing_else(made: x509.Certificate) -> None:
    known = (x509.AuthorityKeyIdentifier, x509.SubjectKeyIdentifier, x509.KeyUsage, x509.ExtendedKeyUsage)
    known += (x509.BasicConstraints, x509.CertificatePolicies, x509.SubjectAlternativeName)
    assert all(isinstance(one.value, known) for one in made.extensions)


@pytest.mark.parametrize("rules", [DEVICE, SUB_CA])
def test_the_profiles_that_are_never_left_grant_something(rules: ProfileConfig) -> None:
    assert wish(rules, "/C=DE/O=Example/CN=pump-1").subject_text == "CN=pump-1,O=Example,C=DE"
