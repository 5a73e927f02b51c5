"""RFC 4211's types against an independent codec."""

from typing import Any

import pytest
from asn1crypto import core, x509
from pyasn1.type import char, univ
from pyasn1_alt_modules import rfc4211, rfc5280, rfc9810

from cmpd.asn1 import algs, crmf, der
from cmpd.asn1.strict import load_strict
from tests.asn1 import samples
from tests.asn1.independent import compare, rebuild, their_decode, their_encode

CONTROL_SPECS: dict[str, tuple[Any, Any]] = {
    "regToken": (rfc4211.id_regCtrl_regToken, rfc4211.RegToken()),
    "authenticator": (rfc4211.id_regCtrl_authenticator, rfc4211.Authenticator()),
    "pkiPublicationInfo": (rfc4211.id_regCtrl_pkiPublicationInfo, rfc4211.PKIPublicationInfo()),
    "pkiArchiveOptions": (rfc4211.id_regCtrl_pkiArchiveOptions, rfc4211.PKIArchiveOptions()),
    "oldCertID": (rfc4211.id_regCtrl_oldCertID, rfc4211.OldCertId()),
    "protocolEncrKey": (rfc4211.id_regCtrl_protocolEncrKey, rfc5280.SubjectPublicKeyInfo()),
    "altCertTemplate": (rfc9810.id_regCtrl_altCertTemplate, rfc9810.AltCertTemplate()),
    "algId": (rfc9810.id_regCtrl_algId, rfc9810.AlgIdCtrl()),
    "rsaKeyLen": (rfc9810.id_regCtrl_rsaKeyLen, rfc9810.RsaKeyLenCtrl()),
    "utf8Pairs": (rfc4211.id_regInfo_utf8Pairs, rfc4211.UTF8Pairs()),
    "certReq": (rfc4211.id_regInfo_certReq, rfc4211.CertReq()),
}


def both_ways(value: Any, spec: Any) -> None:
    """Ours is read by pyasn1, pyasn1's is read by us, and the octets are the same."""
    compare(value, their_decode(value.dump(), spec))
    octets = their_encode(rebuild(value, spec))
    assert octets == value.dump()
    compare(load_strict(type(value), octets, noun="value"), rebuild(value, spec))


def test_every_control_that_is_known_has_a_sample() -> None:
    assert set(CONTROL_SPECS) == set(samples.CONTROLS) == set(crmf.AttributeType._map.values())
    assert set(CONTROL_SPECS) == set(crmf.AttributeTypeAndValue._oid_specs)


@pytest.mark.parametrize("kind", CONTROL_SPECS)
def test_each_control_has_the_oid_and_the_value_of_the_rfc(kind: str) -> None:
    oid, spec = CONTROL_SPECS[kind]
    value = samples.control(kind)
    assert value["type"].dotted == str(oid)
    both_ways(value, rfc4211.AttributeTypeAndValue())
    read = their_decode(value["value"].dump(), spec)
    if isinstance(read, char.UTF8String | univ.Integer):
        assert read == samples.CONTROLS[kind]()
    assert their_encode(read) == value["value"].dump()
    compare(value["value"], read)


def test_an_unknown_control_keeps_its_octets() -> None:
    octets = der.seq(der.encode_oid("1.2.3.4"), der.encode_integer(7))
    assert load_strict(crmf.AttributeTypeAndValue, octets, noun="control")["value"].dump() == der.encode_integer(7)


@pytest.mark.parametrize("kind", samples.PROOFS)
def test_each_proof_of_possession_is_the_same_to_pyasn1(kind: str) -> None:
    message = {"cert_req": samples.cert_request(), "popo": samples.PROOFS[kind]()}
    both_ways(samples.frozen(crmf.CertReqMessages, [message]), rfc4211.CertReqMessages())


@pytest.mark.parametrize("kind", samples.ENCRYPTED_KEYS)
def test_each_encrypted_key_is_the_same_to_pyasn1(kind: str) -> None:
    value = samples.frozen(crmf.EncryptedKey, samples.ENCRYPTED_KEYS[kind]())
    assert value.name == kind
    both_ways(value, rfc4211.EncryptedKey())


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("encrypted_priv_key", samples.ENCRYPTED_KEYS["enveloped_data"]),
        ("encrypted_priv_key", samples.ENCRYPTED_KEYS["encrypted_value"]),
        ("key_gen_parameters", lambda: b"parameters"),
        ("archive_rem_gen_priv_key", lambda: False),
    ],
)
def test_each_archive_option_is_the_same_to_pyasn1(kind: str, make: Any) -> None:
    both_ways(samples.frozen(crmf.PKIArchiveOptions, (kind, make())), rfc4211.PKIArchiveOptions())


