"""verify(): who a message comes from, every refusal with its failInfo, and what protects the answer."""

import asyncio
import logging

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der, names, oids
from cmpd.errors import BadAlg, BadDataFormat, BadMessageCheck, SignerNotTrusted
from cmpd.protection import pbm, pbmac1, verify
from cmpd.protection.agreed import tell_of_sha1
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.candidates import read_identity
from tests.protection.fakes import (
    CA_SENDER,
    SECRET,
    SIGNER,
    FakeCredentials,
    certificate,
    envelope,
    private_key,
    sender_credential,
)

POLICY = ProtectionPolicy()
OCTETS = b"the protected part"
MAC = pbm.build(b"12345678", 200)
ES256 = der.seq(der.tlv(der.OID, oids.ECDSA_WITH_SHA256))
NULL_DN = der.explicit(4, names.NULL_DN)
DEVICE = certificate()
OTHER = certificate("CN=other")
SKI = sender_credential(DEVICE).key_identifier


def with_mac(mac=MAC, secret=SECRET, **options):
    return envelope(mac.algorithm, mac.compute(mac.derive(secret), OCTETS), **options)


def with_signature(kind="p256", algorithm=ES256, digest=None, **options):
    made = private_key(kind).sign(OCTETS, ec.ECDSA(digest or hashes.SHA256()))
    return envelope(algorithm, made, **options)


def knowing(reference=b"dev-1", secret=SECRET):
    return FakeCredentials({reference: secret})


@pytest.fixture(autouse=True)
def _no_sha1_told_yet():
    tell_of_sha1.cache_clear()


# --- presence --------------------------------------------------------------------------------------------------------


async def test_an_unprotected_message_is_bad_message_check():
    with pytest.raises(BadMessageCheck, match="unprotected message"):
        await verify(envelope(None, None), knowing(), POLICY, SIGNER)


@pytest.mark.parametrize(("algorithm", "protection"), [(MAC.algorithm, None), (None, b"x")])
async def test_protection_without_algorithm_and_the_reverse_are_bad_data_format(algorithm, protection):
    with pytest.raises(BadDataFormat, match="protectionAlg and protection"):
        await verify(envelope(algorithm, protection), knowing(), POLICY, SIGNER)


async def test_an_unknown_algorithm_is_named():
    algorithm = der.seq(der.encode_oid("1.2.840.113533.7.66.29"))
    with pytest.raises(BadAlg, match=r"protectionAlg: algorithm 1\.2\.840\.113533\.7\.66\.29"):
        await verify(envelope(algorithm, b"x"), knowing(), POLICY, SIGNER)


@pytest.mark.parametrize(
    "algorithm", [b"", b"\x30", b"\x30\x00", b"\x30\x02\x06\x00", b"\x05\x00", MAC.algorithm + b"\0"]
)
async def test_what_is_no_algorithm_identifier_is_bad_data_format(algorithm):
    with pytest.raises(BadDataFormat):
        await verify(envelope(algorithm, b"x"), knowing(), POLICY, SIGNER)


# --- MACs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mac", [MAC, pbmac1.build(b"12345678", 200)])
async def test_a_mac_is_verified_and_the_answer_is_protected_with_the_same_parameters_and_key(mac):
    message = with_mac(mac, sender_kid=b"dev-1")
    verified = await verify(message, knowing(), POLICY, SIGNER)
    assert verified.envelope is message
    requester = verified.requester
    assert (requester.credential, requester.entity.reference) == ("secret:dev-1", "dev-1")
    assert requester.certificate is requester.subject is requester.serial is None
    protector = verified.protector
    assert protector.algorithm == mac.algorithm
    assert (protector.sender, protector.sender_kid, protector.extra_certs) == (CA_SENDER, b"dev-1", ())
    assert await protector.compute(b"answer") == mac.compute(mac.derive(SECRET), b"answer")


async def test_the_secret_is_found_by_sender_kid_without_looking_at_the_sender():
    credentials = knowing()
    await verify(with_mac(sender_kid=b"dev-1", sender=NULL_DN), credentials, POLICY, SIGNER)
    assert credentials.asked == [b"dev-1"]


@pytest.mark.parametrize(("kid", "strict"), [(None, True), (None, False), (b"unknown", False), (b"\xff\xfe", False)])
async def test_the_secret_is_found_by_common_name_without_sender_kid_and_leniently_with_an_unknown_one(kid, strict):
    message = with_mac(sender_kid=kid, sender="/C=DE/CN=dev-1")
    verified = await verify(message, knowing(), POLICY, SIGNER, strict=strict)
    assert verified.requester.credential == "secret:dev-1"
    assert verified.protector.sender_kid == b"dev-1"


