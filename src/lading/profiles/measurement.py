"""What an engine said a rank's memory went to, beside what was estimated for it. Pure.

Both are a :class:`Measurement`, so that they compare field by field: an engine's lines become one in
:mod:`lading.backends.startup_figures`, the terms of an estimate in :meth:`Measurement.of_terms`. Engines print
hundredths of a GiB, so differences below :data:`RESOLUTION_BYTES` mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lading.units import GIB

RESOLUTION_BYTES = GIB // 100
SERIOUS_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Measurement:
    """The memory of one rank, in bytes, and the tokens that its KV pool holds. None: it was not told.

    ``weights_bytes`` covers what is loaded with the weights: rotary tables and LoRA slots. ``cuda_graph_bytes`` is what
    they took, or what the KV pool was made smaller by for them, where that is more.
    ``Measurement.from_json(m.to_json()) == m``.
    """

    weights_bytes: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    cuda_graph_bytes: int | None = None
    kv_pool_bytes: int | None = None
    kv_pool_tokens: int | None = None

    @classmethod
    def of_terms(cls, terms: Mapping[str, int]) -> Measurement:
        """The figures of an estimate, given as term → bytes; ``kv_pool`` and ``kv_pool_tokens`` where it has them."""
        weights = [terms[name] for name in _WITH_THE_WEIGHTS if name in terms]
        return cls(
            weights_bytes=sum(weights) if "weights" in terms else None,
            activation_bytes=terms.get("activation"),
            non_torch_bytes=terms.get("non_torch"),
            cuda_graph_bytes=terms.get("cuda_graphs"),
            kv_pool_bytes=terms.get("kv_pool"),
            kv_pool_tokens=terms.get("kv_pool_tokens"),
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing was told."""
        return self == Measurement()

    def items(self) -> list[tuple[str, int]]:
        """What was told, in order: each term's name as estimates have it, and its figure."""
        return [(term, value) for term, value in zip(TERMS, self._values(), strict=True) if value is not None]

    @property
    def terms(self) -> dict[str, int]:
        """What was told in bytes: term → bytes."""
        return {term: value for term, value in self.items() if term != "kv_pool_tokens"}

    def to_json(self) -> dict[str, int | None]:
        """The figures as JSON values, None for those that were not told."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """What :meth:`to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        values = [data[each.name] for each in fields(cls)]
        if not all(value is None or (type(value) is int and value >= 0) for value in values):
            raise ValueError(f"not figures of memory: {values}")
        return cls(*values)

    def _values(self) -> tuple[int | None, ...]:
        return tuple(getattr(self, each.name) for each in fields(self))


TERMS = ("weights", "activation", "non_torch", "cuda_graphs", "kv_pool", "kv_pool_tokens")
_WITH_THE_WEIGHTS = ("weights", "rope_cache", "allocator", "lora")
_NAMES = ("weights", "activation", "non-torch", "CUDA graphs", "KV pool", "KV pool")
_LEAST = frozenset({"kv_pool_bytes", "kv_pool_tokens"})


def merge(ranks: Iterable[Measurement]) -> Measurement:
    """One for all ranks: the most that any of them holds of each term, and the least pool, which binds them all."""
    ranks = tuple(ranks)

    def of(name: str) -> int | None:
        told = [value for each in ranks if (value := getattr(each, name)) is not None]
        return (min(told) if name in _LEAST else max(told)) if told else None

    return Measurement(*(of(each.name) for each in fields(Measurement)))


@dataclass(frozen=True, slots=True)
class Deviation:
    """One figure that the engine told, beside its estimate; None where there is none."""

    term: str
    measured: int
    estimated: int | None

    @property
    def difference(self) -> int:
        """How much more was estimated than measured; negative for less."""
        return 0 if self.estimated is None else self.estimated - self.measured

    def __str__(self) -> str:
        name, is_tokens = _NAMES[TERMS.index(self.term)], self.term == "kv_pool_tokens"
        told = (
            f"{name} {_count(self.measured) if is_tokens else _gib(self.measured)} {'tokens' if is_tokens else 'GiB'}"
        )
        if self.estimated is None:
            return told
        figure = _count(self.estimated) if is_tokens else _gib(self.estimated)
        share = f" ({self.difference / self.measured:+.1%})".replace("%", " %") if self.measured else ""
        return f"{told}, estimated {figure}{share}"


def compare(estimated: Measurement, measured: Measurement) -> tuple[Deviation, ...]:
    """Each figure that the engine told, beside the estimate's."""
    expected = dict(estimated.items())
    return tuple(Deviation(term, value, expected.get(term)) for term, value in measured.items())


def serious(deviations: Iterable[Deviation]) -> tuple[Deviation, ...]:
    """The deviations that change how many tokens fit: more than :data:`SERIOUS_SHARE` of the KV pool.

    Bytes are held against the pool's bytes, so where the engine told no pool only its tokens can be judged.
    """
    deviations = tuple(deviations)
    pool = next((each.measured for each in deviations if each.term == "kv_pool"), None)
    return tuple(each for each in deviations if _is_serious(each, pool))


def _is_serious(each: Deviation, pool_bytes: int | None) -> bool:
    if each.term == "kv_pool_tokens":
        return abs(each.difference) > SERIOUS_SHARE * each.measured
    return pool_bytes is not None and abs(each.difference) > max(SERIOUS_SHARE * pool_bytes, RESOLUTION_BYTES)


def summary(deviations: Iterable[Deviation]) -> str:
    """All of them in one line: ``weights 14.99 GiB, estimated 15.01 (+0.1 %); …``."""
    return "; ".join(map(str, deviations))


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f}"


def _count(tokens: int) -> str:
    return f"{tokens:,}"
