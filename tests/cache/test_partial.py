"""Partial files and their journals: ranges add up, journals read back, nothing is continued that is not the same."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.cache.partial import (
    Identity,
    Journal,
    PartialFile,
    Ranges,
    add_range,
    count_bytes,
    journal_path,
    segments,
)
from lading.digest import Digest
from lading.errors import CacheBusy
from lading.model.manifest import FileEntry
from lading.plan import Partial
from lading.uri import ModelUri

MODEL = ModelUri.parse("hf://demo/tiny:c0ffee")
SIZE = 10_000
FILE = FileEntry("model.safetensors", SIZE, MODEL.with_file("model.safetensors"), Digest.of(bytes(SIZE)))

STRETCHES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda pair: tuple(sorted(pair))))


def ranges_of(stretches: list[tuple[int, int]]) -> Ranges:
    ranges: Ranges = ()
    for start, end in stretches:
        ranges = add_range(ranges, start, end)
    return ranges


@given(STRETCHES)
def test_ranges_hold_exactly_what_was_added(stretches: list[tuple[int, int]]) -> None:
    ranges = ranges_of(stretches)
    wanted = {position for start, end in stretches for position in range(start, end)}
    assert {position for start, end in ranges for position in range(start, end)} == wanted
    assert count_bytes(ranges) == len(wanted)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


@given(STRETCHES, st.integers(300, 400), st.integers(1, 350))
def test_segments_cover_the_file_once_and_in_order(
    stretches: list[tuple[int, int]], size_bytes: int, part_bytes: int
) -> None:
    done = ranges_of(stretches)
    cut = segments(size_bytes, done, part_bytes)
    assert [segment.start for segment in cut] == [0, *(segment.end for segment in cut)][: len(cut)]
    assert sum(segment.size_bytes for segment in cut) == size_bytes
    assert tuple((segment.start, segment.end) for segment in cut if segment.on_disk) == done
    assert all(0 < segment.size_bytes <= part_bytes for segment in cut if not segment.on_disk)


def test_an_empty_file_has_no_segments() -> None:
    assert segments(0, (), 8) == ()


@given(STRETCHES, st.booleans(), st.one_of(st.none(), st.text()))
def test_a_journal_is_written_and_read_back(
    stretches: list[tuple[int, int]], has_digest: bool, etag: str | None
) -> None:
    digest = Digest.of(b"x", "gitsha1") if has_digest else None
    journal = Journal(Identity(300, digest, None if has_digest else "hf://a/b?file=c", etag), ranges_of(stretches))
    assert Journal.from_json(json.loads(json.dumps(journal.to_json()))) == journal


@pytest.mark.parametrize("done", [[[5, 5]], [[-1, 5]], [[0, 301]], [[5]], [["a", "b"]], 7])
def test_a_journal_with_impossible_ranges_is_refused(done: object) -> None:
    data = Journal(Identity(300, Digest.of(b"x"), None, None), ()).to_json() | {"done": done}
    with pytest.raises((ValueError, TypeError)):
        Journal.from_json(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partial" / "x.part"


def started(path: Path, file: FileEntry = FILE) -> PartialFile:
    partial = PartialFile(path, file)
    partial.open()
    return partial


def test_a_new_file_has_its_whole_room(path: Path) -> None:
    partial = started(path)
    assert path.stat().st_size == SIZE
    assert partial.state == Partial(0, min(SIZE, path.stat().st_blocks * 512))
    partial.close()


def test_what_was_written_and_saved_is_there_for_the_next_one(path: Path) -> None:
    partial = started(path)
    partial.write(memoryview(b"b" * 100), 5000)
    partial.write(memoryview(b"a" * 100), 0)
    partial.save()
    partial.write(memoryview(b"c" * 100), 100)
    partial.close()
    again = PartialFile(path, FILE)
    assert again.done == ((0, 100), (5000, 5100))
    assert again.state.done_bytes == 200
    again.open()
    buffer = memoryview(bytearray(100))
    assert again.read_into(buffer, 5000) == 100
    assert buffer == b"b" * 100
    again.close()


def test_a_journal_without_news_is_not_written(path: Path) -> None:
    partial = started(path)
    partial.save()
    assert not journal_path(path).exists()
    partial.write(memoryview(b"a"), 0)
    partial.save()
    before = journal_path(path).stat().st_ino
    partial.save()
    assert journal_path(path).stat().st_ino == before
    partial.close()


def test_a_new_start_deletes_the_old_journal_first(path: Path) -> None:
    partial = started(path)
    partial.write(memoryview(b"a" * 10), 0)
    partial.save()
    partial.close()
    other = started(path, FileEntry("m", SIZE, MODEL.with_file("m"), Digest.of(b"other")))
    assert other.done == ()
    assert not journal_path(path).exists()
    other.discard()
    assert not path.exists()


def test_bytes_that_nothing_names_have_no_journal(path: Path) -> None:
    unpinned = ModelUri.parse("http://host/dir").with_file("m")
    partial = started(path, FileEntry("m", SIZE, unpinned))
    partial.write(memoryview(b"a" * 10), 0)
    partial.save()
    assert not journal_path(path).exists()
    partial.close()


def test_a_straggler_cannot_open_or_write_a_finished_file(path: Path) -> None:
    """Found by hypothesis: a late opener made an empty file, and that was committed under the right digest."""
    partial = started(path)
    partial.write(memoryview(b"a" * SIZE), 0)
    with partial.finished() as aside:
        partial.open()
        partial.write(memoryview(b"b" * 10), 0)
        assert aside.read_bytes() == b"a" * SIZE
    assert partial.read_into(memoryview(bytearray(1)), 0) == 0


def test_a_file_whose_name_was_taken_by_another_is_not_finished(path: Path) -> None:
    partial = started(path)
    path.unlink()
    path.write_bytes(bytes(SIZE))
    with pytest.raises(CacheBusy, match="replaced by another process"), partial.finished():
        pass
    assert path.read_bytes() == bytes(SIZE)


def test_a_finished_file_that_is_not_wanted_lies_where_it_was(path: Path) -> None:
    partial = started(path)
    with pytest.raises(KeyError), partial.finished():
        raise KeyError
    assert path.stat().st_size == SIZE
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_was_sealed_by_a_run_that_ended_can_be_continued(path: Path) -> None:
    partial = started(path)
    partial.write(memoryview(b"a" * SIZE), 0)
    partial.save()
    partial.close()
    path.chmod(0o444)
    again = started(path)
    assert again.done == ((0, SIZE),)
    again.write(memoryview(b"b"), 0)
    again.close()


def test_closing_leaks_no_descriptor(path: Path) -> None:
    before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []
    for _ in range(5):
        partial = started(path)
        partial.close()
        partial.close()
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)
