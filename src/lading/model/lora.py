"""What a LoRA adapter is, told by its adapter_config.json and the header of its weights, and why it cannot be used.

The format is PEFT's (``peft/tuners/lora/config.py``). Reasons are sentences without the adapter's name. Whether an
adapter was made for a model is told by shapes alone: names of base models are paths of other machines as often as not.
Sizes differ between the layers of some models, so one kind of layer speaks against an adapter only where none of them
fits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lading.errors import MalformedModel
from lading.model.facts import ModelFacts
from lading.model.safetensors import Tensor

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
"""The files that weights may be in; the first that is there counts, as engines have it."""
ADAPTER_FILES = (ADAPTER_CONFIG, *ADAPTER_WEIGHTS, "added_tokens.json")
"""Everything of an adapter that an engine reads."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes room for (``vllm/config/lora.py``)."""

_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_CLASSIFIERS = ("classifier", "score")
_PAIR = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")
_TEXT_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)")
_TOWERS = ("vision", "visual", "audio", "encoder", "tower")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """An adapter_config.json, as far as serving needs. ``rank`` is the largest of all layers, ``base`` as it names it.

    ``has_one_rank``: no layer has a rank of its own. ``oddities`` are features beyond plain LoRA, in words.
    """

    rank: int
    base: str
    has_one_rank: bool
    oddities: tuple[str, ...]

    @classmethod
    def parse(cls, text: bytes) -> AdapterConfig:
        """The config that ``text`` is; raises MalformedModel, whose message is a reason."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise MalformedModel(f"its {ADAPTER_CONFIG} is not valid JSON") from None
        if not isinstance(data, dict):
            raise MalformedModel(f"its {ADAPTER_CONFIG} is no JSON object")
        kind = data.get("peft_type", "LORA")
        if str(kind).upper() != "LORA":
            raise MalformedModel(f"it is of type {kind}, not LORA")
        pattern = data.get("rank_pattern") or {}
        ranks = [data.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])]
        if not all(type(rank) is int and rank > 0 for rank in ranks):
            raise MalformedModel(f"its {ADAPTER_CONFIG} has no rank (r) that is a number above 0")
        base = data.get("base_model_name_or_path")
        return cls(max(ranks), str(base or ""), len(ranks) == 1, tuple(_oddities(data)))


def rank_room(rank: int) -> int:
    """The least of :data:`RANKS` that holds ``rank``; ``rank`` itself where none does."""
    return next((each for each in RANKS if each >= rank), rank)


def unfit(config: AdapterConfig, tensors: Sequence[Tensor] | None, base: ModelFacts, max_rank: int) -> str | None:
    """Why an adapter cannot be used on ``base``, with room for ``max_rank``; None where nothing speaks against it.

    ``tensors`` are those of its safetensors file; None for a pickle, which is not looked into.
    """
    if config.rank > max_rank:
        return f"its rank is {config.rank}, and there is room for {max_rank} (NIM_MAX_LORA_RANK)"
    if config.oddities:
        return f"engines do not serve it: {', '.join(config.oddities)}"
    return None if tensors is None else _malformed(config, tensors) or _other_base(config, tensors, base)


def _oddities(data: Mapping[str, Any]) -> Iterator[str]:
    """What of PEFT's features no engine has: by vLLM's own checks (``vllm/lora/peft_helper.py``, 0.32)."""
    if data.get("use_dora"):
        yield "DoRA (use_dora)"
    if data.get("lora_bias") or data.get("bias", "none") != "none":
        yield "biases (bias, lora_bias)"
    saved = data.get("modules_to_save") or ()
    if others := [str(each) for each in saved if each not in _CLASSIFIERS]:
        yield f"whole modules ({', '.join(others)} in modules_to_save)"
    start = data.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_INITS:
        yield f"changed base weights (init_lora_weights={start})"
    for name in ("layer_replication", "alora_invocation_tokens", "use_bdlora", "use_qalora"):
        if data.get(name):
            yield name


def _malformed(config: AdapterConfig, tensors: Iterable[Tensor]) -> str | None:
    sides = _sides(tensors)
    if not sides:
        return "its weights hold no LoRA matrices (lora_A, lora_B)"
    for layer, pair in sides.items():
        if set(pair) != {"A", "B"}:
            return f"its weights lack one of lora_A and lora_B of {layer}"
    ranks = {pair["A"].shape[0] for pair in sides.values() if len(pair["A"].shape) == 2}
    if config.has_one_rank and ranks and ranks != {config.rank}:
        found = ", ".join(map(str, sorted(ranks)))
        return f"its {ADAPTER_CONFIG} says rank {config.rank}, its weights have {found}"
    return None


def _other_base(config: AdapterConfig, tensors: Iterable[Tensor], base: ModelFacts) -> str | None:
    """What of the shapes no layer of ``base`` has."""
    made_for = f"; it was made for {config.base}" if config.base else ""
    found: dict[tuple[str, int], set[int]] = {}
    last = -1
    for layer, pair in _sides(tensors).items():
        place = _TEXT_LAYER.fullmatch(layer)
        if place is None or any(tower in layer for tower in _TOWERS):
            continue
        last = max(last, int(place[1]))
        for what, wanted, size in _sizes(place[2], pair, base):
            found.setdefault((what, wanted), set()).add(size)
    layers = base.layers and base.layers + base.draft_layers
    if layers and last >= layers:
        return f"it changes layer {last}, and the model has {layers}{made_for}"
    for (what, wanted), sizes in found.items():
        if wanted and wanted not in sizes:
            return f"its {what} is {', '.join(map(str, sorted(sizes)))}, the model's {wanted}{made_for}"
    return None


def _sizes(module: str, pair: Mapping[str, Tensor], base: ModelFacts) -> Iterator[tuple[str, int, int]]:
    """What a pair tells of a size: its name, what the model has (0: not known), what the adapter has."""
    if any(len(tensor.shape) != 2 for tensor in pair.values()):
        return
    inputs, outputs = pair["A"].shape[1], pair["B"].shape[0]
    inner = 0 if base.experts else base.intermediate_size or 0
    if module in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        yield "hidden size", base.hidden_size or 0, inputs
    if module in ("o_proj", "down_proj"):
        yield "hidden size", base.hidden_size or 0, outputs
    if module in ("gate_proj", "up_proj"):
        yield "intermediate size", inner, outputs
    if module == "down_proj":
        yield "intermediate size", inner, inputs
    if module in ("k_proj", "v_proj"):
        yield "width of keys and values", (base.kv_heads or 0) * (base.head_dim or 0), outputs


def _sides(tensors: Iterable[Tensor]) -> dict[str, dict[str, Tensor]]:
    """The matrices A and B of each layer that is changed."""
    found: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        if match := _PAIR.fullmatch(tensor.name):
            found.setdefault(match[1], {})[match[2]] = tensor
    return found
