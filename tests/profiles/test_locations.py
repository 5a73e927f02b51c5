"""Where issued certificates say that their status is published: read by cryptography, judged by pkilint."""

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID as Access
from cryptography.x509.oid import ExtensionOID

from cmpd.ca import CertificateAuthority
from cmpd.profiles.extensions import encode_locations
from cmpd.requests import Extension
from cmpd.signing.file import FileKey
from tests.profiles.support import (
    authority,
    counting_env,
    extension,
    issue,
    lint,
    lint_chain,
    private_key,
    wish,
)

URL = "http://pki.example.com/x"
CDP, FRESHEST, AIA = (
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
    ExtensionOID.FRESHEST_CRL,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
)


def issued(locations: bytes, *extensions: Extension) -> bytes:
    """DER of a certificate from a CA that publishes there."""
    ca = authority("p256")
    made = CertificateAuthority(
        ca.certificate, (), FileKey(private_key("p256", 1)), counting_env(), locations=locations
    )
    return issue(made, wish(extensions=extensions))


def points(certificate: bytes, oid: x509.ObjectIdentifier) -> list[str]:
    """The URLs of CRLDistributionPoints or FreshestCRL; each in a DistributionPoint of its own, with nothing else."""
    found = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_oid(oid)
    assert not found.critical
    urls = []
    for point in found.value:
        assert (point.relative_name, point.reasons, point.crl_issuer) == (None, None, None)
        [name] = point.full_name
        assert isinstance(name, x509.UniformResourceIdentifier)
        urls.append(name.value)
    return urls


def access(certificate: bytes) -> list[tuple[x509.ObjectIdentifier, str]]:
    found = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_oid(AIA)
    assert not found.critical
    return [(one.access_method, one.access_location.value) for one in found.value]


def oids(certificate: bytes) -> set[x509.ObjectIdentifier]:
    return {one.oid for one in x509.load_der_x509_certificate(certificate).extensions}


def test_a_certificate_names_crl_delta_crl_ocsp_and_the_cas_certificate():
    made = issued(encode_locations(URL, crl=True, delta=True, ocsp=True))
    assert points(made, CDP) == [f"{URL}/ca.crl"]
    assert points(made, FRESHEST) == [f"{URL}/delta.crl"]
    assert access(made) == [(Access.OCSP, f"{URL}/ocsp"), (Access.CA_ISSUERS, f"{URL}/ca.cer")]


@pytest.mark.parametrize("crl", [True, False])
@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("ocsp", [True, False])
def test_what_is_not_published_is_not_named(crl: bool, delta: bool, ocsp: bool):
    made = issued(encode_locations(URL, crl=crl, delta=delta, ocsp=ocsp))
    assert (CDP in oids(made)) is crl
    assert (FRESHEST in oids(made)) is (crl and delta)
    assert [method for method, _ in access(made)] == [Access.OCSP] * ocsp + [Access.CA_ISSUERS]
    assert lint(made) == set()
    assert lint_chain(authority("p256").certificate, made) == set()


def test_without_a_base_url_nothing_is_named():
    assert not {CDP, FRESHEST, AIA} & oids(issued(b""))


def test_what_a_request_says_about_places_is_not_granted():
    asked = extension("2.5.29.31", bytes.fromhex("3000"))
    made = issued(encode_locations(URL, crl=True, delta=False, ocsp=False), asked)
    assert points(made, CDP) == [f"{URL}/ca.crl"]
