"""cmpd message: answered by the server through its local door, or here if none runs; as a file and as a mail."""

import asyncio
import base64
import contextlib
import fcntl
import io
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der, names
from cmpd.cli import message
from cmpd.cli.cmpd import main
from cmpd.client import local
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import SharedSecret
from cmpd.client.errors import AnswerTimeout, ConnectError, ConnectionLost, ProtocolError, TransportError
from cmpd.client.flows import Client, Options
from cmpd.client.general import gen_message, item
from cmpd.client.messages import Template, cert_request
from cmpd.client.responses import Trust
from cmpd.config import load
from cmpd.env import Env
from cmpd.errors import StoreError
from cmpd.message import decode
from cmpd.records import CertificateRecord, CertificateState
from cmpd.signing.file import read_certificates
from cmpd.store import open_store
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import Decoder, ErrorType, Frame, Framing

SECRET = SharedSecret("pump", b"a secret of pump", iterations=500)
DEVICE = names.encode_name("CN=pump")
REQUEST = der.seq(der.encode_octets(b"request"))
ANSWER = der.seq(der.encode_octets(b"answer"))
V10 = Framing.V10


@dataclass
class Sent:
    """What a command wrote."""

    code: int
    out: bytes
    err: str


Send = Callable[..., Sent]


@pytest.fixture
def send(ca: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Send:
    """Run `cmpd message` with these octets as its standard input."""

    def send(octets: bytes, *words: str, config: Path = ca / "cmpd.toml") -> Sent:
        capfdbinary.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(octets)))
        try:
            code = main(["message", "--config", str(config), *words])
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capfdbinary.readouterr()
        return Sent(code, captured.out, captured.err.decode())

    return send


