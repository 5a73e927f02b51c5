"""Mail in, mail out: the one part is found in whatever shape, loops are not begun, and no header can be smuggled in."""

import base64
import re
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.parser import BytesParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.env import Env
from cmpd.mime import Automatic, Mail, MailError, is_address, mail_limit, read, reply

DER = der.seq(der.encode_octets(bytes(range(256))))
ANSWER = der.seq(der.encode_octets(b"answer" * 50))
ENV = Env(now=lambda: 1_790_000_000.0, random=lambda n: bytes(range(n)))
LIMIT = 65_536

HEAD = (
    "From: Pump <pump@example.net>\n"
    "To: The CA <ca@example.com>\n"
    "Subject: please\n"
    "Message-ID: <1@example.net>\n"
    "MIME-Version: 1.0\n"
)
TYPE = "Content-Type: application/pkixcmp; name=a.pki\nContent-Transfer-Encoding: base64\n"


def mail(*fields: str, head: str = HEAD, body: bytes | None = None, type_: str = TYPE) -> bytes:
    """A mail in the form of RFC 2510 section 5.3; `fields`: more header fields."""
    extra = "".join(f"{field}\n" for field in fields)
    return f"{head}{extra}{type_}\n".encode() + (base64.encodebytes(DER) if body is None else body)


def opened(octets: bytes, **options: str) -> Mail:
    found = read(octets, max_message_octets=LIMIT, **options)
    assert isinstance(found, Mail)
    return found


def refused(octets: bytes) -> str:
    with pytest.raises(MailError) as caught:
        read(octets, max_message_octets=LIMIT)
    text = str(caught.value)
    assert text.isprintable()
    return text


def answered(octets: bytes, **options: str) -> EmailMessage:
    made = reply(opened(octets, **options), ANSWER, ENV)
    assert made.isascii()
    assert b"\r" not in made
    assert max(map(len, made.split(b"\n"))) <= 998
    found = BytesParser(policy=policy.default).parsebytes(made)
    assert isinstance(found, EmailMessage)
    assert not found.defects
    return found


# --- finding the request ---------------------------------------------------------------------------------------------


def multipart(*parts: object, kind: str = "mixed") -> MIMEMultipart:
    made = MIMEMultipart(kind)
    for part in parts:
        made.attach(part)
    return made


def request(subtype: str = "pkixcmp") -> MIMEApplication:
    return MIMEApplication(DER, subtype, name="a.pki")


def forwarded() -> MIMEMessage:
    return MIMEMessage(multipart(MIMEText("hello"), request()))


SHAPES = {
    "alone": request(),
    "older type": request("x-pkixcmp"),
    "after a text": multipart(MIMEText("hello"), request()),
    "before a text": multipart(request(), MIMEText("-- \nsigned\n")),
    "nested": multipart(MIMEText("hello"), multipart(multipart(request(), kind="related"), MIMEText("<p>", "html"))),
    "signed": multipart(request(), MIMEApplication(b"x", "pkcs7-signature"), kind="signed"),
    "forwarded": multipart(MIMEText("see below"), forwarded()),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_request_is_found_in_a_mail_of_any_shape(shape: MIMEMultipart, line_end: str):
    octets = HEAD.replace("MIME-Version: 1.0\n", "").encode() + shape.as_bytes()
    assert opened(octets.replace(b"\n", line_end.encode())).request == DER


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("base64", base64.b64encode(DER)),
        ("BASE64", b"\r\n".join(base64.b64encode(DER)[i : i + 10] + b"  " for i in range(0, 400, 10))),
        ("quoted-printable", "".join(f"={octet:02X}" for octet in DER).encode()),
        ("binary", DER),
        ("8bit", DER + b"\r\n"),
        ("", DER + b"\n"),
    ],
)
def test_every_transfer_encoding_is_undone(encoding: str, body: bytes):
    fields = f"Content-Transfer-Encoding: {encoding}\n" if encoding else ""
    assert opened(mail(type_=f"Content-Type: Application/PKIXCMP\n{fields}", body=body)).request == DER


