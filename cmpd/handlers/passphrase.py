"""Revocation passphrases as they arrive, in a genm or in the generalInfo of any request (RFC 9810 section 5.3.19.9 and
appendix B).

Rules that are decided here:
* The holder is who brings it: the entity, by its shared secret; the entity and the subject of the protection
  certificate, by a certificate; the holder of the old passphrase, by that one. A registered RA needs none.
* Whoever could not ask for anything else cannot bring one: a suspended or revoked certificate, an expired registration.
* The key identifier is localKeyId or valueHint, else the senderKID of the message: what senderKID of a later rr says.
  It is nobody else's: no other holder's, and no other entity's reference value.
* pvno 3 wants envelopedData and pvno 2 encryptedValue (appendix B).
* "Sufficient entropy" is the client's affair; 8 octets are the least that can have it.
* What cannot be kept is refused with an error message, and the request it came with is not carried out.
"""

from collections.abc import Sequence
from typing import Final

from cmpd import audit
from cmpd.asn1 import der
from cmpd.asn1.names import same_name
from cmpd.changes import Change, SetRevocationPassphrase
from cmpd.cms import CannotDecrypt, DerivationLimits, KeyTransport, RecipientId, open_encrypted_key, read_encrypted_key
from cmpd.credentials import passphrase_reference
from cmpd.errors import BadDataFormat, BadRequest, NotAuthorized
from cmpd.handlers.base import Context, Recipient
from cmpd.message import HIGHEST_PVNO, ID_IT_REV_PASSPHRASE
from cmpd.outline import outline
from cmpd.policy import check_expiry
from cmpd.profiles.extensions import OID_SKI
from cmpd.records import (
    CertificateState,
    RevocationPassphrase,
    TransactionState,
)
from cmpd.transaction import CONTINUES

PASSPHRASE_CONFLICTS: Final = {
    "passphrase identifier in use": "revPassphrase: its key identifier is in use; choose another one",
    "too many passphrases": "revPassphrase: too many are kept already; replace one of them",
}
"""What the requester is told of a StoreConflict."""

MIN_PASSPHRASE: Final = 8
MAX_PASSPHRASE: Final = 1023
MAX_KEY_ID: Final = 128
MAX_KEPT: Final = 16
"""Passphrases of one holder."""

_SKI: Final = 20  # octets of a SubjectKeyIdentifier: nobody takes another's, which is public
_MAX_ENCRYPTED: Final = 1024  # octets: the longest passphrase with its padding


async def receive_in_header(context: Context) -> tuple[SetRevocationPassphrase, ...]:
    """What keeps the passphrase in the generalInfo of a request, () if it has none; CmpError if it cannot be taken."""
    items = [item for item in context.request.envelope.header.general_info if item.type == ID_IT_REV_PASSPHRASE]
    body = context.request.envelope.body_name
    if not items or (context.record is not None and body not in CONTINUES):  # of what waited it was taken before
        return ()
    if len(items) > 1:
        raise BadDataFormat("generalInfo revPassphrase: want one, have more")
    waits = context.record is not None and context.record.state in (
        TransactionState.CONFIRMING,
        TransactionState.WAITING,
    )
    if body in ("pkiconf", "pollReq") or (body == "error" and not waits):  # nothing is answered, or nothing is written
        raise BadRequest(f"generalInfo revPassphrase: want it in genm, have it in {body}, where it is not taken")
    return (await receive(context, items[0].value),)


def tell_received(context: Context, changes: Sequence[Change]) -> None:
    """Tell the audit log of the passphrases among changes that are durable."""
    reference = context.request.requester.entity.reference
    for change in changes:
        if isinstance(change, SetRevocationPassphrase):
            audit.passphrase_received(change.passphrase.key_id, reference, context.transaction_id)


