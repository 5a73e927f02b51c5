"""The process is killed at every step of an enrolment, and started again on the same database.

Whatever the step: no certificate without a record, no record doubled, no signature that left without being recorded;
the client's repeated request is answered in full, and the same octets are the answer from then on. The servers come
from crashing.py; what they left behind is read from the database with SQL.
"""

import asyncio
import signal
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.keys import PrivateKey, public_key_info
from cmpd.client.messages import Request, Template, cert_request, certification_request, p10_request
from cmpd.client.responses import Trust, verify
from cmpd.config import load
from cmpd.message import decode
from cmpd.records import Entity, EntityKind
from cmpd.store import open_store
from cmpd.store.sealing import Sealer
from cmpd.wire import tcpmsg
from tests import chains
from tests.end_to_end.asking import (
    ENV,
    answers_in,
    ask,
    ask_each,
    certificates_in,
    confirmation,
    enrol,
    new_key,
    trust_in,
    until_the_end,
)
from tests.end_to_end.crashing import CLAIMED, RECORDED, RECOVERY, UNTOUCHED
from tests.end_to_end.forked import Server, Site, made

# --- what is tried ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolling:
    """One way to ask for `count` certificates. `by`: "holder" has a certificate of this CA, the others are registered
    for that many uses.
    """

    body: str
    by: str
    count: int = 1
    implicit: bool = False


ENROLLING = {
    "ir by secret": Enrolling("ir", "secret"),
    "ir by certificate": Enrolling("ir", "certificate", implicit=True),
    "kur": Enrolling("kur", "holder"),
    "p10cr": Enrolling("p10cr", "secret", implicit=True),
    "three in one ir": Enrolling("ir", "secret", count=3),
}

STEPS = [
    (name, point, occurrence)
    for name, way in ENROLLING.items()
    for point in (*UNTOUCHED, *CLAIMED, *RECORDED)
    for occurrence in (range(1, way.count + 1) if point.endswith("sign") else (1,))
]

CONFIRMING = [  # the second unit with an answer, and the second answer, are those of certConf
    (outcome, point) for outcome in ("accepted", "rejected") for point in ("before finish", "inside finish", *RECORDED)
]

REFUSING = ("before finish", "inside finish", *RECORDED)

CROWD = [
    ("inside claim", 1),
    ("after claim", 3),
    ("after sign", 7),
    ("inside finish", 1),
    ("after finish", 5),
    ("within answer", 6),
    ("after answer", 11),
]
IN_CROWD = 24


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with made(tmp_path_factory.mktemp("crash") / "ca") as site:
        site.configure("\n[[tcp]]\n", '\n[[tcp]]\nmode = "lenient"\n')  # several requests in one message
        yield site
        check_records(site)


@pytest.fixture(scope="module")
def credentials(site: Site) -> dict[str, Credential]:
    """One entity for each case, so that its uses can be counted; and "holder", who has a certificate of this CA."""
    credentials = asyncio.run(register(site))
    with site.serving() as server:
        credentials["holder"] = enrol(server.port, credentials["holder"], trust_in(site.anchor), "/CN=holder")
    return credentials


@pytest.fixture(scope="module")
def trust(site: Site) -> Trust:
    return trust_in(site.anchor)


async def register(site: Site) -> dict[str, Credential]:
    credentials: dict[str, Credential] = {}
    config = load(site.config)
    sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase(), ENV)
    store = await open_store(config.store.path, serving=False)
    now = int(ENV.now())
    maker = chains.issue(None, "maker", not_before=now - 60, not_after=now + 86400)

    async def secret(reference: str, uses: int = 1) -> None:
        octets = ENV.random(16)
        sealed = sealer.seal(octets, reference)
        await store.add_entity(Entity(0, reference, EntityKind.SECRET, uses_left=uses, sealed_secret=sealed))
        credentials[reference] = SharedSecret(reference, octets, iterations=500)

    async def certificate(reference: str, uses: int) -> None:
        node = chains.leaf(maker, reference, not_before=now - 60, not_after=now + 86400)
        await store.add_entity(Entity(0, reference, EntityKind.CERTIFICATE, uses_left=uses, certificate=node.der))
        credentials[reference] = KeyAndCertificate(node.key, Certificate.load(node.der))

    for name, point, occurrence in [*STEPS, ("ir by secret", RECOVERY, 1)]:
        way = {"secret": secret, "certificate": certificate}.get(ENROLLING[name].by)
        if way is not None:
            await way(reference_of(name, point, occurrence), ENROLLING[name].count)
    for outcome, point in CONFIRMING:
        await secret(reference_of(outcome, point))
    for point in REFUSING:
        await secret(reference_of("refused", point))
    for point, occurrence in CROWD:
        await secret(reference_of("crowd", point, occurrence), IN_CROWD)
    await secret("holder")
    await store.close()
    return credentials