@pytest.mark.parametrize("line", [b"From pump@example.net Sat Jan  1 00:00:00 2026\n", b">From x\r\n"])
def test_the_line_in_front_that_is_no_header_is_skipped(line: bytes):
    assert opened(line + mail()).request == DER


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (b"", "an address"),
        (mail(type_="Content-Type: text/plain\n"), "want one part of type application/pkixcmp, have none"),
        (mail(type_=""), "have none"),
        (HEAD.encode() + multipart(request(), request()).as_bytes(), "have 2"),
        (mail(body=b"!!!!"), "good Base64"),
        (mail(body=b"AAA"), "good Base64"),
        (mail(body=b""), "have no octets"),
        (mail(body=base64.b64encode(bytes(LIMIT + 1))), f"at most {LIMIT} octets, have {LIMIT + 1}"),
        (mail(type_="Content-Type: application/pkixcmp\nContent-Transfer-Encoding: x-uuencode\n"), "Encoding"),
        (mail(head="To: ca@example.com\n"), "Reply-To or From"),
        (mail(head="From: not an address\nTo: ca@example.com\n"), "Reply-To or From"),
        (mail(head="From: pump@example.net\nTo: undisclosed-recipients:;\n"), "address in To"),
    ],
)
def test_what_cannot_be_answered_is_told(octets: bytes, wanted: str):
    assert wanted in refused(octets)


# --- the reply -------------------------------------------------------------------------------------------------------


def test_the_reply_has_the_form_of_rfc_9483_section_6_4_2():
    found = answered(mail())
    assert found.get_content_type() == "application/pkixcmp"
    assert found["Content-Type"].params["name"].endswith(".pki")
    assert found.get_filename("").endswith(".pki")
    assert found["Content-Transfer-Encoding"] == "base64"
    assert found.get_content() == ANSWER
    assert {name: found[name] for name in ("From", "To", "Subject", "In-Reply-To", "References", "MIME-Version")} == {
        "From": "ca@example.com",
        "To": "pump@example.net",
        "Subject": "Re: please",
        "In-Reply-To": "<1@example.net>",
        "References": "<1@example.net>",
        "MIME-Version": "1.0",
    }
    assert found["Auto-Submitted"] == "auto-replied"
    assert found["Date"].datetime.timestamp() == 1_790_000_000
    assert found["Message-ID"] == "<000102030405060708090a0b0c0d0e0f@example.com>"


def test_reply_to_comes_before_from_and_a_given_sender_before_to():
    found = answered(mail("Reply-To: (an RA) ra@example.org, other@example.org"), answer_from="pki@example.com")
    assert (found["To"], found["From"]) == ("ra@example.org", "pki@example.com")


def test_the_reply_can_be_read_as_a_request_but_is_never_answered():
    again = reply(opened(mail()), DER, ENV)
    assert isinstance(read(again, max_message_octets=LIMIT), Automatic)


def test_references_go_on_and_stay_short():
    ids = [f"<{n}@example.net>" for n in range(100)]
    found = answered(mail("References: " + "\n ".join(ids)))
    kept = found["References"].split()
    assert len(kept) == 20
    assert (kept[0], kept[-2:]) == (ids[0], [ids[-1], "<1@example.net>"])
    assert answered(mail("In-Reply-To: <0@example.net>"))["References"] == "<0@example.net> <1@example.net>"


def test_a_mail_without_message_id_and_subject_is_answered():
    found = answered(mail(head="From: pump@example.net\nTo: ca@example.com\n"))
    assert found["Subject"] == "Re: request"
    assert "In-Reply-To" not in found
    assert "References" not in found


@pytest.mark.parametrize(
    ("subject", "wanted"),
    [
        ("re: again", "re: again"),
        ("Käse 𝄞 " * 20, "Re: " + ("Käse 𝄞 " * 20).strip()),
        ("=?utf-8?q?K=C3=A4se?=", "Re: Käse"),
        ("long " * 30, "Re: " + ("long " * 30).strip()),
        ("folded\n over\n\tlines", "Re: folded over lines"),
    ],
)
def test_the_subject_comes_back_as_it_was(subject: str, wanted: str):
    head = HEAD.replace("Subject: please\n", f"Subject: {subject}\n")
    assert answered(mail(head=head))["Subject"] == wanted


