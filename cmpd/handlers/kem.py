"""KEM-based protection on the side of the server: the three flows of RFC 9810 appendix E.

1. The client has a KEM key (figure 3). It asks for a ciphertext by an unprotected genm with its certificate, which is
   judged like any protection certificate; the genp is unprotected too, and nothing is written. Its request under
   KemBasedMac is verified with the secret (protection/agreed.py).
2. The client knows the KEM certificate of this server (figure 4): a KemCiphertextInfo in the generalInfo of a verified
   request has this answer, and all further ones of the transaction, protected by KemBasedMac.
3. It does not know it, and this server is to sign nothing (figure 5): an unprotected error brings the certificate.

The secrets of a transaction are sealed in its record (kem_secrets.py); nothing is looked up for messages without KEM.
"""

import logging
from dataclasses import replace
from typing import Final

from cmpd import audit
from cmpd.asn1 import der
from cmpd.asn1.cmp import ErrorMsgContent
from cmpd.asn1.strict import load_strict
from cmpd.errors import BadDataFormat, BadMessageCheck, CmpError, TransactionIdInUse, WrongIntegrity
from cmpd.handlers import ANNOUNCEMENTS
from cmpd.handlers.base import Service
from cmpd.handlers.kem_secrets import LIFETIME, SLOW_LIFETIME, Ciphertexts, open_secrets
from cmpd.message import BODY_TYPES, Envelope, ReplyHeader
from cmpd.origin import Origin
from cmpd.protection import kembm
from cmpd.protection.agreed import certificate_protector
from cmpd.protection.answers import pkiconf_message, protect
from cmpd.protection.base import (
    Credentials,
    EncapsulatedSecret,
    KemSecrets,
    KeyMaterial,
    Protector,
    VerifiedRequest,
)
from cmpd.protection.candidates import find_sender, read_identity
from cmpd.protection.kembm import ID_IT_KEM_CIPHERTEXT_INFO
from cmpd.records import TransactionRecord
from cmpd.transaction import CONTINUES, ID_IN_USE, check_header, time_fault

_log = logging.getLogger("cmpd.responder")

_TYPE: Final = der.tlv(der.OID, ID_IT_KEM_CIPHERTEXT_INFO)

ASKS: Final = der.seq(der.seq(_TYPE))
"""The GenMsgContent that asks for a ciphertext: the one infoType without infoValue."""


