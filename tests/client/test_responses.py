"""Answers that OpenSSL made (tests/vectors/openssl), verified against the requests that it made."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmpd.asn1 import der
from cmpd.client import responses
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Credential, Protector, SharedSecret
from cmpd.client.errors import ClientError, VerificationError
from cmpd.client.messages import Request
from cmpd.client.responses import Answer, Trust
from cmpd.env import Env
from cmpd.message import decode
from cmpd.protection.base import ProtectionPolicy
from tests.client.ca import issue

VECTORS = Path(__file__).parent.parent / "vectors" / "openssl"
SECRET = SharedSecret("vector-ref", b"vector-secret")
TRUST = Trust((Certificate.load((VECTORS / "ca.der").read_bytes()),))
NOBODY = Protector(b"", b"", None, (), lambda _: b"")
PBM = ["ir-pbm-ec-1", "ir-pbm-ec-2", "ir-pbm-implicit-1", "ir-pbm-rsa-sha256-1", "p10cr-pbm-ec-1", "p10cr-pbm-ec-2"]


def answered(name: str, credential: Credential = SECRET, trust: Trust = TRUST, answer: bytes = b"") -> Answer:
    """The answer of the vector (or `answer`) to the request of the vector, verified a minute after it was made."""
    asked = decode((VECTORS / f"{name}-req.der").read_bytes())
    header = asked.header
    assert header.transaction_id is not None
    assert header.sender_nonce is not None
    request = Request(asked.body_name, asked.der, header.transaction_id, header.sender_nonce, NOBODY)
    now = (header.message_time or 0) + 60
    octets = answer or (VECTORS / f"{name}-rsp.der").read_bytes()
    return responses.verify(octets, request, credential, trust, Env(now=lambda: now))


@pytest.mark.parametrize("name", PBM)
def test_an_answer_of_openssl_with_a_mac_is_believed(name: str) -> None:
    answer = answered(name)
    assert answer.protected_by == "the shared secret"
    if answer.envelope.body_name in ("ip", "cp"):
        [one] = responses.read_cert_rep(answer).responses
        assert one.status.status == "accepted"
        assert one.cert_req_id == (-1 if "p10cr" in name else 0)
        assert one.certificate is not None
        assert one.certificate.issuer == TRUST.anchors[0].subject
    else:
        assert answer.envelope.body_name == "pkiconf"


@pytest.mark.parametrize("name", PBM)
def test_each_bit_of_an_answers_protected_part_counts(name: str) -> None:
    octets = (VECTORS / f"{name}-rsp.der").read_bytes()
    protected = len(decode(octets).protected)
    for position in range(4, protected, 37):
        changed = octets[:position] + bytes((octets[position] ^ 1,)) + octets[position + 1 :]
        with pytest.raises(VerificationError):
            answered(name, answer=changed)


def test_the_answer_to_another_request_is_not_believed() -> None:
    other = (VECTORS / "ir-pbm-implicit-1-rsp.der").read_bytes()
    with pytest.raises(VerificationError, match="transactionID"):
        answered("ir-pbm-ec-1", answer=other)
    earlier = (VECTORS / "ir-pbm-ec-1-rsp.der").read_bytes()
    with pytest.raises(VerificationError, match="recipNonce"):
        answered("ir-pbm-ec-2", answer=earlier)


def test_the_request_itself_is_no_answer() -> None:
    with pytest.raises(VerificationError, match="recipNonce"):
        answered("ir-pbm-ec-1", answer=(VECTORS / "ir-pbm-ec-1-req.der").read_bytes())


def test_sha_1_in_a_mac_can_be_refused() -> None:
    with pytest.raises(VerificationError, match="SHA-1"):
        answered("ir-pbm-ec-1", trust=Trust(TRUST.anchors, ProtectionPolicy(allow_sha1_mac=False)))


@pytest.mark.parametrize("name", ["ir-sig-ec-1", "kur-sig-rsa-1", "p10cr-sig-rsa-2"])
def test_a_server_without_the_right_to_speak_for_a_ca_is_not_believed_though_its_signature_is_good(name: str) -> None:
    with pytest.raises(VerificationError, match="CN=server,O=cmpd may not speak for a CA"):
        answered(name, issue("device").credential)


def test_status_of_all_kinds() -> None:
    octets = bytes.fromhex("300a 0201 02 0305 05 00000020".replace(" ", ""))
    found = responses.read_status(octets, 0, len(octets))
    assert (found.status, found.fail_info) == ("rejection", ("duplicateCertReq",))
    octets = bytes.fromhex("3008 0201 09 0303 0000 00".replace(" ", ""))
    assert responses.read_status(octets, 0, len(octets)).status == "status 9"


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_octets_make_anything_but_a_clients_error(data: st.DataObject) -> None:
    octets = bytearray((VECTORS / "ir-pbm-implicit-1-rsp.der").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(octets) - 1))
        octets[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        answered("ir-pbm-implicit-1", answer=bytes(octets))
    except ClientError:
        pass
    else:  # extraCerts are not protected, so they may be changed
        start = len(decode(bytes(octets)).protected)
        assert octets[4:start] == (VECTORS / "ir-pbm-implicit-1-rsp.der").read_bytes()[4:start]


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=500, deadline=None)
def test_no_body_makes_anything_but_a_clients_error(octets: bytes, wrap: bool) -> None:
    body = der.seq(der.seq(octets)) if wrap else octets
    answer = replace(ANSWER, envelope=replace(ANSWER.envelope, body=body))
    with suppress(VerificationError):
        responses.read_cert_rep(answer)
    with suppress(der.DerError):
        responses.read_status(octets, 0, len(octets))


ANSWER = answered("ir-pbm-implicit-1")
