"""AES-GMAC inside PasswordBasedMac and PBMAC1, the key that it wants, and what is refused of it; KMAC."""

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc4211, rfc9044, rfc9480

from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.protection import pbm, pbmac1
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.macs import GMACS, MAC_NAMES, Gmac, Hmac, build_mac, fit_key, read_mac
from tests.protection.test_macs import digest_of, identifier, pbm_identifier, pbmac1_identifier

POLICY = ProtectionPolicy()
SALT = b"salt and pepper"
NONCE = bytes(range(12))
TEXT = b"the octets of a ProtectedPart"
SIZES = {"aes128-gmac": 16, "aes192-gmac": 24, "aes256-gmac": 32}
OIDS = {name: oid for oid, name in GMACS.items()}
by_name = pytest.mark.parametrize("name", SIZES)


def gmac_of(key: bytes, nonce: bytes, octets: bytes, length: int = 16) -> bytes:
    """By another interface of the library: GCM that is told authenticated octets and nothing to encrypt."""
    encryptor = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(octets)
    assert encryptor.finalize() == b""
    return encryptor.tag[:length]


def gmac_identifier(
    name: str = "aes128-gmac", nonce: bytes = NONCE, length: int | None = 16, more: bytes = b""
) -> bytes:
    size = b"" if length is None else der.encode_integer(length)
    return identifier(OIDS[name], der.seq(der.encode_octets(nonce), size, more))


# --- results ---------------------------------------------------------------------------------------------------------


def test_gmac_gives_the_known_values() -> None:
    """NIST's vectors for GCM (gcmEncryptExtIV128.rsp and 256, PTlen = 0, AADlen = 128)."""
    for key, nonce, octets, tag in (
        (
            "77be63708971c4e240d1cb79e8d77feb",
            "e0e00f19fed7ba0136a797f3",
            "7a43ec1d9c0a5a78a0b16533a6213cab",
            "209fcc8d3675ed938e9c7166709dd946",
        ),
        (
            "78dc4e0aaf52d935c3c01eea57428f00ca1fd475f5da86a49c8dd73d68c8e223",
            "d79cf22d504cc793c3fb6c8a",
            "b96baa8c1c75a671bfb2d08d06be5f36",
            "3e5d486aa2e30b22e040b85723a06e76",
        ),
    ):
        made = Gmac(f"aes{len(key) * 4}-gmac", bytes.fromhex(nonce))
        assert made.compute(bytes.fromhex(key), bytes.fromhex(octets)).hex() == tag


@by_name
@pytest.mark.parametrize("length", [None, 12, 13, 14, 15, 16])
def test_every_length_of_tag_is_the_beginning_of_what_another_interface_computes(name: str, length: int | None) -> None:
    algorithm = gmac_identifier(name, length=length)
    found, end = read_mac(algorithm, 0, len(algorithm), "mac")
    assert end == len(algorithm)
    key = os.urandom(SIZES[name])
    assert found.compute(key, TEXT) == gmac_of(key, NONCE, TEXT, length or 12)
    with pytest.raises(ValueError, match=f"want a key of {SIZES[name]} octets"):
        found.compute(key + b"\0", TEXT)


@by_name
@pytest.mark.parametrize("owf", ["sha1", "sha256", "sha3_224", "shake128"])
def test_pbm_cuts_or_continues_basekey_to_the_key_that_gmac_wants(name: str, owf: str) -> None:
    made = pbm.build(SALT, 100, owf=owf, mac=name, random=bytes)
    assert pbm.parse(made.algorithm, POLICY) == made
    base = b"secret" + SALT
    for _ in range(100):
        base = digest_of(owf, base)
    wanted = (base + digest_of(owf, b"1" + base) + digest_of(owf, b"2" + base))[: SIZES[name]]
    assert made.derive(b"secret") == wanted
    assert made.compute(wanted, TEXT) == gmac_of(wanted, bytes(12), TEXT)


@by_name
def test_pbmac1_derives_the_key_that_gmac_wants(name: str) -> None:
    made = pbmac1.build(SALT, 100, mac=name, random=bytes)
    assert pbmac1.parse(made.algorithm, POLICY) == made
    key = hashlib.pbkdf2_hmac("sha256", b"secret", SALT, 100, SIZES[name])
    assert made.derive(b"secret") == key
    assert made.compute(key, TEXT) == gmac_of(key, bytes(12), TEXT)
    without = pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(100), mac=gmac_identifier(name))
    assert pbmac1.parse(without, POLICY).derive(b"secret") == hashlib.pbkdf2_hmac(
        "sha1", b"secret", SALT, 100, SIZES[name]
    )


@given(st.binary(min_size=16, max_size=64), st.integers(1, 700))
def test_a_key_of_any_length_is_made_as_section_5_1_3_1_says(basekey: bytes, size: int) -> None:
    """Ten and more parts too: "N" is the number in ASCII."""
    whole = basekey + b"".join(hashlib.sha512(str(n).encode() + basekey).digest() for n in range(1, 12))
    assert fit_key(basekey, "sha512", size) == whole[:size]
    assert fit_key(basekey, "sha512", None) == basekey


