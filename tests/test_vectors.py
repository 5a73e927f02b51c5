"""Messages of OpenSSL and Bouncy Castle (vectors/*/README.md): read as two other codecs read them, verified, answered.

What cmpd reads by position is held, field for field, against pyasn1-alt-modules and against the asn1crypto definitions.
"""

import calendar
import hashlib
import hmac
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core
from asn1crypto.csr import CertificationRequest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc2986, rfc4211, rfc5280, rfc9810

from cmpd import pop
from cmpd.asn1 import der
from cmpd.client.credentials import Protector, SharedSecret
from cmpd.client.messages import Request
from cmpd.config import ProfileConfig
from cmpd.errors import BadAlg, BadMessageCheck, BadPop, NotAuthorized
from cmpd.message import Envelope, decode
from cmpd.popo import RaVerified, SignaturePop
from cmpd.protection import verify
from cmpd.protection.base import ProtectionPolicy, VerifiedRequest
from cmpd.protection.certhash import certificate_hash
from cmpd.records import Entity, EntityKind, Requester
from cmpd.requests import (
    CertRequest,
    read_cert_conf,
    read_cert_id,
    read_cert_req_messages,
    read_p10cr,
)
from tests.protection.fakes import SIGNER
from tests.world import Clock, World

VECTORS = Path(__file__).parent / "vectors"
OPENSSL_CA = (VECTORS / "openssl" / "ca.der").read_bytes()
MESSAGES = {
    f"{path.parent.name}/{path.stem}": path.read_bytes()
    for path in sorted(VECTORS.glob("*/*.der"))
    if path.name != "ca.der"
}
NAMES = list(MESSAGES)
BOUNCY_CASTLE = [name for name in NAMES if name.startswith("bouncycastle/")]


def envelope(name: str) -> Envelope:
    return decode(MESSAGES[name])


def of_body(*bodies: str) -> list[str]:
    return [name for name in NAMES if envelope(name).body_name in bodies]


def independent(name: str) -> Any:
    value, rest = decode_der(MESSAGES[name], asn1Spec=rfc9810.PKIMessage())
    assert rest == b""
    return value


def test_the_vectors_are_there() -> None:
    assert len(BOUNCY_CASTLE) == 5
    assert len(NAMES) == 5 + 54
    assert {envelope(name).body_name for name in NAMES} == {
        *("ir", "ip", "cr", "cp", "p10cr", "kur", "kup", "rr", "rp", "genm", "genp", "certConf", "pkiconf"),
        *("pollReq", "pollRep"),
    }


# --- reading, against two codecs --------------------------------------------------------------------------------------


def untagged(value: Any) -> bytes:
    """The DER of a pyasn1 value without its explicit tag."""
    octets = encode_der(value)
    return octets[der.header(octets, 0, len(octets))[1] :]


def seconds(text: Any) -> int:
    """Unix time of a UTCTime or GeneralizedTime of pyasn1."""
    form = "%Y%m%d%H%M%SZ" if len(str(text)) == 15 else "%y%m%d%H%M%SZ"
    return calendar.timegm(time.strptime(str(text), form))


def optional(value: Any, read: Any) -> Any:
    return read(value) if value.isValue else None


def oid(value: Any) -> bytes:
    """Contents octets of a pyasn1 OBJECT IDENTIFIER."""
    return bytes(encode_der(value)[2:])


