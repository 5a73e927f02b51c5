"""cmpd entity: register end entities and RAs, show them, disable them. Works beside a running server.

A secret is read from a file or standard input, or made here and printed once; it is never an argument, because every
user of the machine can read those. So are a regToken and an authenticator, which are never made here.
"""

import argparse
import asyncio
import contextlib
import os
import pwd
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509

from cmpd.asn1 import names
from cmpd.certificates import read_certificate
from cmpd.cli.output import note, print_fields, print_json, print_table, time_text
from cmpd.config import Config, load
from cmpd.config_values import nearest
from cmpd.credentials import control_reference
from cmpd.env import Env
from cmpd.errors import BadDataFormat, ConfigError, StoreConflict
from cmpd.records import Entity, EntityKind
from cmpd.signing.file import read_certificates
from cmpd.status import OPERATOR
from cmpd.store import open_store
from cmpd.store.base import Store
from cmpd.store.sealing import Sealer

_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 characters that nobody takes for another one."""
_GROUPS: Final = 7  # of 4 characters of 5 bits: 140 bits
_MAX_SECRET: Final = 1024
_SHORT_SECRET: Final = 16
_MAX_REFERENCE: Final = 128
_STANDARD_INPUT: Final = Path("-")


@contextlib.asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Store]:
    """The store of a configuration, beside a server that may be running."""
    if not config.store.path.parent.is_dir():
        raise ConfigError(f"store.path: there is no directory {config.store.path.parent}")
    store = await open_store(config.store.path, serving=False)
    try:
        yield store
    finally:
        await store.close()


def operator() -> str:
    """Who runs the command, for the records: "operator alice"."""
    try:
        return f"{OPERATOR} {pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a user without an entry, as in some containers
        return OPERATOR


def add(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd entity add`."""
    config = load(args.config)
    _check_standard_input(args)
    certificate = _credential(args.cert, env) if args.cert else None
    secret, made = (b"", False) if certificate else _secret(args.secret_file, env)
    token = _control("--reg-token-file", args.reg_token_file)
    authenticator = _control("--authenticator-file", args.authenticator_file)
    sealer = None
    if secret or token or authenticator:
        sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase(), env)
    once = certificate is None or token is not None
    entity = Entity(
        id=0,
        reference=_reference(args.reference),
        kind=EntityKind.CERTIFICATE if certificate else EntityKind.SECRET,
        subject=_subject(args.subject),
        profiles=_profiles(args.profile or [], config),
        uses_left=(1 if once else None) if args.uses is None else (args.uses or None),
        expires_at=int(env.now()) + args.expires if args.expires is not None else None,
        is_ra=args.ra,
        may_revoke=args.may_revoke,
        created_at=int(env.now()),
        sealed_secret=sealer.seal(secret, args.reference) if sealer and secret else None,
        certificate=certificate,
        sealed_reg_token=_sealed(sealer, token, args.reference, "regToken"),
        sealed_authenticator=_sealed(sealer, authenticator, args.reference, "authenticator"),
    )
    added = asyncio.run(_add(config, entity))
    shown = {"secret": secret.decode()} if made else {}
    if args.json:
        print_json(_fields(added, env) | shown)
        return 0
    uses = {None: "any number of times", 1: "once"}.get(added.uses_left, f"{added.uses_left} times")
    note(f"{added.reference} is registered and may enrol {uses}" + ("; its secret, shown only now:" if made else ""))
    if made:
        print(shown["secret"])
    return 0


