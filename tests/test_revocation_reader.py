"""RevReqContent by position: what is read, and that whatever comes is a value, a fault or a CmpError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1_alt_modules import rfc9810

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.messages import extension
from cmpd.errors import BadDataFormat, BadRequest, CmpError
from cmpd.replies import RevResult, rev_rep_body
from cmpd.rev_requests import RevDetails, RevTemplate, read_rev_req_content
from cmpd.status import Wish
from tests.world import NOW, raw_details, reason_code

CA = encode_name("/O=Test/CN=Test CA")
SERIAL = b"\x41" * 16
NAMED = der.tlv(0x81, SERIAL) + der.explicit(3, CA)


def read(*details: bytes, limit: int = 10) -> tuple[RevDetails, ...]:
    return read_rev_req_content(der.seq(*details), limit)


def test_everything_in_a_revdetails_is_read() -> None:
    key = der.seq(der.encode_oid("1.3.101.112")) + der.encode_bits(b"k" * 32)
    template = (
        der.tlv(0x80, b"\x02")
        + der.tlv(0x81, SERIAL)
        + der.tlv(0xA2, der.encode_oid("1.3.101.112"))
        + der.explicit(3, CA)
        + der.tlv(0xA4, der.explicit(0, der.encode_time(NOW)) + der.explicit(1, der.encode_time(NOW + 1)))
        + der.explicit(5, encode_name("/CN=device"))
        + der.tlv(0xA6, key)
        + der.tlv(0x87, b"\x00\x01")
        + der.tlv(0x88, b"\x00\x02")
        + der.tlv(0xA9, extension("2.5.29.14", b"\x04\x00"))
    )
    date = extension("2.5.29.24", der.encode_generalized_time(NOW))
    issuer = der.seq(der.explicit(4, CA))
    entry = (reason_code(1), date, extension("2.5.29.29", issuer), extension("1.2.3", b"x"))
    [details] = read(raw_details(template, *entry))
    assert details.fault is None
    assert (details.issuer, details.serial, details.reason) == (CA, SERIAL, "keyCompromise")
    assert (details.invalidity_date, details.certificate_issuer, details.unused) == (NOW, issuer, ("1.2.3",))
    read_template = details.template
    assert (read_template.version, read_template.not_before, read_template.not_after) == (2, NOW, NOW + 1)
    assert read_template.signing_alg == der.seq(der.encode_oid("1.3.101.112"))
    assert read_template.subject == encode_name("/CN=device")
    assert read_template.public_key == der.seq(key)
    assert (read_template.issuer_uid, read_template.subject_uid) == (b"\x00\x01", b"\x00\x02")
    assert [found.value for found in read_template.extensions] == [b"\x04\x00"]


def test_what_openssl_sends_is_read() -> None:
    [details] = read(raw_details(NAMED, reason_code(1)))
    assert details == RevDetails(CA, SERIAL, RevTemplate(), "keyCompromise")


@pytest.mark.parametrize(
    ("number", "reason", "event"),
    [
        (0, "unspecified", "revoke"),
        (1, "keyCompromise", "revoke"),
        (2, "cACompromise", "revoke"),
        (3, "affiliationChanged", "revoke"),
        (4, "superseded", "revoke"),
        (5, "cessationOfOperation", "revoke"),
        (6, "certificateHold", "suspend"),
        (8, "removeFromCRL", "resume"),
        (9, "privilegeWithdrawn", "revoke"),
        (10, "aACompromise", "revoke"),
    ],
)
def test_reasons_have_the_names_of_rfc_5280(number: int, reason: str, event: str) -> None:
    [details] = read(raw_details(NAMED, reason_code(number)))
    assert details.reason == reason
    assert Wish(details.reason).event == event


BAD_ITEMS = {
    "no SEQUENCE": b"\x05\x00",
    "empty": b"\x30\x00",
    "out of order": raw_details(der.explicit(3, CA) + der.tlv(0x81, SERIAL)),
    "twice": raw_details(der.tlv(0x81, SERIAL) * 2),
    "unknown tag": raw_details(der.tlv(0xAA, b"")),
    "wrong form": raw_details(der.tlv(0xA1, b"")),
    "padded serial": raw_details(der.tlv(0x81, b"\x00\x41")),
    "empty serial": raw_details(der.tlv(0x81, b"")),
    "issuer is no Name": raw_details(der.explicit(3, b"\x05\x00")),
    "two issuers": raw_details(der.explicit(3, CA + CA)),
    "validity [2]": raw_details(der.tlv(0xA4, der.explicit(2, der.encode_time(NOW)))),
    "key without BIT STRING": raw_details(der.tlv(0xA6, der.seq())),
    "more after entry details": der.seq(der.seq(NAMED), der.seq(reason_code(1)), b"\x05\x00"),
    "entry details are a SET": der.seq(der.seq(NAMED), b"\x31\x00"),
}


@pytest.mark.parametrize("case", list(BAD_ITEMS))
def test_a_revdetails_that_cannot_be_read_is_its_own_fault(case: str) -> None:
    good = raw_details(NAMED, reason_code(1))
    before, bad, after = read(good, BAD_ITEMS[case], good)
    assert isinstance(bad.fault, BadDataFormat)
    assert before.fault is after.fault is None


def test_what_was_read_before_a_fault_is_kept() -> None:
    [details] = read(raw_details(NAMED + der.explicit(5, b"\x05\x00"), reason_code(1)))
    assert details.fault is not None
    assert (details.issuer, details.serial, details.template) == (CA, SERIAL, RevTemplate())


@pytest.mark.parametrize("body", [b"", b"\x30\x00", b"\x31\x00", b"\x30\x02\x30", b"\x30\x02\x30\x00\x00", b"\x30\x80"])
def test_a_body_that_cannot_be_read_is_baddataformat(body: bytes) -> None:
    with pytest.raises(BadDataFormat):
        read_rev_req_content(body, 10)


def test_the_limit_is_badrequest_and_one_less_is_fine() -> None:
    details = raw_details(NAMED)
    assert len(read(*[details] * 3, limit=3)) == 3
    with pytest.raises(BadRequest, match="at most 3 RevDetails, have 4"):
        read(*[details] * 4, limit=3)


SAMPLE = der.seq(
    raw_details(
        NAMED + der.explicit(5, encode_name("/CN=device")) + der.tlv(0xA9, extension("2.5.29.14", b"\x04\x00")),
        reason_code(6),
        extension("2.5.29.24", der.encode_generalized_time(NOW)),
        extension("2.5.29.29", der.seq(der.explicit(4, CA)), critical=True),
    ),
    raw_details(NAMED),
)


def read_anything(body: bytes) -> None:
    try:
        items = read_rev_req_content(body, 10)
    except CmpError:
        return
    assert items
    # whatever was read, the answer is one that others can read
    results = [RevResult(item.issuer, item.serial, "", item.fault) for item in items]
    answer, rest = decode_der(rev_rep_body(results), asn1Spec=rfc9810.RevRepContent())
    assert not rest
    assert len(answer["status"]) == len(items)


@given(st.binary(max_size=200))
def test_any_octets_are_read_or_refused(body: bytes) -> None:
    read_anything(body)
    read_anything(der.seq(body))
    read_anything(der.seq(der.seq(der.seq(body))))
    read_anything(der.seq(der.seq(der.seq(NAMED), der.seq(body))))


@given(st.data())
def test_a_sample_with_octets_changed_is_read_or_refused(data: st.DataObject) -> None:
    octets = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    read_anything(bytes(octets))
    read_anything(bytes(octets[: data.draw(st.integers(0, len(octets)))]))


@given(
    st.sampled_from(["2.5.29.21", "2.5.29.24", "2.5.29.29", "1.2.3"]),
    st.binary(max_size=40),
    st.booleans(),
)
def test_any_value_of_an_entry_extension_is_read_or_refused(oid: str, value: bytes, critical: bool) -> None:
    [details] = read(raw_details(NAMED, extension(oid, value, critical=critical)))
    assert (details.issuer, details.serial) == (CA, SERIAL)
    assert isinstance(details.fault, CmpError | None)
