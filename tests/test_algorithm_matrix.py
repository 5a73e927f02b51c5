"""Every signature algorithm with every body, and every kind of key through its whole life under CAs of several kinds.

Answers are verified by World.ask; certificates by OpenSSL where version 3.0 knows the algorithm, and by cryptography.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd import message
from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.asn1.signing import SIGNING
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate
from cmpd.client.keys import public_key_info
from cmpd.client.messages import (
    Request,
    Template,
    cert_req_msg,
    cert_request,
    cert_status,
    certification_request,
    confirm_pvno,
    encrypting_usage,
    error_content,
    p10_request,
    protect,
)
from cmpd.config import ProfileConfig
from cmpd.handlers import HANDLERS
from cmpd.private_keys import ENCRYPTION_KEY_TYPES, KEY_TYPES
from cmpd.signatures import is_signed
from tests.support import needs_openssl, run
from tests.test_pop_challenge import popdecr, rands
from tests.test_pop_encrcert import decrypted
from tests.world import NOW, Seen, World, rev_details

SUBJECT = "/CN=device"


@cache
def private_key(kind: str, number: int = 0) -> Any:
    return KEY_TYPES[kind]()


def kind_for(algorithm: str) -> str:
    """A kind of key that fits an algorithm."""
    kinds = ("p384", "rsa2048", "ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87")
    return next(kind for kind in kinds if isinstance(private_key(kind), SIGNING[algorithm].family))


def flipped(octets: bytes, position: int) -> bytes:
    """With one bit changed."""
    return octets[:position] + bytes((octets[position] ^ 1,)) + octets[position + 1 :]


async def enrol(world: World, credential: Any, key: Any, body: str = "ir", **wish: Any) -> tuple[Request, Seen]:
    options = {"implicit_confirm": wish.pop("implicit", True)}
    request = cert_request(body, [Template(key, encode_name(SUBJECT), **wish)], credential, world.env, **options)
    return request, await world.ask(request, credential)


async def holder(world: World, kind: str, signature: str | None = None) -> KeyAndCertificate:
    _, seen = await enrol(world, await world.add_secret(), private_key(kind))
    return KeyAndCertificate(private_key(kind), seen.certificate(), (Certificate.load(world.root),), signature)


async def confirm(world: World, request: Request, granted: Seen, credential: Any) -> str:
    """The body that answers a certConf for what was granted."""
    certificate = granted.certificate()
    content = der.seq(cert_status(certificate, granted_id(granted)))
    following = world.follow(request, granted, "certConf", content, pvno=pvno_for(request, certificate))
    seen = await world.ask(following, credential)
    return seen.body if seen.body == "pkiconf" else str(seen.status())


def pvno_for(request: Request, certificate: Certificate) -> int:
    """That of the request, or 3 if the certConf has a hashAlg."""
    return max(message.decode(request.der).header.pvno, confirm_pvno([certificate]))


def granted_id(granted: Seen) -> int:
    return int(granted.content["response"][0]["certReqId"])


# --- algorithms and bodies --------------------------------------------------------------------------------------------


def signed_by(template: Template, algorithm: str, sender: bytes) -> bytes:
    """A CertReqMsg whose POP is by this algorithm."""
    made = cert_req_msg(template, sender)
    start = der.header(made, 0, len(made))[1]
    asked = made[start : der.header(made, start, len(made))[2]]
    signature = der.encode_bits(SIGNING[algorithm].sign(template.key, asked))
    return der.seq(asked, der.tlv(0xA1, SIGNING[algorithm].identifier + signature))


async def first_messages(world: World, own: KeyAndCertificate, algorithm: str) -> dict[str, Request]:
    """A message of each body that can begin a transaction, all by this algorithm; with POP by it where there is POP."""
    key, env = private_key(kind_for(algorithm), 1), world.env
    protector = own.protector(env)
    template = Template(key, encode_name(SUBJECT))
    made = {
        body: protect(body, der.seq(signed_by(template, algorithm, protector.sender)), protector, env)
        for body in ("ir", "cr")
    }
    update = Template(key, encode_name(SUBJECT), replaces=own.certificate)
    made["kur"] = protect("kur", der.seq(signed_by(update, algorithm, protector.sender)), protector, env)
    pkcs10 = certification_request(template)
    start = der.header(pkcs10, 0, len(pkcs10))[1]
    info = pkcs10[start : der.header(pkcs10, start, len(pkcs10))[2]]
    signature = der.encode_bits(SIGNING[algorithm].sign(key, info))
    made["p10cr"] = p10_request(
        der.seq(info, SIGNING[algorithm].identifier, signature), own, env, implicit_confirm=False
    )
    made["genm"] = protect("genm", der.seq(), protector, env)
    made["rr"] = protect("rr", der.seq(rev_details(own.certificate)), protector, env)
    return made


async def refuses_changes(world: World, request: Request) -> None:
    """With one bit changed in what is signed, in header and body, or in the signature, it is badMessageCheck."""
    read = message.decode(request.der)
    for part in (read.header.sender_nonce, read.header.transaction_id, read.body, read.protection):
        if part is None or (part is read.body and len(part) < 9):
            continue  # an empty genm: a bit more or less is another body
        octet = part.index(b"no") if request.body == "error" and part is read.body else len(part) - 1
        position = request.der.rindex(part) + octet  # in a value, so that the message is well-formed
        refused = await world.send(flipped(request.der, position))
        assert refused is not None
        assert (refused.body, refused.status()[2]) == ("error", {"badMessageCheck"}), (request.body, part)


@pytest.mark.parametrize("algorithm", SIGNING)
async def test_every_algorithm_protects_every_body_and_no_bit_may_change(algorithm: str) -> None:
    world = World(profiles={"default": ProfileConfig(), "approved": ProfileConfig(approval=True)})
    own = await holder(world, kind_for(algorithm), algorithm)
    answers = {"ir": "ip", "cr": "cp", "kur": "kup", "p10cr": "cp", "genm": "genp", "rr": "rp"}
    seen_bodies = set()
    for body, request in (await first_messages(world, own, algorithm)).items():
        await refuses_changes(world, request)
        seen = await world.ask(request, own)
        assert seen.body == answers[body]
        if body in ("ir", "cr", "kur", "p10cr"):
            assert seen.status()[0] in (0, 1), seen.status()
            end = "error" if body == "cr" else "certConf"
            confirmation = der.seq(cert_status(seen.certificate(), granted_id(seen)))
            following = world.follow(request, seen, end, error_content("no") if body == "cr" else confirmation)
            await refuses_changes(world, following)
            ended = await world.ask(following, own)
            assert ended.body == "pkiconf", ended.status()
            seen_bodies.add(end)
        elif body == "rr":
            assert seen.outcomes() == ["accepted"]
        seen_bodies.add(body)
    # confirmed by certConf and revoked by rr; the certificate of cr was rejected by the error
    states = sorted(record.state for record in await world.store.list_certificates())
    assert states == ["confirmed"] * 3 + ["revoked"] * 2
    seen_bodies |= await polls_and_is_challenged(algorithm)
    assert seen_bodies == set(HANDLERS) - {"pkiconf", "nested"}


async def polls_and_is_challenged(algorithm: str) -> set[str]:
    """pollReq until the operator has approved, then popdecr."""
    world = World(profiles={"default": ProfileConfig(), "approved": ProfileConfig(approval=True)})
    registered = await world.add_secret(profiles=("default", "approved"))
    _, enrolled = await enrol(world, registered, private_key(kind_for(algorithm)))
    own = KeyAndCertificate(
        private_key(kind_for(algorithm)), enrolled.certificate(), (Certificate.load(world.root),), algorithm
    )
    key = encryption_key("x25519")
    template = Template(key, encode_name(SUBJECT), (encrypting_usage(key),), proof="challengeResp")
    request = cert_request("cr", [template], own, world.env, profile="approved", implicit_confirm=False)
    seen = await world.ask(request, own)
    assert (seen.body, seen.status()[0]) == ("cp", 3)  # waiting
    for approved in (False, True):
        if approved:
            [waiting] = await world.waiting()
            await world.approve(waiting.reference)
        polls = world.follow(request, seen, "pollReq", der.seq(der.seq(der.encode_integer(0))), pvno=3)
        await refuses_changes(world, polls)
        seen = await world.ask(polls, own)
        assert seen.body == ("popdecc" if approved else "pollRep")
    answer = popdecr(world, request, seen, rands(seen, {0: key})[0][0])
    await refuses_changes(world, answer)
    seen = await world.ask(answer, own)
    assert (seen.body, seen.status()[0]) == ("cp", 0), seen.status()
    assert await confirm(world, request, seen, own) == "pkiconf"
    return {"pollReq", "popdecr"}


@pytest.mark.parametrize("algorithm", SIGNING)
async def test_a_proof_of_possession_with_one_bit_changed_is_badpop(algorithm: str) -> None:
    world = World()
    secret = await world.add_secret()
    template = Template(private_key(kind_for(algorithm), 1), encode_name(SUBJECT), signature=algorithm)
    good = {
        "ir": signed_by(template, algorithm, secret.sender),
        "cr": cert_req_msg(template, secret.sender),
        "p10cr": certification_request(template),
    }
    for body, proven in good.items():
        assert SIGNING[algorithm].identifier in proven
        for position in (len(proven) - 1, len(proven) - 40, proven.index(b"device")):
            content = flipped(proven, position) if body == "p10cr" else der.seq(flipped(proven, position))
            seen = await world.ask(protect(body, content, secret.protector(world.env), world.env), secret)
            assert (seen.body, seen.status()[2]) == ("ip" if body == "ir" else "cp", {"badPOP"}), (body, position)
    assert await world.store.list_certificates() == []
    for body, proven in good.items():
        content = proven if body == "p10cr" else der.seq(proven)
        seen = await world.ask(protect(body, content, secret.protector(world.env), world.env), secret)
        assert seen.status()[0] == 0


# --- kinds of keys under CAs of several kinds -------------------------------------------------------------------------

CAS = {
    "p256": ("p256", None),
    "p521 with SHA-3": ("p521", "ecdsa-with-sha3-512"),
    "p384 with SHAKE": ("p384", "ecdsa-with-shake256"),
    "p256 with SHAKE": ("p256", "ecdsa-with-shake128"),
    "rsa": ("rsa2048", None),
    "rsa with PSS": ("rsa2048", "rsassa-pss-sha384"),
    "rsa with PSS and SHA-3": ("rsa2048", "rsassa-pss-sha3-512"),
    "rsa with SHA-3": ("rsa2048", "rsassa-pkcs1-v1-5-with-sha3-256"),
    "rsa of 4096 bits": ("rsa4096", "sha512WithRSAEncryption"),
    "brainpoolP256r1": ("brainpoolP256r1", None),
    "brainpoolP384r1": ("brainpoolP384r1", None),
    "brainpoolP512r1": ("brainpoolP512r1", None),
    "ed25519": ("ed25519", None),
    "ed448": ("ed448", None),
    "mldsa44": ("mldsa44", None),
    "mldsa65": ("mldsa65", None),
    "mldsa87": ("mldsa87", None),
}
UNKNOWN_TO_OPENSSL_3_0 = {
    "mldsa44",
    "mldsa65",
    "mldsa87",
    "p384 with SHAKE",
    "p256 with SHAKE",
    "p521 with SHA-3",
    "rsa with PSS and SHA-3",
}
UNKNOWN_TO_THE_LIBRARY = {"p384 with SHAKE", "p256 with SHAKE"}
"""In certificates, that is."""
ROUND = ("p256", "rsa2048", "ed448", "mldsa65")
"""What goes through the CAs that are not the first and the last."""


@needs_openssl
@pytest.mark.parametrize("ca", CAS)
async def test_every_kind_of_key_lives_under_every_kind_of_ca(ca: str, tmp_path: Path) -> None:
    kind, signature = CAS[ca]
    world = World(ca_key=private_key(kind, 2), cmp_key=private_key(kind, 3), signature=signature)
    issued = [world.cmp]
    for number, end_entity in enumerate(KEY_TYPES if ca in ("p256", "mldsa65") else ROUND):
        secret = await world.add_secret(f"device {number}")
        request, granted = await enrol(world, secret, private_key(end_entity), implicit=False)
        assert await confirm(world, request, granted, secret) == "pkiconf"
        first = granted.certificate()
        assert first.public_key_info == public_key_info(private_key(end_entity))
        own = KeyAndCertificate(private_key(end_entity), first, (Certificate.load(world.root),))
        request, granted = await enrol(world, own, private_key(end_entity), "kur", replaces=first, implicit=False)
        assert await confirm(world, request, granted, own) == "pkiconf"
        second = granted.certificate()
        assert (await world.rr(own, rev_details(second))).outcomes() == ["accepted"]
        issued += [first.der, second.der]
    states = [record.state for record in await world.store.list_certificates()]
    assert sorted(states) == ["confirmed"] * (len(states) // 2) + ["revoked"] * (len(states) // 2)
    assert len(states) == len(issued) - 1
    verify_all(world, issued, ca, tmp_path)


def verify_all(world: World, issued: list[bytes], ca: str, directory: Path) -> None:
    """All certificates verify with OpenSSL and the library, and with no bit of them changed."""
    if ca not in UNKNOWN_TO_OPENSSL_3_0:
        verify_with_openssl(world.root, issued, directory)
    key = x509.load_der_x509_certificate(world.root).public_key()
    for one in map(Certificate.load, issued):
        signature, signed = one.parsed.signature, one.parsed.tbs_certificate_bytes
        if ca not in UNKNOWN_TO_THE_LIBRARY:
            one.parsed.verify_directly_issued_by(x509.load_der_x509_certificate(world.root))
        assert is_signed(one.signature_algorithm, key, signature, signed)
        assert not is_signed(one.signature_algorithm, key, signature[:-1] + bytes((signature[-1] ^ 1,)), signed)
        assert not is_signed(one.signature_algorithm, key, signature, signed[:-1] + bytes((signed[-1] ^ 1,)))


def verify_with_openssl(root: bytes, issued: list[bytes], directory: Path) -> None:
    (directory / "root.pem").write_bytes(Certificate.load(root).pem)
    paths = []
    for number, one in enumerate(map(Certificate.load, issued)):
        if not isinstance(one.parsed.public_key(), UNKNOWN_KEYS):
            paths.append(directory / f"{number}.pem")
            paths[-1].write_bytes(one.pem)
    run(["openssl", "verify", "-x509_strict", "-attime", str(NOW), "-CAfile", directory / "root.pem", *paths])


UNKNOWN_KEYS = (
    mldsa.MLDSA44PublicKey,
    mldsa.MLDSA65PublicKey,
    mldsa.MLDSA87PublicKey,
    mlkem.MLKEM768PublicKey,
    mlkem.MLKEM1024PublicKey,
)
"""Whose certificates OpenSSL 3.0 cannot verify."""


# --- keys that cannot sign, or do not -------------------------------------------------------------------------------


@cache
def encryption_key(kind: str) -> Any:
    return (ENCRYPTION_KEY_TYPES | KEY_TYPES)[kind]()


ENCRYPTING = (*ENCRYPTION_KEY_TYPES, "rsa2048", "p256", "p521")


@needs_openssl
@pytest.mark.parametrize("ca", ["p256", "rsa with PSS", "brainpoolP384r1", "ed448", "mldsa65"])
async def test_every_kind_of_key_that_encrypts_lives_under_every_kind_of_ca(ca: str, tmp_path: Path) -> None:
    """By encrCert: certConf proves possession. Such a key signs no kur; its owner revokes by another certificate."""
    kind, signature = CAS[ca]
    world = World(ca_key=private_key(kind, 2), cmp_key=private_key(kind, 3), signature=signature)
    issued = []
    for number, end_entity in enumerate(ENCRYPTING):
        secret, key = await world.add_secret(f"device {number}"), encryption_key(end_entity)
        request, granted = await enrol(world, secret, private_key("p384"))
        own = KeyAndCertificate(private_key("p384"), granted.certificate(), (Certificate.load(world.root),))
        for body, credential in (("ir", secret), ("cr", own)):
            wish = {"extensions": (encrypting_usage(key),), "proof": "encrCert"}
            request, granted = await enrol(world, credential, key, body, implicit=False, **wish)
            certificate = decrypted(granted, key)
            assert certificate.public_key_info == public_key_info(key)
            for right in (False, True):
                status = cert_status(certificate, 0)
                if not right:  # somebody who could not decrypt it
                    status = flipped(status, status.index(b"\x04", 2) + 4)
                pvno = pvno_for(request, certificate)
                asked = world.follow(request, granted, "certConf", der.seq(status), pvno=pvno)
                seen = await world.ask(asked, credential)
                if right:
                    assert seen.body == "pkiconf", seen.status()
                else:
                    assert (seen.body, seen.status()[2]) == ("error", {"badCertId"})
                    request, granted = await enrol(world, credential, key, body, implicit=False, **wish)
                    certificate = decrypted(granted, key)
            issued.append(certificate.der)
            assert (await world.rr(own, rev_details(certificate))).outcomes() == ["accepted"]
    states = [record.state for record in await world.store.list_certificates()]
    assert sorted(states) == ["confirmed"] * len(ENCRYPTING) + ["revoked"] * 4 * len(ENCRYPTING)
    verify_all(world, issued, ca, tmp_path)


async def test_a_certconf_for_a_signature_without_a_hash_must_name_one_in_pvno_3() -> None:
    """RFC 9810 section 5.3.18: ML-DSA; and with hashAlg SHA-2, SHA-3 and SHAKE will do."""
    for number, (hash_alg, pvno, wanted) in enumerate(
        [(b"", 3, "badDataFormat"), (b"", 2, "badDataFormat"), ("sha512", 2, "badDataFormat"), ("sha1", 3, "badAlg")]
    ):
        world = World(ca_key=private_key("mldsa44", 2), cmp_key=private_key("mldsa44", 3))
        secret = await world.add_secret(f"device {number}")
        request, granted = await enrol(world, secret, private_key("p256"), implicit=False)
        right = cert_status(granted.certificate(), 0)
        named = der.encode_oid({"sha512": "2.16.840.1.101.3.4.2.3", "sha1": "1.3.14.3.2.26"}.get(str(hash_alg), "1.2"))
        fields = der.children(right, *der.expect(right, 0, len(right), der.SEQUENCE, "CertStatus"))
        status = [right[pos:end] for _, pos, _, end in fields]
        algorithm = der.explicit(0, der.seq(named)) if hash_alg else b""
        content = der.seq(der.seq(*status[:2], algorithm))
        seen = await world.ask(world.follow(request, granted, "certConf", content, pvno=pvno), secret)
        assert (seen.body, seen.status()[2]) == ("error", {wanted}), (hash_alg, pvno)


ML_DSA = private_key("mldsa65")
OCTETS = b"octets of some length"
SIGNED = SIGNING["ML-DSA-65"].sign(ML_DSA, OCTETS)


@given(bit=st.integers(0, len(SIGNED) * 8 - 1))
@settings(max_examples=200, deadline=None)
def test_no_bit_of_an_ml_dsa_signature_may_change(bit: int) -> None:
    changed = bytearray(SIGNED)
    changed[bit // 8] ^= 1 << bit % 8
    identifier = SIGNING["ML-DSA-65"].identifier
    assert is_signed(identifier, ML_DSA.public_key(), SIGNED, OCTETS)
    assert not is_signed(identifier, ML_DSA.public_key(), bytes(changed), OCTETS)
