"""What a cache holds, and what was done to it, as text for people and as JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lading.units import format_bytes, format_seconds
from lading.uri import Scheme

if TYPE_CHECKING:
    from lading.cache.index import IndexEntry
    from lading.cache.root import CacheRoot
    from lading.cache.upkeep import Cleaned, Contents, Holding, Verdict


def contents(found: Contents, cache: CacheRoot) -> str:
    """The models, a line each, and the sums."""
    lines = [f"{cache.path}{'' if cache.is_writable else ' (read-only)'}"]
    rows = [_row(each) for each in found.holdings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for row in rows:
        aligned = [text.rjust(width) for text, width in zip(row, widths, strict=False)]
        lines.append("  ".join(["", *aligned, row[3]]))
    if not rows:
        lines.append("  no models")
    free = format_bytes(cache.free_bytes())
    lines.append(f"{len(rows)} models in {format_bytes(found.blob_bytes)} of files; {free} free on this disk")
    if found.unneeded_bytes or found.partial_bytes:
        unneeded, partial = format_bytes(found.unneeded_bytes), format_bytes(found.partial_bytes)
        lines.append(f"{unneeded} that no model needs (`lading cache gc`), {partial} of unfinished downloads")
    return "\n".join(lines) + "\n"


def _row(each: Holding) -> tuple[str, str, str, str]:
    entry = each.entry
    share = each.present_bytes / entry.total_bytes if entry.total_bytes else 1.0
    size = format_bytes(entry.total_bytes) if entry.is_complete else f"{share:.0%} of {format_bytes(entry.total_bytes)}"
    used = "in use" if each.uses else f"used {format_seconds(max(0.0, time.time() - entry.last_used_at))} ago"
    revision = f" at {entry.manifest.revision}" if entry.manifest.revision else ""
    return size, f"{format_bytes(each.own_bytes)} its own", used, f"{entry.source}{revision}{_listed_from(entry)}"


def _listed_from(entry: IndexEntry) -> str:
    """Where the files of a workspace come from, whose name does not say it."""
    if entry.source.scheme is not Scheme.MANIFEST:
        return ""
    return f" ({', '.join(sorted({str(file.uri.model) for file in entry.manifest.files}))})"


def contents_json(found: Contents, cache: CacheRoot) -> str:
    """Everything, as one JSON object."""
    told = {
        "path": str(cache.path),
        "is_writable": cache.is_writable,
        "free_bytes": cache.free_bytes(),
        "blob_bytes": found.blob_bytes,
        "unneeded_bytes": found.unneeded_bytes,
        "partial_bytes": found.partial_bytes,
        "models": [_holding(each) for each in found.holdings],
    }
    return json.dumps(told, indent=2) + "\n"


def _holding(each: Holding) -> dict[str, Any]:
    entry = each.entry
    return {
        "source": str(entry.source),
        "revision": entry.manifest.revision,
        "is_complete": entry.is_complete,
        "total_bytes": entry.total_bytes,
        "present_bytes": each.present_bytes,
        "own_bytes": each.own_bytes,
        "files": [
            {"path": file.path, "size_bytes": file.size_bytes, "digest": str(file.digest) if file.digest else None}
            for file in entry.manifest.files
        ],
        "last_used_at": datetime.fromtimestamp(entry.last_used_at, UTC).isoformat(timespec="seconds"),
        "uses": [{"pid": use.pid, "host": use.host} for use in each.uses],
    }


def verdict(found: Verdict) -> str:
    """What was hashed, and each file that was wrong."""
    rate = format_bytes(found.total_bytes / found.seconds) if found.seconds else "0 B"
    size, time_taken = format_bytes(found.total_bytes), format_seconds(found.seconds)
    lines = [f"{found.blobs} files, {size}, hashed in {time_taken} ({rate}/s)", *_damaged(found)]
    if not found.damaged:
        lines.append("all of them are as they were fetched")
    return "\n".join(lines) + "\n"


def _damaged(found: Verdict) -> Iterator[str]:
    for digest, models in found.damaged.items():
        of = f" of {', '.join(models)}" if models else ""
        yield f"damaged: {digest}{of}{', removed' if found.removed else ''}"


def verdict_json(found: Verdict) -> str:
    """Everything, as one JSON object."""
    told = {
        "blobs": found.blobs,
        "total_bytes": found.total_bytes,
        "seconds": round(found.seconds, 3),
        "damaged": {str(digest): list(models) for digest, models in found.damaged.items()},
        "removed": found.removed,
    }
    return json.dumps(told, indent=2) + "\n"


def cleaned(done: Cleaned, *, dry_run: bool = False) -> str:
    """What was deleted, or would be."""
    lines = [f"{'would forget' if dry_run else 'forgot'} {model}" for model in done.models]
    what = f"{done.blobs} files, {done.partials} unfinished ones, {done.workspaces} workspaces"
    verb = ("would be deleted", "would be freed") if dry_run else ("deleted", "freed")
    lines.append(f"{what} {verb[0]}; {format_bytes(done.freed_bytes)} {verb[1]}")
    return "\n".join(lines) + "\n"


def cleaned_json(done: Cleaned, *, dry_run: bool = False) -> str:
    """The same, as one JSON object."""
    told = {
        "dry_run": dry_run,
        "models": done.models,
        "blobs": done.blobs,
        "partials": done.partials,
        "workspaces": done.workspaces,
        "freed_bytes": done.freed_bytes,
    }
    return json.dumps(told, indent=2) + "\n"
