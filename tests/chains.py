"""Certificates for tests of paths and credentials, made with cryptography's builders."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

NOW = 1_750_000_000
DAY = 86_400

KEYS: dict[str, Any] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p192": lambda: ec.generate_private_key(ec.SECP192R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "rsa": cache(lambda: rsa.generate_private_key(65537, 2048)),
    "rsa1024": cache(lambda: rsa.generate_private_key(65537, 1024)),
}


@dataclass(frozen=True)
class Node:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def name(text: str | x509.Name) -> x509.Name:
    if isinstance(text, x509.Name):
        return text
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def usage(*bits: str) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    every += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{bit: bit in bits for bit in every})


def issue(
    parent: Node | None,
    subject: str | x509.Name,
    *,
    key: Any = "p256",
    ca: bool = True,
    path_length: int | None = None,
    key_usage: x509.KeyUsage | None = None,
    not_before: int = NOW - DAY,
    not_after: int = NOW + 365 * DAY,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    issuer: str | x509.Name | None = None,
    key_ids: bool = True,
    serial: int | None = None,
    hash_algorithm: Any = None,
    padding: Any = None,
) -> Node:
    """A certificate under `parent`, or a self-signed one."""
    own = KEYS[key]() if isinstance(key, str) else key
    signer = parent.key if parent else own
    issuer_name = name(issuer) if issuer is not None else parent.certificate.subject if parent else name(subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer_name)
        .public_key(own.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(not_before, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(not_after, datetime.UTC))
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(True, path_length), True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, True)
    if key_ids:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False)
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(aki, False)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    if hash_algorithm is None and not isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        hash_algorithm = hashes.SHA256()
    return Node(builder.sign(signer, hash_algorithm, rsa_padding=padding), own)


def leaf(parent: Node | None, subject: str | x509.Name = "device", **options: Any) -> Node:
    """An end entity's certificate."""
    return issue(parent, subject, **{"ca": False, **options})


def chain(length: int, **options: Any) -> list[Node]:
    """A root, CAs below it and a leaf at the end: `length` certificates."""
    nodes = [issue(None, "root", **options)]
    for i in range(1, length - 1):
        nodes.append(issue(nodes[-1], f"ca {i}", **options))
    return [*nodes, leaf(nodes[-1], **options)] if length > 1 else nodes
