"""What a certificate may look like: a Profile turns a CertTemplate into a Grant, or says why not.

A profile knows nothing of who asks (policy.py) nor of the CA's key (ca.py). Everything it decides comes from its
[profile.NAME] section.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1 import der
from cmpd.asn1.names import ATTRIBUTE_NAMES, ATTRIBUTE_TYPES, NULL_DN, Name, attribute_texts, name_text, read_name
from cmpd.config import ProfileConfig
from cmpd.config_values import duration_text
from cmpd.errors import BadCertTemplate
from cmpd.profiles.base import Grant, Wish, check_key, key_kind, load_public_key
from cmpd.profiles.extensions import build_extensions
from cmpd.profiles.syntax import check_name
from cmpd.requests import Extension, Template

__all__ = ["Grant", "Profile", "key_kind", "load_public_key"]

_EMAIL_ADDRESS: Final = ATTRIBUTE_TYPES["emailAddress"].oid


@dataclass(frozen=True, slots=True)
class Profile:
    """One [profile.NAME] of the configuration."""

    name: str
    rules: ProfileConfig

    def grant(
        self,
        template: Template,
        key: PublicKeyTypes,
        subject: bytes,
        extensions: tuple[Extension, ...],
        now: int,
        *,
        held_key: bytes | None = None,
    ) -> Grant:
        """What the certificate will be; BadCertTemplate where the profile does not allow it.

        `subject` and `extensions` are those of the template, or what policy put in their place. `now`: Unix seconds.
        `held_key`: the SubjectPublicKeyInfo of the certificate that a kur updates.
        """
        _check_fields(template)
        public_key = template.public_key or b""
        if held_key is not None and not self.rules.allow_key_reuse and load_public_key(held_key) == key:
            raise BadCertTemplate("CertTemplate.publicKey: want a new key, have that of the certificate to be updated")
        kind = check_key(key, public_key, self.rules)
        name = self._read_subject(subject)
        wish = Wish(
            rules=self.rules,
            key_kind=kind,
            public_key=public_key,
            subject_is_empty=not name,
            emails=tuple(text.encode() for text in attribute_texts(name, _EMAIL_ADDRESS)),
            extensions={extension.oid: extension for extension in extensions},
        )
        made = build_extensions(wish)
        not_before, not_after = self._validity(template, now, wish.changes)
        return Grant(
            profile=self.name,
            subject=subject,
            subject_text=name_text(name),
            public_key=public_key,
            not_before=not_before,
            not_after=not_after,
            extensions=made,
            changes=tuple(wish.changes),
            validity_asked=self.rules.max_validity is not None and _asks_for_validity(template),
        )

    def _read_subject(self, subject: bytes) -> Name:
        if subject == NULL_DN:
            if not self.rules.allow_empty_subject or self.rules.subject_required:
                raise BadCertTemplate("subject: empty, which this profile does not allow")
            return ()
        try:
            name = read_name(subject)
        except der.DerError as fault:
            raise BadCertTemplate(f"subject: {fault}") from None
        check_name(name, "subject")
        allowed, required = self.rules.subject_allowed, self.rules.subject_required
        if allowed is not None or required:
            types = {ATTRIBUTE_NAMES[oid] for rdn in name for oid, _, _ in rdn}
            if allowed is not None and (others := sorted(types.difference(allowed))):
                raise BadCertTemplate(f"subject: want only {', '.join(allowed) or 'the NULL-DN'}; have {others[0]}")
            if missing := [name for name in required if name not in types]:
                raise BadCertTemplate(f"subject: want {', '.join(required)}; have no {', '.join(missing)}")
        return name

    def _validity(self, template: Template, now: int, changes: list[str]) -> tuple[int, int]:
        """The validity in Unix seconds. The CA bounds it further by its own (ca.py)."""
        rules = self.rules
        earliest = now - rules.backdate
        if not _asks_for_validity(template):
            return earliest, now + rules.validity
        if rules.max_validity is None:
            changes.append("validity is the profile's")
            return earliest, now + rules.validity
        first, last = template.not_before, template.not_after
        not_before = earliest if first is None else max(earliest, first)
        not_after = min(not_before + rules.validity if last is None else last, now + rules.max_validity)
        if not_after <= max(now, not_before):
            raise BadCertTemplate(
                f"validity: want an end after now and after the beginning, both within "
                f"{duration_text(rules.max_validity)}; have another"
            )
        if first not in (None, not_before):
            changes.append("validity begins later")
        if last not in (None, not_after):
            changes.append(f"validity ends earlier: the profile allows {duration_text(rules.max_validity)}")
        return not_before, not_after


def _asks_for_validity(template: Template) -> bool:
    return template.not_before is not None or template.not_after is not None


def _check_fields(template: Template) -> None:
    """The fields that RFC 4211 section 5 and RFC 9483 section 4.1.1 forbid in a certification request."""
    if template.forbidden:
        raise BadCertTemplate(f"CertTemplate: must not have {', '.join(template.forbidden)} (RFC 4211 section 5)")
    if template.version not in (None, 2):
        raise BadCertTemplate(f"CertTemplate.version: want 2 (v3) or none, have {template.version}")
