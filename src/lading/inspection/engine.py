"""What the files of a built engine say of it: three small JSON files, and the names and sizes of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lading.errors import MalformedModel
from lading.model.built_engine import BUILD_RECORD
from lading.model.config import CONFIG_FILE
from lading.model.engine_facts import EngineFiles
from lading.model.manifest import FileEntry

_RANK = re.compile(r"rank(\d{1,5})\.engine")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json", "tekken.json")


def read_engine(
    by_path: Mapping[str, FileEntry], folder: str, read: Callable[[str], dict[str, Any] | None]
) -> EngineFiles:
    """The engine in ``folder`` ("": the top) of a model's files; ``read`` gives a JSON file, None for one that is not.

    Raises MalformedModel where the engine has no config.
    """
    below = f"{folder}/" if folder else ""
    config = read(f"{below}{CONFIG_FILE}")
    if config is None:
        raise MalformedModel(
            f"there is no {below}{CONFIG_FILE} beside the built engine",
            remedy="the copy is incomplete: the engine's own config.json belongs to it",
        )
    engines = {path.removeprefix(below): entry for path, entry in by_path.items() if path.startswith(below)}
    ranks = {int(match[1]): entry for name, entry in engines.items() if (match := _RANK.fullmatch(name))}
    return EngineFiles(
        folder=folder,
        config=config,
        model_config=read(CONFIG_FILE) if folder else None,
        record=read(BUILD_RECORD) or {},
        ranks=frozenset(ranks),
        size_bytes=sum(entry.size_bytes for entry in ranks.values()),
        has_tokenizer=any(name in by_path for name in _TOKENIZERS),
    )