def reference_of(*parts: object) -> str:
    return " ".join(map(str, parts))


# --- the client ------------------------------------------------------------------------------------------------------


def send_until_the_end(server: Server, *requests: bytes) -> bytes:
    """Send requests and read until the server is gone: every octet that has left it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"".join(map(tcpmsg.pki_req, requests)))
        return until_the_end(sock)


def request_for(way: Enrolling, credential: Credential) -> tuple[Request, list[PrivateKey]]:
    keys: list[PrivateKey] = [new_key() for _ in range(way.count)]
    subject = encode_name("/CN=holder" if way.by == "holder" else "/O=Test/CN=device")
    if way.body == "p10cr":
        csr = certification_request(Template(keys[0], subject))
        return p10_request(csr, credential, ENV, implicit_confirm=way.implicit), keys
    templates = [Template(key, subject, cert_req_id=number) for number, key in enumerate(keys)]
    return cert_request(way.body, templates, credential, ENV, implicit_confirm=way.implicit), keys


# --- what the database says -------------------------------------------------------------------------------------------


def query(site: Site, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Look into the database without changing anything in it."""
    with closing(sqlite3.connect(f"{site.database.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(sql, values).fetchall()


def rows_of(site: Site, keys: Sequence[PrivateKey]) -> list[tuple[str, bytes | None]]:
    """(state, DER) of everything that was ever recorded for these keys."""
    found = []
    for key in keys:
        key_id = sha256(public_key_info(key)).digest()
        found += query(site, "SELECT state, der FROM certificate WHERE key_id = ? ORDER BY serial", key_id)
    return found


def uses_left(site: Site, reference: str) -> int | None:
    [(uses,)] = query(site, "SELECT uses_left FROM entity WHERE reference = ?", reference)
    return uses


def transaction_state(site: Site, request: Request) -> list[str]:
    return [state for (state,) in query(site, "SELECT state FROM cmp_transaction WHERE id = ?", request.transaction_id)]


def check_records(site: Site) -> None:
    """What must hold of all records whenever a server serves and no request is being worked on."""
    [root] = trust_in(site.anchor).anchors
    assert query(site, "SELECT count(*) FROM cmp_transaction WHERE state = 'processing'") == [(0,)]
    rows = query(
        site,
        "SELECT c.serial, c.state, c.der, c.tbs, c.key_id, t.state, group_concat(hex(r.response), ' ')"
        " FROM certificate c LEFT JOIN cmp_transaction t ON t.row = c.transaction_row"
        " LEFT JOIN response r ON r.transaction_row = t.row GROUP BY c.serial",
    )
    assert len({serial for serial, *_ in rows}) == len(rows)
    valid: list[bytes] = []
    for serial, state, octets, tbs, key_id, transaction, answers in rows:
        if state == "abandoned":
            assert octets is None
            assert transaction in (None, "ended")  # ended: it was refused, and the refusal is kept
            continue
        assert (state, transaction) in {("issued", "confirming"), ("confirmed", "ended"), ("revoked", "ended")}
        assert tbs is None
        certificate = x509.load_der_x509_certificate(octets)
        certificate.verify_directly_issued_by(root.parsed)
        assert certificate.serial_number == int.from_bytes(serial, "big")
        info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert key_id == sha256(info).digest()
        assert octets.hex().upper() in answers  # no certificate without an answer that gives it to its owner
        valid.append(key_id)
    assert len(set(valid)) == len(valid)  # no record doubled: each key of these tests is asked for once


def check_signatures(site: Site, received: bytes) -> None:
    """A signature that was made is in a record, or it never left."""
    recorded = [octets for (octets,) in query(site, "SELECT der FROM certificate WHERE der IS NOT NULL")]
    for line in site.journal.read_text().splitlines() if site.journal.exists() else ():
        signature = bytes.fromhex(line)
        if not any(octets.endswith(signature) for octets in recorded):
            assert signature not in received
            assert signature[-20:] not in received


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "point", "occurrence"), STEPS)
def test_a_certificate_request_survives_the_end_of_the_process_at_every_step(
    site: Site, credentials: dict[str, Credential], trust: Trust, name: str, point: str, occurrence: int
) -> None:
    way = ENROLLING[name]
    reference = "holder" if way.by == "holder" else reference_of(name, point, occurrence)
    credential = credentials[reference]
    request, keys = request_for(way, credential)
    with site.dying(point, occurrence) as server:
        received = send_until_the_end(server, request.der)

    # as it was left: what is not recorded has not left, what has left is recorded
    check_signatures(site, received)
    left = rows_of(site, keys)
    assert bool(received) is (point in ("within answer", "after answer"))
    state = "confirmed" if way.implicit else "issued"
    wanted = [] if point in UNTOUCHED else ["intended" if point in CLAIMED else state] * way.count
    assert [state for state, _ in left] == wanted
    assert all((octets is None) is (state == "intended") for state, octets in left)
    answers = answers_in(received)
    assert len(answers) == (point == "after answer")
    assert way.by == "holder" or uses_left(site, reference) == (way.count if point in UNTOUCHED else 0)

    with site.serving() as server:
        # started again: what was intended is abandoned and its use given back
        check_records(site)
        wanted = ["abandoned" if state == "intended" else state for state in wanted]
        assert [state for state, _ in rows_of(site, keys)] == wanted
        ended = [] if point not in RECORDED else ["ended" if way.implicit else "confirming"]
        assert transaction_state(site, request) == ended
        assert way.by == "holder" or uses_left(site, reference) == (0 if point in RECORDED else way.count)

        # the client repeats its request: one certificate for each key, and the same octets from then on
        answer = ask(server.port, request.der, request.der, *[request.der] * len(answers))
        assert answers in ([], [answer])
        issued = certificates_in(answer, request, credential, trust)
        assert [one.public_key_info for one in issued.values()] == [public_key_info(key) for key in keys]
        rows = [row for row in rows_of(site, keys) if row[0] != "abandoned"]
        assert rows == [(state, one.der) for one in issued.values()]
        assert way.by == "holder" or uses_left(site, reference) == 0
        if not way.implicit:
            confirm = confirmation(request, answer, issued)
            confirmed = verify(ask(server.port, confirm.der, confirm.der), confirm, credential, trust, ENV)
            assert confirmed.envelope.body_name == "pkiconf"
            assert {state for state, _ in rows_of(site, keys)} <= {"confirmed", "abandoned"}
        assert transaction_state(site, request) == ["ended"]
        check_records(site)


