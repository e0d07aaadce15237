"""What a download would do, and what it did, as text for people and as JSON for programs."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from lading.store_plan import Step as StoreStep
from lading.units import format_bytes

if TYPE_CHECKING:
    from lading.download import Downloaded, DownloadPlan
    from lading.model.manifest import Manifest
    from lading.plan import TransferPlan
    from lading.store_plan import StorePlan


def plan(decided: DownloadPlan) -> str:
    """What ``--dry-run`` prints."""
    rows = [*_head(decided), *_transfer(decided.transfer), *(_store(decided.store) if decided.store else [])]
    return _aligned(rows)


def done(what: Downloaded) -> str:
    """What was done, and how to go on."""
    decided = what.plan
    rows = [*_head(decided), ("moved", _moved(what))]
    if decided.cache:
        rows.append(("cache", str(decided.cache.path)))
    if what.directory:
        rows += [("directory", str(what.directory)), ("serve it", f"lading serve {shlex.quote(str(what.directory))}")]
    return _aligned(rows)


def _head(decided: DownloadPlan) -> list[tuple[str, str]]:
    manifest, choice = decided.listing.manifest, decided.choice
    return [
        ("model", str(decided.listing.pinned)),
        ("files", f"{len(manifest.files)}, {format_bytes(manifest.total_bytes)}{_skipped(decided)}"),
        *(("profile", f"{each.name} ({each.id})") for each in choice.profiles),
        ("because", choice.reason),
    ]


def _skipped(decided: DownloadPlan) -> str:
    count = len(decided.listing.skipped)
    return f"; {count} more are not needed" if count else ""


def _transfer(transfer: TransferPlan | None) -> list[tuple[str, str]]:
    if transfer is None:
        return [("transfer", "nothing: the model is used where it lies")]
    return [
        ("cache", str(transfer.cache_path)),
        (
            "transfer",
            f"{format_bytes(transfer.fetch_bytes)} to fetch, {format_bytes(transfer.resumed_bytes)} of them fetched "
            f"by an earlier run; {format_bytes(transfer.present_bytes + transfer.shared_bytes)} are here, "
            f"{format_bytes(transfer.adopt_bytes)} in other caches of this machine",
        ),
        ("disk", _disk(transfer.needed_bytes, transfer.free_bytes)),
    ]


def _store(store: StorePlan) -> list[tuple[str, str]]:
    kept, made = store.bytes_of(StoreStep.KEEP), store.bytes_of(StoreStep.MAKE)
    staged = store.bytes_of(StoreStep.CONTINUE)
    how = "nothing to make" if store.is_satisfied else f"{format_bytes(made)} to make, each file a {store.way}"
    return [
        ("directory", str(store.directory)),
        ("store", f"{how}; {format_bytes(kept)} are there, {format_bytes(staged)} from an earlier run"),
        ("its disk", _disk(store.needed_bytes, store.site.free_bytes)),
    ]


def _disk(needed_bytes: int, free_bytes: int) -> str:
    return f"{format_bytes(needed_bytes)} needed, {format_bytes(free_bytes)} free"


def _moved(what: Downloaded) -> str:
    if what.plan.transfer is None and what.stored is None:
        return "nothing: the model is used where it lies"
    parts = [f"{format_bytes(what.fetched_bytes)} fetched"] if what.fetched_bytes else []
    if what.stored:
        parts += [f"{format_bytes(size)} placed, each a {way}" for way, size in what.stored.placed_bytes.items()]
    return ", ".join(parts) or f"nothing: all {len(what.manifest.files)} files were here already"


def _aligned(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{name:<10}{value}\n" for name, value in rows)


def plan_json(decided: DownloadPlan) -> str:
    """The same, as one JSON object."""
    transfer, store = decided.transfer, decided.store
    told = _head_json(decided, decided.listing.manifest) | {
        "dry_run": True,
        "transfer": transfer
        and {
            "fetch_bytes": transfer.fetch_bytes,
            "resumed_bytes": transfer.resumed_bytes,
            "present_bytes": transfer.present_bytes + transfer.shared_bytes,
            "adopt_bytes": transfer.adopt_bytes,
            "needed_bytes": transfer.needed_bytes,
            "free_bytes": transfer.free_bytes,
        },
        "directory": str(store.directory) if store else None,
        "store": store
        and {
            "way": str(store.way),
            "make_bytes": store.bytes_of(StoreStep.MAKE),
            "continue_bytes": store.bytes_of(StoreStep.CONTINUE),
            "keep_bytes": store.bytes_of(StoreStep.KEEP),
            "needed_bytes": store.needed_bytes,
            "free_bytes": store.site.free_bytes,
        },
    }
    return json.dumps(told, indent=2) + "\n"


def done_json(what: Downloaded) -> str:
    """What was done, as one JSON object."""
    placed = {str(way): size for way, size in what.stored.placed_bytes.items()} if what.stored else {}
    told = _head_json(what.plan, what.manifest) | {
        "dry_run": False,
        "fetched_bytes": what.fetched_bytes,
        "moved_bytes": what.moved_bytes,
        "placed_bytes": placed,
        "directory": str(what.directory) if what.directory else None,
    }
    digests = what.stored.digests if what.stored else {}
    for each in told["files"]:
        if each["path"] in digests:
            each["digest"] = str(digests[each["path"]])
    return json.dumps(told, indent=2) + "\n"


def _head_json(decided: DownloadPlan, manifest: Manifest) -> dict[str, Any]:
    listing = decided.listing
    return {
        "model": str(listing.model),
        "revision": manifest.revision,
        "profiles": [{"id": each.id, "name": each.name} for each in decided.choice.profiles],
        "reason": decided.choice.reason,
        "cache": str(decided.cache.path) if decided.cache else None,
        "total_bytes": manifest.total_bytes,
        "files": [
            {"path": each.path, "size_bytes": each.size_bytes, "digest": str(each.digest) if each.digest else None}
            for each in manifest.files
        ],
    }
