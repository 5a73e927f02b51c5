"""Revocation, suspension and resumption by rr, in memory: what becomes of each RevDetails, and what the answer says.

Who may ask for what is in test_revocation_authority.py; here the holder asks, or an RA that may do everything.
"""

import pytest
from cryptography import x509

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.changes import (
    AddIntent,
    MoveCertificate,
    OpenTransaction,
)
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.messages import cert_status, extension, protect
from cmpd.config_status import RevocationConfig
from cmpd.handlers.confirm import lapse
from cmpd.lifecycle import NEXT, Event
from cmpd.outline import outline
from cmpd.records import (
    CRL_REASONS,
    CertificateState,
    Intent,
    TransactionRecord,
    TransactionState,
)
from cmpd.status import FAULTS, Wish, decide
from tests.world import NOW, World, raw_details, reason_code, rev_details, serial_octets

CONFIRMED, SUSPENDED, REVOKED = CertificateState.CONFIRMED, CertificateState.SUSPENDED, CertificateState.REVOKED
HOLD, RESUME = 6, 8
YEAR = 365 * 86_400


@pytest.fixture
def world() -> World:
    return World()


async def ra(world: World) -> SharedSecret:
    return await world.add_secret("ra1", b"secret of the RA", is_ra=True)


async def device(world: World, subject: str = "/CN=device") -> KeyAndCertificate:
    if await world.store.find_entity("device") is None:
        await world.add_secret()
    return await world.holder(SharedSecret("device", b"secret", iterations=500), subject)


async def unconfirmed(world: World) -> KeyAndCertificate:
    _, seen, key = await world.ir(await world.add_secret(), implicit=False)
    return KeyAndCertificate(key, seen.certificate())


# --- revoking --------------------------------------------------------------------------------------------------------


async def test_the_holder_revokes_its_certificate_with_a_signature_by_it(world: World) -> None:
    holder = await device(world)
    world.clock.now += 100
    seen = await world.rr(holder, rev_details(holder.certificate, 1))
    assert seen.body == "rp"
    assert seen.status() == (0, "", frozenset())
    assert seen.rev_certs() == [(holder.certificate.issuer, holder.certificate.serial)]
    assert not seen.content["crls"].isValue
    assert seen.envelope.extra_certs[0] == world.cmp
    record = await world.record(holder)
    assert (record.state, record.reason, record.revoked_at) == (REVOKED, "keyCompromise", NOW + 100)
    [change] = await world.store.history(record.serial)
    assert (change.state, change.reason, change.at) == (REVOKED, "keyCompromise", NOW + 100)
    assert change.by.startswith("entity 'device' (rr, certificate:")
    assert world.published == 1


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 9, 10])
async def test_every_reason_that_revokes_is_recorded_under_its_name(world: World, number: int) -> None:
    holder = await device(world)
    assert (await world.rr(holder, rev_details(holder.certificate, number))).outcomes() == ["accepted"]
    record = await world.record(holder)
    assert record.state is REVOKED
    assert CRL_REASONS[record.reason or ""] == number


@pytest.mark.parametrize("empty", [b"", b"\x30\x00"], ids=["absent", "empty"])
async def test_no_reason_is_recorded_as_unspecified(world: World, empty: bytes) -> None:
    holder = await device(world)
    template = der.seq(der.tlv(0x81, serial_octets(holder.certificate.serial)) + der.explicit(3, world.ca.name))
    assert (await world.rr(holder, der.seq(template, empty))).outcomes() == ["accepted"]
    assert (await world.record(holder)).reason == "unspecified"


async def test_ca_compromise_is_for_the_operator(world: World) -> None:
    holder = await device(world)
    seen = await world.rr(await ra(world), rev_details(holder.certificate, 2))
    assert seen.outcomes() == ["notAuthorized"]
    record = await world.record(holder)
    assert record.state is CONFIRMED
    assert decide(record, Wish("cACompromise"), NOW, "operator root").state is REVOKED


async def test_the_invalidity_date_is_kept_also_a_future_one(world: World) -> None:
    for when in (NOW - YEAR, NOW + YEAR):
        holder = await device(world)
        date = extension("2.5.29.24", der.encode_generalized_time(when))
        assert (await world.rr(holder, rev_details(holder.certificate, 1, date))).outcomes() == ["accepted"]
        record = await world.record(holder)
        assert record.invalidity_date == when
        assert [change.invalidity_date for change in await world.store.history(record.serial)] == [when]


