"""EncryptedKey spoilt in every place: refused in the ways of CMP, and in no time."""

import random
import time

import pytest

from cmpd.asn1 import der
from cmpd.cms import (
    DerivationLimits,
    encrypted_value_for_certificate,
    envelope_for_certificate,
    envelope_for_password,
    open_encrypted_key,
    read_encrypted_key,
)
from cmpd.env import Env
from cmpd.errors import BadAlg, BadDataFormat, CmpError
from cmpd.signing.recipient import RsaRecipient
from tests.hostile import mutate
from tests.hostile.craft import long_form
from tests.hostile.mutate import positions, splice
from tests.test_cms import CERTIFICATE, KEY, LIMIT, PLAIN, SECRET
from tests.test_general_messages import REV_PASSPHRASE, failure, genm, new_world

BUILT = {
    "to certificate": envelope_for_certificate(PLAIN, CERTIFICATE, b"id", Env()),
    "by password": envelope_for_password(PLAIN, SECRET, b"id", Env(), iterations=100),
    "encryptedValue": encrypted_value_for_certificate(PLAIN, CERTIFICATE, b"id", Env()),
}
MUTATIONS = [
    *(mutate.flip_bit, mutate.set_octet, mutate.insert_octets, mutate.delete_octets, mutate.truncate),
    *(mutate.delete_value, mutate.double_value, mutate.swap_values, mutate.empty_value, mutate.retag),
    *(mutate.length, mutate.replace_contents, mutate.nest, mutate.widen, mutate.cross, mutate.concatenate),
]


async def outcome(value: bytes) -> bytes | CmpError:
    """What comes out of it; anything but a CmpError is a fault of ours."""
    recipient = RsaRecipient(KEY, CERTIFICATE, Env())
    try:
        found = read_encrypted_key(value, LIMIT)
        return await open_encrypted_key(
            found, Env(), decrypt_key=recipient.decrypt_key, secret=SECRET, limits=DerivationLimits()
        )
    except CmpError as fault:
        return fault


@pytest.mark.parametrize("kind", BUILT)
async def test_a_value_cut_off_anywhere_is_refused(kind: str) -> None:
    value = BUILT[kind]
    for size in range(len(value)):
        with pytest.raises(BadDataFormat):
            read_encrypted_key(value[:size], LIMIT)
    for more in (b"\0", der.NULL_TLV, value):
        with pytest.raises(BadDataFormat):
            read_encrypted_key(value + more, LIMIT)


@pytest.mark.parametrize("kind", BUILT)
def test_one_more_value_at_the_end_of_any_structure_is_refused(kind: str) -> None:
    value = BUILT[kind]
    for start, stop, around in positions(value):
        if value[start] & 0x20:
            wider = der.tlv(value[start], value[der.header(value, start, stop)[1] : stop] + b"\x04\x00")
            with pytest.raises((BadDataFormat, BadAlg)):
                read_encrypted_key(splice(value, start, stop, around, wider), LIMIT)


def test_two_key_identifiers_are_refused() -> None:
    value = BUILT["to certificate"]
    place = max(at for at in positions(value) if value[at[0]] == 0xA1 and len(at[2]) == 1)
    attribute = value[place[0] + 2 : place[1]]
    with pytest.raises(BadDataFormat, match="localKeyId"):
        read_encrypted_key(splice(value, *place, der.tlv(0xA1, attribute * 2)), LIMIT)


def test_oaep_with_a_label_is_a_bad_algorithm() -> None:
    value = BUILT["to certificate"]
    sha256 = der.seq(der.encode_oid("2.16.840.1.101.3.4.2.1"))
    old = der.seq(der.explicit(0, sha256), der.explicit(1, der.seq(der.encode_oid("1.2.840.113549.1.1.8"), sha256)))
    [place] = [at for at in positions(value) if value[at[0] : at[1]] == old]
    for label, good in ((b"", True), (b"label", False)):
        source = der.explicit(2, der.seq(der.encode_oid("1.2.840.113549.1.1.9"), der.encode_octets(label)))
        labelled = splice(value, *place, der.seq(old[2:], source))
        if good:
            assert read_encrypted_key(labelled, LIMIT).key_id == b"id"
        else:
            with pytest.raises(BadAlg, match="label"):
                read_encrypted_key(labelled, LIMIT)


@pytest.mark.parametrize("kind", BUILT)
async def test_every_tag_and_every_length_counts(kind: str) -> None:
    value = BUILT[kind]
    assert await outcome(value) == PLAIN
    for start, stop, around in positions(value):
        octets = value[start:stop]
        for wrong in (bytes((octets[0] ^ 0x01,)) + octets[1:], bytes((octets[0] ^ 0x40,)) + octets[1:]):
            with pytest.raises((BadDataFormat, BadAlg)):
                read_encrypted_key(splice(value, start, stop, around, wrong), LIMIT)
        with pytest.raises(BadDataFormat):
            read_encrypted_key(splice(value, start, stop, around, long_form(octets)), LIMIT)


