"""The GPUs that are known by name, and machines by description: ``8xH100-80GB``, ``2xL40S`` or a saved inventory.

The GPUs stand in ``gpus.json`` beside this file, with the memory that CUDA reports: less than the label on the box, and
less than NVML and nvidia-smi print. With them a laptop can plan for a cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from importlib.resources import files
from pathlib import Path

from lading.errors import UsageError
from lading.hardware.inventory import Gpu, Inventory
from lading.units import GIB, MIB

MOST_GPUS = 1024

# What a driver keeps of a GPU's memory: within 0.3 GiB of the GPUs of which both figures are known.
_RESERVED_BYTES, _RESERVED_SHARE = 400 * MIB, 0.0025
_SAME_SHARE = 0.02
_INTEGRATED = frozenset({(7, 2), (8, 7), (10, 1), (11, 0), (12, 1)})  # Xavier, Orin, Thor (old and new number), GB10
_EIGHTHS = 8
# A slice has less than its eighths: 0.91 to 0.99 of them below a half of the GPU, 0.99 from there on (measured).
_SMALL_SLICE_SHARE, _LARGE_SLICE_SHARE = 0.91, 0.985

_GROUP = re.compile(r"(?:(\d{1,5})\s*[x×*]\s*)?(\S(?:.*\S)?)", re.IGNORECASE)
_PROFILE = re.compile(r"(.*?)(?:\s*:\s*|[\s-]+mig[\s:-]+)((?:\d+c\.)?\d+g\.\d+gb(?:[+-][a-z.]+)?)", re.IGNORECASE)
_SIZE = re.compile(r"(\d+)(?:gb|gib|g)")
_FORM_WORD = re.compile(r"(sxm|pcie|nvl)\d*")
_GLUED_FORM = re.compile(r"(?<=\d)(sxm\d?|pcie|nvl)\b")
_SPACED_UNIT = re.compile(r"(?<=\d)\s+(?=gi?b\b)")
_NOISE = re.compile(r"nvidia|geforce|tesla|gpus?|hbm\d?e?")
_FORM = (
    "write it as 8xH100-80GB, 2xL40S, 7xH100-80GB:1g.10gb, or the path of a file that `lading inventory --json` wrote"
)


class NvLink(StrEnum):
    """Which GPUs of a kind NVLink joins, each with each."""

    ALL = "all"
    PAIR = "pair"
    BRIDGE = "bridge"  # for two, and it may be missing
    NONE = "none"

    def joins(self, count: int) -> bool | None:
        """Whether ``count`` of them are joined; None where that depends on the machine."""
        match self:
            case NvLink.ALL:
                return True
            case NvLink.PAIR:
                return count <= 2
            case NvLink.BRIDGE:
                return None if count <= 2 else False
            case NvLink.NONE:
                return False


@dataclass(frozen=True, slots=True)
class CataloguedGpu:
    """A GPU that can be named. ``total_bytes`` is CUDA's figure, measured or, where not, a careful estimate.

    ``forms`` are those that it is built in (``sxm``, ``pcie``, ``nvl``) and ``label_gb`` the sizes on the box.
    ``nvml_bytes`` is NVML's figure, None where it has none. ``mig_gib`` maps MIG profiles to measured GiB, or None.
    """

    name: str
    model: str
    aliases: tuple[str, ...]
    forms: tuple[str, ...]
    label_gb: tuple[int, ...]
    nvml_bytes: int | None
    total_bytes: int
    is_measured: bool
    compute_capability: tuple[int, int]
    nvlink: NvLink
    mig_gib: Mapping[str, float | None]
    is_unified: bool

    def instance_bytes(self, profile: str) -> int:
        """What a MIG instance holds; ``profile`` is a key of ``mig_gib``. Careful where it is not measured."""
        measured = self.mig_gib[profile]
        if measured is not None:
            return int(measured * GIB)
        largest = max(_gigabytes(each) for each in self.mig_gib)
        eighths = max(1, round(_EIGHTHS * _gigabytes(profile) / largest))
        share = _SMALL_SLICE_SHARE if eighths * 2 < _EIGHTHS else _LARGE_SLICE_SHARE
        return int(self.total_bytes * eighths / _EIGHTHS * share)


def _gigabytes(profile: str) -> int:
    return int(profile.partition("g.")[2].removesuffix("gb"))


@cache
def catalogue() -> tuple[CataloguedGpu, ...]:
    """All GPUs that can be named, by their names."""
    data = json.loads((files("lading.hardware") / "gpus.json").read_text())
    return tuple(
        CataloguedGpu(
            name=each["name"],
            model=each["model"],
            aliases=tuple(each["aliases"]),
            forms=tuple(each["forms"]),
            label_gb=tuple(each["label_gb"]),
            nvml_bytes=None if each["nvml_mib"] is None else each["nvml_mib"] * MIB,
            total_bytes=each["total_bytes"],
            is_measured=each["is_measured"],
            compute_capability=(each["compute_capability"][0], each["compute_capability"][1]),
            nvlink=NvLink(each["nvlink"]),
            mig_gib=each.get("mig_gib", {}),
            is_unified=each.get("is_unified", False),
        )
        for each in data["gpus"]
    )


def cuda_total_bytes(name: str, nvml_bytes: int) -> int:
    """What CUDA reports of a whole GPU whose driver does not tell its own share of NVML's total.

    The measured figure of a GPU of that name and size, else NVML's less what drivers are known to keep.
    """
    for gpu in catalogue():
        is_same = gpu.nvml_bytes and abs(gpu.nvml_bytes - nvml_bytes) <= _SAME_SHARE * nvml_bytes
        if gpu.name == name and gpu.is_measured and is_same:
            return min(gpu.total_bytes, nvml_bytes)
    return max(0, nvml_bytes - _RESERVED_BYTES - int(nvml_bytes * _RESERVED_SHARE))


def is_unified(name: str, compute_capability: tuple[int, int]) -> bool:
    """Whether a GPU shares the machine's RAM: one that the catalogue knows, or of a chip that holds a CPU as well."""
    return compute_capability in _INTEGRATED or any(gpu.is_unified for gpu in catalogue() if gpu.name == name)