@pytest.mark.parametrize("name", NAMES)
def test_a_message_is_what_pyasn1_reads(name: str) -> None:
    ours, theirs = envelope(name), independent(name)
    header, their = ours.header, theirs["header"]
    assert header.pvno == int(their["pvno"])
    assert header.sender == encode_der(their["sender"])
    assert header.recipient == encode_der(their["recipient"])
    assert header.message_time == optional(their["messageTime"], seconds)
    assert header.protection_alg == optional(their["protectionAlg"], untagged)
    assert header.sender_kid == optional(their["senderKID"], bytes)
    assert header.recip_kid == optional(their["recipKID"], bytes)
    assert header.transaction_id == optional(their["transactionID"], bytes)
    assert header.sender_nonce == optional(their["senderNonce"], bytes)
    assert header.recip_nonce == optional(their["recipNonce"], bytes)
    infos = [(oid(info["infoType"]), optional(info["infoValue"], bytes)) for info in their["generalInfo"]]
    assert [(info.type, info.value) for info in header.general_info] == infos
    assert ours.body_name == theirs["body"].getName()
    assert ours.body == untagged(theirs["body"].getComponent())
    assert ours.protection == theirs["protection"].asOctets()
    assert list(ours.extra_certs) == [encode_der(certificate) for certificate in theirs["extraCerts"]]
    part = der.seq(encode_der(theirs["header"]), encode_der(theirs["body"]))
    assert ours.protected == part
    assert ours.der == encode_der(theirs)


def asn1crypto_octets(value: Any) -> bytes | None:
    return None if isinstance(value, core.Void) else bytes(value.native)


@pytest.mark.parametrize("name", NAMES)
def test_a_message_is_what_asn1crypto_reads(name: str) -> None:
    ours = envelope(name)
    header, their = ours.header, ours.structure["header"]
    assert header.pvno == int(their["pvno"])
    assert header.sender == their["sender"].dump()
    assert header.recipient == their["recipient"].dump()
    when = their["message_time"]
    assert header.message_time == (None if isinstance(when, core.Void) else when.native.timestamp())
    assert header.protection_alg == their["protection_alg"].untag().dump()
    for field, other in [("sender_kid", "sender_kid"), ("recip_kid", "recip_kid"), ("recip_nonce", "recip_nonce")]:
        assert getattr(header, field) == asn1crypto_octets(their[other])
    assert header.transaction_id == asn1crypto_octets(their["transaction_id"])
    assert header.sender_nonce == asn1crypto_octets(their["sender_nonce"])
    infos = [] if isinstance(their["general_info"], core.Void) else list(their["general_info"])
    assert [info.type for info in header.general_info] == [info["info_type"].contents for info in infos]
    assert ours.body == ours.structure["body"].chosen.untag().dump()
    certificates = ours.structure["extra_certs"]
    assert list(ours.extra_certs) == (
        [] if isinstance(certificates, core.Void) else [certificate.dump() for certificate in certificates]
    )


def requests(name: str) -> tuple[CertRequest, ...]:
    message = envelope(name)
    if message.body_name == "p10cr":
        return (read_p10cr(message.body),)
    return read_cert_req_messages(message.body, 10)


def their_extensions(extensions: Any) -> list[tuple[bytes, bool, bytes]]:
    return [(oid(one["extnID"]), bool(one["critical"]), bytes(one["extnValue"])) for one in extensions]


def our_extensions(request: CertRequest) -> list[tuple[bytes, bool, bytes]]:
    return [(one.oid, one.critical, one.value) for one in request.template.extensions]


@pytest.mark.parametrize("name", of_body("ir", "cr", "kur"))
def test_requests_are_what_pyasn1_reads(name: str) -> None:
    messages, _ = decode_der(envelope(name).body, asn1Spec=rfc4211.CertReqMessages())
    ours = requests(name)
    assert len(ours) == len(messages) == 1
    [one], [their] = ours, messages
    asked, template = their["certReq"], their["certReq"]["certTemplate"]
    assert one.cert_req_id == int(asked["certReqId"])
    assert one.template.version == optional(template["version"], int)
    assert one.template.issuer == optional(template["issuer"], untagged_name)
    assert one.template.subject == optional(template["subject"], untagged_name)
    assert one.template.public_key == retagged(template["publicKey"])
    validity = template["validity"]
    assert one.template.not_before == optional(validity["notBefore"], lambda moment: seconds(moment.getComponent()))
    assert one.template.not_after == optional(validity["notAfter"], lambda moment: seconds(moment.getComponent()))
    assert our_extensions(one) == their_extensions(template["extensions"])
    assert one.template.forbidden == ()
    controls = {oid(control["type"]): bytes(control["value"]) for control in asked["controls"]}
    assert one.controls == controls
    check_pop(one, their, encode_der(asked))


