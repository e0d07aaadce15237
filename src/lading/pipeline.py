"""Many files through few buffers: parallel ranges, written where they belong, hashed in order, committed when right.

The engine under :mod:`lading.transfer`; it knows sources, partial files and the store, not plans, locks or the index.
``connections`` threads fetch parts and hash them, one more commits blobs and keeps the journals. They meet on the
:class:`~lading.parts.Board`; an error in any of them ends all and is raised in the caller's.
"""

from __future__ import annotations

import functools
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lading.cache.disk import READ_BYTES, Check
from lading.cache.partial import PartialFile
from lading.cache.store import BlobStore, FileHasher
from lading.digest import Digest
from lading.errors import DigestMismatch, LadingError, MachineError, RateLimited, SizeMismatch, SourceUnreachable
from lading.events import BlobVerified, BytesFetched, Note, Report, RetryScheduled
from lading.model.manifest import FileEntry
from lading.pace import Climb, Throttle
from lading.parts import Abandoned, Attempt, Board, Ended, Part
from lading.sources.interface import PassingFault, RangeIgnored, RangeReader, Source
from lading.units import MIB, format_bytes, format_seconds

Verified = Callable[[FileEntry, Digest], None]
"""Called once for each file, when its blob is in the store, with its SHA-256; always from the same thread."""

_POLL_SECONDS = 0.1  # how soon a cancellation is seen
_GRACE_SECONDS = 0.3  # how long threads that are told to end may take before they are left behind
_BUFFERED_BYTES = 64 * MIB  # of part buffers at most, where that leaves each connection one
_LEAST_PART_BYTES = 1 * MIB
_PARTS_PER_CONNECTION = 4
_FIRST_READ_BYTES = 64 << 10
_LEAST_READ_BYTES = 4 << 10
_SLOW_READ_SECONDS = 0.2  # a read that takes longer is asked for less next time, so that stopping stays quick


class TransferCancelled(LadingError):
    """The caller asked the transfer to stop. What was fetched stays and is continued next time."""

    def __init__(self) -> None:
        super().__init__("the transfer was stopped before all files were here")


