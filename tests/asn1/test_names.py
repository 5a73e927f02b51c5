"""Names: read strictly, compared by RFC 5280 section 7.1, as text and from text."""

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from cmpd.asn1 import der, names
from cmpd.asn1.names import (
    ATTRIBUTE_NAMES,
    ATTRIBUTE_TYPES,
    attribute_texts,
    directory_name,
    encode_name,
    has_attributes,
    name_text,
    read_name,
    same_name,
)

CN, ORG, C, OU = (ATTRIBUTE_TYPES[name].oid for name in ("CN", "O", "C", "OU"))


def attribute(oid: bytes, tag: int, octets: bytes) -> bytes:
    return der.seq(der.tlv(der.OID, oid), der.tlv(tag, octets))


def one(oid: bytes, tag: int, octets: bytes) -> bytes:
    return der.seq(der.tlv(der.SET, attribute(oid, tag, octets)))


def common(text: str, tag: int = der.UTF8_STRING, codec: str = "utf-8") -> bytes:
    return one(CN, tag, text.encode(codec))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_name_is_read_into_its_attributes_in_order():
    assert read_name(encode_name("/C=DE/O=Ex+OU=a/CN=ü")) == (
        ((C, der.PRINTABLE_STRING, "DE"),),
        ((OU, der.UTF8_STRING, "a"), (ORG, der.UTF8_STRING, "Ex")),  # a SET OF is sorted by its octets
        ((CN, der.UTF8_STRING, "ü"),),
    )
    assert read_name(names.NULL_DN) == ()


@pytest.mark.parametrize(
    ("tag", "codec"),
    [
        (der.UTF8_STRING, "utf-8"),
        (der.TELETEX_STRING, "latin-1"),
        (der.BMP_STRING, "utf-16-be"),
        (der.UNIVERSAL_STRING, "utf-32-be"),
    ],
)
def test_every_string_type_is_read_as_text(tag, codec):
    assert read_name(common("Zoë", tag, codec)) == (((CN, tag, "Zoë"),),)


def test_a_value_that_is_no_string_is_read_as_hex_and_is_no_text():
    name = one(CN, der.BIT_STRING, b"\x00\x01")
    assert read_name(name) == (((CN, der.BIT_STRING, "#03020001"),),)
    assert attribute_texts(read_name(name), CN) == []
    assert not same_name(name, common("#03020001"))
    assert name_text(name) == "CN=#03020001"
    assert encode_name("CN=#03020001") == name


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x31\x00",
        b"\x30\x00\x00",
        b"\x30\x02\x31\x00",
        b"\x30\x80\x00\x00",
        der.seq(der.tlv(der.SET, der.seq())),
        der.seq(der.tlv(der.SET, der.seq(der.tlv(der.OID, CN)))),
        der.seq(der.tlv(der.SET, der.seq(der.tlv(der.OID, CN), der.encode_utf8("a"), der.encode_utf8("b")))),
        der.seq(der.tlv(der.SET, der.seq(der.tlv(der.OID, b"\x80\x01"), der.encode_utf8("a")))),
        common("\xff", der.UTF8_STRING, "latin-1"),
        common("ü", der.PRINTABLE_STRING),
        common("ü", der.IA5_STRING),
        common("a", der.BMP_STRING),
        one(CN, der.BMP_STRING, b"\xd8\x00\x00\x41"),
        one(CN, der.UNIVERSAL_STRING, b"\x00\x11\x00\x00"),
        one(CN, der.BOOLEAN, b"\x01"),
        der.seq(der.tlv(der.SET, attribute(ORG, 0x0C, b"b") + attribute(ORG, 0x0C, b"a"))),
        der.seq(der.tlv(der.SET, attribute(ORG, 0x0C, b"a") * 2)),
        der.seq(der.tlv(der.SET, attribute(CN, 0x0C, b"a")) * 65),
        common("a" * 9000),
    ],
)
def test_what_is_no_name_or_too_long_is_a_der_error(octets):
    with pytest.raises(der.DerError):
        read_name(octets)


