"""The files of a bundle that is being written: continued where a run ended, in their places when all are whole.

Volumes lie under ``….partial`` until the last byte is on the device; then they get their names, the first one last, so
that a first volume means that all are there. A file under a final name is never changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lading.bundle.archive import Archive, Volumes
from lading.bundle.conveyor import Read
from lading.bundle.layout import Volume, sum_lines
from lading.cache.disk import can_write_directory, machine_error, not_writable, sync_directory, write_atomically
from lading.cache.lock import Lock
from lading.digest import Hasher, new_hasher
from lading.errors import MachineError, NotEnoughDisk, NotWritable, UsageError

_OURS = re.compile(r"(?:\.[0-9]{3,4})?(?:\.partial)?")


def sums_path(path: Path) -> Path:
    """Where the sums of the volumes of the bundle at ``path`` are."""
    return path.with_name(f"{path.name}.sha256")


@contextmanager
def bundle_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the body into the :class:`MachineError` that names ``path`` and tells what helps."""
    try:
        yield
    except OSError as error:
        raise _told(machine_error(path, error)) from error
    except (NotEnoughDisk, NotWritable) as error:
        raise _told(error) from error


def _told(error: MachineError) -> MachineError:
    remedies = {
        NotEnoughDisk: "free space there, or name a file on a larger disk; a disk that takes no file as large needs "
        "--volume-size (FAT32: 4GB); the same command goes on where this one stopped",
        NotWritable: "make the directory writable for this user, or name a file elsewhere",
    }
    return type(error)(error.message, remedy=remedies.get(type(error), error.remedy))


@dataclass(frozen=True, slots=True)
class Found:
    """What is where a bundle shall be: how many of its first bytes, by the lengths of the files alone."""

    kept_bytes: int
    is_complete: bool
    free_bytes: int


def survey_target(path: Path, volumes: Sequence[Volume]) -> Found:
    """What is at the places of ``volumes``. Writes nothing.

    Raises UsageError where something else lies there, NotWritable where nothing can be written.
    """
    with bundle_errors(path):
        if not path.parent.is_dir():
            raise UsageError(f"{path.parent} is no directory", remedy="make it, or name a file in one that is there")
        names = {each.path.name for each in volumes}
        beside = _beside(path)
        strangers = [each for each in beside if each.name not in names and not each.name.endswith(".partial")]
        if not beside and volumes[0].path != path and sums_path(path).exists():
            strangers.append(sums_path(path))
        if strangers:
            raise exists(strangers[0])
        is_complete = all(each.path.exists() for each in volumes)
        if not is_complete and not can_write_directory(path.parent):
            raise not_writable(path.parent)
        free = os.statvfs(path.parent)
        return Found(_kept_bytes(volumes), is_complete, free.f_bavail * free.f_frsize)


def exists(path: Path) -> UsageError:
    """The error for a file that is not part of this bundle, as far as can be told."""
    return UsageError(
        f"{path} exists and is not what would be written there",
        remedy="name another file, or delete that one if nobody needs it",
    )


def _beside(path: Path) -> list[Path]:
    """The files that may be those of a bundle at ``path``, of whatever volumes."""
    names = sorted(each.name for each in path.parent.iterdir())
    return [
        path.with_name(name) for name in names if name.startswith(path.name) and _OURS.fullmatch(name[len(path.name) :])
    ]


def _place(volume: Volume) -> Path:
    return volume.path if volume.path.exists() else volume.partial_path


def _kept_bytes(volumes: Sequence[Volume]) -> int:
    """How far the files go from the start without a gap."""
    for each in volumes:
        place = _place(each)
        size = min(place.stat().st_size, each.end - each.start) if place.exists() else 0
        if each.start + size < each.end:
            return each.start + size
    return volumes[-1].end


