"""regToken and authenticator (RFC 4211 sections 6.1 and 6.2): what is registered must be in the request."""

import asyncio
import io
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd import controls, requests
from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.cli.cmpc import main
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.messages import Template, cert_request, certification_request, p10_request
from cmpd.env import Env
from cmpd.errors import BadDataFormat, StoreError
from cmpd.records import Entity, EntityKind, Requester, TransactionState
from cmpd.requests import CertRequest
from tests import chains
from tests.client.wire import Peer, serving
from tests.hostile import craft
from tests.world import Clock, Seen, World

TOKEN, AUTHENTICATOR = "tokén of the device", "mother's maiden name"
REGISTERED = {"sealed_reg_token": TOKEN.encode(), "sealed_authenticator": AUTHENTICATOR.encode()}
RIGHT = {"reg_token": TOKEN, "authenticator": AUTHENTICATOR}


@pytest.fixture(autouse=True)
def _nothing_was_told_before() -> None:
    controls._tell_of_ignored.cache_clear()


@pytest.fixture
def world() -> World:
    return World()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def asked(world: World, credential: Any, body: str = "ir", **wish: Any) -> Seen:
    _, seen, _ = await world.ir(credential, body=body, **wish)
    return seen


async def untouched(world: World, reference: str = "device") -> bool:
    """Nothing was claimed: no certificate was begun and no use is gone."""
    entity = await world.store.find_entity(reference)
    return not await world.store.list_certificates() and entity is not None and entity.uses_left == 1


@pytest.mark.parametrize("body", ["ir", "cr"])
@pytest.mark.parametrize("names", [("reg_token",), ("authenticator",), ("reg_token", "authenticator")], ids="+".join)
async def test_the_right_values_are_granted(world: World, names: tuple[str, ...], body: str) -> None:
    registered = {f"sealed_{name}": RIGHT[name].encode() for name in names}
    secret = await world.add_secret(**registered)
    seen = await asked(world, secret, body, **{name: RIGHT[name] for name in names})
    assert seen.status() == (0, "", frozenset())


