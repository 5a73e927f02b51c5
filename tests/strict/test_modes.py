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
from tests.hostile.pieces import SUBJECT, Ask, control
from tests.strict.judge import judge
from tests.strict.setting import LENIENT, SECRET, STRICT, Case, Spoil, make
from tests.strict.test_bodies import (
    BAD_REQUEST,
    EMPTY,
    SOURCE,
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
    without_entries,
)
from tests.strict.test_header import (
    IMPLICIT,
    PROFILE,
    YEAR_3000,
    beside,
    drop,
    implicit,
    info,
    moment,
    octets,
    profile,
    template,
    wait,
)
from tests.world import rev_details


def as_it_is(case: Case) -> Case:
    return case


def nameless(asked: Ask) -> Ask:
    """Without subject, with POP over poposkInput (RFC 4211 section 4.1)."""
    return with_poposk_input(replace(asked, fields=asked.parts[1:]))


def with_controls_and_reg_info(asked: Ask) -> Ask:
    """pkiPublicationInfo with pleasePublish, and utf8Pairs twice."""
    pairs = der.seq(der.encode_oid("1.3.6.1.5.5.7.5.2.1"), der.encode_utf8("a?b%"))
    please_publish = control("1.3.6.1.5.5.7.5.1.3", der.seq(der.encode_integer(1)))
    return replace(asked, controls=please_publish, reg_info=der.seq(pairs, pairs))


CASES: dict[str, tuple[str, Spoil]] = {
    "the transactionID of a first message has 16 octets": ("ir mac", octets("transactionID", 15)),
    "senderNonce is there and has 16 octets or more": ("ir mac", drop("senderNonce")),
    "a first message has no recipNonce": ("cr signature", octets("recipNonce", 16)),
    "messageTime is a GeneralizedTime YYYYMMDDHHMMSSZ": ("ir mac", moment(0x17, "250615150640Z")),
    "all extraCerts are certificates": ("cr signature", beside(der.seq(der.NULL_TLV))),
    "the value of implicitConfirm is there": ("ir mac", implicit(b"")),
    "implicitConfirm is in ir, cr, p10cr and kur alone": ("rr signature", info(IMPLICIT)),
    "confirmWaitTime is in no request": ("ir mac", wait(YEAR_3000)),
    "certProfile is in ir, cr, p10cr, kur and a genm of certReqTemplate alone": ("rr signature", info(PROFILE)),
    "certProfile has one name, which is not empty": ("ir mac", profile(der.seq(der.encode_utf8("")))),
    "implicitConfirm, confirmWaitTime and certProfile are there once": ("ir mac", info(IMPLICIT, IMPLICIT)),
    "CertReqMessages has one CertReqMsg": ("ir mac", messages(0, 1)),
    "certReqId is 0": ("ir mac", cert_req_id(7)),
    "subject is there": ("cr signature", without(5)),
    "a subject that is the NULL-DN comes with subjectAltName": ("cr signature", field(5, der.explicit(5, EMPTY))),
    "extensions are at least one, if they are there": ("ir mac", field(9, b"\xa9\0")),
    "there is no poposkInput": ("cr signature", ask(nameless)),
    "certConf has one CertStatus": ("certConf mac", right_ones(0)),
    "the status in a CertStatus is accepted or rejection": ("certConf mac", status(status_info(1))),
    "a CertStatus that accepts has no failInfo": ("certConf mac", status(status_info(0, BAD_REQUEST))),
    "senderKID of a MAC is the reference value, if it is there": ("ir mac", octets("senderKID", 20)),
    "no pkiconf comes from a client": ("pkiconf mac", as_it_is),
    "pollReq has one certReqId": ("pollReq mac", polls(0, -1)),
    "an rr has one RevDetails": ("rr signature", twice),
    "a genm has at most one infoType": ("genm mac", items(("6", b""), ("1", b""))),
    "crlStatusList has one source": ("genm mac", items(("22", der.seq(SOURCE, SOURCE)))),
}
"""A message that a lenient door takes, for each rule but the one of rr under a MAC."""

BY_MAC = "an rr is signed, or its secret was given the right to revoke"


OF_PROTECTION = {"the parameters of PasswordBasedMac are there", "the protection certificate is in extraCerts"}
"""Those that need a transaction or a registration of their own: tests/test_lenient_protection.py."""


def test_every_rule_has_its_case() -> None:
    assert {*CASES, BY_MAC, *OF_PROTECTION} == set(RULES)


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


async def test_an_empty_list_of_entry_extensions_is_none_at_a_lenient_door() -> None:
    verdict = await without_entries(await make("rr signature")).send(LENIENT)
    assert verdict is not None
    assert (verdict.body, verdict.status) == ("rp", 0), verdict.text


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


MOMENTS = [
    # tag, text                        seconds from 15:06:40Z, which it is
    (0x17, "250615150640Z", 0),
    (0x17, "2506151506Z", -40),
    (0x17, "250615170640+0200", 0),
    (0x18, "20250615150640.999Z", 0),
    (0x18, "20250615150640,5", 0),
    (0x18, "20250615093640-0530", 0),
    (0x18, "20250616000640+09", 0),
    (0x18, "202506151506Z", -40),
    (0x18, "2025061515.1Z", -40),
    (0x18, "20250615150640", 0),
    (0x18, "20250615170640", 7200),
    (0x18, "20250615150640+0006", -360),
    (0x17, "750615150640Z", -1577923200),
]


@pytest.mark.parametrize("message", ["ir mac", "cr signature", "certConf mac"])
@pytest.mark.parametrize(("tag", "text", "off"), MOMENTS)
async def test_a_lenient_door_reads_what_time_an_old_client_means(message: str, tag: int, text: str, off: int) -> None:
    """Its protection is verified over what it sent; and it is held to the window like any other."""
    case = moment(tag, text)(await make(message))
    verdict = await case.send(LENIENT)
    assert verdict is not None
    assert (verdict.failure, verdict.kind) == ("badTime" if abs(off) > 300 else "", case.kind), verdict.text
    if verdict.failure:
        assert f"have {abs(off)} s {'ahead of' if off > 0 else 'behind'} it" in verdict.text


@pytest.mark.parametrize("origin", [STRICT, LENIENT], ids=["strict", "lenient"])
async def test_a_genm_of_certreqtemplate_may_have_a_profile(origin: Origin) -> None:
    """RFC 9483 section 3.1; whether there is a template for it is another question."""
    verdict = await template(info(PROFILE)(await make("genm mac"))).send(origin)
    assert verdict is not None
    assert verdict.body == "genp"


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
    "keyEncipherment or keyAgreement for a key of a kind that can sign, if its certificate does not": (
        "popdecr mac",
        as_it_is,
    ),
    "controls and regInfo": ("ir mac", ask(with_controls_and_reg_info)),
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