def untagged_name(name: Any) -> bytes:
    """The DER of the RDNSequence inside a Name that is tagged (explicitly, as it is a CHOICE)."""
    return bytes(encode_der(name.getComponent()))


def retagged(value: Any) -> bytes:
    """A SEQUENCE under an implicit tag with its own."""
    octets = encode_der(value)
    return der.tlv(der.SEQUENCE, octets[der.header(octets, 0, len(octets))[1] :])


def check_pop(one: CertRequest, their: Any, cert_req: bytes) -> None:
    choice = their["popo"].getName()
    if choice == "raVerified":
        assert one.pop == RaVerified()
        return
    assert choice == "signature"
    assert isinstance(one.pop, SignaturePop)
    proof = their["popo"]["signature"]
    assert one.pop.algorithm == encode_der(proof["algorithmIdentifier"])
    assert one.pop.signature == proof["signature"].asOctets()
    if proof["poposkInput"].isValue:
        given = proof["poposkInput"]
        assert one.pop.signed == retagged(given)
        assert one.pop.input_key == encode_der(given["publicKey"])
        mac = given["authInfo"]["publicKeyMAC"]
        assert one.pop.key_mac == (encode_der(mac["algId"]), mac["value"].asOctets())
        assert one.pop.input_sender is None
    else:
        assert one.pop.signed == cert_req
        assert (one.pop.input_key, one.pop.input_sender, one.pop.key_mac) == (None, None, None)


@pytest.mark.parametrize("name", of_body("ir", "cr", "kur"))
def test_requests_are_what_asn1crypto_reads(name: str) -> None:
    [one] = requests(name)
    [structure] = envelope(name).structure["body"].chosen
    asked = structure["cert_req"]
    template = asked["cert_template"]
    assert one.cert_req_id == asked["cert_req_id"].native
    for ours, field in [(one.template.subject, "subject"), (one.template.issuer, "issuer")]:
        assert ours == (None if isinstance(template[field], core.Void) else template[field].chosen.dump())
    assert one.template.public_key == template["public_key"].untag().dump()
    extensions = [] if isinstance(template["extensions"], core.Void) else list(template["extensions"])
    assert our_extensions(one) == [
        (found["extn_id"].contents, found["critical"].native, found["extn_value"].contents) for found in extensions
    ]
    controls = [] if isinstance(asked["controls"], core.Void) else list(asked["controls"])
    assert list(one.controls) == [control["type"].contents for control in controls]
    assert ("signature" if isinstance(one.pop, SignaturePop) else "ra_verified") == structure["popo"].name


@pytest.mark.parametrize("name", of_body("p10cr"))
def test_a_pkcs10_is_what_two_codecs_read(name: str) -> None:
    [one] = requests(name)
    their, _ = decode_der(envelope(name).body, asn1Spec=rfc2986.CertificationRequest())
    info = their["certificationRequestInfo"]
    assert one.cert_req_id == -1
    assert one.template.subject == encode_der(info["subject"])
    assert one.template.public_key == encode_der(info["subjectPKInfo"])
    assert isinstance(one.pop, SignaturePop)
    assert one.pop.signed == encode_der(info)
    assert one.pop.algorithm == encode_der(their["signatureAlgorithm"])
    assert one.pop.signature == their["signature"].asOctets()
    wanted = []
    for attribute in info["attributes"]:
        if str(attribute["type"]) == "1.2.840.113549.1.9.14":
            wanted = their_extensions(decode_der(attribute["values"][0], asn1Spec=rfc5280.Extensions())[0])
    assert our_extensions(one) == wanted
    structure = CertificationRequest.load(envelope(name).body)
    assert structure["certification_request_info"]["subject"].chosen.dump() == one.template.subject
    loaded = x509.load_der_x509_csr(envelope(name).body)
    assert loaded.is_signature_valid
    found = [(e.oid.dotted_string, e.critical, e.value.public_bytes()) for e in loaded.extensions]
    assert [(der.dotted(kind), critical, value) for kind, critical, value in our_extensions(one)] == found


