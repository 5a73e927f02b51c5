"""Rules that need more than a profile: what others have, what the CA may, who asks."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID as Access

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.ca import CertificateAuthority
from cmpd.client.credentials import SharedSecret
from cmpd.client.messages import Request, Template, cert_request, protect
from cmpd.config import ProfileConfig
from cmpd.errors import BadCertTemplate
from cmpd.profiles.extensions import encode_locations
from cmpd.signing.file import FileKey
from cmpd.store.sqlite import SqliteStore
from tests.profiles.support import NOW, authority, counting_env, issue, private_key, public_key, san, wish
from tests.profiles.test_rules import CA as CA_RULES
from tests.world import World, serial_octets

UNIQUE = {"default": ProfileConfig(unique_subject=True)}


async def test_a_subject_has_one_valid_certificate_and_kur_gets_the_next() -> None:
    world = World(profiles=UNIQUE)
    secret = await world.add_secret()
    holder = await world.holder(secret)
    _, seen, _ = await world.ir(secret, "/CN=DEVICE")
    status, text, failures = seen.status()
    assert (status, failures) == (2, {"duplicateCertReq"})
    assert text.startswith("CertTemplate.subject: want one without a valid certificate of this profile; revoke it or s")
    _, seen, _ = await world.ir(secret, "/CN=other")
    assert seen.status()[0] == 0
    for _ in range(2):
        _, seen, key = await world.ir(holder, body="kur")
        assert seen.status()[0] == 0
        holder = type(holder)(key, seen.certificate(), holder.chain)


async def test_of_two_at_the_same_time_one_wins(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    try:
        world = World(profiles=UNIQUE, store=store)
        secret = await world.add_secret()
        seen = await asyncio.gather(*(world.ir(secret) for _ in range(4)))
        assert sorted(answer.status()[0] for _, answer, _ in seen) == [0, 2, 2, 2]
        assert len(await store.list_certificates()) == 1
    finally:
        await store.close()


@pytest.mark.parametrize(("sharing", "same", "other"), [("any", 0, 0), ("entity", 0, 2), ("none", 2, 2)])
async def test_a_key_is_shared_as_the_profile_says(sharing: str, same: int, other: int) -> None:
    world = World(profiles={"default": ProfileConfig(key_sharing=sharing)})
    one, two = await world.add_secret("one"), await world.add_secret("two")
    _, first, key = await world.ir(one)
    assert first.status()[0] == 0
    for secret, wanted in ((one, same), (two, other)):
        template = Template(key, encode_name("/CN=other"))
        seen = await world.ask(cert_request("ir", [template], secret, world.env, implicit_confirm=True), secret)
        status, text, failures = seen.status()
        assert status == wanted
        if wanted:
            assert failures == {"badCertTemplate"}
            assert text.startswith("CertTemplate.publicKey: want a new key, have that of another certificate")


async def with_serial(world: World, secret: SharedSecret, serial: int) -> tuple[int, str, frozenset[str], Request]:
    """An ir whose CertTemplate has a serial number."""
    fields = der.tlv(0x81, der.encode_integer(serial)[2:]) + der.explicit(5, encode_name("/CN=x"))
    fields += der.tlv(0xA6, public_key("p256")[2:])
    request = der.seq(der.encode_integer(0), der.seq(fields))
    signature = private_key("p256").sign(request, ec.ECDSA(hashes.SHA256()))
    proof = der.tlv(0xA1, der.seq(der.encode_oid("1.2.840.10045.4.3.2")) + der.encode_bits(signature))
    message = protect("ir", der.seq(der.seq(request, proof)), secret.protector(world.env), world.env)
    seen = await world.ask(message, secret)
    return (*seen.status(), message)


@pytest.mark.parametrize(
    ("rules", "is_ra", "serial", "wanted"),
    [
        ("given", True, 0x123456, ""),
        ("given", True, -5, "CertTemplate.serialNumber: want a positive number of at most 20 octets"),
        ("given", True, 1 << 160, "CertTemplate.serialNumber: want a positive number of at most 20 octets"),
        ("given", False, 0x123456, "CertTemplate: must not have serialNumber"),
        ("random", True, 0x123456, "CertTemplate: must not have serialNumber"),
    ],
)
async def test_an_ra_gives_the_serial_number_where_the_profile_allows(
    rules: str, is_ra: bool, serial: int, wanted: str
) -> None:
    world = World(profiles={"default": ProfileConfig(serial_number=rules)})
    secret = await world.add_secret(is_ra=is_ra)
    status, text, failures, _ = await with_serial(world, secret, serial)
    if not wanted:
        assert status == 0
        assert await world.store.find_certificate(serial_octets(serial)) is not None
        status, text, failures, _ = await with_serial(world, secret, serial)
        wanted = "CertTemplate.serialNumber: want a new one, have another certificate's"
    assert (status, failures) == (2, {"badCertTemplate"})
    assert text.startswith(wanted)


def test_places_of_a_profile_replace_those_of_the_ca() -> None:
    made = authority("p256")
    places = encode_locations("http://pki.example.com", crl=True, delta=False, ocsp=False)
    ca = CertificateAuthority(made.certificate, (), FileKey(private_key("p256", 1)), counting_env(), locations=places)

    def urls(rules: ProfileConfig) -> list[str]:
        found = x509.load_der_x509_certificate(issue(ca, wish(rules))).extensions
        kinds = (x509.CRLDistributionPoints, x509.AuthorityInformationAccess)
        return [type(one.value).__name__ for one in found if isinstance(one.value, kinds)]

    assert urls(ProfileConfig()) == ["CRLDistributionPoints", "AuthorityInformationAccess"]
    assert urls(ProfileConfig(ocsp_urls=("http://o.example",))) == ["AuthorityInformationAccess"]
    assert urls(ProfileConfig(crl_urls=())) == []


def constrained(*, path_length: int | None = None, dns: str | None = None, excluded: str | None = None) -> bytes:
    """A self-signed CA certificate of the key of `authority`."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Constrained")])
    key, now = private_key("p256", 1), datetime.fromtimestamp(NOW, UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, now - timedelta(1), now + timedelta(900))
    builder = builder.add_extension(x509.BasicConstraints(True, path_length), critical=True)
    if dns or excluded:
        permitted = [x509.DNSName(dns)] if dns else None
        names = [x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, excluded or "-")]))]
        limits = x509.NameConstraints(permitted, names if excluded else None)
        builder = builder.add_extension(limits, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def under(certificate: bytes) -> CertificateAuthority:
    return CertificateAuthority(certificate, (), FileKey(private_key("p256", 1)), counting_env())


@pytest.mark.parametrize(
    ("limits", "subject", "names", "fault"),
    [
        ({"dns": "example.com"}, "/CN=x", [("dns", "a.example.com")], ""),
        ({"dns": "example.com"}, "/CN=x", [], ""),
        ({"dns": "example.com"}, "/CN=x", [("dns", "a.example.org")], "name constraints do not permit its dNSName"),
        ({"excluded": "Bad"}, "/O=bad/CN=x", [], "name constraints exclude its directoryName"),
        ({"excluded": "Bad"}, "/O=good/CN=x", [("ip", bytes(4)), ("email", "a@b")], ""),
    ],
)
def test_names_are_held_against_the_name_constraints_of_the_ca(
    limits: dict[str, str], subject: str, names: list[tuple[str, bytes | str]], fault: str
) -> None:
    ca = under(constrained(**limits))
    granted = wish(None, subject, extensions=(san(*names),) if names else ())
    if not fault:
        assert ca.bound(granted).subject == granted.subject
        return
    with pytest.raises(BadCertTemplate, match=f"CertTemplate: for a certificate under this CA the {fault}"):
        ca.bound(granted)


def test_a_ca_that_may_have_no_ca_below_it_issues_none() -> None:
    granted = wish(ProfileConfig(**CA_RULES))
    assert under(constrained(path_length=1)).bound(granted).is_ca
    with pytest.raises(BadCertTemplate, match="basicConstraints: the CA's own certificate allows no CA below it"):
        under(constrained(path_length=0)).bound(granted)
    assert not under(constrained(path_length=0)).bound(wish()).is_ca


def test_places_of_a_profile_stand_in_place_of_the_others() -> None:
    rules = ProfileConfig(
        crl_urls=("http://a.example/1", "ldap://b.example/2"),
        delta_crl_urls=("http://a.example/d",),
        ocsp_urls=("http://o.example", "http://p.example"),
        issuer_urls=("http://i.example/c",),
    )
    certificate = x509.load_der_x509_certificate(issue(authority("p256"), wish(rules)))
    [point] = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for name in point.full_name or ()] == ["http://a.example/1", "ldap://b.example/2"]
    [point] = certificate.extensions.get_extension_for_class(x509.FreshestCRL).value
    assert [name.value for name in point.full_name or ()] == ["http://a.example/d"]
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [(one.access_method, one.access_location.value) for one in access] == [
        (Access.OCSP, "http://o.example"),
        (Access.OCSP, "http://p.example"),
        (Access.CA_ISSUERS, "http://i.example/c"),
    ]
    assert wish(ProfileConfig(crl_urls=())).locations == b""
    assert wish(ProfileConfig()).locations is None
