"""EncryptedKey: what openssl and cryptography encrypt is opened, what is built here they open, all else is refused."""

import random
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode
from pyasn1_alt_modules import rfc4211, rfc5652

from cmpd.asn1 import der
from cmpd.asn1.algorithms import hmac_identifier
from cmpd.cms import (
    CannotDecrypt,
    DerivationLimits,
    KeyTransport,
    encrypted_value_for_certificate,
    envelope_for_certificate,
    envelope_for_password,
    open_encrypted_key,
    read_encrypted_key,
)
from cmpd.env import Env
from cmpd.errors import BadAlg, BadDataFormat, CmpError, ConfigError
from cmpd.outline import outline
from cmpd.signing import file as signing_file
from cmpd.signing.file import encrypted_pem
from cmpd.signing.recipient import MAX_USES, RsaRecipient, load_recipient
from tests.hostile.mutate import positions, splice
from tests.support import needs_openssl

KEY = rsa.generate_private_key(65537, 2048)
SECRET = b"shared secret"
PLAIN = b"a revocation passphrase"
PASSPHRASE = b"installation"
LIMIT = 1024


def make_certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = KEY, *, ski: bool = True, encipher: bool | None = True
) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "encryption")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if ski:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if encipher is not None:
        bits = dict.fromkeys(
            ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"), False
        )
        usage = x509.KeyUsage(
            digital_signature=not encipher,
            key_encipherment=encipher,
            encipher_only=False,
            decipher_only=False,
            **bits,
        )
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


CERTIFICATE = make_certificate()


def seeded(seed: int = 5) -> Env:
    """The same random octets each time: one wrong key in 256 gives padding that looks right, and these do not."""
    return Env(random=random.Random(seed).randbytes)


async def opened(
    value: bytes, *, secret: bytes | None = SECRET, limits: DerivationLimits | None = None, seed: int = 5
) -> bytes:
    recipient = RsaRecipient(KEY, CERTIFICATE, seeded(seed))
    return await open_encrypted_key(
        read_encrypted_key(value, LIMIT),
        seeded(seed),
        decrypt_key=recipient.decrypt_key,
        secret=secret,
        limits=limits or DerivationLimits(),
    )


def enveloped(content_info: bytes) -> bytes:
    """EncryptedKey [0] of the EnvelopedData in a ContentInfo."""
    info, rest = decode(content_info, asn1Spec=rfc5652.ContentInfo())
    assert not rest
    assert info["contentType"] == rfc5652.id_envelopedData
    octets = bytes(info["content"])
    return b"\xa0" + octets[1:]


def content_info(value: bytes) -> bytes:
    """The ContentInfo of an EncryptedKey [0]."""
    return der.seq(der.encode_oid("1.2.840.113549.1.7.3"), der.explicit(0, b"\x30" + value[1:]))


def run_openssl(tmp_path: Path, *arguments: str, octets: bytes) -> bytes:
    (tmp_path / "in").write_bytes(octets)
    (tmp_path / "cert.pem").write_bytes(signing_file.pem("CERTIFICATE", CERTIFICATE))
    key = KEY.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(key)
    command = ["openssl", "cms", *arguments, "-binary", "-in", "in", "-out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return (tmp_path / "out").read_bytes()


# --- what others encrypt ----------------------------------------------------------------------------------------------


TO_CERTIFICATE = {
    "pkcs1": ["-recip", "cert.pem"],
    "pkcs1 by key identifier": ["-keyid", "-recip", "cert.pem"],
    "oaep": ["-recip", "cert.pem", "-keyopt", "rsa_padding_mode:oaep"],
    "oaep sha256": ["-recip", "cert.pem", "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"],
    "oaep two hashes": [
        *("-recip", "cert.pem", "-keyopt", "rsa_padding_mode:oaep"),
        *("-keyopt", "rsa_oaep_md:sha512", "-keyopt", "rsa_mgf1_md:sha1"),
    ],
    "password": ["-pwri_password", SECRET.decode()],
}


@needs_openssl
@pytest.mark.parametrize("cipher", ["-aes128", "-aes192", "-aes256"])
@pytest.mark.parametrize("how", TO_CERTIFICATE)
async def test_what_openssl_encrypts_is_opened(tmp_path: Path, how: str, cipher: str) -> None:
    value = enveloped(run_openssl(tmp_path, "-encrypt", "-outform", "DER", cipher, *TO_CERTIFICATE[how], octets=PLAIN))
    found = read_encrypted_key(value, LIMIT)
    assert await opened(value) == PLAIN
    assert found.key_id is None
    if isinstance(found.transport, KeyTransport):
        own, wanted = outline(CERTIFICATE), found.transport.recipient
        assert wanted is not None
        assert wanted.key_identifier or (wanted.issuer, wanted.serial) == (own.issuer, own.serial)


async def test_what_cryptography_encrypts_is_opened() -> None:
    builder = (
        pkcs7.PKCS7EnvelopeBuilder()
        .set_data(PLAIN)
        .set_content_encryption_algorithm(algorithms.AES256)
        .add_recipient(x509.load_der_x509_certificate(CERTIFICATE))
    )
    assert await opened(enveloped(builder.encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary]))) == PLAIN


