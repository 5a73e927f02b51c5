"""cmpd request: look at the requests that wait for an operator, approve and reject them.

The commands only write down what was decided: nothing is signed by them, and nothing before the requester comes for
the answer, which the server then works out by the rules that hold at that time. What is shown as the state of a request
is what its requester would meet: one that nobody decided, or came for, in time has expired.
"""

import argparse
import asyncio
from dataclasses import dataclass
from typing import Any, Final

from cmpd.changes import DecideWaiting
from cmpd.cli.entity import opened, operator
from cmpd.cli.output import note, print_fields, print_json, print_table, time_text, write_octets
from cmpd.config import Config, load
from cmpd.config_values import duration_text
from cmpd.env import Env
from cmpd.errors import CmpdError, ConfigError, StoreConflict
from cmpd.keeping import is_sealed, open_request
from cmpd.records import Decision, WaitingRequest
from cmpd.store import is_served
from cmpd.store.base import Store
from cmpd.store.sealing import OVERHEAD, Sealer

_PAGE: Final = 1000
_COLUMNS: Final = (
    "reference",
    "state",
    "received_at",
    "expires_at",
    "body",
    "requester",
    "profile",
    "subjects",
    "transaction",
)


def show_all(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd request list`."""
    fields = asyncio.run(_listed(load(args.config), args, env))
    if args.json:
        print_json(fields)
        return 0
    print_table([column.upper() for column in _COLUMNS], [[row[column] for column in _COLUMNS] for row in fields])
    return 0


def show(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd request show`; with --out the request itself is written too."""
    fields, octets = asyncio.run(_shown(load(args.config), args.request, env, opens=bool(args.out)))
    if args.json:
        print_json(fields)
    else:
        print_fields(fields)
    if args.out:
        write_octets(octets, args.out, f"request {fields['reference']} (PKIMessage, DER)")
    return 0


def approve(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd request approve`."""
    return _decide(args, Decision.APPROVED, "", env)


def reject(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpd request reject`."""
    return _decide(args, Decision.REJECTED, args.reason, env)


# --- deciding --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one request: its new fields, or why there are none."""

    fields: dict[str, Any]
    fault: str = ""


def _decide(args: argparse.Namespace, decision: Decision, text: str, env: Env) -> int:
    config = load(args.config)
    outcomes = asyncio.run(_decided(config, tuple(dict.fromkeys(args.requests)), decision, text, env))
    done = [outcome.fields for outcome in outcomes if not outcome.fault]
    if args.json:
        print_json([outcome.fields for outcome in outcomes])
    else:
        for fields in done:
            whose = f"{fields['body']} of {fields['requester'] or '-'}: {fields['subjects'] or 'no subject'}"
            print(f"{fields['reference']} is {decision} ({whose})")
    for outcome in outcomes:
        if outcome.fault:
            note(f"cmpd: {outcome.fault}")
    if done and not args.json:
        note(_how_it_is_told(config, decision, [fields["expires_at"] for fields in done]))
    return 0 if len(done) == len(outcomes) else 1


async def _decided(
    config: Config, requests: tuple[str, ...], decision: Decision, text: str, env: Env
) -> list[_Outcome]:
    """Decide one after the other; what fails does not keep the others from being decided."""
    outcomes = []
    async with opened(config) as store:
        for request in requests:
            try:
                waiting = await _decide_one(store, request, decision, text, env)
                outcomes.append(_Outcome(await _fields(store, waiting, int(env.now()))))
            except CmpdError as error:
                outcomes.append(_Outcome({"request": request, "error": str(error)}, str(error)))
    return outcomes


async def _decide_one(store: Store, request: str, decision: Decision, text: str, env: Env) -> WaitingRequest:
    """The request with its decision; ConfigError if there was nothing to decide."""
    waiting = await _find(store, request)
    now = int(env.now())
    if not (fault := _why_not(waiting, now)):
        try:
            await store.write([DecideWaiting(waiting.transaction_id, decision, now, operator(), text)])
        except StoreConflict:  # somebody else was faster
            fault = _why_not(await _find(store, request), now) or "others are deciding it; try again"
        else:
            return await _find(store, request)
    raise ConfigError(f"{_reference(waiting)} {fault}")


def _why_not(waiting: WaitingRequest, now: int) -> str:
    """Why it cannot be decided any more; empty if it can."""
    if waiting.decision is not Decision.UNDECIDED:
        text = f": {waiting.text}" if waiting.text else ""
        fetched = ", and its requester has got the answer" if waiting.answered else ""
        when = time_text(waiting.decided_at)
        return f"is {waiting.decision} already, since {when} (by {waiting.decided_by}){text}{fetched}"
    if waiting.expires_at < now:
        return f"has expired at {time_text(waiting.expires_at)}: its requester has to make a new request"
    if waiting.answered:
        return "needs no decision any more: its requester has given up"
    return ""


def _how_it_is_told(config: Config, decision: Decision, ends: list[str]) -> str:
    after = duration_text(config.enrolment.check_after)
    what = "gets its certificate" if decision is Decision.APPROVED else "is told so"
    until = f"until {min(ends)}" if len(set(ends)) == 1 else f"the first one until {min(ends)}"
    told = f"the requester {what} when it asks again: it was told to do so every {after}, and can {until}"
    return told if is_served(config.store.path) else f"{told}; no server runs now"


# --- from the store --------------------------------------------------------------------------------------------------


async def _listed(config: Config, args: argparse.Namespace, env: Env) -> list[dict[str, Any]]:
    """By the time they came in; without --all only those that can be decided now."""
    now = int(env.now())
    async with opened(config) as store:
        found: list[WaitingRequest] = []
        while True:
            after = found[-1].reference if found else 0
            page = await store.list_waiting(undecided_only=not args.all, limit=_PAGE, after=after)
            found += page
            if len(page) < _PAGE:
                break
        kept = [waiting for waiting in found if args.all or not _why_not(waiting, now)]
        kept.sort(key=lambda waiting: (waiting.received_at, waiting.reference))
        requesters: dict[int, str | None] = {}
        return [await _fields(store, waiting, now, requesters) for waiting in kept]


async def _shown(config: Config, request: str, env: Env, *, opens: bool) -> tuple[dict[str, Any], bytes]:
    """What is shown, and with `opens` the request itself: only that takes the passphrase."""
    async with opened(config) as store:
        waiting = await _find(store, request)
        fields = await _fields(store, waiting, int(env.now()))
    sealer, octets = None, len(waiting.request)
    if is_sealed(waiting):
        octets -= OVERHEAD
        sealer = Sealer.load(config.store.secrets_key, config.ca.passphrase(), env) if opens else None
    more = {"request_octets": octets, "request_sha256": waiting.digest.hex()}
    return fields | more, open_request(sealer, waiting) if opens else b""


async def _find(store: Store, request: str) -> WaitingRequest:
    """The request with this reference (at most 8 hex digits), else with this transactionID; or ConfigError."""
    waiting = await store.find_waiting(int(request, 16)) if len(request) <= 8 else None
    if waiting is None and len(request) % 2 == 0:
        transaction = await store.find_transaction(bytes.fromhex(request))
        if transaction is not None and transaction.waiting is not None:
            waiting = await store.find_waiting(transaction.waiting.reference)
    if waiting is None:
        raise ConfigError(
            f"{request.upper()}: there is no request with this reference or transactionID; answered ones are forgotten "
            f"after enrolment.retention (cmpd request list --all)"
        )
    return waiting


def _reference(waiting: WaitingRequest) -> str:
    return f"{waiting.reference:08X}"


def _state(waiting: WaitingRequest, now: int) -> str:
    """What its requester meets; an operator's decision that was fetched stays one after its time."""
    decided, expired = waiting.decision is not Decision.UNDECIDED, waiting.expires_at < now
    if waiting.answered and (decided or not expired):
        return f"{waiting.decision}, answered" if decided else "given up"
    return "expired" if expired else waiting.decision.value


async def _fields(
    store: Store, waiting: WaitingRequest, now: int, requesters: dict[int, str | None] | None = None
) -> dict[str, Any]:
    """What is shown; `requesters`: references of entities that are known already."""
    known = {} if requesters is None else requesters
    if waiting.entity_id not in known:
        entity = await store.find_entity_by_id(waiting.entity_id)
        known[waiting.entity_id] = entity.reference if entity else None
    return {
        "reference": _reference(waiting),
        "transaction": waiting.transaction_id.hex(),
        "state": _state(waiting, now),
        "body": waiting.body,
        "requester": known[waiting.entity_id],
        "profile": waiting.profile,
        "subjects": waiting.subjects,
        "received_at": time_text(waiting.received_at),
        "expires_at": time_text(waiting.expires_at),
        "decision": waiting.decision.value,
        "decided_at": time_text(waiting.decided_at),
        "decided_by": waiting.decided_by,
        "reason": waiting.text,
        "answered": waiting.answered,
    }
