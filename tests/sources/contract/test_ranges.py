"""Which bytes a source serves: exactly the range that was asked for, through any buffer, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.errors import ContentError, SourceProtocolError
from lading.sources.interface import RangeIgnored
from tests.simulators.faults import IgnoreRange, WrongRange
from tests.sources.contract.models import FILES, WEIGHTS, read, source_of
from tests.sources.contract.stand import ServedStand, Stand

DATA = FILES[WEIGHTS]
SIZE = len(DATA)


def test_a_range_is_given_exactly(stand):
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)
    for start, end in [(0, 1), (SIZE - 1, SIZE), (0, SIZE), (40_000, 60_000), (1, SIZE), (0, SIZE - 1), (777, 778)]:
        assert read(source, entry, start, end) == DATA[start:end]


def test_an_empty_range_is_asked_of_nobody(served):
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    before = len(served.requests)
    for place in (0, 500, SIZE):
        assert read(source, entry, place, place) == b""
    assert len(served.requests) == before


def test_an_empty_file_is_read_without_being_asked_for(stand):
    source = source_of(stand)
    assert read(source, stand.entry(source, "__init__.py")) == b""


def test_a_range_outside_the_file_is_refused(stand):
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)
    for start, end in [(-1, 5), (5, 4), (0, SIZE + 1), (SIZE + 1, SIZE + 1), (SIZE, SIZE - 1)]:
        with pytest.raises(ValueError, match="no bytes"), source.open_range(entry, start, end):
            pass


def test_any_range_through_any_buffer(stand: Stand) -> None:
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)

    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(ends=st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), step=st.integers(1, 30_000))
    def check(ends: tuple[int, int], step: int) -> None:
        start, end = sorted(ends)
        step = max(step, (end - start) // 500)  # a read of each single byte is for the next test
        assert read(source, entry, start, end, step=step) == DATA[start:end]

    check()


def test_a_buffer_of_one_byte_is_enough(stand):
    source = source_of(stand)
    assert read(source, stand.entry(source, WEIGHTS), 1000, 1300, step=1) == DATA[1000:1300]


def test_an_empty_buffer_takes_nothing(stand):
    source = source_of(stand)
    buffer = memoryview(bytearray(100))
    with source.open_range(stand.entry(source, WEIGHTS), 0, 50) as body:
        assert body.readinto(buffer[:0]) == 0
        count = body.readinto(buffer)
        assert 0 < count <= 50
        assert bytes(buffer[:count]) == DATA[:count]


def test_a_buffer_that_is_larger_than_the_range_gets_the_range_alone(stand):
    source = source_of(stand)
    buffer = memoryview(bytearray(b"\xff" * 5000))
    with source.open_range(stand.entry(source, WEIGHTS), 100, 200) as body:
        filled = 0
        while count := body.readinto(buffer[filled:]):
            filled += count
        assert body.readinto(buffer) == 0
    assert filled == 100
    assert bytes(buffer) == DATA[100:200] + b"\xff" * 4900


def test_leaving_early_is_allowed(stand):
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)
    for _ in range(3):
        with source.open_range(entry, 10, SIZE) as body:
            body.readinto(memoryview(bytearray(10)))
        with source.open_range(entry, 10, SIZE):
            pass
        with pytest.raises(KeyboardInterrupt), source.open_range(entry, 10, SIZE):
            raise KeyboardInterrupt
    assert read(source, entry) == DATA


def test_several_threads_read_at_once(stand):
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)
    starts = list(range(0, SIZE, 5000))
    with ThreadPoolExecutor(6) as threads:
        pieces = list(threads.map(lambda start: read(source, entry, start, min(SIZE, start + 5000)), starts))
    assert b"".join(pieces) == DATA


def test_two_ranges_of_one_file_are_open_at_once(stand):
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)
    one, other = memoryview(bytearray(10)), memoryview(bytearray(10))
    with source.open_range(entry, 0, 50_000) as first, source.open_range(entry, 50_000, SIZE) as second:
        for at in range(0, 30, 10):
            assert _filled(first, one) == DATA[at : at + 10]
            assert _filled(second, other) == DATA[50_000 + at : 50_010 + at]


def _filled(body, buffer) -> bytes:
    filled = 0
    while filled < len(buffer):
        filled += body.readinto(buffer[filled:])
    return bytes(buffer)


def test_only_the_range_is_asked_for(served):
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    before = len(served.requests)
    read(source, entry, 40_000, 40_010)
    asked = [each.headers.get("range") for each in served.requests[before:] if each.status == 206]
    assert asked == ["bytes=40000-40009"]


def test_a_server_that_ignores_ranges_is_read_from_the_start_alone(served: ServedStand):
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    served.fault(WEIGHTS, IgnoreRange(), times=None)
    with pytest.raises(RangeIgnored), source.open_range(entry, 10, 20):
        pass
    assert read(source, entry, 0, 50_000) == DATA[:50_000]
    assert read(source, entry) == DATA


def test_bytes_of_another_range_are_refused(served):
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    for start in (0, 40_000):
        served.fault(WEIGHTS, WrongRange())
        with pytest.raises(SourceProtocolError), source.open_range(entry, start, start + 1000):
            pass
        assert read(source, entry, start, start + 1000) == DATA[start : start + 1000]


def test_an_entry_of_another_size_is_no_license_to_read_beyond(stand):
    """Where a manifest is wrong about a size, what is there is not passed off as the file."""
    source = source_of(stand)
    wrong = replace(stand.entry(source, WEIGHTS), size_bytes=SIZE - 10)
    with pytest.raises(ContentError):
        read(source, wrong)
