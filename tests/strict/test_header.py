"""Each check of a message's header, protection and extraCerts, for each body: one line, one fault, in one table.

What cannot be read as ASN.1 and what the protection does not vouch for is answered by a signature, all else as the
request is protected (RFC 9483 sections 3.2, 3.5 and 3.6).
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate, SharedSecret
from cmpd.client.messages import cert_status, protect
from tests import chains
from tests.hostile import craft
from tests.strict.setting import ALL, FIRST, LATER, SECRET, STRICT, Case, Spoil, borrow, make
from tests.strict.table import Row, refuse, spread
from tests.world import NOW, World, rev_details

SIGNED = tuple(name for name in ALL if name.endswith("signature"))
BY_MAC = tuple(name for name in ALL if name.endswith("mac"))
FIRST_SIGNED = tuple(name for name in FIRST if name in SIGNED)
NO_ENROLMENT = tuple(name for name in ALL if name.partition(" ")[0] not in ("ir", "cr", "p10cr", "kur"))
WITH_PROFILE = tuple(name for name in ALL if name not in NO_ENROLMENT)
GENM = tuple(name for name in ALL if name.startswith("genm"))

BY = "signature"
"""What protects an answer to what cannot be read, or to whom nobody can vouch for."""


HMAC_SHA256 = der.seq(der.encode_oid("1.2.840.113549.2.9"))
OCTET = bytes(range(1, 17))
OTHER = der.explicit(4, encode_name("/CN=other"))
TEXT = der.encode_utf8("default")
TRUE = b"\x01\x01\xff"
YEAR_3000 = der.encode_generalized_time(32_503_680_000)
IMPLICIT = der.seq(craft.IMPLICIT_CONFIRM, der.NULL_TLV)
PROFILE = der.seq(craft.CERT_PROFILE, der.seq(TEXT))


def put(name: str, value: bytes) -> Spoil:
    return lambda case: case.put(name, value)


def octets(name: str, size: int) -> Spoil:
    return put(name, der.encode_octets((OCTET * 40)[:size]))


def raw(name: str, value: bytes) -> Spoil:
    return lambda case: case.raw(name, value)


def pvno(number: int) -> Spoil:
    return raw("pvno", der.encode_integer(number))


def drop(*names: str) -> Spoil:
    def spoil(case: Case) -> Case:
        for name in names:
            case = case.drop(name)
        return case

    return spoil


def time(offset: int) -> Spoil:
    return put("messageTime", der.encode_generalized_time(NOW + offset))


def moment(tag: int, text: str) -> Spoil:
    return put("messageTime", der.tlv(tag, text.encode()))


def info(*items: bytes) -> Spoil:
    return lambda case: case.info(*items)


def implicit(value: bytes) -> Spoil:
    return info(der.seq(craft.IMPLICIT_CONFIRM, value))


def wait(value: bytes) -> Spoil:
    return info(der.seq(craft.CONFIRM_WAIT_TIME, value))


def profile(value: bytes) -> Spoil:
    return info(der.seq(craft.CERT_PROFILE, value))


def algorithm(oid: str, *parameters: bytes) -> Spoil:
    return put("protectionAlg", der.seq(der.encode_oid(oid), *parameters))


def sealed(**change: Any) -> Spoil:
    return lambda case: replace(case, **change)


def certificates(choose: Callable[[Case], tuple[bytes, ...]]) -> Spoil:
    return lambda case: replace(case, extra_certs=choose(case))


def none_at_all(case: Case) -> tuple[bytes, ...]:
    return ()


def the_root(case: Case) -> tuple[bytes, ...]:
    return (case.world.root,)


def both(*spoils: Spoil) -> Spoil:
    def spoil(case: Case) -> Case:
        for one in spoils:
            case = one(case)
        return case

    return spoil


def beside(octets: bytes) -> Spoil:
    """Something after the certificates that belong there."""
    return certificates(lambda case: (*case.protector.extra_certs, octets))


def unsigned(case: Case) -> Case:
    """The root without its signature beside what belongs there."""
    return beside(der.seq(*craft.children(case.world.root)[:2]))(case)


NO_INFO_AFTER_TEXT = both(put("freeText", der.seq(TEXT)), put("generalInfo", der.seq()))
NOBODY = both(drop("senderKID"), raw("sender", craft.NULL_DN))
NOBODY_SIGNS = both(octets("senderKID", 20), raw("sender", craft.NULL_DN))
BY_RSA = algorithm("1.2.840.113549.1.1.11", der.NULL_TLV)

SYNTAX = [
    # what                                 section                     failInfo          by  fault
    ("pvno absent", "9810 5.1", "badDataFormat", BY, raw("pvno", b"")),
    ("pvno of two octets", "9810 5.1", "badDataFormat", BY, raw("pvno", b"\x02\x02\0\x02")),
    ("sender absent", "9810 5.1", "badDataFormat", BY, drop("sender")),
    ("sender no GeneralName", "9810 5.1", "badDataFormat", BY, raw("sender", encode_name("/CN=device"))),
    ("recipient absent", "9810 5.1", "badDataFormat", BY, drop("recipient")),
    ("recipient no GeneralName", "9810 5.1", "badDataFormat", BY, raw("recipient", der.NULL_TLV)),
    ("messageTime no day of the calendar", "9810 5.1", "badDataFormat", BY, moment(0x18, "20250231150640Z")),
    ("messageTime a PrintableString", "9810 5.1", "badDataFormat", BY, moment(0x13, "20250615150640Z")),
    ("senderKID an INTEGER", "9810 5.1", "badDataFormat", BY, put("senderKID", der.encode_integer(5))),
    ("transactionID of 513 octets", "9810 5.1", "badDataFormat", BY, octets("transactionID", 513)),
    ("senderNonce of 513 octets", "9810 5.1", "badDataFormat", BY, octets("senderNonce", 513)),
    ("freeText empty", "9810 5.1", "badDataFormat", BY, put("freeText", der.seq())),
    ("generalInfo empty", "9810 5.1", "badDataFormat", BY, put("generalInfo", der.seq())),
    ("generalInfo empty, after freeText", "9810 5.1", "badDataFormat", BY, NO_INFO_AFTER_TEXT),
    ("generalInfo of 65 items", "9810 5.1", "badDataFormat", BY, info(*[der.seq(der.encode_oid("1.2.3"))] * 65)),
    ("33 extraCerts", "9810 5.1", "badDataFormat", BY, certificates(lambda case: (case.world.root,) * 33)),
    ("extraCerts of INTEGERs", "9810 5.1", "badDataFormat", BY, certificates(lambda case: (b"\x02\x01\0",))),
    ("a field with tag 9", "9810 5.1", "badDataFormat", BY, raw("generalInfo", der.explicit(9, der.NULL_TLV))),
    ("protectionAlg without OID", "9810 5.1", "badDataFormat", BY, put("protectionAlg", der.seq())),
]  # fmt: skip

EVERYWHERE = [
    ("pvno 0", "9810 7", "unsupportedVersion", BY, pvno(0)),
    ("pvno 1 (cmp1999)", "9810 7", "unsupportedVersion", BY, pvno(1)),
    ("pvno 4", "9810 7", "unsupportedVersion", BY, pvno(4)),
    ("transactionID absent", "9483 3.5", "badDataFormat", "", drop("transactionID")),
    ("transactionID empty", "9483 3.5", "badDataFormat", "", octets("transactionID", 0)),
    ("senderNonce absent", "9483 3.5", "badSenderNonce", "", drop("senderNonce")),
    ("senderNonce of 15 octets", "9483 3.5", "badSenderNonce", "", octets("senderNonce", 15)),
    ("messageTime a UTCTime", "9483 3.5", "badDataFormat", "", moment(0x17, "250615150640Z")),
    ("messageTime with fractions", "9483 3.5", "badDataFormat", "", moment(0x18, "20250615150640.5Z")),
    ("messageTime with an offset", "9483 3.5", "badDataFormat", "", moment(0x18, "20250615150640+0000")),
    ("messageTime without seconds", "9483 3.5", "badDataFormat", "", moment(0x18, "202506151506Z")),
    ("messageTime without zone", "9483 3.5", "badDataFormat", "", moment(0x18, "20250615150640")),
    ("messageTime 301 s ahead", "9483 3.5", "badTime", "", time(301)),
    ("messageTime 301 s behind", "9483 3.5", "badTime", "", time(-301)),
    ("implicitConfirm a BOOLEAN", "9810 5.1.1.1", "badDataFormat", "", implicit(TRUE)),
    ("confirmWaitTime NULL", "9810 5.1.1.2", "badDataFormat", "", wait(der.NULL_TLV)),
    ("confirmWaitTime a UTCTime", "9810 5.1.1.2", "badDataFormat", "", wait(b"\x17\x0d250615150640Z")),
    ("confirmWaitTime", "9483 3.1", "badRequest", "", wait(YEAR_3000)),
    ("certProfile no SEQUENCE", "9810 5.1.1.4", "badDataFormat", "", profile(TEXT)),
    ("certProfile of no name", "9810 5.1.1.4", "badDataFormat", "", profile(der.seq())),
    ("certProfile a PrintableString", "9810 5.1.1.4", "badDataFormat", "", profile(der.seq(b"\x13\x01a"))),
    ("protectionAlg without protection", "9810 5.1", "badDataFormat", BY, sealed(sealed=False)),
    ("protection without protectionAlg", "9810 5.1", "badDataFormat", BY, drop("protectionAlg")),
    ("extraCerts with what is no certificate", "9483 3.5", "badDataFormat", "", beside(der.seq(der.NULL_TLV))),
    ("extraCerts with a certificate cut off", "9483 3.5", "badDataFormat", "", unsigned),
    ("protection wrong", "9483 3.5", "badMessageCheck", BY, sealed(protection=bytes(32))),
    ("protection empty", "9483 3.5", "badMessageCheck", BY, sealed(protection=b"")),
    ("protectionAlg unknown", "9483 3.5", "badAlg", BY, algorithm("1.2.3")),
    ("senderKID of nobody", "9483 3.5", "badMessageCheck", BY, NOBODY_SIGNS),
]  # fmt: skip

UNPROTECTED = [
    ("no protection", "9483 3.5", "badMessageCheck", BY, both(drop("protectionAlg"), sealed(sealed=False))),
]

IN_FIRST = [
    ("transactionID of 1 octet", "9483 3.1", "badDataFormat", "", octets("transactionID", 1)),
    ("transactionID of 15 octets", "9483 3.1", "badDataFormat", "", octets("transactionID", 15)),
    ("transactionID of 17 octets", "9483 3.1", "badDataFormat", "", octets("transactionID", 17)),
    ("recipNonce", "9483 3.1", "badRecipientNonce", "", octets("recipNonce", 16)),
]

IN_LATER = [
    ("recipNonce absent", "9483 3.5", "badRecipientNonce", "", drop("recipNonce")),
    ("recipNonce another", "9483 3.5", "badRecipientNonce", "", octets("recipNonce", 16)),
    ("recipNonce empty", "9483 3.5", "badRecipientNonce", "", octets("recipNonce", 0)),
]

NO_TRANSACTION = [("transactionID of no transaction", "9483 3.5", "badRequest", "", octets("transactionID", 16))]

WHERE_IT_MUST_NOT_BE = [
    ("implicitConfirm", "9483 3.1", "badRequest", "", info(IMPLICIT)),
    ("implicitConfirm without value", "9483 3.1", "badRequest", "", implicit(b"")),
]

IN_ENROLMENT = [
    ("implicitConfirm without value", "9483 3.1", "badDataFormat", "", implicit(b"")),
    ("implicitConfirm twice", "9483 3.1", "badDataFormat", "", info(IMPLICIT, IMPLICIT)),
]  # fmt: skip

ONE_PROFILE = [
    ("certProfile of two names", "9483 3.1", "badDataFormat", "", profile(der.seq(TEXT, TEXT))),
    ("certProfile of the empty name", "9483 3.1", "badDataFormat", "", profile(der.seq(b"\x0c\0"))),
    ("certProfile twice", "9483 3.1", "badDataFormat", "", info(PROFILE, PROFILE)),
]  # fmt: skip

SENDERS = [
    ("sender another name", "9483 3.5", "badMessageCheck", BY, raw("sender", OTHER)),
    ("sender the NULL-DN", "9483 3.5", "badMessageCheck", BY, raw("sender", craft.NULL_DN)),
    ("sender a dNSName", "9483 3.5", "badMessageCheck", BY, raw("sender", b"\x82\x06device")),
    ("senderKID of another certificate", "9483 3.5", "badMessageCheck", BY, octets("senderKID", 20)),
    ("sha1WithRSAEncryption", "9483 3.5", "badAlg", BY, algorithm("1.2.840.113549.1.1.5", der.NULL_TLV)),
    ("ecdsa-with-SHA1", "9483 3.5", "badAlg", BY, algorithm("1.2.840.10045.4.1")),
    ("sha256WithRSAEncryption by an EC key", "9483 3.5", "badAlg", BY, BY_RSA),
    ("Ed25519 by an EC key", "9483 3.5", "badAlg", BY, algorithm("1.3.101.112")),
    ("another hash than it was signed with", "9483 3.5", "badMessageCheck", BY, algorithm("1.2.840.10045.4.3.3")),
]  # fmt: skip

CHAINS = [
    ("no extraCerts", "9483 3.3", "signerNotTrusted", BY, certificates(none_at_all)),
    ("extraCerts without the protection certificate", "9483 3.5", "signerNotTrusted", BY, certificates(the_root)),
]  # fmt: skip


def mac(owf: str = "2.16.840.1.101.3.4.2.1", count: int = 500, salt: int = 16) -> Spoil:
    parameters = der.seq(
        der.encode_octets(bytes(salt)),
        der.seq(der.encode_oid(owf)),
        der.encode_integer(count),
        der.seq(der.encode_oid("1.2.840.113549.2.9")),
    )
    return put("protectionAlg", der.seq(craft.PBM, parameters))


MACS = [
    ("sender and senderKID of nobody", "9483 3.5", "badMessageCheck", BY, NOBODY),
    ("PBM of 99 iterations", "9810 5.1.3.1", "badAlg", BY, mac(count=99)),
    ("PBM of 2^31 iterations", "9810 5.1.3.1", "badAlg", BY, mac(count=2**31)),
    ("PBM with a salt of 129 octets", "9810 5.1.3.1", "badAlg", BY, mac(salt=129)),
    ("PBM with MD5", "9810 5.1.3.1", "badAlg", BY, mac(owf="1.2.840.113549.2.5")),
    ("PBM without parameters", "9810 5.1.3.1", "badDataFormat", BY, put("protectionAlg", der.seq(craft.PBM))),
    ("a signature algorithm", "9483 3.3", "signerNotTrusted", BY, algorithm("1.2.840.10045.4.3.2")),
]  # fmt: skip


def template(case: Case) -> Case:
    """A genm that asks for certReqTemplate."""
    return case.content(der.seq(der.seq(der.encode_oid("1.3.6.1.5.5.7.4.19"))))


WANTED = re.compile(r": want\b.*\bhave\b|does not verify|is not (accepted|supported)|^protection certificate .*: \w")
"""What is wanted and what is found; of what must not be, and of paths, what is wrong."""

ROWS = [
    *spread(ALL, SYNTAX),
    *spread(ALL, EVERYWHERE),
    *spread([name for name in ALL if not name.startswith("error")], UNPROTECTED),  # RFC 9483 section 3.5 excepts errors
    *spread(FIRST, IN_FIRST),
    *spread(LATER, IN_LATER),
    *spread([name for name in LATER if not name.startswith("error")], NO_TRANSACTION),
    *spread(NO_ENROLMENT, WHERE_IT_MUST_NOT_BE),
    *spread([name for name in FIRST if name not in NO_ENROLMENT], IN_ENROLMENT),
    *spread(WITH_PROFILE, ONE_PROFILE),
    *spread(GENM, [(what, *row, both(template, spoil)) for what, *row, spoil in ONE_PROFILE]),
    *spread(NO_ENROLMENT, [("certProfile", "9483 3.1", "badRequest", "", info(PROFILE))]),
    *spread(SIGNED, SENDERS),
    *spread(FIRST_SIGNED, CHAINS),
    *spread(BY_MAC, MACS),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
async def test_a_fault_of_header_or_protection_is_answered_by_an_error(row: Row) -> None:
    text = await refuse(await borrow(row.message), row)
    assert WANTED.search(text), text


# --- who protects -----------------------------------------------------------------------------------------------------


async def stranger(case: Case, kind: str) -> Any:
    """Another credential that is good for itself."""
    if kind == "mac":
        return await case.world.add_secret("other", SECRET)
    return await case.world.holder(await case.world.add_secret("other", SECRET), "/CN=other")


TAKEN_OVER = [
    # what continues    by whom          failInfo         section
    ("certConf mac", "mac", "notAuthorized", "9483 4.1.1"),
    ("certConf mac", "signature", "wrongIntegrity", "9483 3.2"),
    ("certConf signature", "signature", "notAuthorized", "9483 4.1.1"),
    ("certConf signature", "mac", "wrongIntegrity", "9483 3.2"),
    ("pollReq mac", "mac", "notAuthorized", "9483 4.1.1"),
    ("pollReq mac", "signature", "wrongIntegrity", "9483 3.2"),
    ("pollReq signature", "signature", "notAuthorized", "9483 4.1.1"),
    ("pollReq signature", "mac", "wrongIntegrity", "9483 3.2"),
    ("popdecr mac", "mac", "notAuthorized", "9483 4.1.1"),
    ("popdecr mac", "signature", "wrongIntegrity", "9483 3.2"),
    ("popdecr signature", "signature", "notAuthorized", "9483 4.1.1"),
    ("popdecr signature", "mac", "wrongIntegrity", "9483 3.2"),
    ("error mac", "mac", "notAuthorized", "9483 4.1.1"),
    ("error mac", "signature", "wrongIntegrity", "9483 3.2"),
    ("error signature", "signature", "notAuthorized", "9483 4.1.1"),
    ("error signature", "mac", "wrongIntegrity", "9483 3.2"),
]


@pytest.mark.parametrize(("message", "kind", "failure", "section"), TAKEN_OVER)
async def test_only_who_began_a_transaction_continues_it(message: str, kind: str, failure: str, section: str) -> None:
    case = await make(message)
    case.world.profiles["default"] = case.world.profiles["default"].model_copy(update={"approval": False})
    case.world.restart()
    other = await stranger(case, kind)
    spoilt = case.by(other.protector(case.world.env))
    await refuse(spoilt, Row(message, f"by another {kind}", section, "error", failure, lambda case: case, by=kind))


async def test_a_kur_under_a_mac_is_told_wrongintegrity() -> None:
    case = await make("kur signature")
    secret = SharedSecret("device", SECRET, iterations=500)
    spoilt = case.by(secret.protector(case.world.env))
    await refuse(spoilt, Row("kur", "a MAC", "9483 4.1.3", "error", "wrongIntegrity", lambda case: case, "mac"))


@pytest.mark.parametrize("entitled", [False, True])
async def test_an_rr_under_a_mac_wants_the_right_to_revoke(entitled: bool) -> None:
    case = await make("rr signature")
    secret = await case.world.add_secret("other", SECRET, may_revoke=entitled)
    spoilt = case.by(secret.protector(case.world.env))
    row = Row("rr", "a MAC", "9483 4.2", "error", "wrongIntegrity", lambda case: case, "mac")
    if not entitled:
        await refuse(spoilt, row)
        return
    verdict = await spoilt.send()
    assert verdict is not None
    assert (verdict.body, verdict.failure, verdict.kind) == (
        "rp",
        "notAuthorized",
        "mac",
    )  # another entity's certificate


def _holder(node: chains.Node, *others: chains.Node) -> KeyAndCertificate:
    return KeyAndCertificate(node.key, Certificate.load(node.der), tuple(Certificate.load(one.der) for one in others))


async def self_signed(world: World) -> KeyAndCertificate:
    """RFC 9483 section 3.3: not trusted for being in extraCerts."""
    return _holder(chains.leaf(None))


async def missing_intermediate(world: World) -> KeyAndCertificate:
    """A registered CA, and one below it that is not sent."""
    root, _, leaf = chains.chain(3)
    await world.add_certificate("partner", root.der)
    return _holder(leaf, root)


async def expired(world: World) -> KeyAndCertificate:
    node = chains.leaf(None, not_before=NOW - 2 * chains.DAY, not_after=NOW - chains.DAY)
    await world.add_certificate("partner", node.der)
    return _holder(node)


async def not_yet_valid(world: World) -> KeyAndCertificate:
    node = chains.leaf(None, not_before=NOW + chains.DAY)
    await world.add_certificate("partner", node.der)
    return _holder(node)


async def no_digital_signature(world: World) -> KeyAndCertificate:
    node = chains.leaf(None, key_usage=chains.usage("key_encipherment"))
    await world.add_certificate("partner", node.der)
    return _holder(node)


async def rsa_1024(world: World) -> KeyAndCertificate:
    node = chains.leaf(None, key="rsa1024")
    await world.add_certificate("partner", node.der)
    return _holder(node)


async def under_no_ca(world: World) -> KeyAndCertificate:
    """Under a certificate that is not a CA's."""
    root = chains.issue(None, "root", ca=False)
    await world.add_certificate("partner", root.der)
    return _holder(chains.leaf(root))


