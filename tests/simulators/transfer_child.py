"""A process that fetches one small model from a slow source in memory, to be killed, raced or starved of disk.

``python -m tests.simulators.transfer_child CACHE LOG DELAY_SECONDS [FILE_LIMIT_BYTES]``

Every process offers the same bytes. ``LOG`` gets one line for each event that counts; the digests are printed at the end.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import threading
from pathlib import Path

from lading.cache.root import open_cache
from lading.digest import Digest
from lading.errors import LadingError
from lading.events import BytesFetched, Event, Note
from lading.transfer import TransferOptions, survey, transfer
from tests.simulators.memory_source import MemorySource

PART_BYTES = 64 << 10
SIZES = {
    "config.json": 300,
    "empty.txt": 0,
    "model-00001-of-00002.safetensors": 30 * PART_BYTES + 17,
    "model-00002-of-00002.safetensors": 7 * PART_BYTES,
    "tokenizer.json": 70_000,
}
OPTIONS = TransferOptions(connections=3, part_bytes=PART_BYTES, journal_seconds=0.05, lock_wait_seconds=60)


def offered() -> MemorySource:
    """The source with the model, the same in every process."""
    source = MemorySource(read_bytes=16 << 10)
    dice = random.Random(7)
    for path, size_bytes in SIZES.items():
        source.add(path, dice.randbytes(size_bytes), promise="gitsha1" if size_bytes < PART_BYTES else "sha256")
    return source


def expected() -> dict[str, str]:
    """The digests that a transfer ends with."""
    return {path: str(Digest.of(data)) for path, data in offered().data.items()}


def main(cache_path: str, log_path: str, delay_seconds: str, file_limit_bytes: str = "") -> int:
    """Fetch it; the exit code that the command would have."""
    if file_limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_limit_bytes), int(file_limit_bytes)))
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def report(event: Event) -> None:
        match event:
            case BytesFetched():
                os.write(log, f"bytes {event.count} {event.path}\n".encode())
            case Note():
                os.write(log, f"note {event.text}\n".encode())
            case _:
                os.write(log, f"{type(event).__name__}\n".encode())

    source = offered()
    source.delay_seconds = float(delay_seconds)
    root = Path(cache_path)
    cache = open_cache(root, default=root, fallback=root)
    try:
        plan = survey(source.manifest, source, cache)
        manifest = transfer(plan, source, cache, report, cancelled=threading.Event(), options=OPTIONS)
    except LadingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({file.path: str(file.digest) for file in manifest.files}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
