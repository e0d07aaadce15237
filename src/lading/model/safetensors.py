"""What a safetensors file holds, read from its header alone.

Format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length N, N bytes of JSON that map each
tensor's name to ``dtype``, ``shape`` and ``data_offsets`` (relative to the byte after the header), then the data.
A header is hostile until parsed: lengths, offsets, overlaps and sizes are checked, and a file whose data does not end
where its header says is refused, which finds every truncated shard without reading it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

from lading.errors import MalformedModel

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
_MAX_TENSORS = 1_000_000

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: its name, element type as the format writes it, and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return (self.elements * DTYPE_BITS[self.dtype] + 7) // 8


def header_length(path: str, first_bytes: bytes, file_size_bytes: int) -> int:
    """The length N of the header, from the file's first 8 bytes; raises MalformedModel when it cannot be true."""
    if len(first_bytes) < LENGTH_BYTES:
        raise MalformedModel(f"{path}: {file_size_bytes} bytes are too few for a safetensors file")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise MalformedModel(f"{path}: its first bytes are no safetensors header (length {length})")
    if LENGTH_BYTES + length > file_size_bytes:
        raise MalformedModel(f"{path}: truncated: the header alone needs {length} of {file_size_bytes} bytes")
    return length


def parse_header(path: str, header: bytes, file_size_bytes: int) -> tuple[Tensor, ...]:
    """The tensors that a header (without its 8 length bytes) describes, in the order of their data.

    Raises MalformedModel, naming ``path``, for anything that the format forbids and for a file that is too short or
    too long for its header.
    """
    try:
        entries = json.loads(header, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise MalformedModel(f"{path}: its safetensors header is not valid JSON") from None
    if not isinstance(entries, dict) or len(entries) > _MAX_TENSORS:
        raise MalformedModel(f"{path}: its safetensors header is no table of tensors")
    located = sorted(_located(path, name, entry) for name, entry in entries.items() if name != "__metadata__")
    _check_layout(path, located, file_size_bytes - LENGTH_BYTES - len(header))
    return tuple(tensor for _, _, tensor in located)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    start: int
    end: int


def _located(path: str, name: str, entry: Any) -> tuple[_Place, str, Tensor]:
    if not isinstance(entry, Mapping):
        raise MalformedModel(f"{path}: tensor {name!r} is not described by a table")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise MalformedModel(f"{path}: tensor {name!r} has the unknown type {dtype!r}")
    if not are_sizes(shape) or not are_sizes(offsets) or len(offsets) != 2:
        raise MalformedModel(f"{path}: tensor {name!r} has a wrong shape or offsets")
    tensor = Tensor(name, dtype, tuple(shape))
    if offsets[1] - offsets[0] != tensor.size_bytes:
        raise MalformedModel(f"{path}: tensor {name!r} of shape {shape} does not fill its {offsets} bytes")
    return _Place(*offsets), name, tensor


def are_sizes(values: Any) -> TypeGuard[list[int]]:
    """Whether ``values`` is a list of numbers that can be sizes."""
    return isinstance(values, list) and all(type(each) is int and 0 <= each < 1 << 63 for each in values)


def _check_layout(path: str, located: list[tuple[_Place, str, Tensor]], data_bytes: int) -> None:
    if located and located[0][0].start != 0:
        raise MalformedModel(f"{path}: its first tensor does not start where the header ends")
    for (before, _, _), (place, name, _) in pairwise(located):
        if place.start != before.end:
            raise MalformedModel(f"{path}: tensor {name!r} overlaps or leaves a gap after the one before it")
    end = located[-1][0].end if located else 0
    if end > data_bytes:
        raise MalformedModel(
            f"{path}: truncated: its header describes {end} bytes of tensors, the file holds {data_bytes}",
            remedy="fetch the file again",
        )
    if end < data_bytes:
        raise MalformedModel(f"{path}: {data_bytes - end} bytes follow the last tensor")
