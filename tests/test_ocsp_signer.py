"""The OCSP responder's certificate: what is in it, the order in which it comes to be, its renewal, damaged files."""

import asyncio
import logging
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from cmpd.asn1.names import encode_name
from cmpd.bootstrap import cmp_certificate, root_certificate
from cmpd.ca import CertificateAuthority
from cmpd.changes import (
    AddServiceCertificate,
    Change,
    SignServiceCertificate,
)
from cmpd.config_status import OcspConfig
from cmpd.env import Env
from cmpd.errors import StoreConflict, StoreError
from cmpd.ocsp import OcspResponder, OcspSigner
from cmpd.ocsp_signer import MARK, PURPOSE, SignerKeeper, record_service_certificate
from cmpd.outline import outline
from cmpd.private_keys import same_kind
from cmpd.records import CertificateState, ServiceCertificate
from cmpd.signing import file
from cmpd.signing.file import FileKey, encrypted_pem, pem
from cmpd.store.memory import MemoryStore
from tests.ocsp import (
    PASSPHRASE,
    at_once,
    cert_id,
    check_signature,
    drive,
    keeper,
    new_signer,
    request,
    signer,
    statuses,
)
from tests.profiles.support import CA_NAME, DAY, NOW, authority, counting_env, lint, lint_chain, private_key
from tests.support import needs_openssl, run

HOUR = 3600
DAYS_30 = 30 * DAY
KEYS = ["p256", "p384", "p521", "ed25519", "ed448", "rsa2048", "rsa3072"]
CA = authority("p256")


@pytest.fixture(autouse=True)
def keys_are_quickly_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/signing has the true number of iterations; it takes 0.3 s for every key."""
    monkeypatch.setattr(file, "_ITERATIONS", 1000)


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def env(self) -> Env:
        return Env(now=lambda: self.now, random=counting_env().random)


class Ledger(MemoryStore):
    """A MemoryStore that tells what was written, and refuses the change of this type."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.refused: type[Change] | None = None

    async def write(self, changes: Sequence[Change], **options: Any) -> None:
        if any(type(change) is self.refused for change in changes):
            raise StoreError("the disk is full")
        await super().write(changes, **options)
        self.events += changes


class WatchedKey(FileKey):
    """A CA's key that tells when it signs what; broken, it does not."""

    __slots__ = ("broken", "events")

    def __init__(self, key: Any, events: list[Any]) -> None:
        super().__init__(key)
        self.events = events
        self.broken = False

    async def sign(self, octets: bytes) -> bytes:
        if self.broken:
            raise RuntimeError("the token is gone")
        self.events.append(octets)
        return await super().sign(octets)


def serial_of(found: OcspSigner | None) -> bytes:
    assert found is not None
    return outline(found.certificate).serial


