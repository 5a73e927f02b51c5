"""The process is killed at every step of a proof-of-possession that takes more than one message, or the server's key.

challengeResp: when the challenge is made, and when popdecr comes. encrCert: when the certificate is made, and when
certConf comes. agreeMAC: when the certificate is made. And at every step of two requests of which one alone may be
granted: the claim of the first is neither lost nor does it stand for ever. The servers come from crashing.py.
"""

import asyncio
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.cli.cmpd import main as cmpd
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.credentials import SharedSecret
from cmpd.client.keys import public_key_info
from cmpd.client.messages import Request, Template, cert_request, cert_status, encrypting_usage, protect
from cmpd.client.proofs import Proofs
from cmpd.client.responses import CertResponse, Trust, read_cert_rep, verify
from cmpd.config import load
from cmpd.message import decode
from cmpd.records import Entity, EntityKind
from cmpd.store import open_store
from cmpd.store.sealing import Sealer
from cmpd.wire import tcpmsg
from tests.end_to_end.asking import ENV, answers_in, ask, ask_each, new_key, send_until_the_end, trust_in, until_the_end
from tests.end_to_end.crashing import CLAIMED, FINISHING, RECORDED, UNTOUCHED
from tests.end_to_end.forked import Server, Site, made
from tests.pops import KEYS

ALL = (*UNTOUCHED, *CLAIMED, *RECORDED)
SENT = ("within answer", "after answer")
AT_ONCE = [(proof, point) for proof in ("encrCert", "agreeMAC") for point in ALL]
CONFIRMING = [(outcome, point) for outcome in ("accepted", "rejected") for point in FINISHING]
RIVALS = [(point, first) for point in ALL for first in (0, 1)]
"""Which of the two is the first to come again."""

PROFILE = """
[profile.single]
unique_subject = true
"""
SECRET = b"a secret of the tests"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with made(tmp_path_factory.mktemp("proofs") / "ca") as site:
        with redirect_stdout(StringIO()) as printed:
            assert cmpd(["key", "add", "agreement", "--type", "x25519", "--config", str(site.config)]) == 0
        site.configure("[cmp]\n", "[cmp]\n" + printed.getvalue())
        with site.config.open("a") as config:
            config.write(PROFILE)
        asyncio.run(register(site))
        yield site
        check_records(site)


@pytest.fixture(scope="module")
def trust(site: Site) -> Trust:
    return trust_in(site.anchor)


async def register(site: Site) -> None:
    """An entity for each case, or two, with one use each, so that uses can be counted."""
    config = load(site.config)
    sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase(), ENV)
    store = await open_store(config.store.path, serving=False)
    challenges = [(phase, point) for phase, points in (("popdecc", FINISHING), ("popdecr", ALL)) for point in points]
    cases = [*challenges, *AT_ONCE, *CONFIRMING]
    single = [(str(one), point, str(first)) for point, first in RIVALS for one in (0, 1)]
    for case in (*cases, *single):
        name = secret(*case).reference
        fields = {"profiles": ("single",) if len(case) == 3 else (), "sealed_secret": sealer.seal(SECRET, name)}
        await store.add_entity(Entity(0, name, EntityKind.SECRET, uses_left=1, **fields))
    await store.close()


def secret(*case: str) -> SharedSecret:
    return SharedSecret(" ".join(case), SECRET, iterations=500)


