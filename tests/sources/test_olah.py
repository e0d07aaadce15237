"""A real Olah between our source and the hub: it serves a second download by itself, and keeps what the hub guards."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.cache.root import open_cache
from lading.digest import Digest
from lading.errors import (
    FileNotFoundAtSource,
    LadingError,
    ModelNotFound,
    RevisionNotFound,
    SourceUnreachable,
)
from lading.events import BytesFetched, Event
from lading.model.manifest import Manifest
from lading.settings import Settings
from lading.sources import source_for
from lading.transfer import TransferOptions, survey, transfer
from lading.units import MIB
from lading.uri import ModelUri
from tests.models import tiny_model
from tests.simulators.hub import HubSimulator
from tests.simulators.olah import olah
from tests.simulators.server import Request

TOKEN = "hf_canaryS3cr3t"
TINY = ModelUri.parse("hf://demo/tiny")


def hurried(event: threading.Event, seconds: float) -> bool:
    return event.wait(min(seconds, 0.001))


OPTIONS = TransferOptions(connections=4, part_bytes=3 * MIB, retries=2, wait=hurried)
FILES: dict[str, bytes] = {
    **tiny_model(),
    "large.safetensors": random.Random(1).randbytes(20 * MIB + 7),  # several of Olah's blocks, several of our parts
    "__init__.py": b"",
    "nested/deep er/part 1+2.bin": b"part",
    "ünïcode/100%.txt": "naïve".encode(),
}


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


class Downloads:
    """Downloads by a user of an Olah, each into a cache of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self.fetched_bytes = 0

    def settings(self, endpoint: str, token: str | None = None) -> Settings:
        environ = {"HF_ENDPOINT": endpoint, "HF_HOME": str(self._directory / "no-cache-of-hugging-face")}
        return Settings.from_env(environ | ({"HF_TOKEN": token} if token else {}))

    def __call__(self, endpoint: str, model: ModelUri = TINY, *, token: str | None = None) -> dict[str, bytes]:
        """The model's verified files, by path."""
        self._count += 1
        self.fetched_bytes = 0
        path = self._directory / f"cache-{self._count}"
        cache = open_cache(path, default=path, fallback=path)
        source = source_for(model, self.settings(endpoint, token), self._report)
        manifest = source.list_files(model)
        self.manifest: Manifest = manifest
        plan = survey(manifest, source, cache)
        done = transfer(plan, source, cache, self._report, cancelled=threading.Event(), options=OPTIONS)
        return {each.path: cache.store.path_of(each.digest).read_bytes() for each in done.files if each.digest}

    def _report(self, event: Event) -> None:
        if isinstance(event, BytesFetched):
            self.fetched_bytes += event.count


@pytest.fixture
def download(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path)


def bodies_of_files(requests: list[Request]) -> list[str]:
    """The requests that made the hub, or its storage, send a file's bytes."""
    return [str(each.file) for each in requests if each.method == "GET" and each.file and each.status in (200, 206)]


def test_the_second_download_is_served_by_olah_alone(hub: HubSimulator, tmp_path: Path, download: Downloads) -> None:
    commit = hub.add_model("demo/tiny", FILES)
    with olah(hub.endpoint, tmp_path / "olah") as endpoint:
        assert download(endpoint) == FILES
        assert download.manifest.revision == commit
        promised = {each.path: each.digest for each in download.manifest.files}
        assert promised["large.safetensors"] == Digest.of(FILES["large.safetensors"])
        assert set(bodies_of_files(hub.requests)) == {path for path, data in FILES.items() if data}

        seen = len(hub.requests)
        assert download(endpoint) == FILES
        assert download.fetched_bytes == sum(map(len, FILES.values()))
        assert bodies_of_files(hub.requests[seen:]) == []  # but it asks with HEAD whether each file is still there
        assert {each.method for each in hub.requests[seen:]} <= {"HEAD"}

        hub.stop()
        with pytest.raises(SourceUnreachable, match=f"{endpoint}/demo/tiny/resolve/.* answers HTTP 504"):
            download(endpoint)
    with olah(hub.endpoint, tmp_path / "olah", offline=True) as endpoint:
        assert download(endpoint) == FILES
        assert {each.path: each.digest for each in download.manifest.files} == promised
        assert download(endpoint, TINY.with_revision(commit)) == FILES
        with pytest.raises(LadingError) as caught:
            download(endpoint, ModelUri.parse("hf://demo/other"))
        assert caught.value.exit_code == 3


def test_a_private_model_needs_the_token_that_olah_passes_on(
    hub: HubSimulator, tmp_path: Path, download: Downloads
) -> None:
    hub.add_model("demo/tiny", tiny_model(), private=True)
    hub.require_token(TOKEN)
    with olah(hub.endpoint, tmp_path / "olah") as endpoint:
        assert download(endpoint, token=TOKEN) == tiny_model()
        assert hub.leaked_credentials == []
        with pytest.raises(LadingError) as caught:
            download(endpoint)
        assert isinstance(caught.value, ModelNotFound), repr(caught.value)
        assert "set HF_TOKEN" in (caught.value.remedy or "")


def test_refusals_mean_what_they_mean_at_the_hub(hub: HubSimulator, tmp_path: Path, download: Downloads) -> None:
    hub.add_model("demo/tiny", tiny_model())
    with olah(hub.endpoint, tmp_path / "olah") as endpoint:
        with pytest.raises(ModelNotFound):
            download(endpoint, ModelUri.parse("hf://demo/other"))
        with pytest.raises(RevisionNotFound):
            download(endpoint, TINY.with_revision("v9"))
        with pytest.raises(FileNotFoundAtSource):
            download(endpoint, TINY.with_file("missing.bin"))


def test_a_new_commit_is_seen_by_its_id(hub: HubSimulator, tmp_path: Path, download: Downloads) -> None:
    hub.add_model("demo/tiny", tiny_model())
    with olah(hub.endpoint, tmp_path / "olah") as endpoint:
        assert download(endpoint) == tiny_model()
        later = {**tiny_model(), "config.json": b"{}"}
        commit = hub.add_model("demo/tiny", later)
        assert download(endpoint, TINY.with_revision(commit)) == later
        assert download(endpoint) == tiny_model()  # Olah trusts what a branch meant for ten minutes


def test_a_listing_of_several_pages(hub: HubSimulator, tmp_path: Path, download: Downloads) -> None:
    """The hub's own pages are of 1000 entries; here they are of three, which no directory is longer than."""
    files = {"config.json": b"{}", **{f"{where}/{name}": b"x" for where in "ab" for name in ("one.bin", "two.bin")}}
    hub.page_size = 3
    hub.add_model("demo/tiny", files)
    with olah(hub.endpoint, tmp_path / "olah") as endpoint:
        assert download(endpoint) == files
