"""What a certificate may look like: a Profile turns a CertTemplate into a Grant, or says why not.

A profile knows nothing of who asks (policy.py) nor of the CA's key (ca.py). Everything it decides comes from its
[profile.NAME] section.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from cmpd.asn1 import der
from cmpd.asn1.names import ATTRIBUTE_TYPES, NULL_DN, name_text, read_name
from cmpd.config import ProfileConfig
from cmpd.errors import BadCertTemplate
from cmpd.profiles.base import Grant, Wish, check_key, key_kind, load_public_key
from cmpd.profiles.extensions import build_extensions
from cmpd.requests import Extension, Template

__all__ = ["Grant", "Profile", "key_kind", "load_public_key"]

_ATTRIBUTES: Final = {row.oid: (name, row.limit) for name, row in ATTRIBUTE_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Profile:
    """One [profile.NAME] of the configuration."""

    name: str
    rules: ProfileConfig

    def grant(
        self, template: Template, key: PublicKeyTypes, subject: bytes, extensions: tuple[Extension, ...], now: int
    ) -> Grant:
        """What the certificate will be; BadCertTemplate where the profile does not allow it.

        `subject` and `extensions` are those of the template, or what policy put in their place. `now`: Unix seconds.
        """
        _check_fields(template)
        kind = check_key(key, self.rules)
        self._check_subject(subject)
        public_key = template.public_key or b""
        wish = Wish(
            rules=self.rules,
            key_kind=kind,
            public_key=public_key,
            subject_is_empty=subject == NULL_DN,
            extensions={extension.oid: extension for extension in extensions},
        )
        made = build_extensions(wish)
        not_before, not_after = self._validity(template, now, wish.changes)
        return Grant(
            profile=self.name,
            subject=subject,
            subject_text=name_text(subject),
            public_key=public_key,
            not_before=not_before,
            not_after=not_after,
            extensions=made,
            changes=tuple(wish.changes),
        )

    def _check_subject(self, subject: bytes) -> None:
        if subject == NULL_DN:
            if not self.rules.allow_empty_subject or self.rules.subject_required:
                raise BadCertTemplate("subject: empty, which this profile does not allow")
            return
        try:
            found = [attribute for rdn in read_name(subject) for attribute in rdn]
        except der.DerError as fault:
            raise BadCertTemplate(f"subject: {fault}") from None
        names = set()
        for oid, _, text in found:
            name, limit = _ATTRIBUTES.get(oid, ("", 0))
            if not name or (self.rules.subject_allowed is not None and name not in self.rules.subject_allowed):
                raise BadCertTemplate(
                    f"subject: attribute {name or der.dotted(oid)} is not allowed in profile {self.name}"
                )
            if not 0 < len(text) <= limit:
                raise BadCertTemplate(f"subject.{name}: want 1 to {limit} characters, have {len(text)}")
            names.add(name)
        if missing := [name for name in self.rules.subject_required if name not in names]:
            raise BadCertTemplate(f"subject: profile {self.name} requires {', '.join(missing)}")

    def _validity(self, template: Template, now: int, changes: list[str]) -> tuple[int, int]:
        """The validity in Unix seconds. The CA bounds it further by its own (ca.py)."""
        rules = self.rules
        earliest = now - rules.backdate
        not_before, not_after = earliest, now + rules.validity
        if template.not_before is None and template.not_after is None:
            return not_before, not_after
        if rules.max_validity is None:
            changes.append("validity is the profile's")
            return not_before, not_after
        if template.not_before is not None:
            not_before = max(earliest, template.not_before)
        if template.not_after is not None:
            not_after = template.not_after
        elif template.not_before is not None:
            not_after = not_before + rules.validity
        not_after = min(not_after, now + rules.max_validity)
        if not_after <= max(now, not_before):
            raise BadCertTemplate("validity: the certificate would be expired already, or never valid")
        if not_before != (template.not_before or not_before) or not_after != (template.not_after or not_after):
            changes.append(f"validity within the {rules.max_validity // 86400} days that the profile allows")
        return not_before, not_after


def _check_fields(template: Template) -> None:
    """The fields that RFC 4211 section 5 and RFC 9483 section 4.1.1 forbid in a certification request."""
    if template.forbidden:
        raise BadCertTemplate(f"CertTemplate: must not have {', '.join(template.forbidden)} (RFC 4211 section 5)")
    if template.version not in (None, 2):
        raise BadCertTemplate(f"CertTemplate.version: want 2 (v3) or none, have {template.version}")
