"""OCSP answers: every status, every request that is none, and what other implementations say of both."""

import asyncio
import datetime
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import event, given
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc6960

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.changes import (
    AddCertificate,
    AddIntent,
    MoveCertificate,
    OpenTransaction,
)
from cmpd.config import ProfileConfig
from cmpd.config_status import OcspConfig
from cmpd.env import Env
from cmpd.errors import StoreError, SystemUnavail
from cmpd.ocsp import MAX_CERTIFICATES, MAX_REQUEST_OCTETS, OcspAnswer, OcspResponder
from cmpd.records import (
    CRL_REASONS,
    CertificateState,
    CertificateStatus,
)
from cmpd.signing.file import pem
from cmpd.store.sqlite import SqliteStore
from tests.ocsp import (
    HASH_OIDS,
    NONCE,
    Statuses,
    an_extension,
    cert_id,
    check_signature,
    decode,
    drive,
    hashes_of,
    lint,
    new_signer,
    nonce_extension,
    request,
    responder,
    signer,
    status,
    statuses,
    store_of,
)
from tests.profiles.support import DAY, NOW, authority, issue, wish
from tests.store import samples
from tests.support import needs_openssl, run

State = CertificateState
CA = authority("p256")
OTHER = authority("p384")
GOOD, WAITING, HELD, REVOKED, EXPIRED = (bytes((0x40, number)) for number in range(5))
NEVER = b"\x41"
MALFORMED, INTERNAL, TRY_LATER, UNAUTHORIZED = (bytes((0x30, 3, 0x0A, 1, number)) for number in (1, 2, 3, 6))
KNOWN = (
    status(GOOD, State.CONFIRMED),
    status(WAITING, State.ISSUED),
    status(HELD, State.SUSPENDED, NOW - 60, "certificateHold"),
    status(REVOKED, State.REVOKED, NOW - DAY, "keyCompromise"),
    status(EXPIRED, State.EXPIRED),
)
KEYS = ["p256", "p384", "p521", "ed25519", "ed448", "rsa2048"]
ACCEPTABLE = "1.3.6.1.5.5.7.48.1.4"
BASIC = "1.3.6.1.5.5.7.48.1.1"


async def ask(octets: bytes, **config: Any) -> OcspAnswer:
    """The answer about KNOWN; it is checked, and it is signed or has a status of its own."""
    answer = await responder(*KNOWN, **config).respond(octets)
    if answer.successful:
        check_signature(answer.der, signer("p256").certificate)
        decode(answer.der)
    else:
        assert answer.next_update is None
        assert not answer.cacheable
    return answer


# --- statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serial", "wanted"),
    [
        (GOOD, "good"),
        (WAITING, "good"),
        (EXPIRED, "good"),
        (HELD, "revoked certificateHold"),
        (REVOKED, "revoked keyCompromise"),
        (NEVER, "unknown"),
    ],
)
async def test_the_status_of_a_certificate_is_told(serial: bytes, wanted: str) -> None:
    answer = await ask(request(cert_id(CA, serial)))
    assert statuses(answer) == [wanted]
    assert lint(answer.der) == set()


async def test_all_certificates_of_a_request_are_answered_in_its_order_after_one_read() -> None:
    here = responder(*KNOWN)
    serials = (REVOKED, GOOD, NEVER, GOOD)
    answer = await here.respond(request(*(cert_id(CA, serial) for serial in serials)))
    assert statuses(answer) == ["revoked keyCompromise", "good", "unknown", "good"]
    assert [sorted(read) for read in store_of(here).reads] == [sorted((REVOKED, GOOD, NEVER))]
    assert cert_ids(answer) == [cert_id(CA, serial) for serial in serials]


def cert_ids(answer: OcspAnswer) -> list[bytes]:
    """The CertIDs of an answer as they stand in it."""
    return [encode_der(single["certID"]) for single in decode(answer.der)["tbsResponseData"]["responses"]]


async def test_a_change_is_in_the_next_answer() -> None:
    here = responder(status(GOOD, State.CONFIRMED))
    store = store_of(here)
    octets = request(cert_id(CA, GOOD))
    assert statuses(await here.respond(octets)) == ["good"]
    store.known[GOOD] = status(GOOD, State.SUSPENDED, NOW, "certificateHold")
    assert statuses(await here.respond(octets)) == ["revoked certificateHold"]
    store.known[GOOD] = status(GOOD, State.CONFIRMED)
    assert statuses(await here.respond(octets)) == ["good"]
    del store.known[GOOD]
    assert statuses(await here.respond(octets)) == ["unknown"]


