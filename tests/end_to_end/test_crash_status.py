"""The process is killed at every step of a change of status and of what is published of it, and started again.

Whatever the step: the state is the old or the new one, and the new one once it was recorded; the history has each
change once; the CRL and the OCSP answers of the next server say what the records say; a CRL number never stands for two
CRLs, and files are whole. The servers come from crashing.py; what they left behind is read with SQL and from the files.
"""

import asyncio
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.general import REV_PASSPHRASE, check_taken, gen_message, item
from cmpd.client.messages import Request, Template, cert_request
from cmpd.client.responses import Trust, verify
from cmpd.client.revocation import RevDetails, rev_request
from cmpd.cms import envelope_for_password
from cmpd.config import load
from cmpd.message import ID_IT_REV_PASSPHRASE
from cmpd.records import Entity, EntityKind
from cmpd.store import open_store
from cmpd.store.sealing import Sealer
from tests.end_to_end.asking import (
    ENV,
    accepted,
    answers_in,
    ask,
    certificates_in,
    change,
    confirmation,
    enrol_many,
    ir,
    new_key,
    ocsp_answer,
    ocsp_status,
    send_until_the_end,
    trust_in,
)
from tests.end_to_end.crashing import CHANGING, FINISHING, MAKING_SIGNER, PUBLISHING, RECORDED
from tests.end_to_end.forked import Site, forking, make
from tests.end_to_end.published import check_files, check_published, highest_signed, query

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)
"""Who holds the certificates here."""

ENTITLED = SharedSecret("entitled", b"a secret that may revoke", iterations=500)

# --- what is tried ----------------------------------------------------------------------------------------------------

STATES = {
    "keyCompromise": "revoked",
    "superseded": "revoked",
    "certificateHold": "suspended",
    "removeFromCRL": "confirmed",
}


@dataclass(frozen=True)
class Revoking:
    """An rr: the state of each certificate before it, and the reason that it asks for. The first certificate signs it
    if it can, so that it is judged again as one that it has revoked or suspended itself.
    """

    before: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def after(self) -> list[str]:
        return [STATES[reason] for reason in self.reasons]


REVOKING = {
    "revoke": Revoking(("confirmed",), ("keyCompromise",)),
    "suspend": Revoking(("confirmed",), ("certificateHold",)),
    "resume": Revoking(("suspended",), ("removeFromCRL",)),
    "three in one rr": Revoking(
        ("confirmed", "confirmed", "suspended"), ("superseded", "certificateHold", "removeFromCRL")
    ),
}
RR_STEPS = [(name, point) for name in REVOKING for point in FINISHING]

NOT_DURABLE = ("before number", "inside number")
"""What a CRL number was not taken at yet."""


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program() -> Iterator[subprocess.Popen[str]]:
    with forking() as program:
        yield program


def new_site(directory: Path, program: subprocess.Popen[str], *settings: str) -> Site:
    """A CA that publishes, with two registered entities. `settings`: lines of the configuration that replace others."""
    site = make(directory, program, publish="127.0.0.1:0")
    site.configure("\n[[tcp]]\n", '\n[[tcp]]\nmode = "lenient"\n')  # several requests in one message
    for setting in settings:
        name = setting.partition("=")[0]
        (line,) = [line for line in site.config.read_text().splitlines() if line.startswith(f"#{name}=")]
        site.configure(line, setting)
    asyncio.run(register(site))
    return site


async def register(site: Site) -> None:
    config = load(site.config)
    assert config.store.secrets_key is not None
    sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase(), ENV)
    store = await open_store(config.store.path, serving=False)
    for one in (SECRET, ENTITLED):
        sealed = sealer.seal(one.secret, one.reference)
        may = one is ENTITLED
        entity = Entity(0, one.reference, EntityKind.SECRET, uses_left=None, sealed_secret=sealed, may_revoke=may)
        await store.add_entity(entity)
    await store.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, program: subprocess.Popen[str]) -> Site:
    return new_site(tmp_path_factory.mktemp("status") / "ca", program, 'gather = "0s"')


@pytest.fixture(scope="module")
def trust(site: Site) -> Trust:
    return trust_in(site.anchor)


Holders = dict[object, list[KeyAndCertificate]]


