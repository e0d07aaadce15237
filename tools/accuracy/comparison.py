"""Measured against estimated, term by term; and what the errors of many records look like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from tools.accuracy.estimator import Estimated, estimate_record
from tools.accuracy.records import ROUNDING_BYTES, Model, Record, model_of


class Measure(StrEnum):
    """What is compared as a size."""

    WEIGHTS = "weights per rank"
    ACTIVATION = "activation"
    NON_TORCH = "non-torch"
    GRAPHS = "CUDA graphs"
    POOL = "KV pool"
    TOKENS = "KV tokens, end to end"


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure of a record and the estimator's."""

    measured: float
    estimated: float

    @property
    def error(self) -> float:
        """Signed and relative: 0.01 for one percent too much."""
        return self.estimated / self.measured - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """A record and all that was estimated of it. ``sees_everything``: a pool's tokens are its longest request."""

    record: Record
    estimated: Estimated
    sees_everything: bool

    def pair(self, measure: Measure) -> Pair | None:
        """Both figures; None where the record has none, or one without a size."""
        record, estimated = self.record, self.estimated
        measured, found = {
            Measure.WEIGHTS: (record.weights_bytes, estimated.weights_bytes),
            Measure.ACTIVATION: (record.activation_bytes, estimated.activation_bytes),
            Measure.NON_TORCH: (record.non_torch_bytes, estimated.non_torch_bytes),
            Measure.GRAPHS: (record.graph_bytes, estimated.graph_bytes),
            Measure.POOL: (record.kv_bytes, estimated.kv_bytes),
            Measure.TOKENS: (record.kv_tokens, estimated.kv_tokens),
        }[measure]
        return Pair(measured, found) if measured and measured > 0 and found is not None else None

    @property
    def known_pool(self) -> tuple[int, int] | None:
        """The least and the most tokens of the pool that the log names with two digits; None where not both are told.

        The log names the pool of a pipeline's first rank, and its tokens by the rank with the smallest.
        """
        pool, tokens_in = self.record.kv_bytes, self.estimated.tokens_in
        if not (pool and pool > 0 and self.record.kv_tokens and tokens_in) or self.record.pp > 1:
            return None
        return tokens_in(pool - ROUNDING_BYTES), tokens_in(pool + ROUNDING_BYTES)

    @property
    def is_exact(self) -> bool | None:
        """Whether the tokens of the known pool are those of the log; None where that cannot be told."""
        bounds = self.known_pool
        return None if bounds is None else bounds[0] <= (self.record.kv_tokens or 0) <= bounds[1]

    @property
    def is_right(self) -> bool | None:
        """Whether "compatible" is said of what started, and of nothing else; None where the log breaks off before."""
        return None if self.record.started is None else self.estimated.is_compatible == self.record.started

    @property
    def longest(self) -> int | None:
        """The longest request that the engine had room for: what it named, else its tokens where it started."""
        own = self.record.kv_tokens if self.record.started and self.sees_everything else None
        return self.record.longest or own

    @property
    def share_of_longest(self) -> float | None:
        """The suggested length as a share of the longest; above 1 it would not start."""
        if not self.longest or self.record.pp > 1:
            return None
        return (self.estimated.suggested or 0) / self.longest


@dataclass(frozen=True, slots=True)
class Distribution:
    """Relative errors of many records: absolute median, 90th percentile and greatest, and the signed median."""

    count: int
    median: float
    p90: float
    greatest: float
    signed: float


def compare(records: Iterable[Record]) -> list[Comparison]:
    """Every record through the estimator."""
    return [_compared(record, model_of(record)) for record in records]


def _compared(record: Record, model: Model) -> Comparison:
    return Comparison(record, estimate_record(record, model), model.sees_everything)


def pairs(comparisons: Iterable[Comparison], measure: Measure) -> list[tuple[Comparison, Pair]]:
    """The records that have the figure, the greatest error first."""
    found = [(each, pair) for each in comparisons if (pair := each.pair(measure))]
    return sorted(found, key=lambda each: -abs(each[1].error))


def distribution(errors: Sequence[float]) -> Distribution:
    """What the errors look like; there must be some."""
    sizes = sorted(abs(error) for error in errors)
    return Distribution(len(sizes), median(sizes), percentile(sizes, 0.9), sizes[-1], median(errors))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` of the ordered values do not exceed, in between where it falls between two."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def share(answers: Iterable[bool | None]) -> tuple[int, int]:
    """How many of the answers are yes, and how many there are."""
    known = [answer for answer in answers if answer is not None]
    return sum(known), len(known)
