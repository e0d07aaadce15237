"""LoRA adapters as a user meets them: found, sized, loaded, watched; stand-ins of vLLM and SGLang, real processes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile

import pytest

from tests.adapters.adapters import adapter, write
from tests.models import tiny_model, write_model
from tests.program import Program, environment, run, running
from tests.simulators import nvml, sglang_program, vllm_program
from tests.simulators.hub import HubSimulator
from tests.supervisor.test_supervisor import eventually


@pytest.fixture
def model(tmp_path):
    return str(write_model(tmp_path / "model", tiny_model()))


@pytest.fixture
def loras(tmp_path):
    directory = tmp_path / "loras"
    directory.mkdir()
    return directory


@pytest.fixture
def short():
    """A directory for what programs put aside: with a short name, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="lora-") as directory:
        yield directory


@pytest.fixture
def environ(tmp_path, loras, short):
    (tmp_path / "home").mkdir()
    engine = vllm_program.install(tmp_path / "engine")
    return environment(
        tmp_path,
        PATH=f"{engine}:{os.environ['PATH']}",
        NIM_PEFT_SOURCE=str(loras),
        NIM_SERVED_MODEL_NAME="tiny",
        TMPDIR=short,
    )


def models(program: Program) -> list[str]:
    return [each["id"] for each in program.get("/v1/models").json()["data"]]


def says(program: Program, name: str) -> str:
    answer = program.get("/v1/chat/completions", {"model": name, "messages": []})
    return str(answer.json()["choices"][0]["message"]["content"]) if answer.status == 200 else str(answer.status)


