"""The command cmpc against the CA of the tests."""

import asyncio
import io
import json
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cmpd.asn1 import names
from cmpd.asn1.signing import SIGNING
from cmpd.cli.cmpc import main
from cmpd.client import messages
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.keys import KEY_TYPES, load_key, public_key_info, save_key
from cmpd.client.messages import Template
from cmpd.protection import pbm
from cmpd.protection.base import ProtectionPolicy
from tests.client.ca import SECRET, Ca, error_content, forged, issue
from tests.client.wire import Peer, serving

Cmpc = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def ca() -> Ca:
    return Ca.make()


@pytest.fixture
async def cmpc(
    ca: Ca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Cmpc]:
    """Runs `cmpc ARGUMENTS --server ...` on a thread in tmp_path: (exit code, standard output, standard error)."""
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    (tmp_path / "ca.pem").write_bytes(ca.root.certificate.pem)
    monkeypatch.chdir(tmp_path)

    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            await peer.answer(ca.respond(message[2]))

    async with serving(behave) as server:

        async def run(*arguments: str, stdin: bytes = b"", port: int = server.port) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            code = await asyncio.to_thread(main, [*arguments, "--server", f"127.0.0.1:{port}"])
            out, err = capsys.readouterr()
            return code, out, err

        yield run


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


BY_SECRET = ("--ref", "device-17", "--secret-file", "secret", "--iterations", "500")


async def test_ir_writes_key_certificate_and_chain(cmpc: Cmpc, ca: Ca, tmp_path: Path) -> None:
    code, out, err = await cmpc("ir", *BY_SECRET, "--subject", "CN=device", "--trusted", "ca.pem", "--out-dir", "d")
    assert (code, "wrote a new private key to d/key.pem" in err) == (0, True), err
    key = load_key(tmp_path / "d/key.pem")
    assert stat.S_IMODE((tmp_path / "d/key.pem").stat().st_mode) == 0o600
    [certificate] = load_certificates(tmp_path / "d/cert.pem")
    assert certificate.public_key_info == public_key_info(key)
    assert load_certificates(tmp_path / "d/chain.pem") == [ca.sub.certificate]
    for line in ("d/key.pem", "d/cert.pem", "d/chain.pem", f"{certificate.serial:x}", "the shared secret"):
        assert line in out


async def test_the_result_as_json_and_the_secret_from_standard_input(cmpc: Cmpc, ca: Ca, tmp_path: Path) -> None:
    forged(ca, ca_pubs=(ca.root.certificate.der,))
    code, out, _ = await cmpc(
        *("cr", "--ref", "device-17", "--secret-file", "-", "--iterations", "500", "--mac", "pbmac1"),
        *("--subject", "CN=device", "--san", "dns:a.example", "ip:192.0.2.1", "--key-type", "ed25519", "--days", "30"),
        *("--profile", "tls", "--out", "device.pem", "--cacerts-out", "roots.pem", "--json", "--explicit-confirm"),
        stdin=SECRET + b"\r\n",
    )
    assert code == 0
    result = json.loads(out)
    assert result["certificate_file"] == "device.pem"
    assert result["key_file"] == "device.key"
    assert result["chain_file"] is None
    assert result["confirmed"] == "by certConf"
    assert result["path_verified"] is False
    assert load_certificates(tmp_path / "roots.pem") == [ca.root.certificate]
    name, envelope = ca.received[0]
    assert name == "cr"
    assert envelope.header.cert_profiles == ("tls",)
    assert not envelope.header.implicit_confirm
    template = envelope.structure["body"].chosen[0]["cert_req"]["cert_template"]
    assert b"a.example" in template["extensions"].dump()
    assert template["validity"]["not_after"].native is not None


async def test_the_mac_inside_is_the_one_that_was_asked_for(cmpc: Cmpc, ca: Ca) -> None:
    for name, inner in (("hmac-sha3-384", "sha3_384"), ("aes192-gmac", "aes192-gmac")):
        options = ("--mac-algorithm", name, "--subject", "CN=device", "--explicit-confirm", "--out-dir", name)
        code, _, err = await cmpc("ir", *BY_SECRET, *options)
        assert code == 0, err
        macs = [pbm.parse(one.header.protection_alg or b"", ProtectionPolicy()).mac for _, one in ca.received[-2:]]
        assert [mac.name for mac in macs] == [inner, inner]
        assert (macs[0] == macs[1]) == (inner == "sha3_384")  # a nonce is for one message
    with pytest.raises(SystemExit):
        await cmpc("ir", *BY_SECRET, "--mac-algorithm", "hmac-md5", "--subject", "CN=device")