@pytest.mark.parametrize("reason", [*CRL_REASONS, None])
async def test_every_reason_is_told_but_unspecified(reason: str | None) -> None:
    here = responder(status(REVOKED, State.REVOKED, NOW - 5, reason))
    seen = check_signature((await here.respond(request(cert_id(CA, REVOKED)))).der, signer("p256").certificate)
    assert seen.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert seen.revocation_time_utc == datetime.datetime.fromtimestamp(NOW - 5, datetime.UTC)
    told = seen.revocation_reason and seen.revocation_reason.value
    assert told == (None if reason in (None, "unspecified") else reason)


async def test_a_revocation_of_unknown_time_is_told_as_of_now() -> None:
    here = responder(status(REVOKED, State.REVOKED))
    seen = ocsp.load_der_ocsp_response((await here.respond(request(cert_id(CA, REVOKED)))).der)
    assert seen.revocation_time_utc == datetime.datetime.fromtimestamp(NOW, datetime.UTC)


async def test_the_times_of_an_answer_are_now_and_the_validity_later() -> None:
    answer = await ask(request(cert_id(CA, GOOD)), validity=600)
    seen = ocsp.load_der_ocsp_response(answer.der)
    assert (answer.this_update, answer.next_update) == (NOW, NOW + 600)
    assert seen.produced_at_utc == seen.this_update_utc == datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    assert seen.next_update_utc == datetime.datetime.fromtimestamp(NOW + 600, datetime.UTC)


async def test_an_answer_is_not_valid_longer_than_the_certificate_of_its_signer() -> None:
    end = signer("p256").not_after
    answer = await responder(*KNOWN, now=end - 10).respond(request(cert_id(CA, GOOD)))
    assert answer.next_update == end
    assert ocsp.load_der_ocsp_response(answer.der).next_update_utc == datetime.datetime.fromtimestamp(end, datetime.UTC)
    assert lint(answer.der) == set()


@pytest.mark.parametrize("kind", KEYS)
async def test_a_signer_of_every_kind_of_key_signs(kind: str) -> None:
    answer = await responder(*KNOWN, kind=kind).respond(request(cert_id(authority(kind), HELD)))
    seen = check_signature(answer.der, signer(kind).certificate)
    certificate = x509.load_der_x509_certificate(signer(kind).certificate)
    assert seen.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    assert seen.responder_name is None
    assert seen.revocation_reason is x509.ReasonFlags.certificate_hold
    assert lint(answer.der) == set()


# --- whose certificate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [b"", der.NULL_TLV])
@pytest.mark.parametrize("function", HASH_OIDS)
async def test_the_issuer_is_recognised_by_every_hash(function: str, params: bytes) -> None:
    wanted = cert_id(CA, REVOKED, function, params=params)
    answer = await ask(request(wanted))
    assert statuses(answer) == ["revoked keyCompromise"]
    assert cert_ids(answer)[0] == wanted
    assert lint(answer.der) == set()


