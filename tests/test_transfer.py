"""The transfer against a source in memory: right bytes whatever goes wrong, resumed, verified, never hanging."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.cache.index import IndexEntry
from lading.cache.partial import journal_path
from lading.cache.root import CacheRoot, open_cache
from lading.digest import Digest
from lading.errors import (
    CacheBusy,
    DigestMismatch,
    GatedModel,
    LadingError,
    NotEnoughDisk,
    NotWritable,
    RateLimited,
    SizeMismatch,
    SourceUnreachable,
)
from lading.events import (
    BlobVerified,
    BytesFetched,
    Event,
    Note,
    OthersProgress,
    RetryScheduled,
    TransferFinished,
    TransferStarted,
)
from lading.model.manifest import Manifest
from lading.plan import Step
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.interface import PassingFault
from lading.transfer import TransferCancelled, TransferOptions, survey, transfer
from lading.uri import ModelUri
from tests.simulators import transfer_child
from tests.simulators.faults import Corrupt, CutAfter
from tests.simulators.hub import HubSimulator
from tests.simulators.memory_source import ALWAYS, Fault, MemorySource

ROOT = Path(__file__).parents[1]
PART = 1000


def pattern(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def hurried(event: threading.Event, seconds: float) -> bool:
    return event.wait(min(seconds, 0.001))


OPTIONS = TransferOptions(connections=3, part_bytes=PART, run_bytes=PART, retries=3, journal_seconds=0.02, wait=hurried)


def opened(path: Path) -> CacheRoot:
    return open_cache(path, default=path, fallback=path)


@pytest.fixture
def cache(tmp_path: Path) -> CacheRoot:
    return opened(tmp_path / "cache")


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


Kind = TypeVar("Kind", bound=Event)


class Run:
    """A transfer and what it reported."""

    def __init__(self, source: MemorySource, cache: CacheRoot, options: TransferOptions = OPTIONS) -> None:
        self.source, self.cache, self.options = source, cache, options
        self.events: list[Event] = []
        self.cancelled = threading.Event()

    def __call__(self) -> None:
        plan = survey(self.source.manifest, self.source, self.cache)
        self.manifest = transfer(
            plan, self.source, self.cache, self.events.append, cancelled=self.cancelled, options=self.options
        )

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def notes(self) -> str:
        return "\n".join(event.text for event in self.of(Note))

    @property
    def counted_bytes(self) -> int:
        """What a progress bar ends at."""
        return self.of(TransferStarted)[0].present_bytes + sum(event.count for event in self.of(BytesFetched))


def fetch(source: MemorySource, cache: CacheRoot, options: TransferOptions = OPTIONS) -> Run:
    run = Run(source, cache, options)
    run()
    return run


def entry_of(cache: CacheRoot, source: MemorySource) -> IndexEntry:
    entry = cache.index.load(source.model)
    assert entry is not None
    return entry


def assert_whole(source: MemorySource, cache: CacheRoot, manifest: Manifest | None = None) -> None:
    """The store and the index hold exactly the source's bytes."""
    entry = entry_of(cache, source)
    assert entry.is_complete
    assert manifest is None or entry.manifest == manifest
    for file in entry.manifest.files:
        assert file.digest == Digest.of(source.data[file.path])
        assert cache.store.path_of(file.digest).read_bytes() == source.data[file.path]
    assert not list(cache.path.glob("partial/*/*"))
    assert not list(cache.path.glob("tmp/*"))


def partial_files(cache: CacheRoot) -> list[Path]:
    return sorted(cache.path.glob("partial/*/*"))


