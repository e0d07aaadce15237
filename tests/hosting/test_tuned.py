"""``NIM_FT_MODEL``: an engine built once of a fine-tuned checkpoint, kept under its name, listed first and preferred."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from lading.manifests.read import load_manifest
from tests.hosting.engines import engine_files
from tests.models import tiny_model, write_model
from tests.program import environment, run, running
from tests.simulators import nvml, trtllm_program, vllm_program

GPU = nvml.StandInGpu(uuid="GPU-cccccccc-0000-1111-2222-333333333333")
NAME = "JIT_TRT_ENGINE"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "tuned", tiny_model() | {"tokenizer_config.json": b"{}"})


@pytest.fixture
def gpus(tmp_path, model):
    variables = nvml.build(tmp_path, (GPU,))
    if variables is None:
        pytest.skip("there is no C compiler to build the stand-in with")
    return environment(tmp_path, **variables, NIM_FT_MODEL=str(model), NIM_CUSTOM_MODEL_NAME=NAME)


@pytest.fixture
def environ(tmp_path, gpus):
    path = trtllm_program.install(tmp_path / "trtllm")
    trtllm_program.install_builder(tmp_path / "trtllm")
    return {**gpus, "PATH": f"{path}:/usr/bin:/bin"}


def served(environ, log, *flags: str) -> str:
    """What a server that became ready and was stopped printed."""
    with running([*(["serve", *flags] if flags else [])], environ, log) as program:
        program.wait_until_ready()
        assert program.get("/v1/chat/completions", {"model": NAME, "messages": []}).status == 200
        assert program.stop() == 0
        return program.output


def test_the_engine_is_built_once_listed_first_and_preferred(tmp_path, environ):
    first = served(environ, tmp_path / "one")
    assert "building the engine with TensorRT-LLM 1.2.1" in first
    assert "Loaded engine size" in first
    kept = tmp_path / "cache/local_cache"
    assert (kept / NAME / "trtllm_engine/rank0.engine").is_file()
    assert (kept / NAME / "tokenizer_config.json").is_file()
    assert sorted(each.name for each in kept.iterdir()) == [NAME, "local_manifest.yaml"]
    listed = run(["list-model-profiles"], environ).stdout.splitlines()
    place = next(number for number, line in enumerate(listed) if "Compatible with system and runnable" in line)
    assert re.match(rf"  - [0-9a-f]{{64}} \({NAME}\) ", listed[place + 1])
    assert "(tensorrt_llm-bf16-tp1-pp1)" in listed[place + 2]
    second = served(environ, tmp_path / "two")
    assert f"the engine {NAME} was built before" in second
    assert "building the engine" not in second
    assert f"chosen: {NAME} (" in second


def test_the_list_is_a_manifest_of_what_is_there(tmp_path, environ):
    served(environ, tmp_path / "log")
    path = tmp_path / "cache/local_cache/local_manifest.yaml"
    (profile,) = load_manifest(path).profiles
    assert profile.model == NAME
    assert (profile.tags["llm_engine"], profile.tags["tp"]) == ("tensorrt_llm", "1")
    files = yaml.safe_load(path.read_text())["profiles"][0]["workspace"]["files"]
    engine = files["trtllm_engine/rank0.engine"]["uri"]
    assert engine == f"local://{tmp_path}/cache/local_cache/{NAME}?file=trtllm_engine/rank0.engine"


CHANGES = {
    "the checkpoint": lambda model, environ: (model / "model-00001-of-00002.safetensors").touch(),
    "the length": lambda model, environ: environ.update(NIM_MAX_MODEL_LEN="128"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_it_is_built_again_when_what_it_is_made_of_changes(tmp_path, environ, model, what):
    served(environ, tmp_path / "one")
    CHANGES[what](model, environ)
    assert "building the engine" in served(environ, tmp_path / "two")
    assert sorted(each.name for each in (tmp_path / "cache/local_cache").iterdir()) == [NAME, "local_manifest.yaml"]


def test_a_failed_build_keeps_the_engine_that_was_there(tmp_path, environ, model):
    served(environ, tmp_path / "one")
    (model / "tokenizer.json").touch()
    engine = tmp_path / f"cache/local_cache/{NAME}/trtllm_engine/rank0.engine"
    before = engine.stat().st_ino
    done = run([], {**environ, "STAND_IN": json.dumps({"ranks": 0})})
    assert (done.returncode, "made no rank0.engine" in done.stderr) == (7, True), done.stderr
    assert engine.stat().st_ino == before


def test_without_a_builder_the_checkpoint_is_served_and_that_is_said(tmp_path, gpus, model):
    environ = {**gpus, "PATH": f"{vllm_program.install(tmp_path / 'vllm', '0.32.0')}:/usr/bin:/bin"}
    output = served(environ, tmp_path / "log")
    assert "no engine is built of" in output
    assert "TensorRT-LLM, which is not installed" in output
    assert "vllm-bf16-tp1-pp1" in output
    assert not (tmp_path / "cache/local_cache").exists()


def test_beside_another_engine_in_use_none_is_built(tmp_path, environ):
    path = f"{vllm_program.install(tmp_path / 'vllm', '0.32.0')}:{environ['PATH']}"
    output = served({**environ, "PATH": path}, tmp_path / "log")
    assert "LADING_BACKEND=tensorrt_llm chooses TensorRT-LLM" in output
    assert "Loaded engine size" in served({**environ, "PATH": path, "LADING_BACKEND": "trtllm"}, tmp_path / "two")


def test_a_quantised_checkpoint_is_served_as_it_is(tmp_path, environ, model):
    write_model(model, tiny_model(config={"quantization_config": {"quant_method": "fp8"}}))
    assert "is quantised (fp8)" in served(environ, tmp_path / "log")


def test_without_a_name_the_checkpoint_is_served_as_any_directory(tmp_path, environ):
    del environ["NIM_CUSTOM_MODEL_NAME"]
    output = served(environ, tmp_path / "log")
    assert "building" not in output
    assert "tensorrt_llm-bf16-tp1-pp1" in output


def test_a_model_on_the_command_line_wins(tmp_path, environ):
    other = write_model(tmp_path / "other", tiny_model())
    assert f"trtllm-serve {other}\n" in run([str(other), "--dry-run"], environ).stdout


@pytest.mark.parametrize("folder", ["trtllm_engine/", ""])
def test_an_engine_is_no_checkpoint(tmp_path, environ, folder):
    engine = write_model(tmp_path / "engine", engine_files(folder=folder))
    for command in ([], ["list-model-profiles"]):
        done = run(command, {**environ, "NIM_FT_MODEL": str(engine)})
        assert done.returncode == 2
        assert f"NIM_FT_MODEL={engine} is a built engine" in done.stderr
        assert f"NIM_MODEL_NAME={engine}" in done.stderr


def test_a_damaged_engine_is_built_again(tmp_path, environ):
    served(environ, tmp_path / "one")
    (tmp_path / f"cache/local_cache/{NAME}/trtllm_engine/rank0.engine").unlink()
    listed = run(["list-model-profiles"], environ)
    assert "cannot be used" in listed.stderr
    assert "building the engine" in served(environ, tmp_path / "two")


@pytest.mark.parametrize("name", ["../up", ".hidden", "a b", "a/b"])
def test_a_name_that_is_no_directorys_is_refused(environ, name):
    done = run(["list-model-profiles"], {**environ, "NIM_CUSTOM_MODEL_NAME": name})
    assert (done.returncode, "NIM_CUSTOM_MODEL_NAME" in done.stderr) == (2, True)


def test_a_dry_run_says_that_an_engine_would_be_built_and_builds_none(tmp_path, environ):
    done = run(["serve", "--dry-run"], environ)
    assert done.returncode == 0, done.stderr
    assert f"a start builds the engine {NAME} first" in done.stderr
    assert not (tmp_path / "cache/local_cache").exists()


def test_a_machine_without_a_gpu_builds_none(tmp_path, environ, model):
    path = f"{environ['PATH']}:{vllm_program.install(tmp_path / 'vllm')}"
    alone = environment(
        tmp_path, PATH=path, NVIDIA_VISIBLE_DEVICES="void", NIM_CUSTOM_MODEL_NAME=NAME, NIM_FT_MODEL=str(model)
    )
    assert "this machine has no GPU" in served(alone, tmp_path / "log")


NOT_ASKED_FOR = {
    "more GPUs than there are": ({"NIM_TENSOR_PARALLEL_SIZE": "4"}, "needs 4 GPUs, this machine has 1", 5),
    "a profile of the checkpoint": ({"NIM_MODEL_PROFILE": "tensorrt_llm-bf16-tp1-pp1"}, "is a profile of the checkpoint", 0),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_ASKED_FOR)
def test_an_engine_that_was_not_asked_for_is_not_built(tmp_path, environ, what):
    asked, said, code = NOT_ASKED_FOR[what]
    done = run(["serve", "--dry-run"], {**environ, **asked})
    assert done.returncode == code
    assert said in done.stderr.partition("no engine is built of")[2]
    assert not (tmp_path / "cache/local_cache").exists()


def test_an_engine_is_asked_for_by_its_name(tmp_path, environ):
    assert "asked for by name" in served({**environ, "NIM_MODEL_PROFILE": NAME.lower()}, tmp_path / "log")


def test_sequences_that_were_asked_for_are_built_for(tmp_path, environ):
    served({**environ, "NIM_MAX_NUM_SEQS": "3"}, tmp_path / "log")
    config = tmp_path / f"cache/local_cache/{NAME}/trtllm_engine/config.json"
    assert json.loads(config.read_text())["build_config"]["max_batch_size"] == 3


def test_what_is_no_engine_is_not_listed(tmp_path, environ, model):
    write_model(tmp_path / "cache/local_cache/broken", {"trtllm_engine/rank0.engine": b"e"})
    write_model(tmp_path / "cache/local_cache/checkpoint", tiny_model())
    output = served(environ, tmp_path / "log")
    assert "local_cache/broken is not listed" in output
    assert "local_cache/checkpoint is not listed: it holds no engine" in output
    assert len(load_manifest(tmp_path / "cache/local_cache/local_manifest.yaml").profiles) == 1
