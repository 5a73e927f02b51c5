"""Signature schemes: every row verifies and fails by one bit; parameters, keys and hashes that are refused."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, utils, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd.asn1 import algorithms, der, oids, signing
from cmpd.asn1.signing import SIGNING
from cmpd.errors import BadAlg, BadDataFormat, CmpError
from cmpd.protection import KEY_MAC_SCHEMES, MAC_SCHEMES, SCHEMES
from cmpd.signatures import REFUSED, SIGNATURE_SCHEMES, is_signed, signature_scheme
from tests.protection.fakes import private_key

OCTETS = b"the protected part"
DIGESTS = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha3_256": hashes.SHA3_256(),
    "sha3_384": hashes.SHA3_384(),
    "sha3_512": hashes.SHA3_512(),
}
RSA_OIDS = {
    "sha256": oids.SHA256_WITH_RSA,
    "sha384": oids.SHA384_WITH_RSA,
    "sha512": oids.SHA512_WITH_RSA,
    "sha3_256": oids.SHA3_256_WITH_RSA,
    "sha3_384": oids.SHA3_384_WITH_RSA,
    "sha3_512": oids.SHA3_512_WITH_RSA,
}
ECDSA_OIDS = {
    "sha256": oids.ECDSA_WITH_SHA256,
    "sha384": oids.ECDSA_WITH_SHA384,
    "sha512": oids.ECDSA_WITH_SHA512,
    "sha3_256": oids.ECDSA_WITH_SHA3_256,
    "sha3_384": oids.ECDSA_WITH_SHA3_384,
    "sha3_512": oids.ECDSA_WITH_SHA3_512,
}
SHAKES = {
    "shake128": (oids.ECDSA_WITH_SHAKE128, hashlib.shake_128(OCTETS).digest(32), hashes.SHA256()),
    "shake256": (oids.ECDSA_WITH_SHAKE256, hashlib.shake_256(OCTETS).digest(64), hashes.SHA512()),
}
"""The OID, the digest by another library, and a hash function with a digest of that length."""
ORDERS = {
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "p384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "p521": (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
    "brainpoolP256r1": 0xA9FB57DBA1EEA9BC3E660A909D838D718C397AA3B561A6F7901E0E82974856A7,
    "brainpoolP384r1": int(
        "8CB91E82A3386D280F5D6F7E50E641DF152F7109ED5456B31F166E6CAC0425A7CF3AB6AF6B7FC3103B883202E9046565",
        16,
    ),
    "brainpoolP512r1": int(
        "AADD9DB8DBE9C48B3FD4E6AE33C9FC07CB308DB3B3C9D20ED6639CCA70330870"
        "553E5C414CA92619418661197FAC10471DB1D381085DDADDB58796829CA90069",
        16,
    ),
}
"""The orders of the curves' base points (SP 800-186, RFC 5639)."""
CURVE_KINDS = tuple(ORDERS)
PLAIN = {
    "ed25519": oids.ED25519,
    "ed448": oids.ED448,
    "mldsa44": oids.ML_DSA_44,
    "mldsa65": oids.ML_DSA_65,
    "mldsa87": oids.ML_DSA_87,
}


def identifier(oid: bytes, parameters: bytes = b"") -> bytes:
    return der.seq(der.tlv(der.OID, oid), parameters)


def pss_params(digest="sha256", mask=None, salt=32, trailer=None, more=b"", null=b"") -> bytes:
    oid = {
        "sha1": oids.SHA1,
        "sha224": oids.SHA224,
        "sha256": oids.SHA256,
        "sha384": oids.SHA384,
        "sha512": oids.SHA512,
        "sha3_224": oids.SHA3_224,
        "sha3_256": oids.SHA3_256,
        "sha3_384": oids.SHA3_384,
        "sha3_512": oids.SHA3_512,
    }
    parts = [der.explicit(0, identifier(oid[digest], null))] if digest else []
    if mask := mask or digest:
        parts.append(der.explicit(1, identifier(oids.MGF1, identifier(oid[mask], null))))
    if salt is not None:
        parts.append(der.explicit(2, der.encode_integer(salt)))
    if trailer is not None:
        parts.append(der.explicit(3, der.encode_integer(trailer)))
    return der.seq(*parts, more)


def pss(**options) -> bytes:
    return identifier(oids.RSASSA_PSS, pss_params(**options))


