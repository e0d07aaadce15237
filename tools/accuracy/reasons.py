"""The likely reason of an error, told from the record alone: the first that applies."""

from __future__ import annotations

from collections.abc import Callable

from lading.units import GIB
from tools.accuracy.comparison import Comparison, Measure
from tools.accuracy.records import Record

_SMALL_POOL_BYTES = 5 * GIB
_ALL = frozenset(Measure)
_POOLS = frozenset({Measure.POOL, Measure.TOKENS})
_BESIDE_WEIGHTS = _ALL - {Measure.WEIGHTS}
_OLD = ("0.5.", "0.6.")
_TOWERS = ("vision", "llava", "mistral-small-3")


def _has_tower(record: Record) -> bool:
    return any(each in record.model.lower() for each in _TOWERS)


_REASONS: tuple[tuple[str, frozenset[Measure], Callable[[Record], bool]], ...] = (
    ("a version whose terms are not known apart", _ALL, lambda record: record.version.startswith(_OLD)),
    ("held in float32", _ALL, lambda record: record.dtype == "float32"),
    ("quantised while it is loaded", _ALL, lambda record: record.quantization == "fp8"),
    ("kernels pad packed experts", _POOLS | {Measure.WEIGHTS}, lambda record: record.quantization == "mxfp4"),
    ("the cache is quantised by an option", frozenset({Measure.TOKENS}), lambda record: record.kv_dtype != "auto"),
    ("the log is of a rank without the sampler", _BESIDE_WEIGHTS, lambda record: record.pp > 1),
    ("the encoder's part of the profile run", _BESIDE_WEIGHTS - {Measure.GRAPHS}, _has_tower),
    ("the pool is small beside what is subtracted", _POOLS, lambda record: (record.kv_bytes or 0) < _SMALL_POOL_BYTES),
    ("the log does not tell the number of sequences", _BESIDE_WEIGHTS, lambda record: record.sequences is None),
    ("captures differ by kernel and by what is compiled", frozenset({Measure.GRAPHS}), lambda _: True),
    ("all-reduce buffers differ by machine", frozenset({Measure.NON_TORCH}), lambda record: record.tp > 1),
)


def likely_reason(comparison: Comparison, measure: Measure) -> str:
    """Why the error is likely what it is."""
    record = comparison.record
    return next((text for text, measures, applies in _REASONS if measure in measures and applies(record)), "not known")
