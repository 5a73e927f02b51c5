"""The server's Diffie-Hellman key: it agrees as openssl does, and with nobody that it should not agree with."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from cmpd.asn1 import der
from cmpd.errors import BadAlg, ConfigError
from cmpd.protection.base import AgreementKey
from cmpd.signing import file as signing_file
from cmpd.signing.agreement import AGREEMENT_KEYS, StaticAgreementKey, load_agreement_key
from tests.signing.pairs import PASSPHRASE, certificate, key_file
from tests.support import needs_openssl

KEYS: dict[str, Any] = {name: make() for name, make in AGREEMENT_KEYS.items()}
OCTETS = {"p256": 32, "p384": 48, "p521": 66, "x25519": 32, "x448": 56}


@pytest.fixture(autouse=True)
def fewer_iterations(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signing_file, "_ITERATIONS", 1000)


@needs_openssl
@pytest.mark.parametrize("kind", KEYS)
def test_the_peer_has_the_same_value_by_openssl(tmp_path: Path, kind: str):
    peer = AGREEMENT_KEYS[kind]()
    mine, theirs = tmp_path / "public.pem", tmp_path / "private.pem"
    mine.write_bytes(KEYS[kind].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    theirs.write_bytes(peer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    command = ["openssl", "pkeyutl", "-derive", "-inkey", str(theirs), "-peerkey", str(mine)]
    by_openssl = subprocess.run(command, capture_output=True, check=True).stdout
    own = certificate(KEYS[kind])
    key: AgreementKey = StaticAgreementKey(KEYS[kind], own)
    assert asyncio.run(key.agree(peer.public_key())) == by_openssl
    assert len(by_openssl) == OCTETS[kind]
    assert key.certificate == own


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(
    "other",
    [*KEYS.values(), rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate(),
     mlkem.MLKEM768PrivateKey.generate(), ec.generate_private_key(ec.BrainpoolP256R1())],
    ids=[*KEYS, "rsa", "ed25519", "mlkem768", "brainpool"],
)  # fmt: skip
async def test_a_key_of_another_kind_is_told_which_one_is_wanted(kind: str, other: Any):
    if other is KEYS[kind]:
        assert len(await StaticAgreementKey(KEYS[kind], b"").agree(other.public_key())) == OCTETS[kind]
        return
    with pytest.raises(BadAlg, match=f"key agreement: want a key of the server's kind, {kind}, have "):
        await StaticAgreementKey(KEYS[kind], b"").agree(other.public_key())


@pytest.mark.parametrize(
    ("kind", "point"),
    [("x25519", bytes(32)), ("x25519", b"\1" + bytes(31)), ("x448", bytes(56)), ("x448", b"\1" + bytes(55))],
)
async def test_a_point_of_small_order_is_refused(kind: str, point: bytes):
    classes = {"x25519": x25519.X25519PublicKey, "x448": x448.X448PublicKey}
    with pytest.raises(BadAlg, match=f"want a point of large order, .*{kind}"):
        await StaticAgreementKey(KEYS[kind], b"").agree(classes[kind].from_public_bytes(point))


def test_a_point_that_is_not_on_the_curve_never_becomes_a_key():
    info = KEYS["p256"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="nvalid"):
        load_der_public_key(info[:-1] + bytes((info[-1] ^ 1,)))
    with pytest.raises(ValueError, match=r"infinity|[Ii]nvalid|[Uu]nsupported"):
        load_der_public_key(der.seq(info[2:23], der.encode_bits(b"\0")))


@pytest.mark.parametrize("kind", KEYS)
def test_only_slow_keys_go_through_the_offload(kind: str):
    calls: list[str] = []

    async def offload(action: Callable[[], bytes]) -> bytes:
        calls.append(kind)
        await asyncio.sleep(0)
        return action()

    peer = AGREEMENT_KEYS[kind]()
    value = asyncio.run(StaticAgreementKey(KEYS[kind], b"", offload=offload).agree(peer.public_key()))
    assert value == asyncio.run(StaticAgreementKey(peer, b"").agree(KEYS[kind].public_key()))
    assert calls == ([kind] if kind in ("p384", "p521") else [])


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("usages", [(), ("key_agreement",), ("digital_signature", "key_agreement")])
async def test_a_written_key_is_read_again(tmp_path: Path, kind: str, usages: tuple[str, ...]):
    path = key_file(tmp_path, KEYS[kind])
    key = load_agreement_key(path, PASSPHRASE, certificate(KEYS[kind], *usages))
    peer = AGREEMENT_KEYS[kind]()
    assert await key.agree(peer.public_key()) == await StaticAgreementKey(KEYS[kind], b"").agree(peer.public_key())


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_does_not_fit_its_certificate_is_a_mistake(tmp_path: Path, kind: str):
    path = key_file(tmp_path, KEYS[kind])
    with pytest.raises(ConfigError, match="not the key of the certificate"):
        load_agreement_key(path, PASSPHRASE, certificate(AGREEMENT_KEYS[kind]()))
    with pytest.raises(ConfigError, match="its certificate's keyUsage has no keyAgreement"):
        load_agreement_key(path, PASSPHRASE, certificate(KEYS[kind], "digital_signature", "key_encipherment"))
    with pytest.raises(ConfigError, match="wrong passphrase"):
        load_agreement_key(path, b"another", certificate(KEYS[kind]))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        mlkem.MLKEM768PrivateKey.generate(),
        ec.generate_private_key(ec.BrainpoolP256R1()),
    ],
)
def test_a_key_that_cannot_agree_is_a_mistake(tmp_path: Path, key: Any):
    with pytest.raises(ConfigError, match="want a key for P-256, P-384, P-521, X25519 or X448"):
        load_agreement_key(key_file(tmp_path, key), PASSPHRASE, certificate(key))