def unless(cancelled: threading.Event) -> Check:
    """A check that raises TransferCancelled once the event is set."""

    def check() -> None:
        if cancelled.is_set():
            raise TransferCancelled

    return check


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How a transfer goes about it. Sizes in bytes, times in seconds; the last three are the clock and the dice."""

    connections: int = 4
    most_connections: int | None = None  # up to how many as long as each brings more; None for no more
    part_bytes: int = 8 * MIB
    run_bytes: int = 128 * MIB  # of parts for one request; nobody can help with them
    max_bytes_per_second: int | None = None
    retries: int = 8  # tries of one part without a new byte before giving up
    first_delay_seconds: float = 0.5
    longest_delay_seconds: float = 30.0
    patience_seconds: float = 300.0  # the longest Retry-After that is waited for
    journal_seconds: float = 1.0
    lock_wait_seconds: float = 6 * 3600.0
    may_fetch: bool = True  # else what is not here is waited for while another process fetches it
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[threading.Event, float], object] = threading.Event.wait
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if min(self.connections, self.part_bytes, self.most_connections or 1, self.max_bytes_per_second or 1) < 1:
            raise ValueError("a transfer needs at least one connection and one byte per part")


def back_off_seconds(error: PassingFault, failures: int, options: TransferOptions) -> float | None:
    """How long to wait after so many failures in a row before the next try; None to give up.

    What the server asks for, else an exponential delay with full jitter.
    """
    asked = error.retry_after_seconds
    if failures > options.retries or (asked or 0.0) > options.patience_seconds:
        return None
    if asked is not None:
        return asked + options.first_delay_seconds * options.random()
    longest = min(options.first_delay_seconds * 2.0 ** (failures - 1), options.longest_delay_seconds)
    return longest * options.random()


class _ShortBody(PassingFault):
    """A body ended before its range did."""


class Pipeline:
    """The way of some files into the store. They are given with the paths of their partial files, in order."""

    def __init__(
        self,
        files: Iterable[tuple[FileEntry, Path]],
        source: Source,
        store: BlobStore,
        report: Report,
        options: TransferOptions,
    ) -> None:
        self._source = source
        self._store = store
        self._report = report
        self._options = options
        self._partials: list[PartialFile] = []
        self._to_commit: queue.SimpleQueue[tuple[Attempt, Digest] | None] = queue.SimpleQueue()
        files = list(files)
        self._part_bytes = _part_bytes(sum(file.size_bytes for file, _ in files), options)
        attempts = [self._attempt(file, path, tries_left=1) for file, path in files]
        self._climb = Climb(options.connections, self._most_connections)
        self._throttle = Throttle(options.max_bytes_per_second, options.clock)
        scratches = [memoryview(bytearray(READ_BYTES)) for _ in range(self._most_connections)]
        self._board = Board(attempts, self._buffers(attempts), scratches, self._climb.connections, options.run_bytes)
        if not attempts:
            self._to_commit.put(None)

    def run(self, check: Check, verified: Verified) -> int:
        """Bring every file into the store; the number of bytes fetched. To be called once.

        Raises what ``check`` does, which is called all the time, or the first error of any thread; then partial files
        and journals are left for another run. Threads that are stuck in a read are left behind, harmless.
        """
        fetching = [functools.partial(self._fetch_parts, number) for number in range(self._most_connections)]
        loops = [*fetching, lambda: self._keep(verified)]
        threads = [threading.Thread(target=self._guard, args=(loop,), name="lading", daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        try:
            while not self._board.stop.wait(_POLL_SECONDS):
                self._guard(check)
                self._board.use(self._climb.observe(self._board.fetched_bytes, self._options.clock()))
        finally:
            self._board.end(TransferCancelled())  # counts only where the caller's thread is being unwound
            self._to_commit.put(None)
            self._wind_up(threads)
        if self._board.error:
            raise self._board.error
        return self._board.fetched_bytes

    @property
    def _most_connections(self) -> int:
        return max(self._options.connections, self._options.most_connections or 0)

    def _attempt(self, file: FileEntry, path: Path, *, tries_left: int) -> Attempt:
        partial = PartialFile(path, file)
        self._partials.append(partial)
        return Attempt.ranged(file, partial, _hasher(file), self._part_bytes, tries_left=tries_left)

    def _buffers(self, attempts: list[Attempt]) -> list[memoryview]:
        longest = max((attempt.file.size_bytes for attempt in attempts), default=0)
        size_bytes = max(_LEAST_READ_BYTES, min(self._part_bytes, longest))
        most = self._most_connections
        count = max(most, min(2 * most, _BUFFERED_BYTES // size_bytes))
        return [memoryview(bytearray(size_bytes)) for _ in range(count)]

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Ended:
            pass
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread and raised there
            self._board.end(error)

    def _wind_up(self, threads: list[threading.Thread]) -> None:
        """Wait shortly for the threads, leave journals behind, close files once nobody can use them."""
        deadline = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if not threads[-1].is_alive():
            self._save_journals(sync=False)
        if any(thread.is_alive() for thread in threads):
            threading.Thread(target=self._close_later, args=(threads,), name="lading-close", daemon=True).start()
        else:
            self._close_files()

    def _close_later(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        self._close_files()

    def _save_journals(self, *, sync: bool) -> None:
        for partial in self._partials:
            with suppress(MachineError):  # a full disk has its own error; without a journal the file starts anew
                partial.save(sync=sync)

    def _close_files(self) -> None:
        for partial in self._partials:
            partial.close()

    # Fetching and hashing: one loop per connection.

    def _fetch_parts(self, number: int) -> None:
        while True:
            part = self._board.claim(number)
            part.attempt.partial.open()
            try:
                self._fetch_or_read(part)
            except RangeIgnored:
                if part.attempt.is_stream:
                    raise
                self._drop(part)
                self._fetch_as_stream(part.attempt)
            except Abandoned:
                self._drop(part)

    def _fetch_or_read(self, part: Part) -> None:
        """Bring the part, hash what is in turn by then, and judge the file when that was all of it."""
        attempt = part.attempt
        if part.segment.on_disk and not self._hash_from_disk(part):
            self._throw_away(attempt, None)
            return
        if not part.segment.on_disk:
            self._fetch(part)
        if not self._board.put(part):
            self._report(BytesFetched(attempt.file.path, -part.position))
        while ready := self._board.next_in_turn(attempt):
            ready.hash()
            self._board.give_back(ready)
        if self._board.judge(attempt):
            self._judge(attempt)

    def _drop(self, part: Part) -> None:
        self._board.give_back(part)
        if part.position:
            self._report(BytesFetched(part.attempt.file.path, -part.position))

    def _fetch_as_stream(self, attempt: Attempt) -> None:
        """Start the file anew over one connection, writing over what is on disk: its server ignores byte ranges."""
        file = attempt.file
        successor = Attempt.stream(file, attempt.partial, _hasher(file), tries_left=attempt.tries_left)
        if self._board.replace(attempt, successor):
            self._report(Note(f"{file.path}: the server ignores byte ranges; reading it over one connection"))
            self._report(BytesFetched(file.path, -attempt.counted_bytes))

    def _fetch(self, part: Part) -> None:
        failures = 0
        while not part.is_fetched:
            before = part.position
            start = 0 if part.attempt.is_stream else part.offset
            try:
                with self._source.open_range(part.attempt.file, start, part.segment.end) as reader:
                    self._read(part, reader, start - part.segment.start)
            except PassingFault as error:
                failures = 1 if part.position > before else failures + 1
                self._back_off(part, error, failures)

    def _read(self, part: Part, reader: RangeReader, position: int) -> None:
        """Read the part to its end; ``position`` is where in it the reader stands, at or before ``part.position``."""
        clock = self._options.clock
        most = min(READ_BYTES, self._throttle.longest_read or READ_BYTES)
        wanted = min(_FIRST_READ_BYTES, most)
        while not part.is_fetched:
            self._board.check(part.attempt)
            began = clock()
            room = part.room(position)[:wanted]
            count = reader.readinto(room)
            if not count:
                raise _ShortBody(f"the body ended {part.segment.end - part.offset} bytes early")
            self._write(part, room[min(part.position - position, count) : count])
            position += count
            is_slow = clock() - began > _SLOW_READ_SECONDS
            wanted = min(max(wanted // 2, _LEAST_READ_BYTES) if is_slow else wanted * 2, most)
            if delay := self._throttle.delay_seconds(count):
                self._options.wait(self._board.stop, delay)

    def _write(self, part: Part, data: memoryview) -> None:
        if not data:
            return  # a stream that was broken off is read over up to where it stood
        part.attempt.partial.write(data, part.offset)
        part.advance(data)
        self._board.count(len(data))
        self._report(BytesFetched(part.attempt.file.path, len(data)))

    def _back_off(self, part: Part, error: PassingFault, failures: int) -> None:
        """Wait before the next try, or raise."""
        options = self._options
        delay = back_off_seconds(error, failures, options)
        if delay is None:
            raise _gave_up(part, error, failures) from error
        self._report(RetryScheduled(part.attempt.file.path, str(error), delay))
        options.wait(self._board.stop, delay)
        self._board.check(part.attempt)

    def _hash_from_disk(self, part: Part) -> bool:
        """Hash a segment that an earlier run left; False where the disk lost a piece of it."""
        attempt, end = part.attempt, part.segment.end
        while attempt.hashed_bytes < end:
            self._board.check(attempt)
            count = attempt.partial.read_into(part.buffer[: end - attempt.hashed_bytes], attempt.hashed_bytes)
            if not count:
                return False
            attempt.hasher.update(part.buffer[:count])
            attempt.hashed_bytes += count
        return True

    def _judge(self, attempt: Attempt) -> None:
        """Pass the file on when its bytes are right; else throw them away."""
        if attempt.hasher.keeps_promise:
            self._to_commit.put((attempt, attempt.hasher.sha256))
            if self._board.finish():
                self._to_commit.put(None)
        else:
            self._throw_away(attempt, attempt.hasher)

    def _throw_away(self, attempt: Attempt, hasher: FileHasher | None) -> None:
        """Be done with wrong bytes, fetch the file again or raise; no hasher where they could not be read back."""
        file, tries_left = attempt.file, attempt.tries_left if attempt.is_resumed else attempt.tries_left - 1
        attempt.partial.discard()
        if tries_left < 0:
            raise _wrong_bytes(file, hasher)
        origin = "what an earlier run left of it" if attempt.is_resumed else "what the source sent"
        self._report(Note(f"{file.path}: {origin} is not the promised file; fetching it again", "WARNING"))
        self._board.replace(attempt, self._attempt(file, attempt.partial.path, tries_left=tries_left))
        self._report(BytesFetched(file.path, -attempt.counted_bytes))

    # Committing and journals: one loop.

    def _keep(self, verified: Verified) -> None:
        clock, every = self._options.clock, self._options.journal_seconds
        due = clock() + every
        while True:
            with suppress(queue.Empty):
                job = self._to_commit.get(timeout=max(0.0, due - clock()))
                self._board.check()
                if job is None:
                    break
                self._commit(*job, verified)
            if clock() >= due:
                self._save_journals(sync=True)
                due = clock() + every
        self._board.end()

    def _commit(self, attempt: Attempt, digest: Digest, verified: Verified) -> None:
        partial, file = attempt.partial, attempt.file
        with partial.finished() as path:
            self._store.seal(path)
            self._store.commit(path, digest, file.size_bytes)
        partial.forget_journal()
        verified(file, digest)
        self._report(BlobVerified(file.path, file.size_bytes))


def _hasher(file: FileEntry) -> FileHasher:
    return FileHasher(file.size_bytes, file.digest)


def _part_bytes(total_bytes: int, options: TransferOptions) -> int:
    """The size of a part: as wanted, but small enough for a short download to have work for every connection."""
    if options.connections == 1:
        return options.part_bytes
    share = total_bytes // (_PARTS_PER_CONNECTION * options.connections)
    return min(options.part_bytes, max(_LEAST_PART_BYTES, share))


def _gave_up(part: Part, error: PassingFault, tries: int) -> LadingError:
    file = part.attempt.file
    if isinstance(error, _ShortBody):
        return SizeMismatch(
            f"{file.path}: the source's bytes end at {part.offset}, {file.size_bytes} were listed",
            remedy="list the model again; if that does not help, the file at the source is damaged",
        )
    asked = error.retry_after_seconds
    if asked is not None or error.status == 429:
        when = f"in {format_seconds(asked)}" if asked is not None else "later"
        return RateLimited(
            f"{file.path}: the source asks to come back {when}: {error}",
            remedy="run the same command then: it continues where this one stopped",
        )
    return SourceUnreachable(
        f"{file.path}: no new byte in {tries} tries: {error}",
        remedy=error.remedy or "run the same command again: it continues where this one stopped",
    )


def _wrong_bytes(file: FileEntry, hasher: FileHasher | None) -> DigestMismatch:
    found = f"have {hasher.found}" if hasher else "could not be read back"
    return DigestMismatch(
        f"{file.path}: the bytes of {file.uri} {found}, the source promises {file.digest}; "
        f"{format_bytes(file.size_bytes)} were fetched twice and thrown away",
        remedy="something between here and the source (a proxy, a mirror) or the source itself alters the file",
    )
