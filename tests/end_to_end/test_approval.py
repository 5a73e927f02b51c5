"""Requests that wait for an operator, at a serving process: told to ask again, approved or rejected, and fetched.

How a client is told depends on the door: by the pollRep of tcp-messages, or by CMP's own polling. What waits is on
record, so that neither connections nor servers matter to it.
"""

import io
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cmpd.client.credentials import SharedSecret
from cmpd.client.messages import Request
from cmpd.client.polling import poll_request, read_poll_rep
from cmpd.client.responses import Answer, Trust, read_cert_rep, verify
from cmpd.wire.tcpmsg import ErrorType
from tests.end_to_end.asking import ENV, certificates_in, confirmation, ir, trust_in
from tests.end_to_end.doors import (
    ERROR_REP,
    PKI_REP,
    PKI_REQ,
    POLL_REP,
    POLL_REQ,
    Door,
    FrameDoor,
    HttpFrameDoor,
    SpoolDoor,
    wait_until,
)
from tests.end_to_end.forked import Server, Site
from tests.end_to_end.published import query
from tests.end_to_end.ways import EVERY_DOOR, SECONDS, Way, add_secret, cmpd, made_with
from tests.support import needs_openssl
from tests.support import verify as openssl_verify

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)
UNKNOWN = 0x01020304

PROFILE = """
[[tcp]]
listen = "127.0.0.1:0"
transport_polling = false

[profile.server]
approval = true
"""

PollingDoor = FrameDoor | HttpFrameDoor

POLLING: dict[str, Callable[[Way], PollingDoor]] = {
    "tcp": lambda way: way.tcp(),
    "tcp in RFC 2510 framing": lambda way: way.tcp(old=True),
    "tls": lambda way: way.tcp("tls"),
    "http with tcp-messages": lambda way: way.http_frames(),
    "http with tcp-messages of RFC 2510": lambda way: way.http_frames(old=True),
    "https with Base64": lambda way: way.base64("https"),
    "https with Base64 of RFC 2510": lambda way: way.base64("https", old=True),
    "tcp in RFC 2510 framing where others are told by CMP": lambda way: way.tcp("tcp", 1, old=True),
}
"""Doors at which who has to wait is told so by pollRep of tcp-messages."""

CMP_POLLING: dict[str, Callable[[Way], Door]] = {
    "http": lambda way: way.http(),
    "https": lambda way: way.http("https"),
    "tcp where all are told by CMP": lambda way: way.tcp("tcp", 1),
    "local socket": lambda way: FrameDoor(way.connect_local),
    "spool": lambda way: SpoolDoor(way.site.directory / "spool"),
}
"""Doors at which CMP says it."""


