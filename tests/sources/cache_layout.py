"""A Hugging Face cache laid out by hand, as huggingface_hub 2 does it (``test_huggingface_cache.py`` compares)."""

import os
from collections.abc import Mapping
from pathlib import Path

from tests.simulators.hub_repository import Blob


def lay_out(
    root: Path, repo: str, commit: str, files: Mapping[str, bytes], *, ref: str | None = "main", links: bool = True
) -> Path:
    """Write the snapshot ``commit`` of ``repo`` into the cache ``root`` and return its directory."""
    folder = root / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    if ref is not None:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    for path, content in files.items():
        place = snapshot / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not links:
            place.write_bytes(content)
            continue
        named = Blob.of(path, content)
        blob = folder / "blobs" / (named.sha256 or named.oid)
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(content)
        place.symlink_to(os.path.relpath(blob, place.parent))
    return snapshot
