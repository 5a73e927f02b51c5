"""encrCert: the certificate is sent encrypted, and the certHash of certConf proves possession of its key."""

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, KeyAndCertificate
from cmpd.client.errors import VerificationError
from cmpd.client.flows import Client, Options
from cmpd.client.messages import (
    Request,
    Template,
    cert_req_msg,
    cert_request,
    cert_status,
    certification_request,
    error_content,
    p10_request,
    protect,
)
from cmpd.config import EnrolmentConfig, ProfileConfig
from cmpd.handlers.confirm import lapse
from cmpd.origin import Door, Origin
from cmpd.records import CertificateRecord, CertificateState, TransactionState
from cmpd.store.base import Store
from tests.pops import KEYS, decrypt_independently, encrypting_usage, key_usage, pem, spki
from tests.world import Seen, World

STRICT = Origin("strict", Door("tcp", strict=True))


class Direct:
    """The exchange of a client with a World, which may change what is sent."""

    def __init__(self, world: World) -> None:
        self.world, self.sent, self.seen = world, [], []

    async def request(self, der: bytes, *, last: bool = False) -> bytes | None:
        self.sent.append(der)
        answer = await self.world.respond(der)
        assert answer is None or isinstance(answer, bytes)
        if answer is not None:
            self.seen.append(self.world.read(answer))
        return answer

    async def close(self) -> None:
        """Nothing."""


@pytest.fixture
def world() -> World:
    return World()


def ask(world: World, credential: Credential, key: Any, kind: str, proof: str = "encrCert", **fields: Any) -> Request:
    body, pvno, implicit = fields.pop("body", "ir"), fields.pop("pvno", None), fields.pop("implicit_confirm", True)
    fields.setdefault("extensions", (encrypting_usage(kind),))
    template = Template(key, encode_name("/CN=device"), proof=proof, **fields)
    return cert_request(body, [template], credential, world.env, pvno=pvno, implicit_confirm=implicit)


def decrypted(seen: Seen, key: Any, index: int = 0) -> Certificate:
    """The certificate in an ip, as the other codec finds it."""
    choice = seen.content["response"][index]["certifiedKeyPair"]["certOrEncCert"]
    assert choice.getName() == "encryptedCert"
    encrypted = choice["encryptedCert"]
    if encrypted.getName() == "envelopedData":
        octets = encode_der(encrypted["envelopedData"])
        inner = der.header(octets, 0, len(octets))[1]
        return Certificate.load(decrypt_independently(der.tlv(der.SEQUENCE, octets[inner:]), key)[0])
    value = encrypted["encryptedValue"]
    content_key = key.decrypt(value["encSymmKey"].asOctets(), padding.PKCS1v15())
    iv = bytes(decode_der(bytes(value["symmAlg"]["parameters"]))[0])
    decryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).decryptor()
    padded = decryptor.update(value["encValue"].asOctets()) + decryptor.finalize()
    return Certificate.load(padded[: -padded[-1]])


async def only(world: World) -> CertificateRecord:
    [record] = await world.store.list_certificates()
    return record


async def transaction_state(world: World, request: Request) -> TransactionState:
    found = await world.store.find_transaction(request.transaction_id)
    assert found is not None
    return found.state


# --- right -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEYS)
async def test_a_certificate_is_sent_encrypted_and_confirmed_by_its_hash(kind: str, store: Store) -> None:
    world = World(store=store)
    secret, key = await world.add_secret(), KEYS[kind]()
    request = ask(world, secret, key, kind)
    seen = await world.ask(request, secret)
    assert seen.body == "ip"
    assert seen.status()[0] == 0
    record = await only(world)
    certificate = decrypted(seen, key)
    assert certificate.der == record.der
    assert certificate.public_key_info == spki(key)
    assert record.der not in seen.envelope.der
    assert record.serial not in seen.envelope.der
    assert record.state is CertificateState.ISSUED
    assert await transaction_state(world, request) is TransactionState.PROVING
    conf = world.follow(request, seen, "certConf", der.seq(cert_status(certificate, 0)), pvno=3)
    assert (await world.ask(conf, secret)).body == "pkiconf"
    assert (await only(world)).state is CertificateState.CONFIRMED
    assert await transaction_state(world, request) is TransactionState.ENDED


