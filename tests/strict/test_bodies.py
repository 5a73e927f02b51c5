"""Each check of a message's body, for each body: one line, one fault, in one table.

A fault of the body of ir, cr, p10cr, kur and rr comes in the answer of its kind, with rejection; all others in an error
(RFC 9483 section 3.6.2). The answers are protected as the messages are.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate
from cmpd.client.keys import public_key_info
from cmpd.client.messages import cert_hash, cert_status, extension
from cmpd.config import ProfileConfig
from cmpd.origin import Origin
from tests import chains
from tests.hostile import craft
from tests.hostile.pieces import ECDSA, OLD_CERT_ID, SAN, SHA1, SHA256, SUBJECT, Ask, control, p10
from tests.strict.setting import FIRST, KEY, LENIENT, SECRET, STRICT, Case, Spoil, borrow, make
from tests.strict.table import ITS_OWN, Row, own, refuse
from tests.world import Seen, raw_details, reason_code, rev_details, serial_octets

ENROLMENTS = ("ir mac", "ir signature", "cr mac", "cr signature", "kur signature")
SIGNED_FIRST = tuple(message for message in FIRST if message.endswith("signature"))
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = encode_name("/CN=other")
EMPTY = b"\x30\0"
CA_TRUE = extension("2.5.29.19", der.seq(b"\x01\x01\xff"))
UNKNOWN_CRITICAL = extension("1.2.3.4", der.NULL_TLV, critical=True)
NO_NAMES = extension("2.5.29.17", EMPTY)
ED25519 = der.seq(der.seq(der.encode_oid("1.3.101.112")), der.encode_bits(bytes(32)))[:-32]
UNKNOWN_KEY = der.seq(der.seq(der.encode_oid("1.2.3")), der.encode_bits(bytes(32)))
UTF8_PAIRS_INTEGER = der.seq(der.encode_oid("1.3.6.1.5.5.7.5.2.1"), der.encode_integer(1))
CERT_REQ_NULL = der.seq(der.encode_oid("1.3.6.1.5.5.7.5.2.2"), der.NULL_TLV)
OTHER_SAN = extension("2.5.29.17", bytes.fromhex("300382017a"))


# --- ir, cr, kur ------------------------------------------------------------------------------------------------------


def ask(change: Callable[[Ask], Ask], number: int = 0) -> Spoil:
    """The CertReqMsg with something else in it; `number`: the certReqId of its answer."""
    return lambda case: replace(case.content(der.seq(change(Ask(KEY)).message)), number=number)


def field(number: int, octets: bytes) -> Spoil:
    return ask(lambda ask: ask.field(number, octets))


def without(number: int) -> Spoil:
    return ask(lambda ask: replace(ask, fields=tuple(part for part in ask.parts if part[0] & 0x1F != number)))


def cert_req_id(number: int) -> Spoil:
    return ask(lambda ask: replace(ask, cert_req_id=der.encode_integer(number)), number)


def template(octets: bytes) -> Spoil:
    return ask(lambda ask: replace(ask, template=octets))


def popo(octets: bytes) -> Spoil:
    return ask(lambda ask: replace(ask, popo=octets))


def controls(octets: bytes) -> Spoil:
    return ask(lambda ask: replace(ask, controls=octets))


def messages(*numbers: int) -> Spoil:
    """CertReqMessages with these certReqIds."""
    asked = [Ask(KEY, cert_req_id=der.encode_integer(number)).message for number in numbers]
    return lambda case: case.content(der.seq(*asked))


def whole(octets: bytes) -> Spoil:
    return lambda case: case.content(octets)


def signed_by_another(ask: Ask) -> Ask:
    return replace(
        ask, popo=der.tlv(0xA1, ECDSA + der.encode_bits(OTHER_KEY.sign(ask.request, ec.ECDSA(hashes.SHA256()))))
    )


def signed_over_the_template(ask: Ask) -> Ask:
    return replace(ask, popo=der.tlv(0xA1, ECDSA + der.encode_bits(ask.signed(der.seq(*ask.parts)))))


def with_poposk_input(ask: Ask) -> Ask:
    octets = der.seq(der.explicit(0, der.explicit(4, SUBJECT)), public_key_info(ask.key))
    return replace(ask, popo=der.tlv(0xA1, b"\xa0" + octets[1:] + ECDSA + der.encode_bits(ask.signed(octets))))


def signature(oid: str, *parameters: bytes) -> Spoil:
    return popo(der.tlv(0xA1, der.seq(der.encode_oid(oid), *parameters) + der.encode_bits(bytes(64))))


def public_key(info: bytes) -> Spoil:
    """Another SubjectPublicKeyInfo; POP is not the fault that is found first."""
    return field(6, b"\xa6" + info[1:])


def rsa_key(modulus: int, exponent: int) -> Spoil:
    numbers = der.seq(der.encode_integer(modulus), der.encode_integer(exponent))
    algorithm = der.seq(der.encode_oid("1.2.840.113549.1.1.1"), der.NULL_TLV)
    return public_key(der.seq(algorithm, der.encode_bits(numbers)))


def ec_key(curve: str, point: bytes) -> Spoil:
    algorithm = der.seq(der.encode_oid("1.2.840.10045.2.1"), der.encode_oid(curve))
    return public_key(der.seq(algorithm, der.encode_bits(point)))


def reg_info(*attributes: bytes) -> Spoil:
    return ask(lambda ask: replace(ask, reg_info=der.seq(*attributes)))


def reg_info_cert_req(*requests: Ask) -> Spoil:
    """RegInfo's certReq, once for each."""
    oid = der.encode_oid("1.3.6.1.5.5.7.5.2.2")
    return reg_info(*(der.seq(oid, one.request) for one in requests))


