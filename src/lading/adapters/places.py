"""Where adapters are looked for: a directory of this machine, or a repository of any source.

A place that holds the files of an adapter is that adapter; else each of its folders that does is one, called by the
folder's name. What has none of those files is no adapter, and nothing is said of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, TypeVar

from lading.adapters.adapter import Adapter
from lading.adapters.request import AdapterSource
from lading.cache.root import CacheRoot
from lading.cache.use import Announcement, announced
from lading.digest import Digest
from lading.errors import MachineError, ModelNotFound, UsageError
from lading.events import Event, Report
from lading.inspection import ModelReader
from lading.model.lora import ADAPTER_CONFIG, ADAPTER_FILES, ADAPTER_WEIGHTS
from lading.model.manifest import FileEntry, Manifest
from lading.plan import SkippedFile
from lading.recall import Consultation, Refresh, find_bytes, find_files
from lading.sources.interface import Source
from lading.transfer import TransferOptions, survey, transfer
from lading.uri import ModelUri, Scheme

T = TypeVar("T")
_UNFINISHED = (".tmp", ".incomplete", ".part", ".partial", "~")
_NOT_OURS = "no part of a LoRA adapter"
_NEMO = "it is in NeMo's format; convert it to PEFT's (adapter_config.json, adapter_model.safetensors)"


class Place(Protocol):
    """Where adapters are."""

    def configs(self) -> Iterable[bytes]:
        """The adapter_config.json of each adapter, without fetching weights. Raises as :meth:`look` does."""

    def look(self, cancelled: threading.Event) -> tuple[Adapter, ...]:
        """The adapters as they are now, on this machine; ``cancelled`` ends a transfer.

        Raises LadingError where the place cannot be looked at.
        """

    def close(self) -> None:
        """The adapters are not needed any more."""


@dataclass(frozen=True, slots=True)
class Library:
    """How repositories are reached."""

    source_for: Callable[[ModelUri, Report], Source]
    open_cache: Callable[[], CacheRoot]
    report: Report
    refresh: Refresh = Refresh.NEVER
    options: TransferOptions = field(default_factory=TransferOptions)


def place_of(source: AdapterSource, library: Library, *, is_watched: bool) -> Place:
    """The place that a source names."""
    if source.uri.scheme in (Scheme.PATH, Scheme.LOCAL):
        return Directory(Path(source.uri.location), source.name, may_come=is_watched)
    return Repository(source, library, is_watched=is_watched)


class Directory:
    """A directory of this machine. With ``may_come``, one that is not there yet holds no adapters."""

    def __init__(self, path: Path, name: str, *, may_come: bool) -> None:
        self._path = path
        self._name = name
        self._may_come = may_come

    def configs(self) -> Iterable[bytes]:
        """Those that can be read."""
        for adapter in self.look(threading.Event()):
            if path := dict(adapter.files).get(ADAPTER_CONFIG):
                try:
                    yield path.read_bytes()
                except OSError:
                    continue

    def look(self, cancelled: threading.Event) -> tuple[Adapter, ...]:  # noqa: ARG002  # nothing is fetched
        """The adapters by what the file system says of their files. Raises UsageError, MachineError."""
        try:
            names = sorted(each.name for each in self._path.iterdir())
        except FileNotFoundError:
            if self._may_come:
                return ()
            remedy = "check the path and that its volume is mounted; NIM_PEFT_REFRESH_INTERVAL waits for it to come"
            raise UsageError(f"NIM_PEFT_SOURCE: there is no directory {self._path}", remedy=remedy) from None
        except NotADirectoryError:
            raise UsageError(f"NIM_PEFT_SOURCE: {self._path} is no directory") from None
        except OSError as error:
            raise MachineError(f"NIM_PEFT_SOURCE: {self._path} cannot be read: {error.strerror}") from error
        if is_adapter(names):
            return (_seen(self._name, self._path, names),)
        return tuple(_folders(self._path, names))

    def close(self) -> None:
        """Nothing was held."""


class Repository:
    """A repository of a source, fetched into the cache as models are.

    Watched, its source is asked at every look; what it had before stays where it cannot be asked.
    """

    def __init__(self, source: AdapterSource, library: Library, *, is_watched: bool) -> None:
        self._named = source
        self._library = library
        self._is_watched = is_watched
        self._listed: Manifest | None = None
        self._seen: tuple[Manifest, tuple[Adapter, ...]] | None = None
        self._digests: set[Digest] = set()
        self._use: Announcement | None = None
        self._held = ExitStack()
        self._told: Event | None = None

    def configs(self) -> Iterable[bytes]:
        """Those of the listed adapters, read by ranges where they are not in the cache."""
        reader = ModelReader(self._source, lambda entry: find_bytes(entry, self._cache, self._source))
        folders = folders_of(self._list(), self._named.name)
        for entry in (files[ADAPTER_CONFIG] for files in folders.values() if ADAPTER_CONFIG in files):
            yield reader.trusting_the_source(entry, partial(_read_whole, entry))

    def look(self, cancelled: threading.Event) -> tuple[Adapter, ...]:
        """The adapters as the source lists them, their files verified in the cache."""
        listed = self._list()
        if self._seen and self._seen[0] == listed:
            return self._seen[1]
        folders = folders_of(listed, self._named.name)
        wanted = {entry.path for files in folders.values() for entry in files.values()}
        chosen = Manifest.of(listed.source, listed.revision, (each for each in listed.files if each.path in wanted))
        skipped = tuple(SkippedFile(each, _NOT_OURS) for each in listed.files if each.path not in wanted)
        library, cache = self._library, self._cache
        plan = survey(chosen, self._source, cache, skipped=skipped)
        verified = transfer(plan, self._source, cache, library.report, cancelled=cancelled, options=library.options)
        self._announce(verified)
        places = cache.store.places_of(verified)
        adapters = tuple(_fetched(name, str(self._named.uri), files, places) for name, files in folders.items())
        self._seen = (listed, adapters)
        return adapters

    def close(self) -> None:
        """The blobs may be cleaned up from now on."""
        self._held.close()

    @cached_property
    def _source(self) -> Source:
        return self._library.source_for(self._named.uri, self._library.report)

    @cached_property
    def _cache(self) -> CacheRoot:
        return self._library.open_cache()

    def _list(self) -> Manifest:
        """The repository's files; ModelNotFound where none of them is an adapter's and none may come."""
        if self._listed and not self._is_watched:
            return self._listed
        refresh = Refresh.ALWAYS if self._listed else self._library.refresh
        how = Consultation(refresh, self._tell_news)
        listed = self._listed = find_files(self._named.uri, self._source, self._cache, how).manifest
        if not self._is_watched and not folders_of(listed, self._named.name):
            raise ModelNotFound(
                f"{self._named.uri} holds no LoRA adapter: no {ADAPTER_CONFIG} in it or in its folders",
                remedy="check NIM_PEFT_SOURCE",
            )
        return listed

    def _tell_news(self, event: Event) -> None:
        """What was told at the last look is not told at every one."""
        if event != self._told:
            self._library.report(event)
        self._told = event

    def _announce(self, manifest: Manifest) -> None:
        """Say in the cache what is used, the versions that were used before included: engines may still read them."""
        cache = self._cache
        if not cache.is_writable:
            return
        if self._use is None:
            self._use = self._held.enter_context(announced(cache.uses_directory, self._named.uri))
        self._digests |= {entry.digest for entry in manifest.files if entry.digest}
        self._use.extend(cache.workspace_for(manifest.pinned), self._digests)


def folders_of(manifest: Manifest, name: str) -> dict[str, dict[str, FileEntry]]:
    """The files of each adapter by name: the one at the top, called ``name``, or those of the first folders."""
    found: dict[str, dict[str, FileEntry]] = {}
    for entry in manifest.files:
        folder, _, file = entry.path.rpartition("/")
        if "/" not in folder and file in ADAPTER_FILES and not _is_unfinished(folder):
            found.setdefault(folder, {})[file] = entry
    found = {folder: _needed(files) for folder, files in found.items() if is_adapter(files)}
    return {name: found[""]} if "" in found else found


def is_adapter(names: Iterable[str]) -> bool:
    """Whether files of these names are an adapter, be it one that lacks some."""
    return any(name in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS) for name in names)


def mark_of(files: Iterable[tuple[str, Path]]) -> str:
    """What the file system says of the files: it changes when they are written or replaced. Raises OSError."""
    seen = [(name, str(path), *_identity(path.stat())) for name, path in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _folders(directory: Path, names: Iterable[str]) -> Iterator[Adapter]:
    for name in names:
        path = directory / name
        if _is_unfinished(name) or name == "lost+found":
            continue
        try:
            inside = [each.name for each in path.iterdir()] if stat.S_ISDIR(path.stat().st_mode) else []
        except PermissionError:
            yield Adapter(name, str(path), (), "unreadable", problem=f"it may not be read by user {os.geteuid()}")
            continue
        except OSError:
            continue  # gone meanwhile, or a link that leads nowhere
        if is_adapter(inside) and not name.isprintable():
            yield Adapter(ascii(name), str(directory), (), "unprintable", problem="its name cannot be printed")
        elif is_adapter(inside):
            yield _seen(name, path, inside)
        elif any(each.endswith(".nemo") for each in inside):
            yield Adapter(name, str(path), (), "nemo", problem=_NEMO)


def _seen(name: str, path: Path, inside: Iterable[str]) -> Adapter:
    present = {each: path / each for each in inside if each in ADAPTER_FILES}
    files = tuple(sorted(_needed(present).items()))
    try:
        return Adapter(name, str(path), files, mark_of(files))
    except OSError as error:
        return Adapter(name, str(path), files, str(error), problem=f"a file of it cannot be read: {error.strerror}")


def _fetched(name: str, origin: str, files: Mapping[str, FileEntry], places: Mapping[str, Path]) -> Adapter:
    found = tuple((each, places[entry.path]) for each, entry in sorted(files.items()))
    mark = hashlib.sha256(repr([(each, str(path)) for each, path in found]).encode()).hexdigest()
    return Adapter(name, origin, found, mark, is_final=True)


def _read_whole(entry: FileEntry, reader: ModelReader) -> bytes:
    return reader.read_whole(entry)


def _needed(files: Mapping[str, T]) -> dict[str, T]:
    """The files less weights in another form than the first that is there."""
    weights = [name for name in ADAPTER_WEIGHTS if name in files][1:]
    return {name: value for name, value in files.items() if name not in weights}


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.endswith(_UNFINISHED)
