"""The parts of a transfer between its threads: what is to be fetched, what waits for its turn, which buffers are free.

All of it stands on one :class:`Board` behind one lock. A file's bytes are hashed in order, by the threads that fetch
them. Whoever has the part at the file's frontier hashes it as it comes, through the thread's own scratch; a part that
is fetched ahead of its turn stays in a buffer until somebody brings the frontier to it. So threads are given parts at a
frontier first, of files that were begun or of new ones, and help with a file that has its thread only when nothing else
is left. Parts at a frontier are given out several at a time, one request for all of them: no more than what threads
that help fetch meanwhile finds buffers, and toward the end fewer and fewer, so that all threads end together.

Why it cannot hang: of a file, the lowest part left is claimed first, and the one at the frontier needs no buffer. So
what a part in a buffer waits for is on its way or can be begun. :meth:`Board.end` wakes everybody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lading.cache.partial import PartialFile, Segment, count_bytes, segments
from lading.cache.store import FileHasher
from lading.model.manifest import FileEntry


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
    unclaimed_bytes: int = field(init=False)  # to be fetched, that no thread has begun

    def __post_init__(self) -> None:
        self._to_fetch = deque(each for each in self.segments if not each.on_disk)
        self.unclaimed_bytes = sum(each.size_bytes for each in self._to_fetch)
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

    def claim_at_frontier(self, most_bytes: int) -> Segment | None:
        """The segment that is hashed next, if nobody has it; with those after it that are to be fetched, up to a size.

        The first may be longer.
        """
        if self._on_disk and self._on_disk[0].start == self.hashed_bytes:
            return self._on_disk.popleft()
        if not self._to_fetch or self._to_fetch[0].start != self.hashed_bytes:
            return None
        run = self._to_fetch.popleft()
        while self._to_fetch and self._to_fetch[0].start == run.end and self._to_fetch[0].end <= run.start + most_bytes:
            run = Segment(run.start, self._to_fetch.popleft().end, on_disk=False)
        self.unclaimed_bytes -= run.size_bytes
        return run

    def claim_ahead(self) -> Segment | None:
        """The lowest segment to fetch that nobody has."""
        if not self._to_fetch:
            return None
        segment = self._to_fetch.popleft()
        self.unclaimed_bytes -= segment.size_bytes
        return segment


@dataclass(eq=False, slots=True)
class Part:
    """A segment on its way, ``position`` bytes of which are on disk, and the buffer it goes through.

    The buffer is as long as the segment; but where ``in_turn``, each read goes through the start of it and is hashed.
    """

    attempt: Attempt
    segment: Segment
    buffer: memoryview
    in_turn: bool
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
        return self.buffer if self.in_turn else self.buffer[position : self.segment.size_bytes]

    def advance(self, data: memoryview) -> None:
        """``data``, read into :meth:`room`, is on disk; hash it, and what of the part came before, if it is time."""
        self.position += len(data)
        if self.in_turn:
            self.attempt.hasher.update(data)
            self.attempt.hashed_bytes += len(data)
        else:
            self.hash()

    def hash(self) -> None:
        """Hash what has come of a part that was claimed ahead of its turn, if all before it was by now."""
        begin = self.attempt.hashed_bytes - self.segment.start
        if 0 <= begin < self.position:
            self.attempt.hasher.update(self.buffer[begin : self.position])
            self.attempt.hashed_bytes = self.offset


class Board:
    """The meeting point of the threads of one transfer. Every method may be called from any of them.

    ``buffers`` hold a part each; ``scratches``, one for each thread, what is read at once. Of parts that one request
    brings, there are ``run_bytes`` at most.
    """

    def __init__(
        self,
        attempts: Iterable[Attempt],
        buffers: Iterable[memoryview],
        scratches: Sequence[memoryview],
        connections: int,
        run_bytes: int,
    ) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.fetched_bytes = 0
        self._changed = threading.Condition()
        self._free = list(buffers)
        self._buffered_bytes = sum(map(len, self._free))
        self._scratches = scratches
        self._run_bytes = run_bytes
        self._connections = connections
        self._waiting = deque(attempts)  # files that nobody works on
        self._waiting_bytes = sum(each.unclaimed_bytes for each in self._waiting)
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
            self._waiting_bytes += successor.unclaimed_bytes
            self._changed.notify_all()
            return True

    def use(self, connections: int) -> None:
        """Let so many threads claim parts from now on, those with the lowest numbers."""
        with self._changed:
            if connections != self._connections:
                self._connections = connections
                self._changed.notify_all()

    def claim(self, number: int) -> Part:
        """A part to fetch, or to read from disk, for the thread of this number; waits for one."""
        with self._changed:
            while number >= self._connections or not (part := self._next(self._scratches[number])):
                self._wait()
            return part

    def put(self, part: Part) -> bool:
        """The part is on disk; False when its attempt was abandoned meanwhile. Then :meth:`next_in_turn` is due."""
        attempt, segment = part.attempt, part.segment
        with self._changed:
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

    def count(self, fetched_bytes: int) -> None:
        """So many more bytes came."""
        with self._changed:
            self.fetched_bytes += fetched_bytes

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

    def _next(self, scratch: memoryview) -> Part | None:
        return self._at_frontier(scratch) or self._of_new_file(scratch) or self._ahead()

    def _at_frontier(self, scratch: memoryview) -> Part | None:
        most_bytes = self._longest_run()
        for attempt in self._begun:
            if segment := attempt.claim_at_frontier(most_bytes):
                return self._claimed(Part(attempt, segment, scratch, in_turn=True))
        return None

    def _longest_run(self) -> int:
        """Bytes that one request may bring: a share of what is left, for which helping threads find buffers."""
        left = self._waiting_bytes + sum(each.unclaimed_bytes for each in self._begun)
        helping = self._connections - len(self._begun) - len(self._waiting)
        buffered = self._buffered_bytes // helping if helping > 0 else left
        return min(self._run_bytes, left // (2 * self._connections), buffered)

    def _of_new_file(self, scratch: memoryview) -> Part | None:
        if not self._waiting:
            return None
        self._begun.append(self._waiting.popleft())
        self._waiting_bytes -= self._begun[-1].unclaimed_bytes
        return self._at_frontier(scratch)

    def _ahead(self) -> Part | None:
        for attempt in self._begun if self._free else ():
            if segment := attempt.claim_ahead():
                return self._claimed(Part(attempt, segment, self._free.pop(), in_turn=False))
        return None

    def _claimed(self, part: Part) -> Part:
        if part.attempt.is_claimed:
            self._begun.remove(part.attempt)
        return part

    def _release(self, part: Part) -> None:
        if not part.in_turn:
            self._free.append(part.buffer)

    def _wait(self) -> None:
        self.check()
        self._changed.wait()
        self.check()