def profile(name: str) -> Spoil:
    return lambda case: case.info(der.seq(craft.CERT_PROFILE, der.seq(der.encode_utf8(name))))


ODD = (1 << 2047) + (1 << 1024) + 1
"""An RSA modulus of 2048 bits, as far as can be seen at once."""

UNREADABLE = ask(lambda ask: replace(ask, cert_req_id=b"\x02\x01\x05", template=der.seq(b"\x8a\0")), 5)
SECP256K1 = public_key_info(ec.generate_private_key(ec.SECP256K1()))
ALT_TEMPLATE = control("1.3.6.1.5.5.7.5.1.7", der.seq(der.encode_oid("1.2.3"), der.NULL_TLV))
ARCHIVE = "1.3.6.1.5.5.7.5.1.4"
NO_KEY = b"\xa6" + der.tlv(0x30, craft.children(public_key_info(KEY))[0] + b"\x03\x01\0")[1:]

CERT_REQ_MSG = [
    # what                                section         failInfo        fault
    ("no CertReqMsg", "4211 3", "badDataFormat", whole(der.seq())),
    ("a NULL for CertReqMessages", "4211 3", "badDataFormat", whole(der.NULL_TLV)),
    ("two CertReqMsg", "9483 4.1.1", "badRequest", messages(0, 1)),
    ("two CertReqMsg with one certReqId", "9483 4.1.1", "badRequest", messages(0, 0)),
    ("more CertReqMsg than any door takes", "9483 4.1.1", "badRequest", messages(*range(99))),
    ("certReqId 5, and what cannot be read", "4211 3", "badDataFormat", UNREADABLE),
    ("certReqId 1", "9483 4.1.1", "badCertTemplate", cert_req_id(1)),
    ("certReqId -1", "9483 4.1.1", "badCertTemplate", cert_req_id(-1)),
    ("certReqId absent", "4211 3", "badDataFormat", ask(lambda ask: replace(ask, cert_req_id=b""))),
    ("CertTemplate absent", "4211 3", "badDataFormat", template(b"")),
    ("CertTemplate with tag 10", "4211 3", "badDataFormat", template(der.seq(b"\x8a\0"))),
    ("version 1", "4211 5", "badCertTemplate", field(0, b"\x80\x01\x01")),
    ("version 3", "4211 5", "badCertTemplate", field(0, b"\x80\x01\x03")),
    ("serialNumber", "4211 5", "badCertTemplate", field(1, b"\x81\x01\x05")),
    ("signingAlg", "4211 5", "badCertTemplate", field(2, b"\xa2" + ECDSA[1:])),
    ("issuerUID", "4211 5", "badCertTemplate", field(7, b"\x87\x02\0\x01")),
    ("subjectUID", "4211 5", "badCertTemplate", field(8, b"\x88\x02\0\x01")),
    ("issuer of another CA", "4211 5", "wrongAuthority", field(3, der.explicit(3, OTHER))),
    ("validity of no Time", "4211 3", "badDataFormat", field(4, b"\xa4\0")),
    ("subject absent", "9483 4.1.1", "badCertTemplate", without(5)),
    ("subject the NULL-DN without subjectAltName", "9483 4.1.1", "badCertTemplate", field(5, der.explicit(5, EMPTY))),
    ("subject a bare RDN", "4211 3", "badDataFormat", field(5, der.explicit(5, b"\x31\0"))),
    ("publicKey absent", "4211 5", "badCertTemplate", without(6)),
    ("publicKey of no octets", "4211 5", "badCertTemplate", field(6, NO_KEY)),
    ("an unknown critical extension", "5280 4.2", "badCertTemplate", field(9, der.tlv(0xA9, UNKNOWN_CRITICAL))),
    ("an extension twice", "4211 3", "badDataFormat", field(9, der.tlv(0xA9, SAN * 2))),
    ("extensions of which there are none", "9483 3.5", "badDataFormat", field(9, b"\xa9\0")),
    ("subjectAltName of no names", "5280 4.2.1.6", "badCertTemplate", field(9, der.tlv(0xA9, NO_NAMES))),
    ("publicKey RSA of 1024 bits", "", "badAlg", rsa_key((1 << 1023) + 1, 65537)),
    ("publicKey RSA with an even modulus", "", "badAlg", rsa_key(ODD + 1, 65537)),
    ("publicKey RSA with an even exponent", "", "badAlg", rsa_key(ODD, 65536)),
    ("publicKey RSA with exponent 3", "", "badAlg", rsa_key(ODD, 3)),
    ("publicKey RSA with a small factor", "", "badAlg", rsa_key(ODD * 3 | 1, 65537)),
    ("publicKey not on its curve", "", "badAlg", ec_key("1.2.840.10045.3.1.7", b"\x04" + bytes(63) + b"\x01")),
    ("publicKey the point at infinity", "", "badAlg", ec_key("1.2.840.10045.3.1.7", b"\0")),
    ("publicKey on secp256k1", "", "badAlg", public_key(SECP256K1)),
    ("publicKey Ed25519 of small order", "", "badAlg", public_key(ED25519 + b"\x01" + bytes(31))),
    ("publicKey of an unknown algorithm", "", "badAlg", public_key(UNKNOWN_KEY)),
    ("popo absent", "4211 4", "badPOP", popo(b"")),
    ("popo by another key", "4211 4", "badPOP", ask(signed_by_another)),
    ("popo over the CertTemplate", "4211 4", "badPOP", ask(signed_over_the_template)),
    ("popo raVerified", "9483 5.1.1", "notAuthorized", popo(b"\x80\0")),
    ("popo keyEncipherment by a key that signs", "", "badPOP", popo(b"\xa2\x03\x81\x01\0")),
    ("popo keyAgreement by a key that signs", "", "badPOP", popo(b"\xa3\x03\x81\x01\0")),
    ("popo with poposkInput", "9483 4.1.1", "badPOP", ask(with_poposk_input)),
    ("popo with ecdsa-with-SHA1", "4211 4", "badAlg", signature("1.2.840.10045.4.1")),
    ("popo with an unknown algorithm", "4211 4", "badAlg", signature("1.2.3")),
    ("popo with RSA by an EC key", "", "badAlg", signature("1.2.840.113549.1.1.11", der.NULL_TLV)),
    ("controls empty", "4211 3", "badDataFormat", controls(der.seq())),
    ("a control twice", "4211 3", "badDataFormat", controls(der.seq(*[control("1.2.3", der.NULL_TLV)[2:]] * 2))),
    ("regToken an INTEGER", "4211 3", "badDataFormat", controls(control("1.3.6.1.5.5.7.5.1.1", der.encode_integer(1)))),
    ("oldCertID a NULL", "9483 4.1.3", "badDataFormat", controls(der.seq(der.seq(OLD_CERT_ID, der.NULL_TLV)))),
    ("altCertTemplate", "9810 5.2.1", "badCertTemplate", controls(ALT_TEMPLATE)),
    ("pkiArchiveOptions a NULL", "4211 6.4", "badDataFormat", controls(control(ARCHIVE, der.NULL_TLV))),
    ("regInfo empty", "4211 3", "badDataFormat", reg_info()),
    ("regInfo of a NULL", "4211 3", "badDataFormat", reg_info(der.NULL_TLV)),
    ("regInfo utf8Pairs an INTEGER", "4211 3", "badDataFormat", reg_info(UTF8_PAIRS_INTEGER)),
    ("regInfo certReq a NULL", "4211 3", "badDataFormat", reg_info(CERT_REQ_NULL)),
    ("regInfo certReq twice", "4211 3", "badDataFormat", reg_info_cert_req(Ask(KEY), Ask(KEY))),
    ("regInfo certReq for another key", "4211 7.2", "badCertTemplate", reg_info_cert_req(Ask(OTHER_KEY))),
    ("certProfile of no profile", "9810 5.1.1.4", "badCertTemplate", profile("none of ours")),
]  # fmt: skip


