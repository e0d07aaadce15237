"""What a mirror would do, and what it did, as text for people and as JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lading.mirror import Step
from lading.units import format_bytes
from lading.uri import ModelUri

if TYPE_CHECKING:
    from lading.download import Downloaded, DownloadPlan
    from lading.mirror import Mirrored, MirrorPlan


def plan(fetching: DownloadPlan, decided: MirrorPlan) -> str:
    """What ``--dry-run`` prints: the two steps, then each file."""
    fetch_bytes = _fetch_bytes(fetching)
    rows = [
        *_head(fetching, decided),
        (
            "fetch",
            f"{format_bytes(fetch_bytes)} into the cache first" if fetch_bytes else "nothing: all is in the cache",
        ),
        ("upload", _upload(decided)),
    ]
    files = [
        f"  {each.step:<9}{format_bytes(each.file.entry.size_bytes):>10}  {each.file.entry.path}: {each.reason}\n"
        for each in decided.files
    ]
    return _aligned(rows) + "".join(files)


def done(got: Downloaded, what: Mirrored) -> str:
    """What was done, and how to serve from the mirror."""
    sent = format_bytes(what.sent_bytes)
    count = sum(each.step is not Step.SKIP for each in what.plan.files)
    moved = (
        f"{sent} uploaded, {count} files" if count else f"nothing: all {len(what.plan.files)} files were there already"
    )
    rows = [
        *_head(got.plan, what.plan),
        ("fetched", format_bytes(got.fetched_bytes) if got.fetched_bytes else "nothing: all was in the cache"),
        ("uploaded", moved),
        ("serve it", f"NIM_REPOSITORY_OVERRIDE={what.plan.place} lading serve{_named(got.plan)}"),
    ]
    return _aligned(rows)


def plan_json(fetching: DownloadPlan, decided: MirrorPlan) -> str:
    """The plan as one JSON object."""
    told = _head_json(fetching, decided) | {
        "dry_run": True,
        "fetch_bytes": _fetch_bytes(fetching),
        "upload_bytes": decided.upload_bytes,
        "sent_earlier_bytes": decided.sent_bytes,
        "files": _files_json(decided),
    }
    return json.dumps(told, indent=2) + "\n"


def done_json(got: Downloaded, what: Mirrored) -> str:
    """What was done, as one JSON object."""
    told = _head_json(got.plan, what.plan) | {
        "dry_run": False,
        "fetched_bytes": got.fetched_bytes,
        "sent_bytes": what.sent_bytes,
        "moved_bytes": got.fetched_bytes + what.sent_bytes,
        "files": _files_json(what.plan),
    }
    return json.dumps(told, indent=2) + "\n"


def _head(fetching: DownloadPlan, decided: MirrorPlan) -> list[tuple[str, str]]:
    return [
        ("model", str(fetching.request.model)),
        ("files", f"{len(decided.files)}, {format_bytes(decided.total_bytes)}"),
        *(("profile", f"{each.name} ({each.id})") for each in fetching.choice.profiles),
        ("because", fetching.choice.reason),
        ("bucket", str(decided.place)),
    ]


def _fetch_bytes(fetching: DownloadPlan) -> int:
    return sum(each.fetch_bytes for each in fetching.transfers)


def _named(fetching: DownloadPlan) -> str:
    """How a server is told the model: by its location, or by the manifest that it has."""
    model = fetching.request.model
    return f" {model}" if isinstance(model, ModelUri) else ""


def _upload(decided: MirrorPlan) -> str:
    there = f"{format_bytes(decided.present_bytes)} are there"
    if not decided.upload_bytes:
        return f"nothing: {there}"
    earlier = f", {format_bytes(decided.sent_bytes)} of them sent by an earlier run" if decided.sent_bytes else ""
    return f"{format_bytes(decided.upload_bytes)} to upload{earlier}; {there}"


def _aligned(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{name:<10}{value}\n" for name, value in rows)


def _head_json(fetching: DownloadPlan, decided: MirrorPlan) -> dict[str, Any]:
    return {
        "model": str(fetching.request.model),
        "profiles": [{"id": each.id, "name": each.name} for each in fetching.choice.profiles],
        "reason": fetching.choice.reason,
        "cache": str(fetching.cache.path) if fetching.cache else None,
        "destination": str(decided.place),
        "total_bytes": decided.total_bytes,
        "present_bytes": decided.present_bytes,
    }


def _files_json(decided: MirrorPlan) -> list[dict[str, Any]]:
    return [
        {
            "path": each.file.entry.path,
            "name": each.file.name,
            "size_bytes": each.file.entry.size_bytes,
            "digest": str(each.file.sha256) if each.file.sha256 else None,
            "step": str(each.step),
            "reason": each.reason,
        }
        for each in decided.files
    ]