@pytest.fixture(scope="module")
def holders(site: Site, trust: Trust) -> Holders:
    """The certificates of each case, in the states that it begins with; and "fellow", who may resume them."""
    counts: dict[object, int] = {(name, point): len(REVOKING[name].before) for name, point in RR_STEPS}
    counts |= dict.fromkeys([*PUBLISHING, *CHANGING, "fellow", "repair", "signer"], 1)
    with site.serving() as server:
        made = enrol_many(server.port, SECRET, trust, sum(counts.values()))
        found = {key: [made.pop() for _ in range(count)] for key, count in counts.items()}
        held = [
            RevDetails.of(one.certificate, "certificateHold")
            for name, point in RR_STEPS
            for one, state in zip(found[name, point], REVOKING[name].before, strict=True)
            if state == "suspended"
        ]
        [fellow] = found["fellow"]
        change(server.port, held, fellow, trust)
        check_published(site, server, trust)
    return found


# --- what the database says -------------------------------------------------------------------------------------------


def serial_of(certificate: Certificate) -> bytes:
    return der.encode_integer(certificate.serial)[2:]


def states(site: Site, certificates: Sequence[Certificate]) -> list[str]:
    rows = dict(query(site, "SELECT serial, state FROM certificate"))
    return [rows[serial_of(one)] for one in certificates]


def history(site: Site, certificate: Certificate) -> list[tuple[str, str]]:
    """(state, reason) of every change of its status."""
    sql = "SELECT state, reason FROM status_change WHERE serial = ? ORDER BY id"
    return query(site, sql, serial_of(certificate))


def kept_answer(site: Site, request: Request) -> list[bytes]:
    sql = "SELECT response FROM response WHERE request_digest = ?"
    return [response for (response,) in query(site, sql, sha256(request.der).digest())]


# --- rr ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "point"), RR_STEPS)
def test_an_rr_survives_the_end_of_the_process_at_every_step(
    site: Site, holders: Holders, trust: Trust, name: str, point: str
) -> None:
    way, own = REVOKING[name], holders[name, point]
    certificates = [one.certificate for one in own]
    credential = own[0] if way.before[0] == "confirmed" else holders["fellow"][0]
    details = [RevDetails.of(one, reason) for one, reason in zip(certificates, way.reasons, strict=True)]
    request = rev_request(details, credential, ENV)
    before = [history(site, one) for one in certificates]
    new = [[(STATES[reason], reason)] for reason in way.reasons]
    with site.dying(point) as server:
        received = send_until_the_end(server.port, request.der)

    # as it was left: all changes with the answer, or nothing of them
    assert bool(received) is (point in ("within answer", "after answer"))
    assert states(site, certificates) == (way.after if point in RECORDED else list(way.before))
    assert [history(site, one)[len(old) :] for one, old in zip(certificates, before, strict=True)] == (
        new if point in RECORDED else [[]] * len(own)
    )
    kept = kept_answer(site, request)
    assert len(kept) == (point in RECORDED)

    with site.serving() as server:
        check_published(site, server, trust, *certificates, at_once=True)
        answer = ask(server.port, request.der, request.der)
        assert kept in ([], [answer])
        assert answers_in(received) in ([], [answer])
        assert accepted(answer, request, details, credential, trust) == [True] * len(own)
        assert states(site, certificates) == way.after
        assert [history(site, one) for one in certificates] == [a + b for a, b in zip(before, new, strict=True)]
        check_published(site, server, trust, *certificates)


# --- the CRL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", PUBLISHING)
def test_a_crl_survives_the_end_of_the_process_at_every_step(
    site: Site, holders: Holders, trust: Trust, point: str
) -> None:
    [holder] = holders[point]
    details = [RevDetails.of(holder.certificate, "keyCompromise")]
    request = rev_request(details, holder, ENV)
    old, _ = check_files(site, trust)
    with site.dying(point) as server:
        received = send_until_the_end(server.port, request.der)

    # as it was left: the change is there, and the files are the old or the new ones
    assert states(site, [holder.certificate]) == ["revoked"]
    [(last,)] = query(site, "SELECT max(number) FROM crl")
    assert (last == old) is (point in NOT_DURABLE)
    renamed = PUBLISHING.index(point) - PUBLISHING.index("after delta file")
    wanted = (last if renamed >= 2 else old, last if renamed >= 0 else old)
    assert check_files(site, trust) == wanted
    [(published,)] = query(site, "SELECT max(number) FROM crl WHERE published_at IS NOT NULL")
    assert published == (last if point == "after publication" else old)

    with site.serving() as server:
        now = check_published(site, server, trust, holder.certificate, at_once=True)
        assert now == (last if point == "after publication" else last + 1)
        assert now == highest_signed(site, trust)
        answer = ask(server.port, request.der)
        assert answers_in(received) in ([], [answer])
        assert history(site, holder.certificate) == [("revoked", "keyCompromise")]