STRANGERS = {
    "another CA": cert_id(OTHER, GOOD),
    "the name of this CA with another key": der.seq(
        hashes_of(CA)[:-22] + hashes_of(OTHER)[-22:], der.tlv(der.INTEGER, GOOD)
    ),
    "a hash that is not known": der.seq(
        der.seq(der.encode_oid("1.2.3.4"), der.encode_integer(7)),
        der.encode_octets(b"n"),
        der.encode_octets(b"k"),
        der.tlv(der.INTEGER, GOOD),
    ),
    "SHA-1 with the digests of SHA-256": der.seq(
        der.seq(der.encode_oid(HASH_OIDS["sha1"])) + hashes_of(CA, "sha256")[len(hashes_of(CA, "sha256")) - 68 :],
        der.tlv(der.INTEGER, GOOD),
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_about_certificates_of_others_alone_nobody_is_told_anything(stranger: str) -> None:
    here = responder(*KNOWN)
    answer = await here.respond(
        request(STRANGERS[stranger], cert_id(OTHER, REVOKED), extensions=[nonce_extension(b"n")])
    )
    assert answer.der == UNAUTHORIZED
    assert not answer.successful
    assert lint(answer.der) == set()
    assert store_of(here).reads == []


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_beside_one_of_ours_the_certificate_of_another_is_unknown(stranger: str) -> None:
    answer = await ask(request(STRANGERS[stranger], cert_id(CA, REVOKED)))
    assert statuses(answer) == ["unknown", "revoked keyCompromise"]
    assert cert_ids(answer)[0] == STRANGERS[stranger]


# --- extensions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8, 16, 32, 127, 128])
async def test_a_nonce_comes_back(size: int) -> None:
    nonce = bytes(range(size))
    answer = await ask(request(cert_id(CA, GOOD), extensions=[nonce_extension(nonce)]))
    seen = ocsp.load_der_ocsp_response(answer.der)
    found = seen.extensions.get_extension_for_class(x509.OCSPNonce)
    assert found.value.nonce == nonce
    assert not found.critical
    assert answer.successful
    assert not answer.cacheable
    assert lint(answer.der) == set()


async def test_a_critical_nonce_is_understood() -> None:
    answer = await ask(request(cert_id(CA, GOOD), extensions=[nonce_extension(b"nonce", critical=True)]))
    assert statuses(answer) == ["good"]


@pytest.mark.parametrize("bare", [b"n", b"0123456789abcdef", b"\x04\x02a", b"\x04\x01ab", b"\x04\x00ab", bytes(128)])
async def test_the_bare_nonce_of_an_old_client_comes_back_as_it_came(bare: bytes) -> None:
    extension = an_extension(NONCE, bare)
    answer = await ask(request(cert_id(CA, GOOD), extensions=[extension]))
    assert ocsp.load_der_ocsp_response(answer.der).tbs_response_bytes.endswith(der.explicit(1, der.seq(extension)))


async def test_an_answer_without_nonce_may_be_kept() -> None:
    answer = await ask(request(cert_id(CA, GOOD)))
    assert answer.cacheable
    assert len(ocsp.load_der_ocsp_response(answer.der).extensions) == 0


async def test_what_is_not_known_and_not_critical_is_ignored() -> None:
    extensions = [an_extension("1.2.3.4", b"whatever"), nonce_extension(b"nonce")]
    single = der.seq(cert_id(CA, HELD), der.explicit(0, der.seq(an_extension("1.2.3.5", b""))))
    octets = der.seq(der.seq(der.seq(single), der.explicit(2, der.seq(*extensions))))
    answer = await ask(octets)
    assert statuses(answer) == ["revoked certificateHold"]
    found = ocsp.load_der_ocsp_response(answer.der).extensions
    assert [one.oid.dotted_string for one in found] == [NONCE]


async def test_a_client_that_takes_basic_answers_among_others_gets_one() -> None:
    kinds = der.seq(der.encode_oid("1.2.3.4"), der.encode_oid(BASIC))
    answer = await ask(request(cert_id(CA, GOOD), extensions=[an_extension(ACCEPTABLE, kinds, critical=True)]))
    assert statuses(answer) == ["good"]
    assert answer.cacheable


SIGNATURE = der.explicit(
    0, der.seq(der.seq(der.encode_oid("1.2.840.10045.4.3.2")), der.encode_bits(b"s" * 70), der.explicit(0, der.seq()))
)


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        (b"\xa0\x03\x02\x01\x00", b""),
        (der.explicit(1, der.explicit(4, encode_name("/CN=somebody"))), b""),
        (der.explicit(1, der.tlv(0x82, b"somebody.example")), SIGNATURE),
        (b"", SIGNATURE),
    ],
    ids=["version 1 said", "requestorName", "requestorName and signature", "signature"],
)
async def test_who_asks_does_not_matter(before: bytes, behind: bytes) -> None:
    answer = await ask(request(cert_id(CA, REVOKED), before=before, behind=behind))
    assert statuses(answer) == ["revoked keyCompromise"]


# --- what is no request -----------------------------------------------------------------------------------------------

ONE = cert_id(CA, GOOD)
LIST = der.seq(der.seq(ONE))


def with_extensions(*extensions: bytes) -> bytes:
    return request(ONE, extensions=extensions)


def with_serial(contents: bytes) -> bytes:
    return request(der.seq(hashes_of(CA), der.tlv(der.INTEGER, contents)))


