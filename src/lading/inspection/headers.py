"""The safetensors headers of a model's shards, in few bytes: all of them where a budget allows, else a sample.

How long a header is can be foretold: each tensor takes its name and about a hundred bytes more. So the first read of a
shard takes in the whole header, and only where it is longer a second one follows. What lies on this machine costs
nothing and is read whole. Which ranges are read follows from sizes alone, so that looking again reads the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from lading.inspection.reader import ModelReader
from lading.model.manifest import FileEntry
from lading.model.safetensors import LENGTH_BYTES, Tensor, header_length, parse_header
from lading.model.sampling import Sample, entries_in

THREADS = 32

R = TypeVar("R")
_ENTRY_BYTES = 92  # what an entry of a header takes beside its name, where offsets are long
_PREAMBLE_BYTES = 512
_LEAST_READ, _MOST_READ = 2048, 1 << 16
_LEAST_SAMPLED = 4
_RUN = 4  # shards in a row, so that a layer is seen whole
_WINDOWS = 4


@dataclass(frozen=True, slots=True)
class _Part:
    """What was read of one header: all tensors of a whole one, some of one that is too long."""

    tensors: tuple[Tensor, ...]
    header_bytes: int


def expected_bytes(weight_map: Mapping[str, str]) -> dict[str, int]:
    """How long each shard's header should be, by the names of its tensors."""
    lengths: dict[str, int] = {}
    for name, shard in weight_map.items():
        lengths[shard] = lengths.get(shard, _PREAMBLE_BYTES) + len(name) + _ENTRY_BYTES
    return lengths


def read_headers(
    shards: Sequence[FileEntry], reader: ModelReader, expected: Mapping[str, int], budget_bytes: int
) -> tuple[Tensor, ...] | Sample:
    """The tensors of all shards; where their headers take more than the budget, a sample.

    ``expected`` is how long a header should be, by path. Raises MalformedModel for a header that does not match its
    file.
    """
    away = [entry for entry in shards if not reader.is_here(entry)]
    usual = min(_MOST_READ, max(_LEAST_READ, budget_bytes // (4 * max(1, len(away)))))
    firsts = {entry.path: min(entry.size_bytes, expected.get(entry.path, usual)) for entry in away}
    if sum(firsts.values()) > budget_bytes:
        return _sample(shards, reader, expected, budget_bytes)
    lengths = _on_threads(away, lambda entry: _header_bytes(entry, reader, firsts[entry.path]))
    beyond = sum(max(0, lengths[path] - first) for path, first in firsts.items())
    if sum(firsts.values()) + beyond > budget_bytes:
        return _sample(shards, reader, lengths, budget_bytes - sum(firsts.values()))
    tables = _on_threads(shards, lambda entry: read_tensors(entry, reader, firsts.get(entry.path, _MOST_READ)))
    return tuple(tensor for entry in shards for tensor in tables[entry.path])


def read_tensors(entry: FileEntry, reader: ModelReader, first_bytes: int = _MOST_READ) -> tuple[Tensor, ...]:
    """The tensors of one safetensors file, from one or two ranged reads."""
    return reader.trusting_the_source(entry, lambda trusted: _read_tensors(entry, trusted, first_bytes))


def _read_tensors(entry: FileEntry, reader: ModelReader, first_bytes: int) -> tuple[Tensor, ...]:
    first = reader.read(entry, 0, max(first_bytes, LENGTH_BYTES))
    length = header_length(entry.path, first, entry.size_bytes)
    header = first[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(header) < length:
        header += reader.read(entry, LENGTH_BYTES + len(header), LENGTH_BYTES + length)
    return parse_header(entry.path, header, entry.size_bytes)


def _header_bytes(entry: FileEntry, reader: ModelReader, first_bytes: int) -> int:
    """The length of the header and of what comes before it, from the first read."""
    first = reader.read(entry, 0, max(first_bytes, LENGTH_BYTES))
    return LENGTH_BYTES + header_length(entry.path, first, entry.size_bytes)


def _sample(shards: Sequence[FileEntry], reader: ModelReader, lengths: Mapping[str, int], budget_bytes: int) -> Sample:
    """The tensors of some shards, read within the budget; of headers that are very long, some pieces."""
    typical = sum(lengths.values()) // len(lengths) if lengths else _MOST_READ
    count = max(_LEAST_SAMPLED, budget_bytes // max(1, typical + _PREAMBLE_BYTES))
    chosen = [shards[number] for number in _spread(len(shards), count)]
    share = max(_LEAST_READ, budget_bytes // len(chosen))
    parts = _on_threads(chosen, lambda entry: _part(entry, reader, min(share, lengths.get(entry.path, share)), share))
    mean = sum(part.header_bytes for part in parts.values()) // len(parts)
    headers = {entry.path: lengths.get(entry.path, mean) for entry in shards}
    headers |= {path: part.header_bytes for path, part in parts.items()}
    return Sample(
        tensors=tuple(tensor for entry in chosen for tensor in parts[entry.path].tensors),
        read=len(chosen),
        files=len(shards),
        data_bytes=sum(entry.size_bytes - headers[entry.path] for entry in shards),
    )


def _part(entry: FileEntry, reader: ModelReader, first_bytes: int, share_bytes: int) -> _Part:
    """A header whole where it takes no more than its share, else as many tensors as a few pieces of it show."""
    if reader.is_here(entry):
        share_bytes = entry.size_bytes
    window = max(_LEAST_READ, share_bytes // _WINDOWS)
    length = _header_bytes(entry, reader, min(first_bytes, window))
    if length <= share_bytes:
        return _Part(read_tensors(entry, reader, min(first_bytes, window)), length)
    starts = [LENGTH_BYTES + (length - window) * number // (_WINDOWS - 1) for number in range(1, _WINDOWS)]
    texts = [reader.read(entry, 0, min(first_bytes, window))]
    texts += [reader.read(entry, start, min(start + window, length)) for start in starts]
    found = [tensor for text in texts for tensor in entries_in(text.decode(errors="replace"))]
    return _Part(tuple(found), length)


def _spread(files: int, count: int) -> list[int]:
    """So many of the numbers below ``files``: both ends, some in a row, and others evenly between."""
    middle = files // 2
    first = [0, files - 1, *range(middle, middle + _RUN), 1, *range(files - 2, files - 1 - _RUN, -1)]
    even = [round(number * (files - 1) / max(1, count)) for number in range(count + 1)]
    usable = [number for number in (*first, *even, *range(files)) if 0 <= number < files]
    return sorted(list(dict.fromkeys(usable))[:count])


def _on_threads(entries: Iterable[FileEntry], get: Callable[[FileEntry], R]) -> dict[str, R]:
    """What ``get`` makes of each entry, by path."""
    asked = list(entries)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="inspect") as pool:
        return dict(zip((entry.path for entry in asked), pool.map(get, asked), strict=True))
