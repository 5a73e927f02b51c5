"""DHBasedMac and KemBasedMac against a serving process: cmpd key add, cmpc, and servers that are killed in between."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.cli import cmpc as command
from cmpd.cli.cmpd import main as cmpd
from cmpd.client import kem
from cmpd.client.certificates import load_certificates
from cmpd.client.connection import Connection
from cmpd.client.credentials import KemKey, Protects
from cmpd.client.errors import CmpClientError, VerificationError
from cmpd.client.keys import load_any_key
from cmpd.client.messages import Request, Template, cert_request, cert_status, protect
from cmpd.client.responses import Answer, Trust, read_cert_rep, verify
from tests.end_to_end.asking import ENV, new_key
from tests.end_to_end.forked import Server, Site, made
from tests.support import Result

Cmpc = Callable[..., Result]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("macs")
    with made(directory / "ca") as site:
        (directory / "secret").write_text("the secret of device")
        words = ["device", "--secret-file", str(directory / "secret"), "--uses", "unlimited"]
        config = ["--config", str(site.config)]
        assert cmpd(["entity", "add", *words, *config]) == 0
        with redirect_stdout(StringIO()) as printed:  # what an operator adds to the configuration
            for purpose in (["agreement", "--type", "x25519"], ["kem"]):
                assert cmpd(["key", "add", *purpose, *config]) == 0
        site.configure("[cmp]\n", "[cmp]\n" + printed.getvalue())
        assert cmpd(["check", *config]) == 0
        yield site


@pytest.fixture
def cmpc(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cmpc:
    """Run `cmpc WORDS --server ...` in tmp_path, where ca.pem is the trust anchor, and secret the secret of device."""
    for name in ("ca.pem", "agreement.pem", "kem.pem"):
        (tmp_path / name).write_bytes((site.directory / name).read_bytes())
    (tmp_path / "secret").write_text("the secret of device")
    monkeypatch.chdir(tmp_path)

    def run(server: Server, *words: str | Path) -> Result:
        capsys.readouterr()
        code = command.main([*map(str, words), "--server", f"127.0.0.1:{server.port}", "--trusted", "ca.pem"])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


def enrolled(cmpc: Cmpc, server: Server, kind: str, name: str) -> list[str]:
    """A certificate for a key that cannot sign, from the secret; what names it as a credential."""
    done = cmpc(
        *(server, "ir", "--ref", "device", "--secret-file", "secret", "--subject", f"CN={name}"),
        *("--key-type", kind, "--out-dir", name),
    )
    assert done.code == 0, done.err
    return ["--cert", f"{name}/cert.pem", "--key", f"{name}/key.pem"]


BY_SECRET = ("--ref", "device", "--secret-file", "secret", "--subject", "CN=agrees", "--key-type", "x25519")


def test_cmpc_proves_possession_by_key_agreement(site: Site, cmpc: Cmpc) -> None:
    agreement = ("--popo", "agreeMAC", "--popo-dh", "agreement.pem")
    with site.serving() as server:
        later = cmpc(server, "ir", *BY_SECRET, "--out-dir", "later", "--json")
        assert later.json["confirmed"] == "by certConf"  # the proof is still to come
        done = cmpc(server, "ir", *BY_SECRET, *agreement, "--out-dir", "new", "--json")
        assert done.code == 0, done.err
        assert done.json["confirmed"] == "implicitly"
        who = ("--cert", "new/cert.pem", "--key", "new/key.pem", "--dh", "agreement.pem")
        for words in (agreement, agreement[:2]):  # --dh will do
            out = ("--out-dir", f"newer{len(words)}", "--key-type", "x25519", "--json")
            done = cmpc(server, "kur", *who, *words, *out)
            assert done.code == 0, done.err
            assert done.json["confirmed"] == "implicitly"
            who = (*who[:1], f"newer{len(words)}/cert.pem", "--key", f"newer{len(words)}/key.pem", *who[4:])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--popo", "agreeMAC"), "--popo agreeMAC needs --popo-dh FILE"),
        (("--popo", "encrCert", "--popo-dh", "agreement.pem"), "--popo-dh: want it with --popo agreeMAC alone"),
        (
            ("--popo", "agreeMAC", "--popo-dh", "agreement.pem", "--key-type", "p256"),
            "--popo agreeMAC: want a key of the same kind as the server's, have another",
        ),
        (
            ("--popo", "agreeMAC", "--popo-dh", "agreement.pem", "--key-type", "rsa2048"),
            "--popo agreeMAC: want an EC, X25519 or X448 key, have another",
        ),
        (
            ("--popo", "agreeMAC", "--popo-dh", "agreement.pem", "--popo-algorithm", "Ed25519"),
            "--popo-algorithm: want it for a key that signs its proof",
        ),
    ],
)
def test_what_cannot_agree_is_told_before_anything_is_sent(cmpc: Cmpc, words: tuple[str, ...], text: str) -> None:
    nowhere = Server(None, Path(), 0, port=1)
    done = cmpc(nowhere, "ir", *BY_SECRET, *words, "--out-dir", "none")
    assert done.code == 2
    assert text in done.err


def test_cmpc_protects_with_keys_that_cannot_sign(site: Site, cmpc: Cmpc) -> None:
    with site.serving() as server:
        by_kem = enrolled(cmpc, server, "mlkem768", "kem")
        by_dh = [*enrolled(cmpc, server, "x25519", "dh"), "--dh", "agreement.pem"]
        for who, signer in ((by_kem, "CMP"), (by_dh, "agreement")):
            done = cmpc(server, "kur", *who, "--out-dir", f"{signer}-new", "--explicit-confirm", "--json")
            assert done.code == 0, done.err
            assert signer in done.json["protected_by"]
            done = cmpc(server, "cr", *who, "--server-kem-cert", "kem.pem", "--out-dir", f"{signer}-cr", "--json")
            assert done.code == 0, done.err
            assert "KEM" in done.json["protected_by"]
            done = cmpc(server, "rr", *who, "--reason", "superseded", "--json")
            assert done.code == 0, done.err
            done = cmpc(server, "cr", *who, "--out-dir", f"{signer}-late")
            assert done.code == 1
            assert "revoked" in done.err


def test_cmpc_learns_of_a_kem_key_and_goes_on(site: Site, cmpc: Cmpc) -> None:
    with site.serving() as server:
        who = enrolled(cmpc, server, "mlkem1024", "learner")
        done = cmpc(server, "cr", *who, "--out-dir", "signed", "--json")
        assert "CMP" in done.json["protected_by"]
    site.configure("[cmp]\n", '[cmp]\nprotection = "kem"\n')
    try:
        with site.serving() as server:
            done = cmpc(server, "cr", *who, "--out-dir", "learnt", "--explicit-confirm", "--json")
            assert (done.code, done.json["confirmed"]) == (0, "by certConf")
            assert "KEM" in done.json["protected_by"]
    finally:
        site.configure('protection = "kem"\n', "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--ref", "device", "--secret-file", "secret", "--dh", "agreement.pem"], "--dh needs --cert"),
        (["--cert", "a/cert.pem", "--key", "a/key.pem"], "want --dh FILE"),
        (["--cert", "b/cert.pem", "--key", "b/key.pem", "--dh", "agreement.pem"], "want an EC, X25519 or X448 key"),
        (["--cert", "a/cert.pem", "--key", "a/key.pem", "--dh", "kem.pem"], "of another kind"),
        (["--cert", "b/cert.pem", "--key", "b/key.pem", "--server-kem-cert", "agreement.pem"], "ML-KEM-768"),
        (["--cert", "b/cert.pem", "--key", "b/key.pem", "--signature-algorithm", "Ed25519"], "want it for a --key"),
    ],
)
def test_what_does_not_go_together_is_said(site: Site, cmpc: Cmpc, words: list[str], text: str) -> None:
    with site.serving() as server:
        enrolled(cmpc, server, "x25519", "a")
        enrolled(cmpc, server, "mlkem768", "b")
        done = cmpc(server, "cr", *words, "--out-dir", "never", "--subject", "CN=x")
    assert done.code != 0
    assert text in done.err


# --- servers that are killed ------------------------------------------------------------------------------------------


async def ask(server: Server, request: Request, trust: Trust, credential: KemKey) -> Answer:
    async with Connection("127.0.0.1", server.port) as connection:
        octets = await connection.request(request.der)
    assert octets is not None
    return verify(octets, request, credential, trust, ENV)


async def prepared(server: Server, credential: KemKey, site: Site, *, both: bool) -> Protects:
    known = load_certificates(site.directory / "kem.pem")[0] if both else None
    async with Connection("127.0.0.1", server.port) as connection:
        return await kem.prepare(credential, known, connection, ENV)


@pytest.mark.parametrize("both", [False, True], ids=["client's KEM", "KEM on both sides"])
def test_a_transaction_goes_on_after_the_end_of_the_process(site: Site, cmpc: Cmpc, tmp_path: Path, both: bool) -> None:
    trust = Trust(tuple(load_certificates(site.anchor)))
    with site.serving() as server:
        enrolled(cmpc, server, "mlkem768", "killed")
        own, *_ = load_certificates(tmp_path / "killed" / "cert.pem")
        key = load_any_key(tmp_path / "killed" / "key.pem")
        credential = KemKey(key, own)
        lost = asyncio.run(prepared(server, credential, site, both=both))
        server.kill()
    template = Template(new_key(), encode_name("/CN=killed"))
    request = cert_request("cr", [template], lost, ENV, implicit_confirm=False)
    with site.serving() as server:
        with pytest.raises((CmpClientError, VerificationError)) as refused:
            asyncio.run(ask(server, request, trust, credential))
        if not both:
            assert "ask for another one by genm KemCiphertextInfo" in str(refused.value)
        protects = asyncio.run(prepared(server, credential, site, both=both))
        request = cert_request("cr", [template], protects, ENV, implicit_confirm=False)
        answer = asyncio.run(ask(server, request, trust, credential))
        server.kill()
    [one] = read_cert_rep(answer).responses
    assert one.certificate is not None
    confirmation = protect(
        "certConf",
        der.seq(cert_status(one.certificate, 0)),
        request.protector,
        ENV,
        transaction_id=request.transaction_id,
        recip_nonce=answer.envelope.header.sender_nonce,
    )
    with site.serving() as server:
        again = asyncio.run(ask(server, request, trust, credential))
        assert again.envelope.der == answer.envelope.der
        done = asyncio.run(ask(server, confirmation, trust, credential))
        assert done.envelope.body_name == "pkiconf"
        assert ("KEM" in done.protected_by) is both