SHAPE: dict[str, bytes] = {
    "nothing": b"",
    "not DER": b"GET /",
    "an empty OCSPRequest": b"\x30\x00",
    "an empty tbsRequest": b"\x30\x02\x30\x00",
    "an empty requestList": der.seq(der.seq(der.seq())),
    "octets after the request": request(ONE) + b"\0",
    "a request cut off": request(ONE)[:-1],
    "indefinite length": b"\x30\x80" + der.seq(LIST) + b"\0\0",
    "a padded length": b"\x30\x81" + request(ONE)[1:],
    "a SET": b"\x31" + request(ONE)[1:],
    "version 2": request(ONE, before=b"\xa0\x03\x02\x01\x01"),
    "a version that is none": request(ONE, before=b"\xa0\x02\x05\x00"),
    "an empty version": request(ONE, before=b"\xa0\x00"),
    "two requestorNames": request(ONE, before=der.explicit(1, b"\x82\x01a\x82\x01b")),
    "an empty requestorName": request(ONE, before=b"\xa1\x00"),
    "a requestorName that is not DER": request(ONE, before=b"\xa1\x04\xa4\x02\x01\x05"),
    "too many certificates": request(*[ONE] * (MAX_CERTIFICATES + 1)),
    "too many octets": request(ONE, extensions=[an_extension("1.2.3.4", bytes(MAX_REQUEST_OCTETS))]),
    "a value after the extensions": der.seq(der.seq(LIST, der.explicit(2, der.seq(nonce_extension(b"n"))), LIST)),
    "extensions under another tag": der.seq(der.seq(LIST, der.explicit(3, der.seq(nonce_extension(b"n"))))),
}
CERT_ID: dict[str, bytes] = {
    "a Request that is none": der.seq(der.seq(der.seq(b"\x05\x00"))),
    "three values": request(der.seq(hashes_of(CA))),
    "five values": request(der.seq(hashes_of(CA), der.tlv(der.INTEGER, GOOD), der.NULL_TLV)),
    "no serial number": request(der.seq(hashes_of(CA), der.NULL_TLV)),
    "a serial number that is no INTEGER": request(der.seq(hashes_of(CA), der.encode_octets(GOOD))),
    "parameters that are not DER": request(
        der.seq(der.seq(der.encode_oid("1.2.3"), b"\x01\x01\x05"), b"\x04\x01n\x04\x01k", der.tlv(der.INTEGER, GOOD))
    ),
    "an empty serial number": with_serial(b""),
    "serial number 0": with_serial(b"\0"),
    "a negative serial number": with_serial(b"\x80"),
    "a padded serial number": with_serial(b"\0\x40"),
    "a serial number of 21 octets": with_serial(b"\x40" * 21),
    "a hash algorithm that is none": request(der.seq(der.seq(), hashes_of(CA)[11:], der.tlv(der.INTEGER, GOOD))),
    "two parameters": request(
        der.seq(
            der.seq(der.encode_oid("1.2.3"), der.NULL_TLV, der.NULL_TLV),
            der.encode_octets(b"n"),
            der.encode_octets(b"k"),
            der.tlv(der.INTEGER, GOOD),
        )
    ),
    "an empty hash": request(
        der.seq(der.seq(der.encode_oid("1.2.3")), der.encode_octets(b""), b"\x04\x01k", der.tlv(der.INTEGER, GOOD))
    ),
    "a hash of 65 octets": request(
        der.seq(
            der.seq(der.encode_oid("1.2.3")), b"\x04\x01n", der.encode_octets(bytes(65)), der.tlv(der.INTEGER, GOOD)
        )
    ),
    "a hash that is no OCTET STRING": request(
        der.seq(der.seq(der.encode_oid("1.2.3")), b"\x04\x01n", b"\x0c\x01k", der.tlv(der.INTEGER, GOOD))
    ),
}
EXTENSIONS: dict[str, bytes] = {
    "no extension": der.seq(der.seq(LIST, der.explicit(2, der.seq()))),
    "an empty nonce": with_extensions(nonce_extension(b"")),
    "a nonce of no octets at all": with_extensions(an_extension(NONCE, b"")),
    "a nonce of 129 octets": with_extensions(nonce_extension(bytes(129))),
    "a bare nonce of 129 octets": with_extensions(an_extension(NONCE, bytes(129))),
    "two nonces": with_extensions(nonce_extension(b"n"), nonce_extension(b"n")),
    "a critical extension that is not known": with_extensions(an_extension("1.2.3.4", b"", critical=True)),
    "an extnID that is none": with_extensions(der.seq(b"\x06\x00", der.encode_octets(b""))),
    "no kind of answer that there is": with_extensions(an_extension(ACCEPTABLE, der.seq(der.encode_oid("1.2.3.4")))),
    "kinds of answers that are not DER": with_extensions(
        an_extension(ACCEPTABLE, der.seq(der.encode_oid(BASIC), b"\x01\x01\x05"))
    ),
    "kinds of answers that are none": with_extensions(an_extension(ACCEPTABLE, b"\x05\x00")),
    "a critical extension of one certificate": der.seq(
        der.seq(der.seq(der.seq(ONE, der.explicit(0, der.seq(an_extension("1.2.3.4", b"", critical=True))))))
    ),
    "something else behind a CertID": der.seq(der.seq(der.seq(der.seq(ONE, der.NULL_TLV)))),
}
SIGNATURES: dict[str, bytes] = {
    "an empty signature": request(ONE, behind=b"\xa0\x00"),
    "no signature value": request(ONE, behind=der.explicit(0, der.seq(der.seq()))),
    "a signature that is not DER": request(
        ONE, behind=der.explicit(0, der.seq(der.seq(b"\x01\x01\x05"), der.encode_bits(b"s")))
    ),
    "a signature of 40,000 octets": request(
        ONE, behind=der.explicit(0, der.seq(der.seq(der.encode_oid("1.2.3")), der.encode_bits(bytes(40_000))))
    ),
    "something else behind the request": request(ONE, behind=der.NULL_TLV),
}
WRONG = SHAPE | CERT_ID | EXTENSIONS | SIGNATURES


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_no_request_is_malformed(wrong: str) -> None:
    here = responder(*KNOWN)
    answer = await here.respond(WRONG[wrong])
    assert answer == OcspAnswer(MALFORMED, NOW)
    assert store_of(here).reads == []


