"""The process is killed at every step of a request that waits for an operator: when it comes, and when it is fetched.

An operator's decision is never lost and never used twice: whatever the step, who asks again gets one certificate, the
one that was approved, and the same octets from then on. The servers come from crashing.py.
"""

import asyncio
import socket
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from typing import Any

import pytest

from cmpd.client.credentials import SharedSecret
from cmpd.client.keys import PrivateKey, public_key_info
from cmpd.client.messages import Request
from cmpd.client.polling import poll_request
from cmpd.client.responses import Trust, read_cert_rep, verify
from cmpd.config import load
from cmpd.records import Entity, EntityKind
from cmpd.store import open_store
from cmpd.store.sealing import Sealer
from cmpd.wire import tcpmsg
from tests.end_to_end.asking import ENV, ask, certificates_in, confirmation, frames_in, ir, trust_in, until_the_end
from tests.end_to_end.crashing import CLAIMED, RECORDED, RECOVERY, UNTOUCHED, WAITING
from tests.end_to_end.forked import Server, Site, forking, make
from tests.end_to_end.ways import cmpd

WAYS = ("reference", "pollReq", "the request again")
"""How the answer is fetched: by the reference of tcp-messages, by CMP, or by sending it once more."""

FETCHING = [(way, point) for way in WAYS for point in (*UNTOUCHED, *CLAIMED, *RECORDED)]
COMING = [(way, point) for way in ("reference", "pollReq") for point in WAITING]
OTHERS = [("recovered", way) for way in WAYS]

DOORS = """
[[tcp]]
listen = "127.0.0.1:0"
transport_polling = false

[profile.approved]
approval = true
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with forking() as program:
        site = make(tmp_path_factory.mktemp("approval") / "ca", program)
        with site.config.open("a") as config:
            config.write(DOORS)
        asyncio.run(register(site))
        yield site


@pytest.fixture(scope="module")
def trust(site: Site) -> Trust:
    return trust_in(site.anchor)


async def register(site: Site) -> None:
    """An entity for each case, with one use, so that uses can be counted."""
    config = load(site.config)
    sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase(), ENV)
    store = await open_store(config.store.path, serving=False)
    for case in (*FETCHING, *[("coming", *case) for case in COMING], *OTHERS):
        sealed = sealer.seal(SECRET, secret(*case).reference)
        fields = {"profiles": ("approved",), "uses_left": 1, "sealed_secret": sealed}
        await store.add_entity(Entity(0, secret(*case).reference, EntityKind.SECRET, **fields))
    await store.close()


SECRET = b"a secret of the tests"


def secret(*case: str) -> SharedSecret:
    return SharedSecret(" ".join(case), SECRET, iterations=500)


# --- the client -------------------------------------------------------------------------------------------------------


class Client:
    """Asks for one certificate, by one way. What it has sent it can send again, to another server."""

    def __init__(self, way: str, credential: SharedSecret, trust: Trust) -> None:
        self.way, self.credential, self.trust = way, credential, trust
        made: tuple[Request, PrivateKey] = ir(credential, implicit=False)
        self.request, self.key = made
        self.fetching = b""

    def port(self, server: Server) -> int:
        """That of the door with polling of its own, or that of the one without."""
        return int(server.places["listen"][self.way == "pollReq"].rpartition(":")[2])

    def come(self, server: Server) -> None:
        """Send the request, which has to wait."""
        [frame] = frames_in(self.exchange(server, tcpmsg.pki_req(self.request.der)))
        if self.way == "pollReq":
            reply = tcpmsg.reply(frame)
            assert isinstance(reply, tcpmsg.PkiRep)
            last = verify(reply.der, self.request, self.credential, self.trust, ENV)
            self.poll = poll_request(self.request, last, [0], ENV)
            self.fetching = tcpmsg.pki_req(self.poll.der)
        else:
            assert frame.type == tcpmsg.MessageType.pollRep
            reference, _ = struct.unpack("!II", frame.value)
            again = tcpmsg.pki_req(self.request.der)
            self.fetching = tcpmsg.poll_req(reference) if self.way == "reference" else again

    def exchange(self, server: Server, message: bytes) -> bytes:
        """Send a tcp-message and read one, or what comes until the server is gone."""
        with socket.create_connection(("127.0.0.1", self.port(server)), timeout=20) as sock:
            sock.sendall(message)
            received = b""
            while not frames_in(received) and (octets := sock.recv(65536)):
                received += octets
            return received

    def until_the_end(self, server: Server, message: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port(server)), timeout=20) as sock:
            sock.sendall(message)
            return until_the_end(sock)

    def fetch(self, server: Server) -> bytes:
        """Ask for the answer; it must be a PKIMessage, and the same one each time."""
        frames = [frames_in(self.exchange(server, self.fetching))[0] for _ in range(2)]
        replies = {tcpmsg.reply(frame).der for frame in frames}
        [answer] = replies
        return answer

    def read(self, answer: bytes) -> Any:
        """The certificate in a verified answer."""
        if self.way != "pollReq":
            return certificates_in(answer, self.request, self.credential, self.trust)[0]
        found = verify(answer, self.poll, self.credential, self.trust, ENV, original=self.request)
        [response] = read_cert_rep(found).responses
        return response.certificate


# --- what the database says -------------------------------------------------------------------------------------------


def query(site: Site, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{site.database.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(sql, values).fetchall()


def certificates(site: Site, client: Client) -> list[tuple[str, bytes | None]]:
    """(state, DER) of everything that was ever recorded for the client's key."""
    key_id = sha256(public_key_info(client.key)).digest()
    return query(site, "SELECT state, der FROM certificate WHERE key_id = ? ORDER BY der IS NULL, serial", key_id)


