"""Requests as an independent codec (pyasn1-alt-modules) and hashlib see them, and as the server's reader does."""

import hashlib
import hmac
import itertools
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc2986, rfc4211, rfc8018, rfc9480

from cmpd.asn1 import der, names
from cmpd.client import messages
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, SharedSecret
from cmpd.client.errors import ClientError
from cmpd.client.keys import KEY_TYPES, PrivateKey
from cmpd.client.messages import EMPTY_NAME, Template
from cmpd.env import Env
from tests.client.ca import issue

SUBJECT = names.encode_name("CN=device,O=Example")
SECRET = b"secret"
MAC = SharedSecret("reference", SECRET, iterations=500)


def counting() -> Env:
    """A clock that stands, and random octets that count."""
    numbers = itertools.count(1)
    return Env(now=lambda: 1_800_000_000.0, random=lambda n: next(numbers).to_bytes(n, "big"))


def decoded(octets: bytes) -> Any:
    message, rest = decoder.decode(octets, asn1Spec=rfc9480.PKIMessage())
    assert not rest
    assert encoder.encode(message) == octets, "it is DER"
    return message


def protected_part(message: Any) -> bytes:
    part = rfc9480.ProtectedPart()
    part["header"] = message["header"]
    part["body"] = message["body"]
    return bytes(encoder.encode(part))


def ir(key: PrivateKey, credential: Credential = MAC, **what: Any) -> messages.Request:
    options = {name: what.pop(name) for name in ("implicit_confirm", "profile") if name in what}
    template = Template(key, what.pop("subject", SUBJECT), **what)
    return messages.cert_request("ir", [template], credential, counting(), **options)


def test_the_header_is_as_the_profile_says() -> None:
    message = decoded(ir(KEY_TYPES["p256"](), profile="tls").der)
    header = message["header"]
    assert int(header["pvno"]) == 2
    assert encoder.encode(header["sender"]) == der.explicit(4, names.encode_name("CN=reference"))
    assert bytes(header["senderKID"]) == b"reference"
    assert encoder.encode(header["recipient"]) == der.explicit(4, EMPTY_NAME)
    assert str(header["messageTime"]) == "20270115080000Z"
    assert len(bytes(header["transactionID"])) == len(bytes(header["senderNonce"])) == 16
    assert bytes(header["transactionID"]) != bytes(header["senderNonce"])
    assert not header["recipNonce"].hasValue()
    info = {str(item["infoType"]): bytes(item["infoValue"]) for item in header["generalInfo"]}
    assert info == {"1.3.6.1.5.5.7.4.13": der.NULL_TLV, "1.3.6.1.5.5.7.4.21": der.seq(der.encode_utf8("tls"))}
    assert not message["extraCerts"].hasValue()


def test_general_info_is_absent_when_nothing_is_asked() -> None:
    assert not decoded(ir(KEY_TYPES["p256"](), implicit_confirm=False).der)["header"]["generalInfo"].hasValue()


def test_the_same_random_octets_and_time_give_the_same_message() -> None:
    key = KEY_TYPES["ed25519"]()
    assert ir(key).der == ir(key).der


def test_password_based_mac_is_as_in_rfc_4211() -> None:
    message = decoded(ir(KEY_TYPES["p256"]()).der)
    algorithm = message["header"]["protectionAlg"]
    assert str(algorithm["algorithm"]) == "1.2.840.113533.7.66.13"
    parameter, rest = decoder.decode(bytes(algorithm["parameters"]), asn1Spec=rfc4211.PBMParameter())
    assert not rest
    assert str(parameter["owf"]["algorithm"]) == "2.16.840.1.101.3.4.2.1"
    assert str(parameter["mac"]["algorithm"]) == "1.2.840.113549.2.9"
    assert len(bytes(parameter["salt"])) == 16
    assert int(parameter["iterationCount"]) == 500
    key = SECRET + bytes(parameter["salt"])
    for _ in range(500):
        key = hashlib.sha256(key).digest()
    value = message["protection"].asOctets()
    assert value == hmac.digest(key, protected_part(message), "sha256")


