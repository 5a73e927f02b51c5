"""Servers that are stopped, killed and started again: what a client waits for is still there, and nothing is lost."""

import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from cmpd.cli.cmpd import main
from cmpd.client.credentials import SharedSecret
from cmpd.client.errors import CmpClientError
from cmpd.client.responses import Trust, verify
from cmpd.wire import tcpmsg
from tests.end_to_end.asking import (
    ENV,
    ask,
    certificates_in,
    confirmation,
    enrol,
    frames_in,
    ir,
    trust_in,
    until_the_end,
)
from tests.end_to_end.forked import Server, Site, made
from tests.support import Installation, run

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)
ONCE = SharedSecret("once", b"a secret for one use", iterations=500)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("restart") / "ca"
    with made(directory) as site:
        for credential, uses in ((SECRET, "unlimited"), (ONCE, "1")):
            file = directory / f"{credential.reference}.secret"
            file.write_bytes(credential.secret)
            words = ["entity", "add", credential.reference, "--secret-file", str(file), "--uses", uses]
            assert main([*words, "--config", str(site.config)]) == 0
        yield site


@pytest.fixture(scope="module")
def trust(site: Site) -> Trust:
    return trust_in(site.anchor)


@pytest.fixture
def hasty(site: Site) -> Iterator[Site]:
    """The site with one second for certConf, and for a frame that has begun."""
    text = site.config.read_text()
    quick = text.replace('#confirm_wait = "10m"', 'confirm_wait = "1s"')
    quick = quick.replace('#partial_frame_timeout = "30s"', 'partial_frame_timeout = "1s"')
    assert quick.count('\nconfirm_wait = "1s"\n') == quick.count('\npartial_frame_timeout = "1s"\n') == 1
    site.config.write_text(quick)
    yield site
    site.config.write_text(text)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.make(tmp_path_factory.mktemp("restart") / "var")
    made.add_secret(SECRET.reference, SECRET.secret.decode(), "--uses", "unlimited")
    return made


def state_of(site: Site, serial: int) -> tuple[str, str | None]:
    """(state, cause of the last change) of a certificate as the database has it."""
    with closing(sqlite3.connect(f"{site.database.as_uri()}?mode=ro", uri=True)) as database:
        octets = serial.to_bytes(16, "big")
        sql = "SELECT state, changed_by FROM certificate WHERE serial = ?"
        return database.execute(sql, (octets,)).fetchone()


def stop(server: Server, how: str) -> None:
    if how == "SIGKILL":
        server.kill()
        return
    begun = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - begun < 5
    server.wait_for_log("stopped")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_what_waits_for_certconf_is_confirmed_after_a_restart(site: Site, trust: Trust, how: str) -> None:
    request, _ = ir(SECRET, implicit=False)
    with site.serving() as server:
        answer = ask(server.port, request.der)
        stop(server, how)
    issued = certificates_in(answer, request, SECRET, trust)
    assert state_of(site, issued[0].serial)[0] == "issued"
    with site.serving() as server:
        assert ask(server.port, request.der) == answer  # the answer may have been lost: it is the same again
        confirm = confirmation(request, answer, issued)
        pkiconf = ask(server.port, confirm.der, confirm.der)
        assert verify(pkiconf, confirm, SECRET, trust, ENV).envelope.body_name == "pkiconf"
        assert state_of(site, issued[0].serial)[0] == "confirmed"
        stop(server, how)
    with site.serving() as server:
        assert ask(server.port, request.der) == answer
        assert ask(server.port, confirm.der) == pkiconf


def test_a_signed_certconf_without_certificates_is_verified_after_a_restart(site: Site, trust: Trust) -> None:
    """RFC 9483 section 3.3: certConf may omit extraCerts, so the certificate of the request must have been kept."""
    with site.serving() as server:
        holder = enrol(server.port, SECRET, trust)
        request, _ = ir(holder, implicit=False)
        answer = ask(server.port, request.der)
    issued = certificates_in(answer, request, holder, trust)
    bare = replace(request, protector=replace(request.protector, extra_certs=()))
    confirm = confirmation(bare, answer, issued)
    assert holder.certificate.der not in confirm.der
    with site.serving() as server:
        pkiconf = verify(ask(server.port, confirm.der), confirm, holder, trust, ENV)
        assert pkiconf.envelope.body_name == "pkiconf"


