"""Name constraints of CA certificates (RFC 5280 section 4.2.1.10).

A name and the base of a subtree are both a pair (form, value), the form as RFC 5280 spells it in GeneralName. A table
says for each form how a name is held against a base. A form without a row (otherName, registeredID) cannot be compared:
when a constraint of that form meets a name of that form, the certificate is refused, and so is a name that a constraint
applies to and that has no usable value (a URI without a host name, a mailbox without "@").
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509

from cmpd.asn1 import der
from cmpd.asn1.general_names import DNS_NAME, IP_ADDRESS, RFC822_NAME, URI
from cmpd.asn1.names import ATTRIBUTE_TYPES, DIRECTORY_NAME, Name, attribute_texts, fold, read_name

PlainName = tuple[str, Any]
"""A GeneralName as (form, value): a MatchForm for directoryName, an address or network for iPAddress, else a text."""

MatchForm = tuple[tuple[tuple[bytes, int, str], ...], ...]
"""A Name so that two that match by RFC 5280 section 7.1 are equal: usable as a key, and by prefix as a subtree."""

_CASELESS: Final = frozenset(
    {der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING, der.NUMERIC_STRING}
    | {der.VISIBLE_STRING, der.BMP_STRING, der.UNIVERSAL_STRING}
)
_EMAIL_ADDRESS: Final = ATTRIBUTE_TYPES["emailAddress"].oid

_FORMS: Final[dict[type[x509.GeneralName], str]] = {
    x509.DirectoryName: "directoryName",
    x509.DNSName: "dNSName",
    x509.RFC822Name: "rfc822Name",
    x509.IPAddress: "iPAddress",
    x509.UniformResourceIdentifier: "uniformResourceIdentifier",
    x509.RegisteredID: "registeredID",
    x509.OtherName: "otherName",
}


@dataclass(frozen=True, slots=True)
class Subtrees:
    """The value of one NameConstraints extension."""

    permitted: tuple[PlainName, ...]
    excluded: tuple[PlainName, ...]

    def __len__(self) -> int:
        """How many bases each name has to be held against."""
        return len(self.permitted) + len(self.excluded)


def match_form(name: Name) -> MatchForm:
    """What a Name is compared by: letter case, runs of spaces and the string type do not count."""
    return tuple(
        tuple(sorted((oid, 0, fold(text)) if tag in _CASELESS else (oid, tag, text) for oid, tag, text in rdn))
        for rdn in name
    )


def plain_names(names: Iterable[x509.GeneralName] | None) -> tuple[PlainName, ...]:
    """GeneralNames as pairs. DerError if a directoryName is over the bounds of asn1/names.py."""
    return tuple((_FORMS[type(name)], _value(name)) for name in names or ())


def _value(name: x509.GeneralName) -> Any:
    if isinstance(name, x509.DirectoryName):
        return match_form(read_name(name.value.public_bytes()))
    return name.value


def names_of(subject: Name, alternatives: x509.SubjectAlternativeName | None) -> tuple[PlainName, ...]:
    """All names of a certificate that constraints apply to.

    The subject, if it is not empty, and subjectAltName; emailAddress attributes of the subject where that is absent.
    """
    own: list[PlainName] = [("directoryName", match_form(subject))] if subject else []
    if alternatives is None:
        own += [("rfc822Name", text) for text in attribute_texts(subject, _EMAIL_ADDRESS)]
    return (*own, *plain_names(alternatives))


def read_constraints(extension: x509.NameConstraints, value: bytes) -> Subtrees | None:
    """The subtrees of a NameConstraints extension, `value` being its DER; None if minimum or maximum are in it."""
    start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "nameConstraints")
    for _, _, inner, after in der.children(value, start, stop, 2):
        for _, _, first, last in der.children(value, inner, after):
            if len(der.children(value, first, last)) != 1:
                return None
    return Subtrees(plain_names(extension.permitted_subtrees), plain_names(extension.excluded_subtrees))


@dataclass(frozen=True, slots=True)
class IssuingLimits:
    """What CA certificates say of certificates below them. `path_length`: CAs that may be between, None: any."""

    subtrees: tuple[Subtrees, ...]
    path_length: int | None

    def fault(self, subject: bytes, san: bytes | None) -> str:
        """What is wrong with a certificate with this subject (DER of a Name) and subjectAltName (DER of GeneralNames);
        empty if nothing is.
        """
        if not self.subtrees:
            return ""
        names = names_of(read_name(subject), None)
        if san is not None:
            names = (*(one for one in names if one[0] == "directoryName"), *_encoded_names(san))
        return next((fault for one in self.subtrees if (fault := constraint_fault(one, names))), "")


_TAGS: Final[dict[int, tuple[str, Callable[[bytes], Any]]]] = {
    RFC822_NAME: ("rfc822Name", bytes.decode),
    DNS_NAME: ("dNSName", bytes.decode),
    URI: ("uniformResourceIdentifier", bytes.decode),
    IP_ADDRESS: ("iPAddress", ipaddress.ip_address),
    DIRECTORY_NAME: ("directoryName", lambda contents: match_form(read_name(contents))),
}
"""What certificates of this CA may have in subjectAltName (profiles/alt_names.py), by the tag."""


def _encoded_names(san: bytes) -> tuple[PlainName, ...]:
    """The names in the DER of GeneralNames that was checked before."""
    start, stop = der.expect(san, 0, len(san), der.SEQUENCE, "subjectAltName")
    return tuple(
        (_TAGS[tag][0], _TAGS[tag][1](san[inner:after])) for tag, _, inner, after in der.children(san, start, stop)
    )


def match_general_names(san: bytes) -> tuple[tuple[str, str], ...]:
    """What the DER of GeneralNames that was checked before is compared by: neither the order nor the letter case of
    hosts counts (RFC 5280 sections 7.2 to 7.5), nor how often a name is there.
    """
    return tuple(sorted({(form, _comparable(form, value)) for form, value in _encoded_names(san)}))


def _comparable(form: str, value: Any) -> str:
    if form == "dNSName":
        return str(value.lower())
    if form == "rfc822Name":
        local, _, host = value.rpartition("@")
        return f"{local}@{host.lower()}"
    if form == "uniformResourceIdentifier":
        parts = urlsplit(value)
        return str(parts._replace(netloc=parts.netloc.lower()).geturl())
    return repr(value)


def issuing_limits(path: Sequence[bytes]) -> IssuingLimits | None:
    """The limits of CA certificates (DER), the issuer first and those above it after it; None if there are none.

    ValueError or DerError if one of them cannot be read, or has constraints that RFC 5280 excludes.
    """
    subtrees: list[Subtrees] = []
    lengths: list[int] = []
    for above, octets in enumerate(path):
        extensions = x509.load_der_x509_certificate(octets).extensions
        for extension in extensions:
            if isinstance(extension.value, x509.NameConstraints):
                found = read_constraints(extension.value, extension.value.public_bytes())
                if found is None:
                    raise ValueError("its name constraints have minimum or maximum, which RFC 5280 excludes")
                subtrees.append(found)
            elif isinstance(extension.value, x509.BasicConstraints) and extension.value.path_length is not None:
                lengths.append(max(0, extension.value.path_length - above))
    if not subtrees and not lengths:
        return None
    return IssuingLimits(tuple(subtrees), min(lengths, default=None))


def constraint_fault(subtrees: Subtrees, names: Sequence[PlainName]) -> str | None:
    """What is wrong with a certificate that has `names` under a CA certificate with `subtrees`; None if nothing is."""
    for form, value in names:
        permitted = [base for base_form, base in subtrees.permitted if base_form == form]
        excluded = [base for base_form, base in subtrees.excluded if base_form == form]
        if not permitted and not excluded:
            continue
        within = _WITHIN.get(form)
        if within is None:
            return f"name constraints on the form {form} are not supported"
        if any(within(value, base) is not False for base in excluded):
            return f"name constraints exclude its {form}"
        if permitted and not any(within(value, base) for base in permitted):
            return f"name constraints do not permit its {form}"
    return None


# --- one function per form: whether a name is within the subtree of a base, None if it cannot be compared ------------


def _directory_name(name: MatchForm, base: MatchForm) -> bool:
    return name[: len(base)] == base


def _dns_name(name: str, base: str) -> bool | None:
    name, base = name.lower().removesuffix("."), base.lower().removesuffix(".")
    if not base or name == base:
        return True
    if name.startswith("*.") and base.removeprefix(".").partition(".")[2] == name[2:]:
        return None  # the wildcard stands for names within the base and for others
    return name.endswith(base if base.startswith(".") else "." + base)


def _host(host: str, base: str) -> bool:
    """Hosts of URIs and mailboxes: a base that begins with "." means all below it, else this host alone."""
    host, base = host.lower().removesuffix("."), base.lower().removesuffix(".")
    return host.endswith(base) and host != base if base.startswith(".") else not base or host == base


def _mailbox(name: str, base: str) -> bool | None:
    local, at, host = name.rpartition("@")
    if not at or not local or not host:
        return None
    base_local, at, base_host = base.rpartition("@")
    if at:  # the local part counts letter by letter (RFC 5280 section 7.5)
        return local == base_local and host.lower() == base_host.lower()
    return _host(host, base)


def _uri(name: str, base: str) -> bool | None:
    try:
        host = urlsplit(name).hostname
    except ValueError:
        return None
    if not host or not name.isprintable() or "." not in host or _is_address(host):
        return None
    return _host(host, base)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address(name: Any, base: Any) -> bool:
    return name in base


_WITHIN: Final[dict[str, Callable[[Any, Any], bool | None]]] = {
    "directoryName": _directory_name,
    "dNSName": _dns_name,
    "rfc822Name": _mailbox,
    "iPAddress": _address,
    "uniformResourceIdentifier": _uri,
}