@pytest.mark.parametrize("kind", KEYS)
async def test_the_client_decrypts_and_confirms(kind: str, world: World) -> None:
    exchange, key = Direct(world), KEYS[kind]()
    client = Client(exchange, await world.add_secret(), world.trust, world.env)
    result = await client.enrol(
        "ir", key, encode_name("/CN=device"), extensions=[encrypting_usage(kind)], proof="encrCert"
    )
    assert [seen.body for seen in exchange.seen] == ["ip", "pkiconf"]
    assert result.certificate.public_key_info == spki(key)
    assert not result.implicitly_confirmed
    assert (await only(world)).state is CertificateState.CONFIRMED
    assert {seen.envelope.header.pvno for seen in exchange.seen} == {3}


async def test_implicit_confirmation_is_never_granted(store: Store) -> None:
    world = World(store=store, profiles={"default": ProfileConfig(await_confirmation=False)})
    secret, key = await world.add_secret(), KEYS["x25519"]()
    seen = await world.ask(ask(world, secret, key, "x25519", implicit_confirm=True), secret)
    assert not seen.envelope.header.implicit_confirm
    assert seen.independent["header"]["generalInfo"].isValue  # confirmWaitTime
    assert (await only(world)).state is CertificateState.ISSUED


async def test_a_strict_door_takes_it(world: World) -> None:
    secret, key = await world.add_secret(), KEYS["p256"]()
    seen = await world.ask(ask(world, secret, key, "p256"), secret, STRICT)
    assert decrypted(seen, key).public_key_info == spki(key)


@pytest.mark.parametrize("body", ["cr", "kur"])
async def test_a_further_certificate_and_an_update(body: str, world: World) -> None:
    holder = await world.holder(await world.add_secret())
    key = KEYS["mlkem768"]()
    replaces = holder.certificate if body == "kur" else None
    seen = await world.ask(ask(world, holder, key, "mlkem768", body=body, replaces=replaces), holder)
    assert seen.body == {"cr": "cp", "kur": "kup"}[body]
    assert decrypted(seen, key).public_key_info == spki(key)


async def test_with_pvno_2_an_rsa_key_gets_an_encryptedvalue(world: World) -> None:
    secret, key = await world.add_secret(), KEYS["rsa"]()
    request = ask(world, secret, key, "rsa", pvno=2)
    seen = await world.ask(request, secret)
    assert seen.envelope.header.pvno == 2
    certificate = decrypted(seen, key)
    conf = world.follow(request, seen, "certConf", der.seq(cert_status(certificate, 0)))
    assert (await world.ask(conf, secret)).body == "pkiconf"
    assert (await only(world)).state is CertificateState.CONFIRMED


async def test_an_ra_may_have_verified_it(world: World) -> None:
    ra = await world.add_secret("ra", is_ra=True)
    template = Template(None, encode_name("/CN=x"), (key_usage("keyAgreement"),), public_key=spki(KEYS["x448"]()))
    seen = await world.ask(cert_request("ir", [template], ra, world.env), ra)
    assert seen.certificate().public_key_info == template.public_key


async def test_a_certificate_that_was_never_decrypted_is_no_credential(world: World) -> None:
    secret, key = await world.add_secret(), KEYS["rsa"]()
    seen = await world.ask(ask(world, secret, key, "rsa"), secret)
    holder = KeyAndCertificate(key, decrypted(seen, key), (Certificate.load(world.root),))
    refused = await world.ask(ask(world, holder, KEYS["p256"](), "p256", body="cr"), holder)
    assert refused.body == "error"