@pytest.mark.parametrize(("outcome", "point"), CONFIRMING)
def test_a_certconf_survives_the_end_of_the_process_at_every_step(
    site: Site, credentials: dict[str, Credential], trust: Trust, outcome: str, point: str
) -> None:
    reference = reference_of(outcome, point)
    credential = credentials[reference]
    request, keys = request_for(ENROLLING["ir by secret"], credential)
    with site.dying(point, 2) as server:
        answer = ask(server.port, request.der)
        issued = certificates_in(answer, request, credential, trust)
        confirm = confirmation(request, answer, issued, "not wanted" if outcome == "rejected" else None)
        received = send_until_the_end(server, confirm.der)
    assert bool(received) is (point in ("within answer", "after answer"))
    decided = "confirmed" if outcome == "accepted" else "revoked"
    wanted = decided if point in RECORDED else "issued"
    [(state, octets)] = rows_of(site, keys)
    assert (state, octets) == (wanted, issued[0].der)

    with site.serving() as server:
        check_records(site)
        assert [state for state, _ in rows_of(site, keys)] == [wanted]
        repeated = ask(server.port, confirm.der, confirm.der)
        assert answers_in(received) in ([], [repeated])
        assert verify(repeated, confirm, credential, trust, ENV).envelope.body_name == "pkiconf"
        assert rows_of(site, keys) == [(decided, octets)]
        assert uses_left(site, reference) == 0  # of a rejected certificate too: it was issued
        assert ask(server.port, request.der) == answer
        check_records(site)


