"""Lines that break in ways that one request does not show: restarts, all connections at once, a server of two minds.

Cut, stalled, short, wrong and ignored ranges of single requests are in ``tests/sources/contract``, for every source.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lading.cache.root import CacheRoot, open_cache
from lading.errors import ContentError, DigestMismatch, LadingError, SizeMismatch, SourceError
from lading.events import Event, Note, RetryScheduled, ignore
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.fault import Limits
from lading.sources.http import HttpClient, Network
from lading.sources.huggingface import HuggingFaceSource
from lading.sources.interface import Source
from lading.transfer import TransferOptions, survey, transfer
from lading.uri import ModelUri
from tests.faults.harness import FILES, MODEL, NAME, PART_BYTES, TOTAL_BYTES, CountingHub, serving
from tests.faults.rules import assert_complete, assert_valid
from tests.simulators.faults import (
    Corrupt,
    CutAfter,
    IgnoreRange,
    Latency,
    Stall,
    Status,
    Throttle,
    Truncate,
    WrongEtag,
    WrongRange,
)
from tests.simulators.server import Call, Reply

SHARD = "model-00001-of-00002.safetensors"
EIGHT = 8


def hurried(event: threading.Event, seconds: float) -> bool:
    return event.wait(min(seconds, 0.002))


OPTIONS = TransferOptions(connections=EIGHT, part_bytes=PART_BYTES, journal_seconds=0.02, wait=hurried)


@pytest.fixture
def root(cache: Path) -> CacheRoot:
    return open_cache(cache, default=cache, fallback=cache)


def source_of(endpoint: str, tmp_path: Path) -> Source:
    settings = Settings.from_env({"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")})
    return source_for(ModelUri.parse(MODEL), settings)


def fetch(
    source: Source,
    root: CacheRoot,
    report: Callable[[Event], None] = ignore,
    options: TransferOptions = OPTIONS,
) -> None:
    model = ModelUri.parse(MODEL)
    plan = survey(source.list_files(model), source, root)
    transfer(plan, source, root, report, cancelled=threading.Event(), options=options)


class Restarted(CountingHub):
    """A hub that answers nothing before it has its model again."""

    def __init__(self, port: int) -> None:
        self.has_model = threading.Event()
        super().__init__(port=port)
        self.add_model(NAME, FILES)
        self.has_model.set()

    def respond(self, call: Call) -> Any:
        self.has_model.wait(30)
        return super().respond(call)


def test_a_server_that_is_restarted_half_way(root: CacheRoot, tmp_path: Path) -> None:
    """Its links to the CDN are void then, its connections are gone, its files are the same."""
    retries: list[RetryScheduled] = []
    with serving() as first:
        half_way = threading.Event()
        first.on_sent = lambda sent: half_way.set() if sent > TOTAL_BYTES // 2 else None
        restarted: list[CountingHub] = []

        def restart() -> None:
            half_way.wait(60)
            first.stop()
            while len(retries) < 3:
                threading.Event().wait(0.002)
            restarted.append(Restarted(first.port))

        def report(event: Event) -> None:
            if isinstance(event, RetryScheduled):
                retries.append(event)

        restarting = threading.Thread(target=restart, daemon=True)
        restarting.start()
        try:
            fetch(source_of(first.endpoint, tmp_path), root, report, replace(OPTIONS, retries=100_000))
        finally:
            restarting.join(60)
            for each in restarted:
                each.stop()
    assert restarted[0].sent_bytes < TOTAL_BYTES
    assert_complete(root.path, MODEL, FILES)


def test_all_connections_are_cut_at_once_again_and_again(hub: CountingHub, root: CacheRoot, tmp_path: Path) -> None:
    shares = [0.2, 0.4, 0.6, 0.8]

    def cut(sent: int) -> None:
        if shares and sent >= shares[0] * TOTAL_BYTES:
            shares.pop(0)
            threading.Thread(target=hub._server.close_connections, daemon=True).start()

    hub.on_sent = cut
    fetch(source_of(hub.endpoint, tmp_path), root)
    assert shares == []
    assert_complete(root.path, MODEL, FILES)


def test_one_connection_that_stalls_does_not_hold_up_the_others(hub: CountingHub, root: CacheRoot) -> None:
    """Others go on while it is silent, as far as there are buffers; then it is given up and its part asked for again."""
    hub.fault(SHARD, Stall(10_000, seconds=600), on="cdn")
    client = HttpClient(Network(limits=Limits(read_seconds=1.0)))
    source = HuggingFaceSource(client, hub.endpoint)
    sent_before_the_retry: list[int] = []

    def report(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            sent_before_the_retry.append(hub.sent_bytes)

    fetch(source, root, report)
    assert len(sent_before_the_retry) == 1
    assert sent_before_the_retry[0] >= EIGHT * PART_BYTES
    assert_complete(root.path, MODEL, FILES)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_server_that_ignores_ranges_only_sometimes(
    times: int, hub: CountingHub, root: CacheRoot, tmp_path: Path
) -> None:
    dice = random.Random(times)
    source = source_of(hub.endpoint, tmp_path)

    def sometimes(_: int) -> None:
        if dice.random() < 0.1:
            hub.fault(SHARD, IgnoreRange(), on="cdn")

    hub.fault(SHARD, IgnoreRange(), times=times, on="cdn")
    hub.on_sent = sometimes
    fetch(source, root)
    assert_complete(root.path, MODEL, FILES)


def test_bytes_that_are_wrong_once_are_fetched_again(hub: CountingHub, root: CacheRoot, tmp_path: Path) -> None:
    hub.fault(SHARD, Corrupt(3), on="cdn")
    hub.fault(SHARD, Corrupt(2 * PART_BYTES), on="cdn")
    hub.fault("tokenizer.json", Corrupt(7))
    notes: list[str] = []
    fetch(source_of(hub.endpoint, tmp_path), root, lambda event: notes.append(str(event)))
    assert sum("not the promised file" in each for each in notes) == 2
    assert_complete(root.path, MODEL, FILES)


class FickleHub(CountingHub):
    """Every answer about the shard has another wrong byte."""

    def answer(self, call: Call) -> Reply:
        reply = super().answer(call)
        if reply.file == SHARD and call.host == "cdn":
            self.fault(SHARD, Corrupt(random.randrange(len(FILES[SHARD]))), times=50, on="cdn")
        return reply


def test_bytes_that_are_wrong_in_another_way_each_time_are_no_result(root: CacheRoot, tmp_path: Path) -> None:
    with FickleHub() as hub:
        hub.add_model(NAME, FILES)
        with pytest.raises(DigestMismatch, match=SHARD):
            fetch(source_of(hub.endpoint, tmp_path), root)
        assert hub.sent_bytes <= 2 * TOTAL_BYTES
    assert_valid(root.path, FILES)
    assert not [path for path in root.path.glob("partial/*/*.part") if path.stat().st_size == len(FILES[SHARD])]
    with serving() as hub:
        fetch(source_of(hub.endpoint, tmp_path), root)
    assert_complete(root.path, MODEL, FILES)


class WrongLengthHub(CountingHub):
    """The heads of the CDN's answers are rewritten."""

    def __init__(self, rewrite: Callable[[dict[str, str]], object]) -> None:
        self.rewrite = rewrite
        super().__init__()

    def respond(self, call: Call) -> tuple[object, Iterator[object]]:  # type: ignore[override]
        response, steps = super().respond(call)
        if call.host == "cdn" and response.status == 206:
            headers = dict(response.headers)
            self.rewrite(headers)
            response = replace(response, headers=headers)
        return response, steps


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-65535/1",
        f"bytes 0-65535/{len(FILES[SHARD]) + 1}",
        "bytes 65535-0/100000",
        "bytes */*",
        "0-65535",
        "bytes 0-65535/99999999999999999999999999",
        "",
    ],
)
def test_a_head_that_tells_a_wrong_length_is_an_error_or_right_bytes(
    content_range: str, root: CacheRoot, tmp_path: Path
) -> None:
    with WrongLengthHub(lambda headers: headers.__setitem__("Content-Range", content_range)) as hub:
        hub.add_model(NAME, FILES)
        with pytest.raises((SourceError, ContentError)):
            fetch(source_of(hub.endpoint, tmp_path), root)
    assert_valid(root.path, FILES)
    with serving() as hub:
        fetch(source_of(hub.endpoint, tmp_path), root)
    assert_complete(root.path, MODEL, FILES)


