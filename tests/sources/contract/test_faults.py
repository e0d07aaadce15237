"""What a source makes of a server that is busy, slow, silent or cut off: it waits, or says that asking again may help."""

from __future__ import annotations

from contextlib import suppress
from email.utils import formatdate

import pytest

from lading.errors import RateLimited, SourceUnreachable
from lading.events import RetryScheduled
from lading.sources.interface import PassingFault
from tests.simulators.faults import CutAfter, Latency, Stall, Status, Truncate
from tests.simulators.server import Call, Reply
from tests.sources.contract.line import Cut
from tests.sources.contract.models import FILES, WEIGHTS, hurried_source, read, source_of
from tests.sources.contract.stand import ServedStand
from tests.sources.servers import FakeTime

DATA = FILES[WEIGHTS]
IN_THE_HEAD = 20
BUSY = [429, 500, 502, 503, 504, 408]


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def busy_until(reply: Reply, served: ServedStand, *, times: int = 1) -> None:
    """Answer so for the listing's next requests."""
    left = [reply] * times

    def interpose(call: Call) -> Reply | None:
        return left.pop() if left and call.path.startswith(served.listing) else None

    served.server.interpose = interpose


def test_a_listing_waits_as_long_as_it_is_asked_to(served, time):
    source = hurried_source(served, time)
    for status in BUSY:
        busy_until(Reply(status, {"Retry-After": "7"}, b"busy"), served, times=2)
        manifest = served.listed(source)
        assert {each.path for each in manifest.files} == set(FILES)
    assert time.slept == [7.0, 7.0] * len(BUSY)


def test_a_listing_waits_until_the_time_that_it_is_told(served, time):
    source = hurried_source(served, time)
    busy_until(Reply(503, {"Retry-After": formatdate(time.now + 9, usegmt=True)}, b"busy"), served)
    served.listed(source)
    assert time.slept == [9.0]


def test_a_listing_that_is_not_told_when_waits_longer_each_time(served, time):
    source = hurried_source(served, time)
    busy_until(Reply(500, {}, b"busy"), served, times=3)
    served.listed(source)
    assert time.slept == sorted(time.slept)
    assert len(set(time.slept)) == 3


def test_waiting_is_reported(served):
    events = []
    source = source_of(served, events.append)
    busy_until(Reply(503, {"Retry-After": "0"}, b"busy"), served)
    served.listed(source)
    assert [each.delay_seconds for each in events if isinstance(each, RetryScheduled)] == [0.0]


@pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, SourceUnreachable)])
def test_a_listing_that_is_refused_for_ever_comes_to_an_end(served, time, status, error):
    source = hurried_source(served, time)
    served.server.interpose = lambda call: (
        Reply(status, {"Retry-After": "3"}, b"busy") if call.path.startswith(served.listing) else None
    )
    with pytest.raises(error) as caught:
        served.listed(source)
    assert not isinstance(caught.value, PassingFault)
    assert 1 < len(time.slept) < 20


def test_a_wait_that_nobody_has_the_patience_for_is_an_error_at_once(served, time):
    source = hurried_source(served, time)
    busy_until(Reply(429, {"Retry-After": "86400"}, b"busy"), served, times=50)
    with pytest.raises(RateLimited):
        served.listed(source)
    assert time.slept == []


def test_a_read_says_how_long_it_is_asked_to_wait_and_does_not(served, time):
    source = hurried_source(served, time)
    entry = served.entry(source, WEIGHTS)
    for status in BUSY:
        served.fault(WEIGHTS, Status(status, retry_after=11, body=b"busy"))
        with pytest.raises(PassingFault) as caught, source.open_range(entry, 0, 10):
            pass
        assert (caught.value.status, caught.value.retry_after_seconds) == (status, 11.0)
        assert served.server.unused_faults == []
        assert read(source, entry) == DATA
    assert time.slept == []


def test_a_read_that_is_not_told_when_says_so(served):
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    served.fault(WEIGHTS, Status(503, body=b"busy"))
    with pytest.raises(PassingFault) as caught, source.open_range(entry, 0, 10):
        pass
    assert caught.value.retry_after_seconds is None
    assert read(source, entry) == DATA


def test_a_read_is_told_a_time_of_day(served, time):
    source = hurried_source(served, time)
    entry = served.entry(source, WEIGHTS)
    busy = Reply(503, {"Retry-After": formatdate(time.now + 13, usegmt=True)}, b"busy")
    served.server.interpose = lambda _: busy
    with pytest.raises(PassingFault) as caught, source.open_range(entry, 0, 10):
        pass
    assert caught.value.retry_after_seconds == 13.0
    served.server.interpose = None
    assert read(source, entry) == DATA