def show_all(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd entity list`."""
    entities = asyncio.run(_list(load(args.config)))
    if args.json:
        print_json([_fields(entity, env) for entity in entities])
        return 0
    columns = ("reference", "kind", "state", "uses_left", "expires_at", "ra", "profiles", "subject")
    fields = [_fields(entity, env) | {"uses_left": _uses(entity)} for entity in entities]
    print_table([column.upper() for column in columns], [[row[column] for column in columns] for row in fields])
    return 0


def show(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd entity show`."""
    fields = _fields(asyncio.run(_find(load(args.config), args.reference)), env)
    if args.json:
        print_json(fields)
    else:
        print_fields(fields | {"uses_left": "unlimited" if fields["uses_left"] is None else fields["uses_left"]})
    return 0


def disable(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd entity disable`."""
    asyncio.run(_disable(load(args.config), args.reference))
    if args.json:
        print_json({"reference": args.reference, "state": "disabled"})
    else:
        note(f"{args.reference} is disabled")
    return 0


# --- the store -------------------------------------------------------------------------------------------------------


async def _add(config: Config, entity: Entity) -> Entity:
    async with opened(config) as store:
        if entity.certificate is not None:
            for other in await store.list_entities(with_certificate=True):
                if other.certificate == entity.certificate and not other.disabled:
                    raise ConfigError(f"this certificate is registered already, for {other.reference}")
        try:
            return await store.add_entity(entity)
        except StoreConflict as error:
            raise ConfigError(f"{entity.reference} is registered already: choose another reference value") from error


async def _list(config: Config) -> list[Entity]:
    async with opened(config) as store:
        return await store.list_entities()


async def _find(config: Config, reference: str) -> Entity:
    async with opened(config) as store:
        entity = await store.find_entity(reference)
        if entity is None:
            raise _unknown(reference, await store.list_entities())
        return entity


async def _disable(config: Config, reference: str) -> None:
    async with opened(config) as store:
        if not await store.disable_entity(reference):
            raise _unknown(reference, await store.list_entities())


def _unknown(reference: str, entities: list[Entity]) -> ConfigError:
    near = nearest(reference, [entity.reference for entity in entities])
    return ConfigError(f"{reference} is not registered{near if 'nearest' in near else ''}")


# --- from arguments --------------------------------------------------------------------------------------------------


def _reference(text: str) -> str:
    if not text or len(text.encode()) > _MAX_REFERENCE or not text.isprintable():
        raise ConfigError(f"REFERENCE: want 1 to {_MAX_REFERENCE} octets of printable text")
    return text


def _subject(text: str | None) -> bytes | None:
    try:
        return None if text is None else names.encode_name(text)
    except ValueError as error:
        raise ConfigError(f"--subject: {error}") from error


def _profiles(wanted: list[str], config: Config) -> tuple[str, ...]:
    for name in wanted:
        if name not in config.profile:
            raise ConfigError(f"--profile: there is no [profile.{name}]{nearest(name, config.profile)}")
    return tuple(dict.fromkeys(wanted))


def _secret(source: Path | None, env: Env) -> tuple[bytes, bool]:
    """The shared secret, and whether it was made here."""
    if source is None:
        letters = "".join(_ALPHABET[octet & 31] for octet in env.random(4 * _GROUPS))
        return "-".join(letters[i : i + 4] for i in range(0, len(letters), 4)).encode(), True
    secret = _read("--secret-file", source)
    if len(secret) < _SHORT_SECRET:
        note(f"note: a secret of {len(secret)} octets can be guessed from a recorded message; 128 random bits cannot")
    return secret, False


def _control(option: str, source: Path | None) -> bytes | None:
    """The value of a regToken or authenticator (a UTF8String): one line of text."""
    if source is None:
        return None
    octets = _read(option, source)
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        raise ConfigError(f"{option} {source}: want one line of printable text in UTF-8")
    return octets


def _read(option: str, source: Path) -> bytes:
    """What is in a file or comes from standard input ("-"), without the end of its line."""
    try:
        if source == _STANDARD_INPUT:
            octets = sys.stdin.buffer.read(_MAX_SECRET + 3)
        else:
            with source.open("rb") as file:
                octets = file.read(_MAX_SECRET + 3)
    except OSError as error:
        raise ConfigError(f"{option} {source}: cannot be read: {error.strerror}") from error
    value = octets.removesuffix(b"\n").removesuffix(b"\r")
    if not 1 <= len(value) <= _MAX_SECRET:
        raise ConfigError(f"{option} {source}: want 1 to {_MAX_SECRET} octets, have {len(value) or 'none'}")
    return value


def _check_standard_input(args: argparse.Namespace) -> None:
    if [args.secret_file, args.reg_token_file, args.authenticator_file].count(_STANDARD_INPUT) > 1:
        raise ConfigError("only one of --secret-file, --reg-token-file and --authenticator-file can be standard input")


def _sealed(
    sealer: Sealer | None, value: bytes | None, reference: str, control: Literal["regToken", "authenticator"]
) -> bytes | None:
    return sealer.seal(value, control_reference(reference, control)) if sealer and value else None


def _credential(path: Path, env: Env) -> bytes:
    """DER of the certificate in a file, if messages can be protected with it or with certificates under it."""
    found = read_certificates(path)
    if len(found) != 1:
        raise ConfigError(f"--cert {path}: want one certificate, have {len(found)}")
    try:
        certificate = read_certificate(found[0], "Certificate")
    except BadDataFormat as error:
        raise ConfigError(f"--cert {path}: {error.text}") from error
    try:
        is_ca = certificate.parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    fault = certificate.fault or certificate.time_fault(env.now()) or (certificate.ca_fault if is_ca else "")
    usage = certificate.key_usage
    if not fault and certificate.key is None:
        fault = "its key is of a kind that is not supported"
    if not fault and not is_ca and usage is not None and not usage.digital_signature:
        fault = "its keyUsage has no digitalSignature, it cannot protect messages"
    if fault:
        raise ConfigError(f"--cert {path}: cannot be a credential: {fault}")
    return certificate.der


# --- as text ---------------------------------------------------------------------------------------------------------


def _uses(entity: Entity) -> object:
    return "unlimited" if entity.uses_left is None else entity.uses_left


def _state(entity: Entity, env: Env) -> str:
    if entity.disabled:
        return "disabled"
    if entity.expires_at is not None and entity.expires_at <= env.now():
        return "expired"
    return "used up" if entity.uses_left == 0 else "active"


def _fields(entity: Entity, env: Env) -> dict[str, Any]:
    certificate = read_certificate(entity.certificate, "Certificate") if entity.certificate else None
    return {
        "reference": entity.reference,
        "kind": entity.kind.value,
        "state": _state(entity, env),
        "uses_left": entity.uses_left,
        "expires_at": time_text(entity.expires_at),
        "ra": entity.is_ra,
        "may_revoke": entity.may_revoke,
        "profiles": list(entity.profiles),
        "subject": None if entity.subject is None else names.name_text(entity.subject),
        "reg_token": entity.sealed_reg_token is not None,
        "authenticator": entity.sealed_authenticator is not None,
        "created_at": time_text(entity.created_at),
        "certificate_subject": names.name_text(certificate.subject) if certificate else None,
        "certificate_sha256": certificate.fingerprint.hex() if certificate else None,
    }
