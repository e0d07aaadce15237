from __future__ import annotations

import pytest

from lading.gateway.progress import WINDOW_SECONDS, TransferMeter


def test_nothing_fetched_has_no_rate_and_no_time_left() -> None:
    progress = TransferMeter(1000, 250, now=5.0).progress(5.0)
    assert (progress.percent, progress.bytes_per_second, progress.eta_seconds) == (25.0, 0.0, None)


def test_the_rate_is_that_of_the_time_passed_while_the_window_is_not_full() -> None:
    meter = TransferMeter(1000, 0, now=0.0)
    meter.add(100, 1.0)
    meter.add(100, 2.0)
    progress = meter.progress(2.0)
    assert progress.bytes_per_second == 100.0
    assert progress.eta_seconds == 8.0


def test_the_rate_forgets_what_lies_before_the_window() -> None:
    meter = TransferMeter(100_000, 0, now=0.0)
    for second in range(1, 31):
        meter.add(1000 if second <= 10 else 10, float(second))
    assert meter.progress(30.0).bytes_per_second == pytest.approx(10.0)


def test_many_small_additions_count_as_much_as_a_large_one() -> None:
    meter = TransferMeter(10_000, 0, now=0.0)
    for tick in range(1, 1001):
        meter.add(1, tick * 0.004)
    assert meter.progress(4.0).bytes_per_second == pytest.approx(250.0)
    assert meter.progress(4.0).fetched_bytes == 1000


def test_a_stall_brings_the_rate_down_to_nothing_and_the_time_left_to_unknown() -> None:
    meter = TransferMeter(1000, 0, now=0.0)
    meter.add(500, 1.0)
    assert meter.progress(6.0).bytes_per_second == pytest.approx(500 / 6)
    stalled = meter.progress(1.0 + 2 * WINDOW_SECONDS)
    assert (stalled.bytes_per_second, stalled.eta_seconds) == (0.0, None)


def test_after_a_stall_the_rate_is_not_dragged_down_by_it() -> None:
    meter = TransferMeter(100_000, 0, now=0.0)
    meter.add(1000, 1.0)
    meter.add(1000, 100.0)
    assert meter.progress(100.0).bytes_per_second == pytest.approx(1000 / WINDOW_SECONDS)


def test_bytes_thrown_away_go_back_and_never_make_a_negative_rate() -> None:
    meter = TransferMeter(1000, 0, now=0.0)
    meter.add(300, 1.0)
    meter.add(-400, 2.0)
    progress = meter.progress(2.0)
    assert (progress.fetched_bytes, progress.bytes_per_second, progress.percent) == (-100, 0.0, 0.0)


def test_a_finished_transfer_is_complete_and_still() -> None:
    meter = TransferMeter(1000, 400, now=0.0)
    meter.add(500, 1.0)
    meter.finish()
    progress = meter.progress(1.5)
    assert (progress.fetched_bytes, progress.percent) == (600, 100.0)
    assert (progress.bytes_per_second, progress.eta_seconds) == (0.0, 0.0)


def test_an_empty_transfer_is_complete() -> None:
    assert TransferMeter(0, 0, now=0.0).progress(0.0).percent == 100.0