@pytest.mark.parametrize("name", of_body("certConf"))
def test_a_confirmation_is_what_two_codecs_read_and_is_about_the_certificate_of_the_answer(name: str) -> None:
    [ours] = read_cert_conf(envelope(name).body, 10)
    theirs, _ = decode_der(envelope(name).body, asn1Spec=rfc9810.CertConfirmContent())
    [their] = theirs
    assert ours.cert_hash == bytes(their["certHash"])
    assert ours.cert_req_id == int(their["certReqId"])
    assert ours.accepted == (not their["statusInfo"].isValue or int(their["statusInfo"]["status"]) != 2)
    assert ours.hash_alg == optional(their["hashAlg"], untagged)
    [again] = envelope(name).structure["body"].chosen
    assert ours.cert_hash == again["cert_hash"].native
    answer = independent(name.replace("-2-req", "-1-rsp"))["body"].getComponent()["response"][0]
    issued = untagged(answer["certifiedKeyPair"]["certOrEncCert"]["certificate"])
    assert ours.cert_req_id == int(answer["certReqId"])
    assert ours.hash_alg is None  # pvno 2: the hash is that of the certificate's signature
    assert ours.cert_hash == certificate_hash(issued) == hashlib.sha256(issued).digest()


@pytest.mark.parametrize("name", of_body("kur"))
def test_the_old_certificate_of_a_kur_is_the_one_that_protects_it(name: str) -> None:
    [one] = requests(name)
    issuer, serial = read_cert_id(one.controls[der.encode_oid("1.3.6.1.5.5.7.5.1.5")[2:]])
    certificate = x509.load_der_x509_certificate(envelope(name).extra_certs[0])
    assert issuer == certificate.issuer.public_bytes()
    assert int.from_bytes(serial, "big") == certificate.serial_number


# --- protection -------------------------------------------------------------------------------------------------------


async def world_at(message: Envelope, subject: str | None = None, **options: Any) -> World:
    """A server at the time of the message that knows both secrets (one with this subject) and the CA of OpenSSL."""
    clock = Clock()
    clock.now = message.header.message_time or 0
    world = World(clock=clock, **options)
    await world.add_secret("vector-ref", b"vector-secret")
    await world.add_secret("bc-ref", b"bc-secret", subject=subject)
    await world.add_certificate("vectors", OPENSSL_CA)
    return world


def uses_sha1(name: str) -> bool:
    """By the tables of the READMEs; a MAC of neither README is with a signature."""
    if name.startswith("bouncycastle/"):
        return name.endswith("ir-default")
    return "-pbm-" in name and ("sha256" not in name or name.endswith("-rsp"))


def test_the_table_of_sha1_is_what_the_messages_say() -> None:
    hmac_sha1 = {der.encode_oid("1.3.6.1.5.5.8.1.2"), der.encode_oid("1.3.14.3.2.26")}
    for name in NAMES:
        algorithm = envelope(name).header.protection_alg or b""
        assert uses_sha1(name) == any(kind in algorithm for kind in hmac_sha1), name


