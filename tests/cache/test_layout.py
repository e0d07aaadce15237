"""A cache in use, walked and held to ``docs/spec/cache-layout.md``: whatever lies there is of a kind that the page names."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.cache.index import IndexEntry
from lading.cache.listing import KeptListing, save_listing
from lading.cache.partial import Journal
from lading.cache.root import CacheRoot, open_cache
from lading.cache.use import announced
from lading.errors import SizeMismatch
from lading.profiles.calibration import Calibration, CalibrationKey
from lading.profiles.measurement import Measurement
from lading.transfer import TransferOptions, survey, transfer
from lading.uri import ModelUri
from lading.workspace import build_workspace
from tests.simulators.memory_source import ALWAYS, Fault, MemorySource

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "cache-layout.md"
KEY = "[0-9a-f]{64}"
KINDS = {
    "lading-cache.json": r"lading-cache\.json",
    "blobs/sha256/<ab>/<hex>": r"blobs/sha256/(?P<ab>[0-9a-f][0-9a-f])/(?P<hex>(?P=ab)[0-9a-f]{62})",
    "index/<model key>.json": rf"index/(?P<key>{KEY})\.json",
    "index/<model key>.next.json": rf"index/(?P<key>{KEY})\.next\.json",
    "index/<model key>.listing.json": rf"index/{KEY}\.listing\.json",
    "partial/<model key>/<file key>.part": rf"partial/{KEY}/{KEY}\.part",
    "partial/<model key>/<file key>.part.json": rf"partial/{KEY}/{KEY}\.part\.json",
    "locks/<model key>.lock": rf"locks/{KEY}\.lock",
    "locks/<model key>.lock.lease": rf"locks/{KEY}\.lock\.lease",
    "locks/gc.lock": r"locks/gc\.lock",
    "uses/<random>.json": r"uses/[0-9a-f]+\.json",
    "calibrations/<key>.json": rf"calibrations/{KEY}\.json",
    "manifests/<model key>/<key>.yaml": rf"manifests/{KEY}/{KEY}\.yaml",
    "nim_runtime_manifest.yaml": r"nim_runtime_manifest\.yaml",
    "workspaces/<name>/": r"workspaces/[^/]+/.+",
    "tmp/": r"tmp/.+",
}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CacheRoot]:
    """One complete model in use, one newer listing of it whose transfer broke off, one workspace, one start."""
    cache = open_cache(tmp_path, default=tmp_path, fallback=tmp_path)
    source = MemorySource(model=ModelUri.parse("hf://org/model:v1"))
    options = TransferOptions(connections=1, part_bytes=1000, retries=0)
    dice = random.Random(1)
    source.add("config.json", b"{}", promise="gitsha1")
    source.add("model.safetensors", dice.randbytes(5000))
    source.add("notes.txt", b"", promise=None)
    manifest = transfer(survey(source.manifest, source, cache), source, cache, cancelled=threading.Event())
    places = [(file.path, cache.store.path_of(file.digest)) for file in manifest.files if file.digest]
    build_workspace(cache.workspaces_directory / "model", places)
    source.revision = "next"
    source.add("model.safetensors", dice.randbytes(5000))
    source.fail("model.safetensors", Fault(times=ALWAYS, ends_at=2500))
    with pytest.raises(SizeMismatch):
        plan = survey(source.manifest, source, cache)
        transfer(plan, source, cache, cancelled=threading.Event(), options=options)
    key = CalibrationKey("vllm", "0.32.0", "cpu", "LlamaForCausalLM", "bf16", 5000)
    cache.calibrations.save(Calibration(key, (Measurement(kv_pool_tokens=7),), (Measurement(weights_bytes=5000),), 1))
    save_listing(cache.index.listing_path(source.model), KeptListing(source.manifest))
    cache.runtime_manifests.keep(manifest.pinned, manifest.source, ["vllm 0.32.0"], "profiles: []\n")
    with announced(cache.uses_directory, source.model):
        yield cache


def kind_of(path: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, path)), "")


def found(cache: CacheRoot) -> dict[str, list[Path]]:
    kinds: dict[str, list[Path]] = {}
    for root, _, names in os.walk(cache.path):
        for name in names:
            path = Path(root, name)
            kinds.setdefault(kind_of(path.relative_to(cache.path).as_posix()), []).append(path)
    return kinds


def test_the_kinds_of_this_test_are_those_of_the_page() -> None:
    (drawing,) = re.findall(r"```\n<root>/\n(.*?)```", SPEC.read_text(), re.DOTALL)
    assert [line.split("  ")[1].strip() for line in drawing.splitlines()] == list(KINDS)


def test_every_file_is_of_a_kind_that_the_page_names(cache: CacheRoot) -> None:
    kinds = found(cache)
    assert "" not in kinds, kinds[""]
    assert kinds.keys() == KINDS.keys() - {"locks/<model key>.lock.lease", "tmp/"}


def test_blobs_are_named_by_their_bytes_and_sealed(cache: CacheRoot) -> None:
    for path in found(cache)["blobs/sha256/<ab>/<hex>"]:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_entries_are_named_by_their_source_and_name_blobs_that_are_here(cache: CacheRoot) -> None:
    kinds = found(cache)
    for path in kinds["index/<model key>.json"] + kinds["index/<model key>.next.json"]:
        data = json.loads(path.read_text())
        fields = {"schema", "source", "is_complete", "created_at", "manifest", "promised", "marks", "skipped"}
        assert data.keys() == fields
        assert hashlib.sha256(data["source"].encode()).hexdigest() == path.name.partition(".")[0]
        entry = IndexEntry.from_json(data)
        assert entry.is_complete == (path.name.count(".") == 1)
        for name, mark in entry.marks.items():
            file = entry.manifest.find(name)
            assert file is not None
            assert file.digest is not None
            assert cache.store.mark_of(file.digest) == mark
            assert cache.store.verify(file.digest)


def test_partial_files_have_their_whole_length_and_a_journal_that_is_true(cache: CacheRoot) -> None:
    kinds = found(cache)
    for path in kinds["partial/<model key>/<file key>.part.json"]:
        journal = Journal.from_json(json.loads(path.read_text()))
        part = path.with_suffix("")
        assert part in kinds["partial/<model key>/<file key>.part"]
        assert part.stat().st_size == journal.identity.size_bytes == 5000
        assert journal.done == ((0, 2500),)


def test_lock_files_say_nothing_while_nobody_holds_them(cache: CacheRoot) -> None:
    assert [path.read_bytes() for path in found(cache)["locks/<model key>.lock"]] == [b""]


def test_calibrations_are_named_by_their_key_and_name_no_model(cache: CacheRoot) -> None:
    (path,) = found(cache)["calibrations/<key>.json"]
    data = json.loads(path.read_text())
    assert data.keys() == {"schema", "key", "measured_at", "measured", "estimated"}
    canonical = json.dumps(data["key"], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == path.stem
    assert "org/model" not in path.read_text()


def test_workspaces_are_absolute_links_to_blobs(cache: CacheRoot) -> None:
    for path in found(cache)["workspaces/<name>/"]:
        assert path.readlink().is_absolute()
        assert path.readlink().is_relative_to(cache.store.directory)


def test_names_can_be_computed_with_common_tools(cache: CacheRoot) -> None:
    key = subprocess.run(["sha256sum"], input=b"hf://org/model:v1", capture_output=True, check=True).stdout.split()[0]
    assert (cache.path / "index" / f"{key.decode()}.json").exists()
