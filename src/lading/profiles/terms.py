"""What an estimate is made of: named terms, the ranks that they are for, and the situation that they are for."""

from __future__ import annotations

from dataclasses import dataclass, field

from lading.hardware.inventory import Device
from lading.model.attention import Blocks, KvLayout, Pool
from lading.profiles.calibration import Calibration
from lading.profiles.options import EngineOptions


@dataclass(frozen=True, slots=True)
class Term:
    """One part of an estimate, and in a few words how it was found."""

    name: str
    size_bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class KvNeed:
    """What one request takes of the KV cache on a rank. ``pool`` None: nothing is known, and nothing counted.

    ``is_exact`` is False where the pool's blocks are bounded and not known.
    """

    pool: Pool | None
    batched_tokens: int = 2048
    is_exact: bool = False

    @classmethod
    def of(
        cls,
        layout: KvLayout | None,
        tp: int = 1,
        share: float = 1.0,
        *,
        batched_tokens: int = 2048,
        blocks: Blocks | None = None,
    ) -> KvNeed:
        """On one of ``tp`` ranks of a pipeline stage with this share of the layers."""
        if layout is None:
            return cls(None)
        return cls(layout.pool(tp=tp, share=share, blocks=blocks), batched_tokens, layout.is_exact)

    def bytes_at(self, tokens: int) -> int:
        """Bytes of a request of so many tokens; 0 where nothing is known."""
        return self.pool.request_bytes(tokens, self.batched_tokens) if self.pool else 0

    def blocks_at(self, tokens: int) -> int:
        """Blocks of a request of so many tokens, without the one that an engine keeps back of its pool."""
        return self.pool.request_blocks(tokens, self.batched_tokens) if self.pool else 0

    def tokens_in(self, pool_bytes: int) -> int:
        """How many tokens a pool of so many bytes has room for, the same number in every group of layers."""
        return self.pool.tokens(pool_bytes) if self.pool and pool_bytes > 0 else 0


@dataclass(frozen=True, slots=True)
class Target:
    """The situation that an estimate is for.

    ``total_bytes`` is the GPU's memory as CUDA reports it, or the RAM that is granted; ``free_bytes`` what of the RAM
    is free now. ``is_linked`` says whether GPUs are joined by NVLink; None where only the name can tell. ``measured``
    is what the last start of the same told, where there was one here.
    """

    device: Device
    total_bytes: int
    engine: str = "vllm"
    engine_version: str = ""
    gpu_name: str = ""
    compute_capability: tuple[int, int] = (0, 0)
    is_linked: bool | None = None
    is_unified: bool = False
    free_bytes: int | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    measured: Calibration | None = None


@dataclass(frozen=True, slots=True)
class RankEstimate:
    """What one rank holds. ``terms`` are all but the KV pool; what the budget leaves beside them is the pool.

    ``kv_pool_bytes`` may be negative: then the terms alone are more than the budget. ``on_top`` are terms that the
    engine takes beside its budget, so that they make no pool smaller.
    """

    rank: int
    terms: tuple[Term, ...]
    kv: KvNeed
    max_model_len: int
    kv_pool_bytes: int
    kv_pool_tokens: int
    on_top: tuple[Term, ...] = ()

    @property
    def fixed_bytes(self) -> int:
        """What is needed at any length: everything but the KV cache."""
        return sum(term.size_bytes for term in self.terms)

    @property
    def kv_bytes_per_request(self) -> int:
        """The KV cache of one request of the full length."""
        return self.kv.bytes_at(self.max_model_len)

    @property
    def needed_bytes(self) -> int:
        """What the rank must be granted to serve one request of the full length."""
        return self.fixed_bytes + self.kv_bytes_per_request

    @property
    def concurrency(self) -> float:
        """How many requests of the full length the pool has room for at once; 0 where nothing is known."""
        one = self.kv.blocks_at(self.max_model_len)
        return self.kv.pool.blocks(max(0, self.kv_pool_bytes)) / one if self.kv.pool and one > 0 else 0.0

    def bytes_of(self, *names: str) -> int:
        """The sum of the terms of these names, in the budget or on top of it."""
        return sum(term.size_bytes for term in (*self.terms, *self.on_top) if term.name in names)


@dataclass(frozen=True, slots=True)
class Hazard:
    """What ends a start though everything fits the budget, and what to do about it."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the ranks of a profile need at ``max_model_len``; ``budget_bytes`` is what an engine takes of each GPU."""

    ranks: tuple[RankEstimate, ...]
    budget_bytes: int
    notes: tuple[str, ...] = ()
    hazard: Hazard | None = None

    @property
    def binding(self) -> RankEstimate:
        """The rank that limits the others: the one whose pool has room for the fewest requests."""
        return min(self.ranks, key=lambda rank: (rank.kv_pool_bytes - rank.kv_bytes_per_request, rank.rank))

    @property
    def max_model_len(self) -> int:
        """The length that the estimate is for."""
        return self.ranks[0].max_model_len

    @property
    def terms(self) -> tuple[Term, ...]:
        """The binding rank's terms, the KV cache of one request among them."""
        rank = self.binding
        cache = Term("kv_cache", rank.kv_bytes_per_request, f"one request of {self.max_model_len} tokens, whole blocks")
        return (*rank.terms, cache)

    @property
    def needed_bytes(self) -> int:
        """What the binding rank needs."""
        return self.binding.needed_bytes

    @property
    def fixed_bytes(self) -> int:
        """What the binding rank needs at any length."""
        return self.binding.fixed_bytes

    @property
    def kv_bytes(self) -> int:
        """The KV cache of one request of the full length, on the binding rank."""
        return self.binding.kv_bytes_per_request

    @property
    def is_exact(self) -> bool:
        """Whether the KV cache is known, and not bounded."""
        return self.binding.kv.is_exact
