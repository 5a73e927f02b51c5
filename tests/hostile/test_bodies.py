"""Every field of CertReqMsg, CertTemplate, ProofOfPossession, controls, PKCS #10 and CertStatus in its wrong forms.

What is wrong inside an ir, cr, kur or p10cr is rejected in the answer of its kind, with certReqId where it can be read;
what is wrong inside a certConf by an error message (RFC 9483 section 3.6.2). All requests are correctly protected, so
every answer is protected in their kind; what is not even DER is refused before that, by a signed error.
"""

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.keys import public_key_info
from cmpd.client.messages import cert_status, error_content, extension
from cmpd.config import EnrolmentConfig
from cmpd.records import CertificateState
from tests.hostile import craft
from tests.hostile.craft import Draft, long_form
from tests.hostile.pieces import ECDSA, OLD_CERT_ID, SAN, SHA1, SHA256, SUBJECT, Ask, control, p10
from tests.world import Seen, World

RSA_FAULT = "badCertTemplate|badAlg"  # these requests have no POP by the RSA key either


def requests():
    """(what, Ask -> Ask, failInfo)."""

    def field(number, octets):
        return lambda ask: ask.field(number, octets)

    def template(octets):
        return lambda ask: replace(ask, template=octets)

    def popo(octets):
        return lambda ask: replace(ask, popo=octets)

    def controls(octets):
        return lambda ask: replace(ask, controls=octets)

    # certReqId
    for what, octets in (
        ("absent", b""),
        ("a NULL", der.NULL_TLV),
        ("an OCTET STRING", b"\x04\x01\0"),
        ("of 33 octets", der.encode_integer(2**260)),
    ):
        yield f"certReqId {what}", lambda ask, octets=octets: replace(ask, cert_req_id=octets), "badDataFormat"
    # CertTemplate
    for what, octets in (
        ("absent", b""),
        ("a SET", b"\x31\0"),
        ("unknown tag 10", der.seq(der.tlv(0x8A, b""))),
        ("a universal field", der.seq(der.NULL_TLV)),
        ("an application field", der.seq(b"\x65\x02\x30\0")),
    ):
        yield f"CertTemplate {what}", template(octets), "badDataFormat"
    yield "CertTemplate empty", template(der.seq()), "badCertTemplate"
    yield "CertTemplate out of order", lambda ask: replace(ask, fields=ask.parts[::-1]), "badDataFormat"
    yield "subject doubled", lambda ask: replace(ask, fields=(ask.parts[0], *ask.parts)), "badDataFormat"
    # version, serialNumber, signingAlg, UIDs: RFC 4211 section 5 and RFC 9483 section 4.1.1
    for number in (0, 1, 3, -1):
        yield f"version {number}", field(0, b"\x80" + der.encode_integer(number)[1:]), "badCertTemplate"
    yield "version empty", field(0, b"\x80\0"), "badDataFormat"
    yield "version padded", field(0, b"\x80\x02\0\x02"), "badDataFormat"
    yield "version of 33 octets", field(0, b"\x80" + der.encode_integer(2**260)[1:]), "badDataFormat"
    yield "version constructed", field(0, b"\xa0\x03\x02\x01\x02"), "badDataFormat"
    yield "serialNumber", field(1, b"\x81\x01\x05"), "badCertTemplate"
    yield "signingAlg", field(2, b"\xa2" + ECDSA[1:]), "badCertTemplate"
    yield "issuerUID", field(7, b"\x87\x02\0\x01"), "badCertTemplate"
    yield "subjectUID", field(8, b"\x88\x02\0\x01"), "badCertTemplate"
    # issuer and subject
    yield "issuer of another CA", field(3, der.explicit(3, encode_name("/CN=other"))), "wrongAuthority"
    for number, name in ((3, "issuer"), (5, "subject")):
        for what, value in (
            ("empty tag", b""),
            ("a bare RDN", der.tlv(0x31, b"")),
            ("two Names", SUBJECT * 2),
            ("tagged implicitly", craft.contents(SUBJECT)),
            ("an empty RDN", der.seq(der.tlv(0x31, b""))),
            ("an RDN that is a SEQUENCE", der.seq(der.seq())),
            ("an attribute without value", der.seq(der.tlv(0x31, der.seq(der.encode_oid("2.5.4.3"))))),
            (
                "an attribute of three values",
                der.seq(der.tlv(0x31, der.seq(der.encode_oid("2.5.4.3"), b"\x0c\x01a" * 2))),
            ),
            ("UTF-16 cut in half", der.seq(der.tlv(0x31, der.seq(der.encode_oid("2.5.4.3"), b"\x1e\x03\0a\0")))),
            ("8-bit PrintableString", der.seq(der.tlv(0x31, der.seq(der.encode_oid("2.5.4.3"), b"\x13\x01\xe9")))),
            ("an unsorted RDN", der.seq(der.tlv(0x31, b"".join(_attributes()[::-1])))),
        ):
            yield f"{name} {what}", field(number, der.explicit(number, value)), "badDataFormat|badCertTemplate"
    cn = der.seq(der.encode_oid("2.5.4.3"), der.encode_utf8("x" * 65))
    yield "subject with a CN of 65 characters", field(5, der.explicit(5, _name(cn))), "badCertTemplate"
    cn = der.seq(der.encode_oid("2.5.4.3"), der.encode_utf8(""))
    yield "subject with an empty CN", field(5, der.explicit(5, _name(cn))), "badCertTemplate"
    many = der.seq(*[craft.contents(encode_name(f"/CN={i}")) for i in range(65)])
    yield "subject of 65 attributes", field(5, der.explicit(5, many)), "badCertTemplate"
    unknown = der.seq(der.encode_oid("1.2.3.4"), der.encode_utf8("x"))
    yield "subject with an unknown attribute", field(5, der.explicit(5, _name(unknown))), "badCertTemplate"
    # validity
    utc = b"\x17\x0d250615130640Z"
    for what, value in (
        ("empty", b""),
        ("bare Times", utc * 2),
        ("three Times", der.explicit(0, utc) + der.explicit(1, utc) * 2),
        ("notAfter before notBefore in order", der.explicit(1, utc) + der.explicit(0, utc)),
        ("notBefore twice", der.explicit(0, utc) * 2),
        ("an INTEGER", der.explicit(0, der.encode_integer(5))),
        ("UTCTime without seconds", der.explicit(0, b"\x17\x0b2506151306Z")),
        ("UTCTime with an offset", der.explicit(0, b"\x17\x11250615130640+0000")),
        ("fractions", der.explicit(1, b"\x18\x1120250615130640.5Z")),
        ("February 30", der.explicit(1, b"\x18\x0f20250230130640Z")),
        ("two values in a Time", der.explicit(1, utc * 2)),
        ("tagged implicitly", der.tlv(0x80, utc[2:])),
    ):
        yield f"validity {what}", field(4, der.tlv(0xA4, value)), "badDataFormat|badCertTemplate"
    # publicKey
    point = public_key_info(ec.generate_private_key(ec.SECP256R1()))
    algorithm, bits = craft.children(point)
    for what, value, failure in (
        ("empty", b"", "badDataFormat"),
        ("an OCTET STRING", der.encode_octets(b"x"), "badDataFormat"),
        ("without key", algorithm, "badDataFormat"),
        ("of three values", algorithm + bits * 2, "badDataFormat"),
        ("of no octets", algorithm + b"\x03\x01\0", "badCertTemplate"),
        ("with unused bits", algorithm + b"\x03\x42\x01" + bits[3:-1] + b"\0", "badAlg"),
        ("of an unknown algorithm", der.seq(der.encode_oid("1.2.3")) + bits, "badAlg"),
        ("of an unknown curve", _curve("1.2.3") + bits, "badAlg|badCertTemplate"),
        ("on secp256k1", _curve("1.3.132.0.10") + bits, "badCertTemplate|badAlg"),
        ("off the curve", algorithm + der.encode_bits(b"\x04" + bytes(63) + b"\x01"), "badAlg"),
        ("at infinity", algorithm + der.encode_bits(b"\0"), "badAlg"),
        ("with P-384's size", algorithm + der.encode_bits(b"\x04" + bytes(96)), "badAlg"),
        ("with explicit curve parameters", _explicit_curve() + bits, "badAlg"),
        ("of X25519", der.seq(der.encode_oid("1.3.101.110")) + der.encode_bits(b"\x09" + bytes(31)), "badPOP"),
        ("of 31-octet Ed25519", der.seq(der.encode_oid("1.3.101.112")) + der.encode_bits(bytes(31)), "badAlg"),
        ("RSA of 1024 bits", _rsa(2**1023 + 1, 65537), RSA_FAULT),
        ("RSA of 16384 bits", _rsa(2**16383 + 1, 65537), RSA_FAULT),
        ("RSA with exponent 3", _rsa(2**2047 + 1, 3), RSA_FAULT),
        ("RSA with exponent 1", _rsa(2**2047 + 1, 1), RSA_FAULT),
        ("RSA with an even exponent", _rsa(2**2047 + 1, 65538), RSA_FAULT),
        ("RSA with an exponent of 2000 bits", _rsa(2**2047 + 1, 2**2000 + 1), RSA_FAULT),
        ("RSA with an even modulus", _rsa(2**2047, 65537), "badCertTemplate|badPOP|badAlg"),
        ("RSA with a negative modulus", _rsa(-(2**2047), 65537), RSA_FAULT),
        ("RSA with exponent 0", _rsa(2**2047 + 1, 0), RSA_FAULT),
        ("RSA that is no SEQUENCE", _rsa_algorithm() + der.encode_bits(b"\x02\x01\x05"), RSA_FAULT),
    ):
        yield f"publicKey {what}", field(6, der.tlv(0xA6, value)), failure
    yield "publicKey absent", lambda ask: replace(ask, fields=ask.parts[:1]), "badCertTemplate"
    # extensions
    for what, value in (
        ("a NULL", der.NULL_TLV),
        ("empty Extension", der.seq()),
        ("without value", der.seq(der.encode_oid("2.5.29.17"))),
        ("with a BIT STRING as value", der.seq(der.encode_oid("2.5.29.17"), b"\x03\x02\0\0")),
        ("with values after extnValue", der.seq(*craft.children(SAN), der.NULL_TLV)),
        ("twice the same", SAN * 2),
        ("65 of them", b"".join(extension(f"1.2.3.{i}", b"\x05\0") for i in range(65))),
        ("critical as an INTEGER", der.seq(der.encode_oid("1.2.3"), b"\x02\x01\x01", b"\x04\0")),
    ):
        yield f"extensions {what}", field(9, der.tlv(0xA9, value)), "badDataFormat"
    for what, octets in (
        ("subjectAltName empty", extension("2.5.29.17", b"\x30\0")),
        ("subjectAltName no DER", extension("2.5.29.17", b"\x30\x05")),
        ("subjectAltName of indefinite length", extension("2.5.29.17", b"\x30\x80\x82\x01a\0\0")),
        ("subjectAltName with octets after it", extension("2.5.29.17", b"\x30\x03\x82\x01a\0")),
        ("subjectAltName with a line feed", extension("2.5.29.17", b"\x30\x05\x82\x03a\nb")),
        ("subjectAltName of 5 octets of IP", extension("2.5.29.17", b"\x30\x07\x87\x05aaaaa")),
        ("subjectAltName with an 8-bit dNSName", extension("2.5.29.17", b"\x30\x04\x82\x02\xc3\xa9")),
        ("keyUsage no bits", extension("2.5.29.15", b"\x03\x01\0")),
        ("keyUsage an INTEGER", extension("2.5.29.15", b"\x02\x01\x05")),
        ("keyUsage with unused bits set", extension("2.5.29.15", b"\x03\x02\x05\xff")),
        ("keyCertSign alone", extension("2.5.29.15", der.encode_named_bits(5), critical=True)),
        ("basicConstraints cA", extension("2.5.29.19", b"\x30\x03\x01\x01\xff")),
        ("basicConstraints cA in BER", extension("2.5.29.19", b"\x30\x03\x01\x01\x01")),
        ("basicConstraints pathLen", extension("2.5.29.19", b"\x30\x03\x02\x01\0")),
        ("basicConstraints no DER", extension("2.5.29.19", b"\x30\x7f")),
        ("extKeyUsage empty", extension("2.5.29.37", b"\x30\0")),
        ("extKeyUsage cmcCA", extension("2.5.29.37", der.seq(der.encode_oid("1.3.6.1.5.5.7.3.27")))),
        ("extKeyUsage any", extension("2.5.29.37", der.seq(der.encode_oid("2.5.29.37.0")))),
        ("extKeyUsage no OID", extension("2.5.29.37", b"\x30\x02\x05\0")),
    ):
        yield f"extension {what}", field(9, der.tlv(0xA9, octets)), "badCertTemplate|badDataFormat"
    for oid in ("2.5.29.30", "1.2.3.4"):
        critical = extension(oid, b"\x30\0", critical=True)
        yield f"critical extension {oid}", field(9, der.tlv(0xA9, critical)), "badCertTemplate"
    # ProofOfPossession
    yield "popo absent", popo(b""), "badPOP"
    yield "popo raVerified", popo(b"\x80\0"), "notAuthorized"
    yield "popo raVerified with contents", popo(b"\x80\x01\0"), "badDataFormat"
    yield "popo raVerified constructed", popo(b"\xa0\x02\x05\0"), "badDataFormat"
    yield "popo keyEncipherment", popo(b"\xa2\x03\x81\x01\0"), "badPOP"
    yield "popo keyAgreement", popo(b"\xa3\x03\x81\x01\0"), "badPOP"
    yield "popo tag 4", popo(b"\xa4\x02\x05\0"), "badDataFormat"
    yield "popo a BIT STRING", popo(b"\x03\x02\0\0"), "badDataFormat"
    yield "popo empty", popo(b"\xa1\0"), "badDataFormat"
    yield "popo primitive", popo(b"\x81\0"), "badDataFormat"
    yield "popo without signature", popo(der.tlv(0xA1, ECDSA)), "badDataFormat"
    yield "popo of three values", popo(der.tlv(0xA1, ECDSA + b"\x03\x02\0\0" * 2)), "badDataFormat"
    yield "popo with unused bits", popo(der.tlv(0xA1, ECDSA + b"\x03\x02\x01\0")), "badDataFormat"
    yield "popo an OCTET STRING", popo(der.tlv(0xA1, ECDSA + b"\x04\x02\0\0")), "badDataFormat"
    yield "popo empty signature", popo(der.tlv(0xA1, ECDSA + b"\x03\x01\0")), "badPOP"
    yield "popo no signature", popo(der.tlv(0xA1, ECDSA + der.encode_bits(bytes(70)))), "badPOP"
    yield "popo unknown", popo(der.tlv(0xA1, der.seq(der.encode_oid("1.2.3")) + b"\x03\x02\0\0")), "badAlg"
    rsa = der.seq(der.encode_oid("1.2.840.113549.1.1.11"), der.NULL_TLV)
    yield "popo of another kind of key", popo(der.tlv(0xA1, rsa + b"\x03\x02\0\0")), "badAlg|badPOP"
    md5 = der.seq(der.encode_oid("1.2.840.113549.1.1.4"), der.NULL_TLV)
    yield "popo MD5", popo(der.tlv(0xA1, md5 + b"\x03\x02\0\0")), "badAlg"
    with_null = der.seq(der.encode_oid("1.2.840.10045.4.3.2"), der.NULL_TLV)
    yield (
        "popo ECDSA with parameters",
        lambda ask: replace(ask, popo=der.tlv(0xA1, with_null + der.encode_bits(ask.signed(ask.request)))),
        "badAlg",
    )
    yield (
        "popo over the template",
        lambda ask: replace(ask, popo=der.tlv(0xA1, ECDSA + der.encode_bits(ask.signed(der.seq(*ask.parts))))),
        "badPOP",
    )
    yield (
        "popo over another certReqId",
        lambda ask: replace(
            ask,
            popo=der.tlv(0xA1, ECDSA + der.encode_bits(ask.signed(replace(ask, cert_req_id=b"\x02\x01\x01").request))),
        ),
        "badPOP",
    )
    for what, poposk_input in (
        ("empty", b"\xa0\0"),
        ("without key", b"\xa0\x06\xa0\x04\xa4\x02\x30\0"),
        ("with a NULL", b"\xa0\x02\x05\0"),
    ):
        octets = der.tlv(0xA1, poposk_input + ECDSA + b"\x03\x02\0\0")
        yield f"poposkInput {what}", popo(octets), "badDataFormat"
    # controls
    for what, octets, failure in (
        ("empty", der.seq(), "badDataFormat"),  # SIZE (1..MAX)
        ("a SET", b"\x31\0", "badDataFormat"),
        ("of NULLs", der.seq(der.NULL_TLV), "badDataFormat"),
        ("without value", control("1.3.6.1.5.5.7.5.1.1"), "badDataFormat"),
        ("of two values", control("1.3.6.1.5.5.7.5.1.1", b"\x0c\x01a" * 2), "badDataFormat"),
        ("without type", der.seq(der.seq(b"\x0c\x01a", b"\x0c\x01a")), "badDataFormat"),
        ("twice", der.seq(*[der.seq(der.encode_oid("1.3.6.1.5.5.7.5.1.1"), b"\x0c\x01a")] * 2), "badDataFormat"),
        (
            "33 of them",
            der.seq(*[der.seq(der.encode_oid(f"1.2.3.{i}"), b"\x05\0") for i in range(33)]),
            "badDataFormat",
        ),
        ("regToken an INTEGER", control("1.3.6.1.5.5.7.5.1.1", b"\x02\x01\x01"), "badDataFormat"),
        ("authenticator a SEQUENCE", control("1.3.6.1.5.5.7.5.1.2", b"\x30\0"), "badDataFormat"),
        ("oldCertID a NULL", control("1.3.6.1.5.5.7.5.1.5", b"\x05\0"), "badDataFormat"),
    ):
        yield f"controls {what}", controls(octets), failure
    for what, octets in (("a NULL", der.NULL_TLV), ("two", der.seq(der.seq()) * 2), ("an OCTET STRING", b"\x04\0")):
        yield f"regInfo {what}", lambda ask, octets=octets: replace(ask, reg_info=octets), "badDataFormat"
    yield (
        "certReq with a value after controls",
        lambda ask: replace(ask, controls=control("1.2.3", der.NULL_TLV), request_end=der.NULL_TLV),
        "badDataFormat",
    )


