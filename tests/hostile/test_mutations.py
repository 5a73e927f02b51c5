"""Ten thousand spoilt messages in memory and two thousand over TCP: each has its answer, and nothing else happens.
Five thousand more are rr and genm alone.

A third of them is protected again after it was spoilt, by somebody who may, so that it gets behind the verification.
Whether a request was protected when something has changed by it is looked at by code of the tests (craft.py).
The seed is fixed: the same messages each time (but for keys, nonces and signatures).
"""

import asyncio
import logging
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1_alt_modules import rfc9810

from cmpd.asn1 import der
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.config import EnrolmentConfig
from cmpd.env import Env
from cmpd.message import Envelope, decode
from cmpd.signing.recipient import RsaRecipient
from cmpd.wire import tcpmsg
from tests.hostile import corpus, craft
from tests.hostile.corpus import Corpus
from tests.hostile.craft import Draft
from tests.hostile.mutate import VALUES, mutate
from tests.support import Installation, Server
from tests.test_cms import CERTIFICATE, KEY
from tests.test_general_messages import Published, crl_of, equip
from tests.world import World

ROUNDS = 16
IN_MEMORY = 640  # messages a round
OVER_TCP = 2000
REVOCATION_ROUNDS = 10
REVOCATIONS = 500  # rr and genm a round
ISSUES, CHANGES, CHANGES_NOTHING = {"ip", "cp", "kup"}, {"rp", "pkiconf", "error"}, {"genp"}


