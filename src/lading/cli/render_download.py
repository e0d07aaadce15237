"""What a download would do, and what it did, as text for people and as JSON for programs."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from lading.plan import needed_bytes
from lading.store_plan import Step as StoreStep
from lading.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lading.download import Downloaded, DownloadPlan, Portion
    from lading.model.manifest import Manifest
    from lading.plan import TransferPlan
    from lading.store_plan import StorePlan


def plan(decided: DownloadPlan) -> str:
    """What ``--dry-run`` prints."""
    rows = [row for each in decided.portions for row in (*_portion(each), *_transfer(each.transfer))]
    rows += _store(decided.store) if decided.store else []
    return _aligned([*rows, ("because", decided.choice.reason)])


def done(what: Downloaded) -> str:
    """What was done, and how to go on."""
    decided = what.plan
    rows = [row for each in what.brought for row in _portion(each.portion)]
    rows += [("because", decided.choice.reason), ("moved", _moved(what))]
    if decided.cache:
        rows.append(("cache", str(decided.cache.path)))
    if decided.request.manifest_file:
        rows.append(("manifest", str(decided.request.manifest_file)))
    for each in what.brought:
        if each.directory:
            rows += [("directory", str(each.directory)), ("serve it", _serving(each.directory))]
    return _aligned(rows)


def _serving(directory: Path) -> str:
    return f"lading serve {shlex.quote(str(directory))}"


def _portion(each: Portion) -> list[tuple[str, str]]:
    manifest, left_out = each.listing.manifest, len(each.listing.skipped)
    skipped = f"; {left_out} more are not needed" if left_out else ""
    return [
        ("model", str(each.listing.pinned)),
        ("files", f"{len(manifest.files)}, {format_bytes(manifest.total_bytes)}{skipped}"),
        *(("profile", f"{profile.name} ({profile.id})") for profile in each.profiles),
    ]


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
    if not what.plan.transfers and what.stored is None:
        return "nothing: the model is used where it lies"
    parts = [f"{format_bytes(what.fetched_bytes)} fetched"] if what.fetched_bytes else []
    if what.stored:
        parts += [f"{format_bytes(size)} placed, each a {way}" for way, size in what.stored.placed_bytes.items()]
    files = sum(len(each.manifest.files) for each in what.brought)
    return ", ".join(parts) or f"nothing: all {files} files were here already"


def _aligned(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{name:<10}{value}\n" for name, value in rows)


def plan_json(decided: DownloadPlan) -> str:
    """The same, as one JSON object."""
    store = decided.store
    told = _head_json(decided, [each.listing.manifest for each in decided.portions]) | {
        "dry_run": True,
        "transfer": _transfer_json(decided.transfers),
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
    directory = what.brought[0].directory
    told = _head_json(what.plan, [each.manifest for each in what.brought]) | {
        "dry_run": False,
        "fetched_bytes": what.fetched_bytes,
        "moved_bytes": what.moved_bytes,
        "placed_bytes": placed,
        "directory": str(directory) if directory else None,
    }
    digests = what.stored.digests if what.stored else {}
    for each in told["files"]:
        if each["path"] in digests:
            each["digest"] = str(digests[each["path"]])
    return json.dumps(told, indent=2) + "\n"


def _head_json(decided: DownloadPlan, manifests: Sequence[Manifest]) -> dict[str, Any]:
    """What both tell. ``workspace`` tells the files of several sets apart: a manifest may list more than one."""
    revisions = {each.revision for each in manifests}
    return {
        "model": str(decided.request.model),
        "revision": revisions.pop() if len(revisions) == 1 else None,
        "profiles": [{"id": each.id, "name": each.name} for each in decided.choice.profiles],
        "reason": decided.choice.reason,
        "cache": str(decided.cache.path) if decided.cache else None,
        "manifest_file": str(decided.request.manifest_file) if decided.request.manifest_file else None,
        "total_bytes": sum(each.total_bytes for each in manifests),
        "files": [
            {
                "workspace": str(manifest.source),
                "path": file.path,
                "size_bytes": file.size_bytes,
                "digest": str(file.digest) if file.digest else None,
            }
            for manifest in manifests
            for file in manifest.files
        ],
    }


def _transfer_json(transfers: Sequence[TransferPlan]) -> dict[str, int] | None:
    if not transfers:
        return None
    return {
        "fetch_bytes": sum(each.fetch_bytes for each in transfers),
        "resumed_bytes": sum(each.resumed_bytes for each in transfers),
        "present_bytes": sum(each.present_bytes + each.shared_bytes for each in transfers),
        "adopt_bytes": sum(each.adopt_bytes for each in transfers),
        "needed_bytes": needed_bytes(transfers),
        "free_bytes": min(each.free_bytes for each in transfers),
    }
