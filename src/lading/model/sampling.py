"""The tensors of a checkpoint of which some headers were read, told from those: layers and experts repeat.

Pure. Layers to which the config gives one kind of attention and of MLP have the same tensors, and so have the experts
of a layer. What the whole comes to is known from the files' sizes to the byte: where what was derived comes to another
sum, layers are scaled to it, and the note says by how much.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lading.model.config import named_sizes, text_config
from lading.model.experts import EXPERTS, first_of, sparse_layers
from lading.model.layers import Keep, Kind, layers_of
from lading.model.safetensors import DTYPE_BITS, Tensor, are_sizes

_ENTRY = re.compile(r'"((?:[^"\\]|\\.){1,1024})"\s*:\s*(\{[^{}]{1,2048}\})')
_LAYER = re.compile(r"^(?!.*(?:visual|vision|audio|image|mtp))(.*?\b(?:layers|h|blocks|layer)\.)(\d{1,6})(\..+)$")
_EXPERT = re.compile(r"^(.*?\.experts\.)(\d{1,6})(\..+)$")


@dataclass(frozen=True, slots=True)
class Sample:
    """What was read: ``tensors`` from the headers of ``read`` of ``files`` files, which hold ``data_bytes`` in all."""

    tensors: tuple[Tensor, ...]
    read: int
    files: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Derived:
    """All tensors, those of experts as one for each layer, and by how much layers have to be scaled to add up."""

    tensors: tuple[Tensor, ...]
    scale: float
    note: str


def entries_in(text: str) -> list[Tensor]:
    """The tensors that a piece of a safetensors header describes whole, wherever it was cut."""
    found = []
    for match in _ENTRY.finditer(text):
        try:
            name, entry = json.loads(f'"{match[1]}"'), json.loads(match[2])
        except ValueError:
            continue
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not (isinstance(dtype, str) and dtype in DTYPE_BITS and are_sizes(shape) and are_sizes(offsets)):
            continue
        tensor = Tensor(name, dtype, tuple(shape))
        if len(offsets) == 2 and offsets[1] - offsets[0] == tensor.size_bytes:
            found.append(tensor)
    return found


def derive(sample: Sample, config: Mapping[str, Any]) -> Derived:
    """The tensors of the whole checkpoint."""
    text = text_config(config)
    layers = named_sizes(text)["layers"] or 0
    seen = {tensor.name: tensor for tensor in sample.tensors}.values()
    experts = first_of(text, *EXPERTS)
    fused = _with_all_experts(seen, experts)
    whole_model = list(
        {each.name: each for each in (*_in_all_layers(fused, _signatures(text, layers)), *fused)}.values()
    )
    inside = sum(each.size_bytes for each in whole_model if _LAYER.match(each.name))
    outside = sum(each.size_bytes for each in whole_model) - inside
    scale = (sample.data_bytes - outside) / inside if inside and sample.data_bytes > outside else 1.0
    return Derived(tuple(whole_model), scale, _note(sample, scale))


def _note(sample: Sample, scale: float) -> str:
    off = abs(scale - 1)
    agreement = (
        "and agree with the files' sizes" if off < 0.002 else f"and were scaled by {scale:.3f} to the files' sizes"
    )
    return (
        f"of {sample.files} weight files the headers of {sample.read} were read: repeated layers and experts were"
        f" derived from those {agreement}"
    )


def _with_all_experts(seen: Iterable[Tensor], experts: int) -> list[Tensor]:
    """The tensors, with those of one layer's experts as one tensor of all of them."""
    plain: dict[str, Tensor] = {}
    numbers: dict[str, int] = {}
    for tensor in seen:
        match = _EXPERT.match(tensor.name)
        if not match:
            plain[tensor.name] = tensor
            continue
        name = f"{match[1]}0{match[3]}"
        plain[name] = Tensor(name, tensor.dtype, tensor.shape)
        numbers[name] = max(numbers.get(name, 0), int(match[2]) + 1)
    most = experts or max(numbers.values(), default=0)
    return [
        Tensor(each.name, each.dtype, (most, *each.shape)) if each.name in numbers else each for each in plain.values()
    ]


def _in_all_layers(seen: Sequence[Tensor], signatures: Sequence[object]) -> list[Tensor]:
    """What each layer has: what any layer of its signature was seen to have.

    A layer behind the last is for multi-token prediction, where one was seen: like the last, with more to it.
    """
    by_signature: dict[object, dict[tuple[str, str], Tensor]] = {}
    drafts: dict[int, dict[tuple[str, str], Tensor]] = {}
    for tensor in seen:
        if match := _LAYER.match(tensor.name):
            number, key = int(match[2]), (match[1], match[3])
            is_draft = number >= len(signatures)
            into = drafts.setdefault(number, {}) if is_draft else by_signature.setdefault(signatures[number], {})
            into[key] = tensor
    last = by_signature.get(signatures[-1], {}) if signatures else {}
    all_layers = [(number, by_signature.get(signature, {})) for number, signature in enumerate(signatures)]
    all_layers += [(number, last | own) for number, own in drafts.items()]
    return [
        Tensor(f"{prefix}{number}{suffix}", tensor.dtype, tensor.shape)
        for number, tensors in all_layers
        for (prefix, suffix), tensor in tensors.items()
    ]


def _signatures(text: Mapping[str, Any], layers: int) -> list[object]:
    """What tells layers apart: what they keep, and whether they have experts."""
    keeps = layers_of(text, layers, Keep(Kind.FULL, 1, 1)) if layers else []
    keeps += [()] * (layers - len(keeps))
    return list(zip(keeps, sparse_layers(text, layers), strict=True))
