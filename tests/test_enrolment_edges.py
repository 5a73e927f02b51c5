"""Enrolment where it could go wrong: rights that must not spread, faults between two commits, late and odd messages."""

import asyncio
import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.asn1.signing import signature_algorithm
from cmpd.ca import CertificateAuthority
from cmpd.changes import (
    AddResponse,
    Change,
    MoveCertificate,
    MoveTransaction,
)
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.keys import public_key_info
from cmpd.client.messages import Template, cert_request, cert_status, extension, protect, subject_alt_name
from cmpd.config import ProfileConfig
from cmpd.errors import StoreError
from cmpd.handlers.confirm import lapse
from cmpd.logs import TurnHandler
from cmpd.message import ID_IT_CERT_PROFILE, decode
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.pbm import build
from cmpd.records import CertificateState, TransactionState
from cmpd.signing.file import FileKey
from cmpd.store.memory import MemoryStore
from tests import chains
from tests.world import NOW, Seen, World


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def template(subject: str | None = "/CN=device", **wish: Any) -> Template:
    return Template(new_key(), None if subject is None else encode_name(subject), **wish)


class FailingStore(MemoryStore):
    """A store that fails when it should keep an answer with certificates; `failing` can be switched."""

    failing = False

    async def write(self, changes: Sequence[Change], **options: Any) -> None:
        if self.failing and any(isinstance(change, AddResponse) for change in changes):
            raise StoreError("the disk is full")
        await super().write(changes, **options)


class CountingStore(MemoryStore):
    """A store that counts its units; `first` is written before the next one, as if somebody had come in between."""

    writes = 0
    first: Sequence[Change] = ()

    async def write(self, changes: Sequence[Change], **options: Any) -> None:
        self.writes += 1
        first, self.first = self.first, ()
        if first:
            await super().write(first)
        await super().write(changes, **options)


class BrokenKey:
    """A key whose home is gone."""

    algorithm = public_key_info = b""

    async def sign(self, octets: bytes) -> bytes:
        raise RuntimeError("the token was pulled out")


# --- rights ----------------------------------------------------------------------------------------------------------


async def test_who_got_a_certificate_through_an_ra_has_none_of_its_rights() -> None:
    world = World()
    ra = await world.add_secret("ra", is_ra=True)
    device = await world.holder(ra, "/CN=device 1")
    other = Template(None, encode_name("/CN=admin"), public_key=public_key_info(new_key()))
    seen = await world.ask(cert_request("cr", [other], device, world.env), device)
    assert seen.status()[2] == {"notAuthorized"}
    _, seen, _ = await world.ir(device, "/CN=admin", body="cr")
    assert seen.status()[2] == {"notAuthorized"}


async def test_certificates_that_an_ra_asked_for_stay_when_it_is_disabled() -> None:
    world = World()
    ra = await world.add_secret("ra", is_ra=True)
    device = await world.holder(ra, "/CN=device 1")
    await world.store.disable_entity("ra")
    _, seen, _ = await world.ir(device, "/CN=device 1", body="kur")
    assert seen.status()[0] == 0


async def test_a_registered_certificate_of_this_ca_is_counted_and_constrained() -> None:
    world = World()
    holder = await world.holder(await world.add_secret())
    await world.add_certificate("its certificate", holder.certificate.der, uses_left=1, subject="/CN=registered")
    _, other, _ = await world.ir(holder, "/CN=other", body="cr")
    _, first, _ = await world.ir(holder, "/CN=registered", body="cr")
    _, second, _ = await world.ir(holder, "/CN=registered", body="cr")
    assert other.status()[2] == {"notAuthorized"}
    assert first.status()[0] == 0
    assert second.status()[2] == {"notAuthorized"}


@pytest.mark.parametrize(("uses", "granted"), [(1, 0), (2, 2)])
async def test_each_certificate_of_a_message_counts(uses: int, granted: int) -> None:
    world = World()
    secret = await world.add_secret(uses_left=uses)
    wishes = [template(cert_req_id=0), template(cert_req_id=1)]
    seen = await world.ask(cert_request("ir", wishes, secret, world.env), secret)
    assert sum(seen.status(n)[0] == 0 for n in range(2)) == granted


