"""genm and genp (RFC 9810 section 5.3.19): what is asked for is given, what is unknown is listed."""

import asyncio
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1_alt_modules import rfc5280, rfc9810

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.credentials import Credential
from cmpd.client.messages import Request, protect
from cmpd.env import Env
from cmpd.responder import Responder, Settings
from cmpd.signing.recipient import RsaRecipient
from tests.test_cms import CERTIFICATE, KEY
from tests.world import NOW, Seen, World, rev_details

ID_IT = "1.3.6.1.5.5.7.4."
CA_PROT_ENC_CERT, CURRENT_CRL, UNSUPPORTED, REV_PASSPHRASE, CRL_STATUS_LIST, CRLS = (
    ID_IT + number for number in ("1", "6", "7", "12", "22", "23")
)
SUPPORTED_LANGUAGES = ID_IT + "16"
UNKNOWN = "1.2.3.4.5"


@dataclass
class Published:
    """A CrlSource."""

    full: bytes | None = None
    delta: bytes | None = None


def crl_of(world: World, this_update: float = NOW) -> bytes:
    ca = x509.load_der_x509_certificate(world.root)
    when = datetime.fromtimestamp(this_update, UTC)
    builder = x509.CertificateRevocationListBuilder(ca.subject, when, when + timedelta(days=1))
    return builder.sign(world.ca_key, hashes.SHA256()).public_bytes(Encoding.DER)


def equip(world: World, **parts: Any) -> World:
    """Give a world what the configuration of its service does not have by itself."""
    world.service = replace(world.service, **parts)
    settings = Settings(world.window, asyncio.Event)
    world.responder = Responder(world.service, world.credentials, world.signer, settings)
    return world


def new_world(*, crl: bool = True) -> World:
    """With an encryption certificate, and a CRL."""
    world = World()
    source = Published(crl_of(world) if crl else None)
    return equip(world, crls=source, recipient=RsaRecipient(KEY, CERTIFICATE, Env(world.clock, os.urandom)))


def item(oid: str, value: bytes = b"") -> bytes:
    return der.seq(der.encode_oid(oid), value)


def request(world: World, credential: Credential, *items: bytes, **fields: Any) -> Request:
    return protect("genm", der.seq(*items), credential.protector(world.env), world.env, **fields)


async def genm(world: World, credential: Credential, *items: bytes, **fields: Any) -> Seen:
    return await world.ask(request(world, credential, *items, **fields), credential)


def answers(seen: Seen) -> list[tuple[str, bytes | None]]:
    """(infoType, infoValue) of a genp, by the independent decoder."""
    assert seen.body == "genp", seen.status()
    return [
        (str(one["infoType"]), bytes(one["infoValue"]) if one["infoValue"].isValue else None) for one in seen.content
    ]


def failure(seen: Seen) -> str:
    assert seen.body == "error"
    status, _, (name,) = seen.status()
    assert status == 2
    return name


def transactions(world: World) -> int:
    return len(world.store._tables.transactions)


# --- what is there ----------------------------------------------------------------------------------------------------


async def test_the_encryption_certificate_and_the_crl_are_given() -> None:
    world = new_world()
    device = await world.add_secret()
    seen = await genm(world, device, item(CA_PROT_ENC_CERT), item(CURRENT_CRL))
    assert answers(seen) == [(CA_PROT_ENC_CERT, CERTIFICATE), (CURRENT_CRL, world.service.crls.full)]
    crl, rest = decode_der(answers(seen)[1][1], asn1Spec=rfc5280.CertificateList())
    assert not rest
    assert crl["tbsCertList"]["issuer"].isValue


async def test_what_the_server_has_not_is_absent() -> None:
    world = World()
    device = await world.add_secret()
    seen = await genm(world, device, item(CA_PROT_ENC_CERT), item(CURRENT_CRL))
    assert answers(seen) == [(CA_PROT_ENC_CERT, None), (CURRENT_CRL, None)]
    equip(world, crls=Published())
    assert answers(await genm(world, device, item(CURRENT_CRL))) == [(CURRENT_CRL, None)]


async def test_an_empty_genm_is_answered_with_what_there_is() -> None:
    world = new_world()
    device = await world.add_secret()
    assert [oid for oid, _ in answers(await genm(world, device))] == [CA_PROT_ENC_CERT, CURRENT_CRL]
    equip(world, recipient=None)
    assert [oid for oid, _ in answers(await genm(world, device))] == [CURRENT_CRL]
    equip(world, crls=None)
    assert answers(await genm(world, device)) == []


async def test_unknown_types_are_listed_beside_the_answers_to_the_known_ones() -> None:
    world = new_world()
    device = await world.add_secret()
    unknown = (item(UNKNOWN, b"\x04\x00"), item(SUPPORTED_LANGUAGES, der.seq(der.encode_utf8("en"))))
    seen = await genm(world, device, unknown[0], item(CA_PROT_ENC_CERT), unknown[1])
    first, last = answers(seen)
    assert first == (CA_PROT_ENC_CERT, CERTIFICATE)
    assert last[0] == UNSUPPORTED
    listed, rest = decode_der(last[1], asn1Spec=rfc9810.UnsupportedOIDsValue())
    assert not rest
    assert [str(oid) for oid in listed] == [UNKNOWN, SUPPORTED_LANGUAGES]


async def test_whoever_has_a_certificate_may_ask_and_a_revoked_one_may_not() -> None:
    world = new_world()
    holder = await world.holder(await world.add_secret())
    assert answers(await genm(world, holder, item(CA_PROT_ENC_CERT))) == [(CA_PROT_ENC_CERT, CERTIFICATE)]
    assert (await world.rr(holder, rev_details(holder.certificate))).outcomes() == ["accepted"]
    assert failure(await genm(world, holder, item(CA_PROT_ENC_CERT))) == "signerNotTrusted"


