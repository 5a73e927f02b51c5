"""load_strict: DER alone comes through, whole, in bounded time, and every refusal is one exception."""

import time
from typing import Any

import pytest
from asn1crypto import core, x509
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd.asn1 import algs, cmp, crmf, der
from cmpd.asn1.strict import MAX_VALUES, load_strict
from cmpd.errors import BadDataFormat
from tests.asn1 import samples

SEEDS = [path.read_bytes() for path in (*samples.OPENSSL, *samples.BOUNCY_CASTLE)]
SEEDS += [samples.message(kind).dump() for kind in samples.BODIES]


def refusal(cls: Any, octets: bytes, **more: Any) -> BadDataFormat:
    with pytest.raises(BadDataFormat) as caught:
        load_strict(cls, octets, noun="the noun", **more)
    assert caught.value.text.startswith("the noun: ")
    return caught.value


def is_whole(value: Any) -> bool:
    """Nothing lazy is left: each container has made its children."""
    if isinstance(value, core.Choice):
        return value._parsed is not None and is_whole(value._parsed)
    if isinstance(value, core.Sequence | core.SequenceOf):
        children = value.children
        return children is not None and all(not isinstance(c, tuple) and is_whole(c) for c in children)
    return True


@pytest.mark.parametrize("kind", samples.BODIES)
def test_nothing_lazy_is_left_in_what_comes_back(kind: str) -> None:
    octets = samples.message(kind).dump()
    assert not is_whole(cmp.PKIMessage.load(octets))
    assert is_whole(load_strict(cmp.PKIMessage, octets, noun="PKIMessage"))


NAME = der.seq(der.tlv(der.SET, der.seq(der.encode_oid("2.5.4.3"), der.encode_utf8("x"))))
ONE = der.encode_integer(1)
SURNAME, INITIALS = der.tlv(0x80, b"S"), der.tlv(0x82, b"I")
RSA_KEY = der.seq(der.encode_integer(15), der.encode_integer(2))
DNS = der.encode_oid("2.5.29.17")


def extension(oid: str, value: bytes) -> bytes:
    return der.seq(der.seq(der.encode_oid(oid), der.encode_octets(value)))


def rdn(*parts: tuple[str, str]) -> bytes:
    attributes = (der.seq(der.encode_oid(oid), der.encode_utf8(text)) for oid, text in parts)
    return der.seq(der.tlv(der.SET, b"".join(attributes)))


def nest(levels: int) -> bytes:
    octets = der.seq()
    for _ in range(levels):
        octets = der.seq(octets)
    return octets


GOOD: dict[str, tuple[Any, bytes]] = {
    "INTEGER": (crmf.CertTemplate, der.seq(der.tlv(0x81, b"\x01"))),
    "BOOLEAN": (crmf.PKIArchiveOptions, b"\x82\x01\xff"),
    "NULL": (crmf.ProofOfPossession, b"\x80\x00"),
    "OID": (x509.GeneralName, der.tlv(0x88, b"\x2a\x81\x01")),
    "named bits": (cmp.PKIFailureInfo, der.encode_named_bits(0, 26)),
    "no named bits": (cmp.PKIFailureInfo, der.encode_bits(b"")),
    "named bits that have no name": (cmp.PKIFailureInfo, der.encode_named_bits(200)),
    "MAC": (crmf.PKMACValue, der.seq(samples.pbm().dump(), der.encode_bits(b"\xf0"))),
    "explicit tag": (cmp.PKIBody, der.explicit(19, b"\x05\x00")),
    "explicit tag of a CHOICE": (crmf.CertTemplate, der.seq(der.explicit(5, NAME))),
    "no DEFAULT": (x509.Extensions, extension("2.5.29.17", der.seq(der.tlv(0x82, b"a")))),
    "no DEFAULT inside octets": (x509.Extensions, extension("2.5.29.19", der.seq())),
    "a SET of fields in order": (x509.PersonalName, der.tlv(der.SET, SURNAME + INITIALS)),
    "a SET in order": (x509.Name, rdn(("2.5.4.10", "o"), ("2.5.4.3", "long"))),
    "named bits in an extension": (x509.Extensions, extension("2.5.29.15", b"\x03\x02\x07\x80")),
    "IA5String": (x509.GeneralName, der.tlv(0x82, b"a")),
    "address": (x509.GeneralName, der.tlv(0x87, b"\x01\x02\x03\x04")),
    "GeneralizedTime": (
        cmp.InfoTypeAndValue,
        der.seq(der.encode_oid("1.3.6.1.5.5.7.4.14"), der.tlv(0x18, b"20300102030405Z")),
    ),
    "RSA key": (
        algs.SubjectPublicKeyInfo,
        der.seq(der.seq(der.encode_oid("1.2.840.113549.1.1.1"), der.NULL_TLV), der.encode_bits(RSA_KEY)),
    ),
    "UTCTime": (crmf.OptionalValidity, der.seq(der.explicit(0, der.tlv(0x17, b"300228000000Z")))),
    "PollRep": (cmp.PollRep, der.seq(ONE, ONE)),
    "PKIStatusInfo": (cmp.PKIStatusInfo, der.seq(ONE, der.seq(der.encode_utf8("x")), b"\x03\x02\x07\x80")),
}