# --- wrong -----------------------------------------------------------------------------------------------------------


async def test_a_wrong_hash_revokes_it(store: Store) -> None:
    world = World(store=store)
    secret, key = await world.add_secret(), KEYS["x25519"]()
    request = ask(world, secret, key, "x25519")
    seen = await world.ask(request, secret)
    status = der.seq(der.encode_octets(bytes(32)), der.encode_integer(0))
    conf = world.follow(request, seen, "certConf", der.seq(status), pvno=3)
    answer = await world.ask(conf, secret)
    assert answer.body == "error"
    assert answer.status()[2] == {"badCertId"}
    assert (await only(world)).state is CertificateState.REVOKED
    right = world.follow(request, answer, "certConf", der.seq(cert_status(decrypted(seen, key), 0)), pvno=3)
    assert (await world.ask(right, secret)).status()[2] == {"certRevoked"}
    assert (await only(world)).state is CertificateState.REVOKED


async def test_one_bit_of_the_right_hash_changed_revokes_it(world: World) -> None:
    secret, key = await world.add_secret(), KEYS["x25519"]()
    request = ask(world, secret, key, "x25519")
    seen = await world.ask(request, secret)
    status = bytearray(cert_status(decrypted(seen, key), 0))
    status[10] ^= 1
    answer = await world.ask(world.follow(request, seen, "certConf", der.seq(bytes(status)), pvno=3), secret)
    assert answer.status()[2] == {"badCertId"}
    assert (await only(world)).state is CertificateState.REVOKED


async def test_without_certconf_in_time_it_is_revoked(store: Store) -> None:
    world = World(store=store, enrolment=EnrolmentConfig(confirm_wait="60s"))
    secret, key = await world.add_secret(), KEYS["x25519"]()
    request = ask(world, secret, key, "x25519")
    await world.ask(request, secret)
    assert await lapse(world.service) == 0
    world.clock.now += 62
    assert await lapse(world.service) == 1
    assert (await only(world)).state is CertificateState.REVOKED
    assert await transaction_state(world, request) is TransactionState.ENDED


async def test_a_pkiconf_proves_nothing(store: Store) -> None:
    world = World(store=store)
    secret, key = await world.add_secret(), KEYS["p256"]()
    request = ask(world, secret, key, "p256")
    seen = await world.ask(request, secret)
    answer = await world.ask(world.follow(request, seen, "pkiconf", der.NULL_TLV, pvno=3), secret)
    assert answer.body == "error"
    assert answer.status()[2] == {"badRequest"}
    assert (await only(world)).state is CertificateState.ISSUED
    conf = world.follow(request, seen, "certConf", der.seq(cert_status(decrypted(seen, key), 0)), pvno=3)
    assert (await world.ask(conf, secret)).body == "pkiconf"
    assert (await only(world)).state is CertificateState.CONFIRMED


async def test_an_error_from_the_client_revokes_it(world: World) -> None:
    secret, key = await world.add_secret(), KEYS["x25519"]()
    request = ask(world, secret, key, "x25519")
    seen = await world.ask(request, secret)
    answer = await world.ask(world.follow(request, seen, "error", error_content("cannot decrypt"), pvno=3), secret)
    assert answer.body == "pkiconf"
    assert (await only(world)).state is CertificateState.REVOKED


async def test_the_client_confirms_nothing_that_it_cannot_decrypt(world: World) -> None:
    exchange, key = Direct(world), KEYS["x25519"]()
    secret = await world.add_secret()
    client = Client(exchange, secret, world.trust, world.env)
    request = ask(world, secret, key, "x25519")
    with pytest.raises(VerificationError, match="encrypted, and not to the key"):
        await client.resume(request.der, key=KEYS["x25519"](), options=Options())
    assert [seen.body for seen in exchange.seen] == ["ip"]
    assert (await only(world)).state is CertificateState.ISSUED