async def test_an_answer_that_only_reads_leaves_nothing_behind() -> None:
    world = new_world()
    device = await world.add_secret()
    asked = request(world, device, item(CURRENT_CRL))
    first, second = [await world.ask(asked, device) for _ in range(2)]
    assert answers(first) == answers(second)
    assert transactions(world) == 0


# --- crlStatusList ----------------------------------------------------------------------------------------------------


def by_issuer(name: str) -> bytes:
    return der.explicit(1, der.seq(der.explicit(4, encode_name(name))))


def by_url(url: str) -> bytes:
    return der.explicit(0, der.tlv(0xA0, der.tlv(0x86, url.encode())))


def status_list(*statuses: tuple[bytes, float | None]) -> bytes:
    return item(
        CRL_STATUS_LIST,
        der.seq(*(der.seq(source, b"" if when is None else der.encode_time(when)) for source, when in statuses)),
    )


OWN = by_issuer("/O=test/CN=TEST CA")
FOREIGN = by_issuer("/CN=Another CA")
STATUSES = {
    "has none": ([(OWN, None)], True),
    "has an older one": ([(OWN, NOW - 1)], True),
    "has this one": ([(OWN, NOW)], False),
    "has a newer one": ([(OWN, NOW + 1)], False),
    "by the url in certificates": ([(by_url("http://pki.example.com/x/ca.crl"), None)], True),
    "by another url": ([(by_url("http://pki.example.com/other.crl"), None)], False),
    "another issuer": ([(FOREIGN, None)], False),
    "two sources": ([(FOREIGN, None), (OWN, NOW - 1)], True),
    "relative to the issuer": ([(der.explicit(0, der.tlv(0xA1, encode_name("/CN=x")[4:])), None)], False),
}


@pytest.mark.parametrize("case", STATUSES)
async def test_a_crl_is_given_to_whoever_has_none_as_new(case: str) -> None:
    statuses, given = STATUSES[case]
    world = new_world()
    device = await world.add_secret()
    seen = await genm(world, device, status_list(*statuses))
    assert answers(seen) == [(CRLS, der.seq(world.service.crls.full) if given else None)]


async def test_no_crl_is_given_where_there_is_none() -> None:
    world = new_world(crl=False)
    assert answers(await genm(world, await world.add_secret(), status_list((OWN, None)))) == [(CRLS, None)]


# --- what is wrong ----------------------------------------------------------------------------------------------------


WRONG = {
    "a value with caProtEncCert": [item(CA_PROT_ENC_CERT, der.NULL_TLV)],
    "a value with currentCRL": [item(CURRENT_CRL, b"\x04\x00")],
    "no value with crlStatusList": [item(CRL_STATUS_LIST)],
    "an empty crlStatusList": [item(CRL_STATUS_LIST, b"\x30\x00")],
    "a wrong crlStatusList": [item(CRL_STATUS_LIST, der.seq(der.seq(der.encode_octets(b"x"))))],
    "a wrong name in crlStatusList": [
        item(CRL_STATUS_LIST, der.seq(der.seq(der.explicit(1, der.seq(b"\xa4\x04\x30\x02\x31\x00")))))
    ],
    "no value with revPassphrase": [item(REV_PASSPHRASE)],
    "the same type twice": [item(CURRENT_CRL), item(CURRENT_CRL)],
    "two values": [item(UNKNOWN, der.NULL_TLV * 2)],
    "no type": [b"\x30\x00"],
    "no InfoTypeAndValue": [der.NULL_TLV],
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_item_is_bad_data_format(case: str) -> None:
    world = new_world()
    assert failure(await genm(world, await world.add_secret(), *WRONG[case])) == "badDataFormat"


async def test_more_than_16_items_are_a_bad_request() -> None:
    world = new_world()
    many = [item(f"1.2.3.{number}") for number in range(17)]
    assert failure(await genm(world, await world.add_secret(), *many)) == "badRequest"


async def test_sixteen_items_are_answered() -> None:
    world = new_world()
    items = [item(f"1.2.3.{number}") for number in range(16)]
    [(oid, listed)] = answers(await genm(world, await world.add_secret(), *items))
    assert oid == UNSUPPORTED
    assert listed == der.seq(*(der.encode_oid(f"1.2.3.{number}") for number in range(16)))


async def test_a_body_that_is_no_sequence_is_bad_data_format() -> None:
    world = new_world()
    device = await world.add_secret()
    asked = protect("genm", der.NULL_TLV, device.protector(world.env), world.env)
    assert failure(await world.ask(asked, device)) == "badDataFormat"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([CA_PROT_ENC_CERT, CURRENT_CRL, CRL_STATUS_LIST, REV_PASSPHRASE, UNKNOWN]),
            st.sampled_from([b"", der.NULL_TLV, b"\x30\x00", b"\xa0\x00", b"\x04\x01\xff", CERTIFICATE]),
        ),
        max_size=4,
    )
)
async def test_every_genm_gets_a_genp_or_a_fault_of_its_own(pairs: list[tuple[str, bytes]]) -> None:
    world = new_world()
    seen = await genm(world, await world.add_secret(may_revoke=True), *(item(*pair) for pair in pairs))
    if seen.body == "genp":
        assert len(seen.content) <= max(len(pairs), 2)
    else:
        assert failure(seen) == "badDataFormat"
