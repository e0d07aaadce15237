"""``lading inventory``, and listings for another machine than this one."""

import json
from pathlib import Path

import pytest

from lading.hardware.catalogue import described
from lading.hardware.inventory import Inventory
from tests.models import tiny_model
from tests.program import environment, run
from tests.simulators.hub import HubSimulator


def test_this_machine_can_be_saved_and_planned_for(tmp_path: Path) -> None:
    shown = run(["inventory"], environment(tmp_path))
    assert shown.returncode == 0
    assert "RAM  " in shown.stdout
    saved = run(["inventory", "--json"], environment(tmp_path))
    machine = Inventory.from_json(json.loads(saved.stdout))
    assert machine.ram_bytes > 0
    (tmp_path / "machine.json").write_text(saved.stdout)
    again = run(["inventory", "--json", "--gpus", str(tmp_path / "machine.json")], environment(tmp_path))
    assert again.stdout == saved.stdout


def test_a_described_machine_is_shown_with_cudas_memory(tmp_path: Path) -> None:
    done = run(["inventory", "--gpus", "2xL40S"], environment(tmp_path))
    assert done.stdout == (
        "0  NVIDIA L40S  44.4 GiB, 44.4 GiB free  compute capability 8.9\n"
        "1  NVIDIA L40S  44.4 GiB, 44.4 GiB free  compute capability 8.9\n"
    )
    as_json = run(["inventory", "--gpus", "2xL40S", "--json"], environment(tmp_path))
    assert Inventory.from_json(json.loads(as_json.stdout)) == described("2xL40S")


def test_profiles_are_listed_for_another_machine_without_an_engine_here(tmp_path: Path) -> None:
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", tiny_model())
        environ = environment(tmp_path, HF_ENDPOINT=hub.endpoint)
        done = run(["list-model-profiles", "hf://demo/tiny", "--gpus", "2xH100", "--format", "json"], environ)
        here = run(["list-model-profiles", "hf://demo/tiny", "--format", "json"], environ)
    assert done.returncode == here.returncode == 0
    there, assumed = json.loads(done.stdout), json.loads(here.stdout)
    verdicts = {each["name"]: each["verdict"] for each in there["profiles"]}
    assert verdicts["vllm-bf16-tp2-pp1"] == "compatible"
    assert verdicts["vllm-bf16-tp4-pp1"] == "incompatible"
    assert {each["profile_id"] for each in there["profiles"]} == {each["profile_id"] for each in assumed["profiles"]}


def test_an_estimate_is_explained_term_by_term(tmp_path: Path) -> None:
    done = run(["list-model-profiles", "demo", "--gpus", "L4", "--explain"], environment(tmp_path))
    _, _, explained = done.stdout.partition("\n\n")
    first = explained.partition("\nvllm-bf16-tp2-pp1:")[0].splitlines()
    assert first[0].startswith("vllm-bf16-tp1-pp1: compatible: needs ")
    names = ["weights", "rope_cache", "kv_cache", "activation", "non_torch", "cuda_graphs", "total"]
    assert [line.split()[0] for line in first[1:]] == names
    assert all(line.count("#") + line.count(".") >= 20 for line in first[1:])


@pytest.mark.parametrize("command", [["inventory"], ["list-model-profiles", "demo"]])
def test_a_machine_that_nobody_knows_is_one_clear_error(tmp_path: Path, command: list[str]) -> None:
    done = run([*command, "--gpus", "8xH1000"], environment(tmp_path))
    assert done.returncode == 2
    assert "the catalogue has no GPU 'H1000'" in done.stderr
    assert "Traceback" not in done.stderr