def renamed(case: Case) -> Case:
    return field(5, der.explicit(5, OTHER))(case)


RENAMED = Ask(KEY).field(5, der.explicit(5, OTHER))

SIGNED = [
    ("subject somebody else's", "4211 5", "notAuthorized", renamed),
    ("subject somebody else's in regInfo's certReq", "4211 5", "notAuthorized", reg_info_cert_req(RENAMED)),
]


def old_cert_id(serial: int = 0, issuer: bytes = b"") -> Spoil:
    """The certificate that signs, with another serialNumber or issuer."""

    def spoil(case: Case) -> Case:
        assert case.certificate is not None
        named = der.explicit(4, issuer or case.certificate.issuer)
        value = der.seq(named, der.encode_integer(case.certificate.serial + serial))
        return controls(der.seq(der.seq(OLD_CERT_ID, value)))(case)

    return spoil


KUR = [
    ("oldCertID with another serialNumber", "9483 4.1.3", "badCertId", old_cert_id(serial=1)),
    ("oldCertID with another issuer", "9483 4.1.3", "badCertId", old_cert_id(issuer=OTHER)),
    ("subject changed", "9483 4.1.3", "notAuthorized", renamed),
    ("subject changed in regInfo's certReq", "9483 4.1.3", "notAuthorized", reg_info_cert_req(RENAMED)),
    (
        "subject the NULL-DN, with subjectAltName",
        "9483 4.1.3",
        "notAuthorized",
        ask(lambda ask: ask.field(5, der.explicit(5, EMPTY)).field(9, der.tlv(0xA9, SAN))),
    ),
    ("subjectAltName added", "9483 4.1.3", "notAuthorized", field(9, der.tlv(0xA9, OTHER_SAN))),
]

CRMF = [*own(ENROLMENTS, CERT_REQ_MSG), *own(["ir signature", "cr signature"], SIGNED), *own(["kur signature"], KUR)]


@pytest.mark.parametrize("row", CRMF, ids=[row.id for row in CRMF])
async def test_a_fault_of_a_certreqmsg_is_a_rejection_in_the_answer_of_its_kind(row: Row) -> None:
    await refuse(await borrow(row.message), row)


