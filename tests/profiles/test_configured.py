"""Profiles as operators write them: what contradicts itself is a mistake, what the documents show is none and works."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cmpd.asn1.names import encode_name
from cmpd.certificates import read_certificate
from cmpd.cli.check import Findings, _check_ca
from cmpd.config import ProfileConfig, load, parse
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.name_constraints import issuing_limits
from tests.profiles.support import NOW, authority, issue, lint, san, wish
from tests.profiles.test_pkilint import LIMITS
from tests.profiles.test_wiring import constrained
from tests.support import Installation, cmpd
from tests.test_config import BASE, document

PAGE = Path(__file__).resolve().parents[2] / "docs" / "profiles.md"
EXAMPLES = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
CA = {"ca": True, "key_usage": ["keyCertSign"], "key_usage_allowed": ["keyCertSign"]}

CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    # keys and usages
    ({"keys": ["x25519"]}, 'key_usage: "digitalSignature" fits none of the key types in keys'),
    ({"keys": ["ed25519"], "key_usage": ["keyEncipherment"]}, 'key_usage: "keyEncipherment" fits none of the key'),
    ({"rsa_min_bits": 4096, "rsa_max_bits": 3072}, "rsa_max_bits: want at least rsa_min_bits (4096), have 3072"),
    ({"key_usage": ["dataEncipherment"]}, 'key_usage_allowed: lacks "dataEncipherment", which key_usage has'),
    ({"key_usage_forced": ["dataEncipherment"]}, 'key_usage_forced: "dataEncipherment" is not in key_usage_allowed'),
    ({"key_usage_forbidden": ["keyAgreement"]}, 'key_usage_forbidden: "keyAgreement" is in key_usage_allowed too'),
    ({"key_usage": ["encipherOnly"]}, 'key_usage: "encipherOnly" means nothing without keyAgreement'),
    (
        {"extended_key_usage": ["1.3.6.1.5.5.7.3.8", "clientAuth"]},
        'extended_key_usage: "timeStamping" stands alone in a certificate (RFC 3161 section 2.3), without others',
    ),
    (
        {
            "extended_key_usage": ["clientAuth"],
            "extended_key_usage_allowed": ["timeStamping", "clientAuth"],
            "extended_key_usage_forced": ["timeStamping"],
        },
        'extended_key_usage_forced: "timeStamping" stands alone',
    ),
    (
        {"extended_key_usage_allowed": ["cmcRA"], "extended_key_usage_forbidden": ["1.3.6.1.5.5.7.3.28"]},
        'extended_key_usage_forbidden: "cmcRA" is in extended_key_usage_allowed too',
    ),
    ({"extended_key_usage": ["cmcRA"]}, 'extended_key_usage_allowed: lacks "cmcRA", which extended_key_usage has'),
    # names
    ({"subject_required": ["CN"], "subject_allowed": ["O"]}, 'subject_allowed: lacks "CN", which subject_required has'),
    (
        {"subject_allowed": ["CN"], "subject_fixed": {"O": "x"}},
        "subject_fixed: is about O, which subject_allowed lacks",
    ),
    ({"subject_fixed": {"CN": "x"}, "subject_patterns": {"CN": "y"}}, "subject_patterns: CN has a value in subject_f"),
    ({"subject_fixed": {"C": "D1"}}, 'subject_fixed: C: "D1" is no value for it: name.C: want the two letters of a'),
    ({"subject_fixed": {"C": "DEU"}}, 'subject_fixed: C: "DEU" is no value for it: '),
    ({"subject_fixed": {"DC": "a.b"}}, 'subject_fixed: DC: "a.b" is no value for it: name.DC: want one label of a'),
    ({"subject_fixed": {"emailAddress": "x"}}, 'subject_fixed: emailAddress: "x" is no value for it: '),
    ({"subject_fixed": {"O": " "}}, 'subject_fixed: O: " " is no value for it: '),
    ({"subject_fixed": {"O": "a\u200bb"}}, 'subject_fixed: O: "a\\u200bb" is no value for it: name.O: want characters'),
    ({"subject_patterns": {"CN": "(a"}}, "subject_patterns.CN: not a pattern: a ( without ), at character 3"),
    ({"san_allowed": [], "san_required": True}, "san_required: san_allowed is empty: no request could be granted"),
    ({"san_patterns": {"dn": "x"}}, 'san_patterns: is about "dn", which san_allowed lacks'),
    ({"san_patterns": {"ip": "x"}}, 'san_patterns: an "ip" has no pattern: say its networks in san_networks'),
    ({"san_allowed": ["dns"], "san_networks": ["::/0"]}, 'san_networks: is about "ip", which san_allowed lacks'),
    ({"san_networks": ["192.0.2.1/24"]}, 'san_networks[0]: want a network such as "192.0.2.0/24"'),
    ({"san_networks": ["fe80::%eth0/10"]}, "san_networks[0]: want a network such as"),
    ({"san_for_empty_subject": ["dn"]}, 'san_for_empty_subject: is about "dn", which san_allowed lacks'),
    # validity
    ({"validity": "2d", "max_validity": "1d"}, 'max_validity: want at least validity ("2d"), have "1d"'),
    ({"min_validity": "1d"}, "min_validity: means nothing without max_validity"),
    ({"max_validity": "400d", "min_validity": "366d"}, 'min_validity: want at most validity ("365d"), have "366d"'),
    # CAs
    ({"ca": True}, "ca: key_usage lacks keyCertSign, without which a CA can issue nothing"),
    ({"key_usage": ["keyCertSign"], "key_usage_allowed": ["keyCertSign"]}, 'ca: key_usage has "keyCertSign", which on'),
    ({"path_length": 1}, "path_length: means nothing without ca = true"),
    (CA, "ca: want crl.issuing_distribution_point = false with it"),
    ({"permitted_names": {"dns": ["a.example"]}}, "permitted_names: means nothing without ca = true"),
    ({**CA, "permitted_names": {"dns": [".a.example"]}}, 'permitted_names: dns: want a domain such as "example.com"'),
    ({**CA, "permitted_names": {"dns": [""]}}, 'permitted_names: dns: want a domain such as "example.com", have ""'),
    ({**CA, "permitted_names": {"dns": ["*.a"]}}, "permitted_names: dns: want a domain"),
    ({**CA, "excluded_names": {"ip": ["192.0.2.1/24"]}}, "excluded_names: ip: want a network"),
    ({**CA, "excluded_names": {"email": ["a@b@c"]}}, "excluded_names: email: want a mailbox"),
    (
        {**CA, "excluded_names": {"uri": ["https://a.b"]}},
        'excluded_names: uri: want a host, or all below ".example.com',
    ),
    ({**CA, "excluded_names": {"dn": ["x"]}}, 'excluded_names: dn: want the beginning of names such as "O=Example,C=D'),
    ({**CA, "excluded_names": {"dn": [""]}}, "excluded_names: dn: want the beginning of names"),
    ({**CA, "excluded_names": {"dns": []}}, "excluded_names.dns: want at least one, have none"),
    ({**CA, "permitted_names": {"rid": ["1.2"]}}, "permitted_names."),
    (
        {**CA, "permitted_names": {"dns": ["a.example"]}, "excluded_names": {"dns": ["a.example"]}},
        'excluded_names: dns: "a.example" is in permitted_names too',
    ),
    # policies and places
    ({"policies": {"1.2.3": "ftp://x"}}, 'policies: want a URL such as "http://pki.example.com/x.crl", have "ftp://x"'),
    ({"policy_notices": {"1.2.3": "x"}}, "policy_notices: is about 1.2.3, which policies lacks"),
    ({"policies": {"1.2.3": ""}, "policy_notices": {"1.2.3": ""}}, 'policy_notices."1.2.3": want a text of 1 to 200'),
    (
        {"policies": {"1.2.3": ""}, "policy_notices": {"1.2.3": "a\nb"}},
        'policy_notices."1.2.3": want a text of 1 to 200',
    ),
    ({"crl_urls": ["http://a b/"]}, "crl_urls[0]: want a URL such as"),
]


@pytest.mark.parametrize(("keys", "wanted"), CONTRADICTIONS, ids=[wanted[:50] for _, wanted in CONTRADICTIONS])
def test_a_profile_that_contradicts_itself_is_a_mistake_with_its_key(keys: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(document("profile", **keys), BASE)
    lines = [line.removeprefix("profile.default.") for line in str(caught.value).split("\n")]
    lines = [line.removeprefix("profile: default.") for line in lines]
    assert any(line.startswith(wanted) for line in lines), lines


# --- the examples of docs/profiles.md ---------------------------------------------------------------------------------

WISHES: dict[str, tuple[str, str, tuple[tuple[str, bytes | str], ...], str]] = {
    "pump": ("/CN=pump-7/serialNumber=AB12345678", "p256", (), "subject with C=DE, O=Example"),
    "server": ("", "rsa2048", (("dns", "a.example.com"), ("ip", b"\xc0\0\2\1")), "subjectAltName is critical"),
    "ra": ("/CN=ra", "p256", (), ""),
    "subordinate": ("/O=Example/CN=Sub CA", "p384", (), ""),
    "factory": ("/O=Example/CN=Factory CA", "p384", (), ""),
    "encryption": ("/CN=device", "rsa2048", (), ""),
}
"""Subject, key, alternative names and what is changed, by the profile of an example."""
STRICTER = {"pkix.certificate_policies_policy_has_qualifier"}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.make(tmp_path_factory.mktemp("profiles") / "ca")


def test_all_examples_together_are_a_configuration_without_mistakes(installation: Installation) -> None:
    installation.configure("#issuing_distribution_point = true", "issuing_distribution_point = false")
    text = "".join(example.replace("[crl]\nissuing_distribution_point = false\n", "") for example in EXAMPLES)
    installation.config.write_text(installation.config.read_text() + text)
    answer = cmpd("check", "--config", installation.config).stdout
    assert answer.endswith("ok\n")
    assert "path_length" not in answer


def examples() -> dict[str, ProfileConfig]:
    found: dict[str, ProfileConfig] = {}
    for example in EXAMPLES:
        made = parse(document() | tomllib.loads(example) | {"enrolment": {"default_profile": "default"}} | {
            "profile": {"default": {}} | tomllib.loads(example)["profile"]}, BASE)  # fmt: skip
        found |= {name: rules for name, rules in made.profile.items() if name != "default"}
    return found


@pytest.mark.parametrize("name", WISHES)
def test_an_example_grants_what_it_is_meant_for(name: str) -> None:
    subject, key, names, change = WISHES[name]
    granted = wish(examples()[name], subject, key, (san(*names),) if names else ())
    assert "; ".join(granted.changes) == change
    certificate = issue(authority("p256"), granted)
    assert lint(certificate) <= STRICTER
    constraints = x509.load_der_x509_certificate(certificate).extensions
    assert any(isinstance(one.value, x509.NameConstraints) for one in constraints) is (name == "factory")


def test_every_example_has_a_wish() -> None:
    assert set(examples()) == set(WISHES)


def test_the_limits_of_a_ca_hold_below_it() -> None:
    """Judged by what stands in the certificate that was issued."""
    rules = {**CA, "key_usage": ("keyCertSign",), "key_usage_allowed": ("keyCertSign",), "permitted_names": LIMITS}
    limits = issuing_limits([issue(authority("p256"), wish(ProfileConfig(**rules), "/CN=Sub CA"))])
    assert limits is not None
    good = encode_name("/C=DE/O=Exämple/CN=x")
    assert (
        limits.fault(good, san(("dns", "a.example.com"), ("ip", b"\xc0\0\2\1"), ("email", "a@b.example.org")).value)
        == ""
    )
    assert "directoryName" in limits.fault(encode_name("/CN=x"), None)
    for name in (("dns", "a.example.net"), ("ip", b"\xc0\0\3\1"), ("email", "b@example.net"), ("uri", "https://a.b/")):
        assert limits.fault(good, san(name).value) != ""


@pytest.mark.parametrize(
    ("length", "mistakes", "notes"),
    [
        (None, [], []),
        (2, [], []),
        (1, [], ["profile.x.path_length: certificates get 0, one less than the CA's own"]),
        (0, ["profile.x.ca: the path length of ca.certificate is 0: no CA may be below it"], []),
    ],
)
def test_check_holds_a_profile_of_cas_against_the_path_length_of_the_ca(
    installation: Installation, length: int | None, mistakes: list[str], notes: list[str]
) -> None:
    config, found = load(installation.config), Findings()
    rules = ProfileConfig(**{**CA, "key_usage": ("keyCertSign",), "key_usage_allowed": ("keyCertSign",)}, path_length=1)
    ca = read_certificate(constrained(path_length=length), "Certificate")
    _check_ca(config.model_copy(update={"profile": {"x": rules}}), ca, found, Env(now=lambda: NOW))
    assert [line for line in found.mistakes if line.startswith("profile.")] == mistakes
    assert [line for line in found.notes if "path_length" in line] == notes
