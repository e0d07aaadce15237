"""Looking at a machine: the cgroup's limit, the machine's memory, no driver."""

from __future__ import annotations

import pytest

from lading.hardware.inventory import Device, Gpu, Inventory
from lading.hardware.probe import probe
from lading.units import GIB, MIB


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       33554432 kB\nMemFree: 1024 kB\nMemAvailable:   16777216 kB\nHugePages_Total: 0\n")
    return path


def test_without_a_limit_the_machines_memory_counts(tmp_path, meminfo):
    inventory = probe(tmp_path / "none", meminfo)
    assert (inventory.ram_bytes, inventory.ram_available_bytes) == (32 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("files", "ram", "available"),
    [
        ({"memory.max": "max", "memory.current": "1"}, 32 * GIB, 16 * GIB),
        ({"memory.max": str(4 * GIB), "memory.current": str(GIB)}, 4 * GIB, 3 * GIB),
        ({"memory.max": str(4 * GIB), "memory.current": str(3 * GIB), "memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file {GIB}\n"}, 4 * GIB, 3 * GIB),
        ({"memory/memory.limit_in_bytes": str(2 * GIB), "memory/memory.usage_in_bytes": str(GIB)}, 2 * GIB, GIB),
        ({"memory/memory.limit_in_bytes": str((1 << 63) - 4096)}, 32 * GIB, 16 * GIB),
        ({"memory.max": str(64 * MIB), "memory.current": str(128 * MIB)}, 64 * MIB, 0),
    ],
    ids=["no limit", "limited", "the page cache can be given back", "version 1", "version 1, no limit", "over its limit"],
)  # fmt: skip
def test_the_cgroups_grant_is_what_counts(tmp_path, meminfo, files, ram, available):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    inventory = probe(tmp_path / "cgroup", meminfo)
    assert (inventory.ram_bytes, inventory.ram_available_bytes) == (ram, available)


def test_the_real_machine_answers():
    inventory = probe()
    assert inventory.ram_bytes > 0
    assert inventory.cpu_count > 0
    assert inventory.device is (Device.CUDA if inventory.gpus else Device.CPU)


def test_an_inventory_is_written_and_read_back():
    gpu = Gpu(0, "NVIDIA H100 80GB HBM3", 85_000_000_000, 80_000_000_000, (9, 0), "2330:10de")
    inventory = Inventory((gpu,), 1 << 40, 1 << 39, 64, "580.1")
    assert Inventory.from_json(inventory.to_json()) == inventory
    assert inventory.device is Device.CUDA
    assert 0.05 < gpu.used_share < 0.07


@pytest.mark.parametrize(
    "data", [{}, {"schema_version": 2}, {"schema_version": 1}, {"schema_version": 1, "gpus": [{}]}]
)
def test_what_is_no_inventory_is_refused(data):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Inventory.from_json(data)
