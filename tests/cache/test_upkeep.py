"""Looking after a cache: what it holds, whether it is right, what may go."""

import os
import threading
from pathlib import Path

import pytest

from lading.cache import upkeep
from lading.cache.listing import KeptListing, save_listing
from lading.cache.root import CacheRoot, open_cache
from lading.cache.use import announced
from lading.digest import Digest
from lading.errors import ModelNotFound, NotWritable, SizeMismatch, UsageError
from lading.events import Event, Note, Report
from lading.model.manifest import Manifest
from lading.transfer import TransferOptions, survey, transfer
from lading.uri import ModelUri
from lading.workspace import build_workspace
from tests.simulators.memory_source import ALWAYS, Fault, MemorySource

FIRST, SECOND = ModelUri.parse("hf://org/first"), ModelUri.parse("hf://org/second:v2")
DAY = 86400.0
SHARED = b"shared" * 1000


@pytest.fixture
def cache(tmp_path: Path) -> CacheRoot:
    """Two models with one file in common."""
    cache = open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    for model, own in ((FIRST, b"1" * 5000), (SECOND, b"2" * 7000)):
        source = MemorySource(model=model)
        source.add("config.json", SHARED)
        source.add("model.safetensors", own)
        fetch(source, cache)
    return cache


def fetch(source: MemorySource, cache: CacheRoot) -> None:
    options = TransferOptions(connections=1, part_bytes=1000, retries=0)
    manifest = transfer(
        survey(source.manifest, source, cache), source, cache, cancelled=threading.Event(), options=options
    )
    places = [(file.path, cache.store.path_of(file.digest)) for file in manifest.files if file.digest]
    build_workspace(cache.workspace_for(manifest.pinned), places)


def orphan(cache: CacheRoot, data: bytes = b"orphan" * 1000) -> Digest:
    """A blob that nothing names."""
    path = cache.tmp_path()
    path.write_bytes(data)
    cache.store.commit(path, Digest.of(data), len(data))
    return Digest.of(data)


def later(cache: CacheRoot, seconds: float) -> float:
    """The time by the filesystem's clock, so many seconds from now: what is made now is old then."""
    return upkeep.time_in(cache) + seconds


def sources(cache: CacheRoot) -> list[ModelUri]:
    return [entry.source for entry in cache.index.entries()]


class TestContents:
    def test_models_sizes_and_what_removing_would_free(self, cache: CacheRoot) -> None:
        orphan(cache)
        found = upkeep.contents(cache)
        first, second = found.holdings
        assert (first.entry.source, second.entry.source) == (FIRST, SECOND)
        assert (first.present_bytes, first.own_bytes) == (11_000, 5000)
        assert (second.present_bytes, second.own_bytes) == (13_000, 7000)
        assert (found.blob_bytes, found.unneeded_bytes, found.partial_bytes) == (24_000, 6000, 0)

    def test_a_running_server_is_seen(self, cache: CacheRoot) -> None:
        with announced(cache.uses_directory, FIRST):
            first, second = upkeep.contents(cache).holdings
        assert [use.pid for use in first.uses] == [os.getpid()]
        assert second.uses == ()

    def test_what_a_server_uses_is_needed_though_no_entry_names_it(self, cache: CacheRoot) -> None:
        digest = orphan(cache)
        with announced(cache.uses_directory, FIRST) as use:
            use.extend(cache.path / "workspaces/x", [digest])
            assert upkeep.contents(cache).unneeded_bytes == 0

    def test_an_unfinished_model_shows_how_far_it_came(self, cache: CacheRoot) -> None:
        source = MemorySource(model=ModelUri.parse("hf://org/third"))
        source.add("config.json", SHARED)
        source.add("model.safetensors", b"3" * 9000)
        source.fail("model.safetensors", Fault(times=ALWAYS, ends_at=2500))
        with pytest.raises(SizeMismatch):
            fetch(source, cache)
        found = upkeep.contents(cache)
        assert [each.present_bytes for each in found.holdings if not each.entry.is_complete] == [6000]
        assert found.partial_bytes >= 9000


class TestRehearsingRemoval:
    def test_it_tells_what_a_removal_then_does(self, cache: CacheRoot) -> None:
        before = {path for path in cache.path.rglob("*") if path.is_file() and "locks" not in path.parts}
        told = upkeep.remove(cache, FIRST, dry_run=True)
        assert {path for path in cache.path.rglob("*") if path.is_file() and "locks" not in path.parts} == before
        assert (told.models, told.blobs, told.workspaces) == ([str(FIRST)], 1, 1)
        assert upkeep.remove(cache, FIRST) == told
        with pytest.raises(ModelNotFound):
            upkeep.remove(cache, FIRST, dry_run=True)

    def test_a_model_that_is_served_is_refused(self, cache: CacheRoot) -> None:
        with announced(cache.uses_directory, FIRST), pytest.raises(UsageError):
            upkeep.remove(cache, FIRST, dry_run=True)


