"""CRLs judged by pkilint (lint_crl, profile PKIX): nothing at NOTICE or above, whatever is on them."""

import asyncio
from functools import cache
from typing import Any

import pytest
from pkilint import loader, pkix, validation
from pkilint.pkix import crl, extension, name

from cmpd.crl import CrlTemplate, encode_entry
from cmpd.records import CRL_REASONS, CrlRecord
from tests.profiles.support import DAY, NOW, authority

CA_KINDS = ["p256", "p384", "p521", "ed25519", "ed448", "rsa3072"]
SERIAL = bytes.fromhex("40112233445566778899aabbccddeeff")
RECORD = CrlRecord(number=2, this_update=NOW, next_update=NOW + 3 * DAY, last_change=9, base=1)
FIRST = CrlRecord(number=1, this_update=NOW, next_update=NOW + 3 * DAY, last_change=9)
LATE = CrlRecord(number=1 << 62, this_update=NOW + 10_000 * DAY, next_update=NOW + 10_003 * DAY, last_change=9, base=5)
ENTRIES: dict[str, tuple[bytes, ...]] = {
    "none": (),
    **{f"{reason}": (encode_entry(SERIAL, NOW - 5, reason, None),) for reason in CRL_REASONS},
    "no reason": (encode_entry(SERIAL, NOW - 5, None, None),),
    "invalidity date": (encode_entry(SERIAL, NOW - 5, None, NOW - DAY),),
    "invalidity date and reason": (encode_entry(SERIAL, NOW - 5, "keyCompromise", NOW - DAY),),
    "invalidity date to come": (encode_entry(SERIAL, NOW - 5, "keyCompromise", NOW + 30_000 * DAY),),
    "many": tuple(
        encode_entry(bytes((0x40, n % 256, n // 256)), NOW - n, "superseded" if n % 2 else None, None)
        for n in range(300)
    ),
}


@cache
def _linter() -> Any:
    return crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )


def lint(octets: bytes) -> set[str]:
    """The codes of what pkilint finds at NOTICE or above."""
    document = loader.RFC5280CertificateListDocumentLoader().load_der_document(octets, "crl", None)
    return {
        found.finding.code
        for result in _linter().validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity <= validation.ValidationFindingSeverity.NOTICE
    }


def make(
    kind: str,
    record: CrlRecord,
    entries: tuple[bytes, ...],
    *,
    is_delta: bool,
    url: str | None = None,
    has_scope: bool = True,
) -> bytes:
    ca = authority(kind)
    template = CrlTemplate(ca.name, ca.algorithm, ca.aki, url, has_scope)
    return asyncio.run(ca.sign_tbs((template.delta if is_delta else template.full)(record, entries)))


@pytest.mark.parametrize("entries", ENTRIES)
def test_nothing_is_found_in_a_full_crl(entries: str) -> None:
    if entries != "removeFromCRL":
        assert lint(make("p256", RECORD, ENTRIES[entries], is_delta=False)) == set()
        assert lint(make("p256", RECORD, ENTRIES[entries], is_delta=False, url="http://pki.example.com/d")) == set()


@pytest.mark.parametrize("entries", ENTRIES)
def test_nothing_is_found_in_a_delta_crl(entries: str) -> None:
    assert lint(make("p256", RECORD, ENTRIES[entries], is_delta=True)) == set()


@pytest.mark.parametrize("kind", CA_KINDS)
def test_nothing_is_found_in_crls_of_a_ca_of_any_kind(kind: str) -> None:
    for record in (FIRST, RECORD, LATE):
        for entries in (ENTRIES["none"], ENTRIES["invalidity date and reason"]):
            assert (
                lint(make(kind, record, entries, is_delta=False, url="http://[2001:db8::1]:8080/x/delta.crl")) == set()
            )
            if record.base is not None:
                assert lint(make(kind, record, entries, is_delta=True)) == set()


def test_nothing_is_found_in_crls_without_a_scope_or_with_a_this_update_before_the_entries() -> None:
    for entries in (ENTRIES["none"], ENTRIES["many"]):
        for is_delta in (False, True):
            record = CrlRecord(2, NOW - DAY, NOW + DAY, 9, base=1)
            assert lint(make("p256", record, entries, is_delta=is_delta, has_scope=False)) == set()


def test_a_linter_that_finds_nothing_would_be_noticed() -> None:
    """A CRL without authorityKeyIdentifier."""
    ca = authority("p256")
    wrong = CrlTemplate(ca.name, ca.algorithm, b"")
    assert lint(asyncio.run(ca.sign_tbs(wrong.full(RECORD, ())))) == {"pkix.authority_key_identifier_missing"}
