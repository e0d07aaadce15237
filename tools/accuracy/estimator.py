"""The one place where the report meets the estimator: a record's situation in, the estimator's figures out.

When the estimator's interface changes, this file does and nothing else of the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from lading.hardware.inventory import Gpu, Inventory
from lading.model.facts import ModelFacts, gather_facts
from lading.model.weights import Heads, Loading
from lading.profiles.fit import Engine, Verdict, Wish, fit
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile
from tools.accuracy.records import Model, Record

SPOKEN = frozenset({"vllm", "sglang", "tensorrt_llm"})
"""The engines that the estimator speaks of."""

_ENDLESS = 1 << 30  # a length that no machine holds: the estimator then says what it would suggest instead
_CAPABILITY = (9, 0)
_DTYPES = {"float32": "float32"}  # what a checkpoint is not held in unless told
_ONLINE = {"fp8"}
"""Quantisations that are an option where the checkpoint has none."""


@dataclass(frozen=True, slots=True)
class Estimated:
    """What the estimator says of a record's situation, for the rank whose figures the record gives.

    ``tokens_in`` gives the tokens that a pool of so many bytes has room for, None where the cache is not known;
    ``suggested`` is the longest length it would suggest, were the model endless.
    """

    weights_bytes: int
    activation_bytes: int
    non_torch_bytes: int
    graph_bytes: int
    kv_bytes: int
    kv_tokens: int | None
    is_compatible: bool
    suggested: int | None
    tokens_in: Callable[[int], int] | None


class Situation(NamedTuple):
    """A record's machine and engine, as the estimator takes them."""

    profile: Profile
    facts: ModelFacts
    inventory: Inventory
    engines: tuple[Engine, ...]
    wish: Wish


def estimate_record(record: Record, model: Model) -> Estimated:
    """The figures for what the record ran; of its first rank, as logs give them."""
    situation = _situation(record, model)
    found, endless = fit(*situation), fit(*_endless(situation))
    needs = found.estimate
    rank = needs.ranks[0]
    tokens = min(each.kv_pool_tokens for each in needs.ranks)
    return Estimated(
        weights_bytes=rank.bytes_of("weights", "rope_cache", "allocator"),  # the engine's "model loading" counts all
        activation_bytes=rank.bytes_of("activation", "encoder"),
        non_torch_bytes=rank.bytes_of("non_torch"),
        graph_bytes=rank.bytes_of("cuda_graphs"),
        kv_bytes=rank.kv_pool_bytes,
        kv_tokens=tokens if rank.kv.pool and tokens > 0 else None,
        is_compatible=found.verdict is Verdict.COMPATIBLE,
        suggested=endless.suggested_max_model_len,
        tokens_in=rank.kv.tokens_in if rank.kv.pool else None,
    )


def stage_weights(model: Model, tp: int, pp: int) -> tuple[int, ...]:
    """Bytes that a rank of each pipeline stage holds once the model is loaded."""
    facts = gather_facts(model.config, model.tensors, quantization_file=model.quantization_file)
    if facts.weights is None:
        raise ValueError("the checkpoint has no tensors")
    heads = Heads(facts.attention_heads or 0, facts.kv_heads or 0)
    return tuple(size + facts.rope_cache_bytes for size in facts.weights.rank_bytes(Loading(tp, pp, heads)))


def _endless(situation: Situation) -> Situation:
    wish = situation.wish
    return situation._replace(
        wish=replace(wish, any_length=True, options=replace(wish.options, max_model_len=_ENDLESS))
    )


def _situation(record: Record, model: Model) -> Situation:
    facts = gather_facts(model.config, model.tensors, quantization_file=model.quantization_file)
    profile = Profile(record.engine, facts.precision, record.tp, record.pp, lora=False, model_key=record.model)
    gpus = tuple(
        Gpu(index, record.gpu, record.total_bytes, record.total_bytes, _CAPABILITY)
        for index in range(record.tp * record.pp)
    )
    machine = Inventory(gpus, ram_bytes=0, ram_available_bytes=0, cpu_count=0)
    engine = Engine(record.engine, record.version, machine.device)
    return Situation(profile, facts, machine, (engine,), Wish(tp=record.tp, pp=record.pp, options=_options(record)))


def _options(record: Record) -> EngineOptions:
    """What the record asked of the engine; what it does not tell was the default."""
    return EngineOptions(
        max_model_len=record.max_model_len,
        gpu_utilization=record.utilization,
        max_sequences=record.sequences,
        batched_tokens=record.batched_tokens,
        dtype=_DTYPES.get(record.dtype or ""),
        kv_dtype=record.kv_dtype if record.kv_dtype != "auto" else None,
        quantization=record.quantization if record.quantization in _ONLINE else None,
        eager=record.eager,
        expert_parallel=record.ep,
        data_parallel=record.dp,
    )
