"""One file into another directory: shared blocks, a link or a copy, whole and hashed, or nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lading.digest import Digest
from lading.placing import WAY_REFUSED, Way, is_mount_point, mount_of, put, ways_between
from tests.faults.disks import mounted, small_disk

DATA = os.urandom(3_000_017)
RIGHT = Digest("sha256", hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "blobs" / "one"
    path.parent.mkdir()
    path.write_bytes(DATA)
    path.chmod(0o444)
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.mark.parametrize("way", [Way.HARD_LINK, Way.COPY])
def test_a_file_is_put_whole_hashed_and_with_its_time(way: Way, origin: Path, tmp_path: Path) -> None:
    place = tmp_path / "store" / "sub" / "one"
    told: list[int] = []
    assert put(origin, place, way, told.append, RIGHT) == RIGHT
    assert place.read_bytes() == DATA
    assert not place.is_symlink()
    assert place.stat().st_mtime_ns == 10**18
    assert place.samefile(origin) == (way is Way.HARD_LINK)
    assert sum(told) == len(DATA)
    assert len(told) > 2
    assert os.listdir(place.parent) == ["one"]


@pytest.mark.parametrize("way", [Way.HARD_LINK, Way.COPY])
def test_wrong_bytes_are_not_put(way: Way, origin: Path, tmp_path: Path) -> None:
    place = tmp_path / "store" / "one"
    assert put(origin, place, way, lambda _: None, Digest("sha256", "0" * 64)) is None
    assert os.listdir(place.parent) == []
    assert origin.read_bytes() == DATA


@pytest.mark.parametrize("way", [Way.HARD_LINK, Way.COPY])
def test_who_is_told_may_end_it_and_nothing_is_left(way: Way, origin: Path, tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        put(origin, tmp_path / "store" / "one", way, stop, RIGHT)
    assert os.listdir(tmp_path / "store") == []


def test_on_one_disk_links_are_expected_unless_the_original_may_be_written_to(origin: Path, tmp_path: Path) -> None:
    assert Way.HARD_LINK in ways_between(origin, tmp_path / "not" / "there" / "yet")
    assert Way.HARD_LINK not in ways_between(origin, tmp_path / "store", may_link=False)
    assert ways_between(origin, tmp_path)[-1] is Way.COPY


def test_on_another_disk_copies_are_expected_and_a_link_is_refused(origin: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        assert ways_between(origin, disk / "store") == (Way.COPY,)
        with pytest.raises(OSError) as caught:
            put(origin, disk / "store" / "one", Way.HARD_LINK, lambda _: None, RIGHT)
        assert caught.value.errno in WAY_REFUSED
        assert put(origin, disk / "store" / "one", Way.COPY, lambda _: None, RIGHT) == RIGHT


def test_two_mounts_of_one_disk_refuse_links_and_that_is_told_before(origin: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    with mounted(tmp_path / "volume", "--bind", tmp_path / "real"):
        assert is_mount_point(tmp_path / "volume")
        assert Way.HARD_LINK not in ways_between(origin, tmp_path / "volume" / "store")
        with pytest.raises(OSError) as caught:
            put(origin, tmp_path / "volume" / "one", Way.HARD_LINK, lambda _: None, RIGHT)
        assert caught.value.errno == errno.EXDEV


def test_a_disk_that_shares_blocks_is_used_so(origin: Path, tmp_path: Path) -> None:
    program = shutil.which("mkfs.xfs", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if program is None:
        pytest.skip("no mkfs.xfs")
    with (tmp_path / "image").open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([program, "-q", "-m", "reflink=1", tmp_path / "image"], check=True)
    with mounted(tmp_path / "disk", "-o", "loop", tmp_path / "image"):
        here = tmp_path / "disk" / "one"
        shutil.copyfile(origin, here)
        assert ways_between(here, tmp_path / "disk" / "store") == (Way.REFLINK, Way.HARD_LINK, Way.COPY)
        before = os.statvfs(tmp_path / "disk").f_bfree
        place = tmp_path / "disk" / "store" / "one"
        assert put(here, place, Way.REFLINK, lambda _: None, RIGHT) == RIGHT
        assert not place.samefile(here)
        assert (before - os.statvfs(tmp_path / "disk").f_bfree) * 4096 < len(DATA) // 2
        with place.open("r+b") as copy:
            copy.write(b"changed")
        assert here.read_bytes() == DATA


def test_a_disk_without_shared_blocks_refuses_them_in_a_way_that_is_understood(origin: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        shutil.copyfile(origin, disk / "one")
        with pytest.raises(OSError) as caught:
            put(disk / "one", disk / "two", Way.REFLINK, lambda _: None, RIGHT)
        assert caught.value.errno in WAY_REFUSED
        assert os.listdir(disk) == ["one"]


def test_names_with_spaces_are_found_among_the_mounts(tmp_path: Path) -> None:
    with small_disk(tmp_path / "a disk", "1m") as disk:
        assert mount_of(disk / "file").point == str(disk)
        assert mount_of(disk / "file").kind == "tmpfs"
    assert mount_of(tmp_path / "a disk").point != str(tmp_path / "a disk")