def test_pbmac1_is_as_in_rfc_8018() -> None:
    credential = SharedSecret("reference", SECRET, mac="pbmac1", iterations=1000)
    message = decoded(ir(KEY_TYPES["p256"](), credential).der)
    algorithm = message["header"]["protectionAlg"]
    assert str(algorithm["algorithm"]) == "1.2.840.113549.1.5.14"
    parameters, _ = decoder.decode(bytes(algorithm["parameters"]), asn1Spec=rfc8018.PBMAC1_params())
    derivation = parameters["keyDerivationFunc"]["parameters"]
    pbkdf2, _ = decoder.decode(bytes(derivation), asn1Spec=rfc8018.PBKDF2_params())
    assert (int(pbkdf2["iterationCount"]), int(pbkdf2["keyLength"])) == (1000, 32)
    assert str(pbkdf2["prf"]["algorithm"]) == "1.2.840.113549.2.9"
    key = hashlib.pbkdf2_hmac("sha256", SECRET, bytes(pbkdf2["salt"]["specified"]), 1000, 32)
    assert message["protection"].asOctets() == hmac.digest(key, protected_part(message), "sha256")


def test_signature_protection_carries_the_certificate_and_then_its_chain_without_the_root() -> None:
    root = issue("root", ca=True)
    sub = issue("sub", root, ca=True)
    own = issue("device", sub)
    credential = type(own.credential)(own.key, own.certificate, (sub.certificate, root.certificate))
    message = decoded(ir(KEY_TYPES["p256"](), credential).der)
    extra = [encoder.encode(one) for one in message["extraCerts"]]
    # each is a CMPCertificate: a CHOICE with one alternative, so a Certificate as it stands
    assert extra == [own.certificate.der, sub.certificate.der]
    assert bytes(message["header"]["senderKID"]) == own.certificate.key_identifier
    own.key.public_key().verify(message["protection"].asOctets(), protected_part(message), ec.ECDSA(hashes.SHA256()))


def _verify(key: PrivateKey, signature: bytes, octets: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]
        key.public_key().verify(signature, octets, ec.ECDSA(algorithm))
    elif isinstance(key, rsa.RSAPrivateKey):
        key.public_key().verify(signature, octets, padding.PKCS1v15(), hashes.SHA256())
    else:
        key.public_key().verify(signature, octets)


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "ed25519", "ed448"])
def test_proof_of_possession_is_a_signature_over_cert_request(kind: str) -> None:
    key = KEY_TYPES[kind]()
    message = decoded(ir(key).der)["body"]["ir"][0]
    signature = message["popo"]["signature"]
    assert not signature["poposkInput"].hasValue()
    _verify(key, signature["signature"].asOctets(), encoder.encode(message["certReq"]))
    template = message["certReq"]["certTemplate"]
    public = b"\x30" + encoder.encode(template["publicKey"])[1:]
    assert public == messages.Template(key, SUBJECT).public_key_info
    assert encoder.encode(template["subject"])[2:] == SUBJECT


def test_without_a_subject_the_signature_is_over_poposk_input() -> None:
    key = KEY_TYPES["p256"]()
    message = decoded(ir(key, subject=None).der)["body"]["ir"][0]
    assert not message["certReq"]["certTemplate"]["subject"].hasValue()
    signed = message["popo"]["signature"]["poposkInput"]
    _verify(key, message["popo"]["signature"]["signature"].asOctets(), b"\x30" + encoder.encode(signed)[1:])
    assert encoder.encode(signed["authInfo"]["sender"]) == der.explicit(
        0, der.explicit(4, names.encode_name("CN=reference"))
    )


def test_an_ra_may_ask_without_the_private_key() -> None:
    public = messages.Template(KEY_TYPES["p256"](), SUBJECT).public_key_info
    request = messages.cert_request("cr", [Template(None, SUBJECT, public_key=public)], MAC, counting())
    message = decoded(request.der)["body"]["cr"][0]
    assert message["popo"].getName() == "raVerified"


