"""Fetching a model from the hub simulator: Lading, which verifies, and the hub's own client, which does not."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Sample, compare, sample, show

SHARD_BYTES = 512 << 20
SHARDS = 2
REPETITIONS = 3
NAME = "bench/model"

FETCH = """
import sys, threading
from pathlib import Path
from lading.cache.root import open_cache
from lading.plan import choose_files
from lading.settings import Settings
from lading.sources import source_for
from lading.transfer import survey, transfer
from lading.uri import ModelUri
endpoint, directory = sys.argv[1:]
uri = ModelUri.parse("hf://bench/model")
source = source_for(uri, Settings.from_env({"HF_ENDPOINT": endpoint, "HF_HOME": directory + "/none"}))
cache = open_cache(Path(directory), default=Path(directory), fallback=Path(directory))
manifest, skipped = choose_files(source.list_files(uri))
transfer(survey(manifest, source, cache, skipped=skipped), source, cache, cancelled=threading.Event())
"""
PEER = """
import sys
from huggingface_hub import snapshot_download
endpoint, directory = sys.argv[1:]
snapshot_download("bench/model", cache_dir=directory, endpoint=endpoint, token=False)
"""


def main() -> None:
    """One table: wall, CPU and memory of each client for the same bytes."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _write_model(directory / "hub" / NAME)
        command = [sys.executable, "-m", "tests.simulators.hub", str(directory / "hub")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
            assert hub.stdout is not None
            endpoint = hub.stdout.readline().strip()
            results = compare(
                {
                    "lading (sha256 verified)": lambda: _fetch(FETCH, endpoint, directory),
                    "huggingface_hub": lambda: _fetch(PEER, endpoint, directory),
                },
                REPETITIONS,
            )
            hub.terminate()
    show("download from a hub on loopback", results, "lading (sha256 verified)", SHARDS * SHARD_BYTES)


def _write_model(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    for number in range(SHARDS):
        block = random.Random(number).randbytes(1 << 20)
        with (directory / f"model-{number}.safetensors").open("wb") as file:
            for index in range(SHARD_BYTES >> 20):
                file.write(index.to_bytes(8, "little") + block[8:])


def _fetch(program: str, endpoint: str, directory: Path) -> Sample:
    with tempfile.TemporaryDirectory(dir=directory) as target:
        return sample([sys.executable, "-c", program, endpoint, target])
