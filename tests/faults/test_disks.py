"""Disks that are full, that fail, or that turn read-only: one clear error, a valid cache, and nothing is fetched twice."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.disks import failing_disk, remount, small_disk
from tests.faults.harness import FILES, MODEL, TOTAL_BYTES, Child, Children, CountingHub, eventually
from tests.faults.rules import assert_complete, assert_valid, kept_bytes
from tests.faults.shim import Refusal, Shim
from tests.models import tiny_model
from tests.program import environment, run, running
from tests.simulators.faults import Throttle
from tests.simulators.vllm_program import install

MACHINE = 6
LARGE = "*/partial/*.part"
JOURNAL = "*/partial/*.json"


def assert_one_clear_error(child: Child, *words: str) -> None:
    """It ended with the code of the machine's errors, and the last thing that it said was one sentence with these words."""
    assert child.end() == MACHINE, child.said
    assert "Traceback" not in child.said
    assert child.said.count("error: ") == 1
    last = child.said.splitlines()[-1]
    assert last.startswith("error: ")
    assert [word for word in words if word not in last] == [], last


def assert_goes_on(children: Children, hub: CountingHub, cache: Path) -> None:
    """The cache is valid, and a run on a healthy disk completes it and fetches only what is not kept."""
    assert_valid(cache, FILES)
    kept, before = kept_bytes(cache, FILES), hub.settled_bytes()
    children.start(hub, cache).assert_right()
    assert hub.settled_bytes() - before == TOTAL_BYTES - kept
    assert_complete(cache, MODEL, FILES)