@pytest.mark.parametrize("body", ["ir", "cr"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"reg_token": None}, "controls: want regToken"),
        ({"authenticator": None}, "controls: want authenticator"),
        ({"reg_token": None, "authenticator": None}, "controls: want regToken"),
        ({"reg_token": ""}, "controls: regToken is not the one"),
        ({"reg_token": TOKEN + " "}, "controls: regToken is not the one"),
        ({"reg_token": TOKEN[:-1]}, "controls: regToken is not the one"),
        ({"reg_token": TOKEN.upper()}, "controls: regToken is not the one"),
        ({"reg_token": "toke\u0301n of the device"}, "controls: regToken is not the one"),
        ({"authenticator": "x"}, "controls: authenticator is not the one"),
        ({"reg_token": AUTHENTICATOR, "authenticator": TOKEN}, "controls: regToken is not the one"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
async def test_missing_and_wrong_ones_are_rejected_before_anything_is_claimed(
    world: World, body: str, change: dict[str, str | None], text: str
) -> None:
    secret = await world.add_secret(uses_left=1, **REGISTERED)
    seen = await asked(world, secret, body, **RIGHT | change)
    assert seen.body == {"ir": "ip", "cr": "cp"}[body]
    status, told, failures = seen.status()
    assert (status, failures) == (2, {"notAuthorized"})
    assert told.startswith(text)
    assert TOKEN not in told
    assert AUTHENTICATOR not in told
    assert await untouched(world)
    assert (await asked(world, secret, body, **RIGHT)).status()[0] == 0
    assert (await asked(world, secret, body, **RIGHT)).status()[2] == {"notAuthorized"}  # one time is over


async def test_each_request_of_a_message_is_judged_by_its_own_controls(world: World) -> None:
    secret = await world.add_secret(**REGISTERED)
    wishes = [RIGHT, {}, RIGHT | {"reg_token": "guess"}, RIGHT]
    templates = [Template(new_key(), encode_name("/CN=x"), cert_req_id=n, **wish) for n, wish in enumerate(wishes)]
    seen = await world.ask(cert_request("ir", templates, secret, world.env), secret)
    assert [seen.status(n)[0] for n in range(4)] == [0, 2, 2, 0]
    assert len(await world.store.list_certificates()) == 2


async def test_a_repeated_request_gets_its_answer_again(world: World) -> None:
    secret = await world.add_secret(uses_left=1, **REGISTERED)
    request, seen, _ = await world.ir(secret, **RIGHT)
    assert await world.respond(request.der) == seen.envelope.der


@pytest.mark.parametrize("names", [["sealed_reg_token"], ["sealed_authenticator"], list(REGISTERED)], ids="+".join)
async def test_a_pkcs10_is_told_to_come_as_ir_or_cr(world: World, names: list[str]) -> None:
    secret = await world.add_secret(uses_left=1, **{name: REGISTERED[name] for name in names})
    csr = certification_request(Template(new_key(), encode_name("/CN=device")))
    seen = await world.ask(p10_request(csr, secret, world.env), secret)
    assert (seen.body, seen.status()[2]) == ("cp", {"notAuthorized"})
    assert "which only an ir or cr can have" in seen.status()[1]
    assert await untouched(world)


async def test_the_holder_of_the_certificate_needs_them_no_more(world: World) -> None:
    secret = await world.add_secret(uses_left=1, **REGISTERED)
    holder = await world.holder(secret, **RIGHT)
    for body in ("ir", "cr", "kur"):
        assert (await asked(world, holder, body)).status()[0] == 0
    csr = certification_request(Template(new_key(), encode_name("/CN=device")))
    assert (await world.ask(p10_request(csr, holder, world.env), holder)).status()[0] == 0


@pytest.mark.parametrize("registered", ["its own certificate", "the CA above it"])
async def test_a_registered_certificate_needs_them_as_a_secret_does(world: World, registered: str) -> None:
    root, device = chains.chain(2)
    idevid = KeyAndCertificate(device.key, Certificate.load(device.der))
    node = device if registered == "its own certificate" else root
    await world.add_certificate("device", node.der, uses_left=1, **REGISTERED)
    seen = [
        await world.ask(
            cert_request("ir", [Template(new_key(), idevid.certificate.subject, **wish)], idevid, world.env), idevid
        )
        for wish in ({}, {"reg_token": TOKEN}, RIGHT)
    ]
    assert [one.status()[2] for one in seen] == [{"notAuthorized"}, {"notAuthorized"}, frozenset()]


async def test_of_two_entities_each_has_its_own(world: World) -> None:
    one = await world.add_secret("one", b"1", sealed_reg_token=b"first")
    two = await world.add_secret("two", b"2", sealed_reg_token=b"second")
    three = await world.add_secret("three", b"3")
    tokens = {secret.reference: [] for secret in (one, two, three)}
    for secret in (one, two, three):
        for token in ("first", "second"):
            tokens[secret.reference].append((await asked(world, secret, reg_token=token)).status()[0])
    assert tokens == {"one": [0, 2], "two": [2, 0], "three": [0, 0]}


# --- nothing registered, nothing readable -----------------------------------------------------------------------------


async def test_what_is_not_registered_is_ignored_and_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    secret, other = await world.add_secret(), await world.add_secret("other", b"2", sealed_reg_token=TOKEN.encode())
    with caplog.at_level(logging.INFO, "cmpd.controls"):
        for _ in range(3):
            assert (await asked(world, secret, reg_token="x")).status()[0] == 0
            assert (await asked(world, other, **RIGHT)).status()[0] == 0
        assert (await asked(world, await world.add_secret("plain", b"3"))).status()[0] == 0
    lines = [record.getMessage() for record in caplog.records if record.name == "cmpd.controls"]
    assert [line.split()[1] for line in lines] == ["'device'", "'other'"]
    assert {record.levelname for record in caplog.records if record.name == "cmpd.controls"} == {"INFO"}


UNREADABLE = {
    "an INTEGER": b"\x02\x01\x01",
    "a SEQUENCE": b"\x30\x00",
    "an IA5String": b"\x16\x05" + b"token",
    "not UTF-8": b"\x0c\x02\xc3\x28",
    "overlong UTF-8": b"\x0c\x02\xc0\x80",
    "a surrogate": b"\x0c\x03\xed\xa0\x80",
    "cut off": b"\x0c\x05toke",
}


@pytest.mark.parametrize("registered", [{}, REGISTERED], ids=["not registered", "registered"])
@pytest.mark.parametrize("oid", ["1.3.6.1.5.5.7.5.1.1", "1.3.6.1.5.5.7.5.1.2"])
@pytest.mark.parametrize("value", list(UNREADABLE.values()), ids=list(UNREADABLE))
async def test_a_value_that_is_no_utf8string_is_told_baddataformat(
    world: World, value: bytes, oid: str, registered: dict[str, bytes]
) -> None:
    secret = await world.add_secret(**registered)
    draft, protector = craft.request(world, secret)
    [message] = craft.children(content(draft))
    request, popo = craft.children(message)
    parts = craft.children(request)
    control = der.seq(der.seq(der.encode_oid(oid), value))
    changed = der.seq(der.seq(der.seq(*parts, control), popo))
    seen = await world.send(draft.content(changed).seal(protector))
    assert seen is not None
    assert seen.status()[2] == {"badDataFormat"}
    assert await world.store.list_certificates() == []


@pytest.mark.parametrize("value", [*UNREADABLE.values(), b"\x0c\x01a\x0c\x01a"])
def test_the_check_does_not_rely_on_what_was_checked_before(value: bytes) -> None:
    request = CertRequest(0, requests.Template(), None, {requests.ID_REG_CTRL_REG_TOKEN: value}, b"")
    with pytest.raises(BadDataFormat, match=r"^controls: "):
        controls.check_controls(request, "ir", Requester("secret:x", Entity(1, "x", EntityKind.SECRET)))


def content(draft: craft.Draft) -> bytes:
    """The CertReqMessages of a draft."""
    [messages] = craft.children(craft.children(der.seq(draft.part))[1])
    return messages


# --- cmpc -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def cmpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Callable[..., Awaitable[tuple[int, str]]]]:
    """Runs `cmpc BODY OPTIONS` by the secret of an entity with both registered: (exit code, all that it said)."""
    clock = Clock()
    clock.now = Env().now()
    world = World(clock=clock)
    secret = await world.add_secret(**REGISTERED)
    for name, text in (("secret", secret.secret.decode()), ("token", TOKEN), ("authenticator", AUTHENTICATOR)):
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "latin1").write_bytes(TOKEN.encode("latin-1"))
    monkeypatch.chdir(tmp_path)

    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            answer = await world.respond(message[2])
            assert answer is not None
            await peer.answer(answer)

    async with serving(behave) as server:

        async def run(*options: str, stdin: str = "") -> tuple[int, str]:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            who = ("--ref", "device", "--secret-file", "secret", "--iterations", "500", "--subject", "CN=device")
            words = (options[0], "--server", f"127.0.0.1:{server.port}", *who, *options[1:])
            code = await asyncio.to_thread(main, words)
            return code, "".join(capsys.readouterr())

        yield run