@pytest.mark.parametrize(("cls", "octets"), GOOD.values(), ids=GOOD)
def test_the_good_form_of_what_is_refused_below_comes_through(cls: Any, octets: bytes) -> None:
    assert load_strict(cls, octets, noun="value").dump() == octets


BAD: dict[str, tuple[Any, bytes]] = {
    "nothing": (cmp.PKIMessage, b""),
    "octets after the value": (cmp.PKIConfirmContent, b"\x05\x00\x00"),
    "a second value": (cmp.PKIConfirmContent, b"\x05\x00\x05\x00"),
    "indefinite length": (cmp.PollReqContent, b"\x30\x80\x00\x00"),
    "a long length": (cmp.PollReqContent, b"\x30\x81\x00"),
    "a padded INTEGER": (cmp.PollReq, der.seq(b"\x02\x02\x00\x01")),
    "a padded INTEGER behind a tag": (crmf.CertTemplate, der.seq(der.tlv(0x81, b"\x00\x01"))),
    "an empty INTEGER behind a tag": (crmf.CertTemplate, der.seq(der.tlv(0x81, b""))),
    "BOOLEAN 01": (crmf.PKIArchiveOptions, b"\x82\x01\x01"),
    "NULL with octets": (crmf.ProofOfPossession, b"\x80\x01\x00"),
    "an OID of many octets behind a tag": (x509.GeneralName, der.tlv(0x88, b"\xff" * 65 + b"\x01")),
    "a padded OID behind a tag": (x509.GeneralName, der.tlv(0x88, b"\x2a\x80\x01")),
    "an OID that is cut off behind a tag": (x509.GeneralName, der.tlv(0x88, b"\x2a\x81")),
    "named bits with a zero at the end": (cmp.PKIFailureInfo, b"\x03\x02\x00\x80"),
    "named bits with a zero octet at the end": (cmp.PKIFailureInfo, b"\x03\x03\x00\x80\x00"),
    "named bits without end": (cmp.PKIFailureInfo, der.encode_bits(b"\xff" * 33)),
    "unused bits in a signature": (crmf.PKMACValue, der.seq(samples.pbm().dump(), b"\x03\x02\x04\xf0")),
    "unused bits behind a tag": (crmf.CertTemplate, der.seq(der.tlv(0x87, b"\x01\x80"))),
    "a field too many": (cmp.PollReq, der.seq(ONE, ONE)),
    "a field too few": (cmp.PollRep, der.seq(ONE)),
    "fields in another order": (cmp.PKIStatusInfo, der.seq(ONE, b"\x03\x02\x07\x80", der.seq(der.encode_utf8("x")))),
    "octets inside an explicit tag": (cmp.PKIBody, der.explicit(19, b"\x05\x00\x05\x00")),
    "octets inside the explicit tag of a CHOICE": (crmf.CertTemplate, der.seq(der.explicit(5, NAME + NAME))),
    "an empty explicit tag": (cmp.PKIBody, der.explicit(19, b"")),
    "a body number 27": (cmp.PKIBody, der.explicit(27, b"\x05\x00")),
    "an implicit tag on a CHOICE": (crmf.CertTemplate, der.seq(der.tlv(0xA5, NAME[2:]))),
    "an explicit tag in CRMF": (crmf.CertTemplate, der.seq(der.explicit(1, ONE))),
    "an empty SIZE (1..MAX)": (cmp.PKIFreeText, der.seq()),
    "no CertReqMsg": (crmf.CertReqMessages, der.seq()),
    "a DEFAULT spelt out": (
        x509.Extensions,
        der.seq(der.seq(DNS, der.encode_boolean(False), der.encode_octets(der.seq(der.tlv(0x82, b"a"))))),
    ),
    "a DEFAULT spelt out inside octets": (x509.Extensions, extension("2.5.29.19", der.seq(b"\x01\x01\x00"))),
    "a SET of fields out of order": (x509.PersonalName, der.tlv(der.SET, INITIALS + SURNAME)),
    "a SET out of order": (x509.Name, rdn(("2.5.4.3", "long"), ("2.5.4.10", "o"))),
    "octets after an extension's value": (x509.Extensions, extension("2.5.29.15", b"\x03\x02\x07\x80\x00")),
    "a value after an extension's value": (x509.Extensions, extension("2.5.29.15", b"\x03\x02\x07\x80\x05\x00")),
    "unused bits in a key": (
        algs.SubjectPublicKeyInfo,
        der.seq(der.seq(der.encode_oid("1.2.840.113549.1.1.1"), der.NULL_TLV), der.encode_bits(RSA_KEY, 1)),
    ),
    "BER inside an extension": (x509.Extensions, extension("2.5.29.17", b"\x30\x80\x82\x01a\x00\x00")),
    "BER nested deep inside an extension": (
        x509.Extensions,
        extension("2.5.29.17", b"\x30\x80" * 50_000 + b"\x00" * 100_000),
    ),
    "DER nested deep inside an extension": (x509.Extensions, extension("2.5.29.17", nest(40))),
    "a UTF8String that is none": (cmp.PKIFreeText, der.seq(b"\x0c\x01\xff")),
    "an IA5String that is none": (x509.GeneralName, der.tlv(0x82, b"\xe4")),
    "an address of three octets": (x509.GeneralName, der.tlv(0x87, b"\x01\x02\x03")),
    "a time with a fraction": (
        cmp.InfoTypeAndValue,
        der.seq(der.encode_oid("1.3.6.1.5.5.7.4.14"), der.tlv(0x18, b"20300102030405.5Z")),
    ),
    "a time without seconds": (crmf.OptionalValidity, der.seq(der.explicit(0, der.tlv(0x17, b"3002280000Z")))),
    "a time of no day": (crmf.OptionalValidity, der.seq(der.explicit(0, der.tlv(0x17, b"300230000000Z")))),
    "a key that is no point": (
        algs.SubjectPublicKeyInfo,
        der.seq(
            der.seq(der.encode_oid("1.2.840.113549.1.1.1"), der.NULL_TLV), der.encode_bits(b"\x30\x03\x02\x01\x01")
        ),
    ),
    "NULL where an algorithm wants a SEQUENCE": (
        algs.AlgorithmIdentifier,
        der.seq(der.encode_oid(samples.PBM), der.NULL_TLV),
    ),
}


