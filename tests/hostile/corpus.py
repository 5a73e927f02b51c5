"""Valid messages to be spoilt: one of each body and kind of protection, in transactions of their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import Credential, KeyAndCertificate
from cmpd.client.keys import public_key_info
from cmpd.client.messages import (
    Request,
    Template,
    cert_request,
    cert_status,
    certification_request,
    error_content,
    p10_request,
    protect,
    subject_alt_name,
)
from tests.world import World

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
    return requests, keys


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
