"""The runtime manifest of a model that was fetched: kept in the cache, and written to where a user asked for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lading.cache.disk import machine_errors, write_atomically
from lading.cache.root import CacheRoot
from lading.errors import MachineError
from lading.events import Note, Report
from lading.manifests.write import Workspace, manifest_json, manifest_yaml
from lading.model.manifest import Manifest
from lading.resolve import Listing


def workspace_of(listing: Listing, verified: Manifest) -> Workspace:
    """All profiles of a model, and its files as they were fetched."""
    return [each.profile for each in listing.fits], verified.files


def keep_runtime_manifest(
    cache: CacheRoot, listing: Listing, verified: Manifest, engines: Iterable[str], report: Report
) -> None:
    """Keep in the cache what can be served of the model, with the digests of its files; a Note where that fails.

    Does nothing for what a manifest lists, and in a cache that is only readable.
    """
    if not cache.is_writable or any(each.profile.listed for each in listing.fits):
        return
    try:
        text = manifest_yaml([workspace_of(listing, verified)])
        cache.runtime_manifests.keep(verified.pinned, listing.model, engines, text)
    except MachineError as error:
        report(Note(f"the runtime manifest was not written: {error.message}", "WARNING"))


def write_manifest(path: Path, workspaces: Iterable[Workspace]) -> None:
    """Write a manifest to ``path``: JSON for a name that ends so, else YAML. Raises MachineError."""
    render = manifest_json if path.suffix.lower() == ".json" else manifest_yaml
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(workspaces).encode())
