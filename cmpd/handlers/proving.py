"""Proof-of-possession by what only the holder of a key can decrypt (RFC 9810 sections 5.2.8.3.2 and 5.2.8.3.3).

encrCert: the certificate is sent encrypted, and certConf with the right certHash is the proof. challengeResp: popdecc
asks for an integer that is sent encrypted, popdecr has it (challenge.py), and the certificate is made after that. With
pvno 3 it all goes into EnvelopedData, with pvno 2 into EncryptedValue, or under the RSA key itself.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cmpd.asn1 import der
from cmpd.asn1.names import COMMON_NAME, DIRECTORY_NAME, NULL_DN, read_name
from cmpd.cms import EncryptionPublicKey, RecipientId, encrypted_value_for_key, envelope_for_key
from cmpd.errors import BadPop
from cmpd.handlers.base import Context
from cmpd.keeping import seal_request
from cmpd.message import HIGHEST_PVNO
from cmpd.pop import Proof
from cmpd.profiles import load_public_key
from cmpd.profiles.extensions import key_identifier
from cmpd.records import OpenChallenge
from cmpd.replies import Challenge, challenge_body
from cmpd.requests import CertRequest

_INTEGER: Final = 24  # octets: as hard to guess as the keys are to break
_PKCS1_PADDING: Final = 11  # octets, at least


def encrypt_certificate(context: Context, certificate: bytes, public_key: bytes) -> bytes:
    """DER of the EncryptedKey that has a certificate for the holder of its key.

    The recipient is named by the key's identifier: issuerAndSerialNumber would tell what is in the certificate.
    """
    key, env = load_public_key(public_key), context.service.env
    if context.request.envelope.header.pvno < HIGHEST_PVNO:  # pop.py lets nothing but RSA through
        return encrypted_value_for_key(certificate, cast(rsa.RSAPublicKey, key), env)
    recipient = RecipientId(key_identifier=key_identifier(public_key))
    return envelope_for_key(certificate, cast(EncryptionPublicKey, key), recipient, env)


def make_challenges(context: Context, wanted: Mapping[int, bytes]) -> tuple[bytes, OpenChallenge]:
    """The body of popdecc, and what is kept of it; `wanted`: DER of the SubjectPublicKeyInfo by certReqId."""
    envelope, enrolment, env = context.request.envelope, context.service.enrolment, context.service.env
    challenges, expected = [], []
    for cert_req_id, public_key in wanted.items():
        integer = der.encode_integer(int.from_bytes(env.random(_INTEGER), "big"))
        witness = sha256(integer).digest()
        key = load_public_key(public_key)
        if envelope.header.pvno < HIGHEST_PVNO:
            encrypted = _encrypt_rand(cast(rsa.RSAPublicKey, key), integer, context.request.protector.sender)
            challenges.append(Challenge(witness, encrypted, raw=True))
        else:
            rand = der.seq(integer, context.request.protector.sender)
            recipient = RecipientId(issuer=NULL_DN, serial=der.encode_integer(cert_req_id)[2:])
            enveloped = envelope_for_key(rand, cast(EncryptionPublicKey, key), recipient, env)
            inner = der.header(enveloped, 0, len(enveloped))[1]
            challenges.append(Challenge(witness, der.tlv(der.SEQUENCE, enveloped[inner:])))
        expected.append((cert_req_id, witness))
    expires_at = int(env.now()) + enrolment.confirm_wait
    request = seal_request(context.service.sealer, context.transaction_id, envelope.der)
    return challenge_body(challenges), OpenChallenge(context.transaction_id, tuple(expected), expires_at, request)


def _encrypt_rand(key: rsa.RSAPublicKey, integer: bytes, sender: bytes) -> bytes:
    """Rand under PKCS #1 v1.5, with as much of the sender's name as there is room for."""
    room = key.key_size // 8 - _PKCS1_PADDING
    for name in (sender, _common_name(sender)):
        rand = der.seq(integer, name)
        if len(rand) <= room:
            return key.encrypt(rand, padding.PKCS1v15())
    raise BadPop(f"popo: want a key that encrypts {len(rand)} octets for challengeResp with pvno 2, have {room}")


def _common_name(sender: bytes) -> bytes:
    """A GeneralName with the commonName alone of a directoryName."""
    if sender[0] != DIRECTORY_NAME:
        return sender
    pos = der.header(sender, 0, len(sender))[1]
    start, stop = der.expect(sender, pos, len(sender), der.SEQUENCE, "Name")
    names = [sender[first:after] for _, first, _, after in der.children(sender, start, stop)]
    return der.explicit(4, der.seq(*(name for name in names if read_name(der.seq(name))[0][0][0] == COMMON_NAME)))


def check_answer(context: Context, request: CertRequest, proof: Proof) -> None:
    """BadPop if popdecr came for this request, and had another integer than was sent."""
    if proof is not Proof.CHALLENGE or context.proven is None:
        return
    if not context.proven.get(request.cert_req_id, False):
        raise BadPop("popdecr: want the integer that was encrypted in popdecc, have another")
