"""The rules of a profile beside kinds of keys and names: patterns, fixed values, forced and forbidden usages, CAs,
policies, places; each granted, granted with a text that names the change, and refused.
"""

import ipaddress
import re
from typing import Any

import pytest
from cryptography import x509

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name, name_text
from cmpd.config import ProfileConfig
from cmpd.errors import BadCertTemplate, CmpError
from cmpd.outline import outline
from cmpd.profiles import Issuer, Profile, load_public_key
from cmpd.requests import Extension, Template
from tests.profiles import test_profiles
from tests.profiles.support import (
    DAY,
    NOW,
    authority,
    basic_constraints,
    extension,
    issue,
    key_usage,
    policies,
    public_key,
    purposes,
    san,
    wish,
)
from tests.profiles.test_profiles import Grants, Refusal, eku, no, usage, yes

DNS, SERVER, CLIENT, CMC_RA, CMC_CA, KGA = (
    ("dns", "device.example"),
    *(f"1.3.6.1.5.5.7.3.{number}" for number in (1, 2, 28, 27, 32)),
)
PUMP: dict[str, Any] = {"subject_fixed": {"C": "DE", "O": "Exämple"}, "subject_patterns": {"CN": "pump-[0-9]{1,6}"}}
IN_ORDER = {"subject_order": ("C", "O", "OU", "CN")}
HOSTS = {"san_patterns": {"dns": r"[a-z0-9-]+\.example\.com", "email": ".+@example[.]com", "uri": "urn:x:.*"}}
NETS = {"san_networks": ("192.0.2.0/24", "2001:db8::/32")}
CA = {
    "ca": True,
    "path_length": 1,
    "key_usage": ("keyCertSign", "cRLSign"),
    "key_usage_allowed": ("keyCertSign", "cRLSign", "digitalSignature"),
    "extended_key_usage_allowed": (),
}
POLICY = {"policies": {"1.2.3.4": "", "1.2.3.5": "http://cps.example.com"}}
LIMITS: dict[str, Any] = {
    "permitted_names": {"dns": ("example.com",), "email": (".example.com", "a@b.de"), "dn": ("O=Exämple,C=DE",)},
    "excluded_names": {"dns": ("x.example.com",), "ip": ("0.0.0.0/0", "2001:db8::/32"), "uri": (".example.org",)},
}
LIMITED = x509.NameConstraints(
    [
        x509.DNSName("example.com"),
        x509.RFC822Name(".example.com"),
        x509.RFC822Name("a@b.de"),
        x509.DirectoryName(x509.Name.from_rfc4514_string("O=Exämple,C=DE")),
    ],
    [
        x509.DNSName("x.example.com"),
        x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
        x509.IPAddress(ipaddress.ip_network("2001:db8::/32")),
        x509.UniformResourceIdentifier(".example.org"),
    ],
)


def own_constraints(*, critical: bool) -> Extension:
    return extension("2.5.29.30", LIMITED.public_bytes(), critical=critical)


RA = {"extended_key_usage": ("cmcRA",), "extended_key_usage_allowed": ("cmcRA", "clientAuth")}

