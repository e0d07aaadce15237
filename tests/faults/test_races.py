"""Many processes and one cache: one downloads, the others wait; a holder that dies or sleeps is replaced; no byte is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lading.cache import upkeep
from lading.cache.partial import PartialFile, journal_path
from lading.cache.root import open_cache
from lading.digest import Digest
from lading.errors import MachineError
from lading.model.manifest import FileEntry
from lading.uri import ModelUri
from tests.faults.harness import DIGESTS, FILES, MODEL, QUICK, TOTAL_BYTES, Child, Children, CountingHub, eventually
from tests.faults.rules import assert_complete, assert_valid, kept_bytes
from tests.faults.shim import Refusal, Shim
from tests.program import environment, run
from tests.simulators.faults import Throttle

LEASE = {**QUICK, "lease": [0.1, 1.5]}
WAITING = "waiting for another download of this model"


@pytest.fixture(params=["flock", "lease"])
def options(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Either kind of lock."""
    return QUICK if request.param == "flock" else LEASE


def hold_at(hub: CountingHub, share: float) -> None:
    """Let no more bytes out once so many left."""
    hub.on_sent = lambda sent: hub.gate.clear() if sent >= share * TOTAL_BYTES else None


def let_go(hub: CountingHub) -> None:
    hub.on_sent = lambda _: None
    hub.gate.set()


@pytest.mark.parametrize("number", [2, 8])
def test_one_downloads_and_the_others_wait(
    number: int, options: Mapping[str, Any], cache: Path, hub: CountingHub, children: Children
) -> None:
    hold_at(hub, 0.3)
    racing = [children.start(hub, cache, options=options) for _ in range(number)]
    eventually(lambda: sum(WAITING in each.said for each in racing) == number - 1)
    let_go(hub)
    for each in racing:
        each.assert_right()
    assert hub.sent_bytes == TOTAL_BYTES
    assert_complete(cache, MODEL, FILES)
    assert not list(cache.glob("locks/*.lease"))


def test_processes_that_make_the_cache_at_once_agree(cache: Path, hub: CountingHub, children: Children) -> None:
    racing = [children.start(hub, cache) for _ in range(8)]
    for each in racing:
        each.assert_right()
    assert hub.sent_bytes == TOTAL_BYTES
    assert_complete(cache, MODEL, FILES)


def test_two_models_that_share_files_end_right_and_share_the_blobs(
    options: Mapping[str, Any], cache: Path, hub: CountingHub, children: Children
) -> None:
    mine = {**FILES, "config.json": b"{}", "mine.safetensors": random.Random(5).randbytes(100_000)}
    hub.add_model("demo/other", mine)
    first, second = (
        children.start(hub, cache, options=options),
        children.start(hub, cache, model="hf://demo/other", options=options),
    )
    first.assert_right()
    assert second.result()["digests"] == {path: str(Digest.of(data)) for path, data in mine.items()}
    children.start(hub, cache).assert_right()  # of two that put the same blob there at once, one has the other's mark:
    children.start(hub, cache, model="hf://demo/other").end()  # the next start hashes it again and takes the right one
    assert_valid(cache, FILES | mine | {"config.json": FILES["config.json"]})
    assert len(list(cache.glob("blobs/sha256/*/*"))) == len({*FILES.values(), *mine.values()})
    assert hub.sent_bytes <= 2 * TOTAL_BYTES + 100_000


def test_a_killed_holder_of_either_lock_is_replaced_by_one_that_waits(
    options: Mapping[str, Any], cache: Path, hub: CountingHub, children: Children
) -> None:
    hold_at(hub, 0.5)
    first = children.start(hub, cache, options=options)
    eventually(lambda: not hub.gate.is_set() and kept_bytes(cache, FILES) > 0)
    waiting = [children.start(hub, cache, options=options) for _ in range(3)]
    for each in waiting:
        each.wait_for(WAITING)
    first.kill()
    kept, before = kept_bytes(cache, FILES), hub.sent_bytes
    let_go(hub)
    for each in waiting:
        each.assert_right()
    assert hub.sent_bytes - before <= TOTAL_BYTES - kept + 6 * QUICK["part_bytes"]
    assert_complete(cache, MODEL, FILES)
    assert not list(cache.glob("locks/*.lease"))


