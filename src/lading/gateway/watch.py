"""Values that are read from files and read again when the files change, while the gateway runs.

A file has changed when its device, inode, time or size has, links followed: Kubernetes replaces a volume's files by
turning the link ``..data`` to another directory. A change counts once it was seen twice, so that a file that is being
written is left alone. What cannot be read leaves the value that is in use, with one warning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from lading.errors import LadingError
from lading.events import Note, Report

T = TypeVar("T")

_Stamp = tuple[int, int, int, int] | None


class Watched(Generic[T]):
    """The value that ``read`` makes of ``paths``; ``current`` is the latest good one.

    ``read`` raises :class:`LadingError` for what it cannot take; at first that reaches the caller.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], T], report: Report) -> None:
        self._what = what
        self._paths = paths
        self._read = read
        self._report = report
        self._taken = self._seen = self._stamps()
        self.current = read()

    def look(self) -> None:
        """Read again if the files have changed since the last reading, and not since the last look."""
        stamps = self._stamps()
        is_settled, self._seen = stamps == self._seen, stamps
        if stamps == self._taken or not is_settled:
            return
        self._taken = stamps
        try:
            self.current = self._read()
        except (LadingError, OSError) as error:  # a file may be gone between two steps of a reading
            self._report(Note(f"{self._what} changed and cannot be used; the old ones stay: {error}", "WARNING"))
        else:
            self._report(Note(f"{self._what} changed and were read again"))

    def _stamps(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(path) for path in self._paths)


async def keep_watching(watched: Iterable[Watched[Any]], seconds: float) -> None:
    """Look at each of ``watched`` every so many seconds, in a thread, until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        for each in watched:
            await asyncio.to_thread(each.look)


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
