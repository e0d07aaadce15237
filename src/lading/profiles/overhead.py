"""What vLLM holds on a GPU beside weights and KV cache: activations of its profile run, non-torch memory, CUDA graphs.

The constants stand in ``constants.json`` by engine version, each with its source; a version newer than all of them is
taken as the newest. The activation is the larger of the sampler's and the widest layer's: the sampler holds floats for
each vocabulary entry of each sequence, a layer a few rows of its sizes for each token computed at once, and experts the
rows of every expert that a token is sent to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lading.model.facts import ModelFacts
from lading.units import GIB

_ELEMENT_BYTES = 2
_NUMBERS = re.compile(r"\d+")
_LINKED = re.compile(r"SXM|HBM|NVL|GH200|GB[23]00|H200|H800|H20\b|B[23]00|A100-SXM|V100-SXM", re.IGNORECASE)
_TIERS = ((160 * GIB, 16_384, 1024), (70 * GIB, 8192, 1024), (0, 2048, 256))
_SMALL_TIER_NAMES = re.compile(r"a100|gb10", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Constants:
    """One row of ``constants.json``. Sizes in bytes but for ``sampler_bytes``, which is per entry and sequence."""

    utilization: float
    sampler_bytes: float
    non_torch_bytes: Mapping[str, int]
    graph_base_bytes: int
    graph_layer_bytes: int
    graph_moe_bytes: int
    budget_has_graphs: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """How much vLLM computes at once by default: tokens, and sequences."""

    batched_tokens: int
    sequences: int

    @classmethod
    def of(cls, gpu_name: str, total_bytes: int) -> Limits:
        """The defaults of vLLM 0.33's server for a GPU (``engine/arg_utils.py``)."""
        size = min(total_bytes, 70 * GIB - 1) if _SMALL_TIER_NAMES.search(gpu_name) else total_bytes
        return next(cls(tokens, sequences) for least, tokens, sequences in _TIERS if size >= least)


def constants_for(version: str) -> Constants:
    """The constants of a version of vLLM; of the newest for one that is newer, or that cannot be read."""
    wanted = _key(version) or (1 << 30,)
    return [found for since, found in _table() if since <= wanted][-1]


def activation_bytes(facts: ModelFacts, constants: Constants, limits: Limits, tp: int) -> int:
    """The peak of the profile run on the rank that samples."""
    tokens, hidden = limits.batched_tokens, facts.hidden_size or 0
    experts = _expert_bytes(facts, tokens, tp)
    sampler = int(constants.sampler_bytes * limits.sequences * (facts.vocab_size or 0))
    inner = -(-(facts.intermediate_size or 0) // tp)
    rows = 4 * hidden if facts.experts_per_token else 3 * inner + 4 * hidden
    return max(sampler + tokens * hidden * _ELEMENT_BYTES + experts, tokens * rows * _ELEMENT_BYTES + experts)


def non_torch_bytes(constants: Constants, gpu_name: str, tp: int) -> int:
    """What CUDA, and the all-reduce of ``tp`` ranks, take of each; pipeline stages reduce nothing."""
    if tp == 1:
        return constants.non_torch_bytes["alone"]
    linked = _LINKED.search(gpu_name) and "PCIe" not in gpu_name
    return max(constants.non_torch_bytes["alone"], constants.non_torch_bytes["nvlink" if linked else "pcie"])


def graph_bytes(facts: ModelFacts, constants: Constants, pp: int) -> int:
    """What the CUDA graphs of a rank's layers take."""
    layers = -(-(facts.layers or 0) // pp)
    moe = constants.graph_moe_bytes if facts.experts_per_token else 0
    return constants.graph_base_bytes + layers * constants.graph_layer_bytes + moe


def _expert_bytes(facts: ModelFacts, tokens: int, tp: int) -> int:
    """The workspace of the fused experts; kernels for mxfp4 have none."""
    if not facts.experts_per_token or facts.precision == "mxfp4":
        return 0
    hidden, inner = facts.hidden_size or 0, -(-(facts.expert_size or 0) // tp)
    return tokens * facts.experts_per_token * (max(2 * inner, hidden) + max(inner, hidden)) * _ELEMENT_BYTES


@cache
def _table() -> tuple[tuple[tuple[int, ...], Constants], ...]:
    rows = json.loads((files("lading.profiles") / "constants.json").read_text())["vllm"]
    return tuple((_key(row["since"]), _constants(row)) for row in rows)


def _constants(row: Mapping[str, object]) -> Constants:
    non_torch, graphs = row["non_torch_gib"], row["graphs_gib"]
    if not isinstance(non_torch, dict) or not isinstance(graphs, dict):
        raise TypeError("constants.json is not as it was written")
    return Constants(
        utilization=float(str(row["utilization"])),
        sampler_bytes=float(str(row["sampler_bytes"])),
        non_torch_bytes={name: int(value * GIB) for name, value in non_torch.items()},
        graph_base_bytes=int(graphs["base"] * GIB),
        graph_layer_bytes=int(graphs["per_layer"] * GIB),
        graph_moe_bytes=int(graphs["moe"] * GIB),
        budget_has_graphs=bool(row["budget_has_graphs"]),
    )


def _key(version: str) -> tuple[int, ...]:
    """A version as numbers, ``0.19.1+cu128`` as ``(0, 19, 1)``; empty for what has none."""
    return tuple(int(number) for number in _NUMBERS.findall(version.partition("+")[0])[:3])
