"""A model store: a plain directory of real files, to be packed, copied, carried away, and served where it lands.

:func:`lading.store_plan.plan_store` decides from what :func:`survey_site` found, :func:`create_store` does it, hashing
every file. The directory is filled beside its place and renamed into it. Where that is not possible (a volume is
mounted there, its parent cannot be written) files are moved into it one by one once all are whole, ``config.json``
last: no engine takes it for a model before. What an ended run left is continued. Files of others are never touched.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lading.cache.disk import (
    Check,
    can_write_directory,
    machine_error,
    nearest_existing,
    never,
    not_writable,
    sync_directory,
)
from lading.digest import Digest
from lading.errors import CacheBusy, DigestMismatch, MachineError, NotEnoughDisk, NotWritable, UsageError
from lading.events import FilesChecked, Note, Report, ignore
from lading.placing import WAY_REFUSED, Way, is_mount_point, put, sha256_of, ways_between
from lading.store_plan import Site, Step, StoreFile, StorePlan
from lading.units import MIB

_LAST = "config.json"
_NOT_OURS = frozenset({"lost+found"})  # what volumes have at their root
_THREADS = 4
_TELL_BYTES = 16 * MIB


def survey_site(directory: Path, origin: Path, *, may_link: bool = True) -> Site:
    """What is at ``directory`` now, for files whose bytes lie below ``origin``. Writes nothing.

    Raises UsageError for what is no directory, NotWritable where none can be made.
    """
    directory = Path(os.path.realpath(directory))
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is not a directory", remedy="name a new or empty directory")
    with store_errors(directory):
        there, others = _found_in(directory)
        fills = directory.is_dir() and _must_be_filled(directory)
        place = directory if fills else nearest_existing(directory.parent)
        if not there and not can_write_directory(place):
            raise not_writable(place)
        free = os.statvfs(place)
        ways = ways_between(origin, place, may_link=may_link)
        site = Site(directory, ways, free.f_bavail * free.f_frsize, fills, there, others=others)
        return replace(site, staged=_found_in(site.staging)[0])


def _must_be_filled(directory: Path) -> bool:
    """Whether a directory that exists cannot give way to a new one of its name."""
    is_used = any(directory.iterdir())
    return is_used or is_mount_point(directory) or not can_write_directory(directory.parent)


def _found_in(directory: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """The regular files below, by path, with their sizes; names of what is none. Hidden ones are nobody's."""
    files: dict[str, int] = {}
    others: list[str] = []
    for root, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_OURS]
        for name in [*names, *(name for name in folders if Path(root, name).is_symlink())]:
            place = Path(root, name)
            path = place.relative_to(directory).as_posix()
            if name.startswith("."):
                continue
            if place.is_symlink() or not place.is_file():
                others.append(path)
            else:
                files[path] = place.stat().st_size
    return files, tuple(others)


