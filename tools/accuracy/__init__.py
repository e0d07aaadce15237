"""How right the memory estimate is: every measured start-up of the test data through Lading's own estimator.

``make accuracy`` prints where it stands and writes ``docs/accuracy.md``; ``tests/test_accuracy.py`` fails when the page
differs from what the estimator says now, or a mark is missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.accuracy.comparison import Comparison, compare
from tools.accuracy.estimator import SPOKEN
from tools.accuracy.page import page
from tools.accuracy.rank_weights import RankWeights, rank_weights
from tools.accuracy.records import Record, records

PAGE = Path(__file__).parents[2] / "docs/accuracy.md"


@dataclass(frozen=True, slots=True)
class Report:
    """All comparisons, the records of engines that the estimator does not speak of, and ranks beside the classes."""

    comparisons: tuple[Comparison, ...]
    unspoken: tuple[Record, ...]
    ranks: tuple[RankWeights, ...]

    @property
    def text(self) -> str:
        """The page."""
        return page(self.comparisons, self.unspoken, self.ranks)


def report() -> Report:
    """Every record, compared."""
    found = records()
    return Report(
        tuple(compare(each for each in found if each.engine in SPOKEN)),
        tuple(each for each in found if each.engine not in SPOKEN),
        tuple(rank_weights()),
    )