class Target:
    """Takes the bytes of a bundle in order, after those that are there. Methods are for one thread at a time."""

    def __init__(self, path: Path, volumes: Sequence[Volume]) -> None:
        self._path = path
        self._volumes = volumes
        self._opened: tuple[int, int] | None = None
        self._sums = _Sums([each.end for each in volumes]) if volumes[0].path != path else None
        places = tuple(_place(each) for each in volumes)
        sizes = tuple(each.end - each.start for each in volumes)
        self._archive = Archive(Volumes(path, places, sizes, is_numbered=True))
        self.kept_bytes = _kept_bytes(volumes)

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.__exit__(kind, error, trace)
        self._close(sync=False)

    def reader(self, offset: int) -> Read:
        """What reads the bytes that are there already, from ``offset`` on."""
        return self._archive.reader(offset)

    def holds(self, offset: int, data: bytes) -> bool:
        """Whether exactly these bytes are there."""
        end = offset + len(data)
        return end <= self.kept_bytes and self._archive.read(offset, len(data)) == data

    def cut(self, offset: int) -> None:
        """Drop what is there from ``offset`` on. Raises UsageError where that has its final name already."""
        for each in self._volumes:
            if each.end > offset and each.path.exists():
                raise exists(each.path)
        self._close(sync=False)
        self.kept_bytes = min(self.kept_bytes, offset)

    def append(self, view: memoryview | bytes) -> None:
        """Write bytes behind those that are there."""
        left = memoryview(view)
        while left:
            number = self._number()
            volume = self._volumes[number]
            with bundle_errors(volume.partial_path):
                count = os.write(self._descriptor(number), left[: volume.end - self.kept_bytes])
                self.kept_bytes += count
                left = left[count:]
                if self.kept_bytes == volume.end:
                    self._close()

    def count(self, view: memoryview | bytes) -> None:
        """Take bytes into the sums of the volumes, those that were there among them."""
        if self._sums:
            self._sums.update(view)

    def mark(self) -> Any:
        """A state of the sums, to come back to."""
        return self._sums.state() if self._sums else None

    def back_to(self, mark: Any) -> None:
        """Forget what was counted since the mark."""
        if self._sums:
            self._sums.restore(mark)

    def finish(self) -> None:
        """Give the volumes their names, the first one last; sums are written before."""
        with bundle_errors(self._path):
            self._close()
            if self._sums:
                names = [each.path.name for each in self._volumes]
                write_atomically(sums_path(self._path), sum_lines(dict(zip(names, self._sums.done, strict=True))))
            for each in reversed(self._volumes):
                if each is self._volumes[0]:
                    sync_directory(each.path.parent)
                if not each.path.exists():
                    each.partial_path.rename(each.path)
            sync_directory(self._path.parent)
            for stray in _beside(self._path):
                if stray.name.endswith(".partial"):
                    stray.unlink()

    def _number(self) -> int:
        return next(number for number, each in enumerate(self._volumes) if self.kept_bytes < each.end)

    def _descriptor(self, number: int) -> int:
        if self._opened and self._opened[0] == number:
            return self._opened[1]
        self._close()
        volume = self._volumes[number]
        if volume.path.exists():
            raise exists(volume.path)
        descriptor = os.open(volume.partial_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._opened = number, descriptor
        os.ftruncate(descriptor, self.kept_bytes - volume.start)
        os.lseek(descriptor, 0, os.SEEK_END)
        return descriptor

    def _close(self, *, sync: bool = True) -> None:
        opened, self._opened = self._opened, None
        if opened:
            try:
                if sync:
                    os.fsync(opened[1])
            finally:
                os.close(opened[1])


class _Sums:
    """The SHA-256 of each volume as its bytes pass in order."""

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = ends
        self._position = 0
        self._hasher: Any = new_hasher("sha256", 0)
        self.done: list[str] = []

    def update(self, view: memoryview | bytes) -> None:
        left = memoryview(view)
        while left:
            count = min(len(left), self._ends[len(self.done)] - self._position)
            self._hasher.update(left[:count])
            left = left[count:]
            self._position += count
            if self._position == self._ends[len(self.done)]:
                self.done.append(self._hasher.hexdigest())
                self._hasher = new_hasher("sha256", 0)

    def state(self) -> tuple[int, Hasher, list[str]]:
        return self._position, self._hasher.copy(), list(self.done)

    def restore(self, state: tuple[int, Any, list[str]]) -> None:
        self._position, self._hasher, self.done = state[0], state[1].copy(), list(state[2])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the bundle at ``path`` for one writer; CacheBusy where another has it."""
    lock = Lock(path.with_name(f".{path.name}.lock"), held_for="another run that writes this bundle")
    with bundle_errors(path), lock.acquire(0.0):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.path.unlink()
