"""SGLang's accounting of a GPU: a static share for weights and KV cache, the rest kept back for all else.

The share is what was asked for, else what a formula by the GPU's size, the chunk of prefill and the captured batches
leaves (``srt/server_args.py``); it is taken of what is free before weights are loaded. Pools were not measured, so
figures are the formula's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from lading.model.attention import Blocks, Kind, KvLayout
from lading.model.facts import ModelFacts
from lading.profiles.constants import Row, row_for
from lading.profiles.lora import lora_term
from lading.profiles.profile import Profile
from lading.profiles.sizes import RankSizes, rank_sizes
from lading.profiles.terms import Estimate, KvNeed, RankEstimate, Target, Term
from lading.units import GIB, MIB

_PAGE_TOKENS = 1
_MANY_RANKS = 4
_LARGE_GPU_BYTES = 60 * GIB
_LEAST_SHARE = 1e-9
_WINDOW_SHARE = 0.8  # of the tokens of the full layers, ``--swa-full-tokens-ratio``
_WINDOWED = (Kind.SLIDING, Kind.CHUNKED)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept back of a GPU beside the static share, by what it is for."""

    activation_bytes: int
    graph_bytes: int
    reserve_bytes: int


def estimate_sglang(facts: ModelFacts, profile: Profile, target: Target, length: int) -> Estimate:
    """What each rank of ``profile`` holds, and the pool that the static share leaves beside the weights."""
    row = row_for("sglang", target.engine_version)
    context = int(row.number("context_gib") * GIB)
    chunk, batch = _limits(row, profile, target)
    kept = _kept(row, facts, profile, target, chunk, batch)
    ranks = tuple(
        _rank(facts, profile, target, sizes, [_context_term(context), *_kept_terms(kept, chunk, batch)], length)
        for sizes in rank_sizes(facts, profile, target.options)
    )
    notes = ("SGLang's own formula, not measured", row.provenance(target.engine_version))
    return Estimate(ranks, target.total_bytes, tuple(note for note in notes if note))


def _rank(
    facts: ModelFacts, profile: Profile, target: Target, sizes: RankSizes, others: list[Term], length: int
) -> RankEstimate:
    terms = [*sizes.weights, *others]
    if profile.lora:
        terms.append(lora_term(facts, sizes.layers, profile.tp, target.options))
    layout = _with_windows_shared(sizes.layout) if sizes.layout else None
    blocks = Blocks(tokens=target.options.block_size or _PAGE_TOKENS)
    kv = KvNeed.of(layout, profile.tp, sizes.share, blocks=blocks)
    left = target.total_bytes - sum(term.size_bytes for term in terms)
    pool = left if target.options.kv_pool_bytes is None else target.options.kv_pool_bytes
    tokens = kv.tokens_in(pool)
    if limit := target.options.kv_pool_tokens:
        tokens = min(tokens, limit)
    return RankEstimate(sizes.rank, tuple(terms), kv, length, pool, tokens)


def _with_windows_shared(layout: KvLayout) -> KvLayout:
    """The cache as SGLang divides it: windowed layers have a pool of their own, a fixed share of the full layers'."""
    windowed = sum(layout.layers.get(kind, 0) for kind in _WINDOWED)
    if not windowed:
        return layout
    counts: Mapping[Kind, int] = layout.layers
    if Kind.FULL in counts:
        others = {kind: count for kind, count in counts.items() if kind not in _WINDOWED}
        counts = others | {Kind.FULL: counts[Kind.FULL] + ceil(windowed * _WINDOW_SHARE)}
    else:
        counts = {Kind.FULL: windowed}
    return replace(layout, layers=counts, odd=(), is_exact=False)


def _limits(row: Row, profile: Profile, target: Target) -> tuple[int, int]:
    """Tokens of a chunk of prefill, and the largest batch that graphs are captured for."""
    options = target.options
    tier = next(tier for tier in row.rows("tiers") if target.total_bytes < tier[0] * GIB)
    chunk = options.batched_tokens or int(tier[1])
    batch = options.largest_capture or max(
        options.capture_sizes, default=int(tier[3 if profile.tp >= _MANY_RANKS else 2])
    )
    return chunk, 0 if options.eager else batch


def _kept(row: Row, facts: ModelFacts, profile: Profile, target: Target, chunk: int, batch: int) -> _Kept:
    formula = row.numbers("reserved_mib") or [512, 1.5, 2, 1024, 0]
    activation, graphs = int(max(chunk, 2048) * formula[1] * MIB), int(batch * formula[2] * MIB)
    rest = int((formula[0] + profile.ranks / 8 * formula[3]) * MIB)
    free = target.total_bytes - int(row.number("context_gib") * GIB)
    needed = activation + graphs + rest
    asked = target.options.gpu_utilization or _granted_share(target, free, needed)
    share = asked or _fixed_share(row, profile.tp)
    if share is None:
        least = int(formula[4] * MIB) if target.total_bytes > _LARGE_GPU_BYTES else 0
        share = 1 - max(needed, least) / target.total_bytes
    if facts.vision and not asked:
        share *= row.number("images")
    kept = int(free * (1 - share))
    activation = min(activation, kept)
    graphs = min(graphs, kept - activation)
    return _Kept(activation, graphs, kept - activation - graphs)


def _granted_share(target: Target, free_bytes: int, needed_bytes: int) -> float | None:
    """The static share that keeps all within the share of the GPU that was granted; None where none was.

    ``granted x total`` less the context and what activations, graphs and the rest need, of what is free once the
    context is there. Less than nothing counts as next to nothing.
    """
    granted = target.options.gpu_share
    if granted is None:
        return None
    left = granted * target.total_bytes - (target.total_bytes - free_bytes) - needed_bytes
    return max(_LEAST_SHARE, left / free_bytes)


def _fixed_share(row: Row, tp: int) -> float | None:
    shares = row.table("utilization")
    suited = [ranks for ranks in shares if int(ranks) <= tp]
    return shares[max(suited, key=int)] if suited else None


def _context_term(context: int) -> Term:
    return Term("non_torch", context, "CUDA and NCCL, before weights are loaded")


def _kept_terms(kept: _Kept, chunk: int, batch: int) -> list[Term]:
    return [
        Term("activation", kept.activation_bytes, f"kept back for chunks of {chunk} tokens"),
        Term("cuda_graphs", kept.graph_bytes, f"kept back for graphs of up to {batch} sequences"),
        Term("reserve", kept.reserve_bytes, "the rest of what is outside the static share"),
    ]