async def test_a_kur_for_the_same_key_is_rejected_where_the_profile_says_so() -> None:
    case = await make("kur signature")
    case.world.profiles["default"] = ProfileConfig(allow_key_reuse=False)
    case.world.restart()
    same = Ask(case.other.key).message
    row = Row(case.name, "the same key", "4211 5", ITS_OWN, "badCertTemplate", whole(der.seq(same)))
    await refuse(case, row)


async def test_a_kur_by_a_certificate_of_another_pki_is_rejected() -> None:
    case = await make("kur signature")
    root = chains.issue(None, "maker")
    device = chains.issue(root, "device", ca=False)
    await case.world.add_certificate("maker", root.der)
    foreign = KeyAndCertificate(device.key, Certificate.load(device.der), (Certificate.load(root.der),))
    spoilt = case.by(foreign.protector(case.world.env))
    await refuse(spoilt, Row(case.name, "another PKI", "9483 4.1.3", ITS_OWN, "notAuthorized", lambda case: case))


@pytest.mark.parametrize("message", [message for message in SIGNED_FIRST if message != "rr signature"])
async def test_a_revoked_certificate_is_told_signernottrusted(message: str) -> None:
    case = await make(message)
    revoked = await case.world.rr(case.other, rev_details(case.other.certificate, 1))
    assert revoked.outcomes() == ["accepted"]
    row = Row(message, "its certificate revoked", "9483 3.5", "error", "signerNotTrusted", lambda case: case)
    await refuse(case, row)


@pytest.mark.parametrize("message", SIGNED_FIRST)
async def test_an_expired_certificate_is_told_signernottrusted(message: str) -> None:
    case = await make(message)
    case.world.clock.now += 9 * 365 * 86_400
    spoilt = case.put("messageTime", der.encode_generalized_time(case.world.clock.now))
    row = Row(message, "its certificate expired", "9483 3.5", "error", "signerNotTrusted", lambda case: case)
    await refuse(spoilt, row)


# --- p10cr ------------------------------------------------------------------------------------------------------------


def pkcs10(**change: bytes) -> Spoil:
    return lambda case: case.content(p10(KEY, **change))


def wrong_signature(case: Case) -> Case:
    octets = p10(KEY)
    return case.content(octets[:-1] + bytes((octets[-1] ^ 1,)))


def extensions(*values: bytes) -> bytes:
    return der.tlv(0xA0, der.seq(der.encode_oid("1.2.840.113549.1.9.14"), der.tlv(0x31, der.seq(*values))))


CRITICAL = extensions(UNKNOWN_CRITICAL)
VALUELESS = der.tlv(0xA0, der.seq(der.encode_oid("1.2.3"), der.tlv(0x31, b"")))
TWICE = der.tlv(0xA0, craft.contents(extensions(SAN)) * 2)

P10CR = [
    ("version 1", "2986 4", "badCertTemplate", pkcs10(version=b"\x02\x01\x01")),
    ("version -1", "2986 4", "badCertTemplate", pkcs10(version=b"\x02\x01\xff")),
    ("version absent", "2986 4", "badDataFormat", pkcs10(version=b"")),
    ("subject absent", "2986 4", "badDataFormat", pkcs10(subject=b"")),
    ("subject the NULL-DN without subjectAltName", "9483 4.1.1", "badCertTemplate", pkcs10(subject=EMPTY)),
    ("subjectPKInfo absent", "2986 4", "badDataFormat", pkcs10(spki=b"")),
    ("attributes absent", "2986 4", "badDataFormat", pkcs10(attributes=b"")),
    ("an attribute twice", "2986 4", "badDataFormat", pkcs10(attributes=TWICE)),
    ("an attribute without value", "2986 4", "badDataFormat", pkcs10(attributes=VALUELESS)),
    ("extensions of which there are none", "9483 3.5", "badDataFormat", pkcs10(attributes=extensions())),
    ("subjectAltName of no names", "5280 4.2.1.6", "badCertTemplate", pkcs10(attributes=extensions(NO_NAMES))),
    ("subjectPKInfo on secp256k1", "", "badAlg", pkcs10(spki=SECP256K1)),
    ("an extension twice", "2986 4", "badDataFormat", pkcs10(attributes=extensions(SAN, SAN))),
    ("an unknown critical extension", "5280 4.2", "badCertTemplate", pkcs10(attributes=CRITICAL)),
    ("a wrong signature", "4211 4", "badPOP", wrong_signature),
    ("another public key", "4211 4", "badPOP", pkcs10(spki=public_key_info(OTHER_KEY))),
    ("CertReqMessages in its place", "2986 4", "badDataFormat", whole(der.seq(Ask(KEY).message))),
    ("a NULL in its place", "2986 4", "badDataFormat", whole(der.NULL_TLV)),
    ("certProfile of no profile", "9810 5.1.1.4", "badCertTemplate", profile("none of ours")),
]  # fmt: skip
P10_ROWS = own(["p10cr mac", "p10cr signature"], P10CR)


@pytest.mark.parametrize("row", P10_ROWS, ids=[row.id for row in P10_ROWS])
async def test_a_fault_of_a_pkcs10_is_a_rejection_in_cp_with_certreqid_minus_one(row: Row) -> None:
    await refuse(await borrow(row.message), row)


# --- rr ---------------------------------------------------------------------------------------------------------------


def details(change: Callable[[Case], bytes]) -> Spoil:
    return lambda case: case.content(der.seq(change(case)))


