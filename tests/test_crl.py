"""Encoding of CRLs: what RFC 5280 section 5 wants, judged by other decoders."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode
from pyasn1_alt_modules import rfc5280

from cmpd.asn1.der import DerError
from cmpd.ca import CertificateAuthority
from cmpd.crl import CrlEntries, CrlHead, CrlTemplate, encode_entry, read_head
from cmpd.records import CRL_REASONS, CertificateState, CrlRecord, RevokedCertificate, StatusChange
from tests.crls import DELTA, FRESHEST, SCOPE, Entry, SeenCrl, openssl_verifies, read_crl
from tests.profiles.support import NOW, authority, issue, wish
from tests.support import needs_openssl, run

CA_KINDS = ["p256", "p384", "ed25519", "rsa3072"]
RECORD = CrlRecord(number=7, this_update=NOW, next_update=NOW + 86_400, last_change=0, base=3)
SERIAL = bytes.fromhex("40112233445566778899aabbccddeeff")
LATER = NOW + 1_000_000
SCOPE_VALUE = bytes.fromhex("30038101ff")


def template(ca: CertificateAuthority, delta_url: str | None = None, has_scope: bool = True) -> CrlTemplate:
    return CrlTemplate(ca.name, ca.algorithm, ca.aki, delta_url, has_scope)


def signed(tbs: bytes, ca: CertificateAuthority) -> bytes:
    return asyncio.run(ca.sign_tbs(tbs))


def full(entries: Sequence[bytes] = (), kind: str = "p256", record: CrlRecord = RECORD, **options: Any) -> SeenCrl:
    ca = authority(kind)
    return read_crl(signed(template(ca, **options).full(record, entries), ca), ca)


def delta(entries: Sequence[bytes] = (), kind: str = "p256", record: CrlRecord = RECORD, **options: Any) -> SeenCrl:
    ca = authority(kind)
    return read_crl(signed(template(ca, **options).delta(record, entries), ca), ca)


# --- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CA_KINDS)
def test_a_crl_without_entries_has_no_list(kind: str) -> None:
    for seen in (full(kind=kind), delta(kind=kind)):
        assert not seen.has_list
        assert (seen.number, seen.this_update, seen.next_update) == (7, NOW, NOW + 86_400)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 200, 1000])
def test_lists_of_any_length_are_read_whole(count: int) -> None:
    serials = [bytes((0x40, *number.to_bytes(3, "big"))) for number in range(count)]
    seen = full([encode_entry(serial, NOW, None, None) for serial in serials])
    assert list(seen.entries) == serials


@pytest.mark.parametrize("reason", [*CRL_REASONS, None])
def test_every_reason_has_its_number_and_unspecified_is_left_out(reason: str | None) -> None:
    entry = encode_entry(SERIAL, NOW, reason, None)
    wanted = None if reason in (None, "unspecified") else CRL_REASONS[str(reason)]
    assert delta([entry]).entries == {SERIAL: Entry(NOW, wanted, None)}


def test_an_unknown_reason_is_left_out() -> None:
    assert full([encode_entry(SERIAL, NOW, "whim", None)]).entries == {SERIAL: Entry(NOW, None, None)}


def test_an_invalidity_date_stands_beside_the_reason_and_alone() -> None:
    for reason, number in (("keyCompromise", 1), (None, None)):
        entry = encode_entry(SERIAL, NOW, reason, NOW - 5000)
        assert full([entry]).entries == {SERIAL: Entry(NOW, number, NOW - 5000)}


def test_times_from_2050_on_are_generalized_and_before_they_are_not() -> None:
    last, first = 2_524_607_999, 2_524_608_000
    record = CrlRecord(number=1, this_update=last, next_update=first, last_change=0)
    seen = full([encode_entry(SERIAL, last, None, None), encode_entry(b"\x02", first, None, None)], record=record)
    assert (seen.this_update, seen.next_update) == (last, first)
    assert [entry.at for entry in seen.entries.values()] == [last, first]
    assert [len(seen.value["tbsCertList"][name].getComponent()) for name in ("thisUpdate", "nextUpdate")] == [13, 15]


@pytest.mark.parametrize("number", [1, 127, 128, 255, 256, 1 << 40])
def test_numbers_are_positive_integers_of_any_size(number: int) -> None:
    record = CrlRecord(number=number, this_update=NOW, next_update=NOW + 1, last_change=0, base=number - 1 or None)
    assert full(record=record).number == number
    if record.base is not None:
        assert (delta(record=record).number, delta(record=record).base) == (number, record.base)


def test_a_delta_crl_names_its_base_and_a_full_one_where_the_delta_is() -> None:
    url = "http://pki.example.com/delta.crl"
    one, other = full(delta_url=url), delta(delta_url=url)
    assert (one.base, other.base) == (None, 3)
    critical, value = one.extensions[FRESHEST]
    assert not critical
    points, rest = decode(value, asn1Spec=rfc5280.CRLDistributionPoints())
    assert not rest
    [point] = points
    assert not point["reasons"].isValue
    assert not point["cRLIssuer"].isValue
    [name] = point["distributionPoint"]["fullName"]
    assert (name.getName(), str(name.getComponent())) == ("uniformResourceIdentifier", url)
    assert FRESHEST not in other.extensions
    assert DELTA not in one.extensions


def test_freshest_crl_is_left_out_when_there_is_no_delta_crl_to_find() -> None:
    first = CrlRecord(number=1, this_update=NOW, next_update=NOW + 1, last_change=0)
    assert FRESHEST not in full(record=first, delta_url="http://pki.example.com/delta.crl").extensions
    with pytest.raises(ValueError, match="base"):
        template(authority("p256")).delta(first, ())


@needs_openssl
@pytest.mark.parametrize("kind", CA_KINDS)
def test_openssl_verifies_the_signature_and_not_with_one_bit_flipped(kind: str, tmp_path: Path) -> None:
    ca = authority(kind)
    for make in (template(ca).full, template(ca).delta):
        octets = signed(make(RECORD, [encode_entry(SERIAL, NOW, "keyCompromise", NOW)]), ca)
        assert openssl_verifies(octets, ca, tmp_path)
        at = octets.index(SERIAL)
        assert not openssl_verifies(octets[:at] + bytes((octets[at] ^ 1,)) + octets[at + 1 :], ca, tmp_path)


def pem_file(path: Path, octets: bytes) -> Path:
    path.write_bytes(x509.load_der_x509_certificate(octets).public_bytes(Encoding.PEM))
    return path


@needs_openssl
def test_software_that_asks_the_crl_about_the_ca_too_is_content_without_a_scope(tmp_path: Path) -> None:
    ca = authority("p256")
    anchor = pem_file(tmp_path / "ca.pem", ca.certificate)
    device = issue(ca, wish())
    serial = x509.load_der_x509_certificate(device).serial_number.to_bytes(16, "big")
    leaf = pem_file(tmp_path / "leaf.pem", device)
    good = []
    for has_scope in (True, False):
        for is_revoked in (False, True):
            entries = [encode_entry(serial, NOW, "keyCompromise", None)] if is_revoked else []
            octets = signed(template(ca, has_scope=has_scope).full(RECORD, entries), ca)
            assert read_crl(octets, ca, has_scope=has_scope).reasons == dict.fromkeys([serial] * is_revoked, 1)
            crl = tmp_path / "ca.crl"
            crl.write_bytes(x509.load_der_x509_crl(octets).public_bytes(Encoding.PEM))
            for option in ("-crl_check", "-crl_check_all"):
                command = [
                    "openssl",
                    "verify",
                    option,
                    "-attime",
                    str(NOW + 1),
                    "-CAfile",
                    anchor,
                    "-CRLfile",
                    crl,
                    leaf,
                ]
                done = run(command, ok=False)
                assert is_revoked == ("certificate revoked" in done.stderr)
                if done.returncode == 0:
                    good.append((has_scope, is_revoked, option))
    assert good == [(True, False, "-crl_check"), (False, False, "-crl_check"), (False, False, "-crl_check_all")]


def test_the_delta_crl_has_the_scope_of_the_full_one() -> None:
    ca = authority("p256")
    without = template(ca, "http://pki.example.com/delta.crl", has_scope=False)
    one = read_crl(signed(without.full(RECORD, ()), ca), ca, has_scope=False)
    other = read_crl(signed(without.delta(RECORD, ()), ca), ca, has_scope=False)
    assert FRESHEST in one.extensions
    assert (other.base, SCOPE in other.extensions) == (3, False)


# --- reading one's own back ------------------------------------------------------------------------------------------


def test_the_head_of_a_crl_says_which_one_it_is() -> None:
    ca = authority("p256")
    entries = [encode_entry(SERIAL, NOW, None, None)]
    for listed in (entries, []):
        assert read_head(signed(template(ca).full(RECORD, listed), ca)) == CrlHead(ca.name, NOW, 7, None, SCOPE_VALUE)
        assert read_head(signed(template(ca).delta(RECORD, listed), ca)) == CrlHead(ca.name, NOW, 7, 3, SCOPE_VALUE)
        without = template(ca, has_scope=False)
        assert read_head(signed(without.full(RECORD, listed), ca)).scope is None


@settings(max_examples=300)
@given(st.data())
def test_octets_that_are_no_crl_raise_nothing_but_der_errors(data: st.DataObject) -> None:
    good = template(authority("p256")).full(RECORD, [encode_entry(SERIAL, NOW, None, None)])
    octets = bytearray(b"\x30\x82" + len(good).to_bytes(2, "big") + good)
    for _ in range(data.draw(st.integers(0, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    del octets[data.draw(st.integers(0, len(octets))) :]
    octets += data.draw(st.binary(max_size=3))
    try:
        read_head(bytes(octets))
    except DerError:
        return


def test_what_follows_a_crl_is_not_overlooked() -> None:
    ca = authority("p256")
    octets = signed(template(ca).full(RECORD, ()), ca)
    for wrong in (octets + b"\0", octets[:-1], b"", ca.certificate):
        with pytest.raises(DerError):
            read_head(wrong)


def test_a_template_knows_what_it_has_made_and_what_another_has() -> None:
    ca, url = authority("p256"), "http://pki.example.com/delta.crl"
    mine = template(ca, url)
    entries = [encode_entry(SERIAL, NOW, None, None)]
    for listed in (entries, []):
        full, delta = signed(mine.full(RECORD, listed), ca), signed(mine.delta(RECORD, listed), ca)
        assert mine.has_made(RECORD, full, delta)
        wrong = [(full, None), (delta, full), (full, full), (delta, delta)]
        assert not any(mine.has_made(RECORD, *pair) for pair in wrong)
        for other in (
            template(ca),
            template(ca, url + "x"),
            template(ca, url, has_scope=False),
            template(authority("ed25519"), url),
        ):
            assert not other.has_made(RECORD, full, delta)
        changes: list[dict[str, Any]] = [{"number": 8}, {"this_update": NOW - 1}, {"next_update": NOW}, {"base": 2}]
        for fields in (*changes, {"base": None}):
            assert not mine.has_made(replace(RECORD, **fields), full, delta)
        alone = replace(RECORD, base=None)
        assert mine.has_made(alone, signed(mine.full(alone, listed), ca), None)


# --- entries ---------------------------------------------------------------------------------------------------------

REVOKED, SUSPENDED, RESUMED = CertificateState.REVOKED, CertificateState.SUSPENDED, CertificateState.CONFIRMED


def change(number: int, serial: bytes, state: CertificateState, reason: str | None = None, **rest: Any) -> StatusChange:
    fields = {"at": NOW + number, "by": "test", "invalidity_date": None, "not_after": LATER, **rest}
    fields.setdefault("revoked_at", fields["at"])
    return StatusChange(id=number, serial=serial, state=state, reason=reason, **fields)


def seen_delta(entries: CrlEntries) -> dict[bytes, int | None]:
    return delta(list(entries.delta.values())).reasons


def seen_full(entries: CrlEntries) -> dict[bytes, int | None]:
    return full(list(entries.full.values())).reasons


def test_what_is_resumed_leaves_the_full_crl_and_is_removed_by_the_delta() -> None:
    entries = CrlEntries(RECORD, 0)
    entries.apply([change(1, SERIAL, SUSPENDED, "certificateHold"), change(2, b"\x05", REVOKED, "keyCompromise")])
    assert seen_full(entries) == seen_delta(entries) == {SERIAL: 6, b"\x05": 1}
    entries.apply([change(3, SERIAL, RESUMED)])
    assert seen_full(entries) == {b"\x05": 1}
    assert seen_delta(entries) == {SERIAL: 8, b"\x05": 1}
    entries.apply([change(4, SERIAL, SUSPENDED, "certificateHold"), change(5, SERIAL, REVOKED, "superseded")])
    assert seen_full(entries) == seen_delta(entries) == {SERIAL: 4, b"\x05": 1}
    assert entries.last_change == 5


def test_entries_stay_until_a_scheduled_crl_after_their_end() -> None:
    entries = CrlEntries(None, 0)
    rows = [RevokedCertificate(bytes((1 + n,)), NOW, None, None, NOW + n) for n in range(3)]
    entries.add(rows)
    scheduled = CrlRecord(number=1, this_update=NOW + 1, next_update=LATER, last_change=0)
    entries.rebase(scheduled)
    assert list(entries.full) == [b"\x02", b"\x03"]  # expired before it: the first one alone
    assert entries.delta == {}
    assert entries.scheduled == scheduled
    entries.apply([change(1, b"\x09", REVOKED, not_after=NOW)])  # was on no full CRL yet
    assert b"\x09" in entries.full
    assert b"\x09" in entries.delta