async def test_an_expired_registration_asks_for_nothing_new_but_confirms() -> None:
    world = World()
    secret = await world.add_secret(expires_at=int(world.clock.now) + 60)
    request, seen, _ = await world.ir(secret, implicit=False)
    world.clock.now += 61
    content = der.seq(cert_status(seen.certificate(), 0))
    assert (await world.ask(world.follow(request, seen, "certConf", content), secret)).body == "pkiconf"
    _, refused, _ = await world.ir(secret)
    assert (refused.body, refused.status()[2]) == ("ip", {"notAuthorized"})


async def test_who_got_a_certificate_through_an_ra_has_its_profile_and_no_other_of_the_ras() -> None:
    world = World(profiles={**TWO, "server": ProfileConfig(extended_key_usage=("serverAuth",))})
    ra = await world.add_secret("ra", is_ra=True, profiles=("server", "vpn"))
    device = await world.holder(ra, "/CN=device 1", profile="vpn")
    _, server, _ = await world.ir(device, "/CN=device 1", body="cr", profile="server")
    await world.ir(device, "/CN=device 1", body="cr")
    assert server.status()[2] == {"notAuthorized"}
    assert [record.profile for record in await world.store.list_certificates()] == ["vpn", "vpn"]


@pytest.mark.parametrize("name", ["/O=Test/CN=Test CA", "/O=test/CN=test  ca", "/O=Test/CN=Test CA CMP"])
async def test_nobody_gets_a_name_of_the_ca(name: str) -> None:
    world = World()
    for credential in (await world.add_secret(), await world.add_secret("ra", b"ra", is_ra=True)):
        _, seen, _ = await world.ir(credential, name)
        assert (seen.body, seen.status()[2]) == ("ip", {"badCertTemplate"})


async def test_a_key_written_otherwise_is_the_same_key() -> None:
    world = World(profiles={"default": ProfileConfig(allow_key_reuse=False)})
    holder = await world.holder(await world.add_secret())
    point = holder.key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = der.seq(der.encode_oid("1.2.840.10045.2.1"), der.encode_oid("1.2.840.10045.3.1.7"))
    info = der.seq(algorithm, der.encode_bits(point))
    request = der.seq(b"\x02\x01\x00", der.seq(der.explicit(5, encode_name("/CN=device")), b"\xa6" + info[1:]))
    signature = holder.key.sign(request, ec.ECDSA(hashes.SHA256()))
    pop = der.tlv(0xA1, signature_algorithm(holder.key).identifier + der.encode_bits(signature))
    message = protect("kur", der.seq(der.seq(request, pop)), holder.protector(world.env), world.env)
    assert (await world.ask(message, holder)).status()[2] == {"badCertTemplate"}


async def test_an_intermediate_is_not_sent_as_trust_anchor() -> None:
    world = World()
    root, ca, _ = chains.chain(3)
    alone = CertificateAuthority(ca.der, (), FileKey(ca.key), world.env)
    assert alone.trust_anchor is None
    assert CertificateAuthority(ca.der, (root.der,), FileKey(ca.key), world.env).trust_anchor == root.der
    world.ca = alone
    world.restart()
    secret = await world.add_secret()
    seen = await world.send(cert_request("ir", [template()], secret, world.env).der)
    assert seen is not None
    assert seen.status()[0] == 0
    assert not seen.content["caPubs"].isValue


# --- faults between two commits --------------------------------------------------------------------------------------


async def test_a_claim_is_taken_back_when_its_answer_cannot_be_kept() -> None:
    store = FailingStore()
    world = World(store=store)
    secret = await world.add_secret(uses_left=1)
    store.failing = True
    request, seen, _ = await world.ir(secret)
    assert (seen.body, seen.status()[2]) == ("error", {"systemUnavail"})
    assert await world.responder.retry_unfinished() == 1
    store.failing = False
    assert await world.responder.retry_unfinished() == 0
    assert [record.state for record in await store.list_certificates()] == [CertificateState.ABANDONED]
    assert await world.respond(request.der) == seen.envelope.der
    _, again, _ = await world.ir(secret)
    assert again.status()[0] == 0