async def test_kur_with_an_encrypted_key(cmpc: Cmpc, ca: Ca, tmp_path: Path) -> None:
    own = issue("device", ca.sub)
    (tmp_path / "old.pem").write_bytes(own.certificate.pem + ca.sub.certificate.pem)
    encrypted = own.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (tmp_path / "old.key").write_bytes(encrypted)
    (tmp_path / "passphrase").write_bytes(b"passphrase\n")
    arguments = ("kur", "--cert", "old.pem", "--key", "old.key", "--trusted", "ca.pem", "--out", "new.pem")
    code, _, err = await cmpc(*arguments)
    assert (code, "--key-passphrase-file" in err) == (2, True), err
    code, _, err = await cmpc(*arguments, "--key-passphrase-file", "passphrase")
    assert code == 0, err
    [certificate] = load_certificates(tmp_path / "new.pem")
    assert certificate.public_key_info == public_key_info(load_key(tmp_path / "new.key"))
    assert ca.received[0][1].extra_certs == (own.certificate.der, ca.sub.certificate.der)


async def test_messages_and_requests_are_signed_by_the_algorithms_that_are_named(
    cmpc: Cmpc, ca: Ca, tmp_path: Path
) -> None:
    own = issue("device", ca.sub)
    (tmp_path / "old.pem").write_bytes(own.certificate.pem + ca.sub.certificate.pem)
    save_key(tmp_path / "old.key", own.key)
    save_key(tmp_path / "rsa.key", KEY_TYPES["rsa2048"]())
    who = ("--cert", "old.pem", "--key", "old.key", "--trusted", "ca.pem", "--new-key", "rsa.key", "--out", "new.pem")
    wanted = ("--signature-algorithm", "ecdsa-with-sha3-512", "--popo-algorithm", "rsassa-pss-sha384")
    for number, command in enumerate((("cr", "--subject", "CN=device"), ("kur",), ("p10cr", "--subject", "CN=device"))):
        code, _, err = await cmpc(*command, *who, *wanted)
        assert code == 0, err
        (tmp_path / "new.pem").unlink()
        request = ca.received[number][1]
        assert request.header.protection_alg == SIGNING["ecdsa-with-sha3-512"].identifier
        assert request.body.count(SIGNING["rsassa-pss-sha384"].identifier) == 1
    for option, have in (("--signature-algorithm", "RSASSA-PSS-sha256"), ("--popo-algorithm", "ed25519")):
        code, _, err = await cmpc("kur", *who, option, have)
        assert (code, f"{option}: private key: signature algorithm: want one of" in err) == (2, True), err
    code, _, err = await cmpc("cr", "--subject", "CN=x", *who, "--popo", "encrCert", "--popo-algorithm", "Ed25519")
    assert (code, "want it for a key that signs its proof" in err) == (2, True), err
    code, _, err = await cmpc("p10cr", *who, "--csr", "old.pem", "--popo-algorithm", "Ed25519")
    assert (code, "is signed already" in err) == (2, True), err
    assert len(ca.received) == 3


async def test_p10cr_with_a_request_from_a_file_and_with_one_that_is_made(cmpc: Cmpc, ca: Ca, tmp_path: Path) -> None:
    key = KEY_TYPES["p256"]()
    request = messages.certification_request(Template(key, names.encode_name("CN=device")))
    pem = x509.load_der_x509_csr(request).public_bytes(serialization.Encoding.PEM)
    (tmp_path / "request.pem").write_bytes(pem)
    code, _, err = await cmpc("p10cr", *BY_SECRET, "--csr", "request.pem", "--out", "cert.pem")
    assert code == 0, err
    [certificate] = load_certificates(tmp_path / "cert.pem")
    assert certificate.public_key_info == public_key_info(key)
    assert not [name for name in files(tmp_path) if name.endswith(".key")]
    code, _, err = await cmpc("p10cr", *BY_SECRET, "--subject", "CN=device", "--out-dir", "d")
    assert code == 0, err
    assert (tmp_path / "d/key.pem").exists()