class TestVerifying:
    def test_right_bytes(self, cache: CacheRoot) -> None:
        found = upkeep.verify(cache)
        assert (found.blobs, found.total_bytes, dict(found.damaged)) == (3, 18_000, {})
        assert upkeep.verify(cache, SECOND).blobs == 2

    def test_damaged_bytes_are_named_with_their_models_and_removed(self, cache: CacheRoot) -> None:
        path = cache.store.path_of(Digest.of(SHARED))
        path.chmod(0o644)
        path.write_bytes(SHARED[:-1] + b"?")
        found = upkeep.verify(cache)
        assert {digest: set(models) for digest, models in found.damaged.items()} == {
            Digest.of(SHARED): {str(FIRST), str(SECOND)}
        }
        assert found.removed
        assert not path.exists()

    def test_a_dry_run_tells_them_and_removes_none(self, cache: CacheRoot) -> None:
        path = cache.store.path_of(Digest.of(SHARED))
        path.chmod(0o644)
        path.write_bytes(b"?")
        found = upkeep.verify(cache, dry_run=True)
        assert [*found.damaged] == [Digest.of(SHARED)]
        assert not found.removed
        assert path.exists()

    def test_in_a_cache_that_is_only_readable_they_stay(self, cache: CacheRoot) -> None:
        path = cache.store.path_of(Digest.of(SHARED))
        path.chmod(0o644)
        path.write_bytes(b"?")
        found = upkeep.verify(CacheRoot(cache.path, is_writable=False))
        assert (list(found.damaged), found.removed) == ([Digest.of(SHARED)], False)
        assert path.exists()

    def test_a_model_that_is_not_there(self, cache: CacheRoot) -> None:
        with pytest.raises(ModelNotFound) as caught:
            upkeep.verify(cache, ModelUri.parse("hf://org/frist"))
        assert str(FIRST) in (caught.value.remedy or "")


class TestRemoving:
    def test_what_other_models_have_stays(self, cache: CacheRoot) -> None:
        workspace = cache.workspace_for(FIRST.with_revision("c0ffee"))
        assert workspace.is_dir()
        done = upkeep.remove(cache, FIRST)
        assert (done.models, done.blobs, done.workspaces) == ([str(FIRST)], 1, 1)
        assert sources(cache) == [SECOND]
        assert set(cache.store.digests()) == {Digest.of(SHARED), Digest.of(b"2" * 7000)}
        assert not workspace.exists()

    def test_a_model_that_is_served_stays(self, cache: CacheRoot) -> None:
        with announced(cache.uses_directory, FIRST), pytest.raises(UsageError, match=f"process {os.getpid()}"):
            upkeep.remove(cache, FIRST)
        assert set(sources(cache)) == {FIRST, SECOND}

    def test_an_unfinished_one_goes_with_its_partial_files(self, cache: CacheRoot) -> None:
        source = MemorySource(model=ModelUri.parse("hf://org/third"))
        source.add("model.safetensors", b"3" * 9000)
        source.fail("model.safetensors", Fault(times=ALWAYS, ends_at=2500))
        with pytest.raises(SizeMismatch):
            fetch(source, cache)
        done = upkeep.remove(cache, source.model)
        assert (done.partials, done.blobs) == (1, 0)
        assert not list(cache.path.glob("partial/*/*"))

    def test_one_that_is_not_there(self, cache: CacheRoot) -> None:
        with pytest.raises(ModelNotFound, match="the cache has nothing of"):
            upkeep.remove(cache, ModelUri.parse("hf://org/nothing"))

    def test_a_cache_that_is_only_readable_is_refused(self, cache: CacheRoot) -> None:
        for change in (lambda root: upkeep.remove(root, FIRST), upkeep.collect):
            with pytest.raises(NotWritable):
                change(CacheRoot(cache.path, is_writable=False))


