"""Looking after a cache: what it holds, whether its bytes are right, what nobody needs any more.

Rules kept here:

* blobs are deleted under ``locks/gc.lock`` alone, and only those that no entry and no running server names and that
  have been there for a while: a transfer names a blob in its entry within seconds of putting it there;
* a model's entry, partial files and workspace go under that model's lock; a model that is being fetched is left alone;
* what is not ours is not touched.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from lading.cache.disk import TEMPORARY, Check, fresh_path, machine_errors, never
from lading.cache.index import IndexEntry, model_key
from lading.cache.root import CacheRoot
from lading.cache.use import Use, drop_dead_uses, live_uses
from lading.digest import Digest
from lading.errors import CacheBusy, ModelNotFound, UsageError
from lading.events import BlobVerified, Note, Report, ignore
from lading.uri import ModelUri

NEW_BLOB_SECONDS = 600.0
PARTIAL_SECONDS = 7 * 86400.0
LITTER_SECONDS = 86400.0
_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Holding:
    """What the cache has of one model.

    ``present_bytes`` of ``entry.total_bytes`` are here; removing the model would free ``own_bytes``, since no other
    model has those; ``uses`` are the servers that run from it now.
    """

    entry: IndexEntry
    present_bytes: int
    own_bytes: int
    uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cache holds. Sizes in bytes; a blob of several models counts once in ``blob_bytes``.

    ``unneeded_bytes`` are those of blobs that nothing names, ``partial_bytes`` those reserved by unfinished files.
    """

    holdings: tuple[Holding, ...]
    blob_bytes: int
    unneeded_bytes: int
    partial_bytes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What :func:`verify` found: ``damaged`` blobs with the models whose files they are; they were removed or kept."""

    blobs: int
    total_bytes: int
    seconds: float
    damaged: Mapping[Digest, tuple[str, ...]]
    removed: bool


@dataclass(slots=True)
class Cleaned:
    """What :func:`collect` deleted, or would."""

    models: list[str] = field(default_factory=list)
    blobs: int = 0
    partials: int = 0
    workspaces: int = 0
    freed_bytes: int = 0


def contents(cache: CacheRoot, report: Report = ignore) -> Contents:
    """What the cache holds, by the models' names. Reads no blob."""
    entries = sorted(cache.index.entries(report), key=lambda entry: str(entry.source))
    sizes = {digest: mark.size_bytes for digest in cache.store.digests() if (mark := cache.store.mark_of(digest))}
    uses = tuple(live_uses(cache.uses_directory, time.time()))
    named = _named_by(entries)
    holdings = []
    for entry in entries:
        mine = {digest for digest in _digests(entry) if digest in sizes}
        own = sum(sizes[digest] for digest in mine if len(named[digest]) == 1)
        here = tuple(use for use in uses if use.source == entry.source)
        holdings.append(Holding(entry, sum(sizes[digest] for digest in mine), own, here))
    in_use = {digest for use in uses for digest in use.digests}
    unneeded = sum(size for digest, size in sizes.items() if digest not in named and digest not in in_use)
    partial = sum(_allocated_bytes(path) for path in cache.path.glob("partial/*/*.part"))
    return Contents(tuple(holdings), sum(sizes.values()), unneeded, partial)


def verify(
    cache: CacheRoot,
    model: ModelUri | None = None,
    report: Report = ignore,
    check: Check = never,
    *,
    dry_run: bool = False,
) -> Verdict:
    """Hash every blob again, or those of one model, on all cores. Damaged ones are removed where that is allowed.

    A start then fetches them again; a dry run only tells them. Raises ModelNotFound for a model that the cache does not
    have.
    """
    entries = list(cache.index.entries(report))
    wanted = [entry for entry in entries if model is None or entry.source == model]
    if model and not wanted:
        raise _unknown(model, entries)
    named = _named_by(wanted)
    digests = [digest for digest in cache.store.digests() if model is None or digest in named]
    began = time.monotonic()

    def is_right(digest: Digest) -> bool:
        check()
        found = cache.store.verify(digest, check)
        if found:
            report(BlobVerified(str(digest), _size(cache, digest), reused=True))
        return found

    total_bytes = sum(_size(cache, digest) for digest in digests)
    with ThreadPoolExecutor(os.cpu_count() or 1, "lading-verify") as threads:
        wrong = [digest for digest, right in zip(digests, threads.map(is_right, digests), strict=True) if not right]
    damaged = [digest for digest in wrong if cache.store.mark_of(digest)]  # one that was removed meanwhile is not
    removes = cache.is_writable and not dry_run
    for digest in damaged if removes else ():
        cache.store.remove(digest)
    told = {digest: tuple(named.get(digest, ())) for digest in damaged}
    return Verdict(len(digests), total_bytes, time.monotonic() - began, told, removes)