async def test_suspend_resume_and_revoke(world: World) -> None:
    holder, agent = await device(world), await ra(world)
    steps = [(HOLD, SUSPENDED), (RESUME, CONFIRMED), (HOLD, SUSPENDED), (4, REVOKED)]
    for number, state in steps:
        world.clock.now += 10
        assert (await world.rr(agent, rev_details(holder.certificate, number))).outcomes() == ["accepted"]
        assert (await world.record(holder)).state is state
    history = await world.store.history((await world.record(holder)).serial)
    assert [(change.state, change.at) for change in history] == [
        (state, NOW + 10 * i) for i, (_, state) in enumerate(steps, 1)
    ]
    assert all(change.by == "entity 'ra1' (rr, secret:ra1)" for change in history)
    assert world.published == len(steps)


async def test_a_suspended_certificate_authorises_nothing_until_it_is_resumed(world: World) -> None:
    holder, agent = await device(world), await ra(world)
    await world.rr(agent, rev_details(holder.certificate, HOLD))
    _, refused, _ = await world.ir(holder, body="cr")
    assert (refused.body, refused.status()[2]) == ("error", {"signerNotTrusted"})
    await world.rr(agent, rev_details(holder.certificate, RESUME))
    _, granted, _ = await world.ir(holder, body="cr")
    assert granted.status()[0] == 0


async def test_an_rr_of_a_revoked_certificate_does_not_make_it_good_for_other_bodies(world: World) -> None:
    holder = await device(world)
    for _ in range(2):
        await world.rr(holder, rev_details(holder.certificate, 1))
        for body in ("ir", "cr", "kur"):
            _, refused, _ = await world.ir(holder, body=body)
            assert (refused.body, refused.status()[2]) == ("error", {"signerNotTrusted"})


# --- the table of states ---------------------------------------------------------------------------------------------

ACCEPTED = "accepted"
TABLE = {
    # state before: (revoke, suspend, resume)
    "unconfirmed": (ACCEPTED, "badRequest", "badRequest"),
    "confirmed": (ACCEPTED, ACCEPTED, "badRequest"),
    "suspended": (ACCEPTED, "certRevoked", ACCEPTED),
    "revoked": ("certRevoked", "certRevoked", "certRevoked"),
    "expired": ("certRevoked", "certRevoked", "certRevoked"),
    "suspended and expired": ("certRevoked", "certRevoked", "certRevoked"),
}


@pytest.mark.parametrize("number", [4, HOLD, RESUME])
@pytest.mark.parametrize("before", list(TABLE))
async def test_what_a_state_lets_happen(world: World, before: str, number: int) -> None:
    agent = await ra(world)
    holder = await (unconfirmed(world) if before == "unconfirmed" else device(world))
    if "suspended" in before:
        await world.rr(agent, rev_details(holder.certificate, HOLD))
    if before == "revoked":
        await world.rr(agent, rev_details(holder.certificate, 5))
    if "expired" in before:
        world.clock.now = (await world.record(holder)).not_after + 1
    untouched, told = await world.record(holder), world.published
    seen = await world.rr(agent, rev_details(holder.certificate, number))
    wanted = TABLE[before][(4, HOLD, RESUME).index(number)]
    assert seen.outcomes() == [wanted]
    changed = await world.record(holder)
    if wanted == ACCEPTED:
        assert changed.state is {4: REVOKED, HOLD: SUSPENDED, RESUME: CONFIRMED}[number]
        assert world.published == told + 1
    else:
        assert changed == untouched
        assert world.published == told


@pytest.mark.parametrize(
    ("before", "number", "text"),
    [
        ("suspended", HOLD, "suspended already"),
        ("revoked", 1, "revoked already"),
        ("expired", 1, "expired"),
        ("confirmed", RESUME, "not suspended"),
        ("unconfirmed", HOLD, "not confirmed yet"),
    ],
)
async def test_the_text_says_why(world: World, before: str, number: int, text: str) -> None:
    agent = await ra(world)
    holder = await (unconfirmed(world) if before == "unconfirmed" else device(world))
    if before in ("suspended", "revoked"):
        await world.rr(agent, rev_details(holder.certificate, HOLD if before == "suspended" else 1))
    if before == "expired":
        world.clock.now = (await world.record(holder)).not_after + 1
    assert text in (await world.rr(agent, rev_details(holder.certificate, number))).status()[1]


