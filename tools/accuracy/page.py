"""The report as a page, ``docs/accuracy.md``: marks, distributions, worst cases, every record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lading.units import GIB
from tools.accuracy.comparison import Comparison, Measure, distribution, pairs
from tools.accuracy.estimator import SPOKEN
from tools.accuracy.marks import Mark, marks
from tools.accuracy.rank_weights import RankWeights
from tools.accuracy.reasons import likely_reason
from tools.accuracy.records import Record

_NOTE = "<!-- written by `make accuracy`; do not edit -->"
_WORST = 4
_HEAD = """\
Every measured start-up among the test data (`tests/assets/memory-records.json`), through Lading's own estimator: what
the engine's log says against what Lading says before anything is downloaded, from the config and the headers of the
checkpoint alone. Errors are relative and signed, `+` where Lading estimates more than was measured; logs give GiB with
two digits. A pool or its tokens are compared where the log names them; *known pool* takes the pool from the log and
compares the tokens only. The longest request is what the engine named, or the tokens of its pool where it started:
a suggestion above it would not start."""


_CLASSES = """\
What the engine's own classes (vLLM 0.32.0) hold on a rank, built from the published config without weights, against the
estimate from the headers: splits, replication, padding, pipeline stages and rotary tables of families that no log
covers. Relative errors by tensor-parallel size, and by stage of a pipeline of two."""


def page(comparisons: Sequence[Comparison], unspoken: Sequence[Record], ranks: Sequence[RankWeights]) -> str:
    """The whole page."""
    parts = ["# Accuracy of the memory estimate", _NOTE, _HEAD]
    for engine in sorted({each.record.engine for each in comparisons}):
        parts += _engine(engine, [each for each in comparisons if each.record.engine == engine])
    parts += ["## Weights per rank against the engine's classes", _CLASSES, _rank_errors(ranks), _ranks(ranks)]
    if unspoken:
        spoken = ", ".join(sorted(SPOKEN))
        parts.append(
            f"{len(unspoken)} records are of engines that the estimator does not speak of yet ({spoken} it does)."
        )
    return "\n\n".join(parts) + "\n"


def summary(comparisons: Sequence[Comparison]) -> str:
    """What ``make accuracy`` prints: marks and distributions."""
    return f"{_marks(marks(comparisons))}\n\n{_distributions(comparisons)}\n\n{_worst(comparisons)}\n"


def _engine(engine: str, comparisons: Sequence[Comparison]) -> list[str]:
    return [
        f"## {engine}: {len(comparisons)} records",
        _marks(marks(comparisons)),
        "### Errors by term",
        _distributions(comparisons),
        "### Worst cases",
        _worst(comparisons),
        "### Weights, pool and tokens of every record",
        _pools(comparisons),
        "### Activation, non-torch and graphs of every record",
        _terms(comparisons),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns after the first are set to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _marks(found: Sequence[Mark]) -> str:
    rows = [
        [
            each.name,
            _percent(each.figure),
            f"{'≥' if each.at_least else '≤'} {_percent(each.bar)}",
            str(each.count),
            "yes" if each.is_reached else "**no**",
        ]
        for each in found
    ]
    return table(("mark", "figure", "bar", "records", "reached"), rows)


def _distributions(comparisons: Sequence[Comparison]) -> str:
    rows = []
    for measure in Measure:
        found = pairs(comparisons, measure)
        if found:
            errors = distribution([pair.error for _, pair in found])
            figures = (errors.median, errors.p90, errors.greatest)
            rows.append([measure, str(errors.count), *map(_percent, figures), _signed(errors.signed)])
    return table(("term", "records", "median", "p90", "greatest", "signed median"), rows)


def _worst(comparisons: Sequence[Comparison]) -> str:
    rows = [
        [
            measure,
            _signed(pair.error),
            _name(each.record),
            _figure(measure)(pair.measured),
            _figure(measure)(pair.estimated),
            likely_reason(each, measure),
        ]
        for measure in Measure
        for each, pair in pairs(comparisons, measure)[:_WORST]
    ]
    return table(("term", "error", "record", "measured", "estimated", "likely reason"), rows)


def _pools(comparisons: Sequence[Comparison]) -> str:
    rows = [
        [
            _name(each.record),
            *_columns(each, Measure.WEIGHTS),
            *_columns(each, Measure.POOL),
            {None: "", True: "exact", False: "**no**"}[each.is_exact],
            *_columns(each, Measure.TOKENS),
            each.record.outcome,
            {None: "", True: "right", False: "**wrong**"}[each.is_right],
            "" if (length := each.share_of_longest) is None else f"{100 * length:.1f} %",
        ]
        for each in comparisons
    ]
    head = ("record", "weights", "est.", "error", "pool", "est.", "error", "known pool", "tokens", "est.", "error")
    return table((*head, "outcome", "verdict", "suggested / longest"), rows)


def _terms(comparisons: Sequence[Comparison]) -> str:
    measures = (Measure.ACTIVATION, Measure.NON_TORCH, Measure.GRAPHS)
    rows = [
        [_name(each.record), *[column for measure in measures for column in _columns(each, measure)]]
        for each in comparisons
    ]
    head = [column for measure in measures for column in (str(measure), "est.", "error")]
    return table(("record", *head), rows)


_SPLITS = ((1, 1, 0), (2, 1, 0), (4, 1, 0), (8, 1, 0), (1, 2, 0), (1, 2, 1))


def _rank_errors(ranks: Sequence[RankWeights]) -> str:
    errors = distribution([each.pair.error for each in ranks])
    figures = (errors.median, errors.p90, errors.greatest)
    return table(
        ("ranks", "median", "p90", "greatest", "signed median"),
        [[str(errors.count), *map(_percent, figures), _signed(errors.signed)]],
    )


def _ranks(ranks: Sequence[RankWeights]) -> str:
    found = {(each.config_file, each.tp, each.pp, each.stage): each.pair.error for each in ranks}
    rows = [
        [
            name.replace("__", "/"),
            *(_signed(error) if (error := found.get((name, *split))) is not None else "" for split in _SPLITS),
        ]
        for name in sorted({each.config_file for each in ranks})
    ]
    return table(("model", "tp1", "tp2", "tp4", "tp8", "pp2, first", "pp2, last"), rows)


def _columns(each: Comparison, measure: Measure) -> tuple[str, str, str]:
    pair = each.pair(measure)
    if pair is None:
        return "", "", ""
    write = _figure(measure)
    return write(pair.measured), write(pair.estimated), _signed(pair.error)


def _figure(measure: Measure) -> Callable[[float], str]:
    return (lambda value: f"{value:,.0f}") if measure is Measure.TOKENS else (lambda value: f"{value / GIB:.2f}")


def _name(record: Record) -> str:
    parallel = f"tp{record.tp}" + (f" pp{record.pp}" if record.pp > 1 else "") + (" ep" if record.ep else "")
    options = [f"kv {record.kv_dtype}"] if record.kv_dtype != "auto" else []
    options += [record.dtype] if record.dtype == "float32" else []
    options += [f"util {record.utilization}"] if record.utilization else []
    gpu = record.gpu.removeprefix("NVIDIA ")
    return f"{record.id} {record.model.rpartition('/')[2]}, {record.version}, {gpu}, {parallel}" + "".join(
        f", {each}" for each in options
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f} %"
