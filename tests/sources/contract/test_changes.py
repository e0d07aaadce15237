"""A file that is replaced or deleted after it was listed: the listed bytes or an error, never others, never a mixture."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from lading.cache.root import CacheRoot
from lading.errors import ContentError, FileNotFoundAtSource, LadingError
from lading.events import BytesFetched, Event
from lading.transfer import TransferCancelled
from lading.uri import Scheme
from tests.simulators.faults import CutAfter, WrongEtag
from tests.sources.contract.models import (
    FILES,
    ONE_REQUEST,
    OPTIONS,
    WEIGHTS,
    counts,
    fetch,
    read,
    source_of,
)
from tests.sources.contract.stand import ServedStand, Stand

DATA = FILES[WEIGHTS]
SAME_SIZE = random.Random(7).randbytes(len(DATA))
CHANGES: dict[str, Callable[[Stand], None]] = {
    "same size": lambda stand: stand.put(WEIGHTS, SAME_SIZE),
    "shorter": lambda stand: stand.put(WEIGHTS, SAME_SIZE[:60_000]),
    "longer": lambda stand: stand.put(WEIGHTS, SAME_SIZE + b"more"),
    "one byte": lambda stand: stand.put(WEIGHTS, DATA[:50_000] + bytes([DATA[50_000] ^ 1]) + DATA[50_001:]),
    "empty": lambda stand: stand.put(WEIGHTS, b""),
    "deleted": lambda stand: stand.remove(WEIGHTS),
}
SOME = ("same size", "longer", "deleted")
GONE = (ContentError, FileNotFoundAtSource)


def pinned_by_etag(stand: Stand) -> None:
    """NGC pins the files whose digest it tells by that alone: transfers tell, single reads cannot."""
    if stand.scheme is Scheme.NGC and isinstance(stand, ServedStand):
        stand.forget_digests()


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_no_other_bytes_are_given(stand, change):
    pinned_by_etag(stand)
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)
    CHANGES[change](stand)
    assert _bytes_or_error(lambda: read(source, entry, 50_000, 50_001)) in (DATA[50_000:50_001], "refused")
    assert _bytes_or_error(lambda: read(source, entry)) in (DATA, "refused")


@pytest.mark.parametrize("change", ["same size", "longer"])
def test_a_server_that_knows_no_preconditions_does_not_pass_off_other_bytes(served, change):
    """Its answers tell which version they are of."""
    pinned_by_etag(served)
    source = source_of(served)
    entry = served.entry(source, WEIGHTS)
    CHANGES[change](served)
    served.server.understand = served.without_preconditions
    assert _bytes_or_error(lambda: read(source, entry, 50_000, 60_000)) in (DATA[50_000:60_000], "refused")
    assert _bytes_or_error(lambda: read(source, entry)) in (DATA, "refused")


@pytest.mark.parametrize("change", SOME)
def test_a_source_that_read_the_file_before_notices_too(stand, change):
    """Such as one that keeps a link to storage."""
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)
    assert read(source, entry, 0, 10) == DATA[:10]
    CHANGES[change](stand)
    assert _bytes_or_error(lambda: read(source, entry, 10, len(DATA))) in (DATA[10:], "refused")


@pytest.mark.parametrize("change", CHANGES)
def test_a_later_listing_tells_what_is_there_now(stand, change):
    source = source_of(stand)
    before = stand.entry(source, WEIGHTS)
    CHANGES[change](stand)
    manifest = stand.listed(source)
    now = manifest.find(WEIGHTS)
    if change == "deleted":
        assert now is None
        return
    assert now is not None
    assert read(source, now) == stand.files[WEIGHTS]
    assert now != before


@pytest.mark.parametrize("change", SOME)
def test_a_change_while_a_file_is_read_mixes_nothing(stand, change):
    source = source_of(stand)
    entry = stand.entry(source, WEIGHTS)

    def halves() -> bytes:
        first = read(source, entry, 0, 50_000)
        CHANGES[change](stand)
        return first + read(source, entry, 50_000, len(DATA))

    assert _bytes_or_error(halves) in (DATA, "refused")


@pytest.mark.parametrize("change", SOME)
def test_a_change_before_a_transfer_is_no_result(served, cache, change):
    source = source_of(served)
    manifest = served.listed(source)
    CHANGES[change](served)
    assert _bytes_or_error(lambda: fetch(manifest, source, cache)[WEIGHTS]) in (DATA, "refused")


@pytest.mark.parametrize("change", SOME)
def test_a_change_in_the_middle_of_a_transfer_is_no_mixture(served: ServedStand, cache: CacheRoot, change):
    source = source_of(served)
    manifest = served.listed(source)
    changed = threading.Event()

    def report(event: Event) -> None:
        if isinstance(event, BytesFetched) and event.path == WEIGHTS and not changed.is_set():
            changed.set()
            CHANGES[change](served)

    assert _bytes_or_error(lambda: fetch(manifest, source, cache, report)[WEIGHTS]) in (DATA, "refused")
    assert changed.is_set()


def test_where_no_digest_is_promised_a_change_in_the_middle_of_a_transfer_is_no_mixture(
    served: ServedStand, cache: CacheRoot
) -> None:
    """Nothing but the pin tells. What keeps a link to storage is another source, as after a restart."""
    if served.scheme is Scheme.HF:
        pytest.skip("a hub always tells a digest")
    served.forget_digests()
    source = source_of(served)
    manifest = served.listed(source)
    assert [each.digest for each in manifest.files if each.path == WEIGHTS] == [None]
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if sum(counts(events, WEIGHTS)) > 40_000:
            raise TransferCancelled

    with pytest.raises(TransferCancelled):
        fetch(manifest, source, cache, report, options=OPTIONS)
    served.put(WEIGHTS, SAME_SIZE)
    again = source_of(served)
    assert _bytes_or_error(lambda: fetch(manifest, again, cache)[WEIGHTS]) in (DATA, "refused")


def test_a_change_while_a_connection_is_cut_is_no_mixture(served: ServedStand, cache: CacheRoot):
    source = source_of(served)
    manifest = served.listed(source)
    served.fault(WEIGHTS, CutAfter(30_000))
    changed = threading.Event()

    def report(event: Event) -> None:
        if isinstance(event, BytesFetched) and event.path == WEIGHTS and not changed.is_set():
            changed.set()
            served.put(WEIGHTS, SAME_SIZE)

    got = _bytes_or_error(lambda: fetch(manifest, source, cache, report, options=ONE_REQUEST)[WEIGHTS])
    assert got in (DATA, "refused")


def test_an_etag_that_changes_in_the_middle_of_a_transfer_is_no_mixture(served: ServedStand, cache: CacheRoot):
    """The server says that the file is another one by now; whoever pins by etag has to listen."""
    source = source_of(served)
    manifest = served.listed(source)
    entry = manifest.find(WEIGHTS)
    assert entry is not None
    told = threading.Event()

    def report(event: Event) -> None:
        if isinstance(event, BytesFetched) and event.path == WEIGHTS and not told.is_set():
            told.set()
            served.fault(WEIGHTS, WrongEtag(), times=None)

    got = _bytes_or_error(lambda: fetch(manifest, source, cache, report, options=OPTIONS)[WEIGHTS])
    assert got in (DATA, "refused")
    if entry.digest is None:
        assert got == "refused"


def _bytes_or_error(act: Callable[[], bytes]) -> bytes | str:
    """What ``act`` gives, or that it was refused for the reason that the contract wants."""
    try:
        return act()
    except LadingError as error:
        assert isinstance(error, GONE), f"{type(error).__name__}: {error}"
        return "refused"
