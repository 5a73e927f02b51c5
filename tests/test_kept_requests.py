"""Requests that wait for an operator or for popdecr: kept sealed, for they may have secrets in them, and opened alike.

Rows that earlier builds kept in clear are served as before, also after their database was brought up to date.
"""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import SharedSecret
from cmpd.client.messages import Request, Template, cert_request
from cmpd.config import ProfileConfig
from cmpd.env import Env
from cmpd.errors import StoreError
from cmpd.keeping import open_request, seal_request
from cmpd.origin import Door, Origin, Waiting
from cmpd.records import OpenChallenge
from cmpd.store.memory import MemoryStore
from cmpd.store.migrations import APPLICATION_ID, STEPS
from cmpd.store.sealing import Sealer
from cmpd.store.sqlite import SqliteStore
from tests.pops import KEYS, encrypting_usage
from tests.test_pop_challenge import rands
from tests.world import Seen, World

POLLS = Origin("poller", Door("tcp"), polls=True)
TOKEN, AUTHENTICATOR = "token of the device", "mother's maiden name"
SEALER = Sealer(bytes(range(32)), Env())


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, serving=True)
    try:
        yield store
    finally:
        await store.close()


def contents(directory: Path) -> list[bytes]:
    return [file.read_bytes() for file in directory.iterdir()]


def new_world(store: Any = None, sealer: Any = SEALER) -> World:
    profiles = {"default": ProfileConfig(), "approved": ProfileConfig(approval=True)}
    return World(profiles=profiles, store=store or MemoryStore(), sealer=sealer)


async def registered(world: World) -> SharedSecret:
    """Somebody whose requests have to have both controls."""
    fields: dict[str, bytes] = {"sealed_reg_token": TOKEN.encode(), "sealed_authenticator": AUTHENTICATOR.encode()}
    secret = b"secret"
    if world.sealer is not None:
        references = {"sealed_reg_token": "device\0regToken", "sealed_authenticator": "device\0authenticator"}
        fields = {name: world.sealer.seal(value, references[name]) for name, value in fields.items()}
        secret = world.sealer.seal(secret, "device")
    await world.add_secret("device", secret, profiles=("default", "approved"), **fields)
    return SharedSecret("device", b"secret", iterations=500)


def with_controls(world: World, secret: SharedSecret, key: Any, profile: str, **wish: Any) -> Request:
    template = Template(key, encode_name("/CN=device"), reg_token=TOKEN, authenticator=AUTHENTICATOR, **wish)
    return cert_request("ir", [template], secret, world.env, profile=profile)


async def waits(world: World, secret: SharedSecret) -> tuple[Request, Waiting]:
    """Somebody waits for an operator."""
    request = with_controls(world, secret, ec.generate_private_key(ec.SECP256R1()), "approved")
    told = await world.respond(request.der, POLLS)
    assert isinstance(told, Waiting)
    return request, told


async def challenged(world: World, secret: SharedSecret) -> tuple[Request, Seen, int]:
    """Somebody was sent a challenge."""
    key = KEYS["x25519"]()
    usage = (encrypting_usage("x25519"),)
    request = with_controls(world, secret, key, "default", extensions=usage, proof="challengeResp")
    seen = await world.ask(request, secret)
    [(integer, _)] = rands(seen, {0: key})
    return request, seen, integer


async def get_both(
    world: World, secret: SharedSecret, waiting: tuple[Request, Waiting], challenge: tuple[Request, Seen, int]
) -> None:
    """Both get their certificates."""
    await world.approve(waiting[1].reference)
    answer = await world.poll(waiting[1].reference, POLLS)
    assert isinstance(answer, bytes)
    assert world.read(answer).status()[0] == 0
    request, seen, integer = challenge
    popdecr = world.follow(request, seen, "popdecr", der.seq(der.encode_integer(integer)), pvno=3)
    assert (await world.ask(popdecr, secret)).status()[0] == 0


async def kept(world: World, waiting: Waiting, challenge: Request) -> tuple[bytes, bytes]:
    """What the store has of both."""
    found = await world.store.find_waiting(waiting.reference)
    record = await world.store.find_transaction(challenge.transaction_id)
    assert found is not None
    assert record is not None
    assert record.challenge is not None
    return found.request, record.challenge.request