def test_as_many_certificates_as_allowed_are_answered() -> None:
    answer = drive(responder(*KNOWN).respond(request(*[ONE] * MAX_CERTIFICATES)))
    assert statuses(answer) == ["good"] * MAX_CERTIFICATES
    serial = b"\x40" * 20
    assert statuses(drive(responder().respond(with_serial(serial)))) == ["unknown"]


@pytest.mark.parametrize("answer", [MALFORMED, INTERNAL, TRY_LATER, UNAUTHORIZED])
def test_the_unsigned_answers_are_understood_by_others(answer: bytes) -> None:
    assert lint(answer) == set()
    seen = ocsp.load_der_ocsp_response(answer)
    wanted = {MALFORMED: "MALFORMED_REQUEST", INTERNAL: "INTERNAL_ERROR", TRY_LATER: "TRY_LATER"}
    assert seen.response_status.name == wanted.get(answer, "UNAUTHORIZED")


# --- what goes wrong here ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (StoreError("the disk is gone"), TRY_LATER),
        (SystemUnavail("too many signatures wait"), TRY_LATER),
        (RuntimeError("a bug"), INTERNAL),
    ],
)
async def test_a_fault_here_is_told_without_a_word_about_it(
    error: Exception, wanted: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    here = responder(*KNOWN)
    store_of(here).error = error
    with caplog.at_level(logging.ERROR):
        answer = await here.respond(request(ONE))
    assert answer == OcspAnswer(wanted, NOW)
    assert str(error) in caplog.text


@pytest.mark.parametrize("when", ["before", "after"])
async def test_without_a_valid_signer_it_says_try_later(when: str) -> None:
    own = signer("p256")
    now = own.not_before - 1 if when == "before" else own.not_after + 1
    assert await responder(*KNOWN, now=now).respond(request(ONE)) == OcspAnswer(TRY_LATER, now)


async def test_without_any_signer_it_says_try_later() -> None:
    here = responder(*KNOWN)
    here.signer = None
    assert await here.respond(request(ONE)) == OcspAnswer(TRY_LATER, NOW)


async def test_the_signer_may_be_replaced_between_two_answers() -> None:
    here = responder(*KNOWN)
    second = new_signer(CA)
    before = await here.respond(request(ONE))
    first, here.signer = here.signer, second
    after = await here.respond(request(ONE))
    assert first is not None
    assert first.certificate != second.certificate
    check_signature(before.der, first.certificate)
    check_signature(after.der, second.certificate)


@pytest.mark.parametrize("again", [9.9, 10, -1])
async def test_answers_of_try_later_are_one_line_in_ten_seconds(again: float, caplog: pytest.LogCaptureFixture) -> None:
    now = float(NOW)
    here = OcspResponder(cast(Any, Statuses()), CA, Env(now=lambda: now), OcspConfig(), event=asyncio.Event)
    for _ in range(500):
        assert (await here.respond(request(ONE))).der == TRY_LATER
    now += again
    await here.respond(request(ONE))
    [first, *more] = [record.getMessage() for record in caplog.records]
    assert "tryLater" in first
    assert first.endswith("; 1 since the last such line")
    assert [line.endswith("; 500 since the last such line") for line in more] == ([] if again == 9.9 else [True])


async def test_nobody_outside_fills_the_log_with_malformed_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cmpd")
    assert (await responder(*KNOWN).respond(b"junk")).der == MALFORMED
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


# --- reads that are shared --------------------------------------------------------------------------------------------


class SlowStatuses(Statuses):
    """Answers with what it knew when the read began, and not before `go` is set."""

    def __init__(self, *known: Any) -> None:
        super().__init__(*known)
        self.go = asyncio.Event()

    async def certificate_status(self, serials: Sequence[bytes]) -> dict[bytes, CertificateStatus]:
        found = await super().certificate_status(serials)
        await self.go.wait()
        return found


def slow(*known: Any) -> tuple[OcspResponder, SlowStatuses]:
    store = SlowStatuses(*known)
    here = OcspResponder(
        cast(Any, store), CA, Env(now=lambda: NOW), OcspConfig(), event=asyncio.Event, signer=signer("p256")
    )
    return here, store


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def asking(here: OcspResponder, *serials: bytes) -> "asyncio.Task[OcspAnswer]":
    return asyncio.create_task(here.respond(request(*(cert_id(CA, serial) for serial in serials))))


async def test_requests_that_come_during_a_read_share_the_next_one() -> None:
    here, store = slow(*KNOWN)
    first = asking(here, GOOD)
    await settle()
    others = [asking(here, *serials) for serials in ((HELD,), (REVOKED, NEVER), (HELD, GOOD))]
    await settle()
    assert store.reads == [(GOOD,)]
    store.go.set()
    assert statuses(await first) == ["good"]
    assert [statuses(await other) for other in others] == [
        ["revoked certificateHold"],
        ["revoked keyCompromise", "unknown"],
        ["revoked certificateHold", "good"],
    ]
    assert [set(read) for read in store.reads] == [{GOOD}, {HELD, REVOKED, NEVER, GOOD}]


async def test_nobody_is_told_what_was_read_before_it_asked() -> None:
    here, store = slow(status(GOOD, State.CONFIRMED))
    before = asking(here, GOOD)
    await settle()
    store.known[GOOD] = status(GOOD, State.REVOKED, NOW, "superseded")
    after = asking(here, GOOD)
    await settle()
    store.go.set()
    assert statuses(await before) == ["good"]
    assert statuses(await after) == ["revoked superseded"]


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_one_that_goes_away_takes_no_other_with_it(gone: int) -> None:
    """The one whose read is under way, the one who will read for others too, one of the others."""
    here, store = slow(*KNOWN)
    tasks = []
    for _ in range(4):
        tasks.append(asking(here, HELD))
        await settle()
    tasks[gone].cancel()
    await settle()
    store.go.set()
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert isinstance(found[gone], asyncio.CancelledError)
    for answer in found[:gone] + found[gone + 1 :]:
        assert isinstance(answer, OcspAnswer)
        assert statuses(answer) == ["revoked certificateHold"]
    assert statuses(await here.respond(request(cert_id(CA, GOOD)))) == ["good"]


async def test_a_read_that_fails_is_told_to_those_who_shared_it_and_not_to_the_next() -> None:
    here, store = slow(*KNOWN)
    first = asking(here, GOOD)
    await settle()
    others = [asking(here, GOOD) for _ in range(3)]
    await settle()
    store.error = StoreError("the disk is gone")
    store.go.set()
    assert statuses(await first) == ["good"]
    assert [(await other).der for other in others] == [TRY_LATER] * 3
    store.error = None
    assert statuses(await here.respond(request(ONE))) == ["good"]


async def test_a_shared_read_has_at_most_a_hundred_certificates() -> None:
    here, store = slow()
    tasks = [asking(here, *(bytes((0x40, number, i)) for i in range(MAX_CERTIFICATES))) for number in range(9)]
    await settle()
    store.go.set()
    for task in tasks:
        assert statuses(await task) == ["unknown"] * MAX_CERTIFICATES
    assert [len(read) for read in store.reads] == [32, 96, 96, 64]


async def test_what_an_operator_changes_in_another_process_is_in_the_next_answer(tmp_path: Path) -> None:
    serving = await SqliteStore.open(tmp_path / "cmpd.db", serving=True)
    operator = await SqliteStore.open(tmp_path / "cmpd.db", serving=False)
    owner = await serving.add_entity(samples.entity())
    serial = b"\x41" * 16
    here = OcspResponder(serving, CA, Env(now=lambda: NOW), OcspConfig(), event=asyncio.Event, signer=signer("p256"))

    async def told() -> str:
        return statuses(await here.respond(request(cert_id(CA, serial))))[0]

    issued = CertificateState.ISSUED
    assert await told() == "unknown"
    await serving.write(
        [OpenTransaction(samples.transaction(1, owner)), AddIntent(samples.intent(1, owner, serial=serial))]
    )
    assert await told() == "unknown"
    await serving.write([AddCertificate(serial, b"certificate", issued, NOW)])
    assert await told() == "good"
    await operator.write([MoveCertificate(serial, issued, CertificateState.REVOKED, NOW, "superseded", by="operator")])
    assert await told() == "revoked superseded"
    await operator.close()
    await serving.close()


# --- others -----------------------------------------------------------------------------------------------------------

DEVICE = issue(CA, wish(ProfileConfig(validity=100 * DAY)))
DEVICE_SERIAL = x509.load_der_x509_certificate(DEVICE).serial_number.to_bytes(16, "big")


def of_cryptography(function: Any, *, nonce: bytes | None = None) -> bytes:
    device, ca = map(x509.load_der_x509_certificate, (DEVICE, CA.certificate))
    builder = ocsp.OCSPRequestBuilder().add_certificate(device, ca, function)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), False)
    return builder.build().public_bytes(Encoding.DER)


