"""When CRLs are made, from what, and where they go.

One issue is: read what has changed, take the next number (durable), sign, write the files, record that they are out
(durable), and only then show them to the HTTP server. After a crash anywhere in between, the records say which number
was taken; it is skipped, and numbers never go back. A full CRL and a delta CRL of the same issue share their number.
A disk that takes no files keeps nothing from HTTP and CMP: the same octets are written later.

The file says which CRLs others have, even if the records are from a backup: numbers go on from there, and no delta CRL
starts from a number that may have stood for something else.

Entries are kept encoded (crl.py): after a change, a CRL of any length costs the reading of that change, one join, one
signature and the writing. They are read anew with each scheduled CRL, in pages, between which the loop does other
things. What takes long in one piece (joining, hashing, disks) runs on a thread.

`run` looks once a second, and at once when it is woken: a CRL is due by schedule, after a change (its own or one by an
operator's command), or because one was ordered. A failure is logged once for each cause and tried again; it never ends
the task.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from cmpd import audit
from cmpd.asn1.der import DerError
from cmpd.ca import CertificateAuthority
from cmpd.changes import AddCrl, PublishCrl
from cmpd.config_status import DELTA_PATH, CrlConfig
from cmpd.crl import CrlEntries, CrlTemplate, read_head
from cmpd.crl_files import DELTA_NAME, FULL_NAME, CrlFiles, FilesError
from cmpd.env import Env
from cmpd.errors import CmpdError, CmpError, StoreConflict, StoreError
from cmpd.failures import Failures
from cmpd.records import CrlRecord, Publication, StatusChange
from cmpd.status import OPERATOR
from cmpd.store.base import Store

_log = logging.getLogger("cmpd.publisher")
_T = TypeVar("_T")

_TICK: Final = 1.0
_PAGE: Final = 250
"""Rows that are read and encoded in one piece: less than a millisecond of the loop's time."""
_LARGE: Final = 2_000
"""From so many entries on a CRL is put together on a thread."""
_TRIES: Final = 3
_NOT_ISSUED: Final = "no new CRL: %s; it is tried again at least every minute, the server goes on"
_NOT_WRITTEN: Final = "the CRL is out by HTTP and CMP alone: %s; it is tried again at least every minute"


class Offload(Protocol):
    """Runs a function off the loop and gives its result (threads.Offloader)."""

    def __call__(self, work: Callable[[], _T], /) -> Awaitable[_T]:
        """The result of `work`."""


class PublishError(CmpdError):
    """A CRL could not be signed; str() is one line for the operator."""