# --- what is built here -----------------------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("key_id", [None, b"\x00id"])
async def test_openssl_opens_what_is_built_for_a_certificate(tmp_path: Path, key_id: bytes | None) -> None:
    value = envelope_for_certificate(PLAIN, CERTIFICATE, key_id, Env())
    clear = run_openssl(
        tmp_path, "-decrypt", "-inform", "DER", "-recip", "cert.pem", "-inkey", "key.pem", octets=content_info(value)
    )
    assert clear == PLAIN
    assert await opened(value) == PLAIN
    assert read_encrypted_key(value, LIMIT).key_id == key_id


async def test_a_certificate_without_key_identifier_is_named_by_issuer_and_serial() -> None:
    certificate = make_certificate(ski=False)
    value = envelope_for_certificate(PLAIN, certificate, None, Env())
    transport = read_encrypted_key(value, LIMIT).transport
    assert isinstance(transport, KeyTransport)
    assert transport.recipient is not None
    own = outline(certificate)
    assert (transport.recipient.issuer, transport.recipient.serial) == (own.issuer, own.serial)
    assert await opened(value) == PLAIN


async def test_what_is_built_for_a_password_is_opened_by_independent_steps() -> None:
    value = envelope_for_password(PLAIN, SECRET, b"id", Env(), iterations=1000)
    data, rest = decode(b"\x30" + value[1:], asn1Spec=rfc5652.EnvelopedData())
    assert not rest
    [info] = data["recipientInfos"]
    pwri = info["pwri"]
    assert (int(data["version"]), int(pwri["version"])) == (3, 0)
    parameters, _ = decode(bytes(pwri["keyDerivationAlgorithm"]["parameters"]))
    assert str(pwri["keyEncryptionAlgorithm"]["algorithm"]) == "2.16.840.1.101.3.4.1.45"
    derived = PBKDF2HMAC(hashes.SHA256(), 32, bytes(parameters[0]), int(parameters[1])).derive(SECRET)
    key = aes_key_unwrap(derived, bytes(pwri["encryptedKey"]))
    content = data["encryptedContentInfo"]
    iv, _ = decode(bytes(content["contentEncryptionAlgorithm"]["parameters"]))
    decryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(iv))).decryptor()
    clear = decryptor.update(bytes(content["encryptedContent"])) + decryptor.finalize()
    assert clear[: -clear[-1]] == PLAIN
    [attribute] = data["unprotectedAttrs"]
    assert (str(attribute["attrType"]), bytes(attribute["attrValues"][0])) == ("1.2.840.113549.1.9.21", b"\x04\x02id")
    assert await opened(value) == PLAIN


async def test_encrypted_value_is_what_rfc_4211_says_and_is_opened() -> None:
    value = encrypted_value_for_certificate(PLAIN, CERTIFICATE, b"hint", Env())
    independent, rest = decode(value, asn1Spec=rfc4211.EncryptedValue())
    assert not rest
    assert bytes(independent["valueHint"]) == b"hint"
    key = KEY.decrypt(independent["encSymmKey"].asOctets(), padding.PKCS1v15())
    iv, _ = decode(bytes(independent["symmAlg"]["parameters"]))
    decryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(iv))).decryptor()
    clear = decryptor.update(independent["encValue"].asOctets()) + decryptor.finalize()
    assert clear[: -clear[-1]] == PLAIN
    found = read_encrypted_key(value, LIMIT)
    assert (found.enveloped, found.key_id) == (False, b"hint")
    assert await opened(value) == PLAIN


