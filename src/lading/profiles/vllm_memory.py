"""vLLM's accounting of a GPU: its share of the memory, less weights, activations, what is not PyTorch's, and graphs.

The profile run's peak is the larger of the sampler's and the widest layer's: the sampler holds floats for each
vocabulary entry of each sequence, a layer a few rows of its sizes for each token computed at once, experts the rows of
every expert that a token is sent to. Only the last pipeline stage samples; every stage holds what it gets from and
sends to others. Figures by version stand in ``constants.json``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil, floor

from lading.model.attention import Blocks
from lading.model.facts import ModelFacts
from lading.profiles.constants import Row, row_for
from lading.profiles.correction import corrected
from lading.profiles.encoder import encoder_term
from lading.profiles.lora import lora_term
from lading.profiles.options import EngineOptions
from lading.profiles.profile import Profile
from lading.profiles.sizes import RankSizes, rank_sizes
from lading.profiles.terms import Estimate, Hazard, KvNeed, RankEstimate, Target, Term
from lading.units import GIB, format_bytes

_LINKED = re.compile(r"SXM|HBM|NVL|GH200|GB[23]00|H200|H800|H20\b|B[23]00", re.IGNORECASE)
_SMALL_TIER_NAMES = re.compile(r"a100|gb10", re.IGNORECASE)
_LONGEST_UNCHUNKED = 32_768  # before 0.8 only longer prompts were computed in chunks unless asked
_SHORTEST_BATCH = 2048
_DEFAULT_CAPTURES = 102  # 51 of pieces, 51 of whole steps
_EIGHT_BIT_ACTIVATIONS = ("fp8", "int8")
_WITHOUT_WORKSPACE = ("mxfp4",)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of vLLM: what it serves, where, how much it computes at once, and the figures of its version."""

    facts: ModelFacts
    profile: Profile
    target: Target
    row: Row
    length: int
    batched_tokens: int
    sequences: int

    @classmethod
    def of(cls, facts: ModelFacts, profile: Profile, target: Target, length: int) -> Run:
        """The run that an engine of the target's version makes of a profile."""
        row = row_for("vllm", target.engine_version)
        tokens, sequences = _limits(row, target, length)
        return cls(facts, profile, target, row, length, tokens, sequences)

    @property
    def budget_bytes(self) -> int:
        """What the engine grants itself of each GPU."""
        options = self.target.options
        share = options.gpu_utilization or options.gpu_share or self.row.number("utilization")
        return ceil(self.target.total_bytes * share)


def estimate_vllm(facts: ModelFacts, profile: Profile, target: Target, length: int) -> Estimate:
    """What each rank of ``profile`` holds, and the pool that its budget leaves."""
    run = Run.of(facts, profile, target, length)
    ranks = tuple(_rank(run, sizes) for sizes in rank_sizes(facts, profile, target.options))
    provenance = run.row.provenance(target.engine_version)
    taken = max(rank.fixed_bytes + rank.kv_pool_bytes for rank in ranks)
    return Estimate(ranks, taken, (provenance,) if provenance else (), _hazard(run, ranks[-1]))


def _limits(row: Row, target: Target, length: int) -> tuple[int, int]:
    """Tokens and sequences computed at once: as asked, else the server's defaults (``engine/arg_utils.py``)."""
    options = target.options
    is_small = bool(_SMALL_TIER_NAMES.search(target.gpu_name))
    tiers = [tier for tier in row.rows("tiers") if target.total_bytes >= tier[0] * GIB and (tier[3] or not is_small)]
    default_tokens, default_sequences = int(tiers[0][1]), int(tiers[0][2])
    if not default_tokens:
        default_tokens = max(length, _SHORTEST_BATCH) if length <= _LONGEST_UNCHUNKED else _SHORTEST_BATCH
    if options.chunked_prefill is False:
        default_tokens = max(default_tokens, length)
    tokens = options.batched_tokens or default_tokens
    return tokens, min(options.max_sequences or default_sequences, tokens)


def _rank(run: Run, sizes: RankSizes) -> RankEstimate:
    facts, profile, options = run.facts, run.profile, run.target.options
    activation = activation_term(run, sizes)
    terms = [*sizes.weights, sizes.allocator, activation, non_torch_term(run)]
    if facts.vision and options.reads_images and sizes.is_first:
        terms.append(encoder_term(facts, facts.vision, run.batched_tokens, activation.size_bytes, options))
    if profile.lora:
        terms.append(lora_term(facts, sizes.layers, profile.tp, options))
    *terms, graphs = corrected([*terms, graphs_term(run, sizes)], sizes.rank, run.target)
    in_budget = run.row.flag("budget_has_graphs")
    if in_budget:
        terms.append(graphs)
    kv = KvNeed.of(sizes.layout, profile.tp, sizes.share, batched_tokens=run.batched_tokens, blocks=_blocks(options))
    left = run.budget_bytes - sum(term.size_bytes for term in terms)
    pool = left if options.kv_pool_bytes is None else options.kv_pool_bytes
    return RankEstimate(
        rank=sizes.rank,
        terms=tuple(terms),
        kv=kv,
        max_model_len=run.length,
        kv_pool_bytes=pool,
        kv_pool_tokens=_pool_tokens(run, kv, pool),
        on_top=() if in_budget else (graphs,),
    )


def _blocks(options: EngineOptions) -> Blocks:
    """How the engine cuts its pool."""
    return Blocks(tokens=options.block_size, speculative=options.speculation.tokens if options.speculation else 0)


