"""The parts of a transfer between its threads: what is to be fetched, what waits for its turn, which buffers are free.

All of it stands on one :class:`Board` behind one lock. A file's bytes are hashed in order, by the threads that fetch
them: whoever has the part at the file's frontier hashes it as it comes; a part that is fetched ahead of its turn waits
here in its buffer for the one who brings the frontier to it. So threads are given parts at a frontier first, of files
that others work on or of new ones, and help with a file that has its thread only when nothing else is left.

Why it cannot hang: of a file, the lowest part left is claimed first. So what a waiting part waits for was claimed with
a buffer of its own, or is on disk and needs none. :meth:`Board.end` wakes everybody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from lading.cache.partial import PartialFile, Segment, count_bytes, segments
from lading.cache.store import FileHasher
from lading.model.manifest import FileEntry

_NO_BUFFER = memoryview(b"")


class Ended(Exception):
    """The transfer ended, well or not; a thread that meets this just returns."""


class Abandoned(Exception):
    """The attempt was replaced by another one; what belongs to it is dropped."""


@dataclass(eq=False, slots=True)
class Attempt:
    """One try at one file, cut into segments, whose first ``hashed_bytes`` bytes ``hasher`` has seen.

    Only the thread that has the part at that frontier moves it. A stream is read from its first byte to its last over
    one connection, because its source offers nothing else. ``counted_bytes`` are those reported as here, of whole
    segments. ``tries_left`` counts further attempts from zero, should the bytes fetched be wrong.
    """

    file: FileEntry
    partial: PartialFile
    hasher: FileHasher
    segments: tuple[Segment, ...]
    tries_left: int
    is_stream: bool = False
    is_abandoned: bool = False
    is_judged: bool = False
    counted_bytes: int = 0
    hashed_bytes: int = 0
    _to_fetch: deque[Segment] = field(init=False)
    _on_disk: deque[Segment] = field(init=False)

    def __post_init__(self) -> None:
        self._to_fetch = deque(each for each in self.segments if not each.on_disk)
        self._on_disk = deque(each for each in self.segments if each.on_disk)

    @classmethod
    def ranged(
        cls, file: FileEntry, partial: PartialFile, hasher: FileHasher, part_bytes: int, *, tries_left: int
    ) -> Attempt:
        """A try in parts, going on from what ``partial`` has. An empty file is one segment, of which nothing lacks."""
        cut = segments(file.size_bytes, partial.done, part_bytes) or (Segment(0, 0, on_disk=True),)
        return cls(file, partial, hasher, cut, tries_left, counted_bytes=count_bytes(partial.done))

    @classmethod
    def stream(cls, file: FileEntry, partial: PartialFile, hasher: FileHasher, *, tries_left: int) -> Attempt:
        """A try in one piece, from zero."""
        cut = segments(file.size_bytes, (), max(1, file.size_bytes))
        return cls(file, partial, hasher, cut, tries_left, is_stream=True)

    @property
    def is_resumed(self) -> bool:
        """Whether some of its bytes come from an earlier run."""
        return bool(self.partial.done) and not self.is_stream

    @property
    def is_claimed(self) -> bool:
        """Whether there is nothing left for a thread to begin."""
        return not self._to_fetch and not self._on_disk

    def claim(self, *, at_frontier: bool, may_fetch: bool) -> Segment | None:
        """The lowest segment that may be begun now; with ``at_frontier``, only one that is hashed as it comes."""
        if self._on_disk and self._on_disk[0].start == self.hashed_bytes:
            return self._on_disk.popleft()
        if self._to_fetch and may_fetch and (not at_frontier or self._to_fetch[0].start == self.hashed_bytes):
            return self._to_fetch.popleft()
        return None


@dataclass(eq=False, slots=True)
class Part:
    """A segment on its way, ``position`` bytes of which are on disk, and the buffer it goes through."""

    attempt: Attempt
    segment: Segment
    buffer: memoryview
    position: int = 0

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
        return self.buffer if self.attempt.is_stream else self.buffer[position : self.segment.size_bytes]

    def advance(self, data: memoryview) -> None:
        """``data``, read into :meth:`room`, is on disk; hash it, and what of the part came before, if in turn."""
        self.position += len(data)
        if self.attempt.is_stream:
            self.attempt.hasher.update(data)
            self.attempt.hashed_bytes += len(data)
        else:
            self.hash()

    def hash(self) -> None:
        """Hash what has come of the part, if all before it was; not for streams, which are longer than a buffer."""
        begin = self.attempt.hashed_bytes - self.segment.start
        if 0 <= begin < self.position:
            self.attempt.hasher.update(self.buffer[begin : self.position])
            self.attempt.hashed_bytes = self.offset


class Board:
    """The meeting point of the threads of one transfer. Every method may be called from any of them."""

    def __init__(self, attempts: Iterable[Attempt], buffers: Iterable[memoryview], connections: int) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.fetched_bytes = 0
        self._changed = threading.Condition()
        self._free = list(buffers)
        self._connections = connections
        self._waiting = deque(attempts)  # files that nobody works on
        self._begun: list[Attempt] = []  # others of which something is left to claim
        self._unfinished = len(self._waiting)
        self._fetched: dict[tuple[Attempt, int], Part] = {}  # ahead of their turn, by their start

    def replace(self, attempt: Attempt, successor: Attempt) -> bool:
        """Drop what is left of ``attempt`` and queue ``successor``; False when somebody did that before."""
        with self._changed:
            if attempt.is_abandoned:
                return False
            attempt.is_abandoned = True
            self._begun = [each for each in self._begun if each is not attempt]
            for key in [key for key in self._fetched if key[0] is attempt]:
                self._release(self._fetched.pop(key))
            self._waiting.append(successor)
            self._changed.notify_all()
            return True

    def use(self, connections: int) -> None:
        """Let so many threads claim parts from now on, those with the lowest numbers."""
        with self._changed:
            if connections != self._connections:
                self._connections = connections
                self._changed.notify_all()

    def claim(self, number: int) -> Part:
        """A part to fetch, with a buffer for it, or to read from disk, for the thread of this number; waits for one."""
        with self._changed:
            while number >= self._connections or not (part := self._next()):
                self._wait()
            return part

    def put(self, part: Part) -> bool:
        """The part is on disk; False when its attempt was abandoned meanwhile. Then :meth:`next_in_turn` is due."""
        attempt, segment = part.attempt, part.segment
        with self._changed:
            if not segment.on_disk:
                self.fetched_bytes += segment.size_bytes
            if attempt.is_abandoned:
                self._release(part)
                return False
            if not segment.on_disk:
                attempt.counted_bytes += segment.size_bytes
            if attempt.hashed_bytes < segment.end:
                self._fetched[attempt, segment.start] = part
            else:
                self._release(part)
            return True

    def next_in_turn(self, attempt: Attempt) -> Part | None:
        """The fetched part at the frontier, for the caller to hash and give back; None where there is none, or yet."""
        with self._changed:
            part = self._fetched.pop((attempt, attempt.hashed_bytes), None)
            if part is None:
                self._changed.notify_all()  # what is on disk there may be claimed now
            return part

    def give_back(self, part: Part) -> None:
        """The part was hashed or dropped; its buffer is free."""
        with self._changed:
            self._release(part)
            self._changed.notify_all()

    def judge(self, attempt: Attempt) -> bool:
        """Whether the caller, and nobody else, is to judge the bytes of the file: the hasher has seen them all."""
        with self._changed:
            is_due = attempt.hashed_bytes == attempt.file.size_bytes and not attempt.is_judged
            attempt.is_judged |= is_due
            return is_due

    def finish(self) -> bool:
        """One more file is whole and right; whether that was the last."""
        with self._changed:
            self._unfinished -= 1
            return not self._unfinished

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

    def _next(self) -> Part | None:
        return self._of_begun(at_frontier=True) or self._of_waiting() or self._of_begun(at_frontier=False)

    def _of_waiting(self) -> Part | None:
        if not self._waiting or not self._free:
            return None
        self._begun.append(self._waiting.popleft())
        return self._of_begun(at_frontier=True)

    def _of_begun(self, *, at_frontier: bool) -> Part | None:
        for attempt in self._begun:
            segment = attempt.claim(at_frontier=at_frontier, may_fetch=bool(self._free))
            if segment:
                if attempt.is_claimed:
                    self._begun.remove(attempt)
                return Part(attempt, segment, _NO_BUFFER if segment.on_disk else self._free.pop())
        return None

    def _release(self, part: Part) -> None:
        if not part.segment.on_disk:
            self._free.append(part.buffer)

    def _wait(self) -> None:
        self.check()
        self._changed.wait()
        self.check()