def waits(site: Site, client: Client) -> list[tuple[str, str]]:
    """(state of the transaction, decision)."""
    return query(
        site,
        "SELECT t.state, w.decision FROM cmp_transaction t JOIN waiting_request w ON w.transaction_row = t.row"
        " WHERE t.id = ?",
        client.request.transaction_id,
    )


def uses_left(site: Site, client: Client) -> int:
    [(uses,)] = query(site, "SELECT uses_left FROM entity WHERE reference = ?", client.credential.reference)
    return int(uses)


def check_signatures(site: Site, received: bytes) -> None:
    """A signature that was made is in a record, or it never left."""
    recorded = [octets for (octets,) in query(site, "SELECT der FROM certificate WHERE der IS NOT NULL")]
    for line in site.journal.read_text().splitlines() if site.journal.exists() else ():
        signature = bytes.fromhex(line)
        assert any(octets.endswith(signature) for octets in recorded) or signature[-20:] not in received


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "point"), COMING)
def test_a_request_that_has_to_wait_survives_the_end_of_the_process_at_every_step(
    site: Site, trust: Trust, way: str, point: str
) -> None:
    client = Client(way, secret("coming", way, point), trust)
    with site.dying(point) as server:
        received = client.until_the_end(server, tcpmsg.pki_req(client.request.der))
    assert bool(received) is (point in ("within answer", "after answer"))
    kept = point not in WAITING[:2]
    assert waits(site, client) == ([("waiting", "undecided")] if kept else [])

    with site.serving() as server:
        client.come(server)
        if frames_in(received):
            [before] = frames_in(received)
            assert frames_in(client.exchange(server, tcpmsg.pki_req(client.request.der))) == [before]
        assert waits(site, client) == [("waiting", "undecided")]
        assert certificates(site, client) == []
        cmpd(site, "request", "approve", client.request.transaction_id.hex())
        answer = client.fetch(server)
        assert certificates(site, client) == [("issued", client.read(answer).der)]


@pytest.mark.parametrize(("way", "point"), FETCHING)
def test_an_approved_request_survives_the_end_of_the_process_at_every_step_while_it_is_fetched(
    site: Site, trust: Trust, way: str, point: str
) -> None:
    client = Client(way, secret(way, point), trust)
    with site.serving() as server:
        client.come(server)
        cmpd(site, "request", "approve", client.request.transaction_id.hex())
    with site.dying(point) as server:
        received = client.until_the_end(server, client.fetching)

    # as it was left: what is not recorded has not left, what has left is recorded
    check_signatures(site, received)
    assert bool(received) is (point in ("within answer", "after answer"))
    left = certificates(site, client)
    recorded, claimed = point in RECORDED, point in CLAIMED
    assert [state for state, _ in left] == ([] if point in UNTOUCHED else ["intended" if claimed else "issued"])
    state = "confirming" if recorded else "processing" if claimed else "waiting"
    assert waits(site, client) == [(state, "approved")]
    assert uses_left(site, client) == (1 if point in UNTOUCHED else 0)

    with site.serving() as server:
        # started again: what was approved and not answered waits again as approved, with its use given back
        assert waits(site, client) == [("confirming" if recorded else "waiting", "approved")]
        assert uses_left(site, client) == (0 if recorded else 1)
        answer = client.fetch(server)
        assert not frames_in(received) or frames_in(received)[0].value == answer
        issued = client.read(answer)
        assert issued.public_key_info == public_key_info(client.key)
        found = certificates(site, client)
        assert found == [("issued", issued.der), *([("abandoned", None)] if claimed else [])]
        assert waits(site, client) == [("confirming", "approved")]
        assert uses_left(site, client) == 0
        confirm = confirmation(client.request, answer, {0: issued})
        confirmed = ask(client.port(server), confirm.der, confirm.der)
        assert verify(confirmed, confirm, client.credential, trust, ENV).envelope.body_name == "pkiconf"
        assert certificates(site, client)[0] == ("confirmed", issued.der)


@pytest.mark.parametrize("way", WAYS)
def test_the_decision_survives_a_crash_in_the_recovery_from_a_crash(site: Site, trust: Trust, way: str) -> None:
    client = Client(way, secret("recovered", way), trust)
    with site.serving() as server:
        client.come(server)
        cmpd(site, "request", "approve", client.request.transaction_id.hex())
    with site.dying("after sign") as server:
        client.until_the_end(server, client.fetching)
    dying = site.start(RECOVERY)
    assert dying.wait() == -9
    assert waits(site, client) == [("processing", "approved")]
    with site.serving() as server:
        issued = client.read(client.fetch(server))
        assert certificates(site, client) == [("issued", issued.der), ("abandoned", None)]
        assert uses_left(site, client) == 0
