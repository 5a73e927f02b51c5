"""cmpd crl: issue a certificate revocation list now, and show what is published.

One process issues CRLs: the one that serves the database. While a server runs, `issue` writes an order into the
database and waits until it is fulfilled; else it takes the server's place (its lock) for as long as it takes. `show`
reads the files in crl.directory, because they are what others get.
"""

import argparse
import asyncio
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509

from cmpd.asn1.names import name_text
from cmpd.ca import CertificateAuthority
from cmpd.changes import OrderCrl
from cmpd.cli.entity import opened, operator
from cmpd.cli.output import note, print_fields, print_json, print_table, serial_text, time_text, write_octets
from cmpd.config import Config, load
from cmpd.config_status import CRL_PATH, DELTA_PATH
from cmpd.crl_files import DELTA_NAME, FULL_NAME
from cmpd.env import Env
from cmpd.errors import ConfigError, StoreError
from cmpd.publisher import Publisher
from cmpd.records import CrlRecord
from cmpd.signing.file import load_key, pem, read_certificates
from cmpd.store import is_served, open_store

E = TypeVar("E", bound=x509.ExtensionType)
T = TypeVar("T")

_WAIT: Final = 30.0
"""Seconds that a server may take to fulfil an order."""
_POLL: Final = 0.1
_SAY_EVERY: Final = 5.0