@pytest.mark.parametrize("promise", ["sha256", "gitsha1", "md5", None])
@pytest.mark.parametrize("size_bytes", [0, 1, PART - 1, PART, PART + 1, 20 * PART + 7])
def test_a_file_arrives_whatever_its_size_and_promise(
    size_bytes: int, promise: str | None, source: MemorySource, cache: CacheRoot
) -> None:
    source.add("model.safetensors", pattern(size_bytes), promise=promise)
    run = fetch(source, cache)
    assert_whole(source, cache, run.manifest)
    assert run.counted_bytes == size_bytes
    assert run.of(BlobVerified) == [BlobVerified("model.safetensors", size_bytes)]
    assert run.of(TransferFinished)[0].fetched_bytes == size_bytes
    entry = entry_of(cache, source)
    promised = source.entries["model.safetensors"].digest
    assert entry.promised == ({"model.safetensors": promised} if promise in ("gitsha1", "md5") else {})
    assert ("promises no digest" in run.notes) == (promise is None)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=5),
    part_bytes=st.integers(1, 3000),
    connections=st.integers(1, 6),
    read_bytes=st.integers(100, 4000),
    ignores_ranges=st.booleans(),
    faults=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.one_of(
                st.builds(Fault, cut_after=st.integers(0, 3000)),
                st.builds(Fault, ends_at=st.integers(0, 5000)),
                st.builds(Fault, refuse=st.just(PassingFault("busy"))),
            ),
        ),
        max_size=4,
    ),
)
def test_any_sizes_parts_connections_and_passing_faults_give_the_right_bytes(
    sizes: list[int],
    part_bytes: int,
    connections: int,
    read_bytes: int,
    ignores_ranges: bool,
    faults: list[tuple[int, Fault]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    source = MemorySource(read_bytes=read_bytes, ignores_ranges=ignores_ranges)
    for number, size_bytes in enumerate(sizes):
        source.add(f"{number}.bin", pattern(size_bytes, number))
    for number, fault in faults:
        source.fail(f"{number}.bin", fault)
    options = TransferOptions(
        connections=connections, part_bytes=max(part_bytes, max(sizes) // 200), retries=6, wait=hurried
    )
    cache = opened(tmp_path_factory.mktemp("cache"))
    run = fetch(source, cache, options)
    assert_whole(source, cache, run.manifest)
    assert run.counted_bytes == sum(sizes)


def test_small_files_come_first_and_large_ones_in_parallel_ranges(source: MemorySource, cache: CacheRoot) -> None:
    source.add("a.safetensors", pattern(9 << 20))
    source.add("config.json", b"{}")
    run = fetch(source, cache, TransferOptions(connections=1, run_bytes=1))
    assert [(each.path, each.start, each.end) for each in source.requests] == [
        ("config.json", 0, 2),
        ("a.safetensors", 0, 8 << 20),
        ("a.safetensors", 8 << 20, 9 << 20),
    ]
    assert_whole(source, cache, run.manifest)


def test_where_each_connection_has_a_file_one_request_brings_several_parts(
    source: MemorySource, cache: CacheRoot
) -> None:
    for seed, name in enumerate(("a.safetensors", "b.safetensors")):
        source.add(name, pattern(7 * PART, seed))
    run = fetch(source, cache, TransferOptions(connections=2, part_bytes=PART, run_bytes=3 * PART))
    assert {(each.start, each.end) for each in source.requests} >= {(0, 3 * PART)}
    assert len(source.requests) < 2 * 7
    assert_whole(source, cache, run.manifest)


def test_equal_files_are_fetched_once(source: MemorySource, cache: CacheRoot) -> None:
    data = pattern(3 * PART)
    source.add("one.safetensors", data)
    source.add("two/one.safetensors", data)
    run = fetch(source, cache)
    assert {each.path for each in source.requests} == {"one.safetensors"}
    assert_whole(source, cache, run.manifest)
    assert run.counted_bytes == 6 * PART
    assert BlobVerified("two/one.safetensors", 3 * PART, reused=True) in run.events


# Faults that pass.


def test_a_broken_connection_goes_on_where_it_stopped(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(PART))
    source.fail("model.safetensors", Fault(cut_after=400))
    run = fetch(source, cache)
    assert [(each.start, each.end) for each in source.requests] == [(0, PART), (400, PART)]
    assert source.sent_bytes == PART
    assert [event.what for event in run.of(RetryScheduled)] == ["model.safetensors"]


def test_progress_resets_the_count_of_tries(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(PART))
    source.fail("model.safetensors", *(Fault(cut_after=50) for _ in range(15)))
    assert_whole(source, cache, fetch(source, cache).manifest)


def test_no_progress_ends_with_an_error_that_says_how_to_go_on(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(3 * PART))
    source.fail("model.safetensors", Fault(times=ALWAYS, refuse=PassingFault("no answer from hub.test")))
    with pytest.raises(SourceUnreachable, match="no new byte in 4 tries: no answer from hub.test") as raised:
        fetch(source, cache)
    assert "continues" in str(raised.value.remedy)


@pytest.mark.parametrize("times", [1, ALWAYS])
def test_a_body_that_ends_early_is_never_taken_for_the_whole(
    times: int, source: MemorySource, cache: CacheRoot
) -> None:
    source.add("model.safetensors", pattern(2 * PART))
    source.fail("model.safetensors", Fault(times=times, ends_at=1500))
    if times == 1:
        assert_whole(source, cache, fetch(source, cache).manifest)
        return
    with pytest.raises(SizeMismatch, match="end at 1500, 2000 were listed"):
        fetch(source, cache)
    assert not list(cache.store.digests())


def test_a_file_listed_too_long_is_a_size_mismatch(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(900), listed_bytes=950)
    with pytest.raises(SizeMismatch):
        fetch(source, cache)


def test_the_delay_that_a_server_asks_for_is_kept(source: MemorySource, cache: CacheRoot) -> None:
    waits = []

    def wait(event: threading.Event, seconds: float) -> None:
        waits.append(seconds)

    source.add("config.json", b"{}")
    source.fail("config.json", Fault(refuse=PassingFault("HTTP 429", retry_after_seconds=17, status=429)))
    run = fetch(source, cache, TransferOptions(wait=wait, random=lambda: 1.0))
    assert waits == [17.5]
    assert run.of(RetryScheduled) == [RetryScheduled("config.json", "HTTP 429", 17.5)]


def test_delays_double_with_full_jitter_up_to_a_limit(source: MemorySource, cache: CacheRoot) -> None:
    waits = []
    source.add("config.json", b"{}")
    source.fail("config.json", Fault(times=8, refuse=PassingFault("reset")))
    options = TransferOptions(wait=lambda _, seconds: waits.append(seconds), random=lambda: 0.5)
    fetch(source, cache, options)
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 15, 15]


@pytest.mark.parametrize(
    "fault",
    [
        PassingFault("HTTP 429", retry_after_seconds=3600, status=429),
        PassingFault("HTTP 503", retry_after_seconds=1, status=503),
        PassingFault("HTTP 429", status=429),
    ],
    ids=["asks for an hour", "asks for ever", "only says 429"],
)
def test_patience_with_a_server_that_asks_to_wait_ends(
    fault: PassingFault, source: MemorySource, cache: CacheRoot
) -> None:
    source.add("config.json", b"{}")
    source.fail("config.json", Fault(times=ALWAYS, refuse=fault))
    with pytest.raises(RateLimited):
        fetch(source, cache)
    assert len(source.requests) == (1 if fault.retry_after_seconds == 3600 else 4)


# Faults that do not pass.


@pytest.mark.parametrize("error", [GatedModel("accept the licence"), SourceUnreachable("certificate"), KeyError("bug")])
def test_any_other_error_ends_all_threads_at_once(error: Exception, source: MemorySource, cache: CacheRoot) -> None:
    source.add("a.safetensors", pattern(500 * PART))
    source.add("config.json", b"{}")
    source.fail("config.json", Fault(refuse=error))
    before = threading.active_count()
    with pytest.raises(type(error)) as raised:
        fetch(source, cache)
    assert raised.value is error
    assert threading.active_count() == before


def test_wrong_bytes_are_fetched_once_more(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(5 * PART))
    source.fail("model.safetensors", Fault(invert=2500))
    run = fetch(source, cache)
    assert_whole(source, cache, run.manifest)
    assert source.sent_bytes == 10 * PART
    assert BytesFetched("model.safetensors", -5 * PART) in run.events
    assert run.counted_bytes == 5 * PART
    assert "not the promised file" in run.notes


def test_bytes_that_stay_wrong_are_an_error_and_nothing_is_kept(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(5 * PART))
    source.fail("model.safetensors", Fault(times=ALWAYS, invert=2500))
    with pytest.raises(DigestMismatch) as raised:
        fetch(source, cache)
    wrong = bytearray(pattern(5 * PART))
    wrong[2500] ^= 0xFF
    for text in ("model.safetensors", str(Digest.of(bytes(wrong))), str(Digest.of(pattern(5 * PART))), "4.88 KiB"):
        assert text in str(raised.value)
    assert not list(cache.store.digests())
    assert not partial_files(cache)
    assert not entry_of(cache, source).is_complete


def test_wrong_bytes_in_front_do_not_block_the_files_behind(source: MemorySource, cache: CacheRoot) -> None:
    """The buffers are full of later parts when the first file has to be fetched again: its new parts go to the end."""
    for number in range(6):
        source.add(f"{number}.bin", pattern(8 * PART, number))
        source.fail(f"{number}.bin", Fault(invert=7999))
    assert_whole(source, cache, fetch(source, cache, TransferOptions(connections=1, part_bytes=PART)).manifest)


def test_a_server_without_ranges_is_read_over_one_connection(source: MemorySource, cache: CacheRoot) -> None:
    source.ignores_ranges = True
    source.read_bytes = 300
    source.add("a.bin", pattern(7 * PART, 1))
    source.add("b.bin", pattern(PART // 2, 2))
    source.add("c.bin", pattern(9 * PART, 3), promise=None)
    source.fail("c.bin", Fault(times=2, cut_after=4 * PART))
    run = fetch(source, cache)
    assert_whole(source, cache, run.manifest)
    assert run.counted_bytes == sum(map(len, source.data.values()))
    assert "ignores byte ranges" in run.notes


def test_a_server_without_ranges_that_sends_wrong_bytes_is_asked_once_more(
    source: MemorySource, cache: CacheRoot
) -> None:
    source.ignores_ranges = True
    source.add("a.bin", pattern(7 * PART, 1))
    source.fail("a.bin", Fault(times=3, invert=10))
    run = fetch(source, cache, TransferOptions(connections=1, part_bytes=PART, run_bytes=PART))
    assert_whole(source, cache, run.manifest)
    assert run.counted_bytes == 7 * PART


# Stopping and going on.


def in_background(run: Run) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, raised


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_cancelled_transfer_stops_soon_and_is_continued(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(40 * PART))
    source.delay_seconds, source.read_bytes = 0.02, 500
    run = Run(source, cache)
    thread, raised = in_background(run)
    wait_until(lambda: source.sent_bytes > 10 * PART)
    began = time.monotonic()
    run.cancelled.set()
    thread.join(5)
    assert time.monotonic() - began < 0.5
    assert isinstance(raised[0], TransferCancelled)
    assert not list(cache.store.digests())

    source.delay_seconds, sent_before = 0, source.sent_bytes
    again = fetch(source, cache)
    assert_whole(source, cache, again.manifest)
    started = again.of(TransferStarted)[0]
    assert started.present_bytes >= 9 * PART
    assert source.sent_bytes - sent_before == started.fetch_bytes
    assert again.counted_bytes == 40 * PART


def test_a_read_that_hangs_does_not_hold_up_cancelling(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(4 * PART))
    source.gate.clear()
    run = Run(source, cache)
    thread, raised = in_background(run)
    wait_until(lambda: len(source.requests) == 3)
    began = time.monotonic()
    run.cancelled.set()
    thread.join(5)
    assert time.monotonic() - began < 0.7
    assert isinstance(raised[0], TransferCancelled)
    source.gate.set()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name.startswith("lading")])
    assert_whole(source, cache, fetch(source, cache).manifest)


def test_cancelling_ends_a_wait_between_tries(source: MemorySource, cache: CacheRoot) -> None:
    source.add("config.json", b"{}")
    source.fail("config.json", Fault(times=ALWAYS, refuse=PassingFault("busy", retry_after_seconds=200)))
    run = Run(source, cache, TransferOptions())
    thread, raised = in_background(run)
    wait_until(lambda: run.of(RetryScheduled))
    run.cancelled.set()
    thread.join(0.6)
    assert isinstance(raised[0], TransferCancelled)


def interrupted(source: MemorySource, cache: CacheRoot, path: str, after: int) -> Path:
    """A transfer that a refusal ended after some parts of ``path``; where its partial file lies."""
    source.faults[path] = [Fault(ends_at=after, times=ALWAYS)]
    with pytest.raises(SizeMismatch):
        fetch(source, cache, replace(OPTIONS, connections=1))
    source.faults.clear()
    source.requests.clear()
    source.sent_bytes = 0
    (found,) = cache.path.glob(f"partial/*/{Digest.of(path.encode()).hex}.part")  # a file in front may have one still
    return found


def test_what_an_earlier_run_left_is_not_fetched_again(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    interrupted(source, cache, "model.safetensors", 5 * PART + 300)
    run = fetch(source, cache)
    assert_whole(source, cache, run.manifest)
    assert min(each.start for each in source.requests) == 5 * PART + 300
    assert source.sent_bytes == 4 * PART - 300


def test_the_partial_file_of_another_part_size_is_continued(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    interrupted(source, cache, "model.safetensors", 4 * PART)
    fetch(source, cache, TransferOptions(part_bytes=333))
    assert source.sent_bytes == 5 * PART


def test_what_an_earlier_run_left_is_hashed_again_and_thrown_away_when_wrong(
    source: MemorySource, cache: CacheRoot
) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    part = interrupted(source, cache, "model.safetensors", 5 * PART)
    with part.open("r+b") as file:
        file.seek(123)
        file.write(b"\0\1\2\3")
    run = fetch(source, cache)
    assert_whole(source, cache, run.manifest)
    assert source.sent_bytes == 4 * PART + 9 * PART
    assert run.counted_bytes == 9 * PART
    assert "an earlier run left" in run.notes


def test_after_a_bad_rest_wrong_bytes_have_one_more_try(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    part = interrupted(source, cache, "model.safetensors", 5 * PART)
    part.write_bytes(bytes(9 * PART))
    source.fail("model.safetensors", Fault(invert=100))
    assert_whole(source, cache, fetch(source, cache).manifest)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda part: journal_path(part).unlink(),
        lambda part: journal_path(part).write_text("{"),
        lambda part: journal_path(part).write_text('{"schema": 2}'),
        lambda part: part.write_bytes(b"short"),
        lambda part: part.unlink(),
    ],
    ids=["no journal", "half a journal", "newer journal", "short file", "no file"],
)
def test_a_partial_file_that_cannot_be_continued_is_dropped(
    spoil: Callable[..., object], source: MemorySource, cache: CacheRoot
) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    spoil(interrupted(source, cache, "model.safetensors", 5 * PART))
    assert_whole(source, cache, fetch(source, cache).manifest)
    assert source.sent_bytes == 9 * PART


@pytest.mark.parametrize(
    ("promise", "before", "after", "is_continued"),
    [
        ("sha256", "1", "2", True),
        (None, "1", "1", True),
        (None, "1", "2", False),
        (None, None, None, False),
    ],
    ids=["same digest", "same etag", "other etag", "nothing names the bytes"],
)
def test_only_the_same_bytes_are_continued(
    promise: str | None,
    before: str | None,
    after: str | None,
    is_continued: bool,
    source: MemorySource,
    cache: CacheRoot,
) -> None:
    source.revision = None
    source.add("model.safetensors", pattern(9 * PART), promise=promise, etag=before)
    interrupted(source, cache, "model.safetensors", 5 * PART)
    source.add("model.safetensors", pattern(9 * PART), promise=promise, etag=after)
    assert_whole(source, cache, fetch(source, cache).manifest)
    assert source.sent_bytes == (4 * PART if is_continued else 9 * PART)


def test_files_that_arrived_before_an_error_are_not_fetched_again(source: MemorySource, cache: CacheRoot) -> None:
    source.add("config.json", b"{}", promise="gitsha1")
    source.add("model.safetensors", pattern(9 * PART))
    source.add("vocab.json", b"[]", promise=None)
    source.fail("model.safetensors", Fault(times=4, refuse=PassingFault("busy")))

    def wait(event: threading.Event, seconds: float) -> None:
        wait_until(lambda: (entry := cache.index.load(source.model)) and len(entry.marks) == 1)

    with pytest.raises(SourceUnreachable):
        fetch(source, cache, TransferOptions(retries=3, wait=wait))
    source.requests.clear()
    run = fetch(source, cache)
    assert "config.json" not in {each.path for each in source.requests}
    assert_whole(source, cache, run.manifest)


# Nothing to do.


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in sorted(root.rglob("*"))}


def test_a_second_transfer_asks_nothing_and_writes_nothing(source: MemorySource, cache: CacheRoot) -> None:
    source.add("config.json", b"{}", promise="gitsha1")
    source.add("notes.txt", b"etag only", promise=None)
    source.add("model.safetensors", pattern(9 * PART))
    first = fetch(source, cache)
    source.requests.clear()
    before = tree(cache.path)
    second = fetch(source, CacheRoot(cache.path, is_writable=False))
    third = fetch(source, cache)
    assert source.requests == []
    assert second.manifest == third.manifest == first.manifest
    assert tree(cache.path) == before
    assert all(event.reused for event in second.of(BlobVerified))
    assert second.counted_bytes == source.manifest.total_bytes


def test_a_recalled_manifest_is_as_good_as_a_listed_one(source: MemorySource, cache: CacheRoot) -> None:
    source.add("config.json", b"{}", promise="gitsha1")
    source.add("notes.txt", b"pinned by revision", promise=None)
    verified = fetch(source, cache).manifest
    before = tree(cache.path)
    source.requests.clear()
    plan = survey(verified, source, cache)
    assert plan.is_satisfied
    assert transfer(plan, source, cache, cancelled=threading.Event()) == verified
    assert tree(cache.path) == before
    assert entry_of(cache, source).promised == {"config.json": Digest.of(b"{}", "gitsha1")}


def test_a_cache_that_is_only_readable_takes_nothing(source: MemorySource, cache: CacheRoot) -> None:
    source.add("config.json", b"{}")
    with pytest.raises(NotWritable, match="cannot write"):
        fetch(source, CacheRoot(cache.path, is_writable=False))
    assert source.requests == []


def test_a_blob_of_another_model_is_used(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    fetch(source, cache)
    other = MemorySource(model=source.model.with_revision("v2"))
    other.add("renamed.safetensors", pattern(9 * PART))
    fetch(other, cache)
    assert other.requests == []
    assert_whole(other, cache)


def test_a_blob_of_another_model_that_was_changed_on_disk_is_not_used(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    fetch(source, cache)
    rewritten(cache.store.path_of(Digest.of(source.data["model.safetensors"])), bytes(9 * PART))
    other = MemorySource(model=source.model.with_revision("v2"))
    other.add("model.safetensors", pattern(9 * PART))
    assert_whole(other, cache, fetch(other, cache).manifest)
    assert other.requests


def test_another_commit_with_the_same_files_asks_nothing_and_is_recorded(
    source: MemorySource, cache: CacheRoot
) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    fetch(source, cache)
    source.revision = "newer"
    source.requests.clear()
    fetch(source, cache)
    assert source.requests == []
    assert entry_of(cache, source).manifest.revision == "newer"


def test_partial_files_of_an_older_listing_are_deleted_before_more_room_is_taken(
    source: MemorySource, cache: CacheRoot
) -> None:
    source.add("old.safetensors", pattern(9 * PART))
    old = interrupted(source, cache, "old.safetensors", 2 * PART)
    del source.entries["old.safetensors"]
    source.add("new.safetensors", pattern(9 * PART))
    source.fail("new.safetensors", Fault(refuse=GatedModel("no")))
    with pytest.raises(GatedModel):
        fetch(source, cache)
    assert old not in partial_files(cache)
    assert journal_path(old) not in partial_files(cache)


def rewritten(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("data", [b"", pattern(9 * PART, 5)], ids=["other size", "same size"])
def test_a_blob_that_was_changed_on_disk_is_noticed_and_fetched_again(
    data: bytes, source: MemorySource, cache: CacheRoot
) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    digest = Digest.of(source.data["model.safetensors"])
    fetch(source, cache)
    rewritten(cache.store.path_of(digest), data)
    source.requests.clear()
    assert_whole(source, cache, fetch(source, cache).manifest)
    assert source.requests


def test_a_blob_that_only_looks_changed_is_hashed_and_its_new_mark_kept(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    digest = Digest.of(source.data["model.safetensors"])
    fetch(source, cache)
    os.utime(cache.store.path_of(digest))
    source.requests.clear()
    fetch(source, cache)
    assert source.requests == []
    assert entry_of(cache, source).marks["model.safetensors"] == cache.store.mark_of(digest)


def test_a_refresh_that_fails_leaves_the_complete_entry(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    old = fetch(source, cache).manifest
    source.revision = "newer"
    source.add("config.json", b"{}", promise="gitsha1")
    source.add("model.safetensors", pattern(9 * PART, 2))
    interrupted(source, cache, "model.safetensors", PART)
    assert entry_of(cache, source).manifest == old
    waiting = cache.index.load_next(source.model)
    assert waiting is not None
    assert waiting.manifest.revision == "newer"
    run = fetch(source, cache)
    assert {each.path for each in source.requests} == {"model.safetensors"}
    assert_whole(source, cache, run.manifest)
    assert cache.index.load_next(source.model) is None


# At the pace that was asked for.


def test_a_download_takes_no_more_than_it_may(source: MemorySource, cache: CacheRoot) -> None:
    """All waits are counted on a clock that they alone move: one connection, so that none overlap."""
    now = [0.0]

    def wait(_: threading.Event, seconds: float) -> None:
        now[0] += seconds

    source.add("model.safetensors", pattern(40 * PART))
    options = replace(
        OPTIONS, connections=1, most_connections=1, max_bytes_per_second=4 * PART, clock=lambda: now[0], wait=wait
    )
    run = fetch(source, cache, options)
    assert_whole(source, cache, run.manifest)
    assert now[0] == pytest.approx(10.0)


def test_a_short_download_has_work_for_every_connection(source: MemorySource, cache: CacheRoot) -> None:
    source.add("model.safetensors", pattern(4 << 20))
    fetch(source, cache, replace(OPTIONS, connections=4, part_bytes=8 << 20))
    assert sorted((each.start, each.end) for each in source.requests) == [
        (start, start + (1 << 20)) for start in range(0, 4 << 20, 1 << 20)
    ]


def test_connections_are_added_while_they_bring_more(source: MemorySource, cache: CacheRoot) -> None:
    """Each read takes a while, whatever the number of connections, as on a long line."""
    source.delay_seconds, source.read_bytes = 0.004, PART
    ticks = iter(range(10**9))
    for number in range(8):
        source.add(f"{number}.bin", pattern(60 * PART, number))
    options = replace(OPTIONS, connections=1, most_connections=6, clock=lambda: next(ticks) * 0.05)
    run = fetch(source, cache, options)
    assert_whole(source, cache, run.manifest)
    assert 2 <= source.most_readers <= 6


# Over HTTP.


def test_a_model_arrives_over_a_real_line_that_breaks(cache: CacheRoot, tmp_path: Path) -> None:
    with HubSimulator() as hub:
        files = {"config.json": b"{}", "cut.safetensors": pattern(3 << 20), "wrong.safetensors": pattern(2 << 20, 1)}
        hub.add_model("demo/tiny", files)
        hub.fault("cut.safetensors", CutAfter(200_000, reset=True))
        hub.fault("cut.safetensors", CutAfter(300_000))
        hub.fault("wrong.safetensors", Corrupt(1_500_000))
        settings = Settings.from_env({"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")})
        model = ModelUri.parse("hf://demo/tiny")
        source = source_for(model, settings)
        plan = survey(source.list_files(model), source, cache)
        events: list[Event] = []
        options = replace(OPTIONS, part_bytes=1 << 20)
        manifest = transfer(plan, source, cache, events.append, cancelled=threading.Event(), options=options)
    found = {file.path: cache.store.path_of(file.digest).read_bytes() for file in manifest.files if file.digest}
    assert found == files
    assert {event.what for event in events if isinstance(event, RetryScheduled)} == {"cut.safetensors"}
    assert BytesFetched("wrong.safetensors", -(2 << 20)) in events


# Copies that this machine has.


@pytest.fixture(params=["same filesystem", "another filesystem"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "same filesystem":
        yield tmp_path / "other"
        return
    shm = Path("/dev/shm")
    if not shm.is_dir() or not os.access(shm, os.W_OK) or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second writable filesystem at /dev/shm")
    path = shm / f"lading-test-{os.getpid()}"
    path.mkdir()
    yield path
    for each in path.iterdir():
        each.unlink()
    path.rmdir()


def test_a_local_copy_is_verified_and_adopted(source: MemorySource, cache: CacheRoot, elsewhere: Path) -> None:
    elsewhere.mkdir(exist_ok=True)
    for path, promise in (("config.json", "gitsha1"), ("model.safetensors", "sha256")):
        entry = source.add(path, pattern(9 * PART, len(path)), promise=promise)
        source.copies[path] = elsewhere / path
        source.copies[path].write_bytes(source.data[path])
        source.copies[path].chmod(0o640)
        assert entry.digest
    plan = survey(source.manifest, source, cache)
    assert {each.step for each in plan.files} == {Step.ADOPT}
    run = fetch(source, cache)
    assert source.requests == []
    assert_whole(source, cache, run.manifest)
    assert run.counted_bytes == 18 * PART
    assert {path.stat().st_mode & 0o777 for path in source.copies.values()} == {0o640}
    same = elsewhere.stat().st_dev == cache.path.stat().st_dev
    blob = cache.store.path_of(Digest.of(source.data["config.json"]))
    assert blob.samefile(source.copies["config.json"]) == same
    assert same or blob.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("data", [b"", pattern(9 * PART, 9), None], ids=["other size", "other bytes", "missing"])
def test_a_local_copy_that_is_wrong_is_not_used(
    data: bytes | None, source: MemorySource, cache: CacheRoot, tmp_path: Path
) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    source.copies["model.safetensors"] = tmp_path / "copy"
    if data is not None:
        (tmp_path / "copy").write_bytes(data)
    run = fetch(source, cache)
    assert source.requests
    assert_whole(source, cache, run.manifest)
    assert "not the promised" in run.notes


def test_a_local_copy_without_a_promised_digest_proves_nothing(
    source: MemorySource, cache: CacheRoot, tmp_path: Path
) -> None:
    source.add("model.safetensors", pattern(9 * PART), promise=None, etag="e")
    source.copies["model.safetensors"] = tmp_path / "copy"
    (tmp_path / "copy").write_bytes(pattern(9 * PART))
    assert survey(source.manifest, source, cache).of_step(Step.ADOPT) == ()


def test_cancelling_stops_the_hashing_of_local_copies(source: MemorySource, cache: CacheRoot, tmp_path: Path) -> None:
    source.add("model.safetensors", pattern(9 * PART))
    source.copies["model.safetensors"] = tmp_path / "copy"
    (tmp_path / "copy").write_bytes(pattern(9 * PART))
    run = Run(source, cache)
    plan = survey(source.manifest, source, cache)
    run.cancelled.set()
    with pytest.raises(TransferCancelled):
        transfer(plan, source, cache, cancelled=run.cancelled, options=OPTIONS)
    assert not list(cache.store.digests())


# Locks and disks.


def test_a_busy_lock_is_waited_for_and_then_an_error(source: MemorySource, cache: CacheRoot) -> None:
    source.add("config.json", b"{}")
    with cache.lock_for(source.model).acquire(0), pytest.raises(CacheBusy, match=f"process {os.getpid()} on"):
        fetch(source, cache, TransferOptions(lock_wait_seconds=0.3))
    fetch(source, cache)


def test_who_waits_sees_how_far_the_other_is(source: MemorySource, cache: CacheRoot) -> None:
    source.add("config.json", b"{}")
    source.add("model.safetensors", pattern(40 * PART))
    source.gate.clear()
    first = Run(source, cache, replace(OPTIONS, connections=1))
    fetching, _ = in_background(first)
    source.delay_seconds = 0.01
    source.gate.set()
    wait_until(lambda: first.counted_bytes > 5 * PART if first.of(TransferStarted) else False)
    source.gate.clear()
    wait_until(lambda: list(cache.path.glob("partial/*/*.json")))
    second = Run(source, cache)
    waiting, raised = in_background(second)
    wait_until(lambda: second.of(OthersProgress))
    source.gate.set()
    fetching.join()
    waiting.join()
    assert not raised
    assert second.of(OthersProgress)[0].total_bytes == 40 * PART + 2
    assert 0 < second.of(OthersProgress)[0].present_bytes <= 40 * PART
    assert second.of(BytesFetched) == []
    assert source.sent_bytes == 40 * PART + 2


def child(cache: Path, log: Path, delay_seconds: float = 0.0, file_limit_bytes: str = "") -> subprocess.Popen[str]:
    arguments = [str(cache), str(log), str(delay_seconds), file_limit_bytes]
    command = [sys.executable, "-m", "tests.simulators.transfer_child", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    digests: dict[str, str] = json.loads(out)
    return digests


def fetched_bytes(log: Path) -> int:
    lines = log.read_text().splitlines() if log.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("bytes "))


def kept_bytes(cache: Path) -> int:
    """What the next run need not fetch: blobs of files whose SHA-256 was promised, and what journals speak of."""
    done: list[list[int]] = []
    for path in cache.glob("partial/*/*.part.json"):
        with suppress(FileNotFoundError):  # its file came to its end
            done += json.loads(path.read_text())["done"]
    sizes = [path.stat().st_size for path in cache.glob("blobs/sha256/*/*")]
    promised = sum(size for size in sizes if size >= transfer_child.PART_BYTES)
    return promised + sum(end - start for start, end in done)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_a_killed_transfer_is_continued_by_the_next_process(share: float, tmp_path: Path) -> None:
    total = sum(transfer_child.SIZES.values())
    first_log, second_log = tmp_path / "first", tmp_path / "second"
    first = child(tmp_path / "cache", first_log, 0.01)
    wait_until(lambda: fetched_bytes(first_log) > share * total, 30)
    if share > 0.3:
        wait_until(lambda: kept_bytes(tmp_path / "cache") > 0.2 * total, 30)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    cache = opened(tmp_path / "cache")
    assert all(cache.store.verify(digest) for digest in cache.store.digests())
    kept = kept_bytes(tmp_path / "cache")

    assert finish(child(tmp_path / "cache", second_log)) == transfer_child.expected()
    assert_whole(transfer_child.offered(), cache)
    assert fetched_bytes(second_log) <= total - kept


def test_two_processes_fetch_one_model_once(tmp_path: Path) -> None:
    logs = [tmp_path / "one", tmp_path / "two"]
    both = [child(tmp_path / "cache", log, 0.002) for log in logs]
    assert [finish(each) for each in both] == [transfer_child.expected()] * 2
    assert sorted(map(fetched_bytes, logs)) == [0, sum(transfer_child.SIZES.values())]
    assert_whole(transfer_child.offered(), opened(tmp_path / "cache"))


def test_a_file_that_the_system_refuses_to_hold_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel refuse the large files, as a full disk or a quota would."""
    process = child(tmp_path / "cache", tmp_path / "log", 0.0, "1000000")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 6, err
    assert err.startswith("NotEnoughDisk: no room to write")
    assert finish(child(tmp_path / "cache", tmp_path / "log")) == transfer_child.expected()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_a_disk_that_is_too_small_is_noticed_before_the_first_request(source: MemorySource, small_disk: Path) -> None:
    source.add("model.safetensors", pattern(12 << 20))
    with pytest.raises(NotEnoughDisk, match=r"needs 44.0 MiB more in .*, where 40.0 MiB are free") as raised:
        fetch(source, opened(small_disk))
    assert "free 4.0" in str(raised.value.remedy)
    assert "NIM_CACHE_PATH" in str(raised.value.remedy)
    assert source.requests == []


def test_a_disk_that_fills_up_meanwhile_is_an_error_that_leaves_no_rubbish(
    source: MemorySource, small_disk: Path
) -> None:
    cache = opened(small_disk)
    source.add("config.json", b"{}")
    source.add("model.safetensors", pattern(6 << 20))
    source.gate.clear()
    run = Run(source, cache, TransferOptions(connections=1, part_bytes=1 << 20))
    thread, raised = in_background(run)
    wait_until(lambda: source.requests)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 38 << 20)
    source.gate.set()
    thread.join(10)
    assert isinstance(raised[0], NotEnoughDisk)
    assert sum(path.stat().st_size for path in small_disk.glob("partial/*/*.part")) <= 2
    filler.unlink()
    assert_whole(source, cache, fetch(source, cache).manifest)


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one connection"):
        TransferOptions(connections=0)


def test_a_cancelled_transfer_is_an_error_with_a_sentence() -> None:
    assert isinstance(TransferCancelled(), LadingError)
    assert "stopped" in str(TransferCancelled())
