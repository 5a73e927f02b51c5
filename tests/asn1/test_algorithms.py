"""AlgorithmIdentifiers: strict reading, and the hash that goes with a certificate's signature."""

import hashlib

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from pyasn1_alt_modules import rfc4055, rfc8018, rfc8619, rfc9044, rfc9481, rfc9688

from cmpd.asn1 import algorithms, der, oids
from cmpd.asn1.algorithms import certificate_hash, certificate_hash_name
from cmpd.protection import certificate_hash as certificate_hash_of
from cmpd.protection import hash_by_algorithm, kembm, macs
from tests.protection.fakes import certificate


def identifier(oid: bytes, parameters: bytes = b"") -> bytes:
    return der.seq(der.tlv(der.OID, oid), parameters)


def pss(digest: bytes) -> bytes:
    named = identifier(digest)
    return identifier(
        oids.RSASSA_PSS,
        der.seq(
            der.explicit(0, named),
            der.explicit(1, identifier(oids.MGF1, named)),
            der.explicit(2, der.encode_integer(32)),
        ),
    )


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x30\x00",
        b"\x05\x00",
        identifier(b""),
        identifier(b"\x80"),
        identifier(b"\x2a", der.NULL_TLV * 2),
        identifier(b"\x2a") + b"\0",
        b"\x30\x80\x06\x01\x2a\x00\x00",
    ],
)
def test_what_is_no_algorithm_identifier_is_a_der_error(octets):
    with pytest.raises(der.DerError):
        algorithms.read_whole_algorithm(octets, "noun")


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        (identifier(oids.ECDSA_WITH_SHA256), "sha256"),
        (identifier(oids.ECDSA_WITH_SHA384), "sha384"),
        (identifier(oids.ECDSA_WITH_SHA512), "sha512"),
        (identifier(oids.SHA256_WITH_RSA, der.NULL_TLV), "sha256"),
        (identifier(oids.SHA384_WITH_RSA), "sha384"),
        (identifier(oids.SHA512_WITH_RSA, der.NULL_TLV), "sha512"),
        (identifier(oids.ED25519), "sha512"),
        (identifier(oids.ED448), "shake256"),
        (identifier(oids.ECDSA_WITH_SHAKE128), "shake128"),
        (identifier(oids.ECDSA_WITH_SHA3_384), "sha3_384"),
        (identifier(oids.SHA3_512_WITH_RSA, der.NULL_TLV), "sha3_512"),
        (pss(oids.SHA3_256), "sha3_256"),
        (pss(oids.SHA3_224), None),
        (identifier(oids.RSASSA_PSS_SHAKE256), "shake256"),
        (pss(oids.SHA384), "sha384"),
        (pss(oids.SHA1), None),
        (identifier(oids.RSASSA_PSS), None),
        (identifier(oids.contents("2.16.840.1.101.3.4.3.17")), None),  # ML-DSA-44 defines no hash
        (b"junk", None),
    ],
)
def test_the_hash_of_a_certificate_is_that_of_its_signature(algorithm, name):
    assert certificate_hash_name(algorithm) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sha256", hashlib.sha256(b"x").digest()),
        ("sha512", hashlib.sha512(b"x").digest()),
        ("sha3_256", hashlib.sha3_256(b"x").digest()),
        ("shake128", hashlib.shake_128(b"x").digest(32)),
        ("shake256", hashlib.shake_256(b"x").digest(64)),
    ],
)
def test_shake_gives_32_and_64_octets(name, expected):
    assert certificate_hash(name, b"x") == expected


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
def test_the_hash_of_real_certificates_is_what_another_decoder_says(kind):
    octets = certificate(kind=kind)
    named = x509.load_der_x509_certificate(octets).signature_hash_algorithm
    assert certificate_hash_of(octets) == hashlib.new(named.name if named else "sha512", octets).digest()