@pytest.mark.parametrize("which", ["ca", "cmp"])
async def test_a_claim_is_taken_back_when_a_key_does_not_sign(which: str) -> None:
    world = World()
    secret = await world.add_secret(uses_left=1)
    holder = await world.holder(await world.add_secret("holder", b"x"))

    if which == "ca":
        world.ca._key = BrokenKey()
        _, seen, _ = await world.ir(secret)
        assert (seen.body, seen.status()[2]) == ("error", {"systemFailure"})
    else:
        world.signer = replace(world.signer, compute=BrokenKey().sign)
        world.restart()
        request = cert_request("cr", [template()], holder, world.env)
        unprotected = await world.send(request.der)
        assert unprotected is not None
        assert (unprotected.body, unprotected.envelope.protection) == ("error", None)
    states = {record.state for record in await world.store.list_certificates()}
    assert states == {CertificateState.CONFIRMED, CertificateState.ABANDONED}
    found = await world.store.find_entity("device")
    assert found is not None
    assert found.uses_left == 1


async def test_a_malformed_implicitconfirm_is_refused_before_anything_is_claimed() -> None:
    world = World()
    secret = await world.add_secret(uses_left=1)
    body = decode(cert_request("ir", [template()], secret, world.env).der).body
    info = [der.seq(der.encode_oid("1.3.6.1.5.5.7.4.13"), der.encode_boolean(True))]
    seen = await world.ask(protect("ir", body, secret.protector(world.env), world.env, info=info), secret)
    assert (seen.body, seen.status()[2]) == ("error", {"badDataFormat"})
    assert await world.store.list_certificates() == []
    _, again, _ = await world.ir(secret)
    assert again.status()[0] == 0


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("no space left on device")


async def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    secret = await world.add_secret(uses_left=1)
    handler = TurnHandler(FullDisk())
    monkeypatch.setattr(logging.getLogger("cmpd"), "handlers", [handler])
    world.ca._key = BrokenKey()
    _, seen, _ = await world.ir(secret)
    assert (seen.body, seen.status()[2]) == ("error", {"systemFailure"})
    assert handler.lost > 0
    assert await world.responder.retry_unfinished() == 0
    found = await world.store.find_entity("device")
    assert found is not None
    assert found.uses_left == 1


async def test_no_claim_is_made_while_too_many_wait_to_be_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmpd.responder._MAX_UNFINISHED", 1)
    store = FailingStore()
    world = World(store=store)
    secret = await world.add_secret()
    store.failing = True
    await world.ir(secret)
    _, seen, _ = await world.ir(secret)
    assert seen.status()[2] == {"systemUnavail"}
    store.failing = False
    assert await world.responder.retry_unfinished() == 0
    assert len(await store.list_certificates()) == 1
    _, seen, _ = await world.ir(secret)
    assert seen.status()[0] == 0


async def test_many_waits_end_in_few_commits_and_a_late_confirmation_keeps_its_own() -> None:
    store = CountingStore()
    world = World(store=store)
    secret = await world.add_secret()
    for _ in range(70):
        await world.ir(secret, implicit=False)
    world.clock.now += world.enrolment.confirm_wait + 1
    late = (await store.unconfirmed(int(world.clock.now), 1))[0]
    store.first = [
        MoveCertificate(late.certificates[0].serial, CertificateState.ISSUED, CertificateState.CONFIRMED, NOW),
        MoveTransaction(late.id, TransactionState.CONFIRMING, TransactionState.ENDED, b"", ended_at=NOW),
    ]
    store.writes = 0
    assert await lapse(world.service) == 69
    assert store.writes == 2 + 64  # the slice with the conflict is ended one by one
    states = [record.state for record in await store.list_certificates()]
    assert states.count(CertificateState.REVOKED) == 69
    assert states.count(CertificateState.CONFIRMED) == 1


