"""The table [profile.NAME] of cmpd.toml: what a certificate may look like.

See config.py for how such models are written. A key that says what may be in a certificate comes before the keys that
say what must be, so that each check finds what it has to agree with; what contradicts itself is a mistake here and no
refusal later. Patterns are those of patterns.py: they cost a time that is linear in the value.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from cmpd.asn1 import names
from cmpd.config_values import (
    CA_KEY_USAGES,
    DAY,
    DISTINCT,
    MINUTE,
    NOT_EMPTY,
    Attribute,
    Flag,
    KeyType,
    KeyUsage,
    Purpose,
    SanType,
    Table,
    duration_text,
    shown,
    span,
    within,
)
from cmpd.errors import BadCertTemplate
from cmpd.name_syntax import check_name, is_email, is_host
from cmpd.patterns import Pattern
from cmpd.public_keys import KEY_CAN

_ONLY: Final = ("encipherOnly", "decipherOnly")


def _pattern(value: str) -> str:
    Pattern(value)
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network("" if "%" in value else value)  # a zone is in no certificate
    except ValueError:
        raise ValueError(f'want a network such as "192.0.2.0/24" or "2001:db8::/32", have {shown(value)}') from None
    return value


def _policy(value: str) -> str:
    if not re.fullmatch(r"([01]\.[1-3]?[0-9]|2\.(0|[1-9][0-9]{0,8}))(\.(0|[1-9][0-9]{0,38})){1,30}", value):
        raise ValueError(f"want the dotted OID of a policy, have {shown(value)}")
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"(https?|ldaps?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[!-;=?-~]*)?", value):
        raise ValueError(f'want a URL such as "http://pki.example.com/x.crl", have {shown(value)}')
    return value


def _text(value: str) -> str:
    if not (0 < len(value) <= 200 and value.isprintable()):
        raise ValueError(f"want a text of 1 to 200 characters on one line, have {shown(value)}")
    return value


def _name(text: str) -> bool:
    """Whether a distinguished name with something in it is meant; ValueError if it is none."""
    name = names.read_name(names.encode_name(text))
    check_name(name, "name")
    return bool(name)


_BASES: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "dns": ('a domain such as "example.com"', is_host),
    "ip": ('a network such as "192.0.2.0/24"', _network),
    "email": (
        'a mailbox, a host, or all below ".example.com"',
        lambda text: is_email(text) or is_host(text.removeprefix(".")),
    ),
    "uri": ('a host, or all below ".example.com"', lambda text: "." in text and is_host(text.removeprefix("."))),
    "dn": ('the beginning of names such as "O=Example,C=DE"', _name),
}
"""What the base of a subtree looks like, by the kind of name (RFC 5280 section 4.2.1.10), and what checks it."""

PatternText = Annotated[str, AfterValidator(_pattern)]
Network = Annotated[str, AfterValidator(_network)]
PolicyOid = Annotated[str, AfterValidator(_policy)]
Url = Annotated[str, AfterValidator(_url)]
Urls = Annotated[tuple[Url, ...] | None, DISTINCT]
NoticeText = Annotated[str, AfterValidator(_text)]
Subtrees = dict[SanType, Annotated[tuple[str, ...], NOT_EMPTY, DISTINCT]]


class ProfileConfig(Table):
    """What a certificate may look like. Every [profile.NAME] is one; entities are registered for some of them."""

    keys: Annotated[tuple[KeyType, ...], NOT_EMPTY, DISTINCT] = get_args(KeyType)
    """Types of public keys."""
    rsa_min_bits: int = Field(default=2048, strict=True, ge=2048, le=16_384)
    """Smallest RSA modulus, in bits."""
    rsa_max_bits: int = Field(default=8192, strict=True, ge=2048, le=16_384, validate_default=True)
    """Largest RSA modulus, in bits."""
    validity: Annotated[int, span(1, 36_500 * DAY)] = 365 * DAY
    """How long a certificate is valid when the requester does not choose, or may not."""
    max_validity: Annotated[int | None, span(1, 36_500 * DAY)] = Field(default=None, examples=["730d"])
    """How long a certificate that the requester chose the validity of may be valid. Not set: the validity in a
    request is not honoured."""
    min_validity: Annotated[int | None, span(1, 36_500 * DAY)] = Field(default=None, examples=["1d"])
    """How long such a certificate must be valid at least, from its beginning to its end."""
    backdate: Annotated[int, span(0, 7 * DAY)] = 5 * MINUTE
    """How long before its issue a certificate begins: devices whose clock is late can use it at once."""
    serial_number: Literal["random", "given"] = "random"
    """Who chooses the serial number. "random": the CA; a request must not name one (RFC 4211 section 5). "given": an RA
    may, as long as no certificate of this CA has it."""
    subject_required: Annotated[tuple[Attribute, ...], DISTINCT] = ()
    """Attributes that a subject must have (CN, O, OU, C, serialNumber ...)."""
    subject_allowed: Annotated[tuple[Attribute, ...] | None, DISTINCT] = Field(
        default=None, examples=[["CN", "O", "OU", "serialNumber"]]
    )
    """Attributes that a subject may have. Not set: all that cmpd knows."""
    subject_fixed: dict[Attribute, str] = Field(default={}, validate_default=True)
    """Attributes that every subject has with this value, such as { C = "DE", O = "Example" }: where a request lacks
    one it is put in front, in this order; another value is refused."""
    subject_patterns: dict[Attribute, PatternText] = Field(default={}, validate_default=True)
    """What the values of an attribute must look like as a whole, such as { CN = "pump-[0-9]{1,6}" }: a regular
    expression."""
    subject_order: Annotated[tuple[Attribute, ...] | None, DISTINCT] = Field(
        default=None, examples=[["C", "O", "OU", "CN"]]
    )
    """The order in which a subject has these attributes, first to last; others may be anywhere. Not set: any."""
    allow_empty_subject: Flag = True
    """Allow an empty subject (NULL-DN) where there is a subjectAltName, which is critical then."""
    san_allowed: Annotated[tuple[SanType, ...], DISTINCT] = ("dns", "ip", "email", "uri")
    """Kinds of names in subjectAltName: "dns", "ip", "email", "uri", "dn"."""
    san_required: Flag = False
    """Refuse requests without subjectAltName."""
    san_for_empty_subject: Annotated[tuple[SanType, ...], DISTINCT] = Field(default=(), validate_default=True)
    """Where the subject is empty, a name of one of these kinds must be there. Empty: any kind will do."""
    san_patterns: dict[SanType, PatternText] = Field(default={}, validate_default=True)
    """What names of a kind must look like as a whole, such as { dns = '[a-z0-9-]+\\.example\\.com' }: a regular
    expression. "dns" is matched in small letters, "dn" as in RFC 4514 ("CN=y,O=x"); for "ip" there is san_networks."""
    san_networks: Annotated[tuple[Network, ...] | None, NOT_EMPTY, DISTINCT] = Field(
        default=None, examples=[["192.0.2.0/24", "2001:db8::/32"]]
    )
    """The networks that an "ip" must be in. Not set: any."""
    key_usage: Annotated[tuple[KeyUsage, ...], NOT_EMPTY, DISTINCT] = Field(
        default=("digitalSignature",), validate_default=True
    )
    """keyUsage of a certificate whose request names none."""
    key_usage_allowed: Annotated[tuple[KeyUsage, ...], NOT_EMPTY, DISTINCT] = Field(
        default=("digitalSignature", "nonRepudiation", "keyEncipherment", "keyAgreement"), validate_default=True
    )
    """keyUsage that a request may name. Others that it names are left out, and it is told so."""
    key_usage_forced: Annotated[tuple[KeyUsage, ...], DISTINCT] = ()
    """keyUsage that every certificate has, whatever its request names."""
    key_usage_forbidden: Annotated[tuple[KeyUsage, ...], DISTINCT] = Field(default=(), validate_default=True)
    """keyUsage for which a request is refused."""
    extended_key_usage: Annotated[tuple[Purpose, ...], DISTINCT] = ()
    """extendedKeyUsage of a certificate whose request names none; names as in RFC 5280 or dotted OIDs. cmcCA, cmcRA
    and cmKGA make a CMP server, an RA and a key generation authority (RFC 9810 section 4.5)."""
    extended_key_usage_allowed: Annotated[tuple[Purpose, ...], DISTINCT] = Field(
        default=("clientAuth", "serverAuth", "emailProtection"), validate_default=True
    )
    """extendedKeyUsage that a request may name. Others that it names are left out, and it is told so."""
    extended_key_usage_forced: Annotated[tuple[Purpose, ...], DISTINCT] = ()
    """extendedKeyUsage that every certificate has, whatever its request names."""
    extended_key_usage_forbidden: Annotated[tuple[Purpose, ...], DISTINCT] = Field(default=(), validate_default=True)
    """extendedKeyUsage for which a request is refused."""
    ca: Flag = Field(default=False, validate_default=True)
    """Certificates of this profile are those of CAs (basicConstraints cA TRUE); no others are. Needs key_usage with
    keyCertSign, and crl.issuing_distribution_point = false."""
    path_length: int = Field(default=0, strict=True, ge=0, le=16)
    """How many CAs may be below such a CA, one under the other (pathLenConstraint); a request may ask for fewer."""
    permitted_names: Subtrees = Field(default={})
    """The names that certificates below such a CA may have (nameConstraints), by kind as in san_allowed, such as
    { dns = ["example.com"], ip = ["192.0.2.0/24"], dn = ["O=Example,C=DE"] }; of other kinds they may have any."""
    excluded_names: Subtrees = Field(default={})
    """The names that they may not have, even if permitted_names has them; for none of a kind { dns = [""] }, or
    { ip = ["0.0.0.0/0", "::/0"] }."""
    policies: dict[PolicyOid, str] = Field(default={})
    """The policies of a certificate (certificatePolicies): each OID with the URL of its certification practice
    statement, or "", such as { "1.3.6.1.4.1.99999.1" = "https://pki.example.com/cps" }."""
    policy_notices: dict[PolicyOid, NoticeText] = Field(default={})
    """A text for who relies on a policy of the table above (userNotice, at most 200 characters)."""
    crl_urls: Urls = Field(default=None, examples=[["http://pki.example.com/ca.crl"]])
    """Where its CRL is (CRLDistributionPoints). If this key or one of the next three is set, then they stand in the
    place of all that publish.base_url says; what they do not name is not in the certificate."""
    delta_crl_urls: Urls = Field(default=None, examples=[["http://pki.example.com/delta.crl"]])
    """Where its delta CRL is (FreshestCRL)."""
    ocsp_urls: Urls = Field(default=None, examples=[["http://ocsp.example.com"]])
    """Where OCSP answers for it (authorityInfoAccess)."""
    issuer_urls: Urls = Field(default=None, examples=[["http://pki.example.com/ca.cer"]])
    """Where the CA's certificate is (authorityInfoAccess)."""
    unique_subject: Flag = False
    """One valid certificate for each subject (of an empty one: its subjectAltName) in this profile; kur is allowed.
    What was issued before this was set does not count."""
    key_sharing: Literal["any", "logged", "entity", "none"] = "any"
    """Whose other certificates may have the same key: "any", those of the same "entity", or "none"; kur is about
    allow_key_reuse. Counts what was issued under profiles that have this set to other than "any"."""
    allow_key_reuse: Flag = True
    """Allow kur to ask for a new certificate with the old key."""
    approval: Flag = False
    """An operator has to approve each request (`cmpd request list`, approve, reject); meanwhile the requester is told
    to ask again."""
    await_confirmation: Flag = True
    """Certificates wait for certConf, unless their requester asked for implicitConfirm. false: they are valid at once
    also for clients that know neither (some legacy ones); a certConf that comes is answered as usual."""

    @field_validator("rsa_max_bits")
    @classmethod
    def _above_min(cls, value: int, info: ValidationInfo) -> int:
        low = info.data.get("rsa_min_bits", 2048)
        if value < low:
            raise ValueError(f"want at least rsa_min_bits ({low}), have {value}")
        return value

    @field_validator("max_validity")
    @classmethod
    def _above_default(cls, value: int | None, info: ValidationInfo) -> int | None:
        usual = info.data.get("validity", 0)
        if value is not None and value < usual:
            raise ValueError(
                f"want at least validity ({shown(duration_text(usual))}), have {shown(duration_text(value))}"
            )
        return value

    @field_validator("min_validity")
    @classmethod
    def _below_default(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None:
            return value
        usual = info.data.get("validity", value)
        if info.data.get("max_validity", usual) is None:
            raise ValueError("means nothing without max_validity: the validity in a request is not honoured")
        if value > usual:
            raise ValueError(
                f"want at most validity ({shown(duration_text(usual))}), have {shown(duration_text(value))}"
            )
        return value

    @field_validator("subject_allowed")
    @classmethod
    def _has_required(cls, value: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if value is not None:
            within(info.data.get("subject_required", ()), value, "subject_required")
        return value

    @field_validator("subject_fixed")
    @classmethod
    def _can_be_there(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        _attributes_within(value, info)
        for attribute, text in value.items():
            try:
                _name(f"/{attribute}=" + re.sub(r"([^A-Za-z0-9])", r"\\\1", text))
            except (ValueError, BadCertTemplate) as fault:
                raise ValueError(f"{attribute}: {shown(text)} is no value for it: {_words(fault)}") from None
        return value

    @field_validator("subject_patterns")
    @classmethod
    def _is_not_fixed(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        _attributes_within(value, info)
        for attribute in value:
            if attribute in info.data.get("subject_fixed", ()):
                raise ValueError(f"{attribute} has a value in subject_fixed already")
        return value

    @field_validator("san_required")
    @classmethod
    def _possible(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("san_allowed", True):
            raise ValueError("san_allowed is empty: no request could be granted")
        return value

    @field_validator("san_for_empty_subject", "san_patterns", "san_networks")
    @classmethod
    def _of_allowed_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = ("ip",) if info.field_name == "san_networks" and value else value or ()
        missing = [shown(kind) for kind in kinds if kind not in info.data.get("san_allowed", kinds)]
        if missing:
            raise ValueError(f"is about {', '.join(missing)}, which san_allowed lacks")
        if info.field_name == "san_patterns" and "ip" in kinds:
            raise ValueError('an "ip" has no pattern: say its networks in san_networks')
        return value

    @field_validator("key_usage")
    @classmethod
    def _fits_a_key(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        keys = info.data.get("keys", get_args(KeyType))
        for usage in value:
            if not any(usage in KEY_CAN[key] for key in keys):
                raise ValueError(f"{shown(usage)} fits none of the key types in keys")
        for usage in _ONLY:
            if usage in value and "keyAgreement" not in value:
                raise ValueError(f"{shown(usage)} means nothing without keyAgreement")
        return value

    @field_validator("extended_key_usage", "extended_key_usage_forced")
    @classmethod
    def _stands_alone(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        every = {*value, *(info.data.get("extended_key_usage", ()) if "forced" in str(info.field_name) else ())}
        if "timeStamping" in every and len(every) > 1:
            raise ValueError('"timeStamping" stands alone in a certificate (RFC 3161 section 2.3), without others')
        return value

    @field_validator("key_usage_allowed", "extended_key_usage_allowed")
    @classmethod
    def _has_usage(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        usual = str(info.field_name).removesuffix("_allowed")
        within(info.data.get(usual, ()), value, usual)
        return value

    @field_validator("key_usage_forced", "extended_key_usage_forced")
    @classmethod
    def _is_allowed(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        name = str(info.field_name).replace("_forced", "_allowed")
        for usage in value:
            if usage not in info.data.get(name, value):
                raise ValueError(f"{shown(usage)} is not in {name}")
            if usage in _ONLY:
                raise ValueError(f"{shown(usage)} cannot be forced: it means something beside keyAgreement alone")
        return value

    @field_validator("key_usage_forbidden", "extended_key_usage_forbidden")
    @classmethod
    def _is_not_allowed(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        name = str(info.field_name).replace("_forbidden", "_allowed")
        for usage in value:
            if usage in info.data.get(name, ()):
                raise ValueError(f"{shown(usage)} is in {name} too")
        return value

    @field_validator("ca")
    @classmethod
    def _fits_usage(cls, value: bool, info: ValidationInfo) -> bool:
        for name in ("key_usage", "key_usage_allowed"):
            usages = info.data.get(name, CA_KEY_USAGES)
            if value and "keyCertSign" not in usages:
                raise ValueError(f"{name} lacks keyCertSign, without which a CA can issue nothing")
            if not value and name in info.data and (wrong := [usage for usage in usages if usage in CA_KEY_USAGES]):
                raise ValueError(f"{name} has {shown(wrong[0])}, which only a CA may have: want ca = true")
        return value

    @field_validator("path_length")
    @classmethod
    def _of_a_ca(cls, value: int, info: ValidationInfo) -> int:
        if value and not info.data.get("ca", True):
            raise ValueError("means nothing without ca = true")
        return value

    @field_validator("permitted_names", "excluded_names")
    @classmethod
    def _are_bases(cls, value: dict[str, tuple[str, ...]], info: ValidationInfo) -> dict[str, tuple[str, ...]]:
        if value and not info.data.get("ca", True):
            raise ValueError("means nothing without ca = true")
        others = info.data.get("permitted_names", {}) if info.field_name == "excluded_names" else {}
        for kind, bases in value.items():
            for base in bases:
                if not (_is_base(kind, base) or (base == "" and kind == "dns" and info.field_name == "excluded_names")):
                    raise ValueError(f"{kind}: want {_BASES[kind][0]}, have {shown(base)}")
                if base in others.get(kind, ()):
                    raise ValueError(f"{kind}: {shown(base)} is in permitted_names too")
        return value

    @field_validator("policies")
    @classmethod
    def _have_urls(cls, value: dict[str, str]) -> dict[str, str]:
        for url in value.values():
            if url:
                _url(url)
        return value

    @field_validator("policy_notices")
    @classmethod
    def _are_of_policies(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for oid in value:
            if oid not in info.data.get("policies", value):
                raise ValueError(f"is about {oid}, which policies lacks")
        return value


def _is_base(kind: str, base: str) -> bool:
    try:
        return bool(_BASES[kind][1](base))
    except (ValueError, BadCertTemplate):
        return False


def _words(fault: ValueError | BadCertTemplate) -> str:
    return fault.text if isinstance(fault, BadCertTemplate) else str(fault)


def _attributes_within(value: dict[str, str], info: ValidationInfo) -> None:
    allowed = info.data.get("subject_allowed")
    for attribute in value:
        if allowed is not None and attribute not in allowed:
            raise ValueError(f"is about {attribute}, which subject_allowed lacks")