@pytest.fixture
def pump(ca: Path, tmp_path: Path) -> Path:
    """The CA with an entity that has a shared secret."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET.secret)
    assert main(["entity", "add", "pump", "--config", str(ca / "cmpd.toml"), "--secret-file", str(secret)]) == 0
    return ca


def request(body: str = "ir") -> bytes:
    template = Template(ec.generate_private_key(ec.SECP256R1()), DEVICE)
    return cert_request(body, [template], SECRET, Env(), implicit_confirm=True).der


def configure(ca: Path, text: str) -> None:
    path = ca / "cmpd.toml"
    changed, count = re.subn(r"^\[local\]$", f"[local]\n{text}", path.read_text(), count=1, flags=re.M)
    assert count == 1
    path.write_text(changed)


def issued_by(ca: Path) -> list[CertificateRecord]:
    """The certificates in the database that have been asked for."""

    async def look() -> list[CertificateRecord]:
        store = await open_store(ca / "cmpd.db", serving=False)
        try:
            return await store.list_certificates(subject="pump")
        finally:
            await store.close()

    return asyncio.run(look())


def body_of(octets: bytes) -> str:
    return decode(octets).body_name


# --- without a server ------------------------------------------------------------------------------------------------


@dataclass
class Pipe:
    """An Exchange (client/base.py) for which each message is a command."""

    send: Send
    bodies: list[str] = field(default_factory=list)

    async def request(self, der: bytes, *, last: bool = False) -> bytes | None:
        done = await asyncio.to_thread(self.send, der)
        assert done.code == 0, done.err
        self.bodies += [body_of(der), body_of(done.out)]
        return done.out

    async def close(self) -> None:
        pass


def test_a_whole_enrolment_is_answered_message_by_message(pump: Path, send: Send):
    pipe = Pipe(send)
    anchor = Certificate.load(read_certificates(pump / "ca.pem")[0])

    async def enrol() -> Certificate:
        client = Client(pipe, SECRET, Trust((anchor,)))
        key = ec.generate_private_key(ec.SECP256R1())
        return (await client.enrol("ir", key, DEVICE, options=Options(implicit_confirm=False))).certificate

    certificate = asyncio.run(enrol())
    assert pipe.bodies == ["ir", "ip", "certConf", "pkiconf"]
    assert certificate.subject == DEVICE
    [record] = issued_by(pump)
    assert (record.der, record.state) == (certificate.der, CertificateState.CONFIRMED)
    assert not load(pump / "cmpd.toml").local_socket.exists()


def test_the_same_octets_get_the_same_answer(pump: Path, send: Send):
    octets = request()
    first, second = send(octets), send(octets)
    assert (first.code, first.err) == (0, "")
    assert body_of(first.out) == "ip"
    assert first.out == second.out


def test_a_refusal_is_an_answer_and_warnings_go_to_standard_error(ca: Path, send: Send):
    done = send(request())  # nobody has registered pump
    assert done.code == 0
    assert body_of(done.out) == "error"
    garbage = send(b"\x30\x03abc")
    assert garbage.code == 0
    assert body_of(garbage.out) == "error"
    assert send(b"\x00garbage").code == 0


def test_the_crl_can_be_asked_for_without_a_server(pump: Path, send: Send):
    assert main(["crl", "issue", "--config", str(pump / "cmpd.toml")]) == 0
    done = send(gen_message([item("1.3.6.1.5.5.7.4.6")], SECRET, Env()).der)
    assert body_of(done.out) == "genp"
    assert (pump / "crl/ca.crl").read_bytes() in done.out


def test_the_rules_of_the_local_door_hold_here_too(pump: Path, send: Send):
    configure(pump, 'bodies = ["cr"]')
    done = send(request())
    assert done.code == 0
    assert body_of(done.out) == "error"
    assert b"at this endpoint" in done.out
    assert body_of(send(request("cr")).out) == "cp"


def test_what_is_no_message_is_wrong_usage(ca: Path, send: Send):
    for octets, have in (
        (b"", "have nothing"),
        (b"-----BEGIN CMP-----\n", "have PEM"),
        (base64.b64encode(bytes([0x30, 0x82]) + bytes(40)), "have Base64"),
        (b"From: a@b.example\n\n", "--mime"),
    ):
        done = send(octets)
        assert (done.code, done.out) == (2, b"")
        assert have in done.err


def test_a_message_that_is_too_long_is_not_answered(ca: Path, send: Send):
    configure(ca, "max_message_octets = 4096")
    done = send(der.seq(bytes(5000)))
    assert (done.code, done.out) == (1, b"")
    assert "at most 4096 octets" in done.err


@pytest.mark.parametrize(
    "words", [["--from", "ca@example.com"], ["--mime", "--from", "a@b\nBcc: c@d"], ["--timeout", "x"]]
)
def test_wrong_arguments_are_wrong_usage(ca: Path, send: Send, words: list[str]):
    assert send(REQUEST, *words).code == 2


def test_a_command_without_its_configuration_says_so(tmp_path: Path, send: Send):
    missing = tmp_path / "none.toml"
    assert send(REQUEST, config=missing).code == 1
    assert send(mail(), "--mime", config=missing).code == 75  # the sender of the mail can do nothing about it


CHEAPLY = """
import sys, pytest
from cmpd.cli.cmpd import main
from tests.cli.conftest import cheap
cheap(pytest.MonkeyPatch())
sys.exit(main(sys.argv[1:]))
"""


def test_two_commands_at_once_are_answered_one_after_the_other(pump: Path):
    arguments = [sys.executable, "-c", CHEAPLY, "message", "--config", str(pump / "cmpd.toml")]
    with contextlib.ExitStack() as running:
        processes = [
            running.enter_context(subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(request())
            process.stdin.close()
        answers = [process.stdout.read() for process in processes if process.stdout is not None]
    assert [process.returncode for process in processes] == [0, 0]
    # the secret is for one certificate
    assert [body_of(answer) for answer in answers] == ["ip", "ip"]
    assert len(issued_by(pump)) == 1


# --- with a server ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def door(path: Path, *answers: bytes, seen: list[bytes] | None = None) -> Iterator[None]:
    """A server at a Unix domain socket: one of `answers` for each connection, b"" to hang up."""
    path.unlink(missing_ok=True)
    # by way of the directory, because a path in a test's directory may be longer than an address
    with socket.socket(socket.AF_UNIX) as listener, local._address(path) as address:
        listener.bind(address)
        listener.listen(8)
        listener.settimeout(20)

        def serve() -> None:
            for octets in answers:
                peer, _ = listener.accept()
                with peer:
                    peer.settimeout(20)
                    decoder = Decoder(1 << 20)
                    while (event := decoder.next()) is None:
                        decoder.feed(peer.recv(65_536))
                    assert isinstance(event, Frame)
                    assert event.close
                    if seen is not None:
                        seen.append(event.value)
                    peer.sendall(octets)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(20)
            path.unlink()


@contextlib.contextmanager
def held(ca: Path) -> Iterator[None]:
    """Another process serves the database."""
    with Path(f"{ca / 'cmpd.db'}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_running_server_answers_and_neither_passphrase_nor_database_is_needed(ca: Path, send: Send):
    for secret in (ca / "private").iterdir():
        secret.unlink()
    seen: list[bytes] = []
    with held(ca), door(ca / "cmpd.db.sock", tcpmsg.pki_rep(V10, ANSWER), seen=seen):
        (ca / "cmpd.db").unlink()
        done = send(REQUEST)
    assert (done.code, done.out, done.err) == (0, ANSWER, "")
    assert seen == [REQUEST]


def test_the_command_knocks_where_the_server_listens(ca: Path):
    assert load(ca / "cmpd.toml").local_socket == ca / "cmpd.db.sock"
    configure(ca, 'socket = "run/door"')
    assert load(ca / "cmpd.toml").local_socket == ca / "run/door"


def test_no_answer_due_writes_nothing_and_is_good(ca: Path, send: Send):
    with held(ca), door(ca / "cmpd.db.sock", tcpmsg.fin_rep(V10)):
        done = send(REQUEST)
    assert (done.code, done.out) == (0, b"")
    assert "no answer is due" in done.err


def test_a_message_that_the_server_does_not_take_is_not_answered(ca: Path, send: Send):
    refusal = tcpmsg.error_msg_rep(V10, ErrorType.GeneralServerError, b"", "out of\x1b order")
    with held(ca), door(ca / "cmpd.db.sock", refusal):
        done = send(REQUEST)
    assert (done.code, done.out) == (1, b"")
    assert "out of\ufffd order" in done.err


def test_a_server_that_hangs_up_is_asked_again_but_not_for_ever(ca: Path, send: Send):
    with held(ca), door(ca / "cmpd.db.sock", b"", tcpmsg.pki_rep(V10, ANSWER)):
        assert send(REQUEST).out == ANSWER
    with held(ca), door(ca / "cmpd.db.sock", b"", b"", b""):
        done = send(REQUEST)
    assert done.code == 1
    assert "hung up" in done.err


def test_a_server_that_is_about_to_start_is_waited_for(ca: Path, send: Send):
    opened = threading.Event()

    def start() -> None:
        with door(ca / "cmpd.db.sock", tcpmsg.pki_rep(V10, ANSWER)):
            opened.set()

    timer = threading.Timer(0.4, start)
    with held(ca):
        timer.start()
        done = send(REQUEST)
    timer.join()
    assert opened.is_set()
    assert (done.code, done.out) == (0, ANSWER)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_door_that_nobody_opens_is_told_with_what_to_do(ca: Path, send: Send, enabled: bool):
    if not enabled:
        configure(ca, "enabled = false")
    with held(ca):
        done = send(REQUEST, "--timeout", "1s")
        assert send(mail(), "--mime", "--timeout", "1s").code == 75
    assert (done.code, done.out) == (1, b"")
    assert "another process serves this database" in done.err
    assert ("local.enabled = false" in done.err) is not enabled


def test_whoever_cannot_answer_in_the_servers_place_is_told_so(ca: Path, send: Send, monkeypatch: pytest.MonkeyPatch):
    def locked(path: Path) -> bool:
        raise StoreError(f"{path}.lock: Permission denied")  # root, who may run this, can open everything

    monkeypatch.setattr(message, "is_served", locked)
    sent = send(REQUEST)
    assert (sent.code, sent.out) == (1, b"")
    assert "cmpd.db.lock: Permission denied; no server answers at" in sent.err
    assert "nobody but its own user can answer" in sent.err
    assert send(mail(), "--mime").code == 75


def test_a_closed_door_does_not_keep_the_command_from_answering_itself(pump: Path, send: Send):
    configure(pump, "enabled = false")
    assert body_of(send(request()).out) == "ip"


def test_a_socket_that_a_killed_server_left_is_no_server(pump: Path, send: Send):
    with socket.socket(socket.AF_UNIX) as left, local._address(pump / "cmpd.db.sock") as address:
        left.bind(address)
    assert (pump / "cmpd.db.sock").is_socket()
    assert body_of(send(request()).out) == "ip"


# --- the client of the socket ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", ProtocolError),
        (tcpmsg.poll_rep(V10, 7, 30), ProtocolError),
        (tcpmsg.message(V10, 0x44, b"x"), ProtocolError),
        (tcpmsg.pki_rep(V10, ANSWER)[:-1], ConnectionLost),
        (b"", ConnectionLost),
        (tcpmsg.error_msg_rep(V10, ErrorType.GeneralClientError, b"", "no"), TransportError),
    ],
)
def test_what_is_no_answer_is_an_error_of_its_kind(tmp_path: Path, answer: bytes, error: type[Exception]):
    with door(tmp_path / "s", answer), pytest.raises(error):
        local.ask(tmp_path / "s", REQUEST, 10)


def test_a_server_that_never_answers_is_given_up_in_time(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listener, local._address(tmp_path / "s") as address:
        listener.bind(address)
        listener.listen(0)
        with pytest.raises(AnswerTimeout):
            local.ask(tmp_path / "s", REQUEST, 0.2)
        with pytest.raises(AnswerTimeout):  # now more wait at the door than it has room for
            local.ask(tmp_path / "s", REQUEST, 0.2)


def test_a_path_that_is_too_long_for_an_address_is_no_obstacle(tmp_path: Path):
    directory = tmp_path / ("d" * 200)
    with pytest.raises(ConnectError):
        local.ask(directory / "s", REQUEST, 1)
    directory.mkdir()
    with door(directory / "s", tcpmsg.pki_rep(V10, ANSWER)):
        assert local.ask(directory / "s", REQUEST, 10) == ANSWER
    with pytest.raises(ConnectError):
        local.ask(directory / "s", REQUEST, 1)
    with pytest.raises(TransportError, match="shorter"):
        local.ask(directory / ("s" * 200), REQUEST, 1)


def test_a_long_answer_comes_whole(tmp_path: Path):
    long = der.seq(bytes(3_000_000))
    with door(tmp_path / "s", tcpmsg.pki_rep(V10, long)):
        assert local.ask(tmp_path / "s", REQUEST, 20) == long


# --- as mail ---------------------------------------------------------------------------------------------------------


def mail(octets: bytes = REQUEST, *fields: str, sender: str = "From: pump@example.net") -> bytes:
    head = [sender, "To: ca@example.com", "Subject: ir", "Message-ID: <1@example.net>", *fields]
    head += ["Content-Type: application/pkixcmp; name=ir.pki", "Content-Transfer-Encoding: base64"]
    return "\n".join(head).encode() + b"\n\n" + base64.encodebytes(octets)


def test_a_mail_is_answered_by_a_mail(pump: Path, send: Send):
    done = send(mail(request()), "--mime", "--from", "pki@example.com")
    assert (done.code, done.err) == (0, "")
    reply = message_from_bytes(done.out)
    assert (reply["To"], reply["From"], reply["Subject"]) == ("pump@example.net", "pki@example.com", "Re: ir")
    assert reply.get_content_type() == "application/pkixcmp"
    assert body_of(reply.get_payload(decode=True)) == "ip"
    # and the reply, if it comes back, is not answered
    again = send(done.out, "--mime")
    assert (again.code, again.out) == (0, b"")


def test_a_mail_of_a_program_is_dropped_before_anybody_is_asked(ca: Path, send: Send):
    with held(ca):
        done = send(mail(REQUEST, "Precedence: bulk"), "--mime", "--timeout", "1s")
    assert (done.code, done.out) == (0, b"")
    assert "no reply" in done.err


@pytest.mark.parametrize(
    "octets", [b"", b"Subject: hello\n\nhello\n", mail(sender="From: nobody"), REQUEST, mail(bytes(300_000))]
)
def test_a_wrong_mail_is_told_to_its_sender_at_once(ca: Path, send: Send, octets: bytes):
    done = send(octets, "--mime")
    assert (done.code, done.out) == (65, b"")
    assert done.err.startswith("cmpd: mail: want")


def test_a_mail_that_is_too_long_is_not_read_to_its_end(ca: Path, send: Send):
    configure(ca, "max_message_octets = 4096")
    assert send(mail() + bytes(2_000_000), "--mime").code == 65


def test_a_mail_whose_message_needs_no_answer_gets_no_reply(ca: Path, send: Send):
    with held(ca), door(ca / "cmpd.db.sock", tcpmsg.fin_rep(V10)):
        done = send(mail(), "--mime")
    assert (done.code, done.out) == (0, b"")


@pytest.mark.parametrize(("error", "code"), [(ErrorType.GeneralClientError, 65), (ErrorType.GeneralServerError, 75)])
def test_what_the_server_does_not_take_comes_again_only_if_that_may_help(
    ca: Path, send: Send, error: ErrorType, code: int
):
    with held(ca), door(ca / "cmpd.db.sock", tcpmsg.error_msg_rep(V10, error, b"", "no")):
        assert send(mail(), "--mime").code == code
