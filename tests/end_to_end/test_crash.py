"""The process is killed at every step of an enrolment, and started again on the same database.

Whatever the step: no certificate without a record, no record doubled, no signature that left without being recorded;
the client's repeated request is answered in full, and the same octets are the answer from then on. The servers come
from crashing.py; what they left behind is read from the database with SQL.
"""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.connection import Connection, ConnectionLimits
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.keys import PrivateKey, public_key_info
from cmpd.client.messages import (
    Request,
    Template,
    cert_request,
    cert_status,
    certification_request,
    p10_request,
    protect,
)
from cmpd.client.responses import CertResponse, Trust, read_cert_rep, verify
from cmpd.config import load
from cmpd.env import Env
from cmpd.install import Plan, make_root
from cmpd.message import decode
from cmpd.records import Entity, EntityKind
from cmpd.signing import file as signing_file
from cmpd.store import open_store, sealing
from cmpd.store.sealing import Sealer
from cmpd.wire import tcpmsg
from tests import chains
from tests.end_to_end.crashing import CLAIMED, RECORDED, RECOVERY, SCRYPT_N, UNTOUCHED

ENV = Env()
ROOT = Path(__file__).parents[2]

# --- what is tried ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolling:
    """One way to ask. `by`: "secret" and "certificate" are registered for one use, "holder" has a certificate of ours."""

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

CROWD = [
    ("inside claim", 10),
    ("after claim", 1),
    ("after sign", 7),
    ("inside finish", 12),
    ("after finish", 5),
    ("within answer", 6),
    ("after answer", 11),
]
IN_CROWD = 24


# --- the site ---------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    port: int
    pid: int


