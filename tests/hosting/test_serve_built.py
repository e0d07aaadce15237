"""Built engines served: by a stand-in of ``trtllm-serve`` that takes them as the real one does."""

from __future__ import annotations

import json

import pytest

from tests.hosting.engines import engine_files
from tests.models import write_model
from tests.program import environment, run, running
from tests.simulators import nvml, trtllm_program, vllm_program

GPUS = tuple(nvml.StandInGpu(uuid=f"GPU-cccccccc-0000-1111-2222-33333333333{n}") for n in range(2))


@pytest.fixture
def gpus(tmp_path):
    variables = nvml.build(tmp_path, GPUS)
    if variables is None:
        pytest.skip("there is no C compiler to build the stand-in with")
    return environment(tmp_path, **variables)


@pytest.fixture
def environ(tmp_path, gpus):
    return {**gpus, "PATH": f"{trtllm_program.install(tmp_path / 'trtllm')}:/usr/bin:/bin"}


@pytest.mark.parametrize("folder", ["trtllm_engine/", ""])
@pytest.mark.parametrize("variable", ["NIM_MODEL_NAME", "NIM_MODEL_PATH"])
def test_an_engine_is_served_over_the_gpus_that_it_was_built_for(tmp_path, environ, folder, variable):
    model = write_model(tmp_path / "OPT", engine_files(2, folder=folder))
    environ[variable] = str(model)
    with running([], environ, tmp_path / "log") as program:
        program.wait_until_ready()
        answer = program.get("/v1/chat/completions", {"model": "m", "messages": []})
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"
        assert "tensorrt_llm-fp16-tp2-pp1" in program.output
        assert "Loaded engine size" in program.output
        assert program.stop() == 0


def test_the_command_names_the_engines_folder_the_backend_and_the_tokenizer(tmp_path, environ):
    model = write_model(tmp_path / "OPT", engine_files())
    done = run([str(model), "--dry-run"], environ)
    assert f"trtllm-serve {model}/trtllm_engine\n" in done.stdout
    assert "--backend tensorrt" in done.stdout
    assert f"--tokenizer {model} " in done.stdout
    assert "--tp_size" not in done.stdout
    own = run([str(model), "--dry-run", "--tokenizer", "/elsewhere"], environ)
    assert own.stdout.count("--tokenizer") == 1


def test_an_older_trtllm_serve_needs_no_backend(tmp_path, gpus):
    environ = {**gpus, "PATH": f"{trtllm_program.install(tmp_path / 'old', '0.20.0')}:/usr/bin:/bin"}
    model = write_model(tmp_path / "OPT", engine_files(version="0.20.0"))
    done = run([str(model), "--dry-run"], environ)
    assert "--backend" not in done.stdout
    assert "--tokenizer" in done.stdout


def test_a_machine_without_tensorrt_llm_lists_it_with_the_reason(tmp_path, gpus):
    model = write_model(tmp_path / "OPT", engine_files())
    environ = {**gpus, "PATH": f"{vllm_program.install(tmp_path / 'vllm', '0.32.0')}:/usr/bin:/bin"}
    listed = json.loads(run(["list-model-profiles", str(model), "--format", "json"], environ).stdout)
    (profile,) = listed["profiles"]
    assert (profile["name"], profile["verdict"]) == ("tensorrt_llm-fp16-tp1-pp1", "incompatible")
    done = run([str(model)], environ)
    assert done.returncode == 5
    assert "runs with TensorRT-LLM alone" in done.stderr


def test_an_engine_of_another_release_is_not_started(tmp_path, environ):
    model = write_model(tmp_path / "OPT", engine_files(version="1.1.0"))
    done = run([str(model)], environ)
    assert done.returncode == 5
    assert "was built by TensorRT-LLM 1.1.0" in done.stderr


INCOMPLETE = {
    "trtllm_engine/config.json": "there is no trtllm_engine/config.json beside the built engine",
    "trtllm_engine/rank1.engine": "lacks rank1.engine",
}


@pytest.mark.parametrize("missing", INCOMPLETE)
def test_an_incomplete_engine_is_no_model(tmp_path, environ, missing):
    files = engine_files(2)
    del files[missing]
    done = run([str(write_model(tmp_path / "OPT", files))], environ)
    assert (done.returncode, INCOMPLETE[missing] in done.stderr) == (4, True), done.stderr
