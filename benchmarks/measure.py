"""A program measured as a whole process: wall time, CPU time, peak memory. Repetitions of rivals are interleaved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. ``peak_bytes`` is the largest resident size of the process."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def sample(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Sample:
    """Run ``argv`` to its end; a failure ends the benchmark with its output."""
    started = time.perf_counter()
    process = subprocess.Popen(argv, env={**os.environ, **(environ or {})}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{argv[0]} ended with {process.returncode}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def compare(rivals: Mapping[str, Callable[[], Sample]], repetitions: int) -> dict[str, Sample]:
    """The medians of every rival, their runs interleaved so that all meet the same load."""
    runs: dict[str, list[Sample]] = {name: [] for name in rivals}
    for _ in range(repetitions):
        for name, run in rivals.items():
            runs[name].append(run())
    return {
        name: Sample(
            median(each.wall_seconds for each in samples),
            median(each.cpu_seconds for each in samples),
            int(median(each.peak_bytes for each in samples)),
        )
        for name, samples in runs.items()
    }


def show(title: str, results: Mapping[str, Sample], ours: str, size_bytes: int | None = None) -> None:
    """A table, and one line of JSON with the ratios of ``ours`` to each rival (below 1 is better for us)."""
    print(f"\n{title}")
    for name, each in results.items():
        rate = f"{size_bytes / each.wall_seconds / (1 << 20):8.0f} MiB/s" if size_bytes else ""
        peak = f"{each.peak_bytes / (1 << 20):7.0f} MiB"
        print(f"  {name:<26}{each.wall_seconds:8.3f} s {each.cpu_seconds:8.3f} cpu-s {peak} {rate}")
    mine = results[ours]
    ratios = {
        name: {
            "wall": round(mine.wall_seconds / each.wall_seconds, 3),
            "cpu": round(mine.cpu_seconds / each.cpu_seconds, 3),
        }
        for name, each in results.items()
        if name != ours
    }
    print(json.dumps({"benchmark": title, "ours": ours, "ratio_to": ratios}))
