"""The list of a model's files: where each comes from, its size, its digest, and its place in the workspace.

A manifest is a pure value. Paths are checked when an entry is made, so nothing below this line can leave the workspace.
``Manifest.from_json(m.to_json()) == m`` for every manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lading.digest import Digest
from lading.errors import ContentError, UnsafePath
from lading.uri import ModelUri

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_MAX_PATH_BYTES = 1024
_MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a model.

    ``path`` is its place below the workspace; ``uri`` names the bytes at the source (the two names may differ);
    ``digest`` is what the source promises, None where it promises nothing; ``etag`` identifies the version of the
    bytes that ``size_bytes`` describes, as the source says it (for ``If-Match``), None where it says none; ``version``
    is the name by which a source that keeps replaced bytes gives these ones, None where it has no such name.
    """

    path: str
    size_bytes: int
    uri: ModelUri
    digest: Digest | None = None
    etag: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.size_bytes < 0:
            raise ContentError(f"{self.path}: a size of {self.size_bytes} bytes")

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values."""
        digest = str(self.digest) if self.digest else None
        optional = {"digest": digest, "etag": self.etag, "version": self.version}
        return {"path": self.path, "size_bytes": self.size_bytes, "uri": str(self.uri)} | {
            key: value for key, value in optional.items() if value is not None
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FileEntry:
        """The entry that :meth:`to_json` wrote; ValueError, KeyError or TypeError for anything else."""
        digest = data.get("digest")
        return cls(
            path=str(data["path"]),
            size_bytes=int(data["size_bytes"]),
            uri=ModelUri.parse(str(data["uri"])),
            digest=Digest.parse(digest) if digest else None,
            etag=data.get("etag"),
            version=data.get("version"),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's files at one pinned state.

    ``source`` is what the user named; ``revision`` is the commit or version that it was pinned to when listed, None
    where the source has no versions. Files are sorted by path, each path once.
    """

    source: ModelUri
    revision: str | None
    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, source: ModelUri, revision: str | None, files: Iterable[FileEntry]) -> Manifest:
        """A manifest of ``files``; raises ContentError when two entries claim one path."""
        ordered = tuple(sorted(files, key=lambda entry: entry.path))
        for before, entry in pairwise(ordered):
            if before.path == entry.path:
                raise ContentError(f"{source}: two files are named {entry.path}")
        return cls(source, revision, ordered)

    @property
    def pinned(self) -> ModelUri:
        """The source at the revision that was listed; as it was named where its scheme has no revisions."""
        has_revisions = self.revision and self.source.effective_revision
        return self.source.with_revision(self.revision) if self.revision and has_revisions else self.source

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.files)

    def find(self, path: str) -> FileEntry | None:
        """The entry at ``path``, or None."""
        return next((entry for entry in self.files if entry.path == path), None)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return {
            "source": str(self.source),
            "revision": self.revision,
            "files": [entry.to_json() for entry in self.files],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """The manifest that :meth:`to_json` wrote; ValueError, KeyError or TypeError for anything else."""
        files = [FileEntry.from_json(each) for each in data["files"]]
        return cls.of(ModelUri.parse(data["source"]), data.get("revision"), files)


def check_path(path: str) -> None:
    """Raise :class:`UnsafePath` unless ``path`` is a plain relative POSIX path that stays below its root."""
    parts = path.split("/")
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise UnsafePath(f"a file name is not Unicode: {path!r}") from None
    if (
        any(part in ("", ".", "..") for part in parts)
        or _FORBIDDEN.search(path)
        or len(encoded) > _MAX_PATH_BYTES
        or any(len(part.encode()) > _MAX_NAME_BYTES for part in parts)
    ):
        raise UnsafePath(f"a file name would leave the workspace or cannot be written: {path!r}")