@pytest.mark.parametrize(
    "field",
    [
        "Auto-Submitted: auto-replied",
        "auto-submitted: auto-generated; x=y",
        "Auto-Submitted:",
        "Return-Path: <>",
        "Return-Path: < >",
        "Precedence: bulk",
        "Precedence: LIST",
        "Precedence: junk",
        "List-Id: <l.example.com>",
    ],
)
def test_a_mail_of_a_program_is_not_answered(field: str):
    assert isinstance(read(mail(field), max_message_octets=LIMIT), Automatic)
    # whatever else is wrong with it
    assert isinstance(read(f"{field}\n\n".encode(), max_message_octets=LIMIT), Automatic)


@pytest.mark.parametrize("sender", ["MAILER-DAEMON@example.net", "Mailer <mailer-daemon@example.net>"])
def test_a_report_on_delivery_is_not_answered(sender: str):
    assert isinstance(read(mail(head=f"From: {sender}\nTo: ca@example.com\n"), max_message_octets=LIMIT), Automatic)
    report = HEAD.encode() + multipart(MIMEText("failed"), forwarded(), kind="report").as_bytes()
    assert isinstance(read(report, max_message_octets=LIMIT), Automatic)


@pytest.mark.parametrize("field", ["Auto-Submitted: no", "Precedence: normal", "Return-Path: <pump@example.net>"])
def test_a_mail_of_a_person_is_answered(field: str):
    assert opened(mail(field)).sender == "pump@example.net"


# --- hostile mail ----------------------------------------------------------------------------------------------------

EVIL = [
    "a@b\nBcc: victim@example.org",
    "a@b\r\n\r\nbody",
    "a@b\rBcc: x@y",
    "a@b\x0bBcc: x@y",
    "a@b\x85Bcc: x@y",
    "a@b\u2028Bcc: x@y",
    "a@b\x00",
    '"\n Bcc: x"@example.com',
    "<a@b> (\n\n)",
    "=?utf-8?q?a=0ABcc:_x@y?=",
]


@given(
    fields=st.fixed_dictionaries(
        {
            name: st.one_of(st.sampled_from(EVIL), st.text(max_size=300), st.just("a@b.example"))
            for name in ("From", "To", "Subject", "Message-ID", "References", "Reply-To", "In-Reply-To")
        }
    ),
    sep=st.sampled_from(["\n", "\r\n"]),
)
def test_no_header_can_be_smuggled_into_the_reply(fields: dict[str, str], sep: str):
    head = "".join(f"{name}: {value}{sep}" for name, value in fields.items())
    octets = head.encode("utf-8", "surrogatepass") + TYPE.encode() + b"\n" + base64.encodebytes(DER)
    try:
        found = read(octets, max_message_octets=LIMIT)
    except MailError:
        return
    if isinstance(found, Automatic):
        return
    made = reply(found, ANSWER, ENV)
    assert made.isascii()
    assert not re.search(rb"[^\n\x20-\x7e]", made)
    got = message_from_bytes(made, policy=policy.compat32)
    known = ["From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"]
    known += ["MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition"]
    names = got.keys()
    assert names == [name for name in known if name in names]
    assert got.get_payload(decode=True) == ANSWER
    assert is_address(got["To"])
    assert is_address(got["From"])


@given(st.binary(max_size=2000))
@example(b"\n")
@example(b"From ")
@example(b"Content-Type: multipart/mixed; boundary*=a\0b''x\n\n--x\n")
def test_any_octets_give_a_mail_or_an_error(octets: bytes):
    for head in (b"", HEAD.encode(), HEAD.encode() + b"Content-Type: multipart/mixed; boundary="):
        try:
            found = read(head + octets, max_message_octets=LIMIT)
        except MailError as error:
            assert str(error).isprintable()  # noqa: PT017
        else:
            assert isinstance(found, Mail | Automatic)


