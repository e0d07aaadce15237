"""Model stores on real disks: whole or absent, continued, verified, never over the files of others."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from lading.digest import Digest
from lading.errors import CacheBusy, DigestMismatch, MachineError, NotEnoughDisk, NotWritable, Stopped, UsageError
from lading.events import Event, FilesChecked, Note
from lading.model_store import Stored, create_store, survey_site
from lading.placing import Way
from lading.store_plan import Step, StoreFile, StorePlan, plan_store
from tests.faults.disks import mounted, remount, small_disk

CONTENT: Mapping[str, bytes] = {
    "config.json": b"{}",
    "model-1.safetensors": os.urandom(2_500_000),
    "model-2.safetensors": os.urandom(700_000),
    "sub/tokenizer.json": b"[]",
    "empty.txt": b"",
}


class Originals:
    """Blobs as a cache has them."""

    def __init__(self, directory: Path, content: Mapping[str, bytes] = CONTENT) -> None:
        self.directory = directory
        self.files = []
        self.places = {}
        directory.mkdir(parents=True, exist_ok=True)
        for path, data in content.items():
            digest = Digest("sha256", hashlib.sha256(data).hexdigest())
            self.places[path] = directory / digest.hex
            self.places[path].write_bytes(data)
            self.files.append(StoreFile(path, len(data), digest))

    def plan(self, store: Path, *, may_link: bool = True) -> StorePlan:
        return plan_store(self.files, survey_site(store, self.directory, may_link=may_link))

    def create(self, store: Path, events: list[Event] | None = None, *, may_link: bool = True) -> Stored:
        report = events.append if events is not None else (lambda _: None)
        return create_store(self.plan(store, may_link=may_link), self.places, report)


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    return Originals(tmp_path / "blobs")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "48m") as found:
        yield found


def content_of(store: Path) -> dict[str, bytes]:
    """What is there, by path; a link or anything else that is no regular file is a failure."""
    found = {}
    for root, folders, names in os.walk(store):
        for name in (*folders, *names):
            assert not Path(root, name).is_symlink()
        for name in names:
            place = Path(root, name)
            assert place.is_file()
            found[place.relative_to(store).as_posix()] = place.read_bytes()
    return found


def test_a_store_is_real_files_that_share_the_bytes_of_the_cache(originals: Originals, tmp_path: Path) -> None:
    events: list[Event] = []
    done = originals.create(tmp_path / "a" / "store", events)
    assert content_of(tmp_path / "a" / "store") == CONTENT
    assert all((tmp_path / "a" / "store" / path).samefile(place) for path, place in originals.places.items())
    assert done.copied_bytes == 0
    assert done.digests == {file.path: file.digest for file in originals.files}
    assert os.listdir(tmp_path / "a") == ["store"]
    assert [each for each in events if isinstance(each, FilesChecked)][-1] == FilesChecked(3_200_004, 3_200_004)


def test_on_another_disk_it_is_copies_and_a_second_time_nothing_is_moved(originals: Originals, disk: Path) -> None:
    done = originals.create(disk / "store")
    assert content_of(disk / "store") == CONTENT
    assert done.placed_bytes == {Way.COPY: 3_200_004}
    before = [path.stat().st_mtime_ns for path in sorted(disk.rglob("*"))]
    again = originals.create(disk / "store")
    assert (again.placed_bytes, again.kept_bytes) == ({}, 3_200_004)
    assert again.digests == done.digests
    assert [path.stat().st_mtime_ns for path in sorted(disk.rglob("*"))] == before


def test_packed_unpacked_and_copied_without_links_it_is_the_same(originals: Originals, tmp_path: Path) -> None:
    originals.create(tmp_path / "store")
    with tarfile.open(tmp_path / "store.tar", "w") as archive:
        archive.add(tmp_path / "store", "store")
    with tarfile.open(tmp_path / "store.tar") as archive:
        assert not [each.name for each in archive if each.issym()]
        archive.extractall(tmp_path / "carried", filter="data")
    assert content_of(tmp_path / "carried" / "store") == CONTENT
    assert originals.plan(tmp_path / "carried" / "store").is_satisfied


@pytest.mark.parametrize("kind", ["empty directory", "mounted volume", "volume with lost+found", "parent read-only"])
def test_the_directory_may_be_there_when_it_is_empty(kind: str, originals: Originals, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "48m") as volume:
        store = volume if kind != "empty directory" else tmp_path / "store"
        store.mkdir(exist_ok=True)
        if kind == "volume with lost+found":
            (store / "lost+found").mkdir()
        if kind == "parent read-only":
            store = volume / "store"
            store.mkdir()
            with mounted(store, "-t", "tmpfs", "-o", "size=40m", "tmpfs"):
                remount(volume, "ro")
                originals.create(store)
                assert content_of(store) == CONTENT
                remount(volume, "rw")
            return
        store.chmod(0o750)
        originals.create(store)
        assert content_of(store) == CONTENT
        assert store.stat().st_mode & 0o777 == 0o750
        assert [name for name in os.listdir(store) if name.startswith(".")] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda store: (store / "notes.txt").write_text("mine"),
        lambda store: (store / "config.json").write_text("{ }"),
        lambda store: (store / "config.json").symlink_to("/etc/hostname"),
        lambda store: (store / "sub").symlink_to("/etc"),
        lambda store: (store / "deep" / "er").mkdir(parents=True) or (store / "deep" / "er" / "x").touch(),
    ],
    ids=["another file", "the same name", "a link", "a link to a folder", "deep"],
)
def test_the_files_of_others_are_refused_and_left_alone(spoil, originals: Originals, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    spoil(store)
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in store.rglob("*"))
    with pytest.raises(UsageError, match="is not empty"):
        originals.create(store)
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in store.rglob("*")) == before
    assert sorted(os.listdir(tmp_path)) == ["blobs", "store"]


def test_what_is_no_directory_is_refused(originals: Originals, tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(UsageError, match="is not a directory"):
        originals.create(tmp_path / "store")


class StopError(Exception):
    pass


@pytest.mark.parametrize("steps", range(0, 12, 2))
@pytest.mark.parametrize("in_place", [False, True], ids=["beside", "in place"])
def test_ended_at_any_moment_no_store_is_seen_and_the_next_run_goes_on(
    steps: int, in_place: bool, originals: Originals, disk: Path
) -> None:
    store = disk if in_place else disk / "store"
    left = [steps]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StopError

    with suppress(StopError):
        create_store(originals.plan(store), originals.places, check=check)
    whole = (store / "config.json").exists()
    assert whole == (left[0] >= 0)
    plan = originals.plan(store)
    staged = plan.bytes_of(Step.CONTINUE)
    done = create_store(plan, originals.places)
    assert content_of(store) == CONTENT
    assert done.copied_bytes + done.kept_bytes + staged == 3_200_004
    assert [name for name in os.listdir(disk) if name.startswith(".")] == []


def test_what_was_staged_wrong_is_made_anew(originals: Originals, disk: Path) -> None:
    staging = originals.plan(disk / "store").site.staging
    (staging / "sub").mkdir(parents=True)
    (staging / "config.json").write_bytes(b"[]")
    (staging / "stray.bin").write_bytes(b"of another model")
    (staging / "sub" / ".tmp-1-ab").write_bytes(b"half")
    originals.create(disk / "store")
    assert content_of(disk / "store") == CONTENT


def test_files_half_moved_into_a_volume_are_continued(originals: Originals, disk: Path) -> None:
    """As a run leaves them that ends between two of the last renames."""
    originals.create(disk)
    (disk / "config.json").rename(disk / "config")
    (disk / ".lading-partial").mkdir()
    (disk / "config").rename(disk / ".lading-partial" / "config.json")
    done = originals.create(disk)
    assert content_of(disk) == CONTENT
    assert done.copied_bytes == 0


def test_damage_in_the_store_is_found_and_named_and_not_repaired_in_silence(originals: Originals, disk: Path) -> None:
    originals.create(disk / "store")
    place = disk / "store" / "model-1.safetensors"
    place.write_bytes(b"x" + place.read_bytes()[1:])
    with pytest.raises(DigestMismatch, match=r"model-1\.safetensors has other bytes") as caught:
        originals.create(disk / "store")
    assert f"delete {place}" in str(caught.value.remedy)
    place.unlink()
    assert originals.create(disk / "store").copied_bytes == 2_500_000
    assert content_of(disk / "store") == CONTENT


@pytest.mark.parametrize("other_disk", [False, True])
def test_damage_in_the_cache_does_not_reach_a_store(other_disk: bool, originals: Originals, disk: Path) -> None:
    store = (disk if other_disk else originals.directory.parent) / "store"
    place = originals.places["model-1.safetensors"]
    place.write_bytes(place.read_bytes()[:-1] + b"x")
    with pytest.raises(DigestMismatch, match="no longer those that were fetched") as caught:
        originals.create(store)
    assert "lading cache verify" in str(caught.value.remedy)
    assert not store.exists()


def test_files_that_somebody_may_write_to_are_not_linked(tmp_path: Path, originals: Originals) -> None:
    done = originals.create(tmp_path / "store", may_link=False)
    assert Way.HARD_LINK not in done.placed_bytes
    (tmp_path / "store" / "config.json").write_bytes(b"changed")
    assert originals.places["config.json"].read_bytes() == b"{}"


def test_without_known_digests_the_originals_are_compared(tmp_path: Path, disk: Path, originals: Originals) -> None:
    originals.files = [StoreFile(file.path, file.size_bytes) for file in originals.files]
    originals.create(disk / "store")
    assert originals.create(disk / "store").copied_bytes == 0
    (disk / "store" / "config.json").write_bytes(b"[]")
    with pytest.raises(DigestMismatch):
        originals.create(disk / "store")


def test_too_little_room_is_said_with_the_numbers_before_anything_is_written(tmp_path: Path) -> None:
    big = Originals(tmp_path / "big", {"model.safetensors": bytes(20 << 20)})
    with small_disk(tmp_path / "disk", "40m") as disk:
        with pytest.raises(NotEnoughDisk, match=r"need 52.0 MiB, and 40.0 MiB are free"):
            big.create(disk / "store")
        assert os.listdir(disk) == []


def test_room_that_goes_meanwhile_is_one_clear_error_and_the_next_run_goes_on(tmp_path: Path) -> None:
    content = {f"{number}.bin": os.urandom(3 << 20) for number in range(4)}
    big = Originals(tmp_path / "big", content)
    with small_disk(tmp_path / "disk", "50m") as disk:
        plan = big.plan(disk / "store")
        (disk / "filler").write_bytes(bytes(42 << 20))
        with pytest.raises(NotEnoughDisk, match="No space left on device") as caught:
            create_store(plan, big.places)
        assert "the same command goes on" in str(caught.value.remedy)
        assert "NIM_CACHE_PATH" not in str(caught.value.remedy)
        assert not (disk / "store").exists()
        (disk / "filler").unlink()
        big.create(disk / "store")
        assert content_of(disk / "store") == content


def test_a_place_that_cannot_be_written_is_said_and_a_complete_store_there_is_fine(
    originals: Originals, disk: Path
) -> None:
    originals.create(disk / "store")
    remount(disk, "ro")
    assert originals.create(disk / "store").kept_bytes == 3_200_004
    with pytest.raises(NotWritable) as caught:
        originals.create(disk / "other")
    assert "NIM_CACHE_PATH" not in str(caught.value.remedy)
    remount(disk, "rw")


def test_links_that_are_refused_become_copies_where_there_is_room(originals: Originals, tmp_path: Path) -> None:
    """The plan expects links; a mount that comes between refuses them."""
    plan = originals.plan(tmp_path / "volume" / "store")
    assert plan.way is Way.HARD_LINK
    events: list[Event] = []
    with small_disk(tmp_path / "volume", "48m"):
        done = create_store(plan, originals.places, events.append)
        assert done.copied_bytes == 3_200_004
        assert content_of(tmp_path / "volume" / "store") == CONTENT
    told = [event.text for event in events if isinstance(event, Note)]
    assert told == [f"a hard link is not possible in {tmp_path}/volume/store: making each a copy"]


def test_two_at_once_are_told_apart(originals: Originals, disk: Path) -> None:
    plan = originals.plan(disk / "store")
    plan.site.staging.mkdir()
    descriptor = os.open(plan.site.staging, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(CacheBusy):
            create_store(plan, originals.places)
    finally:
        os.close(descriptor)
    create_store(plan, originals.places)
    assert content_of(disk / "store") == CONTENT


def test_a_missing_original_is_an_error_that_names_it_and_leaves_no_store(originals: Originals, disk: Path) -> None:
    originals.places["config.json"].unlink()
    with pytest.raises(MachineError, match=r"config\.json"):
        originals.create(disk / "store")
    assert not (disk / "store").exists()


def test_a_signal_is_passed_on_as_it_is(originals: Originals, disk: Path) -> None:
    def check() -> None:
        raise Stopped(15)

    with pytest.raises(Stopped):
        create_store(originals.plan(disk / "store"), originals.places, check=check)


def test_the_result_can_be_checked_with_plain_tools(originals: Originals, disk: Path) -> None:
    done = originals.create(disk / "store")
    lines = "".join(f"{digest.hex}  {path}\n" for path, digest in done.digests.items())
    subprocess.run(["sha256sum", "-c", "--quiet"], input=lines, text=True, cwd=disk / "store", check=True)
