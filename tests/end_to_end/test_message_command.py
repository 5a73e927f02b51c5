"""`cmpd message` in pipes, as a mail server and a shell would have it, beside a serving process and without one."""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmpd.client.credentials import SharedSecret
from cmpd.client.responses import Trust, verify
from tests.end_to_end.asking import ENV, ask, certificates_in, confirmation, ir, trust_in
from tests.end_to_end.doors import content_of, mail_with, message, read_mail, seen
from tests.end_to_end.ways import SECONDS
from tests.support import Installation, needs_openssl, new_key, run

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.make(tmp_path_factory.mktemp("message") / "ca")
    made.add_secret(SECRET.reference, SECRET.secret.decode(), "--uses", "unlimited")
    return made


@pytest.fixture(scope="module")
def trust(site: Installation) -> Trust:
    return trust_in(site.anchor)


def answered(site: Installation, octets: bytes, *options: str) -> bytes:
    done = message(site.config, octets, *options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_a_transaction_goes_on_with_a_server_and_without_one(site: Installation, trust: Trust) -> None:
    """The command alone, then through the server, then over TCP: always the same records."""
    request, _ = ir(SECRET, implicit=False)
    answer = answered(site, request.der)
    certconf = confirmation(request, answer, certificates_in(answer, request, SECRET, trust))
    with site.serving() as server:
        assert answered(site, request.der) == answer
        assert ask(server.port, request.der) == answer
        pkiconf = answered(site, certconf.der)
        verify(pkiconf, certconf, SECRET, trust, ENV)
        server.kill()
    assert answered(site, certconf.der) == pkiconf


def test_what_is_no_message_is_answered_by_an_error(site: Installation) -> None:
    answer = answered(site, b"\x30\x03\x02\x01\x02")
    assert seen(answer, None)["content"].fail_info == ("badDataFormat",)


def test_without_the_passphrase_it_works_through_the_server_alone(site: Installation, trust: Trust) -> None:
    request, _ = ir(SECRET)
    passphrase = site.directory / "private" / "passphrase"
    hidden = passphrase.with_name("hidden")
    with site.serving():
        passphrase.rename(hidden)
        try:
            assert certificates_in(answered(site, request.der), request, SECRET, trust)
        finally:
            hidden.rename(passphrase)


def test_mails_that_arrive_together_are_all_answered(site: Installation, trust: Trust) -> None:
    requests = [ir(SECRET)[0] for _ in range(4)]
    with site.serving(), ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda one: answered(site, mail_with(one.der), "--mime"), requests))
    for request, reply in zip(requests, replies, strict=True):
        assert certificates_in(content_of(reply), request, SECRET, trust)


def test_a_mail_through_the_pipe_of_a_mail_server(site: Installation, trust: Trust, tmp_path: Path) -> None:
    """As in the alias of docs/doors.md: a shell, and something in the place of sendmail."""
    request, _ = ir(SECRET)
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat > {shlex.quote(str(tmp_path / 'sent'))}\n")
    sendmail.chmod(0o755)
    command = f"{shlex.quote(sys.executable)} -m cmpd message --config {shlex.quote(str(site.config))} --mime"
    pipe = f"{command} | {shlex.quote(str(sendmail))} -t -f ''"
    mail = mail_with(request.der, Reply_To="answers@example.com").replace(b"\n", os.linesep.encode())
    with site.serving():
        done = subprocess.run(["sh", "-c", pipe], input=mail, capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    reply = read_mail((tmp_path / "sent").read_bytes())
    assert (reply["To"], reply["In-Reply-To"]) == ("answers@example.com", "<1@example.com>")
    assert certificates_in(content_of((tmp_path / "sent").read_bytes()), request, SECRET, trust)


def test_an_automatic_mail_gets_no_reply(site: Installation) -> None:
    with site.serving():
        assert answered(site, mail_with(ir(SECRET)[0].der, Auto_Submitted="auto-replied"), "--mime") == b""


@needs_openssl
def test_a_message_of_openssl_in_a_file(site: Installation, tmp_path: Path) -> None:
    """-reqout writes the request that no server takes."""
    key, request = new_key(tmp_path / "key", "p256"), tmp_path / "request"
    wish = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=device", "-implicit_confirm", "-reqout", request]
    who = ["-ref", SECRET.reference, "-secret", f"file:{site.directory / 'device.secret'}"]
    nowhere = ["-server", "127.0.0.1:1", "-certout", tmp_path / "cert.pem", "-msg_timeout", "1"]
    run(["openssl", "cmp", "-config", "", *wish, *who, *nowhere], ok=False)
    said = seen(answered(site, request.read_bytes()), None)
    assert (said["body"], said["content"][1][0][2]["subject"]) == ("ip", "CN=device")