def _attributes() -> list[bytes]:
    return sorted(der.seq(der.encode_oid(oid), b"\x0c\x01a") for oid in ("2.5.4.3", "2.5.4.10"))


def _name(attribute: bytes) -> bytes:
    return der.seq(der.tlv(0x31, attribute))


def _curve(oid: str) -> bytes:
    return der.seq(der.encode_oid("1.2.840.10045.2.1"), der.encode_oid(oid))


def _explicit_curve() -> bytes:
    return der.seq(der.encode_oid("1.2.840.10045.2.1"), der.seq(der.encode_integer(1), der.seq()))


def _rsa_algorithm() -> bytes:
    return der.seq(der.encode_oid("1.2.840.113549.1.1.1"), der.NULL_TLV)


def _rsa(modulus: int, exponent: int) -> bytes:
    key = der.seq(der.encode_integer(modulus), der.encode_integer(exponent))
    return _rsa_algorithm() + der.encode_bits(key)


ROWS = list(requests())


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize(("change", "failure"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_a_wrong_certreqmsg_is_rejected_in_the_answer_of_its_kind(kind, change, failure) -> None:
    world = World(enrolment=EnrolmentConfig(certificate_holder_may_ask_for="any"))
    credential = await craft.client(world, kind)
    draft, protector = craft.request(world, credential)
    ask = change(Ask(ec.generate_private_key(ec.SECP256R1())))
    octets = draft.content(der.seq(ask.message)).seal(protector)
    await rejected(world, octets, failure, craft.ANSWERS[craft.BODIES[kind]], kind, credential)


async def rejected(
    world: World, octets: bytes, failure: str, body: str, kind: str, credential, revokes: int = 0
) -> None:
    before = craft.held(world)
    seen = await craft.answer(world, octets)
    assert seen.body == body
    status, text, failures = seen.status()
    assert (status, len(failures)) == (2, 1), (text, failures)
    assert failures <= set(failure.split("|")), text
    assert text
    assert craft.protected_by(world, seen, credential) == kind
    if body != "error":
        assert not seen.content["response"][0]["certifiedKeyPair"].isValue
        assert len(seen.content["response"]) == 1
    after = craft.held(world)
    if revokes:
        assert [after.certificates[serial].state for serial in after.moved(before)] == ["revoked"] * revokes
    else:
        assert after == before
    craft.check_store(world)


@pytest.mark.parametrize("kind", ["mac", "signature"])
async def test_the_pieces_make_a_good_request_when_nothing_is_spoilt(kind: str) -> None:
    world = World()
    credential = await craft.client(world, kind)
    draft, protector = craft.request(world, credential)
    ask = Ask(ec.generate_private_key(ec.SECP256R1()))
    ask = replace(ask, reg_info=der.seq(der.seq(der.encode_oid("1.2.3"), b"\x0c\x01a")))
    seen = await craft.answer(world, draft.content(der.seq(ask.message)).seal(protector))
    assert seen.status()[0] == 0


def not_der():
    yield "padded length", long_form
    yield "indefinite length", craft.indefinite
    yield "a length beyond the end", lambda value: value[:1] + b"\x84\x7f\xff\xff\xff" + value[2:]
    yield "a high tag number", lambda value: b"\xbf\x87\x65" + value[1:]
    yield "a BER boolean inside", lambda value: der.seq(craft.contents(value), b"\x01\x01\x01")
    yield "a padded INTEGER inside", lambda value: der.seq(b"\x02\x02\0\x01", craft.contents(value))
    yield "a REAL inside", lambda value: der.seq(craft.contents(value), b"\x09\x01\0")
    yield "end-of-contents inside", lambda value: der.seq(craft.contents(value), b"\0\0")


@pytest.mark.parametrize("spoil", [row[1] for row in not_der()], ids=[row[0] for row in not_der()])
@pytest.mark.parametrize("place", ["body", "CertReqMsg", "certTemplate"])
async def test_a_body_that_is_no_der_is_told_baddataformat(place: str, spoil) -> None:
    world = World()
    credential = await craft.client(world, "mac")
    draft, protector = craft.request(world, credential)
    (messages,) = craft.children(draft.body)
    (message,) = craft.children(messages)
    request, popo = craft.children(message)
    number, template = craft.children(request)
    content = {
        "body": lambda: spoil(messages),
        "CertReqMsg": lambda: der.seq(spoil(message)),
        "certTemplate": lambda: der.seq(der.seq(der.seq(number, spoil(template)), popo)),
    }[place]()
    await craft.refused(world, draft.content(content).seal(protector), "badDataFormat", by="signature")


@pytest.mark.parametrize(
    ("content", "failure"),
    [(b"\x30\0", "badDataFormat"), (b"\x31\0", "badDataFormat"), (b"\x05\0", "badDataFormat"), (b"", None)],
)
async def test_certreqmessages_that_are_none_are_rejected(content: bytes, failure: str | None) -> None:
    world = World()
    credential = await craft.client(world, "mac")
    draft, protector = craft.request(world, credential)
    octets = draft.content(content).seal(protector)
    if failure is None:  # no value at all: not even a body
        await craft.refused(world, octets, "badDataFormat", by="signature")
    else:
        await rejected(world, octets, failure, "ip", "mac", credential)


async def test_each_request_of_a_message_has_its_own_answer() -> None:
    world = World()
    credential = await craft.client(world, "mac")
    draft, protector = craft.request(world, credential)
    asks = [Ask(ec.generate_private_key(ec.SECP256R1()), cert_req_id=der.encode_integer(i)) for i in range(3)]
    asks[1] = replace(asks[1], popo=b"")
    seen = await craft.answer(world, draft.content(der.seq(*(ask.message for ask in asks))).seal(protector))
    assert [int(response["certReqId"]) for response in seen.content["response"]] == [0, 1, 2]
    assert [seen.status(i)[0] for i in range(3)] == [0, 2, 0]
    assert seen.status(1)[2] == {"badPOP"}
    craft.check_store(world)


async def test_certreqids_must_differ_and_messages_have_at_most_sixteen() -> None:
    world = World()
    credential = await craft.client(world, "mac")
    draft, protector = craft.request(world, credential)
    key = ec.generate_private_key(ec.SECP256R1())
    twins = der.seq(Ask(key).message, Ask(key).message)
    await rejected(world, draft.content(twins).seal(protector), "badDataFormat", "ip", "mac", credential)
    draft, protector = craft.request(world, credential)
    crowd = der.seq(*(Ask(key, cert_req_id=der.encode_integer(i)).message for i in range(17)))
    await rejected(world, draft.content(crowd).seal(protector), "badDataFormat|badRequest", "ip", "mac", credential)


# --- PKCS #10 --------------------------------------------------------------------------------------------------------


EXTENSION_REQUEST = der.encode_oid("1.2.840.113549.1.9.14")


def _wrongly_signed(request: bytes) -> bytes:
    return request[:-1] + bytes((request[-1] ^ 1,))


def p10s():
    def part(**change):
        return lambda key: p10(key, **change)

    for what, octets in (("absent", b""), ("a NULL", b"\x05\0")):
        yield f"version {what}", part(version=octets), "badDataFormat"
    for number in (1, 2, -1):
        yield f"version {number}", part(version=der.encode_integer(number)), "badCertTemplate"
    yield "subject absent", part(subject=b""), "badDataFormat"
    yield "subject tagged", part(subject=der.explicit(5, SUBJECT)), "badDataFormat"
    yield "key absent", part(spki=b""), "badDataFormat"
    yield "key empty", part(spki=b"\x30\0"), "badDataFormat"
    for what, octets in (
        ("absent", b""),
        ("a SET", b"\x31\0"),
        ("and more", b"\xa0\0\x05\0"),
        ("of NULLs", b"\xa0\x02\x05\0"),
        ("without values", der.tlv(0xA0, der.seq(EXTENSION_REQUEST))),
        ("of a SEQUENCE of values", der.tlv(0xA0, der.seq(EXTENSION_REQUEST, der.seq()))),
        ("twice", der.tlv(0xA0, der.seq(EXTENSION_REQUEST, der.tlv(0x31, der.seq(SAN))) * 2)),
        ("of no value", der.tlv(0xA0, der.seq(EXTENSION_REQUEST, b"\x31\0"))),
        ("of two values", der.tlv(0xA0, der.seq(EXTENSION_REQUEST, der.tlv(0x31, der.seq(SAN) * 2)))),
    ):
        yield f"attributes {what}", part(attributes=octets), "badDataFormat"
    yield "not signed", lambda key: der.seq(craft.children(p10(key))[0]), "badDataFormat"
    yield "a wrong signature", lambda key: _wrongly_signed(p10(key)), "badPOP"
    yield "values after the signature", lambda key: der.seq(craft.contents(p10(key)), der.NULL_TLV), "badDataFormat"
    yield "a CertReqMessages", lambda key: der.seq(Ask(key).message), "badDataFormat"
    yield "a NULL", lambda key: der.NULL_TLV, "badDataFormat"


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize(("make", "failure"), [row[1:] for row in p10s()], ids=[row[0] for row in p10s()])
async def test_a_wrong_pkcs10_is_rejected_in_a_cp_with_certreqid_minus_one(kind: str, make, failure: str) -> None:
    world = World()
    credential = await craft.client(world, kind)
    draft, protector = craft.request(world, credential)
    octets = Draft(draft.fields, der.tlv(0xA4, make(ec.generate_private_key(ec.SECP256R1())))).seal(protector)
    await rejected(world, octets, failure, "cp", kind, credential)
    seen = await craft.answer(world, octets)  # the same octets again
    assert int(seen.content["response"][0]["certReqId"]) == -1


# --- kur -------------------------------------------------------------------------------------------------------------


def _cert_id(issuer: bytes, serial: bytes) -> bytes:
    return control("1.3.6.1.5.5.7.5.1.5", der.seq(issuer, serial))


@pytest.mark.parametrize(
    ("cert_id", "failure"),
    [
        (lambda issuer, serial: der.seq(der.explicit(4, issuer), der.encode_integer(serial + 1)), "badCertId"),
        (lambda issuer, serial: der.seq(der.explicit(4, SUBJECT), der.encode_integer(serial)), "badCertId"),
        (lambda issuer, serial: der.seq(b"\x82\x01a", der.encode_integer(serial)), "badCertId"),
        (lambda issuer, serial: der.seq(issuer, der.encode_integer(serial)), "badDataFormat|badCertId"),
        (lambda issuer, serial: der.seq(der.explicit(4, issuer)), "badDataFormat"),
        (lambda issuer, serial: der.seq(der.encode_integer(serial), der.explicit(4, issuer)), "badDataFormat"),
        (lambda issuer, serial: der.seq(), "badDataFormat"),
        (lambda issuer, serial: der.NULL_TLV, "badDataFormat"),
        (
            lambda issuer, serial: der.seq(der.explicit(4, issuer), der.encode_integer(serial), der.NULL_TLV),
            "badDataFormat",
        ),
    ],
)
async def test_a_wrong_oldcertid_is_rejected(cert_id, failure: str) -> None:
    world = World()
    holder = await craft.client(world, "signature")
    draft, protector = craft.request(world, holder, "kur")
    value = cert_id(holder.certificate.issuer, holder.certificate.serial)
    ask = Ask(ec.generate_private_key(ec.SECP256R1()), controls=der.seq(der.seq(OLD_CERT_ID, value)))
    octets = draft.content(der.seq(ask.message)).seal(protector)
    await rejected(world, octets, failure, "kup", "signature", holder)


# --- certConf, pkiconf, error ----------------------------------------------------------------------------------------


def statuses():
    """(what, (certHash, octets of the right CertStatus) -> contents, failInfo)."""

    def status(*parts):
        return lambda digest, right: der.seq(der.seq(*[digest if part is ... else part for part in parts]))

    zero, minus = b"\x02\x01\0", b"\x02\x01\xff"
    yield "not a SEQUENCE", lambda digest, right: b"\x31\0", "badDataFormat"
    yield "a NULL", lambda digest, right: der.NULL_TLV, "badDataFormat"
    yield "of NULLs", lambda digest, right: der.seq(der.NULL_TLV), "badDataFormat"
    yield "empty CertStatus", status(), "badDataFormat"
    yield "without certReqId", status(...), "badDataFormat"
    yield "certHash a BIT STRING", status(b"\x03\x02\0\0", zero), "badDataFormat"
    yield "certHash wrong", status(der.encode_octets(bytes(32)), zero), "badCertId"
    yield "certHash empty", status(der.encode_octets(b""), zero), "badCertId"
    yield "certHash cut off", lambda d, r: der.seq(der.seq(der.encode_octets(d[2:-1]), zero)), "badCertId"
    yield "certReqId -1", status(..., minus), "badCertId"
    yield "certReqId 1", status(..., b"\x02\x01\x01"), "badCertId"
    yield "certReqId huge", status(..., der.encode_integer(2**200)), "badCertId|badDataFormat"
    yield "certReqId of 33 octets", status(..., der.encode_integer(2**260)), "badDataFormat"
    yield "certReqId a NULL", status(..., der.NULL_TLV), "badDataFormat"
    yield "statusInfo empty", status(..., zero, der.seq()), "badDataFormat"
    for number in (3, 4, 5, 6, 7, -1):
        yield f"status {number}", status(..., zero, der.seq(der.encode_integer(number))), "badDataFormat|badRequest"
    two = der.encode_integer(2)
    yield "statusString empty", status(..., zero, der.seq(two, der.seq())), "badDataFormat"
    yield "statusString bare", status(..., zero, der.seq(two, b"\x0c\x01a")), "badDataFormat"
    yield "failInfo an INTEGER", status(..., zero, der.seq(two, two)), "badDataFormat"
    yield (
        "statusInfo of four values",
        status(..., zero, der.seq(two, der.seq(b"\x0c\x01a"), b"\x03\x02\x05\x20", two)),
        "badDataFormat",
    )
    yield "hashAlg under pvno 2", status(..., zero, der.explicit(0, SHA256)), "badDataFormat"
    yield "hashAlg bare", status(..., zero, b"\xa0" + SHA256[1:]), "badDataFormat"
    yield "hashAlg a NULL", status(..., zero, b"\xa0\x02\x05\0"), "badDataFormat"
    yield "hashAlg doubled", status(..., zero, der.explicit(0, SHA256) * 2), "badDataFormat"
    yield "tag 1", status(..., zero, der.explicit(1, SHA256)), "badDataFormat"
    yield "twice the right one", lambda digest, right: der.seq(right, right), "badDataFormat|badCertId|badRequest"
    yield (
        "accepted and rejected at once",
        lambda digest, right: der.seq(right, der.seq(digest, zero, der.seq(two))),
        "badDataFormat|badCertId|badRequest",
    )
    yield "1000 of them", lambda digest, right: der.seq(*[right] * 1000), "badDataFormat|badCertId|badRequest"


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize(("make", "failure"), [row[1:] for row in statuses()], ids=[row[0] for row in statuses()])
async def test_a_wrong_certconf_confirms_nothing_and_ends_the_transaction(kind: str, make, failure: str) -> None:
    """RFC 9483 section 3.6.4: after a negative answer the operation has failed, so the certificate is revoked."""
    world = World()
    credential = await craft.client(world, kind)
    asked, granted, _ = await world.ir(credential, body=craft.BODIES[kind], implicit=False)
    certificate = granted.certificate()
    right = cert_status(certificate, 0)
    content = make(der.encode_octets(hashlib.sha256(certificate.der).digest()), right)
    wrong = world.follow(asked, granted, "certConf", content)
    await rejected(world, wrong.der, failure, "error", kind, credential, revokes=1)
    assert await state(world, granted) is CertificateState.REVOKED
    late = await craft.answer(world, world.follow(asked, granted, "certConf", der.seq(right)).der)
    assert late.body == "error"
    assert await state(world, granted) is CertificateState.REVOKED


async def test_a_certconf_that_is_no_der_is_nobodys_and_ends_nothing() -> None:
    """It is refused before its protection is looked at, so anybody may have sent it."""
    world = World()
    credential = await craft.client(world, "mac")
    asked, granted, _ = await world.ir(credential, implicit=False)
    wrong = world.follow(asked, granted, "certConf", b"\x30\x80\0\0")
    await craft.refused(world, wrong.der, "badDataFormat", by="signature")
    assert await state(world, granted) is CertificateState.ISSUED
    status = der.seq(cert_status(granted.certificate(), 0))
    assert (await craft.answer(world, world.follow(asked, granted, "certConf", status).der)).body == "pkiconf"
    assert await state(world, granted) is CertificateState.CONFIRMED


async def state(world: World, granted: Seen) -> CertificateState:
    """Of the certificate in an answer."""
    serial = der.encode_integer(granted.certificate().serial)[2:]
    record = await world.store.find_certificate(serial)
    assert record is not None
    return record.state


@pytest.mark.parametrize(("alg", "failure"), [(SHA1, "badAlg"), (der.seq(der.encode_oid("1.2.3")), "badAlg")])
async def test_a_hashalg_that_is_not_known_is_told_badalg(alg: bytes, failure: str) -> None:
    world = World()
    credential = await craft.client(world, "mac")
    asked, granted, _ = await world.ir(credential, implicit=False)
    digest = der.encode_octets(hashlib.sha1(granted.certificate().der).digest())
    content = der.seq(der.seq(digest, b"\x02\x01\0", der.explicit(0, alg)))
    wrong = world.follow(asked, granted, "certConf", content, pvno=3)
    await rejected(world, wrong.der, failure, "error", "mac", credential, revokes=1)
    assert await state(world, granted) is CertificateState.REVOKED


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ("pkiconf", der.seq()),
        ("pkiconf", der.encode_integer(0)),
        ("error", der.NULL_TLV),
        ("error", der.seq()),
        ("error", der.seq(der.seq())),
        ("error", der.seq(der.seq(der.encode_integer(2)), der.NULL_TLV)),
    ],
)
async def test_a_malformed_end_of_a_transaction_confirms_nothing(body: str, content: bytes) -> None:
    """RFC 9483 section 3.5: the whole message must be as ASN.1 defines it, otherwise badDataFormat."""
    world = World()
    credential = await craft.client(world, "mac")
    asked, granted, _ = await world.ir(credential, implicit=False)
    wrong = world.follow(asked, granted, body, content)
    await rejected(world, wrong.der, "badDataFormat", "error", "mac", credential)
    assert await state(world, granted) in (CertificateState.ISSUED, CertificateState.REVOKED)


