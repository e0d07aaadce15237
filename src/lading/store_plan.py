"""What a model store needs, decided before anything is written: which files are there, which are to be made, and how.

Pure: the caller says what was found on the disk (:class:`Site`); the plan is a value to print, compare and test.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lading.digest import Digest
from lading.errors import NotEnoughDisk, UsageError
from lading.placing import Way
from lading.plan import MARGIN_BYTES
from lading.units import format_bytes

STAGING = ".lading-partial"
"""What the names of directories begin with in which files are gathered."""


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file to have in the store. ``digest`` is its SHA-256, None where nobody knows it yet."""

    path: str
    size_bytes: int
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """What is where the store shall be: sizes by path of its regular files, and of those that an ended run staged.

    ``others`` are names of anything else. ``fills_in_place`` says that the directory cannot be replaced as a whole.
    ``ways`` are those that its disk should offer, cheapest first.
    """

    directory: Path
    ways: tuple[Way, ...] = (Way.COPY,)
    free_bytes: int = 0
    fills_in_place: bool = False
    there: Mapping[str, int] = field(default_factory=dict)
    staged: Mapping[str, int] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def staging(self) -> Path:
        """Where files are gathered: in the directory, or beside it."""
        if self.fills_in_place:
            return self.directory / STAGING
        key = hashlib.sha256(os.fsencode(self.directory.name)).hexdigest()[:12]
        return self.directory.parent / f"{STAGING}-{key}"


class Step(StrEnum):
    """What happens with a file of the store."""

    KEEP = "keep"  # the store has it: it is hashed
    CONTINUE = "continue"  # an ended run staged it: it is hashed, and made anew where it is wrong
    MAKE = "make"


@dataclass(frozen=True, slots=True)
class StorePlan:
    """A decided store: the step of every file, by path."""

    site: Site
    steps: tuple[tuple[StoreFile, Step], ...]

    @property
    def directory(self) -> Path:
        """Where the store will be."""
        return self.site.directory

    @property
    def way(self) -> Way:
        """How files will be made, as far as can be told without writing."""
        return self.site.ways[0]

    @property
    def is_satisfied(self) -> bool:
        """Whether the store has every file already."""
        return all(step is Step.KEEP for _, step in self.steps)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return self.bytes_of(*Step)

    @property
    def needed_bytes(self) -> int:
        """Free bytes that the disk must have, a margin included; 0 where files are not copied."""
        copied = self.bytes_of(Step.MAKE) if self.way is Way.COPY else 0
        return copied + MARGIN_BYTES if copied else 0

    def bytes_of(self, *steps: Step) -> int:
        """Bytes of the files with one of these steps."""
        return sum(file.size_bytes for file, step in self.steps if step in steps)

    def check_disk(self, spoken_for_bytes: int = 0) -> None:
        """Raise :class:`NotEnoughDisk` when the disk cannot take the copies beside what else will be written to it."""
        if not self.needed_bytes:
            return
        lacking = self.needed_bytes + spoken_for_bytes - self.site.free_bytes
        if lacking > 0:
            before = f", {format_bytes(spoken_for_bytes)} of them for the download" if spoken_for_bytes else ""
            raise NotEnoughDisk(
                f"copies of {len(self.steps)} files into {self.directory} need {format_bytes(self.needed_bytes)}, and "
                f"{format_bytes(self.site.free_bytes)} are free{before}",
                remedy=f"free {format_bytes(lacking)} there, or name a directory on a larger disk, or one on the "
                "cache's own disk, where files need no room of their own",
            )


def plan_store(files: Iterable[StoreFile], site: Site) -> StorePlan:
    """What is to be done for a store of exactly ``files``.

    Raises UsageError where the site holds anything that is no file of this store.
    """
    wanted = {file.path: file for file in sorted(files, key=lambda file: file.path)}
    foreign = [path for path, size in site.there.items() if path not in wanted or wanted[path].size_bytes != size]
    if strangers := sorted([*foreign, *site.others]):
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        raise UsageError(
            f"{site.directory} is not empty, and not a copy of this model: it holds {', '.join(strangers[:3])}{more}",
            remedy="name a new or empty directory, or delete what is there",
        )
    return StorePlan(site, tuple((file, _step(file, site)) for file in wanted.values()))


def _step(file: StoreFile, site: Site) -> Step:
    if file.path in site.there:
        return Step.KEEP
    return Step.CONTINUE if site.staged.get(file.path) == file.size_bytes else Step.MAKE
