"""The same exchanges through every door of one server: the same CMP answers.

Each exchange is an own transaction, or several, with keys of its own. What the server says in it (doors.seen) through
one door is held against what it says over raw TCP. All exchanges through one door run at the same time, so that doors
on which each message takes a moment (files, processes) do not make the file slow.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret, Unprotected
from cmpd.client.errors import CmpClientError
from cmpd.client.general import gen_message, item
from cmpd.client.messages import (
    Request,
    Template,
    cert_req_msg,
    cert_request,
    certification_request,
    general_info,
    p10_request,
    protect,
)
from cmpd.client.responses import Trust, verify
from cmpd.client.revocation import RevDetails, rev_request
from tests.end_to_end.asking import ENV, accepted, certificates_in, confirmation, enrol, ir, new_key, trust_in
from tests.end_to_end.doors import Door, seen
from tests.end_to_end.ways import DOORS, EVERY_DOOR, Way, serving_with

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)
WRONG = SharedSecret("device", b"another secret", iterations=500)
SUBJECT = encode_name("/CN=device")
FIRST = "tcp"

PROFILE = """
[profile.short]
validity = "1d"
"""


@dataclass
class Talk:
    """One exchange through one door; `said` is what the server has said in it."""

    way: Way
    door: Door
    trust: Trust
    said: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, request: Request) -> bytes:
        """Send a request that has an answer."""
        answer = self.door.ask(request.der)
        self.said.append(seen(answer, request))
        assert answer is not None
        return answer

    def ask_again(self, request: Request, answer: bytes) -> None:
        """The same request, on the same connection and on another one, has the same octets as its answer."""
        assert self.door.ask(request.der) == answer
        self.door.hang_up()
        assert self.door.ask(request.der) == answer

    def holder(self) -> KeyAndCertificate:
        """A certificate and its key, got over raw TCP."""
        return enrol(self.way.port("tcp"), SECRET, self.trust)

    def confirm(self, request: Request, answer: bytes, credential: Credential, reject: str | None = None) -> None:
        """Verify the certificates in an answer and confirm them."""
        issued = certificates_in(answer, request, credential, self.trust)
        certconf = confirmation(request, answer, issued, reject)
        pkiconf = self.ask(certconf)
        assert verify(pkiconf, certconf, credential, self.trust, ENV).envelope.body_name == "pkiconf"

    def refused(self, request: Request, credential: Credential = SECRET) -> str:
        """Send a request that is answered by an error; its failInfo."""
        asked = replace(request, body="ir")  # bodies that nobody answers have no answer that verify() could want
        with pytest.raises(CmpClientError) as caught:
            verify(self.ask(request), asked, credential, self.trust, ENV)
        assert caught.value.protected_by
        return " ".join(caught.value.fail_info)


# --- the exchanges ----------------------------------------------------------------------------------------------------


def ir_with_implicit_confirmation(talk: Talk) -> None:
    request, _ = ir(SECRET)
    assert certificates_in(talk.ask(request), request, SECRET, talk.trust)


def ir_with_certconf(talk: Talk) -> None:
    request, _ = ir(SECRET, implicit=False)
    talk.confirm(request, talk.ask(request), SECRET)


def ir_for_a_certificate_that_is_rejected(talk: Talk) -> None:
    request, _ = ir(SECRET, implicit=False)
    talk.confirm(request, talk.ask(request), SECRET, reject="not what was asked for")


def ir_for_two_certificates(talk: Talk) -> None:
    templates = [Template(new_key(), SUBJECT), Template(new_key(), encode_name("/CN=other"), cert_req_id=1)]
    talk.ask(cert_request("ir", templates, SECRET, ENV, implicit_confirm=False))
    assert talk.said[-1]["content"][1][0][1].fail_info == ("badRequest",)  # the doors are strict


def ir_with_pbmac1(talk: Talk) -> None:
    credential = replace(SECRET, mac="pbmac1", iterations=1000)
    request, _ = ir(credential, implicit=False)
    talk.confirm(request, talk.ask(request), credential)


def ir_for_a_profile(talk: Talk) -> None:
    request = cert_request("ir", [Template(new_key(), SUBJECT)], SECRET, ENV, profile="short")
    assert certificates_in(talk.ask(request), request, SECRET, talk.trust)
    request = cert_request("ir", [Template(new_key(), SUBJECT)], SECRET, ENV, profile="unheard-of")
    talk.ask(request)


def certconf_over_another_connection(talk: Talk) -> None:
    request, _ = ir(SECRET, implicit=False)
    answer = talk.ask(request)
    talk.door.hang_up()
    talk.confirm(request, answer, SECRET)


def cr_with_a_signature(talk: Talk) -> None:
    holder = talk.holder()
    request = cert_request("cr", [Template(new_key(), SUBJECT)], holder, ENV, implicit_confirm=False)
    talk.confirm(request, talk.ask(request), holder)


def p10cr(talk: Talk) -> None:
    request = p10_request(certification_request(Template(new_key(), SUBJECT)), SECRET, ENV, implicit_confirm=False)
    talk.confirm(request, talk.ask(request), SECRET)


def kur(talk: Talk) -> None:
    holder = talk.holder()
    template = Template(new_key(), SUBJECT, replaces=holder.certificate)
    request = cert_request("kur", [template], holder, ENV, implicit_confirm=False)
    talk.confirm(request, talk.ask(request), holder)


def rr_that_suspends_resumes_and_revokes(talk: Talk) -> None:
    certificate = talk.holder().certificate
    for reason in ("certificateHold", "removeFromCRL", "keyCompromise"):
        details = [RevDetails.of(certificate, reason)]
        request = rev_request(details, SECRET, ENV)
        assert accepted(talk.ask(request), request, details, SECRET, talk.trust) == [True]
    details = [RevDetails.of(certificate, "removeFromCRL")]
    request = rev_request(details, SECRET, ENV)
    assert accepted(talk.ask(request), request, details, SECRET, talk.trust) == [False]


def rr_by_the_holder(talk: Talk) -> None:
    holder = talk.holder()
    details = [RevDetails.of(holder.certificate, "cessationOfOperation")]
    request = rev_request(details, holder, ENV)
    assert accepted(talk.ask(request), request, details, holder, talk.trust) == [True]


def genm(talk: Talk) -> None:
    request = gen_message([item("1.3.6.1.5.5.7.4.1")], SECRET, ENV)
    verify(talk.ask(request), request, SECRET, talk.trust, ENV)
    request = gen_message([item("1.3.6.1.4.1.55555.1")], talk.holder(), ENV, pvno=3)
    talk.ask(request)


def a_wrong_pop(talk: Talk) -> None:
    protector = SECRET.protector(ENV)
    asked = cert_req_msg(Template(new_key(), SUBJECT), protector.sender)
    spoilt = asked[:-1] + bytes([asked[-1] ^ 1])  # the signature's last octet
    talk.ask(protect("ir", der.seq(spoilt), protector, ENV, info=general_info(implicit_confirm=True)))
    assert talk.said[-1]["content"][1][0][1].fail_info == ("badPOP",)


def a_wrong_mac(talk: Talk) -> None:
    assert talk.refused(ir(WRONG)[0], WRONG) == "badMessageCheck"


def no_protection(talk: Talk) -> None:
    request, _ = ir(Unprotected())
    assert talk.refused(request, Unprotected()) == "badMessageCheck"


def what_is_no_message(talk: Talk) -> None:
    for octets in (der.seq(der.encode_integer(2)), der.seq(der.encode_octets(b"PKIMessage"), der.NULL_TLV)):
        answer = talk.door.ask(octets)
        talk.said.append(seen(answer, None))
        assert talk.said[-1]["content"].fail_info == ("badDataFormat",)


def a_body_that_cannot_be_read(talk: Talk) -> None:
    talk.ask(protect("ir", der.seq(der.NULL_TLV), SECRET.protector(ENV), ENV))
    assert talk.said[-1]["content"][1][0][1].fail_info == ("badDataFormat",)
    talk.refused(protect("certConf", der.seq(der.NULL_TLV), SECRET.protector(ENV), ENV))


def a_body_that_is_not_supported(talk: Talk) -> None:
    protector = SECRET.protector(ENV)
    asked = der.seq(cert_req_msg(Template(new_key(), SUBJECT), protector.sender))
    assert talk.refused(protect("krr", asked, protector, ENV)) == "badRequest"


def an_answer_as_request(talk: Talk) -> None:
    talk.refused(protect("pkiconf", der.NULL_TLV, SECRET.protector(ENV), ENV))


def an_old_message_time(talk: Talk) -> None:
    late = replace(ENV, now=lambda: ENV.now() - 86_400)
    request = cert_request("ir", [Template(new_key(), SUBJECT)], SECRET, late)
    assert talk.refused(request) == "badTime"
    content = talk.said[-1]["content"]
    said = re.sub(r"8640\d s behind", "a day behind", content.text)  # the second may have ended meanwhile
    talk.said[-1]["content"] = replace(content, text=said)


def requests_that_come_again(talk: Talk) -> None:
    request, _ = ir(SECRET, implicit=False)
    answer = talk.ask(request)
    talk.ask_again(request, answer)
    certconf = confirmation(request, answer, certificates_in(answer, request, SECRET, talk.trust))
    pkiconf = talk.ask(certconf)
    talk.ask_again(certconf, pkiconf)
    talk.ask_again(request, answer)


def a_transaction_id_that_is_taken(talk: Talk) -> None:
    request, _ = ir(SECRET)
    talk.ask(request)
    protector = SECRET.protector(ENV)
    asked = der.seq(cert_req_msg(Template(new_key(), SUBJECT), protector.sender))
    other = protect("ir", asked, protector, ENV, transaction_id=request.transaction_id)
    assert talk.refused(other) == "transactionIdInUse"


def certconf_for_another_certificate(talk: Talk) -> None:
    request, _ = ir(SECRET, implicit=False)
    answer = talk.ask(request)
    wrong = {0: talk.trust.anchors[0]}
    talk.refused(confirmation(request, answer, wrong))


def an_announcement(talk: Talk) -> None:
    talk.said.append(seen(talk.door.ask(protect("crlann", der.seq(), SECRET.protector(ENV), ENV).der), None))
    assert talk.said == [{"body": None}]


FEW = (ir_with_certconf, a_wrong_mac, an_announcement)
"""Exchanges through doors that take a process for each message."""

EXCHANGES: tuple[Callable[[Talk], None], ...] = (
    ir_with_implicit_confirmation,
    ir_for_a_certificate_that_is_rejected,
    ir_for_two_certificates,
    ir_with_pbmac1,
    ir_for_a_profile,
    certconf_over_another_connection,
    cr_with_a_signature,
    p10cr,
    rr_that_suspends_resumes_and_revokes,
    rr_by_the_holder,
    genm,
    kur,
    a_wrong_pop,
    what_is_no_message,
    no_protection,
    a_body_that_cannot_be_read,
    a_body_that_is_not_supported,
    an_answer_as_request,
    an_old_message_time,
    requests_that_come_again,
    a_transaction_id_that_is_taken,
    certconf_for_another_certificate,
    *FEW,
)

CASES = [
    pytest.param(door, exchange, id=f"{door}-{exchange.__name__.replace('_', ' ')}")
    for door in DOORS
    for exchange in (FEW if door.startswith("cmpd message") else EXCHANGES)
]


PAIRS = list(zip(DOORS, [*list(DOORS)[1:], *list(DOORS)[:1]], strict=True))
"""Each door and the one after it."""


# --- what is shown ----------------------------------------------------------------------------------------------------


@dataclass
class Transcripts:
    """What was said in each exchange through each door; all of a door's are made when the first is asked for."""

    way: Way
    trust: Trust
    pool: ThreadPoolExecutor
    doors: dict[str, dict[Callable[[Talk], None], Future[list[dict[str, Any]]]]] = field(default_factory=dict)
    crossings: dict[tuple[str, str], Future[None]] = field(default_factory=dict)

    def said(self, door: str, exchange: Callable[[Talk], None]) -> list[dict[str, Any]]:
        if door not in self.doors:
            exchanges = FEW if door.startswith("cmpd message") else EXCHANGES
            self.doors[door] = {one: self.pool.submit(self._talk, door, one) for one in exchanges}
        return self.doors[door][exchange].result()

    def cross(self, first: str, second: str) -> None:
        """A transaction of two doors; those of all pairs are made when the first one is asked for."""
        self.crossings = self.crossings or {pair: self.pool.submit(self._cross, *pair) for pair in PAIRS}
        self.crossings[first, second].result()

    def _cross(self, first: str, second: str) -> None:
        request, _ = ir(SECRET, implicit=False)
        with through(self.way, first) as one, through(self.way, second) as other:
            answer = one.ask(request.der)
            assert answer is not None
            assert other.ask(request.der) == answer
            certconf = confirmation(request, answer, certificates_in(answer, request, SECRET, self.trust))
            pkiconf = other.ask(certconf.der)
            assert pkiconf is not None
            verify(pkiconf, certconf, SECRET, self.trust, ENV)
            assert one.ask(certconf.der) == pkiconf

    def _talk(self, door: str, exchange: Callable[[Talk], None]) -> list[dict[str, Any]]:
        with through(self.way, door) as opened:
            talk = Talk(self.way, opened, self.trust)
            exchange(talk)
            return talk.said