REFUSALS = {
    "room for a file": Refusal("fallocate", errno.ENOSPC, LARGE, skip=1),
    "quota for a file": Refusal("fallocate", errno.EDQUOT, LARGE, skip=1),
    "no room half-way": Refusal("write", errno.ENOSPC, LARGE, skip=8),
    "no quota half-way": Refusal("write", errno.EDQUOT, LARGE, skip=8),
    "a bad sector half-way": Refusal("write", errno.EIO, LARGE, skip=8),
    "room for the entry": Refusal("write", errno.ENOSPC, "*/index/*", skip=1),
    "room for the first entry": Refusal("write", errno.ENOSPC, "*/index/*"),
    "the entry's sync": Refusal("sync", errno.EIO, "*/index/*"),
    "the entry's name": Refusal("rename", errno.EIO, "*/index/*"),
    "room for the layout": Refusal("write", errno.ENOSPC, "*/cache/.tmp-*"),
    "a blob's sync": Refusal("sync", errno.EIO, "*/partial/*/.tmp-*"),
    "a blob's name": Refusal("name", errno.EIO, "*/blobs/*", skip=1),
    "a blob's directory": Refusal("mkdir", errno.EDQUOT, "*/blobs/*", skip=2),
    "the sync of a blob's directory": Refusal("sync", errno.EIO, "*/blobs/sha256/??"),
    "a new file": Refusal("create", errno.ENOSPC, LARGE, skip=1),
    "a new directory": Refusal("mkdir", errno.ENOSPC, "*/partial*"),
    "the seal": Refusal("chmod", errno.EIO, "*/partial/*/.tmp-*"),
    "the lock": Refusal("flock", errno.EIO, "*/locks/*"),
    "the lock's file": Refusal("create", errno.ENOSPC, "*/locks/*"),
    "the end of the old journal": Refusal("unlink", errno.EIO, JOURNAL),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_disk_that_refuses_is_one_clear_error_and_the_next_run_goes_on(
    refusal: Refusal, cache: Path, hub: CountingHub, children: Children, shim: Shim
) -> None:
    child = children.start(hub, cache, shim.variables(cache, refusal))
    assert_one_clear_error(child, str(cache), os.strerror(refusal.number))
    if refusal.number in (errno.ENOSPC, errno.EDQUOT):
        assert "NotEnoughDisk" in child.said
    assert_goes_on(children, hub, cache)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_journal_that_cannot_be_written_costs_nothing_but_itself(
    number: int, cache: Path, hub: CountingHub, children: Children, shim: Shim
) -> None:
    child = children.start(hub, cache, shim.variables(cache, Refusal("write", number, "*/partial/*/.tmp-*")))
    child.assert_right()
    assert_complete(cache, MODEL, FILES)


def has_something_to_continue(cache: Path) -> bool:
    """Whether a journal speaks of bytes of a file that is no blob yet."""
    journals = [json.loads(path.read_text()) for path in cache.glob("partial/*/*.part.json")]
    blobs = {path.name for path in cache.glob("blobs/sha256/*/*")}
    return any(each["done"] and str(each["digest"]).partition(":")[2] not in blobs for each in journals)


def test_what_is_on_the_disk_and_cannot_be_read_is_an_error_and_not_wrong_bytes(
    hub: CountingHub, children: Children, shim: Shim, tmp_path: Path
) -> None:
    """A run goes on from what an earlier one left, and the disk has lost it."""
    hub.fault(None, Throttle(6_000_000), times=None, on="cdn")  # so that journals are written on the way
    for kill_at in range(20, 200, 4):
        cache = tmp_path / f"cache-{kill_at}"
        children.start(hub, cache, shim.variables(cache, kill_at=kill_at)).end()
        if has_something_to_continue(cache):
            break
    assert has_something_to_continue(cache)
    child = children.start(hub, cache, shim.variables(cache, Refusal("read", errno.EIO, LARGE)))
    assert_one_clear_error(child, str(cache), os.strerror(errno.EIO))
    assert_goes_on(children, hub, cache)


def test_a_blob_that_cannot_be_read_is_an_error_and_is_kept(
    cache: Path, hub: CountingHub, children: Children, shim: Shim, tmp_path: Path
) -> None:
    """A bad sector is not a wrong byte: what one machine cannot read another may."""
    children.start(hub, cache).assert_right()
    environ = environment(tmp_path, **shim.variables(cache, Refusal("read", errno.EIO, "*/blobs/*")))
    done = run(["cache", "verify"], environ)
    assert done.returncode == MACHINE, done.stderr
    assert "Traceback" not in done.stderr
    assert os.strerror(errno.EIO) in done.stderr
    assert_complete(cache, MODEL, FILES)


def test_another_writer_fills_the_disk_half_way(hub: CountingHub, children: Children, tmp_path: Path) -> None:
    """A real small filesystem. The room of files is reserved before their bytes come, so the next file meets the end."""
    with small_disk(tmp_path / "disk", "40m") as disk:
        cache = disk / "cache"
        hub.on_sent = lambda sent: hub.gate.clear() if sent >= 100_000 else None
        child = children.start(hub, cache, options={"part_bytes": 64 << 10, "connections": 1, "journal_seconds": 0.01})
        eventually(lambda: not hub.gate.is_set())
        fill(disk / "filler")
        hub.on_sent = lambda _: None
        hub.gate.set()
        assert_one_clear_error(child, str(cache), "NotEnoughDisk")
        assert_valid(cache, FILES)
        (disk / "filler").unlink()
        assert_goes_on(children, hub, cache)


def fill(path: Path) -> None:
    """Take all room that is left."""
    with path.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()


def test_a_full_disk_serves_what_it_has(hub: CountingHub, tmp_path: Path) -> None:
    """Nothing needs room once the model is here: neither a lock, nor a use, nor the time of the last use."""
    with small_disk(tmp_path / "disk", "40m") as disk:
        environ = environ_of(hub, tmp_path, disk / "cache")
        hub.add_model("demo/tiny", tiny_model())
        for number in (1, 2):
            with running([MODEL], environ, tmp_path / f"{number}.log") as program:
                program.wait_until_ready()
                assert program.stop() == 0
            fill(disk / "filler")


def environ_of(hub: CountingHub, directory: Path, cache: Path, **variables: str) -> dict[str, str]:
    """The environment of the whole program, with the stand-in engine."""
    (directory / "home").mkdir(exist_ok=True)
    engine = install(directory / "engine")
    path = f"{engine}:{os.environ['PATH']}"
    return environment(directory, HF_ENDPOINT=hub.endpoint, PATH=path, NIM_CACHE_PATH=str(cache), **variables)


@pytest.fixture
def read_only_later(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A disk, and a file to write to that makes the kernel turn it read-only, as after an error of the device."""
    with failing_disk(tmp_path / "disk", tmp_path / "image") as trigger:
        yield tmp_path / "disk", trigger


def test_a_disk_that_the_kernel_turns_read_only_half_way(
    read_only_later: tuple[Path, Path], hub: CountingHub, children: Children
) -> None:
    disk, trigger = read_only_later
    cache = disk / "cache"
    hub.on_sent = lambda sent: hub.gate.clear() if sent >= TOTAL_BYTES // 2 else None
    child = children.start(hub, cache)
    eventually(lambda: not hub.gate.is_set() and kept_bytes(cache, FILES) > 0)
    with suppress(OSError):
        trigger.write_text("1")
    hub.on_sent = lambda _: None
    hub.gate.set()
    assert_one_clear_error(child, str(cache))
    assert any(os.strerror(number) in child.said for number in (errno.EROFS, errno.EIO))
    assert_valid(cache, FILES)
    asked = len(hub.requests)
    again = children.start(hub, cache)
    assert_one_clear_error(again, str(cache), "NotWritable")
    assert not [each for each in hub.requests[asked:] if each.host == "cdn"]


@pytest.mark.parametrize("changes", [0, 5, 20, 50, 80, 110])
def test_a_disk_that_turns_read_only_at_any_moment(
    changes: int, cache: Path, hub: CountingHub, children: Children, shim: Shim
) -> None:
    cache.mkdir()
    child = children.start(hub, cache, shim.variables(cache, Refusal("change", errno.EROFS, skip=changes)))
    assert_one_clear_error(child, str(cache), "NotWritable", os.strerror(errno.EROFS))
    assert_goes_on(children, hub, cache)


def test_a_model_is_served_from_a_disk_that_was_remounted_read_only(hub: CountingHub, tmp_path: Path) -> None:
    hub.add_model("demo/tiny", tiny_model())
    with small_disk(tmp_path / "disk", "60m") as disk:
        environ = environ_of(hub, tmp_path, disk / "cache")
        with running([MODEL], environ, tmp_path / "1.log") as program:
            program.wait_until_ready()
            assert program.stop() == 0
        remount(disk, "ro")
        asked = len(hub.requests)
        with running([MODEL], environ, tmp_path / "2.log") as program:
            program.wait_until_ready()
            assert program.get("/v1/models").json()["data"][0]["id"] == "demo/tiny"
            assert program.stop() == 0
        assert len(hub.requests) == asked
        hub.add_model("demo/other", tiny_model(shards=1))
        done = run(["serve", "hf://demo/other"], environ)
        assert done.returncode == MACHINE, done.stderr
        assert "NIM_CACHE_PATH" in done.stderr
        assert_program_error(done.stderr)


def assert_program_error(said: str) -> None:
    """One error with what to do, as the whole program shows it."""
    assert "Traceback" not in said
    assert "Lading itself" not in said
    assert said.count("\nerror: ") + said.startswith("error: ") == 1
    assert "\ntry: " in said


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("write", errno.ENOSPC, LARGE, skip=2),
        Refusal("write", errno.EIO, LARGE, skip=2),
        Refusal("write", errno.ENOSPC, "*/index/*", skip=1),
        Refusal("mkdir", errno.EIO, "*/workspaces*"),
        Refusal("symlink", errno.EIO),
        Refusal("fallocate", errno.EIO, LARGE),
    ],
    ids=str,
)
def test_the_whole_program_says_it_as_well(refusal: Refusal, hub: CountingHub, shim: Shim, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    hub.add_model("demo/tiny", tiny_model())
    environ = environ_of(hub, tmp_path, cache)
    done = run(["serve", MODEL], {**environ, **shim.variables(cache, refusal)})
    assert done.returncode == MACHINE, done.stderr
    assert_program_error(done.stderr) if refusal.number == errno.ENOSPC else None
    assert os.strerror(refusal.number) in done.stderr
    assert str(cache) in done.stderr
    assert "Traceback" not in done.stderr
    assert_valid(cache, tiny_model())
    with running([MODEL], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert program.stop() == 0
    assert_valid(cache, tiny_model())
