"""Many files into a bucket over few connections: whole or in parts, hashed on their way, looked at in the end.

The engine under :mod:`lading.mirror`; it knows files, a destination and how patient to be. ``connections`` threads
share all work. One that has a large file reads it once, in order, hashes it, and gives the parts to all; while too many
wait it sends some itself, so that memory holds few of them. An error in any thread ends all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TypeVar

from lading.cache.disk import Check, machine_errors
from lading.digest import Digest, new_hasher
from lading.errors import ContentError, DigestMismatch, LadingError, RateLimited, SourceUnreachable, UsageError
from lading.events import BytesSent, FileStored, Note, Report, RetryScheduled
from lading.pace import Throttle
from lading.pipeline import TransferCancelled, TransferOptions, back_off_seconds
from lading.sources.interface import PassingFault
from lading.sources.upload import Body, Destination, Held, Part, PartsNotSupported, Upload, UploadGone
from lading.sources.upload_wire import part_bytes

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 0.3
_MOST_WAITING = 2  # parts in memory that nobody sends yet
_TRIES_OF_A_FILE = 3  # of which all but the first are for uploads that somebody else ended
_Got = TypeVar("_Got")


class _Ended(Exception):
    """All threads are to end."""


@dataclass(frozen=True, slots=True)
class FileUpload:
    """A file to be stored under ``name``; ``path`` is how people are told of it."""

    path: str
    name: str
    blob: Path
    size_bytes: int
    sha256: Digest


class _Parts:
    """The parts of a file on their way."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.kept = {each.number: each for each in upload.parts}
        self.stored: dict[int, Part] = {}
        self.gone: UploadGone | None = None


