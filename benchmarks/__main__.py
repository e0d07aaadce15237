"""``make bench``: every measurement, one after the other. ``python -m benchmarks --help`` has what can be left out."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import startup, transfers

_QUICK_SHARD_BYTES = 128 << 20


def main() -> None:
    """Measure what the arguments say; the last line printed is JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Lading beside its peers.")
    parser.add_argument("--quick", action="store_true", help="shards of 128 MiB, for a look while developing")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds of each table (default: 3)")
    parser.add_argument("--directory", type=Path, help="where the files lie (default: memory, if it has room)")
    parser.add_argument("--only", action="append", default=[], help="startup, or a table by its title; may be repeated")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that files and servers go too
    if not options.only or "startup" in options.only:
        startup.main()
    size = {"shard_bytes": _QUICK_SHARD_BYTES} if options.quick else {}
    only = frozenset(options.only)
    transfers.main(transfers.Scale(repetitions=options.repetitions, directory=options.directory, only=only, **size))


if __name__ == "__main__":
    main()