@dataclass
class Site:
    """A CA in a directory, and the program that forks its servers."""

    directory: Path
    program: subprocess.Popen[str]
    starts: int = 0
    credentials: dict[str, Credential] = field(default_factory=dict)

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    @property
    def trust(self) -> Trust:
        return Trust(tuple(load_certificates(self.directory / "ca.pem")))

    def _start(self, point: str | None, occurrence: int) -> tuple[int, Path]:
        self.starts += 1
        log = self.directory / f"log.{self.starts}"
        order = {"config": str(self.directory / "cmpd.toml"), "log": str(log), "journal": str(self.journal)}
        assert self.program.stdin is not None
        self.program.stdin.write(json.dumps(order | {"point": point, "occurrence": occurrence}) + "\n")
        self.program.stdin.flush()
        return self._report()["pid"], log

    def _report(self) -> dict[str, int]:
        assert self.program.stdout is not None
        return json.loads(self.program.stdout.readline())  # type: ignore[no-any-return]

    @contextmanager
    def dying(self, point: str, occurrence: int = 1) -> Iterator[Server]:
        """A server that must have killed itself at the end of the block."""
        pid, log = self._start(point, occurrence)
        try:
            yield Server(port_in(log), pid)
        except BaseException:
            signal_to(pid, signal.SIGKILL)
            self._report()
            raise
        assert self._report() == {"exit": -signal.SIGKILL}
        assert "Traceback" not in log.read_text()

    def dies_at_start(self, point: str) -> None:
        self._start(point, 1)
        assert self._report() == {"exit": -signal.SIGKILL}

    @contextmanager
    def serving(self) -> Iterator[Server]:
        """A server as it is."""
        pid, log = self._start(None, 1)
        try:
            yield Server(port_in(log), pid)
        finally:
            signal_to(pid, signal.SIGTERM)
            ended = self._report()
        assert ended == {"exit": 0}, log.read_text()
        assert "Traceback" not in log.read_text()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Look into the database without changing anything in it."""
        with closing(sqlite3.connect(f"{(self.directory / 'cmpd.db').as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(sql, values).fetchall()


def signal_to(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def port_in(log: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        text = log.read_text() if log.exists() else ""
        if " ready " in text and text.endswith("\n"):
            return int(text.partition("listen=")[2].split()[0].rpartition(":")[2])
        time.sleep(0.002)
    raise AssertionError(f"no server: {log.read_text()}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("crash") / "ca"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing_file, "_ITERATIONS", 1000)
        patch.setitem(sealing.SCRYPT, "n", SCRYPT_N)
        make_root(Plan(directory, "127.0.0.1:0", "/O=Test/CN=Test CA"), ENV)
        command = [sys.executable, "-m", "tests.end_to_end.crashing"]
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            site = Site(directory, program)
            asyncio.run(register(site))
            with site.serving() as server:
                enrol_holder(site, server)
            yield site
            check_records(site)
        finally:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.close()
            program.stdout.close()
            program.wait(20)


async def register(site: Site) -> None:
    """One entity for each case, so that its uses can be counted."""
    config = load(site.directory / "cmpd.toml")
    sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase(), ENV)
    store = await open_store(config.store.path, serving=False)
    now = int(ENV.now())
    maker = chains.issue(None, "maker", not_before=now - 60, not_after=now + 86400)

    async def secret(reference: str, uses: int | None = 1) -> None:
        octets = ENV.random(16)
        sealed = sealer.seal(octets, reference)
        await store.add_entity(Entity(0, reference, EntityKind.SECRET, uses_left=uses, sealed_secret=sealed))
        site.credentials[reference] = SharedSecret(reference, octets, iterations=500)

    async def certificate(reference: str) -> None:
        node = chains.leaf(maker, reference, not_before=now - 60, not_after=now + 86400)
        await store.add_entity(Entity(0, reference, EntityKind.CERTIFICATE, uses_left=1, certificate=node.der))
        site.credentials[reference] = KeyAndCertificate(node.key, Certificate.load(node.der))

    for name, point, occurrence in [*STEPS, ("ir by secret", RECOVERY, 1)]:
        way = {"secret": secret, "certificate": certificate}.get(ENROLLING[name].by)
        if way is not None:
            await way(reference_of(name, point, occurrence))
    for outcome, point in CONFIRMING:
        await secret(reference_of(outcome, point))
    for point, occurrence in CROWD:
        await secret(reference_of("crowd", point, occurrence), IN_CROWD)
    await secret("holder")
    await store.close()


def reference_of(*parts: object) -> str:
    return " ".join(map(str, parts))


def enrol_holder(site: Site, server: Server) -> None:
    secret, key = site.credentials["holder"], new_key()
    request = cert_request("ir", [Template(key, encode_name("/CN=holder"))], secret, ENV)
    [one] = certificates_in(ask(server, request.der), request, secret, site)
    assert one.certificate is not None
    site.credentials["holder"] = KeyAndCertificate(key, one.certificate)


# --- the client -------------------------------------------------------------------------------------------------------


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def ask(server: Server, *requests: bytes) -> bytes:
    """The answer to a request, sent again and again; all answers must be the same."""
    [answer] = set(asyncio.run(ask_all(server, requests)))
    return answer


async def ask_all(server: Server, requests: Sequence[bytes]) -> list[bytes]:
    async with Connection("127.0.0.1", server.port, limits=ConnectionLimits(retries=0)) as connection:
        answers = [await connection.request(request) for request in requests]
    assert None not in answers
    return [answer for answer in answers if answer is not None]


def until_the_end(server: Server, *requests: bytes) -> bytes:
    """Send requests and read until the server is gone: every octet that has left it."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(b"".join(map(tcpmsg.pki_req, requests)))
        try:
            while octets := sock.recv(65536):
                received += octets
        except ConnectionResetError:
            pass
    return bytes(received)


def answers_in(octets: bytes) -> list[bytes]:
    """The whole answers among octets received."""
    decoder = tcpmsg.Decoder(1 << 20)
    decoder.feed(octets)
    answers = []
    while (frame := decoder.next()) is not None:
        assert isinstance(frame, tcpmsg.Frame)
        reply = tcpmsg.reply(frame)
        assert isinstance(reply, tcpmsg.PkiRep)
        answers.append(reply.der)
    return answers


def certificates_in(octets: bytes, request: Request, credential: Credential, site: Site) -> Sequence[CertResponse]:
    return read_cert_rep(verify(octets, request, credential, site.trust, ENV)).responses


def request_for(way: Enrolling, credential: Credential) -> tuple[Request, list[PrivateKey]]:
    keys: list[PrivateKey] = [new_key() for _ in range(way.count)]
    subject = credential.certificate.subject if way.by == "holder" else encode_name("/O=Test/CN=device")  # type: ignore[union-attr]
    if way.body == "p10cr":
        csr = certification_request(Template(keys[0], subject))
        return p10_request(csr, credential, ENV, implicit_confirm=way.implicit), keys
    templates = [Template(key, subject, cert_req_id=number) for number, key in enumerate(keys)]
    return cert_request(way.body, templates, credential, ENV, implicit_confirm=way.implicit), keys


