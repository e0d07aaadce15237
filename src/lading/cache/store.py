"""The blob store: verified bytes by SHA-256, each once, in ``blobs/sha256/<ab>/<hex>``.

The store knows digests and nothing else: not models, not file names. A blob appears under its name only after its bytes
were hashed, synced and sealed (mode 0444), in one step; so a name that exists is a promise. What can still happen to a
blob (a bad disk, a careless hand) is noticed by its :class:`Mark`: size, time and inode as they were when it was
verified. A blob whose mark changed is hashed again before it is trusted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO

from lading.cache.disk import READ_BYTES, Check, fresh_path, machine_errors, never, sync_directory, sync_file
from lading.digest import Digest, new_hasher
from lading.errors import MachineError
from lading.model.manifest import Manifest

_HEX = re.compile(r"[0-9a-f]{64}")
_SEALED = 0o444


@dataclass(frozen=True, slots=True)
class Mark:
    """What a blob's inode said when its bytes were verified: the same mark later means the same bytes."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Mark:
        """The mark of a file that was just looked at."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)

    def to_json(self) -> dict[str, int]:
        """The mark as JSON values."""
        return {"size_bytes": self.size_bytes, "mtime_ns": self.mtime_ns, "inode": self.inode}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Mark:
        """The mark that :meth:`to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        return cls(int(data["size_bytes"]), int(data["mtime_ns"]), int(data["inode"]))


class FileHasher:
    """The SHA-256 of a file's bytes as they pass, and beside it the digest that the source promised, if another."""

    def __init__(self, size_bytes: int, promised: Digest | None) -> None:
        self._promised = promised
        self._sha256 = new_hasher("sha256", size_bytes)
        foreign = promised is not None and promised.algorithm != "sha256"
        self._other = new_hasher(promised.algorithm, size_bytes) if promised and foreign else None

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        self._sha256.update(data)
        if self._other:
            self._other.update(data)

    @property
    def sha256(self) -> Digest:
        """Identity of the bytes so far."""
        return Digest("sha256", self._sha256.hexdigest())

    @property
    def found(self) -> Digest:
        """Digest of the bytes so far, in the algorithm of the promise (SHA-256 without one)."""
        if self._promised and self._other:
            return Digest(self._promised.algorithm, self._other.hexdigest())
        return self.sha256

    @property
    def keeps_promise(self) -> bool:
        """Whether the bytes so far are those that the source promised; True where it promised nothing."""
        return self._promised is None or self.found == self._promised


@dataclass(frozen=True, slots=True)
class BlobStore:
    """The blobs of one cache. ``temporary`` is a directory on the same filesystem. Safe to use from several threads."""

    directory: Path
    temporary: Path

    def path_of(self, digest: Digest) -> Path:
        """Where the blob lies or would lie; ValueError for a digest that is not SHA-256."""
        if digest.algorithm != "sha256":
            raise ValueError(f"blobs are named by SHA-256, not {digest}")
        return self.directory / "sha256" / digest.hex[:2] / digest.hex

    def places_of(self, manifest: Manifest) -> dict[str, Path]:
        """Where the blob of each verified file of a model lies, by the file's path."""
        return {file.path: self.path_of(file.digest) for file in manifest.files if file.digest}

    def mark_of(self, digest: Digest) -> Mark | None:
        """The blob's mark as it is now, None where there is no such blob."""
        try:
            found = self.path_of(digest).lstat()
        except OSError:
            return None
        return Mark.of(found) if S_ISREG(found.st_mode) else None

    def has(self, digest: Digest, size_bytes: int) -> bool:
        """Whether the blob exists with this size. Reads no bytes."""
        mark = self.mark_of(digest)
        return mark is not None and mark.size_bytes == size_bytes

    def holds(self, digest: Digest, size_bytes: int, mark: Mark | None, check: Check = never) -> bool:
        """Whether the blob can be trusted: here, of this size, and as it was when ``mark`` was taken.

        A blob that changed since is hashed again. One that is wrong is removed where we may, so that the right bytes
        can take its place. Without a mark the size must do.
        """
        if not self.has(digest, size_bytes):
            return False
        if mark is None or self.mark_of(digest) == mark or self.verify(digest, check):
            return True
        with suppress(MachineError):
            self.remove(digest)
        return False

    def verify(self, digest: Digest, check: Check = never) -> bool:
        """Whether the blob's bytes, all read again, have the digest of its name; False also where it is missing."""
        path = self.path_of(digest)
        with machine_errors(path):
            try:
                return hash_file(path, digest, lambda _: check()).keeps_promise
            except FileNotFoundError:
                return False

    def commit(self, path: Path, digest: Digest, size_bytes: int) -> Path:
        """Move a file whose bytes were hashed into the store and return its place; ``path`` is gone afterwards.

        Bytes, then name, reach the device before this returns. A blob that is here with the same size is kept, also
        where another process puts it there at the same moment: it may have told its mark already.
        """
        place = self.path_of(digest)
        with machine_errors(place):
            if self.has(digest, size_bytes):
                path.unlink(missing_ok=True)
                return place
            is_first_of_its_directory = not place.parent.is_dir()
            place.parent.mkdir(parents=True, exist_ok=True)
            sync_file(path)
            if (place.exists() or not _link(path, place)) and not self.has(digest, size_bytes):
                path.replace(place)
            path.unlink(missing_ok=True)
            sync_directory(place.parent)
            if is_first_of_its_directory:
                sync_directory(place.parent.parent)
        return place

    def seal(self, path: Path) -> None:
        """Make a file of ours read-only for everybody, before it is committed."""
        with machine_errors(path):
            path.chmod(_SEALED)

    def adopt(self, path: Path, promised: Digest, size_bytes: int, check: Check = never) -> Digest | None:
        """Take a file of another cache on this machine: its SHA-256, or None where it is not the promised file.

        The bytes are hashed first. On the same filesystem the blob is a hard link and keeps its owner and mode (they
        are the other cache's too); elsewhere a sealed copy. Raises MachineError when our side cannot be written.
        """
        with machine_errors(self.temporary):
            staged = fresh_path(self.temporary)
        try:
            hasher = self._stage(path, staged, promised, size_bytes, check)
            if hasher is None or not hasher.keeps_promise:
                return None
            self.commit(staged, hasher.sha256, size_bytes)
            return hasher.sha256
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)

    def _stage(self, path: Path, staged: Path, promised: Digest, size: int, check: Check) -> FileHasher | None:
        try:
            original = path.resolve(strict=True)
            if original.stat().st_size != size or not original.is_file():
                return None
            if _link(original, staged):
                return hash_file(staged, promised, lambda _: check())
            source = original.open("rb")
        except (OSError, RuntimeError):  # pathlib says RuntimeError for a loop of links, before Python 3.13
            return None  # vanished or unreadable: simply not a copy that we can use
        with source, machine_errors(staged), staged.open("xb") as copy:
            hasher = FileHasher(size, promised)
            while data := _read(source):
                check()
                hasher.update(data)
                copy.write(data)
        self.seal(staged)
        return hasher

    def remove(self, digest: Digest) -> None:
        """Delete the blob if it is there. Whether anything still needs it is the caller's question."""
        path = self.path_of(digest)
        with machine_errors(path):
            path.unlink(missing_ok=True)

    def digests(self) -> Iterator[Digest]:
        """Every blob in the store, in no order; strays are skipped."""
        for path in self.directory.glob("sha256/[0-9a-f][0-9a-f]/*"):
            if _HEX.fullmatch(path.name) and path.name.startswith(path.parent.name):
                yield Digest("sha256", path.name)


def _link(original: Path, staged: Path) -> bool:
    try:
        staged.hardlink_to(original)
    except OSError:
        return False  # another filesystem, another owner, or links are not offered: the caller copies
    return True


def _read(source: BinaryIO) -> bytes:
    try:
        return source.read(READ_BYTES)
    except OSError:
        return b""  # a bad disk under the other cache: the digest will not match, and the file is fetched


def hash_file(path: Path, promised: Digest | None, tell: Callable[[int], None]) -> FileHasher:
    """The hasher of a file, all of whose bytes it has seen; ``tell`` is told of each piece, and may raise."""
    with path.open("rb", buffering=0) as file:
        hasher = FileHasher(os.fstat(file.fileno()).st_size, promised)
        while data := file.read(READ_BYTES):
            tell(len(data))
            hasher.update(data)
    return hasher
