"""A bundle, brought into a cache: what is here is left where it is, the rest is read once, hashed, and then named.

:func:`plan_import` reads the head, checks the signature and looks at the cache; nothing of the bundle has entered it
then. :func:`import_bundle` goes model by model, each under its lock: an entry that is not complete names the blobs
first, so that no clean-up takes them; the complete one comes last. A run that ended is continued by the same command:
blobs that it committed are here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from lading.bundle.archive import Bundle
from lading.bundle.conveyor import Conveyor, Progress
from lading.bundle.head import BundleModel
from lading.bundle.layout import BlobPiece, contents
from lading.cache.disk import Check, allocate, machine_errors, never
from lading.cache.index import IndexEntry
from lading.cache.lock import Lock
from lading.cache.root import CacheRoot
from lading.digest import Digest, new_hasher
from lading.errors import DigestMismatch, NotEnoughDisk, UsageError
from lading.events import BlobVerified, Note, Report, ignore
from lading.plan import MARGIN_BYTES
from lading.units import format_bytes

_WAIT_SECONDS = 6 * 3600.0
_CLEAN_UP_SECONDS = 600.0


class Step(StrEnum):
    """What happens with a model of the bundle."""

    KEEP = "keep"  # the cache has all these files at this revision
    ADD = "add"  # it has none of the model, or a part of these files
    REPLACE = "replace"  # it has the model complete, at another revision or with other files


@dataclass(frozen=True, slots=True)
class ModelStep:
    """What happens with one model, and how many bytes that takes; those it shares with one before it are that one's."""

    model: BundleModel
    step: Step
    current: IndexEntry | None
    import_bytes: int


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import: the public key of who must have signed it, whether other revisions in the cache give way.

    ``verify_cached`` hashes again what is here.
    """

    verify_key: Path | None = None
    replace: bool = False
    verify_cached: bool = False


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """A decided import. ``signed_by`` is the fingerprint of the key that was checked, None where none was."""

    bundle: Bundle
    steps: tuple[ModelStep, ...]
    blobs: Mapping[Digest, int]
    missing: Mapping[Digest, int]
    free_bytes: int
    options: ImportOptions
    signed_by: str | None

    @property
    def import_bytes(self) -> int:
        """Bytes of blobs that are not here."""
        return sum(self.missing.values())

    @property
    def present_bytes(self) -> int:
        """Bytes of blobs that are here."""
        return sum(self.blobs.values()) - self.import_bytes

    @property
    def is_satisfied(self) -> bool:
        """Whether there is nothing to do."""
        return not self.missing and all(each.step is Step.KEEP for each in self.steps)

    @property
    def needed_bytes(self) -> int:
        """Free bytes that the cache's disk must have, a margin included; 0 where no blob is lacking."""
        return self.import_bytes + MARGIN_BYTES if self.missing else 0

    def check_disk(self, cache_path: Path) -> None:
        """Raise :class:`NotEnoughDisk` when the disk cannot take what is lacking."""
        lacking = self.needed_bytes - self.free_bytes
        if self.missing and lacking > 0:
            raise NotEnoughDisk(
                f"the import into {cache_path} needs {format_bytes(self.needed_bytes)}, and "
                f"{format_bytes(self.free_bytes)} are free",
                remedy=f"free {format_bytes(lacking)} there (`lading cache gc`, `lading cache remove`), or set "
                "NIM_CACHE_PATH to a directory on a larger disk",
            )

    def check_steps(self) -> None:
        """Raise UsageError where a model of the cache would give way and that was not asked for."""
        if not self.options.replace:
            for each in self.steps:
                if each.step is Step.REPLACE and each.current:
                    raise _other(each.model, each.current)


@dataclass(frozen=True, slots=True)
class Imported:
    """What was done: how many bytes came, in how many seconds."""

    plan: ImportPlan
    imported_bytes: int
    seconds: float


