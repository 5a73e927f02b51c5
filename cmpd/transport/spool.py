"""Files as a door (RFC 9483 section 6.4.1): NAME.pki dropped in a directory is answered by NAME.reply.pki.

One task looks at the directory, a few others work on what it found, the oldest first; the disk is waited for on threads
of their own. The order of the steps is what a crash cannot break: the reply is written to a file without a name that
counts, made durable, and renamed; only then the request is renamed to NAME.pki.done. Whatever comes before that last
step is done again by the next look, and the responder gives the same octets for the same request. What can have no
answer becomes NAME.pki.refused. Names are other people's: nothing but a regular file is ever opened, and a request that
takes the place of another one while that is worked on is kept.

A reply can be read by those who may list the directory, whatever the umask of the server is.
"""

import asyncio
import errno
import heapq
import itertools
import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from cmpd.env import Env
from cmpd.transport.base import Door, Origin, Responds, Waiting

log = logging.getLogger("cmpd.transport.spool")

SUFFIX: Final = ".pki"
REPLY: Final = ".reply.pki"
DONE: Final = ".done"
REFUSED: Final = ".refused"

_AT_ONCE: Final = 8
_THREADS: Final = 4
_PER_LOOK: Final = 256
_LONGEST_NAME: Final = 220  # octets: a suffix and a number behind it still make a name of a file
_UNFINISHED_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 30.0  # after something that is wrong with the directory, or a fault of the server
_STUCK_SECONDS: Final = 3600.0  # for a file that only its owner can rename
_GROWING_SECONDS: Final = 1.0
_MAX_POSTPONED: Final = 10_000
_LOOKING_SHARE: Final = 10  # of the time at least nine tenths are for something else than looking
_TEMPORARY: Final = ".cmpd-"
_CUT_SECONDS: Final = 1.0

_T = TypeVar("_T")
_Identity = tuple[int, int, int, int]
"""Device, inode, time of the last change, size: another file, or another content, has another one."""


class _Entry(NamedTuple):
    """A file that the directory lists; sorts by age."""

    mtime_ns: int
    name: str
    identity: _Identity
    regular: bool
    long: bool


class _Refusal(NamedTuple):
    """Why a file can have no answer, for the log."""

    reason: str