@by_name
def test_what_is_built_is_read_by_another_codec(name: str) -> None:
    made = pbm.build(SALT, 100, mac=name, random=os.urandom)
    other, rest = decoder.decode(made.algorithm, asn1Spec=rfc4211.PKMACValue()["algId"])
    parameter, more = decoder.decode(other["parameters"], asn1Spec=rfc9480.PBMParameter())
    assert (rest, more) == (b"", b"")
    known = {"aes128-gmac": rfc9044.id_aes128_GMAC, "aes192-gmac": rfc9044.id_aes192_GMAC}
    assert parameter["mac"]["algorithm"] == known.get(name, rfc9044.id_aes256_GMAC)
    gcm, rest = decoder.decode(parameter["mac"]["parameters"], asn1Spec=rfc9044.GCMParameters())
    assert (len(gcm["nonce"]), int(gcm["length"]), rest) == (12, 16, b"")
    shortest = rfc9044.GCMParameters()
    shortest["nonce"] = NONCE
    assert Gmac(name, NONCE, 12).identifier == identifier(OIDS[name], encoder.encode(shortest))


# --- one nonce for one message ---------------------------------------------------------------------------------------


@by_name
def test_an_answer_has_the_same_key_and_another_nonce(name: str) -> None:
    for made in (
        pbm.build(SALT, 100, owf="sha384", mac=name, random=os.urandom),
        pbmac1.build(SALT, 100, prf="sha3_256", mac=name, random=os.urandom),
    ):
        scheme = pbm if isinstance(made, pbm.PasswordBasedMac) else pbmac1
        answer = made.answering(os.urandom)
        assert answer.algorithm != made.algorithm
        assert scheme.parse(answer.algorithm, POLICY) == answer
        assert answer.derive(b"secret") == made.derive(b"secret")
        assert answer.mac != made.mac
        assert (answer.salt, answer.mac.name, answer.iterations) == (made.salt, made.mac.name, made.iterations)


def test_a_received_length_of_tag_is_that_of_the_answer() -> None:
    found = pbm.parse(pbm_identifier(mac=gmac_identifier(length=13)), POLICY)
    answer = found.answering(os.urandom)
    assert len(answer.compute(answer.derive(b"x"), TEXT)) == 13
    assert pbm.parse(answer.algorithm, POLICY) == answer


def test_a_nonce_needs_random_octets_and_hmac_none() -> None:
    for name in SIZES:
        with pytest.raises(ValueError, match="random octets for its nonce"):
            build_mac(name)
    for name in set(MAC_NAMES) - set(SIZES):
        assert build_mac(name) == Hmac(name)


# --- refusals --------------------------------------------------------------------------------------------------------

KDF = der.encode_octets(SALT), der.encode_integer(100)


@pytest.mark.parametrize(
    ("mac", "text"),
    [
        (identifier(oids.AES128_GMAC), "want GCMParameters with aes128-gmac, have none"),
        (gmac_identifier(nonce=b""), "nonce of 12 octets with aes128-gmac, have 0"),
        (gmac_identifier(nonce=bytes(11)), "have 11"),
        (gmac_identifier(nonce=bytes(16)), "have 16"),
        (gmac_identifier(length=11), "length of 12 to 16 octets with aes128-gmac, have 11"),
        (gmac_identifier(length=17), "have 17"),
        (gmac_identifier(length=0), "have 0"),
        (gmac_identifier(length=-12), "have -12"),
        (identifier(oids.KMAC_WITH_SHAKE128), "KMAC is not supported, use HMAC"),
        (identifier(oids.KMAC_WITH_SHAKE256, der.seq(der.encode_integer(512))), "KMAC is not supported, use HMAC"),
        (identifier(oids.SHAKE128), "algorithm 2.16.840.1.101.3.4.2.11 is not supported"),
        (identifier(oids.HMAC_SHA3_512, der.NULL_TLV), "want no parameters with sha3_512"),
    ],
)
def test_a_mac_that_is_out_of_bounds_or_unknown_is_bad_alg_and_its_field_is_named(mac: bytes, text: str) -> None:
    with pytest.raises(BadAlg, match=f"^PBMParameter mac: .*{text}"):
        pbm.parse(pbm_identifier(mac=mac), POLICY)
    with pytest.raises(BadAlg, match=f"^PBMAC1 messageAuthScheme: .*{text}"):
        pbmac1.parse(pbmac1_identifier(*KDF, mac=mac), POLICY)


@pytest.mark.parametrize(
    "mac",
    [
        identifier(oids.AES128_GMAC, der.NULL_TLV),
        identifier(oids.AES128_GMAC, der.seq()),
        identifier(oids.AES128_GMAC, der.seq(der.encode_integer(12))),
        gmac_identifier(more=der.NULL_TLV),
        gmac_identifier(length=None, more=der.encode_octets(b"")),
    ],
)
def test_gcm_parameters_that_are_malformed_are_bad_data_format(mac: bytes) -> None:
    with pytest.raises(BadDataFormat):
        pbm.parse(pbm_identifier(mac=mac), POLICY)
    with pytest.raises(BadDataFormat):
        pbmac1.parse(pbmac1_identifier(*KDF, mac=mac), POLICY)


@by_name
def test_gmac_is_never_the_prf_of_pbkdf2(name: str) -> None:
    with pytest.raises(BadAlg, match=r"PBKDF2 prf: want HMAC, have AES-GMAC.*RFC 9481 section 6\.2\.2"):
        pbmac1.parse(pbmac1_identifier(*KDF, gmac_identifier(name)), POLICY)


@by_name
def test_a_derived_key_of_another_length_than_that_of_gmac_is_refused(name: str) -> None:
    for octets in (SIZES[name] - 1, SIZES[name] + 1, 1, 128):
        algorithm = pbmac1_identifier(*KDF, der.encode_integer(octets), mac=gmac_identifier(name))
        with pytest.raises(BadAlg, match=f"keyLength: want {SIZES[name]} octets with {name}, have {octets}"):
            pbmac1.parse(algorithm, POLICY)
