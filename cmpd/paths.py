"""Certification paths (RFC 5280 section 6): from a certificate to a trust anchor, found and checked in one search.

cryptography's own verifier is made for the web and refuses what devices and their CAs have. This search goes up from
the leaf, depth first, trust anchors before other certificates, and checks each step as it is taken: validity,
basicConstraints, pathLenConstraint, keyUsage, critical extensions, key and algorithm, signature, name constraints. A
trust anchor's own certificate is held to the same rules, except for its signature. What a hostile set of certificates
can cost is bounded in octets, certificates, signatures and comparisons.

Policies: any policy will do and none is demanded, so certificatePolicies, policyMappings and inhibitAnyPolicy change
nothing; a CA certificate that demands an explicit policy (policyConstraints) is refused. extKeyUsage is not looked at:
CMP has no purpose for end entities. Revocation is not looked at here either. There is no tolerance for wrong clocks.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cmpd.certificates import Certificate, read_certificate, verify_signature
from cmpd.errors import BadDataFormat, SignerNotTrusted
from cmpd.name_constraints import MatchForm, constraint_fault

LEAF_NOUN: Final = "protection certificate"


@dataclass(frozen=True, slots=True)
class PathLimits:
    """What one search may cost at most.

    `max_certificates`: in `others`; `max_octets`: of the leaf and all others; `max_depth`: certificates in a path with
    leaf and trust anchor; `max_comparisons`: of a name with a name constraint.
    """

    max_certificates: int = 16
    max_octets: int = 131_072
    max_depth: int = 8
    max_verifications: int = 32
    max_comparisons: int = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class TrustAnchor:
    """A certificate that is trusted for being configured or registered: a CA's, or that of the leaf itself."""

    certificate: Certificate


class TrustAnchors:
    """Trust anchors, to be found by the SHA-256 of their certificate and by their name."""

    def __init__(self, certificates: Iterable[Certificate] = ()) -> None:
        """Earlier ones are tried first."""
        self._by_fingerprint: dict[bytes, TrustAnchor] = {}
        self._by_name: dict[MatchForm, list[TrustAnchor]] = {}
        for certificate in certificates:
            if certificate.fingerprint not in self._by_fingerprint:
                anchor = self._by_fingerprint[certificate.fingerprint] = TrustAnchor(certificate)
                self._by_name.setdefault(certificate.subject_form, []).append(anchor)

    @classmethod
    def read(cls, certificates: Iterable[bytes]) -> "TrustAnchors":
        """Trust anchors from the DER of certificates; BadDataFormat if one cannot be read."""
        return cls(read_certificate(octets, f"trust anchor {i}") for i, octets in enumerate(certificates))

    def find(self, fingerprint: bytes) -> TrustAnchor | None:
        """The anchor that is this very certificate."""
        return self._by_fingerprint.get(fingerprint)

    def named(self, name: MatchForm) -> Sequence[TrustAnchor]:
        """The anchors with this subject."""
        return self._by_name.get(name, ())


@dataclass(frozen=True, slots=True, eq=False)
class CertificationPath:
    """A path whose checks all passed: the leaf, intermediate certificates upwards, the trust anchor's at the end.

    It is one certificate long if the leaf itself is the anchor. The path holds from `not_before` to `not_after`.
    """

    certificates: tuple[Certificate, ...]
    anchor: TrustAnchor

    @property
    def not_before(self) -> int:
        """When the last of its certificates became valid."""
        return max(certificate.not_before for certificate in self.certificates)

    @property
    def not_after(self) -> int:
        """The last second of the first of its certificates to expire."""
        return min(certificate.not_after for certificate in self.certificates)


Verify = Callable[[Certificate, Certificate], bool]
"""Whether the signature of the first certificate is good under the key of the second."""


def build_path(
    leaf: bytes, others: Sequence[bytes], anchors: TrustAnchors, now: float, limits: PathLimits
) -> CertificationPath:
    """A path from `leaf` (DER) to one of `anchors`, over certificates of `others` in any order.

    BadDataFormat if a certificate cannot be read, SignerNotTrusted if there is no path; the text says what is wrong.
    """
    certificate, rest = read_certificates(leaf, others, limits)
    return find_path(certificate, rest, anchors, now, limits)


def read_certificates(
    leaf: bytes, others: Sequence[bytes], limits: PathLimits, known: Callable[[bytes], Certificate | None] | None = None
) -> tuple[Certificate, list[Certificate]]:
    """Read a leaf and the certificates that came with it; `known` may have some of them by their SHA-256.

    SignerNotTrusted if they are more than `limits` allow, BadDataFormat if the leaf cannot be read. Others that cannot
    be read are left out: RFC 9483 section 3.3 wants certificates that are of no use to be coped with.
    """
    if len(others) > limits.max_certificates:
        raise SignerNotTrusted(f"extraCerts: want at most {limits.max_certificates} besides the protection certificate")
    if len(leaf) + sum(map(len, others)) > limits.max_octets:
        raise SignerNotTrusted(f"extraCerts: want at most {limits.max_octets} octets of certificates")

    def read(octets: bytes, noun: str) -> Certificate:
        found = known(hashlib.sha256(octets).digest()) if known is not None else None
        return found or read_certificate(octets, noun)

    readable = []
    for octets in others:
        with contextlib.suppress(BadDataFormat):
            readable.append(read(octets, "extraCerts"))
    return read(leaf, "protection certificate"), readable