async def test_lapses_do_not_make_requests_in_flight_stale() -> None:
    world = World()
    secret = await world.add_secret()
    for _ in range(5):
        await world.ir(secret, implicit=False)
    generation = world.store.generation
    world.clock.now += world.enrolment.confirm_wait + 1
    assert await lapse(world.service) == 5
    assert world.store.generation == generation


# --- late and odd messages -------------------------------------------------------------------------------------------


async def test_a_request_repeated_after_a_long_outage_still_gets_the_same_octets() -> None:
    world = World()
    request, seen, _ = await world.ir(await world.add_secret())
    world.clock.now += 3600
    assert await world.respond(request.der) == seen.envelope.der


@pytest.mark.parametrize("number", [2**62, -(2**62)])
async def test_a_large_certreqid_comes_back(number: int) -> None:
    world = World()
    secret = await world.add_secret()
    seen = await world.ask(cert_request("ir", [template(cert_req_id=number)], secret, world.env), secret)
    assert int(seen.content["response"][0]["certReqId"]) == number


async def test_a_certreqid_beyond_64_bits_is_rejected_and_harms_nobody() -> None:
    world = World()
    secret = await world.add_secret()
    wild = cert_request("ir", [template(cert_req_id=2**63)], secret, world.env)
    plain = cert_request("ir", [template()], secret, world.env)
    refused, granted = await asyncio.gather(world.ask(wild, secret), world.ask(plain, secret))
    assert (refused.body, refused.status()[2]) == ("ip", {"badDataFormat"})
    assert granted.status()[0] == 0


@pytest.mark.parametrize(
    "sender",
    ["a400", "a40430003000", "a4020500", "8100", "8101ff", "a000", "8703010203", "880180"],
)
async def test_a_sender_that_is_no_generalname_is_told_so_to_the_null_dn(sender: str) -> None:
    world = World()
    secret = await world.add_secret()
    protector = replace(secret.protector(world.env), sender=bytes.fromhex(sender))
    seen = await world.send(protect("ir", b"\x30\x00", protector, world.env).der)
    assert seen is not None
    assert (seen.body, seen.status()[2]) == ("error", {"badDataFormat"})
    assert seen.envelope.header.recipient == b"\xa4\x02\x30\x00"


async def explicit(world: World) -> tuple[SharedSecret, Any, Seen]:
    secret = await world.add_secret()
    request, seen, _ = await world.ir(secret, implicit=False)
    return secret, request, seen


async def test_a_rejection_needs_no_right_hash() -> None:
    world = World()
    secret, request, seen = await explicit(world)
    refusal = der.seq(der.encode_integer(2))
    content = der.seq(der.seq(der.encode_octets(bytes(32)), der.encode_integer(0), refusal))
    assert (await world.ask(world.follow(request, seen, "certConf", content), secret)).body == "pkiconf"
    assert [record.state for record in await world.store.list_certificates()] == [CertificateState.REVOKED]


async def test_two_statuses_for_one_certificate_confirm_nothing() -> None:
    world = World()
    secret, request, seen = await explicit(world)
    status = cert_status(seen.certificate(), 0)
    content = der.seq(status, status)
    answer = await world.ask(world.follow(request, seen, "certConf", content), secret)
    assert answer.status()[2] == {"badDataFormat"}
    assert [record.state for record in await world.store.list_certificates()] == [CertificateState.REVOKED]


async def test_the_error_that_ended_a_confirmation_is_repeated() -> None:
    world = World()
    secret, request, seen = await explicit(world)
    message = world.follow(request, seen, "certConf", der.seq(cert_status(seen.certificate(), 7)))
    first = await world.respond(message.der)
    assert await world.respond(message.der) == first
    assert decode(first or b"").body_name == "error"
    del secret


# --- profiles and changes --------------------------------------------------------------------------------------------

TWO = {"default": ProfileConfig(), "vpn": ProfileConfig(extended_key_usage=("clientAuth",))}


