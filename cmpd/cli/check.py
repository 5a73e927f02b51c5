"""cmpd check: everything that would keep the server from starting or its certificates from being good, at once.

The text of the configuration is checked by config.load; here are the files it names, and whether its doors could be
opened: none is, because a server may run. Mistakes fail the command, notes (what will become a mistake with time, or
concerns one entity alone) do not.
"""

import argparse
import asyncio
import os
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from itertools import combinations
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509

from cmpd.asn1.names import name_text
from cmpd.bootstrap import CMC_CA, issued
from cmpd.certificates import Certificate, read_certificate
from cmpd.cli.entity import opened
from cmpd.cli.output import note, time_text
from cmpd.config import Config, load
from cmpd.config_doors import HttpConfig, ListenerConfig
from cmpd.config_values import DAY, listen_address, socket_name
from cmpd.env import Env
from cmpd.errors import BadDataFormat, ConfigError, StoreError
from cmpd.records import Entity
from cmpd.signing.agreement import load_agreement_key
from cmpd.signing.file import load_key, read_certificates
from cmpd.signing.kem import load_kem_key
from cmpd.signing.recipient import load_recipient
from cmpd.store.sealing import Sealer

SOON: Final = 30 * DAY

_RUN: Final = Path("/run")
_LONGEST_SOCKET: Final = 80
"""Octets in the name of a Unix domain socket: unix(7) takes 107 with the directory, which is named in short."""
_SQLITE: Final = b"SQLite format 3\0"

T = TypeVar("T")


@dataclass(slots=True)
class Findings:
    """What was found, each a line "path of the key: what is wrong"; `doors`: "path of the table: what it opens"."""

    doors: list[str] = field(default_factory=list)
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
    for text in found.doors:
        print(text)
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
        for name, table, certificate in (("ca", config.ca, ca), ("cmp", config.cmp, cmp)):
            if certificate is not None:
                opening = partial(load_key, table.key, passphrase, certificate.der, signature=table.signature)
                found.attempt(f"{name}.key", opening)
        found.attempt("store.secrets_key", partial(Sealer.load, config.store.secrets_key, passphrase, env))
    if ca is not None:
        _check_ca(config, ca, found, env)
    if ca is not None and cmp is not None:
        _check_cmp(ca, cmp, found)
    for pair in _pairs(config, env):
        _check_pair(pair, ca, passphrase, found, env)
    _check_doors(config, ca, passphrase, found, env)
    _check_published(config, found)
    if _check_store(config.store.path, found):
        _check_entities(config, found, env)
    return found


def _certificate(key: str, path: Path, found: Findings, env: Env) -> Certificate | None:
    """The first certificate of a file, its validity checked."""
    if not path.exists() and (path.parent / "ca.csr").exists():  # of a subordinate CA
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
        if profile.ca and ca.path_length == 0:
            found.mistakes.append(f"profile.{name}.ca: the path length of ca.certificate is 0: no CA may be below it")
        elif ca.path_length is not None and profile.path_length >= ca.path_length > 0:
            found.notes.append(
                f"profile.{name}.path_length: certificates get {ca.path_length - 1}, one less than the CA's own"
            )
        longest = max(profile.validity, profile.max_validity or 0)
        if env.now() + longest > ca.not_after:
            found.notes.append(
                f"profile.{name}: certificates could outlive the CA, which ends at {time_text(ca.not_after)}"
            )


def _check_cmp(ca: Certificate, cmp: Certificate, found: Findings) -> None:
    if not issued(cmp.parsed, ca.parsed):
        found.mistakes.append("cmp.certificate: was not issued by the CA of ca.certificate")
    _check_purpose("cmp.certificate", cmp, found)
    if cmp.key_usage is not None and not cmp.key_usage.digital_signature:
        found.mistakes.append("cmp.certificate: its keyUsage has no digitalSignature")


def _check_purpose(key: str, certificate: Certificate, found: Findings) -> None:
    """Clients take from the extended key usage that the holder of a certificate speaks for the CA."""
    try:
        purposes = certificate.parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        purposes = x509.ExtendedKeyUsage([])
    if x509.ObjectIdentifier(CMC_CA) not in purposes:
        found.mistakes.append(f"{key}: has no extendedKeyUsage id-kp-cmcCA")


@dataclass(frozen=True, slots=True)
class _Pair:
    """A key of the server that it may have, with its certificate. `speaks`: for the CA, by what it protects."""

    purpose: str
    certificate: Path | None
    key: Path | None
    load: Callable[[Path, bytes, bytes], object]
    speaks: bool


