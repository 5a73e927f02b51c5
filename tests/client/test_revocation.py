"""rr and rp of the client, against a CA that reads and writes them by pyasn1."""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc5280, rfc9810

from cmpd.asn1 import der, names
from cmpd.cli.cmpc import main
from cmpd.client.connection import Connection
from cmpd.client.credentials import Credential, SharedSecret
from cmpd.client.errors import ClientError, CmpClientError, VerificationError
from cmpd.client.flows import Client
from cmpd.client.responses import Trust
from cmpd.client.revocation import RevDetails, RevocationResult, rev_details
from cmpd.records import CRL_REASONS
from tests.client.ca import ACCEPTED, REFERENCE, SECRET, Ca, Issued, error_content, forged, issue, rev_rep, status_info
from tests.client.ca import wishes as wishes_of
from tests.client.wire import Peer, serving

MAC = SharedSecret(REFERENCE, SECRET, iterations=500)
REVOKED = status_info(2, "it is revoked", 10)
UNKNOWN = status_info(2, "no such certificate", 4)
REASON, INVALIDITY = "2.5.29.21", "2.5.29.24"
ISSUER = names.encode_name("CN=sub")


@pytest.fixture
def ca() -> Ca:
    return Ca.make()


@pytest.fixture
def device(ca: Ca) -> Issued:
    return issue("device", ca.sub)


def behaviour(ca: Ca) -> Callable[[Peer], Awaitable[None]]:
    async def behave(peer: Peer) -> None:
        while (message := await peer.read()) is not None:
            await peer.answer(ca.respond(message[2]))

    return behave


async def revoke(ca: Ca, credential: Credential, *details: RevDetails) -> list[RevocationResult]:
    async with serving(behaviour(ca)) as server, Connection("127.0.0.1", server.port) as connection:
        client = Client(connection, credential, Trust((ca.root.certificate,)))
        return await client.revoke(details)


def wishes(ca: Ca) -> list[tuple[tuple[bytes, int], dict[str, bytes]]]:
    assert {name for name, _ in ca.received} == {"rr"}
    return [wish for _, envelope in ca.received for wish in wishes_of(envelope)]


# --- the request ---------------------------------------------------------------


@pytest.mark.parametrize("reason", CRL_REASONS)
def test_each_reason_is_encoded_bit_for_bit_as_pyasn1_does(reason: str) -> None:
    theirs = rfc9810.RevDetails()
    theirs["certDetails"]["serialNumber"] = 0x80
    theirs["certDetails"]["issuer"]["rdnSequence"] = decode_der(ISSUER, asn1Spec=rfc5280.RDNSequence())[0]
    extensions = (
        (rfc5280.id_ce_cRLReasons, rfc5280.CRLReason(reason)),
        (rfc5280.id_ce_invalidityDate, rfc5280.InvalidityDate("20231114221320Z")),
    )
    for number, (oid, value) in enumerate(extensions):
        theirs["crlEntryDetails"][number]["extnID"] = oid
        theirs["crlEntryDetails"][number]["extnValue"] = encode_der(value)
    assert rev_details(RevDetails(ISSUER, 0x80, reason, 1_700_000_000)) == encode_der(theirs)


def test_the_reasons_are_those_of_rfc_5280_without_the_unused_one() -> None:
    theirs = {str(name): int(number) for name, number in rfc5280.CRLReason.namedValues.items()}
    assert theirs == CRL_REASONS


async def test_an_rr_names_issuer_and_serial_number_and_says_zero_without_a_reason(ca: Ca, device: Issued) -> None:
    own = device.certificate
    [result] = await revoke(ca, device.credential, RevDetails.of(own))
    assert wishes(ca) == [((own.issuer, own.serial), {REASON: b"\x0a\x01\x00"})]
    assert (result.accepted, result.error, result.status.status) == (True, None, "accepted")
    assert result.protected_by == "CN=cmp signer"
    header = ca.received[0][1].header
    assert header.recipient == der.explicit(4, own.issuer)
    assert header.sender_kid == own.key_identifier
    assert not header.implicit_confirm


