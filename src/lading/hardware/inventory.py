"""What a machine offers to an engine, as a value: its GPUs, or the RAM that it grants when there are none.

An inventory can be probed (:mod:`lading.hardware.probe`), written as JSON and read back, so that any decision made
from it can be replayed. ``Inventory.from_json(i.to_json()) == i``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 1


class Device(StrEnum):
    """What an engine computes on."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as CUDA sees it. ``total_bytes`` is what CUDA reports, not the label on the box.

    ``is_linked`` says whether NVLink joins it to the others; None where nobody looked. ``is_unified``: its memory is
    the machine's RAM. ``mig_profile`` names the slice that it is, as ``1g.10gb``; None for a whole GPU.
    """

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]
    pci_id: str = ""
    is_linked: bool | None = None
    is_unified: bool = False
    mig_profile: str | None = None

    @property
    def used_share(self) -> float:
        """Share of the memory that other processes hold, 0 to 1."""
        return 1 - self.free_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Inventory:
    """A machine. ``ram_bytes`` is what this process may use: the cgroup's limit or the machine's, whichever is less."""

    gpus: tuple[Gpu, ...]
    ram_bytes: int
    ram_available_bytes: int
    cpu_count: int
    driver_version: str | None = None

    @property
    def device(self) -> Device:
        """GPUs where there are any, else the CPU."""
        return Device.CUDA if self.gpus else Device.CPU

    def to_json(self) -> dict[str, Any]:
        """The inventory as JSON values."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Inventory:
        """The inventory that :meth:`to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"an inventory of schema {data.get('schema_version')}, expected {SCHEMA_VERSION}")
        gpus = tuple(
            Gpu(**{**gpu, "compute_capability": (int(gpu["compute_capability"][0]), int(gpu["compute_capability"][1]))})
            for gpu in data["gpus"]
        )
        rest = {key: value for key, value in data.items() if key not in ("schema_version", "gpus")}
        return cls(gpus=gpus, **rest)