def confirmation(request: Request, answer: bytes, issued: Sequence[CertResponse], reject: str | None = None) -> Request:
    statuses = [cert_status(one.certificate, one.cert_req_id, reject) for one in issued if one.certificate is not None]
    return protect(
        "certConf",
        der.seq(*statuses),
        request.protector,
        ENV,
        transaction_id=request.transaction_id,
        recip_nonce=decode(answer).header.sender_nonce,
    )


# --- what the database says -------------------------------------------------------------------------------------------


def rows_of(site: Site, keys: Sequence[PrivateKey]) -> list[tuple[str, bytes | None]]:
    """(state, DER) of everything that was ever recorded for these keys."""
    found = []
    for key in keys:
        key_id = sha256(public_key_info(key)).digest()
        found += site.query("SELECT state, der FROM certificate WHERE key_id = ? ORDER BY serial", key_id)
    return found


def uses_left(site: Site, reference: str) -> int | None:
    [(uses,)] = site.query("SELECT uses_left FROM entity WHERE reference = ?", reference)
    return uses  # type: ignore[no-any-return]


def transaction_state(site: Site, request: Request) -> list[str]:
    return [state for (state,) in site.query("SELECT state FROM cmp_transaction WHERE id = ?", request.transaction_id)]


def check_records(site: Site) -> None:
    """What must hold of all records whenever a server serves and no request is being worked on."""
    [root] = site.trust.anchors
    assert site.query("SELECT count(*) FROM cmp_transaction WHERE state = 'processing'") == [(0,)]
    rows = site.query(
        "SELECT c.serial, c.state, c.der, c.tbs, c.key_id, t.state, group_concat(hex(r.response), ' ')"
        " FROM certificate c LEFT JOIN cmp_transaction t ON t.row = c.transaction_row LEFT JOIN response r ON r.transaction_row = t.row"
        " GROUP BY c.serial"
    )
    assert len({serial for serial, *_ in rows}) == len(rows)
    valid: list[bytes] = []
    for serial, state, octets, tbs, key_id, transaction, answers in rows:
        if state == "abandoned":
            assert (octets, tbs, transaction) == (None, None, None)
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
    recorded = [octets for (octets,) in site.query("SELECT der FROM certificate WHERE der IS NOT NULL")]
    for line in site.journal.read_text().splitlines() if site.journal.exists() else ():
        signature = bytes.fromhex(line)
        if not any(octets.endswith(signature) for octets in recorded):
            assert signature not in received
            assert signature[-20:] not in received


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "point", "occurrence"), STEPS)
def test_a_certificate_request_survives_the_end_of_the_process_at_every_step(
    site: Site, name: str, point: str, occurrence: int
) -> None:
    way = ENROLLING[name]
    reference = "holder" if way.by == "holder" else reference_of(name, point, occurrence)
    credential = site.credentials[reference]
    request, keys = request_for(way, credential)
    with site.dying(point, occurrence) as server:
        received = until_the_end(server, request.der)

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
    given = 0 if point in UNTOUCHED else 1
    assert way.by == "holder" or uses_left(site, reference) == 1 - given

    with site.serving() as server:
        # started again: what was intended is abandoned and its use given back
        check_records(site)
        wanted = ["abandoned" if state == "intended" else state for state in wanted]
        assert [state for state, _ in rows_of(site, keys)] == wanted
        ended = [] if point not in RECORDED else ["ended" if way.implicit else "confirming"]
        assert transaction_state(site, request) == ended
        assert way.by == "holder" or uses_left(site, reference) == (0 if point in RECORDED else 1)

        # the client repeats its request: one certificate for each key, and the same octets from then on
        answer = ask(server, request.der, request.der, *[request.der] * len(answers))
        assert answers in ([], [answer])
        issued = certificates_in(answer, request, credential, site)
        assert [public_key_info(key) for key in keys] == [
            one.certificate.public_key_info for one in issued if one.certificate is not None
        ]
        rows = [row for row in rows_of(site, keys) if row[0] != "abandoned"]
        assert rows == [(state, one.certificate.der) for one in issued if one.certificate is not None]
        assert way.by == "holder" or uses_left(site, reference) == 0
        if not way.implicit:
            confirm = confirmation(request, answer, issued)
            confirmed = verify(ask(server, confirm.der, confirm.der), confirm, credential, site.trust, ENV)
            assert confirmed.envelope.body_name == "pkiconf"
            assert {state for state, _ in rows_of(site, keys)} <= {"confirmed", "abandoned"}
        assert transaction_state(site, request) == ["ended"]
        check_records(site)


