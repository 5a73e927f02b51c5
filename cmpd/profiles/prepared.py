"""What of a profile is made once: encoded extensions, patterns, networks; None where a profile has no such rule.

The rules themselves stay in ProfileConfig. What is here is looked at for each certificate, so a profile without a rule
costs a comparison with None and nothing more.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.general_names import DNS_NAME, IP_ADDRESS, RFC822_NAME, URI
from cmpd.asn1.names import encode_name
from cmpd.asn1.oids import contents
from cmpd.config_profiles import ProfileConfig
from cmpd.patterns import Pattern
from cmpd.profiles.subject import SubjectRules, subject_rules

OID_CRL_DISTRIBUTION_POINTS: Final = contents("2.5.29.31")
OID_FRESHEST_CRL: Final = contents("2.5.29.46")
OID_AUTHORITY_INFO_ACCESS: Final = contents("1.3.6.1.5.5.7.1.1")
OID_NAME_CONSTRAINTS: Final = contents("2.5.29.30")
OID_POLICIES: Final = contents("2.5.29.32")

_AD_OCSP: Final = der.encode_oid("1.3.6.1.5.5.7.48.1")
_AD_CA_ISSUERS: Final = der.encode_oid("1.3.6.1.5.5.7.48.2")
_ID_QT_CPS: Final = der.encode_oid("1.3.6.1.5.5.7.2.1")
_ID_QT_UNOTICE: Final = der.encode_oid("1.3.6.1.5.5.7.2.2")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class SanRules:
    """What names of subjectAltName must look like, by the kind's word in the configuration; `networks` None: any."""

    patterns: dict[str, Pattern]
    networks: tuple[Network, ...] | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """`policies`, `name_constraints`: the Extensions, None without any; `policy_oids`: contents octets. `locations`:
    the Extensions in the place of the CA's, None: the CA's.
    """

    subject: SubjectRules | None
    san: SanRules | None
    policies: bytes | None
    policy_oids: frozenset[bytes]
    locations: bytes | None
    name_constraints: bytes | None


def prepare(rules: ProfileConfig) -> Prepared:
    """Make it; ProfileConfig has checked all there is to check."""
    networks = None if rules.san_networks is None else tuple(map(ipaddress.ip_network, rules.san_networks))
    patterns: dict[str, Pattern] = {kind: Pattern(text) for kind, text in rules.san_patterns.items()}
    oids = {oid: der.encode_oid(oid) for oid in rules.policies}
    policies = None
    if oids:
        notices = rules.policy_notices
        infos = (_policy_information(oids[oid], cps, notices.get(oid, "")) for oid, cps in rules.policies.items())
        policies = encode_extension(OID_POLICIES, der.seq(*infos))
    urls = (rules.crl_urls, rules.delta_crl_urls, rules.ocsp_urls, rules.issuer_urls)
    return Prepared(
        subject=subject_rules(rules),
        san=SanRules(patterns, networks) if patterns or networks else None,
        policies=policies,
        policy_oids=frozenset(encoded[2:] for encoded in oids.values()),
        locations=None if urls == (None,) * 4 else encode_urls(*(found or () for found in urls)),
        name_constraints=_name_constraints(rules),
    )


def encode_extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    """The DER of one Extension; `oid` is contents octets, `value` what goes into extnValue."""
    flag = der.encode_boolean(True) if critical else b""
    return der.seq(der.tlv(der.OID, oid), flag, der.encode_octets(value))


def _policy_information(oid: bytes, cps: str, notice: str) -> bytes:
    """PolicyInformation (RFC 5280 section 4.2.1.4), with the qualifiers CPSuri and UserNotice if there are texts."""
    qualifiers = []
    if cps:
        qualifiers.append(der.seq(_ID_QT_CPS, der.tlv(der.IA5_STRING, cps.encode("ascii"))))
    if notice:
        qualifiers.append(der.seq(_ID_QT_UNOTICE, der.seq(der.encode_utf8(notice))))
    return der.seq(oid, der.seq(*qualifiers)) if qualifiers else der.seq(oid)


def _name_constraints(rules: ProfileConfig) -> bytes | None:
    """NameConstraints, critical (RFC 5280 section 4.2.1.10); None if the profile limits no names."""
    parts = []
    for tag, subtrees in ((0xA0, rules.permitted_names), (0xA1, rules.excluded_names)):
        bases = [der.seq(_BASES[kind](base)) for kind, texts in subtrees.items() for base in texts]
        if bases:
            parts.append(der.tlv(tag, b"".join(bases)))
    return encode_extension(OID_NAME_CONSTRAINTS, der.seq(*parts), critical=True) if parts else None


def _uri(url: str) -> bytes:
    return der.tlv(URI, url.encode("ascii"))


def _network_base(text: str) -> bytes:
    network = ipaddress.ip_network(text)
    return der.tlv(IP_ADDRESS, network.network_address.packed + network.netmask.packed)


_BASES: Final[dict[str, Callable[[str], bytes]]] = {
    "email": lambda text: der.tlv(RFC822_NAME, text.encode("ascii")),
    "dns": lambda text: der.tlv(DNS_NAME, text.encode("ascii")),
    "dn": lambda text: der.explicit(4, encode_name(text)),
    "uri": _uri,
    "ip": _network_base,
}
"""The GeneralName that is the base of a subtree, by the kind's word in the configuration."""


def encode_urls(crl: tuple[str, ...], delta: tuple[str, ...], ocsp: tuple[str, ...], issuers: tuple[str, ...]) -> bytes:
    """CRLDistributionPoints, FreshestCRL and authorityInfoAccess, one after the other, those that have URLs; none of
    them critical (RFC 5280 sections 4.2.1.13, 4.2.1.15 and 4.2.2.1).
    """
    made = []
    if crl:
        made.append(encode_extension(OID_CRL_DISTRIBUTION_POINTS, _distribution_points(crl)))
    if delta:
        made.append(encode_extension(OID_FRESHEST_CRL, _distribution_points(delta)))
    access = [_access(_AD_OCSP, url) for url in ocsp] + [_access(_AD_CA_ISSUERS, url) for url in issuers]
    if access:
        made.append(encode_extension(OID_AUTHORITY_INFO_ACCESS, der.seq(*access)))
    return b"".join(made)


def _access(method: bytes, url: str) -> bytes:
    return der.seq(method, _uri(url))


def _distribution_points(urls: tuple[str, ...]) -> bytes:
    """One DistributionPoint: its fullName has all URLs, which lead to the same CRL (RFC 5280 section 4.2.1.13). The
    choices inside are tagged explicitly, GeneralNames implicitly.
    """
    names = der.tlv(0xA0, b"".join(map(_uri, urls)))
    return der.seq(der.seq(der.explicit(0, names)))
