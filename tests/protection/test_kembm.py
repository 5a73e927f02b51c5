"""KemBasedMac and KemCiphertextInfo (RFC 9810 section 5.1.3.4): another codec, HKDF by hand, and hostile parameters."""

import hmac
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mlkem
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc5280, rfc8619, rfc9688, rfc9810, rfc9936

from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg, BadDataFormat, CmpError
from cmpd.protection import dhbm, kembm, key_mac_scheme, mac_scheme
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.macs import MAC_NAMES
from tests.kems import kem_other_info
from tests.pops import hkdf
from tests.protection.fakes import spoilt
from tests.protection.test_gmac import NONCE, SIZES, gmac_identifier, gmac_of
from tests.protection.test_macs import identifier

POLICY = ProtectionPolicy()
TEXT = b"the octets of a ProtectedPart"
SECRET = bytes(range(32))
TRANSACTION = bytes(range(16))
HKDFS = {
    "sha256": rfc8619.id_alg_hkdf_with_sha256,
    "sha384": rfc8619.id_alg_hkdf_with_sha384,
    "sha512": rfc8619.id_alg_hkdf_with_sha512,
    "sha3_256": rfc9688.id_alg_hkdf_with_sha3_256,
    "sha3_384": rfc9688.id_alg_hkdf_with_sha3_384,
    "sha3_512": rfc9688.id_alg_hkdf_with_sha3_512,
}


def parameter(
    kdf: bytes | None = None, context: bytes = b"", size: int = 32, mac: bytes | None = None, more: bytes = b""
) -> bytes:
    kdf = identifier(oids.HKDF_WITH_SHA256) if kdf is None else kdf
    mac = identifier(oids.HMAC_SHA256) if mac is None else mac
    return identifier(oids.KEM_BASED_MAC, der.seq(kdf, context, der.encode_integer(size), mac, more))


# --- the MAC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [None, b"", b"some context"])
@pytest.mark.parametrize("kdf", HKDFS)
def test_the_key_is_what_hkdf_gives_over_kem_other_info_of_another_encoder(kdf: str, context: bytes | None) -> None:
    for name in MAC_NAMES:
        made = kembm.build(os.urandom, name, kdf=kdf, context=context)
        assert kembm.parse(made.algorithm, POLICY) == made
        key = hkdf(kdf, SECRET, kem_other_info(TRANSACTION, context), made.size)
        assert made.derive(SECRET, TRANSACTION) == key
        value = made.compute(key, TEXT)
        assert value == (gmac_of(key, made.mac.nonce, TEXT) if name in SIZES else hmac.digest(key, TEXT, name))
        assert made.uses_sha1 == (name == "sha1")
        assert made.size == SIZES.get(name) or made.size == len(value)


@pytest.mark.parametrize("size", [16, 31, 32, 64, 65, 128])
def test_a_key_of_hmac_has_the_length_that_len_says(size: int) -> None:
    found = kembm.parse(parameter(size=size), POLICY)
    assert found.derive(SECRET, TRANSACTION) == hkdf("sha256", SECRET, kem_other_info(TRANSACTION, None), size)


def test_secret_transaction_and_context_all_change_the_key() -> None:
    made = kembm.build(os.urandom)
    key = made.derive(SECRET, TRANSACTION)
    assert made.derive(b"\x01" + SECRET[1:], TRANSACTION) != key
    assert made.derive(SECRET, b"\x01" + TRANSACTION[1:]) != key
    assert made.derive(SECRET, TRANSACTION[:-1]) != key
    assert kembm.build(os.urandom, context=b"").derive(SECRET, TRANSACTION) != key
    assert made.compute(key, TEXT) != made.compute(key, TEXT[:-1] + b"T")