def named(case: Case, *more: bytes, serial: int = 0, issuer: bytes = b"", entry: tuple[bytes, ...] = ()) -> bytes:
    """RevDetails of the certificate that signs, with something else in it."""
    assert case.certificate is not None
    octets = der.tlv(0x81, serial_octets(case.certificate.serial + serial))
    octets += der.explicit(3, issuer or case.certificate.issuer) + b"".join(more)
    return raw_details(octets, *(entry or (reason_code(1),)))


def reason(number: int) -> Spoil:
    return details(lambda case: named(case, entry=(reason_code(number),)))


def entry(*values: bytes) -> Spoil:
    return details(lambda case: named(case, entry=values))


def more(octets: bytes) -> Spoil:
    """One more field in certDetails."""
    return details(lambda case: named(case, octets))


def only(part: int) -> Spoil:
    """certDetails with serialNumber (0) or issuer (1) alone."""

    def change(case: Case) -> bytes:
        assert case.certificate is not None
        parts = (der.tlv(0x81, serial_octets(case.certificate.serial)), der.explicit(3, case.certificate.issuer))
        return raw_details(parts[part], reason_code(1))

    return details(change)


def versioned(case: Case, number: int) -> bytes:
    assert case.certificate is not None
    octets = b"\x80" + der.encode_integer(number)[1:] + der.tlv(0x81, serial_octets(case.certificate.serial))
    return raw_details(octets + der.explicit(3, case.certificate.issuer), reason_code(1))


def twice(case: Case) -> Case:
    return case.content(der.seq(named(case), named(case, serial=1)))


def without_entries(case: Case) -> Case:
    """crlEntryDetails that is an empty SEQUENCE."""
    assert case.certificate is not None
    octets = der.tlv(0x81, serial_octets(case.certificate.serial)) + der.explicit(3, case.certificate.issuer)
    return case.content(der.seq(der.seq(der.seq(octets), der.seq())))


OTHER_ISSUER = extension("2.5.29.29", der.seq(der.explicit(4, OTHER)), critical=True)

RR = [
    ("no RevDetails", "9810 5.3.9", "badDataFormat", whole(der.seq())),
    ("a NULL for RevReqContent", "9810 5.3.9", "badDataFormat", whole(der.NULL_TLV)),
    ("a NULL for RevDetails", "9810 5.3.9", "badDataFormat", whole(der.seq(der.NULL_TLV))),
    ("two RevDetails", "9483 4.2", "badRequest", twice),
    ("more RevDetails than any door takes", "9483 4.2", "badRequest", whole(der.seq(*[der.NULL_TLV] * 999))),
    ("version 1", "9483 4.2", "badCertId", details(lambda case: versioned(case, 1))),
    ("serialNumber absent", "9483 4.2", "badCertTemplate", only(1)),
    ("issuer absent", "9483 4.2", "badCertTemplate", only(0)),
    ("serialNumber of no certificate", "9483 4.2", "badCertId", details(lambda case: named(case, serial=1))),
    ("issuer another CA", "9483 4.2", "wrongAuthority", details(lambda case: named(case, issuer=OTHER))),
    ("subject another", "9483 4.2", "badCertId", more(der.explicit(5, OTHER))),
    ("publicKey another", "9483 4.2", "badCertId", more(b"\xa6" + public_key_info(OTHER_KEY)[1:])),
    ("a field with tag 10", "9810 5.3.9", "badDataFormat", more(b"\x8a\0")),
    ("crlEntryDetails empty", "9483 3.5", "badDataFormat", without_entries),
    ("reasonCode 7", "9810 5.3.9", "badDataFormat", reason(7)),
    ("reasonCode 11", "9810 5.3.9", "badDataFormat", reason(11)),
    ("removeFromCRL of what is not suspended", "9483 4.2", "badRequest", reason(8)),
    ("reasonCode cACompromise", "5280 5.3.1", "notAuthorized", reason(2)),
    ("reasonCode twice", "9810 5.3.9", "badDataFormat", entry(reason_code(1), reason_code(1))),
    ("an unknown critical entry extension", "9483 4.2", "badRequest", entry(reason_code(1), UNKNOWN_CRITICAL)),
    ("invalidityDate a NULL", "9810 5.3.9", "badDataFormat", entry(extension("2.5.29.24", der.NULL_TLV))),
    ("certificateIssuer another CA", "5280 5.3.3", "wrongAuthority", entry(OTHER_ISSUER)),
]  # fmt: skip
RR_ROWS = own(["rr signature"], RR)


@pytest.mark.parametrize("row", RR_ROWS, ids=[row.id for row in RR_ROWS])
async def test_a_fault_of_an_rr_is_a_rejection_in_rp(row: Row) -> None:
    await refuse(await borrow(row.message), row)


async def test_an_rr_for_somebody_elses_certificate_is_told_notauthorized() -> None:
    case = await make("rr signature")
    other = await case.world.holder(await case.world.add_secret("other", SECRET), "/CN=other")
    foreign = whole(der.seq(rev_details(other.certificate, 1)))
    await refuse(case, Row(case.name, "somebody else's", "9483 4.2", ITS_OWN, "notAuthorized", foreign))


async def test_an_rr_for_a_revoked_certificate_is_told_certrevoked() -> None:
    case = await make("rr signature")
    first = await case.send()
    assert first is not None
    assert (first.body, first.status) == ("rp", 0)
    again = case.put("transactionID", der.encode_octets(bytes(16)))
    await refuse(again, Row(case.name, "revoked already", "9483 4.2", ITS_OWN, "certRevoked", lambda case: case))


