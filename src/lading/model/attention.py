"""What a model's attention keeps per token, per request and per rank.

Which layers there are is :mod:`lading.model.layers`', how an engine cuts its pool into blocks for them
:mod:`lading.model.pool`'s. Latent attention (MLA) keeps one vector for all heads, on every rank; its sparse forms keep
the keys of an indexer beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from lading.model.config import MOST_LAYERS, type_of, whole
from lading.model.layers import Keep, Kind, compression_of, has_unknown_kinds, hints_not_understood, layers_of
from lading.model.pool import BLOCK_TOKENS, Blocks, Pool, Strip
from lading.model.states import State, state_of

__all__ = ["BLOCK_TOKENS", "Blocks", "Kind", "KvLayout", "Odd", "Pool", "kv_layout", "odd_heads"]

_INDEXER_SCALE_BYTES = 4
_PACKED_LATENT_BYTES = 656  # one token of sparse latent attention in 8 bit: 512 + 64 numbers of 16 bit + scales
_EXPANDED_LATENTS = {"minicpm3"}  # vLLM keeps their keys and values, not the latent vector


@dataclass(frozen=True, slots=True)
class Odd:
    """Some of a kind's layers that keep other than the layout's common ``heads`` of ``width``, or in another window."""

    kind: Kind
    count: int
    heads: int
    width: int
    window: int = 0


@dataclass(frozen=True, slots=True)
class KvLayout:
    """The layers that keep something, by kind, and how much.

    ``heads`` KV heads of ``width`` elements each per token (keys and values together); 0 heads for a latent vector of
    ``width`` elements, which ranks do not share. ``extra_bytes`` per token and layer come beside them. ``state`` is
    what one layer of kind STATE keeps of a request; one of kind CROSS keeps the keys of ``encoder_tokens``. ``odd`` are
    those among ``layers`` that differ. ``is_sparse`` says that an indexer chooses tokens. ``is_exact`` is False where a
    part is bounded and not known.
    """

    layers: Mapping[Kind, int]
    window: int
    heads: int
    width: int
    dtype_bytes: float
    extra_bytes: int = 0
    state: State | None = None
    is_exact: bool = True
    odd: tuple[Odd, ...] = ()
    encoder_tokens: int = 0
    is_sparse: bool = False

    def with_kv_bytes(self, dtype_bytes: float) -> KvLayout:
        """The layout with keys and values in another type, by its bytes per number."""
        return replace(self, dtype_bytes=dtype_bytes)

    def token_bytes(self, tp: int = 1) -> int:
        """Bytes of one token in one common layer of attention, on one of ``tp`` ranks: never less than a head."""
        return self._token_bytes(self.heads, self.width, tp)

    def growth_bytes(self, tp: int = 1) -> int:
        """Bytes that a long request grows by with each token, on one rank."""
        odd = [each for each in self.odd if each.kind is Kind.FULL]
        common = self.layers.get(Kind.FULL, 0) - sum(each.count for each in odd)
        others = sum(each.count * self._token_bytes(each.heads, each.width, tp) for each in odd)
        return common * self.token_bytes(tp) + others

    def pool(self, *, tp: int = 1, share: float = 1.0, blocks: Blocks | None = None) -> Pool:
        """The pool of one of ``tp`` ranks of a pipeline stage that has this share of the layers."""
        how = blocks or Blocks()
        return Pool.of(self._strips(tp, how), how, self.encoder_tokens, share=share)

    def largest_share(self, pp: int) -> float:
        """The share of the layers that is in the stage, of ``pp``, which has most of them."""
        count = sum(self.layers.values())
        return ceil(count / pp) / count if count else 1.0

    def request_bytes(
        self, tokens: int, *, tp: int = 1, batched_tokens: int = 2048, pp: int = 1, blocks: Blocks | None = None
    ) -> int:
        """Bytes that a request of so many tokens takes on one of ``tp`` ranks, whole blocks and the pool's null block.

        ``batched_tokens`` is how many the engine computes at once; of ``pp`` pipeline stages the one with most layers.
        """
        return self.pool(tp=tp, share=self.largest_share(pp), blocks=blocks).request_bytes(tokens, batched_tokens)

    def pool_tokens(self, pool_bytes: int, *, tp: int = 1, pp: int = 1, blocks: Blocks | None = None) -> int:
        """How many tokens a pool has room for, as vLLM up to 0.19 prints it: the same number in every group."""
        return self.pool(tp=tp, share=self.largest_share(pp), blocks=blocks).tokens(pool_bytes)

    def _token_bytes(self, heads: int, width: int, tp: int) -> int:
        if not heads and self.is_sparse and self.dtype_bytes == 1:
            return _PACKED_LATENT_BYTES + self.extra_bytes
        share = max(1, ceil(heads / tp)) if heads else 1
        return int(share * width * self.dtype_bytes) + self.extra_bytes

    def _strips(self, tp: int, how: Blocks) -> list[Strip]:
        """The layers by what they keep on one of ``tp`` ranks, in blocks that are long enough for a state."""
        counts: Counter[tuple[Kind, int, int]] = Counter()
        for kind, count in self.layers.items():
            odd = [each for each in self.odd if each.kind is kind]
            for each in odd:
                counts[how.kind(kind), self._token_bytes(each.heads, each.width, tp), each.window] += each.count
            if rest := count - sum(each.count for each in odd):
                size = 0 if kind is Kind.STATE else self.token_bytes(tp)
                counts[how.kind(kind), size, 0 if how.kind(kind) is Kind.FULL else self.window] += rest
        state = self.state.size_bytes(tp, how.speculative) if self.state else 0
        block = how.block_tokens(max((size for _, size, _ in counts), default=0), state, is_latent=not self.heads)
        return [
            Strip(kind, count, window, state if kind is Kind.STATE else size * block, block)
            for (kind, size, window), count in counts.items()
            if (state if kind is Kind.STATE else size)
        ]


def kv_layout(
    text: Mapping[str, Any], *, layers: int | None, heads: int | None, head_dim: int | None, dtype_bytes: float
) -> KvLayout | None:
    """What the config of a language model says of its attention; None where it does not tell enough."""
    if not layers or layers > MOST_LAYERS:
        return None
    common = _common(text, heads, head_dim)
    kept = Counter(keep for each in layers_of(text, layers, common) for keep in each)
    if whole(text, "encoder_layers", "num_encoder_layers") or text.get("is_encoder_decoder") is True:
        kept[Keep(Kind.CROSS, common.heads, common.width)] = layers
    needs_attention = any(keep.kind is not Kind.STATE for keep in kept)
    if not kept or (needs_attention and not common.width):
        return None
    state = state_of(text, heads=heads, head_dim=head_dim) if any(keep.kind is Kind.STATE for keep in kept) else None
    window = next((keep.window for keep in kept if keep.window), 0)
    index = whole(text, "index_head_dim") if text.get("index_topk") and not compression_of(text) else 0
    return KvLayout(
        layers=_by_kind(kept),
        window=window,
        heads=common.heads,
        width=common.width,
        dtype_bytes=dtype_bytes,
        extra_bytes=index + _INDEXER_SCALE_BYTES if index else 0,
        state=state,
        is_exact=_is_exact(text, kept, state),
        odd=_odd(kept, common, window),
        encoder_tokens=whole(text, "max_source_positions", "max_position_embeddings", "n_positions"),
        is_sparse=bool(index),
    )


def odd_heads(
    text: Mapping[str, Any], *, layers: int | None, heads: int | None, head_dim: int | None
) -> tuple[tuple[int, int], ...]:
    """The layers whose heads of keys and values are not as many as ``heads``, and how many they have."""
    if not layers or layers > MOST_LAYERS:
        return ()
    kept = layers_of(text, layers, Keep(Kind.FULL, heads or 0, 2 * (head_dim or 0)))
    found = {number: keep.heads for number, each in enumerate(kept) for keep in each if keep.kind is not Kind.STATE}
    return tuple((number, own) for number, own in found.items() if own and own != heads)


def _common(text: Mapping[str, Any], heads: int | None, head_dim: int | None) -> Keep:
    """What a layer of full attention keeps of a token."""
    latent, rope = whole(text, "kv_lora_rank"), whole(text, "qk_rope_head_dim")
    if latent and type_of(text) not in _EXPANDED_LATENTS:
        return Keep(Kind.FULL, 0, latent + rope)
    if latent:
        return Keep(Kind.FULL, whole(text, "num_attention_heads"), 2 * (whole(text, "qk_nope_head_dim") + rope))
    value_dim = whole(text, "v_head_dim") if whole(text, "swa_head_dim") else 0
    width = (head_dim or 0) + (value_dim or head_dim or 0)
    return Keep(Kind.FULL, heads or 0, width if heads else 0)


def _by_kind(kept: Counter[Keep]) -> dict[Kind, int]:
    counts: Counter[Kind] = Counter()
    for keep, count in kept.items():
        counts[keep.kind] += count
    return {kind: counts[kind] for kind in Kind if counts[kind]}


def _odd(kept: Counter[Keep], common: Keep, window: int) -> tuple[Odd, ...]:
    return tuple(
        Odd(keep.kind, count, keep.heads, keep.width, keep.window)
        for keep, count in kept.items()
        if keep.kind is not Kind.STATE
        and ((keep.heads, keep.width) != (common.heads, common.width) or keep.window not in (0, window))
    )


def _is_exact(text: Mapping[str, Any], kept: Counter[Keep], state: State | None) -> bool:
    has_states = any(keep.kind is Kind.STATE for keep in kept)
    sizes = {max(1, keep.heads) * keep.width for keep in kept if keep.kind is not Kind.STATE}
    is_packed = len({keep.kind for keep in kept}) > 1 and any(max(sizes) % size for size in sizes)
    is_windowless = any(keep.kind in (Kind.SLIDING, Kind.CHUNKED) and not keep.window for keep in kept)
    return not (
        compression_of(text)
        or (has_states and state is None)
        or is_windowless
        or is_packed
        or has_unknown_kinds(text)
        or hints_not_understood(text, {keep.kind for keep in kept})
    )