@pytest.mark.parametrize("kind", BUILT)
async def test_any_spoiling_ends_in_an_answer_and_takes_no_time(kind: str) -> None:
    rng = random.Random(kind)
    others = list(BUILT.values())
    for _ in range(400):
        spoilt = rng.choice(MUTATIONS)(rng, BUILT[kind], rng.choice(others))
        began = time.perf_counter()
        found = await outcome(spoilt)
        assert time.perf_counter() - began < 1
        if isinstance(found, CmpError):
            assert found.failure in {"badDataFormat", "badAlg", "badRequest"}
            assert len(found.text) < 300


@pytest.mark.parametrize("kind", ["to certificate", "by password"])
@pytest.mark.parametrize("count", [0, 2, 10])
def test_exactly_one_recipient_is_wanted(kind: str, count: int) -> None:
    value = BUILT[kind]
    recipients = next(at for at in positions(value) if value[at[0]] == der.SET)
    start, stop = der.header(value, recipients[0], len(value))[1:]
    with pytest.raises(BadDataFormat, match="recipientInfos"):
        read_encrypted_key(splice(value, *recipients, der.tlv(der.SET, value[start:stop] * count)), LIMIT)


@pytest.mark.parametrize("tag", [0xA1, 0xA2, 0xA4])
def test_other_kinds_of_recipient_are_bad_algorithms(tag: int) -> None:
    value = BUILT["by password"]
    info = next(at for at in positions(value) if value[at[0]] == 0xA3)
    with pytest.raises(BadAlg, match="RecipientInfo"):
        read_encrypted_key(splice(value, *info, bytes((tag,)) + value[info[0] + 1 : info[1]]), LIMIT)


@pytest.mark.parametrize(
    "oid", ["1.2.840.113549.3.7", "1.2.840.113549.3.2", "2.16.840.1.101.3.4.1.46", "2.16.840.1.101.3.4.1.1"]
)
@pytest.mark.parametrize("kind", BUILT)
def test_other_ciphers_are_bad_algorithms(kind: str, oid: str) -> None:
    value, aes = BUILT[kind], der.encode_oid("2.16.840.1.101.3.4.1.42")
    place = next(at for at in positions(value) if value[at[0] : at[1]] == aes)
    with pytest.raises(BadAlg, match="AES"):
        read_encrypted_key(splice(value, *place, der.encode_oid(oid)), LIMIT)


@pytest.mark.parametrize("size", [0, 1, 15, 17, 1040, 100_000])
@pytest.mark.parametrize("kind", BUILT)
def test_what_is_not_whole_blocks_or_too_long_is_refused(kind: str, size: int) -> None:
    value = BUILT[kind]
    mark = 0x80 if kind != "encryptedValue" else der.BIT_STRING
    place = max(at for at in positions(value) if value[at[0]] == mark)
    prefix = b"\0" if mark == der.BIT_STRING else b""
    with pytest.raises(BadDataFormat, match="whole blocks"):
        read_encrypted_key(splice(value, *place, der.tlv(mark, prefix + bytes(size))), LIMIT)


async def test_wrong_padding_at_each_level_has_the_same_answer() -> None:
    """The last octets of each encrypted part changed: the key's and the content's."""
    for value in BUILT.values():
        found = read_encrypted_key(value, LIMIT)
        texts = set()
        for part in (found.transport.encrypted_key, found.encrypted):
            spoilt = value.replace(part, part[:-20] + bytes(octet ^ 0x55 for octet in part[-20:]))
            answer = await outcome(spoilt)
            if isinstance(answer, bytes):  # one time in 256 the padding looks right
                assert answer != PLAIN
            else:
                texts.add((answer.failure, answer.text))
        assert len(texts) <= 1


async def test_any_spoiling_in_a_genm_gets_a_protected_answer() -> None:
    world = new_world()
    device = await world.add_secret(may_revoke=True)
    rng = random.Random(9)
    values = [BUILT["to certificate"], envelope_for_password(PLAIN, device.secret, b"id", Env(), iterations=100)]
    for _ in range(200):
        spoilt = rng.choice(MUTATIONS)(rng, rng.choice(values), rng.choice(values))
        seen = await genm(world, device, der.seq(der.encode_oid(REV_PASSPHRASE), spoilt), pvno=3)
        assert seen.body == "genp" or failure(seen) in {"badDataFormat", "badAlg", "badRequest"}
