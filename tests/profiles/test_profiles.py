"""What a profile allows, changes and refuses: every key of [profile.NAME], and the texts that the peer gets."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.ca import CertificateAuthority
from cmpd.config import ProfileConfig
from cmpd.errors import BadAlg, BadCertTemplate, SystemUnavail
from cmpd.profiles import Issuer, Profile, load_public_key
from cmpd.profiles.extensions import key_identifier
from cmpd.requests import Template
from cmpd.signing.file import FileKey
from tests.profiles.support import (
    DAY,
    NOW,
    authority,
    counting_env,
    extension,
    issue,
    key_usage,
    private_key,
    public_key,
    purposes,
    san,
    wish,
)

DNS = ("dns", "device.example")
SERVER, CLIENT, EMAIL, TIME = (f"1.3.6.1.5.5.7.3.{number}" for number in (1, 2, 4, 8))


def info(algorithm: bytes, key: bytes) -> bytes:
    return der.seq(algorithm, der.encode_bits(key))


def rsa_info(modulus: int, exponent: int, oid: str = "1.2.840.113549.1.1.1", parameters: bytes = der.NULL_TLV) -> bytes:
    numbers = der.seq(der.encode_integer(modulus), der.encode_integer(exponent))
    return info(der.seq(der.encode_oid(oid), parameters), numbers)


MODULUS = private_key("rsa2048").public_key().public_numbers().n
CLOSE_PRIMES = (2**1024 + 643) * (2**1024 + 643 + 1524)
"""What Fermat's method finds at once; that the factors are primes does not matter for that."""
ED25519, ED448, ML_DSA_44 = (
    der.seq(der.encode_oid(oid)) for oid in ("1.3.101.112", "1.3.101.113", "2.16.840.1.101.3.4.3.17")
)
SMALL_MODULUS = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
EC_POINT = private_key("p256").public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
P256 = der.seq(der.encode_oid("1.2.840.10045.2.1"), der.encode_oid("1.2.840.10045.3.1.7"))
P256_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
P256_BY_PARAMETERS = der.seq(
    der.encode_oid("1.2.840.10045.2.1"),
    der.seq(
        der.encode_integer(1),
        der.seq(der.encode_oid("1.2.840.10045.1.1"), der.encode_integer(P256_PRIME)),
        der.seq(
            der.encode_octets((P256_PRIME - 3).to_bytes(32, "big")),
            der.encode_octets(bytes.fromhex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b")),
        ),
        der.encode_octets(
            bytes.fromhex(
                "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
                "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
            )
        ),
        der.encode_integer(0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551),
        der.encode_integer(1),
    ),
)


@dataclass(frozen=True)
class Refusal:
    """A profile's rules, a wish and the text of the refusal."""

    rules: dict[str, Any]
    text: str
    options: dict[str, Any] = field(default_factory=dict)


def no(rules: dict[str, Any], text: str, **options: Any) -> Refusal:
    return Refusal(rules, text, options)


def attribute(oid: str, tag: int, octets: bytes) -> bytes:
    return der.seq(der.tlv(der.SET, der.seq(der.encode_oid(oid), der.tlv(tag, octets))))


CN, C, SN, MAIL, DC = "2.5.4.3", "2.5.4.6", "2.5.4.5", "1.2.840.113549.1.9.1", "0.9.2342.19200300.100.1.25"
TWO_CN = der.seq(der.tlv(der.SET, b"".join(der.seq(der.encode_oid(CN), der.encode_utf8(text)) for text in ("a", "b"))))
OWN_AKI = authority("p256").issuer.extensions[0]
ALL_SANS = {"san_allowed": ("dns", "ip", "email", "uri", "dn")}

REFUSALS = [
    # keys
    no({"keys": ("rsa", "p384")}, "CertTemplate.publicKey: want one of rsa, p384; have p256"),
    no({"keys": ("p256",)}, "CertTemplate.publicKey: want one of p256; have ed448", key="ed448"),
    no({"rsa_min_bits": 3072}, "CertTemplate.publicKey: want RSA of 3072 to 8192 bits, have 2048", key="rsa2048"),
    no({"rsa_max_bits": 2048}, "CertTemplate.publicKey: want RSA of 2048 to 2048 bits, have 3072", key="rsa3072"),
    # validity
    no(
        {"max_validity": 400 * DAY},
        "validity: want an end after now and after the beginning, both within 400d; have another",
        not_after=NOW,
    ),
    no({"max_validity": 400 * DAY}, "validity: want an end", not_before=NOW + DAY, not_after=NOW + DAY),
    no({"max_validity": 400 * DAY}, "validity: want an end", not_before=NOW + 400 * DAY),
    no({"max_validity": 400 * DAY}, "validity: want an end", not_before=NOW + 401 * DAY, not_after=NOW + 500 * DAY),
    # subject
    no({"subject_required": ("CN", "O")}, "subject: want CN, O; have no O", subject="/CN=x"),
    no({"subject_required": ("CN",)}, "subject: empty, which this profile does not allow", subject=""),
    no({"allow_empty_subject": False}, "subject: empty, which this", subject="", extensions=(san(DNS),)),
    no({"subject_allowed": ("CN", "O")}, "subject: want only CN, O; have C", subject="/C=DE/CN=x"),
    no({"subject_allowed": ()}, "subject: want only the NULL-DN; have CN"),
    no({}, "subject: empty, and no subjectAltName names the end entity (RFC 9483 section 4.1.1)", subject=""),
    no(
        {},
        "subject: want attributes that are known to this CA, have 1.2.3.4",
        subject=attribute("1.2.3.4", der.UTF8_STRING, b"x"),
    ),
    no({}, "subject: want each type of attribute once in an RDN, have one twice (X.501)", subject=TWO_CN),
    no(
        {},
        "subject.CN: want UTF8String or PrintableString, have a value with tag 14",
        subject=attribute(CN, der.TELETEX_STRING, b"x"),
    ),
    no({}, "subject.CN: want UTF8String", subject=attribute(CN, der.BMP_STRING, b"\0x")),
    no({}, "subject.CN: want UTF8String", subject=attribute(CN, der.INTEGER, b"\1")),
    no({}, "subject.CN: want 1 to 64 characters, have 65", subject=attribute(CN, der.UTF8_STRING, b"x" * 65)),
    no({}, "subject.CN: want 1 to 64 characters, have 0", subject=attribute(CN, der.UTF8_STRING, b"")),
    no({}, "subject.CN: want text, have a control character in it", subject=attribute(CN, der.UTF8_STRING, b"a\0b")),
    no({}, "subject.CN: want text", subject=attribute(CN, der.UTF8_STRING, "\x85".encode())),
    no(
        {},
        "subject.CN: want PrintableString, have a character that it cannot hold",
        subject=attribute(CN, der.PRINTABLE_STRING, b"a*b"),
    ),
    *(
        no(
            {},
            f"subject.CN: want characters that can be seen (RFC 4518 section 2), have U+{number:04X}",
            subject=f"/CN=pu{chr(number)}mp",
        )
        for number in (
            0xAD,
            0x34F,
            0x115F,
            0x1806,
            0x200B,
            0x200E,
            0x202E,
            0x2028,
            0x2066,
            0x3164,
            0xE000,
            0xFE0F,
            0xFEFF,
            0xFFFD,
            0xFFFE,
            0xE0041,
            0x10FFFF,
        )
    ),
    *(
        no(
            {},
            "subject.O: want a value, have nothing but spaces",
            subject=attribute("2.5.4.10", der.UTF8_STRING, blank),
        )
        for blank in (b" ", b"   ", "\u3000\xa0".encode())
    ),
    no({}, "subject.C: want PrintableString, have", subject=attribute(C, der.UTF8_STRING, b"DE")),
    no({}, "subject.C: want the two letters of a country", subject=attribute(C, der.PRINTABLE_STRING, b"D")),
    no({}, "subject.C: want the two letters of a country", subject=attribute(C, der.PRINTABLE_STRING, b"12")),
    no({}, "subject.serialNumber: want PrintableString", subject=attribute(SN, der.UTF8_STRING, b"1")),
    no({}, "subject.DC: want IA5String, have", subject=attribute(DC, der.UTF8_STRING, b"a")),
    no({}, "subject.DC: want one label of a domain name", subject=attribute(DC, der.IA5_STRING, b"a.b")),
    no({}, "subject.emailAddress: want an e-mail address", subject=attribute(MAIL, der.IA5_STRING, b"a")),
    no({}, "subject.emailAddress: want IA5String", subject=attribute(MAIL, der.UTF8_STRING, b"a@b.example")),
    no(
        {"san_allowed": ("dns",)},
        "subject.emailAddress: want none, its address must not be in subjectAltName either",
        subject="/emailAddress=a@b.example",
    ),
    no({}, "subject: RelativeDistinguishedName: empty", subject=der.seq(der.tlv(der.SET, b""))),
    # subjectAltName
    no({"san_required": True}, "subjectAltName: the profile requires it, the request has none"),
    no({"san_allowed": ("dns", "ip")}, "subjectAltName: want dns, ip; have uri", extensions=(san(("uri", "a:b")),)),
    no({"san_allowed": ()}, "subjectAltName: want none; have dns", extensions=(san(DNS),)),
    no({}, "subjectAltName: want dns, ip, email, uri; have dn", extensions=(san(("dn", "/CN=x")),)),
    no({}, "have tag A0", extensions=(extension("2.5.29.17", der.seq(der.tlv(0xA0, b""))),)),
    no({}, "subjectAltName: want a SEQUENCE of at least one", extensions=(extension("2.5.29.17", der.seq()),)),
    *(
        no({}, f"{name}: value is cut off in its header", extensions=(extension(oid, b"\1"),))
        for name, oid in [("subjectAltName", "2.5.29.17"), ("keyUsage", "2.5.29.15"), ("extKeyUsage", "2.5.29.37")]
    ),
    no({}, r"not a valid dns name: 'a@b\x00\xff'", extensions=(san(("dns", b"a@b\0\xff")),)),
    no(ALL_SANS, "not a valid dn name", extensions=(san(("dn", "")),)),
    no(
        ALL_SANS,
        "subjectAltName.directoryName.CN: want UTF8String or PrintableString",
        extensions=(san(("dn", attribute(CN, der.TELETEX_STRING, b"x"))),),
    ),
    *(
        no({}, f"subjectAltName: not a valid {kind} name", extensions=(san((kind, wrong)),))
        for kind, wrongs in {
            "dns": [
                "",
                " ",
                "a b",
                "a..b",
                "-a",
                "a-",
                "a_b",
                ".a",
                "a.",
                "*",
                "*.",
                "a.*.b",
                "**.a",
                "192.0.2.1",
                "ä",
                "x" * 64,
                "a." * 127 + "a",
                "xn--.x",
                "a.xn--a",
                "XN--abc-.x",
                "xn--99999999999999.x",
                "*." + "a." * 126 + "a",
            ],
            "email": [
                "",
                "a",
                "@b",
                "a@",
                "a@@b",
                "a@b@c",
                "a b@c",
                ".a@b",
                "a.@b",
                "a..b@c",
                '"a"@b',
                "a@[192.0.2.1]",
                "a@*.b",
                "a@b_c",
                "x" * 65 + "@b",
                "ä@b",
            ],
            "uri": [
                "",
                "a",
                "/a",
                "a:",
                "1:a",
                "a:b c",
                "a:%",
                "a:%0",
                "a:b\\",
                "https://",
                "https:///a",
                "http://a_b/",
                "http://[::g]/",
                "http://[192.0.2.1]/",
                "http://*.a/",
                "http://a:b/",
                "http://a@b@c/",
                "https://good.example@evil.example/",
                "HTTP://a:b@c",
                "a:ä",
                "http://192.0.2.256/",
            ],
            "ip": [
                b"",
                b"abc",
                b"abcde",
                b"abcdefgh",
                bytes(15),
                bytes(17),
                bytes(32),
                bytes(10) + b"\xff\xff\xc0\0\2\1",
            ],
        }.items()
        for wrong in wrongs
    ),
    # keyUsage and extKeyUsage
    no(
        {},
        "keyUsage: want some of digitalSignature, nonRepudiation, keyEncipherment, keyAgreement that a key of type "
        "p256 can do, have dataEncipherment, keyCertSign",
        extensions=(key_usage(3, 5),),
    ),
    no({}, "that a key of type ed25519 can do, have keyAgreement", key="ed25519", extensions=(key_usage(4),)),
    no({}, "have nothing", extensions=(key_usage(),)),
    no(
        {"key_usage": ("keyEncipherment",)},
        "keyUsage: want some of keyEncipherment that a key of type p256 can do, have keyEncipherment",
    ),
    no({}, "keyUsage: want the bits 0 to 8, have others", extensions=(key_usage(0, 9),)),
    no({}, "keyUsage: want a BIT STRING of at most 9 bits", extensions=(key_usage(0, 16),)),
    no({}, "keyUsage: want tag 03, have 02", extensions=(extension("2.5.29.15", b"\x02\x01\x00"),)),
    no(
        {"extended_key_usage_allowed": ("clientAuth", "1.2.3.4")},
        f"extKeyUsage: want some of clientAuth, 1.2.3.4, have {SERVER}",
        extensions=(purposes(SERVER),),
    ),
    no({}, "have 1.3.6.1.5.5.7.3.2, 1.2.3.4", extensions=(purposes(CLIENT, "1.2.3.4", critical=True),)),
    no({"extended_key_usage_allowed": ()}, "extKeyUsage: want some of nothing", extensions=(purposes(CLIENT),)),
    no({}, "extKeyUsage: want a SEQUENCE of at least one", extensions=(extension("2.5.29.37", der.seq()),)),
    no({}, "extKeyUsage: want a SEQUENCE of at least", extensions=(extension("2.5.29.37", der.seq(der.NULL_TLV)),)),
    no({}, "more than 32 values", extensions=(purposes(*(f"1.2.3.{i}" for i in range(33))),)),
    no(
        {"extended_key_usage_allowed": ("timeStamping", "clientAuth")},
        "extKeyUsage: want timeStamping alone (RFC 3161 section 2.3), have others beside it",
        extensions=(purposes(TIME, CLIENT),),
    ),
    # other extensions, other fields
    no(
        {},
        "basicConstraints: want cA FALSE or none; this profile is for end entities",
        extensions=(extension("2.5.29.19", der.seq(der.encode_boolean(True)), critical=True),),
    ),
    no(
        {},
        "CertTemplate: must not have serialNumber, signingAlg (RFC 4211 section 5)",
        forbidden=("serialNumber", "signingAlg"),
    ),
    no({}, "CertTemplate.version: want 2 (v3) or none, have 0", version=0),
]


@pytest.mark.parametrize("row", REFUSALS, ids=[f"{row.text[:60]} {i}" for i, row in enumerate(REFUSALS)])
def test_a_profile_refuses(row: Refusal) -> None:
    with pytest.raises(BadCertTemplate, match=re.escape(row.text)) as caught:
        wish(ProfileConfig(**row.rules), **row.options)
    assert len(caught.value.text) < 300


@dataclass(frozen=True)
class Grants:
    """A profile's rules, a wish, what is changed, and what is in the certificate."""

    rules: dict[str, Any]
    changes: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    holds: x509.ExtensionType | None = None
    critical: bool | None = None


def yes(
    rules: dict[str, Any],
    *changes: str,
    holds: x509.ExtensionType | None = None,
    critical: bool | None = None,
    **options: Any,
) -> Grants:
    return Grants(rules, changes, options, holds, critical)


def usage(*names: str) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    every += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in names for name in every})