@pytest.mark.parametrize("kid", [b"", b"unknown", b"\xff\xfe"])
async def test_strictly_a_sender_kid_of_no_secret_is_a_wrong_mac_whoever_the_sender_is(kid):
    """RFC 9483 section 3.5: if present, senderKID must identify the key material."""
    credentials, texts = knowing(), set()
    for sender in ("/C=DE/CN=dev-1", "/CN=nobody", NULL_DN):
        with pytest.raises(BadMessageCheck) as refusal:
            await verify(with_mac(sender_kid=kid, sender=sender), credentials, POLICY, SIGNER)
        texts.add(refusal.value.text)
    assert len(texts) == 1
    assert credentials.asked == [kid] * 3


@pytest.mark.parametrize(
    "sender",
    [
        NULL_DN,
        "/C=DE",
        "/CN=dev-1/CN=dev-1",
        "/O=dev-1",
        b"\x82\x05dev-1",
        der.explicit(4, b"\x30\x02\x31\x00"),
        b"\xa4\x03\x30\x00\x00",
        b"",
    ],
)
@pytest.mark.parametrize("kid", [None, b"unknown"])
async def test_without_one_common_name_there_is_no_secret_and_the_error_is_the_same(sender, kid):
    message = with_mac(sender_kid=kid, sender=sender)
    with pytest.raises(BadMessageCheck, match="the MAC does not verify"):
        await verify(message, knowing(), POLICY, SIGNER)


async def test_the_text_does_not_tell_an_unknown_reference_from_a_wrong_mac():
    errors = []
    derived = []

    async def offload(job, iterations):
        derived.append(job())
        return derived[-1]

    policy = ProtectionPolicy(inline_iterations=100)
    for message in (with_mac(sender_kid=b"dev-9"), with_mac(sender_kid=b"dev-1", secret=b"guess")):
        with pytest.raises(BadMessageCheck) as caught:
            await verify(message, knowing(), policy, SIGNER, offload=offload)
        errors.append(caught.value)
    assert errors[0].text == errors[1].text
    assert errors[0].detail != errors[1].detail  # for the log alone
    assert len(derived) == 1  # nothing is derived for nobody: that would be work that anybody can ask for


async def test_the_secret_of_nobody_opens_nothing():
    for guess in (b"", bytes(16)):
        with pytest.raises(BadMessageCheck):
            await verify(with_mac(secret=guess, sender_kid=b"dev-9"), knowing(), POLICY, SIGNER)


async def test_a_mac_with_one_bit_changed_or_cut_is_bad_message_check():
    good = with_mac(sender_kid=b"dev-1").protection
    wrong = (bytes([good[0] ^ 1]) + good[1:], good[:-1] + bytes([good[-1] ^ 0x80]), good[:-1], good + b"\0", b"")
    for octets in wrong:
        with pytest.raises(BadMessageCheck, match="the MAC does not verify"):
            await verify(envelope(MAC.algorithm, octets, sender_kid=b"dev-1"), knowing(), POLICY, SIGNER)
    changed = envelope(MAC.algorithm, good, sender_kid=b"dev-1", protected=b"The protected part")
    with pytest.raises(BadMessageCheck, match="the MAC does not verify"):
        await verify(changed, knowing(), POLICY, SIGNER)


async def test_parameters_are_refused_before_anybody_is_looked_up():
    credentials = knowing()
    for algorithm in (pbm.build(b"12345678", 50).algorithm, pbm.build(b"12345678", 1_000_000).algorithm):
        with pytest.raises(BadAlg, match="iterationCount"):
            await verify(envelope(algorithm, b"x", sender_kid=b"dev-1"), credentials, POLICY, SIGNER)
    assert credentials.asked == []


async def test_only_long_derivations_are_offloaded():
    jobs = []

    async def offload(job, iterations):
        assert iterations == count
        jobs.append(job)
        return await asyncio.to_thread(job)

    policy = ProtectionPolicy(inline_iterations=300)
    for count in (300, 301):
        message = with_mac(pbm.build(b"12345678", count), sender_kid=b"dev-1")
        assert (await verify(message, knowing(), policy, SIGNER, offload=offload)).requester.entity.id == 1
        assert len(jobs) == count - 300
        await verify(message, knowing(), policy, SIGNER)  # without offload everything is derived inline


async def test_sha1_is_logged_once_for_each_reference_and_only_after_the_mac_was_right(caplog):
    caplog.set_level(logging.INFO, "cmpd.protection")
    mac = pbm.build(b"12345678", 200, owf="sha256", mac="sha1")
    credentials = FakeCredentials({b"dev-1": SECRET, b"dev-2": SECRET})
    with pytest.raises(BadMessageCheck):
        await verify(with_mac(mac, secret=b"guess", sender_kid=b"dev-1"), credentials, POLICY, SIGNER)
    assert caplog.records == []
    for kid in (b"dev-1", b"dev-1", b"dev-2", b"dev-1"):
        await verify(with_mac(mac, sender_kid=kid), credentials, POLICY, SIGNER)
    assert [record.args for record in caplog.records] == [("dev-1",), ("dev-2",)]
    assert SECRET.decode() not in caplog.text
    await verify(with_mac(sender_kid=b"dev-1"), credentials, POLICY, SIGNER)
    assert len(caplog.records) == 2


