"""What was listed and read of a model before any of it was fetched: ``index/<key>.listing.json``, one for each URI.

It holds the whole manifest at its pinned revision, and the ranges that were read of its files: config, index, headers.
So looking at the model again reads nothing, and offline it can be looked at as it was. A file that cannot be read is as
good as none, and one that cannot be written is left: the next listing reads again.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from lading.cache.disk import write_atomically
from lading.errors import LadingError, MachineError
from lading.model.manifest import FileEntry, Manifest
from lading.plan import is_pinned
from lading.uri import ModelUri

SCHEMA = 1
_MOST_BYTES = 64 << 20  # of a range once it is unpacked


class Reads:
    """Ranges that were read of files, by the entry that names their bytes. Safe to use from several threads.

    ``Reads.from_json(r.to_json(entries))`` knows what ``r`` knows of those entries whose bytes are pinned.
    """

    def __init__(self, known: Mapping[FileEntry, Mapping[int, bytes]] | None = None) -> None:
        self._known = {entry: dict(ranges) for entry, ranges in (known or {}).items()}
        self._lock = Lock()
        self.is_changed = False

    def find(self, entry: FileEntry, start: int, end: int) -> bytes | None:
        """The bytes of the range where one that was read covers it."""
        with self._lock:
            for first, data in self._known.get(entry, {}).items():
                if first <= start and end <= first + len(data):
                    return data[start - first : end - first]
        return None

    def add(self, entry: FileEntry, start: int, data: bytes) -> None:
        """Remember a range."""
        with self._lock:
            self._known.setdefault(entry, {})[start] = data
            self.is_changed = True

    def forget(self, entry: FileEntry) -> None:
        """Forget a file whose bytes turned out to be wrong."""
        with self._lock:
            self._known.pop(entry, None)
            self.is_changed = True

    def to_json(self, entries: Iterable[FileEntry]) -> list[dict[str, Any]]:
        """The ranges of ``entries`` as JSON values."""
        with self._lock:
            return [
                entry.to_json() | {"start": start, "data": b64encode(zlib.compress(data)).decode()}
                for entry in entries
                if is_pinned(entry)
                for start, data in self._known.get(entry, {}).items()
            ]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Reads:
        """The value that :meth:`to_json` wrote; ValueError, KeyError, TypeError, zlib.error for anything else."""
        known: dict[FileEntry, dict[int, bytes]] = {}
        for each in data:
            unpacked = zlib.decompressobj().decompress(b64decode(each["data"]), _MOST_BYTES)
            known.setdefault(FileEntry.from_json(each), {})[int(each["start"])] = unpacked
        return cls(known)


@dataclass(frozen=True, slots=True)
class KeptListing:
    """All files of a model as they were listed last, and what was read of them."""

    manifest: Manifest
    reads: Reads = field(default_factory=Reads, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The listing as JSON values."""
        return {
            "schema": SCHEMA,
            "manifest": self.manifest.to_json(),
            "reads": self.reads.to_json(self.manifest.files),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KeptListing:
        """The listing that :meth:`to_json` wrote; ValueError, KeyError, TypeError or LadingError for anything else."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}, this version reads {SCHEMA}")
        return cls(Manifest.from_json(data["manifest"]), Reads.from_json(data["reads"]))


def load_listing(path: Path, uri: ModelUri) -> KeptListing | None:
    """The listing that is kept of the model at ``path``, or None where there is none that can be read."""
    try:
        listing = KeptListing.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error, LadingError):
        return None
    return listing if listing.manifest.source == uri else None


def save_listing(path: Path, listing: KeptListing) -> None:
    """Keep the listing at ``path``; where that is not possible, nothing is said: it only saves reading again."""
    with suppress(MachineError):
        write_atomically(path, json.dumps(listing.to_json()).encode() + b"\n")