def pss_sign(digest: str, salt: int) -> bytes:
    scheme = padding.PSS(padding.MGF1(DIGESTS[digest]), salt)
    return private_key("rsa2048").sign(OCTETS, scheme, DIGESTS[digest])


def rows():
    """By name: the OID, the AlgorithmIdentifier, the kind of key and a signature of OCTETS."""
    for name, oid in RSA_OIDS.items():
        made = private_key("rsa2048").sign(OCTETS, padding.PKCS1v15(), DIGESTS[name])
        yield f"rsa {name} with NULL", (oid, identifier(oid, der.NULL_TLV), "rsa2048", made)
        if not name.startswith("sha3_"):
            yield f"rsa {name}", (oid, identifier(oid), "rsa2048", made)
    for name in DIGESTS:
        yield f"pss {name}", (oids.RSASSA_PSS, pss(digest=name, salt=20), "rsa2048", pss_sign(name, 20))
        verbose = pss(digest=name, salt=64, trailer=1, null=b"" if name.startswith("sha3_") else der.NULL_TLV)
        yield f"pss {name} with all", (oids.RSASSA_PSS, verbose, "rsa2048", pss_sign(name, 64))
    for kind in CURVE_KINDS:
        for name, oid in ECDSA_OIDS.items():
            made = private_key(kind).sign(OCTETS, ec.ECDSA(DIGESTS[name]))
            yield f"ecdsa {kind} {name}", (oid, identifier(oid), kind, made)
        for name, (oid, digest, same_length) in SHAKES.items():
            made = private_key(kind).sign(digest, ec.ECDSA(utils.Prehashed(same_length)))
            yield f"ecdsa {kind} {name}", (oid, identifier(oid), kind, made)
    for kind, oid in PLAIN.items():
        yield kind, (oid, identifier(oid), kind, private_key(kind).sign(OCTETS))


ROWS = dict(rows())
by_row = pytest.mark.parametrize(("oid", "algorithm", "kind", "made"), ROWS.values(), ids=ROWS)


def flip(octets: bytes, bit: int) -> bytes:
    changed = bytearray(octets)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_rows_below_are_all_of_the_table():
    assert len(ROWS) == len(list(rows())), "two rows have one name"
    assert {row[0] for row in ROWS.values()} == set(SIGNATURE_SCHEMES)
    assert set(SCHEMES) == set(SIGNATURE_SCHEMES) | set(MAC_SCHEMES) | set(KEY_MAC_SCHEMES)


@by_row
def test_each_scheme_verifies_and_fails_with_one_bit_changed_in_data_or_signature(oid, algorithm, kind, made):
    key = private_key(kind).public_key()
    scheme = signature_scheme(algorithm, "protectionAlg")
    assert scheme is SIGNATURE_SCHEMES[oid]
    scheme.check(algorithm, key)
    assert scheme.verify(algorithm, key, made, OCTETS)
    for bit in (0, 9, len(OCTETS) * 8 - 1):
        assert not scheme.verify(algorithm, key, made, flip(OCTETS, bit))
    for bit in (0, 8, len(made) * 4, len(made) * 8 - 1):
        assert not scheme.verify(algorithm, key, flip(made, bit), OCTETS)
    for junk in (b"", made[:-1], made + b"\x00", bytes(len(made)), bytes(5000)):
        assert not scheme.verify(algorithm, key, junk, OCTETS)


@by_row
def test_a_key_of_another_kind_is_bad_alg_and_verifies_nothing(oid, algorithm, kind, made):
    scheme = SIGNATURE_SCHEMES[oid]
    for other in ("p256", "rsa2048", "ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87"):
        key = private_key(other).public_key()
        if type(key) is type(private_key(kind).public_key()):
            continue
        with pytest.raises(BadAlg, match=r"want an? .* key, have one of another kind"):
            scheme.check(algorithm, key)
        assert not scheme.verify(algorithm, key, made, OCTETS)
    with pytest.raises(BadAlg):
        scheme.check(algorithm, x25519.X25519PrivateKey.generate().public_key())


@pytest.mark.parametrize("kind", ["p192", "k256"])
def test_other_curves_are_refused(kind):
    algorithm = identifier(oids.ECDSA_WITH_SHA256)
    with pytest.raises(BadAlg, match=r"want a key on secp256r1, .*, brainpoolP512r1, have secp"):
        SIGNATURE_SCHEMES[oids.ECDSA_WITH_SHA256].check(algorithm, private_key(kind).public_key())