def issue(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd crl issue`."""
    config = load(args.config)
    if not has_place(config):
        raise ConfigError(f"{args.config}: {NO_PLACE}")
    record = asyncio.run(_issued(config, env))
    if config.crl.directory is not None and not _is_written(config, record):
        note(f"note: CRL {record.number} is not in {config.crl.directory} yet: the server's log says why")
    fields: dict[str, Any] = {
        "number": record.number,
        "entries": _entries(config, record),
        "this_update": time_text(record.this_update),
        "next_update": time_text(record.next_update),
        "files": [str(path) for path in (_path(config, delta=False), _path(config, delta=True)) if path.exists()]
        if config.crl.directory
        else [],
    }
    _print(fields, args)
    return 0


def show(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd crl show`: with --der, --pem or --out the CRL itself is written."""
    config = load(args.config)
    path, octets = _read(config, args)
    crl = _parsed(path, octets)
    if args.der or args.pem or args.out:
        what = f"{'delta ' if args.delta else ''}CRL {_number(crl)}"
        write_octets(octets if args.der else pem("X509 CRL", octets), args.out, what)
        return 0
    fields = _fields(path, crl)
    if crl.next_update_utc is not None and crl.next_update_utc.timestamp() <= env.now():
        note("note: its nextUpdate has passed, nobody accepts it any more: is the server down? (cmpd crl issue)")
    if not args.entries:
        _print(fields, args)
    elif args.json:
        print_json(fields | {"revoked": list(_revoked(crl))})
    else:
        print_fields(fields)
        rows = [list(entry.values()) for entry in _revoked(crl)]
        print()
        print_table(["SERIAL", "REVOKED_AT", "REASON", "INVALIDITY_DATE"], rows)
    return 0


# --- where it is published -------------------------------------------------------------------------------------------


NO_PLACE: Final = "no CRL is published: set crl.directory or publish.listen, and start the server anew"


def has_place(config: Config) -> bool:
    """Whether there is a place where CRLs are published."""
    return config.crl.directory is not None or config.publish.listen is not None


def _path(config: Config, *, delta: bool) -> Path:
    if config.crl.directory is None:
        door = config.publish.listen
        where = f"; it is at http://{door}{DELTA_PATH if delta else CRL_PATH} while the server runs" if door else ""
        raise ConfigError(f"crl.directory: not set, there is no file to look at{where or ': set it'}")
    return config.crl.directory / (DELTA_NAME if delta else FULL_NAME)


def _read(config: Config, args: argparse.Namespace) -> tuple[Path, bytes]:
    path = _path(config, delta=args.delta)
    try:
        return path, path.read_bytes()
    except FileNotFoundError:
        if args.delta and not config.crl.delta:
            raise ConfigError("crl.delta = false: there are no delta CRLs") from None
        raise ConfigError(
            f"{path} is not there yet: start the server, or run cmpd crl issue --config {args.config}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


# --- issuing ---------------------------------------------------------------------------------------------------------


async def _issued(config: Config, env: Env) -> CrlRecord:
    if not is_served(config.store.path):
        try:
            return await _issue_here(config, env)
        except StoreError:
            if not is_served(config.store.path):  # else a server has started meanwhile
                raise
    return await _order(config, env)


async def _issue_here(config: Config, env: Env) -> CrlRecord:
    """Issue a CRL in place of the server, as its schedule would."""
    if config.crl.directory is None:
        raise ConfigError(
            "crl.directory: not set, a CRL made now would go nowhere: start the server, which has its own"
        )
    (certificate, *_) = read_certificates(config.ca.certificate)
    key = load_key(config.ca.key, config.ca.passphrase(), certificate, signature=config.ca.signature)
    store = await open_store(config.store.path, serving=True)
    try:
        ca = CertificateAuthority(certificate, (), key, env)
        publisher = Publisher(store, ca, env, config.crl, base_url=config.publish.base_url, offload=_at_once)
        return await publisher.issue(scheduled=True)
    finally:
        await store.close()


async def _at_once(work: Callable[[], T]) -> T:
    """Nobody else needs the loop."""
    return work()


async def _order(config: Config, env: Env) -> CrlRecord:
    """Let the server issue one; returns the first one that fulfils the order."""
    async with opened(config) as store:
        await store.write([OrderCrl(int(env.now()), operator())])
        wanted = (await store.publication()).last_order
        loop = asyncio.get_running_loop()
        start = said = loop.time()
        while (latest := (await store.publication()).latest) is None or latest.last_order < wanted:
            now = loop.time()
            if not is_served(config.store.path):
                raise ConfigError("the server has ended before it issued the CRL; it will with its next start")
            if now - start > _WAIT:
                raise ConfigError(
                    f"the server has issued no CRL within {_WAIT:.0f} s (its log says why); the order stands"
                )
            if now - said >= _SAY_EVERY:
                note(f"waiting for the server to issue a CRL, {now - start:.0f} s so far")
                said = now
            await asyncio.sleep(_POLL)
        return latest


# --- as text ---------------------------------------------------------------------------------------------------------


def _print(fields: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        print_json(fields)
    else:
        print_fields(fields)


def _parsed(path: Path, octets: bytes) -> x509.CertificateRevocationList:
    try:
        return x509.load_der_x509_crl(octets)
    except ValueError as error:
        raise ConfigError(f"{path}: want a CRL in DER: {error}") from error


def _fields(path: Path, crl: x509.CertificateRevocationList) -> dict[str, Any]:
    base = _extension(crl, x509.DeltaCRLIndicator)
    return {
        "number": _number(crl),
        "base": base.crl_number if base else None,
        "issuer": name_text(crl.issuer.public_bytes()),
        "this_update": _time(crl.last_update_utc),
        "next_update": _time(crl.next_update_utc),
        "entries": len(crl),
        "file": str(path),
    }


def _entries(config: Config, record: CrlRecord) -> int | None:
    """How many entries the file of this CRL has; None if it is not the one there."""
    if config.crl.directory is None:
        return None
    path = _path(config, delta=False)
    try:
        crl = _parsed(path, path.read_bytes())
    except OSError:
        return None
    return len(crl) if _number(crl) == record.number else None


def _is_written(config: Config, record: CrlRecord) -> bool:
    """Whether the file is this CRL or a later one."""
    path = _path(config, delta=False)
    try:
        number = _number(_parsed(path, path.read_bytes()))
    except (OSError, ConfigError):
        return False
    return number is not None and number >= record.number


def _revoked(crl: x509.CertificateRevocationList) -> Iterator[dict[str, Any]]:
    for entry in crl:
        number = entry.serial_number
        reason = _extension(entry, x509.CRLReason)
        invalidity = _extension(entry, x509.InvalidityDate)
        yield {
            "serial": serial_text(number.to_bytes(number.bit_length() // 8 + 1)),
            "revoked_at": _time(entry.revocation_date_utc),
            "reason": reason.reason.value if reason else None,
            "invalidity_date": _time(invalidity.invalidity_date_utc) if invalidity else None,
        }


def _number(crl: x509.CertificateRevocationList) -> int | None:
    number = _extension(crl, x509.CRLNumber)
    return number.crl_number if number else None


def _extension(place: x509.CertificateRevocationList | x509.RevokedCertificate, kind: type[E]) -> E | None:
    try:
        return place.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _time(when: datetime.datetime | None) -> str | None:
    return time_text(None if when is None else int(when.timestamp()))
