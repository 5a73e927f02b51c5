"""Keys that do not sign, with certificates made by another builder, in files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cmpd.env import Env
from cmpd.signing.file import encrypted_pem

PASSPHRASE = b"pass word"
USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
          "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip


def certificate(key: Any, *usages: str) -> bytes:
    """DER of a certificate of this key; without `usages` it has no keyUsage."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    if usages:
        builder = builder.add_extension(x509.KeyUsage(**{one: one in usages for one in USAGES}), critical=True)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def key_file(directory: Path, key: Any) -> Path:
    path = directory / "key.pem"
    path.write_bytes(encrypted_pem(key, PASSPHRASE, Env()))
    return path
