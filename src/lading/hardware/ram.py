"""The RAM of this machine, and what of it the cgroup grants to this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_CGROUP_USED = ("memory.current", "memory/memory.usage_in_bytes")


@dataclass(frozen=True, slots=True)
class Ram:
    """Bytes of the machine, and those that this process is granted."""

    total_bytes: int
    available_bytes: int
    granted_bytes: int
    granted_available_bytes: int


def read_ram(cgroup: Path, meminfo: Path) -> Ram:
    """The RAM as ``meminfo`` and the limits below ``cgroup`` tell it."""
    total, available = _machine(meminfo)
    limit = _cgroup_limit(cgroup, total)
    granted_available = max(0, min(available, limit - _cgroup_used(cgroup)))
    return Ram(total, available, min(total, limit), granted_available)


def _machine(meminfo: Path) -> tuple[int, int]:
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