@pytest.mark.parametrize("nonce", [None, b"nonce of cryptography"])
@pytest.mark.parametrize("state", ["good", "unknown", "revoked", "revoked with a reason"])
@pytest.mark.parametrize("function", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_what_is_signed_is_what_cryptography_would_sign(function: Any, state: str, nonce: bytes | None) -> None:
    """Octet by octet, for the same request at the same time."""
    reason = "superseded" if state == "revoked with a reason" else None
    known = {
        "good": [status(DEVICE_SERIAL, State.CONFIRMED)],
        "unknown": [],
    }.get(state, [status(DEVICE_SERIAL, State.REVOKED, NOW - 99, reason)])
    while True:  # until it has produced it in the same second: it asks the system's clock
        now = int(time.time())
        theirs = _answer_of_cryptography(function, state, reason, now, nonce)
        if theirs.produced_at_utc.timestamp() == now:
            break
    here = OcspResponder(
        cast(Any, Statuses(*known)), CA, Env(now=lambda: now), OcspConfig(), event=asyncio.Event, signer=_lasting(now)
    )
    answer = drive(here.respond(of_cryptography(function, nonce=nonce)))
    assert answer.successful
    assert ocsp.load_der_ocsp_response(answer.der).tbs_response_bytes == theirs.tbs_response_bytes


def _lasting(now: int) -> Any:
    """The signer of the tests as if it were valid for ever: what is signed does not depend on that."""
    own = signer("p256")
    made = type(own)(own.certificate, own._key)
    made.not_before, made.not_after = now - DAY, now + 365 * DAY
    return made


def _answer_of_cryptography(
    function: Any, state: str, reason: str | None, now: int, nonce: bytes | None
) -> ocsp.OCSPResponse:
    device, ca = map(x509.load_der_x509_certificate, (DEVICE, CA.certificate))
    own = signer("p256")
    flags = x509.ReasonFlags(reason) if reason else None
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=device,
        issuer=ca,
        algorithm=function,
        cert_status=ocsp.OCSPCertStatus[state.split()[0].upper()],
        this_update=datetime.datetime.fromtimestamp(now, datetime.UTC),
        next_update=datetime.datetime.fromtimestamp(now + 3600, datetime.UTC),
        revocation_time=datetime.datetime.fromtimestamp(NOW - 99, datetime.UTC) if "revoked" in state else None,
        revocation_reason=flags,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, x509.load_der_x509_certificate(own.certificate))
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), False)
    return builder.sign(cast(Any, own._key)._key, hashes.SHA256())


