"""The stands, each with the same model and nothing of this machine's settings around it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lading.cache.root import CacheRoot, open_cache
from lading.settings_table import SETTINGS
from tests.sources.contract.models import FILES
from tests.sources.contract.stand import ServedStand, Stand
from tests.sources.contract.stands import SERVED, STANDS, standing

NEEDED = {"s3": "botocore", "gs": "google.auth"}


@pytest.fixture
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No setting of any source."""
    ours = {name for setting in SETTINGS for name in setting.names}
    for name in [each for each in os.environ if each in ours or each.startswith(("AWS_", "AZURE_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return monkeypatch


def set_up(
    name: str, tmp_path: Path, environment: pytest.MonkeyPatch, files: Mapping[str, bytes] = FILES
) -> Iterator[Stand]:
    """The stand of that name, and its settings as this process's; skips where what it needs is not installed."""
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason=f"{NEEDED[name]} is not installed: pip install 'lading[{name}]'")
    with standing(name, tmp_path, files) as stand:
        for variable, value in stand.environ.items():  # botocore reads its own variables itself
            environment.setenv(variable, value)
        yield stand


@pytest.fixture(params=STANDS)
def stand(request: pytest.FixtureRequest, tmp_path: Path, bare_environment: pytest.MonkeyPatch) -> Iterator[Stand]:
    """A stand of every scheme."""
    yield from set_up(request.param, tmp_path, bare_environment)


@pytest.fixture(params=SERVED)
def served(
    request: pytest.FixtureRequest, tmp_path: Path, bare_environment: pytest.MonkeyPatch
) -> Iterator[ServedStand]:
    """A stand of every scheme that is read from a server."""
    for each in set_up(request.param, tmp_path, bare_environment):
        assert isinstance(each, ServedStand)
        yield each


@pytest.fixture
def cache(tmp_path: Path) -> CacheRoot:
    path = tmp_path / "cache"
    return open_cache(path, default=path, fallback=path)