async def test_on_its_last_second_a_certificate_can_still_be_revoked(world: World) -> None:
    holder, agent = await device(world), await ra(world)
    world.clock.now = (await world.record(holder)).not_after + 0.9
    assert (await world.rr(agent, rev_details(holder.certificate, 1))).outcomes() == ["accepted"]


def test_every_state_and_event_is_decided_once() -> None:
    events = (Event.REVOKE, Event.SUSPEND, Event.RESUME)
    for state in CertificateState:
        for event in events:
            assert ((state, event) in NEXT) != ((state, event) in FAULTS), (state, event)


async def test_a_resumption_takes_no_invalidity_date(world: World) -> None:
    holder, agent = await device(world), await ra(world)
    await world.rr(agent, rev_details(holder.certificate, HOLD))
    date = extension("2.5.29.24", der.encode_generalized_time(NOW))
    seen = await world.rr(agent, rev_details(holder.certificate, RESUME, date))
    assert seen.outcomes() == ["badRequest"]
    assert "invalidityDate" in seen.status()[1]
    assert (await world.record(holder)).state is SUSPENDED


async def test_an_unconfirmed_certificate_that_was_revoked_cannot_be_confirmed(world: World) -> None:
    agent, secret = await ra(world), await world.add_secret()
    request, seen, key = await world.ir(secret, implicit=False)
    holder = KeyAndCertificate(key, seen.certificate())
    assert (await world.rr(agent, rev_details(holder.certificate, 1))).outcomes() == ["accepted"]
    content = der.seq(cert_status(seen.certificate(), 0))
    answer = await world.ask(world.follow(request, seen, "certConf", content), secret)
    assert (answer.body, answer.status()[2]) == ("error", {"badCertId"})
    assert (await world.record(holder)).state is REVOKED


async def test_what_lapses_or_is_rejected_is_published_and_what_is_confirmed_is_not(world: World) -> None:
    secret = await world.add_secret()
    for refusal, told in ((None, 0), ("no", 1)):
        request, seen, _ = await world.ir(secret, implicit=False)
        content = der.seq(cert_status(seen.certificate(), 0, reject=refusal))
        await world.ask(world.follow(request, seen, "certConf", content), secret)
        assert world.published == told
    await world.ir(secret, implicit=False)
    world.clock.now += world.enrolment.confirm_wait + 1
    assert await lapse(world.service) == 1
    assert world.published == 2


# --- which certificate -----------------------------------------------------------------------------------------------


def named(world: World, serial: bytes, issuer: bytes | None = None) -> bytes:
    return raw_details(der.tlv(0x81, serial) + der.explicit(3, issuer or world.ca.name), reason_code(1))


@pytest.mark.parametrize(
    "serial",
    [
        b"\x00",
        b"\xff",
        b"\x80" + bytes(15),
        b"\x01",
        b"\x7f" * 16,
        b"\x7f" * 20,
        b"\x7f" * 21,
        b"\x00" + b"\xff" * 20,
        b"\x7f" * 500,
    ],
    ids=["zero", "minus one", "negative", "one", "16", "20", "21", "20 and a zero", "500"],
)
async def test_a_serial_number_that_was_never_issued_is_badcertid(world: World, serial: bytes) -> None:
    seen = await world.rr(await ra(world), named(world, serial))
    assert seen.outcomes() == ["badCertId"]
    # what is longer than any serial number is not said again: the answer is kept
    assert seen.rev_certs() == (
        [(world.ca.name, int.from_bytes(serial, "big", signed=True))] if len(serial) < 21 else []
    )


async def test_what_was_only_intended_was_never_issued(world: World) -> None:
    agent, serial, transaction = await ra(world), b"\x41" * 16, b"t" * 16
    entity_id = 1
    intent = Intent(serial, transaction, 0, entity_id, "default", b"\x30\x00", "", bytes(32), NOW, NOW + YEAR, b"tbs")
    opened = TransactionRecord(transaction, TransactionState.ENDED, "secret:ra1", entity_id, "ir", NOW, ended_at=NOW)
    await world.store.write([OpenTransaction(opened), AddIntent(intent)])
    nobody = await world.add_secret("nobody")
    for credential in (agent, nobody):
        assert (await world.rr(credential, named(world, serial))).outcomes() == ["badCertId"]
    abandoned = CertificateState.ABANDONED
    await world.store.write([MoveCertificate(serial, CertificateState.INTENDED, abandoned, NOW, by="no answer")])
    assert (await world.rr(agent, named(world, serial))).outcomes() == ["badCertId"]


