"""The root of a cache: which directory it is, which layout it has, and where everything in it lies.

``docs/spec/cache-layout.md`` is the contract. Opening a cache that exists writes nothing; directories below the root
are made by whoever writes into them first. A cache that can be read but not written is used as it is, and
:meth:`CacheRoot.require_writable` says no before any byte is fetched for it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lading.cache.disk import (
    Check,
    can_write_directory,
    fresh_path,
    machine_error,
    machine_errors,
    never,
    not_writable,
    write_atomically,
)
from lading.cache.index import Index, IndexEntry, model_key
from lading.cache.lock import Lock
from lading.cache.runtime_manifests import RuntimeManifests
from lading.cache.store import BlobStore
from lading.digest import Digest
from lading.errors import MachineError
from lading.events import Note, Report, ignore
from lading.model.manifest import FileEntry
from lading.units import format_seconds
from lading.uri import ModelUri

if TYPE_CHECKING:
    from lading.cache.calibrations import Calibrations

LAYOUT = 1
LAYOUT_FILE = "lading-cache.json"


@dataclass(frozen=True, slots=True)
class CacheRoot:
    """An open cache. A value: two of the same path are the same cache."""

    path: Path
    is_writable: bool

    @property
    def store(self) -> BlobStore:
        """The verified bytes."""
        return BlobStore(self.path / "blobs", self.path / "tmp")

    @property
    def index(self) -> Index:
        """What is known about each model."""
        return Index(self.path / "index")

    @property
    def workspaces_directory(self) -> Path:
        """Where assembled model directories lie."""
        return self.path / "workspaces"

    @property
    def uses_directory(self) -> Path:
        """Where running servers say what they use: see :mod:`lading.cache.use`."""
        return self.path / "uses"

    @property
    def calibrations(self) -> Calibrations:
        """What engines measured at their starts here."""
        from lading.cache.calibrations import Calibrations  # which knows models: most uses of a cache do not

        return Calibrations(self.path / "calibrations")

    @property
    def runtime_manifests(self) -> RuntimeManifests:
        """What can be served of each model, as NIM writes it."""
        return RuntimeManifests(self.path)

    def workspace_for(self, pinned: ModelUri) -> Path:
        """Where the model directory of a model at a pinned revision is assembled."""
        return self.workspaces_directory / model_key(pinned)

    def partial_directory(self, model: ModelUri) -> Path:
        """Where files of this model lie that are being fetched."""
        return self.path / "partial" / model_key(model)

    def lock_for(self, model: ModelUri) -> Lock:
        """The lock that whoever changes what the cache has of this model holds."""
        return self.lock_of_key(model_key(model))

    def lock_of_key(self, key: str) -> Lock:
        """The same, by the model's key."""
        return Lock(self.path / "locks" / f"{key}.lock")

    def collection_lock(self) -> Lock:
        """The lock that whoever deletes blobs holds, and whoever wants to be sure of some that it has just named."""
        return Lock(self.path / "locks" / "gc.lock", held_for="a clean-up of the cache")

    def tmp_path(self) -> Path:
        """A path for a temporary file on the cache's filesystem that nobody else uses; its directory exists."""
        with machine_errors(self.path):
            return fresh_path(self.path / "tmp")

    def free_bytes(self) -> int:
        """Bytes that this user can still write here."""
        with machine_errors(self.path):
            found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def require_writable(self) -> None:
        """Raise :class:`NotWritable` in a cache that is only readable."""
        if not self.is_writable:
            raise not_writable(self.path)

    def missing_files(self, entry: IndexEntry, check: Check = never) -> tuple[FileEntry, ...]:
        """The files of ``entry`` whose verified bytes are not in the store.

        Blobs that look as they did when they were verified are trusted; others are hashed again, and one that is wrong
        counts as missing and is removed.
        """
        return tuple(file for file in entry.manifest.files if not self._holds(entry, file, check))

    def _holds(self, entry: IndexEntry, file: FileEntry, check: Check) -> bool:
        mark = entry.marks.get(file.path)
        known: Digest | None = file.digest if mark else None
        return known is not None and self.store.holds(known, file.size_bytes, mark, check)


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks the volume of a path whether it is there: a dead file server keeps whoever asks waiting for ever."""

    seconds: float = 60.0
    ask: Callable[[Path], object] = os.statvfs

    def __call__(self, path: Path) -> None:
        """Return when the volume answers, be it with an error; MachineError when it does not within the seconds."""
        answered = threading.Event()

        def ask() -> None:
            with suppress(OSError):
                self.ask(path)
            answered.set()

        threading.Thread(target=ask, name="lading-probe", daemon=True).start()
        if not answered.wait(self.seconds):
            raise MachineError(
                f"the volume of {path} did not answer within {format_seconds(self.seconds)}",
                remedy="check the file server that it is mounted from, or set NIM_CACHE_PATH to another volume; "
                "NIM_CACHE_PROBE_TIMEOUT is how long to wait",
            )


def open_cache(
    path: Path | None, *, default: Path, fallback: Path, report: Report = ignore, probe: Probe | None = None
) -> CacheRoot:
    """The cache at ``path``; where None, at ``default``, or at ``fallback`` (with a Note) if that cannot be written.

    A directory that does not exist is made. One that cannot be written but holds a cache is opened for reading, with a
    Note. Raises NotWritable, or MachineError for a layout that this version does not know, and for a volume that does
    not answer ``probe``.
    """
    (probe or Probe())(path or default)
    if path is not None:
        return _open(path, report)
    if _make(default):
        return _open(default, report)
    report(
        Note(
            f"{default} cannot be written by uid {os.geteuid()}: caching in {fallback}; NIM_CACHE_PATH chooses another"
        )
    )
    return _open(fallback, report)


def _make(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return can_write_directory(path)


def _open(path: Path, report: Report) -> CacheRoot:
    is_writable = _make(path)
    if not is_writable and not path.is_dir() and os.access(path, os.F_OK):
        raise MachineError(f"{path} is not a directory", remedy="set NIM_CACHE_PATH to a directory")
    layout = _layout(path)
    if layout is not None and layout > LAYOUT:
        raise MachineError(
            f"{path} has cache layout {layout}; this version of Lading knows {LAYOUT}",
            remedy="use the newer Lading that made it, or set NIM_CACHE_PATH to another directory",
        )
    if layout is None and not is_writable:
        raise not_writable(path)
    if layout is None:
        write_atomically(path / LAYOUT_FILE, json.dumps({"layout": LAYOUT}).encode() + b"\n")
    if not is_writable:
        report(Note(f"{path} is not writable: its models can be used, none can be fetched into it"))
    return CacheRoot(path, is_writable)


def _layout(path: Path) -> int | None:
    """The layout version at ``path``; None where there is no cache yet, or none that we may look at."""
    file = path / LAYOUT_FILE
    try:
        layout = json.loads(file.read_bytes())["layout"]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        raise machine_error(file, error) from error
    except (ValueError, KeyError, TypeError):
        layout = None
    if not isinstance(layout, int) or layout < 1:
        raise MachineError(f"{file} does not name a cache layout", remedy="set NIM_CACHE_PATH to another directory")
    return layout
