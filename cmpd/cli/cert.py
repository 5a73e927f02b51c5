"""cmpd cert: look up and export certificates, by serial number or by a part of the subject."""

import argparse
import asyncio
import hashlib
import sys
from typing import Any, Final

from cmpd.cli.entity import opened
from cmpd.cli.output import note, print_fields, print_json, print_table, serial_text, time_text
from cmpd.config import load
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.records import CertificateRecord, CertificateState
from cmpd.signing.file import pem
from cmpd.store.base import Store

_PAGE: Final = 1000


def show_all(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert list`."""
    fields = asyncio.run(_found(args))
    if args.json:
        print_json(fields)
        return 0
    columns = ("serial", "state", "not_after", "entity", "profile", "subject")
    print_table([column.upper() for column in columns], [[row[column] for column in columns] for row in fields])
    return 0


def show(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert show`."""
    found = asyncio.run(_found(args))
    if args.json:
        print_json(found)
        return 0
    for place, fields in enumerate(found):
        if place:
            print()
        print_fields(fields)
    return 0


def export(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert export`."""
    records = [record for record in asyncio.run(_records(args)) if record.der is not None]
    if not records:
        raise ConfigError("there is no certificate yet: it was intended, and never signed")
    if args.der and len(records) != 1:
        raise ConfigError(f"--der writes one certificate, {len(records)} were found: name it by its serial number")
    ders = [record.der for record in records if record.der is not None]
    octets = ders[0] if args.der else b"".join(pem("CERTIFICATE", one) for one in ders)
    if args.out is None:
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()
        return 0
    try:
        args.out.write_bytes(octets)
    except OSError as error:
        raise ConfigError(f"--out {args.out}: cannot be written: {error.strerror}") from error
    note(f"{args.out}: {len(ders)} certificate(s)")
    return 0


async def _records(args: argparse.Namespace) -> list[CertificateRecord]:
    async with opened(load(args.config)) as store:
        return await _select(store, args)


async def _found(args: argparse.Namespace) -> list[dict[str, Any]]:
    async with opened(load(args.config)) as store:
        references: dict[int, str | None] = {}
        fields = []
        for record in await _select(store, args):
            if record.entity_id not in references:
                entity = await store.find_entity_by_id(record.entity_id)
                references[record.entity_id] = entity.reference if entity else None
            fields.append(_fields(record, references[record.entity_id]))
        return fields


async def _select(store: Store, args: argparse.Namespace) -> list[CertificateRecord]:
    """What serial, --subject, --state and --limit select; ConfigError if one was asked for and there is none."""
    if getattr(args, "serial", None) is not None:
        record = await store.find_certificate(args.serial)
        if record is None:
            raise ConfigError(f"there is no certificate with serial number {serial_text(args.serial)}")
        return [record]
    state = CertificateState(args.state) if getattr(args, "state", None) else None
    limit: int | None = getattr(args, "limit", None)
    found: list[CertificateRecord] = []
    while limit is None or len(found) < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        after = found[-1].serial if found else b""
        page = await store.list_certificates(subject=args.subject, state=state, limit=size, after=after)
        found += page
        if len(page) < size:
            break
    if not found and args.one:
        raise ConfigError(f"there is no certificate with {args.subject!r} in its subject")
    return found


def _fields(record: CertificateRecord, reference: str | None) -> dict[str, Any]:
    return {
        "serial": serial_text(record.serial),
        "state": record.state.value,
        "subject": record.subject_text,
        "entity": reference,
        "profile": record.profile,
        "not_before": time_text(record.not_before),
        "not_after": time_text(record.not_after),
        "created_at": time_text(record.created_at),
        "changed_at": time_text(record.changed_at),
        "changed_by": record.changed_by,
        "reason": record.reason,
        "replaces": serial_text(record.replaces) if record.replaces else None,
        "transaction": record.transaction_id.hex(),
        "sha256": hashlib.sha256(record.der).hexdigest() if record.der else None,
    }
