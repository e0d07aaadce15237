"""The figures of ``constants.json``: by engine, the row of its version, or the newest for one that is newer.

Each row stands beside its source. A version that cannot be read is taken as the newest, and :meth:`Row.provenance` says
so in the words that estimates show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_NUMBERS = re.compile(r"\d+")
_NEWER_THAN_MEASURED = {"vllm": (0, 34), "sglang": (0, 6), "tensorrt_llm": (1, 3)}
_UNKNOWN = (1 << 30,)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the figures that hold since a version of an engine."""

    engine: str
    since: str
    is_newest: bool
    values: Mapping[str, Any]

    def number(self, name: str, part: str | None = None) -> float:
        """The figure ``name``, or its ``part``."""
        value = self.values[name] if part is None else self.values[name][part]
        return float(value)

    def flag(self, name: str) -> bool:
        """The switch ``name``."""
        return bool(self.values[name])

    def text(self, name: str) -> str:
        """The word ``name``."""
        return str(self.values[name])

    def table(self, name: str) -> Mapping[str, float]:
        """The figures of ``name`` by their keys."""
        return {str(key): float(value) for key, value in self.values[name].items()}

    def rows(self, name: str) -> Sequence[Sequence[float]]:
        """The lists of figures of ``name``, in order."""
        return [[float(value) for value in row] for row in self.values[name]]

    def numbers(self, name: str) -> Sequence[float]:
        """The list of figures ``name``."""
        return [float(value) for value in self.values[name]]

    def provenance(self, version: str) -> str:
        """Where the figures come from, for an engine of ``version``: empty where they were written for it."""
        key = version_key(version)
        if not key:
            return f"figures of {self.engine} {self.since}, since its version is not known"
        if key >= _NEWER_THAN_MEASURED[self.engine]:
            return f"figures of {self.engine} {self.since}, the newest known"
        return ""


def row_for(engine: str, version: str) -> Row:
    """The row of a version of an engine; of the newest for one that is newer, or that cannot be read."""
    wanted = version_key(version) or _UNKNOWN
    return [row for row in _rows(engine) if version_key(row.since) <= wanted][-1]


def capability_floor(names: Sequence[str]) -> tuple[int, int] | None:
    """Least compute capability that holds, and that computes in, the first precision of ``names`` that is known."""
    rows: Mapping[str, Sequence[int]] = _data()["precisions"]["rows"]
    found = next((rows[name] for name in names if name in rows), None)
    return (found[0], found[1]) if found else None


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers, ``0.19.1+cu128`` as ``(0, 19, 1)``; empty for what has none."""
    return tuple(int(number) for number in _NUMBERS.findall(version.partition("+")[0])[:3])


@cache
def _rows(engine: str) -> tuple[Row, ...]:
    rows = _data()[engine]["rows"]
    return tuple(Row(engine, row["since"], row is rows[-1], row) for row in rows)


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((files("lading.profiles") / "constants.json").read_text())
    return data
