"""May this requester have this certificate? Decided from who protected the request and what the operator registered.

Who asks, for which names (RFC 9483 section 5.1.1: the subject identifies the entity that protects the message, or the
message comes from an authorized RA):

| requester                                   | names it may ask for                                                  |
|---------------------------------------------|-----------------------------------------------------------------------|
| secret, or its own registered certificate   | its registered subject; any, if none was registered                   |
| any certificate under a registered CA       | its own subject and subjectAltName; within the registered subject     |
| RA                                          | any that has the registered subject's attributes; any without one     |
| certificate of this CA                      | enrolment.certificate_holder_may_ask_for: own, constraint or any      |
| kur                                         | the subject and subjectAltName of the certificate that it updates     |

Pure: everything it needs is handed in.
"""

from collections.abc import Collection
from typing import Final, Literal

from cmpd.asn1.der import DerError
from cmpd.asn1.names import NULL_DN, has_attributes, name_text, read_name, same_name
from cmpd.errors import (
    BadCertId,
    BadCertTemplate,
    BadRequest,
    NotAuthorized,
    SystemFailure,
    WrongAuthority,
    WrongIntegrity,
)
from cmpd.frozen import frozen
from cmpd.message import Header
from cmpd.name_constraints import MatchForm, match_form
from cmpd.outline import outline
from cmpd.profiles.alt_names import read_general_names
from cmpd.profiles.extensions import OID_SAN
from cmpd.records import Requester
from cmpd.requests import ID_REG_CTRL_OLD_CERT_ID, CertRequest, Extension, read_cert_id

Scope = Literal["own", "constraint", "any"]


@frozen
class Names:
    """The subject (DER of a Name) and the extensions that the certificate will be made from.

    `changes`: what differs from the request, in words for the peer (grantedWithMods).
    """

    subject: bytes
    extensions: tuple[Extension, ...]
    changes: tuple[str, ...] = ()
    serial: bytes | None = None  # the serial number that an RA wants for it, contents octets


def check_profiles(header: Header, requests: int) -> tuple[str, ...]:
    """CertProfile's names (RFC 9810 section 5.1.1.4); BadRequest if they are more than there are requests."""
    names = header.cert_profiles
    if len(names) > requests:
        raise BadRequest(f"certProfile: want at most {requests}, one for each request; have {len(names)}")
    return names


def choose_profile(
    requester: Requester, wanted: str, body: str, known: Collection[str], default: str, *, of_door: str = ""
) -> str:
    """The profile for a request that names `wanted` ("" = none): that one, a kur's old one, that of the door
    (`of_door`, "" = none) if it is one of the entity's, or the entity's default.

    Raises BadCertTemplate (no such profile), NotAuthorized (not one of the entity's) or SystemFailure (registered, but
    no longer in the configuration).
    """
    allowed = requester.entity.profiles or (default,)
    held = requester.profile if body == "kur" else None
    if wanted:
        if wanted not in known:
            raise BadCertTemplate("certProfile: there is no profile of this name")
        if wanted not in allowed and wanted != held:
            raise NotAuthorized(f"certProfile: {wanted} is not among the profiles that the requester may use")
        return wanted
    chosen = held or (of_door if of_door in allowed and body != "kur" else allowed[0])
    if chosen not in known:
        raise SystemFailure(
            "profile: the one that is registered for the requester is not configured any more; ask the operator"
        )
    return chosen


def check_update(requester: Requester, protection: bytes | None) -> None:
    """A kur is signed with the certificate that it updates, issued by this CA (RFC 9483 section 4.1.3).

    `protection`: that of the message; a TLS client certificate in its place is no signature.
    """
    if requester.certificate is None or protection is None:
        have = "none" if protection is None else "a MAC"
        raise WrongIntegrity(f"kur: want a signature by the certificate to be updated, have {have}")


def check_issuer(request: CertRequest, ca_name: bytes, requester: Requester) -> None:
    """The template's issuer, if it names one, is this CA; WrongAuthority otherwise.

    OpenSSL names the issuer of the certificate that it signs with, whatever CA it asks: that says nothing.
    """
    issuer = request.template.issuer
    if issuer is None or issuer == NULL_DN or _same(issuer, ca_name, "issuer"):
        return
    if requester.certificate is None or issuer != outline(requester.certificate).issuer:
        raise WrongAuthority(f"CertTemplate.issuer: this CA is {name_text(ca_name)}")


def allow(request: CertRequest, body: str, requester: Requester, scope: Scope) -> Names:
    """The names that the certificate will carry; NotAuthorized, BadCertTemplate or BadCertId if it may not be."""
    if body == "kur":
        return _update(request, requester)
    subject = request.template.subject
    extensions = request.template.extensions
    asked_san = _san(extensions)
    entity = requester.entity
    changes: tuple[str, ...] = ()
    if subject is None or (subject == NULL_DN and asked_san is None):
        changes = ("subject is the registered one",) if subject == NULL_DN else ()
        subject = entity.subject or requester.subject
        if subject is None:
            raise BadCertTemplate("CertTemplate.subject: missing, and no subject is registered for the requester")
    if entity.is_ra:
        _check_within(subject, entity.subject)
    elif requester.is_registered:
        if entity.subject is not None and not _same(subject, entity.subject, "subject"):
            raise NotAuthorized(f"CertTemplate.subject: want {name_text(entity.subject)}, which is registered")
    elif requester.serial is not None:
        _check_holder(subject, asked_san, requester, scope)
    else:
        _check_own(subject, asked_san, requester)
        _check_within(subject, entity.subject)
    return Names(subject, extensions, changes, _given_serial(request) if entity.is_ra else None)