class Uploading:
    """The way of some files into a bucket."""

    def __init__(
        self,
        files: Iterable[FileUpload],
        destination: Destination,
        report: Report,
        options: TransferOptions,
        usual_part_bytes: int,
    ) -> None:
        self._files = deque(files)
        self._left = len(self._files)
        self._destination = destination
        self._report = report
        self._options = options
        self._part_bytes = usual_part_bytes
        self._throttle = Throttle(options.max_bytes_per_second, options.clock)
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._sent_bytes = 0

    def run(self, check: Check) -> int:
        """Store every file; the number of bytes that were sent. To be called once.

        Raises what ``check`` does, which is called all the time, or the first error of any thread. Threads that are
        stuck are left behind, harmless; so are unfinished uploads, for another run.
        """
        count = self._options.most_connections or self._options.connections
        threads = [threading.Thread(target=self._guard, name="lading-upload", daemon=True) for _ in range(count)]
        if not self._left:
            return 0
        for thread in threads:
            thread.start()
        try:
            while not self._stop.wait(_POLL_SECONDS):
                check()
        finally:
            self._end(TransferCancelled())  # counts only where this thread is being unwound
            for thread in threads:
                thread.join(_GRACE_SECONDS)
        if self._error:
            raise self._error
        return self._sent_bytes

    def _end(self, error: BaseException | None = None) -> None:
        """End all threads; the first call says why."""
        with self._changed:
            if not self._stop.is_set():
                self._error = error
                self._stop.set()
            self._changed.notify_all()

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Ended

    # Sharing the work: every thread sends parts that wait, and takes the next file where none does.

    def _guard(self) -> None:
        try:
            while True:
                self._next()()
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001  # carried to the caller's thread and raised there
            self._end(error)

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while not self._stop.is_set():
                if self._waiting:
                    return self._waiting.popleft()
                if self._files:
                    return partial(self._upload, self._files.popleft())
                self._changed.wait()
        raise _Ended

    def _offer(self, job: Callable[[], None]) -> None:
        """Have a part sent, by this thread if others have enough to do."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()
        while len(self._waiting) > _MOST_WAITING:
            self._help()

    def _help(self) -> None:
        """Send a part that waits; wait a moment for other threads where none does."""
        self._check()
        with self._changed:
            job = self._waiting.popleft() if self._waiting else None
            if job is None:
                self._changed.wait(_POLL_SECONDS)
        if job:
            job()

    # One file.

    def _upload(self, file: FileUpload) -> None:
        for tries_left in reversed(range(_TRIES_OF_A_FILE)):
            try:
                self._send(file)
                break
            except UploadGone:
                held = self._patiently(file, lambda: self._destination.look_at(file.name))
                if held and difference(held, file.size_bytes, (file.sha256,)) is None:
                    break  # another mirror was faster, or the answer to our completion was lost
                if not tries_left:
                    raise
                self._report(Note(f"{file.path}: its upload was ended by somebody else; starting anew", "WARNING"))
        self._report(FileStored(file.path, file.size_bytes))
        with self._changed:
            self._left -= 1
            is_last = not self._left
        if is_last:
            self._end()

    def _send(self, file: FileUpload) -> None:
        if file.size_bytes <= self._part_bytes:
            with machine_errors(file.blob):
                data = file.blob.read_bytes()
            self._send_whole(file, data)
            return
        try:
            self._send_in_parts(file)
        except PartsNotSupported as error:
            self._report(Note(f"{file.path}: {error.message}; sending it in one request", "WARNING"))
            with machine_errors(file.blob), file.blob.open("rb") as blob:
                mapped = mmap(blob.fileno(), 0, access=ACCESS_READ)
            self._send_whole(file, mapped)

    def _send_whole(self, file: FileUpload, data: bytes | mmap) -> None:
        with self._counting(file) as watch:
            body = Body(data, watch)
            if body.sha256 != file.sha256 or body.size_bytes != file.size_bytes:
                raise _damaged(file, body.sha256)
            self._patiently(file, lambda: self._destination.put(file.name, file.sha256, body), watch)
        self._verify(file, (file.sha256, body.md5))

    def _send_in_parts(self, file: FileUpload) -> None:
        destination = self._destination
        known = self._patiently(file, lambda: destination.unfinished(file.name))
        most = max(known, key=lambda upload: upload.sent_bytes, default=None)
        parts = _Parts(most or self._patiently(file, lambda: destination.begin(file.name, file.sha256)))
        digests = self._read(file, parts)
        count = -(-file.size_bytes // part_bytes(file.size_bytes, self._part_bytes))
        while len(parts.stored) < count:
            if parts.gone:
                raise parts.gone
            self._help()
        stored = [parts.stored[number] for number in range(1, count + 1)]
        self._patiently(file, lambda: destination.complete(parts.upload, stored))
        self._verify(file, digests)

    def _read(self, file: FileUpload, parts: _Parts) -> tuple[Digest, ...]:
        """Offer the parts of a file in order; the digests of the whole. Gives the upload up where they are wrong."""
        hashers = {name: new_hasher(name, file.size_bytes) for name in self._algorithms()}
        size, number = part_bytes(file.size_bytes, self._part_bytes), 0
        with machine_errors(file.blob), file.blob.open("rb", buffering=0) as blob:
            while not parts.gone and (data := _read_exactly(blob, size)):
                for hasher in hashers.values():
                    hasher.update(data)
                number += 1
                self._offer(partial(self._send_part, file, parts, number, data))
        digests = tuple(Digest(name, hasher.hexdigest()) for name, hasher in hashers.items())
        if not parts.gone and digests[0] != file.sha256:
            self._end(_damaged(file, digests[0]))
            with suppress(LadingError):
                self._destination.abandon(parts.upload)
            raise _Ended
        return digests

    def _algorithms(self) -> list[str]:
        """SHA-256, and what the destination tells of its own where that can be computed here."""
        own = self._destination.whole_digest
        try:
            return ["sha256"] if own is None or new_hasher(own, 0) is None else ["sha256", own]
        except UsageError:
            return ["sha256"]

    def _send_part(self, file: FileUpload, parts: _Parts, number: int, data: bytes) -> None:
        try:
            with self._counting(file) as watch:
                body = Body(data, watch)
                part = _kept(parts.kept.get(number), body)
                if part:
                    self._report(BytesSent(file.path, len(data)))
                else:
                    send = partial(self._destination.send_part, parts.upload, number, body)
                    part = self._patiently(file, send, watch)
        except UploadGone as gone:
            parts.gone = gone
        except (
            PartsNotSupported
        ) as error:  # as rclone says of a part in place of another: it has passed that on already
            with suppress(LadingError):
                self._destination.abandon(parts.upload)
            parts.gone = UploadGone(error.message, remedy=error.remedy)
        else:
            parts.stored[number] = part
        with self._changed:
            self._changed.notify_all()

    def _verify(self, file: FileUpload, digests: Collection[Digest]) -> None:
        """Look at the object; delete it and raise where it is not the file."""
        held = self._patiently(file, lambda: self._destination.look_at(file.name))
        wrong = difference(held, file.size_bytes, digests)
        if wrong is None:
            return
        if held:
            self._patiently(file, lambda: self._destination.remove(file.name))
        raise DigestMismatch(
            f"{file.path} was uploaded, but {self._destination.place} has it wrongly ({wrong})"
            f"{'; it was deleted there' if held else ''}",
            remedy="run the command again; if it stays so, something between here and the bucket alters what is stored",
        )

    def _patiently(self, file: FileUpload, ask: Callable[[], _Got], watch: _Watch | None = None) -> _Got:
        """What ``ask`` gets, asked again after passing faults."""
        failures = 0
        while True:
            self._check()
            try:
                return ask()
            except PassingFault as fault:
                failures += 1
                if watch:
                    watch.take_back()
                delay = back_off_seconds(fault, failures, self._options)
                if delay is None:
                    raise _gave_up(file, fault, failures) from fault
                self._report(RetryScheduled(file.path, str(fault), delay))
            self._options.wait(self._stop, delay)

    def going_out(self, path: str, count: int) -> None:
        """So many bytes of a file go out next; negative: they go out again."""
        self._check()
        self._report(BytesSent(path, count))
        if count > 0 and (delay := self._throttle.delay_seconds(count)):
            self._options.wait(self._stop, delay)

    @contextmanager
    def _counting(self, file: FileUpload) -> Iterator[_Watch]:
        """Counts what is sent of one body."""
        watch = _Watch(self, file.path)
        yield watch
        with self._changed:
            self._sent_bytes += watch.count


class _Watch:
    """Told of every piece of a body before it goes out: shows progress, keeps to the rate, ends when all ends."""

    def __init__(self, uploading: Uploading, path: str) -> None:
        self.count = 0
        self._uploading = uploading
        self._path = path

    def __call__(self, count: int) -> None:
        self._uploading.going_out(self._path, count)
        self.count += count

    def take_back(self) -> None:
        """The body goes out anew."""
        if self.count:
            self._uploading.going_out(self._path, -self.count)
        self.count = 0


def difference(held: Held | None, size_bytes: int, digests: Collection[Digest]) -> str | None:
    """What is wrong with an object that is to have these digests, as a clause; None where it is right. Pure.

    Every digest that it tells has to agree as far as it is known, and one has to be.
    """
    if held is None:
        return "it is not there"
    if held.size_bytes != size_bytes:
        return f"{held.size_bytes} bytes in place of {size_bytes}"
    known = {each.algorithm: each for each in digests}
    told = [each for each in held.digests if each.algorithm in known]
    wrong = [each for each in told if known[each.algorithm] != each]
    if wrong:
        return f"{wrong[0]} in place of {known[wrong[0].algorithm]}"
    return None if told else "no digest that could be compared"


def _kept(part: Part | None, body: Body) -> Part | None:
    """The part where it has the bytes of the body by the best digest that is told of it."""
    if part is None or part.size_bytes != body.size_bytes or not part.digests:
        return None
    told = part.digests[0]
    return part if told == (body.sha256 if told.algorithm == "sha256" else body.md5) else None


def _read_exactly(blob: FileIO, size: int) -> bytes:
    pieces = []
    while size and (piece := blob.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _damaged(file: FileUpload, found: Digest) -> ContentError:
    return DigestMismatch(
        f"{file.path}: its file in the cache is damaged: {file.blob} has {found}; it is not mirrored",
        remedy="`lading cache verify` removes it; then run the command again",
    )


def _gave_up(file: FileUpload, fault: PassingFault, tries: int) -> LadingError:
    kind = RateLimited if fault.status == 429 or fault.retry_after_seconds is not None else SourceUnreachable
    return kind(
        f"{file.path}: not stored in {tries} tries: {fault}",
        remedy=fault.remedy or "run the same command again: it continues where this one stopped",
    )
