"""curl with each wrong thing: what HTTP says of it (RFC 9110, RFC 9811), and that the door stays open."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmpd.client.credentials import SharedSecret
from cmpd.client.responses import Trust
from tests.end_to_end.asking import certificates_in, enrol, ir, trust_in
from tests.end_to_end.doors import PKIXCMP, POLL, seen
from tests.end_to_end.ways import TLS_KEYS, Way, serving_with, write_holder
from tests.support import needs_curl

pytestmark = needs_curl

SECRET = SharedSecret("device", b"a secret of the tests", iterations=500)
LIMIT = 4096

CONFIGURATION = f"""
[[http]]
listen = "127.0.0.1:0"
max_message_octets = {LIMIT}
path = "/other/path"

[[http]]
listen = "127.0.0.1:0"
tcp_messages = false
bodies = ["cr"]

[[http]]
listen = "127.0.0.1:0"
enabled = false

[[http]]
listen = "127.0.0.1:0"
{TLS_KEYS}tls_minimum = "1.3"

[[http]]
listen = "127.0.0.1:0"
{TLS_KEYS}tls_client = "required"

[profile.other]
"""
OPEN, STRICT = 0, 1


@dataclass
class Answer:
    """What curl got. `code`: its exit code, `status` 0 if there was no answer."""

    code: int
    status: int
    version: str
    fields: dict[str, list[str]]
    content: bytes
    said: str


@dataclass
class Curl:
    """Runs curl in `directory`."""

    way: Way
    directory: Path

    def __call__(
        self, *options: str | Path, path: str = "/.well-known/cmp", scheme: str = "http", number: int = 0
    ) -> Answer:
        host, port = self.way.address(scheme, number)
        body, head = self.directory / "body", self.directory / "head"
        body.unlink(missing_ok=True)
        tls = ["--cacert", str(self.way.site.directory / "tls-ca.pem")] if scheme == "https" else []
        command = [
            "curl",
            "-sS",
            "--max-time",
            "60",
            "-D",
            str(head),
            "-o",
            str(body),
            "-w",
            "%{http_code} %{http_version}",
        ]
        done = subprocess.run(
            [*command, *tls, *map(str, options), f"{scheme}://{host}:{port}{path}"],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        status, _, version = done.stdout.partition(" ")
        content = body.read_bytes() if body.exists() else b""
        return Answer(done.returncode, int(status), version, _fields(head), content, done.stderr)

    def post(self, file: Path, *options: str | Path, media_type: str = PKIXCMP, **where: object) -> Answer:
        content = ["--data-binary", f"@{file}", "-H", f"Content-Type: {media_type}", "-H", "Expect:"]
        return self(*content, *options, **where)


def _fields(head: Path) -> dict[str, list[str]]:
    """The fields of the last response in a file of heads."""
    found: dict[str, list[str]] = {}
    for line in head.read_text().splitlines() if head.exists() else []:
        name, colon, value = line.partition(":")
        if line.startswith("HTTP/"):
            found = {}
        elif colon:
            found.setdefault(name.lower(), []).append(value.strip())
    return found


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    directory = tmp_path_factory.mktemp("curl") / "ca"
    with serving_with(directory, CONFIGURATION, SECRET, "--uses", "unlimited") as way:
        yield way


@pytest.fixture(scope="module")
def trust(way: Way) -> Trust:
    return trust_in(way.site.anchor)


@pytest.fixture
def curl(way: Way, tmp_path: Path) -> Curl:
    return Curl(way, tmp_path)


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    """An ir that nobody has sent yet."""
    return write(tmp_path, ir(SECRET)[0].der)


def write(directory: Path, octets: bytes, name: str = "content") -> Path:
    file = directory / name
    file.write_bytes(octets)
    return file


def is_text(answer: Answer, status: int) -> str:
    """The text of an answer without CMP."""
    assert answer.status == status, answer
    assert answer.fields["content-type"] == ["text/plain; charset=utf-8"]
    assert answer.fields["cache-control"] == ["no-store"]
    text = answer.content.decode()
    assert text.startswith(f"{status} ")
    return text


def error_in(answer: Answer) -> str:
    """failInfo of a CMP error that came with an answer of HTTP."""
    assert answer.fields["content-type"] == [PKIXCMP]
    return " ".join(seen(answer.content, None)["content"].fail_info)


# --- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/.well-known/cmp", "/other/path", "/.well-known/cmp/p/other/initialization"])
def test_a_post_of_der_is_answered_with_der(curl: Curl, trust: Trust, tmp_path: Path, path: str) -> None:
    request, _ = ir(SECRET)
    answer = curl.post(write(tmp_path, request.der), path=path)
    assert (answer.status, answer.version, answer.fields["content-type"]) == (200, "1.1", [PKIXCMP])
    assert answer.fields["content-length"] == [str(len(answer.content))]
    if "other/init" not in path:
        assert certificates_in(answer.content, request, SECRET, trust)


def test_http_1_0_is_spoken(curl: Curl, trust: Trust, tmp_path: Path) -> None:
    request, _ = ir(SECRET)
    answer = curl.post(write(tmp_path, request.der), "--http1.0")
    assert answer.status == 200
    assert certificates_in(answer.content, request, SECRET, trust)


def test_a_content_in_chunks_is_read(curl: Curl, trust: Trust, tmp_path: Path) -> None:
    request, _ = ir(SECRET)
    answer = curl.post(write(tmp_path, request.der), "-H", "Transfer-Encoding: chunked")
    assert answer.status == 200
    assert certificates_in(answer.content, request, SECRET, trust)


def test_expect_is_answered_with_continue(curl: Curl, trust: Trust, tmp_path: Path) -> None:
    request, _ = ir(SECRET)
    file = write(tmp_path, request.der)
    answer = curl(
        "--data-binary",
        f"@{file}",
        "-H",
        f"Content-Type: {PKIXCMP}",
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "50",
    )
    assert answer.status == 200
    assert certificates_in(answer.content, request, SECRET, trust)
    assert "100 Continue" in (tmp_path / "head").read_text()


def test_http_2_is_not_spoken_and_1_1_is_offered(curl: Curl, request_file: Path) -> None:
    assert curl.post(request_file, "--http2").version == "1.1"  # Upgrade is ignored
    answer = curl.post(request_file, "--http2-prior-knowledge")
    assert answer.code != 0
    assert curl.post(request_file, "--http2", scheme="https").version == "1.1"  # nothing else by ALPN


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_not_allowed(curl: Curl, request_file: Path, method: str) -> None:
    answer = curl.post(request_file, "-X", method) if method == "PUT" else curl("-X", method)
    assert "want POST" in is_text(answer, 405)
    assert answer.fields["allow"] == ["POST"]


def test_head_is_not_allowed(curl: Curl) -> None:
    answer = curl("--head")
    assert (answer.status, answer.fields["allow"]) == (405, ["POST"])


@pytest.mark.parametrize(
    "field", ["text/plain", "application/pkcs10", "application/x-www-form-urlencoded", "multipart/form-data", "pkixcmp"]
)
def test_another_content_type_is_not_supported(curl: Curl, request_file: Path, field: str) -> None:
    assert PKIXCMP in is_text(curl.post(request_file, media_type=field), 415)


def test_no_content_type_is_not_supported(curl: Curl, request_file: Path) -> None:
    answer = curl("--data-binary", f"@{request_file}", "-H", "Content-Type:")
    assert PKIXCMP in is_text(answer, 415)


def test_a_content_that_is_compressed_is_not_supported(curl: Curl, request_file: Path) -> None:
    is_text(curl.post(request_file, "-H", "Content-Encoding: gzip"), 415)


def test_a_content_type_with_parameters_and_capitals_is_supported(curl: Curl, request_file: Path) -> None:
    assert curl.post(request_file, media_type="Application/PKIXCMP; charset=x").status == 200


def test_a_post_without_a_length_is_told_to_name_one(curl: Curl) -> None:
    answer = curl("-X", "POST", "-H", f"Content-Type: {PKIXCMP}", "-H", "Content-Length:")
    assert "Content-Length" in is_text(answer, 411)


@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
@pytest.mark.parametrize("coding", ["Content-Length", "chunked"])
def test_what_is_too_large_is_refused(curl: Curl, tmp_path: Path, expect: str, coding: str) -> None:
    file = write(tmp_path, bytes(200_000))
    fields = ["-H", "Transfer-Encoding: chunked"] if coding == "chunked" else []
    options = ["--data-binary", f"@{file}", "-H", f"Content-Type: {PKIXCMP}", "-H", expect, *fields]
    answer = curl(*options, "--expect100-timeout", "50")
    assert answer.status == 413
    assert "413 " in (tmp_path / "head").read_text()
    if expect != "Expect:" and coding != "chunked":
        assert "100 Continue" not in (tmp_path / "head").read_text()  # refused before it was sent


def test_a_message_that_is_too_large_in_der_but_not_in_base64(curl: Curl, tmp_path: Path) -> None:
    """Contents may be longer than messages, because of Base64."""
    assert "want at most 4096 octets" in is_text(curl.post(write(tmp_path, b"\x30\x82\x10\x00" + bytes(4096))), 413)


def test_another_expectation_fails(curl: Curl, request_file: Path) -> None:
    assert curl.post(request_file, "-H", "Expect: miracles").status == 417


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/cmp",
        "/other",
        "/other/path/more",
        "/.well-known/",
        "/.well-known/cmp/unheard-of",
        "/.well-known/cmp/p/unheard-of",
        "/.well-known/cmp/p/other/unheard-of",
        "/.well-known/cmp/initialization/more",
        "/.well-known/cmp?query",
        "/.well-known%2Fcmp",
        "/.well-known/cmp/../cmp/x",
    ],
)
def test_an_unknown_path_is_not_found(curl: Curl, request_file: Path, path: str) -> None:
    is_text(curl.post(request_file, "--path-as-is", path=path), 404)


def test_a_body_that_is_not_for_the_operation_is_refused_by_cmp(curl: Curl, request_file: Path) -> None:
    answer = curl.post(request_file, path="/.well-known/cmp/revocation")
    assert (answer.status, error_in(answer)) == (200, "badRequest")


def test_a_body_that_is_not_for_the_door_is_refused_by_cmp(curl: Curl, request_file: Path) -> None:
    answer = curl.post(request_file, number=1)
    assert (answer.status, error_in(answer)) == (200, "badRequest")


@pytest.mark.parametrize("content", [b"garbage", b"\xff\xfe\xfd", b"GET / HTTP/1.1", b"<xml/>", b"===="])
def test_garbage_is_a_bad_request(curl: Curl, tmp_path: Path, content: bytes) -> None:
    is_text(curl.post(write(tmp_path, content)), 400)


def test_no_content_is_a_bad_request(curl: Curl, tmp_path: Path) -> None:
    is_text(curl.post(write(tmp_path, b"")), 400)


@pytest.mark.parametrize("content", [b"\x30\x03\x02\x01\x02", b"\x30\x80\x00\x00", b"\x30"], ids=["der", "ber", "30"])
def test_what_begins_like_a_message_is_a_bad_request_with_a_cmp_error(
    curl: Curl, tmp_path: Path, content: bytes
) -> None:
    answer = curl.post(write(tmp_path, content))
    assert (answer.status, error_in(answer)) == (400, "badDataFormat")


def test_a_message_with_something_behind_it_is_a_bad_request(curl: Curl, tmp_path: Path) -> None:
    answer = curl.post(write(tmp_path, ir(SECRET)[0].der + b"\0"))
    assert (answer.status, error_in(answer)) == (400, "badDataFormat")


def test_a_tcp_message_with_a_wrong_type_is_answered_in_kind(curl: Curl, tmp_path: Path) -> None:
    answer = curl.post(write(tmp_path, b"\0\0\0\x03\x0a\0\x07"), media_type=POLL)
    assert (answer.status, answer.content[4:7], answer.fields["content-type"]) == (200, b"\x0a\0\x06", [POLL])


def test_tcp_messages_are_not_taken_where_they_are_switched_off(curl: Curl, tmp_path: Path) -> None:
    is_text(curl.post(write(tmp_path, b"\0\0\0\x03\x0a\0\x07"), number=1), 400)
    is_text(curl.post(write(tmp_path, b"\0\0\0\x03\x0a\0\x07"), number=1, media_type=POLL), 415)


def test_a_head_that_is_too_long_is_refused(curl: Curl, request_file: Path) -> None:
    answer = curl.post(request_file, "-H", f"X-Long: {'x' * 20_000}")
    assert answer.status in (400, 431)


def test_two_hosts_are_a_bad_request(curl: Curl, request_file: Path) -> None:
    assert curl.post(request_file, "-H", "Host:").status == 400


def test_a_door_that_is_switched_off_is_not_there(way: Way) -> None:
    assert len(way.server.places["http"]) == 2


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_a_client_certificate_that_is_required_and_missing(curl: Curl, request_file: Path) -> None:
    answer = curl.post(request_file, scheme="https", number=STRICT)
    assert (answer.status, answer.code) in [(0, code) for code in (35, 52, 55, 56)]


def test_a_client_certificate_that_is_there(curl: Curl, way: Way, trust: Trust, tmp_path: Path) -> None:
    certificate, key = write_holder(tmp_path, "holder", enrol(way.port("tcp"), SECRET, trust))
    request, _ = ir(SECRET)
    shown = ["--cert", certificate, "--key", key]
    answer = curl.post(write(tmp_path, request.der), *shown, scheme="https", number=STRICT)
    assert answer.status == 200
    assert certificates_in(answer.content, request, SECRET, trust)


def test_an_old_version_of_tls_is_refused(curl: Curl, request_file: Path) -> None:
    for options in (["--tls-max", "1.2"], ["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]):
        assert curl.post(request_file, *options, scheme="https", number=OPEN).code == 35
    old = curl.post(request_file, "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", scheme="https", number=STRICT)
    assert old.code == 35
    assert curl.post(request_file, "--tlsv1.3", scheme="https", number=OPEN).status == 200


def test_a_server_certificate_that_is_not_trusted(curl: Curl, way: Way, request_file: Path) -> None:
    options = ["--cacert", way.site.anchor]
    assert curl.post(request_file, *options, scheme="https", number=OPEN).code == 60