class TestCollecting:
    def test_nothing_that_an_entry_names_goes(self, cache: CacheRoot) -> None:
        done = upkeep.collect(cache, now=later(cache, 300 * DAY))
        assert (done.models, done.blobs, done.workspaces, done.freed_bytes) == ([], 0, 0, 0)
        assert upkeep.verify(cache).blobs == 3
        assert cache.workspace_for(FIRST.with_revision("c0ffee")).is_dir()

    def test_what_nothing_names_goes_once_it_is_old(self, cache: CacheRoot) -> None:
        digest = orphan(cache)
        assert upkeep.collect(cache).blobs == 0
        then = later(cache, upkeep.NEW_BLOB_SECONDS + 1)
        assert upkeep.collect(cache, dry_run=True, now=then).blobs == 1
        assert digest in set(cache.store.digests())
        done = upkeep.collect(cache, now=then)
        assert (done.blobs, done.freed_bytes >= 6000) == (1, True)
        assert digest not in set(cache.store.digests())

    def test_a_refresh_leaves_the_old_blobs_to_servers_that_use_them(self, cache: CacheRoot) -> None:
        then = later(cache, DAY)
        old = Digest.of(b"1" * 5000)
        with announced(cache.uses_directory, FIRST) as use:
            use.extend(cache.workspace_for(FIRST.with_revision("c0ffee")), [old, Digest.of(SHARED)])
            source = MemorySource(model=FIRST, revision="newer")
            source.add("model.safetensors", b"new" * 1000)
            fetch(source, cache)
            assert upkeep.collect(cache, now=then).blobs == 0
            assert old in set(cache.store.digests())
            assert cache.workspace_for(FIRST.with_revision("c0ffee")).is_dir()
        done = upkeep.collect(cache, now=then)
        assert (done.blobs, done.workspaces) == (1, 1)
        assert old not in set(cache.store.digests())

    def test_models_not_used_for_long_are_forgotten_when_asked(self, cache: CacheRoot) -> None:
        then = later(cache, 40 * DAY)
        (path,) = (each for each in cache.index.directory.iterdir() if b"org/second" in each.read_bytes())
        os.utime(path, (then, then))
        plan = upkeep.collect(cache, unused_seconds=30 * DAY, dry_run=True, now=then)
        assert (plan.models, plan.blobs) == ([str(FIRST)], 1)
        assert set(sources(cache)) == {FIRST, SECOND}
        done = upkeep.collect(cache, unused_seconds=30 * DAY, now=then)
        assert (done.models, done.blobs, done.workspaces) == ([str(FIRST)], 1, 1)
        assert sources(cache) == [SECOND]

    def test_models_that_are_served_or_fetched_stay(self, cache: CacheRoot) -> None:
        told: list[Event] = []
        with announced(cache.uses_directory, FIRST), cache.lock_for(SECOND).acquire(0.0):
            done = upkeep.collect(cache, told.append, unused_seconds=DAY, now=later(cache, 40 * DAY))
        assert (done.models, done.blobs) == ([], 0)
        assert any(isinstance(each, Note) and f"{SECOND} stays" in each.text for each in told)
        assert set(sources(cache)) == {FIRST, SECOND}

    def test_unfinished_files_and_litter_go_after_days(self, cache: CacheRoot) -> None:
        source = MemorySource(model=ModelUri.parse("hf://org/third"))
        source.add("model.safetensors", b"3" * 9000)
        source.fail("model.safetensors", Fault(times=ALWAYS, ends_at=2500))
        with pytest.raises(SizeMismatch):
            fetch(source, cache)
        litter = [cache.path / "index/.tmp-1-2", cache.path / "tmp/left", cache.path / "workspaces/.tmp-9"]
        (cache.path / "tmp").mkdir(exist_ok=True)
        litter[0].write_bytes(b"")
        litter[1].write_bytes(b"")
        litter[2].mkdir()
        stranger = cache.path / "notes.txt"
        stranger.write_bytes(b"mine")
        assert upkeep.collect(cache).partials == 0
        assert all(path.exists() for path in litter)
        then = later(cache, 8 * DAY)
        with cache.lock_for(source.model).acquire(0.0):
            assert upkeep.collect(cache, now=then).partials == 0
        assert not any(path.exists() for path in litter)
        assert upkeep.collect(cache, now=then).partials == 1
        assert not list(cache.path.glob("partial/*"))
        assert stranger.read_bytes() == b"mine"
        assert set(sources(cache)) == {FIRST, SECOND, source.model}

    def test_a_transfer_that_counts_on_a_blob_which_a_clean_up_takes_fetches_it(self, cache: CacheRoot) -> None:
        """The clean-up has read the entries before the transfer names the blob, and deletes it after the survey."""
        data = b"orphan" * 1000
        digest = orphan(cache, data)
        source = MemorySource(model=ModelUri.parse("hf://org/third"))
        source.add("model.safetensors", data)
        plan = survey(source.manifest, source, cache)
        assert plan.is_satisfied
        told: list[str] = []
        thread = threading.Thread(
            target=transfer, args=(plan, source, cache), kwargs={"cancelled": threading.Event(), "report": _to(told)}
        )
        with cache.collection_lock().acquire(0.0):
            thread.start()
            while not told:
                thread.join(0.01)
            cache.store.remove(digest)
        thread.join()
        assert cache.store.verify(digest)
        assert source.sent_bytes == len(data)


def _to(told: list[str]) -> Report:
    def report(event: Event) -> None:
        if isinstance(event, Note) and "clean-up" in event.text:
            told.append(event.text)

    return report


def test_a_listing_of_a_model_that_was_never_fetched_goes_after_a_week_and_others_stay(cache: CacheRoot) -> None:
    other = ModelUri.parse("hf://org/only-looked-at")
    for model in (FIRST, other):
        save_listing(cache.index.listing_path(model), KeptListing(Manifest.of(model, "a1", [])))
    changed = cache.index.listing_path(other).stat().st_ctime
    upkeep.collect(cache, now=changed + 6 * 86400)
    assert cache.index.listing_path(other).exists()
    upkeep.collect(cache, now=changed + 8 * 86400)
    assert not cache.index.listing_path(other).exists()
    assert cache.index.listing_path(FIRST).exists()