def named(*names: str) -> list[bytes]:
    values = der.seq(*map(der.encode_utf8, names))
    return [der.seq(der.tlv(der.OID, ID_IT_CERT_PROFILE), values)]


async def ask_with_profiles(world: World, secret: SharedSecret, wishes: int, *names: str) -> Seen:
    body = decode(cert_request("ir", [template(cert_req_id=n) for n in range(wishes)], secret, world.env).der).body
    request = protect("ir", body, secret.protector(world.env), world.env, info=named(*names))
    return await world.ask(request, secret)


async def test_profile_names_go_with_the_requests_in_their_order() -> None:
    world = World(profiles=TWO)
    secret = await world.add_secret(profiles=("default", "vpn"))
    await ask_with_profiles(world, secret, 3, "", "vpn")
    profiles = {record.cert_req_id: record.profile for record in await world.store.list_certificates()}
    assert profiles == {0: "default", 1: "vpn", 2: "default"}


async def test_more_profile_names_than_requests_are_refused() -> None:
    world = World(profiles=TWO)
    secret = await world.add_secret(profiles=("default", "vpn"))
    seen = await ask_with_profiles(world, secret, 1, "vpn", "default")
    assert (seen.body, seen.status()[2]) == ("error", {"badRequest"})


async def test_an_update_keeps_the_profile() -> None:
    world = World(profiles=TWO)
    holder = await world.holder(await world.add_secret(profiles=("default", "vpn")), profile="vpn")
    await world.ir(holder, body="kur")
    assert [record.profile for record in await world.store.list_certificates()] == ["vpn", "vpn"]


async def test_a_registered_profile_that_is_gone_is_told_as_a_fault_of_ours() -> None:
    world = World(profiles=TWO)
    _, seen, _ = await world.ir(await world.add_secret(profiles=("gone",)))
    assert (seen.body, seen.status()[2]) == ("ip", {"systemFailure"})


@pytest.mark.parametrize("allowed", [True, False])
async def test_whether_an_update_may_keep_its_key_is_the_profiles_choice(allowed: bool) -> None:
    world = World(profiles={"default": ProfileConfig(allow_key_reuse=allowed)})
    holder = await world.holder(await world.add_secret())
    wish = Template(holder.key, encode_name("/CN=device"))
    seen = await world.ask(cert_request("kur", [wish], holder, world.env), holder)
    assert seen.status()[2] == (frozenset() if allowed else {"badCertTemplate"})


async def test_names_that_the_ca_fills_in_or_keeps_are_said_with_grantedwithmods() -> None:
    world = World()
    secret = await world.add_secret(subject="/CN=Device")
    nameless = await world.ask(cert_request("ir", [Template(new_key(), b"\x30\x00")], secret, world.env), secret)
    assert nameless.status()[:2] == (1, "subject is the registered one")
    holder = await world.holder(secret, "/CN=Device", extensions=(subject_alt_name(["dns:a.example"]),))
    _, updated, _ = await world.ir(holder, "/CN=device", body="kur")
    status, text, _ = updated.status()
    assert status == 1
    assert "subject is written as" in text
    assert "subjectAltName is that of" in text


async def test_a_validity_beyond_the_cas_is_bounded_inside_its_request() -> None:
    world = World(profiles={"default": ProfileConfig(max_validity=90 * 365 * 86400)})
    secret = await world.add_secret()
    late = int(world.clock.now) + 80 * 365 * 86400
    wishes = [template(not_after=late, cert_req_id=0), template(cert_req_id=1)]
    seen = await world.ask(cert_request("ir", wishes, secret, world.env), secret)
    assert [seen.status(n)[0] for n in range(2)] == [1, 0]
    assert "within that of the CA's certificate" in seen.status(0)[1]


# --- proof-of-possession over poposkInput ----------------------------------------------------------------------------