@contextmanager
def through(way: Way, door: str) -> Iterator[Door]:
    """A door that is closed afterwards."""
    opened = DOORS[door](way)
    try:
        yield opened
    finally:
        opened.hang_up()


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    directory = tmp_path_factory.mktemp("doors") / "ca"
    options = ["--uses", "unlimited", "--may-revoke", "--profile", "default", "--profile", "short"]
    with serving_with(directory, EVERY_DOOR + PROFILE, SECRET, *options) as way:
        yield way


@pytest.fixture(scope="module")
def trust(way: Way) -> Trust:
    return trust_in(way.site.anchor)


@pytest.fixture(scope="module")
def transcripts(way: Way, trust: Trust) -> Iterator[Transcripts]:
    with ThreadPoolExecutor(len(EXCHANGES)) as pool:
        yield Transcripts(way, trust, pool)


@pytest.mark.parametrize(("door", "exchange"), CASES)
def test_every_door_gives_the_same_answers(
    transcripts: Transcripts, door: str, exchange: Callable[[Talk], None]
) -> None:
    said = transcripts.said(door, exchange)
    assert said
    assert said == transcripts.said(FIRST, exchange)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_transaction_that_begins_at_one_door_goes_on_at_another(
    transcripts: Transcripts, first: str, second: str
) -> None:
    transcripts.cross(first, second)
