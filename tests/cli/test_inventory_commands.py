"""``lading inventory``, and listings for another machine than this one."""

import json
from pathlib import Path
from typing import Any

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
    names = ["weights", "rope_cache", "allocator", "activation", "non_torch", "cuda_graphs", "kv_cache", "total", "KV"]
    assert [line.split()[0] for line in first[1:10]] == names
    assert all(line.count("#") + line.count(".") >= 20 for line in first[1:9])
    assert "tokens in" in first[9]
    two = explained.partition("\nvllm-bf16-tp2-pp1:")[2].partition("\nvllm-")[0].splitlines()
    assert [line.split()[:2] for line in two if "GPU" in line.split()[:1]] == [["GPU", "0"], ["GPU", "1"]]


JSON_KEYS = {
    "profile_id", "name", "tags", "verdict", "reason", "remedy", "required_bytes_per_gpu", "max_model_len",
    "suggested_max_model_len", "ranks",
}  # fmt: skip
RANK_KEYS = {
    "rank", "weights_bytes", "activation_bytes", "non_torch_bytes", "cuda_graph_bytes", "lora_bytes", "kv_pool_bytes",
    "kv_pool_tokens", "kv_bytes_per_request",
}  # fmt: skip


def listed(tmp_path: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """The profiles of the demo model by name, of ``list-model-profiles --format json`` with these arguments."""
    done = run(["list-model-profiles", "demo", "--format", "json", *arguments], environment(tmp_path))
    assert done.returncode == 0, done.stderr
    return {each["name"]: each for each in json.loads(done.stdout)["profiles"]}


@pytest.mark.parametrize("engine", ["vllm==0.19.0", "sglang==0.5.23", "tensorrt_llm==1.1", "vllm"])
def test_an_estimate_can_be_had_for_an_engine_that_is_not_here(tmp_path: Path, engine: str) -> None:
    name = engine.partition("==")[0]
    found = listed(tmp_path, "--gpus", "2xH100", "--engine", engine)
    one = found[f"{name}-bf16-tp1-pp1"]
    assert set(one) >= JSON_KEYS
    assert one["verdict"] == "compatible"
    assert [set(rank) >= RANK_KEYS for rank in found[f"{name}-bf16-tp2-pp1"]["ranks"]] == [True, True]
    assert one["ranks"][0]["kv_pool_tokens"] > 0


def test_flags_of_the_engine_change_the_estimate_and_not_the_ids(tmp_path: Path) -> None:
    plain = listed(tmp_path, "--gpus", "H100")
    flags = ("--max-model-len", "128", "--gpu-memory-utilization=0.5", "--kv-cache-dtype", "fp8", "--enforce-eager")
    asked = listed(tmp_path, *flags, "--gpus", "H100")
    assert {name: each["profile_id"] for name, each in plain.items()} == {
        name: each["profile_id"] for name, each in asked.items()
    }
    before, after = plain["vllm-bf16-tp1-pp1"], asked["vllm-bf16-tp1-pp1"]
    assert after["max_model_len"] == 128
    assert after["have_bytes_per_gpu"] < before["have_bytes_per_gpu"]
    assert after["ranks"][0]["cuda_graph_bytes"] == 0 < before["ranks"][0]["cuda_graph_bytes"]
    assert after["ranks"][0]["kv_bytes_per_request"] < before["ranks"][0]["kv_bytes_per_request"] / 2


def test_the_engine_that_is_named_says_whose_flags_they_are(tmp_path: Path) -> None:
    found = listed(
        tmp_path, "--engine=sglang", "--gpus", "H100", "--mem-fraction-static", "0.5", "--context-length", "64"
    )
    assert found["sglang-bf16-tp1-pp1"]["max_model_len"] == 64
    wrong = run(["list-model-profiles", "demo", "--engine", "sglang", "--max-model-len", "64"], environment(tmp_path))
    assert wrong.returncode == 2


def test_an_engine_that_nobody_knows_is_one_clear_error(tmp_path: Path) -> None:
    done = run(["list-model-profiles", "demo", "--engine", "ollama==1"], environment(tmp_path))
    assert done.returncode == 2
    assert "vllm, sglang, tensorrt_llm" in done.stderr


@pytest.mark.parametrize("command", [["inventory"], ["list-model-profiles", "demo"]])
def test_a_machine_that_nobody_knows_is_one_clear_error(tmp_path: Path, command: list[str]) -> None:
    done = run([*command, "--gpus", "8xH1000"], environment(tmp_path))
    assert done.returncode == 2
    assert "the catalogue has no GPU 'H1000'" in done.stderr
    assert "Traceback" not in done.stderr


def test_flags_that_no_estimate_reads_are_named_and_passed_over(tmp_path: Path) -> None:
    done = run(["list-model-profiles", "--swap-space", "4", "demo", "--gpus", "L4"], environment(tmp_path))
    assert done.returncode == 2, "a bare word behind an unknown flag is its value"
    done = run(["list-model-profiles", "demo", "--swap-space", "4", "--gpus", "L4"], environment(tmp_path))
    assert done.returncode == 0
    assert "not counted: --swap-space" in done.stderr


@pytest.mark.parametrize("flag", ["--gpus=", "--engine=", "--max-model-len=infk", "--block-size=0", "--dtype=int3"])
def test_a_value_that_says_nothing_is_one_clear_error(tmp_path: Path, flag: str) -> None:
    done = run(["list-model-profiles", "demo", flag], environment(tmp_path))
    assert done.returncode == 2
    assert "try: " in done.stderr
    assert "Lading itself failed" not in done.stderr


@pytest.mark.parametrize("engine", ["vllm==0.19.0", "vllm", "sglang", "tensorrt_llm"])
def test_the_figures_of_each_rank_add_up_and_none_is_negative(tmp_path: Path, engine: str) -> None:
    for machine in ("2xH100", "H100-80GB:1g.10gb"):
        found = listed(tmp_path, "--gpus", machine, "--engine", engine)
        for each in found.values():
            rank = each["ranks"][each["binding_rank"]]
            assert all(figure >= 0 for figure in rank.values())
            parts = ("weights", "activation", "non_torch", "lora")
            held = sum(rank[f"{part}_bytes"] for part in parts) + rank["kv_bytes_per_request"]
            assert each["required_bytes_per_gpu"] - held in (0, rank["cuda_graph_bytes"])


def test_the_listing_has_the_headings_of_nim_in_their_order(tmp_path: Path) -> None:
    done = run(["list-model-profiles", "demo", "--gpus", "L4"], environment(tmp_path))
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("- ")] == [
        "- Free GPUs",
        "- Non-free GPUs",
        "- Compatible with system and runnable",
        "- Compatible with system but low memory",
        "- Compilable to TRT-LLM using just-in-time compilation of HF models to TRTLLM engines",
        "- Incompatible with system",
    ]


@pytest.mark.parametrize("engine", ["vllm", "vllm==0.33.0", "vllm==0.19.0"])
def test_an_architecture_that_no_release_runs_is_said_before_any_download(tmp_path: Path, engine: str) -> None:
    files = tiny_model()
    config = {**json.loads(files["config.json"]), "architectures": ["Lama9ForCausalLM"]}
    with HubSimulator() as hub:
        hub.add_model("demo/new", {**files, "config.json": json.dumps(config).encode()})
        environ = environment(tmp_path, HF_ENDPOINT=hub.endpoint)
        done = run(["list-model-profiles", "hf://demo/new", "--gpus", "L4", "--engine", engine], environ)
        planned = run(["plan", "hf://demo/new", "--engine", engine], environ)
        told = run(
            ["list-model-profiles", "hf://demo/new", "--gpus", "L4", "--engine", f"{engine}", "--trust-remote-code"],
            environ,
        )
    assert "- Compatible with system and runnable: <None>" in done.stdout
    assert "does not run 'Lama9ForCausalLM' models; its nearest names are Llama" in done.stdout
    assert "does not run 'Lama9ForCausalLM' models" in planned.stdout
    assert "- Compatible with system and runnable: <None>" not in told.stdout