@pytest.mark.parametrize("kdf", HKDFS)
@pytest.mark.parametrize("context", [None, bytes(256)])
def test_what_is_built_is_the_same_by_another_codec(kdf: str, context: bytes | None) -> None:
    made = kembm.build(os.urandom, "aes256-gmac", kdf=kdf, context=context)
    other, rest = decoder.decode(made.algorithm, asn1Spec=rfc5280.AlgorithmIdentifier())
    assert (other["algorithm"], rest) == (rfc9810.id_KemBasedMac, b"")
    found, rest = decoder.decode(other["parameters"], asn1Spec=rfc9810.KemBMParameter())
    assert not rest
    assert encoder.encode(found) == bytes(other["parameters"])
    assert (found["kdf"]["algorithm"], int(found["len"])) == (HKDFS[kdf], 32)
    assert not found["kdf"]["parameters"].hasValue()
    assert (bytes(found["kemContext"]) if found["kemContext"].hasValue() else None) == context


@pytest.mark.parametrize("name", SIZES)
def test_the_next_message_has_another_nonce_and_the_same_key(name: str) -> None:
    made = kembm.build(os.urandom, name, kdf="sha384", context=b"context")
    following = made.answering(os.urandom)
    assert following.algorithm != made.algorithm
    assert kembm.parse(following.algorithm, POLICY) == following
    assert following.derive(SECRET, TRANSACTION) == made.derive(SECRET, TRANSACTION)
    assert kembm.build(os.urandom).answering(os.urandom).algorithm == kembm.build(os.urandom).algorithm


def test_it_is_in_a_table_of_its_own_because_a_shared_secret_is_not_enough() -> None:
    assert mac_scheme(parameter()) is None
    assert key_mac_scheme(parameter()) is kembm


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        (parameter(kdf=identifier(oids.PBKDF2)), r"KemBMParameter kdf: want HKDF .* have 1\.2\.840\.113549\.1\.5\.12"),
        (parameter(kdf=identifier(oids.HKDF_WITH_SHA256, der.NULL_TLV)), "kdf: want no parameters with HKDF"),
        (parameter(mac=identifier(oids.SHA256)), "KemBMParameter mac: algorithm .* is not supported"),
        (parameter(mac=identifier(oids.KMAC_WITH_SHAKE256)), "KemBMParameter mac: KMAC is not supported"),
        (parameter(size=0), "KemBMParameter len: want 16 to 128 octets with sha256, have 0"),
        (parameter(size=-1), "have -1"),
        (parameter(size=1), "have 1"),
        (parameter(size=15), "have 15"),
        (parameter(size=129), "have 129"),
        (parameter(size=1 << 200), "have 16069"),
        (parameter(size=17, mac=gmac_identifier()), "want 16 octets with aes128-gmac, have 17"),
        (parameter(size=16, mac=gmac_identifier("aes192-gmac")), "want 24 octets with aes192-gmac, have 16"),
        (parameter(size=16, mac=gmac_identifier("aes256-gmac")), "want 32 octets with aes256-gmac, have 16"),
        (parameter(size=16, mac=gmac_identifier(nonce=NONCE[1:])), "want a nonce of 12 octets"),
        (parameter(context=der.explicit_octets(0, bytes(257))), "kemContext: want at most 256 octets, have 257"),
        (dhbm.build().algorithm, "KemBasedMac: have the algorithm"),
    ],
)
def test_what_is_unknown_or_out_of_bounds_is_bad_alg(algorithm: bytes, text: str) -> None:
    with pytest.raises(BadAlg, match=text):
        kembm.parse(algorithm, POLICY)


@pytest.mark.parametrize(
    "algorithm",
    [
        identifier(oids.KEM_BASED_MAC),
        identifier(oids.KEM_BASED_MAC, der.NULL_TLV),
        identifier(oids.KEM_BASED_MAC, der.seq()),
        parameter(more=der.NULL_TLV),
        parameter(context=der.tlv(0x80, b"implicit")),
        parameter(context=der.tlv(0xA0, b"")),
        parameter(context=der.tlv(0xA0, der.encode_octets(b"") * 2)),
        parameter(context=der.tlv(0xA1, der.encode_octets(b""))),
        parameter(size=1 << 400),
        parameter() + b"\0",
        b"",
    ],
)
def test_parameters_that_are_malformed_are_bad_data_format(algorithm: bytes) -> None:
    with pytest.raises(BadDataFormat):
        kembm.parse(algorithm, POLICY)


