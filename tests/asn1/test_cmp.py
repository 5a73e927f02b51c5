"""RFC 9810's types against an independent codec, and against messages of OpenSSL and Bouncy Castle."""

from pathlib import Path
from typing import Any, get_args

import pytest
from asn1crypto import core
from pyasn1_alt_modules import rfc4210, rfc9480, rfc9810

from cmpd.asn1 import algs, cmp
from cmpd.asn1.strict import load_strict
from cmpd.errors import FailInfo
from tests.asn1 import samples
from tests.asn1.independent import compare, rebuild, snake, their_decode, their_encode

HEADER_LEAVES = 16
FAILURES = get_args(FailInfo)
NOT_IN_RFC9480 = {"popdecc", "ckuann"}  # encryptedRand and cAKeyUpdAnnV3 came with RFC 9810


def test_pki_body_has_the_27_alternatives_of_the_rfc_in_their_order() -> None:
    rfc = [snake(named.name) for named in rfc9810.PKIBody.componentType.namedTypes]
    assert [row[0] for row in cmp.PKIBody._alternatives] == rfc == list(samples.BODIES)
    assert [row[2] for row in cmp.PKIBody._alternatives] == [{"explicit": number} for number in range(27)]


@pytest.mark.parametrize("kind", samples.BODIES)
def test_pyasn1_reads_each_body_that_we_write_field_for_field(kind: str) -> None:
    ours = samples.message(kind)
    theirs = their_decode(ours.dump(), rfc9810.PKIMessage())
    assert compare(ours, theirs) > HEADER_LEAVES
    assert their_encode(theirs) == ours.dump()


@pytest.mark.parametrize("kind", samples.BODIES)
def test_we_read_each_body_that_pyasn1_writes_field_for_field(kind: str) -> None:
    octets = their_encode(rebuild(samples.message(kind), rfc9810.PKIMessage()))
    ours = load_strict(cmp.PKIMessage, octets, noun="PKIMessage")
    assert ours["body"].name == kind
    assert compare(ours, rebuild(samples.message(kind), rfc9810.PKIMessage())) > HEADER_LEAVES
    assert ours.dump(force=True) == octets


@pytest.mark.parametrize("kind", [kind for kind in samples.BODIES if kind not in NOT_IN_RFC9480])
def test_the_module_of_rfc_9480_reads_the_same(kind: str) -> None:
    ours = samples.message(kind)
    theirs = their_decode(ours.dump(), rfc9480.PKIMessage())
    assert compare(ours["header"], theirs["header"]) == HEADER_LEAVES
    assert their_encode(theirs) == ours.dump()


def test_what_was_built_is_what_is_read() -> None:
    native = load_strict(cmp.PKIMessage, samples.message("error").dump(), noun="PKIMessage")["body"].chosen.native
    assert native["pki_status_info"]["fail_info"] == {"badAlg", "badPOP"}
    assert native["pki_status_info"]["status_string"] == ["no", "nein, weil ä"]
    assert (native["error_code"], native["error_details"]) == (42, ["see log"])


def test_failure_names_are_those_of_the_errors_in_the_order_of_their_bits() -> None:
    assert list(cmp.PKIFailureInfo._map.items()) == list(enumerate(FAILURES))
    assert len(FAILURES) == 27


@pytest.mark.parametrize("bit", range(27))
def test_each_failure_bit_means_the_same_to_pyasn1(bit: int) -> None:
    ours = cmp.PKIFailureInfo({FAILURES[bit]})
    assert [int(value) for value in their_decode(ours.dump(), rfc9810.PKIFailureInfo())] == [0] * bit + [1]
    octets = their_encode(rfc9810.PKIFailureInfo(FAILURES[bit]))
    assert load_strict(cmp.PKIFailureInfo, octets, noun="failInfo").native == {FAILURES[bit]}
    assert octets == ours.dump()