def test_the_end_of_the_process_while_a_crl_is_repaired_loses_nothing(
    site: Site, holders: Holders, trust: Trust
) -> None:
    """Killed again and again, each time a step later; the starts are the ones that issue what is missing."""
    [holder] = holders["repair"]
    request = rev_request([RevDetails.of(holder.certificate, "superseded")], holder, ENV)
    old, _ = check_files(site, trust)
    with site.dying("before number") as server:
        send_until_the_end(server.port, request.der)
    for point in PUBLISHING:
        assert site.start(point).wait() == -signal.SIGKILL
        check_files(site, trust)
    with site.serving() as server:
        now = check_published(site, server, trust, holder.certificate, at_once=True)
    assert now == old + len(PUBLISHING) - len(NOT_DURABLE)
    assert now == highest_signed(site, trust)


# --- the OCSP responder's certificate ---------------------------------------------------------------------------------


SERVICE_CERTIFICATES = "SELECT serial, der FROM service_certificate"


@pytest.fixture(scope="module")
def short_lived(site: Site) -> bytes:
    """A file with a certificate that is due for renewal."""
    path = site.directory / "private" / "ocsp.pem"
    path.unlink(missing_ok=True)
    site.configure("#signer_validity", 'signer_validity = "1h"\n#signer_validity')
    with site.serving():
        octets = path.read_bytes()
    site.configure('signer_validity = "1h"\n', "")
    return octets


@pytest.mark.parametrize("point", MAKING_SIGNER)
@pytest.mark.parametrize("renewed", [False, True], ids=["made", "renewed"])
def test_the_making_of_an_ocsp_signer_survives_the_end_of_the_process_at_every_step(
    site: Site, holders: Holders, trust: Trust, short_lived: bytes, point: str, renewed: bool
) -> None:
    path = site.directory / "private" / "ocsp.pem"
    path.unlink(missing_ok=True)
    if renewed:
        path.write_bytes(short_lived)
    before = set(query(site, SERVICE_CERTIFICATES))
    assert site.start(point).wait() == -signal.SIGKILL

    # as it was left: what is in the file was recorded, and is whole
    left = path.read_bytes() if path.exists() else None
    assert (left == (short_lived if renewed else None)) is (point != "after signer file")
    new = set(query(site, SERVICE_CERTIFICATES)) - before
    if left is not None:
        assert (read_signer(site, left),) in query(site, "SELECT der FROM service_certificate")
    intents = MAKING_SIGNER.index(point) - MAKING_SIGNER.index("after signer intent")
    records = MAKING_SIGNER.index(point) - MAKING_SIGNER.index("after signer record")
    assert [octets is None for _, octets in new] == ([] if intents < 0 else [records < 0])

    with site.serving() as server:
        check_published(site, server, trust, holders["signer"][0].certificate)
        octets = path.read_bytes()
        assert (octets == left) is (point == "after signer file")
        own = read_signer(site, octets)
        assert (own,) in query(site, "SELECT der FROM service_certificate")
        assert own in ocsp_answer(server.publish, holders["signer"][0].certificate, trust)
    assert [one.name for one in path.parent.iterdir() if "ocsp" in one.name] == ["ocsp.pem"]
    assert before <= set(query(site, SERVICE_CERTIFICATES))


def read_signer(site: Site, octets: bytes) -> bytes:
    """The certificate (DER) in a file, which must have its key too."""
    certificate = x509.load_pem_x509_certificate(octets)
    key = load_pem_private_key(octets, load(site.config).ca.passphrase())
    assert key.public_key() == certificate.public_key()
    return certificate.public_bytes(Encoding.DER)


# --- by an operator, by the time --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def office(site: Site) -> Iterator[Site]:
    """The same CA with another program, which runs an operator's commands while a server runs."""
    with forking() as program:
        yield Site(site.directory, program)


