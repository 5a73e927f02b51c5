"""General messages: genm and genp (RFC 9810 section 5.3.19), and what a client has to say or ask by them.

A revocation passphrase authenticates a later rr of whoever has lost the key (RFC 9810 appendix B). It travels as
EnvelopedData: under the shared secret that protects the message too, or to the server's encryption certificate.
"""

from collections.abc import Sequence
from typing import Final

from cmpd.asn1 import der
from cmpd.client import messages, responses
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, Protects, SharedSecret
from cmpd.client.errors import ClientError, VerificationError
from cmpd.client.messages import Request
from cmpd.client.responses import Answer
from cmpd.cms import envelope_for_certificate, envelope_for_password
from cmpd.env import Env

_ID_IT: Final = "1.3.6.1.5.5.7.4"
CA_PROT_ENC_CERT: Final = f"{_ID_IT}.1"
REV_PASSPHRASE: Final = f"{_ID_IT}.12"
PASSPHRASE_OCTETS: Final = range(8, 1024)

_MAX_ITEMS: Final = 100
_KEY_ID_OCTETS: Final = range(1, 129)


def item(oid: str, value: bytes = b"") -> bytes:
    """An InfoTypeAndValue; `value`: DER of infoValue, b"" = absent."""
    return der.seq(der.encode_oid(oid), value)


def gen_message(items: Sequence[bytes], credential: Protects, env: Env, *, pvno: int = 2) -> Request:
    """A genm with these items."""
    return messages.protect("genm", der.seq(*items), credential.protector(env), env, pvno=pvno)


def read_gen_rep(answer: Answer) -> dict[str, bytes]:
    """The infoValues of a genp (DER, b"" = absent) by dotted infoType; VerificationError if it is none."""
    body = answer.envelope.body
    found: dict[str, bytes] = {}
    with responses.believing():
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "GenRepContent")
        for tag, _, inner, end in der.children(body, start, stop, _MAX_ITEMS):
            if tag != der.SEQUENCE:
                raise der.DerError(f"GenRepContent: want InfoTypeAndValue, have tag {tag:02X}")
            first, last = der.expect(body, inner, end, der.OID, "infoType")
            found[der.dotted(body[first:last])] = body[last:end]
    return found


def rev_passphrase(
    passphrase: bytes, key_id: bytes | None, recipient: Certificate | None, credential: Credential, env: Env
) -> bytes:
    """The revPassphrase item: for `recipient`, or with None under the credential's shared secret.

    `key_id`: what senderKID of the later rr will be (localKeyId); None: what it is in this message.
    """
    if len(passphrase) not in PASSPHRASE_OCTETS:
        raise ClientError(f"passphrase: want 8 to 1023 octets, have {len(passphrase)}")
    if key_id is not None and len(key_id) not in _KEY_ID_OCTETS:
        raise ClientError(f"key identifier: want 1 to 128 octets, have {len(key_id)}")
    if recipient is not None:
        try:
            return item(REV_PASSPHRASE, envelope_for_certificate(passphrase, recipient.der, key_id, env))
        except ValueError as error:
            raise ClientError(str(error)) from None
    if not isinstance(credential, SharedSecret):
        raise ClientError("passphrase: want an encryption certificate, or a shared secret")
    return item(REV_PASSPHRASE, envelope_for_password(passphrase, credential.secret, key_id, env))


def check_taken(answer: Answer) -> None:
    """VerificationError unless the genp says that the passphrase was taken: revPassphrase without a value."""
    if read_gen_rep(answer).get(REV_PASSPHRASE) != b"":
        raise VerificationError("answer: want revPassphrase without a value: the server has not taken the passphrase")