# --- genm -------------------------------------------------------------------------------------------------------------


def items(*values: tuple[str, bytes]) -> Spoil:
    return whole(der.seq(*(der.seq(der.encode_oid(f"1.3.6.1.5.5.7.4.{oid}"), value) for oid, value in values)))


SOURCE = der.seq(der.explicit(1, der.seq(der.explicit(4, OTHER))))

GENM = [
    # what              section       failInfo         fault
    ("two infoTypes", "9483 4.3", "badRequest", items(("6", b""), ("1", b""))),
    ("an infoType twice", "9483 4.3", "badRequest", items(("6", b""), ("6", b""))),
    ("17 infoTypes", "9483 4.3", "badRequest", items(*[("99", b"")] * 17)),
    ("currentCRL with a value", "9810 5.3.19.6", "badDataFormat", items(("6", der.NULL_TLV))),
    ("caProtEncCert with a value", "9810 5.3.19.1", "badDataFormat", items(("1", der.NULL_TLV))),
    ("crlStatusList without value", "9810 5.3.19.17", "badDataFormat", items(("22", b""))),
    ("crlStatusList empty", "9810 5.3.19.17", "badDataFormat", items(("22", der.seq()))),
    ("crlStatusList of two sources", "9483 4.3.4", "badRequest", items(("22", der.seq(SOURCE, SOURCE)))),
    ("crlStatusList a NULL", "9810 5.3.19.17", "badDataFormat", items(("22", der.NULL_TLV))),
    ("revPassphrase without value", "9810 B", "badDataFormat", items(("12", b""))),
    ("revPassphrase a NULL", "9810 5.2.2", "badDataFormat", items(("12", der.NULL_TLV))),
    ("an item without infoType", "9810 5.3.19", "badDataFormat", whole(der.seq(der.seq()))),
    ("an item that is a NULL", "9810 5.3.19", "badDataFormat", whole(der.seq(der.NULL_TLV))),
    ("a NULL for GenMsgContent", "9810 5.3.19", "badDataFormat", whole(der.NULL_TLV)),
]  # fmt: skip


# --- certConf, pollReq, error -----------------------------------------------------------------------------------------


def status(*parts: bytes, digest: Callable[[Case], bytes] | None = None, number: int = 0, pvno: int = 2) -> Spoil:
    """A certConf with one CertStatus that has `parts` after certReqId."""

    def spoil(case: Case) -> Case:
        assert case.certificate is not None
        octets = cert_hash(case.certificate) if digest is None else digest(case)
        content = der.seq(der.seq(der.encode_octets(octets), der.encode_integer(number), *parts))
        return case.content(content).raw("pvno", der.encode_integer(pvno))

    return spoil


def right_ones(count: int) -> Spoil:
    def spoil(case: Case) -> Case:
        assert case.certificate is not None
        return case.content(der.seq(*[cert_status(case.certificate, 0)] * count))

    return spoil


def sha512(case: Case) -> bytes:
    assert case.certificate is not None
    return hashlib.sha512(case.certificate.der).digest()


def status_info(number: int, *more: bytes) -> bytes:
    return der.seq(der.encode_integer(number), *more)


BY_SHA256 = der.explicit(0, SHA256)
BAD_REQUEST = der.encode_named_bits(2)

CERT_CONF = [
    # what                                section       failInfo         fault
    ("certHash another", "9810 5.3.18", "badCertId", status(digest=lambda case: bytes(32))),
    ("certHash empty", "9810 5.3.18", "badCertId", status(digest=lambda case: b"")),
    ("certHash of another hash function", "9810 5.3.18", "badCertId", status(digest=sha512)),
    ("certReqId 1", "9810 5.3.18", "badCertId", status(number=1)),
    ("certReqId -1", "9810 5.3.18", "badCertId", status(number=-1)),
    ("certReqId absent", "9810 5.3.18", "badDataFormat", whole(der.seq(der.seq(der.encode_octets(bytes(32)))))),
    ("no CertStatus", "9483 4.1.1", "badDataFormat", right_ones(0)),
    ("two CertStatus", "9810 5.3.18", "badDataFormat", right_ones(2)),
    ("status grantedWithMods", "9483 4.1.1", "badDataFormat", status(status_info(1))),
    ("status waiting", "9810 5.3.18", "badDataFormat", status(status_info(3))),
    ("status 7", "9810 5.3.18", "badDataFormat", status(status_info(7))),
    ("accepted with failInfo", "9483 4.1.1", "badDataFormat", status(status_info(0, BAD_REQUEST))),
    ("statusString empty", "9810 5.3.18", "badDataFormat", status(status_info(2, der.seq()))),
    ("hashAlg with pvno 2", "9810 5.3.18", "badDataFormat", status(BY_SHA256)),
    ("hashAlg SHA-1", "9810 5.3.18", "badAlg", status(der.explicit(0, SHA1), pvno=3)),
    ("hashAlg unknown", "9810 5.3.18", "badAlg", status(der.explicit(0, der.seq(der.encode_oid("1.2.3"))), pvno=3)),
    ("hashAlg not that of certHash", "9810 5.3.18", "badCertId", status(BY_SHA256, digest=sha512, pvno=3)),
    ("hashAlg a NULL", "9810 5.3.18", "badDataFormat", status(der.explicit(0, der.NULL_TLV), pvno=3)),
    ("a field with tag 1", "9810 5.3.18", "badDataFormat", status(der.explicit(1, SHA256), pvno=3)),
    ("a NULL for CertConfirmContent", "9810 5.3.18", "badDataFormat", whole(der.NULL_TLV)),
]  # fmt: skip


