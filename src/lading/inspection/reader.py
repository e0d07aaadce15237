"""Ranges of a model's files: what is verified in the cache is read there, the rest from the source, each range once.

What came from the source is remembered in :class:`Reads`, which the cache keeps: looking again asks for nothing.
"""

from __future__ import annotations

import random
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from lading.digest import Digest
from lading.errors import ContentError, DigestMismatch, MalformedModel, SourceError, SourceUnreachable
from lading.model.manifest import FileEntry
from lading.sources.interface import PassingFault, Source

T = TypeVar("T")
_MAX_JSON_BYTES = 64 << 20
_TRIES = 5


class Reads:
    """Ranges that were read of files, by the entry that names their bytes. Safe to use from several threads.

    ``Reads.from_json(r.to_json())`` knows what ``r`` knows.
    """

    def __init__(self, known: Mapping[FileEntry, Mapping[int, bytes]] | None = None) -> None:
        self._known = {entry: dict(ranges) for entry, ranges in (known or {}).items()}
        self._lock = Lock()

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

    def forget(self, entry: FileEntry) -> None:
        """Forget a file whose bytes turned out to be wrong."""
        with self._lock:
            self._known.pop(entry, None)

    def to_json(self) -> list[dict[str, Any]]:
        """The ranges as JSON values."""
        with self._lock:
            return [
                entry.to_json() | {"start": start, "data": b64encode(zlib.compress(data)).decode()}
                for entry, ranges in self._known.items()
                for start, data in ranges.items()
            ]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> Reads:
        """The value that :meth:`to_json` wrote; ValueError, KeyError, TypeError or zlib.error for anything else."""
        reads = cls()
        for each in data:
            reads.add(FileEntry.from_json(each), int(each["start"]), zlib.decompress(b64decode(each["data"])))
        return reads


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
