"""A file on its way in: its bytes in ``<key>.part``, and which of them are here in the journal ``<key>.part.json``.

The journal is a hint, never proof: it says which ranges were written, for bytes of which identity. A reader hashes
those ranges again before they count. It is written after the data it speaks of is on the device, so that a power cut
costs the last second and not the file. A journal that speaks of other bytes, or cannot be read, is as good as none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from lading.cache.disk import allocate, fresh_path, machine_errors, write_atomically
from lading.digest import Digest
from lading.errors import CacheBusy
from lading.model.manifest import FileEntry
from lading.plan import Partial, is_pinned

SCHEMA = 1
_MODE = 0o644

Ranges = tuple[tuple[int, int], ...]
"""Byte ranges ``(start, end)``, end excluded: sorted, not empty, not touching."""


def add_range(ranges: Ranges, start: int, end: int) -> Ranges:
    """``ranges`` and ``start`` to ``end``, joined where they touch."""
    if start >= end:
        return ranges
    before = tuple(each for each in ranges if each[1] < start)
    after = tuple(each for each in ranges if each[0] > end)
    touching = ranges[len(before) : len(ranges) - len(after)]
    first = min([start, *(each[0] for each in touching)])
    last = max([end, *(each[1] for each in touching)])
    return (*before, (first, last), *after)


def count_bytes(ranges: Ranges) -> int:
    """Bytes in ``ranges``."""
    return sum(end - start for start, end in ranges)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a file: on disk since an earlier run, or to be fetched (then no longer than one part)."""

    start: int
    end: int
    on_disk: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of the stretch."""
        return self.end - self.start


def segments(size_bytes: int, done: Ranges, part_bytes: int) -> tuple[Segment, ...]:
    """The whole file in order: ``done`` ranges as they are, the gaps cut into parts."""
    found: list[Segment] = []
    position = 0
    for start, end in (*done, (size_bytes, size_bytes)):
        cuts = range(position, start, part_bytes)
        found += [Segment(cut, min(cut + part_bytes, start), on_disk=False) for cut in cuts]
        if start < end:
            found.append(Segment(start, end, on_disk=True))
        position = end
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which bytes a partial file holds: by digest where the source promised one, else by pinned name and etag."""

    size_bytes: int
    digest: Digest | None
    uri: str | None
    etag: str | None

    @classmethod
    def of(cls, file: FileEntry) -> Identity | None:
        """The identity of a listed file; None where nothing names its bytes well enough to continue them later."""
        if file.digest:
            return cls(file.size_bytes, file.digest, None, None)
        return cls(file.size_bytes, None, str(file.uri), file.etag) if is_pinned(file) else None


