"""Every field of PKIHeader in every wrong form, one at a time, correctly protected (RFC 9810 section 5.1.1, RFC 9483
sections 3.1 and 3.5). What is wrong with a header is answered by an error message (RFC 9483 section 3.6.2).

What cannot be read as ASN.1 is refused before its protection is looked at, so that answer is signed; so is an answer to
what the protection does not vouch for. What is refused afterwards is answered in the kind of the request: "own". The
door is lenient; what a strict one refuses besides is in tests/strict.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.message import Undecodable, decode
from tests.hostile import craft
from tests.hostile.craft import Draft, long_form
from tests.world import World

OCTETS = [  # the forms in which an OCTET STRING inside its explicit tag can be wrong
    ("no value", b""),
    ("a bare value", None),
    ("an INTEGER", der.encode_integer(5)),
    ("two values", der.encode_octets(bytes(16)) * 2),
    ("constructed", b"\x24\x12" + der.encode_octets(bytes(16))),
    ("indefinite length", b"\x24\x80" + der.encode_octets(bytes(16)) + b"\0\0"),
    ("padded length", long_form(der.encode_octets(bytes(16)))),
    ("length beyond the field", b"\x04\x7f" + bytes(16)),
    ("length of five octets", b"\x04\x85\0\0\0\0\x10" + bytes(16)),
    ("513 octets", der.encode_octets(bytes(513))),
]
TIMES = [
    *("20250615", "2025061", "20250615130640.Z", "20250615130640.5.5Z", "20250615130640+24", "20250615130640+0060"),
    *(
        "20250231130640Z",
        "00000615130640Z",
        "2025061513064\xe9Z",
        "20250615130660Z",
        "",
        "20250615250640Z",
        "Z",
        "9" * 40,
    ),
    *(
        "20250615136040Z",
        "20251315130640Z",
        "20250600130640Z",
        "20250615130640z",
        "20250615130640 Z",
        "-0250615130640Z",
    ),
    "20250615130640." + "9" * 19 + "Z",
]
UTC_TIMES = ["25061513Z", "2506151306", "250615130640", "250615130640.5Z", "250231130640Z", "20250615130640Z", ""]
TEXT = der.encode_utf8("text")
LATIN = b"\x0c\x02\xe9\xe8"
NAMES = der.seq(der.encode_utf8("default"))


def raw(name: str, octets: bytes):
    return lambda draft: draft.put(name, octets)


def inside(name: str, value: bytes):
    return lambda draft: draft.set(name, value)


def info(*items: bytes):
    return lambda draft: draft.info(*items)


def rows():
    """(what, how, failInfo, how the answer is protected)."""
    # pvno (RFC 9810 section 7)
    for number in (0, 1, 4, 255, -1, -2, 2**31, 2**200):
        yield f"pvno {number}", raw("pvno", der.encode_integer(number)), "unsupportedVersion", "signature"
    for what, octets in (
        ("padded", b"\x02\x02\0\x02"),
        ("empty", b"\x02\0"),
        ("a BOOLEAN", b"\x01\x01\xff"),
        ("an ENUMERATED", b"\x0a\x01\x02"),
        ("of 33 octets", der.encode_integer(2**260)),
        ("padded length", b"\x02\x81\x01\x02"),
        ("indefinite length", b"\x22\x80\x02\x01\x02\0\0"),
        ("absent", b""),
    ):
        yield f"pvno {what}", raw("pvno", octets), "badDataFormat", "signature"
    # sender and recipient
    for name in ("sender", "recipient"):
        for what, octets in (
            ("a bare Name", encode_name("/CN=device")),
            ("directoryName tagged implicitly", b"\xa4" + encode_name("/CN=device")[1:] + b"\x05"),
            ("tag 9", b"\xa9\x02\x30\0"),
            ("tag 31", b"\xbf\x1f\x02\x30\0"),
            ("primitive directoryName", b"\x84\x02\x30\0"),
            ("constructed rfc822Name", b"\xa1\x03\x16\x01a"),
            ("padded length", long_form(craft.NULL_DN)),
            ("indefinite length", craft.indefinite(craft.NULL_DN)),
            ("two Names", b"\xa4\x04\x30\0\x30\0"),
            ("an empty x400Address", b"\xa3\0"),
            ("an ediPartyName without partyName", b"\xa5\x05\xa0\x03\x0c\x01x"),
            ("an empty ediPartyName", b"\xa5\0"),
            ("no Name", b"\xa4\0"),
            ("an RDN with a wrong tag", der.explicit(4, der.seq(der.seq()))),
            ("UTF8String of Latin-1", der.explicit(4, der.seq(der.tlv(0x31, der.seq(b"\x06\x03\x55\x04\x03", LATIN))))),
            ("values after the GeneralName", craft.NULL_DN + b"\x05\0"),
        ):
            yield f"{name} {what}", raw(name, octets), "badDataFormat", "signature"
        if name == "sender":  # it goes back, so it must be what it says
            for octets in (b"\xa3\x02\x30\0", b"\xa5\x05\xa1\x03\x0c\x01x"):
                yield f"sender {octets.hex()}", raw(name, octets), "badDataFormat", "signature"
        yield f"{name} absent", lambda draft, name=name: draft.drop(name), "badDataFormat", "signature"
    # the optional fields
    for name in ("senderKID", "recipKID", "transactionID", "senderNonce", "recipNonce"):
        for what, value in OCTETS:
            octets = der.tlv(0x80 | craft.NUMBERS[name], bytes(16)) if value is None else None
            how = raw(name, octets) if octets is not None else inside(name, value or b"")
            yield f"{name} {what}", how, "badDataFormat", "signature"
    for name in ("messageTime", "protectionAlg", "transactionID", "senderNonce"):
        yield f"{name} doubled", lambda draft, name=name: draft.double(name), "badDataFormat", "signature"
        yield f"{name} last", lambda draft, name=name: draft.last(name), "badDataFormat", "signature"
        padded = lambda draft, name=name: draft.put(name, long_form(draft[name]))  # noqa: E731
        yield f"{name} with a padded length", padded, "badDataFormat", "signature"
    for octets in (b"\xa9\x02\x05\0", b"\xbf\x20\x02\x05\0", b"\x30\0", b"\x05\0", b"\0\0", b"\x80\x01\0"):
        spoil = raw("generalInfo", octets)
        yield f"a field with the octets {octets.hex()}", spoil, "badDataFormat", "signature"
    # transactionID, nonces
    yield "transactionID empty", inside("transactionID", der.encode_octets(b"")), "badDataFormat", "own"
    # messageTime
    for text in TIMES:
        value = der.tlv(der.GENERALIZED_TIME, text.encode("latin-1"))
        yield f"messageTime {text!a}", inside("messageTime", value), "badDataFormat", "signature"
    for text in UTC_TIMES:
        value = der.tlv(der.UTC_TIME, text.encode())
        yield f"messageTime a UTCTime {text!a}", inside("messageTime", value), "badDataFormat", "signature"
    for what, value in (
        ("no value", b""),
        ("an INTEGER", der.encode_integer(1_750_000_000)),
        ("two times", der.encode_generalized_time(1_750_000_000) * 2),
        ("two UTCTimes", der.tlv(der.UTC_TIME, b"250615150640Z") * 2),
        ("a constructed UTCTime", der.tlv(0x37, der.tlv(der.UTC_TIME, b"250615150640Z"))),
        ("a padded length", long_form(der.encode_generalized_time(1_750_000_000))),
    ):
        yield f"messageTime {what}", inside("messageTime", value), "badDataFormat", "signature"
    for when in (0, 4_000_000_000):
        value = der.encode_generalized_time(when)
        yield f"messageTime {when}", inside("messageTime", value), "badTime", "own"
    # protectionAlg
    for what, value in (
        ("an OID alone", der.encode_oid("1.2.3")),
        ("empty", der.seq()),
        ("without OID", der.seq(der.NULL_TLV)),
        ("a cut-off OID", der.seq(b"\x06\x02\x2a\x86")),
        ("a padded OID", der.seq(b"\x06\x03\x2a\x80\x01")),
        ("an empty OID", der.seq(b"\x06\0")),
        ("an OID of 100 octets", der.seq(der.tlv(der.OID, b"\x2a" * 100))),
        ("two values", der.seq(der.encode_oid("1.2.3")) * 2),
    ):
        yield f"protectionAlg {what}", inside("protectionAlg", value), "badDataFormat", "signature"
    three = der.seq(der.encode_oid("1.2.840.113533.7.66.13"), der.NULL_TLV, der.NULL_TLV)
    yield "protectionAlg of three values", inside("protectionAlg", three), "badDataFormat", "signature"
    yield "protectionAlg unknown", inside("protectionAlg", der.seq(der.encode_oid("1.2.3"))), "badAlg", "signature"
    yield "protectionAlg absent", lambda draft: draft.drop("protectionAlg"), "badDataFormat", "signature"
    # freeText
    for what, value in (
        ("empty", der.seq()),
        ("a bare text", TEXT),
        ("a PrintableString", der.seq(b"\x13\x01a")),
        ("Latin-1", der.seq(LATIN)),
        ("a surrogate", der.seq(b"\x0c\x03\xed\xa0\x80")),
        ("overlong UTF-8", der.seq(b"\x0c\x02\xc0\x80")),
        ("nested", der.seq(der.seq(TEXT))),
    ):
        yield f"freeText {what}", inside("freeText", value), "badDataFormat", "signature"
    # generalInfo
    for what, value in (
        ("empty", der.seq()),
        ("an item that is no SEQUENCE", der.seq(der.NULL_TLV)),
        ("an item without type", der.seq(der.seq())),
        ("a type that is no OID", der.seq(der.seq(TEXT, TEXT))),
        ("an item of three values", der.seq(der.seq(craft.IMPLICIT_CONFIRM, der.NULL_TLV, der.NULL_TLV))),
        ("65 items", der.seq(*[der.seq(der.encode_oid("1.2.3"))] * 65)),
        ("an unknown item that is not DER", der.seq(der.seq(der.encode_oid("1.2.3"), b"\x01\x01\x01"))),
        ("an unknown item of indefinite length", der.seq(der.seq(der.encode_oid("1.2.3"), b"\x30\x80\0\0"))),
        ("an unknown item 40 levels deep", der.seq(der.seq(der.encode_oid("1.2.3"), _deep(40)))),
        ("a NULL with contents", der.seq(der.seq(craft.IMPLICIT_CONFIRM, b"\x05\x01\0"))),
    ):
        yield f"generalInfo {what}", inside("generalInfo", value), "badDataFormat", "signature"
    for value in (b"\x01\x01\xff", b"\x30\0", TEXT):  # the syntax of the whole message (RFC 9483 section 3.5)
        spoil = info(der.seq(craft.IMPLICIT_CONFIRM, value))
        yield f"implicitConfirm {value.hex()}", spoil, "badDataFormat", "own"
    for what, value in (
        ("absent", b""),
        ("a bare text", TEXT),
        ("NULL", der.NULL_TLV),
        ("a UTCTime", b"\x17\x0d250615130640Z"),
    ):
        yield f"confirmWaitTime {what}", info(der.seq(craft.CONFIRM_WAIT_TIME, value)), "badDataFormat", "own"
    for what, value in (
        ("absent", b""),
        ("a bare text", TEXT),
        ("a PrintableString", der.seq(b"\x13\x01a")),
        ("NULL", der.NULL_TLV),
        ("of no name", der.seq()),
        ("65 names", der.seq(*[TEXT] * 65)),
    ):
        yield f"certProfile {what}", info(der.seq(craft.CERT_PROFILE, value)), "badDataFormat", "own"


def _deep(levels: int) -> bytes:
    value = der.NULL_TLV
    for _ in range(levels):
        value = der.seq(value)
    return value


ROWS = list(rows())


@pytest.mark.parametrize("kind", craft.KINDS)
@pytest.mark.parametrize(("spoil", "failure", "by"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_a_wrong_header_is_answered_by_an_error(kind: str, spoil: craft.Spoil, failure: str, by: str) -> None:
    world = World()
    credential, draft, protector = await craft.asking(world, kind)
    octets = spoil(draft).seal(protector)
    how = craft.protection_of(kind) if by == "own" else by
    seen = await craft.refused(world, octets, failure, by=how, credential=credential)
    assert seen.envelope.header.pvno in (2, 3)


def accepted():
    """What is unusual and right: to be handled gracefully (RFC 9483 section 3.5)."""
    for octets in (
        craft.NULL_DN,
        b"\x82\x09localhost",
        b"\x81\x03a@b",
        b"\x86\x05cmp:x",
        b"\x87\x04\x7f\0\0\x01",
        b"\x88\x02\x2a\x03",
        b"\xa0\x09\x06\x02\x2a\x03\xa0\x03\x0c\x01x",
        b"\xa3\x02\x30\0",  # x400Address
        b"\xa5\x05\xa1\x03\x0c\x01x",  # ediPartyName
        der.explicit(4, encode_name("/CN=somebody else")),
    ):
        yield f"recipient {octets.hex()}", raw("recipient", octets)
    yield "messageTime absent", lambda draft: draft.drop("messageTime")
    for size in (1, 16, 512):
        yield f"recipKID {size}", inside("recipKID", der.encode_octets(bytes(size)))
    for size in (1, 15, 64, 512):
        yield f"transactionID {size}", inside("transactionID", der.encode_octets(bytes(size)))
    yield "transactionID absent", lambda draft: draft.drop("transactionID")
    yield "senderNonce absent", lambda draft: draft.drop("senderNonce")
    for size in (1, 15, 16, 17, 512):
        yield f"senderNonce {size}", inside("senderNonce", der.encode_octets(bytes(size)))
    yield "freeText of two texts", inside("freeText", der.seq(TEXT, der.encode_utf8("\n\x1b[31m")))
    yield "pvno 3", raw("pvno", der.encode_integer(3))
    item = der.seq(der.encode_oid("1.2.3"), der.seq(TEXT, b"\x13\x01a"))
    yield "an unknown item", info(item, der.seq(der.encode_oid("1.2.4")))
    yield "64 unknown items", info(*[item] * 64)
    wait = der.seq(craft.CONFIRM_WAIT_TIME, der.encode_generalized_time(4_000_000_000))
    yield "confirmWaitTime in a request", info(wait)
    yield "certProfile with the empty name", info(der.seq(craft.CERT_PROFILE, der.seq(der.encode_utf8(""))))
    yield "certProfile default", info(der.seq(craft.CERT_PROFILE, NAMES))


GOOD = list(accepted())


@pytest.mark.parametrize("kind", craft.KINDS)
@pytest.mark.parametrize("change", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
async def test_an_unusual_header_does_no_harm(kind: str, change: craft.Spoil) -> None:
    world = World()
    credential, draft, protector = await craft.asking(world, kind)
    changed = change(draft)
    seen = await craft.answer(world, changed.seal(protector))
    assert (seen.body, seen.status()[0]) == (craft.ANSWERS[craft.body_of(kind)], 0), seen.status()
    assert craft.protected_by(world, seen, credential) == craft.protection_of(kind)
    craft.check_header(changed, seen)
    assert seen.envelope.header.pvno == int.from_bytes(craft.contents(changed["pvno"]), "big")


@pytest.mark.parametrize("kind", craft.KINDS)
@pytest.mark.parametrize("wait", [False, True], ids=["first message", "certConf"])
async def test_an_error_goes_to_the_sender_in_its_transaction(kind: str, wait: bool) -> None:
    """Also when the header breaks off: what could be read before the fault is used."""
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    spoilt = draft.set("freeText", der.seq()) if wait else draft.set("recipNonce", der.NULL_TLV)
    seen = await craft.refused(world, spoilt.seal(protector), "badDataFormat", by="signature")
    craft.check_header(draft, seen)


AROUND = [
    ("cut off", lambda octets: octets[:-1]),
    ("cut off in its body", lambda octets: octets[:-60]),
    ("an octet after it", lambda octets: octets + b"\0"),
    ("twice", lambda octets: octets * 2),
    ("padded length", long_form),
    ("indefinite length", craft.indefinite),
    ("length of one octet too many", lambda octets: b"\x30\x84\0\0\x7f\xff" + craft.contents(octets)),
    ("no body", lambda octets: der.seq(craft.children(octets)[0])),
    ("a padded header", lambda octets: der.seq(long_form(craft.children(octets)[0]), *craft.children(octets)[1:])),
    ("another end", lambda octets: der.seq(*craft.children(octets), der.NULL_TLV)),
]


@pytest.mark.parametrize("kind", craft.KINDS)
@pytest.mark.parametrize("spoil", [row[1] for row in AROUND], ids=[row[0] for row in AROUND])
async def test_a_fault_around_the_header_does_not_hide_it(kind: str, spoil) -> None:
    """To whom the error goes, and in which version, can be read all the same."""
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    draft = draft.put("pvno", der.encode_integer(3))
    seen = await craft.refused(world, spoil(draft.seal(protector)), "badDataFormat", by="signature")
    craft.check_header(draft, seen)
    assert seen.envelope.header.pvno == 3


WRONG = b"\x02\0"  # an empty INTEGER: wrong in the place of every field
FIELDS = [*craft.ORDER[:3], *craft.NUMBERS]


@given(st.sets(st.sampled_from(FIELDS[3:])), st.sets(st.sampled_from(FIELDS), max_size=3), st.booleans())
def test_any_fields_missing_and_any_wrong_leave_the_others_readable(
    there: set[str], wrong: set[str], cut: bool
) -> None:
    right = {
        "pvno": der.encode_integer(3),
        "sender": der.explicit(4, encode_name("/CN=device")),
        "recipient": craft.NULL_DN,
        "messageTime": der.encode_generalized_time(1_750_000_000),
        "protectionAlg": der.seq(der.encode_oid("1.2.3")),
        "freeText": der.seq(TEXT),
        "generalInfo": der.seq(der.seq(der.encode_oid("1.2.3"))),
    }
    fields = []
    for name in FIELDS:
        if name in there or name in FIELDS[:3]:
            value = WRONG if name in wrong else right.get(name, der.encode_octets(name.encode()))
            number = craft.NUMBERS.get(name)
            fields.append((name, value if number is None else der.explicit(number, value)))
    octets = der.seq(Draft(tuple(fields), der.explicit(21, der.seq())).part)
    faulty = bool(wrong & {name for name, _ in fields}) or cut
    if not faulty:
        header = decode(octets).header
    else:
        with pytest.raises(Undecodable, match=r"want .*have ") as caught:
            decode(octets[:-1] if cut else octets)
        if caught.value.header is None:
            assert not there & {"transactionID", "senderNonce"} - wrong
            return
        header = caught.value.header
    for name, value in (("transactionID", header.transaction_id), ("senderNonce", header.sender_nonce)):
        assert value == (name.encode() if name in there - wrong else None)
    if not wrong & {"pvno", "sender"}:
        assert (header.pvno, header.sender) == (3, right["sender"])


@pytest.mark.parametrize("kind", ["mac", "rr by mac", "rr by signature"])
@pytest.mark.parametrize(("number", "answered"), [(1, 2), (0, 2), (-5, 2), (4, 3), (2**200, 3)])
async def test_an_unsupported_version_is_answered_in_the_nearest_one(kind: str, number: int, answered: int) -> None:
    """RFC 9810 section 7: the highest supported version if it was higher, the lowest if it was lower."""
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    draft = draft.put("pvno", der.encode_integer(number))
    seen = await craft.refused(world, draft.seal(protector), "unsupportedVersion", by="signature")
    assert seen.envelope.header.pvno == answered
    craft.check_header(draft, seen)


@pytest.mark.parametrize("kind", ["mac", "rr by mac", "rr by signature"])
async def test_a_version_from_the_future_is_told_so_whatever_else_it_has(kind: str) -> None:
    """A later version may have other fields: unsupportedVersion is what its client can make use of."""
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    draft = draft.put("pvno", der.encode_integer(4)).put("generalInfo", b"\xa9\x02\x05\0")
    await craft.refused(world, draft.seal(protector), "unsupportedVersion", by="signature")


# --- senderKID, sender and the nonces of later messages --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("senderKID", der.encode_octets(b"")),
        ("senderKID", der.encode_octets(b"somebody else")),
        ("senderKID", der.encode_octets(b"\xff\xfe\0\n")),
        ("senderKID", der.encode_octets(b"device\0")),
        ("senderKID", der.encode_octets(b"device' OR '1'='1")),
    ],
)
@pytest.mark.parametrize("kind", craft.KINDS)
async def test_a_senderkid_that_fits_no_key_is_told_badmessagecheck(kind: str, name: str, value: bytes) -> None:
    """RFC 9483 section 3.5: if present, it MUST identify the key."""
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    draft = draft.set(name, value).put("sender", craft.NULL_DN)
    await craft.refused(world, draft.seal(protector), "badMessageCheck", by="signature")


@pytest.mark.parametrize("kind", ["mac", "rr by mac"])
async def test_a_mac_without_any_reference_is_told_badmessagecheck(kind: str) -> None:
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    draft = draft.drop("senderKID").put("sender", craft.NULL_DN)
    await craft.refused(world, draft.seal(protector), "badMessageCheck", by="signature")


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (lambda draft: draft.drop("recipNonce"), "badRecipientNonce"),
        (lambda draft: draft.set("recipNonce", der.encode_octets(bytes(16))), "badRecipientNonce"),
        (lambda draft: draft.set("recipNonce", der.encode_octets(b"")), "badRecipientNonce"),
        (lambda draft: draft.set("recipNonce", contents_of(draft, "recipNonce")[:-1]), "badDataFormat"),
        (lambda draft: draft.set("recipNonce", contents_of(draft, "senderNonce")), "badRecipientNonce"),
        (lambda draft: draft.drop("transactionID"), "badDataFormat"),
        (lambda draft: draft.set("transactionID", der.encode_octets(bytes(16))), "badRequest"),
        (lambda draft: draft.put("pvno", der.encode_integer(1)), "unsupportedVersion"),
        (lambda draft: draft.set("messageTime", der.encode_generalized_time(0)), "badTime"),
    ],
)
async def test_a_certconf_with_a_wrong_header_confirms_nothing(kind: str, spoil: craft.Spoil, failure: str) -> None:
    from cmpd.client.messages import cert_status
    from cmpd.records import CertificateState

    world = World()
    credential = await craft.client(world, kind)
    asked, granted, _ = await world.ir(credential, body=craft.BODIES[kind], implicit=False)
    status = der.seq(cert_status(granted.certificate(), 0))
    right = world.follow(asked, granted, "certConf", status)
    draft = Draft.of(right.der)
    await craft.refused(world, spoil(draft).seal(right.protector), failure, credential=credential)
    states = {record.state for record in await world.store.list_certificates() if record.state != "confirmed"}
    assert states == {CertificateState.ISSUED}
    confirmed = await craft.answer(world, right.der)
    assert confirmed.body == "pkiconf"


def contents_of(draft: Draft, name: str) -> bytes:
    return craft.contents(draft[name])


# --- the message around the header -----------------------------------------------------------------------------------


def whole():
    yield "empty", lambda octets: b""
    yield "one octet", lambda octets: octets[:1]
    yield "cut off", lambda octets: octets[:-1]
    yield "an octet after it", lambda octets: octets + b"\0"
    yield "twice", lambda octets: octets * 2
    yield "padded length", long_form
    yield "indefinite length", craft.indefinite
    yield "a SET", lambda octets: b"\x31" + octets[1:]
    yield "inside a SEQUENCE", lambda octets: der.seq(octets)
    yield "no body", lambda octets: der.seq(craft.children(octets)[0])
    yield "body and header swapped", lambda octets: der.seq(*(craft.children(octets)[i] for i in (1, 0, 2)))
    yield "an empty header", lambda octets: der.seq(der.seq(), *craft.children(octets)[1:])
    yield "text", lambda octets: b"GET / HTTP/1.1\r\n\r\n"
    yield "zeros", lambda octets: bytes(1000)
    yield "ones", lambda octets: b"\xff" * 1000
    yield "a huge length", lambda octets: b"\x30\x84\xff\xff\xff\xff" + octets


@pytest.mark.parametrize("kind", ["mac", "rr by mac", "rr by signature"])
@pytest.mark.parametrize("spoil", [row[1] for row in whole()], ids=[row[0] for row in whole()])
async def test_what_is_no_pkimessage_is_told_baddataformat_and_signed(kind: str, spoil) -> None:
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    await craft.refused(world, spoil(draft.seal(protector)), "badDataFormat", by="signature")


def tails():
    bits = der.encode_bits(bytes(32))
    yield "protection twice", der.explicit(0, bits) * 2
    yield "protection empty", b"\xa0\0"
    yield "protection with unused bits", der.explicit(0, b"\x03\x02\x01\0")
    yield "protection with wrong unused bits", der.explicit(0, b"\x03\x02\x09\0")
    yield "protection without octet of unused bits", der.explicit(0, b"\x03\0")
    yield "protection an OCTET STRING", der.explicit(0, der.encode_octets(bytes(32)))
    yield "protection constructed", der.explicit(0, der.tlv(0x23, bits))
    yield "protection tagged implicitly", der.tlv(0x80, bytes(33))
    yield "extraCerts before protection", der.explicit(1, der.seq(der.seq())) + der.explicit(0, bits)
    yield "extraCerts empty", der.explicit(0, bits) + der.explicit(1, der.seq())
    yield "extraCerts a SET", der.explicit(0, bits) + der.explicit(1, der.tlv(0x31, der.seq()))
    yield "extraCerts of INTEGERs", der.explicit(0, bits) + der.explicit(1, der.seq(der.encode_integer(1)))
    yield "extraCerts bare", der.explicit(0, bits) + der.tlv(0xA1, b"")
    yield "33 extraCerts", der.explicit(0, bits) + der.explicit(1, der.seq(*[der.seq()] * 33))
    yield "tag 2", der.explicit(0, bits) + der.explicit(2, der.NULL_TLV)


@pytest.mark.parametrize("kind", ["mac", "rr by mac", "rr by signature"])
@pytest.mark.parametrize("tail", [row[1] for row in tails()], ids=[row[0] for row in tails()])
async def test_a_wrong_end_of_the_message_is_told_baddataformat(kind: str, tail: bytes) -> None:
    world = World()
    _, draft, _ = await craft.asking(world, kind)
    await craft.refused(world, der.seq(draft.part, tail), "badDataFormat", by="signature")


@pytest.mark.parametrize("kind", ["mac", "rr by mac", "rr by signature"])
async def test_a_message_without_protection_is_refused(kind: str) -> None:
    world = World()
    _, draft, protector = await craft.asking(world, kind)
    await craft.refused(world, der.seq(draft.drop("protectionAlg").part), "badMessageCheck", by="signature")
    await craft.refused(world, der.seq(draft.part), "badDataFormat", by="signature")
    computed = protector.compute(der.seq(draft.drop("protectionAlg").part))
    octets = craft.assemble(draft.drop("protectionAlg").part, computed)
    await craft.refused(world, octets, "badDataFormat", by="signature")


@pytest.mark.parametrize("content", ["CertReqMessages", "RevReqContent", "GenMsgContent"])
@pytest.mark.parametrize("tag", [*range(0xA0, 0xC0), 0x80, 0x30, 0x05, 0x00, 0xFF])
async def test_only_the_bodies_of_an_end_entity_are_worked_on(tag: int, content: str) -> None:
    """Every other one is badRequest, what is no alternative of PKIBody badDataFormat; nothing is issued or changed."""
    world = World()
    credential, revocation, protector = await craft.asking(world, "rr by mac")
    bodies = {
        "CertReqMessages": craft.request(world, credential)[0].body,
        "RevReqContent": revocation.body,
        "GenMsgContent": der.explicit(21, der.seq(der.seq(der.encode_oid("1.2.3"), der.NULL_TLV))),
    }
    octets = Draft(revocation.fields, bytes((tag,)) + bodies[content][1:]).seal(protector)
    before = craft.held(world)
    seen = await world.send(octets)
    expected = (BODIES | WORKED_ON[content]).get(tag, ("error", "badDataFormat"))
    if expected is None:
        assert seen is None
    else:
        assert seen is not None
        failures = seen.status()[2] if seen.body != "genp" else ()
        assert (seen.body, "".join(failures)) == expected
    after = craft.held(world)
    moved = after.moved(before)
    if expected in (("ip", ""), ("cp", ""), ("rp", "")):
        (serial,) = moved
        assert (serial in before.certificates) is (expected == ("rp", ""))
    else:
        assert after == before


BODIES = {
    **dict.fromkeys(range(0xA0, 0xBB), ("error", "badRequest")),
    **dict.fromkeys(range(0xAF, 0xB3)),  # announcements
    0xA0: ("ip", "badDataFormat"),
    0xA2: ("cp", "badDataFormat"),
    0xA4: ("cp", "badDataFormat"),
    0xA7: ("error", "wrongIntegrity"),
    0xAB: ("rp", "badDataFormat"),
    0xB5: ("error", "badDataFormat"),
    0xB7: ("error", "badDataFormat"),
}
"""What is answered under each tag of PKIBody to contents that are not of this body."""

WORKED_ON = {
    "CertReqMessages": {0xA0: ("ip", ""), 0xA2: ("cp", "")},
    "RevReqContent": {0xAB: ("rp", "")},
    "GenMsgContent": {0xB5: ("genp", "")},
}
"""What is worked on."""