@pytest.mark.parametrize(("ours", "theirs"), [(cmp.PKIStatus, rfc9810.PKIStatus)])
def test_status_names_are_the_rfcs(ours: Any, theirs: Any) -> None:
    assert ours._map == {int(number): name for name, number in theirs.namedValues.items()}


@pytest.mark.parametrize("kind", samples.INFOS)
def test_each_info_type_has_the_oid_and_the_value_of_the_rfc(kind: str) -> None:
    oid = getattr(rfc9810, f"id_it_{kind}")
    ours = samples.info(kind)
    assert ours["info_type"].dotted == str(oid)
    assert not isinstance(ours["info_value"], core.Any)
    spec = rfc9810.cmpInfoTypeAndValueMap[oid]
    theirs = their_decode(ours["info_value"].dump(), spec)
    compare(ours["info_value"], theirs)
    octets = their_encode(rebuild(ours["info_value"], spec))
    assert octets == ours["info_value"].dump()


def test_every_info_type_that_is_known_has_a_sample() -> None:
    assert set(samples.INFOS) == set(cmp.InfoType._map.values()) == set(cmp.InfoTypeAndValue._oid_specs)


def test_an_unknown_info_type_keeps_its_octets() -> None:
    value = cmp.InfoTypeAndValue({"info_type": "1.2.3.4", "info_value": core.UTF8String("?")}).dump()
    read = load_strict(cmp.InfoTypeAndValue, value, noun="InfoTypeAndValue")
    assert read["info_type"].native == "1.2.3.4"
    assert read["info_value"].dump() == core.UTF8String("?").dump()


OTHERS: dict[str, tuple[Any, Any, Any]] = {
    "OOBCertHash": (
        cmp.OOBCertHash,
        rfc9810.OOBCertHash,
        lambda: {"hash_alg": samples.algorithm("sha256"), "cert_id": samples.cert_id(), "hash_val": b"h" * 32},
    ),
    "OOBCertHash of the least": (cmp.OOBCertHash, rfc9810.OOBCertHash, lambda: {"hash_val": b"h"}),
    "Rand": (cmp.Rand, rfc9810.Rand, lambda: {"int": 2**128, "sender": samples.general_name("ca")}),
    "KemOtherInfo": (
        cmp.KemOtherInfo,
        rfc9810.KemOtherInfo,
        lambda: {"static_string": ["CMP-KEM"], "transaction_id": b"t" * 16, "kem_context": b"k"},
    ),
    "ProtectedPart": (
        cmp.ProtectedPart,
        rfc9810.ProtectedPart,
        lambda: {"header": samples.header(), "body": samples.body("rr")},
    ),
    "CAKeyUpdContent, old form": (
        cmp.CAKeyUpdContent,
        rfc9810.CAKeyUpdContent,
        lambda: cmp.CAKeyUpdContent("ca_key_upd_ann_v2", samples.ca_key_upd_ann()),
    ),
    "CertReqTemplateContent": (
        cmp.CertReqTemplateContent,
        rfc9810.CertReqTemplateContent,
        lambda: {"cert_template": samples.full_template(), "key_spec": [samples.control("algId")]},
    ),
    "PBMParameter": (cmp.PBMParameter, rfc4210.PBMParameter, lambda: samples.pbm()["parameters"]),
    "DHBMParameter": (
        cmp.DHBMParameter,
        rfc4210.DHBMParameter,
        lambda: {"owf": samples.algorithm("sha256"), "mac": samples.algorithm("hmacWithSHA256")},
    ),
    "KemBMParameter": (
        cmp.KemBMParameter,
        rfc9810.KemBMParameter,
        lambda: {
            "kdf": samples.algorithm("1.2.840.113549.1.9.16.3.28"),
            "kem_context": b"c",
            "len": 32,
            "mac": samples.algorithm("hmacWithSHA256"),
        },
    ),
}


@pytest.mark.parametrize(("ours", "spec", "make"), OTHERS.values(), ids=OTHERS)
def test_what_no_body_holds_is_the_same_to_pyasn1_too(ours: Any, spec: Any, make: Any) -> None:
    value = samples.frozen(ours, make())
    compare(value, their_decode(value.dump(), spec()))
    octets = their_encode(rebuild(value, spec()))
    assert octets == value.dump()
    compare(load_strict(ours, octets, noun="value"), rebuild(value, spec()))


