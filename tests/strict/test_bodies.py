"""Each check of a message's body, for each body: one line, one fault, in one table.

A fault of the body of ir, cr, p10cr, kur and rr comes in the answer of its kind, with rejection; all others in an error
(RFC 9483 section 3.6.2). The answers are protected as the messages are.
"""

import hashlib
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
from tests import chains
from tests.hostile import craft
from tests.hostile.pieces import ECDSA, OLD_CERT_ID, SAN, SHA1, SHA256, SUBJECT, Ask, control, p10
from tests.strict.setting import FIRST, KEY, SECRET, Case, Spoil, borrow, make
from tests.strict.table import ITS_OWN, Row, own, refuse
from tests.world import raw_details, reason_code, rev_details, serial_octets

ENROLMENTS = ("ir mac", "ir signature", "cr mac", "cr signature", "kur signature")
SIGNED_FIRST = tuple(message for message in FIRST if message.endswith("signature"))
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = encode_name("/CN=other")
EMPTY = b"\x30\0"
CA_TRUE = extension("2.5.29.19", der.seq(b"\x01\x01\xff"))
UNKNOWN_CRITICAL = extension("1.2.3.4", der.NULL_TLV, critical=True)
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


def profile(name: str) -> Spoil:
    return lambda case: case.info(der.seq(craft.CERT_PROFILE, der.seq(der.encode_utf8(name))))


NO_KEY = b"\xa6" + der.tlv(0x30, craft.children(public_key_info(KEY))[0] + b"\x03\x01\0")[1:]

CERT_REQ_MSG = [
    # what                                section         failInfo        fault
    ("no CertReqMsg", "4211 3", "badDataFormat", whole(der.seq())),
    ("a NULL for CertReqMessages", "4211 3", "badDataFormat", whole(der.NULL_TLV)),
    ("two CertReqMsg", "9483 4.1.1", "badRequest", messages(0, 1)),
    ("two CertReqMsg with one certReqId", "4211 3", "badDataFormat", messages(0, 0)),
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
    ("certProfile of no profile", "9810 5.1.1.4", "badCertTemplate", profile("none of ours")),
]  # fmt: skip


def renamed(case: Case) -> Case:
    return field(5, der.explicit(5, OTHER))(case)


SIGNED = [("subject somebody else's", "4211 5", "notAuthorized", renamed)]


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


def twice(case: Case) -> Case:
    return case.content(der.seq(named(case), named(case, serial=1)))


OTHER_ISSUER = extension("2.5.29.29", der.seq(der.explicit(4, OTHER)), critical=True)

RR = [
    ("no RevDetails", "9810 5.3.9", "badDataFormat", whole(der.seq())),
    ("a NULL for RevReqContent", "9810 5.3.9", "badDataFormat", whole(der.NULL_TLV)),
    ("a NULL for RevDetails", "9810 5.3.9", "badDataFormat", whole(der.seq(der.NULL_TLV))),
    ("two RevDetails", "9483 4.2", "badRequest", twice),
    ("serialNumber absent", "9483 4.2", "badCertTemplate", only(1)),
    ("issuer absent", "9483 4.2", "badCertTemplate", only(0)),
    ("serialNumber of no certificate", "9483 4.2", "badCertId", details(lambda case: named(case, serial=1))),
    ("issuer another CA", "9483 4.2", "wrongAuthority", details(lambda case: named(case, issuer=OTHER))),
    ("subject another", "9483 4.2", "badCertId", more(der.explicit(5, OTHER))),
    ("publicKey another", "9483 4.2", "badCertId", more(b"\xa6" + public_key_info(OTHER_KEY)[1:])),
    ("a field with tag 10", "9810 5.3.9", "badDataFormat", more(b"\x8a\0")),
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


GENM = [
    # what              section       failInfo         fault
    ("two infoTypes", "9483 4.3", "badRequest", items(("6", b""), ("1", b""))),
    ("an infoType twice", "9810 5.3.19", "badDataFormat", items(("6", b""), ("6", b""))),
    ("17 infoTypes", "9810 5.3.19", "badDataFormat", items(*[("99", b"")] * 17)),
    ("currentCRL with a value", "9810 5.3.19.6", "badDataFormat", items(("6", der.NULL_TLV))),
    ("caProtEncCert with a value", "9810 5.3.19.1", "badDataFormat", items(("1", der.NULL_TLV))),
    ("crlStatusList without value", "9810 5.3.19.17", "badDataFormat", items(("22", b""))),
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
    ("a certReqId twice", "9810 5.3.22", "badDataFormat", polls(0, 0)),
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
