"""Runs that ended, were refused, or met others: the next one goes on, and what it goes on from is verified."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lading.bundle.archive import find_volumes, open_bundle
from lading.bundle.create import choose_models, create_bundle, plan_create
from lading.bundle.intake import ImportOptions, import_bundle, plan_import
from lading.bundle.target import writing
from lading.cache import upkeep
from lading.cache.root import CacheRoot
from lading.digest import Digest
from lading.errors import CacheBusy, DigestMismatch, Stopped, UsageError
from lading.events import BlobVerified, Event, FilesChecked, Note
from tests.bundle.caches import (
    CONTENT,
    ONE,
    SHARED,
    TWO,
    Keys,
    assert_sound,
    cache_at,
    content_of,
    create,
    fetch,
    filled,
    take,
)

VOLUME = 150_000


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> CacheRoot:
    return filled(tmp_path_factory.mktemp("origin"))


class Ending:
    """A check that ends a run at its n-th call."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Stopped(15)


@pytest.mark.parametrize("volume_bytes", [None, VOLUME], ids=str)
@pytest.mark.parametrize("calls", range(2, 14, 2))
def test_a_bundle_that_was_stopped_is_continued_with_what_is_there(
    calls: int, volume_bytes: int | None, origin: CacheRoot, tmp_path: Path
) -> None:
    create(origin, tmp_path / "whole.tar")
    path = tmp_path / "b" / "b.tar"
    path.parent.mkdir()
    with pytest.raises(Stopped):
        create(origin, path, volume_bytes=volume_bytes, check=Ending(calls))
    assert {each.suffix for each in path.parent.iterdir()} <= {".partial"}
    kept = sum(each.stat().st_size for each in path.parent.iterdir())
    done = create(origin, path, volume_bytes=volume_bytes)
    assert done.kept_bytes >= kept - 512
    data = b"".join(each.read_bytes() for each in sorted(path.parent.iterdir()) if each.suffix != ".sha256")
    assert data == (tmp_path / "whole.tar").read_bytes()
    again = create(origin, path, volume_bytes=volume_bytes)
    assert (again.written_bytes, again.kept_bytes) == (0, len(data))


@pytest.mark.parametrize("volume_bytes", [None, VOLUME], ids=str)
@pytest.mark.parametrize("position", [0, 100, 3000, 4000, 100_000, 350_000, 500_000])
def test_what_an_earlier_run_left_damaged_is_written_again(
    position: int, volume_bytes: int | None, origin: CacheRoot, tmp_path: Path
) -> None:
    create(origin, tmp_path / "whole.tar")
    path = tmp_path / "b" / "b.tar"
    path.parent.mkdir()
    plan = plan_create(choose_models(origin, ()), path, volume_bytes=volume_bytes)
    data = bytearray((tmp_path / "whole.tar").read_bytes()[:600_000])
    data[position] ^= 1
    for each in plan.volumes:
        if piece := data[each.start : each.end]:
            each.partial_path.write_bytes(piece)
    create(origin, path, volume_bytes=volume_bytes)
    sums = path.with_name("b.tar.sha256")
    assert sums.exists() == (volume_bytes is not None)
    found = b"".join(each.read_bytes() for each in sorted(path.parent.iterdir()) if each != sums)
    assert found == (tmp_path / "whole.tar").read_bytes()
    if volume_bytes:
        assert subprocess.run(["sha256sum", "--check", "--quiet", sums], cwd=path.parent).returncode == 0


def test_partial_files_of_other_volumes_are_continued_or_cleaned_up(origin: CacheRoot, tmp_path: Path) -> None:
    """First one file, then small volumes, then larger ones: what is left over at the end is the bundle alone."""
    path = tmp_path / "b" / "b.tar"
    path.parent.mkdir()
    for volume_bytes in (None, 80_000, VOLUME):
        with pytest.raises(Stopped):
            create(origin, path, volume_bytes=volume_bytes, check=Ending(8))
    create(origin, path, volume_bytes=VOLUME)
    assert [each.name for each in sorted(path.parent.iterdir())] == [
        *(f"b.tar.00{number}" for number in range(1, 6)),
        "b.tar.sha256",
    ]


