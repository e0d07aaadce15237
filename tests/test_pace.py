"""How fast a transfer goes."""

from collections.abc import Callable

import pytest

from lading.pace import Climb, Throttle


def climbed(climb: Climb, rate: Callable[[int], float], seconds: int) -> list[int]:
    """The numbers of connections that were used, second by second, where so many carry ``rate`` bytes per second."""
    used, fetched = [], 0.0
    climb.observe(0, 0.0)
    for second in range(1, seconds + 1):
        used.append(climb.connections)
        fetched += rate(climb.connections)
        climb.observe(int(fetched), float(second))
    return used


class TestClimb:
    def test_as_long_as_each_brings_more_there_is_one_more(self) -> None:
        assert climbed(Climb(4, 8), lambda count: 50e6 * count, 8) == [4, 5, 6, 7, 8, 8, 8, 8]

    def test_one_that_brings_nothing_is_taken_back_and_tried_again_much_later(self) -> None:
        used = climbed(Climb(4, 8), lambda _: 100e6, 60)
        assert used[:4] == [4, 5, 4, 4]
        assert used.count(5) == 3
        assert set(used) == {4, 5}

    def test_where_the_link_ends_the_climb_does(self) -> None:
        used = climbed(Climb(2, 8), lambda count: min(count, 5) * 30e6, 20)
        assert used[:6] == [2, 3, 4, 5, 6, 5]
        assert max(used) == 6

    def test_a_stall_is_no_reason_for_more(self) -> None:
        assert climbed(Climb(4, 8), lambda _: 0.0, 5) == [4, 4, 4, 4, 4]

    def test_none_more_than_allowed(self) -> None:
        assert climbed(Climb(4, 4), lambda count: 50e6 * count, 5) == [4] * 5
        assert Climb(4, 2).connections == 2

    def test_between_the_seconds_nothing_is_judged(self) -> None:
        climb = Climb(4, 8)
        assert [climb.observe(round(1e6 * now), now) for now in (0.0, 0.3, 0.6, 0.9, 1.2)] == [4, 4, 4, 4, 5]


class TestThrottle:
    def test_no_limit_no_wait(self) -> None:
        throttle = Throttle(None, lambda: 0.0)
        assert throttle.longest_read is None
        assert throttle.delay_seconds(1 << 40) == 0.0

    def test_the_sum_of_waits_is_the_time_that_the_bytes_take(self) -> None:
        now = [100.0]
        throttle = Throttle(1000, lambda: now[0])
        for _ in range(50):
            now[0] += throttle.delay_seconds(200)
        assert now[0] == pytest.approx(110.0)

    def test_threads_share_it(self) -> None:
        throttle = Throttle(1000, lambda: 0.0)
        assert [throttle.delay_seconds(500) for _ in range(3)] == [0.5, 1.0, 1.5]

    def test_time_that_was_not_used_is_gone(self) -> None:
        now = [0.0]
        throttle = Throttle(1000, lambda: now[0])
        throttle.delay_seconds(100)
        now[0] = 60.0
        assert throttle.delay_seconds(500) == pytest.approx(0.5)

    def test_reads_are_short_where_little_is_allowed(self) -> None:
        assert Throttle(1000, lambda: 0.0).longest_read == 250
        assert Throttle(1, lambda: 0.0).longest_read == 1
