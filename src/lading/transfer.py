"""From a plan to verified blobs: parallel ranges, ordered hashing, resume, and one index entry at the end.

For any source: the engine asks for byte ranges and nothing else. Rules kept here:

* a blob exists only after all its bytes were hashed here, in order, and length and digest are right;
* a fixed pool of ``2 * connections`` part buffers bounds memory, whatever the size of the model;
* what an earlier run left on disk is hashed again before it counts; the final digest decides;
* the first error ends all threads and is raised in the caller's; partial files stay for the next run;
* nothing to fetch means that no lock is waited for and nothing but news is written, so a read-only cache serves.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lading.cache.disk import Check, machine_errors, never
from lading.cache.index import IndexEntry
from lading.cache.partial import PartialFile
from lading.cache.root import CacheRoot
from lading.cache.store import Mark
from lading.digest import Digest
from lading.errors import CacheBusy, MachineError
from lading.events import BlobVerified, Note, OthersProgress, Report, TransferFinished, TransferStarted, ignore
from lading.model.manifest import FileEntry, Manifest
from lading.pipeline import Pipeline, TransferCancelled, TransferOptions, unless
from lading.plan import Holdings, LocalCopy, PlannedFile, SkippedFile, Step, TransferPlan, plan_transfer
from lading.sources.interface import Source
from lading.units import format_bytes

__all__ = ["TransferCancelled", "TransferOptions", "survey", "transfer", "unless"]

_CLEAN_UP_SECONDS = 600.0
_WATCH_SECONDS = 2.0
_SAVE_SECONDS = 1.0  # how often the index entry is written while files arrive


def survey(
    manifest: Manifest,
    source: Source,
    cache: CacheRoot,
    *,
    skipped: tuple[SkippedFile, ...] = (),
    check: Check = never,
) -> TransferPlan:
    """The plan for fetching ``manifest`` into ``cache`` as things are now. Fetches and writes nothing.

    Blobs verified earlier, for this model or another, are trusted while they look the same, and hashed again where they
    do not; one that is wrong is removed. ``check`` may raise to end the hashing.
    """
    model = manifest.source
    known: dict[str, tuple[Digest, Mark]] = {}
    for entry in (cache.index.load(model), cache.index.load_next(model)):
        known |= entry.verified(manifest) if entry else {}
    marks = cache.index.marks() if len(known) < len(manifest.files) else {}
    present, local, partial = {}, {}, {}
    for file in manifest.files:
        check()
        digest, mark = known.get(file.path) or _promised_blob(file, marks)
        if digest and cache.store.holds(digest, file.size_bytes, mark, check):
            present[file.path] = digest
            continue
        partial[file.path] = PartialFile(_partial_path(cache, manifest, file), file).state
        if file.digest and (path := source.local_copy(file)):
            local[file.path] = LocalCopy(path, _same_filesystem(path, cache.path))
    holdings = Holdings(present, local, partial)
    return plan_transfer(manifest, holdings, free_bytes=cache.free_bytes(), cache_path=cache.path, skipped=skipped)


def transfer(
    plan: TransferPlan,
    source: Source,
    cache: CacheRoot,
    report: Report = ignore,
    *,
    cancelled: threading.Event,
    options: TransferOptions | None = None,
) -> Manifest:
    """Bring every file of ``plan.manifest`` into the store; the manifest with the SHA-256 of each.

    Holds the model's lock meanwhile; a second caller waits and then finds the files here. The plan is made again under
    the lock, so it may be old. On return the index entry is complete. Raises TransferCancelled within half a second of
    ``cancelled`` being set, the error of the source, DigestMismatch, NotEnoughDisk, NotWritable, or CacheBusy,
    which is also what a holder raises that slept until another took its place.
    """
    options = options or TransferOptions()
    lock = cache.lock_for(plan.manifest.source)

    is_wanted = unless(cancelled)

    def check() -> None:
        is_wanted()
        lock.require_held()

    if not cache.is_writable or _is_here(plan.manifest, cache):
        now = survey(plan.manifest, source, cache, skipped=plan.skipped, check=check)
        if now.is_satisfied:
            return _take_as_it_is(now, cache, report)
        cache.require_writable()
    watch = _Watch(plan.manifest, cache, report, check)
    if not options.may_fetch:
        return _await_others(plan, source, cache, report, watch, options)
    with lock.acquire(options.lock_wait_seconds, report, watch):
        _drop_strays(plan.manifest, cache)
        while True:
            now = survey(plan.manifest, source, cache, skipped=plan.skipped, check=check)
            now.check_disk()
            now = _adopt(now, cache, report, check, options.connections)
            now.check_disk()
            manifest = _fetch(now, source, cache, report, check, options)
            if _are_here(manifest, cache, report, check):
                return manifest


def _await_others(
    plan: TransferPlan, source: Source, cache: CacheRoot, report: Report, watch: _Watch, options: TransferOptions
) -> Manifest:
    """The model as another process fetched it; while one does, it is waited for.

    Raises MachineError for what is not here and nobody fetches.
    """
    with cache.lock_for(plan.manifest.source).acquire(options.lock_wait_seconds, report, watch):
        now = survey(plan.manifest, source, cache, skipped=plan.skipped, check=watch)
    if now.is_satisfied:
        return _take_as_it_is(now, cache, report)
    missing = [*now.of_step(Step.FETCH), *now.of_step(Step.ADOPT)]
    names = ", ".join(each.entry.path for each in missing[:3]) + (", ..." if len(missing) > 3 else "")
    raise MachineError(
        f"{len(missing)} files of {plan.manifest.source} are not in {cache.path} ({names}), "
        "and NIM_DISABLE_MODEL_DOWNLOAD forbids to fetch them",
        remedy="`download-to-cache` brings them, for the same settings; or unset NIM_DISABLE_MODEL_DOWNLOAD",
    )


def _are_here(manifest: Manifest, cache: CacheRoot, report: Report, check: Check) -> bool:
    """Whether the store has every file of ``manifest``, which an entry names by now.

    A clean-up deletes blobs that no entry names, under its lock: one that it took was gone before that was ours.
    """
    with cache.collection_lock().acquire(_CLEAN_UP_SECONDS, report, check):
        return all((sha := _sha256(file)) and cache.store.has(sha, file.size_bytes) for file in manifest.files)


def _is_here(manifest: Manifest, cache: CacheRoot) -> bool:
    """Whether an earlier transfer verified every file and none was touched since. Reads no blob."""
    entry = cache.index.load(manifest.source)
    known = entry.verified(manifest) if entry else {}
    return len(known) == len(manifest.files) and all(
        cache.store.mark_of(digest) == mark for digest, mark in known.values()
    )


def _drop_strays(manifest: Manifest, cache: CacheRoot) -> None:
    """Delete partial files of the model that this manifest has no use for: they only take room."""
    directory = cache.partial_directory(manifest.source)
    wanted = {_partial_path(cache, manifest, file) for file in manifest.files}
    with machine_errors(directory):
        for path in directory.iterdir() if directory.is_dir() else ():
            if path not in wanted and path.with_suffix("") not in wanted:
                path.unlink()


def _take_as_it_is(plan: TransferPlan, cache: CacheRoot, report: Report) -> Manifest:
    """The end of a transfer with nothing to do. Writes the index entry where it is news and nobody holds the lock."""
    ledger = _Ledger(plan, cache)
    report(TransferStarted(len(plan.files), plan.total_bytes, plan.total_bytes))
    _report_reused(plan, report, Step.PRESENT, Step.SHARED)
    report(TransferFinished(0, 0.0))
    model, leftovers = plan.manifest.source, cache.partial_directory(plan.manifest.source)
    if cache.is_writable and (ledger.has_news or leftovers.is_dir()):
        with suppress(CacheBusy), cache.lock_for(model).acquire(0):
            ledger.save()
            if cache.index.load_next(model) is None:  # else they are a refresh's, to be continued
                shutil.rmtree(leftovers, ignore_errors=True)
    return ledger.entry().manifest


def _fetch(
    plan: TransferPlan,
    source: Source,
    cache: CacheRoot,
    report: Report,
    check: Check,
    options: TransferOptions,
) -> Manifest:
    """Fetch what the plan says, with the index entry telling how far it came."""
    began = time.monotonic()
    ledger = _Ledger(plan, cache)
    report(TransferStarted(len(plan.files), plan.total_bytes, plan.total_bytes - plan.fetch_bytes + plan.resumed_bytes))
    _report_reused(plan, report, Step.PRESENT)
    ledger.save()
    wanted = [each.entry for each in plan.of_step(Step.FETCH)]
    if unnamed := sum(file.digest is None for file in wanted):
        report(Note(f"the source promises no digest for {unnamed} files; the SHA-256 computed here is recorded"))
    files = [(file, _partial_path(cache, plan.manifest, file)) for file in wanted]
    try:
        fetched_bytes = Pipeline(files, source, cache.store, report, options).run(check, ledger.record_fetched)
        check()
    except CacheBusy:
        raise  # another has the lock by now, and writes the entry
    except BaseException:
        with suppress(MachineError):
            ledger.save()
        raise
    ledger.save()
    shutil.rmtree(cache.partial_directory(plan.manifest.source), ignore_errors=True)
    _report_reused(plan, report, Step.SHARED)
    report(TransferFinished(fetched_bytes, time.monotonic() - began))
    return ledger.entry().manifest


def _report_reused(plan: TransferPlan, report: Report, *steps: Step) -> None:
    for each in plan.files:
        if each.step in steps:
            report(BlobVerified(each.entry.path, each.entry.size_bytes, reused=True))


def _sha256(file: FileEntry) -> Digest | None:
    return file.digest if file.digest and file.digest.algorithm == "sha256" else None


def _promised_blob(file: FileEntry, marks: Mapping[Digest, Mark]) -> tuple[Digest | None, Mark | None]:
    digest = _sha256(file)
    return digest, marks.get(digest) if digest else None


def _partial_path(cache: CacheRoot, manifest: Manifest, file: FileEntry) -> Path:
    key = hashlib.sha256(file.path.encode()).hexdigest()
    return cache.partial_directory(manifest.source) / f"{key}.part"


def _same_filesystem(path: Path, cache_path: Path) -> bool:
    try:
        return path.stat().st_dev == cache_path.stat().st_dev
    except OSError:
        return False


def _adopt(plan: TransferPlan, cache: CacheRoot, report: Report, check: Check, threads: int) -> TransferPlan:
    """Take what other caches of this machine have, and the plan for the rest."""
    copies = plan.of_step(Step.ADOPT)
    if not copies:
        return plan
    _Ledger(plan, cache).save()
    report(Note(f"verifying {len(copies)} files ({format_bytes(plan.adopt_bytes)}) that this machine has already"))

    def adopt(each: PlannedFile) -> Digest | None:
        check()
        if each.local is None or each.entry.digest is None:
            return None
        digest = cache.store.adopt(each.local.path, each.entry.digest, each.entry.size_bytes, check)
        if digest is None:
            report(Note(f"{each.local.path} is not the promised {each.entry.path}; fetching it", "WARNING"))
        return digest

    with ThreadPoolExecutor(threads, thread_name_prefix="lading-adopt") as pool:
        adopted = zip(copies, pool.map(adopt, copies), strict=True)
        present = {each.entry.path: digest for each, digest in adopted if digest}
    present |= {each.entry.path: each.digest for each in plan.of_step(Step.PRESENT) if each.digest}
    holdings = Holdings(present, partial={each.entry.path: each.partial for each in plan.files})
    return plan_transfer(
        plan.manifest, holdings, free_bytes=cache.free_bytes(), cache_path=cache.path, skipped=plan.skipped
    )


class _Watch:
    """Tells, while somebody else fetches the model, how far that is; a :data:`~lading.cache.disk.Check`."""

    def __init__(self, manifest: Manifest, cache: CacheRoot, report: Report, check: Check) -> None:
        self._manifest = manifest
        self._cache = cache
        self._report = report
        self._check = check
        self._due = 0.0

    def __call__(self) -> None:
        """Called between two looks at the lock."""
        self._check()
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _WATCH_SECONDS
            self._report(OthersProgress(self._manifest.total_bytes, self._present_bytes()))

    def _present_bytes(self) -> int:
        """Bytes of verified files, and those that journals speak of."""
        cache, manifest = self._cache, self._manifest
        entries = (cache.index.load(manifest.source), cache.index.load_next(manifest.source))
        verified = {path for entry in entries if entry for path in entry.verified(manifest)}
        return sum(
            file.size_bytes
            if file.path in verified
            else PartialFile(_partial_path(cache, manifest, file), file).state.done_bytes
            for file in manifest.files
        )


class _Ledger:
    """Which files of a plan were verified so far, and the index entry that says so."""

    def __init__(self, plan: TransferPlan, cache: CacheRoot) -> None:
        self._plan = plan
        self._cache = cache
        known, waiting = cache.index.load(plan.manifest.source), cache.index.load_next(plan.manifest.source)
        self._created_at = known.created_at if known else time.time()
        self._saved = known
        self._promises = {**(known.promises if known else {}), **(waiting.promises if waiting else {})}
        self._save_due = 0.0
        self._shared: dict[str, list[str]] = {}
        for each in plan.of_step(Step.SHARED):
            self._shared.setdefault(each.shared_with or "", []).append(each.entry.path)
        self._digests: dict[str, Digest] = {}
        self._marks: dict[str, Mark] = {}
        for each in plan.of_step(Step.PRESENT):
            if each.digest:
                self._record(each.entry.path, each.digest)

    def record_fetched(self, file: FileEntry, digest: Digest) -> None:
        """The store holds the bytes of ``file`` now. Writes the entry when it was not written for a while."""
        self._record(file.path, digest)
        if time.monotonic() >= self._save_due:
            self.save()
            self._save_due = time.monotonic() + _SAVE_SECONDS

    def entry(self) -> IndexEntry:
        """The index entry as of now."""
        listed = self._plan.manifest
        files = [replace(file, digest=self._digests.get(file.path, file.digest)) for file in listed.files]
        return IndexEntry(
            manifest=Manifest.of(listed.source, listed.revision, files),
            is_complete=len(self._digests) == len(files),
            created_at=self._created_at,
            promised={file.path: promise for file in listed.files if (promise := self._promise(file))},
            marks=dict(self._marks),
            skipped=self._plan.skipped,
        )

    @property
    def has_news(self) -> bool:
        """Whether the cache's entry says anything else."""
        return self.entry() != self._saved

    def save(self) -> None:
        """Write the entry, unless the cache has it as it is."""
        entry = self.entry()
        if entry != self._saved:
            self._cache.index.save(entry)
            self._saved = entry

    def _promise(self, file: FileEntry) -> Digest | None:
        """What the source promised for a verified file, where that is not its SHA-256; a recalled listing forgot it."""
        digest = self._digests.get(file.path)
        if digest is None or (file.digest and not _sha256(file)):
            return file.digest if digest else None
        return self._promises.get((file.path, digest))

    def _record(self, path: str, digest: Digest) -> None:
        if mark := self._cache.store.mark_of(digest):
            for each in (path, *self._shared.get(path, ())):
                self._digests[each], self._marks[each] = digest, mark
