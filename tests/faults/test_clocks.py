"""The wall clock jumps by a day, forward and back: no stall, no lost lock, nothing deleted that is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import FILES, MODEL, QUICK, TOTAL_BYTES, Children, CountingHub, eventually
from tests.faults.rules import assert_complete, assert_valid, kept_bytes
from tests.faults.shim import Shim, set_clock
from tests.program import environment, run

DAY = 86400
LEASE = {**QUICK, "lease": [0.1, 1.5]}


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "clock"
    set_clock(path, 0)
    yield path


def environ_of(directory: Path, cache: Path, variables: dict[str, str]) -> dict[str, str]:
    return environment(directory, NIM_CACHE_PATH=str(cache), **variables)


@pytest.mark.parametrize("options", [QUICK, LEASE], ids=["flock", "lease"])
@pytest.mark.parametrize("jump", [DAY, -DAY, 30 * DAY])
def test_a_jump_during_a_download_changes_nothing(
    jump: int, options: dict[str, object], cache: Path, hub: CountingHub, children: Children, shim: Shim, clock: Path
) -> None:
    """The holder, one that waits for it, and a clean-up all see it."""
    variables = shim.variables(cache, clock=clock)
    hub.on_sent = lambda sent: hub.gate.clear() if sent >= TOTAL_BYTES // 2 else None
    first = children.start(hub, cache, variables, options=options)
    eventually(lambda: not hub.gate.is_set() and kept_bytes(cache, FILES) > 0)
    second = children.start(hub, cache, variables, options=options)
    second.wait_for("waiting for another download of this model")
    set_clock(clock, jump)
    cleaned = run(["cache", "gc", "--unused-for", "12h"], environ_of(cache.parent, cache, variables))
    assert cleaned.returncode == 0, cleaned.stderr
    hub.on_sent = lambda _: None
    hub.gate.set()
    first.assert_right()
    second.assert_right()
    assert hub.sent_bytes == TOTAL_BYTES
    assert_complete(cache, MODEL, FILES)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_jump_between_runs_costs_nothing(
    jump: int, cache: Path, hub: CountingHub, children: Children, shim: Shim, clock: Path
) -> None:
    variables = shim.variables(cache, clock=clock)
    hub.on_sent = lambda sent: hub.gate.clear() if sent >= TOTAL_BYTES // 2 else None
    killed = children.start(hub, cache, variables)
    eventually(lambda: not hub.gate.is_set() and kept_bytes(cache, FILES) > 0)
    killed.kill()
    hub.on_sent = lambda _: None
    hub.gate.set()
    set_clock(clock, jump)
    environ = environ_of(cache.parent, cache, variables)
    assert run(["cache", "gc", "--unused-for", "12h"], environ).returncode == 0
    assert_valid(cache, FILES)
    kept, before = kept_bytes(cache, FILES), hub.settled_bytes()
    assert kept > 0
    children.start(hub, cache, variables).assert_right()
    assert hub.settled_bytes() - before == TOTAL_BYTES - kept
    set_clock(clock, -jump)
    assert run(["cache", "gc", "--unused-for", "12h"], environ).returncode == 0
    assert run(["cache", "verify"], environ).returncode == 0
    children.start(hub, cache, variables).assert_right()
    assert hub.settled_bytes() - before == TOTAL_BYTES - kept
    assert_complete(cache, MODEL, FILES)
