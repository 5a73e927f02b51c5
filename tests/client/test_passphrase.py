"""Revocation passphrases of the client: genm to a CA that opens them with asn1crypto and cryptography alone."""

import asyncio
import hashlib
import io
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms, core
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from cmpd.asn1 import der
from cmpd.cli.cmpc import main
from cmpd.client.certificates import Certificate
from cmpd.client.connection import Connection
from cmpd.client.credentials import Credential, SharedSecret
from cmpd.client.errors import ClientError, CmpClientError, VerificationError
from cmpd.client.flows import Client
from cmpd.client.responses import Trust
from tests.client.ca import REFERENCE, SECRET, Ca, Issued, error_content, forged, gen_rep, general, issue, wishes
from tests.client.wire import Peer, serving

ENC_CERT, PASSPHRASE_OID = "1.3.6.1.5.5.7.4.1", "1.3.6.1.5.5.7.4.12"
PASSPHRASE = "a läng passphrase".encode()
MAC = SharedSecret(REFERENCE, SECRET, iterations=500)
RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest.fixture
def ca() -> Ca:
    ca = Ca.make()
    return forged(ca, general={ENC_CERT: encryption_certificate(ca.sub).der})


def encryption_certificate(issuer: Issued, key: rsa.RSAPrivateKey = RSA_KEY) -> Certificate:
    usage = {"digital_signature": False, "key_encipherment": True}
    return issue("encryption", issuer, public_key=key.public_key(), key_usage=usage).certificate


def behaviour(ca: Ca) -> Callable[[Peer], Awaitable[None]]:
    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            await peer.answer(ca.respond(message[2]))

    return behave


async def leave(ca: Ca, credential: Credential, passphrase: bytes = PASSPHRASE, **options: Any) -> str:
    async with serving(behaviour(ca)) as server, Connection("127.0.0.1", server.port) as connection:
        client = Client(connection, credential, Trust((ca.root.certificate,)))
        return await client.set_passphrase(passphrase, **options)


def opened(ca: Ca) -> tuple[bytes, bytes | None, str]:
    """(passphrase, localKeyId, kind of the RecipientInfo) of the last request."""
    name, request = ca.received[-1]
    assert name == "genm"
    assert request.header.pvno == 3
    items = general(request)
    assert list(items) == [PASSPHRASE_OID]
    value = items[PASSPHRASE_OID]
    assert value[0] == 0xA0
    enveloped = cms.EnvelopedData.load(b"\x30" + value[1:], strict=True)
    [recipient] = enveloped["recipient_infos"]
    key = _BY_RECIPIENT[recipient.name](recipient.chosen)
    content = enveloped["encrypted_content_info"]
    decryptor = Cipher(
        algorithms.AES256(key), modes.CBC(content["content_encryption_algorithm"]["parameters"].native)
    ).decryptor()
    padded = decryptor.update(content["encrypted_content"].native) + decryptor.finalize()
    unpadder = block_padding.PKCS7(128).unpadder()
    clear = unpadder.update(padded) + unpadder.finalize()
    attributes = enveloped["unprotected_attrs"]
    key_id = None
    if not isinstance(attributes, core.Void):
        [attribute] = attributes
        assert attribute["type"].dotted == "1.2.840.113549.1.9.21"
        key_id = attribute["values"].contents[2:]
    return clear, key_id, recipient.name


def _by_key(recipient: Any) -> bytes:
    sha256 = hashes.SHA256()
    return RSA_KEY.decrypt(recipient["encrypted_key"].native, padding.OAEP(padding.MGF1(sha256), sha256, None))


def _by_password(recipient: Any) -> bytes:
    derivation = recipient["key_derivation_algorithm"]["parameters"]
    salt, count = derivation["salt"].chosen.native, derivation["iteration_count"].native
    key = hashlib.pbkdf2_hmac("sha256", SECRET, salt, count, 32)
    return aes_key_unwrap(key, recipient["encrypted_key"].native)


_BY_RECIPIENT = {"ktri": _by_key, "pwri": _by_password}


