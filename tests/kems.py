"""Holders of keys that protect by a MAC; DHBasedMac and KemBasedMac made and checked by another codec than cmpd's."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc9810

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Protector, Unprotected
from cmpd.client.flows import Client
from cmpd.client.messages import Request, Template, cert_request, cert_status, protect
from cmpd.client.responses import verify
from cmpd.env import Env
from cmpd.origin import Origin
from tests.pops import KEYS, encrypting_usage, hkdf
from tests.world import Seen, World

HMACS = {"sha1": "1.3.6.1.5.5.8.1.2", "sha256": "1.2.840.113549.2.9", "sha512": "1.2.840.113549.2.11"}
HASHES = {"sha256": "2.16.840.1.101.3.4.2.1", "sha512": "2.16.840.1.101.3.4.2.3"}
HKDFS = {"sha256": "1.2.840.113549.1.9.16.3.28", "sha512": "1.2.840.113549.1.9.16.3.30"}
ML_KEM = {"mlkem768": "2.16.840.1.101.3.4.4.2", "mlkem1024": "2.16.840.1.101.3.4.4.3"}
KEM_TYPE = der.encode_oid("1.3.6.1.5.5.7.4.24")
ASKS = der.seq(der.seq(KEM_TYPE))


@dataclass(frozen=True)
class Made:
    """A credential whose protector is made already."""

    made: Protector

    def protector(self, env: Env) -> Protector:
        return self.made


class Direct:
    """The exchange of a client with a World."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: list[bytes] = []
        self.seen: list[Seen] = []

    async def request(self, octets: bytes, *, last: bool = False) -> bytes | None:
        self.sent.append(octets)
        answer = await self.world.respond(octets)
        assert answer is None or isinstance(answer, bytes)
        if answer is not None:
            self.seen.append(self.world.read(answer))
        return answer

    async def close(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Holder:
    """Somebody with a confirmed certificate of this CA for a key that does not sign."""

    key: Any
    kind: str
    certificate: Certificate

    @property
    def sender(self) -> bytes:
        return der.explicit(4, self.certificate.subject)

    def protector(self, algorithm: bytes, compute: Callable[[bytes], bytes], tid: bytes | None = None) -> Protector:
        kid = self.certificate.key_identifier
        return Protector(algorithm, self.sender, kid, (self.certificate.der,), compute, transaction_id=tid)

    def bare(self) -> Protector:
        """No protection, and the certificate in extraCerts."""
        return self.protector(b"", lambda octets: b"")


async def holder(world: World, kind: str = "mlkem768", subject: str = "/CN=holder", **entity: Any) -> Holder:
    """Enrolled by a shared secret and encrCert."""
    secret = await world.add_secret(f"for {subject}", **entity)
    key = KEYS[kind]()
    client = Client(Direct(world), secret, world.trust, world.env)
    made = await client.enrol("ir", key, encode_name(subject), extensions=[encrypting_usage(kind)], proof="encrCert")
    return Holder(key, kind, made.certificate)


def template(subject: str = "/CN=holder", **fields: Any) -> Template:
    return Template(ec.generate_private_key(ec.SECP256R1()), encode_name(subject), **fields)


# --- KemBasedMac ------------------------------------------------------------------------------------------------------


def kem_other_info(transaction_id: bytes, context: bytes | None) -> bytes:
    other = rfc9810.KemOtherInfo()
    other["staticString"].append("CMP-KEM")
    other["transactionID"] = transaction_id
    if context is not None:
        other["kemContext"] = context
    return bytes(encode_der(other))


def kem_algorithm(name: str = "sha256", kdf: str = "sha256", size: int = 32, context: bytes | None = None) -> bytes:
    parameter = rfc9810.KemBMParameter()
    parameter["kdf"]["algorithm"] = HKDFS[kdf]
    if context is not None:
        parameter["kemContext"] = context
    parameter["len"] = size
    parameter["mac"]["algorithm"] = HMACS[name]
    return der.seq(der.encode_oid("1.2.840.113533.7.66.16"), bytes(encode_der(parameter)))


def kem_key(secret: bytes, tid: bytes, kdf: str = "sha256", size: int = 32, context: bytes | None = None) -> bytes:
    return hkdf(kdf, secret, kem_other_info(tid, context), size)


def kem_protector(
    who: Holder, secret: bytes, tid: bytes, *, name: str = "sha256", derived_for: bytes | None = None, **options: Any
) -> Protector:
    """KemBasedMac. `derived_for`: another transactionID than the one that is sent."""
    key = kem_key(secret, derived_for or tid, **options)
    return who.protector(kem_algorithm(name, **options), lambda octets: hmac.digest(key, octets, name), tid)


def ask_for_ciphertext(world: World, who: Holder, **header: Any) -> Request:
    return protect("genm", ASKS, who.bare(), world.env, **header)


def given(seen: Seen | None, who: Holder) -> bytes:
    """The shared secret in an unprotected genp."""
    assert seen is not None
    assert seen.body == "genp", seen.status()
    assert not seen.independent["protection"].isValue
    assert not seen.independent["header"]["protectionAlg"].isValue
    [item] = seen.content
    assert str(item["infoType"]) == "1.3.6.1.5.5.7.4.24"
    info, rest = decode_der(bytes(item["infoValue"]), asn1Spec=rfc9810.KemCiphertextInfo())
    assert not rest
    assert str(info["kem"]["algorithm"]) == ML_KEM[who.kind]
    assert not info["kem"]["parameters"].isValue
    return bytes(who.key.decapsulate(bytes(info["ct"])))


async def agreed(world: World, who: Holder, origin: Origin | None = None, **options: Any) -> Protector:
    """What figure 3 of RFC 9810 appendix E ends in: a protector for one transaction."""
    request = ask_for_ciphertext(world, who)
    secret = given(await world.send(request.der, origin), who)
    return kem_protector(who, secret, request.transaction_id, **options)


def kem_info(server: bytes, kind: str = "mlkem768") -> tuple[bytes, bytes]:
    """(generalInfo item, shared secret) for the KEM certificate (DER) of the server."""
    key: Any = x509.load_der_x509_certificate(server).public_key()
    secret, ciphertext = key.encapsulate()
    return info_item(ciphertext, kind), secret


def info_item(ciphertext: bytes, kind: str = "mlkem768", parameters: bytes = b"") -> bytes:
    return der.seq(KEM_TYPE, der.seq(der.seq(der.encode_oid(ML_KEM[kind]), parameters), der.encode_octets(ciphertext)))


def by_kem(seen: Seen | None, server: bytes, secret: bytes) -> None:
    """The answer is protected by KemBasedMac under this secret, and says who by (DER of the KEM certificate)."""
    assert seen is not None
    header = seen.independent["header"]
    assert str(header["protectionAlg"]["algorithm"]) == "1.2.840.113533.7.66.16", seen.body
    parameter, rest = decode_der(bytes(header["protectionAlg"]["parameters"]), asn1Spec=rfc9810.KemBMParameter())
    assert not rest
    kdf = next(name for name, oid in HKDFS.items() if oid == str(parameter["kdf"]["algorithm"]))
    name = next(name for name, oid in HMACS.items() if oid == str(parameter["mac"]["algorithm"]))
    key = kem_key(secret, bytes(header["transactionID"]), kdf, int(parameter["len"]))
    assert protection_of(seen) == hmac.digest(key, protected_part(seen), name)
    speaks(seen, server)


def speaks(seen: Seen, certificate: bytes) -> None:
    """sender, senderKID and extraCerts are those of the server's certificate (DER)."""
    own = Certificate.load(certificate)
    assert seen.envelope.header.sender == der.explicit(4, own.subject)
    assert seen.envelope.header.sender_kid == own.key_identifier
    assert seen.envelope.extra_certs[0] == certificate


def protection_of(seen: Seen) -> bytes:
    return bytes(seen.independent["protection"].asOctets())


def protected_part(seen: Seen) -> bytes:
    part = rfc9810.ProtectedPart()
    part["header"], part["body"] = seen.independent["header"], seen.independent["body"]
    return bytes(encode_der(part))


def signed(world: World, seen: Seen | None, request: Request) -> Seen:
    """The answer is signed by the CMP certificate, and to this request."""
    assert seen is not None
    verify(seen.envelope.der, request, Unprotected(), world.trust, world.env)
    return seen


# --- DHBasedMac -------------------------------------------------------------------------------------------------------


def dh_algorithm(owf: str = "sha256", name: str = "sha256") -> bytes:
    parameter = rfc9810.DHBMParameter()
    parameter["owf"]["algorithm"] = HASHES[owf]
    parameter["mac"]["algorithm"] = HMACS[name]
    return der.seq(der.encode_oid("1.2.840.113533.7.66.30"), bytes(encode_der(parameter)))


def shared_value(key: Any, certificate: bytes) -> bytes:
    """Of a private key with the key of a certificate (DER)."""
    peer: Any = x509.load_der_x509_certificate(certificate).public_key()
    ecdh = isinstance(key, ec.EllipticCurvePrivateKey)
    return bytes(key.exchange(ec.ECDH(), peer) if ecdh else key.exchange(peer))


def dh_protector(who: Holder, server: bytes, *, owf: str = "sha256", name: str = "sha256") -> Protector:
    """DHBasedMac: with HMAC all of BASEKEY is the key."""
    key = hashlib.new(owf, shared_value(who.key, server)).digest()
    return who.protector(dh_algorithm(owf, name), lambda octets: hmac.digest(key, octets, name))


def by_dh(seen: Seen | None, who: Holder, server: bytes) -> None:
    """The answer is protected by DHBasedMac for this holder, and says who by (DER of the agreement certificate)."""
    assert seen is not None
    algorithm = seen.independent["header"]["protectionAlg"]
    assert str(algorithm["algorithm"]) == "1.2.840.113533.7.66.30", seen.body
    parameter, rest = decode_der(bytes(algorithm["parameters"]), asn1Spec=rfc9810.DHBMParameter())
    assert not rest
    owf = next(name for name, oid in HASHES.items() if oid == str(parameter["owf"]["algorithm"]))
    name = next(name for name, oid in HMACS.items() if oid == str(parameter["mac"]["algorithm"]))
    key = hashlib.new(owf, shared_value(who.key, server)).digest()
    assert protection_of(seen) == hmac.digest(key, protected_part(seen), name)
    speaks(seen, server)


# --- transactions -----------------------------------------------------------------------------------------------------


def request_by(world: World, protector: Protector, body: str = "ir", *templates: Template, **options: Any) -> Request:
    """An ir, cr or kur under this protector."""
    return cert_request(body, templates or [template()], Made(protector), world.env, **options)


def confirmation(world: World, request: Request, seen: Seen, **fields: Any) -> Request:
    return world.follow(request, seen, "certConf", der.seq(cert_status(seen.certificate(), 0)), **fields)