def test_the_hash_of_what_is_no_certificate_is_none():
    assert certificate_hash_of(b"") is None
    assert certificate_hash_of(certificate()[:-1]) is None


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        (identifier(oids.SHA256), "sha256"),
        (identifier(oids.SHA384, der.NULL_TLV), "sha384"),
        (identifier(oids.SHA512), "sha512"),
        (identifier(oids.SHA3_256), "sha3_256"),
        (identifier(oids.SHA3_512), "sha3_512"),
        (identifier(oids.SHA3_512, der.NULL_TLV), None),
        (identifier(oids.SHAKE128, der.NULL_TLV), None),
        (identifier(oids.SHA3_224), None),
        (identifier(oids.SHA1), None),
        (identifier(oids.SHA224), None),
        (identifier(oids.SHA256, b"\x04\x00"), None),
        (identifier(oids.SHA256) + b"\0", None),
        (b"", None),
    ],
)
def test_hash_alg_of_cert_status_names_sha2_or_sha3(algorithm, name):
    assert hash_by_algorithm(algorithm, b"x") == (hashlib.new(name, b"x").digest() if name else None)


def test_hash_alg_of_cert_status_may_name_shake():
    assert hash_by_algorithm(identifier(oids.SHAKE128), b"x") == hashlib.shake_128(b"x").digest(32)
    assert hash_by_algorithm(identifier(oids.SHAKE256), b"x") == hashlib.shake_256(b"x").digest(64)


def named(module, suffix):
    """The OIDs of a module of another library by this end of their names."""
    found = {name.removeprefix("id_"): str(value) for name, value in vars(module).items() if name.startswith("id_")}
    return {oid for name, oid in found.items() if name.lower().endswith(suffix) or name.lower().startswith(suffix)}


def test_the_tables_of_macs_and_their_hashes_have_the_oids_of_another_library():
    hmacs = {algorithm for module in (rfc9481, rfc9688) for algorithm in named(module, "hmacwithsha")}
    old = {str(rfc8018.id_hmacWithSHA1), "1.3.6.1.5.5.8.1.2"}  # RFC 4210 appendix D.2 has the other one
    assert {der.dotted(oid) for oid in algorithms.HMACS} == hmacs | old
    assert {der.dotted(oid) for oid in macs.GMACS} == named(rfc9481, "_gmac") == named(rfc9044, "_gmac")
    assert {der.dotted(oid) for oid in macs._KMACS} == named(rfc9481, "kmacwith")
    assert {der.dotted(oid) for oid in kembm.KDFS} == named(rfc8619, "alg_hkdf_with") | named(
        rfc9688, "alg_hkdf_with"
    ) - {str(rfc9688.id_alg_hkdf_with_sha3_224)}
    hashes = named(rfc9481, "sha") | named(rfc9688, "sha3_") | {str(rfc4055.id_sha1)}
    assert {der.dotted(oid) for oid in algorithms.OWFS} == hashes
    for oid, name in {**algorithms.OWFS, **algorithms.HMACS}.items():
        assert algorithms.DIGEST_OCTETS.get(name) == (
            None if name.startswith("shake") else hashlib.new(name).digest_size
        ), oid


def test_what_is_written_for_a_hash_or_hmac_is_read_as_it():
    for write, table in ((algorithms.hash_identifier, algorithms.OWFS), (algorithms.hmac_identifier, algorithms.HMACS)):
        for name in table.values():
            made = write(name)
            assert algorithms.read_named(made, 0, len(made), table, "noun") == (name, len(made))


@given(st.binary(max_size=80))
def test_junk_raises_nothing_but_value_errors_and_names_no_hash(junk):
    assert certificate_hash_name(junk) is None
    for read in (algorithms.read_algorithm, algorithms.read_named, algorithms.read_pss):
        arguments = {
            algorithms.read_algorithm: (junk, 0, len(junk), "noun"),
            algorithms.read_named: (junk, 0, len(junk), algorithms.HASHES, "noun"),
            algorithms.read_pss: (junk, 0, len(junk)),
        }[read]
        with pytest.raises((der.DerError, algorithms.AlgorithmError)):
            read(*arguments)
