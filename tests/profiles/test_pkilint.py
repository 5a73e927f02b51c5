"""What cmpd issues, judged by pkilint: nothing at NOTICE or above, for every kind of key, name and extension.

pkilint is stricter than RFC 5280 in a few places; those are said in the row of the case (`but`), and only they.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from hypothesis import event, given, settings
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.asn1.names import ATTRIBUTE_TYPES, encode_name
from cmpd.bootstrap import cmp_certificate
from cmpd.config import ProfileConfig
from cmpd.config_values import KEY_USAGES
from cmpd.errors import BadCertTemplate
from cmpd.profiles.base import KEY_USAGE_BITS
from tests.profiles.support import (
    DAY,
    NOW,
    authority,
    basic_constraints,
    counting_env,
    extension,
    issue,
    key_usage,
    lint,
    lint_chain,
    private_key,
    purposes,
    san,
    wish,
)

ML_DSA = ["mldsa44", "mldsa65", "mldsa87"]
BRAINPOOL = ["brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"]
KEYS = ["p256", "p384", "p521", "ed25519", "ed448", "rsa2048", *BRAINPOOL, *ML_DSA]
AGREE, KEM = ["x25519", "x448"], ["mlkem768", "mlkem1024"]
CA_KEYS = ["p256", "p384", "ed25519", "rsa3072", "brainpoolP384r1", "mldsa65"]

SERVER, CLIENT, EMAIL, TIME = (f"1.3.6.1.5.5.7.3.{number}" for number in (1, 2, 4, 8))
ANY_SAN = ProfileConfig(san_allowed=("dns", "ip", "email", "uri", "dn"))
FREE = ProfileConfig(max_validity=36_500 * DAY)
ALL_USAGES = ProfileConfig(key_usage_allowed=KEY_USAGES)

SANS: dict[str, tuple[str, bytes | str]] = {
    "dns": ("dns", "device.example"),
    "ip": ("ip", b"\xc0\x00\x02\x01"),
    "ipv6": ("ip", bytes.fromhex("20010db8000000000000000000000001")),
    "email": ("email", "device@example.com"),
    "uri": ("uri", "https://device.example/x?y=z#t"),
    "dn": ("dn", "/C=DE/O=x/CN=other"),
}


@dataclass(frozen=True)
class Case:
    """A wish; `but`: what pkilint finds although RFC 5280 allows it."""

    id: str
    rules: ProfileConfig = field(default_factory=ProfileConfig)
    options: dict[str, Any] = field(default_factory=dict)
    but: frozenset[str] = frozenset()


def case(name: str, rules: ProfileConfig | None = None, *, but: str = "", **options: Any) -> Case:
    return Case(name, rules or ProfileConfig(), options, frozenset({but} if but else ()))


MANY_NAMES = "/DC=com/DC=example/C=DE/ST=Hessen/L=Köln/O=Exämple/OU=a/OU=b/serialNumber=12 (3)/CN=Gerät+UID=x"

CASES = [
    *(case(f"key {kind}", key=kind) for kind in KEYS),
    *(case(f"key {kind}", ProfileConfig(keys=(kind,), key_usage=("keyAgreement",)), key=kind) for kind in AGREE),
    *(case(f"key {kind}", ProfileConfig(keys=(kind,), key_usage=("keyEncipherment",)), key=kind) for kind in KEM),
    *(
        case(
            f"all of {kind}",
            ALL_USAGES,
            subject="/C=DE/CN=y",
            key=kind,
            extensions=(key_usage(*range(8)), san(SANS["dns"])),
        )
        for kind in (*AGREE, *KEM)
    ),
    *(
        case(f"critical san {kind}", ANY_SAN, subject="", extensions=(san(name, critical=True),))
        for kind, name in SANS.items()
    ),
    *(case(f"usage of {kind}", ALL_USAGES, key=kind, extensions=(key_usage(*range(6)),)) for kind in KEYS),
    *(
        case(f"usage {names}", ALL_USAGES, extensions=(key_usage(*(KEY_USAGE_BITS[name] for name in names)),))
        for names in [("keyAgreement", "encipherOnly"), ("keyAgreement", "decipherOnly"), ("nonRepudiation",)]
    ),
    case("both only bits", ALL_USAGES, extensions=(key_usage(4, 7, 8),)),
    case("usage not critical", extensions=(key_usage(0, critical=False),)),
    *(case(f"san {kind}", ANY_SAN, extensions=(san(name),)) for kind, name in SANS.items()),
    *(case(f"only san {kind}", ANY_SAN, subject="", extensions=(san(name),)) for kind, name in SANS.items()),
    case("all sans, critical", ANY_SAN, extensions=(san(*SANS.values(), critical=True),)),
    case("single label", extensions=(san(("dns", "device")),), but="pkix.invalid_domain_name_syntax"),
    case("wildcard", extensions=(san(("dns", "*.device.example")),), but="pkix.invalid_domain_name_syntax"),
    case("urn", extensions=(san(("uri", "urn:uuid:0")),), but="pkix.invalid_uri_syntax"),
    case("many names", subject=MANY_NAMES),
    case("lone dc", subject="/DC=local/CN=x", but="pkix.name_domain_components_invalid_domain_name"),
    case("email in subject", subject="/CN=x/emailAddress=a@example.com"),
    case("emails in subject and san", subject="/emailAddress=a@example.com", extensions=(san(SANS["email"]),)),
    *(
        case(f"attribute {name}", subject=encode_name(f"/{name}=" + {"C": "DE"}.get(name, "x")))
        for name in ATTRIBUTE_TYPES
        if name not in ("DC", "emailAddress")
    ),
    *(
        case(f"longest {name}", subject=encode_name(f"/{name}=" + "x" * min(row.limit, 4000)))
        for name, row in ATTRIBUTE_TYPES.items()
        if name not in ("C", "DC", "emailAddress")
    ),
    case("server", extensions=(key_usage(0), purposes(SERVER, CLIENT))),
    case("critical purposes", extensions=(key_usage(0), purposes(CLIENT, critical=True))),
    case("mail", extensions=(key_usage(0, 1), purposes(EMAIL), san(SANS["email"]))),
    case(
        "time stamps", ProfileConfig(extended_key_usage=("timeStamping",), extended_key_usage_allowed=("timeStamping",))
    ),
    case(
        "time stamps asked", ProfileConfig(extended_key_usage_allowed=("timeStamping",)), extensions=(purposes(TIME),)
    ),
    case("purposes of the profile", ProfileConfig(extended_key_usage=("clientAuth", "serverAuth"))),
    case("private purpose", ProfileConfig(extended_key_usage_allowed=("1.2.3.4",)), extensions=(purposes("1.2.3.4"),)),
    case("no ca", extensions=(extension("2.5.29.19", b"\x30\x00", critical=True),)),
    case("own key identifier", extensions=(extension("2.5.29.14", b"\x04\x02ab"),)),
    case("unknown extension", extensions=(extension("1.2.3.4", b"\x05\x00"),)),
    case("two days", FREE, not_before=NOW + DAY, not_after=NOW + 3 * DAY),
    case("no end", FREE, not_after=253_402_300_799),
    case("encryption", ProfileConfig(keys=("rsa",), key_usage=("keyEncipherment",)), key="rsa2048"),
    case("policies", ProfileConfig(policies={"1.3.6.1.4.1.99999.1": "", "2.16.840.1.99": ""})),
    case(
        "statement",
        ProfileConfig(policies={"1.2.3.4": "http://cps.example.com/"}),
        but="pkix.certificate_policies_policy_has_qualifier",
    ),
    case(
        "notice",
        ProfileConfig(policies={"1.2.3.4": ""}, policy_notices={"1.2.3.4": "Für Prüfungen"}),
        but="pkix.certificate_policies_policy_has_qualifier",
    ),
    case(
        "statement and notice",
        ProfileConfig(
            policies={"1.2.3.4": "http://cps.example.com/", "1.2.3.5": ""}, policy_notices={"1.2.3.4": "x" * 200}
        ),
        but="pkix.certificate_policies_policy_has_qualifier",
    ),
    case(
        "own places",
        ProfileConfig(
            crl_urls=("http://a.example.com/1.crl", "http://b.example.com/1.crl"),
            delta_crl_urls=("http://a.example.com/d.crl",),
            ocsp_urls=("http://ocsp.example.com",),
            issuer_urls=("http://a.example.com/ca.cer",),
        ),
    ),
    case("no place", ProfileConfig(ocsp_urls=())),
    case(
        "fixed subject",
        ProfileConfig(subject_fixed={"C": "DE", "O": "Exämple", "DC": "x", "serialNumber": "1"}),
        but="pkix.name_domain_components_invalid_domain_name",
    ),
    case(
        "fixed subject in place",
        ProfileConfig(subject_fixed={"C": "DE"}, subject_order=("C", "CN")),
        subject="/O=x/CN=y",
    ),
    case("ra", ProfileConfig(extended_key_usage=("cmcRA",), extended_key_usage_allowed=("cmcRA",))),
    case("key generation", ProfileConfig(extended_key_usage=("cmKGA",), extended_key_usage_allowed=("cmKGA",))),
    case(
        "forced usages",
        ProfileConfig(key_usage_forced=("digitalSignature",), extended_key_usage_forced=("clientAuth",)),
        extensions=(key_usage(1), purposes(SERVER)),
    ),
    case("short and not backdated", ProfileConfig(validity=60, backdate=0)),
]


CA = ProfileConfig(
    ca=True,
    path_length=1,
    key_usage=("keyCertSign", "cRLSign"),
    key_usage_allowed=("keyCertSign", "cRLSign", "digitalSignature"),
    extended_key_usage_allowed=(),
    policies={"2.5.29.32.0": ""},
)
CA_CASES = [
    *(case(f"ca with key {kind}", CA, subject="/O=x/CN=Sub CA", key=kind) for kind in KEYS),
    case("ca that asks for less", CA, extensions=(basic_constraints(0), key_usage(5))),
    case("ca that asks for more", CA, extensions=(basic_constraints(), key_usage(0, 5, 6, critical=False))),
]
LIMITS: dict[str, Any] = {
    "dns": ("example.com",),
    "ip": ("192.0.2.0/24", "2001:db8::/32"),
    "email": ("example.com", ".example.org", "a@example.net"),
    "uri": ("www.example.com", ".example.org"),
    "dn": ("O=Exämple,C=DE", "DC=x,DC=example"),
}
NOTHING: dict[str, Any] = {"dns": ("",), "ip": ("0.0.0.0/0", "::/0")}


def limited(**fields: Any) -> ProfileConfig:
    return ProfileConfig(**{**CA.model_dump(exclude_defaults=True), **fields})


CA_CASES += [
    *(case(f"ca with permitted {kind}", limited(permitted_names={kind: LIMITS[kind]})) for kind in LIMITS),
    *(case(f"ca with excluded {kind}", limited(excluded_names={kind: LIMITS[kind]})) for kind in LIMITS),
    case("ca with all limits", limited(permitted_names=LIMITS, excluded_names=NOTHING), subject="/C=DE/O=x/CN=Sub CA"),
    case(
        "ca with limits and mldsa",
        limited(permitted_names=LIMITS, extended_key_usage=("clientAuth",), extended_key_usage_allowed=("clientAuth",)),
        key="mldsa65",
    ),
]
CASES += CA_CASES


def check(certificate: bytes, issuer: bytes, but: frozenset[str] = frozenset(), *, ca_kind: str = "p256") -> None:
    """pkilint verifies no signature by brainpool's curves and ML-DSA; cryptography does."""
    assert lint(certificate) == but
    unverified = {"pkix.unsupported_algorithm"} if ca_kind in (*BRAINPOOL, *ML_DSA) else set()
    assert lint_chain(issuer, certificate) == unverified
    x509.load_der_x509_certificate(certificate).verify_directly_issued_by(x509.load_der_x509_certificate(issuer))