_PARAMETERS = st.lists(
    st.tuples(
        st.sampled_from(["boundary", "boundary*", "boundary*0", "boundary*1*", "boundary*٣", "charset"]),
        st.sampled_from(['"x"', "x", "utf-8''x", "nope''%ff", "\x00''x", '"', "'", "''''", "=?x?=", ""]),
    ),
    max_size=5,
)


@given(_PARAMETERS, st.sampled_from(["multipart/mixed", "application/pkixcmp", "message/rfc822", "", "multipart/"]))
def test_broken_parameters_break_nothing(parameters: list[tuple[str, str]], kind: str):
    field = "; ".join([kind, *(f"{name}={value}" for name, value in parameters)])
    body = b"--x\n" + TYPE.encode() + b"\n" + base64.encodebytes(DER) + b"--x--\n"
    try:
        found = read(mail(type_=f"Content-Type: {field}\n", body=body), max_message_octets=LIMIT)
    except MailError:
        return
    assert isinstance(found, Mail | Automatic)


def deep(levels: int) -> bytes:
    """A request in so many multiparts."""
    octets = TYPE.encode() + b"\n" + base64.encodebytes(DER)
    for level in range(levels):
        octets = b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n%b\n--b%d--\n" % (level, level, octets, level)
    return HEAD.encode() + octets


def test_parts_may_be_nested_but_not_without_end():
    assert opened(deep(10)).request == DER
    assert "deep" in refused(deep(2000))


def test_mails_in_mails_without_end_are_refused():
    assert "deep" in refused(HEAD.encode() + b"Content-Type: message/rfc822\n\n" * 20_000)


HOSTILE = {
    "many parts": (
        mail(type_="Content-Type: multipart/mixed; boundary=b\n", body=b"--b\n\nx\n" * 10_000 + b"--b--\n"),
        "parts",
    ),
    "long header": (HEAD.encode() + b"X-Long: " + b"x" * 1_000_000 + b"\n\n", "headers of at most"),
    "many headers": (HEAD.encode() + b"A: b\n" * 200_000 + b"\n", "headers of at most"),
    "long From": (mail(head="From: " + "(" * 100_000 + "\nTo: ca@example.com\n"), "Reply-To or From"),
    "comments": (mail(head="From: " + "(" * 2000 + ")" * 2000 + "\nTo: ca@example.com\n"), "Reply-To or From"),
    "quotes": (mail(head="From: " + '"\\' * 2000 + "\nTo: ca@example.com\n"), "Reply-To or From"),
    "long type": (mail(type_="Content-Type: application/pkixcmp" + ';"' * 100_000 + "\n"), "have none"),
    "parameters": (mail(type_="Content-Type: multipart/x" + ';"' * 2000 + "\n"), "have none"),
    "long boundary": (mail(type_=f"Content-Type: multipart/x; boundary={'b' * 3000}\n"), "have none"),
    "spaces": (
        mail(type_="Content-Type: multipart/x; boundary=b\n", body=(b"--b" + b" " * 5000 + b"x\n") * 100),
        "have none",
    ),
    "lines": (mail(type_="Content-Type: multipart/x; boundary=b\n", body=b"\r\n-" * 400_000), "have none"),
}


@pytest.mark.parametrize(("octets", "wanted"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_mail_is_refused_soon(octets: bytes, wanted: str):
    start = time.process_time()
    assert wanted in refused(octets)
    assert time.process_time() - start < 2


def test_the_longest_message_fits_into_the_longest_mail():
    longest = multipart(MIMEText("hello"), MIMEApplication(der.seq(bytes(LIMIT - 4)), "pkixcmp"))
    octets = HEAD.encode() + longest.as_bytes()
    assert len(octets) < mail_limit(LIMIT)
    assert len(opened(octets).request) == LIMIT


@pytest.mark.parametrize(
    "text", ["a@b", "a.b+c@x-y.example", "o'neil@example.com", "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]"]
)
def test_plain_addresses_are_addresses(text: str):
    assert is_address(text)


@pytest.mark.parametrize(
    "text", ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b\n", "ä@b", "a..b@c", "-f@c", "-x" * 200 + "@b", "a@-\r"]
)
def test_everything_else_is_none(text: str):
    assert not is_address(text)
