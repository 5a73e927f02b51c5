"""The client with keys that protect by a MAC, and with servers that do: DHBasedMac and KemBasedMac, over a World."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import (
    Credential,
    KemKey,
    StaticAgreement,
    own_certificate,
)
from cmpd.client.errors import ClientError, CmpClientError, VerificationError
from cmpd.client.flows import Client, Options
from cmpd.client.kem import encapsulate
from cmpd.client.messages import protect
from cmpd.client.responses import verify
from cmpd.client.revocation import RevDetails
from cmpd.config import ProfileConfig
from cmpd.message import decode
from cmpd.origin import Door, Origin
from cmpd.records import CertificateState
from tests.kems import KEM_TYPE, Direct, Holder, holder
from tests.pops import KEYS
from tests.world import World

STRICT = Origin("strict", Door("tcp", strict=True))
KINDS = ("secret", "signature", "KEM", "DH")


def world_of(**fields: Any) -> World:
    return World(agreement_key=KEYS["x25519"](), kem_key=KEYS["mlkem768"](), origin=STRICT, **fields)


async def credential(world: World, kind: str) -> Credential:
    if kind == "secret":
        return await world.add_secret("device", subject="/CN=holder")
    if kind == "signature":
        return await world.holder(await world.add_secret("signer"), "/CN=holder")
    who = await holder(world, {"KEM": "mlkem768", "DH": "x25519"}[kind])
    return by(world, who)


def by(world: World, who: Holder) -> Credential:
    if who.kind.startswith("mlkem"):
        return KemKey(who.key, who.certificate)
    assert world.agreement is not None
    return StaticAgreement(who.key, who.certificate, Certificate.load(world.agreement.certificate))


def client(world: World, who: Credential, exchange: Direct | None = None, **options: Any) -> Client:
    return Client(exchange or Direct(world), who, world.trust, world.env, **options)


def kem_of(world: World) -> Certificate:
    assert world.kem is not None
    return Certificate.load(world.kem.certificate)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kem", [False, True])
async def test_it_enrols_confirms_updates_and_revokes(kind: str, kem: bool) -> None:
    world = world_of()
    who = await credential(world, kind)
    server = kem_of(world) if kem else None
    one = client(world, who, server_kem=server)
    made = await one.enrol("ir", new_key(), encode_name("/CN=holder"), options=Options(implicit_confirm=False))
    names = {"secret": "the shared secret", "DH": f"CN={_common_name(world, 'agreement')}"}
    signer = names.get(kind, f"CN={_common_name(world, 'cmp')}")
    assert made.protected_by.startswith((f"CN={_common_name(world, 'kem')}" if kem else signer)[:20])
    if kind != "secret":
        updated = await one.update(new_key())
        assert updated.certificate.subject == made.certificate.subject
        [result] = await one.revoke([RevDetails.of(own_certificate(who), "superseded")])
        assert result.accepted
    assert all(record.state is not CertificateState.ISSUED for record in await world.store.list_certificates())


def _common_name(world: World, role: str) -> str:
    octets = {"cmp": world.cmp, "agreement": world.agreement.certificate, "kem": world.kem.certificate}[role]
    return Certificate.load(octets).subject_text.removeprefix("CN=").split(",")[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_wants_a_ciphertext_is_given_one_at_once(kind: str) -> None:
    world = world_of(kem_only=False)
    who = await credential(world, kind)
    world.kem_only = True
    world.restart()
    exchange = Direct(world)
    one = client(world, who, exchange)
    for _ in range(2):
        made = await one.enrol("cr", new_key(), encode_name("/CN=holder"), options=Options(implicit_confirm=False))
        assert made.certificate
    told = [seen for seen in exchange.seen if seen.body == "error"]
    assert len(told) == (0 if kind in ("secret", "DH") else 1)  # their answers would not be signed; the others know it


async def test_a_kem_certificate_that_may_not_speak_for_the_ca_is_refused() -> None:
    """Else whoever has a certificate of the CA could stand for its server."""
    world = world_of()
    signer = await credential(world, "signature")
    who = await holder(world, subject="/CN=attacker")

    class Attacker(Direct):
        async def request(self, octets: bytes, *, last: bool = False) -> bytes | None:
            answer = await super().request(octets)
            assert answer is not None
            return swapped(answer)

    def swapped(answer: bytes) -> bytes:
        envelope = decode(answer)
        start = der.header(answer, 0, len(answer))[1]
        fields = der.children(answer, start, len(answer), 4)
        part = b"".join(answer[pos:end] for tag, pos, _, end in fields if tag != 0xA1)
        assert envelope.extra_certs
        return der.seq(part, der.explicit(1, der.seq(who.certificate.der)))

    world.kem_only = True
    world.restart()
    with pytest.raises(VerificationError, match="may not speak for a CA"):
        await client(world, signer, Attacker(world)).enrol("cr", new_key(), encode_name("/CN=holder"))


async def test_a_kem_certificate_of_another_ca_is_refused() -> None:
    other = world_of()
    foreign = await credential(other, "signature")
    other.kem_only = True
    other.restart()
    with pytest.raises(VerificationError, match=r"no path from .*KEM"):
        await Client(Direct(other), foreign, world_of().trust, other.env).enrol(
            "cr", new_key(), encode_name("/CN=holder")
        )


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_without_kem_is_not_believed_where_one_was_asked_for(kind: str) -> None:
    world = world_of()
    who = await credential(world, kind)
    one = client(world, who, server_kem=kem_of(world))
    world.kem = None
    world.restart()
    with pytest.raises(VerificationError, match="want it protected by KemBasedMac"):
        await one.enrol("cr", new_key(), encode_name("/CN=holder"))


@pytest.mark.parametrize("what", ["MAC", "sender"])
@pytest.mark.parametrize(("kind", "kem"), [("DH", False), ("signature", True)])
async def test_a_changed_answer_is_not_believed(what: str, kind: str, kem: bool) -> None:
    world = world_of()
    who = await credential(world, kind)

    class Changing(Direct):
        async def request(self, octets: bytes, *, last: bool = False) -> bytes | None:
            answer = await super().request(octets)
            assert answer is not None
            header = decode(answer).header
            old = (decode(answer).protection or b"") if what == "MAC" else header.sender
            return answer.replace(old, old[:-1] + bytes((old[-1] ^ 1,)), 1)

    one = client(world, who, Changing(world), server_kem=kem_of(world) if kem else None)
    with pytest.raises(VerificationError, match=r"its MAC is wrong|its sender is not"):
        await one.enrol("cr", new_key(), encode_name("/CN=holder"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda octets: b"",
        lambda octets: octets[:-40],
        lambda octets: octets.replace(KEM_TYPE, der.encode_oid("1.3.6.1.5.5.7.4.23")),
    ],
    ids=["empty", "cut off", "another infoType"],
)
async def test_a_genp_that_is_none_is_not_believed(spoil: Callable[[bytes], bytes]) -> None:
    world = world_of()
    who = await credential(world, "KEM")

    class Changing(Direct):
        async def request(self, octets: bytes, *, last: bool = False) -> bytes | None:
            answer = await super().request(octets)
            assert answer is not None
            return spoil(answer)

    with pytest.raises(VerificationError, match="answer: "):
        await client(world, who, Changing(world)).enrol("cr", new_key(), encode_name("/CN=holder"))


async def test_a_ciphertext_for_another_key_comes_to_nothing() -> None:
    world = world_of()
    who = await credential(world, "KEM")
    assert isinstance(who, KemKey)
    other = KEYS["mlkem768"]()

    class Wrong(Direct):
        async def request(self, octets: bytes, *, last: bool = False) -> bytes | None:
            answer = await super().request(octets)
            assert answer is not None
            if decode(octets).body_name != "genm":
                return answer
            body = decode(answer).body
            return answer.replace(body[-1088:], other.public_key().encapsulate()[1])

    with pytest.raises(CmpClientError, match="badMessageCheck"):
        await client(world, who, Wrong(world)).enrol("cr", new_key(), encode_name("/CN=holder"))


async def test_a_ciphertext_of_another_kem_is_not_opened() -> None:
    world = world_of()
    who = await credential(world, "KEM")
    own, another = (der.encode_oid(f"2.16.840.1.101.3.4.4.{number}") for number in (2, 3))

    class Wrong(Direct):
        async def request(self, octets: bytes, *, last: bool = False) -> bytes | None:
            answer = await super().request(octets)
            assert answer is not None
            return answer.replace(own, another)

    with pytest.raises(VerificationError, match=r"KemCiphertextInfo\.kem: want the algorithm of the key, have another"):
        await client(world, who, Wrong(world)).enrol("cr", new_key(), encode_name("/CN=holder"))


async def test_a_stranger_is_told_so_before_his_request() -> None:
    world = world_of()
    stranger = await credential(world_of(), "KEM")
    with pytest.raises(CmpClientError, match="signerNotTrusted"):
        await client(world, stranger).enrol("ir", new_key(), encode_name("/CN=holder"))


async def test_keys_that_do_not_fit_are_refused_at_once() -> None:
    world = world_of()
    kem, agreement = await holder(world), await holder(world, "x25519", subject="/CN=other")
    assert world.agreement is not None
    server = Certificate.load(world.agreement.certificate)
    with pytest.raises(ClientError, match="does not belong"):
        KemKey(KEYS["mlkem768"](), kem.certificate)
    with pytest.raises(ClientError, match="does not belong"):
        StaticAgreement(KEYS["x25519"](), agreement.certificate, server)
    with pytest.raises(ClientError, match="of another kind"):
        StaticAgreement(agreement.key, agreement.certificate, kem_of(world))
    with pytest.raises(ClientError, match="ML-KEM-768 or ML-KEM-1024"):
        encapsulate(server)
    with pytest.raises(ClientError, match="want a new transaction"):
        KemKey(kem.key, kem.certificate).protector(world.env)


@pytest.mark.parametrize("kind", ["secret", "signature", "DH"])
async def test_a_request_that_waits_is_gone_on_with_unless_a_kem_was_in_use(kind: str) -> None:
    world = world_of()
    who = await credential(world, kind)
    world.profiles = {"default": ProfileConfig(approval=True)}
    world.restart()
    kept: list[bytes] = []
    options = Options(on_request=kept.append)
    with pytest.raises(ClientError, match="no answer"):
        await client(world, who, poll_timeout=0.0).enrol("cr", new_key(), encode_name("/CN=holder"), options=options)
    [waiting] = await world.waiting()
    await world.approve(waiting.reference)
    made = await client(world, who).resume(kept[0], options=Options())
    assert made.certificate.subject == encode_name("/CN=holder")
    with pytest.raises(ClientError):
        await client(world, who, server_kem=kem_of(world), poll_timeout=0.0).enrol(
            "cr", new_key(), encode_name("/CN=holder"), options=options
        )
    assert len(kept) == 1


async def test_a_request_with_a_ciphertext_is_not_gone_on_with() -> None:
    world = world_of()
    who = await world.add_secret(subject="/CN=holder")
    exchange = Direct(world)
    await client(world, who, exchange, server_kem=kem_of(world)).enrol("ir", new_key(), encode_name("/CN=holder"))
    with pytest.raises(ClientError, match="known no more"):
        await client(world, who).resume(exchange.sent[0])


async def test_no_two_transactions_share_a_ciphertext() -> None:
    world = world_of()
    who = await credential(world, "signature")
    exchange = Direct(world)
    one = client(world, who, exchange, server_kem=kem_of(world))
    for _ in range(3):
        await one.enrol("cr", new_key(), encode_name("/CN=holder"))
    infos = {decode(sent).header.general_info for sent in exchange.sent}
    assert len(infos) == len(exchange.sent) == 3


async def test_what_has_the_right_mac_and_another_sender_is_no_answer() -> None:
    """The key of DHBasedMac is the same in both directions: what the client itself has made must not come back."""
    world = world_of()
    who = await credential(world, "DH")
    request = protect("genm", der.seq(), who.protector(world.env), world.env)
    own = protect(
        "genp",
        der.seq(),
        who.protector(world.env),
        world.env,
        transaction_id=request.transaction_id,
        recip_nonce=request.sender_nonce,
    )
    with pytest.raises(VerificationError, match="its sender is not"):
        verify(own.der, request, who, world.trust, world.env)