@pytest.mark.parametrize("one", CASES, ids=[one.id for one in CASES])
def test_nothing_is_found_in_a_certificate(one: Case) -> None:
    ca = authority("p256")
    check(issue(ca, wish(one.rules, **one.options)), ca.certificate, one.but)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("ca_kind", CA_KEYS)
def test_nothing_is_found_under_a_ca_of_any_kind(ca_kind: str, kind: str) -> None:
    ca = authority(ca_kind)
    check(issue(ca, wish(key=kind, extensions=(san(SANS["dns"]),))), ca.certificate, ca_kind=ca_kind)


@pytest.mark.parametrize("kind", CA_KEYS)
def test_nothing_is_found_in_the_certificates_of_a_new_ca(kind: str) -> None:
    ca = authority(kind)
    unverified = {"pkix.aki_absent_self_issued_and_unsupported_algorithm"} if kind in (*BRAINPOOL, *ML_DSA) else set()
    assert lint(ca.certificate) == unverified
    own = cmp_certificate(private_key(kind, 2), private_key(kind, 1), ca.certificate, counting_env())
    check(own, ca.certificate, ca_kind=kind)


@pytest.mark.parametrize(("begin", "wanted"), [("2026", "UTCTime"), ("2049", "both"), ("2051", "GeneralizedTime")])
def test_validity_beyond_2049_is_in_generalized_time(begin: str, wanted: str) -> None:
    now = NOW + (int(begin) - 2026) * 31_556_952
    ca = authority("p256", now)
    certificate = issue(ca, wish(ProfileConfig(validity=1000 * DAY), now=now))
    check(certificate, ca.certificate)
    found = tuple(len(text) for text in _times(certificate))
    assert found == {"UTCTime": (13, 13), "both": (13, 15), "GeneralizedTime": (15, 15)}[wanted]