# --- the client -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Client:
    """Somebody with a request that can be sent again and again."""

    site: Site
    trust: Trust
    credential: SharedSecret
    template: Template
    request: Request

    @classmethod
    def of(cls, site: Site, trust: Trust, credential: SharedSecret, proof: str, **wish: Any) -> "Client":
        """`proof`: encrCert, challengeResp, agreeMAC or signature."""
        if proof == "signature":
            template = Template(new_key(), encode_name(wish["subject"]))
        else:
            key = KEYS["x25519"]()
            agreement = load_certificates(site.directory / "agreement.pem")[0] if proof == "agreeMAC" else None
            later = None if agreement else proof
            usage = (encrypting_usage(key),)
            template = Template(key, encode_name("/CN=device"), usage, proof=later, agreement=agreement)
        implicit = proof != "signature"
        request = cert_request("ir", [template], credential, ENV, implicit_confirm=implicit)
        return cls(site, trust, credential, template, request)

    def popdecr(self, popdecc: bytes) -> Request:
        answer = verify(popdecc, self.request, self.credential, self.trust, ENV)
        assert answer.envelope.body_name == "popdecc"
        return Proofs.of([self.template]).answer(self.request, answer, ENV)

    def cert_conf(self, answer: bytes, certificate: Certificate, reject: str | None = None) -> Request:
        header = decode(answer).header
        return protect(
            "certConf",
            der.seq(cert_status(certificate, 0, reject)),
            self.request.protector,
            ENV,
            transaction_id=self.request.transaction_id,
            recip_nonce=header.sender_nonce,
            pvno=header.pvno,
        )

    def response(self, answer: bytes, to: Request | None = None) -> CertResponse:
        """The one in a verified ip, decrypted."""
        found = verify(answer, to or self.request, self.credential, self.trust, ENV, original=self.request)
        [one] = Proofs.of([self.template]).decrypt(read_cert_rep(found)).responses
        return one

    def certificate(self, answer: bytes, to: Request | None = None) -> Certificate:
        """What was issued; on record as that, and alone for its key."""
        issued = self.response(answer, to).certificate
        assert issued is not None
        assert issued.public_key_info == public_key_info(self.template.key)
        assert [octets for _, octets in self.rows if octets is not None] == [issued.der]
        return issued

    @property
    def rows(self) -> list[tuple[str, bytes | None]]:
        """(state, DER) of everything that was ever recorded for the key."""
        key_id = sha256(public_key_info(self.template.key)).digest()
        return query(self.site, "SELECT state, der FROM certificate WHERE key_id = ? ORDER BY serial", key_id)

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.rows if state != "abandoned"]

    @property
    def transaction(self) -> str | None:
        found = query(self.site, "SELECT state FROM cmp_transaction WHERE id = ?", self.request.transaction_id)
        return found[0][0] if found else None

    @property
    def uses_left(self) -> int:
        [(uses,)] = query(self.site, "SELECT uses_left FROM entity WHERE reference = ?", self.credential.reference)
        return int(uses)


# --- what the database says -------------------------------------------------------------------------------------------


