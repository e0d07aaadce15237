"""The check of a model that is here already: ``python -m benchmarks.warm DIRECTORY`` prints its milliseconds as JSON.

500 files of 100 GiB in all, sparse, in a cache that verified them. Measured is what a start does when nothing is to be
fetched: the index entry is read, every blob's mark is compared, and the transfer says that all is here. The source
would raise if it were asked for anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import NoReturn

from lading.cache.index import IndexEntry
from lading.cache.root import CacheRoot, open_cache
from lading.cache.store import Mark
from lading.digest import Digest
from lading.model.manifest import FileEntry, Manifest
from lading.plan import choose_files
from lading.sources.interface import Access, RangeReader
from lading.transfer import survey, transfer
from lading.uri import ModelUri

FILES = 500
SIZE_BYTES = 100 << 30
REPETITIONS = 20
_MODEL = ModelUri.parse("hf://bench/large")
_REVISION = "0123456789abcdef0123456789abcdef01234567"


class _Unreachable:
    """A source that must not be asked."""

    in_place = False

    def access(self, model: ModelUri) -> Access:
        raise AssertionError(model)

    def list_files(self, model: ModelUri) -> Manifest:
        raise AssertionError(model)

    def open_range(self, file: FileEntry, start: int, end: int) -> AbstractContextManager[RangeReader]:
        raise AssertionError(file, start, end)

    def local_copy(self, file: FileEntry) -> NoReturn:
        raise AssertionError(file)


def main(directory: str) -> None:
    """Fill a cache, check it again and again, print the first time, the median, and that of the transfer alone."""
    path = Path(directory)
    _fill(_opened(path))
    times = [_milliseconds(path) for _ in range(REPETITIONS)]
    whole, alone = zip(*times, strict=True)
    print(json.dumps({"first_ms": whole[0], "median_ms": median(whole), "transfer_alone_ms": median(alone)}))


def _opened(path: Path) -> CacheRoot:
    return open_cache(path, default=path, fallback=path)


def _fill(cache: CacheRoot) -> None:
    files, marks = [], {}
    for number in range(1, FILES + 1):
        name = f"model-{number:05}-of-{FILES:05}.safetensors"
        digest = Digest("sha256", hashlib.sha256(name.encode()).hexdigest())
        place = cache.store.path_of(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(0o444)
        os.truncate(place, SIZE_BYTES // FILES)
        files.append(FileEntry(name, SIZE_BYTES // FILES, _MODEL.with_file(name), digest))
        marks[name] = Mark.of(place.stat())
    manifest = Manifest.of(_MODEL, _REVISION, files)
    cache.index.save(IndexEntry(manifest, is_complete=True, created_at=time.time(), marks=marks))


def _milliseconds(path: Path) -> tuple[float, float]:
    """Of the whole check, and of the transfer in it."""
    began = time.perf_counter()
    cache, source = _opened(path), _Unreachable()
    entry = cache.index.load(_MODEL)
    assert entry and entry.is_complete
    manifest, skipped = choose_files(entry.listed)
    plan = survey(manifest, source, cache, skipped=skipped)
    assert plan.is_satisfied
    surveyed = time.perf_counter()
    found = transfer(plan, source, cache, cancelled=threading.Event())
    assert len(found.files) == FILES
    ended = time.perf_counter()
    return (ended - began) * 1000, (ended - surveyed) * 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