@pytest.mark.parametrize("algorithm", [identifier(oids.SHA256_WITH_RSA, der.NULL_TLV), pss()])
def test_small_rsa_keys_are_refused(algorithm):
    with pytest.raises(BadAlg, match="want an RSA key of 2048 bits or more, have 1024"):
        signature_scheme(algorithm, "x").check(algorithm, private_key("rsa1024").public_key())


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        (identifier(oids.ECDSA_WITH_SHA256, der.NULL_TLV), "p256"),
        (identifier(oids.ECDSA_WITH_SHA384, der.seq()), "p256"),
        (identifier(oids.ED25519, der.NULL_TLV), "ed25519"),
        (identifier(oids.ED448, der.NULL_TLV), "ed448"),
        (identifier(oids.ML_DSA_44, der.NULL_TLV), "mldsa44"),
        (identifier(oids.ML_DSA_65, b"\x04\x00"), "mldsa65"),
        (identifier(oids.ECDSA_WITH_SHAKE128, der.NULL_TLV), "p256"),
        (identifier(oids.SHA256_WITH_RSA, b"\x04\x00"), "rsa2048"),
        (identifier(oids.SHA256_WITH_RSA, b"\x05\x01\x00"), "rsa2048"),
    ],
)
def test_parameters_where_none_belong_are_bad_alg(algorithm, kind):
    with pytest.raises(BadAlg, match="parameters: want them absent"):
        signature_scheme(algorithm, "protectionAlg").check(algorithm, private_key(kind).public_key())


@pytest.mark.parametrize("name", ["sha3_256", "sha3_384", "sha3_512"])
def test_rsa_with_sha3_has_null_parameters_and_the_hash_itself_none(name):
    """RFC 9688 section 3.1: MUST contain NULL; section 2: "MUST be absent, not NULL but absent"."""
    key, digest = private_key("rsa2048"), DIGESTS[name]
    without = identifier(RSA_OIDS[name])
    with pytest.raises(BadAlg, match="parameters: want them NULL, have others"):
        signature_scheme(without, "protectionAlg").check(without, key.public_key())
    assert not is_signed(without, key.public_key(), key.sign(OCTETS, padding.PKCS1v15(), digest), OCTETS)
    with_null = pss(digest=name, salt=digest.digest_size, null=der.NULL_TLV)
    with pytest.raises(BadAlg, match=f"RSASSA-PSS hashAlgorithm: want no parameters with {name}, have others"):
        signature_scheme(with_null, "protectionAlg").check(with_null, key.public_key())


@pytest.mark.parametrize("oid", REFUSED)
def test_weak_hashes_never_count_in_a_signature(oid):
    for params in (b"", der.NULL_TLV):
        with pytest.raises(
            BadAlg, match=f"protectionAlg: a signature with {REFUSED[oid]} is not accepted, use SHA-256"
        ):
            signature_scheme(identifier(oid, params), "protectionAlg")


def test_an_unknown_algorithm_is_named_by_its_oid():
    with pytest.raises(BadAlg, match=r"popo: algorithm 1\.2\.3\.4 is not supported here"):
        signature_scheme(identifier(oids.contents("1.2.3.4")), "popo")


def test_a_long_algorithm_identifier_is_refused_before_any_cache_holds_it():
    algorithm = identifier(oids.ECDSA_WITH_SHA256, der.encode_octets(bytes(300)))
    with pytest.raises(BadAlg, match="want at most 256 octets"):
        signature_scheme(algorithm, "protectionAlg")
    with pytest.raises(BadAlg, match="want at most 256 octets"):
        SIGNATURE_SCHEMES[oids.ECDSA_WITH_SHA256].check(algorithm, private_key("p256").public_key())


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (b"", "have none"),
        (der.seq(), "SHA-1 is not accepted in signatures"),
        (pss_params(digest="sha1"), "SHA-1 is not accepted in signatures"),
        (pss_params(digest="sha256", mask="sha1"), "SHA-1 is not accepted in signatures"),
        (pss_params(digest=None, mask="sha256"), "SHA-1 is not accepted in signatures"),
        (pss_params(digest="sha224"), "SHA-224 is not supported"),
        (pss_params(digest="sha3_224"), "SHA-224 is not supported"),
        (pss_params(mask="sha384"), "want MGF1 with sha256, have sha384"),
        (pss_params(salt=-1), "saltLength: want 0 to 512, have -1"),
        (pss_params(salt=513), "saltLength: want 0 to 512, have 513"),
        (pss_params(salt=223), "saltLength: want at most 222 with this key, have 223"),
        (pss_params(trailer=2), "trailerField: want 1, have 2"),
        (der.seq(der.explicit(0, identifier(oids.MGF1))), "hashAlgorithm: algorithm 1.2.840.113549.1.1.8"),
        (der.seq(der.explicit(1, identifier(oids.SHA256))), "want MGF1, have 2.16.840.1.101.3.4.2.1"),
    ],
)
def test_pss_parameters_that_are_not_accepted_are_bad_alg(parameters, text):
    algorithm = identifier(oids.RSASSA_PSS, parameters)
    with pytest.raises(BadAlg, match=text):
        signature_scheme(algorithm, "x").check(algorithm, private_key("rsa2048").public_key())


