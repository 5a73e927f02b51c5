"""pollReq and pollRep against a CA whose operator takes his time, and a request of before that is gone on with."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.asn1 import der, names
from cmpd.client import base, messages, polling
from cmpd.client.connection import Connection
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret, Unprotected
from cmpd.client.errors import ClientError, CmpClientError, StillWaiting, VerificationError
from cmpd.client.flows import Client, Enrolment, Options
from cmpd.client.keys import KEY_TYPES, public_key_info
from cmpd.client.messages import Template
from cmpd.client.responses import Answer, Trust
from cmpd.client.revocation import RevDetails
from cmpd.env import Env
from cmpd.message import BODY_NAMES, Envelope, decode
from cmpd.protection import mac_scheme
from cmpd.protection.base import ProtectionPolicy
from tests.client.ca import ANSWER, REFERENCE, SECRET, Ca, Forge, error_content, issue
from tests.client.wire import Peer, serving

SUBJECT = names.encode_name("CN=device")
MAC = SharedSecret(REFERENCE, SECRET, iterations=500)
KEY = KEY_TYPES["p256"]()
Told = list[tuple[int, str]]


@pytest.fixture(autouse=True)
def nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "SHORTEST_WAIT", 0)


def poll_rep(*items: tuple[int, int, str]) -> bytes:
    """A PollRepContent of (certReqId, checkAfter, reason)."""
    return der.seq(
        *(
            der.seq(der.encode_integer(n), der.encode_integer(s), der.seq(der.encode_utf8(t)) if t else b"")
            for n, s, t in items
        )
    )


@dataclass
class SlowCa(Ca):
    """Says waiting, then pollRep `not_yet` times, then what a Ca says. A repeated request is answered as at first.

    `ready`: how many certificates get ready at a time, None = all. `final_nonce`: "poll" or "request", whose
    senderNonce the final answer repeats. `by_error`: says waiting by an error. `check_after`: seconds in a pollRep.
    """

    not_yet: int = 2
    ready: int | None = None
    final_nonce: str = "poll"
    by_error: bool = False
    check_after: int = 0
    refuse: bytes = b""
    poll_forge: Forge = field(default_factory=Forge)
    wait_forge: Forge = field(default_factory=Forge)
    original: Envelope | None = None
    polls: int = 0
    last_nonce: bytes | None = None

    def respond(self, octets: bytes) -> bytes:
        answer = self._say(decode(octets), octets)
        self.last_nonce = decode(answer).header.sender_nonce
        return answer

    def _say(self, request: Envelope, octets: bytes) -> bytes:
        name = BODY_NAMES[request.body_type]
        if name == "certConf":
            return super().respond(octets)
        if name == "pollReq":
            return self._poll(request)
        if self.original is not None and self.original.der == octets and self.polls >= self.not_yet:
            return super().respond(octets)
        self.received.append((name, request))
        self.original = request
        if self.by_error:
            return self._message(request, "error", der.seq(der.seq(der.encode_integer(3))), self.wait_forge)
        waiting = der.seq(der.encode_integer(3))
        self.left = polling._public_keys(request)
        each = [der.seq(der.encode_integer(number), waiting) for number in self.left]
        return self._message(request, ANSWER[name], der.seq(der.seq(*each)), self.wait_forge)

    def _poll(self, request: Envelope) -> bytes:
        first = self.original
        assert first is not None
        header = request.header
        assert header.transaction_id == first.header.transaction_id
        assert header.recip_nonce == self.last_nonce
        assert header.sender_nonce not in (None, first.header.sender_nonce)
        assert (header.protection_alg, header.sender) == (first.header.protection_alg, first.header.sender)
        scheme = mac_scheme(header.protection_alg) if header.protection_alg else None
        assert (request.protection is None) == (header.protection_alg is None)
        if scheme is not None:
            mac = scheme.parse(header.protection_alg or b"", ProtectionPolicy())
            assert mac.compute(mac.derive(SECRET), request.protected) == request.protection
        self.received.append(("pollReq", request))
        self.polls += 1
        asked = [one["cert_req_id"].native for one in request.structure["body"].chosen]
        assert asked == ([-1] if self.by_error else list(self.left))
        if self.polls <= self.not_yet:
            content = poll_rep(*((number, self.check_after, "the operator sleeps") for number in asked))
            return self._message(request, "pollRep", content, self.poll_forge)
        self.polls = 0 if self.ready else self.polls
        forge = self.forge
        if self.final_nonce == "request":
            forge = replace(forge, recip_nonce=first.header.sender_nonce)
        if self.refuse:
            return self._message(request, "error", self.refuse, forge)
        name = BODY_NAMES[first.body_type]
        if name == "rr":
            return self._message(request, "rp", self._rev_rep(first, forge), forge)
        now = list(self.left)[: self.ready]
        each = [self._cert_response(number, self.left.pop(number), forge) for number in now]
        granted = replace(request, header=replace(header, general_info=first.header.general_info))
        return self._message(granted, ANSWER[name], der.seq(der.seq(*each)), forge)


@pytest.fixture
def ca() -> SlowCa:
    return SlowCa.make()


async def against(
    ca: Ca, run: Callable[[Client], Any], credential: Credential = MAC, told: Told | None = None, seconds: float = 60
) -> Any:
    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            await peer.answer(ca.respond(message[2]))

    heard: Told = [] if told is None else told
    async with serving(behave) as server, Connection("127.0.0.1", server.port) as connection:
        client = Client(
            connection,
            credential,
            Trust((ca.root.certificate,)),
            poll_timeout=seconds,
            on_wait=lambda *what: heard.append(what),
        )
        return await run(client)


def enrol(**options: Any) -> Callable[[Client], Any]:
    return lambda client: client.enrol("ir", KEY, SUBJECT, options=Options(**options))


def bodies(ca: Ca) -> list[str]:
    return [name for name, _ in ca.received]


@pytest.mark.parametrize("kind", ["mac", "signature", "unprotected"])
@pytest.mark.parametrize("final_nonce", ["poll", "request"])
async def test_who_has_to_wait_asks_until_the_answer_is_there(ca: SlowCa, kind: str, final_nonce: str) -> None:
    ca.final_nonce = final_nonce
    own = issue("device", ca.sub)
    credential = {"mac": MAC, "signature": own.credential, "unprotected": Unprotected(own.certificate)}[kind]
    if kind == "unprotected":
        ca.forge = ca.poll_forge = ca.wait_forge = Forge(protection="signature")
    told: Told = []
    result = await against(ca, enrol(), credential, told)
    assert isinstance(result, Enrolment)
    assert result.certificate.public_key_info == public_key_info(KEY)
    assert result.implicitly_confirmed
    assert bodies(ca) == ["ir", "pollReq", "pollReq", "pollReq"]
    assert told == [(0, "the operator sleeps")] * 2


async def test_cert_conf_follows_what_was_waited_for(ca: SlowCa) -> None:
    ca.forge = Forge(grant_implicit=False)
    result = await against(ca, enrol())
    assert not result.implicitly_confirmed
    assert bodies(ca) == ["ir", "pollReq", "pollReq", "pollReq", "certConf"]


async def test_a_p10cr_is_polled_for_with_minus_one(ca: SlowCa) -> None:
    request = messages.certification_request(Template(KEY, SUBJECT))
    result = await against(ca, lambda client: client.p10cr(request))
    assert result.certificate.public_key_info == public_key_info(KEY)
    assert list(polling._public_keys(ca.received[0][1])) == [-1]


async def test_certificates_that_get_ready_one_by_one_are_confirmed_one_by_one(ca: SlowCa) -> None:
    ca.ready, ca.not_yet = 1, 1
    ca.forge = Forge(grant_implicit=False)
    templates = [Template(KEY_TYPES["ed25519"](), SUBJECT, cert_req_id=number) for number in (0, 1, 7)]
    results = await against(ca, lambda client: client.enrol_all("cr", templates))
    assert [one.certificate.public_key_info for one in results] == [one.public_key_info for one in templates]
    assert bodies(ca) == ["cr", *["pollReq", "pollReq", "certConf"] * 3]


async def test_an_error_with_the_status_waiting_is_polled_behind(ca: SlowCa) -> None:
    ca.by_error = True
    details = [RevDetails(ca.sub.certificate.subject, 17)]
    [result] = await against(ca, lambda client: client.revoke(details))
    assert result.accepted
    assert bodies(ca) == ["rr", "pollReq", "pollReq", "pollReq"]


async def test_what_the_operator_refuses_is_told(ca: SlowCa) -> None:
    ca.refuse = error_content("the operator says no", 23)
    with pytest.raises(CmpClientError, match="the operator says no") as caught:
        await against(ca, enrol())
    assert caught.value.protected_by == "the shared secret"
    ca = SlowCa.make()
    ca.forge = Forge(status=2)
    with pytest.raises(CmpClientError, match="badCertTemplate"):
        await against(ca, enrol())


async def test_a_server_that_wants_to_be_asked_too_late_is_given_up(ca: SlowCa) -> None:
    ca.check_after = 3600
    told: Told = []
    with pytest.raises(StillWaiting, match="asked again in 3600 s, want one within 60 s"):
        await against(ca, enrol(), told=told)
    assert not told


async def test_a_server_that_says_not_yet_for_ever_is_given_up(ca: SlowCa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "SHORTEST_WAIT", 0.05)
    ca.not_yet = 10**6
    with pytest.raises(StillWaiting, match=r"within 0.3 s"):
        await against(ca, enrol(), seconds=0.3)
    assert 3 <= ca.polls <= 8


async def test_a_server_that_repeats_that_the_request_waits_is_not_asked_without_a_pause(
    ca: SlowCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "SHORTEST_WAIT", 0.05)
    ca.not_yet = 0
    ca.forge = Forge(content=der.seq(der.seq(der.seq(der.encode_integer(0), der.seq(der.encode_integer(3))))))
    ca._cert_response = lambda *_: der.seq(der.encode_integer(0), der.seq(der.encode_integer(3)))
    ca._poll = lambda request: ca._message(request, "ip", ca.forge.content, Forge())
    with pytest.raises(StillWaiting):
        await against(ca, enrol(), seconds=0.2)


@pytest.mark.parametrize(
    ("text", "forgery"),
    [
        ("recipNonce is not", {"recip_nonce": bytes(16)}),
        ("transactionID is not", {"transaction_id": bytes(16)}),
        ("is not protected", {"protection": "none"}),
        ("MAC is wrong", {"secret": b"another"}),
        ("MAC is wrong", {"flip": True}),
        ("want a senderNonce", {"nonce_octets": 8}),
    ],
)
async def test_a_forged_poll_rep_is_not_believed(ca: SlowCa, text: str, forgery: dict[str, Any]) -> None:
    ca.poll_forge = Forge(**forgery)
    with pytest.raises(VerificationError, match=text):
        await against(ca, enrol())
    assert ca.polls == 1


async def test_a_poll_rep_must_repeat_the_nonce_of_the_poll_req(ca: SlowCa) -> None:
    inner = ca._message

    def message(request: Envelope, body: str, content: bytes, forge: Forge) -> bytes:
        if body == "pollRep":
            assert ca.original is not None
            forge = replace(forge, recip_nonce=ca.original.header.sender_nonce)
        return inner(request, body, content, forge)

    ca._message = message
    with pytest.raises(VerificationError, match="recipNonce"):
        await against(ca, enrol())


async def test_a_poll_rep_answers_nothing_but_a_poll_req(ca: SlowCa) -> None:
    ca.respond = lambda octets: ca._message(decode(octets), "pollRep", poll_rep((0, 1, "")), Forge())
    with pytest.raises(VerificationError, match="want ip to ir, have pollRep"):
        await against(ca, enrol())


async def test_an_unprotected_error_that_says_waiting_is_not_polled_behind(ca: SlowCa) -> None:
    ca.by_error, ca.wait_forge = True, Forge(protection="none")
    with pytest.raises(CmpClientError, match=r"waiting.*not authenticated"):
        await against(ca, enrol())
    assert ca.polls == 0


@pytest.mark.parametrize(
    "content", [b"\x30\x00", der.seq(der.seq()), der.seq(der.seq(der.encode_integer(0))), der.NULL_TLV]
)
async def test_a_poll_rep_that_cannot_be_read_is_not_believed(ca: SlowCa, content: bytes) -> None:
    ca.poll_forge = Forge()
    inner = ca._message
    ca._message = lambda request, body, octets, forge: inner(
        request, body, content if body == "pollRep" else octets, forge
    )
    with pytest.raises(VerificationError, match="PollRepContent"):
        await against(ca, enrol())


@given(
    st.lists(st.tuples(st.integers(-1, 99), st.integers(-(2**70), 2**70), st.text(max_size=20)), min_size=1, max_size=5)
)
def test_any_poll_rep_gives_a_bounded_time_and_a_printable_reason(items: list[tuple[int, int, str]]) -> None:
    empty = decode(messages.protect("genm", b"\x30\x00", MAC.protector(Env()), Env()).der)
    answer = Answer(replace(empty, body=poll_rep(*items)), "", ())
    seconds, reason = polling.read_poll_rep(answer)
    assert 0 <= seconds <= 2**31
    assert reason.isprintable()
    if 0 <= min(one[1] for one in items) < 2**31:
        assert seconds == min(one[1] for one in items)


# --- going on later -------------------------------------------------------------------------------------------------


async def sent_and_left(ca: SlowCa, credential: Credential = MAC) -> bytes:
    ca.check_after = 3600
    kept: list[bytes] = []
    with pytest.raises(StillWaiting):
        await against(ca, enrol(on_request=kept.append), credential)
    ca.check_after = 0
    [octets] = kept
    assert octets == ca.received[0][1].der
    return octets


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize("decided", [True, False])
async def test_a_request_that_was_left_is_gone_on_with(ca: SlowCa, kind: str, decided: bool) -> None:
    credential = MAC if kind == "mac" else issue("device", ca.sub).credential
    octets = await sent_and_left(ca, credential)
    ca.polls = ca.not_yet if decided else 0
    result = await against(ca, lambda client: client.resume(octets), credential)
    assert result.certificate.public_key_info == public_key_info(KEY)


@pytest.mark.parametrize("implicit", [True, False])
async def test_it_is_confirmed_as_its_request_said(ca: SlowCa, implicit: bool) -> None:
    ca.check_after = 3600
    kept: list[bytes] = []
    with pytest.raises(StillWaiting):
        await against(ca, enrol(on_request=kept.append, implicit_confirm=implicit))
    ca.check_after = 0
    other = Options(implicit_confirm=not implicit)
    result = await against(ca, lambda client: client.resume(kept[0], options=other))
    assert (result.implicitly_confirmed, "certConf" in bodies(ca)) == (implicit, not implicit)


async def test_it_is_not_gone_on_with_by_another_credential(ca: SlowCa) -> None:
    octets = await sent_and_left(ca)
    device = issue("device", ca.sub).credential
    assert isinstance(device, KeyAndCertificate)
    others: list[tuple[Credential, str]] = [
        (replace(MAC, secret=b"another"), "another shared secret"),
        (replace(MAC, reference="another"), "not protected with the shared secret of another"),
        (device, "another certificate"),
    ]
    for credential, text in others:
        with pytest.raises(ClientError, match=text):
            await against(ca, lambda client: client.resume(octets), credential)


@given(st.data())
def test_no_octets_make_anything_but_a_clients_error_or_a_request(data: st.DataObject) -> None:
    octets = bytearray(SENT)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(octets) - 1))
        octets[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        request, wanted = polling.read_request(bytes(octets), Unprotected(), Env())
    except ClientError:
        return
    assert request.der == octets
    assert wanted


SENT = messages.cert_request("ir", [Template(KEY, SUBJECT)], Unprotected(), Env()).der


def test_an_unprotected_request_has_neither_algorithm_nor_protection() -> None:
    envelope = decode(SENT)
    assert (envelope.header.protection_alg, envelope.protection, envelope.extra_certs) == (None, None, ())
    assert envelope.header.sender == b"\xa4\x02\x30\x00"
    own = issue("device").certificate
    octets = messages.cert_request("ir", [Template(KEY, SUBJECT)], Unprotected(own), Env()).der
    assert decode(octets).header.sender == der.explicit(4, own.subject)