def _given_serial(request: CertRequest) -> bytes | None:
    """CertTemplate.serialNumber, None if it is absent; whether an RA may name one the profile says."""
    serial = request.template.serial
    if serial is None:
        return None
    if not int.from_bytes(serial, "big", signed=True) > 0 or len(serial) > _MAX_SERIAL:
        raise BadCertTemplate(f"CertTemplate.serialNumber: want a positive number of at most {_MAX_SERIAL} octets")
    return serial


_MAX_SERIAL: Final = 20


def _san(extensions: tuple[Extension, ...]) -> bytes | None:
    return next((extension.value for extension in extensions if extension.oid == OID_SAN), None)


def _same(asked: bytes, held: bytes, noun: str) -> bool:
    try:
        return same_name(asked, held)
    except DerError as fault:
        raise BadCertTemplate(f"CertTemplate.{noun}: {fault}") from None


def _check_within(subject: bytes, constraint: bytes | None) -> None:
    try:
        within = constraint is None or has_attributes(subject, constraint)
    except DerError as fault:
        raise BadCertTemplate(f"CertTemplate.subject: {fault}") from None
    if constraint is not None and not within:
        raise NotAuthorized(f"CertTemplate.subject: want one that has {name_text(constraint)}")


def _check_holder(subject: bytes, san: bytes | None, requester: Requester, scope: Scope) -> None:
    constraint = requester.entity.subject
    if scope == "own" or (scope == "constraint" and constraint is None):
        _check_own(subject, san, requester)
    elif scope == "constraint":
        _check_within(subject, constraint)


def _check_own(subject: bytes, san: bytes | None, requester: Requester) -> None:
    """Subject and subjectAltName are those of the protection certificate, or fewer alternative names."""
    if requester.subject is None or not _same(subject, requester.subject, "subject"):
        raise NotAuthorized(
            "CertTemplate.subject: want the subject of the certificate that protects the request, have another"
        )
    if san is None:
        return
    held = outline(requester.certificate or b"").value(OID_SAN)
    try:
        own = set(read_general_names(held)) if held is not None else set()
        foreign = [name for name in read_general_names(san) if name not in own]
    except DerError as fault:
        raise BadCertTemplate(str(fault)) from None
    if foreign:
        raise NotAuthorized("subjectAltName: want only names of the certificate that protects the request, have others")


def _update(request: CertRequest, requester: Requester) -> Names:
    if requester.certificate is None or requester.serial is None:
        raise NotAuthorized("kur: want protection by a certificate that this CA issued (RFC 9483 section 4.1.3)")
    old = outline(requester.certificate)
    control = request.controls.get(ID_REG_CTRL_OLD_CERT_ID)
    if control is not None:
        issuer, serial = read_cert_id(control)
        if serial != old.serial or not issuer or not _same(issuer, old.issuer, "issuer"):
            raise BadCertId("oldCertId: want the certificate that protects the kur (RFC 9483 section 4.1.3)")
    subject, extensions = request.template.subject, request.template.extensions
    held, asked = old.value(OID_SAN), _san(extensions)
    names_nobody = subject == NULL_DN and asked is None
    if subject is not None and not names_nobody and not _same(subject, old.subject, "subject"):
        raise NotAuthorized("CertTemplate.subject: a kur must not change it (RFC 9483 section 4.1.3)")
    changes = [] if subject in (None, old.subject) else ["subject is written as in the certificate to be updated"]
    try:
        if asked is None and held is not None:
            extensions = (*extensions, Extension(OID_SAN, old.subject == NULL_DN, held))
            changes.append("subjectAltName is that of the certificate to be updated")
        elif asked is not None and set(read_general_names(asked)) != set(read_general_names(held) if held else ()):
            raise NotAuthorized("subjectAltName: a kur must not change it (RFC 9483 section 4.1.3)")
    except DerError as fault:
        raise BadCertTemplate(str(fault)) from None
    return Names(old.subject, extensions, tuple(changes))


def check_reserved(subject: bytes, reserved: Collection[MatchForm]) -> None:
    """The names of the CA, of those above it and of its CMP certificate are nobody else's; BadCertTemplate.

    `subject`: DER of a Name; `reserved` as name_constraints.match_form gives it. Clients know a CMP server by its name.
    """
    if match_form(read_name(subject)) in reserved:
        raise BadCertTemplate("CertTemplate.subject: this is a name of the CA itself")


def check_expiry(requester: Requester, now: float) -> None:
    """What was registered may ask for nothing new after its expiry; NotAuthorized."""
    expires_at = requester.entity.expires_at
    if requester.is_registered and expires_at is not None and expires_at <= now:
        raise NotAuthorized("registration: it has expired; ask the operator for a new one")


def counts_as_use(requester: Requester) -> bool:
    """Whether an enrolment counts against the entity's uses.

    It does if what was registered asks: the secret, the certificate, or one under a registered CA certificate. A
    certificate that this CA issued stands for an enrolment that was counted before.
    """
    return requester.is_registered or requester.serial is None