@pytest.mark.parametrize(("cls", "octets"), BAD.values(), ids=BAD)
def test_what_is_not_der_of_the_type_is_refused(cls: Any, octets: bytes) -> None:
    refusal(cls, octets)


def test_the_text_for_the_peer_has_nothing_of_the_input_or_of_the_exception() -> None:
    octets = der.seq(der.encode_oid("1.3.6.1.5.5.7.4.14"), der.encode_utf8("SECRET-INPUT"))
    error = refusal(cmp.InfoTypeAndValue, octets)
    assert error.text == "the noun: not a InfoTypeAndValue"
    assert "ValueError" in error.detail


@pytest.mark.parametrize(
    "name",
    [
        der.tlv(0x86, b"HTTP://A.example:80/%7euser?x=[1]|"),
        der.tlv(0x86, b"http://[::1]:8/"),
        der.tlv(0x86, b"ldap:///CN=x?y?z"),
        der.tlv(0x82, b"xn--a"),
        der.tlv(0x82, b"a..b"),
        der.tlv(0x81, b"@"),
        der.tlv(0x87, b"\x01\x02\x03\x04\xff\x00\xff\x00"),
    ],
)
def test_names_that_asn1crypto_would_write_in_another_way_come_through(name: bytes) -> None:
    assert load_strict(x509.GeneralName, name, noun="name").dump() == name


def test_an_email_address_of_another_string_type_comes_through() -> None:
    name = rdn(("1.2.840.113549.1.9.1", "a@b.example"))
    assert load_strict(x509.Name, name, noun="name").dump() == name


def test_an_extension_that_no_class_explains_may_hold_any_octets() -> None:
    load_strict(x509.Extensions, extension("1.2.3.4", b"\xff\xff"), noun="extensions")


def test_a_kerberos_name_in_an_extension_comes_through() -> None:
    realm = der.seq(der.explicit(0, der.tlv(0x1B, b"REALM")))
    other = der.tlv(0xA0, der.encode_oid("1.3.6.1.5.2.2") + der.explicit(0, realm))
    load_strict(x509.Extensions, extension("2.5.29.17", der.seq(other)), noun="extensions")


def nested(levels: int) -> bytes:
    octets = bytes(samples.message("pkiconf").dump())
    header = samples.header().dump()
    for _ in range(levels):
        octets = der.seq(header, der.explicit(20, der.seq(octets)))
    return octets


