"""What a bundle would hold or bring, and what was done, as text for people and as JSON for programs."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from lading.bundle.intake import Step
from lading.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from lading.bundle.create import Created, CreatePlan
    from lading.bundle.head import BundleModel
    from lading.bundle.intake import Imported, ImportPlan, ModelStep
    from lading.cache.root import CacheRoot

_NAMED = 3


def create_plan(plan: CreatePlan) -> str:
    """What ``create --dry-run`` prints."""
    kept = f", {format_bytes(plan.found.kept_bytes)} of them written by an earlier run" if plan.found.kept_bytes else ""
    rows = [
        *_models(plan.head.models),
        ("blobs", f"{len(plan.head.blobs)}, {format_bytes(sum(plan.head.blobs.values()))}"),
        ("bundle", f"{_files(plan)}: {format_bytes(plan.layout.total_bytes)}{kept}"),
        ("signed", "yes" if plan.is_signed else "no: --sign-key KEY.pem"),
        ("disk", f"{format_bytes(plan.needed_bytes)} needed, {format_bytes(plan.found.free_bytes)} free"),
    ]
    return _aligned(rows)


def created(done: Created) -> str:
    """What was written, and how to go on."""
    plan = done.plan
    first = plan.volumes[0].path
    rows = [
        *_models(plan.head.models),
        ("bundle", f"{_files(plan)}: {format_bytes(plan.layout.total_bytes)}"),
        ("written", _moved(done.written_bytes, done.seconds)),
        ("there", f"lading bundle import {shlex.quote(first.name)}"),
    ]
    return _aligned(rows)


def _models(models: tuple[BundleModel, ...]) -> list[tuple[str, str]]:
    return [("model", _model(each)) for each in models]


def _model(model: BundleModel) -> str:
    manifest = model.manifest
    return f"{manifest.pinned}, {len(manifest.files)} files, {format_bytes(manifest.total_bytes)}"


def _files(plan: CreatePlan) -> str:
    paths = [each.path for each in plan.volumes]
    if len(paths) <= _NAMED:
        return ", ".join(map(str, paths))
    return f"{paths[0]} to {paths[-1].name}, {len(paths)} volumes"


def _moved(count: int, seconds: float) -> str:
    if not count:
        return "nothing: all of it was there already, and is right"
    rate = f" ({format_bytes(count / seconds)}/s)" if seconds > 0 else ""
    return f"{format_bytes(count)} in {format_seconds(seconds)}{rate}"


def create_plan_json(plan: CreatePlan) -> str:
    """The same, as one JSON object."""
    return _object(_create_json(plan) | {"dry_run": True, "needed_bytes": plan.needed_bytes})


def created_json(done: Created) -> str:
    """What was written, as one JSON object."""
    told = {"dry_run": False, "written_bytes": done.written_bytes, "seconds": round(done.seconds, 3)}
    return _object(_create_json(done.plan) | told | {"kept_bytes": done.kept_bytes})


def _create_json(plan: CreatePlan) -> dict[str, Any]:
    return {
        "models": [_model_json(each) for each in plan.head.models],
        "blobs": len(plan.head.blobs),
        "blob_bytes": sum(plan.head.blobs.values()),
        "total_bytes": plan.layout.total_bytes,
        "kept_bytes": plan.found.kept_bytes,
        "free_bytes": plan.found.free_bytes,
        "is_signed": plan.is_signed,
        "volumes": [{"path": str(each.path), "size_bytes": each.end - each.start} for each in plan.volumes],
    }


def _model_json(model: BundleModel) -> dict[str, Any]:
    manifest = model.manifest
    return {"source": str(model.source), "revision": manifest.revision, "total_bytes": manifest.total_bytes}


def import_plan(plan: ImportPlan, cache: CacheRoot) -> str:
    """What ``import --dry-run`` prints."""
    rows = [
        *_import_rows(plan, cache),
        ("import", f"{format_bytes(plan.import_bytes)}; {format_bytes(plan.present_bytes)} are here"),
        ("disk", f"{format_bytes(plan.needed_bytes)} needed, {format_bytes(plan.free_bytes)} free"),
    ]
    return _aligned(rows)


def imported(done: Imported, cache: CacheRoot) -> str:
    """What was imported, and how to go on."""
    source = shlex.quote(str(done.plan.steps[0].model.source))
    moved = _moved(done.imported_bytes, done.seconds) if done.imported_bytes else "nothing: all of it was here already"
    rows = [*_import_rows(done.plan, cache), ("imported", moved), ("serve it", f"lading serve {source}")]
    return _aligned(rows)


def _import_rows(plan: ImportPlan, cache: CacheRoot) -> list[tuple[str, str]]:
    rows = [("model", f"{_model(each.model)}: {_what_happens(each, plan)}") for each in plan.steps]
    signed = f"by {plan.signed_by}" if plan.signed_by else "not checked" if plan.bundle.signature else "no"
    return [*rows, ("signed", signed), ("cache", str(cache.path))]


def _what_happens(step: ModelStep, plan: ImportPlan) -> str:
    match step.step:
        case Step.KEEP:
            return "is here"
        case Step.ADD:
            return "is new" if step.current is None else "completes what is here"
        case Step.REPLACE:
            here = step.current.manifest.revision if step.current else None
            return f"takes the place of {here or 'what is here'}{'' if plan.options.replace else '; needs --replace'}"


def import_plan_json(plan: ImportPlan, cache: CacheRoot) -> str:
    """The same, as one JSON object."""
    told = {"dry_run": True, "needed_bytes": plan.needed_bytes, "free_bytes": plan.free_bytes}
    return _object(_import_json(plan, cache) | told | {"import_bytes": plan.import_bytes})


def imported_json(done: Imported, cache: CacheRoot) -> str:
    """What was imported, as one JSON object."""
    told = {"dry_run": False, "imported_bytes": done.imported_bytes, "seconds": round(done.seconds, 3)}
    return _object(_import_json(done.plan, cache) | told)


def _import_json(plan: ImportPlan, cache: CacheRoot) -> dict[str, Any]:
    models = []
    for each in plan.steps:
        current = each.current.manifest.revision if each.current else None
        told = {"step": str(each.step), "current_revision": current, "import_bytes": each.import_bytes}
        models.append(_model_json(each.model) | told)
    return {
        "models": models,
        "cache": str(cache.path),
        "present_bytes": plan.present_bytes,
        "is_signed": plan.bundle.signature is not None,
        "signed_by": plan.signed_by,
        "volumes": [str(path) for path in plan.bundle.archive.volumes.paths],
    }


def _object(told: dict[str, Any]) -> str:
    return json.dumps(told, indent=2) + "\n"


def _aligned(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{name:<10}{value}\n" for name, value in rows)
