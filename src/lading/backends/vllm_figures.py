"""What vLLM prints of its memory: 0.6 to 0.33, GPU and CPU, wordings as in ``tests/assets/engine-logs``.

Which lines there are depends on the version and on its log level; each version tells one of

* the profile run's parts by name (0.6.6 to 0.10 in V0; later at DEBUG, without "non-torch" from 0.32 on);
* the parts beside the budget, in "Actual usage is …" (from 0.10.2; later "consumed" is weights and non-torch together);
* the pool alone, which leaves activation and non-torch untold.
"""

from __future__ import annotations

import re

from lading.backends.figures_dialect import NUMBER, Dialect, Figures, Source, count, flag, gib, wordings
from lading.profiles.measurement import Measurement

_PREFIX = re.compile(r"\s*(?:\([^()]{1,200}\)\s*)+", re.ASCII)
_PID = re.compile(r"pid=(\d{1,9})", re.ASCII)
_ADDRESS = re.compile(r"ip=([0-9a-fA-F.:]{1,45})")
_RANKS = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (r"(?<![A-Z])DP(\d{1,5})", r"(?<![A-Z])PP(\d{1,5})", r"(?<![A-Z])TP(\d{1,5})", r"rank=(\d{1,5})")
)

_WORDINGS = wordings(
    rf"(?:Model loading|Loading model weights) took {gib('weights')}",
    rf"model weights take {gib('profiled_weights')}",
    rf"non_torch_memory takes {gib('non_torch')}",
    rf"activation peak memory takes {gib('torch_peak')}",
    rf"memory reserved for KV Cache is {gib('pool')}",
    rf"peak_torch_memory={gib('torch_peak_and_weights')}",
    rf"\bnon_torch_memory={gib('non_torch')},? kv_cache_size={gib('pool')}",
    rf"Total non KV cache memory: {gib('non_kv')}",
    rf"torch peak memory increase: {gib('torch_peak')}",
    rf"non-torch forward increase memory: {gib('non_torch')}",
    rf"; weights memory: {gib('profiled_weights')}",
    rf"Available KV cache memory: {gib('pool')}",
    rf"reserved {gib('pool')} memory for KV Cache as specified",
    rf"(?:Explicitly|Auto) set \((?P<pool_gib>{NUMBER})/{NUMBER}\) GiB for KV cache",
    rf"Graph capturing finished in {NUMBER} secs?, took {gib('graphs')}",
    rf"CUDA graph pool memory: {gib('graphs')} \(actual\), {gib('graphs_estimate')} \(estimated\)",
    rf"Estimated CUDA graph memory: {gib('graphs_estimate')}",
    flag("graphs_in_budget", "CUDA graph memory profiling is enabled"),
    rf"Desired GPU memory utilization is \({NUMBER}, {gib('budget')}\)\. Actual usage is",
    rf"Actual usage is {gib('profiled_weights')} for weight\b",
    rf"Actual usage is {gib('consumed')} for consumed memory",
    rf"{gib('peak_activation')} for peak activation",
    rf"{gib('non_torch')} for non-torch memory",
    rf"{gib('graphs')} for CUDAGraph memory",
    r"Current kv cache memory in use is (?P<pool_bytes>\d{1,15}) bytes",
    rf"KV cache size: {count('tokens')} tokens",
    rf"# \w+ blocks: {count('blocks')}, # CPU blocks:",
    rf"Maximum concurrency for {count('length')} tokens per request: (?P<concurrency_hundredths>{NUMBER})x",
)


def _source_of(line: str) -> Source:
    """By the process in the line's prefix; lines without one are the driver's, which is the first rank."""
    found = _PREFIX.match(line)
    if found is None:
        return Source("", (0,) * (len(_RANKS) + 1))
    prefix = found[0]
    pids, address = _PID.findall(prefix), _ADDRESS.search(prefix)
    pid = int(pids[-1]) if pids else 0
    ranks = tuple(int(rank[1]) if (rank := pattern.search(prefix)) else 0 for pattern in _RANKS)
    identity = f"{address[1] if address else ''} {pid}" if pids else prefix.strip()
    return Source(identity, (*ranks, pid))


def _measure(told: Figures) -> Measurement:
    weights = told.get("weights", told.get("profiled_weights"))
    activation = _activation(told, weights)
    return Measurement(
        weights_bytes=weights,
        activation_bytes=activation,
        non_torch_bytes=_non_torch(told, weights, activation),
        cuda_graph_bytes=_graphs(told),
        kv_pool_bytes=told.get("pool"),
        kv_pool_tokens=_tokens(told),
    )


def _activation(told: Figures, weights: int | None) -> int | None:
    if "torch_peak" in told:
        return told["torch_peak"]
    if "torch_peak_and_weights" in told:
        return None if weights is None else max(0, told["torch_peak_and_weights"] - weights)
    if "peak_activation" not in told:
        return None
    graphs = told["graphs_estimate"] if _peak_has_graphs(told, weights) else 0
    return max(0, told["peak_activation"] - graphs)


def _peak_has_graphs(told: Figures, weights: int | None) -> bool:
    """Whether the graphs' estimate, which made the pool smaller, is told as a part of the activation.

    Versions differ, and do not say so; but budget and pool are told, and show whether anything is left for the graphs.
    """
    if not {"graphs_in_budget", "graphs_estimate", "budget", "pool"} <= told.keys():
        return False
    estimate = told["graphs_estimate"]
    beside = told.get("consumed", (weights or 0) + told.get("non_torch", 0))
    left = told["budget"] - told["pool"] - beside - told["peak_activation"]
    return left < estimate / 2


def _non_torch(told: Figures, weights: int | None, activation: int | None) -> int | None:
    if "non_torch" in told:
        return told["non_torch"]
    if weights is None:
        return None
    if "non_kv" in told and activation is not None:
        return max(0, told["non_kv"] - weights - activation)
    return max(0, told["consumed"] - weights) if "consumed" in told else None


def _graphs(told: Figures) -> int | None:
    """What they took, or what the pool gave up for them where that is more; the estimate when nothing else is told."""
    taken, estimate = told.get("graphs"), told.get("graphs_estimate")
    if taken is None or estimate is None:
        return estimate if taken is None else taken
    return max(taken, estimate) if "graphs_in_budget" in told else taken


def _tokens(told: Figures) -> int | None:
    """As told, or the blocks' (V0): how many tokens a block has follows from the concurrency told with them."""
    if "tokens" in told or not {"blocks", "length", "concurrency"} <= told.keys():
        return told.get("tokens")
    blocks = told["blocks"]
    block_tokens = round(told["concurrency"] * told["length"] / 100 / blocks) if blocks else 0
    return blocks * block_tokens


VLLM = Dialect(
    words=("GiB", " GB", "KV cache", " blocks: ", "CUDA graph memory", "Maximum concurrency"),
    wordings=_WORDINGS,
    source_of=_source_of,
    measure=_measure,
    least=frozenset({"tokens"}),  # up to 0.10 once for each rank, and the rank with fewest decides
)
