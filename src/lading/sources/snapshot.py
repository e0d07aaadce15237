"""What the caches of the hubs' own tools have in common: directories of files that may be all of a model, or not.

Such caches do not say which files a model has, nor whether a download came to its end. Anything broken in them (a
dangling link, no permission) means "not here", never an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lading.model.manifest import Manifest

_CONFIGS = {"config.json", "adapter_config.json", "params.json"}
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def lack(manifest: Manifest, find: Callable[[str], Path | None]) -> str | None:
    """What the files of a snapshot obviously lack to be a whole model, as a clause; None when nothing shows.

    Looks for a config, for weights, and for the shards that the weights' index names; ``find`` tells where a file is.
    """
    paths = {entry.path for entry in manifest.files}
    if not paths & _CONFIGS:
        return "config.json is missing"
    if not any(path.endswith(_WEIGHTS) for path in paths):
        return "the weights are missing"
    index = next((name for name in _INDEXES if name in paths), None)
    shards = _shards(find(index)) if index else frozenset()
    if shards is None:
        return f"{index} cannot be read"
    missing = sorted(shards - paths)
    return f"{missing[0]} is missing" if missing else None


def real_file(path: Path, root: Path) -> Path | None:
    """Where ``path`` leads, if that is a readable file below ``root`` that was downloaded to its end; else None."""
    try:
        real = Path(os.path.realpath(path, strict=True))
        top = Path(os.path.realpath(root, strict=True))
    except (OSError, ValueError):
        return None
    usable = real.is_relative_to(top) and real.suffix != ".incomplete"
    return real if usable and real.is_file() and os.access(real, os.R_OK) else None


def files_below(directory: Path) -> Iterator[Path]:
    """Every file below ``directory``, links not followed."""
    for folder, _, names in os.walk(directory):
        for name in names:
            yield Path(folder, name)


def _shards(index: Path | None) -> frozenset[str] | None:
    try:
        shards = json.loads(index.read_bytes())["weight_map"].values() if index else ()
        return frozenset(str(shard) for shard in shards)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