def _times(certificate: bytes) -> list[bytes]:
    tbs = x509.load_der_x509_certificate(certificate).tbs_certificate_bytes
    fields = der.children(tbs, *der.expect(tbs, 0, len(tbs), der.SEQUENCE, "tbs"))
    return [tbs[start:stop] for _, _, start, stop in der.children(tbs, *fields[4][2:])]


def test_a_linter_that_finds_nothing_would_be_noticed() -> None:
    """The same certificate with a keyUsage that its key cannot have."""
    ca = authority("p256")
    good = issue(ca, wish(extensions=(key_usage(0),)))
    bad = good.replace(der.encode_named_bits(0), der.encode_named_bits(2), 1)
    assert lint(bad) == {"pkix.key_usage_value_prohibited_for_ec"}
    assert "pkix.signature_verification_failed" in lint_chain(ca.certificate, bad)


# --- whatever is asked for --------------------------------------------------------------------------------------------

STRING_TAGS = st.sampled_from(
    [der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING, der.TELETEX_STRING, der.BMP_STRING]
)
LIKELY_TAGS = {name: row.tag for name, row in ATTRIBUTE_TYPES.items()}
TEXTS = st.one_of(
    st.sampled_from(["x", "DE", "D1", "", "a@example.com", "example", "x" * 65, "a*b", "-a", "Ä"]),
    st.text(max_size=8),
)