def _pairs(config: Config, env: Env) -> tuple[_Pair, ...]:
    cmp = config.cmp
    recipient = partial(load_recipient, env=env)
    return (
        _Pair("encryption", cmp.encryption_certificate, cmp.encryption_key, recipient, speaks=False),
        _Pair("agreement", cmp.agreement_certificate, cmp.agreement_key, load_agreement_key, speaks=True),
        _Pair("kem", cmp.kem_certificate, cmp.kem_key, load_kem_key, speaks=True),
    )


def _check_pair(pair: _Pair, ca: Certificate | None, passphrase: bytes | None, found: Findings, env: Env) -> None:
    """The certificate and the key, if they are configured: each by itself, and that they fit together."""
    if pair.certificate is None or pair.key is None:
        return
    name = f"cmp.{pair.purpose}_certificate"
    if ca is not None and not pair.certificate.exists() and not pair.key.exists():
        found.mistakes.append(f"{name}: {pair.certificate} is not there: make it with cmpd key add {pair.purpose}")
        return
    certificate = _certificate(name, pair.certificate, found, env)
    if certificate is None:
        return
    if passphrase is not None:
        found.attempt(f"cmp.{pair.purpose}_key", partial(pair.load, pair.key, passphrase, certificate.der))
    if ca is not None and not issued(certificate.parsed, ca.parsed):
        found.mistakes.append(f"{name}: was not issued by the CA of ca.certificate")
    if pair.speaks:
        _check_purpose(name, certificate, found)


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


# --- doors -----------------------------------------------------------------------------------------------------------


def _check_doors(config: Config, ca: Certificate | None, passphrase: bytes | None, found: Findings, env: Env) -> None:
    """Every door that CMP comes in by, and that for what is published: what it opens, and what would keep it shut."""
    places: dict[str, set[_Place]] = {}
    for key, listener in _listeners(config):
        if not listener.enabled:
            found.doors.append(f"{key}: {_CLOSED}")
            continue
        tls = _check_tls(key, listener, ca, passphrase, found, env) if listener.has_tls else ""
        found.doors.append(f"{key}: {_scheme(listener)} on {_where(listener.listen)}{tls}")
        places[f"{key}.listen"] = _places(f"{key}.listen", listener.listen, found)
    _check_directories(config, found)
    if config.publish.listen is not None:
        found.doors.append(f"publish: HTTP on {config.publish.listen}, for CRLs, OCSP and CA certificates")
        places["publish.listen"] = _places("publish.listen", config.publish.listen, found)
    for (one, first), (other, second) in combinations(places.items(), 2):
        if any(a.clashes(b) for a in first for b in second):
            found.mistakes.append(f"{other}: is the same place as {one}: one of them can be opened alone")


_CLOSED: Final = "closed (enabled = false)"


def _listeners(config: Config) -> Iterator[tuple[str, ListenerConfig]]:
    yield from ((f"tcp[{i}]", door) for i, door in enumerate(config.tcp))
    yield from ((f"http[{i}]", door) for i, door in enumerate(config.http))


def _scheme(door: ListenerConfig) -> str:
    plain, secured = ("HTTP", "HTTPS") if isinstance(door, HttpConfig) else ("raw TCP", "TLS")
    return secured if door.has_tls else plain


def _where(listen: str) -> str:
    if listen == "systemd":
        return "the sockets of systemd (cmpd.socket) that no other door names"
    name = socket_name(listen)
    return f"the socket of systemd with FileDescriptorName={name}" if name else listen


@dataclass(frozen=True, slots=True)
class _Place:
    """One address and port that would be bound."""

    family: int
    host: str
    port: int

    def clashes(self, other: "_Place") -> bool:
        """Whether the system lets only one of the two listen; port 0 is always another one."""
        if (self.family, self.port) != (other.family, other.port) or self.port == 0:
            return False
        return self.host == other.host or any(ip_address(host).is_unspecified for host in (self.host, other.host))


def _places(key: str, listen: str, found: Findings) -> set[_Place]:
    """What would be bound; nothing for the sockets that a service manager passes."""
    address = listen_address(listen)
    if address is None:
        return set()
    host, port = address
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        found.mistakes.append(f"{key}: {host} is no address of this machine: {getattr(error, 'strerror', error)}")
        return set()
    return {_Place(family, str(place[0]), port) for family, _, _, _, place in infos}


