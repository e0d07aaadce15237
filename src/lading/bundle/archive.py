"""A bundle that is read: its files found, one after another as one run of bytes, missing and truncated ones named.

Nothing here is trusted or changed; :func:`open_bundle` gives the head that :mod:`lading.bundle.head` accepted and the
layout that follows from it. All else is compared with that.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from stat import S_ISREG
from types import TracebackType

from lading.bundle.conveyor import Read
from lading.bundle.head import MOST_BYTES, Head, MalformedBundle
from lading.bundle.layout import (
    BLOCK,
    HEAD,
    SIGNATURE,
    BlobPiece,
    Layout,
    blob_name,
    lay_out,
    member_header,
    padding,
    prelude,
    volume_path,
)
from lading.cache.disk import machine_errors
from lading.errors import SizeMismatch, UsageError
from lading.units import format_bytes

_NUMBERED = re.compile(r"(.+)\.([0-9]{3,4})", re.DOTALL)
_NAMED = 4  # how many volumes an error lists


@dataclass(frozen=True, slots=True)
class Volumes:
    """The files that were found for a bundle, by their numbers; one without a number is the whole of it."""

    base: Path
    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    is_numbered: bool

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes)

    def require(self, total_bytes: int) -> None:
        """Raise SizeMismatch unless these are all files of an archive of so many bytes, whole."""
        if self.is_numbered and self.total_bytes < total_bytes:
            self._require_all(total_bytes)
        if self.total_bytes != total_bytes:
            what = "is cut off" if self.total_bytes < total_bytes else "has more bytes than it says"
            found, wanted = format_bytes(self.total_bytes), format_bytes(total_bytes)
            raise SizeMismatch(
                f"{self.base} {what}: {found} ({self.total_bytes} bytes) of {wanted} ({total_bytes} bytes)",
                remedy="copy it again from where it was made",
            )

    def _require_all(self, total_bytes: int) -> None:
        """All volumes but the last have the size of the first; told by that."""
        each = max(1, self.sizes[0])
        for path, size in zip(self.paths, self.sizes[:-1], strict=False):
            if size != each:
                raise _cut_off(path, size, each)
        count = -(-total_bytes // each)
        if count > len(self.paths):
            raise missing(self.base, range(len(self.paths) + 1, count + 1), count)
        raise _cut_off(self.paths[-1], self.sizes[-1], total_bytes - each * (count - 1))


def _cut_off(path: Path, found: int, wanted: int) -> SizeMismatch:
    return SizeMismatch(
        f"{path} is cut off: {found} of {wanted} bytes", remedy="copy it again from where the bundle was made"
    )


def missing(base: Path, numbers: Sequence[int], count: int) -> SizeMismatch:
    """The error for volumes that are not here, of ``count`` in all; however many, it names the first."""
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    names = ", ".join(volume_path(base, number, count).name for number in numbers[:_NAMED])
    return SizeMismatch(
        f"the bundle is not complete: {names}{more} not found in {base.parent}",
        remedy="bring the missing volumes there, or name the directories where they are behind the first volume",
    )


def find_volumes(path: Path, elsewhere: Sequence[Path] = ()) -> Volumes:
    """The files of the bundle at ``path``: that file, or its volumes there and in the directories of ``elsewhere``.

    ``path`` names the bundle or one of its volumes. Raises UsageError where there is none, SizeMismatch where a volume
    between others is missing.
    """
    numbered = _NUMBERED.fullmatch(path.name)
    if path.exists() and not numbered:
        return Volumes(path, (path,), (_size(path),), is_numbered=False)
    base = path.with_name(numbered[1]) if numbered else path
    directories = [path.parent, *(each if each.is_dir() else each.parent for each in elsewhere)]
    found: dict[int, Path] = {}
    for directory in directories:
        for number, place in _volumes_in(directory, base.name):
            found.setdefault(number, place)
    if not found:
        raise UsageError(f"there is no bundle at {path}", remedy=_unfinished(path))
    if gaps := sorted(set(range(1, max(found) + 1)) - found.keys()):
        raise missing(base, gaps, max(found))
    paths = tuple(place for _, place in sorted(found.items()))
    return Volumes(base, paths, tuple(_size(place) for place in paths), is_numbered=True)


def _volumes_in(directory: Path, name: str) -> Iterator[tuple[int, Path]]:
    with machine_errors(directory):
        names = sorted(each.name for each in directory.iterdir()) if directory.is_dir() else []
    for each in names:
        numbered = _NUMBERED.fullmatch(each)
        if numbered and numbered[1] == name and int(numbered[2]):
            yield int(numbered[2]), directory / each


def _unfinished(path: Path) -> str | None:
    found = [*path.parent.glob(f"{_escaped(path.name)}*.partial")] if path.parent.is_dir() else []
    return f"{found[0].name} is one that is not finished: run `lading bundle create` again" if found else None


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _size(path: Path) -> int:
    with machine_errors(path):
        found = path.stat()
    if not S_ISREG(found.st_mode):
        raise UsageError(f"{path} is no file", remedy="name a bundle, or its first volume")
    return found.st_size


class Archive:
    """The bytes of a bundle's volumes, one after another. For one thread; holds one file open at a time."""

    def __init__(self, volumes: Volumes) -> None:
        self.volumes = volumes
        self._starts = [0, *accumulate(volumes.sizes)]
        self._opened: tuple[int, int] | None = None

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def place_of(self, start: int, end: int) -> str:
        """The names of the files that hold these bytes."""
        paths = self.volumes.paths[self._number(start) : self._number(max(start, end - 1)) + 1]
        return " and ".join(dict.fromkeys((str(paths[0]), str(paths[-1]))))

    def read(self, offset: int, count: int) -> bytes:
        """These bytes; fewer where the archive ends before."""
        data = bytearray(max(0, min(count, self._starts[-1] - offset)))
        view, done = memoryview(data), 0
        while done < len(data) and (got := self.read_into(offset + done, view[done:])):
            done += got
        return bytes(data[:done])

    def reader(self, offset: int) -> Read:
        """What reads from ``offset`` on, a piece at each call."""
        position = offset

        def read(view: memoryview) -> int:
            nonlocal position
            count = self.read_into(position, view)
            position += count
            return count

        return read

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill ``view`` from ``offset`` on, as far as one file goes; how many bytes, 0 at the end. MachineError."""
        if offset >= self._starts[-1]:
            return 0
        number = self._number(offset)
        left = self._starts[number + 1] - offset
        with machine_errors(self.volumes.paths[number]):
            return os.preadv(self._descriptor(number), [view[:left]], offset - self._starts[number])

    def _number(self, offset: int) -> int:
        """Which file holds the byte at ``offset``; empty ones hold none."""
        return min(bisect_right(self._starts, offset), len(self.volumes.paths)) - 1

    def _descriptor(self, number: int) -> int:
        if self._opened is None or self._opened[0] != number:
            self._close()
            descriptor = os.open(self.volumes.paths[number], os.O_RDONLY | os.O_CLOEXEC)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self._opened = number, descriptor
        return self._opened[1]

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened:
            os.close(opened[1])


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: what it says it holds, where, and its signature where it has one.

    Head, sums and sizes agree. Nothing else was looked at.
    """

    archive: Archive
    head: Head
    layout: Layout
    signature: bytes | None

    def require_header(self, piece: BlobPiece) -> None:
        """Raise MalformedBundle unless a blob's bytes are where they belong, by what stands before them."""
        before = member_header(blob_name(piece.digest), piece.size_bytes)
        start = piece.offset - len(before)
        if self.archive.read(start, len(before)) != before:
            raise MalformedBundle(
                f"{self.archive.place_of(start, piece.offset)}: {piece.digest} is not where the bundle says it is",
                remedy="volumes were swapped, or are damaged: `sha256sum --check` tells which; copy them again",
            )


