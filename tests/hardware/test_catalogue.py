"""Machines by description."""

import json
from pathlib import Path

import pytest

from lading.errors import UsageError
from lading.hardware.catalogue import MOST_GPUS, catalogue, described
from lading.hardware.inventory import Device, Gpu, Inventory
from lading.units import GIB


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("8xH100-80GB", ["NVIDIA H100 80GB HBM3"] * 8),
        ("2xL40S", ["NVIDIA L40S"] * 2),
        ("h200", ["NVIDIA H200"]),
        ("4 x A100-40GB", ["NVIDIA A100-SXM4-40GB"] * 4),
        ("NVIDIA GeForce RTX 4090", ["NVIDIA GeForce RTX 4090"]),
        ("rtx 4090 d", ["NVIDIA GeForce RTX 4090 D"]),
        ("1×B200, 2*T4", ["NVIDIA B200", "Tesla T4", "Tesla T4"]),
    ],
)
def test_gpus_by_name_and_number(text: str, names: list[str]) -> None:
    machine = described(text)
    assert [gpu.name for gpu in machine.gpus] == names
    assert [gpu.index for gpu in machine.gpus] == list(range(len(names)))
    assert machine.device is Device.CUDA
    assert all(gpu.free_bytes == gpu.total_bytes for gpu in machine.gpus)


def test_the_memory_is_cudas_and_not_the_labels() -> None:
    (gpu,) = described("H100").gpus
    assert round(gpu.total_bytes / GIB, 2) == 79.19
    assert gpu.compute_capability == (9, 0)


def test_every_name_is_one_gpu_alone() -> None:
    names = [name for gpu in catalogue() for name in (gpu.name, *gpu.aliases)]
    assert len(names) == len(set(names))
    for gpu in catalogue():
        for name in (gpu.name, *gpu.aliases):
            assert described(name).gpus[0].name == gpu.name
        assert 10 * GIB < gpu.total_bytes < 300 * GIB
        assert (7, 0) <= gpu.compute_capability <= (12, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8xH1000", ["H1000", "did you mean H100", "8xH100-80GB"]),
        ("0xH100", ["names no GPUs"]),
        ("", ["names no GPUs"]),
        ("H100,,L4", ["names no GPUs"]),
        ("2xRadeon", ["Radeon", "it has"]),
        (f"{MOST_GPUS + 1}xL4", [f"more than {MOST_GPUS}"]),
        ("99999xL4", [f"more than {MOST_GPUS}"]),
    ],
)
def test_what_names_no_machine_is_told_what_does(text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        described(text)
    assert all(word in f"{caught.value} {caught.value.remedy}" for word in words)


def test_a_saved_inventory_is_a_description_too(tmp_path: Path) -> None:
    machine = Inventory(
        (Gpu(0, "NVIDIA L4", 22 * GIB, 20 * GIB, (8, 9), "27b8:10de"),), 64 * GIB, 60 * GIB, 16, "580.1"
    )
    (tmp_path / "machine.json").write_text(json.dumps(machine.to_json()))
    assert described(str(tmp_path / "machine.json")) == machine


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "gpus": 3}'])
def test_a_file_that_is_none_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_text(text)
    with pytest.raises(UsageError, match="is no inventory"):
        described(str(tmp_path / "machine.json"))
    with pytest.raises(UsageError, match="cannot be read"):
        described(str(tmp_path / "nothing.json"))