@dataclass(frozen=True, slots=True)
class Journal:
    """What of which bytes is in a partial file. ``Journal.from_json(j.to_json()) == j``."""

    identity: Identity
    done: Ranges

    def to_json(self) -> dict[str, Any]:
        """The journal as JSON values."""
        identity = self.identity
        return {
            "schema": SCHEMA,
            "size_bytes": identity.size_bytes,
            "digest": str(identity.digest) if identity.digest else None,
            "uri": identity.uri,
            "etag": identity.etag,
            "done": [list(each) for each in self.done],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Journal:
        """The journal that :meth:`to_json` wrote; ValueError, KeyError or TypeError for anything else."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}")
        size_bytes, digest = int(data["size_bytes"]), data["digest"]
        done: Ranges = ()
        for start, end in data["done"]:
            if not 0 <= int(start) < int(end) <= size_bytes:
                raise ValueError(f"range {start} to {end} of {size_bytes}")
            done = add_range(done, int(start), int(end))
        return cls(Identity(size_bytes, Digest.parse(digest) if digest else None, data["uri"], data["etag"]), done)


class PartialFile:
    """One file being fetched. Opened once, on first use, written at any offset from several threads, closed for good.

    ``done`` is what an earlier run left and its journal vouches for; empty where the journal speaks of other bytes.
    """

    def __init__(self, path: Path, file: FileEntry) -> None:
        self.path = path
        self._journal_path = journal_path(path)
        self._size_bytes = file.size_bytes
        self._identity = Identity.of(file)
        self.done = _resumable(path, self._identity)
        self._written = self._saved = self.done
        self._descriptor: int | None = None
        self._is_closed = (
            False  # a straggler that opened it again would start an empty file under a finished one's name
        )
        self._lock = Lock()  # the four fields above
        self._saving = Lock()  # the journal, and the descriptor's end

    @property
    def state(self) -> Partial:
        """What lies on disk now: bytes that can be continued, and room that is taken already."""
        try:
            allocated = self.path.stat().st_blocks * 512
        except OSError:
            allocated = 0
        return Partial(done_bytes=count_bytes(self.done), allocated_bytes=min(allocated, self._size_bytes))

    def open(self) -> None:
        """Make the file ready; without ``done`` bytes it starts anew, its room reserved. Later calls do nothing.

        Raises NotEnoughDisk (and leaves no file) where the room is not there.
        """
        with self._lock:
            if self._descriptor is None and not self._is_closed:
                with machine_errors(self.path):
                    self._descriptor = self._continue() if self.done else self._create()

    def _continue(self) -> int:
        if not os.access(self.path, os.W_OK):
            self.path.chmod(_MODE)  # sealed by a run that ended before it could commit
        return os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def _create(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._unlink()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            allocate(descriptor, self._size_bytes)
        except BaseException:
            os.close(descriptor)
            self._unlink()
            raise
        return descriptor

    def write(self, data: memoryview, offset: int) -> None:
        """Put all of ``data`` at ``offset``. Bytes that come after the file was closed are dropped.

        One writer at a time: the kernel has it so for each file anyway, and a straggler cannot hit a reused descriptor.
        """
        position = 0
        with self._lock, machine_errors(self.path):
            if self._descriptor is None:
                return
            self._require_ours(self._descriptor)
            while position < len(data):
                position += os.pwrite(self._descriptor, data[position:], offset + position)
            self._written = add_range(self._written, offset, offset + len(data))

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the start of ``buffer`` from ``offset`` and return how many bytes; 0 at the end of the file."""
        if self._descriptor is None:
            return 0
        with machine_errors(self.path):
            return os.preadv(self._descriptor, [buffer], offset)

    def save(self, *, sync: bool = True) -> None:
        """Write the journal, if there is news; before it, sync the data it speaks of.

        ``sync=False`` skips that and is right when the process ends but the machine does not. Bytes without a promised
        digest are synced always, because nothing would notice a hole in them later.
        """
        with self._saving, machine_errors(self.path):
            with self._lock:
                descriptor, written = self._descriptor, self._written
            if descriptor is None or self._identity is None or written == self._saved:
                return
            if sync or self._identity.digest is None:
                os.fdatasync(descriptor)
            self._require_ours(descriptor)
            write_atomically(self._journal_path, json.dumps(Journal(self._identity, written).to_json()).encode())
            self._saved = written

    def close(self) -> None:
        """Close the file for good; what is on disk stays. Safe to call again."""
        with self._saving, self._lock:
            descriptor, self._descriptor = self._descriptor, None
            self._is_closed = True
            if descriptor is not None:
                os.close(descriptor)

    @contextmanager
    def finished(self) -> Iterator[Path]:
        """Close the file, whose bytes are all right; a second name of it, to be moved away. Then the first one goes.

        A name which nobody else uses: a second holder, who is there when the first one was suspended, may make
        :attr:`path` anew at any time. Until the block has ended the first name stays, so that a crash costs nothing;
        where there are no hard links the file is moved to the second and, after an error, back. Raises CacheBusy when
        the file is another's by now.
        """
        aside = fresh_path(self.path.parent)
        with self._lock, machine_errors(self.path):
            self._require_ours(self._descriptor)
            is_linked = _link(self.path, aside)
            if not is_linked:
                self.path.rename(aside)
        try:
            with self._lock, machine_errors(aside):
                self._require_ours(self._descriptor, aside)
                mine = aside.lstat()
            self.close()
            yield aside
        except BaseException:
            with suppress(OSError):
                aside.unlink() if is_linked else aside.rename(self.path)
            raise
        finally:
            self.close()
        if is_linked:
            with machine_errors(self.path), suppress(FileNotFoundError):
                if os.path.samestat(mine, self.path.lstat()):
                    self.path.unlink()

    def discard(self) -> None:
        """Close the file and delete it with its journal, unless they are another process's by now."""
        with self._lock:
            is_ours = self._descriptor is None or _means(self.path, self._descriptor)
        self.close()
        if is_ours:
            with machine_errors(self.path):
                self._unlink()

    def forget_journal(self) -> None:
        """Delete the journal of a file whose bytes were moved away."""
        with machine_errors(self._journal_path):
            self._journal_path.unlink(missing_ok=True)

    def _require_ours(self, descriptor: int | None, path: Path | None = None) -> None:
        if descriptor is None or not _means(path or self.path, descriptor):
            raise CacheBusy(
                f"{self.path} was replaced by another process while it was fetched",
                remedy="run the same command again: it takes what that process fetched",
            )

    def _unlink(self) -> None:
        self._journal_path.unlink(missing_ok=True)  # first: a journal must never vouch for a newer file
        self.path.unlink(missing_ok=True)


def _link(path: Path, other: Path) -> bool:
    """Give a file another name, where the filesystem can."""
    try:
        other.hardlink_to(path)
    except OSError:
        return False
    return True


def _means(path: Path, descriptor: int) -> bool:
    """Whether the name means the open file: a holder of the lock that slept for long finds another's there, or none."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def journal_path(path: Path) -> Path:
    """Where the journal of the partial file ``path`` lies."""
    return path.with_name(path.name + ".json")


def _resumable(path: Path, identity: Identity | None) -> Ranges:
    if identity is None:
        return ()
    with suppress(OSError, ValueError, KeyError, TypeError):
        journal, found = Journal.from_json(json.loads(journal_path(path).read_bytes())), path.lstat()
        may_write = os.access(path, os.W_OK) or found.st_uid == os.geteuid()
        if journal.identity == identity and found.st_size == identity.size_bytes and may_write:
            return journal.done
    return ()
