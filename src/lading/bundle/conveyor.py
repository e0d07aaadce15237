"""Bytes from one place to several at once: while a block is hashed and written, the next one is read.

Two buffers, whatever the size of a file; each consumer has a thread of its own. What takes longest sets the pace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

from lading.cache.disk import Check
from lading.events import FilesChecked, Report
from lading.units import KIB, MIB

Read = Callable[[memoryview], int | None]
"""Fills a part of the view with the next bytes and says how many; 0 or None where there are no more."""

Sink = Callable[[memoryview], object]
"""Takes the next bytes; the view is used again after it returned."""

_BLOCK_BYTES = 4 * MIB
_SMALL_BYTES = 256 * KIB  # not worth a change of threads
_TELL_BYTES = 16 * MIB


class Conveyor:
    """Moves bytes. For one thread, which reads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(3, "lading-bundle")
        self._buffers = [memoryview(bytearray(_BLOCK_BYTES)) for _ in range(2)]

    def __enter__(self) -> Conveyor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def run(self, read: Read, size_bytes: int, sinks: Sequence[Sink], tell: Callable[[int], None]) -> int:
        """Give ``size_bytes`` to every sink, in order; how many there were, fewer where ``read`` ended early.

        ``tell`` hears of every block and may raise to end it. When this returns or raises, no sink is at work.
        """
        left = size_bytes
        at_work: list[Future[object]] = []
        try:
            while left:
                view = self._buffers[0][: min(left, _BLOCK_BYTES)]
                count = _filled(read, view)
                for each in at_work:
                    each.result()
                at_work = self._given(view[:count], sinks)
                self._buffers.reverse()
                left -= count
                tell(count)
                if count < len(view):
                    break
            for each in at_work:
                each.result()
        finally:
            wait(at_work)
        return size_bytes - left

    def _given(self, view: memoryview, sinks: Sequence[Sink]) -> list[Future[object]]:
        if len(view) > _SMALL_BYTES:
            return [self._pool.submit(sink, view) for sink in sinks]
        for sink in sinks:
            sink(view)
        return []


def _filled(read: Read, view: memoryview) -> int:
    """How many bytes of ``view`` were filled; fewer than all only at the end."""
    done = 0
    while done < len(view) and (count := read(view[done:])):
        done += count
    return done


class Progress:
    """Tells how far a run is; ends it where ``check`` raises."""

    def __init__(self, total_bytes: int, report: Report, check: Check) -> None:
        self._total_bytes = total_bytes
        self._report = report
        self._check = check
        self._done_bytes = self._told_bytes = 0
        report(FilesChecked(total_bytes, 0))

    def __call__(self, count: int) -> None:
        """So many bytes more."""
        self._check()
        self._done_bytes += count
        if self._done_bytes - self._told_bytes >= _TELL_BYTES:
            self._told_bytes = self._done_bytes
            self._report(FilesChecked(self._total_bytes, min(self._done_bytes, self._total_bytes)))

    def end(self) -> None:
        """All is done."""
        self._report(FilesChecked(self._total_bytes, self._total_bytes))