@pytest.mark.parametrize("name", NAMES)
async def test_protection_verifies_and_fails_with_one_bit_changed(name: str) -> None:
    message = envelope(name)
    world = await world_at(message)
    found = await verify(message, world.credentials, world.policy, world.signer)
    by_mac = "-pbm-" in name or name in BOUNCY_CASTLE
    kind = EntityKind.SECRET if by_mac else EntityKind.CERTIFICATE
    assert found.requester.entity.kind is kind
    assert found.requester.certificate == (None if by_mac else message.extra_certs[0])
    for part in ("protected", "protection"):
        changed = bytearray(getattr(message, part))
        changed[len(changed) // 2] ^= 1
        with pytest.raises(BadMessageCheck):
            await verify(replace(message, **{part: bytes(changed)}), world.credentials, world.policy, world.signer)


@pytest.mark.parametrize("name", NAMES)
async def test_a_policy_without_sha1_refuses_just_what_uses_it(name: str) -> None:
    message = envelope(name)
    world = await world_at(message)
    policy = ProtectionPolicy(allow_sha1_mac=False)
    if not uses_sha1(name):
        await verify(message, world.credentials, policy, world.signer)
        return
    with pytest.raises(BadAlg, match="PasswordBasedMac: SHA-1 is not accepted here") as caught:
        await verify(message, world.credentials, policy, world.signer)
    fields = "owf and mac" if name in BOUNCY_CASTLE else "mac"
    assert f"(have it in {fields}); use SHA-256" in caught.value.text


# --- proof-of-possession ----------------------------------------------------------------------------------------------


def sent(name: str, *, is_ra: bool = False, secret: bytes | None = None) -> VerifiedRequest:
    """The vector as protection.verify hands it on."""
    requester = Requester("secret:x", Entity(1, "x", EntityKind.SECRET, is_ra=is_ra))
    return VerifiedRequest(envelope(name), requester, SIGNER, secret)


PROOFS = [name for name in of_body("ir", "cr", "kur", "p10cr") if "raverified" not in name]


@pytest.mark.parametrize("name", PROOFS)
def test_possession_is_proven_and_not_with_one_bit_changed(name: str) -> None:
    [one] = requests(name)
    assert isinstance(one.pop, SignaturePop)
    key = load_der_public_key(one.template.public_key or b"")
    message = sent(name, secret=b"bc-secret")
    pop.verify(one, key, message, ProtectionPolicy())
    changed = bytearray(one.pop.signed)
    changed[len(changed) // 2] ^= 1
    with pytest.raises(BadPop, match="popo: the signature does not verify"):
        pop.verify(replace(one, pop=replace(one.pop, signed=bytes(changed))), key, message, ProtectionPolicy())


def test_ra_verified_is_believed_from_an_ra_alone() -> None:
    name = "openssl/cr-raverified-1-req"
    [one] = requests(name)
    key = load_der_public_key(one.template.public_key or b"")
    pop.verify(one, key, sent(name, is_ra=True), ProtectionPolicy())
    with pytest.raises(NotAuthorized, match="raVerified is for a registered RA only"):
        pop.verify(one, key, sent(name), ProtectionPolicy())


def test_a_public_key_mac_binds_the_key_to_the_secret() -> None:
    name = "bouncycastle/cr-authinfo"
    [one] = requests(name)
    assert isinstance(one.pop, SignaturePop)
    assert one.pop.key_mac is not None
    mac_key = b"bc-secret" + b"0123456789abcdef"
    for _ in range(1000):
        mac_key = hashlib.sha256(mac_key).digest()
    assert one.pop.key_mac[1] == hmac.digest(mac_key, one.template.public_key or b"", "sha256")
    key = load_der_public_key(one.template.public_key or b"")
    pop.verify(one, key, sent(name, secret=b"bc-secret"), ProtectionPolicy())
    for secret in (b"another", None):
        with pytest.raises(BadPop, match="publicKeyMAC"):
            pop.verify(one, key, sent(name, secret=secret), ProtectionPolicy())


# --- through the server -----------------------------------------------------------------------------------------------

NOBODY = Protector(b"", b"", None, (), lambda _: b"")


async def ask(world: World, name: str, credential: SharedSecret) -> Any:
    """The answer to the vector; its protection is verified with the secret."""
    header = envelope(name).header
    assert header.transaction_id is not None
    assert header.sender_nonce is not None
    request = Request(envelope(name).body_name, MESSAGES[name], header.transaction_id, header.sender_nonce, NOBODY)
    return await world.ask(request, credential)


CHOSEN = {"default": ProfileConfig(max_validity=3650 * 86_400)}
BC_SECRET = SharedSecret("bc-ref", b"bc-secret")
OPENSSL_SECRET = SharedSecret("vector-ref", b"vector-secret")


@pytest.mark.parametrize("name", [name for name in BOUNCY_CASTLE if "authinfo" not in name])
@pytest.mark.parametrize("window", [300, None])
async def test_bouncy_castle_gets_what_it_asks_for(name: str, window: int | None) -> None:
    world = await world_at(envelope(name), profiles=CHOSEN, window=window)
    if window is None:
        world.clock.now += 200 * 86_400
    seen = await ask(world, name, BC_SECRET)
    [one] = requests(name)
    late = window is None and one.template.not_before is not None
    assert seen.body == {"ir": "ip", "p10cr": "cp"}[envelope(name).body_name]
    assert seen.status() == (1, "validity begins later", frozenset()) if late else (0, "", frozenset())
    issued = x509.load_der_x509_certificate(seen.certificate().der)
    issued.verify_directly_issued_by(x509.load_der_x509_certificate(world.root))
    assert issued.public_key() == load_der_public_key(one.template.public_key or b"")
    assert issued.subject.public_bytes() == one.template.subject
    if envelope(name).body_name == "ir":
        names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["bc.example"]
        assert issued.not_valid_after_utc.timestamp() == 1_900_000_000
    assert seen.envelope.header.implicit_confirm
    assert seen.envelope.header.pvno == 2
    assert seen.envelope.header.transaction_id == envelope(name).header.transaction_id


async def test_bouncy_castle_gets_the_registered_name_with_a_public_key_mac() -> None:
    name = "bouncycastle/cr-authinfo"
    world = await world_at(envelope(name), "/O=cmpd/CN=bc")
    seen = await ask(world, name, BC_SECRET)
    assert seen.body == "cp"
    assert seen.status() == (0, "", frozenset())
    assert int(seen.content["response"][0]["certReqId"]) == 1
    issued = x509.load_der_x509_certificate(seen.certificate().der)
    assert issued.subject.rfc4514_string() == "CN=bc,O=cmpd"
    assert issued.public_key() == load_der_public_key(requests(name)[0].template.public_key or b"")


@pytest.mark.parametrize("name", ["ir-pbm-ec", "ir-pbm-rsa-sha256", "ir-pbm-implicit", "p10cr-pbm-ec", "poll-pbm-ec"])
async def test_openssl_gets_what_it_asks_for_with_a_secret(name: str) -> None:
    first = f"openssl/{name}-1-req"
    world = await world_at(envelope(first), profiles=CHOSEN)
    seen = await ask(world, first, OPENSSL_SECRET)
    assert seen.status()[0] == 0
    [one] = requests(first)
    assert x509.load_der_x509_certificate(seen.certificate().der).subject.public_bytes() == one.template.subject
    implicit = envelope(first).header.implicit_confirm
    assert seen.envelope.header.implicit_confirm == implicit


async def test_a_certificate_of_a_trusted_ca_gets_another_by_pkcs10() -> None:
    first = "openssl/p10cr-sig-rsa-1-req"
    world = await world_at(envelope(first))
    seen = await world.send(MESSAGES[first])
    assert seen is not None
    assert seen.status() == (0, "", frozenset())
    assert seen.envelope.extra_certs[0] == world.cmp
    [one] = requests(first)
    issued = x509.load_der_x509_certificate(seen.certificate().der)
    assert issued.public_key() == load_der_public_key(one.template.public_key or b"")
    held = x509.load_der_x509_certificate(envelope(first).extra_certs[0])
    assert issued.subject == held.subject
    for kind in (x509.SubjectAlternativeName, x509.KeyUsage):
        assert issued.extensions.get_extension_for_class(kind) == held.extensions.get_extension_for_class(kind)


@pytest.mark.parametrize(
    "name", [name for name in of_body("ir", "cr", "kur") if "-pbm-" not in name and "openssl" in name]
)
async def test_the_issuer_of_the_protection_certificate_in_the_template_says_nothing(name: str) -> None:
    """OpenSSL puts it there whatever CA it asks; what is wrong with the request, if anything, is something else."""
    world = await world_at(envelope(name))
    seen = await world.send(MESSAGES[name])
    assert seen is not None
    assert "wrongAuthority" not in seen.status()[2]
    assert seen.envelope.extra_certs[0] == world.cmp
