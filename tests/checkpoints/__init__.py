"""True checkpoint headers from configs: the tensors that the published files of a family hold.

Names are those of the hub's files, shapes follow from the config, types from the quantisation scheme with the modules
that it leaves alone; a head that is the embedding is absent where the files lack it, and layers of multi-token
prediction are present where they are published. :func:`write_sparse` makes a model directory of any size of it without
taking the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lading.model.safetensors import Tensor
from tests.checkpoints.defaults import language_part
from tests.checkpoints.families import parts_of
from tests.checkpoints.parts import Config
from tests.checkpoints.schemes import scheme_of, stored

GB = 1_000_000_000
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor and the file that holds it."""

    file: str
    tensor: Tensor


def checkpoint(
    config: Config, *, quantization_file: Mapping[str, Any] | None = None, shard_bytes: int = 5 * GB
) -> list[Stored]:
    """The tensors of the checkpoint that ``config`` describes, in files of at most ``shard_bytes`` where that works."""
    shards = list(_shards(tensors_of(config, quantization_file), shard_bytes))
    if len(shards) == 1:
        return [Stored("model.safetensors", tensor) for tensor in shards[0]]
    return [
        Stored(f"model-{number:05}-of-{len(shards):05}.safetensors", tensor)
        for number, shard in enumerate(shards, 1)
        for tensor in shard
    ]


def tensors_of(config: Config, quantization_file: Mapping[str, Any] | None = None) -> list[Tensor]:
    """The same tensors without their files."""
    scheme, dtype = scheme_of(config, quantization_file), _dtype(config)
    return [tensor for part in parts_of(config) for tensor in stored(part, scheme, dtype)]


def parameters(config: Config) -> int:
    """How many parameters the model has: a shared head once, prediction layers and buffers not at all."""
    return sum(part.elements for part in parts_of(config) if part.is_parameter)


def _shards(tensors: Iterable[Tensor], shard_bytes: int) -> Iterator[list[Tensor]]:
    shard: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.size_bytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.size_bytes
    yield shard


def _dtype(config: Config) -> str:
    text = language_part(config)
    named = next((each for key in ("dtype", "torch_dtype") for each in (text.get(key), config.get(key)) if each), "")
    return _DTYPES.get(str(named), "BF16")