def polls(*numbers: int) -> Spoil:
    return whole(der.seq(*(der.seq(der.encode_integer(number)) for number in numbers)))


POLL_REQ = [
    ("no certReqId", "9810 5.3.22", "badDataFormat", polls()),
    ("two certReqIds", "9483 4.4", "badRequest", polls(0, -1)),
    ("a certReqId twice", "9483 4.4", "badRequest", polls(0, 0)),
    ("seven certReqIds", "9483 4.4", "badRequest", polls(*range(7))),
    ("certReqId 1", "9483 4.4", "badCertId", polls(1)),
    ("certReqId absent", "9810 5.3.22", "badDataFormat", whole(der.seq(der.seq()))),
    ("a NULL for PollReqContent", "9810 5.3.22", "badDataFormat", whole(der.NULL_TLV)),
]

ERROR = [
    ("a NULL for ErrorMsgContent", "9810 5.3.21", "badDataFormat", whole(der.NULL_TLV)),
    ("pKIStatusInfo absent", "9810 5.3.21", "badDataFormat", whole(der.seq())),
]


def errors(body: str, rows: list[tuple[str, str, str, Spoil]]) -> list[Row]:
    kinds = ("mac", "signature")
    return [
        Row(f"{body} {kind}", what, section, "error", failure, spoil)
        for kind in kinds
        for what, section, failure, spoil in rows
    ]


AS_ERROR = [*errors("genm", GENM), *errors("pollReq", POLL_REQ), *errors("error", ERROR)]


@pytest.mark.parametrize("row", AS_ERROR, ids=[row.id for row in AS_ERROR])
async def test_a_fault_of_any_other_body_is_an_error(row: Row) -> None:
    await refuse(await borrow(row.message), row)


@pytest.mark.parametrize("row", errors("certConf", CERT_CONF), ids=[row.id for row in errors("certConf", CERT_CONF)])
async def test_a_fault_of_a_certconf_is_an_error_that_ends_the_transaction(row: Row) -> None:
    """RFC 9483 section 3.6.4: after a negative answer the operation has failed, so the certificate is revoked."""
    await refuse(await make(row.message), row, changes=1)


# --- popdecr ----------------------------------------------------------------------------------------------------------


def integers(*values: bytes) -> Spoil:
    return whole(der.seq(*values))


POPDECR = [
    ("another integer", "9810 5.2.8.3.3", "badPOP", integers(der.encode_integer(5))),
    ("no integer", "9810 5.2.8.3.3", "badPOP", integers()),
    ("two integers", "9810 5.2.8.3.3", "badPOP", integers(der.encode_integer(5), der.encode_integer(6))),
    ("an integer of 65 octets", "9810 5.2.8.3.3", "badDataFormat", integers(der.encode_integer(1 << 512))),
    ("an OCTET STRING for an integer", "9810 5.2.8.3.3", "badDataFormat", integers(der.encode_octets(b"x"))),
    ("a NULL for POPODecKeyRespContent", "9810 5.2.8.3.3", "badDataFormat", whole(der.NULL_TLV)),
]
POPDECR_ROWS = own(["popdecr mac", "popdecr signature"], POPDECR)


@pytest.mark.parametrize("row", POPDECR_ROWS, ids=[row.id for row in POPDECR_ROWS])
async def test_a_fault_of_a_popdecr_is_a_rejection_in_the_answer_to_its_request(row: Row) -> None:
    """RFC 9810 section 5.2.8.3.3: what answers popdecr is what answers the request that was challenged."""
    await refuse(await make(row.message), row)


@pytest.mark.parametrize("message", ["popdecr mac", "popdecr signature"])
async def test_the_popdecr_that_the_rows_spoil_gets_its_certificate(message: str) -> None:
    verdict = await (await make(message)).send()
    assert verdict is not None
    assert (verdict.body, verdict.status, verdict.certificates, verdict.ids) == ("ip", 0, 1, (0,)), verdict.text


async def test_a_popdecr_with_another_pvno_is_an_error_and_the_challenge_stays() -> None:
    case = await make("popdecr mac")
    other = Row(case.name, "pvno 2", "9810 7", "error", "unsupportedVersion", lambda case: _with_pvno(case, 2))
    await refuse(case, other)
    verdict = await case.send()
    assert verdict is not None
    assert (verdict.body, verdict.certificates) == ("ip", 1), verdict.text


def _with_pvno(case: Case, number: int) -> Case:
    return case.raw("pvno", der.encode_integer(number))


# --- who signs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", ["ir signature", "cr signature", "p10cr signature", "kur signature", "genm signature"]
)
async def test_a_device_under_an_intermediate_ca_has_to_send_that_too(message: str) -> None:
    case = await make(message)
    root = chains.issue(None, "maker")
    middle = chains.issue(root, "factory")
    device = chains.issue(middle, "device", ca=False)
    await case.world.add_certificate("maker", root.der)
    foreign = KeyAndCertificate(device.key, Certificate.load(device.der), (Certificate.load(middle.der),))
    whole_path = case.by(foreign.protector(case.world.env))
    lacking = replace(whole_path, extra_certs=(device.der,))
    row = Row(message, "no intermediate", "", "error", "signerNotTrusted", lambda case: case, by="signature")
    await refuse(lacking, row)
    verdict = await whole_path.send()
    assert verdict is not None
    assert verdict.failure == ("notAuthorized" if case.body == "kur" else ""), verdict.text


