"""Out of one cache, into another: all bytes, each once, whatever the volumes, whatever was there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from lading.bundle.create import choose_models
from lading.bundle.intake import ImportOptions
from lading.cache.root import CacheRoot
from lading.digest import Digest
from lading.errors import ModelNotFound, NotEnoughDisk, NotWritable, SizeMismatch, UsageError
from lading.events import Event, Note
from lading.uri import ModelUri
from tests.bundle.caches import (
    CONTENT,
    ONE,
    SHARED,
    TWO,
    assert_sound,
    cache_at,
    content_of,
    create,
    fetch,
    filled,
    opened,
    take,
)
from tests.cache.places import as_nobody, shared_directory
from tests.faults.disks import small_disk

VOLUME = 200_000


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> CacheRoot:
    return filled(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def there(tmp_path: Path) -> CacheRoot:
    return cache_at(tmp_path / "there")


@pytest.mark.parametrize("volume_bytes", [None, VOLUME, 1 << 30], ids=str)
def test_models_that_share_blobs_arrive_and_each_blob_travels_once(
    volume_bytes: int | None, origin: CacheRoot, there: CacheRoot, tmp_path: Path
) -> None:
    made = create(origin, tmp_path / "b.tar", volume_bytes=volume_bytes)
    unique = {data for files in CONTENT.values() for data in files.values()}
    assert sum(made.plan.head.blobs.values()) == sum(map(len, unique))
    done = take(tmp_path / "b.tar", there)
    assert done.imported_bytes == sum(map(len, unique))
    for model, files in CONTENT.items():
        assert content_of(there, model) == files
    assert_sound(there)
    again = take(tmp_path / "b.tar", there)
    assert (again.imported_bytes, again.plan.is_satisfied) == (0, True)


def test_what_arrives_is_known_as_well_as_where_it_was_fetched(
    origin: CacheRoot, there: CacheRoot, tmp_path: Path
) -> None:
    create(origin, tmp_path / "b.tar", TWO)
    take(tmp_path / "b.tar", there)
    mine, theirs = origin.index.load(TWO), there.index.load(TWO)
    assert mine and theirs
    assert (mine.manifest, mine.promised, mine.skipped) == (theirs.manifest, theirs.promised, theirs.skipped)
    assert there.index.load(ONE) is None


def test_equal_content_is_equal_bytes_whatever_the_cache_and_the_volumes(origin: CacheRoot, tmp_path: Path) -> None:
    other = cache_at(tmp_path / "other")
    for model in (TWO, ONE):
        fetch(other, model, CONTENT[model])
    create(origin, tmp_path / "one.tar", ONE, TWO)
    create(other, tmp_path / "two.tar", TWO, ONE)
    create(origin, tmp_path / "three.tar", volume_bytes=VOLUME)
    data = (tmp_path / "one.tar").read_bytes()
    assert (tmp_path / "two.tar").read_bytes() == data
    volumes = sorted(tmp_path.glob("three.tar.[0-9]*"))
    assert [path.stat().st_size for path in volumes[:-1]] == [VOLUME] * (len(volumes) - 1)
    assert b"".join(path.read_bytes() for path in volumes) == data


def test_any_tar_unpacks_it_and_sha256sum_checks_it(origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar", volume_bytes=VOLUME)
    done = subprocess.run("sha256sum --check b.tar.sha256 && cat b.tar.[0-9]* > whole.tar", shell=True, cwd=tmp_path)
    assert done.returncode == 0
    listed = subprocess.run(["tar", "tf", "whole.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-C", "unpacked", "-xf", "whole.tar"], cwd=tmp_path, check=True)
    checked = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path / "unpacked")
    assert checked.returncode == 0
    with tarfile.open(tmp_path / "whole.tar") as archive:
        members = archive.getmembers()
        assert [each.name for each in members] == listed.stdout.split()
        assert {(each.mtime, each.uid, each.gid, each.mode, each.uname) for each in members} == {(0, 0, 0, 0o644, "")}
    assert members[0].name == "lading-bundle.json"


def test_what_is_there_is_not_read(origin: CacheRoot, there: CacheRoot, tmp_path: Path) -> None:
    """The bytes of a blob that the cache has are damaged in the bundle: nobody looks at them."""
    create(origin, tmp_path / "b.tar")
    _, layout = opened(tmp_path / "b.tar")
    shared = layout.blobs[Digest.of(SHARED)]
    with (tmp_path / "b.tar").open("r+b") as file:
        file.seek(shared.offset)
        file.write(b"???")
    fetch(there, ModelUri.parse("s3://bucket/other"), {"a": SHARED}, revision=None)
    done = take(tmp_path / "b.tar", there)
    assert done.imported_bytes == sum(done.plan.blobs.values()) - len(SHARED)
    assert content_of(there, ONE) == CONTENT[ONE]


@pytest.mark.parametrize("verify", [False, True])
def test_a_blob_that_went_bad_is_brought_again_where_it_shows_or_is_looked_for(
    verify: bool, origin: CacheRoot, there: CacheRoot, tmp_path: Path
) -> None:
    create(origin, tmp_path / "b.tar")
    take(tmp_path / "b.tar", there)
    path = there.store.path_of(Digest.of(SHARED))
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"?" * len(SHARED))
    if verify:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = take(tmp_path / "b.tar", there, options=ImportOptions(verify_cached=verify))
    assert done.imported_bytes == len(SHARED)
    assert content_of(there, ONE) == CONTENT[ONE]
    assert take(tmp_path / "b.tar", there).imported_bytes == 0


def test_volumes_may_lie_in_several_places(origin: CacheRoot, there: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar", volume_bytes=VOLUME)
    media = [tmp_path / "m1", tmp_path / "m2"]
    for number, path in enumerate(sorted(tmp_path.glob("b.tar.[0-9]*"))):
        media[number % 2].mkdir(exist_ok=True)
        path.rename(media[number % 2] / path.name)
    with pytest.raises(SizeMismatch, match=r"b\.tar\.002"):
        take(media[0] / "b.tar.001", there)
    take(media[0] / "b.tar.001", there, media[1])
    assert content_of(there, TWO) == CONTENT[TWO]


@pytest.mark.parametrize("number", [1, 2, -1])
def test_a_missing_volume_is_named_and_one_that_is_cut_off_too(
    number: int, origin: CacheRoot, there: CacheRoot, tmp_path: Path
) -> None:
    create(origin, tmp_path / "b.tar", volume_bytes=VOLUME)
    path = sorted(tmp_path.glob("b.tar.[0-9]*"))[number if number < 0 else number - 1]
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(SizeMismatch, match=path.name):
        take(tmp_path / "b.tar", there)
    path.write_bytes(data[:-100])
    with pytest.raises((SizeMismatch,), match="cut off|not complete"):
        take(tmp_path / "b.tar", there)
    path.write_bytes(data + b"\0")
    with pytest.raises((SizeMismatch,)):
        take(tmp_path / "b.tar", there)
    path.write_bytes(data)
    take(tmp_path / "b.tar", there)


def test_what_is_not_complete_is_not_packed(origin: CacheRoot, there: CacheRoot, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound) as unknown:
        create(origin, tmp_path / "b.tar", ModelUri.parse("hf://org/three"))
    assert unknown.value.remedy == "`download-to-cache --model-uri hf://org/three`"
    with pytest.raises(ModelNotFound, match="no complete model"):
        create(there, tmp_path / "b.tar")
    with pytest.raises(UsageError, match="is a directory"):
        create(origin, tmp_path / "b.tar", ModelUri.parse("/models/x"))
    create(origin, tmp_path / "b.tar", ONE)
    take(tmp_path / "b.tar", there)
    there.store.remove(Digest.of(SHARED))
    with pytest.raises(ModelNotFound, match=r"shared\.safetensors"):
        create(there, tmp_path / "c.tar", ONE)
    entry = there.index.load(ONE)
    assert entry
    there.index.remove(ONE)
    there.index.save(replace(entry, is_complete=False, marks={}))
    fetch(there, TWO, CONTENT[TWO])
    made = create(there, tmp_path / "d.tar")
    assert [model.source for model in made.plan.head.models] == [TWO]


def test_incomplete_models_are_named_when_all_are_packed(origin: CacheRoot, there: CacheRoot, tmp_path: Path) -> None:
    for model in CONTENT:
        entry = origin.index.load(model)
        assert entry
        there.index.save(entry if model == ONE else replace(entry, is_complete=False, marks={}))
    events: list[Event] = []
    assert [each.source for each in choose_models(there, (), events.append)] == [ONE]
    assert events == [Note(f"{TWO} is not complete in the cache and is left out", "WARNING")]


def test_other_revisions_give_way_only_when_asked(origin: CacheRoot, there: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar")
    old = {"config.json": b"{}", "model.safetensors": b"old" * 1000}
    fetch(there, ONE, old, revision="older")
    with pytest.raises(UsageError, match=r"complete at older, the bundle has it at c0ffee") as refused:
        take(tmp_path / "b.tar", there)
    assert "--replace" in (refused.value.remedy or "")
    assert there.index.load(TWO) is None
    assert content_of(there, ONE) == old
    take(tmp_path / "b.tar", there, options=ImportOptions(replace=True))
    assert content_of(there, ONE) == CONTENT[ONE]
    assert not there.partial_directory(ONE).exists()


def test_a_model_with_fewer_files_is_completed_and_one_with_more_is_kept(
    origin: CacheRoot, there: CacheRoot, tmp_path: Path
) -> None:
    few = {path: CONTENT[ONE][path] for path in ("config.json", "shared.safetensors")}
    fetch(there, ONE, few)
    more = {**CONTENT[TWO], "more.bin": b"more" * 1000}
    fetch(there, TWO, more)
    create(origin, tmp_path / "b.tar")
    take(tmp_path / "b.tar", there)
    assert content_of(there, ONE) == CONTENT[ONE]
    assert content_of(there, TWO) == more
    entry = there.index.load(TWO)
    assert entry
    there.index.save(entry)
    other = cache_at(there.path.parent / "third")
    fetch(other, TWO, {**CONTENT[TWO], "config.json": b'{"b": 2}'})
    with pytest.raises(UsageError, match="with other files"):
        take(tmp_path / "b.tar", other)


def test_a_cache_that_is_only_readable_gives_and_takes_what_it_has(origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar", ONE)
    with shared_directory() as place:
        (place / "out").mkdir(mode=0o777)
        (place / "out").chmod(0o777)
        filled(place / "cache")
        (place / "b.tar").write_bytes((tmp_path / "b.tar").read_bytes())
        cache_at(place / "bare")
        with as_nobody():
            full, bare = cache_at(place / "cache"), cache_at(place / "bare")
            assert not full.is_writable
            create(full, place / "out" / "b.tar", ONE)
            assert take(place / "b.tar", full).plan.is_satisfied
            with pytest.raises(NotWritable):
                take(place / "b.tar", bare)
            with pytest.raises(NotWritable, match="cannot write"):
                create(full, place / "c.tar", ONE)
        assert (place / "out" / "b.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_room_is_looked_at_before_a_byte_is_written(origin: CacheRoot, tmp_path: Path) -> None:
    create(origin, tmp_path / "b.tar")
    with small_disk(tmp_path / "disk", "2m") as disk:
        with pytest.raises(NotEnoughDisk, match=r"needs .* are free"):
            create(origin, disk / "b.tar")
        assert list(disk.iterdir()) == []
        small = cache_at(disk / "cache")
        with pytest.raises(NotEnoughDisk, match=r"needs .* are free") as refused:
            take(tmp_path / "b.tar", small)
        assert "NIM_CACHE_PATH" in (refused.value.remedy or "")
        assert list(small.store.digests()) == []


def test_files_of_others_are_left_alone(origin: CacheRoot, tmp_path: Path) -> None:
    for name, volume_bytes in (("b.tar", None), ("b.tar.001", VOLUME), ("b.tar", VOLUME), ("b.tar.sha256", VOLUME)):
        place = tmp_path / f"{name}-{volume_bytes}"
        place.mkdir()
        (place / name).write_bytes(b"mine")
        with pytest.raises(UsageError, match="exists and is not what would be written"):
            create(origin, place / "b.tar", volume_bytes=volume_bytes)
        assert [(each.name, each.read_bytes()) for each in place.iterdir()] == [(name, b"mine")]
    create(origin, tmp_path / "c.tar", volume_bytes=VOLUME)
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("c.tar*")}
    with pytest.raises(UsageError):
        create(origin, tmp_path / "c.tar", ONE, volume_bytes=VOLUME)
    with pytest.raises(UsageError):
        create(origin, tmp_path / "c.tar", volume_bytes=300_000)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("c.tar*")} == before


@pytest.mark.parametrize(
    ("name", "volume_bytes", "words"),
    [
        ("b.001", None, "named like a volume"),
        ("b.tar", 1000, "too small"),
        ("nowhere/b.tar", None, "is no directory"),
    ],
)
def test_what_cannot_be_written_is_a_usage_error(
    name: str, volume_bytes: int | None, words: str, origin: CacheRoot, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        create(origin, tmp_path / name, volume_bytes=volume_bytes)


def test_what_is_no_bundle_is_said_so(there: CacheRoot, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bundle at"):
        take(tmp_path / "b.tar", there)
    (tmp_path / "b.tar.001.partial").write_bytes(b"")
    with pytest.raises(UsageError) as unfinished:
        take(tmp_path / "b.tar", there)
    assert "not finished" in (unfinished.value.remedy or "")
    with pytest.raises(UsageError, match="is no file"):
        take(tmp_path, there)