class Watch(logging.Handler):
    """Collects what must not be in a log: tracebacks, and characters that make or hide lines."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info or record.levelno >= logging.ERROR or not text.isprintable():
            self.found.append(f"{text} {record.exc_info!r}")


@contextmanager
def watching() -> Iterator[Watch]:
    watch, logger = Watch(), logging.getLogger("cmpd")
    before, logger.propagate = logger.propagate, False  # pytest would keep every line
    level = logger.level
    logger.addHandler(watch)
    logger.setLevel(logging.INFO)
    try:
        yield watch
    finally:
        logger.removeHandler(watch)
        logger.setLevel(level)
        logger.propagate = before


SHAPES: set[tuple[object, ...]] = set()


def read(answer: bytes) -> Envelope:
    """Our decoding; the independent one too for each form of an answer, which random octets do not change."""
    envelope = decode(answer)
    header = envelope.header
    sizes = [len(part or b"") for part in (header.sender_kid, header.transaction_id, header.recip_nonce)]
    body = envelope.body if envelope.body_name in ("error", "pkiconf", "rp", "genp") else len(envelope.body)
    shape = (envelope.body_type, body, header.sender, header.recipient, header.protection_alg, header.general_info)
    if (*shape, *sizes) not in SHAPES:
        SHAPES.add((*shape, *sizes))
        rest = decode_der(answer, asn1Spec=rfc9810.PKIMessage())[1]
        assert not rest
    return envelope


def spoil(rng: random.Random, source: Corpus, *, protected: float = 0.4) -> bytes:
    """`protected`: which part of them, of those that can be, is protected again."""
    octets, protector = rng.choice(source.messages)
    other, _ = rng.choice(source.messages)
    if protector is None or rng.random() >= protected:
        return mutate(rng, octets, other)
    if rng.random() < 0.7:  # a transaction of its own
        octets = Draft.of(octets).set("transactionID", der.encode_octets(rng.randbytes(16))).seal(protector)
    header, body, *_ = craft.children(octets)
    if rng.random() < 0.5:  # behind the checks of the header
        spoilt = header + mutate(rng, body, other, VALUES)
    else:
        spoilt = mutate(rng, header + body, other, VALUES)
    return craft.assemble(spoilt, protector.compute(der.seq(spoilt)), protector.extra_certs)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_every_spoilt_message_has_its_answer_and_gets_nothing(seed: int) -> None:
    with watching() as watch:
        asyncio.run(_round(seed))
    assert not watch.found


async def _round(seed: int) -> None:
    rng = random.Random(seed)
    world = hostile_world()
    secret = await world.add_secret(subject="/O=Test/CN=device", may_revoke=True)
    credentials = [secret, await world.holder(secret, "/O=Test/CN=device")]
    keys, pops = set(), []
    for i in range(IN_MEMORY):
        if i % 160 == 0:
            source = await corpus.make(world, credentials)
            more = await corpus.revocations(world, credentials, secret)
            source.messages += more.messages
            keys |= source.keys | more.keys
            pops += source.pops
            source.messages += [(path.read_bytes(), None) for path in rng.sample(corpus.VECTORS, 10)]
        octets = spoil(rng, source)
        before = craft.held(world)
        answer = await world.respond(octets)
        if answer is None:
            assert 0xAF <= craft.children(octets)[1][0] <= 0xB3
            continue
        envelope = read(answer)
        after = craft.held(world)
        check_changes(octets, envelope, before, after, secret, credentials[1])
        if len(after.certificates) > len(before.certificates):
            assert any(pop in octets for pop in pops), octets.hex()
        assert await world.respond(octets) is not None
        assert craft.held(world) == after  # nothing happens twice
    craft.check_store(world)
    for record in await world.store.list_certificates(limit=10_000):
        assert record.der is not None
        assert any(key in record.der for key in keys)  # of nobody else's key
    assert (await world.ir(secret, "/O=Test/CN=device"))[1].status()[0] == 0


def hostile_world() -> World:
    """With all that a genm can ask for."""
    world = World(enrolment=EnrolmentConfig(certificate_holder_may_ask_for="any"), window=None)
    recipient = RsaRecipient(KEY, CERTIFICATE, world.env)
    return equip(world, crls=Published(crl_of(world)), recipient=recipient)


def check_changes(
    octets: bytes,
    answer: Envelope,
    before: craft.Held,
    after: craft.Held,
    secret: SharedSecret,
    holder: KeyAndCertificate,
) -> None:
    """Nothing is changed but by who has shown a secret or a key, in an answer that says so, and what the request names.

    What is recorded of a status change is what the request asked for: nothing else has moved.
    """
    if after == before:
        return
    assert craft.is_protected(octets, [secret.secret], [holder.certificate.der]), octets.hex()
    moved = after.moved(before)
    new = moved - set(before.certificates)
    assert not new or answer.body_name in ISSUES
    assert moved == new or answer.body_name in CHANGES
    changes = after.changes[len(before.changes) :]
    assert after.changes[: len(before.changes)] == before.changes
    if answer.body_name == "rp":
        assert {change.serial for change in changes} == moved
        assert len(changes) == len(moved)
        assert all(der.tlv(0x81, serial) in octets for serial in moved), octets.hex()
        assert all(change.by.startswith("entity 'device' (rr, ") for change in changes)
        spec = decode_der(answer.der, asn1Spec=rfc9810.PKIMessage())[0]
        statuses = [int(status["status"]) for status in spec["body"]["rp"]["status"]]
        assert statuses.count(0) == len(moved)
    elif answer.body_name in CHANGES_NOTHING:
        assert not moved
    assert set(before.passphrases) <= set(after.passphrases)
    brought = [kept for key_id, kept in after.passphrases.items() if before.passphrases.get(key_id) != kept]
    assert len(brought) <= 1
    assert all(kept.entity_id == 1 for kept in brought)


@pytest.mark.parametrize("seed", range(REVOCATION_ROUNDS))
def test_every_spoilt_rr_and_genm_has_its_answer_and_changes_only_what_it_may(seed: int) -> None:
    with watching() as watch:
        changed, told = asyncio.run(_revocation_round(seed))
    assert not watch.found
    assert changed > 10  # some get through, or this shows nothing
    assert {"rp", "genp", "error"} <= told


async def _revocation_round(seed: int) -> tuple[int, set[str]]:
    rng = random.Random(1000 + seed)
    world = hostile_world()
    secret = await world.add_secret(may_revoke=True)
    other = await world.add_secret("other", b"of another entity")
    strangers = [await world.record(await world.holder(other, corpus.SUBJECT)) for _ in range(3)]
    changed, told = 0, set()
    for i in range(REVOCATIONS):
        if i % 50 == 0:
            holder = await world.holder(secret, corpus.SUBJECT)
            source = await corpus.revocations(world, [secret, holder], secret)
        world.clock.now += 1
        octets = spoil(rng, source, protected=0.7)
        before = craft.held(world)
        answer = await world.respond(octets)
        if answer is None:
            assert 0xAF <= craft.children(octets)[1][0] <= 0xB3
            continue
        envelope = read(answer)
        told.add(envelope.body_name)
        after = craft.held(world)
        changed += after != before
        check_changes(octets, envelope, before, after, secret, holder)
        again = await world.respond(octets)
        assert again is not None
        assert envelope.body_name != "rp" or after == before or again == answer
        assert craft.held(world) == after
    craft.check_store(world)
    assert [after.certificates[record.serial] for record in strangers] == strangers
    return changed, told


# --- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.make(tmp_path_factory.mktemp("hostile"))
    made.add_secret("device", "secret", "--uses", "unlimited")
    return made


def resident(server: Server) -> int:
    """Resident memory in KiB."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), 20)


