"""Caches with small models in them, and bundles made of those."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.bundle.archive import find_volumes, open_bundle
from lading.bundle.create import Created, choose_models, create_bundle, plan_create
from lading.bundle.head import Head
from lading.bundle.intake import Imported, ImportOptions, import_bundle, plan_import
from lading.bundle.layout import Layout
from lading.cache.disk import Check, never
from lading.cache.root import CacheRoot, open_cache
from lading.events import Report, ignore
from lading.transfer import survey, transfer
from lading.uri import ModelUri
from tests.simulators.memory_source import MemorySource

DICE = random.Random(5)
SHARED = DICE.randbytes(300_000)
ONE = ModelUri.parse("hf://org/one")
TWO = ModelUri.parse("hf://org/two:v2")
CONTENT: Mapping[ModelUri, Mapping[str, bytes]] = {
    ONE: {"config.json": b"{}", "model.safetensors": DICE.randbytes(400_001), "shared.safetensors": SHARED},
    TWO: {"config.json": b'{"a": 1}', "sub/model.safetensors": SHARED, "empty.txt": b"", "tiny.bin": b"x" * 512},
}


def cache_at(path: Path) -> CacheRoot:
    return open_cache(path, default=path, fallback=path)


def fetch(cache: CacheRoot, model: ModelUri, files: Mapping[str, bytes], revision: str | None = "c0ffee") -> None:
    """Bring a model into the cache; its small files are promised by another digest than SHA-256."""
    source = MemorySource(model=model, revision=revision)
    for path, data in files.items():
        source.add(path, data, promise="gitsha1" if len(data) < 1000 else "sha256")
    transfer(survey(source.manifest, source, cache), source, cache, cancelled=threading.Event())


def filled(path: Path) -> CacheRoot:
    """A cache with both models."""
    cache = cache_at(path)
    for model, files in CONTENT.items():
        fetch(cache, model, files)
    return cache


def create(
    cache: CacheRoot,
    path: Path,
    *models: ModelUri,
    volume_bytes: int | None = None,
    sign_key: Path | None = None,
    report: Report = ignore,
    check: Check = never,
) -> Created:
    plan = plan_create(choose_models(cache, models), path, volume_bytes=volume_bytes, sign_key=sign_key)
    return create_bundle(plan, cache, report, check)


def take(
    path: Path,
    cache: CacheRoot,
    *elsewhere: Path,
    options: ImportOptions | None = None,
    report: Report = ignore,
    check: Check = never,
) -> Imported:
    with open_bundle(find_volumes(path, elsewhere)) as bundle:
        plan = plan_import(bundle, cache, options or ImportOptions(), report, check)
        return import_bundle(plan, cache, report, check)


def content_of(cache: CacheRoot, model: ModelUri) -> dict[str, bytes] | None:
    """The bytes of a complete model by path, as the cache has them; None where it is not complete."""
    entry = cache.index.load(model)
    if entry is None or not entry.is_complete or cache.missing_files(entry):
        return None
    return {path: place.read_bytes() for path, place in cache.store.places_of(entry.manifest).items()}


def assert_sound(cache: CacheRoot) -> None:
    """Every name in the store is of its bytes."""
    assert [digest for digest in cache.store.digests() if not cache.store.verify(digest)] == []


@dataclass(frozen=True)
class Keys:
    """A pair of keys in PEM."""

    private: Path
    public: Path

    @classmethod
    def made(cls, directory: Path, name: str = "key", curve: str = "prime256v1") -> Keys:
        keys = cls(directory / f"{name}.pem", directory / f"{name}.pub")
        subprocess.run(["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", keys.private], check=True)
        subprocess.run(
            ["openssl", "ec", "-in", keys.private, "-pubout", "-out", keys.public], check=True, capture_output=True
        )
        return keys


def opened(path: Path) -> tuple[Head, Layout]:
    """What a bundle says of itself."""
    with open_bundle(find_volumes(path)) as bundle:
        return bundle.head, bundle.layout
