"""What a model is, from its config and the headers of its weights: less than 2 MB of it, however large it is.

An index of the tensors is read where it and the headers together stay within that; of a longer one only its start,
which names the shards. What the files lack is said here, before any download.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lading.errors import MalformedModel
from lading.inspection.engine import read_engine
from lading.inspection.headers import expected_bytes, read_headers
from lading.inspection.reader import ModelReader
from lading.model.built_engine import engine_folder
from lading.model.config import CONFIG_FILE
from lading.model.engine_facts import engine_facts
from lading.model.facts import QUANTIZATION_FILE, ModelFacts, gather_facts, read_json_object
from lading.model.files import WEIGHTS_INDEX_FILE, loaded_shards, unread_bytes, weight_map
from lading.model.manifest import FileEntry
from lading.model.safetensors import Tensor
from lading.model.sampling import Sample, derive

BUDGET_BYTES = 1_800_000  # config, index and headers together: listings come beside them

_HEADERS_PER_INDEX = 1.4  # a header's entry is so much longer than the index's
_INDEX_PREFIX_BYTES = 4096
_LEAST_BUDGET_BYTES = 400_000
_NAMED_FAMILY = re.compile(rb'"([^"/\\]+-)\d{3,6}(-of-\d{3,6}\.safetensors)"')


@dataclass(frozen=True, slots=True)
class _Shards:
    """The shards to look into, how long their headers should be, and what is left of the budget for that."""

    entries: tuple[FileEntry, ...]
    expected: Mapping[str, int]
    budget_bytes: int


def inspect(files: Sequence[FileEntry], reader: ModelReader) -> ModelFacts:
    """The facts of the model, or of the built engine, that ``files`` make up.

    Raises MalformedModel when there is no config.json, when shards that the index names are missing, when there are no
    weights, or when a header does not match its file (a truncated shard is found here).
    """
    by_path = {entry.path: entry for entry in files}
    if (folder := engine_folder(by_path)) is not None:
        return engine_facts(read_engine(by_path, folder, lambda path: _json(by_path, path, reader)))
    config = _json(by_path, CONFIG_FILE, reader)
    if config is None:
        raise MalformedModel(
            f"there is no {CONFIG_FILE} among the model's {len(files)} files",
            remedy="this does not look like a Hugging Face model; name the directory that holds config.json",
        )
    shards = _shards(by_path, reader)
    unread, note = (0, "") if shards.entries else unread_bytes(files)
    if not shards.entries and not unread:
        raise MalformedModel(
            "the model has no weights: no *.safetensors, and none of the older formats",
            remedy="check that the download or copy of the directory is complete",
        )
    read = read_headers(shards.entries, reader, shards.expected, shards.budget_bytes) if shards.entries else ()
    tensors, scale, derived = _whole(read, config)
    return gather_facts(
        config,
        tensors,
        quantization_file=_json(by_path, QUANTIZATION_FILE, reader),
        unread_weights_bytes=unread,
        notes=[each for each in (note, derived) if each],
        layer_scale=scale,
    )


def _whole(read: tuple[Tensor, ...] | Sample, config: Mapping[str, Any]) -> tuple[Sequence[Tensor], float, str]:
    """The tensors, each name once, by how much they are to be scaled, and what is to be said of that."""
    if isinstance(read, Sample):
        derived = derive(read, config)
        return derived.tensors, derived.scale, derived.note
    return list({tensor.name: tensor for tensor in read}.values()), 1.0, ""


def _json(by_path: Mapping[str, FileEntry], path: str, reader: ModelReader) -> dict[str, Any] | None:
    entry = by_path.get(path)
    if entry is None:
        return None
    return reader.trusting_the_source(entry, lambda trusted: read_json_object(path, trusted.read_whole(entry)))


def _shards(by_path: Mapping[str, FileEntry], reader: ModelReader) -> _Shards:
    """The safetensors files that an engine loads, by the index where it is short enough to be read."""
    described = (by_path.get(CONFIG_FILE), by_path.get(QUANTIZATION_FILE))
    budget = max(_LEAST_BUDGET_BYTES, BUDGET_BYTES - sum(entry.size_bytes for entry in described if entry))
    entry = by_path.get(WEIGHTS_INDEX_FILE)
    if entry is None:
        return _Shards(tuple(by_path[path] for path in loaded_shards(by_path, None)), {}, budget)
    if reader.is_here(entry) or entry.size_bytes * (1 + _HEADERS_PER_INDEX) <= budget:
        named = weight_map(_json(by_path, WEIGHTS_INDEX_FILE, reader) or {})
        paths = loaded_shards(by_path, named.values())
        left = budget if reader.is_here(entry) else budget - entry.size_bytes
        return _Shards(tuple(by_path[path] for path in paths), expected_bytes(named), left)
    paths = loaded_shards(_family(by_path, entry, reader), None)
    length = round(entry.size_bytes * _HEADERS_PER_INDEX / max(1, len(paths)))
    return _Shards(tuple(by_path[path] for path in paths), dict.fromkeys(paths, length), budget - _INDEX_PREFIX_BYTES)


def _family(by_path: Mapping[str, FileEntry], index: FileEntry, reader: ModelReader) -> list[str]:
    """The files but for shards of another numbering than the one that the start of the index names."""
    named = _NAMED_FAMILY.search(reader.read(index, 0, _INDEX_PREFIX_BYTES))
    if named is None:
        return list(by_path)
    start, end = named[1].decode(errors="replace"), named[2].decode(errors="replace")
    other = re.compile(r".+-\d{3,6}-of-\d{3,6}\.safetensors")
    return [path for path in by_path if (path.startswith(start) and path.endswith(end)) or not other.fullmatch(path)]
