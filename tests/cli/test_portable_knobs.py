"""Settings that every engine understands: written as each engine's flags, below the user's own, above the profile."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from lading.backends.members import BACKENDS
from lading.cli.commands import Session, arguments_of, whole_wish
from lading.cli.engine_choice import SpokenEngine
from lading.errors import UsageError
from lading.events import ignore
from lading.profiles.fit import Wish
from lading.profiles.options import EngineOptions
from lading.secret import Secret
from lading.settings import Settings, deprecations
from lading.settings_table import SETTINGS
from tests.backends.launches import launch_of

NEWEST = {"vllm": "0.33.0", "sglang": "0.5.23", "tensorrt_llm": "1.2.1"}
ALL = {
    "NIM_MAX_MODEL_LEN": "4096",
    "NIM_TENSOR_PARALLEL_SIZE": "2",
    "NIM_PIPELINE_PARALLEL_SIZE": "3",
    "NIM_MAX_NUM_SEQS": "8",
    "NIM_DISABLE_CUDA_GRAPH": "1",
    "NIM_TRUST_CUSTOM_CODE": "true",
    "NIM_MODEL_TOKENIZER": "/t",
    "NIM_TOKENIZER_MODE": "slow",
}
WRITTEN = {
    "vllm": "--max-model-len 4096 | --tensor-parallel-size 2 | --pipeline-parallel-size 3 | --max-num-seqs 8 | --enforce-eager | --trust-remote-code | --tokenizer /t | --tokenizer-mode slow",
    "sglang": "--context-length 4096 | --tp-size 2 | --pp-size 3 | --max-running-requests 8 | --cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled | --trust-remote-code | --tokenizer-path /t | --tokenizer-mode slow",
}


def engine(family: str, version: str | None = None) -> SpokenEngine:
    return SpokenEngine(BACKENDS[family], NEWEST[family] if version is None else version)


def arguments(family: str, environ: dict[str, str], *tokens: str) -> list[tuple[str, str]]:
    asked = arguments_of(Settings.from_env(environ), tokens, engine(family))
    return [(" ".join(each.tokens), each.origin) for each in asked]


@pytest.mark.parametrize("family", WRITTEN)
def test_every_setting_is_written_with_its_variable_as_origin(family):
    assert arguments(family, ALL) == list(zip(WRITTEN[family].split(" | "), ALL, strict=True))


def test_tensorrt_llm_takes_those_that_it_has_flags_for():
    kept = {name: value for name, value in ALL.items() if name not in ("NIM_DISABLE_CUDA_GRAPH", "NIM_TOKENIZER_MODE")}
    assert [tokens for tokens, _ in arguments("tensorrt_llm", kept)] == [
        "--max_seq_len 4096", "--tp_size 2", "--pp_size 3", "--max_batch_size 8", "--trust_remote_code", "--tokenizer /t"
    ]  # fmt: skip
    for name in set(ALL) - set(kept):
        with pytest.raises(UsageError, match=name):
            arguments("tensorrt_llm", {name: ALL[name]})


@pytest.mark.parametrize("family", NEWEST)
def test_a_switch_that_is_off_and_what_is_not_set_writes_nothing(family):
    assert arguments(family, {"NIM_DISABLE_CUDA_GRAPH": "0", "NIM_TRUST_CUSTOM_CODE": "false"}) == []


LENGTHS = {"vllm": "--max-model-len", "sglang": "--context-length", "tensorrt_llm": "--max_seq_len"}


@pytest.mark.parametrize("family", LENGTHS)
def test_command_line_wins_over_passthrough_wins_over_settings(family):
    flag = LENGTHS[family]
    environ = {"NIM_MAX_MODEL_LEN": "1", "NIM_PASSTHROUGH_ARGS": f"{flag}=2 --x 'a b'"}

    def length(*tokens: str) -> int | None:
        asked = arguments_of(Settings.from_env(environ), tokens, engine(family))
        return (
            BACKENDS[family].read_flags([token for each in asked for token in each.tokens]).wish.options.max_model_len
        )

    assert length(flag, "3") == 3
    assert length() == 2
    assert arguments(family, environ)[1] == (f"{flag}=2 --x a b", "NIM_PASSTHROUGH_ARGS")
    environ["NIM_PASSTHROUGH_ARGS"] = ""
    assert length() == 1


@pytest.fixture
def draft(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLMEagle3"]}))
    return str(tmp_path)


def test_a_draft_model_is_asked_for(draft):
    environ = {"NIM_DRAFT_MODEL_PATH": draft, "NIM_NUM_SPECULATIVE_TOKENS": "3"}
    ((tokens, origin),) = arguments("vllm", environ)
    assert origin == "NIM_DRAFT_MODEL_PATH, NIM_NUM_SPECULATIVE_TOKENS"
    assert json.loads(tokens.removeprefix("--speculative-config ")) == {"model": draft, "num_speculative_tokens": 3}
    ((tokens, _),) = arguments("sglang", environ)
    assert tokens == (
        f"--speculative-algorithm EAGLE3 --speculative-draft-model-path {draft} --speculative-num-steps 3"
        " --speculative-eagle-topk 1 --speculative-num-draft-tokens 4"
    )
    ((tokens, origin),) = arguments("vllm", {"NIM_DRAFT_MODEL_PATH": draft})
    assert (json.loads(tokens.partition(" ")[2]), origin) == ({"model": draft}, "NIM_DRAFT_MODEL_PATH")


def test_without_a_draft_model_the_models_own_layers_draft():
    ((tokens, origin),) = arguments("vllm", {"NIM_NUM_SPECULATIVE_TOKENS": "2"})
    assert origin == "NIM_NUM_SPECULATIVE_TOKENS"
    assert json.loads(tokens.partition(" ")[2]) == {"method": "mtp", "num_speculative_tokens": 2}
    with pytest.raises(UsageError, match=r"vllm 0\.10\.2 wants named"):
        arguments_of(Settings.from_env({"NIM_NUM_SPECULATIVE_TOKENS": "2"}), (), engine("vllm", "0.10.2"))


@pytest.mark.parametrize("text", [None, "{}", "[]", '{"architectures": []}', "not JSON"])
def test_a_draft_that_is_no_model_is_said(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match="NIM_DRAFT_MODEL_PATH="):
        arguments("vllm", {"NIM_DRAFT_MODEL_PATH": str(tmp_path)})


def test_the_share_of_the_gpu_is_a_wish_and_no_flag_yet():
    settings = Settings.from_env({"NIM_GPU_MEM_FRACTION": "0.7"})
    assert arguments_of(settings, (), engine("sglang")) == ()
    assert whole_wish(Wish(), Session(settings, {}, ignore)).options == EngineOptions(gpu_share=0.7)


@pytest.mark.parametrize("text", ["0", "1.1", "-1", "much", "nan"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="NIM_GPU_MEM_FRACTION"):
        Settings.from_env({"NIM_GPU_MEM_FRACTION": text})


@pytest.mark.parametrize(
    ("environ", "sentences"),
    [
        ({}, []),
        ({"NIM_GPU_MEM_FRACTION": "0.5"}, []),
        ({"NIM_KVCACHE_PERCENT": " "}, []),
        ({"NIM_KVCACHE_PERCENT": "0.5"}, ["NIM_KVCACHE_PERCENT is deprecated, a name of NIM 1.x: use NIM_GPU_MEM_FRACTION"]),
        ({"NIM_SERVER_PORT": "1", "NIM_HTTP_API_PORT": "2"}, ["NIM_HTTP_API_PORT is deprecated, a name of NIM 1.x: use NIM_SERVER_PORT; it is not read, since NIM_SERVER_PORT is set"]),
        ({"NIM_MODEL_TOKENIZER": "/t"}, ["NIM_MODEL_TOKENIZER is deprecated, a name of NIM 1.x: use the engine's own flag"]),
    ],
)  # fmt: skip
def test_each_name_of_nim_1_gets_one_line(environ, sentences):
    assert deprecations(environ) == sentences


def test_names_of_nim_1_are_read():
    environ = {"NIM_KV_CACHE_PERCENT": "0.5", "NIM_HTTP_API_PORT": "81", "NIM_MAX_BATCH_SIZE": "3"}
    settings = Settings.from_env(environ)
    assert (settings.gpu_mem_fraction, settings.server_port, settings.max_num_seqs) == (0.5, 81, 3)


@pytest.mark.parametrize("family", NEWEST)
def test_no_secret_of_the_settings_reaches_a_command_line(family):
    """Every variable that can hold a secret is set; none is in what the engine is started with."""
    secrets = {name: "https://canary" for row in SETTINGS if row.read is Secret for name in row.names}
    settings = Settings.from_env({**secrets, "NIM_MAX_MODEL_LEN": "1"})
    held = [getattr(settings, each.name) for each in fields(settings)]
    assert sum(isinstance(value, Secret) for value in held) == sum(row.read is Secret for row in SETTINGS)
    asked = arguments_of(settings, ("--seed", "1"), engine(family))
    launch = replace(launch_of(f"{family}-bf16-tp1-pp1", NEWEST[family]), user_arguments=asked)
    command = BACKENDS[family].command(launch, secrets)
    assert "--seed" in command.argv
    assert "canary" not in str((command.argv, command.arguments))
    proxies = {name for name in secrets if "proxy" in name.lower()}
    assert {name for name, value in command.environ.items() if "canary" in value} == proxies


def test_the_api_key_of_vllm_is_in_its_environment_and_not_on_its_command_line():
    command = BACKENDS["vllm"].command(launch_of("vllm-bf16-tp1-pp1", "0.33.0", "--api-key", "canary"), {})
    assert "canary" not in str((command.argv, command.arguments))
    assert command.environ["VLLM_API_KEY"] == "canary"
    several = BACKENDS["vllm"].command(launch_of("vllm-bf16-tp1-pp1", "0.33.0", "--api-key", "one", "two"), {})
    assert several.argv[-3:] == ("--api-key", "one", "two")
    assert "VLLM_API_KEY" not in several.environ


def test_json_objects_of_settings_and_flags_merge(draft):
    environ = {"NIM_DRAFT_MODEL_PATH": draft, "NIM_NUM_SPECULATIVE_TOKENS": "3"}
    ((tokens, origin),) = arguments("vllm", environ, "--speculative-config.num_speculative_tokens=5")
    assert json.loads(tokens.partition(" ")[2]) == {"model": draft, "num_speculative_tokens": 5}
    assert origin == "command line, NIM_DRAFT_MODEL_PATH, NIM_NUM_SPECULATIVE_TOKENS"