def test_a_used_up_secret_still_gets_its_answer_after_a_restart(site: Site, trust: Trust) -> None:
    request, _ = ir(ONCE)
    with site.serving() as server:
        answer = ask(server.port, request.der)
        stop(server, "SIGKILL")
    with site.serving() as server:
        assert ask(server.port, request.der) == answer
        assert len(certificates_in(answer, request, ONCE, trust)) == 1
        second, _ = ir(ONCE)
        with pytest.raises(AssertionError):  # not granted
            certificates_in(ask(server.port, second.der), second, ONCE, trust)


def test_sigterm_answers_what_is_in_flight_with_the_close_bit(installation: Installation) -> None:
    slow = SharedSecret(SECRET.reference, SECRET.secret, iterations=100_000)  # so that the server is busy for a while
    requests = [ir(slow)[0] for _ in range(8)]
    octets = b"".join(tcpmsg.pki_req(request.der) for request in requests)
    with (
        installation.serving() as server,
        socket.create_connection((server.host, server.port), timeout=20) as busy,
        socket.create_connection((server.host, server.port), timeout=20) as idle,
    ):
        busy.sendall(octets[:-1])  # the last request is not whole yet
        first = busy.recv(1)
        server.process.terminate()
        server.wait_for_log("stopping: draining")
        assert idle.recv(1) == b""  # a connection without a request is closed at once
        with pytest.raises(OSError):  # and nobody new comes in
            socket.create_connection((server.host, server.port), timeout=5).close()
        busy.sendall(octets[-1:])
        frames = frames_in(first + until_the_end(busy))
        begun = time.monotonic()
        assert server.process.wait(20) == 0
        assert time.monotonic() - begun < 5
        server.wait_for_log("stopped")
        assert "Traceback" not in server.log_text()
    assert len(frames) == len(requests)
    closing_bits = [frame.close for frame in frames]
    assert closing_bits[-1]
    assert closing_bits == sorted(closing_bits)
    for frame, request in zip(frames, requests, strict=True):
        reply = tcpmsg.reply(frame)
        assert isinstance(reply, tcpmsg.PkiRep)
        assert len(certificates_in(reply.der, request, SECRET, trust_in(installation.anchor))) == 1


def test_sigterm_with_many_idle_connections_ends_at_once(site: Site) -> None:
    with site.serving() as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(100)]
        enrol(server.port, SECRET, trust_in(site.anchor))
        stop(server, "SIGTERM")
        assert [sock.recv(1) for sock in idle] == [b""] * len(idle)
        for sock in idle:
            sock.close()


def test_a_peer_that_never_ends_its_frame_does_not_hold_the_drain_up_for_ever(hasty: Site) -> None:
    with hasty.serving() as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"\x00\x00\x01")
        server.signal(signal.SIGTERM)
        begun = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - begun < 5


def test_a_second_server_on_the_same_database_refuses_with_a_clear_text(installation: Installation) -> None:
    with installation.serving() as server:
        second = run([sys.executable, "-m", "cmpd", "serve", "--config", installation.config], ok=False)
        assert second.returncode == 1
        [line] = second.stderr.splitlines()
        assert line.endswith("cmpd.db.lock: another process serves this database")
        request, _ = ir(SECRET)
        ask(server.port, request.der, request.der)  # the first one is not disturbed


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_confirmwaittime_that_passes_while_no_server_runs_revokes(hasty: Site, trust: Trust, how: str) -> None:
    request, _ = ir(SECRET, implicit=False)
    with hasty.serving() as server:
        answer = ask(server.port, request.der)
        stop(server, how)
    issued = certificates_in(answer, request, SECRET, trust)
    assert state_of(hasty, issued[0].serial)[0] == "issued"
    time.sleep(2)
    with hasty.serving() as server:
        cause = "confirmWaitTime has passed"
        server.wait_for_log(f"revoked serial={issued[0].serial:032x} reason=cessationOfOperation cause='{cause}'", 5)
        assert state_of(hasty, issued[0].serial) == ("revoked", cause)
        confirm = confirmation(request, answer, issued)
        with pytest.raises(CmpClientError) as refused:
            verify(ask(server.port, confirm.der), confirm, SECRET, trust, ENV)
        assert refused.value.fail_info == ("certRevoked",)
        assert state_of(hasty, issued[0].serial)[0] == "revoked"