_NOT_WRITABLE = "make it writable for this user, or name another directory"
_NO_ROOM = "free space there, or name a directory on a larger disk; the same command goes on where this one stopped"


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the body into the :class:`MachineError` that names ``path`` and tells what helps."""
    try:
        yield
    except OSError as error:
        told = machine_error(path, error)
        remedies = {NotEnoughDisk: _NO_ROOM, NotWritable: _NOT_WRITABLE}
        raise type(told)(told.message, remedy=remedies.get(type(told), told.remedy)) from error
    except NotWritable as error:
        raise NotWritable(error.message, remedy=_NOT_WRITABLE) from error


@dataclass(frozen=True, slots=True)
class Stored:
    """What was done: the SHA-256 of every file by path, how many bytes each way placed, and how many were there."""

    digests: Mapping[str, Digest]
    placed_bytes: Mapping[Way, int]
    kept_bytes: int

    @property
    def copied_bytes(self) -> int:
        """Bytes that were written."""
        return self.placed_bytes.get(Way.COPY, 0)


def create_store(
    plan: StorePlan, origins: Mapping[str, Path], report: Report = ignore, *, check: Check = never
) -> Stored:
    """Carry out the plan; ``origins`` has for every path the bytes. On return the store is whole, hashed, in its place.

    ``check`` may raise to end it; what is done so far is kept for the next run. Raises DigestMismatch for bytes that
    are not what they should be, at their origin or in the store, NotEnoughDisk, NotWritable, and CacheBusy while
    another process makes the same store.
    """
    builder = _Builder(plan, origins, report, check)
    if plan.is_satisfied:
        return builder.run()
    plan.check_disk()
    with _holding(plan.site.staging):
        _drop_strays(plan)
        stored = builder.run()
        with store_errors(plan.directory):
            (_move_in if plan.site.fills_in_place else _rename)(plan)
    return stored


@contextmanager
def _holding(staging: Path) -> Iterator[None]:
    """The staging directory, made, with a lock on it that ends with this process; where locks are offered."""
    with store_errors(staging):
        staging.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        busy = CacheBusy(f"another process makes {staging} into a model store", remedy="wait for it, then run it again")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass  # no locks here: files appear whole and under their names, so two that write the same do no harm
        if not staging.is_dir() or staging.stat().st_ino != os.fstat(descriptor).st_ino:
            raise busy
        yield
    finally:
        os.close(descriptor)


def _drop_strays(plan: StorePlan) -> None:
    """Delete what an ended run staged and this one has no use for."""
    staging = plan.site.staging
    wanted = {file.path for file, step in plan.steps if step is Step.CONTINUE}
    with store_errors(staging):
        for root, _, names in os.walk(staging):
            for name in names:
                place = Path(root, name)
                if place.relative_to(staging).as_posix() not in wanted:
                    place.unlink()


def _rename(plan: StorePlan) -> None:
    staging, directory = plan.site.staging, plan.directory
    if directory.is_dir():
        staging.chmod(directory.stat().st_mode & 0o7777)
    for root, _, _ in os.walk(staging, topdown=False):
        sync_directory(Path(root))
    staging.rename(directory)  # over an empty directory too
    sync_directory(directory.parent)


def _move_in(plan: StorePlan) -> None:
    staging, directory = plan.site.staging, plan.directory
    made = [file.path for file, step in plan.steps if step is not Step.KEEP]
    for path in sorted(made, key=lambda path: (path == _LAST, path)):
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        (staging / path).replace(place)
        sync_directory(place.parent)
    shutil.rmtree(staging)
    sync_directory(directory)


class _Builder:
    """Makes and hashes the files of one plan, several at a time."""

    def __init__(self, plan: StorePlan, origins: Mapping[str, Path], report: Report, check: Check) -> None:
        self._plan = plan
        self._origins = origins
        self._report = report
        self._check = check
        self._lock = threading.Lock()
        self._ways = list(plan.site.ways)
        self._placed: dict[Way, int] = {}
        self._done_bytes = 0
        self._told_bytes = 0
        self._failed = False

    def run(self) -> Stored:
        """All files; the first error ends the work on the others and is raised."""
        steps = sorted(self._plan.steps, key=lambda each: -each[0].size_bytes)
        self._report(FilesChecked(self._plan.total_bytes, 0))
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "lading-store") as pool:
            futures = [(file.path, pool.submit(self._guarded, file, step)) for file, step in steps]
            errors = [error for _, future in futures if (error := future.exception())]
        if errors:
            raise next((each for each in errors if not isinstance(each, _AbandonedError)), errors[0])
        self._report(FilesChecked(self._plan.total_bytes, self._plan.total_bytes))
        return Stored({path: future.result() for path, future in futures}, self._placed, self._plan.bytes_of(Step.KEEP))

    def _guarded(self, file: StoreFile, step: Step) -> Digest:
        try:
            self._tell(0)
            return self._done(file, step)
        except BaseException:
            self._failed = True
            raise

    def _done(self, file: StoreFile, step: Step) -> Digest:
        if step is Step.MAKE:
            return self._made(file)
        place = (self._plan.directory if step is Step.KEEP else self._plan.site.staging) / file.path
        with store_errors(place):
            found = sha256_of(place, self._tell)
            expected = file.digest or sha256_of(self._origins[file.path], never_mind)
        if found == expected:
            return found
        if step is Step.CONTINUE:
            return self._made(file)
        raise DigestMismatch(
            f"{place} has other bytes than the model's file: {found}, not {expected}",
            remedy=f"if nobody changed it on purpose, the disk did: delete {place} and run the command again",
        )

    def _made(self, file: StoreFile) -> Digest:
        origin, place = self._origins[file.path], self._plan.site.staging / file.path
        while True:
            way = self._ways[0]
            try:
                found = put(origin, place, way, self._tell, file.digest)
            except OSError as error:
                if way is Way.COPY or error.errno not in WAY_REFUSED:
                    with store_errors(place):
                        raise
                self._give_up(way)
                continue
            if found is None:
                raise DigestMismatch(
                    f"{file.path}: the bytes at {origin} are no longer those that were fetched ({file.digest})",
                    remedy="`lading cache verify` removes the damaged file; then the same command fetches it again",
                )
            with self._lock:
                self._placed[way] = self._placed.get(way, 0) + file.size_bytes
            return found

    def _give_up(self, way: Way) -> None:
        """Go on with the next way; copies need room, which is looked at before the first of them."""
        with self._lock:
            if self._ways[0] is not way:
                return
            left = replace(self._plan, site=replace(self._plan.site, ways=tuple(self._ways[1:])))
            left.check_disk()
            del self._ways[0]
        self._report(Note(f"a {way} is not possible in {self._plan.directory}: making each a {self._ways[0]}"))

    def _tell(self, count: int) -> None:
        """More bytes were hashed; ends the work where somebody asked for that, or another file failed."""
        self._check()
        if self._failed:
            raise _AbandonedError
        with self._lock:
            self._done_bytes += count
            is_due = self._done_bytes - self._told_bytes >= _TELL_BYTES
            if is_due:
                self._told_bytes = self._done_bytes
        if is_due:
            self._report(FilesChecked(self._plan.total_bytes, min(self._done_bytes, self._plan.total_bytes)))


class _AbandonedError(MachineError):
    """Another file failed."""

    def __init__(self) -> None:
        super().__init__("another file failed")


def never_mind(_count: int) -> None:
    """Tells nobody."""
