"""How an engine's start-up lines become figures: a :class:`Dialect` says what one family prints, the reader listens.

A wording is a regular expression whose named groups are figures: the end of a name is its unit, ``weights_gib``. All
engines write GB where they mean 2^30 bytes. Reading never raises, whatever a line holds, and lines without one of the
dialect's words cost next to nothing: they pass for days.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lading.profiles.measurement import Measurement, merge
from lading.units import GIB, MIB

NUMBER = r"-?\d{1,9}(?:\.\d{1,20})?"
_COUNT = r"\d[\d,]{0,20}"
_UNITS = {"gib": GIB, "mib": MIB, "bytes": 1, "hundredths": 100}
_FLAG = "flag"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_LINE = 4096
_MOST_SOURCES = 4096

Figures = Mapping[str, int]
"""What one source told: name → bytes or count."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who printed a line: ``identity`` tells processes apart, ``order`` puts the ranks in theirs."""

    identity: str = ""
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a family of engines prints of its memory.

    One of ``words`` is in every line of interest. ``source_of`` reads who printed a line, ``measure`` makes a source's
    figures a measurement. Of a figure told several times the last counts, the smallest of those in ``least``; those
    ``summed`` are added up.
    """

    words: tuple[str, ...]
    wordings: tuple[re.Pattern[str], ...]
    source_of: Callable[[str], Source]
    measure: Callable[[Figures], Measurement]
    summed: frozenset[str] = frozenset()
    least: frozenset[str] = frozenset()


class FigureReader:
    """Collects the figures of one start: :meth:`read` takes every line, :attr:`ranks` may be asked at any time."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._words = dialect.words
        self._told: dict[str, dict[str, int]] = {}
        self._order: dict[str, tuple[int, ...]] = {}

    def read(self, line: str) -> None:
        """Take from a line what it tells."""
        for word in self._words:
            if word in line:
                self._read(line)
                return

    @property
    def ranks(self) -> tuple[Measurement, ...]:
        """What each rank that spoke told of itself, in the order of ranks; the pool's tokens count for all of them."""
        sources = sorted(self._told, key=self._order.__getitem__)
        told = [self._dialect.measure(self._told[source]) for source in sources]
        tokens = merge(told).kv_pool_tokens
        ranks = [each for each in told if not replace(each, kv_pool_tokens=None).is_empty]
        if not ranks and tokens is not None:
            ranks = [Measurement()]
        return tuple(replace(each, kv_pool_tokens=tokens) for each in ranks)

    def _read(self, line: str) -> None:
        text = _ANSI.sub("", line[:_LONGEST_LINE])
        found = [match.groupdict() for wording in self._dialect.wordings if (match := wording.search(text))]
        if not found:
            return
        source = self._dialect.source_of(text)
        if source.identity not in self._told and len(self._told) >= _MOST_SOURCES:
            return
        told = self._told.setdefault(source.identity, {})
        self._order[source.identity] = source.order
        for group, value in ((group, value) for groups in found for group, value in groups.items() if value):
            name, figure = _figure(group, value)
            if name in self._dialect.summed:
                figure += told.get(name, 0)
            elif name in self._dialect.least:
                figure = min(figure, told.get(name, figure))
            told[name] = figure


def _figure(group: str, text: str) -> tuple[str, int]:
    """A group's name, and its value in bytes or as a count. Less than 0, which rounding makes of little, is 0."""
    name, _, unit = group.rpartition("_")
    if unit == _FLAG:
        return name, 1
    if unit in _UNITS:
        return name, max(0, round(float(text) * _UNITS[unit]))
    return group, int(text.replace(",", ""))


def gib(name: str) -> str:
    """A figure in GiB, with its unit, however the engine writes that."""
    return rf"(?P<{name}_gib>{NUMBER})\s?Gi?B"


def mib(name: str) -> str:
    """A figure in MiB, with its unit."""
    return rf"(?P<{name}_mib>{NUMBER})\s?Mi?B"


def count(name: str) -> str:
    """A whole number, with commas or without."""
    return rf"(?P<{name}>{_COUNT})"


def flag(name: str, text: str) -> str:
    """A text whose presence is the figure."""
    return rf"(?P<{name}_{_FLAG}>{re.escape(text)})"


def wordings(*patterns: str) -> tuple[re.Pattern[str], ...]:
    """The patterns, compiled; digits are ASCII's."""
    return tuple(re.compile(pattern, re.ASCII) for pattern in patterns)