def check_again(cache: CacheRoot, model: ModelUri, report: Report = ignore, check: Check = never) -> None:
    """Hash what the cache has of a model again; what is damaged goes, so that a transfer fetches it.

    Does nothing for a model that the cache does not have. Raises NotWritable where something is damaged and stays.
    """
    if cache.index.load(model) is None:
        return
    found = verify(cache, model, report, check)
    report(Note(f"{found.blobs} files in the cache hashed again, {len(found.damaged)} damaged"))
    if found.damaged:
        cache.require_writable()


def remove(cache: CacheRoot, model: ModelUri, report: Report = ignore, *, dry_run: bool = False) -> Cleaned:
    """Forget a model: its entries, partial files, workspaces, and the blobs that no other model has.

    A dry run tells what would go. Raises ModelNotFound where the cache does not have it, UsageError while a server runs
    from it, CacheBusy while it is being fetched.
    """
    cache.require_writable()
    entries = list(cache.index.entries(report))
    if not any(entry.source == model for entry in entries):
        raise _unknown(model, entries)
    done = Cleaned()
    _forget(cache, model, done, dry_run=dry_run)
    _delete_blobs(cache, done, report, dry_run=dry_run, leaving={model} if dry_run else ())
    return done


def collect(
    cache: CacheRoot,
    report: Report = ignore,
    *,
    unused_seconds: float | None = None,
    dry_run: bool = False,
    now: float | None = None,
) -> Cleaned:
    """Delete what nothing needs; with ``unused_seconds``, first forget the models not used for so long.

    Nothing that an entry or a running server names goes, nor a model that is being fetched. ``now`` is the time by the
    filesystem's clock, which is asked where it is None.
    """
    cache.require_writable()
    done = Cleaned()
    now = time_in(cache) if now is None else now
    used = {use.source for use in live_uses(cache.uses_directory, now)}
    going: set[ModelUri] = set()
    for entry in cache.index.entries(report) if unused_seconds is not None else ():
        if entry.source not in used and now - entry.last_used_at >= (unused_seconds or 0.0):
            going.add(entry.source)
            _forget_unless_busy(cache, entry.source, done, report, dry_run=dry_run)
    _delete_partials(cache, done, now, dry_run=dry_run)
    _delete_workspaces(cache, done, now, dry_run=dry_run)
    if not dry_run:
        _delete_listings(cache, now)
        _delete_litter(cache, now)
    leaving = going if dry_run else set()
    _delete_blobs(cache, done, report, dry_run=dry_run, older_than=now - NEW_BLOB_SECONDS, leaving=leaving)
    return done


def _forget_unless_busy(cache: CacheRoot, model: ModelUri, done: Cleaned, report: Report, *, dry_run: bool) -> None:
    if dry_run:
        done.models.append(str(model))
        return
    try:
        _forget(cache, model, done)
    except (CacheBusy, UsageError) as error:
        report(Note(f"{model} stays: {error.message}"))


def _forget(cache: CacheRoot, model: ModelUri, done: Cleaned, *, dry_run: bool = False) -> None:
    """Delete all of a model but its blobs, under its lock; in a dry run, only count it."""
    with cache.lock_for(model).acquire(0.0):
        if users := [str(use) for use in live_uses(cache.uses_directory, time_in(cache)) if use.source == model]:
            raise UsageError(f"{model} is being served by {', '.join(users)}", remedy="stop that server first")
        entries = [each for each in (cache.index.load(model), cache.index.load_next(model)) if each]
        workspaces = {cache.workspace_for(entry.pinned) for entry in entries}
        parts = list(cache.partial_directory(model).glob("*.part"))
        done.workspaces += sum(path.is_dir() for path in workspaces)
        done.partials += len(parts)
        done.freed_bytes += sum(map(_allocated_bytes, parts))
        if not dry_run:
            cache.index.remove(model)
            cache.runtime_manifests.remove(model_key(model))
            for path in (*workspaces, cache.partial_directory(model)):
                _delete_tree(path)
    done.models.append(str(model))


def _delete_blobs(
    cache: CacheRoot,
    done: Cleaned,
    report: Report,
    *,
    dry_run: bool = False,
    older_than: float = float("inf"),
    leaving: Collection[ModelUri] = (),
) -> None:
    """Delete blobs that came before ``older_than`` and that nothing names, entries of models ``leaving`` aside."""
    with cache.collection_lock().acquire(_WAIT_SECONDS, report):
        entries = [entry for entry in cache.index.entries(report) if entry.source not in leaving]
        waiting = [each for entry in entries if (each := cache.index.load_next(entry.source))]
        needed = set(_named_by([*entries, *waiting]))
        needed |= {digest for use in live_uses(cache.uses_directory, time_in(cache)) for digest in use.digests}
        for digest in cache.store.digests():
            if digest in needed or _changed_at(cache.store.path_of(digest)) >= older_than:
                continue
            done.blobs += 1
            done.freed_bytes += _freed_bytes(cache.store.path_of(digest))
            if not dry_run:
                cache.store.remove(digest)


