"""The library that fails on demand, a hub with the small model, and child processes that never outlive a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Children, CountingHub, serving
from tests.faults.shim import Shim, build


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """Faults of disks, locks and clocks for child processes."""
    built = build(tmp_path_factory.mktemp("shim"))
    if built is None:
        pytest.skip("no C compiler")
    return built


@pytest.fixture
def hub() -> Iterator[CountingHub]:
    with serving() as simulator:
        yield simulator


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    """Downloads as processes."""
    found = Children(tmp_path)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where a cache may be made."""
    return tmp_path / "cache"