def test_adapters_are_there_when_the_model_is_ready_and_broken_ones_are_skipped_with_the_reason(
    tmp_path, environ, model, loras, short
):
    write(loras / "good", adapter(8, seed=1))
    write(loras / "wide", adapter(8, hidden=96))
    write(loras / "tiny", adapter(8))
    write(loras / "cut", {**adapter(8), "adapter_model.safetensors": adapter(8)["adapter_model.safetensors"][:-9]})
    write(loras / "bare", {"adapter_config.json": adapter(8)["adapter_config.json"]})
    write(loras / "high", adapter(600))
    write(loras / ".hidden", adapter(8))
    write(loras / "upload.tmp", adapter(8))
    write(loras / "notes", {"README.md": b"x"})
    with running([model], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert models(program) == ["tiny", "good"]
        assert says(program, "good").startswith("Hello from good")
        assert says(program, "wide") == "404"
        for name, reason in {
            "wide": "its hidden size is 96, the model's 64",
            "tiny": "the model itself has that name",
            "cut": "truncated",
            "bare": "adapter_model.safetensors is missing",
            "high": "its rank is 600, and there is room for 8",
        }.items():
            line = next(line for line in program.output.splitlines() if f"LoRA adapter {name} of" in line)
            assert reason in line
        assert "LoRA adapter good loaded: rank 8" in program.output
        metrics = program.get("/v1/metrics").body.decode()
        assert 'lading_lora_adapters{state="loaded"} 1' in metrics
        assert 'lading_lora_adapters{state="skipped"} 5' in metrics
        assert 'lading_lora_adapter_info{name="good"} 1' in metrics
        assert program.stop() == 0
    assert os.listdir(short) == []


def test_watched_adapters_come_change_and_go(tmp_path, environ, model, loras):
    environ["NIM_PEFT_REFRESH_INTERVAL"] = "0.2"
    with running([model], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert models(program) == ["tiny"]
        write(loras / "a", adapter(16, seed=1))
        program.wait_for_line("LoRA adapter a loaded: rank 16")
        first = says(program, "a")
        assert models(program) == ["tiny", "a"]
        write(loras / "a", adapter(16, seed=2))
        program.wait_for_line("LoRA adapter a replaced")
        assert says(program, "a") not in (first, "404")
        (loras / "a/adapter_model.safetensors").write_bytes(b"broken")
        program.wait_for_line("the version before stays")
        assert says(program, "a").startswith("Hello from a")
        shutil.rmtree(loras / "a")
        program.wait_for_line("LoRA adapter a unloaded")
        assert says(program, "a") == "404"
        assert models(program) == ["tiny"]
        assert 'lading_lora_adapters{state="loaded"} 0' in program.get("/v1/metrics").body.decode()
        assert program.stop() == 0


def test_an_adapter_that_the_engine_refuses_is_said_in_its_words_and_stops_no_other(tmp_path, environ, model, loras):
    environ["STAND_IN"] = json.dumps({"refused_adapters": ["a"]})
    write(loras / "a", adapter())
    write(loras / "b", adapter())
    with running([model], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert models(program) == ["tiny", "b"]
        assert "skipped: the engine says: Call to add_lora method failed" in program.output


def arguments(environ: dict[str, str], *tokens: str) -> list[str]:
    done = run([*tokens, "--dry-run"], environ)
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.splitlines() if line.startswith("  --")]


def test_the_room_is_that_of_the_adapters_found_and_what_is_asked_for_wins(environ, model, loras):
    write(loras / "a", adapter(8))
    write(loras / "b", adapter(48))
    lines = arguments(environ, model)
    assert "--max-lora-rank 64 # 2 LoRA adapters found" in lines
    assert "--max-loras 2 # 2 LoRA adapters found" in lines
    assert "--max-cpu-loras 16 # as NIM has it" in lines
    settings = {"NIM_MAX_LORA_RANK": "100", "NIM_MAX_GPU_LORAS": "3", "NIM_MAX_CPU_LORAS": "5"}
    lines = arguments(environ | settings, model)
    assert "--max-lora-rank 128 # NIM_MAX_LORA_RANK" in lines
    assert "--max-loras 3 # NIM_MAX_GPU_LORAS" in lines
    assert "--max-cpu-loras 5 # NIM_MAX_CPU_LORAS" in lines
    lines = arguments(environ | settings, model, "--max-lora-rank", "16", "--max-loras=20")
    assert "--max-lora-rank 16 --max-loras=20 # command line" in lines
    assert not any("NIM_MAX_LORA_RANK" in line for line in lines)
    plan = run([model, "--dry-run"], environ | settings).stdout
    assert "3 adapter slots of rank 128" in plan
    assert "feat_lora" in plan


def test_a_directory_without_adapters_is_no_fault_and_one_that_is_missing_is(environ, model, loras):
    """As the NIM Operator builds engines: NIM_PEFT_SOURCE=/tmp."""
    assert "--max-lora-rank 32 # 0 LoRA adapters found" in arguments(environ, model)
    done = run([model], {**environ, "NIM_PEFT_SOURCE": f"{loras}/none"})
    assert done.returncode == 2
    assert "there is no directory" in done.stderr
    waiting = {**environ, "NIM_PEFT_SOURCE": f"{loras}/none", "NIM_PEFT_REFRESH_INTERVAL": "5"}
    assert "--max-loras 8 # 0 LoRA adapters found" in arguments(waiting, model)


def test_slips_are_said(environ, model, loras):
    for variables, text in (
        ({"NIM_PEFT_SOURCE": "org/adapter"}, "not a model location"),
        ({"NIM_PEFT_SOURCE": model}, "the model itself"),
        ({"NIM_MAX_GPU_LORAS": "4", "NIM_MAX_CPU_LORAS": "2"}, "NIM_MAX_CPU_LORAS=2 is less"),
    ):
        done = run([model], environ | variables)
        assert done.returncode == 2, done.stderr
        assert text in done.stderr


def test_adapters_of_repositories_come_through_the_cache_and_are_watched(tmp_path, environ, model, loras):
    write(loras / "here", adapter(8))
    with HubSimulator() as hub:
        hub.add_model("org/one", {**adapter(8, seed=3), "optimizer.pt": b"x", "README.md": b"y"})
        many = {f"{name}/{file}": data for name in ("a", "b") for file, data in adapter(16).items()}
        hub.add_model("org/many", {**many, "b/checkpoint-1/adapter_config.json": b"{}"})
        environ |= {
            "HF_ENDPOINT": hub.endpoint,
            "NIM_PEFT_SOURCE": f"{loras},mine=hf://org/one,hf://org/many",
            "NIM_PEFT_REFRESH_INTERVAL": "0.3",
        }
        with running([model], environ, tmp_path / "log") as program:
            program.wait_until_ready()
            assert sorted(models(program)) == ["a", "b", "here", "mine", "tiny"]
            assert not any(request.path.endswith("optimizer.pt") for request in hub.requests)
            first = says(program, "mine")
            hub.add_model("org/one", adapter(8, seed=4))
            program.wait_for_line("LoRA adapter mine replaced")
            assert says(program, "mine") not in (first, "404")
            hub.stop()
            program.wait_for_line("the cache has hf://org/one complete")
            assert says(program, "a").startswith("Hello from a")
            assert program.stop() == 0
    environ.pop("NIM_PEFT_REFRESH_INTERVAL")
    with running([model], environ, tmp_path / "again") as program:
        program.wait_until_ready()
        assert sorted(models(program)) == ["a", "b", "here", "mine", "tiny"]


def test_a_repository_without_adapters_is_said_before_the_start(environ, model):
    with HubSimulator() as hub:
        hub.add_model("org/model", tiny_model())
        done = run([model], {**environ, "HF_ENDPOINT": hub.endpoint, "NIM_PEFT_SOURCE": "hf://org/model"})
        assert done.returncode == 3
        assert "hf://org/model holds no LoRA adapter" in done.stderr


@pytest.fixture
def sglang(tmp_path, environ):
    variables = nvml.build(tmp_path, (nvml.StandInGpu(),))
    if variables is None:
        pytest.skip("there is no C compiler to build the stand-in with")
    directory = sglang_program.install(tmp_path / "sglang")
    return {**environ, **variables, "PATH": os.pathsep.join([str(directory), "/usr/bin", "/bin"])}


def test_sglang_has_them_by_its_own_api(tmp_path, sglang, model, loras):
    write(loras / "a", adapter(8))
    sglang |= {"NIM_PEFT_REFRESH_INTERVAL": "0.2", "STAND_IN": json.dumps({"refused_adapters": ["b"]})}
    with running([model], sglang, tmp_path / "log") as program:
        program.wait_until_ready()
        assert models(program) == ["tiny", "a"]
        write(loras / "b", adapter(8))
        program.wait_for_line("LoRA adapter b of")
        shutil.rmtree(loras / "a")
        program.wait_for_line("LoRA adapter a unloaded")
        assert eventually(lambda: models(program) == ["tiny"])
        assert program.stop() == 0


def test_tensorrt_llm_says_that_it_has_no_lora(tmp_path, sglang, model):
    from tests.simulators import trtllm_program

    directory = trtllm_program.install(tmp_path / "trtllm")
    done = run([model], {**sglang, "PATH": os.pathsep.join([str(directory), "/usr/bin", "/bin"])})
    assert done.returncode == 5
    assert "no LoRA" in done.stderr
