"""What a certificate may look like: a Profile turns a CertTemplate into a Grant, or says why not.

A profile knows nothing of who asks (policy.py) nor of the CA's key (ca.py). Everything it decides comes from its
[profile.NAME] section.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1.names import ATTRIBUTE_TYPES, Name, attribute_texts, name_text
from cmpd.changes import Claim
from cmpd.config_profiles import ProfileConfig
from cmpd.config_values import duration_text
from cmpd.errors import BadCertTemplate
from cmpd.name_constraints import match_form, match_general_names
from cmpd.profiles.base import Grant, Issuer, Wish, check_key, load_public_key
from cmpd.profiles.extensions import build_extensions
from cmpd.profiles.prepared import Prepared, prepare
from cmpd.profiles.subject import complete_subject, read_subject
from cmpd.public_keys import key_identity
from cmpd.requests import Extension, Template

__all__ = ["Grant", "Issuer", "Profile", "load_public_key"]

_EMAIL_ADDRESS: Final = ATTRIBUTE_TYPES["emailAddress"].oid


@dataclass(frozen=True, slots=True)
class Profile:
    """One [profile.NAME] of the configuration."""

    name: str
    rules: ProfileConfig
    prepared: Prepared = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prepared", prepare(self.rules))  # frozen to all others

    def grant(
        self,
        template: Template,
        key: PublicKeyTypes,
        subject: bytes,
        extensions: tuple[Extension, ...],
        now: int,
        *,
        issuer: Issuer,
        held_key: bytes | None = None,
        serial: bytes | None = None,
    ) -> Grant:
        """What the certificate will be; BadCertTemplate where the profile does not allow it.

        `subject` and `extensions` are those of the template, or what policy put in their place. `now`: Unix seconds.
        `issuer`: what the CA adds. `held_key`: the SubjectPublicKeyInfo of the certificate that a kur updates.
        `serial`: the serial number of the template, if its requester may choose it (policy.py); contents octets.
        """
        self._check_fields(template, serial)
        public_key = template.public_key or b""
        self._check_new(key, public_key, held_key)
        kind = check_key(key, self.rules)
        prepared, changes = self.prepared, list[str]()
        name = read_subject(subject, self.rules, prepared.subject)
        names_nobody = not name
        if prepared.subject is not None and prepared.subject.fixed:
            subject, name = complete_subject(subject, name, prepared.subject, changes)
            if changes and held_key is not None:
                raise BadCertTemplate(f"kur: want a {changes[0]}, which the certificate to be updated lacks")
        wish = Wish(
            rules=self.rules,
            prepared=prepared,
            issuer=issuer,
            key_kind=kind,
            public_key=public_key,
            subject_is_empty=not name,
            names_nobody=names_nobody,
            emails=tuple(text.encode() for text in attribute_texts(name, _EMAIL_ADDRESS)),
            extensions={extension.oid: extension for extension in extensions},
            changes=changes,
        )
        made = build_extensions(wish)
        not_before, not_after, asked = self._validity(template, now, changes)
        return Grant(
            profile=self.name,
            subject=subject,
            subject_text=name_text(name),
            public_key=public_key,
            not_before=not_before,
            not_after=not_after,
            extensions=made,
            changes=tuple(changes),
            validity_asked=asked,
            min_validity=(self.rules.min_validity or 0) if asked else 0,
            san=wish.san,
            is_ca=self.rules.ca,
            locations=prepared.locations,
            serial=serial,
            claims=self._claims(name, key, wish),
        )

    def _claims(self, name: Name, key: PublicKeyTypes, wish: Wish) -> tuple[Claim, ...]:
        """What the certificate wants for itself. An RSA modulus is always remembered: two who have it know each other's
        secret, and devices without random numbers make that happen.
        """
        rules, claims = self.rules, list[Claim]()
        if rules.unique_subject:
            holder = repr(match_form(name) if name else match_general_names(wish.san or b""))
            claims.append(Claim("subject", sha256(f"subject {self.name} {holder}".encode()).digest()))
        if rules.key_sharing != "any" or wish.key_kind == "rsa":
            digest = sha256(b"key " + key_identity(key, wish.public_key)).digest()
            binding = rules.key_sharing in ("entity", "none")
            claims.append(Claim("key", digest, alone=rules.key_sharing == "none", binding=binding))
        return tuple(claims)

    def _check_new(self, key: PublicKeyTypes, public_key: bytes, held_key: bytes | None) -> None:
        if held_key is not None and not self.rules.allow_key_reuse and _same_key(key, public_key, held_key):
            raise BadCertTemplate("CertTemplate.publicKey: want a new key, have that of the certificate to be updated")

    def _check_fields(self, template: Template, serial: bytes | None) -> None:
        """The fields that RFC 4211 section 5 and RFC 9483 section 4.1.1 forbid in a certification request."""
        if template.forbidden:
            forbidden = list(template.forbidden)
            if serial is not None and self.rules.serial_number == "given":
                forbidden.remove("serialNumber")
            if forbidden:
                raise BadCertTemplate(f"CertTemplate: must not have {', '.join(forbidden)} (RFC 4211 section 5)")
        if template.version not in (None, 2):
            raise BadCertTemplate(f"CertTemplate.version: want 2 (v3) or none, have {template.version}")

    def _validity(self, template: Template, now: int, changes: list[str]) -> tuple[int, int, bool]:
        """The validity in Unix seconds, bounded further by the CA (ca.py), and whether the request chose it."""
        rules = self.rules
        earliest = now - rules.backdate
        first, last = template.not_before, template.not_after
        if first is None and last is None:
            return earliest, now + rules.validity, False
        if rules.max_validity is None:
            changes.append("validity is the profile's")
            return earliest, now + rules.validity, False
        not_before = earliest if first is None else max(earliest, first)
        not_after = min(not_before + rules.validity if last is None else last, now + rules.max_validity)
        if not_after <= max(now, not_before):
            raise BadCertTemplate(
                f"validity: want an end after now and after the beginning, both within "
                f"{duration_text(rules.max_validity)}; have another"
            )
        if rules.min_validity is not None and not_after - not_before < rules.min_validity:
            raise BadCertTemplate(
                f"validity: want at least {duration_text(rules.min_validity)} from beginning to end, have less"
            )
        if first not in (None, not_before):
            changes.append("validity begins later")
        if last not in (None, not_after):
            changes.append(f"validity ends earlier: the profile allows {duration_text(rules.max_validity)}")
        return not_before, not_after, True


def _same_key(key: PublicKeyTypes, info: bytes, held: bytes) -> bool:
    return key_identity(key, info) == key_identity(load_public_key(held), held)