def eku(*oids: str) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage([x509.ObjectIdentifier(oid) for oid in oids])


ALL = ("digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "encipherOnly")
ALL = (*ALL, "decipherOnly")
ENCRYPT = {"keys": ("rsa", "p256"), "key_usage": ("digitalSignature", "keyEncipherment")}
MAIL_SAN = x509.SubjectAlternativeName([x509.DNSName("device.example"), x509.RFC822Name("a@b.example")])

GRANTS = [
    yes({}, holds=usage("digital_signature"), critical=True),
    yes({"keys": ("ed448",)}, key="ed448"),
    yes({"rsa_min_bits": 3072}, key="rsa3072"),
    yes({"rsa_max_bits": 2048}, key="rsa2048"),
    yes({}, key=info(P256, bytes((2 + (EC_POINT[-1] & 1),)) + EC_POINT[1:33])),
    yes({"subject_required": ("CN", "O"), "subject_allowed": ("CN", "O", "C")}, subject="/O=x/CN=x"),
    yes({"subject_allowed": ()}, "subjectAltName is critical", subject="", extensions=(san(DNS),), critical=True,
        holds=x509.SubjectAlternativeName([x509.DNSName("device.example")])),
    yes({"allow_empty_subject": False}),
    yes({"san_required": True}, extensions=(san(DNS),)),
    yes({}, extensions=(san(DNS),), critical=False,
        holds=x509.SubjectAlternativeName([x509.DNSName("device.example")])),
    yes({}, "subjectAltName is not critical", extensions=(san(DNS, critical=True),)),
    yes({}, subject="", extensions=(san(DNS, critical=True),)),
    yes({}, "subjectAltName with the emailAddress of the subject", subject="/emailAddress=a@b.example",
        holds=x509.SubjectAlternativeName([x509.RFC822Name("a@b.example")]), critical=False),
    yes({}, "subjectAltName with the emailAddress of the subject", subject="/emailAddress=a@b.example",
        extensions=(san(DNS),), holds=MAIL_SAN),
    yes({}, subject="/emailAddress=a@b.example", extensions=(san(DNS, ("email", "a@b.example")),), holds=MAIL_SAN),
    *(
        yes({}, extensions=(san((kind, right)),))
        for kind, rights in {
            "dns": ["a", "a-b", "1.a", "*.a", "xn--bcher-kva.example", "x" * 63, "a." * 126 + "a", "EXAMPLE"],
            "email": ["a@b", "a.b+c@d.example", "x" * 64 + "@b", "!#$%&'*+/=?^_`{|}~-@b"],
            "uri": ["a:b", "urn:uuid:0", "https://a", "https://a:1/b?c#d", "http://192.0.2.1/", "http://[2001:db8::1]:1",
                    "sip:a@b", "spiffe://a.example/b", "ssh://a:b@c/", "a:%20", "x+y.z-1:/"],
            "ip": [bytes(4), bytes(16)],
        }.items()
        for right in rights
    ),
    yes(ALL_SANS, extensions=(san(("dn", "/C=DE/CN=x")),)),
    yes({"keys": ("rsa", "p256"), "key_usage": ("digitalSignature", "keyEncipherment")}, key="rsa2048",
        holds=usage("digital_signature", "key_encipherment"), critical=True),
    yes(ENCRYPT, holds=usage("digital_signature")),
    yes({}, "keyUsage without dataEncipherment", key="rsa2048", extensions=(key_usage(0, 2, 3),),
        holds=usage("digital_signature", "key_encipherment")),
    yes({"key_usage_allowed": ALL}, "keyUsage without keyAgreement", key="rsa2048",
        extensions=(key_usage(0, 1, 2, 3, 4),)),
    yes({}, "keyUsage without keyCertSign", "keyUsage is critical", extensions=(key_usage(0, 5, critical=False),)),
    yes({"key_usage_allowed": ALL}, extensions=(key_usage(4, 8),), holds=usage("key_agreement", "decipher_only")),
    yes({"key_usage_allowed": ALL}, "keyUsage without decipherOnly", extensions=(key_usage(0, 8),),
        holds=usage("digital_signature")),
    yes({"key_usage_allowed": ALL}, "keyUsage without decipherOnly, encipherOnly", extensions=(key_usage(4, 7, 8),),
        holds=usage("key_agreement")),
    yes({"extended_key_usage": ("clientAuth", "emailProtection")}, holds=eku(CLIENT, EMAIL), critical=False),
    yes({"extended_key_usage": ("clientAuth",)}, extensions=(purposes(SERVER),), holds=eku(SERVER)),
    yes({"extended_key_usage_allowed": ("1.2.3.4",)}, extensions=(purposes("1.2.3.4", critical=True),),
        holds=eku("1.2.3.4"), critical=True),
    yes({}, f"extKeyUsage without {TIME}, 1.2.3.4", extensions=(purposes(SERVER, TIME, "1.2.3.4", SERVER),),
        holds=eku(SERVER), critical=False),
    yes({"extended_key_usage": ("timeStamping",), "extended_key_usage_allowed": ("timeStamping",)}, holds=eku(TIME),
        critical=True),
    yes({"extended_key_usage_allowed": ("timeStamping",)}, "extKeyUsage is critical", extensions=(purposes(TIME),),
        holds=eku(TIME), critical=True),
    yes({}, extensions=(extension("2.5.29.19", b"\x30\x00", critical=True),), critical=True,
        holds=x509.BasicConstraints(False, None)),
    yes({}, "authorityKeyIdentifier is the CA's own", extensions=(extension("2.5.29.35", der.seq()),)),
    yes({}, extensions=(OWN_AKI,)),
    yes({}, "authorityKeyIdentifier is the CA's own", extensions=(replace(OWN_AKI, critical=True),)),
    yes({}, "subjectKeyIdentifier is the CA's own", extensions=(
        extension("2.5.29.14", der.encode_octets(key_identifier(public_key("p256"))), critical=True),)),
    yes({}, extensions=(extension("2.5.29.14", der.encode_octets(key_identifier(public_key("p256")))),)),
    yes({}, "subjectKeyIdentifier is the CA's own", extensions=(extension("2.5.29.14", b"\x04\x01a"),)),
    yes({}, "without extension 1.2.3.4", "without extension 1.2.3.5",
        extensions=(extension("1.2.3.4", b""), extension("1.2.3.5", b""))),
    yes({}, version=2),
]  # fmt: skip


@pytest.mark.parametrize("row", GRANTS, ids=[f"{'; '.join(row.changes)} {i}" for i, row in enumerate(GRANTS)])
def test_a_profile_grants_and_says_what_it_changes(row: Grants) -> None:
    granted = wish(ProfileConfig(**row.rules), **row.options)
    assert granted.changes == row.changes
    certificate = x509.load_der_x509_certificate(issue(authority("p256"), granted))
    names = encode_name(row.options.get("subject", "/CN=device"))
    assert certificate.subject.public_bytes() == names
    if row.holds is not None:
        found = certificate.extensions.get_extension_for_oid(row.holds.oid)
        assert found.value == row.holds
        assert row.critical in (None, found.critical)


def test_a_certificate_has_no_more_extensions_than_are_granted() -> None:
    certificate = x509.load_der_x509_certificate(issue(authority("p256"), wish()))
    names = {found.oid._name for found in certificate.extensions}
    assert names == {"authorityKeyIdentifier", "subjectKeyIdentifier", "keyUsage"}


# --- validity --------------------------------------------------------------------------------------------------------

CAPPED = {"validity": 30 * DAY, "max_validity": 90 * DAY, "backdate": 3600}
EARLIEST = NOW - 3600


@pytest.mark.parametrize(
    ("rules", "asked", "wanted", "changes"),
    [
        ({}, (None, None), (NOW - 300, NOW + 365 * DAY), ()),
        ({"validity": DAY, "backdate": 0}, (None, None), (NOW, NOW + DAY), ()),
        ({}, (NOW, NOW + DAY), (NOW - 300, NOW + 365 * DAY), ("validity is the profile's",)),
        ({}, (None, NOW - DAY), (NOW - 300, NOW + 365 * DAY), ("validity is the profile's",)),
        (CAPPED, (None, None), (EARLIEST, NOW + 30 * DAY), ()),
        (CAPPED, (NOW, NOW + DAY), (NOW, NOW + DAY), ()),
        (CAPPED, (EARLIEST, NOW + 90 * DAY), (EARLIEST, NOW + 90 * DAY), ()),
        (CAPPED, (None, NOW + DAY), (EARLIEST, NOW + DAY), ()),
        (CAPPED, (NOW + DAY, None), (NOW + DAY, NOW + 31 * DAY), ()),
        (CAPPED, (NOW + 80 * DAY, None), (NOW + 80 * DAY, NOW + 90 * DAY), ()),
        (CAPPED, (EARLIEST - 1, NOW + DAY), (EARLIEST, NOW + DAY), ("validity begins later",)),
        (CAPPED, (0, NOW + DAY), (EARLIEST, NOW + DAY), ("validity begins later",)),
        (
            CAPPED,
            (None, NOW + 90 * DAY + 1),
            (EARLIEST, NOW + 90 * DAY),
            ("validity ends earlier: the profile allows 90d",),
        ),
    ],
)
def test_validity(
    rules: dict[str, int], asked: tuple[int | None, int | None], wanted: tuple[int, int], changes: tuple[str, ...]
) -> None:
    granted = wish(ProfileConfig(**rules), not_before=asked[0], not_after=asked[1])
    assert (granted.not_before, granted.not_after) == wanted
    assert granted.changes == changes


CA_END = NOW + 7305 * DAY


@pytest.mark.parametrize(
    ("asked", "changes"), [(None, ()), (CA_END + 1, ("validity within that of the CA's certificate",))]
)
def test_a_certificate_does_not_outlive_the_ca(asked: int | None, changes: tuple[str, ...]) -> None:
    ca = authority("p256")
    rules = ProfileConfig(validity=8000 * DAY, max_validity=9000 * DAY, backdate=7 * DAY)
    granted = ca.bound(wish(rules, not_after=asked))
    assert (granted.not_before, granted.not_after) == (NOW - 3600, CA_END)
    assert granted.changes == changes
    certificate = x509.load_der_x509_certificate(issue(ca, wish(rules, not_after=asked)))
    assert certificate.not_valid_after_utc.timestamp() == CA_END
    assert certificate.not_valid_before_utc.timestamp() == NOW - 3600
    assert ca.bound(granted) is granted


def test_a_certificate_that_begins_after_the_end_of_the_ca_is_refused() -> None:
    granted = wish(ProfileConfig(max_validity=9000 * DAY), not_before=CA_END)
    with pytest.raises(BadCertTemplate, match="validity: want a beginning before the CA's certificate ends"):
        authority("p256").bound(granted)


@pytest.mark.parametrize("moment", [NOW - 3601, CA_END + 1])
def test_a_ca_whose_certificate_is_not_valid_now_issues_nothing(moment: int) -> None:
    certificate, key = authority("p256").certificate, FileKey(private_key("p256", 1))
    ca = CertificateAuthority(certificate, (), key, counting_env(moment))
    with pytest.raises(SystemUnavail, match="the CA's own certificate is not valid at this time"):
        issue(ca, wish(now=moment))


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "error", "text"),
    [
        (None, BadCertTemplate, "CertTemplate.publicKey: missing; central key generation is not offered"),
        (info(P256, b""), BadCertTemplate, "central key generation is not offered"),
        (info(P256, b"\x04" + bytes(64)), BadAlg, "CertTemplate.publicKey: want a valid public key"),
        (public_key("p256") + b"\0", BadAlg, "want a valid public key, have another"),
        (info(der.seq(der.encode_oid("1.2.3")), b"x"), BadAlg, "the algorithm or curve is not supported"),
        (rsa_info(SMALL_MODULUS, 65537), BadAlg, "publicKey: want an RSA key of 2048 to 16384 bits, have 1024"),
        (rsa_info(MODULUS, 3), BadAlg, "publicKey: want an odd RSA exponent of at least 65537"),
        (rsa_info(MODULUS, 65538), BadAlg, "publicKey: want"),
        (rsa_info(MODULUS, (1 << 64) + 1), BadAlg, "and at most 64 bits, have another"),
        (rsa_info(MODULUS + 1, 65537), BadAlg, "publicKey: want an RSA modulus without small factors"),
        (rsa_info(CLOSE_PRIMES, 65537), BadAlg, "publicKey: want an RSA modulus of two primes far apart"),
        *(
            (odd, BadAlg, f"publicKey: want the AlgorithmIdentifier that RFC 3279, 5480, 8410 and 9881 have for {kind}")
            for kind, odd in [
                ("rsa", rsa_info(MODULUS, 65537, parameters=b"")),
                ("rsa", rsa_info(MODULUS, 65537, "1.2.840.113549.1.1.10", b"")),
                ("p256", info(P256_BY_PARAMETERS, EC_POINT)),
            ]
        ),
        (
            info(P256, bytes((6 + (EC_POINT[-1] & 1),)) + EC_POINT[1:]),
            BadAlg,
            "want a point that is not hybrid",
        ),
        (info(P256, EC_POINT[:-1] + bytes((EC_POINT[-1] ^ 1,))), BadAlg, "publicKey: want a valid public key"),
        (info(P256, b"\x00"), BadAlg, "publicKey: want a valid public key"),
        (info(ED25519, b"\x01" + bytes(31)), BadAlg, "want a point of large order"),
        (info(ED448, bytes(57)), BadAlg, "want a point of large order"),
        (info(ML_DSA_44, bytes(1311)), BadAlg, "publicKey: want a valid public key"),
    ],
    ids=lambda value: "key" if isinstance(value, bytes) else None,
)
def test_what_is_no_public_key_is_refused(octets: bytes | None, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        load_public_key(octets)


def test_a_curve_that_has_no_word_in_the_configuration_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256K1()).public_key()
    with pytest.raises(BadAlg, match=r"want an EC key on one of .*; have secp256k1"):
        wish(key=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize(("allowed", "held"), [(True, "p256"), (False, "p384"), (False, None)])
def test_the_key_of_the_old_certificate_may_be_kept_only_where_the_profile_says_so(
    allowed: bool, held: str | None
) -> None:
    profile = Profile("test", ProfileConfig(allow_key_reuse=allowed))
    octets, name = public_key("p256"), encode_name("/CN=x")
    template, key = Template(subject=name, public_key=octets), load_public_key(octets)
    assert (
        profile.grant(template, key, name, (), NOW, issuer=Issuer(), held_key=held and public_key(held)).public_key
        == octets
    )
    if not allowed:
        with pytest.raises(BadCertTemplate, match="publicKey: want a new key, have that of the certificate to be upd"):
            profile.grant(template, key, name, (), NOW, issuer=Issuer(), held_key=octets)