REFUSALS = [
    # subject
    no(PUMP, "subject.CN: want one that matches pump-[0-9]{1,6}, have pump-x", subject="/CN=pump-x"),
    no(PUMP, "subject.CN: want one that matches", subject="/CN=pump-1/CN=other"),
    no(PUMP, "subject.CN: want one that matches pump-[0-9]{1,6}, have pump-1234567", subject="/CN=pump-1234567"),
    no(PUMP, "subject.O: want Exämple, have Other", subject="/O=Other/CN=pump-1"),
    no(PUMP, "subject.O: want Exämple, have x", subject="/O=Exämple/O=x/CN=pump-1"),
    no(PUMP, "subject: empty, and no subjectAltName names the end entity", subject=""),
    no(IN_ORDER, "subject: want the attributes in the order C, O, OU, CN, have another", subject="/CN=x/O=y"),
    no(IN_ORDER, "subject: want the attributes in the order", subject="/O=y/C=DE/CN=x"),
    # subjectAltName
    no(HOSTS, r"subjectAltName.dns: want one that matches [a-z0-9-]+\.example\.com, have x.example.org",
       extensions=(san(("dns", "x.example.org")),)),
    no(HOSTS, "subjectAltName.dns: want", extensions=(san(("dns", "a.example.com"), ("dns", "*.example.com")),)),
    no(HOSTS, "subjectAltName.email: want one that matches", extensions=(san(("email", "a@example.org")),)),
    no(HOSTS, "subjectAltName.email: want", subject="/CN=x/emailAddress=a@example.org"),
    no(HOSTS, "subjectAltName.uri: want one that matches urn:x:.*, have urn:y:", extensions=(san(("uri", "urn:y:1")),)),
    no({"san_allowed": ("dn",), "san_patterns": {"dn": "CN=a,O=.*"}}, "subjectAltName.dn: want one that matches",
       extensions=(san(("dn", "/O=x/CN=b")),)),
    no(NETS, "subjectAltName.ip: want one in 192.0.2.0/24, 2001:db8::/32; have 192.0.3.1",
       extensions=(san(("ip", b"\xc0\0\3\1")),)),
    no(NETS, "have 2001:db9::", extensions=(san(("ip", bytes.fromhex("20010db9") + bytes(12))),)),
    no({"san_for_empty_subject": ("uri", "email")}, "subjectAltName: want uri or email where the subject is empty",
       subject="", extensions=(san(DNS),)),
    # usages
    no({"key_usage_forbidden": ("dataEncipherment",)}, "keyUsage: want none of dataEncipherment, have dataEncipherment",
       extensions=(key_usage(0, 3),)),
    no({"key_usage_forced": ("keyEncipherment",)}, "CertTemplate.publicKey: want a key that can do keyEncipherment, w"),
    no({"key_usage_forced": ("keyAgreement",)}, "have ed25519", key="ed25519", extensions=(key_usage(0),)),
    no({"extended_key_usage_forbidden": ("cmcRA", "1.2.3")}, "extKeyUsage: want none of cmcRA, 1.2.3, have cmcRA",
       extensions=(purposes(CLIENT, CMC_RA),)),
    no({"extended_key_usage_forbidden": ("1.2.3",)}, "have 1.2.3", extensions=(purposes(CLIENT, "1.2.3"),)),
    *(no({}, "extKeyUsage: want some of clientAuth, serverAuth, emailProtection, have " + oid,
         extensions=(purposes(oid),)) for oid in (CMC_RA, CMC_CA, KGA, "2.5.29.37.0")),
    # CAs
    no(CA, "subject: want the name of a CA, have the NULL-DN (RFC 5280 section 4.1.2.6)", subject="",
       extensions=(san(DNS),)),
    no(CA, "basicConstraints: want cA TRUE; this profile is for CAs", extensions=(extension("2.5.29.19", b"\x30\0"),)),
    no(CA, "basicConstraints.pathLenConstraint: want 0 or more, have less", extensions=(basic_constraints(-1),)),
    no(CA, "pathLenConstraint: INTEGER of more than 32 octets", extensions=(basic_constraints(1 << 300),)),
    no({**CA, "key_usage": ("keyCertSign", "keyAgreement"), "key_usage_allowed": ("keyCertSign", "keyAgreement")},
       "CertTemplate.publicKey: want a key that can do keyCertSign", key="x25519"),
    no(CA, "extension 2.5.29.30: critical, and not known to this CA", extensions=(own_constraints(critical=True),)),
    no({}, "extension 2.5.29.30: critical", extensions=(own_constraints(critical=True),)),
    no({}, "basicConstraints: want cA FALSE or none; this profile", extensions=(basic_constraints(),)),
    no({}, "keyUsage: want some of", extensions=(key_usage(5, 6),)),
    no(CA, "extKeyUsage: want some of nothing", extensions=(purposes(CLIENT),)),
    # policies, other extensions, validity
    no(POLICY, "certificatePolicies: want 1.2.3.4, 1.2.3.5; have 1.2.3.6, critical",
       extensions=(policies("1.2.3.4", "1.2.3.6", critical=True),)),
    no({}, "certificatePolicies: want none; have 1.2.3", extensions=(policies("1.2.3", critical=True),)),
    *(no(POLICY, "certificatePolicies: ", extensions=(extension("2.5.29.32", wrong),))
      for wrong in (b"", der.seq(), der.seq(der.NULL_TLV), der.seq() + b"\0", der.seq(der.seq(der.NULL_TLV)))),
    no({"min_validity": 2 * DAY, "max_validity": 400 * DAY}, "validity: want at least 2d from beginning to end",
       not_before=NOW, not_after=NOW + 2 * DAY - 1),
    *(no(rules, "CertTemplate: must not have serialNumber (RFC 4211 section 5)", forbidden=("serialNumber",))
      for rules in ({}, {"serial_number": "given"})),
]  # fmt: skip
FAILURES = {"certificatePolicies: want none": "unacceptedPolicy", "certificatePolicies: want 1.2.3.4, 1.2.3.5":
            "unacceptedPolicy"}  # fmt: skip