@pytest.mark.parametrize(("outcome", "point"), CONFIRMING)
def test_a_certconf_survives_the_end_of_the_process_at_every_step(site: Site, outcome: str, point: str) -> None:
    reference = reference_of(outcome, point)
    credential = site.credentials[reference]
    request, keys = request_for(ENROLLING["ir by secret"], credential)
    with site.dying(point, 2) as server:
        answer = ask(server, request.der)
        issued = certificates_in(answer, request, credential, site)
        confirm = confirmation(request, answer, issued, "not wanted" if outcome == "rejected" else None)
        received = until_the_end(server, confirm.der)
    assert bool(received) is (point in ("within answer", "after answer"))
    decided = "confirmed" if outcome == "accepted" else "revoked"
    wanted = decided if point in RECORDED else "issued"
    [(state, octets)] = rows_of(site, keys)
    assert issued[0].certificate is not None
    assert (state, octets) == (wanted, issued[0].certificate.der)

    with site.serving() as server:
        check_records(site)
        assert [state for state, _ in rows_of(site, keys)] == [wanted]
        repeated = ask(server, confirm.der, confirm.der)
        assert answers_in(received) in ([], [repeated])
        assert verify(repeated, confirm, credential, site.trust, ENV).envelope.body_name == "pkiconf"
        assert rows_of(site, keys) == [(decided, octets)]
        assert uses_left(site, reference) == (0 if outcome == "accepted" else 1)
        assert ask(server, request.der) == answer
        check_records(site)


@pytest.mark.parametrize(("point", "occurrence"), CROWD)
def test_many_requests_at_once_survive_the_end_of_the_process(site: Site, point: str, occurrence: int) -> None:
    """Units share commits here, and some requests are further than others when the process ends."""
    reference = reference_of("crowd", point, occurrence)
    credential = site.credentials[reference]
    way = Enrolling("ir", "secret", implicit=True)
    asked = [request_for(way, credential) for _ in range(IN_CROWD)]
    requests = [request.der for request, _ in asked]
    with site.dying(point, occurrence) as server:
        received = until_the_end(server, *requests)
    check_signatures(site, received)
    answers = answers_in(received)
    assert len(answers) == {"within answer": occurrence - 1, "after answer": occurrence}.get(point, len(answers))
    keys = [key for _, [key] in asked]
    recorded = [octets for state, octets in rows_of(site, keys) if state == "confirmed"]
    with site.serving() as server:
        check_records(site)
        assert uses_left(site, reference) == IN_CROWD - len(recorded)
        final = asyncio.run(ask_all(server, requests))
        assert final[: len(answers)] == answers
        for octets, (request, [key]) in zip(final, asked, strict=True):
            [one] = certificates_in(octets, request, credential, site)
            assert one.certificate is not None
            assert [row for row in rows_of(site, [key]) if row[0] != "abandoned"] == [
                ("confirmed", one.certificate.der)
            ]
        assert uses_left(site, reference) == 0
        assert set(recorded) <= {octets for _, octets in rows_of(site, keys)}
        check_records(site)


def test_the_end_of_the_process_during_recovery_changes_nothing(site: Site) -> None:
    reference = reference_of("ir by secret", RECOVERY, 1)
    credential = site.credentials[reference]
    request, keys = request_for(ENROLLING["ir by secret"], credential)
    with site.dying("after sign") as server:
        until_the_end(server, request.der)
    for _ in range(2):
        site.dies_at_start(RECOVERY)
        assert [state for state, _ in rows_of(site, keys)] == ["intended"]
        assert uses_left(site, reference) == 0
    with site.serving() as server:
        assert [state for state, _ in rows_of(site, keys)] == ["abandoned"]
        assert uses_left(site, reference) == 1
        assert len(certificates_in(ask(server, request.der, request.der), request, credential, site)) == 1
        check_records(site)