@pytest.mark.parametrize("length", [65_535, 65_537, 0, 10**30])
def test_a_head_whose_length_is_not_that_of_its_body(length: int, root: CacheRoot, tmp_path: Path) -> None:
    """Shorter, longer, none, more than there is: two heads of one answer disagree, as a broken proxy makes them."""
    with WrongLengthHub(lambda headers: headers.__setitem__("Content-Length", str(length))) as hub:
        hub.add_model(NAME, FILES)
        for path in FILES:
            hub.fault(path, CutAfter(60_000), times=3, on="cdn")
        try:
            fetch(source_of(hub.endpoint, tmp_path), root, options=replace(OPTIONS, retries=3))
        except LadingError as error:
            assert isinstance(error, SourceError | SizeMismatch | DigestMismatch)
    assert_valid(root.path, FILES)
    with serving() as hub:
        fetch(source_of(hub.endpoint, tmp_path), root)
    assert_complete(root.path, MODEL, FILES)


STORM: list[tuple[object, int]] = [
    (CutAfter(1000), 5),
    (CutAfter(30_000, reset=True), 5),
    (Stall(100, seconds=0.05), 5),
    (Latency(0.05), 3),
    (Status(503), 4),
    (Status(429, retry_after=0), 4),
    (Corrupt(70_000), 1),
    (IgnoreRange(), 1),
    (Throttle(3_000_000), 3),
]


@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once_in_any_order(seed: int, hub: CountingHub, root: CacheRoot, tmp_path: Path) -> None:
    dice = random.Random(seed)
    source = source_of(hub.endpoint, tmp_path)
    for fault, times in dice.sample(STORM, len(STORM)):
        hub.fault(dice.choice([SHARD, "model-00002-of-00002.safetensors", None]), fault, times=times, on="cdn")  # type: ignore[arg-type]
    fetch(source, root)
    assert_complete(root.path, MODEL, FILES)


@pytest.mark.parametrize(
    "fault",
    [
        Truncate(3 * PART_BYTES),
        WrongRange(),
        WrongEtag(),
        Corrupt(PART_BYTES),
        Status(503),
        CutAfter(0),
        Status(404),
    ],
    ids=str,
)
def test_a_fault_that_stays_is_an_error_and_healing_it_goes_on(
    fault: Truncate | WrongRange | WrongEtag | Corrupt | Status | CutAfter,
    root: CacheRoot,
    tmp_path: Path,
) -> None:
    notes: list[str] = []

    def report(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with serving() as hub:
        source = source_of(hub.endpoint, tmp_path)
        hub.fault(SHARD, fault, times=None, on="cdn")
        try:
            fetch(source, root, report, replace(OPTIONS, retries=3))
        except LadingError as error:
            assert isinstance(error, SourceError | ContentError)
            assert SHARD in str(error) or "localhost" in str(error)
            assert error.remedy
        assert_valid(root.path, FILES)
    with serving() as hub:
        fetch(source_of(hub.endpoint, tmp_path), root)
    assert_complete(root.path, MODEL, FILES)
