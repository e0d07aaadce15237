from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["tcp", "unix"])
def socket_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where the engine listens: a Unix socket, or None for loopback."""
    return tmp_path / "engine.sock" if request.param == "unix" else None
