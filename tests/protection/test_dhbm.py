"""DHBasedMac (RFC 9810 section 5.1.3.2): values computed another way, another codec, and hostile parameters."""

import hashlib
import hmac
import os

import pytest
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc5280, rfc9810

from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg, BadDataFormat
from cmpd.protection import SCHEMES, dhbm, key_mac_scheme, mac_scheme
from cmpd.protection.base import ProtectionPolicy
from tests.protection.test_gmac import SIZES, gmac_identifier, gmac_of
from tests.protection.test_macs import digest_of, identifier

POLICY = ProtectionPolicy()
TEXT = b"the octets of a ProtectedPart"
SHARED = bytes(range(66))  # as long as that of P-521

OWFS = {"sha1": oids.SHA1, "sha256": oids.SHA256, "sha3_384": oids.SHA3_384, "shake256": oids.SHAKE256}
HMACS = {"sha1": oids.HMAC_SHA1, "sha224": oids.HMAC_SHA224, "sha512": oids.HMAC_SHA512, "sha3_256": oids.HMAC_SHA3_256}


def parameter(owf: bytes | None = None, mac: bytes | None = None, more: bytes = b"") -> bytes:
    owf = identifier(oids.SHA256) if owf is None else owf
    return identifier(oids.DH_BASED_MAC, der.seq(owf, identifier(oids.HMAC_SHA256) if mac is None else mac, more))


@pytest.mark.parametrize("mac", HMACS)
@pytest.mark.parametrize("owf", OWFS)
def test_the_key_of_hmac_is_the_hash_of_the_shared_value(owf: str, mac: str) -> None:
    found = dhbm.parse(parameter(identifier(OWFS[owf]), identifier(HMACS[mac])), POLICY)
    key = digest_of(owf, SHARED)
    assert found.derive(SHARED) == key
    assert found.compute(key, TEXT) == hmac.new(key, TEXT, mac).digest()
    assert found.iterations == 0
    assert found.uses_sha1 == ("sha1" in (owf, mac))
    assert found.answering(os.urandom) == found


@pytest.mark.parametrize("mac", SIZES)
@pytest.mark.parametrize("owf", OWFS)
def test_the_key_of_gmac_is_cut_or_continued(owf: str, mac: str) -> None:
    found = dhbm.parse(parameter(identifier(OWFS[owf]), gmac_identifier(mac)), POLICY)
    base = digest_of(owf, SHARED)
    key = (base + digest_of(owf, b"1" + base))[: SIZES[mac]]
    assert found.derive(SHARED) == key
    assert found.compute(key, TEXT) == gmac_of(key, bytes(range(12)), TEXT)
    answer = found.answering(os.urandom)
    assert answer.algorithm != found.algorithm
    assert dhbm.parse(answer.algorithm, POLICY) == answer
    assert answer.derive(SHARED) == key


@pytest.mark.parametrize("mac", ["sha256", "sha3_512", "aes192-gmac"])
def test_what_is_built_is_read_back_by_us_and_by_another_codec(mac: str) -> None:
    made = dhbm.build("sha384", mac, os.urandom)
    assert dhbm.parse(made.algorithm, POLICY) == made
    other, rest = decoder.decode(made.algorithm, asn1Spec=rfc5280.AlgorithmIdentifier())
    assert (other["algorithm"], rest) == (rfc9810.id_DHBasedMac, b"")
    found, rest = decoder.decode(other["parameters"], asn1Spec=rfc9810.DHBMParameter())
    assert not rest
    assert encoder.encode(found) == bytes(other["parameters"])
    assert str(found["owf"]["algorithm"]) == "2.16.840.1.101.3.4.2.2"


def test_it_is_in_a_table_of_its_own_because_a_shared_secret_is_not_enough() -> None:
    algorithm = dhbm.build().algorithm
    assert mac_scheme(algorithm) is None
    assert key_mac_scheme(algorithm) is dhbm
    assert SCHEMES[oids.DH_BASED_MAC] is dhbm
    assert key_mac_scheme(identifier(oids.PASSWORD_BASED_MAC)) is None


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        (parameter(owf=identifier(oids.HMAC_SHA256)), "DHBMParameter owf: algorithm .* is not supported"),
        (parameter(mac=identifier(oids.SHA256)), "DHBMParameter mac: algorithm .* is not supported"),
        (parameter(owf=identifier(oids.SHA256, b"\x04\x00")), "want no parameters or NULL with sha256"),
        (parameter(mac=gmac_identifier(nonce=bytes(8))), "want a nonce of 12 octets"),
        (identifier(oids.KEM_BASED_MAC), "DHBasedMac: have the algorithm"),
    ],
)
def test_what_is_unknown_or_out_of_bounds_is_bad_alg(algorithm: bytes, text: str) -> None:
    with pytest.raises(BadAlg, match=text):
        dhbm.parse(algorithm, POLICY)


@pytest.mark.parametrize(
    "algorithm",
    [
        identifier(oids.DH_BASED_MAC),
        identifier(oids.DH_BASED_MAC, der.NULL_TLV),
        identifier(oids.DH_BASED_MAC, der.seq()),
        parameter(more=der.NULL_TLV),
        parameter(owf=der.seq()),
        parameter() + b"\0",
        b"",
    ],
)
def test_parameters_that_are_malformed_are_bad_data_format(algorithm: bytes) -> None:
    with pytest.raises(BadDataFormat):
        dhbm.parse(algorithm, POLICY)


@pytest.mark.parametrize(("owf", "mac"), [("sha1", "sha256"), ("sha256", "sha1")])
def test_sha1_is_refused_where_the_policy_says_so(owf: str, mac: str) -> None:
    algorithm = dhbm.build(owf, mac).algorithm
    assert dhbm.parse(algorithm, POLICY).uses_sha1
    with pytest.raises(BadAlg, match="DHBasedMac: SHA-1 is not accepted here"):
        dhbm.parse(algorithm, ProtectionPolicy(allow_sha1_mac=False))


def test_one_bit_changed_in_the_shared_value_or_the_octets_changes_the_mac() -> None:
    made = dhbm.build()
    key = made.derive(SHARED)
    assert key == hashlib.sha256(SHARED).digest()
    assert made.derive(b"\x01" + SHARED[1:]) != key
    assert made.compute(key, TEXT) != made.compute(key, TEXT[:-1] + b"T")
