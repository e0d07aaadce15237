"""``shim.c``, compiled, and the variables that make it do something to a child process."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
ALWAYS = -1


@dataclass(frozen=True, slots=True)
class Refusal:
    """Calls named ``call`` fail with ``number`` where their path matches ``glob``: ``times`` of them, after ``skip``.

    The calls: create, open, look (to read), read, write, sync, fallocate, truncate, rename and link (by the new
    name), name: either; symlink, unlink, mkdir, chmod, utime, flock; and change: any that a read-only filesystem refuses.
    """

    call: str
    number: int
    glob: str = "*"
    skip: int = 0
    times: int = ALWAYS

    def __str__(self) -> str:
        return f"{self.call} {self.number} {self.skip} {self.times} {self.glob}"


BARE = (
    *(Refusal(call, errno.EPERM) for call in ("symlink", "link")),
    Refusal("flock", errno.ENOLCK),
)
"""A filesystem without links and without locks."""


@dataclass(frozen=True, slots=True)
class Shim:
    """The compiled library."""

    library: Path

    def variables(
        self,
        under: Path,
        *refusals: Refusal,
        kill_at: int = 0,
        log: Path | None = None,
        clock: Path | None = None,
    ) -> dict[str, str]:
        """What to add to a child's environment, for faults below the directory ``under``."""
        found = {"LD_PRELOAD": str(self.library), "FAULTS_UNDER": str(under.resolve())}
        if refusals:
            found["FAULTS_RULES"] = "\n".join(map(str, refusals))
        if kill_at:
            found["FAULTS_KILL"] = str(kill_at)
        if log:
            found["FAULTS_LOG"] = str(log)
        if clock:
            found["FAULTS_CLOCK"] = str(clock)
        return found


def build(directory: Path) -> Shim | None:
    """The library, compiled into ``directory``; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = directory / "faults.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return Shim(library)


def set_clock(path: Path, seconds: int) -> None:
    """From now on the wall clock of the children that look at ``path`` is off by so many seconds."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, struct.pack("=q", seconds), 0)
    finally:
        os.close(descriptor)


def read_log(path: Path) -> Iterable[list[str]]:
    """The changes that a child made, in order: the call and its paths."""
    return [line.split(" ") for line in path.read_text().splitlines()]