async def test_a_private_key_is_never_overwritten_but_can_be_used_again(cmpc: Cmpc, ca: Ca, tmp_path: Path) -> None:
    arguments = ("ir", *BY_SECRET, "--subject", "CN=device")
    forged(ca, body="error", content=error_content("not now", 24))
    code, _, err = await cmpc(*arguments)
    assert (code, "systemUnavail" in err, "try again later" in err) == (1, True, True), err
    octets = (tmp_path / "key.pem").read_bytes()
    assert not (tmp_path / "cert.pem").exists()
    forged(ca, body=None, content=None)
    code, _, err = await cmpc(*arguments)
    assert (code, "--new-key key.pem" in err) == (2, True), err
    code, _, err = await cmpc(*arguments, "--new-key", "key.pem")
    assert code == 0, err
    assert (tmp_path / "key.pem").read_bytes() == octets
    code, _, err = await cmpc(*arguments, "--new-key", "other.key", "--out", "key.pem")
    assert (code, "not overwritten" in err) == (2, True), err
    assert (tmp_path / "key.pem").read_bytes() == octets


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("ir",), "--ref with --secret-file, or --cert with --key"),
        (("ir", "--ref", "x"), "--secret-file"),
        (("ir", "--ref", "x", "--secret-file", "empty"), "secret is empty"),
        (("ir", "--ref", "x", "--secret-file", "gone"), "gone: No such file"),
        (("ir", *BY_SECRET), "--subject"),
        (("ir", *BY_SECRET, "--subject", "device"), "--subject: name: want TYPE=value"),
        (("ir", *BY_SECRET, "--subject", "CN=x", "--san", "x"), "subjectAltName"),
        (("ir", *BY_SECRET, "--subject", "CN=x", "--out", "no/where.pem"), "directory is not there"),
        (("ir", "--ref", "x", "--secret-file", "secret", "--iterations", "5"), "--iterations"),
        (("kur", *BY_SECRET), "kur needs --cert"),
        (("cr", "--cert", "ca.pem"), "--key"),
        (("cr", "--cert", "ca.pem", "--key", "ca.pem"), "--trusted"),
        (("cr", "--cert", "secret", "--key", "x", "--trusted", "ca.pem"), "want certificates in PEM"),
        (("cr", "--cert", "ca.pem", "--key", "other.key", "--trusted", "ca.pem"), "does not belong"),
        (("p10cr", *BY_SECRET, "--csr", "ca.pem"), "PKCS #10"),
    ],
)
async def test_arguments_that_cannot_be_used_are_refused_before_anything_is_sent(
    cmpc: Cmpc, ca: Ca, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    (tmp_path / "empty").write_bytes(b"\n")
    save_key(tmp_path / "other.key", KEY_TYPES["p256"]())
    before = files(tmp_path)
    code, out, err = await cmpc(*arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert len(err.splitlines()) == 1
    assert not ca.received
    assert files(tmp_path) == before


async def test_a_server_that_is_not_there_and_a_forged_answer_end_with_1(cmpc: Cmpc, ca: Ca, tmp_path: Path) -> None:
    async with serving(lambda _: asyncio.sleep(0)) as gone:
        port = gone.port
    arguments = ("ir", *BY_SECRET, "--subject", "CN=x")
    code, _, err = await cmpc(*arguments, "--new-key", "k1", "--out", "c1")
    assert code == 0, err
    forged(ca, secret=b"another")
    code, _, err = await cmpc(*arguments, "--new-key", "k2", "--out", "c2")
    assert (code, "MAC is wrong" in err) == (1, True), err
    assert not (tmp_path / "c2").exists()
    code, _, err = await cmpc(*arguments, "--new-key", "k3", "--out", "c3", port=port)
    assert (code, f"cannot connect to 127.0.0.1:{port}" in err) == (1, True), err


def test_the_command_runs_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "cmpd.cli.cmpc", "ir", "--server", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    assert done.stderr.startswith("cmpc: want either --ref")


def test_certificates_are_read_from_pem_with_text_around_them_and_from_der(ca: Ca, tmp_path: Path) -> None:
    both = b"subject=x\n" + ca.root.certificate.pem + b"\nissuer=y\n" + ca.sub.certificate.pem
    (tmp_path / "both.pem").write_bytes(both)
    (tmp_path / "one.der").write_bytes(ca.root.certificate.der)
    assert load_certificates(tmp_path / "both.pem") == [ca.root.certificate, ca.sub.certificate]
    assert load_certificates(tmp_path / "one.der") == [Certificate.load(ca.root.certificate.der)]