async def test_no_control_of_a_request_that_waits_is_in_the_database_in_clear(tmp_path: Path) -> None:
    async with opened(tmp_path / "ca.db") as store:
        world = new_world(store)
        secret = await registered(world)
        waiting, challenge = await waits(world, secret), await challenged(world, secret)
        for request in (waiting[0].der, challenge[0].der):
            assert TOKEN.encode() in request  # what is looked for
            assert AUTHENTICATOR.encode() in request
        world.restart()
        files = contents(tmp_path)
        await get_both(world, secret, waiting, challenge)
    files += contents(tmp_path)
    assert any(waiting[0].transaction_id in octets for octets in files)
    assert not any(text.encode() in octets for text in (TOKEN, AUTHENTICATOR) for octets in files)


async def test_a_poll_req_finds_its_request_sealed() -> None:
    world = new_world()
    secret = await registered(world)
    request = with_controls(world, secret, ec.generate_private_key(ec.SECP256R1()), "approved")
    seen = await world.ask(request, secret)
    content = der.seq(der.seq(der.encode_integer(0)))
    poll = world.follow(request, seen, "pollReq", content)
    seen = await world.ask(poll, secret)
    assert seen.body == "pollRep"
    [waiting] = await world.waiting()
    await world.approve(waiting.reference)
    answer = await world.ask(world.follow(request, seen, "pollReq", content), secret)
    assert answer.status()[0] == 0


async def test_without_a_sealer_requests_are_kept_as_they_are() -> None:
    world = new_world(sealer=None)
    secret = await registered(world)
    waiting, challenge = await waits(world, secret), await challenged(world, secret)
    assert await kept(world, waiting[1], challenge[0]) == (waiting[0].der, challenge[0].der)
    await get_both(world, secret, waiting, challenge)


async def test_a_sealed_request_that_cannot_be_opened_is_left_alone() -> None:
    world = new_world()
    secret = await registered(world)
    waiting, challenge = await waits(world, secret), await challenged(world, secret)
    request, seen, integer = challenge
    popdecr = world.follow(request, seen, "popdecr", der.seq(der.encode_integer(integer)), pvno=3)
    sealers = (None, Sealer(bytes(32), Env()))
    for sealer in sealers:
        world.service = replace(world.service, sealer=sealer)
        world.responder._service = world.service
        with pytest.raises(StoreError, match=r"sealed"):
            await world.poll(waiting[1].reference, POLLS)
        refused = await world.send(popdecr.der)
        assert refused is not None
        assert refused.status()[2] == {"systemUnavail"}
    world.restart()
    await get_both(world, secret, waiting, challenge)


def test_a_request_is_sealed_for_its_own_transaction() -> None:
    request = b"\x30\x03\x02\x01\x07"
    sealed = seal_request(SEALER, b"one", request)
    assert open_request(SEALER, OpenChallenge(b"one", (), 0, sealed)) == request
    for other in (OpenChallenge(b"two", (), 0, sealed), OpenChallenge(b"one", (), 0, sealed[:-1] + b"\0")):
        with pytest.raises(StoreError, match="damaged, or sealed for another"):
            open_request(SEALER, other)
    assert open_request(SEALER, OpenChallenge(b"one", (), 0, request)) == request  # of an earlier build


# --- databases of earlier builds --------------------------------------------------------------------------------------


def downgraded(source: Path, target: Path, version: int) -> None:
    """A database of an earlier schema with the rows of this one, in the columns that there were."""
    with contextlib.closing(sqlite3.connect(target)) as database:
        for statement in (statement for step in STEPS[:version] for statement in step):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {version}")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("ATTACH ? AS new", (str(source),))
        for (table,) in database.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'").fetchall():
            if table.startswith("sqlite_"):
                continue
            columns = ", ".join(name for _, name, *_ in database.execute(f"PRAGMA main.table_info({table})"))
            database.execute(f"DELETE FROM main.{table}")
            database.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        database.commit()


@pytest.mark.parametrize("version", [3, 5])
async def test_what_an_earlier_build_kept_in_clear_is_answered_after_the_migration(
    tmp_path: Path, version: int
) -> None:
    async with opened(tmp_path / "new.db") as store:
        world = new_world(store, sealer=None)
        secret = await registered(world)
        waiting = await waits(world, secret)
        challenge = await challenged(world, secret) if version > 3 else None  # schema 3 knows no challenges
    downgraded(tmp_path / "new.db", tmp_path / "old.db", version)

    async with opened(tmp_path / "old.db") as store:
        world.store = store
        world.restart()
        world.service = replace(world.service, sealer=SEALER)
        world.responder._service = world.service
        found = await store.find_waiting(waiting[1].reference)
        assert found is not None
        assert found.request == waiting[0].der
        assert found.digest == sha256(waiting[0].der).digest()
        assert await world.poll(waiting[1].reference, POLLS) == waiting[1]
        if challenge is None:
            challenge = await challenged(world, secret)
        await get_both(world, secret, waiting, challenge)
