"""The floor: the CPU time that the cryptography of one transaction alone needs, on this machine, now.

signature: verify the protection, load the new public key, verify the proof-of-possession, sign the certificate, sign
the answer. pbm: one derivation of 1000 iterations, two HMACs, load, verify, sign the certificate.
"""

import hmac
import time
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from cmpd.protection.pbm import build

ITERATIONS = 1000
_ECDSA = ec.ECDSA(hashes.SHA256())


def transactions() -> dict[str, Callable[[], None]]:
    """A function for each kind of transaction that does its cryptography once."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    octets = bytes(range(256)) * 3
    signature = key.sign(octets, _ECDSA)
    mac = build(bytes(16), ITERATIONS)

    def signed() -> None:
        public.verify(signature, octets, _ECDSA)
        load_der_public_key(info).verify(signature, octets, _ECDSA)
        key.sign(octets, _ECDSA)
        key.sign(octets, _ECDSA)

    def pbm() -> None:
        derived = mac.derive(b"a secret of the benchmark")
        hmac.digest(derived, octets, "sha256")
        hmac.digest(derived, octets, "sha256")
        load_der_public_key(info).verify(signature, octets, _ECDSA)
        key.sign(octets, _ECDSA)

    return {"signature": signed, "pbm": pbm}


def measure(transaction: Callable[[], None], seconds: float) -> float:
    """CPU seconds of one transaction, the mean over `seconds` of work."""
    transaction()
    count, start, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(20):
            transaction()
        count += 20
    return (time.process_time() - start) / count
