"""Peers that want to be expensive: slow, silent, greedy, or with parameters at their limits.

All of it against a real server; what is asked each time is whether somebody honest is still served. The bounds of time
are wide, for busy machines: what they must tell apart is "at once" from "after everything before it".
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.keys import public_key_info
from cmpd.config_status import RevocationConfig
from cmpd.env import Env
from cmpd.message import decode
from cmpd.wire import tcpmsg
from tests import chains
from tests.hostile import corpus, craft
from tests.hostile.test_bodies import ECDSA, Ask
from tests.hostile.test_mutations import connect, descriptors, frames, read_all, resident, talk
from tests.hostile.test_protection import pbm, pbmac1
from tests.support import Installation, Server
from tests.world import World, raw_details, rev_details

PROMPT = 8.0
"""Seconds in which somebody honest must be served, however busy the machine."""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.make(tmp_path_factory.mktemp("greedy"))
    made.add_secret("device", "secret", "--uses", "unlimited")
    made.configure('#partial_frame_timeout = "30s"', 'partial_frame_timeout = "3s"')
    made.configure('#send_timeout = "1m"', 'send_timeout = "3s"')
    return made


@pytest.fixture(scope="module")
def other_installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.make(tmp_path_factory.mktemp("costly"))
    made.add_secret("device", "secret", "--uses", "unlimited")
    return made


@pytest.fixture(scope="module")
def server(installation: Installation) -> Iterator[Server]:
    """One for all tests of this file: what one of them leaves behind, the next ones see."""
    with installation.serving() as running:
        honest(running)
        yield running
        assert honest(running) < PROMPT
        assert "Traceback" not in running.log_text()
        assert "unforeseen" not in running.log_text()


def honest_request(iterations: int = 500) -> bytes:
    secret = craft.SharedSecret("device", b"secret", iterations=iterations)
    return tcpmsg.pki_req(corpus.first_messages([secret], Env())[0][0].der)


def honest(server: Server, iterations: int = 500) -> float:
    """Enrol; returns the seconds that it took."""
    request = honest_request(iterations)
    begin = time.monotonic()
    ((kind, value),) = frames(talk(server, request))
    assert kind == 5
    assert decode(value).body_name == "ip", value
    assert public_key_of(request) in value
    return time.monotonic() - begin


def public_key_of(request: bytes) -> bytes:
    """DER of the BIT STRING with the first public key in a request."""
    at = request.index(der.encode_oid("1.2.840.10045.2.1"))
    return request[request.index(b"\x03\x42\0\x04", at) :][:68]


def draft(iterations: int = 200) -> tuple[craft.Draft, object]:
    secret = craft.SharedSecret("device", b"secret", iterations=iterations)
    request = corpus.first_messages([secret], Env())[0][0]
    return craft.Draft.of(request.der), request.protector


# --- slow and silent -------------------------------------------------------------------------------------------------


def test_a_request_of_one_octet_at_a_time_is_answered(server: Server) -> None:
    octets = honest_request()
    with connect(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(octets)):
            sock.sendall(octets[i : i + 1])
        sock.shutdown(socket.SHUT_WR)
        ((kind, _),) = frames(read_all(sock))
    assert kind == 5


def test_half_frames_and_silence_are_cut_and_disturb_nobody(server: Server) -> None:
    octets = honest_request()
    before = descriptors(server)
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(server)) for _ in range(300)]
        for i, sock in enumerate(socks):
            sock.sendall(octets[: i % len(octets)])
        assert honest(server) < PROMPT
        for i, sock in enumerate(socks):
            if i:  # a frame had begun: partial_frame_timeout is 3 seconds
                sock.settimeout(20)
                with suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
    wait_for(lambda: descriptors(server) <= before + 2)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_peer_that_never_reads_is_dropped_and_its_answers_do_not_pile_up(server: Server) -> None:
    before = resident(server)
    echoed = der.tlv(0x81, b"a" * 8000)  # an answer goes to the sender of its request, so it is as large
    octets = tcpmsg.pki_req(craft.assemble(draft()[0].put("sender", echoed).part, bytes(32)))
    with ExitStack() as stack:
        socks = []
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((server.host, server.port))
            sock.setblocking(False)
            socks.append(sock)
        unsent = dict.fromkeys(socks, b"")
        wait_for(lambda: [stuff(sock, octets, unsent) for sock in socks] == [True] * 4)  # all of them, each time
        assert honest(server) < PROMPT
        assert resident(server) - before < 30_000
    server.wait_for_log("octets unread")


def stuff(sock: socket.socket, octets: bytes, unsent: dict[socket.socket, bytes]) -> bool:
    """Send as much as goes; whether the server has cut the connection."""
    try:
        while True:
            rest = unsent[sock] or octets
            unsent[sock] = rest[sock.send(rest) :]
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_many_connections_that_come_and_go_leave_nothing(server: Server) -> None:
    honest(server)
    before = descriptors(server)
    for _ in range(3):
        with ExitStack() as stack:
            socks = [stack.enter_context(connect(server)) for _ in range(300)]
            for sock in socks[::2]:
                sock.sendall(honest_request()[:100])
            assert honest(server) < PROMPT
    wait_for(lambda: descriptors(server) <= before + 1)


# --- large and odd messages -------------------------------------------------------------------------------------------


def nested(levels: int, value: bytes = b"") -> bytes:
    for _ in range(levels):
        value = der.seq(value)
    return value


LIMIT = 255_000
BODIES = {
    "wide": der.seq(b"\x01\x01\xff" * (LIMIT // 3)),
    "empty values": der.seq(b"\x05\0" * (LIMIT // 2)),
    "deep": nested(20_000),
    "deep and wide": der.seq(nested(29) * (LIMIT // 60)),
    "names": der.seq(der.encode_oid("2.5.4.3") * (LIMIT // 5)),
    "long arcs": der.seq((b"\x06\x40" + b"\x81" * 63 + b"\x01") * (LIMIT // 66)),
    "integers": der.seq(der.encode_integer(2**200_000) + der.encode_integer(-(2**400_000))),
    "one text": der.seq(der.encode_utf8("\N{EURO SIGN}" * (LIMIT // 3))),
    "end of contents": der.seq(b"\0\0" * (LIMIT // 2)),
    "64 KiB": der.seq(b"\x30\0" * 32_000),
}


@pytest.mark.parametrize("name", BODIES)
def test_messages_up_to_the_limit_are_answered_while_others_are_served(server: Server, name: str) -> None:
    made, _ = draft()
    octets = tcpmsg.pki_req(craft.assemble(made.content(BODIES[name]).part, bytes(32)))
    assert len(octets) < 262_144
    with connect(server) as sock:
        sock.sendall(octets * 8)
        sock.shutdown(socket.SHUT_WR)
        assert honest(server) < PROMPT
        answers = frames(read_all(sock))
    assert [kind for kind, _ in answers] == [5] * 8
    assert all(decode(value).body_name == "error" for _, value in answers)


def test_a_message_over_the_limit_is_refused_before_it_is_read(server: Server) -> None:
    before = resident(server)
    for size in (262_145, 2**24, 2**31, 2**32 - 1):
        said = talk(server, size.to_bytes(4, "big") + b"\x0a\0\0" + bytes(1000))
        ((kind, value),) = frames(said)
        assert (kind, value[:2]) == (6, b"\x02\0")
    assert resident(server) - before < 5_000


def test_what_is_remembered_of_junk_is_bounded(server: Server) -> None:
    """Caches in front of the verification are filled by anybody: they must not add up to much."""
    made, _ = draft()
    before = resident(server)
    for batch in range(50):
        burst = []
        for i in range(100):
            unique = (batch * 100 + i).to_bytes(2, "big").hex().encode()
            changed = made.put("sender", der.tlv(0x81, unique * 2000)).put("recipient", der.tlv(0x86, unique * 2000))
            junk = der.seq(der.encode_octets(unique * 1900))
            octets = craft.assemble(changed.drop("senderKID").part, bytes(32), [junk])
            burst.append(tcpmsg.pki_req(octets))
        assert len(frames(talk(server, b"".join(burst)))) == 100
    assert resident(server) - before < 25_000


async def cost(world: World, octets: bytes) -> tuple[float, craft.Seen]:
    """CPU seconds of one answer, and the answer."""
    begin = time.process_time()
    answer = await world.respond(octets)
    used = time.process_time() - begin
    assert answer is not None
    seen = await craft.answer(world, octets)
    return used, seen


async def test_thirty_two_extracerts_cost_little_and_help_nobody() -> None:
    world = World()
    made, protector = craft.request(world, await craft.client(world, "signature"))
    key = ec.generate_private_key(ec.SECP256R1())
    same = [chains.issue(None, "device", key=key).der for _ in range(32)]  # each could have issued each
    used, seen = await cost(world, craft.assemble(made.part, bytes(70), same))
    assert seen.status()[2] <= {"signerNotTrusted", "badMessageCheck"}
    assert used < 2
    own = (*protector.extra_certs, *same[:16])
    seen = await craft.answer(world, made.seal(replace(protector, extra_certs=own)))
    assert seen.status()[0] == 0


@pytest.mark.parametrize("count", [17, 1000])
async def test_too_many_requests_in_a_message_are_rejected_at_once(count: int) -> None:
    world = World()
    made, protector = craft.request(world, await craft.client(world, "mac"))
    ask = Ask(ec.generate_private_key(ec.SECP256R1()), popo=b"\x80\0")
    messages = [replace(ask, cert_req_id=der.encode_integer(i)).message for i in range(count)]
    used, seen = await cost(world, made.content(der.seq(*messages)).seal(protector))
    assert (seen.body, seen.status()[0]) == ("ip", 2)
    assert used < 2
    assert await craft.issued(world) == 0


@pytest.mark.parametrize("allowed", [64, 1000])
async def test_a_thousand_revdetails_are_judged_or_refused_at_once(allowed: int) -> None:
    world = World(revocation=RevocationConfig(max_per_message=allowed))
    _, made, protector = await craft.asking(world, "rr by mac")
    foreign = (await world.holder(await world.add_secret("other", b"another"))).certificate
    named = der.explicit(3, foreign.issuer)
    details = [raw_details(der.tlv(0x81, der.encode_integer(2**100 + i)[2:]) + named) for i in range(999)]
    octets = made.content(der.seq(*details, rev_details(foreign, 1))).seal(protector)
    before = craft.held(world)
    used, seen = await cost(world, octets)
    told = ["badRequest"] if allowed == 64 else ["badCertId"] * 999 + ["notAuthorized"]
    assert seen.outcomes() == told
    assert used < 2
    assert craft.held(world) == before


@pytest.mark.parametrize("where", ["sender", "subject"])
async def test_a_name_of_a_thousand_attributes_is_refused_at_once(where: str) -> None:
    world = World()
    made, protector = craft.request(world, await craft.client(world, "mac"))
    name = der.seq(*[craft.contents(encode_name(f"/CN={i}")) for i in range(1000)])
    if where == "sender":
        octets = made.put("sender", der.explicit(4, name)).drop("senderKID").seal(protector)
    else:
        ask = Ask(ec.generate_private_key(ec.SECP256R1())).field(5, der.explicit(5, name))
        octets = made.content(der.seq(ask.message)).seal(protector)
    used, seen = await cost(world, octets)
    assert seen.status()[0] == 2
    assert used < 2


def odd_rsa_key(bits: int, exponent_bits: int) -> rsa.RSAPrivateKey:
    """A key whose public exponent is as large as asked for."""
    numbers = rsa.generate_private_key(65537, bits).private_numbers()
    p, q = numbers.p, numbers.q
    e = (1 << exponent_bits - 1) | 1
    while True:
        try:
            d = pow(e, -1, (p - 1) * (q - 1))
            break
        except ValueError:
            e += 2
    public = rsa.RSAPublicNumbers(e, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


@pytest.mark.parametrize("exponent_bits", [300, 2000])
async def test_an_rsa_key_with_a_huge_exponent_is_refused(exponent_bits: int) -> None:
    """Each use of it costs as much as a private key's; what this CA would not verify with, it must not certify."""
    world = World()
    made, protector = craft.request(world, await craft.client(world, "mac"))
    key = odd_rsa_key(2048, exponent_bits)
    info = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    request = der.seq(b"\x02\x01\0", der.seq(der.explicit(5, encode_name("/CN=device")), b"\xa6" + info[1:]))
    algorithm = der.seq(der.encode_oid("1.2.840.113549.1.1.11"), der.NULL_TLV)
    signature = key.sign(request, padding.PKCS1v15(), hashes.SHA256())
    message = der.seq(request, der.tlv(0xA1, algorithm + der.encode_bits(signature)))
    seen = await craft.answer(world, made.content(der.seq(message)).seal(protector))
    assert (seen.body, seen.status()[2]) == ("ip", {"badAlg"})
    assert await craft.issued(world) == 0


