"""cmpd cert: look up and export certificates, revoke, suspend and resume them.

States are shown as they are now: a certificate whose time is over is "expired", though no record says so. A change of
status follows the same rules (status.py) and leaves the same records as one that is asked for by CMP, and a server
that runs publishes it.
"""

import argparse
import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any, Final

from cmpd.cli.crl import NO_PLACE, has_place
from cmpd.cli.entity import opened, operator
from cmpd.cli.output import note, print_fields, print_json, print_table, serial_text, time_text, write_octets
from cmpd.config import Config, load
from cmpd.env import Env
from cmpd.errors import CmpdError, CmpError, ConfigError, StoreConflict
from cmpd.lifecycle import state_at
from cmpd.records import CertificateRecord, CertificateState, StatusChange
from cmpd.signing.file import pem
from cmpd.status import Wish, decide
from cmpd.store import is_served
from cmpd.store.base import Store

_TRIES: Final = 3
_MOVED: Final = "certificate moved"
_PAGE: Final = 1000


def show_all(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert list`."""
    fields = asyncio.run(_found(args, env))
    if args.json:
        print_json(fields)
        return 0
    columns = ("serial", "state", "not_after", "entity", "profile", "subject")
    print_table([column.upper() for column in columns], [[row[column] for column in columns] for row in fields])
    return 0


def show(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert show`."""
    found = asyncio.run(_found(args, env, history=True))
    if args.json:
        print_json(found)
        return 0
    for place, fields in enumerate(found):
        if place:
            print()
        history = [step.values() for step in fields.pop("history")]
        print_fields(fields)
        if history:
            print("history:")
            print_table(
                ["  AT", "STATE", "REASON", "INVALIDITY_DATE", "BY"], [[f"  {at}", *others] for at, *others in history]
            )
    return 0


def export(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert export`."""
    records = [record for record in asyncio.run(_records(args, env)) if record.der is not None]
    if not records:
        raise ConfigError("there is no certificate yet: it was intended, and never signed")
    if args.der and len(records) != 1:
        raise ConfigError(f"--der writes one certificate, {len(records)} were found: name it by its serial number")
    ders = [record.der for record in records if record.der is not None]
    octets = ders[0] if args.der else b"".join(pem("CERTIFICATE", one) for one in ders)
    write_octets(octets, args.out, f"{len(ders)} certificate(s)")
    return 0


# --- changes of status -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one serial number: its new fields, or why there are none."""

    serial: bytes
    fields: dict[str, Any]
    fault: str = ""


def revoke(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert revoke`."""
    return _change(args, Wish(args.reason, args.invalidity_date), env)


def suspend(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert suspend`."""
    return _change(args, Wish("certificateHold", args.invalidity_date), env)


def resume(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd cert resume`."""
    return _change(args, Wish("removeFromCRL"), env)


def _change(args: argparse.Namespace, wish: Wish, env: Env) -> int:
    if wish.invalidity_date is not None and wish.invalidity_date > env.now():
        note(f"note: --invalidity-date {time_text(wish.invalidity_date)} is in the future")
    config = load(args.config)
    outcomes = asyncio.run(_changed(config, tuple(dict.fromkeys(args.serials)), wish, env))
    faults = [outcome for outcome in outcomes if outcome.fault]
    if args.json:
        print_json([outcome.fields for outcome in outcomes])
    else:
        for outcome in outcomes:
            if not outcome.fault:
                print(_sentence(outcome.fields))
    for outcome in faults:
        note(f"cmpd: {serial_text(outcome.serial)}: {outcome.fault}")
    if len(faults) < len(outcomes) and not args.json:
        note(_how_it_is_told(config, args))
    return 1 if faults else 0


async def _changed(config: Config, serials: tuple[bytes, ...], wish: Wish, env: Env) -> list[_Outcome]:
    """Change one after the other; what fails does not keep the others from being done."""
    outcomes = []
    async with opened(config) as store:
        for serial in serials:
            try:
                await _change_one(store, serial, wish, env)
                (fields,) = await _fields_of(store, [await _record(store, serial)], int(env.now()), history=True)
                outcomes.append(_Outcome(serial, fields))
            except CmpdError as error:
                outcomes.append(_Outcome(serial, {"serial": serial_text(serial), "error": str(error)}, str(error)))
    return outcomes


async def _change_one(store: Store, serial: bytes, wish: Wish, env: Env) -> None:
    for _ in range(_TRIES):
        record = await _record(store, serial)
        now = int(env.now())
        try:
            await store.write([decide(record, wish, now, operator())])
        except CmpError as refused:
            raise ConfigError(f"{refused.text.rpartition(': ')[2]}{_since(record, now)}") from refused
        except StoreConflict as conflict:
            if conflict.reason != _MOVED:
                raise
        else:
            return
    raise ConfigError("others change its state all the time; try again")


def _since(record: CertificateRecord, now: int) -> str:
    """Since when it is in its state, for those that end something."""
    match state_at(record.state, record.not_after, now):
        case CertificateState.EXPIRED:
            return f", since {time_text(record.not_after)}"
        case CertificateState.REVOKED | CertificateState.SUSPENDED:
            return f", since {time_text(record.revoked_at)} (by {record.changed_by}, reason {record.reason})"
        case _:
            return ""


def _sentence(fields: dict[str, Any]) -> str:
    serial, state = fields["serial"], fields["state"]
    if fields["revoked_at"] is None:
        return f"{serial} is {state} again since {fields['changed_at']}"
    return f"{serial} is {state} since {fields['revoked_at']}, reason {fields['reason']}"


def _how_it_is_told(config: Config, args: argparse.Namespace) -> str:
    if not has_place(config):
        return f"note: {NO_PLACE}"
    if not is_served(config.store.path):
        return f"no server runs: a new CRL comes with its next start, or now by cmpd crl issue --config {args.config}"
    at_once = "its OCSP answers change at once, and " if config.ocsp.signer and config.publish.listen else ""
    return f"the server publishes it: {at_once}a new CRL comes within {max(config.crl.gather, 1) + 1} s"


# --- from the store --------------------------------------------------------------------------------------------------


async def _records(args: argparse.Namespace, env: Env) -> list[CertificateRecord]:
    async with opened(load(args.config)) as store:
        return await _select(store, args, int(env.now()))


async def _found(args: argparse.Namespace, env: Env, *, history: bool = False) -> list[dict[str, Any]]:
    async with opened(load(args.config)) as store:
        now = int(env.now())
        return await _fields_of(store, await _select(store, args, now), now, history=history)


async def _fields_of(
    store: Store, records: list[CertificateRecord], now: int, *, history: bool
) -> list[dict[str, Any]]:
    references: dict[int, str | None] = {}
    found = []
    for record in records:
        if record.entity_id not in references:
            entity = await store.find_entity_by_id(record.entity_id)
            references[record.entity_id] = entity.reference if entity else None
        fields = _fields(record, references[record.entity_id], now)
        if history:
            fields["history"] = [_step(change) for change in await store.history(record.serial)]
        found.append(fields)
    return found


async def _record(store: Store, serial: bytes) -> CertificateRecord:
    """ConfigError if there is none that could be shown or changed."""
    record = await store.find_certificate(serial)
    if record is None:
        if await store.certificate_status([serial]):
            raise ConfigError(
                f"{serial_text(serial)} is the serial number of a certificate that the CA made for itself"
            )
        raise ConfigError(f"there is no certificate with serial number {serial_text(serial)}")
    return record


async def _select(store: Store, args: argparse.Namespace, now: int) -> list[CertificateRecord]:
    """What serial, --subject, --state and --limit select; ConfigError if one was asked for and there is none."""
    if getattr(args, "serial", None) is not None:
        return [await _record(store, args.serial)]
    state = CertificateState(args.state) if getattr(args, "state", None) else None
    limit: int | None = getattr(args, "limit", None)
    found: list[CertificateRecord] = []
    while limit is None or len(found) < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        after = found[-1].serial if found else b""
        page = await store.list_certificates(subject=args.subject, state=state, at=now, limit=size, after=after)
        found += page
        if len(page) < size:
            break
    if not found and args.one:
        raise ConfigError(f"there is no certificate with {args.subject!r} in its subject")
    return found


def _fields(record: CertificateRecord, reference: str | None, now: int) -> dict[str, Any]:
    return {
        "serial": serial_text(record.serial),
        "state": state_at(record.state, record.not_after, now).value,
        "subject": record.subject_text,
        "entity": reference,
        "profile": record.profile,
        "not_before": time_text(record.not_before),
        "not_after": time_text(record.not_after),
        "created_at": time_text(record.created_at),
        "changed_at": time_text(record.changed_at),
        "changed_by": record.changed_by,
        "revoked_at": time_text(record.revoked_at),
        "reason": record.reason,
        "invalidity_date": time_text(record.invalidity_date),
        "replaces": serial_text(record.replaces) if record.replaces else None,
        "transaction": record.transaction_id.hex(),
        "sha256": hashlib.sha256(record.der).hexdigest() if record.der else None,
    }


def _step(change: StatusChange) -> dict[str, Any]:
    return {
        "at": time_text(change.at),
        "state": change.state.value,
        "reason": change.reason,
        "invalidity_date": time_text(change.invalidity_date),
        "by": change.by,
    }