async def unconfirmed(world: World) -> KeyAndCertificate:
    return await world.holder(await world.add_secret("other", SECRET), "/CN=device", implicit=False)


async def revoked(world: World) -> KeyAndCertificate:
    secret = await world.add_secret("other", SECRET, may_revoke=True)
    holder = await world.holder(secret)
    assert (await world.rr(secret, rev_details(holder.certificate, 1))).outcomes() == ["accepted"]
    return holder


SIGNERS: list[tuple[Callable[[World], Awaitable[KeyAndCertificate]], str, str]] = [
    # who signs       failInfo            section
    (self_signed, "signerNotTrusted", "9483 3.5"),
    (missing_intermediate, "signerNotTrusted", "9483 3.5"),
    (expired, "signerNotTrusted", "9483 3.5"),
    (not_yet_valid, "signerNotTrusted", "9483 3.5"),
    (under_no_ca, "signerNotTrusted", "9483 3.5"),
    (rsa_1024, "signerNotTrusted", "9483 3.5"),
    (unconfirmed, "signerNotTrusted", "9483 3.5"),
    (revoked, "signerNotTrusted", "9483 3.5"),
    (no_digital_signature, "badMessageCheck", "9483 3.5"),
]


@pytest.mark.parametrize("message", ["cr signature", "p10cr signature", "genm signature"])
@pytest.mark.parametrize(("who", "failure", "section"), SIGNERS, ids=[row[0].__name__ for row in SIGNERS])
async def test_a_protection_certificate_that_is_not_good_is_refused(
    message: str, who: Callable[[World], Awaitable[KeyAndCertificate]], failure: str, section: str
) -> None:
    """RFC 9483 section 3.5: a valid path to a trust anchor, a status that is good, and digitalSignature."""
    case = await make(message)
    other = await who(case.world)
    spoilt = case.by(other.protector(case.world.env))
    row = Row(message, f"signed by {who.__name__}", section, "error", failure, lambda case: case, BY)
    await refuse(spoilt, row)


