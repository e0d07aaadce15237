"""What the cache knows about each model: ``index/<SHA-256 of the URI as the user wrote it>.json``, one for each URI.

An entry holds the manifest at its pinned revision, and for every file whose bytes were verified their SHA-256 and the
blob's mark. With a complete entry a start needs no network. A file that cannot be read is as good as none: a Note, no
crash. Entries are replaced as a whole; a newer listing that is not complete yet waits in ``<key>.next.json`` beside a
complete one, so a refresh that fails takes nothing away.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lading.cache.disk import machine_errors, write_atomically
from lading.cache.store import Mark
from lading.digest import Digest
from lading.errors import LadingError
from lading.events import Note, Report, ignore
from lading.model.manifest import FileEntry, Manifest
from lading.plan import SkippedFile, is_pinned
from lading.uri import ModelUri

SCHEMA = 1
_FILE_NAME = re.compile(r"[0-9a-f]{64}\.json")


def model_key(uri: ModelUri) -> str:
    """The name of everything the cache keeps for a model: SHA-256 of the URI as the user wrote it, in hexadecimal."""
    return hashlib.sha256(str(uri).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What is known about one model. ``IndexEntry.from_json(e.to_json()) == e``.

    ``manifest`` holds the files to have; where one was verified, its digest is the SHA-256 of the bytes and ``marks``
    has the mark of its blob. ``promised`` keeps what the source promised where that is another digest.
    ``is_complete`` says that all of them were verified. ``created_at`` and ``last_used_at`` are Unix times; the latter
    is the time of the file itself and no part of the value.
    """

    manifest: Manifest
    is_complete: bool
    created_at: float
    promised: Mapping[str, Digest] = field(default_factory=dict)
    marks: Mapping[str, Mark] = field(default_factory=dict)
    skipped: tuple[SkippedFile, ...] = ()
    last_used_at: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        verified = {file.path for file in self.manifest.files if file.digest and file.digest.algorithm == "sha256"}
        if not verified >= self.marks.keys():
            raise ValueError(f"{self.source}: a file is marked as verified without its SHA-256")
        if self.is_complete and len(self.marks) != len(self.manifest.files):
            raise ValueError(f"{self.source}: the entry is complete without every file verified")

    @property
    def source(self) -> ModelUri:
        """What the user named."""
        return self.manifest.source

    @property
    def pinned(self) -> ModelUri:
        """The model at the revision that was listed."""
        return self.manifest.pinned

    @property
    def listed(self) -> Manifest:
        """All files of the model as they were listed, those that are not fetched among them."""
        left_out = [each.entry for each in self.skipped]
        return Manifest.of(self.source, self.manifest.revision, [*self.manifest.files, *left_out])

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return self.manifest.total_bytes

    @property
    def promises(self) -> dict[tuple[str, Digest], Digest]:
        """By path and SHA-256, what the source promised for those bytes where that is another digest."""
        digests = {file.path: file.digest for file in self.manifest.files}
        return {(path, sha): promise for path, promise in self.promised.items() if (sha := digests.get(path))}

    def verified(self, manifest: Manifest) -> dict[str, tuple[Digest, Mark]]:
        """By path, SHA-256 and mark of those files of ``manifest`` whose bytes this entry verified."""
        mine = {file.path: file for file in self.manifest.files if file.path in self.marks}
        return {
            file.path: (known.digest, self.marks[file.path])
            for file in manifest.files
            if (known := mine.get(file.path)) and known.digest and self._is_same(known, file)
        }

    def _is_same(self, known: FileEntry, file: FileEntry) -> bool:
        if known.size_bytes != file.size_bytes:
            return False
        if file.digest:
            return file.digest in (known.digest, self.promised.get(file.path))
        return is_pinned(file) and (known.uri, known.etag) == (file.uri, file.etag)

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return {
            "schema": SCHEMA,
            "source": str(self.source),
            "is_complete": self.is_complete,
            "created_at": self.created_at,
            "manifest": self.manifest.to_json(),
            "promised": {path: str(digest) for path, digest in self.promised.items()},
            "marks": {path: mark.to_json() for path, mark in self.marks.items()},
            "skipped": [each.to_json() for each in self.skipped],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, last_used_at: float = 0.0) -> IndexEntry:
        """The entry that :meth:`to_json` wrote; ValueError, KeyError, TypeError or LadingError for anything else."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}, this version reads {SCHEMA}")
        return cls(
            manifest=Manifest.from_json(data["manifest"]),
            is_complete=bool(data["is_complete"]),
            created_at=float(data["created_at"]),
            promised={path: Digest.parse(text) for path, text in data["promised"].items()},
            marks={path: Mark.from_json(mark) for path, mark in data["marks"].items()},
            skipped=tuple(SkippedFile.from_json(each) for each in data["skipped"]),
            last_used_at=last_used_at,
        )


@dataclass(frozen=True, slots=True)
class Index:
    """The entries of one cache. Writers of one model hold its lock; readers need none."""

    directory: Path

    def load(self, uri: ModelUri, report: Report = ignore) -> IndexEntry | None:
        """The entry of the model, complete or not, or None where there is none that can be read."""
        return self._load(self._path(uri), uri, report)

    def load_next(self, uri: ModelUri, report: Report = ignore) -> IndexEntry | None:
        """The newer, incomplete entry that waits beside a complete one, or None."""
        return self._load(self._next_path(uri), uri, report)

    def save(self, entry: IndexEntry) -> None:
        """Write the entry. An incomplete one does not displace a complete one, a complete one ends the waiting."""
        path, waiting = self._path(entry.source), self._next_path(entry.source)
        if entry.is_complete:
            _write(path, entry)
            with machine_errors(waiting):
                waiting.unlink(missing_ok=True)
            return
        current = self.load(entry.source)
        _write(waiting if current and current.is_complete else path, entry)

    def listing_path(self, uri: ModelUri) -> Path:
        """Where what was listed and read of the model is kept: see :mod:`lading.cache.listing`."""
        return self.directory / f"{model_key(uri)}.listing.json"

    def remove(self, uri: ModelUri) -> None:
        """Forget the model: both entries go, and what was read of it."""
        for path in (self.listing_path(uri), self._next_path(uri), self._path(uri)):
            with machine_errors(path):
                path.unlink(missing_ok=True)

    def touch(self, uri: ModelUri) -> None:
        """Note that the model is used now. Changes one time stamp; where that is not allowed, nothing."""
        with suppress(OSError):
            os.utime(self._path(uri))

    def entries(self, report: Report = ignore) -> Iterator[IndexEntry]:
        """Every entry that can be read, in the order of its key; what else lies in the directory is skipped."""
        for path in sorted(self.directory.glob("*.json")):
            if _FILE_NAME.fullmatch(path.name) and (entry := self._load(path, None, report)):
                yield entry

    def listings(self) -> Iterator[Path]:
        """Every kept listing, whether or not there is an entry for its model."""
        return self.directory.glob("*.listing.json")

    def marks(self) -> dict[Digest, Mark]:
        """The mark of every blob that some entry has verified."""
        return {
            file.digest: entry.marks[file.path]
            for entry in self.entries()
            for file in entry.manifest.files
            if file.digest and file.path in entry.marks
        }

    def _path(self, uri: ModelUri) -> Path:
        return self.directory / f"{model_key(uri)}.json"

    def _next_path(self, uri: ModelUri) -> Path:
        return self.directory / f"{model_key(uri)}.next.json"

    def _load(self, path: Path, uri: ModelUri | None, report: Report) -> IndexEntry | None:
        try:
            text = path.read_bytes()
            entry = replace(_parsed(text), last_used_at=path.stat().st_mtime)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, LadingError) as error:
            report(Note(f"{path} cannot be used as an index entry and is ignored: {error!r}", "WARNING"))
            return None
        if model_key(entry.source) != path.name.partition(".")[0] or (uri and entry.source != uri):
            report(Note(f"{path} speaks of another model ({entry.source}) and is ignored", "WARNING"))
            return None
        return entry


@functools.lru_cache(maxsize=4)
def _parsed(text: bytes) -> IndexEntry:
    """The entry that ``text`` says. One start reads the same file several times, and parsing is what takes long."""
    return IndexEntry.from_json(json.loads(text))


def _write(path: Path, entry: IndexEntry) -> None:
    write_atomically(path, json.dumps(entry.to_json(), indent=1).encode() + b"\n")
