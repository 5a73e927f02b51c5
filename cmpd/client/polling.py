"""CMP's own polling, pollReq and pollRep (RFC 9810 section 5.3.22, RFC 9483 section 4.4); and requests of before.

A server that cannot answer yet says so by the status waiting, in an ip, cp or kup or in an error. It is then asked by
pollReq, in the same transaction and with the same protection, until it has the answer to the request that waits.

A requester that left while its request waited goes on by sending the same octets again: `read_request` makes of them
what the answer is held against.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from cmpd.asn1 import der
from cmpd.client import messages
from cmpd.client.credentials import Credential, Protector, SharedSecret, mac_protector
from cmpd.client.errors import ClientError
from cmpd.client.messages import P10CR_ID, Request
from cmpd.client.responses import Answer, believing, printable
from cmpd.env import Env
from cmpd.errors import CmpError
from cmpd.message import Envelope, decode
from cmpd.protection import mac_scheme
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.kembm import ID_IT_KEM_CIPHERTEXT_INFO

WHOLE_MESSAGE: Final = -1
"""certReqId of a pollReq for an answer as a whole: after an error with the status waiting."""

BODIES: Final = frozenset({"ir", "cr", "kur", "p10cr"})
"""The requests that `read_request` takes."""

_MAX_SECONDS: Final = 2**31
_OWN_ITERATIONS: Final = 10_000_000  # what this client may have chosen itself


def poll_request(original: Request, last: Answer, cert_req_ids: Collection[int], env: Env) -> Request:
    """A pollReq about the request `original`, after the answer `last`."""
    header = last.envelope.header
    return messages.protect(
        "pollReq",
        der.seq(*(der.seq(der.encode_integer(number)) for number in cert_req_ids)),
        original.protector,
        env,
        recipient=header.sender,
        transaction_id=original.transaction_id,
        recip_nonce=header.sender_nonce,
        pvno=header.pvno,
    )


def read_poll_rep(answer: Answer) -> tuple[int, str]:
    """The shortest checkAfter of a pollRep in seconds, and the reasons given; VerificationError if it is none."""
    body = answer.envelope.body
    seconds, reasons = [], []
    with believing():
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "PollRepContent")
        for tag, _, inner, end in der.children(body, start, stop, 100):
            if tag != der.SEQUENCE:
                raise der.DerError(f"PollRepContent: want SEQUENCE, have tag {tag:02X}")
            fields = der.children(body, inner, end, 3)
            tags = [field[0] for field in fields]
            if tags not in ([der.INTEGER, der.INTEGER], [der.INTEGER, der.INTEGER, der.SEQUENCE]):
                raise der.DerError("PollRepContent: want certReqId, checkAfter and reason")
            seconds.append(der.integer(body, fields[1][2], fields[1][3], "checkAfter"))
            if len(fields) == 3:
                texts = der.children(body, fields[2][2], fields[2][3], 100)
                reasons += [printable(body[first:last]) for _, _, first, last in texts]
        if not seconds:
            raise der.DerError("PollRepContent: empty")
    return min(max(0, min(seconds)), _MAX_SECONDS), "; ".join(dict.fromkeys(reasons))


# --- a request of before ---------------------------------------------------------------------------------------------


def read_request(octets: bytes, credential: Credential, env: Env) -> tuple[Request, dict[int, bytes]]:
    """A request for certificates that was sent before: with the DER of the SubjectPublicKeyInfo by certReqId.

    The key of a MAC is derived anew. ClientError if it is no such request, or was not made with this credential.
    """
    try:
        envelope = decode(octets)
        transaction_id, nonce = envelope.header.transaction_id, envelope.header.sender_nonce
        if envelope.body_name not in BODIES or transaction_id is None or nonce is None:
            raise ClientError(f"want {', '.join(sorted(BODIES))} with transactionID and senderNonce")
        if envelope.header.info(ID_IT_KEM_CIPHERTEXT_INFO) is not None:
            raise ClientError("its answers are under a secret of a KEM that is known no more")
        protector = _protector(envelope, credential, env)
        request = Request(envelope.body_name, octets, transaction_id, nonce, protector)
        return request, _public_keys(envelope)
    except CmpError as error:
        raise ClientError(error.text) from None
    except der.DerError as error:
        raise ClientError(str(error)) from None


def _protector(envelope: Envelope, credential: Credential, env: Env) -> Protector:
    algorithm = envelope.header.protection_alg or b""
    scheme = mac_scheme(algorithm) if algorithm else None
    if isinstance(credential, SharedSecret):
        if scheme is None or envelope.header.sender_kid != credential.reference.encode():
            raise ClientError(f"it was not protected with the shared secret of {credential.reference}")
        mac = scheme.parse(algorithm, ProtectionPolicy(max_iterations=_OWN_ITERATIONS))
        key = mac.derive(credential.secret)
        if mac.compute(key, envelope.protected) != envelope.protection:
            raise ClientError("it was protected with another shared secret")
        return mac_protector(mac, key, credential.sender, envelope.header.sender_kid, env)
    made = credential.protector(env)
    if (made.algorithm, made.sender) != (algorithm, envelope.header.sender):
        raise ClientError("it was protected with another certificate, or in another way")
    return replace(made, sender_kid=envelope.header.sender_kid)


def _public_keys(envelope: Envelope) -> dict[int, bytes]:
    body = envelope.body
    if envelope.body_name == "p10cr":
        return {P10CR_ID: messages.public_key_of(body)}
    found = {}
    start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "CertReqMessages")
    for tag, _, inner, end in der.children(body, start, stop, 100):
        if tag != der.SEQUENCE:
            raise der.DerError(f"CertReqMsg: want tag 30, have {tag:02X}")
        first, last = der.expect(body, inner, end, der.SEQUENCE, "CertRequest")
        fields = der.children(body, first, last, 3)
        if len(fields) < 2 or [field[0] for field in fields[:2]] != [der.INTEGER, der.SEQUENCE]:
            raise der.DerError("CertRequest: want certReqId and certTemplate")
        number = der.integer(body, fields[0][2], fields[0][3], "certReqId")
        keys = [one for one in der.children(body, fields[1][2], fields[1][3], 10) if one[0] == 0xA6]
        if len(keys) != 1:
            raise der.DerError("CertTemplate.publicKey: missing")
        found[number] = der.seq(body[keys[0][2] : keys[0][3]])
    if not found:
        raise der.DerError("CertReqMessages: empty")
    return found
