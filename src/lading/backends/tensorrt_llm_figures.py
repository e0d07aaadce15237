"""What TensorRT-LLM prints of its memory: the PyTorch backend of 0.20 to 1.2, and built engines.

The KV pool is made twice, the first time small to measure the rest: the last counts. What it tells as "outside torch"
is everything on the device, other processes included, so it is not taken for this engine's.
"""

from __future__ import annotations

import re

from lading.backends.figures_dialect import Dialect, Figures, Source, count, gib, mib, wordings
from lading.profiles.measurement import Measurement

_RANK = re.compile(r"\[RANK (\d{1,5})\]|\bRank (\d{1,5}) uses ", re.ASCII)

_WORDINGS = wordings(
    rf"\b(?:Use|uses) {gib('announced_weights')} for model weights",
    rf"Memory used after loading model weights \(inside torch\).{{0,80}}?: {gib('weights')}",
    rf"Memory dynamically allocated during inference \(inside torch\).{{0,80}}?: {gib('activation')}",
    rf"Loaded engine size: {mib('announced_weights')}",
    rf"Allocated {mib('activation')} for execution context memory",
    rf"Allocated {gib('pool')} for max tokens in paged KV cache \({count('tokens')}\)",
)


def _source_of(line: str) -> Source:
    """By the rank that is told; lines of the C++ part tell none and are the first's."""
    found = _RANK.search(line)
    rank = int(found[1] or found[2]) if found else 0
    return Source(str(rank), (rank,))


def _measure(told: Figures) -> Measurement:
    return Measurement(
        weights_bytes=told.get("weights", told.get("announced_weights")),
        activation_bytes=told.get("activation"),
        kv_pool_bytes=told.get("pool"),
        kv_pool_tokens=told.get("tokens"),
    )


TENSORRT_LLM = Dialect(
    words=("GiB", " GB ", "MiB"),
    wordings=_WORDINGS,
    source_of=_source_of,
    measure=_measure,
)
