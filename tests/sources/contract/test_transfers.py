"""Whole transfers from a source: right bytes whatever goes wrong on the way, and no byte fetched twice after it."""

from __future__ import annotations

import threading

import pytest

from lading.cache.root import CacheRoot
from lading.errors import DigestMismatch
from lading.events import BytesFetched, Event
from lading.transfer import TransferCancelled, TransferOptions
from tests.simulators.faults import Corrupt, CutAfter, Fault, IgnoreRange, Stall, Status
from tests.sources.contract.line import Cut
from tests.sources.contract.models import (
    FILES,
    LARGE,
    ONE_REQUEST,
    WEIGHTS,
    counts,
    fetch,
    hurried,
    hurried_source,
    source_of,
)
from tests.sources.contract.stand import ServedStand
from tests.sources.servers import FakeTime

DATA = FILES[WEIGHTS]
LARGE_DATA = bytes(range(256)) * 4 * 1024  # 1 MiB: more than one read of the transfer


def starts(served: ServedStand, path: str, since: int) -> list[int]:
    return [each.start or 0 for each in served.reads_of(path)[since:]]


def test_a_model_arrives(served, cache):
    source = source_of(served)
    assert fetch(served.listed(source), source, cache) == FILES


@pytest.mark.parametrize(
    "faults",
    [
        [CutAfter(5000), CutAfter(12_000), CutAfter(1)],
        [CutAfter(5000, reset=True), CutAfter(7000, reset=True)],
        [Status(503, retry_after=0), Status(429, retry_after=0), Status(500)],
        [Status(502), CutAfter(3000), Status(504), CutAfter(0)],
    ],
    ids=["cut", "reset", "busy", "both"],
)
def test_a_model_arrives_in_spite_of(served, cache, faults):
    source = source_of(served)
    manifest = served.listed(source)
    served.fault(WEIGHTS, *faults)
    assert fetch(manifest, source, cache) == FILES
    assert served.server.unused_faults == []


def test_a_model_arrives_over_a_line_that_breaks_in_the_heads_of_answers(served, cache):
    source = source_of(served)
    manifest = served.listed(source)
    served.line.cut(Cut(10), Cut(0), Cut(8, reset=True), Cut(3))
    assert fetch(manifest, source, cache) == FILES


def test_a_model_arrives_over_a_line_that_breaks_between_the_headers_of_an_answer(served, cache):
    source = source_of(served)
    manifest = served.listed(source)
    served.line.cut(Cut(30))
    assert fetch(manifest, source, cache, options=ONE_REQUEST) == FILES


def test_a_model_arrives_over_a_line_that_falls_silent(served, cache):
    source = hurried_source(served, FakeTime(), read_seconds=0.3)
    manifest = served.listed(source)
    served.fault(WEIGHTS, Stall(3000, seconds=60))
    assert fetch(manifest, source, cache) == FILES
    assert served.server.unused_faults == []


def test_after_a_cut_the_transfer_goes_on_at_the_byte_it_reached(served: ServedStand, cache: CacheRoot) -> None:
    source = source_of(served)
    manifest = served.listed(source)
    served.fault(WEIGHTS, CutAfter(40_001), CutAfter(20_002))
    before = len(served.reads_of(WEIGHTS))
    events: list[Event] = []
    assert fetch(manifest, source, cache, events.append, options=ONE_REQUEST) == FILES
    assert starts(served, WEIGHTS, before) == [0, 40_001, 60_003]
    assert sum(counts(events, WEIGHTS)) == len(DATA)
    assert min(counts(events, WEIGHTS)) > 0


def test_after_a_reset_nothing_is_fetched_twice(served: ServedStand, cache: CacheRoot) -> None:
    source = source_of(served)
    manifest = served.listed(source)
    served.fault(WEIGHTS, CutAfter(40_001, reset=True))
    before = len(served.reads_of(WEIGHTS))
    events: list[Event] = []
    assert fetch(manifest, source, cache, events.append, options=ONE_REQUEST) == FILES
    first, second = starts(served, WEIGHTS, before)
    assert first == 0
    assert second <= 40_001
    assert sum(counts(events, WEIGHTS)) == len(DATA)
    assert min(counts(events, WEIGHTS)) > 0


def test_a_transfer_that_was_stopped_is_continued_by_another_process(served: ServedStand, cache: CacheRoot) -> None:
    """The listing is written down and read again; the source is a new one, without a link to storage."""
    served.put(LARGE, LARGE_DATA)
    source = source_of(served)
    manifest = served.listed(source)
    options = TransferOptions(connections=1, part_bytes=100_000, journal_seconds=0.02, wait=hurried)
    stopped = threading.Event()
    fetched = 0

    def report(event: Event) -> None:
        nonlocal fetched
        if isinstance(event, BytesFetched) and event.path == LARGE:
            fetched += event.count
            if fetched >= 300_000:
                stopped.set()
                raise TransferCancelled

    with pytest.raises(TransferCancelled):
        fetch(manifest, source, cache, report, options=options, cancelled=stopped)
    before = len(served.reads_of(LARGE))
    events: list[Event] = []
    again = source_of(served)
    assert fetch(type(manifest).from_json(manifest.to_json()), again, cache, events.append, options=options) == {
        **FILES,
        LARGE: LARGE_DATA,
    }
    assert min(starts(served, LARGE, before)) >= 200_000
    assert sum(counts(events, LARGE)) <= len(LARGE_DATA) - 200_000


def test_a_server_that_ignores_ranges_serves_a_model_too(served, cache):
    source = source_of(served)
    manifest = served.listed(source)
    served.fault(WEIGHTS, IgnoreRange(), times=None)
    assert fetch(manifest, source, cache) == FILES


def test_a_server_that_ignores_ranges_and_is_cut_serves_a_model_too(served, cache):
    source = source_of(served)
    manifest = served.listed(source)
    served.fault(WEIGHTS, IgnoreRange(), times=None)
    served.fault(WEIGHTS, CutAfter(70_000))
    assert fetch(manifest, source, cache) == FILES
    assert [each for each in served.server.unused_faults if not isinstance(each, IgnoreRange)] == []


@pytest.mark.parametrize("fault", [Corrupt(50_000), Corrupt(0)], ids=str)
def test_bytes_that_were_altered_on_the_way_are_fetched_again_where_a_digest_is_promised(served, cache, fault: Fault):
    source = source_of(served)
    manifest = served.listed(source)
    entry = manifest.find(WEIGHTS)
    assert entry is not None
    if entry.digest is None:
        pytest.skip("this source promises no digest: nobody could tell")
    served.fault(WEIGHTS, fault)
    assert fetch(manifest, source, cache) == FILES
    assert served.server.unused_faults == []


def test_bytes_that_are_always_altered_are_no_result(served, cache):
    source = source_of(served)
    manifest = served.listed(source)
    entry = manifest.find(WEIGHTS)
    assert entry is not None
    if entry.digest is None:
        pytest.skip("this source promises no digest: nobody could tell")
    served.fault(WEIGHTS, Corrupt(50_000), times=None)
    with pytest.raises(DigestMismatch):
        fetch(manifest, source, cache)


def test_a_second_transfer_asks_for_nothing(served, cache):
    source = source_of(served)
    manifest = served.listed(source)
    fetch(manifest, source, cache)
    before = len(served.requests)
    assert fetch(manifest, source, cache) == FILES
    assert len(served.requests) == before
