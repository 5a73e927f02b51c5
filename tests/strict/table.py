"""What a row of a table says, and what is asked of every refusal.

A refusal comes in the carrier of RFC 9483 section 3.6.2, with status rejection, one failInfo and one statusString:
noun, wanted, found, and the section of the RFC, which is that of the row. Its protection is that of the request, where
that could be verified; it goes to the sender, in its transaction, with the nonces; and nothing has changed.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from cmpd.asn1 import der
from cmpd.message import MAX_IDENTIFIER, NULL_DN
from tests.hostile.craft import check_store, contents, held
from tests.strict.judge import Verdict
from tests.strict.setting import ANSWERS, STRICT, Case, Spoil

CITED = re.compile(r"RFC \d{4} (section|appendix) ([A-Z]|\d+)(\.\d+)*|X\.\d+")
NOUN = re.compile(r"[\w-]+[\w .=,/-]*: \S")

ERROR = "error"
ITS_OWN = "its own"
"""The carrier of a fault in the body of a request: ip, cp, kup or rp with rejection."""


class Row(NamedTuple):
    """One message with one fault. `section`: what statusString names ("9483 3.5"; "" = any). `by`: what protects the
    answer, "" = what protects the message.
    """

    message: str
    what: str
    section: str
    carrier: str
    failure: str
    spoil: Spoil
    by: str = ""

    @property
    def id(self) -> str:
        return f"{self.message}: {self.what} -> {self.failure}"


def own(messages: Iterable[str], rows: Iterable[tuple[str, str, str, Spoil]]) -> list[Row]:
    """Rows (what, section, failInfo, spoil) for each message: faults of a body, in the answer of its kind."""
    table = list(rows)
    return [
        Row(each, what, section, ITS_OWN, failure, spoil)
        for each in messages
        for what, section, failure, spoil in table
    ]


def spread(messages: Iterable[str], rows: Iterable[tuple[str, str, str, str, Spoil]]) -> list[Row]:
    """Rows of a table without messages, (what, section, failInfo, by, spoil), for each message; all are errors."""
    table = list(rows)
    return [
        Row(each, what, section, ERROR, failure, spoil, by)
        for each in messages
        for what, section, failure, by, spoil in table
    ]


def check(verdict: Verdict, row: Row, case: Case) -> None:
    """Whether an answer is the refusal that a row says."""
    carrier = ANSWERS[case.body] if row.carrier == ITS_OWN else row.carrier
    assert (verdict.body, verdict.status, verdict.failure) == (carrier, 2, row.failure), verdict.text
    assert (verdict.responses, verdict.certificates) == (1, 0)
    assert verdict.kind == (row.by or case.kind), verdict.text
    assert NOUN.match(verdict.text), verdict.text
    assert CITED.search(verdict.text), verdict.text
    if row.section:
        number, _, section = row.section.partition(" ")
        kind = "appendix" if section[:1].isalpha() else "section"
        assert f"RFC {number} {kind} {section}" in verdict.text, verdict.text
    assert verdict.text.isprintable()
    if carrier in ("ip", "cp", "kup") and row.carrier == ITS_OWN:
        assert verdict.ids == ((-1,) if case.body == "p10cr" else (case.number,))
    check_header(verdict, case, lost=row.failure == "badDataFormat" and row.what.startswith(("pvno", "sender")))


def check_header(verdict: Verdict, case: Case, *, lost: bool) -> None:
    """The header that every answer has (RFC 9483 sections 3.1 and 5.1), as far as the request's could be read.

    `lost`: its sender could not be.
    """
    names = [name for name, _ in case.draft.fields]
    nonce = verdict.header["senderNonce"]
    assert nonce is not None
    assert len(nonce) == 16
    for said, asked in (("transactionID", "transactionID"), ("recipNonce", "senderNonce")):
        if asked in names and (value := contents(case.draft[asked])) and len(value) <= MAX_IDENTIFIER:
            assert der.encode_octets(verdict.header[said] or b"") == value, said
    sender = dict(case.draft.fields).get("sender", NULL_DN)
    assert verdict.header["recipient"] in (sender, *([NULL_DN] if lost else ()))


async def refuse(case: Case, row: Row, *, changes: int = 0) -> str:
    """Send a spoilt message to a strict door: it is refused as the row says, and changes nothing. The text of that.

    `changes`: how many certificates it changes all the same: a wrong certConf ends its transaction (section 3.6.4).
    """
    spoilt = row.spoil(case)
    before = held(case.world)
    verdict = await spoilt.send(STRICT)
    assert verdict is not None
    check(verdict, row, spoilt)
    after = held(case.world)
    assert len(after.moved(before)) == changes
    assert changes or after == before
    check_store(case.world)
    return verdict.text