def _hazard(run: Run, rank: RankEstimate) -> Hazard | None:
    """Whether the sampler's warm-up, which sorts all logits, has too little beside pool and graphs on the last rank.

    Only where graphs lie beside the budget: there it was seen, with large vocabularies and a share of 0.95.
    """
    sort_bytes = run.row.number("warm_up_sort_bytes")
    if (
        run.facts.pooling
        or run.row.flag("budget_has_graphs")
        or not sort_bytes
        or run.target.options.kv_pool_bytes is not None
    ):
        return None
    total, element = run.target.total_bytes, run.target.options.element_bytes
    held = rank.fixed_bytes - rank.bytes_of("activation", "encoder") + rank.kv_pool_bytes
    free = total * (1 - run.row.number("context_share")) - held - sum(term.size_bytes for term in rank.on_top)
    per_entry = run.row.number("sampler_bytes") + element + sort_bytes
    short = per_entry * run.sequences * (run.facts.vocab_size or 0) - free
    if rank.kv_pool_bytes <= 0 or short <= 0:
        return None
    share = floor((run.budget_bytes - short) / total * 100) / 100
    return Hazard(
        f"the sampler's warm-up needs {format_bytes(short)} more than is free beside the KV pool and the CUDA graphs",
        f"--gpu-memory-utilization={share:.2f}, or a smaller --max-num-seqs",
    )


def activation_term(run: Run, sizes: RankSizes) -> Term:
    """The peak of the profile run on a rank."""
    facts, tp, element = run.facts, run.profile.tp, run.target.options.element_bytes
    tokens, hidden = run.batched_tokens, facts.hidden_size or 0
    step = tokens * hidden * element
    experts = _expert_bytes(run)
    inner = ceil((facts.intermediate_size or 0) / tp)
    rows = 4 * hidden if facts.experts_per_token else 3 * inner + 4 * hidden
    layer = tokens * rows * element + experts
    if facts.precision.startswith(_EIGHT_BIT_ACTIVATIONS) and not facts.experts_per_token:
        layer += tokens * inner
    sampler = 0
    if sizes.is_last and not facts.pooling:
        per_entry = run.row.number("sampler_bytes") + element
        sampler = int(per_entry * run.sequences * (facts.vocab_size or 0)) + step + experts
    exchanged = step * ((2 if sizes.is_first or sizes.is_last else 3) if sizes.stages > 1 else 0)
    widest = "the sampler" if sampler > layer else "the widest layer"
    how = f"the profile run's peak, {widest}: {run.sequences} sequences, {tokens} tokens at once"
    return Term("activation", max(sampler, layer) + exchanged, how)


def _expert_bytes(run: Run) -> int:
    """The workspace of the fused experts; kernels for mxfp4 have none, and whole experts on a rank are not split."""
    facts, options = run.facts, run.target.options
    if not facts.experts_per_token or facts.precision in _WITHOUT_WORKSPACE:
        return 0
    split = 1 if options.expert_parallel else run.profile.tp
    hidden, inner = facts.hidden_size or 0, ceil((facts.expert_size or 0) / split)
    rows = max(2 * inner, hidden) + max(inner, hidden)
    return run.batched_tokens * facts.experts_per_token * rows * options.element_bytes


def non_torch_term(run: Run) -> Term:
    """What CUDA, and the all-reduce of tensor-parallel ranks, take of each; pipeline stages reduce nothing."""
    figures, tp = run.row.table("non_torch_gib"), run.profile.tp
    if tp == 1:
        size, how = figures["alone" if run.profile.pp == 1 else "staged"], "alone"
    elif are_linked(run.target):
        size, how = figures["linked"] + figures["per_rank"] * tp, f"{tp} ranks over NVLink"
    else:
        size, how = figures["unlinked"], f"{tp} ranks without NVLink"
    return Term("non_torch", int(size * GIB), f"CUDA and NCCL, {how}")


def are_linked(target: Target) -> bool:
    """Whether NVLink joins the GPUs: what was probed, else what the name says."""
    if target.is_linked is not None:
        return target.is_linked
    return bool(_LINKED.search(target.gpu_name)) and "PCIe" not in target.gpu_name


def graphs_term(run: Run, sizes: RankSizes) -> Term:
    """What the CUDA graphs of a rank's layers take; twice as many are captured for LoRA, with and without it."""
    if run.target.options.eager:
        return Term("cuda_graphs", 0, "none: eager")
    figures, captures = run.row.table("graphs_gib"), _captures(run)
    moe = figures["moe_mxfp4" if run.facts.precision == "mxfp4" else "moe"] if run.facts.experts_per_token else 0
    once = figures["base"] + sizes.layers * figures["per_layer"] * captures / _DEFAULT_CAPTURES + moe
    place = "" if run.row.flag("budget_has_graphs") else ", beside the budget"
    if run.profile.lora:
        return Term("cuda_graphs", int(2 * once * GIB), f"{captures} captures with LoRA, as many without{place}")
    return Term("cuda_graphs", int(once * GIB), f"{captures} captures{place}")


def _captures(run: Run) -> int:
    """How many graphs are captured: of pieces for every size, of whole steps for those that decodes can fill."""
    options = run.target.options
    sizes = options.capture_sizes
    if not sizes:
        by_major = run.row.table("largest_capture")
        default = by_major.get(str(run.target.compute_capability[0]), by_major["0"])
        largest = options.largest_capture or int(min(default, 2 * run.sequences))
        steps = (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16))
        sizes = tuple(size for size in steps if size <= largest)
    return len(sizes) + sum(size <= run.sequences for size in sizes)


def _pool_tokens(run: Run, kv: KvNeed, pool_bytes: int) -> int:
    """The size of the pool as this version's log prints it."""
    if run.row.text("tokens") == "blocks" or kv.pool is None or pool_bytes <= 0:
        return kv.tokens_in(pool_bytes)
    return kv.pool.capacity(pool_bytes, run.length, run.batched_tokens)
