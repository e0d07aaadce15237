"""Model directories of any size on any disk: true safetensors headers, and holes where the data would be."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lading.model.safetensors import Tensor
from tests.checkpoints import GB, checkpoint
from tests.checkpoints.parts import Config

_ALIGNMENT = 8


def write_sparse(
    directory: Path,
    config: Config,
    *,
    quantization_file: Mapping[str, Any] | None = None,
    shard_bytes: int = 5 * GB,
) -> int:
    """The model that ``config`` describes below ``directory``; gives the bytes its tensors would take.

    The shards have the headers and the sizes of real ones and take next to no room; the index, ``config.json`` and,
    where given, ``hf_quant_config.json`` are whole.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = checkpoint(config, quantization_file=quantization_file, shard_bytes=shard_bytes)
    total = sum(each.tensor.size_bytes for each in found)
    for file, group in groupby(found, key=lambda each: each.file):
        _write_shard(directory / file, [each.tensor for each in group])
    index = {"metadata": {"total_size": total}, "weight_map": {each.tensor.name: each.file for each in found}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    if quantization_file:
        (directory / "hf_quant_config.json").write_text(json.dumps(quantization_file))
    return total


def _write_shard(path: Path, tensors: Sequence[Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