# --- what is taken, and what is said of it ----------------------------------------------------------------------------


async def answered(case: Case, origin: Origin = STRICT) -> Seen:
    seen = await case.world.send(case.octets, origin)
    assert seen is not None
    return seen


@pytest.mark.parametrize("origin", [STRICT, LENIENT], ids=["strict", "lenient"])
async def test_the_template_in_reginfo_counts_and_the_signed_one_proves_possession(origin: Origin) -> None:
    """RFC 4211 section 7.2: what an RA puts there replaces what the requester has signed."""
    case = await make("ir mac")
    seen = await answered(reg_info_cert_req(Ask(KEY).field(5, der.explicit(5, OTHER)))(case), origin)
    assert seen.status() == (0, "", frozenset())
    assert seen.certificate().subject == OTHER
    certificate_request = der.seq(der.encode_oid("1.3.6.1.5.5.7.5.2.2"), RENAMED.request)
    unproven = ask(lambda asked: replace(signed_by_another(asked), reg_info=der.seq(certificate_request)))
    again = unproven(await make("ir mac"))
    assert (await answered(again, origin)).status()[2] == {"badPOP"}


async def test_what_an_ra_may_not_name_it_may_not_name_in_reginfo_either() -> None:
    case = await make("ir mac")
    modified = Ask(KEY).field(1, b"\x81\x01\x05")
    status, text, failure = (await answered(reg_info_cert_req(modified)(case))).status()
    assert (status, failure) == (2, {"badCertTemplate"})
    assert "serialNumber" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\x82\x01\xff", "no private key is archived"),
        (b"\x81\x01x", "no private key is archived"),
        (der.explicit(0, der.explicit(0, der.seq())), "no private key is archived"),
        (b"\x82\x01\0", ""),
    ],
)
async def test_who_wants_a_key_archived_is_told_that_it_is_not(value: bytes, text: str) -> None:
    seen = await answered(controls(control(ARCHIVE, value))(await make("ir mac")))
    assert seen.status() == (1 if text else 0, text, frozenset())


async def test_a_lenient_door_rejects_each_request_of_a_body_that_cannot_be_read() -> None:
    case = await make("ir mac")
    broken = Ask(KEY, cert_req_id=der.encode_integer(7), template=der.seq(b"\x8a\0")).message
    both = case.content(der.seq(Ask(KEY, cert_req_id=der.encode_integer(3)).message, broken))
    verdict = await both.send(LENIENT)
    assert verdict is not None
    assert (verdict.body, verdict.failure, verdict.ids, verdict.certificates) == ("ip", "badDataFormat", (3, 7), 0)
    nameless = case.content(der.seq(Ask(KEY, cert_req_id=b"\x04\0").message, broken))
    again = nameless.put("transactionID", der.encode_octets(bytes(16)))
    verdict = await again.send(LENIENT)
    assert verdict is not None
    assert (verdict.failure, verdict.ids) == ("badDataFormat", (0,))


async def test_a_lenient_door_says_how_many_requests_it_takes() -> None:
    verdict = await messages(*range(99))(await make("ir mac")).send(LENIENT)
    assert verdict is not None
    assert (verdict.failure, verdict.ids) == ("badRequest", (0,))
    assert re.match(r"CertReqMessages: want at most \d+ CertReqMsg, have 99", verdict.text)


async def test_a_kur_for_the_null_dn_updates_the_subject_of_the_old_certificate_at_a_lenient_door() -> None:
    case = await make("kur signature")
    seen = await answered(field(5, der.explicit(5, EMPTY))(case), LENIENT)
    status, text, failure = seen.status()
    assert (status, failure) == (1, set())
    assert text == "subject is written as in the certificate to be updated"
    assert case.certificate is not None
    assert seen.certificate().subject == case.certificate.subject


async def test_an_ra_names_a_serial_number_whatever_the_certreqid() -> None:
    """A lenient door takes -1 too, which is otherwise that of a p10cr."""
    case = await make("ir mac")
    case.world.profiles["default"] = ProfileConfig(serial_number="given")
    case.world.restart()
    ra = await case.world.add_secret("ra", SECRET, is_ra=True)
    numbered = by_number(b"\x81\x02\x12\x34")(case.by(ra.protector(case.world.env)))
    seen = await answered(numbered, LENIENT)
    assert seen.status() == (0, "", frozenset())
    assert seen.certificate().serial == 0x1234
    padded = by_number(b"\x81\x02\0\x35")(numbered).put("transactionID", der.encode_octets(bytes(16)))
    verdict = await padded.send(LENIENT)
    assert verdict is not None
    assert (verdict.failure, verdict.ids) == ("badDataFormat", (-1,)), verdict.text


def by_number(serial: bytes) -> Spoil:
    """A request with certReqId -1 for this serialNumber."""
    return ask(lambda asked: replace(asked, cert_req_id=b"\x02\x01\xff").field(1, serial), -1)