def test_a_holder_that_sleeps_longer_than_its_lease_finds_another_and_nothing_is_damaged(
    cache: Path, hub: CountingHub, children: Children
) -> None:
    hold_at(hub, 0.5)
    asleep = children.start(hub, cache, options=LEASE)
    eventually(lambda: not hub.gate.is_set() and kept_bytes(cache, FILES) > 0)
    with stopped(asleep):
        second = children.start(hub, cache, options=LEASE)
        second.wait_for(WAITING)
        second.wait_for("holds the lock")
        let_go(hub)
        second.assert_right()
    assert asleep.end() in (0, 6), asleep.said
    assert "Traceback" not in asleep.said
    assert_valid(cache, FILES)
    children.start(hub, cache, options=LEASE).assert_right()
    assert_complete(cache, MODEL, FILES, nothing_waits=False)


def test_a_holder_that_wakes_while_another_downloads_damages_nothing(
    cache: Path, hub: CountingHub, children: Children
) -> None:
    hold_at(hub, 0.3)
    asleep = children.start(hub, cache, options=LEASE)
    eventually(lambda: not hub.gate.is_set() and kept_bytes(cache, FILES) > 0)
    with stopped(asleep):
        second = children.start(hub, cache, options=LEASE)
        second.wait_for("holds the lock")
    let_go(hub)
    codes = [asleep.end(), second.end()]
    assert set(codes) <= {0, 6}, asleep.said + second.said
    assert "Traceback" not in asleep.said + second.said
    assert_valid(cache, FILES)
    children.start(hub, cache, options=LEASE).assert_right()
    assert_complete(cache, MODEL, FILES, nothing_waits=False)


@contextmanager
def stopped(child: Child) -> Iterator[None]:
    """The child sleeps while the block runs."""
    child.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        child.process.send_signal(signal.SIGCONT)


