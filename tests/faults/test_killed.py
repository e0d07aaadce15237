"""``kill -9`` at any moment: the cache is valid, nothing that was kept is fetched again, the next run ends with the right bytes.

Moments are counted in changes to the filesystem, not in seconds: before the n-th one the process is dead, in the middle
of it where it is a write. So they are spread over the whole life of a download, between a rename and the sync after it
as well, on any machine.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.faults.harness import FILES, MODEL, QUICK, TOTAL_BYTES, Children, CountingHub, eventually
from tests.faults.rules import assert_complete, assert_valid, kept_bytes
from tests.faults.shim import Shim, read_log
from tests.simulators.faults import Throttle

KILLED = -signal.SIGKILL
KILLS = 8
LATE_BYTES = QUICK["connections"] * QUICK["part_bytes"]  # answers to a process that is gone, which the hub sends yet


def changes_of_a_whole_download(children: Children, hub: CountingHub, shim: Shim, directory: Path) -> int:
    log = directory / "changes"
    children.start(hub, directory / "whole", shim.variables(directory / "whole", log=log)).assert_right()
    return len(list(read_log(log)))


@pytest.mark.parametrize("seed", range(6))
def test_killed_again_and_again_a_download_ends_with_the_right_bytes(
    seed: int, cache: Path, hub: CountingHub, children: Children, shim: Shim, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    hub.fault(None, Throttle(6_000_000), times=None, on="cdn")  # so that journals are written on the way
    changes = changes_of_a_whole_download(children, hub, shim, tmp_path)
    kills, place = 0, cache
    while kills < KILLS:
        kept, before = kept_bytes(place, FILES), hub.settled_bytes()
        longest = changes if dice.random() < 0.3 else changes // 4  # far, or a resume of a resume
        child = children.start(hub, place, shim.variables(place, kill_at=dice.randint(1, longest)))
        code = child.end()
        assert code in (0, KILLED), child.said
        assert_valid(place, FILES)
        assert hub.settled_bytes() - before <= TOTAL_BYTES - kept + LATE_BYTES
        kills += code == KILLED
        if code == 0:
            assert_complete(place, MODEL, FILES)
            place = tmp_path / f"cache-{kills}"
    kept, before = kept_bytes(place, FILES), hub.settled_bytes()
    children.start(hub, place).assert_right()
    assert_complete(place, MODEL, FILES)
    assert hub.settled_bytes() - before <= TOTAL_BYTES - kept + LATE_BYTES


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_killed_between_journals_a_download_goes_on_from_the_last_one(
    share: float, cache: Path, hub: CountingHub, children: Children
) -> None:
    """From outside, while bytes are on their way and others wait for the lock; one of those goes on."""
    hub.on_sent = lambda sent: hub.gate.clear() if sent >= share * TOTAL_BYTES else None
    first = children.start(hub, cache)
    eventually(lambda: not hub.gate.is_set())
    waiting = [children.start(hub, cache) for _ in range(2)]
    for each in waiting:
        each.wait_for("waiting for another download of this model")
    eventually(lambda: kept_bytes(cache, FILES) >= (share - 0.1) * TOTAL_BYTES or first.process.poll() is not None)
    before, kept = hub.sent_bytes, kept_bytes(cache, FILES)
    first.kill()
    hub.on_sent = lambda _: None
    hub.gate.set()
    for each in waiting:
        each.assert_right()
    assert_complete(cache, MODEL, FILES)
    pieces_on_their_way = QUICK["connections"] * 2 * QUICK["part_bytes"]
    assert hub.sent_bytes - before <= TOTAL_BYTES - kept + pieces_on_their_way
    assert sum("verified: " in each.said and "holds the lock; 0 of" in each.said for each in waiting) == 0


def test_a_name_appears_only_after_its_bytes_are_on_the_device(
    cache: Path, hub: CountingHub, children: Children, shim: Shim, tmp_path: Path
) -> None:
    """A kill loses nothing that the kernel has; a power cut does. So the order of writes, syncs and names counts."""
    log = tmp_path / "changes"
    children.start(hub, cache, shim.variables(cache, log=log)).assert_right()
    unsynced: set[str] = set()
    unsynced_names: set[str] = set()
    named = []
    for call, path, *more in read_log(log):
        match call:
            case "create" | "write" | "fallocate" | "truncate":
                unsynced.add(path)
            case "sync":
                unsynced.discard(path)
                unsynced_names = {name for name in unsynced_names if str(Path(name).parent) != path}
            case "rename" | "link" if "/partial/" not in more[0]:
                (target,) = more
                assert path not in unsynced, f"{target} got its name before its bytes were synced"
                if "/index/" in target:
                    blobs = [name for name in unsynced_names if "/blobs/" in name]
                    assert blobs == [], "an entry speaks of blobs whose names are not on the device"
                unsynced_names.add(target)
                named.append(target)
    assert unsynced_names == set()
    assert sum("/blobs/" in name for name in named) == len(FILES)
    assert any("/index/" in name for name in named)


def test_a_journal_is_written_after_the_bytes_that_it_vouches_for(
    cache: Path, hub: CountingHub, children: Children, shim: Shim, tmp_path: Path
) -> None:
    log = tmp_path / "changes"
    children.start(hub, cache, shim.variables(cache, log=log)).assert_right()
    synced: set[str] = set()
    journals = 0
    for call, path, *more in read_log(log):
        if call == "sync" and path.endswith(".part"):
            synced.add(path)
        if call == "rename" and more[0].endswith(".part.json"):
            journals += 1
            part = more[0].removesuffix(".json")
            assert part in synced, f"{more[0]} was written without a sync of its file"
            synced.discard(part)
    assert journals > 0