@needs_openssl
@pytest.mark.parametrize("kind", ["p256", "rsa3072", "ed25519"])
def test_openssl_asks_and_believes(kind: str, tmp_path: Path) -> None:
    """`openssl ocsp` with a nonce, about four certificates at once: the status of each, verified up to the CA."""
    now = int(time.time())
    ca = authority(kind, now)
    serials = {}
    for name in ("good", "held", "revoked", "never"):
        certificate = issue(ca, wish(subject=f"/CN={name}", now=now))
        (tmp_path / f"{name}.pem").write_bytes(pem("CERTIFICATE", certificate))
        serials[name] = x509.load_der_x509_certificate(certificate).serial_number.to_bytes(16, "big")
    (tmp_path / "ca.pem").write_bytes(pem("CERTIFICATE", ca.certificate))
    which = [part for name in serials for part in ("-cert", tmp_path / f"{name}.pem")]
    files = ["openssl", "ocsp", "-issuer", tmp_path / "ca.pem", "-sha256", *which]
    run([*files, "-nonce", "-reqout", tmp_path / "request"])
    store = Statuses(
        status(serials["good"], State.ISSUED),
        status(serials["held"], State.SUSPENDED, now - 60, "certificateHold"),
        status(serials["revoked"], State.REVOKED, now - 60, "keyCompromise"),
    )
    env = Env(now=lambda: now)
    here = OcspResponder(cast(Any, store), ca, env, OcspConfig(), event=asyncio.Event, signer=signer(kind, now))
    answer = drive(here.respond((tmp_path / "request").read_bytes()))
    (tmp_path / "answer").write_bytes(answer.der)
    trust = ["-respin", tmp_path / "answer", "-CAfile", tmp_path / "ca.pem"]
    done = run([*files, "-no_nonce", *trust])
    assert "Response verify OK" in done.stderr
    for name, wanted in {"good": "good", "held": "revoked", "revoked": "revoked", "never": "unknown"}.items():
        assert f"{name}.pem: {wanted}\n" in done.stdout
    assert "Reason: certificateHold" in done.stdout
    assert "Reason: keyCompromise" in done.stdout
    same_request = ["openssl", "ocsp", "-no_nonce", "-reqin", tmp_path / "request", *trust]  # with the nonce it has
    done = run(same_request)
    assert "Response verify OK" in done.stderr
    assert "nonce" not in done.stderr.lower()
    spoilt = bytearray(answer.der)
    spoilt[answer.der.index(b"\x82\x00")] ^= 2  # unknown becomes good
    (tmp_path / "answer").write_bytes(bytes(spoilt))
    assert "Response Verify Failure" in run([*files, "-no_nonce", *trust], ok=False).stderr
    another = request(cert_id(ca, serials["good"]), extensions=[nonce_extension(b"another")])
    (tmp_path / "answer").write_bytes(drive(here.respond(another)).der)
    assert "Nonce Verify error" in run(same_request, ok=False).stderr