def test_other_models_under_the_same_name_start_anew(origin: CacheRoot, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        create(origin, tmp_path / "b.tar", check=Ending(8))
    create(origin, tmp_path / "b.tar", TWO)
    create(origin, tmp_path / "c.tar", TWO)
    assert (tmp_path / "b.tar").read_bytes() == (tmp_path / "c.tar").read_bytes()


def test_a_signed_bundle_is_continued_too(origin: CacheRoot, tmp_path: Path) -> None:
    keys = Keys.made(tmp_path)
    with pytest.raises(Stopped):
        create(origin, tmp_path / "b.tar", sign_key=keys.private, check=Ending(8))
    done = create(origin, tmp_path / "b.tar", sign_key=keys.private)
    assert done.kept_bytes > 400_000
    take(tmp_path / "b.tar", cache_at(tmp_path / "cache"), options=ImportOptions(verify_key=keys.public))


def test_names_that_were_given_before_the_end_are_taken_as_they_are(origin: CacheRoot, tmp_path: Path) -> None:
    """Killed between two renames: later volumes have their names, the first one does not."""
    done = create(origin, tmp_path / "b.tar", volume_bytes=VOLUME)
    data = {each.path: each.path.read_bytes() for each in done.plan.volumes}
    for each in done.plan.volumes[:2]:
        each.path.rename(each.partial_path)
    again = create(origin, tmp_path / "b.tar", volume_bytes=VOLUME)
    assert again.written_bytes == 0
    assert {each.path: each.path.read_bytes() for each in done.plan.volumes} == data
    assert list(tmp_path.glob("*.partial")) == []


def test_a_finished_bundle_that_went_bad_is_not_changed(origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar")
    data = bytearray((tmp_path / "b.tar").read_bytes())
    data[100_000] ^= 1
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(UsageError, match="exists and is not what would be written"):
        create(origin, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_bytes() == data


def test_a_damaged_blob_never_gets_into_a_bundle(tmp_path: Path) -> None:
    cache = filled(tmp_path / "cache")
    path = cache.store.path_of(Digest.of(SHARED))
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xff")
    with pytest.raises(DigestMismatch) as refused:
        create(cache, tmp_path / "b.tar")
    assert str(path) in refused.value.message
    assert "lading cache verify" in (refused.value.remedy or "")
    assert not (tmp_path / "b.tar").exists()
    upkeep.verify(cache)
    fetch(cache, ONE, CONTENT[ONE])
    assert create(cache, tmp_path / "b.tar").kept_bytes > 400_000
    take(tmp_path / "b.tar", cache_at(tmp_path / "there"))


def test_one_writer_at_a_time(origin: CacheRoot, tmp_path: Path) -> None:
    with writing(tmp_path / "b.tar"), pytest.raises(CacheBusy, match="has been held by process"):
        create(origin, tmp_path / "b.tar")
    create(origin, tmp_path / "b.tar")
    assert [each.name for each in tmp_path.iterdir()] == ["b.tar"]


def test_a_clean_up_takes_nothing_that_is_being_packed(tmp_path: Path) -> None:
    cache = filled(tmp_path / "cache")
    seen: list[int] = []

    def report(event: Event) -> None:
        if isinstance(event, FilesChecked) and not seen:
            for model in CONTENT:
                cache.index.remove(model)
            seen.append(upkeep.collect(cache, now=2e9).blobs)

    create(cache, tmp_path / "b.tar", report=report)
    assert seen == [0]
    assert upkeep.collect(cache, now=2e9 + 1).blobs == 6
    take(tmp_path / "b.tar", cache_at(tmp_path / "there"))


@pytest.mark.parametrize("calls", range(1, 12))
def test_an_import_that_was_stopped_goes_on_without_what_is_here(calls: int, origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar")
    cache = cache_at(tmp_path / "cache")
    with pytest.raises(Stopped):
        take(tmp_path / "b.tar", cache, check=Ending(calls))
    assert_sound(cache)
    here = sum(mark.size_bytes for digest in cache.store.digests() if (mark := cache.store.mark_of(digest)))
    upkeep.collect(cache, now=2e9)  # a clean-up years later: an entry speaks for them
    done = take(tmp_path / "b.tar", cache)
    assert done.imported_bytes == sum(done.plan.blobs.values()) - here
    assert [content_of(cache, model) for model in CONTENT] == list(CONTENT.values())
    assert list((cache.path / "tmp").iterdir()) == []


def test_a_clean_up_takes_nothing_that_is_being_imported(origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar")
    cache = cache_at(tmp_path / "cache")
    deleted = []

    def report(event: Event) -> None:
        if isinstance(event, BlobVerified):
            deleted.append(upkeep.collect(cache, now=time.time() + 3600).blobs)

    take(tmp_path / "b.tar", cache, report=report)
    assert set(deleted) == {0}
    assert content_of(cache, TWO) == CONTENT[TWO]


def test_what_a_clean_up_took_after_the_plan_is_brought_too(origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar")
    cache = cache_at(tmp_path / "cache")
    fetch(cache, TWO, CONTENT[TWO])
    with open_bundle(find_volumes(tmp_path / "b.tar")) as bundle:
        plan = plan_import(bundle, cache, ImportOptions())
        upkeep.remove(cache, TWO)
        done = import_bundle(plan, cache)
    assert done.imported_bytes > plan.import_bytes
    assert content_of(cache, ONE) == CONTENT[ONE]


def test_an_import_waits_for_a_download_of_the_same_model_and_takes_what_it_brought(
    origin: CacheRoot, tmp_path: Path
) -> None:
    create(origin, tmp_path / "b.tar", ONE)
    cache = cache_at(tmp_path / "cache")
    waiting = threading.Event()

    def report(event: Event) -> None:
        if isinstance(event, Note) and event.text.startswith("waiting for"):
            waiting.set()

    result = []
    with cache.lock_for(ONE).acquire(0):
        thread = threading.Thread(target=lambda: result.append(take(tmp_path / "b.tar", cache, report=report)))
        thread.start()
        assert waiting.wait(30)
        assert cache.index.load(ONE) is None
    thread.join(30)
    assert result[0].imported_bytes > 0
    assert content_of(cache, ONE) == CONTENT[ONE]


def test_another_revision_that_came_meanwhile_does_not_give_way(origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar", ONE)
    cache = cache_at(tmp_path / "cache")
    with open_bundle(find_volumes(tmp_path / "b.tar")) as bundle:
        plan = plan_import(bundle, cache, ImportOptions())
        fetch(cache, ONE, {"config.json": b"[]"}, revision="newer")
        with pytest.raises(UsageError, match="complete at newer"):
            import_bundle(plan, cache)
    assert content_of(cache, ONE) == {"config.json": b"[]"}


def test_a_plan_that_is_old_finds_what_is_there(origin: CacheRoot, tmp_path: Path) -> None:
    plan = plan_create(choose_models(origin, ()), tmp_path / "b.tar")
    create(origin, tmp_path / "b.tar")
    done = create_bundle(plan, origin)
    assert done.written_bytes == 0


def test_several_imports_a_download_and_clean_ups_at_once(origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar")
    cache = cache_at(tmp_path / "cache")
    ended = threading.Event()
    failures: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def clean_up() -> None:
        while not ended.is_set():
            upkeep.collect(cache, now=time.time() + 3600)

    cleaner = threading.Thread(target=guarded, args=(clean_up,))
    works: list[Callable[[], object]] = [*[lambda: take(tmp_path / "b.tar", cache)] * 3]
    works += [lambda: fetch(cache, ONE, CONTENT[ONE]), lambda: fetch(cache, TWO, CONTENT[TWO])]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    cleaner.start()
    for each in threads:
        each.start()
    for each in threads:
        each.join(100)
    ended.set()
    cleaner.join(100)
    for failure in failures:
        raise failure
    assert_sound(cache)
    assert [content_of(cache, model) for model in CONTENT] == list(CONTENT.values())
