"""What every engine's accounting starts from: the weights of each rank as they are loaded, and the KV cache's shape.

Both follow what was asked of the engine: a wider type, quantisation while loading, language layers alone, a part of the
weights left in RAM, another type or block of the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from lading.model.attention import KvLayout
from lading.model.facts import ModelFacts
from lading.model.weights import Heads, Split, Stage, WeightTable, stage_layers
from lading.profiles.options import DTYPE_BYTES, EngineOptions
from lading.profiles.profile import Profile
from lading.profiles.terms import Term

_HALF_PRECISIONS = ("bf16", "fp16")
_ONLINE = {"fp8": 0.5, "bitsandbytes": 0.25 + 1 / 32}
"""Share of 16-bit weights that stays after quantisation while loading: 4 bit have a float32 scale for each 64."""
_KV_BYTES = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "nvfp4": 0.5625, "mxfp8": 1 + 1 / 32}


@dataclass(frozen=True, slots=True)
class RankSizes:
    """What is known of one rank before any engine's own accounting: its place, its weights and its cache."""

    rank: int
    stage: int
    stages: int
    layers: int
    weights: tuple[Term, ...]
    layout: KvLayout | None

    @property
    def is_first(self) -> bool:
        """Whether it has the embedding."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether it has the head, and samples."""
        return self.stage == self.stages - 1


def rank_sizes(facts: ModelFacts, profile: Profile, options: EngineOptions) -> tuple[RankSizes, ...]:
    """The ranks of a profile in the engine's order: stage by stage, within a stage the tensor-parallel ranks."""
    stages = stage_layers(facts.layers or 0, profile.pp)
    weights = _stage_weights(facts, profile, options)
    return tuple(
        RankSizes(
            rank=stage * profile.tp + number,
            stage=stage,
            stages=profile.pp,
            layers=len(stages[stage]),
            weights=weights[stage],
            layout=stage_layout(facts, options, len(stages[stage])),
        )
        for stage in range(profile.pp)
        for number in range(profile.tp)
    )


def quantization_of(facts: ModelFacts, profile: Profile, options: EngineOptions) -> str | None:
    """The method that quantises 16-bit weights while they are loaded; None where they stay as they are."""
    if facts.precision not in _HALF_PRECISIONS or options.element_bytes != 2:
        return None
    asked = options.quantization or (profile.precision if profile.online else None)
    return asked if asked in _ONLINE else None


def stage_layout(facts: ModelFacts, options: EngineOptions, layers: int) -> KvLayout | None:
    """The KV cache of a pipeline stage of so many layers; each kind of layer has its share of them."""
    layout = facts.kv
    if layout is None:
        return None
    element = _KV_BYTES.get(options.kv_dtype or "", DTYPE_BYTES.get(options.kv_dtype or ""))
    if element is None:
        element = 4 if options.element_bytes == 4 else layout.dtype_bytes
    counts = layout.layers
    if facts.layers and layers < facts.layers:
        counts = {kind: max(1, ceil(count * layers / facts.layers)) for kind, count in counts.items()}
    block = options.block_size or layout.block_tokens
    return replace(layout, layers=counts, dtype_bytes=element, block_tokens=block)


def _stage_weights(facts: ModelFacts, profile: Profile, options: EngineOptions) -> tuple[tuple[Term, ...], ...]:
    online = quantization_of(facts, profile, options)
    widened = 2.0 if options.element_bytes == 4 and facts.precision in _HALF_PRECISIONS else 1.0
    how = _how(facts, profile, online, widened)
    offload = options.cpu_offload_bytes
    return tuple(
        (
            Term("weights", max(0, round(size * widened) - offload), how),
            Term("rope_cache", facts.rope_cache_bytes * options.element_bytes // 2, "rotary positions, on every rank"),
        )
        for size in _stage_bytes(facts, profile, options, online)
    )


def _stage_bytes(
    facts: ModelFacts, profile: Profile, options: EngineOptions, online: str | None
) -> tuple[int | float, ...]:
    share = _ONLINE[online] if online else 1.0
    if facts.weights is None:
        return (ceil(facts.weights_bytes * share / profile.ranks),) * profile.pp
    table = facts.weights
    if options.language_model_only:
        table = _with_sizes(table, lambda stage, _, size: 0 if stage is Stage.ALL else size)
    if online:
        table = _with_sizes(table, lambda stage, split, size: round(size * share) if _is_linear(stage, split) else size)
    heads = Heads(facts.attention_heads or 0, facts.kv_heads or 0)
    return table.rank_bytes(profile.tp, profile.pp, heads)


def _is_linear(stage: Stage, split: Split) -> bool:
    return stage is Stage.LAYER and split is not Split.NONE


def _with_sizes(table: WeightTable, change: Callable[[Stage, Split, int], int]) -> WeightTable:
    sizes = tuple((stage, layer, split, change(stage, split, size)) for stage, layer, split, size in table.sizes)
    return replace(table, sizes=sizes)


def _how(facts: ModelFacts, profile: Profile, online: str | None, widened: float) -> str:
    if facts.weights is None:
        how = "files" if profile.ranks == 1 else f"files, split over {profile.ranks}"
    elif profile.ranks == 1:
        how = "safetensors headers"
    else:
        how = "safetensors headers, each tensor where the engine puts it"
    if online:
        return f"{how}; linear layers become {online} while loading"
    return f"{how}; widened to float32" if widened > 1 else how