def files() -> list[str]:
    return [str(path) for path in Path().rglob("*")]


Cmpc = Callable[..., Awaitable[tuple[int, str]]]
FILES = ("--reg-token-file", "token", "--authenticator-file", "authenticator")


@pytest.mark.parametrize("body", ["ir", "cr"])
async def test_cmpc_sends_what_is_in_the_files(cmpc: Cmpc, body: str) -> None:
    code, said = await cmpc(body, *FILES, "--out-dir", "granted")
    assert code == 0, said
    assert "granted/cert.pem" in files()
    code, said = await cmpc(body, "--reg-token-file", "-", *FILES[2:], "--out-dir", "too", stdin=TOKEN + "\n")
    assert code == 0, said
    code, said = await cmpc(body, *FILES[:2], "--out-dir", "refused")
    assert code == 1
    assert "want authenticator" in said
    for text in (TOKEN, AUTHENTICATOR):
        assert text not in said


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--reg-token-file", "latin1"), "--reg-token-file latin1: want text in UTF-8"),
        (("--authenticator-file", "none"), "none: No such file"),
        (("--reg-token-file", "-"), "--reg-token-file -: the secret is empty"),
        (("--reg-token-file", "-", "--authenticator-file", "-"), "only one of --secret-file, --reg-token-file and"),
    ],
)
async def test_cmpc_makes_no_key_when_a_value_cannot_be_used(cmpc: Cmpc, options: tuple[str, ...], wanted: str) -> None:
    code, said = await cmpc("ir", *options, "--out-dir", "d")
    assert code == 2
    assert wanted in said
    assert "d/key.pem" not in files()


# --- secrecy and damage -----------------------------------------------------------------------------------------------


async def test_the_values_are_in_no_log_and_in_no_answer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    secret = await world.add_secret(**REGISTERED)
    guess = "a guess of somebody"
    with caplog.at_level(logging.DEBUG):
        answers = [await asked(world, secret, **wish) for wish in (RIGHT, {}, RIGHT | {"reg_token": guess})]
        answers.append(await asked(world, await world.add_secret("other", b"2"), **RIGHT))
    assert len(caplog.records) >= len(answers)
    for text in (TOKEN, AUTHENTICATOR, guess):
        assert text not in caplog.text
        assert all(text.encode() not in answer.envelope.der for answer in answers)
    credential = await world.credentials.secret(b"device")
    assert credential is not None
    assert credential.entity.controls is not None
    assert TOKEN not in repr(credential)
    assert AUTHENTICATOR not in repr(credential)
    assert str(TOKEN.encode()) not in repr(credential)


async def test_a_sealed_value_that_cannot_be_opened_is_systemunavail(world: World) -> None:
    class Damaged:
        def open(self, sealed: bytes, reference: str, /) -> bytes:
            if "\0" in reference:
                raise StoreError("damaged")
            return sealed

    secret = await world.add_secret(uses_left=1, **REGISTERED)
    world.credentials._sealer = Damaged()
    seen = await world.send(cert_request("ir", [Template(new_key(), b"\x30\x00", **RIGHT)], secret, world.env).der)
    assert seen is not None
    assert seen.status()[2] == {"systemUnavail"}
    assert await untouched(world)


async def test_wrong_values_end_their_transaction_like_any_rejection(world: World) -> None:
    secret: SharedSecret = await world.add_secret(uses_left=1, **REGISTERED)
    request, seen, _ = await world.ir(secret, reg_token="guess")
    record = await world.store.find_transaction(request.transaction_id)
    assert record is not None
    assert record.state is TransactionState.ENDED
    assert await world.respond(request.der) == seen.envelope.der