def test_what_is_asked_for_is_in_the_template_and_the_controls() -> None:
    old = issue("device")
    message = decoded(
        ir(
            KEY_TYPES["p256"](),
            extensions=(messages.subject_alt_name(["dns:a.example", "ip:192.0.2.1", "ip:2001:db8::1", "email:a@b"]),),
            not_before=1_800_000_000,
            not_after=2_600_000_000,
            issuer=names.encode_name("CN=ca"),
            replaces=old.certificate,
            reg_token="token",
            authenticator="mother's name",
        ).der
    )["body"]["ir"][0]["certReq"]
    template = message["certTemplate"]
    assert str(template["validity"]["notBefore"]["utcTime"]) == "270115080000Z"
    assert str(template["validity"]["notAfter"]["generalTime"]) == "20520522141320Z"
    assert encoder.encode(template["issuer"])[2:] == names.encode_name("CN=ca")
    san = x509.load_der_x509_certificate(issue("x", san="a.example").certificate.der).extensions
    assert san.get_extension_for_class(x509.SubjectAlternativeName).value.public_bytes()[2:] in bytes(
        template["extensions"][0]["extnValue"]
    )
    assert bytes.fromhex("8704c0000201") in bytes(template["extensions"][0]["extnValue"])
    assert [str(one["type"]).rpartition(".")[2] for one in message["controls"]] == ["1", "2", "5"]
    old_id, _ = decoder.decode(bytes(message["controls"][2]["value"]), asn1Spec=rfc4211.OldCertId())
    assert int(old_id["serialNumber"]) == old.certificate.serial
    assert encoder.encode(old_id["issuer"]) == der.explicit(4, old.certificate.issuer)


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
def test_a_pkcs_10_request_is_one_for_others_too(kind: str) -> None:
    key = KEY_TYPES[kind]()
    san = messages.subject_alt_name(["dns:a.example"])
    request = messages.certification_request(Template(key, SUBJECT, (san,)))
    csr = x509.load_der_x509_csr(request)
    assert csr.is_signature_valid
    assert csr.subject.rfc4514_string() == "CN=device,O=Example"
    names_ = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names_.get_values_for_type(x509.DNSName) == ["a.example"]
    assert messages.public_key_of(request) == Template(key, SUBJECT).public_key_info
    decoder.decode(request, asn1Spec=rfc2986.CertificationRequest())
    message = decoded(messages.p10_request(request, MAC, counting()).der)
    assert encoder.encode(message["body"]["p10cr"]) == der.explicit(4, request)


@pytest.mark.parametrize(("reject", "status"), [(None, None), ("not what I asked for", (2, ["not what I asked for"]))])
def test_cert_conf(reject: str | None, status: object) -> None:
    certificate = issue("device").certificate
    env = counting()
    content = der.seq(messages.cert_status(certificate, -1, reject))
    request = messages.protect(
        "certConf", content, MAC.protector(env), env, transaction_id=bytes(16), recip_nonce=bytes(range(16))
    )
    message = decoded(request.der)
    assert bytes(message["header"]["transactionID"]) == bytes(16)
    assert bytes(message["header"]["recipNonce"]) == bytes(range(16))
    only = message["body"]["certConf"][0]
    assert bytes(only["certHash"]) == hashlib.sha256(certificate.der).digest()
    assert int(only["certReqId"]) == -1
    info = only["statusInfo"]
    assert ((int(info["status"]), [str(text) for text in info["statusString"]]) if info.hasValue() else None) == status


def test_an_error_of_the_client() -> None:
    env = counting()
    request = messages.protect("error", messages.error_content("lost my key"), MAC.protector(env), env)
    content = decoded(request.der)["body"]["error"]
    assert str(content["pKIStatusInfo"]["statusString"][0]) == "lost my key"
    assert int(content["pKIStatusInfo"]["status"]) == 2


@pytest.mark.parametrize(
    ("key", "algorithm", "wanted"),
    [
        ("p384", hashes.SHA384(), "sha384"),
        ("rsa2048", hashes.SHA512(), "sha512"),
        ("ed25519", None, "sha512"),
    ],
)
def test_cert_hash_is_made_by_the_hash_of_the_certificates_own_signature(
    key: str, algorithm: hashes.HashAlgorithm | None, wanted: str
) -> None:
    signer = KEY_TYPES[key]()
    like = issue("device").certificate.parsed
    certificate = (
        x509.CertificateBuilder(like.subject, like.subject, like.public_key(), 1)
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
        .sign(signer, algorithm)
        .public_bytes(serialization.Encoding.DER)
    )
    assert messages.cert_hash(Certificate.load(certificate)) == hashlib.new(wanted, certificate).digest()


@pytest.mark.parametrize("name", ["a.example", "dns:", "host:a", "ip:300.1.1.1", "email:ü@x", ":"])
def test_a_name_that_cannot_be_meant_is_refused(name: str) -> None:
    with pytest.raises(ClientError, match="subjectAltName"):
        messages.subject_alt_name([name])