async def test_a_chain_is_found_in_any_order() -> None:
    """The counterpart of a missing intermediate (RFC 9483 section 3.3)."""
    case = await make("genm signature")
    root, middle, leaf = chains.chain(3)
    await case.world.add_certificate("partner", root.der)
    for others in ([middle], [root, middle], [middle, chains.issue(None, "stranger")]):
        spoilt = case.by(_holder(leaf, *others).protector(case.world.env))
        verdict = await spoilt.put("transactionID", der.encode_octets(case.world.env.random(16))).send()
        assert verdict is not None
        assert (verdict.body, verdict.failure) == ("genp", ""), verdict.text


# --- which body, and when ---------------------------------------------------------------------------------------------

NOT_FROM_CLIENTS = {
    **{1: "ip", 3: "cp", 5: "popdecc", 8: "kup", 9: "krr", 10: "krp", 12: "rp", 13: "ccr", 14: "ccp"},
    **{19: "pkiconf", 20: "nested", 22: "genp", 26: "pollRep"},
}


def instead(number: int) -> Spoil:
    return lambda case: case.tagged(number, der.NULL_TLV if number == 19 else der.seq())


BODIES = [
    Row(f"genm {kind}", f"{name} in its place", "9483", "error", "badRequest", instead(number))
    for number, name in NOT_FROM_CLIENTS.items()
    for kind in ("mac", "signature")
]  # fmt: skip


