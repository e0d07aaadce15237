"""Files of NGC that a NIM left on the volume: read and never written.

The layout is that of a Hugging Face cache: below ``models--{org}--[{team}--]{name}``,
``snapshots/{version}/{path}`` links to ``blobs/…``. No digest there is known to mean anything: whoever takes a file
verifies it by NGC's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lading.errors import ContentError
from lading.model.manifest import check_path
from lading.sources.snapshot import real_file
from lading.uri import ModelUri


@dataclass(frozen=True, slots=True)
class NgcCache:
    """The cache below ``root``, which need not exist. Every answer is read afresh."""

    root: Path

    def find(self, model: ModelUri, path: str) -> Path | None:
        """The real path of one file of the model's version, or None."""
        version = model.revision or ""
        try:
            check_path(path)
            check_path(version)
        except ContentError:
            return None
        folder = self.root / f"models--{model.location.replace('/', '--')}"
        return real_file(folder / "snapshots" / version / path, self.root)