def _check_tls(
    key: str, door: ListenerConfig, ca: Certificate | None, passphrase: bytes | None, found: Findings, env: Env
) -> str:
    """Look at certificate, key and the CAs of clients; returns what there is to say of them."""
    from cmpd.transport.tls import TlsContext, TlsSettings  # of use here alone, and the other commands start faster

    certificate, private = door.tls_certificate, door.tls_key
    if certificate is None or private is None:
        return ""
    if passphrase is not None:
        settings = TlsSettings(certificate, private, door.tls_minimum, door.tls_client, door.tls_client_ca)
        found.attempt(key, partial(TlsContext, settings, passphrase, [ca.der] if ca is not None else []))
    if _can_be_read_by_others(private):
        found.notes.append(f"{key}.tls_key: others can read {private}, which is not encrypted: chmod 600 {private}")
    end = _check_times(f"{key}.tls_certificate", certificate, found, env)
    if door.tls_client_ca is not None:
        _check_times(f"{key}.tls_client_ca", door.tls_client_ca, found, env)
    authenticates = ", who need no other protection" if door.tls_authenticates else ""
    clients = "" if door.tls_client == "none" else f", client certificates {door.tls_client}{authenticates}"
    return f", certificate until {end}{clients}" if end else clients


def _can_be_read_by_others(key: Path) -> bool:
    """Whether a private key (PEM) is open to others than its owner and group; False if it cannot be read here."""
    try:
        return bool(key.stat().st_mode & 0o007) and b"ENCRYPTED" not in key.read_bytes()
    except OSError:
        return False


def _check_times(key: str, path: Path, found: Findings, env: Env) -> str:
    """Look at the validity of all certificates in a file; returns when the first one ends. Empty if unreadable, which
    has been reported.
    """
    try:
        certificates = [x509.load_der_x509_certificate(one) for one in read_certificates(path)]
    except (ConfigError, ValueError):
        return ""
    now = _utc(env)
    for certificate in certificates:
        end = time_text(int(certificate.not_valid_after_utc.timestamp()))
        if certificate.not_valid_before_utc > now or certificate.not_valid_after_utc < now:
            begin = time_text(int(certificate.not_valid_before_utc.timestamp()))
            found.mistakes.append(f"{key}: {path}: {_name(certificate)} is valid from {begin} to {end}, not now")
        elif certificate.not_valid_after_utc < now + timedelta(seconds=SOON):
            found.notes.append(f"{key}: {path}: {_name(certificate)} ends at {end}")
    return time_text(int(certificates[0].not_valid_after_utc.timestamp())) or ""


def _check_directories(config: Config, found: Findings) -> None:
    """The doors that are files."""
    seen: dict[Path, str] = {}
    for number, spool in enumerate(config.spool):
        key = f"spool[{number}]"
        found.doors.append(f"{key}: {f'files in {spool.directory}' if spool.enabled else _CLOSED}")
        if not spool.enabled or not _is_writable(f"{key}.directory", spool.directory, found):
            continue
        other = seen.setdefault(spool.directory.resolve(), key)
        if other != key:
            found.mistakes.append(f"{key}.directory: is that of {other} too: one of them has to have another one")
        _check_spool(f"{key}.directory", spool.directory, config, found)
    path = config.local_socket
    found.doors.append(f"local: {f'cmpd message through {path}' if config.local.enabled else _CLOSED}")
    if config.local.enabled:
        _check_socket(path, config.local.socket is not None, found)


def _check_spool(key: str, directory: Path, config: Config, found: Findings) -> None:
    """A directory that others write to: nothing of the server's own may be there."""
    own = {config.ca.key, config.cmp.key, config.store.path, config.store.secrets_key, config.ca.passphrase_file}
    if directory.resolve() in {path.resolve().parent for path in own if path is not None}:
        found.mistakes.append(f"{key}: {directory} has files of the server itself: want a directory for this alone")
    if directory.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        found.notes.append(f"{key}: whoever is on this machine can replace the requests and replies in {directory}")


def _check_socket(path: Path, chosen: bool, found: Findings) -> None:
    """`chosen`: it is not beside the database, whose directory is looked at anyway."""
    if len(os.fsencode(path.name)) > _LONGEST_SOCKET:
        found.mistakes.append(f"local.socket: {path}: want a name of at most {_LONGEST_SOCKET} octets; set another one")
    elif path.exists() and not path.is_socket():
        found.mistakes.append(f"local.socket: {path} is there already and no socket")
    elif chosen and path.is_relative_to(_RUN) and not path.parent.exists():
        found.notes.append(f"local.socket: there is no directory {path.parent} now; a unit makes it when it starts")
    elif chosen:
        _is_writable("local.socket", path.parent, found)


# --- files and the database ------------------------------------------------------------------------------------------


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
