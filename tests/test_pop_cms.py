"""What is encrypted to a key without a certificate: by each kind of key, and read by others than its maker."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.cms import CannotDecrypt, RecipientId, envelope_for_key, open_with_private_key, read_encrypted_key
from cmpd.cms.algorithms import KeyWrap
from cmpd.cms.kem import KemTransport, read_kem
from cmpd.env import Env
from cmpd.errors import BadAlg, BadDataFormat
from tests.pops import KEYS, decrypt_independently, flipped, pem

SKI = RecipientId(key_identifier=bytes(range(20)))
NOBODY = RecipientId(issuer=b"\x30\0", serial=b"\0")
TEXT = b"something of which nobody else may know, and more than a block"


def sequence(envelope: bytes) -> bytes:
    return der.tlv(der.SEQUENCE, envelope[der.header(envelope, 0, len(envelope))[1] :])


@pytest.mark.parametrize("recipient", [SKI, NOBODY], ids=["by identifier", "by issuer and serial"])
@pytest.mark.parametrize("kind", KEYS)
def test_what_is_encrypted_to_a_key_is_read_by_its_holder_and_by_another_codec(
    kind: str, recipient: RecipientId
) -> None:
    key = KEYS[kind]()
    envelope = envelope_for_key(TEXT, key.public_key(), recipient, Env())
    assert open_with_private_key(read_encrypted_key(envelope, 1000, end_entity=True), key) == TEXT
    text, info = decrypt_independently(sequence(envelope), key)
    assert text == TEXT
    if info.getName() == "kari":
        rid = info["kari"]["recipientEncryptedKeys"][0]["rid"]
        assert rid.getName() == ("rKeyId" if recipient is SKI else "issuerAndSerialNumber")


@pytest.mark.parametrize("kind", ["rsa", "p256", "p384", "p521"])
def test_openssl_cms_decrypts_it(kind: str, tmp_path: Path) -> None:
    key = KEYS[kind]()
    content = der.explicit(0, sequence(envelope_for_key(TEXT, key.public_key(), SKI, Env())))
    (tmp_path / "cms").write_bytes(der.seq(der.encode_oid("1.2.840.113549.1.7.3"), content))
    (tmp_path / "key").write_bytes(pem(key))
    command = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER"]
    command += ["-in", str(tmp_path / "cms"), "-inkey", str(tmp_path / "key")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, TEXT), done.stderr


@pytest.mark.parametrize("kind", KEYS)
def test_no_other_key_of_the_kind_reads_it(kind: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = KEYS[kind]()
    other = rsa.generate_private_key(65537, 2048) if kind == "rsa" else KEYS[kind]()
    found = read_encrypted_key(envelope_for_key(TEXT, key.public_key(), SKI, Env()), 1000, end_entity=True)
    with pytest.raises(CannotDecrypt):
        open_with_private_key(found, other)


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_other_kinds_do_not_read_it(kind: str) -> None:
    found = read_encrypted_key(envelope_for_key(TEXT, KEYS[kind]().public_key(), SKI, Env()), 1000, end_entity=True)
    for other in KEYS:
        if other != kind:
            with pytest.raises(CannotDecrypt):
                open_with_private_key(found, KEYS[other]())


@pytest.mark.parametrize("kind", KEYS)
def test_one_changed_bit_never_gives_the_text_but_where_nothing_hangs_on_it(kind: str) -> None:
    """The text comes out only if what was changed is the recipient's name, or a version."""
    key = KEYS[kind]()
    envelope = envelope_for_key(TEXT, key.public_key(), SKI, Env())
    names = envelope.index(bytes(range(20)))
    survived = []
    for position, changed in enumerate(flipped(envelope, range(len(envelope)))):
        try:
            text = open_with_private_key(read_encrypted_key(changed, 1000, end_entity=True), key)
        except (BadDataFormat, BadAlg, CannotDecrypt):
            continue
        if text == TEXT and not names - 2 <= position < names + 20:
            survived.append(position)
    assert len(survived) <= 2  # the versions; the X25519 and X448 keys have bits that do not count
    assert all(position < 60 for position in survived)


@given(st.binary(max_size=300))
def test_any_octets_are_an_encrypted_key_or_raise(octets: bytes) -> None:
    with pytest.raises((BadDataFormat, BadAlg)):
        read_encrypted_key(octets, 1000, end_entity=True)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["p256", "x25519", "mlkem768"]), st.data())
def test_mutated_recipients_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    envelope = bytearray(envelope_for_key(TEXT, KEYS[kind]().public_key(), SKI, Env()))
    for _ in range(data.draw(st.integers(1, 3))):
        envelope[data.draw(st.integers(0, len(envelope) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_encrypted_key(bytes(envelope), 1000, end_entity=True)
        open_with_private_key(found, KEYS[kind]())
    except (BadDataFormat, BadAlg, CannotDecrypt):
        return


@pytest.mark.parametrize("kind", ["p256", "x25519", "mlkem768"])
def test_a_server_takes_no_such_recipient(kind: str) -> None:
    envelope = envelope_for_key(TEXT, KEYS[kind]().public_key(), SKI, Env())
    with pytest.raises(BadAlg, match="want KeyTransRecipientInfo or PasswordRecipientInfo"):
        read_encrypted_key(envelope, 1000)


def test_the_key_of_rfc_9936_appendix_c_is_unwrapped() -> None:
    wrap = der.seq(der.encode_oid("2.16.840.1.101.3.4.1.5"))
    wrapped = bytes.fromhex("C050E4392F9C14DD0AC2220203F317D701F94F9DD92778F5")
    found = KemTransport(SKI, b"", b"", KeyWrap(16), wrap, None, wrapped)
    secret = bytes.fromhex("7DF12D412AE299A24FDE6D7C3BB8E3194C80AD3C733DCF2775E09FE8BEDB86D8")
    assert found.unwrap_with(secret) == bytes.fromhex("C5153005588269A0A59F3C01943FDD56")
    assert found.unwrap_with(secret[::-1]) is None


def test_other_recipients_than_kem_are_refused() -> None:
    other = der.encode_oid("1.2.3") + der.seq()
    with pytest.raises(ValueError, match="want id-ori-kem"):
        read_kem(other, 0, len(other))
