"""The promise of a signing key: where it lives is nobody's business but its own file's."""

from typing import Protocol


class SigningKey(Protocol):
    """A private key with one signature algorithm."""

    @property
    def algorithm(self) -> bytes:
        """DER of the AlgorithmIdentifier that goes with its signatures."""

    @property
    def public_key_info(self) -> bytes:
        """DER of its SubjectPublicKeyInfo."""

    async def sign(self, octets: bytes) -> bytes:
        """The signature over `octets`, as it goes into a BIT STRING. Slow keys (RSA, HSM) sign off the loop."""
