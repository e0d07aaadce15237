"""What a user asked of LoRA adapters: where they are, how often to look again, how much room to keep for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lading.errors import UsageError
from lading.uri import ModelUri

API_SECONDS = 60.0

_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """One adapter, or a collection of them in folders. ``name`` is what a single one is called in the API."""

    uri: ModelUri
    name: str

    @classmethod
    def parse(cls, text: str) -> AdapterSource:
        """From ``LOCATION`` or ``NAME=LOCATION``; without a name, the last part of the location."""
        named = _NAMED.fullmatch(text)
        location = named[2] if named else text
        if location.startswith((".", "~")):
            location = str(Path(location).expanduser().resolve())
        uri = ModelUri.parse(location)
        if uri.file:
            raise UsageError(f"{text} names one file", remedy=f"name the adapter: {uri.model}")
        return cls(uri, named[1] if named else uri.location.rstrip("/").rpartition("/")[2] or uri.location)


@dataclass(frozen=True, slots=True)
class LoraRequest:
    """Where adapters are and what room to keep; None where nothing was said.

    ``refresh_seconds`` None: they are loaded once. ``api_seconds`` is how long the engine may take to load one.
    """

    sources: tuple[AdapterSource, ...] = ()
    refresh_seconds: float | None = None
    api_seconds: float = API_SECONDS
    max_rank: int | None = None
    gpu_loras: int | None = None
    cpu_loras: int | None = None

    def __post_init__(self) -> None:
        if self.gpu_loras and self.cpu_loras and self.cpu_loras < self.gpu_loras:
            raise UsageError(
                f"NIM_MAX_CPU_LORAS={self.cpu_loras} is less than NIM_MAX_GPU_LORAS={self.gpu_loras}",
                remedy="every adapter on the GPU is kept in RAM as well",
            )


def parse_sources(text: str) -> tuple[AdapterSource, ...]:
    """The sources of a list joined by commas; raises UsageError for one that is no location."""
    return tuple(AdapterSource.parse(part.strip()) for part in text.split(",") if part.strip())