async def test_sha1_that_the_policy_refuses_is_bad_alg_with_the_remedy():
    mac = pbm.build(b"12345678", 200, owf="sha1")
    with pytest.raises(BadAlg, match="openssl cmp -digest sha256"):
        await verify(with_mac(mac, sender_kid=b"dev-1"), knowing(), ProtectionPolicy(allow_sha1_mac=False), SIGNER)


async def test_no_secret_is_in_an_error_or_a_representation():
    message = with_mac(sender_kid=b"dev-1")
    verified = await verify(message, knowing(secret=SECRET), POLICY, SIGNER)
    assert "interop" not in repr(verified)
    with pytest.raises(BadMessageCheck) as caught:
        await verify(with_mac(secret=b"x", sender_kid=b"dev-1"), knowing(), POLICY, SIGNER)
    assert "interop" not in caught.value.text + caught.value.detail


# --- signatures ------------------------------------------------------------------------------------------------------


async def test_a_signature_is_verified_by_the_first_certificate_with_one_question():
    credentials = FakeCredentials.trusting(DEVICE)
    message = with_signature(sender_kid=SKI, extra_certs=(DEVICE, OTHER))
    verified = await verify(message, credentials, POLICY, SIGNER)
    assert credentials.asked == [DEVICE]
    assert verified.protector is SIGNER
    found = credentials.senders[DEVICE]
    requester = verified.requester
    assert requester.credential == f"certificate:{found.fingerprint}"
    assert (requester.entity, requester.certificate) == (found.entity, DEVICE)
    assert (requester.subject, requester.serial) == (found.subject, b"\x01")


async def test_the_sender_may_differ_from_the_subject_in_case_spaces_and_string_type():
    printable = der.tlv(der.SET, der.seq(der.encode_oid("2.5.4.3"), der.tlv(der.PRINTABLE_STRING, b"  DEVICE ")))
    country = der.tlv(der.SET, der.seq(der.encode_oid("2.5.4.6"), der.tlv(der.PRINTABLE_STRING, b"de")))
    message = with_signature(sender=der.explicit(4, der.seq(country, printable)), extra_certs=(DEVICE,))
    assert await verify(message, FakeCredentials.trusting(DEVICE), POLICY, SIGNER)


@pytest.mark.parametrize("sender", ["CN=devise,C=DE", NULL_DN, b"\x82\x06device", "C=DE,CN=device"])
async def test_a_sender_that_is_not_the_subject_is_bad_message_check(sender):
    message = with_signature(sender=sender, extra_certs=(DEVICE,))
    with pytest.raises(BadMessageCheck, match="sender: want the subject of the protection certificate"):
        await verify(message, FakeCredentials.trusting(DEVICE), POLICY, SIGNER)


async def test_a_sender_that_is_no_name_is_bad_data_format():
    message = with_signature(sender=der.explicit(4, b"\x30\x02\x31\x00"), extra_certs=(DEVICE,))
    with pytest.raises(BadDataFormat, match="sender"):
        await verify(message, FakeCredentials.trusting(DEVICE), POLICY, SIGNER)


@pytest.mark.parametrize("ski", [True, False])
async def test_a_sender_kid_that_is_not_the_key_identifier_is_bad_message_check(ski):
    octets = certificate(ski=ski)
    message = with_signature(sender_kid=b"another", extra_certs=(octets,))
    with pytest.raises(BadMessageCheck, match="senderKID: want the SubjectKeyIdentifier"):
        await verify(message, FakeCredentials.trusting(octets), POLICY, SIGNER)


async def test_without_a_sender_kid_a_certificate_without_key_identifier_will_do():
    octets = certificate(ski=False)
    assert await verify(with_signature(extra_certs=(octets,)), FakeCredentials.trusting(octets), POLICY, SIGNER)


async def test_a_certificate_that_may_not_sign_is_bad_message_check():
    with pytest.raises(BadMessageCheck, match="want digitalSignature in keyUsage"):
        await verify(
            with_signature(extra_certs=(DEVICE,)), FakeCredentials.trusting(DEVICE, may_sign=False), POLICY, SIGNER
        )


async def test_an_algorithm_that_does_not_fit_the_key_is_bad_alg():
    message = with_signature(algorithm=der.seq(der.tlv(der.OID, oids.ED25519)), extra_certs=(DEVICE,))
    with pytest.raises(BadAlg, match="Ed25519: want an Ed25519 key"):
        await verify(message, FakeCredentials.trusting(DEVICE), POLICY, SIGNER)


