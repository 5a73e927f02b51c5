"""What verification of protection does for rr alone: revocation passphrases, and senders that are valid no more."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der, oids
from cmpd.errors import BadAlg, BadMessageCheck, SignerNotTrusted
from cmpd.message import Envelope
from cmpd.protection import pbm, verify
from cmpd.protection.base import Mac, ProtectionPolicy
from cmpd.records import CertificateState
from tests.protection.fakes import SIGNER, FakeCredentials, certificate, envelope, private_key, sender_credential

POLICY = ProtectionPolicy()
OCTETS = b"the protected part"
ES256 = der.seq(der.tlv(der.OID, oids.ECDSA_WITH_SHA256))
BY_KID, PASSPHRASE, BY_NAME = b"secret by senderKID", b"passphrase", b"secret by name"


def mac_message(secret: bytes, body: str = "rr", count: int = 200) -> Envelope:
    mac = pbm.build(b"12345678", count)
    made = mac.compute(mac.derive(secret), OCTETS)
    return envelope(mac.algorithm, made, sender="CN=by name", sender_kid=b"kid", body=body)


def all_three() -> FakeCredentials:
    return FakeCredentials({b"kid": BY_KID, b"by name": BY_NAME}, {b"kid": PASSPHRASE})


@pytest.mark.parametrize(
    ("secret", "credential", "asked"),
    [
        (BY_KID, "secret:kid", [b"kid"]),
        (PASSPHRASE, "passphrase:6b6964", [b"kid", b"kid"]),
        (BY_NAME, "secret:by name", [b"kid", b"kid", b"by name"]),
    ],
)
async def test_in_an_rr_every_secret_that_may_be_meant_is_tried(
    secret: bytes, credential: str, asked: list[bytes]
) -> None:
    credentials = all_three()
    verified = await verify(mac_message(secret), credentials, POLICY, SIGNER, strict=False)
    assert verified.requester.credential == credential
    assert credentials.asked == asked
    assert (verified.requester.passphrase is not None) is (secret is PASSPHRASE)
    assert verified.requester.is_registered is (secret is not PASSPHRASE)


async def test_strictly_an_rr_too_means_what_its_senderkid_names() -> None:
    credentials = all_three()
    with pytest.raises(BadMessageCheck, match="the MAC does not verify"):
        await verify(mac_message(BY_NAME), credentials, POLICY, SIGNER)
    assert credentials.asked == [b"kid", b"kid"]


@pytest.mark.parametrize("body", ["ir", "cr", "p10cr", "kur", "certConf", "genm"])
async def test_in_other_bodies_the_first_secret_counts_and_no_passphrase(body: str) -> None:
    for secret in (PASSPHRASE, BY_NAME):
        credentials = all_three()
        with pytest.raises(BadMessageCheck):
            await verify(mac_message(secret, body), credentials, POLICY, SIGNER)
        assert credentials.asked == [b"kid"]
    with pytest.raises(BadMessageCheck):
        await verify(mac_message(PASSPHRASE, body), FakeCredentials({}, {b"kid": PASSPHRASE}), POLICY, SIGNER)


@pytest.mark.parametrize(("strict", "most"), [(True, 2), (False, 3)])
async def test_a_wrong_mac_on_an_rr_costs_three_derivations_and_is_one_and_the_same_text(
    strict: bool, most: int
) -> None:
    derived = []

    async def offload(job: object, iterations: int) -> bytes:
        derived.append(iterations)
        assert callable(job)
        result: bytes = job()
        return result

    policy = ProtectionPolicy(inline_iterations=100)
    texts = set()
    for credentials, wanted in ((all_three(), most), (FakeCredentials(), 0)):
        derived.clear()
        with pytest.raises(BadMessageCheck) as caught:
            await verify(mac_message(b"guess"), credentials, policy, SIGNER, offload=offload, strict=strict)
        assert len(derived) == wanted
        texts.add(caught.value.text)
    assert len(texts) == 1


async def test_the_parameters_are_refused_before_anything_is_looked_up() -> None:
    credentials = all_three()
    with pytest.raises(BadAlg):
        await verify(mac_message(PASSPHRASE, count=100_001), credentials, POLICY, SIGNER)
    assert credentials.asked == []


async def test_the_answer_to_a_passphrase_is_protected_with_it_and_names_it() -> None:
    verified = await verify(mac_message(PASSPHRASE), all_three(), POLICY, SIGNER)
    mac: Mac = pbm.build(b"12345678", 200)
    protector = verified.protector
    assert (protector.algorithm, protector.sender_kid) == (mac.algorithm, b"kid")
    assert await protector.compute(b"answer") == mac.compute(mac.derive(PASSPHRASE), b"answer")


@pytest.mark.parametrize("state", [CertificateState.SUSPENDED, CertificateState.REVOKED])
@pytest.mark.parametrize("known", [False, True])
async def test_only_an_rr_may_come_from_a_sender_that_is_not_valid_any_more(
    state: CertificateState, known: bool
) -> None:
    octets = certificate()
    found = replace(sender_credential(octets), state=state)
    made = private_key("p256").sign(OCTETS, ec.ECDSA(hashes.SHA256()))
    certificates, known_sender = ((), octets) if known else ((octets,), None)
    for body in ("rr", "ir", "certConf", "genm", "rr"):
        message = envelope(ES256, made, extra_certs=certificates, body=body)
        credentials = FakeCredentials(senders={octets: found})
        if body == "rr":
            verified = await verify(message, credentials, POLICY, SIGNER, known_sender=known_sender)
            assert verified.requester.state is state
        else:
            with pytest.raises(SignerNotTrusted):
                await verify(message, credentials, POLICY, SIGNER, known_sender=known_sender)