def _delete_partials(cache: CacheRoot, done: Cleaned, now: float, *, dry_run: bool) -> None:
    """Delete partial files that were not touched for days, unless their model is being fetched."""
    for directory in sorted(cache.path.glob("partial/*")):
        parts = [path for path in directory.glob("*.part") if now - _changed_at(path) >= PARTIAL_SECONDS]
        with suppress(CacheBusy), cache.lock_of_key(directory.name).acquire(0.0):
            for path in parts:
                done.partials += 1
                done.freed_bytes += _allocated_bytes(path)
                if not dry_run:
                    _delete(path, path.with_name(f"{path.name}.json"))
            if not dry_run:
                with suppress(OSError):
                    directory.rmdir()


def _delete_workspaces(cache: CacheRoot, done: Cleaned, now: float, *, dry_run: bool) -> None:
    """Delete workspaces of models that the cache does not have and nobody serves."""
    kept = {cache.workspace_for(entry.pinned) for entry in cache.index.entries()}
    kept |= {Path(use.workspace) for use in live_uses(cache.uses_directory, now)}
    for path in cache.workspaces_directory.glob("[!.]*"):
        if path not in kept and now - _changed_at(path) >= NEW_BLOB_SECONDS:
            done.workspaces += 1
            if not dry_run:
                _delete_tree(path)


def _delete_listings(cache: CacheRoot, now: float) -> None:
    """Delete what is kept of models that were looked at long ago and never fetched, or that were forgotten."""
    keys = {model_key(entry.source) for entry in cache.index.entries()}
    for key in set(cache.runtime_manifests.keys()) - keys:
        cache.runtime_manifests.remove(key)
    held = {cache.index.listing_path(entry.source) for entry in cache.index.entries()}
    for path in cache.index.listings():
        if path not in held and now - _changed_at(path) >= PARTIAL_SECONDS:
            _delete(path)


def _delete_litter(cache: CacheRoot, now: float) -> None:
    drop_dead_uses(cache.uses_directory, now)
    # os.walk passes over a directory that a transfer deletes meanwhile; pathlib's glob fails for it
    found = [Path(root, name) for root, folders, names in os.walk(cache.path) for name in (*folders, *names)]
    strays = [path for path in found if path.name.startswith(TEMPORARY) or path.parent == cache.path / "tmp"]
    for path in strays:
        if now - _changed_at(path) >= LITTER_SECONDS:
            _delete_tree(path)


def time_in(cache: CacheRoot) -> float:
    """The time by the clock that stamps the cache's files: a file server's may differ from ours."""
    with machine_errors(cache.path):
        path = fresh_path(cache.path / "tmp")
        path.touch()
        try:
            return path.stat().st_mtime
        finally:
            path.unlink(missing_ok=True)


def _named_by(entries: Iterable[IndexEntry]) -> dict[Digest, list[str]]:
    """The SHA-256 digests that entries name, verified or promised, each with the models that do."""
    named: dict[Digest, list[str]] = {}
    for entry in entries:
        for digest in _digests(entry):
            named.setdefault(digest, []).append(str(entry.source))
    return named


def _digests(entry: IndexEntry) -> Iterator[Digest]:
    found = {file.digest for file in entry.manifest.files if file.digest and file.digest.algorithm == "sha256"}
    return iter(found)


def _size(cache: CacheRoot, digest: Digest) -> int:
    mark = cache.store.mark_of(digest)
    return mark.size_bytes if mark else 0


def _changed_at(path: Path) -> float:
    """When the name or the bytes changed last, a link or a rename counted; never, for what is gone."""
    try:
        found = path.lstat()
    except OSError:
        return float("inf")
    return max(found.st_mtime, found.st_ctime)


def _allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _freed_bytes(path: Path) -> int:
    """What deleting the name gives back: nothing where another cache has the same file by a hard link."""
    try:
        found = path.stat()
    except OSError:
        return 0
    return found.st_blocks * 512 if found.st_nlink == 1 else 0


def _delete(*paths: Path) -> None:
    for path in paths:
        with machine_errors(path):
            path.unlink(missing_ok=True)


def _delete_tree(path: Path) -> int:
    """Delete a file or a directory with all in it; 1 where there was one."""
    if path.is_symlink() or path.is_file():
        _delete(path)
        return 1
    if not path.is_dir():
        return 0
    with machine_errors(path):
        shutil.rmtree(path)
    return 1


def _unknown(model: ModelUri, entries: Iterable[IndexEntry]) -> ModelNotFound:
    near = get_close_matches(str(model), [str(entry.source) for entry in entries])
    remedy = f"did you mean {' or '.join(near)}?" if near else "`lading cache list` shows what it has"
    return ModelNotFound(f"the cache has nothing of {model}", remedy=remedy)
