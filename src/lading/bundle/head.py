"""What a bundle holds, as it says itself at its start: models, each with its files and their SHA-256.

Pure. There is one way to write a head, and nothing else is read: ``Head.parse(head.encode()) == head``, and
``Head.parse(data).encode() == data`` for every ``data`` that is accepted. The order of the blobs, the list of sums and
the place of every byte of the archive follow from it, so that it cannot contradict them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lading.cache.index import IndexEntry
from lading.cache.store import Mark
from lading.digest import Digest
from lading.errors import ContentError, LadingError
from lading.model.manifest import Manifest
from lading.plan import SkippedFile
from lading.units import MIB, format_bytes
from lading.uri import ModelUri

FORMAT = 1
MOST_BYTES = 32 * MIB
"""The longest head: some hundred thousand files."""

_MOST_FILE_BYTES = 1 << 62
_TOLD = 300  # characters of an error that may quote what it was given


class MalformedBundle(ContentError):
    """A file is no bundle, or not as it was written."""


@dataclass(frozen=True, slots=True)
class BundleModel:
    """One model: what an index entry knows of it, but for what is of one machine.

    Every file has its SHA-256; ``promised`` keeps what the source promised where that is another digest.
    """

    manifest: Manifest
    promised: Mapping[str, Digest] = field(default_factory=dict)
    skipped: tuple[SkippedFile, ...] = ()

    def __post_init__(self) -> None:
        if not self.manifest.files:
            raise ValueError(f"{self.source} has no files")
        if strangers := self.promised.keys() - {file.path for file in self.manifest.files}:
            raise ValueError(f"{self.source} has no file {min(strangers)}")
        texts = [self.manifest.revision]
        for file in (*self.manifest.files, *(each.entry for each in self.skipped)):
            texts += [file.etag, file.version]
            if file.size_bytes > _MOST_FILE_BYTES:
                raise ValueError(f"{file.path}: a size of {file.size_bytes} bytes")
        for text in (*texts, *(each.reason for each in self.skipped)):
            _require_text(text)
        for file in self.manifest.files:
            if file.digest is None or file.digest.algorithm != "sha256":
                raise ValueError(f"{file.path} has no SHA-256")

    @classmethod
    def of(cls, entry: IndexEntry) -> BundleModel:
        """The model of a complete entry."""
        return cls(entry.manifest, dict(entry.promised), entry.skipped)

    @property
    def source(self) -> ModelUri:
        """What the user named."""
        return self.manifest.source

    @property
    def blobs(self) -> dict[Digest, int]:
        """The sizes of its blobs by digest, in the order of its files; each once."""
        return {file.digest: file.size_bytes for file in self.manifest.files if file.digest}

    def entry(self, marks: Mapping[str, Mark], created_at: float) -> IndexEntry:
        """The index entry of a cache in which these files were verified; complete where all were."""
        is_complete = len(marks) == len(self.manifest.files)
        return IndexEntry(self.manifest, is_complete, created_at, self.promised, marks, self.skipped)

    def to_json(self) -> dict[str, Any]:
        """The model as JSON values."""
        return {
            "manifest": self.manifest.to_json(),
            "promised": {path: str(digest) for path, digest in self.promised.items()},
            "skipped": [each.to_json() for each in self.skipped],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BundleModel:
        """The model that :meth:`to_json` wrote; ValueError, KeyError, TypeError or LadingError for anything else."""
        return cls(
            Manifest.from_json(data["manifest"]),
            {path: Digest.parse(text) for path, text in data["promised"].items()},
            tuple(SkippedFile.from_json(each) for each in data["skipped"]),
        )


def _require_text(text: object) -> None:
    """Raise ValueError for what is neither None nor text that can be printed."""
    if text is not None and not (isinstance(text, str) and text.isprintable()):
        raise ValueError(f"{text!r} is no plain text")


@dataclass(frozen=True, slots=True)
class Head:
    """The models of a bundle, by their names, each once."""

    models: tuple[BundleModel, ...]

    def __post_init__(self) -> None:
        names = [str(model.source) for model in self.models]
        if not names or any(before >= after for before, after in pairwise(names)):
            raise ValueError("the models of a bundle are some, each once, by their names")
        sizes: dict[Digest, int] = {}
        for model in self.models:
            for file in model.manifest.files:
                if file.digest and sizes.setdefault(file.digest, file.size_bytes) != file.size_bytes:
                    raise ValueError(f"{file.digest} has two sizes")

    @classmethod
    def of(cls, models: Iterable[BundleModel]) -> Head:
        """The head for ``models``, in any order."""
        return cls(tuple(sorted(models, key=lambda model: str(model.source))))

    @property
    def blobs(self) -> dict[Digest, int]:
        """The sizes of all blobs by digest, in the order of the archive: as models and files first name them."""
        return {digest: size for model in self.models for digest, size in model.blobs.items()}

    def encode(self) -> bytes:
        """The bytes that say it, the same for equal heads. Raises ContentError where they would be too many."""
        told = {"format": FORMAT, "models": [model.to_json() for model in self.models]}
        data = json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"
        if len(data) > MOST_BYTES:
            raise ContentError(
                f"the list of all these files is longer than the {format_bytes(MOST_BYTES)} that a bundle may have",
                remedy="make several bundles of fewer models each",
            )
        return data

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """The head that ``data`` says. Raises MalformedBundle for anything that :meth:`encode` would not write."""
        told = _parsed(data)
        number = told.get("format") if isinstance(told, dict) else None
        if isinstance(number, int) and number != FORMAT and abs(number) < 1 << 31:
            raise MalformedBundle(
                f"the bundle has format {number}; this version of Lading knows {FORMAT}",
                remedy="use the newer Lading that made it",
            )
        try:
            head = cls(tuple(BundleModel.from_json(each) for each in told["models"]))
        except (ValueError, KeyError, TypeError, AttributeError, LadingError) as error:
            raise MalformedBundle(f"the bundle's head cannot be understood: {str(error)[:_TOLD]}") from error
        if head.encode() != data:
            raise MalformedBundle("the bundle's head is not written as heads are")
        return head


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedBundle(f"the bundle's head is no JSON: {error}") from error
