"""The files that a NIM manifest lists, wherever each of them is: one source made of those of all repositories.

Rules kept here:

* repositories are listed once each, however many files are of them; a server that cannot be listed is asked for every
  file by itself;
* the manifest's digest is what the bytes have to keep; where it tells none, what the repository promises;
* a name that the manifest lists and the repository lacks is an error before anything is fetched;
* where a repository cannot be asked, files with a digest that lie on this machine will do: a NIM may have left them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path

from lading.errors import ModelNotFound, OfflineError, SourceError, SourceUnreachable
from lading.model.listed import ListedFile
from lading.model.manifest import FileEntry, Manifest
from lading.plan import choose_files
from lading.sources.interface import Access, RangeReader, Source, only_file
from lading.sources.override import WebMirror
from lading.sources.web import WebSource
from lading.uri import ModelUri

_THREADS = 8


class ListedSource:
    """The workspace that lists ``files``; ``source_at`` connects the source of a location."""

    in_place = False

    def __init__(self, files: Sequence[ListedFile], source_at: Callable[[ModelUri], Source]) -> None:
        self._files = files
        self._of_scheme = cache(lambda scheme: source_at(self._example(scheme)))

    def access(self, model: ModelUri) -> Access:  # of a workspace, the first file tells
        """Where and as whom the first of the files is asked for."""
        if not self._files:
            raise self._unknown(model)
        first = self._files[0].uri
        return self._at(first).access(first.model)

    def list_files(self, model: ModelUri) -> Manifest:
        """The listed files as their repositories have them now."""
        if not self._files:
            raise self._unknown(model)
        repositories: dict[ModelUri, list[ListedFile]] = {}
        for each in self._files:
            repositories.setdefault(each.uri.model, []).append(each)
        entries = [entry for place, files in repositories.items() for entry in self._of(place, files)]
        return only_file(Manifest.of(model.model, None, entries), model.file)

    def open_range(self, file: FileEntry, start: int, end: int) -> AbstractContextManager[RangeReader]:
        """The bytes of one range, from the file's own source."""
        return self._at(file.uri).open_range(file, start, end)

    def local_copy(self, file: FileEntry) -> Path | None:
        """What the file's own source says lies on this machine."""
        return self._at(file.uri).local_copy(file)

    def _at(self, uri: ModelUri) -> Source:
        return self._of_scheme(uri.scheme)

    def _example(self, scheme: str) -> ModelUri:
        return next(each.uri.model for each in self._files if each.uri.scheme == scheme)

    def _of(self, place: ModelUri, files: Sequence[ListedFile]) -> Iterator[FileEntry]:
        """The entries of the files that are listed of one repository."""
        source = self._at(place)
        whole = [each for each in files if each.uri.file is None]
        named = [each for each in files if each.uri.file]
        if named and isinstance(source, WebSource | WebMirror):
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="lading-list") as pool:
                yield from pool.map(lambda each: _alone(each, source), named)
            named = []
        if named or whole:
            try:
                listed = source.list_files(place)
            except (OfflineError, SourceUnreachable):
                here = [_lying_here(each, source) for each in files]
                if not all(here):
                    raise
                yield from (each for each in here if each)
                return
            for each in whole:
                yield from _below(each.path, listed)
            yield from (_placed(each, only_file(listed, each.uri.file).files[0]) for each in named)

    def _unknown(self, model: ModelUri) -> SourceError:
        return ModelNotFound(
            f"{model} is what a manifest lists, and no manifest that does is here",
            remedy="name the manifest: NIM_MANIFEST_PATH; what the cache has complete is served without it",
        )


def _lying_here(each: ListedFile, source: Source) -> FileEntry | None:
    """The entry of a file that this machine should have already, by its digest; None where it has not."""
    if each.uri.file is None or each.digest is None:
        return None
    wanted = FileEntry(each.path, 0, each.uri, each.digest)
    path = source.local_copy(wanted)
    return replace(wanted, size_bytes=path.stat().st_size) if path else None


def _alone(each: ListedFile, source: Source) -> FileEntry:
    return _placed(each, source.list_files(each.uri).files[0])


def _placed(each: ListedFile, found: FileEntry) -> FileEntry:
    """The entry at the manifest's path, with the manifest's digest."""
    return replace(found, path=each.path, digest=each.digest or found.digest)


def _below(folder: str, listed: Manifest) -> Iterator[FileEntry]:
    """All files of a repository that an engine may need, below a folder of the workspace."""
    for file in choose_files(listed)[0].files:
        yield replace(file, path=f"{folder}/{file.path}") if folder else file
