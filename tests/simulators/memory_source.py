"""A source in memory that keeps every rule of the port, commits the faults it is told to, and remembers each request.

``add`` puts a file in; ``manifest`` lists them all. A fault is armed for one file with ``fail`` and is used up by the
next request it can harm; ``ALWAYS`` never is. ``delay_seconds`` slows every read down, ``most_readers`` is how many ranges were open at a time, ``gate`` holds reads until it is
set, so that a test can act while bytes are on their way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lading.digest import Digest
from lading.model.manifest import FileEntry, Manifest
from lading.sources.interface import Access, PassingFault, RangeIgnored
from lading.uri import ModelUri

ALWAYS = -1


@dataclass(frozen=True)
class Request:
    """One range that was asked for."""

    path: str
    start: int
    end: int


@dataclass
class Fault:
    """What goes wrong, so many ``times``. Only the fields that are set do anything."""

    times: int = 1
    refuse: Exception | None = None  # the request is refused with this
    cut_after: int | None = None  # the connection breaks after so many bytes of the response
    ends_at: int | None = None  # the body ends, silently, at this offset of the file
    invert: int | None = None  # the byte at this offset of the file is wrong

    def harms(self, start: int, end: int) -> bool:
        """Whether a request for this range meets the fault."""
        if self.times == 0:
            return False
        if self.cut_after is not None:
            return end - start > self.cut_after
        if self.invert is not None:
            return start <= self.invert < end
        return self.ends_at is None or end > self.ends_at


@dataclass
class MemorySource:
    """Implements :class:`lading.sources.interface.Source`."""

    model: ModelUri = field(default_factory=lambda: ModelUri.parse("hf://demo/tiny"))
    revision: str | None = "c0ffee"
    delay_seconds: float = 0.0
    read_bytes: int = 1 << 30
    ignores_ranges: bool = False
    copies: dict[str, Path] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    in_place: bool = False

    def access(self, model: ModelUri) -> Access:
        return Access(model.location, None)

    def __post_init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.entries: dict[str, FileEntry] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.most_readers = self._readers = 0
        self.sent_bytes = 0
        self._lock = threading.Lock()
        self.gate.set()

    def add(
        self,
        path: str,
        data: bytes,
        *,
        promise: str | Digest | None = "sha256",
        etag: str | None = None,
        listed_bytes: int | None = None,
    ) -> FileEntry:
        """Offer a file. ``promise`` is an algorithm, a digest to claim, or None; the size may be listed wrongly."""
        digest = Digest.of(data, promise) if isinstance(promise, str) else promise
        uri = self.model.with_file(path)
        uri = uri.with_revision(self.revision) if self.revision else uri
        size_bytes = len(data) if listed_bytes is None else listed_bytes
        self.data[path] = data
        self.entries[path] = FileEntry(path, size_bytes, uri, digest, etag)
        return self.entries[path]

    def fail(self, path: str, *faults: Fault) -> None:
        """Arm faults for a file, to be met in this order."""
        self.faults.setdefault(path, []).extend(faults)

    @property
    def manifest(self) -> Manifest:
        """All files."""
        return self.list_files(self.model)

    def list_files(self, model: ModelUri) -> Manifest:
        """All files, for any model."""
        return Manifest.of(model, self.revision, self.entries.values())

    def local_copy(self, file: FileEntry) -> Path | None:
        """What the test said lies on this machine."""
        return self.copies.get(file.path)

    @contextmanager
    def open_range(self, file: FileEntry, start: int, end: int) -> Iterator[_Reader]:
        """The range, or what is left of it."""
        if not 0 <= start <= end <= file.size_bytes:
            raise ValueError(f"{file.path}: {start} to {end} of {file.size_bytes}")
        with self._lock:
            self.requests.append(Request(file.path, start, end))
            fault = next((each for each in self.faults.get(file.path, []) if each.harms(start, end)), None)
            if fault and fault.times > 0:
                fault.times -= 1
        if fault and fault.refuse:
            raise fault.refuse
        if self.ignores_ranges and start > 0:
            raise RangeIgnored(f"{file.path} ignores byte ranges")
        with self._lock:
            self._readers += 1
            self.most_readers = max(self.most_readers, self._readers)
        try:
            yield _Reader(self, file.path, start, end, fault or Fault())
        finally:
            with self._lock:
                self._readers -= 1

    def requested(self, path: str) -> list[Request]:
        """The requests for one file, in order of arrival."""
        return [each for each in self.requests if each.path == path]

    def count(self, sent: int) -> None:
        """So many bytes left us."""
        with self._lock:
            self.sent_bytes += sent


class _Reader:
    def __init__(self, source: MemorySource, path: str, start: int, end: int, fault: Fault) -> None:
        self._source = source
        self._fault = fault
        data = source.data[path]
        if fault.invert is not None:
            wrong = data[fault.invert] ^ 0xFF
            data = data[: fault.invert] + bytes([wrong]) + data[fault.invert + 1 :]
        self._body = memoryview(data)[start : min(end, fault.ends_at) if fault.ends_at is not None else end]
        self._left = fault.cut_after

    def readinto(self, buffer: memoryview, /) -> int:
        if self._source.delay_seconds:
            time.sleep(self._source.delay_seconds)
        self._source.gate.wait(30)
        count = min(len(buffer), len(self._body), self._source.read_bytes)
        if self._left is not None:
            if self._left == 0:
                raise PassingFault("the connection broke")
            count = min(count, self._left)
            self._left -= count
        buffer[:count] = self._body[:count]
        self._body = self._body[count:]
        self._source.count(count)
        return count