def test_the_longest_salt_that_a_key_has_room_for_verifies():
    algorithm = pss(salt=222)
    scheme = signature_scheme(algorithm, "x")
    scheme.check(algorithm, private_key("rsa2048").public_key())
    assert scheme.verify(algorithm, private_key("rsa2048").public_key(), pss_sign("sha256", 222), OCTETS)


def test_the_salt_must_have_the_length_that_the_parameters_say():
    algorithm = pss(salt=32)
    assert not SIGNATURE_SCHEMES[oids.RSASSA_PSS].verify(
        algorithm, private_key("rsa2048").public_key(), pss_sign("sha256", 20), OCTETS
    )


@pytest.mark.parametrize(
    "parameters",
    [
        der.NULL_TLV,
        der.seq(der.explicit(2, der.encode_integer(32)), der.explicit(0, identifier(oids.SHA256))),
        der.seq(der.explicit(4, der.encode_integer(1))),
        der.seq(der.explicit(2, der.encode_integer(32) * 2)),
        der.seq(der.explicit(0, identifier(oids.SHA256) * 2)),
        der.seq(der.explicit(2, der.NULL_TLV)),
        der.seq(der.encode_integer(32)),
        pss_params(more=der.NULL_TLV),
        pss_params(salt=1 << 80),
    ],
)
def test_pss_parameters_that_are_malformed_are_bad_data_format(parameters):
    algorithm = identifier(oids.RSASSA_PSS, parameters)
    with pytest.raises(BadDataFormat):
        signature_scheme(algorithm, "x").check(algorithm, private_key("rsa2048").public_key())


@given(st.sampled_from([row[1] for row in ROWS.values()]), st.data())
def test_mutated_algorithm_identifiers_raise_nothing_but_cmp_errors(seed, data):
    octets = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, max(len(octets) - 1, 0)))
        if data.draw(st.booleans()) and len(octets) > 1:
            octets[position] = data.draw(st.integers(0, 255))
        elif data.draw(st.booleans()):
            octets.insert(position, data.draw(st.integers(0, 255)))
        else:
            del octets[position : position + data.draw(st.integers(1, 3))]
    mutated = bytes(octets)
    for kind in ("rsa2048", "p256", "ed25519"):
        key = private_key(kind).public_key()
        try:
            scheme = signature_scheme(mutated, "protectionAlg")
            scheme.check(mutated, key)
        except CmpError:
            continue
        assert not scheme.verify(mutated, key, b"", OCTETS)


# --- what our own keys sign with -------------------------------------------------------------------------------------


USUAL = {
    "p256": "ecdsa-with-SHA256",
    "p384": "ecdsa-with-SHA384",
    "p521": "ecdsa-with-SHA512",
    "brainpoolP256r1": "ecdsa-with-SHA256",
    "brainpoolP384r1": "ecdsa-with-SHA384",
    "brainpoolP512r1": "ecdsa-with-SHA512",
    "rsa2048": "sha256WithRSAEncryption",
    "ed25519": "Ed25519",
    "ed448": "Ed448",
    "mldsa44": "ML-DSA-44",
    "mldsa65": "ML-DSA-65",
    "mldsa87": "ML-DSA-87",
}


@pytest.mark.parametrize("kind", USUAL)
def test_every_kind_of_key_has_a_usual_algorithm(kind):
    assert signing.signature_algorithm(private_key(kind)).name == USUAL[kind]


@pytest.mark.parametrize("key", [private_key("k256"), x25519.X25519PrivateKey.generate(), object()])
def test_other_keys_of_ours_are_refused_with_their_kind(key):
    with pytest.raises(ValueError, match="want"):
        signing.signature_algorithm(key)