def find_path(
    leaf: Certificate,
    others: Iterable[Certificate],
    anchors: TrustAnchors,
    now: float,
    limits: PathLimits,
    verify: Verify = verify_signature,
) -> CertificationPath:
    """Like `build_path`, for certificates that were read before."""
    fault = leaf.fault or leaf.time_fault(now)
    if fault:
        raise SignerNotTrusted(f"{LEAF_NOUN} {leaf.title}: {fault}")
    itself = anchors.find(leaf.fingerprint)
    if itself is not None:
        return CertificationPath((leaf,), itself)
    search = _Search(others, anchors, now, limits, verify)
    path = search.extend((leaf,))
    if path is None:
        raise SignerNotTrusted(search.fault)
    return path


class _Search:
    """One search, with what it has spent and the fault it will tell: that of the longest path it tried."""

    def __init__(
        self, others: Iterable[Certificate], anchors: TrustAnchors, now: float, limits: PathLimits, verify: Verify
    ) -> None:
        self.fault = ""
        self._rank = (0, 0)
        self._anchors, self._now, self._limits, self._verify = anchors, now, limits, verify
        self._others: dict[MatchForm, dict[bytes, Certificate]] = {}
        for other in others:
            self._others.setdefault(other.subject_form, {})[other.fingerprint] = other
        self._verified: dict[tuple[bytes, bytes], bool] = {}
        self._comparisons = 0

    def extend(self, path: tuple[Certificate, ...]) -> CertificationPath | None:
        """Go on from a path whose certificates below its end are checked; None if it leads to no anchor."""
        child = path[-1]
        if len(path) >= self._limits.max_depth:
            self._blame((len(path), 2), f"extraCerts: want a path of at most {self._limits.max_depth} certificates")
            return None
        candidates = self._candidates(path)
        if not candidates:
            self._blame((len(path), 0), _no_issuer(child, len(path) == 1))
        for issuer, anchor in candidates:
            fault = self._fault(path, issuer)
            if fault:  # of an issuer with the key that the child names there is more to learn than of another one
                self._blame((len(path), 1 if _key_match(child, issuer) == 2 else 2), fault)
            elif anchor is not None:
                return CertificationPath((*path, issuer), anchor)
            elif (found := self.extend((*path, issuer))) is not None:
                return found
        return None

    def _candidates(self, path: tuple[Certificate, ...]) -> list[tuple[Certificate, TrustAnchor | None]]:
        """Who may have issued the last of `path`: trust anchors first, in each group those first whose key is named.

        No name and key comes twice in a path (RFC 4158 section 2.4.2), so there is an end to cross-certificates.
        """
        child = path[-1]
        seen = {(certificate.subject_form, certificate.public_key_info) for certificate in path}
        found: list[tuple[Certificate, TrustAnchor | None]] = []
        found += [(anchor.certificate, anchor) for anchor in self._anchors.named(child.issuer_form)]
        found += [(other, None) for other in self._others.get(child.issuer_form, {}).values()]
        fresh = [pair for pair in found if (pair[0].subject_form, pair[0].public_key_info) not in seen]
        return sorted(fresh, key=lambda pair: (pair[1] is None, _key_match(child, pair[0])))

    def _fault(self, path: tuple[Certificate, ...], issuer: Certificate) -> str:
        child = path[-1]
        own = issuer.fault or issuer.time_fault(self._now) or issuer.ca_fault or _length_fault(path, issuer)
        if own:
            return f"issuer certificate {issuer.title}: {own}"
        noun = LEAF_NOUN if len(path) == 1 else "issuer certificate"
        if child.signature_fault:
            return f"{noun} {child.title}: {child.signature_fault}"
        if not self._signed(child, issuer):
            return f"{noun} {child.title}: its signature does not verify with the key of {issuer.title}"
        return self._constraint_fault(path, issuer)

    def _signed(self, child: Certificate, issuer: Certificate) -> bool:
        pair = (child.fingerprint, issuer.public_key_info)
        if pair not in self._verified:
            if len(self._verified) >= self._limits.max_verifications:
                raise SignerNotTrusted(
                    f"extraCerts: no path found within {self._limits.max_verifications} signature verifications"
                )
            self._verified[pair] = self._verify(child, issuer)
        return self._verified[pair]

    def _constraint_fault(self, path: tuple[Certificate, ...], issuer: Certificate) -> str:
        if issuer.constraints is None:
            return ""
        for i, certificate in enumerate(path):
            if i and certificate.self_issued:
                continue
            self._comparisons += len(certificate.names) * len(issuer.constraints)
            if self._comparisons > self._limits.max_comparisons:
                raise SignerNotTrusted(
                    f"extraCerts: more than {self._limits.max_comparisons} names to hold against name constraints"
                )
            fault = constraint_fault(issuer.constraints, certificate.names)
            if fault:
                noun = "issuer certificate" if i else LEAF_NOUN
                return f"{noun} {certificate.title}: {issuer.title}'s {fault}"
        return ""

    def _blame(self, rank: tuple[int, int], fault: str) -> None:
        if rank > self._rank:
            self._rank, self.fault = rank, fault


def _no_issuer(child: Certificate, is_leaf: bool) -> str:
    noun = LEAF_NOUN if is_leaf else "issuer certificate"
    if child.self_issued:
        return f"{noun} {child.title}: self-signed and not a trust anchor"
    return f"{noun} {child.title}: no certificate of its issuer {child.issuer_text} found"


def _length_fault(path: tuple[Certificate, ...], issuer: Certificate) -> str:
    below = sum(not certificate.self_issued for certificate in path[1:])
    if issuer.path_length is None or below <= issuer.path_length:
        return ""
    return f"its pathLenConstraint wants at most {issuer.path_length} CA certificates below it, have {below}"


def _key_match(child: Certificate, issuer: Certificate) -> int:
    """0: the child's AuthorityKeyIdentifier names the issuer's key; 1: nothing is known; 2: it names another."""
    wanted, have = child.issuer_key_identifier, issuer.key_identifier
    return 1 if wanted is None or have is None else 0 if wanted == have else 2
