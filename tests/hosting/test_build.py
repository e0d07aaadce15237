"""``nim-optimize``: engines built by a stand-in of TensorRT-LLM's programs, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from lading.errors import EngineNotInstalled
from lading.hosting.builder import find_builder
from lading.model.safetensors import Tensor
from tests.models import CONFIG, tiny_model, write_model
from tests.program import environment, run, running
from tests.simulators import nvml, trtllm_program
from tests.sparse import safetensors_file
from tests.supervisor.test_supervisor import eventually, is_alive

GPU = nvml.StandInGpu(uuid="GPU-cccccccc-0000-1111-2222-333333333333")
CONFIG_TEXT = "dtype: float16\ntp_size: 2\nmax_seq_len: 256\nmax_batch_size: 4\n"


@pytest.fixture
def model(tmp_path):
    extra = {"tokenizer_config.json": b"{}", "original/x.bin": b"x", "merges.txt": b"a b\n"}
    return write_model(tmp_path / "model", tiny_model() | extra)


@pytest.fixture
def builder(tmp_path):
    """The directory to put on PATH."""
    path = trtllm_program.install(tmp_path / "trtllm")
    trtllm_program.install_builder(tmp_path / "trtllm")
    return path


@pytest.fixture
def environ(tmp_path, builder):
    variables = nvml.build(tmp_path, (GPU,))
    if variables is None:
        pytest.skip("there is no C compiler to build the stand-in with")
    return environment(tmp_path, **variables, PATH=f"{builder}:/usr/bin:/bin", NGC_API_KEY="nvapi-secret")


def command(tmp_path: Path, model: Path, text: str = CONFIG_TEXT, *more: str) -> list[str]:
    (tmp_path / "b.yaml").write_text(text)
    asked = ["--model_dir", str(model), "--build_config", str(tmp_path / "b.yaml")]
    return ["optimize", *asked, "--output_engine_dir", str(tmp_path / "out"), *more]


def left_in(tmp_path: Path) -> list[str]:
    return sorted(each.name for each in tmp_path.iterdir() if each.name.startswith((".out", "out")))


def test_an_engine_is_built_with_what_it_is_served_with(tmp_path, model, environ):
    done = run(command(tmp_path, model), environ)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert done.stdout == f"{out}\n"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "README.md", "config.json", "lading_build.json", "merges.txt", "tokenizer.json", "tokenizer_config.json",
        "trtllm_engine/config.json", "trtllm_engine/rank0.engine", "trtllm_engine/rank1.engine",
    ]  # fmt: skip
    assert (out / "config.json").read_bytes() == (model / "config.json").read_bytes()
    assert (out / "trtllm_engine/rank1.engine").read_bytes() == b"engine of part 1"
    built = json.loads((out / "trtllm_engine/config.json").read_text())
    assert built["pretrained_config"]["dtype"] == "float16"
    assert built["pretrained_config"]["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1}
    assert (built["build_config"]["max_seq_len"], built["build_config"]["max_batch_size"]) == (256, 4)
    record = json.loads((out / "lading_build.json").read_text())
    assert record["tensorrt_llm"] == "1.2.1"
    assert record["gpu"] == GPU.name
    assert "rank 1 of 2: loading" in done.stderr
    assert "Total time of building all engines" in done.stderr
    assert left_in(tmp_path) == ["out"]


def test_weights_are_quantised_where_that_is_asked_for(tmp_path, model, environ):
    text = "use_weight_only: true\nweight_only_precision: int4\n"
    assert run(command(tmp_path, model, text), environ).returncode == 0
    built = json.loads((tmp_path / "out/trtllm_engine/config.json").read_text())
    assert built["pretrained_config"]["quantization"]["quant_algo"] == "W4A16"


def test_a_dry_run_prints_the_commands_and_makes_nothing(tmp_path, model, environ, builder):
    done = run(command(tmp_path, model, CONFIG_TEXT, "--dry-run"), environ)
    assert done.returncode == 0, done.stderr
    convert, build = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert convert.startswith(f"{builder}/python3 ")
    assert f"convert_checkpoint.py --model_dir {model}" in convert
    assert convert.endswith("--dtype float16 --tp_size 2")
    assert build.startswith(f"{builder}/trtllm-build --checkpoint_dir {tmp_path}/.out.partial/checkpoint")
    assert build.endswith("--max_seq_len 256 --max_batch_size 4")
    assert left_in(tmp_path) == []


def test_the_bare_program_takes_dashes_too(tmp_path, model, environ):
    words = ["nim-optimize", *command(tmp_path, model)[1:], "--dry-run"]
    done = run([word.replace("_", "-") if word.startswith("--") else word for word in words], environ)
    assert done.returncode == 0, done.stderr


FAILURES = {
    "it crashes": ({"crash": "RuntimeError: TensorRT failed to build"}, "TensorRT failed to build"),
    "it runs out of memory": ({"crash": "torch.OutOfMemoryError: CUDA out of memory. Tried"}, "the GPU ran out of memory"),
    "a rank is missing": ({"ranks": 1}, "made no rank1.engine"),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_build_leaves_nothing_and_says_why(tmp_path, model, environ, failure):
    settings, said = FAILURES[failure]
    done = run(command(tmp_path, model), {**environ, "STAND_IN": json.dumps(settings)})
    assert done.returncode == 7
    assert said in done.stderr
    assert left_in(tmp_path) == []


def test_a_model_that_is_not_converted_is_said(tmp_path, environ):
    other = write_model(tmp_path / "other", tiny_model(config={"architectures": ["FooForCausalLM"]}))
    done = run(command(tmp_path, other), environ)
    assert done.returncode == 7
    assert "converting the checkpoint failed" in done.stderr
    assert "FooForCausalLM is not supported in TRT-LLM yet" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_build_and_leaves_nothing(tmp_path, model, environ, number):
    pids = tmp_path / "pids"
    environ |= {"STAND_IN": json.dumps({"build_seconds": 60, "pid_file": str(pids), "fork": True})}
    with running(command(tmp_path, model), environ, tmp_path / "log") as program:
        program.wait_for_line("rank 0: step 2")
        assert left_in(tmp_path) == [".out.partial"]
        assert program.stop(number) == 128 + number
    assert left_in(tmp_path) == []
    assert eventually(lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()))


def test_what_a_killed_build_left_is_no_hindrance(tmp_path, model, environ):
    slow = {**environ, "STAND_IN": json.dumps({"build_seconds": 60})}
    with running(command(tmp_path, model), slow, tmp_path / "log") as program:
        program.wait_for_line("rank 0: step 2")
        busy = run(command(tmp_path, model), environ)
        assert busy.returncode == 6
        assert "has been held by" in busy.stderr
        program.process.kill()
        program.process.wait()
    assert left_in(tmp_path) == [".out.partial"]
    deadline = time.monotonic() + 30
    while (done := run(command(tmp_path, model), environ)).returncode == 6 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert done.returncode == 0, done.stderr
    assert left_in(tmp_path) == ["out"]


def test_secrets_do_not_reach_the_builder(tmp_path, model, environ, builder):
    program = builder / "trtllm-build"
    program.write_text(
        program.read_text().replace("import runpy", "import os; print(sorted(os.environ)); import runpy")
    )
    done = run(command(tmp_path, model), environ)
    assert "'HOME'" in done.stderr
    assert "NGC_API_KEY" not in done.stderr


def own_checkpoint(directory: Path, tp: int = 2) -> Path:
    mapping = {"world_size": tp, "tp_size": tp, "pp_size": 1}
    names = {key: value for key, value in CONFIG.items() if isinstance(value, int)}
    config = {**names, "architecture": "LlamaForCausalLM", "dtype": "float16", "mapping": mapping}
    files = {f"rank{rank}.safetensors": b"part %d" % rank for rank in range(tp)}
    return write_model(directory, {**files, "config.json": json.dumps(config).encode(), "tokenizer.json": b"{}"})


def test_a_checkpoint_of_tensorrt_llm_is_built_as_it_is(tmp_path, environ):
    given = own_checkpoint(tmp_path / "own")
    done = run(command(tmp_path, given, "tp_size: 2\nmax_batch_size: 8\n"), environ)
    assert done.returncode == 0, done.stderr
    assert "converting" not in done.stderr
    assert (tmp_path / "out/trtllm_engine/rank1.engine").is_file()
    assert (tmp_path / "out/tokenizer.json").is_file()
    assert not (tmp_path / "out/config.json").exists(), "its config is no Hugging Face model's"


@pytest.mark.parametrize("text", ["tp_size: 4", "dtype: bfloat16"])
def test_what_a_checkpoint_of_tensorrt_llm_has_fixed_is_refused(tmp_path, environ, text):
    done = run(command(tmp_path, own_checkpoint(tmp_path / "own"), text), environ)
    assert done.returncode == 2
    assert "is a checkpoint of TensorRT-LLM, made with" in done.stderr


def engine(directory: Path) -> Path:
    return write_model(directory, {"trtllm_engine/rank0.engine": b"e", "trtllm_engine/config.json": b"{}"})


def quantised(directory: Path) -> Path:
    return write_model(directory, tiny_model(config={"quantization_config": {"quant_method": "awq", "bits": 4}}))


REFUSED = {
    "an engine": (engine, "holds a built engine", 2),
    "a quantised checkpoint": (quantised, "is quantised (awq)", 2),
    "nothing": (lambda path: path, "there is no directory", 3),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_engine_is_built_of_is_refused(tmp_path, environ, what):
    make, said, code = REFUSED[what]
    done = run(command(tmp_path, make(tmp_path / "given"), "tp_size: 1"), environ)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_outputs_that_hold_something_are_refused(tmp_path, model, environ):
    (tmp_path / "out").mkdir()
    assert run(command(tmp_path, model, CONFIG_TEXT, "--dry-run"), environ).returncode == 0, "empty is fine"
    (tmp_path / "out/mine").touch()
    done = run(command(tmp_path, model), environ)
    assert (done.returncode, "is not empty" in done.stderr) == (2, True)
    assert (tmp_path / "out/mine").exists()
    (tmp_path / "out/mine").unlink()
    (tmp_path / "out").rmdir()
    (tmp_path / "out").touch()
    assert "is not a directory" in run(command(tmp_path, model), environ).stderr


def test_an_output_that_cannot_be_made_is_said_before_hours_are_spent(tmp_path, model, environ):
    asked = command(tmp_path, model, CONFIG_TEXT, "--dry-run")
    mounted = run([*asked, "--output_engine_dir", "/dev/shm"], environ)
    assert mounted.returncode == 2
    missing = run([*asked, "--build_config", str(tmp_path / "none.yaml")], environ)
    assert (missing.returncode, "cannot be read" in missing.stderr) == (2, True)


def test_an_empty_output_is_taken(tmp_path, model, environ):
    (tmp_path / "out").mkdir()
    assert run(command(tmp_path, model), environ).returncode == 0
    assert (tmp_path / "out/trtllm_engine/rank0.engine").is_file()


def test_a_machine_without_a_gpu_builds_nothing(tmp_path, model, builder):
    environ = environment(tmp_path, PATH=f"{builder}:/usr/bin:/bin", NVIDIA_VISIBLE_DEVICES="void")
    done = run(command(tmp_path, model), environ)
    assert (done.returncode, "this machine has none" in done.stderr) == (6, True), done.stderr
    assert left_in(tmp_path) == []


def test_without_a_builder_it_says_what_there_is(tmp_path, model):
    for where, said in (
        (tmp_path / "empty", "TensorRT-LLM, which is not installed"),
        (trtllm_program.install(tmp_path / "new", "1.3.0"), "TensorRT-LLM 1.3.0 has no trtllm-build"),
    ):
        done = run(command(tmp_path, model), environment(tmp_path, PATH=f"{where}:/usr/bin:/bin"))
        assert done.returncode == 7
        assert said in done.stderr
        assert "lading serve DIR" in done.stderr


def test_a_builder_without_model_classes_is_none(builder):
    (builder.parent / "lib/python3.12/dist-packages/tensorrt_llm/models/automodel.py").unlink()
    with pytest.raises(EngineNotInstalled, match=r"TensorRT-LLM 1\.2\.1 of .* has no model classes"):
        find_builder(str(builder))


@pytest.mark.parametrize(
    ("line", "python"),
    [
        ("#!{bin}/python3", "{bin}/python3"),
        ("#!/usr/bin/env python3", "{bin}/python3"),
        ("#!/bin/sh", "{bin}/python3"),
        ("", "{bin}/python3"),
    ],
)
def test_the_interpreter_is_the_scripts_own(builder, line, python):
    (builder / "trtllm-build").write_text(line.format(bin=builder) + "\n")
    assert find_builder(str(builder)).python == Path(python.format(bin=builder))


def test_an_interpreter_that_nothing_names_is_looked_for_on_path(builder):
    (builder / "python3").unlink()
    (builder / "trtllm-build").write_text("#!/bin/sh\n")
    assert find_builder(os.fspath(builder)).python == Path("python3")


def test_a_disk_that_is_too_small_is_said_before_anything_is_made(tmp_path, environ):
    tensors = [Tensor(f"layer.{number}", "BF16", (1 << 20, 1 << 20)) for number in range(2)]
    model = write_model(tmp_path / "large", {"config.json": tiny_model()["config.json"]})
    file = safetensors_file(tensors)
    with (model / "model.safetensors").open("wb") as sparse:
        sparse.write(file.head)
        sparse.truncate(file.size_bytes)
    done = run(command(tmp_path, model), environ)
    assert (done.returncode, "building takes up to 8" in done.stderr) == (6, True), done.stderr
    assert left_in(tmp_path) == []


def test_a_length_beyond_the_models_is_warned_of(tmp_path, model, environ):
    done = run(command(tmp_path, model, "max_seq_len: 100000"), environ)
    assert done.returncode == 0, done.stderr
    assert "quality may suffer" in done.stderr


def test_a_checkpoint_of_tensorrt_llm_without_its_config_is_none(tmp_path, environ):
    given = own_checkpoint(tmp_path / "own")
    (given / "config.json").unlink()
    done = run(command(tmp_path, given, "tp_size: 2"), environ)
    assert (done.returncode, "config.json cannot be read" in done.stderr) == (4, True), done.stderr


def test_a_builder_that_ignores_term_is_killed(tmp_path, model, environ):
    environ |= {"STAND_IN": json.dumps({"build_seconds": 60, "ignore_term": True})}
    with running(command(tmp_path, model), environ, tmp_path / "log") as program:
        program.wait_for_line("rank 0: step 2")
        assert program.stop() == 128 + signal.SIGTERM
    assert left_in(tmp_path) == []
