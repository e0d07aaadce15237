"""TensorRT-LLM's accounting of a GPU: a share of what stays free once the model has run is the KV cache.

What it holds beside the weights is bounded here, not measured: activations and logits of its largest batch, CUDA and
NCCL. Its start-up logs agree within a few percent, on the safe side.
"""

from __future__ import annotations

from math import ceil

from lading.model.attention import Blocks
from lading.model.facts import ModelFacts
from lading.profiles.constants import Row, row_for
from lading.profiles.lora import lora_term
from lading.profiles.profile import Profile
from lading.profiles.sizes import RankSizes, rank_sizes
from lading.profiles.terms import Estimate, KvNeed, RankEstimate, Target, Term
from lading.units import GIB

_BLOCK_TOKENS = 32
_LEAST_SHARE = 1e-9


def estimate_tensorrt_llm(facts: ModelFacts, profile: Profile, target: Target, length: int) -> Estimate:
    """What each rank of ``profile`` holds, as a bound, and the pool that a share of the rest gives."""
    row = row_for("tensorrt_llm", target.engine_version)
    ranks = tuple(
        _rank(facts, profile, target, sizes, row, length) for sizes in rank_sizes(facts, profile, target.options)
    )
    notes = ("TensorRT-LLM's memory is bounded, not measured", row.provenance(target.engine_version))
    return Estimate(ranks, target.total_bytes, tuple(note for note in notes if note))


def _rank(facts: ModelFacts, profile: Profile, target: Target, sizes: RankSizes, row: Row, length: int) -> RankEstimate:
    options = target.options
    terms = [
        *sizes.weights,
        _activation_term(facts, profile, target, row),
        Term("non_torch", int(row.number("context_gib") * GIB), "CUDA, cuBLAS and NCCL, a bound"),
    ]
    if profile.lora:
        terms.append(lora_term(facts, sizes.layers, profile.tp, options))
    blocks = Blocks(tokens=options.block_size or _BLOCK_TOKENS)
    kv = KvNeed.of(sizes.layout, profile.tp, sizes.share, blocks=blocks)
    free = target.total_bytes - sum(term.size_bytes for term in terms)
    share = options.gpu_utilization or _granted_share(target, free) or row.number("utilization")
    kept = max(0, int(free * (1 - share)))
    terms.append(Term("reserve", kept, f"{1 - share:.0%} of what is free is not made cache"))
    pool = free - kept
    return RankEstimate(sizes.rank, tuple(terms), kv, length, pool, kv.tokens_in(pool))


def _granted_share(target: Target, free_bytes: int) -> float | None:
    """What of the free memory keeps all within the share of the GPU that was granted; None where none was.

    ``granted x total`` less all that is not free, of what is free. Less than nothing counts as next to nothing.
    """
    granted = target.options.gpu_share
    if granted is None or free_bytes <= 0:
        return None
    return max(_LEAST_SHARE, (granted * target.total_bytes - (target.total_bytes - free_bytes)) / free_bytes)


def _activation_term(facts: ModelFacts, profile: Profile, target: Target, row: Row) -> Term:
    """Rows of the widest layer for all tokens, and the logits of all sequences."""
    options = target.options
    tokens = options.batched_tokens or int(row.number("batched_tokens"))
    sequences = min(tokens, options.max_sequences or int(row.number("sequences")))
    hidden, inner = facts.hidden_size or 0, ceil((facts.intermediate_size or 0) / profile.tp)
    layer = tokens * (3 * inner + 4 * hidden) * options.element_bytes
    logits = int(sequences * (facts.vocab_size or 0) * row.number("logits_bytes"))
    return Term("activation", layer + logits, f"a bound: {sequences} sequences, {tokens} tokens at once")
