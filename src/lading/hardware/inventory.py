"""What a machine offers to an engine, as a value: its GPUs, or the RAM that it grants when there are none.

An inventory can be probed (:mod:`lading.hardware.probe`), described (:mod:`lading.hardware.catalogue`), written as JSON
and read back, so that any decision made from it can be replayed. ``Inventory.from_json(i.to_json()) == i``. Files of
earlier releases lack fields, those of later ones may have more: what is missing has its default, what is unknown is
passed over. ``docs/reference/inventory.md`` has the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")
SCHEMA_VERSION = 1
_ONE_INSTANCE = "CUDA gives a process one MIG instance, the first; CUDA_VISIBLE_DEVICES chooses another"


class Device(StrEnum):
    """What an engine computes on."""

    CPU = "cpu"
    CUDA = "cuda"


class HiddenBy(StrEnum):
    """What keeps a GPU from the engine."""

    CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
    NVIDIA_VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"
    MIG = "MIG"
    PERMISSION = "permission"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or MIG instance of one, as CUDA sees it.

    ``index`` is the number that nvidia-smi prints; MIG instances have that of their GPU. ``total_bytes`` is what CUDA
    reports, not the label on the box; where ``is_unified`` it is the machine's RAM. ``is_linked``: NVLink reaches each
    of the other GPUs; None where nobody knows. ``mig_profile`` is None for a whole GPU.
    """

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]
    pci_id: str = ""
    uuid: str = ""
    is_linked: bool | None = None
    mig_profile: str | None = None
    is_unified: bool = False

    @property
    def used_share(self) -> float:
        """Share of the memory that other processes hold, 0 to 1."""
        return 1 - self.free_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True)
class HiddenGpu:
    """A GPU or MIG instance that is in the machine and that no engine gets. As text it is a sentence."""

    index: int
    name: str
    uuid: str
    by: HiddenBy
    reason: str

    def __str__(self) -> str:
        return f"GPU {self.index} {self.reason}{f' ({self.name})' if self.name else ''}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """A machine. ``ram_bytes`` is what this process may use: the cgroup's limit or the machine's, whichever is less.

    ``gpus`` are in the order in which CUDA counts them. ``cuda_version`` is the newest that the driver speaks.
    ``notes`` are sentences that a user should read: why there are no GPUs, which variable was passed over.
    """

    gpus: tuple[Gpu, ...]
    ram_bytes: int
    ram_available_bytes: int
    cpu_count: int
    driver_version: str | None = None
    cuda_version: str | None = None
    hidden: tuple[HiddenGpu, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> Device:
        """GPUs where there are any, else the CPU."""
        return Device.CUDA if self.gpus else Device.CPU

    @property
    def engine_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that one engine can use together: all; of MIG instances the first, for CUDA gives a process one."""
        first_instance = next((gpu for gpu in self.gpus if gpu.mig_profile), None)
        return self.gpus if first_instance is None else (first_instance,)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should read: which GPUs no engine gets, and why, and the notes."""
        one_of_many = len(self.engine_gpus) < len(self.gpus)
        return (*map(str, self.hidden), *((_ONE_INSTANCE,) if one_of_many else ()), *self.notes)

    @property
    def engine_environ(self) -> dict[str, str]:
        """What an engine's environment must say so that it sees these GPUs: CUDA obeys its own variables alone."""
        if all(each.by is not HiddenBy.NVIDIA_VISIBLE_DEVICES for each in self.hidden):
            return {}
        shown = [gpu.uuid if gpu.mig_profile else str(gpu.index) for gpu in self.gpus]
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(shown) or "-1"}

    def to_json(self) -> dict[str, Any]:
        """The inventory as JSON values."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Inventory:
        """The inventory that :meth:`to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"an inventory of schema {data.get('schema_version')}, expected {SCHEMA_VERSION}")
        return cls(
            gpus=tuple(_gpu(each) for each in _list(data["gpus"])),
            ram_bytes=_size(data, "ram_bytes"),
            ram_available_bytes=_size(data, "ram_available_bytes"),
            cpu_count=_size(data, "cpu_count"),
            driver_version=_optional(data, "driver_version", str, None),
            cuda_version=_optional(data, "cuda_version", str, None),
            hidden=tuple(_hidden(each) for each in _list(data.get("hidden", []))),
            notes=tuple(str(each) for each in _list(data.get("notes", []))),
        )


def _gpu(data: Mapping[str, Any]) -> Gpu:
    major, minor = data["compute_capability"]
    return Gpu(
        index=_size(data, "index"),
        name=_typed(data["name"], "name", str),
        total_bytes=_size(data, "total_bytes"),
        free_bytes=_size(data, "free_bytes"),
        compute_capability=(_typed(major, "compute_capability", int), _typed(minor, "compute_capability", int)),
        pci_id=_optional(data, "pci_id", str, "") or "",
        uuid=_optional(data, "uuid", str, "") or "",
        is_linked=_optional(data, "is_linked", bool, None),
        mig_profile=_optional(data, "mig_profile", str, None),
        is_unified=bool(_optional(data, "is_unified", bool, False)),
    )


def _hidden(data: Mapping[str, Any]) -> HiddenGpu:
    texts = {name: _typed(data[name], name, str) for name in ("name", "uuid", "reason")}
    return HiddenGpu(index=_size(data, "index"), by=HiddenBy(data["by"]), **texts)


def _size(data: Mapping[str, Any], name: str) -> int:
    value = _typed(data[name], name, int)
    if value < 0:
        raise ValueError(f"{name} is {value}")
    return value


def _optional(data: Mapping[str, Any], name: str, kind: type[T], default: T | None) -> T | None:
    value = data.get(name)
    return default if value is None else _typed(value, name, kind)


def _typed(value: Any, name: str, kind: type[T]) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {value!r}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"a list was expected, not {value!r}")
    return list(value)