class Publisher:
    """Makes the CRLs of one CA and has the newest of them. One process at a time: the one that serves the database."""

    def __init__(
        self,
        store: Store,
        ca: CertificateAuthority,
        env: Env,
        config: CrlConfig,
        *,
        base_url: str | None,
        offload: Offload,
    ) -> None:
        """`base_url`: of the place where everybody gets delta CRLs, None = not told."""
        self._store = store
        self._ca = ca
        self._env = env
        self._config = config
        self._offload = offload
        delta_url = base_url + DELTA_PATH if base_url is not None and config.delta else None
        self._template = CrlTemplate(ca.name, ca.algorithm, ca.aki, delta_url, config.issuing_distribution_point)
        self._files = None if config.directory is None else CrlFiles(config.directory, ca.public_key)
        self._entries: CrlEntries | None = None
        self._full: bytes | None = None
        self._delta: bytes | None = None
        self._record: CrlRecord | None = None
        self._issued_at = 0.0
        self._seen: int | None = None  # the number in our file, 0: none; None: not looked at yet
        self._unknown_up_to = 0  # who has CRLs up to this number may have some that no delta CRL fits
        self._is_unwritten = False  # the files are not those that are out
        self._issuing = asyncio.Lock()
        self._woken = asyncio.Event()
        self._told = -1  # id of the last change that the audit log was told of, if an operator made it
        self._failures = Failures(env, _NOT_ISSUED, _log)
        self._file_failures = Failures(env, _NOT_WRITTEN, _log)

    @property
    def full(self) -> bytes | None:
        """DER of the newest full CRL that is out, None if there is none yet."""
        return self._full

    @property
    def delta(self) -> bytes | None:
        """DER of the delta CRL with the same number, None if there is none."""
        return self._delta

    @property
    def record(self) -> CrlRecord | None:
        """The record of both."""
        return self._record

    async def start(self) -> None:
        """Take up the CRLs that are out, or issue new ones. Never raises for what `run` can repair later."""
        try:
            publication = await self._store.publication()
            full = await self._look_at_files(publication)
            if not await self._load(publication, full):
                await self.issue(scheduled=self._is_due(publication))
        except FilesError as error:
            self._file_failures.add(error)
        except Exception as error:
            self._failures.add(error)

    def wake(self) -> None:
        """A status has changed: a CRL is due. To be called in the loop's thread."""
        self._woken.set()

    async def run(self) -> None:
        """Keep the CRLs up to date until cancelled."""
        while True:
            # While there is nothing to be done but wait, being woken for each of many changes would be in vain.
            await asyncio.sleep(min(max(self._gathering(), self._failures.pause()), _TICK))
            self._woken.clear()
            await self.tick()
            try:
                async with asyncio.timeout(_TICK):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """Issue a CRL if one is due now; failures are logged."""
        if self._failures.pause() > 0:
            return
        try:
            publication = await self._store.publication()
            is_to_be_written = self._is_unwritten and self._file_failures.pause() <= 0
            if is_to_be_written:
                await self._look_at_files(publication)
            scheduled = self._is_due(publication)
            if scheduled or (self._is_behind(publication) and self._gathering() <= 0):
                await self.issue(scheduled=scheduled)
            elif is_to_be_written:
                await self._write_again()
            elif self._entries is None:  # the CRLs were loaded: be ready for the first change
                async with self._issuing:
                    await self._current_entries(publication)
        except FilesError as error:
            self._failures.clear()
            self._file_failures.add(error)
        except Exception as error:
            self._failures.add(error)
        else:
            self._failures.clear()

    async def issue(self, *, scheduled: bool, order: int = 0) -> CrlRecord:
        """Issue a CRL with all that has changed until now, and a delta CRL; returns their record when both are out.

        `scheduled`: by the interval; the first one is in any case. `order`: the OrderCrl that this fulfils, beside all
        that are recorded. Raises StoreError or PublishError; then nothing but a number was lost. Raises FilesError if
        it is out, but not in the files.
        """
        async with self._issuing:
            began = self._env.now()
            if self._seen is None or self._is_unwritten:
                await self._look_at_files(await self._store.publication())
            for _ in range(_TRIES - 1):
                try:
                    return await self._issue(scheduled, order, began)
                except StoreConflict as conflict:  # a command issues at the same time
                    _log.info("crl: %s; trying the next one", conflict)
            return await self._issue(scheduled, order, began)

    async def close(self, seconds: float) -> None:
        """Wait at most so long for the CRL that is being issued, and begin no other."""
        try:
            async with asyncio.timeout(seconds):
                await self._issuing.acquire()  # for good
        except TimeoutError:
            _log.warning("crl: one was not finished within %.0f s; it comes with the next start", seconds)

    # --- when -------------------------------------------------------------------------------------------------------

    def _is_due(self, publication: Publication) -> bool:
        """Whether the interval is over since the last scheduled CRL, or the clock was set back to before it."""
        now, last = self._env.now(), publication.scheduled
        return last is None or not last.this_update <= now < last.this_update + self._config.interval

    def _is_behind(self, publication: Publication) -> bool:
        """Whether there are changes, orders or numbers that the CRLs here do not have."""
        mine, latest = self._record, publication.latest
        return (
            mine is None
            or latest is None
            or mine.number < latest.number
            or mine.last_change < publication.last_change
            or mine.last_order < publication.last_order
            or mine.number < (self._seen or 0)
            or not mine.this_update <= self._env.now() < mine.next_update
        )

    def _gathering(self) -> float:
        """Seconds until the next change makes a CRL at once."""
        left = self._issued_at + self._config.gather - self._env.now()
        return left if 0 < left <= self._config.gather else 0.0  # more: the clock was set back

    # --- one issue --------------------------------------------------------------------------------------------------

    async def _issue(self, scheduled: bool, order: int, began: float) -> CrlRecord:
        publication = await self._store.publication()
        last = publication.scheduled
        scheduled = scheduled or last is None or last.number <= self._unknown_up_to
        if scheduled:
            self._entries = None
        entries = await self._current_entries(publication)
        now = int(self._env.now())
        number = max(publication.last_number, self._seen or 0) + 1
        # No base is good that is from the future: made by a wrong clock, it may lack what expires by then. A delta CRL
        # that starts from the full CRL beside it says nothing, but it is there for those who look (FreshestCRL).
        is_good = last is not None and last.this_update <= now and last.number > self._unknown_up_to
        base = last.number if last is not None and is_good else number
        this_update = self._this_update(now, publication.latest)
        record = CrlRecord(
            number=number,
            this_update=this_update,
            next_update=this_update + self._config.interval + self._config.overlap,
            last_change=entries.last_change,
            last_order=max(order, publication.last_order),
            base=base if self._config.delta else None,
            scheduled=scheduled,
        )
        await self._store.write([AddCrl(record)])
        counts = len(entries.full), len(entries.delta)
        full, delta = await self._sign(record, entries)
        failure = await self._write_files(record.number, full, delta)
        record = replace(record, published_at=int(self._env.now()))
        await self._store.write([PublishCrl(record.number, record.published_at or now)])
        self._full, self._delta, self._record, self._issued_at = full, delta, record, began
        _log_issued(record, counts, full, delta, 1000 * (self._env.now() - began))
        if record.scheduled:
            entries.rebase(record)
            await self._forget(record)
        if failure is not None:
            raise failure
        return record

    def _this_update(self, now: int, latest: CrlRecord | None) -> int:
        """A while ago, for those whose clocks are slow, but not before that of the last CRL: nobody would take it."""
        backdated = now - min(self._config.backdate, self._config.interval // 2)
        return max(backdated, latest.this_update) if latest is not None and latest.this_update <= now else backdated

    async def _forget(self, record: CrlRecord) -> None:
        try:
            await self._store.forget_crls(record.this_update)
        except StoreError as error:  # this one is out; the next one tries it again
            _log.warning("crl: what was recorded of old ones stays: %s", error)

    async def _current_entries(self, publication: Publication) -> CrlEntries:
        """The entries with all changes until now; read anew unless those at hand go with the last scheduled CRL."""
        if self._told < 0:
            self._told = publication.last_change if publication.latest is None else publication.latest.last_change
        entries = self._entries
        if entries is None or _number(entries.scheduled) != _number(publication.scheduled):
            entries = await self._read_entries(publication)
        full_page = True
        while full_page:
            changes = await self._store.status_changes(after=entries.last_change, limit=_PAGE)
            entries.apply(changes)
            self._tell_of_commands(changes)
            full_page = len(changes) == _PAGE
            await asyncio.sleep(0)
        self._entries = entries
        return entries

    def _tell_of_commands(self, changes: Sequence[StatusChange]) -> None:
        """The audit log has what an operator's command has changed as soon as it is seen here, once."""
        for change in changes:
            if change.id > self._told and change.by.startswith(OPERATOR):
                audit.status_changed(change)
        self._told = max([self._told, *(change.id for change in changes)])

    async def _read_entries(self, publication: Publication) -> CrlEntries:
        """What the store says is revoked or on hold; the changes after `last_change` are still to be applied.

        An entry stays until it was on one scheduled CRL that was issued after the certificate's notAfter (RFC 5280
        section 3.3). What changes while the pages are read is in the changes that are applied afterwards; those since
        the last scheduled CRL make the delta CRL.
        """
        last = publication.scheduled
        entries = CrlEntries(last, publication.last_change if last is None else last.last_change)
        expiring_from = 0 if last is None else min(last.this_update, int(self._env.now()))
        after = b""
        while rows := await self._store.revoked(expiring_from=expiring_from, limit=_PAGE, after=after):
            entries.add(rows)
            after = rows[-1].serial
            await asyncio.sleep(0)
        return entries

    async def _sign(self, record: CrlRecord, entries: CrlEntries) -> tuple[bytes, bytes | None]:
        template = self._template
        try:
            full = await self._signed(len(entries.full), lambda: template.full(record, entries.full.values()))
            if record.base is None:
                return full, None
            changed = entries.delta if record.base < record.number else {}
            delta = await self._signed(len(changed), lambda: template.delta(record, changed.values()))
        except CmpError as error:
            reason = error.detail or error.text
            raise PublishError(f"crl: the CA's key does not sign ({reason}); look after the key") from error
        return full, delta

    async def _signed(self, count: int, make: Callable[[], bytes]) -> bytes:
        return await self._ca.sign_tbs(await self._offload(make) if count > _LARGE else make())

    # --- files ------------------------------------------------------------------------------------------------------

    async def _write_files(self, number: int, full: bytes, delta: bytes | None) -> FilesError | None:
        """Write the files; returns why that cannot be done."""
        files = self._files
        if files is None:
            return None
        self._is_unwritten = True
        try:
            await self._offload(lambda: files.write(number, full, delta))
        except FilesError as error:
            return error
        self._is_unwritten = False
        self._file_failures.clear()
        return None

    async def _write_again(self) -> None:
        """Write what is out."""
        async with self._issuing:
            if self._record is None or self._full is None:
                return
            if failure := await self._write_files(self._record.number, self._full, self._delta):
                raise failure
            _log.info("crl: number=%d is written now", self._record.number)

    async def _look_at_files(self, publication: Publication) -> bytes | None:
        """Learn from the full CRL there which ones others may have; returns its octets if it is this CA's."""
        self._seen, files = 0, self._files
        if files is None:
            return None
        await self._offload(files.remove_leftovers)
        octets = await self._offload(lambda: files.read(FULL_NAME))
        if octets is None:
            return None
        try:
            head = read_head(octets)
        except DerError as error:
            _log.info("crl: %s is made anew (%s)", FULL_NAME, error)
            return None
        if head.issuer != self._ca.name:
            return None
        self._seen = head.number
        if head.number > _number(publication.latest) or head.scope != self._template.scope:
            self._unknown_up_to = max(self._unknown_up_to, head.number)
        return octets

    async def _load(self, publication: Publication, full: bytes | None) -> bool:
        """Whether the files are the newest CRLs, complete, up to date, and as they would be made now; then they are the
        ones here too.
        """
        files, latest, config = self._files, publication.latest, self._config
        if files is None or full is None or latest is None or self._is_due(publication):
            return False
        if (latest.last_change, latest.last_order) != (publication.last_change, publication.last_order):
            return False
        if not latest.this_update <= self._env.now() < latest.next_update:
            return False
        configured = (config.interval + config.overlap, config.delta)
        if (latest.next_update - latest.this_update, latest.base is not None) != configured:
            return False
        delta = None if latest.base is None else await self._offload(lambda: files.read(DELTA_NAME))
        if not self._template.has_made(latest, full, delta):
            _log.info("crl: the files are made anew (they are others)")
            return False
        self._full, self._delta = full, delta
        self._record, self._issued_at = latest, float(latest.published_at or latest.this_update)
        return True


def _number(record: CrlRecord | None) -> int:
    return 0 if record is None else record.number


def _log_issued(
    record: CrlRecord, counts: tuple[int, int], full: bytes, delta: bytes | None, milliseconds: float
) -> None:
    _log.info(
        "crl issued number=%d scheduled=%s entries=%d delta_entries=%s octets=%d delta_octets=%d ms=%.0f",
        record.number,
        str(record.scheduled).lower(),
        counts[0],
        "-" if delta is None else counts[1],
        len(full),
        len(delta or b""),
        milliseconds,
    )