def test_nested_messages_are_read_in_time_linear_in_their_depth() -> None:
    start = time.process_time()
    value = load_strict(cmp.PKIMessage, nested(5), noun="PKIMessage")
    for _ in range(5):
        value = value["body"].chosen[0]
    assert value["body"].name == "pkiconf"
    assert time.process_time() - start < 1


def test_values_that_nest_without_end_are_refused_at_once() -> None:
    start = time.process_time()
    refusal(cmp.PKIMessage, nested(40))
    refusal(cmp.PKIMessage, nest(2000))
    template = samples.control("regToken").dump()
    for _ in range(40):
        template = der.seq(der.encode_oid("1.3.6.1.5.5.7.5.1.7"), template)
    refusal(crmf.AttributeTypeAndValue, template)
    assert time.process_time() - start < 1


def test_the_deepest_control_that_may_come_is_read_at_once() -> None:
    octets = samples.control("regToken").dump()
    for _ in range(29):
        octets = der.seq(der.encode_oid("1.3.6.1.5.5.7.5.1.7"), octets)
    start = time.process_time()
    load_strict(crmf.AttributeTypeAndValue, octets, noun="control")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("cls", "octets"),
    [
        (cmp.POPODecKeyRespContent, der.seq(ONE * 1_000_000)),
        (cmp.GenMsgContent, der.seq(der.seq(der.encode_oid("1.2.3")) * 100_000)),
        (x509.Extensions, extension("2.5.29.17", der.seq(der.tlv(0x82, b"a") * 500_000))),
        (x509.GeneralName, der.tlv(0x88, b"\x81" * 3_000_000 + b"\x01")),
        (cmp.PKIFailureInfo, der.encode_bits(b"\xff" * 3_000_000)),
    ],
    ids=["integers", "infos", "names in octets", "arc", "bits"],
)
def test_megabytes_of_small_values_are_refused_quickly(cls: Any, octets: bytes) -> None:
    start = time.process_time()
    refusal(cls, octets)
    assert time.process_time() - start < 1.5


def test_the_number_of_values_has_a_limit_that_a_caller_may_lower() -> None:
    octets = der.seq(ONE * 10)
    load_strict(cmp.POPODecKeyRespContent, octets, noun="popdecr", max_values=11)
    assert refusal(cmp.POPODecKeyRespContent, octets, max_values=10).text == "the noun: want DER: too many values"
    load_strict(cmp.POPODecKeyRespContent, der.seq(ONE * (MAX_VALUES - 1)), noun="popdecr")


def test_a_choice_counts_as_a_value_of_its_own() -> None:
    octets = der.seq(der.tlv(0x82, b"a") * 10)
    load_strict(x509.GeneralNames, octets, noun="names", max_values=21)
    refusal(x509.GeneralNames, octets, max_values=20)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    octets = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(octets) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                octets[where] ^= 1 << draw(st.integers(0, 7))
            case 1:
                octets[where] = draw(st.sampled_from((0x00, 0x01, 0x02, 0x05, 0x30, 0x80, 0xA0, 0xFF)))
            case 2:
                del octets[where : where + draw(st.integers(1, 8))]
            case _:
                octets[where:where] = draw(st.binary(min_size=1, max_size=8))
        if not octets:
            break
    return bytes(octets)


def _normalised(value: Any) -> bool:
    """Whether a value is in it that asn1crypto may write in another way, or cannot: a SET of it knows not what."""
    if isinstance(value, core.Any):  # the values of an attribute that it does not know
        return value._parsed is not None and type(value.parsed) is core.Set
    if isinstance(value, core.Choice):
        return _normalised(value.chosen)
    if isinstance(value, core.Sequence | core.SequenceOf):
        return any(_normalised(value[i]) for i in range(len(value)))
    if isinstance(value, core.ParsableOctetString):
        return value._parsed is not None and _normalised(value.parsed)
    return isinstance(value, x509.URI | x509.DNSName | x509.EmailAddress | x509.IPAddress | core.TeletexString)


@settings(max_examples=600, deadline=None)
@given(mutated())
def test_mutated_messages_are_refused_or_come_through_whole_and_equal(octets: bytes) -> None:
    try:
        value = load_strict(cmp.PKIMessage, octets, noun="PKIMessage")
    except BadDataFormat:
        return
    assert is_whole(value)
    assert value.dump() == octets
    if not _normalised(value):
        assert value.dump(force=True) == octets


@settings(max_examples=300, deadline=None)
@given(st.sampled_from((cmp.PKIBody, crmf.CertTemplate, algs.Certificate, x509.GeneralName)), st.binary(max_size=64))
def test_any_octets_at_all_end_in_a_value_or_in_bad_data_format(cls: Any, octets: bytes) -> None:
    try:
        value = load_strict(cls, octets, noun="value")
    except BadDataFormat:
        return
    assert value.dump() == octets
