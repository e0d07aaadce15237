"""How an engine lays a checkpoint over its ranks: which tensors are split, which every rank holds, which are dropped.

From tensor names and shapes alone, by the rules of vLLM's parallel layers (``model_executor/layers/linear.py``,
``vocab_parallel_embedding.py``, ``distributed/utils.py`` in 0.33):

* linear layers, experts and vocabularies are split over the tensor-parallel ranks, vocabularies after their rows were
  padded to a multiple of 64; norms, routers, MLA's down-projections and biases of row-parallel layers are on each rank;
* keys and values are split by whole heads: a rank never has less than one;
* pipeline stages have the same number of layers but for a remainder, which the stages before the last take, from the
  back; the embedding is on the first, the final norm and the head on the last, and with them the embedding where the
  head is tied to it;
* layers beyond those that the config counts are for multi-token prediction and are not loaded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from lading.model.safetensors import DTYPE_BITS, Tensor

VOCABULARY_ROWS = 64

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")
_TOWER = re.compile(r"(?:^|[._])(?:visual|vision|audio|image|img|mm|multi_modal|multimodal|patch)(?:$|[._])")
_DRAFT = re.compile(r"(?:^|\.)(?:mtp|mtp_layers|nextn|eagle|medusa)(?:$|\.)")
_EMBEDDINGS = {"embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embeddings", "embed_in", "embedding"}
_HEADS = {"lm_head", "embed_out", "output"}
_KEYS_AND_VALUES = {"k_proj", "v_proj", "kv_proj"}
_FUSED = {"qkv_proj", "c_attn", "query_key_value", "Wqkv", "qkv", "wqkv"}
_ROWS = {"o_proj", "down_proj", "out_proj", "fc2", "c_proj", "dense", "dense_4h_to_h", "w2", "wo", "proj", "out_linear"}
_COLUMNS = {
    "q_proj", "gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h", "w1", "w3", "wq", "wk", "wv",
    "q_b_proj", "kv_b_proj", "in_proj", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "in_proj_qkvz",
    "in_proj_ba", "x_proj", "dt_proj", "conv1d", "A_log", "D", "dt_bias", "sinks", "linear_1", "linear_2", "linear_fc1",
    "linear_fc2", "gate", "up", "down",
}  # fmt: skip
_ROUTER = re.compile(
    r"(?:^|\.)(?:mlp|block_sparse_moe|feed_forward|moe|mixer|ffn)\.(?:gate|router|shared_expert_gate)\b"
)
_PARAMETERS = re.compile(
    r"\.(?:weight|bias|qweight|qzeros|scales|g_idx|weight_\w+|bias_\w+|input_\w+|(?:blocks|scales|bias)$)$"
)


class Split(Enum):
    """How many ranks share a tensor."""

    RANKS = auto()
    KEYS_AND_VALUES = auto()
    FUSED = auto()
    NONE = auto()


class Stage(Enum):
    """Which pipeline stages have a tensor."""

    FIRST = auto()
    LAYER = auto()
    HEAD = auto()
    LAST = auto()
    ALL = auto()


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention heads, and those of keys and values; 0 where the config does not tell."""

    queries: int = 0
    keys: int = 0


@dataclass(frozen=True, slots=True)
class WeightTable:
    """The bytes of a model's weights once loaded, by where they go; the layer is -1 for what is in none.

    ``layers`` is how many the model has. ``is_tied`` says that the head is the embedding.
    """

    sizes: tuple[tuple[Stage, int, Split, int], ...]
    layers: int
    is_tied: bool = False

    @property
    def total_bytes(self) -> int:
        """Bytes of everything, once."""
        return sum(size for _, _, _, size in self.sizes)

    def rank_bytes(self, tp: int, pp: int, heads: Heads) -> tuple[int, ...]:
        """Bytes of each rank of each of ``pp`` pipeline stages; the ``tp`` ranks of a stage have the same."""
        stages = stage_layers(self.layers, pp)
        totals = [0.0] * pp
        for stage, layer, split, size in self.sizes:
            share = size * _share(split, tp, heads)
            for number in self._stages_of(stage, layer, stages):
                totals[number] += share
        return tuple(round(total) for total in totals)

    def _stages_of(self, stage: Stage, layer: int, stages: tuple[range, ...]) -> Iterable[int]:
        last = len(stages) - 1
        match stage:
            case Stage.FIRST:
                return (0, last) if self.is_tied and last else (0,)
            case Stage.LAYER:
                return [number for number, layers in enumerate(stages) if layer in layers]
            case Stage.HEAD | Stage.LAST:
                return (last,)
            case Stage.ALL:
                return range(last + 1)


