"""How an engine cuts its KV cache into blocks, and how many of them a request takes: its own arithmetic.

vLLM (``v1/core/kv_cache_utils.py`` in 0.33) gives layers that keep the same to groups of equal size, the size of the
rarest (of the most frequent where that is not half as much again); all groups share one pool of blocks, each with room
for a page of every layer of a group. Pages are made equal by longer blocks for layers that keep less of a token. So a
request needs, in blocks: as many as its tokens fill for full attention; those of its window, and of the tokens computed
at once, for sliding and chunked attention; those of the encoder's tokens for cross-attention; one for a state. Where
there are states, blocks are made long enough for a page of attention to be no smaller than a state. Pages that do not
divide the largest are packed, in a way that changes from version to version: there the bytes are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from lading.model.layers import Kind

BLOCK_TOKENS = 16

_LATENT_BLOCK_TOKENS = 128  # what states make blocks of latent attention a multiple of
_MUCH_MORE = 1.5


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the engine cuts its pool: tokens of a block (None: its default), and how many tokens are guessed ahead.

    ``keeps_states`` says that prefix caching keeps a state beside the running one; ``has_groups`` is False for an
    engine that gives layers with a window blocks for every token, as it may be told to.
    """

    tokens: int | None = None
    speculative: int = 0
    keeps_states: bool = False
    has_groups: bool = True

    def kind(self, kind: Kind) -> Kind:
        """As what the engine allocates layers of this kind."""
        return Kind.FULL if kind in (Kind.SLIDING, Kind.CHUNKED) and not self.has_groups else kind

    def block_tokens(self, token_bytes: int, state_bytes: int, *, is_latent: bool) -> int:
        """Tokens of a block: so many that attention's page is no smaller than a state."""
        least = self.tokens or BLOCK_TOKENS
        if not (state_bytes and token_bytes):
            return least
        multiple = max(least, _LATENT_BLOCK_TOKENS) if is_latent else least
        return max(least, ceil(state_bytes / token_bytes / multiple) * multiple)


@dataclass(frozen=True, slots=True)
class Strip:
    """Layers that are alike, on one rank. ``page`` is the bytes of one block of ``block`` tokens of one layer."""

    kind: Kind
    count: int
    window: int
    page: int
    block: int

    def in_page(self, page: int) -> Strip:
        """The layers with pages so large, by longer blocks; states are padded."""
        return replace(self, page=page, block=self.block * (1 if self.kind is Kind.STATE else page // self.page))


@dataclass(frozen=True, slots=True)
class Pool:
    """The blocks of one rank: ``groups`` of layers with how often each takes blocks, and the bytes of one block."""

    groups: tuple[tuple[Strip, float], ...]
    block_bytes: int
    how: Blocks = Blocks()
    encoder_tokens: int = 0

    @classmethod
    def of(cls, strips: Sequence[Strip], how: Blocks, encoder_tokens: int, *, share: float = 1.0) -> Pool:
        """The pool for these layers, of which ``share`` are in the pipeline stage."""
        if not strips:
            return cls((), 0, how)
        in_all = sum(strip.count * strip.page for strip in strips)
        if len({strip.kind for strip in strips}) == 1:  # one group, whatever each keeps
            longest = max(strips, key=lambda strip: strip.window)
            return cls(((longest, 1),), ceil(in_all * share), how, encoder_tokens)
        page = max(strip.page for strip in strips)
        if any(page % strip.page for strip in strips if strip.kind is not Kind.STATE):
            packed = tuple((strip, strip.count * strip.page / in_all) for strip in strips)
            return cls(packed, ceil(in_all * share), how, encoder_tokens)
        size = _group_size(strips)
        grouped = tuple((strip.in_page(page), ceil(strip.count / size)) for strip in strips)
        return cls(grouped, max(1, ceil(size * share)) * page, how, encoder_tokens)

    def request_blocks(self, tokens: int, batched_tokens: int = 2048) -> int:
        """How many blocks a request of so many tokens takes; 0 where nothing is kept."""
        return ceil(sum(groups * self._blocks(strip, tokens, batched_tokens) for strip, groups in self.groups))

    def request_bytes(self, tokens: int, batched_tokens: int = 2048) -> int:
        """The bytes of these blocks, and of the null block that the pool holds back."""
        needed = self.request_blocks(tokens, batched_tokens)
        return (needed + 1) * self.block_bytes if needed else 0

    def blocks(self, pool_bytes: int) -> int:
        """How many blocks so many bytes make."""
        return pool_bytes // self.block_bytes if self.block_bytes else 0

    def tokens(self, pool_bytes: int) -> int:
        """How many tokens there is room for, as vLLM up to 0.19 prints it: the same number in every group."""
        if not self.groups:
            return 0
        groups = sum(count for _, count in self.groups)
        return int(self.blocks(pool_bytes) // groups) * min(strip.block for strip, _ in self.groups)

    def capacity(self, pool_bytes: int, length: int, batched_tokens: int = 2048) -> int:
        """How many tokens there is room for, as newer versions print it: those of as many requests as fit."""
        needed = self.request_blocks(length, batched_tokens)
        return int(self.blocks(pool_bytes) / needed * length) if needed else 0

    def _blocks(self, strip: Strip, tokens: int, batched_tokens: int) -> int:
        match strip.kind:
            case Kind.FULL:
                return ceil(tokens / strip.block)
            case Kind.SLIDING:
                return ceil(min(strip.window - 1 + batched_tokens, tokens) / strip.block) + 1
            case Kind.CHUNKED:
                return ceil(min(strip.window + batched_tokens, tokens) / strip.block)
            case Kind.CROSS:
                return ceil(self.encoder_tokens / strip.block)
            case Kind.STATE:
                return (2 if self.how.keeps_states else 1) + self.how.speculative


def _group_size(strips: Sequence[Strip]) -> int:
    counts = [strip.count for strip in strips]
    return max(counts) if max(counts) < _MUCH_MORE * min(counts) else min(counts)
