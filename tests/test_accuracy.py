"""The accuracy report: its page is what the estimator says now, and its marks are reached."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tools.accuracy import PAGE, report
from tools.accuracy.comparison import Comparison, Measure, distribution, percentile
from tools.accuracy.estimator import Estimated
from tools.accuracy.marks import marks
from tools.accuracy.records import Record, model_of, records

BARS = {
    "weights per rank, median error": 0.005,
    "KV pool, median error": 0.02,
    "KV pool, 90th percentile": 0.05,
    "KV tokens of a known pool, exact": 0.95,
    "verdict right": 0.98,
    "suggested length starts": 1.0,
    "suggested length is 95 % of the longest": 1.0,
}
MISSED = {
    "suggested length is 95 % of the longest": "97 %: Mistral-Small-3.2 at 0.11 ran with fewer sequences than it says",
}
"""Marks that the estimator misses today, with the figure: one that is reached fails here until it is struck."""


@pytest.fixture(scope="module")
def found():
    return report()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.xfail(strict=True, reason=MISSED[name])] if name in MISSED else [])
        for name in BARS
    ],
)
def test_a_mark_is_reached(found, name):
    mark = next(each for each in marks(found.comparisons) if each.name == name)
    assert mark.bar == BARS[name]
    assert mark.is_reached, f"{mark.figure:.4f} on {mark.count} records, the bar is {mark.bar}"


def test_ranks_hold_what_the_engines_own_classes_hold(found):
    errors = distribution([each.pair.error for each in found.ranks])
    assert errors.count > 150
    assert errors.median <= 0.0005
    assert errors.p90 <= 0.02


def test_the_page_says_what_the_estimator_says_now(found):
    assert PAGE.read_text() == found.text, "run `make accuracy` and read what has changed"


def test_every_record_is_in_the_report(found):
    named = {each.record.id for each in found.comparisons} | {each.id for each in found.unspoken}
    assert named == {each.id for each in records()}
    assert all(f"| {each.record.id} " in found.text for each in found.comparisons)


def test_every_record_is_of_a_checkpoint_that_is_known():
    for each in records():
        model = model_of(each)
        assert model.tensors
        assert model.config["architectures"]


GIB = 1 << 30
RECORD = next(each for each in records() if each.id == "gt-004")


def compared(record: Record, *, kv_bytes: int = 50 * GIB, suggested: int = 900, compatible: bool = True) -> Comparison:
    """A record beside an estimator that gives one token a megabyte."""
    estimated = Estimated(GIB, GIB, GIB, 0, kv_bytes, 1000, compatible, suggested, lambda size: size >> 20)
    return Comparison(record, estimated, sees_everything=True)


def test_an_error_is_relative_and_has_a_sign():
    pair = compared(replace(RECORD, weights_bytes=2 * GIB)).pair(Measure.WEIGHTS)
    assert pair is not None
    assert pair.error == -0.5
    assert compared(replace(RECORD, activation_bytes=None)).pair(Measure.ACTIVATION) is None


@pytest.mark.parametrize(("tokens", "exact"), [(51_194, True), (51_205, True), (51_193, False), (51_206, False)])
def test_the_tokens_of_a_known_pool_may_differ_by_what_two_digits_leave_open(tokens, exact):
    record = replace(RECORD, kv_bytes=50 * GIB, kv_tokens=tokens)
    assert compared(record).is_exact is exact
    assert compared(replace(record, pp=2)).is_exact is None


@pytest.mark.parametrize(
    ("outcome", "compatible", "right"),
    [("ok", True, True), ("ok", False, False), ("no KV cache room", False, True), ("no KV cache room", True, False),
     ("incomplete_log", True, None)],
)  # fmt: skip
def test_compatible_is_right_for_what_started_and_for_nothing_else(outcome, compatible, right):
    assert compared(replace(RECORD, outcome=outcome), compatible=compatible).is_right is right


def test_a_suggestion_is_weighed_against_the_longest_request():
    assert compared(replace(RECORD, kv_tokens=1000)).share_of_longest == 0.9
    assert compared(replace(RECORD, kv_tokens=1000, longest=450)).share_of_longest == 2
    assert compared(replace(RECORD, outcome="oom")).share_of_longest is None
    assert replace(compared(RECORD), sees_everything=False).share_of_longest is None


def test_a_distribution_tells_the_middle_the_tail_and_the_side():
    errors = distribution([-0.01, 0.02, 0.03, -0.04, 0.05])
    assert (errors.median, errors.greatest, errors.signed) == (0.03, 0.05, 0.02)
    assert errors.p90 == pytest.approx(0.046)
    assert percentile([1.0], 0.9) == 1.0
