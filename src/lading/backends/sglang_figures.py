"""What SGLang prints of its memory: 0.4 to 0.5.23. Every rank speaks for itself; nothing is said of activations.

A rank may load a draft model too, keep pools of several kinds and capture graphs of several phases: each is told by a
line of its own, and their sum is what the rank holds.
"""

from __future__ import annotations

import re

from lading.backends.figures_dialect import Dialect, Figures, Source, count, gib, wordings
from lading.profiles.measurement import Measurement

_PREFIX = re.compile(r"\s*\[[^\[\]]{0,40}?((?: [A-Z_]{1,12}\d{1,5})+)\]", re.ASCII)
_RANKS = tuple(re.compile(rf"\b{name}(\d{{1,5}})", re.ASCII) for name in ("DP", "PP", "TP"))
_POOLS = ("k_pool", "v_pool", "kv_pool")
_STATES = ("conv_state", "ssm_state", "intermediate_ssm_state_cache", "intermediate_conv_window_cache")

_WORDINGS = wordings(
    rf"Init torch distributed ends\..{{0,80}}?mem usage={gib('non_torch')}",
    rf"Load weight begin\..{{0,80}}?avail mem={gib('free_before_weights')}",
    rf"Load weight end\..{{0,400}}?avail mem={gib('free_after_weights')}",
    rf"Load weight end\..{{0,400}}?mem usage={gib('weights')}",
    rf"KV Cache is allocated\..{{0,200}}?K size: {gib('k_pool')}, V size: {gib('v_pool')}",
    rf"KV Cache is allocated\..{{0,200}}?KV size: {gib('kv_pool')}",
    rf"KV Cache is allocated\..{{0,200}}?#tokens: {count('pool_tokens')}",
    rf"SWAKVPool mem usage: {gib('window_pools')}",
    *(rf"\b{name} size: {gib(name)}" for name in _STATES),
    rf"Capture .{{0,80}}?graph end\..{{0,200}}?mem usage={gib('graphs')}",
    rf"\bmax_total_num_tokens={count('tokens')}",
)


def _source_of(line: str) -> Source:
    found = _PREFIX.match(line)
    tags = found[1] if found else ""
    return Source(tags, tuple(int(rank[1]) if (rank := pattern.search(tags)) else 0 for pattern in _RANKS))


def _measure(told: Figures) -> Measurement:
    pools = [told[name] for name in _POOLS if name in told]
    states = [told[name] for name in _STATES if name in told]
    # Pools for full and for windowed attention are told one by one, and then once more together.
    attention = max(sum(pools), told.get("window_pools", 0))
    return Measurement(
        weights_bytes=_weights(told),
        non_torch_bytes=told.get("non_torch"),
        cuda_graph_bytes=told.get("graphs"),
        kv_pool_bytes=attention + sum(states) if pools or states or "window_pools" in told else None,
        kv_pool_tokens=told.get("tokens", told.get("pool_tokens")),
    )


def _weights(told: Figures) -> int | None:
    """As told, or (before 0.4.4) by how much loading them made the free memory smaller."""
    if "weights" in told or not {"free_before_weights", "free_after_weights"} <= told.keys():
        return told.get("weights")
    return max(0, told["free_before_weights"] - told["free_after_weights"])


SGLANG = Dialect(
    words=("mem usage", "avail mem=", "KV Cache is", "Mamba Cache is", "max_total_num_tokens="),
    wordings=_WORDINGS,
    source_of=_source_of,
    measure=_measure,
    summed=frozenset({"weights", "graphs", *_POOLS, *_STATES}),
)
