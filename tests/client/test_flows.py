"""Whole transactions against a CA that answers rightly, and against one that forges exactly one thing."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from cmpd.asn1 import der, names
from cmpd.client import messages
from cmpd.client.connection import Connection
from cmpd.client.credentials import Credential, KeyAndCertificate, SharedSecret
from cmpd.client.errors import ClientError, CmpClientError, VerificationError
from cmpd.client.flows import Client, Enrolment, Options
from cmpd.client.keys import KEY_TYPES, public_key_info
from cmpd.client.messages import Template
from cmpd.client.responses import Trust
from cmpd.protection.base import ProtectionPolicy
from tests.client.ca import CMC_CA, CMC_RA, REFERENCE, SECRET, TLS_SERVER, Ca, Forge, error_content, forged, issue
from tests.client.wire import Peer, serving

SUBJECT = names.encode_name("CN=device")
MAC = SharedSecret(REFERENCE, SECRET, iterations=500)
KEY = KEY_TYPES["p256"]()


@pytest.fixture
def ca() -> Ca:
    return Ca.make()


def trust_of(ca: Ca) -> Trust:
    return Trust((ca.root.certificate,))


def device(ca: Ca) -> KeyAndCertificate:
    return issue("device", ca.sub, san="device.example").credential


async def against(ca: Ca, credential: Credential, run: Callable[[Client], Any], trust: Trust | None = None) -> Any:
    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            await peer.answer(ca.respond(message[2]))

    async with serving(behave) as server, Connection("127.0.0.1", server.port) as connection:
        try:
            return await run(Client(connection, credential, trust or trust_of(ca)))
        finally:
            assert server.connections == 1


async def enrol(ca: Ca, credential: Credential = MAC, trust: Trust | None = None, **options: Any) -> Enrolment:
    chosen = Options(**options)
    result = await against(ca, credential, lambda client: client.enrol("ir", KEY, SUBJECT, options=chosen), trust)
    assert isinstance(result, Enrolment)
    return result


# --- what goes right ---------------------------------------------------------------


@pytest.mark.parametrize("mac", ["pbm", "pbmac1"])
async def test_ir_with_a_mac_ends_after_one_answer_when_implicit_confirmation_is_granted(ca: Ca, mac: Any) -> None:
    result = await enrol(ca, replace(MAC, mac=mac))
    assert result.certificate.public_key_info == public_key_info(KEY)
    assert [one.subject_text for one in result.chain] == ["CN=sub", "CN=root"]
    assert result.implicitly_confirmed
    assert result.protected_by == "the shared secret"
    assert [name for name, _ in ca.received] == ["ir"]


@pytest.mark.parametrize("asked", [True, False])
async def test_cert_conf_follows_when_implicit_confirmation_is_not_granted_or_not_asked_for(
    ca: Ca, asked: bool
) -> None:
    forged(ca, grant_implicit=False)
    result = await enrol(ca, implicit_confirm=asked)
    assert not result.implicitly_confirmed
    assert [name for name, _ in ca.received] == ["ir", "certConf"]
    first, second = (envelope.header for _, envelope in ca.received)
    assert first.implicit_confirm is asked
    assert second.transaction_id == first.transaction_id
    assert second.sender_nonce != first.sender_nonce
    assert first.recip_nonce is None
    assert second.recip_nonce is not None
    assert second.protection_alg == first.protection_alg, "the MAC keeps its parameters within a transaction"
    status = ca.received[1][1].structure["body"].chosen[0]
    assert status["cert_hash"].native == messages.cert_hash(result.certificate)
    assert status["cert_req_id"].native == 0
    assert "status_info" not in status or status["status_info"].native is None


async def test_implicit_confirmation_that_nobody_asked_for_does_not_replace_cert_conf(ca: Ca) -> None:
    forged(ca, grant_unasked=True)
    result = await enrol(ca, implicit_confirm=False)
    assert not result.implicitly_confirmed
    assert [name for name, _ in ca.received] == ["ir", "certConf"]


async def test_cr_with_a_certificate(ca: Ca) -> None:
    own = device(ca)
    result = await against(ca, own, lambda client: client.enrol("cr", KEY, own.certificate.subject))
    assert result.protected_by == "CN=cmp signer"
    header = ca.received[0][1].header
    assert header.sender == der.explicit(4, own.certificate.subject)
    assert header.sender_kid == own.certificate.key_identifier
    assert ca.received[0][1].extra_certs == (own.certificate.der,)


async def test_kur_keeps_the_names_and_says_which_certificate_it_updates(ca: Ca) -> None:
    own = device(ca)
    await against(ca, own, lambda client: client.update(KEY))
    name, envelope = ca.received[0]
    assert name == "kur"
    request = envelope.structure["body"].chosen[0]["cert_req"]
    assert request["cert_template"]["subject"].chosen.dump() == own.certificate.subject
    assert request["controls"][0]["value"].native["serial_number"] == own.certificate.serial
    assert b"device.example" in request["cert_template"]["extensions"].dump()
    assert envelope.header.recipient == der.explicit(4, own.certificate.issuer)


async def test_p10cr_uses_the_cert_req_id_minus_one(ca: Ca) -> None:
    forged(ca, grant_implicit=False)
    request = messages.certification_request(Template(KEY, SUBJECT))
    result = await against(ca, MAC, lambda client: client.p10cr(request))
    assert result.certificate.public_key_info == public_key_info(KEY)
    assert ca.received[1][1].structure["body"].chosen[0]["cert_req_id"].native == -1


async def test_several_certificates_in_one_message(ca: Ca) -> None:
    forged(ca, grant_implicit=False)
    templates = [Template(KEY_TYPES["ed25519"](), SUBJECT, cert_req_id=number) for number in (0, 1, 7)]
    results = await against(ca, MAC, lambda client: client.enrol_all("cr", templates))
    assert [one.certificate.public_key_info for one in results] == [one.public_key_info for one in templates]
    conf = ca.received[1][1].structure["body"].chosen
    assert [status["cert_req_id"].native for status in conf] == [0, 1, 7]


async def test_transactions_are_interwoven_on_one_connection(ca: Ca) -> None:
    forged(ca, grant_implicit=False)

    async def run(client: Client) -> list[Enrolment]:
        return await asyncio.gather(*(client.enrol("ir", KEY, SUBJECT) for _ in range(8)))

    results = await against(ca, MAC, run)
    assert len({one.certificate.serial for one in results}) == 8
    bodies = [name for name, _ in ca.received]
    assert sorted(bodies) == ["certConf"] * 8 + ["ir"] * 8
    assert bodies[:2] == ["ir", "ir"], "the second transaction does not wait for the end of the first"


async def test_with_a_secret_and_no_anchor_ca_pubs_is_what_the_path_leads_to(ca: Ca) -> None:
    forged(ca, ca_pubs=(ca.root.certificate.der,))
    result = await enrol(ca, trust=Trust())
    assert result.ca_pubs == (ca.root.certificate,)
    assert result.chain[-1] == ca.root.certificate
    forged(ca, other_issuer=True)
    with pytest.raises(VerificationError, match="no path"):
        await enrol(ca, trust=Trust())


async def test_a_signer_with_cmc_ra_and_the_ca_itself_may_answer(ca: Ca) -> None:
    for signer in (issue("ra", ca.sub, usage=(CMC_RA,)), ca.sub):
        ca.forge = Forge(signer=signer)
        result = await enrol(ca, device(ca))
        assert result.protected_by == signer.certificate.subject_text


async def test_granted_with_mods_is_told(ca: Ca) -> None:
    forged(ca, status=1)
    assert (await enrol(ca)).status.status == "grantedWithMods"


# --- what is refused ---------------------------------------------------------------


async def test_a_rejected_request_says_status_fail_info_and_text(ca: Ca) -> None:
    forged(ca, status=2)
    with pytest.raises(CmpClientError) as caught:
        await enrol(ca)
    error = caught.value
    assert (error.status, error.fail_info, error.status_string) == ("rejection", ("badCertTemplate",), "no")
    assert error.protected_by == "the shared secret"
    assert [name for name, _ in ca.received] == ["ir"], "nothing was issued, so nothing is confirmed"


@pytest.mark.parametrize("protection", ["mac", "signature", "none"])
async def test_an_error_body_says_whether_anybody_vouches_for_it(ca: Ca, protection: str) -> None:
    forged(ca, body="error", content=error_content("unknown", 1, 23), protection=protection)
    with pytest.raises(CmpClientError, match="unknown") as caught:
        await enrol(ca)
    vouching = {"mac": "the shared secret", "signature": "CN=cmp signer", "none": None}
    assert caught.value.protected_by == vouching[protection]
    assert caught.value.fail_info == ("badMessageCheck", "notAuthorized")
    if protection == "none":
        assert "not authenticated" in str(caught.value)


async def test_a_signed_error_counts_as_unauthenticated_without_an_anchor(ca: Ca) -> None:
    forged(ca, body="error", content=error_content("unknown", 1), protection="signature")
    with pytest.raises(CmpClientError, match="not authenticated"):
        await enrol(ca, trust=Trust())


async def test_control_characters_in_a_servers_text_do_not_reach_the_terminal(ca: Ca) -> None:
    forged(ca, body="error", content=error_content("\x1b[31mred\nline", 2))
    with pytest.raises(CmpClientError) as caught:
        await enrol(ca)
    assert str(caught.value).isprintable()


# --- what is forged ---------------------------------------------------------------


def _change_last(octets: bytes) -> bytes:
    return octets.replace(SUBJECT, names.encode_name("CN=devicf"))


FORGERIES: list[tuple[str, dict[str, Any]]] = [
    ("transactionID is not", {"transaction_id": bytes(16)}),
    ("recipNonce is not", {"recip_nonce": bytes(16)}),
    ("want a senderNonce of at least 128 bits", {"nonce_octets": 15}),
    ("is not protected", {"protection": "none"}),
    ("want ip to ir, have cp", {"body": "cp"}),
    ("want ip to ir, have pkiconf", {"body": "pkiconf", "content": der.NULL_TLV}),
    ("another public key", {"other_key": True}),
    ("no path from CN=device", {"other_issuer": True}),
    ("want certReqId 0, have 1", {"cert_req_id": 1}),
    ("CertRepMessage", {"content": b"\x30\x00"}),
    ("CertResponse", {"content": der.seq(der.seq(der.NULL_TLV))}),
    ("want certReqId 0, have none", {"content": der.seq(der.seq())}),
]


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize(("text", "forgery"), FORGERIES, ids=[text for text, _ in FORGERIES])
async def test_a_forged_answer_is_not_believed(ca: Ca, kind: str, text: str, forgery: dict[str, Any]) -> None:
    forged(ca, **forgery)
    with pytest.raises(VerificationError, match=text):
        await enrol(ca, MAC if kind == "mac" else device(ca))


@pytest.mark.parametrize(
    ("text", "forgery"),
    [
        ("MAC is wrong", {"secret": b"another secret"}),
        ("MAC is wrong", {"flip": True}),
        ("MAC is wrong", {"change": _change_last}),
        ("want it protected by a MAC", {"protection": "signature"}),
        ("iterationCount", {"iterations": 99}),
        ("iterationCount", {"iterations": 2000}),
    ],
)
async def test_an_answer_with_a_wrong_mac_is_not_believed(ca: Ca, text: str, forgery: dict[str, Any]) -> None:
    forged(ca, **forgery)
    trust = Trust((ca.root.certificate,), ProtectionPolicy(max_iterations=1000))
    with pytest.raises(VerificationError, match=text):
        await enrol(ca, trust=trust)


async def test_an_answer_by_a_wrong_signer_is_not_believed(ca: Ca) -> None:
    stranger = issue("stranger", ca=True)
    retired = issue("retired", ca.sub, usage=(CMC_CA,), days=(-9, -1))
    third = issue("third", ca.sub, ca=True)  # which the second may not have below it
    leaf = issue("leaf", ca.sub)
    cannot_sign = issue("encrypts", ca.sub, usage=(CMC_CA,), key_usage={"digital_signature": False})
    cases: list[tuple[str, dict[str, Any]]] = [
        ("may not speak for a CA", {"signer": issue("tls", ca.sub, usage=(TLS_SERVER,))}),
        ("may not speak for a CA", {"signer": issue("device", ca.sub)}),
        ("no path from CN=stranger", {"signer": stranger}),
        (
            "CN=stranger: self-signed and not a trust anchor",
            {"signer": issue("s", stranger, usage=(CMC_CA,)), "extra": (stranger.certificate.der,)},
        ),
        ("CN=retired: expired", {"signer": retired}),
        (
            "wants at most 0 CA certificates below it, have 1",
            {"signer": issue("below", third, usage=(CMC_CA,)), "extra": (third.certificate.der,)},
        ),
        (
            "CN=leaf: not a CA",
            {"signer": issue("by a device", leaf, usage=(CMC_CA,)), "extra": (leaf.certificate.der,)},
        ),
        ("digitalSignature", {"signer": cannot_sign}),
        ("has its sender as subject", {"sender": der.explicit(4, names.encode_name("CN=somebody"))}),
        ("has its sender as subject", {"sender": der.explicit(4, b"\x30\x00")}),
        ("senderKID is not the key identifier", {"sender_kid": bytes(20)}),
        ("signature is not by", {"flip": True}),
        ("signature is not by", {"change": lambda octets: octets.replace(b"\x02\x01\x02", b"\x02\x01\x03", 1)}),
        ("want it protected by a signature", {"protection": "mac"}),
    ]
    for text, forgery in cases:
        ca.forge = Forge(**forgery)
        with pytest.raises(VerificationError, match=text):
            await enrol(ca, device(ca))


async def test_a_certificate_that_is_not_believed_is_rejected_by_cert_conf(ca: Ca) -> None:
    forged(ca, grant_implicit=False, other_key=True)
    with pytest.raises(VerificationError, match="another public key"):
        await enrol(ca)
    status = ca.received[1][1].structure["body"].chosen[0]["status_info"]
    assert status["status"].native == "rejection"


async def test_the_user_may_reject_a_certificate(ca: Ca) -> None:
    forged(ca, grant_implicit=False)
    with pytest.raises(VerificationError, match="rejected: wrong subject"):
        await enrol(ca, accept=lambda certificate: "wrong subject")
    assert ca.received[1][1].structure["body"].chosen[0]["status_info"]["status"].native == "rejection"


@pytest.mark.parametrize(
    ("error", "forgery"),
    [
        (VerificationError, {"recip_nonce": bytes(16)}),
        (VerificationError, {"protection": "none"}),
        (VerificationError, {"secret": b"another"}),
        (VerificationError, {"body": "ip", "content": b"\x30\x00"}),
        (CmpClientError, {"body": "error", "content": error_content("late", 11)}),
    ],
)
async def test_the_answer_to_cert_conf_is_verified_too(ca: Ca, error: type[Exception], forgery: Any) -> None:
    forged(ca, grant_implicit=False)
    ca.forge_confirm = Forge(**forgery)
    with pytest.raises(error):
        await enrol(ca)


async def test_octets_that_are_no_message_are_not_believed(ca: Ca) -> None:
    for octets in (b"\x30", b"not DER", bytes(100), b"\x30\x82\xff\xff" + bytes(50)):
        ca.respond = lambda _, octets=octets: octets
        with pytest.raises(VerificationError):
            await enrol(ca)


async def test_without_an_anchor_a_client_with_a_certificate_does_not_start(ca: Ca) -> None:
    with pytest.raises(ClientError, match="trust anchor"):
        Client(Connection("127.0.0.1", 1), device(ca))


def test_a_key_that_does_not_belong_to_the_certificate_is_refused(ca: Ca) -> None:
    with pytest.raises(ClientError, match="does not belong"):
        KeyAndCertificate(KEY, device(ca).certificate)


def test_a_secret_does_not_show_in_a_repr() -> None:
    assert SECRET.decode() not in repr(MAC)
    private = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert private.decode()[60:90] not in repr(Template(KEY, SUBJECT))