@st.composite
def attributes(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(sorted(ATTRIBUTE_TYPES)))
    if draw(st.integers(0, 3)):
        text = {"C": "DE", "emailAddress": "a@example.com"}.get(name, "x")
        return der.seq(der.tlv(der.OID, ATTRIBUTE_TYPES[name].oid), der.tlv(LIKELY_TAGS[name], text.encode()))
    tag = draw(st.one_of(st.just(LIKELY_TAGS[name]), STRING_TAGS))
    text = draw(TEXTS)
    octets = text.encode("utf-16-be" if tag == der.BMP_STRING else "utf-8", "replace")
    return der.seq(der.tlv(der.OID, ATTRIBUTE_TYPES[name].oid), der.tlv(tag, octets))


SUBJECTS = st.lists(st.lists(attributes(), min_size=1, max_size=2), max_size=3).map(
    lambda rdns: der.seq(*(der.tlv(der.SET, b"".join(sorted(set(rdn)))) for rdn in rdns))
)
HOSTS = st.from_regex(r"[a-zA-Z0-9*_.-]{0,6}\.?(example|1|-x|)", fullmatch=True)
SAN_NAMES = st.one_of(
    st.sampled_from(sorted(SANS.values(), key=str)),
    st.tuples(st.just("dns"), HOSTS),
    st.tuples(st.just("email"), st.builds("{}@{}".format, st.text("aB.+ '\"@", max_size=4), HOSTS)),
    st.tuples(
        st.just("uri"), st.builds("{}{}{}".format, st.sampled_from(["https://", "urn:", "", "a:/"]), HOSTS, TEXTS)
    ),
    st.tuples(st.just("ip"), st.binary(max_size=17)),
    st.tuples(st.just("dn"), SUBJECTS),
)
STRICTER_THAN_RFC_5280 = {
    "pkix.invalid_domain_name_syntax",  # wants two labels, knows no wildcard
    "pkix.name_domain_components_invalid_domain_name",
    "pkix.invalid_email_address_syntax",  # wants two labels after the "@"
    "pkix.invalid_uri_syntax",  # knows the schemes of the web
}


@settings(max_examples=150)
@given(
    subject=SUBJECTS,
    names=st.lists(SAN_NAMES, max_size=3),
    bits=st.lists(st.integers(0, 8), max_size=9),
    key=st.sampled_from(["p256", "ed25519", "rsa2048"]),
)
def test_what_is_granted_has_no_findings(subject: bytes, names: list[Any], bits: list[int], key: str) -> None:
    rules = ProfileConfig(san_allowed=("dns", "ip", "email", "uri", "dn"), key_usage_allowed=KEY_USAGES)
    extensions = [san(*names)] if names else []
    if bits:
        extensions.append(key_usage(*bits))
    try:
        granted = wish(rules, subject, key, tuple(extensions))
    except BadCertTemplate:
        event("refused")
        return
    event("granted")
    assert lint(issue(authority("p256"), granted)) <= STRICTER_THAN_RFC_5280
