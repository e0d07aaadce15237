"""Look inside a model without fetching it: config.json, the quantisation config and the safetensors headers, by range.

What is verified in the cache is read from there, what lies on this machine from its place, the rest from the source;
a few KiB per shard, eight shards at once. What the files lack is said here, before any download.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from lading.digest import Digest
from lading.errors import ContentError, DigestMismatch, MalformedModel, SourceError, SourceUnreachable
from lading.model.facts import (
    CONFIG_FILE,
    QUANTIZATION_FILE,
    WEIGHTS_INDEX_FILE,
    ModelFacts,
    gather_facts,
    missing_shards,
    read_json_object,
)
from lading.model.manifest import FileEntry
from lading.model.safetensors import LENGTH_BYTES, Tensor, header_length, parse_header
from lading.sources.interface import PassingFault, Source

T = TypeVar("T")
_FIRST_READ_BYTES = 1 << 16  # covers length and header of most shards in one request
_MAX_JSON_BYTES = 64 << 20
_TRIES = 5
_THREADS = 8
_PICKLES = (".bin", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class ModelReader:
    """Ranges of a model's files. ``find`` gives a path on this machine that holds an entry's bytes, or None."""

    source: Source
    find: Callable[[FileEntry], Path | None]
    sleep: Callable[[float], None] = time.sleep

    def read(self, entry: FileEntry, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end`` (excluded); passing faults are tried again, a few times."""
        end = min(end, entry.size_bytes)
        if (path := self.find(entry)) is not None:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        for attempt in range(1, _TRIES + 1):
            try:
                return self._fetch(entry, start, end)
            except PassingFault as fault:
                if attempt == _TRIES:
                    remedy = fault.remedy or "try again later: what was fetched is kept"
                    raise SourceUnreachable(f"{entry.uri}: {fault.message}", remedy=remedy) from fault
                self.sleep(fault.retry_after_seconds or random.uniform(0, 2**attempt / 4))  # noqa: S311  # jitter
        raise AssertionError("unreachable")

    def trusting_the_source(self, entry: FileEntry, get: Callable[[ModelReader], T]) -> T:
        """What ``get`` makes of the entry; where a copy on this machine turns out damaged, of the source's bytes."""
        try:
            return get(self)
        except ContentError:
            if self.source.in_place or self.find(entry) is None:
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


def inspect(files: Sequence[FileEntry], reader: ModelReader) -> ModelFacts:
    """The facts of the model that ``files`` make up.

    Raises MalformedModel when there is no config.json, when shards that the index names are missing, when there are no
    weights, or when a header does not match its file (a truncated shard is found here).
    """
    by_path = {entry.path: entry for entry in files}
    config = _json(by_path, CONFIG_FILE, reader)
    if config is None:
        raise MalformedModel(
            f"there is no {CONFIG_FILE} among the model's {len(files)} files",
            remedy="this does not look like a Hugging Face model; name the directory that holds config.json",
        )
    shards = _weight_shards(by_path, _json(by_path, WEIGHTS_INDEX_FILE, reader))
    pickles = [entry for entry in files if entry.path.endswith(_PICKLES) and "/" not in entry.path]
    if not shards and not pickles:
        raise MalformedModel(
            "the model has no weights: no *.safetensors, and none of the older formats",
            remedy="check that the download or copy of the directory is complete",
        )
    return gather_facts(
        config,
        _all_tensors(shards, reader),
        quantization_file=_json(by_path, QUANTIZATION_FILE, reader),
        unread_weights_bytes=0 if shards else sum(entry.size_bytes for entry in pickles),
    )


def _json(by_path: Mapping[str, FileEntry], path: str, reader: ModelReader) -> dict[str, Any] | None:
    entry = by_path.get(path)
    if entry is None:
        return None
    return reader.trusting_the_source(entry, lambda trusted: read_json_object(path, trusted.read_whole(entry)))


def _weight_shards(by_path: Mapping[str, FileEntry], index: Mapping[str, Any] | None) -> list[FileEntry]:
    """The safetensors files that an engine loads: those of the index, else all at the top level."""
    if index is None:
        return [entry for path, entry in by_path.items() if path.endswith(".safetensors") and "/" not in path]
    if missing := missing_shards(index, by_path):
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise MalformedModel(
            f"{WEIGHTS_INDEX_FILE} names {names}, which the model does not have",
            remedy="the upload or copy of the model is incomplete",
        )
    return [by_path[path] for path in sorted(set(index["weight_map"].values()))]


def _all_tensors(shards: Iterable[FileEntry], reader: ModelReader) -> list[Tensor]:
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="inspect") as pool:
        tables = list(pool.map(lambda entry: read_tensors(entry, reader), shards))
    return [tensor for table in tables for tensor in table]


def read_tensors(entry: FileEntry, reader: ModelReader) -> tuple[Tensor, ...]:
    """The tensors of one safetensors file, from one or two ranged reads."""
    return reader.trusting_the_source(entry, lambda trusted: _read_tensors(entry, trusted))


def _read_tensors(entry: FileEntry, reader: ModelReader) -> tuple[Tensor, ...]:
    first = reader.read(entry, 0, _FIRST_READ_BYTES)
    length = header_length(entry.path, first, entry.size_bytes)
    header = first[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(header) < length:
        header += reader.read(entry, LENGTH_BYTES + len(header), LENGTH_BYTES + length)
    return parse_header(entry.path, header, entry.size_bytes)