async def receive(context: Context, value: bytes | None) -> SetRevocationPassphrase:
    """What keeps a passphrase. `value`: DER of infoValue, an EncryptedKey. CmpError if it cannot be taken.

    Also a repeated request is judged anew, and may be refused by now; the responder gives it its answer from before.
    """
    service, requester = context.service, context.request.requester
    if service.sealer is None:
        raise BadRequest("revPassphrase: want none, as this server takes none, have one")
    if value is None:
        raise BadDataFormat("revPassphrase: want EncryptedKey, have no infoValue")
    entity_id, subject = _holder(context)
    check_expiry(requester, service.env.now())
    attempts, now = service.attempts, service.env.now()
    if not attempts.are_left(requester.entity.id, now):
        raise CannotDecrypt("too many failures of this entity")
    try:
        passphrase, key_id = await _open(context, value)
    except CannotDecrypt:
        attempts.failed(requester.entity.id, now)
        raise
    if not MIN_PASSPHRASE <= len(passphrase) <= MAX_PASSPHRASE:
        attempts.failed(requester.entity.id, now)
        raise BadRequest(f"revPassphrase: want {MIN_PASSPHRASE} to {MAX_PASSPHRASE} octets, have others")
    sender_kid = context.request.envelope.header.sender_kid
    if key_id is not None and len(key_id) == _SKI and key_id != sender_kid:
        raise BadRequest(f"revPassphrase: a key identifier of {_SKI} octets is for the holder of a certificate with it")
    key_id = key_id if key_id is not None else sender_kid
    if key_id is None or not 1 <= len(key_id) <= MAX_KEY_ID:
        have = "none" if key_id is None else len(key_id)
        raise BadRequest(
            f"revPassphrase: want localKeyId, valueHint or senderKID of 1 to {MAX_KEY_ID} octets, have {have}"
        )
    await _check_free(context, key_id, entity_id, subject)
    sealed = service.sealer.seal(passphrase, passphrase_reference(key_id))
    kept = RevocationPassphrase(key_id, entity_id, subject, sealed, int(service.env.now()))
    return SetRevocationPassphrase(kept, MAX_KEPT, context.transaction_id)


def _holder(context: Context) -> tuple[int, bytes | None]:
    """(entity_id, subject) of whoever brings a passphrase; NotAuthorized if he may not.

    A shared secret that may not revoke is no way round that: it brings a passphrase with certConf alone, for the
    certificate that is confirmed (and others of the entity with its subject).
    """
    requester = context.request.requester
    if requester.passphrase is not None:
        return requester.passphrase.entity_id, requester.passphrase.subject
    if requester.entity.is_ra and requester.is_registered:
        raise NotAuthorized("revPassphrase: an RA needs none, it may revoke by its own credential")
    if requester.state not in (None, CertificateState.CONFIRMED):
        raise NotAuthorized(f"revPassphrase: the protection certificate is {requester.state}")
    if requester.certificate is not None or requester.entity.may_revoke:
        return requester.entity.id, requester.subject
    confirmed = context.record.certificates if context.record is not None else ()
    subjects = {certificate.subject for certificate in confirmed}
    if len(subjects) != 1:
        raise NotAuthorized(
            "revPassphrase: this shared secret may not revoke; send it in certConf, or under the certificate"
        )
    return requester.entity.id, subjects.pop()


async def _check_free(context: Context, key_id: bytes, entity_id: int, subject: bytes | None) -> None:
    """BadRequest if somebody else is found under this key identifier; the store sees to what happens meanwhile."""
    store = context.service.store
    kept = await store.find_passphrase(key_id)
    taken = kept is not None and (kept.entity_id, kept.subject) != (entity_id, subject)
    try:
        reference = key_id.decode()
    except UnicodeDecodeError:
        reference = ""
    if reference and "\0" not in reference:
        entity = await store.find_entity(reference)
        taken = taken or (entity is not None and entity.id != entity_id)
    if taken:
        raise BadRequest(PASSPHRASE_CONFLICTS["passphrase identifier in use"])


# --- decrypting -------------------------------------------------------------------------------------------------------


async def _open(context: Context, value: bytes) -> tuple[bytes, bytes | None]:
    """(passphrase, key identifier or None)."""
    service, recipient = context.service, context.service.recipient
    found = read_encrypted_key(value, _MAX_ENCRYPTED)
    wanted = "envelopedData" if context.request.envelope.header.pvno >= HIGHEST_PVNO else "encryptedValue"
    if found.enveloped is not (wanted == "envelopedData"):
        raise BadDataFormat(
            f"revPassphrase: want {wanted} with pvno {context.request.envelope.header.pvno} (RFC 9810 appendix B)"
        )
    if isinstance(found.transport, KeyTransport):
        if recipient is None:
            raise BadRequest(
                "revPassphrase: this server has no encryption certificate; use PasswordRecipientInfo and a MAC"
            )
        if found.transport.recipient is not None and not _is_for(recipient, found.transport.recipient):
            raise CannotDecrypt("another recipient")
    passphrase = await open_encrypted_key(
        found,
        service.env,
        decrypt_key=None if recipient is None else recipient.decrypt_key,
        secret=context.request.secret,
        limits=DerivationLimits(
            min_iterations=service.protection.min_iterations,
            max_iterations=service.protection.max_pbkdf2_iterations,
            max_salt=service.protection.max_salt,
            inline_iterations=service.protection.inline_iterations,
        ),
        offload=service.offload,
    )
    return passphrase, found.key_id


def _is_for(recipient: Recipient, wanted: RecipientId) -> bool:
    own = outline(recipient.certificate)
    if wanted.key_identifier is None:
        return wanted.serial == own.serial and same_name(wanted.issuer, own.issuer)
    ski = own.value(OID_SKI)
    return ski is not None and ski == der.encode_octets(wanted.key_identifier)