async def test_a_peers_text_cannot_write_lines_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Names, texts, transactionIDs and reference values are quoted or in hex."""
    caplog.set_level("DEBUG")
    evil = "x\r\n2026-01-01T00:00:00Z INFO cmpd.audit certificate issued \x1b[31m\u2028\u202e"
    world = World()
    credential = await craft.client(world, "mac")
    draft, protector = craft.request(world, credential)
    attribute = der.seq(der.encode_oid("2.5.4.3"), der.encode_utf8(evil[:64]))
    key = ec.generate_private_key(ec.SECP256R1())
    good = Ask(key).field(5, der.explicit(5, _name(attribute)))
    await craft.answer(world, draft.content(der.seq(good.message)).seal(protector))
    evil_octets = der.encode_octets(evil.encode())
    for spoil in (
        lambda d: d.set("senderKID", evil_octets).put("sender", der.explicit(4, _name(attribute))),
        lambda d: d.set("transactionID", evil_octets).set("senderNonce", der.encode_octets(b"\n")),
        lambda d: d.set("freeText", der.seq(der.encode_utf8(evil))).drop("senderNonce"),
        lambda d: d.info(der.seq(craft.CERT_PROFILE, der.seq(der.encode_utf8(evil)))),
    ):
        draft, protector = craft.request(world, credential)
        await craft.answer(world, spoil(draft).seal(protector))
    asked, granted, _ = await world.ir(credential, implicit=False)
    await craft.answer(world, world.follow(asked, granted, "error", error_content(evil)).der)
    asked, granted, _ = await world.ir(credential, implicit=False)
    status = der.seq(cert_status(granted.certificate(), 0, reject=evil))
    await craft.answer(world, world.follow(asked, granted, "certConf", status).der)
    assert len(caplog.records) > 6
    for record in caplog.records:
        assert record.getMessage().isprintable(), record.getMessage()
        assert record.exc_info is None
