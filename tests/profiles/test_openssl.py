"""Certificates of every kind of profile, verified by `openssl verify -x509_strict`; one under a subordinate CA."""

import subprocess
from pathlib import Path

import pytest

from cmpd.ca import CertificateAuthority
from cmpd.config import ProfileConfig
from cmpd.profiles import Grant
from cmpd.signing.file import FileKey, pem
from tests.profiles.support import authority, counting_env, issue, key_usage, policies, private_key, san, wish
from tests.profiles.test_rules import CA, PUMP

PROFILES = {
    "plain": ProfileConfig(),
    "device": ProfileConfig(**PUMP, extended_key_usage_forced=("clientAuth",)),
    "server": ProfileConfig(
        extended_key_usage=("serverAuth",), policies={"1.2.3.4": "", "1.2.3.5": "http://a.example"}
    ),
    "ra": ProfileConfig(extended_key_usage=("cmcRA",), extended_key_usage_allowed=("cmcRA",)),
    "places": ProfileConfig(crl_urls=("http://a.example/c",), ocsp_urls=("http://o.example",)),
    "ca": ProfileConfig(**CA),
}


def verify(directory: Path, root: bytes, leaf: bytes, *between: bytes) -> str:
    for name, certificates in (("root", [root]), ("leaf", [leaf]), ("between", between)):
        (directory / name).write_bytes(b"".join(pem("CERTIFICATE", one) for one in certificates))
    command = ["openssl", "verify", "-x509_strict", "-policy_check", "-attime", "1790000100", "-CAfile", "root"]
    command += ["-untrusted", "between"] if between else []
    done = subprocess.run([*command, "leaf"], cwd=directory, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() or done.stderr.strip()


@pytest.mark.parametrize("name", PROFILES)
def test_openssl_takes_a_certificate_of_each_profile(name: str, tmp_path: Path) -> None:
    ca = authority("p256")
    leaf = issue(ca, wish(PROFILES[name], "/CN=pump-1"))
    assert verify(tmp_path, ca.certificate, leaf) == "leaf: OK"


def test_openssl_takes_what_a_subordinate_ca_issues_and_minds_its_path_length(tmp_path: Path) -> None:
    root = authority("p256")
    rules = ProfileConfig(**CA | {"path_length": 0})
    sub = issue(root, wish(rules, "/CN=Sub CA", "p384", (key_usage(0, 5, 6), policies("1.2.3"))))
    below = CertificateAuthority(sub, (root.certificate,), FileKey(private_key("p384")), counting_env())
    leaf = issue(below, wish(None, "", extensions=(san(("dns", "device.example")),)))
    assert verify(tmp_path, root.certificate, leaf, sub) == "leaf: OK"
    assert "unable to get local issuer" in verify(tmp_path, root.certificate, leaf)
    wrong = wish(rules, "/CN=Sub Sub CA")
    other = CertificateAuthority(sub, (), FileKey(private_key("p384")), counting_env())
    made = issue_all(other, wrong)
    lowest = CertificateAuthority(made, (), FileKey(private_key("p256")), counting_env())
    leaf = issue(lowest, wish(None, "/CN=leaf", "ed25519"))
    assert "path length constraint exceeded" in verify(tmp_path, root.certificate, leaf, made, sub)


def issue_all(ca: CertificateAuthority, granted: Grant) -> bytes:
    """The certificate, although the CA must not issue it: its own limits are taken away."""
    ca._limits = None
    return issue(ca, granted)