@pytest.mark.parametrize(
    ("oid", "cls"),
    [
        (rfc9810.id_PasswordBasedMac, algs.PBMParameter),
        (rfc9810.id_DHBasedMac, algs.DHBMParameter),
        (rfc9810.id_KemBasedMac, algs.KemBMParameter),
        ("1.2.840.113549.1.5.14", algs.PBMAC1Params),
    ],
)
def test_the_oid_of_a_mac_selects_its_parameters(oid: Any, cls: Any) -> None:
    name = algs.AlgorithmId(str(oid)).native
    assert algs.AlgorithmIdentifier._oid_specs[name] is cls


def _body(path: Path) -> Any:
    return load_strict(cmp.PKIMessage, path.read_bytes(), noun=path.name)["body"]


@pytest.mark.parametrize("path", [*samples.OPENSSL, *samples.BOUNCY_CASTLE], ids=lambda path: path.stem)
def test_real_messages_are_read_and_written_again_to_the_same_octets(path: Path) -> None:
    octets = path.read_bytes()
    ours = load_strict(cmp.PKIMessage, octets, noun=path.name)
    assert ours.dump(force=True) == octets
    theirs = their_decode(octets, rfc9810.PKIMessage())
    compare(ours, theirs)


CONFIRMED = ("cert_conf", "pkiconf")
TRANSACTIONS = {
    "ir-pbm-ec": ("ir", "ip", *CONFIRMED),
    "ir-pbm-rsa-sha256": ("ir", "ip", *CONFIRMED),
    "ir-pbm-implicit": ("ir", "ip"),
    "ir-sig-ec": ("ir", "ip", *CONFIRMED),
    "ir-sig-rsa": ("ir", "ip", *CONFIRMED),
    "cr-sig-ec": ("cr", "cp", *CONFIRMED),
    "cr-raverified": ("cr", "cp", *CONFIRMED),
    "kur-sig-ec": ("kur", "kup", *CONFIRMED),
    "kur-sig-rsa": ("kur", "kup", *CONFIRMED),
    "p10cr-pbm-ec": ("p10cr", "cp", *CONFIRMED),
    "p10cr-sig-rsa": ("p10cr", "cp", *CONFIRMED),
    "rr-sig-ec": ("rr", "rp"),
    "genm-sig-ec": ("genm", "genp"),
    "genm-pbm": ("genm", "genp"),
    "poll-pbm-ec": ("ir", "ip", "poll_req", "poll_rep", "poll_req", "ip"),
}


@pytest.mark.parametrize("name", TRANSACTIONS)
def test_openssl_transactions_have_the_bodies_that_belong_together(name: str) -> None:
    paths = [
        path for path in samples.OPENSSL if path.stem.startswith(f"{name}-") and path.stem[len(name) + 1].isdigit()
    ]
    assert [_body(path).name for path in paths] == list(TRANSACTIONS[name])


def test_every_openssl_vector_belongs_to_a_transaction() -> None:
    assert {path.stem.rsplit("-", 2)[0] for path in samples.OPENSSL} == set(TRANSACTIONS)


def test_bouncy_castles_proof_with_public_key_mac_is_read() -> None:
    body = _body(samples.VECTORS / "bouncycastle" / "cr-authinfo.der")
    proof = body.chosen[0]["popo"].chosen["poposk_input"]["auth_info"]
    assert proof.name == "public_key_mac"
    assert proof.chosen["alg_id"]["parameters"]["iteration_count"].native == 1000


def test_bouncy_castles_registration_token_is_read() -> None:
    body = _body(samples.VECTORS / "bouncycastle" / "ir-regtoken.der")
    assert body.chosen[0]["cert_req"]["controls"].native == [{"type": "regToken", "value": "bc-token"}]
