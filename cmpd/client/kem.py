"""KEM-based protection on the side of the client (RFC 9810 section 5.1.3.4 and appendix E): before each transaction.

Who protects with a KEM key asks the server for a ciphertext first (figure 3). Where the server's answers are protected
with a KEM key, the first message brings a ciphertext for that (figure 4); who does not know its certificate is told it
by the refusal of his first message (figure 5). Each ciphertext is for one transaction, so its ID is chosen here.
"""

import asyncio
from dataclasses import dataclass, replace

from cmpd.asn1 import der
from cmpd.asn1.algorithms import identifier
from cmpd.client import messages, responses
from cmpd.client.base import Exchange
from cmpd.client.certificates import Certificate, build_path
from cmpd.client.credentials import Credential, KemKey, Protector, Protects, ServerSecret
from cmpd.client.errors import ClientError, KemCiphertextWanted, VerificationError
from cmpd.client.responses import Trust
from cmpd.cms.kem import kem_algorithm
from cmpd.env import Env
from cmpd.errors import BadAlg
from cmpd.protection import kembm

_TYPE = der.tlv(der.OID, kembm.ID_IT_KEM_CIPHERTEXT_INFO)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What protects one transaction, made beforehand."""

    made: Protector

    def protector(self, env: Env) -> Protector:
        """That."""
        del env
        return self.made


async def prepare(credential: Credential, server: Certificate | None, exchange: Exchange, env: Env) -> Protects:
    """What protects the next transaction; the credential itself if no KEM is in use.

    `server`: the KEM certificate that a ciphertext is sent for, None = none. ClientError of whatever kind.
    """
    if isinstance(credential, KemKey):
        made = await _ask_for_ciphertext(credential, exchange, env)
    elif server is None:
        return credential
    else:
        made = replace(await asyncio.to_thread(credential.protector, env), transaction_id=env.random(16))
    if server is not None:
        item, secret = encapsulate(server)
        made = replace(made, info=(item,), server=secret)
    return Prepared(made)


async def _ask_for_ciphertext(credential: KemKey, exchange: Exchange, env: Env) -> Protector:
    """Figure 3, steps 1 to 8. Nobody vouches for the ciphertext: a wrong one makes a MAC that the server refuses."""
    request = messages.protect("genm", der.seq(der.seq(_TYPE)), credential.asking(), env)
    octets = await exchange.request(request.der)
    if octets is None:
        raise VerificationError("the server has no CMP answer to genm; want one")
    body = responses.read_unprotected(octets, request).body
    with responses.believing():
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "GenRepContent")
        first, last = der.expect(body, start, stop, der.SEQUENCE, "InfoTypeAndValue")
        if last != stop or not body.startswith(_TYPE, first):
            raise VerificationError("answer: want KemCiphertextInfo in genp, have something else")
        algorithm, ciphertext = kembm.read_kem_ciphertext(body[first + len(_TYPE) : last])
        if algorithm != identifier(kem_algorithm(credential.key.public_key())):
            raise VerificationError("KemCiphertextInfo.kem: want the algorithm of the key, have another")
    return await asyncio.to_thread(credential.protector_for, ciphertext, request.transaction_id, env)


def encapsulate(server: Certificate) -> tuple[bytes, ServerSecret]:
    """The item of generalInfo (DER) with a fresh ciphertext for a KEM certificate, and its secret. ClientError."""
    try:
        algorithm, ciphertext, secret = kembm.encapsulate(server.parsed.public_key())
    except BadAlg as error:
        raise ClientError(f"{server.subject_text}: {error.text}") from None
    return der.seq(_TYPE, kembm.encode_kem_ciphertext(algorithm, ciphertext)), ServerSecret(secret, server)


def server_certificate(wanted: KemCiphertextWanted, trust: Trust, env: Env) -> Certificate:
    """The KEM certificate that came with a refusal, if it leads to a trust anchor and may speak for the CA.

    VerificationError otherwise: anybody may have sent it, and whoever has a certificate of the CA has one that leads
    there.
    """
    first, *others = wanted.certificates
    found = Certificate.load(first)
    if not found.extended_key_usage & {responses.CMC_CA, responses.CMC_RA}:
        raise VerificationError(f"{found.subject_text} may not speak for a CA: want extendedKeyUsage cmcCA or cmcRA")
    if not found.may("key_encipherment"):
        raise VerificationError(f"{found.subject_text}: want keyUsage keyEncipherment for a KEM, have others")
    build_path(found, responses.readable(others), trust.anchors, env.now(), signs=False)
    return found
