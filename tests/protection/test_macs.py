"""PasswordBasedMac and PBMAC1: vectors, an independent computation, bounds, and hostile parameters."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc4211, rfc8018

from cmpd.asn1 import der, oids
from cmpd.asn1.algorithms import HMACS, OWFS, hash_identifier, hmac_identifier
from cmpd.errors import BadAlg, BadDataFormat, CmpError
from cmpd.protection import MAC_SCHEMES, mac_scheme, pbm, pbmac1
from cmpd.protection.base import ProtectionPolicy
from tests.protection.fakes import spoilt

POLICY = ProtectionPolicy()
NO_SHA1 = ProtectionPolicy(allow_sha1_mac=False)
SALT = bytes.fromhex("0102030405060708")
TEXT = b"cmpd test vector"


def identifier(oid: bytes, parameters: bytes = b"") -> bytes:
    return der.seq(der.tlv(der.OID, oid), parameters)


def pbm_identifier(salt=None, owf=None, count=None, mac=None, more=b"") -> bytes:
    parameter = der.seq(
        der.encode_octets(SALT) if salt is None else salt,
        identifier(oids.SHA256) if owf is None else owf,
        der.encode_integer(500) if count is None else count,
        identifier(oids.HMAC_SHA256) if mac is None else mac,
        more,
    )
    return identifier(oids.PASSWORD_BASED_MAC, parameter)


def pbmac1_identifier(*kdf_parts: bytes, kdf=oids.PBKDF2, mac=None, more=b"") -> bytes:
    derivation = identifier(kdf, der.seq(*kdf_parts))
    return identifier(oids.PBMAC1, der.seq(derivation, mac or hmac_identifier("sha256"), more))


# --- results ---------------------------------------------------------------------------------------------------------


def test_password_based_mac_gives_the_known_basekey_and_mac():
    found = pbm.parse(pbm_identifier(), POLICY)
    key = found.derive(b"interop")
    assert key.hex() == "2e2e1088fa6ea468e69845a1a3379bc141bf3e5448c0793203d187c4b9ad6541"
    assert found.compute(key, TEXT).hex() == "0a6e7c3bbc8c558f92b49fd885099aded47a39bdf1448c89d01ee84a567d16fa"


def test_pbmac1_gives_the_known_key_and_mac():
    algorithm = pbmac1_identifier(
        der.encode_octets(SALT), der.encode_integer(500), der.encode_integer(32), hmac_identifier("sha256")
    )
    found = pbmac1.parse(algorithm, POLICY)
    key = found.derive(b"interop")
    assert key.hex() == "7ea3c1e58b3e0ebe78fad618bb3ee1aab16e7ccdf8f21dc9cdd2f09a2b6875e3"
    assert found.compute(key, TEXT).hex() == "1f6aa0ea3ed5395c6606a8f071c84772a83db06605d01186726aa746d588d1d0"


def digest_of(name, octets):
    """By hashlib, with the lengths that RFC 9481 section 2.2 gives SHAKE."""
    made = hashlib.new(name.replace("shake", "shake_"), octets)
    return made.digest(*{"shake128": (32,), "shake256": (64,)}.get(name, ()))


NULL_FORBIDDEN = "sha3_", "shake"  # RFC 9688 sections 2 and 4: "MUST be absent, not NULL but absent"
by_owf = pytest.mark.parametrize("owf", OWFS, ids=OWFS.values())
by_mac = pytest.mark.parametrize("mac", HMACS, ids=map(der.dotted, HMACS))


@by_mac
@by_owf
@pytest.mark.parametrize("null", [b"", der.NULL_TLV], ids=["absent", "NULL"])
def test_every_hash_and_hmac_with_null_or_absent_parameters_agrees_with_hashlib(owf, mac, null):
    algorithm = pbm_identifier(owf=identifier(owf, null), mac=identifier(mac, null))
    if null and (OWFS[owf].startswith(NULL_FORBIDDEN) or HMACS[mac].startswith(NULL_FORBIDDEN)):
        with pytest.raises(BadAlg, match="want no parameters with s"):
            pbm.parse(algorithm, POLICY)
        return
    found = pbm.parse(algorithm, POLICY)
    key = b"interop" + SALT
    for _ in range(500):
        key = digest_of(OWFS[owf], key)
    assert found.derive(b"interop") == key
    assert found.compute(key, TEXT) == hmac.new(key, TEXT, HMACS[mac]).digest()
    assert found.uses_sha1 == ("sha1" in (OWFS[owf], HMACS[mac]))
    assert found.iterations == 500
    assert found.answering(bytes) == found


@by_mac
@pytest.mark.parametrize("prf", HMACS, ids=map(der.dotted, HMACS))
def test_every_prf_agrees_with_pbkdf2_hmac_and_the_key_has_the_length_of_the_mac_unless_given(prf, mac):
    null = b"" if HMACS[prf].startswith(NULL_FORBIDDEN) else der.NULL_TLV
    algorithm = pbmac1_identifier(
        der.encode_octets(SALT), der.encode_integer(123), identifier(prf, null), mac=identifier(mac)
    )
    found = pbmac1.parse(algorithm, POLICY)
    assert found.answering(bytes) == found
    key = hashlib.pbkdf2_hmac(HMACS[prf], b"interop", SALT, 123, hashlib.new(HMACS[mac]).digest_size)
    assert found.derive(b"interop") == key
    assert found.compute(key, TEXT) == hmac.digest(key, TEXT, HMACS[mac])


def test_without_prf_pbkdf2_is_hmac_sha1_and_counts_as_sha1():
    algorithm = pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(200))
    found = pbmac1.parse(algorithm, POLICY)
    assert found.uses_sha1
    assert found.derive(b"interop") == hashlib.pbkdf2_hmac("sha1", b"interop", SALT, 200, 32)
    with pytest.raises(BadAlg, match=r"SHA-1 is not accepted here \(have it in prf\); use SHA-256, e\.g\. openssl cmp"):
        pbmac1.parse(algorithm, NO_SHA1)


@pytest.mark.parametrize("size", [0, 1, 4, 64, 128])
def test_salts_of_any_length_up_to_the_limit_are_used_whole(size):
    salt = bytes(range(size))
    found = pbm.parse(pbm_identifier(salt=der.encode_octets(salt), count=der.encode_integer(100)), POLICY)
    key = b"interop" + salt
    for _ in range(100):
        key = hashlib.sha256(key).digest()
    assert found.derive(b"interop") == key
    algorithm = pbmac1.build(salt, 100).algorithm
    assert pbmac1.parse(algorithm, POLICY).derive(b"x") == hashlib.pbkdf2_hmac("sha256", b"x", salt, 100, 32)


@pytest.mark.parametrize("name", dict.fromkeys(HMACS.values()))
def test_what_is_built_is_read_back_by_us_and_by_another_codec(name):
    made = pbm.build(SALT, 1000, owf=name, mac=name)
    assert pbm.parse(made.algorithm, POLICY) == made
    other, rest = decoder.decode(made.algorithm, asn1Spec=rfc4211.PKMACValue()["algId"])
    assert not rest
    parameter, rest = decoder.decode(other["parameters"], asn1Spec=rfc4211.PBMParameter())
    assert (bytes(parameter["salt"]), int(parameter["iterationCount"]), rest) == (SALT, 1000, b"")
    made2 = pbmac1.build(SALT, 1000, prf=name, mac=name)
    assert pbmac1.parse(made2.algorithm, POLICY) == made2
    other, rest = decoder.decode(made2.algorithm, asn1Spec=rfc4211.PKMACValue()["algId"])
    parameter, rest = decoder.decode(other["parameters"], asn1Spec=rfc8018.PBMAC1_params())
    assert not rest
    assert encoder.encode(parameter) == bytes(other["parameters"])


@pytest.mark.parametrize("made", [pbm.build(SALT, 200), pbmac1.build(SALT, 200)])
def test_one_bit_changed_in_data_or_secret_or_salt_changes_the_mac(made):
    key = made.derive(b"interop")
    right = made.compute(key, TEXT)
    assert made.compute(key, b"b" + TEXT[1:]) != right
    assert made.compute(made.derive(b"interoq"), TEXT) != right
    assert replace(made, salt=b"\x00" + SALT[1:]).derive(b"interop") != key


# --- refusals --------------------------------------------------------------------------------------------------------

BIG = der.encode_integer(1 << 200)


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        (pbm_identifier(count=der.encode_integer(99)), "iterationCount: want 100 to 100000, have 99"),
        (pbm_identifier(count=der.encode_integer(0)), "have 0"),
        (pbm_identifier(count=der.encode_integer(-500)), "have -500"),
        (pbm_identifier(count=der.encode_integer(100_001)), "have 100001"),
        (pbm_identifier(count=BIG), "want 100 to 100000"),
        (pbm_identifier(salt=der.encode_octets(bytes(129))), "salt: want at most 128 octets, have 129"),
        (pbm_identifier(owf=identifier(oids.PBKDF2)), "owf: algorithm 1.2.840.113549.1.5.12 is not supported"),
        (pbm_identifier(owf=identifier(oids.SHA256, b"\x04\x00")), "want no parameters or NULL with sha256"),
        (pbm_identifier(mac=identifier(oids.SHA256)), "mac: algorithm 2.16.840.1.101.3.4.2.1 is not supported"),
        (pbm_identifier(mac=identifier(oids.HMAC_SHA256, b"\x05\x01\x00")), "want no parameters or NULL"),
        (
            pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(1), hmac_identifier("sha256")),
            "PBKDF2 iterationCount: want 100 to 1000000, have 1",
        ),
        (
            pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(1_000_001), hmac_identifier("sha256")),
            "have 1000001",
        ),
        (
            pbmac1_identifier(der.encode_octets(bytes(200)), der.encode_integer(100), hmac_identifier("sha256")),
            "PBKDF2 salt",
        ),
        (pbmac1_identifier(identifier(oids.PBKDF2), der.encode_integer(100)), "otherSource"),
        (pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(100), kdf=oids.SHA1), "want PBKDF2"),
        (pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(100), identifier(oids.SHA1)), "PBKDF2 prf"),
    ],
)
def test_what_is_out_of_bounds_or_unknown_is_bad_alg(algorithm, text):
    scheme = mac_scheme(algorithm)
    with pytest.raises(BadAlg, match=text):
        scheme.parse(algorithm, POLICY)


@pytest.mark.parametrize("octets", [-1, 0, 1, 19, 129, 1 << 40])
def test_a_key_length_that_could_be_guessed_or_cost_more_is_refused(octets):
    algorithm = pbmac1_identifier(
        der.encode_octets(SALT), der.encode_integer(100), der.encode_integer(octets), hmac_identifier("sha256")
    )
    with pytest.raises(BadAlg, match=f"keyLength: want 20 to 128 octets, have {octets}"):
        pbmac1.parse(algorithm, POLICY)


def test_each_block_of_the_derived_key_counts_against_the_limit():
    policy = ProtectionPolicy(max_pbkdf2_iterations=1000)

    def ask(count, octets):
        return pbmac1_identifier(
            der.encode_octets(SALT), der.encode_integer(count), der.encode_integer(octets), hmac_identifier("sha256")
        )

    assert pbmac1.parse(ask(1000, 32), policy).iterations == 1000
    assert pbmac1.parse(ask(500, 33), policy).iterations == 1000
    with pytest.raises(BadAlg, match="want 100 to 500, have 501"):
        pbmac1.parse(ask(501, 33), policy)


@pytest.mark.parametrize(
    "algorithm",
    [
        identifier(oids.PASSWORD_BASED_MAC),
        identifier(oids.PASSWORD_BASED_MAC, der.NULL_TLV),
        identifier(oids.PASSWORD_BASED_MAC, der.seq()),
        pbm_identifier(more=der.NULL_TLV),
        pbm_identifier(salt=der.encode_utf8("salt")),
        pbm_identifier(salt=bytes.fromhex("240a0408") + SALT),
        pbm_identifier(count=bytes.fromhex("02020064")),
        pbm_identifier(count=bytes.fromhex("0200")),
        pbm_identifier(count=der.encode_integer(1 << 400)),
        pbm_identifier(owf=der.seq()),
        pbm_identifier() + b"\x00",
        identifier(oids.PBMAC1),
        identifier(oids.PBMAC1, der.NULL_TLV),
        pbmac1_identifier(),
        pbmac1_identifier(der.encode_octets(SALT)),
        pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(100), more=der.NULL_TLV),
        pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(100), hmac_identifier("sha256"), der.NULL_TLV),
    ],
)
def test_parameters_that_are_malformed_are_bad_data_format(algorithm):
    oid = der.expect(algorithm, 2, len(algorithm), der.OID, "")
    with pytest.raises(BadDataFormat):
        MAC_SCHEMES[algorithm[slice(*oid)]].parse(algorithm, POLICY)


@pytest.mark.parametrize(("owf", "mac"), [("sha1", "sha256"), ("sha256", "sha1"), ("sha1", "sha1")])
def test_sha1_in_any_part_is_refused_by_policy_with_the_remedy(owf, mac):
    algorithm = pbm.build(SALT, 500, owf=owf, mac=mac).algorithm
    assert pbm.parse(algorithm, POLICY).uses_sha1
    with pytest.raises(BadAlg, match="openssl cmp -digest sha256 -mac hmacWithSHA256"):
        pbm.parse(algorithm, NO_SHA1)
    old = pbm_identifier(mac=identifier(oids.HMAC_SHA1_IPSEC))
    with pytest.raises(BadAlg, match="have it in mac"):
        pbm.parse(old, NO_SHA1)


def test_an_algorithm_that_is_not_the_schemes_own_is_refused():
    for scheme, other in ((pbm, pbmac1.build(SALT, 100)), (pbmac1, pbm.build(SALT, 100))):
        with pytest.raises(BadAlg):
            scheme.parse(other.algorithm, POLICY)


SEEDS = [
    pbm_identifier(),
    pbm.build(SALT, 500, owf="sha1", mac="sha1").algorithm,
    pbmac1.build(SALT, 500).algorithm,
    pbmac1_identifier(der.encode_octets(SALT), der.encode_integer(200)),
]


@given(st.sampled_from(SEEDS), st.data())
def test_mutated_algorithm_identifiers_raise_nothing_but_cmp_errors(seed, data):
    mutated = spoilt(seed, data)
    try:
        scheme = mac_scheme(mutated)
        found = scheme.parse(mutated, POLICY) if scheme else None
    except CmpError:
        return
    if found is not None:  # what is accepted is within all bounds
        assert 100 <= found.iterations <= POLICY.max_pbkdf2_iterations
        assert len(found.salt) <= POLICY.max_salt


def test_hash_identifiers_are_written_as_their_rfcs_say():
    assert hash_identifier("sha256").hex() == "300b0609608648016503040201"
    assert hmac_identifier("sha256").hex() == "300c06082a864886f70d02090500"
    assert hash_identifier("sha3_256").hex() == "300b0609608648016503040208"
    assert hmac_identifier("sha3_256").hex() == "300b060960864801650304020e"
