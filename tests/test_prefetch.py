"""Weights come into the page cache while the engine starts."""

import ctypes
import mmap
import os
import time
from pathlib import Path

import pytest

from lading.prefetch import choose, reading_ahead

PAGE = mmap.PAGESIZE


def resident_pages(path: Path) -> int:
    """How many pages of the file are in memory, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        pages = (ctypes.c_ubyte * -(-size // PAGE))()
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), pages) == 0
        del start
    return sum(page & 1 for page in pages)


def cold(path: Path, size_bytes: int) -> Path:
    """A file that is not in memory; skips where the filesystem keeps all there."""
    with path.open("wb") as file:
        file.write(b"w" * size_bytes)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_pages(path) > size_bytes // PAGE // 2:
        pytest.skip("this filesystem lives in memory")
    return path


def test_weights_are_chosen_in_the_order_of_their_names_up_to_the_budget(tmp_path: Path) -> None:
    for name, size in (("b.safetensors", 100), ("a.safetensors", 50), ("config.json", 7), ("c.bin", 30)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert [(path.name, size) for path, size in choose(tmp_path, 120)] == [("a.safetensors", 50), ("b.safetensors", 70)]
    assert [path.name for path, _ in choose(tmp_path, 10**9)] == ["a.safetensors", "b.safetensors", "c.bin"]
    assert choose(tmp_path, 0) == []
    assert choose(tmp_path / "nowhere", 100) == []


def test_cold_weights_are_in_memory_afterwards(tmp_path: Path) -> None:
    path = cold(tmp_path / "model.safetensors", 8 << 20)
    before = resident_pages(path)
    with reading_ahead(tmp_path, 1 << 30):
        deadline = time.monotonic() + 30
        while resident_pages(path) < (8 << 20) // PAGE and time.monotonic() < deadline:
            time.sleep(0.01)
    assert resident_pages(path) == (8 << 20) // PAGE > before


def test_no_more_than_the_budget_is_asked_for(tmp_path: Path) -> None:
    path = cold(tmp_path / "model.safetensors", 32 << 20)
    with reading_ahead(tmp_path, 1 << 20):
        pass
    assert resident_pages(path) <= (4 << 20) // PAGE


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.safetensors").mkdir()
    (tmp_path / "c.safetensors").write_bytes(b"x")
    assert (tmp_path / "c.safetensors", 1) in choose(tmp_path, 1 << 30)
    with reading_ahead(tmp_path, 1 << 30):
        pass
