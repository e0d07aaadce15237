"""A source that is connected when it is first asked: what the cache has complete needs no credential of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

from lading.model.manifest import FileEntry, Manifest
from lading.sources.interface import Access, RangeReader, Source
from lading.uri import ModelUri, Scheme


def deferred(uri: ModelUri, connect: Callable[[], Source]) -> Source:
    """The source of ``uri`` that ``connect`` makes, when it is first asked; a directory of this machine at once."""
    return connect() if uri.scheme in (Scheme.LOCAL, Scheme.PATH) else DeferredSource(connect)


class DeferredSource:
    """The source that ``connect`` makes, which is none that serves files in place.

    Every method raises what ``connect`` raises, too: UsageError for a credential or an endpoint that cannot be used.
    """

    in_place = False

    def __init__(self, connect: Callable[[], Source]) -> None:
        self._connect = connect

    @cached_property
    def _source(self) -> Source:
        return self._connect()

    def access(self, model: ModelUri) -> Access:
        """Where and as whom the model is asked for."""
        return self._source.access(model)

    def list_files(self, model: ModelUri) -> Manifest:
        """All files of the model, pinned."""
        return self._source.list_files(model)

    def open_range(self, file: FileEntry, start: int, end: int) -> AbstractContextManager[RangeReader]:
        """The bytes of one range of a file."""
        return self._source.open_range(file, start, end)

    def local_copy(self, file: FileEntry) -> Path | None:
        """A path on this machine that should hold the file."""
        return self._source.local_copy(file)