async def test_a_foreign_issuer_is_wrongauthority(world: World) -> None:
    holder = await device(world)
    serial = serial_octets(holder.certificate.serial)
    seen = await world.rr(holder, named(world, serial, encode_name("/CN=Other CA")))
    assert seen.outcomes() == ["wrongAuthority"]
    assert "CN=Test CA,O=Test" in seen.status()[1]


async def test_the_issuer_is_compared_as_names_are(world: World) -> None:
    holder = await device(world)
    serial = serial_octets(holder.certificate.serial)
    assert (await world.rr(holder, named(world, serial, encode_name("/O=TEST/CN=test  ca")))).outcomes() == ["accepted"]


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        (b"", "have no issuer and no serialNumber"),
        (der.tlv(0x81, b"\x05"), "have no issuer"),
        (der.explicit(3, encode_name("/O=Test/CN=Test CA")), "have no serialNumber"),
        (der.tlv(0x81, b"\x05") + der.explicit(3, b"\x30\x00"), "have no issuer"),
    ],
)
async def test_issuer_and_serial_number_are_required(world: World, template: bytes, missing: str) -> None:
    seen = await world.rr(await ra(world), raw_details(template, reason_code(1)))
    assert seen.outcomes() == ["badCertTemplate"]
    assert missing in seen.status()[1]
    assert seen.rev_certs() == []


def v_time(when: int) -> bytes:
    return der.encode_time(when)


async def what_fits(world: World, holder: KeyAndCertificate) -> dict[str, bytes]:
    """Further fields of certDetails that are so in the certificate, each by itself."""
    held = outline(holder.certificate.der)
    key = der.tlv(0xA6, held.public_key[der.header(held.public_key, 0, len(held.public_key))[1] :])
    algorithm = world.ca.algorithm
    own = x509.load_der_x509_certificate(holder.certificate.der)
    ski = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.public_bytes()
    return {
        "version": der.tlv(0x80, b"\x02"),
        "signingAlg": der.tlv(0xA2, algorithm[2:]),
        "notBefore": der.tlv(0xA4, der.explicit(0, v_time(held.not_before))),
        "notAfter": der.tlv(0xA4, der.explicit(1, v_time(held.not_after))),
        "subject": der.explicit(5, encode_name("/CN=DEVICE")),
        "publicKey": key,
        "extensions": der.tlv(0xA9, extension("2.5.29.14", ski)),
    }


def ordered(fields: dict[str, bytes], holder: KeyAndCertificate, world: World) -> bytes:
    """A RevDetails with these fields in the order of their tags."""
    parts = [*fields.values(), der.tlv(0x81, serial_octets(holder.certificate.serial)), der.explicit(3, world.ca.name)]
    return raw_details(b"".join(sorted(parts, key=lambda part: part[0] & 0x1F)), reason_code(1))


async def test_a_template_that_says_all_that_is_so_is_accepted(world: World) -> None:
    holder = await device(world)
    fields = await what_fits(world, holder)
    fields["notAfter"] = der.tlv(0xA4, fields.pop("notBefore")[2:] + fields["notAfter"][2:])
    assert (await world.rr(holder, ordered(fields, holder, world))).outcomes() == ["accepted"]


@pytest.mark.parametrize(
    "field", ["version", "signingAlg", "notBefore", "notAfter", "subject", "publicKey", "extensions"]
)
async def test_a_template_field_that_is_so_is_accepted(world: World, field: str) -> None:
    holder = await device(world)
    fields = await what_fits(world, holder)
    assert (await world.rr(holder, ordered({field: fields[field]}, holder, world))).outcomes() == ["accepted"]


MISFITS = {
    "version": der.tlv(0x80, b"\x00"),
    "signingAlg": der.tlv(0xA2, der.encode_oid("1.2.840.10045.4.3.4")),
    "notBefore": der.tlv(0xA4, der.explicit(0, v_time(NOW + 5))),
    "notAfter": der.tlv(0xA4, der.explicit(1, v_time(NOW + 5))),
    "subject": der.explicit(5, encode_name("/CN=other")),
    "publicKey": der.tlv(0xA6, der.seq(der.encode_oid("1.3.101.112")) + der.encode_bits(b"k" * 32)),
    "issuerUID": der.tlv(0x87, b"\x00\x01"),
    "subjectUID": der.tlv(0x88, b"\x00\x01"),
    "extensions": der.tlv(0xA9, extension("2.5.29.14", der.encode_octets(b"other"))),
    "2.5.29.17": der.tlv(0xA9, extension("2.5.29.17", der.seq(der.tlv(0x82, b"host")))),
}