GRANTS = [
    yes(PUMP, subject="/C=DE/O=Exämple/CN=pump-7"),
    yes({**PUMP, "subject_required": ("O", "CN")}, "subject with C=DE, O=Exämple", subject="/CN=pump-7"),
    yes(PUMP, "subject with C=DE", subject="/O=EXÄMPLE/CN=pump-7"),
    yes(IN_ORDER, subject="/DC=x/C=DE/O=y/DC=z/OU=a/OU=b/CN=x"),
    yes({**PUMP, **IN_ORDER}, "subject with C=DE, O=Exämple", subject="/OU=a/CN=pump-1"),
    yes(HOSTS, extensions=(san(("dns", "a.example.com"), ("email", "x@example.com"), ("uri", "urn:x:1")),)),
    yes(HOSTS, extensions=(san(("dns", "A.EXAMPLE.com"), ("ip", bytes(4))),)),
    yes(NETS, extensions=(san(("ip", b"\xc0\0\2\1"), ("ip", bytes.fromhex("20010db8") + bytes(12)), DNS),)),
    yes({"san_allowed": ("dn",), "san_patterns": {"dn": "CN=a,O=.*"}}, extensions=(san(("dn", "/O=x/CN=a")),)),
    yes({"san_for_empty_subject": ("uri", "email")}, "subjectAltName is critical", subject="",
        extensions=(san(DNS, ("uri", "urn:x")),)),
    yes({"san_for_empty_subject": ("uri",)}, extensions=(san(DNS),)),
    yes({"key_usage_forbidden": ("dataEncipherment",)}, "keyUsage without keyCertSign", extensions=(key_usage(0, 5),)),
    yes({"key_usage_forced": ("digitalSignature",)}, "keyUsage with digitalSignature", extensions=(key_usage(1),),
        holds=usage("digital_signature", "content_commitment")),
    yes({"key_usage_forced": ("nonRepudiation",)}, holds=usage("digital_signature", "content_commitment")),
    yes({"extended_key_usage_forced": ("clientAuth",)}, holds=eku(CLIENT)),
    yes({"extended_key_usage_forced": ("clientAuth",)}, extensions=(purposes(CLIENT, SERVER),),
        holds=eku(CLIENT, SERVER)),
    yes({"extended_key_usage_forced": ("clientAuth",)}, "extKeyUsage with clientAuth", extensions=(purposes(SERVER),),
        holds=eku(SERVER, CLIENT)),
    yes({"extended_key_usage": ("clientAuth",), "extended_key_usage_forced": ("clientAuth",)}, holds=eku(CLIENT)),
    yes(RA, holds=eku(CMC_RA)),
    yes(RA, extensions=(purposes(CMC_RA, CLIENT),), holds=eku(CMC_RA, CLIENT)),
    yes({"extended_key_usage_forbidden": ("cmcCA",)}, extensions=(purposes(CLIENT),), holds=eku(CLIENT)),
    yes(CA, holds=x509.BasicConstraints(True, 1), critical=True),
    yes(CA, holds=usage("key_cert_sign", "crl_sign"), critical=True),
    yes(CA, extensions=(basic_constraints(0), key_usage(5)), holds=x509.BasicConstraints(True, 0), critical=True),
    yes(CA, "keyUsage with keyCertSign", extensions=(key_usage(0),), holds=usage("digital_signature", "key_cert_sign")),
    yes(CA, "basicConstraints with a path length of 1", "basicConstraints is critical",
        extensions=(basic_constraints(7, critical=False),), holds=x509.BasicConstraints(True, 1)),
    yes(CA, "basicConstraints with a path length of 1", extensions=(basic_constraints(),),
        holds=x509.BasicConstraints(True, 1), critical=True),
    yes(CA, holds=usage("key_cert_sign", "crl_sign"), key="rsa2048"),
    yes({**CA, "key_usage": ("keyCertSign", "keyAgreement"), "key_usage_allowed": ("keyCertSign", "keyAgreement")},
        key="ed25519", holds=usage("key_cert_sign")),
    yes({**CA, **LIMITS}, holds=LIMITED, critical=True),
    yes({**CA, **LIMITS}, extensions=(own_constraints(critical=True),), holds=LIMITED),
    yes({**CA, **LIMITS}, "nameConstraints are the profile's", extensions=(own_constraints(critical=False),),
        holds=LIMITED, critical=True),
    yes({**CA, **LIMITS}, "nameConstraints are the profile's", holds=LIMITED,
        extensions=(extension("2.5.29.30", der.seq(der.tlv(0xA0, der.seq(der.tlv(0x82, b"b")))), critical=True),)),
    yes(CA, "without extension 2.5.29.30", extensions=(own_constraints(critical=False),)),
    yes({**POLICY, "policy_notices": {"1.2.3.5": "Für Prüfungen", "1.2.3.4": "x"}}, holds=x509.CertificatePolicies([
        x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), [x509.UserNotice(None, "x")]),
        x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.5"), ["http://cps.example.com",
                                                                  x509.UserNotice(None, "Für Prüfungen")])])),
    yes(POLICY, critical=False, holds=x509.CertificatePolicies([
        x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None),
        x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.5"), ["http://cps.example.com"])])),
    yes(POLICY, extensions=(policies("1.2.3.5", "1.2.3.4"),)),
    yes(POLICY, "certificatePolicies are the profile's", extensions=(policies("1.2.3.4"),)),
    yes(POLICY, "certificatePolicies are the profile's", extensions=(policies("1.2.3.4", critical=True),)),
    yes(POLICY, "certificatePolicies are the profile's", extensions=(policies("1.2.3.6"),)),
    yes({}, "without extension 2.5.29.32", extensions=(policies("1.2.3.4"),)),
    yes({"min_validity": 2 * DAY, "max_validity": 400 * DAY}, not_before=NOW, not_after=NOW + 2 * DAY),
]  # fmt: skip


@pytest.mark.parametrize("row", REFUSALS, ids=[f"{row.text[:60]} {i}" for i, row in enumerate(REFUSALS)])
def test_a_rule_refuses_and_tells_what_it_wants(row: Refusal) -> None:
    with pytest.raises(CmpError, match=re.escape(row.text)) as caught:
        wish(ProfileConfig(**row.rules), **row.options)
    assert len(caught.value.text) < 300
    wanted = next((name for begin, name in FAILURES.items() if row.text.startswith(begin)), "badCertTemplate")
    assert caught.value.failure == wanted


def test_a_critical_extension_that_is_not_known_is_refused_as_such() -> None:
    with pytest.raises(CmpError, match=r"extension 1\.2\.3: critical, and not known") as caught:
        wish(extensions=(extension("1.2.3", b"", critical=True),))
    assert caught.value.failure == "badCertTemplate"


@pytest.mark.parametrize("row", GRANTS, ids=[f"{'; '.join(row.changes)} {i}" for i, row in enumerate(GRANTS)])
def test_a_rule_grants_and_says_what_it_changes(row: Grants) -> None:
    granted = wish(ProfileConfig(**row.rules), **row.options)
    assert granted.changes == row.changes
    certificate = x509.load_der_x509_certificate(issue(authority("p256"), granted))
    assert certificate.subject.public_bytes() == granted.subject
    if row.holds is not None:
        found = certificate.extensions.get_extension_for_oid(row.holds.oid)
        assert found.value == row.holds
        assert row.critical in (None, found.critical)


def test_every_key_of_a_profile_has_a_row() -> None:
    rows = (*REFUSALS, *GRANTS, *test_profiles.REFUSALS, *test_profiles.GRANTS)
    used = {name for row in rows for name in row.rules}
    elsewhere = {"approval", "await_confirmation"}  # they change nothing in a certificate
    elsewhere |= {"unique_subject", "key_sharing"}  # test_claims_of_certificates_are_as_the_profile_says
    elsewhere |= {"crl_urls", "delta_crl_urls", "ocsp_urls", "issuer_urls"}  # test_places_of_a_profile...
    assert used | elsewhere | {"validity", "backdate", "allow_key_reuse"} == set(ProfileConfig.model_fields)


@pytest.mark.parametrize(
    ("rules", "asked", "made"),
    [
        (PUMP, "/CN=pump-1", "/C=DE/O=Exämple/CN=pump-1"),
        (PUMP, "/O=Exämple/CN=pump-1", "/C=DE/O=Exämple/CN=pump-1"),
        (PUMP | IN_ORDER, "/OU=a/CN=pump-1", "/C=DE/O=Exämple/OU=a/CN=pump-1"),
        (PUMP | IN_ORDER, "/C=DE/CN=pump-1", "/C=DE/O=Exämple/CN=pump-1"),
        (PUMP | IN_ORDER, "/L=x/CN=pump-1", "/C=DE/O=Exämple/L=x/CN=pump-1"),
        ({"subject_fixed": {"OU": "b"}, "subject_order": ("C", "OU", "CN")}, "/C=DE/CN=x", "/C=DE/OU=b/CN=x"),
        ({"subject_fixed": {"CN": "last"}, "subject_order": ("O", "CN")}, "/O=a/O=b", "/O=a/O=b/CN=last"),
    ],
)
def test_a_fixed_attribute_that_is_missing_is_put_where_it_belongs(rules: Any, asked: str, made: str) -> None:
    granted = wish(ProfileConfig(**rules), asked)
    assert granted.subject == encode_name(made)
    assert granted.subject_text == name_text(encode_name(made))
    assert len(granted.changes) == 1
    assert wish(ProfileConfig(**rules), made).changes == ()


def test_an_empty_subject_gets_the_fixed_attributes_and_its_alternative_name_is_not_critical() -> None:
    granted = wish(ProfileConfig(subject_fixed={"O": "x"}), "", extensions=(san(DNS),))
    assert granted.subject == encode_name("/O=x")
    [found] = [one for one in outline(issue(authority("p256"), granted)).extensions if one.oid == b"\x55\x1d\x11"]
    assert not found.critical


def test_a_certificate_that_is_updated_gets_no_other_subject() -> None:
    profile = Profile("test", ProfileConfig(subject_fixed={"O": "x"}))
    info, name = public_key("p256"), encode_name("/CN=y")
    with pytest.raises(
        BadCertTemplate, match="kur: want a subject with O=x, which the certificate to be updated lacks"
    ):
        profile.grant(
            Template(subject=name, public_key=info), load_public_key(info), name, (), NOW, issuer=Issuer(), held_key=b""
        )


@pytest.mark.parametrize(
    ("rules", "claims"),
    [
        ({}, []),
        ({"unique_subject": True}, [("subject", True)]),
        ({"key_sharing": "entity"}, [("key", False)]),
        ({"key_sharing": "none", "unique_subject": True}, [("subject", True), ("key", True)]),
    ],
)
def test_claims_of_certificates_are_as_the_profile_says(rules: dict[str, Any], claims: list[tuple[str, bool]]) -> None:
    granted = wish(ProfileConfig(**rules))
    assert [(claim.what, claim.alone) for claim in granted.claims] == claims
    assert {len(claim.digest) for claim in granted.claims} <= {32}


def test_subjects_that_match_are_one_and_those_of_empty_subjects_are_told_apart_by_their_names() -> None:
    rules = ProfileConfig(unique_subject=True)

    def claim(subject: str, *names: tuple[str, bytes | str]) -> bytes:
        return wish(rules, subject, extensions=(san(*names),) if names else ()).claims[0].digest

    assert claim("/O=x/CN=A  b") == claim("/O=X/CN=a B")
    assert claim("/CN=a", DNS) == claim("/CN=a")
    others = [
        claim("/CN=a"),
        claim("/CN=b"),
        claim("/O=a"),
        claim("", DNS),
        claim("", ("dns", "b")),
        claim("/CN=a/O=x"),
    ]
    assert len(set(others)) == len(others)
    assert claim("", DNS, ("dns", "b")) == claim("", ("dns", "b"), DNS)
