"""Clients that neither protect their messages nor confirm: Base64 of a tcp-message over HTTPS, as z/OS clients do it.

The TLS client certificate stands for the protection; its registered entity's rights apply, and no others.
"""

import base64
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmpd.asn1.names import encode_name
from cmpd.client.credentials import KeyAndCertificate, SharedSecret, Unprotected
from cmpd.client.errors import CmpClientError
from cmpd.client.messages import (
    Request,
    Template,
    cert_request,
    certification_request,
    p10_request,
)
from cmpd.client.responses import Trust, read_cert_rep, verify
from cmpd.client.revocation import RevDetails, rev_request
from tests.end_to_end.asking import ENV, accepted, certificates_in, confirmation, enrol, ir, new_key, trust_in
from tests.end_to_end.doors import (
    ERROR_REP,
    PKI_REP,
    PKIXCMP,
    HttpFrameDoor,
    frame,
    from_base64,
    read_frame,
    wait_until,
)
from tests.end_to_end.published import query
from tests.end_to_end.ways import TLS_KEYS, Way, client_context, cmpd, serving_with, write_holder

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)

CONFIGURATION = f"""
[[http]]
listen = "127.0.0.1:0"
{TLS_KEYS}tls_client = "required"
tls_authenticates = true
bodies = ["cr", "p10cr", "rr"]
default_profile = "zos"

[[http]]
listen = "127.0.0.1:0"
{TLS_KEYS}tls_client = "required"

[[tcp]]
listen = "127.0.0.1:0"
{TLS_KEYS}tls_client = "optional"
tls_authenticates = true

[profile.zos]
await_confirmation = false
validity = "2d"
"""
TAKES, REFUSES = 0, 1
PROFILES = ("--profile", "default", "--profile", "zos")
"""The second one is the door's default."""


class Mainframe:
    """A TLS client that shows a certificate and sends nothing protected."""

    def __init__(self, way: Way, directory: Path, holder: KeyAndCertificate) -> None:
        self.way = way
        self.holder = holder
        certificate, key = write_holder(directory, f"{holder.certificate.serial:x}", holder)
        self.context = client_context(way.site.directory, certificate, key)
        self.credential = Unprotected(holder.certificate)

    def connect(self, number: int = TAKES) -> http.client.HTTPConnection:
        return self.way.connect_http("https", number, self.context)

    def post(self, content: bytes, number: int = TAKES) -> tuple[int, bytes]:
        connection = self.connect(number)
        connection.request("POST", "/cmp", content, {"Content-Type": PKIXCMP})
        answer = connection.getresponse()
        received = answer.read()
        connection.close()
        return answer.status, received

    def ask(self, request: Request, number: int = TAKES) -> bytes:
        door = HttpFrameDoor(lambda: self.connect(number), "/cmp", PKIXCMP, encode=base64.b64encode, decode=from_base64)
        answer = door.ask(request.der)
        door.hang_up()
        assert answer is not None
        return answer

    def refused(self, request: Request, trust: Trust, number: int = TAKES) -> str:
        with pytest.raises(CmpClientError) as caught:
            verify(self.ask(request, number), request, self.credential, trust, ENV)
        assert caught.value.protected_by
        return str(caught.value)

    def cr(self, subject: str) -> Request:
        return cert_request(
            "cr", [Template(new_key(), encode_name(subject))], self.credential, ENV, implicit_confirm=False
        )


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    directory = tmp_path_factory.mktemp("base64") / "ca"
    with serving_with(directory, CONFIGURATION, SECRET, "--uses", "unlimited", "--profile", "default") as way:
        yield way


@pytest.fixture(scope="module")
def trust(way: Way) -> Trust:
    return trust_in(way.site.anchor)


