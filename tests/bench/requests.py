"""Requests made beforehand: ir with implicit confirmation, P-256, protected by a signature or by PBM.

The CertReqMsg with its proof-of-possession comes from a small pool; header and protection are new for each request, so
that each is a transaction of its own.
"""

import os
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.asn1.signing import signature_algorithm
from cmpd.message import BODY_TYPES, NULL_DN, ReplyHeader, encode_message, encode_protected_part
from cmpd.protection.pbm import build

POOL = 32
_ECDSA = ec.ECDSA(hashes.SHA256())


def cert_req_messages(subject: str) -> bytes:
    """The body of an ir for a new P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    template = der.seq(der.explicit(5, encode_name(subject)), b"\xa6" + info[1:])
    request = der.seq(der.encode_integer(0), template)
    pop = signature_algorithm(key).identifier + der.encode_bits(key.sign(request, _ECDSA))
    return der.seq(der.seq(request, der.tlv(0xA1, pop)))


def frame(message: bytes) -> bytes:
    """A version-10 pkiReq."""
    return (len(message) + 3).to_bytes(4, "big") + b"\x0a\x00\x00" + message


def _part(body: bytes, sender: bytes, algorithm: bytes, kid: bytes | None) -> bytes:
    header = ReplyHeader(2, NULL_DN, time.time(), os.urandom(16), os.urandom(16), None, implicit_confirm=True)
    return encode_protected_part(header, BODY_TYPES["ir"], body, sender=sender, algorithm=algorithm, sender_kid=kid)


@dataclass
class Signed:
    """Makes requests that are signed by the holder of a certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    subject: str
    kid: bytes

    def make(self, count: int) -> bytes:
        """`count` frames, one after the other."""
        pool = [cert_req_messages(self.subject) for _ in range(POOL)]
        sender = der.explicit(4, encode_name(self.subject))
        algorithm = signature_algorithm(self.key).identifier
        frames = []
        for number in range(count):
            part = _part(pool[number % POOL], sender, algorithm, self.kid)
            signature = self.key.sign(der.tlv(der.SEQUENCE, part), _ECDSA)
            frames.append(frame(encode_message(part, signature, (self.certificate,))))
        return b"".join(frames)


@dataclass
class Macced:
    """Makes requests that are protected by PBM with a shared secret."""

    reference: str
    secret: bytes
    iterations: int

    def make(self, count: int) -> bytes:
        """`count` frames, one after the other."""
        pool = [cert_req_messages(f"CN=device {number}") for number in range(POOL)]
        sender = der.explicit(4, encode_name(f"CN={self.reference}"))
        mac = build(os.urandom(16), self.iterations)
        key = mac.derive(self.secret)
        frames = []
        for number in range(count):
            part = _part(pool[number % POOL], sender, mac.algorithm, self.reference.encode())
            protection = mac.compute(key, der.tlv(der.SEQUENCE, part))
            frames.append(frame(encode_message(part, protection, ())))
        return b"".join(frames)
