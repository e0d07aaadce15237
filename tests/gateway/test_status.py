from __future__ import annotations

import threading

import pytest

from lading.events import (
    BlobVerified,
    BytesFetched,
    EngineOutput,
    Event,
    Note,
    OthersProgress,
    Phase,
    PhaseChanged,
    RetryScheduled,
    TransferFinished,
    TransferStarted,
)
from lading.gateway.status import ServiceInfo, ServiceStatus


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def status(clock: FakeClock) -> ServiceStatus:
    return ServiceStatus(clock)


def test_a_service_begins_by_resolving(status: ServiceStatus, clock: FakeClock) -> None:
    clock.now += 3
    snapshot = status.snapshot()
    assert (snapshot.phase, snapshot.seconds_in_phase, snapshot.ready) == (Phase.RESOLVING, 3.0, False)
    assert snapshot.download is None
    assert snapshot.info == ServiceInfo()


def test_each_phase_keeps_its_seconds_and_the_current_one_counts_on(status: ServiceStatus, clock: FakeClock) -> None:
    for phase, seconds in [(Phase.SELECTING, 1), (Phase.LOADING, 40), (Phase.READY, 2)]:
        clock.now += seconds
        status.report(PhaseChanged(phase, f"to {phase}"))
    clock.now += 7
    snapshot = status.snapshot()
    assert dict(snapshot.phase_seconds) == {
        Phase.RESOLVING: 1.0,
        Phase.SELECTING: 40.0,
        Phase.LOADING: 2.0,
        Phase.READY: 7.0,
    }
    assert (snapshot.detail, snapshot.ready, status.ready) == ("to ready", True, True)


def test_the_same_phase_again_changes_the_detail_and_not_the_clock(status: ServiceStatus, clock: FakeClock) -> None:
    status.report(PhaseChanged(Phase.LOADING, "shard 1 of 2"))
    clock.now += 5
    status.report(PhaseChanged(Phase.LOADING, "shard 2 of 2"))
    clock.now += 1
    snapshot = status.snapshot()
    assert (snapshot.seconds_in_phase, snapshot.detail) == (6.0, "shard 2 of 2")


def test_a_phase_entered_twice_adds_up(status: ServiceStatus, clock: FakeClock) -> None:
    for phase in (Phase.STARTING, Phase.READY, Phase.STARTING):
        status.report(PhaseChanged(phase))
        clock.now += 10
    assert status.snapshot().phase_seconds[Phase.STARTING] == 20.0


def test_ready_ends_with_the_phase(status: ServiceStatus) -> None:
    status.report(PhaseChanged(Phase.READY))
    assert status.ready
    status.report(PhaseChanged(Phase.STOPPING))
    assert not status.ready


def test_a_download_is_followed_byte_by_byte(status: ServiceStatus, clock: FakeClock) -> None:
    status.report(TransferStarted(files=3, total_bytes=1000, present_bytes=200))
    clock.now += 2
    status.report(BytesFetched("model.safetensors", 400))
    snapshot = status.snapshot()
    assert snapshot.download
    assert (snapshot.download.percent, snapshot.download.bytes_per_second) == (60.0, 200.0)
    assert snapshot.download.eta_seconds == 2.0
    assert snapshot.cache_hit_bytes == 200


def test_counters_only_grow_while_progress_may_go_back(status: ServiceStatus) -> None:
    status.report(TransferStarted(files=1, total_bytes=1000, present_bytes=0))
    status.report(BytesFetched("a", 500))
    status.report(RetryScheduled("a", "reset by peer", 1.0))
    status.report(BytesFetched("a", -500))
    status.report(BytesFetched("a", 100))
    snapshot = status.snapshot()
    assert snapshot.download
    assert snapshot.download.fetched_bytes == 100
    assert (snapshot.downloaded_bytes, snapshot.retries) == (600, 1)


def test_what_another_process_fetches_is_progress_and_no_download_of_ours(
    status: ServiceStatus, clock: FakeClock
) -> None:
    status.report(OthersProgress(1000, 300))
    clock.now += 2
    status.report(OthersProgress(1000, 700))
    snapshot = status.snapshot()
    assert snapshot.download
    assert (snapshot.download.percent, snapshot.download.bytes_per_second) == (70.0, 200.0)
    assert (snapshot.downloaded_bytes, snapshot.cache_hit_bytes) == (0, 0)
    status.report(TransferStarted(files=1, total_bytes=1000, present_bytes=1000))
    assert status.snapshot().cache_hit_bytes == 1000


def test_a_second_transfer_starts_its_own_progress(status: ServiceStatus) -> None:
    status.report(TransferStarted(files=1, total_bytes=100, present_bytes=40))
    status.report(BytesFetched("a", 60))
    status.report(TransferFinished(60, 1.0))
    status.report(TransferStarted(files=1, total_bytes=10, present_bytes=5))
    snapshot = status.snapshot()
    assert snapshot.download
    assert snapshot.download.percent == 50.0
    assert (snapshot.downloaded_bytes, snapshot.cache_hit_bytes) == (60, 45)


@pytest.mark.parametrize(
    "event",
    [Note("hello"), EngineOutput("INFO ..."), BlobVerified("a", 3), TransferFinished(0, 0.0)],
    ids=lambda event: type(event).__name__,
)
def test_other_events_change_nothing(status: ServiceStatus, event: Event) -> None:
    before = status.snapshot()
    status.report(event)
    assert status.snapshot() == before


def test_what_is_described_is_in_the_next_snapshot(status: ServiceStatus) -> None:
    info = ServiceInfo(served_names=("m",), source="hf://org/m", profile_id="a" * 64)
    status.describe(info)
    assert status.snapshot().info is info


def test_reports_from_many_threads_are_all_counted(status: ServiceStatus) -> None:
    status.report(TransferStarted(files=8, total_bytes=8000, present_bytes=0))

    def work() -> None:
        for _ in range(1000):
            status.report(BytesFetched("a", 1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = status.snapshot()
    assert snapshot.download
    assert (snapshot.download.fetched_bytes, snapshot.downloaded_bytes) == (8000, 8000)