@pytest.mark.parametrize("point", REFUSING)
def test_a_claim_that_is_taken_back_survives_the_end_of_the_process_at_every_step(
    site: Site, credentials: dict[str, Credential], trust: Trust, point: str
) -> None:
    """The CA key does not sign: what was claimed is given up, and the refusal is an answer like others."""
    reference = reference_of("refused", point)
    credential = credentials[reference]
    request, keys = request_for(ENROLLING["ir by secret"], credential)
    with site.dying(point, broken=True) as server:
        received = send_until_the_end(server, request.der)
    refused = point in RECORDED
    assert bool(received) is (point in ("within answer", "after answer"))
    assert rows_of(site, keys) == [("abandoned" if refused else "intended", None)]
    assert uses_left(site, reference) == int(refused)
    with site.serving() as server:
        check_records(site)
        assert rows_of(site, keys) == [("abandoned", None)]
        assert uses_left(site, reference) == 1
        answer = ask(server.port, request.der, request.der)
        assert answers_in(received) in ([], [answer])
        states = [state for state, _ in rows_of(site, keys)]
        assert (decode(answer).body_name, states) in {
            True: [("error", ["abandoned"]), ("ip", ["abandoned"])],
            False: [("ip", ["abandoned", "issued"])],
        }[refused]
        assert uses_left(site, reference) == int(refused)
        if refused:  # in a new transaction it is granted
            request, keys = request_for(ENROLLING["ir by certificate"], credential)
            answer = ask(server.port, request.der)
            assert uses_left(site, reference) == 0
        assert len(certificates_in(answer, request, credential, trust)) == 1
        check_records(site)


@pytest.mark.parametrize(("point", "occurrence"), CROWD)
def test_many_requests_at_once_survive_the_end_of_the_process(
    site: Site, credentials: dict[str, Credential], trust: Trust, point: str, occurrence: int
) -> None:
    """Units share commits here, and some requests are further than others when the process ends."""
    reference = reference_of("crowd", point, occurrence)
    credential = credentials[reference]
    way = Enrolling("ir", "secret", implicit=True)
    asked = [request_for(way, credential) for _ in range(IN_CROWD)]
    requests = [request.der for request, _ in asked]
    with site.dying(point, occurrence) as server:
        received = send_until_the_end(server, *requests)
    check_signatures(site, received)
    answers = answers_in(received)
    assert len(answers) == {"within answer": occurrence - 1, "after answer": occurrence}.get(point, len(answers))
    keys = [key for _, [key] in asked]
    recorded = [octets for state, octets in rows_of(site, keys) if state == "confirmed"]
    with site.serving() as server:
        check_records(site)
        assert uses_left(site, reference) == IN_CROWD - len(recorded)
        final = ask_each(server.port, requests)
        assert final[: len(answers)] == answers
        for octets, (request, [key]) in zip(final, asked, strict=True):
            [one] = certificates_in(octets, request, credential, trust).values()
            assert [row for row in rows_of(site, [key]) if row[0] != "abandoned"] == [("confirmed", one.der)]
        assert uses_left(site, reference) == 0
        assert set(recorded) <= {octets for _, octets in rows_of(site, keys)}
        check_records(site)


def test_the_end_of_the_process_during_recovery_changes_nothing(
    site: Site, credentials: dict[str, Credential], trust: Trust
) -> None:
    reference = reference_of("ir by secret", RECOVERY, 1)
    credential = credentials[reference]
    request, keys = request_for(ENROLLING["ir by secret"], credential)
    with site.dying("after sign") as server:
        send_until_the_end(server, request.der)
    for _ in range(2):
        assert site.start(RECOVERY).wait() == -signal.SIGKILL
        assert [state for state, _ in rows_of(site, keys)] == ["intended"]
        assert uses_left(site, reference) == 0
    with site.serving() as server:
        assert [state for state, _ in rows_of(site, keys)] == ["abandoned"]
        assert uses_left(site, reference) == 1
        assert len(certificates_in(ask(server.port, request.der, request.der), request, credential, trust)) == 1
        check_records(site)
