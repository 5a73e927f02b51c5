"""What a strict door refuses and a lenient one does not: every rule of the one table that the code has of it."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from cmpd.asn1 import der
from cmpd.config_doors import EntranceConfig, HttpConfig, SpoolConfig, TcpConfig
from cmpd.doors import _door
from cmpd.origin import Origin
from cmpd.strictness import RULES, TOLERATED
from tests.hostile.pieces import SUBJECT, Ask
from tests.strict.judge import judge
from tests.strict.setting import LENIENT, SECRET, STRICT, Case, Spoil, make
from tests.strict.test_bodies import (
    BAD_REQUEST,
    EMPTY,
    ask,
    cert_req_id,
    field,
    items,
    messages,
    polls,
    right_ones,
    status,
    status_info,
    twice,
    with_poposk_input,
    without,
)
from tests.strict.test_header import IMPLICIT, PROFILE, YEAR_3000, drop, implicit, info, octets, profile, wait
from tests.world import rev_details


def as_it_is(case: Case) -> Case:
    return case


def nameless(asked: Ask) -> Ask:
    """Without subject, with POP over poposkInput (RFC 4211 section 4.1)."""
    return with_poposk_input(replace(asked, fields=asked.parts[1:]))


CASES: dict[str, tuple[str, Spoil]] = {
    "the transactionID of a first message has 16 octets": ("ir mac", octets("transactionID", 15)),
    "senderNonce is there and has 16 octets or more": ("ir mac", drop("senderNonce")),
    "a first message has no recipNonce": ("cr signature", octets("recipNonce", 16)),
    "the value of implicitConfirm is there": ("ir mac", implicit(b"")),
    "implicitConfirm is in ir, cr, p10cr and kur alone": ("rr signature", info(IMPLICIT)),
    "confirmWaitTime is in no request": ("ir mac", wait(YEAR_3000)),
    "certProfile is in ir, cr, p10cr, kur and genm alone": ("rr signature", info(PROFILE)),
    "certProfile has one name, which is not empty": ("ir mac", profile(der.seq(der.encode_utf8("")))),
    "implicitConfirm, confirmWaitTime and certProfile are there once": ("ir mac", info(IMPLICIT, IMPLICIT)),
    "CertReqMessages has one CertReqMsg": ("ir mac", messages(0, 1)),
    "certReqId is 0": ("ir mac", cert_req_id(7)),
    "subject is there": ("cr signature", without(5)),
    "a subject that is the NULL-DN comes with subjectAltName": ("cr signature", field(5, der.explicit(5, EMPTY))),
    "there is no poposkInput": ("cr signature", ask(nameless)),
    "certConf has one CertStatus": ("certConf mac", right_ones(0)),
    "the status in a CertStatus is accepted or rejection": ("certConf mac", status(status_info(1))),
    "a CertStatus that accepts has no failInfo": ("certConf mac", status(status_info(0, BAD_REQUEST))),
    "no pkiconf comes from a client": ("pkiconf mac", as_it_is),
    "pollReq has one certReqId": ("pollReq mac", polls(0, -1)),
    "an rr has one RevDetails": ("rr signature", twice),
    "a genm has at most one infoType": ("genm mac", items(("6", b""), ("1", b""))),
}
"""A message that a lenient door takes, for each rule but the one of rr under a MAC."""

BY_MAC = "an rr is signed, or its secret was given the right to revoke"


def test_every_rule_has_its_case() -> None:
    assert {*CASES, BY_MAC} == set(RULES)


@pytest.mark.parametrize("rule", CASES)
async def test_a_strict_door_refuses_it_as_the_table_says(rule: str) -> None:
    message, spoil = CASES[rule]
    case = spoil(await make(message))
    verdict = await case.send(STRICT)
    assert verdict is not None
    assert verdict.failure == RULES[rule].fault.failure, verdict.text
    assert (verdict.body == "error") is (RULES[rule].carrier == "error")
    assert f"(RFC 9483 section {RULES[rule].section})" in verdict.text


@pytest.mark.parametrize("rule", CASES)
async def test_a_lenient_door_takes_it(rule: str) -> None:
    message, spoil = CASES[rule]
    verdict = await spoil(await make(message)).send(LENIENT)
    if message == "pkiconf mac":
        assert verdict is None
        return
    assert verdict is not None
    assert (verdict.failure, verdict.body != "error") == ("", True), verdict.text


async def test_an_rr_under_a_mac_is_no_error_at_a_lenient_door() -> None:
    case = await make("rr signature")
    secret = await case.world.add_secret("other", SECRET)
    verdict = await case.by(secret.protector(case.world.env)).send(LENIENT)
    assert verdict is not None
    assert (verdict.body, verdict.failure) == ("rp", "notAuthorized")


@pytest.mark.parametrize("message", ["ir mac", "cr signature", "rr signature", "genm mac"])
async def test_a_lenient_door_makes_a_transactionid_and_keeps_to_it(message: str) -> None:
    """RFC 9810 section 5.1.1: then the server must generate one; a repeat of the message has the same."""
    case = drop("transactionID")(await make(message))
    octets = case.octets
    answers = [await case.world.respond(octets, LENIENT) for _ in range(2)]
    assert isinstance(answers[0], bytes)
    first = judge(answers[0], SECRET, case.world.cmp)
    assert first.failure == ""
    assert len(first.header["transactionID"] or b"") == 16
    if case.body != "genm":
        assert answers[0] == answers[1]
    else:
        assert isinstance(answers[1], bytes)
        assert judge(answers[1], SECRET, case.world.cmp).header["transactionID"] == first.header["transactionID"]


async def test_a_certconf_without_transactionid_is_refused_at_every_door() -> None:
    case = drop("transactionID")(await make("certConf mac"))
    for origin in (STRICT, LENIENT):
        verdict = await case.send(origin)
        assert verdict is not None
        assert (verdict.body, verdict.failure) == ("error", "badDataFormat")


# --- what is taken by both --------------------------------------------------------------------------------------------

TAKEN: dict[str, tuple[str, Spoil]] = {
    "no senderKID": ("ir signature", drop("senderKID")),
    "pvno 3 where 2 would do": ("ir mac", lambda case: case.raw("pvno", der.encode_integer(3))),
    "any recipient": ("ir mac", lambda case: case.raw("recipient", b"\x82\x01x")),
    "types of generalInfo that are not in section 3.1": ("rr signature", info(der.seq(der.encode_oid("1.2.3")))),
    "sender of a MAC without the reference value as its commonName, if senderKID has it": (
        "ir mac",
        lambda case: case.raw("sender", der.explicit(4, SUBJECT.replace(b"device", b"xevice"))),
    ),
    "an empty genm": ("genm mac", lambda case: case.content(der.seq())),
    "genm protected by a MAC": ("genm mac", as_it_is),
    "error from a client": ("error mac", as_it_is),
    "extraCerts in another order, with others among them, or beside a MAC": (
        "cr signature",
        lambda case: replace(case, extra_certs=(case.world.cmp, *case.protector.extra_certs, case.world.root)),
    ),
    "extraCerts without CA certificates that this CA knows": ("cr signature", as_it_is),
    "rr without reasonCode, or with invalidityDate": (
        "rr signature",
        lambda case: case.content(der.seq(_without_entry_details(case))),
    ),
    "issuer, validity and other fields of the CertTemplate": (
        "ir mac",
        lambda case: field(3, der.explicit(3, case.world.ca.name))(case),
    ),
}
"""Messages that both doors take; for the rest of TOLERATED there are tests of their own elsewhere."""

ELSEWHERE = {
    "no protection, from a TLS client that is known": "tests/test_doors_core.py",
    "cr and p10cr with a certificate of another PKI": "tests/end_to_end/test_openssl.py",
    "certReqId 0 in certConf and pollReq for a p10cr": "tests/test_enrolment.py, tests/test_waiting.py",
    "rr protected by a revocation passphrase, or a secret that may revoke": "test_header.py",
}


def _without_entry_details(case: Case) -> bytes:
    assert case.certificate is not None
    return rev_details(case.certificate)


def test_all_that_is_tolerated_is_shown() -> None:
    assert {*TAKEN, *ELSEWHERE} == set(TOLERATED)


@pytest.mark.parametrize("origin", [STRICT, LENIENT], ids=["strict", "lenient"])
@pytest.mark.parametrize("what", TAKEN)
async def test_what_is_tolerated_is_taken_by_both(what: str, origin: Origin) -> None:
    message, spoil = TAKEN[what]
    verdict = await spoil(await make(message)).send(origin)
    assert verdict is not None
    assert (verdict.failure, verdict.body != "error") == ("", True), verdict.text


# --- where it is said ------------------------------------------------------------------------------------------------


DOCUMENT = (Path(__file__).parents[2] / "docs" / "supported-cmp.md").read_text()


def table(head: str) -> list[list[str]]:
    """The cells of the rows of a table of the document."""
    lines = DOCUMENT.partition(f"\n| {head} |")[2].splitlines()[2:]
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_document_says_what_differs() -> None:
    rows = [[name, r.section, f"{r.carrier} {r.fault.failure}", r.lenient] for name, r in RULES.items()]
    assert table("rule | section | strict, otherwise | lenient") == rows


def test_the_document_says_what_is_tolerated() -> None:
    assert table("taken | section | why") == [[name, *row] for name, row in TOLERATED.items()]


@pytest.mark.parametrize(("said", "strict"), [({}, True), ({"mode": "strict"}, True), ({"mode": "lenient"}, False)])
@pytest.mark.parametrize(
    ("model", "rest"),
    [
        (TcpConfig, {"listen": "127.0.0.1:0"}),
        (HttpConfig, {"listen": "127.0.0.1:0"}),
        (SpoolConfig, {"directory": "x"}),
    ],
)
def test_a_door_is_strict_unless_it_is_lenient(
    model: type[EntranceConfig], rest: dict[str, str], said: dict[str, str], strict: bool
) -> None:
    table = model.model_validate({**rest, **said})
    assert _door("a door", table).strict is strict
