import ipaddress
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.certificates import Certificate, read_certificate, verify_signature
from cmpd.errors import BadDataFormat, SignerNotTrusted
from cmpd.paths import CertificationPath, PathLimits, TrustAnchors, build_path, find_path, read_certificates
from tests.chains import DAY, KEYS, NOW, Node, chain, issue, leaf, name, usage

LIMITS = PathLimits()


def path_of(
    end: Node, others: Sequence[Node], anchors: Sequence[Node], *, now: float = NOW, limits: PathLimits = LIMITS
) -> CertificationPath:
    found = build_path(end.der, [n.der for n in others], TrustAnchors.read(n.der for n in anchors), now, limits)
    ders = [certificate.der for certificate in found.certificates]
    assert ders[0] == end.der
    assert set(ders[1:]) <= {node.der for node in (*others, *anchors)}
    assert ders[-1] == found.anchor.certificate.der
    return found


def refusal(end: Node, others: Sequence[Node], anchors: Sequence[Node], **options: Any) -> str:
    with pytest.raises(SignerNotTrusted) as caught:
        path_of(end, others, anchors, **options)
    return caught.value.text


class Counter:
    """Counts signature verifications and does them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, child: Certificate, issuer: Certificate) -> bool:
        self.count += 1
        return verify_signature(child, issuer)


def counted(end: Node, others: Sequence[Node], anchors: Sequence[Node], limits: PathLimits = LIMITS) -> tuple[int, str]:
    """How many signatures were verified, and the refusal ("" if there is a path)."""
    counter = Counter()
    certificate, rest = read_certificates(end.der, [node.der for node in others], limits)
    try:
        find_path(certificate, rest, TrustAnchors.read(node.der for node in anchors), NOW, limits, counter)
    except SignerNotTrusted as error:
        return counter.count, error.text
    return counter.count, ""


# --- paths that are there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "ed25519", "ed448"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 8])
def test_a_chain_of_any_length_and_kind_of_key_is_a_path(kind: str, length: int) -> None:
    nodes = chain(length, key=kind)
    found = path_of(nodes[-1], nodes[1:-1], nodes[:1])
    assert [c.der for c in found.certificates] == [node.der for node in reversed(nodes)]


def test_extra_certificates_may_come_in_any_order_with_strangers_among_them() -> None:
    nodes = chain(5)
    strangers = [issue(None, "ca 1"), issue(issue(None, "else"), "ca 2"), leaf(None, "device"), nodes[0], nodes[-1]]
    for seed in range(20):
        others = [*nodes[1:-1], *strangers]
        random.Random(seed).shuffle(others)
        assert len(path_of(nodes[-1], others, nodes[:1]).certificates) == 5


def test_rsassa_pss_signatures_are_verified() -> None:
    root = issue(None, "root", key="rsa")
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    path_of(leaf(root, hash_algorithm=hashes.SHA384(), padding=pss), [], [root])


def test_a_path_holds_from_the_latest_beginning_to_the_earliest_end() -> None:
    root = issue(None, "root", not_before=NOW - 9 * DAY, not_after=NOW + 9 * DAY)
    ca = issue(root, "ca", not_before=NOW - 7 * DAY, not_after=NOW + DAY)
    found = path_of(leaf(ca, not_before=NOW - 2 * DAY), [ca], [root])
    assert (found.not_before, found.not_after) == (NOW - 2 * DAY, NOW + DAY)


def test_a_leaf_that_is_an_anchor_itself_is_trusted_without_any_signature() -> None:
    device = leaf(issue(None, "unknown"))
    assert len(path_of(device, [], [device]).certificates) == 1
    assert counted(device, [], [device]) == (0, "")


def test_an_intermediate_anchor_ends_the_path_below_the_root() -> None:
    root, ca, device = chain(3)
    found = path_of(device, [ca], [ca, root])
    assert [c.der for c in found.certificates] == [device.der, ca.der]


def test_an_anchor_is_found_before_a_cross_certificate_with_its_name_and_key() -> None:
    root, ca = chain(3)[:2]
    cross = issue(root, "ca 1", key=ca.key)
    unmarked = issue(root, "ca 1", key=ca.key, key_ids=False)  # the cross-certificate looks the better candidate
    for anchor in (ca, unmarked):
        found = path_of(leaf(ca), [cross], [root, anchor])
        assert found.anchor.certificate.der == anchor.der


def test_names_match_whatever_their_case_spaces_and_string_type() -> None:
    printable = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "THE  ca", x509.name._ASN1Type.PrintableString)])
    root = issue(None, "The CA")
    path_of(leaf(root, issuer=printable), [], [root])


def test_one_of_several_cas_with_the_same_name_is_the_issuer() -> None:
    roots = [issue(None, "root") for _ in range(5)]
    for root in roots:
        assert counted(leaf(root), [], roots) == (1, "")  # the key identifier says which
        assert counted(leaf(root, key_ids=False), [], roots)[1] == ""


def test_a_cross_certified_mess_has_its_path_found() -> None:
    a, b, c = (issue(None, text) for text in "abc")
    cross = [
        issue(x, str(y.certificate.subject.rdns[0].rfc4514_string())[3:], key=y.key)
        for x in (a, b, c)
        for y in (a, b, c)
    ]
    found = path_of(leaf(c), cross, [a])
    assert found.anchor.certificate.der == a.der


def test_a_path_around_an_expired_certificate_is_found() -> None:
    root, ca = chain(3)[:2]
    expired = issue(root, "ca 1", key=ca.key, not_after=NOW - 1)
    for others in ([expired, ca], [ca, expired]):
        path_of(leaf(ca), others, [root])


# --- paths that are refused -----------------------------------------------------------------------------------------


def test_a_missing_issuer_is_named() -> None:
    root, _, device = chain(3)
    assert refusal(device, [], [root]) == (
        "protection certificate CN=device: no certificate of its issuer CN=ca 1 found"
    )
    root, ca, sub, device = chain(4)
    assert refusal(device, [sub], [root]) == "issuer certificate CN=ca 2: no certificate of its issuer CN=ca 1 found"
    path_of(device, [sub, ca], [root])


def test_self_signed_certificates_are_not_trusted_for_being_sent() -> None:
    root, ca, device = chain(3)
    assert refusal(device, [ca, root], [issue(None, "another")]) == (
        "issuer certificate CN=root: self-signed and not a trust anchor"
    )
    alone = leaf(None)
    assert refusal(alone, [alone], []) == "protection certificate CN=device: self-signed and not a trust anchor"


def test_the_first_and_last_second_of_validity_count_and_no_other() -> None:
    root = issue(None, "root", not_before=NOW - 99 * DAY)
    device = leaf(root, not_before=NOW, not_after=NOW + 10)
    for now in (NOW, NOW + 10, NOW + 10.9):
        path_of(device, [], [root], now=now)
    assert refusal(device, [], [root], now=NOW - 0.5) == (
        "protection certificate CN=device: not valid before 2025-06-15T15:06:40Z"
    )
    assert refusal(device, [], [root], now=NOW + 11) == (
        "protection certificate CN=device: expired since 2025-06-15T15:06:50Z"
    )


@pytest.mark.parametrize("at", [0, 1, 2])
def test_every_certificate_of_the_path_must_be_valid_now(at: int) -> None:
    for times, text in (({"not_after": NOW - 1}, "expired since"), ({"not_before": NOW + 1}, "not valid before")):
        options: list[dict[str, Any]] = [{}, {}, {}]
        options[at] = times
        root = issue(None, "root", **options[0])
        ca = issue(root, "ca", **options[1])
        device = leaf(ca, **options[2])
        noun = ("issuer certificate CN=root", "issuer certificate CN=ca", "protection certificate CN=device")[at]
        assert refusal(device, [ca], [root]).startswith(f"{noun}: {text} ")


def test_an_issuer_must_be_a_ca() -> None:
    root = issue(None, "root")
    plain = issue(root, "plain", ca=False)
    wanted = "issuer certificate CN=plain: not a CA: want basicConstraints with cA TRUE"
    assert refusal(leaf(plain), [plain], [root]) == wanted
    assert refusal(leaf(plain), [], [plain]) == wanted
    denied = issue(root, "plain", ca=False, extensions=[(x509.BasicConstraints(False, None), True)])
    assert refusal(leaf(denied), [denied], [root]) == wanted


def test_key_usage_of_an_issuer_must_have_key_cert_sign_if_it_is_there() -> None:
    root = issue(None, "root", key_usage=usage("key_cert_sign", "crl_sign"))
    good = issue(root, "ca", key_usage=usage("key_cert_sign"))
    path_of(leaf(good), [good], [root])
    bad = issue(root, "ca", key_usage=usage("digital_signature", "crl_sign"))
    assert refusal(leaf(bad), [bad], [root]) == "issuer certificate CN=ca: its keyUsage is without keyCertSign"


def test_path_length_constraint_counts_the_cas_below() -> None:
    root = issue(None, "root", path_length=1)
    ca = issue(root, "ca")
    sub = issue(ca, "sub")
    path_of(leaf(ca), [ca], [root])
    path_of(leaf(sub), [ca, sub], [issue(None, "root", key=root.key, path_length=2)])
    path_of(leaf(sub), [ca, sub], [issue(None, "root", key=root.key)])
    subsub = issue(sub, "subsub")
    assert refusal(leaf(subsub), [ca, sub, subsub], [root]) == (
        "issuer certificate CN=root: its pathLenConstraint wants at most 1 CA certificates below it, have 3"
    )


def test_self_issued_cas_do_not_count_against_path_length() -> None:
    root = issue(None, "root", path_length=0)
    rolled = issue(root, "root")
    path_of(leaf(rolled), [rolled], [root])
    other = issue(root, "other")
    assert "pathLenConstraint wants at most 0" in refusal(leaf(other), [other], [root])


def test_a_wrong_signature_is_told_from_a_missing_issuer() -> None:
    root, impostor = issue(None, "root"), issue(None, "root")
    for ids in (True, False):
        assert refusal(leaf(impostor, key_ids=ids), [], [root]) == (
            "protection certificate CN=device: its signature does not verify with the key of CN=root"
        )
    other_kind = issue(None, "root", key="ed25519")
    assert "does not verify" in refusal(leaf(other_kind), [], [root])


def test_critical_extensions_that_are_not_processed_are_refused_anywhere() -> None:
    unknown = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    for at in range(3):
        extensions: list[list[Any]] = [[], [], []]
        extensions[at] = [unknown]
        root = issue(None, "root", extensions=extensions[0])
        ca = issue(root, "ca", extensions=extensions[1])
        text = refusal(leaf(ca, extensions=extensions[2]), [ca], [root])
        assert text.endswith(": critical extension 1.2.3.4 is not supported")
    root = issue(None, "root")
    path_of(leaf(root, extensions=[(unknown[0], False)]), [], [root])


def test_critical_extensions_that_are_processed_are_accepted() -> None:
    root = issue(None, "root")
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)])
    extensions = [
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True),
        (x509.SubjectAlternativeName([x509.DNSName("a.example")]), True),
        (policies, True),
        (x509.InhibitAnyPolicy(0), True),
        (x509.PolicyConstraints(None, 0), True),
    ]
    ca = issue(root, "ca", extensions=extensions[2:])
    path_of(leaf(ca, extensions=extensions[:2]), [ca], [root])


def test_a_ca_that_demands_an_explicit_policy_is_refused() -> None:
    root = issue(None, "root")
    ca = issue(root, "ca", extensions=[(x509.PolicyConstraints(0, None), True)])
    assert refusal(leaf(ca), [ca], [root]) == (
        "issuer certificate CN=ca: its policyConstraints demand an explicit policy, which is not supported"
    )


def test_policy_mappings_of_any_policy_are_refused_and_others_change_nothing() -> None:
    def mappings(*arcs: str) -> x509.UnrecognizedExtension:
        pair = der.seq(*(der.encode_oid(arc) for arc in arcs))
        return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.33"), der.seq(pair))

    root = issue(None, "root")
    ca = issue(root, "ca", extensions=[(mappings("1.2.3", "1.2.4"), True)])
    path_of(leaf(ca), [ca], [root])
    ca = issue(root, "ca", extensions=[(mappings("1.2.3", "2.5.29.32.0"), True)])
    assert refusal(leaf(ca), [ca], [root]) == "issuer certificate CN=ca: its policyMappings map anyPolicy"


def test_weak_keys_are_refused_at_every_place() -> None:
    wanted = {
        "rsa1024": "want an RSA key of 2048 to 8192 bits, have 1024",
        "p192": "want an EC key on one of secp256r1, secp384r1, ",
    }
    for kind, text in wanted.items():
        weak_root = issue(None, "root", key=kind)
        assert text in refusal(leaf(weak_root), [], [weak_root])
        root = issue(None, "root")
        weak = issue(root, "ca", key=kind)
        assert text in refusal(leaf(weak), [weak], [root])
        assert text in refusal(leaf(root, key=kind), [], [root])


def test_an_rsa_key_with_a_long_exponent_is_refused_before_it_is_used() -> None:
    root, other = issue(None, "root"), leaf(None, key="rsa")
    info = read_certificate(other.der, "x").public_key_info
    modulus = other.key.public_key().public_numbers().n
    numbers = rsa.RSAPublicNumbers((1 << 2000) + 1, modulus).public_key()
    slow = numbers.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(SignerNotTrusted, match="want an odd RSA exponent of at least 65537 and at most 64 bits"):
        build_path(patched(other.der, info, slow), [], TrustAnchors.read([root.der]), NOW, LIMITS)


def test_an_x25519_key_whose_secrets_anybody_knows_is_refused_but_harmless_beside_the_path() -> None:
    root, ca, device = chain(3)
    x25519 = der.seq(der.seq(der.encode_oid("1.3.101.110")), der.encode_bits(bytes(32)))
    strange = patched(device.der, read_certificate(device.der, "x").public_key_info, x25519)
    anchors = TrustAnchors.read([root.der])
    build_path(device.der, [strange, ca.der], anchors, NOW, LIMITS)
    with pytest.raises(SignerNotTrusted, match="want a point of large order, have one whose secrets"):
        build_path(strange, [ca.der], anchors, NOW, LIMITS)


def patched(certificate: bytes, old: bytes, new: bytes) -> bytes:
    """The certificate with some octets exchanged, and the lengths around them put right."""
    (whole,) = der.children(certificate, 0, len(certificate))
    tbs, *rest = (certificate[pos:stop] for _, pos, _, stop in der.children(certificate, *whole[2:]))
    _, start, stop = der.header(tbs, 0, len(tbs))
    assert tbs.count(old) == 1
    return der.seq(der.seq(tbs[start:stop].replace(old, new)), *(part.replace(old, new) for part in rest))


SHA256_WITH_RSA, ECDSA_WITH_SHA256 = der.encode_oid("1.2.840.113549.1.1.11"), der.encode_oid("1.2.840.10045.4.3.2")


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("rsa", SHA256_WITH_RSA, "1.2.840.113549.1.1.5"),
        ("rsa", SHA256_WITH_RSA, "1.2.840.113549.1.1.4"),
        ("p256", der.seq(ECDSA_WITH_SHA256), "1.2.840.10045.4.1"),
    ],
)
def test_signatures_with_sha1_and_md5_are_refused_unread(kind: str, old: bytes, new: str) -> None:
    root = issue(None, "root", key=kind)
    identifier = der.encode_oid(new)
    weak = patched(leaf(root).der, old, identifier if kind == "rsa" else der.seq(identifier))
    counter = Counter()
    with pytest.raises(SignerNotTrusted) as caught:
        find_path(read_certificate(weak, "x"), [], TrustAnchors.read([root.der]), NOW, LIMITS, counter)
    digest = "MD5" if new.endswith(".1.4") else "SHA-1"
    assert caught.value.text == (
        f"protection certificate CN=device: its signatureAlgorithm: a signature with {digest} is not accepted, "
        f"use SHA-256, SHA-384 or SHA-512"
    )
    assert counter.count == 0


def test_the_signature_of_an_anchor_itself_does_not_matter() -> None:
    root = issue(None, "root", key="rsa")
    old = patched(root.der, SHA256_WITH_RSA, der.encode_oid("1.2.840.113549.1.1.5"))
    build_path(leaf(root).der, [], TrustAnchors.read([old]), NOW, LIMITS)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_leaf_with_any_bit_flipped_is_refused(data: st.DataObject) -> None:
    octets = bytearray(FLIPPED.der)
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((SignerNotTrusted, BadDataFormat)):
        build_path(bytes(octets), [], FLIPPED_ANCHORS, NOW, LIMITS)


FLIPPED_ROOT = issue(None, "root")
FLIPPED = leaf(FLIPPED_ROOT, extensions=[(x509.SubjectAlternativeName([x509.DNSName("a.example")]), False)])
FLIPPED_ANCHORS = TrustAnchors.read([FLIPPED_ROOT.der])


# --- octets that are no certificate ---------------------------------------------------------------------------------


def test_what_is_no_certificate_is_of_no_use_beside_a_leaf_and_no_leaf() -> None:
    root, ca, device = chain(3)
    anchors = TrustAnchors.read([root.der])
    junk = b"\x30\x03\x02\x01\x05"
    for others in ((ca.der, junk), (device.der, ca.der, junk), (junk, ca.der)):
        assert len(build_path(device.der, others, anchors, NOW, LIMITS).certificates) == 3
    with pytest.raises(BadDataFormat) as caught:
        build_path(junk, (), anchors, NOW, LIMITS)
    assert caught.value.text == "protection certificate: want the DER of a Certificate (RFC 5280 section 4.1)"
    assert caught.value.detail


def test_a_certificate_must_be_der_throughout() -> None:
    device = leaf(None).der
    read_certificate(device, "x")
    serial = x509.load_der_x509_certificate(device).serial_number
    one = der.encode_integer(serial)
    malformed = {
        "octets after it": device + b"\x00",
        "cut off": device[:-1],
        "negative serialNumber": patched(device, one, der.encode_integer(-5)),
        "serialNumber zero": patched(device, one, der.encode_integer(0)),
        "serialNumber not in the fewest octets": patched(device, one, b"\x02\x02\x00\x05"),
        "another algorithm inside": device.replace(ECDSA_WITH_SHA256, der.encode_oid("1.2.840.10045.4.3.3"), 1),
        "extension twice": patched(device, b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x23"),
        "signature of not whole octets": unaligned(leaf),
        "nothing": b"",
    }
    for what, octets in malformed.items():
        with pytest.raises(BadDataFormat):
            read_certificate(octets, what)


def unaligned(make: Callable[..., Node]) -> bytes:
    """A certificate whose signature ends in a zero bit that is said to be unused."""
    octets = next(octets for octets in iter(lambda: make(None).der, b"") if not octets[-1] & 1)
    (whole,) = der.children(octets, 0, len(octets))
    *_, (_, _, start, _) = der.children(octets, *whole[2:])
    return octets[:start] + b"\x01" + octets[start + 1 :]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_octets_are_read_or_refused_as_bad_data(octets: bytes) -> None:
    with pytest.raises(BadDataFormat):
        read_certificate(octets, "x")


def test_names_that_cryptography_warns_of_are_read_in_silence() -> None:
    with pytest.warns(UserWarning, match="length"):
        long = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 100, _validate=False)])
    found = read_certificate(leaf(None, long).der, "x")
    assert len(found.title) == 100


def test_names_in_texts_have_no_control_characters() -> None:
    assert refusal(leaf(None, "a\nb"), [], []).isprintable()


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_more_certificates_or_octets_than_allowed_are_refused_unread() -> None:
    root, device = chain(2)
    anchors = TrustAnchors.read([root.der])
    build_path(device.der, [device.der] * 16, anchors, NOW, LIMITS)
    with pytest.raises(SignerNotTrusted, match="want at most 16 besides the protection certificate"):
        build_path(device.der, [b"junk"] * 17, anchors, NOW, LIMITS)
    with pytest.raises(SignerNotTrusted, match="want at most 131072 octets"):
        build_path(device.der, [bytes(131_072)], anchors, NOW, LIMITS)


def test_a_path_longer_than_allowed_is_refused() -> None:
    nodes = chain(9)
    assert refusal(nodes[-1], nodes[1:-1], nodes[:1]) == "extraCerts: want a path of at most 8 certificates"
    path_of(nodes[-1], nodes[1:-1], nodes[:1], limits=PathLimits(max_depth=9))


def test_certificates_with_equal_names_cannot_cost_more_than_the_allowed_verifications() -> None:
    crowd = [issue(None, "same", key_ids=False) for _ in range(16)]
    count, text = counted(leaf(crowd[0], "same", key_ids=False), crowd, [issue(None, "same")])
    assert 0 < count <= 32
    assert text
    limits = PathLimits(max_verifications=5)
    stranger = issue(None, "same")
    count, text = counted(leaf(stranger, key_ids=False), crowd, [], limits)
    assert (count, text) == (5, "extraCerts: no path found within 5 signature verifications")


def test_a_ladder_of_cross_certificates_is_climbed_within_the_bounds() -> None:
    """Several certificates for each key: many paths, few pairs of certificate and key."""
    keys = [KEYS["p256"]() for _ in range(7)]
    rungs: list[Node] = []
    top = issue(None, "rung 0", key=keys[0])
    for level in range(1, 6):
        parent = Node(top.certificate, keys[level - 1])
        rungs += [issue(parent, f"rung {level}", key=keys[level], issuer=f"rung {level - 1}") for _ in range(3)]
    end = leaf(Node(rungs[-1].certificate, keys[5]), issuer="rung 5")
    count, text = counted(end, rungs, [issue(None, "elsewhere")])
    assert count <= 32
    assert text == "issuer certificate CN=rung 1: no certificate of its issuer CN=rung 0 found"
    assert counted(end, rungs, [top])[1] == ""


def test_mutual_cross_certificates_are_no_endless_loop() -> None:
    a, b = issue(None, "a"), issue(None, "b")
    loop = [issue(a, "b", key=b.key), issue(b, "a", key=a.key)]
    count, text = counted(leaf(a), loop, [])
    assert count <= 4
    assert text


def test_names_held_against_constraints_are_bounded() -> None:
    many = [x509.DNSName(f"h{i}.example") for i in range(200)]
    root = issue(None, "root", extensions=[(x509.NameConstraints(many, None), True)])
    device = leaf(root, extensions=[(x509.SubjectAlternativeName(many), False)])
    assert "more than 10000 names" in refusal(device, [], [root])


# --- name constraints -----------------------------------------------------------------------------------------------


def dn(*pairs: tuple[Any, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


O, CN = NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME  # noqa: E741  # as they are called in names
IP, NET = ipaddress.ip_address, ipaddress.ip_network
MAIL, URI = x509.RFC822Name, x509.UniformResourceIdentifier

CASES: list[tuple[x509.GeneralName, x509.GeneralName, bool | None]] = [
    # base, name, within (None: the name cannot be compared)
    (x509.DNSName("host.example.com"), x509.DNSName("host.example.com"), True),
    (x509.DNSName("host.example.com"), x509.DNSName("WWW.host.Example.com"), True),
    (x509.DNSName("host.example.com"), x509.DNSName("host1.example.com"), False),
    (x509.DNSName("example.com"), x509.DNSName("badexample.com"), False),
    (x509.DNSName("example.com"), x509.DNSName("a.example.com."), True),
    (x509.DNSName(".example.com"), x509.DNSName("a.example.com"), True),
    (x509.DNSName(".example.com"), x509.DNSName("example.com"), False),
    (x509.DNSName(""), x509.DNSName("anything"), True),
    (MAIL("root@example.com"), MAIL("root@EXAMPLE.com"), True),
    (MAIL("root@example.com"), MAIL("Root@example.com"), False),
    (MAIL("example.com"), MAIL("any@example.com"), True),
    (MAIL("example.com"), MAIL("any@sub.example.com"), False),
    (MAIL(".example.com"), MAIL("any@sub.example.com"), True),
    (MAIL(".example.com"), MAIL("any@example.com"), False),
    (MAIL("example.com"), MAIL("no-at-sign"), None),
    (URI("host.example.com"), URI("https://host.example.com:80/x"), True),
    (URI("host.example.com"), URI("https://host.example.com@evil.org/"), False),
    (URI("host.example.com"), URI("https://a.host.example.com/"), False),
    (URI(".example.com"), URI("coap://my.host.example.com"), True),
    (URI(".example.com"), URI("coap://example.com"), False),
    (URI(".example.com"), URI("urn:uuid:1"), None),
    (URI(".example.com"), URI("http://192.0.2.1/"), None),
    (URI(".example.com"), URI("http://[2001:db8::1]/"), None),
    (URI(".example.com"), URI("http://[x/"), None),
    (x509.IPAddress(NET("192.0.2.0/24")), x509.IPAddress(IP("192.0.2.7")), True),
    (x509.IPAddress(NET("192.0.2.0/24")), x509.IPAddress(IP("192.0.3.7")), False),
    (x509.IPAddress(NET("192.0.2.0/24")), x509.IPAddress(IP("2001:db8::1")), False),
    (x509.IPAddress(NET("2001:db8::/32")), x509.IPAddress(IP("2001:db8::1")), True),
    (x509.DirectoryName(dn((O, "Acme"))), x509.DirectoryName(dn((O, "ACME"), (CN, "x"))), True),
    (x509.DirectoryName(dn((O, "Acme"))), x509.DirectoryName(dn((O, "Acme Ltd"))), False),
    (x509.DirectoryName(dn((O, "Acme"), (CN, "x"))), x509.DirectoryName(dn((O, "Acme"))), False),
    (x509.DirectoryName(dn((O, "Acme"))), x509.DirectoryName(dn((CN, "x"), (O, "Acme"))), False),
]


@pytest.mark.parametrize(("base", "alternative", "within"), CASES)
def test_each_form_of_name_is_held_against_its_constraints(
    base: x509.GeneralName, alternative: x509.GeneralName, within: bool | None
) -> None:
    form = type(base).__name__
    root = issue(None, "root")
    permitting = issue(root, "ca", extensions=[(x509.NameConstraints([base], None), True)])
    excluding = issue(root, "ca", extensions=[(x509.NameConstraints(None, [base]), True)])
    extensions = [(x509.SubjectAlternativeName([alternative]), True)]
    if within:
        path_of(leaf(permitting, "", extensions=extensions), [permitting], [root])
    else:
        text = refusal(leaf(permitting, "", extensions=extensions), [permitting], [root])
        assert text.startswith("protection certificate (empty Name): CN=ca's name constraints do not permit its "), form
    if within is False:
        path_of(leaf(excluding, "", extensions=extensions), [excluding], [root])
    else:
        text = refusal(leaf(excluding, "", extensions=extensions), [excluding], [root])
        assert text.startswith("protection certificate (empty Name): CN=ca's name constraints exclude its "), form


def test_directory_name_constraints_apply_to_the_subject_and_to_cas_below() -> None:
    acme = x509.NameConstraints([x509.DirectoryName(dn((O, "Acme")))], None)
    root = issue(None, "root", extensions=[(acme, True)])
    path_of(leaf(root, dn((O, "Acme"), (CN, "x"))), [], [root])
    assert refusal(leaf(root, "x"), [], [root]) == (
        "protection certificate CN=x: CN=root's name constraints do not permit its directoryName"
    )
    ca = issue(root, "stranger")
    assert refusal(leaf(ca, dn((O, "Acme"), (CN, "x"))), [ca], [root]) == (
        "issuer certificate CN=stranger: CN=root's name constraints do not permit its directoryName"
    )
    rolled = issue(root, "root")  # self-issued: its own name is not held against the constraint, those below are
    path_of(leaf(rolled, dn((O, "Acme"), (CN, "x"))), [rolled], [root])
    assert "do not permit" in refusal(leaf(rolled, "x"), [rolled], [root])
    assert "do not permit" in refusal(leaf(root, "root"), [], [root])  # the end of a path is no exception


def test_constraints_of_all_cas_apply_together() -> None:
    root = issue(None, "root", extensions=[(x509.NameConstraints([x509.DNSName("example.com")], None), True)])
    ca = issue(root, "ca", extensions=[(x509.NameConstraints([x509.DNSName("example.net")], None), True)])
    for host in ("a.example.com", "a.example.net"):
        device = leaf(ca, extensions=[(x509.SubjectAlternativeName([x509.DNSName(host)]), False)])
        assert "do not permit its dNSName" in refusal(device, [ca], [root])
    path_of(leaf(ca), [ca], [root])  # no name of that form: nothing to constrain


def test_mail_addresses_in_the_subject_count_when_there_is_no_alternative_name() -> None:
    root = issue(None, "root", extensions=[(x509.NameConstraints([MAIL("example.com")], None), True)])
    subject = dn((CN, "x"), (NameOID.EMAIL_ADDRESS, "a@evil.org"))
    assert "do not permit its rfc822Name" in refusal(leaf(root, subject), [], [root])
    good = dn((CN, "x"), (NameOID.EMAIL_ADDRESS, "a@example.com"))
    path_of(leaf(root, good), [], [root])


def test_constraints_that_are_not_understood_are_refused_where_they_apply() -> None:
    registered = x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
    root = issue(None, "root", extensions=[(x509.NameConstraints(None, [registered]), True)])
    path_of(leaf(root), [], [root])
    device = leaf(root, extensions=[(x509.SubjectAlternativeName([registered]), False)])
    assert refusal(device, [], [root]) == (
        "protection certificate CN=device: CN=root's name constraints on the form registeredID are not supported"
    )


@pytest.mark.parametrize("bounds", [b"\x80\x01\x01", b"\x81\x01\x05"])
def test_minimum_and_maximum_in_constraints_are_refused(bounds: bytes) -> None:
    subtree = der.seq(der.tlv(0x82, b"example.com"), bounds)
    value = der.seq(der.tlv(0xA0, subtree))
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.30"), value)
    root = issue(None, "root", extensions=[(extension, True)])
    assert "have minimum or maximum" in refusal(leaf(root), [], [root])


def test_a_form_of_name_that_cannot_be_read_is_refused_only_in_the_path() -> None:
    """An x400Address is lawful, but nothing here understands it."""
    value = der.seq(der.tlv(0xA3, der.seq()))
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), value)
    root, ca, device = chain(3)
    odd = leaf(ca, extensions=[(extension, False)])
    path_of(device, [odd, ca], [root])
    assert "form of GeneralName that is not supported" in refusal(odd, [ca], [root])


def test_trust_anchors_must_be_certificates() -> None:
    with pytest.raises(BadDataFormat, match="trust anchor 1: "):
        TrustAnchors.read([issue(None, name("root")).der, b"junk"])