class KemProtection:
    """What a responder does about KEM-based protection, and about messages that have no protection at all."""

    def __init__(self, service: Service, credentials: Credentials, signer: Protector, window: int | None) -> None:
        """`window`: as Settings.message_time_window."""
        self._service = service
        self._credentials = credentials
        self._signer = signer
        self._window = window
        self._ciphertexts = Ciphertexts(service.env.now)
        self.keys = KeyMaterial(service.agreement, signer.extra_certs[1:], self._find, service.env.random)

    async def _find(self, transaction_id: bytes) -> EncapsulatedSecret | None:
        """What KemBasedMac in this transaction is verified with."""
        waiting = self._ciphertexts.find(transaction_id)
        if waiting is not None:
            return waiting.secret
        record = await self._service.store.find_transaction(transaction_id)
        secret = open_secrets(self._service.sealer, record).sender
        if record is None or secret is None or record.sender_certificate is None:
            return None
        return EncapsulatedSecret(secret, record.sender_certificate)

    # --- messages without protection ----------------------------------------------------------------------------------

    async def answer_unprotected(self, envelope: Envelope, digest: bytes, origin: Origin) -> bytes | None:
        """The answer to an unprotected message that needs no protection; None: it needs some."""
        if envelope.body_name == "error":
            return await self._acknowledge(envelope, origin)
        if envelope.body_name == "genm" and envelope.body == ASKS and envelope.extra_certs:
            return await self._give_ciphertext(envelope, digest, origin)
        return None

    async def _acknowledge(self, envelope: Envelope, origin: Origin) -> bytes:
        """A pkiconf to an error message: RFC 9483 section 3.5 does not reject one without protection, RFC 9810 section
        5.3.21 wants its header to be valid. It changes nothing.

        The answer has no protection either: anybody could get a signed one with the transactionID and the nonce of a
        certConf that he keeps back, and the end entity would take its certificate for confirmed.
        """
        transaction_id = check_header(envelope, origin.door.strict)
        if late := time_fault(envelope.header, self._service.env.now(), self._window):
            raise late
        load_strict(ErrorMsgContent, envelope.body, noun="ErrorMsgContent")
        _log.warning("unprotected error message transaction=%s: not acted on", transaction_id.hex())
        return await pkiconf_message(envelope.header, _unprotected(self._signer.sender), self._service.env)

    async def _give_ciphertext(self, envelope: Envelope, digest: bytes, origin: Origin) -> bytes:
        """Figure 3, steps 3 to 5. Every door gives one: it is for whatever the door takes."""
        transaction_id = check_header(envelope, origin.door.strict)
        given = self._ciphertexts.find(transaction_id)
        if given is None:
            if late := time_fault(envelope.header, self._service.env.now(), self._window):
                raise late
            if await self._service.store.find_transaction(transaction_id) is not None:
                raise TransactionIdInUse(ID_IN_USE)
            found = await find_sender(envelope, self._credentials, None)
            if not found.may_encipher:
                raise BadMessageCheck("KEM certificate: want keyEncipherment in keyUsage, have others")
            algorithm, ciphertext, secret = kembm.encapsulate(found.key)
            answer = await self._genp(envelope, kembm.encode_kem_ciphertext(algorithm, ciphertext))
            given = self._ciphertexts.find(transaction_id)  # another genm may have been faster
            if given is None:
                lifetime = SLOW_LIFETIME if origin.door.slow else LIFETIME
                held = EncapsulatedSecret(secret, found.certificate)
                self._ciphertexts.add(transaction_id, digest, answer, held, lifetime)
                audit.kem_ciphertext_given(transaction_id, found.entity.reference, origin.address)
                return answer
        if given.digest != digest:
            raise TransactionIdInUse(ID_IN_USE)
        return given.answer

    async def _genp(self, envelope: Envelope, value: bytes) -> bytes:
        env, request = self._service.env, envelope.header
        header = ReplyHeader(
            pvno=request.pvno,
            recipient=request.sender,
            message_time=env.now(),
            transaction_id=request.transaction_id,
            sender_nonce=env.random(16),
            recip_nonce=request.sender_nonce,
        )
        body = der.seq(der.seq(_TYPE, value))
        return await protect(header, BODY_TYPES["genp"], body, _unprotected(self._signer.sender))

    # --- requests that were verified ----------------------------------------------------------------------------------

    def concerns(self, verified: VerifiedRequest, record: TransactionRecord | None) -> bool:
        """Whether `attend` has anything to do. `record`: of the transaction that the message continues."""
        header = verified.envelope.header
        return (
            verified.kem is not None
            or (record is not None and record.kem_secrets is not None)
            or (bool(header.general_info) and header.info(ID_IT_KEM_CIPHERTEXT_INFO) is not None)
            or self._service.kem_only
        )

    async def attend(
        self, verified: VerifiedRequest, digest: bytes, record: TransactionRecord | None
    ) -> VerifiedRequest:
        """The request with what its answers are protected with. `digest`: its SHA-256.

        BadDataFormat: a KemCiphertextInfo that cannot be read, or without transactionID. BadMessageCheck: it is not for
        the key of this server, or KemBasedMac is made with the ciphertext of another operation. What is wrong with the
        KemCiphertextInfo of a message that continues a transaction is its `kem_fault`.
        """
        envelope, transaction_id = verified.envelope, verified.envelope.header.transaction_id
        if record is not None and record.credential != verified.requester.credential:
            record = None  # what was agreed on in it is for the ears of its own client
        kept = open_secrets(self._service.sealer, record)
        sender, server = kept.sender, kept.server
        if verified.kem is not None:
            sender = verified.kem.sender
            if envelope.body_name not in CONTINUES:
                self._ciphertexts.use(transaction_id or b"", digest)
        kem = self._service.kem
        try:
            server = await self._decapsulate(envelope) or server
        except CmpError as fault:
            if envelope.body_name not in CONTINUES:
                raise
            verified = replace(verified, kem_fault=fault)
        if kem is None or server is None:
            return replace(verified, kem=None if sender is None else KemSecrets(sender))
        mac = kembm.build(self._service.env.random)
        key = mac.derive(server, transaction_id or b"")
        protector = certificate_protector(mac, key, kem.certificate, self.keys)
        return replace(verified, protector=protector, kem=KemSecrets(sender, server))

    async def _decapsulate(self, envelope: Envelope) -> bytes | None:
        """The secret that a message brings in generalInfo, None if it brings none, or is not to."""
        value, kem = _ciphertext_info(envelope), self._service.kem
        if kem is None or value is None:
            return None
        if envelope.header.transaction_id is None:
            raise BadDataFormat("transactionID: want one with KemCiphertextInfo, have none (RFC 9810 section 5.1.3.4)")
        return await kem.decapsulate(*kembm.read_kem_ciphertext(value))

    def refusing(self, verified: VerifiedRequest) -> Protector | None:
        """What tells that a ciphertext is missing, if the answer would be signed and that is not to be; else None."""
        kem = self._service.kem
        if kem is None or not self._service.kem_only or verified.protector is not self._signer:
            return None
        if verified.envelope.body_name in ANNOUNCEMENTS or verified.kem_fault is not None:  # no answer; one of its own
            return None
        subject, _ = read_identity(kem.certificate)
        return _unprotected(der.explicit(4, subject), (kem.certificate, *self.keys.chain))


def ciphertext_missing() -> CmpError:
    """Figure 5, step 3."""
    return WrongIntegrity(
        "generalInfo: want KemCiphertextInfo for the KEM certificate of this server, which is in extraCerts, have none "
        "(RFC 9810 section 5.1.3.4 and appendix E)"
    )


def _ciphertext_info(envelope: Envelope) -> bytes | None:
    """The value of KemCiphertextInfo in generalInfo; BadDataFormat if there is more than one."""
    items = [item.value for item in envelope.header.general_info if item.type == ID_IT_KEM_CIPHERTEXT_INFO]
    if len(items) > 1:
        raise BadDataFormat(f"generalInfo KemCiphertextInfo: want one, have {len(items)}")
    return items[0] if items else None


def _unprotected(sender: bytes, extra_certs: tuple[bytes, ...] = ()) -> Protector:
    async def compute(_octets: bytes) -> bytes:
        return b""

    return Protector(None, sender, None, extra_certs, compute)