@pytest.mark.parametrize("general_name", [b"", b"\xa4", b"\xa4\x02\x30\x00\x00", b"\xa4\x03\x30\x00"])
def test_what_is_no_general_name_is_a_der_error(general_name):
    with pytest.raises(der.DerError):
        directory_name(general_name)


def test_a_directory_name_is_told_from_other_general_names():
    assert directory_name(b"\xa4\x02\x30\x00") == names.NULL_DN
    assert directory_name(b"\x82\x01a") is None


@given(st.data())
def test_mutated_names_raise_nothing_but_der_error(data):
    octets = bytearray(encode_name("/C=DE/O=Ex+OU=a/CN=ü/serialNumber=12"))
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_name(bytes(octets))
        text = name_text(bytes(octets))
    except der.DerError:
        return
    assert text.isprintable()


# --- comparing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (common("Example"), common("eXAMPLE")),
        (common("a  b"), common(" a b ")),
        (common("a\tb"), common("a b")),
        (common("Example"), common("Example", der.PRINTABLE_STRING)),
        (common("Example"), common("example", der.BMP_STRING, "utf-16-be")),
        (common("STRASSE"), common("straße")),
        (common("u\u0308"), common("Ü")),
        (common("\ufb01x"), common("FIX")),
        (encode_name("/O=x+OU=y"), encode_name("/OU=Y+O=X")),
        (encode_name("/CN=a/C=DE"), encode_name("/CN=A/C=DE")),
        (common("x", der.TELETEX_STRING), common("x", der.TELETEX_STRING)),
    ],
)
def test_names_match_by_case_spaces_composition_and_string_type(a, b):
    assert same_name(a, b)
    assert same_name(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (common("a"), common("b")),
        (common("ab"), common("a b")),
        (common("a"), common("a\0")),
        (common("a"), names.NULL_DN),
        (common("a"), one(ORG, der.UTF8_STRING, b"a")),
        (common("a"), common("A", der.TELETEX_STRING)),
        (encode_name("/O=a/CN=b"), encode_name("/CN=b/O=a")),
        (encode_name("/O=a/CN=b"), encode_name("/O=a+CN=b")),
        (encode_name("/O=a"), encode_name("/O=a/O=a")),
        (encode_name("/O=a+O=b"), encode_name("/O=a+O=c")),
    ],
)
def test_names_that_differ_do_not_match(a, b):
    assert not same_name(a, b)
    assert not same_name(b, a)


def test_octets_that_are_no_name_cannot_be_compared_unless_equal():
    assert same_name(b"junk", b"junk")
    with pytest.raises(der.DerError):
        same_name(b"junk", names.NULL_DN)


