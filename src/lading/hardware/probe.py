"""Look at this machine: GPUs through NVML, RAM as the cgroup grants it.

A machine without the NVIDIA driver is a CPU machine, not an error. A driver that is there and fails is one.
"""

from __future__ import annotations

import os
from pathlib import Path

from lading.errors import MachineError
from lading.hardware.inventory import Gpu, Inventory

_CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_CGROUP_USED = ("memory.current", "memory/memory.usage_in_bytes")


def probe(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> Inventory:
    """The machine that this process runs on. Raises MachineError when the driver is there but does not answer."""
    total, available = _ram(meminfo)
    limit = _cgroup_limit(cgroup, total)
    gpus, driver = _gpus()
    return Inventory(
        gpus=gpus,
        ram_bytes=min(total, limit),
        ram_available_bytes=max(0, min(available, limit - _cgroup_used(cgroup))),
        cpu_count=len(os.sched_getaffinity(0)),
        driver_version=driver,
    )


def _ram(meminfo: Path) -> tuple[int, int]:
    """Total and available bytes; ``MemAvailable`` counts the page cache that the kernel can give back."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, available


def _own_cgroup(root: Path) -> list[Path]:
    """This process's cgroup folder and those above it, innermost first; just the root inside a container."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [root]
    inner = next((line.split(":", 2)[2] for line in lines if line.startswith("0::")), "/")
    folder = root / inner.lstrip("/")
    return [each for each in (folder, *folder.parents) if each == root or root in each.parents]


def _cgroup_limit(root: Path, total: int) -> int:
    """The smallest memory limit on the way up; ``total`` where none is set."""
    limits = [value for folder in _own_cgroup(root) for name in _CGROUP_LIMITS if (value := _number(folder / name))]
    return min([total, *limits])


def _cgroup_used(root: Path) -> int:
    """Bytes that the cgroup holds and cannot give back: its usage without the inactive page cache."""
    for folder in _own_cgroup(root):
        for name in _CGROUP_USED:
            if used := _number(folder / name):
                return max(0, used - _reclaimable((folder / name).parent / "memory.stat"))
    return 0


def _reclaimable(stat: Path) -> int:
    try:
        fields = dict(line.split(None, 1) for line in stat.read_text().splitlines() if " " in line)
    except OSError:
        return 0
    return sum(int(fields.get(name, 0)) for name in ("inactive_file", "active_file"))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded, pynvml.NVMLError_NoPermission):
        return (), None
    except pynvml.NVMLError as error:
        raise MachineError(
            f"the NVIDIA driver does not answer: {error}", remedy="`nvidia-smi` should work before Lading can"
        ) from error
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())), driver
    except pynvml.NVMLError as error:
        raise MachineError(f"a GPU does not answer: {error}", remedy="check `nvidia-smi`") from error
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    pci = pynvml.nvmlDeviceGetPciInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    device, vendor = pci.pciDeviceId >> 16, pci.pciDeviceId & 0xFFFF
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        compute_capability=(int(major), int(minor)),
        pci_id=f"{device:04x}:{vendor:04x}",
    )