async def test_several_certificates_of_several_issuers_have_a_result_each(ca: Ca, device: Issued) -> None:
    details = [
        RevDetails.of(device.certificate, "keyCompromise", 1_700_000_000),
        RevDetails(ca.root.certificate.subject, 0x80, "certificateHold"),
        RevDetails(ISSUER, 1, "removeFromCRL"),
    ]
    forged(ca, rev_status={0x80: REVOKED, 1: UNKNOWN})
    results = await revoke(ca, MAC, *details)
    assert [result.details for result in results] == details
    assert [result.accepted for result in results] == [True, False, False]
    errors = [result.error for result in results if result.error]
    assert [(error.status, error.fail_info, error.status_string) for error in errors] == [
        ("rejection", ("certRevoked",), "it is revoked"),
        ("rejection", ("badCertId",), "no such certificate"),
    ]
    assert {error.protected_by for error in errors} == {"the shared secret"}
    assert wishes(ca) == [
        (
            (device.certificate.issuer, device.certificate.serial),
            {REASON: b"\x0a\x01\x01", INVALIDITY: b"\x18\x0f20231114221320Z"},
        ),
        ((ca.root.certificate.subject, 0x80), {REASON: b"\x0a\x01\x06"}),
        ((ISSUER, 1), {REASON: b"\x0a\x01\x08"}),
    ]


@pytest.mark.parametrize(
    ("number", "accepted"),
    [(0, True), (1, True), (2, False), (3, False), (4, False), (5, True), (6, False), (9, False)],
)
async def test_what_each_status_means(ca: Ca, device: Issued, number: int, accepted: bool) -> None:
    forged(ca, rev_status={1: der.seq(der.encode_integer(number))})
    [result] = await revoke(ca, MAC, RevDetails(ISSUER, 1))
    assert result.accepted is accepted
    assert (result.error is None) is accepted


@pytest.mark.parametrize(
    ("details", "text"),
    [
        ((), "want 1 to 1000 certificates, have 0"),
        ((RevDetails(ISSUER, 1),) * 1001, "have 1001"),
        ((RevDetails(ISSUER, 1, "because"),), "want one of unspecified, keyCompromise"),
    ],
)
async def test_what_cannot_be_asked_is_not_sent(ca: Ca, details: tuple[RevDetails, ...], text: str) -> None:
    with pytest.raises(ClientError, match=text):
        await revoke(ca, MAC, *details)
    assert not ca.received


# --- the answer ---------------------------------------------------------------


async def test_rev_certs_may_be_absent_and_crls_may_be_there(ca: Ca) -> None:
    forged(ca, rev_certs=False)
    assert [result.accepted for result in await revoke(ca, MAC, RevDetails(ISSUER, 1))] == [True]
    crl = _crl(ca)
    for ids in ((), ((ISSUER, 1),)):
        ca.received.clear()
        forged(ca, content=rev_rep([ACCEPTED], ids, [crl]))
        assert [result.accepted for result in await revoke(ca, MAC, RevDetails(ISSUER, 1))] == [True]


async def test_the_issuer_in_rev_certs_may_be_written_otherwise(ca: Ca) -> None:
    printable = ISSUER.replace(b"\x0c\x03sub", b"\x13\x03SUB")
    assert printable != ISSUER
    forged(ca, content=rev_rep([ACCEPTED], [(printable, 1)]))
    assert [result.accepted for result in await revoke(ca, MAC, RevDetails(ISSUER, 1))] == [True]


