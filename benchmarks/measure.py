"""A program measured as a whole process: wall time, CPU time, peak memory. Runs of rivals are interleaved.

Machines that measure are shared, so that a number means something only beside others of the same minutes: every round
runs every rival once, each round begins with another one, and ratios are taken within a round before their median is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Run = Callable[[], "Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. ``peak_bytes`` is the largest resident size of any one process of it.

    A process counts from its ``fork``, so that no peak is below the size of this program.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int

    @classmethod
    def typical(cls, samples: Sequence[Sample]) -> Sample:
        """The median of each figure."""
        return cls(
            median(each.wall_seconds for each in samples),
            median(each.cpu_seconds for each in samples),
            int(median(each.peak_bytes for each in samples)),
        )


Rounds = dict[str, list[Sample]]
"""By rival, its runs in the order of the rounds."""


def sample(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Sample:
    """Run ``argv`` to its end, in ``environ`` or in ours; a failure ends the benchmark with what the program said."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        started = time.perf_counter()
        process = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(argv)[:500]} ended with {process.returncode}:\n{output.read()[-4000:]}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def compare(rivals: Mapping[str, Run], repetitions: int) -> Rounds:
    """Every rival's runs, ``repetitions`` each."""
    rounds: Rounds = {name: [] for name in rivals}
    names = list(rivals)
    for number in range(repetitions):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            rounds[name].append(rivals[name]())
    return rounds


def ratio(rounds: Rounds, ours: str, other: str, figure: Callable[[Sample], float]) -> float:
    """How many times ``other``'s figure ours is: the median over the rounds."""
    pairs = zip(rounds[ours], rounds[other], strict=True)
    return median(figure(mine) / figure(theirs) for mine, theirs in pairs)


def wall(each: Sample) -> float:
    """Seconds from start to end."""
    return each.wall_seconds


def cpu(each: Sample) -> float:
    """Seconds of CPU, in user and kernel mode."""
    return each.cpu_seconds


def show(title: str, rounds: Rounds, ours: str) -> None:
    """A table, and one line of JSON with the ratios of ``ours`` to each rival (below 1 is better for us)."""
    print(f"\n{title}")
    for name, samples in rounds.items():
        each = Sample.typical(samples)
        peak = f"{each.peak_bytes / 1e6:7.0f} MB"
        print(f"  {name:<26}{each.wall_seconds:8.3f} s {each.cpu_seconds:8.3f} cpu-s {peak}")
    ratios = {
        name: {"wall": round(ratio(rounds, ours, name, wall), 3), "cpu": round(ratio(rounds, ours, name, cpu), 3)}
        for name in rounds
        if name != ours
    }
    print(json.dumps({"benchmark": title, "ours": ours, "ratio_to": ratios}))