def frames(octets: bytes) -> list[tuple[int, bytes]]:
    """(type, value) of the messages that fill `octets`, in either framing; read without the code under test."""
    found = []
    while octets:
        size = int.from_bytes(octets[:4], "big")
        head = 7 if octets[4] == 10 else 5
        assert head - 4 <= size <= len(octets) - 4
        found.append((octets[head - 1], octets[head : 4 + size]))
        octets = octets[4 + size :]
    return found


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def talk(server: Server, octets: bytes) -> bytes:
    """Everything that a server says to these octets and the end of the stream after them."""
    with connect(server) as sock:
        try:
            sock.sendall(octets)
            sock.shutdown(socket.SHUT_WR)
        except (ConnectionResetError, BrokenPipeError):  # it had enough before the end
            pass
        try:
            return read_all(sock)
        except ConnectionResetError:
            return b""


def local_corpus() -> Corpus:
    secret = craft.SharedSecret("device", b"secret", iterations=200)
    requests, keys = corpus.first_messages([secret], Env())
    messages = [(request.der, request.protector) for request in requests]
    messages += [(path.read_bytes(), None) for path in corpus.VECTORS]
    return Corpus(messages, keys, [])


def test_spoilt_messages_over_tcp_are_answered_one_by_one_and_nothing_leaks(installation: Installation) -> None:
    rng = random.Random(2510)
    source = local_corpus()
    with installation.serving() as server:
        sizes = []
        for part in range(4):
            if part == 1:  # the first part is the warm-up: imports, caches, the allocator's arenas
                open_files = descriptors(server)
            for _ in range(OVER_TCP // 4 // 25):
                burst = [octets for octets in (spoil(rng, source) for _ in range(25)) if octets]
                answers = frames(talk(server, b"".join(map(tcpmsg.pki_req, burst))))
                assert len(answers) == len(burst)
                for kind, value in answers:
                    if kind == 5:
                        read(value)
                    else:
                        assert (kind, value) == (3, b"\0")  # finRep: an announcement
            sizes.append(resident(server))
        enrols(server)
        assert sizes[-1] - sizes[0] < 20_000, sizes
        assert descriptors(server) <= open_files + 2
        assert "Traceback" not in server.log_text()
        assert "unforeseen" not in server.log_text()
        assert server.terminate() == 0


def test_spoilt_frames_are_answered_or_their_connection_is_closed(installation: Installation) -> None:
    rng = random.Random(10)
    octets = local_corpus().messages[0][0]
    whole = tcpmsg.pki_req(octets)
    with installation.serving() as server:
        for i in range(300):
            changed = bytearray(whole if i % 2 else whole + whole)
            for _ in range(rng.choice((1, 1, 2))):
                at = rng.randrange(8)
                changed[at] = rng.choice((changed[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 0xFF))
            said = talk(server, bytes(changed))  # returns at all: the server has closed after its answers
            assert {kind for kind, _ in frames(said)} <= {3, 5, 6}
        enrols(server)
        assert "Traceback" not in server.log_text()


def enrols(server: Server) -> None:
    """Somebody honest still gets a certificate."""
    secret = craft.SharedSecret("device", b"secret", iterations=200)
    requests, _ = corpus.first_messages([secret], Env())
    ((kind, value),) = frames(talk(server, tcpmsg.pki_req(requests[0].der)))
    assert kind == 5
    assert decode(value).body_name == "ip"
    assert b"a.example" in value
