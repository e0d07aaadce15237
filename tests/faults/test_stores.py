"""``create-model-store`` killed, refused and filled up at any moment: no half of a store is seen, and the next run ends it."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disks import small_disk
from tests.faults.harness import CountingHub
from tests.faults.shim import Refusal, Shim, read_log
from tests.models import tiny_model
from tests.program import environment, run

FILES = tiny_model(shards=3, elements=700_000)
KILLED = -signal.SIGKILL
MACHINE = 6
COMMAND = ["create-model-store", "--use-cache", "-p", "vllm-bf16-tp1-pp1", "-m"]


@pytest.fixture
def environ(hub: CountingHub, tmp_path: Path) -> dict[str, str]:
    """A machine whose cache has the model."""
    hub.add_model("demo/tiny", FILES)
    found = environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH="/usr/bin:/bin", NIM_MODEL_PATH="hf://demo/tiny")
    assert run(["download-to-cache"], found).returncode == 0
    return found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Another disk than the cache's: files are copied to it."""
    with small_disk(tmp_path / "disk", "64m") as found:
        yield found


def content_of(store: Path) -> dict[str, bytes]:
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and ".lading-partial" not in str(path)
    }


@pytest.mark.parametrize("in_place", [False, True], ids=["beside", "in a volume"])
def test_killed_at_any_moment_there_is_no_store_or_all_of_it(
    in_place: bool, environ: dict[str, str], disk: Path, shim: Shim, tmp_path: Path
) -> None:
    store = disk if in_place else disk / "store"
    trial = disk if in_place else disk / "trial"
    log = tmp_path / "changes"
    assert run([*COMMAND, str(trial)], {**environ, **shim.variables(disk, log=log)}).returncode == 0
    changes = len(list(read_log(log)))
    assert changes > 30
    for kill_at in sorted({1, 2, changes // 3, changes // 2, changes - 12, changes - 6, changes - 3, changes - 1}):
        clear(store)
        done = run([*COMMAND, str(store)], {**environ, **shim.variables(disk, kill_at=kill_at)})
        assert done.returncode in (0, KILLED), done.stderr
        if (store / "config.json").exists():
            assert content_of(store) == FILES
        done = run([*COMMAND, str(store)], environ)
        assert done.returncode == 0, done.stderr
        assert content_of(store) == FILES
        assert [name for name in os.listdir(disk) if name.startswith(".")] == []


def clear(store: Path) -> None:
    for path in sorted(store.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("fallocate", errno.ENOSPC, skip=1),
        Refusal("write", errno.ENOSPC, skip=4),
        Refusal("write", errno.EIO, skip=4),
        Refusal("sync", errno.EIO, skip=2),
        Refusal("rename", errno.EIO, skip=3),
        Refusal("mkdir", errno.EACCES),
        Refusal("create", errno.EROFS, skip=2),
    ],
    ids=str,
)
def test_a_disk_that_refuses_is_one_clear_error_and_the_next_run_goes_on(
    refusal: Refusal, environ: dict[str, str], disk: Path, shim: Shim
) -> None:
    done = run([*COMMAND, str(disk / "store")], {**environ, **shim.variables(disk, refusal)})
    assert done.returncode == MACHINE, done.stderr
    assert "Traceback" not in done.stderr
    assert "Lading itself" not in done.stderr
    assert os.strerror(refusal.number) in done.stderr
    assert str(disk) in done.stderr
    assert "NIM_CACHE_PATH" not in done.stderr.partition("error: ")[2]
    assert not (disk / "store").exists()
    assert run([*COMMAND, str(disk / "store")], environ).returncode == 0
    assert content_of(disk / "store") == FILES


def test_a_disk_without_links_gets_copies(environ: dict[str, str], shim: Shim, tmp_path: Path) -> None:
    store = tmp_path / "store"
    refused = Refusal("link", errno.EPERM, f"*{store.name}*")
    partial = Refusal("link", errno.EPERM, "*.lading-partial*")
    done = run([*COMMAND, str(store)], {**environ, **shim.variables(tmp_path, refused, partial)})
    assert done.returncode == 0, done.stderr
    assert "a hard link is not possible" in done.stderr
    assert content_of(store) == FILES
    assert all(path.stat().st_nlink == 1 for path in store.iterdir())