def input_request(world: World, secret: SharedSecret, mac_secret: bytes, iterations: int = 500, **mac: str) -> Any:
    """RFC 4211 section 4.1 case 1: no subject, publicKeyMAC by the shared secret."""
    key = new_key()
    info = public_key_info(key)
    made = build(bytes(16), iterations, **mac)
    value = made.compute(made.derive(mac_secret), info)
    inputs = der.seq(made.algorithm, der.encode_bits(value)) + info
    signature = key.sign(der.tlv(der.SEQUENCE, inputs), ec.ECDSA(hashes.SHA256()))
    signing = der.tlv(0xA0, inputs) + signature_algorithm(key).identifier + der.encode_bits(signature)
    request = der.seq(der.encode_integer(0), der.seq(b"\xa6" + info[1:]))
    body = der.seq(der.seq(request, der.tlv(0xA1, signing)))
    return protect("ir", body, secret.protector(world.env), world.env)


@pytest.mark.parametrize(("mac_secret", "failures"), [(b"secret", frozenset()), (b"guess", {"badPOP"})])
async def test_a_publickeymac_binds_the_key_to_the_secret(mac_secret: bytes, failures: frozenset[str]) -> None:
    world = World()
    secret = await world.add_secret(subject="/CN=device")
    assert (await world.ask(input_request(world, secret, mac_secret), secret)).status()[2] == failures


@pytest.mark.parametrize(
    ("policy", "failures"),
    [
        (ProtectionPolicy(), {"wide": frozenset(), "sha1": frozenset(), "many": frozenset({"badAlg"})}),
        (ProtectionPolicy(allow_sha1_mac=False), {"wide": frozenset(), "sha1": frozenset({"badAlg"})}),
        (ProtectionPolicy(max_iterations=600), {"few": frozenset(), "wide": frozenset({"badAlg"})}),
        (ProtectionPolicy(min_iterations=500), {"few": frozenset(), "fewer": frozenset({"badAlg"})}),
    ],
)
async def test_a_publickeymac_is_held_to_the_policy_of_the_protection(
    policy: ProtectionPolicy, failures: dict[str, frozenset[str]]
) -> None:
    world = World(policy=policy)
    secret = await world.add_secret(subject="/CN=device")
    macs: dict[str, dict[str, Any]] = {
        "sha1": {"owf": "sha1", "mac": "sha1"},
        **{"fewer": {"iterations": 499}, "few": {}, "wide": {"iterations": 20_000}, "many": {"iterations": 20_001}},
    }
    for name, expected in failures.items():
        seen = await world.ask(input_request(world, secret, b"secret", **macs[name]), secret)
        assert seen.status()[2] == expected, name


async def test_unreadable_certificates_beside_the_protection_certificate_are_coped_with() -> None:
    world = World()
    holder = await world.holder(await world.add_secret())
    odd = chains.issue(None, "odd").der
    protector = replace(holder.protector(world.env), extra_certs=(holder.certificate.der, b"\x30\x03\x02\x01\x00", odd))
    body = decode(cert_request("cr", [template()], holder, world.env).der).body
    seen = await world.ask(protect("cr", body, protector, world.env), holder)
    assert seen.status()[0] == 0


async def test_the_kept_digest_is_that_of_the_whole_request() -> None:
    world = World()
    request, seen, _ = await world.ir(await world.add_secret())
    digest = hashlib.sha256(request.der).digest()
    assert await world.store.find_response(request.transaction_id, digest) == (True, seen.envelope.der)


async def test_a_critical_extension_of_the_request_is_refused_in_its_own_item() -> None:
    world = World()
    secret = await world.add_secret()
    odd = template(extensions=(extension("1.2.3.4", b"\x05\x00", critical=True),), cert_req_id=0)
    seen = await world.ask(cert_request("ir", [odd, template(cert_req_id=1)], secret, world.env), secret)
    assert [seen.status(n)[0] for n in range(2)] == [2, 0]


def test_a_holder_is_what_the_client_thinks_it_is() -> None:
    leaf = chains.chain(2)[1]
    assert KeyAndCertificate(leaf.key, Certificate.load(leaf.der)).certificate.der == leaf.der