# --- anything ---------------------------------------------------------------------------------------------------------

OIDS = st.sampled_from([NONCE, ACCEPTABLE, "1.2.3.4", "2.5.29.15"])
VALUES = st.one_of(st.binary(max_size=140), st.binary(max_size=140).map(der.encode_octets), st.just(der.seq()))
ANY_EXTENSIONS = st.lists(st.builds(an_extension, OIDS, VALUES, critical=st.booleans()), max_size=3)
SERIALS = st.one_of(st.sampled_from([GOOD, HELD, NEVER, b"", b"\0", b"\x80"]), st.binary(max_size=22))
FUNCTIONS = st.sampled_from(sorted(HASH_OIDS))
CERT_IDS = st.builds(cert_id, st.sampled_from([CA, OTHER]), SERIALS, FUNCTIONS, params=st.sampled_from([b"", b"\5\0"]))
BEFORE = st.sampled_from([b"", b"", b"\xa0\x03\x02\x01\x00", b"\xa0\x03\x02\x01\x01", b"\xa1\x03\x82\x01a"])
REQUESTS = st.builds(
    lambda ids, extensions, before, behind: request(*ids, extensions=extensions, before=before, behind=behind),
    st.lists(CERT_IDS, max_size=4),
    ANY_EXTENSIONS,
    BEFORE,
    st.sampled_from([b"", b"", SIGNATURE]),
)


@given(st.one_of(st.binary(max_size=300), REQUESTS))
def test_whatever_is_asked_there_is_an_answer(octets: bytes) -> None:
    answer = drive(responder(*KNOWN).respond(octets))
    if answer.successful:
        event("answered")
        basic = decode(answer.der)
        asked = ocsp_request(octets)
        assert len(basic["tbsResponseData"]["responses"]) == len(asked["tbsRequest"]["requestList"])
        check_signature(answer.der, signer("p256").certificate)
    else:
        event("refused")
        assert answer.der in (MALFORMED, UNAUTHORIZED)


def ocsp_request(octets: bytes) -> Any:
    found, rest = decode_der(octets, asn1Spec=rfc6960.OCSPRequest())
    assert not rest
    return found
