"""GPUs through the real NVML binding and a stand-in library, from detection to the listing and the command."""

from __future__ import annotations

import json
import os

import pytest

from tests.models import tiny_model, write_model
from tests.program import environment, run
from tests.simulators import nvml
from tests.simulators.vllm_program import install


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
    assert inventory["gpus"][0]["total_bytes"] == 85520809984


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