async def test_under_a_shared_secret_one_genm_is_enough(ca: Ca) -> None:
    assert await leave(ca, MAC) == "the shared secret"
    assert len(ca.received) == 1
    assert opened(ca) == (PASSPHRASE, None, "pwri")
    assert PASSPHRASE not in ca.received[0][1].der


async def test_a_certificates_holder_asks_for_the_encryption_certificate_first(ca: Ca) -> None:
    assert await leave(ca, issue("device", ca.sub).credential, key_id=b"mine") == "CN=cmp signer"
    (first, asked), (second, sent) = ca.received
    assert (first, second, general(asked)) == ("genm", "genm", {ENC_CERT: b""})
    assert asked.header.transaction_id != sent.header.transaction_id
    assert opened(ca) == (PASSPHRASE, b"mine", "ktri")


@pytest.mark.parametrize("kind", ["mac", "signature"])
async def test_an_encryption_certificate_at_hand_is_not_asked_for(ca: Ca, kind: str) -> None:
    credential = MAC if kind == "mac" else issue("device", ca.sub).credential
    await leave(ca, credential, key_id=b"mine", recipient=encryption_certificate(ca.sub))
    assert len(ca.received) == 1
    assert opened(ca) == (PASSPHRASE, b"mine", "ktri")


@pytest.mark.parametrize(
    ("forgery", "text"),
    [
        ({"general": {}}, "gives no encryption certificate"),
        ({"content": gen_rep({"1.3.6.1.5.5.7.4.7": der.seq()})}, "gives no encryption certificate"),
        ({"content": gen_rep({ENC_CERT: der.seq()})}, "not a certificate"),
        ({"general": {ENC_CERT: encryption_certificate(issue("stranger", ca=True)).der}}, "no path"),
        ({"content": der.seq(der.NULL_TLV)}, "want InfoTypeAndValue"),
        ({"content": der.NULL_TLV}, "GenRepContent"),
        ({"body": "rp", "content": der.seq()}, "want genp to genm, have rp"),
        ({"flip": True}, "not to be trusted"),
        ({"recip_nonce": bytes(16)}, "recipNonce"),
    ],
)
async def test_nothing_is_encrypted_to_a_certificate_that_is_not_vouched_for(
    ca: Ca, forgery: dict[str, Any], text: str
) -> None:
    forged(ca, **forgery)
    with pytest.raises(VerificationError, match=text):
        await leave(ca, issue("device", ca.sub).credential)
    assert len(ca.received) == 1


@pytest.mark.parametrize(
    "content", [gen_rep({}), gen_rep({"1.3.6.1.5.5.7.4.7": der.seq()}), gen_rep({PASSPHRASE_OID: der.NULL_TLV})]
)
async def test_a_passphrase_counts_as_taken_only_if_the_server_says_so(ca: Ca, content: bytes) -> None:
    forged(ca, content=content)
    with pytest.raises(VerificationError, match="has not taken the passphrase"):
        await leave(ca, MAC)


async def test_an_error_of_the_server_is_told(ca: Ca) -> None:
    forged(ca, body="error", content=error_content("too many", 2))
    with pytest.raises(CmpClientError, match="too many"):
        await leave(ca, MAC)


@pytest.mark.parametrize(
    ("passphrase", "options", "text"),
    [
        (b"short", {}, "want 8 to 1023 octets, have 5"),
        (bytes(1024), {}, "want 8 to 1023 octets, have 1024"),
        (PASSPHRASE, {"key_id": b""}, "key identifier: want 1 to 128 octets, have 0"),
        (PASSPHRASE, {"key_id": bytes(129)}, "key identifier: want 1 to 128 octets, have 129"),
        (PASSPHRASE, {"recipient": issue("device").certificate}, "want an RSA key"),
    ],
)
async def test_what_cannot_be_a_passphrase_is_not_sent(
    ca: Ca, passphrase: bytes, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ClientError, match=text):
        await leave(ca, MAC, passphrase, **options)
    assert not ca.received


# --- the command ---------------------------------------------------------------

