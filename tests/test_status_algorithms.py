"""CRLs and OCSP answers of CAs with every signature algorithm, verified by the primitives alone, and by OpenSSL."""

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc5280

from cmpd.asn1.names import encode_name
from cmpd.asn1.signing import SIGNING
from cmpd.bootstrap import root_certificate
from cmpd.ca import CertificateAuthority
from cmpd.client.certificates import Certificate
from cmpd.client.ocsp import question, read_answer
from cmpd.config_status import OcspConfig
from cmpd.crl import CrlTemplate, encode_entry
from cmpd.ocsp import OcspResponder, OcspSigner
from cmpd.records import CertificateState, CrlRecord
from cmpd.signing.file import FileKey
from cmpd.store.base import Store
from tests.crls import openssl_verifies
from tests.ocsp import Statuses, decode, new_signer, status, statuses
from tests.profiles.support import CA_NAME, NOW, counting_env, private_key
from tests.support import OPENSSL, needs_openssl, run

HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
    "sha3-512": hashes.SHA3_512(),
    "shake128": hashes.SHAKE128(32),
    "shake256": hashes.SHAKE256(64),
}
PLAIN = {"Ed25519": "ed25519", "Ed448": "ed448", "ML-DSA-44": "mldsa44", "ML-DSA-65": "mldsa65", "ML-DSA-87": "mldsa87"}
CURVES = {"SHA256": "brainpoolP256r1", "SHA384": "brainpoolP384r1", "SHA512": "brainpoolP512r1", "sha3-384": "p384"}
NEEDS_MORE_THAN_3_0 = ("ML-DSA", "ecdsa-with-shake", "ecdsa-with-sha3", "rsassa-pss-sha3")
"""What OpenSSL 3.0 does not know in what is signed."""

REVOKED, GOOD = (bytes.fromhex(f"401122334455667788{end}") for end in ("01", "02"))
RECORD = CrlRecord(number=7, this_update=NOW, next_update=NOW + 86_400, last_change=0, base=3)


def key_kind(algorithm: str) -> str:
    if algorithm in PLAIN:
        return PLAIN[algorithm]
    return "rsa2048" if "rsa" in algorithm.lower() else CURVES.get(algorithm.removeprefix("ecdsa-with-"), "p521")


