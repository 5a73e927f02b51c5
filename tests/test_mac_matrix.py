"""Every MAC algorithm of a shared secret with every body: taken, answered in kind, and no bit may change.

What goes over the wire is computed a second time here, from what another decoder finds in it, by hashlib and by another
interface to GCM. The KEM and Diffie-Hellman MACs need more than a secret and have tests of their own.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pyasn1.codec.der.decoder import decode
from pyasn1_alt_modules import rfc4211, rfc8018, rfc9044

from cmpd import message
from cmpd.asn1 import der
from cmpd.asn1.algorithms import HMACS, OWFS
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import Protector, SharedSecret, mac_protector
from cmpd.client.errors import VerificationError
from cmpd.client.keys import public_key_info, sign, signature_algorithm
from cmpd.client.messages import (
    Request,
    Template,
    cert_req_msg,
    cert_status,
    certification_request,
    error_content,
    general_info,
    protect,
)
from cmpd.client.responses import verify
from cmpd.config import ProfileConfig
from cmpd.handlers import HANDLERS
from cmpd.private_keys import KEY_TYPES
from cmpd.protection import pbm, pbmac1
from cmpd.protection.base import Mac
from cmpd.protection.macs import GMACS, MAC_NAMES
from tests.strict.setting import STRICT
from tests.world import Seen, World, rev_details

SALT = bytes(range(100, 116))
Build = Callable[[Callable[[int], bytes]], Mac]


def rows() -> Iterator[tuple[str, Build]]:
    """Every hash and every MAC in every place where it may be, and expansions of the key that AES-GMAC wants."""
    names = list(MAC_NAMES)
    for owf in dict.fromkeys(OWFS.values()):
        yield f"PBM {owf} sha256", lambda random, owf=owf: pbm.build(SALT, 100, owf=owf)
        yield (
            f"PBM {owf} aes256-gmac",
            lambda random, owf=owf: pbm.build(SALT, 100, owf=owf, mac="aes256-gmac", random=random),
        )
    for mac in names:
        yield f"PBM sha256 {mac}", lambda random, mac=mac: pbm.build(SALT, 100, mac=mac, random=random)
        yield f"PBMAC1 sha256 {mac}", lambda random, mac=mac: pbmac1.build(SALT, 100, mac=mac, random=random)
    for prf in dict.fromkeys(HMACS.values()):
        yield f"PBMAC1 {prf} sha512", lambda random, prf=prf: pbmac1.build(SALT, 100, prf=prf, mac="sha512")


ROWS = dict(rows())
by_row = pytest.mark.parametrize("build", ROWS.values(), ids=ROWS)


def test_the_matrix_has_every_algorithm() -> None:
    for scheme, firsts in (("PBM", OWFS), ("PBMAC1", HMACS)):
        mine = [row.split()[1:] for row in ROWS if row.split()[0] == scheme]
        assert {first for first, _ in mine} == set(firsts.values())
        assert {mac for _, mac in mine} == set(MAC_NAMES) == set(HMACS.values()) | set(GMACS.values())


# --- what is on the wire, computed again ------------------------------------------------------------------------------

HASH_NAMES = {der.dotted(oid): name for oid, name in OWFS.items()}
HMAC_NAMES = {der.dotted(oid): name for oid, name in HMACS.items()}
GMAC_OCTETS = {rfc9044.id_aes128_GMAC: 16, rfc9044.id_aes192_GMAC: 24, rfc9044.id_aes256_GMAC: 32}


def mac_again(seen: message.Envelope, secret: bytes) -> tuple[bytes, bytes]:
    """(The octets that the protection must have, the nonce of AES-GMAC if there is one)."""
    algorithm, rest = decode(seen.header.protection_alg, asn1Spec=rfc4211.PKMACValue()["algId"])
    assert not rest
    if str(algorithm["algorithm"]) == "1.2.840.113533.7.66.13":
        parameter, rest = decode(algorithm["parameters"], asn1Spec=rfc4211.PBMParameter())
        owf, basekey = HASH_NAMES[str(parameter["owf"]["algorithm"])], secret + bytes(parameter["salt"])
        for _ in range(int(parameter["iterationCount"])):
            basekey = digest(owf, basekey)
        key = basekey + digest(owf, b"1" + basekey)  # the longest key that is wanted has 32 octets
        inner, octets = parameter["mac"], len(basekey)
    else:
        parameter, rest = decode(algorithm["parameters"], asn1Spec=rfc8018.PBMAC1_params())
        assert str(parameter["keyDerivationFunc"]["algorithm"]) == "1.2.840.113549.1.5.12"
        wanted, more = decode(parameter["keyDerivationFunc"]["parameters"], asn1Spec=rfc8018.PBKDF2_params())
        assert not more
        prf, octets = HMAC_NAMES[str(wanted["prf"]["algorithm"])], int(wanted["keyLength"])
        salt, count = bytes(wanted["salt"]["specified"]), int(wanted["iterationCount"])
        key, inner = hashlib.pbkdf2_hmac(prf, secret, salt, count, octets), parameter["messageAuthScheme"]
    assert not rest
    if inner["algorithm"] not in GMAC_OCTETS:
        return hmac.digest(key[:octets], seen.protected, HMAC_NAMES[str(inner["algorithm"])]), b""
    gcm, rest = decode(inner["parameters"], asn1Spec=rfc9044.GCMParameters())
    assert (int(gcm["length"]), rest) == (16, b"")
    encryptor = Cipher(
        algorithms.AES(key[: GMAC_OCTETS[inner["algorithm"]]]), modes.GCM(bytes(gcm["nonce"]))
    ).encryptor()
    encryptor.authenticate_additional_data(seen.protected)
    encryptor.finalize()
    return encryptor.tag, bytes(gcm["nonce"])


def digest(name: str, octets: bytes) -> bytes:
    made = hashlib.new(name.replace("shake", "shake_"), octets)
    return made.digest(*{"shake128": (32,), "shake256": (64,)}.get(name, ()))


# --- the conversation -------------------------------------------------------------------------------------------------


class Talk:
    """A device that speaks with one MAC algorithm; every message and answer is looked at on its way."""

    def __init__(self, world: World, credential: SharedSecret, build: Build) -> None:
        self.world, self.credential = world, credential
        self.mac = build(world.env.random)
        self.key = self.mac.derive(credential.secret)
        self.nonces: list[bytes] = []

    def protector(self) -> Protector:
        reference = self.credential.reference.encode()
        return mac_protector(self.mac, self.key, self.credential.sender, reference, self.world.env)

    async def say(self, request: Request) -> Seen:
        """The answer to a request, after the same with one bit changed was refused wherever the bit was."""
        read = message.decode(request.der)
        for old in (read.protection, read.header.sender_nonce, SALT):
            refused = await self.world.send(changed(request.der, old or b""))
            assert refused is not None
            assert (refused.body, refused.status()[2]) == ("error", {"badMessageCheck"})
            assert refused.envelope.header.protection_alg != read.header.protection_alg  # never a MAC to a stranger
        seen = await self.world.ask(request, self.credential)
        for one in (read, seen.envelope):
            value, nonce = mac_again(one, self.credential.secret)
            assert one.protection == value
            self.nonces.append(nonce)
        asked, answered = read.header.protection_alg or b"", seen.envelope.header.protection_alg or b""
        if self.nonces[-1]:  # the same algorithm but for its nonce
            assert asked.replace(self.nonces[-2], self.nonces[-1]) == answered
            assert len(set(self.nonces)) == len(self.nonces)
        else:
            assert asked == answered
        return seen

    async def first(self, body: str, content: bytes, **fields: Any) -> tuple[Request, Seen]:
        request = protect(body, content, self.protector(), self.world.env, **fields)
        return request, await self.say(request)

    async def follow(self, request: Request, seen: Seen, body: str, content: bytes) -> tuple[Request, Seen]:
        following = self.world.follow(request, seen, body, content)
        return following, await self.say(following)


def changed(octets: bytes, old: bytes) -> bytes:
    """The octets with one bit of `old` changed in them, which is there once."""
    assert octets.count(old) == 1
    return octets.replace(old, old[:-1] + bytes((old[-1] ^ 1,)))


async def device(build: Build, **fields: Any) -> Talk:
    world = World(origin=STRICT, **fields)
    return Talk(world, await world.add_secret(may_revoke=True), build)


def template(number: int = 0) -> Template:
    return Template(KEY, encode_name(f"/CN=device {number}"))


KEY = KEY_TYPES["p256"]()


@by_row
async def test_every_mac_protects_every_body_is_answered_in_kind_and_no_bit_may_change(build: Build) -> None:
    talk = await device(build)
    seen_bodies = {"kur", "genm", "rr"}
    for body, end in (("ir", "certConf"), ("cr", "error"), ("p10cr", "certConf")):
        if body == "p10cr":
            content = certification_request(template())
        else:
            content = der.seq(cert_req_msg(template(), talk.credential.sender))
        request, seen = await talk.first(body, content)
        assert seen.status()[0] in (0, 1), seen.status()
        cert_req_id = int(seen.content["response"][0]["certReqId"])
        confirmation = der.seq(cert_status(seen.certificate(), cert_req_id))
        _, ended = await talk.follow(request, seen, end, error_content("no") if end == "error" else confirmation)
        assert ended.body == "pkiconf", ended.status()
        seen_bodies |= {body, end}
        if body == "ir":
            certificate = seen.certificate()
    _, seen = await talk.first("genm", der.seq())
    assert seen.body == "genp"
    _, seen = await talk.first("kur", der.seq(cert_req_msg(template(), talk.credential.sender)))
    assert (seen.body, seen.status()[2]) == ("error", {"wrongIntegrity"})  # a kur is signed, but who asked was heard
    _, seen = await talk.first("rr", der.seq(rev_details(certificate)))
    assert seen.outcomes() == ["accepted"]
    assert seen_bodies == set(HANDLERS) - {"pollReq", "pkiconf", "popdecr", "nested"}
    states = sorted(record.state for record in await talk.world.store.list_certificates())
    assert states == ["confirmed", "revoked", "revoked"]  # that of p10cr; that of cr by error, that of ir by rr


@by_row
async def test_every_mac_lasts_through_a_request_that_waits(build: Build) -> None:
    talk = await device(build, profiles={"default": ProfileConfig(approval=True)})
    content = der.seq(cert_req_msg(template(), talk.credential.sender))
    request, seen = await talk.first("ir", content, info=general_info(implicit_confirm=True))
    assert seen.status()[0] == 3
    _, seen = await talk.follow(request, seen, "pollReq", der.seq(der.seq(der.encode_integer(0))))
    assert seen.body == "pollRep"
    [waiting] = await talk.world.waiting()
    await talk.world.approve(waiting.reference)
    _, seen = await talk.follow(request, seen, "pollReq", der.seq(der.seq(der.encode_integer(0))))
    assert (seen.body, seen.status()[0]) == ("ip", 0), seen.status()


@by_row
async def test_every_mac_binds_a_key_to_the_secret_in_public_key_mac(build: Build) -> None:
    """RFC 4211 section 4.1 case 1, which only a lenient door takes."""
    for secret, outcome in ((b"secret", frozenset()), (b"Secret", {"badPOP"})):
        world = World()
        credential = await world.add_secret(subject="/CN=device")
        mac = build(world.env.random)
        value = mac.compute(mac.derive(secret), public_key_info(KEY))
        inputs = der.seq(mac.algorithm, der.encode_bits(value)) + public_key_info(KEY)
        signature = der.encode_bits(sign(KEY, der.seq(inputs)))
        proof = der.tlv(0xA1, der.tlv(0xA0, inputs) + signature_algorithm(KEY).identifier + signature)
        asked = der.seq(der.encode_integer(0), der.seq(b"\xa6" + public_key_info(KEY)[1:]))
        request = protect("ir", der.seq(der.seq(asked, proof)), credential.protector(world.env), world.env)
        seen = await world.ask(request, credential)
        assert (seen.body, seen.status()[2]) == ("ip", outcome), seen.status()


async def test_a_client_believes_no_answer_with_the_nonce_of_its_request() -> None:
    """Two messages under one nonce of AES-GMAC give away what its tags are made with."""
    world = World()
    credential = SharedSecret("device", b"secret", iterations=100, inner="aes128-gmac")
    request = protect("genm", der.seq(), credential.protector(world.env), world.env)
    header = message.decode(request.der).header
    for protector, believed in ((request.protector, True), (replace(request.protector, renewed=None), False)):
        answer = protect(
            "genp",
            der.seq(),
            protector,
            world.env,
            transaction_id=header.transaction_id,
            recip_nonce=header.sender_nonce,
        )
        if believed:
            verify(answer.der, request, credential, world.trust, world.env)
        else:
            with pytest.raises(VerificationError, match="want another nonce of AES-GMAC than that of the request"):
                verify(answer.der, request, credential, world.trust, world.env)