def make(directory: Path) -> Iterator[Site]:
    with made_with(directory, EVERY_DOOR + PROFILE) as site:
        site.configure('#check_after = "30s"', 'check_after = "1s"')
        add_secret(site, SECRET.reference, SECRET.secret, "--uses", "unlimited", "--profile", "server")
        yield site


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    for site in make(tmp_path_factory.mktemp("approval") / "ca"):
        with site.serving() as server, Way(site, server) as way:
            yield way
        assert " ERROR " not in server.log_text()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Another CA, whose server each test starts and stops."""
    yield from make(tmp_path_factory.mktemp("stopped") / "ca")


@pytest.fixture(scope="module")
def trust(way: Way) -> Trust:
    return trust_in(way.site.anchor)


# --- the operator -----------------------------------------------------------------------------------------------------


def listed(site: Site, *options: str) -> list[dict[str, Any]]:
    """What `cmpd request list` shows."""
    out = io.StringIO()
    with redirect_stdout(out):
        cmpd(site, "request", "list", "--json", *options)
    found: list[dict[str, Any]] = json.loads(out.getvalue())
    return found


def waiting(site: Site, request: Request) -> str:
    """The reference under which the operator finds a request."""
    [one] = [one for one in listed(site) if one["transaction"] == request.transaction_id.hex()]
    assert (one["body"], one["requester"], one["profile"]) == (request.body, SECRET.reference, "server")
    assert "CN=device" in one["subjects"]
    return str(one["reference"])


def approve(site: Site, request: Request) -> None:
    cmpd(site, "request", "approve", waiting(site, request))


def reject(site: Site, request: Request, reason: str) -> None:
    cmpd(site, "request", "reject", waiting(site, request), "--reason", reason)


# --- the requester ----------------------------------------------------------------------------------------------------


def told_to_wait(door: PollingDoor, kind: int, value: bytes) -> int:
    """Send a tcp-message that is answered by pollRep; its reference."""
    now = int(time.time())
    kind, value = door.exchange(kind, value)
    assert kind == POLL_REP, value
    reference, when = struct.unpack("!II", value)
    assert reference != 0
    wait = when - now if door.old else when  # RFC 2510: a point in time
    assert 1 <= wait <= SECONDS
    return int(reference)


def fetched(door: PollingDoor, reference: int) -> bytes:
    kind, value = door.exchange(POLL_REQ, struct.pack("!I", reference))
    assert kind == PKI_REP, value
    return value


@dataclass
class CmpPolling:
    """A client that is told by CMP; `last` is the last answer."""

    door: Door
    request: Request
    trust: Trust
    last: Answer

    @classmethod
    def begin(cls, door: Door, request: Request, trust: Trust) -> "CmpPolling":
        """Send a request that is answered by an ip with the status waiting."""
        answer = door.ask(request.der)
        assert answer is not None
        last = verify(answer, request, SECRET, trust, ENV)
        assert last.envelope.body_name == "ip"
        [response] = read_cert_rep(last).responses
        assert (response.cert_req_id, response.status.status, response.certificate) == (0, "waiting", None)
        assert response.status.text == "the request waits for an operator of the CA"
        return cls(door, request, trust, last)

    def poll(self) -> bytes:
        """Send a pollReq, twice: the answer to the repeated one is as good."""
        asked = poll_request(self.request, self.last, [0], ENV)
        answer = self.door.ask(asked.der)
        assert answer is not None
        self.last = verify(answer, asked, SECRET, self.trust, ENV, original=self.request)
        again = self.door.ask(asked.der)
        assert again is not None
        repeated = verify(again, asked, SECRET, self.trust, ENV, original=self.request)
        assert repeated.envelope.body == self.last.envelope.body
        assert repeated.envelope.header.sender_nonce == self.last.envelope.header.sender_nonce
        return answer

    def must_wait(self) -> None:
        self.poll()
        assert self.last.envelope.body_name == "pollRep"
        seconds, reason = read_poll_rep(self.last)
        assert (seconds, reason) == (1, "the request waits for an operator of the CA")

    def certificate_is_there(self) -> bytes:
        answer = self.poll()
        assert self.last.envelope.body_name == "ip"
        [response] = read_cert_rep(self.last).responses
        assert response.certificate is not None
        return answer


# --- polling by tcp-messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLLING)
def test_a_request_waits_under_a_reference_that_stays_the_same(way: Way, trust: Trust, name: str) -> None:
    door, (request, _) = POLLING[name](way), ir(SECRET)
    reference = told_to_wait(door, PKI_REQ, request.der)
    polls = struct.pack("!I", reference)
    assert told_to_wait(door, POLL_REQ, polls) == reference
    door.hang_up()
    assert told_to_wait(door, POLL_REQ, polls) == reference
    assert told_to_wait(door, PKI_REQ, request.der) == reference
    assert waiting(way.site, request) == f"{reference:08X}"

    approve(way.site, request)
    assert not query(way.site, "SELECT 1 FROM certificate WHERE transaction_id = ?", request.transaction_id)
    answer = fetched(door, reference)
    assert certificates_in(answer, request, SECRET, trust)
    assert fetched(door, reference) == answer
    assert door.exchange(PKI_REQ, request.der) == (PKI_REP, answer)
    assert request.transaction_id.hex() not in [one["transaction"] for one in listed(way.site)]
    door.hang_up()


@pytest.mark.parametrize("name", POLLING)
def test_an_unknown_reference_is_told_so(way: Way, name: str) -> None:
    door = POLLING[name](way)
    for reference in (0, UNKNOWN):
        kind, value = door.exchange(POLL_REQ, struct.pack("!I", reference))
        assert kind == ERROR_REP
        if door.old:
            assert b"unknown" in value
        else:
            assert value.startswith(struct.pack("!HHI", ErrorType.InvalidPollID, 4, reference))
    door.hang_up()


def test_a_rejection_is_told_with_its_reason(way: Way, trust: Trust) -> None:
    door, (request, _) = way.tcp(), ir(SECRET)
    reference = told_to_wait(door, PKI_REQ, request.der)
    reject(way.site, request, "not on the list")
    answer = fetched(door, reference)
    [response] = read_cert_rep(verify(answer, request, SECRET, trust, ENV)).responses
    assert response.status.fail_info == ("notAuthorized",)
    assert response.status.text.startswith("request: the operator of the CA has rejected it: not on the list")
    assert fetched(door, reference) == answer
    door.hang_up()


def test_certconf_follows_over_any_door(way: Way, trust: Trust) -> None:
    request, _ = ir(SECRET, implicit=False)
    asking, polling, confirming = way.tcp(), way.base64("https"), way.http()
    reference = told_to_wait(asking, PKI_REQ, request.der)
    assert told_to_wait(polling, POLL_REQ, struct.pack("!I", reference)) == reference
    approve(way.site, request)
    answer = fetched(polling, reference)
    certconf = confirmation(request, answer, certificates_in(answer, request, SECRET, trust))
    pkiconf = confirming.ask(certconf.der)
    assert pkiconf is not None
    verify(pkiconf, certconf, SECRET, trust, ENV)
    assert asking.ask(certconf.der) == pkiconf
    for door in (asking, polling, confirming):
        door.hang_up()


def test_who_is_disabled_meanwhile_gets_nothing(way: Way) -> None:
    other = SharedSecret("other", b"a secret of another one", iterations=500)
    add_secret(way.site, other.reference, other.secret, "--uses", "unlimited", "--profile", "server")
    door, (request, _) = way.tcp(), ir(other)
    reference = told_to_wait(door, PKI_REQ, request.der)
    cmpd(way.site, "request", "approve", f"{reference:08x}")
    cmpd(way.site, "entity", "disable", other.reference)
    fetched(door, reference)
    door.hang_up()
    assert not query(way.site, "SELECT 1 FROM certificate WHERE transaction_id = ?", request.transaction_id)


# --- polling by CMP ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CMP_POLLING)
def test_other_doors_tell_it_by_cmp(way: Way, trust: Trust, name: str) -> None:
    door, (request, _) = CMP_POLLING[name](way), ir(SECRET)
    client = CmpPolling.begin(door, request, trust)
    client.must_wait()
    door.hang_up()
    client.must_wait()
    approve(way.site, request)
    client.certificate_is_there()
    door.hang_up()


def test_a_request_may_be_polled_for_at_another_door(way: Way, trust: Trust) -> None:
    request, _ = ir(SECRET)
    tcp, http = way.tcp(), way.http()
    reference = told_to_wait(tcp, PKI_REQ, request.der)
    client = CmpPolling.begin(http, request, trust)
    client.must_wait()
    client.door = way.tcp("tcp", 1)
    client.must_wait()
    assert told_to_wait(tcp, POLL_REQ, struct.pack("!I", reference)) == reference
    approve(way.site, request)
    answer = fetched(tcp, reference)
    certificates_in(answer, request, SECRET, trust)
    assert http.ask(request.der) == answer
    for door in (tcp, http, client.door):
        door.hang_up()


# --- clients that poll by themselves ----------------------------------------------------------------------------------


def approved_meanwhile(site: Site, command: list[str | Path]) -> str:
    """Run a client; when its request waits, approve it. What it printed."""
    known = {one["reference"] for one in listed(site)}
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        new: list[str] = []

        def is_there() -> bool:
            new[:] = [one["reference"] for one in listed(site) if one["reference"] not in known]
            return bool(new) or process.poll() is not None

        wait_until(is_there)
        if new:
            cmpd(site, "request", "approve", *new)
        printed, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, len(new)) == (0, 1), printed
    return printed


@needs_openssl
@pytest.mark.parametrize("confirm", [[], ["-implicit_confirm"]], ids=["explicit", "implicit"])
def test_openssl_polls_until_it_is_approved(way: Way, tmp_path: Path, confirm: list[str]) -> None:
    key, certificate = tmp_path / "key", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key],
        check=True,
        capture_output=True,
    )
    wish = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=device", "-certout", certificate, *confirm]
    who = ["-ref", SECRET.reference, "-secret", f"file:{way.site.directory / 'device.secret'}"]
    where = ["-server", f"127.0.0.1:{way.port('http')}", "-path", ".well-known/cmp"]
    printed = approved_meanwhile(way.site, ["openssl", "cmp", "-config", "", *wish, *who, *where])
    assert "received 'waiting' PKIStatus, starting to poll for response" in printed
    assert ("received PKICONF" in printed) is (not confirm)
    openssl_verify(way.site.anchor, certificate)


@pytest.mark.parametrize("scheme", ["tcp", "http", "https", "unix", "file"])
def test_cmpc_polls_until_it_is_approved(way: Way, tmp_path: Path, scheme: str) -> None:
    urls = {
        "unix": lambda: f"unix:{way.site.database}.sock",
        "file": lambda: f"file:{way.site.directory / 'spool'}",
    }
    url = urls.get(scheme, lambda: f"{scheme}://127.0.0.1:{way.port(scheme)}")()
    who = ["--ref", SECRET.reference, "--secret-file", way.site.directory / "device.secret"]
    trusted = ["--trusted", way.site.anchor]
    trusted += ["--tls-ca", way.site.directory / "tls-ca.pem"] if scheme == "https" else []
    wish = ["ir", "--server", url, "--subject", "CN=device", "--out-dir", tmp_path, *trusted]
    approved_meanwhile(way.site, [sys.executable, "-m", "cmpd.cli.cmpc", *wish, *who])
    assert (tmp_path / "cert.pem").read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")


# --- restarts ---------------------------------------------------------------------------------------------------------


def stop(server: Server, how: str) -> None:
    if how == "SIGKILL":
        server.kill()
    else:
        assert server.terminate() == 0


@pytest.mark.parametrize("approved_by", ["running", "stopped"])
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_restarts_lose_nothing(stopped: Site, how: str, approved_by: str) -> None:
    trust = trust_in(stopped.anchor)
    request, _ = ir(SECRET)
    other, _ = ir(SECRET, implicit=False)
    with stopped.serving() as server, Way(stopped, server) as way:
        reference = told_to_wait(way.tcp(), PKI_REQ, request.der)
        client = CmpPolling.begin(way.http(), other, trust)
        client.must_wait()
        stop(server, how)
    with stopped.serving() as server, Way(stopped, server) as way:  # between request and approval
        assert told_to_wait(way.tcp(old=True), POLL_REQ, struct.pack("!I", reference)) == reference
        assert told_to_wait(way.tcp(), PKI_REQ, request.der) == reference
        client.door = way.http()
        client.must_wait()
        if approved_by == "running":
            approve(stopped, request)
            approve(stopped, other)
        stop(server, how)
    if approved_by == "stopped":
        approve(stopped, request)
        approve(stopped, other)
    with stopped.serving() as server, Way(stopped, server) as way:  # between approval and poll
        answer = fetched(way.tcp(), reference)
        assert certificates_in(answer, request, SECRET, trust)
        client.door = way.http("https")
        second = client.certificate_is_there()
        stop(server, how)
    with stopped.serving() as server, Way(stopped, server) as way:  # between the answer and certConf
        assert fetched(way.http_frames(), reference) == answer
        issued = {one.cert_req_id: one.certificate for one in read_cert_rep(client.last).responses}
        certconf = confirmation(other, second, issued)
        pkiconf = way.tcp().ask(certconf.der)
        assert pkiconf is not None
        assert verify(pkiconf, certconf, SECRET, trust, ENV).envelope.body_name == "pkiconf"
        stop(server, how)