def verify(algorithm: str, key: Any, signature: bytes, octets: bytes) -> None:
    """InvalidSignature if the primitive of this name says so."""
    if algorithm in PLAIN:
        key.verify(signature, octets)
        return
    name = algorithm.removesuffix("WithRSAEncryption").removeprefix("ecdsa-with-").removeprefix("rsassa-")
    digest = HASHES[name.removeprefix("pss-").removeprefix("pkcs1-v1-5-with-")]
    if algorithm.startswith("ecdsa"):
        key.verify(signature, octets, ec.ECDSA(digest))
    elif algorithm.startswith("rsassa-pss"):
        key.verify(signature, octets, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    else:
        key.verify(signature, octets, padding.PKCS1v15(), digest)


@cache
def authority(algorithm: str) -> CertificateAuthority:
    key, env = private_key(key_kind(algorithm), 7), counting_env()
    root = root_certificate(key, encode_name(CA_NAME), env)
    return CertificateAuthority(root, (), FileKey(key, signature=algorithm), env)


@cache
def ocsp_signer(algorithm: str) -> OcspSigner:
    return new_signer(authority(algorithm))


def check_signed(algorithm: str, key_info: bytes, signature: bytes, octets: bytes) -> None:
    """It verifies, and does not with one bit changed in the signature or in what is signed."""
    key = load_der_public_key(key_info)
    verify(algorithm, key, signature, octets)
    for position in (0, len(octets) // 2, len(octets) - 1):
        changed = octets[:position] + bytes((octets[position] ^ 4,)) + octets[position + 1 :]
        with pytest.raises(InvalidSignature):
            verify(algorithm, key, signature, changed)
    for position in (len(signature) // 2, len(signature) - 1):
        changed = signature[:position] + bytes((signature[position] ^ 1,)) + signature[position + 1 :]
        with pytest.raises(InvalidSignature):
            verify(algorithm, key, changed, octets)


@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("algorithm", SIGNING)
def test_a_crl_is_signed_by_the_algorithm_of_its_ca(algorithm: str, kind: str, tmp_path: Path) -> None:
    ca = authority(algorithm)
    template = CrlTemplate(ca.name, ca.algorithm, ca.aki, None, True)
    make: Callable[[CrlRecord, list[bytes]], bytes] = template.full if kind == "full" else template.delta
    octets = asyncio.run(ca.sign_tbs(make(RECORD, [encode_entry(REVOKED, NOW, "keyCompromise", None)])))
    value, rest = decode_der(octets, asn1Spec=rfc5280.CertificateList())
    assert not rest
    assert encode_der(value["signatureAlgorithm"]) == encode_der(value["tbsCertList"]["signature"]) == ca.algorithm
    assert int(value["tbsCertList"]["revokedCertificates"][0]["userCertificate"]) == int.from_bytes(REVOKED)
    check_signed(algorithm, ca.public_key, value["signature"].asOctets(), encode_der(value["tbsCertList"]))
    if OPENSSL is not None and not algorithm.startswith(NEEDS_MORE_THAN_3_0):
        assert openssl_verifies(octets, ca, tmp_path)
        at = octets.index(REVOKED)
        assert not openssl_verifies(octets[:at] + bytes((octets[at] ^ 1,)) + octets[at + 1 :], ca, tmp_path)


@pytest.mark.parametrize("algorithm", SIGNING)
async def test_an_ocsp_answer_is_signed_by_the_algorithm_of_the_ca(algorithm: str) -> None:
    ca, signer, env = authority(algorithm), ocsp_signer(algorithm), counting_env()
    known = (
        status(GOOD, CertificateState.CONFIRMED),
        status(REVOKED, CertificateState.REVOKED, NOW - 60, "keyCompromise"),
    )
    here = OcspResponder(cast(Store, Statuses(*known)), ca, env, OcspConfig(), event=asyncio.Event, signer=signer)
    issuer = Certificate.load(ca.certificate)
    for serial, wanted, told in ((GOOD, "good", "good"), (REVOKED, "revoked keyCompromise", "revoked")):
        asked = question(issuer, int.from_bytes(serial), env)
        answer = await here.respond(asked.der)
        assert statuses(answer) == [wanted]
        basic = decode(answer.der)
        assert encode_der(basic["signatureAlgorithm"]) == SIGNING[algorithm].identifier
        certificate = x509.load_der_x509_certificate(encode_der(basic["certs"][0]))
        info = Certificate.load(signer.certificate).public_key_info
        assert Certificate.load(encode_der(basic["certs"][0])).public_key_info == info
        check_signed(algorithm, info, basic["signature"].asOctets(), encode_der(basic["tbsResponseData"]))
        check_signed(algorithm, ca.public_key, certificate.signature, certificate.tbs_certificate_bytes)
        assert read_answer(answer.der, asked, env).state == told  # cmpc believes it


@needs_openssl
@pytest.mark.parametrize("algorithm", [name for name in SIGNING if not name.startswith(NEEDS_MORE_THAN_3_0)])
async def test_openssl_believes_what_ocsp_says(algorithm: str, tmp_path: Path) -> None:
    ca, signer, env = authority(algorithm), ocsp_signer(algorithm), counting_env()
    store = cast(Store, Statuses(status(REVOKED, CertificateState.REVOKED, NOW - 60, "keyCompromise")))
    here = OcspResponder(store, ca, env, OcspConfig(), event=asyncio.Event, signer=signer)
    issuer = Certificate.load(ca.certificate)
    answer = await here.respond(question(issuer, int.from_bytes(REVOKED), env, nonce=False).der)
    (tmp_path / "ca.pem").write_bytes(issuer.pem)
    (tmp_path / "answer.der").write_bytes(answer.der)
    serial = f"0x{REVOKED.hex()}"
    command: list[Any] = [OPENSSL, "ocsp", "-issuer", tmp_path / "ca.pem", "-serial", serial, "-no_nonce"]
    command += ["-CAfile", tmp_path / "ca.pem", "-respin", tmp_path / "answer.der", "-attime", str(NOW)]
    done = run([*command, "-validity_period", str(10**9)], ok=False)
    assert "Response verify OK" in done.stderr + done.stdout
    assert f"{serial}: revoked" in done.stdout
