"""What lies between this machine and a model's files, asked step by step and told as one value (``lading doctor``).

Reads a listing and one byte; writes nothing, and takes nothing from the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from lading.errors import LadingError, OfflineError, SourceError, SourceUnreachable
from lading.model.manifest import FileEntry, Manifest
from lading.plan import SkippedFile, choose_files
from lading.sources.interface import Access, Source
from lading.uri import ModelUri


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How far it went: what came after ``fault`` is None or empty.

    ``access`` is where and as whom the source was asked; ``manifest`` what would be fetched and ``skipped`` what would
    not, listed in ``seconds``; ``sample`` the file whose first byte came, None also where all files are empty.
    """

    model: ModelUri
    access: Access | None = None
    manifest: Manifest | None = None
    skipped: tuple[SkippedFile, ...] = ()
    seconds: float = 0.0
    sample: FileEntry | None = None
    fault: LadingError | None = None

    @property
    def answers(self) -> bool | None:
        """Whether the source gave an answer, be it a refusal; None where it was not asked."""
        if self.manifest:
            return True
        if isinstance(self.fault, SourceError):
            return not isinstance(self.fault, SourceUnreachable | OfflineError)
        return None


def examine(model: ModelUri, source: Source, clock: Callable[[], float] = time.monotonic) -> Diagnosis:
    """Look for credentials, list the model, read the first byte of its smallest file; the first fault ends it."""
    found = Diagnosis(model)
    try:
        found = replace(found, access=source.access(model))
        began = clock()
        listed = source.list_files(model)
        manifest, skipped = choose_files(listed) if model.file is None else (listed, ())
        found = replace(found, manifest=manifest, skipped=skipped, seconds=clock() - began)
        return replace(found, sample=_read_a_byte(manifest, source))
    except LadingError as fault:
        return replace(found, fault=fault)


def _read_a_byte(manifest: Manifest, source: Source) -> FileEntry | None:
    """The smallest file that has a byte, after reading it: bytes may come from another host than the listing."""
    files = [file for file in manifest.files if file.size_bytes]
    if not files:
        return None
    smallest = min(files, key=lambda file: file.size_bytes)
    with source.open_range(smallest, 0, 1) as reader:
        reader.readinto(memoryview(bytearray(1)))
    return smallest