async def test_the_same_request_gets_the_same_octets(store: Store) -> None:
    world = World(store=store)
    secret, key = await world.add_secret(), KEYS["mlkem1024"]()
    request = ask(world, secret, key, "mlkem1024")
    first = await world.respond(request.der)
    world.restart()
    assert await world.respond(request.der) == first
    assert len(await world.store.list_certificates()) == 1


# --- the kind of proof -----------------------------------------------------------------------------------------------


def priv_key(choice: int, alternative: bytes) -> bytes:
    return der.explicit(choice, alternative)


ENCR, CHALLENGE = b"\x81\x01\0", b"\x81\x01\1"
AGREE_MAC = der.tlv(0xA3, der.seq(der.encode_oid("1.3.6.1.5.5.7.6.26")) + der.encode_bits(bytes(32)))
WRONG = [
    ("x25519", priv_key(2, ENCR), "want keyAgreement"),
    ("x448", priv_key(2, CHALLENGE), "want keyAgreement"),
    ("p384", priv_key(2, ENCR), "want keyAgreement"),
    ("rsa", priv_key(3, ENCR), "want keyEncipherment"),
    ("mlkem768", priv_key(3, ENCR), "want keyEncipherment"),
    ("ed25519", priv_key(3, ENCR), "want signature"),
    ("ed25519", priv_key(2, CHALLENGE), "want signature"),
    ("x25519", b"", "want keyAgreement with subsequentMessage encrCert or challengeResp, have none"),
    ("mlkem768", b"", "want keyEncipherment"),
    ("rsa", priv_key(2, b"\x80\x02\0\x30"), "have thisMessage: there is no archive"),
    ("rsa", priv_key(2, der.tlv(0xA4, b"")), "have encryptedKey: there is no archive"),
    ("p256", priv_key(3, b"\x82\x02\0\x30"), "have dhMAC, for which this server lacks a key-agreement key"),
    ("x25519", priv_key(3, AGREE_MAC), "have agreeMAC, for which this server lacks a key-agreement key"),
    ("rsa", priv_key(2, AGREE_MAC), "for a key that agrees on nothing, have agreeMAC"),
]


def raw(world: World, secret: Credential, key: Any, popo: bytes, usage: bytes, pvno: int = 3) -> Request:
    """An ir with this ProofOfPossession."""
    with_proof = cert_req_msg(Template(None, encode_name("/CN=device"), (usage,), public_key=spki(key)), b"")
    start, stop = der.expect(with_proof, 0, len(with_proof), der.SEQUENCE, "")
    after = der.header(with_proof, start, stop)[2]
    message = der.seq(der.seq(with_proof[start:after], popo))
    return protect("ir", message, secret.protector(world.env), world.env, pvno=pvno)


@pytest.mark.parametrize(("kind", "popo", "text"), WRONG)
async def test_the_wrong_kind_of_proof_is_told_which_one_is_wanted(
    kind: str, popo: bytes, text: str, world: World
) -> None:
    secret = await world.add_secret()
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else KEYS[kind]()
    seen = await world.ask(raw(world, secret, key, popo, encrypting_usage(kind)), secret)
    status, said, failures = seen.status()
    assert (seen.body, status, failures) == ("ip", 2, {"badPOP"})
    assert text in said
    assert await world.store.list_certificates() == []


@pytest.mark.parametrize("kind", ["x25519", "mlkem768"])
async def test_a_signature_for_a_key_that_cannot_sign(kind: str, world: World) -> None:
    secret = await world.add_secret()
    signer = ec.generate_private_key(ec.SECP256R1())
    signed = cert_req_msg(Template(signer, encode_name("/CN=device")), b"")
    start, stop = der.expect(signed, 0, len(signed), der.SEQUENCE, "")
    popo = signed[der.header(signed, start, stop)[2] : stop]
    seen = await world.ask(raw(world, secret, KEYS[kind](), popo, encrypting_usage(kind)), secret)
    assert seen.status()[2] == {"badPOP"}
    assert "for a key that cannot sign, have signature" in seen.status()[1]