def _crl(ca: Ca) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder(ca.sub.certificate.parsed.subject, now, now)
    return builder.sign(ca.sub.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


OTHER = names.encode_name("CN=another")
FORGERIES: list[tuple[str, dict[str, Any]]] = [
    ("transactionID is not", {"transaction_id": bytes(16)}),
    ("recipNonce is not", {"recip_nonce": bytes(16)}),
    ("is not protected", {"protection": "none"}),
    ("not to be trusted|MAC is wrong", {"flip": True}),
    ("want rp to rr, have ip", {"body": "ip", "content": b"\x30\x00"}),
    ("want rp to rr, have pkiconf", {"body": "pkiconf"}),
    ("want a status for each of 2 RevDetails, have 1", {"content": rev_rep([ACCEPTED])}),
    ("want a status for each of 2 RevDetails, have 3", {"content": rev_rep([ACCEPTED] * 3)}),
    ("want a status for each of 2 RevDetails, have 0", {"content": der.seq(der.seq())}),
    ("want 2 revCerts, have 1", {"content": rev_rep([ACCEPTED] * 2, [(ISSUER, 1)])}),
    ("want 2 revCerts, have 3", {"content": rev_rep([ACCEPTED] * 2, [(ISSUER, 1), (ISSUER, 2), (ISSUER, 3)])}),
    ("names another certificate than 1", {"content": rev_rep([ACCEPTED] * 2, [(ISSUER, 2), (ISSUER, 1)])}),
    ("names another certificate than 2", {"content": rev_rep([ACCEPTED] * 2, [(ISSUER, 1), (ISSUER, 3)])}),
    ("names another certificate than 2", {"content": rev_rep([ACCEPTED] * 2, [(ISSUER, 1), (OTHER, 2)])}),
    ("RevRepContent: want status", {"content": b"\x30\x00"}),
    ("RevRepContent: want tag 30, have 05", {"content": der.NULL_TLV}),
    ("RevRepContent: want status", {"content": der.seq(der.explicit(0, der.seq()))}),
    ("RevRepContent: want status", {"content": der.seq(der.seq(ACCEPTED), der.explicit(2, der.seq()))}),
    ("PKIStatusInfo", {"content": der.seq(der.seq(der.NULL_TLV, der.NULL_TLV))}),
    (
        "revCerts: want CertId",
        {"content": der.seq(der.seq(ACCEPTED, ACCEPTED), der.explicit(0, der.seq(der.NULL_TLV * 2)))},
    ),
    (
        "CertId: want issuer",
        {"content": der.seq(der.seq(ACCEPTED, ACCEPTED), der.explicit(0, der.seq(der.seq(), der.seq())))},
    ),
]


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize(("text", "forgery"), FORGERIES)
async def test_an_answer_that_does_not_fit_is_not_believed(
    ca: Ca, device: Issued, kind: str, text: str, forgery: dict[str, Any]
) -> None:
    forged(ca, **forgery)
    credential = MAC if kind == "mac" else device.credential
    with pytest.raises(VerificationError, match=text):
        await revoke(ca, credential, RevDetails(ISSUER, 1), RevDetails(ISSUER, 2))


async def test_an_error_for_the_whole_message_is_raised(ca: Ca) -> None:
    forged(ca, body="error", content=error_content("who are you?", 1))
    with pytest.raises(CmpClientError, match=r"badMessageCheck.*who are you"):
        await revoke(ca, MAC, RevDetails(ISSUER, 1))


# --- the commands ---------------------------------------------------------------

Cmpc = Callable[..., Awaitable[tuple[int, str, str]]]
BY_SECRET = ("--ref", REFERENCE, "--secret-file", "secret", "--iterations", "500")
BY_CERT = ("--cert", "cert.pem", "--key", "key.pem", "--trusted", "ca.pem")


@pytest.fixture
async def cmpc(
    ca: Ca, device: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Cmpc]:
    """Runs `cmpc ARGUMENTS --server ...` on a thread in tmp_path: (exit code, standard output, standard error)."""
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    (tmp_path / "ca.pem").write_bytes(ca.root.certificate.pem)
    (tmp_path / "sub.pem").write_bytes(ca.sub.certificate.pem)
    (tmp_path / "cert.pem").write_bytes(device.certificate.pem + ca.sub.certificate.pem)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(device.key.private_bytes(*form))
    monkeypatch.chdir(tmp_path)
    async with serving(behaviour(ca)) as server:

        async def run(*arguments: str) -> tuple[int, str, str]:
            code = await asyncio.to_thread(main, [*arguments, "--server", f"127.0.0.1:{server.port}"])
            out, err = capsys.readouterr()
            return code, out, err

        yield run


@pytest.mark.parametrize(
    ("command", "reason", "text"),
    [
        (("rr",), 0, "is revoked (unspecified)"),
        (("rr", "--reason", "key-compromise"), 1, "is revoked (keyCompromise)"),
        (("rr", "--reason", "certificateHold"), 6, "is on hold"),
        (("suspend",), 6, "is on hold"),
        (("resume",), 8, "is valid again"),
    ],
)
async def test_a_command_is_about_the_certificate_it_is_signed_with(
    cmpc: Cmpc, ca: Ca, device: Issued, command: tuple[str, ...], reason: int, text: str
) -> None:
    code, out, err = await cmpc(*command, *BY_CERT)
    assert (code, err) == (0, "")
    assert out == f"certificate {device.certificate.serial:x} {text}\n"
    own = device.certificate
    assert wishes(ca) == [((own.issuer, own.serial), {REASON: bytes((10, 1, reason))})]


async def test_a_secret_names_certificates_by_file_or_serial_number(cmpc: Cmpc, ca: Ca, device: Issued) -> None:
    code, _, err = await cmpc("rr", *BY_SECRET)
    assert (code, "--oldcert FILE, or --serial HEX" in err, ca.received) == (2, True, []), err
    code, _, err = await cmpc(
        *("suspend", *BY_SECRET, "--oldcert", "cert.pem", "sub.pem", "--invalidity-date", "2026-01-31")
    )
    assert code == 0, err
    invalid = {REASON: b"\x0a\x01\x06", INVALIDITY: b"\x18\x0f20260131000000Z"}
    named = [(one.issuer, one.serial) for one in (device.certificate, ca.sub.certificate)]
    assert wishes(ca) == [(cert_id, invalid) for cert_id in named]
    for issuer in (("--issuer", "CN=sub"), ("--issuer-cert", "sub.pem")):
        ca.received.clear()
        code, out, err = await cmpc("rr", *BY_SECRET, "--serial", "0xAB:CD", "00ff", *issuer)
        assert (code, out.count("is revoked")) == (0, 2), err
        assert [cert_id for cert_id, _ in wishes(ca)] == [(ISSUER, 0xABCD), (ISSUER, 0xFF)]


async def test_what_was_refused_is_told_with_a_hint_beside_what_was_done(cmpc: Cmpc, ca: Ca) -> None:
    forged(ca, rev_status={2: REVOKED, 3: UNKNOWN})
    arguments = ("rr", *BY_SECRET, "--serial", "1", "2", "3", "--issuer", "CN=sub")
    code, out, err = await cmpc(*arguments)
    assert (code, out) == (1, "certificate 1 is revoked (unspecified)\n")
    second, third = err.splitlines()
    assert second.startswith("cmpc: certificate 2: the server answered rejection (certRevoked): it is revoked")
    assert "cmpc status" in second
    assert third.startswith("cmpc: certificate 3: ")
    assert "check the serial number" in third
    code, out, err = await cmpc(*arguments, "--json")
    assert (code, len(err.splitlines())) == (1, 2)
    first, second, _ = json.loads(out)
    assert first == {
        "serial": "1",
        "issuer": "CN=sub",
        "reason": "unspecified",
        "accepted": True,
        "status": "accepted",
        "status_string": None,
        "fail_info": [],
        "protected_by": "the shared secret",
    }
    assert (second["accepted"], second["fail_info"]) == (False, ["certRevoked"])


@pytest.mark.parametrize(("bit", "name"), [(23, "notAuthorized"), (6, "wrongAuthority")])
async def test_who_may_not_is_told_whom_to_ask(cmpc: Cmpc, ca: Ca, bit: int, name: str) -> None:
    forged(ca, body="error", content=error_content("no", bit))
    code, out, err = await cmpc("rr", *BY_CERT)
    assert (code, out, f"({name})" in err, " -- ask the " in err) == (1, "", True, True), err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("rr", *BY_SECRET, "--serial", "1"), "--issuer DN or --issuer-cert FILE"),
        (("rr", *BY_SECRET, "--serial", "1", "--issuer", "sub"), "--issuer: name: want TYPE=value"),
        (("rr", *BY_CERT, "--issuer", "CN=sub"), "go with --serial"),
        (("rr", *BY_SECRET, "--oldcert", "key.pem"), "want certificates in PEM"),
        (("rr", *BY_SECRET, "--oldcert", "gone.pem"), "gone.pem: No such file"),
        (("rr", "--cert", "cert.pem", "--key", "key.pem"), "--trusted"),
    ],
)
async def test_arguments_that_cannot_be_used_are_refused_before_anything_is_sent(
    cmpc: Cmpc, ca: Ca, arguments: tuple[str, ...], text: str
) -> None:
    code, out, err = await cmpc(*arguments)
    assert (code, out, len(err.splitlines()), ca.received) == (2, "", 1, [])
    assert text in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("rr", "--reason", "because"), "want one of unspecified, keyCompromise"),
        (("rr", "--invalidity-date", "yesterday"), "want a date or a time in UTC"),
        (("rr", "--invalidity-date", "2026-01-31T12:00:00+01:00"), "want a date or a time in UTC"),
        (("rr", "--serial", "xyz"), "want a serial number in hex"),
        (("rr", "--serial", "1", "--oldcert", "cert.pem"), "not allowed with"),
        (("suspend", "--reason", "keyCompromise"), "unrecognized arguments"),
        (("resume", "--invalidity-date", "2026-01-31"), "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_told(arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--server", "127.0.0.1:1"])
    assert text in capsys.readouterr().err