def query(site: Site, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{site.database.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(sql, values).fetchall()


def check_records(site: Site) -> None:
    """What must hold of all records whenever a server serves and no request is being worked on."""
    assert query(site, "SELECT count(*) FROM cmp_transaction WHERE state = 'processing'") == [(0,)]
    assert query(site, "SELECT count(*) FROM certificate WHERE state = 'intended'") == [(0,)]
    rows = query(
        site,
        "SELECT c.state, c.der, c.key_id, t.state, (SELECT count(*) FROM response r WHERE r.transaction_row = t.row)"
        " FROM certificate c LEFT JOIN cmp_transaction t ON t.row = c.transaction_row",
    )
    good = {("issued", "confirming"), ("issued", "proving"), ("confirmed", "ended"), ("revoked", "ended")}
    valid = []
    for state, octets, key_id, transaction, answers in rows:
        assert (octets is None) is (state == "abandoned")
        if octets is not None:
            assert (state, transaction) in good
            assert answers  # its owner gets it by asking again
            valid.append(key_id)
    assert len(set(valid)) == len(valid)
    waiting = query(site, "SELECT t.state FROM challenge h LEFT JOIN cmp_transaction t ON t.row = h.transaction_row")
    assert {state for (state,) in waiting} <= {"challenged"}


def check_signatures(site: Site, received: bytes) -> None:
    """A signature that was made is in a record, or it never left."""
    recorded = [octets for (octets,) in query(site, "SELECT der FROM certificate WHERE der IS NOT NULL")]
    for line in site.journal.read_text().splitlines() if site.journal.exists() else ():
        signature = bytes.fromhex(line)
        assert any(octets.endswith(signature) for octets in recorded) or signature[-20:] not in received


# --- challengeResp ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", FINISHING)
def test_a_challenge_survives_the_end_of_the_process_at_every_step(site: Site, trust: Trust, point: str) -> None:
    client = Client.of(site, trust, secret("popdecc", point), "challengeResp")
    with site.dying(point) as server:
        received = send_until_the_end(server.port, client.request.der)
    assert bool(received) is (point in SENT)
    assert client.transaction == ("challenged" if point in RECORDED else None)
    with site.serving() as server:
        check_records(site)
        popdecc = ask(server.port, client.request.der, client.request.der)
        assert answers_in(received) in ([], [popdecc])
        assert (client.rows, client.uses_left) == ([], 1)
        popdecr = client.popdecr(popdecc)
        client.certificate(ask(server.port, popdecr.der, popdecr.der), popdecr)
        assert (client.states, client.transaction, client.uses_left) == (["confirmed"], "ended", 0)
        check_records(site)


@pytest.mark.parametrize("point", ALL)
def test_a_popdecr_survives_the_end_of_the_process_at_every_step(site: Site, trust: Trust, point: str) -> None:
    client = Client.of(site, trust, secret("popdecr", point), "challengeResp")
    with site.serving() as server:
        popdecc = ask(server.port, client.request.der)
    popdecr = client.popdecr(popdecc)
    with site.dying(point) as server:
        received = send_until_the_end(server.port, popdecr.der)
    check_signatures(site, received)
    assert bool(received) is (point in SENT)
    left = "ended" if point in RECORDED else "processing" if point in CLAIMED else "challenged"
    assert client.transaction == left
    assert client.states == {"ended": ["confirmed"], "processing": ["intended"], "challenged": []}[left]
    assert client.uses_left == (left == "challenged")

    with site.serving() as server:
        # started again: who has not been answered has the same challenge before him, and his use
        check_records(site)
        assert client.transaction == ("ended" if point in RECORDED else "challenged")
        assert client.uses_left == (point not in RECORDED)
        assert ask(server.port, client.request.der) == popdecc
        answer = ask(server.port, popdecr.der, popdecr.der)
        assert answers_in(received) in ([], [answer])
        client.certificate(answer, popdecr)
        assert (client.states, client.transaction, client.uses_left) == (["confirmed"], "ended", 0)
        check_records(site)


# --- encrCert, agreeMAC -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("proof", "point"), AT_ONCE)
def test_a_certificate_for_a_key_that_does_not_sign_survives_it_too(
    site: Site, trust: Trust, proof: str, point: str
) -> None:
    client = Client.of(site, trust, secret(proof, point), proof)
    state, transaction = {"encrCert": ("issued", "proving"), "agreeMAC": ("confirmed", "ended")}[proof]
    with site.dying(point) as server:
        received = send_until_the_end(server.port, client.request.der)
    check_signatures(site, received)
    assert bool(received) is (point in SENT)
    recorded = point in RECORDED
    assert client.states == ([] if point in UNTOUCHED else [state if recorded else "intended"])
    assert client.uses_left == (point in UNTOUCHED)

    with site.serving() as server:
        check_records(site)
        assert client.states == ([state] if recorded else [])
        assert client.transaction == (transaction if recorded else None)
        assert client.uses_left == (not recorded)
        answer = ask(server.port, client.request.der, client.request.der)
        assert answers_in(received) in ([], [answer])
        issued = client.certificate(answer)
        assert (issued.der in answer) is (proof == "agreeMAC")  # the other one came encrypted
        assert (client.states, client.transaction, client.uses_left) == ([state], transaction, 0)
        if proof == "encrCert":
            confirm = client.cert_conf(answer, issued)
            assert decode(ask(server.port, confirm.der, confirm.der)).body_name == "pkiconf"
        assert (client.states, client.transaction) == (["confirmed"], "ended")
        check_records(site)


@pytest.mark.parametrize(("outcome", "point"), CONFIRMING)
def test_the_certconf_that_proves_possession_survives_it_too(
    site: Site, trust: Trust, outcome: str, point: str
) -> None:
    client = Client.of(site, trust, secret(outcome, point), "encrCert")
    with site.serving() as server:
        answer = ask(server.port, client.request.der)
    issued = client.certificate(answer)
    confirm = client.cert_conf(answer, issued, "not wanted" if outcome == "rejected" else None)
    with site.dying(point) as server:
        received = send_until_the_end(server.port, confirm.der)
    assert bool(received) is (point in SENT)
    decided = "confirmed" if outcome == "accepted" else "revoked"
    left = ([decided], "ended") if point in RECORDED else (["issued"], "proving")
    assert (client.states, client.transaction) == left
    with site.serving() as server:
        check_records(site)
        assert (client.states, client.transaction) == left
        assert ask(server.port, client.request.der) == answer
        repeated = ask(server.port, confirm.der, confirm.der)
        assert answers_in(received) in ([], [repeated])
        assert verify(repeated, confirm, client.credential, trust, ENV).envelope.body_name == "pkiconf"
        assert (client.rows, client.transaction) == ([(decided, issued.der)], "ended")
        check_records(site)


# --- a subject that one alone may have --------------------------------------------------------------------------------


def send_both(server: Server, requests: Sequence[bytes]) -> list[bytes]:
    """What comes on two connections until the server is gone."""
    sockets = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in requests]
    for sock, request in zip(sockets, requests, strict=True):
        sock.sendall(tcpmsg.pki_req(request))
    received = [until_the_end(sock) for sock in sockets]
    for sock in sockets:
        sock.close()
    return received


@pytest.mark.parametrize(("point", "first"), RIVALS)
def test_a_subject_that_was_claimed_goes_to_one_alone_whatever_ends_in_between(
    site: Site, trust: Trust, point: str, first: int
) -> None:
    subject = f"/CN={point} {first}"
    rivals = [
        Client.of(site, trust, secret(str(one), point, str(first)), "signature", subject=subject) for one in (0, 1)
    ]
    with site.dying(point) as server:
        received = send_both(server, [client.request.der for client in rivals])
    for octets in received:
        check_signatures(site, octets)
    before = [len(client.states) for client in rivals]
    assert sum(before) <= 1
    assert bool(sum(before)) is (point not in UNTOUCHED)

    with site.serving() as server:
        check_records(site)
        assert sum(len(client.states) for client in rivals) <= 1
        answers: dict[int, bytes] = {}
        for one in (first, 1 - first):
            answers[one] = ask(server.port, rivals[one].request.der)
            assert answers_in(received[one]) in ([], [answers[one]])
        granted = [one for one in (0, 1) if rivals[one].response(answers[one]).certificate is not None]
        [winner], [loser] = granted, [one for one in (0, 1) if one not in granted]
        assert rivals[loser].response(answers[loser]).status.fail_info == ("duplicateCertReq",)
        assert [rivals[one].uses_left for one in (winner, loser)] == [0, 1]
        assert ask_each(server.port, [rivals[one].request.der for one in (0, 1)]) == [answers[0], answers[1]]
        issued = rivals[winner].certificate(answers[winner])
        assert (rivals[winner].states, rivals[loser].states) == (["issued"], [])

        # who does not want it makes room for the other one
        confirm = rivals[winner].cert_conf(answers[winner], issued, "not wanted")
        assert decode(ask(server.port, confirm.der)).body_name == "pkiconf"
        again = Client.of(site, trust, rivals[loser].credential, "signature", subject=subject)
        again.certificate(ask(server.port, again.request.der))
        assert (again.states, again.uses_left) == (["issued"], 0)
        check_records(site)