def test_dsa_keys_fit_no_scheme():
    key = dsa.generate_private_key(1024).public_key()
    for oid, algorithm, _, made in ROWS.values():
        with pytest.raises(BadAlg):
            SIGNATURE_SCHEMES[oid].check(algorithm, key)
        assert not SIGNATURE_SCHEMES[oid].verify(algorithm, key, made, OCTETS)


@by_row
@given(bit=st.integers(0), where=st.sampled_from(["data", "signature"]))
@settings(max_examples=12)
def test_one_bit_changed_anywhere_is_no_signature(oid, algorithm, kind, made, bit, where):
    key = private_key(kind).public_key()
    assert is_signed(algorithm, key, made, OCTETS)
    if where == "data":
        assert not is_signed(algorithm, key, made, flip(OCTETS, bit % (len(OCTETS) * 8)))
    else:
        assert not is_signed(algorithm, key, flip(made, bit % (len(made) * 8)), OCTETS)


@pytest.mark.parametrize("kind", CURVE_KINDS)
def test_an_ecdsa_signature_in_another_encoding_is_none(kind):
    """Ecdsa-Sig-Value (RFC 5480 appendix A) is DER, so that nobody can make other octets of a signed message."""
    key, algorithm = private_key(kind), identifier(oids.ECDSA_WITH_SHA512)
    order = ORDERS[kind]
    r, s = utils.decode_dss_signature(key.sign(OCTETS, ec.ECDSA(hashes.SHA512())))
    first, second = der.encode_integer(r), der.encode_integer(s)
    good = der.seq(first, second)
    start = der.header(good, 0, len(good))[1]
    assert is_signed(algorithm, key.public_key(), good, OCTETS)
    assert is_signed(algorithm, key.public_key(), der.seq(first, der.encode_integer(order - s)), OCTETS)  # as good
    for other in (
        good + b"\x00",
        der.seq(first, second, der.NULL_TLV),
        der.seq(der.tlv(der.INTEGER, b"\x00" * 2 + first[2:]), second),
        b"\x30\x80" + good[start:] + b"\x00\x00",
        b"\x30\x82" + (len(good) - start).to_bytes(2, "big") + good[start:],
        der.seq(der.encode_integer(r + order), second),
        der.seq(first, der.encode_integer(s - order)),
        der.seq(der.encode_integer(0), second),
        der.seq(first, der.encode_integer(0)),
        r.to_bytes(66, "big") + s.to_bytes(66, "big"),
    ):
        assert not is_signed(algorithm, key.public_key(), other, OCTETS), other.hex()


def test_what_is_refused_or_unknown_or_unfit_is_not_signed():
    key, made = private_key("p256").public_key(), ROWS["ecdsa p256 sha256"][3]
    assert is_signed(identifier(oids.ECDSA_WITH_SHA256), key, made, OCTETS)
    for algorithm in (
        identifier(oids.ECDSA_WITH_SHA1),
        identifier(oids.contents("1.2.3.4")),
        identifier(oids.ECDSA_WITH_SHA256, der.NULL_TLV),
        identifier(oids.SHA256_WITH_RSA),
        b"",
    ):
        assert not is_signed(algorithm, key, made, OCTETS)


@pytest.mark.parametrize("name", SIGNING)
def test_what_our_keys_sign_verifies_under_the_identifier_that_goes_with_it(name):
    kinds = ("p384", "rsa2048", *PLAIN)
    [kind] = [kind for kind in kinds if isinstance(private_key(kind), SIGNING[name].family)]
    key, algorithm = private_key(kind), SIGNING[name]
    assert signing.signature_algorithm(key, name) is algorithm
    assert is_signed(algorithm.identifier, key.public_key(), algorithm.sign(key, OCTETS), OCTETS)
    parsed = signature_scheme(algorithm.identifier, "x").parse(algorithm.identifier)
    assert parsed.name == name or (parsed.name, name[:10]) == ("RSASSA-PSS", "rsassa-pss")
    other = private_key("p256" if kind != "p384" else "ed448")
    with pytest.raises(ValueError, match=f"want one of .* with this key, have {name}"):
        signing.signature_algorithm(other, name)


def test_every_algorithm_that_is_verified_can_be_signed_with():
    signed = {algorithms.read_whole_algorithm(one.identifier, "x")[0] for one in SIGNING.values()}
    assert signed == set(SIGNATURE_SCHEMES)