def test_a_hub_that_is_busy_when_a_file_is_asked_for_is_a_passing_fault(served):
    """Where files come from storage, the hub before it may be busy, too."""
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    served.server.interpose = lambda call: Reply(429, {"Retry-After": "5"}, b"busy") if call.host == "hub" else None
    with pytest.raises(PassingFault) as caught, source.open_range(entry, 0, 10):
        pass
    assert caught.value.retry_after_seconds == 5.0
    served.server.interpose = None
    assert read(source, entry) == DATA


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("after_bytes", [0, IN_THE_HEAD])
def test_a_listing_survives_an_answer_that_is_cut_in_its_head(served, time, reset, after_bytes):
    source = hurried_source(served, time)
    served.line.cut(Cut(after_bytes, reset), Cut(after_bytes, reset))
    assert {each.path for each in served.listed(source).files} == set(FILES)
    assert len(time.slept) == 2


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("after_bytes", [0, IN_THE_HEAD])
def test_a_read_whose_answer_is_cut_in_its_head_is_a_passing_fault(served, reset, after_bytes):
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    assert read(source, entry, 0, 10) == DATA[:10]  # from here on the head is that of the bytes
    served.line.cut(Cut(after_bytes, reset))
    with pytest.raises(PassingFault), source.open_range(entry, 0, 10):
        pass
    assert read(source, entry) == DATA


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_read_whose_body_is_cut_gives_what_came_and_a_passing_fault(served, reset):
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    for after_bytes in (0, 1, 50_000, len(DATA) - 1):
        served.fault(WEIGHTS, CutAfter(after_bytes, reset))
        got = bytearray()
        buffer = memoryview(bytearray(7000))
        with pytest.raises(PassingFault), source.open_range(entry, 0, len(DATA)) as body:
            while count := body.readinto(buffer):
                got += buffer[:count]
        assert len(got) <= after_bytes
        assert len(got) == after_bytes or reset
        assert DATA.startswith(got)
        assert served.server.unused_faults == []
        assert read(source, entry, len(got)) == DATA[len(got) :]


def test_bodies_that_end_where_the_connection_does_are_whole(served):
    """Without a length, only the listing tells that one was cut."""
    served.line.without_lengths = True
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    assert read(source, entry) == DATA
    assert read(source, entry, 500, 700) == DATA[500:700]
    served.fault(WEIGHTS, CutAfter(50_000))
    with pytest.raises(PassingFault):
        read(source, entry)
    assert served.server.unused_faults == []
    assert read(source, entry) == DATA


def test_a_copy_that_is_shorter_than_was_listed_is_no_whole_file(served):
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    served.fault(WEIGHTS, Truncate(60_000), times=None)
    with pytest.raises(PassingFault):
        read(source, entry)


def read_in_the_end(source, entry):
    """What the source gives once it is not late: on a busy machine any answer may be, for one in such a hurry."""
    for _ in range(20):
        with suppress(PassingFault):
            return read(source, entry)
    return read(source, entry)


def test_a_connection_that_falls_silent_is_a_passing_fault(served, time):
    source = hurried_source(served, time, read_seconds=0.3)
    entry = served.entry(source, WEIGHTS)
    served.fault(WEIGHTS, Stall(30_000, seconds=60))
    with pytest.raises(PassingFault):
        read(source, entry)
    assert served.server.unused_faults == []
    assert read_in_the_end(source, entry) == DATA


def test_a_server_that_does_not_begin_to_answer_is_a_passing_fault(served, time):
    source = hurried_source(served, time, read_seconds=0.3)
    entry = served.entry(source, WEIGHTS)
    served.fault(WEIGHTS, Latency(60))
    with pytest.raises(PassingFault), source.open_range(entry, 0, 10):
        pass
    assert served.server.unused_faults == []
    assert read_in_the_end(source, entry) == DATA


def test_a_listing_survives_a_silent_server(served, time):
    source = hurried_source(served, time, read_seconds=0.3)
    served.fault_listing(Latency(60))
    assert {each.path for each in served.listed(source).files} == set(FILES)
    assert served.server.unused_faults == []


def test_answers_that_come_byte_by_byte_are_whole(served):
    served.put("small.safetensors", DATA[:2000])
    served.line.byte_by_byte = True
    source = source_of(served)
    entry = served.entry(source, "small.safetensors")
    assert read(source, entry) == DATA[:2000]
    assert read(source, entry, 500, 700) == DATA[500:700]


def test_nobody_at_the_other_end_is_an_error_that_names_the_host(served, time):
    source = hurried_source(served, time)
    entry = served.entry(source, WEIGHTS)
    served.line.close()
    with pytest.raises(PassingFault) as caught, source.open_range(entry, 0, 10):
        pass
    assert caught.value.remedy
    with pytest.raises(SourceUnreachable) as later:
        served.listed(hurried_source(served, time))
    assert not isinstance(later.value, PassingFault)
    assert later.value.remedy
