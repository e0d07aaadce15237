"""The TensorRT-LLM member: installations as they are found, the flags it reads, the logs it understands."""

from __future__ import annotations

import pytest

from lading.backends.environment import EngineEnvironments
from lading.backends.interface import Draft
from lading.backends.tensorrt_llm import TensorrtLlmBackend, cache_share
from lading.backends.tensorrt_llm_registry import COMMAND, MODELS
from lading.errors import UsageError
from lading.events import Phase
from lading.profiles.fit import Wish
from lading.profiles.options import EngineOptions
from lading.profiles.rules import Support
from tests.backends.launches import launch_of
from tests.backends.test_sglang import executable, lines_of

BACKEND = TensorrtLlmBackend()


def test_it_is_found_by_its_program_with_classes_and_flags(tmp_path):
    script = executable(tmp_path / "local/bin/trtllm-serve")
    packages = tmp_path / "local/lib/python3.12/dist-packages"
    (packages / MODELS).mkdir(parents=True)
    (packages / COMMAND).parent.mkdir(parents=True)
    (packages / "tensorrt_llm-1.2.1.dist-info").mkdir()
    (packages / MODELS / "modeling_llama.py").write_text(
        '@register_auto_model("LlamaForCausalLM")\nclass A:\n    pass\n\n@register_auto_model(\n    "NewForCausalLM")\nclass B: ...\n'
    )
    (packages / MODELS / "modeling_bytes.py").write_bytes(b"\xff\xfe")
    (packages / COMMAND).write_text('@click.option("--tp_size",\n              "--tensor_parallel_size")\n')
    (found,) = BACKEND.installations(str(script.parent), EngineEnvironments(tmp_path / "none"))
    assert (found.version, found.argv) == ("1.2.1", (str(script),))
    assert found.architectures == {"LlamaForCausalLM", "NewForCausalLM"}
    assert found.flags == {"--tp_size", "--tensor_parallel_size"}


def test_a_program_of_no_environment_is_nothing(tmp_path):
    executable(tmp_path / "env/bin/trtllm-serve")
    assert BACKEND.installations(str(tmp_path / "env/bin"), EngineEnvironments(tmp_path / "none")) == []
    assert BACKEND.installations(str(tmp_path), EngineEnvironments(tmp_path / "none")) == []


@pytest.mark.parametrize("spelling", ["--tp_size", "--tensor_parallel_size"])
def test_the_users_flags_become_wishes(spelling):
    line = f"{spelling} 2 --max_seq_len=4096 --free_gpu_memory_fraction 0.5 --served_model_name a --port 9000"
    flags = BACKEND.read_flags(line.split())
    assert flags.wish == Wish(tp=2, options=EngineOptions(max_model_len=4096, gpu_utilization=0.5))
    assert BACKEND.read_flags(["--trust_remote_code"]).wish.any_architecture
    assert (flags.model, flags.served_names, flags.host, flags.port) == (None, ("a",), None, 9000)
    assert flags.api_key is None


def test_speculation_has_no_flag():
    with pytest.raises(UsageError, match="NIM_X asks for") as caught:
        BACKEND.speculation(Draft(None, "", 2, "NIM_X"), "1.2.1")
    assert "speculative_config" in str(caught.value.remedy)


@pytest.mark.parametrize("granted", [0.2, 0.5, 0.9])
def test_the_granted_share_of_the_gpu_holds_everything(granted):
    launch = launch_of("tensorrt_llm-bf16-tp1-pp1", "1.2.1", gpu_share=granted)
    estimate = launch.fit.estimate
    rank = estimate.binding
    free = rank.kv_pool_bytes + rank.bytes_of("reserve")
    held = rank.fixed_bytes - rank.bytes_of("reserve") + cache_share(launch) * free
    assert held == pytest.approx(granted * estimate.budget_bytes, rel=1e-4)


def test_a_share_that_holds_nothing_leaves_no_room_for_the_cache():
    assert launch_of("tensorrt_llm-bf16-tp1-pp1", "1.2.1", gpu_share=0.02).fit.verdict == "incompatible"


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("trtllm-1.1.0rc3-gpt-oss-120b", [Phase.STARTING, Phase.LOADING, Phase.WARMING]),
        ("trtllm-0.20.0-llama8b-fp8", [Phase.STARTING, Phase.LOADING, Phase.WARMING]),
        ("trtllm-1.2-small-gpu", [Phase.WARMING]),
    ],
)
def test_recorded_starts_have_their_phases_and_no_cause(name, phases):
    seen = [phase for line in lines_of(name) if (phase := BACKEND.phase_of(line))]
    assert list(dict.fromkeys(seen)) == phases
    assert BACKEND.explain(lines_of(name)) is None


def test_the_recorded_lack_of_memory_names_the_part():
    cause = BACKEND.explain(lines_of("trtllm-fail-oom-1.0.0rc3"))
    assert cause is not None
    assert "KV cache" in cause.message
    assert "NIM_GPU_MEM_FRACTION" in str(cause.remedy)


STAMP = "[07/08/2025-19:47:15] [TRT-LLM] [E] "
CAUSES = {
    "The following component could not be created: Model": ("engine: Model", "more GPUs"),
    "torch.OutOfMemoryError: CUDA out of memory. Tried": ("ran out of memory", "--max_num_tokens"),
    "ValueError: Unknown architecture for AutoModelForCausalLM: FooForCausalLM": (
        "does not run FooForCausalLM",
        "newer",
    ),
    f"{STAMP}Failed to initialize executor on rank 0: No weight files found in /ws": (
        "/ws holds no weights",
        "--backend tensorrt",
    ),
    f"{STAMP}Failed to initialize executor on rank 0: something new": ("something new", None),
    "Error: No such option: --foo": ("No such option: --foo", "underscores"),
    "RuntimeError: Failed to bind socket to 127.0.0.1:8001: [Errno 98]": ("127.0.0.1:8001 is taken", "stop"),
    "ValueError: No GPU devices found on the node": ("sees no GPU", "--gpus"),
}


@pytest.mark.parametrize("text", CAUSES, ids=lambda text: text[-40:])
def test_causes_are_found(text):
    message, remedy = CAUSES[text]
    lines = [
        "[TensorRT-LLM][WARNING] Attention workspace size is not enough, increase the size from 0 bytes",
        "[07/08/2025-19:47:14] [TRT-LLM] [W] Both free_gpu_memory_fraction and max_tokens are set: Error: no",
        "Traceback (most recent call last):",
        text,
        "RuntimeError: Executor worker returned error",
    ]
    cause = BACKEND.explain(lines)
    assert cause is not None
    assert message in cause.message
    assert remedy is None or remedy in str(cause.remedy)


def test_it_loads_no_adapters_while_it_runs(tmp_path):
    launch = launch_of("tensorrt_llm-bf16-tp1-pp1", "1.2.1")
    assert BACKEND.lora_api is None
    assert BACKEND.support(launch.installation, "LlamaForCausalLM") == Support(lora=False)
    assert BACKEND.known_architectures("1.2.1") == frozenset()
    assert BACKEND.endpoint(launch.installation, tmp_path).port
