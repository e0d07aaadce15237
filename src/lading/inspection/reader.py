"""Ranges of a model's files: what is verified in the cache is read there, the rest from the source, each range once.

What came from the source is remembered in :class:`lading.cache.listing.Reads`, which the cache keeps: looking
again asks for nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from lading.cache.listing import Reads
from lading.digest import Digest
from lading.errors import ContentError, DigestMismatch, MalformedModel, SourceError, SourceUnreachable
from lading.model.manifest import FileEntry
from lading.sources.interface import PassingFault, Source

T = TypeVar("T")
_MAX_JSON_BYTES = 64 << 20
_TRIES = 5


@dataclass(frozen=True, slots=True)
class ModelReader:
    """Ranges of a model's files. ``find`` gives a path on this machine that holds an entry's bytes, or None."""

    source: Source
    find: Callable[[FileEntry], Path | None]
    sleep: Callable[[float], None] = time.sleep
    reads: Reads = field(default_factory=Reads)

    def read(self, entry: FileEntry, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end`` (excluded); passing faults are tried again, a few times."""
        end = min(end, entry.size_bytes)
        if (path := self.find(entry)) is not None:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        if (known := self.reads.find(entry, start, end)) is not None:
            return known
        data = self._fetch_patiently(entry, start, end)
        self.reads.add(entry, start, data)
        return data

    def trusting_the_source(self, entry: FileEntry, get: Callable[[ModelReader], T]) -> T:
        """What ``get`` makes of the entry; where what this machine has of it is damaged, of the source's bytes."""
        try:
            return get(self)
        except ContentError:
            if self.source.in_place or self.find(entry) is None:
                self.reads.forget(entry)
                raise
            try:
                return get(replace(self, find=lambda _: None))
            except SourceError:
                pass  # it cannot be asked: what is wrong here is the news
            raise

    def read_whole(self, entry: FileEntry) -> bytes:
        """All bytes of a small file, checked against the digest that its source promised."""
        if entry.size_bytes > _MAX_JSON_BYTES:
            raise MalformedModel(f"{entry.path}: {entry.size_bytes} bytes are too many for a description")
        data = self.read(entry, 0, entry.size_bytes)
        if len(data) != entry.size_bytes or (entry.digest and Digest.of(data, entry.digest.algorithm) != entry.digest):
            raise DigestMismatch(f"{entry.uri}: its bytes are not those that were listed", remedy="list it again")
        return data

    def is_here(self, entry: FileEntry) -> bool:
        """Whether reading the file costs nothing."""
        return self.source.in_place or self.find(entry) is not None

    def _fetch_patiently(self, entry: FileEntry, start: int, end: int) -> bytes:
        for attempt in range(1, _TRIES + 1):
            try:
                return self._fetch(entry, start, end)
            except PassingFault as fault:
                if attempt == _TRIES:
                    remedy = fault.remedy or "try again later: what was fetched is kept"
                    raise SourceUnreachable(f"{entry.uri}: {fault.message}", remedy=remedy) from fault
                self.sleep(fault.retry_after_seconds or random.uniform(0, 2**attempt / 4))  # noqa: S311  # jitter
        raise AssertionError("unreachable")

    def _fetch(self, entry: FileEntry, start: int, end: int) -> bytes:
        buffer = bytearray(end - start)
        if not buffer:
            return b""
        filled = 0
        with self.source.open_range(entry, start, end) as body:
            while filled < len(buffer):
                count = body.readinto(memoryview(buffer)[filled:])
                if not count:
                    raise SourceUnreachable(f"{entry.uri}: the answer ended early")
                filled += count
        return bytes(buffer)
