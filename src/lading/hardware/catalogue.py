"""Machines by description, ``8xH100-80GB``, ``2xL40S`` or a saved inventory, so that a laptop can plan for a cluster.

The GPUs that can be named stand in ``gpus.json`` beside this file, with the memory that CUDA reports: less than the
label on the box.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path

from lading.errors import UsageError
from lading.hardware.inventory import Gpu, Inventory

MOST_GPUS = 1024

_GROUP = re.compile(r"(?:(\d{1,5})\s*[x×*]\s*)?(\S(?:.*\S)?)", re.IGNORECASE)
_FORM = "write it as 8xH100-80GB, 2xL40S, or the path of a file that `lading inventory --json` wrote"


@dataclass(frozen=True, slots=True)
class CataloguedGpu:
    """A GPU that can be named. ``total_bytes`` is CUDA's figure, measured or, where not, a careful estimate."""

    name: str
    aliases: tuple[str, ...]
    total_bytes: int
    is_measured: bool
    compute_capability: tuple[int, int]


@cache
def catalogue() -> tuple[CataloguedGpu, ...]:
    """All GPUs that can be named, by their names."""
    data = json.loads((files("lading.hardware") / "gpus.json").read_text())
    return tuple(
        CataloguedGpu(
            name=each["name"],
            aliases=tuple(each["aliases"]),
            total_bytes=each["total_bytes"],
            is_measured=each["is_measured"],
            compute_capability=(each["compute_capability"][0], each["compute_capability"][1]),
        )
        for each in data["gpus"]
    )


def described(text: str) -> Inventory:
    """The machine that ``text`` describes: GPUs by name and number, joined by commas, or a saved inventory's path.

    Its RAM and cores are unknown and 0, unless a file tells them. Raises UsageError, with the nearest names.
    """
    if text.endswith(".json"):
        return _saved(Path(text))
    found = [gpu for group in text.split(",") for gpu in _group(group.strip(), text)]
    if len(found) > MOST_GPUS:
        raise UsageError(f"--gpus {text}: more than {MOST_GPUS} GPUs", remedy=_FORM)
    gpus = tuple(
        Gpu(index, each.name, each.total_bytes, each.total_bytes, each.compute_capability)
        for index, each in enumerate(found)
    )
    return Inventory(gpus, ram_bytes=0, ram_available_bytes=0, cpu_count=0)


def _group(group: str, text: str) -> list[CataloguedGpu]:
    found = _GROUP.fullmatch(group)
    count = int(found[1] or 1) if found else 0
    if not found or not count:
        raise UsageError(f"--gpus {text}: {group!r} names no GPUs", remedy=_FORM)
    return [_named(found[2])] * min(count, MOST_GPUS + 1)


def _named(name: str) -> CataloguedGpu:
    known = {_plain(alias): gpu for gpu in catalogue() for alias in (gpu.name, *gpu.aliases)}
    gpu = known.get(_plain(name))
    if gpu is None:
        shown = {_plain(alias): alias for each in catalogue() for alias in each.aliases}
        near = [shown[each] for each in get_close_matches(_plain(name), shown, n=4, cutoff=0.5)]
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        names = ", ".join(each.aliases[0] for each in catalogue())
        raise UsageError(f"the catalogue has no GPU {name!r}", remedy=f"{guess}it has {names}; any other: {_FORM}")
    return gpu


def _plain(name: str) -> str:
    """A name without what people write differently."""
    return re.sub(r"[^a-z0-9]|nvidia|geforce|tesla", "", name.lower())


def _saved(path: Path) -> Inventory:
    try:
        return Inventory.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", remedy=_FORM) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is no inventory ({error})", remedy=_FORM) from error
