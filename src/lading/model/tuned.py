"""A fine-tuned checkpoint of which an engine is built and kept: ``NIM_FT_MODEL`` with ``NIM_CUSTOM_MODEL_NAME``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lading.uri import ModelUri

LOCAL_CACHE = "local_cache"


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A checkpoint in a directory, and the name under which its engine is kept."""

    checkpoint: ModelUri
    name: str

    def engine_below(self, cache_path: Path) -> Path:
        """Where in a cache its engine is kept, as NIM 1.x does it."""
        return cache_path / LOCAL_CACHE / self.name

    def __str__(self) -> str:
        return str(self.checkpoint)