Cmpc = Callable[..., Awaitable[tuple[int, str, str]]]
BY_SECRET = ("--ref", REFERENCE, "--secret-file", "secret", "--iterations", "500")
BY_CERT = ("--cert", "cert.pem", "--key", "key.pem", "--trusted", "ca.pem")


@pytest.fixture
async def cmpc(
    ca: Ca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Cmpc]:
    """Runs `cmpc ARGUMENTS --server ...` on a thread in tmp_path: (exit code, standard output, standard error)."""
    device = issue("device", ca.sub)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, octets in (
        ("secret", SECRET),
        ("passphrase", PASSPHRASE + b"\n"),
        ("ca.pem", ca.root.certificate.pem),
        ("cert.pem", device.certificate.pem),
        ("key.pem", device.key.private_bytes(*form)),
        ("enc.pem", encryption_certificate(ca.sub).pem),
    ):
        (tmp_path / name).write_bytes(octets)
    monkeypatch.chdir(tmp_path)
    async with serving(behaviour(ca)) as server:

        async def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            code = await asyncio.to_thread(main, [*arguments, "--server", f"127.0.0.1:{server.port}"])
            out, err = capsys.readouterr()
            return code, out, err

        yield run


@pytest.mark.parametrize(
    ("arguments", "key_id", "kind"),
    [
        ((*BY_SECRET,), None, "pwri"),
        ((*BY_SECRET, "--key-id", "mine"), b"mine", "pwri"),
        ((*BY_SECRET, "--encryption-cert", "enc.pem"), None, "ktri"),
        ((*BY_CERT, "--key-id", "mine"), b"mine", "ktri"),
        ((*BY_CERT, "--key-id", "mine", "--encryption-cert", "enc.pem"), b"mine", "ktri"),
    ],
)
async def test_revpassphrase_leaves_it_and_says_how_to_use_it(
    cmpc: Cmpc, ca: Ca, arguments: tuple[str, ...], key_id: bytes | None, kind: str
) -> None:
    code, out, err = await cmpc("revpassphrase", *arguments, "--passphrase-file", "passphrase")
    assert (code, err) == (0, "")
    assert opened(ca) == (PASSPHRASE, key_id, kind)
    assert f"cmpc rr --ref {'mine' if key_id else REFERENCE} --secret-file FILE" in out
    assert PASSPHRASE.decode() not in out
    code, out, err = await cmpc("revpassphrase", *arguments, "--passphrase-file", "-", "--json", stdin=PASSPHRASE)
    assert (code, err) == (0, "")
    assert json.loads(out)["key_id"] == ("mine" if key_id else REFERENCE)
    assert opened(ca)[0] == PASSPHRASE


async def test_an_rr_by_the_passphrase_is_an_ordinary_mac(cmpc: Cmpc, ca: Ca) -> None:
    forged(ca, secret=PASSPHRASE)
    by_passphrase = ("--ref", "mine", "--secret-file", "passphrase", "--iterations", "500")
    code, out, err = await cmpc("rr", *by_passphrase, "--oldcert", "cert.pem")
    assert (code, "is revoked" in out) == (0, True), err
    [(name, request)] = ca.received
    assert (name, request.header.sender_kid, len(wishes(request))) == ("rr", b"mine", 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*BY_CERT, "--passphrase-file", "passphrase"), "want --key-id TEXT"),
        (("--ref", "x", "--secret-file", "-", "--passphrase-file", "-"), "only one of"),
        ((*BY_SECRET, "--passphrase-file", "gone"), "gone: No such file"),
        ((*BY_SECRET, "--passphrase-file", "passphrase", "--encryption-cert", "ca.pem"), "want an RSA key"),
        ((*BY_SECRET, "--passphrase-file", "passphrase", "--key-id", "x" * 129), "want 1 to 128 octets"),
    ],
)
async def test_arguments_that_cannot_be_used_are_refused_before_anything_is_sent(
    cmpc: Cmpc, ca: Ca, arguments: tuple[str, ...], text: str
) -> None:
    code, out, err = await cmpc("revpassphrase", *arguments)
    assert (code, out, len(err.splitlines()), ca.received) == (2, "", 1, [])
    assert text in err
