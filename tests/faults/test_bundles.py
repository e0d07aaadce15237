"""``lading bundle`` killed at any moment and on disks that refuse: nothing half-written has a name, the next run ends it."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from lading.uri import ModelUri
from tests.bundle.caches import assert_sound, cache_at, content_of
from tests.faults.disks import small_disk
from tests.faults.harness import CountingHub
from tests.faults.shim import Refusal, Shim, read_log
from tests.models import tiny_model
from tests.program import environment, run

FILES = tiny_model(shards=3, elements=700_000)
MODEL = "hf://demo/tiny"
KILLED = -signal.SIGKILL
MACHINE = 6
VOLUMES = ["--volume-size", "1500000"]


@pytest.fixture
def environ(hub: CountingHub, tmp_path: Path) -> dict[str, str]:
    """A machine whose cache has the model."""
    hub.add_model("demo/tiny", FILES)
    found = environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH="/usr/bin:/bin", NIM_MODEL_PATH=MODEL)
    assert run(["download-to-cache"], found).returncode == 0
    return found


@pytest.fixture
def target(tmp_path: Path) -> Path:
    place = tmp_path / "target"
    place.mkdir()
    return place


def moments(changes: int) -> list[int]:
    early_and_late = {1, 2, 3, changes - 8, changes - 5, changes - 3, changes - 2, changes - 1, changes}
    spread = {changes * share // 7 for share in range(1, 7)}
    return sorted(each for each in early_and_late | spread if each > 0)


@pytest.mark.parametrize("flags", [[], VOLUMES], ids=["one file", "volumes"])
def test_create_killed_at_any_moment_is_continued(
    flags: list[str], environ: dict[str, str], target: Path, shim: Shim, tmp_path: Path
) -> None:
    log = tmp_path / "changes"
    command = ["bundle", "create", str(target / "b.tar"), *flags]
    assert run(command, {**environ, **shim.variables(target, log=log)}).returncode == 0
    right = {each.name: each.read_bytes() for each in target.iterdir()}
    for kill_at in moments(len(list(read_log(log)))):
        for each in target.iterdir():
            each.unlink()
        done = run(command, {**environ, **shim.variables(target, kill_at=kill_at)})
        assert done.returncode in (0, KILLED), done.stderr
        first = target / ("b.tar.001" if flags else "b.tar")
        if first.exists():
            assert {name: data for name, data in right.items() if (target / name).exists()} == right
        done = run(command, environ)
        assert done.returncode == 0, done.stderr
        assert {each.name: each.read_bytes() for each in target.iterdir() if each.name[0] != "."} == right


def test_import_killed_at_any_moment_is_continued(
    environ: dict[str, str], target: Path, shim: Shim, tmp_path: Path
) -> None:
    assert run(["bundle", "create", str(target / "b.tar"), *VOLUMES], environ).returncode == 0
    command = ["bundle", "import", str(target / "b.tar.001")]
    whole, log = tmp_path / "whole", tmp_path / "changes"
    there = environment(tmp_path, NIM_CACHE_PATH=str(whole))
    assert run(command, {**there, **shim.variables(whole, log=log)}).returncode == 0
    changes = len(list(read_log(log)))
    assert changes > 40
    for kill_at in moments(changes):
        place = tmp_path / f"cache-{kill_at}"
        there = environment(tmp_path, NIM_CACHE_PATH=str(place))
        done = run(command, {**there, **shim.variables(place, kill_at=kill_at)})
        assert done.returncode in (0, KILLED), done.stderr
        cache = cache_at(place)
        assert_sound(cache)
        assert content_of(cache, ModelUri.parse(MODEL)) in (None, FILES)
        done = run(command, there)
        assert done.returncode == 0, done.stderr
        assert content_of(cache, ModelUri.parse(MODEL)) == FILES


def test_a_blob_has_its_name_only_after_its_bytes_are_on_the_device(
    environ: dict[str, str], target: Path, shim: Shim, tmp_path: Path
) -> None:
    assert run(["bundle", "create", str(target / "b.tar")], environ).returncode == 0
    place, log = tmp_path / "there", tmp_path / "changes"
    there = environment(tmp_path, NIM_CACHE_PATH=str(place))
    done = run(["bundle", "import", str(target / "b.tar")], {**there, **shim.variables(place, log=log)})
    assert done.returncode == 0
    unsynced: set[str] = set()
    named = 0
    for call, path, *more in read_log(log):
        match call:
            case "create" | "write" | "fallocate" | "truncate":
                unsynced.add(path)
            case "sync":
                unsynced.discard(path)
            case "rename" | "link":
                assert path not in unsynced
                named += "/blobs/" in more[0]
    assert named == len(FILES)


REFUSALS = [
    Refusal("write", errno.ENOSPC, "*/target/*", skip=3),
    Refusal("write", errno.EFBIG, "*/target/*", skip=2),
    Refusal("write", errno.EIO, "*/target/*", skip=2),
    Refusal("sync", errno.EIO, "*/target/*.partial"),
    Refusal("rename", errno.EIO, "*/target/*"),
    Refusal("create", errno.EROFS, "*/target/*.partial"),
]


@pytest.mark.parametrize("flags", [[], VOLUMES], ids=["one file", "volumes"])
@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_target_that_refuses_is_one_clear_error_and_the_next_run_goes_on(
    refusal: Refusal, flags: list[str], environ: dict[str, str], target: Path, shim: Shim, tmp_path: Path
) -> None:
    command = ["bundle", "create", str(target / "b.tar"), *flags]
    done = run(command, {**environ, **shim.variables(target, refusal)})
    assert_one_clear_error(done.returncode, done.stderr, refusal, target)
    assert "NIM_CACHE_PATH" not in done.stderr.partition("error: ")[2]
    assert run(command, environ).returncode == 0
    there = environment(tmp_path, NIM_CACHE_PATH=str(tmp_path / "there"))
    assert run(["bundle", "import", str(target / "b.tar")], there).returncode == 0
    assert content_of(cache_at(tmp_path / "there"), ModelUri.parse(MODEL)) == FILES


def assert_one_clear_error(code: int, said: str, refusal: Refusal, place: Path) -> None:
    assert code == MACHINE, said
    assert "Traceback" not in said
    assert "Lading itself" not in said
    assert said.count("error: ") == 1
    assert os.strerror(refusal.number) in said
    assert str(place) in said


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("fallocate", errno.ENOSPC, "*/there/tmp/*", skip=1),
        Refusal("write", errno.ENOSPC, "*/there/tmp/*", skip=2),
        Refusal("write", errno.EIO, "*/there/tmp/*", skip=2),
        Refusal("sync", errno.EIO, "*/there/tmp/*", skip=1),
        Refusal("name", errno.EIO, "*/blobs/*", skip=1),
        Refusal("mkdir", errno.ENOSPC, "*/blobs/*", skip=2),
        Refusal("write", errno.ENOSPC, "*/index/*"),
        Refusal("write", errno.ENOSPC, "*/index/*", skip=1),
        Refusal("chmod", errno.EIO, "*/there/tmp/*"),
    ],
    ids=str,
)
def test_a_cache_that_refuses_is_one_clear_error_and_the_next_run_goes_on(
    refusal: Refusal, environ: dict[str, str], target: Path, shim: Shim, tmp_path: Path
) -> None:
    assert run(["bundle", "create", str(target / "b.tar")], environ).returncode == 0
    place = tmp_path / "there"
    there = environment(tmp_path, NIM_CACHE_PATH=str(place))
    done = run(["bundle", "import", str(target / "b.tar")], {**there, **shim.variables(place, refusal)})
    assert_one_clear_error(done.returncode, done.stderr, refusal, place)
    cache = cache_at(place)
    assert_sound(cache)
    assert content_of(cache, ModelUri.parse(MODEL)) is None
    assert list(place.glob("tmp/*")) == []
    assert run(["bundle", "import", str(target / "b.tar")], there).returncode == 0
    assert content_of(cache, ModelUri.parse(MODEL)) == FILES


def test_a_volume_that_cannot_be_read_is_named(
    environ: dict[str, str], target: Path, shim: Shim, tmp_path: Path
) -> None:
    assert run(["bundle", "create", str(target / "b.tar"), *VOLUMES], environ).returncode == 0
    refusal = Refusal("read", errno.EIO, "*/target/b.tar.002")
    there = environment(tmp_path, NIM_CACHE_PATH=str(tmp_path / "there"))
    done = run(["bundle", "import", str(target / "b.tar")], {**there, **shim.variables(target, refusal)})
    assert_one_clear_error(done.returncode, done.stderr, refusal, target / "b.tar.002")


def test_a_full_disk_is_told_with_numbers_before_a_byte_is_written(environ: dict[str, str], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "40m") as disk:
        (disk / "filler").write_bytes(bytes(39 << 20))
        done = run(["bundle", "create", str(disk / "b.tar")], environ)
        assert done.returncode == MACHINE
        assert "are free" in done.stderr
        assert [each.name for each in disk.iterdir()] == ["filler"]
        (disk / "filler").unlink()
        assert run(["bundle", "create", str(disk / "b.tar")], environ).returncode == 0