def plan_import(
    bundle: Bundle, cache: CacheRoot, options: ImportOptions, report: Report = ignore, check: Check = never
) -> ImportPlan:
    """What importing ``bundle`` would do. Writes nothing; damaged blobs of the cache go, as always.

    Raises SignatureRefused where a key is named that did not sign it.
    """
    signed_by = _signed_by(bundle, options.verify_key, report)
    marks = cache.index.marks()
    blobs = bundle.head.blobs
    missing: dict[Digest, int] = {}
    for digest, size_bytes in blobs.items():
        check()
        is_here = cache.store.holds(digest, size_bytes, marks.get(digest), check)
        if is_here and options.verify_cached and not cache.store.verify(digest, check):
            is_here = False
            if cache.is_writable:
                cache.store.remove(digest)
        if not is_here:
            missing[digest] = size_bytes
    left = dict(missing)
    steps = []
    for model in bundle.head.models:
        current = cache.index.load(model.source, report)
        size = sum(left.pop(digest, 0) for digest in model.blobs)
        steps.append(ModelStep(model, step_for(model, current), current, size))
    return ImportPlan(bundle, tuple(steps), blobs, missing, cache.free_bytes(), options, signed_by)


def _signed_by(bundle: Bundle, key: Path | None, report: Report) -> str | None:
    if key is None:
        if bundle.signature is not None:
            report(Note("the bundle is signed; its signature was not checked: --verify-key KEY.pub does"))
        return None
    from lading.bundle.signing import SignatureRefused, require_key, verify

    require_key(key, is_private=False)
    if bundle.signature is None:
        raise SignatureRefused(
            "the bundle is not signed, and a key was named that should have signed it",
            remedy="ask whoever made it for a signed one: `lading bundle create --sign-key KEY.pem`",
        )
    return verify(bundle.signature, contents(bundle.head), key)


def step_for(model: BundleModel, current: IndexEntry | None) -> Step:
    """What is to happen with a model of which the cache has ``current``. Pure.

    A complete entry gives way unasked only to one that has all its files and more, at its revision.
    """
    if current is None or not current.is_complete:
        return Step.ADD
    mine, theirs = ({(file.path, file.digest) for file in each.manifest.files} for each in (model, current))
    if model.manifest.revision != current.manifest.revision or not (mine <= theirs or theirs <= mine):
        return Step.REPLACE
    return Step.KEEP if mine <= theirs else Step.ADD


def _other(model: BundleModel, current: IndexEntry) -> UsageError:
    def at(revision: str | None) -> str:
        return revision or "no revision"

    mine, theirs = at(model.manifest.revision), at(current.manifest.revision)
    difference = f"at {theirs}, the bundle has it at {mine}" if mine != theirs else f"at {mine} with other files"
    return UsageError(
        f"the cache has {model.source} complete {difference}",
        remedy="--replace takes the bundle's; without it nothing is imported",
    )


def import_bundle(plan: ImportPlan, cache: CacheRoot, report: Report = ignore, check: Check = never) -> Imported:
    """Carry out the plan: on return the cache has every model of the bundle complete.

    ``check`` may raise to end it; blobs that came so far stay. Raises DigestMismatch or MalformedBundle for bytes that
    are not what the head says, NotEnoughDisk, NotWritable, CacheBusy, and UsageError for a model that would give way.
    """
    began = time.monotonic()
    plan.check_steps()
    if plan.is_satisfied:
        return Imported(plan, 0, 0.0)
    cache.require_writable()
    plan.check_disk(cache.path)
    with _Intake(plan, cache, report, check) as intake:
        for each in plan.steps:
            if each.step is not Step.KEEP or plan.missing.keys() & each.model.blobs.keys():
                intake.bring_model(each.model)
        intake.tell.end()
    return Imported(plan, intake.imported_bytes, time.monotonic() - began)


