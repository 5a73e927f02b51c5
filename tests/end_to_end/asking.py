"""A client in single steps: requests as octets, sent over raw TCP as often as a test wants, answers verified.

And what everybody asks by HTTP: CRLs and OCSP.
"""

import asyncio
import socket
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client import ocsp
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.connection import Connection, ConnectionLimits
from cmpd.client.credentials import Credential, KeyAndCertificate
from cmpd.client.keys import PrivateKey
from cmpd.client.messages import Request, Template, cert_request, cert_status, protect
from cmpd.client.responses import Trust, read_cert_rep, verify
from cmpd.client.revocation import RevDetails, read_rev_rep, rev_request
from cmpd.env import Env
from cmpd.message import decode
from cmpd.wire import tcpmsg

ENV = Env()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def trust_in(anchor: Path) -> Trust:
    return Trust(tuple(load_certificates(anchor)))


def ask(port: int, *requests: bytes) -> bytes:
    """The answer to a request that is sent again and again; all answers must be the same."""
    [answer] = set(ask_each(port, requests))
    return answer


def ask_each(port: int, requests: Sequence[bytes]) -> list[bytes]:
    """The answers to requests that are sent one after the other on one connection."""

    async def talk() -> list[bytes | None]:
        async with Connection("127.0.0.1", port, limits=ConnectionLimits(retries=0)) as connection:
            return [await connection.request(request) for request in requests]

    answers = [answer for answer in asyncio.run(talk()) if answer is not None]
    assert len(answers) == len(requests)
    return answers


def until_the_end(sock: socket.socket) -> bytes:
    """Every octet that comes until the server ends the connection."""
    received = bytearray()
    try:
        while octets := sock.recv(65536):
            received += octets
    except ConnectionResetError:
        pass
    return bytes(received)


def send_until_the_end(port: int, *requests: bytes) -> bytes:
    """Send requests and read until the server is gone: every octet that has left it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"".join(map(tcpmsg.pki_req, requests)))
        return until_the_end(sock)


def frames_in(octets: bytes) -> list[tcpmsg.Frame]:
    """The whole tcp-messages among octets received."""
    decoder = tcpmsg.Decoder(1 << 20)
    decoder.feed(octets)
    frames = []
    while (frame := decoder.next()) is not None:
        assert isinstance(frame, tcpmsg.Frame)
        frames.append(frame)
    return frames


def answers_in(octets: bytes) -> list[bytes]:
    """The whole PKIMessages among octets received."""
    replies = [tcpmsg.reply(frame) for frame in frames_in(octets)]
    answers = [reply.der for reply in replies if isinstance(reply, tcpmsg.PkiRep)]
    assert len(answers) == len(replies)
    return answers


def ir(credential: Credential, subject: str = "/CN=device", *, implicit: bool = True) -> tuple[Request, PrivateKey]:
    """An ir for a new key."""
    key = new_key()
    return cert_request("ir", [Template(key, encode_name(subject))], credential, ENV, implicit_confirm=implicit), key


def certificates_in(answer: bytes, request: Request, credential: Credential, trust: Trust) -> dict[int, Certificate]:
    """The certificates of a verified ip, cp or kup by certReqId; each request must have been granted."""
    responses = read_cert_rep(verify(answer, request, credential, trust, ENV)).responses
    granted = {one.cert_req_id: one.certificate for one in responses if one.certificate is not None}
    assert len(granted) == len(responses)
    return granted


def confirmation(
    request: Request,
    answer: bytes,
    issued: dict[int, Certificate],
    reject: str | None = None,
    *,
    info: Sequence[bytes] = (),
) -> Request:
    """The certConf to an answer, with the same decision on all its certificates. `info`: items of generalInfo."""
    statuses = [cert_status(certificate, cert_req_id, reject) for cert_req_id, certificate in issued.items()]
    return protect(
        "certConf",
        der.seq(*statuses),
        request.protector,
        ENV,
        transaction_id=request.transaction_id,
        recip_nonce=decode(answer).header.sender_nonce,
        info=info,
        pvno=3 if info else 2,
    )


def enrol(port: int, credential: Credential, trust: Trust, subject: str = "/CN=device") -> KeyAndCertificate:
    """Get a certificate by ir with implicit confirmation."""
    request, key = ir(credential, subject)
    issued = certificates_in(ask(port, request.der), request, credential, trust)
    return KeyAndCertificate(key, issued[0])


def enrol_many(port: int, credential: Credential, trust: Trust, count: int) -> list[KeyAndCertificate]:
    """Get so many certificates over one connection."""
    asked = [ir(credential) for _ in range(count)]
    answers = ask_each(port, [request.der for request, _ in asked])
    return [
        KeyAndCertificate(key, certificates_in(answer, request, credential, trust)[0])
        for answer, (request, key) in zip(answers, asked, strict=True)
    ]


def accepted(
    answer: bytes, request: Request, details: Sequence[RevDetails], credential: Credential, trust: Trust
) -> list[bool]:
    """Which changes of an rr were made, by its verified rp."""
    results = read_rev_rep(verify(answer, request, credential, trust, ENV), details)
    return [one.accepted for one in results]


def change(port: int, details: Sequence[RevDetails], credential: Credential, trust: Trust) -> None:
    """Make these changes by rr; all must be accepted."""
    request = rev_request(details, credential, ENV)
    assert all(accepted(ask(port, request.der), request, details, credential, trust))


# --- what is published ------------------------------------------------------------------------------------------------


def fetch(url: str) -> bytes:
    """What is at a URL, with status 200."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        octets: bytes = answer.read()
        return octets


def ocsp_status(publish: str, certificate: Certificate, trust: Trust, *, get: bool = False) -> ocsp.Status:
    """What the responder below this URL says of a certificate; verified."""
    asked = ocsp.question(trust.anchors[0], certificate.serial, ENV, nonce=not get)
    return ocsp.read_answer(ocsp.fetch(f"{publish}/ocsp", asked.der, get=get, timeout=20), asked, ENV)


def ocsp_answer(publish: str, certificate: Certificate, trust: Trust) -> bytes:
    """The OCSPResponse itself, which has the responder's certificate in it."""
    asked = ocsp.question(trust.anchors[0], certificate.serial, ENV)
    return ocsp.fetch(f"{publish}/ocsp", asked.der, timeout=20)