@settings(max_examples=50, deadline=None)
@given(plain=st.binary(max_size=1023), key_id=st.none() | st.binary(max_size=200))
async def test_every_plaintext_and_key_identifier_comes_back(plain: bytes, key_id: bytes | None) -> None:
    values = (
        envelope_for_certificate(plain, CERTIFICATE, key_id, Env()),
        envelope_for_password(plain, SECRET, key_id, Env(), iterations=100),
        encrypted_value_for_certificate(plain, CERTIFICATE, key_id, Env()),
    )
    for value in values:
        assert read_encrypted_key(value, LIMIT).key_id == key_id
        assert await opened(value) == plain


def test_nothing_is_encrypted_to_a_certificate_that_is_not_for_that() -> None:
    signing = make_certificate(encipher=False)
    other = make_certificate(ec.generate_private_key(ec.SECP256R1()))
    for certificate, words in ((signing, "keyEncipherment"), (other, "RSA")):
        for build in (envelope_for_certificate, encrypted_value_for_certificate):
            with pytest.raises(ValueError, match=words):
                build(PLAIN, certificate, None, Env())


# --- what cannot be opened --------------------------------------------------------------------------------------------


async def fault(value: bytes, **how: Any) -> CmpError:
    """Once in 256 times the padding of what a random key has decrypted looks right: then another one is tried."""
    for seed in range(5):
        try:
            await opened(value, seed=seed, **how)
        except CmpError as error:
            return error
    pytest.fail("it was opened")


async def test_every_failed_decryption_has_one_class_and_one_text() -> None:
    for_password = envelope_for_password(PLAIN, SECRET, b"id", seeded(6), iterations=100)
    for_other = envelope_for_certificate(
        PLAIN, make_certificate(rsa.generate_private_key(65537, 2048)), b"id", seeded(6)
    )
    short_key = encrypted_value_for_certificate(PLAIN, CERTIFICATE, None, seeded(6))
    found = read_encrypted_key(short_key, LIMIT)
    assert isinstance(found.transport, KeyTransport)
    wrong_size = short_key.replace(
        found.transport.encrypted_key, KEY.public_key().encrypt(bytes(16), padding.PKCS1v15())
    )
    faults = [
        await fault(for_password, secret=b"another"),
        await fault(for_password, secret=None),
        await fault(for_other),
        await fault(wrong_size),
    ]
    assert {type(one) for one in faults} == {CannotDecrypt}
    assert len({one.text for one in faults}) == 1


@pytest.mark.parametrize("count", [1, 99, 10_001, 2**31, 2**200])
async def test_iterations_out_of_bounds_are_refused_before_deriving(count: int) -> None:
    built = envelope_for_password(PLAIN, SECRET, None, Env(), iterations=1000)
    value = resized(built, der.encode_integer(1000), der.encode_integer(count))
    assert isinstance(await fault(value), BadAlg)


def resized(value: bytes, old: bytes, new: bytes) -> bytes:
    """`new` in the place of the value `old`, the lengths around it mended."""
    [place] = [at for at in positions(value) if value[at[0] : at[1]] == old]
    return splice(value, *place, new)


@pytest.mark.parametrize(("prf", "most"), [("sha1", 5000), ("sha256", 10_000)])
async def test_every_block_of_the_derived_key_counts(prf: str, most: int) -> None:
    """Of 32 octets, HMAC-SHA1 (the DEFAULT) makes 20 at a time."""
    for count, good in ((most, True), (most + 1, False)):
        built = envelope_for_password(PLAIN, SECRET, None, Env(), iterations=count)
        value = resized(built, hmac_identifier("sha256"), b"") if prf == "sha1" else built
        found = await fault(value) if prf == "sha1" or not good else None
        assert isinstance(found, BadAlg) is not good


async def test_a_costly_derivation_goes_where_the_offload_says() -> None:
    costs = []

    async def offload(work, cost: int) -> bytes:
        costs.append(cost)
        return work()

    for count in (2000, 2001):
        found = read_encrypted_key(envelope_for_password(PLAIN, SECRET, None, Env(), iterations=count), LIMIT)
        limits = DerivationLimits()
        clear = await open_encrypted_key(found, Env(), decrypt_key=None, secret=SECRET, limits=limits, offload=offload)
        assert clear == PLAIN
    assert costs == [2001]