def weight_table(tensors: Iterable[Tensor], *, most_bits: int, layers: int | None, is_tied: bool) -> WeightTable:
    """Where the tensors go. Floats wider than ``most_bits`` become that wide; ``layers`` None: as many as are there."""
    placed = [(tensor, _stage(tensor.name)) for tensor in tensors if not _DRAFT.search(tensor.name)]
    found = [layer for _, (stage, layer) in placed if stage is Stage.LAYER]
    count = layers or max(found, default=-1) + 1
    sizes: Counter[tuple[Stage, int, Split]] = Counter()
    for tensor, (stage, layer) in placed:
        if (stage is Stage.LAYER and layer >= count) or (stage is Stage.HEAD and is_tied):
            continue
        is_vocabulary = stage in (Stage.FIRST, Stage.HEAD)
        split = Split.RANKS if is_vocabulary else _split(tensor.name)
        sizes[stage, layer, split] += _loaded_bytes(tensor, most_bits, is_vocabulary=is_vocabulary)
    return WeightTable(tuple((*key, size) for key, size in sizes.items()), count, is_tied)


def stage_layers(layers: int, pp: int) -> tuple[range, ...]:
    """Which layers each pipeline stage has."""
    counts = [layers // pp] * pp
    for number in range(layers % pp):
        counts[-2 - number % max(1, pp - 1)] += 1
    ranges, start = [], 0
    for count in counts:
        ranges.append(range(start, start + count))
        start += count
    return tuple(ranges)


def _stage(name: str) -> tuple[Stage, int]:
    """Which stages have the tensor, and its layer; -1 for no layer."""
    if _TOWER.search(name):
        return Stage.ALL, -1
    module = _module(name)
    if module in _EMBEDDINGS:
        return Stage.FIRST, -1
    if module in _HEADS and not _LAYER.search(name):
        return Stage.HEAD, -1
    layer = _LAYER.search(name)
    return (Stage.LAYER, int(layer[1])) if layer else (Stage.LAST, -1)


def _split(name: str) -> Split:
    module = _module(name)
    if ".experts." in name or name.endswith((".experts", ".experts_bias")):
        return Split.RANKS
    if _ROUTER.search(name):
        return Split.NONE
    if module in _KEYS_AND_VALUES:
        return Split.KEYS_AND_VALUES
    if module in _FUSED:
        return Split.FUSED
    if module in _ROWS:
        return Split.NONE if name.endswith(".bias") else Split.RANKS
    return Split.RANKS if module in _COLUMNS else Split.NONE


def _module(name: str) -> str:
    """The layer that a tensor is a parameter of: the last part of its name without the parameter's own."""
    return _PARAMETERS.sub("", name).rpartition(".")[2]


def _share(split: Split, tp: int, heads: Heads) -> float:
    """The share of a tensor that one of ``tp`` ranks holds."""
    by_head = 1 / min(tp, heads.keys) if heads.keys else 1 / tp
    match split:
        case Split.RANKS:
            return 1 / tp
        case Split.KEYS_AND_VALUES:
            return by_head
        case Split.FUSED if heads.queries and heads.keys:
            parts = heads.queries + 2 * heads.keys
            return heads.queries / parts / tp + 2 * heads.keys / parts * by_head
        case Split.FUSED:
            return 1 / tp
        case Split.NONE:
            return 1.0


def _loaded_bytes(tensor: Tensor, most_bits: int, *, is_vocabulary: bool) -> int:
    bits = DTYPE_BITS[tensor.dtype]
    if tensor.dtype in ("F32", "F64"):
        bits = min(bits, most_bits)
    elements = tensor.elements
    if is_vocabulary and len(tensor.shape) > 1 and tensor.shape[0]:
        rows = -(-tensor.shape[0] // VOCABULARY_ROWS) * VOCABULARY_ROWS
        elements = elements // tensor.shape[0] * rows
    return (elements * bits + 7) // 8
