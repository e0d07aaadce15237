"""Peak memory does not grow with the model: a large file, the options of ``lading serve``, a process of its own."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Children, serving
from tests.models import tiny_model
from tests.program import environment, running
from tests.simulators.vllm_program import install

MIB = 1 << 20
LIMIT_BYTES = 150_000_000
SIZE_BYTES = int(os.environ.get("LADING_TEST_LARGE_MIB", "512")) * MIB


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What measures coverage takes memory of its own: the programs here run without it."""
    for name in [each for each in os.environ if each.startswith("COVERAGE")]:
        monkeypatch.delenv(name)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A file that takes no room, with something in it here and there; copies of it in a cache go with it."""
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
        for offset in range(0, SIZE_BYTES, 50 * MIB):
            file.seek(offset)
            file.write(b"here" * 1000)
    yield path
    for each in tmp_path.glob("**/*"):
        if each.is_file() and not each.is_symlink() and each.stat().st_size > MIB:
            each.unlink()


def test_the_download_of_a_large_file_takes_little_memory(large: Path, cache: Path, children: Children) -> None:
    with large.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with serving({"config.json": b"{}", "model.safetensors": large}) as hub:
        found = children.start(hub, cache, options={"default": True}).result()
    assert found["digests"]["model.safetensors"] == f"sha256:{digest}"
    assert found["peak_bytes"] < LIMIT_BYTES


def test_the_whole_program_takes_little_memory(large: Path, cache: Path, tmp_path: Path) -> None:
    """With gateway, log and listing; the large file is one that engines do not read, for the stand-in reads it whole."""
    (tmp_path / "home").mkdir()
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    with serving({**tiny_model(), "large.bpe": large}) as hub:
        environ = environment(tmp_path, HF_ENDPOINT=hub.endpoint, PATH=path)
        with running(["hf://demo/tiny"], environ, tmp_path / "log") as program:
            program.wait_until_ready()
            status = Path(f"/proc/{program.process.pid}/status").read_text()
            assert program.stop() == 0
    assert sum(path.stat().st_size for path in cache.glob("blobs/sha256/*/*")) > SIZE_BYTES
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert int(peak) * 1024 < LIMIT_BYTES