class Spool:
    """Answers requests that are dropped in `directory`, which must exist. Start and drain it once.

    `interval`: seconds from one look at the directory to the next. `max_message_octets`: longer files are refused.
    """

    addresses: tuple[tuple[str, int], ...] = ()
    connections = 0

    def __init__(
        self,
        responds: Responds,
        directory: Path,
        door: Door,
        *,
        interval: float,
        max_message_octets: int,
        env: Env,
    ) -> None:
        self._responds = responds
        self._directory = directory
        self._door = door
        self._interval = interval
        self._env = env
        self._files = _Files(directory, max_message_octets, env)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cmpd-spool")
        self._found: asyncio.Queue[_Entry | None] = asyncio.Queue(_AT_ONCE)
        self._busy: set[str] = set()
        self._postponed: dict[str, float] = {}  # name -> when it may be tried again
        self._trouble = ""  # what was said last of the directory
        self._trouble_until = 0.0
        self._progress = False  # since the last look
        self._looking = 0.0  # seconds that it took
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to look. OSError, which names the directory, if it is not there or cannot be used."""
        await self._on_thread(self._files.prepare)
        self._tasks = [asyncio.create_task(self._look_for_ever(), name="cmpd spool")]
        self._tasks += [asyncio.create_task(self._work_for_ever()) for _ in range(_AT_ONCE)]

    async def drain(self, seconds: float) -> None:
        """Begin no other file, finish those in hand for `seconds` at most, then leave them to the next start."""
        self._ending = True
        if self._tasks:
            looking, *working = self._tasks
            looking.cancel()
            await asyncio.wait([looking])
            while not self._found.empty():
                self._found.get_nowait()
            ends = [asyncio.create_task(self._found.put(None)) for _ in working]
            _, left = await asyncio.wait(working, timeout=seconds)
            if left:
                log.warning("drain: %d files of %s are left for the next start", len(left), self._directory)
                for task in (*left, *ends):
                    task.cancel()
                await asyncio.wait(left, timeout=_CUT_SECONDS)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # --- looking ----------------------------------------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            pause = max(self._interval, self._trouble_until - began)
            if not self._must_wait():
                try:
                    more = await self._look()
                except OSError as error:
                    self._directory_fails(error)
                else:
                    pause = 0.0 if more else max(self._interval, _LOOKING_SHARE * self._looking)
            await asyncio.sleep(pause)

    async def _look(self) -> bool:
        """Hand on what is there; True if there is more. Returns when the last file is about to be worked on."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._postponed = {name: until for name, until in self._postponed.items() if until > began}
        skipped = frozenset((*self._busy, *self._postponed))
        entries = await self._on_thread(lambda: self._files.oldest(skipped))
        self._looking = loop.time() - began
        self._progress = False
        for entry in entries:
            if self._must_wait():
                return False
            self._busy.add(entry.name)
            await self._found.put(entry)
        return len(entries) == _PER_LOOK and self._progress

    # --- working ----------------------------------------------------------------------------------------------------

    async def _work_for_ever(self) -> None:
        while not self._ending and (entry := await self._found.get()) is not None:
            try:
                if not self._must_wait():
                    await self._work_on(entry)
            except OSError as error:
                self._directory_fails(error)
            except Exception:
                log.exception("%s: it is tried again later", self._path(entry))
                self._postpone(entry.name, _PAUSE_SECONDS)
            finally:
                self._busy.discard(entry.name)

    async def _work_on(self, entry: _Entry) -> None:
        taken = await self._on_thread(lambda: self._files.take(entry))
        if taken is None:
            self._postpone(entry.name, _GROWING_SECONDS)
            return
        answer: bytes | Waiting | None = None
        if isinstance(taken, bytes):
            try:
                answer = await self._responds.respond(taken, Origin(f"file:{_shown(entry.name)}", self._door))
            except Exception:
                log.exception("%s: a fault of the server; it is tried again later", self._path(entry))
                self._postpone(entry.name, _PAUSE_SECONDS)
                return
            if isinstance(answer, Waiting):
                raise TypeError("want a PKIMessage, have Waiting at a door that does not poll")
            if answer is not None:
                octets = answer
                in_the_way = await self._on_thread(lambda: self._files.reply(entry.name, octets))
                if in_the_way:
                    log.error("%s: its reply cannot be put in place: %s", self._path(entry), in_the_way)
                    self._postpone(entry.name, _STUCK_SECONDS)
                    return
        suffix = REFUSED if isinstance(taken, _Refusal) else DONE
        try:
            await self._on_thread(lambda: self._files.set_aside(entry, suffix))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EBUSY):
                raise
            # in a directory with the sticky bit only the owner of a file may rename it
            log.error("%s: is dealt with, but cannot be renamed: %s", self._path(entry), error.strerror)
            self._postpone(entry.name, _STUCK_SECONDS)
        if isinstance(taken, _Refusal):
            log.warning("%s: refused: %s", self._path(entry), taken.reason)
        self._progress = True
        self._directory_works()

    # --- trouble ----------------------------------------------------------------------------------------------------

    def _path(self, entry: _Entry) -> str:
        return f"spool {self._directory}/{_shown(entry.name)}"

    def _must_wait(self) -> bool:
        return asyncio.get_running_loop().time() < self._trouble_until

    def _postpone(self, name: str, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._postponed[name] = now + seconds
        if len(self._postponed) >= _MAX_POSTPONED:
            self._trouble_until = now + _PAUSE_SECONDS

    def _directory_fails(self, error: OSError) -> None:
        self._trouble_until = asyncio.get_running_loop().time() + _PAUSE_SECONDS
        text = error.strerror or type(error).__name__
        if text != self._trouble:
            log.error("spool %s: %s; it is tried again every %.0f s", self._directory, text, _PAUSE_SECONDS)
        self._trouble = text

    def _directory_works(self) -> None:
        if self._trouble:
            log.warning("spool %s: it works again", self._directory)
        self._trouble = ""


# --- the disk --------------------------------------------------------------------------------------------------------


class _Files:
    """What is done with files. Every method waits for the disk: not for the event loop. All raise OSError."""

    def __init__(self, directory: Path, limit: int, env: Env) -> None:
        self._directory = directory
        self._limit = limit
        self._env = env

    def prepare(self) -> None:
        """See that the directory can be used, and remove what a process left that was killed while it wrote."""
        with os.scandir(self._directory) as entries:
            leftovers = [e.path for e in entries if e.name.startswith(_TEMPORARY) and e.is_file(follow_symlinks=False)]
        if not os.access(self._directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._directory))
        for path in leftovers:
            Path(path).unlink(missing_ok=True)

    def oldest(self, skipped: Collection[str]) -> list[_Entry]:
        """The files that wait, the oldest first, so many as one look takes."""
        with os.scandir(self._directory) as entries:
            return heapq.nsmallest(_PER_LOOK, self._candidates(entries, skipped))

    def _candidates(self, entries: "Iterator[os.DirEntry[str]]", skipped: Collection[str]) -> Iterator[_Entry]:
        for entry in entries:
            name = entry.name
            if not name.endswith(SUFFIX) or name.endswith(REPLY) or name.startswith(".") or name in skipped:
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            long = len(os.fsencode(name)) > _LONGEST_NAME
            yield _Entry(found.st_mtime_ns, name, _identity(found), stat.S_ISREG(found.st_mode), long)

    def take(self, entry: _Entry) -> bytes | _Refusal | None:
        """The octets of a request, or why it can have no answer, or None: not now, or not any more."""
        if not entry.regular:  # not even opened: that can hang, or do something
            return _Refusal("want a regular file")
        if entry.long:
            return _Refusal(f"want a name of at most {_LONGEST_NAME} octets")
        try:
            descriptor = os.open(
                self._directory / entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO):
                raise
            return None if self._is_young(entry.mtime_ns) else _Refusal(f"cannot be read: {error.strerror}")
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - it is open already
            found = os.fstat(descriptor)
            if _identity(found) != entry.identity or not stat.S_ISREG(found.st_mode):
                return None  # changed a moment ago: a later look sees what it is
            if found.st_size > self._limit:
                return _Refusal(f"want at most {self._limit} octets, have {found.st_size}")
            octets = _read_all(file.read, self._limit + 1)
        if len(octets) > self._limit or (is_incomplete(octets) and self._is_young(found.st_mtime_ns)):
            return None  # it grows
        return octets if octets else _Refusal("want a PKIMessage, have no octets")

    def _is_young(self, mtime_ns: int) -> bool:
        return abs(self._env.now() - mtime_ns / 1e9) < _UNFINISHED_SECONDS  # a clock may be a little ahead

    def reply(self, name: str, octets: bytes) -> str:
        """Put a reply in place: whole or not at all, and durable. Returns what is wrong with that place alone: what
        stands there is a directory, or somebody's in a directory with the sticky bit; else it is empty.
        """
        temporary = self._directory / f"{_TEMPORARY}{self._env.random(8).hex()}"
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with temporary.open("xb") as file:
                os.fchmod(file.fileno(), 0o600 | (os.fstat(descriptor).st_mode & 0o044))
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
            try:
                temporary.replace(self._directory / (name.removesuffix(SUFFIX) + REPLY))
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.EPERM, errno.EBUSY):
                    raise
                temporary.unlink()
                return os.strerror(error.errno)
            os.fsync(descriptor)
            return ""
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def set_aside(self, entry: _Entry, suffix: str) -> None:
        """Rename a request that is dealt with; what has this name already keeps it."""
        path = self._directory / entry.name
        stem = entry.name if not entry.long else f"{_cut(entry.name)}{SUFFIX}"
        target = self._directory / (stem + suffix)
        number = itertools.count(int(self._env.now() * 1000))
        while os.path.lexists(target):
            target = self._directory / f"{stem}{suffix}.{next(number)}"
        try:
            path.rename(target)
        except FileNotFoundError:  # its owner took it away
            return
        if _identity(target.lstat()) != entry.identity and not os.path.lexists(path):
            target.rename(path)  # another request has taken its place meanwhile


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _read_all(read: Callable[[int], bytes | None], limit: int) -> bytes:
    parts: list[bytes] = []
    while limit > 0 and (part := read(limit)):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def is_incomplete(octets: bytes) -> bool:
    """Whether these are the first octets of a longer DER SEQUENCE, or none."""
    if octets[:1] not in (b"", b"\x30"):
        return False
    if len(octets) < 2:
        return True
    count = octets[1] & 0x7F
    if octets[1] < 0x80:
        return len(octets) < 2 + count
    if not 1 <= count <= 4:
        return False
    return len(octets) < 2 + count or len(octets) < 2 + count + int.from_bytes(octets[2 : 2 + count], "big")


def _cut(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[: _LONGEST_NAME - len(SUFFIX)])


def _shown(name: str) -> str:
    """A name for the log: printable, on one line, and not too long."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