async def test_a_pkcs_10_cannot_ask_for_a_key_that_cannot_sign(world: World) -> None:
    secret, signer = await world.add_secret(), ec.generate_private_key(ec.SECP256R1())
    made = certification_request(Template(signer, encode_name("/CN=device")))
    changed = made.replace(spki(signer), spki(KEYS["x25519"]()))
    start, stop = der.expect(made, 0, len(made), der.SEQUENCE, "")
    info, rest = der.header(made, start, stop)[1:], made[der.header(made, start, stop)[2] :]
    inner = made[info[0] : info[1]].replace(spki(signer), spki(KEYS["x25519"]()))
    changed = der.seq(der.seq(inner), rest)
    seen = await world.ask(p10_request(changed, secret, world.env), secret)
    assert seen.status()[2] == {"badPOP"}
    assert "or ir, cr or kur with popo keyAgreement" in seen.status()[1]


@pytest.mark.parametrize("kind", ["rsa", "p256"])
async def test_a_key_that_will_sign_has_to_sign(kind: str, world: World) -> None:
    secret, key = await world.add_secret(), KEYS[kind]()
    for extensions in ((key_usage("digitalSignature"),), ()):  # the profile's own has it too
        seen = await world.ask(ask(world, secret, key, kind, extensions=extensions), secret)
        assert seen.status()[2] == {"badPOP"}
        assert "want signature for a certificate with keyUsage digitalSignature" in seen.status()[1]
    assert await world.store.list_certificates() == []


@pytest.mark.parametrize("kind", [kind for kind in KEYS if kind != "rsa"])
@pytest.mark.parametrize("proof", ["encrCert", "challengeResp"])
async def test_with_pvno_2_only_rsa_keys_can_be_encrypted_to(kind: str, proof: str, world: World) -> None:
    secret = await world.add_secret()
    seen = await world.ask(ask(world, secret, KEYS[kind](), kind, proof, pvno=2), secret)
    assert seen.status()[2] == {"badPOP"}
    assert "want pvno 3" in seen.status()[1]


@pytest.mark.parametrize("popo", [b"\xa2\x03\x81\x01\x02", b"\xa2\x02\x81\x00", b"\xa3\x03\x85\x01\x00", b"\xa3\x00"])
async def test_a_proof_that_is_no_poposprivkey_is_bad_data(popo: bytes, world: World) -> None:
    secret = await world.add_secret()
    seen = await world.ask(raw(world, secret, KEYS["x25519"](), popo, encrypting_usage("x25519")), secret)
    assert seen.status()[2] == {"badDataFormat"}


# --- the key and its usage -------------------------------------------------------------------------------------------


SMALL = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]


@pytest.mark.parametrize("point", SMALL)
async def test_a_point_of_small_order_is_no_key(point: bytes, world: World) -> None:
    secret, key = await world.add_secret(), KEYS["x25519"]()
    request = ask(world, secret, key, "x25519")
    changed = spki(key)[:-32] + point
    template = Template(None, encode_name("/CN=d"), (key_usage("keyAgreement"),), public_key=changed)
    message = cert_req_msg(template, b"")
    start, stop = der.expect(message, 0, len(message), der.SEQUENCE, "")
    octets = der.seq(der.seq(message[start : der.header(message, start, stop)[2]], priv_key(3, ENCR)))
    seen = await world.ask(replace(request, **_protected(world, secret, octets)), secret)
    assert seen.status()[2] == {"badAlg"}
    assert "whose secrets anybody knows" in seen.status()[1]


