"""A process that fetches one model over HTTP into a cache, as ``lading serve`` would, and ends there.

``python -m tests.faults.child CACHE MODEL [OPTIONS]``; ``OPTIONS`` is JSON: ``part_bytes``, ``connections``,
``journal_seconds``, ``retries``, ``first_delay_seconds``, and ``lease`` (``[heartbeat, stale]`` seconds: locks are leases
with that timing, as on a filesystem without flock). ``default`` true takes what ``lading serve`` takes. The environment
names the source, as for ``lading``. Notes go to standard error; at the end, digests and peak memory to standard output.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

from lading.cache.lock import Lock, Timing
from lading.cache.root import CacheRoot, open_cache
from lading.cli.transfer_settings import transfer_options
from lading.errors import LadingError
from lading.events import BlobVerified, Event, Note, RetryScheduled, TransferStarted
from lading.settings import Settings
from lading.sources import source_for
from lading.transfer import TransferOptions, survey, transfer
from lading.uri import ModelUri


class LeasedRoot(CacheRoot):
    """A cache whose filesystem offers no flock, in a hurry."""

    timing = Timing()

    def lock_of_key(self, key: str) -> Lock:
        return _leased(self.path / "locks" / f"{key}.lock", self.timing)

    def collection_lock(self) -> Lock:
        return _leased(self.path / "locks" / "gc.lock", self.timing)


def _leased(path: Path, timing: Timing) -> Lock:
    return Lock(path, flock=_no_flock, timing=timing)


def _no_flock(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def report(event: Event) -> None:
    """One line for each event that a test may wait for."""
    match event:
        case Note():
            line = f"note: {event.text}"
        case TransferStarted():
            line = f"holds the lock; {event.present_bytes} of {event.total_bytes} bytes are here"
        case RetryScheduled():
            line = f"retry: {event.what}: {event.reason}"
        case BlobVerified():
            line = f"verified: {event.path}"
        case _:
            return
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(cache_path: str, model: str, options_json: str = "{}") -> int:
    """Fetch it; the exit code that the command would have."""
    given: dict[str, Any] = json.loads(options_json)
    lease = given.pop("lease", None)
    root, uri, settings = Path(cache_path), ModelUri.parse(model), Settings.from_env(os.environ)
    options = transfer_options(settings) if given.pop("default", False) else TransferOptions(**given)
    try:
        cache = open_cache(root, default=root, fallback=root, report=report)
        if lease:
            LeasedRoot.timing = Timing(heartbeat_seconds=lease[0], stale_seconds=lease[1])
            cache = LeasedRoot(cache.path, cache.is_writable)
        source = source_for(uri, settings, report)
        plan = survey(source.list_files(uri), source, cache)
        manifest = transfer(plan, source, cache, report, cancelled=threading.Event(), options=options)
    except LadingError as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return error.exit_code
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # maxrss has the parent's too
    digests = {file.path: str(file.digest) for file in manifest.files}
    sys.stdout.write(json.dumps({"digests": digests, "peak_bytes": int(peak) * 1024}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