@pytest.mark.parametrize("field", list(MISFITS))
async def test_a_template_field_that_is_not_so_is_badcertid(world: World, field: str) -> None:
    holder = await device(world)
    seen = await world.rr(holder, ordered({field: MISFITS[field]}, holder, world))
    assert seen.outcomes() == ["badCertId"]
    assert field in seen.status()[1]
    assert (await world.record(holder)).state is CONFIRMED


@pytest.mark.parametrize(
    "field",
    [
        der.explicit(5, b"\x30\x00"),
        der.tlv(0xA6, der.seq(der.encode_oid("1.3.101.112")) + der.encode_bits(b"")),
        der.tlv(0xA9, b""),
        der.tlv(0xA4, b""),
        der.tlv(0x87, b"\x00"),
    ],
    ids=["subject", "publicKey", "extensions", "validity", "issuerUID"],
)
async def test_a_template_field_that_is_empty_says_nothing(world: World, field: bytes) -> None:
    holder = await device(world)
    assert (await world.rr(holder, ordered({"": field}, holder, world))).outcomes() == ["accepted"]


# --- crlEntryDetails -------------------------------------------------------------------------------------------------


def entry(oid: str, value: bytes) -> bytes:
    return extension(oid, value)


BAD_ENTRIES = {
    "reason 7": (reason_code(7), "badDataFormat"),
    "reason 11": (reason_code(11), "badDataFormat"),
    "reason -1": (reason_code(255), "badDataFormat"),
    "reason as INTEGER": (entry("2.5.29.21", der.encode_integer(1)), "badDataFormat"),
    "reason empty": (entry("2.5.29.21", b""), "badDataFormat"),
    "reason and more": (entry("2.5.29.21", b"\x0a\x01\x01\x00"), "badDataFormat"),
    "reason padded": (entry("2.5.29.21", b"\x0a\x02\x00\x01"), "badDataFormat"),
    "reason twice": (reason_code(1) + reason_code(1), "badDataFormat"),
    "UTCTime": (entry("2.5.29.24", der.encode_time(NOW)), "badDataFormat"),
    "fraction": (entry("2.5.29.24", der.tlv(der.GENERALIZED_TIME, b"20250101000000.5Z")), "badDataFormat"),
    "no such day": (entry("2.5.29.24", der.tlv(der.GENERALIZED_TIME, b"20250230000000Z")), "badDataFormat"),
    "before 1970": (entry("2.5.29.24", der.tlv(der.GENERALIZED_TIME, b"00050101000000Z")), "badRequest"),
    "foreign issuer": (
        entry("2.5.29.29", der.seq(der.explicit(4, encode_name("/CN=Other CA")))),
        "wrongAuthority",
    ),
    "issuer by DNS": (entry("2.5.29.29", der.seq(der.tlv(0x82, b"ca.example"))), "wrongAuthority"),
    "no issuer": (entry("2.5.29.29", b"\x30\x00"), "badDataFormat"),
    "issuer is no Name": (entry("2.5.29.29", der.seq(der.explicit(4, b"\x30\x02\x05\x00"))), "badDataFormat"),
    "unknown, critical": (extension("1.2.3.4", b"\x05\x00", critical=True), "badRequest"),
    "no Extension": (der.seq(), "badDataFormat"),
}


@pytest.mark.parametrize("case", list(BAD_ENTRIES))
async def test_crl_entry_details_that_cannot_be_used_are_refused(world: World, case: str) -> None:
    holder = await device(world)
    octets, failure = BAD_ENTRIES[case]
    seen = await world.rr(holder, rev_details(holder.certificate, None, octets))
    assert seen.outcomes() == [failure]
    assert seen.rev_certs() == [(world.ca.name, holder.certificate.serial)]
    assert (await world.record(holder)).state is CONFIRMED


async def test_a_critical_extension_is_named_in_the_refusal(world: World) -> None:
    holder = await device(world)
    octets, _ = BAD_ENTRIES["unknown, critical"]
    assert "1.2.3.4" in (await world.rr(holder, rev_details(holder.certificate, 1, octets))).status()[1]


async def test_an_extension_that_is_not_used_is_told_of(world: World) -> None:
    holder = await device(world)
    seen = await world.rr(holder, rev_details(holder.certificate, 1, extension("1.2.3.4", b"\x05\x00")))
    status, text, failures = seen.status()
    assert (status, failures) == (0, frozenset())
    assert "not used" in text
    assert "1.2.3.4" in text


