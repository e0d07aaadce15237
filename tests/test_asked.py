"""Flags that a model brings along: what is taken of them, how they rank, and what they do to the fit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.backends.model_arguments import model_argument
from lading.errors import MalformedModel
from tests.manifests.documents import VLLM, file_of, profile_id, version_2
from tests.models import tiny_model, write_model
from tests.program import environment, run
from tests.simulators.hub import HubSimulator
from tests.simulators.vllm_program import install


def taken(family: str, **values: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    argument, refused = model_argument(family, json.dumps(values), "runtime_config.json")
    return argument.tokens, refused


def test_flags_are_written_as_the_engine_wants_them() -> None:
    assert taken("vllm", max_model_len=8192, **{"--enforce-eager": True}, enable_prefix_caching=False, dtype=None) == (
        ("--max-model-len", "8192", "--enforce-eager", "--no-enable-prefix-caching"),
        (),
    )
    assert taken("vllm", limit_mm_per_prompt={"image": 2})[0] == ("--limit-mm-per-prompt", '{"image": 2}')
    assert taken("sglang", context_length=8192, disable_cuda_graph=False) == (("--context-length", "8192"), ())
    assert taken("tensorrt_llm", max_seq_len=8192) == (("--max_seq_len", "8192"), ())


@pytest.mark.parametrize(
    "name",
    [
        "trust_remote_code",
        "model",
        "host",
        "port",
        "api_key",
        "tool_parser_plugin",
        "speculative_config",
        "chat_template",
        "worker_cls",
        "hf_overrides",
        "middleware",
        "download_dir",
        "anything",
    ],
)
def test_what_could_load_code_or_name_other_places_is_not_taken(name: str) -> None:
    assert taken("vllm", **{name: "x"}) == ((), (name.replace("_", "-"),))


@pytest.mark.parametrize("text", ["[", "[1]", "{", '"x"'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(MalformedModel, match="runtime_config.json"):
        model_argument("vllm", text, "runtime_config.json")


CONFIG = {"max_model_len": 128, "seed": 7, "trust_remote_code": True}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    files = tiny_model() | {"runtime_config.json": json.dumps(CONFIG).encode()}
    model = write_model(tmp_path / "model", files)
    path = f"{install(tmp_path / 'engine')}:{os.environ['PATH']}"
    return environment(tmp_path, PATH=path, NIM_MODEL_PATH=str(model))


def dry_run(environ: dict[str, str], *flags: str) -> dict[str, str]:
    """The engine's flags with their origins."""
    found = run(["serve", *flags, "--dry-run"], environ)
    assert found.returncode == 0, found.stderr
    lines = [line.strip() for line in found.stdout.splitlines() if "  # " in line]
    return {line.partition("  # ")[0].strip(): line.partition("  # ")[2] for line in lines}


def test_the_model_s_flags_come_below_the_user_s_and_above_the_profile_s(environ: dict[str, str]) -> None:
    arguments = dry_run(environ)
    assert arguments["--max-model-len 128 --seed 7"] == "runtime_config.json"
    assert not any("trust-remote-code" in each for each in arguments)
    over = dry_run({**environ, "NIM_MAX_MODEL_LEN": "64"}, "--seed", "8")
    order = list(over)
    model, setting, line = (
        next(i for i, each in enumerate(order) if text in each) for text in ("128", "--max-model-len 64", "--seed 8")
    )
    assert model < setting < line, "the last wins"


def test_what_is_not_taken_is_told(environ: dict[str, str]) -> None:
    said = run(["serve", "--dry-run"], environ).stderr
    assert "runtime_config.json: not taken from a model, give it as a flag: trust-remote-code" in said


def test_the_fit_counts_them(environ: dict[str, str]) -> None:
    found = json.loads(run(["list-model-profiles", "--format", "json"], environ).stdout)
    assert {each["max_model_len"] for each in found["profiles"]} == {128}
    longer = json.loads(run(["list-model-profiles", "--format", "json", "--max-model-len", "256"], environ).stdout)
    assert {each["max_model_len"] for each in longer["profiles"]} == {256}


def test_one_that_cannot_be_used_is_one_error(environ: dict[str, str]) -> None:
    (Path(environ["NIM_MODEL_PATH"]) / "runtime_config.json").write_text("[")
    found = run(["serve", "--dry-run"], environ)
    assert found.returncode == 4
    assert "runtime_config.json is not valid JSON" in found.stderr


@pytest.fixture
def hub() -> Iterator[HubSimulator]:
    with HubSimulator() as simulator:
        simulator.add_model("demo/tiny", tiny_model() | {"runtime_config.json": b'{"seed": 7}'})
        yield simulator


def test_tags_of_a_profile_come_below_the_model_s_files(
    hub: HubSimulator, environ: dict[str, str], tmp_path: Path
) -> None:
    names = [*tiny_model(), "runtime_config.json"]
    files = {name: file_of(f"hf://demo/tiny:main?file={name}") for name in names}
    tags = {**VLLM, "nim_json_args": json.dumps({"max_model_len": 64, "seed": 6})}
    manifest = tmp_path / "model_manifest.yaml"
    manifest.write_text(version_2((1, tags, files), (2, VLLM, files)))
    environ = {**environ, "NIM_MANIFEST_PATH": str(manifest), "HF_ENDPOINT": hub.endpoint}
    del environ["NIM_MODEL_PATH"]
    first = dry_run({**environ, "NIM_MODEL_PROFILE": profile_id(1)})
    assert first["--max-model-len 64 --seed 6"] == "profile tag nim_json_args"
    assert first["--seed 7"] == "runtime_config.json"
    assert list(first).index("--max-model-len 64 --seed 6") < list(first).index("--seed 7")
    second = dry_run({**environ, "NIM_MODEL_PROFILE": profile_id(2)})
    assert "profile tag nim_json_args" not in second.values()
    listed = json.loads(run(["list-model-profiles", "--format", "json"], environ).stdout)["profiles"]
    assert [each["max_model_len"] for each in listed] == [64, 512]
