"""Looking at a machine: the cgroup's limit, the machine's memory, what the driver's figures become, saved inventories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lading.hardware.driver import DriverGpu, DriverMemory, DriverReport, MigInstance
from lading.hardware.inventory import Device, Gpu, HiddenBy, HiddenGpu, Inventory
from lading.hardware.probe import assemble, probe
from lading.hardware.ram import Ram
from lading.units import GIB, MIB

RAM = Ram(128 * GIB, 100 * GIB, 64 * GIB, 60 * GIB)


@pytest.fixture
def meminfo(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       33554432 kB\nMemFree: 1024 kB\nMemAvailable:   16777216 kB\nHugePages_Total: 0\n")
    return path


def test_without_a_limit_the_machines_memory_counts(tmp_path, meminfo):
    inventory = probe({}, tmp_path / "none", meminfo)
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
    inventory = probe({}, tmp_path / "cgroup", meminfo)
    assert (inventory.ram_bytes, inventory.ram_available_bytes) == (ram, available)


def test_the_real_machine_answers():
    inventory = probe({})
    assert inventory.ram_bytes > 0
    assert inventory.cpu_count > 0
    assert inventory.device is (Device.CUDA if inventory.gpus else Device.CPU)
    assert inventory.gpus or inventory.notes


def seen(*gpus: DriverGpu) -> tuple[Gpu, ...]:
    return assemble(DriverReport(gpus), RAM, 8, {}).gpus


def told(name: str, mib: int, reserved_mib: int = 0, capability: tuple[int, int] = (9, 0)) -> DriverGpu:
    memory = DriverMemory(mib * MIB, (mib - reserved_mib) * MIB, reserved_mib * MIB)
    return DriverGpu(0, name, compute_capability=capability, memory=memory)


# name, what nvidia-smi prints, what CUDA reports: the reference's figures of GPUs of which both are known
KNOWN = [
    ("NVIDIA H100 80GB HBM3", 81559, 79.19),
    ("NVIDIA H200", 143771, 139.81),
    ("NVIDIA B200", 183359, 178.35),
    ("NVIDIA B300 SXM6 AC", 275040, 267.69),
    ("NVIDIA L40S", 46068, 44.42),
    ("NVIDIA GeForce RTX 3090", 24576, 23.58),
    ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97886, 94.97),
    ("NVIDIA RTX PRO 4500 Blackwell Server Edition", 32623, 31.38),
]


@pytest.mark.parametrize(("name", "mib", "gib"), KNOWN)
def test_the_total_is_cudas_whatever_the_driver_tells(name, mib, gib):
    (exact,) = seen(told(name, mib, reserved_mib=mib - round(gib * 1024)))
    assert exact.total_bytes / GIB == pytest.approx(gib, abs=0.01), "the driver tells its own share"
    (known,) = seen(told(name, mib))
    assert known.total_bytes / GIB == pytest.approx(gib, abs=0.01), "an old driver does not, the catalogue does"
    (unknown,) = seen(told("NVIDIA Something New", mib))
    assert unknown.total_bytes / GIB == pytest.approx(gib, rel=0.005), "nobody does"
    assert unknown.free_bytes == unknown.total_bytes


def test_a_name_whose_size_is_another_is_not_taken_for_the_one_in_the_catalogue():
    (gpu,) = seen(told("NVIDIA H100 80GB HBM3", 65247))
    assert gpu.total_bytes / GIB == pytest.approx(63.1, abs=0.3)


@pytest.mark.parametrize(
    ("gpu", "is_unified"),
    [
        (DriverGpu(0, "NVIDIA GB10", compute_capability=(12, 1)), True),
        (told("NVIDIA GB10", 124610, capability=(12, 1)), True),
        (DriverGpu(0, "NVIDIA Thor", compute_capability=(11, 0)), True),
        (DriverGpu(0, "NVIDIA of next year", compute_capability=(15, 1)), True),
        (told("NVIDIA GH200 480GB", 97871), False),
    ],
    ids=["GB10", "GB10 with a figure", "Thor", "no figure", "GH200 has memory of its own"],
)
def test_a_gpu_without_memory_of_its_own_has_the_machines(gpu, is_unified):
    (found,) = seen(gpu)
    assert found.is_unified is is_unified
    assert ((found.total_bytes, found.free_bytes) == (128 * GIB, 100 * GIB)) is is_unified


def slice_of(number: int, gib: float, reserved_mib: int = 0) -> MigInstance:
    memory = DriverMemory(int(gib * GIB), int(gib * GIB) - reserved_mib * MIB, reserved_mib * MIB)
    return MigInstance(f"NVIDIA H100 80GB HBM3 MIG {number}g", f"MIG-{number}", f"{number}g", memory, number, 0)


def test_each_mig_instance_is_a_device_with_its_own_memory():
    whole = told("NVIDIA H100 80GB HBM3", 81559)
    small, large = seen(replace(whole, instances=(slice_of(1, 9.75), slice_of(3, 39.5, reserved_mib=50))))
    assert (small.name, small.uuid, small.mig_profile) == ("NVIDIA H100 80GB HBM3 MIG 1g", "MIG-1", "1g")
    assert (small.total_bytes, large.total_bytes) == (int(9.75 * GIB), int(39.5 * GIB) - 50 * MIB)
    assert (small.index, large.index, small.is_linked, small.compute_capability) == (0, 0, False, (9, 0))


def test_an_engine_gets_one_mig_instance_and_all_whole_gpus():
    machine = assemble(DriverReport((told("H100", 81559), replace(told("H100", 81559), index=1))), RAM, 8, {})
    assert machine.engine_gpus == machine.gpus
    halved = replace(told("H100", 81559), instances=(slice_of(3, 39.5), slice_of(4, 39.5)))
    machine = assemble(DriverReport((halved,)), RAM, 8, {})
    assert (len(machine.gpus), machine.engine_gpus) == (2, machine.gpus[:1])


@pytest.mark.parametrize(
    ("links", "alone", "expected"),
    [
        ({0: {1, 2}, 1: {0, 2}, 2: {0, 1}}, False, [True, True, True]),
        ({0: {1}, 1: {0}, 2: set()}, False, [False, False, False]),
        ({0: None, 1: {0, 2}, 2: {0, 1}}, False, [None, True, True]),
        ({0: set()}, True, [True]),
    ],
    ids=["each with each", "a pair and one more", "unknown", "alone, with links up"],
)
def test_a_gpu_is_linked_when_nvlink_reaches_all_the_others(links, alone, expected):
    gpus = [
        replace(
            told("H100", 81559),
            index=index,
            links=None if peers is None else frozenset(peers),
            link_ends=frozenset({"switch"}) if alone else None,
        )
        for index, peers in links.items()
    ]
    assert [gpu.is_linked for gpu in seen(*gpus)] == expected


def test_only_gpus_that_are_shown_must_be_linked():
    gpus = [replace(told("H100", 81559), index=index, links=frozenset({1 - index})) for index in (0, 1)]
    report = DriverReport((*gpus, replace(told("L4", 23034), index=2, links=frozenset())))
    assert [gpu.is_linked for gpu in assemble(report, RAM, 8, {}).gpus] == [False, False, False]
    assert [gpu.is_linked for gpu in assemble(report, RAM, 8, {"CUDA_VISIBLE_DEVICES": "0,1"}).gpus] == [True, True]


FULL = Inventory(
    (Gpu(0, "NVIDIA H100 80GB HBM3", 85_000_000_000, 80_000_000_000, (9, 0), "2330:10de", "GPU-1", True, "1g.10gb", True),),
    1 << 40, 1 << 39, 64, "580.1", "13.0",
    (HiddenGpu(1, "NVIDIA L4", "GPU-2", HiddenBy.CUDA_VISIBLE_DEVICES, "hidden by CUDA_VISIBLE_DEVICES=0"),),
    ("a note",),
)  # fmt: skip


def test_an_inventory_is_written_and_read_back():
    assert Inventory.from_json(FULL.to_json()) == FULL
    assert FULL.device is Device.CUDA
    assert 0.05 < FULL.gpus[0].used_share < 0.07


OLD_GPU: dict[str, Any] = {
    "index": 0,
    "name": "NVIDIA L4",
    "total_bytes": 9,
    "free_bytes": 8,
    "compute_capability": [8, 9],
    "pci_id": "27b8:10de",
}
OLD: dict[str, Any] = {
    "schema_version": 1,
    "gpus": [OLD_GPU],
    "ram_bytes": 7,
    "ram_available_bytes": 6,
    "cpu_count": 5,
    "driver_version": None,
}  # fmt: skip


def test_files_of_earlier_and_of_later_releases_are_read():
    expected = Inventory((Gpu(0, "NVIDIA L4", 9, 8, (8, 9), "27b8:10de"),), 7, 6, 5)
    assert Inventory.from_json(OLD) == expected
    later = {**OLD, "fans": 2, "gpus": [{**OLD_GPU, "colour": "green"}]}
    assert Inventory.from_json(later) == expected


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"schema_version": 2},
        {"schema_version": 1},
        {"schema_version": 1, "gpus": [{}]},
        {**OLD, "ram_bytes": "7"},
        {**OLD, "cpu_count": True},
        {**OLD, "gpus": {}},
        {**OLD, "notes": "none"},
        {**OLD, "gpus": [{**OLD_GPU, "total_bytes": -1}]},
        {**OLD, "gpus": [{**OLD_GPU, "compute_capability": ["8", "9"]}]},
        {**OLD, "gpus": [{**OLD_GPU, "is_linked": "yes"}]},
        {**OLD, "hidden": [{"index": 0, "name": "L4", "uuid": "", "by": "magic", "reason": ""}]},
    ],
)
def test_what_is_no_inventory_is_refused(data):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Inventory.from_json(data)
