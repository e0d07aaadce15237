"""What every engine's accounting starts from: the weights of each rank as they are loaded, and the KV cache's shape.

Both follow what was asked of the engine: a wider type, quantisation while loading, language layers alone, a part of the
weights left in RAM, another type or block of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from lading.model.attention import KvLayout
from lading.model.facts import ModelFacts
from lading.model.placement import Stage
from lading.model.weights import ONLINE_BYTES, Heads, Loading, WeightTable, stage_layers
from lading.profiles.options import DTYPE_BYTES, EngineOptions
from lading.profiles.profile import Profile
from lading.profiles.terms import Term

_HALF_PRECISIONS = ("bf16", "fp16")
_KV_BYTES = {"fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "nvfp4": 0.5625, "mxfp8": 1 + 1 / 32}


@dataclass(frozen=True, slots=True)
class RankSizes:
    """What is known of one rank before any engine's own accounting: its place, its weights and its cache.

    ``layers`` are those of its stage, and ``share`` what they are of all; ``layout`` is that of all layers.
    ``allocator`` is what PyTorch takes of a GPU beyond the weights while it loads them.
    """

    rank: int
    stage: int
    stages: int
    layers: int
    share: float
    weights: tuple[Term, ...]
    allocator: Term
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
    weights, layout = _stage_weights(facts, profile, options), kv_layout(facts, options)
    rounding = _stage_rounding(facts, profile, options)
    return tuple(
        RankSizes(
            rank=stage * profile.tp + number,
            stage=stage,
            stages=profile.pp,
            layers=len(stages[stage]),
            share=len(stages[stage]) / facts.layers if facts.layers else 1 / profile.pp,
            weights=weights[stage],
            allocator=Term("allocator", rounding[stage], "PyTorch's segments are multiples of 2 MiB"),
            layout=layout,
        )
        for stage in range(profile.pp)
        for number in range(profile.tp)
    )


def quantization_of(facts: ModelFacts, profile: Profile, options: EngineOptions) -> str | None:
    """The method that quantises 16-bit weights while they are loaded; None where they stay as they are."""
    if facts.precision not in _HALF_PRECISIONS or options.element_bytes != 2:
        return None
    asked = options.quantization or (profile.precision if profile.online else None)
    return asked if asked in ONLINE_BYTES else None


def kv_layout(facts: ModelFacts, options: EngineOptions) -> KvLayout | None:
    """The KV cache of all layers, in the type that was asked for."""
    if facts.kv is None:
        return None
    element = _KV_BYTES.get(options.kv_dtype or "", DTYPE_BYTES.get(options.kv_dtype or ""))
    if element is None:
        return facts.kv.with_kv_bytes(4) if options.element_bytes == 4 else facts.kv
    return facts.kv.with_kv_bytes(element)


def _stage_weights(facts: ModelFacts, profile: Profile, options: EngineOptions) -> tuple[tuple[Term, ...], ...]:
    online = quantization_of(facts, profile, options)
    how = _how(facts, profile, options, online)
    offload = options.cpu_offload_bytes
    rope = Term("rope_cache", facts.rope_cache_bytes * options.element_bytes // 2, "rotary positions, on every rank")
    found: list[tuple[Term, ...]] = [
        (Term("weights", max(0, round(size) - offload), how), rope)
        for size in _stage_bytes(facts, profile, options, online)
    ]
    if facts.weights and options.speculation and options.speculation.own_layers:
        draft = Term("draft", ceil(facts.weights.draft_bytes / profile.tp), "the model's own layers for speculation")
        found[-1] = (*found[-1], draft)
    return tuple(found)


def _stage_bytes(
    facts: ModelFacts, profile: Profile, options: EngineOptions, online: str | None
) -> tuple[int | float, ...]:
    if facts.weights is None:
        share = (ONLINE_BYTES[online] if online else options.element_bytes) / 2
        return (ceil(facts.weights_bytes * share / profile.ranks),) * profile.pp
    return _loaded(facts.weights, options).rank_bytes(_loading(facts, profile, options, online))


def _stage_rounding(facts: ModelFacts, profile: Profile, options: EngineOptions) -> tuple[int, ...]:
    if facts.weights is None or options.cpu_offload_bytes:
        return (0,) * profile.pp
    online = quantization_of(facts, profile, options)
    return _loaded(facts.weights, options).rounding_bytes(_loading(facts, profile, options, online))


def _loaded(table: WeightTable, options: EngineOptions) -> WeightTable:
    """What of the weights is loaded."""
    if not options.language_model_only:
        return table
    portions = tuple(each for each in table.portions if each.stage is not Stage.TOWER)
    parameters = tuple(each for each in table.parameters if each.parts[0].stage is not Stage.TOWER)
    return replace(table, portions=portions, parameters=parameters)


def _loading(facts: ModelFacts, profile: Profile, options: EngineOptions, online: str | None) -> Loading:
    heads = Heads(facts.attention_heads or 0, facts.kv_heads or 0)
    expert_ranks = profile.tp * options.data_parallel if options.expert_parallel else 0
    return Loading(profile.tp, profile.pp, heads, online, expert_ranks, options.element_bytes)


def _how(facts: ModelFacts, profile: Profile, options: EngineOptions, online: str | None) -> str:
    if facts.weights is None:
        how = "files" if profile.ranks == 1 else f"files, split over {profile.ranks}"
    elif profile.ranks == 1:
        how = "safetensors headers"
    else:
        how = "safetensors headers, each tensor where the engine puts it"
    if online:
        return f"{how}; linear layers become {online} while loading"
    return f"{how}; in float32" if options.element_bytes == 4 else how
