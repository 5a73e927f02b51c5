"""The command cmpc through every kind of door, with TLS options, without protection, and with an operator who waits."""

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from cmpd.asn1.names import encode_name
from cmpd.cli.cmpc import main
from cmpd.client import base
from cmpd.client.certificates import load_certificates
from cmpd.client.keys import KEY_TYPES, load_key, public_key_info
from cmpd.client.messages import Template, certification_request
from cmpd.client.responses import FAIL_INFO
from cmpd.message import decode
from tests.client.ca import SECRET, TLS_SERVER, Ca, Forge, error_content, forged, issue
from tests.client.test_files import answers, left, looking_into
from tests.client.test_polling import SlowCa
from tests.client.web import Visitor, server_context, serving_http, write_pair
from tests.client.wire import Peer, serving

SCHEMES = ("tcp", "tls", "http", "https", "file", "unix")
BY_SECRET = ("--ref", "device-17", "--secret-file", "secret", "--iterations", "500")
ROOT = Path(__file__).parents[2]
FOR_TLS = ("--tls-host", "ca.example")
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlowCa:
    """A CA, by itself without delay; its files are where cmpc runs."""
    made = SlowCa.make()
    made.respond = lambda octets: Ca.respond(made, octets)
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    (tmp_path / "ca.pem").write_bytes(made.root.certificate.pem)
    write_pair(tmp_path, "device", issue("device-7", made.sub), made.sub)
    write_pair(tmp_path, "locked", issue("device-8", made.sub), made.sub, passphrase=b"open")
    (tmp_path / "phrase").write_bytes(b"open\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "SHORTEST_WAIT", 0)
    return made


@pytest.fixture
def run(ca: SlowCa, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `cmpc ARGUMENTS --server ...` on a thread, against a door of that scheme: exit code, output, errors."""
    seen: list[str] = []

    async def frames(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            await peer.answer(ca.respond(message[2]))

    async def web(visitor: Visitor) -> None:
        while (asked := await visitor.read()) is not None:
            seen.append(asked.line)
            await visitor.answer(ca.respond(asked.body))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await frames(Peer(0, reader, writer))
        writer.close()

    async def door(scheme: str, stack: AsyncExitStack) -> str:
        tls_pair = write_pair(tmp_path, "server", issue("s", ca.sub, usage=(TLS_SERVER,), san="ca.example"), ca.sub)
        context = server_context(tls_pair)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations("ca.pem")
        if scheme in ("http", "https"):
            server = await stack.enter_async_context(serving_http(web, context if scheme == "https" else None))
            return f"{scheme}://127.0.0.1:{server.port}"
        if scheme == "file":
            (tmp_path / "spool").mkdir(exist_ok=True)
            await stack.enter_async_context(looking_into(tmp_path / "spool", lambda path: answers(path, ca.respond)))
            return "file:spool"
        if scheme == "tcp":
            return f"tcp://127.0.0.1:{(await stack.enter_async_context(serving(frames))).port}"
        if scheme == "unix":
            listening: asyncio.Server = await asyncio.start_unix_server(connected, tmp_path / "sock")
        else:
            listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
        stack.callback(listening.close)
        return "unix:sock" if scheme == "unix" else f"tls://127.0.0.1:{listening.sockets[0].getsockname()[1]}"

    async def cmpc(scheme: str, *arguments: str) -> tuple[int, str, str]:
        async with AsyncExitStack() as stack:
            server = await door(scheme, stack)
            code = await asyncio.to_thread(main, [*arguments, "--server", server])
            await asyncio.sleep(0.01)
        out, err = capsys.readouterr()
        return code, out, err

    return cmpc


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_certificate_comes_through_every_door(ca: SlowCa, run: Run, tmp_path: Path, scheme: str) -> None:
    forged(ca, grant_implicit=False)
    more = FOR_TLS if scheme in ("tls", "https") else ()
    code, out, err = await run(scheme, "ir", *BY_SECRET, *more, "--trusted", "ca.pem", "--subject", "CN=x")
    assert code == 0, err
    [certificate] = load_certificates(tmp_path / "cert.pem")
    assert certificate.public_key_info == public_key_info(load_key(tmp_path / "key.pem"))
    assert [name for name, _ in ca.received] == ["ir", "certConf"]
    assert f"{certificate.serial:x}" in out
    assert not [name for name in left(tmp_path) if name.endswith(".pending")]


@pytest.mark.parametrize("scheme", ["tls", "https"])
async def test_a_servers_tls_certificate_is_held_against_tls_ca_or_trusted(
    run: Run, tmp_path: Path, scheme: str
) -> None:
    (tmp_path / "other.pem").write_bytes(issue("other", ca=True).certificate.pem)
    arguments = ("ir", *BY_SECRET, "--subject", "CN=x", "--new-key", "k")
    for more in ((), ("--trusted", "ca.pem", "--tls-ca", "other.pem")):
        code, _, err = await run(scheme, *arguments, *FOR_TLS, *more)
        assert (code, "not to be trusted" in err) == (1, True), err
    code, _, err = await run(scheme, *arguments, "--tls-ca", "ca.pem")
    assert (code, "127.0.0.1" in err) == (1, True), err
    code, _, err = await run(scheme, *arguments, *FOR_TLS, "--tls-ca", "ca.pem")
    assert code == 0, err


@pytest.mark.parametrize("scheme", ["tls", "https"])
@pytest.mark.parametrize("command", ["ir", "cr", "p10cr", "rr"])
async def test_without_protection_the_tls_certificate_says_who_asks(
    ca: SlowCa, run: Run, scheme: str, command: str
) -> None:
    forged(ca, protection="signature")
    what = ("--oldcert", "device.pem") if command == "rr" else ("--subject", "CN=x")
    code, _, err = await run(
        *(scheme, command, "--unprotected", "--tls-cert", "locked.pem", "--tls-key", "locked.key"),
        *("--tls-key-passphrase-file", "phrase", "--trusted", "ca.pem", *FOR_TLS, *what),
    )
    assert code == 0, err
    [(name, envelope)] = ca.received
    assert name == command
    assert (envelope.protection, envelope.header.protection_alg) == (None, None)
    assert b"device-8" in envelope.header.sender


async def test_an_answer_without_a_signature_is_not_believed_though_the_request_had_none(ca: SlowCa, run: Run) -> None:
    for protection in ("none", "mac"):
        forged(ca, protection=protection)
        code, _, err = await run(
            *("https", "ir", "--unprotected", "--tls-cert", "device.pem", "--tls-key", "device.key", *FOR_TLS),
            *("--trusted", "ca.pem", "--subject", "CN=x", "--new-key", "k"),
        )
        assert (code, "protected" in err) == (1, True), err


@pytest.mark.parametrize(
    ("server", "arguments", "text"),
    [
        ("ftp://x", BY_SECRET, "--server: want HOST[:PORT]"),
        ("tls://x", BY_SECRET, "--server: want tls://HOST:PORT"),
        ("http://x", (*BY_SECRET, "--tls-ca", "ca.pem"), "--tls-ca goes with tls:// and https://"),
        ("https://x", (*BY_SECRET, "--tls-cert", "device.pem"), "want --tls-cert FILE and --tls-key FILE"),
        ("https://x", ("--unprotected",), "--unprotected needs tls:// or https:// and --tls-cert"),
        ("http://x", ("--unprotected",), "--unprotected needs tls:// or https://"),
        ("https://x", ("--unprotected", *BY_SECRET), "have two of them"),
        (
            "https://x",
            ("--unprotected", "--tls-cert", "device.pem", "--tls-key", "device.key"),
            "--unprotected needs --trusted",
        ),
        ("https://x", (*BY_SECRET, "--tls-cert", "locked.pem", "--tls-key", "locked.key"), "--tls-key-passphrase-file"),
        ("https://x", (*BY_SECRET, "--tls-cert", "device.pem", "--tls-key", "locked.key"), "locked.key is encrypted"),
        ("https://x", (*BY_SECRET, "--tls-ca", "secret"), "want certificates in PEM"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_before_a_key_is_made(
    ca: SlowCa, capsys: pytest.CaptureFixture[str], server: str, arguments: tuple[str, ...], text: str
) -> None:
    code = await asyncio.to_thread(main, ["ir", "--server", server, *arguments, "--subject", "CN=x"])
    out, err = capsys.readouterr()
    assert (code, out, text in err) == (2, "", True), err
    assert len(err.splitlines()) == 1
    assert "key.pem" not in left(Path())


# --- an operator who has to be waited for ----------------------------------------------------------------------------


@pytest.fixture
def slow(ca: SlowCa) -> SlowCa:
    """The CA, now with an operator."""
    ca.respond = lambda octets: SlowCa.respond(ca, octets)
    return ca


@pytest.mark.parametrize("scheme", ["http", "file"])
async def test_who_has_to_wait_is_told_and_gets_the_certificate(
    slow: SlowCa, run: Run, tmp_path: Path, scheme: str
) -> None:
    code, _, err = await run(scheme, "ir", *BY_SECRET, "--trusted", "ca.pem", "--subject", "CN=x")
    assert code == 0, err
    waiting = [line for line in err.splitlines() if "waiting for the CA's operator (the operator sleeps)" in line]
    assert len(waiting) == 2
    assert "asking again in 0 s; the request is kept in cert.pem.pending" in waiting[0]
    assert "kept" not in waiting[1]
    assert not (tmp_path / "cert.pem.pending").exists()


async def test_the_same_command_goes_on_with_a_request_that_was_left(slow: SlowCa, run: Run, tmp_path: Path) -> None:
    slow.check_after = 3600
    arguments = ("ir", *BY_SECRET, "--trusted", "ca.pem", "--subject", "CN=x")
    code, _, err = await run("http", *arguments)
    assert (code, "want one within 600 s" in err, "cert.pem.pending" in err) == (1, True, True), err
    assert (tmp_path / "cert.pem.pending").stat().st_mode & 0o777 == 0o600
    request = (tmp_path / "cert.pem.pending").read_bytes()
    code, _, err = await run("tcp", *arguments, "--poll-timeout", "10")
    assert (code, "going on with the request in cert.pem.pending" in err, "within 10 s" in err) == (1, True, True), err
    slow.check_after, slow.polls = 0, slow.not_yet
    code, _, err = await run("http", *arguments)
    assert code == 0, err
    assert {envelope.der for name, envelope in slow.received if name == "ir"} == {request}
    assert not (tmp_path / "cert.pem.pending").exists()
    [certificate] = load_certificates(tmp_path / "cert.pem")
    assert certificate.public_key_info == public_key_info(load_key(tmp_path / "key.pem"))


async def test_a_request_that_was_refused_is_not_gone_on_with(slow: SlowCa, run: Run, tmp_path: Path) -> None:
    slow.check_after = 3600
    arguments = ("ir", *BY_SECRET, "--subject", "CN=x")
    assert (await run("http", *arguments))[0] == 1
    slow.refuse = error_content("later", 24)
    slow.polls = slow.not_yet
    slow.respond = lambda octets: slow._message(decode(octets), "error", slow.refuse, Forge())
    assert (await run("http", *arguments))[0] == 1
    assert (tmp_path / "cert.pem.pending").exists(), "who is to try later goes on with it"
    slow.refuse = error_content("no", 23)
    code, _, err = await run("http", *arguments)
    assert (code, "notAuthorized" in err) == (1, True), err
    assert not (tmp_path / "cert.pem.pending").exists()


@pytest.mark.parametrize(
    ("fail_info", "decided"),
    [
        ("badMessageCheck", False),
        ("badTime", False),
        ("badRecipientNonce", False),
        ("signerNotTrusted", False),
        ("systemFailure", False),
        ("badRequest", True),
        ("transactionIdInUse", True),
    ],
)
async def test_a_fault_of_the_message_leaves_the_request_to_be_gone_on_with(
    slow: SlowCa, run: Run, tmp_path: Path, fail_info: str, decided: bool
) -> None:
    slow.check_after = 3600
    arguments = ("ir", *BY_SECRET, "--subject", "CN=x")
    assert (await run("http", *arguments))[0] == 1
    refusal = error_content("no", FAIL_INFO.index(fail_info))
    slow.respond = lambda octets: slow._message(decode(octets), "error", refusal, Forge())
    code, _, err = await run("http", *arguments)
    kept = (tmp_path / "cert.pem.pending").exists()
    assert (code, kept, "the request is still in cert.pem.pending" in err) == (1, not decided, not decided), err


async def test_another_command_or_csr_does_not_go_on(slow: SlowCa, run: Run, tmp_path: Path) -> None:
    slow.check_after = 3600
    names = []
    for name in ("one", "two"):
        request = certification_request(Template(KEY_TYPES["p256"](), encode_name(f"CN={name}")))
        (tmp_path / f"{name}.csr").write_bytes(request)
        names.append(("p10cr", *BY_SECRET, "--out", "cert.pem", "--csr", f"{name}.csr"))
    assert (await run("http", *names[0]))[0] == 1
    code, _, err = await run("http", *names[1])
    assert (code, "not for the key in two.csr; remove it" in err) == (2, True), err
    code, _, err = await run(
        "http", "cr", *BY_SECRET, "--subject", "CN=x", "--out", "cert.pem", "--new-key", "locked.key"
    )
    assert code == 2, err
    (tmp_path / "own.key").write_bytes((tmp_path / "device.key").read_bytes())
    code, _, err = await run("http", "cr", *BY_SECRET, "--subject", "CN=x", "--out", "cert.pem", "--new-key", "own.key")
    assert (code, "is one of cmpc p10cr; remove it" in err) == (2, True), err
    slow.check_after = 0
    assert (await run("http", *names[0]))[0] == 0


async def test_another_secret_key_or_file_does_not_go_on(slow: SlowCa, run: Run, tmp_path: Path) -> None:
    slow.check_after = 3600
    arguments = ("ir", *BY_SECRET, "--subject", "CN=x")
    assert (await run("http", *arguments))[0] == 1
    key = (tmp_path / "key.pem").read_bytes()
    (tmp_path / "key.pem").write_bytes((tmp_path / "device.key").read_bytes())
    code, _, err = await run("http", *arguments)
    assert (code, "not for the key in key.pem" in err) == (2, True), err
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "secret").write_bytes(b"another secret")
    code, _, err = await run("http", *arguments)
    assert (code, "another shared secret" in err) == (2, True), err
    (tmp_path / "cert.pem.pending").write_bytes(b"nothing")
    code, _, err = await run("http", *arguments)
    assert (code, "no request to go on with" in err, "remove it" in err) == (2, True, True), err


async def test_who_is_stopped_while_waiting_is_told_how_to_go_on(slow: SlowCa, tmp_path: Path) -> None:
    slow.check_after = 30

    async def web(visitor: Visitor) -> None:
        while (asked := await visitor.read()) is not None:
            await visitor.answer(slow.respond(asked.body))

    async with serving_http(web) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cmpd.cli.cmpc", "ir", "--server", f"http://127.0.0.1:{server.port}", *BY_SECRET),
            *("--subject", "CN=x"),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=asyncio.subprocess.PIPE,
            # what a shell starts in the background ignores SIGINT, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stderr is not None
        said = b""
        while b"asking again in 30 s" not in said:
            line = await asyncio.wait_for(process.stderr.readline(), 30)
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        rest = await asyncio.wait_for(process.stderr.read(), 30)
        assert await process.wait() == 1
    assert b"--new-key" not in rest
    assert (
        b"stopped by the user; the request waits at the CA; the same command goes on with it (cert.pem.pending)" in rest
    )
    assert b"Traceback" not in rest
    assert (tmp_path / "cert.pem.pending").read_bytes() == slow.received[0][1].der


def test_the_help_shows_every_scheme(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cmpc"])
    with pytest.raises(SystemExit):
        main(["--help"])
    out, _ = capsys.readouterr()
    for scheme in ("tcp://", "tls://", "http://", "https://", "file:", "unix:", ".pending"):
        assert scheme in out
    with pytest.raises(SystemExit):
        main(["ir", "--help"])
    assert "the system's and those of --trusted" in " ".join(capsys.readouterr().out.split())