@contextmanager
def open_bundle(volumes: Volumes) -> Iterator[Bundle]:
    """The bundle that these files are. Raises MalformedBundle, SizeMismatch, MachineError."""
    with Archive(volumes) as archive:
        head = Head.parse(_first_member(archive, HEAD, 0) or b"")
        expected = prelude(head)
        if archive.read(0, len(expected)) != expected:
            raise MalformedBundle(
                f"{archive.place_of(0, len(expected))}: the bundle's head does not have the SHA-256 that is written "
                "behind it",
                remedy="copy the bundle again from where it was made",
            )
        signature = _first_member(archive, SIGNATURE, len(expected))
        layout = lay_out(head, signature)
        volumes.require(layout.total_bytes)
        yield Bundle(archive, head, layout, signature)


def _first_member(archive: Archive, name: str, offset: int) -> bytes | None:
    """The bytes of the member at ``offset``; None where its name is another, but for the head, which must be there."""
    block = archive.read(offset, BLOCK)
    if block[:100].rstrip(b"\0") != name.encode():
        if offset:
            return None
        raise MalformedBundle(
            f"{archive.volumes.paths[0]} is no bundle of Lading: it does not begin with {HEAD}",
            remedy="name a file that `lading bundle create` made, or its first volume",
        )
    digits = block[124:135]
    size_bytes = int(digits, 8) if re.fullmatch(rb"[0-7]{11}", digits) else -1
    if size_bytes < 0 or block != member_header(name, size_bytes):
        raise MalformedBundle(f"{archive.volumes.paths[0]}: the header of {name} is not written as headers are")
    if size_bytes > MOST_BYTES:
        raise MalformedBundle(f"{name} is said to have {size_bytes} bytes, more than {format_bytes(MOST_BYTES)}")
    data = archive.read(offset + BLOCK, size_bytes + len(padding(size_bytes)))
    if len(data) < size_bytes:
        raise SizeMismatch(f"{archive.volumes.base} ends within {name}", remedy="copy it again, with all its volumes")
    return data[:size_bytes]