def test_a_journal_never_vouches_for_the_file_of_another_process(tmp_path: Path) -> None:
    """A holder that slept before its first journal wakes up when another has made the file anew."""
    data = random.Random(3).randbytes(10_000)
    uri = ModelUri.parse("https://example.org/m").with_file("weights.bin")
    file = FileEntry("weights.bin", len(data), uri, None, '"v1"')
    slept, other = PartialFile(tmp_path / "x.part", file), PartialFile(tmp_path / "x.part", file)
    slept.open()
    slept.write(memoryview(data)[:5000], 0)
    other.open()
    with suppress(MachineError):
        slept.save()
    slept.close()
    other.close()
    claimed = json.loads(journal_path(slept.path).read_bytes())["done"] if journal_path(slept.path).exists() else []
    on_disk = slept.path.read_bytes()
    assert [each for each in claimed if on_disk[slice(*each)] != data[slice(*each)]] == []


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_what_is_being_fetched_is_neither_removed_nor_collected(
    kind: str, cache: Path, hub: CountingHub, children: Children, shim: Shim, tmp_path: Path
) -> None:
    """Not by a clean-up that goes by age, nor by one that deletes all that no entry names."""
    bare = shim.variables(cache, Refusal("flock", errno.ENOLCK)) if kind == "lease" else {}
    environ = environment(tmp_path, NIM_CACHE_PATH=str(cache), **bare)
    hub.add_model("demo/other", {"config.json": b"{}", "other.safetensors": b"other" * 1000})
    children.start(hub, cache, bare, model="hf://demo/other").result()
    sent = hub.settled_bytes()
    hub.on_sent = lambda now: hub.gate.clear() if now - sent >= 0.8 * TOTAL_BYTES else None
    fetching = children.start(hub, cache, bare, options={**QUICK, "connections": 1})
    fetching.wait_for("verified: model-00001")
    eventually(lambda: not hub.gate.is_set() and kept_bytes(cache, FILES) > 0.7 * TOTAL_BYTES)
    for entry in cache.glob("index/*.json"):
        os.utime(entry, (1, 1))
    blobs = set(cache.glob("blobs/sha256/*/*"))
    kept = kept_bytes(cache, FILES)
    busy = run(["cache", "remove", MODEL], environ)
    assert busy.returncode == 6, busy.stderr
    assert str(fetching.process.pid) in busy.stderr
    assert run(["cache", "gc", "--unused-for", "1d"], environ).returncode == 0
    assert kept_bytes(cache, FILES) >= kept
    assert len(blobs - set(cache.glob("blobs/sha256/*/*"))) <= 2
    let_go(hub)
    fetching.assert_right()
    assert_complete(cache, MODEL, FILES)
    assert hub.settled_bytes() - sent == TOTAL_BYTES


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_removing_a_model_takes_nothing_of_one_that_is_being_fetched(
    kind: str, cache: Path, hub: CountingHub, children: Children, shim: Shim, tmp_path: Path
) -> None:
    bare = shim.variables(cache, Refusal("flock", errno.ENOLCK)) if kind == "lease" else {}
    environ = environment(tmp_path, NIM_CACHE_PATH=str(cache), **bare)
    hub.add_model("demo/other", {"config.json": b"{}", "other.safetensors": b"other" * 1000})
    children.start(hub, cache, bare, model="hf://demo/other").result()
    sent = hub.settled_bytes()
    hub.on_sent = lambda now: hub.gate.clear() if now - sent >= 0.8 * TOTAL_BYTES else None
    fetching = children.start(hub, cache, bare, options={**QUICK, "connections": 1})
    fetching.wait_for("verified: model-00001")
    eventually(lambda: not hub.gate.is_set() and kept_bytes(cache, FILES) > 0.7 * TOTAL_BYTES)
    kept = kept_bytes(cache, FILES)
    removed = run(["cache", "remove", "hf://demo/other"], environ)
    assert removed.returncode == 0, removed.stderr
    assert kept_bytes(cache, FILES) >= kept
    let_go(hub)
    fetching.assert_right()
    assert_complete(cache, MODEL, FILES)


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_clean_ups_that_run_all_the_time_take_nothing_that_is_needed(
    kind: str, cache: Path, hub: CountingHub, children: Children, shim: Shim, tmp_path: Path
) -> None:
    """``gc``, ``verify`` and ``remove`` run while three models arrive that share files and have their own."""
    bare = shim.variables(cache, Refusal("flock", errno.ENOLCK)) if kind == "lease" else {}
    environ = environment(tmp_path, NIM_CACHE_PATH=str(cache), **bare)
    models = {"demo/tiny": FILES}
    for name in ("demo/second", "demo/third"):
        own = {each: f"{name} {each}".encode() * 3000 for each in ("config.json", "merges.txt", "own.safetensors")}
        models[name] = {**FILES, **own}
        hub.add_model(name, models[name])
    hub.fault(None, Throttle(4_000_000), times=None, on="cdn")
    children.start(hub, cache, bare).assert_right()
    done = threading.Event()
    ended: list[tuple[list[str], int, str]] = []

    def clean_up() -> None:
        while not done.is_set():
            for command in (["gc"], ["verify"], ["gc", "--unused-for", "1d"], ["remove", "hf://demo/third"]):
                found = run(["cache", *command], environ)
                ended.append((command, found.returncode, found.stderr))

    cleaning = threading.Thread(target=clean_up)
    cleaning.start()
    try:
        for _ in range(2):
            racing = {name: children.start(hub, cache, bare, model=f"hf://{name}") for name in models}
            for name, each in racing.items():
                each.assert_right({path: str(Digest.of(data)) for path, data in models[name].items()})
            assert run(["cache", "verify", MODEL], environ).returncode == 0
    finally:
        done.set()
        cleaning.join()
    assert [each for each in ended if each[1] not in (0, 3, 6) or "Lading itself" in each[2]] == []
    assert [each for each in ended if each[0] in (["gc"], ["verify"]) and each[1]] == []
    for path in cache.glob("blobs/sha256/*/*"):
        assert Digest.of(path.read_bytes()).hex == path.name
    for name in ("demo/tiny", "demo/second"):
        children.start(hub, cache, bare, model=f"hf://{name}").result()
        before = hub.settled_bytes()
        children.start(hub, cache, bare, model=f"hf://{name}").result()
        assert hub.settled_bytes() == before


def test_a_blob_that_is_removed_while_others_are_verified_is_not_damaged(
    cache: Path, hub: CountingHub, children: Children
) -> None:
    children.start(hub, cache).assert_right()
    root = open_cache(cache, default=cache, fallback=cache)
    gone = iter([Digest.parse(DIGESTS["tokenizer.json"])])

    def remove_one() -> None:
        for digest in gone:
            root.store.remove(digest)

    assert upkeep.verify(root, check=remove_one).damaged == {}
