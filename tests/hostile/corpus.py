"""Valid messages to be spoilt: one of each body and kind of protection, in transactions of their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.changes import MoveCertificate
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.keys import public_key_info
from cmpd.client.messages import (
    Request,
    Template,
    cert_request,
    cert_status,
    certification_request,
    error_content,
    extension,
    p10_request,
    protect,
    subject_alt_name,
)
from cmpd.cms import envelope_for_certificate, envelope_for_password
from cmpd.records import CertificateState
from tests import chains
from tests.world import World, rev_details, serial_octets

VECTORS = sorted(Path(__file__).parents[1].glob("vectors/*/*.der"))


@dataclass
class Corpus:
    """`messages`: octets with what protects them (None for those of other implementations). `keys`: DER of the
    SubjectPublicKeyInfo of every key whose possession some message proves. `pops`: DER of what proves it.
    """

    messages: list[tuple[bytes, Any]]
    keys: set[bytes]
    pops: list[bytes]


def first_messages(credentials: list[Credential], env: Any) -> tuple[list[Request], set[bytes]]:
    """An ir, cr and p10cr for each credential, with several requests, with a kur for certificates."""
    requests, keys = [], set()
    san = (subject_alt_name(["dns:a.example", "ip:10.0.0.1"]),)
    for credential in credentials:
        name = encode_name("/O=Test/CN=device")
        p256, ed = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
        keys |= {public_key_info(p256), public_key_info(ed)}
        one = Template(p256, name, extensions=san, reg_token="token", not_after=1_760_000_000)
        two = Template(ed, name, cert_req_id=1)
        requests.append(cert_request("ir", [one], credential, env, implicit_confirm=False))
        requests.append(cert_request("cr", [one, two], credential, env, profile="default"))
        requests.append(cert_request("cr", [Template(p256, None)], credential, env))
        requests.append(cert_request("kur", [two], credential, env))
        p10 = certification_request(one)
        requests.append(p10_request(p10, credential, env))
        requests.append(
            protect("genm", der.seq(der.seq(der.encode_oid("1.3.6.1.5.5.7.4.2"))), credential.protector(env), env)
        )
        requests.append(protect("error", error_content("x"), credential.protector(env), env))
        requests.append(protect("rr", der.seq(der.seq(der.seq())), credential.protector(env), env))
        requests.append(protect("rr", der.seq(full_details(one.key)), credential.protector(env), env))
    return requests, keys


def full_details(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A RevDetails with every field of certDetails that there is, of no certificate in particular."""
    certificate = Certificate.load(chains.issue(None, "device", key=key, ca=False).der)
    algorithm = der.seq(der.encode_oid("1.2.840.10045.4.3.2"))
    validity = der.explicit(0, der.encode_time(1_700_000_000)) + der.explicit(1, der.encode_time(1_800_000_000))
    fields = (
        *(b"\x80\x01\x02", der.tlv(0x81, serial_octets(certificate.serial)), b"\xa2" + algorithm[1:]),
        *(der.explicit(3, certificate.issuer), der.tlv(0xA4, validity), der.explicit(5, certificate.subject)),
        *(b"\xa6" + public_key_info(key)[1:], b"\x87\x02\0\x01", b"\x88\x02\0\x01"),
        der.tlv(0xA9, subject_alt_name(["dns:a.example"])),
    )
    return der.seq(der.seq(*fields), der.seq(*entry_details(certificate.issuer)))


def entry_details(issuer: bytes) -> list[bytes]:
    """Extensions that crlEntryDetails can have."""
    return [
        extension("2.5.29.21", b"\x0a\x01\x01"),
        extension("2.5.29.24", der.encode_generalized_time(1_700_000_000)),
        extension("2.5.29.29", der.seq(der.explicit(4, issuer)), critical=True),
        extension("1.2.3.4", der.NULL_TLV),
    ]


async def make(world: World, credentials: list[Credential]) -> Corpus:
    """Fresh messages of a world, among them those that continue transactions that now wait."""
    requests, keys = first_messages(credentials, world.env)
    keys |= {public_key_info(one.key) for one in credentials if isinstance(one, KeyAndCertificate)}
    for credential in credentials:
        asked, granted, key = await world.ir(credential, "/O=Test/CN=device", body="cr", implicit=False)
        keys.add(public_key_info(key))
        status = der.seq(cert_status(granted.certificate(), 0))
        requests.append(world.follow(asked, granted, "certConf", status))
        reject = der.seq(cert_status(granted.certificate(), 0, reject="no"))
        requests.append(world.follow(asked, granted, "certConf", reject))
        requests.append(world.follow(asked, granted, "pkiconf", der.NULL_TLV))
        requests.append(world.follow(asked, granted, "error", error_content("x")))
    messages: list[tuple[bytes, Any]] = [(request.der, request.protector) for request in requests]
    pops = [pop for request in requests for pop in proofs(request)]
    return Corpus(messages, keys, pops)


