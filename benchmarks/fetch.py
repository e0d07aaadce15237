"""Lading as a program that fetches one model: what ``lading serve`` does before there is anything to serve.

``python -m benchmarks.fetch [--unverified] URI CACHE [FILE ...]``, with the settings of the environment. The files are
those of an ``http(s)://`` model, which has no listing. ``--unverified`` leaves hashing out, and only it: what remains
is what verification is compared with.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from lading import pipeline
from lading.cache.root import open_cache
from lading.cli.log import EventLog
from lading.cli.transfer_settings import transfer_options
from lading.digest import Digest
from lading.model.manifest import Manifest
from lading.plan import choose_files
from lading.settings import Settings
from lading.sources import source_for
from lading.sources.interface import Source
from lading.transfer import survey, transfer
from lading.uri import ModelUri


class _Unhashed:
    """A hasher that looks at no byte and believes the promise."""

    def __init__(self, size_bytes: int, promised: Digest | None) -> None:  # noqa: ARG002  # FileHasher's arguments
        assert promised and promised.algorithm == "sha256", "without a promise there is nothing to believe"
        self.sha256 = self.found = promised
        self.keeps_promise = True

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Nothing."""


def main(arguments: Sequence[str]) -> None:
    """Fetch the model into the cache."""
    if arguments[0] == "--unverified":
        arguments = arguments[1:]
        setattr(pipeline, "FileHasher", _Unhashed)  # noqa: B010  # what mypy forbids to be written plainly
    text, directory, *files = arguments
    settings, report, uri = Settings.from_env(os.environ), EventLog(), ModelUri.parse(text)
    source = source_for(uri, settings, report)
    cache = open_cache(Path(directory), default=Path(directory), fallback=Path(directory), report=report)
    manifest, skipped = choose_files(_listed(source, uri, files))
    assert not skipped, f"peers fetch these too: {skipped}"
    plan = survey(manifest, source, cache)
    transfer(plan, source, cache, report, cancelled=threading.Event(), options=transfer_options(settings))


def _listed(source: Source, uri: ModelUri, files: Sequence[str]) -> Manifest:
    if not files:
        return source.list_files(uri)
    looked_at = [source.list_files(uri.with_file(name)).files[0] for name in files]
    return Manifest.of(uri, None, looked_at)


if __name__ == "__main__":
    main(sys.argv[1:])