@pytest.mark.parametrize(
    ("name", "wanted", "has"),
    [
        ("/C=DE/O=Ex/CN=a", "/O=EX", True),
        ("/C=DE/O=Ex/CN=a", "/O=Ex/C=DE", True),
        ("/C=DE/O=Ex/CN=a", "", True),
        ("/C=DE/O=Ex/CN=a", "/O=Ey", False),
        ("/O=Ex/CN=a", "/O=Ex/O=Ex", False),
        ("/O=Ex/O=ex/CN=a", "/O=Ex/O=Ex", True),
        ("/CN=Ex", "/O=Ex", False),
        ("", "/O=Ex", False),
    ],
)
def test_a_name_has_attributes_as_often_as_they_are_wanted(name, wanted, has):
    assert has_attributes(encode_name(name), encode_name(wanted)) is has


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("/C=DE/O=x/CN=y", "CN=y,O=x,C=DE"),
        ("CN=y, O=x , C = DE", "CN=y,O=x,C=DE"),
        ("cn=y;o=x", "CN=y,O=x"),
        ("/CN=a\\/b\\+c", "CN=a/b\\+c"),
        ("/O=a,b/CN=c=d", "CN=c=d,O=a\\,b"),
        ("CN=a\\2cb\\C3\\BC", "CN=a\\,bü"),
        ("CN=\\ a\\ ", "CN=\\ a\\ "),
        ("CN=\\#a#", "CN=\\#a#"),
        ("CN=a\\\\", "CN=a\\\\"),
        ("CN=a\\0a\\e2\\80\\ae", "CN=a\\0a\\e2\\80\\ae"),
        ("/OU=b+O=a", "O=a+OU=b"),
        ("2.5.4.3=a", "CN=a"),
        ("1.2.3.4=a", "1.2.3.4=#0c0161"),
        ("1.2.3.4=#0c0161", "1.2.3.4=#0c0161"),
        ("surname=a,givenName=b,E=c@d,S=e", "SN=a,GN=b,emailAddress=c@d,ST=e"),
        ("", ""),
        ("/", ""),
    ],
)
def test_texts_of_both_styles_are_read_and_written_as_rfc_4514(text, same):
    encoded = encode_name(text)
    assert name_text(encoded) == name_text(read_name(encoded)) == same
    assert encode_name(same) == encoded


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("/XY=a", "unknown attribute type 'XY', want one of CN, O,"),
        ("CN", "want TYPE=value, have 'CN'"),
        ("CN=a/b,/", "want TYPE=value"),
        ("/CN=a/b", "want TYPE=value, have 'b'"),
        ("CN=a,,O=b", "want TYPE=value between separators"),
        ("CN=a,", "want TYPE=value between separators"),
        ("CN=", "CN: want 1 to 64 characters, have 0"),
        (f"CN={'a' * 65}", "CN: want 1 to 64 characters, have 65"),
        ("C=D", "C: want the two letters of a country, have 'D'"),
        ("C=Dü", "C: 'Dü' has a character that is not allowed there"),
        ("serialNumber=a_b", "serialNumber: 'a_b' has a character"),
        ("DC=ü", "DC: 'ü' has a character"),
        ("CN=a\\00", "has a character that is not allowed"),
        ("CN=a\\", "nothing follows the last backslash"),
        ("CN=\\ff", "not UTF-8"),
        ("CN=#", "after # want the DER"),
        ("CN=#0c0261", "after # want the DER"),
        ("CN=#0c01610c0161", "after # want the DER"),
        ("CN=#zz", "after # want the DER"),
        ("1.40.1=a", "is not an OBJECT IDENTIFIER"),
        ("1..2=a", "unknown attribute type"),
        ("CN=\ud800", "not UTF-8"),
        ("/O=a" * 65, "more than 64 attributes"),
    ],
)
def test_texts_that_mean_no_name_are_value_errors_that_say_why(text, fault):
    with pytest.raises(ValueError, match=fault):
        encode_name(text)


def test_string_types_are_those_of_rfc_5280():
    tags = {name: row.tag for name, row in ATTRIBUTE_TYPES.items()}
    assert {name for name, tag in tags.items() if tag == der.PRINTABLE_STRING} == {"C", "serialNumber", "dnQualifier"}
    assert {name for name, tag in tags.items() if tag == der.IA5_STRING} == {"emailAddress", "DC"}
    assert set(ATTRIBUTE_NAMES.values()) == set(ATTRIBUTE_TYPES)


def test_cryptography_encodes_the_same_octets():
    made = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Hessen"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Beispiel & Söhne, GmbH"),
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "example"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@b.example"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "12-3"),
            x509.NameAttribute(NameOID.COMMON_NAME, "dev 1"),
        ]
    )
    texts = {"emailAddress": "1.2.840.113549.1.9.1", "serialNumber": "2.5.4.5"}
    assert encode_name(name_text(made.public_bytes())) == made.public_bytes()
    expected = made.rfc4514_string()
    for label, dotted_form in texts.items():
        expected = expected.replace(dotted_form, label)
    assert name_text(made.public_bytes()) == expected


@given(st.lists(st.tuples(st.sampled_from(["CN", "O", "OU", "L"]), st.text(min_size=1, max_size=64)), max_size=5))
def test_any_text_survives_the_way_there_and_back_in_printable_form(pairs):
    encoded = der.seq(*(der.tlv(der.SET, attribute(ATTRIBUTE_TYPES[t].oid, 0x0C, v.encode())) for t, v in pairs))
    text = name_text(encoded)
    assert text.isprintable()
    if "\0" not in "".join(value for _, value in pairs):
        assert encode_name(text) == encoded