# --- the certificate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEYS)
def test_its_certificate_is_for_signing_ocsp_answers_and_nothing_else(kind: str) -> None:
    ca = authority(kind)
    own = x509.load_der_x509_certificate(signer(kind).certificate)
    issuer = x509.load_der_x509_certificate(ca.certificate)
    own.verify_directly_issued_by(issuer)
    assert own.subject.rfc4514_string() == "CN=Test CA OCSP,O=Exämple,C=DE"
    values = {one.oid: one for one in own.extensions}
    assert set(values) == {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.OCSP_NO_CHECK,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
    usage = own.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert list(own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.OCSP_SIGNING
    ]
    assert isinstance(values[ExtensionOID.OCSP_NO_CHECK].value, x509.OCSPNoCheck)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    authority_id = own.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority_id.key_identifier == identifier
    assert own.not_valid_before_utc.timestamp() == NOW - HOUR
    assert own.not_valid_after_utc.timestamp() == NOW + DAYS_30


@pytest.mark.parametrize("kind", KEYS)
def test_linters_find_nothing_in_its_certificate(kind: str) -> None:
    certificate = signer(kind).certificate
    assert lint(certificate) == set()
    assert lint_chain(authority(kind).certificate, certificate) == set()


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519", "ed448", "rsa2048"])
def test_its_key_is_new_and_of_the_kind_of_the_cas(kind: str) -> None:
    own = x509.load_der_x509_certificate(signer(kind).certificate).public_key()
    ca = x509.load_der_x509_certificate(authority(kind).certificate).public_key()
    assert type(own) is type(ca)
    assert own != ca
    if isinstance(own, ec.EllipticCurvePublicKey):
        assert isinstance(ca, ec.EllipticCurvePublicKey)
        assert own.curve.name == ca.curve.name
    if isinstance(own, rsa.RSAPublicKey):
        assert own.key_size == 3072


async def test_it_ends_with_the_cas_own_certificate_and_is_not_renewed_in_vain(tmp_path: Path) -> None:
    end = outline(CA.certificate).not_after
    clock = Clock(end - DAY)
    keeps = keeper(tmp_path / "ocsp.pem", CA, env=clock.env())
    first = await keeps.load_or_make()
    assert first is not None
    assert first.not_after == end
    clock.now = end - 5
    assert await keeps.renew_if_due() is first


async def test_it_does_not_begin_before_the_cas_own_certificate(tmp_path: Path) -> None:
    begin = outline(CA.certificate).not_before
    made = await keeper(tmp_path / "ocsp.pem", CA, env=Clock(begin + 1).env()).load_or_make()
    assert made is not None
    assert made.not_before == begin


@pytest.mark.parametrize("offset", [-1, 1])
async def test_a_ca_that_is_not_valid_makes_none(offset: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = outline(CA.certificate)
    now = own.not_before - 1 if offset < 0 else own.not_after + 1
    store, path = Ledger(), tmp_path / "private" / "ocsp.pem"
    assert await keeper(path, CA, store=store, env=Clock(now).env()).load_or_make() is None
    assert "the CA's own certificate is not valid" in caplog.text
    assert store.events == []
    assert not path.parent.exists()


# --- how it comes to be -----------------------------------------------------------------------------------------------


def watched(ledger: Ledger) -> tuple[CertificateAuthority, WatchedKey]:
    key = WatchedKey(private_key("p256", 1), ledger.events)
    return CertificateAuthority(CA.certificate, (), key, counting_env()), key


async def test_it_is_recorded_then_signed_then_recorded_then_written(tmp_path: Path) -> None:
    ledger = Ledger()
    path = tmp_path / "private" / "ocsp.pem"
    ca, _ = watched(ledger)

    async def offload(work: Callable[[], Any]) -> Any:
        existed = path.exists()
        result = work()
        if path.exists() and not existed:
            ledger.events.append("file")
        return result

    keeps = keeper(path, ca, store=ledger, offload=offload)
    made = await keeps.load_or_make()
    assert made is not None
    assert keeps.signer is made
    intent, tbs, signed, written = ledger.events
    certificate = x509.load_der_x509_certificate(made.certificate)
    record = ServiceCertificate(
        outline(made.certificate).serial, "ocsp", "/C=DE/O=Exämple/CN=Test CA OCSP", NOW - HOUR, NOW + DAYS_30, NOW
    )
    assert isinstance(intent, AddServiceCertificate)
    assert replace(intent.certificate, subject_text="") == replace(record, subject_text="")
    assert "Test CA OCSP" in intent.certificate.subject_text
    assert tbs == certificate.tbs_certificate_bytes
    assert signed == SignServiceCertificate(record.serial, made.certificate)
    assert written == "file"
    assert await ledger.service_certificates(PURPOSE) == [replace(intent.certificate, der=made.certificate)]


async def test_its_file_is_for_the_server_alone_and_its_key_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "private" / "ocsp.pem"
    path.parent.mkdir()
    (path.parent / ".ocsp.pem.new").write_text("left by a run that was cut off")
    await keeper(path, CA).load_or_make()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    text = path.read_text()
    assert [line for line in text.splitlines() if line.startswith("-----BEGIN")] == [
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----",
    ]


@pytest.mark.parametrize("kind", KEYS)
async def test_after_a_restart_it_is_the_one_in_the_file(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, store, ca = tmp_path / "ocsp.pem", Ledger(), authority(kind)
    first = await keeper(path, ca, store=store).load_or_make()
    before = path.read_bytes()
    second = await keeper(path, ca, store=store).load_or_make()
    assert first is not None
    assert second is not None
    assert second.certificate == first.certificate
    assert path.read_bytes() == before
    assert len(store.events) == 2
    here = OcspResponder(store, ca, counting_env(), OcspConfig(), event=asyncio.Event, signer=second)
    answer = await here.respond(request(cert_id(ca, serial_of(first))))
    check_signature(answer.der, first.certificate)
    assert statuses(answer) == ["good"]
    assert not caplog.records


async def test_a_database_that_is_older_than_the_file_learns_of_it(tmp_path: Path) -> None:
    path, restored = tmp_path / "ocsp.pem", MemoryStore()
    first = await keeper(path, CA).load_or_make()
    second = await keeper(path, CA, store=restored).load_or_make()
    assert serial_of(second) == serial_of(first)
    assert [one.serial for one in await restored.service_certificates(PURPOSE)] == [serial_of(first)]


async def test_an_rsa_key_signs_off_the_loop(tmp_path: Path) -> None:
    path, works = tmp_path / "ocsp.pem", 0
    ca = authority("rsa2048")

    async def offload(work: Callable[[], Any]) -> Any:
        nonlocal works
        works += 1
        return await asyncio.to_thread(work)

    for _ in range(2):  # made, and loaded
        made = await keeper(path, ca, offload=offload).load_or_make()
        assert made is not None
        before = works
        await made.sign(b"octets")
        assert works == before + 1


async def test_answers_are_signed_on_threads_of_their_own(tmp_path: Path) -> None:
    ca, path = authority("rsa2048"), tmp_path / "ocsp.pem"
    signed: list[bytes] = []

    async def sign(work: Callable[[], Any]) -> Any:
        signed.append(work())
        return signed[-1]

    for _ in range(2):  # made, and loaded
        keeps = SignerKeeper(path, PASSPHRASE, ca, MemoryStore(), OcspConfig(), counting_env(), at_once, signing=sign)
        made = await keeps.load_or_make()
        assert made is not None
        assert signed == []
        assert [await made.sign(b"octets")] == signed
        signed.clear()


# --- renewal ----------------------------------------------------------------------------------------------------------


async def test_it_is_renewed_after_two_thirds_of_its_life(tmp_path: Path) -> None:
    path, clock = tmp_path / "ocsp.pem", Clock()
    keeps = keeper(path, CA, env=clock.env())
    first = await keeps.load_or_make()
    clock.now = NOW + 20 * DAY - 1
    assert await keeps.renew_if_due() is first
    clock.now += 1
    second = await keeps.renew_if_due()
    assert second is not None
    assert serial_of(second) != serial_of(first)
    assert second.not_after == NOW + 50 * DAY
    assert keeps.signer is second
    assert await keeps.renew_if_due() is second
    assert serial_of(await keeper(path, CA, env=clock.env()).load_or_make()) == serial_of(second)


async def test_one_that_became_due_while_the_server_was_down_is_renewed_at_the_start(tmp_path: Path) -> None:
    path, clock = tmp_path / "ocsp.pem", Clock()
    first = await keeper(path, CA, env=clock.env()).load_or_make()
    for days in (21, 100):  # due, then over
        clock.now += days * DAY
        again = await keeper(path, CA, env=clock.env()).load_or_make()
        assert again is not None
        assert serial_of(again) != serial_of(first)
        assert again.not_after == clock.now + DAYS_30


async def test_a_clock_that_was_put_back_makes_a_new_one(tmp_path: Path) -> None:
    path, clock = tmp_path / "ocsp.pem", Clock(NOW + 1000 * DAY)
    keeps = keeper(path, CA, env=clock.env())
    first = await keeps.load_or_make()
    clock.now = NOW
    second = await keeps.renew_if_due()
    assert second is not None
    assert serial_of(second) != serial_of(first)
    assert second.not_before <= NOW


FAILURES = ["intent", "signature", "record"]


@pytest.mark.parametrize("step", FAILURES)
async def test_a_renewal_that_fails_leaves_the_old_one_and_is_tried_again(
    step: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, clock, path = Ledger(), Clock(), tmp_path / "private" / "ocsp.pem"
    ca, key = watched(ledger)
    keeps = keeper(path, ca, store=ledger, env=clock.env())
    first = await keeps.load_or_make()
    before = path.read_bytes()
    clock.now += 21 * DAY
    ledger.refused = {"intent": AddServiceCertificate, "record": SignServiceCertificate}.get(step)
    key.broken = step == "signature"
    caplog.clear()
    assert await keeps.renew_if_due() is first
    assert "OCSP signer: cannot be made, will be tried again" in caplog.text
    written = len(ledger.events)
    assert await keeps.renew_if_due() is first  # not yet
    assert len(ledger.events) == written
    assert path.read_bytes() == before
    ledger.refused, key.broken = None, False
    clock.now += 300
    second = await keeps.renew_if_due()
    assert serial_of(second) != serial_of(first)
    signed = [one for one in await ledger.service_certificates(PURPOSE) if one.der is not None]
    assert {serial_of(first), serial_of(second)} <= {one.serial for one in signed}
    found = await ledger.certificate_status([one.serial for one in await ledger.service_certificates(PURPOSE)])
    assert {one.state for one in found.values()} == {CertificateState.CONFIRMED}
    assert set(found) == {one.serial for one in signed}  # what was only intended is not known


async def test_a_clock_that_was_in_the_future_when_it_failed_does_not_delay_the_next_attempt(tmp_path: Path) -> None:
    ledger, clock = Ledger(), Clock(NOW + 1000 * DAY)
    keeps = keeper(tmp_path / "ocsp.pem", CA, store=ledger, env=clock.env())
    ledger.refused = AddServiceCertificate
    assert await keeps.load_or_make() is None
    ledger.refused = None
    assert await keeps.renew_if_due() is None  # not yet
    clock.now = NOW
    assert await keeps.renew_if_due() is not None


async def test_one_that_cannot_be_saved_is_used_and_only_the_saving_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, clock, path = Ledger(), Clock(), tmp_path / "private" / "ocsp.pem"
    path.parent.write_text("no directory")
    keeps = keeper(path, CA, store=ledger, env=clock.env())
    first = await keeps.load_or_make()
    assert first is not None
    assert len(ledger.events) == 2
    for attempt in range(1, 4):
        for _ in range(3):  # not yet
            assert await keeps.renew_if_due() is first
        assert caplog.text.count("OCSP signer: cannot be saved, is used from memory") == attempt
        clock.now += 300
        assert await keeps.renew_if_due() is first
    path.parent.unlink()
    clock.now += 300
    assert await keeps.renew_if_due() is first
    assert len(ledger.events) == 2  # no other certificate
    octets = path.read_bytes()
    assert serial_of(await keeper(path, CA, store=ledger, env=clock.env()).load_or_make()) == serial_of(first)
    clock.now += 3600
    await keeps.renew_if_due()
    assert path.read_bytes() == octets


async def test_a_renewed_one_that_cannot_be_saved_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "private" / "ocsp.pem"
    keeps = keeper(path, CA, env=clock.env())
    first, before = await keeps.load_or_make(), path.read_bytes()
    clock.now += 21 * DAY
    path.parent.rename(tmp_path / "moved")
    path.parent.write_text("no directory")
    second = await keeps.renew_if_due()
    assert serial_of(second) != serial_of(first)
    path.parent.unlink()
    (tmp_path / "moved").rename(path.parent)
    assert path.read_bytes() == before
    clock.now += 300
    assert await keeps.renew_if_due() is second
    assert serial_of(await keeper(path, CA, env=clock.env()).load_or_make()) == serial_of(second)


# --- files that are not it --------------------------------------------------------------------------------------------


def other_ca() -> CertificateAuthority:
    """The same name with another key."""
    key, env = private_key("p256", 7), counting_env()
    return CertificateAuthority(root_certificate(key, encode_name(CA_NAME), env), (), FileKey(key), env)


def cmp_file() -> bytes:
    key = private_key("p256", 3)
    certificate = cmp_certificate(key, private_key("p256", 1), CA.certificate, counting_env())
    return pem("CERTIFICATE", certificate) + encrypted_pem(key, PASSPHRASE, counting_env())


def good_file(path: Path, ca: CertificateAuthority = CA) -> bytes:
    drive(keeper(path, ca).load_or_make())
    octets = path.read_bytes()
    path.unlink()
    return octets


@pytest.mark.parametrize(
    "damage",
    ["empty", "cut in the certificate", "cut in the key", "without key", "spoilt", "not PEM", "key of another", "cmp"],
)
async def test_a_damaged_file_is_made_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ocsp.pem"
    good = good_file(path)
    key = good.index(b"-----BEGIN ENCRYPTED")
    other = encrypted_pem(same_kind(private_key("p256")), PASSPHRASE, counting_env()) if "another" in damage else b""
    octets = {
        "empty": b"",
        "cut in the certificate": good[: key // 2],
        "cut in the key": good[: key + 100],
        "without key": good[:key],
        "spoilt": good[: key + 200] + bytes((good[key + 200] ^ 1,)) + good[key + 201 :],
        "not PEM": MARK + bytes(range(256)),
        "key of another": good[:key] + other,
        "cmp": MARK + cmp_file() if damage == "cmp" else b"",
    }[damage]
    path.write_bytes(octets)
    made = await keeper(path, CA).load_or_make()
    assert made is not None
    assert "it is made anew" in caplog.text
    assert PASSPHRASE.decode() not in caplog.text
    x509.load_der_x509_certificate(made.certificate).verify_directly_issued_by(
        x509.load_der_x509_certificate(CA.certificate)
    )
    assert serial_of(await keeper(path, CA).load_or_make()) == serial_of(made)


@pytest.mark.parametrize("what", ["key", "certificate", "JSON", "directory"])
async def test_what_was_named_by_mistake_is_never_replaced(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "precious"
    octets = {
        "key": encrypted_pem(same_kind(private_key("p256")), PASSPHRASE, counting_env()),
        "certificate": cmp_file(),
        "JSON": b"{}",
        "directory": b"",
    }[what]
    path.mkdir() if what == "directory" else path.write_bytes(octets)
    made = await keeper(path, CA).load_or_make()
    assert made is not None, "it is used from memory"
    assert "is there and is no OCSP signer; move it away or name another file" in caplog.text
    assert path.is_dir() if what == "directory" else path.read_bytes() == octets


async def test_the_one_of_an_earlier_ca_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ocsp.pem"
    path.write_bytes(good_file(path, other_ca()))
    made = await keeper(path, CA).load_or_make()
    assert made is not None
    assert "is not of this CA" in caplog.text
    x509.load_der_x509_certificate(made.certificate).verify_directly_issued_by(
        x509.load_der_x509_certificate(CA.certificate)
    )


async def test_a_file_that_cannot_be_opened_with_the_passphrase_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "ocsp.pem"
    first = await SignerKeeper(
        path, b"another passphrase", CA, MemoryStore(), OcspConfig(), counting_env(), at_once
    ).load_or_make()
    assert serial_of(await keeper(path, CA, env=Clock(NOW + 1).env()).load_or_make()) != serial_of(first)


# --- what was made elsewhere ------------------------------------------------------------------------------------------


async def test_the_cmp_certificate_is_good_once_it_is_recorded() -> None:
    store = Ledger()
    certificate = cmp_certificate(private_key("p256", 3), private_key("p256", 1), CA.certificate, counting_env())
    here = OcspResponder(store, CA, counting_env(), OcspConfig(), event=asyncio.Event, signer=new_signer(CA))
    octets = request(cert_id(CA, outline(certificate).serial))
    assert statuses(await here.respond(octets)) == ["unknown"]
    for _ in range(3):
        await record_service_certificate(store, certificate, "cmp")
    assert statuses(await here.respond(octets)) == ["good"]
    assert [type(change) for change in store.events] == [AddServiceCertificate, SignServiceCertificate]
    [found] = await store.service_certificates("cmp")
    assert found.der == certificate
    assert "Test CA CMP" in found.subject_text


async def test_what_was_only_intended_is_completed() -> None:
    store = Ledger()
    certificate = signer("p256").certificate
    own = outline(certificate)
    intent = ServiceCertificate(own.serial, PURPOSE, "text", own.not_before, own.not_after, NOW)
    await store.write([AddServiceCertificate(intent)])
    await record_service_certificate(store, certificate, PURPOSE)
    assert await store.service_certificates(PURPOSE) == [replace(intent, der=certificate)]
    with pytest.raises(StoreConflict, match="not intended"):
        await store.write([SignServiceCertificate(own.serial, certificate)])


@needs_openssl
def test_openssl_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ocsp.pem"
    made = asyncio.run(keeper(path, CA).load_or_make())
    assert made is not None
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    public = run(["openssl", "pkey", "-in", path, "-passin", f"file:{tmp_path / 'passphrase'}", "-pubout"]).stdout
    assert run(["openssl", "x509", "-in", path, "-noout", "-pubkey"]).stdout == public


def test_the_log_is_quiet_about_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        asyncio.run(keeper(tmp_path / "ocsp.pem", CA).load_or_make())
    assert "OCSP signer made serial=" in caplog.text
    assert PASSPHRASE.decode() not in caplog.text