async def revocations(world: World, credentials: list[Credential], secret: SharedSecret) -> Corpus:
    """Fresh rr and genm of a world (equipped with an encryption certificate) about certificates of `secret`'s entity.

    One that is confirmed, one that is suspended, one that waits for certConf; several in one message; a revocation
    passphrase in genm and in a header.
    """
    requests: list[Request] = []
    keys: set[bytes] = set()
    env = world.env
    for credential in credentials:
        protector = credential.protector(env)
        holders = [await world.holder(secret, SUBJECT) for _ in range(5)]
        named = [holder.certificate for holder in holders]
        _, waiting, key = await world.ir(secret, SUBJECT, implicit=False)
        keys |= {public_key_info(one) for one in (key, *(holder.key for holder in holders))}
        serial = serial_octets(named[1].serial)
        held = CertificateState.SUSPENDED
        move = MoveCertificate(serial, CertificateState.CONFIRMED, held, int(env.now()), "certificateHold", "entity")
        await world.store.write([move])
        subject = der.explicit(5, named[2].subject)
        details = [
            rev_details(named[0], 1, *entry_details(named[0].issuer)[1:]),
            rev_details(named[1], 8),
            rev_details(named[2], 6, template=subject),
            rev_details(waiting.certificate()),
        ]
        requests += [protect("rr", der.seq(one), protector, env) for one in details]
        several = [rev_details(named[3], 4), rev_details(named[4], 6, template=subject), *details[:2]]
        requests.append(protect("rr", der.seq(*several), protector, env))
        certificate = world.service.recipient.certificate if world.service.recipient else b""
        encrypted = envelope_for_certificate(b"a passphrase", certificate, b"key id", env)
        by_password = envelope_for_password(b"a passphrase", secret.secret, b"key id", env, iterations=200)
        keep = [der.seq(REV_PASSPHRASE, value) for value in (encrypted, by_password)]
        requests += [protect("genm", der.seq(item), protector, env, pvno=3) for item in keep]
        requests.append(protect("rr", der.seq(details[2]), protector, env, info=keep[:1], pvno=3))
        requests.append(protect("genm", der.seq(*asked_for(world)), protector, env))
        requests.append(protect("genm", der.seq(), protector, env))
    return Corpus([(request.der, request.protector) for request in requests], keys, [])


def asked_for(world: World) -> list[bytes]:
    """What a genm can ask for, and something that nobody knows."""
    name = der.explicit(0, der.explicit(0, der.explicit(4, world.ca.name)))  # dpn, fullName, directoryName
    newer = der.seq(name, der.encode_time(1_600_000_000))
    uri = der.explicit(1, der.seq(der.tlv(0x86, b"http://ca.example/ca.crl")))
    return [
        der.seq(der.encode_oid("1.3.6.1.5.5.7.4.1")),
        der.seq(der.encode_oid("1.3.6.1.5.5.7.4.6")),
        der.seq(der.encode_oid("1.3.6.1.5.5.7.4.22"), der.seq(newer, der.seq(uri))),
        der.seq(der.encode_oid("1.2.3.4"), der.seq(der.NULL_TLV)),
    ]


SUBJECT = "/O=Test/CN=device"
REV_PASSPHRASE = der.encode_oid("1.3.6.1.5.5.7.4.12")


def proofs(request: Request) -> list[bytes]:
    """What proves possession in a request: CertRequest and popo, popo alone with poposkInput, or the whole PKCS #10."""
    body = _values(_values(request.der)[1])[0]
    if request.body == "p10cr":
        return [body]
    if request.body not in ("ir", "cr", "kur"):
        return []
    pairs = [_values(message) for message in _values(body)]
    return [popo if _values(popo)[0][0] == 0xA0 else request + popo for request, popo in pairs]


def _values(data: bytes) -> list[bytes]:
    start, stop = der.header(data, 0, len(data))[1:]
    return [data[pos:after] for _, pos, _, after in der.children(data, start, stop)]
