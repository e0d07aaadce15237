"""Machines by description."""

import json
from pathlib import Path

import pytest

from lading.errors import UsageError
from lading.hardware.catalogue import MOST_GPUS, catalogue, cuda_total_bytes, described
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
        ("H100-SXM5-80GB", ["NVIDIA H100 80GB HBM3"]),
        ("nvidia h100 sxm", ["NVIDIA H100 80GB HBM3"]),
        ("h100sxm5", ["NVIDIA H100 80GB HBM3"]),
        ("NVIDIA-H100-80GB-HBM3", ["NVIDIA H100 80GB HBM3"]),
        ("H100-PCIe, h100 pcie 80 gb", ["NVIDIA H100 PCIe", "NVIDIA H100 PCIe"]),
        ("H100-94GB,H100_NVL", ["NVIDIA H100 NVL", "NVIDIA H100 NVL"]),
        (
            "A100,A100-80GB-PCIE,A100 SXM4 40GB",
            ["NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-40GB"],
        ),
        ("H200-SXM-141GB", ["NVIDIA H200"]),
        ("B200-192GB", ["NVIDIA B200"]),
        ("GB200 NVL72", ["NVIDIA GB200"]),
        ("GB300 (AIC system file)", ["NVIDIA GB300"]),
        ("RTX PRO 6000 Blackwell 96GB", ["NVIDIA RTX PRO 6000 Blackwell Workstation Edition"]),
        ("L40S-PCIe-48GB", ["NVIDIA L40S"]),
        ("dgx spark", ["NVIDIA GB10"]),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8xH100", True), ("H200", True), ("2xL40S", False), ("RTX 4090", False), ("GB10", False),
        ("2xH100-NVL", True), ("4xH100-NVL", False), ("2xA100-PCIe", None), ("4xA100-PCIe", False),
        ("2xRTX3090", None), ("H100,H200", False), ("2xH100:3g.40gb", False), ("H100,H100:3g.40gb", False),
    ],
)  # fmt: skip
def test_nvlink_is_known_of_a_described_machine(text: str, expected: bool | None) -> None:
    assert {gpu.is_linked for gpu in described(text).gpus} == {expected}


@pytest.mark.parametrize(
    ("text", "profile", "gib"),
    [
        ("7xH100-80GB:1g.10gb", "1g.10gb", 9.75),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "1g.10gb", 9.75),
        ("H100-80GB-MIG-1g.10gb+me", "1g.10gb+me", 9.75),
        ("2xA100-80GB : 1c.3g.40GB", "1c.3g.40gb", 39.25),
        ("A30:2g.12gb", "2g.12gb", 11.6),
        ("H200:7g.141gb", "7g.141gb", 137.7),
    ],
)
def test_mig_instances_by_description(text: str, profile: str, gib: float) -> None:
    machine = described(text)
    assert {gpu.mig_profile for gpu in machine.gpus} == {profile}
    assert all(gpu.name.endswith(f" MIG {profile}") for gpu in machine.gpus)
    assert machine.gpus[0].total_bytes / GIB == pytest.approx(gib, abs=0.05)
    assert len(machine.engine_gpus) == 1


def test_an_instance_never_holds_more_than_its_part_of_the_gpu() -> None:
    for gpu in catalogue():
        for profile in gpu.mig_gib:
            label_gb = int(profile.partition("g.")[2].removesuffix("gb"))
            size = gpu.instance_bytes(profile)
            assert size < min(gpu.total_bytes, label_gb * GIB), (gpu.name, profile)
            assert size > 0.85 * gpu.total_bytes * round(8 * label_gb * GIB / gpu.total_bytes) / 8, (gpu.name, profile)


def test_what_shares_the_machines_ram_is_marked() -> None:
    assert [gpu.is_unified for gpu in described("GB10,H100,GH200,Thor").gpus] == [True, False, False, True]


def test_the_estimate_of_what_cuda_reports_holds_where_both_figures_are_known() -> None:
    measured = [gpu for gpu in catalogue() if gpu.is_measured and gpu.nvml_bytes]
    assert len(measured) > 10
    for gpu in measured:
        estimate = cuda_total_bytes("a GPU of another name", gpu.nvml_bytes or 0)
        assert abs(estimate - gpu.total_bytes) < 0.3 * GIB, gpu.name


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
        ("H100-40GB", ["H100-40GB", "did you mean H100-80GB"]),
        ("L40S-SXM", ["L40S-SXM"]),
        ("PCIe", ["has no GPU 'PCIe'"]),
        ("H100:1g.5gb", ["has no MIG instance 1g.5gb", "1g.10gb, 1g.20gb"]),
        ("L4:1g.5gb", ["has no MIG instance", "no MIG mode"]),
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


@pytest.mark.parametrize("name", ["H1000", "xH100", "8 H100", "H100x8"])
def test_the_nearest_names_count_what_gpus_are_called_without_their_size(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        described(name)
    assert str(caught.value.remedy).startswith("did you mean H100-80GB")
