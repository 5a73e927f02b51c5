"""Four thousand spoilt OCSP requests: each has an answer that others can read, and nothing is logged as a fault.

The seed is fixed: the same requests each time. They come from this project, from cryptography and from openssl's form.
"""

import random
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1_alt_modules import rfc6960

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.ocsp import MAX_CERTIFICATES, MAX_REQUEST_OCTETS, OcspAnswer
from cmpd.records import CertificateState
from tests.hostile.mutate import mutate
from tests.hostile.test_mutations import watching
from tests.ocsp import an_extension, cert_id, drive, lint, nonce_extension, request, responder, signer, status
from tests.profiles.support import NOW, authority

SPOILT = 4000
CA = authority("p256")
OTHER = authority("p384")
GOOD, HELD = b"\x40\x01", b"\x40\x02"
KNOWN = (
    status(GOOD, CertificateState.CONFIRMED),
    status(HELD, CertificateState.SUSPENDED, NOW - 60, "certificateHold"),
)
BUT = {"itu.invalid_asn1_syntax"}  # a nonce that is no OCTET STRING goes back as it came
UNSIGNED = {bytes((0x30, 3, 0x0A, 1, number)) for number in (1, 6)}  # malformedRequest, unauthorized


def signed_request() -> bytes:
    """With requestorName, and a signature with its certificate."""
    name = der.explicit(1, der.explicit(4, encode_name("/O=Test/CN=somebody")))
    signature = der.seq(
        der.seq(der.encode_oid("1.2.840.10045.4.3.2")),
        der.encode_bits(bytes(70)),
        der.explicit(0, der.seq(CA.certificate)),
    )
    return request(cert_id(CA, GOOD), before=name, behind=der.explicit(0, signature))


def of_cryptography() -> bytes:
    issuer = x509.load_der_x509_certificate(CA.certificate)
    builder = ocsp.OCSPRequestBuilder().add_certificate(issuer, issuer, hashes.SHA256())
    return builder.add_extension(x509.OCSPNonce(bytes(32)), False).build().public_bytes(Encoding.DER)


SOURCES = [
    request(cert_id(CA, GOOD)),
    request(cert_id(CA, HELD, "sha384"), extensions=[nonce_extension(b"0123456789abcdef")]),
    request(cert_id(CA, GOOD), cert_id(OTHER, GOOD), cert_id(CA, HELD, "sha256", params=b"")),
    request(cert_id(CA, GOOD), extensions=[an_extension("1.2.3.4", b"x"), nonce_extension(b"n", critical=True)]),
    signed_request(),
    of_cryptography(),
]
KEY = x509.load_der_x509_certificate(signer("p256").certificate).public_key()


def check(answer: OcspAnswer, asked: bytes) -> None:
    """A successful answer is signed and about as many certificates as were asked for; others are bare."""
    if not answer.successful:
        assert answer.der in UNSIGNED
        return
    outer, rest = decode_der(answer.der, asn1Spec=rfc6960.OCSPResponse())
    assert not rest
    octets = outer["responseBytes"]["response"].asOctets()
    basic, rest = decode_der(octets, asn1Spec=rfc6960.BasicOCSPResponse())
    assert not rest
    count = len(basic["tbsResponseData"]["responses"])
    assert 1 <= count <= MAX_CERTIFICATES
    pos, end = der.expect(octets, 0, len(octets), der.SEQUENCE, "BasicOCSPResponse")
    _, stop = der.expect(octets, pos, end, der.SEQUENCE, "ResponseData")
    assert isinstance(KEY, ec.EllipticCurvePublicKey)
    KEY.verify(basic["signature"].asOctets(), octets[pos:stop], ec.ECDSA(hashes.SHA256()))
    assert len(answer.der) < len(asked) + 50 * count + 1200


def test_every_source_is_answered_before_it_is_spoilt() -> None:
    for source in SOURCES:
        answer = drive(responder(*KNOWN).respond(source))
        assert answer.successful
        check(answer, source)


def test_a_spoilt_request_has_an_answer_and_leaves_no_trace() -> None:
    rng = random.Random("ocsp")
    here = responder(*KNOWN)
    answered = 0
    with watching() as watch:
        for number in range(SPOILT):
            asked = mutate(rng, rng.choice(SOURCES), rng.choice(SOURCES))
            answer = drive(here.respond(asked))
            check(answer, asked)
            answered += answer.successful
            if number % 100 == 0:
                assert lint(answer.der) <= BUT, asked.hex()
    assert watch.found == []
    assert SPOILT // 20 < answered < SPOILT  # they get behind the reader, and not all do


def test_the_largest_requests_take_milliseconds() -> None:
    """Whatever fills 64 KiB: the time of an answer stays that of some hundred ordinary ones."""
    here = responder(*KNOWN)
    room = MAX_REQUEST_OCTETS - 2000
    many = b"\x05\x00" * (room // 2)
    largest = [
        request(*[cert_id(CA, GOOD)] * 800),
        request(cert_id(CA, GOOD), before=der.explicit(1, der.tlv(0xA4, many))),
        request(cert_id(CA, GOOD), before=der.explicit(1, deep(30_000))),
        request(cert_id(CA, GOOD), extensions=[an_extension("1.2.3.4", bytes(room))]),
        request(cert_id(CA, GOOD), extensions=[an_extension(f"1.2.3.{i}", b"") for i in range(4000)]),
        request(cert_id(CA, GOOD), extensions=[an_extension("1.3.6.1.5.5.7.48.1.4", der.seq(many))]),
        request(der.seq(der.seq(der.encode_oid("1.2.3"), der.tlv(0x30, many)), b"\4\1a\4\1b\2\1\1"), cert_id(CA, GOOD)),
        b"\x30\x84\xff\xff\xff\xff" + bytes(room),
        bytes(MAX_REQUEST_OCTETS),
        b"\x30" * MAX_REQUEST_OCTETS,
    ]
    for asked in largest:
        before = time.process_time()
        answer = drive(here.respond(asked))
        assert time.process_time() - before < 0.1
        check(answer, asked)


def deep(levels: int) -> bytes:
    """Values in one another, as far as 64 KiB go."""
    value = b""
    while len(value) < levels:
        value = der.tlv(0x30, value)
    return value