# --- costly protection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "copies"), [(pbm(count=100_000), 384), (pbmac1(count=1_000_000), 48)], ids=["PBM", "PBKDF2"]
)
@pytest.mark.parametrize("iterations", [500, 10_000], ids=["cheap client", "usual client"])
def test_derivations_at_the_limit_do_not_keep_others_waiting(
    other_installation: Installation, algorithm: bytes, copies: int, iterations: int
) -> None:
    """Nobody has shown a secret, and yet a key has to be derived: that must not be all that the server does."""
    made, _ = draft()
    messages = []
    for i in range(copies):
        changed = made.set("protectionAlg", algorithm).set("transactionID", der.encode_octets(i.to_bytes(16, "big")))
        messages.append(tcpmsg.pki_req(craft.assemble(changed.part, bytes(32))))
    with other_installation.serving() as server, ExitStack() as stack:
        for i in range(12):  # of which each may have 32 in flight
            sock = stack.enter_context(connect(server))
            sock.sendall(b"".join(messages[i::12]))
        time.sleep(0.2)
        try:
            waited = honest(server, iterations)
        finally:
            server.kill()  # or it would work off what is queued
    assert waited < PROMPT


def test_the_pop_and_keys_of_a_request_are_of_the_kinds_that_this_file_means() -> None:
    """Guards the helpers: a request made of the same pieces, with nothing odd in them, is granted."""
    assert ECDSA in Ask(ec.generate_private_key(ec.SECP256R1())).message
    key = odd_rsa_key(2048, 65)
    assert key.public_key().public_numbers().e.bit_length() == 65
    assert public_key_info(key)
    assert Path("/proc/self/status").exists()