def _protected(world: World, secret: Credential, octets: bytes) -> dict[str, Any]:
    made = protect("ir", octets, secret.protector(world.env), world.env, pvno=3)
    return {name: getattr(made, name) for name in ("der", "transaction_id", "sender_nonce", "protector")}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [("x25519", "digitalSignature"), ("x25519", "keyEncipherment"), ("mlkem768", "keyAgreement"), ("mlkem768", None)],
)
async def test_a_usage_that_the_key_cannot_do_is_refused(kind: str, asked: str | None, world: World) -> None:
    secret = await world.add_secret()
    extensions = () if asked is None else (key_usage(asked),)
    seen = await world.ask(ask(world, secret, KEYS[kind](), kind, extensions=extensions), secret)
    assert seen.status()[2] == {"badCertTemplate"}
    assert "keyUsage: want some of" in seen.status()[1]


async def test_a_profile_may_leave_such_keys_out(world: World) -> None:
    world.profiles = {"default": ProfileConfig(keys=("p256", "rsa"))}
    world.restart()
    secret = await world.add_secret()
    seen = await world.ask(ask(world, secret, KEYS["mlkem768"](), "mlkem768"), secret)
    assert seen.status()[2] == {"badCertTemplate"}
    assert "have mlkem768" in seen.status()[1]


async def test_a_profile_for_such_keys_alone_needs_no_wish(world: World) -> None:
    world.profiles = {"default": ProfileConfig(keys=("x25519",), key_usage=("keyAgreement",))}
    world.restart()
    secret, key = await world.add_secret(), KEYS["x25519"]()
    seen = await world.ask(ask(world, secret, key, "x25519", extensions=()), secret)
    usage = decrypted(seen, key).parsed.extensions.get_extension_for_oid
    from cryptography.x509.oid import ExtensionOID

    assert usage(ExtensionOID.KEY_USAGE).value.key_agreement


def test_a_profile_for_such_keys_has_no_usage_to_sign() -> None:
    with pytest.raises(ValueError, match="fits none of the key types"):
        ProfileConfig(keys=("x25519", "mlkem768"), key_usage=("digitalSignature",))


def test_rsa_is_the_slow_one() -> None:
    assert isinstance(KEYS["rsa"](), rsa.RSAPrivateKey)


@pytest.mark.parametrize("proof", ["encrCert", "challengeResp"])
@pytest.mark.parametrize("kind", ["rsa", "p256", "p384", "p521"])
async def test_openssl_cms_decrypts_what_the_server_sends(kind: str, proof: str, world: World, tmp_path: Path) -> None:
    secret, key = await world.add_secret(), KEYS[kind]()
    seen = await world.ask(ask(world, secret, key, kind, proof), secret)
    if proof == "encrCert":
        found = seen.content["response"][0]["certifiedKeyPair"]["certOrEncCert"]["encryptedCert"]["envelopedData"]
    else:
        found = seen.content[0]["encryptedRand"]
    octets = encode_der(found)
    inner = der.tlv(der.SEQUENCE, octets[der.header(octets, 0, len(octets))[1] :])
    if proof == "challengeResp":
        inner = octets[der.header(octets, 0, len(octets))[1] :]  # explicit
    (tmp_path / "cms").write_bytes(der.seq(der.encode_oid("1.2.840.113549.1.7.3"), der.explicit(0, inner)))
    (tmp_path / "key").write_bytes(pem(key))
    command = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER"]
    command += ["-in", str(tmp_path / "cms"), "-inkey", str(tmp_path / "key")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=30)  # noqa: ASYNC221 -- nothing else runs
    assert done.returncode == 0, done.stderr
    if proof == "encrCert":
        assert done.stdout == (await only(world)).der
    else:
        witness = bytes(seen.content[0]["witness"])
        start = der.header(done.stdout, 0, len(done.stdout))[1]
        stop = der.header(done.stdout, start, len(done.stdout))[2]
        assert hashlib.sha256(done.stdout[start:stop]).digest() == witness
        assert done.stdout[stop:] == seen.envelope.header.sender
