"""GPUs through the real NVML binding and a stand-in library, from detection to the listing and the command."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from lading.hardware.inventory import Inventory
from lading.units import GIB, MIB
from tests.models import tiny_model, write_model
from tests.program import environment, run
from tests.simulators import nvml
from tests.simulators.nvml import H100, SWITCH, Instance, StandInGpu
from tests.simulators.vllm_program import install


@pytest.fixture
def machine(tmp_path):
    """Makes the environment of a program on a machine with the GPUs given."""

    def make(*gpus, without=(), driver="580.65.06", cuda=13000):
        variables = nvml.build(tmp_path, gpus, without=without, driver=driver, cuda=cuda)
        if variables is None:
            pytest.skip("there is no C compiler to build the stand-in with")
        return environment(tmp_path, **variables)

    return make


def inventory(environ, **variables) -> Inventory:
    done = run(["inventory", "--json"], {**environ, **variables})
    assert done.returncode == 0, done.stderr
    return Inventory.from_json(json.loads(done.stdout))


@pytest.fixture
def gpus(tmp_path):
    variables = nvml.build(tmp_path)
    if variables is None:
        pytest.skip("there is no C compiler to build the stand-in with")
    (tmp_path / "home").mkdir()
    engine = install(tmp_path / "engine", version="0.32.0")
    return environment(tmp_path, PATH=f"{engine}:{os.environ['PATH']}", **variables)


@pytest.fixture
def model(tmp_path):
    return str(write_model(tmp_path / "model", tiny_model()))


def test_gpus_are_listed_as_nim_lists_them(gpus, model):
    done = run(["list-model-profiles", model], gpus)
    assert done.stdout.startswith(
        "SYSTEM INFO\n- Free GPUs:\n  -  [2330:10de] (0) NVIDIA H100 80GB HBM3 [current utilization: 1%]\n"
        "- Non-free GPUs:\n  -  [2330:10de] (1) NVIDIA H100 80GB HBM3 [current utilization: 50%]\n"
    )
    assert "(vllm-bf16-tp2-pp1) [requires >=3 GB/gpu]" in done.stdout
    assert "needs 4 GPUs, this machine has 2" in done.stdout


def test_the_inventory_has_what_the_driver_says(gpus, model):
    inventory = json.loads(run(["list-model-profiles", "--format", "json", model], gpus).stdout)["inventory"]
    assert inventory["driver_version"] == "580.65.06"
    assert [gpu["compute_capability"] for gpu in inventory["gpus"]] == [[9, 0], [9, 0]]
    assert inventory["gpus"][0]["total_bytes"] == (81559 - 551) * MIB


def test_the_command_for_gpus_leaves_memory_to_the_engine(gpus, model):
    plan = run(["serve", model, "--dry-run", "--tensor-parallel-size", "2"], gpus).stdout
    assert "vllm-bf16-tp2-pp1" in plan
    assert "parallel sizes were given as flags" in plan
    assert "--kv-cache-memory-bytes" not in plan
    assert "--enforce-eager" not in plan


def test_an_engine_for_the_cpu_does_not_serve_on_gpus(gpus, model, tmp_path):
    cpu_engine = install(tmp_path / "cpu", version="0.32.0+cpu")
    done = run(["serve", model, "--dry-run"], {**gpus, "PATH": f"{cpu_engine}:/usr/bin:/bin"})
    assert done.returncode == 5
    assert "build for cpu" in done.stderr


@pytest.mark.parametrize(
    ("code", "status"),
    [("9", 0), ("12", 0), ("999", 6), ("18", 6)],
    ids=["driver not loaded", "library not found", "unknown", "mismatch"],
)
def test_a_driver_that_is_not_there_is_no_error_and_one_that_fails_is(gpus, model, code, status, tmp_path):
    cpu_engine = install(tmp_path / "cpu", version="0.32.0+cpu")
    done = run(["serve", model, "--dry-run"], {**gpus, "FAIL": code, "PATH": f"{cpu_engine}:/usr/bin:/bin"})
    assert done.returncode == status, done.stderr
    assert status == 0 or "nvidia-smi" in done.stderr
    assert "restart" in done.stderr or code != "18"


@pytest.mark.parametrize(
    ("code", "words"), [("9", "installed and not loaded"), ("4", "may not ask"), ("12", "no NVIDIA driver was found")]
)
def test_a_machine_whose_driver_does_not_run_says_what_would_help(machine, code, words):
    done = run(["inventory"], {**machine(H100), "FAIL": code})
    assert done.returncode == 0
    assert done.stdout.startswith("no GPUs\n")
    assert words in done.stdout


def test_a_driver_without_gpus_is_a_cpu_machine(machine):
    found = inventory(machine())
    assert (found.gpus, found.driver_version) == ((), "580.65.06")
    assert found.notes == ("the NVIDIA driver is loaded and shows no GPU",)


def test_everything_that_the_driver_tells_is_in_the_inventory(machine):
    found = inventory(machine(*nvml.TWO_H100))
    first, second = found.gpus
    assert (first.name, first.index, first.uuid) == ("NVIDIA H100 80GB HBM3", 0, nvml.H100.uuid)
    assert (first.total_bytes, first.free_bytes) == (81008 * MIB, 80208 * MIB)
    assert (first.compute_capability, first.pci_id) == ((9, 0), "2330:10de")
    assert (first.is_linked, second.is_linked, first.mig_profile, first.is_unified) == (True, True, None, False)
    assert (found.driver_version, found.cuda_version) == ("580.65.06", "13.0")


def test_an_old_driver_tells_less_and_the_total_is_still_cudas(machine):
    without = (
        *("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMigMode", "nvmlDeviceGetNvLinkState", "nvmlDeviceGetP2PStatus"),
        *("nvmlDeviceGetNumGpuCores", "nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetUUID"),
    )
    found = inventory(machine(*nvml.TWO_H100, without=without, driver="470.57.02"))
    assert [round(gpu.total_bytes / GIB, 2) for gpu in found.gpus] == [79.19, 79.19]
    assert [(gpu.is_linked, gpu.uuid) for gpu in found.gpus] == [(None, ""), (None, "")]
    assert (found.driver_version, found.cuda_version) == ("470.57.02", None)


def test_a_driver_that_is_too_old_to_be_asked_is_one_clear_error(machine):
    done = run(["inventory"], machine(H100, without=("nvmlDeviceGetCudaComputeCapability",), driver="340.108"))
    assert done.returncode == 6
    assert "340.108 is too old" in done.stderr
    assert "install a newer driver" in done.stderr


L40S = StandInGpu("NVIDIA L40S", "GPU-l", 46068 * MIB, reserved_bytes=0, compute_capability=(8, 9))
BRIDGED = [
    replace(L40S, uuid=f"GPU-{index}", links=(index ^ 1, index ^ 1, -3)) for index in range(4)
]  # pairs, one link of each down


@pytest.mark.parametrize("without", [(), ("nvmlDeviceGetP2PStatus",)], ids=["as engines ask", "by the links' ends"])
@pytest.mark.parametrize(
    ("gpus", "chosen", "expected"),
    [
        ([replace(H100, uuid=f"GPU-{index}") for index in range(3)], "0,1,2", [True] * 3),
        ([replace(L40S, uuid=f"GPU-{index}") for index in range(2)], "0,1", [False] * 2),
        (BRIDGED, "0,1,2,3", [False] * 4),
        (BRIDGED, "2,3", [True] * 2),
        ([replace(L40S, links=(-3, -3)), replace(L40S, uuid="GPU-1", links=(-3,))], "0,1", [False] * 2),
        ([H100], "0", [True]),
        ([L40S], "0", [False]),
    ],
    ids=["NVSwitch", "no NVLink", "bridged pairs", "one of the pairs", "links that are down", "alone", "alone on PCIe"],
)
def test_nvlink_between_the_gpus_that_an_engine_gets(machine, gpus, chosen, expected, without):
    found = inventory(machine(*gpus, without=without), CUDA_VISIBLE_DEVICES=chosen)
    assert [gpu.is_linked for gpu in found.gpus] == expected


def mig(number: int, profile: str = "1g.10gb", **changes) -> Instance:
    name = f"NVIDIA H100 80GB HBM3 MIG {profile}"
    return replace(Instance(name, f"MIG-{number}", 9984 * MIB, reserved_bytes=MIB, gpu_instance=number), **changes)


def test_mig_instances_are_listed_each_for_itself(machine, model, tmp_path):
    halves = replace(H100, instances=(mig(1), mig(2, "3g.40gb", total_bytes=40448 * MIB), mig(3)))
    found = inventory(machine(halves, replace(H100, uuid="GPU-whole", instances=())))
    assert [(gpu.index, gpu.uuid, gpu.mig_profile) for gpu in found.gpus] == [
        *((0, "MIG-1", "1g.10gb"), (0, "MIG-2", "3g.40gb"), (0, "MIG-3", "1g.10gb")),
    ]
    assert [gpu.total_bytes // MIB for gpu in found.gpus] == [9983, 40447, 9983]
    assert found.gpus[1].name == "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    assert "has no instance" in found.hidden[0].reason


def test_an_engine_on_mig_instances_gets_one_of_them(machine, model, tmp_path):
    (tmp_path / "home").mkdir()
    engine = install(tmp_path / "engine", version="0.32.0")
    environ = machine(replace(H100, instances=(mig(1), mig(2))))
    listed = run(["list-model-profiles", model], {**environ, "PATH": f"{engine}:{os.environ['PATH']}"}).stdout
    assert "(0) NVIDIA H100 80GB HBM3 MIG 1g.10gb" in listed
    assert "(vllm-bf16-tp1-pp1) [requires" in listed.partition("Incompatible")[0]
    assert "needs 2 GPUs, of MIG instances an engine can use 1" in listed


@pytest.mark.parametrize(
    ("instance", "profile", "mib"),
    [
        (mig(1, name="NVIDIA H100 80GB HBM3"), "1g.10gb", 9983),
        (mig(1, name="NVIDIA H100 80GB HBM3", slices=3, computing=1, megabytes=40448), "1c.3g.40gb", 9983),
        (mig(1, memory_fault=nvml.NOT_SUPPORTED, megabytes=9984), "1g.10gb", 9984),
    ],
    ids=["without its profile in its name", "a part of an instance", "without figures of its memory"],
)
def test_what_an_instance_does_not_say_its_attributes_do(machine, instance, profile, mib):
    (gpu,) = inventory(machine(replace(H100, instances=(instance,)))).gpus
    assert (gpu.mig_profile, gpu.name) == (profile, f"NVIDIA H100 80GB HBM3 MIG {profile}")
    assert gpu.total_bytes == mib * MIB


def test_a_gpu_that_shares_the_machines_ram_is_said_to(machine):
    spark = StandInGpu("NVIDIA GB10", "GPU-spark", 0, compute_capability=(12, 1), memory_fault=nvml.NOT_SUPPORTED)
    environ = machine(spark)
    (gpu,) = inventory(environ).gpus
    assert gpu.is_unified
    assert gpu.total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert "shares the machine's RAM" in run(["inventory"], environ).stdout


@pytest.mark.parametrize(
    ("fault", "words"),
    [(nvml.GPU_IS_LOST, "GPU 1 does not answer (GPU is lost)"), (nvml.NO_PERMISSION, "GPU 1 is not for this user")],
)
def test_one_gpu_that_fails_leaves_the_others(machine, fault, words):
    environ = machine(H100, replace(H100, uuid="GPU-lost", fault=fault), replace(H100, uuid="GPU-c"))
    assert [gpu.index for gpu in inventory(environ).gpus] == [0, 2]
    assert words in run(["inventory"], environ).stdout


def test_a_machine_whose_only_gpu_fails_is_an_error_and_one_whose_gpus_are_others_is_none(machine):
    done = run(["inventory"], machine(replace(H100, fault=nvml.GPU_IS_LOST)))
    assert done.returncode == 6
    assert "GPU 0: GPU is lost" in done.stderr
    assert "nvidia-smi" in done.stderr
    assert inventory(machine(replace(H100, fault=nvml.NO_PERMISSION))).gpus == ()


def test_hidden_gpus_are_shown_with_the_reason(machine):
    environ = machine(*nvml.TWO_H100)
    shown = run(["inventory"], {**environ, "CUDA_VISIBLE_DEVICES": "0"}).stdout
    assert "GPU 1 hidden by CUDA_VISIBLE_DEVICES=0 (NVIDIA H100 80GB HBM3)\n" in shown
    listed = run(["list-model-profiles", "demo"], {**environ, "CUDA_VISIBLE_DEVICES": "0"}).stderr
    assert "GPU 1 hidden by CUDA_VISIBLE_DEVICES=0" in listed
    assert inventory(environ, CUDA_VISIBLE_DEVICES="").device == "cpu"
    assert [gpu.index for gpu in inventory(environ, CUDA_VISIBLE_DEVICES="GPU-b,GPU-a").gpus] == [1, 0]
    assert [gpu.index for gpu in inventory(environ, NVIDIA_VISIBLE_DEVICES="1").gpus] == [1]


def test_the_fastest_gpu_is_cudas_first(machine):
    slow = replace(L40S, cores=18176, clock=1000)
    environ = machine(slow, replace(H100, links=(SWITCH,)))
    assert [gpu.index for gpu in inventory(environ).gpus] == [1, 0]
    assert [gpu.index for gpu in inventory(environ, CUDA_DEVICE_ORDER="PCI_BUS_ID").gpus] == [0, 1]


def test_profiles_are_fitted_to_the_gpus_of_nvidia_visible_devices(machine, model, tmp_path):
    (tmp_path / "home").mkdir()
    engine = install(tmp_path / "engine", version="0.32.0")
    environ = {**machine(*nvml.TWO_H100), "PATH": f"{engine}:{os.environ['PATH']}", "NVIDIA_VISIBLE_DEVICES": "1"}
    listed = run(["list-model-profiles", model], environ).stdout
    assert "- Non-free GPUs:\n  -  [2330:10de] (1) NVIDIA H100" in listed
    assert "needs 2 GPUs, this machine has 1" in listed
