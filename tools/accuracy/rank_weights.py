"""Weights per rank against the engine's own classes: splits over ranks and stages that no start-up log covers.

The figures in ``tests/assets/vllm-rank-weights.json`` are what vLLM's classes would hold; they need no GPU to be found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tools.accuracy.comparison import Pair
from tools.accuracy.estimator import stage_weights
from tools.accuracy.records import ASSETS, published_model


@dataclass(frozen=True, slots=True)
class RankWeights:
    """What one rank of a pipeline stage holds, by the engine's classes and by the estimate."""

    config_file: str
    tp: int
    pp: int
    stage: int
    pair: Pair


def rank_weights() -> list[RankWeights]:
    """Every rank that the engine's classes were built for."""
    rows = json.loads((ASSETS / "vllm-rank-weights.json").read_text())["ranks"]
    return [
        found for name, group in groupby(rows, key=lambda row: str(row["config_file"])) for found in _of(name, [*group])
    ]


def _of(name: str, rows: Sequence[dict[str, int]]) -> list[RankWeights]:
    model = published_model(name)
    return [
        RankWeights(name, row["tp"], row["pp"], row["stage"], Pair(row["bytes"], estimated))
        for row in rows
        for estimated in (stage_weights(model, row["tp"], row["pp"])[row["stage"]],)
    ]
