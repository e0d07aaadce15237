"""Look at this machine: GPUs through NVML, RAM as the cgroup grants it.

A machine without the NVIDIA driver is a CPU machine, not an error. A driver that is there and fails is one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lading.hardware.catalogue import cuda_total_bytes, is_unified
from lading.hardware.driver import DriverMemory, DriverReport
from lading.hardware.inventory import Gpu, Inventory
from lading.hardware.nvml import read_driver
from lading.hardware.ram import Ram, read_ram
from lading.hardware.visibility import Slot, visible


def probe(
    environ: Mapping[str, str], cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")
) -> Inventory:
    """The machine that this process runs on, as an engine started with ``environ`` would see it.

    Raises MachineError when the driver is there but does not answer.
    """
    return assemble(read_driver(), read_ram(cgroup, meminfo), len(os.sched_getaffinity(0)), environ)


def assemble(driver: DriverReport, ram: Ram, cpu_count: int, environ: Mapping[str, str]) -> Inventory:
    """The inventory of what was read. Pure."""
    found = visible(driver.gpus, environ)
    return Inventory(
        gpus=tuple(_gpu(slot, found.shown, ram) for slot in found.shown),
        ram_bytes=ram.granted_bytes,
        ram_available_bytes=ram.granted_available_bytes,
        cpu_count=cpu_count,
        driver_version=driver.driver_version,
        cuda_version=driver.cuda_version,
        hidden=found.hidden,
        notes=(*((driver.note,) if driver.note else ()), *found.notes),
    )


def _gpu(slot: Slot, shown: Sequence[Slot], ram: Ram) -> Gpu:
    memory = slot.instance.memory if slot.instance else slot.gpu.memory
    shares_ram = memory is None or (slot.instance is None and is_unified(slot.gpu.name, slot.gpu.compute_capability))
    total, free = _sizes(slot, memory) if memory and not shares_ram else (ram.total_bytes, ram.available_bytes)
    return Gpu(
        index=slot.gpu.index,
        name=slot.name,
        total_bytes=total,
        free_bytes=min(free, total),
        compute_capability=slot.gpu.compute_capability,
        pci_id=slot.gpu.pci_id,
        uuid=slot.uuid,
        is_linked=_is_linked(slot, shown),
        mig_profile=slot.instance.profile if slot.instance else None,
        is_unified=shares_ram,
    )


def _sizes(slot: Slot, memory: DriverMemory) -> tuple[int, int]:
    """Total and free bytes as CUDA reports them."""
    if memory.reserved_bytes:
        total = memory.total_bytes - memory.reserved_bytes
    elif slot.instance:
        total = memory.total_bytes  # CUDA reports the whole of a slice: the driver's share is not taken from it
    else:
        total = cuda_total_bytes(slot.gpu.name, memory.total_bytes)
    return total, memory.free_bytes


def _is_linked(slot: Slot, shown: Sequence[Slot]) -> bool | None:
    """Whether NVLink reaches all the others; of a GPU that is alone, whether it has links that are up."""
    if slot.instance:
        return False
    others = {each.gpu.index for each in shown} - {slot.gpu.index}
    if not others:
        return None if slot.gpu.link_ends is None else bool(slot.gpu.link_ends)
    return None if slot.gpu.links is None else others <= slot.gpu.links
