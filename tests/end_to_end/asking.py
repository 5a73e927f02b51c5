"""A client in single steps: requests as octets, sent over raw TCP as often as a test wants, answers verified."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.connection import Connection, ConnectionLimits
from cmpd.client.credentials import Credential, KeyAndCertificate
from cmpd.client.keys import PrivateKey
from cmpd.client.messages import Request, Template, cert_request, cert_status, protect
from cmpd.client.responses import Trust, read_cert_rep, verify
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


def confirmation(request: Request, answer: bytes, issued: dict[int, Certificate], reject: str | None = None) -> Request:
    """The certConf to an answer, with the same decision on all its certificates."""
    statuses = [cert_status(certificate, cert_req_id, reject) for cert_req_id, certificate in issued.items()]
    return protect(
        "certConf",
        der.seq(*statuses),
        request.protector,
        ENV,
        transaction_id=request.transaction_id,
        recip_nonce=decode(answer).header.sender_nonce,
    )


def enrol(port: int, credential: Credential, trust: Trust, subject: str = "/CN=device") -> KeyAndCertificate:
    """Get a certificate by ir with implicit confirmation."""
    request, key = ir(credential, subject)
    issued = certificates_in(ask(port, request.der), request, credential, trust)
    return KeyAndCertificate(key, issued[0])
