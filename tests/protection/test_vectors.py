"""Messages that OpenSSL wrote (vectors/README.md has the commands)."""

from dataclasses import replace
from pathlib import Path

import pytest

from cmpd.errors import BadAlg, BadMessageCheck
from cmpd.message import decode
from cmpd.protection import verify
from cmpd.protection.base import ProtectionPolicy
from tests.protection.fakes import SIGNER, FakeCredentials

VECTORS = Path(__file__).parent / "vectors"
MACS = ["pbm-default", "pbm-sha1", "pbm-sha256", "pbm-sha512", "pbm-sha3-256"]
SIGNATURES = ["sig-rsa-sha256", "sig-p384-sha256", "sig-p384-sha512"]


def load(name):
    return decode((VECTORS / f"{name}.der").read_bytes())


def credentials(message):
    found = FakeCredentials.trusting(*message.extra_certs[:1])
    found.secrets[b"dev-1"] = b"interop"
    return found


@pytest.mark.parametrize("name", MACS + SIGNATURES)
async def test_messages_of_openssl_verify_and_fail_with_one_bit_changed(name):
    message = load(name)
    verified = await verify(message, credentials(message), ProtectionPolicy(), SIGNER)
    assert verified.requester.credential.startswith("secret:dev-1" if name in MACS else "certificate:")
    changed = bytearray(message.protected)
    for position in (5, len(changed) // 2, len(changed) - 1):
        changed[position] ^= 1
        with pytest.raises(BadMessageCheck):
            await verify(replace(message, protected=bytes(changed)), credentials(message), ProtectionPolicy(), SIGNER)
        changed[position] ^= 1


@pytest.mark.parametrize("name", ["pbm-default", "pbm-sha1"])
async def test_the_defaults_of_openssl_3_0_fall_under_the_policy_for_sha1(name):
    message = load(name)
    with pytest.raises(BadAlg, match="SHA-1 is not accepted here"):
        await verify(message, credentials(message), ProtectionPolicy(allow_sha1_mac=False), SIGNER)
