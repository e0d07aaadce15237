"""A diagnosis as text for people, and as JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lading.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from lading.doctor import Diagnosis
    from lading.model.manifest import FileEntry, Manifest
    from lading.sources.member import About
    from lading.sources.proxy import Proxy

_MOST_FILES = 40


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the settings say of the way: what the source is, what stands in for it, proxy, authorities."""

    about: About
    override: str | None
    proxy: Proxy | None
    ca_bundle: Path | None


def render_diagnosis(found: Diagnosis, around: Surroundings) -> str:
    """One line for each thing that was looked at, then the files."""
    return "".join(f"{name:<12}{text}\n" for name, text in _lines(found, around))


def _lines(found: Diagnosis, around: Surroundings) -> Iterator[tuple[str, str]]:
    yield "model", str(found.model)
    yield "source", around.about.title
    if around.override:
        yield "override", f"NIM_REPOSITORY_OVERRIDE={around.override}"
    if found.access:
        yield "asked at", found.access.endpoint
        yield from _credential(found.access.credential, around.about)
    if around.proxy:
        yield "proxy", f"{around.proxy.url} ({around.proxy.setting})"
    yield "authorities", str(around.ca_bundle or "the system's")
    if found.answers is not None:
        said = f": {found.fault.message}" if found.fault and not found.manifest else ""
        yield "answers", f"{'yes' if found.answers else 'no'}{said}"
    if found.manifest:
        yield from _listing(found, found.manifest)
    if found.sample:
        yield "bytes", f"the first byte of {found.sample.path} came"
    yield "verdict", "this machine can read it" if found.fault is None else "this machine cannot read it"


def _credential(found: str | None, about: About) -> Iterator[tuple[str, str]]:
    looked_for = [text.replace("`", "") for text in about.credentials if not text.startswith("none")]
    yield "credential", found or ("none found" if looked_for else "none needed")
    if not found:
        yield from (("", f"looked for {text}") for text in looked_for)


def _listing(found: Diagnosis, manifest: Manifest) -> Iterator[tuple[str, str]]:
    at = f" at {manifest.revision}" if manifest.revision else ""
    count, size = len(manifest.files), format_bytes(manifest.total_bytes)
    yield "listing", f"{count} files, {size},{at} in {format_seconds(found.seconds)}"
    yield from (("", _file(file)) for file in manifest.files[:_MOST_FILES])
    if count > _MOST_FILES:
        yield "", f"... and {count - _MOST_FILES} more (--format json lists all)"
    reasons = Counter(each.reason for each in found.skipped)
    yield from (("left out", f"{number} files: {reason}") for reason, number in reasons.items())


def _file(file: FileEntry) -> str:
    promise = file.digest.algorithm if file.digest else "no digest promised"
    return f"{file.path}  {format_bytes(file.size_bytes)}  {promise}"


def render_diagnosis_json(found: Diagnosis, around: Surroundings) -> str:
    """Everything, as one JSON object; ``error`` is null where the model can be fetched."""
    manifest, fault = found.manifest, found.fault
    told: dict[str, Any] = {
        "model": str(found.model),
        "source": around.about.title,
        "override": around.override,
        "endpoint": found.access.endpoint if found.access else None,
        "credential": found.access.credential if found.access else None,
        "proxy": around.proxy.url if around.proxy else None,
        "ca_bundle": str(around.ca_bundle) if around.ca_bundle else None,
        "answers": found.answers,
        "revision": manifest.revision if manifest else None,
        "total_bytes": manifest.total_bytes if manifest else None,
        "files": [file.to_json() for file in manifest.files] if manifest else None,
        "skipped": [each.to_json() for each in found.skipped],
        "first_byte_of": found.sample.path if found.sample else None,
        "error": {"message": fault.message, "remedy": fault.remedy, "exit_code": fault.exit_code} if fault else None,
    }
    return json.dumps(told, indent=2) + "\n"
