"""Answers as an implementation that nobody here wrote decodes them, with their protection verified by code of its own.

Nothing of the server's decoding is used: pyasn1-alt-modules gives the fields and names the bits of failInfo, and what
the protection is over is encoded anew from them.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type import univ
from pyasn1_alt_modules import rfc4210, rfc9810

BITS = {number: name for name, number in rfc9810.PKIFailureInfo.namedValues.items()}
PASSWORD_BASED_MAC = "1.2.840.113533.7.66.13"
ECDSA_WITH_SHA256 = "1.2.840.10045.4.3.2"


class ProtectedPart(univ.Sequence):
    """RFC 9810 section 5.1.3."""

    componentType = rfc4210.ProtectedPart.componentType


@dataclass(frozen=True)
class Verdict:
    """What an answer says. `failure`: the name of its one bit, "" without failInfo; `ids`: certReqId of each response.

    `kind`: "mac", "signature" or "none".
    """

    body: str
    status: int
    failure: str
    text: str
    kind: str
    header: dict[str, bytes | None]
    pvno: int
    responses: int
    ids: tuple[int, ...]
    certificates: int


def judge(octets: bytes, secret: bytes, certificate: bytes) -> Verdict:
    """Decode an answer and verify its protection by the shared secret, or by the server's certificate (DER)."""
    message, rest = decode(octets, asn1Spec=rfc9810.PKIMessage())
    assert rest == b""
    assert bytes(encode(message)) == octets
    body, header = message["body"], message["header"]
    name = str(body.getName())
    infos, ids, certificates = _infos(name, body.getComponent())
    status, failure, text = _read(infos[0]) if infos else (0, "", "")
    names = ("transactionID", "senderNonce", "recipNonce", "senderKID")
    fields: dict[str, bytes | None] = {each: bytes(header[each]) if header[each].isValue else None for each in names}
    fields["recipient"] = bytes(encode(header["recipient"]))
    kind = _verify(message, secret, certificate)
    return Verdict(name, status, failure, text, kind, fields, int(header["pvno"]), len(infos), tuple(ids), certificates)


def _infos(name: str, content: Any) -> tuple[list[Any], list[int], int]:
    """The PKIStatusInfos, the certReqIds and the number of certificates in a body."""
    if name == "error":
        return [content["pKIStatusInfo"]], [], 0
    if name == "rp":
        return list(content["status"]), [], 0
    if name in ("ip", "cp", "kup"):
        responses = list(content["response"])
        pairs = sum(response["certifiedKeyPair"].isValue for response in responses)
        return [response["status"] for response in responses], [int(one["certReqId"]) for one in responses], pairs
    return [], [], 0


def _read(info: Any) -> tuple[int, str, str]:
    bits = [i for i, bit in enumerate(info["failInfo"]) if bit] if info["failInfo"].isValue else []
    assert len(bits) <= 1
    text = "\n".join(map(str, info["statusString"])) if info["statusString"].isValue else ""
    return int(info["status"]), "".join(BITS[bit] for bit in bits), text


def _verify(message: Any, secret: bytes, certificate: bytes) -> str:
    header = message["header"]
    if not message["protection"].isValue:
        assert not header["protectionAlg"].isValue
        return "none"
    parts = bytes(encode(header)) + bytes(encode(message["body"]))
    size = len(parts)
    length = bytes((size,)) if size < 0x80 else bytes((0x82, *size.to_bytes(2, "big")))
    if 0x80 <= size < 0x100:
        length = bytes((0x81, size))
    octets, value = b"\x30" + length + parts, message["protection"].asOctets()
    algorithm = header["protectionAlg"]
    oid = str(algorithm["algorithm"])
    if oid == ECDSA_WITH_SHA256:
        assert bytes(encode(message["extraCerts"][0])) == certificate
        key = x509.load_der_x509_certificate(certificate).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(value, octets, ec.ECDSA(hashes.SHA256()))
        return "signature"
    assert oid == PASSWORD_BASED_MAC
    parameter, rest = decode(bytes(algorithm["parameters"]), asn1Spec=rfc4210.PBMParameter())
    assert rest == b""
    key_octets = secret + bytes(parameter["salt"])
    for _ in range(int(parameter["iterationCount"])):
        key_octets = hashlib.sha256(key_octets).digest()
    assert hmac.compare_digest(hmac.digest(key_octets, octets, "sha256"), value)
    return "mac"