async def test_our_name_as_certificate_issuer_is_accepted(world: World) -> None:
    holder = await device(world)
    octets = extension("2.5.29.29", der.seq(der.explicit(4, world.ca.name)), critical=True)
    assert (await world.rr(holder, rev_details(holder.certificate, 1, octets))).outcomes() == ["accepted"]


# --- several in one message ------------------------------------------------------------------------------------------


async def test_each_revdetails_is_judged_by_itself_and_nothing_is_dropped(world: World) -> None:
    agent = await ra(world)
    revoked, held, resumed, bad = [await device(world, f"/CN=device {n}") for n in range(4)]
    await world.rr(agent, rev_details(resumed.certificate, HOLD))
    seen = await world.rr(
        agent,
        rev_details(revoked.certificate, 4),
        named(world, b"\x05"),
        rev_details(held.certificate, HOLD),
        rev_details(bad.certificate, 7),
        rev_details(resumed.certificate, RESUME),
        named(world, b"\x05", encode_name("/CN=Other CA")),
        rev_details(revoked.certificate, 1),
    )
    assert seen.outcomes() == [
        "accepted", "badCertId", "accepted", "badDataFormat", "accepted", "wrongAuthority", "badRequest",
    ]  # fmt: skip
    assert [serial for _, serial in seen.rev_certs()] == [
        revoked.certificate.serial, 5, held.certificate.serial, bad.certificate.serial, resumed.certificate.serial, 5,
        revoked.certificate.serial,
    ]  # fmt: skip
    states = [(await world.record(holder)).state for holder in (revoked, held, resumed, bad)]
    assert states == [REVOKED, SUSPENDED, CONFIRMED, CONFIRMED]
    assert (await world.record(revoked)).reason == "superseded"
    assert world.published == 2


async def test_without_revcerts_if_one_revdetails_names_no_certificate(world: World) -> None:
    holder = await device(world)
    seen = await world.rr(holder, rev_details(holder.certificate, 1), raw_details(b"", reason_code(1)))
    assert seen.outcomes() == ["accepted", "badCertTemplate"]
    assert seen.rev_certs() == []


async def test_the_same_certificate_twice_is_refused_the_second_time(world: World) -> None:
    holder = await device(world)
    seen = await world.rr(holder, rev_details(holder.certificate, HOLD), rev_details(holder.certificate, RESUME))
    assert seen.outcomes() == ["accepted", "badRequest"]
    assert "named before" in seen.status(1)[1]
    assert (await world.record(holder)).state is SUSPENDED


async def test_more_than_the_configured_number_is_refused_whole() -> None:
    world = World(revocation=RevocationConfig(max_per_message=2))
    holders = [await device(world) for _ in range(3)]
    agent = await ra(world)
    seen = await world.rr(agent, *(rev_details(holder.certificate, 1) for holder in holders))
    assert seen.outcomes() == ["badRequest"]
    assert "at most 2" in seen.status()[1]
    seen = await world.rr(agent, *(rev_details(holder.certificate, 1) for holder in holders[:2]))
    assert seen.outcomes() == ["accepted", "accepted"]


@pytest.mark.parametrize("body", [b"\x30\x00", b"\x05\x00", b"\x31\x00"], ids=["empty", "NULL", "SET"])
async def test_a_body_that_cannot_be_read_is_one_rejection_in_an_rp(world: World, body: bytes) -> None:
    agent = await ra(world)
    request = protect("rr", body, agent.protector(world.env), world.env)
    seen = await world.ask(request, agent)
    assert (seen.body, seen.outcomes(), seen.rev_certs()) == ("rp", ["badDataFormat"], [])


# --- the log ---------------------------------------------------------------------------------------------------------


async def test_the_audit_log_has_what_was_done_by_whom(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cmpd.audit")
    holder, agent = await device(world), await ra(world)
    caplog.clear()
    for number in (HOLD, RESUME, 1, 1):
        await world.rr(agent, rev_details(holder.certificate, number))
    serial = serial_octets(holder.certificate.serial).hex()
    lines = [record.getMessage() for record in caplog.records if record.name == "cmpd.audit"]
    assert [line.split(" serial=")[0] for line in lines[:3]] == [
        "certificate suspended",
        "certificate resumed",
        "certificate revoked",
    ]
    assert all(serial in line and "entity 'ra1'" in line for line in lines[:3])
    assert "failInfo=certRevoked" in lines[3]
