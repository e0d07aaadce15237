"""Who fetches which part next, and that every file is hashed in order whoever does."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lading.cache.partial import PartialFile, Segment
from lading.cache.store import FileHasher
from lading.digest import Digest
from lading.model.manifest import FileEntry
from lading.parts import Attempt, Board, Ended, Part
from lading.uri import ModelUri

PART = 4
MODEL = ModelUri.parse("hf://org/model")
NOWHERE = Path("/nonexistent/x.part")


def attempt(name: str, data: bytes, on_disk: Sequence[tuple[int, int]] = ()) -> Attempt:
    """A try at a file, of which the ranges ``on_disk`` are left from an earlier run."""
    file = FileEntry(name, len(data), MODEL.with_file(name), Digest.of(data))
    edges = sorted({0, len(data), *range(0, len(data), PART), *(edge for each in on_disk for edge in each)})
    cut = tuple(
        Segment(start, end, on_disk=any(first <= start and end <= last for first, last in on_disk))
        for start, end in pairwise(edges)
    )
    whole = cut or (Segment(0, 0, on_disk=True),)
    return Attempt(file, PartialFile(NOWHERE, file), FileHasher(len(data), file.digest), whole, tries_left=1)


def board(*attempts: Attempt, buffers: int = 8, connections: int = 8, run_bytes: int = 0) -> Board:
    buffered, scratches = ([memoryview(bytearray(PART)) for _ in range(count)] for count in (buffers, connections))
    return Board(attempts, buffered, scratches, connections, run_bytes)


def where(part: Part) -> tuple[str, int]:
    return part.attempt.file.path, part.segment.start


def bring(part: Part, data: bytes) -> None:
    """What a thread does with a part of a file whose bytes are ``data``."""
    found = memoryview(data[part.segment.start : part.segment.end])
    if part.segment.on_disk:
        part.attempt.hasher.update(found)
        part.attempt.hashed_bytes += len(found)
        return
    while not part.is_fetched:
        piece = found[part.position : part.position + 3]
        room = part.room(part.position)[: len(piece)]
        room[:] = piece
        part.advance(room)


def test_each_thread_gets_a_file_of_its_own_and_then_helps_with_the_first() -> None:
    it = board(attempt("a", bytes(12)), attempt("b", bytes(12)))
    assert [where(it.claim(number)) for number in range(5)] == [("a", 0), ("b", 0), ("a", 4), ("a", 8), ("b", 4)]


def test_a_thread_that_is_done_goes_on_with_its_file_before_it_opens_another() -> None:
    files = {"a": bytes(range(12)), "b": bytes(12)}
    it = board(*(attempt(name, data) for name, data in files.items()))
    part = it.claim(0)
    bring(part, files["a"])
    it.put(part)
    assert it.next_in_turn(part.attempt) is None, "it was hashed as it came"
    assert where(it.claim(0)) == ("a", 4)


def test_while_every_thread_has_a_file_one_request_brings_several_parts() -> None:
    it = board(attempt("a", bytes(20)), attempt("b", bytes(20), on_disk=[(4, 8)]), connections=2, run_bytes=2 * PART)
    first, second = it.claim(0), it.claim(1)
    assert (first.segment.start, first.segment.end) == (0, 8)
    assert (second.segment.start, second.segment.end) == (0, 4), "what follows is on disk"
    it.use(1)
    bring(first, bytes(20))
    it.put(first)
    assert it.claim(0).segment.end == 16


def test_toward_the_end_requests_become_short_so_that_all_threads_end_together() -> None:
    it = board(attempt("a", bytes(64 * PART)), connections=1, run_bytes=32 * PART)
    sizes: list[int] = []
    while sum(sizes) < 64:
        part = it.claim(0)
        sizes.append(part.segment.size_bytes // PART)
        bring(part, bytes(64 * PART))
        it.put(part)
    assert sizes == [32, 16, 8, 4, 2, 1, 1]


@pytest.mark.parametrize(("buffers", "longest"), [(12, 4), (3, 1)])
def test_where_others_help_a_request_brings_what_their_parts_find_buffers_for(buffers: int, longest: int) -> None:
    it = board(attempt("a", bytes(640 * PART)), buffers=buffers, connections=4, run_bytes=128 * PART)
    claimed = [it.claim(number).segment.size_bytes // PART for number in range(4)]
    assert claimed == [longest, 1, 1, 1]


def test_what_a_damaged_file_is_fetched_again_for_counts_as_left() -> None:
    it = board(attempt("a", bytes(16 * PART)), connections=1, run_bytes=64 * PART)
    first = it.claim(0)
    assert first.segment.size_bytes == 8 * PART
    it.replace(first.attempt, attempt("a", bytes(16 * PART)))
    it.put(first)
    assert it.claim(0).segment.size_bytes == 8 * PART


def test_a_part_ahead_of_its_turn_waits_until_the_one_before_is_hashed() -> None:
    data = bytes(range(8))
    it = board(attempt("a", data))
    first, second = it.claim(0), it.claim(1)
    bring(second, data)
    it.put(second)
    assert it.next_in_turn(second.attempt) is None
    assert second.attempt.hashed_bytes == 0
    bring(first, data)
    it.put(first)
    assert it.next_in_turn(first.attempt) is second
    second.hash()
    assert first.attempt.hasher.keeps_promise


def test_a_part_whose_turn_comes_while_it_is_fetched_catches_up() -> None:
    data = bytes(range(8))
    it = board(attempt("a", data))
    first, second = it.claim(0), it.claim(1)
    second.room(0)[:2] = data[4:6]
    second.advance(second.room(0)[:2])
    bring(first, data)
    assert second.attempt.hashed_bytes == 4
    second.room(2)[:1] = data[6:7]
    second.advance(second.room(2)[:1])
    assert second.attempt.hashed_bytes == 7


def test_what_is_on_disk_is_read_when_its_turn_comes_and_needs_no_buffer() -> None:
    data = bytes(range(12))
    it = board(attempt("a", data, on_disk=[(4, 8)]), buffers=2)
    first, last = it.claim(0), it.claim(1)
    assert (where(first), where(last)) == (("a", 0), ("a", 8))
    bring(last, data)
    it.put(last)
    bring(first, data)
    between = it.claim(2)  # while the others hold both buffers
    assert where(between) == ("a", 4)
    it.put(first)
    assert it.next_in_turn(first.attempt) is None
    bring(between, data)
    it.put(between)
    assert it.next_in_turn(first.attempt) is last


@pytest.mark.parametrize("size", [0, 1, 8])
def test_one_thread_judges_a_file_once(size: int) -> None:
    data = bytes(size)
    it = board(attempt("a", data))
    while True:
        part = it.claim(0)
        assert not it.judge(part.attempt) or not size
        bring(part, data)
        it.put(part)
        if part.segment.end == size:
            break
    assert it.judge(part.attempt) == bool(size), "an empty file was judged above"
    assert not it.judge(part.attempt)


@settings(deadline=None, max_examples=60, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    buffers=st.integers(1, 5),
    threads=st.integers(1, 5),
    run_parts=st.integers(0, 4),
    seed=st.integers(0, 1 << 20),
    data=st.data(),
)
def test_all_files_are_hashed_in_order_by_any_threads_with_any_buffers(
    sizes: list[int], buffers: int, threads: int, run_parts: int, seed: int, data: st.DataObject
) -> None:
    dice = random.Random(seed)
    contents = {str(number): dice.randbytes(size) for number, size in enumerate(sizes)}
    attempts = [
        attempt(name, content, [tuple(sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2))))])
        for name, content in contents.items()
    ]
    it, judged = board(*attempts, buffers=buffers, connections=threads, run_bytes=run_parts * PART), []

    def work(number: int) -> None:
        try:
            while True:
                part = it.claim(number)
                bring(part, contents[part.attempt.file.path])
                it.put(part)
                while ready := it.next_in_turn(part.attempt):
                    ready.hash()
                    it.give_back(ready)
                if it.judge(part.attempt):
                    judged.append(part.attempt)
                    if it.finish():
                        it.end()
        except Ended:
            pass

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers), "they wait for each other"
    assert sorted(judged, key=id) == sorted(attempts, key=id)
    assert all(each.hasher.keeps_promise for each in attempts)
