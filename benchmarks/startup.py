"""What ``--help`` costs: the time before a command line tool of this field says anything."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import compare, sample, show

REPETITIONS = 7


def main() -> None:
    """Ours, the bare interpreter, and the hub's own client."""
    binaries = Path(sys.executable).parent
    results = compare(
        {
            "lading --help": lambda: sample([str(binaries / "lading"), "--help"]),
            "hf --help": lambda: sample([str(binaries / "hf"), "--help"]),
            "python -c pass": lambda: sample([sys.executable, "-c", "pass"]),
        },
        REPETITIONS,
    )
    show("start of the command line", results, "lading --help")