def described(text: str) -> Inventory:
    """The machine that ``text`` describes: GPUs by name and number, joined by commas, or a saved inventory's path.

    Its RAM and cores are unknown and 0, unless a file tells them. Raises UsageError, with the nearest names.
    """
    if text.lower().endswith(".json"):
        return _saved(Path(text))
    found = [each for group in text.split(",") for each in _group(group.strip(), text)]
    if len(found) > MOST_GPUS:
        raise UsageError(f"--gpus {text}: more than {MOST_GPUS} GPUs", remedy=_FORM)
    gpus = tuple(_gpu(index, gpu, profile, found) for index, (gpu, profile) in enumerate(found))
    return Inventory(gpus, ram_bytes=0, ram_available_bytes=0, cpu_count=0)


def _gpu(
    index: int, gpu: CataloguedGpu, profile: str | None, beside: Sequence[tuple[CataloguedGpu, str | None]]
) -> Gpu:
    is_uniform = all(each == (gpu, None) for each in beside)
    size = gpu.total_bytes if profile is None else gpu.instance_bytes(_memory_profile(profile))
    return Gpu(
        index=index,
        name=gpu.name if profile is None else f"{gpu.name} MIG {profile}",
        total_bytes=size,
        free_bytes=size,
        compute_capability=gpu.compute_capability,
        is_linked=gpu.nvlink.joins(len(beside)) if is_uniform else False,
        mig_profile=profile,
        is_unified=gpu.is_unified,
    )


def _group(group: str, text: str) -> list[tuple[CataloguedGpu, str | None]]:
    found = _GROUP.fullmatch(group)
    count = int(found[1] or 1) if found else 0
    if not found or not count:
        raise UsageError(f"--gpus {text}: {group!r} names no GPUs", remedy=_FORM)
    parts = _PROFILE.fullmatch(found[2])
    gpu = _named(parts[1] if parts else found[2])
    profile = parts[2].lower() if parts else None
    if profile and _memory_profile(profile) not in gpu.mig_gib:
        have = ", ".join(gpu.mig_gib) or "none: it has no MIG mode"
        raise UsageError(f"{gpu.name} has no MIG instance {profile}", remedy=f"it has {have}")
    return [(gpu, profile)] * min(count, MOST_GPUS + 1)


def _memory_profile(profile: str) -> str:
    """The profile that says how much memory there is: compute instances share it, media engines do not matter."""
    return re.sub(r"^\d+c\.|[+-].*$", "", profile)


def _named(name: str) -> CataloguedGpu:
    """The GPU that is called so, in whatever spelling; of several the first. Raises UsageError with near names."""
    text = _SPACED_UNIT.sub("", re.sub(r"\(.*?\)", "", name.lower()))
    exact = {_plain(each): gpu for gpu in catalogue() for each in (gpu.name, *gpu.aliases)}
    if gpu := exact.get(_plain(text)):
        return gpu
    words = re.findall(r"[a-z0-9]+", _GLUED_FORM.sub(r" \1", text))
    sizes = {int(found[1]) for word in words if (found := _SIZE.fullmatch(word))}
    forms = {found[1] for word in words if (found := _FORM_WORD.fullmatch(word))}
    model = _plain("".join(word for word in words if not (_SIZE.fullmatch(word) or _FORM_WORD.fullmatch(word))))
    of_model = [gpu for gpu in catalogue() if model in {_plain(each) for each in (gpu.model, *gpu.aliases)}]
    for gpu in of_model:
        if sizes <= set(gpu.label_gb) and forms <= set(gpu.forms):
            return gpu
    raise _unknown(name, [gpu.aliases[0] for gpu in of_model] or _nearest(text))


def _unknown(name: str, near: Iterable[str]) -> UsageError:
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    names = ", ".join(each.aliases[0] for each in catalogue())
    return UsageError(f"the catalogue has no GPU {name!r}", remedy=f"{guess}it has {names}; any other: {_FORM}")


def _nearest(name: str) -> list[str]:
    named = reversed(catalogue())  # of several that are called the same, the first
    shown = {_plain(called): each.aliases[0] for each in named for called in (each.model, *each.aliases)}
    near = get_close_matches(_plain(name), shown, n=6, cutoff=0.5)
    return list(dict.fromkeys(shown[each] for each in near))[:4]


def _plain(name: str) -> str:
    """A name without what people write differently."""
    return "".join(_NOISE.sub("", word) for word in re.findall(r"[a-z0-9]+", name.lower()))


def _saved(path: Path) -> Inventory:
    try:
        return Inventory.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", remedy=_FORM) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is no inventory ({error})", remedy=_FORM) from error