class _Intake:
    """Brings one bundle's models. Commits a blob while the next one is read."""

    def __init__(self, plan: ImportPlan, cache: CacheRoot, report: Report, check: Check) -> None:
        self._plan = plan
        self._cache = cache
        self._report = report
        self._lock: Lock | None = None
        self._given_check = check
        self._places = plan.bundle.layout.blobs
        self._conveyor = Conveyor()
        self._commits = ThreadPoolExecutor(1, "lading-commit")
        self._commit: Future[None] | None = None
        self.imported_bytes = 0
        self.tell = Progress(plan.import_bytes, report, self._check)

    def __enter__(self) -> _Intake:
        return self

    def __exit__(self, *_: object) -> None:
        self._conveyor.__exit__(None, None, None)
        self._commits.shutdown()

    def bring_model(self, model: BundleModel) -> None:
        """All blobs of a model that are not here, and its entry, under its lock."""
        cache, source = self._cache, model.source
        with cache.lock_for(source).acquire(_WAIT_SECONDS, self._report, self._given_check) as lock:
            self._lock = lock
            current = cache.index.load(source)
            step = step_for(model, current)
            if step is Step.REPLACE and current and not self._plan.options.replace:
                raise _other(model, current)
            created_at = current.created_at if current else time.time()
            if step is not Step.KEEP:
                cache.index.save(model.entry({}, created_at))
            while not self._is_whole(model):
                self._bring_blobs(model.blobs)
            self._check()
            cache.index.save(self._entry(model, current if step is Step.KEEP else None, created_at))
            if step is not Step.KEEP:
                shutil.rmtree(cache.partial_directory(source), ignore_errors=True)
            self._lock = None

    def _is_whole(self, model: BundleModel) -> bool:
        """Whether all blobs are here, which an entry names by now; no clean-up takes one after this."""
        with self._cache.collection_lock().acquire(_CLEAN_UP_SECONDS, self._report, self._check):
            return all(self._cache.store.has(digest, size) for digest, size in model.blobs.items())

    def _entry(self, model: BundleModel, kept: IndexEntry | None, created_at: float) -> IndexEntry:
        """The complete entry; the one that is kept gets the marks of the blobs that came."""
        files = model.manifest.files
        found = {file.path: self._cache.store.mark_of(file.digest) for file in files if file.digest}
        marks = {path: mark for path, mark in found.items() if mark}
        return replace(kept, marks={**kept.marks, **marks}) if kept else model.entry(marks, created_at)

    def _bring_blobs(self, blobs: Mapping[Digest, int]) -> None:
        try:
            for digest, size_bytes in blobs.items():
                if not self._cache.store.has(digest, size_bytes):
                    self._bring(self._places[digest])
        finally:
            self._await_commit()

    def _bring(self, piece: BlobPiece) -> None:
        """One blob: read, hashed and written to a file of its own, which is committed where it is right."""
        self._plan.bundle.require_header(piece)
        staged = self._cache.tmp_path()
        try:
            self._stage(piece, staged)
            self._await_commit()
            self._commit = self._commits.submit(self._put, staged, piece)
        except BaseException:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
            raise

    def _stage(self, piece: BlobPiece, staged: Path) -> None:
        archive = self._plan.bundle.archive
        hasher = new_hasher("sha256", piece.size_bytes)
        with machine_errors(staged), staged.open("xb", buffering=0) as file:
            allocate(file.fileno(), piece.size_bytes)

            def write(view: memoryview) -> None:
                while view:
                    view = view[file.write(view) :]

            sinks = (hasher.update, write)
            count = self._conveyor.run(archive.reader(piece.offset), piece.size_bytes, sinks, self.tell)
        if count < piece.size_bytes or Digest("sha256", hasher.hexdigest()) != piece.digest:
            place = archive.place_of(piece.offset, piece.offset + piece.size_bytes)
            raise DigestMismatch(
                f"{place}: the bytes of {piece.digest} are damaged",
                remedy="copy that file again from where the bundle was made, then run the same command: it goes on",
            )

    def _put(self, staged: Path, piece: BlobPiece) -> None:
        try:
            self._cache.store.seal(staged)
            self._cache.store.commit(staged, piece.digest, piece.size_bytes)
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
        self.imported_bytes += piece.size_bytes
        self._report(BlobVerified(str(piece.digest), piece.size_bytes))

    def _await_commit(self) -> None:
        commit, self._commit = self._commit, None
        if commit:
            commit.result()

    def _check(self) -> None:
        self._given_check()
        if self._lock:
            self._lock.require_held()
