"""cmpd check: everything that would keep the server from starting or its certificates from being good, at once.

The text of the configuration is checked by config.load; here are the files it names. Mistakes fail the command, notes
(what will become a mistake with time, or concerns one entity alone) do not.
"""

import argparse
import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509

from cmpd.asn1.names import name_text
from cmpd.bootstrap import CMC_CA, issued
from cmpd.certificates import Certificate, read_certificate
from cmpd.cli.entity import opened
from cmpd.cli.output import note, time_text
from cmpd.config import Config, load
from cmpd.config_values import DAY
from cmpd.env import Env
from cmpd.errors import BadDataFormat, ConfigError, StoreError
from cmpd.records import Entity
from cmpd.signing.file import load_key, read_certificates
from cmpd.signing.recipient import load_recipient
from cmpd.store.sealing import Sealer

SOON: Final = 30 * DAY

_SQLITE: Final = b"SQLite format 3\0"

T = TypeVar("T")


@dataclass(slots=True)
class Findings:
    """What was found, each a line "path of the key: what is wrong"."""

    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, key: str, action: Callable[[], T]) -> T | None:
        """The result of `action`, or None and a mistake."""
        try:
            return action()
        except ConfigError as error:
            self.mistakes.append(f"{key}: {error}")
            return None


def run(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd check`."""
    found = examine(load(args.config), env)
    for text in found.notes:
        note(f"note: {text}")
    if found.mistakes:
        raise ConfigError("\n".join(found.mistakes))
    print("ok")
    return 0


def examine(config: Config, env: Env) -> Findings:
    """Look at all files that the configuration names."""
    found = Findings()
    passphrase = found.attempt("ca.passphrase_file", config.ca.passphrase)
    ca = _certificate("ca.certificate", config.ca.certificate, found, env)
    cmp = _certificate("cmp.certificate", config.cmp.certificate, found, env)
    if passphrase is not None:
        for name, path, certificate in (("ca", config.ca.key, ca), ("cmp", config.cmp.key, cmp)):
            if certificate is not None:
                found.attempt(f"{name}.key", partial(load_key, path, passphrase, certificate.der))
        found.attempt("store.secrets_key", partial(Sealer.load, config.store.secrets_key, passphrase, env))
    if ca is not None:
        _check_ca(config, ca, found, env)
    if ca is not None and cmp is not None:
        _check_cmp(ca, cmp, found)
    _check_encryption(config, ca, passphrase, found, env)
    _check_published(config, found)
    if _check_store(config.store.path, found):
        _check_entities(config, found, env)
    return found


def _certificate(key: str, path: Path, found: Findings, env: Env) -> Certificate | None:
    """The first certificate of a file, its validity checked."""
    if not path.exists() and (path.parent / "ca.csr").exists():
        found.mistakes.append(f"{key}: {path} is not there: take it in with cmpd init --install-certificate FILE")
        return None
    octets = found.attempt(key, partial(read_certificates, path))
    if octets is None:
        return None
    try:
        certificate = read_certificate(octets[0], "Certificate")
    except BadDataFormat as error:
        found.mistakes.append(f"{key}: {path}: {error.text}")
        return None
    fault = certificate.fault or certificate.time_fault(env.now())
    if fault:
        found.mistakes.append(f"{key}: {path}: {fault}")
    elif certificate.not_after < env.now() + SOON:
        found.notes.append(f"{key}: {path}: ends at {time_text(certificate.not_after)}")
    return certificate


def _check_ca(config: Config, ca: Certificate, found: Findings, env: Env) -> None:
    if ca.ca_fault:
        found.mistakes.append(f"ca.certificate: {config.ca.certificate}: {ca.ca_fault}")
    if ca.key_usage is not None and not ca.key_usage.crl_sign:
        found.mistakes.append(
            f"ca.certificate: {config.ca.certificate}: its keyUsage has no cRLSign: nobody may accept the CRLs it signs"
        )
    chain = found.attempt("ca.chain", partial(read_certificates, config.ca.chain)) if config.ca.chain else None
    lowest = ca.parsed
    for octets in chain or ():
        above = x509.load_der_x509_certificate(octets)
        if not issued(lowest, above):
            found.mistakes.append(
                f"ca.chain: {config.ca.chain}: want the issuer of {_name(lowest)}, have {_name(above)}"
            )
            break
        if above.not_valid_after_utc < _utc(env):
            found.mistakes.append(f"ca.chain: {config.ca.chain}: {_name(above)} has expired")
        lowest = above
    if not ca.self_issued and config.ca.chain is None:
        found.notes.append("ca.chain: not set, but the CA is not a root: clients must have the CAs above it")
    for name, profile in config.profile.items():
        longest = max(profile.validity, profile.max_validity or 0)
        if env.now() + longest > ca.not_after:
            found.notes.append(
                f"profile.{name}: certificates could outlive the CA, which ends at {time_text(ca.not_after)}"
            )


def _check_cmp(ca: Certificate, cmp: Certificate, found: Findings) -> None:
    if not issued(cmp.parsed, ca.parsed):
        found.mistakes.append("cmp.certificate: was not issued by the CA of ca.certificate")
    try:
        purposes = cmp.parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        purposes = x509.ExtendedKeyUsage([])
    if x509.ObjectIdentifier(CMC_CA) not in purposes:
        found.mistakes.append("cmp.certificate: has no extendedKeyUsage id-kp-cmcCA")
    if cmp.key_usage is not None and not cmp.key_usage.digital_signature:
        found.mistakes.append("cmp.certificate: its keyUsage has no digitalSignature")


def _check_encryption(
    config: Config, ca: Certificate | None, passphrase: bytes | None, found: Findings, env: Env
) -> None:
    """The certificate that clients encrypt to, if there is one."""
    path, key_path = config.cmp.encryption_certificate, config.cmp.encryption_key
    if path is None or key_path is None:
        return
    name = "cmp.encryption_certificate"
    certificate = _certificate(name, path, found, env)
    if certificate is None:
        return
    if passphrase is not None:
        found.attempt("cmp.encryption_key", partial(load_recipient, key_path, passphrase, certificate.der, env))
    if ca is not None and not issued(certificate.parsed, ca.parsed):
        found.mistakes.append(f"{name}: was not issued by the CA of ca.certificate")


def _check_published(config: Config, found: Findings) -> None:
    """Where CRLs and the OCSP signer are written, and the door to them."""
    if config.crl.directory is not None:
        _is_writable("crl.directory", config.crl.directory, found)
    if config.ocsp.signer is not None:
        _is_writable("ocsp.signer", config.ocsp.signer.parent, found)
    listen, base_url = config.publish.listen, config.publish.base_url
    if base_url is not None and listen is None:
        found.notes.append(
            "publish.base_url: set, but publish.listen is not: certificates will name a place at which this server "
            "publishes nothing, and OCSP is nowhere"
        )
    if listen is not None and base_url is None:
        found.notes.append("publish.listen: set, but publish.base_url is not: certificates will not name the place")


def _is_writable(key: str, directory: Path, found: Findings) -> bool:
    if not directory.is_dir():
        found.mistakes.append(f"{key}: there is no directory {directory}")
    elif not os.access(directory, os.W_OK | os.X_OK):
        found.mistakes.append(f"{key}: {directory} cannot be written by this user")
    else:
        return True
    return False


def _check_store(path: Path, found: Findings) -> bool:
    """Whether there is a database to look into."""
    if _is_writable("store.path", path.parent, found) and path.exists():
        try:
            with path.open("rb") as file:
                head = file.read(len(_SQLITE))
        except OSError as error:
            found.mistakes.append(f"store.path: {path}: cannot be read: {error.strerror}")
            return False
        if head not in (b"", _SQLITE):
            found.mistakes.append(f"store.path: {path}: is not a SQLite database")
        return head == _SQLITE
    return False


def _check_entities(config: Config, found: Findings, env: Env) -> None:
    """Entities that may use a profile that is gone; those that may ask for nothing any more are left out."""
    try:
        entities = asyncio.run(_entities(config))
    except StoreError as error:
        found.mistakes.append(f"store.path: {error}")
        return
    for entity in entities:
        gone = ", ".join(name for name in entity.profiles if name not in config.profile)
        over = entity.disabled or (entity.expires_at is not None and entity.expires_at <= env.now())
        if gone and not over:
            found.notes.append(f"entity {entity.reference}: registered for profiles that are not configured: {gone}")


async def _entities(config: Config) -> list[Entity]:
    async with opened(config) as store:
        return await store.list_entities()


def _name(certificate: x509.Certificate) -> str:
    return name_text(certificate.subject.public_bytes()) or "(empty name)"


def _utc(env: Env) -> datetime:
    return datetime.fromtimestamp(env.now(), UTC)