@pytest.mark.parametrize("row", BODIES, ids=[row.id for row in BODIES])
async def test_a_body_that_no_client_sends_is_told_badrequest(row: Row) -> None:
    await refuse(await borrow(row.message), row)


@pytest.mark.parametrize("message", FIRST)
async def test_a_transactionid_in_use_is_told_so(message: str) -> None:
    case = await make(message)
    other, _ = craft.request(case.world, await case.world.add_secret("busy", SECRET), implicit_confirm=False)
    busy = await case.world.respond(replace(case, draft=other, protector=_).octets, STRICT)
    assert isinstance(busy, bytes)
    spoilt = replace(case, draft=case.draft.put("transactionID", other["transactionID"]))
    row = Row(message, "transactionID in use", "9483 5.1", "error", "transactionIdInUse", lambda case: case)
    await refuse(spoilt, row)


@pytest.mark.parametrize("message", GENM)
async def test_a_genm_may_have_the_transactionid_of_what_has_ended(message: str) -> None:
    """RFC 9483 section 5.1 wants one that is not in use now; a genm that only reads leaves none in use."""
    case = await make(message)
    ended, protector = craft.request(case.world, await case.world.add_secret("idle", SECRET))
    first = await replace(case, draft=ended, protector=protector).send()
    assert first is not None
    assert first.body == "ip"
    for _ in range(2):
        verdict = await replace(case, draft=case.draft.put("transactionID", ended["transactionID"])).send()
        assert verdict is not None
        assert verdict.body == "genp"


