"""Which certificate of a message is its protection certificate (RFC 9483 sections 3.1 to 3.3).

The profile puts it first in extraCerts, and that one is asked for without looking at it, for the ordinary message to
cost one call. Only when it does not fit are the others looked at, for a SubjectKeyIdentifier equal to senderKID or
without senderKID a subject equal to sender; then the certificate of the transaction's first request, because later
messages may come without extraCerts; and where that is not asked for strictly, the registered ones of this name.
"""

from collections.abc import Iterator
from typing import Final

from cmpd.asn1 import der, names, oids
from cmpd.errors import BadDataFormat, BadMessageCheck, CmpError, SignerNotTrusted
from cmpd.message import Envelope
from cmpd.protection.base import Credentials, SenderCredential
from cmpd.strictness import RULES

MAX_LOOKED_AT: Final = 32
MAX_ASKED_FOR: Final = 4


async def find_sender(
    envelope: Envelope, credentials: Credentials, known_sender: bytes | None, *, strict: bool = True
) -> SenderCredential:
    """The credential of the message's protection certificate, which fits senderKID and sender.

    SignerNotTrusted if there is none, or none with a valid path; BadMessageCheck if what is there does not fit. That of
    an rr may be suspended or revoked: it may ask for its own resumption, or again for what was done already.
    `strict`: what RULES say of a certificate that is not in extraCerts.
    """
    any_status = envelope.body_name == "rr"
    error: CmpError | None = None
    for certificate, others in _candidates(envelope):
        try:
            found = await credentials.sender(certificate, others, any_status=any_status)
        except SignerNotTrusted as refusal:
            error = refusal  # a later candidate was chosen for its looks, so its refusal says more than the first one's
            continue
        error = misfit(envelope, found)
        if error is None:
            return found
    if known_sender is not None:
        found = await credentials.sender(known_sender, envelope.extra_certs, any_status=any_status)
        if misfit(envelope, found) is None:
            return found
    if error is None:
        RULES["the protection certificate is in extraCerts"].hold(
            strict, False, "extraCerts: want the protection certificate first, have no certificate that fits"
        )
    if not strict:
        for certificate in (await _registered(envelope, credentials))[:MAX_ASKED_FOR]:
            try:
                return await credentials.sender(certificate, envelope.extra_certs, any_status=any_status)
            except SignerNotTrusted as refusal:
                error = refusal
    raise error or SignerNotTrusted("extraCerts: want the protection certificate, have neither it nor a registered one")


async def _registered(envelope: Envelope, credentials: Credentials) -> tuple[bytes, ...]:
    """Those that the message may mean: by senderKID and sender."""
    try:
        name = names.directory_name(envelope.header.sender)
        return () if name is None else await credentials.registered(name, envelope.header.sender_kid)
    except der.DerError as error:
        raise BadDataFormat(f"sender: {error}") from None


def _candidates(envelope: Envelope) -> Iterator[tuple[bytes, tuple[bytes, ...]]]:
    certificates = envelope.extra_certs
    if not certificates:
        return
    yield certificates[0], certificates[1:]
    asked = 1
    for certificate in certificates[1:MAX_LOOKED_AT]:
        if asked < MAX_ASKED_FOR and certificate != certificates[0] and _looks_right(envelope, certificate):
            asked += 1
            yield certificate, tuple(other for other in certificates if other != certificate)


def _looks_right(envelope: Envelope, certificate: bytes) -> bool:
    try:
        subject, key_identifier = read_identity(certificate)
        if envelope.header.sender_kid is not None:
            return key_identifier == envelope.header.sender_kid
        return is_sender(envelope.header.sender, subject)
    except der.DerError:
        return False  # a certificate that nobody can read is as good as not there


def misfit(envelope: Envelope, found: SenderCredential) -> BadMessageCheck | None:
    """What does not fit of senderKID and sender; None if they say who it is. BadDataFormat."""
    sender_kid = envelope.header.sender_kid
    if sender_kid is not None and sender_kid != found.key_identifier:
        return BadMessageCheck("senderKID: want the SubjectKeyIdentifier of the protection certificate, have another")
    try:
        fits = is_sender(envelope.header.sender, found.subject)
    except der.DerError as error:
        raise BadDataFormat(f"sender: {error}") from None
    return None if fits else BadMessageCheck("sender: want the subject of the protection certificate, have another")


def is_sender(sender: bytes, subject: bytes) -> bool:
    """Whether a GeneralName (DER) is this Name; DerError if it cannot be read."""
    name = names.directory_name(sender)
    return name is not None and names.same_name(name, subject)


def read_identity(certificate: bytes) -> tuple[bytes, bytes | None]:
    """The subject (DER) and the value of SubjectKeyIdentifier of a certificate (DER); DerError if they cannot be read.

    Nothing else is looked at: this is for choosing, not for trusting.
    """
    start, stop = der.expect(certificate, 0, len(certificate), der.SEQUENCE, "Certificate")
    start, stop = der.expect(certificate, start, stop, der.SEQUENCE, "tbsCertificate")
    fields = der.children(certificate, start, stop, 16)
    if fields and fields[0][0] == 0xA0:  # version; what follows is serialNumber, signature, issuer, validity, subject
        del fields[0]
    if len(fields) < 6 or fields[4][0] != der.SEQUENCE:
        raise der.DerError("tbsCertificate: no subject")
    _, pos, _, after = fields[4]
    for tag, _, inner, end in fields[6:]:
        if tag == 0xA3:
            return certificate[pos:after], _key_identifier(certificate, inner, end)
    return certificate[pos:after], None


def _key_identifier(data: bytes, pos: int, end: int) -> bytes | None:
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "Extensions")
    for _, _, inner, after in der.children(data, start, stop, 64):
        first, last = der.expect(data, inner, after, der.OID, "extnID")
        if data[first:last] == oids.SUBJECT_KEY_IDENTIFIER:
            if last < after and data[last] == der.BOOLEAN:
                last = der.header(data, last, after)[2]
            first, last = der.expect(data, last, after, der.OCTET_STRING, "extnValue")
            first, last = der.expect(data, first, last, der.OCTET_STRING, "SubjectKeyIdentifier")
            return data[first:last]
    return None
