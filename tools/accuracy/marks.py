"""The marks that the estimator must reach on the records, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.accuracy.comparison import Comparison, Measure, distribution, pairs, share

_SHORTEST_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Mark:
    """One bar: ``figure`` is at most ``bar``, or at least where ``at_least``; ``count`` records stand behind it."""

    name: str
    figure: float
    bar: float
    count: int
    at_least: bool = False

    @property
    def is_reached(self) -> bool:
        """Whether the figure is on the right side of the bar."""
        return self.figure >= self.bar if self.at_least else self.figure <= self.bar


def marks(comparisons: Sequence[Comparison]) -> list[Mark]:
    """Every mark for one engine's records."""
    weights = distribution([pair.error for _, pair in pairs(comparisons, Measure.WEIGHTS)])
    pool = distribution([pair.error for _, pair in pairs(comparisons, Measure.POOL)])
    exact, known = share(each.is_exact for each in comparisons)
    right, judged = share(each.is_right for each in comparisons)
    lengths = [length for each in comparisons if (length := each.share_of_longest) is not None]
    starts = sum(each <= 1 for each in lengths)
    long_enough = sum(each >= _SHORTEST_SHARE for each in lengths)
    return [
        Mark("weights per rank, median error", weights.median, 0.005, weights.count),
        Mark("KV pool, median error", pool.median, 0.02, pool.count),
        Mark("KV pool, 90th percentile", pool.p90, 0.05, pool.count),
        Mark("KV tokens of a known pool, exact", exact / known, 0.95, known, at_least=True),
        Mark("verdict right", right / judged, 0.98, judged, at_least=True),
        Mark("suggested length starts", starts / len(lengths), 1.0, len(lengths), at_least=True),
        Mark("suggested length is 95 % of the longest", long_enough / len(lengths), 1.0, len(lengths), at_least=True),
    ]
