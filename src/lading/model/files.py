"""Which of a model's files hold the weights that an engine loads, told by their names and by the index beside them.

As vLLM does it (``model_loader/default_loader.py`` in 0.33): the safetensors files at the top level, of those the ones
that the index names; where there are none, the pickles. What would be read twice counts once: Mistral's consolidated
copy beside the usual files, a second precision of the same file, LoRA adapters. The dense layers that
sentence-transformers puts behind a model have folders of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lading.errors import MalformedModel
from lading.model.manifest import FileEntry
from lading.units import format_bytes

WEIGHTS_INDEX_FILE = "model.safetensors.index.json"

_SHARD = re.compile(r"(.+)-(\d{3,6})-of-(\d{3,6})\.safetensors")
_DENSE = re.compile(r"\d{1,3}_Dense/model\.safetensors")
_VARIANT = re.compile(r"(.+)\.(?:fp16|bf16|fp32|fp8|int8|int4)(\.safetensors|-\d+-of-\d+\.safetensors)")
_NO_WEIGHTS = re.compile(r"(?:adapter_model|optimizer|scheduler|scaler|training_args|rng_state)\b.*")
_HUGGING_FACE = re.compile(r"model(?:-\d+-of-\d+)?\.safetensors")


def weight_map(index: Mapping[str, Any]) -> dict[str, str]:
    """The file of each tensor, as the index has it; MalformedModel for an index without such a table."""
    found = index.get("weight_map")
    if not isinstance(found, dict):
        raise MalformedModel(f"{WEIGHTS_INDEX_FILE} has no weight_map")
    return {str(name): str(shard) for name, shard in found.items()}


def loaded_shards(paths: Iterable[str], named: Iterable[str] | None) -> list[str]:
    """The safetensors files that an engine loads, sorted. ``named`` are those of the index; None where there is none.

    Raises MalformedModel where files are missing that the index, or the number in their own names, says there are.
    """
    present = set(paths)
    dense = [path for path in present if _DENSE.fullmatch(path)]
    if named is not None:
        wanted = set(named)
        _check_missing(sorted(wanted - present), WEIGHTS_INDEX_FILE)
        return sorted([*wanted, *dense])
    top = {path for path in present if path.endswith(".safetensors") and "/" not in path}
    top -= {path for path in top if _NO_WEIGHTS.match(path) and len(top) > 1}
    if any(_HUGGING_FACE.fullmatch(path) for path in top):
        top = {path for path in top if not path.startswith("consolidated")}
    top -= {path for path in top if (match := _VARIANT.fullmatch(path)) and match[1] + match[2] in top}
    chosen = _newest_family(top)
    return sorted([*chosen, *(dense if chosen else [])])


def unread_bytes(files: Iterable[FileEntry]) -> tuple[int, str]:
    """The size of the weights in formats whose headers are not read, and what is to be said of them."""
    top = [entry for entry in files if "/" not in entry.path and not _NO_WEIGHTS.match(entry.path)]
    for ending in (".bin", ".pt", ".pth"):
        if pickles := [entry for entry in top if entry.path.endswith(ending)]:
            return sum(entry.size_bytes for entry in pickles), ""
    packed: dict[str, int] = {}
    for entry in top:
        if entry.path.endswith(".gguf"):
            family = re.sub(r"-\d{5}-of-\d{5}", "", entry.path)
            packed[family] = packed.get(family, 0) + entry.size_bytes
    if not packed:
        return 0, ""
    largest = max(packed, key=lambda name: packed[name])
    others = f", the largest of {len(packed)} precisions" if len(packed) > 1 else ""
    return packed[largest], f"the weights are GGUF: those of {largest} count, {format_bytes(packed[largest])}{others}"


def _newest_family(top: set[str]) -> set[str]:
    """The files without those of an upload that another replaced: of several numberings the one that is complete."""
    families: dict[tuple[str, str], set[str]] = {}
    for path in top:
        if match := _SHARD.fullmatch(path):
            families.setdefault((match[1], match[3]), set()).add(path)
    incomplete = {key: files for key, files in families.items() if len(files) < int(key[1])}
    if families and len(incomplete) == len(families):
        (_, total), files = next(iter(incomplete.items()))
        here = {int(match[2]) for path in files if (match := _SHARD.fullmatch(path))}
        first = next(iter(sorted(files)))
        names = [
            re.sub(r"-\d+-of-", f"-{number:0{len(total)}}-of-", first)
            for number in range(min(here | {1}), min(int(total), 10_000) + 1)
            if number not in here
        ]
        _check_missing(names, "their own numbering")
    return top - {path for files in incomplete.values() for path in files}


def _check_missing(missing: list[str], where: str) -> None:
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise MalformedModel(
            f"{where} names {names}, which the model does not have",
            remedy="the upload or copy of the model is incomplete",
        )