@pytest.fixture(scope="module")
def mainframe(way: Way, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Mainframe:
    """An RA that may use the profile zos, registered while the server runs."""
    directory = tmp_path_factory.mktemp("mainframe")
    made = Mainframe(way, directory, enrol(way.port("tcp"), SECRET, trust, "/CN=mainframe"))
    certificate = directory / f"{made.holder.certificate.serial:x}.pem"
    cmpd(way.site, "entity", "add", "mainframe", "--cert", certificate, "--ra", *PROFILES)
    return made


@pytest.fixture(scope="module")
def plain(way: Way, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Mainframe:
    """A device with a certificate of this CA, and no other rights."""
    return Mainframe(way, tmp_path_factory.mktemp("plain"), enrol(way.port("tcp"), SECRET, trust, "/CN=plain"))


def state_of(way: Way, serial: int) -> str:
    [(state,)] = query(way.site, "SELECT state FROM certificate WHERE serial = ?", serial.to_bytes(16, "big"))
    return str(state)


def test_a_certificate_is_got_and_valid_without_confirmation(way: Way, trust: Trust, mainframe: Mainframe) -> None:
    request = mainframe.cr("/O=Test/CN=a user")
    assert b"a user" in request.der
    status, content = mainframe.post(base64.b64encode(frame(0, request.der)))
    kind, answer = read_frame(from_base64(content))
    assert (status, kind) == (200, PKI_REP)
    assert verify(answer, request, mainframe.credential, trust, ENV).envelope.body_name == "cp"
    certificate = certificates_in(answer, request, mainframe.credential, trust)[0]
    assert certificate.parsed.subject.rfc4514_string() == "CN=a user,O=Test"
    lifetime = certificate.parsed.not_valid_after_utc - certificate.parsed.not_valid_before_utc
    assert lifetime.days == 2  # of the door's profile
    assert state_of(way, certificate.serial) == "confirmed"
    assert mainframe.post(base64.b64encode(frame(0, request.der)))[1] == content  # the same, when it comes again


@pytest.mark.parametrize("old", [False, True], ids=["version 10", "RFC 2510"])
@pytest.mark.parametrize("lines", [False, True], ids=["one line", "lines"])
def test_each_form_is_answered_in_kind(trust: Trust, mainframe: Mainframe, old: bool, lines: bool) -> None:
    request = mainframe.cr("/CN=a user")
    encode = base64.encodebytes if lines else base64.b64encode
    status, content = mainframe.post(encode(frame(0, request.der, old=old)))
    assert status == 200
    assert (b"\r\n" in content) is lines
    _, answer = read_frame(from_base64(content), old=old)
    assert certificates_in(answer, request, mainframe.credential, trust)


def test_der_in_base64_is_answered_in_kind(trust: Trust, mainframe: Mainframe) -> None:
    request = mainframe.cr("/CN=a user")
    status, content = mainframe.post(base64.b64encode(request.der))
    assert status == 200
    assert certificates_in(from_base64(content), request, mainframe.credential, trust)


def test_a_pkcs10_request(way: Way, trust: Trust, mainframe: Mainframe) -> None:
    csr = certification_request(Template(new_key(), encode_name("/CN=a user")))
    request = p10_request(csr, mainframe.credential, ENV, implicit_confirm=False)
    [certificate] = certificates_in(mainframe.ask(request), request, mainframe.credential, trust).values()
    assert state_of(way, certificate.serial) == "confirmed"


def test_certificates_are_suspended_resumed_and_revoked(way: Way, trust: Trust, mainframe: Mainframe) -> None:
    request = mainframe.cr("/CN=a user")
    certificate = certificates_in(mainframe.ask(request), request, mainframe.credential, trust)[0]
    for reason, state in (
        ("certificateHold", "suspended"),
        ("removeFromCRL", "confirmed"),
        ("keyCompromise", "revoked"),
    ):
        details = [RevDetails.of(certificate, reason)]
        change = rev_request(details, mainframe.credential, ENV)
        answer = mainframe.ask(change)
        assert accepted(answer, change, details, mainframe.credential, trust) == [True]
        assert state_of(way, certificate.serial) == state
        assert mainframe.ask(change) == answer


def test_a_certconf_that_comes_all_the_same_is_answered(trust: Trust, mainframe: Mainframe) -> None:
    request = mainframe.cr("/CN=a user")
    answer = mainframe.ask(request)
    issued = certificates_in(answer, request, mainframe.credential, trust)
    certconf = confirmation(request, answer, issued)
    pkiconf = mainframe.ask(certconf)
    assert verify(pkiconf, certconf, mainframe.credential, trust, ENV).envelope.body_name == "pkiconf"


def test_the_rights_are_those_of_the_entity(trust: Trust, mainframe: Mainframe, plain: Mainframe) -> None:
    """Who is no RA may ask for its own subject alone, and change no certificate of others."""
    request = plain.cr("/CN=somebody else")
    responses = read_cert_rep(verify(plain.ask(request), request, plain.credential, trust, ENV)).responses
    assert [one.status.fail_info for one in responses] == [("notAuthorized",)]
    other = mainframe.cr("/CN=a user")
    certificate = certificates_in(mainframe.ask(other), other, mainframe.credential, trust)[0]
    details = [RevDetails.of(certificate, "keyCompromise")]
    change = rev_request(details, plain.credential, ENV)
    assert accepted(plain.ask(change), change, details, plain.credential, trust) == [False]


def test_bodies_that_the_door_does_not_take_are_refused(trust: Trust, mainframe: Mainframe) -> None:
    request, _ = ir(mainframe.credential)
    assert "(badRequest): body: want cr or p10cr or rr at this endpoint, have ir" in mainframe.refused(request, trust)


def test_another_door_takes_nothing_unprotected(trust: Trust, mainframe: Mainframe) -> None:
    assert "(badMessageCheck)" in mainframe.refused(mainframe.cr("/CN=a user"), trust, REFUSES)


def test_a_sender_that_is_somebody_else_is_refused(trust: Trust, mainframe: Mainframe, plain: Mainframe) -> None:
    """The sender of a message without protection is the TLS client's subject."""
    request = cert_request(
        "cr", [Template(new_key(), encode_name("/CN=mainframe"))], Unprotected(mainframe.holder.certificate), ENV
    )
    assert "(badMessageCheck): sender: want the NULL-DN or the subject of" in plain.refused(request, trust)


def test_the_same_over_tcp_with_tls(way: Way, trust: Trust, mainframe: Mainframe) -> None:
    request = mainframe.cr("/CN=a user")
    with way.connect("tls", context=mainframe.context) as sock:
        sock.sendall(frame(0, request.der))
        received = sock.recv(4)
        while len(received) < 4 + int.from_bytes(received[:4], "big"):
            received += sock.recv(65536)
    _, answer = read_frame(received)
    assert certificates_in(answer, request, mainframe.credential, trust)


def test_faults_of_the_frame_come_in_base64_too(mainframe: Mainframe) -> None:
    status, content = mainframe.post(base64.b64encode(frame(7, b"")))
    kind, value = read_frame(from_base64(content))
    assert (status, kind, value[:2]) == (200, ERROR_REP, b"\x02\x01")
    status, content = mainframe.post(base64.b64encode(frame(0, b"")[:-1]))
    assert (status, read_frame(from_base64(content))[0]) == (200, ERROR_REP)
    assert mainframe.post(base64.b64encode(b"no frame"))[0] == 400


def test_who_is_disabled_gets_nothing_any_more(way: Way, trust: Trust, tmp_path: Path, mainframe: Mainframe) -> None:
    client = Mainframe(way, tmp_path, enrol(way.port("tcp"), SECRET, trust, "/CN=leaving"))
    certificate = tmp_path / f"{client.holder.certificate.serial:x}.pem"
    cmpd(way.site, "entity", "add", "leaving", "--cert", certificate, "--ra", *PROFILES)
    request = client.cr("/CN=a user")
    assert certificates_in(client.ask(request), request, client.credential, trust)
    cmpd(way.site, "entity", "disable", "leaving")

    def is_refused() -> bool:
        again = client.cr("/CN=a user")
        try:
            certificates_in(client.ask(again), again, client.credential, trust)
        except (AssertionError, CmpClientError, OSError):
            return True
        return False

    wait_until(is_refused)
    other = mainframe.cr("/CN=a user")
    assert certificates_in(mainframe.ask(other), other, mainframe.credential, trust)
