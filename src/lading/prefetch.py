"""Read ahead: the weights of a model come from the disk into the page cache while the engine is still importing.

Only hints to the kernel (``posix_fadvise``), a window at a time, so that it can be stopped; nothing is copied, and what
is in memory already costs next to nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lading.events import Note, Report, ignore
from lading.units import format_bytes

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")

_WINDOW_BYTES = 128 << 10  # the kernel cuts a longer hint down to what it reads ahead at once


@contextmanager
def reading_ahead(directory: Path, budget_bytes: int, report: Report = ignore) -> Iterator[None]:
    """While the block runs, ask the kernel for the weights below ``directory``, ``budget_bytes`` at most.

    In the order of their names, as engines load them. What cannot be read is left to the engine to complain about.
    """
    chosen = choose(directory, budget_bytes)
    stopped = threading.Event()
    thread = threading.Thread(target=_read_ahead, args=(chosen, stopped), name="lading-prefetch", daemon=True)
    if chosen:
        total = format_bytes(sum(size for _, size in chosen))
        report(Note(f"reading {total} of weights ahead while the engine starts", "DEBUG"))
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        if chosen:
            thread.join()


def choose(directory: Path, budget_bytes: int) -> Sequence[tuple[Path, int]]:
    """The weights to read, and how much of each; the last one perhaps in part."""
    chosen: list[tuple[Path, int]] = []
    for path in sorted(directory.glob("*")):
        with suppress(OSError):
            if path.suffix in WEIGHTS and budget_bytes > 0:
                size_bytes = min(path.stat().st_size, budget_bytes)
                chosen.append((path, size_bytes))
                budget_bytes -= size_bytes
    return chosen


def _read_ahead(chosen: Sequence[tuple[Path, int]], stopped: threading.Event) -> None:
    for path, size_bytes in chosen:
        with suppress(OSError), path.open("rb", buffering=0) as file:
            for start in range(0, size_bytes, _WINDOW_BYTES):
                if stopped.is_set():
                    return
                length = min(_WINDOW_BYTES, size_bytes - start)
                os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)
