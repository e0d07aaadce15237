"""``lading serve`` through SGLang and TensorRT-LLM: stand-ins of both programs, strict about their flags, on a machine
whose GPUs are a stand-in of NVIDIA's library."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.models import tiny_model, write_model
from tests.program import environment, run, running
from tests.simulators import nvml, sglang_program, trtllm_program, vllm_program
from tests.supervisor.test_supervisor import eventually, is_alive

PROGRAMS = {"sglang": sglang_program, "tensorrt_llm": trtllm_program}
ROOMY = nvml.StandInGpu(uuid="GPU-cccccccc-0000-1111-2222-333333333333")


@pytest.fixture
def gpus(tmp_path):
    variables = nvml.build(tmp_path, (ROOMY,))
    if variables is None:
        pytest.skip("there is no C compiler to build the stand-in with")
    (tmp_path / "home").mkdir()
    return environment(tmp_path, **variables)


@pytest.fixture
def model(tmp_path):
    return str(write_model(tmp_path / "model", tiny_model()))


def on_path(environ: dict[str, str], *directories: Path, **variables: str) -> dict[str, str]:
    path = os.pathsep.join([*map(str, directories), "/usr/bin", "/bin"])
    return {**environ, "PATH": path, **variables}


@pytest.fixture(params=PROGRAMS)
def family(request):
    return request.param


@pytest.fixture
def environ(tmp_path, gpus, family):
    return on_path(gpus, PROGRAMS[family].install(tmp_path / family))


def test_a_model_is_served_and_stopped(tmp_path, environ, model, family):
    pid_file = tmp_path / "pids"
    environ["STAND_IN"] = json.dumps({"pid_file": str(pid_file), "fork": True})
    with running([model], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        answer = program.get("/v1/chat/completions", {"model": "m", "messages": []})
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"
        assert f"{family}-bf16-tp1-pp1" in program.output
        assert program.stop() == 0
    assert eventually(lambda: not any(is_alive(int(pid)) for pid in pid_file.read_text().split()))


CRASHES = {
    "sglang": (
        "[2026-11-20 10:00:02 TP0] Scheduler hit an exception: Traceback (most recent call last):\n"
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.\n",
        "NIM_GPU_MEM_FRACTION",
    ),
    "tensorrt_llm": (
        "[07/08/2025-19:47:15] [TRT-LLM] [RANK 1] [E] Failed to initialize executor on rank 1: Executor creation "
        "failed due to insufficient GPU memory.\n\nThe following component could not be created: KV cache\n",
        "--free_gpu_memory_fraction",
    ),
}


def test_a_failed_start_is_explained(environ, model, family):
    text, remedy = CRASHES[family]
    done = run([model], {**environ, "STAND_IN": json.dumps({"crash": text})})
    assert done.returncode == 7
    assert "before the model answered" in done.stderr
    assert remedy in done.stderr


REFUSALS = {"sglang": "SGLang refused a flag: unrecognized arguments: --foo", "tensorrt_llm": "No such option: --foo"}


def test_a_flag_that_the_engine_refuses_is_named(environ, model, family):
    done = run([model, "--foo"], environ)
    assert done.returncode == 7
    assert REFUSALS[family] in done.stderr


def test_an_older_sglang_is_started_as_a_module(tmp_path, gpus, model):
    environ = on_path(gpus, sglang_program.install(tmp_path / "old", "0.4.6"))
    with running([model, "--disable-radix-cache"], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert program.stop() == 0


def test_a_newer_trtllm_serve_is_given_the_name(tmp_path, gpus, model):
    environ = on_path(gpus, trtllm_program.install(tmp_path / "new", "1.3.0"), NIM_SERVED_MODEL_NAME="org/name")
    with running([model], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        assert program.get("/v1/models").json()["data"][0]["id"] == "org/name"


KNOBS = {
    "NIM_MAX_MODEL_LEN": "128",
    "NIM_TENSOR_PARALLEL_SIZE": "1",
    "NIM_MAX_NUM_SEQS": "4",
    "NIM_GPU_MEM_FRACTION": "0.5",
    "NIM_TRUST_CUSTOM_CODE": "1",
}
WRITTEN = {
    "sglang": ("--context-length 128", "--tp-size 1", "--max-running-requests 4", "--mem-fraction-static 0.3", "--trust-remote-code"),
    "tensorrt_llm": ("--max_seq_len 128", "--tp_size 1", "--max_batch_size 4", "--kv_cache_free_gpu_memory_fraction 0.4", "--trust_remote_code"),
}  # fmt: skip


def test_portable_settings_reach_every_engine_with_their_origin(tmp_path, environ, model, family):
    environ |= KNOBS
    lines = run([model, "--dry-run"], environ).stdout.splitlines()
    for variable, tokens in zip(KNOBS, WRITTEN[family], strict=True):
        assert any(tokens in line and f"# {variable}" in line for line in lines), (variable, lines)
    with running([model], environ, tmp_path / "log") as program:
        program.wait_until_ready()


def test_one_engine_is_used_of_several_and_the_setting_chooses(tmp_path, gpus, model):
    directories = [program.install(tmp_path / name) for name, program in PROGRAMS.items()]
    directories.append(vllm_program.install(tmp_path / "vllm", "0.32.0+cpu"))
    environ = on_path(gpus, *directories)
    engines = run(["engine", "list"], environ).stdout.splitlines()
    assert [line.split()[0] for line in engines[:3]] == ["vllm", "sglang", "tensorrt_llm"]
    assert "sglang 0.5.23 on the cuda" in run([model, "--dry-run"], environ).stdout  # vLLM is the build for the CPU
    chosen = run([model, "--dry-run"], {**environ, "LADING_BACKEND": "trtllm"})
    assert "tensorrt_llm 1.2.1 on the cuda" in chosen.stdout
    assert f"trtllm-serve {model}\n" in chosen.stdout
    listed = run(["list-model-profiles", model, "--context-length", "128"], environ)
    assert "(sglang-bf16-tp1-pp1)" in listed.stdout
    assert "sglang-bf16-tp1-pp1" in run(["plan", model], environ).stdout


def test_an_engine_that_is_asked_for_and_not_there_is_said(environ, model, family):
    for command in (["serve", model], ["list-model-profiles", model]):
        done = run(command, {**environ, "LADING_BACKEND": "vllm"})
        assert done.returncode == 7
        assert "LADING_BACKEND=vllm: vllm is not installed; found here: " + family in done.stderr
        assert f"LADING_BACKEND to {family}" in done.stderr


def test_a_second_name_is_refused(environ, model, family):
    done = run([model], {**environ, "NIM_SERVED_MODEL_NAME": "a,b"})
    assert done.returncode == 2
    assert f"{family} serves a model by one name" in done.stderr


def test_what_trtllm_serve_has_no_flag_for_is_said_before_the_start(tmp_path, gpus, model):
    environ = on_path(gpus, trtllm_program.install(tmp_path / "engine"))
    for variable in ("NIM_DISABLE_CUDA_GRAPH", "NIM_NUM_SPECULATIVE_TOKENS"):
        done = run([model], {**environ, variable: "1"})
        assert done.returncode == 2
        assert variable in done.stderr
        assert "--extra_llm_api_options" in done.stderr


def test_names_of_nim_1_are_read_with_one_line_each(environ, model, family):
    done = run([model, "--dry-run"], {**environ, "NIM_KVCACHE_PERCENT": "0.5", "NIM_HTTP_API_PORT": "0"})
    assert done.returncode == 0
    assert done.stderr.count("NIM_KVCACHE_PERCENT is deprecated, a name of NIM 1.x: use NIM_GPU_MEM_FRACTION\n") == 1
    assert "NIM_HTTP_API_PORT is deprecated, a name of NIM 1.x: use NIM_SERVER_PORT; it is not read" in done.stderr
    assert "NIM_GPU_MEM_FRACTION=0.5" in done.stdout
