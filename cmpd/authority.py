"""May this requester change the status of this certificate? And is it the certificate that an rr means?

| requester                                     | certificates whose status it may change                            |
|-----------------------------------------------|--------------------------------------------------------------------|
| a confirmed certificate of this CA            | itself; others of the same entity, where that is shared of the     |
|                                               | same subject                                                       |
| a certificate of another CA, its registration | those of its entity; of its own subject, unless this very          |
|                                               | certificate is registered                                          |
| RA, with what was registered                  | those issued through it; those with its registered subject's       |
|                                               | attributes and one of its profiles; none of another RA             |
| secret of an entity that may revoke           | those of its entity                                                |
| revocation passphrase                         | those of its holder; it resumes nothing                            |
| a suspended certificate                       | itself, if it may resume itself and no operator suspended it       |
| a revoked certificate                         | none; of itself it may learn that it is revoked                    |

What an operator has suspended nobody but an operator or an RA resumes. An entity is shared if it is an RA, or if its
credential is a CA certificate: many devices are under it. A registration that has expired gives no rights
(policy.check_expiry). Pure: what is needed of the store is handed in.
"""

from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.names import has_attributes, same_name
from cmpd.errors import BadCertId, NotAuthorized
from cmpd.frozen import frozen
from cmpd.lifecycle import Event
from cmpd.outline import outline
from cmpd.profiles.extensions import OID_BASIC_CONSTRAINTS
from cmpd.records import CertificateRecord, CertificateState, Entity, EntityKind, Requester
from cmpd.rev_requests import RevTemplate

_DENIED: Final = "certDetails: the requester may not change the status of this certificate"
_CA_TRUE: Final = b"\x01\x01\xff"


@frozen
class Circumstances:
    """What counts beside requester and certificate.

    `owner`: the entity that the certificate was issued to, as registered; None = unknown, or `needs_owner` says no.
    `other_ra`: the certificate is the registered credential of an RA that is not the requester. `held_by_operator`: it
    is suspended, by an operator. `resumes_itself`: revocation.suspended_may_resume_itself.
    """

    owner: Entity | None = None
    other_ra: bool = False
    held_by_operator: bool = False
    default_profile: str = ""
    resumes_itself: bool = False


def acts_as_ra(requester: Requester) -> bool:
    """Whether an RA asks, by what was registered for it and is trusted now."""
    return requester.entity.is_ra and requester.is_registered and requester.state in (None, CertificateState.CONFIRMED)


def needs_owner(requester: Requester, record: CertificateRecord) -> bool:
    """Whether Circumstances.owner is needed: a certificate of this CA asks for another one of the same entity.

    The entity of such a requester does not tell whether it is an RA (credentials.py).
    """
    ours = requester.serial is not None and requester.serial != record.serial
    return ours and not requester.is_registered and requester.entity.id == record.entity_id


def check_may_change(
    requester: Requester, record: CertificateRecord, event: Event, circumstances: Circumstances
) -> None:
    """Let a requester revoke, suspend or resume (`event`) a certificate that was issued, or raise NotAuthorized."""
    itself = requester.serial is not None and requester.serial == record.serial
    if requester.state is CertificateState.REVOKED:
        allowed = itself  # the record says what becomes of that
    elif requester.state is CertificateState.SUSPENDED:
        allowed = itself and event is Event.RESUME and circumstances.resumes_itself
    else:
        allowed = itself or _may_change_another(requester, record, event, circumstances)
    if not allowed:
        raise NotAuthorized(_DENIED)
    if event is Event.RESUME and circumstances.held_by_operator and not acts_as_ra(requester):
        raise NotAuthorized(
            "certDetails: want a certificate that its holder may resume, have one that an operator suspended"
        )


def _may_change_another(
    requester: Requester, record: CertificateRecord, event: Event, circumstances: Circumstances
) -> bool:
    if acts_as_ra(requester):
        return not circumstances.other_ra and _is_within(requester.entity, record, circumstances.default_profile)
    if requester.passphrase is not None:
        held = requester.passphrase
        same = held.subject is None or same_name(held.subject, record.subject)
        return event is not Event.RESUME and held.entity_id == record.entity_id and same
    if requester.entity.id != record.entity_id:
        return False
    if requester.certificate is None:
        return requester.entity.may_revoke
    if requester.is_registered:
        return True
    # whoever has a certificate of another CA is one of many under a registered CA certificate
    return not _is_shared(circumstances.owner) or (
        requester.subject is not None and same_name(requester.subject, record.subject)
    )


def _is_within(entity: Entity, record: CertificateRecord, default_profile: str) -> bool:
    """Whether an RA is registered for a certificate like this."""
    if record.entity_id == entity.id:
        return True
    if record.profile not in (entity.profiles or (default_profile,)):
        return False
    return entity.subject is None or has_attributes(record.subject, entity.subject)


def _is_shared(owner: Entity | None) -> bool:
    """Whether an entity's certificates may be of different holders; so they may if nobody knows."""
    if owner is None or owner.is_ra:
        return True
    if owner.kind is not EntityKind.CERTIFICATE or owner.certificate is None:
        return False
    try:
        constraints = outline(owner.certificate).value(OID_BASIC_CONSTRAINTS) or b""
    except DerError:
        return True
    return constraints[2:5] == _CA_TRUE  # SEQUENCE { cA BOOLEAN DEFAULT FALSE, ... }


# --- is it the certificate that is meant? ----------------------------------------------------------------------------


def check_fits(template: RevTemplate, certificate: bytes) -> None:
    """What certDetails says beside issuer and serial number is so in the certificate (DER), or BadCertId says what not.

    Names are compared as RFC 5280 section 7.1 says, all else octet by octet; extensions by their values.
    """
    if template == _SAYS_NOTHING:
        return
    held = outline(certificate)
    subject, key = template.subject, template.public_key
    fits = {
        "version": template.version in (None, 2),  # what this CA issues is v3
        "notBefore": template.not_before in (None, held.not_before),
        "notAfter": template.not_after in (None, held.not_after),
        "subject": subject is None or same_name(subject, held.subject),
        "publicKey": key in (None, held.public_key),
        "signingAlg": template.signing_alg is None or template.signing_alg == _signing_alg(certificate),
        "issuerUID": template.issuer_uid is None,  # this CA issues no unique identifiers
        "subjectUID": template.subject_uid is None,
    }
    for name, good in fits.items():
        if not good:
            raise BadCertId(f"certDetails.{name}: not that of the certificate with this serial number")
    for extension in template.extensions:
        if held.value(extension.oid) != extension.value:
            oid = der.dotted(extension.oid)
            raise BadCertId(f"certDetails.extensions: {oid} is not that of the certificate with this serial number")


_SAYS_NOTHING: Final = RevTemplate()


def _signing_alg(certificate: bytes) -> bytes:
    """TBSCertificate.signature (DER): what comes after version and serialNumber."""
    start, stop = der.expect(certificate, 0, len(certificate), der.SEQUENCE, "Certificate")
    start, stop = der.expect(certificate, start, stop, der.SEQUENCE, "tbsCertificate")
    _, _, signature, *_ = der.children(certificate, start, stop, 10)
    return certificate[signature[1] : signature[3]]