def test_sha1_is_refused_where_the_policy_says_so() -> None:
    with pytest.raises(BadAlg, match=r"KemBasedMac: SHA-1 is not accepted here \(have it in mac\)"):
        kembm.parse(kembm.build(os.urandom, "sha1").algorithm, ProtectionPolicy(allow_sha1_mac=False))


SEEDS = [
    parameter(),
    parameter(context=der.explicit_octets(0, b"some context"), size=16, mac=gmac_identifier()),
    dhbm.build("sha512", "sha512").algorithm,
    dhbm.build("sha256", "aes256-gmac", os.urandom).algorithm,
    der.seq(identifier(oids.HKDF_WITH_SHA256), der.encode_octets(bytes(40))),
]


@given(st.sampled_from(SEEDS), st.data())
def test_mutated_octets_raise_nothing_but_cmp_errors(seed: bytes, data: st.DataObject) -> None:
    mutated = spoilt(seed, data)
    for read in (lambda one: kembm.parse(one, POLICY), lambda one: dhbm.parse(one, POLICY), kembm.read_kem_ciphertext):
        try:
            found = read(mutated)
        except CmpError:
            continue
        if isinstance(found, kembm.KemBasedMac):  # what is accepted is within all bounds, and works
            assert 16 <= found.size <= 128
            assert found.compute(found.derive(SECRET, TRANSACTION), TEXT)
        elif isinstance(found, dhbm.DhBasedMac):
            assert found.compute(found.derive(SECRET), TEXT)


# --- the ciphertext --------------------------------------------------------------------------------------------------

KEYS = {
    rfc9936.id_alg_ml_kem_768: mlkem.MLKEM768PrivateKey.generate,
    rfc9936.id_alg_ml_kem_1024: mlkem.MLKEM1024PrivateKey.generate,
}


@pytest.mark.parametrize("oid", KEYS, ids=str)
def test_what_is_encapsulated_is_opened_by_the_private_key_alone_and_is_new_each_time(oid: object) -> None:
    key, another = KEYS[oid](), KEYS[oid]()
    algorithm, ciphertext, secret = kembm.encapsulate(key.public_key())
    assert key.decapsulate(ciphertext) == secret
    assert len(secret) == 32
    assert another.decapsulate(ciphertext) != secret
    assert kembm.encapsulate(key.public_key())[1:] != (ciphertext, secret)
    other, rest = decoder.decode(
        kembm.encode_kem_ciphertext(algorithm, ciphertext), asn1Spec=rfc9810.KemCiphertextInfo()
    )
    assert not rest
    assert (other["kem"]["algorithm"], bytes(other["ct"])) == (oid, ciphertext)
    assert not other["kem"]["parameters"].hasValue()
    assert kembm.read_kem_ciphertext(bytes(encoder.encode(other))) == (algorithm, ciphertext)


def test_a_key_that_encapsulates_nothing_is_bad_alg() -> None:
    with pytest.raises(BadAlg, match="want a key of ML-KEM-768 or ML-KEM-1024"):
        kembm.encapsulate(ec.generate_private_key(ec.SECP256R1()).public_key())


def test_the_infotype_is_that_of_another_table() -> None:
    assert der.dotted(kembm.ID_IT_KEM_CIPHERTEXT_INFO) == str(rfc9810.id_it_KemCiphertextInfo)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        der.NULL_TLV,
        der.seq(),
        der.seq(identifier(oids.SHA256)),
        der.seq(identifier(oids.SHA256), der.encode_octets(b"")),
        der.seq(identifier(oids.SHA256), der.encode_octets(bytes(4097))),
        der.seq(identifier(oids.SHA256), der.encode_octets(b"ct"), der.NULL_TLV),
        der.seq(identifier(oids.SHA256), der.encode_octets(b"ct")) + b"\0",
        der.seq(der.encode_octets(b"ct"), identifier(oids.SHA256)),
    ],
)
def test_what_is_no_kem_ciphertext_info_is_bad_data_format(value: bytes) -> None:
    with pytest.raises(BadDataFormat, match=r"section 5\.3\.19\.18"):
        kembm.read_kem_ciphertext(value)