@pytest.mark.parametrize("point", CHANGING)
def test_an_operators_command_survives_its_end_at_every_step(
    site: Site, office: Site, holders: Holders, trust: Trust, point: str
) -> None:
    certificate = holders[point][0].certificate
    command = ["cert", "revoke", f"{certificate.serial:x}", "--config", str(site.config), "--reason", "keyCompromise"]
    changed = point == "after change"
    with site.serving() as server:
        assert office.start(point, command=command).wait() == -signal.SIGKILL
        assert states(site, [certificate]) == ["revoked" if changed else "confirmed"]
        check_published(site, server, trust, certificate)
        again = office.start(command=command)
        assert again.wait() == int(changed), again.log_text()
        assert ("revoked already, since" in again.log_text()) is changed
        assert history(site, certificate) == [("revoked", "keyCompromise")]
        check_published(site, server, trust, certificate)


def test_a_lapse_survives_the_end_of_the_process_at_every_step(tmp_path: Path, program: subprocess.Popen[str]) -> None:
    """Three certificates that nobody confirms, in one unit; nobody need come for it to happen."""
    site = new_site(tmp_path / "ca", program, 'confirm_wait = "1s"')
    trust = trust_in(site.anchor)
    templates = [Template(new_key(), subject, cert_req_id=i) for i, subject in enumerate([encode_name("/CN=late")] * 3)]
    request = cert_request("ir", templates, SECRET, ENV, implicit_confirm=False)
    with site.dying("before change") as server:
        issued = certificates_in(ask(server.port, request.der), request, SECRET, trust)
    certificates = list(issued.values())
    assert states(site, certificates) == ["issued"] * 3
    with site.dying("inside change"):
        pass
    assert states(site, certificates) == ["issued"] * 3
    with site.dying("after change"):
        pass
    assert states(site, certificates) == ["revoked"] * 3
    with site.serving() as server:
        check_published(site, server, trust, *certificates, at_once=True)
        for one in certificates:
            assert history(site, one) == [("revoked", "cessationOfOperation")]
            assert ocsp_status(server.publish, one, trust).state == "revoked"
    [(state,)] = query(site, "SELECT state FROM cmp_transaction")
    assert state == "ended"


# --- revocation passphrases -------------------------------------------------------------------------------------------


BRINGING = {"genm": ENTITLED, "certConf": SECRET}
"""Who brings a passphrase in which message: in certConf it is for the subject that is confirmed, in genm for all."""


@pytest.mark.parametrize("point", FINISHING)
@pytest.mark.parametrize("body", BRINGING)
def test_a_revocation_passphrase_survives_the_end_of_the_process_at_every_step(
    site: Site, trust: Trust, body: str, point: str
) -> None:
    secret, key_id = BRINGING[body], f"{body} {point}"
    owner = SharedSecret(key_id, b"a passphrase of the tests", iterations=500)
    brought = envelope_for_password(owner.secret, secret.secret, key_id.encode(), ENV, iterations=500)
    info = item(REV_PASSPHRASE, brought)
    with site.dying(point, 2) as server:
        first, _ = ir(secret, implicit=body == "genm")
        issued = certificates_in(given := ask(server.port, first.der), first, secret, trust)
        if body == "genm":
            request = gen_message([info], secret, ENV, pvno=3)
        else:
            request = confirmation(first, given, issued, info=[info])
        received = send_until_the_end(server.port, request.der)
    assert bool(received) is (point in ("within answer", "after answer"))
    kept = kept_answer(site, request)
    assert len(kept) == passphrases(site, key_id) == (point in RECORDED)

    with site.serving() as server:
        answer = ask(server.port, request.der, request.der)
        assert kept in ([], [answer])
        assert answers_in(received) in ([], [answer])
        verified = verify(answer, request, secret, trust, ENV)
        if body == "genm":
            check_taken(verified)
        else:
            assert ID_IT_REV_PASSPHRASE in [one.type for one in verified.envelope.header.general_info]
        assert passphrases(site, key_id) == 1
        assert states(site, [issued[0]]) == ["confirmed"]
        change(server.port, [RevDetails.of(issued[0], "keyCompromise")], owner, trust)
        check_published(site, server, trust, issued[0])


def passphrases(site: Site, key_id: str) -> int:
    [(count,)] = query(site, "SELECT count(*) FROM revocation_passphrase WHERE key_id = ?", key_id.encode())
    return int(count)
