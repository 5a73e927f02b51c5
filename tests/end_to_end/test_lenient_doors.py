"""Messages of old clients at two doors of one server: the lenient one takes them, the strict one says what to change.

Answers are read by the codec of another implementation (tests/strict/judge.py), with their protection verified.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from cmpd.asn1.names import encode_name
from cmpd.client.credentials import SharedSecret
from cmpd.client.general import gen_message, item
from cmpd.client.messages import Request, Template, cert_request, protect
from cmpd.client.revocation import RevDetails, rev_request
from cmpd.message import decode
from tests.end_to_end.asking import ENV, certificates_in, confirmation, enrol, ir, new_key, trust_in
from tests.end_to_end.doors import Door
from tests.end_to_end.ways import Way, add_secret, made_with
from tests.strict.judge import Verdict, judge

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)
SUBJECT = encode_name("/CN=device")
EMPTY = encode_name("/")

LENIENT = """
[[tcp]]
listen = "127.0.0.1:0"
mode = "lenient"

[[http]]
listen = "127.0.0.1:0"
mode = "lenient"
"""
DOORS: dict[str, Callable[[Way], Door]] = {"tcp": lambda way: way.tcp(number=1), "http": lambda way: way.http()}


@dataclass(frozen=True)
class Old:
    """What an old client sends. `text`: what the strict door says to it, in `carrier` with `failure`; `answers`: how
    many certificates or statuses are in the lenient door's answer.
    """

    request: Callable[[], Request]
    carrier: str
    failure: str
    text: str
    body: str
    answers: int = 1


def _ask(*templates: Template) -> Callable[[], Request]:
    return lambda: cert_request("ir", [replace(one, key=new_key()) for one in templates], SECRET, ENV)


ONE = Template(None, SUBJECT)

MESSAGES = {
    "two certificates in one ir": Old(
        _ask(ONE, replace(ONE, cert_req_id=1)),
        "ip",
        "badRequest",
        "CertReqMessages: want one CertReqMsg, have 2 (RFC 9483 section 4.1.1)",
        "ip",
        2,
    ),
    "a certReqId that counts from 1": Old(
        _ask(replace(ONE, cert_req_id=1)),
        "ip",
        "badCertTemplate",
        "certReqId: want 0, have 1 (RFC 9483 section 4.1.1)",
        "ip",
    ),
    "a certReqId of -1": Old(
        _ask(replace(ONE, cert_req_id=-1)),
        "ip",
        "badCertTemplate",
        "certReqId: want 0, have -1 (RFC 9483 section 4.1.1)",
        "ip",
    ),
    "a template without subject, and poposkInput": Old(
        _ask(Template(None, None)),
        "ip",
        "badPOP",
        "poposkInput: want none, have one (RFC 9483 section 4.1.1)",
        "ip",
    ),
    "a subject that is the NULL-DN": Old(
        _ask(Template(None, EMPTY)),
        "ip",
        "badCertTemplate",
        "subject: want a name in it or in subjectAltName, have none in both (RFC 9483 section 4.1.1)",
        "ip",
    ),
    "two infoTypes in one genm": Old(
        lambda: gen_message([item("1.3.6.1.5.5.7.4.1"), item("1.3.6.1.5.5.7.4.6")], SECRET, ENV),
        "error",
        "badRequest",
        "GenMsgContent: want one infoType, have 2 (RFC 9483 section 4.3)",
        "genp",
        0,
    ),
}


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with made_with(tmp_path_factory.mktemp("lenient") / "ca", LENIENT) as site:
        add_secret(
            site, SECRET.reference, SECRET.secret, "--uses", "unlimited", "--may-revoke", "--subject", "/CN=device"
        )
        with site.serving() as server, Way(site, server) as way:
            yield way
        assert " ERROR " not in server.log_text()


def said(door: Door, request: Request) -> tuple[Verdict, bytes]:
    answer = door.ask(request.der)
    assert answer is not None
    return judge(answer, SECRET.secret, b""), answer


@pytest.mark.parametrize("what", MESSAGES)
def test_a_strict_door_tells_an_old_client_what_to_change(way: Way, what: str) -> None:
    old = MESSAGES[what]
    verdict, _ = said(way.tcp(), old.request())
    assert (verdict.body, verdict.status, verdict.failure, verdict.kind) == (old.carrier, 2, old.failure, "mac")
    assert verdict.text == old.text
    assert (verdict.responses, verdict.certificates) == (1, 0)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", MESSAGES)
def test_a_lenient_door_takes_what_old_clients_send(way: Way, what: str, door: str) -> None:
    old, request = MESSAGES[what], MESSAGES[what].request()
    verdict, answer = said(DOORS[door](way), request)
    assert (verdict.body, verdict.failure, verdict.kind) == (old.body, "", "mac"), verdict.text
    assert (verdict.responses, verdict.certificates) == (old.answers, old.answers)
    if old.answers:
        issued = certificates_in(answer, request, SECRET, trust_in(way.site.anchor))
        assert tuple(issued) == verdict.ids
        assert {one.subject for one in issued.values()} == {SUBJECT}


def test_two_certificates_are_confirmed_one_by_one(way: Way) -> None:
    """RFC 9810 section 5.3.18: what certConf leaves out is rejected."""
    door, trust = way.tcp(number=1), trust_in(way.site.anchor)
    templates = [replace(ONE, key=new_key()), replace(ONE, key=new_key(), cert_req_id=1)]
    request = cert_request("ir", templates, SECRET, ENV, implicit_confirm=False)
    answer = said(door, request)[1]
    issued = certificates_in(answer, request, SECRET, trust)
    verdict, _ = said(door, confirmation(request, answer, {1: issued[1]}))
    assert (verdict.body, verdict.failure) == ("pkiconf", "")
    revoked = [RevDetails(one.issuer, one.serial, "superseded") for one in issued.values()]
    verdict, answer = said(door, rev_request(revoked, SECRET, ENV))
    assert (verdict.body, verdict.responses, verdict.failure) == ("rp", 2, "certRevoked"), verdict.text


def test_a_pkiconf_confirms_at_the_lenient_door_alone(way: Way) -> None:
    """RFC 9810 section 5.3.17; the habit of clients of RFC 2510."""
    trust = trust_in(way.site.anchor)
    request, _ = ir(SECRET, implicit=False)
    answer = said(way.tcp(), request)[1]
    assert certificates_in(answer, request, SECRET, trust)
    nonce = decode(answer).header.sender_nonce
    pkiconf = protect(
        "pkiconf", b"\x05\0", request.protector, ENV, transaction_id=request.transaction_id, recip_nonce=nonce
    )
    verdict, _ = said(way.tcp(), pkiconf)
    assert (verdict.body, verdict.failure) == ("error", "badRequest")
    assert verdict.text == "body: want certConf to confirm a certificate, have pkiconf (RFC 9483 section 4.1.1)"
    assert way.tcp(number=1).ask(pkiconf.der) is None
    late, _ = said(way.tcp(), confirmation(request, answer, certificates_in(answer, request, SECRET, trust)))
    assert (late.body, late.failure) == ("error", "certConfirmed")


def test_an_rp_names_its_certificates_at_a_lenient_door_alone(way: Way) -> None:
    """RFC 9483 section 4.2 has no revCerts; RFC 9810 section 5.3.10 does."""
    trust = trust_in(way.site.anchor)
    found = []
    for number in (0, 1):
        holder = enrol(way.port("tcp"), SECRET, trust)
        serial = holder.certificate.serial
        request = rev_request([RevDetails(holder.certificate.issuer, serial, "superseded")], SECRET, ENV)
        verdict, answer = said(way.tcp(number=number), request)
        assert (verdict.body, verdict.status, verdict.failure) == ("rp", 0, "")
        found.append(serial.to_bytes((serial.bit_length() + 7) // 8) in decode(answer).body)
    assert found == [False, True]