STATES = [
    # after what         comes what   content                              failInfo
    ("pollReq mac", "certConf", der.seq(), "badRequest"),
    ("pollReq signature", "certConf", der.seq(), "badRequest"),
    ("certConf mac", "pollReq", der.seq(der.seq(der.encode_integer(0))), "badRequest"),
    ("certConf signature", "pollReq", der.seq(der.seq(der.encode_integer(0))), "badRequest"),
]


@pytest.mark.parametrize(("message", "body", "content", "failure"), STATES)
async def test_a_body_that_is_not_awaited_is_told_badrequest(
    message: str, body: str, content: bytes, failure: str
) -> None:
    case = await make(message)
    _, asked, seen = case.other
    follow = case.world.follow(asked, seen, body, content)
    spoilt = replace(case, name=f"{body} {case.kind}", draft=craft.Draft.of(follow.der))
    await refuse(spoilt, Row(message, f"{body} instead", "9483 3.5", "error", failure, lambda case: case))


@pytest.mark.parametrize("kind", ["mac", "signature"])
@pytest.mark.parametrize(("accepts", "failure"), [(True, "certConfirmed"), (False, "certRevoked")])
async def test_a_second_certconf_is_told_what_became_of_the_certificate(kind: str, accepts: bool, failure: str) -> None:
    case = await make(f"certConf {kind}")
    assert case.certificate is not None
    status = cert_status(case.certificate, 0, None if accepts else "no")
    first = await case.content(der.explicit(0, der.seq(status))[2:]).send()
    assert first is not None
    assert first.body == "pkiconf"
    _, asked, _ = case.other
    right = der.seq(cert_status(case.certificate, 0))
    ids = {"transaction_id": asked.transaction_id, "recip_nonce": first.header["senderNonce"]}
    again = protect("certConf", right, asked.protector, case.world.env, **ids)
    spoilt = replace(case, draft=craft.Draft.of(again.der))
    await refuse(spoilt, Row("certConf", "again", "9483 4.1.1", "error", failure, lambda case: case))


# --- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", ALL)
async def test_a_message_that_is_not_spoilt_is_taken(message: str) -> None:
    verdict = await (await make(message)).send()
    assert verdict is not None
    assert (verdict.body, verdict.status, verdict.failure) != ("error", 2, "")
    assert verdict.failure == ""
    assert verdict.kind == message.partition(" ")[2]
