"""What a model's attention keeps per token, per request and per rank, in the engine's own block arithmetic.

vLLM (``v1/core/kv_cache_utils.py`` in 0.33) gives layers of one kind to groups of equal size, the size of the rarest
kind; all groups share one pool of blocks, each with room for ``block`` tokens in every layer of a group. So a request
needs, in blocks: as many as its tokens fill for full attention; those of its window, and of the tokens computed at
once, for sliding and chunked attention; one for a state. Where there are states, blocks are made long enough for a page
of attention to be no smaller than a state. Latent attention (MLA) keeps one vector for all heads, on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import repeat
from math import ceil
from typing import Any

BLOCK_TOKENS = 16

_INDEXER_SCALE_BYTES = 4
_PATTERNS = {"gemma3": 6, "gemma3_text": 6, "gemma2": 2, "cohere2": 4}  # every n-th layer sees everything
_MOST_LAYERS = 10_000


class Kind(Enum):
    """What a layer keeps."""

    FULL = auto()
    SLIDING = auto()
    CHUNKED = auto()
    STATE = auto()


_NAMES = {
    "full_attention": Kind.FULL, "attention": Kind.FULL, "hybrid": Kind.FULL, "*": Kind.FULL,
    "sliding_attention": Kind.SLIDING, "sliding_window": Kind.SLIDING, "local_attention": Kind.SLIDING,
    "chunked_attention": Kind.CHUNKED,
    "linear_attention": Kind.STATE, "mamba": Kind.STATE, "mamba2": Kind.STATE, "conv": Kind.STATE,
    "short_conv": Kind.STATE, "recurrent": Kind.STATE, "M": Kind.STATE,
    "moe": None, "mlp": None, "E": None, "-": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KvLayout:
    """The layers that keep something, by kind, and how much.

    ``heads`` KV heads of ``width`` elements each per token (keys and values together); 0 heads for a latent vector of
    ``width`` elements, which ranks do not share. ``extra_bytes`` per token and layer come beside them. ``state_bytes``
    is what one layer of kind STATE keeps of a request. ``is_exact`` is False where a part is bounded and not known.
    ``block_tokens`` is how many tokens a block has room for where no state makes it longer.
    """

    layers: Mapping[Kind, int]
    window: int
    heads: int
    width: int
    dtype_bytes: float
    extra_bytes: int = 0
    state_bytes: int = 0
    is_exact: bool = True
    block_tokens: int = BLOCK_TOKENS

    def token_bytes(self, tp: int = 1) -> int:
        """Bytes of one token in one layer of attention, on one of ``tp`` ranks: a rank never has less than a head."""
        heads = max(1, ceil(self.heads / tp)) if self.heads else 1
        return int(heads * self.width * self.dtype_bytes) + self.extra_bytes

    def growth_bytes(self, tp: int = 1) -> int:
        """Bytes that a long request grows by with each token, on one rank."""
        return self.layers.get(Kind.FULL, 0) * self.token_bytes(tp)

    def request_bytes(self, tokens: int, *, tp: int = 1, batched_tokens: int = 2048) -> int:
        """Bytes that a request of so many tokens takes on one of ``tp`` ranks, whole blocks and the pool's null block.

        ``batched_tokens`` is how many the engine computes at once.
        """
        if not (self.layers and self.token_bytes(tp)):
            return 0
        block, groups = self._block(tp), self._groups()
        needed = sum(count * self._blocks(kind, tokens, block, batched_tokens) for kind, count in groups.items())
        return (needed + 1) * self.page_bytes(tp)

    def pool_tokens(self, pool_bytes: int, *, tp: int = 1) -> int:
        """How many tokens a pool has room for, as vLLM up to 0.19 prints it: the same number in every group."""
        blocks = pool_bytes // self.page_bytes(tp)
        return int(blocks // sum(self._groups().values()) * self._block(tp))

    def _groups(self) -> dict[Kind, int]:
        size = min(self.layers.values())
        return {kind: ceil(count / size) for kind, count in self.layers.items()}

    def page_bytes(self, tp: int = 1) -> int:
        """Bytes of one block of the pool on one of ``tp`` ranks: what the layers of one group keep of its tokens."""
        return min(self.layers.values()) * self._block(tp) * self.token_bytes(tp)

    def _block(self, tp: int) -> int:
        if Kind.STATE not in self.layers:
            return self.block_tokens
        tokens = ceil(self.state_bytes / tp / self.token_bytes(tp))
        return max(self.block_tokens, ceil(tokens / self.block_tokens) * self.block_tokens)

    def _blocks(self, kind: Kind, tokens: int, block: int, batched_tokens: int) -> int:
        match kind:
            case Kind.FULL:
                return ceil(tokens / block)
            case Kind.SLIDING:
                return ceil(min(self.window - 1 + batched_tokens, tokens) / block) + 1
            case Kind.CHUNKED:
                return ceil(min(self.window + batched_tokens, tokens) / block)
            case Kind.STATE:
                return 1


def kv_layout(
    text: Mapping[str, Any], *, layers: int | None, heads: int | None, head_dim: int | None, dtype_bytes: float
) -> KvLayout | None:
    """What the config of a language model says of its attention; None where it does not tell enough."""
    latent, rope = _number(text, "kv_lora_rank"), _number(text, "qk_rope_head_dim")
    if not layers or layers > _MOST_LAYERS or not (latent or (heads and head_dim)):
        return None
    kinds = _kinds(text, layers)
    counted = {kind: kinds.count(kind) for kind in Kind if kind in kinds}
    window = _number(text, "attention_chunk_size") if Kind.CHUNKED in counted else _number(text, "sliding_window")
    if latent:
        heads, width = 0, latent + rope
    else:
        heads, width = heads or 0, 2 * (head_dim or 0)
    index = _number(text, "index_head_dim") if text.get("index_topk") else 0
    return KvLayout(
        layers=counted,
        window=window,
        heads=heads,
        width=width,
        dtype_bytes=dtype_bytes,
        extra_bytes=index + _INDEXER_SCALE_BYTES if index else 0,
        state_bytes=_state_bytes(text) if Kind.STATE in counted else 0,
        is_exact=not any(text.get(key) for key in ("compress_ratios", "global_head_dim", "num_kv_shared_layers"))
        and not (Kind.STATE in counted and not _state_bytes(text)),
    )


def _kinds(text: Mapping[str, Any], layers: int) -> list[Kind]:
    """The kind of each layer that keeps anything, in the first form in which the config tells it."""
    named = text.get("layer_types") or text.get("layers_block_type") or text.get("hybrid_override_pattern")
    if isinstance(named, Sequence) and all(each in _NAMES for each in named):
        return [kind for each in named[:layers] if (kind := _NAMES[each])]
    if interval := _number(text, "full_attention_interval"):
        return _every(interval, layers, Kind.STATE)
    if period := _number(text, "attn_layer_period"):
        offset = text.get("attn_layer_offset") or 0
        return [Kind.FULL if number % period == offset else Kind.STATE for number in range(layers)]
    if _number(text, "attention_chunk_size"):
        return _chunked(text, layers)
    if _number(text, "sliding_window") and text.get("use_sliding_window") is not False:
        return _sliding(text, layers)
    return list(repeat(Kind.FULL, layers))


def _chunked(text: Mapping[str, Any], layers: int) -> list[Kind]:
    """Llama 4: layers without rotary positions see everything, by default every fourth."""
    rope = text.get("no_rope_layers")
    if isinstance(rope, list) and len(rope) == layers:
        return [Kind.CHUNKED if each else Kind.FULL for each in rope]
    return _every(_number(text, "no_rope_layer_interval") or 4, layers, Kind.CHUNKED)


def _sliding(text: Mapping[str, Any], layers: int) -> list[Kind]:
    pattern = _number(text, "sliding_window_pattern") or _PATTERNS.get(str(text.get("model_type")), 0)
    if pattern:
        return _every(pattern, layers, Kind.SLIDING)
    if text.get("use_sliding_window"):  # Qwen: the layers from there on
        full = min(layers, _number(text, "max_window_layers"))
        return [*repeat(Kind.FULL, full), *repeat(Kind.SLIDING, layers - full)]
    return list(repeat(Kind.SLIDING, layers))


def _every(interval: int, layers: int, others: Kind) -> list[Kind]:
    return [Kind.FULL if (number + 1) % interval == 0 else others for number in range(layers)]


def _state_bytes(text: Mapping[str, Any]) -> int:
    """What one layer of a state-space or linear-attention model keeps: the convolution's tail and the state itself.

    Mamba 2 (``mamba_*`` and ``ssm_*`` keys) and gated delta nets (``linear_*`` keys); 0 for others.
    """
    state_size = 4 if str(text.get("mamba_ssm_dtype") or text.get("mamba_ssm_cache_dtype")) == "float32" else 2
    if value_heads := _number(text, "linear_num_value_heads"):
        keys = _number(text, "linear_num_key_heads") * _number(text, "linear_key_head_dim")
        values = value_heads * _number(text, "linear_value_head_dim")
        tail = (_number(text, "linear_conv_kernel_dim") - 1) * (2 * keys + values)
        return (
            tail * 2
            + value_heads * _number(text, "linear_key_head_dim") * _number(text, "linear_value_head_dim") * state_size
        )
    heads, head_dim = _number(text, "mamba_num_heads", "mamba_n_heads"), _number(text, "mamba_head_dim", "mamba_d_head")
    size = _number(text, "ssm_state_size", "mamba_d_state")
    groups = _number(text, "n_groups", "mamba_n_groups") or 1
    kernel = _number(text, "conv_kernel", "mamba_d_conv")
    if not (heads and head_dim and size and kernel):
        return 0
    return (kernel - 1) * (heads * head_dim + 2 * groups * size) * 2 + heads * head_dim * size * state_size


def _number(text: Mapping[str, Any], *keys: str) -> int:
    """The first of the keys that is a positive whole number; 0 for none."""
    return next((value for key in keys if type(value := text.get(key)) is int and value > 0), 0)
