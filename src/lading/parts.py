"""The parts of a transfer between its threads: what is to be fetched, what waits to be hashed, which buffers are free.

All of it stands on one :class:`Board` behind one lock. Why it cannot hang: a part is claimed together with a buffer,
always the lowest one left. So everything below an unclaimed part was claimed, with a buffer, and will be hashed and
give it back. An attempt that takes the place of a failed one is added at the end, because the parts after the failed
one may hold every buffer already. :meth:`Board.end` wakes everybody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from lading.cache.partial import PartialFile, Segment, count_bytes, segments
from lading.model.manifest import FileEntry


class Ended(Exception):
    """The transfer ended, well or not; a thread that meets this just returns."""


class Abandoned(Exception):
    """The attempt was replaced by another one; what belongs to it is dropped."""


@dataclass(eq=False, slots=True)
class Attempt:
    """One try at one file, cut into segments.

    A stream is read from its first byte to its last over one connection, because its source offers nothing else; it
    reaches the hasher by way of the disk, in ``streamed_bytes``. ``counted_bytes`` are those reported as here, of whole
    segments. ``tries_left`` counts further attempts from zero, should the bytes fetched be wrong.
    """

    file: FileEntry
    partial: PartialFile
    segments: tuple[Segment, ...]
    tries_left: int
    is_stream: bool = False
    is_abandoned: bool = False
    counted_bytes: int = 0
    streamed_bytes: int = 0

    @classmethod
    def ranged(cls, file: FileEntry, partial: PartialFile, part_bytes: int, *, tries_left: int) -> Attempt:
        """A try in parts, going on from what ``partial`` has."""
        cut = segments(file.size_bytes, partial.done, part_bytes)
        return cls(file, partial, cut, tries_left, counted_bytes=count_bytes(partial.done))

    @classmethod
    def stream(cls, file: FileEntry, partial: PartialFile, *, tries_left: int) -> Attempt:
        """A try in one piece, from zero."""
        return cls(file, partial, segments(file.size_bytes, (), max(1, file.size_bytes)), tries_left, is_stream=True)

    @property
    def is_resumed(self) -> bool:
        """Whether some of its bytes come from an earlier run."""
        return bool(self.partial.done) and not self.is_stream


@dataclass(eq=False, slots=True)
class Part:
    """A segment on its way, ``position`` bytes of which are on disk, and the buffer it goes through."""

    attempt: Attempt
    segment: Segment
    buffer: memoryview
    position: int = 0

    @property
    def view(self) -> memoryview:
        """The bytes of the segment; not for a stream, which is longer than its buffer."""
        return self.buffer[: self.segment.size_bytes]

    @property
    def is_fetched(self) -> bool:
        """Whether all of it is on disk."""
        return self.position == self.segment.size_bytes

    @property
    def offset(self) -> int:
        """Where in the file the next byte belongs."""
        return self.segment.start + self.position

    def room(self, position: int) -> memoryview:
        """Where to read the bytes that follow the first ``position`` ones of the segment."""
        return self.buffer if self.attempt.is_stream else self.view[position:]


class Board:
    """The meeting point of the threads of one transfer. Every method may be called from any of them."""

    def __init__(self, attempts: Iterable[Attempt], buffers: Iterable[memoryview], connections: int) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.fetched_bytes = 0
        self._changed = threading.Condition()
        self._free = list(buffers)
        self._connections = connections
        self._unclaimed: deque[tuple[Attempt, Segment]] = deque()
        self._unhashed: deque[Attempt] = deque()
        self._fetched: dict[tuple[Attempt, Segment], Part] = {}
        for attempt in attempts:
            self._queue(attempt)

    def replace(self, attempt: Attempt, successor: Attempt) -> bool:
        """Drop what is left of ``attempt`` and queue ``successor``; False when somebody did that before."""
        with self._changed:
            if attempt.is_abandoned:
                return False
            attempt.is_abandoned = True
            self._unclaimed = deque(each for each in self._unclaimed if each[0] is not attempt)
            for key in [key for key in self._fetched if key[0] is attempt]:
                self._free.append(self._fetched.pop(key).buffer)
            self._queue(successor)
            self._changed.notify_all()
            return True

    def use(self, connections: int) -> None:
        """Let so many threads claim parts from now on, those with the lowest numbers."""
        with self._changed:
            if connections != self._connections:
                self._connections = connections
                self._changed.notify_all()

    def claim(self, number: int) -> Part:
        """The lowest part left, with a buffer for it, for the thread of this number; waits for both."""
        with self._changed:
            while number >= self._connections or not (self._unclaimed and self._free):
                self._wait()
            attempt, segment = self._unclaimed.popleft()
            return Part(attempt, segment, self._free.pop())

    def advance(self, attempt: Attempt, streamed_bytes: int) -> None:
        """So much of a stream is on disk."""
        with self._changed:
            attempt.streamed_bytes = streamed_bytes
            self._changed.notify_all()

    def put(self, part: Part) -> bool:
        """The part is fetched and on disk; False when its attempt was abandoned meanwhile."""
        with self._changed:
            self.fetched_bytes += part.segment.size_bytes
            if part.attempt.is_abandoned or part.attempt.is_stream:
                self._free.append(part.buffer)
            else:
                self._fetched[part.attempt, part.segment] = part
            if not part.attempt.is_abandoned:
                part.attempt.counted_bytes += part.segment.size_bytes
            self._changed.notify_all()
            return not part.attempt.is_abandoned

    def give_back(self, part: Part) -> None:
        """The part was hashed or dropped; its buffer is free."""
        with self._changed:
            self._free.append(part.buffer)
            self._changed.notify_all()

    def next_to_hash(self) -> Attempt | None:
        """The attempt to hash next, or None when all were."""
        with self._changed:
            return self._unhashed.popleft() if self._unhashed else None

    def take(self, attempt: Attempt, segment: Segment) -> Part:
        """The part of this segment, once it is fetched. Raises :class:`Abandoned`."""
        with self._changed:
            while (attempt, segment) not in self._fetched:
                self._wait(attempt)
            return self._fetched.pop((attempt, segment))

    def wait_for_stream(self, attempt: Attempt, position: int) -> int:
        """How much of the stream is on disk, once that is more than ``position``."""
        with self._changed:
            while attempt.streamed_bytes <= position:
                self._wait(attempt)
            return attempt.streamed_bytes

    def end(self, error: BaseException | None = None) -> None:
        """Tell everybody to end. The first call decides whether that is an error."""
        with self._changed:
            if not self.stop.is_set():
                self.error = error
                self.stop.set()
            self._changed.notify_all()

    def check(self, attempt: Attempt | None = None) -> None:
        """Raise :class:`Abandoned` when the attempt was replaced, :class:`Ended` once everybody was told to end."""
        if attempt and attempt.is_abandoned:
            raise Abandoned
        if self.stop.is_set():
            raise Ended

    def _queue(self, attempt: Attempt) -> None:
        self._unhashed.append(attempt)
        self._unclaimed += ((attempt, segment) for segment in attempt.segments if not segment.on_disk)

    def _wait(self, attempt: Attempt | None = None) -> None:
        self.check(attempt)
        self._changed.wait()
        self.check(attempt)
