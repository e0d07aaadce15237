"""The runtime manifests of a cache: what can be served of each model, as NIM writes it, for people and their tools.

``manifests/<model>/<key>.yaml`` is the manifest of one model at one revision for the engines of one machine, so nothing
that changes on the volume makes another one wrong. ``nim_runtime_manifest.yaml`` at the cache's root is the one used
last. Nothing is decided by what stands in them; but once the user deletes the one at the root, the source of the
next model is asked again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lading.cache.disk import machine_errors, write_atomically
from lading.cache.index import model_key
from lading.uri import ModelUri

RUNTIME_MANIFEST = "nim_runtime_manifest.yaml"
SCHEMA = 1
_HEAD = "# Written by Lading. Delete this file to have the model's source asked again.\n"
_FOREIGN = RUNTIME_MANIFEST + ".nim"


@dataclass(frozen=True, slots=True)
class RuntimeManifests:
    """Those of the cache at ``cache_path``."""

    cache_path: Path

    @property
    def current(self) -> Path:
        """Where the one that was used last stands."""
        return self.cache_path / RUNTIME_MANIFEST

    def is_deleted(self, model: ModelUri) -> bool:
        """Whether one of the model was written, and the one at the root was deleted since."""
        return not self.current.exists() and any(self._directory(model).glob("*.yaml"))

    def keep(self, pinned: ModelUri, model: ModelUri, engines: Iterable[str], text: str) -> Path:
        """Write the manifest of a model at a revision for these engines, and make it the current one; its path.

        A manifest that somebody else wrote at the root is kept under another name. Raises MachineError.
        """
        identity = [str(model), str(pinned), sorted(engines), SCHEMA]
        key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        path = self._directory(model) / f"{key}.yaml"
        whole = (_HEAD + text).encode()
        for place in (path, self.current):
            with machine_errors(place):
                if place.is_file() and place.read_bytes() == whole:
                    continue
                if place == self.current:
                    self._spare_foreign()
                place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, whole)
        return path

    def remove(self, key: str) -> None:
        """Forget those of the model with this key."""
        shutil.rmtree(self.cache_path / "manifests" / key, ignore_errors=True)

    def keys(self) -> Iterable[str]:
        """The keys of the models that have some."""
        with suppress(FileNotFoundError):
            yield from (each.name for each in (self.cache_path / "manifests").iterdir())

    def _directory(self, model: ModelUri) -> Path:
        return self.cache_path / "manifests" / model_key(model)

    def _spare_foreign(self) -> None:
        """A NIM wrote one on this volume, and may be started on it again."""
        with suppress(FileNotFoundError), self.current.open("rb") as file:
            if file.read(len(_HEAD)) != _HEAD.encode():
                self.current.rename(self.cache_path / _FOREIGN)
