"""Which files a model has: as the cache has it complete, as it was listed last, or as its source lists it now.

With a complete entry in the cache nothing here opens a socket, unless :class:`Refresh` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from lading.cache.index import IndexEntry
from lading.cache.listing import Reads, load_listing
from lading.cache.root import CacheRoot
from lading.cache.runtime_manifests import RUNTIME_MANIFEST
from lading.errors import OfflineError, SourceError, SourceUnreachable
from lading.events import Note, Report
from lading.model.manifest import FileEntry, Manifest
from lading.plan import Globs
from lading.profiles.fit import Reread
from lading.sources.interface import Source
from lading.uri import ModelUri


class Refresh(IntEnum):
    """When the source is asked for a model that the cache has complete.

    CHECK asks and says what changed, but takes what is here. ALWAYS takes what the source has; where it cannot
    be asked, what is here. DEMANDED is ALWAYS without that.
    """

    NEVER = 0
    CHECK = 1
    ALWAYS = 2
    DEMANDED = 3


@dataclass(frozen=True, slots=True)
class Consultation:
    """How to ask: whether the source is asked although the cache knows, which files to take, and where to report.

    ``reread`` makes the wish anew with flags that the model brings along; None: those do not count.
    """

    refresh: Refresh
    report: Report
    globs: Globs = field(default_factory=Globs)
    reread: Reread | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """All files of a model, and what was read of them before; ``is_recalled``: the cache said so, not the source."""

    manifest: Manifest
    reads: Reads
    is_recalled: bool = False


def find_files(model: ModelUri, source: Source, cache: CacheRoot | None, world: Consultation) -> Found:
    """All files of the model: as the cache has them complete, or as the source lists them now.

    Which of the two, :class:`Refresh` says. A source that cannot be asked is no error where the model was listed
    before, unless asking it was demanded.
    """
    entry = _recall(model, cache, world.report) if cache else None
    refresh = world.refresh
    if entry and cache and cache.is_writable and refresh < Refresh.ALWAYS and cache.runtime_manifests.is_deleted(model):
        world.report(Note(f"{RUNTIME_MANIFEST} was deleted: asking the source of {model} again"))
        refresh = Refresh.ALWAYS
    if entry and refresh < Refresh.ALWAYS:
        if refresh is Refresh.CHECK:
            _check_for_changes(entry, source, world.report)
        return Found(entry.listed, Reads(), is_recalled=True)
    kept = load_listing(cache.index.listing_path(model), model) if cache else None
    reads = kept.reads if kept else Reads()
    try:
        return Found(source.list_files(model), reads)
    except (OfflineError, SourceUnreachable) as error:
        older = entry.listed if entry else kept.manifest if kept and refresh < Refresh.ALWAYS else None
        if older is None or refresh is Refresh.DEMANDED:
            raise
        here = (
            f"the cache has {model} complete, at {older.revision}" if entry else f"taking {model} as it was listed last"
        )
        world.report(Note(f"{error.message}; {here}", "WARNING"))
        return Found(older, reads, is_recalled=entry is not None)


@contextmanager
def bringing(command: str) -> Iterator[None]:
    """Where the network inside fails, or is forbidden, the error tells how to do without it: ``command``, elsewhere."""
    try:
        yield
    except (OfflineError, SourceUnreachable) as error:
        elsewhere = f"where there is a network: {command}, and bring that cache here"
        error.remedy = "\n".join(filter(None, (error.remedy, elsewhere)))
        raise


def _check_for_changes(entry: IndexEntry, source: Source, report: Report) -> None:
    """Say whether the source has the model otherwise by now; what the cache has is served all the same."""
    model = entry.source
    try:
        now = source.list_files(model)
    except SourceError as error:
        report(Note(f"whether {model} changed could not be asked: {error.message}", "WARNING"))
        return
    here = entry.listed
    fetched = {file.path for file in entry.manifest.files}
    if (now.revision, _names(now)) == (here.revision, _names(here)) and entry.verified(now).keys() >= fetched:
        report(Note(f"{model} is at its source as it is here"))
        return
    was, by_now = (each.revision or f"{len(each.files)} files" for each in (here, now))
    by_now = f"another {by_now}" if was == by_now else by_now
    report(
        Note(
            f"{model} changed at its source: {was} is served as it is here, {by_now} is there; "
            "--refresh or LADING_REFRESH=always takes that",
            "WARNING",
        )
    )


def _names(manifest: Manifest) -> list[tuple[str, int]]:
    return [(file.path, file.size_bytes) for file in manifest.files]


def _recall(model: ModelUri, cache: CacheRoot, report: Report) -> IndexEntry | None:
    entry = cache.index.load(model, report)
    return entry if entry and entry.is_complete else None


def find_bytes(entry: FileEntry, cache: CacheRoot | None, source: Source) -> Path | None:
    """Where this machine holds an entry's bytes: the verified blob, else what the source says lies here."""
    if (
        cache
        and entry.digest
        and entry.digest.algorithm == "sha256"
        and cache.store.has(entry.digest, entry.size_bytes)
    ):
        return cache.store.path_of(entry.digest)
    return source.local_copy(entry)