async def test_a_long_salt_is_refused() -> None:
    limits = DerivationLimits(max_salt=15)
    value = envelope_for_password(PLAIN, SECRET, None, Env(), iterations=1000)
    assert isinstance(await fault(value, limits=limits), BadAlg)
    assert await opened(value, limits=replace(limits, max_salt=16)) == PLAIN


async def test_an_encrypted_key_opens_only_so_many_messages() -> None:
    recipient = RsaRecipient(KEY, CERTIFICATE, Env())
    found = read_encrypted_key(envelope_for_certificate(PLAIN, CERTIFICATE, None, Env()), LIMIT)
    other = read_encrypted_key(envelope_for_certificate(PLAIN, CERTIFICATE, None, Env()), LIMIT)
    assert isinstance(found.transport, KeyTransport)
    assert isinstance(other.transport, KeyTransport)
    keys = [
        await recipient.decrypt_key(found.transport.algorithm, found.transport.encrypted_key)
        for _ in range(MAX_USES + 2)
    ]
    assert len(set(keys[:MAX_USES])) == 1
    assert len(set(keys)) == 3
    fresh = await recipient.decrypt_key(other.transport.algorithm, other.transport.encrypted_key)
    assert await recipient.decrypt_key(other.transport.algorithm, other.transport.encrypted_key) == fresh


async def test_a_key_that_cannot_be_decrypted_gives_random_octets() -> None:
    recipient = RsaRecipient(KEY, CERTIFICATE, Env())
    found = read_encrypted_key(envelope_for_certificate(PLAIN, CERTIFICATE, None, Env()), LIMIT)
    assert isinstance(found.transport, KeyTransport)
    for size in (1, 255, 256, 257, 2048):
        first, second = [await recipient.decrypt_key(found.transport.algorithm, bytes(size)) for _ in range(2)]
        assert first != second


async def test_the_recipient_refuses_algorithms_that_it_does_not_know() -> None:
    recipient = RsaRecipient(KEY, CERTIFICATE, Env())
    with pytest.raises(BadAlg):
        await recipient.decrypt_key(der.seq(der.encode_oid("1.2.840.113549.1.1.11")), bytes(256))
    with pytest.raises(BadDataFormat):
        await recipient.decrypt_key(b"\x30\x00", bytes(256))


async def test_the_key_is_decrypted_where_the_offload_says() -> None:
    ran = []

    async def offload(work):
        ran.append(work)
        return work()

    recipient = RsaRecipient(KEY, CERTIFICATE, Env(), offload=offload)
    found = read_encrypted_key(envelope_for_certificate(PLAIN, CERTIFICATE, None, Env()), LIMIT)
    limits = DerivationLimits()
    clear = await open_encrypted_key(found, Env(), decrypt_key=recipient.decrypt_key, secret=None, limits=limits)
    assert (clear, len(ran)) == (PLAIN, 1)


# --- the file ---------------------------------------------------------------------------------------------------------


def key_file(tmp_path: Path, key, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(signing_file, "_ITERATIONS", 1000)
    path = tmp_path / "encryption.key.pem"
    path.write_bytes(encrypted_pem(key, PASSPHRASE, Env()))
    return path


async def test_the_key_of_the_encryption_certificate_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_file(tmp_path, KEY, monkeypatch)
    for certificate in (CERTIFICATE, make_certificate(encipher=None)):
        recipient = load_recipient(path, PASSPHRASE, certificate, Env())
        assert recipient.certificate == certificate
    with pytest.raises(ConfigError, match="keyEncipherment"):
        load_recipient(path, PASSPHRASE, make_certificate(encipher=False), Env())
    other = make_certificate(rsa.generate_private_key(65537, 2048))
    with pytest.raises(ConfigError, match="not the key of the certificate"):
        load_recipient(path, PASSPHRASE, other, Env())


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (rsa.generate_private_key(65537, 1024), "want an RSA key of 2048 to 16384 bits, have 1024"),
        (ec.generate_private_key(ec.SECP256R1()), "want an RSA key of at least 2048 bits to encrypt to"),
    ],
    ids=["RSA 1024", "P-256"],
)
def test_a_key_that_nobody_should_encrypt_to_is_not_loaded(tmp_path: Path, monkeypatch, key, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_recipient(key_file(tmp_path, key, monkeypatch), PASSPHRASE, make_certificate(key), Env())