async def test_sha1_in_a_signature_is_bad_alg_even_from_a_stranger():
    message = with_signature(algorithm=der.seq(der.tlv(der.OID, oids.ECDSA_WITH_SHA1)), extra_certs=(OTHER,))
    with pytest.raises(BadAlg, match="a signature with SHA-1 is not accepted"):
        await verify(message, FakeCredentials.trusting(), POLICY, SIGNER)


async def test_a_wrong_signature_is_bad_message_check():
    credentials = FakeCredentials.trusting(DEVICE)
    for message in (
        with_signature(extra_certs=(DEVICE,), protected=b"The protected part"),
        with_signature(kind="p384", extra_certs=(DEVICE,)),
        with_signature(digest=hashes.SHA384(), extra_certs=(DEVICE,)),
        envelope(ES256, b"", extra_certs=(DEVICE,)),
    ):
        with pytest.raises(BadMessageCheck, match="the signature does not verify"):
            await verify(message, credentials, POLICY, SIGNER)


# --- which certificate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kid", [SKI, None], ids=["with senderKID", "without senderKID"])
@pytest.mark.parametrize("first_is_trusted", [True, False])
async def test_the_protection_certificate_is_found_behind_others(kid, first_is_trusted):
    other = certificate("CN=issuing CA", "p384")
    credentials = FakeCredentials.trusting(DEVICE, *([other] if first_is_trusted else []))
    junk = (b"", b"\x30\x00", DEVICE[:-1], b"\x30\x80", other)
    message = with_signature(sender_kid=kid, extra_certs=(other, *junk, DEVICE))
    verified = await verify(message, credentials, POLICY, SIGNER)
    assert verified.requester.certificate == DEVICE
    assert credentials.asked == [other, DEVICE]


async def test_of_two_that_look_right_the_trusted_one_is_taken():
    older = certificate(serial=2)
    credentials = FakeCredentials.trusting(DEVICE)
    verified = await verify(with_signature(sender_kid=SKI, extra_certs=(older, DEVICE)), credentials, POLICY, SIGNER)
    assert verified.requester.certificate == DEVICE


async def test_only_a_few_certificates_are_asked_for():
    many = tuple(certificate(serial=serial) for serial in range(10, 30))
    credentials = FakeCredentials.trusting()
    with pytest.raises(SignerNotTrusted):
        await verify(with_signature(sender_kid=SKI, extra_certs=many), credentials, POLICY, SIGNER)
    assert len(credentials.asked) == 4


async def test_without_extra_certs_the_certificate_of_the_first_request_is_used():
    credentials = FakeCredentials.trusting(DEVICE)
    for message in (with_signature(sender_kid=SKI), with_signature(), with_signature(extra_certs=(OTHER,))):
        verified = await verify(message, credentials, POLICY, SIGNER, known_sender=DEVICE)
        assert verified.requester.certificate == DEVICE


async def test_a_known_certificate_that_does_not_fit_is_not_used():
    credentials = FakeCredentials.trusting(DEVICE)
    for message in (with_signature(sender_kid=b"another"), with_signature(sender="CN=other")):
        with pytest.raises(SignerNotTrusted, match="extraCerts"):
            await verify(message, credentials, POLICY, SIGNER, known_sender=DEVICE)


async def test_a_known_certificate_that_is_not_trusted_any_more_is_refused():
    with pytest.raises(SignerNotTrusted, match="no path"):
        await verify(with_signature(), FakeCredentials.trusting(), POLICY, SIGNER, known_sender=DEVICE)


async def test_without_any_certificate_the_signer_is_not_trusted():
    with pytest.raises(SignerNotTrusted, match="extraCerts: want the protection certificate first"):
        await verify(with_signature(), FakeCredentials.trusting(DEVICE), POLICY, SIGNER)


async def test_an_untrusted_certificate_is_refused_with_the_reason():
    with pytest.raises(SignerNotTrusted, match="no path"):
        await verify(with_signature(extra_certs=(DEVICE,)), FakeCredentials.trusting(OTHER), POLICY, SIGNER)


@pytest.mark.parametrize("ski", [True, False])
@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
def test_subject_and_key_identifier_are_read_as_another_decoder_reads_them(ski, kind):
    octets = certificate("CN=a+O=b,C=DE", kind, ski=ski)
    expected = sender_credential(octets)
    assert read_identity(octets) == (expected.subject, expected.key_identifier)


def test_a_certificate_cut_anywhere_is_a_der_error_or_reads_the_same():
    for end in range(len(DEVICE)):
        with pytest.raises(der.DerError):
            read_identity(DEVICE[:end])