@pytest.mark.parametrize(
    ("identifier", "tag"),
    [(None, None), (("string", "who"), 0x0C), (("directory_name", samples.name("who")), 0xA4)],
)
def test_enc_key_with_id_is_the_same_to_pyasn1(identifier: Any, tag: int | None) -> None:
    fields: dict[str, Any] = {"private_key": samples.private_key_info()}
    if identifier:
        fields["identifier"] = crmf.EncKeyIdentifier(*identifier)
    value = samples.frozen(crmf.EncKeyWithID, fields)
    read = load_strict(crmf.EncKeyWithID, value.dump(), noun="EncKeyWithID")
    theirs = their_decode(value.dump(), rfc4211.EncKeyWithID())
    assert their_encode(theirs) == value.dump()
    assert (read["identifier"].dump()[:1] or b"\0")[0] == (tag or 0)
    if tag == 0x0C:
        assert str(theirs["identifier"]["string"]) == read["identifier"].native == "who"


@pytest.mark.parametrize(
    "fields",
    [{"subject": samples.name("only")}, {"validity": {"not_after": x509.Time("utc_time", samples.WHEN)}}],
    ids=["subject", "notAfter"],
)
def test_a_template_may_leave_out_any_field(fields: dict[str, Any]) -> None:
    both_ways(samples.frozen(crmf.CertTemplate, fields), rfc4211.CertTemplate())


def test_a_template_may_be_empty() -> None:
    both_ways(load_strict(crmf.CertTemplate, der.seq(), noun="CertTemplate"), rfc4211.CertTemplate())


def test_a_full_template_has_every_field() -> None:
    value = samples.full_template()
    assert not [field for field in value if isinstance(value[field], core.Void)]
    both_ways(value, rfc4211.CertTemplate())


def test_a_tagged_choice_is_explicit_and_anything_else_implicit() -> None:
    name = der.seq(der.tlv(der.SET, der.seq(der.encode_oid("2.5.4.3"), der.encode_utf8("x"))))
    when = der.encode_time(1_900_000_000)
    octets = der.seq(
        der.tlv(0x81, b"\x05"),
        der.explicit(3, name),
        der.tlv(0xA4, der.explicit(0, when)),
        der.explicit(5, name),
    )
    template = load_strict(crmf.CertTemplate, octets, noun="CertTemplate")
    assert template["serial_number"].native == 5
    assert template["issuer"] == template["subject"]
    assert template["validity"]["not_before"].chosen.dump() == when


def test_the_key_and_the_certificate_of_an_unknown_algorithm_are_read() -> None:
    algorithm = der.seq(der.encode_oid("2.16.840.1.101.3.4.3.17"))
    key = der.seq(algorithm, der.encode_bits(b"k" * 1312))
    assert load_strict(algs.SubjectPublicKeyInfo, key, noun="key")["public_key"].native == b"k" * 1312
    name = samples.name("pq").dump()
    validity = der.seq(der.encode_time(0), der.encode_time(2**32))
    tbs = der.seq(der.encode_integer(1), algorithm, name, validity, name, key)
    certificate = load_strict(algs.Certificate, der.seq(tbs, algorithm, der.encode_bits(b"s")), noun="certificate")
    assert certificate.public_key["algorithm"]["algorithm"].native == "2.16.840.1.101.3.4.3.17"
    info = der.seq(der.encode_integer(0), name, key, der.tlv(0xA0, b""))
    request = load_strict(algs.CertificationRequest, der.seq(info, algorithm, der.encode_bits(b"s")), noun="request")
    assert request["certification_request_info"]["subject_pk_info"].dump() == key


def test_a_known_key_is_taken_apart() -> None:
    key = load_strict(algs.SubjectPublicKeyInfo, samples.public_key().dump(), noun="key")
    assert key["algorithm"]["parameters"].native == "secp256r1"
    assert key["public_key"].to_coords()[0] > 0
